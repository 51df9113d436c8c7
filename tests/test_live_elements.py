"""The living figures in a real browser: the contract of each, and its numbers against Python's."""

import json

import pytest
import torch

from tests.live_tools import asked_to_draw, open_figure, write_figures

from _ext import course_live  # isort: skip

NAMES = tuple(course_live.STORED)
#: What `figure.live.get()` must tell, by element.
FIELDS = {
    "writer": {"text", "top"},
    "tokenizer": {"text", "gpt2", "chars", "wordpiece"},
    "attention": {"text", "tokens", "layer", "head", "weights"},
    "machine": {"text", "step", "layer", "top", "off"},
    "sampling": {"text", "temperature", "top_k", "top_p", "min_p", "top"},
}
EVIL = '<img src=x onerror="window.evil = 1"><script>window.evil = 1</script> a & b'


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    write_figures(folder)
    return folder


@pytest.fixture
def opened(browser, site):
    """Open an element's page from its folder; `errors` of the visit must stay empty."""
    pages = []

    def open_one(name, **options):
        pages.append(open_figure(browser, site, name, **options))
        return pages[-1]

    yield open_one
    for page in pages:
        assert page.errors == []
        page.context.close()


def state(page):
    return page.evaluate("document.querySelector('figure.live').live.get()")


def put(page, **changes):
    page.evaluate("(c) => document.querySelector('figure.live').live.set(c)", changes)
    return state(page)


def load(page):
    page.evaluate("document.querySelector('figure.live').live.load()")
    page.wait_for_selector("figure.live[data-state=ready]")


def predicted(text, k=10):
    """Return PyTorch's likeliest tokens after a text, [(token, p)]."""
    model, gpt2 = course_live.mini()
    logits = model(torch.tensor([gpt2.encode(text)])).logits[0, -1]
    return [(token, p) for token, p, _ in course_live.top_ten(logits, gpt2)[:k]]


def agrees(top, expected):
    assert [token for token, _ in top] == [token for token, _ in expected]
    assert [p for _, p in top] == pytest.approx([p for _, p in expected], abs=1e-4)


# --- the contract, for all -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_it_shows_a_stored_beginning_and_asks_for_nothing(opened, name):
    page = opened(name)
    figure = page.locator("figure.live")
    assert figure.get_attribute("data-state") == "stored"
    assert figure.locator("figcaption").inner_text()
    assert figure.locator(".live-hint").inner_text().endswith(".")
    assert set(state(page)) >= FIELDS[name]
    assert page.evaluate("!live.engine.worker")
    assert "model/" not in " ".join(page.asked)


@pytest.mark.parametrize("name", NAMES)
def test_every_control_has_a_name_and_text_stays_text(opened, name):
    page = opened(name)
    load(page)
    put(page, text=EVIL)
    assert state(page)["text"] == EVIL
    assert page.evaluate("window.evil === undefined")
    assert page.locator("figure.live img").count() == 0
    nameless = page.evaluate(
        """[...document.querySelectorAll('figure.live :is(button, input, select, textarea, [tabindex="0"])')]
           .filter((e) => !(e.ariaLabel || e.getAttribute('aria-labelledby') || e.labels?.length ||
             e.textContent.trim() || e.title)).map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert nameless == []
    assert page.locator("figure.live [role=status]").inner_text()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_needs_no_sideways_scrolling(opened, name, width):
    page = opened(name, width=width, touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.evaluate(
        """[...document.querySelectorAll('figure.live :is(button, select)')].filter((e) => e.offsetHeight &&
           e.offsetHeight < 24).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert small == []


@pytest.mark.parametrize("name", NAMES)
def test_undo_reset_and_the_address(opened, site, name):
    page = opened(name)
    start = state(page)
    load(page)
    put(page, text="The cat sat on")
    assert state(page)["text"] == "The cat sat on"
    address = page.evaluate("location.hash")
    assert f"live={name}" in address
    page.get_by_role("button", name="Undo").click()
    asked_to_draw(page, start["text"])
    put(page, text="Another text")
    page.get_by_role("button", name="Reset").click()
    asked_to_draw(page, start["text"])

    again = opened(name, address=address)
    assert state(again)["text"] == start["text"] or name == "tokenizer"
    load(again)
    asked_to_draw(again, "The cat sat on")


@pytest.mark.parametrize("name", NAMES)
def test_the_address_may_hold_anything(opened, name):
    for address in (
        "#live=%s&text=%%00&layer=99&head=-1&step=1e9&written=[[1]]&branches=7",
        "#live=%s&off={}&knobs=3",
    ):
        page = opened(name, address=address % name)
        assert state(page)["text"]


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_of_it_can_be_saved(opened, name, tmp_path):
    page = opened(name)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save picture").click()
    assert download.value.suggested_filename == f"{name}.png"
    download.value.save_as(tmp_path / "picture.png")
    from PIL import Image

    picture = Image.open(tmp_path / "picture.png")
    assert picture.width > 900 and len(set(picture.convert("L").resize((200, 200)).getdata())) > 20


@pytest.mark.parametrize("name", NAMES)
def test_without_javascript_and_on_paper_it_stands(opened, name):
    page = opened(name, javascript=False)
    assert page.locator("figure.live .live-still").inner_text().strip()
    paper = opened(name)
    paper.emulate_media(media="print")
    assert not paper.locator(".live-tools").is_visible()
    assert paper.locator("figcaption").is_visible()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_model_is_a_sentence_in_the_figure(opened, name):
    page = opened(name)
    page.evaluate("live.base += 'nowhere/'")
    page.get_by_role("button", name="Load GPT-2 mini").click()
    page.wait_for_selector("figure.live[data-state=error]")
    assert "is not beside this page" in page.locator("[role=alert]").inner_text()
    assert page.get_by_role("button", name="Load GPT-2 mini").is_visible(), "no way on"
    page.errors.clear()  # the browser itself reports the file that did not come


def test_the_stored_beginnings_are_light(site):
    live = site / "_static" / "live"
    for name in NAMES:
        stored = (live / "stored" / f"{name}.js").stat().st_size
        assert stored <= 150_000, name
        scripts = [f"{part}.js" for part in course_live.ENGINE]
        scripts += ["assets.js", "live.css", f"elements/{name}.js"]
        weight = stored + sum((live / script).stat().st_size for script in scripts)
        assert weight <= 150_000, (name, weight)


# --- the writer ---------------------------------------------------------------------------------------


def test_the_writers_stored_beginning_is_the_models(opened):
    page = opened("writer")
    for _ in range(3):
        now = state(page)
        agrees(now["top"], predicted(now["text"]))
        page.locator(".live-top button").first.click()
        page.wait_for_function(
            "(n) => document.querySelector('figure.live').live.get().written.length > n",
            arg=len(now["written"]),
        )
    assert state(page)["text"].startswith("Once upon a time, there was a little girl")
    assert page.locator("figure.live").get_attribute("data-state") == "stored"


def test_the_writer_goes_on_and_back_and_takes_another_branch_by_keyboard(opened):
    page = opened("writer")
    load(page)
    put(page, text="The weather is")
    agrees(state(page)["top"], predicted("The weather is"))
    page.locator(".live-top button").nth(1).focus()
    page.keyboard.press("Enter")
    asked_to_draw(page, "The weather is not")
    agrees(state(page)["top"], predicted("The weather is not"))
    page.get_by_role("button", name="One token back").press("Enter")
    asked_to_draw(page, "The weather is")
    page.locator(".live-top button").first.press("Enter")
    asked_to_draw(page, "The weather is a")
    page.locator(".live-branch").press("Enter")
    asked_to_draw(page, "The weather is not")


def test_the_writer_writes_by_itself_and_can_be_stopped(opened):
    page = opened("writer", touch=True, width=390)
    page.get_by_role("button", name="Let it write").tap()
    page.wait_for_selector("figure.live[data-state=running]")
    page.wait_for_function("document.querySelector('figure.live').live.get().written.length > 3")
    page.get_by_role("button", name="Stop", exact=True).tap()
    page.wait_for_selector("figure.live[data-state=stored]")
    load(page)
    put(page, text="The cat", draws=False)
    page.get_by_role("button", name="Let it write").tap()
    page.wait_for_function("document.querySelector('figure.live').live.get().written.length > 5")
    page.get_by_role("button", name="Stop", exact=True).tap()
    written = state(page)["written"]
    model, gpt2 = course_live.mini()
    greedy = model.generate(
        torch.tensor([gpt2.encode("The cat")]), max_new_tokens=6, do_sample=False, pad_token_id=0
    )
    assert [id_ for _, id_ in written[:6]] == greedy[0, -6:].tolist()


def test_typing_waits_for_the_model_and_is_kept(opened):
    page = opened("writer")
    page.get_by_label("The beginning").fill("My own words")
    page.wait_for_selector(".live-asks")
    assert state(page)["text"] != "My own words"
    page.get_by_role("button", name="Load GPT-2 mini").click()
    asked_to_draw(page, "My own words")
    agrees(state(page)["top"], predicted("My own words"))
    assert json.loads(json.dumps(state(page)))
