"""A GPT: token and position embeddings, a stack of blocks, a final norm and a head.

The whole model reads from top to bottom; its parts live in :mod:`course_utils.layers`.
Source: Radford et al., 2019, "Language models are unsupervised multitask learners" (GPT-2).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.layers import Block, MultiHeadAttention


@dataclass(frozen=True)
class GPTConfig:
    """Everything that decides the shape of a :class:`GPT`.

    Args:
        vocab_size: number of different tokens ``V``.
        block_size: longest sequence that the model can read, in tokens.
        n_layer: number of blocks.
        n_head: attention heads in each block; divides ``n_embd``.
        n_embd: channels ``C``, the width of the residual stream.
        dropout: probability of dropping a channel while training.
        bias: give the linear layers and the norms a bias.
        tied: use the token embedding as the output matrix too, as GPT-2 does.
        gelu: form of the GELU as torch names it, "tanh" (GPT-2's) or "none" (exact).

    Raises:
        ValueError: a size is not positive, ``n_head`` does not divide ``n_embd``, ``dropout`` is
            not a probability below 1, or ``gelu`` is unknown.
    """

    vocab_size: int
    block_size: int = 64
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.0
    bias: bool = True
    tied: bool = False
    gelu: str = "tanh"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}.")
        if self.gelu not in ("tanh", "none"):
            raise ValueError(f"gelu={self.gelu!r} is not 'tanh' or 'none'.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1.")


class GPT(nn.Module):
    """A decoder-only transformer that predicts the next token at every position."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(
                config.n_embd,
                config.n_head,
                bias=config.bias,
                dropout=config.dropout,
                gelu=config.gelu,
            )
            for _ in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tied:
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

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the logits of the next token at every position, and the loss.

        Args:
            ids: ``(B, T)``, token ids, ``T`` at most ``block_size``.
            targets: ``(B, T)``, the id that follows each position; -100 leaves a position out.

        Returns:
            logits ``(B, T, V)``, and the mean cross-entropy in nats a token (a scalar), or None
            without targets.

        Raises:
            ValueError: too many positions, an id outside the vocabulary, or not two dimensions.
        """
        self._check(ids)
        positions = torch.arange(ids.shape[1], device=ids.device)  # (T,)
        x = self.token_embedding(ids) + self.position_embedding(positions)  # (B, T, C)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)  # (B, T, C)
        logits = self.head(self.norm(x))  # (B, T, V)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def _check(self, ids: Tensor) -> None:
        V, block_size = self.config.vocab_size, self.config.block_size
        if ids.dim() != 2:
            raise ValueError(
                f"ids has shape {tuple(ids.shape)}; expected (batch, time). "
                "For one sequence, write ids[None]."
            )
        if not 1 <= ids.shape[1] <= block_size:
            raise ValueError(
                f"ids has {ids.shape[1]} positions; the model reads 1 to block_size={block_size}. "
                "Cut the sequence: ids[:, -block_size:]."
            )
        # On a GPU this look at the values would wait for every step before; the CPU has them.
        if ids.device.type == "cpu" and (ids.min() < 0 or ids.max() >= V):
            raise ValueError(
                f"ids range from {ids.min()} to {ids.max()}; the vocabulary has {V} tokens, "
                f"0 to {V - 1}. Was the text encoded by another tokenizer?"
            )

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
            "position embedding": [self.position_embedding],
            "attention": [block.attention for block in self.blocks],
            "feed-forward": [block.mlp for block in self.blocks],
            "norms": [m for m in self.modules() if isinstance(m, nn.LayerNorm)],
        }
        counts = {
            part: sum(p.numel() for module in modules for p in module.parameters())
            for part, modules in parts.items()
        }
        return counts | {"head": self.num_parameters() - sum(counts.values())}
