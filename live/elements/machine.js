// The machine: a prompt on its way through GPT-2. Every tensor can be read, every head and every MLP
// switched off; beside the stream stands what the model would say if it ended there.
live.define(function machineFigure(live) {
  "use strict";
  const { h } = live;
  const MOST = 24; // tokens

  // The stops of the step slider: name as in chapter 6, whether each block has its own, what it means.
  const STOPS = [
    ["ids", false, "The text is cut into tokens, and each token has a number. From here on there are only numbers."],
    ["token rows", false, "Each token's row of the token table: the same wherever the token stands."],
    ["stream at the start", false, "A row for the position is added. This is the residual stream: whatever follows only adds to it."],
    ["norm 1", true, "A copy of the stream for attention to read: each row brought to mean 0 and variance 1, then scaled."],
    ["q, k and v", true, "Three vectors for each token: what it looks for (query), what it offers to be found by (key), what it hands over (value)."],
    ["scores", true, "Each query times each key, divided by the root of the head's width. What comes later is masked."],
    ["weights", true, "Softmax turns each row of scores into shares that sum to 1. One map for each head."],
    ["context", true, "Each head mixes the values with its weights. The heads stand side by side."],
    ["attention", true, "One matrix mixes the heads' results. This is what attention writes into the stream."],
    ["after attention", true, "The stream with that added."],
    ["norm 2", true, "Another normalised copy, for the MLP to read. It works on each token by itself."],
    ["widened", true, "The MLP makes four times as many numbers: how well does what it reads fit each of its patterns?"],
    ["hidden", true, "GELU lets what is above zero through and nearly stops the rest. Few patterns answer."],
    ["MLP", true, "Back to the width of the stream: what the MLP writes."],
    ["block out", true, "The stream as the block hands it on."],
    ["final norm", false, "After the last block the stream is normalised once more."],
    ["chances", false, "The last row is compared with every row of the token table; softmax makes probabilities of it."],
  ];
  const STORED_EVERYWHERE = ["scores", "weights", "attention", "after attention", "MLP", "block out"];
  const ROLES = { "norm 1": "stream", "norm 2": "stream", context: "value", widened: "mlp", hidden: "mlp", MLP: "mlp" };

  // ---- The stored beginning: half-precision numbers as text ----

  function halves(text) {
    const bytes = live.bytes(text), view = new DataView(bytes.buffer);
    return Float32Array.from({ length: bytes.length / 2 }, (_, n) => {
      const bits = view.getUint16(2 * n, true), exponent = (bits >> 10) & 31, fraction = bits & 1023;
      const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
      return bits >> 15 ? -size : size;
    });
  }

  // Return steps as the engine gives them; sums and softmaxes are computed here again.
  function unpack({ packed, n_layer, n_head }) {
    const steps = Object.fromEntries(Array.from({ length: n_layer }, (_, layer) => [layer, {}]));
    for (const [key, [shape, text]] of Object.entries(packed)) {
      const [layer, name] = key.split("|");
      (layer ? steps[layer] : steps)[name] = { shape, data: halves(text) };
    }
    const sum = (a, b) => ({ shape: a.shape, data: a.data.map((value, n) => value + b.data[n]) });
    const gelu = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
    let stream = steps["stream at the start"];
    const T = stream.shape[0];
    for (let layer = 0; layer < n_layer; layer++) {
      const block = steps[layer];
      block["after attention"] = sum(stream, block.attention);
      stream = block["block out"] = sum(block["after attention"], block.MLP);
      if (block.widened) block.hidden = { shape: block.widened.shape, data: block.widened.data.map(gelu) };
      const { data } = block.scores, weights = new Float32Array(n_head * T * T);
      for (let n = 0; n < data.length; n++) if (n % T > Math.floor(n / T) % T) data[n] = -Infinity;
      for (let row = 0; row < n_head * T; row++) weights.set(live.softmax(data.subarray(row * T, (row + 1) * T)), row * T);
      block.weights = { shape: block.scores.shape, data: weights };
    }
    return steps;
  }

  const called = ([name, inBlock], layer) => (inBlock ? `block ${layer}: ${name}` : name);
  const isWhole = ({ heads, mlps }) => !heads.length && !mlps.length;
  const hasOff = (off, layer, head) => head === undefined ? off.mlps.includes(layer) : off.heads.some(([l, n]) => l === layer && n === head);

  live.element("machine", {
    title: "A prompt on its way through the model",
    hint: "Move the step slider. Then switch a head or an MLP off and watch the prediction.",

    initial: ({ text }) => ({ text, step: 0, layer: 0, off: { heads: [], mlps: [] } }),

    tidy(state, { n_layer, n_head }) {
      const isIn = (value, size) => Number.isInteger(value) && value >= 0 && value < size;
      const list = (value) => (Array.isArray(value) ? value : []);
      const heads = list(state.off?.heads).filter((pair) => Array.isArray(pair) && isIn(pair[0], n_layer) && isIn(pair[1], n_head));
      const unique = new Map(heads.map(([layer, head]) => [`${layer} ${head}`, [layer, head]]));
      return {
        text: String(state.text).slice(0, 500),
        step: Math.round(live.clamp(state.step, 0, STOPS.length - 1, 0)),
        layer: Math.round(live.clamp(state.layer, 0, n_layer - 1, 0)),
        off: { heads: [...unique.values()], mlps: [...new Set(list(state.off?.mlps).filter((layer) => isIn(layer, n_layer)))] },
      };
    },

    needs({ text, step, layer, off }, { stored }) {
      const [name, inBlock] = STOPS[step];
      const detail = inBlock && layer > 0 && !STORED_EVERYWHERE.includes(name);
      return text === stored.text && isWhole(off) && !detail ? "" : "model";
    },

    async numbers({ text, step, layer, off }, frame) {
      const { stored, engine, ready } = frame, [name, inBlock] = STOPS[step];
      const wanted = engine.isFar && { names: [name], layer: inBlock ? layer : null }; // what must come whole
      const key = JSON.stringify([text, off, ready, wanted]);
      if (frame.kept?.key === key) return frame.kept.numbers;
      let numbers;
      if (!ready) numbers = { ids: stored.ids, tokens: stored.tokens, steps: unpack(stored), lens: stored.lens, top: stored.top, cut: 0 };
      else {
        const { ids, tokens } = await engine.read(text), read = ids.slice(-MOST);
        const trace = await engine.trace(read, off, wanted);
        numbers = { ids: read, tokens: tokens.slice(-MOST), ...trace, cut: ids.length - read.length };
        if (!isWhole(off)) {
          numbers.whole = compare((await engine.next(read, { logits: true })).logits, trace);
          numbers.whole.best[0] = await engine.decode([numbers.whole.best[3]]);
        }
      }
      frame.kept = { key, numbers };
      return numbers;
    },

    report: ({ text, step, layer, off }, { top, tokens }) =>
      ({ text, step, name: STOPS[step][0], layer, off, tokens, top: top.map(([token, p]) => [token, p]) }),

    says({ step, layer, off }, { top, whole, cut }) {
      const best = `“${live.visible(top[0][0])}”, ${live.percent(top[0][1])}`;
      const rest = cut ? ` The first ${cut} tokens are left out.` : "";
      if (isWhole(off)) return `Step ${step + 1} of ${STOPS.length}, ${called(STOPS[step], layer)}. The prediction at the end: ${best}.${rest}`;
      const { best: before, bits } = whole;
      const count = off.heads.length + off.mlps.length;
      return `With ${count === 1 ? "one part" : `${count} parts`} off, “${live.visible(before[0])}” goes from ${live.percent(before[1])} to ${live.percent(before[2])}; likeliest is ${best}. ` +
        `The two distributions are ${bits.toFixed(2)} bits apart.${rest}`;
    },

    build,
  });

  // What the whole model says beside the trace of the one with parts off.
  function compare(logits, { steps, top }) {
    const p = live.softmax(logits), q = live.softmax(steps.logits.data);
    let best = 0, bits = 0;
    for (let n = 0; n < p.length; n++) {
      if (p[n] > p[best]) best = n;
      if (p[n] > 0) bits += p[n] * Math.log2(p[n] / Math.max(q[n], 1e-30));
    }
    return { p: top.map(([, , id]) => p[id]), best: [null, p[best], q[best], best], bits };
  }

  // ---- Drawing ----

  function build(frame) {
    const text = h("textarea.live-input", { rows: 1, maxlength: 500, spellcheck: "false", oninput() {
      clearTimeout(frame.typing);
      frame.typing = setTimeout(() => frame.change({ text: text.value }, { merge: "typing" }), 350);
    } });
    const map = h("div.live-map", { role: "group", "aria-label": "The model, from the tokens at the top to the prediction at the bottom" });
    const step = live.slider("Step", { min: 0, max: STOPS.length - 1, show: (n) => `${n + 1} of ${STOPS.length}`, onchange: (n) => frame.change({ step: n }, { merge: "step" }) });
    const layer = live.slider("Block", { min: 0, max: frame.stored.n_layer - 1, onchange: (n) => frame.change({ layer: n }, { merge: "layer" }) });
    const title = h("h4.live-step-name"), meaning = h("p.live-muted"), view = h("div.live-tensor");
    const value = h("p.live-readout", { "aria-live": "polite" });
    const top = h("ol.live-top", { "aria-label": "The likeliest next tokens" }), label = h("div.live-label");
    const whole = h("button.live-button", { onclick: () => frame.change({ off: { heads: [], mlps: [] } }) }, "Switch everything on");
    frame.stage.append(
      h("label.live-field", {}, h("span", {}, `Your prompt, up to ${MOST} tokens`), text),
      h("div.live-machine", {},
        h("div", {}, h("div.live-label", {}, "The stream, what writes into it, and what it would say there (· is a space)"), map, whole),
        h("div", {}, step.node, layer.node, title, meaning, view, value, label, top)));
    const parts = { map, title, meaning, view, value, top, label };

    return (state, numbers) => {
      if (document.activeElement !== text) text.value = state.text;
      step.set(state.step);
      layer.set(state.layer);
      layer.node.style.visibility = STOPS[state.step][1] ? "visible" : "hidden";
      whole.hidden = isWhole(state.off);
      drawMap(frame, parts.map, state, numbers);
      drawStep(parts, state, numbers, frame.stored);
      drawTop(parts, numbers);
    };
  }

  // The size of the stream's last vector, which is the one that predicts.
  function length({ data, shape: [T, C] }) {
    let sum = 0;
    for (let n = (T - 1) * C; n < T * C; n++) sum += data[n] ** 2;
    return Math.sqrt(sum);
  }

  function drawMap(frame, map, state, { steps, lens, tokens }) {
    const focused = [...map.querySelectorAll("button")].indexOf(document.activeElement);
    const { n_layer, n_head } = frame.stored, rows = [];
    let before = length(steps["stream at the start"]);
    const half = (size) => Math.min(48, 6 + 5 * Math.log2(1 + size));
    const river = (from, to, share) => h("span.live-river", { "aria-hidden": "true",
      style: `--a: ${half(from)}%; --b: ${half(to)}%; --share: ${Math.round(100 * Math.min(share, 1))}%` });
    const says = (n) => h("span.live-lens", { title: lens[n].map(([token, p]) => `${live.visible(token)} ${live.percent(p)}`).join(", ") },
      h("span.live-token", {}, live.visible(lens[n][0][0])), " ", h("span.live-muted", {}, live.percent(lens[n][0][1])));
    const part = (label, step, layer) => h("button.live-part", {
      "aria-pressed": String(state.step === step && (layer === undefined || state.layer === layer)),
      onclick: () => frame.change({ step, ...(layer !== undefined && { layer }) }) }, label);
    const toggle = (label, name, isOff, layer, head) => h("button.live-toggle", {
      "aria-pressed": String(!isOff), "aria-label": `${name}, ${isOff ? "off" : "on"}`, title: `${name}: ${isOff ? "off, click to switch on" : "click to switch off"}`,
      onclick: () => frame.change(({ off }) => ({ off: flipped(off, layer, head) })) }, label);
    rows.push(row(river(before, before, 0), part("tokens + positions", 2), h("span", {}), says(0)));
    for (let layer = 0; layer < n_layer; layer++) {
      for (const [name, out, stop] of [["attention", "after attention", 8], ["MLP", "block out", 13]]) {
        const after = length(steps[layer][out]), share = length(steps[layer][name]) / after;
        const isActive = STOPS[state.step][1] && state.layer === layer && (stop === 8) === (state.step < 10);
        const toggles = stop === 8
          ? Array.from({ length: n_head }, (_, head) => toggle(head, `head ${head} of block ${layer}`, hasOff(state.off, layer, head), layer, head))
          : toggle("MLP", `MLP of block ${layer}`, hasOff(state.off, layer), layer);
        rows.push(row(river(before, after, share), part(`${layer} ${name}`, stop, layer), h("span.live-toggles", {}, toggles), says(rows.length), isActive));
        before = after;
      }
    }
    rows.push(row(river(before, before, 0), part("prediction", STOPS.length - 1), h("span", {}), h("span", {})));
    map.replaceChildren(chips(tokens), ...rows);
    if (focused >= 0) map.querySelectorAll("button")[focused]?.focus();
  }

  const chips = (tokens, ids) => h("p.live-chips", {}, tokens.map((token, n) =>
    h(`span.live-chip.live-hue-${n % 5}`, {}, live.visible(token) + (ids ? ` ${ids[n]}` : ""))));

  const row = (river, part, toggles, lens, isActive) => h(`div.live-map-row${isActive ? ".live-active" : ""}`, {}, river, part, toggles, lens);

  // What is off after a part has been switched.
  function flipped({ heads, mlps }, layer, head) {
    if (head === undefined) return { heads, mlps: mlps.includes(layer) ? mlps.filter((l) => l !== layer) : [...mlps, layer] };
    const others = heads.filter(([l, n]) => l !== layer || n !== head);
    return { mlps, heads: others.length < heads.length ? others : [...heads, [layer, head]] };
  }

  function drawStep({ title, meaning, view, value }, { step, layer }, { steps, tokens, ids, top }, { n_head, n_embd, meanings, size = 50257 }) {
    const [name, inBlock, sentence] = STOPS[step];
    const tensor = (inBlock ? steps[layer] : steps)[name];
    const shape = tensor ? `(${tensor.shape.join(", ")})` : name === "ids" ? `(${ids.length})` : `(${size})`;
    title.replaceChildren(`${called(STOPS[step], layer)} `, h("span.live-shape", {}, shape));
    meaning.textContent = meanings?.[name] ?? sentence;
    value.textContent = tensor ? "Point at a cell, or focus a map and use the arrow keys, to read its number." : "";
    if (name === "ids") {
      view.replaceChildren(chips(tokens, ids));
      return;
    }
    if (!tensor) {
      view.replaceChildren(h("p", {}, `Likeliest: “${live.visible(top[0][0])}” with ${live.percent(top[0][1])}. The ten likeliest stand below.`));
      return;
    }
    const T = tokens.length, { data } = tensor, told = (said) => (value.textContent = said);
    if (name === "scores" || name === "weights") {
      view.replaceChildren(h("div.live-heads-row", { style: `--n: ${n_head}` }, Array.from({ length: n_head }, (_, head) =>
        numbersMap({ data: data.subarray(head * T * T, (head + 1) * T * T), rows: T, columns: T, role: "weight", square: true, told,
          label: `head ${head}`, where: (t, j) => `head ${head}, “${live.visible(tokens[t])}” to “${live.visible(tokens[j])}”` }))));
      return;
    }
    const width = data.length / T;
    const pieces = name === "q, k and v" ? ["query", "key", "value"] : [ROLES[name] ?? "stream"];
    let from = 0; // there may be fewer keys and values than queries
    view.replaceChildren(...pieces.map((role, n) => {
      const columns = pieces.length > 1 && !n ? n_embd : (width - from) / (pieces.length - n), part = new Float32Array(T * columns);
      for (let t = 0; t < T; t++) part.set(data.subarray(t * width + from, t * width + from + columns), t * columns);
      from += columns;
      return numbersMap({ data: part, rows: T, columns, role, told, tokens, heads: pieces.length > 1 || name === "context" ? (columns * n_head) / n_embd : 0,
        label: pieces.length > 1 ? role : "", where: (t, c) => `“${live.visible(tokens[t])}”, ${pieces.length > 1 ? role : ""} channel ${c}`.replace(",  ", ", ") });
    }));
  }

  // A matrix as a map: a colour for above zero, another for below, stronger for larger. The strongest
  // colour stands for the 99th percentile, since a few channels are far larger than all others.
  function numbersMap({ data, rows, columns, role, told, tokens, label, where, heads = 0, square = false }) {
    const finite = Array.from(data).filter(Number.isFinite).map(Math.abs).sort((a, b) => a - b);
    const most = finite[Math.floor(0.99 * (finite.length - 1))] || 1;
    const canvas = h("canvas", { tabindex: 0, role: "img", width: square ? rows * 24 : columns, height: rows * (square ? 24 : 16),
      "aria-label": `${label} map of ${rows} by ${columns} numbers; arrow keys read them` });
    const node = h(`div.live-numbers${square ? ".live-square" : ""}`, {}, h("div.live-label", {}, label),
      tokens && h("div.live-rows", { "aria-hidden": "true", style: `--rows: ${rows}` }, tokens.map((token) => h("span", {}, live.visible(token)))), canvas);
    const at = [0, 0];
    const read = () => {
      const number = data[at[0] * columns + at[1]];
      told(`${where(...at)}: ${live.short(number)}`);
      canvas.setAttribute("aria-label", `${where(...at)}: ${live.short(number)}`);
    };
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      at[0] = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
      at[1] = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * columns)));
      read();
    };
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("focus", read);
    canvas.addEventListener("keydown", (event) => {
      const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
      if (!down && !right) return;
      event.preventDefault();
      at[0] = Math.min(rows - 1, Math.max(0, at[0] + down));
      at[1] = Math.min(columns - 1, Math.max(0, at[1] + right));
      read();
    });
    requestAnimationFrame(() => paint(canvas, { data, rows, columns, role, most, heads }));
    return node;
  }

  function paint(canvas, { data, rows, columns, role, most, heads }) {
    const style = getComputedStyle(canvas), context = canvas.getContext("2d");
    const plus = style.getPropertyValue(`--live-${role}`), minus = style.getPropertyValue(role === "stream" ? "--live-plus" : "--live-before");
    const [w, t] = [canvas.width / columns, canvas.height / rows];
    for (let n = 0; n < data.length; n++) {
      if (!Number.isFinite(data[n])) continue;
      context.globalAlpha = Math.min(1, Math.abs(data[n]) / most);
      context.fillStyle = data[n] >= 0 ? plus : minus;
      context.fillRect((n % columns) * w, Math.floor(n / columns) * t, w, t - 1);
    }
    context.globalAlpha = 1;
    context.fillStyle = style.color;
    for (let head = 1; head < heads; head++) context.fillRect((head * columns) / heads, 0, 1, canvas.height);
  }

  function drawTop({ top: list, label }, { top, whole }) {
    label.textContent = whole ? "The prediction now; the line is the whole model's" : "The prediction";
    list.classList.toggle("live-compares", Boolean(whole));
    const largest = Math.max(...top.map(([, p], n) => Math.max(p, whole?.p[n] ?? 0)));
    list.replaceChildren(...top.map(([token, p], n) => h("li", {}, live.bar(token, p, { scale: 1 / largest, before: whole?.p[n] }))));
  }
});
