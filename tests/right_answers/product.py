"""Chapter 10: loops and sets, Counter and crossing out, numpy, sorting, outer products."""

from collections import Counter

import numpy as np
import torch


def windows_by_marking(n, size, stride):
    scored, found, start = {0}, [], 0
    while max(scored) < n - 1:
        new = [place for place in range(start, min(start + size, n)) if place not in scored]
        found.append([start, new[-1] + 1, len(new)])
        scored |= set(new)
        start += stride
    return found


def windows_by_count(n, size, stride):
    ends = [min(size + k * stride, n) for k in range(1 + max(0, -(-(n - size) // stride)))]
    before = [1, *ends[:-1]]
    return [(k * stride, end, end - before[k]) for k, end in enumerate(ends)]


def windows_in_lists(n, size, stride):
    starts = range(0, max(n - size, 0) + stride, stride)
    return [
        [k, min(k + size, n), min(k + size, n) - (k + size - stride if k else 1)] for k in starts
    ]


def windows_recursive(n, size, stride, start=0, done=1):
    end = min(start + size, n)
    rest = windows_recursive(n, size, stride, start + stride, end) if end < n else []
    return [(start, end, end - done), *rest]


def grams(words, n):
    return [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]


def precision(candidate, reference, n):
    mine, theirs = Counter(grams(candidate, n)), Counter(grams(reference, n))
    return sum((mine & theirs).values()) / max(1, sum(mine.values()))


def precision_by_crossing_out(candidate, reference, n):
    left, hits = grams(reference, n), 0
    for gram in grams(candidate, n):
        if gram in left:
            left.remove(gram)
            hits += 1
    return hits / len(grams(candidate, n)) if len(candidate) >= n else 0


def precision_zip(candidate, reference, n):
    mine = list(zip(*(candidate[k:] for k in range(n)), strict=False))
    theirs = list(zip(*(reference[k:] for k in range(n)), strict=False))
    if not mine:
        return 0
    return np.sum([min(mine.count(gram), theirs.count(gram)) for gram in set(mine)]) / len(mine)


def int8(weight):
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
    return (weight / scale).round().to(torch.int8), scale


def int8_numpy(weight):
    w = weight.numpy()
    scale = np.abs(w).max(axis=1, keepdims=True) / 127
    scale = np.where(scale == 0, 1, scale)
    return np.rint(w / scale).astype(np.int8), scale


def int8_where(weight):
    largest = weight.abs().max(dim=1).values
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))[:, None]
    return torch.round(weight / scale).clamp(-127, 127).char(), scale


def mask_by_argsort(weight, share):
    keep = torch.ones(weight.numel(), dtype=torch.bool)
    keep[weight.abs().flatten().argsort()[: round(share * weight.numel())]] = False
    return keep.view_as(weight)


def mask_by_limit(weight, share):
    n = round(share * weight.numel())
    ordered = weight.abs().flatten().sort().values
    return weight.abs() >= ordered[n] if n < weight.numel() else torch.zeros_like(weight).bool()


def mask_in_lists(weight, share):
    sizes = [(abs(x), i, j) for i, row in enumerate(weight.tolist()) for j, x in enumerate(row)]
    gone = {place[1:] for place in sorted(sizes)[: round(share * len(sizes))]}
    return [[(i, j) not in gone for j in range(weight.shape[1])] for i in range(len(weight))]


def merge_by_outer(weight, A, B, alpha):
    merged = weight.clone()
    for row, column in zip(A, B.T, strict=True):
        merged += alpha / len(A) * torch.outer(column, row)
    return merged


RIGHT = {
    "windows": [windows_by_marking, windows_by_count, windows_recursive, windows_in_lists],
    "ngram_precision": [
        precision,
        precision_by_crossing_out,
        precision_zip,
        lambda c, r, n: torch.tensor(precision(c, r, n)),
    ],
    "quantize_int8": [int8, int8_numpy, lambda w: list(int8(w.double())), int8_where],
    "magnitude_mask": [
        mask_by_argsort,
        mask_by_limit,
        mask_in_lists,
        lambda w, share: mask_by_argsort(w.double(), share).numpy(),
    ],
    "merge_lora": [
        merge_by_outer,
        lambda weight, A, B, alpha: weight + alpha / A.shape[0] * B @ A,
        lambda W, A, B, a: W + torch.einsum("or,ri->oi", B * (a / len(A)), A),
        lambda W, A, B, a: torch.addmm(W.double(), B.double(), A.double(), alpha=a / B.shape[1]),
    ],
}
