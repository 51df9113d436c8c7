"""What the tests of the grader share: the command, its table, and running it as somebody else."""

import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from course_utils import assets

ROOT = Path(__file__).resolve().parents[1]


def grade(submissions, out, *more, before=(), root=ROOT, python=sys.executable):
    """Run the command as a teacher does, in a strict terminal; ``before`` is what starts it."""
    command = [python, "-m", "course_utils", "grade", submissions, "--out", out, *more]
    return subprocess.run(
        [*before, *map(str, command)],
        cwd=root,
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        text=True,
        check=False,
    )


def rows_of(out):
    """Return the rows of a table by student."""
    with out.open(encoding="utf-8-sig") as lines:
        return {row["student"]: row for row in csv.DictReader(lines)}


def printed_commands():
    """Return the commands that grading.md prints, each in a line."""
    text = (ROOT / "grading.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [" ".join(block.replace("\\\n", " ").split()) for block in blocks]


def no_container():
    """Return why no container can be run here, an empty text if one can."""
    if not shutil.which("docker"):
        return "there is no docker on this machine"
    asked = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    if asked.returncode:
        return f"no container engine answers: {asked.stderr.strip().splitlines()[-1]}"
    return ""


def grade_in_a_container(submissions, out, *more):
    """Run both container lines of grading.md; ``out`` is the folder of the results."""
    preparing, grading = (line for line in printed_commands() if "docker run" in line)
    grading = grading.replace("/path/to/submissions", str(submissions))
    grading = " ".join([grading.replace('"$PWD/out"', str(out)), *more])
    for line in (preparing, grading):
        done = subprocess.run(
            line, shell=True, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            break
    return done


def open_to_others(path, mode=0o755):
    """Let other users in: pytest makes ``path`` and the folders above it for one user alone."""
    for folder in (path, *path.parents):
        if Path(tempfile.gettempdir()).resolve() in folder.resolve().parents:
            folder.chmod(mode)


def python_for_all(run):
    """Return what runs a command in a mount namespace in which everybody can read Python.

    Folders that only root can enter, such as /root, are there open ones with nothing else in them.
    """
    needed = {Path(sys.base_prefix), Path(sys.prefix), assets.cache_folder(), ROOT}
    needed = {path.resolve() for path in needed}
    closed = {p for path in needed for p in path.parents if not p.stat().st_mode & 1}
    script = ["set -e", "d=$(mktemp -d)", "mount -t tmpfs -o mode=755 none $d"]
    for folder in closed:
        for path in (p for p in needed if p.is_relative_to(folder)):
            script.append(f"mkdir -p '{path}' $d'{path}'; mount --bind '{path}' $d'{path}'")
        script.append(f"mount --rbind $d'{folder}' '{folder}'")
    return "unshare", "--mount", "sh", "-c", "\n".join([*script, f'exec {run} "$@"']), "-"
