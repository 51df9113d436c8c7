"""Homework 5: loops, numpy, torch, keyword names, callable objects, partial."""

import math
from collections import defaultdict
from functools import partial

import numpy as np
import torch

from tests.right_answers import generation
from tests.right_answers.generation import nucleus, nucleus_in_loops, temper_in_loops
from tests.right_answers.tokenization import merge_for, merge_recursion, merge_while, pair_max
from tests.right_answers.training import loss_in_loops


def softmax_numpy(logits):
    e = np.exp(np.asarray(logits) - np.asarray(logits).max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def mha(x, W_q, W_k, W_v, W_o, n_head, hidden=-math.inf):
    B, T, C = x.shape
    q, k, v = ((x @ W).view(B, T, n_head, C // n_head).transpose(1, 2) for W in (W_q, W_k, W_v))
    scores = q @ k.mT / math.sqrt(C // n_head)
    scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), hidden)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C) @ W_o


def mha_in_loops(x, wq, wk, wv, wo, n_head):
    x, wq, wk, wv, wo = (np.asarray(part, dtype=float) for part in (x, wq, wk, wv, wo))
    B, T, C = x.shape
    d, joined = C // n_head, np.zeros((B, T, C))
    for b, h in np.ndindex(B, n_head):
        part = slice(h * d, (h + 1) * d)
        q, k, v = x[b] @ wq[:, part], x[b] @ wk[:, part], x[b] @ wv[:, part]
        for t in range(T):
            e = np.exp(k[: t + 1] @ q[t] / d**0.5)
            joined[b, t, part] = e / e.sum() @ v[: t + 1]
    return joined @ wo


def mha_einsum(x, W_q, W_k, W_v, W_o, n_head):
    q, k, v = ((x @ W).unflatten(-1, (n_head, -1)) for W in (W_q, W_k, W_v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    scores += torch.full(scores.shape[-2:], -torch.inf).triu(1)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2) @ W_o


def lm_loss(logits, ids, pad_id):
    log_p = logits[:, :-1].log_softmax(-1)
    losses = -log_p.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    return losses[ids[:, 1:] != pad_id].mean()


def lm_loss_in_loops(logits, ids, pad_id):
    pairs = [
        (scores, target)
        for row, tokens in zip(logits, ids, strict=True)
        for scores, target in zip(row, tokens[1:], strict=False)
        if target != pad_id
    ]
    return loss_in_loops(*map(torch.stack, zip(*pairs, strict=True)))


def lm_loss_flat(logits, ids, pad):
    targets = ids[:, 1:].reshape(-1)
    scores = logits[:, :-1].reshape(len(targets), -1)
    losses = scores.logsumexp(-1) - scores[torch.arange(len(targets)), targets]
    real = (targets != pad).float()
    return (losses * real).sum() / real.sum()


class Loss:
    def __call__(self, logits, ids, pad_id):
        scores, targets = np.asarray(logits[:, :-1], dtype=float), np.asarray(ids[:, 1:])
        scores = scores - scores.max(-1, keepdims=True)
        log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        return -np.take_along_axis(log_p, targets[..., None], -1)[targets != pad_id].mean()


def probabilities(logits, temperature, top_k, top_p):
    p = generation.top_k(logits / temperature, top_k).softmax(-1)
    return torch.stack([nucleus(row, top_p) for row in p])


def probabilities_in_loops(logits, T, k, top_p):
    tempered = temper_in_loops(generation.top_k_in_loops(logits, k), T)
    return [nucleus_in_loops(torch.tensor(row), top_p) for row in tempered]


def probabilities_numpy(logits, temperature, top_k, top_p):
    z = logits.double().numpy() / temperature
    order = np.argsort(-z, axis=-1)
    ranked = np.take_along_axis(z, order, -1)
    e = np.exp(ranked - ranked[:, :1]) * (np.arange(z.shape[1]) < top_k)
    p = e / e.sum(-1, keepdims=True)
    p *= np.cumsum(p, -1) - p < top_p
    out = np.zeros_like(p)
    np.put_along_axis(out, order, p / p.sum(-1, keepdims=True), -1)
    return out


def draw_in_loops(probabilities, u):
    ids = []
    for row, x in zip(probabilities.tolist(), u.tolist(), strict=True):
        total = 0.0
        for id_, p in enumerate(row):
            total += p
            if total > x:
                ids.append(id_)
                break
    return ids


def bpe(words, n_merges, merge=merge_while):
    merges = []
    while len(merges) < n_merges and any(len(tokens) > 1 for tokens in words):
        merges.append(pair_max(words))
        words = {tuple(merge(tokens, merges[-1])): n for tokens, n in words.items()}
    return merges


def bpe_with_lists(vocabulary, n_merges):
    words = [(list(tokens), count) for tokens, count in vocabulary.items()]
    merges = []
    for _ in range(n_merges):
        counts = defaultdict(int)
        for tokens, count in words:
            for i in range(len(tokens) - 1):
                counts[tokens[i], tokens[i + 1]] += count
        if not counts:
            return merges
        best = sorted(counts.items(), key=lambda item: (item[1], item[0]))[-1][0]
        merges.append(list(best))
        for tokens, _ in words:
            for i in range(len(tokens)):
                if tuple(tokens[i : i + 2]) == best:
                    tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
    return merges


def bpe_recursion(words, n_merges):
    if n_merges == 0 or all(len(tokens) == 1 for tokens in words):
        return []
    best = pair_max(words)
    merged = {tuple(merge_recursion(tokens, best)): n for tokens, n in words.items()}
    return [best, *bpe_recursion(merged, n_merges - 1)]


RIGHT = {
    "softmax": [
        softmax_numpy,
        partial(temper_in_loops, T=1),
        lambda logits: (logits - logits.logsumexp(-1, keepdim=True)).exp(),
        partial(torch.softmax, dim=-1),
    ],
    "multi_head_attention": [mha, mha_in_loops, mha_einsum, partial(mha, hidden=-1e9)],
    "lm_loss": [lm_loss, lm_loss_in_loops, lm_loss_flat, Loss()],
    "sampling_probabilities": [
        probabilities,
        probabilities_in_loops,
        probabilities_numpy,
        lambda logits, temperature, top_k, top_p: probabilities(
            top_k=top_k, top_p=top_p, temperature=temperature, logits=logits.double()
        ),
    ],
    "draw": [
        draw_in_loops,
        lambda p, u: (p.cumsum(-1) <= u[:, None]).sum(-1),
        lambda p, u: torch.searchsorted(p.cumsum(-1), u[:, None], right=True).squeeze(1),
        lambda p, u: np.argmax(np.cumsum(p.numpy(), 1) > u.numpy()[:, None], axis=1),
    ],
    "train_bpe": [bpe, bpe_with_lists, bpe_recursion, partial(bpe, merge=merge_for)],
}
