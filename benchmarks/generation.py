"""Tokens per second: with the cache, without it, and transformers with the same weights."""

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from course_utils import pretrained
from course_utils.device import pick_device
from course_utils.gpt import GPT
from course_utils.sampling import generate
from course_utils.weights import from_transformers

PROMPT = 16  # tokens


def tables(quick: bool) -> list[tuple[str, list[dict]]]:
    n_new, rounds = (8, 1) if quick else (32, 3)
    rows = []
    for title, theirs in models(quick).items():
        for dtype in (torch.float32, torch.bfloat16):
            peer = copy.deepcopy(theirs).to(pick_device(), dtype)
            ours = from_transformers(peer)
            for batch in (1, 8):
                rows.append({"model": title} | compare(ours, peer, dtype, batch, n_new, rounds))
    note = (
        f"Generation, greedy, {n_new} tokens after {PROMPT}: tokens per second (best of {rounds}, "
        "in turns; without cache once). The peer is `transformers.generate` with the same weights "
        "in the same number format; the last column says how many of its tokens ours repeats "
        "before the first other one (rounding decides between tokens that are almost equally "
        "likely)."
    )
    return [(note, rows)]


def models(quick: bool) -> dict[str, PreTrainedModel]:
    """Return models of transformers by title: GPT-2's shape, and SmolLM2 with its real weights."""
    torch.manual_seed(0)
    shape = GPT2Config(n_layer=2, n_embd=64, n_head=2) if quick else GPT2Config()
    found = {"GPT-2 small's shape, random weights": GPT2LMHeadModel(shape).eval()}
    if not quick:
        found["SmolLM2-135M"] = pretrained.load("smollm2").model
    return found


@torch.inference_mode()
def compare(
    ours: GPT, peer: PreTrainedModel, dtype: torch.dtype, batch: int, n_new: int, rounds: int
) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(1000, 20_000, (batch, PROMPT), generator=generator)
    ids = prompt.to(peer.device)
    ways: dict[str, Callable[[], Tensor]] = {
        "without cache": lambda: torch.tensor(
            generate(ours, prompt, n_new, greedy=True, cache=False)
        ),
        "with cache": lambda: torch.tensor(generate(ours, prompt, n_new, greedy=True)),
        "transformers": lambda: peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=n_new,
            min_new_tokens=n_new,
            do_sample=False,
            pad_token_id=0,
        ).cpu(),
    }
    seconds, texts = dict.fromkeys(ways, float("inf")), {}
    for round_ in range(rounds):
        for name, way in ways.items():
            if round_ and name == "without cache":
                continue  # slow enough for one measurement
            start = time.perf_counter()
            texts[name] = way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    speed = {name: batch * n_new / value for name, value in seconds.items()}
    differs = (texts["with cache"] != texts["transformers"])[:, PROMPT:]
    same = differs.int().cummax(dim=1).values.eq(0).sum(dim=1).float().mean().item()
    return {
        "format": str(dtype).removeprefix("torch."),
        "batch": batch,
        "without cache": f"{speed['without cache']:.1f}",
        "with cache": f"{speed['with cache']:.1f}",
        "transformers": f"{speed['transformers']:.1f}",
        "cache gains": f"{speed['with cache'] / speed['without cache']:.1f}",
        "against transformers": f"{speed['with cache'] / speed['transformers']:.2f}",
        "same tokens": f"{same:.0f} of {n_new}",
    }
