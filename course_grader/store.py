"""What is kept from run to run: results as they come, and what a person entered by hand.

``grades-results.jsonl`` grows by a line with each submission, at once; a run that is stopped,
however rudely, goes on from there. ``grades-marks.csv`` belongs to the teacher: it is made once,
later only lengthened by rows for new submissions, and read. Any other file that somebody has
changed since this program wrote it is set aside under another name, never overwritten.
"""

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from course_grader.scoring import Graded
from course_grader.submissions import Assignment, Submission
from course_utils.files import write_whole

ROOM = 20 << 20  # bytes that should be free on the disk
_KEYS = ["student", "assignment"]
Marks = dict[tuple[str, str], dict[str, float]]  # by student and homework, then by question


class Store:
    """The files of one grading. ``out`` is the table; the others are named after it."""

    def __init__(self, out: Path) -> None:
        """Look whether everything can be written.

        Raises:
            ValueError: it cannot; the message says why and what to do.
        """
        self.out, self.overview = out, out.with_suffix(".html")
        self.results, self.marks = self.beside("results.jsonl"), self.beside("marks.csv")
        self.feedback = out.parent / "feedback"
        self.seed: int | None = None
        self._graded: dict[str, Graded] = {}
        self._ours: set[tuple[str, str]] = set()  # what this program wrote: name and fingerprint
        if os.path.isdir(out):  # False too for a name that is too long
            raise ValueError(f"--out {out} is a folder; name a file, such as grades.csv.")
        if out.suffix != ".csv":
            raise ValueError(f"--out {out} should end in .csv.")
        try:
            self._try_out()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(f"--out {out} cannot be written: {reason}.") from None
        if shutil.disk_usage(out.parent).free < ROOM:
            raise ValueError(f"the disk with {out} is full: it should have 20 MB free.")
        self._read()

    def beside(self, ending: str) -> Path:
        """Return the path of another file of this grading."""
        return self.out.with_name(f"{self.out.stem}-{ending}")

    def _try_out(self) -> None:
        self.feedback.mkdir(parents=True, exist_ok=True)
        for place in (self.out.parent, self.feedback):
            tempfile.TemporaryFile(dir=place).close()
        for file in (self.out, self.marks, self.overview, self.results):
            there = file.exists()
            file.open("ab").close()
            if not there and file != self.results:
                file.unlink()

    def _read(self) -> None:
        data = self.results.read_bytes()
        if not data.endswith(b"\n") and data:  # a line that was cut off stays alone
            self._append(b"\n")
        for line in data.splitlines():
            try:
                entry = json.loads(line)
                if "graded" in entry:
                    self._graded[entry["key"]] = Graded.from_data(entry["graded"])
                elif "wrote" in entry:
                    self._ours.add((entry["wrote"], entry["sha256"]))
                else:
                    self.seed = int(entry["seed"])
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written when the run was killed

    def _append(self, data: bytes) -> None:
        with self.results.open("ab") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def _add(self, entry: dict) -> None:
        self._append(json.dumps(entry).encode() + b"\n")

    def choose_seed(self, seed: int) -> None:
        """Write down where the other inputs come from."""
        if seed != self.seed:
            self.seed = seed
            self._add({"seed": seed})

    def get(self, key: str) -> Graded | None:
        """Return the result with this fingerprint, if there is one."""
        return self._graded.get(key)

    def keep(self, key: str, graded: Graded) -> None:
        """Write down a result."""
        self._graded[key] = graded
        self._add({"key": key, "graded": dataclasses.asdict(graded)})

    def write(self, path: Path, text: bytes) -> None:
        """Write a file of ours; if somebody changed it, theirs is kept under another name."""
        name = os.path.relpath(path, self.out.parent)
        new = name, hashlib.sha256(text).hexdigest()
        if path.exists():
            old = name, hashlib.sha256(path.read_bytes()).hexdigest()
            if old == new:
                return
            if old not in self._ours:
                n = 1
                while (aside := path.with_stem(f"{path.stem}-yours-{n}")).exists():
                    n += 1
                path.rename(aside)
                print(f"{path.name} was not as this program left it: it is now {aside.name}.")
        if new not in self._ours:
            self._ours.add(new)  # first, in case the program ends between
            self._add({"wrote": name, "sha256": new[1]})
        with write_whole(path) as stream:
            stream.write(text)

    # --- marks -----------------------------------------------------------------------------------

    def read_marks(self) -> tuple[Marks, list[str]]:
        """Return what was entered by hand, and complaints about it."""
        text, _, delimiter = self._marks_file()
        rows = csv.DictReader(io.StringIO(text), delimiter=delimiter)
        if text and not set(_KEYS) <= set(rows.fieldnames or ()):
            return {}, [f"{self.marks.name} has no columns student and assignment; it was not read"]
        found: Marks = {}
        complaints = []
        for row in rows:
            student, key = row.pop("student") or "", row.pop("assignment") or ""
            marks = found.setdefault((student, key), {})
            for name, value in row.items():
                if name is None or not (value or "").strip():
                    continue
                try:
                    marks[name] = float(value.replace(",", "."))
                    if not math.isfinite(marks[name]):
                        raise ValueError
                except ValueError:
                    marks.pop(name, None)
                    where = f"{self.marks.name}, {student}, {name}"
                    complaints.append(f"{where}: {value!r} is not a number and was left out")
        return found, complaints

    def _marks_file(self) -> tuple[str, str, str]:
        """Return the text of the file for marks, its encoding and its delimiter."""
        data, encoding = self.marks.read_bytes() if self.marks.exists() else b"", "utf-8-sig"
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:  # from an old Excel
            encoding = "cp1252"
            text = data.decode(encoding, errors="replace")
        return text, encoding, max(",;\t", key=text.partition("\n")[0].count)

    def lengthen_marks(self, submissions: Sequence[Submission]) -> None:
        """Make the file for marks, or add rows for submissions that it lacks; change nothing."""
        before, encoding, delimiter = self._marks_file()
        found, complaints = self.read_marks()
        own = [(one, one.assignment) for one in submissions if one.assignment]
        if not own or any("no columns" in complaint for complaint in complaints):
            return
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        columns = next(csv.reader([before.partition("\n")[0]], delimiter=delimiter), None)
        if not columns:
            there = {assignment.key: assignment for _, assignment in own}
            columns = [*_KEYS, *questions(there[key] for key in sorted(there))]
            writer.writerow(columns)
        for one, assignment in own:
            about = dict(zip(_KEYS, (plain(one.student), assignment.key), strict=True))
            if tuple(about.values()) not in found:
                writer.writerow([about.get(column.strip(), "") for column in columns])
        if added := text.getvalue():
            start = "" if before.endswith("\n") or not before else "\n"
            with self.marks.open("ab") as stream:
                new = encoding if not before else encoding.removesuffix("-sig")
                stream.write((start + added).encode(new, errors="replace"))


def questions(assignments: Iterable[Assignment]) -> list[str]:
    """Return the columns of all exercises and written questions."""
    return [
        name
        for one in assignments
        for name in [
            *(f"{one.key} {exercise.function}" for exercise in one.exercises),
            *(written.id for written in one.written),
        ]
    ]


def plain(value: str) -> str:
    """Return a text on one line that a spreadsheet will not compute."""
    value = "".join(c if c.isprintable() else " " for c in value).encode(errors="replace").decode()
    return f"'{value}" if value.lstrip()[:1] in ("=", "+", "-", "@") else value
