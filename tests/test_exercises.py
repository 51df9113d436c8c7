"""Exercises as data: for each, that what it says of a mistake is said of it and of nothing else.

Right answers of several styles lie in ``tests/right_answers``, one module for each of
``course_checks``: a dict ``RIGHT`` of the exercise's name to its answers.
"""

import importlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from course_checks import exercises, shortcuts
from course_checks.answers import draw
from course_checks.exercises import Exercise
from course_checks.homework import assignments
from course_checks.outcomes import alike

ALL = [each for each in exercises.everything().values() if isinstance(each, Exercise)]
HOMEWORK = {each["check"] for part in assignments().values() for each in part["exercises"]}
RIGHT: dict = {}
for path in sorted((Path(__file__).parent / "right_answers").glob("[a-z]*.py")):
    RIGHT |= importlib.import_module(f"tests.right_answers.{path.stem}").RIGHT
SEEDS = range(20)
each_exercise = pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_belong_to_an_exercise(name):
    assert f"check_{name}" in exercises.everything()


@each_exercise
def test_every_mistake_gets_its_own_sentence(exercise):
    for seed in (None, 1, 12345):
        for number, (sentence, way) in enumerate(exercise.ways()):
            verdict = exercise.check(way, seed)
            assert verdict.passed is False, (number, sentence)
            assert verdict.message == sentence, number


@each_exercise
def test_inputs_tell_the_mistakes_apart(exercise):
    if exercise.also:
        pytest.skip("not all of its mistakes show in the results")
    for seed in SEEDS:
        made = exercises._made_by_mistakes(exercise, seed)
        for number, (sentence, outcomes, shows) in enumerate(made):
            assert shows, f"seed {seed}: as good as right: {sentence}"
            for other, theirs, _ in made[:number]:
                pairs = zip(outcomes, theirs, strict=True)
                equal = all(alike(*pair, exercise.tolerance) for pair in pairs)
                assert not equal or other == sentence, f"seed {seed}: {other} = {sentence}"


@each_exercise
def test_right_answers_pass(exercise):
    for seed in (None, 1, 12345):
        assert exercise.check(exercise.right, seed).passed
        for number, answer in enumerate(RIGHT.get(exercise.name, [])):
            verdict = exercise.check(answer, seed)
            assert verdict.passed is True, f"answer {number}: {verdict}"
            assert verdict.message == exercise.notice


@each_exercise
def test_there_are_enough_mistakes_and_right_answers(exercise):
    assert len(exercise.mistakes) >= (8 if exercise.__name__ in HOMEWORK else 5)
    assert len(RIGHT.get(exercise.name, [])) >= 4


@each_exercise
def test_what_the_text_forbids_is_found(exercise):
    for name, way in exercise.without.items():
        assert f"without `{name}`" in exercise.check(way).message


@each_exercise
def test_sentences_are_sentences(exercise):
    for sentence in (*exercise.mistakes, exercise.notice, exercise.task):
        assert sentence[-1] in ".?!", sentence
        assert "\n" not in sentence


# --- what holds for every exercise -----------------------------------------------------------


def double_with_bias(x, bias):
    return 2 * x + bias


DOUBLE = Exercise(
    name="double",
    task="Twice the numbers, and a bias.",
    right=double_with_bias,
    inputs=lambda seed: [
        (draw(2, seed=seed).round(decimals=1), 0.0),
        (draw(2, 3, seed=seed), 0.0),
        (draw(3, 3, seed=seed), 0.0),
        (draw(3, 3, seed=seed), 1.0),
    ],
    shape="(…, C)",
    mistakes={
        "You added 2.": lambda x, bias: x + 2 + bias,
        "The bias is missing.": lambda x, bias: 2 * x,
        "Right for a row, wrong for a table.": lambda x, bias: (
            2 * x[0] + bias if x.dim() > 1 else 2 * x + bias
        ),
    },
    notice="That was it.",
)
_calls: list = []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, b: x + 2, "You added 2."),  # and no bias: the first is said first
        (lambda x, b: 2 * x[0] if x.dim() > 1 else 2 * x + b, "Right for a row"),
        (lambda x, b: 2 * x if len(x) == 3 else 2 * x + b, "The bias is missing."),
        (
            lambda x, b: 2.2 * x + b,
            "With x = [1.5, -0.3], bias = 0: expected [3, -0.6], found [3.3,",
        ),
        (lambda x, b: 6 * (2 * x + b), "Everywhere your result is 6 times the right one."),
        (lambda x, b: -(2 * x + b), "Everywhere your result is -1 times"),
        (lambda x, b: (2 * x + b).exp(), "exponential of the right result"),
        (lambda x, b: 1 - (2 * x + b), "1 minus the right result"),
        (lambda x, b: (2 * x + b)[None], "in another shape"),
        (lambda x, b: (2 * x + b).flatten(), "in another shape"),
        (lambda x, b: (2 * x + b).sum(), "expected (…, C) = (2,)"),
        (lambda x, b: (2 * x + b).mT if x.dim() > 1 else 2 * x, "Rows and columns"),
        (lambda x, b: 2 * x + b + torch.rand(()), "Two calls"),
        (lambda x, b: _calls.append(1) or 2 * x + b + len(_calls), "Two calls"),
        (lambda x, b: x.mul_(2).add_(b), "`x` was changed in place"),
        (lambda x, b: (2 * x + b).half(), "torch.float16"),
        (lambda x, b: (2 * x + b).to("meta"), "is on meta"),
        (lambda x, b: (x for _ in "ab"), "a `yield` in it"),
        (lambda x, b: double_with_bias, "brackets of a call"),
        (lambda x, b: (2 * x, b), "a tuple of 2"),
        (lambda x, b: 2 * x[2] + b, "IndexError"),
        (lambda x, b: print(2 * x + b), "None"),
        (lambda x, b: [["a"]], "expected numbers"),
    ],
)
def test_what_is_said_of_an_answer_that_no_mistake_explains(answer, words):
    verdict = DOUBLE.check(answer)
    assert verdict.passed is False
    assert words in verdict.message, verdict
    assert "\n" not in verdict.message


@pytest.mark.parametrize("make", [np.asarray, torch.Tensor.tolist, torch.Tensor.double])
def test_numbers_are_numbers_whoever_made_them(make):
    assert DOUBLE.check(lambda x, b: make(2 * x + b)).passed


def helper(logits, targets):
    return F.cross_entropy(logits, targets)


@pytest.mark.parametrize(
    "answer",
    [
        lambda a, t: F.cross_entropy(a, t),
        lambda a, t: torch.nn.functional.cross_entropy(a, t),
        lambda a, t: helper(a, t),
        lambda a, t: [helper(a, t) for _ in "a"],
        lambda a, t, hidden=0: (lambda: F.cross_entropy(a, t))(),
        partial(helper, targets=None),
        partial(F.cross_entropy, target=None),
        F.cross_entropy,
        torch.nn.CrossEntropyLoss(),
    ],
)
def test_a_shortcut_is_found_where_it_hides(answer):
    assert {"cross_entropy", "CrossEntropyLoss"} & shortcuts.names_used(answer)


def test_other_names_are_no_shortcut():
    assert "cross_entropy" not in shortcuts.names_used(lambda a, t: a.log_softmax(-1)[t].mean())


def test_another_seed_draws_other_inputs_and_the_same_seed_the_same():
    for exercise in ALL:
        shown = [repr(exercise.calls(seed)) for seed in (0, 0, 7)]
        if "<function" not in shown[0]:
            assert shown[0] == shown[1] != shown[2], exercise.name


def test_an_unknown_check_is_told():
    with pytest.raises(LookupError, match="check_nothing"):
        exercises.find("check_nothing")
