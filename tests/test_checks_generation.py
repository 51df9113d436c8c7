"""The checks of chapter 7: right answers pass, wrong ones are told why."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from course_utils.sampling import keep_top_k, keep_top_p

RIGHT, MISTAKES, PRAISE = {}, {}, {}  # run by test_checks.py

INF = math.inf


# --- the greedy loop -----------------------------------------------------------------------------


def greedy(next_logits, prompt, max_new_tokens, stop, pick=torch.argmax, see=lambda ids: ids):
    ids = list(prompt)
    for _ in range(max_new_tokens):
        ids.append(int(pick(next_logits(see(ids)))))
        if ids[-1] == stop:
            break
    return ids


def greedy_with_tensors(model, ids, n, end):
    ids = torch.tensor(ids)
    while n > 0:
        best = model(ids).max(dim=-1).indices
        ids, n = torch.cat([ids, best[None]]), 0 if best == end else n - 1
    return ids


RIGHT["check_greedy_loop"] = [greedy, greedy_with_tensors]


def drawing(model, prompt, n, stop):
    return greedy(model, prompt, n, stop, pick=lambda z: torch.multinomial(z.softmax(-1), 1))


def changing_the_prompt(model, prompt, n, stop):
    for _ in range(n):
        prompt.append(int(model(prompt).argmax()))
        if prompt[-1] == stop:
            break
    return prompt


def stopping_before(model, prompt, n, stop):
    ids = greedy(model, prompt, n, stop)
    return ids[:-1] if ids[-1] == stop and n else ids


def stopping_in_the_prompt(model, prompt, n, stop):
    return list(prompt) if stop in prompt else greedy(model, prompt, n, stop)


MISTAKES["check_greedy_loop"] = [
    (lambda m, p, n, s: greedy(m, p, n, s)[len(p) :], "new tokens only"),
    (lambda m, p, n, s: greedy(m, p, n + 1, s), "one token too many"),
    (lambda m, p, n, s: greedy(m, p, n - 1, s), "one token too few"),
    (lambda m, p, n, s: greedy(m, p, n - len(p), s), "counted the prompt"),
    (lambda m, p, n, s: greedy(m, p, n, s, pick=torch.argmin), "smallest"),
    (lambda m, p, n, s: greedy(m, p, n, s, see=lambda ids: ids[-1:]), "last token only"),
    (lambda m, p, n, s: greedy(m, p, n, s, see=lambda ids: ids[: len(p)]), "prompt alone"),
    (lambda m, p, n, s: greedy(m, p, n, s, see=lambda ids: ids[::-1]), "your text is"),
    (lambda m, p, n, s: greedy(m, p, n, None), "went on after it"),
    (lambda m, p, n, s: greedy(m, p, max(n, 1), s), "max_new_tokens=0"),
    (stopping_before, "left it out"),
    (stopping_in_the_prompt, "stop token in the prompt"),
    (changing_the_prompt, "prompt has grown"),
    (drawing, "two texts"),
    (lambda m, p, n, s: None, "None"),
    (lambda m, p, n, s: torch.tensor([greedy(m, p, n, s)]), "shape"),
    (lambda m, p, n, s: (greedy(m, p, n, s), 0), "tuple"),
]


# --- temperature ---------------------------------------------------------------------------------


def by_hand(logits, T):
    powers = torch.exp((logits - logits.amax(-1, keepdim=True)) / T)
    return powers / powers.sum(-1, keepdim=True)


def by_loops(logits, T):
    if logits.dim() == 2:
        return np.stack([by_loops(row, T) for row in logits])
    largest = max(logits.tolist())
    powers = [math.exp((z - largest) / T) for z in logits.tolist()]
    return np.array([power / sum(powers) for power in powers])


RIGHT["check_temper"] = [
    lambda z, T: (z / T).softmax(-1),
    lambda a, b: F.softmax(a / b, -1),
    by_hand,
    by_loops,
]
PRAISE["check_temper"] = ["lead of 1"]


MISTAKES["check_temper"] = [
    (lambda z, T: (z * T).softmax(-1), "multiplied"),
    (lambda z, T: z / T, "softmax is missing"),
    (lambda z, T: z.softmax(-1) / T, "no longer sum to 1"),
    (lambda z, T: z.softmax(-1), "no difference"),
    (lambda z, T: (z.softmax(-1) / T) / (z.softmax(-1) / T).sum(), "it cancelled"),
    (lambda z, T: (z.softmax(-1) / T).softmax(-1), "second softmax"),
    (lambda z, T: (z / T).softmax(-1).softmax(-1), "not logits"),
    (
        lambda z, T: z.softmax(-1) ** T / (z.softmax(-1) ** T).sum(-1, keepdim=True),
        "as a power",
    ),
    (lambda z, T: z.softmax(-1) ** (1 / T), "divide by their sum"),
    (lambda z, T: (z / T).exp(), "exponentials"),
    (lambda z, T: (z / T).exp() / (z / T).exp().sum(-1, keepdim=True), "overflow"),
    (lambda z, T: (z / T).softmax(0), "over the batch"),
    (lambda z, T: (z / T).flatten().softmax(-1).view_as(z), "share one sum"),
    (lambda z, T: (z / T).sigmoid(), "sum to"),
    (lambda z, T: z.div_(T).softmax(-1), "changed in place"),
    (lambda z, T: (z / (T + 0.5)).softmax(-1), "no difference"),
    (lambda z, T: (z / (T + 0.1)).softmax(-1), "differ from"),
    (lambda z, T: (z / T).max(), "shape"),
    (lambda z, T: (z / T).max(-1), "tuple"),
    (lambda z, T: None, "None"),
]


# --- top-k ---------------------------------------------------------------------------------------


def threshold(z, k):
    return z.topk(min(k, z.shape[-1]), dim=-1).values[..., -1:]


def top_k_by_loops(z, k):
    if z.dim() == 2:
        return torch.stack([top_k_by_loops(row, k) for row in z])
    least = sorted(z.tolist(), reverse=True)[:k][-1]
    return torch.tensor([value if value >= least else -INF for value in z.tolist()])


def by_scatter(z, k):
    best = z.topk(min(k, z.shape[-1]), dim=-1)
    return torch.full_like(z, -INF).scatter(-1, best.indices, best.values)


RIGHT["check_keep_top_k"] = [
    keep_top_k,
    lambda z, k: torch.where(z >= threshold(z, k), z, -1e9),
    lambda z, k: z.masked_fill(z < z.sort(-1).values[..., -min(k, z.shape[-1])][..., None], -INF),
    top_k_by_loops,
]


def top_k_in_place(z, k):
    z[z < threshold(z, k)] = -INF
    return z


def too_strict_with_ties(z, k):
    kept = keep_top_k(z, k)
    return kept if kept.isfinite().sum(-1).max() <= k else z.masked_fill(z <= threshold(z, k), -INF)


MISTAKES["check_keep_top_k"] = [
    (lambda z, k: torch.where(z >= threshold(z, k), z, 0.0), "exp(0)"),
    (top_k_in_place, "changed in place"),
    (by_scatter, "ties"),
    (too_strict_with_ties, "ties"),
    (lambda z, k: z.topk(k).values, "stay (V,)"),
    (lambda z, k: z.topk(k).indices, "ids"),
    (lambda z, k: z.topk(k), "tuple"),
    (lambda z, k: keep_top_k(z, k).softmax(-1), "probabilities"),
    (lambda z, k: z >= threshold(z, k), "mask"),
    (lambda z, k: -keep_top_k(-z, k), "stay (V,)|smallest|kept"),
    (lambda z, k: z.masked_fill(z > z.sort().values[k - 1], -INF), "smallest"),
    (lambda z, k: z.masked_fill(z >= threshold(z, k), -INF), "other way round"),
    (lambda z, k: z.masked_fill(z <= threshold(z, k), -INF), "removes the threshold"),
    (lambda z, k: keep_top_k(z, k + 1), "one too many"),
    (lambda z, k: z.masked_fill(torch.arange(z.shape[-1]) >= k, -INF), "first k"),
    (lambda z, k: z, "Nothing was taken out"),
    (lambda z, k: z.masked_fill(z < z.flatten().topk(k).values[-1], -INF), "whole batch"),
    (lambda z, k: keep_top_k(z, k) if z.dim() == 1 else z, "threshold of its own"),
    (lambda z, k: z.masked_fill(z < z.topk(k).values[..., -1:], -INF), "larger than the vocab"),
    (lambda z, k: keep_top_k(z, 5), "you kept 5"),
    (lambda z, k: None, "None"),
]


# --- top-p ---------------------------------------------------------------------------------------


def nucleus(p, top_p, before=True, descending=True, unsort=True, renormalise=True):
    """Return the nucleus, right unless a part is replaced."""
    ordered, order = p.sort(descending=descending)
    sums = ordered.cumsum(-1)
    kept = (sums - ordered < top_p) if before else (sums <= top_p)
    out = ordered * kept
    if unsort:
        out = torch.zeros_like(p).scatter(-1, order, out)
    return out / out.sum() if renormalise else out


def nucleus_by_loops(p, top_p):
    left = dict(enumerate(p.tolist()))
    kept = {}
    while left and sum(kept.values()) < top_p:
        best = max(left, key=left.get)
        kept[best] = left.pop(best)
    return np.array([kept.get(id_, 0.0) / sum(kept.values()) for id_ in range(len(p))])


RIGHT["check_nucleus"] = [
    nucleus,
    nucleus_by_loops,
    lambda p, t: keep_top_p(p.log(), t).softmax(-1),
]
PRAISE["check_nucleus"] = ["follows the model"]


def in_the_order_of_the_vocabulary(p, top_p):
    kept = p * (p.cumsum(-1) - p < top_p)
    return kept / kept.sum()


def at_least_one_of_the_crossing(p, top_p):
    """Drop the crossing token unless it is the only one: right at 0.3, wrong at 0.7."""
    out = nucleus(p, top_p, before=False)
    return nucleus(p, top_p) if out.isnan().any() else out


def in_place(p, top_p):
    p *= nucleus(p, top_p) > 0
    return p / p.sum()


MISTAKES["check_nucleus"] = [
    (lambda p, t: nucleus(p, t, before=False), "crosses the threshold"),
    (lambda p, t: nucleus(p, t, before=False, renormalise=False), "crosses the threshold"),
    (at_least_one_of_the_crossing, "crosses the threshold"),
    (lambda p, t: nucleus(p, t, unsort=False), "sorted order"),
    (lambda p, t: nucleus(p, t, unsort=False, renormalise=False), "sorted order"),
    (lambda p, t: nucleus(p, t, renormalise=False), "no longer sum to 1"),
    (in_the_order_of_the_vocabulary, "order of the vocabulary"),
    (lambda p, t: p * (p.cumsum(-1) <= t), "order of the vocabulary"),
    (lambda p, t: nucleus(p, t, before=False, descending=False), "rarest"),
    (lambda p, t: p * (p >= t), "at least top_p"),
    (lambda p, t: nucleus(p, t, renormalise=False).softmax(-1), "softmax of probabilities"),
    (lambda p, t: p, "Nothing was taken out"),
    (lambda p, t: nucleus(p, t) * 0.5, "must sum to 1"),
    (lambda p, t: nucleus(p, min(t + 0.1, 0.99)), "you kept"),
    (lambda p, t: nucleus(p, t) if t > 0.5 else p * 0, "kept none"),
    (lambda p, t: nucleus(p, max(t, 0.6)), "only the most likely"),
    (lambda p, t: nucleus(p, t) if len(p) < 9 else p, "500"),
    (in_place, "changed in place"),
    (lambda p, t: nucleus(p, t)[:3], "shape"),
    (lambda p, t: None, "None"),
]


# --- the KV cache --------------------------------------------------------------------------------


def cached_step(
    x, W_q, W_k, W_v, cache, scale=True, mask=False, late=False, front=False, one=False
):
    """One step with a cache, right unless a part is replaced."""
    query, key, value = x @ W_q, (x @ W_k)[None], (x @ W_v)[None]
    keys, values = cache["keys"], cache["values"]
    if front:
        cache["keys"], cache["values"] = torch.cat([key, keys]), torch.cat([value, values])
    else:
        cache["keys"], cache["values"] = torch.cat([keys, key]), torch.cat([values, value])
    if one:
        keys, values = key, value
    elif not late:
        keys, values = cache["keys"], cache["values"]
    scores = keys @ query / (math.sqrt(len(query)) if scale else 1)
    if mask:
        scores = scores.masked_fill(~torch.ones(1, len(keys), dtype=torch.bool).tril()[0], -INF)
    return scores.softmax(-1) @ values


def cached_by_torch(x, W_q, W_k, W_v, cache):
    cache["keys"] = torch.vstack([cache["keys"], x @ W_k])
    cache["values"] = torch.vstack([cache["values"], x @ W_v])
    q, k, v = (x @ W_q)[None], cache["keys"], cache["values"]
    return F.scaled_dot_product_attention(q[None], k[None], v[None])[0, 0].numpy()


RIGHT["check_cached_step"] = [cached_step, cached_by_torch]
PRAISE["check_cached_step"] = ["No mask"]


def recomputing():
    texts = []

    def step(x, W_q, W_k, W_v, cache):
        if len(cache["keys"]) == 0:
            texts.clear()
        texts.append(x)
        everything = torch.stack(texts)
        cache["keys"], cache["values"] = everything @ W_k, everything @ W_v
        scores = cache["keys"] @ (x @ W_q) / math.sqrt(W_q.shape[1])
        return scores.softmax(-1) @ cache["values"]

    return step


def forgetting(x, W_q, W_k, W_v, cache):
    return cached_step(x, W_q, W_k, W_v, dict(cache))


def overwriting(x, W_q, W_k, W_v, cache):
    cache["keys"], cache["values"] = (x @ W_k)[None], (x @ W_v)[None]
    return cache["values"][0]


def keys_only(x, W_q, W_k, W_v, cache):
    values = cache["values"]
    out = cached_step(x, W_q, W_k, W_v, cache)
    cache["values"] = values
    return out


def caching_queries(x, W_q, W_k, W_v, cache):
    keys = cache["keys"]
    out = cached_step(x, W_q, W_k, W_v, cache)
    cache["keys"] = torch.cat([keys, (x @ W_q)[None]])
    return out


MISTAKES["check_cached_step"] = [
    (forgetting, "as they were"),
    (keys_only, "values in the cache are as they were"),
    (overwriting, "older ones are gone"),
    (caching_queries, "appended the query"),
    (lambda *a: cached_step(*a, late=True), "before you appended"),
    (lambda *a: cached_step(*a, front=True), "in front"),
    (lambda *a: cached_step(*a, scale=False), "not divided"),
    (lambda *a: cached_step(*a, mask=True), "mask for one query"),
    (lambda *a: cached_step(*a, one=True), "own value only"),
    (lambda *a: cached_step(*a) * 0 + a[4]["values"].mean(0), "plain mean"),
    (lambda *a: cached_step(*a) + 1, "differs from the last row"),
    (lambda x, q, k, v, cache: cached_step(2 * x, q, k, v, cache), "is not x @ W_k"),
    (lambda *a: cached_step(*a)[:2], "shape"),
    (lambda *a: (cached_step(*a), a[4]), "tuple"),
    (lambda *a: None, "None"),
    (recomputing(), "exchanged for others"),
]
