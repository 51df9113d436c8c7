"""The process that holds one student's code. Started by ``sandbox``; nobody trusts what it says.

It takes two requests. ``{"run": source, "title": …, "definitions_only": …}`` runs a cell in the
student's namespace; ``{"call": name, "args": […], "kwargs": {…}}`` calls one of the student's
functions and gives back the result and the arguments as they are afterwards.
"""

import ast
import json
import linecache
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from course_grader import protocol
from course_grader.confine import confine

#: Of ``course_checks`` only what a notebook needs beside the checks exists in this process.
_KNOWN = ("course_checks.assignments", "course_checks.homework")
_DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def main(number: str, settings: str) -> None:
    """Serve the socket with this file number until the grader hangs up."""
    channel = socket.socket(fileno=int(number))
    options = json.loads(settings)
    isolation = confine(Path(options.pop("home")), **options)
    os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # whatever the code prints goes nowhere
        os.dup2(silent, stream)
    protocol.send(channel, protocol.pack({"isolation": isolation}))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    while True:
        try:
            request = protocol.receive(channel, function=lambda n: _remote(channel, n))
        except EOFError:
            os._exit(0)
        try:
            answer = _run(namespace, **request) if "run" in request else _call(namespace, **request)
            frame = protocol.pack(answer)
        except protocol.Unsendable as reason:
            frame = protocol.pack({"unsendable": str(reason)})
        except BaseException as error:  # SystemExit and KeyboardInterrupt too
            frame = protocol.pack({"error": _describe(error)})
        protocol.send(channel, frame)


def _run(namespace: dict, run: str, title: str, definitions_only: bool) -> dict[str, Any]:
    linecache.cache[title] = (len(run), None, run.splitlines(keepends=True), title)
    tree = ast.parse(run, title)
    tree.body = [part for part in tree.body if not _is_about_checks(part)]
    if definitions_only:
        tree.body = [part for part in tree.body if _is_definition(part)]
    exec(compile(tree, title, "exec"), namespace)
    return {"done": True}


def _is_definition(part: ast.stmt) -> bool:
    """Return True for imports, functions, classes and names of constants."""
    constant = isinstance(part, ast.Assign) and isinstance(part.value, ast.Constant)
    return constant or isinstance(part, _DEFINITIONS)


def _is_about_checks(part: ast.stmt) -> bool:
    """Return True for ``check_…(…)`` and imports of checks: they do not exist in this process."""
    if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
        return ast.unparse(part.value.func).split(".")[-1].startswith("check_")
    if isinstance(part, ast.ImportFrom):
        return (part.module or "").startswith("course_checks.") and part.module not in _KNOWN
    if isinstance(part, ast.Import):
        return any(name.name.startswith("course_checks.") for name in part.names)
    return False


def _call(namespace: dict, call: str, args: list, kwargs: dict) -> dict[str, Any]:
    if call not in namespace:
        return {"missing": True}
    result = namespace[call](*args, **kwargs)
    after = [None if _is_function(value) else value for value in args]
    return {"result": result, "args": after}


def _is_function(value: Any) -> bool:
    return getattr(value, "__module__", None) == __name__ and callable(value)


def _remote(channel: socket.socket, number: int) -> Callable:
    """Return a function that asks the grader to call its function with this number."""

    def ask(*args: Any, **kwargs: Any) -> Any:
        request = {"callback": number, "args": list(args), "kwargs": kwargs}
        protocol.send(channel, protocol.pack(request))
        answer = protocol.receive(channel)
        if "error" in answer:
            raise protocol.exception(*answer["error"][:2])
        return answer["result"]

    return ask


def _describe(error: BaseException) -> list:
    """Return [type, message, place], of what the student's code raised."""
    try:
        message = str(error.reason if isinstance(error, UnicodeDecodeError) else error)[:2000]
    except BaseException:
        message = "(its message cannot be read)"
    kind = next((k for k in type(error).__mro__ if k.__module__ == "builtins"), Exception)
    name = kind.__name__ if kind is not Exception else type(error).__name__[:60]
    if isinstance(error, SyntaxError):
        return [name, message, ""]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:6] == "<cell "]
    place = f"line {frames[-1].lineno}: {frames[-1].line}"[:200] if frames else ""
    return [name, message, place]


if __name__ == "__main__":
    main(*sys.argv[1:])
