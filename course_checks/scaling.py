"""Exercises of chapter 11: averaging over workers, all-reduce, memory on a GPU, the best size."""

import torch
from torch import Tensor

from course_checks.answers import draw
from course_checks.exercises import Exercise, Way

# --- 1 ---------------------------------------------------------------------------------------


def _mean(weights: Way = lambda n: n / n.sum(), total: Way = lambda weighed: weighed.sum(0)) -> Way:
    def average_gradients(gradients: Tensor, sizes: list[int]) -> Tensor:
        return total(gradients * weights(torch.tensor(sizes, dtype=gradients.dtype))[:, None])

    return average_gradients


check_average_gradients = Exercise(
    name="average_gradients",
    task="The gradient over all examples, from those of shares of any size.",
    right=_mean(),
    inputs=lambda seed: [
        (draw(len(sizes), P, seed=seed + P).round(decimals=2), sizes)
        for P, *sizes in ((3, 6, 2), (2, 5, 1, 3), (3, 7, 2, 4), (6, 3, 8, 1, 2))
    ],
    shape="(P,)",
    mistakes={
        "The plain mean: a share of 1 counts as much as one of 6.": lambda g, n: g.mean(0),
        "A sum: weight by the sizes, divide by all examples.": lambda g, n: g.sum(0),
        "Multiply each gradient by its size before you divide.": lambda g, n: g.sum(0) / sum(n),
        "Weighted by the sizes, but not divided by the number of all examples.": _mean(lambda n: n),
        "You divided by the number of workers, not of all examples.": _mean(lambda n: n / len(n)),
        "You divided by the largest share, not by all examples.": _mean(lambda n: n / n.max()),
        "The weights are size / all examples, not a softmax.": _mean(lambda n: n.softmax(0)),
        "You divided by the sizes: a large share must count more.": _mean(lambda n: 1 / n),
        "A large share must count more.": _mean(lambda n: 1 / n / (1 / n).sum()),
        "`//` cuts off: write `/`.": lambda g, n: (g * torch.tensor(n)[:, None] // sum(n)).sum(0),
        "Only one worker's gradient counts.": (lambda g, n: g[0], lambda g, n: g[n.index(max(n))]),
        "The sizes were multiplied along the parameters; sizes[:, None] has a row for each "
        "worker.": lambda g, n: (g * torch.tensor(n)).sum(0) / sum(n),
        "The sum over the workers is missing.": _mean(total=lambda g: g),
        "Sum over the workers, dim=0.": (_mean(total=torch.sum), _mean(total=lambda g: g.sum(1))),
    },
    notice="The workers together take the step that one would have taken with all examples.",
)

# --- 2 ---------------------------------------------------------------------------------------


check_all_reduce_bytes = Exercise(
    name="all_reduce_bytes",
    task="What one worker sends in a ring: two rounds of n - 1 moves, a piece of 1/n each.",
    right=lambda n_bytes, n_workers: 2 * (n_workers - 1) * n_bytes / n_workers,
    inputs=lambda seed: [(n * (60 + 7 * n + seed % 999), n) for n in (4, 3, 5, 2, 8, 1)],
    mistakes={
        "That is one round, after which each worker has the sum of one piece only. A second round "
        "passes the sums on.": lambda b, n: (n - 1) * b / n,
        "There are n - 1 moves in a round, not n: no one sends its own piece.": lambda b, n: 2 * b,
        "A round has n - 1 moves, not n - 2.": lambda b, n: 2 * (n - 2) * b / n if n > 1 else 0,
        "A round has n - 1 moves, not n + 1.": lambda b, n: 2 * (n + 1) * b / n,
        "That is one move in each round; there are n - 1.": lambda b, n: 2 * b / n,
        "That is one move; there are n - 1 in each of two rounds.": lambda b, n: b / n,
        "One move carries a piece, n_bytes / n, not everything.": lambda b, n: 2 * (n - 1) * b,
        "That is the whole gradient to each other worker; in a ring, pieces go round, and they do "
        "it twice.": lambda b, n: (n - 1) * b,
        "That is the whole gradient, in n moves of each round.": lambda b, n: 2 * n * b,
        "That is the gradient sent once.": lambda b, n: b,
        "The fraction is upside down: (n - 1) / n.": lambda b, n: 2 * b * n / (n - 1),
        "What is sent and what is received were both counted.": lambda b, n: 4 * (n - 1) * b / n,
        "There are n pieces, not n - 1.": lambda b, n: 2 * b / (n - 1),
        "These are the moves; each carries n_bytes / n.": lambda b, n: 2 * (n - 1),
    },
    notice="It stays below twice the gradient, however many workers there are.",
)

# --- 3 ---------------------------------------------------------------------------------------


def _kept(*starts: int, sizes: tuple = (12, 2, 2), left: Way = lambda n: 1 / n) -> Way:
    """Return an answer that shares out optimizer, gradient and weights from these stages on."""
    parts = list(zip(sizes, starts or (1, 2, 3), strict=True))
    return lambda n_parameters, n_gpus, stage: (
        n_parameters * sum(size * (left(n_gpus) if stage >= start else 1) for size, start in parts)
    )


check_bytes_per_gpu = Exercise(
    name="bytes_per_gpu",
    task="16 bytes per parameter, of which the stages share out 12, 14 and 16 among the GPUs.",
    right=_kept(),
    inputs=lambda seed: [(1200 + 60 * (seed % 99), 4 + k, k) for k in (0, 1, 2, 3)],
    mistakes={
        "The optimizer has 12 bytes: 3 x 4.": tuple(_kept(sizes=(n, 2, 2)) for n in (0, 4, 8)),
        "The gradient has 2 bytes per weight.": tuple(_kept(sizes=(12, n, 2)) for n in (0, 4)),
        "The weights have 2 bytes each.": tuple(_kept(sizes=(12, 2, n)) for n in (0, 4)),
        "stage is not used: everything is always shared out.": _kept(0, 0, 0),
        "stage is not used: nothing is ever shared out.": _kept(9, 9, 9),
        "At stage 1 only the optimizer is shared out, at stage 2 the gradient too.": _kept(1, 1, 1),
        "A stage shares out what the stages before it do, and one part more; yours shares out one "
        "part.": lambda N, n, s: N * (16 + (1 / n - 1) * (0, 12, 2, 2)[s]),
        "Each part is shared out one stage too late.": _kept(2, 3, 4),
        "The order is optimizer, gradient, weights, not the other way round.": _kept(3, 2, 1),
        "At stage 3 the weights are shared out as well.": _kept(1, 2, 4),
        "What is shared out does not vanish: 1 / n of it stays.": _kept(left=lambda n: 0),
        "A GPU also keeps what is not shared out.": lambda N, n, s: N * (0, 12, 14, 16)[s] / n,
        "That is for all GPUs together.": lambda N, n, stage: n * _kept()(N, n, stage),
    },
    notice="The optimizer is the largest part, which is why it is the first to be shared out.",
)

# --- 4 ---------------------------------------------------------------------------------------


def _best(
    top: Way = lambda A, a, B, b: a * A / (b * B),
    root: Way = lambda a, b: 1 / (a + b),
    power: Way = lambda a, b: b / (a + b),
    per: float = 6,
) -> Way:
    return lambda A, alpha, B, beta, compute: (
        top(A, alpha, B, beta) ** root(alpha, beta) * (compute / per) ** power(alpha, beta)
    )


_LAWS = ((400, 0.3, 900, 0.4, 6e12), (300, 0.5, 200, 0.25, 3e15), (2, 0.4, 1, 0.6, 6e4))
check_best_size = Exercise(
    name="best_size",
    task="(alpha A / (beta B)) ** (1 / (alpha + beta)) * (C / 6) ** (beta / (alpha + beta)).",
    right=_best(),
    inputs=lambda seed: [(*law, compute * (1 + seed % 99)) for *law, compute in _LAWS],
    tolerance=1e-3,
    mistakes={
        "That is the number of tokens.": lambda A, a, B, b, C: C / 6 / _best()(A, a, B, b, C),
        "The 6 is missing: a budget of C operations pays for N D = C / 6.": _best(per=1),
        "The 6 divides the budget; you multiplied.": _best(per=1 / 6),
        "alpha and beta are missing in front of A and B.": _best(lambda A, a, B, b: A / B),
        "The fraction is upside down.": _best(lambda A, a, B, b: b * B / (a * A)),
        "Brackets: `a * A / b * B` divides by b only.": _best(lambda A, a, B, b: a * A / b * B),
        "The first factor is missing, or not multiplied.": _best(root=lambda a, b: 0),
        "The root of the fraction is missing: ** (1 / (alpha + beta)).": _best(root=lambda a, b: 1),
        "Brackets: 1 / (alpha + beta), not 1 / alpha + beta.": _best(root=lambda a, b: 1 / a + b),
        "The root is 1 / (alpha + beta), with a sum.": _best(root=lambda a, b: 1 / (a * b)),
        "For N the power of the budget has beta on top.": _best(power=lambda a, b: a / (a + b)),
        "Brackets: beta / (alpha + beta).": _best(power=lambda a, b: b / a + b),
        "The power has beta on top, not 1.": _best(power=lambda a, b: 1 / (a + b)),
        "Brackets: ** (beta / …).": lambda *c: _best(power=lambda a, b: b)(*c) / (c[1] + c[3]),
        "That is the root of C / 6, as if both powers were ½.": lambda *call: (call[4] / 6) ** 0.5,
    },
    notice="With more compute, both the model and the text should grow.",
)
