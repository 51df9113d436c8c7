// The page's side of the engine; desk.js is the worker's. Elements ask it for numbers (`encode`, `next`,
// `trace`, ...) and never for the network; only those that begin with `load` do that.
live.define(function engine(live) {
  "use strict";

  const { Fault } = live;
  const PARTS = ["tokenizer", "wordpiece", "gpt2", "sampling", "desk"];

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

    // Start the worker, once, from the text of the parts that it runs: that works from a folder too.
    start() {
      this.starting ??= this.attempt("starting", () => this.open());
      return this.starting;
    }

    async open() {
      const have = (name) => live.parts.find((part) => part.name === name);
      await Promise.all(PARTS.filter((name) => !have(name)).map((name) => live.script(`${name}.js?v=${live.version}`, name)));
      const source = `var live = {};\n${PARTS.map((name) => `(${have(name)})(live);`).join("\n")}\nlive.serve(self);`;
      try {
        this.worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
      } catch {
        throw new Fault("This browser starts no worker here, and the model needs one. Another browser, or this page without blocking add-ons, will do.");
      }
      this.worker.onmessage = ({ data }) => this.hear(data);
      this.worker.onerror = () => this.stop("The model stopped unexpectedly, perhaps for want of memory. Close other pages, then load it again.");
    }

    // Hand an answer to whoever waits for it.
    hear({ id, result, error }) {
      const { resolve, reject } = this.waiting.get(id) ?? {};
      this.waiting.delete(id);
      if (error !== undefined) reject?.(new Fault(error));
      else resolve?.(result);
    }

    // End the worker; whoever waits is told why.
    stop(why) {
      this.worker?.terminate();
      for (const { reject } of this.waiting.values()) reject(new Fault(why));
      Object.assign(this, { worker: null, starting: null, model: null, tokenizer: null, bert: null, ready: false });
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
      await this.start();
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
    read(text) { return this.encode(text || "<|endoftext|>"); }
    decode(ids) { return this.call("decode", ids); }
    pieces(text) { return this.call("pieces", text); }
    merges(piece) { return this.call("merges", piece); }
    wordpiece(text) { return this.call("wordpiece", text); }
    next(ids, options) { return this.call("next", ids, options); }
    beams(ids, options) { return this.call("beams", ids, options); }
    trace(...args) { return this.call("trace", ...args); }
    places(ids, options) { return this.call("places", ids, options); }
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
      if (signal?.aborted) throw new Fault(live.STOPPED);
      throw new Fault(`${name} did not come (${error.message}). Is the network there? Then try again.`);
    }
  }

  async function fromScript(name, signal) {
    return live.bytes((await live.bring(name, { signal })) ?? "").buffer;
  }

  live.engine = new Engine();
});
