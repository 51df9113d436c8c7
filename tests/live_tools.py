"""What the tests of the living figures share: a folder with the engine, opened in a browser."""

import functools
import http.server
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

from _ext import course_live

ROOT = Path(__file__).resolve().parents[1]


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def serving(folder):
    """Serve a folder on this machine; gives its address."""
    handler = functools.partial(_QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def write_figures(folder):
    """Write a page for each figure, as the site has it, without the rest of the site."""
    course_live.write_site(ROOT / "live", folder / "_static" / "live")
    for name in course_live.STORED:
        alone = name.partition("-")[0] in course_live.WITHOUT_ENGINE
        _write_page(folder, name, course_live.FRAME if alone else course_live.SCRIPTS)


def write_alone(folder, names):
    """Write the pages of figures that need no model, and nothing of a model."""
    shutil.copytree(ROOT / "live", folder / "_static" / "live", dirs_exist_ok=True)
    for name in names:
        course_live.write_stored(folder / "_static" / "live" / "stored", name)
        _write_page(folder, name, course_live.FRAME)


def _write_page(folder, name, frame):
    element = name.partition("-")[0]
    files = [*frame, f"stored/{name}", f"elements/{element}"]
    scripts = "".join(f'<script src="_static/live/{f}.js" defer></script>' for f in files)
    sheets = ("live", f"elements/{element}")
    style = "".join(f'<link rel="stylesheet" href="_static/live/{s}.css">' for s in sheets)
    view = '<meta name="viewport" content="width=device-width">'
    page = course_live.BLANK + view + style + scripts + course_live.figure(name)
    (folder / f"{name}.html").write_text(page, encoding="utf-8")


def open_figure(browser, site, name, *, address="", width=1024, touch=False, javascript=True):
    """Open a figure from its folder on disk; `errors` and `asked` hold faults and requests."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        has_touch=touch,
        java_script_enabled=javascript,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(60_000)  # a busy machine is slow
    page.errors, page.asked = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda m: m.type == "error" and page.errors.append(m.text))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto((site / f"{name}.html").as_uri() + address)
    if javascript:
        page.wait_for_function("document.querySelector('figure.live')?.live")
    return page


@contextmanager
def opening(browser, site):
    """Give :func:`open_figure` for a folder; the errors of each visit must stay empty."""
    pages = []

    def open_one(name, **options):
        pages.append(open_figure(browser, site, name, **options))
        return pages[-1]

    yield open_one
    for page in pages:
        assert page.errors == []
        page.context.close()


def state(page):
    """Return what the page's figure tells."""
    return page.evaluate("document.querySelector('figure.live').live.get()")


def put(page, **changes):
    """Set the state of the page's figure; return what it then tells."""
    page.evaluate("(c) => document.querySelector('figure.live').live.set(c)", changes)
    return state(page)


def asked_to_draw(page, text):
    """Wait until the figure shows a text."""
    page.wait_for_function(
        "(t) => document.querySelector('figure.live').live.get().text === t", arg=text
    )
