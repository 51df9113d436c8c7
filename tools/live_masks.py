"""What the figure of masks shows before the model is there: a sentence under every prefix mask."""

import html
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2LMHeadModel, GPT2TokenizerFast

from course_utils.gpt import causal_mask
from tools.live_vectors import packed

CAPTION = (
    "GPT-2 mini with three masks: who may look at whom, and what that does to what it predicts."
)
TEXT = "The old man opened the door and saw a dog"
PREFIX = 4


def prefix_mask(n: int, prefix: int) -> Tensor:
    """Return who may look at whom, bool ``(n, n)``: all at the first ``prefix`` tokens, and back.

    A prefix of 1 is the causal mask, one of ``n`` the full mask.
    """
    mask = causal_mask(n).clone()
    mask[:, :prefix] = True
    return mask


def read(model: GPT2LMHeadModel, ids: list[int], prefix: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a model makes of a text ``(T,)`` under a prefix mask.

    Its logits ``(T, V)``, the loss of each token but the first ``(T - 1,)``, in nats, and the
    weights of all heads ``(L, H, T, T)``.
    """
    hidden = ~prefix_mask(len(ids), prefix)
    added = torch.zeros(1, 1, *hidden.shape).masked_fill(hidden, -1e9)
    out = model(torch.tensor([ids]), attention_mask=added, output_attentions=True)
    logits = out.logits[0]
    losses = F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
    return logits, losses, torch.cat(out.attentions)


def cut_losses(model: GPT2LMHeadModel, ids: list[int]) -> Tensor:
    """Return each token's loss ``(T - 1,)`` in nats, full mask, if the text ends before it."""
    ends = range(1, len(ids))
    return torch.stack([read(model, ids[: end + 1], end)[1][-1] for end in ends])


def data(model: GPT2LMHeadModel, tokenizer: GPT2TokenizerFast) -> dict[str, Any]:
    """Return a sentence's losses, predictions and weights for every length of the prefix."""
    ids = tokenizer.encode(TEXT)
    masks = []
    for prefix in range(1, len(ids) + 1):
        logits, losses, weights = read(model, ids, prefix)
        best = logits.softmax(-1).topk(5)
        tops = [
            [[tokenizer.decode([i]), round(p, 4)] for p, i in zip(*row, strict=True)]
            for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        rounded = (255 * weights).round().to(torch.uint8).numpy()
        masks.append(
            {
                "losses": [round(loss, 4) for loss in losses.tolist()],
                "tops": tops,
                "weights": packed(rounded),
            }
        )
    return {
        "text": TEXT,
        "tokens": [tokenizer.decode([i]) for i in ids],
        **{"n_layer": model.config.n_layer, "n_head": model.config.n_head},
        **{"prefix": PREFIX, "place": len(ids) - 2},
        "cut": [round(loss, 4) for loss in cut_losses(model, ids).tolist()],
        "masks": masks,
    }


def still(stored: dict[str, Any]) -> str:
    """Return the three masks with their losses, as they stand without JavaScript."""
    n, places = len(stored["tokens"]), range(len(stored["tokens"]) - 1)
    rows = []
    for name, prefix in (("causal", 1), (f"prefix of {PREFIX}", PREFIX), ("full", n)):
        losses = stored["masks"][prefix - 1]["losses"]
        honest = [stored["cut"][t] if t + 1 < prefix else losses[t] for t in places]
        picture = "<br>".join(
            "".join("■" if seen else "□" for seen in row) for row in prefix_mask(n, prefix).tolist()
        )
        rows.append(
            f'<tr><th>{name}</th><td><div class="live-picture" role="img" aria-label="{name}">'
            f"{picture}</div></td><td>{sum(losses) / len(losses):.2f}</td>"
            f"<td>{sum(honest) / len(honest):.2f}</td></tr>"
        )
    return (
        f"<p><b>{html.escape(stored['text'])}</b></p><table><tr><th>mask</th>"
        "<th>who (row) may look at whom (column)</th><th>mean loss (nats)</th>"
        "<th>with the next token hidden</th></tr>"
        f"{''.join(rows)}</table>"
    )
