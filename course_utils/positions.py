"""How a transformer knows the order of its tokens: sinusoidal, rotary and ALiBi positions.

The fourth kind, learned positions, is a table of weights: ``nn.Embedding(block_size, n_embd)``.
"""

import math

import torch
from torch import Tensor


def frequencies(d: int, base: float = 10_000.0, device: torch.device | None = None) -> Tensor:
    """Return ``d / 2`` frequencies in radians per position: 1, then ever slower, towards 1/base.

    Raises:
        ValueError: ``d`` is odd or not positive; every frequency needs a pair of channels.
    """
    if d < 2 or d % 2:
        raise ValueError(
            f"{d} channels cannot be paired; positions by angles need an even number, 2 or more."
        )
    return 1 / base ** (torch.arange(0, d, 2, device=device, dtype=torch.float32) / d)  # (d / 2,)


def sinusoidal(positions: Tensor, n_embd: int, base: float = 10_000.0) -> Tensor:
    """Return the sinusoidal encoding of ``positions``: ``(..., T)`` -> ``(..., T, n_embd)``.

    Channel ``2i`` is sin(position · frequency i), channel ``2i + 1`` the cosine of the same angle.

    Source: Vaswani et al., 2017, "Attention is all you need", section 3.5.
    """
    angles = positions[..., None] * frequencies(n_embd, base, positions.device)  # (..., T, C / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def rotary_table(positions: Tensor, d_k: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the angles to turn by: ``(..., T)`` -> two ``(..., T, d_k)``.

    Both halves of the channels have the same angles; the sines of the first half are negative.

    Source: Su et al., 2021, "RoFormer: Enhanced transformer with rotary position embedding".
    """
    angles = positions[..., None] * frequencies(d_k, base, positions.device)  # (..., T, d_k / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels of ``x`` ``(..., T, d_k)`` by its angle; lengths do not change.

    Channel ``i`` is paired with ``i + d_k / 2``, as in transformers' Llama; the paper pairs
    neighbours, which is the same up to the order of the channels. The pair (a, b) becomes
    (a cos - b sin, b cos + a sin). A query turned by its position and a key turned by its own have
    a dot product that depends only on the distance between the two.
    """
    partner = x.roll(x.shape[-1] // 2, dims=-1)  # each channel's other half of the pair
    return x * cos.to(x.dtype) + partner * sin.to(x.dtype)


def alibi_slopes(n_head: int) -> Tensor:
    """Return how fast each head forgets, in score per token of distance: ``(H,)``.

    A power of two of heads gets a geometric sequence that ends at 2⁻⁸. Other numbers get those of
    the power below and, in between, every second one of the power above, as the authors do.

    Source: Press et al., 2022, "Train short, test long: Attention with linear biases".
    """
    if n_head < 1:
        raise ValueError(f"n_head={n_head} must be at least 1.")
    power = 2 ** math.floor(math.log2(n_head))
    slopes = 2.0 ** (-8 / power * torch.arange(1, power + 1))
    between = 2.0 ** (-4 / power * (2 * torch.arange(n_head - power) + 1))
    return torch.cat([slopes, between])


def alibi_bias(n_head: int, n_query: int, n_key: int, device: torch.device | None = None) -> Tensor:
    """Return what ALiBi adds to the scores: ``(H, T_q, T_k)``, minus slope times distance.

    With more keys than queries, the queries are the last ones of the sequence.
    """
    query = torch.arange(n_key - n_query, n_key, device=device)[:, None]  # (T_q, 1)
    distance = (query - torch.arange(n_key, device=device)).abs()  # (T_q, T_k)
    return -alibi_slopes(n_head).to(device)[:, None, None] * distance
