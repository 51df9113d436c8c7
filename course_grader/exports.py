"""What was handed in: folders, zips, and the exports of Canvas, Moodle, Blackboard and GitHub.

Everything is read where it lies: no zip is unpacked, no link is followed, neither a symbolic nor a
hard one, so that nobody hands in somebody else's file. Every file that is not graded is named.
"""

import contextlib
import io
import os
import re
import stat
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

MAX_FILE, MAX_MEMBERS, MAX_DEPTH = 50 << 20, 10_000, 20  # bytes, files in a zip, folders
MAX_NESTED, MAX_UNPACKED = 2, 1 << 30  # zips in zips; bytes of a zip's files together
_TOO_LARGE = f"larger than {MAX_FILE >> 20} MB"
_EXTRAS = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints", ".git"}
_EXTRAS |= {"__pycache__", ".Trashes", ".Spotlight-V100", ".fseventsd", "$RECYCLE.BIN"}

_MOODLE = re.compile(r"(?P<who>.+?)_(?P<id>\d+)_assignsubmission_[a-z]+_?(?P<rest>.*)", re.S)
_BLACKBOARD = re.compile(
    r"(?P<task>.+)_(?P<who>[^_]+)_attempt_(?P<attempt>\d{4}(?:-\d\d){5})(?:_(?P<rest>.+)|\.txt)",
    re.S,
)
# The second number is that of the upload; it grows.
_CANVAS = re.compile(r"(?P<who>[^_]+)_(?:LATE_)?(?P<id>\d+)_(?P<attempt>\d+)_(?P<rest>.+)", re.S)


@dataclass(frozen=True)
class File:
    """A file that was handed in, or (with a ``problem``) one that is not read, and why.

    ``path`` is where it lies, in parts; ``order`` grows from attempt to attempt of one student.
    """

    path: tuple[str, ...]
    data: bytes = b""
    changed: float = 0
    problem: str = ""
    student: str = ""
    number: str = ""  # by which Canvas or Moodle know the student
    task: str = ""  # names that may tell which homework it is
    order: tuple = ()

    @property
    def shown(self) -> str:
        """The path as a text."""
        return "/".join(self.path)

    @property
    def is_extra(self) -> bool:
        """True for what an operating system adds by itself."""
        return any(part in _EXTRAS or part.startswith("._") for part in self.path)


def read(place: Path) -> list[File]:
    """Return every file in a folder or zip, with the student whose it is.

    Raises:
        ValueError: there is no such folder, or nothing in it.
    """
    if place.is_dir():
        files = list(_in_folder(place, ()))
    elif place.is_file() and zipfile.is_zipfile(place):
        files = list(_in_zip(place, (), place.stat().st_mtime))
    else:
        raise ValueError(
            f"{place} is neither a folder nor a zip; it should hold a folder per student, or be "
            "the export of a learning platform."
        )
    if not files:
        raise ValueError(f"{place} is empty; it should hold one folder for each student.")
    classroom = place.name.removesuffix(".zip")
    tops = {file.path[0] for file in files if not file.is_extra}
    if len(tops) == 1 and (_is_wrapper(files) or next(iter(tops)).endswith("-submissions")):
        (classroom,) = tops
        files = [replace(f, path=f.path[1:]) for f in files if len(f.path) > 1]
    is_github = classroom.endswith("-submissions")
    prefix = f"{classroom.removesuffix('-submissions')}-" if is_github else ""
    return _with_names([_identified(file, prefix) for file in files])


def _is_wrapper(files: list[File]) -> bool:
    """Return True where the only folder is no student's, but holds a platform's export."""
    inner = {file.path[1] for file in files if len(file.path) > 1 and not file.is_extra}
    patterns = (_MOODLE, _BLACKBOARD, _CANVAS)
    return bool(inner) and all(any(p.fullmatch(name) for p in patterns) for name in inner)


def is_notebook(name: str) -> bool:
    """Return True for a notebook's name, also for what a browser makes of it (``.ipynb.txt``)."""
    return bool(re.search(r"\.ipynb(\.txt|\.json)?$", name, re.IGNORECASE))


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


# --- reading -----------------------------------------------------------------------------------


def _readable(name: str) -> str:
    """Return a name as it was meant: UTF-8, else latin-1, on one line."""
    data = os.fsencode(name)
    try:
        name = data.decode()
    except UnicodeDecodeError:
        name = data.decode("latin-1")
    return "".join(c if c.isprintable() else "�" for c in name)


def _problem(parts: tuple[str, ...], is_link: bool, is_folder: bool = False) -> str:
    """Return why a file is not read, before it is looked into."""
    if is_link:
        return "a link, which is not followed"
    if File(parts).is_extra:
        return "an extra of the operating system, an editor or git"
    if is_folder:
        return "too many folders in each other" if len(parts) > MAX_DEPTH else ""
    return "" if is_notebook(parts[-1]) or _is_zip(parts[-1]) else "not a notebook"


def _in_folder(folder: Path, above: tuple[str, ...]) -> Iterator[File]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield File(above, problem=f"cannot be opened: {error.strerror}")
        return
    if not entries and above:
        yield File((*above, ""), problem="an empty folder")
    for entry in entries:
        parts = (*above, _readable(entry.name))
        is_folder = entry.is_dir(follow_symlinks=False)
        if problem := _problem(parts, entry.is_symlink(), is_folder):
            yield File(parts, problem=problem)
        elif is_folder:
            yield from _in_folder(Path(entry), parts)
        else:
            yield from _one_file(Path(entry), parts)


def _one_file(path: Path, parts: tuple[str, ...]) -> Iterator[File]:
    about = path.lstat()
    file = File(parts, changed=about.st_mtime)
    try:
        if not stat.S_ISREG(about.st_mode):
            yield replace(file, problem="no regular file")
        elif about.st_nlink > 1:
            problem = "a hard link, a second name of another file: hand in a copy"
            yield replace(file, problem=problem)
        elif _is_zip(parts[-1]):
            yield from _in_zip(path, parts, about.st_mtime)
        elif about.st_size > MAX_FILE:
            yield replace(file, problem=_TOO_LARGE)
        else:
            yield replace(file, data=path.read_bytes())
    except OSError as error:
        yield replace(file, problem=f"cannot be read: {error.strerror}")


def _in_zip(
    source: Path | io.BytesIO, above: tuple[str, ...], changed: float, depth: int = 0
) -> Iterator[File]:
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        yield File(above, problem=f"a zip that cannot be read: {error}")
        return
    files = [member for member in archive.infolist() if not member.is_dir()]
    if not files:
        yield File(above, problem="an empty zip")
    if len(files) > MAX_MEMBERS:
        yield File(above, problem=f"only the first {MAX_MEMBERS:,} files of this zip were read")
    left = MAX_UNPACKED
    for member in files[:MAX_MEMBERS]:
        parts = (*above, *_member_parts(member))
        file = File(parts, changed=_date(member, changed))
        data, problem = b"", _problem(parts, stat.S_ISLNK(member.external_attr >> 16))
        if not problem and left > 0:
            try:
                with archive.open(member) as stream:
                    data = stream.read(MAX_FILE + 1)
            except Exception as error:  # a password, damage, zlib's and lzma's own
                problem = f"cannot be unpacked: {error}"
        left -= len(data)
        if len(data) > MAX_FILE:
            problem = _TOO_LARGE
        elif not problem and left <= 0:
            problem = "the zip unpacks to too much"
        if problem or not _is_zip(parts[-1]):
            yield replace(file, data=b"" if problem else data, problem=problem)
        elif depth == MAX_NESTED:
            yield replace(file, problem="too many zips in each other")
        else:
            yield from _in_zip(io.BytesIO(data), parts, changed, depth + 1)


def _member_parts(member: zipfile.ZipInfo) -> list[str]:
    """Return the path of a file in a zip; ``..`` and drives are only words, nothing is unpacked."""
    name = member.filename
    if not member.flag_bits & 0x800:  # not said to be UTF-8, which macOS writes all the same
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    return [_readable(part.encode(errors="replace").decode()) for part in parts] or ["(no name)"]


def _date(member: zipfile.ZipInfo, changed: float) -> float:
    with contextlib.suppress(ValueError, OverflowError):  # a month 0
        if member.date_time[0] > 1980:
            return datetime(*member.date_time).timestamp()
    return changed


# --- who ---------------------------------------------------------------------------------------


def _identified(file: File, prefix: str) -> File:
    """Return the file with its student, and what tells the homework and the attempt."""
    if not file.path:
        return file
    top, inner = re.sub(r"(?i)\.zip$", "", file.path[0]), file.path[1:]
    found = _MOODLE.fullmatch(top) or _BLACKBOARD.fullmatch(top) or _CANVAS.fullmatch(top)
    named = found.groupdict() if found else {"who": top if inner else ""}
    who, rest, attempt = named["who"], named.get("rest") or "", 0
    if "attempt" in named:
        attempt = int(re.sub(r"\D", "", named["attempt"]))
    elif not found and prefix and who.startswith(prefix):
        who = re.sub(r"-(main|master|[0-9a-f]{40})$", "", who[len(prefix) :]) or who
    task = " ".join([*reversed(inner), rest, named.get("task") or "", "" if who else top])
    order = (attempt, file.changed, -len(file.path), -len(file.shown), file.path)
    number = named.get("id") or ""
    return replace(file, student=who, number=number, task=task, order=order)


def _with_names(files: list[File]) -> list[File]:
    """Tell students of one name apart by their numbers."""
    numbers = defaultdict(set)
    for file in files:
        numbers[file.student].add(file.number)
    shared = {student for student, found in numbers.items() if len(found) > 1}
    return [
        replace(f, student=f"{f.student} ({f.number})") if f.student in shared and f.number else f
        for f in files
    ]
