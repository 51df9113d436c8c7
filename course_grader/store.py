"""What is kept from run to run: results as they come, and what a person entered by hand.

``grades-results.jsonl`` grows by a line with each submission, at once; a run that is stopped,
however rudely, goes on from there. ``grades-marks.csv`` belongs to the teacher: it is made once,
later only lengthened by rows for new submissions, and read. Any other file that somebody has
changed since this program wrote it is set aside under another name, never overwritten.
"""

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from course_grader.scoring import Graded, as_data
from course_grader.submissions import Assignment, Submission
from course_utils.files import write_whole

ROOM = 20 << 20  # bytes that should be free on the disk
_KEYS = ("student", "assignment")


class Store:
    """The files of one grading. ``out`` is the table; the others are named after it."""

    def __init__(self, out: Path) -> None:
        """Look whether everything can be written.

        Raises:
            ValueError: it cannot; the message says why and what to do.
        """
        self.out = out
        self.results = out.with_name(f"{out.stem}-results.jsonl")
        self.marks = out.with_name(f"{out.stem}-marks.csv")
        self.overview = out.with_suffix(".html")
        self.feedback = out.parent / "feedback"
        self._graded: dict[str, Graded] = {}
        self._ours: dict[str, set[str]] = {}
        self.seed: int | None = None
        self._try_out()
        self._read()

    def _try_out(self) -> None:
        if os.path.isdir(self.out):
            raise ValueError(f"--out {self.out} is a folder; name a file, such as grades.csv.")
        if self.out.suffix != ".csv":
            raise ValueError(f"--out {self.out} should end in .csv.")
        try:
            self.feedback.mkdir(parents=True, exist_ok=True)
            for place in (self.out.parent, self.feedback):
                with tempfile.TemporaryFile(dir=place):
                    pass
            for file in (self.out, self.results, self.marks, self.overview):
                if file.exists():
                    file.read_bytes()
                else:
                    file.touch()
                    file.unlink()
            with self.results.open("ab"):
                pass
            free = shutil.disk_usage(self.out.parent).free
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(f"--out {self.out} cannot be written: {reason}.") from None
        if free < ROOM:
            raise ValueError(f"the disk with {self.out} is full: it should have 20 MB free.")

    def _read(self) -> None:
        for line in self.results.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                if "graded" in entry:
                    self._graded[entry["key"]] = Graded.from_data(entry["graded"])
                elif "wrote" in entry:
                    self._ours.setdefault(entry["wrote"], set()).add(entry["sha256"])
                elif "seed" in entry:
                    self.seed = int(entry["seed"])
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written when the run was killed

    def _add(self, entry: dict) -> None:
        with self.results.open("r+b") as stream:
            end = stream.seek(0, os.SEEK_END)
            if end:  # a line that was cut off stays alone
                stream.seek(end - 1)
                start = b"" if stream.read(1) == b"\n" else b"\n"
            else:
                start = b""
            stream.seek(end)
            stream.write(start + json.dumps(entry).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def choose_seed(self, seed: int) -> None:
        """Write down where the extra checks' inputs come from."""
        if seed != self.seed:
            self.seed = seed
            self._add({"seed": seed})

    def get(self, key: str) -> Graded | None:
        """Return the result with this fingerprint, if there is one."""
        return self._graded.get(key)

    def keep(self, key: str, graded: Graded) -> None:
        """Write down a result."""
        self._graded[key] = graded
        self._add({"key": key, "graded": as_data(graded)})

    def write(self, path: Path, text: bytes) -> None:
        """Write a file of ours; if somebody changed it, theirs is kept under another name."""
        name = os.path.relpath(path, self.out.parent)
        known, new = self._ours.setdefault(name, set()), hashlib.sha256(text).hexdigest()
        if path.exists():
            old = hashlib.sha256(path.read_bytes()).hexdigest()
            if old == new:
                return
            if old not in known:
                n = 1
                while (aside := path.with_stem(f"{path.stem}-yours-{n}")).exists():
                    n += 1
                path.rename(aside)
                print(f"{path.name} was not as this program left it: it is now {aside.name}.")
        if new not in known:
            known.add(new)
            self._add({"wrote": name, "sha256": new})  # first, in case the program ends between
        with write_whole(path) as stream:
            stream.write(text)

    # --- marks -----------------------------------------------------------------------------------

    def read_marks(self) -> tuple[dict[tuple[str, str], dict[str, str]], list[str]]:
        """Return what was entered by hand, by student and homework, and complaints about it."""
        if not self.marks.exists() or not self.marks.stat().st_size:
            return {}, []
        rows = list(csv.DictReader(io.StringIO(self._marks_text()), delimiter=self._delimiter()))
        if rows and not set(_KEYS) <= set(rows[0]):
            return {}, [f"{self.marks.name} has no columns student and assignment; it was not read"]
        found, complaints = {}, []
        for row in rows:
            key = (row["student"] or "", row["assignment"] or "")
            marks = {k: v.strip() for k, v in row.items() if k and isinstance(v, str) and v.strip()}
            for name, value in list(marks.items()):
                if name in _KEYS:
                    continue
                try:
                    marks[name] = f"{float(value.replace(',', '.')):g}"
                except ValueError:
                    del marks[name]
                    where = f"{self.marks.name}, {key[0]}, {name}"
                    complaints.append(f"{where}: {value!r} is no number and was left out")
            found[key] = marks
        return found, complaints

    def _marks_text(self) -> str:
        data = self.marks.read_bytes()
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return data.decode("cp1252", errors="replace")

    def _delimiter(self) -> str:
        head = self._marks_text().partition("\n")[0]
        return max(",;\t", key=head.count)

    def lengthen_marks(self, submissions: Sequence[Submission]) -> None:
        """Make the file for marks, or add rows for submissions that it lacks; change nothing."""
        found, _ = self.read_marks()
        assignments = {s.assignment.key: s.assignment for s in submissions if s.assignment}
        if not assignments:
            return
        text = io.StringIO()
        columns = [*_KEYS, *questions(assignments)]
        delimiter = ","
        if self.marks.exists() and self.marks.stat().st_size:
            delimiter, before = self._delimiter(), self._marks_text()
            columns = next(
                csv.reader([before.partition("\n")[0].rstrip("\r")], delimiter=delimiter)
            )
            text.write("" if before.endswith("\n") else "\n")
        else:
            text.write(",".join(columns) + "\n")
        writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator="\n")
        if set(_KEYS) <= set(columns):
            for one in submissions:
                key = (plain(one.student), one.assignment.key if one.assignment else "")
                if one.assignment and key not in found:
                    found[key] = {}
                    writer.writerow(dict(zip(_KEYS, key, strict=True)))
        if text.getvalue().strip():
            with self.marks.open("ab") as stream:
                stream.write(text.getvalue().encode())


def questions(assignments: dict[str, Assignment]) -> list[str]:
    """Return the columns of all exercises and written questions."""
    return [
        name
        for key in sorted(assignments)
        for name in [
            *(f"{key} {e.function}" for e in assignments[key].exercises),
            *(written.id for written in assignments[key].written),
        ]
    ]


def plain(value: str) -> str:
    """Return a text on one line that a spreadsheet will not compute."""
    value = "".join(c if c.isprintable() else " " for c in value).encode(errors="replace").decode()
    return f"'{value}" if value.lstrip()[:1] in ("=", "+", "-", "@") else value
