// Fewer bits a weight: what rounding does to the perplexity of a text, to what the model writes, to the
// file, and to one row of weights.
live.define(function quantizeFigure(live) {
  "use strict";
  const { h, s } = live;
  const MOST = 160, WRITTEN = 24, KNOBS = { temperature: 0.7 }; // tokens that are measured, and written
  const SCALES = { row: "one for each row", matrix: "one for each matrix" };
  const RULER = "8 row"; // what all others are compared with: the weights as the page has them

  const keyOf = ({ bits, scale }) => `${bits} ${scale}`;
  const number = (v) => (v >= 1000 ? Math.round(v).toLocaleString("en") : v.toPrecision(3));
  const megabytes = ({ bytes }, { bits, scale }) => `${(bytes[scale][bits - 2] / 1e6).toFixed(1)} MB`;

  async function measured(ids, edits, engine) {
    const { losses } = await engine.places(ids, { edits });
    return losses.length ? Math.exp(losses.reduce((sum, loss) => sum + loss, 0) / losses.length) : null;
  }

  async function written(ids, edits, draws, { engine, stored }) {
    const all = [...ids], tokens = [];
    for (let n = 0; n < WRITTEN; n++) {
      const { top, drawn } = await engine.next(all, { edits, u: stored.u[n], knobs: draws ? KNOBS : {} });
      const [token, , id] = draws ? drawn : top[0];
      if (id === stored.end) break;
      tokens.push(token);
      all.push(id);
    }
    return tokens;
  }

  // What is known of a model of so many bits: perplexity and the text, computed once.
  async function results(state, key, kept, frame) {
    if (!frame.ready) return frame.stored.results[key];
    const found = (kept.results[key] ??= {}), [bits, scale] = key.split(" "), edits = key === RULER ? {} : { bits: +bits, scale };
    const way = state.draws ? "drawn" : "likeliest";
    if (!("perplexity" in found && way in found)) frame.said.textContent = `Reading and writing with ${bits} bits …`;
    if (!("perplexity" in found)) found.perplexity = await measured(kept.text, edits, frame.engine);
    found[way] ??= await written(kept.prompt, edits, state.draws, frame);
    return found;
  }

  async function read({ text, prompt }, { engine, ready }) {
    if (!ready) return { results: {} };
    const ids = async (words) => (await engine.encode(words || "<|endoftext|>")).ids.slice(0, MOST);
    return { text: await ids(text), prompt: await ids(prompt), results: {} };
  }

  live.element("quantize", {
    title: "From 8 bits a weight down to 2",
    hint: "Go down to 3 bits, then to 2: what happens to the perplexity, and to the text?",

    initial: ({ text, prompt }) => ({ text, prompt, bits: 4, scale: "row", draws: false, tried: [RULER, "4 row"] }),

    tidy(state, { results: known }) {
      const bits = Math.round(live.clamp(state.bits, 2, 8, 4)), scale = state.scale === "matrix" ? "matrix" : "row";
      const tried = Array.isArray(state.tried) ? state.tried.filter((key) => Object.hasOwn(known, key)) : [];
      return {
        text: String(state.text).slice(0, 1000), prompt: String(state.prompt).slice(0, 300), bits, scale,
        draws: state.draws === true, tried: [...new Set([...tried, RULER, keyOf({ bits, scale })])],
      };
    },

    needs: ({ text, prompt }, { stored }) => (text === stored.text && prompt === stored.prompt ? "" : "model"),

    async numbers(state, frame) {
      const key = JSON.stringify([state.text, state.prompt, frame.ready]);
      const kept = frame.kept?.key === key ? frame.kept : { key, ...(await read(state, frame)) };
      const now = await results(state, keyOf(state), kept, frame), ruler = await results(state, RULER, kept, frame);
      frame.kept = kept;
      const way = state.draws ? "drawn" : "likeliest", known = frame.ready ? kept.results : frame.stored.results;
      let same = 0;
      while (same < now[way].length && now[way][same] === ruler[way][same]) same++;
      const points = state.tried.filter((each) => known[each]?.perplexity).map((each) => [+each.split(" ")[0], each.split(" ")[1], known[each].perplexity]);
      return { perplexity: now.perplexity, before: ruler.perplexity, now: now[way], ruler: ruler[way], same, points, megabytes: megabytes(frame.stored, state) };
    },

    report: ({ text, prompt, bits, scale, draws, tried }, { perplexity, before, now, ruler, same, points }) =>
      ({ text, prompt, bits, scale, draws, tried, perplexity, before, written: now, ruler, same, points }),

    says({ bits, scale }, { perplexity, before, now, ruler, same, megabytes: size }) {
      const name = `${bits} bits${scale === "matrix" ? ", one scale for each matrix" : ""}`;
      const isSame = same === now.length && same === ruler.length;
      return `${name}: a file of ${size}${perplexity === null ? "; a text of one token has no perplexity. " : `, perplexity ${number(perplexity)}; with 8 bits and a scale for each row ${number(before)}. `}` +
        (isSame ? "Both write the same text." : `The texts part ${same ? `after ${same === 1 ? "1 token" : `${same} tokens`}` : "at the first token"}.`);
    },

    build,
  });

  // ---- Drawing ----

  function build(frame) {
    const { stored } = frame;
    const field = (key, rows, length) => {
      const input = h("textarea.live-input", { rows, maxlength: length, spellcheck: "false" });
      input.addEventListener("input", () => {
        clearTimeout(frame.typing);
        frame.typing = setTimeout(() => frame.change({ [key]: input.value }, { merge: key }), 350);
      });
      return input;
    };
    const text = field("text", 3, 1000), prompt = field("prompt", 1, 300);
    const bits = live.slider("bits a weight", { min: 2, max: 8, onchange: (value) => frame.change({ bits: value }, { merge: "bits" }) });
    const select = (entries, onchange) => h("select", { onchange }, entries.map(([value, label]) => h("option", { value }, label)));
    const scale = select(Object.entries(SCALES), () => frame.change({ scale: scale.value }));
    const draws = select([["", "always takes the likeliest"], ["yes", "draws, both with the same random numbers"]], () => frame.change({ draws: Boolean(draws.value) }));
    const curve = h("div"), steps = h("div"), label = h("div.live-label"), left = h("p.live-writing"), right = h("p.live-writing"), name = h("div.live-label");
    frame.stage.append(
      bits.node, h("label.live-choice", {}, "Scales: ", scale),
      h("div.live-columns.live-texts", {},
        h("div", {}, h("div.live-label", {}, "Perplexity of the text below, for what you have tried; a few per cent up or down are chance"), curve,
          h("div.live-label.live-legend", {}, h("span.live-point-row", {}), "a scale for each row ", h("span.live-point-matrix", {}), "one for each matrix")),
        h("div", {}, label, steps,
          h("div.live-label.live-legend", {}, h("span.live-exact", {}), "as it was ", h("span.live-rounded", {}), "rounded"))),
      h("label.live-field", {}, h("span", {}, "A beginning to go on from"), prompt),
      h("label.live-choice", {}, "The model ", draws),
      h("div.live-columns.live-texts", {}, h("div", {}, h("div.live-label", {}, "With 8 bits, a scale for each row"), left), h("div", {}, name, right)),
      h("label.live-field", {}, h("span", {}, "The text whose perplexity is measured"), text));

    return (state, numbers) => {
      if (document.activeElement !== text) text.value = state.text;
      if (document.activeElement !== prompt) prompt.value = state.prompt;
      bits.set(state.bits);
      scale.value = state.scale;
      draws.value = state.draws ? "yes" : "";
      curve.replaceChildren(drawCurve(numbers.points, state, stored));
      const most = 2 ** (state.bits - 1) - 1;
      label.textContent = `${stored.row.q.length} weights (${stored.row.name}): each goes to the nearest of ${2 * most + 1} levels`;
      steps.replaceChildren(drawSteps(stored.row, state, most));
      name.textContent = `With ${state.bits} bits, ${SCALES[state.scale].replace("one", "a scale")}`;
      left.textContent = `…${numbers.ruler.join("")}`;
      right.replaceChildren(`…${numbers.now.slice(0, numbers.same).join("")}`, h("mark", {}, numbers.now.slice(numbers.same).join("")));
    };
  }

  // Perplexity against bits, its axis in powers of ten; filled points have a scale for each row.
  function drawCurve(points, state, stored) {
    const values = points.map(([, , value]) => Math.log10(value));
    const low = Math.floor(Math.min(...values, 2)), high = Math.ceil(Math.max(...values, low + 1));
    const x = (bits) => 46 + (266 * (bits - 2)) / 6, y = (value) => 14 + (146 * (high - Math.log10(value))) / (high - low);
    const svg = s("svg", { viewBox: "0 0 336 210", class: "live-bits", role: "img",
      "aria-label": points.map(([bits, scale, value]) => `${bits} bits, ${SCALES[scale]}: ${number(value)}`).join("; ") || "no perplexity yet" });
    for (let power = low; power <= high; power++) svg.append(
      s("line", { x1: 36, x2: 326, y1: y(10 ** power), y2: y(10 ** power), class: "live-grid" }),
      s("text", { x: 32, y: y(10 ** power) + 4, "text-anchor": "end" }, (10 ** power).toLocaleString("en", { notation: "compact" })));
    for (let bits = 2; bits <= 8; bits++) svg.append(
      s("text", { x: x(bits), y: 180, "text-anchor": "middle", class: bits === state.bits ? "live-chosen" : "" }, String(bits)),
      s("text", { x: x(bits), y: 196, "text-anchor": "middle", class: "live-small" }, `${(stored.bytes[state.scale][bits - 2] / 1e6).toFixed(0)} MB`));
    svg.append(s("text", { x: 2, y: 180 }, "bits"));
    for (const kind of Object.keys(SCALES)) {
      const line = points.filter(([, scale]) => scale === kind).sort((a, b) => a[0] - b[0]);
      svg.append(s("path", { class: `live-line live-${kind}`, d: line.map(([bits, , value], n) => `${n ? "L" : "M"}${x(bits)} ${y(value).toFixed(1)}`).join("") }));
      for (const [bits, scale, value] of line) {
        const isNow = bits === state.bits && scale === state.scale;
        svg.append(s("circle", { cx: x(bits), cy: y(value), r: isNow ? 6 : 4, class: `live-point-${kind}` }, s("title", {}, `${bits} bits, ${SCALES[scale]}: ${number(value)}`)));
        if (isNow) svg.append(s("text", { x: x(bits), y: y(value) - 10, "text-anchor": bits > 6 ? "end" : bits < 4 ? "start" : "middle", class: "live-chosen" }, number(value)));
      }
    }
    return svg;
  }

  // Weights as dots, the levels that they may take as lines, and where rounding puts them as steps.
  function drawSteps({ q, scale, largest, widest }, state, most) {
    const top = state.scale === "matrix" ? widest / scale : largest, step = top / most; // in units of the 8-bit number
    const levels = q.map((value) => Math.floor((value * most) / top + 0.5));
    const range = Math.max(largest, ...levels.map((level) => Math.abs(level * step)));
    const x = (n) => 8 + (320 * n) / q.length, y = (value) => 90 - (78 * value) / range;
    const svg = s("svg", { viewBox: "0 0 336 180", class: "live-bits", role: "img",
      "aria-label": `${q.length} weights of a row take ${new Set(levels).size} different values; ${levels.filter((level) => level === 0).length} become 0` });
    if (most <= 15) for (let k = -most; k <= most; k++) if (Math.abs(k * step) <= range * 1.001)
      svg.append(s("line", { x1: 8, x2: 328, y1: y(k * step), y2: y(k * step), class: k ? "live-grid" : "live-zero" }));
    svg.append(s("path", { class: "live-step-line", d: levels.map((level, n) => `${n ? "V" : `M${x(0)} `}${y(level * step).toFixed(1)}H${x(n + 1).toFixed(1)}`).join("") }));
    q.forEach((value, n) => svg.append(s("circle", { cx: x(n + 0.5), cy: y(value), r: 2.2, class: "live-exact" },
      s("title", {}, `${(value * scale).toFixed(4)} becomes ${(levels[n] * step * scale).toFixed(4)}`))));
    return svg;
  }
});
