"""Checks for chapter 3: embedding lookup, cosine similarity, analogies, words with their vectors.

Each draws seeded inputs, tests one idea at a time, and compares a wrong answer with what the
usual mistakes would give, so that it can name the mistake.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_checks import Verdict, Wrong, check
from course_checks.answers import as_tensor, call, draw, name_mistake, same

__all__ = [
    "Verdict",
    "check_analogy",
    "check_cosine_similarity",
    "check_embed",
    "check_keep_together",
]

V, C, T = 6, 3, 4  # entries in the vocabulary, channels, tokens


# --- 1 ---------------------------------------------------------------------------------------


@check
def check_embed(answer: Callable) -> str:
    """Check ``embed(ids, table)``: ids ``(...)`` and a table ``(V, C)`` -> ``(..., C)``."""
    ids, table = torch.tensor([4, 0, 4, 2]), draw(V, C)
    found = _embed(answer, ids, table)
    name_mistake(
        found,
        {
            "These are the one-hot vectors. Multiply them by the table.": F.one_hot(ids, V).float(),
            "Rows and columns are exchanged: expected one row per id.": table[ids].mT,
            "These are the first rows of the table, as many as there are ids. "
            "The ids must say which rows to take.": table[:T],
            "Each row is one too early: ids count from 0, so id 0 is the first row.": table[
                ids - 1
            ],
            "Each row is one too late: ids count from 0, so id 0 is the first row.": table[ids + 1],
            "The right rows in the wrong order: the order is that of the ids.": table[
                ids.sort().values
            ],
            "An id that occurs twice must give its row twice, each at its place.": table[
                ids.unique()
            ],
            "The vectors were added up into one. Each id keeps its own row.": table[ids].sum(0),
            "The vectors were averaged into one. Each id keeps its own row.": table[ids].mean(0),
            "This is the whole table.": table,
        },
    )
    if found.shape != (T, C):
        raise Wrong(f"The result has shape {tuple(found.shape)}; expected (T, C) = {(T, C)}.")
    if not same(found, table[ids]):
        raise Wrong("Row t of the result should be row ids[t] of the table, unchanged.")
    batch = torch.tensor([[1, 5, 3], [0, 1, 1]])
    found = _embed(answer, batch, table)
    if same(found, table[batch].flatten(0, 1)):
        raise Wrong("Right rows, but the batch was flattened: ids (B, T) should give (B, T, C).")
    if not same(found, table[batch]):
        raise Wrong("Right for one sequence of ids, not for a batch: (B, T) should give (B, T, C).")
    return _unasked_note(ids)


def _embed(answer: Callable, ids: Tensor, table: Tensor) -> Tensor:
    """Call the answer; explain the two errors that one-hot products usually stop with."""
    try:
        return as_tensor(call(answer, ids.clone(), table.clone()))
    except RuntimeError as error:
        if "dtype" in str(error) or "scalar type" in str(error):
            raise Wrong(
                "torch refuses to multiply whole numbers by decimal ones: F.one_hot gives int64. "
                "Turn the one-hot vectors into the table's type, for example with .float()."
            ) from error
        if "shapes cannot be multiplied" in str(error):
            raise Wrong(
                f"The shapes do not fit: {error}. One-hot vectors must be V long, one entry for "
                "each row of the table, also where the largest ids do not occur."
            ) from error
        raise


def _unasked_note(ids: Tensor) -> str:
    """Return what there is to notice: the rows that nobody asked for."""
    asked = set(ids.tolist())
    rows = ", ".join(str(row) for row in range(V) if row not in asked)
    return (
        f"The ids {ids.tolist()} do not ask for the rows {rows} of the table, and whatever stands "
        "in these was multiplied by 0; row 4, asked for twice, came twice."
    )


# --- 2 ---------------------------------------------------------------------------------------


@check
def check_cosine_similarity(answer: Callable) -> str:
    """Check ``cosine_similarity(a, b)``: ``(..., C)`` and ``(..., C)`` -> ``(...)``."""
    a, b = torch.tensor([3.0, -1.0, 2.0, 0.5]), torch.tensor([-1.0, 2.0, 0.3, 1.5])
    found = as_tensor(call(answer, a.clone(), b.clone()))
    found = found.squeeze() if found.numel() == 1 else found
    name_mistake(found, _cosine_mistakes(a, b))
    if found.shape:
        raise Wrong(f"Two vectors should give one number, not shape {tuple(found.shape)}.")
    if not same(found, _cosine(a, b)):
        raise Wrong("The result differs from a · b divided by the lengths of both.")
    _cosine_of_rows(answer)
    found = float(as_tensor(call(answer, 2 * a, b)))
    return (
        f"The cosine of these two is {float(_cosine(a, b)):.2f}; with one of them twice as long "
        f"it is still {found:.2f}. The length of a vector does not count, only its direction."
    )


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a, b, dim=-1)


def _cosine_mistakes(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    dot, length_a, length_b, right = a @ b, a.norm(), b.norm(), _cosine(a, b)
    n = len(a)
    return {
        "This is the bare dot product: divide it by the lengths of both vectors.": dot,
        "You divided by the length of the first vector only.": dot / length_a,
        "You divided by the length of the second vector only.": dot / length_b,
        "This is a mean over the channels. Add the products up, and divide by the lengths, "
        "not by the number of channels.": dot / n,
        "The lengths are right, but you took the mean over the channels where the sum belongs.": (
            right / n
        ),
        "The products of the channels were not added up: sum over the last dimension.": (
            a * b / (length_a * length_b)
        ),
        "You divided by the squares of the lengths: a length is the square root of the sum of "
        "squares.": dot / (length_a * length_b) ** 2,
        "There is one square root too many: divide by the lengths themselves.": dot
        / (length_a * length_b).sqrt(),
        "You divided by the sum of the lengths; it should be their product.": dot
        / (length_a + length_b),
        "You used the sum of absolute values as length; it should be the root of the sum of "
        "squares.": dot / (a.abs().sum() * b.abs().sum()),
        "This is 1 minus the cosine, the cosine distance.": 1 - right,
        "The sign is lost. Vectors that point in opposite directions have a negative cosine.": (
            right.abs()
        ),
        "This is the angle; the similarity is its cosine.": right.acos(),
        "You subtracted the mean of each vector first: that is the correlation.": _cosine(
            a - a.mean(), b - b.mean()
        ),
    }


def _cosine_of_rows(answer: Callable) -> None:
    """Test many pairs at once, (N, C) with (N, C), and one vector with many."""
    a, b = draw(5, 4), draw(5, 4, seed=1)
    try:
        found = as_tensor(call(answer, a.clone(), b.clone()))
    except (RuntimeError, ValueError) as error:
        raise Wrong(f"Right for two vectors; with the rows of two matrices: {error}") from error
    dot = (a * b).sum(-1)
    name_mistake(
        found,
        {
            "Right for two vectors. With matrices you compared the columns: "
            "the channels are the last dimension, dim=-1.": F.cosine_similarity(a, b, dim=0),
            "Right for two vectors. With matrices you divided by the length of a whole matrix: "
            "each row has a length of its own, dim=-1.": dot / (a.norm() * b.norm()),
            "Right for two vectors. With matrices you averaged over the pairs: "
            "return one number for each pair.": _cosine(a, b).mean(),
            "Right for two vectors. With matrices everything went into one number: "
            "sum over the last dimension only.": (a * b).sum() / (a.norm() * b.norm()),
            "Right for two vectors. With matrices you compared every row with every row; "
            "compare row i with row i.": F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT,
        },
    )
    if found.shape != (5,):
        raise Wrong(
            f"Right for two vectors. With (5, 4) and (5, 4) the result has shape "
            f"{tuple(found.shape)}; expected one number for each pair, (5,)."
        )
    if not same(found, _cosine(a, b)):
        raise Wrong("Right for two vectors, wrong for the rows of two matrices: use dim=-1.")
    if not same(as_tensor(call(answer, a, b[0])), _cosine(a, b[0])):
        raise Wrong("Right for pairs of rows, wrong for the rows of a matrix with one vector.")


# --- 3 ---------------------------------------------------------------------------------------


@check
def check_analogy(answer: Callable) -> str:
    """Check ``analogy(a, b, c, words, vectors)``: the word nearest to b - a + c by cosine."""
    words, vectors = _small_world()
    man, king, woman = "man", "king", "woman"
    found = _word(answer, man, king, woman, words, vectors)
    for diagnosis, wrong in _analogy_mistakes().items():
        if found == wrong:
            raise Wrong(f"Your answer is {found!r}. {diagnosis}")
    if found != "queen":
        raise Wrong(f"man : king = woman : {found}? Expected the nearest to king - man + woman.")
    for question in (("man", "woman", "king"), ("woman", "queen", "man")):
        found = _word(answer, *question, words, vectors)
        if found in question:
            raise Wrong(f"The answer {found!r} is one of the three words of the question.")
        if found != _analogy(*question, words, vectors):
            a, b, c = question
            raise Wrong(f"Right for the first question, wrong for {a} : {b} = {c} : ?")
    target = _row("king", words, vectors) - _row("man", words, vectors)
    target = target + _row("woman", words, vectors)
    nearest = {w: float(_cosine(target, _row(w, words, vectors))) for w in ("king", "queen")}
    return (
        f"Your rule that the words of the question do not count decided it: here, too, king "
        f"({nearest['king']:.2f}) is nearer to the sum than queen ({nearest['queen']:.2f})."
    )


def _small_world() -> tuple[list[str], Tensor]:
    """Return words and vectors in which every usual mistake leads to a word of its own.

    The first three channels are person, gender and royalty. Each further channel belongs to one
    word and keeps it a chosen distance away from what a mistake computes.
    """
    person, gender, royal = torch.eye(3)
    man, woman = person - 0.3 * gender, person + 0.3 * gender
    king = man + 2 * royal
    target = king - man + woman
    places = {  # word: its first three channels, the size of its own channel, a factor
        "man": (man, 0, 1),
        "woman": (woman, 0, 1),
        "king": (king, 0, 1),
        "queen": (target, 0.8, 0.4),
        "empire": (target, 1.6, 2),
        "prince": (target, 1.0, 1),
        "duke": (king + man - woman, 0.1, 1),
        "serf": (man - king + woman, 0.1, 1),
        "crowd": (king + man + woman, 0.1, 1),
        "throne": (king - man, 0.1, 1),
        "rebel": (-target, 0.1, 1),
    }
    own = torch.eye(len(places))
    rows = [
        factor * torch.cat([place, size * own[number]])
        for number, (place, size, factor) in enumerate(places.values())
    ]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    names = list(places)
    return [names[number] for number in order], torch.stack(rows)[order]


def _analogy_mistakes() -> dict[str, str]:
    return {
        "The nearest word is one of the question's own. By convention a, b and c do not count: "
        "leave them out before you take the best.": "king",
        "It is one of the question's own words. Leave out all three, a, b and c.": "woman",
        "It is one of the three words of the question: leave out a, b and c.": "man",
        "It has the largest dot product, because its vector is long. Compare by cosine: divide "
        "by the length of each word's vector.": "empire",
        "It is nearest by distance. The exercise compares directions: by cosine.": "prince",
        "The signs of a and c are exchanged: it is b - a + c.": "duke",
        "The signs of a and b are exchanged: it is b - a + c.": "serf",
        "The word a must be subtracted, neither added nor left out: b - a + c.": "crowd",
        "It is nearest to b - a: you forgot to add c.": "throne",
        "It is the farthest word: take the largest cosine, not the smallest.": "rebel",
    }


def _row(word: str, words: Sequence[str], vectors: Tensor) -> Tensor:
    return vectors[words.index(word)]


def _analogy(a: str, b: str, c: str, words: Sequence[str], vectors: Tensor) -> str:
    target = _row(b, words, vectors) - _row(a, words, vectors) + _row(c, words, vectors)
    scores = _cosine(vectors, target)
    scores[[words.index(word) for word in (a, b, c)]] = -math.inf
    return words[int(scores.argmax())]


def _word(answer: Callable, a: str, b: str, c: str, words: list[str], vectors: Tensor) -> str:
    found = call(answer, a, b, c, list(words), vectors.clone())
    if isinstance(found, str):
        return found
    if isinstance(found, Tensor) and found.numel() == 1:
        found = found.item()
    if hasattr(found, "__index__"):
        raise Wrong(f"You returned the number {int(found)}; return the word: words[{int(found)}].")
    raise Wrong(f"Return one word, a str; your function returned a {type(found).__name__}.")


# --- 4 ---------------------------------------------------------------------------------------


@check
def check_keep_together(answer: Callable) -> str:
    """Check ``keep_wanted(words, vectors, unwanted)`` -> words and vectors that stay together."""
    sentence = "the bank by the river is not the bank in the city"
    words = sentence.split()
    unwanted = {"the", "by", "is", "not", "in"}
    # The whole part of every number names its place in the sentence.
    vectors = torch.arange(len(words))[:, None] + torch.arange(1, 4) / 10  # (T, 3)
    result = call(answer, list(words), vectors.clone(), set(unwanted))
    kept, rows = _two_parts(result, len(words))
    places = [place for place, word in enumerate(words) if word not in unwanted]
    expected = [words[place] for place in places]
    _kept_words(kept, words, unwanted, expected)
    n = len(places)
    name_mistake(
        rows,
        {
            "The words are filtered and the vectors are not: there are more rows than words, and "
            "row i no longer belongs to word i.": vectors,
            "The vectors are cut off from the front, vectors[:n]. There are as many rows as words, "
            f"so nothing complains, but {expected[0]!r} now has the vector of {words[0]!r}. "
            "Filter both with the same mask.": vectors[:n],
            "The vectors are cut off from the back. There are as many rows as words, but they "
            "belong to other words. Filter both with the same mask.": vectors[-n:],
            "A word that occurs twice got the vector of its first place both times: words.index() "
            "always finds the first. Filter by place, not by word.": (
                vectors[[words.index(word) for word in expected]]
            ),
            "The words are the wanted ones, but the vectors are those of the unwanted ones.": (
                vectors[[place for place in range(len(words)) if place not in places]]
            ),
        },
    )
    if len(rows) != n:
        raise Wrong(f"There are {n} words and {len(rows)} vectors: each word needs its own row.")
    if not same(rows, vectors[places]):
        for word, place, row in zip(expected, places, rows, strict=True):
            if not same(row, vectors[place]):
                raise Wrong(f"The row beside {word!r} is not the one of place {place}.")
    return (
        f"'bank' stands at the places {places[0]} and {places[2]}, and each kept its own vector. "
        "In a contextual model these two differ, so the place decides, not the word."
    )


def _two_parts(result: Any, n_words: int) -> tuple[list[str], Tensor]:
    """Return the two parts of the answer as a list of words and a matrix, or say what is wrong."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong("Return two things, the words and their vectors: `return words, vectors`.")
    kept, rows = result
    if isinstance(kept, Tensor) and not isinstance(rows, Tensor):
        raise Wrong("The two are exchanged: return the words first, then the vectors.")
    if isinstance(kept, set | frozenset):
        raise Wrong("The words are a set, which has no order and no repeats: return a list.")
    if isinstance(rows, list | tuple) and rows and isinstance(rows[0], Tensor):
        rows = torch.stack(list(rows))
    rows = torch.as_tensor(rows).detach().cpu().float()
    if rows.shape == (n_words,):
        raise Wrong("The second result is the mask itself; use it to pick rows: vectors[mask].")
    return [str(word) for word in kept], rows


def _kept_words(kept: list[str], words: list[str], unwanted: set[str], expected: list[str]) -> None:
    if kept == expected:
        return
    if kept == words:
        raise Wrong("The words were not filtered: leave out those in `unwanted`.")
    if kept == [word for word in words if word in unwanted]:
        raise Wrong("The mask is upside down: you kept the unwanted words.")
    if sorted(set(kept)) == sorted(set(expected)) and len(kept) < len(expected):
        raise Wrong("A word that occurs twice must be kept twice: each occurrence has a vector.")
    if sorted(kept) == sorted(expected):
        raise Wrong("The words are in another order than in the sentence; keep their order.")
    raise Wrong(f"The words should be {expected}; yours are {kept}.")
