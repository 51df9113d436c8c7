"""Exercises of chapter 1: a bigram table, sampling from it, a sequence's probability, a gene."""

import math
from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_checks.answers import draw
from course_checks.exercises import Exercise, Way, changed
from course_checks.outcomes import read

# --- 1: a table of bigrams -------------------------------------------------------------------


def _rows(counts: Tensor, sums: Tensor | None = None) -> Tensor:
    total = counts.sum(1, True)
    return torch.where(total > 0, counts / (total if sums is None else sums), 1 / len(counts))


def _table(share: Way = _rows, pairs: Way = pairwise) -> Way:
    return lambda ids, V: share(
        torch.tensor([a * V + b for a, b in pairs(ids)]).bincount(minlength=V * V).view(V, V) * 1.0
    )


def _texts(seed: int) -> list[tuple]:
    rng, sizes = np.random.default_rng(seed), ((2, 6), (3, 14), (4, 17), (6, 90))
    texts = [([1, *rng.integers(0, V, n).tolist(), *range(V), 0], V) for V, n in sizes]
    return [*texts, ([*texts[1][0], 3], 4), (texts[3][0], 9)]  # in the last, rows of nothing


_SHARES = {
    "These are the counts. Divide each row by its sum.": lambda c: c,
    "The whole table sums to 1, P(a and b); each row should, P(b | a).": lambda c: c / c.sum(),
    "Each column sums to 1, P(a | b). Divide by the sum of the row.": lambda c: _rows(c.T).T,
    "Row a holds what comes before a: count at [current, next].": lambda c: _rows(c.T),
    "Something was added to the counts; here they stay as they are.": lambda c: _rows(c + 1),
    "A pair counts as often as it comes: with lists of ids `counts[a, b] += 1` adds once. Use a "
    "loop, or np.add.at.": lambda c: _rows(c.clamp(max=1)),
    "A table of whole numbers cuts the shares off to 0: use floats.": lambda c: _rows(c).floor(),
    "Divided by the sum of another row: write sum(1, keepdims=True).": lambda c: c / c.sum(1),
    "A row without a count is 0 / 0, not a number: give it 1 / V.": lambda c: c / c.sum(1, True),
    "A row without a count is all 0: give it 1 / V instead.": lambda c: c / c.sum(1, True).clamp(1),
    "Only a row without any count holds 1 / V: in other rows, a pair that never came has "
    "0.": lambda c: torch.where(c > 0, _rows(c), 1 / len(c)),
    "You divided by how often a occurs, but the last token has no follower: divide by the row's "
    "sum.": lambda c: _rows(c, torch.maximum(c.sum(0), c.sum(1))[:, None]),
}

check_bigram_probabilities = Exercise(
    name="bigram_probabilities",
    task="The table P(b | a), (V, V), counted in a text; 1 / V where nothing is known.",
    right=lambda ids, vocab_size: _table()(ids, vocab_size),
    inputs=_texts,
    shape="(V, V)",
    mistakes=changed(_table, _SHARES)
    | {
        "The last token was paired with the first, which does not follow it: pair ids[:-1] with "
        "ids[1:].": _table(pairs=lambda ids: pairwise([*ids, ids[0]])),
    },
    notice="Every row sums to 1 and no column has to: P(u | q) says nothing about P(q | u).",
)

# --- 2: sampling -----------------------------------------------------------------------------


def _walk(pick: Way = lambda rng, row: rng.choice(len(row), p=row), more: int = 0) -> Way:
    return lambda bigram, first, n, rng: list(
        accumulate(range(n + more), lambda a, _: int(pick(rng, bigram[a])), initial=first)
    )


def _walked(answer: Callable, bigram: np.ndarray, first: int, n: int, rng: Callable) -> dict:
    """Return what does not depend on chance; ``rng()`` is the same generator each time."""
    runs = (n, rng()), (60, rng()), (60, rng()), (60, np.random.default_rng(n))
    ids, one, again, other = (read(answer(bigram, first, *run), [0]) for run in runs)
    shares = torch.zeros(len(bigram), len(bigram))
    for a, b in pairwise(ids):
        shares[int(a), int(b)] += 1 / n
    return {
        "the length of the list, less n": len(ids) - n,
        "it begins with first": ids[:1] == [first],
        "the same rng gives the same ids, another one others": one == again != other,
        "the share of each pair (a, b)": shares,
    }


def _tables(seed: int) -> list[tuple]:
    a, rng = seed % 5 / 50, partial(np.random.default_rng, seed)
    even = [[0, 0.6 - a, 0.4 + a], [0.6 - a, 0, 0.4 + a], [0.4 + a, 0.6 - a, 0]]
    cycle = [[0, 0.98, 0.02], [0.02, 0, 0.98], [0.98, 0.02, 0]]
    return [(np.array(even), 2, 500, rng), (np.array(cycle), 1, 400, rng)]


_PICKS = {
    "You always take the most likely token; draw at random.": lambda rng, row: row.argmax(),
    "The probabilities are ignored: pass the row of the last token on to the generator, "
    "rng.choice(V, p=row).": (
        lambda rng, row: rng.choice(len(row)),
        lambda rng, row: rng.choice(row.nonzero()[0]),
    ),
}

check_sample = Exercise(
    name="sample",
    task="A list of first and n ids, each drawn from the row of the one before.",
    right=lambda bigram, first, n, rng: _walk()(bigram, first, n, rng),
    use=_walked,
    inputs=_tables,
    tolerance=0.1,
    mistakes=changed(_walk, _PICKS)
    | {
        "Draw with the `rng` that you are given: do not make one inside, and leave np.random "
        "alone.": lambda p, first, n, rng: _walk()(p, first, n, np.random.default_rng(0)),
        "Each token was drawn from the row of the first one; take the row of the last one "
        "drawn.": lambda p, a, n, rng: [
            a,
            *rng.choice(len(p), n, p=p[a]),
        ],
        "You drew from a column, what comes before a; what follows it is row a, "
        "bigram[a].": lambda p, *rest: _walk()(p.T / p.sum(0)[:, None], *rest),
        "One token too many: first and the n that are drawn make n + 1.": _walk(more=1),
        "One token too few: first and the n that are drawn make n + 1.": _walk(more=-1),
        "The first token is missing: the list begins with it.": lambda *call: _walk()(*call)[1:],
        "The list does not begin with `first`.": lambda p, first, *rest: _walk()(p, 0, *rest),
    },
    notice="One row and one draw at a time: the loop of every language model that writes.",
)

# --- 3: log-probability ----------------------------------------------------------------------


def _of_steps(score: Callable[[Tensor], Any]) -> Way:
    return lambda ids, start, bigram: score(
        torch.tensor([start[ids[0]], *(bigram[a, b] for a, b in pairwise(ids))])
    )


def _sequences(seed: int) -> list[tuple]:
    calls = []
    for V, N in ((2, 2), (3, 5), (3, 9), (5, 20), (4, 1), (3, 3000)):
        p = draw(V + 1, V, seed=seed + N).double().softmax(-1).numpy()
        ids = np.random.default_rng(seed + N).integers(0, V, N).tolist()
        calls.append(([1, *ids[2:], 0][:N], p[0], p[1:]))
    return calls


_SCORES = {
    "The sign is wrong: the logarithm of a probability is negative.": lambda p: -p.log().sum(),
    "The logarithm is missing: this is the probability.": lambda p: p.prod(),
    "Right for short sequences; the product of 3,000 probabilities rounds to 0. Add their "
    "logarithms.": (lambda p: p.prod().log(), lambda p: math.log(p.prod())),
    "Use the natural logarithm, math.log or np.log, which gives nats, and not the one to base 2 or "
    "10.": (lambda p: p.log2().sum(), lambda p: p.log10().sum()),
    "The first token is missing: start[ids[0]] is a factor too.": lambda p: p[1:].log().sum(),
    "The last token is missing.": lambda p: p[: max(len(p) - 1, 1)].log().sum(),
    "You added probabilities. Those of things that all happen are multiplied: add the logarithms "
    "instead.": (lambda p: p.sum(), lambda p: p.sum().log()),
    "This is a mean; the log-probability is the sum.": lambda p: p.log().mean(),
}

check_log_probability = Exercise(
    name="log_probability",
    task="ln P(ids) by the chain rule: start for the first token, then the bigram table.",
    right=lambda ids, start, bigram: _of_steps(lambda p: p.log().sum().item())(ids, start, bigram),
    inputs=_sequences,
    mistakes=changed(_of_steps, _SCORES)
    | {
        "Each token was conditioned on the one after it; in bigram[a, b] the earlier is "
        "a.": lambda ids, start, bigram: _of_steps(lambda p: p.log().sum())(ids, start, bigram.T),
        "Each token got its probability from `start`, as if none came "
        "before.": lambda ids, start, bigram: np.log(start[ids]).sum(),
    },
    notice="As a probability, 3,000 tokens have over 1,000 zeros after the point.",
)

# --- 4: a gene -------------------------------------------------------------------------------

_CODONS = [a + b + c for a in "TCAG" for b in "TCAG" for c in "TCAG"]
_LETTERS = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
_TABLE = dict(zip(_CODONS, _LETTERS, strict=True))


def _protein(
    end: Callable[[str], Any] = lambda s: s.split("*")[0],
    gene: Callable[[str], str] = str,
    step: int = 3,
    short: int = 2,
) -> Way:
    return lambda g, table: end(
        "".join(table[gene(g)[i : i + 3]] for i in range(0, len(gene(g)) - short, step))
    )


def _one_stop(codon: str) -> Way:
    return lambda gene, table: _protein(lambda s: s.split("#")[0])(gene, table | {codon: "#"})


def _genes(seed: int) -> list[tuple]:
    codons = [codon for codon in _CODONS if _TABLE[codon] != "*" and codon != "ATG"]
    text = "".join(np.random.default_rng(seed).permutation(codons))  # 180 bases
    some = [text[n : n + 12] for n in range(0, 180, 12)]
    ended = [some[n] + stop + some[n + 3] for n, stop in enumerate(("TGA", "TAG", "TAA"))]
    genes = ["ATG" + some[6], some[7] + "TAA", *ended, text, f"{some[8]}CTAATG{some[9]}"]
    return [(gene,) for gene in (*genes, some[10] + "AT", some[11] + "G")]


check_translate = Exercise(
    name="translate",
    task="The protein of a gene, codon by codon from the first base up to the first stop.",
    right=lambda gene, codon_table: _protein()(gene, codon_table),
    use=lambda answer, gene: answer(gene, dict(_TABLE)),
    inputs=_genes,
    mistakes={
        "You move on by one base. Codons do not overlap: move on by three bases, range(0, "
        "len(gene), 3).": (_protein(step=1), _protein(str, step=1)),
        "The last codon is lost: the loop ends one codon too early.": _protein(short=3),
        "One or two bases left over at the end are not a codon: leave them out.": _protein(short=0),
        "A stop is not an amino acid: leave * out.": _protein(lambda s: s[: s.find("*") + 1] or s),
        "The first stop ends the protein, and its * is not written.": _protein(str),
        "The protein goes on after the stop.": _protein(lambda s: s.replace("*", "")),
        "There are three stop codons: compare the letter in the table with *, not the codon with "
        "one.": (*map(_one_stop, ("TAA", "TAG", "TGA")),),
        "A stop lies within one codon.": _protein(gene=lambda g: g.split("TAA")[0]),
        "You looked for ATG, where a cell begins. Here reading starts at the first base, whatever "
        "it is.": _protein(gene=lambda g: g[max(g.find("ATG"), 0) :]),
        "Leave the odd bases out at the end.": _protein(gene=lambda g: g[len(g) % 3 :]),
        "Write the letter of each codon, codon_table[codon], not the three letters of the codon "
        "itself.": lambda g, table: g[: 3 * len(_protein()(g, table))],
        "You returned a list; make a string of its letters.": lambda *call: list(_protein()(*call)),
    },
    notice="64 codons for 20 amino acids and a stop: some mutations change nothing.",
)
