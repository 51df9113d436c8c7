"""A GPT: token and position embeddings, a stack of blocks, a final norm and a head.

The whole model reads from top to bottom; its parts live in :mod:`course_utils.layers`,
:mod:`course_utils.attention` and :mod:`course_utils.positions`. One config
covers GPT-2 (its defaults, with a tied head) and modern decoders such as Llama.
Sources: Radford et al., 2019, "Language models are unsupervised multitask learners" (GPT-2);
Touvron et al., 2023, "LLaMA: Open and efficient foundation language models".
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.attention import KVCache, MultiHeadAttention, check_heads
from course_utils.layers import MLP, MLPS, NORMS, Linear, make_norm
from course_utils.positions import alibi_bias, check_rope_scaling, rotary_table, sinusoidal

#: How a :class:`GPT` can be told the order of its tokens.
POSITIONS = ("learned", "sinusoidal", "rotary", "alibi", "none")


@dataclass(frozen=True)
class GPTConfig:
    """Everything that decides the shape of a :class:`GPT`.

    Args:
        vocab_size: number of different tokens ``V``.
        block_size: longest sequence that the model can read, in tokens.
        n_layer: number of blocks.
        n_head: attention heads in each block; divides ``n_embd``.
        n_embd: channels ``C``, the width of the residual stream.
        n_kv_head: heads of keys and values, ``n_head`` by default; divides it.
        n_hidden: width inside the MLP; by default about ``4 * n_embd``, see
            :class:`~course_utils.layers.MLP`.
        dropout: probability of dropping a channel while training.
        bias: give the linear layers and the layer norms a bias.
        tied: use the token embedding as the output matrix too, as GPT-2 does.
        positions: "learned" (GPT-2), "sinusoidal", "rotary" (Llama), "alibi" or "none".
        norm: "layer" (GPT-2) or "rms" (Llama).
        norm_first: norm before each part of a block (GPT-2, Llama) or after it.
        mlp: "gelu_tanh" (GPT-2), "gelu", "relu2" or "swiglu" (Llama).
        qk_norm: normalise queries and keys before their dot product.
        norm_eps: added to the variance under the root in the norms of the residual stream.
        rope_base: the base of the rotary frequencies.
        rope_scaling: how rotary positions are stretched to longer texts, as in the ``config.json``
            of Llama 3.1; see :func:`~course_utils.positions.check_rope_scaling`.

    Raises:
        ValueError: a size is not a whole number above 0, heads do not divide, ``dropout`` is not a
            probability below 1, or a kind is unknown.
    """

    vocab_size: int
    block_size: int = 64
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    n_kv_head: int | None = None
    n_hidden: int | None = None
    dropout: float = 0.0
    bias: bool = True
    tied: bool = False
    positions: str = "learned"
    norm: str = "layer"
    norm_first: bool = True
    mlp: str = "gelu_tanh"
    qk_norm: bool = False
    norm_eps: float = 1e-5
    rope_base: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            self._check_number(name, Integral, 1)
        for name in ("n_kv_head", "n_hidden"):
            if getattr(self, name) is not None:
                self._check_number(name, Integral, 1)
        for name in ("dropout", "norm_eps", "rope_base"):
            self._check_number(name, Real, 0)
        for name in ("bias", "tied", "norm_first", "qk_norm"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name}={value!r} must be True or False.")
        check_heads(self.n_embd, self.n_head, self.n_kv_head or self.n_head)
        if self.dropout >= 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1.")
        kinds = {"positions": POSITIONS, "norm": NORMS, "mlp": MLPS}
        for name, known in kinds.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}.")
        width = {"rotary": self.n_embd // self.n_head, "sinusoidal": self.n_embd}
        if width.get(self.positions, 0) % 2:
            raise ValueError(
                f"{self.positions} positions need an even number of channels, not "
                f"{width[self.positions]} (n_embd={self.n_embd}, n_head={self.n_head})."
            )
        if self.rope_scaling is not None:
            if self.positions != "rotary":
                raise ValueError(f"rope_scaling is for rotary positions, not {self.positions!r}.")
            check_rope_scaling(self.rope_scaling, self.n_embd // self.n_head)

    def _check_number(self, name: str, kind: type, least: int) -> None:
        """Make the field a plain ``int`` or ``float``, or raise ValueError."""
        value = getattr(self, name)
        word = "whole number" if kind is Integral else "number"
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(f"{name}={value!r} must be a {word}.")
        if not least <= value < math.inf:
            raise ValueError(f"{name}={value} must be at least {least}.")
        object.__setattr__(self, name, int(value) if kind is Integral else float(value))


class Block(nn.Module):
    """A decoder block: attention between the positions, then an MLP at each, both added to x.

    With ``norm_first``, each part is x + f(norm(x)), as in GPT-2 and most that followed; without,
    norm(x + f(x)), as in the first transformer. Xiong et al., 2020, "On layer normalization in the
    transformer architecture", compare the two.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        c = config
        self.norm_first = c.norm_first
        self.norm1 = make_norm(c.norm, c.n_embd, bias=c.bias, eps=c.norm_eps)
        self.attention = MultiHeadAttention(
            c.n_embd,
            c.n_head,
            n_kv_head=c.n_kv_head,
            causal=True,
            bias=c.bias,
            dropout=c.dropout,
            qk_norm=c.qk_norm,
        )
        self.norm2 = make_norm(c.norm, c.n_embd, bias=c.bias, eps=c.norm_eps)
        self.mlp = MLP(c.n_embd, c.n_hidden, bias=c.bias, kind=c.mlp)
        self.dropout = nn.Dropout(c.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        rotary: tuple[Tensor, Tensor] | None = None,
        bias: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """``(B, T, C)`` -> ``(B, T, C)``; the other arguments go to the attention."""
        options = {"mask": mask, "rotary": rotary, "bias": bias, "cache": cache}
        if self.norm_first:
            x = x + self.dropout(self.attention(self.norm1(x), **options))
            return x + self.dropout(self.mlp(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.attention(x, **options)))
        return self.norm2(x + self.dropout(self.mlp(x)))


class GPT(nn.Module):
    """A decoder-only transformer that predicts the next token at every position."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = c = config
        self.token_embedding = nn.Embedding(c.vocab_size, c.n_embd)
        if c.positions == "learned":
            self.position_embedding = nn.Embedding(c.block_size, c.n_embd)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        # A post-norm block ends with a norm of its own.
        norm = make_norm(c.norm, c.n_embd, bias=c.bias, eps=c.norm_eps)
        self.norm = norm if c.norm_first else nn.Identity()
        self.head = Linear(c.n_embd, c.vocab_size, bias=False)
        if c.tied:
            self.head.weight = self.token_embedding.weight
        self._initialise()

    def _initialise(self) -> None:
        """Draw the weights so that every layer's output starts with about the size of its input.

        A sum of ``n`` terms grows by √n, so a matrix with ``n`` inputs is drawn from N(0, 1/n).
        What a block adds to the residual stream comes out of its two ``proj`` layers; there are
        ``2 * n_layer`` of them, so they start smaller by √(2 n_layer), and the stream keeps its
        size however deep the model is. The head starts near zero: the first guess is uniform.
        """
        embedding = 0.02 if self.config.tied else 1.0  # tied, it is the head as well
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "embedding" in name:
                nn.init.normal_(parameter, std=embedding)
            elif name == "head.weight":
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
                If all are left out, the loss is NaN: the mean of nothing.
            cache: from :meth:`new_cache`; ``ids`` are then the tokens after those it holds.
            n_pad: ``(B,)``, how many columns at the left of each row are only padding, the cached
                columns counted; what the model returns there means nothing.

        Returns:
            logits ``(B, T, V)``, and the mean cross-entropy in nats a token (a scalar), or None
            without targets.

        Raises:
            ValueError: too many positions, an id outside the vocabulary, or a tensor of another
                kind, shape or device.
        """
        if targets is not None:
            check_token_tensor("ids", ids, self.token_embedding.weight.device)
            self._check_targets(targets, ids)
        logits = self.head(self.features(ids, cache=cache, n_pad=n_pad))  # (B, T, V)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(
            logits.flatten(0, 1).to(at_least_float32(logits)), targets.flatten().long()
        )

    def features(
        self,
        ids: Tensor,
        *,
        cache: list[KVCache] | None = None,
        n_pad: Tensor | None = None,
    ) -> Tensor:
        """Return what the head reads, ``(B, T, C)``; the arguments are those of the model."""
        c, n_past = self.config, cache[0].length if cache else 0
        self._check(ids, n_past, n_pad)
        T, T_k = ids.shape[1], n_past + ids.shape[1]
        columns = torch.arange(T_k, device=ids.device)  # (T_k,)
        positions, mask = columns[n_past:], None  # (T,)
        if n_pad is not None:
            real = columns >= n_pad[:, None]  # (B, T_k)
            # A padding query may look at anything: it must look somewhere, and nobody reads it.
            mask = (real[:, None] | ~real[:, n_past:, None])[:, None]  # (B, 1, T, T_k)
            positions = (positions - n_pad[:, None]).clamp(min=0)  # (B, T)
        x = self.token_embedding(ids)  # (B, T, C)
        rotary = bias = None
        if c.positions == "learned":
            x = x + self.position_embedding(positions)
        elif c.positions == "sinusoidal":
            x = x + sinusoidal(positions.to(at_least_float32(x)), c.n_embd).to(x.dtype)
        elif c.positions == "rotary":
            # one dimension more, for the heads: (T, d_k) or (B, 1, T, d_k)
            by_row = positions if n_pad is None else positions[:, None]
            by_row = by_row.to(at_least_float32(x))
            rotary = rotary_table(by_row, c.n_embd // c.n_head, c.rope_base, c.rope_scaling)
        elif c.positions == "alibi":
            bias = alibi_bias(c.n_head, T, T_k, ids.device, at_least_float32(x)).to(x.dtype)
        x = self.dropout(x)
        for block, kept in zip(self.blocks, cache or [None] * c.n_layer, strict=True):
            x = block(x, mask, rotary=rotary, bias=bias, cache=kept)  # (B, T, C)
        return self.norm(x)

    def new_cache(self) -> list[KVCache]:
        """Return an empty cache for :meth:`forward`: one :class:`KVCache` for each block."""
        return [KVCache() for _ in self.blocks]

    def _check(self, ids: Tensor, n_past: int, n_pad: Tensor | None) -> None:
        block_size = self.config.block_size
        check_token_tensor("ids", ids, self.token_embedding.weight.device)
        if ids.dim() != 2:
            raise ValueError(
                f"ids has shape {tuple(ids.shape)}; expected (batch, time). "
                "For one sequence, write ids[None]."
            )
        if not 1 <= ids.shape[1] <= block_size - n_past:
            cached = f" after {n_past} in the cache" if n_past else ""
            advice = "Cut the sequence: ids[:, -block_size:]."
            if n_past:
                advice = "Begin with a new cache, and give it the last tokens only."
            elif ids.shape[1] == 0:
                advice = "Give it at least one token, such as a line end."
            raise ValueError(
                f"ids has {ids.shape[1]} positions{cached}; the model reads 1 to "
                f"block_size={block_size}. {advice}"
            )
        if n_pad is not None:
            check_token_tensor("n_pad", n_pad, ids.device)
            if n_pad.shape != ids.shape[:1]:
                raise ValueError(
                    f"n_pad has shape {tuple(n_pad.shape)}; expected one number for each row of "
                    f"ids: ({ids.shape[0]},)."
                )
        if _values_are_at_hand(ids):
            check_ids(ids, self.config.vocab_size)

    def _check_targets(self, targets: Tensor, ids: Tensor) -> None:
        check_token_tensor("targets", targets, ids.device)
        if targets.shape != ids.shape:
            raise ValueError(
                f"targets has shape {tuple(targets.shape)} and ids {tuple(ids.shape)}; expected "
                "the same: for each position the id that follows, -100 where there is none."
            )
        if _values_are_at_hand(targets):
            check_ids(targets[targets != -100], self.config.vocab_size, "targets")

    def use_fused_attention(self, fused: bool) -> None:
        """Choose between torch's fused attention kernel and the definition, step by step."""
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                module.fused = fused

    def num_parameters(self) -> int:
        """Return the number of trainable numbers; a tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def parameters_by_part(self) -> dict[str, int]:
        """Return the number of parameters of each part; the values sum to all of them."""
        parts = {
            "token embedding": [self.token_embedding],
            "position embedding": [getattr(self, "position_embedding", nn.Identity())],
            "attention": [block.attention for block in self.blocks],
            "feed-forward": [block.mlp for block in self.blocks],
            "norms": [self.norm, *(n for block in self.blocks for n in (block.norm1, block.norm2))],
        }
        counts = {
            part: sum(p.numel() for module in modules for p in module.parameters())
            for part, modules in parts.items()
        }
        return counts | {"head": self.num_parameters() - sum(counts.values())}


def check_ids(ids: Tensor, vocab_size: int, name: str = "ids") -> None:
    """Raise ValueError unless all of ``ids`` are from 0 to ``vocab_size - 1``."""
    if ids.numel() and (ids.min() < 0 or ids.max() >= vocab_size):
        raise ValueError(
            f"{name} range from {ids.min()} to {ids.max()}; the vocabulary has {vocab_size} "
            f"tokens, 0 to {vocab_size - 1}. Was the text encoded by another tokenizer?"
        )


def check_token_tensor(name: str, ids: Tensor, device: torch.device) -> None:
    """Raise ValueError unless ``ids`` is a tensor of whole numbers on ``device``."""
    if not isinstance(ids, Tensor):
        raise ValueError(
            f"{name} is a {type(ids).__name__}; expected a tensor of whole numbers. "
            f"Write torch.tensor({name})."
        )
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"{name} holds {ids.dtype}; expected whole numbers, torch.int64. "
            f"If they are token ids, write {name}.long()."
        )
    if ids.device != device:
        raise ValueError(
            f"{name} is on {ids.device}, the model on {device}. Write {name}.to({str(device)!r})."
        )


def _values_are_at_hand(ids: Tensor) -> bool:
    """Say whether looking at the values is free.

    On a GPU the look would wait for every step before, and while torch compiles or exports the
    model there are no values yet.
    """
    return ids.device.type == "cpu" and not torch.compiler.is_compiling()


def at_least_float32(x: Tensor) -> torch.dtype:
    """Return the number format for sums over many numbers: that of ``x``, or float32 if finer."""
    return torch.promote_types(x.dtype, torch.float32)


@contextmanager
def eval_mode(model: GPT) -> Iterator[None]:
    """Put ``model`` in eval mode, and each of its modules back into the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
