// The element "train": a character transformer learns the book's text, here, in a Web Worker.
// What is stored:
//   onRequest: {file, bytes}: a script that the reader asks for by training. It puts the text, and
//              the source of train.js and train_worker.js, into globalThis.courseTraining;
//   lines:     [{name, loss}]: what to beat, counted when the book was built;
//   recording: {settings, seconds, initial, measures: [{step, valLoss, trainLoss, words, sample}]}.
live.define(function trainFigure(live) {
  "use strict";
  const { h, s } = live;

  const SIZES = {
    small: { width: 32, layers: 1, says: "32 wide, 1 block" },
    medium: { width: 48, layers: 1, says: "48 wide, 1 block" },
    large: { width: 64, layers: 2, says: "64 wide, 2 blocks" },
  };
  const OPTIMIZERS = { muon: "Muon", adam: "Adam" };
  const RATES = { 0.125: "× ⅛", 0.25: "× ¼", 0.5: "× ½", 1: "× 1", 2: "× 2", 4: "× 4", 8: "× 8" };
  const LENGTHS = { 20: "20 seconds", 60: "1 minute", 180: "3 minutes" };
  const START = { size: "small", optimizer: "muon", rate: 1, seconds: 60 };
  const CHOICES = { size: SIZES, optimizer: OPTIMIZERS, rate: RATES, seconds: LENGTHS };
  const KEPT = 3; // runs of the reader's own that stay on the chart
  const whole = (number) => Math.round(number).toLocaleString("en");

  /** A labelled control. */
  const labelled = (text, control) => h("label.live-field", {}, h("span", {}, text), control);

  /** A choice from [[value, text], …]; `chosen(value)` is called with the value's string. */
  function choice(options, value, chosen) {
    const select = h("select", { onchange: () => chosen(select.value) },
      options.map(([key, text]) => h("option", { value: key }, text)));
    select.value = String(value);
    return select;
  }

  class Desk {
    constructor(figure, data) {
      Object.assign(this, { figure, data, loaded: null, worker: null, playing: 0 });
      this.settings = { ...START, ...this.allowed(live.fromAddress("train") ?? {}) };
      this.build();
      this.reset();
      if (live.fromAddress("train")) figure.scrollIntoView({ block: "start" });
      new ResizeObserver(() => this.draw()).observe(this.place);
    }

    // --- what the reader sees ------------------------------------------------------------------

    build() {
      const { press } = live;
      const { settings } = this;
      const options = (all) => Object.entries(all).map(([key, of]) => [key, of.says ?? of]).sort(([a], [b]) => a - b || 0);
      this.controls = Object.fromEntries(Object.entries(CHOICES).map(([name, all]) => [name,
        choice(options(all), settings[name], (value) => this.change(name, value))]));
      this.main = press("", () => this.pressMain());
      this.main.classList.add("live-main");
      this.againButton = press("Train again", () => this.start());
      this.playButton = press("▶ Play", () => this.play());
      this.slider = h("input", { type: "range", min: 0, step: 1,
        oninput: () => this.lookAt(+this.slider.value) });
      this.tiles = Object.fromEntries(["step", "seconds", "training loss", "validation loss"].map(
        (name) => [name, h("dd", {}, "–")]));
      this.chart = s("svg", { class: "live-chart", role: "img" });
      this.place = h("div", { class: "live-chart-place", onpointerdown: (event) => this.point(event),
        onpointermove: (event) => event.buttons && this.point(event) }, this.chart);
      this.sample = h("pre", { class: "live-sample", tabindex: 0, "aria-label": "What the model writes" });
      this.about = h("p", { class: "live-about" });
      this.verdict = h("p", { class: "live-verdict" });
      this.fault = live.faultLine();
      this.said = live.statusLine();
      this.body = h("div", { class: "live-body" },
        h("div", { class: "live-row" }, this.main, this.againButton,
          labelled("Optimizer", this.controls.optimizer), labelled("Learning rate", this.controls.rate),
          labelled("Model", this.controls.size), labelled("Time", this.controls.seconds)),
        this.fault,
        h("dl", { class: "live-tiles" }, ...Object.entries(this.tiles).map(([name, value]) =>
          h("div", {}, h("dt", {}, name), value))),
        h("div", { class: "live-columns" },
          h("div", {}, this.place, this.verdict),
          h("div", { class: "live-writes" }, this.about, this.sample)),
        h("div", { class: "live-row live-look" }, this.playButton,
          labelled("Look back over the run", this.slider)),
        this.said,
        h("div.live-tools", { role: "group", "aria-label": "This figure" },
          press("Reset", () => this.reset(START)),
          press("Copy link", () => live.copyLink("train", this.settings, this.said)),
          press("Save picture", () => this.save())));
      this.figure.querySelector(".live-still")?.remove();
      this.figure.prepend(live.head(ELEMENT), this.body);
    }

    /** Tell what has happened; screen readers read it out. */
    say(sentence) {
      if (this.said.textContent !== sentence) this.said.textContent = sentence;
    }

    /** Back to the stored run. With `settings`, the controls go back to where they were as well. */
    reset(settings) {
      this.stopWorker();
      this.stopPlaying();
      if (settings) {
        this.settings = { ...settings };
        live.toAddress("train", settings);
        for (const [name, control] of Object.entries(this.controls)) control.value = String(settings[name]);
      }
      const { recording } = this.data, last = recording.measures.at(-1);
      const stored = { ...last, label: `stored run of ${whole(last.step)} steps`, colour: 0, measures: recording.measures, trace: [] };
      Object.assign(stored, { seconds: recording.seconds, stored: true });
      this.runs = [stored];
      this.fault.hidden = true;
      this.say("");
      this.state(this.loaded === null ? "stored" : "ready");
      this.at = this.run.measures.length - 1;
      this.draw();
    }

    get run() {
      return this.runs.at(-1);
    }

    state(name) {
      this.figure.dataset.state = name;
      const { run } = this, size = `${(this.data.onRequest.bytes / 1e6).toFixed(1)} MB of text`;
      const texts = { loading: "Loading the text …", running: "Pause" };
      const fresh = this.loaded === null ? `Train here (loads ${size})` : "Train here";
      this.main.textContent = texts[name] ?? (run?.stored === false && !run.dead ? "Go on" : fresh);
      this.main.setAttribute("aria-disabled", name === "loading"); // disabled, it would lose the focus
      this.againButton.hidden = run?.stored !== false;
      this.playButton.disabled = name === "running";
    }

    draw() {
      const { run, tiles } = this, measured = run.measures[this.at] ?? run;
      this.slider.max = run.measures.length - 1;
      this.slider.value = this.at;
      const then = this.at < run.measures.length - 1 ? measured : run; // looking back, or as it is
      tiles.step.textContent = whole(then.step);
      tiles.seconds.textContent = run.seconds.toFixed(run.seconds < 100 ? 1 : 0);
      tiles["training loss"].textContent = then.trainLoss.toFixed(2);
      tiles["validation loss"].textContent = (then.valLoss ?? run.measures.at(-1)?.valLoss ?? run.trainLoss).toFixed(2);
      this.sample.textContent = (measured.sample ?? "").replace(/^\n+/, "");
      const words = `${Math.round(100 * (measured.words ?? 0))}% of its words occur in the plays`;
      this.about.replaceChildren(h("strong", {}, `At step ${whole(measured.step)}`),
        ` it writes; ${words}.`);
      this.slider.setAttribute("aria-valuetext", `step ${measured.step}, validation loss ` +
        `${measured.valLoss?.toFixed(2)}, ${words}`);
      this.verdict.textContent = verdict(run, this.data.lines);
      const width = Math.max(280, this.place.clientWidth || 640);
      drawChart(this.chart, width, Math.round(Math.min(330, Math.max(230, 0.56 * width))), this);
      this.chart.setAttribute("aria-label", `Validation loss over steps. ${this.verdict.textContent}`);
    }

    // --- the reader's hands --------------------------------------------------------------------

    pressMain() {
      if (this.loading) return;
      if (this.figure.dataset.state === "running") this.pause();
      else if (this.run.stored || this.run.dead) this.start();
      else this.goOn();
    }

    change(name, value) {
      this.settings[name] = name === "rate" || name === "seconds" ? +value : value;
      live.toAddress("train", this.settings);
      if (this.run.stored) return;
      if (name === "rate" && this.get().running) {
        this.newRate();
        this.say(`The learning rate is ${RATES[value]} of the usual from here on.`);
        this.draw();
      } else this.say(["size", "optimizer"].includes(name) ? "That counts from the next run on: Train again." : "That counts when you go on.");
    }

    /** Tell the run, and its name, that the learning rate is another from here on. */
    newRate() {
      const { run } = this, { rate } = this.settings;
      if (run.rate === rate) return;
      run.label = run.label.replace(/(×[^,]*?)( → ×[^,]*)?,/, `$1 → ${RATES[rate]},`);
      run.rate = rate;
      this.worker?.postMessage({ do: "rate", rate });
    }

    lookAt(index) {
      this.stopPlaying();
      this.at = Math.min(Math.max(0, index), this.run.measures.length - 1);
      this.draw();
    }

    /** Touch or click on the chart: look at the measure nearest to that step. */
    point(event) {
      const box = this.place.getBoundingClientRect(), { left, right, steps } = this.chart.scale;
      const step = ((event.clientX - box.left - left) / (right - left)) * steps;
      const far = this.run.measures.map((measure) => Math.abs(measure.step - step));
      this.lookAt(far.indexOf(Math.min(...far)));
    }

    /** Walk through the run from its beginning, or from where the slider stands. */
    play() {
      if (this.playing) return this.stopPlaying();
      if (this.at >= this.run.measures.length - 1) this.at = 0;
      this.playButton.textContent = "❚❚ Stop";
      this.playing = setInterval(() => {
        this.at += 1;
        this.draw();
        if (this.at >= this.run.measures.length - 1) this.stopPlaying();
      }, 400);
      this.draw();
    }

    stopPlaying() {
      clearInterval(this.playing);
      this.playing = 0;
      this.playButton.textContent = "▶ Play";
    }

    save() {
      return live.savePicture({ ...this, name: `training-step-${this.run.measures[this.at].step}` });
    }

    // --- the text and the worker ---------------------------------------------------------------

    /** Load the text, once. Resolves when it is there; a fault becomes a sentence, and rejects. */
    load() {
      if (this.loaded !== null) return Promise.resolve();
      this.loading ??= this.fetchText().finally(() => { this.loading = null; });
      return this.loading;
    }

    async fetchText() {
      this.fault.hidden = true;
      this.state("loading");
      try {
        await live.script(`model/${this.data.onRequest.file}`);
        if (!globalThis.courseTraining) throw new Error("there is no text in the file");
      } catch {
        const sentence = "The text to train on did not arrive. Look at the connection, then press the " +
          "button again. The stored run works without it.";
        this.fail(sentence);
        throw new Error(sentence);
      }
      this.loaded = globalThis.courseTraining;
      this.state("ready");
    }

    fail(sentence) {
      this.stopWorker();
      if (this.run.stored === false) this.run.dead = true;
      this.fault.textContent = sentence;
      this.fault.hidden = false;
      this.state("error");
      this.draw();
    }

    /** A new run with the settings as they are. `steps`: its length in steps instead of seconds. */
    async start(steps) {
      this.stopWorker();
      this.stopPlaying();
      try {
        await this.load();
      } catch { return; } // the reader has the sentence
      this.fault.hidden = true;
      const { settings } = this, { width, layers } = SIZES[settings.size];
      const own = this.runs.filter((run) => !run.stored).slice(1 - KEPT);
      const colour = [1, 2, 3].find((number) => own.every((run) => run.colour !== number));
      const initial = this.data.recording.initial;
      this.runs = [this.runs[0], ...own, { label: labelOf(settings), rate: settings.rate, colour, stored: false, step: 0,
        seconds: 0, trainLoss: initial, measures: [], trace: [] }];
      this.at = 0;
      this.length = steps ? { steps } : { seconds: settings.seconds };
      const { optimizer, rate } = settings;
      this.tell({ do: "start", text: this.loaded.text, length: this.length,
        settings: { ...this.data.recording.settings, width, layers, optimizer, rate } });
      this.draw();
    }

    tell(message) {
      try {
        this.worker ??= this.makeWorker();
        this.worker.postMessage(message);
        this.state("running");
        this.say(message.do === "start" ? "Training has begun. The first numbers come in a moment." : "Training goes on.");
      } catch {
        this.fail("This browser lets the page compute nothing beside itself (no Web Worker). The " +
          "stored run works all the same; to train, open the page in another browser.");
      }
    }

    makeWorker() {
      const source = this.loaded.engine.replace(/^export /gm, ""); // a classic script: it works from file://
      const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      const worker = new Worker(address);
      worker.onmessage = ({ data }) => this.hear(data);
      worker.onerror = (event) => {
        event.preventDefault();
        this.fail(`The training broke off (${event.message || "the browser gave no reason"}). ` +
          "A smaller model needs less memory; train again.");
      };
      URL.revokeObjectURL(address);
      return worker;
    }

    stopWorker() {
      this.worker?.terminate();
      this.worker = null;
      this.paused?.();
    }

    hear({ kind, message, finished, ...news }) {
      const { run } = this;
      if (kind === "fault") return this.fail(message);
      if (kind === "stopped") {
        this.state("ready");
        const early = finished && run.measures.at(-1)?.valLoss > this.data.lines[0].loss;
        this.say(`${finished ? "The run is over" : "Paused"} at step ${run.step}.${early ? " It has not passed the first line yet: Go on." : ""}`);
        this.paused?.();
      }
      if (kind === "progress") {
        Object.assign(run, news);
        run.trace.push([run.step, run.trainLoss]);
        if (run.trace.length > 400) run.trace = run.trace.filter((_, i) => i % 2);
      }
      if (kind === "measure") {
        const follows = this.at >= run.measures.length - 1, before = verdict(run, this.data.lines);
        run.measures.push(news);
        if (follows) this.at = run.measures.length - 1;
        const now = verdict(run, this.data.lines);
        if (now !== before && run.measures.length > 1) this.say(now);
      }
      this.draw();
    }

    pause() {
      this.worker?.postMessage({ do: "pause" });
      return new Promise((resolve) => {
        this.paused = () => { this.paused = null; resolve(); };
      });
    }

    goOn() {
      if (this.length.seconds) this.length = { seconds: this.settings.seconds };
      this.newRate();
      this.tell({ do: "go on", length: this.length });
    }

    // --- the contract --------------------------------------------------------------------------

    get() {
      const { run, settings } = this, measured = run.measures[this.at];
      return { step: run.step, seconds: run.seconds, train_loss: run.trainLoss,
        val_loss: run.measures.at(-1)?.valLoss ?? null, sample: measured?.sample ?? "",
        running: this.figure.dataset.state === "running", ...settings,
        looking_at: measured?.step ?? 0, stored: run.stored, runs: this.runs.length };
    }

    /**
     * set({size, optimizer, rate, seconds, steps, running, looking_at}), any of them; resolves when
     * drawn. running: true trains or goes on; with `steps`, a new run of exactly that many steps.
     */
    async set({ running, steps, looking_at: step, ...settings }) {
      const allowed = this.allowed(settings);
      const wrong = Object.keys(settings).find((name) => !(name in allowed));
      if (wrong) {
        const choices = CHOICES[wrong] ? `one of ${Object.keys(CHOICES[wrong]).join(", ")}` : "no field of train";
        throw new Error(`${wrong}=${settings[wrong]}: expected ${choices}.`);
      }
      for (const [name, value] of Object.entries(allowed)) {
        this.controls[name].value = String(value);
        this.change(name, value);
      }
      if (running === false && this.get().running) await this.pause();
      if (running === true && (steps || this.run.stored || this.run.dead)) await this.start(steps);
      else if (running === true && !this.get().running) this.goOn();
      if (step !== undefined) {
        const far = this.run.measures.map((measure) => Math.abs(measure.step - step));
        this.lookAt(far.indexOf(Math.min(...far)));
      }
      this.draw();
    }

    /** Those of the fields that are settings with a value that there is. */
    allowed(fields) {
      const fine = Object.entries(fields).filter(([name, value]) => CHOICES[name] &&
        Object.hasOwn(CHOICES[name], String(value)));
      return Object.fromEntries(fine.map(([name, value]) =>
        [name, name === "rate" || name === "seconds" ? +value : value]));
    }
  }

  /** "Muon × 1, 48 wide, 1 block". */
  function labelOf({ optimizer, rate, size }) {
    return `${OPTIMIZERS[optimizer]} ${RATES[rate]}, ${SIZES[size].says}`;
  }

  /** Which of the counting models the run has passed, as a sentence. */
  function verdict(run, lines) {
    const loss = run.measures.at(-1)?.valLoss;
    if (loss === undefined) return "";
    const passed = lines.filter((line) => loss < line.loss), open = lines.filter((line) => loss >= line.loss);
    const where = passed.length ? `below the ${passed.at(-1).name}` : `not yet below the ${lines[0].name}`;
    const next = passed.length && open.length ? `, ${(loss - open[0].loss).toFixed(2)} above the ${open[0].name}` : "";
    return `${run.stored ? "The stored run" : "Your model"} is ${where}${next}: ${loss.toFixed(2)} nats a character.`;
  }

  // --- the chart -------------------------------------------------------------------------------

  /** Validation losses as lines with points, the running average of the training loss thin beside them. */
  function drawChart(svg, width, height, { runs, run, at, data }) {
    const left = 38, right = width - 12, top = 24, bottom = height - 34;
    const own = runs.filter((one) => !one.stored || runs.length === 1); // theirs decide how far it goes
    const steps = niceEnd(Math.max(...own.map((one) => one.step)));
    const lowest = Math.min(1.75, ...runs.flatMap((one) => one.measures.map((m) => m.valLoss))) - 0.1;
    const highest = steps > 800 ? 3.6 : 4.3, clipped = (loss) => Math.min(highest, Math.max(lowest, loss));
    const x = (step) => left + (step / steps) * (right - left);
    const y = (loss) => bottom - ((clipped(loss) - lowest) / (highest - lowest)) * (bottom - top);
    svg.scale = { left, right, steps };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    const parts = [];
    const add = (name, attributes, ...text) => parts.push(s(name, attributes, ...text));
    for (let loss = Math.ceil(2 * lowest) / 2; loss <= highest; loss += 0.5) {
      add("line", { class: "live-grid", x1: left, x2: right, y1: y(loss), y2: y(loss) });
      add("text", { class: "live-tick", x: left - 6, y: y(loss) + 4, "text-anchor": "end" }, loss.toFixed(1));
    }
    for (let step = 0; step <= steps; step += steps / 4) {
      const anchor = step === 0 ? "start" : step === steps ? "end" : "middle";
      add("text", { class: "live-tick", x: x(step), y: bottom + 15, "text-anchor": anchor }, whole(step));
    }
    add("text", { class: "live-tick", x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, "training step");
    add("text", { class: "live-tick", x: 4, y: 13 }, "loss in nats a character; thin: training loss");
    for (const { name, loss } of data.lines) {
      add("line", { class: "live-beat", x1: left, x2: right, y1: y(loss), y2: y(loss) });
      // above the line, where the curve is gone by then; the lowest below, where it has not come yet
      const under = loss === Math.min(...data.lines.map((line) => line.loss));
      add("text", { class: "live-beat-name", x: right, y: y(loss) + (under ? 14 : -4), "text-anchor": "end" }, `${name} ${loss.toFixed(2)}`);
    }
    runs.forEach((one, number) => drawRun(add, one, one === run, { x, y, steps, highest, right, top, number }));
    const looked = run.measures[at];
    if (looked) {
      add("line", { class: "live-looked", x1: x(looked.step), x2: x(looked.step), y1: top, y2: bottom });
      add("circle", { class: `live-point live-run-${run.colour}`, cx: x(looked.step), cy: y(looked.valLoss), r: 6 });
    }
    svg.replaceChildren(...parts);
  }

  function drawRun(add, one, isLast, { x, y, steps, highest, right, top, number }) {
    const colour = `live-run-${one.colour}`, faint = isLast ? "" : "live-faint";
    const path = (pairs) => pairs.map(([step, loss], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`).join("");
    if (one.trace.length > 1) add("path", { class: `live-trace ${colour} ${faint}`, d: path(one.trace) });
    const pairs = upTo(steps, one.measures.map((measure) => [measure.step, measure.valLoss]));
    if (pairs.length > 1) add("path", { class: `live-curve ${colour} ${faint}`, d: path(pairs) });
    if (isLast) pairs.filter(([, loss]) => loss < highest).forEach(([step, loss]) => add("circle", { class: `live-dot ${colour}`, cx: x(step), cy: y(loss), r: 2 }));
    const loss = one.measures.at(-1)?.valLoss;
    add("text", { class: `live-name ${colour}`, x: right, y: top + 12 + 17 * number, "text-anchor": "end" },
      `${one.label}${loss === undefined ? "" : `: ${loss.toFixed(2)}`}`);
  }

  /** A line of [step, loss] as far as the chart goes, cut between two points where that must be. */
  function upTo(steps, pairs) {
    const inside = pairs.filter(([step]) => step <= steps), [after] = pairs.slice(inside.length);
    if (!after || !inside.length) return inside;
    const [step, loss] = inside.at(-1), share = (steps - step) / (after[0] - step);
    return [...inside, [steps, loss + share * (after[1] - loss)]];
  }

  /** The next of 200, 400, 800, 1,200, 1,600, 2,400, 3,200, 4,000, 8,000 … that is not smaller. */
  function niceEnd(steps) {
    for (let unit = 100; ; unit *= 10) {
      const end = [2, 4, 8, 12, 16, 24, 32].find((factor) => factor * unit >= steps);
      if (end) return end * unit;
    }
  }

  const ELEMENT = {
    title: "A language model learns, here",
    hint: "Train one of your own and watch it pass the bigram, which guesses from the last character alone. Then take the other optimizer, or a learning rate of × 8.",

    /** Bring a figure to life. */
    mount(figure, data) {
      const desk = new Desk(figure, data);
      figure.live = {
        get: () => desk.get(),
        set: (wanted) => desk.set(wanted),
        load: () => desk.load(),
      };
    },
  };
  live.element("train", ELEMENT);
});
