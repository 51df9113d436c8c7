"""Exercises of the first two homeworks: settings of a generation, measures of text and of heads."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_checks.answers import draw
from course_checks.attention import causal
from course_checks.exercises import Exercise, Way, changed

# --- settings of a generation ----------------------------------------------------------------


def _settings(temperature: float, n: int) -> dict[str, Any]:
    settings = {"max_new_tokens": n, "return_full_text": False, "do_sample": temperature > 0}
    return settings | ({"temperature": temperature} if temperature else {})


def _but(change: Callable[[dict, float], dict]) -> Way:
    return lambda temperature, n: change(_settings(temperature, n), temperature)


def _sorted(answer: Callable, *arguments: float) -> Any:
    result = answer(*arguments)
    return dict(sorted(result.items())) if isinstance(result, Mapping) else result


def _without(settings: dict[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in settings.items() if each != name}


_CHANGES = {
    "With temperature 0 do_sample is False, and `temperature` is left out: nothing is drawn.": (
        lambda s, t: s | {"do_sample": True, "temperature": t},
        lambda s, t: s | {"temperature": t},
        lambda s, t: {"temperature": 1.0} | s,
    ),
    "do_sample must be True for a temperature above 0: without it, that does "
    "nothing.": lambda s, t: s | {"do_sample": False},
    "do_sample must be False for temperature 0, because that means greedy decoding.": lambda s, t: (
        s | {"do_sample": True}
    ),
    "do_sample is the wrong way round: it is True where a token is drawn, above temperature "
    "0.": lambda s, t: s | {"do_sample": t == 0},
    "At any temperature above 0 a token is drawn, at one below 1 as well: "
    "do_sample.": lambda s, t: s if t >= 1 else _settings(0, s["max_new_tokens"]),
    "do_sample is missing where a temperature is given; give it in both cases, True or "
    "False.": lambda s, t: _without(s, "do_sample") if t else s,
    "do_sample is a text, and every text counts as true: write True, without "
    "quotes.": lambda s, t: s | {"do_sample": str(t > 0)},
    "return_full_text must be False, or the prompt comes back before the answer.": (
        lambda s, t: s | {"return_full_text": True},
        lambda s, t: _without(s, "return_full_text"),
    ),
    "max_length counts the prompt as well: give max_new_tokens, which counts what is "
    "added.": lambda s, t: _without(s, "max_new_tokens") | {"max_length": s["max_new_tokens"]},
    "Pass on the length that is given, max_new_tokens.": lambda s, t: s | {"max_new_tokens": 80},
    "Pass on the temperature that is given.": lambda s, t: s | ({"temperature": 0.7} if t else {}),
}

check_generation_settings = Exercise(
    name="generation_settings",
    task="The keyword arguments of a generation as a dict; temperature 0 is greedy decoding.",
    right=lambda temperature, max_new_tokens: _settings(temperature, max_new_tokens),
    use=_sorted,
    inputs=lambda seed: [
        (t, 1 + (n + seed) % 200) for n, t in enumerate((0.75 + seed % 9 / 50, 0, 0.2, 1.5, 0, 1.0))
    ],
    mistakes=changed(_but, _CHANGES),
    notice="Greedy decoding is where sampling arrives as the temperature goes to 0.",
)

# --- different n-grams -----------------------------------------------------------------------


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _share(parts: Sequence[Any]) -> float:
    return len(set(parts)) / len(parts) if parts else 0.0


def _distinct(ngrams: Way = _ngrams, share: Way = _share) -> Way:
    return lambda texts, n: share([part for tokens in texts for part in ngrams(tokens, n)])


def _samples(seed: int) -> list[tuple]:
    letters = [
        ["abcd"[i] for i in row] for row in np.random.default_rng(seed).integers(0, 3, (8, 11))
    ]
    calls = [([[*"abca"]], 1), ([[*"abab"], [*"abcd"], [*"da"]], 2), (letters[:3], 2)]
    calls += [([*letters[3:5], letters[5][:5]], 3), (letters, 4), ([letters[6], letters[7][:6]], 2)]
    return [*calls, ([["ab", "c", "x", "a", "bc"]], 2), ([["a"], []], 2)]


_NGRAMS = {
    "Your n-grams have n + 1 tokens.": lambda t, n: _ngrams(t, n + 1),
    "The length of the n-grams is always the same in your function; it should be the argument "
    "n.": tuple(lambda t, n, k=k: _ngrams(t, k) for k in (1, 2, 3)),
    "The last n-gram of each text is missing: it has T - n + 1.": lambda t, n: _ngrams(t[:-1], n),
    "The last parts have fewer than n tokens and are no n-grams: there are T - n + "
    "1.": lambda t, n: [tuple(t[i : i + n]) for i in range(len(t))],
    "The order of the tokens counts: a b and b a are two n-grams, so do not sort them or make "
    "sets.": lambda t, n: [*map(frozenset, _ngrams(t, n))],
    "Joined into one text, the n-grams “ab c” and “a bc” are the same: compare "
    "tuples.": lambda t, n: [*map("".join, _ngrams(t, n))],
    "n-grams overlap: move on by one token, not by n.": lambda t, n: _ngrams(t, n)[::n],
}

check_distinct_n = Exercise(
    name="distinct_n",
    task="The share of different n-grams among all, of all texts together.",
    right=lambda texts, n: _distinct()(texts, n),
    inputs=_samples,
    mistakes=changed(_distinct, _NGRAMS)
    | {
        "Put the n-grams of all texts into one set: what two texts have in common counts once.": (
            lambda texts, n: sum(_distinct()([t], n) for t in texts) / len(texts),
            _distinct(lambda t, n: [(str(t), part) for part in _ngrams(t, n)]),
        ),
        "An n-gram lies inside one text; yours run on from one text into the "
        "next.": lambda texts, n: _distinct()([[*chain(*texts)]], n),
        "This is how many different n-grams there are; divide by the number of all "
        "n-grams.": _distinct(share=lambda g: len(set(g))),
        "You divided by the number of tokens, of which there are more; divide by that of all "
        "n-grams.": lambda texts, n: (
            len({*chain(*(_ngrams(t, n) for t in texts))}) / sum(map(len, texts))
        ),
        "This is the share that repeats.": _distinct(share=lambda g: 1 - _share(g) if g else 0.0),
        "You count n-grams that come just once. One that comes twice counts as well, as "
        "one.": _distinct(share=lambda g: sum(g.count(part) == 1 for part in g) / max(len(g), 1)),
        "Texts that are shorter than n have no n-gram, and you divide by 0: return 0.0 "
        "then.": _distinct(share=lambda g: len(set(g)) / len(g)),
    },
    notice="Read the samples as well: random letters have a perfect score here.",
)

# --- a loop ----------------------------------------------------------------------------------


def _repeats(ids: Sequence[int], n: int, times: int = 3) -> bool:
    return list(ids[-times * n :]) == list(ids[-n:]) * times


def _loop(found: Way = _repeats, lengths: Way = lambda n: range(1, n // 3 + 1)) -> Way:
    return lambda ids: next((n for n in lengths(len(ids)) if found(ids, n)), 0)


def _endings(seed: int) -> list[tuple]:
    texts = [[1, 2, 3, 4, 5, 6], [9, 8, 7, 1, 2, 1, 2, 1, 2], [5] * 6, [7, 1, 2, 1, 2], [4, 6] * 3]
    texts += [[1, 2, 1, 2, 1, 2, 9], [2, 1, 3, 1, 3, 1] * 3, [1, 2, 5, 1, 2, 6, 1, 2]]
    texts += [[3, 1, 2, 4, 5, 1, 2], [8, 8, 1, 2, 3] * 4, [6, 3, 3, 3], [4, 5]]
    shifted = [([id_ + 10 * (seed % 90) for id_ in ids],) for ids in texts]
    return [*shifted, ([10 + seed % 90, 1, 1, 11, 11],)]


_FOUND = {
    "The text must end with the three parts; yours may be anywhere in it, as in 5 5 5 "
    "1.": lambda ids, n: any(_repeats(ids[:end], n) for end in range(3 * n, len(ids) + 1)),
    "The text must end with the loop, not begin with it.": lambda ids, n: _repeats(ids[: 3 * n], n),
    "Compare the three parts as a whole, from first to last, not only their last "
    "tokens.": lambda ids, n: ids[-1] == ids[-1 - n] == ids[-1 - 2 * n],
    "The three parts follow one another; look at the one in the middle too.": lambda ids, n: (
        ids[-n:] == ids[-3 * n : -2 * n]
    ),
    "Compare ids, not their digits in a row: 1, 11 and 11, 1 look the same in a "
    "text.": lambda ids, n: "".join(map(str, ids)).endswith("".join(map(str, ids[-n:])) * 3),
}

check_loop_length = Exercise(
    name="loop_length",
    task="The length of the shortest part with which ids end three times in a row, or 0.",
    right=lambda ids: _loop()(ids),
    inputs=_endings,
    mistakes=changed(_loop, _FOUND)
    | {
        "Twice is not enough: the part comes three times in a row.": (
            _loop(lambda ids, n: _repeats(ids, n, 2)),
            _loop(lambda ids, n: _repeats(ids, n, 2), lambda n: range(1, n // 2 + 1)),
        ),
        "This is the longest part that comes three times; begin to look with the shortest "
        "one.": _loop(lengths=lambda n: range(n // 3, 0, -1)),
        "The range ends one too early: range(1, len(ids) // 3 + 1), for a text that is all "
        "loop.": _loop(lengths=lambda n: range(1, n // 3)),
        "One token alone can be a loop as well, as in 5 5 5: begin to look with the length "
        "1.": _loop(lengths=lambda n: range(2, n // 3 + 1)),
        "This is the length of all three; return that of one.": lambda ids: 3 * _loop()(ids),
        "Without a loop the answer is 0, a number like all the others: `return 0` after the loop "
        "over lengths.": (lambda ids: _loop()(ids) or None, lambda ids: _loop()(ids) or -1),
        "Return the part's length, not the part.": lambda ids: ids[len(ids) - _loop()(ids) :] or 0,
        "The three parts follow one another at the end; do not count others.": _loop(
            lambda ids, n: sum(ids[i : i + n] == ids[-n:] for i in range(len(ids))) >= 3
        ),
    },
    notice="Once the context that the model sees repeats, greedy decoding cannot leave the loop.",
)

# --- measures of heads -----------------------------------------------------------------------


def _heads(seed: int) -> list[tuple]:
    """Return weights (H, T, T) that look both ways, then causal ones."""
    scores = [2 * draw(H, T, T, seed=seed + T) for H, T in ((2, 3), (3, 4), (3, 6), (2, 5), (4, 7))]
    return [
        *((each.softmax(-1),) for each in scores[:3]),
        *((causal(each),) for each in scores[3:]),
    ]


#: What a number for each query, (H, T), is made into instead of the mean without the first.
_MEANS = {
    "The first query is in the mean; leave it out, [:, 1:].": lambda q: q.mean(-1),
    "You divided by T, but without the first query, which has no choice, T - 1 are "
    "left.": lambda q: q[:, 1:].sum(-1) / q.shape[1],
    "This is the sum over the queries; take the mean.": lambda q: q[:, 1:].sum(-1),
    "There is a number for each query and each head; take the mean over the queries, so that (H,) "
    "is left.": (lambda q: q[:, 1:], lambda q: q),
    "This is one number; there is one for each head, (H,).": lambda q: q[:, 1:].mean(),
    "The mean runs over the heads; it belongs over the queries.": lambda q: q[:, 1:].mean(0),
    "You left out the first head, not the first query: [:, 1:].": lambda q: q[1:].mean(-1),
    "You left out two queries; only the first goes.": lambda q: q[:, 2:].mean(-1),
}


def _mean(per_query: Way, mean: Way = lambda q: q[:, 1:].mean(-1)) -> Way:
    return lambda weights: mean(per_query(weights))


def _before(weights: Tensor, back: int = 1) -> Tensor:
    places = torch.arange(weights.shape[-1])
    return weights[:, places, places - back]


check_share_on_previous = Exercise(
    name="share_on_previous",
    task="The mean weight that each head gives to the token before the query, (H,).",
    right=lambda weights: _mean(_before)(weights),
    inputs=_heads,
    shape="(H,)",
    mistakes=changed(lambda mean: _mean(_before, mean), _MEANS)
    | {
        "This is the token itself, on the main diagonal; the one before is one below it, "
        "offset=-1.": (_mean(lambda w: _before(w, 0)), lambda w: _before(w, 0).mean(-1)),
        "This is the next token; the one before is in column i - 1, below the "
        "diagonal.": lambda w: w.diagonal(1, 1, 2).mean(-1),
        "This is the first token, column 0; the one before moves along with the query: i - "
        "1.": _mean(lambda w: w[:, :, 0]),
        "This is the token two before the query.": lambda w: w.diagonal(-2, 1, 2).mean(-1),
        "This is the last query alone; take the mean over the queries.": lambda w: w[:, -1, -2],
        "These are all the weights before the query; only the one that is right before it "
        "counts.": _mean(lambda w: w.tril(-1).sum(-1)),
    },
    notice="Such heads know the order of tokens only: nothing about the words matters to them.",
)


def _bits(weights: Tensor) -> Tensor:
    return torch.special.entr(weights) / math.log(2)


check_head_entropy = Exercise(
    name="head_entropy",
    task="The mean entropy of each head's queries in bits, without the first, (H,).",
    right=lambda weights: _mean(lambda w: _bits(w).sum(-1))(weights),
    inputs=_heads,
    shape="(H,)",
    mistakes=changed(lambda mean: _mean(lambda w: _bits(w).sum(-1), mean), _MEANS)
    | {
        "This is in nats; divide by ln 2 for bits.": _mean(lambda w: torch.special.entr(w).sum(-1)),
        "0 · log 0 is nan, where the mask left a weight of 0. Count such a key as 0: "
        "torch.special.entr does.": _mean(lambda w: -(w * w.log2()).sum(-1)),
        "The sign is missing: minus the sum of p · log p.": _mean(lambda w: -_bits(w).sum(-1)),
        "An entropy is a sum over the keys, not a mean.": _mean(lambda w: _bits(w).mean(-1)),
        "The sum runs over the queries; a query shares out its attention along its row, "
        "dim=-1.": _mean(lambda w: _bits(w).sum(-2)),
        "The weight p is missing: the entropy is a sum of p · log p, and not just of the log "
        "p.": _mean(lambda w: -(w + 1e-12).log2().sum(-1)),
        "This is the entropy of the mean weights; take the mean of the queries' "
        "entropies.": lambda w: _bits(w[:, 1:].mean(1)).sum(-1),
    },
    notice="2 to the power of the entropy is the number of keys that a head spreads over.",
)


def _far(weights: Tensor) -> Tensor:
    """Return how far key j is before query i, (T, T): negative for what comes after."""
    places = torch.arange(weights.shape[-1])
    return places[:, None] - places


def _sum_of(distance: Callable[[Tensor], Tensor], axis: int = -1) -> Way:
    return lambda w: (w * distance(_far(w))).sum(axis)


check_attention_distance = Exercise(
    name="attention_distance",
    task="The mean distance from query to key in tokens, weighted by the attention, (H,).",
    right=lambda weights: _mean(_sum_of(torch.abs))(weights),
    inputs=_heads,
    shape="(H,)",
    mistakes=changed(lambda mean: _mean(_sum_of(torch.abs), mean), _MEANS)
    | {
        "Keys on the two sides cancel: a distance is never negative, since it is |query - "
        "key|.": _mean(_sum_of(lambda d: d)),
        "A key before the query has a negative distance in yours: it is |query - key|.": _mean(
            _sum_of(lambda d: -d)
        ),
        "This is the mean place of the keys; a distance counts from the query: |query - "
        "key|.": _mean(lambda w: (w * torch.arange(w.shape[-1])).sum(-1)),
        "The distances are squared.": _mean(_sum_of(lambda d: d**2)),
        "Each distance is one too long: a token has the distance 0 from itself, and not 1 or "
        "more.": _mean(_sum_of(lambda d: d.abs() + 1)),
        "The weights sum to 1 already: add over the keys, and do not divide by their "
        "number.": _mean(lambda w: (w * _far(w).abs()).mean(-1)),
        "The sum runs over the queries; a query shares out its attention along its row, "
        "dim=-1.": _mean(_sum_of(torch.abs, -2)),
        "You took the key with the largest weight alone. Weight all of them: weight · "
        "distance.": _mean(lambda w: (w.argmax(-1) - torch.arange(w.shape[-1])).abs() * 1.0),
    },
    notice="A long mean distance may just be the first token's share: look at both.",
)
