// From logits to one token: the strategies of chapter 7, defined as in course_utils.sampling.
// Each takes logits and returns new ones; what it rules out gets -Infinity. Equal logits stay or go together.
live.define(function sampling(live) {
  "use strict";

  live.softmax = function (logits) {
    let largest = -Infinity, total = 0;
    for (const value of logits) if (value > largest) largest = value;
    const p = new Float64Array(logits.length);
    for (let i = 0; i < p.length; i++) total += p[i] = Math.exp(logits[i] - largest);
    for (let i = 0; i < p.length; i++) p[i] /= total;
    return p;
  };

  const keepFrom = (logits, least) => logits.map((value) => (value < least ? -Infinity : value));

  // Divide the logits of the text so far by the penalty; negative ones are multiplied.
  live.penalizeRepetition = function (logits, previous, penalty) {
    const out = logits.slice();
    for (const id of new Set(previous)) out[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    return out;
  };

  live.scaleTemperature = (logits, temperature) => logits.map((value) => value / temperature);

  // The k most likely, and those as likely as the last of them.
  live.keepTopK = function (logits, k) {
    const sorted = Float32Array.from(logits).sort();
    return keepFrom(logits, sorted[Math.max(sorted.length - k, 0)]);
  };

  // The fewest most likely tokens that have `topP` of the probability together.
  live.keepTopP = function (logits, topP) {
    if (topP >= 1) return logits;
    const ordered = Float32Array.from(logits).sort(), p = live.softmax(ordered);
    const tail = 1 - topP + 1e-15; // as doubles, 1 - 0.8 is a little less than 0.1 + 0.1
    let dropped = 0;
    for (let below = 0; dropped < p.length - 1; dropped++) if ((below += p[dropped]) > tail) break;
    return keepFrom(logits, ordered[dropped]);
  };

  // The tokens that are at least `minP` times as likely as the most likely one.
  live.keepMinP = function (logits, minP) {
    let largest = -Infinity;
    for (const value of logits) if (value > largest) largest = value;
    return logits.map((value) => (Math.exp(value - largest) < minP ? -Infinity : value));
  };

  // All of them in the course's order: penalty, temperature, top-k, top-p, min-p.
  live.reshape = function (logits, knobs = {}, previous = []) {
    const { temperature = 1, top_k = 0, top_p = 1, min_p = 0, repetition_penalty = 1 } = knobs;
    let out = Float32Array.from(logits);
    if (repetition_penalty !== 1) out = live.penalizeRepetition(out, previous, repetition_penalty);
    if (temperature !== 1) out = live.scaleTemperature(out, temperature);
    if (top_k > 0) out = live.keepTopK(out, top_k);
    if (top_p < 1) out = live.keepTopP(out, top_p);
    if (min_p > 0) out = live.keepMinP(out, min_p);
    return out;
  };

  // Draw one index from probabilities; `u` is a number from 0 to 1.
  live.draw = function (p, u = Math.random()) {
    let last = 0;
    for (let i = 0, upTo = 0; i < p.length; i++) {
      if (p[i] > 0) last = i;
      if ((upTo += p[i]) > u) return i;
    }
    return last; // rounding: the sum stayed a little below 1
  };

  // The k most likely: [[index, probability]], the most likely first.
  live.mostLikely = function (p, k) {
    const best = [];
    for (let i = 0; i < p.length; i++) {
      if (p[i] <= (best.length < k ? 0 : best[k - 1][1])) continue;
      let at = best.length;
      while (at > 0 && best[at - 1][1] < p[i]) at--;
      best.splice(at, 0, [i, p[i]]);
      if (best.length > k) best.pop();
    }
    return best;
  };
});
