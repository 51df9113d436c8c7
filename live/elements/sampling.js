// The desk: temperature, top-k, top-p, min-p and penalty together on one distribution, draws from it,
// and beam search, which draws nothing.
live.define(function samplingFigure(live) {
  "use strict";
  const { h } = live;

  const SHOWN = 15;
  const STEPS = 6; // of beam search
  const KNOBS = { temperature: 1, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1 };
  const RANGES = { temperature: [0.1, 3], top_k: [0, 200], top_p: [0.05, 1], min_p: [0, 0.5], repetition_penalty: [1, 2] };
  const TRIES = [
    ["As it is", {}],
    ["Careful: temperature 0.5, top-p 0.9", { temperature: 0.5, top_p: 0.9 }],
    ["Top-k 10", { top_k: 10 }],
    ["Hot: temperature 2", { temperature: 2 }],
    ["Hot, held by min-p 0.1", { temperature: 2, min_p: 0.1 }],
  ];

  // The stored beginning holds the 1,000 likeliest logits as they are, and the other 49,000 as a
  // curve: in order of size they lie close to straight lines between a few hundred of them.
  function unpack({ head, knots, size }) {
    const logits = new Float32Array(size), rest = size - head.length;
    head.forEach(([, , logit], n) => (logits[n] = logit));
    for (let n = 0; n < rest; n++) {
      const place = (n / (rest - 1)) * (knots.length - 1), left = Math.min(Math.floor(place), knots.length - 2);
      logits[head.length + n] = knots[left] + (place - left) * (knots[left + 1] - knots[left]);
    }
    return logits;
  }

  live.element("sampling", {
    title: "From one distribution to a token: all knobs on one desk",
    hint: "Turn the temperature up to 2 and draw 100 tokens. Then save them with min-p.",

    initial: ({ text }) => ({ text, ...KNOBS, beams: 0 }),

    tidy(state) {
      const tidied = { text: String(state.text).slice(0, 2000) };
      for (const [name, [low, high]] of Object.entries(RANGES)) tidied[name] = live.clamp(state[name], low, high, KNOBS[name]);
      tidied.top_k = Math.round(tidied.top_k);
      tidied.beams = live.engine.isFar ? 0 : Math.round(live.clamp(state.beams, 0, 5, 0)); // a kernel does not search
      return tidied;
    },

    needs: ({ text, beams }, { stored }) => (text === stored.text && !beams ? "" : "model"),

    async numbers(state, frame) {
      const { stored, engine, ready } = frame, { text, beams, ...knobs } = state;
      const key = `${text}\n${ready}`;
      if (frame.row?.key !== key) { // the logits change with the text alone
        const row = { key, whole: ready, names: new Map() };
        if (ready) {
          row.previous = (await engine.read(text)).ids;
          row.logits = (await engine.next(row.previous, { logits: true })).logits;
        } else Object.assign(row, { logits: unpack(stored), previous: stored.previous });
        row.before = live.softmax(row.logits);
        row.order = live.mostLikely(row.before, SHOWN);
        frame.row = row;
      }
      const { logits, previous, before, order } = frame.row;
      const p = live.softmax(live.reshape(logits, knobs, previous));
      const top = live.mostLikely(p, 10);
      await Promise.all([...order, ...top].map(([n]) => nameOf(frame, n)));
      let left = 0, kept = 0, bits = 0;
      for (let n = 0; n < p.length; n++) if (p[n] > 0) { left++; kept += before[n]; bits -= p[n] * Math.log2(p[n]); }
      const search = beams && (frame.row[`beams ${beams}`] ??= await Promise.all([beams, 1].map((width) => engine.beams(previous, { width, steps: STEPS }))));
      return { before, p, order, top, left, kept, bits, size: p.length, names: frame.row.names, search };
    },

    report: (state, { top, names, search }) => ({
      ...state, top: top.map(([n, p]) => [shown(names, n), p]),
      found: search ? search[0].at(-1).map(({ score }, place) => [textOf(search[0], place), score]) : [],
    }),

    says: (state, { left, kept, bits, size }) =>
      `${left.toLocaleString("en")} of ${size.toLocaleString("en")} tokens can be drawn; they had ${live.percent(Math.min(kept, 1))} of the probability. ` +
      `The choice is as open as one among ${(2 ** bits).toFixed(1)} equal tokens.`,

    build(frame) {
      const text = h("textarea.live-input", { rows: 2, maxlength: 2000, spellcheck: "false" });
      text.addEventListener("input", () => {
        clearTimeout(frame.typing);
        frame.typing = setTimeout(() => frame.change({ text: text.value }, { merge: "typing" }), 350);
      });
      const knob = (name, label, step, show) => [name, live.slider(label, {
        min: RANGES[name][0], max: RANGES[name][1], step, show, onchange: (value) => frame.change({ [name]: value }, { merge: name }) })];
      const knobs = Object.fromEntries([
        knob("repetition_penalty", "penalty", 0.05, (v) => v.toFixed(2)),
        knob("temperature", "temperature", 0.05, (v) => v.toFixed(2)),
        knob("top_k", "top-k", 1, (v) => (v ? String(v) : "all")),
        knob("top_p", "top-p", 0.01, (v) => v.toFixed(2)),
        knob("min_p", "min-p", 0.01, (v) => v.toFixed(2)),
      ]);
      const tries = h("select", { onchange: () => frame.change({ ...KNOBS, ...TRIES[tries.value]?.[1] }) },
        h("option", { value: "" }, "choose"), TRIES.map(([label], n) => h("option", { value: n }, label)));
      const beams = live.slider("beams", { min: 0, max: 5, show: (n) => (n ? String(n) : "off"), onchange: (value) => frame.change({ beams: value }, { merge: "beams" }) });
      const tree = h("div.live-beams", { "aria-live": "polite" });
      const list = h("ol.live-top.live-compares", { "aria-label": "The likeliest tokens, now and before" });
      const drawn = h("p.live-drawn", { "aria-live": "polite" });
      const draw = (times) => h("button.live-button.live-primary", { onclick: () => drawMany(frame, times, drawn) }, times === 1 ? "Draw a token" : `Draw ${times}`);
      frame.stage.append(h("div.live-columns", {},
        h("div", {},
          h("label.live-field", {}, h("span", {}, "The text so far"), text),
          h("div.live-label", {}, "In this order: each works on what the one before left"),
          Object.values(knobs).map(({ node }) => node),
          h("div.live-row", {}, h("label.live-choice", {}, "Settings to try ", tries)),
          h("div.live-row", {}, draw(1), draw(100)), drawn),
        h("div", {}, h("div.live-label", {}, "Bar: the chance now. Line: the model's own."), list)),
        ...(frame.engine.isFar ? [] : [h("div.live-label", {}, "Or draw nothing: beam search keeps the few likeliest texts at each step, by the model's own chances"), beams.node, tree]));

      return (state, numbers) => {
        if (document.activeElement !== text) text.value = state.text;
        for (const [name, { set }] of Object.entries(knobs)) set(state[name]);
        beams.set(state.beams);
        tree.replaceChildren(...(numbers.search ? found(numbers.search) : []));
        drawn.textContent = "";
        list.replaceChildren(...rows(numbers, new Map()));
        frame.list = list;
      };
    },
  });

  // What a beam of the last step says, back to its first token.
  function textOf(levels, place) {
    let text = "";
    for (const level of levels.toReversed()) {
      text = level[place].token + text;
      place = level[place].from;
    }
    return text;
  }

  // The tree of a search: a line goes on while it has one continuation, and splits where it has more.
  function found([levels, greedy]) {
    const best = levels.at(-1)[0].score, alone = greedy.at(-1)[0].score;
    const verdict = levels[0].length === 1 ? "One beam is greedy: always the likeliest token."
      : best > alone + 1e-6 ? `The best text is ${Math.exp(best - alone).toFixed(1)} times as likely as the greedy one.`
        : best < alone - 1e-6 ? "The greedy text is likelier: the search dropped its beginning." : "The greedy text is the best one here.";
    const branches = (depth, from) => levels[depth].map((beam, place) => ({ ...beam, place })).filter((beam) => beam.from === from);
    const line = (beam, depth) => {
      const said = [beam];
      let next = [];
      while (++depth < levels.length && (next = branches(depth, said.at(-1).place)).length === 1) said.push(next[0]);
      const ends = depth === levels.length, last = said.at(-1);
      const note = ends ? `log p ${live.short(last.score)}` : next.length ? "" : "dropped";
      return h(`li${ends ? last.place ? "" : ".live-best" : next.length ? "" : ".live-gone"}`, {},
        said.map(({ token, p }) => h("span.live-beam", { title: live.percent(p) }, live.visible(token))), note && h("span.live-muted", {}, note),
        next.length > 1 && h("ul", {}, next.map((each) => line(each, depth))));
    };
    return [h("p", {}, verdict), h("ul", {}, branches(0, 0).map((beam) => line(beam, 0)))];
  }

  // The texts of tokens, by their place in the logits.
  const shown = (names, n) => names.get(n) ?? "a rarer token";
  async function nameOf(frame, n) {
    if (frame.row.names.has(n)) return;
    if (frame.row.whole) frame.row.names.set(n, await frame.engine.decode([n]));
    else if (frame.stored.head[n]) frame.row.names.set(n, frame.stored.head[n][0]);
  }

  function rows({ before, p, order, names }, tally) {
    const largest = Math.max(...order.map(([n]) => Math.max(p[n], before[n])));
    return order.map(([n]) => {
      const count = tally.get(n);
      const bar = live.bar(shown(names, n), p[n], { scale: 1 / largest, before: before[n], note: count ? `×${count}` : p[n] ? live.percent(p[n]) : "out" });
      if (!p[n]) bar.classList.add("live-gone");
      return h("li", {}, bar);
    });
  }

  async function drawMany(frame, times, told) {
    const { p, order } = frame.numbers;
    const tally = new Map(), listed = new Set(order.map(([n]) => n));
    for (let i = 0; i < times; i++) {
      const n = live.draw(p);
      tally.set(n, (tally.get(n) ?? 0) + 1);
    }
    const others = [...tally].filter(([n]) => !listed.has(n)).sort((a, b) => b[1] - a[1]);
    for (const [n] of others.slice(0, 12)) await nameOf(frame, n);
    if (times > 1) frame.list.replaceChildren(...rows(frame.numbers, tally));
    const some = others.slice(0, 12).map(([n, count]) => `“${live.visible(shown(frame.row.names, n))}”${count > 1 ? ` ×${count}` : ""}`);
    const count = others.reduce((sum, [, each]) => sum + each, 0);
    const first = [...tally][0][0];
    told.textContent = times === 1 ? `Drawn: “${live.visible(shown(frame.row.names, first))}”, which had ${live.percent(p[first])}.`
      : count ? `${count} of ${times} are tokens further down: ${some.join(", ")}${others.length > 12 ? " …" : ""}` : `All ${times} are among the tokens shown.`;
  }
});
