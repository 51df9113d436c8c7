"""What exercises share: numbers to draw, and results read as numbers."""

from decimal import Decimal
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from course_checks import Wrong
from course_checks.guard import kind_of


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers of this shape, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def as_tensor(result: Any) -> Tensor:
    """Return ``result`` as a float tensor on the CPU; lists, numbers and arrays will do.

    Raises:
        Wrong: it cannot be read as real numbers.
    """
    if isinstance(result, tuple):
        raise Wrong(f"Your function returned a tuple of {len(result)}; expected one tensor.")
    return _real(result).cpu().float()


def _real(result: Any) -> Tensor:
    """Return ``result`` as a tensor of real numbers, or raise Wrong and say what it is."""
    if isinstance(result, (str, bytes, dict, set)):
        raise Wrong(f"Your function returned {kind_of(result)}; expected numbers.")
    if isinstance(result, (Real, Decimal)):
        result = float(result)
    try:
        tensor = torch.as_tensor(result).detach()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"Your function returned {kind_of(result)}; expected numbers.") from None
    if tensor.is_meta:
        raise Wrong("The result is on the device `meta`, where tensors have shapes but no numbers.")
    if tensor.is_complex():
        raise Wrong(f"The result has complex numbers, {tensor.dtype}; expected real ones.")
    return tensor


def as_number(result: Any, name: str) -> float:
    """Return ``result`` as one number, the ``name``; a tensor or array of one element will do."""
    if result is None:
        raise Wrong("Your function returned None. Does it end with `return`?")
    if isinstance(result, tuple):
        raise Wrong(f"Your function returned a tuple of {len(result)}; expected one number.")
    value = _real(result).double()
    if value.numel() != 1:
        raise Wrong(
            f"The result has shape {tuple(value.shape)}; expected one number, the {name}. "
            "Is a mean or a sum missing?"
        )
    return float(value)
