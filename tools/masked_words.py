"""Teach the stand-in encoder to fill in masked words: a head, and low-rank changes to its weights.

python -m tools.masked_words    read what tools.gpt2_mini wrote, write data/minilm-masked

all-MiniLM-L6-v2 was trained to embed sentences and has no head for words. This adds BERT's head and
LoRA's two thin matrices to each linear layer (Hu et al., 2021), and trains both on masked words
(Devlin et al., 2018). The texts are those that the teacher of GPT-2 mini wrote: first run
``python -m tools.gpt2_mini write``.
"""

import random
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from course_utils import pretrained, terminal
from course_utils.device import pick_device

ROOT = Path(__file__).parents[1]
TEXTS = ROOT / "checkpoints" / "gpt2-mini"
FOLDER = ROOT / "data" / "minilm-masked"
RANK, STEPS, BATCH, LENGTH = 16, 1500, 24, 48
CLS, SEP, MASK = 101, 102, 103


class LowRank(nn.Module):
    """A frozen linear layer, plus a change of rank ``RANK``: ``W + B A``."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.A = nn.Parameter(torch.randn(RANK, linear.in_features) / linear.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + x @ self.A.T @ self.B.T


def add_low_rank(encoder: nn.Module) -> dict[str, LowRank]:
    """Wrap the linear layers of all blocks; return the wrapped ones by name."""
    names = [n for n, m in encoder.encoder.named_modules() if isinstance(m, nn.Linear)]
    wrapped = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        module = encoder.encoder.get_submodule(parent)
        wrapped[f"bert.encoder.{name}"] = LowRank(getattr(module, last))
        setattr(module, last, wrapped[f"bert.encoder.{name}"])
    return wrapped


def token_ids(tokenizer) -> torch.Tensor:
    """Return all texts, shuffled, as one row of BERT's ids."""
    theirs = pretrained.load_tokenizer("gpt2")
    files = sorted(TEXTS.glob("texts-*.npz"))
    if not files:
        raise SystemExit(f"no texts in {TEXTS}: run python -m tools.gpt2_mini write first.")
    texts = []
    for file in files:
        texts += re.split(r"<\|endoftext\|>|\n", theirs.decode(np.load(file)["ids"].tolist()))
    texts = [text for text in texts if len(text) > 40]
    random.Random(0).shuffle(texts)
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor([i for text in ids for i in text])


def masked_batch(
    ids: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and labels ``(B, T)``: 15% of the places, of which 80% show the mask."""
    starts = torch.randint(len(ids) - LENGTH, (BATCH,), generator=generator)
    rows = torch.stack([ids[k : k + LENGTH] for k in starts.tolist()])
    ends = torch.full((BATCH, 1), CLS), torch.full((BATCH, 1), SEP)
    labels = torch.cat([ends[0], rows, ends[1]], dim=1)
    chosen = (
        (torch.rand(labels.shape, generator=generator) < 0.15) & (labels != CLS) & (labels != SEP)
    )
    kind = torch.rand(labels.shape, generator=generator)
    other = torch.randint(1000, 30522, labels.shape, generator=generator)
    inputs = torch.where(chosen & (kind < 0.8), MASK, labels)
    inputs = torch.where(chosen & (kind > 0.9), other, inputs)
    return inputs, labels.masked_fill(~chosen, -100)


def main() -> None:
    """Train, report on held-out texts, write the head and the changes in float16."""
    torch.manual_seed(0)
    device = pick_device()
    encoder, tokenizer, card = pretrained.load("bert")
    if card.name != "minilm":
        raise SystemExit(f"{card.title} needs no head; run this where only the stand-in is found.")
    model = pretrained.with_new_head(encoder).requires_grad_(False)
    wrapped = add_low_rank(model.bert)
    model.to(device)
    head = model.cls.predictions
    learned = [head.bias, *head.transform.parameters()]
    for parameter in learned:
        parameter.requires_grad_(True)
    thin = [p for layer in wrapped.values() for p in (layer.A, layer.B)]
    optimizer = torch.optim.AdamW([{"params": learned}, {"params": thin}], lr=2e-3, weight_decay=0)
    ids = token_ids(tokenizer)
    held_out, ids = ids[:40_000], ids[40_000:]
    counts = torch.bincount(ids, minlength=len(tokenizer)) + 0.1
    with torch.no_grad():
        head.bias.copy_((counts / counts.sum()).log())
    generator = torch.Generator().manual_seed(0)
    started, mean = time.perf_counter(), None

    def loss_of(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        inputs, labels = (part.to(device) for part in batch)
        with torch.autocast(device.type, torch.bfloat16):
            states = model.bert(inputs).last_hidden_state[labels != -100]  # only where it counts
        return F.cross_entropy(head(states.float()), labels[labels != -100])

    model.train(False)  # no dropout: no text is seen twice
    for step in range(STEPS):
        share = min(1, (step + 1) / 50, (STEPS - step) / (STEPS / 2))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * share
        loss = loss_of(masked_batch(ids, generator))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*learned, *thin], 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 99:
            seconds = time.perf_counter() - started
            print(f"step {step + 1}: {mean:.3f} nats a masked word, {seconds:.0f} s", flush=True)
            write(head, wrapped)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        held = [loss_of(masked_batch(held_out, generator)).item() for _ in range(40)]
    print(f"held-out texts: {sum(held) / len(held):.3f} nats a masked word")
    write(head, wrapped)


def write(head: nn.Module, wrapped: dict[str, LowRank]) -> None:
    """Write ``model.safetensors``: the head's tensors and ``A`` and ``B`` of each layer."""
    FOLDER.mkdir(exist_ok=True)
    tensors = {
        f"cls.predictions.{k}": v for k, v in head.transform.state_dict(prefix="transform.").items()
    }
    tensors["cls.predictions.bias"] = head.bias.data
    for name, layer in wrapped.items():
        tensors |= {f"{name}.A": layer.A.data, f"{name}.B": layer.B.data}
    save_file(
        {k: v.half().contiguous().cpu() for k, v in tensors.items()}, FOLDER / "model.safetensors"
    )


if __name__ == "__main__":
    sys.exit(terminal.run(main))
