// Vectors: the nearest words of a word, a map to walk on, and sums of words.
// What is stored: words and their places; `some`, the rows of those words that the first picture names.
// The rows of all come when the reader asks for another word.
live.define(function vectorsFigure(live) {
  "use strict";
  const { h, s } = live;
  const SHOWN = 8; // words in a list
  const ZOOMS = 4; // how often the map can be doubled
  const TRIES = [["king", "man", "woman"], ["paris", "france", "italy"], ["dogs", "dog", "cat"], ["doctor", "man", "woman"], ["hot", "cold", "small"]];
  const FIELDS = { a: "a, where the sum begins", b: "b, taken away", c: "c, added" };
  const CONTROLS = ["word", ...Object.keys(FIELDS)];

  function dot(x, y) {
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += x[i] * y[i];
    return sum;
  }
  const mix = (x, f, y) => x.map((v, i) => v + f * y[i]);
  const unit = (x) => x.map((v) => v / Math.sqrt(dot(x, x)));

  // Rows of 8-bit numbers, each with its scale, as a map from a word's number to its vector.
  function rowsOf({ ids, rows, scales }, n) {
    const numbers = new Int8Array(live.bytes(rows).buffer), sizes = new Float32Array(live.bytes(scales).buffer), d = numbers.length / sizes.length;
    const vector = (k) => Array.from(numbers.subarray(k * d, (k + 1) * d), (v) => v * sizes[k]);
    return new Map((ids ?? Array.from({ length: n }, (_, i) => i)).map((id, k) => [id, vector(k)]));
  }

  // All that a page knows of the words, unpacked once.
  function unpack(stored) {
    const words = stored.words.split(" "), places = new Uint16Array(live.bytes(stored.map).buffer);
    return {
      words, number: new Map(words.map((word, i) => [word, i])), some: rowsOf(stored.some),
      places: words.map((_, i) => [places[2 * i] / 65535, places[2 * i + 1] / 65535]),
    };
  }
  function bookOf(frame) {
    frame.book ??= unpack(frame.stored);
    if (frame.loaded) frame.book.all ??= rowsOf(frame.loaded, frame.book.words.length);
    return frame.book;
  }

  // Words with their cosines to a vector, the largest first: [[word, cosine, number], …].
  function nearest(vector, rows, words) {
    const toward = unit(vector);
    return [...rows].map(([id, row]) => [words[id], dot(row, toward) / Math.sqrt(dot(row, row)), id]).sort((x, y) => y[1] - x[1]);
  }

  // How many letters to add, drop, change or swap with their neighbour to make one word of the other.
  function edits(one, other) {
    const rows = [Array.from({ length: other.length + 1 }, (_, j) => j)];
    for (let i = 1; i <= one.length; i++) {
      rows.push([i]);
      for (let j = 1; j <= other.length; j++) {
        const same = one[i - 1] === other[j - 1] ? 0 : 1;
        rows[i][j] = Math.min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + same);
        if (i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1]) rows[i][j] = Math.min(rows[i][j], rows[i - 2][j - 2] + 1);
      }
    }
    return rows.at(-1).at(-1);
  }

  // Up to four words that are spelled nearly so, the most similar first and of these the commonest.
  function similar(word, words) {
    if (!word) return [];
    const most = word.length < 5 ? 1 : 2;
    const close = words.filter((other) => Math.abs(other.length - word.length) <= most).map((other) => [edits(word, other), other]).filter(([n]) => n <= most).sort((x, y) => x[0] - y[0]);
    const begin = words.filter((other) => word.length > 2 && other.startsWith(word.slice(0, Math.max(3, word.length - 3))));
    return [...new Set([...close.map(([, other]) => other), ...begin])].slice(0, 4);
  }

  const clean = (word) => String(word).trim().toLowerCase().slice(0, 40);
  const stays = (state, { word, a, b, c }) => state.word === word && state.a === a && state.b === b && state.c === c;
  const lacks = ({ word, close }) => `${word ? `“${word}” is not among the words here.` : "A word is missing."} ${close.length ? "Did you mean" : "They are single, common English words."}`;
  const short = (cosine) => cosine.toFixed(3).replace("-", "−");

  live.element("vectors", {
    title: "Neighbours and sums of words",
    hint: "Let the three words be answers too: what is king − man + woman then?",
    loads: "more",

    initial: ({ word, a, b, c }) => ({ word, a, b, c, forbid: true, zoom: 0 }),

    tidy: ({ word, a, b, c, forbid, zoom }) => ({
      word: clean(word), a: clean(a), b: clean(b), c: clean(c), forbid: forbid !== false, zoom: Math.round(live.clamp(zoom, 0, ZOOMS, 0)),
    }),

    needs: (state, { stored }) => (stays(state, stored) ? "" : "more"),

    async numbers(state, frame) {
      const book = bookOf(frame), rows = book.all ?? book.some, { words, number } = book;
      const row = (word) => rows.get(number.get(word)), inputs = [state.a, state.b, state.c];
      const absent = CONTROLS.filter((key) => !number.has(state[key])).map((key) => ({ key, word: state[key], close: similar(state[key], words) }));
      const near = row(state.word) ? nearest(row(state.word), rows, words).filter(([word]) => word !== state.word).slice(0, SHOWN) : [];
      if (!inputs.every(row)) return { near, absent, found: [], top: [] };
      const [a, b, c] = inputs.map(row), sum = mix(mix(a, -1, b), 1, c);
      const all = nearest(sum, rows, words), allowed = ([word]) => !state.forbid || !inputs.includes(word);
      const top = all.filter(allowed).slice(0, SHOWN), last = all.indexOf(top.at(-1));
      return { near, absent, top, found: all.slice(0, last + 1), plane: plane({ a, b, c, sum }, top.filter(([word]) => !inputs.includes(word)).slice(0, 3).map(([word, , id]) => [word, rows.get(id)])) };
    },

    report: (state, { near, top }) => ({ ...state, near: near.map(([word, cosine]) => [word, cosine]), top: top.map(([word, cosine]) => [word, cosine]) }),

    says(state, { near, absent, top, found }) {
      const told = absent.map((one) => lacks(one) + (one.close.length ? ` ${one.close.join(", ")}?` : ""));
      if (near.length) told.push(`Nearest to ${state.word}: ${near.slice(0, 3).map(([word]) => word).join(", ")}.`);
      if (!top.length) return told.join(" ");
      const [first] = found, [answer] = top, of = ([word, cosine]) => `${word} (${short(cosine)})`;
      const start = `${state.a} − ${state.b} + ${state.c} lies nearest to ${of(first)}`;
      const rest = first !== answer ? `, which is one of the three; with these forbidden the answer is ${of(answer)}`
        : [state.a, state.b, state.c].includes(first[0]) ? ", which is one of the three" : "";
      return [...told, `${start}${rest}.`].join(" ");
    },

    build(frame) {
      const book = bookOf(frame);
      const list = h("datalist", { id: "live-words" });
      const field = (key, label) => {
        const input = h("input.live-input.live-term", { list: "live-words", "aria-label": label, autocomplete: "off", autocapitalize: "none", spellcheck: "false", maxlength: 40 });
        const set = (merge) => { if (clean(input.value) !== frame.state[key]) frame.change({ [key]: input.value }, { merge }); };
        input.addEventListener("focus", () => { if (!list.firstChild) list.append(...[...book.words].sort().map((value) => h("option", { value }))); });
        input.addEventListener("input", () => { if (book.number.has(clean(input.value))) set(key); });
        input.addEventListener("change", () => { input.value = clean(input.value); set(); });
        return input;
      };
      const inputs = Object.fromEntries([["word", field("word", "Word to look up")], ...Object.entries(FIELDS).map(([key, label]) => [key, field(key, label)])]);
      const missing = Object.fromEntries(["word", "sum"].map((part) => [part, h("div.live-missing")]));
      const nearby = h("ol.live-top"), nearLabel = h("div.live-label");
      const answers = h("ol.live-top"), answer = h("strong.live-answer"), shape = h("div"), shapeLabel = h("div.live-label"), sumLabel = h("div.live-label");
      const zoom = live.slider("Closer", { min: 0, max: ZOOMS, show: (v) => `× ${2 ** v}`, onchange: (value) => frame.change({ zoom: value }, { merge: "zoom" }) });
      const forbid = h("input", { type: "checkbox", onchange: () => frame.change({ forbid: forbid.checked }) });
      const look = (word) => frame.change({ word });
      const map = mapOf(frame, look);
      const tries = TRIES.map(([a, b, c]) => live.press(`${a} − ${b} + ${c}`, () => frame.change({ a, b, c })));
      frame.stage.append(list,
        h("div.live-row", {}, h("label.live-choice", {}, "A word ", inputs.word), h("span.live-muted", {}, `one of ${book.words.length.toLocaleString("en")} common ones; or click on the map`)), missing.word,
        h("div.live-columns.live-vectors", {}, h("div", {}, nearLabel, nearby), h("div", {}, map.node, zoom.node)),
        h("div.live-panel", {},
          h("div.live-row.live-sum", { role: "group", "aria-label": "The sum a − b + c" }, inputs.a, "−", inputs.b, "+", inputs.c, h("span", {}, "≈ ", answer)), missing.sum,
          h("div.live-row", {}, h("label.live-choice", {}, forbid, " the three words may not be the answer")),
          h("div.live-columns", {}, h("div", {}, sumLabel, answers), h("div", {}, shapeLabel, shape)),
          h("div.live-row", {}, h("span.live-muted", {}, "Try"), tries)));

      return (state, { near, absent, found, top, plane: flat }) => {
        for (const key of CONTROLS) if (document.activeElement !== inputs[key]) inputs[key].value = state[key];
        for (const [part, node] of Object.entries(missing)) node.replaceChildren(...absent.filter(({ key }) => (key === "word") === (part === "word")).map(ask));
        nearLabel.textContent = near.length ? `Nearest to ${state.word}, by cosine (1: the same direction)` : "";
        nearby.replaceChildren(...near.map(([word, cosine]) => row(word, cosine, look)));
        const three = [state.a, state.b, state.c];
        sumLabel.textContent = top.length ? `Nearest to ${three[0]} − ${three[1]} + ${three[2]}, by cosine` : "";
        answer.textContent = top[0]?.[0] ?? "?";
        forbid.checked = state.forbid;
        answers.replaceChildren(...found.map(([word, cosine]) => row(word, cosine, look, three.includes(word) && (state.forbid ? "forbidden" : "asked"), word === top[0][0])));
        shapeLabel.textContent = flat ? `The step from ${state.b} to ${state.c}, taken from ${state.a}: the plane of the four, with other words as shadows on it` : "";
        shape.replaceChildren(...(flat ? [shapeOf(flat, state)] : []));
        zoom.set(state.zoom);
        map.draw(state, near);
      };

      // What is said where a word is not among these, with words that are spelled nearly so.
      function ask({ key, word, close }) {
        return h("div.live-row", {}, h("span", {}, lacks({ word, close }), close.length ? " …" : ""), close.map((other) => live.press(other, () => frame.change({ [key]: other }))));
      }
    },
  });

  // A row of a list; one of the three words is marked.
  function row(word, cosine, look, mark, first) {
    const named = `${word}, cosine ${short(cosine)}${mark ? `, one of the three${mark === "forbidden" ? " and forbidden" : ""}` : ""}: look it up`;
    const bar = live.bar(word, Math.max(0, cosine), { tag: "button", note: short(cosine), attributes: { type: "button", onclick: () => look(word), "aria-label": named } });
    if (mark) bar.classList.add(`live-${mark}`);
    if (first) bar.classList.add("live-first");
    return h("li", {}, bar);
  }

  // ---- The map ----

  const wide = (text) => 6.4 * text.length + 6; // px of a label, about

  // Whether a box is free; if so, it is taken.
  function room(taken, x, y, text) {
    const box = [x - wide(text) / 2, y - 13, x + wide(text) / 2, y + 3];
    if (taken.some(([left, top, right, bottom]) => box[0] < right && box[2] > left && box[1] < bottom && box[3] > top)) return false;
    taken.push(box);
    return true;
  }

  function mapOf(frame, look) {
    const { words, places, number } = bookOf(frame);
    const dots = s("path", { class: "live-dots" }), marks = s("g"), hover = s("g", { class: "live-under" });
    const node = s("svg", { class: "live-words", tabindex: 0, role: "application", "aria-label": "Map of the words. Arrow keys go from word to word, Enter looks one up." }, dots, marks, hover);
    let size = [0, 0], seen = [], at = null, drawn = null;

    // Where the label of a word goes that stands at x and y: above it, unless that is outside.
    const beside = (i, x, y) => [Math.min(Math.max(x, wide(words[i]) / 2), size[0] - wide(words[i]) / 2), y < 20 ? y + 18 : y - 6];

    function draw(state, near) {
      drawn = [state, near];
      const width = node.clientWidth || 480, height = node.clientHeight || 0.8 * width;
      size = [width, height];
      node.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const chosen = number.get(state.word), share = 1 / 2 ** state.zoom;
      const [left, top] = (places[chosen] ?? [0.5, 0.5]).map((v) => Math.min(Math.max(v - share / 2, 0), 1 - share));
      const place = ([x, y]) => [12 + ((x - left) / share) * (width - 24), 16 + ((y - top) / share) * (height - 28)];
      seen = places.map((p, i) => [i, ...place(p)]).filter(([, x, y]) => x > 0 && y > 0 && x < width && y < height);
      dots.style.strokeWidth = 2.5 + 0.5 * state.zoom;
      dots.setAttribute("d", seen.map(([, x, y]) => `M${x.toFixed(1)} ${y.toFixed(1)}h0`).join(""));
      const close = near.map(([, , id]) => id), first = [chosen, ...close].filter((i) => i !== undefined), taken = [];
      const order = [...first.map((i) => seen.find(([j]) => j === i)).filter(Boolean), ...seen.filter(([i]) => !first.includes(i))];
      marks.replaceChildren(...order.slice(0, 900).flatMap(([i, x, y]) => {
        const kind = i === chosen ? "live-chosen" : close.includes(i) ? "live-near" : "", [u, v] = beside(i, x, y);
        return [
          kind && s("circle", { cx: x, cy: y, r: i === chosen ? 5 : 3.5, class: kind }),
          room(taken, u, v, words[i]) && s("text", { x: u, y: v, class: kind }, words[i]),
        ].filter(Boolean);
      }));
      point(document.activeElement === node ? here() : null);
    }

    // Where the chosen word stands, for the cursor to begin.
    const here = () => seen.find(([i]) => words[i] === drawn[0].word) ?? seen[0];

    // Show the label of a word under the pointer or the cursor, with its cosine to the chosen one.
    function point(found) {
      at = found;
      if (!found) return hover.replaceChildren();
      const [i, x, y] = found, [u, v] = beside(i, x, y);
      const all = bookOf(frame).all ?? bookOf(frame).some, [one, other] = [all.get(number.get(drawn[0].word)), all.get(i)];
      const cosine = one && other ? ` ${short(dot(unit(one), unit(other)))}` : "";
      hover.replaceChildren(s("circle", { cx: x, cy: y, r: 5 }), s("text", { x: u, y: v }, words[i] + cosine));
      return words[i] + (cosine && `, cosine${cosine} with ${drawn[0].word}`);
    }

    // The word that is drawn nearest to a place, if it is near enough to be meant.
    function under(event, reach) {
      const box = node.getBoundingClientRect(), [px, py] = [event.clientX - box.left, event.clientY - box.top];
      const far = ([, x, y]) => Math.hypot(x - px, y - py);
      const best = seen.reduce((b, p) => (!b || far(p) < far(b) ? p : b), null);
      return best && far(best) < reach ? best : null;
    }

    const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    function walk([dx, dy]) {
      const [, x, y] = at;
      const cost = ([, u, v]) => { const along = (u - x) * dx + (v - y) * dy; return along > 1 ? along + 2 * Math.abs((u - x) * dy + (v - y) * dx) : Infinity; };
      return seen.reduce((b, p) => (cost(p) < cost(b) ? p : b), at);
    }

    node.addEventListener("pointermove", (event) => point(under(event, 24)));
    node.addEventListener("pointerleave", () => point(null));
    node.addEventListener("click", (event) => { const found = under(event, 30); if (found) look(words[found[0]]); });
    node.addEventListener("focus", () => { if (!at) point(here()); });
    node.addEventListener("blur", () => point(null));
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && at) look(words[at[0]]);
      if (!(event.key in KEYS) || !at) return;
      event.preventDefault();
      frame.said.textContent = point(walk(KEYS[event.key]));
    });
    new ResizeObserver(() => { if (drawn && node.clientWidth !== size[0]) draw(...drawn); }).observe(node);
    return { node, draw };
  }

  // ---- The plane of the sum ----

  // Places of the three words and their sum in the one plane that holds them, and others projected
  // onto it: the step from b to c runs to the right.
  function plane({ a, b, c, sum }, others) {
    const axes = [];
    for (const way of [mix(c, -1, b), mix(a, -1, b), ...others.map(([, row]) => mix(row, -1, b))]) {
      const rest = axes.reduce((r, axis) => mix(r, -dot(r, axis), axis), way);
      if (axes.length < 2 && dot(rest, rest) > 1e-9) axes.push(unit(rest));
    }
    const at = (row) => axes.map((axis) => dot(mix(row, -1, b), axis));
    return { a: at(a), b: at(b), c: at(c), sum: at(sum), others: others.map(([word, row]) => [word, at(row)]) };
  }

  function shapeOf({ a, b, c, sum, others }, state) {
    const all = [a, b, c, sum, ...others.map(([, p]) => p)], W = 320, H = 230;
    const [low, high] = [0, 1].map((k) => all.map((p) => p[k])).map((v) => [Math.min(...v), Math.max(...v)]).reduce(([l, g], [x, y]) => [[...l, x], [...g, y]], [[], []]);
    const scale = Math.min((W - 90) / (high[0] - low[0] || 1), (H - 60) / (high[1] - low[1] || 1));
    const put = ([x, y]) => [W / 2 + (x - (low[0] + high[0]) / 2) * scale, H / 2 - (y - (low[1] + high[1]) / 2) * scale];
    const line = (from, to, name) => { const [[x1, y1], [x2, y2]] = [put(from), put(to)]; return s("line", { x1, y1, x2, y2, class: name, ...(name === "live-step" && { "marker-end": "url(#live-tip)" }) }); };
    const taken = [];
    const named = (p, text, name) => {
      const [x, y] = put(p), half = wide(text) / 2;
      const spot = [[0, -8], [0, 19], [half + 6, 4], [-half - 6, 4], [half, -10], [-half, -10], [half, 20], [-half, 20]].map(([u, v]) => [Math.min(Math.max(x + u, half), W - half), y + v]).find(([u, v]) => room(taken, u, v, text));
      return s("g", { class: name }, s("circle", { cx: x, cy: y, r: 4 }), spot && s("text", { x: spot[0], y: spot[1] }, text));
    };
    for (const p of all) { const [x, y] = put(p); taken.push([x - 5, y - 5, x + 5, y + 5]); }
    return s("svg", { viewBox: `0 0 ${W} ${H}`, class: "live-plane", role: "img", "aria-label": `The step from ${state.b} to ${state.c}, begun at ${state.a}, ends at the sum` },
      s("defs", {}, s("marker", { id: "live-tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, s("path", { d: "M0 0L8 4L0 8z", class: "live-tip" }))),
      line(b, a, "live-side"), line(c, sum, "live-side"), line(b, c, "live-step"), line(a, sum, "live-step"),
      named(sum, "the sum", "live-target"), named(a, state.a, "live-three"), named(b, state.b, "live-three"), named(c, state.c, "live-three"),
      others.map(([word, p], i) => named(p, word, i ? "live-other" : "live-other live-first")));
  }
});
