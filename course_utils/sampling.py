"""Text from a language model: next-token strategies, the generation loop, beam search.

A strategy takes logits ``(..., V)`` and returns new logits; what it rules out gets -inf. Tokens
with equal logits are treated alike: they stay or go together.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from course_utils.gpt import GPT, eval_mode
from course_utils.inputs import check, check_ids, check_whole, is_number

Prompts = Tensor | Sequence[Sequence[int]]

# Top-p looks at so many of the likeliest tokens first. They nearly always hold its share, and to
# sort a vocabulary of 50,000 takes ten times as long.
_HEAD = 1024


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide ``logits`` by ``temperature``: below 1 the likely tokens gain, above 1 the others.

    Raises:
        ValueError: a temperature of 0 or below, or an infinite one.

    Source: Ackley et al., 1985, "A learning algorithm for Boltzmann machines".
    """
    fits = is_number(temperature) and 0 < temperature < math.inf
    advice = "to take the most likely token always, use greedy=True"
    check(fits, f"temperature={temperature!r} must be above 0 and finite; {advice}.")
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the ``k`` most likely tokens, and those as likely as the last of them.

    All are kept where the vocabulary has no more than ``k``.

    Raises:
        ValueError: ``k`` is below 1.

    Source: Fan et al., 2018, "Hierarchical neural story generation".
    """
    check_whole("top_k", k, 1, ", the number of tokens to keep")
    last_kept = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < last_kept, -math.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keep the fewest most likely tokens whose probabilities sum to ``top_p`` or more (nucleus).

    The token that crosses the threshold stays, and so do all with the same logit, where
    transformers keeps some of them; otherwise the two agree. 1 keeps every token. float16
    and bfloat16 are computed in float32.

    Raises:
        ValueError: ``top_p`` is not in (0, 1].

    Source: Holtzman et al., 2020, "The curious case of neural text degeneration".
    """
    fits = is_number(top_p) and 0 < top_p <= 1
    check(fits, f"top_p={top_p!r} must be above 0 and at most 1; 1 keeps every token.")
    if top_p == 1:
        return logits
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # As doubles, 1 - 0.8 is a little less than .1 + .1; such rounding must not count.
    tail = 1 - top_p + 1e-15
    ordered, up_to = _cumulative(scores, tail)
    dropped = up_to <= tail
    dropped[..., -1] = False
    last_kept = ordered.gather(-1, dropped.sum(dim=-1, keepdim=True))
    return logits.masked_fill(scores < last_kept, -math.inf)


def _cumulative(scores: Tensor, tail: float) -> tuple[Tensor, Tensor]:
    """Return the largest logits, ascending, and what all tokens up to each of them sum to.

    Summed from the small end, as transformers does, the tail keeps its digits. The logits that
    are left out at the small end sum to less than ``tail``.
    """
    if scores.shape[-1] > _HEAD and scores.device.type != "mps":  # which has no float64
        ordered = scores.topk(_HEAD, dim=-1).values.flip(-1)
        probabilities = (ordered.double() - scores.double().logsumexp(-1, keepdim=True)).exp()
        below = 1 - probabilities.sum(dim=-1, keepdim=True)
        if (below < tail).all():
            return ordered, (below + probabilities.cumsum(dim=-1)).to(scores.dtype)
    ordered = scores.sort(dim=-1).values
    return ordered, ordered.softmax(dim=-1).cumsum(dim=-1)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Keep the tokens that are at least ``min_p`` times as likely as the most likely one.

    Raises:
        ValueError: ``min_p`` is not in [0, 1].

    Source: Nguyen et al., 2025, "Turning up the heat: Min-p sampling for creative and coherent LLM
    outputs".
    """
    fits = is_number(min_p) and 0 <= min_p <= 1
    check(fits, f"min_p={min_p!r} must be from 0 (keep every token) to 1 (only the best).")
    probabilities = logits.softmax(dim=-1)
    too_rare = probabilities < min_p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(too_rare, -math.inf)


def penalize_repetition(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    """Make the tokens of the text so far less likely: divide their logits by ``penalty``.

    A negative logit is multiplied instead, so that it falls as well. (The paper divides all; this
    is the usual correction, which transformers makes too.) How often a token occurred makes no
    difference. A penalty below 1 is a reward.

    Args:
        logits: ``(..., V)``.
        previous: ``(..., T)``, the ids of the text so far.
        penalty: 1 changes nothing; the paper uses 1.2.

    Raises:
        ValueError: a penalty of 0 or below, or ids that are not in the vocabulary.

    Source: Keskar et al., 2019, "CTRL: A conditional transformer language model for controllable
    generation", section 4.1.
    """
    fits = is_number(penalty) and 0 < penalty < math.inf
    check(fits, f"repetition_penalty={penalty!r} must be above 0 and finite; 1 changes nothing.")
    check(
        not previous.is_floating_point() and previous.shape[:-1] == logits.shape[:-1],
        f"previous is {previous.dtype} of shape {tuple(previous.shape)}; expected a row of ids for "
        f"each row of the logits {tuple(logits.shape)}.",
    )
    if previous.device.type == "cpu" and previous.numel():  # on a GPU, looking would wait for it
        check_ids(previous, logits.shape[-1])
    seen = logits.gather(-1, previous)
    seen = torch.where(seen > 0, seen / penalty, seen * penalty)
    return logits.scatter(-1, previous, seen)


def next_token(
    logits: Tensor,
    *,
    previous: Tensor | None = None,
    greedy: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return one token for each row of ``logits``: ``(B, V)`` -> ``(B,)``.

    The strategies apply in the order repetition penalty, temperature, top-k, top-p, min-p, each on
    what the one before left; then a token is drawn from the softmax of the rest. Drawing happens
    on the CPU, so that one seed gives one text on every device.

    Args:
        logits: ``(B, V)``, of the last position of each text.
        previous: ``(B, T)``, the texts so far, for the repetition penalty.
        greedy: take the most likely token. Nothing is drawn, and only the repetition penalty
            is applied, because the others cannot change the outcome.
        temperature: see :func:`scale_temperature`.
        top_k: see :func:`keep_top_k`.
        top_p: see :func:`keep_top_p`.
        min_p: see :func:`keep_min_p`.
        repetition_penalty: see :func:`penalize_repetition`.
        generator: a CPU generator, where the draws come from; torch's global one by default.

    Raises:
        ValueError: an impossible strategy, a penalty without ``previous``, or a row of logits
            that is not a distribution.
    """
    check(
        logits.dim() == 2,
        f"logits has shape {tuple(logits.shape)}; expected (B, V), a row for each text. Of a "
        "model's output take the last position, logits[:, -1]; for one row, logits[None].",
    )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if repetition_penalty != 1:
        if previous is None:
            raise ValueError("a repetition_penalty needs previous=, the texts (B, T).")
        logits = penalize_repetition(logits, previous, repetition_penalty)
    if greedy:
        best = logits.max(dim=-1)
        _check_finite(best.values)
        return best.indices
    logits = scale_temperature(logits, temperature)
    logits = logits if top_k is None else keep_top_k(logits, top_k)
    logits = logits if top_p is None else keep_top_p(logits, top_p)
    logits = logits if min_p is None else keep_min_p(logits, min_p)
    probabilities = logits.softmax(dim=-1).cpu()
    _check_finite(probabilities.sum(dim=-1))
    drawn = torch.multinomial(probabilities, num_samples=1, generator=generator)  # (B, 1)
    return drawn[:, 0].to(logits.device)


def _check_finite(values: Tensor) -> None:
    """Raise ValueError unless every row's value ``(B,)`` is a finite number."""
    if not values.isfinite().all():
        row = values.isfinite().tolist().index(False)
        raise ValueError(
            f"the logits of row {row} hold nan or inf, or rule out every token with -inf. "
            "Did the training diverge, or is temperature too close to 0?"
        )


def stream(
    model: GPT,
    prompts: Prompts,
    max_new_tokens: int,
    *,
    stop: Sequence[int] = (),
    cache: bool = True,
    stride: int = 1,
    generator: torch.Generator | None = None,
    **strategy: Any,
) -> Iterator[Tensor]:
    """Yield the next token of every prompt, ``(B,)`` on the model's device, step by step.

    A text longer than ``block_size`` is read through a window that ends with its last token. When
    the window is full, its first ``stride`` tokens are forgotten. Then every position changes and
    the window is read again as a whole, so with ``stride=1`` the model always knows as much as it
    can but the cache no longer helps; a larger ``stride`` is fast again. Each row has its own
    window, so that in a batch a prompt gets the text that it gets alone, if nothing is drawn.

    Args:
        model: each step is taken in eval mode; between the steps the model is in its own mode, so
            that other streams, an evaluation or a training may use it meanwhile.
        prompts: ``(B, T)``, a tensor or an array, or one sequence of ids for each text; lengths
            may differ.
        max_new_tokens: how many steps to take at most.
        stop: ids that end a text. The stream ends when all texts have; the tokens of a text after
            its first stop token mean nothing.
        cache: keep keys and values instead of reading the window again for each token; the same
            text, sooner.
        stride: how many tokens to forget at once, from 1 to ``block_size``.
        generator: a CPU generator, where the draws come from; torch's global one by default.
        **strategy: of :func:`next_token`, such as ``greedy=True`` or ``top_p=0.9``.

    Raises:
        ValueError: no prompt, one that is empty or longer than ``block_size``, an id outside the
            vocabulary, a negative ``max_new_tokens``, or an impossible ``stride`` or strategy; all
            before the first step.
    """
    rows, stop = _checked(model, prompts, max_new_tokens, stop)
    block_size = model.config.block_size
    fits = is_number(stride, Integral) and 1 <= stride <= block_size
    what = "the number of tokens to forget when the window is full"
    check(fits, f"stride={stride!r} must be from 1 to block_size={block_size}, {what}.")
    # A draw from made-up logits, so that a wrong strategy raises here and not halfway.
    id_0 = torch.tensor([[0]])
    next_token(torch.zeros(1, 1), previous=id_0, generator=torch.Generator(), **strategy)

    @torch.no_grad()  # as a decorator of a generator it ends with each step
    def steps() -> Iterator[Tensor]:
        device, T = model.lm_head.weight.device, max(map(len, rows))
        ids = _left_padded(rows, max_new_tokens).to(device)  # (B, T + max_new_tokens)
        firsts = [T - len(row) for row in rows]  # the column where each text begins
        running = torch.ones(len(rows), dtype=torch.bool, device=device)
        begins = None
        for end in range(T, T + max_new_tokens):
            before, begins = begins, [_window(first, end, block_size, stride) for first in firsts]
            left, moved = min(begins), begins != before
            if moved:
                # Padding and forgotten tokens are the same: columns that the model must not see.
                n_pad = torch.tensor(begins, device=device) - left if left < max(begins) else None
                # A full window moves before anything is added, so its keys need not be kept.
                past = model.new_cache() if cache and end - left < block_size else None
            new = ids[:, left if moved or not cache else end - 1 : end]
            with eval_mode(model):
                x = model.hidden_states(new, cache=past, n_pad=n_pad)[:, -1]  # (B, C), the last
                logits = model.lm_head(x)  # (B, V)
            token = next_token(logits, previous=ids[:, :end], generator=generator, **strategy)
            ids[:, end] = token
            yield token  # (B,)
            running &= ~torch.isin(token, torch.tensor(stop, dtype=torch.long, device=device))
            if not running.any():
                return

    return steps()


def _window(first: int, end: int, block_size: int, stride: int) -> int:
    """Return the column where the window of a text in columns ``first`` to ``end`` begins."""
    return first + stride * math.ceil(max(end - first - block_size, 0) / stride)


def _left_padded(rows: list[list[int]], room: int) -> Tensor:
    """Return ``(B, T + room)``: each row's ids, ending in column ``T``, then ``room`` zeros.

    The padding repeats the row's own first id. The model does not see it, and to the repetition
    penalty, which counts no token twice, it makes no difference.
    """
    T = max(len(row) for row in rows)
    return torch.tensor([row[:1] * (T - len(row)) + row + [0] * room for row in rows])


def generate(
    model: GPT, prompts: Prompts, max_new_tokens: int, *, stop: Sequence[int] = (), **options: Any
) -> list[list[int]]:
    """Return each prompt with its continuation, up to and including its first stop token.

    Args:
        model, prompts, max_new_tokens, stop: see :func:`stream`.
        **options: all else that :func:`stream` takes: ``cache``, ``stride``, ``generator`` and the
            strategy of :func:`next_token`.

    Raises:
        ValueError: as :func:`stream` does.
    """
    rows = _rows(prompts)
    steps = list(stream(model, rows, max_new_tokens, stop=stop, **options))
    continuations = torch.stack(steps, dim=1).tolist() if steps else [[]] * len(rows)
    for row, more in zip(rows, continuations, strict=True):
        ends = [n for n, id_ in enumerate(more, start=1) if id_ in stop]
        row += more[: ends[0]] if ends else more
    return rows


@torch.no_grad()
def beam_search(
    model: GPT,
    prompt: Sequence[int],
    max_new_tokens: int,
    n_beams: int,
    *,
    stop: Sequence[int] = (),
    length_penalty: float = 1.0,
) -> list[tuple[list[int], float]]:
    """Search for the most likely continuation: at each step the ``n_beams`` best texts go on.

    A text is finished when it is among the ``n_beams`` best and ends with a stop token or has
    ``max_new_tokens``. The search ends when ``n_beams`` texts are finished, or none is left.

    Args:
        model: it is left in the mode it was in.
        prompt: the ids of one text, at least one.
        max_new_tokens: how many tokens to add at most; with the prompt at most ``block_size``.
        n_beams: how many texts to keep; 1 is greedy decoding.
        stop: ids that end a text.
        length_penalty: the exponent in the score. 0 compares the sums and favours short texts;
            1 compares the mean per token; values above 1 favour long texts.

    Returns:
        at most ``n_beams`` pairs of a text, prompt included, and its score, the best first. The
        score is the sum of the log-probabilities of the ``n`` new tokens, in nats, divided by
        ``n ** length_penalty``; the stop token is one of them.

    Raises:
        ValueError: as :func:`stream` does, ``n_beams`` below 1, or more tokens than ``block_size``.

    Source: Sutskever et al., 2014, "Sequence to sequence learning with neural networks", section
    3.2, for the search; Wu et al., 2016, "Google's neural machine translation system", section 7,
    for the division by a power of the length.
    """
    [prompt], stop = _checked(model, [prompt], max_new_tokens, stop)
    check_whole("n_beams", n_beams, 1)
    fits = is_number(length_penalty) and math.isfinite(length_penalty)
    check(fits, f"length_penalty={length_penalty!r} must be a finite number.")
    check(
        len(prompt) + max_new_tokens <= model.config.block_size,
        f"a prompt of {len(prompt)} tokens and max_new_tokens={max_new_tokens} are more than "
        f"block_size={model.config.block_size}; beam search has no window that moves.",
    )
    device, cache = model.lm_head.weight.device, model.new_cache()
    stop_ids = torch.tensor(sorted(set(stop)), dtype=torch.long, device=device)
    # At most as many candidates end as there are beams times stop tokens; n_beams more go on.
    n_candidates = n_beams * (len(stop_ids) + 1)
    texts = new = torch.tensor([prompt], device=device)  # (beams, T)
    totals = torch.zeros(1, device=device)  # (beams,), summed log-probability of the new tokens
    finished: list[tuple[list[int], float]] = []
    with eval_mode(model):
        for n in range(1, max_new_tokens + 1):
            logits = model.lm_head(model.hidden_states(new, cache=cache)[:, -1])  # (beams, V)
            sums = (totals[:, None] + logits.float().log_softmax(dim=-1)).flatten()  # (beams * V,)
            totals, order = sums.topk(min(n_candidates, len(sums)))  # the best first
            beams, tokens = order // logits.shape[1], order % logits.shape[1]
            texts = torch.cat([texts[beams], tokens[:, None]], dim=1)
            ends = torch.isin(tokens, stop_ids) | (n == max_new_tokens)
            for row in ends[:n_beams].nonzero()[:, 0]:
                finished.append((texts[row].tolist(), totals[row].item() / n**length_penalty))
            goes_on = (~ends).nonzero()[:n_beams, 0]
            if len(finished) >= n_beams or len(goes_on) == 0:
                break
            texts, totals, new = texts[goes_on], totals[goes_on], tokens[goes_on, None]
            for layer in cache:
                layer.select(beams[goes_on])
    finished.sort(key=lambda text_and_score: text_and_score[1], reverse=True)
    return finished[:n_beams] or [(prompt, 0.0)]


def _checked(
    model: GPT, prompts: Prompts, max_new_tokens: int, stop: Sequence[int]
) -> tuple[list[list[int]], list[int]]:
    """Return prompts and stop ids as lists; ValueError for what the model cannot read or write."""
    rows, stop, block_size = _rows(prompts), _as_list(stop), model.config.block_size
    check_whole("max_new_tokens", max_new_tokens, 0)
    check(rows, "prompts is empty; give at least one prompt.")
    is_list = isinstance(stop, Collection) and not isinstance(stop, str | Mapping)
    check(is_list, f"stop={stop!r} must be a list of ids; for one id, write [id].")
    for n, row in enumerate(rows):
        check(row, f"prompt {n} is empty; a model needs a token to start from.")
        check(
            len(row) <= block_size,
            f"prompt {n} has {len(row)} tokens; the model reads at most block_size={block_size}. "
            f"Keep its end: prompt[-{block_size}:].",
        )
    V, named = model.config.vocab_size, {f"prompt {n}": row for n, row in enumerate(rows)}
    for name, id_ in ((name, id_) for name, ids in {**named, "stop": stop}.items() for id_ in ids):
        check(
            is_number(id_, Integral) and 0 <= id_ < V,
            f"{name} holds {id_!r}; the vocabulary has {V} tokens, 0 to {V - 1}. Was the text "
            "encoded by another tokenizer?",
        )
    return rows, list(stop)


def _rows(prompts: Prompts) -> list[list[int]]:
    """Return prompts, an array ``(B, T)`` or sequences of ids, as lists of ids."""
    prompts = _as_list(prompts)
    rows = [_as_list(row) for row in prompts] if isinstance(prompts, Sequence) else [prompts]
    one = "for one prompt, write [prompt]."
    text = any(isinstance(part, str) for part in (prompts, *rows))
    check(not text, f"prompts holds text, but a model reads ids: encode it; {one}")
    nested = all(isinstance(part, Sequence) for part in (prompts, *rows))
    check(nested, f"prompts must hold one sequence of ids for each text; {one}")
    flat = not any(isinstance(id_, Sequence) for row in rows for id_ in row)
    check(flat, "prompts has three dimensions; expected (B, T), a row of ids for each text.")
    return [list(row) for row in rows]


def _as_list(values: Any) -> Any:
    """Return a tensor's or an array's values as lists, anything else as it is."""
    return values.tolist() if hasattr(values, "tolist") else values
