"""How good is a language model: perplexity, bits, diversity, and an n-gram to beat."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor


def perplexity(cross_entropy: float) -> float:
    """Return exp(cross-entropy), for a mean cross-entropy in nats a token.

    It is the number of equally likely tokens that would be as hard to guess between: 1 is
    certainty, the size of the vocabulary is a uniform guess.

    Raises:
        ValueError: a negative cross-entropy, which usually is a log-likelihood without its minus.
    """
    if cross_entropy < 0:
        raise ValueError(
            f"cross_entropy={cross_entropy} is negative; the cross-entropy of tokens is at least "
            "0. Did you pass the mean log-probability? Perplexity is exp(-mean log-probability)."
        )
    return math.inf if cross_entropy > 709 else math.exp(cross_entropy)


def bits(cross_entropy: float) -> float:
    """Return a cross-entropy given in nats in bits: divided by ln 2."""
    return cross_entropy / math.log(2)


def bits_per_byte(cross_entropy: float, n_tokens: int, n_bytes: int) -> float:
    """Return the bits that a byte of the text costs, which does not depend on the tokenizer.

    With the number of characters for ``n_bytes`` it is bits per character.

    Args:
        cross_entropy: the mean over the tokens, in nats a token.
        n_tokens: how many tokens the mean is over.
        n_bytes: how long the same text is, in bytes (UTF-8).

    Raises:
        ValueError: a negative cross-entropy, or a number that is not positive.

    Source: Gao et al., 2020, "The Pile: An 800GB dataset of diverse text for language modeling".
    """
    if cross_entropy < 0:
        raise ValueError(f"cross_entropy={cross_entropy} is negative; is its minus missing?")
    if n_tokens < 1 or n_bytes < 1:
        raise ValueError(f"n_tokens={n_tokens} and n_bytes={n_bytes} must both be at least 1.")
    return bits(cross_entropy) * n_tokens / n_bytes


def distinct_n(ids: Sequence[Hashable] | Tensor, n: int) -> float:
    """Return how many of the n-grams of one text are different: distinct n-grams over all n-grams.

    1 means that no n-gram comes twice; a text that repeats itself comes near 0. It falls as a text
    gets longer, so compare texts of one length. One minus it is :func:`repetition`.

    Args:
        ids: one text: a 1-D tensor of ids, or a sequence of ids or tokens.
        n: tokens in an n-gram.

    Raises:
        ValueError: ``n`` is below 1, or the text is shorter than ``n``.

    Source: Li et al., 2016, "A diversity-promoting objective function for neural conversation
    models", who divide by the number of tokens, that is by ``n - 1`` more.
    """
    items = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    if n < 1:
        raise ValueError(f"n={n} must be at least 1.")
    if len(items) < n:
        raise ValueError(f"a text of {len(items)} tokens has no n-gram of n={n}.")
    n_grams = list(zip(*(items[k:] for k in range(n)), strict=False))
    return len(set(n_grams)) / len(n_grams)


def repetition(ids: Sequence[Hashable] | Tensor, n: int) -> float:
    """Return the share of the n-grams of one text that stood in it before (seq-rep-n).

    Arguments and errors as in :func:`distinct_n`, which it is one minus.

    Source: Welleck et al., 2020, "Neural text generation with unlikelihood training".
    """
    return 1 - distinct_n(ids, n)


class NGram:
    """A model that counts: the next token given the ``order - 1`` tokens before it.

    A context that was seldom seen says little, so its counts are mixed with the prediction of the
    model that is one order shorter, down to a uniform guess:
    p_n = (count + strength * p_(n-1)) / (total + strength).

    Args:
        order: tokens looked at, the predicted one included; 3 is a trigram.
        strength: how many observations the shorter model counts for, at least 0 exclusive.

    Source: MacKay and Peto, 1995, "A hierarchical Dirichlet language model".
    """

    def __init__(self, order: int, vocab_size: int, strength: float = 10.0):
        if order < 1:
            raise ValueError(f"order={order} must be at least 1.")
        if vocab_size**order > 100_000_000:
            raise ValueError(
                f"a table of vocab_size ** order = {vocab_size}^{order} numbers does not fit into "
                "memory; choose a smaller order."
            )
        if strength <= 0:
            raise ValueError(f"strength={strength} must be above 0, or unseen tokens get 0.")
        self.order, self.vocab_size, self.strength = order, vocab_size, strength
        self.probabilities = np.full(vocab_size, 1 / vocab_size)  # a uniform guess

    def fit(self, ids: Tensor) -> "NGram":
        """Count the n-grams of every order in ``ids``, a 1-D tensor; returns the model."""
        self.probabilities = np.full(self.vocab_size, 1 / self.vocab_size)  # forget other texts
        for n in range(1, self.order + 1):
            counts = np.bincount(self._codes(ids, n), minlength=self.vocab_size**n)
            counts = counts.reshape((self.vocab_size,) * n)
            total = counts.sum(axis=-1, keepdims=True)
            self.probabilities = (counts + self.strength * self.probabilities) / (
                total + self.strength
            )
        return self

    def cross_entropy(self, ids: Tensor) -> float:
        """Return the mean cross-entropy in nats over ``ids``, of all tokens with a full context."""
        chosen = self.probabilities.reshape(-1)[self._codes(ids, self.order)]
        return float(-np.log(chosen).mean())

    def generate(self, ids: list[int], n_tokens: int, generator: torch.Generator) -> list[int]:
        """Return ``ids``, at least ``order - 1`` of them, and ``n_tokens`` drawn ones."""
        ids = list(ids)
        if len(ids) < self.order - 1:
            raise ValueError(f"a model of order {self.order} needs {self.order - 1} ids to start.")
        for _ in range(n_tokens):
            context = tuple(ids[len(ids) - self.order + 1 :])
            weights = torch.from_numpy(self.probabilities[context])
            ids.append(int(torch.multinomial(weights, 1, generator=generator)))
        return ids

    def _codes(self, ids: Tensor, n: int) -> np.ndarray:
        """Return each window of ``n`` ids as one whole number, its place in the table."""
        ids = np.asarray(ids)
        if len(ids) < n:
            raise ValueError(f"{len(ids)} ids are too few for windows of {n}.")
        length = len(ids) - n + 1
        codes = np.zeros(length, dtype=np.int64)
        for k in range(n):
            codes = codes * self.vocab_size + ids[k : k + length]
        return codes
