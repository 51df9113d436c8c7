"""The living figures that compute by themselves, without a model."""

import re

import pytest
import torch
from PIL import Image

from course_checks import exercises
from tests.live_tools import ROOT, opening, put, state, write_alone
from tools import live_diagnosis, live_positions, live_ring, live_scaling

from _ext import course_live  # isort: skip

NAMES = ("positions", "scaling", "ring", *(f"diagnosis-{key}" for key in live_diagnosis.homework()))
FIGURE = "document.querySelector('figure.live').live"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    write_alone(folder, [*NAMES, "vectors"])
    return folder


@pytest.fixture
def opened(browser, site):
    with opening(browser, site) as open_one:
        yield open_one


def becomes(page, what):
    page.wait_for_function(f"{FIGURE}.get().{what}")


# --- the contract --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_it_is_ready_at_once_and_loads_nothing(opened, name):
    page = opened(name)
    figure = page.locator("figure.live")
    assert figure.get_attribute("data-live") == name.partition("-")[0]
    page.wait_for_selector("figure.live[data-state=ready]")
    assert figure.locator("figcaption").inner_text()
    assert figure.locator("[role=status]").inner_text()
    assert not figure.locator(".live-load").is_visible()
    assert "model/" not in " ".join(page.asked)
    nameless = page.evaluate(
        """[...document.querySelectorAll('figure.live :is(button, input, select)')]
           .filter((e) => e.offsetHeight && !(e.ariaLabel || e.labels?.length || e.textContent.trim()))
           .map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert nameless == []


@pytest.mark.parametrize("name", ["positions", "scaling", "vectors", "ring", "diagnosis-hw2"])
def test_it_fits_a_phone_paper_and_a_page_without_javascript(opened, name, tmp_path):
    phone = opened(name, width=360, touch=True)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    small = phone.evaluate(
        """[...document.querySelectorAll('figure.live :is(button, select)')]
           .filter((e) => e.offsetHeight && e.offsetHeight < 24).map((e) => e.textContent)"""
    )
    assert small == []
    still = opened(name, javascript=False)
    assert still.locator("figure.live .live-still").inner_text().strip()
    phone.emulate_media(media="print")
    assert not phone.locator(".live-tools").is_visible()
    page = opened(name)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save picture").click()
    download.value.save_as(tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").width > 900


@pytest.mark.parametrize("name", ["positions", "scaling", "vectors", "ring", "diagnosis-hw3"])
def test_the_address_may_hold_anything(opened, name):
    element = name.partition("-")[0]
    for rest in (
        "&a=99&b=-3&kind=x&base=0&exercise=77&answer=1e9&shown=7&sizes=[9]&lengths=x&word=%00&zoom=1e9&forbid=3"
        "&workers=99&step=-1&stages=x&microbatches=1e9&view=7",
        "&a={}&exercise=[]&sizes={}&word=[1]&zoom=x&step={}&schedule=[]",
    ):
        assert state(opened(name, address=f"#live={element}{rest}"))


@pytest.mark.parametrize("page", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_all_figures_of_a_page_are_light_together(page):
    names = set(re.findall(r'data-live=\\"(\w+)', page.read_text(encoding="utf-8")))
    alone = names <= set(course_live.WITHOUT_ENGINE)
    frame = course_live.FRAME if alone else set(course_live.SCRIPTS) - {"assets"}  # a built table
    files = [f"{part}.js" for part in frame] + ["live.css"]
    files += [f"elements/{name}.{kind}" for name in names for kind in ("js", "css")]
    assert sum((ROOT / "live" / file).stat().st_size for file in files) <= 60_000


# --- positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sinusoidal", "rotary", "alibi"])
def test_scores_at_all_pairs_of_places_are_the_courses(opened, kind):
    page = opened("positions")
    for changes in ({}, {"base": 100}, {"head": 6}):
        seen = put(page, kind=kind, **changes)
        shown = course_live.stored("positions") | {key: seen[key] for key in ("base", "head")}
        expected = live_positions.scores_of_pairs(shown, kind)
        torch.testing.assert_close(
            torch.tensor(seen["scores"], dtype=torch.float64), expected, rtol=0, atol=1e-9
        )
        assert seen["score"] == seen["scores"][seen["a"]][seen["b"]]


def test_only_the_distance_counts_is_said_where_it_is_true(opened):
    page = opened("positions")
    said = page.locator("figure.live [role=status]")
    for kind, only in (("sinusoidal", False), ("rotary", True), ("alibi", True)):
        before = put(page, kind=kind, a=20, b=12)
        page.get_by_role("button", name="Move both →").click()
        becomes(page, "a === 21")
        assert (abs(state(page)["score"] - before["score"]) < 1e-9) == only
        assert ("only the distance counts" in said.inner_text()) == only


def test_places_are_chosen_by_mouse_keyboard_and_finger(opened):
    page = opened("positions", touch=True)
    page.get_by_label("Query's place").press("ArrowRight")
    becomes(page, "a === 21")
    box = page.locator(".live-map").bounding_box()
    cell = box["width"] / 32
    page.mouse.click(box["x"] + 3.5 * cell, box["y"] + 9.5 * cell)
    becomes(page, "b === 3")
    assert state(page)["a"] == 9
    page.touchscreen.tap(box["x"] + 30.5 * cell, box["y"] + 30.5 * cell)
    becomes(page, "b === 30")
    address = page.evaluate("location.hash")
    again = opened("positions", address=address)
    becomes(again, "b === 30")
    assert state(again) == state(page)
    page.get_by_role("button", name="Reset").click()
    becomes(page, "b === 12")


# --- scaling -------------------------------------------------------------------------------------


def test_the_law_is_the_one_that_scipy_finds(opened):
    page, stored = opened("scaling"), live_scaling.data()
    for sizes, lengths in (([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4]), ([0, 1, 2, 3], [0, 1, 2, 3, 4]), ([1, 3, 5], [0, 2, 4])):  # fmt: skip
        seen = put(page, sizes=sizes, lengths=lengths)
        expected = live_scaling.fit(stored, sizes, lengths)
        assert seen["fitted"] == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_a_law_is_judged_on_what_it_has_not_seen(opened):
    page = opened("scaling")
    said = page.locator("figure.live [role=status]")
    assert "Fitted to 30 models" in said.inner_text() and "Nothing is left out" in said.inner_text()
    page.get_by_role("button", name="804k").click()
    becomes(page, "sizes.length === 5")
    assert "for the 5 left out" in said.inner_text()
    page.get_by_role("button", name="456k").press("Space")
    becomes(page, "sizes.length === 4")
    assert "for the 10 left out" in said.inner_text()
    for name in ("8k", "29k"):
        page.get_by_role("button", name=name, exact=True).click()
    becomes(page, "sizes.length === 2")
    assert "at least 3 sizes" in said.inner_text() and state(page)["fitted"] is None


# --- ring ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_ring_adds_up_move_by_move(opened, n):
    page, own = opened("ring"), torch.tensor(live_ring.data()["own"])[:n, :n]
    for step in range(2 * n - 1):
        seen = put(page, workers=n, step=step)
        assert seen["values"] == live_ring.moved(own.numpy(), step).tolist()
        assert seen["sent"] == pytest.approx(step / n)
        if step == n - 1:  # as the chapter's picture has it: worker w has the sum of piece w + 1
            held = [row[(w + 1) % n] for w, row in enumerate(seen["values"])]
            assert held == own.sum(0).roll(-1).tolist()
    assert seen["values"] == [own.sum(0).tolist()] * n
    right = exercises.find("check_all_reduce_bytes").right
    assert seen["sent"] == pytest.approx(right(1, n))
    assert "Now all have all the sums" in page.locator("figure.live [role=status]").inner_text()


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_a_pipelines_timetable_has_the_bubble_of_the_formula(opened, schedule):
    page = opened("ring")
    for p, m in ((2, 1), (4, 4), (4, 16), (8, 3), (5, 9)):
        seen = put(page, view="pipeline", schedule=schedule, stages=p, microbatches=m)
        assert seen["bubble"] == pytest.approx((p - 1) / (m + p - 1))
        assert seen["peaks"] == [m if schedule == "gpipe" else min(p - s, m) for s in range(p)]
        assert page.locator(".live-timetable .live-backward").count() == p * m + 1  # and the key
    said = page.locator("figure.live [role=status]").inner_text()
    assert "idles for 31% of the time, (5 − 1) / (9 + 5 − 1)" in said


def test_the_ring_is_stepped_by_keyboard_and_finger_without_motion(opened):
    page = opened("ring", touch=True, width=390)
    assert not page.get_by_role("button", name="Play").is_visible()
    step = page.get_by_role("button", name="Step →")
    step.press("Enter")
    becomes(page, "step === 1")
    assert page.evaluate("document.getAnimations().length") == 0
    step.tap()
    becomes(page, "step === 2")
    page.get_by_role("button", name="← Back").tap()
    becomes(page, "step === 1")
    page.get_by_label("Workers").press("ArrowRight")
    becomes(page, "workers === 5")
    assert state(page)["step"] == 0
    page.get_by_role("button", name="A pipeline").tap()
    page.get_by_role("button", name="1F1B").tap()
    becomes(page, "schedule === '1f1b'")
    again = opened("ring", address=page.evaluate("location.hash"))
    becomes(again, "workers === 5")
    assert state(again) == state(page)
    page.get_by_role("button", name="Reset").tap()
    becomes(page, "view === 'ring'")


def test_the_ring_plays_to_its_end_and_can_be_paused(opened):
    page = opened("ring")
    page.emulate_media(reduced_motion="no-preference")
    page.reload()
    page.wait_for_function(FIGURE)
    put(page, workers=8)
    page.get_by_role("button", name="Play").press("Enter")
    page.get_by_role("button", name="Pause").press("Enter")
    page.wait_for_selector("figure.live[data-state=ready]")
    assert 1 <= state(page)["step"] < 14
    put(page, step=12)
    page.get_by_role("button", name="Play").press("Enter")
    becomes(page, "step === 14")
    page.wait_for_selector("figure.live[data-state=ready]")
    assert page.get_by_role("button", name="Play").is_visible()
    assert state(page)["values"][0] == state(page)["values"][7]


# --- diagnosis -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", live_diagnosis.homework())
def test_each_answer_gets_the_sentence_of_its_check(key):
    """Every mistake is there, was wrong on the input that is shown, and its check says so."""
    for part in live_diagnosis.data(key)["exercises"]:
        exercise = exercises.find(f"check_{part['name']}")
        said = {answer["says"] for answer in part["answers"]}
        assert said == {exercise.check(way).message for _, way in exercise.ways()}
        assert len(part["answers"]) >= 8
        assert all(answer["given"] and answer["differs"] for answer in part["answers"])


def test_the_check_speaks_when_it_is_asked(opened):
    page = opened("diagnosis-hw1")
    first = course_live.stored("diagnosis-hw1")["exercises"][0]["answers"][0]
    seen = state(page)
    assert (seen["given"], seen["differs"], seen["says"]) == (first["given"], first["differs"], "")
    page.get_by_role("button", name="What does the check say?").press("Enter")
    becomes(page, "says")
    assert state(page)["says"] == first["says"]
    said = page.locator("figure.live [role=status]")
    assert first["says"].replace("`", "") in said.inner_text()
    assert said.locator("code").count() == first["says"].count("`") / 2
    page.get_by_role("button", name="Another →").click()
    becomes(page, "answer === 1")
    assert state(page)["says"] == ""
    page.get_by_label("Exercise").select_option("2")
    becomes(page, "exercise === 2")
    assert state(page)["given"] == course_live.stored("diagnosis-hw1")["exercises"][2]["answers"][0]["given"]  # fmt: skip
    page.get_by_role("button", name="Undo").click()
    becomes(page, "exercise === 0")
