"""The built site in a real browser with no network: everything is drawn, nothing is asked for."""

import functools
import http.server
import json
import re
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

pytestmark = pytest.mark.site

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"] + ".html"]
PAGES += [chapter["file"] + ".html" for part in TOC["parts"] for chapter in part["chapters"]]
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]
#: The theme says this about itself on a first visit; it falls back to the reader's preference.
HARMLESS = ("Got invalid theme mode",)

MAX_PAGE_BYTES = 1_500_000
MAX_VIEW_BYTES = 600_000


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address():
    assert (HTML / "index.html").exists(), "there is no built site: run `make book` first"
    handler = functools.partial(_QuietHandler, directory=str(HTML))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Visit:
    """A page opened in a fresh context in which every other host is unreachable."""

    def __init__(self, browser, address, page, *, theme="light", width=1280):
        self.foreign, self.errors, self.missing = [], [], []
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, service_workers="block"
        )
        self.context = context
        self.page = context.new_page()
        context.route("**/*", functools.partial(self._answer, address))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.on("console", self._console)
        self.page.on("response", self._response)
        self.page.goto(f"{address}/{page}", wait_until="load")
        # MathJax, plotly and the attention views draw after the page has loaded.
        self.page.wait_for_function(
            "() => (!window.MathJax?.startup?.promise || window.mathReady) && "
            "[...document.querySelectorAll('.course-plotly')].every(e => e.querySelector('.main-svg'))"
            " || (window.MathJax?.startup?.promise?.then(() => { window.mathReady = true; }), false)",
            timeout=60_000,
        )
        self.page.wait_for_load_state("networkidle")

    def _answer(self, address, route):
        url = route.request.url
        if url.startswith((address, "data:", "blob:", "about:")):
            route.continue_()
        else:
            self.foreign.append(url)
            route.abort()

    def _dialog(self, dialog):
        self.errors.append(f"a dialog opened: {dialog.message}")
        dialog.dismiss()

    def _console(self, message):
        if message.type == "error" and not any(text in message.text for text in HARMLESS):
            self.errors.append(message.text)

    def _response(self, response):
        if response.status >= 400:
            self.missing.append(response.url)

    def close(self):
        self.context.close()


@pytest.fixture
def visit(browser, address):
    visits = []

    def open_page(page, **options):
        visits.append(Visit(browser, address, page, **options))
        return visits[-1]

    yield open_page
    for each in visits:
        each.close()


@pytest.mark.parametrize("page", PAGES)
def test_page_works_with_no_network(visit, page):
    seen = visit(page)
    assert seen.foreign == [], "the page asks third parties"
    assert seen.missing == [], "the page asks for files that the site does not have"
    assert seen.errors == []

    formulas = seen.page.locator("span.math, div.math").count()
    assert seen.page.locator("mjx-container").count() >= formulas, "formulas stay as TeX"
    assert seen.page.locator("mjx-merror, [data-mjx-error]").count() == 0

    images = seen.page.eval_on_selector_all(
        ".bd-article img",
        "es => es.map(e => [e.alt.trim(), e.complete && e.naturalWidth, e.outerHTML.slice(0, 80)])",
    )
    assert [image for image in images if not image[0]] == [], "images without a text alternative"
    assert [image for image in images if not image[1]] == [], "images that do not load"

    for number, marks in enumerate(_plotly_marks(seen.page)):
        assert marks > 0, f"plotly figure {number} is blank"
    for view in seen.page.locator(".course-frame iframe").all():
        view.scroll_into_view_if_needed()  # it loads when it is seen
        frame = view.element_handle().content_frame()
        frame.wait_for_selector("svg", timeout=20_000)
        assert _attention_marks(frame) > 20, "an attention view is empty"


def _plotly_marks(page):
    """Return for every plotly figure how much is drawn in it: marks, or pixels of a 3-D scene."""
    page.wait_for_timeout(500)
    return page.eval_on_selector_all(
        ".course-plotly",
        """figures => figures.map(figure => {
             const drawn = figure.querySelectorAll(
               '.scatterlayer path, .scatterlayer text, .barlayer path, .heatmaplayer image, .point, .trace path');
             const scenes = [...figure.querySelectorAll('.gl-container canvas')];
             return drawn.length + scenes.filter(canvas => canvas.width * canvas.height > 0).length;
           })""",
    )


def _attention_marks(frame):
    """Return how many lines, rectangles and words an attention view has drawn."""
    frame.page.wait_for_timeout(300)
    return frame.evaluate("document.querySelectorAll('svg line, svg rect, svg text').length")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    html = (HTML / page).read_text(encoding="utf-8")
    html = re.sub(r"<(script|iframe)\b.*?</\1>", "", html, flags=re.DOTALL)
    broken = []
    for link in re.findall(r'<a\b[^>]*?href="([^"]+)"', html):
        parts = urlsplit(link.replace("&amp;", "&"))
        if parts.scheme or parts.netloc:
            continue
        target = (HTML / page).parent / unquote(parts.path) if parts.path else HTML / page
        if target.is_dir():
            target = target / "index.html"
        if not target.exists():
            broken.append(link)
        elif parts.fragment and target.suffix == ".html":
            anchor = re.escape(unquote(parts.fragment))
            if not re.search(rf'\b(id|name)="{anchor}"', target.read_text(encoding="utf-8")):
                broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_page_is_light(page):
    path = HTML / page
    weight = path.stat().st_size
    html = path.read_text(encoding="utf-8")
    for name in set(re.findall(r'src="((?:\.\./)*_images/[^"]+)"', html)):
        weight += (path.parent / name).stat().st_size
    assert weight < MAX_PAGE_BYTES
    views = re.findall(r"<iframe\b.*?</iframe>", html, flags=re.DOTALL)
    assert all(len(view) < MAX_VIEW_BYTES for view in views), [len(view) for view in views]
    assert "application/vnd.jupyter.widget-state+json" not in html, "a widget was saved"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_text_can_be_read_in_both_themes(visit, page, theme):
    seen = visit(page, theme=theme)
    assert seen.page.evaluate("document.documentElement.dataset.theme") == theme
    faint = seen.page.evaluate(CONTRAST)
    assert faint == [], f"text with too little contrast in the {theme} theme"


@pytest.mark.parametrize("page", PAGES)
def test_the_dark_theme_is_dark_on_white_on_paper(visit, page):
    seen = visit(page, theme="dark")
    seen.page.emulate_media(media="print", color_scheme="dark")
    assert seen.page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert seen.page.evaluate(PAPER) == []


#: Text whose contrast with white paper is under 4.5, or whose own ground is darker than a tint.
PAPER = """() => {
  const parse = (colour) => {
    const numbers = (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const whole = colour.startsWith("color(srgb") ? 255 : 1; // what color-mix gives goes from 0 to 1
    return numbers.map((v, i) => (i < 3 ? whole * v : v));
  };
  const part = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const found = [];
  for (const element of document.querySelectorAll(".bd-article *")) {
    const svg = element.closest("svg");
    if (svg && !element.closest(".xtick, .ytick, .g-gtitle, .legend")) continue;
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.getBoundingClientRect().width) continue;
    const style = getComputedStyle(element);
    const ink = luminance(parse(svg ? style.fill : style.color));
    const dark = svg ? [] : [element, ...function* () {
      for (let e = element.parentElement; e; e = e.parentElement) yield e;
    }()].filter((e) => {
      const [r, g, b, alpha] = parse(getComputedStyle(e).backgroundColor);
      return (alpha ?? 1) > 0 && luminance([r, g, b]) < 0.6;
    });
    if (1.05 / (ink + 0.05) < 4.5 || dark.length)
      found.push([element.tagName, element.className, element.textContent.trim().slice(0, 40)]);
  }
  return found.slice(0, 5);
}"""


#: Text inside the article whose contrast with the background behind it is under 3 (WCAG's
#: least for large text); pictures, plotly figures and frames have their own background.
CONTRAST = """() => {
  const parse = (colour) => {
    const numbers = (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const whole = colour.startsWith("color(srgb") ? 255 : 1; // what color-mix gives goes from 0 to 1
    return numbers.map((v, i) => (i < 3 ? whole * v : v));
  };
  const part = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      const alpha = colour.length > 3 ? colour[3] : 1;
      if (alpha > 0) layers.push([colour, alpha]);
      if (alpha === 1) break;
    }
    return layers.reverse().reduce(
      (below, [c, a]) => [0, 1, 2].map((i) => c[i] * a + below[i] * (1 - a)), [255, 255, 255]);
  };
  const found = [];
  for (const element of document.querySelectorAll(".bd-article *")) {
    if (element.closest("svg, iframe, .course-plotly, mjx-container, .highlight, details:not([open])")) continue;
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const box = element.getBoundingClientRect();
    const style = getComputedStyle(element);
    if (!own || !box.width || style.visibility === "hidden" || style.opacity === "0") continue;
    const [a, b] = [luminance(parse(style.color)), luminance(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 3) found.push([ratio.toFixed(2), element.className, element.textContent.trim().slice(0, 40)]);
  }
  return found.slice(0, 5);
}"""


@pytest.mark.parametrize("page", PAGES)
def test_phone_width_needs_no_sideways_scrolling(visit, page):
    seen = visit(page, width=390)
    width, culprits = seen.page.evaluate(
        """() => {
          const wide = [...document.querySelectorAll('.bd-article *')].filter((e) => {
            for (let p = e.parentElement; p; p = p.parentElement)
              if (/auto|scroll|hidden/.test(getComputedStyle(p).overflowX)) return false;
            return e.getBoundingClientRect().right > innerWidth + 1;
          });
          return [document.documentElement.scrollWidth, wide.slice(0, 3).map((e) => e.outerHTML.slice(0, 120))];
        }"""
    )
    assert width <= 390, culprits


@pytest.mark.parametrize("page", CHAPTERS)
def test_launch_and_download_buttons(visit, page):
    seen = visit(page)
    notebook = page.removesuffix(".html") + ".ipynb"
    links = seen.page.eval_on_selector_all("a[href]", "es => es.map(e => e.href)")
    repository = CONFIG["repository"]["url"].removeprefix("https://github.com/")
    colab = [link for link in links if "colab" in link]
    assert any(repository in link and link.endswith(notebook) for link in colab), colab
    assert any(link.rstrip("/").endswith(repository) for link in links), "no link to the repository"
    downloaded = json.loads((HTML / "_sources" / notebook).read_text())
    assert not any(cell.get("outputs") for cell in downloaded["cells"])


def test_vendored_scripts_come_with_their_licences():
    vendor = HTML / "_static" / "vendor"
    licences = (HTML / "third_party.html").read_text()
    for path in vendor.iterdir():
        assert path.name in licences, f"{path.name} is not named in third_party.md"


def _marks(seen, name):
    return seen.page.locator(f".course-marks button:text-is('{name}')")


def test_progress_is_kept_saved_and_read_again(visit, address, tmp_path):
    chapter = "notebooks/05_attention.html"
    seen = visit(chapter)
    exercises = seen.page.locator(".tag_exercise").count()
    assert _marks(seen, "Done").count() == exercises
    first = _marks(seen, "Done").first
    first.focus()
    seen.page.keyboard.press("Enter")
    assert first.get_attribute("aria-pressed") == "true"
    question = seen.page.locator("details[data-course-id]").first
    question.locator("summary").click()
    question.get_by_role("button", name="Knew it").click()

    seen.page.reload()
    seen.page.wait_for_selector(".course-progress tbody tr", state="attached")
    assert _marks(seen, "Done").first.get_attribute("aria-pressed") == "true"
    seen.page.locator(".course-progress > summary").click()
    with seen.page.expect_download() as download:
        _marks(seen, "Save as a file").click()
    saved = tmp_path / "progress.json"
    download.value.save_as(saved)
    assert sorted(json.loads(saved.read_text()).values()) == ["done", "known"]

    _marks(seen, "Erase").click()
    assert len(seen.page.evaluate("localStorage['course-progress']")) > 2, "erased unasked"
    _marks(seen, "Yes, erase all marks").click()
    assert seen.page.evaluate("localStorage['course-progress']") == "{}"
    assert _marks(seen, "Done").first.get_attribute("aria-pressed") == "false"
    seen.page.set_input_files(".course-progress input", saved)
    seen.page.wait_for_function("localStorage['course-progress'] !== '{}'")
    assert _marks(seen, "Done").first.get_attribute("aria-pressed") == "true"

    seen.page.goto(f"{address}/index.html")
    row = seen.page.locator(".course-progress tr", has_text="Attention").first
    row.wait_for()
    assert row.locator("td").all_inner_texts()[0] == f"1 of {exercises}"
    assert row.locator("td").all_inner_texts()[1].startswith("1 of ")
    assert seen.foreign == seen.missing == seen.errors == []


def test_a_broken_file_of_progress_is_refused_in_words(visit, tmp_path):
    seen = visit("notebooks/05_attention.html")
    seen.page.locator(".course-progress > summary").click()
    (tmp_path / "broken.json").write_text("{")
    seen.page.set_input_files(".course-progress input", tmp_path / "broken.json")
    seen.page.get_by_text("This file holds no progress").wait_for()
    assert seen.errors == []


def test_without_storage_the_page_still_works(visit):
    seen = visit("notebooks/05_attention.html")
    seen.page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('private') } })"
    )
    seen.page.reload()
    _marks(seen, "Done").first.click()
    assert _marks(seen, "Done").first.get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_panel_can_be_read_on_a_phone(visit, theme):
    seen = visit("notebooks/05_attention.html", theme=theme, width=390)
    for details in seen.page.locator("details[data-course-id]").all():
        details.evaluate("element => { element.open = true }")
    seen.page.locator(".course-progress").evaluate("element => { element.open = true }")
    _marks(seen, "Done").first.click()
    _marks(seen, "Knew it").first.click()
    _marks(seen, "Not yet").last.click()
    assert seen.page.evaluate(CONTRAST) == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_every_question_and_exercise_has_an_id_of_its_own():
    text = (HTML / "_static" / "course-pages.js").read_text(encoding="utf-8")
    pages = json.loads(text.removeprefix("window.coursePages = ").rstrip().rstrip(";"))
    assert len(pages) >= len([page for page in CHAPTERS if "/homework/" not in page])
    for page in pages:
        items = page["exercises"] + page["questions"]
        assert len(items) == len(set(items)), page["title"]
        html = (HTML / page["page"]).read_text(encoding="utf-8")
        assert len(page["exercises"]) == len(re.findall(r'class="cell[^"]*tag_exercise', html))
        if 'id="check-yourself"' in html:
            part = html.split('id="check-yourself"')[1].split("</section>")[0]
            assert len(page["questions"]) == part.count("<details"), page["title"]
