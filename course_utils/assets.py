"""Where a model or a text comes from, and that it is the right one.

``assets.toml`` lists every file with its checksum and its sources. :func:`get` returns the folder
that holds an asset's files, and looks for it in this order:

1. the folder named by the environment variable ``COURSE_ASSETS`` (a teacher's shared folder);
2. the course's cache, ``COURSE_CACHE`` or the user's cache folder;
3. the sources of the asset, see :mod:`course_utils.sources`.

A file counts only when its sha256 is right. Downloads go to a temporary folder and are renamed
into place once checked, so an interrupted download is never mistaken for a complete one. Anyone
who can read the cache's own folder can read what is put into it.
"""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from course_utils import settings, sources
from course_utils.files import FULL
from course_utils.manifest import Asset, File, data_folder, manifest, sha256
from course_utils.progress import progress_bar
from course_utils.settings import cache_folder

CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class AssetError(OSError):
    """An asset cannot be fetched; the message says what was tried and what to do."""


# --- looking without a network ---------------------------------------------------------------


def find(name: str) -> tuple[Path, str] | None:
    """Return ``(folder, where)`` of an asset that is already on this machine, or None.

    ``where`` says in words which folder it is: the assets folder or the cache.
    """
    asset = _lookup(name)
    places = [(folder / name, where) for folder, where in local_folders()]
    data = [source for source in asset.sources if source["kind"] == "data"]
    places += [(data_folder() / s.get("folder", ""), sources.describe(s)) for s in data]
    for folder, where in places:
        if all(_is_right(folder / file.name, file) for file in asset.files):
            return folder, where
    return None


def local_folders() -> Iterator[tuple[Path, str]]:
    """Yield the folders that hold assets on this machine, each with a description."""
    if shared := settings.assets_folder():
        yield shared, "the assets folder"
    yield cache_folder(), "the course's cache"
    usual = settings.user_cache()  # it may be there to read and not to write
    if usual and not settings.get("COURSE_CACHE") and usual != cache_folder():
        yield usual, "the course's cache"


def _lookup(name: str) -> Asset:
    if name not in manifest():
        raise KeyError(f"no asset is called {name!r}; there are: {', '.join(manifest())}")
    return manifest()[name]


def _is_right(path: Path, file: File) -> bool:
    try:
        return path.stat().st_size == file.size and sha256(path) == file.sha256
    except OSError:  # missing, or not ours to read
        return False


def origin(name: str) -> str:
    """Return where the files of an asset that is at hand came from, in words for a card.

    Raises:
        AssetError: the asset is not on this machine.
    """
    if not (found := find(name)):
        raise AssetError(
            f"{_lookup(name).title} ({name}) is not on this machine yet. Fetch it: "
            f"`python -m course_utils fetch {name}`."
        )
    folder, where = found
    source = folder / "SOURCE"
    return f"{source.read_text(encoding='utf-8')}, kept in {where}" if source.exists() else where


# --- getting ---------------------------------------------------------------------------------


def get(name: str) -> Path:
    """Return the folder with the files of asset ``name``, after fetching them if necessary.

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
        share(target)
        with FileLock(target.with_name(f".{name}.lock")) as lock:
            share(Path(lock.lock_file))
            if found := find(name):  # another process has fetched it while we waited
                return found[0]
            _fetch(asset, target)
    except OSError as error:
        raise explain(error, asset) from error
    return target


def resolve(name: str) -> tuple[str, str]:
    """Fetch asset ``name`` or else its stand-in; return which, and why not ``name`` (or "")."""
    stand_in = _lookup(name).stand_in
    try:
        get(name)
        return name, ""
    except AssetError as error:
        if stand_in is None:
            raise
        get(stand_in)  # raises when the stand-in cannot be fetched either
        lines = str(error).splitlines()
        reasons = [line.strip(" -") for line in lines if line.startswith("  - ")]
        return stand_in, reasons[-1] if reasons else lines[0]


def share(path: Path) -> None:
    """Give ``path``, in the cache, the read permissions of the cache's folder itself."""
    mode = stat.S_IMODE(cache_folder().stat().st_mode)
    with contextlib.suppress(PermissionError):  # it belongs to another user, who decides
        path.chmod(mode if path.is_dir() else 0o600 | mode & 0o666)


def _fetch(asset: Asset, target: Path) -> None:
    """Fetch every file of ``asset`` into ``target``; the caller holds the lock."""
    for leftover in target.glob(".partial-*"):  # left by a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    if shutil.disk_usage(target).free < 2 * asset.size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    tried = _folder_report(asset)
    for source in asset.sources:
        where = sources.describe(source)
        with _workspace(asset, target, where) as folder:
            if problem := sources.problem(source, asset, folder):
                tried.append(f"{where}: {problem}")
                continue
            (folder / "SOURCE").write_text(where, encoding="utf-8")
            for name in [*(file.name for file in asset.files), "SOURCE"]:
                share(folder / name)
                os.replace(folder / name, target / name)
            return
    raise AssetError(
        f"{asset.title} ({asset.name}) cannot be fetched. Tried:\n"
        + "".join(f"  - {line}\n" for line in tried)
        + "What to do: run `python -m course_utils doctor`; or ask for the files, and put them in\n"
        + f"  {target}\n  ({', '.join(file.name for file in asset.files)}), or in a folder "
        + f"FOLDER/{asset.name}/ with the environment variable COURSE_ASSETS=FOLDER."
    )


def _folder_report(asset: Asset) -> list[str]:
    """Return why the assets folder could not supply the files, if there is one."""
    shared = settings.assets_folder()
    if not shared:
        return []
    for path in (shared, *(shared / asset.name / file.name for file in asset.files)):
        if not os.path.exists(path):
            return [f"the assets folder: {path} does not exist, or you may not enter it"]
        if not os.access(path, os.R_OK):
            return [f"the assets folder: {path} cannot be read"]
    return [f"the assets folder: a file in {shared / asset.name} has another checksum"]


def explain(error: OSError, asset: Asset) -> OSError:
    """Turn an error of the operating system about writing into what a reader can do about it."""
    if isinstance(error, AssetError):
        return error
    what, folder = f"{asset.title} ({asset.name})", cache_folder()
    elsewhere = "or set the environment variable COURSE_CACHE to a folder on another disk"
    if error.errno in FULL:
        return AssetError(
            f"No space for {what}, {FULL[error.errno]}: it needs {asset.size / 1e6:.0f} MB, and "
            f"twice that while it is being fetched, in {folder}. Free some space, {elsewhere}."
        )
    if error.errno in CLOSED:
        return AssetError(
            f"No permission to write {what} into {folder}: {error.strerror}. "
            f"Change the folder's permissions, {elsewhere}."
        )
    return AssetError(f"{what} could not be written to {folder}: {error}")


def partial_folder(parent: Path) -> tempfile.TemporaryDirectory:
    """Return a folder in ``parent`` to write into; what is complete is renamed out of it."""
    return tempfile.TemporaryDirectory(prefix=".partial-", dir=parent, ignore_cleanup_errors=True)


@contextlib.contextmanager
def _workspace(asset: Asset, target: Path, where: str) -> Iterator[Path]:
    """Yield a temporary folder in the target, with a progress bar of what has arrived in it."""
    done = threading.Event()
    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "leave": False, "delay": 0.5}

    def watch() -> None:
        while not done.wait(0.2):
            with contextlib.suppress(OSError):  # a file was renamed while we looked
                arrived = sum(path.stat().st_size for path in Path(folder).rglob("*"))
                bar.n = min(asset.size, arrived)
            bar.refresh()

    watcher = threading.Thread(target=watch, daemon=True)
    options |= {"total": asset.size, "desc": f"{asset.name} from {where}"}
    with partial_folder(target) as folder, progress_bar(**options) as bar:
        watcher.start()
        try:
            yield Path(folder)
        finally:
            done.set()
            watcher.join()
