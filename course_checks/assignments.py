"""What a homework notebook says about itself, and its cells that wait for an exercise."""

import functools
import tomllib
from collections.abc import Callable
from pathlib import Path

from course_utils import plots

POINTS = Path(__file__).with_name("homework.toml")


@functools.cache
def assignments() -> dict[str, dict]:
    """Return ``homework.toml``: for each assignment its title, exercises, written parts, points."""
    return tomllib.loads(POINTS.read_text(encoding="utf-8"))


def known(assignment: str) -> str:
    """Return the assignment's name as the table has it, without regard to case and spaces.

    Raises:
        ValueError: there is no such assignment.
    """
    name = assignment.lower().replace(" ", "")
    if name not in assignments():
        names = ", ".join(assignments())
        raise ValueError(f"there is no assignment {assignment!r}; there are {names}.")
    return name


def overview(assignment: str) -> None:
    """Display what an assignment, such as ``"hw1"``, asks for: each task, who checks it, points.

    Raises:
        ValueError: no assignment has this name.
    """
    chosen = assignments()[known(assignment)]
    rows = [
        {"task": f"Exercise {number}: {task['function']}", "checked by": "the machine, at once"}
        | {"points": task["points"]}
        for number, task in enumerate(chosen["exercises"], start=1)
    ]
    rows += [
        {"task": task["title"], "checked by": "a person", "points": task["points"]}
        for task in chosen["written"]
    ]
    total = sum(row["points"] for row in rows)
    plots.table(rows, f"{chosen['title']}: {total} points, about {chosen['minutes']} minutes")


def answered(*answers: Callable) -> bool:
    """Return True if no function is the unchanged stub; else say what to write first.

    A stub is recognised by the ``NotImplementedError`` in its code, without being called. So a
    homework runs to its end before anything is answered::

        if answered(softmax):
            print(softmax(logits))
    """
    missing = [a for a in answers if _is_a_stub(a)]
    if missing:
        names = ", ".join(f"`{a.__name__}`" for a in missing)
        plots.say(f"*This cell waits for {names}: write the answer above, then run it again.*")
    return not missing


def _is_a_stub(answer: Callable) -> bool:
    """Return True for a function that raises NotImplementedError in its own code.

    Raises:
        TypeError: it is no function but a result.
    """
    if not callable(answer):
        raise TypeError(
            f"answered needs your functions themselves and got {answer!r:.60}: write the "
            "name of the function without brackets behind it."
        )
    return "NotImplementedError" in getattr(getattr(answer, "__code__", None), "co_names", ())
