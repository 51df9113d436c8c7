"""Chapter 4: loops, numpy, complex numbers, exponentials of logarithms, embeddings."""

import math

import numpy as np
import torch
from torch.nn import functional as F


def table_in_loops(n_position, n_embd):
    rows = torch.zeros(n_position, n_embd)
    for t in range(n_position):
        for i in range(n_embd // 2):
            angle = t / 10_000 ** (2 * i / n_embd)
            rows[t, 2 * i : 2 * i + 2] = torch.tensor([math.sin(angle), math.cos(angle)])
    return rows


def table_as_in_tutorials(n, d):
    slow = torch.exp(torch.arange(0, d, 2) * (-math.log(10_000.0) / d))
    table = torch.zeros(n, d)
    table[:, 0::2] = torch.sin(torch.arange(n).unsqueeze(1) * slow)
    table[:, 1::2] = torch.cos(torch.arange(n).unsqueeze(1) * slow)
    return table


def table_numpy(T, C):
    c = np.arange(C)
    angle = np.arange(T)[:, None] / 10_000 ** ((c - c % 2) / C)
    return np.where(c % 2, np.cos(angle), np.sin(angle))


def added_in_loops(x, rows):
    out = x.clone()
    for b, t in np.ndindex(x.shape[:2]):
        out[b, t] += rows[t]
    return out


def padded_in_loops(mask):
    rows = [[0] * row.count(0) + list(range(row.count(1))) for row in mask.tolist()]
    return torch.tensor(rows)


def rotated_in_loops(x, where):
    out, d_k = x.clone(), x.shape[-1]
    for row, t in enumerate(where.tolist()):
        for i in range(d_k // 2):
            angle = t * 10_000 ** (-2 * i / d_k)
            a, b = x[..., row, i], x[..., row, i + d_k // 2]
            out[..., row, i] = a * math.cos(angle) - b * math.sin(angle)
            out[..., row, i + d_k // 2] = b * math.cos(angle) + a * math.sin(angle)
    return out


def rotated_complex(x, where):
    half = x.shape[-1] // 2
    angle = where[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], dim=-1).numpy()


def rotated_as_in_llama(x, where):
    slow = 1.0 / 10_000 ** (torch.arange(0, x.shape[-1], 2).double() / x.shape[-1])
    angle = torch.outer(where.double(), slow).repeat(1, 2)
    half = torch.cat([-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]], dim=-1)
    return x * angle.cos() + half * angle.sin()


def rotated_chunks(x, where):
    a, b = x.chunk(2, dim=-1)
    angle = where.unsqueeze(-1) / 10_000 ** torch.arange(0, 1, 2 / x.shape[-1])[: a.shape[-1]]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def bias_in_loops(n_head, T):
    bias = torch.full((n_head, T, T), -math.inf)
    for h, m, n in np.ndindex(n_head, T, T):
        if n <= m:
            bias[h, m, n] = -(2 ** (-8 * (h + 1) / n_head)) * (m - n)
    return bias


RIGHT = {
    "sinusoidal_table": [
        table_in_loops,
        table_as_in_tutorials,
        table_numpy,
        lambda T, C: table_in_loops(T, C).tolist(),
    ],
    "add_positions": [
        added_in_loops,
        lambda x, table: x + F.embedding(torch.arange(x.shape[1]), table),
        lambda x, table: x.numpy() + table.numpy()[None, : x.shape[1]],
        lambda a, b: torch.stack([text + b[: a.size(1)] for text in a]),
    ],
    "padded_positions": [
        padded_in_loops,
        lambda m: (m.cumsum(1) - 1).masked_fill(m == 0, 1),  # any row will do for the padding
        lambda m: (torch.arange(m.shape[1]) - (1 - m).sum(1, keepdim=True)).clamp(min=0),
        lambda m: np.maximum(np.cumsum(m.numpy(), axis=-1) - 1, 0),
    ],
    "rotate_pairs": [rotated_in_loops, rotated_complex, rotated_as_in_llama, rotated_chunks],
    "alibi_bias": [
        bias_in_loops,
        lambda H, T: bias_in_loops(H, T).numpy(),
        lambda H, T: (
            torch.exp2(-8 / H * torch.arange(1, H + 1)).view(H, 1, 1)
            * (torch.arange(T) - torch.arange(T)[:, None])
        ),
        lambda n_head, T: [
            [[-abs(m - n) * 2 ** (-8 * h / n_head) for n in range(T)] for m in range(T)]
            for h in range(1, n_head + 1)
        ],
    ],
}
