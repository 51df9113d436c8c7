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

from course_grader.scoring import Graded, Judged, Scored
from course_grader.store import Store, plain, questions
from course_grader.submissions import Assignment, Submission

COMMON = (
    0.2  # a statement that more than this share of a class wrote says nothing about two of them
)
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
{body}
</body></html>
"""


@dataclass
class Class:
    """All that is known of a class: submissions, their results, marks by hand, who is like whom."""

    submissions: Sequence[Submission]
    results: Mapping[str, Graded]  # by the submission's file, or its student where there is none
    marks: Mapping[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    alike: Mapping[str, list[str]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)  # of the fence
    skipped: Mapping[str, str] = field(default_factory=dict)
    complaints: Sequence[str] = ()
    seed: int = 0

    def rows(self) -> list[tuple[Submission, Graded]]:
        """Return every submission that was graded, with its result."""
        keys = [(one, one.file or one.student) for one in self.submissions]
        return [(one, self.results[key]) for one, key in keys if key in self.results]

    def assignments(self) -> dict[str, Assignment]:
        """Return the homework that occurs, by its key."""
        found = {one.assignment.key: one.assignment for one in self.submissions if one.assignment}
        return dict(sorted(found.items()))

    def points(self, one: Submission, graded: Graded) -> dict[str, str]:
        """Return the points of each question: the machine's, where no mark was entered by hand."""
        if one.assignment is None:
            return {}
        key = one.assignment.key
        points = {f"{key} {scored.function}": f"{scored.points:g}" for scored in graded.scored}
        return points | self.by_hand(one)

    def by_hand(self, one: Submission) -> dict[str, str]:
        """Return what was entered by hand for a submission."""
        if one.assignment is None:
            return {}
        marks = self.marks.get((plain(one.student), one.assignment.key), {})
        known = questions({one.assignment.key: one.assignment})
        return {name: value for name, value in marks.items() if name in known}


# --- tables ------------------------------------------------------------------------------------


def table(everything: Class, excel: bool = False) -> bytes:
    """Return a row for each submission as CSV; for Excel it says that it is UTF-8.

    ``total`` and ``max`` count the exercises, ``written`` and ``written_max`` what a person marks.
    """
    columns = ["student", "assignment", "file", "status", "total", "max", "written", "written_max"]
    columns += ["look", "similar_to", "isolation", *questions(everything.assignments())]
    rows = []
    for one, graded in everything.rows():
        row = {"student": one.student, "file": one.file, "status": graded.status}
        row |= {"look": " | ".join(graded.look())}
        row |= {"similar_to": "; ".join(everything.alike.get(one.file, []))}
        row |= {"isolation": isolation(everything.missing) if graded.scored else ""}
        if assignment := one.assignment:
            points = everything.points(one, graded)
            exercises = [f"{assignment.key} {e.function}" for e in assignment.exercises]
            by_hand = [points[w.id] for w in assignment.written if w.id in points]
            row |= points | {"assignment": assignment.key, "max": f"{assignment.points:g}"}
            row |= {"total": f"{sum(float(points.get(name, 0)) for name in exercises):g}"}
            row |= {"written": f"{sum(map(float, by_hand)):g}" if by_hand else ""}
            row |= {"written_max": f"{sum(w.points for w in assignment.written):g}"}
        rows.append({name: plain(value) for name, value in row.items()})
    return _csv(columns, rows, "utf-8-sig" if excel else "utf-8")


def canvas(everything: Class) -> bytes:
    """Return a table that Canvas's gradebook imports: a column for each homework."""
    assignments = everything.assignments()
    columns = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    columns += [a.title for a in assignments.values()]
    most = {
        a.title: f"{a.points + sum(w.points for w in a.written):g}" for a in assignments.values()
    }
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one, graded in everything.rows():
        if one.assignment:
            who = {"Student": plain(one.student), "ID": one.number}
            row = rows.setdefault((one.student, one.number), who)
            row[one.assignment.title] = _sum(everything, one, graded)
    return _csv(columns, [{"Student": "    Points Possible"} | most, *rows.values()], "utf-8")


def moodle(everything: Class, key: str) -> bytes:
    """Return a table that Moodle's assignment takes as a grading worksheet, of one homework."""
    columns = ["Identifier", "Full name", "Grade", "Maximum Grade", "Feedback comments"]
    rows = []
    for one, graded in everything.rows():
        if (assignment := one.assignment) and assignment.key == key:
            most = assignment.points + sum(w.points for w in assignment.written)
            comments = [f"{s.function}: {s.public.message}" for s in graded.scored]
            row = {"Identifier": f"Participant {one.number}" if one.number else ""}
            row |= {"Full name": plain(one.student), "Grade": _sum(everything, one, graded)}
            row |= {"Maximum Grade": f"{most:g}", "Feedback comments": plain(" ".join(comments))}
            rows.append(row)
    return _csv(columns, rows, "utf-8")


def _sum(everything: Class, one: Submission, graded: Graded) -> str:
    return f"{sum(map(float, everything.points(one, graded).values())):g}"


def _csv(columns: Sequence[str], rows: Iterable[dict], encoding: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(encoding)


def isolation(missing: Mapping[str, str]) -> str:
    """Return what of the fence was missing, or "full"."""
    return f"not {', '.join(missing)}" if missing else "full"


# --- who wrote the same --------------------------------------------------------------------------


def alike(everything: Class) -> dict[str, list[str]]:
    """Return for each file those of other students with nearly the same answers, as a hint to look.

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
                if one.student != other.student and _similar(mine, theirs, rare[i], rare[j]):
                    found[one.file].append(other.file)
                    found[other.file].append(one.file)
    return found


def _similar(mine: Counter, theirs: Counter, my_rare: Counter, their_rare: Counter) -> bool:
    if mine == theirs:
        return True
    size = my_rare.total() + their_rare.total()
    return size >= 2 * FEW and 2 * (my_rare & their_rare).total() / size >= ALIKE


# --- pages -------------------------------------------------------------------------------------


def page_names(students: Iterable[str]) -> dict[str, str]:
    """Return a file name for the page of each student, each another, none too long."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for student in dict.fromkeys(students):
        stem = re.sub(r"[^\w.-]+", "_", student).strip("._") or "student"
        stem = stem.encode()[:80].decode(errors="ignore")
        if f"{stem}.html".casefold() in taken or len(student) > 80:
            stem = f"{stem}-{hashlib.sha256(student.encode(errors='replace')).hexdigest()[:8]}"
        names[student] = f"{stem}.html"
        taken.add(names[student].casefold())
    return names


def feedback(everything: Class, student: str) -> bytes:
    """Return the page of a student."""
    own = [(one, graded) for one, graded in everything.rows() if one.student == student]
    body = [f"<h1>{_text(student)}</h1>"]
    body += [_submission(one, graded, everything.by_hand(one)) for one, graded in own]
    body.append(f"<p>The extra checks' inputs were drawn from the number {everything.seed}.</p>")
    return _page(f"Feedback for {student}", body)


def _submission(one: Submission, graded: Graded, by_hand: Mapping[str, str]) -> str:
    assignment = one.assignment
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
    marks = [float(by_hand[w.id]) for w in assignment.written if w.id in by_hand]
    written = f"{sum(marks):g}" if marks else "____"
    total = sum(
        float(by_hand.get(f"{assignment.key} {s.function}", s.points)) for s in graded.scored
    )
    parts.append(
        f"<p><strong>Exercises: {total:g} of {assignment.points:g} points.</strong> "
        f"Written: {written} of {sum(w.points for w in assignment.written):g} points.</p>"
    )
    return "\n".join(parts)


def _exercise(scored: Scored, by_hand: str | None) -> str:
    points = f"{scored.points:g}" if by_hand is None else f"{by_hand} (by hand)"
    head = f"{_text(scored.function)}: {points} of {scored.of:g} points"
    lines = [f"<h3>{head}</h3>", _verdict(scored.public, "It is right.")]
    if scored.extra is not None:
        lines.append(_verdict(scored.extra, "It also holds on other inputs."))
    return "".join(lines)


def _verdict(judged: Judged, otherwise: str) -> str:
    mark = {True: "✓", False: "✗", None: "○"}[judged.passed]
    return f"<p>{mark} {_text(judged.message or otherwise)}</p>"


# --- the teacher's report ------------------------------------------------------------------------


def overview(everything: Class, pages: Mapping[str, str]) -> bytes:
    """Return the teacher's page: what needs a look, how the class did, who is like whom."""
    rows = everything.rows()
    looks = [(one, graded, graded.look()) for one, graded in rows]
    counted = Counter(tuple(sorted([file, *others])) for file, others in everything.alike.items())
    body = [
        "<h1>Grading</h1>",
        f"<p>{len(rows)} of {len(everything.submissions)} submissions were graded. The extra "
        f"checks' inputs come from --seed {everything.seed}.</p>",
        "<h2>Needs a look</h2>",
        "<p>Something other than a wrong answer cost points here, or may have.</p>",
        _list(
            [
                *everything.complaints,
                *(
                    f"{one.file or one.student}: {graded.status}, {graded.total:g} points. "
                    f"{_some(why)}"
                    for one, graded, why in looks
                    if why
                ),
            ]
        ),
        "<h2>Nearly the same answers</h2>",
        "<p>But for names, comments and layout. Short answers can agree by chance, and some stand "
        "in books: this is a hint to read them, not a verdict.</p>",
        _list(", ".join(group) for group in sorted(counted)),
        *(_homework(assignment, rows) for assignment in everything.assignments().values()),
        "<h2>How the students' code was fenced in</h2>",
        _fence(everything.missing),
        "<h2>All submissions</h2>",
        _rows(everything, pages),
        "<h2>Not graded</h2>",
        _list(f"{file}: {why}" for file, why in sorted(everything.skipped.items())),
    ]
    return _page("Grading", body)


def _some(why: Sequence[str]) -> str:
    return " ".join(f"{reason}." for reason in why[:4]) + (" …" if len(why) > 4 else "")


def _homework(assignment: Assignment, rows: Sequence[tuple[Submission, Graded]]) -> str:
    """Return how the class did in a homework: points, and the diagnoses of each exercise."""
    own = [graded for one, graded in rows if one.assignment is assignment and graded.scored]
    if not own:
        return ""
    counts = Counter(round(graded.total) for graded in own)
    bars = "".join(
        f"<tr><td>{points}</td><td>{counts[points]}</td><td>{'█' * counts[points]}</td></tr>"
        for points in range(round(assignment.points) + 1)
    )
    each = sorted(
        (
            [s for g in own for s in g.scored if s.function == e.function]
            for e in assignment.exercises
        ),
        key=lambda scored: -sum(s.points < s.of for s in scored),
    )
    return (
        f"<h2>{_text(assignment.title)}</h2>"
        f"<p>{len(own)} submissions, points for the exercises:</p>"
        f"<table><tr><th>points</th><th>students</th><th></th></tr>{bars}</table>"
        "<table><tr><th>exercise</th><th>right</th><th>half</th><th>wrong</th>"
        "<th>not attempted</th><th>what was wrong</th></tr>"
        f"{''.join(map(_difficulty, filter(None, each)))}</table>"
    )


def _difficulty(scored: Sequence[Scored]) -> str:
    open_ = sum(s.public.passed is None for s in scored)
    right = sum(s.points == s.of for s in scored)
    half = sum(0 < s.points < s.of for s in scored)
    why = Counter(s.public.message for s in scored if s.public.passed is False)
    numbers = (right, half, len(scored) - open_ - right - half, open_)
    reasons = _list(f"{n} × {message}" for message, n in why.most_common(3)) if why else ""
    cells = "".join(f"<td>{n}</td>" for n in numbers)
    return f"<tr><td>{_text(scored[0].function)}</td>{cells}<td>{reasons}</td></tr>"


def _fence(missing: Mapping[str, str]) -> str:
    if not missing:
        return "<p>Files, network, processes, user and memory: each was tried, each holds.</p>"
    return _list(f"Attention, {part}: does not hold ({why})" for part, why in missing.items())


def _rows(everything: Class, pages: Mapping[str, str]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("student", "file", "status", "points", "time"))
    lines = "".join(
        f"<tr><td><a href='feedback/{escape(pages[one.student])}'>{_text(one.student)}</a></td>"
        f"<td>{_text(one.file)}</td><td>{graded.status}</td>"
        f"<td>{_sum(everything, one, graded)}</td><td>{graded.seconds:.1f} s</td></tr>"
        for one, graded in everything.rows()
    )
    return f"<table><tr>{head}</tr>{lines}</table>"


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else "<p>None.</p>"


def _text(value: str) -> str:
    value = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in value)
    return escape(value.encode(errors="replace").decode())


def _page(title: str, body: Sequence[str]) -> bytes:
    return _PAGE.format(title=_text(title), body="\n".join(body)).encode()


def write(
    store: Store, everything: Class, style: str, students: Iterable[str] | None = None
) -> None:
    """Write the tables, the report, and the pages of ``students`` (None: of all)."""
    pages = page_names(one.student for one in everything.submissions)
    done = {one.student for one, _ in everything.rows()}
    for student in pages if students is None else students:
        if student in done:
            store.write(store.feedback / pages[student], feedback(everything, student))
    store.write(store.out, table(everything, excel=style == "excel"))
    store.write(store.overview, overview(everything, pages))
    if style == "canvas":
        store.write(store.out.with_name(f"{store.out.stem}-canvas.csv"), canvas(everything))
    if style == "moodle":
        for key in everything.assignments():
            path = store.out.with_name(f"{store.out.stem}-moodle-{key}.csv")
            store.write(path, moodle(everything, key))
