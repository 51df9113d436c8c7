"""The living figures in JupyterLab: drawn by the page's scripts with the kernel's numbers."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
import torch

from course_utils import pretrained
from tests.live_tools import asked_to_draw, put, state

ROOT = Path(__file__).resolve().parents[1]
FIGURE = "document.querySelector('figure.live')"
SETUP = """from course_utils import pretrained
from course_widgets import live
model, tokenizer, card = pretrained.load("gpt2")
live.{}(model, tokenizer, {!r})"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab with settings of its own; gives a function that writes a notebook: its address."""
    folder = tmp_path_factory.mktemp("lab")
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(folder), "JUPYTERLAB_WORKSPACES_DIR": str(folder)}
    settings = folder / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}')
    environment = {**os.environ, **own, "PYTHONPATH": str(ROOT), "COURSE_BOOK": ""}
    options = ["--no-browser", "--allow-root", "--ServerApp.port_retries=0", f"--port={port}"]
    options += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    options += ["--LabApp.extension_manager=readonly"]
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}", *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("w"),
    )

    def write(source):
        cell = nbformat.v4.new_code_cell(source)
        notebook = nbformat.v4.new_notebook(cells=[cell])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, folder / "one.ipynb")
        return f"http://127.0.0.1:{port}/lab/tree/one.ipynb?reset"

    try:
        for _ in range(600):
            assert server.poll() is None, (folder / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api").close()
                break
            except OSError:
                time.sleep(0.1)
        yield write
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def ran(browser, lab):
    """Open a notebook with one cell and run it; gives the page."""
    contexts = []

    def run(source):
        contexts.append(browser.new_context(viewport={"width": 1200, "height": 1000}))
        page = contexts[-1].new_page()
        page.set_default_timeout(90_000)  # a busy machine is slow
        page.goto(lab(source))
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.locator(".jp-Notebook .cm-content").first.press("Shift+Enter")
        page.wait_for_selector("figure.live[data-state=ready]")
        return page

    yield run
    for context in contexts:
        context.close()


def predicted(text):
    """Return what the model of the cell holds likely after a text, [(token, p)]."""
    model, tokenizer, _ = pretrained.load("gpt2")
    with torch.no_grad():
        best = model(torch.tensor([tokenizer.encode(text)])).logits[0, -1].softmax(-1).topk(10)
    return [
        [tokenizer.decode([i]), p] for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)
    ]


def agrees(top, expected):
    assert [token for token, _ in top] == [token for token, _ in expected]
    assert [p for _, p in top] == pytest.approx([p for _, p in expected], abs=1e-5)


def test_in_jupyterlab_the_kernel_answers_the_figure(ran):
    page = ran(SETUP.format("writer", "The weather is"))
    agrees(state(page)["top"], predicted("The weather is"))
    page.get_by_label("The beginning").fill("The old man sat on")
    asked_to_draw(page, "The old man sat on")
    agrees(state(page)["top"], predicted("The old man sat on"))
    first = state(page)["top"][0][0]
    page.locator(".live-top button").first.press("Enter")
    asked_to_draw(page, "The old man sat on" + first)
    assert page.get_by_role("button", name="Copy link").count() == 0
    assert "live=" not in page.url
    assert json.loads(json.dumps(state(page)))
    assert put(page, text="")["text"] == ""
