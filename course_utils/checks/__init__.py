"""Checks for the exercises: right or wrong at once, and if wrong, probably why.

A check is an ordinary function that tests one idea at a time and raises :class:`Wrong` with a
diagnosis, wrapped in :func:`check`, which turns everything that can happen into a one-line verdict.
"""

import functools
import html
import traceback
from collections.abc import Callable
from dataclasses import dataclass


class Wrong(Exception):
    """The answer is wrong; the message says what is probably the reason."""


@dataclass(frozen=True)
class Verdict:
    """What a check found: ``passed`` is True, False, or None for "not attempted yet"."""

    passed: bool | None
    message: str

    @property
    def _mark(self) -> str:
        return {True: "✓ Right.", False: "✗ Not yet.", None: "○ Not attempted yet."}[self.passed]

    def __repr__(self) -> str:
        return f"{self._mark} {self.message}"

    def _repr_html_(self) -> str:
        state = {True: "right", False: "wrong", None: "open"}[self.passed]
        return (
            f'<div class="course-verdict course-verdict-{state}" role="status">'
            f"<strong>{self._mark}</strong> {html.escape(self.message)}</div>"
        )


def check(tests: Callable[[Callable], str]) -> Callable[[Callable], Verdict]:
    """Turn ``tests(answer)`` into a check that returns a :class:`Verdict` and never raises.

    ``tests`` returns one thing to notice when the answer is right, and raises :class:`Wrong`
    with a diagnosis when it is not.
    """

    @functools.wraps(tests)
    def run(answer: Callable) -> Verdict:
        try:
            return Verdict(True, tests(answer))
        except NotImplementedError:
            return Verdict(None, "Replace the line `raise NotImplementedError` by your answer.")
        except Wrong as reason:
            return Verdict(False, str(reason))
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            where = f" (line {line.lineno}: {line.line})" if line.line else ""
            return Verdict(False, f"Your code stopped with {type(error).__name__}: {error}{where}")

    return run
