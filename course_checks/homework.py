"""What you have done of the exercises and the homework, as recorded on this machine."""

import ast
import functools
import importlib.util
import uuid
from dataclasses import dataclass
from pathlib import Path

from IPython.display import display

from course_checks import record
from course_checks.assignments import assignments, known
from course_utils.markup import html_table

#: The chapters with exercises, and the module of ``course_checks`` that holds theirs.
CHAPTERS = {
    "sequences": "1. Sequences and language models",
    "tokenization": "2. Tokenization",
    "embeddings": "3. Embeddings",
    "positions": "4. Positional encoding",
    "attention": "5. Attention",
    "gpt2": "6. Inside GPT-2",
    "generation": "7. Generating text",
    "training": "8. Train a mini-LLM",
    "family": "9. The transformer family",
    "product": "10. From model to product",
    "scaling": "11. Past one machine",
}
_STATES = {
    "right": "✓ right",
    "broken": "✗ was right, now wrong",
    "tried": "✗ not yet right",
    "open": "○ not attempted",
}


@dataclass(frozen=True)
class Exercise:
    """One exercise: its check, its points (None in a chapter), its state, the attempts so far.

    ``state`` is what the last check found: "right", "broken" if an earlier one was right, "tried"
    if none was, "open" if there was none.
    """

    check: str
    points: int | None
    state: str
    attempts: int


@dataclass(frozen=True)
class Part:
    """One chapter or homework with its exercises; ``written`` are points that a person gives."""

    title: str
    exercises: tuple[Exercise, ...]
    written: int = 0

    def count(self, state: str) -> int:
        """Return how many of the exercises are in this state."""
        return sum(exercise.state == state for exercise in self.exercises)

    @property
    def points(self) -> str:
        """Points of the right exercises, of all of them: "4 of 6"; empty for a chapter."""
        if self.exercises and self.exercises[0].points is None:
            return ""
        points = [exercise.points or 0 for exercise in self.exercises]
        got = sum(exercise.points or 0 for exercise in self.exercises if exercise.state == "right")
        return f"{got} of {sum(points)}"


@dataclass(frozen=True)
class Status:
    """A table of parts; a single part is shown exercise by exercise."""

    parts: tuple[Part, ...]

    def _rows(self) -> list[list[str]]:
        if len(self.parts) == 1:
            part = self.parts[0]
            rows = [["Exercise", "State", "Attempts", "Points"]]
            for each in part.exercises:
                name = each.check.removeprefix("check_")
                points = "" if each.points is None else str(each.points)
                rows.append([name, _STATES[each.state], str(each.attempts), points])
            return rows
        rows = [["", "Right", "Was right", "Tried", "Not attempted", "Points"]]
        for part in self.parts:
            counts = [str(part.count(state)) for state in _STATES]
            rows.append([part.title, *counts, part.points])
        return rows

    def _caption(self) -> str:
        if len(self.parts) != 1:
            return "Exercises, as recorded on this machine and nowhere else"
        part = self.parts[0]
        points = f", {part.points} points" if part.points else ""
        by_hand = f"; {part.written} more for the written answers" if part.written else ""
        right = f"{part.count('right')} of {len(part.exercises)} exercises right"
        return f"{part.title}: {right}{points}{by_hand}"

    def __repr__(self) -> str:
        rows = self._rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(r, widths, strict=True)) for r in rows]
        return "\n".join([self._caption(), *(line.rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        head, *rows = self._rows()
        table = html_table(rows, head, caption=self._caption(), row_heads=True)
        return f'<div class="course-table" role="status">{table}</div>'


@functools.cache
def _checks_of(module: str) -> tuple[str, ...]:
    """Return the checks of a module in their order, read without importing what it needs."""
    spec = importlib.util.find_spec(f"course_checks.{module}")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"there is no module course_checks.{module}")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    names = [
        part.name if isinstance(part, ast.FunctionDef) else ast.unparse(part.targets[0])
        for part in tree.body
        if isinstance(part, (ast.FunctionDef, ast.Assign))
    ]
    return tuple(name for name in names if name.startswith("check_"))


def status(assignment: str | None = None) -> Status:
    """Return what is right, tried and open: of everything, or of one assignment such as "hw1".

    Raises:
        ValueError: there is no such assignment.
    """
    chosen = assignment and known(assignment)
    entries = record.read()

    def exercise(check: str, points: int | None) -> Exercise:
        entry = entries.get(check, {"passed": None, "right": None, "attempts": 0})
        broken = "broken" if entry["right"] else "tried"
        state = {True: "right", False: broken, None: "open"}[entry["passed"]]
        return Exercise(check, points, state, entry["attempts"])

    parts = []
    if chosen is None:
        for module, title in CHAPTERS.items():
            parts.append(Part(title, tuple(exercise(name, None) for name in _checks_of(module))))
    for name, entry in assignments().items():
        if chosen in (None, name):
            exercises = [exercise(each["check"], each["points"]) for each in entry["exercises"]]
            written = sum(each["points"] for each in entry.get("written", []))
            parts.append(Part(entry["title"], tuple(exercises), written))
    return Status(tuple(parts))


def panel(assignment: str) -> None:
    """Display the status of one assignment; it is brought up to date whenever a check is run."""
    assignment = known(assignment)
    if _shown := _panels.pop(assignment, None):
        record.listeners.remove(_shown)
    handle = display(status(assignment), display_id=f"course-{assignment}-{uuid.uuid4().hex}")
    if handle is None:  # outside a notebook
        return

    def refresh() -> None:
        handle.update(status(assignment))

    _panels[assignment] = refresh
    record.listeners.append(refresh)


_panels: dict = {}
