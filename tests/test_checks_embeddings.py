"""The checks of chapter 3: right answers pass, wrong ones are told why."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from course_checks import embeddings as checks

RIGHT, MISTAKES, PRAISE = {}, {}, {}  # run by test_checks.py

# --- embed ---------------------------------------------------------------------------------------


def embed_by_loops(ids, table):
    if ids.dim() > 1:
        return torch.stack([embed_by_loops(row, table) for row in ids])
    one_hot = torch.zeros(len(ids), len(table))
    for place, number in enumerate(ids):
        one_hot[place, number] = 1
    return one_hot @ table


RIGHT["check_embed"] = [
    lambda ids, table: F.one_hot(ids, len(table)).float() @ table,
    lambda ids, table: torch.eye(len(table))[ids] @ table,
    lambda ids, table: (ids[..., None] == torch.arange(len(table))).to(table) @ table,
    lambda i, t: F.embedding(i, t),
    embed_by_loops,
]
PRAISE["check_embed"] = ["rows 1, 3, 5", "came twice"]


def test_right_embed_in_numpy():
    def right(ids, table):
        return np.eye(len(table))[ids.numpy()] @ table.numpy()

    verdict = checks.check_embed(right)
    assert verdict.passed, verdict
    assert "rows 1, 3, 5" in verdict.message


MISTAKES["check_embed"] = [
    (lambda ids, table: F.one_hot(ids, len(table)), "one-hot vectors. Multiply"),
    (lambda ids, table: F.one_hot(ids, len(table)) @ table, "float()"),
    (lambda ids, table: F.one_hot(ids).float() @ table, "V long"),
    (lambda ids, table: table[: ids.numel()], "first rows"),
    (lambda ids, table: table[ids - 1], "too early"),
    (lambda ids, table: table[(ids + 1) % len(table)], "too late"),
    (lambda ids, table: table[ids.sort().values], "wrong order"),
    (lambda ids, table: table[ids.unique()], "twice"),
    (lambda ids, table: table[ids].sum(-2), "added up"),
    (lambda ids, table: table[ids].mean(-2), "averaged"),
    (lambda ids, table: table[ids].mT, "exchanged"),
    (lambda ids, table: table, "whole table"),
    (lambda ids, table: table[ids][..., :2], "shape"),
    (lambda ids, table: 2 * table[ids], "unchanged"),
    (lambda ids, table: table[ids.flatten()], "flattened"),
    (lambda ids, table: table[ids] if ids.dim() == 1 else table[ids[0]], "not for a batch"),
    (lambda ids, table: table[ids.float()], "stopped"),
    (lambda ids, table: None, "return"),
    (lambda ids, table: (ids, table), "tuple"),
]


# --- cosine similarity ---------------------------------------------------------------------------


def dot(a, b):
    return (a * b).sum(-1)


def length(a):
    return a.square().sum(-1).sqrt()


def cosine(a, b):
    return dot(a, b) / (length(a) * length(b))


def cosine_by_numpy(a, b):
    a, b = a.numpy(), b.numpy()
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


RIGHT["check_cosine_similarity"] = [
    cosine,
    cosine_by_numpy,
    lambda u, v: torch.einsum("...c,...c->...", u / length(u)[..., None], F.normalize(v, dim=-1)),
    lambda u, v: F.cosine_similarity(u, v, dim=-1),
]
PRAISE["check_cosine_similarity"] = ["-0.36"]


def only_vectors(a, b):
    return torch.dot(a, b) / (a.norm() * b.norm())


MISTAKES["check_cosine_similarity"] = [
    (lambda a, b: dot(a, b), "bare dot product"),
    (lambda a, b: dot(a, b) / length(a), "first vector only"),
    (lambda a, b: dot(a, b) / length(b), "second vector only"),
    (lambda a, b: (a * b).mean(-1), "mean over the channels"),
    (lambda a, b: (a * b).mean(-1) / (length(a) * length(b)), "where the sum belongs"),
    (lambda a, b: a * b / (a.norm() * b.norm()), "not added up"),
    (lambda a, b: dot(a, b) / (dot(a, a) * dot(b, b)), "squares of the lengths"),
    (lambda a, b: dot(a, b) / (length(a) * length(b)).sqrt(), "one square root"),
    (lambda a, b: dot(a, b) / (length(a) + length(b)), "sum of the lengths"),
    (lambda a, b: dot(a, b) / (a.abs().sum(-1) * b.abs().sum(-1)), "absolute values"),
    (lambda a, b: 1 - cosine(a, b), "distance"),
    (lambda a, b: cosine(a, b).abs(), "sign"),
    (lambda a, b: cosine(a, b).acos(), "angle"),
    (lambda a, b: cosine(a - a.mean(), b - b.mean()), "correlation"),
    (lambda a, b: cosine(a, b) / 2, "differs"),
    (lambda a, b: torch.stack([cosine(a, b)] * 2), "one number, not shape"),
    (lambda a, b: F.cosine_similarity(a, b, dim=0), "columns"),
    (lambda a, b: dot(a, b) / (a.norm() * b.norm()), "whole matrix"),
    (lambda a, b: cosine(a, b).mean(), "averaged over the pairs"),
    (lambda a, b: (a * b).sum() / (a.norm() * b.norm()), "into one number"),
    (lambda a, b: F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT, "every row with every"),
    (only_vectors, "rows of two matrices"),
    (lambda a, b: [1.0, 2.0, 3.0], "shape"),
    (lambda a, b: None, "return"),
]


# --- analogy -------------------------------------------------------------------------------------


def make(target=lambda a, b, c: b - a + c, score=cosine, leave_out=lambda a, b, c: (a, b, c)):
    """Return an analogy function, right unless a part of it is replaced."""

    def analogy(a, b, c, words, vectors):
        row = {word: vectors[place] for place, word in enumerate(words)}
        scores = score(vectors, target(row[a], row[b], row[c]))
        for word in leave_out(a, b, c):
            scores[words.index(word)] = -math.inf
        return words[int(scores.argmax())]

    return analogy


def analogy_by_loops(a, b, c, words, vectors):
    table = {word: np.array(vector) for word, vector in zip(words, vectors, strict=True)}
    goal = table[b] - table[a] + table[c]
    best, best_score = None, -2.0
    for word, vector in table.items():
        score = vector @ goal / np.linalg.norm(vector) / np.linalg.norm(goal)
        if word not in (a, b, c) and score > best_score:
            best, best_score = word, score
    return best


def analogy_as_gensim_does(a, b, c, words, vectors):
    return make()(a, b, c, words, F.normalize(vectors, dim=-1))


RIGHT["check_analogy"] = [make(), analogy_by_loops, analogy_as_gensim_does]
PRAISE["check_analogy"] = ["king (0.96)", "queen (0.94)"]


def position(a, b, c, words, vectors):
    return words.index(make()(a, b, c, words, vectors))


MISTAKES["check_analogy"] = [
    (make(leave_out=lambda a, b, c: ()), "do not count"),
    (make(leave_out=lambda a, b, c: (a, c)), "do not count"),
    (make(leave_out=lambda a, b, c: (b,)), "one of the three words"),
    (make(score=lambda v, t: v @ t), "dot product"),
    (make(score=lambda v, t: v @ t / t.norm()), "dot product"),
    (make(score=lambda v, t: -(v - t).norm(dim=-1)), "by distance"),
    (make(target=lambda a, b, c: b + a - c), "a and c are exchanged"),
    (make(target=lambda a, b, c: a - b + c), "a and b are exchanged"),
    (make(target=lambda a, b, c: a + b + c), "subtracted"),
    (make(target=lambda a, b, c: b + c), "subtracted"),
    (make(target=lambda a, b, c: b - a), "forgot to add c"),
    (make(score=lambda v, t: -cosine(v, t)), "farthest"),
    (position, "return the word"),
    (lambda a, b, c, words, vectors: torch.tensor(3), "return the word"),
    (lambda a, b, c, words, vectors: [("queen", 0.9)], "one word, a str"),
    (lambda a, b, c, words, vectors: "queen", "three words of the question"),
    (lambda a, b, c, words, vectors: "queen" if a != "woman" else "serf", "wrong for woman"),
    (lambda a, b, c, words, vectors: "princess", "Expected the nearest"),
    (lambda a, b, c, words, vectors: None, "return"),
]


# --- words and vectors ---------------------------------------------------------------------------


def keep_by_mask(words, vectors, unwanted):
    mask = torch.tensor([word not in unwanted for word in words])
    return [word for word in words if word not in unwanted], vectors[mask]


def keep_by_pairs(words, vectors, unwanted):
    pairs = [(w, v) for w, v in zip(words, vectors, strict=True) if w not in unwanted]
    kept, rows = zip(*pairs, strict=True)
    return kept, rows


def keep_in_numpy(words, vectors, unwanted):
    mask = ~np.isin(words, list(unwanted))
    return np.array(words)[mask], vectors.numpy()[mask]


RIGHT["check_keep_together"] = [keep_by_mask, keep_by_pairs, keep_in_numpy]
PRAISE["check_keep_together"] = ["places 1 and 8"]


def kept(words, unwanted):
    return [word for word in words if word not in unwanted]


MISTAKES["check_keep_together"] = [
    (lambda w, v, u: (kept(w, u), v[: len(kept(w, u))]), "from the front"),
    (lambda w, v, u: (kept(w, u), v[-len(kept(w, u)) :]), "from the back"),
    (lambda w, v, u: (kept(w, u), v), "vectors are not"),
    (lambda w, v, u: (w, keep_by_mask(w, v, u)[1]), "words were not filtered"),
    (lambda w, v, u: keep_by_mask(w, v, set(w) - u), "upside down"),
    (lambda w, v, u: (kept(w, u), keep_by_mask(w, v, set(w) - u)[1]), "unwanted ones"),
    (lambda w, v, u: (kept(w, u), v[[w.index(x) for x in kept(w, u)]]), "occurs twice"),
    (lambda w, v, u: (sorted(kept(w, u)), keep_by_mask(w, v, u)[1]), "another order"),
    (lambda w, v, u: (list(dict.fromkeys(kept(w, u))), v), "kept twice"),
    (lambda w, v, u: (set(kept(w, u)), v), "set"),
    (lambda w, v, u: keep_by_mask(w, v, u)[::-1], "exchanged"),
    (lambda w, v, u: kept(w, u), "two things"),
    (lambda w, v, u: (kept(w, u), torch.tensor([x not in u for x in w])), "mask itself"),
    (lambda w, v, u: (kept(w, u), keep_by_mask(w, v, u)[1].flip(0)), "not the one of place"),
    (lambda w, v, u: (kept(w, u), v[:3]), "its own row"),
    (lambda w, v, u: (["bank"], v), "should be"),
    (lambda w, v, u: None, "return"),
]
