"""Checks for the first two homeworks: settings of a generation, measures of text and of heads."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_checks import Verdict, Wrong, check
from course_checks.answers import (
    as_number,
    call,
    call_for_tensor,
    draw,
    expect_shape,
    name_mistake,
    name_number,
    near,
    same,
)
from course_utils.attention_views import head_statistics

__all__ = [
    "Verdict",
    "check_attention_distance",
    "check_distinct_n",
    "check_generation_settings",
    "check_head_entropy",
    "check_loop_length",
    "check_share_on_previous",
]

# --- settings of a generation ----------------------------------------------------------------


@check
def check_generation_settings(answer: Callable) -> str:
    """Check ``generation_settings(temperature, max_new_tokens)`` -> keyword arguments, a dict."""
    warm, greedy = _settings(answer, 0.7, 30), _settings(answer, 0, 12)
    for settings, length in ((warm, 30), (greedy, 12)):
        if "max_length" in settings:
            raise Wrong(
                "max_length counts the prompt as well, so a long prompt would leave no room. Give "
                "max_new_tokens, which counts what is added."
            )
        if settings.get("max_new_tokens") != length:
            raise Wrong(
                f"max_new_tokens should be {length}; your settings say "
                f"{settings.get('max_new_tokens')!r}."
            )
        if settings.get("return_full_text", True):
            raise Wrong(
                "return_full_text is not False, so the pipeline would put the prompt in front of "
                "its answer, and every measure would count the prompt too."
            )
    if not warm.get("do_sample"):
        raise Wrong(
            "With a temperature of 0.7 do_sample must be True: without it the likeliest token is "
            "taken at each step and the temperature does nothing."
        )
    if warm.get("temperature") != 0.7:
        raise Wrong(f"The temperature should be 0.7; it is {warm.get('temperature')!r}.")
    if greedy.get("do_sample", True):
        raise Wrong(
            "Temperature 0 stands for greedy decoding: there do_sample must be False, for the "
            "logits cannot be divided by 0."
        )
    if "temperature" in greedy:
        raise Wrong(
            "With temperature 0 nothing is drawn, so leave `temperature` out: the library warns "
            "about a setting that it will not use."
        )
    return "Greedy decoding is where sampling arrives as the temperature goes to 0."


def _settings(answer: Callable, temperature: float, max_new_tokens: int) -> dict[str, Any]:
    result = call(answer, temperature, max_new_tokens)
    if not isinstance(result, Mapping):
        raise Wrong(
            f"You returned a {type(result).__name__}; return a dict of keyword arguments, such as "
            '{"max_new_tokens": 30}.'
        )
    return dict(result)


# --- measures of text ------------------------------------------------------------------------


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _share(parts: Sequence[Any]) -> float:
    return len(set(parts)) / len(parts) if parts else 0.0


def _distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    return _share([part for tokens in texts for part in _ngrams(tokens, n)])


@check
def check_distinct_n(answer: Callable) -> str:
    """Check ``distinct_n(texts, n)``: different n-grams over all n-grams, of all texts together."""
    if not near(as_number(call(answer, [["a", "b", "c"]], 1), "share"), 1):
        raise Wrong("In the one text a b c all tokens are different: the share is 1.")
    texts = [list("abab"), list("abcd"), list("da")]
    right = _distinct(texts, 2)
    parts = [part for tokens in texts for part in _ngrams(tokens, 2)]
    found = as_number(call(answer, [list(t) for t in texts], 2), "share of different n-grams")
    whole = [token for tokens in texts for token in tokens]
    name_number(
        found,
        {
            "This is the mean of the texts' own shares. Put the n-grams of all texts together: "
            "what two samples have in common counts once.": sum(
                _share(_ngrams(tokens, 2)) for tokens in texts
            )
            / 3,
            "Your n-grams run across the border between two texts. Make the n-grams of each text "
            "by itself.": _share(_ngrams(whole, 2)),
            "This is the number of different n-grams; divide by the number of all.": len(
                set(parts)
            ),
            "You divided by the number of tokens. A text of T tokens has T - n + 1 n-grams.": len(
                set(parts)
            )
            / len(whole),
            "This is the share that repeats; the share that is different is 1 minus it.": 1 - right,
            "You counted single tokens, not pairs: an n-gram is n tokens in a row.": _distinct(
                texts, 1
            ),
            "Your n-grams have n + 1 tokens.": _distinct(texts, 3),
            "a b and b a are two different n-grams: do not sort them or make sets of them.": _share(
                [frozenset(part) for part in parts]
            ),
        },
    )
    if not near(found, right):
        raise Wrong(f"For {texts} and n=2 the result is {found:.4f}; expected {right:.4f}.")
    try:
        empty = as_number(call(answer, [["a"], []], 2), "share")
    except ZeroDivisionError as error:
        raise Wrong(
            "Texts shorter than n have no n-gram, and your function divides by zero: return 0.0."
        ) from error
    if not near(empty, 0):
        raise Wrong(f"Texts shorter than n have no n-gram: return 0.0, not {empty}.")
    return "Read the samples as well: random letters have a perfect score here."


def _loop(ids: Sequence[int], times: int = 3) -> int:
    """Return the shortest period with which ``ids`` ends, ``times`` times in a row, or 0."""
    for period in range(1, len(ids) // times + 1):
        end = list(ids[len(ids) - period * times :])
        if end == end[:period] * times:
            return period
    return 0


@check
def check_loop_length(answer: Callable) -> str:
    """Check ``loop_length(ids)``: the shortest part that the text ends with three times, or 0."""

    def ask(ids: list[int]) -> int:
        result = answer(list(ids))
        if result is None:
            raise Wrong(f"For {ids} you returned None. Without a loop the answer is 0.")
        return int(as_number(result, "length of the loop"))

    if (found := ask([1, 2, 3, 4, 5, 6])) != 0:
        raise Wrong(f"In 1 2 3 4 5 6 nothing repeats: the answer is 0, not {found}.")
    looping = [9, 8, 7, 1, 2, 1, 2, 1, 2]
    if (found := ask(looping)) != 2:
        reason = {
            6: "That is the length of all three repeats; return the length of one.",
            3: "That is how often the loop was seen; return its length in tokens.",
            0: "Your function sees no loop. Compare the last p tokens with the p before them, "
            "and those with the p before.",
        }.get(found, "")
        raise Wrong(f"9 8 7 1 2 1 2 1 2 ends with 1 2 three times: 2, not {found}. {reason}")
    if (found := ask([5, 5, 5, 5, 5, 5])) != 1:
        reason = " Begin with the shortest period." if found == 2 else ""
        raise Wrong(f"5 5 5 5 5 5 repeats a loop of length 1, not {found}.{reason}")
    if (found := ask([7, 1, 2, 1, 2])) != 0:
        raise Wrong(
            f"7 1 2 1 2 ends with 1 2 only twice; three times are asked for. You returned {found}."
        )
    if (found := ask([1, 2, 1, 2, 1, 2, 9])) != 0:
        raise Wrong(
            f"1 2 1 2 1 2 9 got out of its loop: the answer is 0, not {found}. Only the end of the "
            "text counts."
        )
    if (found := ask([4, 6, 4, 6, 4, 6])) != 2:
        raise Wrong(
            f"4 6 4 6 4 6 is nothing but a loop of length 2; you returned {found}. Does your range "
            "of periods end one too early? The longest is len(ids) // 3."
        )
    if (found := ask([2, 1, 3, 1, 3, 1, 2, 1, 3, 1, 3, 1, 2, 1, 3, 1, 3, 1])) != 6:
        raise Wrong(
            "2 1 3 1 3 1, three times, is a loop of length 6: each of the three parts must be "
            f"equal as a whole. You returned {found}."
        )
    for ids in np.random.default_rng(3).integers(0, 2, (40, 14)).tolist():
        if (found := ask(ids)) != _loop(ids):
            raise Wrong(f"For {ids} you returned {found}; expected {_loop(ids)}.")
    return "Once the context that the model sees repeats, greedy decoding cannot leave the loop."


# --- measures of heads -----------------------------------------------------------------------

H, T = 3, 6


def _weights() -> Tensor:
    """Return the causal attention of ``H`` heads over ``T`` tokens, ``(H, T, T)``."""
    hidden = torch.ones(T, T).triu(1).bool()
    return (2 * draw(H, T, T, seed=2)).masked_fill(hidden, -math.inf).softmax(-1)


def _of_library(weights: Tensor, name: str) -> Tensor:
    return torch.from_numpy(head_statistics([weights[None]])[name][0]).float()


def _statistic(answer: Callable, weights: Tensor) -> Tensor:
    found = call_for_tensor(answer, weights)
    if found.dim() == 0:
        raise Wrong("The result is one number; expected one for each head, (H,).")
    if tuple(found.shape) in ((H, T), (H, T - 1)):
        raise Wrong("There is a number for each query; average over the queries to get (H,).")
    expect_shape(found, (H,), "(H,)")
    return found


@check
def check_head_entropy(answer: Callable) -> str:
    """Check ``head_entropy(weights)`` -> ``(H,)`` in bits, mean over all queries but the first."""
    weights = _weights()
    found = _statistic(answer, weights)
    if found.isnan().any():
        raise Wrong(
            "The result is not a number: 0 · log 0 gives nan where the mask left a weight of 0. "
            "Count such a key as 0; torch.special.entr(p) is -p · ln p with that rule."
        )
    bits = torch.special.entr(weights) / math.log(2)
    right = _of_library(weights, "entropy")
    per_query = bits.sum(-1)
    name_mistake(
        found,
        {
            "This is in nats; divide by ln 2 for bits.": right * math.log(2),
            "The sign is missing: entropy is minus the sum of p · log p.": -right,
            "The first query is in the mean. It has one key and no choice, so leave it "
            "out.": per_query.mean(-1),
            "You left out the first query and still divided by T; there are T - 1 left.": per_query[
                :, 1:
            ].sum(-1)
            / T,
            "This is the sum over the queries; take the mean.": per_query[:, 1:].sum(-1),
            "You took the mean over the keys. An entropy is a sum over them.": bits[:, 1:].mean(
                (-1, -2)
            ),
            "You summed over the queries. A query shares out its attention along its row, the "
            "last dimension.": bits.sum(-2)[:, 1:].mean(-1),
        },
    )
    if not same(found, right):
        raise Wrong(
            f"On random heads the result is {found.numpy().round(3)}; expected "
            f"{right.numpy().round(3)}."
        )
    return "2 to the power of the entropy is the number of keys that a head spreads over."


@check
def check_attention_distance(answer: Callable) -> str:
    """Check ``attention_distance(weights)`` -> ``(H,)``: mean distance from query to key."""
    previous = torch.zeros(H, T, T)
    previous[:, 0, 0] = 1
    for row in range(1, T):
        previous[:, row, row - 1] = 1
    found = _statistic(answer, previous)
    one = torch.ones(H)
    name_mistake(
        found,
        {
            "The distances have the wrong sign: a key before the query is at query - key, a "
            "positive number.": -one,
            "The first query is in the mean. It can only look at itself, so leave it out.": one
            * (T - 1)
            / T,
        },
    )
    if not same(found, one):
        raise Wrong(
            "For heads that look at the previous token only, the mean distance is 1; yours is "
            f"{found.numpy().round(3)}."
        )
    weights, place = _weights(), torch.arange(T)
    far = (place[:, None] - place[None, :]).abs().float()  # (T, T)
    found, right = _statistic(answer, weights), _of_library(weights, "distance")
    name_mistake(
        found,
        {
            "You took the distance to the key with the largest weight. Weigh all keys: the sum "
            "of weight · distance.": far.expand(H, T, T)
            .gather(-1, weights.argmax(-1, keepdim=True))[:, 1:, 0]
            .mean(-1),
            "The distances are squared.": (weights * far**2).sum(-1)[:, 1:].mean(-1),
            "You took the mean over the keys. The weights sum to 1 already, so sum.": (
                weights * far
            )[:, 1:].mean((-1, -2)),
            "You took the root of the mean square. The distance is weighed as it is.": (
                (weights * far**2).sum(-1)[:, 1:].mean(-1).sqrt()
            ),
        },
    )
    if not same(found, right):
        raise Wrong(
            f"On random heads the result is {found.numpy().round(3)}; expected "
            f"{right.numpy().round(3)}."
        )
    encoder = draw(H, T, T, seed=5).softmax(-1)  # looks both ways
    if not same(_statistic(answer, encoder), _of_library(encoder, "distance")):
        raise Wrong(
            "Right for causal heads, wrong for an encoder, which also looks forward: a distance "
            "is |query - key|, and keys on the two sides must not cancel."
        )
    return "A long mean distance may just be the first token's share: look at both."


@check
def check_share_on_previous(answer: Callable) -> str:
    """Check ``share_on_previous(weights)`` -> ``(H,)``: mean weight of the token before."""
    weights = draw(H, T, T, seed=7).softmax(-1)  # both ways, so that a wrong diagonal shows
    found, right = _statistic(answer, weights), _of_library(weights, "previous")
    name_mistake(
        found,
        {
            "This is the weight of the token itself, the main diagonal. The previous token "
            "stands one below it.": weights.diagonal(dim1=-2, dim2=-1).mean(-1),
            "This is the weight of the token itself, the main diagonal, without the "
            "first.": weights.diagonal(dim1=-2, dim2=-1)[:, 1:].mean(-1),
            "This is the next token, above the diagonal. Rows are queries and columns keys: the "
            "previous token is below, offset=-1.": weights.diagonal(1, -2, -1).mean(-1),
            "This is the first token, column 0. The previous one moves along with the "
            "query.": weights[:, 1:, 0].mean(-1),
            "You divided by T, but the first token has no previous one: T - 1 are left.": (
                right * (T - 1) / T
            ),
            "This is the sum over the queries; take the mean.": right * (T - 1),
            "This is the mean over heads and queries; keep the heads apart.": right.mean().expand(
                H
            ),
        },
    )
    if not same(found, right):
        raise Wrong(
            f"On random heads the result is {found.numpy().round(3)}; expected "
            f"{right.numpy().round(3)}."
        )
    return "Such heads know the order of tokens only: nothing about the words matters to them."
