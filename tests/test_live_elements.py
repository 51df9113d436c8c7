"""The living figures in a real browser: the contract of each, and its numbers against Python's."""

import json

import pytest
import torch
from PIL import Image

from course_utils import pretrained, sampling
from tests.live_tools import asked_to_draw, opening, put, state, write_figures
from tests.test_live import with_edits
from tools import live_masks, live_quantize

from _ext import course_live  # isort: skip

NAMES = tuple(
    name for name in course_live.STORED if name.partition("-")[0] not in course_live.WITHOUT_ENGINE
)
#: What `figure.live.get()` must tell, by element.
FIELDS = {
    "writer": {"text", "top"},
    "tokenizer": {"text", "gpt2", "chars", "wordpiece"},
    "attention": {"text", "tokens", "layer", "head", "weights"},
    "machine": {"text", "step", "layer", "top", "off"},
    "sampling": {"text", "temperature", "top_k", "top_p", "min_p", "top"},
    "quantize": {"text", "bits", "scale", "perplexity", "before", "written", "points"},
    "masks": {"text", "mask", "prefix", "losses", "means", "top", "top_at_place", "weights"},
}
EVIL = '<img src=x onerror="window.evil = 1"><script>window.evil = 1</script> a & b'


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    write_figures(folder)
    return folder


@pytest.fixture
def opened(browser, site):
    with opening(browser, site) as open_one:
        yield open_one


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
    assert figure.locator(".live-hint").inner_text()[-1] in ".?"
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
    page.locator(".live-load").click()
    page.wait_for_selector("figure.live[data-state=error]")
    assert "is not beside this page" in page.locator("[role=alert]").inner_text()
    assert page.locator(".live-load").is_visible(), "no way on"
    page.errors.clear()  # the browser itself reports the file that did not come


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_light_before_the_reader_asks(site, name):
    live = site / "_static" / "live"
    files = [f"{part}.js" for part in course_live.SCRIPTS]
    files += ["live.css", f"elements/{name}.js", f"elements/{name}.css"]
    weight = sum((live / file).stat().st_size for file in files)
    assert weight <= 60_000, f"scripts and styles: {weight}"
    assert (live / "stored" / f"{name}.js").stat().st_size <= 60_000


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


# --- the tokenizer --------------------------------------------------------------------------------------


def test_the_tokenizers_agree_with_python_from_the_first_letter_typed(opened):
    page = opened("tokenizer")
    gpt2, bert = pretrained.load_tokenizer("gpt2"), pretrained.load_tokenizer("bert")
    for text in (None, "weather Weather  WEATHER", "ภาษาไทย 👩‍🚀", "", "x = 1\n\ty"):
        if text is not None:
            page.get_by_label("Your text").fill(text)
            asked_to_draw(page, text)
        now = state(page)
        assert now["gpt2"] == gpt2.encode(now["text"])
        assert now["wordpiece"] == bert.encode(now["text"], add_special_tokens=False)
        assert now["chars"] == list(now["text"])


def test_the_merges_are_stepped_through_by_keyboard(opened):
    page = opened("tokenizer")
    stored = course_live.stored("tokenizer")["pieces"][3]
    slider = page.get_by_label("Merges done")
    slider.focus()
    page.keyboard.press("Home")
    for stage in stored["stages"]:
        shown = page.locator(".live-big .live-chip").all_inner_texts()
        assert shown == [course_live.visible(token) for token in stage["tokens"]]
        page.keyboard.press("ArrowRight")
    page.get_by_label("How GPT-2 puts together").select_option("1")
    assert page.locator(".live-big .live-chip").all_inner_texts() == ["·weather"]
    load(page)
    fresh = page.evaluate("(t) => live.engine.pieces(t)", course_live.stored("tokenizer")["text"])
    assert fresh == course_live.stored("tokenizer")["pieces"]


# --- sampling ---------------------------------------------------------------------------------------------

KNOBS = (
    {},
    {"temperature": 2},
    {"temperature": 0.5, "top_p": 0.9},
    {"top_k": 10, "repetition_penalty": 1.5},
    {"temperature": 2, "min_p": 0.1},
)


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_the_knobs_give_course_utils_distribution(opened, knobs):
    page = opened("sampling")
    model, gpt2 = course_live.mini()
    for loaded in (False, True):
        if loaded:
            load(page)
            put(page, text="The cat sat on the")
        now = put(page, **{**{"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}, **knobs})
        ids = torch.tensor([gpt2.encode(now["text"])])
        logits = model(ids).logits[:, -1]
        logits = sampling.penalize_repetition(logits, ids, knobs.get("repetition_penalty", 1))
        logits = sampling.scale_temperature(logits, knobs.get("temperature", 1))
        for name in ("top_k", "top_p", "min_p"):
            if name in knobs:
                logits = getattr(sampling, f"keep_{name}")(logits, knobs[name])
        expected = [[token, p] for token, p, _ in course_live.top_ten(logits[0], gpt2) if p]
        assert [token for token, _ in now["top"]] == [token for token, _ in expected]
        assert [p for _, p in now["top"]] == pytest.approx([p for _, p in expected], rel=5e-3)


def test_sliders_obey_keys_and_are_undone_in_one(opened):
    page = opened("sampling")
    slider = page.get_by_role("slider", name="temperature")
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('figure.live').live.get().temperature === 1.2")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("document.querySelector('figure.live').live.get().temperature === 1")


def test_draws_come_from_what_is_left(opened):
    page = opened("sampling")
    put(page, top_k=3)
    page.get_by_role("button", name="Draw 100").click()
    page.wait_for_function("document.querySelector('.live-drawn').textContent")
    counts = page.locator(".live-top .live-p").all_inner_texts()
    assert sum(int(text[1:]) for text in counts if text.startswith("×")) == 100
    assert all(text == "out" for text in counts[3:])


# --- attention ----------------------------------------------------------------------------------------------


def test_the_weights_are_pytorchs(opened):
    page = opened("attention")
    model, gpt2 = course_live.mini()
    for text, layer, head in ((None, 2, 1), (None, 5, 3), ("The cat sat on the mat", 0, 2)):
        if text:
            load(page)
        now = put(page, layer=layer, head=head, **({"text": text} if text else {}))
        ids = gpt2.encode(now["text"])
        theirs = model(torch.tensor([ids]), output_attentions=True).attentions[layer][0, head]
        assert now["tokens"] == [gpt2.decode([id_]) for id_ in ids]
        assert torch.tensor(now["weights"]) == pytest.approx(theirs, abs=1e-3)


def test_without_the_mask_a_word_sees_what_comes_later(opened):
    page = opened("attention")
    load(page)
    weights = torch.tensor(state(page)["weights"])
    assert weights.triu(1).abs().max() == 0
    page.get_by_label("causal mask").uncheck()
    page.wait_for_function("document.querySelector('figure.live').live.get().causal === false")
    weights = torch.tensor(state(page)["weights"])
    assert weights.triu(1).max() > 0.01 and weights.sum(1) == pytest.approx(1)


def test_a_word_and_a_head_are_chosen_by_touch_and_keyboard(opened):
    page = opened("attention", touch=True, width=390)
    page.locator(".live-asker").nth(3).tap()
    page.wait_for_function("document.querySelector('figure.live').live.get().query === 3")
    page.get_by_role("button", name="block 0, head 0").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('figure.live').live.get().layer === 1")
    assert state(page)["head"] == 1


# --- the machine ----------------------------------------------------------------------------------------------


def test_the_machine_predicts_what_pytorch_does_with_parts_off(opened):
    page = opened("machine")
    model, gpt2 = course_live.mini()
    agrees(state(page)["top"], predicted("The weather is"))
    load(page)
    put(page, text="The cat sat on the")
    page.get_by_role("button", name="head 1 of block 2, on").press("Enter")
    page.get_by_role("button", name="MLP of block 4, on").click()
    page.wait_for_function("document.querySelector('figure.live').live.get().off.mlps.length")
    now = state(page)
    assert now["off"] == {"heads": [[2, 1]], "mlps": [4]}
    logits = with_edits(model, gpt2.encode(now["text"]), heads=[[2, 1]], mlps=[4])
    agrees(now["top"], [(token, p) for token, p, _ in course_live.top_ten(logits, gpt2)])
    assert "2 parts off" in page.locator(".live-said").inner_text()
    page.get_by_role("button", name="Switch everything on").click()
    page.wait_for_function("!document.querySelector('figure.live').live.get().off.mlps.length")
    agrees(state(page)["top"], predicted("The cat sat on the"))


def test_every_step_is_drawn_from_the_stored_trace_and_its_numbers_can_be_read(opened):
    page = opened("machine")
    steps = course_live.listen(course_live.stored("machine")["ids"])
    slider = page.get_by_role("slider", name="Step")
    slider.focus()
    page.keyboard.press("Home")
    names = []
    for _ in range(17):
        names.append(state(page)["name"])
        if names[-1] == "after attention":
            page.locator(".live-tensor canvas").press("ArrowRight")
            read = page.locator(".live-readout").inner_text()
            expected = (steps[0, "block in"] + steps[0, "attention"])[0, 1].item()
            assert float(read.split(": ")[1].replace("−", "-")) == pytest.approx(expected, rel=0.02)
            slider.focus()
        page.keyboard.press("ArrowRight")
    assert names[0] == "ids" and names[-1] == "chances" and len(set(names)) == 17


def test_blocks_and_heads_are_reached_by_touch(opened):
    page = opened("machine", touch=True, width=390)
    page.get_by_role("button", name="3 attention").tap()
    page.wait_for_function("document.querySelector('figure.live').live.get().layer === 3")
    page.get_by_role("button", name="head 0 of block 3, on").tap()
    page.wait_for_selector(".live-asks")
    load(page)
    page.wait_for_function("document.querySelector('figure.live').live.get().off.heads.length")
    assert state(page)["off"]["heads"] == [[3, 0]]


# --- masks ------------------------------------------------------------------------------------------------------


def test_a_prefix_lies_between_the_causal_and_the_full_mask():
    assert live_masks.prefix_mask(3, 1).tolist() == torch.ones(3, 3).tril().bool().tolist()
    assert live_masks.prefix_mask(3, 2).int().tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    assert live_masks.prefix_mask(3, 3).all()


@pytest.mark.parametrize("text", [None, "My sister opened the old box, and found a key"])
def test_each_masks_losses_predictions_and_weights_are_pytorchs(opened, text):
    page = opened("masks")
    model, gpt2 = course_live.mini()
    if text:
        load(page)
        put(page, text=text)
    ids = gpt2.encode(state(page)["text"])
    cut = live_masks.cut_losses(model, ids)
    for mask, prefix in (("causal", 1), ("full", len(ids)), ("prefix", 2), ("prefix", 6)):
        now = put(page, mask=mask, prefix=max(prefix, 2), place=3, layer=2, head=1)
        logits, losses, weights = live_masks.read(model, ids, prefix)
        assert now["losses"] == pytest.approx(losses.tolist(), abs=1e-3)
        hidden = torch.cat([cut[: prefix - 1], losses[prefix - 1 :]])
        assert now["means"][mask]["seen"] == pytest.approx(losses.mean().item(), abs=1e-3)
        assert now["means"][mask]["hidden"] == pytest.approx(hidden.mean().item(), abs=1e-3)
        for name, place in (("top", -1), ("top_at_place", 3)):
            agrees(now[name], [pair[:2] for pair in course_live.top_ten(logits[place], gpt2)[:5]])
        assert torch.tensor(now["weights"]) == pytest.approx(weights[2, 1], abs=3e-3)
        mean = put(page, layer=-1)["weights"]
        assert torch.tensor(mean) == pytest.approx(weights.mean((0, 1)), abs=3e-3)
        if mask == "causal":
            assert now["means"]["causal"]["seen"] == now["means"]["causal"]["hidden"]


def test_masks_and_places_are_chosen_by_keyboard_mouse_and_touch(opened):
    page = opened("masks")
    page.get_by_role("button", name="full", exact=True).press("Enter")
    page.wait_for_function("document.querySelector('figure.live').live.get().mask === 'full'")
    assert page.locator("circle.live-answer").count() == len(state(page)["tokens"]) - 1
    assert "9 of 9 places" in page.locator(".live-said").inner_text()
    page.get_by_role("slider", name="prefix length").press("ArrowRight")
    page.wait_for_function("document.querySelector('figure.live').live.get().prefix === 5")
    assert state(page)["mask"] == "prefix"
    page.locator(".live-column").nth(2).click()
    page.wait_for_function("document.querySelector('figure.live').live.get().prefix === 3")
    assert page.locator("circle.live-answer").count() == 2
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("document.querySelector('figure.live').live.get().prefix === 5")
    page.get_by_label("Whose attention weights").select_option("block 1, head 2")
    page.wait_for_function("document.querySelector('figure.live').live.get().head === 2")

    phone = opened("masks", touch=True, width=390)
    phone.locator(".live-place").nth(1).tap()
    phone.wait_for_function("document.querySelector('figure.live').live.get().place === 1")
    phone.locator(".live-mask g").nth(4).tap()
    phone.wait_for_function("document.querySelector('figure.live').live.get().place === 4")


def test_one_token_has_nothing_to_mask(opened):
    page = opened("masks")
    load(page)
    now = put(page, text="", mask="prefix", prefix=9)
    assert now["means"]["full"]["seen"] is None and now["prefix"] == 1
    agrees(now["top"], predicted("<|endoftext|>", 5))
    assert put(page, text="word " * 40, place=99)["place"] == 15
    assert "are left out" in page.locator(".live-said").inner_text()


# --- quantize ---------------------------------------------------------------------------------------------------


def test_fewer_bits_are_first_shown_from_the_store_and_the_curve_fills_in(opened):
    page = opened("quantize")
    known = course_live.stored("quantize")["results"]
    slider = page.get_by_role("slider", name="bits a weight")
    slider.press("ArrowLeft")
    page.wait_for_function("document.querySelector('figure.live').live.get().bits === 3")
    slider.press("Home")
    page.wait_for_function("document.querySelector('figure.live').live.get().bits === 2")
    page.get_by_label("Scales").select_option("matrix")
    page.wait_for_function("document.querySelector('figure.live').live.get().scale === 'matrix'")
    now = state(page)
    keys = ("8 row", "4 row", "3 row", "2 row", "2 matrix")
    assert [f"{bits} {scale}" for bits, scale, _ in now["points"]] == [*keys]
    assert [value for *_, value in now["points"]] == [known[key]["perplexity"] for key in keys]
    assert now["written"] == known["2 matrix"]["likeliest"]
    assert page.locator("figure.live circle[class^=live-point]").count() == len(keys)
    assert page.locator(".live-writing").nth(1).text_content() == "…" + "".join(now["written"])
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("document.querySelector('figure.live').live.get().scale === 'row'")


def test_perplexity_and_texts_are_pytorchs_on_the_same_rounded_weights(opened):
    page = opened("quantize")
    _, gpt2 = course_live.mini()
    known = course_live.stored("quantize")
    load(page)
    for bits, scale, draws in ((8, "row", False), (4, "row", True), (3, "matrix", False)):
        now = put(page, bits=bits, scale=scale, draws=draws)
        found = known["results"][f"{bits} {scale}"]
        assert now["perplexity"] == pytest.approx(found["perplexity"], rel=2e-3)
        assert now["before"] == pytest.approx(known["results"]["8 row"]["perplexity"], rel=2e-3)
        assert now["written"] == found["drawn" if draws else "likeliest"]
    now = put(page, text="The cat sat on the mat.", bits=3, scale="row")
    expected = live_quantize.perplexity(
        course_live.with_bits(3), gpt2.encode("The cat sat on the mat.")
    )
    assert now["perplexity"] == pytest.approx(expected, rel=2e-3)
    assert put(page, text="")["perplexity"] is None


def test_a_file_of_eight_bits_has_the_size_of_the_models_file():
    shapes = [(1000, 8), (8,)]
    assert live_quantize.size(shapes, 8, "row") == 8000 + 4 * 1000 + 4 * 8
    assert live_quantize.size(shapes, 3, "matrix") == 3000 + 4 + 4 * 8
    told = course_live.stored("quantize")["bytes"]["row"][-1]
    whole = len(course_live.model_file(course_live.mini()[0]))
    assert told == pytest.approx(whole, rel=1e-3)
