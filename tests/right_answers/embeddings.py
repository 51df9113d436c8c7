"""Chapter 3: loops, numpy, einsum, torch's own functions, masks, pairs."""

import numpy as np
import torch
from torch.nn import functional as F


def embed_in_loops(ids, table):
    if ids.dim() > 1:
        return torch.stack([embed_in_loops(row, table) for row in ids])
    one_hot = torch.zeros(len(ids), len(table))
    for place, number in enumerate(ids):
        one_hot[place, number] = 1
    return one_hot @ table


def cosine_numpy(a, b):
    a, b = a.numpy(), b.numpy()
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def analogy_in_loops(a, b, c, words, vectors):
    table = {word: np.array(vector) for word, vector in zip(words, vectors, strict=True)}
    goal = table[b] - table[a] + table[c]
    best, best_score = None, -2.0
    for word, vector in table.items():
        score = vector @ goal / np.linalg.norm(vector) / np.linalg.norm(goal)
        if word not in (a, b, c) and score > best_score:
            best, best_score = word, score
    return best


def analogy_sorted(a, b, c, words, vectors):
    row = {word: n for n, word in enumerate(words)}
    goal = vectors[row[b]] - vectors[row[a]] + vectors[row[c]]
    order = (vectors @ goal / vectors.norm(dim=1)).argsort(descending=True).tolist()
    return next(words[n] for n in order if words[n] not in {a, b, c})


def analogy_masked(a, b, c, words, vectors):
    at = words.index
    scores = F.cosine_similarity(vectors, vectors[at(b)] - vectors[at(a)] + vectors[at(c)], dim=-1)
    scores[[at(a), at(b), at(c)]] = -2
    return words[scores.argmax()]


def analogy_max(a, b, c, words, vectors):
    at = dict(zip(words, F.normalize(vectors).double(), strict=True))
    goal = np.array([-1, 1, 1]) @ vectors.double().numpy()[[words.index(w) for w in (a, b, c)]]
    return max(set(words) - {a, b, c}, key=lambda word: at[word].numpy() @ goal)


def keep_by_mask(words, vectors, unwanted):
    mask = torch.tensor([word not in unwanted for word in words])
    return [word for word in words if word not in unwanted], vectors[mask]


def keep_by_pairs(words, vectors, unwanted):
    pairs = [(w, v) for w, v in zip(words, vectors, strict=True) if w not in unwanted]
    return tuple(zip(*pairs, strict=True))


def keep_numpy(words, vectors, unwanted):
    mask = ~np.isin(words, list(unwanted))
    return np.array(words)[mask], vectors.numpy()[mask]


def keep_one_by_one(words, vectors, unwanted):
    kept, rows = [], []
    for place in range(len(words)):
        if words[place] not in unwanted:
            kept.append(words[place])
            rows.append(vectors[place].tolist())
    return [kept, rows]


RIGHT = {
    "embed": [
        embed_in_loops,
        lambda ids, table: (ids[..., None] == torch.arange(len(table))).to(table) @ table,
        lambda ids, table: np.eye(len(table))[ids.numpy()] @ table.numpy(),
        lambda i, t: torch.einsum("...v,vc->...c", F.one_hot(i, len(t)).double(), t.double()),
    ],
    "cosine_similarity": [
        cosine_numpy,
        lambda u, v: F.cosine_similarity(u, v, dim=-1),
        lambda u, v: (F.normalize(u, dim=-1) * F.normalize(v, dim=-1)).sum(-1),
        lambda u, v: torch.einsum("...c,...c->...", u, v) / (u * u).sum(-1).sqrt() / v.norm(2, -1),
    ],
    "analogy": [analogy_in_loops, analogy_sorted, analogy_masked, analogy_max],
    "keep_together": [keep_by_mask, keep_by_pairs, keep_numpy, keep_one_by_one],
}
