"""The teacher's command, what it tells workers and what it hears from them."""

import argparse
import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from course_checks import Wrong, exercises
from course_grader import command, protocol, sandbox
from course_grader.reading import definitions, needed, statements
from course_grader.scoring import grade_submission
from course_grader.store import plain as for_spreadsheets
from course_grader.submissions import find_submissions

ROOT = Path(__file__).resolve().parents[1]
HOMEWORK = ROOT / "notebooks" / "homework"
TASKS = {e.check: e for a in command.assignments().values() for e in a.exercises}


@pytest.fixture(scope="module")
def workshop():
    """The workers' process, with a fence that holds."""
    with sandbox.Workshop(120, (), tuple(HOMEWORK.glob("*.ipynb"))) as workshop:
        yield workshop


@pytest.mark.parametrize("key", ["hw1", "hw2", "hw3", "hw4", "hw5"])
def test_the_solved_notebook_gets_all_points(key, tmp_path, workshop):
    assignment = command.assignments()[key]
    (tmp_path / "ada").mkdir()
    shutil.copy(HOMEWORK / "solved" / f"{assignment.notebook}.ipynb", tmp_path / "ada")
    (submission,), skipped = find_submissions(tmp_path, command.assignments())
    assert not skipped
    for seed in (0, 1, 2_000_000_000):
        result = grade_submission(submission, workshop, seed)
        assert (result.status, result.look()) == ("ok", [])
        assert result.total == assignment.points, [
            (s.function, s.public.message, s.extra and s.extra.message)
            for s in result.scored
            if s.points < s.of
        ]


@pytest.mark.parametrize("check", ["check_softmax", "check_steps_to_reach", "check_draw"])
@pytest.mark.parametrize("seed", [1000, 7_654_321])
def test_an_answer_that_knows_only_the_public_inputs_fails_on_others(check, seed):
    solved = (
        HOMEWORK / "solved" / f"{'hw4_sweep' if 'steps' in check else 'hw5_from_scratch'}.ipynb"
    )
    space = {"math": __import__("math"), "torch": torch}
    for cell in json.loads(solved.read_text())["cells"]:
        if f"def {TASKS[check].function}(" in "".join(cell["source"]):
            exec(definitions("".join(cell["source"])), space)
    right, seen = space[TASKS[check].function], {}
    judge = exercises.find(check).judge

    def remember(*args):
        before = repr(args)
        seen[before] = right(*args)
        return seen[before]

    def parrot(*args):
        return seen.get(repr(args), seen[next(iter(seen))])

    judge(remember)
    judge(parrot)
    judge(right, seed)
    with pytest.raises(Wrong):
        judge(parrot, seed)


@pytest.mark.parametrize("start", range(0, 40_000, 4_000))
def test_a_right_answer_to_homework_4_is_right_on_any_other_inputs(start):
    """Near ties too: rounding decides differently in another right answer."""

    def clear_winner(losses, margin):
        means = sorted((sum(runs) / len(runs), value) for value, runs in losses.items())
        return means[0][1] if means[1][0] - means[0][0] > margin else None

    def with_numpy(losses, margin):
        values = np.array(list(losses))
        means = np.array([np.float32(losses[v]).mean(dtype=np.float32) for v in losses])
        order = means.argsort()
        return values[order[0]].item() if means[order[1]] - means[order[0]] > margin else None

    judge = exercises.find("check_clear_winner").judge
    for seed in range(start, start + 100):
        judge(clear_winner, seed)
        judge(with_numpy, seed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "neither a folder nor a zip"),
        (["empty"], "should hold"),
        ([], "required"),
        (["class", "--out", "empty"], "is a folder"),
        (["class", "--out", "grades.txt"], "should end in .csv"),
        (["class", "--out", "class/grades.csv"], "lies among the submissions"),
        (["class", "--out", f"{'x' * 300}.csv"], "cannot be written"),
        (["class", "--out", "/proc/nowhere/grades.csv"], "cannot be written"),
        (["class", "--attempt", "0"], "counted from 1"),
        (["class", "--limit-seconds", "0"], "more than 0"),
        (["class", "--limit-seconds", "nan"], "more than 0"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "class" / "ada").mkdir(parents=True)
    shutil.copy(HOMEWORK / "hw4_sweep.ipynb", tmp_path / "class" / "ada")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sandbox, "START_SECONDS", 0)  # nothing gets as far as starting a worker
    from course_utils.__main__ import main

    try:
        status = main(["grade", *arguments])
    except SystemExit as error:
        status = error.code
    assert status
    assert words in capsys.readouterr().err
    assert not (tmp_path / "grades.csv").exists()


def test_windows_is_told_what_to_do():
    code = "import sys; sys.platform = 'win32'; from course_utils.__main__ import main; main(['grade', 'x'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Nothing was run: Windows cannot fence in")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "written"),
    [("=1+1", "'=1+1"), (" @SUM(A1)", "' @SUM(A1)"), ("a\nb", "a b"), ("-2", "'-2"), ("Ü", "Ü")],
)
def test_no_cell_of_the_table_is_a_formula(text, written):
    assert for_spreadsheets(text) == written


# --- reading a notebook's code -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("import math\nx = math.log(2)\nprint(x)", "import math\nx = math.log(2)"),
        ("%time y = 1\n!pip install z\nNEVER = float('inf')", "NEVER = float('inf')"),
        ("%%time\ndef f():\n    return 1", "def f():\n    return 1"),
        ("%%bash\nrm -rf /", ""),
        ("ok = (\n    a\n    != b\n)", "ok = a != b"),
        ("t = '''\n%x\n!y\n'''", "t = '\\n%x\\n!y\\n'"),
        ("model = load()\nlist(map(f, x))", ""),
        ("def (:", ""),
    ],
)
def test_definitions_are_read_as_ipython_reads_them(source, kept):
    assert definitions(source) == kept


def test_of_cells_that_were_handed_out_only_what_is_used_runs():
    handed = "import torch\nslow = train()\nvocabulary = sorted(set('abc'))\nplot(slow)"
    own = "def f(x):\n    return vocabulary[x]"
    assert needed([(handed, False), (own, True)], ["f"]) == [
        "import torch\nvocabulary = sorted(set('abc'))",
        own,
    ]


def test_the_same_answer_in_another_layout_is_the_same():
    def form(source):
        return statements([source], ["f"])

    one = form("def f(x):\n    '''Add.'''\n    return x + 1  # one")
    assert one == form("def f(value: int) -> int:\n\n    return (value +\n  1)")
    assert one != form("def f(x):\n    return x + 2")
    assert form("def f(x):\n    raise NotImplementedError") == {}


# --- the protocol --------------------------------------------------------------------------------

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


TYPES = [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.float16, torch.complex64]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)])
def test_tensors_come_back_as_they_went(dtype, shape):
    value = torch.randn(shape).mul(3).to(dtype)
    for one in (value, value.t() if value.ndim == 2 else value, value.expand(2, *shape)):
        back = round_trip(one)
        assert (back.dtype, back.shape) == (dtype, one.shape)
        assert torch.equal(back, one)
    array = torch.randn(shape).numpy()
    back = round_trip(array)
    assert isinstance(back, np.ndarray) and back.dtype == array.dtype
    assert np.array_equal(back, array) and back.shape == array.shape
    assert round_trip(torch.ones(shape, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    "value",
    [object(), len, torch.Generator(), 1j, torch.zeros(1, device="meta"), torch.zeros(9 << 20)],
)
def test_a_value_that_is_no_data_is_named(value):
    with pytest.raises(protocol.Unsendable, match=r"plain data|numbers"):
        protocol.pack({"value": value})


def test_what_contains_itself_is_refused():
    endless = []
    endless.append(endless)
    with pytest.raises(protocol.Unsendable, match="contains itself"):
        protocol.pack({"value": endless})


@given(st.binary(max_size=200), st.binary(max_size=50))
@settings(deadline=None)
def test_garbage_is_refused_and_nothing_else_happens(body, raw):
    with contextlib.suppress(protocol.ProtocolError):
        protocol.unpack(body, raw)


kinds = st.sampled_from(("tensor", "array", "dict", "bytes", "list", "set", "tuple", "x"))
forms = st.recursive(
    plain | st.just("0"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(kinds, inner, max_size=1),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=3), forms, max_size=3), st.binary(max_size=64))
@settings(deadline=None)
def test_malformed_values_are_refused_and_nothing_else_happens(message, raw):
    for tensors in (raw, save({"0": torch.ones(2)})):
        with contextlib.suppress(protocol.ProtocolError):
            protocol.unpack(json.dumps(message).encode(), tensors)


def test_what_the_page_for_teachers_prints_is_what_is_tested():
    text = (ROOT / "grading.md").read_text()
    blocks = re.findall(r"```\w+\n(.*?)```", text, flags=re.DOTALL)
    first, *containers = [" ".join(block.replace("\\\n", " ").split()) for block in blocks]
    assert first == ".venv/bin/python -m course_utils grade SUBMISSIONS --out grades.csv"
    for line in containers:  # run by test_grading_fence.py where a container engine is there
        assert "docker run --rm " in line
    assert len(containers) == 2
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    for line in (first, containers[1]):
        parser.parse_args(shlex.split(line.partition("course_utils grade ")[2]))
    options = {flag for action in parser._actions for flag in action.option_strings}
    mentioned = set(re.findall(r"`(--[\w-]+)", text))
    assert mentioned <= options
    assert options - mentioned == {"-h", "--help", "--out"}  # in the commands themselves
