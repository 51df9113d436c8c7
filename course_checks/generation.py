"""Exercises of chapter 7: the greedy loop, temperature, top-k, top-p, attention with a KV cache."""

import math
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from course_checks import Wrong
from course_checks.answers import as_tensor, draw
from course_checks.exercises import Exercise, Way

INF = math.inf

# --- 1: the greedy loop ----------------------------------------------------------------------


def _scripted(seed: int, V: int = 8) -> Callable[[Sequence[int]], Tensor]:
    """Return a stand-in for a model: logits ``(V,)`` that depend on the whole text."""

    def next_logits(ids: Sequence[int]) -> Tensor:
        if not len(ids):
            raise Wrong("You asked for the next token of an empty text; start from the prompt.")
        number = sum((place + 1) * (int(id_) + 3) ** 2 for place, id_ in enumerate(ids))
        return draw(V, seed=number + 10_000 * seed)

    return next_logits


def _greedy(see: Way = lambda ids, n: ids, pick: Way = torch.argmax) -> Way:
    def greedy_loop(next_logits: Callable, prompt: list, max_new_tokens: int, stop: Any) -> list:
        ids = list(prompt)
        for _ in range(max_new_tokens):
            ids.append(int(pick(next_logits(see(ids, len(prompt))))))
            if ids[-1] == stop:
                break
        return ids

    return greedy_loop


def _greedy_inputs(seed: int) -> list[tuple]:
    """Return calls without a stop, with many that may come, one in the prompt, no new token."""
    models = [_scripted(8 * seed + n) for n in range(10)]
    texts = [_greedy()(model, [3, 1, 4], 6, None) for model in models]
    stops = [(models[n], [3, 1, 4], 6, texts[n][4 + n % 4]) for n in range(10)]
    calls = [(models[0], [3], 1, 99), *((model, [3, 1, 4], 6, 99) for model in models[:3])]
    return [*calls, *stops, (models[1], [3, 1, 4], 6, 3), (models[1], [3, 1, 4], 0, 99)]


check_greedy_loop = Exercise(
    name="greedy_loop",
    task="The prompt and its continuation, the likeliest token each time, until a stop token.",
    right=_greedy(),
    inputs=_greedy_inputs,
    mistakes={
        "The text begins with the prompt.": lambda m, p, n, s: _greedy()(m, p, n, s)[len(p) :],
        "That is one token too many.": lambda m, p, n, s: _greedy()(m, p, n + 1, s),
        "That is one token too few.": lambda m, p, n, s: _greedy()(m, p, n - 1, s),
        "max_new_tokens counts new ones.": lambda m, p, n, s: _greedy()(m, p, n - len(p), s),
        "You took the smallest logit, not the largest.": _greedy(pick=torch.argmin),
        "The model needs the whole text, not its last token.": _greedy(lambda ids, n: ids[-1:]),
        "Append each choice to the prompt, and ask again.": _greedy(lambda ids, n: ids[:n]),
        "The prompt belongs to the text that the model sees.": _greedy(
            lambda ids, n: ids[n:] or ids
        ),
        "The stop token came, and you went on.": lambda m, p, n, s: _greedy()(m, p, n, None),
        "The stop token itself belongs to the text.": lambda m, p, n, s: (
            [*p, *takewhile(lambda id_: id_ != s, _greedy()(m, p, n, s)[len(p) :])]
        ),
        "Only a new token ends the text.": lambda m, p, n, s: _greedy()(m, p, n * (s not in p), s),
        "With max_new_tokens=0 nothing is new.": lambda m, p, n, s: _greedy()(m, p, max(n, 1), s),
    },
    notice="Nothing in the loop ever goes back: a greedy choice is never taken back.",
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


check_temper = Exercise(
    name="temper",
    task="The probabilities at a temperature, softmax(logits / temperature).",
    right=lambda logits, temperature: (logits / temperature).softmax(-1),
    inputs=_temper_inputs,
    shape="(..., V)",
    mistakes={
        "You multiplied by the temperature: divide.": lambda z, T: (z * T).softmax(-1),
        "These are the tempered logits; the softmax is missing.": lambda z, T: z / T,
        "Divide the logits, before the softmax, not the probabilities.": (
            lambda z, T: z.softmax(-1) / T,
            lambda z, T: (z.softmax(-1) / T).softmax(-1),
        ),
        "The temperature made no difference: divided by after the exponential, or subtracted, it "
        "cancels. Divide the logits by it.": lambda z, T: z.softmax(-1),
        "One softmax is enough.": lambda z, T: (z / T).softmax(-1).softmax(-1),
        "Powers of probabilities: divide by their sum.": lambda z, T: z.softmax(-1) ** (1 / T),
        "These are the exponentials: divide by their sum.": lambda z, T: (z / T).exp(),
        "Right for mild cases. With large logits and a low temperature your numbers overflow or "
        "vanish: subtract the largest of the row before the exponential, or let softmax do it.": (
            lambda z, T: _shares((z / T).exp()),
            lambda z, T: _shares(z.softmax(-1) ** (1 / T)),
            lambda z, T: _shares(z.exp() ** (1 / T)),
            lambda z, T: _shares(((z - z.mean(-1, keepdim=True)) / T).exp()),
        ),
        "Right for one row; with more, the softmax must run over the vocabulary: dim=-1.": (
            lambda z, T: (z / T).softmax(0),
            lambda z, T: (z / T).softmax(1 if z.dim() > 1 else 0),
            lambda z, T: (z / T).flatten().softmax(-1).view_as(z),
        ),
        "These are the logarithms of the probabilities.": lambda z, T: (z / T).log_softmax(-1),
        "The temperature is an argument.": lambda z, T: (z / 0.7).softmax(-1),
    },
    notice="A lead of 1 makes a token 7.4 times as likely at temperature 0.5, 1.6 times at 2.",
)

# --- 3: top-k --------------------------------------------------------------------------------


def _threshold(logits: Tensor, k: int) -> Tensor:
    return logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]


def top_k(logits: Tensor, k: int, fill: float = -INF) -> Tensor:
    """Return the logits with all below the k-th largest of the row at ``fill``."""
    return logits.masked_fill(logits < _threshold(logits, k), fill)


def _hidden(out: Way) -> Way:
    return lambda logits, k: logits.masked_fill(out(logits, k), -INF)


#: Logits ``(..., V)`` of which something else is left than the k largest of each row.
FILTERED: dict[str, Way | tuple[Way, ...]] = {
    "You kept the k smallest logits.": _hidden(lambda z, k: z > -_threshold(-z, k)),
    "A logit of 0 is a fair chance, exp(0) = 1: use -inf.": lambda z, k: top_k(z, k, 0.0),
    "`<=` hides the k-th token, too; use `<`.": _hidden(lambda z, k: z <= _threshold(z, k)),
    "You kept one too many: the threshold is the k-th largest.": lambda z, k: top_k(z, k + 1),
    "Each row has a threshold of its own, of its last dimension: values[..., -1:].": (
        _hidden(lambda z, k: z < z.flatten().topk(min(k, z.shape[-1])).values[-1]),
        _hidden(lambda z, k: z < _threshold(z, k).flatten()[0]),
    ),
    "top_k changed nothing.": lambda z, k: z,
}


def _infinite(answer: Callable, logits: Tensor, k: int) -> Tensor:
    """Return the answer's result; whoever writes -1e9 for -inf is right."""
    result = as_tensor(answer(logits, k))
    return result.masked_fill(result < -1e4, -INF)


def _top_k_inputs(seed: int) -> list[tuple]:
    row, many = 2 * draw(7, seed=seed), 2 * draw(3, 7, seed=seed + 1)
    calls = [(2 * draw(3, seed=seed + 2).round(decimals=1) + torch.tensor([0, 0.01, 0.02]), 1)]
    calls += [(row, 3), (row, 1), (many, 3), (2 * draw(2, 3, 5, seed=seed), 2), (row, 7)]
    ties = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0]).roll(seed % 6)
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
        "These are ids; expected logits.": lambda z, k: z.topk(min(k, z.shape[-1])).indices,
        "These are probabilities; expected logits.": lambda z, k: top_k(z, k).softmax(-1),
        "This is the mask; expected logits.": lambda z, k: z >= _threshold(z, k),
        "You kept what should go.": _hidden(lambda z, k: z >= _threshold(z, k)),
        "Not the first k, the likeliest.": _hidden(lambda z, k: torch.arange(len(z)) >= k),
        "Right, except for ties: you kept k tokens, some of several equal ones, by place in the "
        "vocabulary. Compare with the k-th value, and all that are as likely stay.": _exactly_k,
        "Where k is larger than the vocabulary, all stay: min(k, logits.shape[-1]).": (
            _hidden(lambda z, k: z < z.topk(k, dim=-1).values[..., -1:]),
            _hidden(lambda z, k: z < z.sort(descending=True).values[..., k - 1, None]),
        ),
        "k is an argument.": lambda z, k: top_k(z, 3),
        "Each logit must stay in its place.": lambda z, k: top_k(z.sort(descending=True)[0], k),
    },
    notice="k = 1 is greedy decoding, and k = V leaves everything as it is.",
)

# --- 4: top-p --------------------------------------------------------------------------------


def _before(ordered: Tensor, sums: Tensor, top_p: float) -> Tensor:
    return sums - ordered < top_p


def _up_to(ordered: Tensor, sums: Tensor, top_p: float) -> Tensor:
    return sums <= top_p


def nucleus(
    p: Tensor, top_p: float, keep: Way = _before, descending: bool = True, put_back: bool = True
) -> Tensor:
    """Return the probabilities of the nucleus of each row, not brought to 1."""
    ordered, order = p.sort(-1, descending=descending)
    kept = ordered * keep(ordered, ordered.cumsum(-1), top_p)
    return torch.zeros_like(p).scatter(-1, order, kept) if put_back else kept


#: What is left of probabilities ``(..., V)`` instead of the nucleus, before it is brought to 1.
NUCLEI: dict[str, tuple[Way, ...]] = {
    "The token that crosses top_p is missing: keep a token if the sum before it is below top_p.": (
        lambda p, t: nucleus(p, t, _up_to),
        lambda p, t: nucleus(p, t, lambda ordered, sums, t: sums < t),
    ),
    "Each probability belongs in its place.": (lambda p, t: nucleus(p, t, put_back=False),),
    "Sort before you add up: the nucleus is made of the likeliest tokens.": (
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


check_nucleus = Exercise(
    name="nucleus",
    task="The probabilities of the smallest set of likeliest tokens that reaches top_p.",
    right=lambda probabilities, top_p: _shares(nucleus(probabilities, top_p)),
    inputs=_nucleus_inputs,
    shape="(V,)",
    mistakes={
        sentence: (*ways, *(lambda p, t, way=way: _shares(way(p, t)) for way in ways))
        for sentence, ways in NUCLEI.items()
    }
    | {
        "The right tokens; now divide by their sum.": nucleus,
        "The token that crosses top_p is missing, unless it is the first: compare with the sum of "
        "the tokens *before* it.": lambda p, t: _shares(nucleus(p, max(t, p.max()), _up_to)),
        "Divide by the sum; a softmax is for logits.": lambda p, t: nucleus(p, t).softmax(-1),
        "One token too many: once the sum has reached top_p, no other is added.": (
            lambda p, t: _shares(p * (p >= p[nucleus(p, t) == 0].max())) if t < 1 else p
        ),
        "This is what the nucleus leaves out.": lambda p, t: _shares(p * (nucleus(p, t) == 0)),
        "This is the mask; expected probabilities.": lambda p, t: nucleus(p, t) > 0,
    },
    notice="The nucleus follows the model: many tokens where it is flat, few where it is peaked.",
)

# --- 5: the KV cache -------------------------------------------------------------------------


def _steps(answer: Callable, x: Tensor, *matrices: Tensor) -> dict[str, Tensor]:
    """Return the results of a step for each row of ``x``, and what the cache holds in the end."""
    cache = {"keys": x.new_empty(0, matrices[1].shape[1])}
    cache["values"] = x.new_empty(0, matrices[2].shape[1])
    found: list[Tensor] = []
    while len(found) < len(x) and {*map(len, cache.values())} == {len(found)}:
        found.append(as_tensor(answer(x[len(found)].clone(), *matrices, cache)).squeeze(0))
    keys, values, last = cache["keys"], cache["values"], found[-1]
    if len(keys) == len(values) == len(x):
        # The caller may do with its cache what it likes: the next result must follow.
        cache = {"keys": keys.flip(0).contiguous(), "values": values.clone()}
        last = as_tensor(answer(x[0].clone(), *matrices, cache)).squeeze(0)
    cached = {"the keys in the cache": keys, "the values in the cache": values}
    cached["the results, one row for each step"] = torch.stack(found)
    return cached | {"the result after the caller exchanged the keys in the cache": last}


def _cached(
    append: Callable[[Tensor, Tensor], Tensor] = lambda old, new: torch.cat([old, new]),
    keep: Sequence[str] = ("keys", "values"),
    see: Callable[[dict, dict], dict] = lambda old, now: now,
    scale: Callable[[Tensor, Tensor], float] = lambda x, query: math.sqrt(len(query)),
    weigh: Callable[[Tensor], Tensor] = lambda scores: scores.softmax(-1),
) -> Way:
    def cached_step(x: Tensor, W_q: Tensor, W_k: Tensor, W_v: Tensor, cache: dict) -> Tensor:
        query, new = x @ W_q, {"keys": (x @ W_k)[None], "values": (x @ W_v)[None]}
        now = {name: append(cache[name], new[name]) for name in new}
        seen = see(dict(cache), now)
        cache.update({name: now[name] for name in keep})
        return weigh(seen["keys"] @ query / scale(x, query)) @ seen["values"]

    return cached_step


check_cached_step = Exercise(
    name="cached_step",
    task="One new token with a KV cache: append its key and value, attend, return (d_v,).",
    right=_cached(),
    use=_steps,
    inputs=lambda seed: [
        (draw(T, C, seed=seed), *(draw(C, d, seed=seed + n) for n, d in enumerate(sizes, 1)))
        for T, C, *sizes in ((2, 3, 2, 2, 2), (5, 6, 4, 4, 3))
    ],
    mistakes={
        "The cache is unchanged: append the new key and value.": _cached(keep=()),
        "Keep the new value in the cache, as well as the key.": _cached(keep=["keys"]),
        "The older keys and values are gone: torch.cat([old, new]).": _cached(lambda old, new: new),
        "You appended the query to the keys.": lambda x, q, k, v, c: _cached()(x, q, q, v, c),
        "Append first: the new token attends to itself as well.": _cached(see=lambda old, now: old),
        "You put the new key and value in front. The result is the same for this head, but "
        "position t must stay in row t.": _cached(lambda old, new: torch.cat([new, old])),
        "The scores are not divided by √d_k.": _cached(scale=lambda x, query: 1),
        "You divided by d_k, not by its root.": _cached(scale=lambda x, query: len(query)),
        "You divided by √C, not √d_k.": _cached(scale=lambda x, query: math.sqrt(len(x))),
        "The new token comes last and sees all: no mask, such as torch.tril of (1, T).": (
            _cached(weigh=lambda s: torch.eye(len(s))[0]),
            _cached(weigh=lambda s: torch.eye(len(s))[-1]),
        ),
        "The result is the plain mean of the values.": _cached(weigh=lambda s: (0 * s).softmax(-1)),
        "The softmax is missing.": _cached(weigh=lambda s: s),
    },
    notice="No mask is needed: the one query is the last token's, and all in the cache is earlier.",
)
