"""Homeworks 1 and 2: loops, numpy, einsum, recursion, keyword names, callable objects."""

import math
from collections import Counter

import numpy as np
import torch
from torch.distributions import Categorical


def settings(temperature, max_new_tokens):
    chosen = {"max_new_tokens": max_new_tokens, "return_full_text": False}
    if temperature == 0:
        return {**chosen, "do_sample": False}
    return {**chosen, "do_sample": True, "temperature": temperature}


def settings_step_by_step(temperature, n):
    chosen = dict(do_sample=bool(temperature), return_full_text=False)
    chosen["max_new_tokens"] = n
    if chosen["do_sample"]:
        chosen.update(temperature=float(temperature))
    return chosen


def distinct(texts, n):
    grams = [tuple(t[i : i + n]) for t in texts for i in range(len(t) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def distinct_counted(samples, size):
    counts = Counter()
    for tokens in samples:
        counts.update(zip(*(tokens[shift:] for shift in range(size)), strict=False))
    return np.float64(len(counts) / max(sum(counts.values()), 1))


class Distinct:
    def __call__(self, texts, n):
        seen, total = set(), 0
        for text in texts:
            while len(text) >= n:
                seen.add("|".join(text[:n]))
                total, text = total + 1, text[1:]
        return torch.tensor(len(seen) / total if total else 0.0)


def loop(ids):
    for length in range(1, len(ids) // 3 + 1):
        if ids[-3 * length :] == ids[-length:] * 3:
            return length
    return 0


def loop_backwards(ids):
    found = 0
    for p in range(len(ids) // 3, 0, -1):
        if all(ids[-i] == ids[-i - p] == ids[-i - 2 * p] for i in range(1, p + 1)):
            found = p
    return torch.tensor(found)


def loop_numpy(ids):
    ends = (np.array(ids[len(ids) - 3 * n :]).reshape(3, n) for n in range(1, len(ids) // 3 + 1))
    return next((end.shape[1] for end in ends if (end == end[0]).all()), 0)


def loop_recursion(ids, n=1):
    if 3 * n > len(ids):
        return 0.0
    return n if ids[-3 * n :] == 3 * ids[-n:] else loop_recursion(ids, n + 1)


def entropy_in_loops(weights):
    means = []
    for head in np.asarray(weights):
        rows = [-sum(p * np.log2(p) for p in row if p > 0) for row in head[1:]]
        means.append(sum(rows) / len(rows))
    return means


def distance_in_loops(weights):
    H, T, _ = weights.shape
    return [
        sum(weights[h, i, j].item() * abs(i - j) for i in range(1, T) for j in range(T)) / (T - 1)
        for h in range(H)
    ]


def distance_einsum(weights):
    places = np.arange(weights.shape[-1])
    far = np.abs(places[1:, None] - places)
    return np.einsum("hij,ij->h", weights[:, 1:].numpy(), far) / len(far)


def distance_by_diagonals(weights):
    T, rows = weights.shape[-1], weights[:, 1:]
    sums = [abs(k - 1) * rows.diagonal(k, 1, 2).sum(-1) for k in range(2 - T, T)]
    return sum(sums) / (T - 1)


RIGHT = {
    "generation_settings": [
        settings,
        settings_step_by_step,
        lambda t, n: dict(sorted(settings(max_new_tokens=n, temperature=t).items(), reverse=True)),
        lambda t, n: (
            {"max_new_tokens": n, "return_full_text": False, "do_sample": t != 0}
            | ({} if t == 0 else {"temperature": t})
        ),
    ],
    "distinct_n": [
        distinct,
        distinct_counted,
        Distinct(),
        lambda texts, n: distinct(n=n, texts=[tuple(text) for text in texts]),
    ],
    "loop_length": [loop, loop_backwards, loop_numpy, loop_recursion],
    "share_on_previous": [
        lambda w: w.diagonal(-1, dim1=-2, dim2=-1).mean(-1),
        lambda w: [sum(h[t][t - 1] for t in range(1, len(h))) / (len(h) - 1) for h in w.tolist()],
        lambda weights: np.array([np.diag(head, -1).mean() for head in weights.numpy()]),
        lambda w: torch.einsum("hii->h", w[:, 1:, :-1].double()) / (len(w[0]) - 1),
    ],
    "head_entropy": [
        entropy_in_loops,
        lambda w: torch.special.entr(w).sum(-1)[:, 1:].mean(-1) / math.log(2),
        lambda w: -(w * (w + 1e-12).log2()).sum(-1)[:, 1:].mean(-1),
        lambda w: Categorical(probs=w[:, 1:]).entropy().mean(-1) * math.log2(math.e),
    ],
    "attention_distance": [
        distance_in_loops,
        distance_einsum,
        distance_by_diagonals,
        lambda w: torch.stack(
            [(w[:, i] * (torch.arange(w.shape[-1]) - i).abs()).sum(-1) for i in range(1, len(w[0]))]
        ).mean(0),
    ],
}
