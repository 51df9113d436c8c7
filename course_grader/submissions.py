"""What was handed in: finding the notebooks, telling which homework each is, comparing them.

Nothing here runs a student's code or even parses it as Python; notebooks are read as JSON, and
links are not followed, so that nobody hands in somebody else's file.
"""

import builtins
import io
import json
import keyword
import os
import re
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_NOTEBOOK, MAX_CELL = 50 << 20, 200_000  # bytes of a file, characters of a cell
_SKIPPED = {"experiment", "setup"}
_ANSWER, _EMPTY = "**Your answer:**", "*(write here)*"


@dataclass(frozen=True)
class Exercise:
    """A function that a check tests, and what it is worth."""

    check: str
    function: str
    points: float


@dataclass(frozen=True)
class Written:
    """A question that a person reads the answer to."""

    id: str
    points: float
    title: str


@dataclass(frozen=True)
class Assignment:
    """One homework, as ``course_checks/homework.toml`` describes it."""

    key: str
    title: str
    notebook: str
    exercises: tuple[Exercise, ...]
    written: tuple[Written, ...]
    handed_out: frozenset[str]  # ids and sources of the notebook's own code cells


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook; ``number`` counts from 1, ``id`` is what Jupyter calls it."""

    number: int
    id: str
    is_code: bool
    source: str
    tags: frozenset[str]


@dataclass(frozen=True)
class Submission:
    """One notebook of one student. ``assignment`` is None where nobody can tell which it is."""

    student: str
    file: str
    assignment: Assignment | None
    cells: tuple[Cell, ...]
    problem: str = ""  # why the file could not be read

    def code(self) -> list[tuple[str, str, bool]]:
        """Return of each cell to run its title, its source, and whether all of it is to run.

        That is so for exercises and for cells that the student added. Of the notebook's other
        cells, which load models and draw figures, imports and definitions are enough.
        """
        own = self.assignment.handed_out if self.assignment else frozenset()
        functions = [e.function for e in self.assignment.exercises] if self.assignment else []
        exercises = {self.cell_of(function) for function in functions}
        return [
            (
                f"<cell {cell.number}>",
                python_only(cell.source),
                cell in exercises or not {cell.id, cell.source.strip()} & own,
            )
            for cell in self.cells
            if cell.is_code and not cell.tags & _SKIPPED
        ]

    def cell_of(self, function: str) -> Cell | None:
        """Return the last code cell that defines ``function``."""
        pattern = re.compile(rf"^(async )?def {re.escape(function)}\b", flags=re.MULTILINE)
        found = [cell for cell in self.cells if cell.is_code and pattern.search(cell.source)]
        return found[-1] if found else None

    def answer_to(self, question: Written) -> str:
        """Return the written answer, an empty text where there is none."""
        for cell in self.cells:
            if not cell.is_code and question.id in cell.tags:
                text = cell.source.partition(_ANSWER)[2] if _ANSWER in cell.source else cell.source
                return text.replace(_EMPTY, "").strip()
        return ""


def read_assignments(path: Path, notebooks: Path) -> dict[str, Assignment]:
    """Return the homework by its key.

    Args:
        path: the table of points, such as ``course_checks/homework.toml``.
        notebooks: the folder with the notebooks as students get them.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        key: Assignment(
            key,
            entry["title"],
            entry["notebook"],
            tuple(
                Exercise(e["check"], e["function"], e["points"]) for e in entry.get("exercises", [])
            ),
            tuple(Written(w["id"], w["points"], w["title"]) for w in entry.get("written", [])),
            _handed_out(notebooks / f"{entry['notebook']}.ipynb"),
        )
        for key, entry in entries.items()
        if isinstance(entry, dict) and "notebook" in entry
    }


def _handed_out(path: Path) -> frozenset[str]:
    if not path.exists():
        return frozenset()
    cells = [cell for cell in _cells(json.loads(path.read_text("utf-8"))) if cell.is_code]
    return frozenset({cell.id for cell in cells} | {cell.source.strip() for cell in cells}) - {""}


def find_submissions(folder: Path, assignments: dict[str, Assignment]) -> list[Submission]:
    """Return every notebook below ``folder``, by student and file name.

    A student is a folder in ``folder``, or a notebook in it, whose name without the homework's is
    the student's. A student's folder without a notebook is a submission with a problem.
    """
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or entry.name.startswith("."):
            continue
        if entry.is_dir():
            paths = list(_notebooks(entry))
            found += [_read(path, entry.name, folder, assignments) for path in paths]
            if not paths:
                found.append(Submission(entry.name, "", None, (), "no notebook in the folder"))
        elif entry.suffix == ".ipynb":
            found.append(_read(entry, _student(entry.stem, assignments), folder, assignments))
    return found


def _notebooks(folder: Path) -> Iterable[Path]:
    for place, folders, names in os.walk(folder):  # does not follow links
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place, name) for name in sorted(names)):
            if path.suffix == ".ipynb" and not path.is_symlink() and path.is_file():
                yield path


def _student(stem: str, assignments: dict[str, Assignment]) -> str:
    for assignment in assignments.values():
        stem = stem.replace(Path(assignment.notebook).stem, "")
    return re.sub(r"(?i)(?<![a-z0-9])hw\d+(?!\d)", "", stem).strip(" _-.") or "(no name)"


def _read(path: Path, student: str, folder: Path, assignments: dict[str, Assignment]) -> Submission:
    file = str(path.relative_to(folder))
    try:
        if path.stat().st_size > MAX_NOTEBOOK:
            raise ValueError(f"larger than {MAX_NOTEBOOK >> 20} MB")
        cells = tuple(_cells(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        assignment = _assignment(path.stem, (), assignments)
        return Submission(student, file, assignment, (), f"not a notebook: {str(error)[:200]}")
    assignment = _assignment(path.stem, cells, assignments)
    problem = "" if assignment else "no homework is recognised by its name or its checks"
    return Submission(student, file, assignment, cells, problem)


def _cells(notebook: Any) -> Iterable[Cell]:
    for number, cell in enumerate(notebook["cells"], start=1):
        source = cell.get("source", "")
        source = source if isinstance(source, str) else "".join(source)
        tags = cell.get("metadata", {}).get("tags", [])
        if len(source) > MAX_CELL:
            raise ValueError(f"cell {number} has {len(source):,} characters")
        is_code, id_ = cell["cell_type"] == "code", str(cell.get("id", ""))
        yield Cell(number, id_, is_code, source, frozenset(map(str, tags)))


def _assignment(
    stem: str, cells: Sequence[Cell], assignments: dict[str, Assignment]
) -> Assignment | None:
    """Tell the homework by the file's name, else by the checks that the notebook calls."""
    for assignment in assignments.values():
        name = rf"(?<![a-z0-9]){re.escape(assignment.key)}(?!\d)"
        if Path(assignment.notebook).stem in stem or re.search(name, stem.lower()):
            return assignment
    code = "\n".join(cell.source for cell in cells if cell.is_code)
    called = set(re.findall(r"^(check_\w+)\(", code, flags=re.MULTILINE))

    def shared(assignment: Assignment) -> int:
        return len(called & {exercise.check for exercise in assignment.exercises})

    best = max(assignments.values(), key=shared, default=None)
    return best if best and shared(best) else None


def python_only(source: str) -> str:
    """Return a cell without magics and shell commands; lines keep their numbers."""
    if source.startswith("%%") and not source.startswith(("%%time", "%%capture")):
        return ""
    command = re.compile(r"^([ \t]*)(?:[%!?].*|[\w.]+\?{1,2}\s*)$", flags=re.MULTILINE)
    return command.sub(r"\1pass", source)


# --- who handed in the same --------------------------------------------------------------------


def fingerprint(source: str) -> str:
    """Return the code without comments, docstrings, layout and its own names.

    Names are numbered in the order in which they come, but for Python's, those of the usual
    libraries and attributes (``.softmax``), which say what is done.
    """
    known = {*keyword.kwlist, *dir(builtins), "torch", "math", "np", "F", "Counter"}
    numbers: dict[str, str] = {}
    out, before = [], ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER):
                continue
            text = {tokenize.NEWLINE: "\n", tokenize.INDENT: "{", tokenize.DEDENT: "}"}.get(
                token.type, token.string
            )
            if token.type == tokenize.STRING and before in ("", "\n", "{"):
                text = ""  # a docstring
            if text in ("", "\n") and before in ("", "\n", "{"):
                continue  # a docstring, and the end of its line
            if token.type == tokenize.NAME and before != "." and text not in known:
                text = numbers.setdefault(text, f"name{len(numbers)}")
            out.append(text)
            before = text or before
    except (tokenize.TokenError, SyntaxError, ValueError):
        return " ".join(source.split())  # not Python: compare it as it stands
    return " ".join(out)


def identical(submissions: Sequence[Submission]) -> dict[str, list[str]]:
    """Return for each file the files of other students with the same answers.

    Compared are the exercises that were attempted, all of them together, and nothing else; where
    none was, nothing is identical.
    """
    same: dict[tuple, list[Submission]] = defaultdict(list)
    for submission in submissions:
        if submission.assignment:
            cells = [submission.cell_of(e.function) for e in submission.assignment.exercises]
            answers = tuple(
                fingerprint(cell.source)
                for cell in cells
                if cell and "raise NotImplementedError" not in cell.source
            )
            if answers:
                same[submission.assignment.key, answers].append(submission)
    return {
        one.file: [other.file for other in group if other.student != one.student]
        for group in same.values()
        for one in group
    }
