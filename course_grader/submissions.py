"""The notebooks among what was handed in: which homework each is, its cells, which attempt counts.

Nothing here runs a student's code or even parses it as Python; notebooks are read as JSON.
"""

import hashlib
import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from course_grader import exports

MAX_CELL = 200_000  # characters
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
    handed_out: frozenset[str]  # sources of the notebook's own code cells

    @property
    def points(self) -> float:
        """What the exercises are worth together."""
        return sum(exercise.points for exercise in self.exercises)

    @property
    def written_points(self) -> float:
        """What the written questions are worth together."""
        return sum(question.points for question in self.written)


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook; ``number`` counts from 1."""

    number: int
    is_code: bool
    source: str
    tags: frozenset[str]


@dataclass(frozen=True)
class Submission:
    """One notebook of one student. ``assignment`` is None where nobody can tell which it is."""

    student: str
    number: str
    file: str
    assignment: Assignment | None
    cells: tuple[Cell, ...]
    digest: str
    order: tuple = ()
    problem: str = ""  # why the file could not be read
    remarks: tuple[str, ...] = ()  # what a person should know

    @property
    def name(self) -> str:
        """The file, or the student where there is none: another for each submission."""
        return self.file or self.student

    def code(self) -> list[tuple[int, str, bool]]:
        """Return of each code cell its number, its source, and whether the student wrote it."""
        known = self.assignment.handed_out if self.assignment else frozenset()
        return [
            (cell.number, cell.source, _plain(cell.source) not in known)
            for cell in self.cells
            if cell.is_code and not ("setup" in cell.tags and _plain(cell.source) in known)
        ]

    def answer_to(self, question: Written) -> str:
        """Return the written answer, an empty text where there is none."""
        for cell in self.cells:
            if not cell.is_code and question.id in cell.tags:
                text = cell.source.partition(_ANSWER)[2] if _ANSWER in cell.source else cell.source
                return text.replace(_EMPTY, "").strip()
        return ""


def _plain(source: str) -> str:
    return "\n".join(line.rstrip() for line in source.strip().splitlines())


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
    return frozenset(_plain(cell.source) for cell in _cells(path.read_bytes())[0] if cell.is_code)


def find_submissions(
    place: Path, assignments: dict[str, Assignment], attempt: int | None = None
) -> tuple[list[Submission], dict[str, str]]:
    """Return what to grade, and every file that is not graded with the reason.

    A student is a folder, or what an export's file name says, else a notebook's name without the
    homework's. Of several notebooks of one homework the last counts, or the ``attempt``-th. A
    student without any notebook is a submission with a problem.

    Raises:
        ValueError: there is nothing to read.
    """
    if attempt is not None and attempt < 1:
        raise ValueError(f"--attempt {attempt}: attempts are counted from 1.")
    files = [file for file in exports.read(place) if file.path]
    skipped = {file.shown: file.problem for file in files if file.problem}
    found: dict[tuple, list[Submission]] = defaultdict(list)
    for file in files:
        is_notebook = exports.is_notebook(file.path[-1]) and not file.is_extra
        if is_notebook and "link" not in file.problem:
            submission = _read(file, assignments)
            key = submission.assignment.key if submission.assignment else file.path
            found[submission.student, key].append(submission)
            skipped.pop(file.shown, None)
    chosen = []
    for attempts in found.values():
        one, others = _choose(attempts, attempt)
        skipped |= others
        chosen += [one] if one else []
    students = {submission.student for submission in chosen}
    for file in files:
        if file.student and file.student not in students and not file.is_extra:
            students.add(file.student)
            problem = _nothing(file.student, files, attempt)
            chosen.append(Submission(file.student, file.number, "", None, (), "", problem=problem))
    return sorted(chosen, key=lambda one: (one.student.casefold(), one.file)), skipped


def _nothing(student: str, files: Iterable[exports.File], attempt: int | None) -> str:
    """Return what a student handed in instead of a notebook."""
    if attempt:
        return f"no attempt {attempt} was handed in"
    theirs = [f.path[-1] for f in files if f.student == student and f.path[-1] and not f.is_extra]
    return "no notebook was handed in" + (f", but {', '.join(theirs[:5])}" if theirs else "")


def _choose(
    attempts: list[Submission], number: int | None
) -> tuple[Submission | None, dict[str, str]]:
    """Return the attempt that counts, and why the others do not."""
    attempts = sorted(attempts, key=lambda one: one.order)
    readable = [one for one in attempts if not one.problem] or attempts
    n = len(attempts)
    chosen = readable[-1] if number is None else attempts[number - 1] if number <= n else None
    instead = f"; {chosen.file} was graded" if chosen else ""
    skipped = {
        one.file: f"attempt {i} of {n}{instead}"
        for i, one in enumerate(attempts, start=1)
        if one is not chosen
    }
    if chosen and n > 1 and not chosen.order[0]:  # the platform does not say which is the last
        remark = f"{n} notebooks of this homework were handed in; graded was {chosen.file}"
        chosen = replace(chosen, remarks=(*chosen.remarks, remark))
    return chosen, skipped


def _read(file: exports.File, assignments: dict[str, Assignment]) -> Submission:
    student = file.student or _student(file.path[-1], assignments)
    digest = hashlib.sha256(file.data).hexdigest()
    try:
        if file.problem or not file.data.strip():
            raise ValueError(file.problem or "the file is empty")
        cells, remarks = _cells(file.data)
        problem = ""
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        cells, remarks = (), ()
        problem = f"not a notebook: {str(error)[:200]}"
    assignment = _assignment(f"{file.path[-1]} {file.task}", cells, assignments)
    if not problem and not assignment:
        problem = "no homework is recognised by its name or its checks"
    about = (student, file.number, file.shown, assignment)
    return Submission(*about, cells, digest, file.order, problem, remarks)


def _student(name: str, assignments: dict[str, Assignment]) -> str:
    stem = re.sub(r"(?i)\.ipynb.*$", "", name)
    for assignment in assignments.values():
        stem = stem.replace(assignment.notebook, "")
    return re.sub(r"(?i)(?<![a-z0-9])hw[ _-]?\d+(?!\d)", "", stem).strip(" _-.") or "(no name)"


def _cells(data: bytes) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
    """Return a notebook's cells, of any version of the format, and remarks on broken ones."""
    try:
        notebook = json.loads(data)  # UTF-8, with or without a signature, UTF-16, UTF-32
    except UnicodeDecodeError:
        notebook = json.loads(data.decode("cp1252", errors="replace"))
    sheets = notebook.get("worksheets", [notebook])  # version 3 had those
    cells, remarks = [], []
    for number, cell in enumerate((cell for s in sheets for cell in s["cells"]), start=1):
        try:
            cells.append(_cell(number, cell))
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            remarks.append(f"cell {number} is broken and was left out: {str(error)[:100]}")
    return tuple(cells), tuple(remarks)


def _cell(number: int, cell: Any) -> Cell:
    source = cell.get("source", cell.get("input", ""))
    source = source if isinstance(source, str) else "".join(source)
    tags = cell.get("metadata", {}).get("tags", [])
    if len(source) > MAX_CELL:
        raise ValueError(f"{len(source):,} characters")
    source = source.replace("\r\n", "\n").replace("\r", "\n").encode(errors="replace").decode()
    return Cell(number, cell["cell_type"] == "code", source, frozenset(map(str, tags)))


def _assignment(
    name: str, cells: Iterable[Cell], assignments: dict[str, Assignment]
) -> Assignment | None:
    """Tell the homework by the checks that the notebook calls, else by the file's name."""
    code = "\n".join(cell.source for cell in cells if cell.is_code)
    called = set(re.findall(r"\bcheck_\w+", code))
    shared = {
        key: len(called & {exercise.check for exercise in assignment.exercises})
        for key, assignment in assignments.items()
    }
    best = [key for key, n in shared.items() if n == max(shared.values(), default=0) and n]
    if len(best) == 1:
        return assignments[best[0]]
    return _by_name(name, [assignments[key] for key in best or assignments])


def _by_name(name: str, assignments: Sequence[Assignment]) -> Assignment | None:
    for assignment in assignments:
        number = re.escape(assignment.key.removeprefix("hw"))
        pattern = rf"(?<![a-z0-9])(hw|homework)[ _-]?0?{number}(?!\d)"
        if assignment.notebook in name or re.search(pattern, name.lower()):
            return assignment
    return None
