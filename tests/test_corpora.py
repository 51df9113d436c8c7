"""Texts, characters as tokens, splits and batches; and the n-gram baseline that counts them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.lm import Lidstone
from nltk.util import ngrams

from course_utils import assets, metrics
from course_utils.corpora import CharTokenizer, get_batch, load_text, split


def test_the_corpus_is_the_course_s_own():
    text = load_text("shakespeare")
    assert len(text) == assets.manifest()["shakespeare"].files[0].size
    assert "To be, or not to be" in text


def test_what_is_not_a_text_is_refused():
    with pytest.raises(KeyError, match="no asset is called 'hamlet'"):
        load_text("hamlet")
    name = "bert-vocabulary"
    if assets.find(name):
        assert load_text(name).startswith("[PAD]")
    if assets.find("gpt2-tokenizer"):
        with pytest.raises(ValueError, match="is not a text"):
            load_text("gpt2-tokenizer")


@settings(deadline=None)
@given(st.text(min_size=1))
def test_encode_and_decode_are_inverse(text):
    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(torch.tensor(ids)) == text
    assert tokenizer.vocab_size == len(set(text))
    assert set(ids) == set(range(tokenizer.vocab_size))


def test_tokenizer_errors_name_the_culprit():
    tokenizer = CharTokenizer.from_text("hello")
    with pytest.raises(ValueError, match=r"'w' \(place 2\)"):
        tokenizer.encode("how")
    with pytest.raises(ValueError, match="id 4 is outside the vocabulary: 0 to 3"):
        tokenizer.decode([0, 4])
    with pytest.raises(ValueError, match="outside"):
        tokenizer.decode([-1])
    with pytest.raises(ValueError, match=r"decode\(ids\[0\]\)"):
        tokenizer.decode(torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="the text is empty"):
        CharTokenizer.from_text("")


@settings(deadline=None)
@given(st.integers(2, 500))
def test_split_keeps_order_and_loses_nothing(n):
    ids = torch.arange(n)
    train, validation = split(ids)
    assert torch.equal(torch.cat([train, validation]), ids)
    assert len(train) == int(0.9 * n)


@pytest.mark.parametrize("n", [0, 1])
def test_split_refuses_what_it_cannot_split(n):
    with pytest.raises(ValueError, match="one part would be empty"):
        split(torch.arange(n))


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(1, 20), st.integers(1, 59), st.integers(0, 2**32))
def test_a_batch_is_windows_and_what_follows(n, batch_size, block_size, seed):
    ids = torch.arange(n) * 3
    generator = torch.Generator().manual_seed(seed)
    if n < block_size + 1:
        with pytest.raises(ValueError, match=f"need {block_size + 1}"):
            get_batch(ids, batch_size, block_size, generator)
        return
    x, y = get_batch(ids, batch_size, block_size, generator)
    assert x.shape == y.shape == (batch_size, block_size)
    assert torch.equal(y, x + 3)
    assert torch.equal(x[:, 1:], y[:, :-1])
    again = get_batch(ids, batch_size, block_size, torch.Generator().manual_seed(seed))
    assert torch.equal(x, again[0])


def test_every_place_of_the_corpus_is_drawn():
    ids = torch.arange(10)
    x, y = get_batch(ids, 500, 4, torch.Generator().manual_seed(0))
    assert set(x[:, 0].tolist()) == set(range(6))  # the last window is 5 6 7 8, followed by 9
    assert y.max() == 9


# --- metrics -------------------------------------------------------------------------------------


def test_perplexity_and_bits():
    assert metrics.perplexity(math.log(65)) == pytest.approx(65)
    assert metrics.perplexity(0.0) == 1.0
    assert metrics.perplexity(10_000.0) == math.inf
    assert metrics.bits(math.log(2)) == pytest.approx(1)
    with pytest.raises(ValueError, match="is negative"):
        metrics.perplexity(-1.2)


def test_trigram_by_hand():
    """In `a b a b a` after (a, b) comes a twice; every level mixes in the one below."""
    model = metrics.NGram(3, 2, strength=2.0).fit(torch.tensor([0, 1, 0, 1, 0]))
    unigram = (3 + 2 * 0.5) / (5 + 2)
    bigram = (2 + 2 * unigram) / (2 + 2)  # a after b: twice of twice
    trigram = (2 + 2 * bigram) / (2 + 2)
    assert model.probabilities[0, 1, 0] == pytest.approx(trigram)
    assert model.cross_entropy(torch.tensor([0, 1, 0])) == pytest.approx(-math.log(trigram))
    assert model.cross_entropy(torch.tensor([0, 1, 1])) == pytest.approx(-math.log(1 - trigram))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 4), min_size=4, max_size=80), st.integers(1, 4))
def test_ngram_probabilities_sum_to_one(ids, order):
    table = metrics.NGram(order, 5, strength=0.7).fit(torch.tensor(ids)).probabilities
    assert table.shape == (5,) * order
    assert np.allclose(table.sum(-1), 1)
    assert table.min() > 0


def test_unigram_agrees_with_nltk():
    """Mixing with a uniform guess of strength γ·V is Lidstone's additive smoothing with γ."""
    text = "abracadabra, said the cat"
    tokenizer = CharTokenizer.from_text(text)
    ids = torch.tensor(tokenizer.encode(text))
    V, gamma = tokenizer.vocab_size, 0.5
    ours = metrics.NGram(1, V, strength=gamma * V).fit(ids)
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
    ours = metrics.NGram(2, tokenizer.vocab_size, strength=1e-9)
    ours.fit(torch.tensor(tokenizer.encode(text)))
    theirs = Lidstone(0, 2)
    theirs.fit([list(ngrams(text, 2))], vocabulary_text=list(set(text)))
    for a, b in set(ngrams(text, 2)):
        [i, j] = tokenizer.encode(a + b)
        assert ours.probabilities[i, j] == pytest.approx(theirs.score(b, [a]))


def test_a_longer_context_helps_on_the_corpus():
    tokenizer = CharTokenizer.from_text(text := load_text("shakespeare"))
    train, validation = split(torch.tensor(tokenizer.encode(text)))
    losses = [metrics.NGram(n, 65).fit(train).cross_entropy(validation) for n in (1, 2, 3)]
    assert losses[0] > losses[1] > losses[2] > 1.9
    assert losses[0] < math.log(65)


def test_ngram_generates_and_repeats_itself():
    model = metrics.NGram(3, 3, strength=0.01).fit(torch.tensor([0, 1, 2] * 30))
    drawn = model.generate([0, 1], 9, torch.Generator().manual_seed(1))
    assert drawn[:2] == [0, 1]
    assert len(drawn) == 11
    assert drawn == model.generate([0, 1], 9, torch.Generator().manual_seed(1))
    assert drawn == ([0, 1, 2] * 4)[:11]
    with pytest.raises(ValueError, match="needs 2 ids"):
        model.generate([0], 5, torch.Generator())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 5), "at least 1"), ((9, 65), "does not fit"), ((2, 5, 0.0), "above 0")],
)
def test_ngram_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.NGram(*arguments)


def test_ngram_refuses_too_few_ids():
    with pytest.raises(ValueError, match="too few"):
        metrics.NGram(3, 5).fit(torch.tensor([1, 2]))
