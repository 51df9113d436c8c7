"""A class of eighty: honest in many styles, odd, hostile; each gets the right row.

Nearly all hand in homework 4: two exercises, two points each.
"""

import json
import os
import pwd
import shutil
import socket
import threading

import nbformat
import pytest

from tests.grading_tools import (
    ROOT,
    grade,
    grade_in_a_container,
    no_container,
    open_to_others,
    python_for_all,
    rows_of,
)

STUDENT = nbformat.read(ROOT / "notebooks" / "homework" / "hw4_sweep.ipynb", as_version=4)
LIMITS = ("--limit-seconds", "8", "--seed", "7")
TASKS = ("steps_to_reach", "clear_winner")

REACH = """def steps_to_reach(steps, losses, target):
    if losses[0] <= target:
        return steps[0]
    for (a, high), (b, low) in zip(zip(steps, losses), list(zip(steps, losses))[1:]):
        if low <= target:
            return a + (b - a) * (high - target) / (high - low)
    return math.inf
"""
WINNER = """def clear_winner(losses, margin):
    means = sorted((sum(runs) / len(runs), value) for value, runs in losses.items())
    return means[0][1] if means[1][0] - means[0][0] > margin else None
"""
CHECK_REACH, CHECK_WINNER = (
    "\ncheck_steps_to_reach(steps_to_reach)",
    "\ncheck_clear_winner(clear_winner)",
)


def notebook(*before, reach=REACH + CHECK_REACH, winner=WINNER + CHECK_WINNER, after=()):
    """Return homework 4 with these answers, and cells in front of and behind them."""
    made = nbformat.from_dict(STUDENT)
    cells = []
    for cell in made.cells:
        if "def steps_to_reach" in cell.source and cell.cell_type == "code":
            cells += [nbformat.v4.new_code_cell(source) for source in before]
            cell.source = reach
        elif "def clear_winner" in cell.source and cell.cell_type == "code":
            cell.source = winner
            cells += [cell, *(nbformat.v4.new_code_cell(source) for source in after)]
            continue
        cells.append(cell)
    made.cells = cells
    return made


def inside(code):
    """Return an answer that runs ``code`` and then returns something wrong."""
    body = "\n".join(f"    {line}" for line in code.splitlines())
    return f"def steps_to_reach(steps, losses, target):\n{body}\n    return 0{CHECK_REACH}"


HONEST = {  # all of them are right: 4 points, status ok
    "plain": notebook(),
    "formatted": notebook(
        "a, b = 1, 2\nok = (\n    a\n    != b\n    % 2\n)\ntext = '''\n%time\n!pip\n'''"
    ),
    "constant_name": notebook(
        'NEVER = float("inf")', reach=REACH.replace("math.inf", "NEVER") + CHECK_REACH
    ),
    "constant_below": notebook(
        reach=REACH.replace("math.inf", "NEVER") + CHECK_REACH, after=["NEVER = math.inf"]
    ),
    "computed_constant": notebook(
        "import math\nZERO = math.log(1)",
        reach=REACH.replace("target\n", "target + ZERO\n") + CHECK_REACH,
    ),
    "import_in_the_cell": notebook(
        reach="import math as m\n" + REACH.replace("math.inf", "m.inf") + CHECK_REACH
    ),
    "imports_and_runs": notebook(
        "import time, json\nimport numpy as np\ntime.sleep(0.2)\nnp.random.seed(1)\nbig = np.zeros(10)",
        reach=REACH.replace("math.inf", "np.inf") + CHECK_REACH,
    ),
    "handed_out_name": notebook(
        reach=REACH.replace("math.inf", "math.inf if EVERY else 0") + CHECK_REACH
    ),
    "handed_out_data": notebook(
        "first_ids = train_ids[:3].tolist()",
        reach=REACH.replace("math.inf", "math.inf if first_ids else 0") + CHECK_REACH,
    ),
    "callable_object": notebook(
        reach="class Reach:\n    def __call__(self, steps, losses, target):\n        return reach(steps, losses, target)\n"
        + REACH.replace("steps_to_reach", "reach")
        + "steps_to_reach = Reach()"
        + CHECK_REACH
    ),
    "partial": notebook(
        winner="from functools import partial\ndef general(losses, margin, best):\n"
        "    means = {v: sum(r) / len(r) for v, r in losses.items()}\n"
        "    a, b = sorted(means, key=means.get)[:2]\n"
        "    return a if means[b] - means[a] > margin else None\n"
        "clear_winner = partial(general, best=min)" + CHECK_WINNER
    ),
    "lambda": notebook(
        winner="mean = lambda r: sum(r) / len(r)\norder = lambda l: sorted(l, key=lambda v: mean(l[v]))\n"
        "clear_winner = lambda l, m: order(l)[0] if mean(l[order(l)[1]]) - mean(l[order(l)[0]]) > m else None"
        + CHECK_WINNER
    ),
    "decorated": notebook(
        "import functools\ndef logged(f):\n    @functools.wraps(f)\n    def inner(*a, **k):\n        print(a)\n"
        "        return f(*a, **k)\n    return inner",
        reach="@logged\n" + REACH + CHECK_REACH,
    ),
    "other_name": notebook(
        reach=REACH.replace("steps_to_reach", "mine") + "check_steps_to_reach(mine)"
    ),
    "assert_passed": notebook(reach=REACH + "assert check_steps_to_reach(steps_to_reach).passed"),
    "verdict_kept": notebook(
        reach=REACH + "v = check_steps_to_reach(steps_to_reach)\nprint(v.passed, v.message)\nv"
    ),
    "check_in_a_module": notebook(
        reach="import course_checks.optimizing as checks\n"
        + REACH
        + "checks.check_steps_to_reach(steps_to_reach)"
    ),
    "star_import": notebook("from course_checks.optimizing import *"),
    "awaits": notebook(
        "import asyncio\nawait asyncio.sleep(0.01)\nasync def f():\n    return 1\none = await f()"
    ),
    "times": notebook(
        reach="%%time\n" + REACH + CHECK_REACH, after=["%time x = 1", "%timeit -n1 -r1 1 + 1"]
    ),
    "captures": notebook(winner="%%capture out\n" + WINNER + CHECK_WINNER),
    "installs": notebook(
        "!pip install --quiet numpy", "%pip install torch", "files = !ls", "%%bash\npip install x"
    ),
    "asks": notebook(
        "math.inf?", "?math", "math.sqrt??", reach=REACH + "steps_to_reach?" + CHECK_REACH
    ),
    "odd_magics": notebook(
        "%matplotlib inline\n%load_ext autoreload\n%autoreload 2\n%no_such_magic", "%%nothing\nx"
    ),
    "windows_lines": notebook(reach=(REACH + CHECK_REACH).replace("\n", "\r\n")),
    "helper_below": notebook(
        reach=REACH.replace("math.inf", "never()") + CHECK_REACH,
        after=["def never():\n    return math.inf"],
    ),
    "shadows_later": notebook(after=["sorted = 3\nzip = None\nmath = 'gone'"]),
    "breaks_later": notebook(after=["def clear_winner(*_):\n    return 1 / 0"]),
    "long_experiment": notebook(after=["import time\ntime.sleep(100)"]),
    "failing_cell": notebook("1 / 0\nlater = 1", "open('/data/mine.csv')"),
    "definition_below_an_error": notebook(reach="print(undefined_name)\n" + REACH + CHECK_REACH),
    "exits_in_a_cell": notebook("import sys\nsys.exit()", "exit()"),
    "prints_a_flood": notebook("for i in range(100_000): print('x' * 50)"),
    "plots": notebook("plt.plot([1, 2])\nplt.show()\nfig, ax = plt.subplots()\nfig"),
    "no_syntax_in_another_cell": notebook("def (:"),
    "numpy_answer": notebook(
        "import numpy as np",
        winner="def clear_winner(losses, margin):\n    keys = list(losses)\n"
        "    means = np.array([np.mean(losses[k]) for k in keys])\n    order = means.argsort()\n"
        "    return keys[order[0]] if means[order[1]] - means[order[0]] > margin else None"
        + CHECK_WINNER,
    ),
    "global_state": notebook(
        "import torch\ntorch.set_default_dtype(torch.float64)\ntorch.manual_seed(3)"
    ),
    "threads": notebook(
        "import torch, threading\ntorch.set_num_threads(4)\nt = threading.Thread(target=print); t.start(); t.join()"
    ),
    "writes_a_file": notebook(
        "from pathlib import Path\nPath('mine.txt').write_text('ü')\nassert Path('mine.txt').read_text()"
    ),
    "writes_a_module": notebook(
        "%%writefile helper.py\nNEVER = float('inf')",
        "from helper import NEVER",
        reach=REACH.replace("math.inf", "NEVER") + CHECK_REACH,
    ),
    "keyboard_interrupt": notebook("raise KeyboardInterrupt"),
}


def solved(name, **changes):
    """Return a solved notebook; an exercise named in ``changes`` has this source instead."""
    folder = ROOT / "notebooks" / "homework" / "solved"
    made = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    for function, source in changes.items():
        (cell,) = [
            c for c in made.cells if c.cell_type == "code" and f"def {function}(" in c.source
        ]
        cell.source = source
    return made


def renamed(made, old, new):
    for cell in made.cells:
        cell.source = cell.source.replace(old, new)
    return made


STUBS = {f: f"def {f}(*_):\n    raise NotImplementedError" for f in ("train_bpe", "draw", "multi_head_attention")}  # fmt: skip
FROM_SCRATCH = {  # homework 5: points, status
    "perfect": (solved("hw5_from_scratch"), 20, "ok"),
    "copied": (renamed(solved("hw5_from_scratch"), "logits", "numbers"), 20, "ok"),
    "half": (solved("hw5_from_scratch", **STUBS), 9, "ok"),
    "forbidden": (solved("hw5_from_scratch", lm_loss="from torch.nn import functional as F\ndef lm_loss(logits, ids, pad_id):\n    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=pad_id)\ncheck_lm_loss(lm_loss)"), 17, "ok"),
}  # fmt: skip
(_written,) = [
    c for c in FROM_SCRATCH["perfect"][0].cells if "written" in c.metadata.get("tags", [])
]
_written.source = "**Your answer:**\n\n<script>alert(1)</script> The mask."

ODD = {  # points, status (None: any), a word in the column "look" ("" for none at all)
    "stub": (
        notebook(
            reach=inside("raise NotImplementedError"),
            winner="def clear_winner(losses, margin):\n    raise NotImplementedError",
        ),
        0,
        "empty",
        "",
    ),
    "wrong": (notebook(reach=inside("pass")), 2, "ok", ""),
    "both_wrong": (
        notebook(reach=inside("pass"), winner="def clear_winner(l, m):\n    return min(l)"),
        0,
        "ok",
        "",
    ),
    "raises": (notebook(reach=inside("1 / 0")), 2, "ok", "ZeroDivisionError"),
    "name_error": (notebook(reach=inside("nowhere")), 2, "ok", "NameError"),
    "deleted": (notebook(reach="print('gone')"), 2, "ok", "does not exist"),
    "syntax": (notebook(reach="def steps_to_reach(:"), 2, None, "SyntaxError"),
    "returns_an_object": (notebook(reach=inside("return object()")), 2, "ok", "object"),
    "hangs": (notebook(reach=inside("while True: pass")), 2, "timed out", "stopped after"),
    "hangs_and_holds_on": (
        notebook(
            reach=inside(
                "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
            )
        ),
        2,
        "timed out",
        "timed out",
    ),
    "slow_cells_first": (
        notebook(*["import time\ntime.sleep(100)"] * 6),
        4,
        "timed out",
        "stopped after",
    ),
    "hangs_in_c": (notebook("sum(range(10**14))"), 4, "timed out", ""),
    "needs_a_module": (
        notebook(reach="import no_such_module\n" + inside("return no_such_module.x")),
        2,
        None,
        "no_such_module",
    ),
    "eats_memory": (notebook("x = bytearray(100 << 30)"), 4, "out of memory", "MemoryError"),
    "recursion": (
        notebook(reach=inside("return steps_to_reach(steps, losses, target)")),
        2,
        "ok",
        "RecursionError",
    ),
    "not_callable": (notebook(reach="steps_to_reach = 5"), 2, "ok", "TypeError"),
    "prints_only": (
        notebook(winner=WINNER.replace("return", "best =") + "    print(best)\n" + CHECK_WINNER),
        2,
        "ok",
        "",
    ),
    "generator": (notebook(reach=inside("yield 1")), 2, "ok", None),
}

FORGE = """
import gc, socket
from course_grader import protocol
for channel in gc.get_objects():
    if isinstance(channel, socket.socket):
        for _ in range(50):
            channel.sendall(protocol.pack({"result": True, "verdict": True, "args": []}))
"""
SECRET = [
    str(ROOT / "notebooks/homework/solved/hw4_sweep.ipynb"),
    str(ROOT / "course_grader/scoring.py"),
]
PEEK = f"""
import gc, inspect, sys
def peek():
    found = []
    for path in {SECRET!r}:
        try:
            found.append(open(path).read())
        except OSError:
            pass
    for module in ("course_grader.scoring", "course_checks.optimizing"):
        try:
            found.append(inspect.getsource(__import__(module, fromlist=["x"])))
        except (ImportError, OSError, TypeError):
            pass
    frame = sys._getframe()
    while frame:
        found += [repr(v) for k, v in frame.f_locals.items() if k in ("right", "expected", "tests")]
        frame = frame.f_back
    return found
"""  # fmt: skip

HOSTILE = {  # points, status: nothing is gained, and nobody else is harmed
    "exits": (notebook(reach=inside("import os; os._exit(0)")), 2, "crashed"),
    "segfaults": (notebook(reach=inside("import ctypes; ctypes.string_at(0)")), 2, "crashed"),
    "kills_all": (notebook(reach=inside("import os, signal; os.kill(-1, 9)")), 2, None),
    "kills_the_parent": (notebook(reach=inside("import os; os.kill(max(os.getppid(), 2), 9)")), 2, None),
    "forks": (notebook(reach=inside("import os\nwhile True: os.fork()")), 2, None),
    "leaves_children": (notebook(reach=inside("import os, time\nfor _ in range(9):\n    if os.fork() == 0: time.sleep(1000)")), 2, None),
    "fills_the_disk": (notebook(reach=inside("with open('x', 'wb') as f:\n    while True: f.write(bytes(1 << 20))")), 2, None),
    "equal_to_all": (notebook("class Yes(float):\n    __eq__ = lambda *_: True\n    __ne__ = lambda *_: False", reach=inside("return Yes(1)")), 2, None),
    "patches": (notebook("import math, torch\nmath.isclose = torch.equal = lambda *_, **__: True", reach=inside("pass")), 2, None),
    "replaces_protocol": (notebook("from course_grader import protocol\nprotocol.pack = lambda *_: b'x'", reach=inside("pass")), 0, None),
    "writes_to_all": (notebook(reach=inside("import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'hw1\\n' + b'\\xff' * 99)\n    except OSError: pass")), 2, None),
    "reads_course": (notebook(reach=inside(f"open({str(ROOT / 'course_grader' / 'scoring.py')!r}).read(); return math.inf")), 2, None),
    "imports_checks": (notebook("import sys\nsys.meta_path.pop(0)", reach=inside("from course_checks import optimizing; return 1")), 2, None),
    "becomes_root": (notebook(reach=inside("import os; os.setuid(0); os.setgroups([])")), 2, None),
    "mounts": (notebook(reach=inside("import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0 and ctypes.CDLL(None).mount(b'/', b'/tmp', 0, 4096, 0) == 0; raise SystemExit")), 2, None),
    "calls_out": (notebook(reach=inside("import socket; socket.create_connection(('127.0.0.1', PORT), 1)")), 2, None),
    "html": (notebook(reach=inside("raise ValueError('<script>alert(1)</script>')")), 2, "ok"),
    "formula": (notebook(reach=inside("raise ValueError('=1+1')")), 2, "ok"),
    "deep_nesting": (notebook("x = " + "(" * 5000 + ")" * 5000), 4, None),
    "huge_number": (notebook(reach=inside("return 10 ** 10_000")), 2, None),
    "huge_list": (notebook(reach=inside("return [0] * 10_000_000")), 2, None),
    "redefines_the_check": (notebook("def check_steps_to_reach(answer):\n    return True", reach=inside("pass")), 2, "ok"),
    "forges": (notebook(reach=inside(f"exec({FORGE!r})")), 2, None),
    "peeks": (notebook(PEEK, reach=inside("found = peek()\nif found: raise ValueError(f'found {found}')")), 2, "ok"),
    "writes_results": (notebook("import pathlib\nfor p in ('/tmp/progress.json', 'grades.csv', '../grades.csv'):\n    pathlib.Path(p).write_text('{}')", reach=inside("pass")), 2, None),
    "signals": (notebook("import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nsignal.setitimer(signal.ITIMER_REAL, 0)", reach=inside("while True: pass")), 2, None),
}  # fmt: skip


NAMES = {  # folders as they may be called, and how the student is called in the table
    "Jörg".encode("latin-1"): "Jörg",
    b"n" * 254: "n" * 254,
    "Åsa ☃".encode(): "Åsa ☃",
    b"=1+1": "'=1+1",
    b".hidden": ".hidden",
}


@pytest.fixture(scope="module")
def listener():
    """A server that counts who connects to it."""
    server, callers = socket.create_server(("127.0.0.1", 0)), []

    def accept():
        while True:
            try:
                connection, who = server.accept()
            except OSError:
                return
            callers.append(who)
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1], callers
    server.close()


@pytest.fixture(scope="module")
def submissions(tmp_path_factory, listener):
    folder = tmp_path_factory.mktemp("class")
    rows = ODD | HOSTILE | FROM_SCRATCH
    everybody = HONEST | {name: row[0] for name, row in rows.items()}
    for name, made in everybody.items():
        (folder / name).mkdir()
        text = nbformat.writes(made).replace("PORT", str(listener[0]))
        (folder / name / ("hw5.ipynb" if name in FROM_SCRATCH else "hw4.ipynb")).write_text(text)
    signed = folder / "plain" / "hw4.ipynb"
    signed.write_bytes(b"\xef\xbb\xbf" + signed.read_bytes())
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": []}]}
    for cell in HONEST["formatted"].cells:
        text = "input" if cell.cell_type == "code" else "source"
        old["worksheets"][0]["cells"].append({"cell_type": cell.cell_type, text: cell.source})
    old["worksheets"][0]["cells"] += [{"cell_type": "code"}, {"source": "x"}, None, 5]
    (folder / "formatted" / "hw4.ipynb").write_text(json.dumps(old))
    for name in NAMES:
        os.mkdir(os.fsencode(folder) + b"/" + name)
        nbformat.write(notebook(), os.fsdecode(os.fsencode(folder) + b"/" + name + b"/hw4.ipynb"))
    (folder / "nothing").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "hw1.ipynb").write_text("{ no notebook")
    return folder


def as_a_user(submissions, folder, some):
    """Grade half of the honest and all of the odd and hostile as an ordinary user."""
    user = pwd.getpwnam("nobody").pw_uid - 100
    for name in (*list(HONEST)[::2], *ODD, *HOSTILE):
        shutil.copytree(submissions / name, some / name)
    for path in (folder, some):
        open_to_others(path)
    os.chown(folder, user, user)
    before = python_for_all(f"setpriv --reuid {user} --regid {user} --clear-groups")
    return grade(some, folder / "grades.csv", *LIMITS, before=before)


def in_a_container(submissions, folder, copy):
    """Grade all of them by the lines of grading.md; the course lies at another place there."""
    shutil.copytree(submissions, copy, dirs_exist_ok=True)
    for path in copy.glob("*/hw*.ipynb"):
        path.write_bytes(path.read_bytes().replace(str(ROOT).encode(), b"/course"))
    return grade_in_a_container(copy, folder, *LIMITS)


@pytest.fixture(scope="module", params=["as it is", "as a user", "in a container"])
def graded(request, submissions, tmp_path_factory):
    """Grade the class: as whoever runs the tests, as a user if that is root, in a container."""
    folder, more = tmp_path_factory.mktemp("grades"), tmp_path_factory.mktemp("more")
    if request.param == "as it is":
        done = grade(submissions, folder / "grades.csv", *LIMITS)
    elif request.param == "as a user":
        if os.geteuid() != 0:
            pytest.skip("the first run was as a user")
        done = as_a_user(submissions, folder, more)
    else:
        if reason := no_container():
            pytest.skip(reason)
        done = in_a_container(submissions, folder, more)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return rows_of(folder / "grades.csv"), folder


def row_of(graded, name):
    if name not in graded[0]:
        pytest.skip("not among those that are graded as a user")
    return graded[0][name]


@pytest.mark.parametrize("name", HONEST)
def test_what_worked_in_the_notebook_is_worth_its_points(graded, name):
    row = row_of(graded, name)
    assert row["total"] == "4", row
    assert row["isolation"] == "full"


@pytest.mark.parametrize("name", ODD)
def test_points_lost_to_anything_but_a_wrong_answer_are_named(graded, name):
    _, points, status, word = ODD[name]
    row = row_of(graded, name)
    assert row["total"] == str(points), row
    assert status is None or row["status"] == status, row
    if word == "" and points < 4:
        assert row["look"] == "", row
    elif word:
        assert word in row["look"], row


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_gained_and_the_others_are_unharmed(graded, name):
    _, points, status = HOSTILE[name]
    row = row_of(graded, name)
    assert float(row["total"]) <= points, row
    assert status is None or row["status"] == status, row
    assert "found" not in row["look"], row


@pytest.mark.parametrize("name", NAMES.values())
def test_no_name_costs_anything(graded, name):
    row = row_of(graded, name)
    assert (row["total"], row["status"]) == ("4", "ok")
    assert f"{name.strip(chr(39))[:20]}" in (graded[1] / "grades.html").read_text()


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_homework_5_gets_its_points(graded, name):
    _, points, status = FROM_SCRATCH[name]
    row = row_of(graded, name)
    assert (row["total"], row["status"]) == (str(points), status), row


def test_nobody_reached_the_network(graded, listener):
    assert listener[1] == []


def test_the_pages_are_harmless(graded):
    for page in (graded[1] / "feedback").iterdir():
        assert "<script" not in page.read_text()
    for cell in (cell for row in graded[0].values() for cell in row.values()):
        assert not cell.startswith(("=", "+", "@"))


def test_copies_and_what_needs_a_look_are_named(graded):
    if row_of(graded, "perfect"):
        assert graded[0]["perfect"]["similar_to"] == "copied/hw5.ipynb"
        assert graded[0]["half"]["similar_to"] == ""
    assert [graded[0][name]["status"] for name in ("nothing", "broken")] == ["unreadable"] * 2
    page = (graded[1] / "grades.html").read_text()
    looks = page.partition("Nearly the same answers")[0]
    for name in ("hangs", "exits", "eats_memory", "broken", "nothing"):
        assert name in looks
    pages = graded[1] / "feedback"
    assert "NameError" in (pages / "name_error.html").read_text()
    assert "print only shows it" in (pages / "prints_only.html").read_text()
    assert "On other inputs: as right." in (pages / "plain.html").read_text()
    assert "&lt;script&gt;" in (graded[1] / "feedback" / "perfect.html").read_text()
