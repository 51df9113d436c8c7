"""Exercises of the homework on training and sweeps: the optimizer, and how to read its curves."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_checks import Wrong
from course_checks.answers import draw
from course_checks.exercises import Exercise, Way, changed

# --- perplexity of a corpus ------------------------------------------------------------------


def _weighed(parts: Sequence, sizes: Sequence[float]) -> Any:
    return sum(part * n for part, n in zip(parts, sizes, strict=True)) / sum(sizes)


def _batches(seed: int) -> list[tuple]:
    losses = (draw(5, seed=seed).sigmoid() * 3 + 0.5).tolist()
    some = (losses[:2], [1, 3]), (losses[:3], [6, 6, 2]), (losses, [4, 4, 4, 4, 3])
    return [([round(loss, 3) for loss in part], sizes) for part, sizes in some]


check_corpus_perplexity = Exercise(
    name="corpus_perplexity",
    task="The perplexity of a text from its batches' mean losses and numbers of tokens.",
    right=lambda losses, sizes: math.exp(_weighed(losses, sizes)),
    inputs=_batches,
    mistakes={
        "You took the plain mean of the losses. A short batch counts for less: weight each loss "
        "by its number of tokens.": lambda a, n: math.exp(sum(a) / len(a)),
        "This is the loss of the text; its perplexity is exp of it.": _weighed,
        "The sign is wrong: perplexity is exp(+loss).": lambda a, n: math.exp(-_weighed(a, n)),
        "You averaged perplexities: average the losses, weighted by the tokens, then take exp.": (
            lambda a, n: _weighed([*map(math.exp, a)], n),
            lambda a, n: sum(map(math.exp, a)) / len(a),
        ),
        "The losses are in nats: use exp, not 2 to the power.": lambda a, n: 2 ** _weighed(a, n),
        "You divided by the number of batches. The mean is taken over tokens: divide by their "
        "number.": lambda a, n: math.exp(_weighed(a, n) * sum(n) / len(n)),
        "Multiply each loss by its size, which gives the sum over the batch, before you add "
        "them.": lambda a, n: math.exp(sum(a) / sum(n)),
        "You divided by the sizes. A batch of more tokens counts for more: multiply by its "
        "size.": lambda a, n: math.exp(_weighed(a, [1 / k for k in n])),
        "You took exp of a sum. Divide it by the number of all tokens before the exponential, then "
        "take "
        "exp.": (lambda a, n: math.exp(sum(a)), lambda a, n: math.exp(_weighed(a, n) * sum(n))),
        "The exercise asks for one number for the whole text, and yours gives one for each "
        "batch.": lambda a, n: [*map(math.exp, a)],
    },
    notice="How the text was cut into batches must not change its perplexity, and now it does not.",
)

# --- accumulation ----------------------------------------------------------------------------


def _pieces(seed: int) -> list[tuple]:
    shapes = ((2,), [3, 1]), ((4,), [6, 1, 3]), ((2, 3), [24, 8]), ((3, 2), [2, 5, 2, 1])
    return [([draw(*s, seed=seed + n) for n in range(len(sizes))], sizes) for s, sizes in shapes]


def _divided(gradients: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    return sum(part / n for part, n in zip(gradients, sizes, strict=True))


check_mean_gradient = Exercise(
    name="mean_gradient",
    task="The gradient of the mean loss over all examples, from those of its pieces.",
    right=lambda gradients, sizes: _weighed(gradients, sizes),
    inputs=_pieces,
    shape="that of one gradient",
    mistakes={
        "You took the plain mean. A small piece counts for less: weight each gradient by its "
        "size.": lambda g, n: sum(g) / len(g),
        "This is the sum: weight each gradient by its size, divide by all examples.": lambda g, n: (
            sum(g)
        ),
        "Multiply each gradient by its size before you add them.": lambda g, n: sum(g) / sum(n),
        "Now divide by the number of all examples.": lambda g, n: _weighed(g, n) * sum(n),
        "Now divide the sum by the number of all the examples, and not by that of the "
        "pieces.": lambda g, n: _weighed(g, n) * sum(n) / len(n),
        "More examples count for more: multiply by the size of each piece instead of dividing by "
        "it.": (_divided, lambda g, n: _divided(g, n) / sum(n)),
        "Only the last piece counts: each one overwrote those before. Begin with zeros and add "
        "each to the sum.": (lambda g, n: g[-1], lambda g, n: g[-1] * n[-1] / sum(n)),
        "The last piece is missing.": lambda g, n: _weighed([*g[:-1], 0 * g[-1]], n),
        "The first gradient is in twice: begin the sum with zeros, not with "
        "gradients[0].": lambda g, n: g[0] / sum(n) + _weighed(g, n),
        "This is a gradient for each piece; add them up, so that one is left for all "
        "examples.": lambda g, n: torch.stack([a * k / sum(n) for a, k in zip(g, n, strict=True)]),
        "Each weight keeps a gradient of its own; you took a mean over the weights as "
        "well.": lambda g, n: _weighed(g, n).mean(),
    },
    notice="It is exactly the gradient of one large batch, in the memory of a small one.",
)

# --- AdamW -----------------------------------------------------------------------------------


def _corrected(m: Tensor, v: Tensor, t: int) -> tuple[Tensor, Tensor]:
    return m / (1 - 0.9**t), v / (1 - 0.999**t)


def _adamw(
    m: Way = lambda m, g: 0.9 * m + 0.1 * g,
    v: Way = lambda v, g: 0.999 * v + 0.001 * g**2,
    fix: Way = _corrected,
    step: Way = lambda m, v: m / (v.sqrt() + 1e-8),
    new: Way = lambda w, step, decay: w - decay * w - step,
) -> Way:
    """Return a step of AdamW; ``new`` is given lr times the step and lr times the decay."""

    def with_averages(w: Tensor, m: Tensor, v: Tensor, t: int, lr: float, decay: float) -> tuple:
        return new(w, lr * step(*fix(m, v, t)), lr * decay), m, v

    return lambda w, g, m_old, v_old, *rest: with_averages(w, m(m_old, g), v(v_old, g), *rest)


def _three(answer: Callable, *arguments: Any) -> dict[str, Any]:
    result = answer(*arguments)
    if not isinstance(result, (tuple, list)) or len(result) != 3:
        raise Wrong("Return three tensors, the new weight, m and v: `return weight, m, v`.")
    return dict(zip(("weight", "m", "v"), result, strict=True))


def _updates(seed: int) -> list[tuple]:
    def call(shape: tuple, step: int, lr: float, decay: float, size: float = 1.0) -> tuple:
        w, g, m, v = (draw(*shape, seed=seed + n) for n in range(4))
        m, v = (size * m, size**2 * v.square()) if step > 1 else (0 * m, 0 * v)
        return w, size * g, m, v, step, lr, decay

    calls = [call((2,), 1, 0.5, 0.0), call((3,), 3, 0.5, 0.0), call((2,), 1, 0.1, 0.5)]
    calls += [call((4, 3), 5, 0.2, 0.3), call((2, 3), 50, 0.5, 0.1)]
    return [*calls, call((3,), 2, 0.5, 0.0, 1e-8)]  # gradients as small as eps


_CORRECTIONS = {
    "m and v begin at 0 and are too small at first: divide both by 1 - beta**step.": (
        lambda m, v, t: (m, v),
        lambda m, v, t: (m / (1 - 0.9**t), v),
        lambda m, v, t: (m, v / (1 - 0.999**t)),
    ),
    "The correction forgets the step: it is 1 - beta**step.": lambda m, v, t: (m / 0.1, v / 0.001),
    "The correction is a step ahead: steps count from 1 already, so it is beta**step as it "
    "is.": lambda m, v, t: (m / (1 - 0.9 ** (t + 1)), v / (1 - 0.999 ** (t + 1))),
}

check_adamw_step = Exercise(
    name="adamw_step",
    task="One step of AdamW with beta 0.9 and 0.999, eps 1e-8: the new weight, m and v.",
    right=lambda weight, grad, m, v, step, lr, weight_decay: _adamw()(
        weight, grad, m, v, step, lr, weight_decay
    ),
    use=_three,
    inputs=_updates,
    mistakes=changed(lambda fix: _adamw(fix=fix), _CORRECTIONS)
    | {
        "Return m and v as they are before the correction, which is made afresh at each "
        "step.": lambda *a: (_adamw()(*a)[0], *_corrected(*_adamw()(*a)[1:], a[4])),
        "m: the old one keeps 0.9, the gradient gets 0.1.": _adamw(lambda m, g: 0.1 * m + 0.9 * g),
        "v averages the square of the gradient.": _adamw(v=lambda v, g: 0.999 * v + 0.001 * g),
        "v has a beta of its own, 0.999.": _adamw(v=lambda v, g: 0.9 * v + 0.1 * g**2),
        "The root of v is missing.": _adamw(step=lambda m, v: m / (v + 1e-8)),
        "eps is under the root; add it after.": _adamw(step=lambda m, v: m / (v + 1e-8).sqrt()),
        "The weight went up the gradient.": _adamw(new=lambda w, step, decay: w - decay * w + step),
        "weight_decay changed nothing.": lambda *a: _adamw()(*a[:6], 0.0),
        "The decay is not multiplied by lr.": lambda *a: _adamw()(*a[:6], a[6] / a[5]),
        "The decay makes the weights grow.": lambda *a: _adamw()(*a[:6], -a[6]),
        "The decay uses the weight from before the step: lr · weight_decay · weight, both "
        "subtracted.": _adamw(new=lambda w, step, decay: (w - step) * (1 - decay)),
        "The decay went into the gradient, and so into m and v: that is Adam with L2. In AdamW it "
        "acts on the weight "
        "alone.": lambda w, g, m, v, t, lr, decay: _adamw()(w, g + decay * w, m, v, t, lr, 0.0),
    },
    notice="At step 1 each weight moves by lr, however large or small its gradient is.",
)

# --- early stopping --------------------------------------------------------------------------


def _stopping(best: Way = lambda seen: seen.index(min(seen)), late: int = 0) -> Way:
    """Return when to stop; ``best`` is the number of the evaluation from which one waits."""
    return lambda steps, losses, patience: next(
        (s for n, s in enumerate(steps) if n - best(losses[: n + 1]) == patience + late), steps[-1]
    )


_CURVES = (
    ([4.0, 3.0, 2.5, 2.2, 2.1, 2.0, 1.9], 2),  # falls to the end
    ([4.0, 3.0, 2.0, 2.3, 2.5, 2.6, 2.8], 2),
    ([4.0, 3.0, 3.1, 3.2, 3.3, 1.0, 1.5, 1.4, 1.6], 3),  # the best comes too late
    ([3.0, 2.0, 2.4, 2.2, 2.5, 2.3, 2.4], 3),  # swings without a new best
    ([3.0, 2.0, 2.1, 1.9, 2.0, 1.8, 1.9], 2),  # each failure is made good
    ([5.0, 4.0, 4.5, 3.0, 3.5, 3.2, 3.1, 3.3, 3.4], 4),
    ([3.0, 2.0, 2.0, 2.0, 2.0, 1.5], 2),  # an equal loss is no improvement
)


def _curves(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    every, up = 10 * int(rng.integers(2, 90)), rng.integers(64).item() / 16
    steps = [every * n for n in range(9)]
    return [(steps[: len(curve)], [x + up for x in curve], patience) for curve, patience in _CURVES]


_BEST = {
    "You compare with the last evaluation. Compare with the best so far: a loss that only swings "
    "has stopped improving "
    "too.": lambda seen: max(n for n, x in enumerate(seen) if n == 0 or x < seen[n - 1]),
    "You count all failures. A new best starts the count again: set it back to 0 "
    "there.": lambda seen: len({min(seen[: n + 1]) for n in range(len(seen))}) - 1,
    "An equal loss is not a new lowest, so it counts as a failure: compare with <, not with "
    "<=.": lambda seen: max(n for n, x in enumerate(seen) if x == min(seen)),
    "You wait for a new highest loss.": lambda seen: seen.index(max(seen)),
}

check_stopping_step = Exercise(
    name="stopping_step",
    task="The step at which training stops after `patience` evaluations without a new best.",
    right=lambda steps, val_losses, patience: _stopping()(steps, val_losses, patience),
    inputs=_curves,
    mistakes=changed(_stopping, _BEST)
    | {
        "One evaluation too late: it stops at the one that makes it `patience`.": _stopping(late=1),
        "One evaluation too early: it stops when `patience` have failed.": _stopping(late=-1),
        "This is the number of the evaluation; return its step, which is "
        "steps[i].": lambda s, a, n: s.index(_stopping()(s, a, n)),
        "Return the step, not the loss.": lambda s, a, n: a[s.index(_stopping()(s, a, n))],
        "This is the best step; that it was the best is known only `patience` evaluations "
        "later.": lambda s, a, n: _stopping()([*s[:n], *s[: -n - 1], s[-1]], a, n),
        "A run that has stopped does not see what comes later.": lambda s, a, n: s[a.index(min(a))],
        "If training never stops, return the last step: put it after the loop, not "
        "None.": lambda s, a, n: _stopping()([*s[:-1], None], a, n),
        "Patience counts evaluations, not steps.": lambda s, a, n: _stopping(late=1 - n)(s, a, n),
    },
    notice="What is kept is the checkpoint of the best step, not of the last one.",
)

# --- reading a sweep -------------------------------------------------------------------------


def _reach(
    way: Way = lambda a, b, x, y, t: a + (x - t) / (x - y) * (b - a), first: int = 0, pick: int = 0
) -> Way:
    def answer(steps: list[int], losses: list[float], t: float) -> float:
        below = [n for n in range(first, len(steps)) if losses[n] <= t]
        falls = [n for n in below if n == first or losses[n - 1] > t]
        if not falls or falls[pick] == 0:
            return steps[0] if falls else math.inf
        around = slice(falls[pick] - 1, falls[pick] + 1)
        return way(*steps[around], *losses[around], t)

    return answer


def _sweep(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    every, up = int(rng.integers(50, 1000)), rng.integers(64).item() / 8
    steps = [every * n for n in range(5)]
    down, wavy = [4.0, 3.0, 2.0, 1.75, 1.5], [4.0, 3.0, 2.0, 2.625, 1.625]
    asked = (down, 2.25), (down, 3.75), (wavy, 2.25), (wavy, 1.75), (wavy, 3.25), (down, 3.0)
    asked += (wavy[:4], 2.5), (wavy[:4], 2.25), (wavy, 1.0), (down, 5.0), (down, 4.0)
    return [(steps[: len(a)], [x + up for x in a], target + up) for a, target in asked]


def _never(value: Any) -> Way:
    return lambda s, a, t: _reach()(s, a, t) if min(a) <= t else s[-1] if value == "last" else value


_WAYS = {
    "The line crosses the target before this evaluation: interpolate.": lambda a, b, x, y, t: b,
    "The line crosses the target after this evaluation: interpolate.": lambda a, b, x, y, t: a,
    "From the wrong end: the share is (before - target) / (before - "
    "after).": lambda a, b, x, y, t: a + (t - y) / (x - y) * (b - a),
    "Half-way is a guess: the share is (before - target) / (before - "
    "after).": lambda a, b, x, y, t: (a + b) / 2,
    "This is the share of the way; return a step.": lambda a, b, x, y, t: (x - t) / (x - y),
    "These are evaluations; return a step.": lambda a, b, x, y, t: a / (b - a) + (x - t) / (x - y),
}

check_steps_to_reach = Exercise(
    name="steps_to_reach",
    task="The step at which the line through the losses first comes down to target, or inf.",
    right=lambda steps, losses, target: _reach()(steps, losses, target),
    inputs=_sweep,
    mistakes=changed(_reach, _WAYS)
    | {
        "A curve that never gets down to the target takes math.inf steps, not None or some "
        "number.": tuple(map(_never, (None, -1, "last"))),
        "This is where the curve crosses last; return the first time.": _reach(pick=-1),
        "The first loss may be at the target or below it already, and then the answer is the first "
        "step, "
        "steps[0].": (_reach(first=1), lambda s, a, t: _reach()(s, a, t) if a[0] > t else math.inf),
        "The curve may reach the target and rise again: look at every loss, not at the "
        "last.": lambda s, a, t: _reach()(s, a, t) if a[-1] <= t else math.inf,
        "This is the evaluation whose loss is nearest; find where the line crosses the "
        "target.": lambda s, a, t: min(s, key=lambda step: abs(a[s.index(step)] - t)),
        "The line also reaches a target that no evaluation hits exactly: compare with "
        "<=.": lambda s, a, t: s[a.index(t)] if t in a else math.inf,
    },
    notice="Steps to a given loss are a fairer comparison than the loss after given steps.",
)

# --- a winner --------------------------------------------------------------------------------


def _winner(
    score: Way = statistics.fmean, rival: int = 1, clear: Way = lambda lead, margin: lead > margin
) -> Way:
    def answer(losses: Mapping[Any, Sequence[float]], margin: float) -> Any:
        order = sorted(losses, key=lambda value: score(losses[value]))
        lead = score(losses[order[rival]]) - score(losses[order[0]])
        return order[0] if clear(lead, margin) else None

    return answer


_RUNS = (
    ({8: [2.5, 2.75], 16: [2.25, 2.5], 32: [1.5, 1.75], 64: [2.0, 2.25]}, 0.25),
    ({"relu": [1.5, 1.25], "gelu": [1.25, 1.0], "silu": [2.0, 2.0]}, 0.125),
    ({8: [2.0, 2.25, 2.0], 16: [3.0, 1.75, 2.75]}, 0.125),  # the best run is not the best
    ({4: [1.5, 2.5, 2.75, 3.0], 2: [2.0, 2.0, 1.25, 2.0]}, 0.125),  # nor is the first
    ({4: [2.0, 2.0, 3.5, 3.5, 2.0], 2: [2.25] * 5}, 0.125),  # nor that in the middle
    ({1: [2.0, 2.0, 2.0], 3: [2.0, 2.5, 2.0], 2: [3.0, 3.0, 3.0]}, 0.25),  # a small lead
    ({"a": [2.0, 2.0], "b": [2.125, 2.125], "c": [3.0, 3.0]}, 0.25),
    ({"a": [2.5, 2.5], "b": [2.25, 2.25]}, 0.25),  # a lead of just the margin
)


def _runs(seed: int) -> list[tuple]:
    up = np.random.default_rng(seed).integers(64).item() / 16
    return [
        ({k: [x + up for x in v] for k, v in losses.items()}, margin) for losses, margin in _RUNS
    ]


check_clear_winner = Exercise(
    name="clear_winner",
    task="The value with the lowest mean loss, or None if its lead is not above margin.",
    right=lambda losses, margin: _winner()(losses, margin),
    inputs=_runs,
    mistakes={
        "Compare the means over the seeds, not the best runs.": _winner(min),
        "Compare the means over the seeds, not the medians.": _winner(statistics.median),
        "Compare means over the seeds, not the first runs.": _winner(lambda runs: runs[0]),
        "You compare sums; the margin is for means.": _winner(sum),
        "A lower loss is better, not a higher one.": _winner(lambda runs: -statistics.fmean(runs)),
        "The margin is ignored: return None if the lead over the second best is not above "
        "it.": _winner(clear=lambda lead, margin: True),
        "A lead that is just as large as the margin is not above it: compare with >, not with "
        ">=.": _winner(clear=lambda lead, margin: lead >= margin),
        "The comparison is the wrong way round: None is for a small lead, the value for a large "
        "one.": _winner(clear=lambda lead, margin: lead < margin),
        "Compare with the second best, not with the worst.": _winner(rival=-1),
        "Every result is None. Return the value: print only shows it.": lambda a, m: None,
        "Where there is no winner, return None itself, not an empty text and not False: "
        "`return "
        "None`.": (lambda a, m: _winner()(a, m) or "", lambda a, m: _winner()(a, m) or False),
        "Return the value itself, which is the key in the dict, and not its mean "
        "loss.": lambda a, m: _winner()(a, m) and min(map(statistics.fmean, a.values())),
    },
    notice="A margin has to come from somewhere: repeat one run with other seeds and look.",
)
