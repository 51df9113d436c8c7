"""Running the checks on a submission: the checks here, the student's code in a worker.

A check gets a stand-in for the student's function. Each call of it sends the arguments to the
worker and gives back what came out, so that every check of the course works here as it stands,
diagnoses included, and neither the checks nor what they expect ever enter the student's process.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from course_checks import Verdict, Wrong, exercises
from course_grader import extra_checks, protocol
from course_grader.sandbox import Limits, StudentError, Worker, WorkerLost
from course_grader.submissions import Exercise, Submission

MAX_RESTARTS = 4  # of a worker that a submission ends or hangs
PUBLIC_ONLY = (
    0.5  # the share of the points when the notebook's own check passes and the extra fails
)
_WORST_FIRST = ("timed out", "out of memory", "crashed", "error")
_NO_MEMORY = ("MemoryError", "can't allocate memory", "not enough memory", "Cannot allocate memory")


@dataclass(frozen=True)
class Scored:
    """One exercise: what the notebook's check says, what the extra check says, and the points."""

    exercise: Exercise
    public: Verdict
    extra: Verdict | None
    points: float


@dataclass
class Graded:
    """One submission with everything that a person wants to know about it."""

    submission: Submission
    scored: list[Scored] = field(default_factory=list)
    status: str = "ok"
    notes: list[str] = field(default_factory=list)
    isolation: dict[str, str] = field(default_factory=dict)
    seconds: float = 0

    @property
    def total(self) -> float:
        """The points of the exercises; what is written is not among them."""
        return sum(one.points for one in self.scored)


def grade_submission(submission: Submission, limits: Limits, seed: int) -> Graded:
    """Run a submission's checks; whatever its code does, this returns within the limits."""
    start = time.monotonic()
    graded = Graded(submission)
    if submission.problem or submission.assignment is None:
        graded.status, graded.notes = "unreadable", [submission.problem]
        return graded
    session = _Session(submission, limits)
    try:
        for exercise in submission.assignment.exercises:
            graded.scored.append(_score(exercise, session, seed))
    finally:
        session.close()
    attempted = any(one.public.passed is not None for one in graded.scored)
    written = any(map(submission.answer_to, submission.assignment.written))
    trouble = [status for status in _WORST_FIRST if status in session.statuses]
    graded.status = trouble[0] if trouble else "ok" if attempted or written else "empty"
    graded.notes, graded.isolation = session.notes, session.isolation
    graded.seconds = time.monotonic() - start
    return graded


def find_check(name: str) -> Callable[[Callable], Verdict]:
    """Return the check of that name. Raises LookupError if the course has none."""
    return exercises.find(name).check


def _score(exercise: Exercise, session: "_Session", seed: int) -> Scored:
    tests = exercises.find(exercise.check).judge  # without what the notebook's check does around
    public = _verdict(tests, session.stand_in(exercise.function))
    extra = None
    more = extra_checks.EXTRA.get(exercise.check)
    if public.passed and more:
        extra = _verdict(lambda answer: more(answer, seed), session.stand_in(exercise.function))
    share = 0.0 if not public.passed else 1.0 if extra is None or extra.passed else PUBLIC_ONLY
    return Scored(exercise, public, extra, share * exercise.points)


def _verdict(tests: Callable[[Callable], str | None], answer: "_StandIn") -> Verdict:
    try:
        return Verdict(True, tests(answer) or "")
    except NotImplementedError:
        return Verdict(None, "Nothing was written here.")
    except (Wrong, _Missing) as reason:
        return Verdict(False, str(reason)[:1000])
    except protocol.Unsendable as reason:
        return Verdict(False, f"Your function gave {reason}. Return numbers, texts, tensors …")
    except WorkerLost as reason:
        return Verdict(False, f"Your code {reason}.")
    except Exception as error:
        if notes := getattr(error, "__notes__", None):  # by the stand-in
            return Verdict(False, f"Your code stopped with {notes[0]}")
        return Verdict(False, f"Your result could not be compared: {error!s:.500}")


class _Missing(Exception):
    """There is no function of that name."""


class _StandIn:
    """Calls the student's function in the worker; what it raises is raised here."""

    def __init__(self, session: "_Session", function: str) -> None:
        self.session, self.function = session, function
        self.__name__ = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.session.call(self.function, args, kwargs)
        except StudentError as error:
            raised = protocol.exception(error.kind, error.message)
            raised.add_note(str(error)[:1000])
            raise raised from None


class _Session:
    """A worker in which the submission's cells have run, started again when it is lost.

    The cell that ended it then runs with its definitions only, so that a function above the crash
    still counts; when that is not enough, it is left out.
    """

    def __init__(self, submission: Submission, limits: Limits) -> None:
        self.cells, self.limits = submission.code(), limits
        self.functions = {e.function for e in submission.assignment.exercises}
        self.deadline = time.monotonic() + limits.seconds
        self.how = ["whole" if whole else "definitions" for _, _, whole in self.cells]
        self.statuses: set[str] = set()
        self.notes: list[str] = []
        self.isolation: dict[str, str] = {}
        self._worker: Worker | None = None
        self._starts = 0

    def close(self) -> None:
        """End the worker."""
        if self._worker:
            self._worker.close()
            self._worker = None

    def stand_in(self, function: str) -> _StandIn:
        """Return something to call in place of the student's function."""
        return _StandIn(self, function)

    def call(self, function: str, args: tuple, kwargs: dict) -> Any:
        """Call the student's function in a worker; see ``Worker.call`` for what is raised."""
        worker = self._ready()
        try:
            return worker.call(function, args, kwargs, self.deadline)
        except LookupError:
            raise _Missing(f"There is no function {function} after the notebook has run.") from None
        except WorkerLost as lost:
            self._lost(lost, f"{function}(…)")
            raise
        except StudentError as error:
            if _is_out_of_memory(error):
                self.statuses.add("out of memory")
            raise

    def _lost(self, lost: WorkerLost, where: str) -> None:
        self.statuses.add(lost.status)
        self.notes.append(f"{where} {lost}")
        self.close()

    def _ready(self) -> Worker:
        """Return a worker in which all cells have run."""
        if time.monotonic() > self.deadline:
            self.statuses.add("timed out")
            raise WorkerLost("timed out", "was not run: the submission's time was over")
        while self._worker is None:
            if self._starts > MAX_RESTARTS:
                raise WorkerLost("crashed", "was not run again: it ended or hung too often before")
            self._starts += 1
            self._worker = Worker(self.limits)
            self.isolation = self._worker.isolation
            self._run_cells()
        return self._worker

    def _run_cells(self) -> None:
        for number, (title, source, _) in enumerate(self.cells):
            if self.how[number] == "left out" or self._worker is None:
                continue
            try:
                only = self.how[number] == "definitions"
                self._worker.run(source, title, self.deadline, definitions_only=only)
            except StudentError as error:
                self._failed(number, error)
            except WorkerLost as lost:
                self._degrade(number)
                self._lost(lost, title.strip("<>"))

    def _failed(self, number: int, error: StudentError) -> None:
        """Note a cell that stopped; one that ate all memory also makes the worker start again."""
        title, source, _ = self.cells[number]
        note = f"{title.strip('<>')} stopped with {error}"
        if note not in self.notes:
            self.notes.append(note)
        if _is_out_of_memory(error):
            self.statuses.add("out of memory")
            self._degrade(number)
            self.close()
        elif any(f"def {name}(" in source for name in self.functions):
            self.statuses.add("error")

    def _degrade(self, number: int) -> None:
        self.how[number] = "definitions" if self.how[number] == "whole" else "left out"


def _is_out_of_memory(error: StudentError) -> bool:
    return any(words in f"{error.kind}: {error.message}" for words in _NO_MEMORY)
