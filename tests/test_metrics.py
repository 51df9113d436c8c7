"""The measures and the n-gram model against nltk, torch and counting by hand."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.lm import Lidstone
from nltk.util import ngrams
from torch.nn import functional as F

from course_utils.corpora import CharTokenizer, load_text, split
from course_utils.metrics import NGram, bits, bits_per_byte, distinct_n, perplexity, repetition


@settings(deadline=None)
@given(st.text("abé🙂 ", min_size=1, max_size=30), st.integers(1, 9), st.integers(0, 1000))
def test_bits_per_byte_is_the_length_of_the_code(text, n_tokens, seed):
    """However the text is cut into tokens: all bits an ideal code would write, over all bytes."""
    torch.manual_seed(seed)
    logits, targets = 3 * torch.randn(n_tokens, 7), torch.randint(7, (n_tokens,))
    probabilities = logits.softmax(-1)[range(n_tokens), targets]
    n_bytes = len(text.encode())
    expected = -probabilities.log2().sum().item() / n_bytes
    got = bits_per_byte(F.cross_entropy(logits, targets).item(), n_tokens, n_bytes)
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_uniform_guess_over_bytes_costs_eight_bits():
    assert bits_per_byte(math.log(256), 10, 10) == pytest.approx(8)
    assert bits_per_byte(math.log(256), 5, 10) == pytest.approx(4)  # two bytes a token
    assert bits_per_byte(1.7, 3, 3) == bits(1.7)  # one character a token


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 5))
def test_distinct_n_counts_as_nltk_does(ids, n):
    if len(ids) < n:
        with pytest.raises(ValueError, match=f"{len(ids)} tokens has no n-gram of n={n}"):
            distinct_n(ids, n)
        return
    counts = Counter(ngrams(ids, n))
    repeated = sum(count - 1 for count in counts.values()) / counts.total()  # seq-rep-n
    assert distinct_n(ids, n) == pytest.approx(1 - repeated)
    assert distinct_n(torch.tensor(ids), n) == distinct_n(ids, n)
    assert repetition(ids, n) == pytest.approx(repeated)


def test_distinct_n_by_hand():
    assert distinct_n(["to", "be", "or", "not", "to", "be"], 1) == 4 / 6
    assert distinct_n(["to", "be", "or", "not", "to", "be"], 2) == 4 / 5
    assert distinct_n("abab", 4) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bits_per_byte(-1.0, 5, 5), "cross_entropy=-1.0 is negative"),
        (lambda: bits_per_byte(1.0, 0, 5), "n_tokens=0"),
        (lambda: bits_per_byte(1.0, 5, 0), "n_bytes=0"),
        (lambda: bits_per_byte(1.0, 2.5, 5), "n_tokens=2.5 must be a whole number"),
        (lambda: bits_per_byte(1.0, 5, math.nan), "n_bytes=nan"),
        (lambda: distinct_n([1, 2], 0), "n=0"),
        (lambda: distinct_n([1, 2], 1.5), "n=1.5 must be a whole number"),
        (lambda: repetition([1, 2], -1), "n=-1"),
        (lambda: distinct_n([], 1), "0 tokens"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- the n-gram model ----------------------------------------------------------------------------


def test_perplexity_and_bits():
    assert perplexity(math.log(65)) == pytest.approx(65)
    assert perplexity(0.0) == 1.0
    assert perplexity(10_000.0) == math.inf
    assert bits(math.log(2)) == pytest.approx(1)


@pytest.mark.parametrize(
    "wrong",
    [-1.2, math.nan, -math.inf, F.cross_entropy(torch.zeros(0, 3), torch.zeros(0).long()).item()],
)
def test_a_cross_entropy_that_is_none_is_refused(wrong):
    for call in (perplexity, bits, lambda nats: bits_per_byte(nats, 1, 1)):
        with pytest.raises(ValueError, match="is negative or not a number"):
            call(wrong)


def test_trigram_by_hand():
    """In `a b a b a` after (a, b) comes a twice; every level mixes in the one below."""
    model = NGram(3, 2, strength=2.0).fit(torch.tensor([0, 1, 0, 1, 0]))
    unigram = (3 + 2 * 0.5) / (5 + 2)
    bigram = (2 + 2 * unigram) / (2 + 2)  # a after b: twice of twice
    trigram = (2 + 2 * bigram) / (2 + 2)
    assert model.probabilities[0, 1, 0] == pytest.approx(trigram)
    assert model.cross_entropy(torch.tensor([0, 1, 0])) == pytest.approx(-math.log(trigram))
    assert model.cross_entropy(torch.tensor([0, 1, 1])) == pytest.approx(-math.log(1 - trigram))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 4), min_size=4, max_size=80), st.integers(1, 4))
def test_ngram_probabilities_sum_to_one(ids, order):
    table = NGram(order, 5, strength=0.7).fit(torch.tensor(ids)).probabilities
    assert table.shape == (5,) * order
    assert np.allclose(table.sum(-1), 1)
    assert table.min() > 0
    model = NGram(order, 5, strength=0.7).fit(torch.tensor([1, 2, 3, 4, 0])).fit(torch.tensor(ids))
    assert np.array_equal(model.probabilities, table)  # what it counted before is forgotten


def test_unigram_agrees_with_nltk():
    """Mixing with a uniform guess of strength γ·V is Lidstone's additive smoothing with γ."""
    text = "abracadabra, said the cat"
    tokenizer = CharTokenizer.from_text(text)
    ids = torch.tensor(tokenizer.encode(text))
    V, gamma = tokenizer.vocab_size, 0.5
    ours = NGram(1, V, strength=gamma * V).fit(ids)
    theirs = Lidstone(gamma, 1)
    theirs.fit([ngrams(text, 1)], vocabulary_text=list(set(text)))
    # nltk's vocabulary also has an entry for unknown tokens
    for character, probability in zip(tokenizer.characters, ours.probabilities, strict=True):
        expected = theirs.score(character) * (len(text) + gamma * (V + 1)) / (len(text) + gamma * V)
        assert probability == pytest.approx(expected)


def test_bigram_counts_agree_with_nltk():
    """With almost no smoothing the table is the relative frequencies that nltk counts."""
    text = "the theatre and the three thieves"
    tokenizer = CharTokenizer.from_text(text)
    ours = NGram(2, tokenizer.vocab_size, strength=1e-9)
    ours.fit(torch.tensor(tokenizer.encode(text)))
    theirs = Lidstone(0, 2)
    theirs.fit([list(ngrams(text, 2))], vocabulary_text=list(set(text)))
    for a, b in set(ngrams(text, 2)):
        [i, j] = tokenizer.encode(a + b)
        assert ours.probabilities[i, j] == pytest.approx(theirs.score(b, [a]))


def test_a_longer_context_helps_on_the_corpus():
    tokenizer = CharTokenizer.from_text(text := load_text("shakespeare"))
    train, validation = split(torch.tensor(tokenizer.encode(text)))
    losses = [NGram(n, 65).fit(train).cross_entropy(validation) for n in (1, 2, 3)]
    assert losses[0] > losses[1] > losses[2] > 1.9
    assert losses[0] < math.log(65)


def test_ngram_generates_and_repeats_itself():
    model = NGram(3, 3, strength=0.01).fit(torch.tensor([0, 1, 2] * 30))
    drawn = model.generate([0, 1], 9, torch.Generator().manual_seed(1))
    assert drawn[:2] == [0, 1]
    assert len(drawn) == 11
    assert drawn == model.generate([0, 1], 9, torch.Generator().manual_seed(1))
    assert drawn == ([0, 1, 2] * 4)[:11]
    with pytest.raises(ValueError, match="needs 2 ids"):
        model.generate([0], 5, torch.Generator())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5), "order=0 must be a whole number and at least 1"),
        ((1.5, 5), r"order=1\.5"),
        ((2, 0), "vocab_size=0"),
        ((2, 5.0), r"vocab_size=5\.0"),
        ((9, 65), "does not fit"),
        ((2, 5, 0.0), "above 0"),
        ((2, 5, math.nan), "strength=nan"),
        ((2, 5, math.inf), "strength=inf"),
    ],
)
def test_ngram_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        NGram(*arguments)


WRONG_IDS = {
    "an id of V": ([0, 5, 1], "ids range from 0 to 5; the vocabulary has 5 tokens, 0 to 4"),
    "another tokenizer's": ([0, 7], "ids range from 0 to 7"),
    "negative": ([3, -1, 2], "ids range from -1 to 3"),
    "floats": ([0.0, 1.0, 2.0], r"ids are float\d\d \(3,\); expected whole numbers \(T,\)"),
    "not a number": ([math.nan, 1.0], r"ids are float"),
    "marks": ([True, False, True], "ids are bool"),
    "two rows": ([[1, 2], [3, 4]], r"ids are int64 \(2, 2\)"),
    "too few": ([1], "1 ids are too few: a model of order 2 needs 2 ids"),
    "none": ([], "0 ids are too few"),
}


@pytest.mark.parametrize("name", WRONG_IDS)
@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_ngram_refuses_ids_that_are_not_its_own(name, kind):
    ids, message = WRONG_IDS[name]
    model = NGram(2, 5).fit(torch.tensor([0, 1, 2, 3, 4, 0]))
    before = model.probabilities.copy()
    for call in (model.fit, model.cross_entropy, NGram(2, 5).fit):
        with pytest.raises(ValueError, match=message):
            call(kind(ids))
    if name not in ("too few", "none"):  # one id is enough to start from
        with pytest.raises(ValueError, match=message):
            model.generate(kind(ids), 3, torch.Generator())
    assert np.array_equal(model.probabilities, before)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngram_that_has_counted_nothing_says_so(order):
    model = NGram(order, 5)
    for call in (model.cross_entropy, lambda ids: model.generate(ids, 1, torch.Generator())):
        with pytest.raises(ValueError, match=r"counted no text yet; call fit\(ids\) first"):
            call(torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    "ids", [[0, 1, 2, 0], (0, 1, 2, 0), np.array([0, 1, 2, 0], dtype=np.uint8)]
)
def test_ngram_takes_ids_in_any_sequence(ids):
    fitted = NGram(2, 3).fit(ids)
    assert np.array_equal(
        fitted.probabilities, NGram(2, 3).fit(torch.tensor([0, 1, 2, 0])).probabilities
    )
    assert fitted.cross_entropy(ids) == fitted.cross_entropy(torch.tensor([0, 1, 2, 0]))
    assert NGram(1, 3).fit(ids).generate([], 3, torch.Generator().manual_seed(0))
