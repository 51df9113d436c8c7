"""What the grader writes: a table for the teacher, a page for each student, an overview.

Everything that comes from a student is escaped, and the pages run no scripts and load nothing.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from course_grader.scoring import Graded, Scored
from course_utils.files import write_whole
from course_utils.markup import Html, html_table

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; }}
body {{ padding: 0 1rem; overflow-wrap: anywhere; }}
pre {{ white-space: pre-wrap; border-left: 3px solid; padding-left: 1rem; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
td, th {{ border: 1px solid; padding: .2rem .6rem; text-align: left; }}
</style></head><body>
{body}
</body></html>
"""


def write_csv(path: Path, results: Sequence[Graded], identical: Mapping[str, list[str]]) -> None:
    """Write a row for each submission; the columns of written answers are for the teacher.

    ``total`` and ``max`` count the exercises, ``written_max`` what is to be added by hand.
    """
    assignments = {
        g.submission.assignment.key: g.submission.assignment
        for g in results
        if g.submission.assignment
    }
    questions = [
        name
        for key in sorted(assignments)
        for name in [
            *(f"{key} {e.function}" for e in assignments[key].exercises),
            *(written.id for written in assignments[key].written),
        ]
    ]
    columns = ["student", "assignment", "file", "status", "total", "max", "written_max"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, "identical_to", "isolation", *questions])
    writer.writeheader()
    for graded in results:
        one, assignment = graded.submission, graded.submission.assignment
        row = {"student": one.student, "file": one.file, "status": graded.status}
        row |= {
            "identical_to": "; ".join(identical.get(one.file, [])),
            "isolation": missing(graded),
        }
        if assignment:
            row |= {"assignment": assignment.key, "total": f"{graded.total:g}"}
            row |= {"max": f"{sum(e.points for e in assignment.exercises):g}"}
            row |= {"written_max": f"{sum(w.points for w in assignment.written):g}"}
            for scored in graded.scored:
                row[f"{assignment.key} {scored.exercise.function}"] = f"{scored.points:g}"
        writer.writerow({name: _no_formula(value) for name, value in row.items()})
    with write_whole(path) as stream:
        stream.write(text.getvalue().encode())


def _no_formula(value: str) -> str:
    """Return a text that a spreadsheet will not compute."""
    value = "".join(c if c.isprintable() else " " for c in value).encode(errors="replace").decode()
    return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value


def missing(graded: Graded) -> str:
    """Return what was not isolated, or "full"; empty where nothing ran."""
    if not graded.isolation:
        return ""
    gaps = [name for name, how in graded.isolation.items() if how.startswith("NOT")]
    return f"not {', '.join(gaps)}" if gaps else "full"


def write_feedback(folder: Path, results: Sequence[Graded], seed: int) -> dict[str, Path]:
    """Write a page for each student and return where, by student."""
    pages: dict[str, Path] = {}
    for student in dict.fromkeys(graded.submission.student for graded in results):
        own = [graded for graded in results if graded.submission.student == student]
        name = re.sub(r"[^\w.-]+", "_", student).strip(".") or "student"
        taken = {page.name.casefold() for page in pages.values()}
        number = 1
        while (file := f"{name}{'' if number == 1 else f'-{number}'}.html").casefold() in taken:
            number += 1
        pages[student] = folder / file
        body = [f"<h1>{_text(student)}</h1>", *map(_submission, own)]
        body.append(f"<p>The extra checks' inputs were drawn from the number {seed}.</p>")
        _write(pages[student], f"Feedback for {student}", body)
    return pages


def _submission(graded: Graded) -> str:
    one, assignment = graded.submission, graded.submission.assignment
    if assignment is None or one.problem:
        return f"<h2>{_text(one.file or 'Nothing handed in')}</h2><p>{_text(one.problem)}</p>"
    parts = [f"<h2>{_text(assignment.title)}</h2>", f"<p>{_text(one.file)}: {graded.status}.</p>"]
    if graded.notes:
        notes = "".join(f"<li>{_text(note)}</li>" for note in graded.notes)
        parts.append(f"<p>What happened while the notebook ran:</p><ul>{notes}</ul>")
    parts += map(_exercise, graded.scored)
    for question in assignment.written:
        answer = one.answer_to(question)
        quoted = f"<pre>{_text(answer)}</pre>" if answer else "<p>No answer.</p>"
        points = f"____ of {question.points:g} points"
        parts.append(f"<h3>{_text(question.title)}: {points}</h3>{quoted}")
    highest = sum(e.points for e in assignment.exercises)
    by_hand = sum(w.points for w in assignment.written)
    parts.append(
        f"<p><strong>Exercises: {graded.total:g} of {highest:g} points.</strong> "
        f"Written: ____ of {by_hand:g} points.</p>"
    )
    return "\n".join(parts)


def _exercise(scored: Scored) -> str:
    mark = {True: "✓", False: "✗", None: "○"}
    exercise, public, extra = scored.exercise, scored.public, scored.extra
    head = f"{_text(exercise.function)}: {scored.points:g} of {exercise.points:g} points"
    lines = [f"<h3>{head}</h3>", f"<p>{mark[public.passed]} {_text(public.message)}</p>"]
    if extra is not None:
        message = extra.message or "It also holds on other inputs."
        lines.append(f"<p>{mark[extra.passed]} {_text(message)}</p>")
    return "".join(lines)


def write_overview(
    path: Path,
    results: Sequence[Graded],
    identical: Mapping[str, list[str]],
    pages: Mapping[str, Path],
    seed: int,
) -> None:
    """Write the teacher's page: what needs a look, who handed in the same, what was isolated."""
    rows = []
    for g in results:
        who = g.submission.student
        link = Html(f"<a href='{escape(_link(pages[who]))}'>{_text(who)}</a>")
        rows.append((link, g.submission.file, g.status, f"{g.total:g}", f"{g.seconds:.1f} s"))
    trouble = [g for g in results if g.status not in ("ok", "empty")]
    same = sorted({tuple(sorted([file, *others])) for file, others in identical.items() if others})
    how = next((g.isolation for g in results if g.isolation), {})
    body = [
        "<h1>Grading</h1>",
        f"<p>{len(results)} submissions. The extra checks' inputs come from --seed {seed}.</p>",
        "<h2>Needs a look</h2>",
        _list(
            f"{g.submission.file or g.submission.student}: {g.status}. {' '.join(g.notes[:3])}"
            for g in trouble
        ),
        "<h2>Identical answers</h2>",
        "<p>All attempted exercises are the same but for names, comments and layout. Short answers "
        "can agree by chance: read them before you speak to anybody.</p>",
        _list(", ".join(group) for group in same),
        "<h2>How the students' code was isolated</h2>",
        _list(f"{name}: {text}" for name, text in how.items()),
        "<h2>All submissions</h2>",
        html_table(rows, ("student", "file", "status", "exercises", "time")),
    ]
    _write(path, "Grading", body)


def _link(page: Path) -> str:
    return f"{page.parent.name}/{page.name}"


def _list(lines) -> str:
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else "<p>None.</p>"


def _text(value: str) -> str:
    return escape(value.encode(errors="replace").decode())


def _write(path: Path, title: str, body: Sequence[str]) -> None:
    with write_whole(path) as stream:
        stream.write(_PAGE.format(title=_text(title), body="\n".join(body)).encode())
