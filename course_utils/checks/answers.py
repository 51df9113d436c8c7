"""What the checks share: calling an answer with care, and naming the mistake that explains it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from course_utils.checks import Wrong


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers of this shape, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def call(answer: Callable, *arguments: Any) -> Any:
    """Return ``answer(*arguments)``.

    Raises:
        Wrong: nothing was returned, or a tensor among the arguments was changed.
    """
    copies = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    result = answer(*copies)
    if result is None:
        raise Wrong("Your function returned None. Does it end with `return`?")
    for number, (before, after) in enumerate(zip(arguments, copies, strict=True), start=1):
        if isinstance(before, Tensor) and not torch.equal(before, after):
            raise Wrong(
                f"The result may be right, but argument {number} was changed in place. The caller "
                "may still need it: write `x = x - …` rather than `x -= …`, `masked_fill` rather "
                "than `masked_fill_` or `x[…] = …`, or work on `x.clone()`."
            )
    return result


def as_tensor(result: Any) -> Tensor:
    """Return ``result`` as a float tensor on the CPU; lists, numbers and arrays will do."""
    if isinstance(result, tuple):
        raise Wrong(f"Your function returned a tuple of {len(result)}; expected one tensor.")
    return torch.as_tensor(result).detach().cpu().float()


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
