"""What the living figures' engine does in a second, on one core in Chromium."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright
from transformers import GPT2LMHeadModel

from _ext import course_live
from course_commands.doctor import find_browser
from course_utils.corpora import load_text

PROMPT = "The weather is nice today, and we go for a walk"  # 12 tokens
#: Seconds of each task, in the page; `engine` keeps its worker warm as a reader's is.
TASKS = """async ([prompt, prose, words]) => {
  const { engine } = live, seconds = {};
  const timed = async (name, times, work) => {
    const begin = performance.now();
    for (let i = 0; i < times; i++) await work();
    seconds[name] = (performance.now() - begin) / 1000 / times;
  };
  await engine.load();
  const { ids } = await engine.encode(prompt);
  await timed("first logits", 1, () => engine.next(ids));
  const written = [...ids];
  await timed("a token", words, async () => written.push((await engine.next(written)).drawn[2]));
  await timed("logits of the prompt", 10, async () => {
    await engine.next([0]); // the prompt is read from its start
    return engine.next(ids);
  });
  await timed("trace of the prompt", 5, () => engine.trace(ids));
  await timed("ids of the prose", 3, () => engine.encode(prose));
  return seconds;
}"""


def tables(quick: bool) -> list[tuple[str, list[dict]]]:
    n_new = 4 if quick else 100
    prose = load_text("course-prose")[: 2_000 if quick else 60_000]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        course_live.write_engine(Path(folder))
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((Path(folder) / "engine.html").as_uri())
        found = page.evaluate(TASKS, [PROMPT, prose, n_new])
        browser.close()
    peers = pytorch(prose, n_new)
    rows = [
        {"": name, "in the page": shown(ours), "PyTorch, one thread": shown(peers[name])}
        for name, ours in found.items()
    ]
    title = (
        "The engine of the living figures: GPT-2 mini with 8 bits a weight, plain JavaScript, one "
        f"core. The prompt has 12 tokens, {n_new} are drawn, the prose has {len(prose):,} "
        "characters. PyTorch has the same weights as float32; its ids are transformers'."
    )
    return [(title, rows)]


def shown(seconds: float) -> str:
    """Return a time in milliseconds, and how often that is in a second."""
    return f"{1000 * seconds:,.1f} ms ({1 / seconds:,.0f} a second)"


@torch.inference_mode()
def pytorch(prose: str, n_new: int) -> dict[str, float]:
    """Return the seconds of the same tasks in PyTorch on one thread."""
    model, tokenizer = course_live.mini()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ids, seconds = torch.tensor([tokenizer.encode(PROMPT)]), {}

    def timed(name: str, times: int, work: Callable[[], object]) -> None:
        begin = time.perf_counter()
        for _ in range(times):
            work()
        seconds[name] = (time.perf_counter() - begin) / times

    timed("first logits", 1, lambda: model(ids, logits_to_keep=1))
    timed("a token", 1, lambda: write(model, ids, n_new))
    seconds["a token"] /= n_new
    timed("logits of the prompt", 10, lambda: model(ids, logits_to_keep=1))
    timed("trace of the prompt", 5, lambda: course_live.listen(ids[0].tolist()))
    timed("ids of the prose", 3, lambda: tokenizer(prose))
    torch.set_num_threads(threads)
    return seconds


def write(model: GPT2LMHeadModel, ids: torch.Tensor, n_new: int) -> None:
    """Draw ``n_new`` tokens, each from the whole distribution."""
    cache = None
    for _ in range(n_new):
        out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ids, cache = out.logits[:, -1].softmax(-1).multinomial(1), out.past_key_values
