"""What the element "train" is given when the book is built, and the run that it shows at first.

python -m tools.live_train --record       train once more in Chromium, write live/stored/train.*

The stored run is one of the very engine: the default model, the whole text, a fixed number of
steps, so that anybody who records it again gets the same losses and the same text.
"""

from __future__ import annotations

import argparse
import html
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from course_commands import terminal
from course_commands.doctor import find_browser
from course_utils.corpora import CharTokenizer, load_text, split
from course_utils.metrics import NGram

if TYPE_CHECKING:  # a browser is needed to record, not to build the site
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
LIVE = ROOT / "live"
STORED = LIVE / "stored" / "train.json"
PICTURE = STORED.with_suffix(".svg")
STEPS = 3200
#: The script with the text and the engine, which a reader asks for by training.
ON_REQUEST = "train-text.js"
CAPTION = (
    "A character transformer learns Shakespeare, beginning with random weights. Validation loss is "
    "measured on a play that it never reads. The dashed lines are models that only count."
)
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


def data() -> dict[str, object]:
    """Return what the element shows before anything is loaded, and what there is to load."""
    return {
        "onRequest": {"file": ON_REQUEST, "bytes": len(text_script().encode())},
        "lines": lines(),
        "recording": json.loads(STORED.read_text(encoding="utf-8")),
    }


def still(stored: dict) -> str:
    """Return the stored run's chart and text as they stand without JavaScript."""
    last = stored["recording"]["measures"][-1]
    picture = PICTURE.read_text(encoding="utf-8") if PICTURE.exists() else ""
    return f'{picture}<pre class="live-sample">{html.escape(last["sample"].strip())}</pre>'


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
    page.set_content('<figure class="live" data-live="train"></figure>')
    for name in ("live", "shell", "elements/train"):
        page.add_script_tag(path=LIVE / f"{name}.js")
    page.evaluate("(data) => { live.stored.train = data; live.awaken(); }", data())
    return page.evaluate("document.querySelector('.live-chart').outerHTML")


def main() -> int:
    """Record, or write the page."""
    parser = argparse.ArgumentParser(prog="python -m tools.live_train")
    parser.add_argument("--record", action="store_true", help="write the stored run anew")
    options = parser.parse_args()
    if options.record:
        from playwright.sync_api import sync_playwright

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
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run(main))
