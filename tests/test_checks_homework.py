"""The homework's checks: right answers of several styles pass, wrong ones are told why."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from course_checks import measuring

RIGHT, MISTAKES = {}, {}  # run by test_checks.py

MODULES = (measuring,)


@pytest.mark.parametrize(
    "check",
    [getattr(module, name) for module in MODULES for name in module.__all__ if "check_" in name],
    ids=lambda check: check.__name__,
)
def test_nothing_returned_is_wrong(check):
    assert check(lambda *_: None).passed is False


def settings(temperature, n):
    chosen = {"max_new_tokens": n, "return_full_text": False, "do_sample": temperature > 0}
    return {**chosen, "temperature": temperature} if temperature > 0 else chosen


def settings_of_two_dicts(temperature, n):
    if temperature == 0:
        return {"do_sample": False, "max_new_tokens": n, "return_full_text": False}
    return dict(do_sample=True, temperature=temperature, max_new_tokens=n, return_full_text=False)


RIGHT["check_generation_settings"] = [settings, settings_of_two_dicts]


def without(settings, *names):
    return {name: value for name, value in settings.items() if name not in names}


MISTAKES["check_generation_settings"] = [
    (lambda t, n: {**without(settings(t, n), "max_new_tokens"), "max_length": n}, "max_length"),
    (lambda t, n: without(settings(t, n), "return_full_text"), "return_full_text"),
    (lambda t, n: {**settings(t, n), "do_sample": False}, "does nothing"),
    (lambda t, n: {**settings(t, n), "do_sample": True}, "greedy"),
    (lambda t, n: {**settings(t, n), "temperature": t}, "leave `temperature` out"),
    (lambda t, n: {**settings(t, n), "max_new_tokens": 20}, "should be 30"),
    (lambda t, n: (t, n), "return a dict"),
]


# --- distinct n-grams ----------------------------------------------------------------------------


def distinct(texts, n):
    grams = [tuple(t[i : i + n]) for t in texts for i in range(len(t) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def distinct_counted(samples, size):
    counts = Counter()
    for tokens in samples:
        counts.update(zip(*(tokens[shift:] for shift in range(size)), strict=False))
    total = sum(counts.values())
    return np.float64(len(counts) / max(total, 1))


RIGHT["check_distinct_n"] = [distinct, distinct_counted]


def number_of(texts, n):
    return sum(len(t) - n + 1 for t in texts)


MISTAKES["check_distinct_n"] = [
    (lambda texts, n: sum(distinct([t], n) for t in texts) / len(texts), "texts' own shares"),
    (lambda texts, n: distinct([[token for t in texts for token in t]], n), "border"),
    (
        lambda texts, n: distinct(texts, n) * (number_of(texts, n) if n > 1 else 1),
        "divide by the number of all",
    ),
    (
        lambda texts, n: distinct(texts, n) * number_of(texts, n) / sum(map(len, texts)),
        "number of tokens",
    ),
    (lambda texts, n: 1 - distinct(texts, n) if n > 1 else 1, "share that repeats"),
    (lambda texts, n: distinct(texts, 1), "single tokens"),
    (
        lambda texts, n: (
            len({frozenset(p) for t in texts for p in pairwise(t)}) / 7 if n > 1 else 1
        ),
        "two different",
    ),
    (
        lambda texts, n: distinct(texts, n) / (1 if distinct(texts, n) else 0),
        "divides by zero",
    ),
]


# --- the loop ------------------------------------------------------------------------------------


def loop(ids, times=3, last=True, longest=0):
    for p in range(1, len(ids) // times + 1 - longest):
        end = ids[-p * times :] if last else ids[: p * times]
        if end == end[:p] * times:
            return p
    return 0


def loop_backwards(ids):
    found = 0
    for p in range(len(ids) // 3, 0, -1):
        if all(ids[-i] == ids[-i - p] == ids[-i - 2 * p] for i in range(1, p + 1)):
            found = p
    return torch.tensor(found)


RIGHT["check_loop_length"] = [loop, loop_backwards]


def longest_loop(ids):
    periods = [p for p in range(1, len(ids) // 3 + 1) if ids[-3 * p :] == ids[-p:] * 3]
    return max(periods, default=0)


MISTAKES["check_loop_length"] = [
    (lambda ids: loop(ids, times=2), "only twice"),
    (longest_loop, "shortest period"),
    (lambda ids: loop(ids, last=False) or loop(ids), "got out of its loop"),
    (lambda ids: loop(ids, longest=1), "one too early"),
    (lambda ids: 3 * loop(ids), "all three repeats"),
    (lambda ids: loop(ids) or None, "Without a loop"),
    (
        lambda ids: next(
            (
                p
                for p in range(1, 7)
                if len(ids) >= 3 * p and ids[-1] == ids[-1 - p] == ids[-1 - 2 * p]
            ),
            0,
        ),
        "as a whole",
    ),
]


# --- heads ---------------------------------------------------------------------------------------


def entropy(w):
    return (torch.special.entr(w).sum(-1)[:, 1:].mean(-1)) / math.log(2)


def entropy_in_loops(weights):
    means = []
    for head in np.asarray(weights):
        rows = [-sum(p * np.log2(p) for p in row if p > 0) for row in head[1:]]
        means.append(sum(rows) / len(rows))
    return means


RIGHT["check_head_entropy"] = [entropy, entropy_in_loops]


BITS = 1 / math.log(2)


MISTAKES["check_head_entropy"] = [
    (lambda w: entropy(w) * math.log(2), "nats"),
    (lambda w: -entropy(w), "sign"),
    (lambda w: -(w * w.log2()).sum(-1)[:, 1:].mean(-1), "not a number"),
    (lambda w: BITS * torch.special.entr(w).sum(-1).mean(-1), "first query"),
    (lambda w: BITS * torch.special.entr(w).mean(-1)[:, 1:].mean(-1), "mean over the keys"),
    (lambda w: BITS * torch.special.entr(w).sum(-2)[:, 1:].mean(-1), "over the queries"),
    (lambda w: entropy(w).mean(), "one for each head"),
    (lambda w: BITS * torch.special.entr(w).sum(-1), "for each query"),
]


def far(w):
    place = torch.arange(w.shape[-1])
    return (place[:, None] - place).abs().float()


def distance(w):
    return (w * far(w)).sum(-1)[:, 1:].mean(-1)


def distance_in_loops(weights):
    H, T, _ = weights.shape
    return [
        sum(weights[h, i, j].item() * abs(i - j) for i in range(1, T) for j in range(T)) / (T - 1)
        for h in range(H)
    ]


RIGHT["check_attention_distance"] = [distance, distance_in_loops]


def signed(w):
    place = torch.arange(w.shape[-1]).float()
    return place[:, None] - place


MISTAKES["check_attention_distance"] = [
    (lambda w: (w * -signed(w)).sum(-1)[:, 1:].mean(-1), "wrong sign"),
    (lambda w: (w * signed(w)).sum(-1)[:, 1:].mean(-1), "encoder"),
    (lambda w: (w * far(w)).sum(-1).mean(-1), "first query"),
    (lambda w: (w * far(w) ** 2).sum(-1)[:, 1:].mean(-1), "squared"),
    (
        lambda w: far(w).expand_as(w).gather(-1, w.argmax(-1, keepdim=True))[:, 1:, 0].mean(-1),
        "largest weight",
    ),
]


RIGHT["check_share_on_previous"] = [
    lambda w: w.diagonal(-1, dim1=-2, dim2=-1).mean(-1),
    lambda w: [sum(h[t][t - 1] for t in range(1, len(h))) / (len(h) - 1) for h in w.tolist()],
]


MISTAKES["check_share_on_previous"] = [
    (lambda w: w.diagonal(0, -2, -1).mean(-1), "token itself"),
    (lambda w: w.diagonal(1, -2, -1).mean(-1), "next token"),
    (lambda w: w[:, 1:, 0].mean(-1), "first token, column 0"),
    (lambda w: w.diagonal(-1, -2, -1).sum(-1) / w.shape[-1], "divided by T"),
    (lambda w: w.diagonal(-1, -2, -1).sum(-1), "sum over the queries"),
]
