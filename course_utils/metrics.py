"""How good is a language model: perplexity, bits, diversity, and an n-gram to beat."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from course_utils.inputs import check, check_ids, check_whole


def perplexity(cross_entropy: float) -> float:
    """Return exp(cross-entropy), for a mean cross-entropy in nats per token.

    It is the number of equally likely tokens that would be as hard to guess between: 1 is
    certainty, the size of the vocabulary is a uniform guess.

    Raises:
        ValueError: a negative cross-entropy, usually a log-likelihood whose minus sign is missing,
            or NaN, the mean of an empty text.
    """
    _check_cross_entropy(cross_entropy)
    return math.inf if cross_entropy > 709 else math.exp(cross_entropy)


def bits(cross_entropy: float) -> float:
    """Return a cross-entropy given in nats in bits: divided by ln 2.

    Raises:
        ValueError: as :func:`perplexity`.
    """
    _check_cross_entropy(cross_entropy)
    return cross_entropy / math.log(2)


def bits_per_byte(cross_entropy: float, n_tokens: int, n_bytes: int) -> float:
    """Return the bits that a byte of the text costs, which does not depend on the tokenizer.

    With the number of characters for ``n_bytes`` it is bits per character.

    Args:
        cross_entropy: the mean over the tokens, in nats per token.
        n_tokens: how many tokens the mean is over.
        n_bytes: how long the same text is, in bytes (UTF-8).

    Raises:
        ValueError: a cross-entropy that :func:`perplexity` refuses, or a number that is not a
            whole number of at least 1.

    Source: Gao et al., 2020, "The Pile: An 800GB dataset of diverse text for language modeling".
    """
    check_whole("n_tokens", n_tokens)
    check_whole("n_bytes", n_bytes)
    return bits(cross_entropy) * n_tokens / n_bytes


def distinct_n(ids: Sequence[Hashable] | Tensor, n: int) -> float:
    """Return how many of the n-grams of one text are different: distinct n-grams over all n-grams.

    1 means that no n-gram occurs twice; a text that repeats itself comes near 0. It falls as a text
    gets longer, so compare texts of equal length. One minus it is :func:`repetition`.

    Args:
        ids: one text: a 1-D tensor of ids, or a sequence of ids or tokens.
        n: tokens in an n-gram.

    Raises:
        ValueError: ``n`` is not a whole number of at least 1, or the text is shorter than ``n``.

    Source: Li et al., 2016, "A diversity-promoting objective function for neural conversation
    models", who divide by the number of tokens, that is by ``n - 1`` more.
    """
    items = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    check_whole("n", n)
    check(len(items) >= n, f"a text of {len(items)} tokens has no n-gram of n={n}.")
    n_grams = list(zip(*(items[k:] for k in range(n)), strict=False))
    return len(set(n_grams)) / len(n_grams)


def repetition(ids: Sequence[Hashable] | Tensor, n: int) -> float:
    """Return the share of the n-grams of one text that occurred earlier in it (seq-rep-n).

    Arguments and errors as in :func:`distinct_n`, of which this is one minus the result.

    Source: Welleck et al., 2020, "Neural text generation with unlikelihood training".
    """
    return 1 - distinct_n(ids, n)


class NGram:
    """A model that counts: the next token given the ``order - 1`` tokens before it.

    A context that was rarely seen says little, so its counts are mixed with the prediction of the
    model that is one order shorter, down to a uniform guess:
    p_n = (count + strength * p_(n-1)) / (total + strength).

    Args:
        order: tokens looked at, the predicted one included; 3 is a trigram.
        vocab_size: the number of different ids ``V``, which go from 0 to ``V - 1``.
        strength: how many observations the shorter model counts for, above 0.

    Attributes:
        probabilities: ``(V,) * order``, the last axis the predicted token; None before ``fit``.

    Raises:
        ValueError: an impossible argument; in all methods, a model that has not been fitted, ids
            that are not whole numbers from 0 to ``V - 1`` in one row, or too few of them.

    Source: MacKay and Peto, 1995, "A hierarchical Dirichlet language model".
    """

    def __init__(self, order: int, vocab_size: int, strength: float = 10.0):
        check_whole("order", order)
        check_whole("vocab_size", vocab_size)
        size = f"a table of {vocab_size}^{order} numbers"
        check(vocab_size**order <= 10**8, f"{size} does not fit into memory; lower order.")
        check(0 < strength < math.inf, f"strength={strength} must be above 0 and finite.")
        self.order, self.vocab_size, self.strength = order, vocab_size, strength
        self.probabilities: np.ndarray | None = None

    def fit(self, ids: Tensor) -> "NGram":
        """Count the n-grams of every order in ``ids``, a 1-D tensor; returns the model."""
        checked = self._checked(ids, self.order)
        probabilities = np.full(self.vocab_size, 1 / self.vocab_size)  # a uniform guess
        for n in range(1, self.order + 1):
            counts = np.bincount(self._codes(checked, n), minlength=self.vocab_size**n)
            counts = counts.reshape((self.vocab_size,) * n)
            total = counts.sum(axis=-1, keepdims=True)
            probabilities = (counts + self.strength * probabilities) / (total + self.strength)
        self.probabilities = probabilities
        return self

    def cross_entropy(self, ids: Tensor) -> float:
        """Return the mean cross-entropy in nats over ``ids``, of all tokens with a full context."""
        codes = self._codes(self._checked(ids, self.order), self.order)
        return float(-np.log(self._fitted().ravel()[codes]).mean())

    def generate(self, ids: list[int], n_tokens: int, generator: torch.Generator) -> list[int]:
        """Return ``ids``, at least ``order - 1`` of them, and ``n_tokens`` more, drawn."""
        ids, probabilities = self._checked(ids, self.order - 1).tolist(), self._fitted()
        for _ in range(n_tokens):
            context = tuple(ids[len(ids) - self.order + 1 :])
            weights = torch.from_numpy(probabilities[context])
            ids.append(int(torch.multinomial(weights, 1, generator=generator)))
        return ids

    def _fitted(self) -> np.ndarray:
        if self.probabilities is None:
            raise ValueError("this n-gram model has counted no text yet; call fit(ids) first.")
        return self.probabilities

    def _checked(self, ids: Tensor | Sequence[int], least: int) -> np.ndarray:
        """Return ``ids`` as an array; raise ValueError for ids of another model, or too few."""
        array = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise ValueError(f"ids are {array.dtype} {array.shape}; expected whole numbers (T,).")
        needed = f"a model of order {self.order} needs {least} ids"
        check(len(array) >= least, f"{len(array)} ids are too few: {needed}.")
        array = array.astype(np.int64)
        check_ids(torch.from_numpy(array), self.vocab_size)
        return array

    def _codes(self, ids: np.ndarray, n: int) -> np.ndarray:
        """Return each window of ``n`` ids as one whole number, its place in the table."""
        windows = np.lib.stride_tricks.sliding_window_view(ids, n)  # (T - n + 1, n)
        return np.ravel_multi_index(windows.T, (self.vocab_size,) * n)


def _check_cross_entropy(nats: float) -> None:
    why = "Did you pass the mean log-probability without its minus sign, or that of an empty text?"
    check(nats >= 0, f"cross_entropy={nats} is negative or not a number. {why}")
