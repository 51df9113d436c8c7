// One set of weights, three masks: who may look at whom, and what that does to the predictions. A
// prefix of p lets all see the first p tokens; 1 is the causal mask, all tokens the full mask.
live.define(function masksFigure(live) {
  "use strict";
  const { h, s } = live;
  const MOST = 16; // tokens that are shown
  const MASKS = { causal: "causal", full: "full", prefix: "prefix" };

  const openTo = ({ mask, prefix }, T) => (mask === "causal" ? 1 : mask === "full" ? T : Math.min(prefix, T));
  const mean = (list) => (list.length ? list.reduce((sum, value) => sum + value, 0) / list.length : null);
  const nats = (value) => (value === null ? "–" : value.toFixed(2));
  const quoted = (token) => `“${live.visible(token)}”`;

  // ---- Where the numbers come from: by length of the prefix {losses, tops, weights}, and the losses
  // under the full mask if the text is cut at each place ----

  function unpack({ losses, tops, weights }, { tokens: { length: T }, n_layer, n_head }) {
    const bytes = live.bytes(weights), size = n_head * T * T;
    return { losses, tops, weights: Array.from({ length: n_layer }, (_, layer) => Float32Array.from(bytes.subarray(layer * size, (layer + 1) * size), (v) => v / 255)) };
  }

  async function read(text, { stored, engine, ready, said }) {
    if (!ready) return { tokens: stored.tokens, cut: stored.cut, left: 0, masks: {}, at: async (p) => unpack(stored.masks[p - 1], stored) };
    said.textContent = "The model reads the sentence under each mask …";
    const { ids: all, tokens } = await engine.encode(text || "<|endoftext|>"), ids = all.slice(0, MOST), cut = [];
    for (let t = 0; t + 1 < ids.length; t++) {
      const { logits } = await engine.next(ids.slice(0, t + 1), { edits: { causal: false }, logits: true });
      cut.push(-Math.log(live.softmax(logits)[ids[t + 1]]));
    }
    const edits = (p) => (p === ids.length ? { causal: false } : { prefix: p });
    return { tokens: tokens.slice(0, MOST), cut, left: all.length - ids.length, masks: {}, at: (p) => engine.places(ids, { edits: edits(p), top: 5 }) };
  }

  // A mask's mean losses: with the sentence in view, and with the token that follows each place hidden.
  function losses({ masks, cut }, p) {
    const seen = masks[p].losses;
    return { seen: mean(seen), hidden: mean(seen.map((loss, t) => (t + 1 < p ? cut[t] : loss))) };
  }

  // The weights (T, T) that are drawn: one head's, or the mean of a block's or of all.
  function shownWeights({ layer, head }, { weights }, T) {
    const out = new Float32Array(T * T), layers = layer < 0 ? weights : [weights[layer]], n_head = weights[0].length / (T * T);
    const heads = head < 0 ? Array.from({ length: n_head }, (_, n) => n) : [head];
    for (const block of layers) for (const n of heads)
      for (let i = 0; i < T * T; i++) out[i] += block[n * T * T + i] / (layers.length * heads.length);
    return out;
  }

  live.element("masks", {
    title: "One set of weights, three masks",
    hint: "Choose the full mask: every place now sees the word that it has to guess. Watch the two losses.",

    initial: ({ text, prefix, place }) => ({ text, mask: "causal", prefix, place, layer: -1, head: -1 }),

    tidy(state, { n_layer, n_head, prefix }) {
      const whole = (value, low, high, otherwise) => Math.round(live.clamp(value, low, high, otherwise));
      const layer = whole(state.layer, -1, n_layer - 1, -1);
      return {
        text: String(state.text).slice(0, 300), mask: Object.hasOwn(MASKS, state.mask) ? state.mask : "causal",
        prefix: whole(state.prefix, 1, MOST, prefix), place: whole(state.place, 0, MOST - 1, 0),
        layer, head: layer < 0 ? -1 : whole(state.head, -1, n_head - 1, -1),
      };
    },

    needs: ({ text }, { stored }) => (text === stored.text ? "" : "model"),

    async numbers(state, frame) {
      const key = `${state.text}\n${frame.ready}`;
      const kept = frame.kept?.key === key ? frame.kept : { key, ...(await read(state.text, frame)) };
      const T = kept.tokens.length, prefix = Math.min(state.prefix, T);
      for (const p of [1, T, prefix]) kept.masks[p] ??= await kept.at(p);
      frame.kept = kept;
      const p = openTo(state, T), place = Math.min(state.place, T - 1);
      const means = { causal: losses(kept, 1), full: losses(kept, T), prefix: losses(kept, prefix) };
      return { ...kept, T, p, place, prefix, means, now: kept.masks[p], causal: kept.masks[1], drawn: shownWeights(state, kept.masks[p], T) };
    },

    report({ text, mask, layer, head }, { tokens, T, place, prefix, means, now, drawn }) {
      const rows = Array.from({ length: T }, (_, t) => Array.from(drawn.subarray(t * T, (t + 1) * T)));
      return { text, tokens, mask, prefix, place, layer, head, means, losses: now.losses, top: now.tops[T - 1], top_at_place: now.tops[place], weights: rows };
    },

    says({ mask }, { T, p, prefix, means, left }) {
      const rest = left ? ` The last ${left} tokens are left out.` : "";
      if (T === 1) return "With one token there is nobody else to look at: all masks are the same.";
      if (p === 1) return `${mask === "prefix" ? "A prefix of 1 is the causal mask" : "Causal mask"}: no place sees what comes later, so both losses are the same, ${nats(means.causal.seen)}.${rest}`;
      const { seen, hidden } = means[mask], before = means.causal.seen, answers = Math.min(p, T) - 1;
      return `${mask === "full" ? "Full mask" : `Prefix of ${prefix}`}: ${answers} of ${T - 1} places see the token that they should predict. The loss ${seen < before ? "falls" : "rises"} from ${nats(before)} to ${nats(seen)}. ` +
        `With that token hidden it is ${nats(hidden)}, ${hidden > before ? "worse" : "better"} than with the causal mask${seen < before && before < hidden ? ": the gain was read off, not foreseen" : ""}.${rest}`;
    },

    build,
  });

  // ---- Drawing ----

  function build(frame) {
    const { n_layer, n_head } = frame.stored, range = (n) => Array.from({ length: n }, (_, k) => k);
    const text = h("textarea.live-input", { rows: 1, maxlength: 300, spellcheck: "false" });
    text.addEventListener("input", () => {
      clearTimeout(frame.typing);
      frame.typing = setTimeout(() => frame.change({ text: text.value }, { merge: "typing" }), 350);
    });
    const masks = Object.entries(MASKS).map(([mask, label]) => [mask, live.press(label, () => frame.change({ mask }))]);
    const prefix = live.slider("prefix length", { min: 1, max: MOST, onchange: (value) => frame.change({ mask: "prefix", prefix: value }, { merge: "prefix" }) });
    const places = h("div.live-sentence", { role: "group", "aria-label": "The sentence: choose a place" });
    const heads = h("select", { "aria-label": "Whose attention weights", onchange: () => { const [layer, head] = heads.value.split(" ").map(Number); frame.change({ layer, head }); } },
      h("option", { value: "-1 -1" }, "the mean of all heads"),
      range(n_layer).map((layer) => h("optgroup", { label: `block ${layer}` }, h("option", { value: `${layer} -1` }, `block ${layer}, mean of its heads`),
        range(n_head).map((head) => h("option", { value: `${layer} ${head}` }, `block ${layer}, head ${head}`)))));
    const mask = h("div"), weights = h("div"), table = h("div.live-losses"), middle = h("div"), last = h("div");
    frame.stage.append(
      h("label.live-field", {}, h("span", {}, "Your sentence"), text),
      h("div.live-masks-row", {}, h("div.live-row", { role: "group", "aria-label": "The mask" }, masks.map(([, button]) => button)), prefix.node),
      h("div.live-columns", {},
        h("div", {}, h("div.live-label", {}, "The mask: who (row) may look at whom (column). A click on a column’s name ends the prefix there."), mask,
          h("div.live-label.live-legend", {}, h("span.live-back", {}), "itself and before ", h("span.live-ahead", {}), "later ", h("span.live-answer", {}), "the answer")),
        h("div", {}, table, last),
        h("div", {}, h("label.live-choice", {}, "Attention weights: ", heads), weights),
        h("div", {}, h("div.live-label", {}, "Choose a place in the sentence"), places, middle)));

    return (state, numbers) => {
      const { tokens, T, place, p } = numbers;
      if (document.activeElement !== text) text.value = state.text;
      for (const [name, button] of masks) button.setAttribute("aria-pressed", String(name === state.mask));
      prefix.input.max = T;
      prefix.set(numbers.prefix);
      heads.value = `${state.layer} ${state.head}`;
      const focused = [...places.children].indexOf(document.activeElement);
      places.replaceChildren(...tokens.map((token, t) => h("button.live-place", { "aria-pressed": String(t === place), onclick: () => frame.change({ place: t }) }, live.visible(token))));
      if (focused >= 0) places.children[Math.min(focused, T - 1)].focus();
      mask.replaceChildren(grid(frame, numbers, `The ${state.mask} mask: each token sees ${p === 1 ? "itself and those before it" : p === T ? "all tokens" : `the first ${p}, itself and those before it`}`,
        (t, j) => (j <= t ? ["live-back", 1, "may look"] : j < p ? ["live-ahead", 1, "may look"] : ["live-none", 1, "masked"]), true));
      const row = Array.from(numbers.drawn.subarray(place * T, (place + 1) * T)), best = row.indexOf(Math.max(...row));
      weights.replaceChildren(grid(frame, numbers, `Attention weights: ${quoted(tokens[place])} takes most, ${live.percent(row[best])}, from ${quoted(tokens[best])}`,
        (t, j) => (j > t && j >= p ? ["live-none", 1, "masked"] : [j <= t ? "live-back" : "live-ahead", 0.04 + 0.96 * Math.sqrt(numbers.drawn[t * T + j]), live.percent(numbers.drawn[t * T + j])]), false),
        h("div.live-label", {}, "Full colour is a weight of 100%, half of it 25%."));
      table.replaceChildren(lossTable(state, numbers));
      middle.replaceChildren(...expectation(state, numbers, place, 5));
      last.replaceChildren(...expectation(state, numbers, T - 1, 3));
    };
  }

  // Rows look at columns; a cell is [class, opacity, what it says]. A click on a row chooses its place,
  // on a column's head the prefix up to there.
  function grid(frame, { tokens, T, place, p }, label, cell, isMask) {
    const left = 70, top = 62, size = Math.min(26, 232 / T), end = size * T;
    const short = (token) => { const name = live.visible(token); return name.length > 9 ? `${name.slice(0, 8)}…` : name; };
    const svg = s("svg", { viewBox: `0 0 330 ${top + end + 4}`, class: "live-mask", role: "img", "aria-label": label });
    svg.append(s("rect", { x: 0, y: top + place * size, width: left, height: size, class: "live-here-row" }));
    for (let t = 0; t < T; t++) {
      const middle = (t + 0.5) * size;
      const head = s("text", { transform: `translate(${left + middle + 4} ${top - 5}) rotate(-60)`, class: isMask ? "live-column" : "" }, short(tokens[t]));
      if (isMask) head.addEventListener("click", () => frame.change({ mask: "prefix", prefix: t + 1 }));
      const row = s("g", { class: t === place ? "live-chosen" : "", onclick: () => frame.change({ place: t }) },
        s("text", { x: left - 5, y: top + middle + 4, "text-anchor": "end" }, short(tokens[t])));
      for (let j = 0; j < T; j++) {
        const [name, opacity, said] = cell(t, j), isAnswer = isMask && j === t + 1 && j < p;
        row.append(s("rect", { x: left + j * size + 0.5, y: top + t * size + 0.5, width: size - 1, height: size - 1, class: name, opacity: opacity.toFixed(3) },
          s("title", {}, `${live.visible(tokens[t])} → ${live.visible(tokens[j])}: ${said}${isAnswer ? ", its answer" : ""}`)));
        if (isAnswer) row.append(s("circle", { cx: left + (j + 0.5) * size, cy: top + middle, r: size / 5, class: "live-answer" }));
      }
      svg.append(head, row);
    }
    return svg;
  }

  function lossTable({ mask }, { T, prefix, means }) {
    const most = Math.max(...Object.values(means).flatMap(({ seen, hidden }) => [seen, hidden]));
    const cell = (value) => h("td", { style: `--v: ${most ? ((100 * value) / most).toFixed(1) : 0}%` }, nats(value));
    const name = { causal: "causal", full: "full", prefix: `prefix of ${prefix}` };
    return h("table", {},
      h("caption.live-label", {}, "Mean loss in nats a token: the lower, the better"),
      h("thead", {}, h("tr", {}, ["mask", "the sentence in view", "the next token hidden"].map((label) => h("th", { scope: "col" }, label)))),
      h("tbody", {}, Object.entries(means).map(([kind, { seen, hidden }]) =>
        h("tr", { class: kind === mask ? "live-chosen" : null }, h("th", { scope: "row" }, name[kind]), cell(seen), cell(hidden)))),
      h("tfoot", {}, h("tr", {}, h("td.live-label", { colspan: 3 }, "Hidden: the sentence ends at each place in turn, as it does while the model writes. With the causal mask that makes no difference: one pass over a text trains all its places."))));
  }

  // The likeliest tokens after a place, under this mask and briefly under the causal one.
  function expectation(state, { tokens, T, now, causal, cut, p }, t, count) {
    const top = now.tops[t].slice(0, count), scale = 1 / top[0][1];
    const chance = (loss) => live.percent(Math.exp(-loss)), next = tokens[t + 1];
    const answer = next !== undefined && h("p.live-follows", {}, h("b", {}, quoted(next)), " follows. Its chance: ", h("b", {}, chance(now.losses[t])),
      t + 1 < p ? ` in view, ${chance(cut[t])} hidden` : "", p > 1 ? `; ${chance(causal.losses[t])} with the causal mask.` : ".");
    return [
      h("div.live-label", {}, `After ${t === T - 1 ? "the whole sentence" : quoted(tokens[t])}, ${state.mask} mask`),
      h("ol.live-top", { "aria-label": `The likeliest tokens after ${quoted(tokens[t])}` }, top.map(([token, chance]) => h("li", {}, live.bar(token, chance, { scale })))),
      p > 1 && h("p.live-label", {}, `Causal mask: ${causal.tops[t].slice(0, 3).map(([token, chance]) => `${quoted(token)} ${live.percent(chance)}`).join(", ")}`),
      answer,
    ].filter(Boolean);
  }
});
