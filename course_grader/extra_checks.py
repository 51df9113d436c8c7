"""More inputs for each exercise of the homework than the notebook's own check has.

They are drawn from a number that each grading run chooses anew (``--seed`` repeats it), so that an
answer that only knows the inputs of the public check gets half of its points. What is right comes
from torch, from ``course_utils`` or from a few plain lines here, computed in the grader's process.

Each function takes the answer and the seed, and raises :class:`~course_checks.Wrong`. They
ask for nothing that the exercise's text does not promise; to diagnose is the public check's job.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

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
from course_utils.attention import causal_mask, scaled_dot_product_attention
from course_utils.attention_views import head_statistics
from course_utils.optimizers import AdamW
from course_utils.sampling import keep_top_k, keep_top_p

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
        theirs = AdamW([{"params": [parameter], "weight_decay": decay}], lr=lr, **groups)
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


# --- homework 5: from scratch ----------------------------------------------------------------


def _softmax(answer: Callable, seed: int) -> None:
    for s, shape in zip(_seeds(seed), ((1,), (4, 9), (2, 3, 2, 5)), strict=True):
        logits = 5 * draw(*shape, seed=s)
        for shift in (0, 2000, -2000):
            right = (logits + shift).softmax(-1)
            _expect_same(call_for_tensor(answer, logits + shift), right, f"logits of shape {shape}")


def _multi_head_attention(answer: Callable, seed: int) -> None:
    for s, (B, T, C, H) in zip(
        _seeds(seed), ((1, 1, 4, 1), (3, 7, 8, 4), (2, 4, 12, 2)), strict=True
    ):
        x, matrices = draw(B, T, C, seed=s), [draw(C, C, seed=s + n) / C for n in range(1, 5)]
        heads = [(x @ W).unflatten(-1, (H, C // H)).transpose(1, 2) for W in matrices[:3]]
        mixed = scaled_dot_product_attention(*heads, causal_mask(T))
        right = mixed.transpose(1, 2).flatten(2) @ matrices[3]
        found = call_for_tensor(answer, x, *matrices, H)
        _expect_same(found, right, f"B={B}, T={T}, C={C}, n_head={H}")


def _sampling_probabilities(answer: Callable, seed: int) -> None:
    settings = ((0.7, 4, 0.9), (1.3, 11, 0.5), (2.5, 1, 1.0))
    for s, (temperature, k, p) in zip(_seeds(seed), settings, strict=True):
        logits = 3 * draw(2, 11, seed=s)
        right = keep_top_p(keep_top_k(logits / temperature, k), p).softmax(-1)
        found = call_for_tensor(answer, logits, temperature, k, p)
        _expect_same(found, right, f"temperature={temperature}, top_k={k}, top_p={p}")


def _draw(answer: Callable, seed: int) -> None:
    for s in _seeds(seed):
        p = (2 * draw(50, 6, seed=s)).softmax(-1)
        u = torch.rand(50, generator=torch.Generator().manual_seed(s)) * 0.999
        cumulative = p.cumsum(-1)
        clear = ((cumulative - u[:, None]).abs() > 1e-5).all(-1)  # not decided by rounding
        found = as_tensor(call(answer, p, u)).flatten()
        right = (cumulative <= u[:, None]).sum(-1).float()
        _expect(len(found), 50, "50 rows of 6 probabilities")
        _expect_same(found[clear], right[clear], "50 rows of 6 probabilities")


def _train_bpe(answer: Callable, seed: int) -> None:
    for s in _seeds(seed):
        rng = np.random.default_rng(s)
        words = {
            tuple("abcd"[i] for i in rng.integers(0, 4, 6)): int(rng.integers(1, 9))
            for _ in "12345678"
        }
        found = [tuple(pair) for pair in call(answer, dict(words), 6)]
        _expect(found, _merges(words, 6), f"6 merges of {words}")


def _merges(words: dict[tuple[str, ...], int], n: int) -> list[tuple[str, str]]:
    current, merges = [(list(word), count) for word, count in words.items()], []
    for _ in range(n):
        counts: Counter = Counter()
        for tokens, count in current:
            for pair in pairwise(tokens):
                counts[pair] += count
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for tokens, _count in current:
            for i in range(len(tokens) - 1):
                if tuple(tokens[i : i + 2]) == best:  # false at the end of a list that shrank
                    tokens[i : i + 2] = ["".join(best)]
    return merges


def _lm_loss(answer: Callable, seed: int) -> None:
    for s, (B, T, V, pad) in zip(
        _seeds(seed), ((1, 2, 3, 2), (3, 8, 5, 4), (4, 5, 9, 0)), strict=True
    ):
        logits = 3 * draw(B, T, V, seed=s)
        ids = torch.from_numpy(np.random.default_rng(s).integers(0, V, (B, T)))
        ids[:, 1] = (pad + 1) % V  # something to predict
        ids[0, 2:] = pad
        targets, scores = ids[:, 1:].flatten(), logits[:, :-1].flatten(0, 1)
        right = F.cross_entropy(scores, targets, ignore_index=pad).item()
        found = as_number(call(answer, logits, ids, pad), "mean loss")
        _expect_near(found, right, f"B={B}, T={T}, V={V}, pad_id={pad}")


EXTRA: dict[str, Callable[[Callable, int], None]] = {
    "check_adamw_step": _adamw_step,
    "check_attention_distance": _statistic("distance"),
    "check_clear_winner": _clear_winner,
    "check_corpus_perplexity": _corpus_perplexity,
    "check_distinct_n": _distinct_n,
    "check_draw": _draw,
    "check_generation_settings": _generation_settings,
    "check_head_entropy": _statistic("entropy"),
    "check_lm_loss": _lm_loss,
    "check_loop_length": _loop_length,
    "check_mean_gradient": _mean_gradient,
    "check_multi_head_attention": _multi_head_attention,
    "check_sampling_probabilities": _sampling_probabilities,
    "check_share_on_previous": _statistic("previous"),
    "check_softmax": _softmax,
    "check_steps_to_reach": _steps_to_reach,
    "check_stopping_step": _stopping_step,
    "check_train_bpe": _train_bpe,
}
