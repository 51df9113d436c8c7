"""Exercises of chapter 5: scores, causal weights, heads, attention, cross-attention."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from course_checks.answers import draw
from course_checks.exercises import Exercise, Way, changed

Scale = Callable[[Tensor, Tensor], float]
Weights = Callable[[Tensor], Tensor]

#: What query · key is divided by instead of √d_k, for query ``(B, H, T_q, d_k)``.
SCALES: dict[str, Scale] = {
    "The scores are not divided by √d_k, the root of the size of one head.": lambda q, k: 1,
    "You divided by d_k. It is the standard deviation that grows, not the variance: divide by its "
    "square root.": lambda q, k: q.shape[-1],
    "You multiplied the scores by √d_k; divide by it.": lambda q, k: q.shape[-1] ** -0.5,
    "You divided by √n_embd, the width of all heads together. The sum in one score runs over one "
    "head, so it is √d_k.": lambda q, k: math.sqrt(q.shape[1] * q.shape[-1]),
    "That is the root of the number of heads; d_k is their size.": lambda q, k: q.shape[1] ** 0.5,
    "That is the root of the number of queries; d_k comes last.": lambda q, k: q.shape[-2] ** 0.5,
}


def _lower(scores: Tensor, places: int = 0) -> Tensor:
    """Return the causal mask of scores ``(..., T_q, T_k)``: True where a query may look."""
    return torch.ones(scores.shape[-2:], dtype=torch.bool).tril(places)


def causal(scores: Tensor, axis: int = -1, places: int = 0, fill: float = -math.inf) -> Tensor:
    """Return the weights in which query i sees keys 0 to i."""
    return scores.masked_fill(~_lower(scores, places), fill).softmax(axis)


#: Weights from scores ``(..., T, T)`` where the mask or the softmax is wrong.
HIDDEN: dict[str, Weights | tuple[Weights, ...]] = {
    "The mask is missing: a query sees what comes after it.": lambda s: s.softmax(-1),
    "The mask came after the softmax, so the rows no longer sum to 1: set the scores of later keys "
    "to -inf before it.": lambda s: s.softmax(-1) * _lower(s),
    "The triangle is flipped: each token sees itself and what comes later. Query i may look at "
    "keys 0 to i.": lambda s: s.masked_fill(~_lower(s).mT, -math.inf).softmax(-1),
    "Your mask hides the diagonal too, and row 0 allows nothing. A token may look at itself: hide "
    "`triu(1)`.": tuple(partial(causal, places=-1, fill=fill) for fill in (-math.inf, -1e9)),
    "Your mask is one place too wide: each token sees the next one. What is hidden begins at "
    "`triu(1)`.": partial(causal, places=1),
    "Later keys got the score 0, or nearly, and so the weight exp(0) = 1 before dividing. Only "
    "-inf gives the weight 0.": tuple(partial(causal, fill=fill) for fill in (0.0, 1e-9)),
    "The softmax runs over the queries, and the columns sum to 1. Each query shares out its "
    "attention among the keys: dim=-1.": partial(causal, axis=-2),
    "0 · (-inf) is NaN, “not a number”: do not multiply a mask by -inf, use `masked_fill` or "
    "`torch.where`.": lambda s: (s + (~_lower(s)).float() * -math.inf).softmax(-1),
}


# --- 1 ---------------------------------------------------------------------------------------


def _scores(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.mT / math.sqrt(query.shape[-1])


def _divided(by: Scale) -> Way:
    return lambda query, key: query @ key.mT / by(query, key)


_LEADING = ((1, (), 2, 2), (3, (), 2, 4), (5, (2, 3), 6, 4), (3, (7, 2), 4, 9), (5, (4,), 3, 64))
check_scaled_scores = Exercise(
    name="scaled_scores",
    task="query · key / √d_k for every query and every key, whatever the leading dimensions.",
    right=_scores,
    inputs=lambda seed: [
        (draw(*before, T_q, d_k, seed=seed), draw(*before, T_k, d_k, seed=seed + 1))
        for T_q, before, T_k, d_k in _LEADING
    ],
    shape="(..., T_q, T_k)",
    mistakes=changed(_divided, SCALES)
    | {
        "That is the root of the number of keys.": _divided(lambda q, k: k.shape[-2] ** 0.5),
        "That is √len(query); d_k is its last dimension.": _divided(lambda q, k: len(q) ** 0.5),
        "One row per query, one column per key.": lambda q, k: _scores(q, k).mT,
        "This is the softmax of the scores; stop before.": lambda q, k: _scores(q, k).softmax(-1),
        "Right for two matrices, not for more dimensions: exchange the last two of key with "
        "`key.transpose(-2, -1)`, and use `@`.": lambda q, k: q.mm(k.mT) / k.shape[-1] ** 0.5,
        "Only d_k goes under the root.": lambda q, k: (q @ k.mT / k.shape[-1]).sqrt(),
    },
    notice="With d_k = 64 and random numbers, scores spread by 1; without the division, by 8.",
)

# --- 2 ---------------------------------------------------------------------------------------


def _causal_inputs(seed: int) -> list[tuple]:
    one, many = 2 * draw(3, 3, seed=seed), 2 * draw(2, 3, 4, 4, seed=seed + 1)
    zero = one.clone().fill_diagonal_(0.0)
    calls = [2 * draw(2, 2, seed=seed), one, 2 * draw(6, 6, seed=seed), many, zero]
    return [(scores,) for scores in (*calls, one - 200, many + 200)]


def _without_the_largest(scores: Tensor) -> Tensor:
    powers = scores.exp() * _lower(scores)
    return powers / powers.sum(-1, keepdim=True)


check_causal_weights = Exercise(
    name="causal_weights",
    task="Hide what comes later, then softmax, for scores of any leading shape.",
    right=lambda scores: causal(scores),
    inputs=_causal_inputs,
    shape="(..., T, T)",
    mistakes=HIDDEN
    | {
        "The softmax of the masked scores is missing.": lambda s: s.where(_lower(s), -math.inf),
        "Right for one (T, T) matrix, not for (B, H, T, T): the softmax belongs over the last "
        "dimension, dim=-1.": (partial(causal, axis=1), partial(causal, axis=0)),
        "Right for one (T, T) matrix, not for (B, H, T, T): T is the last dimension, not the "
        "first.": lambda s: s.where(torch.ones(2 * [len(s)]).tril() > 0, -math.inf).softmax(-1),
        "Later keys got a fixed number as their score, which is not small beside all scores: give "
        "them -inf.": (partial(causal, fill=-10.0), partial(causal, fill=-100.0)),
        "You took a score of 0 for a hidden one. A real score may be 0 as well: fill where the "
        "mask says so.": lambda s: s.tril().masked_fill(s.tril() == 0, -math.inf).softmax(-1),
        "Right for small scores; exp(200) overflows and exp(-200) is 0. Let softmax take the "
        "exponential: it subtracts the largest score of each row first.": _without_the_largest,
    },
    notice="The first token has one key to choose from, so its weight is 1 whatever its score is.",
)

# --- 3 ---------------------------------------------------------------------------------------


def _heads(x: Tensor, n_head: int) -> Tensor:
    return x.unflatten(-1, (n_head, -1)).transpose(1, 2)


def _moved(*order: int, inner: bool = False) -> Way:
    """Return an answer that views x as (B, T, H, d_k), or the heads as inner, and permutes that."""
    return lambda x, n: x.unflatten(-1, (-1, n) if inner else (n, -1)).permute(order)


check_split_heads = Exercise(
    name="split_heads",
    task="Cut the channels into heads: (B, T, C) -> (B, n_head, T, C // n_head).",
    right=_heads,
    inputs=lambda seed: [
        (torch.arange(B * T * C).view(B, T, C) + seed % 99.0, n_head)
        for B, T, C, n_head in ((1, 2, 4, 2), (1, 4, 6, 1), (2, 5, 6, 3), (3, 4, 8, 2))
    ],
    shape="(B, H, T, d_k)",
    mistakes={
        "Nearly: this is (B, T, H, d_k); `.transpose(1, 2)` it.": _moved(0, 1, 2, 3),
        "The content is mixed up: `view` straight to (B, H, T, d_k) deals out tokens. First get "
        "(B, T, H, d_k).": lambda x, n: x.reshape(len(x), n, x.shape[1], -1),
        "Each head got every H-th channel; it should get a block of neighbours: the last "
        "dimension splits as (H, d_k), not (d_k, H).": _moved(0, 3, 1, 2, inner=True),
        "The sizes are swapped: n_head heads of C // n_head.": _moved(0, 2, 1, 3, inner=True),
        "Each head is transposed: its last two are (T, d_k), not (d_k, T).": _moved(0, 2, 3, 1),
        "The heads come in reverse order.": lambda x, n: _heads(x, n).flip(1),
        "These are the heads as separate tensors, in a list or a tuple: put them together, "
        "torch.stack(…, dim=1).": (lambda x, n: x.chunk(n, -1), lambda x, n: list(x.chunk(n, -1))),
        "The heads come before the batch; they are the second dimension.": _moved(2, 0, 1, 3),
        "`torch.cat` joins the heads along an old dimension; `torch.stack(…, dim=1)` makes a new "
        "one.": lambda x, n: torch.cat(x.chunk(n, dim=-1), dim=1),
        "You cut the tokens, not the channels.": lambda x, n: torch.stack(x.tensor_split(n, 1), 1),
        "x came back unchanged.": lambda x, n: x,
        "Those are one example's sizes.": lambda x, n: x.view(2, 5, 3, 2).transpose(1, 2),
    },
    notice="No number was computed or copied into a new order: the heads are a way to index x.",
)

# --- 4 ---------------------------------------------------------------------------------------


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: bool = False,
    scale: Scale = lambda query, key: math.sqrt(query.shape[-1]),
    weights: Weights = causal,
    axis: int = -1,
) -> Tensor:
    scores = query @ key.mT / scale(query, key)
    return (weights(scores) if mask else scores.softmax(axis)) @ value


def _drawn(seed: int, *shapes: tuple) -> tuple[Tensor, ...]:
    return tuple(draw(*shape, seed=seed + n) for n, shape in enumerate(shapes))


_CALLS = (
    *((False, 1, 1, 2, 2, 2, 2), (False, 1, 1, 1, 1, 2, 2), (False, 2, 3, 5, 7, 4, 6)),
    *((False, 2, 3, 5, 5, 4, 4), (True, 1, 1, 2, 2, 2, 2), (True, 2, 3, 5, 5, 4, 4)),
)


def _with(**parts: Any) -> Way:
    return lambda *call: _attend(*call, **parts)


check_attention = Exercise(
    name="attention",
    task="Scaled dot-product attention: scores, scale, mask if asked for, softmax, mixture.",
    right=lambda query, key, value, causal: _attend(query, key, value, causal),
    inputs=lambda seed: [
        (*_drawn(seed, (B, H, T_q, d_k), (B, H, T_k, d_k), (B, H, T_k, d_v)), causal)
        for causal, B, H, T_q, T_k, d_k, d_v in _CALLS
    ],
    shape="(B, H, T_q, d_v)",
    mistakes=changed(lambda scale: _with(scale=scale), SCALES)
    | changed(lambda weights: _with(weights=weights), HIDDEN)
    | {
        "You divided the weights, not the scores, by √d_k: divide before the softmax, not after "
        "it.": lambda q, *r: _with(scale=lambda *_: 1)(q, *r) / math.sqrt(q.shape[-1]),
        "The softmax runs over the queries, the heads or the batch. Each query shares out its "
        "attention among the keys: dim=-1.": tuple(
            _with(axis=axis, weights=partial(causal, axis=axis)) for axis in (-2, 1, 0)
        ),
        "The softmax of the scores is missing.": lambda q, k, v, mask: _scores(q, k) @ v,
        "Query and key are swapped.": lambda q, k, v, mask: _attend(k, q, v, mask),
        "The weights should mix the values.": lambda q, k, v, mask: _attend(q, k, k, mask),
        "These are the weights, (B, H, T_q, T_k): use them to mix the values, weights @ "
        "value.": lambda q, k, v, mask: _attend(q, k, torch.eye(k.shape[-2]), mask),
        "The mask is on although causal is False.": lambda *call: _attend(*call[:3], True),
        "The mask works the wrong way round.": lambda q, k, v, mask: _attend(q, k, v, not mask),
    },
    notice="It agrees with torch's own function. The output of a query never leaves the range of "
    "the values: attention mixes, it does not amplify.",
)

# --- 5 ---------------------------------------------------------------------------------------


def _cross(query: int = 0, key: int = 1, value: int = 1, **parts: Any) -> Way:
    """Return attention with queries, keys and values from x (0) or memory (1)."""

    def cross(x: Tensor, memory: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor) -> Tensor:
        both = x, memory
        return _attend(both[query] @ W_q, both[key] @ W_k, both[value] @ W_v, **parts)

    return cross


_SIZES = ((1, 1, 2, 2, 3, 1), (2, 3, 5, 6, 4, 7), (1, 4, 4, 3, 3, 3))


check_cross_attention = Exercise(
    name="cross_attention",
    task="Attention in which x asks (queries) and memory answers (keys and values).",
    right=_cross(),
    inputs=lambda seed: [
        _drawn(seed, (B, T_q, C), (B, T_k, C), (C, d_k), (C, d_k), (C, d_v))
        for B, T_q, T_k, C, d_k, d_v in _SIZES
    ],
    shape="(B, T_q, d_v)",
    mistakes={
        "Queries, keys and values all come from x: that is self-attention. Keys and values should "
        "come from memory.": _cross(0, 0, 0),
        "Everything comes from memory; the queries should come from x.": _cross(1, 1, 1),
        "The roles are swapped: x asks, memory answers with keys and values.": _cross(1, 0, 0),
        "The values come from x; keys and values both come from memory.": _cross(0, 1, 0),
        "The keys come from x; keys and values both come from memory.": _cross(0, 0, 1),
        "W_k and W_q are swapped.": lambda x, m, q, k, v: _cross()(x, m, k, q, v),
        "The scores are not divided by √d_k.": _cross(scale=lambda q, k: 1),
        "You divided by √n_embd, the width of x; the scores are sums over d_k channels, perhaps "
        "fewer.": lambda x, *r: _cross(scale=lambda *_: math.sqrt(x.shape[-1]))(x, *r),
        "You divided by d_k; it should be its square root.": _cross(scale=lambda q, k: q.shape[-1]),
        "There is a causal mask here. The whole source sentence is known already: cross-attention "
        "needs none.": _cross(mask=True),
        "The softmax runs over the queries or the batch. Each query shares out its attention among "
        "the keys: dim=-1.": tuple(_cross(axis=axis) for axis in (-2, 1, 0)),
        "These are weights.": lambda x, m, q, k, v: _attend(x @ q, m @ k, torch.eye(m.shape[1])),
        "The values should be memory @ W_v.": lambda x, m, q, k, v: _attend(x @ q, m @ k, m),
        "The softmax is missing.": lambda x, m, q, k, v: _scores(x @ q, m @ k) @ (m @ v),
    },
    notice="The output has one row per query: its length follows the queries, never the memory.",
)
