"""What was handed in: folders, zips, and the exports of Canvas, Moodle, Blackboard and GitHub.

Everything is read where it lies: no zip is unpacked, no link is followed, neither a symbolic nor a
hard one, so that nobody hands in somebody else's file. Every file that is not graded is named.
"""

import io
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FILE, MAX_MEMBERS, MAX_DEPTH = 50 << 20, 10_000, 20  # bytes, files in a zip, folders
MAX_NESTED = 2  # zips in zips
_EXTRAS = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints", ".git"}
_EXTRAS |= {"__pycache__", ".Trashes", ".Spotlight-V100", ".fseventsd", "$RECYCLE.BIN"}

_MOODLE = re.compile(r"(?P<who>.+?)_(?P<id>\d+)_assignsubmission_[a-z]+_?(?P<rest>.*)", re.S)
_BLACKBOARD = re.compile(
    r"(?P<task>.+)_(?P<who>[^_]+)_attempt_(?P<attempt>\d{4}(?:-\d\d){5})(?:_(?P<rest>.+)|\.txt)",
    re.S,
)
_CANVAS = re.compile(r"(?P<who>[^_]+)_(?:LATE_)?(?P<id>\d+)_\d+_(?P<rest>.+)", re.S)
_RESUBMITTED = re.compile(r"-(\d{1,3})(?=\.[A-Za-z]+$|$)")


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
        files = list(_in_zip(place.read_bytes(), (), 0, place.stat().st_mtime))
    else:
        raise ValueError(
            f"{place} is no folder and no zip; it should hold one folder for each student, or be "
            "the export of a learning platform."
        )
    if not files:
        raise ValueError(f"{place} is empty; it should hold one folder for each student.")
    classroom = place.name.removesuffix(".zip")
    tops = {file.path[0] for file in files if not file.is_extra}
    if len(tops) == 1 and (_is_wrapper(files) or next(iter(tops)).endswith("-submissions")):
        (classroom,) = tops
        files = [_replace(f, path=f.path[1:]) for f in files if len(f.path) > 1]
    prefix = f"{classroom.removesuffix('-submissions')}-"
    if not classroom.endswith("-submissions"):
        prefix = ""
    return _with_names([_identified(file, prefix) for file in files])


def _replace(file: File, **changes) -> File:
    return File(**{**file.__dict__, **changes})


def _is_wrapper(files: list[File]) -> bool:
    """Return True where the only folder is no student's, but holds a platform's export."""
    patterns = (_MOODLE, _BLACKBOARD, _CANVAS)
    inner = {file.path[1] for file in files if len(file.path) > 1 and not file.is_extra}
    return bool(inner) and all(any(p.fullmatch(name) for p in patterns) for name in inner)


# --- reading -----------------------------------------------------------------------------------


def _readable(name: str) -> str:
    """Return a name as it was meant: UTF-8, else latin-1, on one line."""
    try:
        name = os.fsencode(name).decode()
    except UnicodeDecodeError:
        name = os.fsencode(name).decode("latin-1")
    return "".join(c if c.isprintable() else "�" for c in name)


def is_notebook(name: str) -> bool:
    """Return True for a notebook's name, also for what a browser makes of it (``.ipynb.txt``)."""
    return bool(re.search(r"\.ipynb(\.txt|\.json)?$", name, re.IGNORECASE))


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _in_folder(folder: Path, above: tuple[str, ...]) -> Iterator[File]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        yield File(above, problem=f"cannot be opened: {error.strerror}")
        return
    for name in names:
        path, parts = folder / name, (*above, _readable(name))
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            yield File(parts, problem="a link, which is not followed")
        elif File(parts).is_extra:
            yield File(parts, problem="an extra of the operating system, an editor or git")
        elif stat.S_ISDIR(mode):
            if len(parts) > MAX_DEPTH:
                yield File(parts, problem="too many folders in each other")
            else:
                found = list(_in_folder(path, parts))
                yield from found or [File((*parts, ""), problem="an empty folder")]
        else:
            yield from _one_file(path, parts)


def _one_file(path: Path, parts: tuple[str, ...]) -> Iterator[File]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as stream:
            about = os.fstat(handle)
            data = b""
            if not stat.S_ISREG(about.st_mode):
                problem = "no regular file"
            elif about.st_nlink > 1:
                problem = "a hard link, a second name of another file: hand in a copy"
            elif not (is_notebook(parts[-1]) or _is_zip(parts[-1])):
                problem = "not a notebook"
            else:
                data = stream.read(8 * MAX_FILE if _is_zip(parts[-1]) else MAX_FILE + 1)
                problem = ""
    except OSError as error:
        problem, data = f"cannot be read: {error.strerror}", b""
        about = None
    changed = about.st_mtime if about else 0.0
    if data and _is_zip(parts[-1]):
        yield from _in_zip(data, parts, 0, changed)
    else:
        yield _limited(File(parts, data, changed, problem))


def _limited(file: File) -> File:
    if len(file.data) > MAX_FILE:
        return _replace(file, data=b"", problem=f"larger than {MAX_FILE >> 20} MB")
    return file


def _in_zip(data: bytes, above: tuple[str, ...], depth: int, changed: float) -> Iterator[File]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        yield File(above, problem=f"a zip that cannot be read: {error}")
        return
    files = [member for member in members if not member.is_dir()]
    if not files:
        yield File(above, problem="an empty zip")
    left = 8 * MAX_FILE  # of all its files together, unpacked
    for member in files[:MAX_MEMBERS]:
        parts = (*above, *_member_parts(member))
        problem, content = _why_not(member, parts), b""
        if not problem:
            try:
                with archive.open(member) as stream:
                    content = stream.read(min(MAX_FILE, left) + 1)
                left -= len(content)
                problem = "" if left > 0 else "the zip unpacks to too much"
            except (OSError, RuntimeError, ValueError, NotImplementedError, EOFError) as error:
                problem = f"cannot be unpacked: {error}"
            except Exception as error:  # zlib's and lzma's own
                problem = f"cannot be unpacked: {error}"
        if not problem and _is_zip(parts[-1]):
            if depth < MAX_NESTED:
                yield from _in_zip(content, parts, depth + 1, changed)
                continue
            problem = "too many zips in each other"
        yield _limited(File(parts, b"" if problem else content, _date(member, changed), problem))
    if len(files) > MAX_MEMBERS:
        yield File(above, problem=f"only the first {MAX_MEMBERS:,} files of this zip were read")


def _why_not(member: zipfile.ZipInfo, parts: tuple[str, ...]) -> str:
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link, which is not followed"
    if File(parts).is_extra:
        return "an extra of the operating system, an editor or git"
    if not (is_notebook(parts[-1]) or _is_zip(parts[-1])):
        return "not a notebook"
    if member.flag_bits & 1:
        return "locked with a password"
    return ""


def _member_parts(member: zipfile.ZipInfo) -> list[str]:
    """Return the path of a file in a zip; ``..`` and drives are only words, nothing is unpacked."""
    name = member.filename
    if not member.flag_bits & 0x800:  # not said to be UTF-8, which macOS writes all the same
        try:
            name = name.encode("cp437").decode()
        except UnicodeError:
            name = member.filename
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    return [_readable(part.encode(errors="replace").decode()) for part in parts] or ["(no name)"]


def _date(member: zipfile.ZipInfo, changed: float) -> float:
    year, month, day, hour, minute, second = member.date_time
    days = (year - 1970) * 372 + month * 31 + day  # good enough to tell earlier from later
    return days * 86400 + hour * 3600 + minute * 60 + second if year > 1980 else changed


# --- who ---------------------------------------------------------------------------------------


def _identified(file: File, prefix: str) -> File:
    """Return the file with its student, and what tells the homework and the attempt."""
    if not file.path:
        return file
    top = re.sub(r"(?i)\.zip$", "", file.path[0])
    inner = list(file.path[1:])
    who, number, attempt, rest = "", "", 0, ""
    if match := _MOODLE.fullmatch(top):
        who, number, rest = match["who"], match["id"], match["rest"]
    elif match := _BLACKBOARD.fullmatch(top):
        who, rest = match["who"], f"{match['task']} {match['rest'] or ''}"
        attempt = int(match["attempt"].replace("-", ""))
    elif match := _CANVAS.fullmatch(top):
        who, number, rest = match["who"], match["id"], match["rest"]
        again = _RESUBMITTED.search(rest)
        attempt = int(again[1]) if again else 0
    elif inner:
        who = top
        if prefix and who.startswith(prefix) and who != prefix:
            who = re.sub(r"-(main|master|[0-9a-f]{40})$", "", who.removeprefix(prefix))
    task = " ".join([*reversed(inner), rest, top if not who else ""])
    plain = sum(len(part) for part in file.path)
    order = (attempt, file.changed, -len(file.path), -plain, file.path)
    return _replace(file, student=who, number=number, task=task, order=order)


def _with_names(files: list[File]) -> list[File]:
    """Tell students of one name apart by their numbers."""
    numbers: dict[str, set[str]] = {}
    for file in files:
        numbers.setdefault(file.student, set()).add(file.number)
    return [
        _replace(f, student=f"{f.student} ({f.number})")
        if len(numbers[f.student]) > 1 and f.number
        else f
        for f in files
    ]
