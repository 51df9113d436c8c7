// The writer: a beginning, the ten likeliest next tokens, and the reader who chooses.
live.define(function writer(live) {
  "use strict";
  const { h } = live;

  // The stored tree holds the ten likeliest tokens for the paths that most readers try first.
  const path = (written) => written.map(([, id]) => id).join(" ");
  const stands = (state, stored) => state.prompt === stored.prompt && path(state.written) in stored.tree;
  const textOf = ({ prompt, written }) => prompt + written.map(([token]) => token).join("");
  const pairs = (list, size) => list.filter((pair) => Array.isArray(pair) && typeof pair[0] === "string" && pair[1] >= 0 && pair[1] < size);
  const MOST = 200; // tokens that a reader may let it write

  live.element("writer", {
    title: "A language model, one token at a time",
    hint: "Click a token to write it. Then go back and take another.",

    initial: ({ prompt }) => ({ prompt, written: [], branches: [], draws: true }),

    tidy: (state, { size = 50257 }) => ({
      prompt: String(state.prompt).slice(0, 2000),
      written: Array.isArray(state.written) ? pairs(state.written, size).slice(0, MOST) : [],
      branches: Array.isArray(state.branches) ? state.branches.filter((b) => Array.isArray(b) && pairs(b, size).length === b.length).slice(-4) : [],
      draws: Boolean(state.draws),
    }),

    accept: (changes) => ("text" in changes ? { ...changes, prompt: changes.text, written: [], branches: [] } : changes),

    needs: (state, { stored }) => (stands(state, stored) ? "" : "model"),

    async numbers(state, { stored, engine, ready }) {
      const text = textOf(state);
      if (stands(state, stored) && !ready) return { text, top: stored.tree[path(state.written)] };
      const { ids } = await engine.read(state.prompt);
      const all = [...ids, ...state.written.map(([, id]) => id)];
      const { top } = await engine.next(all);
      return { text: state.prompt ? await engine.decode(all) : text, top };
    },

    report: ({ prompt, written }, { text, top }) => ({ text, prompt, written, top: top.map(([token, p]) => [token, p]) }),

    says({ written }, { top }) {
      const last = written.at(-1);
      const next = `Likeliest next: “${live.visible(top[0][0])}”, ${live.percent(top[0][1])}.`;
      return last ? `“${live.visible(last[0])}” was written. ${next}` : next;
    },

    build(frame) {
      const prompt = h("textarea.live-input", { rows: 2, maxlength: 2000, spellcheck: "false" });
      prompt.addEventListener("input", () => {
        clearTimeout(frame.typing);
        frame.typing = setTimeout(() => frame.change({ prompt: prompt.value, written: [], branches: [] }), 350);
      });
      const written = h("p.live-written", { "aria-label": "What the model wrote" });
      const branches = h("div.live-branches");
      const list = h("ol.live-top", { "aria-label": "The ten likeliest next tokens" });
      const write = h("button.live-button.live-primary", { onclick: () => (frame.writing ? stop(frame) : run(frame)) }, "Let it write");
      const back = h("button.live-button", { onclick: () => goBack(frame, frame.state.written.length - 1) }, "One token back");
      const how = h("select", { onchange: () => frame.change({ draws: how.value === "draw" }) },
        h("option", { value: "draw" }, "draws, likely ones more often"), h("option", { value: "best" }, "always takes the likeliest"));
      frame.stage.append(
        h("div.live-columns", {},
          h("div", {},
            h("label.live-field", {}, h("span", {}, "The beginning: write your own"), prompt),
            h("div.live-label", {}, "How it goes on"), written,
            h("div.live-row", {}, write, back, h("label.live-choice", {}, "It ", how)),
            branches),
          h("div", {}, h("div.live-label", {}, "What could come next"), list)));
      frame.button = write;

      return (state, { top }) => {
        if (document.activeElement !== prompt || prompt.value === "") prompt.value = state.prompt;
        how.value = state.draws ? "draw" : "best";
        back.disabled = !state.written.length;
        const at = list.contains(document.activeElement) ? [...list.querySelectorAll("button")].indexOf(document.activeElement) : -1;
        list.replaceChildren(...top.map(([token, p, id]) => {
          const attributes = { onclick: () => take(frame, [token, id]), "aria-label": `write ${live.visible(token)}, ${live.percent(p)}` };
          return h("li", {}, live.bar(token, p, { scale: 1 / top[0][1], tag: "button", attributes }));
        }));
        if (at >= 0) list.querySelectorAll("button")[at]?.focus();
        const last = state.written.length - 1;
        written.replaceChildren(...state.written.map(([token], n) =>
          h(`button.live-word${n === last ? ".live-new" : ""}`, {
            onclick: () => goBack(frame, n), title: "go back to before this token",
            "aria-label": `${live.visible(token)}, go back to before it`,
          }, token.replaceAll("\n", "⏎\n"))));
        if (!state.written.length) written.append(h("span.live-muted", {}, "Nothing yet. Click a token in the list."));
        branches.replaceChildren();
        if (state.branches.length) {
          branches.append(h("div.live-label", {}, "Other branches"));
          for (const branch of state.branches)
            branches.append(h("button.live-branch", { onclick: () => swap(frame, branch) },
              "…" + branch.map(([token]) => token).join("").replaceAll("\n", " ⏎ ").slice(-70)));
        }
      };
    },

    stop,
  });

  const take = (frame, pair) => {
    stop(frame);
    return frame.change({ written: [...frame.state.written, pair] });
  };

  // Keep what is left behind as a branch, unless it is the beginning of another.
  function withBranch({ written, branches }, without = []) {
    const others = branches.filter((branch) => path(branch) !== path(without));
    const known = others.some((branch) => path(branch).startsWith(path(written)));
    return !written.length || known ? others : [...others, written].slice(-4);
  }

  function goBack(frame, n) {
    stop(frame);
    return frame.change({ written: frame.state.written.slice(0, n), branches: withBranch(frame.state) });
  }

  function swap(frame, branch) {
    stop(frame);
    return frame.change({ written: branch, branches: withBranch(frame.state, branch) });
  }

  // The next token when it writes by itself. The stored beginning follows a path that was drawn.
  function chosen(frame) {
    const { state, numbers, stored, ready } = frame, { top } = numbers;
    if (!ready && state.draws) {
      const onPath = path(stored.drawn.slice(0, state.written.length)) === path(state.written);
      const next = stored.drawn[state.written.length];
      if (onPath && next) return next;
    }
    const p = live.softmax(top.map(([, chance]) => Math.log(chance) / 0.8)); // of the ten likeliest
    const [token, , id] = top[state.draws ? live.draw(p) : 0];
    return [token, id];
  }

  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  async function run(frame) {
    const turn = (frame.writing = {});
    frame.button.textContent = "Stop";
    const before = frame.state;
    frame.mark("running");
    for (let n = 0; n < 60 && frame.writing === turn; n++) {
      const pair = chosen(frame), written = [...frame.state.written, pair];
      const isEnd = written.length >= MOST || pair[0] === "<|endoftext|>";
      await frame.change({ written }, { remember: false });
      if (isEnd || path(frame.state.written) !== path(written)) break;
      await pause(frame.ready ? 30 : 90);
    }
    if (frame.state !== before) frame.past.push(before); // one undo takes all of it back
    frame.undo.disabled = !frame.past.length;
    if (frame.writing === turn) stop(frame);
  }

  function stop(frame) {
    if (!frame.writing) return;
    frame.writing = null;
    frame.button.textContent = "Let it write";
    frame.mark(frame.ready ? "ready" : "stored");
  }
});
