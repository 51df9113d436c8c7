"""What holds for the check of every exercise, whatever it is given."""

import contextlib
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch

from course_checks import BROKEN, exercises, guard, record
from course_checks.exercises import Exercise

CHECKS = exercises.everything()


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_stub_is_not_attempted_yet(check):
    def not_attempted(*_):
        raise NotImplementedError

    assert check(not_attempted).passed is None


NONSENSE = [None, 3, float("nan"), "text", b"bytes", {}, object(), [[1, 2], [3]], print]
NONSENSE += [torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.complex64), np.array(["a"])]


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_nonsense_is_wrong_and_never_raises(check):
    for nonsense in NONSENSE:
        verdict = check(lambda *_, result=nonsense: result)
        assert verdict.passed is False, nonsense
        assert "\n" not in verdict.message


check_double = Exercise(
    name="double",
    task="Return twice the numbers.",
    right=lambda x: 2 * x,
    inputs=lambda seed: [(torch.ones(3),)],
    mistakes={"The values are not doubled.": lambda x: x},
    notice="2",
)


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
        (lambda x: x / 0 * 0, ["found [nan, nan, nan]"]),
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
    assert "not finished after" in verdict.message
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
