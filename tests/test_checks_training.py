"""The checks of chapter 8: right answers pass, wrong ones are told why."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from course_checks import training as checks
from course_utils.gpt import GPT, GPTConfig

RIGHT, MISTAKES = {}, {}  # run by test_checks.py


@pytest.mark.parametrize("name", [name for name in checks.__all__ if name.startswith("check_")])
def test_nothing_returned_is_wrong(name):
    assert getattr(checks, name)(lambda *_: None).passed is False


def windows(ids, starts, block_size, shift):
    return torch.stack([ids[s + shift : s + shift + block_size] for s in starts.tolist()])


def batch_with_numpy(ids, starts, n):
    ids = np.asarray(ids)
    x = np.stack([ids[s : s + n] for s in starts.tolist()])
    y = np.stack([ids[s + 1 : s + n + 1] for s in starts.tolist()])
    return x, y


RIGHT["check_make_batch"] = [
    lambda ids, s, n: (windows(ids, s, n, 0), windows(ids, s, n, 1)),
    batch_with_numpy,
    lambda ids, s, n: [[ids[a + shift : a + shift + n] for a in s.tolist()] for shift in (0, 1)],
]


MISTAKES["check_make_batch"] = [
    (lambda i, s, n: (windows(i, s, n, 0), windows(i, s, n, 0)), "y equals x"),
    (lambda i, s, n: (windows(i, s, n, 0), windows(i, s, n, -1)), "wrong way"),
    (lambda i, s, n: (windows(i, s, n, 0), windows(i, s, n, 2)), "by two"),
    (lambda i, s, n: (windows(i, s, n, 0), windows(i, s, n, 0).roll(-1, 1)), "roll"),
    (lambda i, s, n: (windows(i, s, n, 1), windows(i, s, n, 0)), "swapped"),
    (lambda i, s, n: (windows(i, s, n + 1, 0), windows(i, s, n, 1)), "x has shape"),
    (lambda i, s, n: (windows(i, s, n, 1), windows(i, s, n, 2)), "x is wrong"),
    (lambda i, s, n: windows(i, s, n, 0), "two tensors"),
]


# --- cross-entropy -------------------------------------------------------------------------------


def by_hand(logits, targets):
    losses = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        top = max(row)
        total = sum(math.exp(value - top) for value in row)
        losses.append(math.log(total) + top - row[target])
    return sum(losses) / len(losses)


def picked(x, t, dim=-1):
    return x.log_softmax(dim)[torch.arange(len(t)), t]


RIGHT["check_cross_entropy"] = [F.cross_entropy, by_hand, lambda x, t: -picked(x, t).mean()]


MISTAKES["check_cross_entropy"] = [
    (lambda x, t: picked(x, t).mean(), "sign"),
    (lambda x, t: -picked(x, t).sum(), "sum"),
    (lambda x, t: -picked(x, t).mean() / math.log(2), "bits"),
    (lambda x, t: -picked(x, t, 0).mean(), "over the positions"),
    (lambda x, t: -x.log_softmax(-1).mean(), "whole vocabulary"),
    (lambda x, t: -x[torch.arange(len(t)), t].mean(), "without a softmax"),
    (lambda x, t: picked(x, t).exp().mean(), "logarithm is missing"),
    (lambda x, t: -picked(x, t).exp().mean().log(), "before the logarithm"),
    (lambda x, t: -picked(x, t), "mean or a sum"),
    (
        lambda x, t: -(x.exp() / x.exp().sum(-1, keepdim=True)).log().gather(1, t[:, None]).mean(),
        "overflows",
    ),
    (lambda x, t: 1.0, "F.cross_entropy gives"),
]


# --- perplexity ----------------------------------------------------------------------------------


RIGHT["check_perplexity"] = [
    lambda p: torch.exp(-torch.log(p).mean()),
    lambda p: float(np.prod(1 / np.asarray(p, dtype=float)) ** (1 / len(p))),
    lambda p: 2 ** (-p.log2().mean()),
]


MISTAKES["check_perplexity"] = [
    (lambda p: p.log().mean().exp(), "below 1"),
    (lambda p: -p.log().mean(), "exponential"),
    (lambda p: 2 ** (-p.log().mean()), "base 2"),
    (lambda p: torch.exp(-p.log2().mean()), "gave it bits"),
    (lambda p: (1 / p).mean(), "geometric"),
    (lambda p: 1 / p.mean(), "geometric"),
    (lambda p: 1 / p.prod(), "whole text"),
    (lambda p: 3.0, "expected"),
]


# --- learning rate -------------------------------------------------------------------------------


def schedule(step, steps, warmup, peak):
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def after_warmup(decay):
    """The right warm-up, then ``decay(step, steps, warmup)`` times the peak."""
    return lambda s, n, w, peak: schedule(s, n, w, peak) if s < w else peak * decay(s, n, w)


def part(s, n, w):
    return (s - w) / (n - w)


RIGHT["check_learning_rate"] = [
    schedule,
    lambda s, n, w, peak: torch.tensor(
        min((s + 1) / w, 1.0) * peak * math.cos(math.pi / 2 * max(0.0, part(s, n, w))) ** 2
    ),
]


MISTAKES["check_learning_rate"] = [
    (lambda s, n, w, p: p * s / w if s < w else schedule(s, n, w, p), "learns nothing"),
    (lambda s, n, w, p: p * 0.5 * (1 + math.cos(math.pi * s / n)), "no warm-up"),
    (lambda s, n, w, p: schedule(s, n, w, p) ** 2 / p, "straight line"),
    (after_warmup(lambda s, n, w: 0.5 * (1 + math.cos(math.pi * s / n))), "jumps"),
    (after_warmup(lambda s, n, w: 1 - part(s, n, w)), "straight line"),
    (after_warmup(lambda s, n, w: math.cos(math.pi * part(s, n, w))), "bare cosine"),
    (after_warmup(lambda s, n, w: 0.5 * (1 + math.cos(2 * math.pi * part(s, n, w)))), "whole"),
    (after_warmup(lambda s, n, w: 1.0), "Half-way"),
    (after_warmup(lambda s, n, w: 0.3), "After the warm-up"),
]


# --- parameter count -----------------------------------------------------------------------------


def formula(n_layer, C, T, V):
    return V * C + T * C + n_layer * (12 * C * C + 13 * C) + 2 * C + V * C


RIGHT["check_count_parameters"] = [
    formula,
    lambda n, C, T, V: GPT(GPTConfig(V, T, n, 1, C)).num_parameters(),
]


MISTAKES["check_count_parameters"] = [
    (lambda n, C, T, V: formula(n, C, T, V) - 9 * n * C, "biases"),
    (lambda n, C, T, V: formula(n, C, T, V) - (2 * n + 1) * 2 * C, "norms are missing"),
    (lambda n, C, T, V: formula(n, C, T, V) - (13 * n + 2) * C, "Biases and norms"),
    (lambda n, C, T, V: formula(n, C, T, V) - 2 * C, "final norm"),
    (lambda n, C, T, V: formula(n, C, T, V) - T * C, "position"),
    (lambda n, C, T, V: formula(n, C, T, V) - V * C, "head is missing"),
    (lambda n, C, T, V: formula(1, C, T, V), "one block"),
    (lambda n, C, T, V: formula(n, C, T, V) + V, "no bias"),
    (lambda n, C, T, V: formula(n, C, T, V) - n * (C * C + C), "output projection"),
    (lambda n, C, T, V: 10**6, "part by part"),
]
