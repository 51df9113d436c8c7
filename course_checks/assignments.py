"""What a homework notebook says about itself, and its cells that wait for an exercise."""

import dis
import functools
import inspect
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

    A stub is recognised by its code, which raises ``NotImplementedError`` and never returns; it is
    not called. So a homework runs to its end before anything is answered::

        if answered(softmax):
            print(softmax(logits))
    """
    missing = [answer for answer in map(_undecorated, answers) if _is_stub(answer)]
    if missing:
        names = ", ".join(f"`{a.__name__}`" for a in missing)
        plots.say(f"*This cell waits for {names}: write the answer above, then run it again.*")
    return not missing


def _undecorated(answer: Callable) -> Callable:
    """Return the function inside decorators and `partial`s; raise TypeError if there is none."""
    if not callable(answer):
        raise TypeError(
            f"answered needs your functions themselves and got {answer!r:.60}: write the name of "
            "the function without brackets after it."
        )
    while isinstance(answer, functools.partial):
        answer = answer.func
    return inspect.unwrap(answer)


def _is_stub(function: Callable) -> bool:
    code = getattr(function, "__code__", None)  # a builtin has none, and is an answer
    if code is None or "NotImplementedError" not in code.co_names:
        return False
    return not any(
        step.opname in ("RETURN_VALUE", "RETURN_CONST") for step in dis.get_instructions(code)
    )
