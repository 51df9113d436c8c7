"""What holds for the checks of every chapter, and the table of planted answers.

Exercises that are data are tested in ``test_exercises.py``. For the others, each ``test_checks_….py`` holds answers by the name of their check: ``RIGHT``, and ``MISTAKES`` with
words of the diagnosis (``|`` between alternatives); ``PRAISE`` has words that a right answer is told.
"""

import contextlib
import importlib
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import course_checks
from course_checks import BROKEN, Wrong, answers, check, guard, record
from course_checks.exercises import Exercise

HERE = Path(__file__).parent
CHECKS = {
    name: getattr(module, name)
    for module in (
        importlib.import_module(f"course_checks.{path.stem}")
        for path in sorted(Path(course_checks.__file__).parent.glob("[a-z]*.py"))
    )
    for name in getattr(module, "__all__", dir(module))
    if name.startswith("check_")
}
TABLES = [
    importlib.import_module(f"tests.{path.stem}") for path in sorted(HERE.glob("test_checks_*.py"))
]


def table(title):
    """Return the tables of this title of all files, merged; no check stands in two of them."""
    merged = {}
    for module in TABLES:
        for name, cases in getattr(module, title, {}).items():
            assert name not in merged, f"{name} stands in two files"
            merged[name] = cases
    return merged


RIGHT, MISTAKES, PRAISE = table("RIGHT"), table("MISTAKES"), table("PRAISE")
#: Words that say what came out, not why: they do not count as a diagnosis by name.
PLAIN = ("stopped", "shape", "expected", "return", "tuple", "None", "numbers differ", "differs")


def cases(table):
    return [
        pytest.param(CHECKS[name], case, id=f"{name}-{number}")
        for name, answers in table.items()
        for number, case in enumerate(answers)
    ]


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.__name__)
def test_a_stub_is_not_attempted_yet(check):
    def not_attempted(*_):
        raise NotImplementedError

    assert check(not_attempted).passed is None


@pytest.mark.parametrize(("check", "right"), cases(RIGHT))
def test_a_right_answer_passes(check, right):
    verdict = check(right)
    assert verdict.passed is True, verdict
    for word in PRAISE.get(check.__name__, []):
        assert word in verdict.message


@pytest.mark.parametrize(("check", "case"), cases(MISTAKES))
def test_a_mistake_is_named(check, case):
    wrong, word = case
    verdict = check(wrong)
    assert verdict.passed is False, verdict
    assert any(part in verdict.message for part in word.split("|")), verdict
    assert "\n" not in verdict.message


@pytest.mark.parametrize("name", [n for n, one in CHECKS.items() if not isinstance(one, Exercise)])
def test_every_check_knows_three_mistakes_and_two_ways_to_be_right(name):
    named = {word for _, word in MISTAKES.get(name, []) if word not in PLAIN}
    assert len(named) >= 3, f"{name}: mistakes diagnosed by name: {named}"
    assert len(RIGHT.get(name, [])) >= 2, f"{name}: right answers"


NONSENSE = [None, 3, float("nan"), "text", b"bytes", {}, object(), [[1, 2], [3]], print]
NONSENSE += [torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.complex64), np.array(["a"])]


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.__name__)
def test_nonsense_is_wrong_and_never_raises(check):
    for nonsense in NONSENSE:
        verdict = check(lambda *_, result=nonsense: result)
        assert verdict.passed is False, nonsense
        assert "\n" not in verdict.message


@check
def check_double(answer):
    """Check ``double(x)``."""
    if not torch.equal(
        answers.as_tensor(answers.call(answer, torch.ones(3))), torch.full((3,), 2.0)
    ):
        raise Wrong("The values are not doubled.")
    return "2"


def test_a_check_keeps_its_tests_within_reach():
    assert check_double.__wrapped__(lambda x: 2 * x) == "2"
    with pytest.raises(Wrong):
        check_double.__wrapped__(lambda x: x)


def deeper(x):
    return deeper(x) + 1


def broken(x):
    y = 2 * x
    return y[7]


def leaves(x):
    sys.exit(3)


def yields(x):
    yield 2 * x


async def waits(x):
    return 2 * x


class Unreadable(Exception):
    def __str__(self):
        raise ValueError


def unreadable(x):
    raise Unreadable


def long_error(x):
    raise ValueError("\n" * 50 + "long " * 1000)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (deeper, ["calls itself without end", "return deeper(x) + 1"]),
        (broken, ["IndexError", "return y[7]"]),
        (leaves, ["sys.exit()", "sys.exit(3)"]),
        (yields, ["yield"]),
        (waits, ["async"]),
        (unreadable, ["Unreadable", "raise Unreadable"]),
        (long_error, ["ValueError: long", "…"]),
        (lambda x: deeper, ["returned a function"]),
        (lambda: 1, ["TypeError"]),
        (lambda x: x / 0 * 0, ["not doubled", "NaN"]),
        (lambda x: (2 * x).half(), ["torch.float16"]),
        (lambda x: (2 * x).to("meta"), ["is on meta"]),
        (lambda x: 2j * x, ["complex"]),
        (lambda x: "text", ["str 'text'", "expected numbers"]),
        (lambda x: x.mul_(2), ["changed in place"]),
        (3, ["int 3", "without calling it"]),
    ],
)
def test_accidents_get_one_clear_sentence(answer, words):
    verdict = check_double(answer)
    assert verdict.passed is False
    assert all(word in verdict.message for word in words), verdict
    assert "\n" not in verdict.message
    assert len(verdict.message) < 600


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no alarm on Windows")
def test_a_hanging_answer_is_stopped(monkeypatch):
    monkeypatch.setattr(guard, "TIME_LIMIT_S", 0.2)

    def hangs(x):
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    started = time.monotonic()
    verdict = check_double(hangs)
    assert verdict.passed is False
    assert "not done after" in verdict.message
    assert time.monotonic() - started < 5
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert check_double(lambda x: 2 * x).passed


def test_a_check_works_in_another_thread():
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(check_double(lambda x: x + x)))
    thread.start()
    thread.join()
    assert verdicts[0].passed


def test_a_flood_of_prints_is_cut(capsys):
    def chatty(x):
        for number in range(10_000):
            print("step", number)
        return 2 * x

    assert check_double(chatty).passed
    printed = capsys.readouterr().out
    assert "step 0\n" in printed
    assert "left out" in printed
    assert len(printed) < 2 * guard.PRINT_LIMIT


def test_stopping_is_told_in_a_notebook_and_passed_on_in_a_script(monkeypatch, tmp_path):
    def stopped(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_double(stopped)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(record, "wanted", lambda: True)
    assert "You stopped" in check_double(stopped).message


@pytest.fixture
def in_a_notebook(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(record, "wanted", lambda: True)
    return tmp_path


def test_verdicts_are_recorded(in_a_notebook):
    check_double(lambda x: x)
    check_double(lambda x: 2 * x)
    check_double(lambda x: x)
    entry = record.read()["check_double"]
    assert entry["attempts"] == 3
    assert entry["passed"] is False
    assert entry["right"], "when it was right for the first time"


def test_a_check_tells_when_what_was_right_is_broken(in_a_notebook):
    told = [BROKEN in check_double(lambda x, n=n: n * x).message for n in (3, 2, 3, 3, 2, 2, 1)]
    assert told == [False, False, True, False, False, False, True]


def test_nothing_is_recorded_outside_a_notebook(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    assert check_double(lambda x: 2 * x).passed
    assert not record.path().exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"checks": 3}', '{"checks": {"check_double": 1}}']
)
def test_a_broken_record_is_begun_again(in_a_notebook, text):
    record.path().write_text(text)
    assert check_double(lambda x: 2 * x).passed
    assert record.read()["check_double"]["attempts"] == 1


def test_a_record_that_cannot_be_written_is_no_obstacle(in_a_notebook, monkeypatch):
    (in_a_notebook / "file").write_text("")
    monkeypatch.setenv("COURSE_CACHE", str(in_a_notebook / "file" / "below"))
    assert check_double(lambda x: 2 * x).passed
    assert record.read() == {}


def test_two_notebooks_write_into_one_record(in_a_notebook):
    threads = [
        threading.Thread(target=lambda n=n: [record.note(f"check_{n}", True) for _ in range(5)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry["attempts"] for entry in record.read().values()] == [5] * 4
