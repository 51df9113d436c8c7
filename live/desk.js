// The worker's side of the engine: it holds the model and answers what the page asks.
live.define(function desk(live) {
  "use strict";

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
      this.coarse = null; // the last model with fewer bits: each is as large as the whole one
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

    // The model with so many bits a weight, and a scale for each "row" or for each "matrix".
    model({ bits = 8, scale = "row" }) {
      if (bits === 8 && scale === "row") return this.whole;
      const key = `${bits} ${scale}`;
      if (this.coarse?.key !== key) this.coarse = { key, model: live.withBits(this.whole, bits, scale === "matrix") };
      return this.coarse.model;
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
      if (key === this.read.key && edits.causal !== false && !edits.prefix)
        while (known < ids.length - 1 && ids[known] === this.read.ids[known]) known++;
      cache.length = Math.min(known, cache.length);
      const logits = live.forward(this.model(edits), ids.slice(cache.length), { cache, edits });
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
      const logits = live.forward(this.model(edits), fits, { edits, steps });
      const top = live.mostLikely(live.softmax(logits), 10).map(([id, p]) => [this.gpt2.decode([id]), p, id]);
      return { steps, top, lens: this.lens(steps, fits.length) };
    }

    // At each place the loss, in nats, of the token that follows it, and the `top` likeliest with their
    // chances; and by block the weights (H, T, T).
    places(ids, { edits = {}, top = 0 } = {}) {
      const steps = {}, model = this.model(edits), T = ids.length, { n_layer, n_embd: C } = model.config;
      live.forward(model, ids, { edits, steps });
      const losses = [], tops = [], { data } = steps[n_layer - 1]["block out"];
      for (let t = 0; t < T; t++) {
        const p = live.softmax(live.lens(model, data.subarray(t * C, (t + 1) * C), 1));
        if (t + 1 < T) losses.push(-Math.log(p[ids[t + 1]]));
        if (top) tops.push(live.mostLikely(p, top).map(([id, chance]) => [this.gpt2.decode([id]), chance]));
      }
      return { losses, tops, weights: Array.from({ length: n_layer }, (_, layer) => steps[layer].weights.data) };
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
});
