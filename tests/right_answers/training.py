"""Chapter 8: loops, numpy, lists, torch's own functions, partial, callable objects, recursion."""

import math
from functools import partial

import numpy as np
import torch

from course_utils.gpt import GPT, GPTConfig


def batch_numpy(ids, starts, n):
    both = np.stack([np.asarray(ids)[s : s + n + 1] for s in starts.tolist()])
    return both[:, :-1], both[:, 1:]


def batch_in_loops(ids, starts, block_size):
    x, y = (torch.zeros(len(starts), block_size, dtype=torch.long) for _ in "xy")
    for row, start in enumerate(starts):
        for t in range(block_size):
            x[row, t], y[row, t] = ids[start + t], ids[start + t + 1]
    return x, y


def loss_in_loops(logits, targets):
    losses = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        total = sum(math.exp(value - max(row)) for value in row)
        losses.append(math.log(total) + max(row) - row[target])
    return sum(losses) / len(losses)


class Loss:
    def __call__(self, logits, targets):
        return (logits.logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]).mean()


def count_in_parts(n_layer, n_embd, block_size, vocab_size):
    def linear(a, b):
        return a * b + b

    block = 4 * linear(n_embd, n_embd) + linear(n_embd, 4 * n_embd) + linear(4 * n_embd, n_embd)
    return (2 * vocab_size + block_size + 2) * n_embd + n_layer * (block + 4 * n_embd)


def count_by_recursion(n_layer, C, T, V):
    if n_layer == 0:
        return 2 * V * C + T * C + 2 * C
    return 12 * C**2 + 13 * C + count_by_recursion(n_layer - 1, C, T, V)


def rate(step, steps, warmup_steps, peak, pi=math.pi):
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(pi * progress))


def rate_torch(step, steps, warmup, peak):
    up = torch.linspace(0, peak, warmup + 1)[1:]
    down = peak * torch.cos(torch.linspace(0, math.pi / 2, steps - warmup + 1)) ** 2
    return torch.cat([up, down])[step]


RIGHT = {
    "make_batch": [
        batch_numpy,
        batch_in_loops,
        lambda ids, s, n: [[ids[a + k : a + k + n] for a in s.tolist()] for k in (0, 1)],
        lambda ids, s, n: ids[s[:, None] + torch.arange(n + 1)].unfold(1, n, 1).unbind(1),
    ],
    "cross_entropy": [
        loss_in_loops,
        Loss(),
        lambda x, t: -x.double().log_softmax(-1)[torch.arange(len(t)), t].mean(),
        lambda x, t: sum(-z.log_softmax(0)[k] for z, k in zip(x, t, strict=True)) / len(t),
    ],
    "perplexity": [
        lambda p: torch.exp(-torch.log(p).mean()),
        lambda p: math.exp(-sum(map(math.log, p.tolist())) / len(p)),
        lambda probabilities: 2 ** -np.log2(probabilities.numpy()).mean(),
        lambda p: (p ** (-1 / len(p))).prod(),
    ],
    "count_parameters": [
        count_in_parts,
        count_by_recursion,
        lambda n, C, T, V: GPT(GPTConfig(V, T, n, 1, C)).num_parameters(),
        lambda L, C, T, V: np.dot([2 * V + T + 2 + 13 * L, 12 * L * C], [C, C]),
    ],
    "learning_rate": [
        rate,
        rate_torch,
        partial(rate, pi=np.pi),
        lambda s, n, w, p: p * min((s + 1) / w, np.cos(np.pi / 2 * max(0, (s - w) / (n - w))) ** 2),
    ],
}
