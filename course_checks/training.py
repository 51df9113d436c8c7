"""Checks for chapter 8: a batch, the loss, perplexity, the learning rate, the parameter count.

Each tests one idea at a time on seeded inputs, and compares a wrong answer with what the usual
mistakes would give, so that it can name the mistake.
"""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from course_checks import Verdict, Wrong, check
from course_checks.answers import as_number, name_number, near
from course_utils.gpt import GPT, GPTConfig

__all__ = [
    "Verdict",
    "check_count_parameters",
    "check_cross_entropy",
    "check_learning_rate",
    "check_make_batch",
    "check_perplexity",
]


# --- 1 ---------------------------------------------------------------------------------------


@check
def check_make_batch(answer: Callable) -> str:
    """Check ``make_batch(ids, starts, block_size)`` -> ``x`` and ``y``, both ``(B, T)``."""
    ids, starts, T = torch.arange(100, 140), torch.tensor([3, 17, 33]), 4
    result = answer(ids.clone(), starts.clone(), T)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong("Return two tensors, x and y: `return x, y`.")
    x, y = (torch.stack(list(p)) if isinstance(p, list | tuple) else p for p in result)
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    for name, part in (("x", x), ("y", y)):
        if tuple(part.shape) != (3, T):
            raise Wrong(
                f"{name} has shape {tuple(part.shape)}; expected (B, T) = (3, {T}): one row for "
                "each start, block_size tokens long."
            )
    right_x = ids[starts[:, None] + torch.arange(T)]
    right_y = right_x + 1  # the ids of this check count upwards by one
    if torch.equal(x, right_y) and torch.equal(y, right_x):
        raise Wrong("x and y are swapped: x is what the model reads, y what follows.")
    if not torch.equal(x, right_x):
        raise Wrong(f"x is wrong: from start 3 it should hold ids[3:{3 + T}], the window itself.")
    for diagnosis, wrong in (
        (
            "y equals x: the model would be asked for the token that it is reading, and the loss "
            "would fall to zero for nothing. Shift y one place to the right.",
            right_x,
        ),
        ("y is shifted the wrong way: it holds the token before, not after.", right_x - 1),
        ("y is shifted by two places; the next token is one place on.", right_x + 2),
        (
            "The last column of y is wrong: `roll` brings the first token of the window round to "
            "the end. Take it from the corpus instead, ids[start + block_size].",
            right_x.roll(-1, dims=1),
        ),
    ):
        if torch.equal(y, wrong):
            raise Wrong(diagnosis)
    if not torch.equal(y, right_y):
        raise Wrong(f"y is wrong: from start 3 it should hold ids[4:{4 + T}].")
    return "A window of T tokens is T examples at once: one prediction at every position."


# --- 2 ---------------------------------------------------------------------------------------


@check
def check_cross_entropy(answer: Callable) -> str:
    """Check ``cross_entropy(logits, targets)`` for ``(N, V)`` and ``(N,)``, mean in nats."""
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(6, 5, generator=generator)
    targets = torch.tensor([0, 4, 2, 2, 1, 3])
    found = as_number(answer(logits.clone(), targets.clone()), "mean cross-entropy")
    right = F.cross_entropy(logits, targets).item()
    log_p = logits.log_softmax(-1)
    rows = torch.arange(6)
    over_batch = logits.log_softmax(0)[rows, targets]
    name_number(
        found,
        {
            "The sign is missing: log-probabilities are negative, and a loss is the negative of "
            "their mean.": -right,
            "This is the sum over the positions; the loss is their mean.": 6 * right,
            "This is in bits. torch and the course measure in nats: use the natural "
            "logarithm.": right / math.log(2),
            "The softmax runs over the positions; it belongs over the vocabulary, the last "
            "dimension (dim=-1).": -over_batch.mean().item(),
            "The mean was taken over the whole vocabulary. Pick the log-probability of the target "
            "at each position first.": -log_p.mean().item(),
            "The logits went in without a softmax: they are scores, not "
            "log-probabilities.": -logits[rows, targets].mean().item(),
            "The mean was taken before the logarithm. Take the logarithm at each position, then "
            "the mean.": -log_p[rows, targets].exp().mean().log().item(),
            "The logarithm is missing: this is the mean probability of the targets.": log_p[
                rows, targets
            ]
            .exp()
            .mean()
            .item(),
        },
    )
    if not near(found, right):
        raise Wrong(
            f"On 6 random positions the result is {found:.4f}; F.cross_entropy gives {right:.4f}."
        )
    huge = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    found = as_number(answer(huge, torch.tensor([0, 0])), "mean cross-entropy")
    if not near(found, 500.0):
        raise Wrong(
            f"Right for ordinary logits, but with a logit of 1000 it gives {found}: exp(1000) "
            "overflows or a probability rounds to 0. Use `log_softmax`, or subtract the largest "
            "logit first."
        )
    return "Only the probability of the token that came counts; how the rest is shared does not."


# --- 3 ---------------------------------------------------------------------------------------


@check
def check_perplexity(answer: Callable) -> str:
    """Check ``perplexity(probabilities)``, of the probabilities that the true tokens were given."""
    p = torch.tensor([0.5, 0.1, 0.9, 0.02])
    found = as_number(answer(p.clone()), "perplexity")
    nats = -p.log().mean().item()
    name_number(
        found,
        {
            "This is exp(-cross-entropy), a number below 1: the sign is wrong. The mean "
            "log-probability is negative already, and perplexity is exp of minus "
            "that mean.": math.exp(-nats),
            "This is the cross-entropy; perplexity is its exponential.": nats,
            "The exponential of base 2 belongs to bits, the natural one to nats: do not mix "
            "them.": 2**nats,
            "The exponential of base e belongs to nats; you gave it bits.": math.exp(
                nats / math.log(2)
            ),
            "This is the mean of 1/p. Perplexity is the geometric mean: take the mean of the "
            "logarithms.": (1 / p).mean().item(),
            "This is 1 over the mean probability. Perplexity is the geometric mean: take the mean "
            "of the logarithms.": 1 / p.mean().item(),
            "This is 1 over the probability of the whole text: take the mean of the logarithms, "
            "not the sum.": math.exp(4 * nats),
        },
    )
    if not near(found, math.exp(nats)):
        raise Wrong(f"For {p.tolist()} the result is {found:.4f}; expected {math.exp(nats):.4f}.")
    if not near(as_number(answer(torch.full((7,), 1 / 65)), "perplexity"), 65):
        raise Wrong("A model that gives each of 65 tokens 1/65 must have perplexity 65.")
    return "A uniform guess between V tokens has perplexity V, certainty has 1; nothing is below 1."


# --- 4 ---------------------------------------------------------------------------------------


@check
def check_learning_rate(answer: Callable) -> str:
    """Check ``learning_rate(step, steps, warmup_steps, peak)``, steps counted from 0."""
    steps, warmup, peak = 110, 10, 2e-3

    def rate(step: int) -> float:
        return as_number(answer(step, steps, warmup, peak), "learning rate of one step")

    if near(rate(0), 0):
        raise Wrong(
            "The first step has learning rate 0 and learns nothing. Steps count from 0: use "
            "(step + 1) / warmup_steps."
        )
    if near(rate(0), peak):
        raise Wrong("There is no warm-up: the first step already has the peak learning rate.")
    if not near(rate(4), peak / 2) or not near(rate(0), peak / warmup):
        raise Wrong(
            f"Warm-up: step 0 has {rate(0):.2e} and step 4 has {rate(4):.2e}; expected "
            f"{peak / warmup:.2e} and {peak / 2:.2e}, a straight line that reaches the peak at the "
            "last step of the warm-up."
        )
    if not near(rate(warmup), peak):
        whole = peak * 0.5 * (1 + math.cos(math.pi * warmup / steps))
        if near(rate(warmup), whole):
            raise Wrong(
                "The cosine counts from step 0, so the rate jumps where the warm-up ends. Count "
                "from there: (step - warmup_steps) / (steps - warmup_steps)."
            )
        raise Wrong(f"After the warm-up the rate is {rate(warmup):.2e}; expected the peak {peak}.")
    quarter, middle = rate(warmup + 25), rate(warmup + 50)
    if near(quarter, 0.75 * peak):
        raise Wrong("The decay is a straight line; here it should be half a cosine wave.")
    if middle < -1e-9 or near(quarter, peak * math.cos(math.pi / 4)):
        raise Wrong(
            "A bare cosine runs from 1 to -1: use 0.5 * (1 + cos(π · progress)), from 1 to 0."
        )
    if near(middle, 0):
        raise Wrong("The cosine runs a whole wave; from the peak to zero is half of one, π.")
    if not near(middle, peak / 2):
        raise Wrong(f"Half-way down the rate is {middle:.2e}; expected half the peak {peak / 2}.")
    if not near(quarter, peak * 0.5 * (1 + math.cos(math.pi / 4))):
        raise Wrong(f"A quarter of the way down the rate is {quarter:.2e}; is it a cosine?")
    if abs(rate(steps)) > 1e-9 * peak:
        raise Wrong(f"At the end the rate is {rate(steps):.2e}; it should reach 0.")
    return "The last steps are tiny on purpose: they average out the noise of single batches."


# --- 5 ---------------------------------------------------------------------------------------


@check
def check_count_parameters(answer: Callable) -> str:
    """Check ``count_parameters(n_layer, n_embd, block_size, vocab_size)`` of the course's GPT."""
    for n_layer, C, T, V in ((1, 12, 7, 11), (2, 12, 7, 11), (4, 128, 64, 65)):
        found = as_number(answer(n_layer, C, T, V), "number of parameters")
        config = GPTConfig(V, T, n_layer, 1, C)
        with torch.device("meta"):  # shapes only: no memory, no numbers
            right = GPT(config).num_parameters()
        biases, norms = n_layer * 9 * C, (2 * n_layer + 1) * 2 * C
        block = 12 * C * C + 13 * C
        name_number(
            found,
            {
                "The biases of the linear layers are missing: four of C in attention, 4C and C in "
                "the feed-forward network.": right - biases,
                "The norms are missing: each has C scales and C shifts, two in a block and one at "
                "the end.": right - norms,
                "Biases and norms are missing: every linear layer has a bias, every norm C scales "
                "and C shifts.": right - biases - norms,
                "The final norm is missing: 2C parameters before the head.": right - 2 * C,
                "The position embedding is missing: block_size rows of C.": right - T * C,
                "The head is missing (or counted as tied): it is a matrix of its own here, V by "
                "C.": right - V * C,
                "The head has no bias here: V too many.": right + V,
                "Only one block was counted; there are n_layer.": (
                    right - (n_layer - 1) * block if n_layer > 1 else math.nan
                ),
                "The output projection of attention is missing: query, key, value and one "
                "more.": right - n_layer * (C * C + C),
            },
            tolerance=0,  # a count is right to the last digit
        )
        if found != right:
            raise Wrong(
                f"For n_layer={n_layer}, n_embd={C}, block_size={T}, vocab_size={V} the result is "
                f"{found:,.0f}; the model has {right:,}. Compare part by part with the table above."
            )
    return "n_head is not among the arguments: heads split the channels and add no parameters."
