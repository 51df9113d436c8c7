"""Checks for the homework "from scratch": softmax, attention, a sampler, BPE and the loss."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from course_checks import Verdict, Wrong, check
from course_checks.answers import (
    as_number,
    as_tensor,
    call,
    call_for_tensor,
    draw,
    expect_shape,
    name_mistake,
    name_number,
    near,
    same,
)
from course_utils.attention import causal_mask, scaled_dot_product_attention
from course_utils.sampling import keep_top_k, keep_top_p

__all__ = [
    "Verdict",
    "check_draw",
    "check_lm_loss",
    "check_multi_head_attention",
    "check_sampling_probabilities",
    "check_softmax",
    "check_train_bpe",
]

Words = Mapping[tuple[str, ...], int]

# --- 1: softmax ------------------------------------------------------------------------------


@check
def check_softmax(answer: Callable) -> str:
    """Check ``softmax(logits)`` over the last dimension of ``(…, V)``."""
    one = torch.tensor([1.0, 2.0, 3.0])
    found = call_for_tensor(answer, one)
    expect_shape(found, (3,), "(V,)")
    e = one.exp()
    name_mistake(
        found,
        {
            "You divided the logits by their sum. Take their exponentials first.": one / one.sum(),
            "These are the exponentials; divide them by their sum.": e,
            "These are the exponentials, with the largest set to 1; divide them by their sum.": e
            / e.max(),
            "This is the softmax of the negative logits: the largest logit gets the smallest "
            "share.": (-one).softmax(-1),
            "You used powers of 2; the softmax uses powers of e.": (one * math.log(2)).softmax(-1),
            "This is the logarithm of the softmax.": one.log_softmax(-1),
        },
    )
    if not same(found, one.softmax(-1)):
        raise Wrong(f"softmax([1, 2, 3]) is {one.softmax(-1).numpy().round(4)}, not {found}.")
    logits = draw(2, 3, 5)
    found = call_for_tensor(answer, logits)
    expect_shape(found, (2, 3, 5), "that of the logits,")
    name_mistake(
        found,
        {
            "Your sum runs over the whole tensor; each row sums to 1 by itself: "
            "sum(dim=-1, keepdim=True).": logits.exp() / logits.exp().sum(),
            "The softmax runs over the first dimension; it belongs over the last.": logits.softmax(
                0
            ),
            "The softmax runs over the second dimension; it belongs over the last, "
            "dim=-1.": logits.softmax(1),
        },
    )
    if not same(found, logits.softmax(-1)):
        raise Wrong("Right for one row, wrong for logits of shape (2, 3, 5).")
    rows = torch.tensor([[1000.0, 999.0], [-1000.0, -1001.0]])
    if not same(call_for_tensor(answer, rows), rows.softmax(-1)):
        raise Wrong(
            "Right for ordinary logits, but exp(1000) overflows and exp(-1000) is 0. Subtract the "
            "largest logit of each row first: the shares stay the same."
        )
    return "Adding one number to all logits changes nothing: only their differences matter."


# --- 2: attention ----------------------------------------------------------------------------

B, T, C, N_HEAD = 2, 5, 12, 3
D_K = C // N_HEAD


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, D_K)).transpose(1, 2)  # (B, H, T, d_k)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # (B, T, C)


@check
def check_multi_head_attention(answer: Callable) -> str:
    """Check ``multi_head_attention(x, W_q, W_k, W_v, W_o, n_head)``, causal, ``(B, T, C)``.

    The projections are ``x @ W``; no biases.
    """
    x = draw(B, T, C)
    matrices = tuple(draw(C, C, seed=seed) / math.sqrt(C) * 2 for seed in range(1, 5))
    _only_projections(answer, x, matrices)
    _one_head(answer, x, matrices)
    found = call_for_tensor(answer, x, *matrices, N_HEAD)
    expect_shape(found, (B, T, C), "(B, T, C)")
    query, key, value = (_heads(x @ W) for W in matrices[:3])
    W_o, scores, mask = matrices[3], query @ key.mT, causal_mask(T)

    def out(scores: Tensor) -> Tensor:
        weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
        return _joined(weights @ value) @ W_o

    weights = (scores / math.sqrt(D_K)).masked_fill(~mask, -math.inf).softmax(-1)
    chopped = [(x @ W).reshape(B, N_HEAD, T, D_K) for W in matrices[:3]]
    whole = scaled_dot_product_attention(*(x @ W for W in matrices[:3]), mask) @ W_o
    strided = [(x @ W).unflatten(-1, (D_K, N_HEAD)).permute(0, 3, 1, 2) for W in matrices[:3]]
    mixed = scaled_dot_product_attention(*strided, mask)
    name_mistake(
        found,
        {
            f"You divided by √n_embd (√{C}). Each head has {D_K} channels: divide by √{D_K}, the "
            "square root of the head size.": out(scores / math.sqrt(C)),
            "The scores are not divided by √d_k.": out(scores),
            "n_head has no effect: all channels attend as one head.": whole,
            "x was reshaped straight to (B, H, T, d_k), which mixes positions and heads. Make it "
            "(B, T, H, d_k), then transpose.": _joined(scaled_dot_product_attention(*chopped, mask))
            @ W_o,
            "The heads were put together without the transpose back: (B, H, T, d_k) must become "
            "(B, T, H, d_k) before it is flattened.": (weights @ value).reshape(B, T, C) @ W_o,
            "The heads take every n_head-th channel; they take neighbours: (H, d_k), not "
            "(d_k, H).": mixed.permute(0, 2, 3, 1).flatten(2) @ W_o,
        },
    )
    right = _joined(weights @ value) @ W_o
    if not same(found, right):
        raise Wrong(
            "Right for one head, wrong for three. Look at how the channels are split into heads "
            "and put together again."
        )
    return "Every position, head and sequence at once: not one loop is needed."


def _only_projections(answer: Callable, x: Tensor, matrices: Sequence[Tensor]) -> None:
    # With one token the weight is 1: what is left is x @ W_v @ W_o.
    found = call_for_tensor(answer, x[:, :1], *matrices, N_HEAD)
    expect_shape(found, (B, 1, C), "(B, T, C)")
    one, (W_q, W_k, W_v, W_o) = x[:, :1], matrices
    name_mistake(
        found,
        {
            "W_o is missing: the joined heads go through one more matrix.": one @ W_v,
            "The values are x itself; they should be x @ W_v.": one @ W_o,
            "The matrices are transposed: here a projection is x @ W.": one @ W_v.mT @ W_o.mT,
            "The values were made with W_k.": one @ W_k @ W_o,
            "The values were made with W_q.": one @ W_q @ W_o,
        },
    )
    if not same(found, one @ W_v @ W_o):
        raise Wrong("With a single token attention has no choice: the result is x @ W_v @ W_o.")


def _one_head(answer: Callable, x: Tensor, matrices: Sequence[Tensor]) -> None:
    found = call_for_tensor(answer, x, *matrices, 1)
    query, key, value = (x @ W for W in matrices[:3])
    mask, scores = causal_mask(T), query @ key.mT / math.sqrt(C)
    if found.isnan().any():
        raise Wrong("The result is not a number: a row of the mask allows no key at all.")
    hidden = scores.masked_fill(~mask, -math.inf)
    W_o = matrices[3]
    name_mistake(
        found,
        {
            "The mask is missing: position 0 sees what comes after it.": scores.softmax(-1)
            @ value
            @ W_o,
            "The triangle is flipped: query i may look at keys 0 to i.": scores.masked_fill(
                ~mask.mT, -math.inf
            ).softmax(-1)
            @ value
            @ W_o,
            "The mask came after the softmax, so the rows do not sum to 1. Put -inf into the "
            "scores before it.": (scores.softmax(-1) * mask) @ value @ W_o,
            "The softmax runs over the queries; it belongs over the keys, dim=-1.": hidden.softmax(
                -2
            ).nan_to_num()
            @ value
            @ W_o,
            "Query and key are exchanged: the scores are query @ keyᵀ.": scores.mT.masked_fill(
                ~mask, -math.inf
            ).softmax(-1)
            @ value
            @ W_o,
        },
    )
    if not same(found, hidden.softmax(-1) @ value @ W_o):
        raise Wrong("Already with one head the result differs from masked attention, then W_o.")


# --- 3: a sampler ----------------------------------------------------------------------------


def _filtered(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    return keep_top_p(keep_top_k(logits / temperature, top_k), top_p).softmax(-1)


def _cut(probabilities: Tensor, keep: Tensor) -> Tensor:
    """Return ``probabilities`` with zeros where ``keep`` is False, made to sum to 1 again."""
    kept = probabilities * keep
    return kept / kept.sum(-1, keepdim=True)


@check
def check_sampling_probabilities(answer: Callable) -> str:
    """Check ``sampling_probabilities(logits, temperature, top_k, top_p)``, ``(B, V)`` each."""
    B, V = 3, 8
    logits = 2 * draw(B, V, seed=4)

    def ask(temperature: float, top_k: int, top_p: float) -> Tensor:
        found = call_for_tensor(answer, logits, temperature, top_k, top_p)
        expect_shape(found, (B, V), "(B, V)")
        return found

    found = ask(0.5, V, 1.0)
    name_mistake(
        found,
        {
            "You multiplied the logits by the temperature; divide.": (logits * 0.5).softmax(-1),
            "The temperature changed nothing.": logits.softmax(-1),
            "You divided the probabilities by the temperature and made them sum to 1 again, which "
            "changes nothing. Divide the logits, before the softmax.": logits.softmax(-1),
            "These are logits; return probabilities.": logits / 0.5,
            "The softmax runs over the batch.": (logits / 0.5).softmax(0),
        },
    )
    if not same(found, _filtered(logits, 0.5, V, 1.0)):
        raise Wrong("With all tokens kept the result should be softmax(logits / temperature).")
    p = logits.softmax(-1)
    in_order = p.sort(-1, descending=True)
    _name_top_k(ask(1.0, 3, 1.0), logits, p)
    found, right = ask(1.0, V, 0.8), _filtered(logits, 1.0, V, 0.8)
    before = in_order.values.cumsum(-1) - in_order.values
    sorted_right = _cut(in_order.values, before < 0.8)
    short = in_order.values.cumsum(-1) <= 0.8
    place = in_order.indices.argsort(-1)
    name_mistake(
        found,
        {
            "The probabilities stand in sorted order: put each back to its own "
            "token.": sorted_right,
            "The token that crosses top_p is missing. The nucleus is the smallest set that "
            "reaches top_p: keep a token if the sum before it is below top_p.": _cut(
                p, short.gather(-1, place)
            ),
            "The kept probabilities do not sum to 1: divide each row by its sum.": p * (right > 0),
            "top_p changed nothing.": p,
            "You kept tokens whose own probability exceeds 1 - top_p. The nucleus is about the "
            "sum of the largest.": _cut(p, p > 0.2),
        },
    )
    if not same(found, right):
        rows = [row for row in range(B) if not same(found[row], right[row])]
        raise Wrong(f"With top_p = 0.8 alone, rows {rows} of 0 to {B - 1} are wrong.")
    found = ask(2.0, 5, 0.7)
    hot = (logits / 2).softmax(-1)
    nucleus_of_all = _filtered(logits, 2.0, V, 0.7)
    top_five = _filtered(logits, 2.0, 5, 1.0)
    name_mistake(
        found,
        {
            "Each filter worked from the unfiltered distribution. Take the nucleus of what "
            "top_k has left, made to sum to 1.": _cut(hot, (nucleus_of_all > 0) & (top_five > 0)),
            "The nucleus was taken before the temperature. Divide the logits first.": _cut(
                hot, (_filtered(logits, 1.0, 5, 0.7) > 0)
            ),
        },
    )
    if not same(found, _filtered(logits, 2.0, 5, 0.7)):
        raise Wrong(
            "Each part is right alone, together they are not. The order is temperature, top_k, "
            "softmax, top_p, and then each row sums to 1 again."
        )
    return "top_k keeps the same number of tokens everywhere, top_p as many as the model hesitates."


def _name_top_k(found: Tensor, logits: Tensor, p: Tensor) -> None:
    right = _filtered(logits, 1.0, 3, 1.0)
    smallest = logits.argsort(-1).argsort(-1) < 3
    all_rows = logits >= logits.flatten().topk(3).values[-1]
    fewer = logits.argsort(-1, descending=True).argsort(-1) < 2
    name_mistake(
        found.nan_to_num(),  # a row may have lost all of its tokens
        {
            "top_k changed nothing.": p,
            "The kept probabilities do not sum to 1: set the other logits to -inf before the "
            "softmax, or divide by the sum.": p * (right > 0),
            "You kept the k smallest.": _cut(p, smallest),
            "top_k was taken over the whole batch; each row keeps its own k.": _cut(
                p, all_rows
            ).nan_to_num(),
            "One token too few: the k-th largest itself stays. Cut below it, not at it.": _cut(
                p, fewer
            ),
            "The other logits were set to 0, which gives them a probability. Use "
            "-inf.": logits.masked_fill(right == 0, 0.0).softmax(-1),
        },
    )
    if not same(found, right):
        raise Wrong("With top_k = 3 alone the result is wrong.")


@check
def check_draw(answer: Callable) -> str:
    """Check ``draw(probabilities, u)``: the ids ``(B,)`` that uniform numbers ``u`` pick."""
    p = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]])
    u = torch.tensor([0.65, 0.05, 0.15, 0.75])
    found = as_tensor(call(answer, p, u))
    if tuple(found.shape) == (4, 1):
        found = found[:, 0]
    expect_shape(found, (4,), "(B,)")
    cumulative = p.cumsum(-1)
    right = (cumulative <= u[:, None]).sum(-1).float()
    name_mistake(
        found,
        {
            "You took the likeliest token; u decides, not only p.": p.argmax(-1).float(),
            "Every row used the first u; each has its own.": (cumulative <= u[0]).sum(-1).float(),
            "One too far: the token is the first whose cumulative sum exceeds u.": right + 1,
            "One too early: the token is the first whose cumulative sum exceeds u.": right - 1,
            "You compared u with the probabilities themselves; compare it with their cumulative "
            "sums.": (p > u[:, None]).int().argmax(-1).float(),
        },
    )
    if not same(found, right):
        raise Wrong(
            f"For u = {u.tolist()} the ids are {right.int().tolist()}, not {found.int().tolist()}."
        )
    edge = torch.tensor([[0.0, 0.5, 0.5], [0.25, 0.0, 0.75]])
    found = as_tensor(call(answer, edge, torch.tensor([0.0, 0.25]))).flatten()
    if found[0] == 0 or found[1] == 1:
        raise Wrong(
            "You drew a token whose probability is 0. The cumulative sum must be greater than u, "
            "not equal to it: u can be exactly 0."
        )
    if not same(found, torch.tensor([1.0, 2.0])):
        raise Wrong("At the borders (u = 0, or u equal to a cumulative sum) the id is wrong.")
    generator = torch.Generator().manual_seed(1)
    many = torch.rand(4000, generator=generator)
    row = torch.tensor([0.15, 0.55, 0.3])
    ids = as_tensor(call(answer, row.expand(4000, 3).contiguous(), many)).flatten()
    shares = torch.bincount(ids.long().clamp(0, 2), minlength=3) / 4000
    if not same(shares, row, atol=0.04):
        raise Wrong(f"4,000 draws from {row.tolist()} came out in shares of {shares.tolist()}.")
    return "One uniform number is all the chance there is in a token."


# --- 4: byte-pair encoding -------------------------------------------------------------------


def _merge(tokens: Sequence[str], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    rest = list(tokens)
    while rest:
        if tuple(rest[:2]) == pair:
            out.append(rest[0] + rest[1])
            rest = rest[2:]
        else:
            out.append(rest.pop(0))
    return tuple(out)


def _counts(words: Sequence[tuple[tuple[str, ...], int]]) -> Counter:
    counts: Counter = Counter()
    for tokens, n in words:
        for pair in pairwise(tokens):
            counts[pair] += n
    return counts


def _bpe(words: Words, n_merges: int, tie: Callable = max, weigh: bool = True) -> list:
    """Return the merges; with ``tie=min`` or ``weigh=False`` those of a usual mistake."""
    current = [(tokens, n if weigh else 1) for tokens, n in words.items()]
    merges = []
    for _ in range(n_merges):
        counts = _counts(current)
        if not counts:
            break
        most = max(counts.values())
        pair = tie(pair for pair, n in counts.items() if n == most)
        merges.append(pair)
        current = [(_merge(tokens, pair), n) for tokens, n in current]
    return merges


CORPUS = {
    tuple("lower"): 2,
    tuple("newest"): 6,
    tuple("widest"): 3,
    tuple("low"): 5,
    tuple("banana"): 4,
    tuple("wewewe"): 1,
}


@check
def check_train_bpe(answer: Callable) -> str:
    """Check ``train_bpe(words, n_merges)`` -> the merges in order, a list of pairs."""

    def ask(words: Words, n: int) -> list:
        given = dict(words)
        result = call(answer, given, n)
        if given != dict(words):
            raise Wrong("Your function changed the dict that it was given: work on a copy.")
        if isinstance(result, Mapping):
            raise Wrong("You returned a dict; return the list of pairs, in the order of merging.")
        merges = [tuple(pair) if isinstance(pair, list) else pair for pair in result]
        if merges and isinstance(merges[0], str):
            raise Wrong("You returned the joined tokens; return pairs such as ('e', 's').")
        return merges

    if (found := ask({("a", "b"): 3}, 1)) != [("a", "b")]:
        raise Wrong(f"In a corpus of one word, a b, one merge is [('a', 'b')], not {found}.")
    right = _bpe(CORPUS, 8)
    found = ask(CORPUS, 8)
    first = _counts(list(CORPUS.items()))
    mistakes = {
        "You took the most frequent pairs of the first count. Count again after each merge: new "
        "tokens make new pairs.": sorted(first, key=lambda pair: (-first[pair], pair))[:8],
        "You took the most frequent pairs of the first count. Count again after each merge: new "
        "tokens make new pairs, and ties go to the greater pair.": sorted(
            first, key=lambda pair: (first[pair], pair), reverse=True
        )[:8],
        "Each different word counted once. A pair counts as often as its word occurs.": _bpe(
            CORPUS, 8, weigh=False
        ),
        "Ties go to the greater pair, as Python compares tuples; yours go to the smaller.": _bpe(
            CORPUS, 8, tie=min
        ),
        "Ties go to the greater pair, as Python compares tuples; yours go to the one that was "
        "counted first.": _bpe(CORPUS, 8, tie=next),
        "One merge too many: n_merges is the number of pairs to return.": _bpe(CORPUS, 9),
        "One merge too few: n_merges is the number of pairs to return.": right[:-1],
    }
    for diagnosis, wrong in mistakes.items():
        if found == wrong and wrong != right:
            raise Wrong(diagnosis)
    if found != right:
        agree = next((i for i, pair in enumerate(right) if found[i : i + 1] != [pair]), 7)
        raise Wrong(
            f"The first {agree} of your merges are right; the next should be {right[agree]}. The "
            f"corpus of this check is {CORPUS}."
        )
    repeated = {tuple("aaaa"): 3, tuple("aab"): 2}
    if (found := ask(repeated, 3)) != _bpe(repeated, 3):
        raise Wrong(
            f"With {repeated} the merges are {_bpe(repeated, 3)}, not {found}: in a a a a "
            "the pair stands three times, and is merged twice, from left to right."
        )
    try:
        found = ask({("a", "b"): 3}, 5)
    except (ValueError, IndexError) as error:
        raise Wrong(
            "When every word is one token there is no pair left, and your function stops with "
            f"{type(error).__name__}. Return the merges so far."
        ) from error
    if found != [("a", "b")]:
        raise Wrong(f"When no pair is left, stop: expected [('a', 'b')], not {found}.")
    return "The order of the merges is the tokenizer: encoding replays them."


# --- 5: the loss -----------------------------------------------------------------------------


@check
def check_lm_loss(answer: Callable) -> str:
    """Check ``lm_loss(logits, ids, pad_id)`` for ``(B, T, V)`` and ``(B, T)``, mean in nats."""
    B, T, V, pad = 2, 6, 7, 0
    logits = 2 * draw(B, T, V, seed=9)
    ids = torch.tensor([[3, 1, 4, 1, 5, 2], [6, 2, 5, 3, 4, 1]])
    found = as_number(call(answer, logits, ids, pad), "mean loss")
    log_p = logits.log_softmax(-1)
    right = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
    name_number(
        found,
        {
            "Nothing is shifted: the logits at position t are compared with the token at t, which "
            "the model has read. They predict the token at t + 1.": F.cross_entropy(
                logits.flatten(0, 1), ids.flatten()
            ).item(),
            "The shift goes the wrong way: the logits at t predict the token at "
            "t + 1.": F.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, :-1].flatten()).item(),
            "`roll` brings the first token round to the end. Drop the last position: nothing is "
            "known about what follows it.": F.cross_entropy(
                logits.flatten(0, 1), ids.roll(-1, 1).flatten()
            ).item(),
            "The sign is missing.": -right,
            "This is the sum; the loss is the mean.": right * B * (T - 1),
            "You divided by all B · T positions; B · (T - 1) tokens were predicted.": right
            * (T - 1)
            / T,
            "The logits went in without a softmax.": -logits[:, :-1]
            .gather(-1, ids[:, 1:, None])
            .mean()
            .item(),
            "This is the mean over the vocabulary; only the token that came counts.": -log_p[:, :-1]
            .mean()
            .item(),
        },
    )
    if not near(found, right):
        raise Wrong(f"Without any padding the result is {found:.4f}; expected {right:.4f}.")
    padded = ids.clone()
    padded[0, 3:] = pad
    found = as_number(call(answer, logits, padded, pad), "mean loss")
    targets = padded[:, 1:]
    losses = -log_p[:, :-1].gather(-1, targets[..., None])[..., 0]  # (B, T - 1)
    real = targets != pad
    right = losses[real].mean().item()
    rows = torch.stack([row[keep].mean() for row, keep in zip(losses, real, strict=True)])
    kept = (padded[:, :-1] != pad).float()
    name_number(
        found,
        {
            "The padding counts as tokens to predict. Leave out the positions whose target is "
            "pad_id.": losses.mean().item(),
            "The padding was set to 0 but still counted in the mean: divide by the number of real "
            "targets.": (losses * real).mean().item(),
            "This is the mean of the rows' means, in which a token of a short row counts for "
            "more. Take one mean over all real targets.": rows.mean().item(),
            "You left out where the input is padding. What counts is whether the target is.": (
                (losses * kept).sum() / kept.sum()
            ).item(),
        },
    )
    if not near(found, right):
        raise Wrong(f"With padding the result is {found:.4f}; expected {right:.4f}.")
    huge = torch.tensor([[[1000.0, 0.0], [0.0, 0.0]]])
    if not near(as_number(call(answer, huge, torch.tensor([[1, 1]]), -1), "mean loss"), 1000):
        raise Wrong(
            "Right for ordinary logits; with a logit of 1000 exp overflows. Use log_softmax, or "
            "subtract the largest logit first."
        )
    return "It is what torch computes with ignore_index, and what every decoder is trained on."
