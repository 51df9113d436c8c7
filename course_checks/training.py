"""Exercises of chapter 8: a batch, the loss, perplexity, the parameter count, the learning rate."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from course_checks import Verdict, Wrong
from course_checks.answers import draw
from course_checks.exercises import Exercise, Way, changed

__all__ = ["LOG_P", "Verdict", "check_count_parameters", "check_cross_entropy"]
__all__ += ["check_learning_rate", "check_make_batch", "check_perplexity"]

# --- 1: a batch ------------------------------------------------------------------------------


def _batch(x_at: int = 0, y_at: int = 1, change: Way = lambda x, y: (x, y)) -> Way:
    return lambda ids, starts, T: change(
        *(torch.stack([ids[s + n : s + n + T] for s in starts.tolist()]) for n in (x_at, y_at))
    )


def _x_and_y(answer: Callable, *arguments: Any) -> dict[str, Any]:
    result = answer(*arguments)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Wrong("Return two tensors, x and y: `return x, y`.")
    x, y = (torch.stack(p) if isinstance(p, list) and torch.is_tensor(p[0]) else p for p in result)
    return {"x": x, "y": y}


def _batch_inputs(seed: int) -> list[tuple]:
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))
    starts = map(torch.tensor, ([7], [3, 17, 30], [45, 9, 22, 9], [53]))
    return list(zip((ids[:30], ids[:40], ids[:60], ids[:60]), starts, (3, 4, 6, 6), strict=True))


check_make_batch = Exercise(
    name="make_batch",
    task="The windows of the corpus at starts, and the token after each: x and y, both (B, T).",
    right=lambda ids, starts, block_size: _batch()(ids, starts, block_size),
    use=_x_and_y,
    inputs=_batch_inputs,
    mistakes={
        "y equals x, so there is nothing to predict. Shift y one place on.": _batch(y_at=0),
        "y is shifted the wrong way: it holds the token before, not after.": _batch(y_at=-1),
        "y is shifted by two places; the next token is one place on.": _batch(y_at=2),
        "x and y are swapped: x is what the model reads, y what follows.": _batch(1, 0),
        "`roll` brings the window's first token round to the end of y. Take the last one from the "
        "corpus, ids[start + block_size].": _batch(change=lambda x, y: (x, x.roll(-1, 1))),
        "y has one token for each window; there is one after every position, so it is (B, "
        "T).": _batch(change=lambda x, y: (x, y[:, -1])),
        "y holds the block after x. Position t of y is what follows position t of x: shift by "
        "one.": lambda i, s, T: _batch(0, T)(i, s, T),
        "x and y are one token short: cut windows of block_size + 1, then drop an end of "
        "each.": _batch(change=lambda x, y: (x[:, :-1], y[:, :-1])),
        "The windows do not begin at `starts`: loop over its values, not its indices.": (
            lambda i, s, T: _batch()(i, torch.arange(len(s)), T),
            lambda i, s, T: _batch()(i, torch.arange(len(s)) * T, T),
        ),
        "`torch.cat` joins the windows into one row; `torch.stack` makes each a row of its "
        "own.": _batch(change=lambda x, y: (x.flatten(), y.flatten())),
    },
    notice="A window of T tokens is T examples at once: one prediction at every position.",
)

# --- 2: the loss -----------------------------------------------------------------------------

#: What is used where log p ``(..., N, V)`` should be, from logits of that shape.
LOG_P: dict[str, Way | tuple[Way, ...]] = {
    "The logits went in without a softmax: they are scores, not log-probabilities.": lambda z: z,
    "The logarithm is missing: the loss of a token is the negative logarithm of its probability, "
    "-log p.": (lambda z: z.softmax(-1), lambda z: -z.softmax(-1)),
    "The softmax runs over the positions; the probabilities of one position are "
    "dim=-1.": lambda z: z.log_softmax(-2),
    "These are bits; the loss should be in nats, that is, with the natural logarithm.": lambda z: (
        z.log_softmax(-1) / math.log(2)
    ),
    "Right for ordinary logits; with one of 1000 exp overflows, and a probability rounds to 0. Use "
    "log_softmax, or subtract the largest logit before the exponential.": (
        lambda z: z.softmax(-1).log(),
        lambda z: (z.softmax(-1) + 1e-9).log(),
        lambda z: (z.softmax(-1) + 1e-12).log(),
        lambda z: (z.exp() / z.exp().sum(-1, keepdim=True)).log(),
        lambda z: z - z.exp().sum(-1, keepdim=True).log(),
    ),
}


def _loss(
    log_p: Way = lambda z: z.log_softmax(-1),
    pick: Way = lambda p, targets: p[torch.arange(len(targets)), targets],
    mean: Way = torch.mean,
) -> Way:
    return lambda logits, targets: -mean(pick(log_p(logits), targets))


def _loss_inputs(seed: int) -> list[tuple]:
    sizes = (2, 3), (3, 2), (5, 5), (7, 4), (4, 9)
    calls = [(2 * draw(N, V, seed=seed), draw(N, V, seed=seed + 1).argmax(-1)) for N, V in sizes]
    large = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    return [*calls, (large, torch.tensor([0, 0])), (-large, torch.tensor([1, 1]))]


check_cross_entropy = Exercise(
    name="cross_entropy",
    task="The mean cross-entropy in nats of logits (N, V) and targets (N,).",
    right=lambda logits, targets: _loss()(logits, targets).item(),
    inputs=_loss_inputs,
    mistakes=changed(_loss, LOG_P)
    | {
        "The sign is missing: log p is negative, the loss -log p.": _loss(mean=lambda p: -p.mean()),
        "This is the sum over the positions; the loss is their mean.": _loss(mean=torch.sum),
        "This is the mean over the whole vocabulary. At each position only the token that came "
        "counts.": _loss(pick=lambda p, targets: p),
        "`log_p[:, targets]` takes every target at every position. Take each position's own: "
        "log_p[torch.arange(N), targets].": _loss(pick=lambda p, targets: p[:, targets]),
        "The mean came before the logarithm. Take the logarithm at each position, then the "
        "mean.": _loss(mean=lambda log_p: log_p.exp().mean().log()),
    },
    without={"cross_entropy": F.cross_entropy, "CrossEntropyLoss": torch.nn.CrossEntropyLoss()},
    notice="Only the probability of the token that came counts; how the rest is shared does not.",
)

# --- 3: perplexity ---------------------------------------------------------------------------

check_perplexity = Exercise(
    name="perplexity",
    task="The perplexity of the probabilities (N,) that a model gave to the tokens that came.",
    right=lambda probabilities: (-probabilities.log().mean()).exp().item(),
    inputs=lambda seed: [(draw(N, seed=seed + N).sigmoid(),) for N in (2, 3, 5, 8, 1000)],
    mistakes={
        "The sign is missing: the mean log-probability is negative, take exp of minus "
        "it.": lambda p: p.log().mean().exp(),
        "This is the cross-entropy; perplexity is its exponential.": lambda p: -p.log().mean(),
        "You took 2 to the power of nats: exp goes with log, and 2 to the power with "
        "log2.": lambda p: 2 ** -p.log().mean(),
        "You took exp of bits: exp goes with log, not log2.": lambda p: (-p.log2().mean()).exp(),
        "This is the mean of 1/p. Take the mean of the logarithms, then exp of minus "
        "it.": lambda p: (1 / p).mean(),
        "This is 1 over the mean probability. Take the mean of the logarithms, not of the "
        "probabilities.": lambda p: 1 / p.mean(),
        "This is 1 over the probability of the whole text: take the mean of the logarithms, not "
        "the sum.": lambda p: 1 / p.prod(),
        "Right for a few tokens; the product of 1,000 probabilities rounds to 0. Add their "
        "logarithms.": lambda p: p.prod() ** (-1 / len(p)),
        "The logarithm is missing: this is the exp of minus the mean of the "
        "probabilities.": lambda p: (-p.mean()).exp(),
        "You weighted each logarithm by its p, as an entropy does; take the plain "
        "mean.": lambda p: (-(p * p.log()).sum()).exp(),
    },
    notice="A uniform guess between V tokens has perplexity V, certainty 1; nothing is below 1.",
)

# --- 4: the parameter count ------------------------------------------------------------------


def _count(n_layer: int, n_embd: int, block_size: int, vocab_size: int) -> int:
    block = 12 * n_embd**2 + 13 * n_embd
    return (2 * vocab_size + block_size + 2) * n_embd + n_layer * block


def _less(missing: Callable[[int, int, int, int], int]) -> Way:
    return lambda *sizes: _count(*sizes) - missing(*sizes)


def _sizes(seed: int) -> list[tuple]:
    one = 1, 8 + seed % 5, 17 + seed % 7, 30 + seed % 11
    return [one, (2, *one[1:]), (3, 12, 7, 40 + seed % 9), (5, 16, 64, 90), (4, 128, 64, 65)]


_MISSING = {
    "The biases of all linear layers are missing.": lambda L, C, T, V: 9 * L * C,
    "The biases of attention are missing: four of C.": lambda L, C, T, V: 4 * L * C,
    "The biases of the feed-forward network are missing.": lambda L, C, T, V: 5 * L * C,
    "The norms are missing: 2C each.": lambda L, C, T, V: (2 * L + 1) * 2 * C,
    "Biases and norms are missing.": lambda L, C, T, V: (13 * L + 2) * C,
    "The final norm is missing: 2C before the head.": lambda L, C, T, V: 2 * C,
    "Each block has two norms; you counted one.": lambda L, C, T, V: 2 * C * L,
    "The final norm comes once, not in each block.": lambda L, C, T, V: 2 * C * (1 - L),
    "The position embedding is missing, block_size · C.": lambda L, C, T, V: T * C,
    "The embedding or the head is missing, V · C each.": lambda L, C, T, V: V * C,
    "The head has no bias: V too many.": lambda L, C, T, V: -V,
    "Only one block was counted; there are n_layer of them, each of the same "
    "size.": lambda L, C, T, V: (L - 1) * (12 * C * C + 13 * C),
    "Attention has four matrices of C · C: those of query, key, value and "
    "output.": lambda L, C, T, V: L * (C * C + C),
    "The way back from 4C to C is missing.": lambda L, C, T, V: L * (4 * C * C + C),
}

check_count_parameters = Exercise(
    name="count_parameters",
    task="The number of parameters of the chapter's GPT with these sizes, untied.",
    right=_count,
    inputs=_sizes,
    mistakes=changed(_less, _MISSING),
    notice="n_head is not among the arguments: heads split the channels and add no parameters.",
)

# --- 5: the learning rate --------------------------------------------------------------------


def _half(angle: float) -> float:
    return 0.5 * (1 + math.cos(angle))


def _rate(
    warm: Callable[[int, int], float] = lambda s, w: (s + 1) / w,
    way: Callable[[int, int, int], float] = lambda s, n, w: (s - w) / (n - w),
    wave: Callable[[float], float] = lambda x: _half(math.pi * x),
) -> Way:
    return lambda s, n, w, peak: peak * (warm(s, w) if s < w else wave(way(s, n, w)))


def _rate_inputs(seed: int) -> list[tuple]:
    w, n = 10 + seed % 7, 110 + seed % 40
    calls = [(s, n, w, 0.002) for s in (0, 4, w - 1, w, w + 25, (n + w) // 2, n - 3, n)]
    return calls + [(s, 2 * n, 3 * w, 0.5) for s in (1, w, 4 * w, n, n + 2 * w)]


_WAVES = {
    "The decay is a straight line; here it is half a cosine wave.": lambda x: 1 - x,
    "A bare cosine runs from 1 to -1: use 0.5 * (1 + cos(π · progress)), which is 1 to "
    "0.": lambda x: math.cos(math.pi * x),
    "The half is missing: 1 + cos runs from 2 to 0.": lambda x: 2 * _half(math.pi * x),
    "π is missing: cos(π · progress).": lambda x: _half(x),
    "math.cos takes radians: half a wave is π, not 180.": lambda x: _half(180 * x),
    "After the warm-up the rate stays at the peak.": lambda x: 1.0,
}

check_learning_rate = Exercise(
    name="learning_rate",
    task="The learning rate of a step: up in a straight line, then down along half a cosine.",
    right=lambda step, steps, warmup_steps, peak: _rate()(step, steps, warmup_steps, peak),
    inputs=_rate_inputs,
    mistakes={
        "The first step has the rate 0, and nothing is learned: it is (step + 1) / warmup_steps in "
        "the warm-up.": (_rate(lambda s, w: s / w), _rate(lambda s, w: s / (w - 1))),
        "There is no warm-up: while step < warmup_steps the rate is still climbing.": (
            _rate(lambda s, w: 1.0),
            lambda s, n, w, peak: peak * _half(math.pi * s / n),
            lambda s, n, w, peak: peak * _half(math.pi * (s - w) / (n - w)),
        ),
        "The cosine counts from step 0, so the rate jumps where the warm-up ends. Count from "
        "there: (step - warmup_steps) / (steps - warmup_steps).": _rate(way=lambda s, n, w: s / n),
        "The rate does not reach 0 at the end: the way down is only steps - warmup_steps "
        "long.": _rate(way=lambda s, n, w: (s - w) / n),
        "`peak` is missing after the warm-up: the decay begins at the peak, not at "
        "1.": lambda s, n, w, p: _rate()(s, n, w, p) / (1 if s < w else p),
        "`peak` is missing in the warm-up.": lambda s, n, w, p: _rate()(s, n, w, 1 if s < w else p),
    }
    | changed(lambda wave: _rate(wave=wave), _WAVES),
    notice="The last steps are tiny on purpose: they average out the noise of single batches.",
)
