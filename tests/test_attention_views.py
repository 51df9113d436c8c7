"""BertViz in its frame, seen in a real browser; and the statistics per head."""

import functools
import http.server
import re
import shutil
import threading
from importlib import resources

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import attention_views

EVIL = "</script><img src=x onerror=alert(1)>"
INERT = 'marked "<b>&amp;\\u003c; // HACK: {'


def attentions(n_layer=2, n_head=3, n_token=5, seed=0, causal=False):
    """Return random attention weights of a model, one (1, H, T, T) tensor per layer."""
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(n_layer, 1, n_head, n_token, n_token, generator=generator)
    if causal:
        allowed = torch.ones(n_token, n_token, dtype=torch.bool).tril()
        scores = scores.masked_fill(~allowed, float("-inf"))
    return tuple(scores.softmax(-1))


@pytest.fixture
def shown(monkeypatch):
    """Collect the HTML that the views display."""
    pages = []
    monkeypatch.setattr(attention_views, "display", lambda output: pages.append(output.data))
    monkeypatch.delenv("COURSE_BOOK", raising=False)
    return pages


TOKENS = ["The", "Ġanimal", EVIL, INERT, "."]


# --- what the page holds ---------------------------------------------------------------------


def test_no_third_party_address_is_in_the_page(shown, monkeypatch):
    monkeypatch.setenv("COURSE_BOOK", "1")
    attention_views.head_view(attentions(), TOKENS, alt="a view")
    attention_views.model_view(attentions(), TOKENS, alt="a view")
    attention_views.lookup_explorer({"a": (1, 0), "b": (0, 1)}, alt="a plane")
    names = {"http://www.w3.org", "https://github.com"}  # SVG's name; a credit in a comment
    for page in shown:
        assert set(re.findall(r"https?://[\w.]+", page)) <= names


def test_book_pages_share_the_scripts_and_others_carry_them(shown, monkeypatch):
    attention_views.head_view(attentions(), TOKENS, alt="a view")
    monkeypatch.setenv("COURSE_BOOK", "1")
    attention_views.head_view(attentions(), TOKENS, alt="a view")
    alone, book = shown
    assert "../_static/vendor" not in alone
    assert 300_000 < len(alone) < 600_000
    assert "../_static/vendor/d3.min.js" in book
    assert "../_static/vendor/jquery.min.js" in book
    assert len(book) < 30_000


@pytest.mark.parametrize(
    ("n_layer", "n_head", "n_token", "causal"), [(30, 9, 14, True), (6, 12, 16, False)]
)
def test_views_of_the_chapters_models_stay_small(shown, n_layer, n_head, n_token, causal):
    weights = attentions(n_layer, n_head, n_token, causal=causal)
    attention_views.head_view(weights, ["token"] * n_token, alt="a view")
    attention_views.model_view(weights, ["token"] * n_token, alt="a view")
    assert max(map(len, shown)) < 600_000


def test_the_title_and_the_words_are_escaped(shown):
    attention_views.head_view(attentions(), TOKENS, alt='it "sees" <all>')
    (page,) = shown
    assert 'title="it &quot;sees&quot; &lt;all&gt;"' in page
    words = page.partition("</iframe>")[2]
    assert "<img" not in words
    assert "&lt;img src=x" in words
    assert "Ġ" not in words


# --- what does not fit -----------------------------------------------------------------------


@pytest.mark.parametrize("view", [attention_views.head_view, attention_views.model_view])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attentions": (None, None)}, "eager"),
        ({"attentions": ()}, "eager"),
        ({"tokens": ["one"]}, r"expected \(1, n_head, 1, 1\)"),
        ({"attentions": (torch.rand(3, 5, 5),)}, r"shape \(3, 5, 5\)"),
        ({"attentions": (torch.rand(2, 3, 5, 5),)}, "batch of one"),
        ({"layers": [0, 2]}, r"layers \[2\] do not exist"),
        ({"alt": " "}, "alt is empty"),
    ],
)
def test_errors_say_what_to_do(view, change, message):
    arguments = {"attentions": attentions(), "tokens": TOKENS, "alt": "a view", **change}
    with pytest.raises(ValueError, match=message):
        view(arguments.pop("attentions"), arguments.pop("tokens"), **arguments)


# --- in the browser --------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    """Serve a folder laid out as the book; yields the folder and its address."""
    vendor = tmp_path / "_static" / "vendor"
    vendor.mkdir(parents=True)
    d3 = resources.files("mpld3") / "js" / "d3.v5.min.js"
    jquery = resources.files("xstatic.pkg.jquery") / "data" / "jquery.min.js"
    shutil.copyfile(d3, vendor / "d3.min.js")
    shutil.copyfile(jquery, vendor / "jquery.min.js")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Visit:
    """A page with one view in it, opened, with all that it asked for and complained about."""

    def __init__(self, browser, address, width=800):
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.requests, self.errors, self.dialogs = [], [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(1), dialog.dismiss()))
        self.page.goto(address)
        self.frame = self.page.frame_locator("iframe")
        self.frame.locator("svg").first.wait_for(timeout=20_000)

    def measure(self, script):
        return self.page.frames[-1].evaluate(script)

    def hosts(self):
        return {
            url.split("/")[2] for url in self.requests if url.startswith(("http:", "https:", "ws"))
        }


def write(folder, name, body, root="../"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<!doctype html><html data-content_root="{root}"><meta charset="utf-8">'
        f'<link rel="icon" href="data:,"><body>{body}'
    )


NO_SCROLLING = """[document.documentElement.scrollHeight <= innerHeight,
                   document.documentElement.scrollWidth <= innerWidth]"""


@pytest.mark.parametrize("in_book", [False, True])
@pytest.mark.parametrize("view", ["head_view", "model_view"])
def test_a_view_is_drawn_and_asks_no_other_host(browser, site, shown, monkeypatch, view, in_book):
    if in_book:
        monkeypatch.setenv("COURSE_BOOK", "1")
    getattr(attention_views, view)(attentions(), TOKENS, alt="a view")
    folder, address = site
    write(folder, "notebooks/page.html", shown[0])
    visit = Visit(browser, f"{address}/notebooks/page.html")
    n_line = {"head_view": 3 * 25, "model_view": 2 * 3 * 25}[view]  # heads, layers, token pairs
    assert visit.frame.locator("line").count() == n_line
    visible = "[...document.querySelectorAll('line')].map(l => +l.getAttribute('stroke-opacity'))"
    opacities = visit.measure(visible)
    drawn = torch.stack(attentions())[0 if view == "head_view" else slice(None)].flatten()
    expected = drawn / (3 if view == "head_view" else 1)  # shared among the heads switched on
    rounding = {"head_view": 0.0006, "model_view": 0.0051}[view]
    np.testing.assert_allclose(opacities, expected, atol=rounding)
    assert visit.measure(NO_SCROLLING) == [True, True]
    assert visit.hosts() == {address.removeprefix("http://")}
    assert (visit.errors, visit.dialogs) == ([], [])


def test_an_evil_token_is_shown_and_not_run(browser, site, shown):
    attention_views.head_view(attentions(), TOKENS, alt="a view")
    folder, address = site
    write(folder, "notebooks/page.html", shown[0])
    visit = Visit(browser, f"{address}/notebooks/page.html")
    texts = visit.frame.locator("#left text").all_text_contents()
    assert texts == ["The", " animal", EVIL, INERT, "."]
    assert visit.frame.locator("img").count() == 0
    assert visit.page.locator("img").count() == 0
    assert visit.dialogs == []


def test_the_frame_may_not_touch_the_page(browser, site, shown):
    attention_views.head_view(attentions(), TOKENS, alt="a view")
    folder, address = site
    write(folder, "notebooks/page.html", shown[0])
    visit = Visit(browser, f"{address}/notebooks/page.html")
    reach = "(() => { try { return parent.document.title } catch { return 'refused' } })()"
    assert visit.measure(reach) == "refused"


def test_a_view_loads_when_the_reader_comes_near(browser, site, shown, monkeypatch):
    monkeypatch.setenv("COURSE_BOOK", "1")
    attention_views.head_view(attentions(), TOKENS, alt="a view")
    folder, address = site
    write(folder, "notebooks/page.html", f'<p style="height: 5000px">Above</p>{shown[0]}')
    page = browser.new_page()
    page.goto(f"{address}/notebooks/page.html", wait_until="networkidle")
    view = page.locator("iframe")
    assert view.get_attribute("srcdoc") is None
    view.scroll_into_view_if_needed()
    page.frame_locator("iframe").locator("svg").first.wait_for()
    page.close()


def test_the_layer_menu_and_the_first_choice_work(browser, site, shown):
    attention_views.head_view(
        attentions(n_layer=4), TOKENS, alt="a view", layers=[1, 3], layer=3, heads=[2]
    )
    folder, address = site
    write(folder, "notebooks/page.html", shown[0])
    visit = Visit(browser, f"{address}/notebooks/page.html")
    menu = visit.frame.locator("#layer")
    assert menu.locator("option").all_text_contents() == ["1", "3"]
    assert menu.input_value() == "3"
    opacity = "[...document.querySelectorAll('line')].map(l => +l.getAttribute('stroke-opacity'))"
    only_head_2 = np.array(visit.measure(opacity)).reshape(3, 25)
    assert only_head_2[:2].max() == 0
    np.testing.assert_allclose(only_head_2[2], attentions(4)[3][0, 2].flatten(), atol=0.0006)
    menu.select_option("1")
    after = np.array(visit.measure(opacity)).reshape(3, 25)
    np.testing.assert_allclose(after[2], attentions(4)[1][0, 2].flatten(), atol=0.0006)


def test_a_thumbnail_of_the_model_view_opens(browser, site, shown):
    attention_views.model_view(attentions(), TOKENS, alt="a view")
    folder, address = site
    write(folder, "notebooks/page.html", shown[0])
    visit = Visit(browser, f"{address}/notebooks/page.html", width=700)
    visit.measure(
        "document.querySelector('rect[style*=\"opacity: 0\"]').dispatchEvent(new Event('click'))"
    )
    assert "Layer 0, Head 0" in visit.frame.locator("text.detail").all_text_contents()
    assert EVIL in visit.frame.locator("text.token").all_text_contents()


@pytest.mark.parametrize(
    ("place", "root"), [("notebooks/homework/page.html", "../../"), ("page.html", "./")]
)
def test_scripts_are_found_from_any_depth_of_the_book(
    browser, site, shown, monkeypatch, place, root
):
    monkeypatch.setenv("COURSE_BOOK", "1")
    attention_views.head_view(attentions(), TOKENS, alt="a view")
    folder, address = site
    write(folder, place, shown[0], root)
    visit = Visit(browser, f"{address}/{place}")
    assert visit.frame.locator("line").count() == 75


def test_a_book_opened_from_disk_works(browser, site, shown, monkeypatch):
    monkeypatch.setenv("COURSE_BOOK", "1")
    attention_views.model_view(attentions(), TOKENS, alt="a view")
    folder, _ = site
    write(folder, "notebooks/page.html", shown[0])
    visit = Visit(browser, (folder / "notebooks/page.html").as_uri())
    assert visit.frame.locator("line").count() == 150
    assert visit.hosts() == set()


def test_the_explorer_computes_a_softmax(browser, site, shown):
    keys = {"animal": (1.5, 0.5), EVIL: (0.0, 1.0), "&lt;b&gt;": (-1.0, 0.0)}
    attention_views.lookup_explorer(keys, alt="a plane")
    folder, address = site
    write(folder, "notebooks/page.html", shown[0])
    visit = Visit(browser, f"{address}/notebooks/page.html")
    set_to = "e => { e.value = %s; e.dispatchEvent(new Event('input')) }"
    visit.frame.locator("#angle").evaluate(set_to % 30)
    visit.frame.locator("#length").evaluate(set_to % 2)
    query = 2 * torch.tensor([np.cos(np.pi / 6), np.sin(np.pi / 6)])
    scores = torch.tensor(list(keys.values())).double() @ query
    weights = scores.softmax(0)
    labels = visit.frame.locator("#bars text").all_text_contents()[2::2]
    assert labels == [f"{s:.1f} → {w:.2f}" for s, w in zip(scores, weights, strict=True)]
    assert f"Most weight: animal, {weights[0]:.2f}" in visit.frame.locator("#words").text_content()
    assert visit.frame.locator("#plane text").all_text_contents() == list(keys)
    assert visit.measure(NO_SCROLLING) == [True, True]
    assert (visit.errors, visit.dialogs) == ([], [])


# --- heat maps -------------------------------------------------------------------------------


@pytest.fixture
def figures(monkeypatch):
    """Collect the figures that are shown."""
    found = []
    monkeypatch.setattr(attention_views, "show", lambda figure, alt: found.append(figure))
    yield found
    for figure in found:
        attention_views.plt.close(figure)


def test_heat_maps_show_queries_as_rows(figures):
    weights = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.5, 0.5]])
    panels = {"one": weights, "two": weights.flip(0)}
    attention_views.heat_maps(panels, ["Ġa", "$b$"], ["x", "y", "z"], alt="maps", numbers=True)
    (figure,) = figures
    one, two, _ = figure.axes
    assert [one.get_title(), two.get_title()] == ["one", "two"]
    assert [label.get_text() for label in one.get_yticklabels()] == ["a", r"\$b\$"]
    assert [label.get_text() for label in one.get_xticklabels()] == ["x", "y", "z"]
    np.testing.assert_allclose(one.images[0].get_array(), weights)
    np.testing.assert_allclose(two.images[0].get_array(), weights.flip(0))
    assert [text.get_text() for text in one.texts] == [
        "0.25",
        "0.75",
        "0.00",
        "0.00",
        "0.50",
        "0.50",
    ]
    figure.canvas.draw()


def test_heat_maps_leave_infinite_scores_grey(figures):
    scores = torch.tensor([[-1.0, float("-inf")], [2.0, float("nan")]])
    attention_views.heat_maps({"scores": scores}, "ab", alt="a map", limits=(-2, 2), numbers=True)
    (figure,) = figures
    assert figure.axes[0].images[0].get_array().mask.tolist() == [[False, True], [False, True]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["−1.00", "−∞", "2.00", "nan"]
    figure.canvas.draw()


# --- statistics ------------------------------------------------------------------------------


def test_statistics_of_heads_that_one_can_name():
    n_token = 6
    previous = torch.eye(n_token).roll(1, 0)
    previous[0] = torch.eye(n_token)[0]
    first = torch.zeros(n_token, n_token)
    first[:, 0] = 1
    even = torch.ones(n_token, n_token) / n_token
    layer = torch.stack([previous, first, torch.eye(n_token), even])[None]
    found = attention_views.head_statistics([layer])
    assert found["previous"][0].tolist() == pytest.approx([1, 1 / 5, 0, 1 / 6])
    assert found["first"][0].tolist() == pytest.approx([1 / 5, 1, 0, 1 / 6])
    assert found["last"][0].tolist() == pytest.approx([0, 0, 1 / 5, 1 / 6])
    assert found["self"][0].tolist() == pytest.approx([0, 0, 1, 1 / 6])
    assert found["distance"][0][:3].tolist() == pytest.approx([1, 3, 0])
    assert found["entropy"][0].tolist() == pytest.approx([0, 0, 0, np.log2(6)])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 9), st.integers(0, 99), st.booleans())
def test_statistics_agree_with_plain_loops(n_layer, n_head, n_token, seed, causal):
    weights = attentions(n_layer, n_head, n_token, seed, causal)
    found = attention_views.head_statistics(weights)
    layer, head = seed % n_layer, seed % n_head
    rows = weights[layer][0, head].double().numpy()
    queries = range(1, n_token)
    entropy = [-sum(w * np.log2(w) for w in rows[q] if w > 0) for q in queries]
    distance = [sum(w * abs(q - k) for k, w in enumerate(rows[q])) for q in queries]
    assert found["entropy"].shape == (n_layer, n_head)
    assert found["entropy"][layer, head] == pytest.approx(np.mean(entropy), abs=1e-6)
    assert found["distance"][layer, head] == pytest.approx(np.mean(distance), abs=1e-6)
    assert found["previous"][layer, head] == pytest.approx(
        np.mean([rows[q, q - 1] for q in queries])
    )
    assert found["first"][layer, head] == pytest.approx(np.mean([rows[q, 0] for q in queries]))


def test_statistics_need_two_tokens():
    with pytest.raises(ValueError, match="at least 2 tokens"):
        attention_views.head_statistics(attentions(n_token=1))
