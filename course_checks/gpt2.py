"""Checks for chapter 6: GPT-2's parameters, layer norm, the MLP, and the likeliest next tokens.

Each draws seeded inputs, tests one idea at a time, and compares a wrong answer with what the
usual mistakes would give, so that it can name the mistake.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from course_checks import Verdict, Wrong, check
from course_checks.answers import as_tensor, call, draw, name_mistake, same

__all__ = [
    "Verdict",
    "check_count_gpt2",
    "check_layer_norm",
    "check_mlp",
    "check_top_next",
]

B, T, C, V = 2, 5, 6, 11  # batch, tokens, channels, vocabulary


def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def gelu(x: Tensor) -> Tensor:
    """GPT-2's form of GELU."""
    return F.gelu(x, approximate="tanh")


# --- 1 ---------------------------------------------------------------------------------------


@check
def check_count_gpt2(answer: Callable) -> str:
    """Check ``count_gpt2(config)``: the parameters of ``GPT2LMHeadModel(config)``, tied head."""
    sizes = [(1, 12, 2, 7, 11), (3, 20, 4, 9, 30), (12, 768, 12, 1024, 50_257)]
    for n_layer, n_embd, n_head, n_positions, vocab_size in sizes:
        config = GPT2Config(
            vocab_size=vocab_size,
            n_positions=n_positions,
            n_embd=n_embd,
            n_layer=n_layer,
            n_head=n_head,
            **dict.fromkeys(("bos_token_id", "eos_token_id")),  # may not exist in so few tokens
        )
        with torch.device("meta"):  # shapes only: no memory, no numbers
            right = GPT2LMHeadModel(config).num_parameters()
        _compare_counts(_count(call(answer, config)), right, config)
    return "n_head appears nowhere in the sum: heads share out the channels and add no parameters."


def _count(result: Any) -> float:
    try:
        return float(result)
    except (TypeError, ValueError):
        raise Wrong(
            f"Your function returned {type(result).__name__}; expected one number."
        ) from None


def _compare_counts(found: float, right: int, config: GPT2Config) -> None:
    L, C, H = config.n_layer, config.n_embd, config.n_head
    V, P = config.vocab_size, config.n_positions
    biases, norm_biases = L * 9 * C, (2 * L + 1) * C
    mistakes = {
        "The head is counted twice: it is tied, so lm_head.weight and wte.weight are one "
        "matrix.": right + V * C,
        "The position table is missing: n_positions rows of n_embd.": right - P * C,
        "The final norm (ln_f) is missing: n_embd scales and n_embd shifts.": right - 2 * C,
        "The biases of the four Conv1D layers are missing: 3C, C, 4C and C in every block.": right
        - biases,
        "All biases are missing, those of the layers and the shifts of the norms.": right
        - biases
        - norm_biases,
        "The shifts of the norms are missing: each norm has C scales and C shifts.": right
        - norm_biases,
        "The two norms of every block are missing: 2C parameters each.": right - L * 4 * C,
        "All norms are missing: two in every block and ln_f, 2C parameters each.": right
        - 2 * norm_biases,
        "The token table is missing: vocab_size rows of n_embd.": right - V * C,
        "Both tables are missing: wte and wpe.": right - (V + P) * C,
        "Only one block was counted; there are n_layer.": (
            right - (L - 1) * (12 * C * C + 13 * C) if L > 1 else math.nan
        ),
        "Attention's output projection (attn.c_proj) is missing: C x C and C biases.": right
        - L * (C * C + C),
        "c_attn makes queries, keys and values at once: it is C x 3C, not C x C.": right
        - L * 2 * (C * C + C),
        "The MLP is four times as wide inside: c_fc is C x 4C and c_proj 4C x C.": right
        - L * (6 * C * C + 3 * C),
        "You multiplied by n_head. All heads together have one C x 3C matrix: each gets "
        "C / n_head of the channels.": right + L * (H - 1) * 3 * (C * C + C),
    }
    for diagnosis, wrong in mistakes.items():
        if found == wrong:
            raise Wrong(diagnosis)
    if found != right:
        raise Wrong(
            f"For n_layer={L}, n_embd={C}, n_positions={P}, vocab_size={V} the result is "
            f"{found:,.0f}; the model has {right:,}. Compare part by part with the table above."
        )


# --- 2 ---------------------------------------------------------------------------------------


@check
def check_layer_norm(answer: Callable) -> str:
    """Check ``layer_norm(x, weight, bias, eps)`` over the last dimension of ``(..., C)``."""
    x, weight, bias = 3 * draw(B, T, C) + 2, draw(C, seed=1), draw(C, seed=2)
    ones, zeros = torch.ones(C), torch.zeros(C)
    bare = _norm_of(answer, x, ones, zeros)
    name_mistake(bare, _norm_mistakes(x))
    right = layer_norm(x)
    if not same(bare, right):
        raise Wrong(
            "With weight 1 and bias 0 the result differs from (x - mean) / √(variance + eps)."
        )
    scaled = _norm_of(answer, x, weight, bias)
    name_mistake(
        scaled,
        {
            "Normalised, but not scaled and shifted: multiply by weight, then add bias.": right,
            "Scaled, but not shifted: add bias.": right * weight,
            "Shifted, but not scaled: multiply by weight.": right + bias,
            "You added bias before multiplying by weight: first scale, then shift.": (right + bias)
            * weight,
            "weight and bias were applied to x, before the normalisation, which undoes most of "
            "it: normalise first.": layer_norm(x * weight + bias),
        },
    )
    if not same(scaled, right * weight + bias):
        raise Wrong("Without weight and bias it is right; with them it differs.")
    _only_eps(answer, x, ones, zeros)
    one = draw(C, seed=3)
    if not same(_norm_of(answer, one, weight, bias), layer_norm(one, weight, bias)):
        raise Wrong("Right for (B, T, C), not for one vector (C,): use dim=-1 throughout.")
    before = x[0, 0]
    return (
        f"A position with mean {before.mean():.1f} and spread {before.std(correction=0):.1f} comes "
        "out like any other: only the pattern of its channels is left."
    )


def _norm_of(answer: Callable, x: Tensor, *rest: Any, eps: float = 1e-5) -> Tensor:
    found = as_tensor(call(answer, x, *rest, eps))
    if found.shape != x.shape:
        raise Wrong(
            f"The result has shape {tuple(found.shape)}; x has {tuple(x.shape)}, and so should it. "
            "`keepdim=True` keeps the dimension that a mean runs over."
        )
    return found


def _norm_mistakes(x: Tensor) -> dict[str, Tensor]:
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    unbiased = x.var(-1, keepdim=True)

    def over(*dims: int) -> Tensor:
        middle = x - x.mean(dims, keepdim=True)
        return middle / (middle.square().mean(dims, keepdim=True) + 1e-5).sqrt()

    return {
        "You divided by C - 1 (the unbiased variance, torch's default). Layer norm divides by C: "
        "`correction=0`, or the plain mean of the squares.": centred / (unbiased + 1e-5).sqrt(),
        "You normalised each channel over the tokens (the wrong axis). Layer norm works inside "
        "one position: dim=-1.": over(-2),
        "You normalised over tokens and channels together. Each position is on its own: "
        "dim=-1.": over(-2, -1),
        "You normalised over the batch too. Each position is on its own: dim=-1.": over(0, 1, 2),
        "You normalised each channel over batch and tokens: that is batch norm. "
        "Layer norm works inside one position: dim=-1.": over(0, 1),
        "The mean was not subtracted before dividing.": x / (variance + 1e-5).sqrt(),
        "The mean was not subtracted: this divides by the root of the mean square of x, which is "
        "RMS norm.": x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt(),
        "You divided by the variance; divide by its square root.": centred / (variance + 1e-5),
        "The mean is subtracted, the division is missing.": centred,
    }


def _only_eps(answer: Callable, x: Tensor, ones: Tensor, zeros: Tensor) -> None:
    # Channels that differ so little that eps decides the result.
    small = x / 1000
    found = _norm_of(answer, small, ones, zeros)
    centred = small - small.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    outside = "eps stands outside of the root: add it to the variance, then take the root."
    name_mistake(
        found,
        {
            outside: centred / (variance.sqrt() + 1e-5),
            "eps is not used: the root should be √(variance + eps).": centred / variance.sqrt(),
            "eps was added twice, inside and outside of the root.": centred
            / ((variance + 1e-5).sqrt() + 1e-5),
            "eps was added after the division; it belongs to the variance, under the root.": (
                centred / variance.sqrt() + 1e-5
            ),
        },
        atol=2e-3,
    )
    if not same(found, layer_norm(small)):
        raise Wrong("For channels that hardly differ the result is wrong: √(variance + eps)?")
    flat = _norm_of(answer, torch.full((2, C), 3.0), ones, zeros)
    if not same(flat, torch.zeros(2, C)):
        raise Wrong(
            "A position whose channels are all equal should become 0; eps under the root "
            "keeps 0 / 0 away."
        )
    if not same(_norm_of(answer, x, ones, zeros, eps=2.0), layer_norm(x, eps=2.0)):
        raise Wrong("With another eps the result is wrong: use the argument, not a fixed 1e-5.")


# --- 3 ---------------------------------------------------------------------------------------

_FINE = 5e-5  # exact GELU and its tanh form must stay apart


@check
def check_mlp(answer: Callable) -> str:
    """Check ``mlp(x, fc_weight, fc_bias, proj_weight, proj_bias)``, weights as (in, out)."""
    weights = (
        draw(C, 4 * C, seed=1),
        draw(4 * C, seed=2),
        draw(4 * C, C, seed=3),
    )
    x, weights = 0.8 * draw(B, T, C), (*weights, draw(C, seed=4))
    found = _mlp_of(answer, x, *weights)
    if tuple(found.shape) == (B, T, 4 * C):
        raise Wrong(
            f"The result is {4 * C} wide, the hidden width: the second layer, back to {C}, is "
            "missing."
        )
    if found.shape != x.shape:
        raise Wrong(f"The result has shape {tuple(found.shape)}; expected {tuple(x.shape)}.")
    name_mistake(found, _mlp_mistakes(x, *weights), _FINE)
    if not same(found, _mlp(x, *weights), _FINE):
        raise Wrong(
            "The shape is right; the numbers differ from gelu(x @ fc_weight + fc_bias) @ "
            "proj_weight + proj_bias, with the tanh form of GELU."
        )
    square = (
        draw(C, C, seed=5),
        draw(C, seed=6),
        draw(C, C, seed=7),
        draw(C, seed=8),
    )
    found = _mlp_of(answer, x, *square)
    turned = (square[0].T, square[1], square[2].T, square[3])
    name_mistake(
        found, {"With square matrices yours are turned on their side: " + _LAYOUT: _mlp(x, *turned)}
    )
    if not same(found, _mlp(x, *square), _FINE):
        raise Wrong("Wrong when the hidden width is not 4C: take the widths from the weights.")
    exact = F.gelu(x @ weights[0] + weights[1]) @ weights[2] + weights[3]
    gap = (_mlp(x, *weights) - exact).abs().max()
    return (
        f"With the exact GELU the largest difference here would have been {gap:.4f}: too small to "
        "see in a text, large enough for a comparison to catch."
    )


_LAYOUT = "GPT-2 stores its matrices as (in, out), so it is `x @ weight`, without a transpose."


def _mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return gelu(x @ w1 + b1) @ w2 + b2


def _mlp_of(answer: Callable, x: Tensor, *weights: Tensor) -> Tensor:
    try:
        return as_tensor(call(answer, x, *weights))
    except RuntimeError as error:
        if "mat1 and mat2" in str(error) or "must match the size" in str(error):
            raise Wrong(f"The shapes do not fit ({error}). {_LAYOUT}") from None
        raise


def _mlp_mistakes(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> dict[str, Tensor]:
    before = x @ w1 + b1

    def after(hidden: Tensor) -> Tensor:
        return hidden @ w2 + b2

    def bent(inner: Tensor) -> Tensor:
        return after(before * (1 + torch.tanh(inner)) / 2)

    right, root = _mlp(x, w1, b1, w2, b2), math.sqrt(2 / math.pi)
    return {
        "This is the exact GELU. GPT-2 was trained with the tanh form: approximate='tanh'.": after(
            F.gelu(before)
        ),
        "This is ReLU; GPT-2 has GELU (tanh form).": after(before.relu()),
        "The activation is missing: two matrix products in a row are no more than one.": after(
            before
        ),
        "This is x·σ(1.702x), another approximation of GELU; GPT-2 has the tanh form.": after(
            before * torch.sigmoid(1.702 * before)
        ),
        "This is SiLU, x·σ(x); GPT-2 has GELU (tanh form).": after(F.silu(before)),
        "This is tanh alone; GPT-2 has GELU, whose tanh form multiplies by x.": after(
            before.tanh()
        ),
        "The first bias is missing.": gelu(x @ w1) @ w2 + b2,
        "The second bias is missing.": right - b2,
        "Both biases are missing.": gelu(x @ w1) @ w2,
        "The wrong order: GELU comes after the second layer; it belongs between the two.": gelu(
            after(before)
        ),
        "The wrong order: GELU comes before the first layer; it belongs between the two.": after(
            gelu(x) @ w1 + b1
        ),
        "There is a second GELU at the end; the output of the MLP is not bent.": gelu(right),
        "x was added. The residual connection belongs to the block, not to the MLP.": x + right,
        "x was normalised first. The norm belongs to the block, not to the MLP.": _mlp(
            layer_norm(x), w1, b1, w2, b2
        ),
        "In your GELU the cube is missing: x + 0.044715·x³.": bent(
            root * (before + 0.044715 * before)
        ),
        "In your GELU the factor √(2/π) lost its root.": bent(
            2 / math.pi * (before + 0.044715 * before**3)
        ),
        "In your GELU the factor √(2/π) is missing.": bent(before + 0.044715 * before**3),
        "In your GELU the factor ½ is missing.": after(2 * gelu(before)),
        "In your GELU the constant is 0.44715; it is 0.044715.": bent(
            root * (before + 0.44715 * before**3)
        ),
    }


# --- 4 ---------------------------------------------------------------------------------------


@check
def check_top_next(answer: Callable) -> str:
    """Check ``top_next(logits, k)``: ids and probabilities of the k likeliest, both ``(B, k)``."""
    logits, k = 2 * draw(B, T, V, seed=1), 4
    ids, probabilities = _pair(call(answer, logits, k))
    right = logits[:, -1].softmax(-1).topk(k)
    if same(ids, right.values) and same(probabilities, right.indices):
        raise Wrong("The two are exchanged: return the ids first, then their probabilities.")
    for found, what in ((ids, "ids"), (probabilities, "probabilities")):
        if tuple(found.shape) == (B, T, k):
            raise Wrong(
                f"The {what} are (B, T, k): a list for every position. Only the last position "
                "predicts the token that comes next: logits[:, -1]."
            )
        if tuple(found.shape) != (B, k):
            raise Wrong(f"The {what} have shape {tuple(found.shape)}; expected (B, k) = {(B, k)}.")
    _name_ids(ids, logits, k)
    _name_probabilities(probabilities, logits, k)
    everything = _pair(call(answer, logits, V))[1].sum(-1)
    share = probabilities.sum(-1)
    return (
        f"The first {k} of {V} have {share[0]:.1%} of the probability in the first text; "
        f"all {V} have {everything[0]:.0%}."
    )


def _pair(result: Any) -> tuple[Tensor, Tensor]:
    # torch's topk gives a named pair, which is a tuple too
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong("Return two things: the ids and their probabilities.")
    ids, probabilities = (torch.as_tensor(part).detach().cpu().float() for part in result)
    return ids, probabilities


def _name_ids(ids: Tensor, logits: Tensor, k: int) -> None:
    last = logits[:, -1]
    right = last.topk(k).indices
    if same(ids, right):
        return
    name_mistake(
        ids,
        {
            "These are the likeliest tokens after the first position (the wrong row). The next "
            "token is predicted by the last one: logits[:, -1].": logits[:, 0].topk(k).indices,
            "These are the likeliest tokens after the last position but one. Its next token is "
            "already in the text.": logits[:, -2].topk(k).indices,
            "These are the least likely tokens, not the likeliest.": (
                last.topk(k, largest=False).indices
            ),
            "The right tokens, the least likely of them first: turn the order round.": right.flip(
                -1
            ),
            "These tokens are the first of the second text in the batch as well: dim=-1?": (
                right[:1].expand(B, k)
            ),
            "The softmax runs over the wrong axis, the positions, and this changed which tokens "
            "come out on top: dim=-1.": logits.softmax(1)[:, -1].topk(k).indices,
            "The softmax runs over the wrong axis, the texts of the batch, and this changed which "
            "tokens come out on top: dim=-1.": last.softmax(0).topk(k).indices,
        },
    )
    raise Wrong("These are not the k tokens with the largest logits at the last position.")


def _name_probabilities(probabilities: Tensor, logits: Tensor, k: int) -> None:
    last = logits[:, -1]
    best, ids = last.topk(k)
    right = last.softmax(-1).gather(-1, ids)
    name_mistake(
        probabilities,
        {
            "These are logits, not probabilities: the softmax is missing.": best,
            "These are logarithms of probabilities: take softmax, not log_softmax.": right.log(),
            "The softmax came after the choice, so the k probabilities sum to 1, as if no other "
            "token could come. Softmax over all of V first.": best.softmax(-1),
            "The softmax runs over the wrong axis, the positions: dim=-1, the "
            "vocabulary.": logits.softmax(1)[:, -1].gather(-1, ids),
            "The softmax runs over the wrong axis, the texts of the batch: dim=-1, the "
            "vocabulary.": last.softmax(0).gather(-1, ids),
            "The softmax runs over everything at once; each position has probabilities of its own: "
            "dim=-1.": logits.flatten().softmax(0).view_as(logits)[:, -1].gather(-1, ids),
            "These are percentages; a probability is between 0 and 1.": 100 * right,
            "These are the probabilities after the first position: logits[:, -1] is the last.": (
                logits[:, 0].softmax(-1).gather(-1, ids)
            ),
        },
    )
    if not same(probabilities, right):
        raise Wrong("The ids are right, their probabilities are not softmax(logits[:, -1])[ids].")
