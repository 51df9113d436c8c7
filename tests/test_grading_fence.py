"""The fence: each part by itself, where the course may lie, and the first process of a container."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import nbformat
import pytest

from course_grader import confine
from tests.grading_tools import (
    ROOT,
    grade,
    grade_in_a_container,
    no_container,
    open_to_others,
    python_for_all,
    rows_of,
)

SOLVED = ROOT / "notebooks" / "homework" / "solved" / "hw4_sweep.ipynb"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give rights away")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has namespaces")
ALL = ["files", "memory", "network", "processes", "user"]


def class_of(folder, n, code="pass"):
    """Lay out ``n`` solved notebooks with one more cell in front."""
    for number in range(n):
        made = nbformat.read(SOLVED, as_version=4)
        made.cells.insert(2, nbformat.v4.new_code_cell(code))
        (folder / f"student{number:02}").mkdir(parents=True)
        nbformat.write(made, folder / f"student{number:02}" / "hw4.ipynb")
    return folder


# --- part by part --------------------------------------------------------------------------------


def inside(tmp_path, broken):
    """Put up the fence with one part that does not work; return what is missing and what is found."""
    secret, home = tmp_path / "secret", tmp_path / "home"
    secret.write_text("x")
    home.mkdir()
    open_to_others(home, 0o777)
    memory, python = 4 << 30, [str(Path(p).resolve()) for p in (sys.prefix, sys.base_prefix)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        tried = {"read": [str(secret)], "write": [str(tmp_path)], "pid": os.getpid()}
        tried |= {"port": server.getsockname()[1], "memory": memory}
        mine, theirs = os.pipe()
        if (child := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                broken()
                missing = confine.separate(0)
                if (inner := os.fork()) == 0:
                    missing = confine.confine(missing, str(home), python, (), memory, 60, 0)
                    answer = [sorted(missing), sorted(confine.probe(**tried))]
                    os.write(theirs, json.dumps(answer).encode())
                    os._exit(0)
                os.waitpid(inner, 0)
            os._exit(0)
        os.close(theirs)
        os.waitpid(child, 0)
        with os.fdopen(mine) as stream:
            return json.loads(stream.read())


def refusing(name, flag=0):
    """Return what makes one C function, or one flag of it, fail as in a container."""

    def broken():
        call = confine._call

        def refuse(called, *arguments):
            if called == name and (not flag or arguments[0] & flag):
                raise OSError(1, "Operation not permitted")
            call(called, *arguments)

        confine._call = refuse

    return broken


def without(name):
    def broken():
        setattr(confine, name, lambda *_: None)

    return broken


def refusing_limit(which):
    def broken():
        limit = confine._limit

        def refuse(resource, value):
            if resource == which:
                raise ValueError("not allowed to raise maximum limit")
            limit(resource, value)

        confine._limit = refuse

    return broken


@needs_linux
@needs_root
@pytest.mark.parametrize(
    ("broken", "missing", "found"),
    [
        (lambda: None, [], []),
        (refusing("unshare", 0x20000), ["files"], ["files"]),
        (refusing("mount"), ["files"], ["files"]),
        (refusing("unshare", 0x40000000), ["network"], ["network"]),
        (refusing("unshare", 0x20000000), ["processes"], []),  # nobody cannot signal root
        (refusing("unshare", 0x08000000), ["processes"], []),
        (refusing("prctl"), ["user"], None),
        (refusing_limit(confine.resource.RLIMIT_AS), ["memory"], ["memory"]),
        (refusing_limit(confine.resource.RLIMIT_NPROC), ["processes"], ["processes"]),
        # what is not even tried is found all the same
        (without("_new_root"), [], ["files"]),
        (without("_drop_user"), [], ["processes", "user"]),
        (without("_limit"), [], ["memory", "processes"]),
    ],
)
def test_no_part_falls_because_another_did_and_a_gap_is_found(broken, missing, found, tmp_path):
    answer = inside(tmp_path, broken)
    if found == ["files"]:  # Python may lie where only root can read it: the user part says so
        answer[0] = [part for part in answer[0] if part != "user"]
    assert answer[0] == missing
    assert found is None or answer[1] == found


NO_RIGHTS = (
    *("unshare", "--user", "--map-root-user", "sh", "-c"),
    'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all "$@"',
    "-",
)


@needs_linux
@needs_root
def test_without_the_fence_nothing_runs_unless_it_is_asked_for(tmp_path):
    """A user namespace that may make no other stands for a container's filter of system calls."""
    place, out = class_of(tmp_path / "class", 1), tmp_path / "grades.csv"
    done = grade(place, out, before=NO_RIGHTS)
    assert done.returncode == 1, done.stdout + done.stderr
    for part in ("files", "network", "processes", "user"):
        assert f"{part}: " in done.stderr
    assert "--unsafe" in done.stderr and "grading.md" in done.stderr
    assert not out.exists()
    done = grade(place, out, "--unsafe", before=NO_RIGHTS)
    assert done.returncode == 0, done.stderr
    assert "the fence has a gap" in done.stderr
    (row,) = rows_of(out).values()
    assert row["total"] == "4" and row["isolation"].startswith("not ")
    done = grade(place, out)  # kept, and the table still says how it was run
    assert "1 of 1" in done.stdout and rows_of(out)["student00"]["isolation"] == row["isolation"]


# --- where the course lies, and who is the first process -----------------------------------------


@needs_linux
@pytest.mark.parametrize("below", ["x/course", "tmp/with a space/Kurs ü", "beside the installed"])
def test_the_course_may_lie_anywhere(below, tmp_path):
    """Below /tmp too, which is an empty folder for a student's code; or not where pip thinks."""
    course = tmp_path / below
    installed = ROOT if below == "beside the installed" else course
    packages = [path.parent.name for path in ROOT.glob("course_*/__init__.py")]
    for name in (*packages, "data", "notebooks"):
        shutil.copytree(ROOT / name, course / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", course)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", course / ".venv"], check=True)
    (packages,) = (course / ".venv" / "lib").glob("*/site-packages")
    (packages / "course.pth").write_text(f"{installed}\n{sysconfig.get_path('purelib')}\n")
    open_to_others(tmp_path)
    place, out = class_of(tmp_path / "class", 1, peek(course)), tmp_path / "out" / "grades.csv"
    done = grade(place, out, root=course, python=course / ".venv" / "bin" / "python")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = rows_of(out).values()
    assert (row["total"], row["isolation"], row["look"]) == ("4", "full", ""), row
    assert "cell" not in (out.parent / "feedback" / "student00.html").read_text()
    assert not list(course.rglob("written"))


def peek(course):
    """Return a cell that fails if it can read what it should not, or does not run this course."""
    return f"""
import course_utils, os
from pathlib import Path
assert course_utils.__file__.startswith({str(course)!r})
for path in ("course_grader/scoring.py", "course_checks/scratch.py", "notebooks/homework/solved"):
    assert not Path({str(course)!r}, path).exists(), path
# What is above these may be the fence's own empty folder, where an ordinary user may write.
for path in ("course_utils", "data"):
    try:
        Path({str(course)!r}, path, "written").touch()
    except OSError:
        continue
    raise AssertionError(path)
"""


LEAVES_CHILDREN = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
"""
# The rights that docker gives the first process of a container.
DOCKER = (
    "+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,"
    "+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap"
)
# As in a container without more rights: root, but for CAP_SYS_ADMIN and new namespaces.
CONTAINER = """
import ctypes, os, sys
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    assert ctypes.CDLL(None).unshare(0x10000000 | 0x20000000 | 0x20000) == 0
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    os.setresuid(0, 0, 0)
    if os.fork() == 0:
        os.system("mount --make-rprivate / && mount -t proc proc /proc")
        open("/proc/sys/user/max_user_namespaces", "w").write("0")
        os.execvp("setpriv", ["setpriv", "--bounding-set=-sys_admin", *sys.argv[1:]])
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
os.read(ready[0], 1)
for name in ("uid_map", "gid_map"):
    open(f"/proc/{child}/{name}", "w").write("0 0 65536")
os.write(go[1], b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_linux
@needs_root
@pytest.mark.parametrize("rights", ["as printed", "by default"])
def test_the_first_process_of_a_container_reaps(rights, tmp_path):
    """With 24 submissions that leave six processes each, the limit of processes is not used up.

    The rights, the table of processes and the network are those of the container in grading.md, or
    of one without SYS_ADMIN.
    """
    place, out = class_of(tmp_path / "class", 24, LEAVES_CHILDREN), tmp_path / "grades.csv"
    if rights == "as printed":
        start = ("unshare", "--pid", "--fork", "--mount-proc", "--net", "setpriv")
        before, more = (*start, f"--bounding-set=-all,+sys_admin,{DOCKER}"), ()
    else:
        before, more = (*python_for_all(""), sys.executable, "-c", CONTAINER), ("--unsafe",)
    done = grade(place, out, *more, before=before)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(out).values()
    assert {(row["total"], row["status"], row["look"]) for row in rows} == {("4", "ok", "")}, rows
    for page in (tmp_path / "feedback").iterdir():  # none was told that it has too many processes
        assert "stopped with" not in page.read_text()
    isolation = "full" if rights == "as printed" else "not files, network, processes"
    assert {row["isolation"] for row in rows} == {isolation}


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@needs_linux
def test_the_end_of_one_of_the_grader_s_own_processes_costs_one_result(tmp_path):
    """As when the system runs out of memory; the next run grades that submission."""
    place, out = class_of(tmp_path / "class", 2, "import time\ntime.sleep(6)"), tmp_path / "g.csv"
    run = [sys.executable, "-m", "course_utils", "grade", place, "--out", out]
    with subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        mine, deadline = f"{process.args[0]}\0-m\0course_utils\0grade", time.monotonic() + 120
        copies = []
        while not copies and time.monotonic() < deadline:
            time.sleep(0.1)
            there = [Path(f"/proc/{n}/cmdline") for n in children_of(process.pid)]
            copies = [p for p in there if p.exists() and p.read_text().startswith(mine)]
        os.kill(int(copies[0].parent.name), signal.SIGKILL)
        printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    assert printed.count(": not graded,") == 1 and printed.count(": ok, 4 points") == 1
    assert sorted(row["status"] for row in rows_of(out).values()) == ["not graded", "ok"]
    assert "ended; run the command again" in out.with_suffix(".html").read_text()
    done = grade(place, out)
    assert "1 of 2 submissions were graded before" in done.stdout
    assert [row["total"] for row in rows_of(out).values()] == ["4", "4"]


@needs_linux
@needs_root
def test_who_ran_out_of_time_beside_another_is_run_again_alone(tmp_path):
    """The second of two has no time in its first run: it waits unless it is the first user."""
    wait = f"import os, time\nif os.getuid() != {confine.NOBODY}:\n    time.sleep(100)"
    place, out = class_of(tmp_path / "class", 2), tmp_path / "grades.csv"
    late = nbformat.read(SOLVED, as_version=4)
    for cell in late.cells:
        indented = wait.replace("\n", "\n    ")
        head = "def steps_to_reach(steps, losses, target):\n"
        cell.source = cell.source.replace(head, f"{head}    {indented}\n")
    nbformat.write(late, place / "student01" / "hw4.ipynb")
    done = grade(place, out, "--limit-seconds", "20")
    assert "student01/hw4.ipynb: timed out, 2 points" in done.stdout
    assert "1 lost points for want of time: each runs again, by itself." in done.stdout
    assert "[2/2] student01/hw4.ipynb: ok, 4 points" in done.stdout
    assert {(row["total"], row["status"]) for row in rows_of(out).values()} == {("4", "ok")}


def test_the_container_line_works_as_printed(tmp_path):
    """Both lines, with the folder of submissions and the results that they name."""
    if reason := no_container():
        pytest.skip(reason)
    class_of(tmp_path / "submissions", 3, LEAVES_CHILDREN)
    done = grade_in_a_container(tmp_path / "submissions", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(tmp_path / "out" / "grades.csv").values()
    assert {(row["total"], row["isolation"]) for row in rows} == {("4", "full")}
