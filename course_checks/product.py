"""Exercises of chapter 10: windows for perplexity, BLEU's precision, int8, pruning, LoRA."""

import random
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from course_checks.answers import draw
from course_checks.exercises import Exercise, Way
from course_checks.outcomes import as_pair

# --- 1 ---------------------------------------------------------------------------------------


def _windows(n: int, size: int, stride: int) -> list[tuple]:
    found, end = [], 0
    while end < n:
        start, before = stride * len(found), max(end, 1)
        end = min(start + size, n)
        found.append((start, end, end - before))
    return found


def _each(change: Way) -> Way:
    """Return an answer that changes each window: start a, end b, k scored; n, size and stride d."""
    return lambda *call: [change(*window, *call) for window in _windows(*call)]


_CALLS = ((10, 4, 2), (17, 9, 4), (20, 8, 3), (12, 6, 4), (5, 9, 4), (9, 5, 4))
check_windows = Exercise(
    name="windows",
    task="Overlapping windows (start, end, n_scored); each token but the first is scored once.",
    right=_windows,
    inputs=lambda seed: [(n + stride * (seed % 9), size, stride) for n, size, stride in _CALLS],
    mistakes={
        "The first token of the text has nothing before it, so it cannot be predicted: the first "
        "window scores one less.": _each(lambda a, b, k, *_: (a, b, k + (a == 0))),
        "A window scores only what is new, not all.": _each(lambda a, b, k, *_: (a, b, b - a)),
        "You scored all but one of each window.": _each(lambda a, b, k, *_: (a, b, b - a - 1)),
        "Later windows score what is new.": _each(lambda a, b, k, *_: (a, b, b - a if a else k)),
        "Only the first window skips a token.": _each(lambda a, b, k, *_: (a, b, k - (a > 0))),
        "The first window scores all but one token.": _each(lambda a, b, k, n, s, d: (a, b, d)),
        "A shorter last window scores fewer.": _each(lambda a, b, k, *c: (a, b, c[2] if a else k)),
        "You scored what overlaps.": _each(lambda a, b, k, n, s, d: (a, b, b - a - d if a else k)),
        "Windows start stride tokens apart, not size.": lambda n, size, _: _windows(n, size, size),
        "The end of the text is missing: the last window may be shorter, and counts as any "
        "other.": lambda n, size, d: [w for w in _windows(n, size, d) if w[1] - w[0] == size],
        "The first window that reaches the end of the text is the last.": lambda n, size, d: (
            _windows(n, size, d) + [(a, n, 0) for a in range(d * len(_windows(n, size, d)), n, d)]
        ),
        "end is at most n.": _each(lambda a, b, k, n, s, d: (a, a + s, d if a else s - 1)),
        "The last window is shorter, not moved back to be as long as all others: it starts stride "
        "later too.": _each(lambda a, b, k, n, size, _: (min(a, max(0, n - size)), b, k)),
        "end is one past the last token.": _each(lambda a, b, k, *_: (a, b - 1, k)),
        "The last window is missing.": lambda *call: _windows(*call)[:-1],
    },
    notice="Each token is scored once, whatever the stride; that decides how much context it has.",
)

# --- 2 ---------------------------------------------------------------------------------------


def _grams(words: list[str], n: int) -> list:
    return [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]


def _hits(mine: list, theirs: list) -> int:
    return (Counter(mine) & Counter(theirs)).total()


def _share(hits: Way = _hits, over: Way = lambda mine, *_: len(mine), grams: Way = _grams) -> Way:
    def ngram_precision(candidate: list[str], reference: list[str], n: int) -> float:
        mine, theirs = grams(candidate, n), grams(reference, n)
        return hits(mine, theirs) / over(mine, theirs, candidate) if mine else 0.0

    return ngram_precision


def _texts(seed: int) -> list[tuple]:
    dice, words = random.Random(seed), ["a", "ah", "ha", "the"]
    sizes = ((3, 6, 1), (6, 8, 1), (8, 9, 2), (9, 12, 2), (12, 9, 2), (14, 16, 3))
    calls = [(dice.choices(words, k=k), dice.choices(words, k=m), n) for k, m, n in sizes]
    texts = (("a a a ha ah", "a a ah", 1), ("a ha the", "ah a the a", 2), ("a", "the ha", 2))
    return calls + [(mine.split(), theirs.split(), n) for mine, theirs, n in texts]


check_ngram_precision = Exercise(
    name="ngram_precision",
    task="BLEU's clipped precision: the share of the candidate's n-grams that the reference has.",
    right=_share(),
    inputs=_texts,
    mistakes={
        "A repeated n-gram may count only as often as the reference has it (clipping), or `the the "
        "the` would be perfect.": _share(lambda mine, theirs: sum(g in theirs for g in mine)),
        "Sets forget how often an n-gram occurs: use a Counter.": (
            _share(lambda x, y: len({*x} & {*y}), lambda mine, *_: len({*mine})),
            _share(lambda x, y: len({*x} & {*y})),
        ),
        "Recall divides by the n-grams of the reference.": _share(over=lambda x, y, _: len(y) or 1),
        "N words have N - n + 1 n-grams: divide by that.": _share(over=lambda x, y, w: len(w)),
        "Divide the matches by the number of n-grams.": _share(over=lambda *_: 1),
        "The last n-gram is missing.": _share(grams=lambda words, n: _grams(words[:-1], n)),
        "n is not used: these are single words.": _share(grams=lambda words, n: _grams(words, 1)),
        "Joined without a separator, `a ha` and `ah a` are the same: make them tuples, not "
        "strings.": _share(grams=lambda words, n: ["".join(g) for g in _grams(words, n)]),
        "Matches may be anywhere.": _share(lambda x, y: sum(map(tuple.__eq__, x, y))),
        "One n, not a mean.": lambda x, y, n: sum(_share()(x, y, k) for k in range(1, n + 1)) / n,
        "A candidate shorter than n words has no n-grams, and you divided by 0: return 0 for "
        "it.": lambda x, y, n: _hits(_grams(x, n), _grams(y, n)) / len(_grams(x, n)),
    },
    notice="Precision alone rewards saying little, so BLEU has a penalty for short texts.",
)

# --- 3 ---------------------------------------------------------------------------------------


def _most(weight: Tensor, dim: int = 1) -> Tensor:
    return weight.abs().amax(dim, keepdim=True).clamp(min=1e-12)


def _pair(q: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return q.to(torch.int8), scale


def _clamped(q: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return _pair(q.clamp(-128, 127), scale)


def _int8(steps: int = 127, size: Way = _most, whole: Way = torch.round, end: Way = _pair) -> Way:
    return lambda weight: end(whole(weight / (size(weight) / steps)), size(weight) / steps)


def _three_parts(answer: Way, weight: Tensor) -> dict[str, Any]:
    q, scale = as_pair(answer(weight), "q", "scale").values()
    kind = str(getattr(q, "dtype", "a list")).removeprefix("torch.")
    scale = torch.as_tensor(scale)
    if scale.shape == (len(weight), 1):
        scale = scale.where(weight.any(1, keepdim=True), (scale > 0).to(scale.dtype))
    return {"the type of q": kind, "q": q, "scale (1: any above zero, of a row of zeros)": scale}


_ROWS = ((3, [1]), (5, [1, -1]), (6, [1, 3, 9, 0.1]), (3, [1, 0.02, 5]), (4, [1, 0, 3]))
check_quantize_int8 = Exercise(
    name="quantize_int8",
    task="Each row in steps of its largest magnitude / 127, as int8, and the size of a step.",
    right=_int8(),
    use=_three_parts,
    inputs=lambda seed: [
        (draw(len(sizes), n, seed=seed) * torch.tensor(sizes)[:, None],) for n, sizes in _ROWS
    ],
    mistakes={
        "The matrix has one scale; expected one for each row.": tuple(
            _int8(size=lambda w, to=to: w.abs().max().expand(len(w), 1)[to]) for to in ((0, 0), ...)
        ),
        "Each column has a scale; expected one for each row.": _int8(size=lambda w: _most(w, 0)),
        "int8 ends at 127: divide by it, not by 128 or 255.": (
            *(_int8(n, end=end) for n in (128, 255) for end in (_pair, _clamped)),
        ),
        "abs() is missing: the largest may be negative.": _int8(size=lambda w: w.amax(1, True)),
        "Round before to(torch.int8), which cuts off.": _int8(whole=torch.trunc),
        "q is not int8: to(torch.int8).": _int8(end=lambda q, scale: (q, scale)),
        "q is multiplied by scale already.": _int8(end=lambda q, scale: (q * scale, scale)),
        "The scale is upside down.": _int8(end=lambda q, scale: _pair(q, 1 / scale)),
        "Divide the scale by 127.": _int8(end=lambda q, scale: _pair(q, 127 * scale)),
        "The scale is (out,), not (out, 1).": _int8(end=lambda q, scale: _pair(q, scale[:, 0])),
        "First q, then the scale.": _int8(end=lambda q, scale: _pair(q, scale)[::-1]),
        "The largest magnitude should become 127; yours becomes 1.": _int8(1),
        "A row of zeros has the scale 0, and 0 / 0 is not a number: keep the scale above zero, "
        "clamp(min=1e-12).": _int8(size=lambda w: w.abs().amax(1, keepdim=True)),
    },
    notice="No weight is off by more than half a step, scale / 2: that is all that rounding costs.",
)

# --- 4 ---------------------------------------------------------------------------------------


def _mask(size: Way = torch.abs, count: Way = round, end: Way = lambda weight, mask: mask) -> Way:
    def magnitude_mask(weight: Tensor, share: float) -> Tensor:
        rank = size(weight).flatten().argsort().argsort().view_as(weight)
        return end(weight, rank >= count(share * weight.numel()))

    return magnitude_mask


_MASKS = ((2, 3, 0.5), (4, 6, 0.1), (5, 8, 0.42), (30, 40, 0.9), (3, 3, 0.63), (3, 4, 0.0))
check_magnitude_mask = Exercise(
    name="magnitude_mask",
    task="True where a weight stays: round(share * weights) go, the smallest in magnitude.",
    right=_mask(),
    inputs=lambda seed: [(draw(out, n, seed=seed + out), share) for out, n, share in _MASKS],
    shape="(out, in)",
    mistakes={
        "abs() is missing: you took out the most negative weights.": _mask(lambda w: w),
        "You took out the largest weights; the smallest matter least.": _mask(lambda w: -w.abs()),
        "True and False are swapped.": _mask(end=lambda w, mask: ~mask),
        "share is what goes, not what stays.": lambda w, share: _mask()(w, 1 - share),
        "The smallest of all weights go, not of each row: the rows share one limit, and may lose "
        "unequally.": lambda w, share: torch.stack([_mask()(row, share) for row in w]),
        "int() cuts off: round(share * weights) go.": _mask(count=int),
        "One weight too many goes.": _mask(count=lambda n: round(n) + 1),
        "A quantile may take one more.": lambda w, share: w.abs() >= w.abs().quantile(share),
        "With share = 0 none goes, and there is no 0th smallest weight: take argsort, or a special "
        "case.": lambda w, share: w.abs() > w.abs().view(-1).kthvalue(round(share * w.numel()))[0],
        "A share of the number, not of the largest.": lambda w, s: w.abs() > s * w.abs().max(),
        "share is not a limit on the weights.": lambda w, share: w.abs() > share,
        "These are the pruned weights; return the mask.": _mask(end=lambda w, mask: w * mask),
    },
    notice="The zeros still lie in a dense matrix: neither memory nor time is saved yet.",
)

# --- 5 ---------------------------------------------------------------------------------------


def _merge(scale: Way = lambda a, A, B: a / len(A), change: Way = lambda A, B: B @ A) -> Way:
    return lambda weight, A, B, alpha: weight + scale(alpha, A, B) * change(A, B)


_SHAPES = ((1, 2, 1, 2.0), (5, 4, 2, 6.0), (4, 4, 3, 8.0), (3, 3, 3, 5.0))
check_merge_lora = Exercise(
    name="merge_lora",
    task="weight + alpha / r * B @ A.",
    right=_merge(),
    inputs=lambda seed: [
        (draw(out, n, seed=seed), draw(r, n, seed=seed + 1), draw(out, r, seed=seed + 2), alpha)
        for out, n, r, alpha in _SHAPES
    ],
    shape="(out, in)",
    mistakes={
        "You multiplied by alpha; the scale is alpha / r.": _merge(lambda alpha, A, B: alpha),
        "The scale alpha / r is missing.": _merge(lambda alpha, A, B: 1),
        "alpha is not used: the scale is alpha / r.": _merge(lambda alpha, A, B: 1 / len(A)),
        "r is A.shape[0], the narrow one, not `in`.": _merge(lambda a, A, B: a / A.shape[1]),
        "r is B.shape[1], the narrow one, not `out`.": _merge(lambda alpha, A, B: alpha / len(B)),
        "The scale is alpha / r, without a root.": _merge(lambda a, A, B: a / len(A) ** 0.5),
        "The scale is upside down: alpha / r.": _merge(lambda alpha, A, B: len(A) / alpha),
        "r is fixed: A.shape[0].": tuple(_merge(lambda a, A, B, r=r: a / r) for r in (4, 8, 16)),
        "A and B are swapped: B @ A, (out, r) times (r, in).": _merge(change=lambda A, B: A @ B),
        "B @ A needs no transpose.": _merge(change=lambda A, B: (B @ A).T),
        "This is the change alone.": lambda weight, *rest: _merge()(0 * weight, *rest),
        "You subtracted the change.": lambda w, A, B, alpha: _merge()(w, A, B, -alpha),
        "Scale the change alone.": lambda w, A, B, alpha: alpha / len(A) * (w + B @ A),
    },
    notice="At 4,096 by 4,096 and r = 8, A and B have 0.4% of the weight's numbers.",
)
