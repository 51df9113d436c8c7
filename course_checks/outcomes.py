"""What came out of an answer for one input: read as the right result is, compared, and shown."""

import copy
import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_checks import Wrong
from course_checks.answers import as_number, as_tensor
from course_checks.guard import kind_of

#: Errors that an answer and a mistake may have in common; any other ends the check at once.
ORDINARY = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
_LOW = (torch.float16, torch.bfloat16)
_SHOWN = 12  # numbers of a result that are written out
_SHOWN_INPUT = 120  # characters of all arguments together


@dataclass(frozen=True)
class Outcome:
    """``value`` as read, or the ``trouble`` of reading it, or the ``error`` that was raised.

    ``changed`` names an argument that was changed in place; ``remark`` is about where or how
    precisely the result was computed. Both are empty where there is nothing to say.
    """

    value: Any = None
    trouble: str = ""
    error: Exception | None = None
    changed: str = ""
    remark: str = ""


def observe(use: Callable, answer: Callable, given: Mapping[str, Any], right: Any) -> Outcome:
    """Return what ``use(answer, …)`` makes of copies of the ``given`` arguments.

    Raises:
        NotImplementedError, RecursionError: by the answer, and all that is not ``ORDINARY``.
    """
    copies = copy.deepcopy(dict(given))
    try:
        result = use(answer, *copies.values())
    except (NotImplementedError, RecursionError):
        raise
    except Wrong as reason:
        return Outcome(trouble=str(reason))
    except ORDINARY as error:
        return Outcome(error=error)
    remark, trouble, value = _place(result, given), "", None
    try:
        value = read(result, right)
    except Wrong as reason:
        trouble = remark or str(reason)
    changed = next((name for name in given if not _equal(given[name], copies[name])), "")
    return Outcome(value, trouble, None, changed, remark)


def _equal(before: Any, after: Any) -> bool:
    if isinstance(before, (Tensor, np.ndarray)):
        return bool((torch.as_tensor(before) == torch.as_tensor(after)).all())
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(_equal, before, after))
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_equal(before[k], after[k]) for k in before)
    return callable(before) or before == after


def _place(result: Any, given: Mapping[str, Any]) -> str:
    """Return a remark on a tensor on another device, or in half precision."""
    tensors = [each for each in given.values() if isinstance(each, Tensor)]
    if not tensors or not isinstance(result, Tensor):
        return ""
    if result.device != tensors[0].device:
        return (
            f"The result is on {result.device} and the input on {tensors[0].device}. Make new "
            "tensors where the input is: `torch.zeros(…, device=x.device)`, or take "
            "`torch.zeros_like(x)`."
        )
    if result.dtype in _LOW and not any(tensor.dtype in _LOW for tensor in tensors):
        return (
            f"The result has the type {result.dtype}, 2 to 3 digits of precision, and the input "
            f"has {tensors[0].dtype}. Leave out the conversion."
        )
    return ""


# --- reading -----------------------------------------------------------------------------------


def read(result: Any, right: Any) -> Any:
    """Return ``result`` in the form that ``right`` has: numbers are numbers, whoever made them.

    A tensor may come as an array, a list or nested lists, one number as a tensor of one element, a
    list as a tuple, an array or a tensor. Raises Wrong where that is not possible.
    """
    if result is None and right is not None:
        raise Wrong("Your function returned None. Does it end with `return`?")
    if isinstance(result, types.GeneratorType) or inspect.iscoroutine(result):
        result.close()
        raise Wrong(_PROMISES[isinstance(result, types.GeneratorType)])
    if isinstance(result, types.FunctionType):
        raise Wrong("Your function returned a function. Are the brackets of a call missing?")
    if isinstance(right, Tensor):
        return as_tensor(result)
    if isinstance(right, Mapping):
        return _read_dict(result, right)
    if isinstance(right, (list, tuple)):
        return _read_list(result, right)
    if isinstance(right, (bool, str)) or right is None:
        return _plain(result)
    return as_number(result, "result")


_PROMISES = {
    True: "Your function returned a generator, a promise of values, because there is a `yield` in "
    "it. Collect the values and `return` them.",
    False: "Your function is `async`, so it returned no value. Write plain `def`.",
}


def _read_dict(result: Any, right: Mapping) -> dict:
    if not isinstance(result, Mapping):
        raise Wrong(f"Your function returned {kind_of(result)}; expected a dict.")
    if missing := [key for key in right if key not in result]:
        raise Wrong(f"The result has no {missing[0]!r}; it has {list(result)}.")
    if more := [key for key in result if key not in right]:
        raise Wrong(f"The result has {more[0]!r}, which was not asked for.")
    return {key: read(result[key], right[key]) for key in right}


def _read_list(result: Any, right: Sequence) -> list:
    flat = not (len(right) and isinstance(right[0], (list, tuple)))
    nested = isinstance(result, tuple) and any(isinstance(p, (list, Tensor)) for p in result)
    if flat and nested and not any(isinstance(p, Tensor) and not p.dim() for p in result):
        raise Wrong(f"Your function returned a tuple of {len(result)}; expected one list.")
    if isinstance(result, (Tensor, np.ndarray)) and flat and result.ndim != 1:
        raise Wrong(f"The result has shape {tuple(result.shape)}; expected a flat list.")
    plain = _plain(result)
    if not isinstance(plain, list):
        raise Wrong(f"Your function returned {kind_of(result)}; expected a list.")
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        if isinstance(value, Tensor) and value.is_meta:
            raise Wrong("The result is on the device `meta`: it has a shape but no numbers.")
        return value.tolist()
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def as_pair(result: Any, first: str, second: str) -> dict[str, Any]:
    """Return the two parts of a result by these names, for ``use``; raises Wrong if not two."""
    if result is None:
        raise Wrong("Your function returned None. Does it end with `return`?")
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Wrong(
            f"Your function returned {kind_of(result)}; expected two things: {first} and {second}."
        )
    return {first: result[0], second: result[1]}


# --- comparing ---------------------------------------------------------------------------------


def same(found: Any, right: Any, tolerance: float) -> bool:
    """Return True where two results as read are equal, numbers up to ``tolerance``.

    The tolerance is relative above 1 and absolute below; whole numbers must be equal.
    """
    if isinstance(right, Tensor):
        if not isinstance(found, Tensor) or found.shape != right.shape:
            return False
        return torch.allclose(found.double(), right.double(), tolerance, tolerance, True)
    if isinstance(right, Mapping):
        return isinstance(found, Mapping) and all(
            same(found[k], right[k], tolerance) for k in right
        )
    if isinstance(right, (list, tuple)):
        pairs = zip(found, right, strict=False) if isinstance(found, list) else ()
        return isinstance(found, list) and (
            len(found) == len(right) and all(same(*pair, tolerance) for pair in pairs)
        )
    if isinstance(right, float) and isinstance(found, (int, float)):
        return _near(float(found), right, tolerance)
    if isinstance(right, (str, bool)) or right is None:
        return type(found) is type(right) and found == right
    try:
        return bool(found == right)
    except (TypeError, ValueError, RuntimeError):
        return False


def _near(found: float, right: float, tolerance: float) -> bool:
    both_nan = math.isnan(found) and math.isnan(right)
    return both_nan or math.isclose(found, right, rel_tol=tolerance, abs_tol=tolerance * 1e-3)


def alike(one: Outcome, other: Outcome, tolerance: float) -> bool:
    """Return True where two answers did the same: a result, an error, or something unreadable."""
    if one.error or other.error:
        return type(one.error).__name__ == type(other.error).__name__
    if one.trouble or other.trouble:
        return one.trouble == other.trouble
    return same(one.value, _as_right(other.value), tolerance)


def _as_right(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def relation(pairs: Sequence[tuple[Any, Any]]) -> str:
    """Return how the results found relate to the right ones everywhere, if it is simple."""
    if pairs and isinstance(pairs[0][1], Mapping):
        pairs = [(found[key], right[key]) for found, right in pairs for key in right]
    if not all(isinstance(found, (Tensor, float)) for found, _ in pairs):
        return ""
    tensors = [(torch.as_tensor(found), torch.as_tensor(right).float()) for found, right in pairs]
    for words, change in _RELATIONS.items():
        if all(_is(change, found, right) for found, right in tensors):
            return words
    if any(found.shape != right.shape for found, right in tensors):
        return ""
    found = torch.cat([found.flatten().double() for found, _ in tensors])
    right = torch.cat([right.flatten().double() for _, right in tensors])
    ratio = (found / right)[right.isfinite() & (right.abs() > 1e-3)]
    if len(ratio) < 2 or not ratio[0] or not torch.allclose(found, right * ratio[0], 1e-3, 1e-6):
        return ""
    return f"Everywhere your result is {ratio[0]:.4g} times the right one. "


_RELATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "The numbers are right, but in another shape. ": lambda right: right.flatten(),
    "Rows and columns are swapped. ": lambda right: right.mT if right.dim() > 1 else right,
    "This is the logarithm of the right result. ": lambda right: right.log(),
    "This is the exponential of the right result. ": lambda right: right.exp(),
    "This is 1 minus the right result. ": lambda right: 1 - right,
}


def _is(change: Callable[[Tensor], Tensor], found: Tensor, right: Tensor) -> bool:
    expected = change(right)
    found = found.flatten() if expected.dim() == 1 else found
    return found.shape == expected.shape and torch.allclose(found, expected, 1e-4, 1e-4)


# --- showing -----------------------------------------------------------------------------------


def show(value: Any) -> str:
    """Return ``value`` in a few words: numbers where they are few, else the shape."""
    if isinstance(value, Tensor):
        few = value.numel() <= _SHOWN
        return show(value.tolist()) if few else f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(map(show, value[:20])) + (", …" if len(value) > 20 else "")
        return f"[{shown}]" if isinstance(value, list) else f"({shown})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{show(k)}: {show(v)}" for k, v in value.items()) + "}"
    return getattr(value, "__name__", None) or repr(value)


def show_input(given: Mapping[str, Any]) -> str:
    """Return the arguments by name, ``logits = [1.5, -0.3], k = 1``; shapes where they are long."""
    given = {k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    shown = {name: f"{name} = {show(each)}" for name, each in given.items() if not callable(each)}
    many = sum(map(len, shown.values())) > _SHOWN_INPUT
    for name, each in given.items():
        if isinstance(each, Tensor) and (each.numel() > _SHOWN or (many and each.dim() > 1)):
            shown[name] = f"{name} of shape {tuple(each.shape)}"
    return ", ".join(shown.values())


def difference(found: Any, right: Any, tolerance: float) -> str:
    """Return where two results differ: ``expected …, found …``."""
    if isinstance(right, Mapping):
        key = next(key for key in right if not same(found[key], right[key], tolerance))
        return f"{key}: {difference(found[key], right[key], tolerance)}"
    if isinstance(right, Tensor) and found.shape != right.shape:
        return f"expected shape {tuple(right.shape)}, found {tuple(found.shape)}"
    if isinstance(right, Tensor) and right.numel() > _SHOWN:
        near = torch.isclose(found.double(), right.double(), tolerance, tolerance, True)
        place = (~near).nonzero()[0].tolist()
        return f"at {place} expected {right[*place]:.4g}, found {found[*place]:.4g}"
    again = ""
    if isinstance(right, list) and isinstance(found, list) and len(right) == len(found):
        again = ", the same in another order" * (
            sorted(map(repr, right)) == sorted(map(repr, found))
        )
    return f"expected {show(_plain(right))}, found {show(found)}{again}"
