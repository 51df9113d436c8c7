"""The homework's checks: right answers of several styles pass, wrong ones are told why."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from course_checks import measuring, optimizing

RIGHT, MISTAKES = {}, {}  # run by test_checks.py

MODULES = (measuring, optimizing)


@pytest.mark.parametrize(
    "check",
    [getattr(module, name) for module in MODULES for name in module.__all__ if "check_" in name],
    ids=lambda check: check.__name__,
)
def test_nothing_returned_is_wrong(check):
    assert check(lambda *_: None).passed is False


def settings(temperature, n):
    chosen = {"max_new_tokens": n, "return_full_text": False, "do_sample": temperature > 0}
    return {**chosen, "temperature": temperature} if temperature > 0 else chosen


def settings_of_two_dicts(temperature, n):
    if temperature == 0:
        return {"do_sample": False, "max_new_tokens": n, "return_full_text": False}
    return dict(do_sample=True, temperature=temperature, max_new_tokens=n, return_full_text=False)


RIGHT["check_generation_settings"] = [settings, settings_of_two_dicts]


def without(settings, *names):
    return {name: value for name, value in settings.items() if name not in names}


MISTAKES["check_generation_settings"] = [
    (lambda t, n: {**without(settings(t, n), "max_new_tokens"), "max_length": n}, "max_length"),
    (lambda t, n: without(settings(t, n), "return_full_text"), "return_full_text"),
    (lambda t, n: {**settings(t, n), "do_sample": False}, "does nothing"),
    (lambda t, n: {**settings(t, n), "do_sample": True}, "greedy"),
    (lambda t, n: {**settings(t, n), "temperature": t}, "leave `temperature` out"),
    (lambda t, n: {**settings(t, n), "max_new_tokens": 20}, "should be 30"),
    (lambda t, n: (t, n), "return a dict"),
]


# --- distinct n-grams ----------------------------------------------------------------------------


def distinct(texts, n):
    grams = [tuple(t[i : i + n]) for t in texts for i in range(len(t) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def distinct_counted(samples, size):
    counts = Counter()
    for tokens in samples:
        counts.update(zip(*(tokens[shift:] for shift in range(size)), strict=False))
    total = sum(counts.values())
    return np.float64(len(counts) / max(total, 1))


RIGHT["check_distinct_n"] = [distinct, distinct_counted]


def number_of(texts, n):
    return sum(len(t) - n + 1 for t in texts)


MISTAKES["check_distinct_n"] = [
    (lambda texts, n: sum(distinct([t], n) for t in texts) / len(texts), "texts' own shares"),
    (lambda texts, n: distinct([[token for t in texts for token in t]], n), "border"),
    (
        lambda texts, n: distinct(texts, n) * (number_of(texts, n) if n > 1 else 1),
        "divide by the number of all",
    ),
    (
        lambda texts, n: distinct(texts, n) * number_of(texts, n) / sum(map(len, texts)),
        "number of tokens",
    ),
    (lambda texts, n: 1 - distinct(texts, n) if n > 1 else 1, "share that repeats"),
    (lambda texts, n: distinct(texts, 1), "single tokens"),
    (
        lambda texts, n: (
            len({frozenset(p) for t in texts for p in pairwise(t)}) / 7 if n > 1 else 1
        ),
        "two different",
    ),
    (
        lambda texts, n: distinct(texts, n) / (1 if distinct(texts, n) else 0),
        "divides by zero",
    ),
]


# --- the loop ------------------------------------------------------------------------------------


def loop(ids, times=3, last=True, longest=0):
    for p in range(1, len(ids) // times + 1 - longest):
        end = ids[-p * times :] if last else ids[: p * times]
        if end == end[:p] * times:
            return p
    return 0


def loop_backwards(ids):
    found = 0
    for p in range(len(ids) // 3, 0, -1):
        if all(ids[-i] == ids[-i - p] == ids[-i - 2 * p] for i in range(1, p + 1)):
            found = p
    return torch.tensor(found)


RIGHT["check_loop_length"] = [loop, loop_backwards]


def longest_loop(ids):
    periods = [p for p in range(1, len(ids) // 3 + 1) if ids[-3 * p :] == ids[-p:] * 3]
    return max(periods, default=0)


MISTAKES["check_loop_length"] = [
    (lambda ids: loop(ids, times=2), "only twice"),
    (longest_loop, "shortest period"),
    (lambda ids: loop(ids, last=False) or loop(ids), "got out of its loop"),
    (lambda ids: loop(ids, longest=1), "one too early"),
    (lambda ids: 3 * loop(ids), "all three repeats"),
    (lambda ids: loop(ids) or None, "Without a loop"),
    (
        lambda ids: next(
            (
                p
                for p in range(1, 7)
                if len(ids) >= 3 * p and ids[-1] == ids[-1 - p] == ids[-1 - 2 * p]
            ),
            0,
        ),
        "as a whole",
    ),
]


# --- heads ---------------------------------------------------------------------------------------


def entropy(w):
    return (torch.special.entr(w).sum(-1)[:, 1:].mean(-1)) / math.log(2)


def entropy_in_loops(weights):
    means = []
    for head in np.asarray(weights):
        rows = [-sum(p * np.log2(p) for p in row if p > 0) for row in head[1:]]
        means.append(sum(rows) / len(rows))
    return means


RIGHT["check_head_entropy"] = [entropy, entropy_in_loops]


BITS = 1 / math.log(2)


MISTAKES["check_head_entropy"] = [
    (lambda w: entropy(w) * math.log(2), "nats"),
    (lambda w: -entropy(w), "sign"),
    (lambda w: -(w * w.log2()).sum(-1)[:, 1:].mean(-1), "not a number"),
    (lambda w: BITS * torch.special.entr(w).sum(-1).mean(-1), "first query"),
    (lambda w: BITS * torch.special.entr(w).mean(-1)[:, 1:].mean(-1), "mean over the keys"),
    (lambda w: BITS * torch.special.entr(w).sum(-2)[:, 1:].mean(-1), "over the queries"),
    (lambda w: entropy(w).mean(), "one for each head"),
    (lambda w: BITS * torch.special.entr(w).sum(-1), "for each query"),
]


def far(w):
    place = torch.arange(w.shape[-1])
    return (place[:, None] - place).abs().float()


def distance(w):
    return (w * far(w)).sum(-1)[:, 1:].mean(-1)


def distance_in_loops(weights):
    H, T, _ = weights.shape
    return [
        sum(weights[h, i, j].item() * abs(i - j) for i in range(1, T) for j in range(T)) / (T - 1)
        for h in range(H)
    ]


RIGHT["check_attention_distance"] = [distance, distance_in_loops]


def signed(w):
    place = torch.arange(w.shape[-1]).float()
    return place[:, None] - place


MISTAKES["check_attention_distance"] = [
    (lambda w: (w * -signed(w)).sum(-1)[:, 1:].mean(-1), "wrong sign"),
    (lambda w: (w * signed(w)).sum(-1)[:, 1:].mean(-1), "encoder"),
    (lambda w: (w * far(w)).sum(-1).mean(-1), "first query"),
    (lambda w: (w * far(w) ** 2).sum(-1)[:, 1:].mean(-1), "squared"),
    (
        lambda w: far(w).expand_as(w).gather(-1, w.argmax(-1, keepdim=True))[:, 1:, 0].mean(-1),
        "largest weight",
    ),
]


RIGHT["check_share_on_previous"] = [
    lambda w: w.diagonal(-1, dim1=-2, dim2=-1).mean(-1),
    lambda w: [sum(h[t][t - 1] for t in range(1, len(h))) / (len(h) - 1) for h in w.tolist()],
]


MISTAKES["check_share_on_previous"] = [
    (lambda w: w.diagonal(0, -2, -1).mean(-1), "token itself"),
    (lambda w: w.diagonal(1, -2, -1).mean(-1), "next token"),
    (lambda w: w[:, 1:, 0].mean(-1), "first token, column 0"),
    (lambda w: w.diagonal(-1, -2, -1).sum(-1) / w.shape[-1], "divided by T"),
    (lambda w: w.diagonal(-1, -2, -1).sum(-1), "sum over the queries"),
]


# --- AdamW ---------------------------------------------------------------------------------------


def adamw(
    w, g, m, v, step, lr, decay, *, fix_m=True, fix_v=True, inside=False, sign=1, l2=False, root=0.5
):
    if l2:
        g = g + decay * w
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g**2
    m_hat = m / (1 - 0.9**step) if fix_m else m
    v_hat = v / (1 - 0.999**step) if fix_v else v
    down = (v_hat + 1e-8) ** 0.5 if inside else v_hat**root + 1e-8
    w = w if l2 else w * (1 - lr * decay)
    return w - sign * lr * m_hat / down, m, v


def adamw_numpy(weight, grad, m, v, step, lr, weight_decay):
    weight, grad, m, v = (np.asarray(part, dtype=np.float64) for part in (weight, grad, m, v))
    m, v = m + 0.1 * (grad - m), v + 0.001 * (grad * grad - v)
    update = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return [weight - lr * (update + weight_decay * weight), m, v]


RIGHT["check_adamw_step"] = [adamw, adamw_numpy]


def in_place(w, g, m, v, step, lr, decay):
    m.mul_(0.9).add_(0.1 * g)
    return adamw(w, g, m, v, step, lr, decay)


def with_changed(position, change):
    def answer(w, g, m, v, *rest):
        result = list(adamw(w, g, m, v, *rest))
        result[position] = change(w, g, m, v, *rest)
        return tuple(result)

    return answer


MISTAKES["check_adamw_step"] = [
    (lambda *a: adamw(*a, fix_m=False, fix_v=False), "start at zero"),
    (lambda *a: adamw(*a, fix_m=False), "m is not corrected"),
    (lambda *a: adamw(*a, fix_v=False), "v is not corrected"),
    (lambda *a: adamw(*a, inside=True), "under the root"),
    (lambda *a: adamw(*a, sign=-1), "up the gradient"),
    (lambda *a: adamw(*a, l2=True), "L2"),
    (lambda *a: adamw(*a, root=1), "root of v is missing"),
    (lambda w, g, m, v, s, lr, d: adamw(w, g, m, v, s + 1, lr, d), "start at zero|ahead|lr"),
    (with_changed(1, lambda w, g, m, *_: 0.1 * m + 0.9 * g), "exchanged"),
    (with_changed(2, lambda w, g, m, v, *_: 0.999 * v + 0.001 * g), "square"),
    (with_changed(2, lambda w, g, m, v, *_: 0.9 * v + 0.1 * g**2), "beta2"),
    (lambda w, g, m, v, s, lr, d: adamw(w, g, m, v, s, lr, d / lr), "multiplied by lr"),
    (lambda w, g, m, v, s, lr, d: adamw(w, g, m, v, s, lr, 0.0), "changed nothing"),
    (lambda *a: adamw(*a)[0], "three tensors"),
    (in_place, "in place"),
]


# --- accumulation --------------------------------------------------------------------------------


def mean_gradient(gradients, sizes):
    total = torch.zeros_like(gradients[0])
    for gradient, n in zip(gradients, sizes, strict=True):
        total = total + n * gradient
    return total / sum(sizes)


RIGHT["check_mean_gradient"] = [
    mean_gradient,
    lambda gs, ns: np.average([g.numpy() for g in gs], axis=0, weights=ns),
]


def changing(gradients, sizes):
    total = gradients[0]
    total *= sizes[0]
    for gradient, n in zip(gradients[1:], sizes[1:], strict=True):
        total += n * gradient
    return total / sum(sizes)


MISTAKES["check_mean_gradient"] = [
    (lambda gs, ns: sum(gs) / len(gs), "plain mean"),
    (lambda gs, ns: sum(gs), "sum of the gradients"),
    (lambda gs, ns: mean_gradient(gs, ns) * sum(ns), "not divided"),
    (lambda gs, ns: mean_gradient(gs, ns) * sum(ns) / len(ns), "number of batches"),
    (lambda gs, ns: gs[-1], "last gradient"),
    (changing, "changed"),
]


# --- perplexity of a corpus ----------------------------------------------------------------------


def weighed(losses, sizes):
    return sum(a * n for a, n in zip(losses, sizes, strict=True)) / sum(sizes)


RIGHT["check_corpus_perplexity"] = [
    lambda losses, sizes: math.exp(weighed(losses, sizes)),
    lambda a, n: (torch.tensor(a) @ torch.tensor(n).float() / sum(n)).exp(),
]


MISTAKES["check_corpus_perplexity"] = [
    (lambda a, n: math.exp(sum(a) / len(a)), "plain mean of the losses"),
    (lambda a, n: sum(map(math.exp, a)) / len(a), "batches' perplexities"),
    (lambda a, n: weighed(list(map(math.exp, a)), n), "batches' perplexities"),
    (lambda a, n: math.exp(-weighed(a, n)), "sign"),
    (weighed, "exponential"),
    (lambda a, n: 2 ** weighed(a, n), "nats"),
]


# --- early stopping ------------------------------------------------------------------------------


def stop(steps, losses, patience, *, last=False, reset=True, equal=False):
    best, waited = math.inf, 0
    for step, loss in zip(steps, losses, strict=True):
        if loss < best or (equal and loss == best):
            best, waited = loss, 0 if reset else waited
        else:
            waited += 1
            best = loss if last else best
        if waited == patience:
            return step
    return steps[-1]


def stop_by_index(steps, losses, patience):
    for end in range(len(losses)):
        best = min(range(end + 1), key=lambda i: losses[i])
        if end - best >= patience:
            return torch.tensor(steps[end])
    return torch.tensor(steps[-1])


RIGHT["check_stopping_step"] = [stop, stop_by_index]


MISTAKES["check_stopping_step"] = [
    (lambda *a: stop(*a, last=True), "evaluation before"),
    (lambda *a: stop(*a, reset=False), "starts the count again"),
    (lambda *a: stop(*a, equal=True), "equal loss"),
    (lambda s, a, p: stop(s, a, p + 1), "too late"),
    (lambda s, a, p: stop(s, a, p - 1), "too early"),
    (lambda s, a, p: s[a.index(min(a))], "best step"),
    (lambda s, a, p: s.index(stop(s, a, p)) if stop(s, a, p) < s[-1] else s[-1], "number of"),
]


# --- reading a sweep -----------------------------------------------------------------------------


def reach(steps, losses, target, *, share=lambda a, b, t: (a - t) / (a - b), last=False):
    if losses[0] <= target:
        return steps[0]
    found = math.inf
    for (x, y), (a, b) in zip(pairwise(steps), pairwise(losses), strict=True):
        if a > target >= b and (last or found == math.inf):
            found = x + (y - x) * share(a, b, target)
    return found


def reach_numpy(steps, losses, target):
    below = np.flatnonzero(np.asarray(losses) <= target)
    if not len(below) or below[0] == 0:
        return math.inf if not len(below) else 0
    i = below[0]
    return np.interp(target, [losses[i], losses[i - 1]], [steps[i], steps[i - 1]])


RIGHT["check_steps_to_reach"] = [reach, reach_numpy]


MISTAKES["check_steps_to_reach"] = [
    (lambda *a: reach(*a, share=lambda *_: 1), "interpolate"),
    (
        lambda *a: reach(*a, share=lambda a, b, t: 1 - (a - t) / (a - b) if t != b else 1),
        "wrong end",
    ),
    (lambda *a: reach(*a, share=lambda a, b, t: 0.5 if t != b else 1), "Halfway"),
    (lambda *a: reach(*a, last=True), "crosses last"),
    (lambda s, a, t: reach(s, a, t) if t >= min(a) else None, "None"),
    (lambda s, a, t: reach(s, a, t) if t >= min(a) else s[-1], "never reaches"),
]


def winner(losses, margin, *, of=lambda seeds: sum(seeds) / len(seeds), against=1):
    ranked = sorted(losses, key=lambda value: of(losses[value]))
    lead = of(losses[ranked[against]]) - of(losses[ranked[0]])
    return ranked[0] if lead > margin else None


def winner_numpy(losses, margin):
    values, means = list(losses), np.array([np.mean(seeds) for seeds in losses.values()])
    first, second = np.argsort(means)[:2]
    return values[first] if means[second] - means[first] > margin else None


RIGHT["check_clear_winner"] = [winner, winner_numpy]


MISTAKES["check_clear_winner"] = [
    (lambda a, m: winner(a, m, of=min), "lucky"),
    (lambda a, m: winner(a, m, against=-1), "not the last"),
    (lambda a, m: winner(a, -1), "nobody wins"),
    (lambda a, m: max(a, key=lambda v: sum(a[v])), "lower is better"),
    (lambda a, m: min(sum(s) / len(s) for s in a.values()), "a loss"),
    (lambda a, m: (winner(a, m), 0), "value alone"),
]
