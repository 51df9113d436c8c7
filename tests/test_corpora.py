"""Texts, characters as tokens, splits and batches; and the n-gram baseline that counts them."""

import gzip
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import assets, corpora
from course_utils.corpora import (
    CharTokenizer,
    get_batch,
    load_text,
    split,
)


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
        with pytest.raises(ValueError, match=r"is not one \.txt file"):
            load_text("gpt2-tokenizer")


def utf8(text):
    return text.encode("utf-8")


TEXTS = {
    "no line end": (utf8("ACGT" * 200), "ACGT" * 200),
    "a byte-order mark": (b"\xef\xbb\xbf" + utf8("To be\n"), "To be\n"),
    "only one byte-order mark is one": (utf8("\ufeff\ufeffTo be"), "\ufeffTo be"),
    "Windows line ends": (utf8("one\r\ntwo\r\n\r\n"), "one\ntwo\n\n"),
    "old Mac line ends": (utf8("one\rtwo\r"), "one\ntwo\n"),
    "mixed line ends": (utf8("one\n\r\ntwo\r"), "one\n\ntwo\n"),
    "one line of a megabyte": (utf8("a line " * 150_000), "a line " * 150_000),
    "Thai": (utf8("สวัสดีชาวโลก"), "สวัสดีชาวโลก"),
    "Arabic and Hebrew": (utf8("مرحبا שלום"), "مرحبا שלום"),
    "emoji with joiners": (utf8("👩‍👩‍👧 🇩🇪 👍🏽"), "👩‍👩‍👧 🇩🇪 👍🏽"),
    "only spaces": (b"   \n ", "   \n "),
    "a control character": (b"a\x1b[0mb\x0c", "a\x1b[0mb\x0c"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_text_of_any_alphabet_is_read(tmp_path, kind):
    content, text = TEXTS[kind]
    (tmp_path / "own.txt").write_bytes(content)
    assert (
        corpora.read_text(tmp_path / "own.txt") == corpora.read_text(f"{tmp_path}/own.txt") == text
    )


NO_TEXTS = {
    "UTF-16 with its mark": ("Grüße".encode("utf-16"), "UTF-16.*position 0.*UTF-8"),
    "UTF-16 without": ("Grüße, Welt".encode("utf-16-le"), "UTF-16.*position 4.*UTF-8"),
    "UTF-16, big end first": ("abc".encode("utf-16-be"), "UTF-16.*position 0.*UTF-8"),
    "UTF-16 in Thai": ("สวัสดี ชาวโลก".encode("utf-16-le"), "UTF-16.*UTF-8"),
    "UTF-32": ("abc".encode("utf-32"), "UTF-16 or not text at all"),
    "Latin-1": ("a café".encode("latin-1"), "perhaps Latin-1.*position 5 it has the byte 0xe9"),
    "Windows-1252": ("“quoted”".encode("cp1252"), "perhaps Latin-1.*position 0"),
    "Shift JIS": ("こんにちは".encode("shift-jis"), "not UTF-8 text"),
    "cut in a character": (utf8("abcé")[:-1], "not UTF-8 text.*position 3"),
    "packed": (gzip.compress(b"To be, or not to be" * 9), "not UTF-8 text"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not UTF-8 text"),
    "NUL bytes": (b"To be\0or not", "position 5 it has the byte 0x00"),
    "NUL after letters of two bytes": (utf8("äöü\0"), "position 6 it has the byte 0x00"),
    "empty": (b"", "is empty"),
    "only a byte-order mark": (b"\xef\xbb\xbf", "is empty"),
}


@pytest.mark.parametrize("kind", NO_TEXTS)
def test_what_is_not_utf_8_is_named(tmp_path, kind):
    content, message = NO_TEXTS[kind]
    (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"own.txt.*{message}"):
        corpora.read_text(tmp_path / "own.txt")


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "secret.txt").write_text("To be")
    (tmp_path / "secret.txt").chmod(0)
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    names = ["", "nowhere.txt", "no/where.txt", "secret.txt/below", "loop.txt", "x" * 300]
    for name in names + ["secret.txt"] * (os.getuid() != 0):
        with pytest.raises(OSError, match=r"cannot be read as a text file: [A-Z].*\.") as caught:
            corpora.read_text(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


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
    with pytest.raises(ValueError, match=r"'w' \(position 2\)"):
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


def test_every_window_of_the_corpus_is_drawn():
    ids = torch.arange(10)
    x, y = get_batch(ids, 500, 4, torch.Generator().manual_seed(0))
    assert set(x[:, 0].tolist()) == set(range(6))  # the last window is 5 6 7 8, followed by 9
    assert y.max() == 9


def test_a_corpus_that_is_empty_or_too_short_says_so():
    empty = torch.empty(0, dtype=torch.long)
    with pytest.raises(ValueError, match="the corpus is empty"):
        get_batch(empty, 2, 4)
    with pytest.raises(ValueError, match="0 ids cannot be split"):
        split(empty)
    with pytest.raises(ValueError, match=r"has 4 tokens.*block_size=4.*need 5"):
        get_batch(torch.arange(4), 2, 4)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_batches_are_int64_for_embeddings_and_losses(dtype):
    x, y = get_batch(torch.arange(50).to(dtype), 3, 8, torch.Generator().manual_seed(0))
    assert x.dtype == y.dtype == torch.int64 and torch.equal(y, x + 1)
