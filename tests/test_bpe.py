"""The BPE tokenizer against GPT-2's, against `tokenizers`, and against a slow plain version."""

import copy
import json
import pickle
import time
from collections import Counter
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer
from tokenizers import Tokenizer as RustTokenizer

from course_utils import assets, pretrained
from course_utils.bpe import (
    BYTE_SYMBOLS,
    PATTERN,
    BPETokenizer,
    from_symbols,
    merge_pair,
    to_symbols,
)

SAMPLE = (assets.data_folder() / "shakespeare.txt").read_text(encoding="utf-8")

# Characters that Python's own Unicode tables know. Newer ones may be letters to one regex engine
# and nothing to another, so that GPT-2's pattern cuts them differently.
ASSIGNED = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=60)
# Texts with many chances to go wrong: contractions, runs of spaces, digits, emoji, specials.
PIECES = st.one_of(
    st.sampled_from(["'s", "'ll", "'S", "don't", "a", "The", " the", "_", "--"]),
    st.sampled_from([" ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000"]),
    st.sampled_from(["12", "½", "é", "e\u0301", "हिन्दी", "日本", "🙂", "👩\u200d🚀"]),
    st.sampled_from(["<|endoftext|>", "<|end"]),
)
TEXTS = st.one_of(ASSIGNED, st.lists(PIECES, max_size=15).map("".join))


@pytest.fixture(scope="module")
def gpt2_files():
    return assets.get("gpt2-tokenizer")


@pytest.fixture(scope="module")
def gpt2(gpt2_files) -> BPETokenizer:
    return BPETokenizer.from_files(gpt2_files / "vocab.json", gpt2_files / "merges.txt")


@pytest.fixture(scope="module")
def reference():
    return pretrained.load_tokenizer("gpt2")


@pytest.fixture(scope="module")
def trained() -> BPETokenizer:
    return BPETokenizer.train(SAMPLE[:100_000], 600, ["<|endoftext|>"])


def slow_merges(text: str, n_merges: int, special_tokens=()) -> list[tuple[bytes, bytes]]:
    """Learn merges by the definition: count everything again for each merge."""
    if special_tokens:
        parts = regex.split("|".join(map(regex.escape, special_tokens)), text)
    else:
        parts = [text]
    words = [
        [bytes([byte]) for byte in word.encode()]
        for part in parts
        for word in PATTERN.findall(part)
    ]
    merges = []
    for _ in range(n_merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        words = [merge_pair(word, best) for word in words]
    return merges


# GPT-2's files


def test_gpt2_has_its_known_size(gpt2):
    assert gpt2.vocab_size == 50_257 == 256 + len(gpt2.merges) + 1
    assert gpt2.special_tokens == {"<|endoftext|>": 50_256}


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("The quick brown fox", [464, 2068, 7586, 21831]),
        ("cat sat on the", [9246, 3332, 319, 262]),
        ("The weather is", [464, 6193, 318]),
        ("bank bank", [17796, 3331]),
        ("<|endoftext|>", [50256]),
        ("", []),
    ],
)
def test_gpt2_gives_the_known_ids(gpt2, text, ids):
    assert gpt2.encode(text) == ids
    assert gpt2.decode(ids) == text


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_gpt2_ids_equal_those_of_transformers(gpt2, reference, text):
    assert gpt2.encode(text) == reference.encode(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 50_256), max_size=30))
def test_gpt2_decodes_any_ids_as_transformers_does(gpt2, reference, ids):
    assert gpt2.decode(ids) == reference.decode(ids)


def test_gpt2_ids_of_a_long_text_equal_those_of_transformers(gpt2, reference):
    assert gpt2.encode(SAMPLE[:200_000]) == reference.encode(SAMPLE[:200_000])


def test_pattern_loses_nothing():
    assert "".join(PATTERN.findall(SAMPLE)) == SAMPLE


# Round trip


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_survives_the_round_trip(trained, text):
    assert trained.decode(trained.encode(text)) == text


def test_invalid_utf8_becomes_the_replacement_character(trained):
    smile = trained.encode("🙂")
    assert trained.decode(smile) == "🙂"
    assert "\ufffd" in trained.decode(smile[:-1])
    assert trained.decode([0x61, 0xFF, 0x62]) == "a\ufffdb"
    assert trained.decode_bytes([0x61, 0xFF]) == b"a\xff"


def test_symbols_are_one_for_each_byte():
    assert len(BYTE_SYMBOLS) == len(set(BYTE_SYMBOLS.values())) == 256
    assert all(symbol.isprintable() and symbol != " " for symbol in BYTE_SYMBOLS.values())
    assert to_symbols(b" the\n") == "ĠtheĊ"
    assert from_symbols("ĠtheĊ") == b" the\n"


# Training


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab c\n1é", max_size=80), st.integers(0, 30))
def test_training_learns_what_the_definition_says(text, n_merges):
    slow = slow_merges(text, n_merges)
    assert BPETokenizer.train(text, 256 + n_merges).merges[: len(slow)] == slow


def test_training_on_real_text_learns_what_the_definition_says():
    text = SAMPLE[:6_000]
    assert BPETokenizer.train(text, 256 + 150).merges == slow_merges(text, 150)


def test_ties_go_to_the_greater_pair():
    assert BPETokenizer.train("ab yz cd", 258).merges == [(b"y", b"z"), (b"c", b"d")]
    # As pairs, not joined: (b"a", b"bc") is less than (b"ab", b"c").
    merges = [(b"a", b"b")]
    assert max([(b"ab", b"c"), (b"a", b"bc")]) == (b"ab", b"c")
    assert BPETokenizer(merges).encode("ab") == [256]


def test_special_tokens_are_never_merged_across_or_split():
    text = "ab<|x|>ab<|x|>" * 50
    tokenizer = BPETokenizer.train(text, 300, ["<|x|>"])
    assert tokenizer.merges == slow_merges(text, 300, ["<|x|>"]) == [(b"a", b"b")]
    assert tokenizer.encode("ab<|x|>ab") == [256, 257, 256]
    assert tokenizer.decode([256, 257]) == "ab<|x|>"


def test_a_special_token_inside_a_word_cuts_it():
    tokenizer = BPETokenizer([(b"a", b"b")], ["||"])
    assert tokenizer.encode("a||b") == [97, 257, 98]


def test_overlapping_special_tokens_match_the_longest():
    tokenizer = BPETokenizer([], ["<|a|>", "<|a|><|a|>"])
    assert tokenizer.encode("<|a|><|a|><|a|>") == [257, 256]
    assert BPETokenizer([], ["<|a|><|a|>", "<|a|>"]).encode("<|a|><|a|>") == [256]


def test_training_stops_when_nothing_is_left_to_merge():
    tokenizer = BPETokenizer.train("abc", 1_000)
    assert tokenizer.vocab_size == 258
    assert tokenizer.encode("abc") == [257]
    assert BPETokenizer.train("", 1_000).vocab_size == 256


def test_the_first_merges_of_a_tokenizer_are_a_smaller_tokenizer(trained):
    smaller = BPETokenizer.train(SAMPLE[:100_000], 400)
    assert BPETokenizer(trained.merges[: 400 - 256]).encode(SAMPLE[:500]) == smaller.encode(
        SAMPLE[:500]
    )


def test_training_the_whole_corpus_takes_seconds():
    start = time.perf_counter()
    tokenizer = BPETokenizer.train(SAMPLE, 1_000, ["<|endoftext|>"])
    seconds = time.perf_counter() - start
    assert tokenizer.vocab_size == 1_000
    assert seconds < 20  # about 1 s on one quiet core


# Against `tokenizers`


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_trained_ids_equal_those_of_tokenizers(trained, rust_twin, text):
    assert trained.encode(text) == rust_twin.encode(text).ids


@pytest.fixture(scope="module")
def rust_twin(trained, tmp_path_factory) -> RustTokenizer:
    folder = tmp_path_factory.mktemp("files")
    trained.save(folder)
    rust = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    rust.add_special_tokens(["<|endoftext|>"])
    return rust


def test_tokenizers_reads_our_files(trained, rust_twin):
    assert rust_twin.get_vocab_size() == trained.vocab_size
    assert rust_twin.token_to_id("<|endoftext|>") == trained.special_tokens["<|endoftext|>"]


# Files


def test_saving_and_loading_gives_the_same_tokenizer(tmp_path):
    special = ["<|endoftext|>", "<| a space |>", "⟨début⟩"]
    tokenizer = BPETokenizer.train(SAMPLE[:20_000] + " # # #ééé\u2028", 500, special)
    tokenizer.save(tmp_path / "new folder")
    again = BPETokenizer.from_files(
        tmp_path / "new folder" / "vocab.json", tmp_path / "new folder" / "merges.txt"
    )
    assert again.merges == tokenizer.merges
    assert again.vocab == tokenizer.vocab
    assert again.special_tokens == tokenizer.special_tokens
    text = "To be <| a space |># # ⟨début⟩é\u2028🙂<|endoftext|>"
    assert again.encode(text) == tokenizer.encode(text)


def test_gpt2_files_survive_the_round_trip(gpt2, gpt2_files, tmp_path):
    gpt2.save(tmp_path)
    assert json.loads((tmp_path / "vocab.json").read_text("utf-8")) == json.loads(
        (gpt2_files / "vocab.json").read_text("utf-8")
    )
    assert (tmp_path / "merges.txt").read_text("utf-8") == (gpt2_files / "merges.txt").read_text(
        "utf-8"
    )


def test_further_special_tokens_get_the_next_ids(gpt2_files):
    tokenizer = BPETokenizer.from_files(
        gpt2_files / "vocab.json", gpt2_files / "merges.txt", ["<|endoftext|>", "<|pad|>"]
    )
    assert tokenizer.special_tokens == {"<|endoftext|>": 50_256, "<|pad|>": 50_257}
    assert tokenizer.encode("a<|pad|>") == [64, 50_257]


def test_a_tokenizer_can_be_copied_and_pickled(trained):
    for twin in (copy.deepcopy(trained), pickle.loads(pickle.dumps(trained))):
        assert twin.encode("To be, or not") == trained.encode("To be, or not")


# Errors tell what was wrong


def test_too_small_a_vocabulary_is_explained():
    with pytest.raises(ValueError, match=r"vocab_size=256 is too small: 256 bytes and 1 special"):
        BPETokenizer.train("abc", 256, ["<|endoftext|>"])


@pytest.mark.parametrize("special", ["", "a", "ab", " ", "Ġ"])
def test_a_special_token_that_is_an_ordinary_one_is_refused(special):
    with pytest.raises(ValueError, match="is empty or an ordinary token"):
        BPETokenizer([(b"a", b"b")], [special])


def test_an_unknown_id_is_named(trained):
    with pytest.raises(ValueError, match=r"id 50256 is not in the vocabulary.*from 0 to 599"):
        trained.decode([50_256])


@pytest.mark.parametrize("value", [b"bytes", None, ["a"]])
def test_encoding_something_else_than_text_is_explained(trained, value):
    with pytest.raises(TypeError, match="expects text"):
        trained.encode(value)


def test_a_vocabulary_without_a_needed_token_is_refused():
    with pytest.raises(ValueError, match="no id for b'ab'"):
        BPETokenizer([(b"a", b"b")], vocab={byte: bytes([byte]) for byte in range(256)})


def test_a_bad_line_of_merges_is_named(tmp_path):
    BPETokenizer([(b"a", b"b")]).save(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\na b c\n")
    with pytest.raises(ValueError, match=r"merges.txt, line 3: expected two tokens"):
        BPETokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na €\n")
    with pytest.raises(ValueError, match="stands for no byte"):
        BPETokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_another_kind_of_json_is_refused(tmp_path):
    BPETokenizer([(b"a", b"b")]).save(tmp_path)
    (tmp_path / "vocab.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(ValueError, match=r"vocab.json: expected one"):
        BPETokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
