"""The BPE tokenizer against GPT-2's, against `tokenizers`, and against a slow plain version."""

import base64
import copy
import itertools
import json
import pickle
import random
import time
import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest
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
# Special tokens that overlap, start alike and end in white space.
OVERLAPPING = ["<|a|>", "<|a|><|b|>", "|><|", "<|a|>x", "'r", " \n "]
TANGLES = st.lists(
    st.one_of(
        st.sampled_from(["<|a|>", "<|b|>", "<|", "a", "|>", "|><|", "<|a|><|b|>", "x", "<"]),
        st.sampled_from(["don't", "we're", "'re", "'r", "'", "'l", "l", " ", "  ", "\n", "\r\n"]),
        st.sampled_from(["the", " the", "12", "!?", "é", "🙂", "\u00a0", "\u3000"]),
    ),
    max_size=20,
).map("".join)


@st.composite
def cut_texts(draw) -> tuple[str, list[str]]:
    """A text, and the same text in pieces, empty ones included."""
    text = draw(st.one_of(TANGLES, TEXTS))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    one_by_one = draw(st.booleans())
    cuts = list(range(len(text))) if one_by_one else cuts
    return text, [text[i:j] for i, j in pairwise([0, *cuts, len(text)])]


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


@pytest.fixture(scope="module")
def tangled() -> BPETokenizer:
    return BPETokenizer.train(SAMPLE[:50_000] + "<|a|> ||>>  \n\n" * 9, 400, OVERLAPPING)


# The definitions, slow and plain


def slow_split(text: str, special_tokens=()) -> list[str]:
    """Cut out special tokens: at each place, try the longest first."""
    longest_first = sorted(special_tokens, key=len, reverse=True)
    parts, ordinary, i = [], "", 0
    while i < len(text):
        found = next((token for token in longest_first if text.startswith(token, i)), None)
        if found:
            parts += [ordinary, found]
            ordinary = ""
        else:
            ordinary += text[i]
        i += len(found or text[i])
    return [*parts, ordinary]


def to_bytes(word: str) -> list[bytes]:
    return [bytes([byte]) for byte in word.encode()]


def slow_merges(text: str, n_tokens: int, special_tokens=()) -> list[tuple[bytes, bytes]]:
    """Learn merges by the definition: count everything again for each merge."""
    ordinary = [part for part in slow_split(text, special_tokens) if part not in special_tokens]
    words = [to_bytes(word) for part in ordinary for word in PATTERN.findall(part)]
    merges = []
    while len({left + right for left, right in merges}) < n_tokens:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        words = [merge_pair(word, best) for word in words]
    return merges


def slow_word(merges, word: str) -> list[bytes]:
    """Merge everywhere the pair that was learned first, again and again."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    tokens = to_bytes(word)
    while known := [pair for pair in pairwise(tokens) if pair in ranks]:
        tokens = merge_pair(tokens, min(known, key=ranks.get))
    return tokens


def slow_encode(tokenizer: BPETokenizer, text: str) -> list[int]:
    id_of = {token: id_ for id_, token in tokenizer.vocab.items()}
    ids = []
    for part in slow_split(text, tokenizer.special_tokens):
        if part in tokenizer.special_tokens:
            ids.append(tokenizer.special_tokens[part])
        else:
            words = PATTERN.findall(part)
            ids += [id_of[t] for word in words for t in slow_word(tokenizer.merges, word)]
    return ids


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


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(alphabet="ab", min_size=1), st.text(alphabet="ab c\n1éßÿ", min_size=1)),
    st.integers(0, 60),
)
def test_training_learns_what_the_definition_says(text, n_tokens):
    assert BPETokenizer.train(text, 256 + n_tokens).merges == slow_merges(text, n_tokens)


@settings(max_examples=200, deadline=None)
@given(cut_texts(), st.integers(0, 40))
def test_training_on_pieces_learns_what_the_definition_says_of_the_whole(cut, n_tokens):
    text, pieces = cut
    slow = slow_merges(text, n_tokens, OVERLAPPING)
    size = 256 + len(OVERLAPPING) + n_tokens
    if "".join(part for part in slow_split(text, OVERLAPPING) if part not in OVERLAPPING):
        assert BPETokenizer.train(iter(pieces), size, OVERLAPPING).merges == slow
    else:
        with pytest.raises(ValueError, match="the corpus is empty"):
            BPETokenizer.train(iter(pieces), size, OVERLAPPING)


def test_training_on_real_text_learns_what_the_definition_says():
    text = SAMPLE[:6_000]
    assert BPETokenizer.train(text, 256 + 400).merges == slow_merges(text, 400)


def test_training_on_an_open_file_equals_training_on_its_text(tmp_path, trained):
    (tmp_path / "text.txt").write_text(SAMPLE[:100_000], encoding="utf-8")
    with open(tmp_path / "text.txt", encoding="utf-8") as lines:
        assert BPETokenizer.train(lines, 600, ["<|endoftext|>"]).merges == trained.merges


def test_training_does_not_hold_the_text():
    lines = (f"The line {n % 100} of a long file, don't you see?  \n" for n in range(20_000))
    tracemalloc.start()
    try:
        BPETokenizer.train(lines, 400, ["<|endoftext|>"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 400_000  # bytes; the text has 900,000


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


@pytest.mark.parametrize("text", ["", [], ["", ""], "<|x|><|x|>", iter(())])
def test_an_empty_corpus_is_explained(text):
    with pytest.raises(ValueError, match="the corpus is empty: give text to learn from"):
        BPETokenizer.train(text, 1_000, ["<|x|>"])


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
    assert seconds < 15  # about 0.5 s on one quiet core


# Encoding, in one piece or in many


PARTS = st.text(alphabet="ab", min_size=1, max_size=3).map(str.encode)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(PARTS, PARTS), max_size=12), st.text(alphabet="ab", max_size=30))
def test_encoding_merges_as_the_definition_says(merges, word):
    tokenizer = BPETokenizer(merges)
    assert [tokenizer.vocab[id_] for id_ in tokenizer.encode(word)] == slow_word(merges, word)


@settings(max_examples=500, deadline=None)
@given(cut_texts())
def test_the_ids_of_pieces_are_those_of_the_whole_text(tangled, cut):
    text, pieces = cut
    ids = slow_encode(tangled, text)
    assert tangled.encode(text) == ids
    assert list(tangled.encode_iterable(iter(pieces))) == ids
    assert tangled.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(cut_texts())
def test_gpt2_ids_of_pieces_equal_those_of_transformers(gpt2, reference, cut):
    text, pieces = cut
    assert list(gpt2.encode_iterable(pieces)) == reference.encode(text)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n", "  \n\t"])
def test_the_ids_of_an_open_file_are_those_of_its_text(gpt2, reference, tmp_path, newline):
    text = SAMPLE[:20_000].replace("\n", newline) + "<|endoftext|>We'll"
    (tmp_path / "text.txt").write_bytes(text.encode())
    with open(tmp_path / "text.txt", encoding="utf-8", newline="") as lines:
        assert list(gpt2.encode_iterable(lines)) == reference.encode(text)


def test_pieces_are_read_when_they_are_needed(gpt2):
    read = []
    lines = (read.append(n) or f"line {n}, and more\n" for n in itertools.count())
    ids = gpt2.encode_iterable(lines)
    assert read == []
    assert (
        list(itertools.islice(ids, 1_000))
        == gpt2.encode("".join(f"line {n}, and more\n" for n in range(300)))[:1_000]
    )
    assert len(read) < 1_000 / 6 + 5  # a line has about six tokens


@pytest.mark.parametrize("end", ["\n", " ", "don't", "、"])
def test_encoding_pieces_takes_constant_memory(gpt2, end):
    def lines(count: int):
        return (f"The line {n % 100} of a long file, don't you see?{end}" for n in range(count))

    gpt2.encode("".join(lines(100)))  # the words that a tokenizer remembers
    tracemalloc.start()
    try:
        n_ids = sum(1 for _ in gpt2.encode_iterable(lines(10_000)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_ids > 100_000
    assert peak < 20_000  # bytes; the text has 460,000


def test_long_words_are_not_remembered(gpt2):
    gpt2.encode(f"{'ab' * 17} {'ab' * 15}")
    assert " " + "ab" * 15 in gpt2._cache
    assert max(map(len, gpt2._cache)) <= 32


LONG = {
    "one letter": "a" * 100_000,
    "two letters": "ab" * 50_000,
    "random letters": base64.b32encode(random.Random(0).randbytes(62_500)).decode().lower(),
    "base64": base64.b64encode(random.Random(1).randbytes(75_000)).decode(),
    "spaces": " " * 100_000 + "x",
    "dashes": "-" * 100_000,
    "emoji": "🙂" * 25_000,
}
# base32 has a few digits; letters alone make one word.
LONG["random letters"] = LONG["random letters"].translate(str.maketrans("234567", "etaoin"))


@pytest.mark.parametrize("name", LONG)
def test_a_long_word_takes_little_time(gpt2, reference, name):
    text = LONG[name]
    start = time.perf_counter()
    ids = gpt2.encode(text)
    seconds = time.perf_counter() - start
    assert ids == reference.encode(text)
    assert seconds < 4  # about 0.1 s on one quiet core; a square of the length takes minutes


def test_a_long_word_letter_by_letter_takes_little_time(gpt2):
    text = LONG["random letters"]
    start = time.perf_counter()
    ids = list(gpt2.encode_iterable(text))
    assert time.perf_counter() - start < 6  # about 0.3 s on one quiet core
    assert ids == gpt2.encode(text)


# Special tokens in other people's text

TEXT_WITH_SPECIAL = [
    "<|endoftext|>",
    "The end.<|endoftext|>Once <|endoftext|><|endoftext|>",
    "  <|endoftext|>\n\n's",
    "<|endoftext|",  # not a whole one
    "no special token",
    "",
]


@pytest.mark.parametrize("text", TEXT_WITH_SPECIAL)
def test_special_tokens_as_text_equal_those_of_transformers(gpt2, reference, text):
    ids = gpt2.encode(text, special="text")
    assert ids == reference.encode(text, split_special_tokens=True)
    assert 50_256 not in ids
    assert gpt2.decode(ids) == text
    assert list(gpt2.encode_iterable(text, "text")) == ids  # letter by letter
    assert gpt2.encode(text) == gpt2.encode(text, special="id") == reference.encode(text)


@pytest.mark.parametrize("text", TEXT_WITH_SPECIAL)
def test_special_tokens_are_refused_by_name(gpt2, text):
    for ids in (lambda: gpt2.encode(text, "error"), lambda: [*gpt2.encode_iterable(text, "error")]):
        if "<|endoftext|>" in text:
            with pytest.raises(
                ValueError, match=r"holds the special token '<\|endoftext\|>'.*'text'"
            ):
                ids()
        else:
            assert ids() == gpt2.encode(text)


@settings(max_examples=200, deadline=None)
@given(cut_texts())
def test_special_tokens_as_text_are_what_a_tokenizer_without_them_makes(tangled, cut):
    text, pieces = cut
    without = BPETokenizer(tangled.merges)
    assert tangled.encode(text, "text") == without.encode(text)
    assert list(tangled.encode_iterable(pieces, "text")) == without.encode(text)


@pytest.mark.parametrize("special", ["all", None, (), True])
def test_an_unknown_way_with_special_tokens_is_named(gpt2, special):
    for function in (gpt2.encode, gpt2.encode_iterable):  # at the call, before the text is read
        with pytest.raises(ValueError, match=r"special=.* must be 'id' .*'text' .*or 'error'"):
            function("text", special=special)


# Surrogates: halves of a character, which no valid text has. The right column is what tiktoken
# 0.12 makes of them: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").
SURROGATES = {
    "\ud800": "\ufffd",
    "x\ud800y": "x\ufffdy",
    "a\ud83d\ude42b": "a🙂b",
    "\ude42\ud83d": "\ufffd\ufffd",
    "\ud800\ud800\udc00 end\udfff": "\ufffd\U00010000 end\ufffd",
    "<|a|>\ud83d<|a|>": "<|a|>\ufffd<|a|>",
    "\ufeff\ud800": "\ufeff\ufffd",
}


@pytest.mark.parametrize("text", SURROGATES)
def test_a_lone_surrogate_is_the_replacement_character(gpt2, tangled, text):
    valid = SURROGATES[text]
    assert valid == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    for tokenizer in (gpt2, tangled):
        for special in ("id", "text"):
            assert tokenizer.encode(text, special) == tokenizer.encode(valid, special)
        assert list(tokenizer.encode_iterable(text)) == tokenizer.encode(valid)  # cut in each pair
    merges = BPETokenizer.train(f"{valid}, " * 3, 300).merges
    for corpus in (f"{text}, " * 3, list(f"{text}, " * 3)):
        assert BPETokenizer.train(corpus, 300).merges == merges


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("a <|>\n'é🙂\ud83d\ude42\udfff"), max_size=12))
def test_any_str_survives_up_to_its_surrogates(tangled, text):
    valid = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tangled.decode(tangled.encode(text)) == valid
    assert list(tangled.encode_iterable(iter(text))) == tangled.encode(valid)


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


def test_a_tokenizer_can_be_copied_and_pickled(trained):
    for twin in (copy.deepcopy(trained), pickle.loads(pickle.dumps(trained))):
        assert twin.encode("To be, or not") == trained.encode("To be, or not")


# Errors tell what was wrong


def test_too_small_a_vocabulary_is_explained():
    with pytest.raises(ValueError, match=r"vocab_size=256 is too small: 256 bytes and 1 special"):
        BPETokenizer.train("abc", 256, ["<|endoftext|>"])


@pytest.mark.parametrize("special", ["", "a", "ab", " ", "Ġ", "<|\ud800|>"])
def test_a_special_token_that_is_an_ordinary_one_is_refused(special):
    with pytest.raises(ValueError, match="is empty, an ordinary token as well, or not valid text"):
        BPETokenizer([(b"a", b"b")], [special])


def test_an_unknown_id_is_named(trained):
    with pytest.raises(ValueError, match=r"id 50256 is not in the vocabulary.*from 0 to 599"):
        trained.decode([50_256])


@pytest.mark.parametrize("value", [b"bytes", None, ["a"]])
def test_encoding_something_else_than_text_is_explained(trained, value):
    with pytest.raises(TypeError, match="expects text"):
        trained.encode(value)


@pytest.mark.parametrize("pieces", [[b"bytes"], ["text", None], b"bytes"])
def test_pieces_that_are_not_text_are_explained(trained, pieces):
    with pytest.raises(TypeError, match=r"a piece of the text is of type .*; expected str"):
        list(trained.encode_iterable(pieces))
    with pytest.raises(TypeError, match=r"Open a file as text"):
        BPETokenizer.train(pieces, 300)


def test_a_vocabulary_without_a_needed_token_is_refused():
    with pytest.raises(ValueError, match="no id for b'ab'"):
        BPETokenizer([(b"a", b"b")], vocab={byte: bytes([byte]) for byte in range(256)})


def test_a_bad_line_of_merges_is_named(tmp_path):
    BPETokenizer([(b"a", b"b")]).save(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\na b c\n")
    with pytest.raises(ValueError, match=r"merges.txt, line 3: expected two tokens"):
        BPETokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na €\n")
    with pytest.raises(ValueError, match="does not represent a byte"):
        BPETokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_another_kind_of_json_is_refused(tmp_path):
    BPETokenizer([(b"a", b"b")]).save(tmp_path)
    (tmp_path / "vocab.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(ValueError, match=r"vocab.json: expected one"):
        BPETokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
