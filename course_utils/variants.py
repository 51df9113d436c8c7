"""Parts that a GPT can have instead of the usual ones, and which settings go together.

Read :mod:`course_utils.gpt` first: each function here is called from one line of it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.inputs import check, check_heads
from course_utils.positions import alibi_bias, check_rope_scaling, rotary_table, sinusoidal

# --- the MLP -------------------------------------------------------------------------------------


def relu2(hidden: Tensor) -> Tensor:
    """The square of ReLU. Source: So et al., 2021, "Primer"."""
    return F.relu(hidden).square()


def swiglu(hidden: Tensor) -> Tensor:
    """Llama's gated activation: ``(..., 2 * n_hidden)`` -> ``(..., n_hidden)``.

    Built by hand in chapter 9, "SwiGLU by hand". Source: Shazeer, 2020, "GLU variants improve
    transformer".
    """
    gate, up = hidden.chunk(2, dim=-1)  # (..., n_hidden) each
    return F.silu(gate) * up


#: What an MLP can compute between its two matrices instead of GPT-2's "gelu_tanh"; the exact
#: "gelu" is several times faster on a CPU.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = dict(gelu=F.gelu, relu2=relu2, swiglu=swiglu)

# --- the config ----------------------------------------------------------------------------------

#: How a GPT can be told the order of its tokens, what its norms compute, and its activations.
POSITIONS = ("learned", "sinusoidal", "rotary", "alibi", "none")
NORMS = ("layer", "rms")
MLPS = ("gelu_tanh", *ACTIVATIONS)
CHOICES = {"positions": POSITIONS, "norm": NORMS, "mlp": MLPS}


def check_config(config: Any) -> None:
    """Raise ValueError unless the settings of a GPTConfig fit together."""
    c = config
    check(c.dropout < 1, f"dropout={c.dropout} must be below 1.")
    check_heads(c.n_embd, c.n_head, c.n_kv_head or c.n_head)
    d_k = c.n_embd // c.n_head
    paired = {"rotary": d_k, "sinusoidal": c.n_embd}.get(c.positions, 0)
    wrong = f"{c.positions} positions need an even number of channels, not {paired}"
    check(paired % 2 == 0, f"{wrong} (n_embd={c.n_embd}, n_head={c.n_head}).")
    if c.rope_scaling is not None:
        wrong = f"rope_scaling is for rotary positions, not {c.positions!r}."
        check(c.positions == "rotary", wrong)
        check_rope_scaling(c.rope_scaling, d_k)


# --- what chapters compare -----------------------------------------------------------------------


def add_positions(
    config: Any, x: Tensor, positions: Tensor, mask: Tensor | None, n_past: int
) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
    """Tell a GPT where its tokens stand in another way than by a learned vector.

    The sinusoidal encoding is added to the stream. Rotary angles go to every block, to turn its
    queries and keys. ALiBi is added to the scores, so the mask becomes numbers. With "none", only
    the causal mask tells. Chapter 4 compares them.

    Args:
        x: ``(B, T, C)``, the embedded tokens.
        positions: ``(T,)`` or ``(B, T)``.
        mask: of the padding, ``(B, 1, T, T_k)``, or None.
        n_past: number of tokens in the cache.

    Returns:
        ``x``; the mask, for ALiBi ``(H, T, T_k)`` or ``(B, H, T, T_k)``; and the cosines and sines
        of the rotary angles, or None.
    """
    c, rotary = config, None
    # Angles and distances need float32: bfloat16 cannot tell position 257 from 258.
    exact = torch.promote_types(x.dtype, torch.float32)
    if c.positions == "sinusoidal":
        x = x + sinusoidal(positions.to(exact), c.n_embd).to(x.dtype)
    elif c.positions == "rotary":
        where = positions.unsqueeze(-2).to(exact)  # the same for every head
        rotary = rotary_table(where, c.n_embd // c.n_head, c.rope_base, c.rope_scaling)
    elif c.positions == "alibi":
        n_key = n_past + x.shape[1]
        bias = alibi_bias(c.n_head, x.shape[1], n_key, x.device, exact).to(x.dtype)
        mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
    return x, mask, rotary


def qk_norms(d_k: int, wanted: bool) -> list[nn.Module]:
    """Return a layer norm for queries and one for keys, or two that change nothing.

    With them, scores cannot grow without bound. Source: Dehghani et al., 2023, "Scaling vision
    transformers to 22 billion parameters".
    """
    return [nn.LayerNorm(d_k, bias=False) if wanted else nn.Identity() for _ in range(2)]


def post_norm(block: Any, x: Tensor, *context: Any) -> Tensor:
    """Compute a block with its norms last, norm(x + f(x)), as in the first transformer.

    Chapter 6, "Why a block is built this way", compares the two orders. Source: Xiong et
    al., 2020, "On layer normalization in the transformer architecture".

    Args:
        block: whose parts are used, on ``x`` ``(B, T, C)``.
        context: mask, rotary and cache, as the block got them.
    """
    x = block.norm1(x + block.dropout(block.attention(x, None, *context)))
    return block.norm2(x + block.dropout(block.mlp(x)))
