"""More inputs for each exercise of the homework than the notebook's own check has.

They are drawn from a number that each grading run chooses anew (``--seed`` repeats it), so that an
answer that only knows the inputs of the public check gets half of its points. What is right comes
from torch, from ``course_utils`` or from a few plain lines here, computed in the grader's process.

Each function takes the answer and the seed, and raises :class:`~course_checks.Wrong`. They
ask for nothing that the exercise's text does not promise; to diagnose is the public check's job.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_checks import Wrong
from course_checks.answers import (
    as_number,
    as_tensor,
    call,
    call_for_tensor,
    draw,
    near,
    same,
)

ROUNDS = 3  # inputs drawn for each exercise


def _seeds(seed: int) -> list[int]:
    return [seed + 1000 * n for n in range(ROUNDS)]


def _expect(found: Any, expected: Any, inputs: str) -> None:
    if found != expected:
        raise Wrong(f"On other inputs than the notebook's it is wrong: {inputs}.")


def _expect_same(found: Tensor, expected: Tensor, inputs: str, atol: float = 1e-4) -> None:
    _expect(same(found, expected, atol), True, inputs)


def _expect_near(found: float, expected: float, inputs: str) -> None:
    _expect(near(found, expected), True, inputs)


# --- homework 1: generation ------------------------------------------------------------------


def _generation_settings(answer: Callable, seed: int) -> None:
    for s in _seeds(seed):
        temperature, length = 0.1 + s % 19 / 10, 1 + s % 200
        settings = dict(call(answer, temperature, length))
        wanted = {"max_new_tokens": length, "temperature": temperature, "do_sample": True}
        found = {name: settings.get(name) for name in wanted}
        _expect(found, wanted, f"temperature {temperature:.1f}, max_new_tokens {length}")
        settings = dict(call(answer, 0.0, length))
        kept = settings.get("max_new_tokens"), bool(settings.get("do_sample", True))
        _expect(kept, (length, False), f"temperature 0.0, max_new_tokens {length}")


def _distinct_n(answer: Callable, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for n in (1, 2, 4):
        texts = [[f"w{i}" for i in rng.integers(0, 4, size)] for size in rng.integers(0, 30, 5)]
        grams = [tuple(t[i : i + n]) for t in texts for i in range(len(t) - n + 1)]
        right = len(set(grams)) / len(grams) if grams else 0.0
        found = as_number(call(answer, [list(t) for t in texts], n), "share")
        _expect_near(found, right, f"n={n} and {texts}")


def _loop_length(answer: Callable, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for period in (1, 3, 5, 0):
        ids = rng.integers(0, 9, 12).tolist()
        ids += rng.integers(10, 99, period).tolist() * 3
        right = next((p for p in range(1, len(ids) // 3 + 1) if _ends_with(ids, p)), 0)
        _expect(int(as_number(answer(list(ids)), "length")), right, f"ids {ids}")


def _ends_with(ids: Sequence[int], period: int) -> bool:
    return ids[-3 * period :] == ids[-period:] * 3


# --- homework 2: attention -------------------------------------------------------------------


def _statistic(name: str) -> Callable[[Callable, int], None]:
    def test(answer: Callable, seed: int) -> None:
        for s, H, T in zip(_seeds(seed), (1, 4, 7), (3, 9, 16), strict=True):
            weights = (
                (2 * draw(H, T, T, seed=s)).masked_fill(~causal_mask(T), -math.inf).softmax(-1)
            )
            right = torch.from_numpy(head_statistics([weights[None]])[name][0]).float()
            _expect_same(call_for_tensor(answer, weights), right, f"{H} heads over {T} tokens")

    return test


# --- homework 3: training --------------------------------------------------------------------


def _adamw_step(answer: Callable, seed: int) -> None:
    for s, shape in zip(_seeds(seed), ((3,), (2, 5), (4, 3, 2)), strict=True):
        weight, lr, decay = draw(*shape, seed=s), 0.05, 0.2
        parameter = torch.nn.Parameter(weight.clone())
        groups = {"betas": (0.9, 0.999), "eps": 1e-8}
        theirs = torch.optim.AdamW(
            [{"params": [parameter], "weight_decay": decay}], lr=lr, **groups
        )
        m, v = torch.zeros(shape), torch.zeros(shape)
        for step in range(1, 5):
            grad = draw(*shape, seed=s + step)
            parameter.grad = grad.clone()
            theirs.step()
            parts = call(answer, weight, grad, m, v, step, lr, decay)
            weight, m, v = (as_tensor(part) for part in parts)
        inputs = f"four steps of a weight of shape {shape}"
        _expect_same(weight, parameter.detach(), inputs, atol=1e-5)


def _mean_gradient(answer: Callable, seed: int) -> None:
    for s in _seeds(seed):
        sizes = np.random.default_rng(s).integers(1, 50, 1 + s % 5).tolist()
        gradients = [draw(3, 2, seed=s + n) for n in range(len(sizes))]
        right = sum(n * g for n, g in zip(sizes, gradients, strict=True)) / sum(sizes)
        found = call_for_tensor(answer, [g.clone() for g in gradients], list(sizes))
        _expect_same(found, right, f"{len(sizes)} gradients of shape (3, 2), sizes {sizes}")


def _corpus_perplexity(answer: Callable, seed: int) -> None:
    for s in _seeds(seed):
        rng = np.random.default_rng(s)
        sizes, losses = rng.integers(1, 99, 7).tolist(), rng.uniform(0.1, 6, 7).tolist()
        right = math.exp(np.average(losses, weights=sizes))
        found = as_number(call(answer, list(losses), list(sizes)), "perplexity")
        _expect_near(found, right, f"losses {losses}, sizes {sizes}")


def _stopping_step(answer: Callable, seed: int) -> None:
    for s, patience in zip(_seeds(seed), (1, 2, 4), strict=True):
        losses = np.random.default_rng(s).integers(10, 40, 15).tolist()
        losses, steps = [loss / 10 for loss in losses], list(range(0, 15 * 25, 25))
        best, waited, right = math.inf, 0, steps[-1]
        for step, loss in zip(steps, losses, strict=True):
            waited = 0 if loss < best else waited + 1
            best = min(best, loss)
            if waited == patience:
                right = step
                break
        found = as_number(call(answer, list(steps), list(losses), patience), "step")
        _expect(found, right, f"losses {losses}, patience {patience}")


# --- homework 4: a sweep ---------------------------------------------------------------------


def _steps_to_reach(answer: Callable, seed: int) -> None:
    for s in _seeds(seed):
        rng = np.random.default_rng(s)
        steps = np.cumsum(rng.integers(10, 90, 8)).tolist()
        losses = (np.linspace(5, 2, 8) + rng.uniform(-0.6, 0.6, 8)).tolist()
        for target in (4.0, 2.7, 0.5):
            right = _crossing(steps, losses, target)
            found = as_number(answer(list(steps), list(losses), target), "number of steps")
            _expect_near(found, right, f"steps {steps}, losses {losses}, target {target}")


def _crossing(steps: Sequence[int], losses: Sequence[float], target: float) -> float:
    if losses[0] <= target:
        return steps[0]
    curve = list(zip(steps, losses, strict=True))
    for (a, high), (b, low) in pairwise(curve):
        if low <= target:
            return a + (b - a) * (high - target) / (high - low)
    return math.inf


def _clear_winner(answer: Callable, seed: int) -> None:
    for s in _seeds(seed):
        rng = np.random.default_rng(s)
        losses = {v: rng.uniform(1, 3, 3).round(3).tolist() for v in (0.1, 0.5, 1.0, 2.0)}
        ranking = sorted((float(np.mean(runs)), value) for value, runs in losses.items())
        lead = ranking[1][0] - ranking[0][0]
        if lead < 1e-3:  # rounding would decide
            continue
        for margin, right in ((lead / 2, ranking[0][1]), (lead * 2, None)):
            found = answer({value: list(runs) for value, runs in losses.items()}, margin)
            _expect(found, right, f"{losses}, margin {margin:.4f}")


EXTRA: dict[str, Callable[[Callable, int], None]] = {
    "check_adamw_step": _adamw_step,
    "check_attention_distance": _statistic("distance"),
    "check_clear_winner": _clear_winner,
    "check_corpus_perplexity": _corpus_perplexity,
    "check_distinct_n": _distinct_n,
    "check_generation_settings": _generation_settings,
    "check_head_entropy": _statistic("entropy"),
    "check_loop_length": _loop_length,
    "check_mean_gradient": _mean_gradient,
    "check_share_on_previous": _statistic("previous"),
    "check_steps_to_reach": _steps_to_reach,
    "check_stopping_step": _stopping_step,
}
