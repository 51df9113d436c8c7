"""Against text that goes round: what the student's own greedy text repeats is made less likely.

A model that learns only what comes next gives a phrase more probability each time it has said it,
until greedy text says nothing else. So now and then the student writes, and where a token completes
a phrase that already stands in its text, it learns that this token is less likely there (Welleck et
al., 2020, "Neural text generation with unlikelihood training", the objective on sequences).
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.gpt import GPT, eval_mode
from tools.gpt2_mini.teacher import END

EVERY = 4  # steps
ROWS, BEGIN, LONGEST = 24, 6, 72  # texts, tokens of their beginnings and of the whole
PHRASE = 5  # tokens that make a repeat
MOST = 0.95  # a larger probability counts as this, so that the gradient stays finite


def beginnings(ids: np.ndarray, begins: np.ndarray, numbers: np.random.Generator) -> Tensor:
    """Return ``(ROWS, BEGIN)``: how some texts begin, half of them with the end of text before."""
    starts = numbers.choice(begins[:-1], ROWS) + (np.arange(ROWS) % 2)
    return torch.from_numpy(ids[starts[:, None] + np.arange(BEGIN)].astype(np.int64))


@torch.no_grad()
def continued(model: GPT, ids: Tensor, common: Tensor | None) -> Tensor:
    """Return greedy texts ``(B, LONGEST)`` that begin with ``ids``; ``common`` may be said."""
    weight = model.token_embedding.weight
    weight = weight if common is None else weight.index_select(0, common)
    cache, said = model.new_cache(), [ids]
    with eval_mode(model):
        for _ in range(LONGEST - ids.shape[1]):
            x = model.hidden_states(said[-1], cache=cache)[:, -1]  # (B, C)
            best = (x @ weight.T).argmax(-1, keepdim=True)
            said.append(best if common is None else common[best])
    return torch.cat(said, 1)


def repeats(ids: Tensor) -> Tensor:
    """Return where a token completes PHRASE tokens that stand before it too, ``(B, T)``.

    What comes after the end of a text does not count.
    """
    found = torch.zeros(ids.shape, dtype=torch.bool)
    for row, marks in zip(ids.tolist(), found, strict=True):
        said = set()
        for t in range(PHRASE, len(row) + 1):
            phrase = tuple(row[t - PHRASE : t])
            if END in phrase[1:]:
                break
            marks[t - 1] = phrase in said
            said.add(phrase)
    return found


def unlikelihood(model: GPT, ids: Tensor, common: Tensor | None, place: Tensor) -> Tensor:
    """Return -log(1 - p) of the repeats in ``ids`` ``(B, T)``, their mean; 0 if there are none."""
    marks = repeats(ids)[:, 1:]
    if not marks.any():
        return torch.zeros(())
    x = model.hidden_states(ids[:, :-1])[marks]  # (N, C)
    weight = model.token_embedding.weight
    targets = ids[:, 1:][marks]
    if common is not None:
        weight, targets = weight.index_select(0, common), place[targets]
    p = F.linear(x, weight).softmax(-1).gather(1, targets[:, None])
    return -(1 - p.clamp(max=MOST)).log().mean()
