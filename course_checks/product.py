"""Checks for chapter 10: windows for perplexity, BLEU's precision, int8, pruning, LoRA.

Each uses seeded inputs, tests one idea at a time, and compares a wrong answer with what the usual
mistakes would give, so that it can name the mistake.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from course_checks import Verdict, Wrong, check
from course_checks.answers import (
    call,
    call_for_tensor,
    draw,
    expect_shape,
    name_mistake,
    same,
)

__all__ = [
    "Verdict",
    "check_magnitude_mask",
    "check_merge_lora",
    "check_ngram_precision",
    "check_quantize_int8",
    "check_windows",
]


# --- 1: windows for perplexity ---------------------------------------------------------------

Window = tuple[int, int, int]


def _windows(n: int, size: int, stride: int) -> list[Window]:
    """Return the right windows: ``(start, end, n_scored)`` each."""
    found, start, end = [], 0, 0
    while end < n:
        before, end = end, min(start + size, n)
        found.append((start, end, end - max(before, 1)))
        start += stride
    return found


def _counted_twice(n: int, size: int, stride: int) -> list[Window]:
    return [(start, end, end - start - 1) for start, end, _ in _windows(n, size, stride)]


@check
def check_windows(answer: Callable) -> str:
    """Check ``windows(n, size, stride)``: ``(start, end, n_scored)`` of each window."""
    for n, size, stride in ((10, 4, 2), (8, 4, 3), (11, 5, 3), (3, 8, 4)):
        found = [tuple(int(x) for x in window) for window in call(answer, n, size, stride)]
        right = _windows(n, size, stride)
        case = f"windows({n}, {size}, {stride})"
        if found == right:
            continue
        if any(len(window) != 3 for window in found):
            raise Wrong("Each window is a tuple of three: (start, end, n_scored).")
        _name_windows(found, right, n, size, stride)
        total = sum(scored for *_, scored in found)
        if total != n - 1:
            raise Wrong(
                f"{case} scores {total} tokens; a text of {n} has {n - 1} predictions, "
                "each to be scored once."
            )
        raise Wrong(f"{case} gave {found}; expected {right}.")
    return (
        "Each prediction is scored once, whatever the stride; the stride decides how much context "
        "it has at least: size - stride tokens, after the first window."
    )


def _name_windows(found: list[Window], right: list[Window], n: int, size: int, stride: int) -> None:
    first = right[0]
    mistakes = {
        "The first token of the text has nothing before it, so it cannot be predicted: the first "
        "window scores one less than it holds.": [(*first[:2], first[2] + 1), *right[1:]],
        "Tokens that the window before has scored are scored again: a window scores only "
        "what lies beyond the end of the one before.": _counted_twice(n, size, stride),
        "Your windows do not overlap: the next one starts stride tokens later, not size "
        "tokens.": _windows(n, size, size),
        "The end of the text is missing: the last window may be shorter, and it counts.": [
            window for window in right if window[1] - window[0] == size
        ],
        "Every window scores stride tokens in your answer; the first one has more to score, "
        "all it holds but the first, and the last may have fewer.": [
            (start, end, stride) for start, end, _ in right
        ],
    }
    for diagnosis, wrong in mistakes.items():
        if found == wrong != right:
            raise Wrong(diagnosis)
    if found[: len(right)] == right:
        raise Wrong("Stop when a window has reached the end of the text: the rest score nothing.")


# --- 2: the precision in BLEU ----------------------------------------------------------------


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]


def _clipped(candidate: Sequence[str], reference: Sequence[str], n: int) -> int:
    return (Counter(_grams(candidate, n)) & Counter(_grams(reference, n))).total()


@check
def check_ngram_precision(answer: Callable) -> str:
    """Check ``ngram_precision(candidate, reference, n)``: BLEU's clipped precision, a number."""
    reference = ["the", "cat", "is", "on", "the", "mat"]
    pairs = (("the the the the dog cat", 1), ("on the mat the cat sat on the mat", 2))
    for text, n in pairs:
        candidate = text.split()
        found = float(call(answer, list(candidate), list(reference), n))
        _name_precision(found, candidate, reference, n)
    if float(call(answer, ["mat"], list(reference), 1)) != 1:
        raise Wrong("One right word has precision 1: what is left out does not count here.")
    if float(call(answer, ["the"], list(reference), 2)) != 0:
        raise Wrong("A text of one word has no pair of words: return 0 for it.")
    return (
        "Precision alone rewards saying little: `mat` has precision 1. That is why BLEU "
        "multiplies by a penalty for texts shorter than the reference."
    )


def _name_precision(
    found: float, candidate: Sequence[str], reference: Sequence[str], n: int
) -> None:
    grams, theirs = _grams(candidate, n), _grams(reference, n)
    clipped = _clipped(candidate, reference, n)
    right = clipped / len(grams)
    if abs(found - right) < 1e-6:
        return
    longer = _grams(candidate, n + 1), _grams(reference, n + 1)
    mistakes = {
        "You counted a repeated n-gram each time. It may count only as often as the reference "
        "has it (clipping), or `the the the the` would be a perfect text.": sum(
            gram in theirs for gram in grams
        )
        / len(grams),
        "You divided by the n-grams of the reference: that is recall, as in ROUGE. Precision "
        "divides by those of the candidate.": clipped / len(theirs),
        "You compared sets, which forget how often an n-gram occurs. Use a Counter.": len(
            set(grams) & set(theirs)
        )
        / len(set(grams)),
        "You divided by the number of words; a text of N words has N - n + 1 n-grams.": clipped
        / len(candidate),
        "This is the number of matches; divide it by the number of n-grams.": clipped,
        "This is in per cent; return a share from 0 to 1.": 100 * right,
        "Your n-grams are one word too long.": _clipped(candidate, reference, n + 1)
        / max(1, len(longer[0])),
    }
    for diagnosis, wrong in mistakes.items():
        if abs(found - wrong) < 1e-6:
            raise Wrong(diagnosis)
    raise Wrong(
        f"For the candidate `{' '.join(candidate)}` and n={n} you found {found:.3f}; "
        f"expected {right:.3f}."
    )


# --- 3: int8 ---------------------------------------------------------------------------------


def _int8(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale).round().clamp(-127, 127).to(torch.int8)


def _pair(result: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong("Return two tensors: the int8 weights, and the scale of each row.")
    return torch.as_tensor(result[0]).detach(), torch.as_tensor(result[1]).detach().float()


@check
def check_quantize_int8(answer: Callable) -> str:
    """Check ``quantize_int8(weight)``: int8 weights ``(out, in)`` and scales ``(out, 1)``."""
    weight = draw(4, 6) * torch.tensor([[1.0], [0.1], [3.0], [0.02]])  # (out, in), unequal rows
    q, scale = _pair(call(answer, weight))
    if q.dtype != torch.int8:
        raise Wrong(f"The weights are {q.dtype}; they save memory only as torch.int8.")
    if scale.shape == (4,):
        scale = scale[:, None]
    largest = weight.abs().amax(1, keepdim=True)
    mistakes = {
        "There is one scale for the whole matrix. Give each row (output channel) its own, or one "
        "large row costs all others their digits.": (weight.abs().max() / 127).reshape(-1),
        "Each column has a scale; expected one for each row, an output channel: take the "
        "largest along the last dimension.": weight.abs().amax(0, keepdim=True) / 127,
    }
    for diagnosis, wrong in mistakes.items():
        if scale.numel() == wrong.numel() and torch.allclose(scale.flatten(), wrong.flatten()):
            raise Wrong(diagnosis)
    expect_shape(scale, (4, 1), "(out, 1)")
    name_mistake(
        scale,
        {
            "You divided by 128. int8 ends at 127 on the positive side, so the largest weight "
            "would wrap around to -128; use 127.": largest / 128,
            "You divided by 255, the number of steps from end to end; from zero to the largest "
            "there are 127.": largest / 255,
            "The scale is upside down: it is the size of one step, largest / 127.": 127 / largest,
            "You took the largest value of each row, not the largest magnitude: take abs() "
            "first.": weight.amax(1, keepdim=True) / 127,
        },
        atol=1e-7,
    )
    if not same(scale, largest / 127, atol=1e-7):
        raise Wrong("The scale of a row is its largest magnitude divided by 127.")
    if torch.equal(q, (weight / scale).to(torch.int8)) and not torch.equal(q, _int8(weight, scale)):
        raise Wrong("You cut off the digits (to(int8) does that); round() first, to the nearest.")
    expect_shape(q, (4, 6), "(out, in)")
    if not torch.equal(q, _int8(weight, scale)):
        raise Wrong("The weights are not round(weight / scale).")
    weight[1] = 0
    q, scale = _pair(call(answer, weight))
    back = q.float() * scale.reshape(4, 1)
    if not back.isfinite().all() or back[1].any() or not (scale > 0).all():
        raise Wrong(
            "A row of zeros has the scale 0, and 0 / 0 is not a number: keep the scale above zero, "
            "for example with clamp(min=1e-12)."
        )
    return "No weight is off by more than half a step, scale / 2: that is all that rounding costs."


# --- 4: magnitude pruning --------------------------------------------------------------------


@check
def check_magnitude_mask(answer: Callable) -> str:
    """Check ``magnitude_mask(weight, share)``: True where a weight stays, ``(out, in)``."""
    weight, share = draw(5, 8, seed=1), 0.3
    found = call_for_tensor(answer, weight, share)
    expect_shape(found, (5, 8), "(out, in)")

    def keep(size: Tensor, n_pruned: int) -> Tensor:
        mask = torch.ones(size.numel())
        mask[size.flatten().argsort()[:n_pruned]] = 0
        return mask.view_as(size)

    size = weight.abs()
    name_mistake(
        found,
        {
            "True and False are exchanged: the mask is True where a weight stays.": 1
            - keep(size, 12),
            "You pruned the smallest values, the most negative ones. What counts is the distance "
            "from zero: abs().": keep(weight, 12),
            "You pruned the largest weights; it is the smallest that matter least.": keep(
                -size, 12
            ),
            "share is what goes, not what stays: you pruned the other part.": keep(size, 28),
            "You compared with a share of the largest weight. It is a share of the *number* of "
            "weights that goes.": (size > share * size.max()).float(),
            "These are the pruned weights; return the mask.": weight * keep(size, 12),
            "Each row lost the same number. Compare the weights of the whole matrix with each "
            "other.": torch.stack([keep(row, int(share * 8)) for row in size]),
        },
    )
    if not same(found, keep(size, 12)):
        n_found = int((found == 0).sum())
        raise Wrong(
            f"You pruned {n_found} of 40 weights; share=0.3 means 12."
            if n_found != 12
            else "You pruned the right number of weights, but not the smallest."
        )
    if not same(call_for_tensor(answer, weight, 0.0), torch.ones(5, 8)):
        raise Wrong("With share=0 every weight stays, the smallest as well.")
    large = draw(30, 40, seed=2)
    if not same(call_for_tensor(answer, large, 0.9), keep(large.abs(), 1080)):
        raise Wrong("Right for 40 weights, not for 1,200 with share=0.9.")
    return "The zeros still lie in a dense matrix: neither memory nor time is saved yet."


# --- 5: LoRA ---------------------------------------------------------------------------------


@check
def check_merge_lora(answer: Callable) -> str:
    """Check ``merge_lora(weight, A, B, alpha)``: the weight with the change added, (out, in)."""
    weight, A, B = draw(5, 4), draw(2, 4, seed=1), draw(5, 2, seed=2)
    alpha = 6.0
    found = call_for_tensor(answer, weight, A, B, alpha)
    expect_shape(found, (5, 4), "(out, in)")
    right = weight + alpha / 2 * B @ A
    name_mistake(
        found,
        {
            "The scale is missing: the change is multiplied by alpha / r.": weight + B @ A,
            "You multiplied by alpha; the scale is alpha / r, with r the rows of A.": weight
            + alpha * B @ A,
            "This is the change alone; add it to the weight.": alpha / 2 * B @ A,
            "You divided by the wrong size: r is the narrow one, A.shape[0].": weight
            + alpha / 4 * B @ A,
            "You divided by the wrong size: r is the narrow one, not the output.": weight
            + alpha / 5 * B @ A,
            "You subtracted the change; it is added.": weight - alpha / 2 * B @ A,
            "You scaled the weight as well; only the change is scaled.": alpha
            / 2
            * (weight + B @ A),
            "The scale is upside down: alpha / r, not r / alpha.": weight + 2 / alpha * B @ A,
        },
    )
    if not same(found, right):
        raise Wrong("The result differs from weight + alpha / r * B @ A.")
    if not same(call_for_tensor(answer, weight, A, torch.zeros(5, 2), alpha), weight):
        raise Wrong("With B = 0, as at the start, the weight must stay as it is.")
    square = draw(3, 3), draw(3, 3, seed=1), draw(3, 3, seed=2)
    if not same(call_for_tensor(answer, *square, 3.0), square[0] + square[2] @ square[1]):
        raise Wrong("The product is B @ A, (out, r) times (r, in); yours is the other way round.")
    n = 4096
    return (
        f"For a matrix of {n} by {n} and r=8, A and B have {2 * 8 * n / n**2:.1%} of its "
        "numbers, and after merging the model is as fast as before."
    )
