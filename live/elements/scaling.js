// Scaling: thirty small models; the law is fitted to those that the reader lets in.
live.define(function scalingFigure(live) {
  "use strict";
  const { h, s } = live;
  const N0 = 1e5, D0 = 1e6; // A and B are what N0 parameters and D0 tokens leave
  const ENOUGH = 3; // sizes, and lengths, without which the law has too many numbers

  const every = (list) => list.map((_, i) => i);

  // The best [E, A, B] of none below 0 for given exponents, and the sum of squared relative errors.
  function solve(points, alpha, beta) {
    const terms = points.map(({ n, d, loss }) => [1 / loss, (n / N0) ** -alpha / loss, (d / D0) ** -beta / loss]);
    let best = { error: Infinity };
    for (let subset = 1; subset < 8; subset++) {
      const used = [0, 1, 2].filter((k) => subset & (1 << k)), found = leastSquares(terms.map((row) => used.map((k) => row[k])));
      if (!found || found.some((v) => v < 0)) continue;
      const values = [0, 0, 0];
      used.forEach((k, i) => (values[k] = found[i]));
      const error = terms.reduce((sum, row) => sum + (row[0] * values[0] + row[1] * values[1] + row[2] * values[2] - 1) ** 2, 0);
      if (error < best.error) best = { values, error };
    }
    return best;
  }

  // x with the least squares of rows · x - 1, by the normal equations and Gauss's elimination.
  function leastSquares(rows) {
    const k = rows[0].length;
    const M = Array.from({ length: k }, (_, i) => [...Array.from({ length: k }, (_, j) => rows.reduce((t, r) => t + r[i] * r[j], 0)), rows.reduce((t, r) => t + r[i], 0)]);
    for (let i = 0; i < k; i++) {
      const pivot = M.slice(i).reduce((p, row, j) => (Math.abs(row[i]) > Math.abs(M[p][i]) ? i + j : p), i);
      [M[i], M[pivot]] = [M[pivot], M[i]];
      if (Math.abs(M[i][i]) < 1e-12) return null;
      for (let r = 0; r < k; r++) if (r !== i) { const f = M[r][i] / M[i][i]; M[r] = M[r].map((v, c) => v - f * M[i][c]); }
    }
    return M.map((row, i) => row[k] / row[i]);
  }

  // The exponents by a search that halves its step: from a coarse grid to a millionth.
  live.fitLaw = function (points) {
    const inside = (v) => Math.min(2, Math.max(0.05, v));
    let best = { error: Infinity };
    const look = (alpha, beta) => {
      const found = solve(points, alpha, beta);
      if (found.error < best.error) { best = { ...found, alpha, beta }; return true; }
      return false;
    };
    for (let a = 0.05; a <= 2; a += 0.15) for (let b = 0.05; b <= 2; b += 0.15) look(a, b);
    for (let step = 0.1; step > 1e-7; ) {
      const { alpha, beta } = best;
      let better = false;
      for (const [da, db] of [[1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, -1], [1, -1], [-1, 1]])
        better = look(inside(alpha + da * step), inside(beta + db * step)) || better;
      if (!better) step /= 2;
    }
    const [E, A, B] = best.values;
    return { E, A, alpha: best.alpha, B, beta: best.beta };
  };
  const law = ({ E, A, alpha, B, beta }, n, d) => E + A * (n / N0) ** -alpha + B * (d / D0) ** -beta;

  live.element("scaling", {
    title: "A law from small models",
    hint: "Leave the largest models out: does the law, fitted to the rest, predict their losses?",
    loads: "",

    initial: ({ sizes, lengths }) => ({ sizes, lengths }),

    tidy(state, { parameters, tokens }) {
      const some = (list, all) => (Array.isArray(list) ? every(all).filter((i) => list.includes(i)) : every(all));
      return { sizes: some(state.sizes, parameters), lengths: some(state.lengths, tokens) };
    },

    needs: () => "",

    async numbers({ sizes, lengths }, { stored: { parameters, tokens, losses } }) {
      const all = parameters.flatMap((n, i) => tokens.map((d, j) => ({ n, d, i, j, loss: losses[i][j], included: sizes.includes(i) && lengths.includes(j) })));
      if (sizes.length < ENOUGH || lengths.length < ENOUGH) return { all, fitted: null };
      const fitted = live.fitLaw(all.filter(({ included }) => included));
      for (const point of all) point.off = law(fitted, point.n, point.d) / point.loss - 1;
      return { all, fitted };
    },

    report: (state, { all, fitted }) => ({ ...state, fitted, off: all.map(({ off, included }) => [included, off ?? null]) }),

    says(state, { all, fitted }) {
      if (!fitted) return `The law has five numbers: let in at least ${ENOUGH} sizes and ${ENOUGH} lengths.`;
      const error = (points) => [points.reduce((t, { off }) => t + Math.abs(off), 0) / points.length, points.reduce((m, p) => (Math.abs(p.off) > Math.abs(m.off) ? p : m))];
      const percent = (v) => `${(100 * Math.abs(v)).toFixed(1)}%`;
      const ins = all.filter(({ included }) => included), outs = all.filter(({ included }) => !included);
      const [inside] = error(ins), start = `L = ${fitted.E.toFixed(2)} + ${fitted.A.toFixed(2)} (N/100,000)^−${fitted.alpha.toFixed(2)} + ${fitted.B.toFixed(2)} (D/1,000,000)^−${fitted.beta.toFixed(2)}. Fitted to ${ins.length} models, off by ${percent(inside)} on average`;
      if (!outs.length) return `${start}. Nothing is left out to be predicted.`;
      const [outside, worst] = error(outs);
      return `${start}; for the ${outs.length} left out by ${percent(outside)}, at worst ${percent(worst.off)} too ${worst.off > 0 ? "high" : "low"}.`;
    },

    build(frame) {
      const { parameters, tokens } = frame.stored;
      const toggles = (list, key, label) => list.map((value, i) => h("button.live-button", {
        onclick: () => frame.change((state) => ({ [key]: state[key].includes(i) ? state[key].filter((k) => k !== i) : [...state[key], i] })),
      }, label(value)));
      const thousand = (n) => `${Math.round(n / 1e3).toLocaleString("en")}k`, million = (d) => `${+(d / 1e6).toPrecision(2)}M`;
      const sizes = toggles(parameters, "sizes", thousand), lengths = toggles(tokens, "lengths", million);
      const plot = h("div");
      frame.stage.append(
        h("div.live-label", {}, "Parameters N of the models that the law is fitted to"), h("div.live-row", { role: "group", "aria-label": "Sizes" }, sizes),
        h("div.live-label", {}, "Characters D that they read"), h("div.live-row", { role: "group", "aria-label": "Lengths" }, lengths), plot,
        h("p.live-muted", {}, "Filled: the law is fitted to it. Ring: left out. A curve for each number of characters D, which stands at its end."));

      return (state, { all, fitted }) => {
        sizes.forEach((button, i) => button.setAttribute("aria-pressed", String(state.sizes.includes(i))));
        lengths.forEach((button, j) => button.setAttribute("aria-pressed", String(state.lengths.includes(j))));
        plot.replaceChildren(draw(all, fitted, parameters, tokens, million));
      };
    },
  });

  function draw(all, fitted, parameters, tokens, million) {
    const [left, right, top, bottom] = [Math.log(parameters[0]) - 0.2, Math.log(parameters.at(-1)) + 0.2, Math.log(3), Math.log(1.45)];
    const x = (n) => 34 + (486 * (Math.log(n) - left)) / (right - left), y = (loss) => Math.min(262, 10 + (250 * (top - Math.log(loss))) / (top - bottom));
    const svg = s("svg", { viewBox: "0 0 560 300", class: "live-scaling", role: "img", "aria-label": "Loss against parameters, a line for each length of training" });
    for (const loss of [1.5, 2, 2.5, 3]) svg.append(
      s("line", { x1: 34, x2: 520, y1: y(loss), y2: y(loss), class: "live-grid" }), s("text", { x: 28, y: y(loss) + 4, "text-anchor": "end" }, String(loss)));
    for (const n of parameters) svg.append(s("text", { x: x(n), y: 278, "text-anchor": "middle" }, `${Math.round(n / 1e3)}k`));
    svg.append(s("text", { x: 277, y: 296, "text-anchor": "middle" }, "parameters N; loss in nats a character"));
    tokens.forEach((d, j) => {
      if (fitted) {
        const path = Array.from({ length: 41 }, (_, k) => Math.exp(left + 0.2 + ((right - left - 0.4) * k) / 40)).map((n, k) => `${k ? "L" : "M"}${x(n).toFixed(1)} ${y(law(fitted, n, d)).toFixed(1)}`);
        svg.append(s("path", { d: path.join(""), class: "live-line" }));
      }
      svg.append(s("text", { x: 526, y: y(all.find((p) => p.j === j && p.i === parameters.length - 1).loss) + 4 }, million(d)));
    });
    for (const { n, d, loss, included } of all)
      svg.append(s("circle", { cx: x(n), cy: y(loss), r: 4.5, class: included ? "live-in" : "live-out" }, s("title", {}, `${loss.toFixed(3)} nats with ${Math.round(n / 1e3)}k parameters after ${million(d)} characters`)));
    return svg;
  }
});
