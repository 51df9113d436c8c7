"""The checks of chapter 4: right answers pass, wrong ones are told why."""

import math

import numpy as np
import torch

from course_utils import positions

RIGHT, MISTAKES, PRAISE = {}, {}, {}  # run by test_checks.py


# --- the sinusoidal table ------------------------------------------------------------------------


def table(angle=lambda t, i, C: t / 10_000 ** (2 * i / C), odd=math.cos, even=math.sin):
    """Return an answer by loops, with its parts to be spoilt."""

    def answer(n_position, n_embd):
        rows = torch.zeros(n_position, n_embd)
        for t in range(n_position):
            for i in range(n_embd // 2):
                rows[t, 2 * i] = even(angle(t, i, n_embd))
                rows[t, 2 * i + 1] = odd(angle(t, i, n_embd))
        return rows

    return answer


def by_channel(exponent):
    """Return the mistake of an exponent that counts channels instead of pairs."""

    def answer(n_position, n_embd):
        t, c = np.arange(n_position)[:, None], np.arange(n_embd)
        angle = t / 10_000 ** exponent(c, n_embd)
        return np.where(c % 2, np.cos(angle), np.sin(angle))

    return answer


RIGHT["check_sinusoidal_table"] = [
    table(),
    lambda T, C: positions.sinusoidal(torch.arange(T), C),
    by_channel(lambda c, C: (c - c % 2) / C),
    lambda T, C: table()(T, C).tolist(),
]
PRAISE["check_sinusoidal_table"] = ["6.3 positions"]


MISTAKES["check_sinusoidal_table"] = [
    (lambda T, C: torch.cat([table()(T, C)[:, ::2], table()(T, C)[:, 1::2]], -1), "Marian"),
    (table(odd=math.sin, even=math.cos), "exchanged"),
    (table(lambda t, i, C: t / 10_000 ** (i / C)), "yours is i / n_embd"),
    (by_channel(lambda c, C: c / C), "same frequency as its sine"),
    (by_channel(lambda c, C: 2 * c / C), "twice"),
    (table(lambda t, i, C: t * 10_000 ** (2 * i / C)), "multiply"),
    (table(lambda t, i, C: (t + 1) / 10_000 ** (2 * i / C)), "start at 1"),
    (table(lambda t, i, C: math.radians(t / 10_000 ** (2 * i / C))), "degrees"),
    (table(odd=math.sin), "sines only"),
    (table(lambda t, i, C: t / 10_000 ** (i / (C / 2 - 1))), "Whisper"),
    (table(lambda t, i, C: t / 1_000 ** (2 * i / C)), "base is 1,000"),
    (table(odd=float, even=float), "These are the angles"),
    (lambda T, C: table()(T, C).T, "exchanged"),
    (lambda T, C: table()(T, C)[:, ::2], "shape"),
    (lambda T, C: table()(T, C) + 0.1, "Row 0"),
    (table(lambda t, i, C: t / (1 + 10 * i)), "Channel 2"),
    (lambda T, C: table()(7, 6), "not for 50"),
    (lambda T, C: None, "return"),
]


# --- positions added -----------------------------------------------------------------------------


def added_by_loops(x, rows):
    out = x.clone()
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[b, t] += rows[t]
    return out


def in_place(x, rows):
    x += rows[: x.shape[1]]
    return x


RIGHT["check_add_positions"] = [
    lambda x, table: x + table[: x.shape[1]],
    lambda x, table: x + torch.nn.functional.embedding(torch.arange(x.shape[1]), table),
    lambda x, table: x.numpy() + table.numpy()[None, : x.shape[1]],
    added_by_loops,
]
PRAISE["check_add_positions"] = ["broadcasting"]


MISTAKES["check_add_positions"] = [
    (lambda x, p: x + p, "full length"),
    (lambda x, p: x + p[1 : x.shape[1] + 1], "start at 1"),
    (lambda x, p: x + p[-x.shape[1] :], "last rows"),
    (lambda x, p: x + p[: x.shape[1]].flip(0), "backwards"),
    (lambda x, p: x + p[: x.shape[0], None], "place in the batch"),
    (lambda x, p: x + p[0], "position 0"),
    (lambda x, p: x * p[: x.shape[1]], "multiplied"),
    (lambda x, p: x * math.sqrt(x.shape[-1]) + p[: x.shape[1]], "scaled"),
    (lambda x, p: x + p[: x.shape[1]].mean(0), "mean"),
    (lambda x, p: x + p[: x.shape[1]].sum(0), "sum"),
    (lambda x, p: x, "unchanged"),
    (lambda x, p: p[: x.shape[1]], "alone"),
    (lambda x, p: torch.cat([x, p[: x.shape[1]].expand_as(x)], -1), "side by side"),
    (lambda x, p: x.mean(1) + p[0], "shape"),
    (lambda x, p: 2 * x + p[: x.shape[1]], "numbers differ"),
    (
        lambda x, p: x + (p[:5, None] if x.shape[0] == x.shape[1] else p[: x.shape[1]]),
        "laid along the batch",
    ),
    (lambda x, p: x + p[:5], "stopped"),
    (in_place, "changed in place"),
]


# --- positions in a padded batch -----------------------------------------------------------------


def padded_by_loops(mask):
    rows = []
    for row in mask.tolist():
        seen, places = 0, []
        for real in row:
            places.append(seen if real else 0)
            seen += real
        rows.append(places)
    return rows


RIGHT["check_padded_positions"] = [
    lambda mask: (mask.cumsum(-1) - 1).clamp(min=0),
    lambda m: (m.cumsum(1) - 1).masked_fill(m == 0, 1),  # any row will do for the padding
    lambda m: (torch.arange(m.shape[1]) - (1 - m).sum(1, keepdim=True)).clamp(min=0),
    lambda m: np.maximum(np.cumsum(m.numpy(), axis=-1) - 1, 0),
    padded_by_loops,
]
PRAISE["check_padded_positions"] = ["row 0 ends at 2"]


MISTAKES["check_padded_positions"] = [
    (lambda m: torch.arange(m.shape[1]).expand_as(m), "padding was counted"),
    (lambda m: torch.arange(m.shape[1]) * m, "padding was counted"),
    (lambda m: m.cumsum(-1), "Positions start at 0"),
    (lambda m: m.cumsum(-1) - 1, "negative"),
    (lambda m: m.flip(-1).cumsum(-1).flip(-1) - 1, "backwards"),
    (lambda m: (m.cumsum(0) - 1).clamp(min=0), "batch"),
    (lambda m: m, "mask itself"),
    (lambda m: (m.cumsum(-1) - 1.0).clamp(min=0), "whole numbers"),
    (lambda m: (m.cumsum(-1) - 1).masked_fill(m == 0, 99), "outside"),
    (lambda m: 2 * (m.cumsum(-1) - 1), "row 0 has"),
    (lambda m: torch.arange(m.shape[1]), "shape"),
    (
        lambda m: (torch.arange(m.shape[1]) - torch.tensor([[3], [0], [1]])).clamp(min=0),
        "stopped",
    ),
]


# --- rotary positions ----------------------------------------------------------------------------


def turned(
    angle=lambda t, i, d: t / 10_000 ** (2 * i / d),
    split=lambda x: x.chunk(2, dim=-1),
    join=lambda a, b: torch.cat([a, b], dim=-1),
    signs=(-1, 1),
):
    """Return an answer with its parts to be spoilt."""

    def answer(x, where):
        a, b = split(x)
        d_k = x.shape[-1]
        angles = angle(where[:, None], torch.arange(d_k // 2), d_k)
        cos, sin = angles.cos(), angles.sin()
        return join(a * cos + signs[0] * b * sin, b * cos + signs[1] * a * sin)

    return answer


def neighbours(x):
    return x[..., ::2], x[..., 1::2]


def interleave(a, b):
    return torch.stack([a, b], dim=-1).flatten(-2)


def one_after_the_other(x, where):
    half = x.shape[-1] // 2
    angle = where[:, None] / 10_000 ** (torch.arange(half) / half)
    out = x.clone()
    out[..., :half] = out[..., :half] * angle.cos() - out[..., half:] * angle.sin()
    out[..., half:] = out[..., half:] * angle.cos() + out[..., :half] * angle.sin()
    return out


def turned_by_loops(x, where):
    out, d_k = x.clone(), x.shape[-1]
    for row, t in enumerate(where.tolist()):
        for i in range(d_k // 2):
            angle = t * 10_000 ** (-2 * i / d_k)
            a, b = x[..., row, i], x[..., row, i + d_k // 2]
            out[..., row, i] = a * math.cos(angle) - b * math.sin(angle)
            out[..., row, i + d_k // 2] = b * math.cos(angle) + a * math.sin(angle)
    return out


def turned_by_complex_numbers(x, where):
    half = x.shape[-1] // 2
    angle = where[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], dim=-1).numpy()


RIGHT["check_rotate_pairs"] = [
    turned(),
    turned_by_loops,
    turned_by_complex_numbers,
    lambda x, where: positions.rotate(x, *positions.rotary_table(where, x.shape[-1])),
]
PRAISE["check_rotate_pairs"] = ["Only the distance"]


MISTAKES["check_rotate_pairs"] = [
    (turned(split=neighbours, join=interleave), "paired neighbours, (0, 1)"),
    (turned(split=neighbours), "into two halves"),
    (turned(join=interleave), "interleaved"),
    (turned(signs=(1, -1)), "wrong way"),
    (turned(signs=(1, 1)), "lengths"),
    (turned(lambda t, i, d: t / 10_000 ** (i / d)), "yours is i / d_k"),
    (turned(lambda t, i, d: t * 10_000 ** (2 * i / d)), "multiply"),
    (turned(lambda t, i, d: torch.deg2rad(t / 10_000 ** (2 * i / d))), "degrees"),
    (turned(lambda t, i, d: (t + 1) / 10_000 ** (2 * i / d)), "one too high"),
    (turned(lambda t, i, d: t + 0.0 * i), "same angle"),
    (turned(lambda t, i, d: t / 1_000 ** (2 * i / d)), "base is 1,000"),
    (turned(lambda t, i, d: math.pi / 2 - t / 10_000 ** (2 * i / d)), "exchanged"),
    (turned(lambda t, i, d: t / 7 ** (2 * i / d)), "A rotation, but not"),
    (one_after_the_other, "keep the old a"),
    (lambda x, where: turned()(x, torch.arange(len(where))), "row number"),
    (lambda x, where: x, "unchanged"),
    (lambda x, where: x + positions.sinusoidal(where, x.shape[-1]), "added"),
    (lambda x, where: turned()(x, where)[..., :3], "Half of the channels"),
    (turned(join=lambda a, b: a + b), "Half of the channels"),
    (lambda x, where: torch.cat([turned()(x, where)[..., :3], x[..., 3:]], -1), "first half"),
    (lambda x, where: turned()(x, where)[:2], "shape"),
    (lambda x, where: turned()(x.view(len(where), -1)[:, :6], where), "B, H, T"),
]


# --- ALiBi ---------------------------------------------------------------------------------------


def alibi(slope=lambda h, H: 2 ** (-8 * h / H), distance=lambda q, k: q - k, sign=-1):
    """Return an answer by loops, with its parts to be spoilt."""

    def answer(n_head, T):
        bias = torch.zeros(n_head, T, T)
        for h in range(n_head):
            for query in range(T):
                for key in range(T):
                    bias[h, query, key] = sign * slope(h + 1, n_head) * distance(query, key)
        return bias

    return answer


def causal_too(n_head, T):
    bias = alibi()(n_head, T)
    return bias.masked_fill(~torch.ones(T, T).bool().tril(), -math.inf)


RIGHT["check_alibi_bias"] = [
    alibi(),
    lambda n_head, T: positions.alibi_bias(n_head, T, T),
    lambda n_head, T: alibi()(n_head, T).numpy(),
    causal_too,
    alibi(distance=lambda q, k: abs(q - k)),
]
PRAISE["check_alibi_bias"] = ["2.8 tokens"]


MISTAKES["check_alibi_bias"] = [
    (alibi(sign=1), "sign"),
    (alibi(distance=lambda q, k: k - q), "sign"),
    (alibi(slope=lambda h, H: 1), "same slope, 1"),
    (alibi(slope=lambda h, H: 2 ** (-8 / H)), "the first one's"),
    (alibi(slope=lambda h, H: 2**-h), "those of 8 heads"),
    (alibi(slope=lambda h, H: 2 ** (-8 * (h - 1) / H)), "not from 0"),
    (alibi(slope=lambda h, H: 2 ** (-8 * (H + 1 - h) / H)), "wrong way"),
    (alibi(slope=lambda h, H: math.exp(-8 * h / H)), "power of two"),
    (alibi(slope=lambda h, H: 2 ** (8 * h / H)), "grows"),
    (alibi(slope=lambda h, H: 8 * h / H), "2 to the power"),
    (alibi(distance=lambda q, k: (q - k) ** 2), "linear"),
    (alibi(distance=lambda q, k: -k), "Bloom"),
    (lambda n_head, T: alibi()(n_head, T).permute(1, 2, 0), "come first"),
    (lambda n_head, T: alibi()(n_head, T)[0], "shape"),
    (alibi(slope=lambda h, H: 0.5), "differs from minus"),
    (lambda n_head, T: alibi()(4, 6), "8 heads"),
    (lambda n_head, T: None, "return"),
]
