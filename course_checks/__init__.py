"""Checks for the exercises: right or wrong at once, and if wrong, probably why.

What is judged is in :mod:`course_checks.exercises`: it raises :class:`Wrong` with a diagnosis.
:func:`verdict_on` turns that, and all else that can happen, into a verdict of one line.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass

from course_checks import guard, record


class Wrong(Exception):
    """The answer is wrong; the message says what is probably the reason.

    ``named`` means that the message names the mistake, so that nothing needs to be added to it.
    """

    def __init__(self, message: str, named: bool = False) -> None:
        super().__init__(message)
        self.named = named


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


def verdict_on(name: str, tests: Callable[[Callable], str], answer: Callable) -> Verdict:
    """Return what ``tests(answer)`` finds, for the check of that name; it never raises.

    An answer may raise anything, hang, recurse, print a flood or call ``sys.exit``: see
    :mod:`course_checks.guard`. In a notebook the verdict is recorded, see
    :mod:`course_checks.record`.
    """
    verdict = _verdict(name, tests, answer)
    if not record.wanted():
        return verdict
    before = record.read().get(name)
    record.note(name, verdict.passed)
    if verdict.passed is False and before and before["passed"]:
        return Verdict(False, f"{verdict.message} {BROKEN}")
    return verdict


#: What is said when a function that was right no longer is.
BROKEN = "It was right last time: what has changed since?"


def _verdict(name: str, tests: Callable[[Callable], str], answer: Callable) -> Verdict:
    if not callable(answer):
        return Verdict(
            False,
            f"The check needs your function itself and got {guard.kind_of(answer)}, which looks "
            f"like its result: you called the function. Write `{name}(name_of_your_function)`, "
            "without calling it: no brackets after the name.",
        )
    results = guard.Results()
    try:
        with guard.time_limit(guard.TIME_LIMIT_S), guard.few_prints():
            return Verdict(True, tests(results.watch(answer)))
    except Wrong as reason:
        return Verdict(False, str(reason) if reason.named else results.explain(str(reason)))
    except NotImplementedError as error:
        if guard.is_a_stub(error):
            return Verdict(None, "Replace the line `raise NotImplementedError` with your answer.")
        return Verdict(False, _stopped(error, results))
    except guard.OutOfTime as error:
        return Verdict(
            False,
            f"Your code was stopped: it had not finished after {guard.TIME_LIMIT_S:.0f} seconds"
            f"{guard.where(error)}. Is there a loop that never ends?",
        )
    except KeyboardInterrupt as error:
        if not record.wanted():  # in a script, stopping stops the script
            raise
        return Verdict(False, f"You stopped your code while it ran{guard.where(error)}.")
    except SystemExit as error:
        return Verdict(
            False,
            f"Your code tried to leave Python, with exit() or sys.exit(){guard.where(error)}. "
            "A function ends with `return`.",
        )
    except RecursionError as error:
        return Verdict(
            False,
            f"Your function calls itself without end{guard.where(error)}. When should it stop?",
        )
    except MemoryError as error:
        return Verdict(False, f"Your code needs more memory than there is{guard.where(error)}.")
    except BaseException as error:
        return Verdict(False, _stopped(error, results))


def _stopped(error: BaseException, results: guard.Results) -> str:
    if guard.students_line(error) or not results.any:
        stopped = f"Your code stopped with {guard.text_of(error)}{guard.where(error)}"
        return stopped + guard.hint(error)
    plain = (
        f"Your function returned {guard.kind_of(results.last)}, which the check cannot use: it "
        f"stopped with {guard.text_of(error)}"
    )
    return results.explain(plain)
