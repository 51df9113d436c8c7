"""Checks for the homework on training and sweeps: the optimizer, and how to read its curves."""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from course_checks import Verdict, Wrong, check
from course_checks.answers import (
    as_number,
    as_tensor,
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
    "check_adamw_step",
    "check_clear_winner",
    "check_corpus_perplexity",
    "check_mean_gradient",
    "check_steps_to_reach",
    "check_stopping_step",
]

# --- AdamW -----------------------------------------------------------------------------------

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def _adamw_step(answer: Callable, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    result = call(answer, *arguments)
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise Wrong("Return three tensors, the new weight, m and v: `return weight, m, v`.")
    weight, m, v = (as_tensor(part) for part in result)
    for name, part in (("weight", weight), ("m", m), ("v", v)):
        expect_shape(part, tuple(arguments[0].shape), f"that of the weight, for {name},")
    return weight, m, v


@check
def check_adamw_step(answer: Callable) -> str:
    """Check ``adamw_step(weight, grad, m, v, step, lr, weight_decay)`` -> ``weight, m, v``.

    ``step`` counts from 1; beta1 = 0.9, beta2 = 0.999, eps = 1e-8.
    """
    weight, grad = draw(4, 3), draw(4, 3, seed=1)
    m, v = draw(4, 3, seed=2), draw(4, 3, seed=3).square()
    _, new_m, new_v = _adamw_step(answer, weight, grad, m, v, 3, 0.01, 0.0)
    _name_averages(new_m, new_v, grad, m, v)
    _name_first_step(answer, weight, grad)
    _name_later_step(answer, weight, grad, m, v)
    _name_decay(answer, weight, grad)
    _follow_torch(answer)
    return "At step 1 each weight moves by lr, however large or small its gradient is."


def _name_averages(new_m: Tensor, new_v: Tensor, grad: Tensor, m: Tensor, v: Tensor) -> None:
    name_mistake(
        new_m,
        {
            "m: the two shares are exchanged. The old average keeps 0.9, the new gradient gets "
            "0.1.": (1 - BETA1) * m + BETA1 * grad,
            "m: the new gradient gets the share 1 - 0.9, not all of itself.": BETA1 * m + grad,
            "You return m after its correction. Return the plain average; the correction belongs "
            "to the step alone, or it would be applied again and again.": (
                BETA1 * m + (1 - BETA1) * grad
            )
            / (1 - BETA1**3),
        },
    )
    if not same(new_m, BETA1 * m + (1 - BETA1) * grad):
        raise Wrong("m is wrong; it should be 0.9 · m + 0.1 · grad.")
    square = BETA2 * v + (1 - BETA2) * grad**2
    name_mistake(
        new_v,
        {
            "v averages the gradient; it should average the gradient's square.": BETA2 * v
            + (1 - BETA2) * grad,
            "v forgets with beta1; it has its own, slower beta2 = 0.999.": BETA1 * v
            + (1 - BETA1) * grad**2,
            "You return v after its correction. Return the plain average.": square / (1 - BETA2**3),
            "You return the root of v. Return v; the root belongs to the step.": square.sqrt(),
        },
    )
    if not same(new_v, square):
        raise Wrong("v is wrong; it should be 0.999 · v + 0.001 · grad².")


def _name_first_step(answer: Callable, weight: Tensor, grad: Tensor) -> None:
    zeros, lr = torch.zeros_like(weight), 0.01
    found, _, _ = _adamw_step(answer, weight, grad, zeros, zeros, 1, lr, 0.0)
    m, v = (1 - BETA1) * grad, (1 - BETA2) * grad**2
    m_hat, v_hat = grad, grad**2
    name_mistake(
        found,
        {
            "The weight went up the gradient: subtract the step.": weight + lr * grad.sign(),
            "m and v start at zero and are too small at first. Divide them by 1 - beta**step "
            "before the step.": weight - lr * m / (v.sqrt() + EPS),
            "v is not corrected: divide it by 1 - beta2**step.": weight
            - lr * m_hat / (v.sqrt() + EPS),
            "m is not corrected: divide it by 1 - beta1**step.": weight
            - lr * m / (v_hat.sqrt() + EPS),
            "The root of v is missing.": weight - lr * m_hat / (v_hat + EPS),
            "That is a plain step down the gradient, with nothing divided by √v.": weight
            - lr * grad,
        },
        atol=1e-6,
    )
    if not same(found, weight - lr * grad.sign(), atol=1e-6):
        raise Wrong(
            "At step 1, from m = v = 0 and without weight decay, every weight should move by lr "
            "against the sign of its gradient. Yours do not."
        )
    tiny = torch.full_like(weight, 1e-8)
    found, _, _ = _adamw_step(answer, zeros, tiny, zeros, zeros, 1, lr, 0.0)
    if same(found, zeros - lr * 1e-8 / math.sqrt(1e-16 + EPS), atol=1e-7):
        raise Wrong("eps stands under the root. Add it after the root, to √v.")
    if not same(found, zeros - lr / 2, atol=1e-5):
        raise Wrong(
            "With a gradient as small as eps the step should be lr / 2. Is it m / (√v + eps)?"
        )


def _name_later_step(answer: Callable, weight: Tensor, grad: Tensor, m: Tensor, v: Tensor) -> None:
    found, new_m, new_v = _adamw_step(answer, weight, grad, m, v, 5, 0.1, 0.0)

    def moved(power: int) -> Tensor:
        m_hat, v_hat = new_m / (1 - BETA1**power), new_v / (1 - BETA2**power)
        return weight - 0.1 * m_hat / (v_hat.sqrt() + EPS)

    name_mistake(
        found,
        {
            "The correction forgets the step: it is 1 - beta**step, the power.": moved(1),
            "The correction is one step ahead: steps count from 1 already.": moved(6),
            "The correction is one step behind: steps count from 1.": moved(4),
        },
        atol=1e-6,
    )
    if not same(found, moved(5), atol=1e-6):
        raise Wrong("Right at step 1, wrong at step 5: are m and v corrected by 1 - beta**step?")


def _name_decay(answer: Callable, weight: Tensor, grad: Tensor) -> None:
    zeros, lr, decay = torch.zeros_like(weight), 0.01, 0.5
    found, found_m, _ = _adamw_step(answer, weight, zeros, zeros, zeros, 1, lr, decay)
    name_mistake(
        found,
        {
            "weight_decay changed nothing.": weight,
            "The decay is not multiplied by lr: the weight shrinks to 1 - lr · weight_decay of "
            "itself.": weight * (1 - decay),
            "The weights grow: decay is subtracted.": weight * (1 + lr * decay),
        },
        atol=1e-6,
    )
    if found_m.any():
        raise Wrong(
            "The decay went into the gradient and so into m: that is Adam with L2, where √v "
            "divides the decay away. In AdamW it acts on the weight, outside of m and v."
        )
    if not same(found, weight * (1 - lr * decay), atol=1e-6):
        raise Wrong("With a gradient of 0 the weight should become weight · (1 - lr · decay).")


def _follow_torch(answer: Callable) -> None:
    weight, generator = draw(5, 2, seed=6), torch.Generator().manual_seed(7)
    parameter = torch.nn.Parameter(weight.clone())
    options = {"lr": 0.02, "betas": (BETA1, BETA2), "eps": EPS, "weight_decay": 0.1}
    theirs = torch.optim.AdamW([parameter], **options)
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 6):
        grad = torch.randn(5, 2, generator=generator)
        parameter.grad = grad.clone()
        theirs.step()
        weight, m, v = _adamw_step(answer, weight, grad, m, v, step, 0.02, 0.1)
    if not same(weight, parameter.detach(), atol=1e-5):
        raise Wrong(
            "Each part is right alone, but after five steps the weights differ from those of "
            "torch.optim.AdamW. Does the decay use the weight from before the step?"
        )


# --- accumulation ----------------------------------------------------------------------------


@check
def check_mean_gradient(answer: Callable) -> str:
    """Check ``mean_gradient(gradients, sizes)``: that of the mean loss over all examples."""
    sizes = [6, 1, 3]
    gradients = [draw(4, seed=seed) for seed in range(3)]
    given = [gradient.clone() for gradient in gradients]
    found = call_for_tensor(answer, given, sizes)
    if any(not torch.equal(a, b) for a, b in zip(given, gradients, strict=True)):
        raise Wrong(
            "The gradients that came in were changed. Start from zeros and make a new sum: "
            "`total = total + …`."
        )
    weighed = [n * g for g, n in zip(gradients, sizes, strict=True)]
    right = torch.stack(weighed).sum(0) / 10
    expect_shape(found, (4,), "that of one gradient,")
    name_mistake(
        found,
        {
            "This is the plain mean: the batch of one example counts as much as that of six. "
            "Weigh each gradient with its size.": torch.stack(gradients).mean(0),
            "This is the sum of the gradients, several times too long: the loss is a mean.": (
                torch.stack(gradients).sum(0)
            ),
            "The sum is weighed, but not divided by the number of all examples.": right * 10,
            "You divided by the number of batches, not by the number of examples.": right * 10 / 3,
            "You divided by the sizes. A gradient of more examples counts for more.": torch.stack(
                [g / n for g, n in zip(gradients, sizes, strict=True)]
            ).sum(0),
            "This is the last gradient alone: the earlier ones were overwritten.": gradients[-1],
        },
    )
    if not same(found, right):
        raise Wrong("On three random gradients of 6, 1 and 3 examples the result is wrong.")
    _against_autograd(answer)
    return "It is exactly the gradient of one large batch, in the memory of a small one."


def _against_autograd(answer: Callable) -> None:
    x, y = draw(9, 2, seed=4), draw(9, seed=5)
    weight = torch.zeros(2, requires_grad=True)

    def gradient(rows: slice) -> Tensor:
        return torch.autograd.grad((x[rows] @ weight - y[rows]).square().mean(), weight)[0]

    parts = [slice(0, 4), slice(4, 9)]
    found = call_for_tensor(answer, [gradient(part) for part in parts], [4, 5])
    if not same(found, gradient(slice(0, 9))):
        raise Wrong("For a small regression the result differs from the whole batch's gradient.")


# --- perplexity of a corpus ------------------------------------------------------------------


@check
def check_corpus_perplexity(answer: Callable) -> str:
    """Check ``corpus_perplexity(losses, sizes)`` of batches' mean losses and token counts."""
    losses, sizes = [2.0, 1.5, 3.5], [64, 64, 8]
    total = sum(loss * n for loss, n in zip(losses, sizes, strict=True))
    mean = total / sum(sizes)
    found = as_number(call(answer, list(losses), list(sizes)), "perplexity")
    name_number(
        found,
        {
            "This is the loss; perplexity is its exponential.": mean,
            "The sign is wrong: perplexity is exp(+cross-entropy).": math.exp(-mean),
            "You took the plain mean of the losses. The last batch is short: weigh each loss with "
            "its number of tokens.": math.exp(sum(losses) / 3),
            "You averaged the batches' perplexities. Average the losses first, then take exp.": sum(
                math.exp(loss) * n for loss, n in zip(losses, sizes, strict=True)
            )
            / sum(sizes),
            "You took the plain mean of the batches' perplexities. Average the losses, weighed "
            "with their tokens, then take exp.": sum(map(math.exp, losses)) / 3,
            "The losses are in nats: use exp, not 2 to the power.": 2**mean,
            "You divided by the number of batches, not by the number of tokens.": (
                math.exp(total / 3) if total / 3 < 700 else math.inf
            ),
        },
    )
    if not near(found, math.exp(mean)):
        raise Wrong(
            f"For losses {losses} of {sizes} tokens the result is {found:.4f}; expected "
            f"{math.exp(mean):.4f}."
        )
    return "How the text was cut into batches must not change its perplexity, and now it does not."


# --- early stopping --------------------------------------------------------------------------


def _stop(steps: list[int], losses: list[float], patience: int, against: str = "best") -> int:
    """Return when to stop; ``against="last"`` compares with the loss before, a usual mistake."""
    best, waited = math.inf, 0
    for step, loss in zip(steps, losses, strict=True):
        waited = 0 if loss < best else waited + 1
        best = loss if against == "last" else min(best, loss)
        if waited == patience:
            return step
    return steps[-1]


@check
def check_stopping_step(answer: Callable) -> str:
    """Check ``stopping_step(steps, val_losses, patience)``, one number."""

    def ask(steps: list[int], losses: list[float], patience: int) -> float:
        return as_number(call(answer, list(steps), list(losses), patience), "step")

    steps = [0, 50, 100, 150, 200, 250, 300]
    if (found := ask(steps, [4.0, 3.0, 2.5, 2.2, 2.1, 2.0, 1.9], 2)) != 300:
        raise Wrong(f"A loss that always falls is never stopped: the last step, 300, not {found}.")
    turning = [4.0, 3.0, 2.0, 2.3, 2.5, 2.6, 2.8]
    found = ask(steps, turning, 2)
    name_number(
        found,
        {
            "That is the best step. Training can only know it afterwards: it stops `patience` "
            "evaluations later.": 100,
            "That is the number of the evaluation; return its step.": 4,
            "One evaluation too early: the loss must fail to improve `patience` times.": 150,
            "One evaluation too late.": 250,
            "Training was not stopped, although the loss rises to the end.": 300,
        },
    )
    if found != 200:
        raise Wrong(f"With losses {turning} and patience 2 it stops at 200, not at {found}.")
    # A loss that swings: each second one is lower than the one before, none is a new best.
    swinging = [3.0, 2.0, 2.4, 2.2, 2.5, 2.3, 2.4]
    found = ask(steps, swinging, 3)
    if found == _stop(steps, swinging, 3, "last"):
        raise Wrong(
            "You compare with the evaluation before. Compare with the best so far: a loss that "
            "swings up and down without a new best has stopped improving too."
        )
    if found != _stop(steps, swinging, 3):
        raise Wrong(f"With losses {swinging} and patience 3 it stops at 200, not at {found}.")
    resting = [3.0, 2.0, 2.1, 1.9, 2.0, 1.8, 1.9]
    if (found := ask(steps, resting, 2)) != 300:
        raise Wrong(
            f"In {resting} each failure is followed by a new best, which starts the count again; "
            f"with patience 2 nothing is stopped, but you stop at {found}."
        )
    flat = [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    if (found := ask(steps, flat, 2)) != 150:
        raise Wrong(f"An equal loss is no improvement: in {flat} stop at 150, not at {found}.")
    return "What is kept is the checkpoint of the best step, not of the last one."


# --- reading a sweep -------------------------------------------------------------------------


@check
def check_steps_to_reach(answer: Callable) -> str:
    """Check ``steps_to_reach(steps, losses, target)``: where the curve first crosses, or inf."""
    steps, losses = [0, 100, 200, 300, 400], [4.0, 3.0, 2.0, 2.6, 1.6]

    def ask(target: float) -> float:
        result = answer(list(steps), list(losses), target)
        if result is None:
            raise Wrong("You returned None. A curve that never gets there takes math.inf steps.")
        return as_number(result, "number of steps")

    if not near(ask(3.0), 100):
        raise Wrong(f"The loss is exactly 3.0 at step 100; you returned {ask(3.0)}.")
    found = ask(2.25)
    name_number(
        found,
        {
            "That is the first evaluation at or below the target. The line between two points "
            "crosses it earlier: interpolate.": 200,
            "That is the last evaluation above the target. Interpolate between it and the "
            "next.": 100,
            "That is the number of an evaluation, not a step.": 2,
            "Interpolated from the wrong end: the nearer the target is to the earlier loss, the "
            "earlier the curve crosses.": 125,
            "That is where the curve crosses last. Return the first time.": 335,
            "Halfway is a guess; the share of the way is (before - target) / (before - after).": (
                150
            ),
        },
    )
    if not near(found, 175):
        raise Wrong(
            f"From 3.0 at step 100 to 2.0 at step 200 the line crosses 2.25 at step 175, not at "
            f"{found}."
        )
    if not math.isinf(found := ask(1.0)) or found < 0:
        raise Wrong(f"The curve never reaches 1.0: return math.inf, not {found}.")
    if not near(found := ask(5.0), 0):
        raise Wrong(f"A target of 5.0 is reached before the first step: 0, not {found}.")
    for (a, b), (high, low) in zip(pairwise(steps), pairwise(losses), strict=True):
        if low < min([high, *losses[: steps.index(b)]]) and not near(
            ask(low + 0.01), b - (b - a) * 0.01 / (high - low)
        ):
            raise Wrong(f"Wrong for a target of {low + 0.01:.2f}, on the way from {high} to {low}.")
    return "Steps to a given loss are a fairer comparison than the loss after given steps."


@check
def check_clear_winner(answer: Callable) -> str:
    """Check ``clear_winner(losses, margin)``: the value with the lowest mean loss, or None."""

    def ask(losses: Mapping[Any, list[float]], margin: float) -> Any:
        result = answer({value: list(seeds) for value, seeds in losses.items()}, margin)
        if isinstance(result, Tensor):
            result = result.item()
        if isinstance(result, tuple | list):
            raise Wrong(f"You returned {result!r}; return the value alone.")
        return result

    clear = {8: [2.5, 2.6], 16: [2.1, 2.2], 32: [1.5, 1.6], 64: [1.9, 2.0]}
    found = ask(clear, 0.1)
    reasons = {
        8: "That is the largest loss; lower is better.",
        None: "You returned None, but the lead is 0.4 nats and the margin 0.1.",
        64: "That is the largest value; choose by its loss.",
    }
    if found in reasons:
        raise Wrong(f"With {clear} the winner is 32. {reasons[found]}")
    if isinstance(found, float) and not near(found, 32):
        raise Wrong(f"You returned {found}, a loss; return the value that has it, 32.")
    if found != 32:
        raise Wrong(f"With {clear} the winner is 32, not {found!r}.")
    lucky = {8: [2.0, 2.0, 2.0], 16: [1.8, 2.6, 2.8]}
    if (found := ask(lucky, 0.1)) == 16:
        raise Wrong(
            f"In {lucky} value 16 was lucky once. Compare the means over the seeds, not the best "
            "single runs."
        )
    if found != 8:
        raise Wrong(f"With {lucky} the winner is 8, not {found!r}.")
    close = {8: [2.00, 2.02], 16: [2.01, 2.03], 32: [2.9, 2.9]}
    if (found := ask(close, 0.1)) is not None:
        raise Wrong(
            f"In {close} the best two are 0.01 nats apart, less than the margin of 0.1: nobody "
            f"wins, so return None, not {found!r}. The lead is over the second, not the last."
        )
    if (found := ask(close, 0.005)) != 8:
        raise Wrong(f"With a margin of 0.005 the lead of 0.01 is enough: 8, not {found!r}.")
    if (found := ask({"relu": [1.2], "gelu": [1.0]}, 0.1)) != "gelu":
        raise Wrong(f"Values may be names: expected 'gelu', not {found!r}.")
    return "A margin has to come from somewhere: repeat one run with other seeds and look."
