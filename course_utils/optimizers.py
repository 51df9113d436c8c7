"""Muon, an optimizer for matrices. Everything else is left to torch's own AdamW."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal: a matrix moves equally far in every direction.

    Most of a gradient lies in a few directions (its large singular values), and a step along it
    hardly changes the rest. Muon replaces all singular values by about 1 before it steps. That
    makes sense for the matrices inside a network, which act on vectors. Embeddings, which are
    looked up row by row, the head, norms and biases are left to AdamW.

    Args:
        params: matrices, or groups of them as in every optimizer of torch.
        lr: the learning rate, which is about the size of every singular value of a step.
        weight_decay: each step multiplies the matrix by 1 - lr * weight_decay.
        momentum: how slowly the running average of the gradient forgets.
        dtype: of the matrix products; torch's own Muon always uses bfloat16.

    Raises:
        ValueError: a parameter is not a matrix.

    Source: Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks".
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ):
        defaults = dict(lr=lr, weight_decay=weight_decay, momentum=momentum, dtype=dtype)
        super().__init__(params, defaults)
        for group in self.param_groups:
            for p in group["params"]:
                if p.dim() != 2:
                    raise ValueError(
                        f"a parameter of shape {tuple(p.shape)} is not a matrix, and Muon is for "
                        "matrices only. Give biases and norms to AdamW."
                    )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: it is for line searches
        """Update every matrix that has a gradient, matrices of the same shape together."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for matrices in by_shape.values():
                self._update(matrices, group)

    def _update(self, matrices: list[Tensor], group: dict) -> None:
        lr, beta = group["lr"], group["momentum"]
        for p in matrices:
            if not self.state[p]:
                self.state[p]["mean"] = torch.zeros_like(p)
        grads = [p.grad for p in matrices if p.grad is not None]
        means = [self.state[p]["mean"] for p in matrices]
        # torch._foreach_*: one operation on each tensor of a list, in one call
        torch._foreach_lerp_(means, grads, 1 - beta)  # beta * mean + (1 - beta) * grad
        # Nesterov momentum: the average once more, to look one step ahead
        ahead = torch.stack(torch._foreach_lerp(grads, means, beta))  # (n, rows, columns)
        steps = orthogonalize(ahead.to(group["dtype"])).to(ahead.dtype)
        rows, columns = matrices[0].shape
        # A tall matrix has only as many directions as columns: a longer step makes up for it.
        lengthen = math.sqrt(max(1, rows / columns))
        torch._foreach_mul_(matrices, 1 - lr * group["weight_decay"])
        torch._foreach_add_(matrices, steps.unbind(), alpha=-lr * lengthen)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return about U Vᵀ, for a matrix whose singular value decomposition is U S Vᵀ.

    The decomposition itself would be slow. An odd polynomial of a matrix acts on its singular
    values alone: a X + b X XᵀX + c X (XᵀX)² has the singular values a s + b s³ + c s⁵. These
    coefficients raise small values as fast as possible and then keep them between about 0.7 and
    1.2, which works as well as 1. Five steps are enough for values down to about 0.002 of the
    matrix's Frobenius norm; smaller ones grow by a factor of 3.4445 per step.

    Args:
        matrix: ``(..., rows, columns)``, one matrix or a stack of them; its dtype is kept.

    Sources: Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks" (the
    coefficients); Bernstein and Newhouse, 2024, "Old optimizer, new norm: an anthology".
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[-2] > matrix.shape[-1]
    X = matrix.mT if tall else matrix  # with fewer rows than columns, X Xᵀ is the smaller product
    X = X.reshape(-1, *X.shape[-2:])  # (n, rows, columns)
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # singular values at most 1
    for _ in range(5):
        gram = X @ X.mT  # (n, rows, rows)
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b gram + c gram²
        X = torch.baddbmm(X, factor, X, beta=a)  # a X + factor X
    X = X.mT if tall else X
    return X.reshape(matrix.shape)
