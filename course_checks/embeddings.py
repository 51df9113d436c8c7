"""Exercises of chapter 3: embedding lookup, cosine similarity, analogies, words with vectors."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from course_checks import Wrong
from course_checks.answers import draw
from course_checks.exercises import Exercise, Way
from course_checks.guard import kind_of

# --- 1 ---------------------------------------------------------------------------------------


def _embed_inputs(seed: int) -> list[tuple]:
    """Return ids and tables; in the last one 0 · inf, NaN, shows who multiplied."""
    ids = [[1, 0], [3, 1, 3, 5], [2, 0, 1, 1, 4], [[1, 5, 3], [0, 1, 1]], [[2, 2], [1, 4], [3, 1]]]
    tables = [draw(V, C, seed=seed) for V, C in ((3, 2), (6, 3), (7, 3), (6, 4), (5, 5))]
    tables.append(torch.cat([draw(3, 2, seed=seed), torch.full((1, 2), math.inf)]))
    return [(torch.tensor(i), table) for i, table in zip([*ids, [2, 0]], tables, strict=True)]


def _one_hot(ids: Tensor, table: Tensor) -> Tensor:
    return F.one_hot(ids % len(table), len(table)).float()


def _rows(of: Callable[[Tensor], Tensor]) -> Way:
    return lambda ids, table: _one_hot(of(ids), table) @ table


check_embed = Exercise(
    name="embed",
    task="The row of the table for each id, as a product of one-hot vectors with the table.",
    right=lambda ids, table: _one_hot(ids, table) @ table,
    inputs=_embed_inputs,
    shape="(..., C)",
    mistakes={
        "These are the one-hot vectors: multiply them by the table.": _one_hot,
        "One-hot vectors have V numbers, one for each row of it: F.one_hot(ids, len(table)).": (
            lambda i, t: F.one_hot(i).float() @ t,
            lambda i, t: F.one_hot(i, t.shape[1]).float() @ t.T,
        ),
        "Each row is one too early: id 0 is the first row.": _rows(lambda i: i - 1),
        "Each row is one too late: id 0 is the first row.": _rows(lambda i: i + 1),
        "Take the rows of the ids, not the first ones.": _rows(lambda i: torch.arange(len(i))),
        "The ids are out of order: each gives its row at its place.": _rows(lambda i: i.sort()[0]),
        "An id that comes twice gives its row twice.": _rows(torch.unique),
        "The rows of all ids went into one; each id keeps its own.": (
            lambda i, t: (_one_hot(i, t) @ t).sum(-2),
            lambda i, t: _one_hot(i, t).amax(-2) @ t,
            lambda i, t: _one_hot(i, t).amax(-2, keepdim=True).expand(*i.shape, -1) @ t,
            lambda i, t: (_one_hot(i, t) if i.dim() == 1 else _one_hot(i, t).amax(-2)) @ t,
        ),
        "The right rows, but no product made them: multiply one-hot vectors by the table, without "
        "indexing it.": lambda i, t: t[i],
    },
    notice="The rows that no id asks for were all multiplied by 0: a lookup saves that work.",
)

# --- 2 ---------------------------------------------------------------------------------------


def _cosine_inputs(seed: int) -> list[tuple]:
    shapes = (2,), (4,), (5,), (3, 4), (5, 3)
    calls = [(draw(*shape, seed=seed), draw(*shape, seed=seed + 1)) for shape in shapes]
    return [*calls, (3 * calls[1][0], calls[1][1] - 2 * calls[1][0])]  # more than 90 degrees


def _over(length: Callable[[Tensor, Tensor], Any]) -> Way:
    return lambda a, b: (a * b).sum(-1) / length(a.norm(dim=-1), b.norm(dim=-1))


_cosine = _over(lambda a, b: a * b)

check_cosine_similarity = Exercise(
    name="cosine_similarity",
    task="The dot product divided by both lengths, over the last dimension.",
    right=lambda a, b: _cosine(a, b),
    inputs=_cosine_inputs,
    mistakes={
        "This is the bare dot product: divide it by both lengths.": _over(lambda a, b: 1),
        "Divide by the lengths of both.": (_over(lambda a, b: a), _over(lambda a, b: b)),
        "You divided by the square of one length.": _over(lambda a, b: a**2),
        "A length is the root of the sum of squares.": _over(lambda a, b: (a * b) ** 2),
        "You added the lengths; multiply them.": _over(lambda a, b: a + b),
        "x / y * z multiplies by z: put brackets around y * z.": _over(lambda a, b: a / b),
        "Add the products up; you took the mean.": lambda a, b: _cosine(a, b) / a.shape[-1],
        "The sign is lost: a cosine may be negative.": lambda a, b: _cosine(a, b).abs(),
        "This is the angle; return its cosine.": lambda a, b: _cosine(a, b).acos(),
        "Right for two vectors. With matrices you compared columns, took one length for all rows, "
        "or gave one number for all: sum and norm belong over dim=-1.": (
            lambda a, b: F.cosine_similarity(a, b, dim=0),
            lambda a, b: (a * b).sum(-1) / (a.norm() * b.norm()),
            lambda a, b: (a * b).sum() / (a.norm() * b.norm()),
        ),
        "Right for two vectors, but `@` and `dot` do not go row by row: use (a * b).sum(-1).": (
            lambda a, b: torch.dot(a, b) / (a.norm() * b.norm()),
            lambda a, b: a @ b.T / (a.norm(dim=-1) * b.norm(dim=-1)),
            lambda a, b: F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T,
        ),
    },
    notice="A vector twice as long has the same cosine: only the direction counts.",
)

# --- 3 ---------------------------------------------------------------------------------------


def _analogy_inputs(seed: int) -> list[tuple]:
    """Return the question in 29 small worlds; in the last, the others point away from the sum."""
    words = ["man", "king", "woman", "queen", "river", "throne", "serf"]
    worlds = [draw(7, 3, seed=seed + n) * draw(7, 1, seed=seed + n + 9).exp() for n in range(29)]
    worlds[-1][3:] = worlds[-1][0] - worlds[-1][1] - worlds[-1][2] + draw(4, 3, seed=seed) / 10
    orders = ([*words[n % 7 :], *words[: n % 7]] for n in range(29))
    return [("man", "king", "woman", *pair) for pair in zip(orders, worlds, strict=True)]


def _analogy(
    *signs: int,
    score: Way = F.cosine_similarity,
    out: Sequence = (0, 1, 2),
    pick: Way = torch.argmax,
) -> Way:
    def analogy(a: str, b: str, c: str, words: list, vectors: Tensor) -> str:
        asked = [words.index(word) for word in (a, b, c)]
        scores = score(vectors, torch.tensor(signs or (-1, 1, 1)).float() @ vectors[asked][None])
        scores[[asked[n] for n in out]] = -math.inf
        return words[pick(scores)]

    return analogy


check_analogy = Exercise(
    name="analogy",
    task="The word other than a, b, c whose vector has the largest cosine with b - a + c.",
    right=lambda a, b, c, words, vectors: _analogy()(a, b, c, words, vectors),
    inputs=_analogy_inputs,
    mistakes={
        "This may be one of the question's own words: leave out all three, a, b and c.": (
            *(_analogy(out=()), _analogy(out=[2]), _analogy(out=[1]), _analogy(out=[0, 2])),
        ),
        "Leave a, b and c out with -inf: with the score 0 they come before words whose cosine is "
        "negative.": _analogy(pick=lambda s: s.masked_fill(s == -math.inf, 0).argmax()),
        "You took the second best; any number of a, b and c, or none, may come before the right "
        "one.": _analogy(out=(), pick=lambda s: s.topk(2).indices[1]),
        "Take the cosine; a dot product favours length.": _analogy(score=lambda v, g: v @ g[0]),
        "Take the cosine, not the distance.": _analogy(score=lambda v, g: -(v - g).norm(dim=1)),
        "You brought the vectors to length 1 first, as gensim does; the exercise adds them as they "
        "are.": lambda *call: _analogy()(*call[:4], F.normalize(call[4])),
        "The signs of a and b are swapped: it is b - a + c.": _analogy(1, -1, 1),
        "The signs of a and c are swapped: it is b - a + c.": _analogy(1, 1, -1),
        "a is not subtracted: it is b - a + c.": (_analogy(1, 1, 1), _analogy(0, 1, 1)),
        "c is missing: it is b - a + c.": _analogy(-1, 1, 0),
        "This is the nearest to c alone: it is b - a + c.": _analogy(0, 0, 1),
        "This is the smallest cosine: take the largest.": _analogy(1, -1, -1),
        "Return the word, words[number].": lambda *call: call[3].index(_analogy()(*call)),
        "The number counts in a list without a, b and c, and you looked it up in one with them, "
        "`words`.": _analogy(pick=lambda s: s[s > -math.inf].argmax()),
    },
    notice="b itself is often the nearest: without the rule against it few analogies work out.",
)

# --- 4 ---------------------------------------------------------------------------------------


def _keep_inputs(seed: int) -> list[tuple]:
    bank = "the bank by the river is not the bank in the city"
    asked = [("the old sea the cat", "the "), (bank, "the by is not in"), (bank, "river ban")]
    asked += [("he sees the sea he is", "these seas he"), (bank, "cat")]
    return [(w.split(), draw(len(w.split()), 3, seed=seed), set(u.split())) for w, u in asked]


def _two_parts(answer: Callable, *given: Any) -> dict[str, Any]:
    result = answer(*given)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Wrong(f"Return two things, words and vectors; you returned {kind_of(result)}.")
    rows = np.stack(result[1]) if isinstance(result[1], (list, tuple)) else result[1]
    return {"the words": result[0], "the vectors": rows}


def _kept(words: list[str], vectors: Tensor, unwanted: Any) -> tuple:
    places = [n for n, word in enumerate(words) if word not in unwanted]
    return [words[n] for n in places], vectors[places]


def _last_of_each(words: list[str], vectors: Tensor, unwanted: set) -> tuple:
    rows = dict(zip(*_kept(words, vectors, unwanted), strict=True))
    return list(rows), list(rows.values())


check_keep_together = Exercise(
    name="keep_together",
    task="The words that are not unwanted, with their rows of the vectors.",
    right=lambda words, vectors, unwanted: _kept(words, vectors, unwanted),
    use=_two_parts,
    inputs=_keep_inputs,
    mistakes={
        "The words are filtered, the vectors are not.": lambda w, v, u: (_kept(w, v, u)[0], v),
        "The vectors are filtered, the words are not.": lambda w, v, u: (w, _kept(w, v, u)[1]),
        "These are the first rows; filter the vectors by place, as the words.": (
            lambda w, v, u: (_kept(w, v, u)[0], v[: len(_kept(w, v, u)[0])])
        ),
        "You kept the unwanted ones.": lambda w, v, u: _kept(w, v, set(w) - u),
        "A repeated word got the vector of its first place, where words.index finds it: filter by "
        "place.": lambda w, v, u: (_kept(w, v, u)[0], v[[w.index(x) for x in _kept(w, v, u)[0]]]),
        "A word that occurs twice has two places and two vectors; a dict keeps one.": _last_of_each,
        "Leave the words in the order of the vectors.": (
            lambda w, v, u: (sorted(_kept(w, v, u)[0]), _kept(w, v, u)[1])
        ),
        "Swapped: first words, then vectors.": lambda w, v, u: _kept(w, v, u)[::-1],
        "`in` looked for letters in a text: look for the word in the set.": (
            lambda w, v, u: _kept(w, v, " ".join(u))
        ),
    },
    notice="A model gives each `bank` a vector of its own: the place decides, not the word.",
)
