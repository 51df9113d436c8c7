"""The parts of a transformer: attention, feed-forward network, block.

Shapes through the course: ``B`` batch, ``T`` time (tokens), ``C`` channels (``n_embd``),
``H`` heads (``n_head``), ``d_k`` channels of one head. ``T_q`` and ``T_k`` differ only where
queries and keys come from different sequences (cross-attention, or a cache).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def causal_mask(
    n_query: int, n_key: int | None = None, device: torch.device | None = None
) -> Tensor:
    """Return a boolean mask ``(n_query, n_key)`` that is True where a query may look.

    Query ``i`` may look at keys up to its own position. With more keys than queries, the
    queries are the last ones of the sequence, as in cached generation.
    """
    n_key = n_query if n_key is None else n_key
    return torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril(n_key - n_query)


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(query keyᵀ / √d_k), the weight of every key for every query.

    Args:
        query: ``(..., T_q, d_k)``.
        key: ``(..., T_k, d_k)``.
        mask: boolean, broadcast to ``(..., T_q, T_k)``, True where a query may look.
            Each query must be allowed at least one key; a row with none gives NaN.

    Returns:
        ``(..., T_q, T_k)``; every row sums to 1.

    Source: Vaswani et al., 2017, "Attention is all you need", equation 1.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Return attention_weights(query, key, mask) @ value, with shape ``(..., T_q, d_v)``.

    The definition, to read and to teach from. :class:`MultiHeadAttention` calls torch's fused
    version of the same function, and a test holds the two against each other.
    """
    return attention_weights(query, key, mask) @ value


class MultiHeadAttention(nn.Module):
    """Multi-head attention: self-attention, causal or not, and cross-attention.

    Args:
        n_embd: channels ``C`` in and out; a multiple of ``n_head``.
        n_head: number of heads ``H``; each has ``d_k = n_embd / n_head`` channels.
        causal: a query sees only keys up to its own position.
        bias: give the four projections a bias.
        dropout: probability of dropping an attention weight while training.

    Set the attribute ``fused`` to False to compute the definition step by step instead of calling
    torch's fused kernel: the same result, and faster for short sequences in bfloat16 on a CPU.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        *,
        causal: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        if n_embd % n_head:
            raise ValueError(f"n_embd={n_embd} is not divisible by n_head={n_head}.")
        self.n_head, self.causal, self.dropout = n_head, causal, dropout
        self.fused = True
        self.query = nn.Linear(n_embd, n_embd, bias=bias)
        self.key = nn.Linear(n_embd, n_embd, bias=bias)
        self.value = nn.Linear(n_embd, n_embd, bias=bias)
        self.proj = nn.Linear(n_embd, n_embd, bias=bias)

    def split_heads(self, x: Tensor) -> Tensor:
        """``(B, T, C)`` -> ``(B, H, T, d_k)``: each head gets its own slice of the channels."""
        B, T, C = x.shape
        return x.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)

    def forward(
        self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return ``(B, T_q, C)``.

        Args:
            x: ``(B, T_q, C)``, where the queries come from.
            memory: ``(B, T_k, C)``, where keys and values come from; ``x`` itself by default.
            mask: boolean, broadcast to ``(B, H, T_q, T_k)``, True where a query may look,
                for example padding as ``(B, 1, 1, T_k)``.
        """
        memory = x if memory is None else memory
        query = self.split_heads(self.query(x))  # (B, H, T_q, d_k)
        key = self.split_heads(self.key(memory))  # (B, H, T_k, d_k)
        value = self.split_heads(self.value(memory))  # (B, H, T_k, d_k)
        # torch's own causal flag starts both sequences at 0; here the queries are the last ones.
        same_start = x.shape[1] == memory.shape[1]
        if self.causal and (mask is not None or not self.fused or not same_start):
            allowed = causal_mask(x.shape[1], memory.shape[1], x.device)
            mask = allowed if mask is None else mask & allowed
        if self.fused:
            out = F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                is_causal=self.causal and mask is None,
                dropout_p=self.dropout if self.training else 0.0,
            )  # (B, H, T_q, d_k)
        else:
            weights = attention_weights(query, key, mask)  # (B, H, T_q, T_k)
            out = F.dropout(weights, self.dropout, self.training) @ value  # (B, H, T_q, d_k)
        out = out.transpose(1, 2).flatten(2)  # (B, T_q, C): the heads side by side again
        return self.proj(out)


class MLP(nn.Module):
    """The feed-forward network of a block: widen by four, GELU, narrow again.

    ``gelu`` is the form of the GELU as torch names it: "tanh" (the approximation that GPT-2 uses)
    or "none" (exact, and several times faster on a CPU).
    """

    def __init__(self, n_embd: int, *, bias: bool = True, gelu: str = "tanh"):
        super().__init__()
        self.gelu = gelu
        self.fc = nn.Linear(n_embd, 4 * n_embd, bias=bias)
        self.proj = nn.Linear(4 * n_embd, n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, C)`` -> ``(B, T, C)``, each position on its own."""
        return self.proj(F.gelu(self.fc(x), approximate=self.gelu))


class Block(nn.Module):
    """A pre-norm decoder block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        gelu: str = "tanh",
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(n_embd, bias=bias)
        self.attention = MultiHeadAttention(n_embd, n_head, causal=True, bias=bias, dropout=dropout)
        self.norm2 = nn.LayerNorm(n_embd, bias=bias)
        self.mlp = MLP(n_embd, bias=bias, gelu=gelu)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, C)`` -> ``(B, T, C)``."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))
