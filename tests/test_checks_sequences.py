"""The checks of chapter 1: right answers pass, wrong ones are told why."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from course_checks import sequences as checks

RIGHT, MISTAKES = {}, {}  # run by test_checks.py

NAMES = [name for name in checks.__all__ if name.startswith("check_")]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_returned_is_wrong(name):
    verdict = getattr(checks, name)(lambda *_: None)
    assert verdict.passed is False
    assert "return" in verdict.message


def count(ids, V, step=1, distance=1):
    counts = np.zeros((V, V))
    for i in range(0, len(ids) - distance, step):
        counts[ids[i], ids[i + distance]] += 1
    return counts


def rows(counts):
    """Divide each row by its sum; rows of zeros become 1/V."""
    totals = counts.sum(1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), 1 / len(counts))


def with_lists(ids, V):
    table = []
    for a in range(V):
        after = [y for x, y in pairwise(ids) if x == a]
        table.append([after.count(b) / len(after) if after else 1 / V for b in range(V)])
    return table


def with_torch(ids, V):
    counts = torch.zeros(V, V)
    for a, b in pairwise(ids):
        counts[a, b] += 1
    counts[counts.sum(1) == 0] = 1
    return counts / counts.sum(1, keepdim=True)


RIGHT["check_bigram_probabilities"] = [lambda ids, V: rows(count(ids, V)), with_lists, with_torch]


def raw_division(ids, V):
    counts = count(ids, V)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(1, keepdims=True)


def by_occurrence(ids, V):
    """Divide by how often a token occurs, the last place included."""
    counts = count(ids, V)
    for a in range(V):
        counts[a] = counts[a] / ids.count(a) if counts[a].any() else 1 / V
    return counts


def wrapped(ids, V):
    return rows(count([*ids, ids[0]], V))


def zero_rows(ids, V):
    counts = count(ids, V)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


MISTAKES["check_bigram_probabilities"] = [
    (count, "counts"),
    (lambda i, V: count(i, V) / count(i, V).sum(), "pair"),
    (lambda i, V: count(i, V) / np.maximum(count(i, V).sum(0), 1), "later token"),
    (lambda i, V: rows(count(i, V)).T, "exchanged"),
    (lambda i, V: rows(count(i, V).T), "before"),
    (lambda i, V: rows(count(i, V) + 1), "add-one"),
    (lambda i, V: rows(count(i, V, step=2)), "overlap"),
    (lambda i, V: rows(count(i, V, distance=2)), "two places"),
    (lambda i, V: np.tile(np.bincount(i, minlength=V) / len(i), (V, 1)), "single tokens"),
    (wrapped, "roll"),
    (raw_division, "not a number"),
    (zero_rows, "know nothing"),
    (by_occurrence, "no follower"),
    (lambda i, V: rows(count(i, max(i) + 1)), "shape"),
    (lambda i, V: rows(count(i, V))[:3, :3], "shape"),
    (lambda i, V: "abc", "not a table"),
    (lambda i, V: rows(count(i, V)) ** 2, "row 0 is"),
]


# --- sample --------------------------------------------------------------------------------------


def walk(draw):
    """Return a sampler that draws each next token with `draw(table, ids, rng)`."""

    def sample(table, first, n, rng):
        ids = [first]
        for _ in range(n):
            ids.append(draw(table, ids, rng))
        return ids

    return sample


def by_hand(table, ids, rng):
    point, total = rng.random(), 0.0
    for id_, p in enumerate(table[ids[-1]]):
        total += p
        if point < total:
            return id_
    return id_


def choice(table, ids, rng):
    return rng.choice(len(table), p=table[ids[-1]])


def with_multinomial(table, ids, rng):
    return torch.multinomial(torch.tensor(table[ids[-1]]), 1).item()


RIGHT["check_sample"] = [
    walk(choice),
    walk(by_hand),
    walk(with_multinomial),
    lambda *a: np.array(walk(choice)(*a)),
    lambda *a: torch.tensor(walk(by_hand)(*a)),
]


def from_a_column(table, ids, rng):
    column = table[:, ids[-1]]
    return rng.choice(len(table), p=column / column.sum())


MISTAKES["check_sample"] = [
    (lambda *a: walk(choice)(*a)[1:], "first token is missing"),
    (lambda *a: walk(choice)(*a)[:-1], "has 6 tokens"),
    (lambda *a: [1, *walk(choice)(*a)[1:]], "starts with 1"),
    (walk(from_a_column), "backwards"),
    (walk(lambda t, ids, r: r.choice(len(t), p=t[ids[0]])), "row of the first one"),
    (walk(lambda t, ids, r: int(r.integers(len(t)))), "probability 0"),
    (walk(lambda t, ids, r: int(t[ids[-1]].argmax())), "most likely"),
    (walk(lambda t, ids, r: r.choice(np.flatnonzero(t[ids[-1]]))), "weights are ignored"),
    (lambda t, f, n, r: walk(choice)(t, f, n, np.random.default_rng(0)), "same tokens"),
    (walk(lambda t, i, r: r.choice(len(t), p=(q := t[i[-1]] ** 2) / q.sum())), "came in"),
    (lambda t, f, n, r: "abc", "text"),
    (lambda t, f, n, r: 3, "list of ids"),
]


# --- log-probability -----------------------------------------------------------------------------


def steps(ids, start, bigram):
    return np.array([start[ids[0]], *(bigram[a, b] for a, b in pairwise(ids))])


def loop(ids, start, bigram):
    total = math.log(start[ids[0]])
    for n in range(1, len(ids)):
        total += math.log(bigram[ids[n - 1]][ids[n]])
    return total


RIGHT["check_log_probability"] = [
    loop,
    lambda i, s, b: np.log(steps(i, s, b)).sum(),
    lambda i, s, b: torch.tensor(steps(i, s, b)).log().sum(),
    lambda i, s, b: [loop(i, s, b)],
]


def late(ids, bigram):
    return sum(math.log(bigram[b, a]) for a, b in pairwise(ids))


MISTAKES["check_log_probability"] = [
    (lambda i, s, b: -loop(i, s, b), "sign"),
    (lambda i, s, b: steps(i, s, b).prod(), "logarithm is missing"),
    (lambda i, s, b: np.log2(steps(i, s, b)).sum(), "bits"),
    (lambda i, s, b: np.log10(steps(i, s, b)).sum(), "base 10"),
    (lambda i, s, b: np.log(steps(i, s, b)[1:]).sum(), "first token is missing"),
    (lambda i, s, b: np.log(steps(i, s, b)[:-1]).sum(), "last token is missing"),
    (lambda i, s, b: steps(i, s, b).sum(), "added the probabilities"),
    (lambda i, s, b: np.log(steps(i, s, b).sum()), "logarithm of the sum"),
    (lambda i, s, b: np.log(steps(i, s, b)).mean(), "mean over the tokens"),
    (lambda i, s, b: loop(i, s, b) / (len(i) - 1), "mean over the pairs"),
    (lambda i, s, b: math.log(s[i[0]]) + late(i, b), "*after* it"),
    (lambda i, s, b: math.log(s[i[-1]]) + late(i, b), "from its end"),
    (lambda i, s, b: late(i, b), "after it"),
    (lambda i, s, b: sum(math.log(s[x]) for x in i), "as if nothing"),
    (lambda i, s, b: math.exp(-np.log(steps(i, s, b)).mean()), "perplexity"),
    (lambda i, s, b: np.log(steps(i, s, b)), "shape"),
    (lambda i, s, b: np.log(steps(i, s, b).prod()), "too small"),
    (lambda i, s, b: math.log(math.prod(steps(i, s, b))), "too small"),
    (lambda i, s, b: loop(i, s, b) if len(i) > 1 else 0.0, "one token"),
    (lambda i, s, b: 2 * loop(i, s, b), "expected"),
    (lambda i, s, b: loop(i, s, b) if len(i) < 9 else -1.0, "3,000"),
]


# --- translate -----------------------------------------------------------------------------------


def by_loop(gene, table):
    protein = ""
    for start in range(0, len(gene) - 2, 3):
        letter = table[gene[start : start + 3]]
        if letter == "*":
            break
        protein += letter
    return protein


def by_split(gene, table):
    codons = [gene[i : i + 3] for i in range(0, len(gene), 3)]
    return "".join(table.get(codon, "") for codon in codons).split("*")[0]


RIGHT["check_translate"] = [by_loop, by_split]


def no_stop(gene, table, step=3, end=2):
    return "".join(table[gene[i : i + 3]] for i in range(0, len(gene) - end, step))


def stop_kept(gene, table):
    protein = no_stop(gene, table)
    return protein[: protein.index("*") + 1] if "*" in protein else protein


MISTAKES["check_translate"] = [
    (lambda g, t: no_stop(g, t, step=1), "by one base"),
    (lambda g, t: no_stop(g, t, end=3), "codon is lost"),
    (lambda g, t: by_loop(g, t)[::-1], "backwards"),
    (stop_kept, "not an amino acid"),
    (no_stop, "not an amino acid"),
    (lambda g, t: no_stop(g, t).replace("*", ""), "goes on behind"),
    (lambda g, t: by_loop(g.split("TAA")[0], t), "across two codons"),
    (lambda g, t: by_loop(g[g.index("ATG") :], t), "first ATG"),
    (lambda g, t: no_stop(g, t, end=0).split("*")[0], "make no codon"),
    (lambda g, t: list(by_loop(g, t)), "join"),
    (lambda g, t: by_loop(g, t)[0], "Only the first"),
    (lambda g, t: "", "Nothing"),
    (lambda g, t: 7, "string"),
    (lambda g, t: by_loop(g.replace("TGA", "TGG"), t), "TGA"),
    (lambda g, t: by_loop(g, {}), "stopped"),
]
