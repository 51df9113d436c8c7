"""Checks for chapter 11: averaging over workers, memory on a GPU, all-reduce, the best size.

Each uses seeded inputs, tests one idea at a time, and compares a wrong answer with what the usual
mistakes would give, so that it can name the mistake.
"""

from collections.abc import Callable

import torch

from course_checks import Verdict, Wrong, check
from course_checks.answers import (
    as_number,
    call,
    call_for_tensor,
    draw,
    expect_shape,
    name_mistake,
    name_number,
    near,
    same,
)

__all__ = [
    "Verdict",
    "check_all_reduce_bytes",
    "check_average_gradients",
    "check_best_size",
    "check_bytes_per_gpu",
]


@check
def check_average_gradients(answer: Callable) -> str:
    """Check ``average_gradients(gradients, sizes)``: of the mean loss over all examples."""
    gradients, equal, sizes = draw(3, 5), [4, 4, 4], [6, 1, 3]
    n = torch.tensor(sizes) / 1.0
    found = call_for_tensor(answer, gradients, equal)
    expect_shape(found, (5,), "(P,), one number for each parameter")
    name_mistake(
        found,
        {
            "The gradients are added up, not averaged: three workers would take steps three times "
            "as long.": gradients.sum(0),
            "The sizes are divided by nothing: the weights of the workers must sum to one.": 4
            * gradients.sum(0),
            "That is the first worker's gradient: the others have worked for nothing.": gradients[
                0
            ],
        },
    )
    if not same(found, gradients.mean(0)):
        raise Wrong("For shares of equal size it is the plain mean; yours differs.")
    found = call_for_tensor(answer, gradients, sizes)
    name_mistake(
        found,
        {
            "For equal shares it is right. With shares of 6, 1 and 3 examples the plain mean gives "
            "the single example of the second worker as much weight as six others.": gradients.mean(
                0
            ),
            "You divide by the sizes: a large share must count more, not less.": (
                gradients / n[:, None]
            ).sum(0)
            / (1 / n).sum(),
            "You weigh by the size and divide by the number of workers; divide by the number of "
            "examples.": (gradients * n[:, None]).sum(0) / 3,
        },
    )
    if not same(found, (gradients * n[:, None]).sum(0) / n.sum()):
        raise Wrong("For shares of 6, 1 and 3 examples your average differs.")
    return "The workers together take the step that one worker would have taken with all examples."


@check
def check_all_reduce_bytes(answer: Callable) -> str:
    """Check ``all_reduce_bytes(n_bytes, n_workers)``: what each worker sends in a ring."""
    for size, n in ((1000, 4), (1200, 3), (840, 8)):
        found = as_number(call(answer, size, n), "bytes sent")
        name_number(
            found,
            {
                "That is what each would send if it gave its whole gradient to every other; in a "
                "ring it passes on pieces.": size * (n - 1),
                "That is one round of the ring, after which each worker has the sum of one piece "
                "only. A second round passes the sums on.": size * (n - 1) / n,
                "That is for endlessly many workers: with n of them, one piece of each round is "
                "at home already.": 2 * size,
                "That is what one worker sends to one neighbour in a single move; there are n - 1 "
                "moves in each of two rounds.": size / n,
                "There are n - 1 moves in a round, not n - 1 in both together, and not n.": 2
                * size
                / n,
                "That is what all workers send together; the question is what one sends.": 2
                * size
                * (n - 1),
            },
        )
        if not near(found, 2 * size * (n - 1) / n):
            raise Wrong(
                f"For {size} bytes and {n} workers each sends {2 * size * (n - 1) / n:g}; "
                f"you say {found:g}."
            )
    if not near(as_number(call(answer, 1000, 1), "bytes sent"), 0.0):
        raise Wrong("A worker alone has nobody to send anything to: 0 bytes.")
    return "It stays below twice the gradient, however many workers there are."


@check
def check_bytes_per_gpu(answer: Callable) -> str:
    """Check ``bytes_per_gpu(n_parameters, n_gpus, stage)``, stages 0 to 3 (arXiv 1910.02054)."""
    N, n = 1200, 5
    right = {0: 16 * N, 1: 4 * N + 12 * N / n, 2: 2 * N + 14 * N / n, 3: 16 * N / n}
    usual = {
        0: {
            "The 32-bit copy of the weights is missing: the optimizer keeps 12 bytes for each "
            "parameter.": 12 * N,
            "The gradient is missing, 2 bytes for each parameter.": 14 * N,
            "The optimizer is missing, 12 bytes for each parameter.": 4 * N,
            "You divided by the GPUs: at stage 0 each holds everything.": 16 * N / n,
        },
        1: {
            "At stage 1 only the optimizer's 12 bytes are shared out.": 16 * N / n,
            "That shares out the gradient as well, which is stage 2.": 2 * N + 14 * N / n,
            "Stage 1 is like stage 0 in your function: the optimizer is not shared out.": 16 * N,
            "You shared out weights and gradient and kept the optimizer whole: the other way "
            "round.": 12 * N + 4 * N / n,
        },
        2: {
            "At stage 2 the gradient is shared out as well as the optimizer.": 4 * N + 12 * N / n,
            "That shares out the weights too, which is stage 3.": 16 * N / n,
        },
        3: {
            "At stage 3 the weights are shared out as well.": 2 * N + 14 * N / n,
            "Stage 3 is like stage 0 in your function: nothing is shared out.": 16 * N,
        },
    }
    for stage, expected in right.items():
        found = as_number(call(answer, N, n, stage), "bytes")
        name_number(found, usual[stage])
        if not near(found, expected):
            raise Wrong(
                f"For {N} parameters, {n} GPUs and stage {stage} it is {expected:g} bytes; you say "
                f"{found:g}."
            )
    return "The optimizer is the largest part, which is why it is the first to be shared out."


@check
def check_best_size(answer: Callable) -> str:
    """Check ``best_size(A, alpha, B, beta, compute)``: the parameters N (arXiv 2203.15556)."""
    A, alpha, B, beta, compute = 400.0, 0.3, 900.0, 0.4, 6e12
    ratio, s = alpha * A / (beta * B), alpha + beta

    def best(ratio: float, power: float, budget: float) -> float:
        return ratio ** (1 / s) * budget**power

    right = best(ratio, beta / s, compute / 6)
    found = as_number(call(answer, A, alpha, B, beta, compute), "number of parameters")
    name_number(
        found,
        {
            "That is the number of tokens; the question is the number of parameters.": compute
            / 6
            / right,
            "The 6 is missing: a budget of C operations pays for N D = C / 6.": best(
                ratio, beta / s, compute
            ),
            "The power of the budget has alpha on top; for N it is beta / (alpha + beta).": best(
                ratio, alpha / s, compute / 6
            ),
            "The fraction is upside down: it is alpha A / (beta B).": best(
                1 / ratio, beta / s, compute / 6
            ),
            "alpha and beta are missing in front of A and B: they come from the derivative.": best(
                A / B, beta / s, compute / 6
            ),
            "Without the root: the fraction is taken to the power 1 / (alpha + beta).": ratio
            * (compute / 6) ** (beta / s),
        },
        tolerance=1e-3,
    )
    if not near(found, right, 1e-3):
        raise Wrong(
            f"For A=400, alpha=0.3, B=900, beta=0.4 and 6e12 operations it is {right:.4g} "
            f"parameters; you say {found:.4g}."
        )
    return "With more compute, both the model and the text should grow."
