"""Planted answers for the checks of chapter 10; test_checks.py runs them."""

from collections import Counter

import numpy as np
import torch

# --- windows -------------------------------------------------------------------------------------


def windows(n, size, stride):
    found, done = [], 1
    for start in range(0, n, stride):
        end = min(start + size, n)
        found.append((start, end, end - done))
        done = end
        if end == n:
            return found


def windows_by_marking(n, size, stride):
    scored, found, start = {0}, [], 0
    while max(scored) < n - 1:
        new = [place for place in range(start, min(start + size, n)) if place not in scored]
        found.append([start, new[-1] + 1, len(new)])
        scored |= set(new)
        start += stride
    return found


def all_starts(n, size, stride):
    done, found = 1, []
    for start in range(0, n, stride):
        end = min(start + size, n)
        found.append((start, end, end - done))
        done = end
    return found


def without_the_rest(n, size, stride):
    return [window for window in windows(n, size, stride) if window[1] - window[0] == size]


# --- precision -----------------------------------------------------------------------------------


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


# --- int8 ----------------------------------------------------------------------------------------


def int8(weight, steps=127, dim=1, largest=lambda w, dim: w.abs().amax(dim, keepdim=True)):
    scale = largest(weight, dim).clamp(min=1e-12) / steps
    return (weight / scale).round().clamp(-128, 127).to(torch.int8), scale


def int8_with_numpy(weight):
    w = weight.numpy()
    scale = np.abs(w).max(axis=1) / 127
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    return np.rint(w / scale[:, None]).astype(np.int8), scale


def cut_off(weight):
    scale = int8(weight)[1]
    return (weight / scale).to(torch.int8), scale


def without_a_guard(weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round().to(torch.int8), scale


# --- pruning -------------------------------------------------------------------------------------


def mask(weight, share, size=torch.abs):
    n = round(share * weight.numel())
    keep = torch.ones(weight.numel(), dtype=torch.bool)
    keep[size(weight).flatten().argsort()[:n]] = False
    return keep.view_as(weight)


def mask_by_threshold(weight, share):
    n = round(share * weight.numel())
    ordered = weight.abs().flatten().sort().values
    return weight.abs() >= ordered[n] if n < weight.numel() else torch.zeros_like(weight).bool()


def by_row(weight, share):
    return torch.stack([mask(row, int(share * len(row)) / len(row)) for row in weight])


# --- LoRA ----------------------------------------------------------------------------------------


def merge(weight, A, B, alpha):
    return weight + alpha / A.shape[0] * B @ A


def merge_by_einsum(W, A, B, alpha):
    return W + torch.einsum("or,ri->oi", B * (alpha / len(A)), A)


RIGHT = {
    "check_windows": [windows, windows_by_marking],
    "check_ngram_precision": [precision, precision_by_crossing_out],
    "check_quantize_int8": [int8, int8_with_numpy],
    "check_magnitude_mask": [mask, mask_by_threshold],
    "check_merge_lora": [merge, merge_by_einsum],
}

MISTAKES = {
    "check_windows": [
        (lambda n, s, d: [(0, min(s, n), min(s, n)), *windows(n, s, d)[1:]], "nothing before it"),
        (lambda n, s, d: [(a, b, b - a - 1) for a, b, _ in windows(n, s, d)], "scored again"),
        (lambda n, s, d: windows(n, s, s), "do not overlap"),
        (without_the_rest, "end of the text is missing"),
        (lambda n, s, d: [(a, b, d) for a, b, _ in windows(n, s, d)], "scores stride tokens"),
        (all_starts, "Stop when"),
        (lambda n, s, d: [(a, b) for a, b, _ in windows(n, s, d)], "tuple of three"),
        (lambda n, s, d: [(a, b, c + 1) for a, b, c in windows(n, s, d)], "each to be scored once"),
        (lambda n, s, d: [(0, n, n - 1)], "expected [("),
        (lambda n, s, d: None, "None"),
    ],
    "check_ngram_precision": [
        (lambda c, r, n: np.mean([g in grams(r, n) for g in grams(c, n)]), "clipping"),
        (lambda c, r, n: precision(r, c, n), "recall"),
        (
            lambda c, r, n: len(set(grams(c, n)) & set(grams(r, n))) / len(set(grams(c, n))),
            "compared sets",
        ),
        (lambda c, r, n: precision(c, r, n) * len(grams(c, n)) / len(c), "number of words"),
        (lambda c, r, n: precision(c, r, n) * len(grams(c, n)), "number of matches"),
        (lambda c, r, n: 100 * precision(c, r, n), "per cent"),
        (lambda c, r, n: precision(c, r, n + 1), "too long"),
        (lambda c, r, n: precision(c, r, n) ** 0.5, "expected"),
        (lambda c, r, n: precision(c, r, n) if len(c) >= n else 1.0, "return 0"),
        (lambda c, r, n: precision(c, r, n) * min(1, len(c) / 5), "One right word"),
        (lambda c, r, n: None, "None"),
    ],
    "check_quantize_int8": [
        (lambda w: (int8(w)[0].float(), int8(w)[1]), "torch.int8"),
        (lambda w: int8(w, largest=lambda w, _: w.abs().max()), "whole matrix"),
        (lambda w: int8(w, dim=0), "Each column"),
        (lambda w: int8(w, steps=128), "128"),
        (lambda w: int8(w, steps=255), "255"),
        (lambda w: (int8(w)[0], 1 / int8(w)[1]), "upside down"),
        (lambda w: int8(w, largest=lambda w, dim: w.amax(dim, keepdim=True)), "abs()"),
        (lambda w: int8(w, steps=100), "divided by 127"),
        (cut_off, "cut off"),
        (lambda w: (int8(w)[0] + 1, int8(w)[1]), "round(weight / scale)"),
        (without_a_guard, "row of zeros"),
        (lambda w: int8(w)[0], "two tensors"),
        (lambda w: int8(w.mul_(2)), "changed in place"),
        (lambda w: None, "None"),
    ],
    "check_magnitude_mask": [
        (lambda w, s: ~mask(w, s), "exchanged"),
        (lambda w, s: mask(w, s, size=lambda w: w), "most negative"),
        (lambda w, s: mask(w, s, size=lambda w: -w.abs()), "largest"),
        (lambda w, s: mask(w, 1 - s), "what goes"),
        (lambda w, s: w.abs() > s * w.abs().max(), "share of the largest weight"),
        (lambda w, s: w * mask(w, s), "return the mask"),
        (by_row, "Each row"),
        (lambda w, s: mask(w, s + 0.1), "You pruned 16 of 40"),
        (lambda w, s: mask(w, s, size=lambda w: (w - 0.5).abs()), "not the smallest"),
        (lambda w, s: mask(w, max(s, 0.1)), "share=0"),
        (lambda w, s: mask(w, min(s, 0.5)), "1,200"),
        (lambda w, s: mask(w, s).flatten(), "shape"),
        (lambda w, s: None, "None"),
    ],
    "check_merge_lora": [
        (lambda W, A, B, a: W + B @ A, "scale is missing"),
        (lambda W, A, B, a: W + a * B @ A, "multiplied by alpha"),
        (lambda W, A, B, a: a / len(A) * B @ A, "change alone"),
        (lambda W, A, B, a: W + a / A.shape[1] * B @ A, "wrong size"),
        (lambda W, A, B, a: W + a / B.shape[0] * B @ A, "not the output"),
        (lambda W, A, B, a: W - a / len(A) * B @ A, "subtracted"),
        (lambda W, A, B, a: a / len(A) * (W + B @ A), "scaled the weight"),
        (lambda W, A, B, a: W + len(A) / a * B @ A, "r / alpha"),
        (lambda W, A, B, a: W + (a / len(A) + 0.1) * B @ A, "differs"),
        (lambda W, A, B, a: W.add_(B @ A), "changed in place"),
        (
            lambda W, A, B, a: merge(W, A, B, a) if len(W) != len(A) else W + A @ B,
            "other way round",
        ),
        (lambda W, A, B, a: merge(W, A, B, a).T, "shape"),
        (lambda W, A, B, a: None, "None"),
    ],
}
