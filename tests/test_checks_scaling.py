"""Planted answers for chapter 11's checks; test_checks.py runs them."""

import torch


def average(g, sizes):
    n = torch.tensor(sizes, dtype=g.dtype)
    return (g * n[:, None]).sum(0) / n.sum()


def stages(N, n, stage, weights=2, gradient=2, optimizer=12, shift=0):
    parts = (optimizer, gradient, weights)
    return sum(p * N / (n if stage + shift > k else 1) for k, p in enumerate(parts))


def best(A, a, B, b, C, per=6, power=None, root=None):
    power = b / (a + b) if power is None else power
    root = 1 / (a + b) if root is None else root
    return (a * A / (b * B)) ** root * (C / per) ** power


def ring(size, n):
    """Count what worker 0 sends, move by move."""
    sent = 0
    for _ in ("reduce-scatter", "all-gather"):
        for _ in range(n - 1):
            sent += size / n
    return sent


def by_search(A, a, B, b, C):
    N = torch.logspace(1, 12, 2_000_001, dtype=torch.float64)
    return N[(A / N**a + B / (C / 6 / N) ** b).argmin()].item()


RIGHT = {
    "check_average_gradients": [
        average,
        lambda g, s: torch.repeat_interleave(g, torch.tensor(s), dim=0).mean(0),
    ],
    "check_all_reduce_bytes": [ring, lambda size, n: 2 * size * (n - 1) / n],
    "check_bytes_per_gpu": [
        stages,
        lambda N, n, s: [16 * N, 4 * N + 12 * N / n, 2 * N + 14 * N / n, 16 * N / n][s],
    ],
    "check_best_size": [best, by_search],
}
MISTAKES = {
    "check_average_gradients": [
        (lambda g, s: g.sum(0), "added up"),
        (lambda g, s: (g * torch.tensor(s)[:, None]).sum(0), "sum to one"),
        (lambda g, s: g[0], "first worker"),
        (lambda g, s: g.mean(0), "single example"),
        (lambda g, s: average(g, [1 / n for n in s]), "count more, not less"),
        (
            lambda g, s: (g * torch.tensor(s)[:, None]).mean(0) / (4 if s[0] == 4 else 1),
            "number of",
        ),
        (lambda g, s: g.mean(1), "shape"),
        (lambda g, s: g.median(0).values, "differs"),
        (lambda g, s: average(g, [x + (x == 1) for x in s]), "differs"),
        (lambda g, s: None, "None"),
    ],
    "check_all_reduce_bytes": [
        (lambda size, n: size * (n - 1), "every other"),
        (lambda size, n: size * (n - 1) / n, "second round"),
        (lambda size, n: 2 * size, "endlessly"),
        (lambda size, n: size / n, "single move"),
        (lambda size, n: 2 * size / n, "moves in a round"),
        (lambda size, n: 2 * size * (n - 1), "all workers"),
        (lambda size, n: size, "you say"),
        (lambda size, n: ring(size, n) if n > 1 else 1.0, "alone"),
        (lambda size, n: None, "None"),
    ],
    "check_bytes_per_gpu": [
        (lambda N, n, s: stages(N, n, s, optimizer=8), "32-bit copy"),
        (lambda N, n, s: stages(N, n, s, gradient=0), "gradient is missing"),
        (lambda N, n, s: stages(N, n, s, optimizer=0), "optimizer is missing"),
        (lambda N, n, s: 16 * N / n, "each holds everything"),
        (lambda N, n, s: 16 * N / (n if s else 1), "only the optimizer's"),
        (lambda N, n, s: stages(N, n, s, shift=s > 0), "which is stage 2"),
        (lambda N, n, s: 16 * N, "not shared out"),
        (lambda N, n, s: 12 * N + 4 * N / n if s else 16 * N, "other way round"),
        (lambda N, n, s: stages(N, n, min(s, 1)), "gradient is shared out as well"),
        (lambda N, n, s: stages(N, n, s + (s > 1)), "which is stage 3"),
        (lambda N, n, s: stages(N, n, min(s, 2)), "weights are shared out as well"),
        (lambda N, n, s: stages(N, n, s if s < 3 else 0), "Stage 3 is like"),
        (lambda N, n, s: 20 * N, "you say"),
        (lambda N, n, s: None, "None"),
    ],
    "check_best_size": [
        (lambda A, a, B, b, C: C / 6 / best(A, a, B, b, C), "number of tokens"),
        (lambda A, a, B, b, C: best(A, a, B, b, C, per=1), "6 is missing"),
        (lambda A, a, B, b, C: best(A, a, B, b, C, power=a / (a + b)), "alpha on top"),
        (lambda A, a, B, b, C: best(B, b, A, a, C, power=b / (a + b)), "upside down"),
        (lambda A, a, B, b, C: (A / B) ** (1 / (a + b)) * (C / 6) ** (b / (a + b)), "derivative"),
        (lambda A, a, B, b, C: best(A, a, B, b, C, root=1), "root"),
        (lambda A, a, B, b, C: 1e6, "you say"),
        (lambda A, a, B, b, C: None, "None"),
    ],
}
