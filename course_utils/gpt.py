"""A GPT, to be read from top to bottom: attention, MLP, block, model.

The defaults are GPT-2's parts, except that GPT-2 shares its head with the embedding
(``tied=True``); a config can ask for Llama's parts instead. A line marked "may be skipped" serves
another design, padding, the cache or speed: GPT-2 computes the same without it. Lines that begin
with ``inputs.check_`` only reject bad input, with an error that says what is wrong. Three files
can wait:
:mod:`~course_utils.positions` (rotary angles), :mod:`~course_utils.kv_cache` (what generation
remembers) and :mod:`~course_utils.variants` (what other designs do differently).

Shapes throughout the course: ``B`` batch, ``T`` time (tokens), ``C`` channels (``n_embd``), ``H``
heads (``n_head``), ``H_kv`` heads of keys and values, ``d_k`` channels of one head, ``V`` tokens
in the vocabulary. There are ``T_q`` queries and ``T_k`` keys where the two numbers differ: in
cross-attention, and where a cache holds the keys of earlier tokens.

Sources: Vaswani et al., 2017, "Attention is all you need"; Radford et al., 2019, "Language models
are unsupervised multitask learners" (GPT-2); Touvron et al., 2023, "LLaMA: Open and efficient
foundation language models".
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import inputs, variants
from course_utils.kv_cache import KVCache
from course_utils.positions import rotate, token_positions

# --- attention -----------------------------------------------------------------------------------


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(query keyᵀ / √d_k): how much each query takes from each key.

    A dot product sums ``d_k`` terms; if they are independent and of size 1, it varies by √d_k.
    Undivided, the scores of a wide head would lie so far apart that one key got nearly everything,
    and the softmax would pass on hardly any gradient. Built by hand in chapter 5, "Attention, one
    step at a time".

    Args:
        query: ``(..., T_q, d_k)``.
        key: ``(..., T_k, d_k)``.
        mask: broadcast to ``(..., T_q, T_k)``; boolean, True where a query may look, or numbers
            that are added to the scores. A query with every key masked gets a row of NaN.

    Returns:
        ``(..., T_q, T_k)``; every other row sums to 1.
    """
    query = query / math.sqrt(query.shape[-1])  # cheaper than dividing the T_q * T_k scores
    scores = query @ key.transpose(-2, -1)  # (..., T_q, T_k)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)  # e to the minus infinity is 0
    elif mask is not None:  # may be skipped: numbers instead of True and False
        scores = scores + mask
    return scores.softmax(dim=-1)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Return the weighted mean of the values for each query, ``(..., T_q, d_v)``.

    This is the definition. torch's function of the same name gives the same numbers (but for a
    query with every key masked) without ever holding all the weights;
    :class:`MultiHeadAttention` uses it.
    """
    return F.dropout(attention_weights(query, key, mask), dropout) @ value


def causal_mask(
    n_query: int, n_key: int | None = None, device: torch.device | None = None
) -> Tensor:
    """Return a boolean mask ``(n_query, n_key)`` that is True where a query may look.

    Query ``i`` may look at keys up to its own position: whoever sees the next token need not learn
    to predict it. ``causal_mask(3)`` is [[1, 0, 0], [1, 1, 0], [1, 1, 1]]. With more keys than
    queries, ``n_key``, the queries are the last ones of the sequence, as in generation with a
    cache.

    Built by hand in chapter 5, "Masks: who may look at whom".
    """
    n_key = n_key or n_query
    position = torch.arange(n_key, device=device)
    return position <= position[n_key - n_query :, None]  # keys in columns, queries in rows


def restrict(mask: Tensor | None, allowed: Tensor) -> Tensor:
    """Return ``mask`` with the pairs where ``allowed`` is False masked too.

    Like the mask of :func:`attention_weights`, it is boolean or holds numbers to add to the scores.
    """
    if mask is None:
        return allowed
    return mask & allowed if mask.dtype == torch.bool else mask.masked_fill(~allowed, -math.inf)


class MultiHeadAttention(nn.Module):
    """Several attentions side by side: self-attention, causal or not, and cross-attention.

    Every token makes a query (what it is looking for), a key (what it can be found by) and a value
    (what it passes on). Each head does so with vectors of its own, because a token may look for
    several things at once: its subject, the word before it, the bracket that is still open.

    Built by hand in chapter 5, "Several heads".

    Args:
        n_embd: channels ``C`` in and out; a multiple of ``n_head``.
        n_head: number of heads ``H`` of queries; each has ``d_k = n_embd / n_head`` channels.
        n_kv_head: number of heads of keys and values, ``n_head`` by default. With fewer, each
            serves a group of neighbouring query heads (grouped-query attention, Ainslie et al.,
            2023; with one, multi-query attention, Shazeer, 2019).
        causal: let a query look at its own position and earlier ones only.
        bias: give the four projections a bias.
        dropout: probability of dropping an attention weight while training.
        qk_norm: normalise every query and key; see :func:`course_utils.variants.qk_norms`.

    Set the attribute ``fused`` to False to compute the definition step by step instead of calling
    torch's fused kernel, which is slower for short sequences in bfloat16 on a CPU.

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
        n_kv_head = n_head if n_kv_head is None else n_kv_head  # GPT-2: as many as for queries
        inputs.check_heads(n_embd, n_head, n_kv_head)
        self.n_embd, self.d_k, self.group = n_embd, n_embd // n_head, n_head // n_kv_head
        self.causal, self.dropout, self.fused = causal, dropout, True
        self.query_norm, self.key_norm = variants.qk_norms(self.d_k, qk_norm)  # may be skipped
        self.query = nn.Linear(n_embd, n_embd, bias=bias)
        self.key = nn.Linear(n_embd, n_kv_head * self.d_k, bias=bias)
        self.value = nn.Linear(n_embd, n_kv_head * self.d_k, bias=bias)
        self.proj = nn.Linear(n_embd, n_embd, bias=bias)

    def split_heads(self, x: Tensor) -> Tensor:
        """``(B, T, H * d_k)`` -> ``(B, H, T, d_k)``: each head gets its own slice of channels."""
        return x.unflatten(-1, (-1, self.d_k)).transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return ``(B, T_q, C)``.

        Args:
            x: ``(B, T_q, C)``, where the queries come from.
            memory: ``(B, T_k, C)``, where keys and values come from. In a :class:`GPT` it is ``x``
                itself, which is the default; in cross-attention, the output of an encoder.
            mask: broadcast to ``(B, H, T_q, T_k)``; boolean, True where a query may look (for
                padding, ``(B, 1, 1, T_k)``), or numbers that are added to the scores.
            rotary: cosines and sines that turn queries and keys, from
                :func:`~course_utils.positions.rotary_table`.
            cache: the tokens read before ``x``; those of ``x`` are added to it.

        Raises:
            ValueError: another width than ``n_embd``, or a memory with ``rotary`` or ``cache``.
        """
        inputs.check_sources(x, memory, self.n_embd, rotary, cache)
        memory = x if memory is None else memory
        q = self.split_heads(self.query(x))  # (B, H, T_q, d_k)
        k = self.split_heads(self.key(memory))  # (B, H_kv, T_k, d_k)
        v = self.split_heads(self.value(memory))  # (B, H_kv, T_k, d_k)
        q, k = self.query_norm(q), self.key_norm(k)  # may be skipped: the same without qk_norm
        if rotary is not None:  # may be skipped: Llama
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:  # may be skipped: generation, faster
            k, v = cache.append(k, v)  # (B, H_kv, T_k, d_k), now of all tokens

        out = self.attend(q, k, v, mask)  # (B, H, T_q, d_k)
        return self.proj(out.transpose(1, 2).flatten(2))  # (B, T_q, C): heads side by side again

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Let each query take from the values it may see: ``(B, H, T_q, d_k)``, as ``q``."""
        if self.fused:  # may be skipped (read on below): the same numbers, faster
            return self.attend_fused(q, k, v, mask)
        if self.causal:  # no token may look ahead
            mask = restrict(mask, causal_mask(q.shape[2], k.shape[2], q.device))
        if self.group > 1:  # may be skipped: a copy of each key head for its group of query heads
            k, v = (t.repeat_interleave(self.group, dim=1) for t in (k, v))
        dropout = self.dropout if self.training else 0.0
        return scaled_dot_product_attention(q, k, v, mask, dropout)

    def attend_fused(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Do the same with torch's kernel, which is fastest where it makes the causal mask."""
        T_q, T_k, dropout = q.shape[2], k.shape[2], self.dropout if self.training else 0.0
        causal = self.causal and T_q > 1  # a single query is the last token: it may see everything
        kernel_masks = bool(causal and mask is None and T_q == T_k)
        if causal and not kernel_masks:
            mask = restrict(mask, causal_mask(T_q, T_k, q.device))
        return F.scaled_dot_product_attention(
            q, k, v, mask, dropout, kernel_masks, enable_gqa=self.group > 1
        )


# --- the config, and the other parts of a block --------------------------------------------------


@dataclass(frozen=True)
class GPTConfig:
    """Everything that decides the shape of a :class:`GPT`.

    Explained in chapter 8, "Hyperparameters". The first eight are all that a GPT-2 needs; the
    small one is ``GPTConfig(50257, 1024, n_layer=12, n_head=12, n_embd=768, tied=True)``.

    Args:
        vocab_size: number of different tokens ``V``.
        block_size: longest sequence that the model can read, in tokens.
        n_layer: number of blocks.
        n_head: attention heads in each block; divides ``n_embd``.
        n_embd: channels ``C``, the width of the residual stream.
        dropout: probability of dropping a channel, or an attention weight, while training.
        bias: give the linear layers and the layer norms a bias.
        tied: use the token embedding as the output matrix too, as GPT-2 does.
        n_kv_head: heads of keys and values, ``n_head`` by default; divides it.
        n_hidden: width inside the MLP; by default about ``4 * n_embd``, see :class:`MLP`.
        positions: "learned" (GPT-2), "sinusoidal", "rotary" (Llama), "alibi" or "none".
        norm: "layer" (GPT-2) or "rms" (Llama).
        norm_first: norm before each part of a block (GPT-2, Llama) or after it.
        mlp: "gelu_tanh" (GPT-2), "gelu", "relu2" or "swiglu" (Llama).
        qk_norm: normalise queries and keys before their dot product.
        norm_eps: added under the root in the norms of the residual stream.
        rope_base: the base of the rotary frequencies.
        rope_scaling: how rotary positions are stretched to longer texts, as in the ``config.json``
            of Llama 3.1; see :func:`~course_utils.positions.check_rope_scaling`.

    Raises:
        ValueError: a value is of the wrong kind or out of range, or two do not fit together.
    """

    vocab_size: int
    block_size: int = 64
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.0
    bias: bool = True
    tied: bool = False
    # What other designs choose differently.
    n_kv_head: int | None = None
    n_hidden: int | None = None
    positions: str = "learned"
    norm: str = "layer"
    norm_first: bool = True
    mlp: str = "gelu_tanh"
    qk_norm: bool = False
    norm_eps: float = 1e-5
    rope_base: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        inputs.check_fields(self, variants.CHOICES, may_be_zero=("dropout", "norm_eps"))
        variants.check_config(self)


def make_norm(config: GPTConfig) -> nn.Module:
    """Return the norm that ``config`` asks for, ``(..., C)`` -> ``(..., C)``.

    Both bring the channels of each position to one size, so that a layer meets inputs of the same
    size whatever the layers before it did, and then scale each channel by a learned number; layer
    norm first subtracts the mean of the channels, and may add a learned bias. Built by hand in
    chapter 6, "Step 4: the first norm", and chapter 9, "RMSNorm by hand". Sources: Ba et al., 2016,
    "Layer normalization"; Zhang and Sennrich, 2019, "Root mean square layer normalization".
    """
    if config.norm == "rms":  # may be skipped: Llama
        return nn.RMSNorm(config.n_embd, config.norm_eps)
    return nn.LayerNorm(config.n_embd, config.norm_eps, bias=config.bias)


class MLP(nn.Module):
    """The feed-forward network of a block, which works on each position by itself.

    Attention carries information from token to token; the MLP computes with what arrived. It
    widens the channels, applies a nonlinearity (without one, the two matrices would be worth one),
    and narrows them again. Built by hand in chapter 6, "Step 9: the MLP", and for "swiglu" in
    chapter 9, "SwiGLU by hand".

    Args:
        n_embd: channels ``C`` in and out.
        n_hidden: channels in between. By default four times ``n_embd``; for "swiglu", which has
            three matrices, two thirds of that, so that the number of parameters is about the same.
        bias: give the layers a bias.
        kind: "gelu_tanh" (GPT-2) or one of :data:`course_utils.variants.ACTIVATIONS`.

    Raises:
        ValueError: ``kind`` is none of these.
    """

    def __init__(
        self,
        n_embd: int,
        n_hidden: int | None = None,
        *,
        bias: bool = True,
        kind: str = "gelu_tanh",
    ):
        super().__init__()
        inputs.check_kind("mlp", kind, variants.MLPS)
        self.n_embd, self.kind = n_embd, kind
        if n_hidden is None:
            n_hidden = 8 * n_embd // 3 if kind == "swiglu" else 4 * n_embd
        # SwiGLU multiplies two projections of the input: the two halves of one wider matrix.
        self.fc = nn.Linear(n_embd, 2 * n_hidden if kind == "swiglu" else n_hidden, bias=bias)
        self.proj = nn.Linear(n_hidden, n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` -> ``(..., C)``."""
        inputs.check_width(x, self.n_embd)
        hidden = self.fc(x)  # (..., n_hidden)
        if self.kind == "gelu_tanh":
            hidden = F.gelu(hidden, approximate="tanh")
        else:  # may be skipped: other activations
            hidden = variants.ACTIVATIONS[self.kind](hidden)
        return self.proj(hidden)  # (..., C)


class Block(nn.Module):
    """A decoder block: attention between the positions, then an MLP at each, both added to x.

    Because they are added (a residual connection, He et al., 2016), and because each norm stands
    before its part and not on the sum, there is a path from the loss down to every block on which
    no other block shrinks the gradient.

    Built by hand in chapter 8, "The model".
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = c = config
        self.norm1 = make_norm(c)
        self.attention = MultiHeadAttention(
            c.n_embd,
            c.n_head,
            n_kv_head=c.n_kv_head,
            causal=True,
            bias=c.bias,
            dropout=c.dropout,
            qk_norm=c.qk_norm,
        )
        self.norm2 = make_norm(c)
        self.mlp = MLP(c.n_embd, c.n_hidden, bias=c.bias, kind=c.mlp)
        self.dropout = nn.Dropout(c.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """``(B, T, C)`` -> ``(B, T, C)``; the rest is for :class:`MultiHeadAttention`."""
        if not self.config.norm_first:  # may be skipped: the first transformer
            return variants.post_norm(self, x, mask, rotary, cache)
        attended = self.attention(self.norm1(x), mask=mask, rotary=rotary, cache=cache)
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.norm2(x)))


# --- the model -----------------------------------------------------------------------------------


class GPT(nn.Module):
    """A decoder-only transformer that predicts the next token at every position.

    Built by hand in chapter 8, "The model"; chapter 6, "One prompt, step by step", follows one
    text through GPT-2. It writes by asking itself again and again::

        for _ in range(n_new):  # ids is (B, T), the tokens so far
            logits, _ = model(ids[:, -model.config.block_size :])  # (B, T, V)
            p = (logits[:, -1] / temperature).softmax(-1)  # (B, V), for the token that comes next
            ids = torch.cat([ids, torch.multinomial(p, 1)], dim=1)  # (B, T + 1)

    :func:`course_utils.sampling.generate` draws so too, with a cache and more ways to choose.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = c = config
        self.token_embedding = nn.Embedding(c.vocab_size, c.n_embd)
        if c.positions == "learned":
            self.position_embedding = nn.Embedding(c.block_size, c.n_embd)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        # Training lets the stream grow from block to block; the head is to read it at one size.
        # (With norms after the parts, the last block ends with one already.)
        self.norm = make_norm(c) if c.norm_first else nn.Identity()
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        if c.tied:
            self.lm_head.weight = self.token_embedding.weight
        self._init_weights()

    def _init_weights(self) -> None:
        """Draw the weights so that each layer's output starts with about the size of its input.

        A sum of ``n`` terms grows like √n, so a matrix with ``n`` inputs is drawn from N(0, 1/n).
        What a block adds to the residual stream comes out of its two ``proj`` layers; there are
        ``2 * n_layer`` of them, so they start smaller by √(2 n_layer), and the stream starts with
        about the same size in every block, however deep the model is. The head starts near zero:
        the first guess is uniform. A tied embedding is the head as well, so it starts near zero
        too. (GPT-2 draws every matrix with 0.02, and the two ``proj`` smaller by the same factor.)
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "embedding" in name:  # tied, it is the head as well
                nn.init.normal_(parameter, std=0.02 if self.config.tied else 1.0)
            elif name == "lm_head.weight":
                nn.init.normal_(parameter, std=0.02)
            elif parameter.dim() == 2:
                scale = math.sqrt(2 * self.config.n_layer) if "proj" in name else 1.0
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5 / scale)

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        *,
        cache: list[KVCache] | None = None,
        n_pad: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits of the next token at every position, and the loss.

        Args:
            ids: ``(B, T)``, token ids, ``T`` at most ``block_size``.
            targets: ``(B, T)``, the id that follows each position; -100 leaves a position out.
                With all of them left out, the loss is NaN: there is nothing to average.
            cache: from :meth:`new_cache`; ``ids`` are then the tokens after those it holds.
            n_pad: ``(B,)``, how many columns at the left of each row are only padding, the cached
                columns counted; what the model returns there means nothing.

        Returns:
            logits ``(B, T, V)``, and the mean cross-entropy in nats per token (a scalar), or None
            without targets.

        Raises:
            ValueError: too many positions, an id outside the vocabulary, or a tensor of another
                kind, shape or device.
        """
        if targets is not None:
            inputs.check_targets(targets, ids, self.config.vocab_size, self.lm_head.weight.device)
        logits = self.lm_head(self.hidden_states(ids, cache=cache, n_pad=n_pad))  # (B, T, V)
        if targets is None:
            return logits, None
        exact = logits.to(
            torch.promote_types(logits.dtype, torch.float32)
        )  # too coarse in bfloat16
        return logits, F.cross_entropy(exact.flatten(0, 1), targets.flatten().long())

    def hidden_states(
        self, ids: Tensor, *, cache: list[KVCache] | None = None, n_pad: Tensor | None = None
    ) -> Tensor:
        """Return what the head reads, ``(B, T, C)``; the arguments are those of :meth:`forward`."""
        c, n_past = self.config, cache[0].length if cache else 0
        inputs.check_batch(ids, cache, c, self.lm_head.weight.device)
        mask, rotary = None, None  # the blocks mask what lies ahead by themselves
        positions = torch.arange(ids.shape[1], device=ids.device)  # (T,)
        if cache or n_pad is not None:  # may be skipped: generation
            positions, mask = token_positions(ids, n_past, n_pad)

        x = self.token_embedding(ids)  # (B, T, C)
        if c.positions == "learned":
            x = x + self.position_embedding(positions)  # (B, T, C) + (T, C)
        else:  # may be skipped: four other ways to tell the model where a token stands
            x, mask, rotary = variants.add_positions(c, x, positions, mask, n_past)

        x = self.dropout(x)
        caches: Sequence[KVCache | None] = cache or [None] * c.n_layer  # may be skipped: None
        for block, block_cache in zip(self.blocks, caches, strict=True):
            x = block(x, mask, rotary, block_cache)  # (B, T, C)
        return self.norm(x)

    def new_cache(self) -> list[KVCache]:
        """Return an empty cache: one :class:`KVCache` for each block.

        The first call reads the prompt, and each later one only the token that is new. (In eval
        mode, under ``torch.no_grad()``: the cache is written in place.)::

            cache = model.new_cache()
            logits, _ = model(prompt, cache=cache)  # (B, T, V)
            new = logits[:, -1:].argmax(-1)  # (B, 1)
            logits, _ = model(new, cache=cache)  # (B, 1, V)
        """
        return [KVCache() for _ in self.blocks]

    def use_fused_attention(self, fused: bool) -> None:
        """Choose between torch's fused attention kernel and the definition, step by step."""
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                module.fused = fused

    def num_parameters(self) -> int:
        """Return the number of parameters; a tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def parameters_by_part(self) -> dict[str, int]:
        """Return the number of parameters of each part; the values sum to all of them."""
        inside = ("token_embedding", "position_embedding", "attention", "mlp", "norm", "lm_head")
        called = ("token embedding", "position embedding", "attention", "feed-forward", "norms")
        words = dict(zip(inside, (*called, "head"), strict=True))
        counts = dict.fromkeys(words.values(), 0)
        for name, parameter in self.named_parameters():
            part = next(part for word, part in words.items() if word in name)
            counts[part] += parameter.numel()
        return counts


@contextmanager
def eval_mode(model: GPT) -> Iterator[None]:
    """Put ``model`` in eval mode; on exit, put each module back into the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
