"""What ``assets.toml`` says: every model and text of the course, its files and where they are."""

import functools
import hashlib
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path


@dataclass(frozen=True)
class File:
    """One file of an asset: its name, its size in bytes and its sha256 in hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Asset:
    """One entry of the manifest; see the head of ``assets.toml`` for the meaning of its fields."""

    name: str
    title: str
    licence: str
    homepage: str
    purpose: str
    chapters: tuple[str, ...]
    files: tuple[File, ...]
    sources: tuple[dict, ...]
    stand_in: str | None = None
    differs: str = ""

    @property
    def size(self) -> int:
        """Size of all files in bytes."""
        return sum(file.size for file in self.files)


@functools.cache
def manifest() -> dict[str, Asset]:
    """Return every asset by name, in the order of ``assets.toml``."""
    text = resources.files("course_utils").joinpath("assets.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text)
    for entry in entries.values():
        entry["files"] = [File(**file) for file in entry["files"]]
        entry |= {field: tuple(entry[field]) for field in ("files", "chapters", "sources")}
    return {name: Asset(name=name, **entry) for name, entry in entries.items()}


def data_folder() -> Path:
    """Return the course's ``data`` folder: in the checkout, or inside the installed package."""
    package = Path(__file__).parent
    checkout = package.parent / "data"
    return checkout if checkout.is_dir() else package / "data"


def sha256(path: Path) -> str:
    """Return a file's sha256; computed once for each path and time of modification."""
    return _sha256(path, path.stat().st_mtime_ns)


@functools.cache
def _sha256(path: Path, _modified: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
