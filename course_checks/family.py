"""Checks for chapter 9: masking for BERT, T5's spans, patches of an image, F1, the DPO loss.

Each uses seeded inputs, tests one idea at a time, and compares a wrong answer with what the usual
mistakes would give, so that it can name the mistake.
"""

import math
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
    "check_dpo_loss",
    "check_f1",
    "check_mask_tokens",
    "check_patchify",
    "check_span_corruption",
]


@check
def check_patchify(answer: Callable) -> str:
    """Check ``patchify(images, size)``: ``(B, H, W)`` to ``(B, n, size * size)``, row by row."""
    images, size = draw(2, 4, 6), 2
    blocks = images.reshape(2, 2, size, 3, size)  # (B, H/s, s, W/s, s)
    right = blocks.permute(0, 1, 3, 2, 4).reshape(2, 6, 4)
    found = call_for_tensor(answer, images, size)
    expect_shape(found, (2, 6, 4), "(B, n, size * size)")
    strips = images.reshape(2, 6, 4)
    by_columns = blocks.permute(0, 3, 1, 2, 4).reshape(2, 6, 4)
    turned = blocks.permute(0, 1, 3, 4, 2).reshape(2, 6, 4)
    name_mistake(
        found,
        {
            "You reshaped without moving axes: a patch now holds a strip of one row, not a "
            "square.": strips,
            "The patches run down the columns; they should run along the rows.": by_columns,
            "The pixels inside each patch are transposed: the row comes before the column.": turned,
        },
    )
    if not same(found, right):
        raise Wrong("The shape is right, but the patches hold other pixels than they should.")
    return "Every square of pixels is a token now; the transformer needs nothing else to change."


@check
def check_f1(answer: Callable) -> str:
    """Check ``f1(labels, predictions)``: of the class 1; 0 where nothing was found."""
    labels, predictions = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
    precision, recall = 3 / 5, 3 / 4
    found = as_number(call(answer, labels, predictions), "F1")
    name_number(
        found,
        {
            "That is the accuracy, which counts the class 0 as well.": 7 / 10,
            "That is the precision alone.": precision,
            "That is the recall alone.": recall,
            "That is the plain average; F1 is the harmonic mean.": (precision + recall) / 2,
            "That is the F1 of the class 0.": 8 / 11,
        },
    )
    if not near(found, 2 / 3):
        raise Wrong(f"For {labels} and {predictions} F1 is {2 / 3:.4f}; yours is {found:.4f}.")
    if not near(as_number(call(answer, [1, 0], [0, 0]), "F1"), 0.0):
        raise Wrong("Where no example of class 1 is found, F1 is 0.")
    return "The harmonic mean is low when either precision or recall is."


@check
def check_dpo_loss(answer: Callable) -> str:
    """Check ``dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)`` (arXiv 2305.18290)."""
    given, beta = (-2.0, -3.5, -2.6, -3.1), 0.5
    chosen, rejected, ref_chosen, ref_rejected = given

    def loss(margin: float) -> float:
        return math.log1p(math.exp(-margin))

    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    found = as_number(call(answer, *map(torch.tensor, given), beta), "loss")
    name_number(
        found,
        {
            "The sign is turned: the loss is minus the log of the sigmoid.": -loss(beta * margin),
            "Chosen and rejected are exchanged.": loss(-beta * margin),
            "The reference model is missing.": loss(beta * (chosen - rejected)),
            "beta is missing.": loss(margin),
            "The sigmoid's logarithm is missing.": 1 / (1 + math.exp(-beta * margin)),
        },
    )
    if not near(found, loss(beta * margin)):
        raise Wrong(f"Expected {loss(beta * margin):.4f}, found {found:.4f}.")
    return "The loss falls as the policy prefers the chosen answer more than its reference does."


@check
def check_span_corruption(answer: Callable) -> str:
    """Check ``span_corruption(words, spans)``: T5's input and target lists (arXiv 1910.10683)."""
    words, spans = ["the", "cat", "sat", "on", "the", "old", "mat"], [(1, 3), (5, 6)]
    result = call(answer, words, spans)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong("Return two lists: (inputs, targets).")
    inputs, targets = (list(part) for part in result)
    right_inputs = ["the", "<0>", "on", "the", "<1>", "mat"]
    right_targets = ["<0>", "cat", "sat", "<1>", "old", "<2>"]
    if inputs == ["the", "<0>", "<0>", "on", "the", "<1>", "mat"]:
        raise Wrong("One sentinel stands for a whole span, not for each of its words.")
    if inputs == ["the", "<0>", "on", "the", "<0>", "mat"]:
        raise Wrong("Each span needs its own sentinel: <0>, then <1>.")
    if inputs != right_inputs:
        raise Wrong(f"The inputs should be {right_inputs}; yours are {inputs}.")
    if targets == words:
        raise Wrong("That is BART's target, the whole text; T5 writes only what was left out.")
    if targets == right_targets[:-1]:
        raise Wrong("The closing sentinel <2> is missing from the targets.")
    if targets != right_targets:
        raise Wrong(f"The targets should be {right_targets}; yours are {targets}.")
    return "Inputs and targets together hold each word once."


@check
def check_mask_tokens(answer: Callable) -> str:
    """Check ``mask_tokens(ids, vocab_size, mask_id, generator)``: ``(inputs, labels)``."""
    generator = torch.Generator().manual_seed(0)
    n, vocab, mask_id = 60_000, 1000, 999
    ids = torch.randint(0, 999, (n,), generator=generator)
    result = call(answer, ids, vocab, mask_id, generator)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong("Return two tensors: (inputs, labels).")
    inputs, labels = (torch.as_tensor(part) for part in result)
    if inputs.shape != ids.shape or labels.shape != ids.shape:
        raise Wrong("Inputs and labels both have the shape of ids.")
    chosen = labels != -100
    if chosen.all():
        raise Wrong("Every place has a label; places that were not chosen get -100.")
    share = chosen.float().mean().item()
    if not 0.14 < share < 0.16:
        raise Wrong(f"You chose {share:.1%} of the places; BERT chooses 15%.")
    if (labels[chosen] == mask_id).any():
        raise Wrong("A label is the mask itself; labels are the ids from before the masking.")
    if not torch.equal(labels[chosen], ids[chosen]):
        raise Wrong("The labels of chosen places are not the ids that stood there.")
    if not torch.equal(inputs[~chosen], ids[~chosen]):
        raise Wrong("A place that was not chosen has changed.")
    masked = (inputs[chosen] == mask_id).float().mean().item()
    kept = (inputs[chosen] == ids[chosen]).float().mean().item()
    if masked > 0.99:
        raise Wrong("All chosen places are masked; 10% become random and 10% stay.")
    if not 0.78 < masked < 0.82:
        raise Wrong(f"{masked:.0%} of the chosen places are masked; it should be 80%.")
    if not 0.085 < kept < 0.115:
        raise Wrong(f"{kept:.0%} of the chosen places stay as they were; it should be 10%.")
    return "The model cannot tell which of the words it sees were chosen, so it attends to all."
