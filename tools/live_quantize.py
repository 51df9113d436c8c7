"""What the figure of quantization shows before the model is there: one text, 8 bits down to 2."""

import html
import math
from collections.abc import Callable
from itertools import product, takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2LMHeadModel, GPT2TokenizerFast

CAPTION = "GPT-2 mini with fewer bits a weight: its file, the perplexity of a text, what it writes."
#: From the course's own prose, which no model of the course has read.
TEXT = (
    "You have never read this sentence before, and you know its next letter. Nobody told you. "
    "Years of reading have left you with expectations, and they are good ones. A program with such "
    "expectations, written as numbers, is called a language model. The systems that answer "
    "questions, translate and write code are built on one. How do you teach a program what to "
    "expect, and what can you do with it once it does? A model that knows what comes next can "
    "write: ask it for the next letter, add that letter to the text, ask again. How should we pick "
    'the letter? "The most likely one" sounds right.'
)
PROMPT = "Once upon a time, there was a little"
BITS, SCALES = range(2, 9), ("row", "matrix")
WRITTEN, TEMPERATURE = 24, 0.7  # as in live/elements/quantize.js

Coarse = Callable[[int, str], GPT2LMHeadModel]


def perplexity(model: GPT2LMHeadModel, ids: list[int]) -> float:
    """Return the perplexity of a text after its first token."""
    logits = model(torch.tensor([ids])).logits[0]
    return F.cross_entropy(logits[:-1], torch.tensor(ids[1:])).exp().item()


def written(
    model: GPT2LMHeadModel, ids: list[int], end: int, u: list[float]
) -> tuple[list[int], list[int]]:
    """Return what a model writes after ``ids``, up to the token ``end``, in two ways.

    First the likeliest tokens, then those that the random numbers ``u`` draw.
    """
    out: list[tuple[int, int]] = []
    read, cache = torch.tensor([ids, ids]), None  # (2, T), then (2, 1)
    for number in u:
        answer = model(read, past_key_values=cache, use_cache=True)
        cache, logits = answer.past_key_values, answer.logits[:, -1]  # (2, V)
        up_to = (logits[1].double() / TEMPERATURE).softmax(-1).cumsum(-1)
        out.append((int(logits[0].argmax()), int((up_to > number).int().argmax())))
        read = torch.tensor(out[-1])[:, None]
    likeliest, drawn = ([*takewhile(lambda i: i != end, way)] for way in zip(*out, strict=True))
    return likeliest, drawn


def row_of(matrix: Tensor) -> dict[str, Any]:
    """Return 48 neighbouring weights of a middling row, in 8 bits, and the scale of their row.

    ``largest`` is the row's largest weight and ``widest`` the matrix's, in steps and as it is.
    """
    tops = matrix.abs().amax(1)
    row = int((tops - tops.median()).abs().argmin())
    step = tops[row].item() / 127
    q = np.rint(matrix[row].double().numpy() / step).astype(int)
    start = min(max(int(np.abs(q).argmax()) - 24, 0), len(q) - 48)
    return {
        "q": q[start : start + 48].tolist(),
        **{"scale": step, "largest": 127, "widest": tops.max().item()},
        "name": f"block 0, first matrix of the MLP, row {row}",
    }


def size(shapes: list[tuple[int, ...]], bits: int, scale: str) -> int:
    """Return how many bytes weights take; a scale, as each number of a vector, has 32 bits."""
    total = 0
    for shape in shapes:
        numbers, scales = math.prod(shape), shape[0] if scale == "row" else 1
        total += 4 * numbers if len(shape) == 1 else numbers * bits // 8 + 4 * scales
    return total


def data(
    coarse: Coarse, tokenizer: GPT2TokenizerFast, shapes: list[tuple[int, ...]]
) -> dict[str, Any]:
    """Return perplexities and texts for all bits.

    ``coarse(bits, scale)`` gives the model with so many; ``shapes`` are those of its weights, the
    rows of matrices first.
    """
    ids, start, end = tokenizer.encode(TEXT), tokenizer.encode(PROMPT), tokenizer.eos_token_id
    u = np.random.default_rng(10).random(WRITTEN).round(6).tolist()
    results: dict[str, dict[str, Any]] = {}
    for bits, scale in product(BITS, SCALES):
        model = coarse(bits, scale)
        texts = ([tokenizer.decode([i]) for i in way] for way in written(model, start, end, u))
        found = {"perplexity": round(perplexity(model, ids), 3)}
        results[f"{bits} {scale}"] = found | dict(zip(("likeliest", "drawn"), texts, strict=True))
    return {
        **{"text": TEXT, "prompt": PROMPT, "u": u, "end": end},
        "bytes": {scale: [size(shapes, bits, scale) for bits in BITS] for scale in SCALES},
        "row": row_of(coarse(8, "row").transformer.h[0].mlp.c_fc.weight.T),
        "results": results,
    }


def still(stored: dict[str, Any]) -> str:
    """Return file, perplexity and text for all bits, as they stand without JavaScript."""
    rows = "".join(
        f"<tr><th>{bits}</th><td>{stored['bytes']['row'][bits - 2] / 1e6:.1f} MB</td>"
        f"<td>{stored['results'][f'{bits} row']['perplexity']:,.0f}</td>"
        f"<td>{html.escape(''.join(stored['results'][f'{bits} row']['likeliest']))}</td></tr>"
        for bits in reversed(BITS)
    )
    return (
        "<table><tr><th>bits</th><th>file</th><th>perplexity</th>"
        f"<th>{html.escape(PROMPT)} …</th></tr>{rows}</table>"
    )
