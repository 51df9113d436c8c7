"""What the token views show, speak and, above all, do not run."""

import html
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import pretrained, tokens_html
from course_utils.bpe import BPETokenizer
from course_utils.tokens_html import (
    show_merges,
    show_pieces,
    show_tokens,
    summarize_tokenizer,
    tokens_of,
    visible,
)

NASTY = "</script><img src=x onerror=alert(1)></style>\"'&amp;"
ALLOWED = {"style", "figure", "figcaption", "ol", "li", "b", "small", "span"}
TABLE = {"div", "table", "tr", "th", "td"}
SLIDER = {"div", "label", "input", "output"}


class Reader(HTMLParser):
    """Collects the elements of a page, and the text that is shown and spoken."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.items = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag == "li":
            self.items.append({"b": "", "small": "", "span": "", **dict(attrs)})
        if tag == "b":
            self.items[-1]["title"] = dict(attrs).get("title")

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("b", "small", "span") and self.items:
            self.items[-1][self.tags[-1]] += data


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    pages: list[str] = []
    monkeypatch.setattr(tokens_html, "display", lambda output: pages.append(output.data))
    return pages


@pytest.fixture(scope="module")
def ours() -> BPETokenizer:
    return BPETokenizer.train("the sea sees the seal " * 20, 270, ["<|endoftext|>"])


@pytest.fixture(scope="module")
def gpt2():
    return pretrained.load_tokenizer("gpt2")


@pytest.fixture(scope="module")
def bert():
    return pretrained.load_tokenizer("bert")


@pytest.mark.parametrize("name", ["ours", "gpt2", "bert"])
def test_markup_in_a_token_is_shown_not_run(name, shown, request):
    show_tokens(request.getfixturevalue(name), NASTY, caption=NASTY, show_ids=True)
    show_pieces([NASTY, NASTY.encode()])
    for page in shown:
        reader = Reader(page)
        assert set(reader.tags) <= ALLOWED
        assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert [item["b"] for item in Reader(shown[1]).items] == [visible(NASTY)] * 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=12), st.binary(max_size=6)), max_size=8))
def test_no_piece_of_text_adds_an_element(pieces):
    page = tokens_html._figure("", tokens_html._list(pieces, list(range(len(pieces)))))
    reader = Reader(page)
    assert set(reader.tags) <= ALLOWED
    shown = [item["b"] for item in reader.items if item["class"] != "br"]
    assert shown == [visible(piece) for piece in pieces]


def test_tokens_are_framed_in_order_and_carry_their_ids(shown, gpt2):
    show_tokens(gpt2, "The quick\nbrown", show_ids=True)
    items = Reader(shown[0]).items
    assert [item["b"] for item in items] == ["The", "·quick", "↵", "", "brown"]
    assert [item["small"] for item in items] == ["464", "2068", "198", "", "33282"]
    assert items[1]["title"] == "id 2068"
    assert items[1]["span"] == "space, quick; id 2068"
    assert items[2]["span"] == "new line; id 198"
    assert items[3]["class"] == "br"  # the line breaks in the picture too
    assert "4 tokens for 15 characters" in shown[0]


def test_what_is_seen_is_not_spoken_twice(shown, gpt2):
    show_tokens(gpt2, "a b", show_ids=True)
    hidden = [tag for tag, name, value in Reader(shown[0]).attributes if name == "aria-hidden"]
    assert hidden == ["b", "small"] * 2
    assert 'role="list" aria-label="2 tokens"' in shown[0]


@pytest.mark.parametrize(
    ("piece", "seen"),
    [
        (" fox", "·fox"),
        (b" fox", "·fox"),
        ("a\tb\r\n", "a⇥b␍↵"),
        (b"\xf0\x9f", "\\xf0\\x9f"),
        ("a\u202eb", "a\\u202eb"),
        ("\x1b", "\\x1b"),
        ("é🙂", "é🙂"),
        ("हि", "हि"),
        ("Ġthe", "Ġthe"),
        ("", ""),
    ],
)
def test_what_does_not_print_is_written_out(piece, seen):
    assert visible(piece) == seen


def test_pieces_of_each_kind_of_tokenizer(ours, gpt2, bert):
    assert tokens_of(ours, "the<|endoftext|>")[1] == [b"the", b"<|endoftext|>"]
    assert tokens_of(gpt2, " sea🙂<|endoftext|>")[1] == [
        b" sea",
        b"\xf0\x9f",
        b"\x99\x82",
        "<|endoftext|>",
    ]
    assert tokens_of(bert, "seals tokenization")[1] == [
        "[CLS]",
        "seals",
        "token",
        "##ization",
        "[SEP]",
    ]
    for tokenizer in (ours, gpt2):
        assert tokens_of(tokenizer, "") == ([], [])


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_the_pieces_of_gpt2_spell_the_text(gpt2, text):
    pieces = tokens_of(gpt2, text)[1]
    assert b"".join(p.encode() if isinstance(p, str) else p for p in pieces) == text.encode()


def test_as_many_ids_as_pieces_are_needed():
    with pytest.raises(ValueError, match="2 pieces but 1 ids"):
        show_pieces(["a", "b"], [1])


# The slider


def test_the_slider_holds_one_list_for_each_position(shown, ours):
    show_merges(ours, "the sea " + NASTY, [0, 3, len(ours.merges)])
    reader = Reader(shown[0])
    assert set(reader.tags) <= ALLOWED | SLIDER
    assert reader.tags.count("ol") == 3
    assert sum(name == "hidden" for _, name, _ in reader.attributes) == 2
    attributes = {name: value for tag, name, value in reader.attributes if tag == "input"}
    assert (attributes["min"], attributes["max"], attributes["value"]) == ("0", "2", "2")
    assert attributes["aria-valuetext"].startswith(f"{len(ours.merges)} merges: ")
    assert "http" not in shown[0]


def test_without_merges_every_byte_is_a_token(shown, ours):
    show_merges(ours, "the", [0])
    assert [item["b"] for item in Reader(shown[0]).items] == ["t", "h", "e"]
    assert "0 merges: 3 tokens" in shown[0]


@pytest.mark.parametrize("counts", [[], [-1], [10_000]])
def test_a_position_the_tokenizer_does_not_have_is_refused(ours, counts):
    with pytest.raises(ValueError, match="from 0 to"):
        show_merges(ours, "the", counts)


# The summary


def test_summary_of_gpt2(gpt2):
    summary = summarize_tokenizer(gpt2, "The weather is")
    assert summary.name == "GPT2Tokenizer"
    assert summary.vocab_size == 50_257
    assert summary.special_tokens == ["<|endoftext|>"]
    assert summary.ids == [464, 6193, 318]
    assert summary.pieces == [b"The", b" weather", b" is"]
    assert summary.decoded == "The weather is"
    assert len(summary.vocab_sample) == 12
    assert summary.vocab_sample[0] == "!"
    assert summary.vocab_sample[50_256] == "<|endoftext|>"
    assert "464 6193 318" in repr(summary)
    assert "(the same as the text)" in repr(summary)


def test_summary_of_ours_and_of_bert(ours, bert):
    mine = summarize_tokenizer(ours, "the sea")
    assert (mine.vocab_size, mine.special_tokens) == (266, ["<|endoftext|>"])
    assert list(mine.vocab_sample) == [round(265 * n / 11) for n in range(12)]
    theirs = summarize_tokenizer(bert, "The 🙂")
    assert theirs.vocab_size == 30_522
    assert theirs.pieces == ["[CLS]", "the", "[UNK]", "[SEP]"]
    assert "(not the same as the text)" in repr(theirs)


def test_summary_shows_markup_and_does_not_run_it(ours):
    page = summarize_tokenizer(ours, NASTY)._repr_html_()
    assert set(Reader(page).tags) <= ALLOWED | TABLE
    assert html.escape("(the same as the text)") in page
