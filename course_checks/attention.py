"""Exercises of chapter 5: scores, causal weights, heads, attention, cross-attention."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from course_checks import Verdict
from course_checks.answers import draw
from course_checks.exercises import Exercise, Way

__all__ = [
    "HIDDEN",
    "SCALES",
    "Verdict",
    "check_attention",
    "check_causal_weights",
    "check_cross_attention",
    "check_scaled_scores",
    "check_split_heads",
]


Scale = Callable[[Tensor, Tensor], float]
Weights = Callable[[Tensor], Tensor]

#: What query · key is divided by instead of √d_k, for query ``(B, H, T_q, d_k)``.
SCALES: dict[str, Scale] = {
    "The scores are not divided by √d_k, the root of the size of one head.": lambda q, k: 1,
    "You divided by d_k. It is the standard deviation that grows, not the variance: divide by its "
    "square root.": lambda q, k: q.shape[-1],
    "You multiplied by √d_k: divide, so that wide heads do not get larger scores.": (
        lambda q, k: q.shape[-1] ** -0.5
    ),
    "You divided by √n_embd, the width of all heads together. The sum in one score runs over one "
    "head, so it is √d_k.": lambda q, k: math.sqrt(q.shape[1] * q.shape[-1]),
    "You divided by the root of the number of heads; d_k is the size of one head.": (
        lambda q, k: math.sqrt(q.shape[1])
    ),
    "You divided by the root of the number of queries; d_k is the last dimension.": (
        lambda q, k: math.sqrt(q.shape[-2])
    ),
}


def _lower(scores: Tensor) -> Tensor:
    """Return the causal mask of scores ``(..., T_q, T_k)``: True where a query may look."""
    return torch.ones(scores.shape[-2:], dtype=torch.bool).tril()


def causal(scores: Tensor, axis: int = -1) -> Tensor:
    """Return the weights in which query i sees keys 0 to i."""
    return scores.masked_fill(~_lower(scores), -math.inf).softmax(axis)


def _filled(value: float) -> Weights:
    return lambda scores: scores.masked_fill(~_lower(scores), value).softmax(-1)


#: Weights from scores ``(..., T, T)`` where the mask or the softmax is wrong.
HIDDEN: dict[str, Weights | tuple[Weights, ...]] = {
    "The mask is missing: a query sees what comes after it.": lambda s: s.softmax(-1),
    "The mask came after the softmax, so the rows no longer sum to 1, and the later keys still "
    "count in the denominator. Set their scores to -inf before it.": (
        lambda s: s.softmax(-1) * _lower(s)
    ),
    "The triangle is flipped: each token sees itself and what comes later. Query i may look at "
    "keys 0 to i, the lower triangle.": (
        lambda s: s.masked_fill(~_lower(s).mT, -math.inf).softmax(-1)
    ),
    "Your mask hides the diagonal too, and row 0 allows nothing. A token may look at itself.": (
        lambda s: s.masked_fill(~_lower(s).tril(-1), -math.inf).softmax(-1),
        lambda s: s.masked_fill(~_lower(s).tril(-1), -1e9).softmax(-1),
    ),
    "Your mask is one place too wide: each token sees the next one. Query i may look at keys 0 to "
    "i; the later ones begin at `triu(1)`.": (
        lambda s: s.masked_fill(torch.ones_like(s).triu(2).bool(), -math.inf).softmax(-1)
    ),
    "Later keys got the score 0, or nearly, and so the weight exp(0) = 1 before dividing. Only "
    "-inf gives the weight 0.": (_filled(0.0), _filled(1e-9), lambda s: s.tril().softmax(-1)),
    "The softmax runs over the queries, and the columns sum to 1. Each query shares out its "
    "attention among the keys: dim=-1.": lambda s: causal(s, -2),
    "0 · (-inf) is NaN, “not a number”: do not multiply a mask by -inf, use `masked_fill` or "
    "`torch.where`.": lambda s: (s + (~_lower(s)).float() * -math.inf).softmax(-1),
}


def changed(make: Callable[[Any], Way], parts: Mapping) -> dict[str, Way | tuple[Way, ...]]:
    """Return the mistakes in which ``make`` builds a whole answer from a wrong part."""
    return {
        sentence: tuple(map(make, part)) if isinstance(part, tuple) else make(part)
        for sentence, part in parts.items()
    }


# --- 1 ---------------------------------------------------------------------------------------


def _score_inputs(seed: int) -> list[tuple]:
    shapes = [((1, 2), (2, 2)), ((3, 4), (2, 4)), ((2, 3, 5, 4), (2, 3, 6, 4))]
    shapes += [((7, 2, 3, 9), (7, 2, 4, 9)), ((4, 5, 64), (4, 3, 64))]
    return [(draw(*q, seed=seed), draw(*k, seed=seed + 1)) for q, k in shapes]


def _divided(by: Scale) -> Way:
    return lambda query, key: query @ key.mT / by(query, key)


check_scaled_scores = Exercise(
    name="scaled_scores",
    task="query · key / √d_k for every query and every key, whatever the leading dimensions.",
    right=lambda query, key: query @ key.mT / math.sqrt(query.shape[-1]),
    inputs=_score_inputs,
    shape="(..., T_q, T_k)",
    mistakes=changed(_divided, SCALES)
    | {
        "You divided by the root of the number of keys; d_k is the last dimension.": (
            _divided(lambda q, k: math.sqrt(k.shape[-2]))
        ),
        "You divided by √len(query); d_k is its last dimension, query.shape[-1].": (
            _divided(lambda q, k: math.sqrt(len(q)))
        ),
        "Rows and columns are exchanged: one row per query, one column per key.": (
            lambda q, k: k @ q.mT / math.sqrt(q.shape[-1])
        ),
        "This is already the softmax of the scores; the exercise stops before it.": (
            lambda q, k: (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        ),
        "Right for two matrices, not for more dimensions: `key.T` reverses all of them, and `mm` "
        "knows matrices only. Exchange the last two, `key.transpose(-2, -1)`, and use `@`.": (
            lambda q, k: q.mm(k.mT) / math.sqrt(q.shape[-1])
        ),
        "The root is taken of the scores too: only d_k goes under it.": (
            lambda q, k: (q @ k.mT / q.shape[-1]).sqrt()
        ),
    },
    notice="With d_k = 64 and random numbers, your scores spread by about 1; without the division "
    "it would be 8.",
)

# --- 2 ---------------------------------------------------------------------------------------


def _causal_inputs(seed: int) -> list[tuple]:
    one = 2 * draw(3, 3, seed=seed)
    zero = one.fill_diagonal_(0.0)
    many = 2 * draw(2, 3, 4, 4, seed=seed + 1)
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
        "These are the masked scores; the softmax is missing.": (
            lambda s: s.masked_fill(~_lower(s), -math.inf)
        ),
        "Right for one (T, T) matrix, not for (B, H, T, T): the softmax belongs over the last "
        "dimension, dim=-1.": (lambda s: causal(s, 1), lambda s: causal(s, 0)),
        "Right for one (T, T) matrix, not for (B, H, T, T): T is the last dimension, "
        "scores.shape[-1].": (
            lambda s: s.masked_fill(torch.ones(len(s), len(s)).triu(1) > 0, -math.inf).softmax(-1)
        ),
        "Later keys got a fixed number as their score, which is not small beside all scores: give "
        "them -inf.": (_filled(-10.0), _filled(-100.0)),
        "You took a score of 0 for a hidden one. A real score may be 0 as well: fill where the "
        "mask says so, not where a number is 0.": (
            lambda s: s.tril().masked_fill(s.tril() == 0, -math.inf).softmax(-1)
        ),
        "Right for small scores; exp(200) overflows and exp(-200) is 0. Let softmax take the "
        "exponential: it subtracts the largest score of each row first.": _without_the_largest,
    },
    notice="The first token has one key to choose from, so its weight is 1 whatever its score is.",
)

# --- 3 ---------------------------------------------------------------------------------------


def _numbered(B: int, T: int, C: int, seed: int) -> Tensor:
    """Return ``(B, T, C)`` in which batch, token and channel are the digits of a number."""
    batch, token, channel = torch.meshgrid(*map(torch.arange, (B, T, C)), indexing="ij")
    return (100 * batch + 10 * token + channel + 7 * (seed % 50)).float()


check_split_heads = Exercise(
    name="split_heads",
    task="Cut the channels into heads: (B, T, C) -> (B, n_head, T, C // n_head).",
    right=lambda x, n_head: x.unflatten(-1, (n_head, -1)).transpose(1, 2),
    inputs=lambda seed: [
        (_numbered(B, T, C, seed), n_head)
        for B, T, C, n_head in ((1, 2, 4, 2), (1, 4, 6, 1), (2, 5, 6, 3), (3, 4, 8, 2))
    ],
    shape="(B, H, T, d_k)",
    mistakes={
        "Nearly: this is (B, T, H, d_k). Swap token and head with `.transpose(1, 2)`, so that the "
        "last two dimensions are one head's (T, d_k).": (lambda x, n: x.view(*x.shape[:2], n, -1)),
        "The content is mixed up: `view` or `reshape` straight to (B, H, T, d_k) deals out tokens, "
        "not channels, to the heads. First (B, T, H, d_k), then `.transpose(1, 2)`.": (
            lambda x, n: x.reshape(len(x), n, x.shape[1], -1)
        ),
        "Each head got every H-th channel; it should get a block of neighbours: the last "
        "dimension splits as (H, d_k), not (d_k, H).": (
            lambda x, n: x.view(*x.shape[:2], -1, n).permute(0, 3, 1, 2)
        ),
        "The sizes are exchanged: there are n_head heads of C // n_head channels each.": (
            lambda x, n: x.view(*x.shape[:2], -1, n).transpose(1, 2)
        ),
        "Each head is turned over: its last two dimensions should be (T, d_k), not (d_k, T).": (
            lambda x, n: x.view(*x.shape[:2], n, -1).permute(0, 2, 3, 1)
        ),
        "The heads come in the reverse order: head h holds channels h·d_k to (h + 1)·d_k.": (
            lambda x, n: x.view(*x.shape[:2], n, -1).transpose(1, 2).flip(1)
        ),
        "These are the heads as separate tensors: put them together with "
        "`torch.stack(…, dim=1)`.": (
            lambda x, n: x.chunk(n, dim=-1),
            lambda x, n: list(x.chunk(n, dim=-1)),
        ),
        "The heads come before the batch: `torch.stack(…, dim=1)` makes them the second "
        "dimension.": (
            lambda x, n: torch.stack(x.chunk(n, dim=-1)),
            lambda x, n: x.view(*x.shape[:2], n, -1).permute(2, 0, 1, 3),
        ),
        "`torch.cat` joins the heads along an old dimension; `torch.stack(…, dim=1)` makes a new "
        "one.": lambda x, n: torch.cat(x.chunk(n, dim=-1), dim=1),
        "You cut the tokens into groups; the channels, the last dimension, are to be cut.": (
            lambda x, n: torch.stack(x.tensor_split(n, dim=1), dim=1)
        ),
        "x came back as it was: view it as (B, T, H, d_k), then `.transpose(1, 2)`.": (
            lambda x, n: x
        ),
        "The sizes are those of one example. Take them from x.shape and n_head.": (
            lambda x, n: x.view(2, 5, 3, 2).transpose(1, 2)
        ),
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


def _attention_inputs(seed: int) -> list[tuple]:
    def qkv(B: int, H: int, T_q: int, T_k: int, d_k: int, d_v: int) -> tuple:
        shapes = (B, H, T_q, d_k), (B, H, T_k, d_k), (B, H, T_k, d_v)
        return tuple(draw(*shape, seed=seed + n) for n, shape in enumerate(shapes))

    small, square = qkv(1, 1, 2, 2, 2, 2), qkv(2, 3, 5, 5, 4, 4)
    plain = [(*qkv(*sizes), False) for sizes in ((1, 1, 1, 1, 2, 2), (2, 3, 5, 7, 4, 6))]
    return [(*small, False), *plain, (*square, False), (*small, True), (*square, True)]


def _with(**parts: Any) -> Way:
    return lambda *call: _attend(*call, **parts)


check_attention = Exercise(
    name="attention",
    task="Scaled dot-product attention: scores, scale, mask if asked for, softmax, mixture.",
    right=lambda query, key, value, causal: _attend(query, key, value, causal),
    inputs=_attention_inputs,
    shape="(B, H, T_q, d_v)",
    mistakes=changed(lambda scale: _with(scale=scale), SCALES)
    | changed(lambda weights: _with(weights=weights), HIDDEN)
    | {
        "You divided the weights, not the scores, by √d_k: scale before the softmax.": (
            lambda *a: _attend(*a, scale=lambda q, k: 1) / math.sqrt(a[0].shape[-1])
        ),
        "The softmax runs over the queries, the heads or the batch. Each query shares out its "
        "attention among the keys: dim=-1.": tuple(
            _with(axis=axis, weights=partial(causal, axis=axis)) for axis in (-2, 1, 0)
        ),
        "The softmax is missing: the scores themselves were used as weights.": (
            lambda q, k, v, mask: q @ k.mT / math.sqrt(q.shape[-1]) @ v
        ),
        "Query and key are exchanged: the scores are query @ keyᵀ, one row per query.": (
            lambda q, k, v, mask: _attend(k, q, v, mask)
        ),
        "The weights multiply the keys; they should mix the values.": (
            lambda q, k, v, mask: _attend(q, k, k, mask)
        ),
        "These are the weights, (B, H, T_q, T_k): use them to mix the values, weights @ value.": (
            lambda q, k, v, mask: _attend(q, k, torch.eye(k.shape[-2]), mask)
        ),
        "The causal mask is on although causal is False.": (
            lambda q, k, v, mask: _attend(q, k, v, True)
        ),
        "The mask works the wrong way round: it is on when causal is False, and off when it is "
        "True.": lambda q, k, v, mask: _attend(q, k, v, not mask),
    },
    notice="It agrees with torch's own function. The output of a query never leaves the range of "
    "the values: attention mixes, it does not amplify.",
)

# --- 5 ---------------------------------------------------------------------------------------


def _cross_inputs(seed: int) -> list[tuple]:
    def call(B: int, T_q: int, T_k: int, C: int, d_k: int, d_v: int) -> tuple:
        shapes = (B, T_q, C), (B, T_k, C), (C, d_k), (C, d_k), (C, d_v)
        return tuple(draw(*shape, seed=seed + n) for n, shape in enumerate(shapes))

    return [call(1, 1, 2, 2, 3, 1), call(2, 3, 5, 6, 4, 7), call(1, 4, 4, 3, 3, 3)]


def _cross(*take: int) -> Callable[..., Tensor]:
    """Return attention with queries, keys and values from x (0) or memory (1)."""

    def cross(x: Tensor, memory: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor) -> Tensor:
        query, key, value = ((x, memory)[n] for n in take)
        return _attend(query @ W_q, key @ W_k, value @ W_v)

    return cross


def _projected(**parts: Any) -> Way:
    return lambda x, m, q, k, v: _attend(x @ q, m @ k, m @ v, **parts)


check_cross_attention = Exercise(
    name="cross_attention",
    task="Attention in which x asks (queries) and memory answers (keys and values).",
    right=lambda x, memory, W_q, W_k, W_v: _attend(x @ W_q, memory @ W_k, memory @ W_v),
    inputs=_cross_inputs,
    shape="(B, T_q, d_v)",
    mistakes={
        "Queries, keys and values all come from x: that is self-attention. Keys and values should "
        "come from memory.": _cross(0, 0, 0),
        "Everything comes from memory; the queries should come from x.": _cross(1, 1, 1),
        "The roles are exchanged: x asks (queries), memory answers (keys and values).": (
            _cross(1, 0, 0)
        ),
        "The values come from x. What is looked up, keys and values both, comes from memory.": (
            _cross(0, 1, 0)
        ),
        "The keys come from x. What is looked up, keys and values both, comes from memory.": (
            _cross(0, 0, 1)
        ),
        "W_k and W_q are exchanged.": lambda x, m, q, k, v: _attend(x @ k, m @ q, m @ v),
        "The scores are not divided by √d_k.": _projected(scale=lambda q, k: 1),
        "You divided by √n_embd, the width of x; the scores are sums over d_k channels.": (
            lambda x, *rest: _projected(scale=lambda q, k: math.sqrt(x.shape[-1]))(x, *rest)
        ),
        "You divided by d_k; it should be its square root.": (
            _projected(scale=lambda q, k: q.shape[-1])
        ),
        "There is a causal mask here. The whole source sentence is known already: cross-attention "
        "needs none.": _projected(mask=True),
        "The softmax runs over the queries or the batch. Each query shares out its attention among "
        "the keys: dim=-1.": tuple(_projected(axis=axis) for axis in (-2, 1, 0)),
        "These are the weights, (B, T_q, T_k): use them to mix the values.": (
            lambda x, m, q, k, v: _attend(x @ q, m @ k, torch.eye(m.shape[1]))
        ),
        "The values are memory itself; they should be memory @ W_v.": (
            lambda x, m, q, k, v: _attend(x @ q, m @ k, m)
        ),
        "The softmax is missing: the scores themselves were used as weights.": (
            lambda x, m, q, k, v: x @ q @ (m @ k).mT / math.sqrt(q.shape[-1]) @ (m @ v)
        ),
    },
    notice="The output has one row per query: its length follows the queries, never the memory.",
)
