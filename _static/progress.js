// Keeps in this browser, and nowhere else, which exercises are done and which questions were known.
// The build marks each with data-course-id, and lists those of all pages in course-pages.js.
(() => {
  "use strict";
  const KEY = "course-progress";
  let marks = {};

  function load() {
    try {
      marks = valid(JSON.parse(localStorage.getItem(KEY) || "{}"));
    } catch {
      marks = {}; // private mode, or a broken entry: the page works all the same
    }
  }

  function valid(read) {
    const entries = read && typeof read === "object" ? Object.entries(read) : [];
    return Object.fromEntries(entries.filter(([, value]) => ["done", "known", "not-yet"].includes(value)));
  }

  function save() {
    try {
      localStorage.setItem(KEY, JSON.stringify(marks));
    } catch {
      // kept until the page is left
    }
    refresh();
  }

  function button(text, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "course-mark";
    made.textContent = text;
    made.addEventListener("click", act);
    return made;
  }

  function toggle(text, id, value) {
    const made = button(text, () => {
      if (marks[id] === value) delete marks[id];
      else marks[id] = value;
      save();
    });
    made.dataset.mark = id;
    made.dataset.value = value;
    return made;
  }

  function addMarks() {
    for (const item of document.querySelectorAll("[data-course-id]")) {
      const id = item.dataset.courseId;
      const row = document.createElement("div");
      row.className = "course-marks";
      row.setAttribute("role", "group");
      if (item.tagName === "DETAILS") {
        row.setAttribute("aria-label", "Your answer to this question");
        row.append(toggle("Knew it", id, "known"), toggle("Not yet", id, "not-yet"));
        item.append(row);
      } else {
        row.setAttribute("aria-label", "Your progress with this exercise");
        row.append(toggle("Done", id, "done"));
        item.after(row);
      }
    }
  }

  function count(items) {
    const good = items.filter((id) => ["done", "known"].includes(marks[id])).length;
    return `${good} of ${items.length}`;
  }

  function refresh() {
    for (const mark of document.querySelectorAll("[data-mark]")) {
      mark.setAttribute("aria-pressed", String(marks[mark.dataset.mark] === mark.dataset.value));
    }
    const body = document.querySelector(".course-progress tbody");
    if (!body) return;
    body.replaceChildren(
      ...(window.coursePages || []).map(({ page, title, exercises, questions }) => {
        const row = document.createElement("tr");
        const head = document.createElement("th");
        const link = document.createElement("a");
        head.scope = "row";
        link.href = root() + page;
        link.textContent = title;
        head.append(link);
        row.append(head);
        for (const items of [exercises, questions]) {
          const cell = document.createElement("td");
          cell.textContent = items.length ? count(items) : "–";
          row.append(cell);
        }
        return row;
      })
    );
  }

  function root() {
    return document.documentElement.dataset.content_root || "./";
  }

  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(marks, null, 1)], { type: "application/json" }));
    link.download = "course-progress.json";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  async function restore(input, say) {
    try {
      const read = valid(JSON.parse(await input.files[0].text()));
      marks = { ...marks, ...read };
      save();
      say.textContent = `${Object.keys(read).length} marks were read.`;
    } catch {
      say.textContent = "This file holds no progress: choose one that was saved here.";
    }
    input.value = "";
  }

  function addPanel() {
    const article = document.querySelector(".bd-article");
    if (!article || !(document.querySelector("[data-course-id]") || isIndex())) return;
    const panel = document.createElement("details");
    panel.className = "course-progress";
    panel.open = isIndex();
    panel.innerHTML =
      "<summary>Your progress</summary><p>Kept in this browser and sent nowhere.</p>" +
      '<div class="course-progress-table"><table><thead><tr><th scope="col">Page</th><th scope="col">Exercises done</th>' +
      '<th scope="col">Questions known</th></tr></thead><tbody></tbody></table></div>' +
      '<div class="course-marks"></div><p role="status"></p>';
    const tools = panel.querySelector(".course-marks");
    const say = panel.querySelector("[role=status]");
    const input = document.createElement("input");
    input.type = "file";
    input.accept = "application/json,.json";
    input.hidden = true;
    input.addEventListener("change", () => restore(input, say));
    const erase = button("Erase", () => {
      sure.hidden = !sure.hidden;
    });
    const sure = button("Yes, erase all marks", () => {
      marks = {};
      sure.hidden = true;
      erase.focus();
      say.textContent = "All marks are erased.";
      save();
    });
    sure.hidden = true;
    tools.append(button("Save as a file", download), button("Read a file", () => input.click()), input, erase, sure);
    article.append(panel);
  }

  function isIndex() {
    return Boolean(document.querySelector(".lm-path"));
  }

  document.addEventListener("DOMContentLoaded", () => {
    load();
    addMarks();
    addPanel();
    refresh();
    if (!document.querySelector(".course-progress")) return;
    const script = document.createElement("script");
    script.src = root() + "_static/course-pages.js";
    script.addEventListener("load", refresh);
    document.head.append(script);
  });
  window.addEventListener("storage", (event) => {
    if (event.key !== KEY) return;
    load();
    refresh();
  });
})();
