"""Chapter 5: loops, numpy, einsum, torch's own functions."""

import math

import numpy as np
import torch
from torch.nn import functional as F


def scores_in_loops(query, key):
    if query.dim() > 2:
        return torch.stack([scores_in_loops(*pair) for pair in zip(query, key, strict=True)])
    rows = [[sum(q * k).item() / len(q) ** 0.5 for k in key] for q in query]
    return torch.tensor(rows)


def weights_by_rows(scores):
    if scores.dim() > 2:
        return torch.stack([weights_by_rows(part) for part in scores])
    rows = torch.zeros_like(scores)
    for i in range(len(scores)):
        rows[i, : i + 1] = scores[i, : i + 1].softmax(0)
    return rows


def weights_numpy(scores):
    s = scores.double().numpy()
    s = np.where(np.tril(np.ones(s.shape[-2:])) == 1, s, -np.inf)
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def weights_added(scores):
    return torch.softmax(scores + torch.full(scores.shape[-2:], -math.inf).triu(1), dim=-1)


def split_in_loops(x, n_head):
    B, T, C = x.shape
    out = np.empty((B, n_head, T, C // n_head))
    for b, t, c in np.ndindex(B, T, C):
        out[b, c // (C // n_head), t, c % (C // n_head)] = x[b, t, c]
    return out


def attention_in_loops(query, key, value, causal=False):
    out = np.zeros((*query.shape[:-1], value.shape[-1]))
    for b, h, i in np.ndindex(query.shape[:3]):
        last = i + 1 if causal else key.shape[-2]
        weights = (key[b, h, :last] @ query[b, h, i] / query.shape[-1] ** 0.5).softmax(0)
        out[b, h, i] = weights @ value[b, h, :last]
    return out


def attention_einsum(query, key, value, causal=False):
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(key.shape[-1])
    return torch.einsum(
        "bhqk,bhkd->bhqd", weights_added(scores) if causal else scores.softmax(-1), value
    )


def attention_low(query, key, value, causal=False):
    scores = query.double() @ key.double().mT * query.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores).tril() == 0, -1e9)
    return scores.softmax(-1) @ value.double()


def cross(x, memory, W_q, W_k, W_v):
    query, key, value = x @ W_q, memory @ W_k, memory @ W_v
    return (query @ key.transpose(1, 2) / math.sqrt(key.shape[-1])).softmax(-1) @ value


def cross_in_loops(x, memory, a, b, c):
    pairs = zip(x[:, None], memory[:, None], strict=True)
    return [cross(*pair, a, b, c)[0].tolist() for pair in pairs]


RIGHT = {
    "scaled_scores": [
        scores_in_loops,
        lambda a, b: torch.einsum("...ic,...jc->...ij", a, b) * a.size(-1) ** -0.5,
        lambda query, key: (query / key.shape[-1] ** 0.25) @ (key / key.shape[-1] ** 0.25).mT,
        lambda q, k: q.double().numpy() @ np.swapaxes(k.numpy(), -1, -2) / np.sqrt(q.shape[-1]),
    ],
    "causal_weights": [
        weights_by_rows,
        weights_numpy,
        weights_added,
        lambda s: s.where(torch.ones_like(s).tril() == 1, -math.inf).softmax(dim=-1),
    ],
    "split_heads": [
        split_in_loops,
        lambda x, n: x.view(*x.shape[:2], n, -1).transpose(1, 2),
        lambda x, n: torch.stack(x.chunk(n, dim=-1), 1).numpy(),
        lambda x, n_head: torch.einsum("bthd->bhtd", x.unflatten(2, (n_head, -1))),
    ],
    "attention": [
        attention_in_loops,
        attention_einsum,
        attention_low,
        lambda q, k, v, flag: F.scaled_dot_product_attention(q, k, v, is_causal=flag),
    ],
    "cross_attention": [
        cross,
        cross_in_loops,
        lambda x, m, q, k, v: F.scaled_dot_product_attention(x @ q, m @ k, m @ v),
        lambda x, m, q, k, v: cross(*(part.double() for part in (x, m, q, k, v))),
    ],
}
