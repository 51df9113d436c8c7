"""How a transformer knows the order of its tokens: sinusoidal, rotary and ALiBi positions.

The fourth kind, learned positions, is a table of weights: ``nn.Embedding(block_size, n_embd)``.
"""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from course_utils.inputs import check_padding


def token_positions(
    ids: Tensor, n_past: int = 0, n_pad: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return the position of each token, and a mask that hides padding at the left.

    Args:
        ids: ``(B, T)``.
        n_past: tokens before them, in a cache.
        n_pad: ``(B,)``, how many of a row's first columns are padding, cached ones included.

    Returns:
        Without padding, positions ``(T,)`` and no mask. With it, positions ``(B, T)`` that count
        from the first real token, and a mask ``(B, 1, T, T_k)``, True where a query may look.
    """
    columns = torch.arange(n_past + ids.shape[1], device=ids.device)  # (T_k,), cached first
    positions = columns[n_past:]  # (T,)
    if n_pad is None:
        return positions, None
    check_padding(n_pad, ids)
    real = columns >= n_pad[:, None]  # (B, T_k)
    # Real tokens look at real tokens only. Padding looks at whatever comes before it, since each
    # query needs at least one key; nobody reads what it finds. With one column of padding in a row
    # of three, ``allowed`` is [[1, 1, 1], [0, 1, 1], [0, 1, 1]]; the causal mask then takes away
    # what lies ahead.
    allowed = real[:, None] | ~real[:, n_past:, None]  # (B, T, T_k)
    return (positions - n_pad[:, None]).clamp(min=0), allowed[:, None]


def frequencies(d: int, base: float | Tensor, positions: Tensor) -> Tensor:
    """Return ``d / 2`` frequencies in radians per position: 1, then ever slower, towards 1/base.

    They are float32, or float64 if the positions are.

    Raises:
        ValueError: ``d`` is odd or not positive; every frequency needs a pair of channels.
    """
    if d < 2 or d % 2:
        raise ValueError(f"{d} channels cannot be paired; expected an even number, 2 or more.")
    dtype = torch.promote_types(positions.dtype, torch.float32)
    return 1 / base ** (torch.arange(0, d, 2, device=positions.device, dtype=dtype) / d)


def sinusoidal(positions: Tensor, n_embd: int, base: float = 10_000.0) -> Tensor:
    """Return the sinusoidal encoding of ``positions``: ``(..., T)`` -> ``(..., T, n_embd)``.

    Channel ``2i`` is sin(position · frequency i), channel ``2i + 1`` the cosine of the same angle.

    Built by hand in chapter 4, "The sinusoidal encoding". Source: Vaswani et al., 2017,
    "Attention is all you need", section 3.5.
    """
    angles = positions[..., None] * frequencies(n_embd, base, positions)  # (..., T, n_embd / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # (..., T, n_embd)


def rotary_table(
    positions: Tensor, d_k: int, base: float = 10_000.0, scaling: Mapping[str, Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of the angles to turn by: ``(..., T)`` -> two ``(..., T, d_k)``.

    Both halves of the channels have the same angles; the sines of the first half are negative.
    ``scaling`` slows the rotation down, see :func:`check_rope_scaling`.

    Built by hand in chapter 4, "Rotary positions (RoPE)". Source: Su et al., 2021, "RoFormer:
    Enhanced transformer with rotary position embedding".
    """
    scaling, size = scaling or {}, 1.0
    kind = scaling.get("rope_type")
    if kind == "dynamic":  # beyond the original length, the base grows with the longest text
        stretch = (positions.max() + 1) / scaling["original_max_position_embeddings"]
        growth = 1 + scaling["factor"] * (stretch.clamp(min=1) - 1)
        base = base * growth ** (d_k / (d_k - 2))
    turning = frequencies(d_k, base, positions)  # (d_k / 2,)
    if kind in ("linear", "llama3", "yarn"):
        turning, size = _slowed(turning, base, scaling)
    angles = positions[..., None] * turning  # (..., T, d_k / 2)
    cos, sin = size * angles.cos(), size * angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def _slowed(turning: Tensor, base: float, scaling: Mapping[str, Any]) -> tuple[Tensor, float]:
    """Return the frequencies ``(d_k / 2,)`` divided by up to ``factor``, and the tables' size.

    Channels that turn many times within the original length tell neighbours apart, and keep their
    frequency; those that turn less than about once are divided by the whole factor.
    """
    s, kept, size = scaling, torch.zeros_like(turning), 1.0  # linear: divided throughout
    length = s["original_max_position_embeddings"]
    if s["rope_type"] == "llama3":
        low, high = s["low_freq_factor"], s["high_freq_factor"]  # in turns
        kept = ((length * turning / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
    elif s["rope_type"] == "yarn":  # between the channels that turn 32 times and once
        d_k = 2 * len(turning)
        first, last = (
            d_k * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))
            for turns in (s.get("beta_fast", 32), s.get("beta_slow", 1))
        )
        first, last = max(math.floor(first), 0), min(math.ceil(last), d_k - 1)
        channel = torch.arange(len(turning)).to(turning)
        kept = 1 - ((channel - first) / (last - first or 0.001)).clamp(0, 1)
        size = s.get("attention_factor", max(1.0, 1 + 0.1 * math.log(s["factor"])))
    return turning * (kept + (1 - kept) / s["factor"]), size


_STRETCH = ("factor", "original_max_position_embeddings")
#: The settings of each kind of scaled rotary positions; only yarn's last three are optional.
ROPE_SCALING = {
    "linear": _STRETCH,
    "dynamic": _STRETCH,
    "llama3": (*_STRETCH, "low_freq_factor", "high_freq_factor"),
    "yarn": (*_STRETCH, "beta_fast", "beta_slow", "attention_factor"),
}


def check_rope_scaling(scaling: Mapping[str, Any], d_k: int) -> None:
    """Raise ValueError unless ``scaling`` is one that :func:`rotary_table` knows.

    The keys are those of ``rope_scaling`` in the ``config.json`` of a Llama: ``rope_type`` is
    "linear" (Chen et al., 2023), "dynamic" (bloc97 and emozilla, 2023: the frequencies depend on
    the longest text of the batch so far, so beyond the original length keys in a cache keep the
    angles of an earlier length, as in transformers), "yarn" (Peng et al., 2023) or "llama3"
    (Llama 3.1, 2024), with the numbers that :data:`ROPE_SCALING` lists for it.
    """
    kind = scaling.get("rope_type")
    if kind not in ROPE_SCALING:
        raise ValueError(f"rope_type={kind!r} is not one of {', '.join(ROPE_SCALING)}.")
    known, given = set(ROPE_SCALING[kind]), set(scaling) - {"rope_type"}
    if missing := sorted(known - given - {"beta_fast", "beta_slow", "attention_factor"}):
        raise ValueError(f"rope_scaling of rope_type={kind!r} lacks {', '.join(missing)}.")
    if unknown := sorted(given - known):
        raise ValueError(f"rope_scaling of rope_type={kind!r} does not know {', '.join(unknown)}.")
    for name in sorted(given):
        value = scaling[name]
        real = isinstance(value, Real) and not isinstance(value, bool)
        if not (real and 0 < value < math.inf):
            raise ValueError(f"{name}={value!r} in rope_scaling must be a number above 0.")
    low, high = scaling.get("low_freq_factor", 0), scaling.get("high_freq_factor", 1)
    if low >= high:
        raise ValueError(f"low_freq_factor={low} must be below high_freq_factor={high}.")
    if kind == "dynamic" and d_k < 4:
        raise ValueError(f"dynamic rope_scaling needs heads of 4 channels or more, not {d_k}.")


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels of ``x`` ``(..., T, d_k)`` by its angle; lengths do not change.

    Channel ``i`` is paired with ``i + d_k / 2``, as in transformers' Llama; the paper pairs
    neighbours, which is the same up to the order of the channels. The pair (a, b) becomes
    (a cos - b sin, b cos + a sin). A query turned by its position and a key turned by its own have
    a dot product that depends only on the distance between the two.
    """
    partner = x.roll(x.shape[-1] // 2, dims=-1)  # each channel's other half of the pair
    return x * cos.to(x.dtype) + partner * sin.to(x.dtype)


def alibi_slopes(n_head: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return how fast each head forgets, in score per token of distance: ``(H,)``.

    A power of two of heads gets a geometric sequence that ends at 2⁻⁸. Other numbers get those of
    the power below and, in between, every second one of the power above, as the authors do.

    Built by hand in chapter 4, "ALiBi: just prefer what is near". Source: Press et al., 2022,
    "Train short, test long: Attention with linear biases".
    """
    if n_head < 1:
        raise ValueError(f"n_head={n_head} must be at least 1.")
    power = 2 ** math.floor(math.log2(n_head))
    slopes = 2.0 ** (-8 / power * torch.arange(1, power + 1, dtype=dtype))
    between = 2.0 ** (-4 / power * (2 * torch.arange(n_head - power, dtype=dtype) + 1))
    return torch.cat([slopes, between])


def alibi_bias(
    n_head: int,
    n_query: int,
    n_key: int,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return what ALiBi adds to the scores: ``(H, T_q, T_k)``, minus slope times distance.

    With more keys than queries, the queries are the last ones of the sequence.
    """
    query = torch.arange(n_key - n_query, n_key, device=device)[:, None]  # (T_q, 1)
    distance = (query - torch.arange(n_key, device=device)).abs()  # (T_q, T_k)
    return -alibi_slopes(n_head, dtype).to(device)[:, None, None] * distance
