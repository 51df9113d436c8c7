"""Exercises as data: for each, that what it says of a mistake is said of it and of nothing else.

Right answers of several styles lie in ``tests/right_answers``, one module for each of
``course_checks``: a dict ``RIGHT`` of the exercise's name to its answers.
"""

import importlib
from pathlib import Path

import pytest

from course_checks import exercises
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
