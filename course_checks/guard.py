"""Running an answer that may do anything: hang, print a flood, leave Python, return nonsense.

Nothing here protects against malice: an answer runs in the reader's own process. It is for the
accidents that happen to everybody.
"""

import contextlib
import functools
import inspect
import io
import math
import signal
import site
import sys
import sysconfig
import threading
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import course_checks
import course_utils

#: An answer that takes longer than this is stopped; a right one needs well under a second.
TIME_LIMIT_S = 30.0
#: How much of what an answer prints is shown.
PRINT_LIMIT = 2_000
#: How much of an error's own text is shown.
ERROR_LIMIT = 200

_COURSE = tuple(str(Path(each.__path__[0]).resolve()) for each in (course_checks, course_utils))


class OutOfTime(BaseException):
    """The answer ran too long; no ``Exception``, so that ``except Exception`` does not stop it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after ``seconds``, and each second from then until it ends.

    It uses the alarm signal, which exists on Linux and macOS, in the main thread, where notebooks
    run their cells. On Windows, in other threads, and where an alarm is set already, the block runs
    without a limit; there the stop button of the notebook ends it. A single call into compiled
    code is not interrupted before it returns.
    """
    usable = hasattr(signal, "setitimer") and (
        threading.current_thread() is threading.main_thread()
    )
    if not usable or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def stop(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Tap(io.TextIOBase):
    """Writes on to ``target`` until ``PRINT_LIMIT`` characters are through."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.count = 0

    def write(self, text: str) -> int:
        room = PRINT_LIMIT - self.count
        self.count += len(text)
        if room > 0:
            self.target.write(text[:room])
            if self.count >= PRINT_LIMIT:
                self.target.write(" … (the rest of what your code printed is left out)\n")
        return len(text)

    def flush(self) -> None:
        self.target.flush()


@contextlib.contextmanager
def few_prints() -> Iterator[None]:
    """Show only the first ``PRINT_LIMIT`` characters of what the block prints."""
    with contextlib.redirect_stdout(_Tap(sys.stdout)):
        yield


class Results:
    """What an answer returned last, kept to explain why a check failed."""

    def __init__(self) -> None:
        self.last: Any = None
        self.any = False

    def watch(self, answer: Any) -> Any:
        """Return ``answer``, wrapped so that what it returns is remembered."""
        if not isinstance(answer, (types.FunctionType, types.BuiltinFunctionType)):
            return answer  # a class, a module with weights: the check may use more than its call

        @functools.wraps(answer)
        def call(*arguments: Any, **options: Any) -> Any:
            self.last = answer(*arguments, **options)
            self.any = True
            return self.last

        return call

    def explain(self, message: str) -> str:
        """Return why the check failed, with what the last result by itself reveals."""
        result = self.last
        if isinstance(result, types.GeneratorType) and "generator" not in message:
            return (
                "Your function returned a generator, a promise of values, because there is a "
                "`yield` in it. Collect the values and `return` them."
            )
        if inspect.iscoroutine(result):
            result.close()
            return "Your function is `async`, so it returned no value. Write plain `def`."
        if isinstance(result, types.FunctionType) and "not a function" not in message:
            return "Your function returned a function. Are the brackets of a call missing?"
        if _has_nan(result) and "nan" not in message.lower():
            return (
                f"{message} There is NaN in the result, “not a number”: look for 0/0, inf - inf, "
                "or the root or logarithm of a negative number."
            )
        return message


def _has_nan(result: Any) -> bool:
    parts = result if isinstance(result, (tuple, list)) else [result]
    for part in parts[:10]:
        if isinstance(part, torch.Tensor):
            if part.is_floating_point() and not part.is_meta and bool(part.isnan().any()):
                return True
        elif isinstance(part, np.ndarray):
            if part.dtype.kind == "f" and bool(np.isnan(part).any()):
                return True
        elif isinstance(part, float) and math.isnan(part):
            return True
    return False


@functools.cache
def _not_the_student() -> tuple[str, ...]:
    """Return the folders of Python, of installed packages and of the course itself."""
    folders = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    with contextlib.suppress(AttributeError):  # some virtual environments lack it
        folders += [site.getusersitepackages()]
    return (*folders, *_COURSE, "<frozen")


def students_line(error: BaseException) -> traceback.FrameSummary | None:
    """Return the last line that the student wrote, of those that led to ``error``, if any did."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_not_the_student()):
            return frame
    return None


def where(error: BaseException) -> str:
    """Return `` (line 3: x = 1 / 0)``, or nothing when no line of the student led to ``error``."""
    line = students_line(error)
    if line is None:
        return ""
    return f" (line {line.lineno}: {line.line})" if line.line else f" (line {line.lineno})"


def is_a_stub(error: NotImplementedError) -> bool:
    """Return True for the ``raise NotImplementedError`` of an exercise, False for a library's."""
    line = students_line(error)
    return not error.args or bool(line and "raise NotImplementedError" in (line.line or ""))


def text_of(error: BaseException) -> str:
    """Return ``Name: message`` of an error on one line, cut where it is long."""
    try:
        message = " ".join(str(error).split())
    except Exception:
        message = "(its message cannot be read)"
    if len(message) > ERROR_LIMIT:
        message = message[:ERROR_LIMIT].rstrip() + " …"
    name = type(error).__name__
    return f"{name}: {message}" if message else name


#: What a beginner needs besides torch's own message, by a part of that message.
HINTS = {
    "same dtype": "Turn whole numbers into decimal ones first: .float().",
    "shapes cannot be multiplied": "In A @ B, A needs as many columns as B has rows.",
    "must match the size": "Shapes are matched from the right, and sizes must be equal or 1.",
    "must be non-negative": "An id is below 0 here: ids count from 0.",
    "used as indices": "Indices are whole numbers: .long().",
}


def hint(error: BaseException) -> str:
    """Return what to do about an error that beginners often meet, or nothing."""
    return next((f". {advice}" for words, advice in HINTS.items() if words in text_of(error)), "")


def kind_of(result: Any) -> str:
    """Return what ``result`` is, in a few words: ``a str, 'abc'``."""
    if result is None:
        return "None"
    if isinstance(result, torch.Tensor):
        return f"a tensor of shape {tuple(result.shape)} and type {result.dtype} on {result.device}"
    try:
        shown = " ".join(repr(result).split())
    except Exception:
        shown = "…"
    shown = shown if len(shown) <= 60 else shown[:57] + "…"
    return f"{type(result).__name__} {shown}"
