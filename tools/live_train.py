"""What the element "train" is given when the book is built, and the run that it shows at first.

python -m tools.live_train --record       train once more in Chromium, write live/stored/train.*
python -m tools.live_train --page FOLDER  write the element alone, as a page that opens from a file

The stored run is one of the very engine: the default model, the whole text, a fixed number of
steps, so that anybody who records it again gets the same losses and the same text.
"""

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import Page, sync_playwright

from course_commands import terminal
from course_commands.doctor import find_browser
from course_utils.corpora import CharTokenizer, load_text, split
from course_utils.metrics import NGram

ROOT = Path(__file__).resolve().parents[1]
LIVE = ROOT / "live"
STORED = LIVE / "stored" / "train.json"
PICTURE = STORED.with_suffix(".svg")
STEPS = 3200
#: What the element needs, in this order: each file may use those before it.
SCRIPTS = ("element.js", "elements/train.js")
STYLES = ("element.css", "elements/train.css")
CAPTION = (
    "A character transformer learns Shakespeare. It begins with random weights, and every loss is "
    "measured on a play that it never reads. The dashed lines are models that only count."
)
#: Beside the page's own address lies the text that is loaded on request.
START = """data.onRequest.url = new URL(data.onRequest.url, document.currentScript.src).href;
courseLive.train(document.querySelector("figure.live[data-live=train]"), data);"""
RECORD = """async ([engine, text, steps]) => {
  const source = engine.replace(/^export /gm, "");
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(address), measures = [];
  return await new Promise((resolve, reject) => {
    worker.onerror = (event) => reject(new Error(event.message));
    worker.onmessage = ({ data: { kind, ...news } }) => {
      if (kind === "fault") reject(new Error(news.message));
      if (kind === "measure") measures.push(news);
      if (kind === "stopped") resolve(measures);
    };
    worker.postMessage({ do: "start", text, settings: {}, length: { steps } });
  });
}"""


def engine() -> str:
    """Return the source of the Worker."""
    names = ("train.js", "train_worker.js")
    return "\n".join((LIVE / name).read_text(encoding="utf-8") for name in names)


def script() -> str:
    """Return the element as one classic script, which calls the page's ``courseLive.train``.

    A page that was opened from a file may not import modules: the files are put one after the
    other, without ``import`` and ``export``, into a function of their own.
    """
    text = "\n".join((LIVE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^export ", "", text, flags=re.MULTILINE)
    return f"(() => {{\n{text}\n(globalThis.courseLive ??= {{}}).train = mount;\n}})();\n"


def style() -> str:
    """Return the element's style sheet."""
    return "\n".join((LIVE / name).read_text(encoding="utf-8") for name in STYLES)


def text_script() -> str:
    """Return the script that brings text and engine, once the reader asks for them."""
    brought = {"text": load_text("shakespeare"), "engine": engine()}
    return f"globalThis.courseTraining = {json.dumps(brought, ensure_ascii=False)};\n"


def lines() -> list[dict[str, object]]:
    """Return what there is to beat: n-gram models of the same split, counted now."""
    text = load_text("shakespeare")
    tokenizer = CharTokenizer.from_text(text)
    train_ids, val_ids = split(torch.tensor(tokenizer.encode(text)))
    orders = {"bigram": 2, "trigram": 3, "4-gram": 4}
    fitted = {name: NGram(n, tokenizer.vocab_size).fit(train_ids) for name, n in orders.items()}
    return [{"name": name, "loss": model.cross_entropy(val_ids)} for name, model in fitted.items()]


def data(text_url: str) -> dict[str, object]:
    """Return what ``mount(figure, data)`` wants; ``text_url`` is where text_script() is kept."""
    return {
        "onRequest": {"url": text_url, "bytes": len(text_script().encode())},
        "lines": lines(),
        "recording": json.loads(STORED.read_text(encoding="utf-8")),
    }


def figure() -> str:
    """Return the figure as HTML: the stored picture and text, which stay where nothing runs."""
    last = json.loads(STORED.read_text(encoding="utf-8"))["measures"][-1]
    picture = PICTURE.read_text(encoding="utf-8") if PICTURE.exists() else ""
    sample = last["sample"].strip().replace("&", "&amp;").replace("<", "&lt;")
    return (
        '<figure class="live" data-live="train" data-state="stored" id="train">\n'
        f'<div class="live-stored">{picture}<pre class="live-sample">{sample}</pre></div>\n'
        f"<figcaption>{CAPTION}</figcaption>\n</figure>\n"
    )


def write_files(folder: Path) -> None:
    """Write what a page with the element needs into ``folder``: train.css, train.js, start.js.

    The page has the :func:`figure` and loads train.js, then start.js, with ``defer``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "train.css": style(),
        "train.js": script(),
        "train-text.js": text_script(),
        "start.js": f"{{ const data = {json.dumps(data('train-text.js'))};\n{START} }}\n",
    }
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")


def write_page(folder: Path, theme: str = "light") -> Path:
    """Write the element alone, with all that it needs, into ``folder``; return the page."""
    write_files(folder)
    page = folder / "train.html"
    page.write_text(
        f'<!doctype html>\n<html lang="en" data-theme="{theme}">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>Train</title>\n<link rel=stylesheet href=train.css>\n"
        "<style>body { margin: 0.5rem auto; max-width: 62rem; font: 16px system-ui; }\n"
        "html[data-theme=dark] { color-scheme: dark; background: #14181e; }</style>\n"
        f"{figure()}<script defer src=train.js></script><script defer src=start.js></script>\n",
        encoding="utf-8",
    )
    return page


def record(page: Page, steps: int) -> dict[str, object]:
    """Return a run of ``steps`` in a browser: losses, shares of words and texts by step."""
    measures = page.evaluate(RECORD, [engine(), load_text("shakespeare"), steps])
    kept = ("step", "trainLoss", "valLoss", "words", "sample")
    rounded = [
        {key: round(m[key], 4) if isinstance(m[key], float) else m[key] for key in kept}
        for m in measures
    ]
    seconds, initial = round(measures[-1]["seconds"], 1), round(measures[0]["trainLoss"], 4)
    return {"steps": steps, "seconds": seconds, "initial": initial, "settings": {"seed": 1}} | {
        "measures": rounded
    }


def picture(page: Page) -> str:
    """Return the chart of the stored run as the element draws it, to stand where nothing runs."""
    with tempfile.TemporaryDirectory() as folder:
        page.goto(write_page(Path(folder)).as_uri())
        return page.evaluate("document.querySelector('.live-body .live-chart').outerHTML")


def main() -> int:
    """Record, or write the page."""
    parser = argparse.ArgumentParser(prog="python -m tools.live_train")
    parser.add_argument("--record", action="store_true", help="write the stored run anew")
    parser.add_argument("--page", type=Path, metavar="FOLDER", help="write the element alone")
    options = parser.parse_args()
    if options.record:
        STORED.parent.mkdir(exist_ok=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=find_browser(), args=["--no-sandbox"]
            )
            run = record(browser.new_page(), STEPS)
            STORED.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
            print(f"{STORED.relative_to(ROOT)}: {STORED.stat().st_size:,} bytes")
            PICTURE.write_text(picture(browser.new_page()) + "\n", encoding="utf-8")
            browser.close()
    if options.page:
        print(write_page(options.page))
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run(main))
