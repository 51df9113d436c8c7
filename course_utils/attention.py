"""Attention: masks, weights, many heads, and the cache of keys and values.

Shapes through the course: ``B`` batch, ``T`` time (tokens), ``C`` channels (``n_embd``),
``H`` heads (``n_head``), ``d_k`` channels of one head. ``T_q`` and ``T_k`` differ only where
queries and keys come from different sequences (cross-attention, or a cache).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.layers import Linear, check_width
from course_utils.positions import rotate


def causal_mask(
    n_query: int, n_key: int | None = None, device: torch.device | None = None
) -> Tensor:
    """Return a boolean mask ``(n_query, n_key)`` that is True where a query may look.

    Query ``i`` may look at keys up to its own position. With more keys than queries, the
    queries are the last ones of the sequence, as in cached generation.
    """
    n_key = n_query if n_key is None else n_key
    return torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril(n_key - n_query)


def attention_weights(
    query: Tensor, key: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Return softmax(query keyᵀ / √d_k + bias), the weight of every key for every query.

    Args:
        query: ``(..., T_q, d_k)``.
        key: ``(..., T_k, d_k)``.
        mask: boolean, broadcast to ``(..., T_q, T_k)``, True where a query may look.
            Each query must be allowed at least one key; a row with none gives NaN.
        bias: broadcast to ``(..., T_q, T_k)``, added to the scores, as ALiBi does.

    Returns:
        ``(..., T_q, T_k)``; every row sums to 1.

    Source: Vaswani et al., 2017, "Attention is all you need", equation 1.
    """
    query = query / math.sqrt(query.shape[-1])  # here, for there are more scores to divide
    scores = query @ key.transpose(-2, -1)  # (..., T_q, T_k)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return attention_weights(query, key, mask, bias) @ value, with shape ``(..., T_q, d_v)``.

    The definition, to read and to teach from. :class:`MultiHeadAttention` calls torch's fused
    version of the same function, and a test holds the two against each other.
    """
    return attention_weights(query, key, mask, bias) @ value


class KVCache:
    """The keys and values of the tokens that one attention layer has read so far.

    Without it, every new token would have all keys and values before it computed again. The room
    for them doubles when it is full, so that a token costs the same however many came before.

    Attributes:
        length: number of tokens held.
    """

    def __init__(self) -> None:
        self.length = 0
        self._room: Tensor | None = None  # (2, B, H_kv, room, d_k): keys, then values

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new tokens' ``(B, H_kv, T, d_k)``; return all keys and all values so far."""
        start, end = self.length, self.length + key.shape[2]
        if self._room is None or end > self._room.shape[3]:
            B, H, _, d_k = key.shape
            room = key.new_empty(2, B, H, max(64, 2 * end), d_k)
            if self._room is not None:
                room[..., :start, :] = self._room[..., :start, :]
            self._room = room
        self._room[0, :, :, start:end] = key
        self._room[1, :, :, start:end] = value
        self.length = end
        keys, values = self._room[..., :end, :].unbind(0)
        return keys, values

    def select(self, rows: Tensor) -> None:
        """Keep the rows of the batch that ``rows`` ``(B',)`` names, in its order, repeats too."""
        if self._room is not None:
            self._room = self._room[:, rows]


class MultiHeadAttention(nn.Module):
    """Multi-head attention: self-attention, causal or not, and cross-attention.

    Args:
        n_embd: channels ``C`` in and out; a multiple of ``n_head``.
        n_head: number of heads ``H`` of queries; each has ``d_k = n_embd / n_head`` channels.
        n_kv_head: number of heads of keys and values, ``n_head`` by default. With fewer, each
            serves a group of neighbouring query heads (grouped-query attention, Ainslie et al.,
            2023; with one, multi-query attention, Shazeer, 2019).
        causal: a query sees only keys up to its own position.
        bias: give the four projections a bias.
        dropout: probability of dropping an attention weight while training.
        qk_norm: give every query and key a layer norm, so that scores cannot grow without bound
            (Dehghani et al., 2023, "Scaling vision transformers to 22 billion parameters").

    Set the attribute ``fused`` to False to compute the definition step by step instead of calling
    torch's fused kernel: the same result, and faster for short sequences in bfloat16 on a CPU.

    Raises:
        ValueError: heads do not divide the channels, or key heads do not divide query heads.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        *,
        n_kv_head: int | None = None,
        causal: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        qk_norm: bool = False,
    ):
        super().__init__()
        n_kv_head = n_head if n_kv_head is None else n_kv_head
        check_heads(n_embd, n_head, n_kv_head)
        self.n_head, self.n_kv_head, self.d_k = n_head, n_kv_head, n_embd // n_head
        self.causal, self.dropout = causal, dropout
        self.query_norm = nn.LayerNorm(self.d_k, bias=False) if qk_norm else None
        self.key_norm = nn.LayerNorm(self.d_k, bias=False) if qk_norm else None
        self.fused = True
        self.query = Linear(n_embd, n_embd, bias=bias)
        self.key = Linear(n_embd, n_kv_head * self.d_k, bias=bias)
        self.value = Linear(n_embd, n_kv_head * self.d_k, bias=bias)
        self.proj = Linear(n_embd, n_embd, bias=bias)

    def split_heads(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """``(B, T, H * d_k)`` -> ``(B, H, T, d_k)``: each head gets its own slice of channels.

        ``norm`` acts on each head's channels.
        """
        x = x.unflatten(-1, (-1, self.d_k))  # (B, T, H, d_k)
        return (x if norm is None else norm(x)).transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        rotary: tuple[Tensor, Tensor] | None = None,
        bias: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return ``(B, T_q, C)``.

        Args:
            x: ``(B, T_q, C)``, where the queries come from.
            memory: ``(B, T_k, C)``, where keys and values come from; ``x`` itself by default.
            mask: boolean, broadcast to ``(B, H, T_q, T_k)``, True where a query may look,
                for example padding as ``(B, 1, 1, T_k)``.
            rotary: cosines and sines of the positions of ``x``, see
                :func:`~course_utils.positions.rotary_table`; turns queries and keys by them.
            bias: added to the scores, broadcast to ``(B, H, T_q, T_k)``.
            cache: the tokens read before ``x``; those of ``x`` are added to it.

        Raises:
            ValueError: ``memory`` together with ``rotary`` or ``cache``.
        """
        if memory is not None and (cache is not None or rotary is not None):
            raise ValueError(
                "cache and rotary are for self-attention; leave them out where there is a memory."
            )
        memory = x if memory is None else memory
        check_width(x, self.query.in_features)
        check_width(memory, self.query.in_features)
        query = self.split_heads(self.query(x), self.query_norm)  # (B, H, T_q, d_k)
        key = self.split_heads(self.key(memory), self.key_norm)  # (B, H_kv, T_k, d_k)
        value = self.split_heads(self.value(memory))  # (B, H_kv, T_k, d_k)
        if rotary is not None:
            query, key = rotate(query, *rotary), rotate(key, *rotary)
        if cache is not None:
            key, value = cache.append(key, value)  # (B, H_kv, T_k, d_k), now of all tokens
        out = self._attend(query, key, value, mask, bias)  # (B, H, T_q, d_k)
        return self.proj(out.transpose(1, 2).flatten(2))  # (B, T_q, C): heads side by side again

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        T_q, T_k = query.shape[2], key.shape[2]
        # A single query that comes last may look at everything. torch's own causal flag starts
        # both sequences at 0, while here the queries are the last ones of the sequence.
        causal = self.causal and T_q > 1
        flag = causal and self.fused and T_q == T_k and mask is None and bias is None
        if causal and not flag:
            allowed = causal_mask(T_q, T_k, query.device)
            mask = allowed if mask is None else mask & allowed
        if self.fused:
            if bias is not None:
                mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
            return F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                is_causal=flag,
                dropout_p=self.dropout if self.training else 0.0,
                enable_gqa=self.n_kv_head < self.n_head,
            )
        group = self.n_head // self.n_kv_head  # neighbouring query heads that share a key head
        if group > 1:
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        weights = attention_weights(query, key, mask, bias)  # (B, H, T_q, T_k)
        return F.dropout(weights, self.dropout, self.training) @ value


def check_heads(n_embd: int, n_head: int, n_kv_head: int) -> None:
    """Raise ValueError unless ``n_kv_head`` divides ``n_head`` and that divides ``n_embd``."""
    if n_embd % n_head:
        raise ValueError(f"n_embd={n_embd} is not divisible by n_head={n_head}.")
    if n_kv_head < 1 or n_head % n_kv_head:
        raise ValueError(f"n_head={n_head} is not divisible by n_kv_head={n_kv_head}.")
