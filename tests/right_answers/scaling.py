"""Chapter 11: matrix products, numpy, loops, logarithms, a search instead of the formula."""

import math

import numpy as np
import torch


def weighed_in_a_loop(gradients, sizes):
    total = torch.zeros_like(gradients[0])
    for row, n in zip(gradients, sizes, strict=True):
        total += n * row
    return total / sum(sizes)


def ring(size, n):
    """Count what worker 0 sends, move by move."""
    sent = 0
    for _ in ("reduce-scatter", "all-gather"):
        for _ in range(n - 1):
            sent += size / n
    return sent


def by_parts(n_parameters, n_gpus, stage):
    weights, gradient, optimizer = 2 * n_parameters, 2 * n_parameters, 12 * n_parameters
    if stage >= 1:
        optimizer /= n_gpus
    if stage >= 2:
        gradient /= n_gpus
    if stage == 3:
        weights /= n_gpus
    return weights + gradient + optimizer


def by_stage(n_parameters, n_gpus, stage):
    shared = np.cumsum([0, 12, 2, 2])[stage]
    return n_parameters * (16 - shared + shared / n_gpus)


def bytes_recursive(n_parameters, n_gpus, stage):
    if stage == 0:
        return 16 * n_parameters
    part = {1: 12, 2: 2, 3: 2}[stage] * n_parameters
    return bytes_recursive(n_parameters, n_gpus, stage - 1) - part * (n_gpus - 1) / n_gpus


def best_by_search(A, a, B, b, C):
    N = torch.logspace(0, 14, 1_000_001, dtype=torch.float64)
    return N[(A / N**a + B / (C / 6 / N) ** b).argmin()].item()


def best_by_logs(A, alpha, B, beta, compute):
    log_ratio = math.log(alpha) + math.log(A) - math.log(beta) - math.log(B)
    return math.exp((log_ratio + beta * math.log(compute / 6)) / (alpha + beta))


RIGHT = {
    "average_gradients": [
        weighed_in_a_loop,
        lambda g, s: torch.tensor(s, dtype=g.dtype) @ g / sum(s),
        lambda g, s: torch.repeat_interleave(g, torch.tensor(s), dim=0).mean(0),
        lambda gradients, sizes: np.average(gradients.numpy(), axis=0, weights=sizes),
    ],
    "all_reduce_bytes": [
        ring,
        lambda size, n: 2 * (size - size / n),
        lambda n_bytes, n_workers: 2 * (n_workers - 1) * (n_bytes // n_workers),
        lambda n_bytes, n_workers: torch.tensor(2.0 * n_bytes) * (1 - 1 / n_workers),
    ],
    "bytes_per_gpu": [
        by_parts,
        by_stage,
        bytes_recursive,
        lambda N, n, s: [16 * N, 4 * N + 12 * N / n, 2 * N + 14 * N / n, 16 * N / n][s],
    ],
    "best_size": [
        best_by_search,
        best_by_logs,
        lambda A, a, B, b, C: ((a * A / b / B) * (C / 6) ** b) ** (1 / (a + b)),
        lambda A, a, B, b, C: np.power(a * A / (b * B) * np.power(C / 6.0, b), 1 / (a + b)),
    ],
}
