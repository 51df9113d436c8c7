"""Chapter 7: loops, tensors, recursion, numpy, torch's own functions."""

import math
from operator import mul

import numpy as np
import torch
from torch.nn import functional as F


def greedy(next_logits, prompt, max_new_tokens, stop):
    ids = list(prompt)
    for _ in range(max_new_tokens):
        ids.append(int(torch.argmax(next_logits(ids))))
        if ids[-1] == stop:
            break
    return ids


def greedy_tensors(model, ids, n, end):
    ids = torch.tensor(ids)
    while n > 0:
        best = model(ids).max(dim=-1).indices
        ids, n = torch.cat([ids, best[None]]), 0 if best == end else n - 1
    return ids


def greedy_recursion(model, prompt, n, stop):
    if n == 0:
        return prompt
    best = model(prompt).tolist()
    text = [*prompt, best.index(max(best))]
    return text if text[-1] == stop else greedy_recursion(model, text, n - 1, stop)


class Greedy:
    def __call__(self, next_logits, prompt, max_new_tokens, stop):
        new, done = [], False
        while len(new) < max_new_tokens and not done:
            new.append(next_logits([*prompt, *new]).argmax())
            done = new[-1] == stop
        return np.array([*prompt, *(int(id_) for id_ in new)])


def temper_by_hand(logits, temperature):
    powers = torch.exp((logits - logits.amax(-1, keepdim=True)) / temperature)
    return powers / powers.sum(-1, keepdim=True)


def temper_in_loops(logits, T):
    if logits.dim() > 1:
        return [temper_in_loops(row, T) for row in logits]
    largest = max(logits.tolist())
    powers = [math.exp((z - largest) / T) for z in logits.tolist()]
    return [power / sum(powers) for power in powers]


def top_k_in_loops(z, k):
    if z.dim() > 1:
        return torch.stack([top_k_in_loops(row, k) for row in z])
    least = sorted(z.tolist(), reverse=True)[:k][-1]
    return torch.tensor([value if value >= least else -math.inf for value in z.tolist()])


def top_k(logits, k):
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return torch.where(logits >= least, logits, -1e9)


def top_k_numpy(z, k):
    z = z.double().numpy()
    least = np.sort(z, axis=-1)[..., -min(k, z.shape[-1])]
    return np.where(z < least[..., None], -np.inf, z)


def nucleus(p, top_p):
    ordered, order = p.sort(descending=True)
    kept = ordered * (ordered.cumsum(-1) - ordered < top_p)
    out = torch.zeros_like(p).scatter(-1, order, kept)
    return out / out.sum()


def nucleus_in_loops(p, top_p):
    left, kept = dict(enumerate(p.tolist())), {}
    while left and sum(kept.values()) < top_p:
        best = max(left, key=left.get)
        kept[best] = left.pop(best)
    return [kept.get(id_, 0.0) / sum(kept.values()) for id_ in range(len(p))]


def nucleus_numpy(p, top_p):
    p = p.double().numpy()
    order = np.argsort(-p, kind="stable")
    n = np.searchsorted(np.cumsum(p[order]), top_p - 1e-9) + 1
    out = np.zeros_like(p)
    out[order[:n]] = p[order[:n]]
    return out / out.sum()


def nucleus_by_logits(p, top_p):
    order = p.argsort(descending=True)
    n = int((p[order].cumsum(0) < top_p).sum()) + 1
    return p.log().index_fill(0, order[n:], -math.inf).softmax(0)


def cached(x, W_q, W_k, W_v, cache):
    cache["keys"] = torch.cat([cache["keys"], (x @ W_k)[None]])
    cache["values"] = torch.cat([cache["values"], (x @ W_v)[None]])
    scores = cache["keys"] @ (x @ W_q) / math.sqrt(W_q.shape[1])
    return scores.softmax(-1) @ cache["values"]


def cached_rows(x, W_q, W_k, W_v, cache):
    x = x.unsqueeze(0)
    for name, W in (("keys", W_k), ("values", W_v)):
        cache.update({name: torch.vstack((cache[name], x @ W))})
    return F.scaled_dot_product_attention(x @ W_q, cache["keys"], cache["values"]).numpy()


def cached_in_loops(x, W_q, W_k, W_v, cache):
    cache["keys"] = torch.cat((cache["keys"], (x @ W_k).view(1, -1)), dim=0)
    cache["values"] = torch.cat((cache["values"], (x @ W_v).view(1, -1)), dim=0)
    query = (x @ W_q).tolist()
    scores = [math.exp(sum(map(mul, query, k.tolist())) / len(query) ** 0.5) for k in cache["keys"]]
    return sum(s / sum(scores) * v for s, v in zip(scores, cache["values"], strict=True))


def cached_einsum(x, W_q, W_k, W_v, cache):
    for name, W in {"keys": W_k, "values": W_v}.items():
        cache[name] = torch.cat([cache[name], torch.einsum("c,cd->d", x, W)[None]])
    scores = torch.einsum("c,cd,td->t", x, W_q, cache["keys"]) * W_q.shape[1] ** -0.5
    return torch.einsum("t,td->d", torch.softmax(scores, 0), cache["values"])


RIGHT = {
    "greedy_loop": [greedy, greedy_tensors, greedy_recursion, Greedy()],
    "temper": [
        temper_by_hand,
        temper_in_loops,
        lambda a, b: F.softmax(a / b, -1),
        lambda logits, temperature: (logits.double() / temperature).log_softmax(-1).exp(),
    ],
    "keep_top_k": [
        top_k,
        top_k_in_loops,
        top_k_numpy,
        lambda z, k: z.masked_fill(z < z.sort(-1).values[..., [-min(k, z.shape[-1])]], -math.inf),
    ],
    "nucleus": [nucleus, nucleus_in_loops, nucleus_numpy, nucleus_by_logits],
    "cached_step": [cached, cached_rows, cached_in_loops, cached_einsum],
}
