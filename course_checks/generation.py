"""Exercises of chapter 7: the greedy loop, temperature, top-k, top-p, attention with a KV cache."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from course_checks import Verdict, Wrong
from course_checks.answers import as_tensor, draw
from course_checks.exercises import Exercise, Way

__all__ = [
    "FILTERED",
    "NUCLEI",
    "Verdict",
    "check_cached_step",
    "check_greedy_loop",
    "check_keep_top_k",
    "check_nucleus",
    "check_temper",
    "nucleus",
    "top_k",
]

INF = math.inf

# --- 1: the greedy loop ----------------------------------------------------------------------


def _scripted(seed: int, V: int = 8) -> Callable[[Sequence[int]], Tensor]:
    """Return a stand-in for a model: logits ``(V,)`` that depend on the whole text."""

    def next_logits(ids: Sequence[int]) -> Tensor:
        ids = [int(id_) for id_ in ids]
        if not ids:
            raise Wrong("You asked for the next token of an empty text; start from the prompt.")
        number = sum((place + 1) * (id_ + 3) ** 2 for place, id_ in enumerate(ids))
        return draw(V, seed=number + 10_000 * seed)

    return next_logits


def _greedy(
    next_logits: Callable,
    prompt: Sequence[int],
    max_new_tokens: int,
    stop: int | None,
    pick: Callable = torch.argmax,
    see: Callable = lambda ids: ids,
) -> list[int]:
    ids = list(prompt)
    for _ in range(max_new_tokens):
        ids.append(int(pick(next_logits(see(ids)))))
        if ids[-1] == stop:
            break
    return ids


def _greedy_inputs(seed: int) -> list[tuple]:
    """Return calls without a stop, with one that comes, one in the prompt, and no new token."""
    while True:  # until the text has a token that can stop it midway
        model, never = _scripted(seed), 99
        text = _greedy(model, [3, 1, 4], 6, None)
        stops = [id_ for id_ in text[4:-1] if id_ not in text[:4]]
        if stops and len(set(text[3:])) > 2 and text[3] != text[2]:
            break
        seed += 1_000_003
    calls = [([3], 1, never), ([3, 1, 4], 6, never), ([3, 1, 4], 6, stops[0])]
    calls += [([3, 1, 4], 6, 3), ([3, 1, 4], 0, never)]
    return [(model, *call) for call in calls]


def _stopping_before(model: Callable, prompt: list, n: int, stop: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n):
        best = int(model(ids).argmax())
        if best == stop:
            break
        ids.append(best)
    return ids


def _stopping_in_the_prompt(model: Callable, prompt: list, n: int, stop: int) -> list[int]:
    ids = list(prompt)
    while stop not in ids and len(ids) < len(prompt) + n:
        ids.append(int(model(ids).argmax()))
    return ids


def _prompt_alone_on_stop(model: Callable, prompt: list, n: int, stop: int) -> list[int]:
    ids = _greedy(model, prompt, n, stop)
    return ids[len(prompt) :] if ids[-1] == stop and n else ids


check_greedy_loop = Exercise(
    name="greedy_loop",
    task="The prompt and its continuation, the likeliest token each time, until a stop token.",
    right=lambda next_logits, prompt, max_new_tokens, stop: _greedy(
        next_logits, prompt, max_new_tokens, stop
    ),
    inputs=_greedy_inputs,
    mistakes={
        "You returned the new tokens only; the text begins with the prompt.": (
            lambda m, p, n, s: _greedy(m, p, n, s)[len(p) :]
        ),
        "That is one token too many: max_new_tokens counts the new ones.": (
            lambda m, p, n, s: _greedy(m, p, n + 1, s)
        ),
        "That is one token too few: max_new_tokens counts the new ones.": (
            lambda m, p, n, s: _greedy(m, p, n - 1, s)
        ),
        "max_new_tokens counts new tokens; you counted the prompt as well.": (
            lambda m, p, n, s: _greedy(m, p, n - len(p), s)
        ),
        "You took the smallest logit, not the largest.": (
            lambda *call: _greedy(*call, pick=torch.argmin)
        ),
        "You showed the model the last token only. It needs the whole text so far, each time: the "
        "next token depends on all of it.": lambda *call: _greedy(*call, see=lambda ids: ids[-1:]),
        "You chose every token from the prompt alone: append each choice to the text, and ask "
        "again.": lambda m, p, n, s: _greedy(m, p, n, s, see=lambda ids: ids[: len(p)]),
        "You showed the model the new tokens alone from the second step on; the prompt belongs to "
        "the text.": lambda m, p, n, s: _greedy(m, p, n, s, see=lambda ids: ids[len(p) :] or p),
        "The stop token came, and your text went on after it.": (
            lambda m, p, n, s: _greedy(m, p, n, None)
        ),
        "The stop token itself belongs to the text; you left it out.": _stopping_before,
        "A stop token in the prompt ended the text before it began: only a new token may end "
        "it.": _stopping_in_the_prompt,
        "When the stop token comes, you return the text without its prompt.": (
            _prompt_alone_on_stop
        ),
        "With max_new_tokens=0 the text is the prompt, unchanged; yours has a token more.": (
            lambda m, p, n, s: _greedy(m, p, max(n, 1), s)
        ),
        "You always chose the second likeliest token: the list of the sorted logits begins at 0.": (
            lambda *call: _greedy(*call, pick=lambda z: z.topk(2).indices[1])
        ),
    },
    notice="Nothing in the loop ever goes back: a greedy choice cannot be regretted.",
)

# --- 2: temperature --------------------------------------------------------------------------


def _temper_inputs(seed: int) -> list[tuple]:
    few, row, many = 2 * draw(2, seed=seed), 2 * draw(6, seed=seed), 2 * draw(3, 5, seed=seed)
    large = torch.tensor([300.0, 290.0, -300.0])
    calls = [(few.round(decimals=1), 0.5), (row, 0.5), (row, 2.0), (row, 1.0), (many, 2.0)]
    calls += [(2 * draw(2, 3, 4, seed=seed), 0.7), (large, 0.01), (large + 1000, 0.5)]
    return [*calls, (large, 100.0)]


def _shares(powers: Tensor) -> Tensor:
    return powers / powers.sum(-1, keepdim=True)


def _less_the_mean(logits: Tensor, T: float) -> Tensor:
    return _shares(((logits - logits.mean(-1, keepdim=True)) / T).exp())


check_temper = Exercise(
    name="temper",
    task="The probabilities at a temperature, softmax(logits / temperature).",
    right=lambda logits, temperature: (logits / temperature).softmax(-1),
    inputs=_temper_inputs,
    shape="(..., V)",
    mistakes={
        "You multiplied by the temperature (or took it as a power, which is the same): divide, so "
        "that a low one makes the likely tokens likelier.": (
            lambda z, T: (z * T).softmax(-1),
            lambda z, T: _shares(z.softmax(-1) ** T),
        ),
        "These are the tempered logits; the softmax is missing.": lambda z, T: z / T,
        "You divided the probabilities by the temperature, and they no longer sum to 1. Divide the "
        "logits, before the softmax.": lambda z, T: z.softmax(-1) / T,
        "The temperature made no difference. If you divided probabilities by it and normalised "
        "again, or subtracted it, it cancelled: divide the logits, before the softmax.": (
            lambda z, T: z.softmax(-1),
            lambda z, T: _shares(z.softmax(-1) / T),
            lambda z, T: (z - T).softmax(-1),
        ),
        "You divided the probabilities and took a second softmax: divide the logits, then one "
        "softmax.": lambda z, T: (z.softmax(-1) / T).softmax(-1),
        "You took a softmax of something that is one already: probabilities are not logits.": (
            lambda z, T: (z / T).softmax(-1).softmax(-1)
        ),
        "You raised the probabilities to the power 1/temperature: now divide by their sum.": (
            lambda z, T: z.softmax(-1) ** (1 / T)
        ),
        "These are the exponentials: divide by their sum.": lambda z, T: (z / T).exp(),
        "Right for mild cases. With large logits and a low temperature your numbers overflow or "
        "vanish: subtract the largest of the row before the exponential, or leave all of it to "
        "softmax, which does.": (
            lambda z, T: _shares((z / T).exp()),
            lambda z, T: _shares(z.softmax(-1) ** (1 / T)),
            lambda z, T: _shares(z.exp() ** (1 / T)),
            _less_the_mean,
        ),
        "Right for one row, but with more rows the softmax ran over the batch: use dim=-1.": (
            lambda z, T: (z / T).softmax(0)
        ),
        "Right for one row, but with more rows all of them share one sum: use dim=-1.": (
            lambda z, T: (z / T).flatten().softmax(-1).view_as(z)
        ),
        "Right for two dimensions at the most: the last one is the vocabulary, dim=-1.": (
            lambda z, T: (z / T).softmax(1 if z.dim() > 1 else 0)
        ),
        "These are the logarithms of the probabilities: softmax, not log_softmax.": (
            lambda z, T: (z / T).log_softmax(-1)
        ),
        "Each logit went through a sigmoid by itself; the probabilities of a softmax share one "
        "sum.": lambda z, T: (z / T).sigmoid(),
        "This is a temperature of your own, not the one that was given.": (
            lambda z, T: (z / 0.7).softmax(-1)
        ),
    },
    notice=f"A lead of 1 in the logits makes a token {math.exp(2):.1f} times as likely as the "
    f"other at temperature 0.5, {math.e:.1f} times at 1, and {math.exp(0.5):.1f} times at 2.",
)

# --- 3: top-k --------------------------------------------------------------------------------


def _threshold(logits: Tensor, k: int) -> Tensor:
    return logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]


def top_k(logits: Tensor, k: int, fill: float = -INF) -> Tensor:
    """Return the logits with all below the k-th largest of the row at ``fill``."""
    return logits.masked_fill(logits < _threshold(logits, k), fill)


#: Logits ``(..., V)`` of which something else is left than the k largest of each row.
FILTERED: dict[str, Way | tuple[Way, ...]] = {
    "You kept the k smallest logits.": (
        lambda z, k: z.masked_fill(z > -_threshold(-z, k), -INF),
        lambda z, k: -top_k(-z, k),
    ),
    "The others got 0, and exp(0) = 1 is not nothing: a logit of 0 is a fair chance. Only -inf "
    "gives the probability 0.": lambda z, k: top_k(z, k, 0.0),
    "The k-th token is gone: `<=` removes the threshold itself; use `<`.": (
        lambda z, k: z.masked_fill(z <= _threshold(z, k), -INF)
    ),
    "You kept one too many: the threshold is the k-th largest, topk(k).values[..., -1].": (
        lambda z, k: top_k(z, k + 1)
    ),
    "top_k was taken over the whole batch; each row has a threshold of its own.": (
        lambda z, k: z.masked_fill(z < z.flatten().topk(min(k, z.shape[-1])).values[-1], -INF)
    ),
    "The threshold of the first row was taken for all of them. Each row has its own: keep the "
    "dimension, values[..., -1:].": (
        lambda z, k: z.masked_fill(z < _threshold(z, k).flatten()[0], -INF)
    ),
    "top_k changed nothing.": lambda z, k: z,
}


def _infinite(answer: Callable, logits: Tensor, k: int) -> Any:
    """Return the answer's result; whoever writes -1e9 for -inf is right."""
    result = answer(logits, k)
    if result is None or isinstance(result, tuple):
        return result
    values = as_tensor(result)
    return values.masked_fill(values < -1e4, -INF).to(getattr(result, "device", "cpu"))


def _top_k_inputs(seed: int) -> list[tuple]:
    row, many = 2 * draw(7, seed=seed), 2 * draw(3, 7, seed=seed + 1)
    calls = [(2 * draw(3, seed=seed + 2).round(decimals=1) + torch.tensor([0, 0.01, 0.02]), 1)]
    calls += [(row, 3), (row, 1), (many, 3), (2 * draw(2, 3, 5, seed=seed), 2), (row, 7)]
    ties = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0])[
        torch.tensor([seed % 6 - n for n in range(6)])
    ]
    return [*calls, (ties, 2), (torch.tensor([0.5, -0.5]), 5)]


def _exactly_k(logits: Tensor, k: int) -> Tensor:
    best = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return torch.full_like(logits, -INF).scatter(-1, best.indices, best.values)


check_keep_top_k = Exercise(
    name="keep_top_k",
    task="The logits with all but the k largest at -inf; ties with the k-th stay.",
    right=lambda logits, k: top_k(logits, k),
    use=_infinite,
    inputs=_top_k_inputs,
    shape="(..., V)",
    mistakes=FILTERED
    | {
        "These are the k logits alone. The result must stay (V,), so that its index is still the "
        "token's id.": lambda z, k: z.topk(min(k, z.shape[-1])).values,
        "These are the ids of the tokens that stay; expected their logits, and -inf elsewhere.": (
            lambda z, k: z.topk(min(k, z.shape[-1])).indices
        ),
        "You returned probabilities; expected logits, with -inf where a token is out.": (
            lambda z, k: top_k(z, k).softmax(-1)
        ),
        "You returned the mask; fill the logits with -inf where it says so.": (
            lambda z, k: z >= _threshold(z, k),
            lambda z, k: z < _threshold(z, k),
        ),
        "You kept what should go, and the other way round.": (
            lambda z, k: z.masked_fill(z >= _threshold(z, k), -INF)
        ),
        "You kept the first k of the vocabulary, not the k most likely.": (
            lambda z, k: z.masked_fill(torch.arange(z.shape[-1]) >= k, -INF)
        ),
        "Right, but for ties: you kept k tokens, some of several equal ones, by their place in the "
        "vocabulary. Compare with the k-th value, and all that are as likely stay.": _exactly_k,
        "Your function stops when k is larger than the vocabulary; then all stay: "
        "min(k, logits.shape[-1]).": (
            lambda z, k: z.masked_fill(z < z.topk(k, dim=-1).values[..., -1:], -INF),
            lambda z, k: z.masked_fill(z < z.sort(descending=True).values[..., k - 1, None], -INF),
        ),
        "k is 3 whatever is asked for: use the argument.": lambda z, k: top_k(z, 3),
        "The tokens stand in sorted order: each must stay in its place, or the ids are lost.": (
            lambda z, k: top_k(z.sort(descending=True).values, k)
        ),
    },
    notice="k = 1 is greedy decoding, and k = V leaves everything as it is.",
)

# --- 4: top-p --------------------------------------------------------------------------------


Keep = Callable[[Tensor, Tensor, float], Tensor]


def nucleus(
    p: Tensor,
    top_p: float,
    keep: Keep = lambda ordered, sums, top_p: sums - ordered < top_p,
    descending: bool = True,
    put_back: bool = True,
) -> Tensor:
    """Return the probabilities of the nucleus of each row, not brought to 1."""
    ordered, order = p.sort(-1, descending=descending)
    kept = ordered * keep(ordered, ordered.cumsum(-1), top_p)
    return torch.zeros_like(p).scatter(-1, order, kept) if put_back else kept


def _up_to(ordered: Tensor, sums: Tensor, top_p: float) -> Tensor:
    return sums <= top_p


#: What is left of probabilities ``(..., V)`` instead of the nucleus, before it is brought to 1.
NUCLEI: dict[str, tuple[Way, ...]] = {
    "The token that crosses top_p is missing. The nucleus is the smallest set that reaches top_p: "
    "keep a token if the sum before it is below top_p.": (
        lambda p, t: nucleus(p, t, _up_to),
        lambda p, t: nucleus(p, t, lambda ordered, sums, t: sums < t),
    ),
    "The probabilities stand in sorted order: put each back at its own token's place, or the ids "
    "are lost.": (lambda p, t: nucleus(p, t, put_back=False),),
    "You added the probabilities up in the order of the vocabulary. Sort them first: the nucleus "
    "is made of the likeliest tokens.": (
        lambda p, t: p * (p.cumsum(-1) - p < t),
        lambda p, t: p * (p.cumsum(-1) <= t),
    ),
    "You sorted from the rarest token up, and kept the unlikely ones.": (
        lambda p, t: nucleus(p, t, descending=False),
        lambda p, t: nucleus(p, t, _up_to, descending=False),
    ),
    "You kept the tokens whose own probability is large. The nucleus is about the sum of the "
    "largest.": (lambda p, t: p * (p >= t), lambda p, t: p * (p > 1 - t)),
    "top_p changed nothing.": (lambda p, t: p,),
}


def _nucleus_inputs(seed: int) -> list[tuple]:
    p = torch.tensor([0.05, 0.5, 0.02, 0.28, 0.15])[torch.tensor([1, 0, 3, 2, 4]).roll(seed % 2)]
    large = (3 * draw(500, seed=seed)).softmax(-1)
    other = (2 * draw(8, seed=seed + 1)).softmax(-1)
    return [(p, 0.7), (p, 0.9), (p, 0.3), (other, 0.6), (other, 0.95), (large, 0.9), (p, 1.0)]


def _whole(p: Tensor, top_p: float) -> Tensor:
    return _shares(nucleus(p, top_p))


def _one_at_least(p: Tensor, top_p: float) -> Tensor:
    """Drop the token that crosses the threshold, unless it is the only one."""
    kept = nucleus(p, top_p, _up_to)
    return _shares(kept) if kept.any() else _whole(p, top_p)


check_nucleus = Exercise(
    name="nucleus",
    task="The probabilities of the smallest set of likeliest tokens that reaches top_p.",
    right=lambda probabilities, top_p: _whole(probabilities, top_p),
    inputs=_nucleus_inputs,
    shape="(V,)",
    mistakes={
        sentence: (*ways, *(lambda p, t, way=way: _shares(way(p, t)) for way in ways))
        for sentence, ways in NUCLEI.items()
    }
    | {
        "The right tokens, but they no longer sum to 1: divide by their sum.": nucleus,
        "The token that crosses top_p is missing, unless it is the first. The nucleus reaches it: "
        "compare with the sum of the tokens *before* it.": _one_at_least,
        "You took a softmax of probabilities; divide by their sum instead.": (
            lambda p, t: nucleus(p, t).softmax(-1),
            lambda p, t: p.masked_fill(nucleus(p, t) == 0, -INF).softmax(-1),
        ),
        "One token too many: once the sum has reached top_p, no other is added.": (
            lambda p, t: _shares(p * (p >= p[nucleus(p, t) == 0].max())) if t < 1 else p
        ),
        "This is what the nucleus leaves out; it keeps the likely tokens.": (
            lambda p, t: _shares(p * (nucleus(p, t) == 0))
        ),
        "You returned the mask; expected the probabilities of what it keeps.": (
            lambda p, t: nucleus(p, t) > 0
        ),
    },
    notice="The size of the nucleus follows the model: of 500 tokens, top_p=0.9 keeps hundreds of "
    "a flat distribution and a handful of a peaked one.",
)

# --- 5: the KV cache -------------------------------------------------------------------------


def _steps(
    answer: Callable, x: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor
) -> dict[str, Tensor | str]:
    """Return the results of a step for each row of ``x``, and what the cache holds in the end."""
    cache = {"keys": torch.zeros(0, W_k.shape[1]), "values": torch.zeros(0, W_v.shape[1])}
    found: list[Tensor] = []
    while len(found) < len(x) and len(cache["keys"]) == len(cache["values"]) == len(found):
        found.append(as_tensor(answer(x[len(found)].clone(), W_q, W_k, W_v, cache)).squeeze(0))
    keys, values = cache["keys"], cache["values"]
    after = found[-1]
    if len(keys) == len(values) == len(x):
        # The caller may do with its cache what it likes: the next result must follow.
        cache = {"keys": keys.flip(0).contiguous(), "values": values.clone()}
        after = as_tensor(answer(x[0].clone(), W_q, W_k, W_v, cache)).squeeze(0)
    return {
        "the keys in the cache": keys,
        "the values in the cache": values,
        "the results, one row for each step": torch.stack(found),
        "the result after the caller exchanged the keys in the cache": after,
    }


def _cached(
    x: Tensor,
    W_q: Tensor,
    W_k: Tensor,
    W_v: Tensor,
    cache: dict,
    scale: float = 0.0,
    hide: Callable = lambda scores: scores,
) -> Tensor:
    query, key, value = x @ W_q, (x @ W_k)[None], (x @ W_v)[None]
    cache["keys"] = torch.cat([cache["keys"], key])
    cache["values"] = torch.cat([cache["values"], value])
    scores = cache["keys"] @ query / (scale or math.sqrt(len(query)))
    return hide(scores).softmax(-1) @ cache["values"]


def _attending_first(x: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, cache: dict) -> Tensor:
    scores = cache["keys"] @ (x @ W_q) / math.sqrt(W_q.shape[1])
    out = scores.softmax(-1) @ cache["values"]
    _cached(x, W_q, W_k, W_v, cache)
    return out


def _in_front(x: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, cache: dict) -> Tensor:
    cache["keys"] = torch.cat([(x @ W_k)[None], cache["keys"]])
    cache["values"] = torch.cat([(x @ W_v)[None], cache["values"]])
    scores = cache["keys"] @ (x @ W_q) / math.sqrt(W_q.shape[1])
    return scores.softmax(-1) @ cache["values"]


def _overwriting(x: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, cache: dict) -> Tensor:
    cache["keys"], cache["values"] = (x @ W_k)[None], (x @ W_v)[None]
    scores = cache["keys"] @ (x @ W_q) / math.sqrt(W_q.shape[1])
    return scores.softmax(-1) @ cache["values"]


def _keys_only(x: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, cache: dict) -> Tensor:
    values = cache["values"]
    out = _cached(x, W_q, W_k, W_v, cache)
    cache["values"] = values
    return out


def _caching_queries(x: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, cache: dict) -> Tensor:
    cache["keys"] = torch.cat([cache["keys"], (x @ W_q)[None]])
    cache["values"] = torch.cat([cache["values"], (x @ W_v)[None]])
    scores = cache["keys"] @ (x @ W_q) / math.sqrt(W_q.shape[1])
    return scores.softmax(-1) @ cache["values"]


def _queries_in_the_end(x: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, cache: dict) -> Tensor:
    keys = cache["keys"]
    out = _cached(x, W_q, W_k, W_v, cache)
    cache["keys"] = torch.cat([keys, (x @ W_q)[None]])
    return out


def _own_value(x: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, cache: dict) -> Tensor:
    _cached(x, W_q, W_k, W_v, cache)
    return x @ W_v


_kept_elsewhere: list[Tensor] = []


def _recomputing(x: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, cache: dict) -> Tensor:
    if len(cache["keys"]) == 0:
        _kept_elsewhere.clear()
    _kept_elsewhere.append(x)
    rows = torch.stack(_kept_elsewhere)
    cache["keys"], cache["values"] = rows @ W_k, rows @ W_v
    scores = cache["keys"] @ (x @ W_q) / math.sqrt(W_q.shape[1])
    return scores.softmax(-1) @ cache["values"]


def _first_key_only(scores: Tensor) -> Tensor:
    return scores.masked_fill(~torch.ones(1, len(scores)).tril().bool()[0], -INF)


def _cache_inputs(seed: int) -> list[tuple]:
    return [
        (
            draw(T, C, seed=seed),
            *(draw(C, d, seed=seed + n) for n, d in enumerate((d_k, d_k, d_v), 1)),
        )
        for T, C, d_k, d_v in ((2, 3, 2, 2), (5, 6, 4, 3))
    ]


check_cached_step = Exercise(
    name="cached_step",
    task="One new token with a KV cache: append its key and value, attend, return (d_v,).",
    right=lambda x, W_q, W_k, W_v, cache: _cached(x, W_q, W_k, W_v, cache),
    use=_steps,
    inputs=_cache_inputs,
    mistakes={
        'The cache is as it was: append the new key and value, cache["keys"] = torch.cat([…]).': (
            lambda x, q, k, v, cache: _cached(x, q, k, v, dict(cache))
        ),
        "The values in the cache are as they were: append the new value as well as the key.": (
            _keys_only
        ),
        "The cache holds the new key and value only; the older ones are gone. Append with "
        "torch.cat([old, new]).": _overwriting,
        "You appended the query, x @ W_q, to the keys.": (
            _caching_queries,
            _queries_in_the_end,
        ),
        "You attended before you appended: the new token must see its own key and value too.": (
            _attending_first
        ),
        "You put the new key and value in front. The result is the same for this head, but "
        "position t must stay in row t: append at the end.": _in_front,
        "The scores are not divided by √d_k.": lambda *a: _cached(*a, scale=1.0),
        "You divided by d_k; it should be its square root.": (
            lambda *a: _cached(*a, scale=a[1].shape[1])
        ),
        "You divided by √C, the length of x; the scores are sums over d_k channels.": (
            lambda *a: _cached(*a, scale=math.sqrt(len(a[0])))
        ),
        "The new token gets the first value, whatever comes. A causal mask for one query has the "
        "wrong size: torch.tril of (1, T) lets it see key 0 only. It comes last, so it may see "
        "all: leave the mask out.": lambda *a: _cached(*a, hide=_first_key_only),
        "The new token gets its own value only: attend to all keys in the cache, not just the new "
        "one.": _own_value,
        "The result is the plain mean of the values: are the scores used?": (
            lambda *a: _cached(*a, hide=torch.zeros_like)
        ),
        "The keys in the cache were exchanged for others, and your result did not follow. Use what "
        "is in the cache; do not compute or keep the old keys elsewhere.": _recomputing,
    },
    notice="No mask is needed: the one query belongs to the last token, and all that is cached "
    "came before it.",
)
