"""How the worker reads a notebook's code: as IPython does, and no more of it than is needed.

Cells that the student wrote or changed run whole. Of the cells that were handed out and left as
they were, which load models and draw figures, only what the others need runs: imports, definitions,
and the statements that give a value to a name that is used.
"""

import ast
import re
import symtable
from collections.abc import Iterable, Sequence

from IPython.core.inputtransformer2 import TransformerManager

_INNER = re.compile(r"%%(time|timeit|capture|prun)\b[^\n]*\n")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
_PLAIN_CALLS = {
    *("float", "int", "complex", "set", "dict", "list", "tuple", "frozenset", "range", "partial"),
    *("device", "compile", "namedtuple", "TypeVar"),
}


def parse(source: str) -> list[ast.stmt]:
    """Return the statements of a cell; none of what is not Python."""
    source = _INNER.sub("\n", source, count=1) if source.startswith("%%") else source
    if source.startswith("%%"):
        return []
    try:
        return ast.parse(TransformerManager().transform_cell(source)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def definitions(source: str, after: int = 0) -> str:
    """Return what a cell defines below line ``after``, without what it does."""
    kept = [part for part in parse(source) if part.lineno > after and _is_definition(part)]
    return _unparse(kept)


def needed(cells: Sequence[tuple[str, bool]], functions: Iterable[str]) -> list[str]:
    """Return of each cell what to run: own ones (True) whole, of the others what is needed."""
    parsed = [parse(source) for source, _ in cells]
    parts = [(_bound(part), _mentioned(part)) for body in parsed for part in body]
    names = set(functions)
    for body, (_, own) in zip(parsed, cells, strict=True):
        here: set[str] = set()  # has a value by then
        for part in body if own else ():
            if not isinstance(part, _DEFINITIONS):
                names |= _mentioned(part) - here - _bound(part)
            here |= _bound(part)
    before = -1
    while before < len(names):
        before = len(names)
        names.update(*(mentioned for bound, mentioned in parts if bound & names))

    def wanted(part: ast.stmt) -> bool:
        return isinstance(part, _DEFINITIONS) or bool(_bound(part) & names)

    return [
        source if own else _unparse([part for part in body if wanted(part)])
        for body, (source, own) in zip(parsed, cells, strict=True)
    ]


def _unparse(body: list[ast.stmt]) -> str:
    return "\n".join(ast.unparse(part) for part in body)


def _is_definition(part: ast.stmt) -> bool:
    """Return True for imports, functions, classes and names of plain values."""
    if isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None:
        calls = [node.func for node in ast.walk(part.value) if isinstance(node, ast.Call)]
        if isinstance(part.value, ast.Lambda):
            return True
        return not isinstance(part.value, ast.Await) and all(map(_is_plain_call, calls))
    return isinstance(part, _DEFINITIONS)


def _is_plain_call(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        owner = function.value
        return function.attr in _PLAIN_CALLS or (isinstance(owner, ast.Name) and owner.id == "math")
    return isinstance(function, ast.Name) and function.id in _PLAIN_CALLS


def _mentioned(part: ast.stmt) -> set[str]:
    """Return the names of the notebook that a statement reads, at once or when it is called."""
    tables = [symtable.symtable(ast.unparse(part), "cell", "exec")]
    found = {symbol.get_name() for symbol in tables[0].get_symbols() if symbol.is_referenced()}
    while tables:
        inner = tables.pop().get_children()
        tables += inner
        for symbol in (symbol for table in inner for symbol in table.get_symbols()):
            if symbol.is_global() and symbol.is_referenced():
                found.add(symbol.get_name())
    return found


def _bound(part: ast.stmt) -> set[str]:
    """Return the names that a statement gives a value to, or whose value it may change."""
    if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {part.name}
    found = set()
    for node in ast.walk(part):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
    if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):  # names.append(…)
        function = part.value.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            found.add(function.value.id)
    return found


# --- who wrote the same ------------------------------------------------------------------------


def statements(sources: Sequence[str], functions: Sequence[str]) -> dict[str, list[str]]:
    """Return for each function that was written its statements, in a form that can be compared.

    Layout, comments, docstrings and annotations are gone, and the function's own names are numbered
    in the order in which they come; what is called and which attributes are used stays.
    """
    found = {}
    for part in (part for source in sources for part in parse(source)):
        for name in functions:
            if name in _bound(part) and "NotImplementedError" not in _mentioned(part):
                found[name] = [_plain_form(part, set(functions))]
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                    found[name] = _plain_form(part, set(functions)).splitlines()[1:]
    return found


def _plain_form(part: ast.stmt, keep: set[str]) -> str:
    part = ast.parse(ast.unparse(part)).body[0]
    own = {node.arg for node in ast.walk(part) if isinstance(node, ast.arg)}
    own |= {
        node.id
        for node in ast.walk(part)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    numbers: dict[str, str] = {}

    def rename(name: str) -> str:
        return numbers.setdefault(name, f"v{len(numbers)}") if name in own - keep else name

    for node in ast.walk(part):
        if isinstance(node, ast.arg):
            node.arg, node.annotation = rename(node.arg), None
        elif isinstance(node, ast.Name):
            node.id = rename(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            if ast.get_docstring(node) is not None and len(node.body) > 1:
                node.body = node.body[1:]
    return ast.unparse(part)
