"""One page that says what this machine has, and what to do about what is missing.

Each part checks for itself: what is broken is named, and the page goes on. So only the standard
library and the course's settings are imported here.
"""

import argparse
import os
import platform
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from course_commands import environment
from course_utils import __version__, settings

#: The extras of pyproject.toml, and who needs them.
EXTRAS = {
    "embeddings": "chapter 3 needs it",
    "metrics": "chapter 10 needs it",
    "molecules": "chapter 9 needs it",
    "serving": "chapter 10 and `serve` need it",
}
Rows = Iterator[tuple[str, str]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(_options: argparse.Namespace | None = None) -> int:
    """Print the page; return 1 if a chapter cannot run on this machine as it is."""
    advice: list[str] = []
    wrong = [
        _section(title, part, advice)
        for title, part in (
            ("Course", _course),
            ("Settings", _settings),
            ("Machine", _machine),
            ("Packages", _packages),
            ("Device", _device),
            ("Network", _network),
            ("Files", _files),
            ("Models and texts", _models),
        )
    ]
    print("\nWhat to do")
    for number, line in enumerate(advice, 1):
        print(f"  {number}.  {line}")
    if not advice:
        print("  Nothing: everything is in place.")
    return int(any(wrong))


def _section(title: str, part: Callable[[list[str]], Rows], advice: list[str]) -> bool:
    """Print one part; return whether it keeps a chapter from running."""
    rows, wrong = [], False
    try:
        for label, text in part(advice):
            rows.append((label, text))
            wrong |= label.startswith("!")
    except Exception as error:  # the check itself is broken: say so, and go on
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        rows.append(("!", f"cannot be checked: {problem}"))
        if str(error) not in advice:  # a refused setting is named once
            advice.append(f"{title}: fix what is named there ({problem}), then ask again.")
        wrong = True
    print(f"\n{title}")
    width = max((len(label) for label, _ in rows), default=0)
    for label, text in rows:
        print(f"  {label:<{width}}  {text}")
    return wrong


def _course(advice: list[str]) -> Rows:
    yield "course_utils", f"{__version__} in {Path(settings.__file__).parent}"
    yield "Python", f"{platform.python_version()} in {sys.prefix}"
    encoding = sys.stdout.encoding or "ascii"
    try:
        "✓ é Ω →".encode(encoding)
    except UnicodeEncodeError:
        advice.append("Set PYTHONUTF8=1 to have every character printed as it is.")
        yield "terminal", f"prints {encoding}: characters that it lacks are replaced"


def _settings(advice: list[str]) -> Rows:
    refused = environment.refused()
    for sentence in refused:
        advice.append(sentence)
        yield "! refused", sentence
    for sentence in environment.odd():
        advice.append(sentence)
        yield "odd", sentence
    if refused:
        return
    cache, usual = settings.cache_folder(), settings.user_cache()
    yield "cache", str(cache)
    yield "assets folder", str(settings.assets_folder() or "none (COURSE_ASSETS is not set)")
    if not settings.get("COURSE_CACHE") and cache != usual:
        advice.append(
            f"{usual or 'A home folder'} cannot be written, so files go to {cache}, which may be "
            "emptied: set COURSE_CACHE to a folder of yours that stays."
        )
    for name in sorted(os.environ):
        if name.startswith("PIP_") and settings.get(name) and name not in settings.PIP_KEPT:
            yield name, "is set; `make` ignores it, pip run by hand does not"
    for folder, shadows in _shadows():
        advice.append(f"Take {folder} off PYTHONPATH, or unset it: `make` ignores it.")
        yield "PYTHONPATH", f"{folder} hides {', '.join(shadows[:5])}"


def _shadows() -> Iterator[tuple[str, list[str]]]:
    """Yield each folder of PYTHONPATH with the modules in it that hide one of the installation."""
    import sysconfig

    ours = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    installed = {path.name.removesuffix(".py") for folder in ours for path in folder.iterdir()}
    course = {f"course_{name}" for name in ("utils", "commands", "checks", "widgets")}
    installed |= set(sys.stdlib_module_names) | course
    here = Path(__file__).resolve().parents[1]
    for folder in filter(None, settings.get("PYTHONPATH").split(os.pathsep)):
        if os.path.isdir(folder) and Path(folder).resolve() not in {here, *ours}:
            names = {name.removesuffix(".py") for name in os.listdir(folder)}
            if shadows := sorted(names & installed - {"__pycache__"}):
                yield folder, shadows


def _machine(advice: list[str]) -> Rows:
    yield "system", f"{platform.system()} {platform.release()} ({platform.machine()})"
    yield "processors", str(os.cpu_count())
    yield "memory", _memory()
    yield from _disk(advice)
    browser = find_browser()
    if not browser:
        advice.append("For `make test`, install Chromium (Debian: apt install chromium).")
    yield "browser", browser or "no Chromium: only `make test` needs it"
    name = socket.gethostname()
    yield "host name", name
    if not _resolves(name):
        advice.append(
            f"The name of this machine, {name}, has no address, so torchrun would wait forever: "
            "start it with `--local-addr 127.0.0.1`, or add the name to /etc/hosts."
        )
        yield "", "has no address"


def _disk(advice: list[str]) -> Rows:
    try:
        folder = settings.cache_folder()
    except (settings.SettingError, OSError):
        return  # reported above
    while not os.path.isdir(folder):
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if free < 3:
        advice.append(f"Only {free:.1f} GB are free in {folder}; the course needs 3 GB.")
    if not settings.can_write(folder):
        advice.append(f"{folder} cannot be written: set COURSE_CACHE to a folder that can.")
    yield "disk", f"{free:.1f} GB free in {folder}"


def find_browser() -> str | None:
    """Return the path of a Chromium, which the tests open the book in, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    except (AttributeError, ValueError, OSError):
        return "unknown"


def _resolves(name: str) -> bool:
    from course_utils.sources import within

    def ask() -> str | None:
        try:
            socket.getaddrinfo(name, None)
        except (OSError, UnicodeError) as error:
            return str(error)
        return None

    return within(10, ask, name) is None


def _packages(advice: list[str]) -> Rows:
    from packaging.requirements import Requirement

    wrong = []
    lines = metadata.requires("course-utils") or []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(requirement.name)
            yield requirement.name, f"{version or 'missing'} (needs {line})"
    if wrong:
        advice.append(f"Correct {', '.join(wrong)}: `pip install -r requirements.txt`.")
    for extra, user in EXTRAS.items():
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            asked = marker and marker.evaluate({"extra": extra}) and not marker.evaluate()
            if asked and _version(requirement.name) is None:
                yield requirement.name, f"missing; {user}: `pip install {requirement.name}`"
    for name in ("torch", "transformers", "jupyter-book"):
        yield name, _version(name) or "not installed"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device(advice: list[str]) -> Rows:
    try:
        import torch

        from course_utils.device import describe_device, pick_device
    except ImportError as error:
        advice.append(f"torch cannot be imported ({error}): `pip install -r requirements.txt`.")
        yield "! torch", "cannot be imported"
        return
    try:
        yield "chapters run on", describe_device(pick_device())
    except settings.SettingError as error:
        if str(error) not in advice:
            advice.append(str(error))
        yield "! chapters run on", str(error)
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        advice.append(
            "There is an NVIDIA card that this torch cannot use: "
            "install the CUDA build of the same version, torch==2.13.0."
        )
        yield "graphics card", "present, but not usable by this torch"


def _network(advice: list[str]) -> Rows:
    from course_utils import sources

    if settings.is_on("HF_HUB_OFFLINE"):
        hub = "not asked, because HF_HUB_OFFLINE is set"
    else:
        answers = sources.hub()
        hub = answers.problem or "answers"
        if answers.refused:
            advice.append(sources.TOKEN_REFUSED)
            hub += "; it refuses your token, and gives public files without it"
    yield "model hub", hub
    index = sources.index_problem() or "answers"
    yield "package index", index
    if not hub.startswith("answers") and index != "answers":
        advice.append(
            "Neither the model hub nor the package index answers. Behind a proxy, set HTTPS_PROXY; "
            "with a mirror, set HF_ENDPOINT and PIP_INDEX_URL. Or ask your teacher for a folder "
            "made by `python -m course_utils fetch` and set COURSE_ASSETS to it."
        )


def _files(advice: list[str]) -> Rows:
    """Yield what keeps us from reading files, and others from reading them."""
    from course_utils import assets

    for root, where in assets.local_folders():
        closed, narrow = _modes(root)
        if closed:
            advice.append(f"Ask the owner of {root} to run `chmod -R a+rX {root}`.")
            yield where, f"you may not read {_few(closed)}"
        if narrow:
            advice.append(f"So that others can read all of {root}: `chmod -R go+rX {root}`.")
            yield where, f"others may read {root}, but not {_few(narrow)}"
    for asset in assets.manifest().values():
        for source in asset.sources:
            if source["kind"] == "data" and (problem := _changed(asset, source)):
                yield asset.name, problem
                advice.append(f"{asset.name}: {problem}; `git checkout -- data` restores it.")


def _modes(root: Path) -> tuple[list[Path], list[Path]]:
    """Return what below ``root`` we cannot read, and what we can read but others cannot."""
    closed: list[Path] = []
    narrow: list[Path] = []
    if not os.path.isdir(root):
        return closed, narrow
    lets_in = stat.S_IMODE(root.stat().st_mode) & 0o044
    for parent, folders, files in os.walk(root):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
                closed.append(path)
            elif lets_in & ~path.stat().st_mode and path.suffix != ".lock":
                narrow.append(path)
    return closed, narrow


def _few(paths: list[Path]) -> str:
    return ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" * (len(paths) > 3))


def _changed(asset, source: dict) -> str | None:
    """Return what is wrong with the course's own file, or None."""
    from course_utils import assets

    folder = assets.data_folder() / source.get("folder", "")
    for file in asset.files:
        path = folder / file.name
        if not path.is_file():
            return f"{path} is missing"
        if assets.sha256(path) != file.sha256:
            if b"\r\n" in path.read_bytes():
                return f"{path} has other line endings than the course's: git changed them"
            return f"{path} was changed"
    return None


def _models(advice: list[str]) -> Rows:
    from course_utils import assets

    complete = True
    for name, asset in assets.manifest().items():
        size = f"{asset.size / 1e6:7.1f} MB"
        if assets.find(name):
            yield name, f"{size}  at hand: {assets.origin(name)}"
            continue
        stand_in = asset.stand_in if asset.stand_in and assets.find(asset.stand_in) else None
        used = f"used by {', '.join(asset.chapters)}" if asset.chapters else "no chapter needs it"
        missing = bool(asset.chapters and not stand_in)
        complete &= not missing
        label = f"! {name}" if missing else name
        yield label, f"{size}  not here; " + (f"{stand_in} stands in" if stand_in else used)
    if not complete:
        advice.append("Get the models and texts: `python -m course_utils fetch --chapters`.")
