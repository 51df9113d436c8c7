"""Exercises of the homework "from scratch": softmax, attention, the loss, a sampler, BPE."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from course_checks import Verdict
from course_checks.answers import draw
from course_checks.attention import HIDDEN, SCALES, Scale, Weights, causal, changed
from course_checks.exercises import Exercise, Way
from course_checks.generation import FILTERED, NUCLEI, nucleus, top_k

__all__ = [
    "Verdict",
    "check_draw",
    "check_lm_loss",
    "check_multi_head_attention",
    "check_sampling_probabilities",
    "check_softmax",
    "check_train_bpe",
]

Words = Mapping[tuple[str, ...], int]
INF = math.inf


def _shares(powers: Tensor) -> Tensor:
    return powers / powers.sum(-1, keepdim=True)


# --- 1: softmax ------------------------------------------------------------------------------


def _softmax_inputs(seed: int) -> list[tuple]:
    shapes = (2,), (5,), (2, 3), (3, 3), (2, 3, 5), (4, 2, 3, 3)
    calls = [(2 * draw(*shape, seed=seed + n),) for n, shape in enumerate(shapes)]
    row = draw(2, seed=seed)
    far = torch.tensor([0.0, 0.0, 1000.0]) + row[0]
    large = row + 1000, row - 1000, torch.stack([row + 1000, row - 1000]), far
    return [*calls, *((logits,) for logits in large)]


check_softmax = Exercise(
    name="softmax",
    task="The softmax over the last dimension of (..., V), for logits of any size.",
    right=lambda logits: logits.softmax(-1),
    inputs=_softmax_inputs,
    shape="(..., V)",
    mistakes={
        "You divided the logits by their sum. Take their exponentials first.": (
            lambda x: x / x.sum(-1, keepdim=True)
        ),
        "These are the exponentials; divide them by their sum.": lambda x: x.exp(),
        "These are the exponentials, with the largest set to 1; divide them by their sum.": (
            lambda x: (x - x.amax(-1, keepdim=True)).exp(),
            lambda x: x.exp() / x.exp().amax(-1, keepdim=True),
        ),
        "This is the softmax of the negative logits: the largest logit gets the smallest share.": (
            lambda x: (-x).softmax(-1)
        ),
        "You used powers of 2; the softmax uses powers of e.": (
            lambda x: (x * math.log(2)).softmax(-1),
            lambda x: _shares(2 ** (x - x.amax(-1, keepdim=True))),
        ),
        "This is the logarithm of the softmax.": lambda x: x.log_softmax(-1),
        "Your sum runs over the whole tensor; each row sums to 1 by itself: "
        "sum(dim=-1, keepdim=True).": (
            lambda x: x.flatten().softmax(-1).view_as(x),
            lambda x: (
                (x - x.amax(-1, keepdim=True)).exp() / (x - x.amax(-1, keepdim=True)).exp().sum()
            ),
            lambda x: x.exp() / x.exp().sum(),
        ),
        "The softmax runs over the first dimension; it belongs over the last.": (
            lambda x: x.softmax(0)
        ),
        "The softmax runs over the second dimension; it belongs over the last, dim=-1.": (
            lambda x: x.softmax(min(1, x.dim() - 1)),
            lambda x: x.softmax(1),
        ),
        "Each sum must stand beside its row: sum(dim=-1, keepdim=True). Without keepdim row i is "
        "divided by the sum of another.": (
            lambda x: x.softmax(-1) * x.exp().sum(-1, keepdim=True) / x.exp().sum(-1),
            lambda x: x.exp() / x.exp().sum(-1),
            lambda x: (x - x.max()).exp() / (x - x.max()).exp().sum(-1),
        ),
        "Right for ordinary logits, but exp(1000) overflows and exp(-1000) is 0. Subtract the "
        "largest logit of each row first: the shares stay the same.": lambda x: _shares(x.exp()),
        "You subtracted the mean; that leaves exponents that overflow. Subtract the largest logit "
        "of each row.": lambda x: _shares((x - x.mean(-1, keepdim=True)).exp()),
        "You subtracted the largest logit of the whole tensor; in a row far below it all "
        "exponentials are 0. Subtract each row's own: max(dim=-1, keepdim=True).": (
            lambda x: _shares((x - x.max()).exp())
        ),
        "You cut large logits off, which changes their differences. Subtract the largest logit of "
        "each row instead.": (
            lambda x: _shares(x.clamp(-80, 80).exp()),
            lambda x: _shares(x.clamp(max=80).exp()),
        ),
        "Each logit went through a sigmoid by itself; the shares of a row have one sum.": (
            lambda x: x.sigmoid()
        ),
        "You took the softmax twice: the second one flattens the shares.": (
            lambda x: x.softmax(-1).softmax(-1)
        ),
    },
    notice="Adding one number to all logits changes nothing: only their differences matter.",
)

# --- 2: attention ----------------------------------------------------------------------------


def _mha_inputs(seed: int) -> list[tuple]:
    def call(B: int, T: int, C: int, n_head: int) -> tuple:
        matrices = (draw(C, C, seed=seed + n) * 2 / math.sqrt(C) for n in range(1, 5))
        return (draw(B, T, C, seed=seed), *matrices, n_head)

    return [call(*sizes) for sizes in ((1, 1, 2, 1), (1, 3, 4, 1), (2, 5, 12, 3), (3, 4, 8, 4))]


def _split(x: Tensor, n_head: int) -> Tensor:
    return x.unflatten(-1, (n_head, -1)).transpose(1, 2)  # (B, H, T, d_k)


def _joined(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)  # (B, T, C)


def _mha(
    x: Tensor,
    W_q: Tensor,
    W_k: Tensor,
    W_v: Tensor,
    W_o: Tensor,
    n_head: int,
    weights: Weights = causal,
    scale: Scale = lambda query, key: math.sqrt(query.shape[-1]),
    split: Callable[[Tensor, int], Tensor] = _split,
    join: Callable[[Tensor], Tensor] = _joined,
) -> Tensor:
    query, key, value = (split(x @ W, n_head) for W in (W_q, W_k, W_v))
    scores = query @ key.mT / scale(query, key)
    return join(weights(scores) @ value) @ W_o


def _changed(**parts: Callable) -> Callable[..., Tensor]:
    return lambda *call: _mha(*call, **parts)


check_multi_head_attention = Exercise(
    name="multi_head_attention",
    task="Causal multi-head attention with projections x @ W, (B, T, C).",
    right=lambda x, W_q, W_k, W_v, W_o, n_head: _mha(x, W_q, W_k, W_v, W_o, n_head),
    inputs=_mha_inputs,
    shape="(B, T, C)",
    mistakes=changed(lambda scale: _changed(scale=scale), SCALES)
    | changed(lambda weights: _changed(weights=weights), HIDDEN)
    | {
        "The softmax runs over the heads or the batch; it belongs over the keys, dim=-1.": (
            _changed(weights=partial(causal, axis=1)),
            _changed(weights=partial(causal, axis=0)),
        ),
        "The softmax is missing: the scores themselves were used as weights.": (
            _changed(weights=lambda s: s.tril())
        ),
        "Query and key are exchanged: the scores are query @ keyᵀ.": (
            lambda x, q, k, v, o, n: _mha(x, k, q, v, o, n)
        ),
        "W_o is missing: the joined heads go through one more matrix.": (
            lambda x, q, k, v, o, n: _mha(x, q, k, v, torch.eye(len(o)), n)
        ),
        "The values are x itself; they should be x @ W_v.": (
            lambda x, q, k, v, o, n: _mha(x, q, k, torch.eye(len(v)), o, n)
        ),
        "The matrices are transposed: here a projection is x @ W.": (
            lambda x, q, k, v, o, n: _mha(x, q.T, k.T, v.T, o.T, n)
        ),
        "The values were made with W_k.": lambda x, q, k, v, o, n: _mha(x, q, k, k, o, n),
        "The values were made with W_q.": lambda x, q, k, v, o, n: _mha(x, q, k, q, o, n),
        "The keys were made with W_q.": lambda x, q, k, v, o, n: _mha(x, q, q, v, o, n),
        "n_head has no effect: all channels attend as one head.": (
            lambda x, q, k, v, o, n: _mha(x, q, k, v, o, 1)
        ),
        "x was reshaped straight to (B, H, T, d_k), which mixes positions and heads. Make it "
        "(B, T, H, d_k), then transpose.": (
            _changed(split=lambda x, n: x.reshape(len(x), n, x.shape[1], -1)),
            _changed(
                split=lambda x, n: x.reshape(len(x), n, x.shape[1], -1),
                join=lambda heads: heads.reshape(len(heads), heads.shape[2], -1),
            ),
        ),
        "The heads were put together without the transpose back: (B, H, T, d_k) must become "
        "(B, T, H, d_k) before it is flattened.": (
            _changed(join=lambda heads: heads.reshape(len(heads), heads.shape[2], -1))
        ),
        "There is no transpose after the split: (B, T, H, d_k) attends between the heads of one "
        "token, not between tokens.": _changed(
            split=lambda x, n: x.unflatten(-1, (n, -1)),
            join=lambda heads: heads.flatten(2),
            weights=lambda scores: scores.softmax(-1),
        ),
        "The heads take every n_head-th channel; they take neighbours: (H, d_k), not (d_k, H).": (
            _changed(
                split=lambda x, n: x.unflatten(-1, (-1, n)).permute(0, 3, 1, 2),
                join=lambda heads: heads.permute(0, 2, 3, 1).flatten(2),
            )
        ),
    },
    notice="Every position, head and sequence at once: not one loop is needed.",
)

# --- 3: the loss -----------------------------------------------------------------------------


def _loss_inputs(seed: int) -> list[tuple]:
    def call(B: int, T: int, V: int, pad: int, *padded: int) -> tuple:
        ids = torch.from_numpy(np.random.default_rng(seed).integers(0, V, (B, T)))
        ids[ids == pad] = (pad + 1) % V
        ids[0, 1] = 0 if pad else 1  # a token 0 that is no padding
        for row, n in enumerate(padded):
            ids[row, T - n :] = pad
        return 2 * draw(B, T, V, seed=seed), ids, pad

    calls = [call(1, 2, 3, 2), call(2, 6, 7, 0), call(3, 4, 5, 4), call(2, 5, 5, 2)]
    calls += [call(2, 6, 7, 0, 3), call(3, 8, 5, 4, 5, 2), call(2, 6, 9, 8, 0, 4)]
    sure = torch.tensor([[[1000.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    return [*calls, (sure, torch.tensor([[1, 1]]), 2), (-sure, torch.tensor([[0, 0]]), 2)]


def _lm_loss(
    logits: Tensor,
    ids: Tensor,
    pad_id: int,
    log_p: Callable[[Tensor], Tensor] = lambda logits: logits.log_softmax(-1),
    real: Callable[[Tensor, Tensor, int], Tensor] = lambda inputs, targets, pad: targets != pad,
    mean: Callable[[Tensor, Tensor], Tensor] = lambda losses, real: losses[real].mean(),
) -> Tensor:
    inputs, targets = ids[:, :-1], ids[:, 1:]
    losses = -log_p(logits)[:, :-1].gather(-1, targets[..., None])[..., 0]
    return mean(losses, real(inputs, targets, pad_id))


def _loss(**parts: Callable) -> Callable[..., Tensor]:
    return lambda *call: _lm_loss(*call, **parts)


def _unshifted(logits: Tensor, ids: Tensor, pad: int) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=pad)


def _rolled(logits: Tensor, ids: Tensor, pad: int) -> Tensor:
    return _unshifted(logits, ids.roll(-1, 1), pad)


def _backwards(logits: Tensor, ids: Tensor, pad: int) -> Tensor:
    return _unshifted(logits[:, 1:], ids[:, :-1], pad)


def _all_pairs(logits: Tensor, ids: Tensor, pad: int) -> Tensor:
    log_p, targets = logits[:, :-1].flatten(0, 1).log_softmax(-1), ids[:, 1:].flatten()
    return -log_p[targets != pad][:, targets[targets != pad]].mean()


check_lm_loss = Exercise(
    name="lm_loss",
    task="The mean cross-entropy in nats of every token given those before it, without padding.",
    right=lambda logits, ids, pad_id: _lm_loss(logits, ids, pad_id).item(),
    inputs=_loss_inputs,
    mistakes={
        "Nothing is shifted: the logits at position t are compared with the token at t, which the "
        "model has read. They predict the token at t + 1.": (
            _unshifted,
            lambda a, i, p: F.cross_entropy(a.flatten(0, 1), i.flatten()),
        ),
        "The shift goes the wrong way: the logits at t predict the token at t + 1.": _backwards,
        "`roll` brings the first token round to the end. Drop the last position: nothing is known "
        "about what follows it.": _rolled,
        "The sign is missing.": lambda *call: -_lm_loss(*call),
        "This is the sum; the loss is the mean.": (
            _loss(mean=lambda losses, real: losses[real].sum())
        ),
        "You divided by all B · T positions; only the targets that are not padding were "
        "predicted.": lambda a, i, p: (
            _loss(mean=lambda x, real: x[real].sum())(a, i, p) / i.numel()
        ),
        "You divided by the number of sequences; the mean is taken over tokens.": (
            lambda a, i, p: _loss(mean=lambda x, real: x[real].sum())(a, i, p) / len(i)
        ),
        "The logits went in without a softmax.": _loss(log_p=lambda logits: logits),
        "The logarithm is missing: the loss of a token is -log p, not -p.": (
            _loss(log_p=lambda logits: logits.softmax(-1)),
            lambda *call: 1 - _loss(log_p=lambda logits: -logits.softmax(-1))(*call),
        ),
        "The softmax runs over the positions, dim=1; the probabilities of one position are "
        "dim=-1.": _loss(log_p=lambda logits: logits.log_softmax(1)),
        "The softmax runs over the batch, dim=0; the probabilities of one position are dim=-1.": (
            _loss(log_p=lambda logits: logits.log_softmax(0))
        ),
        "These are bits; the loss is asked for in nats, with the natural logarithm.": (
            _loss(log_p=lambda logits: logits.log_softmax(-1) / math.log(2))
        ),
        "This is the perplexity, exp(loss); the loss itself is asked for.": (
            lambda *call: _lm_loss(*call).exp()
        ),
        "This is the mean over the vocabulary; only the token that came counts.": (
            lambda a, i, p: -a[:, :-1].log_softmax(-1)[i[:, 1:] != p].mean()
        ),
        "`log_p[:, targets]` takes every target at every position. Take each position's own: "
        "`gather`, or `log_p[arange, targets]`.": _all_pairs,
        "The padding counts as tokens to predict. Leave out the positions whose target is "
        "pad_id.": _loss(mean=lambda losses, real: losses.mean()),
        "The padding was set to 0 but still counted in the mean: divide by the number of real "
        "targets.": _loss(mean=lambda losses, real: (losses * real).mean()),
        "This is the mean of the rows' means, in which a token of a short row counts for more. "
        "Take one mean over all real targets.": _loss(
            mean=lambda losses, real: ((losses * real).sum(-1) / real.sum(-1)).mean()
        ),
        "You left out where the input is padding. What counts is whether the target is.": (
            _loss(real=lambda inputs, targets, pad: inputs != pad)
        ),
        "The padding is 0 only by chance: compare with pad_id.": (
            _loss(real=lambda inputs, targets, pad: targets != 0)
        ),
        "You kept the padding and left out the tokens.": (
            _loss(real=lambda inputs, targets, pad: targets == pad)
        ),
        "Right for ordinary logits; with a logit of 1000 exp overflows, and log(0) is -inf. Use "
        "log_softmax, or subtract the largest logit first and take the logarithm of the sum.": (
            _loss(log_p=lambda logits: _shares(logits.exp()).log()),
            _loss(log_p=lambda logits: logits.softmax(-1).log()),
            _loss(log_p=lambda logits: (logits.softmax(-1) + 1e-9).log()),
            _loss(log_p=lambda logits: (logits.softmax(-1) + 1e-12).log()),
            _loss(log_p=lambda logits: logits - logits.exp().sum(-1, keepdim=True).log()),
        ),
    },
    without={
        "cross_entropy": lambda logits, ids, pad_id: F.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=pad_id
        ),
        "CrossEntropyLoss": lambda logits, ids, pad_id: torch.nn.CrossEntropyLoss(
            ignore_index=pad_id
        )(logits[:, :-1].mT, ids[:, 1:]),
    },
    notice="It is what torch computes with ignore_index, and what every decoder is trained on.",
)

# --- 4: a sampler ----------------------------------------------------------------------------


def _probabilities(
    logits: Tensor,
    temperature: float,
    k: int,
    top_p: float,
    cut: Way = top_k,
    softmax: Callable[[Tensor], Tensor] = lambda logits: logits.softmax(-1),
    nucleus: Way = nucleus,
    unit: Callable[[Tensor], Tensor] = _shares,
) -> Tensor:
    return unit(nucleus(softmax(cut(logits / temperature, k)), top_p))


def _sampler(**parts: Callable) -> Callable[..., Tensor]:
    return lambda *call: _probabilities(*call, **parts)


def _sampler_inputs(seed: int) -> list[tuple]:
    few, V = 2 * draw(1, 3, seed=seed), 8
    logits, more = 2 * draw(3, V, seed=seed + 1), 2 * draw(4, 11, seed=seed + 2)
    calls = [(few, 0.5, 3, 1.0), (logits, 0.5, V, 1.0), (few, 1.0, 1, 1.0), (logits, 1.0, 3, 1.0)]
    calls += [(logits, 1.0, V, 0.8), (logits, 1.0, V, 0.1), (logits, 2.0, 5, 0.7)]
    return [*calls, (more, 1.3, 4, 0.5), (more, 0.7, 9, 0.9)]


def _unfiltered(logits: Tensor, temperature: float, k: int, top_p: float) -> Tensor:
    p = (logits / temperature).softmax(-1)
    return _shares(p * (nucleus(p, top_p) > 0) * top_k(logits, k).isfinite())


def _nucleus_first(logits: Tensor, temperature: float, k: int, top_p: float) -> Tensor:
    p = _shares(nucleus((logits / temperature).softmax(-1), top_p))
    return _shares(top_k(p, k, 0.0))


def _cold_nucleus(logits: Tensor, temperature: float, k: int, top_p: float) -> Tensor:
    kept = _probabilities(logits, 1.0, k, top_p) > 0
    return _shares((logits / temperature).softmax(-1) * kept)


def _unit_too_late(logits: Tensor, temperature: float, k: int, top_p: float) -> Tensor:
    p = (logits / temperature).softmax(-1) * top_k(logits, k).isfinite()
    return _shares(nucleus(p, top_p))


check_sampling_probabilities = Exercise(
    name="sampling_probabilities",
    task="Temperature, top_k, softmax, top_p, and each row sums to 1 again, (B, V).",
    right=lambda logits, temperature, top_k, top_p: _probabilities(
        logits, temperature, top_k, top_p
    ),
    inputs=_sampler_inputs,
    shape="(B, V)",
    mistakes=changed(lambda cut: _sampler(cut=cut), FILTERED)
    | changed(lambda nucleus: _sampler(nucleus=nucleus), NUCLEI)
    | {
        "You multiplied the logits by the temperature; divide.": (
            lambda z, t, k, p: _probabilities(z, 1 / t, k, p)
        ),
        "The temperature changed nothing. If you divided the probabilities by it and made them sum "
        "to 1 again, it cancelled: divide the logits, before the softmax.": (
            lambda z, t, k, p: _probabilities(z, 1.0, k, p)
        ),
        "These are logits; return probabilities.": (
            lambda z, t, k, p: (z / t).masked_fill(_probabilities(z, t, k, p) == 0, -INF)
        ),
        "The softmax runs over the batch; it belongs over the vocabulary, dim=-1.": (
            _sampler(softmax=lambda logits: logits.softmax(0))
        ),
        "The probabilities do not sum to 1 in the end: divide each row by its sum.": (
            _sampler(unit=lambda p: p)
        ),
        "The probabilities were divided by the sum of the whole batch; each row has its own: "
        "sum(dim=-1, keepdim=True).": _sampler(unit=lambda p: p / p.sum()),
        "You took a softmax of the probabilities in the end; divide each row by its sum.": (
            _sampler(unit=lambda p: p.softmax(-1))
        ),
        "Each filter worked from the unfiltered distribution, or the nucleus came first. Take the "
        "nucleus of what top_k has left, made to sum to 1: set the other logits to -inf before the "
        "softmax.": (_unfiltered, _unit_too_late, _nucleus_first),
        "The filters worked before the temperature did. Divide the logits first.": _cold_nucleus,
    },
    notice="top_k keeps the same number of tokens everywhere, top_p more when the model hesitates.",
)

# --- 5: draw ---------------------------------------------------------------------------------


def _draw_inputs(seed: int) -> list[tuple]:
    """Return probabilities in 16ths, which all number formats hold exactly, and each row's u."""
    rng = np.random.default_rng(seed)
    row = torch.tensor([[0.25, 0.5, 0.25]])
    rows = torch.tensor([[0.25, 0.5, 0.25], [0.625, 0.125, 0.25], [0.125, 0.125, 0.75]])
    many = torch.from_numpy(rng.multinomial(16, [0.2, 0.1, 0.3, 0.15, 0.25], 40) / 16).float()
    between = torch.from_numpy(rng.integers(0, 16, 40) / 16 + 1 / 32).float()
    borders = torch.tensor([[0.0, 0.5, 0.5], [0.25, 0.0, 0.75], [0.25, 0.5, 0.25]])
    calls = [(row, torch.tensor([0.4])), (row, torch.tensor([0.9])), (rows, between[:3])]
    calls += [(rows, torch.tensor([0.7, 0.05, 0.2])), (many, between)]
    return [*calls, (borders, torch.tensor([0.0, 0.25, 0.75])), (many, between - 1 / 32)]


check_draw = Exercise(
    name="draw",
    task="The ids (B,) that uniform numbers u pick: the first whose cumulative sum is above u.",
    right=lambda probabilities, u: (probabilities.cumsum(-1) <= u[:, None]).sum(-1),
    inputs=_draw_inputs,
    shape="(B,)",
    mistakes={
        "You took the likeliest token; u decides, not only p.": lambda p, u: p.argmax(-1),
        "Every row used the first u; each has its own.": (
            lambda p, u: (p.cumsum(-1) <= u[0]).sum(-1)
        ),
        "Every row used the first row's probabilities; each has its own.": (
            lambda p, u: (p[0].cumsum(-1) <= u[:, None]).sum(-1)
        ),
        "One too far: the token is the first whose cumulative sum exceeds u, counted from 0.": (
            lambda p, u: (p.cumsum(-1) <= u[:, None]).sum(-1) + 1
        ),
        "One too early: the token is the first whose cumulative sum exceeds u.": (
            lambda p, u: (p.cumsum(-1) <= u[:, None]).sum(-1) - 1,
            lambda p, u: ((p.cumsum(-1) <= u[:, None]).sum(-1) - 1).clamp(0),
        ),
        "You compared u with the probabilities; compare it with their cumulative sums.": (
            lambda p, u: (p > u[:, None]).int().argmax(-1),
            lambda p, u: (p <= u[:, None]).sum(-1),
        ),
        "A cumulative sum equal to u counts as above it, so that a token of probability 0 can be "
        "drawn. It must be greater: u can be exactly 0.": (
            lambda p, u: (p.cumsum(-1) < u[:, None]).sum(-1),
            lambda p, u: (p.cumsum(-1) >= u[:, None]).int().argmax(-1),
        ),
        "You counted the sums that are above u; the id is the number of those at or below it.": (
            lambda p, u: (p.cumsum(-1) > u[:, None]).sum(-1)
        ),
        "The cumulative sum runs over the batch; it belongs over the vocabulary, dim=-1.": (
            lambda p, u: (p.cumsum(0) <= u[:, None]).sum(-1)
        ),
        "You sorted the probabilities first, so the places are no ids any more.": (
            lambda p, u: (p.sort(descending=True).values.cumsum(-1) <= u[:, None]).sum(-1)
        ),
        "You took the token whose cumulative sum is nearest to u; the first above it is drawn.": (
            lambda p, u: (p.cumsum(-1) - u[:, None]).abs().argmin(-1)
        ),
        "These are probabilities, not ids: return the places in the vocabulary.": (
            lambda p, u: p.gather(-1, (p.cumsum(-1) <= u[:, None]).sum(-1, keepdim=True))[:, 0]
        ),
        "One id for each row is asked for, (B,): one dimension too many.": (
            lambda p, u: (p.cumsum(-1) <= u[:, None]).sum(-1, keepdim=True)
        ),
    },
    notice="One uniform number is all the chance there is in a token.",
)

# --- 6: byte-pair encoding -------------------------------------------------------------------


def _merge(tokens: Sequence[str], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    rest = list(tokens)
    while rest:
        n = 2 if tuple(rest[:2]) == pair else 1
        out.append("".join(rest[:n]))
        rest = rest[n:]
    return tuple(out)


def _merge_once(tokens: Sequence[str], pair: tuple[str, str]) -> tuple[str, ...]:
    for i, neighbours in enumerate(pairwise(tokens)):
        if neighbours == pair:
            return (*tokens[:i], "".join(pair), *tokens[i + 2 :])
    return tuple(tokens)


def _merge_text(tokens: Sequence[str], pair: tuple[str, str]) -> tuple[str, ...]:
    return tuple(" ".join(tokens).replace(" ".join(pair), "".join(pair)).split())


def _greater(counts: Counter) -> Any:
    return max(counts, key=lambda pair: (counts[pair], pair))


def _bpe(
    words: Words,
    n_merges: int,
    best: Callable[[Counter], Any] = _greater,
    weight: Callable[[int], int] = lambda n: n,
    merge: Callable = _merge,
    again: bool = True,
    careful: bool = True,
) -> list[tuple[str, str]]:
    words, merges, counts = list(words.items()), [], Counter()
    while len(merges) < n_merges:
        if again or not merges:
            counts = Counter()
            for tokens, n in words:
                for pair in pairwise(tokens):
                    counts[pair] += weight(n)
        if careful and not counts:
            break
        merges.append(best(counts))
        counts.pop(merges[-1])
        words = [(merge(tokens, merges[-1]), n) for tokens, n in words]
    return merges


def _changed_bpe(**parts: Any) -> Callable[[Words, int], list]:
    return lambda words, n: _bpe(words, n, **parts)


def _across_words(words: Words, n_merges: int) -> list[tuple[str, str]]:
    text = tuple(token for tokens, n in words.items() for _ in range(n) for token in tokens)
    return _bpe({text: 1}, n_merges)


def _bpe_inputs(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    texts = ["".join("abcd"[i] for i in rng.integers(0, 4, 6)) for _ in range(8)]
    drawn = {tuple(text): int(n) for text, n in zip(texts, rng.integers(1, 9, 8), strict=True)}
    corpus = {"lower": 2, "newest": 6, "widest": 3, "low": 5, "banana": 4, "wewewe": 1}
    repeated = {tuple("aaaa"): 3, tuple("aab"): 2}
    ties = {tuple("abxcd"): 2, tuple("cdyab"): 2, tuple("bazdc"): 2}
    corpus = {tuple(word): n for word, n in corpus.items()}
    calls = [({("a", "b"): 3}, 1), (repeated, 2), (ties, 3), (corpus, 8), (drawn, 6)]
    inside = {tuple("we"): 9, tuple("wes"): 1, tuple("es"): 4}
    return [*calls, (inside, 3), (repeated, 3), ({tuple("abc"): 3}, 5), ({("a",): 2}, 1)]


check_train_bpe = Exercise(
    name="train_bpe",
    task="The merges of byte-pair encoding in order, ties to the greater pair.",
    right=lambda words, n_merges: _bpe(words, n_merges),
    inputs=_bpe_inputs,
    mistakes={
        "You took the most frequent pairs of the first count. Count again after each merge: new "
        "tokens make new pairs.": (
            _changed_bpe(again=False),
            _changed_bpe(again=False, best=lambda counts: counts.most_common(1)[0][0]),
        ),
        "Each different word counted once. A pair counts as often as its word occurs.": (
            _changed_bpe(weight=lambda n: 1)
        ),
        "Ties go to the greater pair, as Python compares tuples; yours go to the smaller.": (
            _changed_bpe(best=lambda counts: min(counts, key=lambda pair: (-counts[pair], pair)))
        ),
        "Ties go to the greater pair, as Python compares tuples; yours go to the one that was "
        "counted first.": _changed_bpe(best=lambda counts: max(counts, key=counts.get)),
        "Ties go to the greater pair, as Python compares tuples; yours go to the one that was "
        "counted last.": _changed_bpe(
            best=lambda counts: max(reversed(list(counts)), key=counts.get)
        ),
        "Ties go to the greater pair; yours go to the one whose joined token is longer.": (
            _changed_bpe(
                best=lambda counts: max(counts, key=lambda p: (counts[p], len(p[0] + p[1]), p))
            )
        ),
        "You took the rarest pair, not the most frequent.": (
            _changed_bpe(best=lambda counts: min(counts, key=lambda pair: (counts[pair], pair)))
        ),
        "One merge too many: n_merges is the number of pairs to return.": (
            lambda words, n: _bpe(words, n + 1)
        ),
        "One merge too few: n_merges is the number of pairs to return.": (
            lambda words, n: _bpe(words, n - 1)
        ),
        "When every word is one token there is no pair left, and your function stops with an "
        "error. Return the merges so far.": (
            _changed_bpe(careful=False),
            _changed_bpe(careful=False, best=lambda counts: counts.most_common(1)[0][0]),
        ),
        "You returned the joined tokens; return pairs such as ('e', 's').": (
            lambda words, n: ["".join(pair) for pair in _bpe(words, n)]
        ),
        "Only the first place in each word was merged; a pair can stand in a word several "
        "times.": _changed_bpe(merge=_merge_once),
        "You merged in the text, where `e s` is also found inside `we s`: compare whole tokens.": (
            _changed_bpe(merge=_merge_text)
        ),
        "Pairs were counted from the end of one word to the beginning of the next; a pair lies "
        "within a word.": _across_words,
        "The words were not changed by a merge: put the joined token in the place of the pair.": (
            _changed_bpe(merge=lambda tokens, pair: tokens)
        ),
        "You returned the merges in alphabetical order; expected the order in which they were "
        "made.": lambda words, n: sorted(_bpe(words, n)),
        "You returned the merges with the last one first.": lambda words, n: _bpe(words, n)[::-1],
        "You returned pairs with their counts; return the pairs alone.": (
            lambda words, n: [(pair, 1) for pair in _bpe(words, n)]
        ),
    },
    notice="The order of the merges is the tokenizer: encoding replays them.",
)
