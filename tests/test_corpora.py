"""Texts, characters as tokens, splits and batches; and the n-gram baseline that counts them."""

import gzip
import os
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import assets, corpora
from course_utils.corpora import (
    CharTokenizer,
    get_batch,
    load_text,
    open_tokens,
    split,
    write_tokens,
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
    "UTF-16 with its mark": ("Grüße".encode("utf-16"), "UTF-16.*place 0.*UTF-8"),
    "UTF-16 without": ("Grüße, Welt".encode("utf-16-le"), "UTF-16.*place 4.*UTF-8"),
    "UTF-16, big end first": ("abc".encode("utf-16-be"), "UTF-16.*place 0.*UTF-8"),
    "UTF-16 in Thai": ("สวัสดี ชาวโลก".encode("utf-16-le"), "UTF-16.*UTF-8"),
    "UTF-32": ("abc".encode("utf-32"), "UTF-16 or no text at all"),
    "Latin-1": ("a café".encode("latin-1"), "perhaps Latin-1.*place 5 it has the byte 0xe9"),
    "Windows-1252": ("“quoted”".encode("cp1252"), "perhaps Latin-1.*place 0"),
    "Shift JIS": ("こんにちは".encode("shift-jis"), "not UTF-8 text"),
    "cut in a character": (utf8("abcé")[:-1], "not UTF-8 text.*place 3"),
    "packed": (gzip.compress(b"To be, or not to be" * 9), "not UTF-8 text"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not UTF-8 text"),
    "NUL bytes": (b"To be\0or not", "place 5 it has the byte 0x00"),
    "NUL after letters of two bytes": (utf8("äöü\0"), "place 6 it has the byte 0x00"),
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


def test_a_corpus_that_is_empty_or_too_short_says_so():
    for empty in (torch.empty(0, dtype=torch.long), np.empty(0, dtype=np.uint16)):
        with pytest.raises(ValueError, match="the corpus is empty"):
            get_batch(empty, 2, 4)
        with pytest.raises(ValueError, match="0 ids cannot be split"):
            split(empty)
    for short in (torch.arange(4), np.arange(4, dtype=np.uint16)):
        with pytest.raises(ValueError, match=r"has 4 tokens.*block_size=4.*need 5"):
            get_batch(short, 2, 4)


# --- token ids in a file -------------------------------------------------------------------------

VOCABULARIES = st.sampled_from([1, 65, 65_535, 65_536, 65_537, 2**32])


@settings(deadline=None, max_examples=60)
@given(st.data(), VOCABULARIES, st.integers(1, 5), st.integers(0, 2**31))
def test_a_file_holds_the_ids_and_gives_the_same_batches(data, vocab_size, block_size, seed):
    ids = data.draw(st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=40))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ids.npy"
        assert write_tokens(path, iter(ids), vocab_size) == len(ids)
        mapped = open_tokens(path)
        assert isinstance(mapped, np.memmap)
        assert mapped.dtype == (np.uint16 if vocab_size <= 65_536 else np.uint32)
        assert mapped.tolist() == np.load(path).tolist() == ids  # any numpy can read it
        assert corpora.to_tensor(mapped).tolist() == ids
        if len(ids) > block_size:
            for part in (slice(None), slice(len(ids) - block_size - 1, None)):
                generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
                ours = get_batch(mapped[part], 3, block_size, generators[0])
                theirs = get_batch(torch.tensor(ids)[part], 3, block_size, generators[1])
                assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
                assert ours[0].dtype == torch.int64
        del mapped  # Windows cannot remove a file that is mapped


@pytest.mark.parametrize("n", [65_535, 65_536, 65_537, 200_000])
def test_more_ids_than_one_piece(tmp_path, n):
    assert write_tokens(tmp_path / "ids.npy", (i % 50_000 for i in range(n)), 50_257) == n
    assert np.array_equal(open_tokens(tmp_path / "ids.npy"), np.arange(n) % 50_000)


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "ids.npy"

    def breaks_off():
        yield from range(100_000)
        raise RuntimeError("the text ended in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write_tokens(path, breaks_off(), 100_000)
    assert list(path.parent.iterdir()) == []
    write_tokens(path, [1, 2, 3], 4)
    for ids, message in (([], "the corpus is empty"), (breaks_off(), "outside")):
        with pytest.raises(ValueError, match=message):
            write_tokens(path, ids, 4)
    assert open_tokens(path).tolist() == [1, 2, 3]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("wrong", "place"), [(4, 0), (-1, 2), (70_000, 1), (65_540, 70_000)])
def test_an_id_outside_the_vocabulary_is_named(tmp_path, wrong, place):
    ids = [0] * 80_000
    ids[place] = wrong
    with pytest.raises(ValueError, match=rf"id {wrong} \(place {place}\) is outside.*: 0 to 3\."):
        write_tokens(tmp_path / "ids.npy", ids, 4)


def test_files_that_are_something_else_are_named(tmp_path):
    path = tmp_path / "ids.npy"
    with pytest.raises(FileNotFoundError, match="write_tokens first"):
        open_tokens(path)
    path.write_text("To be, or not to be")
    with pytest.raises(ValueError, match="is not a file of token ids"):
        open_tokens(path)
    np.save(path, np.zeros((2, 2), dtype=np.uint16))
    with pytest.raises(ValueError, match=r"uint16 of shape \(2, 2\)"):
        open_tokens(path)
    np.save(path, np.zeros(3))
    with pytest.raises(ValueError, match=r"float64 of shape \(3,\)"):
        open_tokens(path)
    write_tokens(path, range(1000), 1000)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match="cut off"):
        open_tokens(path)


def test_batches_do_not_load_the_file(tmp_path):
    """200 MB on paper; the disk and the memory hold only what is touched."""
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(100_000_000,)).flush()
    ids, process = open_tokens(path), psutil.Process()
    training_part, _ = split(ids)
    before = process.memory_info().rss
    highest = 0
    for seed in range(10):
        x, _ = get_batch(training_part, 8, 64, torch.Generator().manual_seed(seed))
        highest = max(highest, process.memory_info().rss - before)
    assert x.shape == (8, 64)
    assert highest < 40e6
