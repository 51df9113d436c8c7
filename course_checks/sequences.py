"""Checks for chapter 1: a bigram table, sampling from it, a sequence's probability, a gene.

Each tests one idea at a time on small inputs, and compares a wrong answer with what the usual
mistakes would give, so that it can name the mistake.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from course_checks import Verdict, Wrong, check

__all__ = [
    "Verdict",
    "check_bigram_probabilities",
    "check_log_probability",
    "check_sample",
    "check_translate",
]


def _given(result: Any) -> Any:
    if result is None:
        raise Wrong("Your function returned None. Does it end with `return`?")
    return result


def _array(result: Any) -> np.ndarray:
    try:
        return np.asarray(_given(result), dtype=float)
    except (TypeError, ValueError):
        raise Wrong(
            f"Your function returned a {type(result).__name__} that is not a table of numbers."
        ) from None


# --- 1 ---------------------------------------------------------------------------------------


@check
def check_bigram_probabilities(answer: Callable) -> str:
    """Check ``bigram_probabilities(ids, vocab_size)`` -> ``(V, V)``, rows ``P(next | current)``."""
    ids, V = [0, 1, 0, 2, 0, 1, 1, 2, 2, 0, 1, 3], 4  # token 3 comes last and is never followed
    found = _square(answer(list(ids), V), V)
    _name_table(found, ids, V)
    if np.isnan(found[3]).any():
        raise Wrong(
            "Row 3 is not a number: token 3 is never followed by anything, so its row is 0 divided "
            "by 0. Give such a row 1/V everywhere."
        )
    if not np.allclose(found[3], 1 / V):
        raise Wrong(
            f"Row 3 is {np.round(found[3], 3).tolist()}. Token 3 is never followed by anything, so "
            "we know nothing: give such a row 1/V everywhere, and it sums to 1 like the others."
        )
    again = [*ids[:-1], 0, 2, 0]  # here the last token stands earlier as well
    found = _square(answer(list(again), V), V)
    right = _bigram(_counts(again, V))
    if np.allclose(found[0] * again.count(0), right[0] * (again.count(0) - 1)):
        raise Wrong(
            f"With ids = {again} row 0 sums to {found[0].sum():.3f} instead of 1. The last token "
            "has no follower: divide by the number of pairs that start with it, not by how often "
            "it occurs."
        )
    if not np.allclose(found, right):
        raise Wrong(f"Right for one text, wrong for ids = {again}.")
    many = np.random.default_rng(1).integers(0, 7, 400).tolist()
    if not np.allclose(_square(answer(list(many), 9), 9), _bigram(_counts(many, 9))):
        raise Wrong("Right on 12 tokens, wrong on 400 with a vocabulary of 9, of which 7 occur.")
    return "Every row sums to 1 and no column has to: P(u | q) says nothing about P(q | u)."


def _counts(ids: Sequence[int], V: int, distance: int = 1) -> np.ndarray:
    counts = np.zeros((V, V))
    np.add.at(counts, (ids[:-distance], ids[distance:]), 1)
    return counts


def _bigram(counts: np.ndarray) -> np.ndarray:
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), 1 / len(counts))


def _square(result: Any, V: int) -> np.ndarray:
    table = _array(result)
    if table.shape != (V, V):
        raise Wrong(
            f"The result has shape {table.shape}; expected (V, V) = ({V}, {V}): one row for each "
            "current token, one column for each next token, also for tokens that do not occur."
        )
    return table


def _name_table(found: np.ndarray, ids: list[int], V: int) -> None:
    """Raise the diagnosis of what went wrong in rows 0 to 2, in which every token is followed."""
    counts = _counts(ids, V)
    columns = counts.sum(axis=0)
    wrapped = counts.copy()
    wrapped[ids[-1], ids[0]] += 1
    for diagnosis, wrong in (
        ("These are the counts. Divide each row by its sum to get probabilities.", counts),
        (
            "The whole table sums to 1: this is the probability of a pair, P(current, next). "
            "Divide each row by its own sum to get P(next | current).",
            counts / counts.sum(),
        ),
        (
            "Each column sums to 1: you divided by the column sums, which gives "
            "P(current | next), conditioned on the later token. Divide by the row sums.",
            counts / columns,
        ),
        (
            "Rows and columns are exchanged: row a must hold what follows a, "
            "so counts[current, next].",
            _bigram(counts).T,
        ),
        (
            "Rows and columns are exchanged: your rows sum to 1, but row a holds what stands "
            "*before* a. Count at counts[current, next].",
            _bigram(counts.T),
        ),
        (
            "Something was added to the counts (add-one smoothing). It is a good idea, and comes "
            "later in the chapter; here the table is the counts alone.",
            (counts + 1) / (counts.sum(axis=1, keepdims=True) + V),
        ),
        (
            "Only every other pair was counted. Pairs overlap: a b c holds a b and b c.",
            _bigram(_counts(ids[:2], V) + sum(_counts(ids[i : i + 2], V) for i in range(2, 12, 2))),
        ),
        (
            "You paired each token with the one two places on; the next one is one place on.",
            _bigram(_counts(ids, V, distance=2)),
        ),
        (
            "All rows are the same: these are the frequencies of single tokens. Count pairs.",
            np.tile(np.bincount(ids, minlength=V) / len(ids), (V, 1)),
        ),
    ):
        if np.allclose(found[:3], wrong[:3]):
            raise Wrong(diagnosis)
    if np.allclose(found, _bigram(wrapped)):
        raise Wrong(
            "The last token was paired with the first one: `roll` goes round the end. Pair "
            "ids[:-1] with ids[1:]."
        )
    right = _bigram(counts)
    if not np.allclose(found[:3], right[:3]):
        raise Wrong(
            f"For ids = {ids} row 0 is {np.round(found[0], 3).tolist()}; token 0 is followed by 1 "
            f"three times and by 2 once, so expected {right[0].tolist()}."
        )


# --- 2 ---------------------------------------------------------------------------------------


@check
def check_sample(answer: Callable) -> str:
    """Check ``sample(bigram, first, n, rng)`` -> a list of ``n + 1`` ids that starts with first."""
    cycle = [2, 3, 4, 0, 1]  # what follows 0, 1, 2, 3, 4: 0 2 4 1 3 0 …
    table = np.eye(5)[cycle]
    found = _ids(answer(table.copy(), 0, 6, np.random.default_rng(0)))
    right = [0, 2, 4, 1, 3, 0, 2]
    if found == right[1:]:
        raise Wrong("The first token is missing: the list starts with it, then come the n drawn.")
    if len(found) != 7:
        raise Wrong(f"For n = 6 the list has {len(found)} tokens; the first and 6 drawn make 7.")
    if found[0] != 0:
        raise Wrong(f"The list starts with {found[0]}; it must start with first = 0.")
    if found == [0, 3, 1, 4, 2, 0, 3]:
        raise Wrong(
            "The walk goes backwards: you drew from a column, what stands before a token. "
            "What follows token a is row a, bigram[a]."
        )
    if found == [0] + [2] * 6:
        raise Wrong(
            "Every token was drawn from the row of the first one. Draw from the row of the token "
            "that you drew last."
        )
    for a, b in pairwise(found):
        if b != cycle[a]:
            raise Wrong(
                f"In {found} token {a} is followed by {b}, which has probability 0 in row {a}. "
                "Draw each token with the probabilities in the row of the last one."
            )
    _name_randomness(answer)
    return "One row and one draw at a time: the loop of every language model that writes."


def _ids(result: Any) -> list[int]:
    if isinstance(_given(result), str):
        raise Wrong("You returned a text; return the list of ids.")
    try:
        return [int(id_) for id_ in result]
    except (TypeError, ValueError):
        raise Wrong(f"Return a list of ids; you returned {result!r:.60}.") from None


def _name_randomness(answer: Callable) -> None:
    coin = np.array([[0.8, 0.2], [0.8, 0.2]])  # whatever came, 1 follows one time in five
    runs = [_ids(answer(coin.copy(), 0, 2000, np.random.default_rng(seed))) for seed in (1, 2)]
    share = sum(map(sum, runs)) / 4000
    if share == 0:
        raise Wrong(
            "You always take the most likely token: with probabilities 0.8 and 0.2 the second one "
            "never came in 4,000 draws. Draw at random, with these weights."
        )
    if runs[0] == runs[1]:
        raise Wrong(
            "Two calls with different random generators gave the same tokens. Draw with the `rng` "
            "that you are given; do not make or seed one inside."
        )
    if abs(share - 0.5) < 0.05:
        raise Wrong(
            "With probabilities 0.8 and 0.2 both tokens came equally often: the weights are "
            "ignored. Pass the row as `p=`."
        )
    if abs(share - 0.2) > 0.04:  # six standard deviations of an honest draw
        raise Wrong(f"A token of probability 0.2 came in {share:.0%} of 4,000 draws.")


# --- 3 ---------------------------------------------------------------------------------------


@check
def check_log_probability(answer: Callable) -> str:
    """Check ``log_probability(ids, start, bigram)``, in nats, by the chain rule."""
    start = np.array([0.5, 0.3, 0.2])
    bigram = np.array([[0.1, 0.6, 0.3], [0.25, 0.05, 0.7], [0.4, 0.15, 0.45]])
    ids = [0, 1, 2, 2, 1]
    found = _log(answer, ids, start, bigram)
    pairs = list(pairwise(ids))
    steps = [start[ids[0]], *(bigram[a, b] for a, b in pairs)]
    right = sum(map(math.log, steps))
    late = [math.log(bigram[b, a]) for a, b in pairs]
    for diagnosis, wrong in (
        (
            "The sign is wrong: this is minus the log-probability. A probability is below 1, so "
            "its logarithm is negative.",
            -right,
        ),
        (
            "The logarithm is missing: this is the probability. Add logarithms.",
            math.exp(right),
        ),
        (
            "This is in bits, logarithms to base 2. The course counts in nats: use the natural "
            "logarithm, math.log or np.log.",
            right / math.log(2),
        ),
        (
            "These are logarithms to base 10. Use the natural logarithm, math.log or np.log.",
            right / math.log(10),
        ),
        (
            "The first token is missing: its probability is start[ids[0]], and it is a factor "
            "like the others.",
            right - math.log(steps[0]),
        ),
        (
            "The last token is missing: the loop ends one too early.",
            right - math.log(steps[-1]),
        ),
        (
            "You added the probabilities. Probabilities of things that all happen are multiplied, "
            "so their logarithms are added.",
            sum(steps),
        ),
        (
            "You took the logarithm of the sum. The logarithm of a product is the sum of the "
            "logarithms: take it at each token.",
            math.log(sum(steps)),
        ),
        (
            "This is the mean over the tokens; the log-probability of a sequence is the sum.",
            right / len(ids),
        ),
        (
            "This is the mean over the pairs; the log-probability of a sequence is the sum.",
            right / len(pairs),
        ),
        (
            "Each token was conditioned on the one *after* it. In bigram[a, b] a is the earlier "
            "token and b the later one: bigram[ids[n - 1], ids[n]].",
            math.log(start[ids[0]]) + sum(late),
        ),
        (
            "You went through the sequence from its end, each token conditioned on the one after "
            "it. Start with the first token; each condition stands before.",
            math.log(start[ids[-1]]) + sum(late),
        ),
        (
            "Each token was conditioned on the one after it, and the first token is missing: "
            "start with start[ids[0]], go on with bigram[ids[n - 1], ids[n]].",
            sum(late),
        ),
        (
            "Every token got its probability from `start`, as if nothing came before it.",
            sum(math.log(start[id_]) for id_ in ids),
        ),
        (
            "This is the perplexity. Here the sum of the logarithms is asked for.",
            math.exp(-right / len(ids)),
        ),
    ):
        if math.isclose(found, wrong, rel_tol=1e-5):
            raise Wrong(diagnosis)
    if not math.isclose(found, right, rel_tol=1e-5):
        raise Wrong(f"For ids = {ids} the result is {found:.4f}; expected {right:.4f}.")
    if not math.isclose(_log(answer, [1], start, bigram), math.log(0.3), rel_tol=1e-5):
        raise Wrong("A sequence of one token has the log-probability log(start[ids[0]]).")
    long = [0, 1, 2] * 1000
    right = math.log(0.5) + 1000 * math.log(0.6 * 0.7 * 0.4) - math.log(0.4)
    found = _log(answer, long, start, bigram, hint=_UNDERFLOW)
    if math.isinf(found):
        raise Wrong(_UNDERFLOW)
    if not math.isclose(found, right, rel_tol=1e-4):
        raise Wrong(f"For 3,000 tokens the result is {found:.2f}; expected {right:.2f}.")
    return (
        f"3,000 tokens have the log-probability {right:,.0f}. As a probability that is a number "
        f"with {-right / math.log(10):,.0f} zeros after the point, and a computer would say 0."
    )


_UNDERFLOW = (
    "Right for short sequences. For 3,000 tokens the product of the probabilities is too small for "
    "a computer and becomes 0. Never multiply them: add their logarithms."
)


def _log(answer: Callable, ids: list[int], start: np.ndarray, bigram: np.ndarray, hint="") -> float:
    try:
        with np.errstate(divide="ignore"):
            result = _array(answer(list(ids), start.copy(), bigram.copy()))
    except ValueError:  # the logarithm of 0
        if hint:
            raise Wrong(hint) from None
        raise
    if result.size != 1:
        raise Wrong(f"The result has shape {result.shape}; expected one number. Is a sum missing?")
    return float(result.reshape(()))


# --- 4 ---------------------------------------------------------------------------------------


def _codon_table() -> dict[str, str]:
    letters = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
    codons = [a + b + c for a in "TCAG" for b in "TCAG" for c in "TCAG"]
    return dict(zip(codons, letters, strict=True))


@check
def check_translate(answer: Callable) -> str:
    """Check ``translate(gene, codon_table)`` -> the protein as a string, up to the first stop."""
    table = _codon_table()

    def ask(gene: str) -> str:
        result = _given(answer(gene, dict(table)))
        if isinstance(result, list | tuple):
            raise Wrong('You returned a list; join its letters into a string with "".join(…).')
        if not isinstance(result, str):
            raise Wrong(f"You returned a {type(result).__name__}; return a string of amino acids.")
        return result

    def expect(gene: str, right: str, mistakes: Mapping[str, str], otherwise: str) -> None:
        found = ask(gene)
        if found == right:
            return
        raise Wrong(mistakes.get(found, f"{gene} gives {found!r}; expected {right!r}. {otherwise}"))

    step_one = "You move on by one base at a time. Codons do not overlap: move on by three."
    expect(
        "ATGTGGGAA",
        "MWE",
        {
            "MCVWGGE": step_one,
            "MCVWGG": step_one,
            "MW": "The last codon is lost: the loop ends one codon too early.",
            "EWM": "The protein is written backwards.",
            "M": "Only the first codon was translated.",
            "": "Nothing was translated. A gene without a stop codon is read to its end.",
        },
        "Cut it into ATG, TGG, GAA and look each one up.",
    )
    expect(
        "ATGTGGTAA",
        "MW",
        {"MW*": "The stop codon is not an amino acid: leave its * out of the protein."},
        "TAA is a stop codon.",
    )
    goes_on = "Translation ends at the first stop codon; yours goes on behind it."
    expect("ATGTAATGG", "M", {"M*W": goes_on, "MW": goes_on, "M*": goes_on}, goes_on)
    expect(
        "ATGCTAATGGAA",
        "MLME",
        {"M": "The letters TAA stand across two codons here. A stop counts only in the frame."},
        "Read codon by codon; what stands across two codons does not count.",
    )
    expect(
        "GGGATGTGG",
        "GMW",
        {"MW": "You looked for the first ATG. Here reading starts at the first base."},
        "Reading starts at the first base.",
    )
    try:
        expect("ATGTGGGA", "MW", {}, "Two bases are left over: no codon, so leave them out.")
    except KeyError as error:
        raise Wrong(
            f"The gene ATGTGGGA has eight bases, and your code looks up {error}: two bases are "
            "left over and make no codon. Leave them out."
        ) from None
    codons = [codon for codon, letter in table.items() if letter != "*"]
    chosen = [codons[n] for n in np.random.default_rng(4).integers(0, len(codons), 80)]
    gene = "".join(chosen) + "TGAATGAAA"
    if ask(gene) != "".join(table[codon] for codon in chosen):
        raise Wrong("Right for short genes, wrong for one of 80 random codons and the stop TGA.")
    return (
        "64 codons for 20 amino acids and a stop: several codons say the same thing, and some "
        "mutations change nothing."
    )
