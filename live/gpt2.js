// GPT-2 in 200 lines of JavaScript: from ids to the logits of the next token.
// Every intermediate has the name that it has in chapter 6. T is the number of tokens that are
// read now, n the number read so far, C the channels, H the heads, d_k = C / H.
live.define(function gpt2(live) {
  "use strict";

  // Read a model from its file: 4 bytes with the length of a table in JSON, the table, the numbers.
  // A matrix has 8 bits for each weight and one scale for each row, a vector 32 bits a number.
  live.readModel = function (buffer) {
    const length = new DataView(buffer).getUint32(0, true);
    const table = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    const model = { config: table.config, h: [] };
    for (const [name, { at, shape, scales }] of Object.entries(table.tensors)) {
      const [rows, columns] = shape;
      put(model, name.split("."), columns === undefined
        ? new Float32Array(buffer, at, rows)
        : { rows, columns, q: new Int8Array(buffer, at, rows * columns),
            scale: new Float32Array(buffer, scales, rows) });
    }
    return model;
  };

  function put(tree, [name, ...rest], value) {
    if (!rest.length) tree[name] = value;
    else put((tree[name] ??= {}), rest, value);
  }

  // ---- Four small functions -------------------------------------------------------------

  // y = x W + b for each of the T rows of x. A row of `weight` makes one number of y; four are
  // made at once, so that each number of x is read once for four products.
  function linear(x, T, { weight, bias }) {
    const { rows, columns, q, scale } = weight;
    const y = new Float32Array(T * rows);
    for (let t = 0; t < T; t++) {
      const from = t * columns, to = t * rows;
      let row = 0;
      for (; row + 4 <= rows; row += 4) {
        const p0 = row * columns, p1 = p0 + columns, p2 = p1 + columns, p3 = p2 + columns;
        let a = 0, b = 0, c = 0, d = 0;
        for (let i = 0; i < columns; i++) {
          const value = x[from + i];
          a += q[p0 + i] * value;
          b += q[p1 + i] * value;
          c += q[p2 + i] * value;
          d += q[p3 + i] * value;
        }
        y[to + row] = a * scale[row];
        y[to + row + 1] = b * scale[row + 1];
        y[to + row + 2] = c * scale[row + 2];
        y[to + row + 3] = d * scale[row + 3];
      }
      for (; row < rows; row++) {
        let sum = 0;
        for (let i = 0; i < columns; i++) sum += q[row * columns + i] * x[from + i];
        y[to + row] = sum * scale[row];
      }
      if (bias) for (let i = 0; i < rows; i++) y[to + i] += bias[i];
    }
    return y;
  }

  // Layer norm: each row gets mean 0 and variance 1, then a scale and a shift for each channel.
  function normalise(x, T, { weight, bias }, eps) {
    const C = weight.length, y = new Float32Array(T * C);
    for (let t = 0; t < T; t++) {
      const at = t * C;
      let mean = 0, variance = 0;
      for (let i = 0; i < C; i++) mean += x[at + i] / C;
      for (let i = 0; i < C; i++) variance += (x[at + i] - mean) ** 2 / C;
      const one = 1 / Math.sqrt(variance + eps);
      for (let i = 0; i < C; i++) y[at + i] = (x[at + i] - mean) * one * weight[i] + bias[i];
    }
    return y;
  }

  // GPT-2's GELU, with a tanh.
  const gelu = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

  const add = (a, b) => a.map((value, i) => value + b[i]);

  // ---- The model ------------------------------------------------------------------------

  // Keys and values of all tokens read so far, (n, C) for each block.
  live.newCache = ({ config }) => ({
    length: 0,
    layers: Array.from({ length: config.n_layer }, () => ({
      keys: new Float32Array(config.n_positions * config.n_embd),
      values: new Float32Array(config.n_positions * config.n_embd),
    })),
  });

  // Read `ids` after what the cache holds, and return the logits (V,) of the last position.
  //   edits  {heads: [[layer, head]], mlps: [layer]} are switched off; causal: false leaves the
  //          mask out, positions: false the position rows; prefix: p lets all see the first p tokens
  //   steps  an object that gets every intermediate: steps["token rows"], steps[layer]["norm 1"]
  live.forward = function (model, ids, { cache = live.newCache(model), edits = {}, steps } = {}) {
    const { n_layer, n_embd: C, n_positions, layer_norm_epsilon: eps } = model.config;
    const T = ids.length, past = cache.length;
    if (!T) throw new Error("There is no token to read; a model predicts what follows a token.");
    if (past + T > n_positions)
      throw new Error(`${past + T} tokens are more than the ${n_positions} that the model can read.`);

    const tokens = lookUp(model.wte.weight, ids); // (T, C)
    const places = ids.map((_, t) => past + t);
    let x = edits.positions === false ? tokens : add(tokens, lookUp(model.wpe.weight, places));
    keep(steps, { "token rows": [tokens, T, C], "stream at the start": [x, T, C] });
    for (let layer = 0; layer < n_layer; layer++) {
      const inner = steps && (steps[layer] = {});
      x = block(x, T, model, layer, cache, edits, inner); // (T, C)
    }
    cache.length += T;
    const final = normalise(x, T, model.ln_f, eps); // (T, C)
    keep(steps, { "final norm": [final, T, C] });
    const logits = linear(final.subarray((T - 1) * C), 1, model.wte); // the token table once more
    keep(steps, { logits: [logits, logits.length] });
    return logits;
  };

  function lookUp({ columns, q, scale }, rows) {
    const out = new Float32Array(rows.length * columns);
    rows.forEach((row, t) => {
      for (let i = 0; i < columns; i++) out[t * columns + i] = q[row * columns + i] * scale[row];
    });
    return out;
  }

  // One block: attention and MLP each read the stream through a norm and add to it.
  function block(x, T, model, layer, cache, edits, steps) {
    const { ln_1, attn, ln_2, mlp } = model.h[layer];
    const { n_head: H, n_embd: C, layer_norm_epsilon: eps } = model.config;

    const norm1 = normalise(x, T, ln_1, eps); // (T, C)
    const qkv = linear(norm1, T, attn.c_attn); // (T, 3C)
    const kept = cache.layers[layer];
    for (let t = 0; t < T; t++) {
      const at = (cache.length + t) * C, from = 3 * t * C;
      kept.keys.set(qkv.subarray(from + C, from + 2 * C), at);
      kept.values.set(qkv.subarray(from + 2 * C, from + 3 * C), at);
    }
    keep(steps, { "norm 1": [norm1, T, C], "q, k and v": [qkv, T, 3 * C] });
    const off = (edits.heads ?? []).filter(([l]) => l === layer).map(([, head]) => head);
    const open = edits.causal === false ? Infinity : (edits.prefix ?? 0); // tokens that all may see
    const context = attention(qkv, T, kept, cache.length, { H, C, off, open, steps }); // (T, C)
    const attended = linear(context, T, attn.c_proj); // (T, C)
    const middle = add(x, attended);
    keep(steps, { context: [context, T, C], attention: [attended, T, C],
                  "after attention": [middle, T, C] });

    const norm2 = normalise(middle, T, ln_2, eps);
    const widened = linear(norm2, T, mlp.c_fc); // (T, 4C)
    const hidden = widened.map(gelu);
    const isOff = edits.mlps?.includes(layer);
    const written = isOff ? new Float32Array(T * C) : linear(hidden, T, mlp.c_proj); // (T, C)
    const out = add(middle, written);
    keep(steps, { "norm 2": [norm2, T, C], widened: [widened, T, 4 * C],
                  hidden: [hidden, T, 4 * C], MLP: [written, T, C], "block out": [out, T, C] });
    return out;
  }

  // Each head asks with its queries, is answered by keys, and mixes values: (T, C), side by side.
  function attention(qkv, T, { keys, values }, past, { H, C, off, open, steps }) {
    const d_k = C / H, n = past + T;
    const context = new Float32Array(T * C);
    const scores = new Float32Array(H * T * n).fill(-Infinity); // what a token may not see stays so
    const weights = new Float32Array(H * T * n);
    for (let head = 0; head < H; head++) {
      for (let t = 0; t < T; t++) {
        const query = 3 * t * C + head * d_k, row = (head * T + t) * n;
        const seen = Math.min(n, Math.max(past + t + 1, open));
        let largest = -Infinity, total = 0;
        for (let j = 0; j < seen; j++) {
          let score = 0;
          for (let i = 0; i < d_k; i++) score += qkv[query + i] * keys[j * C + head * d_k + i];
          scores[row + j] = score / Math.sqrt(d_k);
          largest = Math.max(largest, scores[row + j]);
        }
        for (let j = 0; j < seen; j++) total += weights[row + j] = Math.exp(scores[row + j] - largest);
        for (let j = 0; j < seen; j++) {
          const weight = (weights[row + j] /= total);
          if (off.includes(head)) continue; // a silenced head leaves zeros
          for (let i = 0; i < d_k; i++)
            context[t * C + head * d_k + i] += weight * values[j * C + head * d_k + i];
        }
      }
    }
    keep(steps, { keys: [byHead(keys, n, H, C), H, n, d_k], values: [byHead(values, n, H, C), H, n, d_k],
                  scores: [scores, H, T, n], weights: [weights, H, T, n] });
    return context;
  }

  // ---- For those who look on --------------------------------------------------------------

  function keep(steps, tensors) {
    if (!steps) return;
    for (const [name, [data, ...shape]] of Object.entries(tensors)) steps[name] = { data, shape };
  }

  // (n, C) -> (H, n, d_k)
  function byHead(x, n, H, C) {
    const d_k = C / H, out = new Float32Array(n * C);
    for (let head = 0; head < H; head++)
      for (let j = 0; j < n; j++)
        out.set(x.subarray(j * C + head * d_k, j * C + (head + 1) * d_k), (head * n + j) * d_k);
    return out;
  }

  // The logit lens: the logits that vectors (T, C) of the stream would give if the model ended there.
  live.lens = function (model, x, T) {
    return linear(normalise(x, T, model.ln_f, model.config.layer_norm_epsilon), T, model.wte); // (T, V)
  };

  // The same model with fewer bits a weight: the largest weight that shares a scale becomes the
  // largest whole number that `bits` bits can write, 127 with 8 and 1 with 2. Each row has its own
  // scale, or, if `shared`, the whole matrix has one.
  live.withBits = function (model, bits, shared = false) {
    const most = 2 ** (bits - 1) - 1;
    const coarser = (part) => {
      if (part.length !== undefined && !Array.isArray(part)) return part; // a vector
      if (!part.q) return Object.fromEntries(Object.entries(part).map(([name, value]) => [name, coarser(value)]));
      const { rows, columns } = part, q = new Int8Array(part.q.length);
      const largest = new Float64Array(rows).fill(1), scale = new Float32Array(rows);
      let widest = 0;
      for (let row = 0; row < rows; row++) {
        for (let i = row * columns; i < (row + 1) * columns; i++) largest[row] = Math.max(largest[row], Math.abs(part.q[i]));
        widest = Math.max(widest, largest[row] * part.scale[row]);
      }
      for (let row = 0; row < rows; row++) {
        const top = shared ? widest / part.scale[row] : largest[row];
        for (let i = row * columns; i < (row + 1) * columns; i++) q[i] = Math.floor((part.q[i] * most) / top + 0.5);
        scale[row] = (part.scale[row] * top) / most;
      }
      return { rows, columns, q, scale };
    };
    const { config, ...weights } = model;
    return { config, ...coarser(weights) };
  };
});
