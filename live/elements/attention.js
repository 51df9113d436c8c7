// Attention: one word asks, the others answer. Scores, mask, softmax and mixture of every head.
live.define(function attentionFigure(live) {
  "use strict";
  const { h } = live;
  const MOST = 24; // tokens that are shown
  const SHOWN = 32; // numbers of a vector that are shown

  // The weights of a head from its scores (T, T): each row is a softmax over what it may see.
  const softmaxRows = (scores, T) => Array.from({ length: T }, (_, t) => Array.from(live.softmax(scores.slice(t * T, (t + 1) * T))));

  // What is stored has no mask yet: rows (T, T) -> numbers T * T, -Infinity for what comes later.
  const masked = (rows) => rows.flatMap((row, t) => row.map((score, j) => (j > t ? -Infinity : score)));

  // What attention adds to each token's vector, by block: for a token [before, added], the first numbers
  // of each, and the lengths of both and of their sum.
  const length = (v) => Math.hypot(...v);
  function additions(steps, n_layer, C, T) {
    return Array.from({ length: n_layer }, (_, layer) => Array.from({ length: T }, (_, t) => {
      const stream = layer ? steps[layer - 1]["block out"] : steps["stream at the start"];
      const [before, added, after] = [stream, steps[layer].attention, steps[layer]["after attention"]].map(({ data }) => data.subarray(t * C, (t + 1) * C));
      return { parts: [before, added].map((v) => Array.from(v.subarray(0, SHOWN))), lengths: [before, added, after].map(length) };
    }));
  }

  // The stored ones have 8 bits a number and a scale for each token.
  const unpack = ([numbers, scales], t) => Array.from(numbers.subarray(t * SHOWN, (t + 1) * SHOWN), (v) => v * scales[t]);
  const storedAdditions = ({ added, tokens }) => added.map(({ parts, lengths }) => {
    const read = parts.map(([text, scales]) => [new Int8Array(live.bytes(text).buffer), scales]);
    return tokens.map((_, t) => ({ parts: read.map((part) => unpack(part, t)), lengths: lengths[t] }));
  });

  live.element("attention", {
    title: "Who looks at whom",
    hint: "Click a word of the sentence, then go through the heads: each looks for something else.",

    initial: ({ text, layer, head, query }) => ({ text, layer, head, query, causal: true }),

    tidy(state, { n_layer, n_head }) {
      const whole = (value, most) => Math.round(live.clamp(value, 0, most, 0));
      return {
        text: String(state.text).slice(0, 500), layer: whole(state.layer, n_layer - 1), head: whole(state.head, n_head - 1),
        query: whole(state.query, MOST - 1), causal: state.causal !== false,
      };
    },

    accept: (changes) => ("text" in changes ? { query: MOST, ...changes } : changes),

    needs: ({ text, causal }, { stored }) => (text === stored.text && causal ? "" : "model"),

    async numbers({ text, causal }, frame) {
      const { stored, engine, ready } = frame, key = JSON.stringify([text, causal, ready]);
      if (frame.kept?.key === key) return frame.kept.numbers; // the same sentence: nothing to compute
      const keep = (numbers) => (frame.kept = { key, numbers }).numbers;
      if (!ready) return keep({ tokens: stored.tokens, scores: stored.packed.map((heads) => heads.map(masked)), added: storedAdditions(stored), cut: 0 });
      const { ids, tokens } = await engine.read(text);
      const { steps } = await engine.trace(ids.slice(0, MOST), { causal }, { names: ["scores", "stream at the start", "attention", "after attention", "block out"] });
      const T = Math.min(ids.length, MOST);
      const scores = Array.from({ length: stored.n_layer }, (_, layer) => Array.from({ length: stored.n_head }, (_, head) =>
        Array.from(steps[layer].scores.data.slice(head * T * T, (head + 1) * T * T))));
      const added = stored.unmasked ? null : additions(steps, stored.n_layer, stored.n_head * stored.d_k, T); // an encoder tells its scores alone
      return keep({ tokens: tokens.slice(0, MOST), scores, added, cut: ids.length - T });
    },

    report({ text, layer, head, query, causal }, { tokens, scores, added }) {
      const asks = Math.min(query, tokens.length - 1);
      return { text, tokens, layer, head, query: asks, causal, weights: softmaxRows(scores[layer][head], tokens.length), lengths: added?.[layer][asks].lengths };
    },

    says({ layer, head, query }, { tokens, scores, cut }) {
      const T = tokens.length, asks = Math.min(query, T - 1);
      const row = softmaxRows(scores[layer][head], T)[asks], best = row.indexOf(Math.max(...row));
      return `In block ${layer}, head ${head}, “${live.visible(tokens[asks])}” takes ${live.percent(row[best])} from ` +
        `${best === asks ? "itself" : `“${live.visible(tokens[best])}”`}.` + (cut ? ` The last ${cut} tokens are left out.` : "");
    },

    build(frame) {
      const { n_layer, n_head, d_k, unmasked } = frame.stored;
      const text = h("textarea.live-input", { rows: 1, maxlength: 500, spellcheck: "false" });
      text.addEventListener("input", () => {
        clearTimeout(frame.typing);
        frame.typing = setTimeout(() => frame.change({ text: text.value, query: MOST }, { merge: "typing" }), 350);
      });
      const sentence = h("div.live-sentence", { role: "group", "aria-label": "The sentence: choose the word that asks" });
      const mask = h("input", { type: "checkbox", onchange: () => frame.change({ causal: mask.checked }) });
      const thumbs = [], grid = h("div.live-heads", { role: "group", "aria-label": "Heads", style: `--n: ${n_head}` });
      for (let layer = 0; layer < n_layer; layer++) {
        grid.append(h("span.live-muted", {}, String(layer)));
        for (let head = 0; head < n_head; head++) {
          const canvas = h("canvas");
          const button = h("button.live-head-thumb", { "aria-label": `block ${layer}, head ${head}`, title: `block ${layer}, head ${head}`, onclick: () => frame.change({ layer, head }) }, canvas);
          button.addEventListener("keydown", (event) => arrow(event, thumbs, n_head));
          thumbs.push({ layer, head, canvas, button });
          grid.append(button);
        }
      }
      const label = h("div.live-label"), table = h("div.live-steps", { role: "table", tabindex: 0, "aria-label": "From score to weight" });
      const mixture = h("div.live-mixture", { role: "img" }), sum = h("div.live-sum");
      frame.stage.append(
        h("label.live-field", {}, h("span", {}, "Your sentence"), text), sentence,
        h("div.live-attention", {},
          h("div", {}, h("div.live-label", {}, "All heads: a row for each block"), grid,
            unmasked ? null : h("label.live-choice", {}, mask, "causal mask: nobody sees what comes later")),
          h("div", {}, label, table, h("div.live-label", {}, "What it takes along: a mixture of the values"), mixture,
            unmasked ? null : h("div.live-label", {}, `What all ${n_head} heads of the block took along is added to the word's vector`), sum)));

      return ({ text: typed, layer, head, query, causal }, { tokens, scores, added }) => {
        const T = tokens.length, asks = Math.min(query, T - 1), weights = softmaxRows(scores[layer][head], T)[asks];
        if (document.activeElement !== text) text.value = typed;
        mask.checked = causal;
        const focused = [...sentence.children].indexOf(document.activeElement);
        sentence.replaceChildren(...tokens.map((token, t) => h("button.live-asker", {
          onclick: () => frame.change({ query: t }), "aria-pressed": String(t === asks),
          "aria-label": `${live.visible(token)}, ${live.percent(weights[t])}`, style: `--w: ${(100 * weights[t]).toFixed(1)}%`,
        }, live.visible(token))));
        if (focused >= 0) sentence.children[Math.min(focused, T - 1)].focus();
        for (const thumb of thumbs) {
          thumb.button.setAttribute("aria-pressed", String(thumb.layer === layer && thumb.head === head));
          paint(thumb.canvas, softmaxRows(scores[thumb.layer][thumb.head], T), asks);
        }
        label.textContent = `“${live.visible(tokens[asks])}” asks; each key answers (block ${layer}, head ${head})`;
        const row = scores[layer][head].slice(asks * T, (asks + 1) * T);
        const most = Math.max(...row.filter(Number.isFinite).map(Math.abs)) || 1;
        table.replaceChildren(
          line("columnheader", ["key", "q · k", `÷ √${d_k}`, "weight"]),
          ...tokens.map((token, t) => {
            const seen = Number.isFinite(row[t]);
            const cells = [live.visible(token), seen ? live.short(row[t] * Math.sqrt(d_k)) : "masked", seen ? live.short(row[t]) : "−∞", live.percent(weights[t])];
            return line("cell", cells, seen ? row[t] / most : 0, weights[t]);
          }));
        const parts = weights.map((w, t) => [w, t]).filter(([w]) => w > 0.005).sort((a, b) => b[0] - a[0]);
        mixture.replaceChildren(...parts.map(([w, t]) =>
          h(`span.live-hue-${t % 5}`, { style: `flex-grow: ${w}`, title: `${live.visible(tokens[t])} ${live.percent(w)}` }, w > 0.08 ? `${live.visible(tokens[t])} ${live.percent(w)}` : "")));
        if (added) sum.replaceChildren(...addition(added[layer][asks]));
        mixture.setAttribute("aria-label", parts.slice(0, 5).map(([w, t]) => `${live.percent(w)} ${live.visible(tokens[t])}`).join(", "));
      };
    },
  });

  // A row of the table; the second cell has a bar for the score, the last one for the weight.
  function line(role, [key, raw, scaled, weight], score, w) {
    const cell = (text, name, style) => h(`span${name}`, { role, style }, text);
    return h("div.live-step", { role: "row" }, cell(key, ".live-token"),
      cell(raw, score === undefined ? "" : score < 0 ? ".live-score.live-negative" : ".live-score", score === undefined ? null : `--v: ${Math.abs(100 * score).toFixed(1)}%`),
      cell(scaled, ""), cell(weight, w === undefined ? "" : ".live-weight", w === undefined ? null : `--v: ${(100 * w).toFixed(1)}%`));
  }

  // Three strips: the vector before, what is added to it, and their sum.
  function addition({ parts: [before, plus], lengths }) {
    const after = before.map((v, i) => v + plus[i]), largest = Math.max(...[...before, ...plus, ...after].map(Math.abs));
    return [["before", before], ["+ attention", plus], ["= after", after]].flatMap(([name, v], n) =>
      [h("span", {}, name), strip(v, largest), h("span.live-muted", {}, `length ${live.short(lengths[n])}`)]);
  }

  // The first numbers of a vector as cells: the stronger the colour, the larger the number.
  const strip = (v, largest) => h("span.live-strip", { role: "img", "aria-label": `the first ${v.length} numbers: ${v.slice(0, 4).map(live.short).join(", ")} …` },
    v.map((x) => h(x < 0 ? "i.live-minus" : "i", { title: live.short(x), style: `--o: ${(Math.abs(x) / largest).toFixed(3)}` })));

  // A head's weights as a small map: a row for each token that asks, a column for each key.
  function paint(canvas, weights, asks) {
    const T = weights.length, style = getComputedStyle(canvas), context = canvas.getContext("2d");
    const size = Math.max(1, Math.ceil(144 / T));
    canvas.width = canvas.height = size * T;
    context.fillStyle = style.getPropertyValue("--live-weight").trim() || "#5b4bb7";
    weights.forEach((row, t) => row.forEach((w, j) => {
      context.globalAlpha = Math.min(1, 0.06 + 0.94 * w) * (j > t && !w ? 0.25 : 1);
      context.fillRect(j * size, t * size, size - (size > 4 ? 1 : 0), size - (size > 4 ? 1 : 0));
    }));
    context.globalAlpha = 0.16; // the row of the token that asks
    context.fillStyle = style.color;
    context.fillRect(0, asks * size, size * T, size);
    context.globalAlpha = 1;
  }

  // Arrow keys move between heads.
  function arrow(event, thumbs, n_head) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -n_head, ArrowDown: n_head }[event.key];
    if (!step) return;
    event.preventDefault();
    thumbs[thumbs.findIndex(({ button }) => button === event.currentTarget) + step]?.button.focus();
  }
});
