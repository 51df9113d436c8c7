"""The parts of a transformer around attention: softmax, loss, norms, activations, MLP.

The functions are the definitions, to read and to teach from. Where torch has the same function
faster, the modules call that; tests hold the two against each other.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Feed-forward networks that :class:`MLP` knows.
MLPS = ("gelu_tanh", "gelu", "relu2", "swiglu")
#: Norms that :func:`make_norm` knows.
NORMS = ("layer", "rms")


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Return eˣ divided by its sum along ``dim``: positive numbers that sum to 1.

    The largest entry is taken off first. That changes nothing in the result, and without it
    e⁸⁹ is already more than float32 can hold.
    """
    weights = (x - x.amax(dim, keepdim=True)).exp()
    return weights / weights.sum(dim, keepdim=True)


def cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """Return the mean of -log softmax(logits)[target], in nats a token: a scalar.

    Args:
        logits: ``(..., V)``.
        targets: ``(...)``, whole numbers from 0 to V - 1; ``ignore_index`` leaves a place out.

    Raises:
        ValueError: the shapes do not fit together, or a target is not a token.

    With no place left, the mean is of nothing: NaN, as in torch.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} do not fit: "
            "targets must have the shape of logits without its last dimension, V."
        )
    keep = targets != ignore_index
    logits, targets = logits[keep], targets[keep]  # (N, V), (N,)
    V = logits.shape[-1]
    if targets.numel() and not 0 <= targets.min() <= targets.max() < V:
        raise ValueError(
            f"targets range from {targets.min()} to {targets.max()}; logits of {V} tokens allow "
            f"0 to {V - 1}. Do targets and logits come from the same vocabulary?"
        )
    # log of the sum of exponentials, with the largest taken off as in softmax
    largest = logits.amax(-1, keepdim=True)
    log_total = (logits - largest).exp().sum(-1).log() + largest.squeeze(-1)  # (N,)
    chosen = logits.gather(-1, targets[:, None]).squeeze(-1)  # (N,)
    return (log_total - chosen).mean()


def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Give the channels of each position mean 0 and variance 1, then scale and shift them.

    The variance is that of the population (divided by C, not C - 1), and ``eps`` stands under the
    root. ``x`` is ``(..., C)``, ``weight`` and ``bias`` are ``(C,)``.

    Source: Ba et al., 2016, "Layer normalization".
    """
    centred = x - x.mean(-1, keepdim=True)
    x = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Give the channels of each position a mean square of 1, then scale them. ``x``: ``(..., C)``.

    Source: Zhang and Sennrich, 2019, "Root mean square layer normalization".
    """
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x if weight is None else x * weight


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Return x times the probability that a standard normal number is below x.

    ``approximate="tanh"`` is the form in GPT-2's weights; the two differ by less than 0.0005.

    Source: Hendrycks and Gimpel, 2016, "Gaussian error linear units".

    Raises:
        ValueError: ``approximate`` is neither ``"none"`` nor ``"tanh"``.
    """
    if approximate == "none":
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2
    if approximate == "tanh":
        return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    raise ValueError(f"approximate={approximate!r} is not 'none' or 'tanh'.")


def silu(x: Tensor) -> Tensor:
    """Return x times its sigmoid, a smooth ReLU (also called swish).

    Source: Elfwing et al., 2018, "Sigmoid-weighted linear units".
    """
    return x * torch.sigmoid(x)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up: one projection of the input decides how much of the other passes.

    Source: Shazeer, 2020, "GLU variants improve transformer".
    """
    return silu(gate) * up


class Linear(nn.Linear):
    """torch's linear layer, with a short cut for one token at a time on a CPU.

    There the time goes into reading the weights. In bfloat16, torch's matrix-matrix product takes
    up to twice as long over that as its matrix-vector product. The two agree up to rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` -> ``(..., out)``."""
        one = x.numel() == self.in_features and x.dtype == self.weight.dtype == torch.bfloat16
        if not one or x.device.type != "cpu" or torch.is_grad_enabled():
            return super().forward(x)
        out = self.weight.mv(x.flatten())  # (out,)
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], -1)


class RMSNorm(nn.Module):
    """:func:`rms_norm` with a weight for each channel, computed in float32 or finer."""

    def __init__(self, n_embd: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n_embd)), eps

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` -> ``(..., C)``."""
        check_width(x, len(self.weight))
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        return rms_norm(exact, eps=self.eps).to(x.dtype) * self.weight


class MLP(nn.Module):
    """The feed-forward network of a block: widen, bend, narrow again, each position on its own.

    Args:
        n_embd: channels ``C`` in and out.
        n_hidden: channels in between. By default four times ``n_embd``; for "swiglu", which has
            three matrices, two thirds of that, so that the number of parameters is about the same.
        bias: give the layers a bias.
        kind: "gelu_tanh" (GPT-2's), "gelu" (exact, several times faster on a CPU), "relu2" (the
            square of ReLU; So et al., 2021, "Primer") or "swiglu" (Llama's).

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
        if kind not in MLPS:
            raise ValueError(f"mlp={kind!r} is not one of {', '.join(MLPS)}.")
        self.kind = kind
        if n_hidden is None:
            n_hidden = 8 * n_embd // 3 if kind == "swiglu" else 4 * n_embd
        # SwiGLU's two projections of the input are the two halves of one matrix: gate, then up.
        self.fc = Linear(n_embd, 2 * n_hidden if kind == "swiglu" else n_hidden, bias=bias)
        self.proj = Linear(n_hidden, n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` -> ``(..., C)``."""
        check_width(x, self.fc.in_features)
        hidden = self.fc(x)  # (..., n_hidden), twice that for "swiglu"
        if self.kind == "swiglu":
            gate, up = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * up
        elif self.kind == "relu2":
            hidden = F.relu(hidden).square()
        else:
            hidden = F.gelu(hidden, approximate="tanh" if self.kind == "gelu_tanh" else "none")
        return self.proj(hidden)


def make_norm(kind: str, n_embd: int, *, bias: bool = True, eps: float = 1e-5) -> nn.Module:
    """Return torch's layer norm for "layer", an :class:`RMSNorm`, which has no bias, for "rms"."""
    if kind not in NORMS:
        raise ValueError(f"norm={kind!r} is not one of {', '.join(NORMS)}.")
    return nn.LayerNorm(n_embd, eps, bias=bias) if kind == "layer" else RMSNorm(n_embd, eps)


def check_width(x: Tensor, n_embd: int) -> None:
    """Raise ValueError unless ``x`` is ``(..., n_embd)``."""
    if x.shape[-1:] != (n_embd,):
        raise ValueError(
            f"x has shape {tuple(x.shape)}; this layer expects n_embd={n_embd} channels in its "
            "last dimension."
        )
