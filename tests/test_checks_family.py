"""Planted answers for chapter 9's checks; test_checks.py runs them."""

import torch
from sklearn.metrics import f1_score
from torch.nn import functional as F


def cut(x, s):
    B, H, W = x.shape
    return x.reshape(B, H // s, s, W // s, s)


def f1(y, p):
    tp = sum(a * b for a, b in zip(y, p, strict=True))
    return 2 * tp / (sum(y) + sum(p))


def dpo(c, r, rc, rr, b):
    return -F.logsigmoid(b * ((c - rc) - (r - rr)))


def spans(words, cuts, whole=True, close=True, own=True):
    inputs, targets, at = [], [], 0
    for i, (a, b) in enumerate(cuts):
        mark = f"<{i if own else 0}>"
        inputs += words[at:a] + [mark] * (1 if whole else b - a)
        targets += [mark, *words[a:b]]
        at = b
    return inputs + words[at:], targets + [f"<{len(cuts)}>"] * close


def spans_by_word(words, cuts):
    place = {i: k for k, (a, b) in enumerate(cuts) for i in range(a, b)}
    starts = {a: k for k, (a, _) in enumerate(cuts)}
    inputs, targets = [], []
    for i, word in enumerate(words):
        if i in starts:
            inputs.append(f"<{starts[i]}>")
            targets.append(f"<{starts[i]}>")
        (targets if i in place else inputs).append(word)
    return inputs, [*targets, f"<{len(cuts)}>"]


def mask(ids, vocab, mask_id, g, share=0.15, masked=0.8, kept=0.1):
    chosen = torch.rand(ids.shape, generator=g) < share
    dice = torch.rand(ids.shape, generator=g)
    other = torch.randint(0, vocab, ids.shape, generator=g)
    changed = torch.where(dice < masked, mask_id, torch.where(dice < 1 - kept, other, ids))
    return torch.where(chosen, changed, ids), torch.where(chosen, ids, -100)


def mask_by_order(ids, vocab, mask_id, g):
    order = torch.randperm(len(ids), generator=g)[: round(0.15 * len(ids))]
    a, b = round(0.8 * len(order)), round(0.9 * len(order))
    inputs, labels = ids.clone(), torch.full_like(ids, -100)
    labels[order] = ids[order]
    inputs[order[:a]] = mask_id
    inputs[order[a:b]] = torch.randint(0, vocab, (b - a,), generator=g)
    return inputs, labels


RIGHT = {
    "check_patchify": [
        lambda x, s: cut(x, s).permute(0, 1, 3, 2, 4).reshape(len(x), -1, s * s),
        lambda x, s: F.unfold(x[:, None], s, stride=s).transpose(1, 2),
    ],
    "check_f1": [f1, lambda y, p: f1_score(y, p, zero_division=0)],
    "check_dpo_loss": [dpo, lambda c, r, rc, rr, b: F.softplus(b * ((r - rr) - (c - rc)))],
    "check_span_corruption": [spans, spans_by_word],
    "check_mask_tokens": [mask, mask_by_order],
}
MISTAKES = {
    "check_patchify": [
        (lambda x, s: x.reshape(len(x), -1, s * s), "without moving axes"),
        (lambda x, s: cut(x, s).permute(0, 3, 1, 2, 4).reshape(len(x), -1, s * s), "columns"),
        (lambda x, s: cut(x, s).permute(0, 1, 3, 4, 2).reshape(len(x), -1, s * s), "transposed"),
        (lambda x, s: x, "shape"),
    ],
    "check_f1": [
        (lambda y, p: sum(a == b for a, b in zip(y, p, strict=True)) / len(y), "accuracy"),
        (lambda y, p: sum(a * b for a, b in zip(y, p, strict=True)) / sum(p), "precision"),
        (lambda y, p: sum(a * b for a, b in zip(y, p, strict=True)) / sum(y), "recall"),
        (lambda y, p: f1_score(y, p, pos_label=0), "class 0"),
    ],
    "check_dpo_loss": [
        (lambda *a: -dpo(*a), "sign"),
        (lambda c, r, rc, rr, b: dpo(r, c, rr, rc, b), "exchanged"),
        (lambda c, r, rc, rr, b: dpo(c, r, 0, 0, b), "reference"),
        (lambda c, r, rc, rr, b: dpo(c, r, rc, rr, 1), "beta"),
    ],
    "check_span_corruption": [
        (lambda w, c: spans(w, c, whole=False), "whole span"),
        (lambda w, c: spans(w, c, own=False), "its own sentinel"),
        (lambda w, c: spans(w, c, close=False), "closing sentinel"),
        (lambda w, c: (spans(w, c)[0], w), "BART"),
    ],
    "check_mask_tokens": [
        (lambda *a: mask(*a, masked=1.0), "All chosen"),
        (lambda *a: mask(*a, kept=0.0), "stay as they were"),
        (lambda *a: mask(*a, share=0.8), "15%"),
        (lambda *a: (mask(*a)[0], a[0]), "Every place"),
    ],
}
