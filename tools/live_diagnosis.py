"""What the diagnosis figure of a homework shows: wrong answers, and what their checks say.

Everything comes from the exercises themselves: an answer is one of the mistakes that an exercise
knows, tried on the notebook's own inputs, and the sentence is the one that its check has for it.
"""

import html
from collections.abc import Iterator, Mapping
from typing import Any

from course_checks import exercises, outcomes
from course_checks.assignments import assignments

CAPTION = "Wrong answers to the exercises of this homework, and what their checks say."
LONGEST = 400  # characters of an input that is shown
SEEDS = (exercises.NOTEBOOK, 1, 2)  # of the inputs: the notebook's own, and more that tell apart


def homework() -> list[str]:
    """Return the keys of all homework that has exercises."""
    return [key for key, assignment in assignments().items() if assignment.get("exercises")]


def data(key: str) -> dict[str, Any]:
    """Return the exercises of a homework, such as "hw2", each with its wrong answers."""
    checks = [exercises.find(entry["check"]) for entry in assignments()[key]["exercises"]]
    parts = [
        {"name": one.name, "task": one.task, "answers": list(wrong_answers(one))} for one in checks
    ]
    return {"exercises": parts, "exercise": 0, "answer": 0}


def wrong_answers(exercise: exercises.Exercise) -> Iterator[dict[str, str]]:
    """Yield a wrong result of each mistake: the input, what differs, what the check says.

    The first input at which a mistake shows itself otherwise than those before it; mistakes that
    look alike at all of them, and of which the check says the same, come once.
    """
    seen: set[tuple[str, ...]] = set()
    calls = [given for seed in SEEDS for given in exercise.calls(seed)]
    rights = [exercise.use(exercise.right, *given.values()) for given in calls]
    for _, way in exercise.ways():
        says = exercise.check(way).message
        found = []
        for given, right in zip(calls, rights, strict=True):
            outcome = outcomes.observe(exercise.use, way, given, right)
            if differs := _difference(outcome, right, exercise.tolerance):
                found.append((_shown(given), differs))
                if found[-1] not in seen:
                    break
        if found and found[-1] in seen:  # nothing tells it from another mistake
            found = found[:1]
        if found and (*found[-1], says) not in seen:
            seen |= {found[-1], (*found[-1], says)}
            yield {"given": found[-1][0], "differs": found[-1][1], "says": says}


def _difference(outcome: outcomes.Outcome, right: Any, tolerance: float) -> str:
    if outcome.error:
        return f"{type(outcome.error).__name__}: {outcome.error}"
    if outcome.trouble:
        return outcome.trouble
    if outcomes.same(outcome.value, right, tolerance):
        return ""
    return outcomes.difference(outcome.value, right, tolerance)


def _shown(given: Mapping[str, Any]) -> str:
    """Return an input as the reader is to see it: with its numbers, if there are not too many."""
    parts = (f"{name} = {_numbers(each)}" for name, each in given.items() if not callable(each))
    whole = ", ".join(parts)
    return whole if len(whole) <= LONGEST else outcomes.show_input(given)


def _numbers(value: Any) -> str:
    if not hasattr(value, "tolist"):
        return outcomes.show(value)
    return str(_rounded(value.tolist()))


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


def still(parts: dict[str, Any]) -> str:
    """Return the first wrong answer of each exercise, as they stand without JavaScript."""
    rows = "".join(
        f"<li><b>{html.escape(one['name'])}</b>: with {html.escape(first['given'])}, an answer was "
        f"wrong ({html.escape(first['differs'])}). {html.escape(first['says'])}</li>"
        for one in parts["exercises"]
        for first in one["answers"][:1]
    )
    return f"<ul>{rows}</ul>"
