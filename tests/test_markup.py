"""A token is data in every medium: drawn, parsed and opened in a browser, not only compared."""

import importlib.util
import json
import warnings
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.display import HTML
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from benchmarks.tables import markdown_table
from course_utils import plots
from course_utils.markup import (
    html_table,
    in_html,
    in_markdown,
    in_matplotlib,
    in_plotly,
    in_plotly_3d,
    visible,
)

TOKENS = [
    "$x$",
    "$$\\frac{a}{b}$$",
    "\\(x\\)",
    "a_b_c",
    "*bold*",
    "<b>",
    "<br>",
    "&lt;",
    "&#36;",
    "`",
    "``a`",
    "\\",
    "\\$",
    "|",
    "{x}",
    "%{x}",
    "{math}`x`",
    "#",
    "[a](b)",
    "![a](b)",
    "🙂",
    "</script>",
    " the",
    "a\nb",
    "a  b ",
    "\u202eabc",
    "\u200b",
    "\ud800",
    "\x1b[31m",
]
ENDS = st.text(st.sampled_from("$_*<>&`\\|{}[]()#!~^ \n\u202e🙂ab"), max_size=12)


class Text(HTMLParser):
    """The text and the elements of a page."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.text, self.tags = "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("token", TOKENS)
def test_html(token):
    page = Text(f"<i>{in_html(token)}</i>")
    assert page.tags == ["i"]
    assert page.text.encode()  # no surrogate is left, which no file could hold
    assert page.text == token or not token.isprintable()


# --- Markdown --------------------------------------------------------------------------------


def rendered(markdown):
    """Markdown as the book reads it, with dollar signs for mathematics."""
    config = MdParserConfig(enable_extensions={"dollarmath", "amsmath", "colon_fence", "deflist"})
    return create_md_parser(config, RendererHTML).render(markdown)


def spaces_marked(token):
    return visible(token).replace("·", " ")


@pytest.mark.parametrize("token", TOKENS)
def test_markdown_sentence(token):
    page = Text(rendered(f"The token {in_markdown(token)} is not {in_markdown(token)}."))
    assert page.tags == ["p", "code", "code"]
    seen = spaces_marked(token)
    assert page.text.strip().replace("·", " ") == f"The token {seen} is not {seen}."


@settings(max_examples=200, deadline=None)
@given(ENDS.filter(bool))
def test_any_text_is_one_piece_of_code_in_markdown(token):
    page = Text(rendered(f"a {in_markdown(token)} b"))
    assert page.tags == ["p", "code"]
    assert page.text.strip().replace("·", " ") == f"a {spaces_marked(token)} b"


def test_a_token_with_spaces_shows_them_in_markdown():
    assert in_markdown(" the cat") == "`·the cat`"
    assert in_markdown("a  b ") == "`a··b·`"
    assert in_markdown(" ") == "`·`"
    assert in_markdown("") == "(empty)"
    assert in_markdown(b" \xf0\x9f") == "`·\\xf0\\x9f`"


# --- figures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("token", TOKENS)
def test_matplotlib_draws_no_mathematics(token):
    figure, axes = plt.subplots()
    label = in_matplotlib(token)
    axes.set(title=label, xlabel=f"{label} and {label}")
    axes.set_xticks([0, 1], [label, label])
    text = axes.text(0, 0, label)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that the font lacks
        figure.canvas.draw()
    shown, is_math = text._preprocess_math(text.get_text())
    assert is_math is False
    assert not axes.xaxis.label._preprocess_math(axes.xaxis.label.get_text())[1]
    assert shown == visible(token).replace("·", " ").replace("🙂", "\\U0001f642")
    plt.close(figure)


@pytest.fixture(scope="module")
def plotly_page(browser):
    """A page that draws a figure and returns the text of its title, ticks and bars."""
    found = importlib.util.find_spec("plotly")
    page = browser.new_page()
    page.set_content('<div id="figure" style="width:800px;height:400px"></div>')
    page.add_script_tag(path=Path(found.origin).parent / "package_data" / "plotly.min.js")
    yield page
    page.close()


DRAW = """async ({data, layout}) => {
  await Plotly.newPlot("figure", data, layout);
  const texts = document.querySelectorAll("#figure .gtitle, #figure .xtick text, #figure .bartext");
  return [...texts].map((text) => text.textContent);
}"""


@pytest.mark.parametrize("token", TOKENS)
def test_plotly_shows_the_token_itself(plotly_page, token):
    label = in_plotly(token)
    assert "$" not in label  # mathematics needs two
    bar = go.Bar(x=[label], y=[1], text=[label], texttemplate="%{text}", textposition="outside")
    figure = go.Figure(bar, {"title": label, "xaxis": {"type": "category"}})
    shown = plotly_page.evaluate(DRAW, json.loads(figure.to_json()))
    seen = spaces_marked(token)
    assert [text.replace("\u00a0", " ").strip() for text in shown] == [seen.strip()] * 3


def test_plotly_3d_labels_hold_no_tag_that_it_knows():
    for token in ("<b>", "a<br>b", "<sup>2</sup>", "<i>x</i>"):
        label = in_plotly_3d(token)
        assert not any(f"<{tag}>" in label for tag in ("b", "br", "sup", "i", "sub"))
        assert label.replace("\u2060", "") == token


# --- tables ----------------------------------------------------------------------------------


def test_table_shows_tokens_and_runs_none():
    page = Text(html_table([[token, token] for token in TOKENS], TOKENS[:2], caption=TOKENS[0]))
    cells = [tag for tag in page.tags if tag == "td"]
    assert len(cells) == 2 * len(TOKENS)
    assert set(page.tags) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}


def test_numbers_of_every_kind_are_aligned_right():
    numbers = [1, 1.5, np.int64(1), np.float32(2), np.uint8(3), 2 + 1j]
    others = ["1", True, None, np.bool_(True), [1]]
    for values, right in ((numbers, 1), (others, 0)):
        for value in values:
            assert html_table([[value]]).count("text-align:right") == right, value


def test_a_cell_with_html_of_its_own_is_shown_by_it():
    table = html_table([["a<b", HTML("<em>c</em>")]], row_heads=True)
    assert '<th scope="row">a&lt;b</th><td><em>c</em></td>' in table


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the table 'nothing' has no rows"),
        ((), "the table 'nothing' has no rows"),
        ([{"a": 1}, {"b": 2}], r"row 1 of the table 'nothing' lacks a column of \['a'\]"),
        ([{"a": 1, "b": 2}, {"a": 2}], r"row 1 .* lacks a column of \['a', 'b'\]"),
    ],
)
def test_a_table_that_cannot_be_drawn_says_why(rows, message):
    with pytest.raises(ValueError, match=message):
        plots.table(rows, "nothing")


@pytest.mark.parametrize("token", ["a|b", "a", "||", "long " * 9])
def test_markdown_table(token):
    lines = markdown_table([{"token": token, "n": 1}, {"n": 22, "token": "x"}]).split("\n")
    assert len({len(line) for line in lines}) == 1
    config = MdParserConfig(gfm_only=True)
    page = Text(create_md_parser(config, RendererHTML).render("\n".join(lines)))
    assert page.tags == ["table", "thead", *["tr", "th", "th"], "tbody", *["tr", "td", "td"] * 2]
    assert page.text.split() == ["token", "n", *token.split(), "1", "x", "22"]
