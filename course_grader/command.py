"""``python -m course_utils grade SUBMISSIONS --out grades.csv``"""

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
