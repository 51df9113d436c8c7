"""The checks of chapter 6: right answers pass, wrong ones are told why."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from course_checks import gpt2 as checks

RIGHT, MISTAKES, PRAISE = {}, {}, {}  # run by test_checks.py


@pytest.mark.parametrize("name", [name for name in checks.__all__ if name.startswith("check_")])
def test_nothing_returned(name):
    verdict = getattr(checks, name)(lambda *_: None)
    assert verdict.passed is False
    assert "returned None" in verdict.message


# --- parameter count -----------------------------------------------------------------------------


def count(config, **changes):
    """Return the number of parameters, right unless a part of the sum is replaced."""
    C, L = config.n_embd, config.n_layer
    part = {
        "wte": config.vocab_size * C,
        "wpe": config.n_positions * C,
        "c_attn": C * 3 * C + 3 * C,
        "attn_proj": C * C + C,
        "mlp": C * 4 * C + 4 * C + 4 * C * C + C,
        "norms": 2 * 2 * C,
        "ln_f": 2 * C,
        "head": 0,
        "blocks": L,
    } | {name: change(config) for name, change in changes.items()}
    block = part["c_attn"] + part["attn_proj"] + part["mlp"] + part["norms"]
    tables = part["wte"] + part["wpe"] + part["head"]
    return tables + part["blocks"] * block + part["ln_f"]


def count_by_rule(config):
    C = config.n_embd
    blocks = config.n_layer * (12 * C**2 + 13 * C)
    return torch.tensor(blocks + (config.vocab_size + config.n_positions + 2) * C)


RIGHT["check_count_gpt2"] = [count, count_by_rule, lambda c: np.int64(count(c))]
PRAISE["check_count_gpt2"] = ["n_head"]


def without_biases(config):
    return count(
        config,
        c_attn=lambda c: 3 * c.n_embd**2,
        attn_proj=lambda c: c.n_embd**2,
        mlp=lambda c: 8 * c.n_embd**2,
    )


MISTAKES["check_count_gpt2"] = [
    (lambda c: count(c, head=lambda c: c.vocab_size * c.n_embd), "tied"),
    (lambda c: count(c, wpe=lambda c: 0), "position table"),
    (lambda c: count(c, ln_f=lambda c: 0), "final norm"),
    (without_biases, "biases of the four"),
    (lambda c: without_biases(c) - (2 * c.n_layer + 1) * c.n_embd, "All biases"),
    (lambda c: count(c) - (2 * c.n_layer + 1) * c.n_embd, "shifts of the norms"),
    (lambda c: count(c, norms=lambda c: 0), "two norms"),
    (lambda c: count(c, norms=lambda c: 0, ln_f=lambda c: 0), "All norms"),
    (lambda c: count(c, wte=lambda c: 0), "token table"),
    (lambda c: count(c, wte=lambda c: 0, wpe=lambda c: 0), "Both tables"),
    (lambda c: count(c, blocks=lambda c: 1), "Only one block"),
    (lambda c: count(c, attn_proj=lambda c: 0), "attn.c_proj"),
    (lambda c: count(c, c_attn=lambda c: c.n_embd**2 + c.n_embd), "C x 3C, not C x C"),
    (lambda c: count(c, mlp=lambda c: 2 * (c.n_embd**2 + c.n_embd)), "four times as wide"),
    (
        lambda c: count(c, c_attn=lambda c: c.n_head * 3 * (c.n_embd**2 + c.n_embd)),
        "multiplied by n_head",
    ),
    (lambda c: count(c) + 1, "part by part"),
    (lambda c: "124M", "expected one number"),
    (lambda c: c.width, "stopped"),
]


# --- layer norm ----------------------------------------------------------------------------------


def norm(correction=0, dims=-1, divide=None, mean=True, affine=lambda y, w, b: y * w + b):
    """Return a layer norm, right unless a part of it is replaced."""

    def layer_norm(x, weight, bias, eps):
        centred = x - x.mean(dims, keepdim=True) if mean else x
        variance = x.var(dims, keepdim=True, correction=correction)
        below = (variance + eps).sqrt() if divide is None else divide(variance, eps)
        return affine(centred / below, weight, bias)

    return layer_norm


def norm_by_loops(x, weight, bias, eps):
    rows = x.reshape(-1, x.shape[-1]).tolist()
    out = []
    for row in rows:
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / len(row)
        out.append([(value - mean) / math.sqrt(variance + eps) for value in row])
    return np.array(out).reshape(x.shape) * weight.numpy() + bias.numpy()


RIGHT["check_layer_norm"] = [
    norm(),
    norm_by_loops,
    lambda a, b, c, d: F.layer_norm(a, a.shape[-1:], b, c, d),
]
PRAISE["check_layer_norm"] = ["pattern"]


def norm_in_place(x, weight, bias, eps):
    x -= x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def weight_first(x, weight, bias, eps):
    return norm()(x * weight + bias, torch.ones_like(weight), torch.zeros_like(bias), eps)


def only_three_dimensions(x, weight, bias, eps):
    return (
        norm(dims=2)(x, weight, bias, eps)
        if x.dim() == 3
        else norm(dims=0)(x, weight, bias, eps) * 2
    )


MISTAKES["check_layer_norm"] = [
    (norm(correction=1), "unbiased"),
    (norm(correction=1, divide=lambda v, e: v.sqrt() + e), "unbiased"),
    (norm(divide=lambda v, e: v.sqrt() + e), "outside of the root"),
    (norm(divide=lambda v, e: v.sqrt()), "not used"),
    (norm(divide=lambda v, e: (v + e).sqrt() + e), "twice"),
    (norm(divide=lambda v, e: (v + 1e-5).sqrt()), "fixed 1e-5"),
    (norm(divide=lambda v, e: v + e), "square root"),
    (norm(divide=lambda v, e: 1), "division is missing"),
    (norm(dims=-2), "wrong axis"),
    (norm(dims=(-2, -1)), "together"),
    (norm(dims=(0, 1, 2)), "batch too"),
    (norm(dims=(0, 1)), "batch norm"),
    (norm(mean=False), "mean was not subtracted"),
    (
        lambda x, w, b, e: x / (x.square().mean(-1, keepdim=True) + e).sqrt() * w + b,
        "RMS norm",
    ),
    (norm(affine=lambda y, w, b: y), "not scaled and shifted"),
    (norm(affine=lambda y, w, b: y * w), "not shifted"),
    (norm(affine=lambda y, w, b: y + b), "not scaled"),
    (norm(affine=lambda y, w, b: (y + b) * w), "before multiplying"),
    (weight_first, "before the normalisation"),
    (norm_in_place, "in place"),
    (lambda x, w, b, e: norm()(x, w, b, e).mean(-1), "shape"),
    (lambda x, w, b: x, "stopped"),
    (only_three_dimensions, "one vector"),
    (norm(affine=lambda y, w, b: y * w + 2 * b), "with them it differs"),
    (norm(affine=lambda y, w, b: 1.1 * y), "With weight 1"),
    (lambda x, w, b, e: (x, w), "tuple"),
]


def test_a_flat_position_without_eps_is_found():
    def wrong(x, weight, bias, eps):
        flat = x.std() == 0
        return x / 0 if flat else norm()(x, weight, bias, eps)

    assert "all equal" in checks.check_layer_norm(wrong).message


# --- MLP -----------------------------------------------------------------------------------------


def tanh_gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mlp(act=tanh_gelu, first=lambda x: x, last=lambda y: y, biases=(1, 1)):
    """Return an MLP, right unless a part of it is replaced."""

    def run(x, w1, b1, w2, b2):
        hidden = act(first(x) @ w1 + biases[0] * b1)
        return last(hidden @ w2 + biases[1] * b2)

    return run


def mlp_by_linear(x, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(x, w1.T, b1), approximate="tanh"), w2.T, b2)


RIGHT["check_mlp"] = [mlp(), mlp_by_linear, lambda *a: mlp()(*a).detach().numpy()]
PRAISE["check_mlp"] = ["exact GELU"]


def gelu_with(inner):
    return lambda x: 0.5 * x * (1 + torch.tanh(inner(x)))


ROOT = math.sqrt(2 / math.pi)


MISTAKES["check_mlp"] = [
    (mlp(F.gelu), "exact GELU"),
    (mlp(F.relu), "ReLU"),
    (mlp(lambda x: x), "activation is missing"),
    (mlp(lambda x: x * torch.sigmoid(1.702 * x)), "1.702"),
    (mlp(F.silu), "SiLU"),
    (mlp(torch.tanh), "tanh alone"),
    (mlp(biases=(0, 1)), "first bias"),
    (mlp(biases=(1, 0)), "second bias"),
    (mlp(biases=(0, 0)), "Both biases"),
    (mlp(lambda x: x, last=tanh_gelu), "after the second layer"),
    (mlp(lambda x: x, first=tanh_gelu), "before the first layer"),
    (mlp(last=tanh_gelu), "second GELU"),
    (lambda x, *w: x + mlp()(x, *w), "residual"),
    (mlp(first=lambda x: F.layer_norm(x, x.shape[-1:])), "norm belongs to the block"),
    (mlp(gelu_with(lambda x: ROOT * (x + 0.044715 * x))), "cube is missing"),
    (mlp(gelu_with(lambda x: 2 / math.pi * (x + 0.044715 * x**3))), "lost its root"),
    (mlp(gelu_with(lambda x: x + 0.044715 * x**3)), "√(2/π) is missing"),
    (mlp(lambda x: 2 * tanh_gelu(x)), "½"),
    (mlp(gelu_with(lambda x: ROOT * (x + 0.44715 * x**3))), "0.44715;"),
    (lambda x, w1, b1, w2, b2: tanh_gelu(x @ w1 + b1), "hidden width"),
    (lambda x, w1, b1, w2, b2: F.linear(x, w1, b1), "(in, out)"),
    (lambda x, w1, b1, w2, b2: mlp()(x, w1, b1, w2, b2)[0], "shape"),
    (
        lambda x, w1, b1, w2, b2: (
            mlp()(x, w1.T, b1, w2.T, b2) if w1.shape[0] == w1.shape[1] else mlp()(x, w1, b1, w2, b2)
        ),
        "turned on their side",
    ),
    (
        lambda x, w1, b1, w2, b2: x if w1.shape[0] == w1.shape[1] else mlp()(x, w1, b1, w2, b2),
        "hidden width is not 4C",
    ),
    (mlp(last=lambda y: 2 * y), "numbers differ"),
    (lambda x: x, "stopped"),
]


# --- the likeliest next tokens -------------------------------------------------------------------


def top(row=-1, softmax=lambda z: z.softmax(-1), after=lambda p: p, k_of=lambda k: k):
    """Return a top_next, right unless a part of it is replaced."""

    def top_next(logits, k):
        chances, ids = after(softmax(logits)[:, row]).topk(k_of(k))
        return ids, chances

    return top_next


def top_by_sorting(logits, k):
    ids, chances = [], []
    for row in logits[:, -1]:
        weights = np.exp(row.numpy() - row.max().item())
        order = np.argsort(-weights)[:k]
        ids.append(order.tolist())
        chances.append((weights[order] / weights.sum()).tolist())
    return [ids, chances]


RIGHT["check_top_next"] = [
    top(),
    top_by_sorting,
    lambda z, k: tuple(z[:, -1].softmax(1).topk(k))[::-1],
]
PRAISE["check_top_next"] = ["100%"]


def ids_from_logits(chances):
    """Take the ids from the logits, which is right, and the probabilities from elsewhere."""

    def top_next(logits, k):
        ids = logits[:, -1].topk(k).indices
        return ids, chances(logits).gather(-1, ids)

    return top_next


MISTAKES["check_top_next"] = [
    (top(row=0), "wrong row"),
    (top(row=-2), "last position but one"),
    (lambda z, k: tuple(top()(z, k))[::-1], "exchanged"),
    (lambda z, k: z.softmax(-1).topk(k)[::-1], "for every position"),
    (lambda z, k: top()(z[:1], k), "shape"),
    (top(softmax=lambda z: z), "logits, not probabilities"),
    (top(softmax=lambda z: z.log_softmax(-1)), "logarithms"),
    (lambda z, k: (top()(z, k)[0], z[:, -1].topk(k).values.softmax(-1)), "sum to 1"),
    (top(after=lambda p: 100 * p), "percentages"),
    (top(softmax=lambda z: z.softmax(1)), "wrong axis"),
    (top(softmax=lambda z: z.softmax(0)), "wrong axis"),
    (ids_from_logits(lambda z: z.softmax(1)[:, -1]), "the positions: dim=-1"),
    (ids_from_logits(lambda z: z.softmax(0)[:, -1]), "the texts of the batch: dim=-1"),
    (ids_from_logits(lambda z: z.flatten().softmax(0).view_as(z)[:, -1]), "at once"),
    (ids_from_logits(lambda z: z[:, 0].softmax(-1)), "after the first position"),
    (ids_from_logits(lambda z: 2 * z[:, -1].softmax(-1)), "The ids are right"),
    (lambda z, k: tuple(part.flip(-1) for part in top()(z, k)), "turn the order"),
    (lambda z, k: z[:, -1].softmax(-1).topk(k, largest=False)[::-1], "least likely"),
    (lambda z, k: (torch.zeros(len(z), k), torch.zeros(len(z), k)), "not the k tokens"),
    (lambda z, k: z[:, -1].topk(k).indices, "two things"),
]
