"""Checks for chapter 7: the greedy loop, temperature, top-k, top-p, attention with a KV cache.

Each uses seeded inputs, tests one idea at a time, and compares a wrong answer with what the usual
mistakes would give, so that it can name the mistake.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from course_checks import Verdict, Wrong, check
from course_checks.answers import (
    as_tensor,
    call_for_tensor,
    draw,
    expect_shape,
    name_mistake,
    same,
)
from course_utils.attention import scaled_dot_product_attention
from course_utils.sampling import keep_top_k

__all__ = [
    "Verdict",
    "check_cached_step",
    "check_greedy_loop",
    "check_keep_top_k",
    "check_nucleus",
    "check_temper",
]


# --- 1: the greedy loop ----------------------------------------------------------------------


def _scripted(V: int = 8) -> Callable[[Sequence[int]], Tensor]:
    """Return a stand-in for a model: logits ``(V,)`` that depend on the whole text."""

    def next_logits(ids: Sequence[int]) -> Tensor:
        ids = [int(id_) for id_ in ids]
        if not ids:
            raise Wrong("You asked for the next token of an empty text; start from the prompt.")
        number = sum((place + 1) * (id_ + 3) ** 2 for place, id_ in enumerate(ids))
        return draw(V, seed=number)

    return next_logits


def _greedy(
    next_logits: Callable[[Sequence[int]], Tensor],
    prompt: Sequence[int],
    n_tokens: int,
    stop: int | None,
    worst: bool = False,
    context: int = 0,
) -> list[int]:
    """Return the right text, or with ``worst`` or ``context`` that of a usual mistake."""
    ids = list(prompt)
    for _ in range(n_tokens):
        logits = next_logits(ids[-context:])
        ids.append(int(logits.argmin() if worst else logits.argmax()))
        if ids[-1] == stop:
            break
    return ids


def _ids(result: Any) -> list[int]:
    if result is None:
        raise Wrong("Your function returned None. Does it end with `return`?")
    if isinstance(result, tuple):
        raise Wrong(f"Your function returned a tuple of {len(result)}; expected a list of ids.")
    if isinstance(result, Tensor) and result.dim() != 1:
        raise Wrong(f"The result has shape {tuple(result.shape)}; expected a flat list of ids.")
    return [int(id_) for id_ in result]


@check
def check_greedy_loop(answer: Callable) -> str:
    """Check ``greedy(next_logits, prompt, max_new_tokens, stop)``: prompt and continuation."""
    model, prompt, never = _scripted(), [3, 1, 4], 99
    given = list(prompt)
    found = _ids(answer(model, given, 6, never))
    if given != prompt:
        raise Wrong(
            "The result may be right, but the caller's prompt has grown too: "
            "work on a copy, list(prompt)."
        )
    if _ids(answer(model, list(prompt), 6, never)) != found:
        raise Wrong("Two calls gave two texts. Greedy decoding draws nothing: take the argmax.")
    right = _greedy(model, prompt, 6, never)
    mistakes = {
        "You returned the new tokens only; the text begins with the prompt.": right[3:],
        "That is one token too many: max_new_tokens counts the new ones.": _greedy(
            model, prompt, 7, never
        ),
        "That is one token too few: max_new_tokens counts the new ones.": right[:-1],
        "max_new_tokens counts new tokens; you counted the prompt as well.": right[:6],
        "You took the smallest logit, not the largest.": _greedy(model, prompt, 6, never, True),
        "You showed the model the last token only. It needs the whole text so far, each "
        "time: the next token depends on all of it.": _greedy(model, prompt, 6, never, context=1),
        "You chose every token from the prompt alone: append each choice to the text, and "
        "ask again.": prompt + [right[3]] * 6,
    }
    for diagnosis, wrong in mistakes.items():
        if found == wrong:
            raise Wrong(diagnosis)
    if found != right:
        raise Wrong(f"From the prompt {prompt} your text is {found}; expected {right}.")
    _check_stop(answer, model, prompt, right)
    return "Nothing in the loop ever goes back: a greedy choice cannot be regretted."


def _check_stop(answer: Callable, model: Callable, prompt: list[int], right: list[int]) -> None:
    stop = next(id_ for id_ in right[4:] if id_ not in prompt and id_ != right[3])
    expected = _greedy(model, prompt, 6, stop)
    found = _ids(answer(model, list(prompt), 6, stop))
    if found == right:
        raise Wrong(f"The stop token {stop} came, and your text went on after it.")
    if found == expected[:-1]:
        raise Wrong("The stop token itself belongs to the text; you left it out.")
    if found == expected[len(prompt) :]:
        raise Wrong("When the stop token comes, you return the text without its prompt.")
    if found != expected:
        raise Wrong(f"With the stop token {stop} your text is {found}; expected {expected}.")
    if _ids(answer(model, list(prompt), 6, prompt[0]))[: len(prompt) + 1] != right[:4]:
        raise Wrong(
            "A stop token in the prompt ended the text before it began: "
            "only a new token may end it."
        )
    if _ids(answer(model, list(prompt), 0, stop)) != prompt:
        raise Wrong("With max_new_tokens=0 the text is the prompt, unchanged.")


# --- 2: temperature --------------------------------------------------------------------------


@check
def check_temper(answer: Callable) -> str:
    """Check ``temper(logits, temperature)``: the probabilities at a temperature, ``(..., V)``."""
    logits, T = 2 * draw(6), 0.5
    found = call_for_tensor(answer, logits, T)
    expect_shape(found, (6,), "(V,)")
    _name_temper(found, logits, T)
    if not same(found, (logits / T).softmax(-1)):
        total = found.sum()
        if (total - 1).abs() > 1e-3:
            raise Wrong(f"Your probabilities sum to {total:.3f}; they must sum to 1.")
        raise Wrong("The probabilities differ from softmax(logits / temperature).")
    if not same(call_for_tensor(answer, logits, 1.0), logits.softmax(-1)):
        raise Wrong("At temperature 1 nothing should change: the plain softmax of the logits.")
    many = 2 * draw(3, 5, seed=1)
    found = call_for_tensor(answer, many, 2.0)
    if not same(found, (many / 2).softmax(-1)):
        if same(found, (many / 2).softmax(0)):
            raise Wrong(
                "Right for one row, but for (B, V) the softmax ran over the batch: use dim=-1."
            )
        if same(found, (many / 2).flatten().softmax(-1).view_as(many)):
            raise Wrong("Right for one row, but for (B, V) all rows share one sum: use dim=-1.")
        raise Wrong("Right for logits (V,), not for (B, V): let the last dimension be V.")
    found = call_for_tensor(answer, torch.tensor([300.0, 290.0, -300.0]), 0.01)
    if not same(found, torch.tensor([1.0, 0.0, 0.0])):
        raise Wrong(
            "Right for mild cases. With large logits and temperature 0.01 your numbers overflow or "
            "vanish: divide the logits, and let softmax take the exponential; it subtracts the "
            "largest one first."
        )
    ratio = math.exp(1 / 0.5), math.exp(1 / 2)
    return (
        f"A lead of 1 in the logits makes a token {ratio[0]:.1f} times as likely as the other at "
        f"temperature 0.5, {math.e:.1f} times at 1, and {ratio[1]:.1f} times at 2."
    )


def _name_temper(found: Tensor, logits: Tensor, T: float) -> None:
    p, right = logits.softmax(-1), (logits / T).softmax(-1)
    name_mistake(
        found,
        {
            "You multiplied by the temperature (or took it as a power, which is the same): divide, "
            "so that a low one makes the likely tokens likelier.": (logits * T).softmax(-1),
            "These are the tempered logits; the softmax is missing.": logits / T,
            "You divided the probabilities by the temperature, and they no longer sum to 1. "
            "Divide the logits, before the softmax.": p / T,
            "The temperature made no difference. If you divided probabilities by it and "
            "normalised again, it cancelled: divide the logits, before the softmax.": p,
            "You divided the probabilities and took a second softmax: divide the logits, then "
            "one softmax.": (p / T).softmax(-1),
            "You took a softmax of something that is one already: probabilities are not "
            "logits.": right.softmax(-1),
            "You raised the probabilities to the power 1/temperature: now divide by their sum.": (
                p ** (1 / T)
            ),
        },
    )
    exponentials = (logits / T).exp()
    if same(found, exponentials, atol=1e-4):
        raise Wrong("These are the exponentials: divide by their sum.")


# --- 3: top-k --------------------------------------------------------------------------------

_HIDDEN = -1e4  # whoever writes -1e9 for -inf is right


def _hidden(values: Tensor) -> Tensor:
    """Return ``values`` with very large negative numbers as -inf."""
    return values.masked_fill(values < _HIDDEN, -math.inf)


def _top_k_exactly(logits: Tensor, k: int) -> Tensor:
    """Keep k tokens, whatever ties there are."""
    best = logits.topk(k, dim=-1)
    return torch.full_like(logits, -math.inf).scatter(-1, best.indices, best.values)


@check
def check_keep_top_k(answer: Callable) -> str:
    """Check ``top_k(logits, k)``: logits ``(..., V)`` with all but the k largest at -inf."""
    logits, k = 2 * draw(7), 3
    found = _hidden(call_for_tensor(answer, logits, k))
    _name_top_k(found, logits, k)
    expect_shape(found, (7,), "(V,)")
    if not same(found, keep_top_k(logits, k)):
        n_kept = int(found.isfinite().sum())
        raise Wrong(
            f"With k={k} you kept {n_kept} tokens."
            if n_kept != k
            else "You kept the right number of tokens, but not the largest with their own logits."
        )
    many = 2 * draw(3, 7, seed=1)
    found = _hidden(call_for_tensor(answer, many, k))
    if not same(found, keep_top_k(many, k)):
        if same(found, keep_top_k(many.flatten(), k).view_as(many)):
            raise Wrong("Right for one row; for (B, V) you kept the k largest of the whole batch.")
        raise Wrong("Right for logits (V,), not for (B, V): each row has a threshold of its own.")
    _check_top_k_ties(answer)
    return "k = 1 is greedy decoding, and k = V leaves everything as it is."


def _name_top_k(found: Tensor, logits: Tensor, k: int) -> None:
    right = keep_top_k(logits, k)
    kept = right.isfinite()
    name_mistake(
        found,
        {
            "These are the k logits alone. The result must stay (V,), so that its index is "
            "still the token's id.": logits.topk(k).values,
            "These are the ids of the tokens that stay; expected their logits, and -inf "
            "elsewhere.": logits.topk(k).indices.float(),
            "The others got 0, and exp(0) = 1 is not nothing: a logit of 0 is a fair chance. "
            "Only -inf gives the probability 0.": logits * kept,
            "You returned probabilities; expected logits, with -inf where a token is out.": (
                right.softmax(-1)
            ),
            "You returned the mask; fill the logits with -inf where it says so.": kept.float(),
            "You kept the k smallest logits.": (
                logits.masked_fill(logits > logits.sort().values[k - 1], -math.inf)
            ),
            "You kept what should go, and the other way round.": (
                logits.masked_fill(kept, -math.inf)
            ),
            "The k-th token is gone: `<=` removes the threshold itself; use `<`.": (
                keep_top_k(logits, k - 1)
            ),
            "You kept one too many: the threshold is the k-th largest, topk(k).values[..., -1].": (
                keep_top_k(logits, k + 1)
            ),
            "You kept the first k of the vocabulary, not the k most likely.": (
                logits.masked_fill(torch.arange(len(logits)) >= k, -math.inf)
            ),
            "Nothing was taken out.": logits,
        },
    )


def _check_top_k_ties(answer: Callable) -> None:
    ties = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0])
    found = _hidden(call_for_tensor(answer, ties, 2))
    if not same(found, keep_top_k(ties, 2)):
        if int(found.isfinite().sum()) == 2:
            raise Wrong(
                "Right, but for ties. Of [1, 3, 2, 2, 2, 0] with k=2 you kept one of three equal "
                "tokens, by its place in the vocabulary. Compare with the k-th value, and all "
                "that are as likely stay."
            )
        if int(found.isfinite().sum()) == 1:
            raise Wrong("With ties the k-th token must stay, and its equals with it; all are gone.")
        raise Wrong("Right, but for ties: of [1, 3, 2, 2, 2, 0] with k=2, the 3 and all 2s stay.")
    few = torch.tensor([0.5, -0.5])
    try:
        found = _hidden(call_for_tensor(answer, few, 5))
    except (RuntimeError, IndexError) as error:
        raise Wrong(
            "Your function stops when k is larger than the vocabulary; then all stay: "
            "min(k, logits.shape[-1])."
        ) from error
    if not same(found, few):
        raise Wrong("When k is larger than the vocabulary, all tokens stay.")


# --- 4: top-p --------------------------------------------------------------------------------


def _nucleus(p: Tensor, top_p: float) -> Tensor:
    """Return the nucleus of ``p`` ``(V,)``, by the definition and one token at a time."""
    out, total = torch.zeros_like(p), 0.0
    for id_ in p.argsort(descending=True).tolist():
        out[id_] = p[id_]
        total += p[id_].item()
        if total >= top_p:
            break
    return out / out.sum()


@check
def check_nucleus(answer: Callable) -> str:
    """Check ``nucleus(probabilities, top_p)``: probabilities ``(V,)`` of the nucleus alone."""
    p = torch.tensor([0.05, 0.5, 0.02, 0.28, 0.15])
    for top_p in (0.7, 0.9):  # the two cut at different places
        found = call_for_tensor(answer, p, top_p)
        _name_nucleus(found, p, top_p)
        expect_shape(found, (5,), "(V,)")
        if not same(found, _nucleus(p, top_p)):
            if (found.sum() - 1).abs() > 1e-3:
                raise Wrong(f"The result sums to {found.sum():.3f}; it must sum to 1 again.")
            n_found, n_right = int((found > 0).sum()), int((_nucleus(p, top_p) > 0).sum())
            raise Wrong(
                f"Of {p.tolist()} with top_p={top_p}, {n_right} tokens stay; you kept {n_found}, "
                "or gave them other shares."
            )
    found = call_for_tensor(answer, p, 0.3)
    if found.isnan().any() or found.sum() == 0:
        raise Wrong(
            "With top_p=0.3 the most likely token has 0.5 already, and you kept none: "
            "the token that crosses the threshold stays, so one always does."
        )
    if not same(found, _nucleus(p, 0.3)):
        raise Wrong("With top_p=0.3 only the most likely token, with 0.5, stays, and gets 1.")
    large = (3 * draw(500, seed=2)).softmax(-1)
    if not same(call_for_tensor(answer, large, 0.9), _nucleus(large, 0.9)):
        raise Wrong("Right for five tokens, not for 500 random ones.")
    n_kept = [int((_nucleus((s * draw(500, seed=2)).softmax(-1), 0.9) > 0).sum()) for s in (1, 6)]
    return (
        f"The size of the nucleus follows the model: of 500 tokens, top_p=0.9 keeps {n_kept[0]} "
        f"of a flat distribution and {n_kept[1]} of a peaked one."
    )


def _name_nucleus(found: Tensor, p: Tensor, top_p: float) -> None:
    ordered, order = p.sort(descending=True)
    right = _nucleus(p, top_p)
    n = int((right > 0).sum())
    kept = p * (right > 0)

    def first(n_kept: int) -> Tensor:
        out = torch.zeros_like(p)
        out[order[:n_kept]] = p[order[:n_kept]]
        return out

    unsorted = p * (p.cumsum(0) - p < top_p)
    unsorted_without = p * (p.cumsum(0) <= top_p)
    n_least = int((p.sort().values.cumsum(0) <= top_p).sum())
    least = p - first(len(p) - n_least)
    crossing = (
        "The token that crosses the threshold is missing: the nucleus reaches top_p, so that "
        "token stays. Compare with the sum of the tokens *before* it."
    )
    order_lost = (
        "The numbers are right, but in sorted order: put each back at its token's place, or "
        "the ids are lost."
    )
    in_order = (
        "You added the probabilities up in the order of the vocabulary. Sort them first: the "
        "nucleus is made of the most likely tokens."
    )
    no_logits = "You took a softmax of probabilities; divide by their sum instead."
    diagnoses = [
        ("The right tokens, but they no longer sum to 1: divide by their sum.", kept),
        (crossing, first(n - 1) / first(n - 1).sum()),
        (crossing, first(n - 1)),
        (order_lost, ordered * (torch.arange(len(p)) < n) / kept.sum()),
        (order_lost, ordered * (torch.arange(len(p)) < n)),
        (order_lost, ordered[:n] / kept.sum()),
        (order_lost, ordered[:n]),
        (in_order, unsorted / unsorted.sum()),
        (in_order, unsorted),
        (in_order, unsorted_without / unsorted_without.sum()),
        (in_order, unsorted_without),
        ("You sorted from the rarest token up, and kept the unlikely ones.", least / least.sum()),
        ("You kept every token with a probability of at least top_p.", p * (p >= top_p)),
        (no_logits, kept.softmax(-1)),
        (no_logits, p.masked_fill(right == 0, -math.inf).softmax(-1)),
        ("Nothing was taken out.", p),
    ]
    for diagnosis, wrong in diagnoses:
        if same(found, wrong) and not same(wrong, right):
            raise Wrong(diagnosis)


# --- 5: the KV cache -------------------------------------------------------------------------

C, D_K, D_V = 6, 4, 3


@check
def check_cached_step(answer: Callable) -> str:
    """Check ``cached_step(x, W_q, W_k, W_v, cache)``: one new token, one head, ``(d_v,)``."""
    T = 5
    x = draw(T, C)
    matrices = draw(C, D_K, seed=1), draw(C, D_K, seed=2), draw(C, D_V, seed=3)
    cache = {"keys": torch.zeros(0, D_K), "values": torch.zeros(0, D_V)}
    for t in range(T):
        before = {name: kept.clone() for name, kept in cache.items()}
        found = as_tensor(answer(x[t].clone(), *(m.clone() for m in matrices), cache)).squeeze(0)
        _check_cache(cache, before, x[t], matrices, t)
        expect_shape(found, (D_V,), "(d_v,)")
        _check_step(found, x[: t + 1], matrices)
    keys = cache["keys"]
    cache["keys"] = keys.flip(0).contiguous()  # the caller may do with its cache what it likes
    tampered = as_tensor(answer(x[0].clone(), *matrices, cache)).squeeze(0)
    keys = torch.cat([keys.flip(0), (x[0] @ matrices[1])[None]])
    values = torch.cat([x, x[:1]]) @ matrices[2]
    query = (x[0] @ matrices[0])[None]
    if not same(tampered, scaled_dot_product_attention(query, keys, values)[0], 1e-4):
        raise Wrong(
            "The keys in the cache were exchanged for others, and your result did not follow. "
            "Use what is in the cache; do not compute or keep the old keys elsewhere."
        )
    return (
        "No mask is needed: the one query belongs to the last token, and everything in the cache "
        "came before it."
    )


def _check_cache(
    cache: Any, before: dict[str, Tensor], x: Tensor, matrices: Sequence[Tensor], t: int
) -> None:
    """Raise Wrong unless the cache now holds one key and one value more, at its end."""
    new = {"keys": x @ matrices[1], "values": x @ matrices[2]}
    other = {"keys": x @ matrices[0], "values": x @ matrices[1]}
    for name, singular in (("keys", "key"), ("values", "value")):
        kept = torch.as_tensor(cache[name]).detach()
        if kept.shape == before[name].shape:
            if t and len(kept) == 1 and same(kept, new[name][None]):
                raise Wrong(f"The cache holds the new {singular} only; the older ones are gone.")
            raise Wrong(
                f"The {name} in the cache are as they were: append the new {singular} to them, "
                f'cache["{name}"] = torch.cat([…]).'
            )
        if kept.dim() != 2 or len(kept) != t + 1:
            if t and same(kept.reshape(-1, new[name].shape[0])[-1], new[name]):
                raise Wrong(f"The cache holds the new {singular} only; the older ones are gone.")
            raise Wrong(
                f'After {t + 1} tokens cache["{name}"] has shape {tuple(kept.shape)}; expected '
                f"{(t + 1, new[name].shape[0])}."
            )
        expected = torch.cat([before[name], new[name][None]])
        if same(kept, expected, 1e-4):
            continue
        if same(kept, torch.cat([new[name][None], before[name]]), 1e-4):
            raise Wrong(
                f"You put the new {singular} in front. The result is the same for this head, but "
                "position t must stay in row t: append it at the end."
            )
        if other[name].shape == kept[-1].shape and same(kept[-1], other[name], 1e-4):
            wrong = {"keys": "query, x @ W_q", "values": "key, x @ W_k"}[name]
            raise Wrong(f"You appended the {wrong}, to the {name}.")
        raise Wrong(f"The new row of the {name} is not x @ W_{singular[0]}.")


def _check_step(found: Tensor, x: Tensor, matrices: Sequence[Tensor]) -> None:
    """Raise Wrong unless ``found`` is what the last token of ``x`` ``(t + 1, C)`` fetches."""
    query, keys, values = x[-1:] @ matrices[0], x @ matrices[1], x @ matrices[2]
    expected = scaled_dot_product_attention(query, keys, values)[0]
    if same(found, expected, 1e-4):
        return
    scores = query @ keys.T  # (1, t + 1)
    mistakes = {
        "The scores are not divided by √d_k.": (scores.softmax(-1) @ values)[0],
        "The new token gets the first value, whatever comes. A causal mask for one query has "
        "the wrong size: torch.tril of (1, T) lets it see key 0 only. It comes last, so it may "
        "see all: leave the mask out.": values[0],
        "The new token gets its own value only: attend to all keys in the cache, not just the "
        "new one.": values[-1],
        "The result is the plain mean of the values: are the scores used?": values.mean(0),
    }
    too_early = (
        "You attended before you appended: the new token must see its own key and value too."
    )
    if len(x) == 1 and (found.isnan().any() or not found.any()):
        raise Wrong(too_early)
    if len(x) > 2:  # with two tokens it cannot be told from the wrong mask
        old = scaled_dot_product_attention(query, keys[:-1], values[:-1])[0]
        mistakes = {too_early: old, **mistakes}
    for diagnosis, wrong in mistakes.items():
        if same(found, wrong, 1e-4):
            raise Wrong(diagnosis)
    raise Wrong(
        f"After {len(x)} tokens the result differs from the last row of causal attention over all "
        "of them."
    )
