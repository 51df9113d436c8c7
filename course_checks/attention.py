"""Checks for chapter 5: scaled scores, causal weights, split heads, attention, cross-attention.

Each draws seeded inputs, tests one idea at a time, and compares a wrong answer with what the
usual mistakes would give, so that it can name the mistake.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_checks import Verdict, Wrong, check
from course_checks.answers import (
    call_for_tensor,
    draw,
    expect_shape,
    name_mistake,
    same,
)
from course_utils.attention import causal_mask, scaled_dot_product_attention

__all__ = [
    "Verdict",
    "check_attention",
    "check_causal_weights",
    "check_cross_attention",
    "check_scaled_scores",
    "check_split_heads",
]

B, H, T, D_K = 2, 3, 5, 4  # batch, heads, tokens, channels of one head


def _no_nan(found: Tensor, why: str) -> None:
    if found.isnan().any():
        raise Wrong(f"The result holds NaN (not a number). {why}")


# --- 1 ---------------------------------------------------------------------------------------


@check
def check_scaled_scores(answer: Callable) -> str:
    """Check ``scaled_scores(query, key)``: query keyᵀ / √d_k for ``(B, H, T, d_k)``."""
    query, key = draw(B, H, T, D_K), draw(B, H, T + 1, D_K, seed=1)
    found = call_for_tensor(answer, query, key)
    raw = query @ key.mT  # (B, H, T_q, T_k)
    if same(found, raw.mT / math.sqrt(D_K)):
        raise Wrong("Rows and columns are exchanged: one row per query, one column per key.")
    expect_shape(found, (B, H, T, T + 1), "(B, H, T_q, T_k)")
    width, n_query, n_key, right = H * D_K, T, T + 1, math.sqrt(D_K)
    name_mistake(
        found,
        {
            "These are the bare scores: divide them by the square root of d_k.": raw,
            "You divided by d_k. It is the standard deviation that grows, not the variance: "
            "divide by its square root.": raw / D_K,
            "You multiplied by √d_k: divide, so that wide heads do not get larger scores.": raw
            * right,
            f"You divided by √n_embd (√{width}), the width of all heads together. The sum in "
            "one score runs over one head, so it is √d_k: the last dimension of query.": raw
            / math.sqrt(width),
            "You divided by the root of the number of queries, not of channels: "
            "d_k is the last dimension.": raw / math.sqrt(n_query),
            "You divided by the root of the number of keys, not of channels: "
            "d_k is the last dimension.": raw / math.sqrt(n_key),
            "You divided by the root of the number of heads: d_k is the last dimension.": raw
            / math.sqrt(H),
            "This is already the softmax of the scores; the exercise stops before it.": (
                raw / right
            ).softmax(-1),
        },
    )
    if not same(found, raw / right):
        _divisor(found, raw)
        raise Wrong("The scores differ from query · key / √d_k, and not by a constant factor.")
    large = draw(500, 64, seed=2)
    spread = call_for_tensor(answer, large, large.flip(0)).std()
    return (
        f"With d_k = 64 and random numbers, your scores spread by {spread:.2f}; "
        f"without the division it would be {spread * 8:.1f}."
    )


def _divisor(found: Tensor, raw: Tensor) -> None:
    """Say so if the scores are right up to one factor."""
    divisor = (raw / found).flatten()
    if torch.allclose(divisor, divisor[0].expand_as(divisor), rtol=1e-3):
        raise Wrong(
            f"The products are right, but they are divided by {divisor[0]:.3f}; "
            f"with d_k = {D_K} it should be √{D_K} = {math.sqrt(D_K):.3f}."
        )


# --- 2 ---------------------------------------------------------------------------------------


@check
def check_causal_weights(answer: Callable) -> str:
    """Check ``causal_weights(scores)``: mask what comes later, then softmax, ``(..., T, T)``."""
    scores = 2 * draw(T, T)
    found = call_for_tensor(answer, scores)
    expect_shape(found, (T, T), "(T, T)")
    _name_causal(found, scores)
    expected = _causal(scores)
    if not same(found, expected):
        raise Wrong("The weights differ from softmax(scores with later keys at -inf).")
    many = 2 * draw(B, H, T, T, seed=3)
    if not same(call_for_tensor(answer, many), _causal(many)):
        raise Wrong(
            "Right for one (T, T) matrix, not for (B, H, T, T): mask the last two dimensions, "
            "and take the softmax over dim=-1."
        )
    shifted = call_for_tensor(answer, scores - 100)
    if not same(shifted, expected):
        raise Wrong(
            "Adding the same number to all scores changed the weights: "
            "later keys must get -inf, not a fixed small number."
        )
    return "The first token has one key to choose from, so its weight is 1 whatever its score is."


def _causal(scores: Tensor) -> Tensor:
    allowed = causal_mask(scores.shape[-1])
    return scores.masked_fill(~allowed, -math.inf).softmax(-1)


def _name_causal(found: Tensor, scores: Tensor) -> None:
    """Raise the diagnosis of a mistake in masking or in the softmax of ``scores``."""
    n = scores.shape[-1]
    allowed = causal_mask(n)
    hidden = scores.masked_fill(~allowed, -math.inf)
    _no_nan(
        found,
        "A row of the mask allows no key at all; "
        "the diagonal must stay: a token may look at itself.",
    )
    name_mistake(
        found,
        {
            "These are the masked scores; the softmax is missing.": hidden,
            "The softmax is there, the mask is not: the upper triangle should be 0.": (
                scores.softmax(-1)
            ),
            "The mask came after the softmax, so the rows no longer sum to 1, and the later "
            "keys still count in the denominator. Set their scores to -inf before it.": (
                scores.softmax(-1) * allowed
            ),
            "The triangle is flipped: each token sees itself and what comes later. "
            "Query i may look at keys 0 to i, the lower triangle.": (
                scores.masked_fill(~allowed.mT, -math.inf).softmax(-1)
            ),
            "The softmax runs over the wrong axis: the columns sum to 1. "
            "Each query shares out its attention among the keys: dim=-1.": hidden.softmax(-2),
            "Later keys got the score 0 and so the weight exp(0) = 1 before dividing. "
            "Only -inf gives the weight 0.": scores.masked_fill(~allowed, 0.0).softmax(-1),
            "Your mask hides the diagonal too, and row 0 allows nothing. "
            "A token may look at itself.": scores.masked_fill(~allowed.tril(-1), -1e9).softmax(-1),
        },
    )
    sums = found.sum(-1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise Wrong(f"Row 0 sums to {sums.flatten()[0]:.3f}; every row must sum to 1.")
    if found.triu(1).abs().max() > 1e-4:
        raise Wrong("Some query gives weight to a later key: the upper triangle should be 0.")


# --- 3 ---------------------------------------------------------------------------------------


@check
def check_split_heads(answer: Callable) -> str:
    """Check ``split_heads(x, n_head)``: ``(B, T, C)`` -> ``(B, H, T, d_k)``."""
    # Every number names its place: batch, token, channel.
    x = (
        100 * torch.arange(B)[:, None, None]
        + 10 * torch.arange(T)[None, :, None]
        + torch.arange(H * 2)[None, None, :] / 10
    )
    found = call_for_tensor(answer, x, H)
    if same(found, x.view(B, T, H, 2)):
        raise Wrong(
            "Nearly: this is (B, T, H, d_k). Swap token and head with `.transpose(1, 2)`, "
            "so that the last two dimensions are one head's (T, d_k)."
        )
    expect_shape(found, (B, H, T, 2), "(B, H, T, d_k)")
    name_mistake(
        found,
        {
            "The shape is right and the content is not: `view` or `reshape` straight to "
            "(B, H, T, d_k) deals out tokens, not channels, to the heads. "
            "First (B, T, H, d_k), then `.transpose(1, 2)`.": x.reshape(B, H, T, 2),
            "Each head got every H-th channel; it should get a block of neighbours: "
            "the last dimension splits as (H, d_k), not (d_k, H).": (
                x.view(B, T, 2, H).permute(0, 3, 1, 2)
            ),
        },
    )
    if not same(found, x.view(B, T, H, 2).transpose(1, 2)):
        raise Wrong(
            "Head h should hold channels h·d_k to (h+1)·d_k of every token, in order. "
            "Try `x.view(B, T, n_head, d_k).transpose(1, 2)`."
        )
    one = draw(1, 4, 6)
    if not same(call_for_tensor(answer, one, 1), one[:, None]):
        raise Wrong("With n_head=1 the result should be x with one more dimension.")
    return "No number was computed or copied into a new order: the heads are a way to index x."


# --- 4 ---------------------------------------------------------------------------------------


@check
def check_attention(answer: Callable) -> str:
    """Check ``attention(query, key, value, causal)`` on ``(B, H, T, d_k)``, in small steps."""
    query, key, value = (draw(B, H, T, D_K, seed=s) for s in range(3))
    _only_values(answer, query, key, value)
    _only_softmax(answer, query, key, value)
    found = call_for_tensor(answer, query, key, value, False)
    name_mistake(found, _attention_mistakes(query, key, value))
    if not same(found, scaled_dot_product_attention(query, key, value)):
        raise Wrong("Without a mask the result differs from softmax(query keyᵀ / √d_k) value.")
    wide, longer = draw(B, H, T + 2, D_K + 1, seed=4), draw(B, H, T + 2, D_K, seed=5)
    expected = scaled_dot_product_attention(query, longer, wide)
    if not same(call_for_tensor(answer, query, longer, wide, False), expected):
        raise Wrong("Wrong when there are more keys than queries, or wider values: check shapes.")
    _only_mask(answer, query, key, value)
    return (
        "It agrees with torch's own function. The output of a query never leaves the range of "
        "the values: attention mixes, it does not amplify."
    )


def _only_values(answer: Callable, query: Tensor, key: Tensor, value: Tensor) -> None:
    # With a single key the weight is 1, whatever the scores are.
    found = call_for_tensor(answer, query[..., :1, :], key[..., :1, :], value[..., :1, :], False)
    expect_shape(found, (B, H, 1, D_K), "(B, H, T_q, d_v)")
    if not same(found, value[..., :1, :]):
        raise Wrong("With a single key its weight is 1, so the output must be its value.")


def _only_softmax(answer: Callable, query: Tensor, key: Tensor, value: Tensor) -> None:
    # With equal keys all weights are equal, whatever the scale is.
    same_keys = key[..., :1, :].expand_as(key).clone()
    found = call_for_tensor(answer, query, same_keys, value, False)
    scores = query @ same_keys.mT
    name_mistake(
        found,
        {
            "The softmax runs over the queries. Each query shares out its attention among the "
            "keys: dim=-1.": (scores / math.sqrt(D_K)).softmax(-2) @ value,
            "The softmax is missing: the scores themselves were used as weights.": (
                scores / math.sqrt(D_K)
            )
            @ value,
            "Query and key are exchanged: the scores are query @ keyᵀ, one row per query.": (
                (scores.mT / math.sqrt(D_K)).softmax(-1) @ value
            ),
            "The causal mask is on although causal is False.": (
                causal_mask(T).float() / causal_mask(T).sum(-1, keepdim=True)
            )
            @ value,
        },
    )
    if not same(found, value.mean(-2, keepdim=True).expand_as(value)):
        raise Wrong("When all keys are equal, every query should get the plain mean of the values.")


def _attention_mistakes(query: Tensor, key: Tensor, value: Tensor) -> dict[str, Tensor]:
    scores, right = query @ key.mT, math.sqrt(D_K)

    def out(scores: Tensor) -> Tensor:
        return scores.softmax(-1) @ value

    return {
        "The scores are not divided by √d_k.": out(scores),
        f"You divided by √n_embd (√{H * D_K}), the width of all heads together. "
        "The scale belongs to one head: √d_k, the last dimension of query.": out(
            scores / math.sqrt(H * D_K)
        ),
        "You divided by d_k; it should be its square root.": out(scores / D_K),
        "You multiplied by √d_k instead of dividing.": out(scores * right),
        "You divided by the root of the number of tokens; d_k is the last dimension.": out(
            scores / math.sqrt(T)
        ),
        "You divided the weights, not the scores, by √d_k: scale before the softmax.": out(scores)
        / right,
        "The weights multiply the keys; they should mix the values.": (scores / right).softmax(-1)
        @ key,
    }


def _only_mask(answer: Callable, query: Tensor, key: Tensor, value: Tensor) -> None:
    found = call_for_tensor(answer, query, key, value, True)
    allowed, scores = causal_mask(T), query @ key.mT / math.sqrt(D_K)
    _no_nan(found, "A row of the mask allows no key at all; the diagonal must stay.")
    name_mistake(
        found,
        {
            "causal=True changed nothing: the mask is missing.": scores.softmax(-1) @ value,
            "The mask came after the softmax: the weights of early tokens do not sum to 1, and "
            "later keys still count in the denominator. Put -inf into the scores before it.": (
                scores.softmax(-1) * allowed
            )
            @ value,
            "The triangle is flipped: the first query sees everything and the last one only "
            "itself. Query i may look at keys 0 to i.": (
                scores.masked_fill(~allowed.mT, -math.inf).softmax(-1) @ value
            ),
            "Hidden scores were set to 0, which gives them the weight exp(0). Use -inf.": (
                scores.masked_fill(~allowed, 0.0).softmax(-1) @ value
            ),
        },
    )
    if not same(found[..., 0, :], value[..., 0, :]):
        raise Wrong("With causal=True the first query sees one key, so it must return value 0.")
    if not same(found, scaled_dot_product_attention(query, key, value, allowed)):
        raise Wrong("With causal=True the result differs from attention over keys 0 to i.")


# --- 5 ---------------------------------------------------------------------------------------


@check
def check_cross_attention(answer: Callable) -> str:
    """Check ``cross_attention(x, memory, W_q, W_k, W_v)``: queries from x, the rest from memory."""
    C, n_query, n_key, d_v = 6, 3, T, 7
    x, memory = draw(B, n_query, C), draw(B, n_key, C, seed=1)
    W_q, W_k, W_v = (
        draw(C, D_K, seed=2),
        draw(C, D_K, seed=3),
        draw(C, d_v, seed=4),
    )
    found = call_for_tensor(answer, x, memory, W_q, W_k, W_v)
    attend = scaled_dot_product_attention
    name_mistake(
        found,
        {
            "Queries, keys and values all come from x: that is self-attention. "
            "Keys and values should come from memory.": attend(x @ W_q, x @ W_k, x @ W_v),
            "Everything comes from memory; the queries should come from x.": attend(
                memory @ W_q, memory @ W_k, memory @ W_v
            ),
            "The roles are exchanged: x asks (queries), memory answers (keys and values).": attend(
                memory @ W_q, x @ W_k, x @ W_v
            ),
            "W_k and W_q are exchanged.": attend(x @ W_k, memory @ W_q, memory @ W_v),
            "The scores are not divided by √d_k.": attend(
                x @ W_q * math.sqrt(D_K), memory @ W_k, memory @ W_v
            ),
            "You divided by √n_embd, the width of x; the scores are sums over d_k channels.": (
                attend(x @ W_q * math.sqrt(D_K / C), memory @ W_k, memory @ W_v)
            ),
            "There is a causal mask here. The whole source sentence is known already: "
            "cross-attention needs none.": attend(
                x @ W_q,
                memory @ W_k,
                memory @ W_v,
                torch.ones(n_query, n_key, dtype=torch.bool).tril(),
            ),
        },
    )
    if tuple(found.shape) == (B, n_query, n_key):
        raise Wrong("These are the weights, (B, T_q, T_k): use them to mix the values.")
    expect_shape(found, (B, n_query, d_v), "(B, T_q, d_v)")
    if not same(found, attend(x @ W_q, memory @ W_k, memory @ W_v)):
        raise Wrong("The shape is right; the numbers differ from attention(x W_q, m W_k, m W_v).")
    return (
        f"{n_query} queries met {n_key} keys, and the output has {n_query} rows: "
        "its length follows the queries, never the memory."
    )
