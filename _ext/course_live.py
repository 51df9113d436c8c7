"""Sphinx extension: the living figures, their engine's model and what they show before it is there.

A page says where a figure stands with ``<div class="live-here" data-live="NAME">…</div>``; what is
inside is for readers in Jupyter. In the site it becomes a figure that is drawn here, on the server,
so that it stands without JavaScript and on paper; the scripts in ``live/`` bring it to life.

At the end of a build ``_static/live/model`` gets GPT-2 mini with 8 bits a weight and the two
tokenizers, each as a file and as a script that holds the file, for pages opened from a folder.
"""

import base64
import hashlib
import html
import json
import math
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, GPT2TokenizerFast

from course_utils import assets, pretrained
from tools import live_train

#: The scripts that every living figure needs, in order; its own comes last.
ENGINE = ("live", "tokenizer", "wordpiece", "gpt2", "sampling", "engine", "shell")
HERE = re.compile(r'<div class="live-here" data-live="(\w+)">(.*?)</div>', re.DOTALL)
CAPTIONS = {
    "writer": "GPT-2 mini writes. Bars: what it holds likely as the next token.",
}

# --- the model's file --------------------------------------------------------------------------


def rounded_rows(matrix: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return a matrix ``(rows, columns)`` in 8 bits, and the scale of each row as float32.

    A row's largest weight becomes 127; a weight is about its 8-bit number times its row's scale.
    """
    values = matrix.double().numpy()
    scales = np.maximum(np.abs(values).max(axis=1), 1e-12) / 127
    return np.rint(values / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def rows_first(name: str, weight: Tensor) -> Tensor:
    """Return a weight with a row for each output; GPT-2 stores its layers as (in, out)."""
    is_layer = name.endswith(".weight") and re.search(r"\.c_(attn|proj|fc)\.", name)
    return weight.T if is_layer else weight


def weights_of(model: GPT2LMHeadModel) -> Iterator[tuple[str, Tensor]]:
    """Yield names, as in ``model.transformer``, and weights; the tied head comes once."""
    for name, weight in model.transformer.named_parameters():
        yield name, weight.detach()


def model_file(model: GPT2LMHeadModel) -> bytes:
    """Return the file that ``live.readModel`` reads: a table in JSON, then the numbers."""
    tensors: dict[str, dict[str, Any]] = {}
    chunks: list[bytes] = []

    def put(array: np.ndarray) -> int:
        at = sum(map(len, chunks))
        chunks.append(array.tobytes() + b"\0" * (-array.nbytes % 8))
        return at

    for name, weight in weights_of(model):
        if weight.dim() == 1:
            values = weight.float().numpy()
            tensors[name] = {"shape": list(values.shape), "at": put(values)}
        else:
            whole, scales = rounded_rows(rows_first(name, weight))
            tensors[name] = {"shape": list(whole.shape), "at": put(whole), "scales": put(scales)}
    sizes = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "layer_norm_epsilon")
    config = {size: getattr(model.config, size) for size in sizes}

    def head(base: int) -> bytes:
        moved = {
            name: {k: v + base if k in ("at", "scales") else v for k, v in entry.items()}
            for name, entry in tensors.items()
        }
        table = json.dumps({"config": config, "tensors": moved}, separators=(",", ":"))
        return table.encode()

    start = math.ceil((len(head(10**6)) + 4 + 200) / 8) * 8  # room for the digits of the offsets
    table = head(start).ljust(start - 4)
    return len(table).to_bytes(4, "little") + table + b"".join(chunks)


@cache
def mini() -> tuple[GPT2LMHeadModel, GPT2TokenizerFast]:
    """Return GPT-2 mini with the rounded weights that the page has, and its tokenizer."""
    model = GPT2LMHeadModel.from_pretrained(
        pretrained.folder_of("gpt2-mini"), attn_implementation="eager", dtype=torch.float32
    )
    model.eval().requires_grad_(False)
    for name, weight in weights_of(model):
        if weight.dim() == 2:
            whole, scales = rounded_rows(rows_first(name, weight))
            weight.copy_(rows_first(name, torch.from_numpy(whole * scales[:, None])))
    return model, pretrained.load_tokenizer("gpt2")


def write_assets(target: Path) -> None:
    """Write the files that the engine loads on request into ``target``, and a table of them."""
    original = GPT2LMHeadModel.from_pretrained(
        pretrained.folder_of("gpt2-mini"), dtype=torch.float32
    )
    files = {
        "gpt2-mini.bin": model_file(original),
        "merges.txt": (assets.get("gpt2-tokenizer") / "merges.txt").read_bytes(),
        "bert-vocabulary.txt": (assets.get("bert-vocabulary") / "vocab.txt").read_bytes(),
    }
    (target / "model").mkdir(parents=True, exist_ok=True)
    table = {}
    for name, content in files.items():
        (target / "model" / name).write_bytes(content)
        text = base64.b64encode(content).decode("ascii")
        (target / "model" / f"{name}.js").write_text(f'live.arrive("{name}", "{text}");\n')
        table[name] = {"bytes": len(content), "version": hashlib.sha256(content).hexdigest()[:12]}
    (target / "assets.js").write_text(f"live.assets = {json.dumps(table)};\n")


# --- what is shown before the model is there -----------------------------------------------------

Top = list[list[Any]]  # [[token, probability, id]], the likeliest first


def top_ten(logits: Tensor, tokenizer: GPT2TokenizerFast) -> Top:
    """Return the ten likeliest tokens of logits ``(V,)``."""
    best = logits.softmax(-1).topk(10)
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [[tokenizer.decode([id_]), round(p, 5), id_] for p, id_ in pairs]


def stored_writer() -> dict[str, Any]:
    """Return a beginning, a drawn continuation, and the likeliest tokens on the first paths."""
    model, tokenizer = mini()
    prompt = "Once upon a time, there was a little"
    ids = tokenizer.encode(prompt)
    tree: dict[str, Top] = {}

    def grow(path: list[int]) -> Top:
        key = " ".join(map(str, path))
        if key not in tree:
            tree[key] = top_ten(model(torch.tensor([ids + path])).logits[0, -1], tokenizer)
        return tree[key]

    for _, _, first in grow([]):
        for _, _, second in grow([first])[:4]:
            grow([first, second])
    path: list[int] = []
    for _ in range(12):  # for those who always take the likeliest
        path.append(grow(path)[0][2])
    generator = torch.Generator().manual_seed(5)
    path = []
    for _ in range(40):
        top = grow(path)
        chances = torch.tensor([p for _, p, _ in top]) ** (1 / 0.7)
        path.append(top[int(torch.multinomial(chances, 1, generator=generator))][2])
    grow(path)
    drawn = [[tokenizer.decode([id_]), id_] for id_ in path]
    return {"prompt": prompt, "drawn": drawn, "tree": tree}


def bars(top: Top) -> str:
    """Return the likeliest tokens as a list with bars, as the page's script draws it."""
    rows = "".join(
        f'<li><span class="live-bar" style="--p: {100 * p / top[0][1]:.1f}%">'
        f'<span class="live-token">{html.escape(visible(token))}</span>'
        f'<span class="live-track"></span><span class="live-p">{p:.0%}</span></span></li>'
        for token, p, _ in top
    )
    return f'<ol class="live-top">{rows}</ol>'


def visible(token: str) -> str:
    """Return a token with its spaces and line breaks in sight."""
    return token.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")


def still_writer(stored: dict[str, Any]) -> str:
    """Return the writer's beginning as it stands without JavaScript."""
    return f"<p><b>{html.escape(stored['prompt'])}</b> …</p>{bars(stored['tree'][''])}"


STORED = {"writer": stored_writer}
STILLS = {"writer": still_writer}


@cache
def stored(name: str) -> dict[str, Any]:
    """Return what element ``name`` shows before the model is there."""
    with torch.no_grad():
        return STORED[name]()


# --- the site ------------------------------------------------------------------------------------


def figure(name: str) -> str:
    """Return the figure of an element, as it stands without JavaScript and on paper."""
    if name == "train":
        return live_train.figure()
    still = f'<div class="live-still">{STILLS[name](stored(name))}</div>'
    caption = f"<figcaption>{html.escape(CAPTIONS[name])}</figcaption>"
    opening = f'<figure class="live" id="live-{name}" data-live="{name}" data-state="stored">'
    return f"{opening}{still}{caption}</figure>"


def bring_to_life(app, pagename, templatename, context, doctree):
    """Put the figures where the page says so, and load what they need on this page alone."""
    body = context.get("body", "")
    names = list(dict.fromkeys(name for name, _ in HERE.findall(body)))
    if not names:
        return
    context["body"] = HERE.sub(lambda found: figure(found[1]), body)
    training = "train" in names  # it has a model of its own and none of the others' engine
    files = ["train/train", "train/start"] if training else []
    if training:
        names.remove("train")
        app.add_css_file("live/train/train.css")
    if names:
        app.add_css_file("live/live.css")
        files += [*ENGINE, "assets"]
    for name in names:
        files += [f"stored/{name}", f"elements/{name}"]
    for number, file in enumerate(files):
        app.add_js_file(f"live/{file}.js", loading_method="defer", priority=600 + number)


def write_site(live: Path, target: Path) -> None:
    """Write all that living figures need into ``target``; ``live`` holds their scripts."""
    shutil.copytree(live, target, dirs_exist_ok=True)
    write_assets(target)
    (target / "stored").mkdir(exist_ok=True)
    for name in STORED:
        text = json.dumps(stored(name), ensure_ascii=False, separators=(",", ":"))
        path = target / "stored" / f"{name}.js"
        path.write_text(f"live.stored.{name} = {text};\n", encoding="utf-8")
    live_train.write_files(target / "train")


def write_files(app, exception):
    """Write the engine, its model and the stored beginnings into the finished site."""
    if exception is None and app.builder.format == "html":
        write_site(Path(app.srcdir) / "live", Path(app.outdir) / "_static" / "live")


def setup(app):
    """Register the hooks; Sphinx calls this."""
    app.connect("html-page-context", bring_to_life, priority=960)
    app.connect("build-finished", write_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
