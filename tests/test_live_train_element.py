"""The element "train" in Chromium, opened from a file: mouse, keyboard, touch, faults."""

import itertools
import json

import pytest

from course_utils.corpora import load_text
from tests.live_tools import write_figures
from tools import live_train

GET = "document.querySelector('figure.live').live.get()"
STATE = "document.querySelector('figure.live').dataset.state"
SET = "(fields) => document.querySelector('figure.live').live.set(fields)"
ENDED = f"() => !{GET}.running && {STATE} === 'ready'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_figures(folder)
    return folder


@pytest.fixture
def visit(browser, folder):
    """A function that opens the page in a context of its own; no page may raise an error."""
    contexts, errors = [], []

    def open_page(hash_="", width=1100, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((folder / "train.html").as_uri() + hash_)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


def run_steps(page, count, **settings):
    page.evaluate(SET, {**settings, "running": True, "steps": count})
    page.wait_for_function(ENDED, timeout=120_000)
    return page.evaluate(GET)


def test_the_first_paint_is_the_stored_run_and_small(visit, folder):
    page = visit()
    stored = json.loads(live_train.STORED.read_text(encoding="utf-8"))
    found, last = page.evaluate(GET), stored["measures"][-1]
    assert page.evaluate(STATE) == "stored" and found["stored"] and not found["running"]
    assert found["step"] == stored["steps"] and found["val_loss"] == last["valLoss"]
    assert page.locator(".live-sample:visible").inner_text().strip() == last["sample"].strip()
    assert page.evaluate("globalThis.courseTraining") is None  # nothing big before it is asked for
    live = folder / "_static" / "live"
    asked = ("live.js", "shell.js", "live.css", "elements/train.js", "elements/train.css")
    assert sum((live / name).stat().st_size for name in asked) <= 60_000
    assert (live / "stored" / "train.js").stat().st_size < 20_000
    assert last["valLoss"] < live_train.lines()[1]["loss"]  # the stored run passes the trigram


def test_the_lines_are_the_chapters_counts(folder):
    losses = {line["name"]: line["loss"] for line in live_train.lines()}
    assert losses == pytest.approx({"bigram": 2.53, "trigram": 2.11, "4-gram": 1.84}, abs=0.01)


def test_the_stored_run_is_one_of_this_engine(browser):
    stored = json.loads(live_train.STORED.read_text(encoding="utf-8"))
    page = browser.new_page()
    found = page.evaluate(
        """([engine, text, steps]) => {
          const source = engine.replace(/^export /gm, "").split("// What train.js does beside")[0];
          const Training = new Function(`${source}; return Training;`)();
          const run = new Training(text, {}), losses = {};
          for (let i = 0; i <= 30; i++) {
            losses[i] = run.validate(8192);
            run.step(i / steps);
          }
          return losses;
        }""",
        [live_train.engine(), load_text("shakespeare"), stored["steps"]],
    )
    page.close()
    early = [m for m in stored["measures"] if m["step"] <= 30]
    assert len(early) > 5
    for measure in early:
        assert found[str(measure["step"])] == pytest.approx(measure["valLoss"], abs=1e-3)


def test_a_run_of_fixed_steps_learns_and_is_the_same_again(visit):
    page = visit()
    first = run_steps(page, 60)
    assert first["step"] == 60 and first["runs"] == 2 and not first["stored"]
    assert first["val_loss"] < 2.9 and first["seconds"] > 0 and len(first["sample"]) == 240
    again = run_steps(page, 60)
    assert again["runs"] == 3
    assert again["val_loss"] == first["val_loss"] and again["sample"] == first["sample"]
    adam = run_steps(page, 30, optimizer="adam", size="medium", rate=0.5)
    assert adam["val_loss"] != first["val_loss"] and adam["optimizer"] == "adam"
    assert "Adam × ½, 48 wide, 1 block" in page.locator(".live-chart").text_content()
    assert "#live=train&size=medium&optimizer=adam&rate=0.5" in page.url


def test_pause_and_go_on_by_keyboard_while_the_page_stays_quick(visit):
    page = visit()
    page.locator(".live-main").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => {GET}.step > 5 && {GET}.running", timeout=60_000)
    gaps = page.evaluate("""() => new Promise((resolve) => {
      const times = [];
      const tick = (now) => { times.push(now) < 90 ? requestAnimationFrame(tick) : resolve(times); };
      requestAnimationFrame(tick);
    })""")
    gaps = sorted(b - a for a, b in itertools.pairwise(gaps))
    assert gaps[len(gaps) // 2] <= 20  # milliseconds: 50 frames a second
    page.keyboard.press("Enter")
    page.wait_for_function(ENDED)
    assert page.locator(".live-main").inner_text() == "Go on"
    paused = page.evaluate(GET)["step"]
    page.wait_for_timeout(300)
    assert page.evaluate(GET)["step"] == paused
    assert f"Paused at step {paused}" in page.locator(".live-said").inner_text()
    page.evaluate(SET, {"running": True})
    page.wait_for_function(f"(step) => {GET}.step > step", arg=paused)
    page.evaluate(SET, {"running": False})
    assert not page.evaluate(GET)["running"]
    page.get_by_role("button", name="Reset").click()
    assert page.evaluate(GET)["stored"] and page.evaluate(GET)["runs"] == 1


def test_the_learning_rate_can_be_changed_while_it_runs(visit):
    page = visit()
    page.evaluate(SET, {"running": True})
    page.wait_for_function(f"() => {GET}.step > 25", timeout=60_000)
    page.get_by_label("Learning rate").select_option("0.125")
    assert "Muon × 1 → × ⅛, 32 wide" in page.locator(".live-chart").text_content()
    page.get_by_label("Learning rate").select_option("2")
    assert "Muon × 1 → × 2, 32 wide" in page.locator(".live-chart").text_content()
    page.evaluate(SET, {"running": False})
    page.get_by_label("Learning rate").select_option("4")  # nothing has been trained with it yet
    assert "× 4" not in page.locator(".live-chart").text_content()
    assert page.evaluate(GET)["rate"] == 4


def test_the_slider_looks_back_over_the_run(visit):
    page = visit()
    slider = page.get_by_label("Look back over the run")
    slider.focus()
    page.keyboard.press("Home")
    assert page.evaluate(GET)["looking_at"] == 0
    assert "At step 0 it writes" in page.locator(".live-about").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(GET)["looking_at"] == 1
    page.locator(".live-chart-place").click(position={"x": 300, "y": 100})
    assert 800 < page.evaluate(GET)["looking_at"] < 2600
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("(step) => " + GET + ".looking_at > step", arg=2000)
    page.get_by_role("button", name="Stop").click()


def test_the_address_brings_the_settings_and_no_nonsense(visit):
    found = visit("#live=train&size=large&rate=8&optimizer=%3Cb%3E&seconds=9").evaluate(GET)
    assert (found["size"], found["rate"]) == ("large", 8)
    assert (found["optimizer"], found["seconds"]) == ("muon", 60)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"optimizer": "sgd"}, "optimizer=sgd: expected one of muon, adam"),
        ({"rate": 3}, "rate=3: expected one of"),
        ({"speed": 3}, "speed=3: expected no field of train"),
    ],
)
def test_a_setting_that_there_is_not_is_refused(visit, fields, sentence):
    with pytest.raises(Exception, match=sentence):
        visit().evaluate(SET, fields)


def test_a_text_that_does_not_arrive_is_a_sentence_with_a_way_on(visit, folder):
    text = folder / "_static" / "live" / "model" / "train-text.js"
    text.rename(folder / "away.js")
    try:
        page = visit()
        page.locator(".live-main").click()
        page.wait_for_function(f"() => {STATE} === 'error'")
        assert "did not arrive" in page.get_by_role("alert").inner_text()
    finally:
        (folder / "away.js").rename(text)
    page.locator(".live-main").click()
    page.wait_for_function(f"() => {GET}.step > 2", timeout=60_000)
    assert page.get_by_role("alert").count() == 0


def test_a_worker_that_dies_is_a_sentence_with_a_way_on(visit):
    page = visit()
    page.evaluate("document.querySelector('figure.live').live.load()")
    page.evaluate("courseTraining.right = courseTraining.engine")
    page.evaluate("courseTraining.engine += '; onmessage = () => { nothingOfThatName(); };'")
    page.locator(".live-main").click()
    page.wait_for_function(f"() => {STATE} === 'error'")
    assert "broke off" in page.get_by_role("alert").inner_text()
    page.evaluate("courseTraining.engine = courseTraining.right")
    assert run_steps(page, 3)["step"] == 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone_by_touch_in_both_themes(visit, theme):
    page = visit(width=360, has_touch=True, is_mobile=True, reduced_motion="reduce")
    page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_label("Optimizer").select_option("adam")
    page.locator(".live-main").tap()
    page.wait_for_function(f"() => {GET}.step > 2", timeout=60_000)
    page.locator(".live-main").tap()
    page.wait_for_function(ENDED)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.evaluate(
        "[...document.querySelectorAll('.live-button, select')].filter((e) => e.offsetHeight && e.offsetHeight < 36).length"
    )
    assert small == 0


def test_a_picture_of_the_state_can_be_saved(visit):
    page = visit()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save picture").click()
    assert download.value.suggested_filename == f"training-step-{live_train.STEPS}.png"
    content = download.value.path().read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 20_000


def test_without_javascript_and_on_paper_the_stored_run_stands(visit):
    page = visit(java_script_enabled=False)
    assert page.locator(".live-still .live-chart").is_visible()
    assert "trigram" in page.locator(".live-still .live-chart").text_content()
    assert page.locator(".live-still .live-sample").is_visible()
    page = visit()
    page.emulate_media(media="print")
    assert page.locator(".live-chart").is_visible()
    assert not page.locator(".live-main").is_visible()
    assert page.locator("figcaption").is_visible()
