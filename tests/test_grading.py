"""The teacher's grader: the right row for every kind of submission, and nothing given away."""

import contextlib
import csv
import json
import math
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_grader import command, protocol, sandbox
from course_grader.extra_checks import EXTRA
from course_grader.reading import statements
from course_grader.scoring import find_check, grade_submission
from course_grader.store import plain as for_spreadsheets
from course_grader.submissions import find_submissions

ROOT = Path(__file__).resolve().parents[1]
HOMEWORK = ROOT / "notebooks" / "homework"
LIMIT_SECONDS = 12  # for the cells of one submission; half of it for one, a quarter for a check


def student(name):
    return nbformat.read(HOMEWORK / f"{name}.ipynb", as_version=4)


def solved(name):
    return nbformat.read(HOMEWORK / "solved" / f"{name}.ipynb", as_version=4)


def answer(notebook, function, source):
    """Replace the cell of an exercise in ``notebook`` by other code; return the notebook."""
    (cell,) = [
        c for c in notebook.cells if f"def {function}(" in c.source and c.cell_type == "code"
    ]
    cell.source = source
    return notebook


def with_cells(notebook, *sources):
    """Put code cells in front of the first exercise."""
    place = next(
        i for i, c in enumerate(notebook.cells) if "exercise" in c.metadata.get("tags", [])
    )
    notebook.cells[place:place] = [nbformat.v4.new_code_cell(source) for source in sources]
    return notebook


def sweep_answers(reach, winner="raise NotImplementedError"):
    """Return homework 4 with these two bodies."""
    notebook = student("hw4_sweep")
    answer(notebook, "steps_to_reach", f"def steps_to_reach(steps, losses, target):\n    {reach}")
    return answer(notebook, "clear_winner", f"def clear_winner(losses, margin):\n    {winner}")


ALWAYS_EQUAL = """
class Yes(float):
    __eq__ = __ge__ = __le__ = __lt__ = __gt__ = lambda *_: True
    __ne__ = lambda *_: False
    __hash__ = float.__hash__
    __sub__ = __rsub__ = lambda *_: 0.0
"""
PATCHES = """
import builtins, math, torch
torch.equal = torch.allclose = math.isclose = lambda *_, **__: True
import course_utils, sys
for module in list(sys.modules.values()):
    for name in list(vars(module)):
        if name.startswith("check_") or name in ("near", "same"):
            setattr(module, name, lambda *_, **__: True)
"""
PEEK = f"""
import gc, inspect, sys
def peek():
    found = []
    for path in {[str(HOMEWORK / "solved" / "hw4_sweep.ipynb"), str(ROOT / "course_grader/extra_checks.py")]!r}:
        try:
            found.append(open(path).read())
        except OSError:
            pass
    for module in ("course_grader.extra_checks", "course_checks.optimizing"):
        try:
            found.append(inspect.getsource(__import__(module, fromlist=["x"])))
        except (ImportError, OSError):
            pass
    frame = sys._getframe()
    while frame:
        found += [repr(v) for k, v in frame.f_locals.items() if k in ("right", "expected", "tests")]
        frame = frame.f_back
    found += [f.__name__ for f in gc.get_objects() if getattr(f, "__name__", "") == "check_steps_to_reach"]
    return found
"""
WRITE_TO_ALL = """
import os
for fd in range(3, 64):
    try:
        os.write(fd, b'hw1\\n' + b'\\xff' * 200)
    except OSError:
        pass
"""
FORGE = """
import gc, socket
from course_grader import protocol
for channel in gc.get_objects():
    if isinstance(channel, socket.socket):
        for _ in range(50):
            channel.sendall(protocol.pack({"result": True, "verdict": True, "args": []}))
"""


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
    """One folder with every kind of student."""
    port, _ = listener
    perfect, half = solved("hw5_from_scratch"), solved("hw5_from_scratch")
    for function in ("multi_head_attention", "train_bpe", "draw"):
        stub = f"def {function}(*_):\n    raise NotImplementedError"
        answer(half, function, stub)
    crashing = with_cells(solved("hw4_sweep"), "import os\nos._exit(3)")
    above = "def steps_to_reach(steps, losses, target):\n    return 1 / 0"
    raising = answer(solved("hw4_sweep"), "steps_to_reach", above)
    endless = with_cells(solved("hw4_sweep"), "while True:\n    pass")
    hanging = sweep_answers("while True: pass")
    hungry = sweep_answers("return bytearray(100 << 30)")
    cell = next(c for c in perfect.cells if "def softmax(" in c.source)
    copied = solved("hw5_from_scratch")
    for c in copied.cells:
        c.source = c.source.replace("logits", "numbers")
    (written,) = [c for c in perfect.cells if "written" in c.metadata.get("tags", [])]
    written.source = "**Your answer:**\n\n<script>alert(1)</script> The mask."
    assert "def softmax" in cell.source
    cheat = sweep_answers("return 0", "return None")
    notebooks = {
        "perfect": perfect,
        "copied": copied,
        "half": half,
        "empty": student("hw5_from_scratch"),
        "crashing": crashing,
        "raising": raising,
        "endless": endless,
        "hanging": hanging,
        "hungry": hungry,
        "cheat_check": with_cells(cheat, "def check_steps_to_reach(answer):\n    return True"),
        "cheat_patch": with_cells(sweep_answers("return 0"), PATCHES),
        "cheat_equal": with_cells(sweep_answers("return Yes(1)", "return Yes(1)"), ALWAYS_EQUAL),
        "cheat_exit": sweep_answers("import os; os._exit(0)", "raise SystemExit(0)"),
        "cheat_pipe": with_cells(sweep_answers(f"exec({WRITE_TO_ALL!r}); return 0"), "pass"),
        "cheat_forge": with_cells(sweep_answers(f"exec({FORGE!r}); return True"), "pass"),
        "cheat_peek": with_cells(
            sweep_answers("found = peek(); return float('nan') if found else 0"), PEEK
        ),
        "cheat_fork": sweep_answers("import os\n    while True: os.fork()"),
        "cheat_net": sweep_answers(
            f"import socket; socket.create_connection(('127.0.0.1', {port}), 2); return 0"
        ),
        "cheat_record": with_cells(
            sweep_answers("return 0"),
            "import pathlib\nfor p in ('/tmp/progress.json', 'grades.csv', '../grades.csv'):\n"
            "    pathlib.Path(p).write_text('{}')",
        ),
    }
    folder = tmp_path_factory.mktemp("class")
    for name, notebook in notebooks.items():
        (folder / name).mkdir()
        kind = "hw5" if any("def softmax(" in c.source for c in notebook.cells) else "hw4"
        nbformat.write(notebook, folder / name / f"my_{kind}.ipynb")
    (folder / "nothing").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "hw1.ipynb").write_text("{ no notebook")
    return folder


@pytest.fixture(scope="module")
def graded(submissions, tmp_path_factory):
    """Grade that folder with the command; return rows by student, the seconds and the folder."""
    out = tmp_path_factory.mktemp("grades") / "grades.csv"
    started = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "course_utils", "grade", submissions, "--out", out),
            *("--limit-seconds", str(LIMIT_SECONDS), "--seed", "1"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with out.open() as lines:
        rows = {row["student"]: row for row in csv.DictReader(lines)}
    return rows, time.monotonic() - started, out


@pytest.mark.parametrize(
    ("name", "status", "total"),
    [
        ("perfect", "ok", 20),
        ("copied", "ok", 20),
        ("half", "ok", 9),
        ("empty", "empty", 0),
        ("crashing", "crashed", 4),  # what it defines still counts
        ("raising", "ok", 2),
        ("endless", "timed out", 4),
        ("hanging", "timed out", 0),
        ("hungry", "out of memory", 0),
        ("nothing", "unreadable", None),
        ("broken", "unreadable", 0),
        ("cheat_check", "ok", 0),
        ("cheat_patch", None, 0),
        ("cheat_equal", None, 0),
        ("cheat_exit", "crashed", 0),
        ("cheat_pipe", "crashed", 0),
        ("cheat_forge", None, 0),
        ("cheat_peek", "ok", 0),
        ("cheat_fork", None, 0),
        ("cheat_net", "ok", 0),
        ("cheat_record", None, 0),
    ],
)
def test_each_submission_gets_its_row(graded, name, status, total):
    row = graded[0][name]
    assert status is None or row["status"] == status, row
    assert row["total"] == ("" if total is None else str(total)), row


def test_the_time_is_bounded(graded, submissions):
    n = len(list(submissions.iterdir()))
    assert graded[1] < 60 + n * LIMIT_SECONDS


def test_identical_answers_are_named(graded):
    rows = graded[0]
    assert rows["perfect"]["similar_to"] == "copied/my_hw5.ipynb"
    assert rows["copied"]["similar_to"] == "perfect/my_hw5.ipynb"
    assert rows["half"]["similar_to"] == ""
    assert rows["empty"]["similar_to"] == ""


def test_pages_say_what_was_wrong_and_escape_what_students_write(graded):
    out = graded[2]
    pages = {page.stem: page.read_text() for page in (out.parent / "feedback").iterdir()}
    assert "&lt;script&gt;" in pages["perfect"]
    assert "<script" not in pages["perfect"]
    assert "ZeroDivisionError" in pages["raising"]
    assert "line 2" in pages["raising"]
    overview = out.with_suffix(".html").read_text()
    for name in ("crashing", "endless", "hanging", "hungry", "broken"):
        assert name in overview.partition("Nearly the same answers")[0]


def test_what_isolation_promises_it_keeps(graded, listener):
    rows = graded[0]
    assert rows["perfect"]["isolation"] == "full"
    assert listener[1] == [], "a submission reached the network"
    page = (graded[2].parent / "feedback" / "cheat_peek.html").read_text()
    assert "nan" not in page.lower()  # peek() found nothing: no file, no module, no frame


def test_no_worker_is_left_behind(workshop):
    with workshop.worker() as worker:
        worker.ask({"do": "read", "cells": [["import os", True]], "functions": {}}, 5)
        mine = children_of(workshop._process.pid)
        assert mine
    deadline = time.monotonic() + 10
    while children_of(workshop._process.pid) & mine and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children_of(workshop._process.pid) & mine


@pytest.fixture(scope="module")
def workshop():
    """The workers' process, with a fence that holds."""
    with sandbox.Workshop(sandbox.Limits(), (), tuple(HOMEWORK.glob("*.ipynb"))) as workshop:
        yield workshop


def children_of(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in found} | {n for c in found for n in children_of(int(c))}


@pytest.mark.parametrize("key", ["hw1", "hw2", "hw3", "hw4", "hw5"])
def test_the_solved_notebook_gets_all_points(key, tmp_path, workshop):
    assignment = command.assignments()[key]
    (tmp_path / "ada").mkdir()
    shutil.copy(HOMEWORK / "solved" / f"{assignment.notebook}.ipynb", tmp_path / "ada")
    (submission,), skipped = find_submissions(tmp_path, command.assignments())
    assert not skipped
    for seed in (0, 1, 2_000_000_000):
        result = grade_submission(submission, workshop, seed)
        assert result.status == "ok", result.notes
        assert result.total == sum(e.points for e in assignment.exercises), [
            (s.function, s.public.message, s.extra and s.extra.message)
            for s in result.scored
            if s.points < s.of
        ]


def test_every_exercise_of_the_homework_has_an_extra_check():
    checks = {e.check for a in command.assignments().values() for e in a.exercises}
    assert checks == set(EXTRA)
    assert all(callable(find_check(name)) for name in checks)


def test_an_answer_that_knows_only_the_public_inputs_gets_half():
    assignment = command.assignments()["hw5"]
    (exercise,) = [e for e in assignment.exercises if e.function == "softmax"]
    seen = []

    def remember(x, *rest):
        seen.append(torch.as_tensor(x, dtype=torch.float32).clone())
        return torch.as_tensor(x, dtype=torch.float32).softmax(-1)

    assert find_check(exercise.check)(remember).passed
    public = list(seen)

    def parrot(x, *rest):
        x = torch.as_tensor(x, dtype=torch.float32)
        known = any(x.shape == y.shape and torch.equal(x, y) for y in public)
        return x.softmax(-1) if known else torch.zeros_like(x)

    assert find_check(exercise.check)(parrot).passed
    with pytest.raises(Exception, match="other inputs"):
        EXTRA[exercise.check](parrot, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no folder"),
        (["empty"], "should hold"),
        ([], "required"),
        (["class", "--out", "empty"], "is a folder"),
        (["class", "--out", "grades.txt"], "should end in .csv"),
        (["class", "--out", "class/grades.csv"], "lies among the submissions"),
        (["class", "--out", f"{'x' * 300}.csv"], "cannot be written"),
        (["class", "--out", "/proc/nowhere/grades.csv"], "cannot be written"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, words, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "class" / "ada").mkdir(parents=True)
    shutil.copy(HOMEWORK / "hw4_sweep.ipynb", tmp_path / "class" / "ada")
    done = subprocess.run(
        [sys.executable, "-m", "course_utils", "grade", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "written"),
    [("=1+1", "'=1+1"), (" @SUM(A1)", "' @SUM(A1)"), ("a\nb", "a b"), ("-2", "'-2"), ("Ü", "Ü")],
)
def test_a_spreadsheet_computes_nothing(text, written):
    assert for_spreadsheets(text) == written


def test_answers_are_compared_without_names_and_comments_but_with_their_code():
    one = "def f(x):\n    '''Add.'''\n    return x + 1  # one"

    def form(source):
        return statements([source], ["f"])

    assert form(one) == form("def f(value: int) -> int:\n\n    return (value +\n  1)")
    assert form(one) != form("def f(x):\n    return x + 2")
    assert form("def f(x):\n    raise NotImplementedError") == {}


# --- the protocol ------------------------------------------------------------------------------

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers()
data = st.recursive(
    plain | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


def round_trip(value):
    frame = protocol.pack({"value": value})
    _, n_json, _ = protocol._HEAD.unpack(frame[: protocol._HEAD.size])
    rest = frame[protocol._HEAD.size :]
    return protocol.unpack(rest[:n_json], rest[n_json:])["value"]


@given(data)
@settings(deadline=None)
def test_plain_data_comes_back_as_it_went(value):
    back = round_trip(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.float16]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)])
def test_tensors_come_back_as_they_went(dtype, shape):
    value = torch.randn(shape).mul(3).to(dtype)
    back = round_trip(value)
    assert back.dtype == dtype
    assert back.shape == value.shape
    assert torch.equal(back, value)
    array = value.float().numpy()
    assert np.array_equal(round_trip(array), array)


def test_generators_go_on_where_they_were():
    generator = torch.Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    back = round_trip(generator)
    assert torch.equal(torch.rand(3, generator=back), torch.rand(3, generator=generator))
    assert math.isnan(round_trip(math.nan))


@given(st.binary(max_size=200), st.binary(max_size=50))
@settings(deadline=None)
def test_garbage_is_refused_and_nothing_else_happens(body, raw):
    with contextlib.suppress(protocol.ProtocolError):
        protocol.unpack(body, raw)


forms = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(sorted(protocol._KINDS)), inner, max_size=1)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=3), forms, max_size=3), st.binary(max_size=64))
@settings(deadline=None)
def test_malformed_values_are_refused_and_nothing_else_happens(message, raw):
    with contextlib.suppress(protocol.ProtocolError):
        protocol.unpack(json.dumps(message).encode(), raw)


def test_a_value_that_is_no_data_is_named():
    with pytest.raises(protocol.Unsendable, match="object"):
        protocol.pack({"value": object()})
