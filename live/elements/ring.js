// Ring: all-reduce in a ring, move by move, and the schedule of a pipeline.
live.define(function ringFigure(live) {
  "use strict";
  const { h, s } = live;
  const VIEWS = { ring: "All-reduce in a ring", pipeline: "A pipeline" };
  const SCHEDULES = { gpipe: "GPipe", "1f1b": "1F1B" };
  const TOLD = {
    gpipe: "GPipe makes all forward passes, then all backward passes. What a forward pass leaves behind for its backward pass, the activations, is held for all m micro-batches at once.",
    "1f1b": "1F1B makes one backward pass for each forward pass as soon as it can. A stage then holds the activations of p micro-batches at most, however many there are.",
  };
  const FORWARD = 1, BACKWARD = 2; // time that a pass takes: backward computes two products for each of forward's
  const PACE = 1000; // milliseconds from move to move

  // ---- What happens ----

  // What n workers hold after some moves, and the last of these. In move k each worker hands piece
  // w + 1 - k to its right neighbour, who adds it in the first n - 1 moves and copies it in the others.
  function ring(own, n, moves) {
    const held = own.slice(0, n).map((row) => row.slice(0, n).map((value) => ({ value, of: 1 })));
    for (const row of held) for (const piece of row) piece.was = null;
    let last = [];
    for (let k = 1; k <= moves; k++) {
      last = held.map((_, w) => ({ from: w, to: (w + 1) % n, piece: (w + 1 - k + 2 * n) % n }));
      const sent = last.map(({ from, piece }) => ({ ...held[from][piece] }));
      for (const row of held) for (const piece of row) piece.was = null;
      last.forEach(({ to, piece }, i) => {
        const { value, of } = held[to][piece], adds = k < n;
        held[to][piece] = { value: sent[i].value + (adds ? value : 0), of: sent[i].of + (adds ? of : 0), was: adds ? [value, sent[i].value] : [] };
      });
    }
    return { held, last };
  }

  // The passes that each of p stages makes with m micro-batches, in its order: [["F", 0], …].
  function order(schedule, stage, p, m) {
    const batches = Array.from({ length: m }, (_, i) => i);
    if (schedule === "gpipe") return [...batches.map((i) => ["F", i]), ...batches.reverse().map((i) => ["B", i])];
    const ahead = Math.min(p - stage, m); // forward passes before the first backward one
    return [...batches.slice(0, ahead).map((i) => ["F", i]), ...batches.flatMap((i) => [["B", i], ...(i + ahead < m ? [["F", i + ahead]] : [])])];
  }

  // When each pass begins: every stage makes its next one as soon as it is free and its input is there.
  function pipeline(schedule, p, m) {
    const orders = Array.from({ length: p }, (_, stage) => order(schedule, stage, p, m));
    const ends = new Map(), free = Array(p).fill(0), passes = [];
    const end = (kind, stage, batch) => ends.get(`${kind} ${stage} ${batch}`);
    for (let left = 2 * p * m; left > 0; ) orders.forEach((list, stage) => {
      const [kind, batch] = list[0] ?? [];
      const input = !kind ? undefined : kind === "F" ? (stage ? end("F", stage - 1, batch) : 0) : stage < p - 1 ? end("B", stage + 1, batch) : end("F", stage, batch);
      if (input === undefined) return;
      const start = Math.max(free[stage], input), length = kind === "F" ? FORWARD : BACKWARD;
      free[stage] = start + length;
      ends.set(`${kind} ${stage} ${batch}`, free[stage]);
      passes.push({ kind, stage, batch, start, length });
      list.shift();
      left -= 1;
    });
    const time = Math.max(...free), busy = m * (FORWARD + BACKWARD);
    return { passes, time, bubble: 1 - busy / time, peaks: orders.map((_, stage) => peak(passes.filter((pass) => pass.stage === stage))) };
  }

  // How many micro-batches are between their forward and backward pass, at most; in order of time.
  function peak(passes) {
    let held = 0, most = 0;
    for (const { kind } of passes) most = Math.max(most, (held += kind === "F" ? 1 : -1));
    return most;
  }

  // ---- The figure ----

  const percent = (share) => `${(100 * share).toFixed(0)}%`;
  const times = (x) => (x === 1 ? "once" : x === 2 ? "twice" : `${+x.toFixed(3)} times`);
  const letter = (piece) => String.fromCharCode(97 + piece);

  live.element("ring", {
    title: "Many workers: how they exchange, and how they wait",
    hint: "Step through the ring. After how many moves has every worker all the sums?",
    loads: "",

    initial: ({ workers, stages, microbatches }) => ({ view: "ring", workers, step: 0, stages, microbatches, schedule: "gpipe" }),

    tidy(state) {
      const whole = (key, low, high, otherwise) => Math.round(live.clamp(state[key], low, high, otherwise));
      const workers = whole("workers", 2, 8, 4);
      return {
        view: state.view in VIEWS ? state.view : "ring", workers, step: whole("step", 0, 2 * (workers - 1), 0),
        stages: whole("stages", 2, 8, 4), microbatches: whole("microbatches", 1, 16, 4), schedule: state.schedule in SCHEDULES ? state.schedule : "gpipe",
      };
    },

    needs: () => "",
    numbers: async ({ workers, step, stages, microbatches, schedule }, { stored }) => ({ ...ring(stored.own, workers, step), ...pipeline(schedule, stages, microbatches) }),
    stop: (frame) => frame.pause(),

    report: (state, { held, bubble, peaks }) =>
      ({ ...state, sent: state.step / state.workers, values: held.map((row) => row.map(({ value }) => value)), bubble, peaks }),

    says({ view, workers: n, step, stages: p, microbatches: m, schedule }, { held, last, bubble, peaks }) {
      if (view === "pipeline") {
        const most = Math.max(...peaks);
        return `${p} stages, ${m} micro-batch${m > 1 ? "es" : ""}: each stage idles for ${percent(bubble)} of the time, (${p} − 1) / (${m} + ${p} − 1). ` +
          `With ${SCHEDULES[schedule]} the first stage holds the activations of at most ${most}, the last one of ${peaks.at(-1)}.`;
      }
      if (!step) return `Each of ${n} workers has its own ${n} numbers, and all need the sum of every column.`;
      const { from, to, piece } = last[0], { value, was } = held[to][piece];
      const does = was.length ? `which adds its own: ${was[1]} + ${was[0]} = ${value}` : `which keeps this finished sum, ${value}`;
      const end = step === n - 1 ? " Now each worker has one finished sum." : step === 2 * (n - 1) ? " Now all have all the sums." : "";
      return `Move ${step} of ${2 * (n - 1)}: worker ${from} hands ${letter(piece)} to worker ${to}, ${does}. All do alike at once.${end}`;
    },

    build(frame) {
      const views = Object.entries(VIEWS).map(([view, label]) => live.press(label, () => { frame.pause(); frame.change({ view }); }));
      const parts = { ring: ringPart(frame), pipeline: pipelinePart(frame) };
      frame.stage.append(h("div.live-row.live-views", { role: "group", "aria-label": "What is shown" }, views), parts.ring.node, parts.pipeline.node);
      return (state, numbers) => {
        views.forEach((button, i) => button.setAttribute("aria-pressed", String(Object.keys(VIEWS)[i] === state.view)));
        for (const [view, part] of Object.entries(parts)) part.node.hidden = view !== state.view;
        parts[state.view].draw(state, numbers);
      };
    },
  });

  // ---- All-reduce ----

  function ringPart(frame) {
    const gentle = matchMedia("(prefers-reduced-motion: reduce)");
    const workers = live.slider("Workers", { min: 2, max: 8, onchange: (n) => { frame.pause(); frame.change({ workers: n, step: 0 }, { merge: "workers" }); } });
    const slider = live.slider("Move", { min: 0, max: 6, onchange: (step) => { frame.pause(); frame.change({ step }, { merge: "step" }); } });
    const go = (by) => { frame.pause(); frame.change(({ step }) => ({ step: step + by })); };
    const play = live.press("▶ Play", () => (frame.playing ? frame.pause() : start()));
    const back = live.press("← Back", () => go(-1)), step = live.press("Step →", () => go(1));
    const phase = h("div.live-label"), table = h("table.live-held"), counts = h("div.live-sent");

    const end = () => 2 * (frame.state.workers - 1);
    function start() {
      frame.mark("running");
      play.textContent = "❚❚ Pause";
      const move = () => {
        const next = frame.state.step >= end() ? 0 : frame.state.step + 1;
        frame.change({ step: next }, { merge: "play" });
        if (next === end()) frame.pause();
      };
      frame.playing = setInterval(move, PACE);
      move();
    }
    frame.pause = () => {
      if (!frame.playing) return;
      clearInterval(frame.playing);
      frame.playing = 0;
      play.textContent = "▶ Play";
      frame.mark("ready");
    };

    let shown = 0; // the move that stands in the table, to know which way it goes on
    function draw({ workers: n, step: at }, { held, last }) {
      workers.set(n);
      slider.input.max = 2 * (n - 1);
      slider.set(at);
      play.hidden = gentle.matches; // who wants no motion steps by hand
      back.disabled = at === 0;
      step.disabled = at === 2 * (n - 1);
      phase.textContent = at === 0 ? `A row for each worker: its own numbers, in pieces a to ${letter(n - 1)}`
        : at < n ? `Reduce-scatter, move ${at} of ${n - 1}: each hands a piece (dashed) to the next, the last to the first, who adds it (framed)`
          : `All-gather, move ${at - n + 1} of ${n - 1}: finished sums (bold) go round the ring once more and are copied`;
      const senders = new Set(last.map(({ from, piece }) => `${from} ${piece}`));
      const cell = ({ value, of, was }, w, p) => h("td", { class: [of === n && "live-whole", was && "live-came", senders.has(`${w} ${p}`) && "live-went"].filter(Boolean).join(" "), style: `--of: ${(100 * (of - 1)) / n}%` },
        String(value), h("small", {}, was?.length ? `${was[1]}+${was[0]}` : was ? "copy" : "\u00a0"));
      table.replaceChildren(
        h("caption", { class: "live-unseen" }, "The numbers that each worker holds; the stronger the colour, the more workers are in it"),
        h("thead", {}, h("tr", {}, h("th", {}), held.map((_, p) => h("th", { scope: "col" }, letter(p))))),
        h("tbody", {}, held.map((row, w) => h("tr", {}, h("th", { scope: "row" }, h("span.live-wide", {}, "worker "), String(w)), row.map((piece, p) => cell(piece, w, p))))));
      if (at === shown + 1 && !gentle.matches) last.forEach(({ to, piece }, from) => {
        const { value, was } = held[to][piece], row = table.tBodies[0].rows[to], way = (from - to) * row.offsetHeight;
        const chip = h("span.live-chip.live-handed", { "aria-hidden": "true" }, String(was.length ? was[1] : value));
        row.cells[piece + 1].append(chip);
        chip.animate([{ transform: `translateY(${way}px)` }, { transform: "none" }], { duration: PACE / 2, easing: "ease-in-out" }).onfinish = () => chip.remove();
      });
      shown = at;
      const most = (2 * (n - 1)) / n;
      counts.replaceChildren(live.bar("sent", at / n / most, { note: `${at} of ${2 * (n - 1)}` }),
        h("p", {}, `So far each has sent ${at ? `${times(at / n)} its numbers` : "nothing"}. In the end it is 2 (n − 1) / n = 2 · ${n - 1} / ${n} = ${times(most)}, and never more than twice; sending everything to everybody would be ${times(n - 1)}.`));
    }
    return { draw, node: h("div", {},
      h("div.live-columns", {}, workers.node, slider.node), h("div.live-row", {}, play, back, step), phase, table, counts) };
  }

  // ---- A pipeline ----

  function pipelinePart(frame) {
    const stages = live.slider("Stages p", { min: 2, max: 8, onchange: (value) => frame.change({ stages: value }, { merge: "stages" }) });
    const batches = live.slider("Micro-batches m", { min: 1, max: 16, onchange: (value) => frame.change({ microbatches: value }, { merge: "batches" }) });
    const kinds = Object.entries(SCHEDULES).map(([schedule, label]) => live.press(label, () => frame.change({ schedule })));
    const chart = h("div"), told = h("p");
    function draw({ stages: p, microbatches: m, schedule }, numbers) {
      stages.set(p);
      batches.set(m);
      kinds.forEach((button, i) => button.setAttribute("aria-pressed", String(Object.keys(SCHEDULES)[i] === schedule)));
      const bar = live.bar("idle", numbers.bubble, { note: percent(numbers.bubble) });
      chart.replaceChildren(timetable(p, m, numbers, chart.clientWidth || 640), bar);
      told.textContent = TOLD[schedule];
    }
    new ResizeObserver(() => { if (frame.numbers && chart.clientWidth) draw(frame.state, frame.numbers); }).observe(frame.stage);
    return { draw, node: h("div", {},
      h("div.live-columns", {}, stages.node, batches.node), h("div.live-row", { role: "group", "aria-label": "Schedule" }, kinds),
      h("p.live-ask", {}, "How many micro-batches bring the bubble under a tenth, and which schedule holds less?"),
      h("div.live-label", {}, "A row for each stage, time to the right, the number of the micro-batch in the box; a backward pass takes twice as long as a forward pass"), chart, told) };
  }

  // One row a stage, a box for each pass, and what the stage holds at most.
  function timetable(p, m, { passes, time, peaks }, width) {
    const left = 58, right = 66, unit = (width - left - right) / time, high = 26;
    const svg = s("svg", { viewBox: `0 0 ${width} ${high * p + 22}`, class: "live-timetable", role: "img", "aria-label": `Timetable of ${p} stages: at most ${peaks.join(", ")} micro-batches are held` });
    for (let stage = 0; stage < p; stage++) svg.append(
      s("rect", { x: left, y: high * stage, width: unit * time, height: high - 3, class: "live-idle" }),
      s("text", { x: left - 6, y: high * stage + 16, "text-anchor": "end" }, `stage ${stage}`), s("text", { x: width - right + 6, y: high * stage + 16 }, `holds ${peaks[stage]}`));
    for (const { kind, stage, batch, start, length } of passes) {
      const x = left + unit * start, name = kind === "F" ? "forward" : "backward";
      svg.append(s("rect", { x, y: high * stage, width: Math.max(1, unit * length - 1), height: high - 3, class: `live-${name}` },
        s("title", {}, `stage ${stage}: ${name} pass of micro-batch ${batch}`)));
      if (unit * length > 13) svg.append(s("text", { x: x + (unit * length) / 2, y: high * stage + 16, class: "live-in-box" }, String(batch)));
    }
    const key = (x, name, text) => [s("rect", { x, y: high * p + 4, width: 12, height: 12, class: name }), s("text", { x: x + 16, y: high * p + 14 }, text)];
    svg.append(...key(left, "live-forward", "forward"), ...key(left + 76, "live-backward", "backward"), ...key(left + 164, "live-idle", "idle"));
    return svg;
  }
});
