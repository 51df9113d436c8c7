"""What a minute of training in the page reaches, on one core in Chromium, by optimizer and size."""

from playwright.sync_api import sync_playwright

from course_commands.doctor import find_browser
from course_utils.corpora import load_text
from tools import live_train

#: The worker's own source, with another end: train for some seconds, then measure on more text.
TRAIN = """async ([engine, text, settings, seconds, measured]) => {
  const source = engine.replace(/^export /gm, "") + `
    onmessage = ({ data: { text, settings, seconds, measured } }) => {
      const run = new Training(text, settings);
      let spent = 0;
      while (spent < seconds) {
        const begin = performance.now();
        run.step(spent / seconds);
        spent += (performance.now() - begin) / 1000;
      }
      postMessage({ steps: run.steps, characters: run.steps * run.model.n,
        parameters: run.model.size, loss: run.validate(measured) });
    };`;
  const worker = new Worker(URL.createObjectURL(new Blob([source])));
  return await new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => reject(new Error(event.message));
    worker.postMessage({ text, settings, seconds, measured });
  });
}"""
MODELS = [
    {"width": 32, "layers": 1, "optimizer": "muon"},
    {"width": 32, "layers": 1, "optimizer": "adam"},
    {"width": 48, "layers": 1, "optimizer": "muon"},
    {"width": 64, "layers": 2, "optimizer": "muon"},
]


def tables(quick: bool) -> list[tuple[str, list[dict]]]:
    seconds, measured = (1, 5_000) if quick else (60, 100_000)  # characters of validation text
    peers = {str(line["name"]): f"{line['loss']:.3f}" for line in live_train.lines()}
    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        for settings in MODELS:
            page, given = browser.new_page(), [live_train.engine(), load_text("shakespeare")]
            found = page.evaluate(TRAIN, [*given, settings, seconds, measured])
            page.close()
            rows.append(
                {
                    "optimizer": settings["optimizer"],
                    "wide": settings["width"],
                    "blocks": settings["layers"],
                    "parameters": f"{found['parameters']:,}",
                    "steps": f"{found['steps']:,}",
                    "characters a second": f"{found['characters'] / seconds:,.0f}",
                    "loss": f"{found['loss']:.3f}",
                    **peers,
                }
            )
        browser.close()
    title = (
        f"Training in the page: plain JavaScript, one core, {seconds} s from random weights; loss "
        f"in nats on {measured:,} characters of validation text. The peers are models that count."
    )
    return [(title, rows)]
