"""The figure of vectors: its numbers against gensim's, and walking among the words."""

import numpy as np
import pytest
import torch

from course_utils import pretrained
from tests.live_tools import opening, put, state, write_alone
from tools import live_vectors

from _ext import course_live  # isort: skip

LIVE = "document.querySelector('figure.live').live"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    write_alone(folder, ["vectors"])
    return folder


@pytest.fixture
def opened(browser, site):
    with opening(browser, site) as open_one:
        yield open_one


@pytest.fixture(scope="module")
def keyed():
    """gensim's store of the very vectors that the page has."""
    models = pytest.importorskip("gensim.models", reason="gensim has no wheel for this Python")
    words, table = live_vectors.vectors()
    found = models.KeyedVectors(table.shape[1])
    found.add_vectors(words, table.astype(np.float32))
    return found


def becomes(page, what):
    page.wait_for_function(f"{LIVE}.get().{what}")


def agrees(shown, expected):
    assert [word for word, _ in shown] == [word for word, _ in expected]
    assert [c for _, c in shown] == pytest.approx([c for _, c in expected], abs=1e-5)


def test_the_stored_words_are_gloves_commonest_in_8_bits():
    pytest.importorskip("gensim", reason="gensim has no wheel for this Python")
    glove = pretrained.load_glove()
    words, rows, scales, _ = live_vectors.recorded()
    assert words == live_vectors.choose(glove)
    whole, sizes = course_live.rounded_rows(torch.tensor(glove[words]))
    assert np.array_equal(rows, whole) and np.array_equal(scales, sizes)


def test_on_the_map_neighbours_lie_together():
    words, table = live_vectors.vectors()
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    places = live_vectors.places()
    assert places.shape == (len(words), 2) and places.min() == 0 and places.max() == 1
    order = np.argsort(-(unit @ unit.T), axis=1)[:, 1]  # of each word its nearest
    to_nearest = np.linalg.norm(places - places[order], axis=1)
    to_any = np.linalg.norm(places - np.roll(places, 1, axis=0), axis=1)
    assert np.median(to_nearest) < 0.1 * np.median(to_any)


def test_it_begins_with_the_trap_and_asks_for_nothing(opened):
    page = opened("vectors")
    figure = page.locator("figure.live")
    assert figure.get_attribute("data-state") == "stored"
    assert state(page)["top"][0][0] == "queen"
    rule = page.get_by_label("the three words may not be the answer")
    rule.press("Space")
    becomes(page, "forbid === false")
    assert state(page)["top"][0][0] == "king"
    said = figure.locator("[role=status]").inner_text()
    assert "king − man + woman lies nearest to king" in said and "one of the three" in said
    assert "model/" not in " ".join(page.asked)
    stored = page.evaluate("JSON.stringify(live.stored.vectors).length")
    assert stored < 60_000 < live_vectors.data()["more"]["bytes"] < 300_000
    nameless = page.evaluate(
        """[...document.querySelectorAll('figure.live :is(button, input, [tabindex="0"])')]
           .filter((e) => !(e.ariaLabel || e.labels?.length || e.textContent.trim()))
           .map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert nameless == []


SUMS = (
    ("king", "man", "woman"),
    ("paris", "france", "italy"),
    ("hot", "cold", "small"),
    ("cat", "cat", "dog"),
    ("she", "he", "she"),
)


def test_neighbours_and_sums_are_gensims(opened, keyed):
    page = opened("vectors")
    agrees(state(page)["near"], keyed.most_similar("king", topn=8))  # from what is stored
    for a, b, c in SUMS:
        seen = put(page, word=a, a=a, b=b, c=c, forbid=False)
        agrees(seen["near"], keyed.most_similar(a, topn=8))
        every = keyed.similar_by_vector(keyed[a] - keyed[b] + keyed[c], topn=11)
        agrees(seen["top"], every[:8])
        others = [pair for pair in every if pair[0] not in (a, b, c)]
        agrees(put(page, forbid=True)["top"], others[:8])


def test_a_typed_word_comes_by_itself_and_is_undone_in_one(opened):
    page = opened("vectors")
    word = page.get_by_label("Word to look up")
    word.press("ControlOrMeta+a")
    word.press_sequentially("Banana")
    becomes(page, "word === 'banana'")
    assert page.locator("figure.live").get_attribute("data-state") == "ready"
    assert [word for word, _ in state(page)["near"][:2]] == ["bananas", "mango"]
    word.press("Enter")
    assert word.input_value() == "banana"
    again = opened("vectors", address=page.evaluate("location.hash"))
    becomes(again, "word === 'banana'")
    page.get_by_role("button", name="Undo").click()
    becomes(page, "word !== 'banana'")
    page.get_by_role("button", name="Reset").click()
    becomes(page, "word === 'king'")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("bannana", "banana"), ("knig", "king"), ("kings", "king"), ("monady", "monday")],
)
def test_a_word_that_is_not_there_is_said_and_near_spellings_are_offered(opened, typed, meant):
    page = opened("vectors")
    field = page.get_by_label("c, added")
    field.fill(typed)
    field.press("Enter")
    becomes(page, f"c === '{typed}'")
    assert state(page)["top"] == []
    said = page.locator("figure.live [role=status]").inner_text()
    assert f"“{typed}” is not among the words here. Did you mean {meant}" in said
    page.locator(".live-missing").get_by_role("button", name=meant, exact=True).click()
    becomes(page, f"c === '{meant}'")
    assert state(page)["top"]


def test_what_is_typed_is_never_markup(opened):
    page = opened("vectors")
    evil = '<img src=x onerror="window.evil=1">'
    seen = put(page, word=evil, a="", b=evil)
    assert seen["word"] == evil and seen["near"] == seen["top"] == []
    assert page.evaluate("window.evil === undefined")
    assert page.locator("figure.live img").count() == 0
    assert "A word is missing" in page.locator("figure.live [role=status]").inner_text()


def test_the_map_is_walked_by_keyboard_mouse_and_finger(opened):
    page = opened("vectors", touch=True)
    put(page, word="banana", zoom=2)
    map_, label = page.locator(".live-words"), page.locator(".live-under")
    map_.focus()
    assert label.text_content().startswith("banana")
    map_.press("ArrowDown")
    reached = label.text_content().split()[0]
    assert reached != "banana"
    said = page.locator("figure.live [role=status]").inner_text()
    assert said.startswith(f"{reached}, cosine") and said.endswith("with banana")
    map_.press("Enter")
    becomes(page, f"word === '{reached}'")
    map_.press("ArrowUp")
    assert label.text_content().split()[0] != reached

    put(page, word="banana")
    box = page.locator("circle.live-near").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    under = label.text_content().split()[0]
    assert under in [word for word, _ in state(page)["near"]]
    page.touchscreen.tap(x, y)
    becomes(page, f"word === '{under}'")


def test_vectors_that_do_not_come_are_a_sentence(opened):
    page = opened("vectors")
    page.evaluate("live.base += 'nowhere/'")
    page.get_by_role("button", name="doctor − man + woman").click()
    page.wait_for_selector("figure.live[data-state=error]")
    assert "is not beside this page" in page.locator("[role=alert]").inner_text()
    assert state(page)["a"] == "king"
    page.evaluate("live.base = live.base.replace('nowhere/', '')")
    page.get_by_role("button", name="Load the vectors").click()
    page.wait_for_selector("figure.live[data-state=ready]")
    page.get_by_role("button", name="doctor − man + woman").click()
    becomes(page, "a === 'doctor'")
    page.errors.clear()  # the browser itself reports the file that did not come
