"""What the grader writes: tables, a page for each student, and the teacher's report.

Everything that comes from a student is escaped, and the pages run no scripts and load nothing.
"""

import csv
import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from course_grader.scoring import Graded, Scored
from course_grader.store import Store, plain, questions
from course_grader.submissions import Assignment, Submission
from course_utils.markup import Markup, html_table, in_html

COMMON = 0.2  # a statement that a larger share of a class wrote says nothing about two of them
ALIKE = 0.8  # the share of statements in common from which two answers are worth a look
FEW = 8  # statements that are too few to say anything, unless all answers are the same

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
<h1>{title}</h1>
{body}
</body></html>
"""


@dataclass
class Class:
    """All that is known of a class: submissions, their results, marks by hand, who is like whom."""

    submissions: Sequence[Submission]
    results: Mapping[str, Graded]  # by the submission's name
    marks: Mapping[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    complaints: Sequence[str] = ()
    seed: int = 0

    def rows(self) -> list[tuple[Submission, Graded]]:
        """Return every submission that was graded, with its result."""
        return [(s, self.results[s.name]) for s in self.submissions if s.name in self.results]

    def missing(self) -> dict[str, str]:
        """Return the parts of the fence that any submission ran without, and why."""
        return {part: why for _, one in self.rows() for part, why in one.missing.items()}

    def assignments(self) -> dict[str, Assignment]:
        """Return the homework that occurs, by its key."""
        found = {one.assignment.key: one.assignment for one in self.submissions if one.assignment}
        return dict(sorted(found.items()))

    def points(self, one: Submission, graded: Graded) -> dict[str, float]:
        """Return the points of each question: the machine's, where no mark was entered by hand."""
        key = one.assignment.key if one.assignment else ""
        return {f"{key} {s.function}": s.points for s in graded.scored} | self.by_hand(one)

    def by_hand(self, one: Submission) -> dict[str, float]:
        """Return what was entered by hand for a submission."""
        if one.assignment is None:
            return {}
        marks = self.marks.get((plain(one.student), one.assignment.key), {})
        return {name: marks[name] for name in questions([one.assignment]) if name in marks}


# --- tables ------------------------------------------------------------------------------------


def table(everything: Class) -> bytes:
    """Return a row for each submission as CSV.

    ``total`` and ``max`` count the exercises, ``written`` and ``written_max`` what a person marks.
    """
    columns = ["student", "assignment", "file", "status", "total", "max", "written", "written_max"]
    columns += ["look", "similar_to", "isolation", *questions(everything.assignments().values())]
    similar, rows = alike(everything), []
    for one, graded in everything.rows():
        row: dict[str, Any] = {"student": one.student, "file": one.file, "status": graded.status}
        row |= {
            "look": " | ".join(graded.look()),
            "similar_to": "; ".join(similar.get(one.name, ())),
        }
        isolation = f"not {', '.join(graded.missing)}" if graded.missing else "full"
        row |= {"isolation": isolation if graded.scored else ""}
        if assignment := one.assignment:
            points = everything.points(one, graded)
            by_hand = [points.pop(w.id) for w in assignment.written if w.id in points]
            row |= {"assignment": assignment.key, "max": assignment.points}
            row |= {"total": sum(points.values()), "written_max": assignment.written_points}
            row |= {"written": sum(by_hand) if by_hand else "", **everything.points(one, graded)}
        rows.append(row)
    return _csv(columns, rows)


def canvas(everything: Class) -> bytes:
    """Return a table that Canvas's gradebook imports: a column for each homework."""
    titles = {a.title: a.points + a.written_points for a in everything.assignments().values()}
    columns = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *titles]
    rows: dict[tuple[str, str], dict] = {}
    for one, graded in everything.rows():
        if one.assignment:
            who = {"Student": one.student, "ID": one.number}
            row = rows.setdefault((one.student, one.number), who)
            row[one.assignment.title] = sum(everything.points(one, graded).values())
    return _csv(columns, [{"Student": "    Points Possible"} | titles, *rows.values()])


def moodle(everything: Class, assignment: Assignment) -> bytes:
    """Return a table that Moodle takes as a grading worksheet, of one homework."""
    columns = ["Identifier", "Full name", "Grade", "Maximum Grade", "Feedback comments"]
    rows = []
    for one, graded in everything.rows():
        if one.assignment is assignment:
            number = f"Participant {one.number}" if one.number else ""
            grade = sum(everything.points(one, graded).values())
            most = assignment.points + assignment.written_points
            comments = " ".join(f"{s.function}: {s.public.message}" for s in graded.scored)
            row = (number, one.student, grade, most, comments)
            rows.append(dict(zip(columns, row, strict=True)))
    return _csv(columns, rows)


def _csv(columns: Sequence[str], rows: Iterable[Mapping]) -> bytes:
    """Return a table in UTF-8 with the signature without which Excel reads "MÃ¼ller"."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(
        {k: plain(v) if isinstance(v, str) else f"{v:g}" for k, v in row.items()} for row in rows
    )
    return text.getvalue().encode("utf-8-sig")


# --- who wrote the same --------------------------------------------------------------------------


def alike(everything: Class) -> dict[str, list[str]]:
    """Return for each submission those of other students with nearly the same answers, as a hint.

    Compared are statements, without names and layout, of all answers to a homework. What many wrote
    alike counts for nothing, unless all that two students wrote is the same.
    """
    groups: dict[str, list[tuple[Submission, Counter]]] = defaultdict(list)
    for one, graded in everything.rows():
        lines = Counter((f, line) for f, written in graded.written.items() for line in written)
        if one.assignment and lines:
            groups[one.assignment.key].append((one, lines))
    found: dict[str, list[str]] = defaultdict(list)
    for group in groups.values():
        authors = Counter(line for _, lines in group for line in lines)
        most = max(2, COMMON * len(group))
        rare = [Counter({k: n for k, n in c.items() if authors[k] <= most}) for _, c in group]
        for i, (one, mine) in enumerate(group):
            for j, (other, theirs) in enumerate(group[:i]):
                same = mine == theirs or _share(rare[i], rare[j]) >= ALIKE
                if same and one.student != other.student:
                    found[one.name].append(other.name)
                    found[other.name].append(one.name)
    return found


def _share(mine: Counter, theirs: Counter) -> float:
    both = mine.total() + theirs.total()
    return 2 * (mine & theirs).total() / both if both >= 2 * FEW else 0.0


# --- pages -------------------------------------------------------------------------------------


def page_names(students: Iterable[str]) -> dict[str, str]:
    """Return a file name for the page of each student, each another, none too long."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for student in dict.fromkeys(students):
        stem = re.sub(r"[^\w.-]+", "_", student).strip("._") or "student"
        stem = stem.encode()[:80].decode(errors="ignore")
        if stem.casefold() in taken or len(student) > 80:
            stem = f"{stem}-{hashlib.sha256(student.encode(errors='replace')).hexdigest()[:8]}"
        taken.add(stem.casefold())
        names[student] = f"{stem}.html"
    return names


def feedback(everything: Class, student: str) -> bytes:
    """Return the page of a student."""
    own = [(one, graded) for one, graded in everything.rows() if one.student == student]
    body = [_submission(one, graded, everything) for one, graded in own]
    body.append(f"<p>The other inputs were drawn from the number {everything.seed}.</p>")
    return _page(f"Feedback for {student}", body)


def _submission(one: Submission, graded: Graded, everything: Class) -> str:
    assignment, by_hand = one.assignment, everything.by_hand(one)
    if assignment is None or one.problem:
        return f"<h2>{_text(one.file or 'Nothing handed in')}</h2><p>{_text(one.problem)}</p>"
    parts = [f"<h2>{_text(assignment.title)}</h2>", f"<p>{_text(one.file)}: {graded.status}.</p>"]
    if graded.notes:
        parts.append(f"<p>What happened while the notebook ran:</p>{_list(graded.notes)}")
    for scored in graded.scored:
        parts.append(_exercise(scored, by_hand.get(f"{assignment.key} {scored.function}")))
    for question in assignment.written:
        answer = one.answer_to(question)
        quoted = f"<pre>{_text(answer)}</pre>" if answer else "<p>No answer.</p>"
        points = f"{by_hand.get(question.id, '____')} of {question.points:g} points"
        parts.append(f"<h3>{_text(question.title)}: {points}</h3>{quoted}")
    whole = everything.points(one, graded)
    marks = [whole.pop(w.id) for w in assignment.written if w.id in whole]
    written = f"{sum(marks):g}" if marks else "____"
    parts.append(
        f"<p><strong>Exercises: {sum(whole.values()):g} of {assignment.points:g} points.</strong> "
        f"Written: {written} of {assignment.written_points:g} points.</p>"
    )
    return "\n".join(parts)


def _exercise(scored: Scored, by_hand: float | None) -> str:
    points = f"{scored.points:g}" if by_hand is None else f"{by_hand:g} (by hand)"
    lines = [f"<h3>{_text(scored.function)}: {points} of {scored.of:g} points</h3>"]
    marks = {True: "✓", False: "✗", None: "○"}
    lines.append(f"<p>{marks[scored.public.passed]} {_text(scored.public.message)}</p>")
    if extra := scored.extra:
        found = "as right." if extra.passed else extra.message
        lines.append(f"<p>{marks[extra.passed]} On other inputs: {_text(found)}</p>")
    return "".join(lines)


# --- the teacher's report ------------------------------------------------------------------------


def overview(everything: Class, pages: Mapping[str, str]) -> bytes:
    """Return the teacher's page: what needs a look, how the class did, who is like whom."""
    rows = everything.rows()
    looks = [
        f"{one.name}: {graded.status}, {graded.total:g} points. {'. '.join(why[:4])}."
        for one, graded in rows
        if (why := graded.look())
    ]
    same = {tuple(sorted([name, *others])) for name, others in alike(everything).items()}
    fence = [
        f"Attention, {part}: does not hold ({why})" for part, why in everything.missing().items()
    ]
    body = [
        f"<p>{len(rows)} of {len(everything.submissions)} submissions were graded. The other "
        f"inputs come from --seed {everything.seed}.</p>",
        "<h2>Needs a look</h2>",
        "<p>Something other than a wrong answer cost points here, or may have.</p>",
        _list([*everything.complaints, *looks]),
        "<h2>Nearly the same answers</h2>",
        "<p>But for names, comments and layout. Short answers can agree by chance, and some stand "
        "in books: this is a hint to read them, not a verdict.</p>",
        _list(", ".join(group) for group in sorted(same)),
        *(_homework(assignment, rows) for assignment in everything.assignments().values()),
        "<h2>How the students' code was fenced in</h2>",
        _list(fence or ["Files, network, processes, user, memory: each was tried, each holds."]),
        "<h2>All submissions</h2>",
        html_table(
            [_row(everything, one, graded, pages[one.student]) for one, graded in rows],
            ("student", "file", "status", "points", "seconds"),
        ),
        "<h2>Not graded</h2>",
        _list(f"{file}: {why}" for file, why in sorted(everything.skipped.items())),
    ]
    return _page("Grading", body)


def _row(everything: Class, one: Submission, graded: Graded, page: str) -> tuple:
    link = Markup(f"<a href='feedback/{escape(page)}'>{_text(one.student)}</a>")
    points = sum(everything.points(one, graded).values())
    return link, one.file, graded.status, points, round(graded.seconds, 1)


def _homework(assignment: Assignment, rows: Sequence[tuple[Submission, Graded]]) -> str:
    """Return how the class did in a homework: points, and the diagnoses of each exercise."""
    own = [graded for one, graded in rows if one.assignment is assignment and graded.scored]
    if not own:
        return ""
    counts = Counter(round(graded.total) for graded in own)
    bars = [(n, counts[n], "█" * counts[n]) for n in range(round(assignment.points) + 1)]
    functions = [exercise.function for exercise in assignment.exercises]
    each = [[s for graded in own for s in graded.scored if s.function == f] for f in functions]
    each.sort(key=lambda scored: -sum(s.points < s.of for s in scored))
    head = ("exercise", "right", "half", "wrong", "not attempted", "what was wrong")
    return (
        f"<h2>{_text(assignment.title)}</h2>"
        f"<p>Submissions: {len(own)}. Points for the exercises:</p>"
        f"{html_table(bars, ('points', 'students', ''))}<p></p>"
        f"{html_table([_difficulty(scored) for scored in each if scored], head)}"
    )


def _difficulty(scored: Sequence[Scored]) -> tuple:
    open_ = sum(s.public.passed is None for s in scored)
    right = sum(s.points == s.of for s in scored)
    half = sum(0 < s.points < s.of for s in scored)
    why = Counter(s.public.message for s in scored if s.public.passed is False)
    reasons = Markup(_list(f"{n} × {message}" for message, n in why.most_common(3)))
    return scored[0].function, right, half, len(scored) - open_ - right - half, open_, reasons


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else "<p>None.</p>"


def _text(value: str) -> str:
    return in_html(value.encode(errors="replace").decode())


def _page(title: str, body: Sequence[str]) -> bytes:
    return _PAGE.format(title=_text(title), body="\n".join(body)).encode()


def write(store: Store, everything: Class, style: str | None) -> None:
    """Write the tables, the report, and the students' pages."""
    pages = page_names(one.student for one in everything.submissions)
    for student in dict.fromkeys(one.student for one, _ in everything.rows()):
        store.write(store.feedback / pages[student], feedback(everything, student))
    store.write(store.out, table(everything))
    store.write(store.overview, overview(everything, pages))
    if style == "canvas":
        store.write(store.beside("canvas.csv"), canvas(everything))
    if style == "moodle":
        for key, assignment in everything.assignments().items():
            store.write(store.beside(f"moodle-{key}.csv"), moodle(everything, assignment))
