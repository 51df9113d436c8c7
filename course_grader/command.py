"""``python -m course_utils grade SUBMISSIONS --out grades.csv``"""

import argparse
import hashlib
import json
import multiprocessing
import os
import secrets
import signal
import sys
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

import course_checks
import course_utils
from course_grader import confine, report
from course_grader.sandbox import NoFence, Workshop
from course_grader.scoring import Graded, grade_submission
from course_grader.store import Store
from course_grader.submissions import Assignment, Submission, find_submissions, read_assignments

CHECKS = Path(course_checks.__file__).resolve().parent
HOMEWORK = CHECKS.parent / "notebooks" / "homework"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("submissions", type=Path, help="a folder for each student, or an export")
    parser.add_argument("--out", type=Path, default=Path("grades.csv"))
    told = "also write a table for the gradebook of one of these"
    parser.add_argument("--format", choices=("canvas", "moodle"), help=told)
    parser.add_argument("--attempt", type=int, help="which of several counts, from 1 (the last)")
    told = "for a notebook's cells; half of it for one, a quarter for a check"
    parser.add_argument("--limit-seconds", type=float, default=120, help=told)
    parser.add_argument("--seed", type=int, help="draws the other inputs from this number")
    told = "run students' code even where the fence has a gap"
    parser.add_argument("--unsafe", action="store_true", help=told)


def run(options: argparse.Namespace) -> int:
    """Grade, and return the exit status: 1 if nothing could be graded, 130 after Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):  # both end in good order
        signal.signal(number, _stop)
    try:
        return grade(options)
    except (ValueError, RuntimeError, OSError, NoFence) as error:
        print(error, file=sys.stderr)
        return 1


_stopping: list[int] = []  # signals that came


def _stop(number: int, frame: object) -> None:
    # Python drops an exception that a signal raises while a process forks or an object is freed;
    # `grade` looks at the list after each submission, so that no signal is lost.
    _stopping.append(number)
    raise KeyboardInterrupt


def assignments() -> dict[str, Assignment]:
    """Return the homework of this course."""
    return read_assignments(CHECKS / "homework.toml", HOMEWORK)


def grade(options: argparse.Namespace) -> int:
    """Grade every submission that is new or has changed, and write tables, pages and a report.

    Raises:
        ValueError: there is nothing to grade, or no place to write to.
        NoFence: students' code cannot be fenced in here.
    """
    if options.out.resolve().is_relative_to(options.submissions.resolve()):
        raise ValueError(f"--out {options.out} lies among the submissions; choose another place.")
    if not options.limit_seconds > 0:
        raise ValueError(f"--limit-seconds {options.limit_seconds:g}: it must be more than 0.")
    found, skipped = find_submissions(options.submissions, assignments(), options.attempt)
    store = Store(options.out)
    seed = options.seed if options.seed is not None else store.seed
    seed = secrets.randbelow(2**31 - 1000) + 1000 if seed is None else seed
    store.choose_seed(seed)
    course = _course(options.limit_seconds, seed)
    keys = {one.name: f"{course}-{_key(one)}" for one in found}
    results = {name: done for name, key in keys.items() if (done := store.get(key))}
    todo = [one for one in found if one.name not in results]
    if results:
        print(f"{len(results)} of {len(found)} submissions were graded before, and are the same.")
    everything = report.Class(found, results, skipped=skipped, seed=seed)
    everything.marks, everything.complaints = store.read_marks()
    stopped = False
    _stopping.clear()
    try:
        for one, graded in _each(todo, seed, options) if todo else ():
            results[one.name] = graded
            if graded.status != "not graded":
                store.keep(keys[one.name], graded)
            _say(len(results), len(found), one.name, graded)
            if _stopping:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        stopped = True
    report.write(store, everything, options.format)
    print(f"{store.out}, {store.overview} and the pages in {store.feedback} are written.")
    if stopped:
        print("Stopped. The same command continues from here.", file=sys.stderr)
        return 130
    store.lengthen_marks(found)
    print(f"Marks by hand go into {store.marks}; run the command again to add them up.")
    for part, why in everything.missing().items():
        print(f"Attention, the fence has a gap, {part}: {why}.", file=sys.stderr)
    return 0


def _say(number: int, of: int, name: str, graded: Graded) -> None:
    text = "".join(c if c.isprintable() else "�" for c in name)
    points = f"{graded.total:g} points, {graded.seconds:.1f} s"
    print(f"[{number}/{of}] {text}: {graded.status}, {points}", flush=True)


def _course(limit_seconds: float, seed: int) -> str:
    """Return a fingerprint of all that decides a result but the submission."""
    digest = hashlib.sha256(f"{limit_seconds} {seed} {sys.version} {torch.__version__}".encode())
    folders = CHECKS, Path(__file__).parent, Path(course_utils.__file__).parent, HOMEWORK
    for folder in folders:
        for path in sorted([*folder.glob("*.py"), *folder.glob("*.toml"), *folder.glob("*.ipynb")]):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _key(one: Submission) -> str:
    about = [one.student, one.file, one.digest, one.problem, list(one.remarks)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


# --- several at a time ---------------------------------------------------------------------------


def _each(
    todo: list[Submission], seed: int, options: argparse.Namespace
) -> Iterator[tuple[Submission, Graded]]:
    """Yield every submission with its result, as they come.

    One that lost points for want of time comes a second time: run again by itself, with the better
    result. Another's endless loop may have taken the processor from it.
    """
    print("Preparing the workers and trying the fence …", flush=True)
    torch.set_num_threads(1)  # a copy of this process could not use more
    hidden = (options.submissions, options.out.resolve().parent)
    notebooks = tuple(sorted(HOMEWORK.glob("*.ipynb")))
    slots = min(_cores(), len(todo))
    with Workshop(options.limit_seconds, hidden, notebooks, options.unsafe) as workshop:
        late: dict[str, Graded] = {}
        for one, graded in _together(todo, slots, seed, workshop):
            yield one, graded
            if slots > 1 and graded.lacked_time:
                late[one.name] = graded
        if late:
            print(f"{len(late)} lost points for want of time: each runs again, by itself.")
        again = [one for one in todo if one.name in late]
        for one, graded in _together(again, 1, seed, workshop):
            yield one, max(late[one.name], graded, key=lambda result: result.total)


def _together(
    todo: Iterable[Submission], slots: int, seed: int, workshop: Workshop
) -> Iterator[tuple[Submission, Graded]]:
    """Yield every submission with its result, as they come, with ``slots`` running at a time.

    Each is graded in a process of its own, so that one result cannot depend on another, and one
    accident cannot cost more than one result.
    """
    copies, running = multiprocessing.get_context("fork"), {}
    free, waiting = list(range(slots)), iter(todo)
    try:
        while True:
            for slot, one in zip(list(free), waiting, strict=False):
                free.remove(slot)
                mine, theirs = copies.Pipe(duplex=False)
                given = (theirs, one, workshop, seed, slot)
                process = copies.Process(target=_grade_one, args=given, daemon=True)
                process.start()
                theirs.close()
                running[mine] = slot, one, process
            if not running:
                return
            ready: list[Any] = wait(list(running))
            for result in ready:
                slot, one, process = running.pop(result)
                yield one, _received(result)
                process.join()
                free.append(slot)
    finally:
        for _, _, process in running.values():
            process.kill()
            process.join()


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, 8))


def _grade_one(
    answer: Connection, one: Submission, workshop: Workshop, seed: int, slot: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process sees to it
    confine.die_with_parent()
    torch.manual_seed(seed)
    answer.send(grade_submission(one, workshop, seed, slot))
    answer.close()
    os._exit(0)


def _received(result: Connection) -> Graded:
    try:
        return result.recv()
    except (EOFError, OSError):
        why = "the grader's own process for this submission ended; run the command again"
        return Graded("not graded", notes=[why])
    finally:
        result.close()
