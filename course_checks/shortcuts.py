"""What a function mentions: how a rule such as "without ``F.cross_entropy``" is enforced.

It reads code and runs none. Only Python's own library is imported here.
"""

import functools
import inspect
import types
from typing import Any


def names_used(function: Any) -> set[str]:
    """Return the names and attributes that a function and the reader's own helpers mention.

    Helpers are Python functions found in the function's globals or closure, in the same file. A
    stand-in for a function that runs elsewhere may carry the answer as its ``names_used``.
    """
    given = getattr(function, "names_used", None)
    return set(given) if isinstance(given, (set, frozenset, list)) else _names(function, set())


def _names(function: Any, seen: set[types.CodeType]) -> set[str]:
    function = inspect.unwrap(function) if callable(function) else function
    if isinstance(function, functools.partial):
        return {function.func.__name__} | _names(function.func, seen)
    if isinstance(function, types.MethodType):
        return _names(function.__func__, seen)
    if not isinstance(function, types.FunctionType):
        call = getattr(type(function), "__call__", None)  # noqa: B004  an object that is called
        named = {getattr(function, "__name__", type(function).__name__)}
        return named | (_names(call, seen) if isinstance(call, types.FunctionType) else set())
    if function.__code__ in seen:
        return set()
    seen.add(function.__code__)
    names = _in_code(function.__code__)
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    for used in [function.__globals__.get(name) for name in names] + cells:
        names = names | {getattr(used, "__name__", "")}  # import … as
        if _is_own(used, function):
            names |= _names(used, seen)
    return names


def _in_code(code: types.CodeType) -> set[str]:
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*map(_in_code, inner))


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not assigned yet
        return False


def _is_own(used: Any, function: types.FunctionType) -> bool:
    return (
        isinstance(used, types.FunctionType) and used.__globals__ is function.__globals__
    ) or isinstance(used, functools.partial)
