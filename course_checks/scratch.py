"""Exercises of the homework "from scratch": softmax, attention, the loss, a sampler, BPE."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from course_checks.answers import draw
from course_checks.attention import HIDDEN, SCALES, Scale, Weights, causal
from course_checks.exercises import Exercise, Way, changed
from course_checks.generation import FILTERED, NUCLEI, nucleus, top_k
from course_checks.training import LOG_P

INF = math.inf


def _shares(powers: Tensor) -> Tensor:
    return powers / powers.sum(-1, keepdim=True)


# --- 1: softmax ------------------------------------------------------------------------------


def _softmax_inputs(seed: int) -> list[tuple]:
    shapes = (2,), (5,), (2, 3), (3, 3), (2, 3, 5), (4, 2, 3, 3)
    calls = [2 * draw(*shape, seed=seed + n) for n, shape in enumerate(shapes)]
    row = draw(2, seed=seed)
    calls += [row + 1000, row - 1000, torch.stack([row + 1000, row - 1000])]
    return [(logits,) for logits in (*calls, torch.tensor([0.0, 0.0, 1000.0]) + row[0])]


def _less(subtracted: Way) -> Way:
    return lambda x: _shares((x - subtracted(x)).exp())


check_softmax = Exercise(
    name="softmax",
    task="The softmax over the last dimension of (..., V), for logits of any size.",
    right=lambda logits: logits.softmax(-1),
    inputs=_softmax_inputs,
    shape="(..., V)",
    mistakes={
        "You divided the logits themselves by their sum. Take their exponentials before you "
        "divide.": lambda x: x / x.sum(-1, keepdim=True),
        "These are the exponentials; they become shares when each is divided by the sum of its "
        "row.": (lambda x: x.exp(), lambda x: (x - x.amax(-1, keepdim=True)).exp()),
        "This is the softmax of -logits: the largest logit should get the largest "
        "share.": lambda x: (-x).softmax(-1),
        "Your sum runs over the whole tensor; each row sums to 1 by itself: sum(dim=-1, "
        "keepdim=True).": (
            lambda x: x.flatten().softmax(-1).view_as(x),
            lambda x: x.exp() / x.exp().sum(),
        ),
        "The softmax runs over another dimension, the first or the second; it belongs over the "
        "last, dim=-1.": (lambda x: x.softmax(0), lambda x: x.softmax(1)),
        "Each sum must line up with its row: sum(dim=-1, keepdim=True). Without keepdim row i is "
        "divided by the sum of another.": (
            lambda x: x.exp() / x.exp().sum(-1),
            lambda x: (x - x.max()).exp() / (x - x.max()).exp().sum(-1),
        ),
        "Right for ordinary logits, but exp(1000) overflows and exp(-1000) is 0. Subtract the "
        "largest logit of each row first: the shares stay the same.": lambda x: _shares(x.exp()),
        "You subtracted the mean; that leaves exponents that overflow. Subtract the largest logit "
        "of each row.": _less(lambda x: x.mean(-1, keepdim=True)),
        "You subtracted the largest logit of the whole tensor; in a row far below it all "
        "exponentials are 0. Subtract each row's own: max(dim=-1, keepdim=True).": _less(torch.max),
        "You cut large logits off, which changes their differences. Subtract the largest logit of "
        "each row instead.": _less(lambda x: x - x.clamp(max=80)),
    },
    notice="Adding one number to all logits changes nothing: only their differences matter.",
)

# --- 2: attention ----------------------------------------------------------------------------


def _mha_inputs(seed: int) -> list[tuple]:
    def call(B: int, T: int, C: int, n_head: int) -> tuple:
        matrices = (draw(C, C, seed=seed + n) * 2 / math.sqrt(C) for n in range(1, 5))
        return (draw(B, T, C, seed=seed), *matrices, n_head)

    return [call(*sizes) for sizes in ((1, 1, 2, 1), (1, 3, 4, 1), (2, 5, 12, 3), (3, 4, 8, 4))]


def _mha(
    weights: Weights = causal,
    scale: Scale = lambda query, key: math.sqrt(query.shape[-1]),
    split: Way = lambda x, n: x.unflatten(-1, (n, -1)).transpose(1, 2),  # (B, H, T, d_k)
    join: Way = lambda heads: heads.transpose(1, 2).flatten(2),  # (B, T, C)
    take: str = "qkvo",
) -> Way:
    """Return attention; ``take`` says which matrix makes query, key, value and the output."""

    def answer(x: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, n_head: int) -> Tensor:
        *W, W_o = ({"q": q, "k": k, "v": v, "o": o, "1": torch.eye(len(o))}[each] for each in take)
        query, key, value = (split(x @ each, n_head) for each in W)
        return join(weights(query @ key.mT / scale(query, key)) @ value) @ W_o

    return answer


def _reshaped(heads: Tensor) -> Tensor:
    return heads.reshape(len(heads), heads.shape[2], -1)


def _cut(x: Tensor, n: int) -> Tensor:
    return x.reshape(len(x), n, x.shape[1], -1)


check_multi_head_attention = Exercise(
    name="multi_head_attention",
    task="Causal multi-head attention with projections x @ W, (B, T, C).",
    right=lambda x, W_q, W_k, W_v, W_o, n_head: _mha()(x, W_q, W_k, W_v, W_o, n_head),
    inputs=_mha_inputs,
    shape="(B, T, C)",
    mistakes=changed(lambda scale: _mha(scale=scale), SCALES)
    | changed(_mha, HIDDEN)
    | {
        "The softmax runs over the heads or over the batch; it belongs over the keys of each "
        "query, dim=-1.": (_mha(partial(causal, axis=1)), _mha(partial(causal, axis=0))),
        "Query and key are swapped: the scores are query @ keyᵀ.": _mha(take="kqvo"),
        "W_o is missing: the joined heads go through one more matrix.": _mha(take="qkv1"),
        "Query, key and value are made with W_q, W_k and W_v, each of them with a matrix of its "
        "own.": tuple(_mha(take=take) for take in ("qkko", "qkqo", "qqvo", "qk1o", "1kvo", "q1vo")),
        "The matrices are transposed: here a projection is x @ W, not x @ "
        "W.T.": lambda x, q, k, v, o, n: _mha()(x, q.T, k.T, v.T, o.T, n),
        "n_head has no effect: all channels are one head.": lambda *call: _mha()(*call[:5], 1),
        "x was reshaped straight to (B, H, T, d_k), which mixes positions and heads: first (B, T, "
        "H, d_k), then transpose.": (_mha(split=_cut), _mha(split=_cut, join=_reshaped)),
        "The heads were put together without the transpose back: (B, H, T, d_k) must become (B, T, "
        "H, d_k) before it is flattened.": _mha(join=_reshaped),
        "Without a transpose after the split, (B, T, H, d_k) attends between a token's "
        "heads.": _mha(
            torch.nn.Softmax(-1),
            split=lambda x, n: x.unflatten(-1, (n, -1)),
            join=lambda h: h.flatten(2),
        ),
    },
    notice="Every position, head and sequence at once: not one loop is needed.",
)

# --- 3: the loss -----------------------------------------------------------------------------


def _loss_inputs(seed: int) -> list[tuple]:
    def call(B: int, T: int, V: int, pad: int, *padded: int) -> tuple:
        ids = draw(B, T, V, seed=seed).argmax(-1)
        ids[ids == pad] = (pad + 1) % V
        ids[0, 1] = 0 if pad else 1  # a token 0 that is not padding
        for row, n in enumerate(padded):
            ids[row, T - n :] = pad
        return 2 * draw(B, T, V, seed=seed + 1), ids, pad

    sizes = (1, 2, 3, 2), (2, 6, 7, 0), (3, 4, 5, 4), (2, 5, 5, 2)
    sizes += (2, 6, 7, 0, 3), (3, 8, 5, 4, 5, 2), (2, 6, 9, 8, 0, 4)
    sure = torch.tensor([[[1000.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    ends = (sure, torch.tensor([[1, 1]]), 2), (-sure, torch.tensor([[0, 0]]), 2)
    return [*(call(*each) for each in sizes), *ends]


def _loss(
    log_p: Way = lambda z: z.log_softmax(-1),
    mean: Way = lambda losses, real: losses[real].mean(),
    real: Way = lambda inputs, targets, pad: targets != pad,
) -> Way:
    def answer(logits: Tensor, ids: Tensor, pad_id: int) -> Tensor:
        targets = ids[:, 1:]
        losses = -log_p(logits)[:, :-1].gather(-1, targets[..., None])[..., 0]
        return mean(losses, real(ids[:, :-1], targets, pad_id))

    return answer


def _unshifted(logits: Tensor, ids: Tensor, pad: int) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=pad)


def _all_pairs(logits: Tensor, ids: Tensor, pad: int) -> Tensor:
    log_p, targets = logits[:, :-1].flatten(0, 1).log_softmax(-1), ids[:, 1:].flatten()
    return -log_p[targets != pad][:, targets[targets != pad]].mean()


_TOTALS = {
    "This is the sum; the loss is the mean.": lambda x, real: x[real].sum(),
    "You divided by the number of all positions; only those whose target is not padding "
    "count.": lambda x, real: x[real].sum() / (x.numel() + len(x)),
    "The sign is missing.": lambda x, real: -x[real].mean(),
    "This is the perplexity, exp(loss), not the loss.": lambda x, real: x[real].mean().exp(),
    "The padding counts as tokens to predict. Leave out the targets that are "
    "pad_id.": lambda x, real: x.mean(),
    "The padding was set to 0 but still counted in the mean: divide by the number of real "
    "targets.": lambda x, real: (x * real).mean(),
    "This is the mean of the rows' means, in which a token of a short row counts for more. Take "
    "one mean over all real targets.": lambda x, real: ((x * real).sum(-1) / real.sum(-1)).mean(),
}

check_lm_loss = Exercise(
    name="lm_loss",
    task="The mean cross-entropy in nats of every token given those before it, without padding.",
    right=lambda logits, ids, pad_id: _loss()(logits, ids, pad_id).item(),
    inputs=_loss_inputs,
    mistakes=changed(_loss, LOG_P)
    | changed(lambda mean: _loss(mean=mean), _TOTALS)
    | {
        "Nothing is shifted: the logits at t are compared with the token at t, which the model has "
        "read. They predict that at t + "
        "1.": (_unshifted, lambda a, i, p: F.cross_entropy(a.flatten(0, 1), i.flatten())),
        "The shift goes the wrong way: the logits at t predict the token at t + "
        "1.": lambda a, i, p: _unshifted(a[:, 1:], i[:, :-1], p),
        "`roll` brings the first token round to the end. Drop the last position: nothing is known "
        "about what follows it.": lambda a, i, p: _unshifted(a, i.roll(-1, 1), p),
        "This is the mean over the vocabulary; only the token that came counts "
        "there.": lambda a, i, p: -a[:, :-1].log_softmax(-1)[i[:, 1:] != p].mean(),
        "`log_p[:, targets]` takes every target at every position. Take each position's own: "
        "`gather`, or `log_p[arange, targets]`.": _all_pairs,
        "You left out positions whose input is padding. What counts is whether the target "
        "is.": _loss(real=lambda inputs, targets, pad: inputs != pad),
        "The padding is not always 0: compare the targets with pad_id, which is an "
        "argument.": _loss(real=lambda inputs, targets, pad: targets != 0),
    },
    without={
        "cross_entropy": lambda z, i, p: F.cross_entropy(z[:, :-1].mT, i[:, 1:], ignore_index=p),
        "CrossEntropyLoss": lambda z, i, p: torch.nn.CrossEntropyLoss(ignore_index=p)(
            z[:, :-1].mT, i[:, 1:]
        ),
    },
    notice="It is what torch computes with ignore_index, and what every decoder is trained on.",
)

# --- 4: a sampler ----------------------------------------------------------------------------


def _sampler(
    cut: Way = top_k,
    nucleus: Way = nucleus,
    softmax: Way = lambda logits: logits.softmax(-1),
    unit: Way = _shares,
) -> Way:
    return lambda z, t, k, p: unit(nucleus(softmax(cut(z / t, k)), p))


def _sampler_inputs(seed: int) -> list[tuple]:
    few, V = 2 * draw(1, 3, seed=seed), 8
    logits, more = 2 * draw(3, V, seed=seed + 1), 2 * draw(4, 11, seed=seed + 2)
    calls = [(few, 0.5, 3, 1.0), (logits, 0.5, V, 1.0), (few, 1.0, 1, 1.0), (logits, 1.0, 3, 1.0)]
    calls += [(logits, 1.0, V, 0.8), (logits, 1.0, V, 0.1), (logits, 2.0, 5, 0.7)]
    return [*calls, (more, 1.3, 4, 0.5), (more, 0.7, 9, 0.9)]


def _unfiltered(logits: Tensor, temperature: float, k: int, top_p: float) -> Tensor:
    p = (logits / temperature).softmax(-1)
    return _shares(p * (nucleus(p, top_p) > 0) * top_k(logits, k).isfinite())


def _nucleus_first(logits: Tensor, temperature: float, k: int, top_p: float) -> Tensor:
    return _shares(top_k(_shares(nucleus((logits / temperature).softmax(-1), top_p)), k, 0.0))


check_sampling_probabilities = Exercise(
    name="sampling_probabilities",
    task="Temperature, top_k, softmax, top_p, and each row sums to 1 again, (B, V).",
    right=lambda logits, temperature, top_k, top_p: _sampler()(logits, temperature, top_k, top_p),
    inputs=_sampler_inputs,
    shape="(B, V)",
    mistakes=changed(_sampler, FILTERED)
    | changed(lambda nucleus: _sampler(nucleus=nucleus), NUCLEI)
    | {
        "You multiplied the logits by the temperature; divide them by it, before all "
        "else.": lambda z, t, k, p: _sampler()(z, 1 / t, k, p),
        "The temperature changed nothing. If you divided probabilities by it, it cancelled: divide "
        "the logits, before the softmax.": lambda z, t, k, p: _sampler()(z, 1.0, k, p),
        "The softmax runs over the batch; each row has its own, over the vocabulary, "
        "dim=-1.": _sampler(softmax=lambda z: z.softmax(0)),
        "The probabilities do not sum to 1 in the end: divide each of the rows by its "
        "sum.": _sampler(unit=lambda p: p),
        "The probabilities were divided by the sum of the whole batch; each row has its own: "
        "sum(dim=-1, keepdim=True).": _sampler(unit=lambda p: p / p.sum()),
        "Each filter worked from the unfiltered distribution, or the nucleus came first: take the "
        "nucleus of what top_k has left, made to sum to 1.": (_unfiltered, _nucleus_first),
        "The filters worked before the temperature did. Divide the logits "
        "first.": lambda z, t, k, p: _shares((z / t).softmax(-1) * (_sampler()(z, 1.0, k, p) > 0)),
    },
    notice="top_k keeps the same number of tokens everywhere, top_p more when the model hesitates.",
)

# --- 5: draw ---------------------------------------------------------------------------------


def _draw_inputs(seed: int) -> list[tuple]:
    """Return probabilities in 16ths, which all number formats hold exactly, and each row's u."""
    rng = np.random.default_rng(seed)
    rows = torch.tensor([[0.25, 0.5, 0.25], [0.625, 0.125, 0.25], [0.125, 0.125, 0.75]])
    many = torch.from_numpy(rng.multinomial(16, [0.2, 0.1, 0.3, 0.15, 0.25], 40) / 16).float()
    between = torch.from_numpy(rng.integers(0, 16, 40) / 16 + 1 / 32).float()
    borders = torch.tensor([[0.0, 0.5, 0.5], [0.25, 0.0, 0.75], [0.25, 0.5, 0.25]])
    calls = [(rows[:1], torch.tensor([0.4])), (rows[:1], torch.tensor([0.9]))]
    calls += [(rows, between[:3]), (rows, torch.tensor([0.7, 0.05, 0.2])), (many, between)]
    return [*calls, (borders, torch.tensor([0.0, 0.25, 0.75])), (many, between - 1 / 32)]


def _first(sums: Tensor, u: Tensor) -> Tensor:
    """Return the number of sums (B, V) at or below each u (B,)."""
    return (sums <= u[:, None]).sum(-1)


check_draw = Exercise(
    name="draw",
    task="The ids (B,) that uniform numbers u pick: the first whose cumulative sum is above u.",
    right=lambda probabilities, u: _first(probabilities.cumsum(-1), u),
    inputs=_draw_inputs,
    shape="(B,)",
    mistakes={
        "You took the likeliest token; u decides, not only p.": lambda p, u: p.argmax(-1),
        "Each row has its own u; yours used the first.": lambda p, u: _first(p.cumsum(-1), u[:1]),
        "One too far: the token is the first whose cumulative sum exceeds u, counted from "
        "0.": lambda p, u: _first(p.cumsum(-1), u) + 1,
        "One too early: the token is the first whose cumulative sum exceeds u, and the ids count "
        "from 0.": (
            lambda p, u: _first(p.cumsum(-1), u) - 1,
            lambda p, u: (_first(p.cumsum(-1), u) - 1).clamp(0),
        ),
        "You compared u with the probabilities themselves; compare it with their cumulative sums "
        "along the row.": (_first, lambda p, u: (p > u[:, None]).int().argmax(-1)),
        "A cumulative sum equal to u counts as above it, so that a token of probability 0 can be "
        "drawn. It must be greater: u can be exactly 0.": (
            lambda p, u: (p.cumsum(-1) < u[:, None]).sum(-1),
            lambda p, u: (p.cumsum(-1) >= u[:, None]).int().argmax(-1),
        ),
        "You counted the sums that are above u; the id is the number of those at or below "
        "it.": lambda p, u: (p.cumsum(-1) > u[:, None]).sum(-1),
        "The cumulative sum runs over the batch; it belongs over the vocabulary, "
        "dim=-1.": lambda p, u: _first(p.cumsum(0), u),
    },
    notice="One uniform number is all the chance there is in a token.",
)

# --- 6: byte-pair encoding -------------------------------------------------------------------


def _merge(tokens: Sequence[str], pair: tuple[str, str], most: float = INF) -> tuple[str, ...]:
    for i, neighbours in enumerate(pairwise(tokens)):
        if neighbours == pair and most:
            return (*tokens[:i], "".join(pair), *_merge(tokens[i + 2 :], pair, most - 1))
    return tuple(tokens)


def _merge_text(tokens: Sequence[str], pair: tuple[str, str]) -> tuple[str, ...]:
    return tuple(" ".join(tokens).replace(" ".join(pair), "".join(pair)).split())


def _bpe(
    best: Way = lambda c: max(c, key=lambda pair: (c[pair], pair)),
    weight: Way = lambda n: n,
    merge: Way = _merge,
    again: bool = True,
    careful: bool = True,
) -> Way:
    def answer(words: Mapping[tuple[str, ...], int], n_merges: int) -> list[tuple[str, str]]:
        words, merges, counts = list(words.items()), [], Counter()
        while len(merges) < n_merges:
            if again or not merges:
                each = (pair for tokens, n in words for pair in [*pairwise(tokens)] * weight(n))
                counts = Counter(each)
            if careful and not counts:
                break
            merges.append(best(counts))
            counts.pop(merges[-1])
            words = [(merge(tokens, merges[-1]), n) for tokens, n in words]
        return merges

    return answer


def _across_words(words: Mapping, n_merges: int) -> list[tuple[str, str]]:
    text = tuple(token for tokens, n in words.items() for token in tokens * n)
    return _bpe()({text: 1}, n_merges)


def _bpe_inputs(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    drawn = {"".join(rng.choice([*"abcd"], 6).tolist()): n for n in range(2, 10)}
    corpus = {"lower": 2, "newest": 6, "widest": 3, "low": 5, "banana": 4, "wewewe": 1}
    repeated, ties = {"aaaa": 3, "aab": 2}, {"abxcd": 2, "cdyab": 2, "bazdc": 2}
    calls = [({"ab": 3}, 1), (repeated, 2), (ties, 3), (corpus, 8), (drawn, 6)]
    calls += [({"we": 9, "wes": 1, "es": 4}, 3), (repeated, 3), ({"abc": 3}, 5), ({"a": 2}, 1)]
    return [({tuple(word): n for word, n in words.items()}, n) for words, n in calls]


check_train_bpe = Exercise(
    name="train_bpe",
    task="The merges of byte-pair encoding in order, ties to the greater pair.",
    right=lambda words, n_merges: _bpe()(words, n_merges),
    inputs=_bpe_inputs,
    mistakes={
        "You took the pairs of the first count. Count again after each merge: new tokens make new "
        "pairs.": (_bpe(again=False), _bpe(lambda c: c.most_common(1)[0][0], again=False)),
        "Each different word counted once. A pair counts as often as the word it is in "
        "occurs.": _bpe(weight=lambda n: 1),
        "Ties go to the greater pair, as Python compares tuples; yours go to the smaller, the "
        "first or the longest.": (
            _bpe(lambda c: min(c, key=lambda pair: (-c[pair], pair))),
            _bpe(lambda c: max(c, key=c.get)),
            _bpe(lambda c: max(c, key=lambda pair: (c[pair], len("".join(pair)), pair))),
        ),
        "You return one merge too many or one too few; n_merges is the number of all pairs to "
        "return.": (lambda w, n: _bpe()(w, n + 1), lambda w, n: _bpe()(w, n - 1)),
        "When every word is one token there is no pair left, and yours stops with an error. Return "
        "the merges so "
        "far.": (_bpe(careful=False), _bpe(lambda c: c.most_common(1)[0][0], careful=False)),
        "You returned the joined tokens; return the pairs themselves, such as ('e', "
        "'s').": lambda words, n: [*map("".join, _bpe()(words, n))],
        "Only the first place in each word was merged; a pair can occur in a word several "
        "times.": _bpe(merge=partial(_merge, most=1)),
        "You merged in the text, where `e s` is also found inside `we s`: compare whole "
        "tokens.": _bpe(merge=_merge_text),
        "Pairs were counted from the end of one word to the beginning of the next; a pair lies "
        "within a word.": _across_words,
        "The words were not changed by a merge: put the joined token in place of the pair.": _bpe(
            merge=lambda tokens, pair: tokens
        ),
        "You returned the merges in another order; expected is the order they were made in, first "
        "to last.": (lambda w, n: sorted(_bpe()(w, n)), lambda w, n: _bpe()(w, n)[::-1]),
    },
    notice="The order of the merges is the tokenizer: encoding replays them.",
)
