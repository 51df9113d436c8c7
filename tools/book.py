"""Build the book: execute the notebooks that changed, with nbmake, then build the site.

python -m tools.book              execute what is stale, build _build/html
python -m tools.book --execute    only execute
python -m tools.book --chapter 6  only execute one chapter
python -m tools.book --links      execute, then ask every address whether it is still there

One execution serves the test and the book: nbmake runs a copy of each notebook and keeps its
outputs; the site is built from the executed copies. A copy is kept until its fingerprint
changes: the notebook, our packages and scripts, data, the installed packages, the models.

A homework page is the students' notebook with the solutions folded in, see tools/homework.py; the
solved notebooks are executed too, all their checks must say "right", and are no pages.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import nbformat
import yaml

from course_commands import terminal
from course_utils import assets
from tools import homework

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
SOURCE = BUILD / "source"  # what the site is built from
SOLVED = BUILD / "solved"  # executed homework with its answers; no part of the site
STAMPS = BUILD / "stamps"  # the fingerprint of each executed notebook
HTML = BUILD / "html"
SOURCES = (
    "course_utils",
    "course_commands",
    "course_checks",
    "course_widgets",
    "live",
    "data",
    "requirements.txt",
)  # of every notebook

ENVIRONMENT = {
    **os.environ,
    "COURSE_BOOK": "1",  # figures use the site's own JavaScript
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",  # a saved progress bar would pull scripts from a third party
    "PYTHONHASHSEED": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


def notebooks() -> list[Path]:
    """Return the notebooks of the book, relative to the root, in reading order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    pages = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [Path(page + ".ipynb") for page in pages if (ROOT / (page + ".ipynb")).exists()]


def solved_notebooks() -> list[Path]:
    """Return the solved homework, relative to the root."""
    return [path.relative_to(ROOT) for path in sorted(homework.SOLVED.glob("*.ipynb"))]


def sources_of(notebook: Path) -> list[Path]:
    """Return the files that a page is made of: a homework takes its solutions from another."""
    solved = ROOT / notebook.parent / "solved" / notebook.name
    return [ROOT / notebook, *([solved] if solved.exists() else [])]


def digest_of(paths: list[Path]) -> str:
    """Return one digest over the names and contents of files and of folders, recursively."""
    digest = hashlib.sha256()
    for top in paths:
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in files:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0")
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def shared_fingerprint() -> str:
    """Return a digest of all that every notebook depends on, besides itself."""
    packages = sorted(f"{d.name}=={d.version}" for d in metadata.distributions())
    at_hand = [name for name, asset in assets.manifest().items() if asset.chapters]
    at_hand = [name for name in at_hand if assets.find(name)]  # else its stand-in is loaded
    files = digest_of([ROOT / name for name in SOURCES])
    return hashlib.sha256(repr((files, packages, at_hand, sys.version)).encode()).hexdigest()


def execute(notebook: Path, fingerprint: str) -> dict:
    """Execute one notebook with nbmake unless its executed copy is fresh; return its report."""
    stamp = STAMPS / notebook.with_suffix(".json")
    is_solved = notebook.parent.name == "solved"
    copy = (SOLVED if is_solved else SOURCE) / notebook
    if stamp.exists() and copy.exists():
        report = json.loads(stamp.read_text())
        if report["fingerprint"] == fingerprint:
            return {**report, "reused": True}
    stamp.unlink(missing_ok=True)
    print(f"\n{notebook}: executing", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:  # nbmake skips everything below `_build`
        working = Path(folder) / notebook.name
        own, *solved = sources_of(notebook)
        page = homework.folded(homework.read(solved[0])) if solved else homework.read(own)
        nbformat.write(page, working)
        command = [sys.executable, "-m", "pytest", "-q", "--nbmake", "--overwrite"]
        command += ["-p", "no:cacheprovider", "--rootdir", folder, str(working)]
        process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT)
        _, status, usage = os.wait4(process.pid, 0)  # its usage counts the kernel too
        failed = os.waitstatus_to_exitcode(status) != 0
        if is_solved and not failed:
            failed = not homework.all_right(working)
        if not failed:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(working, copy)
    report = {
        "notebook": str(notebook),
        "fingerprint": fingerprint,
        "seconds": round(time.monotonic() - started, 1),
        "peak_mb": round(usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)),
        "failed": failed,
    }
    if not failed:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(json.dumps(report))
    return {**report, "reused": False}


def execute_all(chosen: list[Path]) -> bool:
    """Execute those that are stale, print a line for each, return False if one failed."""
    shared = shared_fingerprint()
    reports = []
    for notebook in chosen:
        own = digest_of(sources_of(notebook))
        fingerprint = hashlib.sha256((shared + own).encode()).hexdigest()
        reports.append(execute(notebook, fingerprint))
    print()
    for report in reports:
        state = "FAILED" if report["failed"] else "reused" if report["reused"] else "executed"
        cost = f"{report['seconds']:6.1f} s  {report['peak_mb']:5,} MB"
        print(f"{state:<9} {report['notebook']:<48} {cost}")
    return not any(report["failed"] for report in reports)


def stage() -> None:
    """Copy everything but the notebooks into the folder that the site is built from."""
    for name in ("_static", "_ext", "live"):
        shutil.rmtree(SOURCE / name, ignore_errors=True)
        shutil.copytree(ROOT / name, SOURCE / name, ignore=shutil.ignore_patterns("__pycache__"))
    pages = [*ROOT.glob("*.md"), *ROOT.glob("data/*/README.md")]  # a model card is a page too
    for path in [*pages, ROOT / "_toc.yml", ROOT / "references.bib"]:
        copy = SOURCE / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["execute"]["execute_notebooks"] = "off"  # they are executed already
    (SOURCE / "_config.yml").write_text(yaml.safe_dump(config))
    wanted = {SOURCE / notebook for notebook in notebooks()}
    for path in SOURCE.glob("notebooks/**/*.ipynb"):
        if path not in wanted:
            path.unlink()


def jupyter_book(*options: str) -> int:
    """Run jupyter-book on what was staged, all of it; return its exit status."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(SOURCE), "--all"]
    command += ["--path-output", str(ROOT), *options]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=False).returncode


def check_links() -> bool:
    """Ask every address in the book whether it is still there; return False if one is not."""
    stage()
    status = jupyter_book("--builder", "linkcheck", "--quiet")
    output = BUILD / "linkcheck" / "output.txt"
    broken = [line for line in output.read_text().splitlines() if "[broken]" in line]
    print("\n".join(broken) or "links: all there")
    return not (status or broken)


def build_site() -> bool:
    """Build ``_build/html`` from scratch if anything changed; return False on any warning."""
    stage()
    fingerprint = digest_of([SOURCE])
    stamp = STAMPS / "site.txt"
    if stamp.exists() and stamp.read_text() == fingerprint and (HTML / "index.html").exists():
        print("site: nothing changed")
        return True
    stamp.unlink(missing_ok=True)
    # Sphinx repeats no warning for a page that it does not read again: always start afresh.
    shutil.rmtree(HTML, ignore_errors=True)
    shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
    if jupyter_book("--warningiserror", "--keep-going", "--nitpick", "--quiet"):
        return False
    for notebook in notebooks():  # the download button gives the notebook as its author wrote it
        shutil.copyfile(ROOT / notebook, HTML / "_sources" / notebook)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(fingerprint)
    print(f"site: {(HTML / 'index.html').relative_to(ROOT)}")
    return True


def main() -> int:
    """Execute, then build; stop at the first step that fails."""
    parser = argparse.ArgumentParser(prog="python -m tools.book")
    parser.add_argument("--execute", action="store_true", help="only execute")
    parser.add_argument("--chapter", type=int, metavar="N", help="only execute chapter N")
    parser.add_argument("--links", action="store_true", help="check the addresses, not the site")
    options = parser.parse_args()
    started = time.monotonic()
    chosen = notebooks() + solved_notebooks()
    if options.chapter is not None:
        chosen = [path for path in chosen if path.name.startswith(f"{options.chapter:02d}_")]
        if not chosen:
            parser.error(f"there is no chapter {options.chapter} in notebooks")
    if not execute_all(chosen):
        print("\nA notebook failed: its name, the cell and the traceback are above.")
        return 1
    if options.links and not check_links():
        print("\nThe addresses above do not answer as they should.")
        return 1
    only_execute = options.execute or options.links or options.chapter is not None
    if not only_execute and not build_site():
        print("\nThe site was not built: each warning above counts as an error.")
        return 1
    print(f"done in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run(main))
