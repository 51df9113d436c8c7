"""Chapter 6: sums by parts, loops, numpy, einsum, torch's own modules."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def count_by_layers(config):
    C = config.n_embd
    layers = [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)]
    block = sum(a * b + b for a, b in layers) + 2 * 2 * C
    tables = config.vocab_size * C + config.n_positions * C
    return tables + config.n_layer * block + 2 * C


def norm_by_loops(x, weight, bias, eps=1e-5):
    out = []
    for row in x.reshape(-1, x.shape[-1]).tolist():
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / len(row)
        out.append([(value - mean) / math.sqrt(variance + eps) for value in row])
    return np.array(out).reshape(x.shape) * weight.numpy() + bias.numpy()


def norm_module(x, weight, bias, eps=1e-5):
    norm = nn.LayerNorm(x.shape[-1], eps=eps)
    norm.load_state_dict({"weight": weight, "bias": bias})
    return norm(x)


def tanh_gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class Mlp:
    act = nn.GELU("tanh")

    def __call__(self, x, *weights):
        fc, fc_bias, proj, proj_bias = (weight.double() for weight in weights)
        flat = x.double().reshape(-1, x.shape[-1])
        return torch.addmm(proj_bias, self.act(torch.addmm(fc_bias, flat, fc)), proj).view(x.shape)


def mlp_einsum(x, fc_weight, fc_bias, proj_weight, proj_bias):
    hidden = tanh_gelu(torch.einsum("...c,ch->...h", x, fc_weight) + fc_bias)
    return (torch.einsum("...h,hc->...c", hidden, proj_weight) + proj_bias).numpy()


def top_by_sorting(logits, k):
    ids, chances = [], []
    for row in logits[:, -1]:
        weights = np.exp(row.numpy() - row.max().item())
        order = np.argsort(-weights)[:k]
        ids.append(order.tolist())
        chances.append((weights[order] / weights.sum()).tolist())
    return [ids, chances]


def top_by_gather(logits, k):
    chances = torch.softmax(logits, dim=2)[:, -1, :]
    ids = chances.argsort(dim=-1, descending=True)[:, :k]
    return ids, chances.gather(1, ids)


RIGHT = {
    "count_gpt2": [
        count_by_layers,
        lambda c: (c.vocab_size + c.n_positions + 2 + c.n_layer * (12 * c.n_embd + 13)) * c.n_embd,
        lambda c: torch.tensor(count_by_layers(c)),
        lambda config: np.int64(count_by_layers(config)),
    ],
    "layer_norm": [
        norm_by_loops,
        norm_module,
        lambda x, w, b, eps: F.layer_norm(x.double(), w.shape, w.double(), b.double(), eps),
        lambda a, b, c, d: F.layer_norm(a, a.shape[-1:], b, c, d),
    ],
    "mlp": [
        Mlp(),
        mlp_einsum,
        lambda x, a, b, c, d: F.linear(F.gelu(F.linear(x, a.T, b), approximate="tanh"), c.T, d),
        lambda x, a, b, c, d: tanh_gelu(x @ a + b) @ c + d,
    ],
    "top_next": [
        top_by_sorting,
        top_by_gather,
        lambda z, k: tuple(z[:, -1].softmax(1).topk(k))[::-1],
        lambda logits, k: torch.topk(logits[:, -1].double().softmax(-1), k)[::-1],
    ],
}
