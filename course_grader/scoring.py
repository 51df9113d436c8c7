"""Running the checks on a submission: the checks here, the student's code in a worker.

A check gets a stand-in for the student's function. Each call of it sends the arguments to the
worker and gives back what came out, so that every check of the course works here as it stands,
diagnoses included, and neither the checks nor what they expect ever enter the student's process.

Cells run in their order. An answer is judged when its cell has run, as it was in the notebook, and
again at the end if it was not right then; the better verdict counts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from course_checks import Wrong, exercises
from course_grader import protocol
from course_grader.sandbox import StudentError, Worker, WorkerLost, Workshop, three_texts
from course_grader.submissions import Assignment, Submission

MAX_RESTARTS = 4  # of a worker that a submission ends or hangs
PUBLIC_ONLY = 0.5  # of the points, when the notebook's own check passes and the extra one fails
_GONE = "it does not exist after the notebook has run"
_WORST_FIRST = ("timed out", "out of memory", "crashed", "error")
_NO_MEMORY = ("MemoryError", "can't allocate memory", "not enough memory", "Cannot allocate memory")


@dataclass
class Judged:
    """What a check says: right, wrong, or (None) not attempted.

    ``trouble`` is why a person should look: not a wrong answer was found, but none.
    """

    passed: bool | None
    message: str
    trouble: str = ""


@dataclass
class Scored:
    """One exercise: what the notebook's check says, what the extra check says, and the points."""

    function: str
    of: float
    public: Judged
    extra: Judged | None
    points: float


@dataclass
class Graded:
    """What became of one submission; plain data, which is kept from run to run."""

    status: str = "ok"
    scored: list[Scored] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    written: dict[str, list[str]] = field(default_factory=dict)  # the answers, to be compared
    seconds: float = 0
    missing: dict[str, str] = field(default_factory=dict)  # of the fence: why, by part

    @property
    def total(self) -> float:
        """The points of the exercises; what is written is not among them."""
        return sum(one.points for one in self.scored)

    @property
    def lacked_time(self) -> bool:
        """Whether something was stopped, and points were lost."""
        return self.status == "timed out" and any(one.points < one.of for one in self.scored)

    def look(self) -> list[str]:
        """Return why a person should look at this; nothing where only wrong answers cost points."""
        lost = [one for one in self.scored if one.points < one.of and one.public.passed is not None]
        each = [(one, judged) for one in lost for judged in (one.public, one.extra) if judged]
        why = [f"{one.function}: {judged.trouble}" for one, judged in each if judged.trouble]
        if self.status not in ("ok", "empty") or lost:
            why += self.notes
        return why if why or self.status in ("ok", "empty") else [self.status]

    @classmethod
    def from_data(cls, data: dict) -> "Graded":
        """Return what :func:`dataclasses.asdict` made data of."""
        scored = [
            Scored(
                **one | {name: one[name] and Judged(**one[name]) for name in ("public", "extra")}
            )
            for one in data["scored"]
        ]
        return cls(**data | {"scored": scored})


def grade_submission(
    submission: Submission, workshop: Workshop, seed: int, slot: int = 0
) -> Graded:
    """Run a submission's checks; whatever its code does, this returns within the limits."""
    start = time.monotonic()
    if submission.problem or submission.assignment is None:
        return Graded("unreadable", notes=[submission.problem])
    session = _Session(submission, submission.assignment, workshop, seed, slot)
    try:
        session.run()
    finally:
        session.close()
    scored = list(session.scored.values())
    attempted = any(one.public.passed is not None for one in scored)
    written = any(map(submission.answer_to, submission.assignment.written))
    trouble = [status for status in _WORST_FIRST if status in session.statuses]
    status = trouble[0] if trouble else "ok" if attempted or written else "empty"
    seconds = round(time.monotonic() - start, 2)
    return Graded(status, scored, session.notes, session.written, seconds, workshop.missing)


class _Missing(Exception):
    """There is no function of that name."""


class _StandIn:
    """Calls the student's function in the worker; what it raises is raised here."""

    def __init__(self, session: "_Session", function: str) -> None:
        self.session, self.__name__ = session, function
        self.deadline = time.monotonic() + session.check_seconds

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.session.call(self.__name__, args, kwargs, self.deadline)
        except StudentError as error:
            if error.stopped:
                raise WorkerLost("timed out", str(error.message)) from None
            raised = protocol.exception(error.kind, error.message)
            raised.add_note(str(error)[:1000])
            raise raised from None

    @property
    def names_used(self) -> set[str]:
        """All names that the answer, and what it calls, mention."""
        return self.session.names_used(self.__name__)


def _judged(tests: Callable, answer: _StandIn, *more: int) -> Judged:
    try:
        return Judged(True, str(tests(answer, *more) or ""))
    except NotImplementedError:
        return Judged(None, "Nothing was written here.")
    except Wrong as reason:
        return Judged(False, str(reason)[:1000])
    except _Missing as reason:
        return Judged(False, str(reason), _GONE)
    except protocol.Unsendable as reason:
        message = f"Your function gave {reason}. Return numbers, texts, tensors …"
        return Judged(False, message, f"gave {reason}")
    except WorkerLost as reason:
        return Judged(False, f"Your code {reason}.", f"{reason.status}: {reason}")
    except Exception as error:
        if notes := getattr(error, "__notes__", None):  # by the stand-in
            return Judged(False, f"Your code stopped with {notes[0]}", f"stopped with {notes[0]}")
        message = f"Your result could not be compared: {error!s:.500}"
        return Judged(False, message, message)


class _Session:
    """A worker in which the submission's cells run, started again when it is lost.

    A cell that ended it then runs with its definitions only, so that a function above the crash
    still counts; when that is not enough, it is left out.
    """

    def __init__(
        self,
        submission: Submission,
        assignment: Assignment,
        workshop: Workshop,
        seed: int,
        slot: int,
    ) -> None:
        self.check_seconds = workshop.seconds / 4
        self.workshop, self.seed, self.slot = workshop, seed, slot
        self.exercises = {e.function: e for e in assignment.exercises}
        self.cells = submission.code()
        self.how = ["whole"] * len(self.cells)
        self.left = workshop.seconds  # for cells
        self.scored: dict[str, Scored] = {}
        self.written: dict[str, list[str]] = {}
        self.statuses: set[str] = set()
        self.notes = list(submission.remarks)
        self._worker: Worker | None = None
        self._starts = self._ran = self._reached = 0
        self._at_end = False  # from then on functions count as they are at the end

    def close(self) -> None:
        """End the worker."""
        if self._worker:
            self._worker.close()
            self._worker = None

    def run(self) -> None:
        """Run the cells and judge the answers, until all are right or all has run."""
        try:
            while self._reached < len(self.cells) and not self._all_right():
                new = self._next_cell()
                if self._worker and self._ran > self._reached:
                    self._reached = self._ran
                    for function in new:
                        self._judge(function)
        except WorkerLost as lost:
            self._note(str(lost), lost.status)
        self._at_end = True
        for function in self.exercises:
            if not self._is_right(function):
                self._judge(function)
            is_there = any(f"def {function}(" in source for _, source, _ in self.cells)
            if is_there and self.scored[function].public.trouble == _GONE:
                self.statuses.add("error")

    def call(self, function: str, args: tuple, kwargs: dict, deadline: float) -> Any:
        """Call the student's function in a worker; see ``Worker.call`` for what is raised."""
        seconds = deadline - time.monotonic()
        worker = self._ready()
        if seconds <= 0:
            stopped = f"was stopped after {self.check_seconds:.3g} s"
            self._note(f"{function}(…) {stopped}", "timed out")
            raise WorkerLost("timed out", stopped)
        try:
            return worker.call(function, args, kwargs, seconds, self._at_end)
        except LookupError:
            raise _Missing(f"There is no function {function} after the notebook has run.") from None
        except WorkerLost as lost:
            self._lost(lost, f"{function}(…)")
            raise
        except StudentError as error:
            if _is_out_of_memory(error):
                self.statuses.add("out of memory")
            if error.stopped:
                error.message = f"was stopped after {self.check_seconds:.3g} s"
                self._note(f"{function}(…) {error.message}", "timed out")
            raise

    def names_used(self, function: str) -> set[str]:
        """Return the names that a function mentions, as far as the worker can tell."""
        asked = {"function": function, "at_end": self._at_end}
        try:
            names = self._ready().ask({"do": "names", **asked}, 5).get("names")
        except (StudentError, WorkerLost):
            return set()
        return {str(name) for name in names} if isinstance(names, list) else set()

    def _is_right(self, function: str) -> bool:
        one = self.scored.get(function)
        return one is not None and one.points == one.of

    def _all_right(self) -> bool:
        return all(map(self._is_right, self.exercises))

    def _judge(self, function: str) -> None:
        """Judge an answer; keep the verdict if it is better than an earlier one."""
        exercise, before = self.exercises[function], self.scored.get(function)
        if before and any(word in before.public.trouble for word in ("timed out", "crashed")):
            return  # once is enough
        judge = exercises.find(exercise.check).judge
        public, extra = _judged(judge, _StandIn(self, function)), None
        if public.passed:
            extra = _judged(judge, _StandIn(self, function), self.seed)
        share = 0.0 if not public.passed else 1.0 if extra is None or extra.passed else PUBLIC_ONLY
        one = Scored(function, exercise.points, public, extra, share * exercise.points)
        if before is None or one.points > before.points or before.public.passed is None:
            self.scored[function] = one

    def _note(self, note: str, status: str = "ok") -> None:
        self.statuses.add(status)
        if note not in self.notes:
            self.notes.append(note)

    def _lost(self, lost: WorkerLost, where: str) -> None:
        self._note(f"{where} {lost}", lost.status)
        self.close()

    def _ready(self) -> Worker:
        """Return a worker in which all cells have run that had."""
        while self._worker is None or self._ran < self._reached:
            self._next_cell()
        return self._worker

    def _start(self) -> Worker:
        if self._starts > MAX_RESTARTS:
            raise WorkerLost("crashed", "was not run again: it ended or hung too often before")
        self._starts += 1
        self._ran = 0
        worker = self.workshop.worker(self.slot)
        if more := set(worker.missing) - set(self.workshop.missing):
            worker.close()
            raise WorkerLost("crashed", f"was not run: the fence did not hold ({', '.join(more)})")
        cells = [[source, own] for _, source, own in self.cells]
        functions = {e.check: e.function for e in self.exercises.values()}
        answer = worker.ask({"do": "read", "cells": cells, "functions": functions}, 20)
        self.written = _texts(answer.get("written"))
        return worker

    def _next_cell(self) -> list[str]:
        """Run the next cell; return the exercises whose answers are new with it."""
        if self._worker is None:
            self._worker = self._start()
        number = self._ran
        if number >= len(self.cells):
            return []
        self._ran += 1
        if self.how[number] == "left out":
            return []
        title = f"cell {self.cells[number][0]}"
        if self.left <= 0 and self.how[number] == "whole":
            self.how[number] = "definitions"
            self._note(f"{title} and later ones: only definitions were run, the time was over")
        only, seconds = self.how[number] == "definitions", min(self.workshop.seconds / 2, self.left)
        seconds = max(seconds, 1.0)
        request = {"do": "cell", "number": number, "seconds": seconds, "definitions": only}
        start = time.monotonic()
        try:
            answer = self._worker.ask(request, seconds)
        except (StudentError, protocol.Unsendable) as error:
            self._note(f"{title} stopped with {error}")
            return []
        except WorkerLost as lost:
            self.how[number] = "left out" if only else "definitions"
            self._lost(lost, title)
            return []
        finally:
            self.left -= time.monotonic() - start
        self._note_cell(number, title, answer, seconds)
        new = answer.get("new")
        return [name for name in self.exercises if name in new] if isinstance(new, list) else []

    def _note_cell(self, number: int, title: str, answer: dict, seconds: float) -> None:
        """Note a cell that was stopped or that stopped by itself."""
        if answer.get("stopped") is True:
            self.how[number] = "definitions"  # should it have to run again
            self._note(f"{title} was stopped after {seconds:.3g} s", "timed out")
        elif "error" in answer:
            error = StudentError(*three_texts(answer["error"]))
            self._note(f"{title} stopped with {error}")
            if _is_out_of_memory(error):
                self.statuses.add("out of memory")


def _texts(written: Any) -> dict[str, list[str]]:
    if not isinstance(written, dict):
        return {}
    return {
        str(name)[:100]: [str(line)[:500] for line in lines[:200]]
        for name, lines in list(written.items())[:50]
        if isinstance(lines, list)
    }


def _is_out_of_memory(error: StudentError) -> bool:
    return any(words in f"{error.kind}: {error.message}" for words in _NO_MEMORY)
