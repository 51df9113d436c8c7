"""Chapter 1: loops, lists, numpy, torch, recursion, callable objects, partial."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import torch


def with_lists(ids, vocab_size):
    table = []
    for a in range(vocab_size):
        after = [y for x, y in pairwise(ids) if x == a]
        n = len(after)
        table.append([after.count(b) / n if n else 1 / vocab_size for b in range(vocab_size)])
    return table


def with_numpy(ids, V):
    counts = np.zeros((V, V))
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    counts[counts.sum(axis=1) == 0] = 1
    return counts / counts.sum(axis=1, keepdims=True)


def with_torch(ids, V, dtype=torch.float32):
    counts = torch.zeros(V, V, dtype=dtype)
    for a, b in pairwise(ids):
        counts[a, b] += 1
    sums = counts.sum(1, keepdim=True)
    return torch.where(sums > 0, counts / sums.clamp(min=1), 1 / V)


class Sampler:
    def __call__(self, bigram, first, n, rng):
        ids = [first]
        for _ in range(n):
            ids.append(rng.choice(len(bigram), p=bigram[ids[-1]]))
        return np.array(ids)


def sample_by_recursion(bigram, first, n, rng):
    if n == 0:
        return [first]
    following = int(rng.choice(len(bigram), p=bigram[first]))
    return [first, *sample_by_recursion(bigram, following, n - 1, rng)]


def sample_by_sums(bigram, first, n, rng):
    ids = torch.full((n + 1,), first)
    for i, u in enumerate(rng.random(n)):
        ids[i + 1] = int((bigram[ids[i]].cumsum() <= u * bigram[ids[i]].sum()).sum())
    return ids


def in_a_loop(ids, start, bigram):
    total = math.log(start[ids[0]])
    for n in range(1, len(ids)):
        total += math.log(bigram[ids[n - 1]][ids[n]])
    return total


def translate(gene, codon_table, stop="*"):
    protein = ""
    for start in range(0, len(gene) - 2, 3):
        letter = codon_table[gene[start : start + 3]]
        if letter == stop:
            break
        protein += letter
    return protein


def translate_recursion(gene, table):
    letter = table.get(gene[:3], "*")
    return "" if letter == "*" else letter + translate_recursion(gene[3:], table)


RIGHT = {
    "bigram_probabilities": [
        with_lists,
        with_numpy,
        with_torch,
        partial(with_torch, dtype=torch.float64),
    ],
    "sample": [
        Sampler(),
        sample_by_recursion,
        sample_by_sums,
        lambda bigram, first, n, rng: tuple(Sampler()(bigram, first, n, rng).tolist()),
    ],
    "log_probability": [
        in_a_loop,
        lambda i, s, b: np.log(s[i[0]]) + np.log(b[i[:-1], i[1:]]).sum(),
        lambda i, s, b: [in_a_loop(i, s, b)],
        lambda i, s, b: torch.tensor([s[i[0]], *(b[pair] for pair in pairwise(i))]).log().sum(),
    ],
    "translate": [
        translate,
        translate_recursion,
        partial(translate, stop="*"),
        lambda g, t: "".join(t.get(g[i : i + 3], "") for i in range(0, len(g), 3)).split("*")[0],
    ],
}
