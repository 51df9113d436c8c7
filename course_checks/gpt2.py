"""Exercises of chapter 6: GPT-2's parameters, layer norm, the MLP, the likeliest next tokens."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_checks.answers import draw
from course_checks.exercises import Exercise, Way
from course_checks.outcomes import as_pair

# --- 1 ---------------------------------------------------------------------------------------


def _count(config: Any) -> int:
    C, L = config.n_embd, config.n_layer
    return (config.vocab_size + config.n_positions + 2) * C + L * (12 * C * C + 13 * C)


def _less(size: Way) -> Way:
    return lambda c: _count(c) - size(c.n_layer, c.n_embd, c.vocab_size, c.n_positions)


#: What can be missing, and how large it is, for layers L, channels C, tokens V and positions P.
_PARTS = {
    "the tie: lm_head.weight is wte.weight, and counts once": lambda L, C, V, P: -V * C,
    "wte, the token table, vocab_size x C": lambda L, C, V, P: V * C,
    "wpe, the position table, n_positions x C": lambda L, C, V, P: P * C,
    "ln_f, the final norm, C scales and C shifts": lambda L, C, *_: 2 * C,
    "one of the two norms of each block": lambda L, C, *_: 2 * L * C,
    "the shifts of the norms; each has C scales and C shifts": lambda L, C, *_: (2 * L + 1) * C,
    "the biases of a block's four layers, 3C, C, 4C and C": lambda L, C, *_: 9 * L * C,
    "all biases and norms": lambda L, C, *_: (13 * L + 2) * C,
    "biases of mlp.c_fc: it has 4C outputs, and so 4C biases": lambda L, C, *_: 3 * L * C,
    "attn.c_proj, attention's output projection, C to C": lambda L, C, *_: L * (C * C + C),
    "two thirds of c_attn, which makes query, key and value": lambda L, C, *_: 2 * L * (C * C + C),
    "mlp.c_proj, back from 4C to C": lambda L, C, *_: L * (4 * C * C + C),
    "the MLP's width: c_fc is C x 4C, c_proj 4C x C": lambda L, C, *_: L * (6 * C * C + 3 * C),
    "all blocks but one": lambda L, C, *_: (L - 1) * (12 * C * C + 13 * C),
    "config's sizes; yours are one model's": lambda L, C, V, P: (V + P - 50_257 - 1024) * C,
}
_SIZES = ((1, 12, 7, 31), (3, 20, 9, 40), (5, 24, 11, 97), (12, 768, 1024, 50_257))
check_count_gpt2 = Exercise(
    name="count_gpt2",
    task="The number of parameters of a GPT-2 from its config; the head is tied.",
    right=_count,
    inputs=lambda seed: [
        (SimpleNamespace(n_layer=L, n_embd=C, n_head=2, n_positions=P, vocab_size=V + seed % 9),)
        for L, C, P, V in _SIZES
    ],
    tolerance=1e-9,
    mistakes={f"Missing: {part}.": _less(size) for part, size in _PARTS.items()},
    notice="n_head appears nowhere in the sum: heads share out the channels and add no parameters.",
)

# --- 2 ---------------------------------------------------------------------------------------


def _norm(
    axis: Any = -1,
    correction: int = 0,
    keep: bool = True,
    below: Way = lambda variance, eps: (variance + eps).sqrt(),
    of: Way = lambda x, mean, spread: (x - mean) / spread,
    end: Way = lambda normed, weight, bias: normed * weight + bias,
) -> Way:
    def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        spread = below(x.var(axis, correction=correction, keepdim=keep), eps)
        return end(of(x, x.mean(axis, keep), spread), weight, bias)

    return layer_norm


_NORMS = ((3, 1e-5, 3), (3, 1e-5, 2, 5, 6), (3, 0.5, 2, 4, 4), (0.001, 1e-5, 3, 2, 7))
check_layer_norm = Exercise(
    name="layer_norm",
    task="Each position less its mean, over √(variance + eps), times weight, plus bias.",
    right=_norm(),
    inputs=lambda seed: [
        (size * (draw(*x, seed=seed) + 1), *(draw(x[-1], seed=seed + n) for n in (1, 2)), eps)
        for size, eps, *x in _NORMS
    ],
    shape="(..., C)",
    mistakes={
        "You divided by C - 1, torch's default; layer norm divides by C.": _norm(correction=1),
        "Layer norm works inside one position, over its channels, dim=-1, not over tokens, texts "
        "or all.": tuple(map(_norm, (-2, 1, 0, (0, 1), (-2, -1), None))),
        "A mean lost its dimension and no longer fits x: keepdim=True.": _norm(keep=False),
        "The mean was not subtracted.": _norm(of=lambda x, m, s: x / s),
        "This is RMS norm: subtract the mean.": _norm(of=lambda x, m, s: x / (m**2 + s**2).sqrt()),
        "Brackets: (x - mean) / spread.": _norm(of=lambda x, m, s: x - m / s),
        "You divided by the variance; take its root.": _norm(below=lambda v, eps: v + eps),
        "Add eps to the variance, then take the root.": _norm(below=lambda v, eps: v.sqrt() + eps),
        "eps is missing: √(variance + eps).": _norm(below=lambda v, eps: v.sqrt()),
        "Your eps is a fixed 1e-5; use the argument.": _norm(below=lambda v, _: (v + 1e-5).sqrt()),
        "Not scaled and shifted: times weight, plus bias.": _norm(end=lambda y, w, b: y),
        "Scaled, but not shifted: add bias.": _norm(end=lambda y, w, b: y * w),
        "First scale, then shift: bias is not multiplied.": _norm(end=lambda y, w, b: (y + b) * w),
    },
    notice="Mean and spread of a position are gone: the pattern of its channels is left.",
)

# --- 3 ---------------------------------------------------------------------------------------


ROOT = math.sqrt(2 / math.pi)


def _gelu(x: Tensor, root: float = ROOT, by: float = 0.044715, cube: int = 3) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(root * x + root * by * x**cube))


def _mlp(act: Way = _gelu, after: Way = lambda y, x: y, one: int = 1, two: int = 1) -> Way:
    return lambda x, fc_weight, fc_bias, proj_weight, proj_bias: after(
        act(x @ fc_weight + one * fc_bias) @ proj_weight + two * proj_bias, x
    )


def _mlp_inputs(seed: int) -> list[tuple]:
    sizes = ((3,), 5), ((5, 6), 24), ((2, 5, 6), 11), ((2, 3, 4), 16), ((3, 4), 4)
    shapes = [(x, (x[-1], hidden), (hidden,), (hidden, x[-1]), (x[-1],)) for x, hidden in sizes]
    return [tuple(draw(*s, seed=seed + n) for n, s in enumerate(each)) for each in shapes]


check_mlp = Exercise(
    name="mlp",
    task="gelu(x @ fc_weight + fc_bias) @ proj_weight + proj_bias, GELU in its tanh form.",
    right=_mlp(),
    inputs=_mlp_inputs,
    shape="(..., C)",
    tolerance=2e-5,  # the exact GELU and its tanh form must stay apart
    mistakes={
        "This is the exact GELU; GPT-2 was trained with the tanh form.": _mlp(F.gelu),
        "This is ReLU; GPT-2 has GELU (tanh form).": _mlp(F.relu),
        "x·σ(1.702x) is not GELU's tanh form.": _mlp(lambda x: x * (1.702 * x).sigmoid()),
        "The activation between the layers is missing.": _mlp(lambda x: x),
        "GELU belongs between the layers.": _mlp(lambda x: x, lambda y, x: _gelu(y)),
        "There is a second GELU, at the end.": _mlp(after=lambda y, x: _gelu(y)),
        "The first bias is missing.": _mlp(one=0),
        "The second bias is missing.": _mlp(two=0),
        "Both biases are missing.": _mlp(one=0, two=0),
        "Matrices are (in, out): no transpose.": lambda x, f, b, p, c: _mlp()(x, f.T, b, p.T, c),
        "x was added: that is the block's work, not the MLP's.": _mlp(after=lambda y, x: y + x),
        "The norm is the block's work.": lambda x, *w: _mlp()(F.layer_norm(x, x.shape[-1:]), *w),
        "In your GELU the power is not 3.": tuple(_mlp(partial(_gelu, cube=n)) for n in (1, 2)),
        "In your GELU √(2/π), the root of a quotient, is missing, or replaced by another "
        "number.": tuple(_mlp(partial(_gelu, root=f)) for f in (1, ROOT**2, math.pi * ROOT)),
        "In your GELU the constant is not 0.044715.": _mlp(partial(_gelu, by=0.44715)),
        "Brackets: √(2/π) multiplies the cube too.": _mlp(partial(_gelu, by=0.044715 / ROOT)),
        "GELU's factor ½ is missing.": _mlp(lambda x: 2 * _gelu(x)),
    },
    notice="The exact GELU differs by less than 0.001: a comparison sees it, a text hardly does.",
)

# --- 4 ---------------------------------------------------------------------------------------


def _top(chances: Way = lambda z: z.softmax(-1), row: int = -1, largest: bool = True) -> Way:
    return lambda z, k: chances(z)[:, row].topk(k, largest=largest)[::-1]


def _both(chances: Way) -> tuple[Way, Way]:
    """Return two answers with these chances: they choose the ids, or the logits do."""
    return _top(chances), lambda z, k: ((i := _top()(z, k)[0]), chances(z)[:, -1].gather(-1, i))


check_top_next = Exercise(
    name="top_next",
    task="The ids and probabilities of the k likeliest next tokens, the likeliest first.",
    right=lambda logits, k: _top()(logits, k),
    inputs=lambda seed: [
        (2 * draw(*shape, seed=seed).round(decimals=3), k)
        for *shape, k in ((2, 2, 6, 2), (2, 4, 11, 4), (3, 3, 7, 3), (3, 2, 6, 6))
    ],
    use=lambda answer, *call: as_pair(answer(*call), "the ids", "the probabilities"),
    mistakes={
        "These are logits, not probabilities: the softmax is missing.": _top(lambda z: z),
        "These are logarithms: softmax, not log_softmax.": _top(lambda z: z.log_softmax(-1)),
        "The softmax came after the choice, so the k probabilities sum to 1, as if no other token "
        "could come.": lambda z, k: (_top()(z, k)[0], z[:, -1].topk(k).values.softmax(-1)),
        "Logits divided by their sum are not probabilities; those are a softmax of all logits in a "
        "row.": lambda z, k: (_top()(z, k)[0], (b := z[:, -1].topk(k).values) / b.sum(-1, True)),
        "The softmax runs over the positions: dim=-1.": _both(lambda z: z.softmax(1)),
        "The softmax runs over the texts of the batch: dim=-1.": _both(lambda z: z.softmax(0)),
        "You took the first position; the last predicts the next token.": _top(row=0),
        "Only the last position counts: logits[:, -1].": lambda z, k: z.softmax(-1).topk(k)[::-1],
        "logits[-1] is the last text: logits[:, -1].": lambda z, k: z[-1].softmax(-1).topk(k)[::-1],
        "Expected a row for each text.": lambda z, k: z[0, -1].softmax(-1).topk(k)[::-1],
        "These are the least likely tokens.": _top(largest=False),
        "The likeliest comes first.": lambda z, k: [part.flip(-1) for part in _top()(z, k)],
        "First the ids, then their probabilities.": lambda z, k: _top()(z, k)[::-1],
        "k is fixed: use the argument.": tuple(lambda z, _, n=n: _top()(z, n) for n in (1, 3, 5)),
    },
    notice="With k = V the probabilities sum to 1; with less, the chance of the others is missing.",
)
