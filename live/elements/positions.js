// Positions: what a query at one place makes of a key at another, in three ways to tell them where they are.
live.define(function positionsFigure(live) {
  "use strict";
  const { h, s } = live;
  const KINDS = { sinusoidal: "added: sinusoids", rotary: "turned: RoPE", alibi: "subtracted: ALiBi" };
  const BASES = [100, 10000, 500000];

  const dot = (x, y) => x.reduce((sum, v, i) => sum + v * y[i], 0);
  const frequencies = (d, base) => Array.from({ length: d / 2 }, (_, i) => base ** (-2 * i / d));

  // Channel 2i is the sine of position times frequency i, channel 2i + 1 the cosine.
  const encoding = (place, f) => f.flatMap((w) => [Math.sin(place * w), Math.cos(place * w)]);

  // The pair (i, i + d/2) turned by position times frequency i.
  function turned(x, place, f) {
    const half = f.length, out = Array.from(x);
    f.forEach((w, i) => {
      const cos = Math.cos(place * w), sin = Math.sin(place * w);
      out[i] = x[i] * cos - x[i + half] * sin;
      out[i + half] = x[i + half] * cos + x[i] * sin;
    });
    return out;
  }

  // The score of a query at place a and a key at place b: q · k / √d with the places told.
  function score({ kind, base, head }, { q, k, n_head }, a, b) {
    const d = q.length, f = frequencies(d, base);
    if (kind === "rotary") return dot(turned(q, a, f), turned(k, b, f)) / Math.sqrt(d);
    if (kind === "alibi") return dot(q, k) / Math.sqrt(d) - slope(head, n_head) * Math.abs(a - b);
    const there = encoding(a, f).map((v, i) => v + q[i]), here = encoding(b, f).map((v, i) => v + k[i]);
    return dot(there, here) / Math.sqrt(d);
  }
  const slope = (head, n_head) => 2 ** (-8 * (head + 1) / n_head);

  live.element("positions", {
    title: "The same two words, at other places",
    hint: "Move both words along the text. With which of the three does their score stay as it was?",
    loads: "",

    initial: ({ kind, a, b, base, head }) => ({ kind, a, b, base, head }),

    tidy: (state, { n, n_head }) => ({
      kind: state.kind in KINDS ? state.kind : "sinusoidal",
      a: Math.round(live.clamp(state.a, 0, n - 1, 0)), b: Math.round(live.clamp(state.b, 0, n - 1, 0)),
      base: BASES.includes(+state.base) ? +state.base : 10000, head: Math.round(live.clamp(state.head, 0, n_head - 1, 0)),
    }),

    needs: () => "",

    numbers: async (state, { stored }) => {
      const places = Array.from({ length: stored.n }, (_, t) => t);
      const all = (head) => places.map((a) => places.map((b) => score({ ...state, head }, stored, a, b)));
      const scores = all(state.head); // ALiBi's heads share one scale, that of the steepest
      return { scores, limits: range(state.kind === "alibi" ? all(0) : scores), moved: state.a !== stored.a || state.b !== stored.b };
    },

    report: (state, { scores }) => ({ ...state, score: scores[state.a][state.b], scores }),

    says({ kind, a, b }, { scores, moved }) {
      const n = scores.length, shifts = pairs(n, a, b).map(([i, j]) => scores[i][j]);
      const spread = Math.max(...shifts) - Math.min(...shifts);
      const same = spread < 1e-9 ? "It is the same wherever the pair stands: only the distance counts."
        : `Wherever else the pair stands, it lies between ${live.short(Math.min(...shifts))} and ${live.short(Math.max(...shifts))}: the place counts as well as the distance.`;
      return `Query at ${a}, key at ${b}, distance ${Math.abs(a - b)}: score ${live.short(scores[a][b])}. ${moved ? same : "Move both. Does it stay?"}`;
    },

    build(frame) {
      const { n, n_head, q } = frame.stored, half = q.length / 2;
      const kinds = Object.entries(KINDS).map(([kind, label]) => h("button.live-button", { onclick: () => frame.change({ kind }) }, label));
      const query = live.slider("Query's place", { min: 0, max: n - 1, onchange: (a) => frame.change({ a }, { merge: "a" }) });
      const key = live.slider("Key's place", { min: 0, max: n - 1, onchange: (b) => frame.change({ b }, { merge: "b" }) });
      const move = (by) => frame.change(({ a, b }) => (Math.min(a, b) + by < 0 || Math.max(a, b) + by > n - 1 ? {} : { a: a + by, b: b + by }), { merge: "both" });
      const both = h("div.live-row", {}, live.press("← Move both", () => move(-1)), live.press("Move both →", () => move(1)));
      const base = h("select", { onchange: () => frame.change({ base: +base.value }) }, BASES.map((value) => h("option", { value }, value.toLocaleString("en"))));
      const baseChoice = h("label.live-choice", {}, "Base of the frequencies ", base);
      const head = live.slider("Head", { min: 0, max: n_head - 1, show: (n) => `${n}: −${live.short(slope(n, n_head))} a token`, onchange: (value) => frame.change({ head: value }, { merge: "head" }) });
      const map = h("canvas.live-map", { width: n, height: n, role: "img" });
      const pick = (event) => {
        const box = map.getBoundingClientRect(), at = (x, size) => Math.floor(live.clamp(x / size, 0, 0.999, 0) * n);
        frame.change({ a: at(event.clientY - box.top, box.height), b: at(event.clientX - box.left, box.width) }, { merge: "map" });
      };
      map.addEventListener("pointerdown", (event) => { map.setPointerCapture(event.pointerId); pick(event); });
      map.addEventListener("pointermove", (event) => { if (event.buttons) pick(event); });
      const clocks = h("div.live-clocks"), curves = h("div");
      const hands = h("div.live-label", {}, "A clock for each pair of channels. Hands: ", h("b", { style: "color: var(--live-query)" }, "query"), ", ", h("b", { style: "color: var(--live-key)" }, "key"));
      frame.stage.append(
        h("div.live-row", { role: "group", "aria-label": "How the model is told the places" }, kinds),
        h("div.live-columns", {},
          h("div", {}, query.node, key.node, both, h("div.live-row", {}, baseChoice), head.node, hands, clocks),
          h("div", {}, h("div.live-label", {}, "Score of every pair: the query's place goes down, the key's to the right. Orange is high, blue low. Click a pair."), map, curves)));

      return (state, { scores, limits }) => {
        const { kind, a, b } = state, f = frequencies(2 * half, state.base);
        kinds.forEach((button, i) => button.setAttribute("aria-pressed", String(Object.keys(KINDS)[i] === kind)));
        query.set(a);
        key.set(b);
        head.set(state.head);
        base.value = state.base;
        head.node.hidden = kind !== "alibi";
        baseChoice.hidden = hands.hidden = clocks.hidden = kind === "alibi";
        [Math.min(a, b) === 0, Math.max(a, b) === n - 1].forEach((ends, i) => both.children[i].setAttribute("aria-disabled", ends));
        clocks.replaceChildren(...f.map((w) => clock(a * w, b * w, w)));
        paint(map, scores, a, b, limits);
        map.setAttribute("aria-label", `A map of ${n} times ${n} scores; the chosen one is ${live.short(scores[a][b])}`);
        const along = pairs(n, a, b).map(([i, j]) => scores[i][j]);
        curves.replaceChildren(
          h("div.live-label", {}, `The key moves, the query stays at ${a}: scores ${between(scores[a])}`), curve(scores[a], b, limits),
          h("div.live-label", {}, `Both move, ${Math.abs(a - b)} apart: scores ${between(along)}`), curve(along, Math.min(a, b), limits));
      };
    },
  });

  // All pairs of places as far apart, and in the same order, as a and b.
  function pairs(n, a, b) {
    const [low, high] = [Math.min(a, b), Math.max(a, b)];
    return Array.from({ length: n - (high - low) }, (_, t) => (a < b ? [t, t + high - low] : [t + high - low, t]));
  }
  const between = (values) => { const [low, high] = [Math.min(...values), Math.max(...values)].map(live.short); return low === high ? low : `${low} to ${high}`; };
  const range = (scores) => [Math.min(...scores.flat()), Math.max(...scores.flat())];

  // A dial with a hand for each of the two words; the sector between them is what RoPE's score sees.
  function clock(angle, other, w) {
    const at = (t, r) => [30 + r * Math.sin(t), 30 - r * Math.cos(t)];
    const hand = (t, name) => { const [x, y] = at(t, 22); return s("line", { x1: 30, y1: 30, x2: x, y2: y, class: name }); };
    const turn = (2 * Math.PI) / w, period = turn < 10 ? turn.toFixed(1) : Math.round(turn).toLocaleString("en");
    return h("figure.live-clock", {}, s("svg", { viewBox: "0 0 60 60", "aria-hidden": "true" },
      s("circle", { cx: 30, cy: 30, r: 26, class: "live-dial" }), hand(other, "live-hand-key"), hand(angle, "live-hand-query")),
      h("span", {}, `turns once in ${period} tokens`));
  }

  function curve(values, marked, [low, high]) {
    const room = Math.max(high - low, 1e-9) * 0.1, flat = high - low < 1e-9;
    const x = (i) => 6 + (288 * i) / Math.max(1, values.length - 1), y = (v) => (flat ? 35 : 64 - (58 * (v - low + room)) / (high - low + 2 * room));
    const path = values.map((v, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(v).toFixed(1)}`).join("");
    return s("svg", { viewBox: "0 0 300 70", class: "live-curve", role: "img", "aria-label": `scores ${between(values)}` },
      s("path", { d: path, class: "live-line" }), s("circle", { cx: x(marked), cy: y(values[marked]), r: 4.5, class: "live-dot" }));
  }

  // Scores as colours: the middle of their range is the ground, more to one side, less to the other.
  function paint(canvas, scores, a, b, [low, high]) {
    const n = scores.length, context = canvas.getContext("2d"), style = getComputedStyle(canvas), size = 8;
    const middle = (low + high) / 2, half = Math.max((high - low) / 2, 1e-9);
    const [plus, minus] = ["--live-plus", "--live-minus"].map((name) => style.getPropertyValue(name).trim() || "#888");
    canvas.width = canvas.height = n * size;
    scores.forEach((row, i) => row.forEach((v, j) => {
      context.fillStyle = v > middle ? plus : minus;
      context.globalAlpha = Math.abs(v - middle) / half;
      context.fillRect(j * size, i * size, size, size);
    }));
    context.globalAlpha = 1;
    context.lineWidth = 2;
    context.strokeStyle = style.color;
    context.strokeRect(b * size - 1, a * size - 1, size + 2, size + 2);
  }
});
