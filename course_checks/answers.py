"""What the checks share: calling an answer with care, and naming the mistake that explains it."""

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_checks import Wrong
from course_checks.guard import kind_of


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers of this shape, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def call(answer: Callable, *arguments: Any) -> Any:
    """Return ``answer(*arguments)``; tensors and arrays are handed over as copies.

    Raises:
        Wrong: nothing was returned, an argument was changed, or a tensor came back on another
            device or in a lower precision than the arguments have.
    """
    copies = [_copy(argument) for argument in arguments]
    result = answer(*copies)
    if result is None:
        raise Wrong("Your function returned None. Does it end with `return`?")
    for number, (before, after) in enumerate(zip(arguments, copies, strict=True), start=1):
        if _changed(before, after):
            raise Wrong(
                f"The result may be right, but argument {number} was changed in place. The caller "
                "may still need it: write `x = x - …` rather than `x -= …`, `masked_fill` rather "
                "than `masked_fill_` or `x[…] = …`, or work on `x.clone()`."
            )
    given = [argument for argument in arguments if isinstance(argument, Tensor)]
    if given and isinstance(result, Tensor):
        _expect_place(result, given)
    return result


def _copy(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.clone()
    return argument.copy() if isinstance(argument, np.ndarray) else argument


def _changed(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        return not torch.equal(before, after)
    return isinstance(before, np.ndarray) and not np.array_equal(before, after)


def _expect_place(result: Tensor, given: list[Tensor]) -> None:
    """Raise Wrong where ``result`` is on another device than its inputs, or in half precision."""
    device = given[0].device
    if result.device != device:
        raise Wrong(
            f"The result is on {result.device} and the input on {device}. Make new tensors where "
            "the input is: `torch.zeros(…, device=x.device)`, or take `torch.zeros_like(x)`."
        )
    low = (torch.float16, torch.bfloat16)
    if result.dtype in low and not any(tensor.dtype in low for tensor in given):
        raise Wrong(
            f"The result has the type {result.dtype}, 2 to 3 digits of precision, and the input "
            f"has {given[0].dtype}. Leave out the conversion."
        )


def as_tensor(result: Any) -> Tensor:
    """Return ``result`` as a float tensor on the CPU; lists, numbers and arrays will do.

    Raises:
        Wrong: it is no table of real numbers.
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


def call_for_tensor(answer: Callable, *arguments: Any) -> Tensor:
    """Return ``answer(*arguments)`` as a float tensor, see :func:`call` and :func:`as_tensor`."""
    return as_tensor(call(answer, *arguments))


def same(found: Tensor, expected: Tensor, atol: float = 1e-4) -> bool:
    """Return True where both have one shape and equal values, up to ``atol``."""
    return found.shape == expected.shape and torch.allclose(
        found, expected.float(), rtol=0, atol=atol
    )


def expect_shape(found: Tensor, expected: tuple[int, ...], names: str) -> None:
    """Raise Wrong unless ``found`` has the expected shape, such as ``names`` = "(B, T, C)"."""
    if tuple(found.shape) != expected:
        raise Wrong(f"The result has shape {tuple(found.shape)}; expected {names} = {expected}.")


def name_mistake(found: Tensor, mistakes: Mapping[str, Tensor], atol: float = 1e-4) -> None:
    """Raise the diagnosis of the first mistake that would have given ``found``."""
    for diagnosis, wrong in mistakes.items():
        if same(found, wrong, atol):
            raise Wrong(diagnosis)


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


def near(found: float, expected: float, tolerance: float = 1e-4) -> bool:
    """Return True where two numbers agree up to a relative ``tolerance``."""
    return math.isclose(found, expected, rel_tol=tolerance, abs_tol=1e-9)


def name_number(found: float, mistakes: Mapping[str, float], tolerance: float = 1e-4) -> None:
    """Raise the diagnosis of the first mistake that would have given ``found``."""
    for diagnosis, wrong in mistakes.items():
        if near(found, wrong, tolerance):
            raise Wrong(diagnosis)
