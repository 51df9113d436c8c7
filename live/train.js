// A character transformer and its training, by hand: no library, no automatic differentiation.
//
// The file reads from top to bottom: matrices, then each operation together with its derivative,
// then the model that strings them together (forwards, and backwards in the opposite order), the
// two optimizers, and the loop. Every intermediate result has a name and stays readable after a
// step: `model.blocks[0].weights` are the attention weights of the last batch.
//
// Backpropagation in one paragraph. The loss is one number. For every array `a` on the way to it
// there is an array `dA` of the same size: by how much the loss would grow if that entry of `a`
// grew a little, divided by how little. The last one is known, and each operation can turn the
// one of its output into those of its inputs. This is the chain rule, entry by entry; what looks
// like magic in a library is the eight functions here whose names end in `Backward`.
//
// Shapes: B sequences of T characters make n = B T rows; a vector has `width` entries; there are
// V different characters. Arrays are flat, row after row: entry (i, j) of an array with `columns`
// columns stands at i * columns + j. Vectors are rows, so a layer is `x W`, with W (in, out).

// --- matrices --------------------------------------------------------------------------------

/** A matrix seen in a flat array: entry (i, j) is data[start + i * row + j * column]. */
export function view(data, columns, start = 0) {
  return { data, start, row: columns, column: 1 };
}

/** The same numbers with rows and columns exchanged; nothing is copied. */
export function transposed({ data, start, row, column }) {
  return { data, start, row: column, column: row };
}

/**
 * C = A B, or C += A B if `add`: A is (rows, inner), B (inner, columns), C (rows, columns).
 *
 * Nearly all of the time of training is spent here. Four rows of A meet four columns of B at once:
 * each number that is fetched is used four times. What is left over is done entry by entry.
 */
export function multiply(C, A, B, rows, inner, columns, add = false) {
  const fourRows = rows - (rows % 4), fourColumns = columns - (columns % 4);
  for (let i = 0; i < fourRows; i += 4) {
    for (let j = 0; j < fourColumns; j += 4) multiplyBlock(C, A, B, i, j, inner, add);
  }
  for (let i = 0; i < rows; i++) {
    for (let j = i < fourRows ? fourColumns : 0; j < columns; j++) {
      multiplyOne(C, A, B, i, j, inner, add);
    }
  }
}

/** Sixteen entries of C = A B: r0 to r3 are its rows, a to d its columns. */
export function multiplyBlock(C, A, B, i, j, inner, add) {
  const x = A.data, y = B.data, down = A.row, down2 = 2 * down, down3 = 3 * down;
  const next = B.column, next2 = 2 * next, next3 = 3 * next, xStep = A.column, yStep = B.row;
  let p = A.start + i * down, q = B.start + j * next;
  let r0a = 0, r0b = 0, r0c = 0, r0d = 0, r1a = 0, r1b = 0, r1c = 0, r1d = 0;
  let r2a = 0, r2b = 0, r2c = 0, r2d = 0, r3a = 0, r3b = 0, r3c = 0, r3d = 0;
  for (let k = 0; k < inner; k++) {
    const x0 = x[p], x1 = x[p + down], x2 = x[p + down2], x3 = x[p + down3];
    const a = y[q], b = y[q + next], c = y[q + next2], d = y[q + next3];
    r0a += x0 * a; r0b += x0 * b; r0c += x0 * c; r0d += x0 * d;
    r1a += x1 * a; r1b += x1 * b; r1c += x1 * c; r1d += x1 * d;
    r2a += x2 * a; r2b += x2 * b; r2c += x2 * c; r2d += x2 * d;
    r3a += x3 * a; r3b += x3 * b; r3c += x3 * c; r3d += x3 * d;
    p += xStep; q += yStep;
  }
  const o = C.start + i * C.row + j;
  putRow(C.data, o, r0a, r0b, r0c, r0d, add);
  putRow(C.data, o + C.row, r1a, r1b, r1c, r1d, add);
  putRow(C.data, o + 2 * C.row, r2a, r2b, r2c, r2d, add);
  putRow(C.data, o + 3 * C.row, r3a, r3b, r3c, r3d, add);
}

/** Write, or add, four numbers side by side. */
export function putRow(c, o, a, b, d, e, add) {
  if (add) {
    c[o] += a; c[o + 1] += b; c[o + 2] += d; c[o + 3] += e;
  } else {
    c[o] = a; c[o + 1] = b; c[o + 2] = d; c[o + 3] = e;
  }
}

/** One entry of C = A B, as the definition says; C is row after row, as everywhere here. */
export function multiplyOne(C, A, B, i, j, inner, add) {
  let p = A.start + i * A.row, r = B.start + j * B.column, sum = 0;
  for (let k = 0; k < inner; k++) {
    sum += A.data[p] * B.data[r];
    p += A.column; r += B.row;
  }
  const o = C.start + i * C.row + j;
  C.data[o] = add ? C.data[o] + sum : sum;
}

// --- the operations, each with its derivative -----------------------------------------------

/** y = x W. x: (rows, in). W: a parameter (in, out). y: (rows, out), added to if `add`. */
export function linear(y, x, W, rows, add = false) {
  multiply(view(y, W.columns), view(x, W.rows), view(W.value, W.columns),
    rows, W.rows, W.columns, add);
}

/**
 * From dY: the gradient of W is xᵀ dY (added to what is there), and dX is dY Wᵀ.
 *
 * Why: y[i, j] is the sum of x[i, k] W[k, j]. A little more of W[k, j] changes column j of y, in
 * each row i by x[i, k]; so its gradient is the sum over i of x[i, k] dY[i, j].
 */
export function linearBackward(dX, dY, x, W, rows) {
  const dy = view(dY, W.columns);
  multiply(view(W.gradient, W.columns), transposed(view(x, W.rows)), dy,
    W.rows, rows, W.columns, true);
  multiply(view(dX, W.rows), dy, transposed(view(W.value, W.columns)),
    rows, W.columns, W.rows);
}

/**
 * Layer norm without a bias: each row minus its mean, over its standard deviation, times a gain.
 *
 * Kept for the way back: `normed` (rows, width) before the gain, `scale` (rows) = 1 / deviation.
 */
export function layerNorm(y, x, gain, normed, scale, rows) {
  const width = gain.columns, g = gain.value;
  for (let i = 0; i < rows; i++) {
    const o = i * width;
    let mean = 0, variance = 0;
    for (let j = 0; j < width; j++) mean += x[o + j];
    mean /= width;
    for (let j = 0; j < width; j++) variance += (x[o + j] - mean) ** 2;
    scale[i] = 1 / Math.sqrt(variance / width + 1e-5);
    for (let j = 0; j < width; j++) {
      normed[o + j] = (x[o + j] - mean) * scale[i];
      y[o + j] = normed[o + j] * g[j];
    }
  }
}

/**
 * Adds to dX, because x also went around the norm, along the residual stream.
 *
 * Each entry of a row moves the mean and the deviation of its row. What is left of a gradient is
 * the part that neither shifts the row (minus the mean) nor stretches it (minus the part along
 * `normed`): a change that the norm takes out again cannot change the loss.
 */
export function layerNormBackward(dX, dY, gain, normed, scale, rows) {
  const width = gain.columns, g = gain.value, dGain = gain.gradient;
  for (let i = 0; i < rows; i++) {
    const o = i * width;
    let mean = 0, along = 0;
    for (let j = 0; j < width; j++) {
      dGain[j] += dY[o + j] * normed[o + j];
      const dNormed = dY[o + j] * g[j];
      mean += dNormed;
      along += dNormed * normed[o + j];
    }
    mean /= width;
    along /= width;
    for (let j = 0; j < width; j++) {
      dX[o + j] += scale[i] * (dY[o + j] * g[j] - mean - normed[o + j] * along);
    }
  }
}

/** active = max(0, hidden)²: the square of ReLU. */
export function squaredRelu(active, hidden, size) {
  for (let i = 0; i < size; i++) active[i] = hidden[i] > 0 ? hidden[i] * hidden[i] : 0;
}

/** In place: dActive becomes dHidden. The slope of h² is 2 h; where nothing passed, nothing comes back. */
export function squaredReluBackward(d, hidden, size) {
  for (let i = 0; i < size; i++) d[i] *= hidden[i] > 0 ? 2 * hidden[i] : 0;
}

/** The cosines and sines (T, size / 2) of rotary positions: the pair c turns by 1 / 10000^(2c/size) a step. */
export function rotaryTable(T, size, Floats) {
  const half = size / 2, cos = new Floats(T * half), sin = new Floats(T * half);
  for (let t = 0; t < T; t++) {
    for (let c = 0; c < half; c++) {
      const angle = t / 10000 ** ((2 * c) / size);
      cos[t * half + c] = Math.cos(angle);
      sin[t * half + c] = Math.sin(angle);
    }
  }
  return { cos, sin, half };
}

/**
 * Turn one vector of `qkv` (a query or key of one head) by its position t, in place.
 *
 * Entry c and entry c + half are the two coordinates of a point. With `way` = -1 the point is
 * turned back. That is also the derivative: a rotation changes no lengths and no angles, so the
 * gradient of a turned point, turned back, is the gradient of the point.
 */
export function rotate(qkv, start, t, { cos, sin, half }, way) {
  for (let c = 0; c < half; c++) {
    const x = qkv[start + c], y = qkv[start + half + c];
    const co = cos[t * half + c], si = way * sin[t * half + c];
    qkv[start + c] = x * co - y * si;
    qkv[start + half + c] = x * si + y * co;
  }
}

/** Softmax of the entries 0 to `last` of a row, in place; those after it become 0 (the causal mask). */
export function maskedSoftmax(row, start, last, length, factor) {
  let largest = -Infinity, sum = 0;
  for (let j = 0; j <= last; j++) largest = Math.max(largest, row[start + j]);
  for (let j = 0; j <= last; j++) {
    row[start + j] = Math.exp(factor * (row[start + j] - largest));
    sum += row[start + j];
  }
  for (let j = 0; j <= last; j++) row[start + j] /= sum;
  for (let j = last + 1; j < length; j++) row[start + j] = 0;
}

/**
 * Causal attention, head by head. qkv: (n, 3 width), queries and keys already turned.
 *
 * For each head of each sequence: scores = Q Kᵀ / √size, weights = softmax(scores) with nothing
 * after the diagonal, mixture = weights V. `weights` is (B, heads, T, T), `mixture` (n, width).
 */
export function attention(mixture, weights, qkv, { B, T, heads, width }) {
  const size = width / heads;
  for (let head = 0; head < B * heads; head++) {
    const { Q, K, V } = partsOf(qkv, head, { T, heads, width });
    const W = view(weights, T, head * T * T);
    multiply(W, Q, transposed(K), T, size, T);
    for (let t = 0; t < T; t++) {
      maskedSoftmax(weights, W.start + t * T, t, T, 1 / Math.sqrt(size));
    }
    multiply(view(mixture, width, mixtureStart(head, { T, heads, width })), W, V, T, T, size);
  }
}

/**
 * From dMixture: the gradients of queries, keys and values, into dQkv (n, 3 width).
 *
 * mixture = weights V is a product like any other, so dWeights = dMixture Vᵀ, dV = weightsᵀ dMixture.
 * Back through softmax: raising one score raises its weight at the cost of the others, hence
 * dScore = weight · (dWeight − the mean of dWeight under the weights). Then scores = Q Kᵀ / √size
 * is a product again. `dWeights` is room for (T, T).
 */
export function attentionBackward(dQkv, dMixture, dWeights, weights, qkv, { B, T, heads, width }) {
  const size = width / heads, factor = 1 / Math.sqrt(size), dW = view(dWeights, T);
  for (let head = 0; head < B * heads; head++) {
    const { Q, K, V } = partsOf(qkv, head, { T, heads, width });
    const { Q: dQ, K: dK, V: dV } = partsOf(dQkv, head, { T, heads, width });
    const dM = view(dMixture, width, mixtureStart(head, { T, heads, width }));
    const W = view(weights, T, head * T * T);
    multiply(dW, dM, transposed(V), T, size, T);
    multiply(dV, transposed(W), dM, T, T, size);
    for (let t = 0; t < T; t++) {
      const w = W.start + t * T, d = t * T;
      let mean = 0;
      for (let j = 0; j <= t; j++) mean += weights[w + j] * dWeights[d + j];
      for (let j = 0; j <= t; j++) {
        dWeights[d + j] = factor * weights[w + j] * (dWeights[d + j] - mean);
      }
      for (let j = t + 1; j < T; j++) dWeights[d + j] = 0;
    }
    multiply(dQ, dW, K, T, T, size); // dWeights now holds dScores
    multiply(dK, transposed(dW), Q, T, T, size);
  }
}

/** Where the queries, keys and values (T, size) of one head of one sequence stand in qkv. */
export function partsOf(qkv, head, { T, heads, width }) {
  const sequence = Math.floor(head / heads), size = width / heads;
  const start = sequence * T * 3 * width + (head % heads) * size;
  const part = (which) => view(qkv, 3 * width, start + which * width);
  return { Q: part(0), K: part(1), V: part(2) };
}

/** Where the rows of one head of one sequence begin in the mixture (n, width). */
export function mixtureStart(head, { T, heads, width }) {
  return Math.floor(head / heads) * T * width + ((head % heads) * width) / heads;
}

/**
 * The mean surprise -ln p(target) in nats; dLogits gets its gradient (probabilities minus truth) / n.
 *
 * That is all that cross-entropy and softmax leave together: push up what came, push down the rest
 * in proportion to how much it was expected.
 */
export function crossEntropy(dLogits, logits, targets, V, rows) {
  let loss = 0;
  for (let i = 0; i < rows; i++) {
    const o = i * V;
    let largest = -Infinity, sum = 0;
    for (let j = 0; j < V; j++) largest = Math.max(largest, logits[o + j]);
    for (let j = 0; j < V; j++) sum += dLogits[o + j] = Math.exp(logits[o + j] - largest);
    loss += Math.log(sum) - (logits[o + targets[i]] - largest);
    for (let j = 0; j < V; j++) dLogits[o + j] /= sum * rows;
    dLogits[o + targets[i]] -= 1 / rows;
  }
  return loss / rows;
}

// --- the model -------------------------------------------------------------------------------

/** A matrix (or one row) of weights, its gradient, and what the optimizers remember of it. */
export class Parameter {
  constructor(name, rows, columns, Floats, isHidden = false) {
    Object.assign(this, { name, rows, columns, isHidden });
    for (const kind of ["value", "gradient", "mean", "square"]) {
      this[kind] = new Floats(rows * columns);
    }
  }
}

/** GPT-2's layout without biases, with rotary positions and the square of ReLU. */
export class Transformer {
  /** shape: {V, T, B, width, heads, layers}. Floats: Float32Array, or Float64Array to check. */
  constructor(shape, Floats = Float32Array) {
    Object.assign(this, shape, { Floats, n: shape.B * shape.T, parameters: [] });
    const { V, T, B, n, width, heads, layers } = this;
    if (width % (2 * heads)) {
      throw new Error(`width ${width} must be a multiple of ${2 * heads}: ${heads} heads, in pairs.`);
    }
    const parameter = (...rest) => {
      this.parameters.push(new Parameter(...rest.slice(0, 3), Floats, rest[3]));
      return this.parameters.at(-1);
    };
    const room = (size) => new Floats(size);
    this.turns = rotaryTable(T, width / heads, Floats);
    this.embedding = parameter("embedding", V, width);
    this.blocks = Array.from({ length: layers }, (_, l) => ({
      gain1: parameter(`gain1.${l}`, 1, width),
      toQkv: parameter(`toQkv.${l}`, width, 3 * width, true),
      fromMixture: parameter(`fromMixture.${l}`, width, width, true),
      gain2: parameter(`gain2.${l}`, 1, width),
      up: parameter(`up.${l}`, width, 4 * width, true),
      down: parameter(`down.${l}`, 4 * width, width, true),
      normed1: room(n * width), scale1: room(n), toAttention: room(n * width),
      qkv: room(n * 3 * width), weights: room(B * heads * T * T), mixture: room(n * width),
      between: room(n * width), // the stream between attention and MLP
      normed2: room(n * width), scale2: room(n), toMlp: room(n * width),
      hidden: room(n * 4 * width), active: room(n * 4 * width),
    }));
    this.gain = parameter("gain", 1, width);
    this.head = parameter("head", width, V);
    this.stream = Array.from({ length: layers + 1 }, () => room(n * width));
    this.normed = room(n * width), this.scale = room(n), this.toHead = room(n * width);
    this.logits = room(n * V), this.dLogits = room(n * V);
    // The way back needs room for one gradient of each kind: it is used up block by block.
    this.dStream = room(n * width), this.dVector = room(n * width);
    this.dQkv = room(n * 3 * width), this.dHidden = room(n * 4 * width), this.dWeights = room(T * T);
  }

  get size() {
    return this.parameters.reduce((sum, { value }) => sum + value.length, 0);
  }

  /**
   * Random weights. What writes into the stream begins at zero, so at first every block does
   * nothing and every character is equally likely: the loss is exactly ln V.
   */
  initialize(random) {
    const writes = /^(head|fromMixture|down)/;
    for (const { name, rows, value } of this.parameters) {
      const spread = name === "embedding" ? 0.5 : 1 / Math.sqrt(rows);
      for (let i = 0; i < value.length; i++) {
        value[i] = name.startsWith("gain") ? 1 : writes.test(name) ? 0 : spread * normal(random);
      }
    }
  }

  /** ids, targets: n characters each. Returns the loss in nats; dLogits is ready to go back. */
  forward(ids, targets) {
    const { n, T, width, embedding } = this;
    for (let i = 0; i < n; i++) {
      const from = ids[i] * width;
      this.stream[0].set(embedding.value.subarray(from, from + width), i * width);
    }
    for (const [l, block] of this.blocks.entries()) {
      const before = this.stream[l], after = this.stream[l + 1], { between } = block;
      layerNorm(block.toAttention, before, block.gain1, block.normed1, block.scale1, n);
      linear(block.qkv, block.toAttention, block.toQkv, n);
      this.turn(block.qkv, 1);
      attention(block.mixture, block.weights, block.qkv, this);
      between.set(before);
      linear(between, block.mixture, block.fromMixture, n, true); // added to the stream
      layerNorm(block.toMlp, between, block.gain2, block.normed2, block.scale2, n);
      linear(block.hidden, block.toMlp, block.up, n);
      squaredRelu(block.active, block.hidden, n * 4 * width);
      after.set(between);
      linear(after, block.active, block.down, n, true);
    }
    layerNorm(this.toHead, this.stream.at(-1), this.gain, this.normed, this.scale, n);
    linear(this.logits, this.toHead, this.head, n);
    return crossEntropy(this.dLogits, this.logits, targets, this.V, n);
  }

  /**
   * The same way in the opposite order: fills `gradient` of every parameter.
   *
   * dStream walks down the residual stream. What a block added leaves the gradient that passes by
   * as it is, and adds what comes back through the block: a sum hands its gradient to both parts.
   */
  backward(ids) {
    const { n, width, embedding, dStream, dVector, dHidden } = this;
    for (const { gradient } of this.parameters) gradient.fill(0);
    dStream.fill(0);
    linearBackward(dVector, this.dLogits, this.toHead, this.head, n);
    layerNormBackward(dStream, dVector, this.gain, this.normed, this.scale, n);
    for (const block of this.blocks.toReversed()) {
      linearBackward(dHidden, dStream, block.active, block.down, n);
      squaredReluBackward(dHidden, block.hidden, n * 4 * width);
      linearBackward(dVector, dHidden, block.toMlp, block.up, n);
      layerNormBackward(dStream, dVector, block.gain2, block.normed2, block.scale2, n);
      linearBackward(dVector, dStream, block.mixture, block.fromMixture, n);
      attentionBackward(this.dQkv, dVector, this.dWeights, block.weights, block.qkv, this);
      this.turn(this.dQkv, -1);
      linearBackward(dVector, this.dQkv, block.toAttention, block.toQkv, n);
      layerNormBackward(dStream, dVector, block.gain1, block.normed1, block.scale1, n);
    }
    for (let i = 0; i < n; i++) { // each character's row of the table gets what its places got
      for (let j = 0; j < width; j++) embedding.gradient[ids[i] * width + j] += dStream[i * width + j];
    }
  }

  /** Turn the queries and keys of all heads and rows by their positions; -1 turns back. */
  turn(qkv, way) {
    const size = this.width / this.heads;
    for (let i = 0; i < this.n; i++) {
      const row = i * 3 * this.width;
      for (let c = 0; c < 2 * this.width; c += size) rotate(qkv, row + c, i % this.T, this.turns, way);
    }
  }
}

// --- the optimizers --------------------------------------------------------------------------

/**
 * Adam: each weight has its own step size.
 *
 * `mean` is a running average of the gradient, `square` one of its square. Both begin at zero and
 * are too small at first; dividing by 1 - betaᵗ makes up for it. The step is mean / √square:
 * about `rate` where the gradient always points the same way, little where it only jitters.
 *
 * Source: Kingma and Ba, 2015.
 */
export function adam({ value, gradient, mean, square }, rate, t) {
  const beta1 = 0.9, beta2 = 0.98, epsilon = 1e-8;
  const fill1 = 1 - beta1 ** t, fill2 = 1 - beta2 ** t;
  for (let i = 0; i < value.length; i++) {
    const g = gradient[i];
    mean[i] += (1 - beta1) * (g - mean[i]);
    square[i] += (1 - beta2) * (g * g - square[i]);
    value[i] -= (rate * (mean[i] / fill1)) / (Math.sqrt(square[i] / fill2) + epsilon);
  }
}

/**
 * Muon: a matrix moves equally far in every direction.
 *
 * A gradient is mostly a few strong directions (its large singular values). Muon brings all of
 * them near 1 before it steps, by a polynomial that acts on singular values alone: five times
 * X <- a X + (b G + c G²) X, with G = X Xᵀ, which makes s into a s + b s³ + c s⁵.
 *
 * Source: Jordan et al., 2024. `room` has four arrays of the size of the largest matrix.
 */
export function muon({ rows, columns, value, gradient, mean }, rate, room) {
  const momentum = 0.95, [a, b, c] = [3.4445, -4.775, 2.0315];
  let [X, next, G, factor] = room, sum = 0;
  // X is the wide one of the matrix and its transpose, so that G = X Xᵀ is small.
  const tall = rows > columns, R = tall ? columns : rows, C = tall ? rows : columns;
  for (let i = 0; i < value.length; i++) {
    mean[i] += (1 - momentum) * (gradient[i] - mean[i]);
    const ahead = momentum * mean[i] + (1 - momentum) * gradient[i]; // Nesterov: one step ahead
    X[tall ? (i % columns) * rows + Math.floor(i / columns) : i] = ahead;
    sum += ahead * ahead;
  }
  const norm = Math.max(Math.sqrt(sum), 1e-7); // no singular value is larger than this
  for (let i = 0; i < value.length; i++) X[i] /= norm;
  for (let round = 0; round < 5; round++) {
    multiply(view(G, R), view(X, C), transposed(view(X, C)), R, C, R);
    multiply(view(factor, R), view(G, R), view(G, R), R, R, R);
    for (let i = 0; i < R * R; i++) factor[i] = b * G[i] + c * factor[i];
    for (let i = 0; i < R; i++) factor[i * R + i] += a;
    multiply(view(next, C), view(factor, R), view(X, C), R, R, C);
    [X, next] = [next, X];
  }
  // A matrix with more outputs than inputs has only as many directions as inputs: a longer step.
  const step = rate * Math.sqrt(Math.max(1, columns / rows));
  for (let i = 0; i < value.length; i++) {
    value[i] -= step * X[tall ? (i % columns) * rows + Math.floor(i / columns) : i];
  }
}

/** One step of all parameters. Muon is for the matrices inside blocks; Adam takes the others. */
export function optimize(model, optimizer, rates, t) {
  const largest = 4 * model.width * model.width;
  model.room ??= Array.from({ length: 4 }, () => new model.Floats(largest));
  for (const parameter of model.parameters) {
    if (optimizer === "muon" && parameter.isHidden) muon(parameter, rates.muon, model.room);
    else adam(parameter, rates.adam, t);
  }
}

// --- chance, batches, and the loop ------------------------------------------------------------

/** A stream of numbers from 0 to 1 that a seed decides. Source: Marsaglia, 2003, Xorshift RNGs. */
export function randomFrom(seed) {
  let x = Math.imul(seed + 1, 0x9e3779b1) || 1; // neighbouring seeds begin far apart
  return () => {
    x ^= x << 13; x ^= x >>> 17; x ^= x << 5;
    return (x >>> 0) / 2 ** 32;
  };
}

/** A number from the normal distribution. Source: Box and Muller, 1958. */
export function normal(random) {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** Learning rates at the default setting, "×1", of each optimizer. */
export const RATES = { adam: { adam: 0.012 }, muon: { adam: 0.02, muon: 0.04 } };

/** Everything that a run of training needs; `step` is the loop's body. */
export class Training {
  /**
   * settings: {width, layers, heads, T, B, optimizer, rate, seed}; rate multiplies RATES.
   * The first nine tenths of the text are for training, the rest is only measured on.
   */
  constructor(text, settings, Floats = Float32Array) {
    this.settings = { width: 32, layers: 1, heads: 4, T: 32, B: 8, optimizer: "muon", rate: 1, seed: 1,
      ...settings };
    this.characters = [...new Set(text)].sort().join("");
    const idOf = new Map([...this.characters].map((character, id) => [character, id]));
    this.ids = Uint16Array.from(text, (character) => idOf.get(character));
    const cut = Math.floor(0.9 * this.ids.length);
    this.trainIds = this.ids.subarray(0, cut);
    this.valIds = this.ids.subarray(cut);
    this.model = new Transformer({ ...this.settings, V: this.characters.length }, Floats);
    this.model.initialize(randomFrom(this.settings.seed));
    this.random = randomFrom(this.settings.seed + 1000);
    this.steps = 0;
    this.x = new Uint16Array(this.model.n), this.y = new Uint16Array(this.model.n);
  }

  /** Fill x with B windows of the training text that begin anywhere, y with what follows each place. */
  nextBatch() {
    const { B, T } = this.model;
    for (let b = 0; b < B; b++) {
      this.window(b, this.trainIds, Math.floor(this.random() * (this.trainIds.length - T)));
    }
  }

  window(b, ids, start) {
    const { T } = this.model;
    this.x.set(ids.subarray(start, start + T), b * T);
    this.y.set(ids.subarray(start + 1, start + T + 1), b * T);
  }

  /** One step. progress: 0 at the start, 1 at the end, where the learning rates reach zero. */
  step(progress) {
    const { optimizer, rate } = this.settings;
    this.nextBatch();
    const loss = this.model.forward(this.x, this.y);
    this.model.backward(this.x);
    this.steps += 1;
    const factor = rate * Math.min(1, this.steps / 20) * Math.max(0, 1 - progress);
    const rates = { adam: factor * RATES[optimizer].adam, muon: factor * RATES.muon.muon };
    optimize(this.model, optimizer, rates, this.steps);
    return loss;
  }

  /** The mean loss over about `characters` of the validation text, in windows spread evenly over it. */
  validate(characters) {
    const { B, T, n } = this.model;
    const windows = Math.floor((this.valIds.length - 1) / T);
    const batches = Math.max(1, Math.min(Math.floor(windows / B), Math.round(characters / n)));
    let sum = 0;
    for (let i = 0; i < batches; i++) {
      for (let b = 0; b < B; b++) {
        this.window(b, this.valIds, Math.floor(((i * B + b) * windows) / (batches * B)) * T);
      }
      sum += this.model.forward(this.x, this.y);
    }
    return sum / batches;
  }

  /** Text of the model: `length` characters drawn one by one, after a line break. */
  write(length, temperature = 0.8, seed = 1) {
    const writer = new Writer(this.model), random = randomFrom(seed);
    let id = Math.max(0, this.characters.indexOf("\n")), text = "";
    for (let i = 0; i < length; i++) {
      id = draw(writer.next(id), temperature, random);
      text += this.characters[id];
    }
    return text;
  }
}

/** Draw an id with probability softmax(logits / temperature). */
export function draw(logits, temperature, random) {
  const largest = Math.max(...logits);
  const weights = Array.from(logits, (logit) => Math.exp((logit - largest) / temperature));
  let left = random() * weights.reduce((sum, weight) => sum + weight, 0);
  const id = weights.findIndex((weight) => (left -= weight) < 0);
  return id < 0 ? weights.length - 1 : id;
}

/**
 * The forward pass for one character at a time: keys and values of the last T are kept.
 *
 * Rotary positions look only at distances, so the text may grow longer than T: position t may be
 * counted on for ever, and what is farther back than T - 1 is forgotten.
 */
export class Writer {
  constructor(model) {
    const { width, V, T, Floats } = model, room = (size) => new Floats(size);
    Object.assign(this, { model, t: 0, stream: room(width), vector: room(width), normed: room(width) });
    Object.assign(this, { scale: room(1), qkv: room(3 * width), hidden: room(4 * width) });
    Object.assign(this, { mixture: room(width), logits: room(V), scores: room(T) });
    this.kept = model.blocks.map(() => ({ keys: room(T * width), values: room(T * width) }));
  }

  /** Read one character and return the logits (V) of the next. */
  next(id) {
    const { model, stream, vector, normed, scale, hidden, t } = this, { width, T, heads } = model;
    const size = width / heads, turns = rotaryTable(1, size, Float64Array);
    for (let c = 0; c < size / 2; c++) { // the angles of this one position
      turns.cos[c] = Math.cos(t / 10000 ** ((2 * c) / size));
      turns.sin[c] = Math.sin(t / 10000 ** ((2 * c) / size));
    }
    stream.set(model.embedding.value.subarray(id * width, (id + 1) * width));
    for (const [l, block] of model.blocks.entries()) {
      layerNorm(vector, stream, block.gain1, normed, scale, 1);
      linear(this.qkv, vector, block.toQkv, 1);
      for (let c = 0; c < 2 * width; c += size) rotate(this.qkv, c, 0, turns, 1);
      this.kept[l].keys.set(this.qkv.subarray(width, 2 * width), (t % T) * width);
      this.kept[l].values.set(this.qkv.subarray(2 * width), (t % T) * width);
      this.attend(this.kept[l], Math.min(t + 1, T));
      linear(stream, this.mixture, block.fromMixture, 1, true);
      layerNorm(vector, stream, block.gain2, normed, scale, 1);
      linear(hidden, vector, block.up, 1);
      squaredRelu(hidden, hidden, 4 * width);
      linear(stream, hidden, block.down, 1, true);
    }
    layerNorm(vector, stream, model.gain, normed, scale, 1);
    linear(this.logits, vector, model.head, 1);
    this.t += 1;
    return this.logits;
  }

  /** The last query over the `count` keys that are kept; in which order they stand does not matter. */
  attend({ keys, values }, count) {
    const { width, heads } = this.model, size = width / heads;
    for (let h = 0; h < heads; h++) {
      const query = view(this.qkv, size, h * size), scores = view(this.scores, count);
      multiply(scores, query, transposed(view(keys, width, h * size)), 1, size, count);
      maskedSoftmax(this.scores, 0, count - 1, count, 1 / Math.sqrt(size));
      multiply(view(this.mixture, size, h * size), scores, view(values, width, h * size), 1, count, size);
    }
  }
}
