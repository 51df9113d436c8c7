"""Which cells of a homework wait: a stub is told from an answer without being called."""

import functools
import re

import numpy as np
import pytest
import torch

from course_checks.assignments import answered


def stub(x):
    """Do it."""
    raise NotImplementedError


def stub_with_words(x):
    raise NotImplementedError("your turn")


def begun(x):
    y = x + 1
    print(y)
    raise NotImplementedError


def answer_below_the_raise(x):
    raise NotImplementedError
    return x + 1


@torch.no_grad()
def stub_without_gradients(x):
    raise NotImplementedError


@functools.cache
@torch.inference_mode()
def stub_under_two_decorators(x):
    raise NotImplementedError


class Holder:
    def stub(self, x):
        raise NotImplementedError

    def answer(self, x):
        return x

    def __call__(self, x):
        return x


STUBS = [
    stub,
    stub_with_words,
    begun,
    answer_below_the_raise,
    stub_without_gradients,
    stub_under_two_decorators,
    Holder().stub,
    functools.partial(stub_with_words, 1),
]


def finished(x):
    return x + 1


def finished_with_a_branch(x):
    if x.dim() > 2:
        raise NotImplementedError("only matrices")
    return x


def falls_through(x):
    if x < 0:
        raise NotImplementedError
    x.sort()


def drawn(x):
    if x is None:
        raise NotImplementedError
    yield x


@torch.no_grad()
def finished_without_gradients(x):
    if x is None:
        raise NotImplementedError
    return x


def named(example):
    """Return a test's name that is the same in every process: no address in it."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(example))


ANSWERS = [
    finished,
    finished_with_a_branch,
    falls_through,
    drawn,
    finished_without_gradients,
    Holder().answer,
    Holder(),
    Holder,
    lambda x: x,
    torch.softmax,
    torch.nn.functional.softmax,
    torch.nn.Softmax(dim=-1),
    len,
    np.mean,
    functools.partial(torch.softmax, dim=-1),
    functools.partial(finished, 1),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=named)
def test_an_answer_of_any_kind_counts(answer, capsys):
    assert answered(answer)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("function", STUBS, ids=named)
def test_a_stub_is_waited_for_by_name(function, capsys, monkeypatch):
    said = []
    monkeypatch.setattr("course_utils.plots.say", said.append)
    assert not answered(finished, function, torch.softmax)
    name = getattr(function, "__name__", "stub_with_words")
    assert said == [f"*This cell waits for `{name}`: write the answer above, then run it again.*"]
