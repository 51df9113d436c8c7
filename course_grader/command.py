"""``python -m course_utils grade SUBMISSIONS --out grades.csv``"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

import course_checks
import course_utils
from course_grader import confine, report
from course_grader.sandbox import Limits, NoFence, Workshop
from course_grader.scoring import Graded, as_data, grade_submission, tests_of
from course_grader.store import Store
from course_grader.submissions import Assignment, Submission, find_submissions, read_assignments

CHECKS = Path(course_checks.__file__).resolve().parent
HOMEWORK = CHECKS.parent / "notebooks" / "homework"
_REWRITE_SECONDS = 10  # between two versions of the tables while the grading goes on


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what ``grade`` takes."""
    parser.add_argument("submissions", type=Path, help="a folder for each student, or an export")
    parser.add_argument("--out", type=Path, default=Path("grades.csv"))
    parser.add_argument(
        "--format",
        default="plain",
        choices=("plain", "excel", "canvas", "moodle"),
        help="excel: the table says that it is UTF-8; the others: one more file, to be imported",
    )
    parser.add_argument("--attempt", type=int, help="which of several counts, from 1 (the last)")
    parser.add_argument(
        "--limit-seconds",
        type=float,
        default=120,
        help="for a notebook's cells; half of it for one, a quarter for a check",
    )
    parser.add_argument(
        "--limit-memory", type=float, default=4, help="GB of address space, 1 of it for torch"
    )
    parser.add_argument("--seed", type=int, help="draws the extra checks' inputs from this number")
    parser.add_argument(
        "--unsafe", action="store_true", help="run students' code even where the fence has a gap"
    )


def run(options: argparse.Namespace) -> int:
    """Grade, and return the exit status: 1 if nothing could be graded, 130 after Ctrl-C."""
    sys.stdout.reconfigure(errors="replace")
    sys.stderr.reconfigure(errors="replace")
    limits = Limits(options.limit_seconds, int(options.limit_memory * 2**30))
    try:
        return grade(options, limits)
    except (ValueError, RuntimeError, OSError, NoFence) as error:
        print(error, file=sys.stderr)
        return 1


def assignments() -> dict[str, Assignment]:
    """Return the homework of this course."""
    return read_assignments(CHECKS / "homework.toml", HOMEWORK)


def grade(options: argparse.Namespace, limits: Limits) -> int:
    """Grade every submission that is new or has changed, and write tables, pages and a report.

    Raises:
        ValueError: there is nothing to grade, or no place to write to.
        NoFence: students' code cannot be fenced in here.
    """
    if options.out.resolve().is_relative_to(options.submissions.resolve()):
        raise ValueError(f"--out {options.out} lies among the submissions; choose another place.")
    found, skipped = find_submissions(options.submissions, assignments(), options.attempt)
    store = Store(options.out)
    seed = options.seed if options.seed is not None else store.seed
    store.choose_seed(secrets.randbelow(2**31 - 1000) + 1000 if seed is None else seed)
    course = _course(limits, store.seed)
    keys = {one.file or one.student: f"{course}-{_key(one)}" for one in found}
    marks, complaints = store.read_marks()
    everything = report.Class(found, {}, marks, skipped=skipped, seed=store.seed)
    everything.complaints = complaints
    everything.results = {n: done for n, key in keys.items() if (done := store.get(key))}
    todo = [one for one in found if (one.file or one.student) not in everything.results]
    if kept := len(found) - len(todo):
        print(f"{kept} of {len(found)} submissions were graded before and have not changed.")
    written = time.monotonic()
    stopped = False
    try:
        with _workshop(options, limits, bool(todo)) as workshop:
            everything.missing = workshop.missing if workshop else {}
            for one, graded in _each(todo, workshop, store.seed):
                name = one.file or one.student
                everything.results[name] = graded
                if graded.status != "not graded":
                    store.keep(keys[name], graded)
                _say(len(everything.results), len(found), name, graded)
                if time.monotonic() > written + _REWRITE_SECONDS:
                    _write(store, everything, options.format)
                    written = time.monotonic()
    except KeyboardInterrupt:
        stopped = True
    _write(store, everything, options.format)
    print(f"{store.out}, {store.overview} and the pages in {store.feedback} are written.")
    if stopped:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    store.lengthen_marks(found)
    print(f"Marks by hand go into {store.marks}; run the command again to add them up.")
    for part, why in everything.missing.items():
        print(f"Attention, the fence has a gap, {part}: {why}.", file=sys.stderr)
    return 0


def _write(store: Store, everything: report.Class, style: str) -> None:
    everything.alike = report.alike(everything)
    report.write(store, everything, style)


def _say(number: int, of: int, name: str, graded: Graded) -> None:
    text = "".join(c if c.isprintable() else "�" for c in name)
    points = f"{graded.total:g} points, {graded.seconds:.1f} s"
    print(f"[{number}/{of}] {text}: {graded.status}, {points}", flush=True)


def _course(limits: Limits, seed: int) -> str:
    """Return a fingerprint of all that decides a result but the submission."""
    digest = hashlib.sha256(f"{limits} {seed} {sys.version} {torch.__version__}".encode())
    folders = CHECKS, Path(__file__).parent, Path(course_utils.__file__).parent, HOMEWORK
    for folder in folders:
        for path in sorted([*folder.glob("*.py"), *folder.glob("*.toml"), *folder.glob("*.ipynb")]):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _key(one: Submission) -> str:
    about = [one.student, one.file, one.digest, one.problem, list(one.remarks)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


@contextlib.contextmanager
def _workshop(
    options: argparse.Namespace, limits: Limits, wanted: bool
) -> Iterator[Workshop | None]:
    if not wanted:
        yield None
        return
    print("Preparing the workers and trying the fence …", flush=True)
    hidden = (options.submissions, options.out.resolve().parent)
    notebooks = tuple(sorted(HOMEWORK.glob("*.ipynb")))
    with Workshop(limits, hidden, notebooks, options.unsafe) as workshop:
        yield workshop


# --- several at a time ---------------------------------------------------------------------------


def _each(
    todo: Sequence[Submission], workshop: Workshop | None, seed: int
) -> Iterator[tuple[Submission, Graded]]:
    """Yield every submission with its result, as they come.

    Each is graded in a process of its own, so that one result cannot depend on another, and one
    accident cannot cost more than one result.
    """
    torch.set_num_threads(1)  # a copy of this process could not use more
    for one in {one.assignment.key: one.assignment for one in todo if one.assignment}.values():
        for exercise in one.exercises:
            tests_of(exercise.check)  # imports what the copies need
    waiting, running = list(todo), {}
    copies = multiprocessing.get_context("fork")
    try:
        while waiting or running:
            while waiting and len(running) < _slots():
                slot = min(set(range(_slots())) - {slot for slot, *_ in running.values()})
                one, (mine, theirs) = waiting.pop(0), copies.Pipe(duplex=False)
                given = (theirs, one, workshop, seed, slot)
                process = copies.Process(target=_grade_one, args=given, daemon=True)
                process.start()
                theirs.close()
                running[mine] = slot, one, process
            for result in wait(list(running)):
                _, one, process = running.pop(result)
                yield one, _received(result)
                process.join()
    finally:
        for _, _, process in running.values():
            process.kill()
            process.join()


def _slots() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, 8))


def _grade_one(
    answer: Connection, one: Submission, workshop: Workshop, seed: int, slot: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process sees to it
    confine.die_with_parent()
    torch.manual_seed(seed)
    answer.send(as_data(grade_submission(one, workshop, seed, slot)))
    answer.close()
    os._exit(0)


def _received(result: Connection) -> Graded:
    try:
        return Graded.from_data(result.recv())
    except (EOFError, OSError):
        why = "the grader's own process for this submission ended; run the command again"
        return Graded("not graded", notes=[why])
    finally:
        result.close()
