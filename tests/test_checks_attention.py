"""The checks of chapter 5: right answers pass, wrong ones are told why."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from course_checks import attention as checks

RIGHT, MISTAKES, PRAISE = {}, {}, {}  # run by test_checks.py


def tril(scores):
    return torch.ones(scores.shape[-2:], dtype=torch.bool).tril()


# --- scaled scores -------------------------------------------------------------------------------


def scores_by_loops(q, k):
    out = np.zeros((*q.shape[:-1], k.shape[-2]))
    for i in np.ndindex(out.shape):
        out[i] = sum(q[(*i[:-1], c)] * k[(*i[:-2], i[-1], c)] for c in range(q.shape[-1]))
    return out / q.shape[-1] ** 0.5


RIGHT["check_scaled_scores"] = [
    lambda query, key: query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]),
    lambda a, b: torch.einsum("...ic,...jc->...ij", a, b) * a.size(-1) ** -0.5,
    lambda query, key: (query / key.shape[-1] ** 0.25) @ (key / key.shape[-1] ** 0.25).mT,
]
PRAISE["check_scaled_scores"] = ["spread"]


def test_slow_but_right_scaled_scores():
    def right(q, k):
        if q.dim() == 2:
            return (q.numpy() @ k.numpy().T) / np.sqrt(q.shape[1])
        return scores_by_loops(q, k)

    assert checks.check_scaled_scores(right).passed


MISTAKES["check_scaled_scores"] = [
    (lambda q, k: q @ k.mT, "bare scores"),
    (lambda q, k: q @ k.mT / q.shape[-1], "divided by d_k"),
    (lambda q, k: q @ k.mT * math.sqrt(q.shape[-1]), "multiplied"),
    (lambda q, k: q @ k.mT / math.sqrt(q.shape[1] * q.shape[-1]), "√n_embd"),
    (lambda q, k: q @ k.mT / math.sqrt(q.shape[-2]), "number of queries"),
    (lambda q, k: q @ k.mT / math.sqrt(k.shape[-2]), "number of keys"),
    (lambda q, k: q @ k.mT / math.sqrt(q.shape[1]), "number of heads"),
    (lambda q, k: k @ q.mT / math.sqrt(q.shape[-1]), "exchanged"),
    (lambda q, k: (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1), "softmax"),
    (lambda q, k: q @ k.mT / 5, "divided by 5.000"),
    (lambda q, k: q.mT @ k, "stopped"),
    (lambda q, k: (q @ k.mT).sum(-1), "shape"),
    (lambda q, k: q.div_(math.sqrt(q.shape[-1])) @ k.mT, "changed in place"),
    (lambda q, k: None, "return"),
    (lambda q, k: (q, k), "tuple"),
]


# --- causal weights ------------------------------------------------------------------------------


def weights_by_loops(scores):
    if scores.dim() > 2:
        return torch.stack([weights_by_loops(part) for part in scores])
    rows = torch.zeros_like(scores)
    for i in range(len(scores)):
        rows[i, : i + 1] = scores[i, : i + 1].softmax(0)
    return rows


def renormalised(scores):
    weights = scores.softmax(-1) * tril(scores)
    return weights / weights.sum(-1, keepdim=True)


RIGHT["check_causal_weights"] = [
    lambda scores: scores.masked_fill(~tril(scores), -math.inf).softmax(-1),
    lambda s: torch.softmax(s + torch.full(s.shape[-2:], -math.inf).triu(1), dim=-1),
    lambda s: s.masked_fill(~tril(s), -1e9).softmax(-1),
    weights_by_loops,
    renormalised,  # the same thing, computed in another order
]


def in_place(scores):
    return scores.masked_fill_(~tril(scores), -math.inf).softmax(-1)


MISTAKES["check_causal_weights"] = [
    (lambda s: s.softmax(-1), "the mask is not"),
    (lambda s: s.softmax(-1) * tril(s), "after the softmax"),
    (lambda s: s.masked_fill(~tril(s).mT, -math.inf).softmax(-1), "flipped"),
    (lambda s: s.masked_fill(~tril(s), -math.inf).softmax(-2), "wrong axis"),
    (lambda s: (s * tril(s)).softmax(-1), "exp(0)"),
    (lambda s: s.masked_fill(~tril(s).tril(-1), -math.inf).softmax(-1), "NaN"),
    (lambda s: s.masked_fill(~tril(s).tril(-1), -1e9).softmax(-1), "diagonal"),
    (lambda s: s.masked_fill(~tril(s), -math.inf), "softmax is missing"),
    (lambda s: s.masked_fill(~tril(s), -math.inf).sigmoid(), "sums to"),
    (lambda s: s.masked_fill(~tril(s), -5.0).softmax(-1), "later key"),
    (lambda s: weights_by_loops(s) if s.dim() == 2 else s.softmax(-1), "(B, H, T, T)"),
    (lambda s: s.masked_fill(~tril(s), -30.0).softmax(-1), "-inf, not a fixed"),
    (in_place, "changed in place"),
]


# --- split heads ---------------------------------------------------------------------------------


def split_by_slices(x, n_head):
    d_k = x.shape[-1] // n_head
    return torch.stack([x[..., h * d_k : (h + 1) * d_k] for h in range(n_head)], dim=1)


RIGHT["check_split_heads"] = [
    lambda x, n: x.view(*x.shape[:2], n, -1).transpose(1, 2),
    split_by_slices,
    lambda x, n: torch.stack(x.chunk(n, dim=-1), 1).numpy(),
]


MISTAKES["check_split_heads"] = [
    (lambda x, n: x.view(x.shape[0], n, x.shape[1], -1), "deals out tokens"),
    (lambda x, n: x.view(*x.shape[:2], n, -1), "Swap token and head"),
    (lambda x, n: x.view(*x.shape[:2], -1, n).permute(0, 3, 1, 2), "H-th channel"),
    (lambda x, n: x, "shape"),
    (lambda x, n: x.view(*x.shape[:2], n, -1).transpose(1, 2).flip(1), "Head h should hold"),
    (lambda x, n: x.view(2, 5, 3, 2).transpose(1, 2), "stopped"),
]


# --- attention -----------------------------------------------------------------------------------


def make(scale=None, mask=tril, axis=-1, hide=-math.inf, after=False):
    """Return an attention function, right unless a part of it is replaced."""

    def attention(query, key, value, causal=False):
        divisor = math.sqrt(query.shape[-1]) if scale is None else scale(query)
        scores = query @ key.mT / divisor
        if causal and not after:
            scores = scores.masked_fill(~mask(scores), hide)
        weights = scores.softmax(axis)
        if causal and after:
            weights = weights * mask(scores)
        return weights @ value

    return attention


def attention_by_loops(query, key, value, causal=False):
    out = np.zeros((*query.shape[:-1], value.shape[-1]))
    for b, h, i in np.ndindex(query.shape[:3]):
        last = i + 1 if causal else key.shape[-2]
        keys, values = key[b, h, :last], value[b, h, :last]
        weights = (keys @ query[b, h, i] / query.shape[-1] ** 0.5).softmax(0)
        out[b, h, i] = (weights[:, None] * values).sum(0)
    return out


RIGHT["check_attention"] = [
    make(),
    make(hide=-1e9),
    lambda q, k, v, flag: F.scaled_dot_product_attention(q, k, v, is_causal=flag),
    attention_by_loops,
]


def with_keys_for_values(query, key, value, causal=False):
    return make()(query, key, key, causal) if key.shape[-2] > 1 else value


MISTAKES["check_attention"] = [
    (make(scale=lambda q: 1), "not divided"),
    (make(scale=lambda q: q.shape[-1]), "square root"),
    (make(scale=lambda q: math.sqrt(q.shape[1] * q.shape[-1])), "√n_embd"),
    (make(scale=lambda q: 1 / math.sqrt(q.shape[-1])), "multiplied"),
    (make(scale=lambda q: math.sqrt(q.shape[-2])), "number of tokens"),
    (make(axis=-2), "over the queries"),
    (make(after=True), "after the softmax"),
    (make(mask=lambda s: tril(s).mT), "flipped"),
    (make(mask=lambda s: tril(s).tril(-1)), "NaN"),
    (make(hide=0.0), "set to 0"),
    (lambda q, k, v, causal: make()(q, k, v), "changed nothing"),
    (lambda q, k, v, causal: make()(q, k, v, True), "mask"),
    (lambda q, k, v, causal: (q @ k.mT / 2).softmax(-1), "shape"),
    (lambda q, k, v, causal: (q @ k.mT / 2) @ v, "single key"),
    (lambda q, k, v, causal: make()(k, q, v, causal), "exchanged"),
    (with_keys_for_values, "plain mean"),
    (lambda q, k, v, c: (q @ k.mT).softmax(-1) / math.sqrt(q.shape[-1]) @ v, "single key"),
]


# --- cross-attention -----------------------------------------------------------------------------


def cross(x, memory, W_q, W_k, W_v, scale=None, mask=None):
    q, k, v = x @ W_q, memory @ W_k, memory @ W_v
    scores = q @ k.transpose(1, 2) / (scale or math.sqrt(k.shape[-1]))
    if mask is not None:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:]).bool().tril(), -math.inf)
    return scores.softmax(-1) @ v


def cross_by_loops(x, m, a, b, c):
    return np.stack([cross(x[i : i + 1], m[i : i + 1], a, b, c)[0].numpy() for i in range(len(x))])


def cross_by_torch(x, memory, W_q, W_k, W_v):
    return F.scaled_dot_product_attention(x @ W_q, memory @ W_k, memory @ W_v)


RIGHT["check_cross_attention"] = [cross, cross_by_loops, cross_by_torch]
PRAISE["check_cross_attention"] = ["3 queries met 5 keys"]


MISTAKES["check_cross_attention"] = [
    (lambda x, m, a, b, c: cross(x, x, a, b, c), "self-attention"),
    (lambda x, m, a, b, c: cross(m, m, a, b, c), "Everything comes from memory"),
    (lambda x, m, a, b, c: cross(m, x, a, b, c), "roles"),
    (lambda x, m, a, b, c: cross(x, m, b, a, c), "W_k and W_q"),
    (lambda x, m, a, b, c: cross(x, m, a, b, c, scale=1), "not divided"),
    (lambda x, m, a, b, c: cross(x, m, a, b, c, scale=math.sqrt(6)), "√n_embd"),
    (lambda x, m, a, b, c: cross(x, m, a, b, c, mask=True), "causal mask"),
    (lambda x, m, a, b, c: (x @ a @ (m @ b).mT / 2).softmax(-1), "weights"),
    (lambda x, m, a, b, c: x @ a, "shape"),
    (lambda x, m, a, b, c: x @ a.T, "stopped"),
    (lambda x, m, a, b, c: cross(x, m, a, b, 2 * c), "numbers differ"),
]
