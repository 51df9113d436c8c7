// What all living figures have in common: a frame with a hint, the button that loads the model, undo,
// reset, a link, a picture; state in the address; one sentence that says what changed.
//
// An element is an object:
//   title, hint         what it is, and one thing to try
//   initial(stored)     the state it begins with, plain data
//   tidy(state, stored) the state with every value in its range: an address may hold anything
//   loads               "model" (the default), "tokenizers", "more" of its own, as stored.more = {name, file,
//                       version, bytes} says, or "" if it computes by itself
//   needs(state, frame) what must be loaded to show a state: "", "tokenizers" or "model"
//   numbers(state, frame)     a promise of what is shown
//   build(frame)        makes the controls in frame.stage, returns draw(state, numbers)
//   report(state, numbers)    what figure.live.get() tells
//   says(state, numbers)      a sentence for the status line, which screen readers read out
// One that is no function of a state, because it runs, has `mount(figure, stored)` instead of all but
// title and hint; it uses the same head, buttons, address, picture and classes.
live.define(function shell(live) {
  "use strict";

  live.stored = {};
  const elements = {};
  live.element = (name, definition) => (elements[name] = definition);

  // ---- Making elements: whatever is text stays text ----

  function filled(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "style") node.style.cssText = value;
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
    return node;
  }
  live.h = (tag, attributes, ...children) => {
    const [name, ...classes] = tag.split(".");
    const node = document.createElement(name || "div");
    if (classes.length) node.className = classes.join(" ");
    if (name === "button") node.type = "button";
    return filled(node, attributes, children);
  };
  live.s = (tag, attributes, ...children) =>
    filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  const { h } = live;

  // A token as the book writes it: a dot for a space, an arrow for a line break.
  live.visible = (token) => token.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
  live.percent = (p) => (p >= 0.0995 ? (100 * p).toFixed(0) : p >= 0.00095 ? (100 * p).toFixed(1) : p ? "<0.1" : "0") + "%";
  live.short = (v) => (v === -Infinity ? "−∞" : Math.abs(v) >= 100 ? v.toFixed(0) : v.toPrecision(3)).replace("-", "−");
  live.clamp = (value, low, high, otherwise) =>
    Number.isFinite(+value) ? Math.min(Math.max(+value, low), high) : otherwise;
  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e6 ? 1 : 0)} MB`;

  // Text with `code` in backticks, as nodes.
  live.code = (text) => text.split("`").map((part, n) => (n % 2 ? h("code", {}, part) : part));

  // A labelled slider with its value beside it.
  live.slider = function (label, { min, max, step = 1, show = String, onchange }) {
    const output = h("output.live-value");
    const input = h("input", { type: "range", min, max, step, oninput: () => { output.value = show(+input.value); onchange(+input.value); } });
    const node = h("label.live-slider", {}, h("span", {}, label), input, output);
    return { node, input, set: (value) => { input.value = value; output.value = show(+value); input.setAttribute("aria-valuetext", output.value); } };
  };

  // A row with a bar: a token and how likely it is; `before` draws where the bar was.
  live.bar = function (token, p, { scale = 1, before, tag = "span", attributes = {}, note } = {}) {
    const length = (value) => `${Math.min(100, 100 * value * scale).toFixed(2)}%`;
    return h(`${tag}.live-bar`, { ...attributes, style: `--p: ${length(p)}; --before: ${length(before ?? p)}` },
      h("span.live-token", {}, live.visible(token)), h("span.live-track", {}), h("span.live-p", {}, note ?? live.percent(p)));
  };

  live.head = ({ title, hint }) =>
    h("div.live-head", {}, h("strong.live-title", {}, title), h("span.live-hint", {}, hint));
  live.press = (label, onclick, attributes) => h("button.live-button", { onclick, ...attributes }, label);
  live.statusLine = () => h("p.live-said", { role: "status", "aria-live": "polite" });
  live.faultLine = () => h("p.live-fault", { role: "alert", hidden: true });

  // ---- The address: #live=NAME&text=… ----

  // The fields that the address holds for a figure, as strings, or null.
  live.fromAddress = function (name) {
    const { live: wanted, ...fields } = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    return wanted === name ? fields : null;
  };

  const hashOf = (name, fields) => `#${new URLSearchParams({ live: name, ...fields })}`;

  live.toAddress = function (name, fields) {
    try { history.replaceState(history.state, "", hashOf(name, fields)); } catch { /* too often, or too long */ }
  };

  live.copyLink = async function (name, fields, said) {
    live.toAddress(name, fields);
    try {
      await navigator.clipboard.writeText(location.href.split("#")[0] + hashOf(name, fields));
      said.textContent = "The link is copied. It leads to this figure as it is now.";
    } catch {
      said.textContent = "The address bar now holds the link to this figure as it is.";
    }
  };

  // ---- One figure ----

  class Frame {
    constructor(figure, name) {
      Object.assign(this, { figure, name, stored: live.stored[name], past: [], turn: 0, engine: live.engine });
      this.definition = elements[name];
      this.loads = this.definition.loads ?? "model";
      this.wantsModel = this.loads === "model";
      this.state = this.definition.tidy(this.definition.initial(this.stored), this.stored);
    }

    // Whether all that this figure can use is there.
    get ready() { return !this.loads || (this.wantsModel ? this.engine.ready : Boolean(this.loaded && (this.stored.more || this.engine.worker))); }

    async start() {
      const { definition, figure } = this;
      this.stage = h("div.live-stage");
      this.said = live.statusLine();
      this.fault = live.faultLine();
      this.tools = h("div.live-tools", { role: "group", "aria-label": "This figure" });
      figure.querySelector(".live-still")?.remove();
      figure.prepend(live.head(definition), this.stage, this.said, this.fault, this.tools);
      this.makeTools();
      this.draw = definition.build(this);
      this.numbers = await definition.numbers(this.state, this);
      this.show();
      figure.live = {
        get: () => JSON.parse(JSON.stringify(definition.report(this.state, this.numbers))),
        set: (changes) => this.set(changes),
        load: () => this.load(),
      };
      if (this.wantsModel) this.engine.onready.add(() => this.onready());
      if (this.ready) this.onready();
      await this.fromAddress();
    }

    makeTools() {
      const button = live.press;
      this.loader = button("", () => this.load().catch(() => {}), {});
      this.loader.classList.add("live-load");
      this.stopper = button("Stop loading", () => this.abort?.abort(), { hidden: true });
      this.bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Loading" });
      this.undo = button("Undo", () => this.back(), { disabled: true });
      const reset = button("Reset", () => this.reset());
      const link = live.copyLink ? button("Copy link", () => this.copyLink()) : "";
      const picture = button("Save picture", () => live.savePicture(this));
      this.tools.append(this.loader, this.bar, this.stopper, h("span.live-gap"), this.undo, reset, link, picture);
      this.label();
    }

    async label() {
      this.loader.hidden = !this.loads;
      if (!this.loads) return;
      const bytes = (...files) => files.reduce((sum, file) => sum + live.assets[file].bytes, 0), { more } = this.stored;
      const [name, size] = more ? [more.name, more.bytes] : this.wantsModel ? ["GPT-2 mini", bytes("gpt2-mini.bin", "merges.txt")]
        : ["the tokenizers", bytes("merges.txt", "bert-vocabulary.txt")];
      this.loader.textContent = `Load ${name} (${megabytes(size)})`;
      if (this.wantsModel && (await live.isCached("gpt2-mini.bin"))) this.loader.textContent = "Start GPT-2 mini (this browser has it)";
    }

    mark(state) { this.figure.dataset.state = state; }

    show() {
      this.draw(this.state, this.numbers);
      this.said.replaceChildren(...live.code(this.definition.says(this.state, this.numbers)));
      this.undo.disabled = !this.past.length;
    }

    // Change the state. What the model must compute waits until the reader loads it; all else
    // is small and comes by itself. Changes with the same `merge`, such as one slider's, are one undo.
    // A change may be a function of the state, which then includes what is still being computed.
    async change(changes, { remember = true, load = false, merge = null } = {}) {
      const need = this.definition.needs(this.tidied(changes), this);
      if (need && !this.ready) {
        if (need === "model" && !load) return this.ask(changes);
        try { await this.load(); } catch (error) { if (load) throw error; return; }
      }
      const turn = ++this.turn, next = (this.wanted = this.tidied(changes));
      const late = setTimeout(() => this.figure.setAttribute("aria-busy", "true"), 150); // a slow machine's sign of life
      let numbers;
      try {
        numbers = await this.definition.numbers(next, this);
      } catch (error) {
        if (turn === this.turn) this.wanted = null;
        return this.fail(error);
      } finally {
        clearTimeout(late);
        if (turn === this.turn) this.figure.removeAttribute("aria-busy");
      }
      if (turn !== this.turn) return; // a later change has overtaken this one
      this.fault.hidden = true;
      const goesOn = merge && merge === this.merging && performance.now() - this.changed < 1500;
      if (remember && !goesOn) this.past.push(this.state);
      if (this.past.length > 100) this.past.shift();
      Object.assign(this, { state: next, numbers, wanted: null, pending: null, merging: merge, changed: performance.now() });
      this.show();
      this.writeAddress();
    }

    tidied(changes) {
      const from = this.wanted ?? this.state;
      return this.definition.tidy({ ...from, ...(typeof changes === "function" ? changes(from) : changes) }, this.stored);
    }

    async set(changes) {
      await this.change(this.definition.accept?.(changes) ?? changes, { load: true });
    }

    // Say that a change needs the model, and keep it until it is there.
    ask(changes) {
      this.pending = changes;
      this.said.textContent = "For this the model itself has to compute. Load it, and what you did is done then. It stays in your browser: nothing that you type leaves this page.";
      this.said.scrollIntoView({ block: "nearest" });
      this.figure.classList.add("live-asks");
    }

    async load() {
      if (!this.ready) await (this.loading ??= this.fetch().finally(() => { this.loading = null; }));
    }

    async fetch() {
      this.abort = new AbortController();
      this.mark("loading");
      this.fault.hidden = true;
      for (const node of [this.bar, this.stopper]) node.hidden = false;
      this.loader.hidden = true;
      const { more } = this.stored, blind = more || live.base.startsWith("file:"); // no way to know how far
      if (blind) this.bar.removeAttribute("value");
      try {
        const options = { progress: (share) => { if (!blind) this.bar.value = share; }, signal: this.abort.signal };
        if (more) this.loaded = await live.bring(more.file, { ...more, ...options });
        else if (this.wantsModel) await this.engine.load(options);
        else await Promise.all([this.engine.loadTokenizer(options), this.engine.loadWordPiece(options)]);
      } catch (error) {
        this.loader.hidden = false;
        this.fail(error);
        throw error;
      } finally {
        for (const node of [this.bar, this.stopper]) node.hidden = true;
      }
      if (this.wantsModel) return;
      this.loaded ??= true;
      await this.onready();
    }

    async onready() {
      this.loader.hidden = true;
      this.figure.classList.remove("live-asks");
      this.mark("ready");
      const changes = this.pending ?? {};
      await this.change(changes, { remember: Boolean(this.pending) });
    }

    fail(error) {
      this.mark("error");
      this.fault.textContent = error instanceof live.Fault ? error.message
        : `This did not work (${error.message}). Press Reset; if it happens again, reload the page.`;
      this.fault.hidden = false;
      if (!this.ready) this.loader.hidden = false;
    }

    async back() {
      const before = this.past.pop();
      if (before) await this.change(before, { remember: false });
    }

    async reset() {
      this.definition.stop?.(this);
      this.pending = null;
      this.figure.classList.remove("live-asks");
      this.fault.hidden = true;
      this.mark(this.ready ? "ready" : "stored");
      await this.change(this.definition.initial(this.stored));
    }

    // What differs from the beginning, as the address holds it.
    fields() {
      const start = this.definition.initial(this.stored), fields = {};
      for (const [key, value] of Object.entries(this.state))
        if (JSON.stringify(value) !== JSON.stringify(start[key]))
          fields[key] = typeof value === "string" ? value : JSON.stringify(value);
      return fields;
    }

    writeAddress() { live.toAddress(this.name, this.fields()); }

    async fromAddress() {
      const parts = live.fromAddress(this.name);
      if (!parts) return;
      const changes = {}, start = this.definition.initial(this.stored);
      for (const [key, value] of Object.entries(parts)) {
        if (!(key in start)) continue;
        try { changes[key] = typeof start[key] === "string" ? value : JSON.parse(value); } catch { /* left as it is */ }
      }
      this.figure.scrollIntoView();
      await this.change(changes, { remember: false });
    }

    copyLink() { return live.copyLink(this.name, this.fields(), this.said); }
  }

  // A picture of the figure; what draws it comes when it is asked for.
  live.savePicture = async function (frame) {
    try {
      if (!live.pictureOf) await live.script("picture.js", "picture");
      frame.said.textContent = await live.download(frame.figure, frame.name);
    } catch (error) { frame.said.textContent = `There is no picture: ${error.message}`; }
  };

  // ---- The page ----

  live.awaken = function (root) {
    for (const figure of root.querySelectorAll("figure.live[data-live]")) {
      const name = figure.dataset.live, definition = elements[name];
      if (!definition || !live.stored[name]) continue;
      if (definition.mount) definition.mount(figure, live.stored[name]);
      else new Frame(figure, name).start();
    }
  };
  document.addEventListener("DOMContentLoaded", () => live.awaken(document));
});
