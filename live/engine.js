// The engine: a worker that holds the model, and the page's side of it. Elements ask it for numbers
// (`encode`, `next`, `trace`, ...) and never for the network; only those that begin with `load` do that.
live.define(function engine(live) {
  "use strict";

  // ---- In the worker ------------------------------------------------------------------------

  // Answer messages {id, name, args} with {id, result} or {id, error}.
  live.serve = function (scope) {
    const desk = new Desk();
    scope.onmessage = ({ data: { id, name, args } }) => {
      try {
        const result = desk[name](...args);
        scope.postMessage({ id, result }, [...new Set(buffersOf(result))]);
      } catch (error) {
        scope.postMessage({ id, error: error.message });
      }
    };
  };

  function* buffersOf(value) {
    if (ArrayBuffer.isView(value)) yield value.buffer;
    else if (value && typeof value === "object") for (const part of Object.values(value)) yield* buffersOf(part);
  }

  class Desk {
    setTokenizer(merges) {
      this.gpt2 = new live.Tokenizer(merges);
    }

    setWordPiece(vocabulary) {
      this.bert = new live.WordPiece(vocabulary);
    }

    setModel(buffer) {
      this.whole = live.readModel(buffer);
      this.coarse = {}; // by bits, the model with fewer of them
      this.read = { ids: [], cache: live.newCache(this.whole), key: "" };
      for (let i = 0; i < 2; i++) this.logits([0, 1, 2]); // the first calls are slow: not the reader's
      return this.whole.config;
    }

    // Return {ids, tokens}: tokens are texts, so a character in two tokens shows as U+FFFD.
    encode(text) {
      const ids = this.gpt2.encode(text);
      return { ids, tokens: ids.map((id) => this.gpt2.decode([id])) };
    }

    decode(ids) {
      return this.gpt2.decode(ids);
    }

    // Return what GPT-2's tokenizer does with a text: its pieces, each with its stages from bytes to ids.
    pieces(text) {
      return this.gpt2.pieces(text).map((piece) => {
        if (piece === "<|endoftext|>") return { piece, stages: [{ ids: [this.gpt2.end], joined: null, tokens: [piece] }] };
        return { piece, stages: this.merges(piece) };
      });
    }

    merges(piece) {
      return this.gpt2.mergesOf(piece).map(({ ids, joined }) => ({ ids, joined, tokens: ids.map((id) => this.gpt2.decode([id])) }));
    }

    wordpiece(text) {
      const ids = this.bert.encode(text);
      return { ids, tokens: ids.map((id) => this.bert.entries[id]) };
    }

    model(bits = 8) {
      if (bits === 8) return this.whole;
      return (this.coarse[bits] ??= live.withBits(this.whole, bits));
    }

    // Return what fits of a text: when the window is full, its first quarter is forgotten at once.
    window(ids) {
      const { n_positions } = this.whole.config, stride = n_positions / 4;
      return ids.slice(stride * Math.ceil(Math.max(ids.length - n_positions, 0) / stride));
    }

    // The logits after `ids`. What was read before with the same edits is not read again.
    logits(ids, edits = {}) {
      ids = this.window(ids);
      const key = JSON.stringify(edits), { cache } = this.read;
      let known = 0;
      if (key === this.read.key && edits.causal !== false)
        while (known < ids.length - 1 && ids[known] === this.read.ids[known]) known++;
      cache.length = Math.min(known, cache.length);
      const logits = live.forward(this.model(edits.bits), ids.slice(cache.length), { cache, edits });
      this.read = { ids, cache, key };
      return logits;
    }

    // The next token after `ids`: the likeliest ten, one that is drawn, and the logits if wanted.
    next(ids, { knobs = {}, edits = {}, u, logits: wanted = false } = {}) {
      const logits = this.logits(ids, edits);
      const p = live.softmax(live.reshape(logits, knobs, ids));
      const drawn = live.draw(p, u);
      const name = ([id, chance]) => [this.gpt2.decode([id]), chance, id];
      const top = live.mostLikely(p, 10).map(name);
      return { top, drawn: name([drawn, p[drawn]]), ...(wanted && { logits }) };
    }

    // Every intermediate, by block and name as in chapter 6, and the likeliest ten at the end.
    trace(ids, edits = {}) {
      const steps = {}, fits = this.window(ids);
      const logits = live.forward(this.model(edits.bits), fits, { edits, steps });
      const top = live.mostLikely(live.softmax(logits), 10).map(([id, p]) => [this.gpt2.decode([id]), p, id]);
      return { steps, top, lens: this.lens(steps, fits.length) };
    }

    // The likeliest three at the last position if the model ended after each step of the stream.
    lens(steps, T) {
      const { n_layer, n_embd: C } = this.whole.config;
      const streams = [steps["stream at the start"]];
      for (let l = 0; l < n_layer; l++) streams.push(steps[l]["after attention"], steps[l]["block out"]);
      return streams.map(({ data }) => {
        const p = live.softmax(live.lens(this.whole, data.subarray((T - 1) * C), 1));
        return live.mostLikely(p, 3).map(([id, chance]) => [this.gpt2.decode([id]), chance]);
      });
    }
  }

  // ---- In the page ----------------------------------------------------------------------------

  // A fault that is told to the reader as it is: what happened, and a way on.
  class Fault extends Error {}
  live.Fault = Fault;

  class Engine {
    constructor() {
      this.waiting = new Map(); // calls without an answer yet
      this.count = 0;
      this.model = null; // a promise while it loads and after
      this.tokenizer = null;
      this.bert = null;
      this.ready = false;
      this.onready = new Set();
    }

    call(name, ...args) {
      return new Promise((resolve, reject) => {
        const id = ++this.count;
        this.waiting.set(id, { resolve, reject });
        const buffers = args.filter((value) => value instanceof ArrayBuffer);
        this.worker.postMessage({ id, name, args }, buffers);
      });
    }

    // Start the worker from the text of the parts that it runs: that works from a folder too.
    start() {
      if (this.worker) return;
      const parts = live.parts.filter((part) => ["tokenizer", "wordpiece", "gpt2", "sampling", "engine"].includes(part.name));
      const source = `var live = {};\n${parts.map((part) => `(${part})(live);`).join("\n")}\nlive.serve(self);`;
      try {
        this.worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
      } catch {
        throw new Fault("This browser starts no worker here, and the model needs one. Another browser, or this page without blocking add-ons, will do.");
      }
      this.worker.onmessage = ({ data: { id, result, error } }) => {
        const { resolve, reject } = this.waiting.get(id) ?? {};
        this.waiting.delete(id);
        if (error !== undefined) reject?.(new Fault(error));
        else resolve?.(result);
      };
      this.worker.onerror = () => this.stop("The model stopped unexpectedly, perhaps for want of memory. Close other pages, then load it again.");
    }

    // End the worker; whoever waits is told why.
    stop(why) {
      this.worker?.terminate();
      for (const { reject } of this.waiting.values()) reject(new Fault(why));
      Object.assign(this, { worker: null, model: null, tokenizer: null, bert: null, ready: false });
      this.waiting.clear();
    }

    // Load GPT-2's tokenizer, once. `progress` is told the share that has come, from 0 to 1.
    loadTokenizer(options = {}) {
      this.tokenizer ??= this.attempt("tokenizer", () => this.hand("setTokenizer", "merges.txt", options));
      return this.tokenizer;
    }

    // Load BERT's, once.
    loadWordPiece(options = {}) {
      this.bert ??= this.attempt("bert", () => this.hand("setWordPiece", "bert-vocabulary.txt", options));
      return this.bert;
    }

    async hand(name, file, options) {
      this.start();
      const bytes = await bytesOf(file, options);
      return this.call(name, new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes));
    }

    // Load the model as well, once.
    load(options = {}) {
      this.model ??= this.attempt("model", async () => {
        await this.loadTokenizer({ signal: options.signal });
        const config = await this.call("setModel", await bytesOf("gpt2-mini.bin", options));
        this.ready = true;
        for (const tell of this.onready) tell();
        return config;
      });
      return this.model;
    }

    async attempt(what, work) {
      try {
        return await work();
      } catch (error) {
        this[what] = null; // so that the reader may try again
        throw error;
      }
    }

    encode(text) { return this.call("encode", text); }
    decode(ids) { return this.call("decode", ids); }
    pieces(text) { return this.call("pieces", text); }
    merges(piece) { return this.call("merges", piece); }
    wordpiece(text) { return this.call("wordpiece", text); }
    next(ids, options) { return this.call("next", ids, options); }
    trace(ids, edits) { return this.call("trace", ids, edits); }
  }

  // Return the bytes of a file that lies beside this script: from the browser's cache, the site, or,
  // where the page comes from a folder on disk, out of a script that holds them.
  async function bytesOf(name, { progress = () => {}, signal } = {}) {
    const { bytes: expected, version } = live.assets[name];
    const url = `${live.base}model/${name}?v=${version}`;
    const isFolder = live.base.startsWith("file:");
    const store = isFolder ? null : await cacheOf(url);
    const hit = await store?.match(url).catch(() => null);
    let bytes;
    if (hit) bytes = await hit.arrayBuffer();
    else if (isFolder) bytes = await fromScript(name, signal);
    else bytes = await fromSite(name, url, expected, progress, signal);
    if (bytes.byteLength !== expected) {
      await store?.delete(url);
      throw new Fault(`${name} has ${count(bytes.byteLength)} bytes where ${count(expected)} were expected, so it did not come whole. Try again; if it stays so, the site's copy is broken.`);
    }
    if (store && !hit) store.put(url, new Response(bytes.slice(0))).catch(() => {}); // no room: no cache
    progress(1);
    return bytes;
  }

  const count = (number) => number.toLocaleString("en");

  // The browser's cache, without older versions of the file; null where there is none (a page that
  // is not from https or this machine, a private window).
  async function cacheOf(url) {
    try {
      const store = await caches.open("course-live");
      const path = url.split("?")[0];
      for (const { url: old } of await store.keys())
        if (old.split("?")[0] === path && old !== url) await store.delete(old);
      return store;
    } catch {
      return null;
    }
  }

  live.isCached = async function (name) {
    const url = `${live.base}model/${name}?v=${live.assets[name].version}`;
    return Boolean(await (await cacheOf(url))?.match(url).catch(() => null));
  };

  async function fromSite(name, url, expected, progress, signal) {
    let answer;
    try {
      answer = await fetch(url, { signal });
      if (!answer.ok) throw new Fault(`The site answered ${answer.status} when asked for ${name}. Reload the page; if it stays so, the site was built without its model.`);
      const all = new Uint8Array(expected), reader = answer.body.getReader();
      let length = 0;
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return all.buffer.slice(0, length);
        if (length + value.length > expected) return new ArrayBuffer(length + value.length); // not the file
        all.set(value, length);
        progress((length += value.length) / expected);
      }
    } catch (error) {
      if (error instanceof Fault) throw error;
      if (signal?.aborted) throw new Fault("Loading was stopped. What is stored with the page still works.");
      throw new Fault(`${name} did not come (${error.message}). Is the network there? Then try again.`);
    }
  }

  const arrivals = {};
  live.arrive = (name, text) => (arrivals[name] = text); // called by the scripts that hold files

  function fromScript(name, signal) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${live.base}model/${name}.js`;
      const end = (settle, value) => { script.remove(); delete arrivals[name]; settle(value); };
      script.onload = () => end(resolve, Uint8Array.from(atob(arrivals[name] ?? ""), (c) => c.charCodeAt(0)).buffer);
      script.onerror = () => end(reject, new Fault(`${name}.js is not beside this page. Copy the whole folder of the built book, _static included, and try again.`));
      signal?.addEventListener("abort", () => end(reject, new Fault("Loading was stopped. What is stored with the page still works.")));
      document.head.append(script);
    });
  }

  if (typeof document !== "undefined") live.engine = new Engine();
});
