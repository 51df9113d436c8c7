"""``python -m course_utils grade SUBMISSIONS --out grades.csv``"""

import argparse
import secrets
import sys
from pathlib import Path

import course_checks
from course_grader import report
from course_grader.sandbox import Limits
from course_grader.scoring import Graded, grade_submission
from course_grader.submissions import (
    Assignment,
    find_submissions,
    identical,
    read_assignments,
)

PACKAGE = Path(course_checks.__file__).resolve().parent


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("submissions", type=Path, help="holds a folder for each student")
    parser.add_argument("--out", type=Path, default=Path("grades.csv"))
    parser.add_argument(
        "--limit-seconds",
        type=float,
        default=120,
        help="for one submission; a cell or a call may take a sixth",
    )
    parser.add_argument(
        "--limit-memory", type=float, default=4, help="GB of address space, 1 of it for torch"
    )
    parser.add_argument("--seed", type=int, help="repeats the extra checks of an earlier run")


def run(options: argparse.Namespace) -> int:
    """Grade a folder of submissions; return 1 if there is nothing to grade or nothing to run it."""
    seconds, memory = options.limit_seconds, int(options.limit_memory * 2**30)
    limits = Limits(call_seconds=seconds / 6, seconds=seconds, memory=memory)
    try:
        grade(options.submissions, options.out, limits, options.seed)
    except (ValueError, RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def assignments() -> dict[str, Assignment]:
    """Return the homework of this course."""
    return read_assignments(PACKAGE / "homework.toml", PACKAGE.parent / "notebooks" / "homework")


def grade(folder: Path, out: Path, limits: Limits, seed: int | None = None) -> list[Graded]:
    """Grade every submission in ``folder`` and write ``out``, ``feedback/`` and an overview.

    ``seed`` is where the inputs of the extra checks come from; None draws one.

    Raises:
        ValueError: there is nothing to grade.
        RuntimeError: no worker can be started on this machine.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; it should hold one folder for each student.")
    submissions = find_submissions(folder, assignments())
    if not submissions:
        raise ValueError(f"{folder} is empty; it should hold one folder for each student.")
    seed = secrets.randbelow(10**6) if seed is None else seed
    results = []
    for number, submission in enumerate(submissions, start=1):
        graded = grade_submission(submission, limits, seed)
        results.append(graded)
        where = submission.file or submission.student
        print(
            f"[{number}/{len(submissions)}] {where}: {graded.status}, {graded.total:g} points, "
            f"{graded.seconds:.1f} s",
            flush=True,
        )
    same = identical(submissions)
    report.write_csv(out, results, same)
    pages = report.write_feedback(out.parent / "feedback", results, seed)
    overview = out.with_suffix(".html")
    report.write_overview(overview, results, same, pages, seed)
    print(f"{out}, {overview} and {len(pages)} pages in {out.parent / 'feedback'} written.")
    for name, how in next((g.isolation for g in results if g.isolation), {}).items():
        if how.startswith("NOT"):
            print(f"Attention, {name}: {how}. See grading.md.", file=sys.stderr)
    return results
