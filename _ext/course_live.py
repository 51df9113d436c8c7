"""Sphinx extension: the living figures, their engine's model and what they show before it is there.

A page says where a figure stands with ``<div class="live-here" data-live="NAME">…</div>``; what is
inside is for readers in Jupyter. In the site it becomes a figure that is drawn here, on the server,
so that it stands without JavaScript and on paper; the scripts in ``live/`` bring it to life.

At the end of a build ``_static/live/model`` gets GPT-2 mini with 8 bits a weight and the two
tokenizers, each as a file and as a script that holds the file, for pages opened from a folder.
"""

import base64
import copy
import hashlib
import html
import json
import math
import re
import shutil
from collections.abc import Iterator
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, GPT2TokenizerFast

from course_utils import assets, pretrained
from course_utils.bpe import BPETokenizer, Pair, merge_pair, to_symbols
from tools import (
    live_diagnosis,
    live_masks,
    live_positions,
    live_quantize,
    live_ring,
    live_scaling,
    live_train,
    live_vectors,
)

#: The scripts that every living figure needs, in order; its own comes last.
SCRIPTS = ("live", "sampling", "engine", "assets", "shell")
#: An element that computes by itself needs only these.
FRAME = ("live", "shell")
WITHOUT_ENGINE = ("positions", "train", "scaling", "diagnosis", "vectors", "ring")
#: Those that the engine fetches for its worker when the reader asks for a model.
WORKER = ("tokenizer", "wordpiece", "gpt2", "desk")
LIVE = Path(__file__).resolve().parents[1] / "live"
BLANK = "<!doctype html><meta charset=utf-8><title>A living figure</title>"
HERE = re.compile(r'<div class="live-here" data-live="(\w+)">(.*?)</div>', re.DOTALL)
CAPTIONS = {
    "writer": "GPT-2 mini writes. Bars: what it holds likely as the next token.",
    "tokenizer": "One text is many tokens or few, depending on the tokenizer. Dots are spaces.",
    "attention": "The heads of GPT-2 mini on one sentence: each looks at other tokens.",
    "machine": "GPT-2 mini at work: what the stream would say after each part of each block.",
    "sampling": "What GPT-2 mini holds likely next, and what the knobs of sampling make of it.",
    "masks": live_masks.CAPTION,
    "quantize": live_quantize.CAPTION,
    "positions": live_positions.CAPTION,
    "train": live_train.CAPTION,
    "scaling": live_scaling.CAPTION,
    "diagnosis": live_diagnosis.CAPTION,
    "vectors": live_vectors.CAPTION,
    "ring": live_ring.CAPTION,
}

#: How tall each figure gets, in rem, beside the sidebar and on a phone.
TALL = {
    "writer": (38, 66),
    "tokenizer": (54, 78),
    "attention": (51, 93),
    "machine": (57, 104),
    "sampling": (43, 82),
    "masks": (68, 126),
    "quantize": (62, 102),
    "positions": (50, 84),
    "train": (54, 87),
    "scaling": (46, 50),
    "diagnosis": (26, 42),
    "vectors": (70, 122),
    "ring": (40, 58),
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


def write_engine(folder: Path) -> None:
    """Write the scripts, the model and a page, ``engine.html``, that has the engine and no more."""
    live = folder / "_static" / "live"
    shutil.copytree(LIVE, live, dirs_exist_ok=True)
    write_assets(live)
    names = [SCRIPTS[0], *WORKER, *SCRIPTS[1:-1]]
    scripts = "".join(f'<script src="_static/live/{name}.js"></script>' for name in names)
    (folder / "engine.html").write_text(BLANK + scripts, encoding="utf-8")


@cache
def whole_numbers() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each matrix of the page's model in 8 bits, rows first, and the scales of its rows."""
    matrices = {name: rows_first(name, w) for name, w in weights_of(mini()[0]) if w.dim() == 2}
    return {name: rounded_rows(matrix) for name, matrix in matrices.items()}


def with_bits(bits: int, scale: str = "row") -> GPT2LMHeadModel:
    """Return the page's model with fewer bits a weight, rounded as ``live.withBits`` does it.

    The largest weight that shares a scale becomes the largest whole number that ``bits`` bits can
    write. Scales belong to a "row" or to the whole "matrix".
    """
    model, most = copy.deepcopy(mini()[0]), 2 ** (bits - 1) - 1
    weights = dict(weights_of(model))
    for name, (q, scales) in whole_numbers().items():
        step = scales[:, None].astype(np.float64)
        largest = np.abs(q.astype(np.int16)).max(axis=1, keepdims=True).clip(1).astype(np.float64)
        if scale == "matrix":
            largest = (largest * step).max() / step
        fewer = q.astype(np.float64)
        for change, by in ((np.multiply, most), (np.divide, largest), (np.add, 0.5)):
            change(fewer, by, out=fewer)  # in place: there are millions
        np.floor(fewer, out=fewer)
        fewer *= step * largest / most
        weights[name].copy_(rows_first(name, torch.from_numpy(fewer)))
    return model


def stored_quantize() -> dict[str, Any]:
    """Return a text's perplexity and what the model writes, for all numbers of bits."""
    model, tokenizer = mini()
    shapes = [tuple(rows_first(name, weight).shape) for name, weight in weights_of(model)]
    return live_quantize.data(with_bits, tokenizer, shapes)


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
    sources = b"".join((LIVE / f"{name}.js").read_bytes() for name in WORKER)
    version = hashlib.sha256(sources).hexdigest()[:12]
    text = f'live.assets = {json.dumps(table)};\nlive.version = "{version}";\n'
    (target / "assets.js").write_text(text)


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
        f'<span class="live-track"></span><span class="live-p">{percent(p)}</span></span></li>'
        for token, p, _ in top
    )
    return f'<ol class="live-top">{rows}</ol>'


def percent(p: float) -> str:
    """Return a probability as the page writes it."""
    if p >= 0.0995:
        return f"{p:.0%}"
    return f"{p:.1%}" if p >= 0.00095 else "&lt;0.1%" if p else "0%"


def visible(token: str) -> str:
    """Return a token with its spaces and line breaks in sight."""
    return token.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")


def still_writer(stored: dict[str, Any]) -> str:
    """Return the writer's beginning as it stands without JavaScript."""
    return f"<p><b>{html.escape(stored['prompt'])}</b> …</p>{bars(stored['tree'][''])}"


def stored_tokenizer() -> dict[str, Any]:
    """Return a text in GPT-2's and BERT's tokenizers, with GPT-2's merges on the way."""
    text = "The weather is unputdownable 🙂"
    gpt2, bert = pretrained.load_tokenizer("gpt2"), pretrained.load_tokenizer("bert")
    folder = assets.get("gpt2-tokenizer")
    merges = BPETokenizer.from_files(folder / "vocab.json", folder / "merges.txt").merges
    ranks = {pair: n for n, pair in enumerate(merges)}
    pieces = gpt2.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    ids = bert.encode(text, add_special_tokens=False)
    return {
        "text": text,
        **{"piece": 3, "stage": 6},
        "pieces": [
            {"piece": text[start:end], "stages": _stages(text[start:end], ranks, gpt2)}
            for _, (start, end) in pieces
        ],
        "wordpiece": {"ids": ids, "tokens": bert.convert_ids_to_tokens(ids)},
    }


def _stages(piece: str, ranks: dict[Pair, int], gpt2: GPT2TokenizerFast) -> list[dict[str, Any]]:
    """Return every stage from bytes to tokens, as the page's tokenizer gives them."""
    stages: list[dict[str, Any]] = []
    parts, joined = [bytes([byte]) for byte in piece.encode()], None
    while True:
        ids = gpt2.convert_tokens_to_ids([to_symbols(part) for part in parts])
        tokens = [gpt2.decode([id_]) for id_ in ids]
        stages.append({"ids": ids, "joined": joined, "tokens": tokens})
        known = [pair for pair in pairwise(parts) if pair in ranks]
        if not known:
            return stages
        best = min(known, key=ranks.__getitem__)
        parts = merge_pair(parts, best)
        joined = gpt2.convert_tokens_to_ids(to_symbols(b"".join(best)))


def still_tokenizer(stored: dict[str, Any]) -> str:
    """Return the four rows of tokens as they stand without JavaScript."""
    text = stored["text"]
    rows = {
        "Characters": list(text),
        "Bytes of UTF-8": [f"{byte:02x}" for byte in text.encode()],
        "BERT's WordPiece": stored["wordpiece"]["tokens"],
        "GPT-2's BPE": [t for piece in stored["pieces"] for t in piece["stages"][-1]["tokens"]],
    }
    return "".join(
        f'<p><b>{name}</b> <span class="live-count">{len(tokens)}</span></p>{chips(tokens)}'
        for name, tokens in rows.items()
    )


def chips(tokens: list[str]) -> str:
    """Return tokens as a row of coloured pieces."""
    parts = "".join(
        f'<span class="live-chip live-hue-{n % 5}">{html.escape(visible(token))}</span>'
        for n, token in enumerate(tokens)
    )
    return f'<p class="live-chips">{parts}</p>'


def stored_sampling() -> dict[str, Any]:
    """Return the logits after a text: the 1,000 likeliest, and the rest as a curve."""
    model, tokenizer = mini()
    text = "The weather is cold today, so I will wear my"
    ids = tokenizer.encode(text)
    logits = model(torch.tensor([ids])).logits[0, -1]
    order = logits.argsort(descending=True).tolist()
    head = [*order[:1000], *(id_ for id_ in sorted(set(ids)) if id_ not in order[:1000])]
    chosen = set(head)
    rest = torch.tensor([logits[id_].item() for id_ in order if id_ not in chosen])
    places = torch.linspace(0, len(rest) - 1, 400).round().long()
    return {
        "text": text,
        "size": len(logits),
        "log_total": round(logits.logsumexp(0).item(), 5),
        "previous": [head.index(id_) for id_ in ids],
        "head": [[tokenizer.decode([i]), i, round(logits[i].item(), 5)] for i in head],
        "knots": [round(value, 4) for value in rest[places].tolist()],
    }


def still_sampling(stored: dict[str, Any]) -> str:
    """Return the likeliest tokens as they stand without JavaScript."""
    total = stored["log_total"]
    top = [[token, math.exp(logit - total), id_] for token, id_, logit in stored["head"][:10]]
    return f"<p><b>{html.escape(stored['text'])}</b> …</p>{bars(top)}"


def stored_attention() -> dict[str, Any]:
    """Return the scores of all heads on a sentence."""
    model, tokenizer = mini()
    text = "My sister opened the old box, and inside she found"
    ids = tokenizer.encode(text)
    steps, config = listen(ids), model.config
    layers = range(config.n_layer)
    scores = [
        [[[round(v, 3) for v in row] for row in head] for head in steps[layer, "scores"].tolist()]
        for layer in layers
    ]
    return {
        "text": text,
        "tokens": [tokenizer.decode([id_]) for id_ in ids],
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "d_k": config.n_embd // config.n_head,
        **dict(zip(("layer", "head", "query"), telling_head(steps, len(ids)), strict=True)),
        "packed": scores,
        "added": [added(steps[n, "block in"], steps[n, "attention"]) for n in layers],
    }


def telling_head(steps: dict[tuple[int, str], Tensor], T: int) -> tuple[int, int, int]:
    """Return the block, the head and the token that looks hardest at one word further back.

    That is neither the first token, at which many heads rest, nor the one before.
    """
    shares = {}
    for (layer, name), scores in steps.items():
        if name == "scores":
            hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
            weights = scores.masked_fill(hidden, -math.inf).softmax(-1)  # (H, T, T)
            shares[layer] = weights.tril(-2)[:, :, 1:].amax(-1)  # (H, T)
    layer = max(shares, key=lambda n: shares[n].max().item())
    head, query = divmod(int(shares[layer].argmax()), T)
    return layer, head, query


def added(before: Tensor, attention: Tensor, n: int = 32) -> dict[str, Any]:
    """Return what attention adds to each token's vector ``(T, C)``: the first ``n`` numbers.

    They have 8 bits each and a scale for each token; lengths are those of the whole vectors.
    """
    parts = []
    for x in (before, attention):
        numbers, scales = rounded_rows(x[:, :n])
        parts.append([live_vectors.packed(numbers), [round(scale, 6) for scale in scales.tolist()]])
    lengths = torch.stack([x.norm(dim=-1) for x in (before, attention, before + attention)], 1)
    return {"parts": parts, "lengths": [[round(v, 4) for v in row] for row in lengths.tolist()]}


def listen(ids: list[int]) -> dict[tuple[int, str], Tensor]:
    """Return what passes through GPT-2 mini, by block and by the name that chapter 6 gives it.

    Scores ``(H, T, T)`` are computed from queries and keys; what is masked has no meaning there.
    """
    model, _ = mini()
    names = {"ln_1": "norm 1", "attn.c_attn": "q, k and v", "attn.c_proj": "attention"}
    names |= {"ln_2": "norm 2", "mlp.c_fc": "widened", "mlp.c_proj": "MLP"}
    steps: dict[tuple[int, str], Tensor] = {}

    def keep(layer: int, name: str):
        def hook(_, inputs, output):
            steps[layer, name] = output[0]
            if name == "attention":
                steps[layer, "context"] = inputs[0][0]

        return hook

    hooks = [
        block.get_submodule(path).register_forward_hook(keep(layer, name))
        for layer, block in enumerate(model.transformer.h)
        for path, name in names.items()
    ]
    out = model(torch.tensor([ids]), output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    n_head = model.config.n_head
    for layer in range(model.config.n_layer):
        steps[layer, "block in"] = out.hidden_states[layer][0]
        q, k, _ = (
            part.unflatten(-1, (n_head, -1)).transpose(0, 1)
            for part in steps[layer, "q, k and v"].chunk(3, -1)
        )
        steps[layer, "scores"] = q @ k.mT / math.sqrt(q.shape[-1])
    return steps


def packed(tensor: Tensor) -> list[Any]:
    """Return a tensor as its shape and its numbers in half precision, as text."""
    return [list(tensor.shape), live_vectors.packed(tensor.half().numpy())]


def stored_machine() -> dict[str, Any]:
    """Return what passes through the model for a prompt: block 0 whole, of the others the stream.

    The page adds up the rest: the stream is the sum of what attention and MLP wrote.
    """
    model, tokenizer = mini()
    text = "The weather is"
    ids = tokenizer.encode(text)
    steps, config = listen(ids), model.config
    wte, final = model.transformer.wte.weight, model.transformer.ln_f
    tensors = {"|token rows": wte[ids], "|stream at the start": steps[0, "block in"]}
    streams = [steps[0, "block in"]]
    for layer in range(config.n_layer):
        for name in ("scores", "attention", "MLP"):
            tensors[f"{layer}|{name}"] = steps[layer, name]
        streams.append(streams[-1] + steps[layer, "attention"])
        streams.append(streams[-1] + steps[layer, "MLP"])
    for name in ("norm 1", "q, k and v", "context", "norm 2", "widened"):
        tensors[f"0|{name}"] = steps[0, name]
    tensors["|final norm"] = final(streams[-1])
    lens = [top_ten(final(stream[-1]) @ wte.T, tokenizer)[:3] for stream in streams]
    return {
        "text": text,
        "ids": ids,
        "tokens": [tokenizer.decode([id_]) for id_ in ids],
        **{"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd},
        "lens": [[[token, p] for token, p, _ in top] for top in lens],
        "top": top_ten(final(streams[-1][-1]) @ wte.T, tokenizer),
        "packed": {key: packed(tensor) for key, tensor in tensors.items()},
    }


def still_machine(stored: dict[str, Any]) -> str:
    """Return what the stream would say after each block, as it stands without JavaScript."""
    rows = "".join(
        f"<li>after block {layer}: “{html.escape(visible(token))}”, {percent(p)}</li>"
        for layer, ((token, p), *_) in enumerate(stored["lens"][2::2])
    )
    return f"{chips(stored['tokens'])}<ul>{rows}</ul>{bars(stored['top'])}"


def still_attention(stored: dict[str, Any]) -> str:
    """Return one row of weights as bars, as it stands without JavaScript."""
    row = stored["packed"][stored["layer"]][stored["head"]][stored["query"]]
    seen = torch.tensor(row[: stored["query"] + 1]).softmax(-1).tolist()
    order = [[token, p, 0] for token, p in zip(stored["tokens"], seen, strict=False)]
    order.sort(key=lambda pair: -pair[1])  # the first one sets the scale of the bars
    asks = html.escape(visible(stored["tokens"][stored["query"]]))
    return f"{chips(stored['tokens'])}<p>“{asks}” takes most from:</p>{bars(order[:6])}"


STORED = {
    "writer": stored_writer,
    "tokenizer": stored_tokenizer,
    "attention": stored_attention,
    "machine": stored_machine,
    "sampling": stored_sampling,
    "masks": lambda: live_masks.data(*mini()),
    "quantize": stored_quantize,
    "positions": live_positions.data,
    "train": live_train.data,
    "scaling": live_scaling.data,
    "vectors": live_vectors.data,
    "ring": live_ring.data,
}
#: Scripts with more of an element, which its reader asks for: what writes them, by file.
MORE = {
    "train": {live_train.ON_REQUEST: live_train.text_script},
    "vectors": {f"{live_vectors.ON_REQUEST}.js": live_vectors.script},
}
STILLS = {
    "writer": still_writer,
    "tokenizer": still_tokenizer,
    "attention": still_attention,
    "machine": still_machine,
    "sampling": still_sampling,
    "masks": live_masks.still,
    "quantize": live_quantize.still,
    "positions": live_positions.still,
    "train": live_train.still,
    "scaling": live_scaling.still,
    "diagnosis": live_diagnosis.still,
    "vectors": live_vectors.still,
    "ring": live_ring.still,
}


STORED |= {
    f"diagnosis-{key}": partial(live_diagnosis.data, key) for key in live_diagnosis.homework()
}


@cache
def stored(name: str) -> dict[str, Any]:
    """Return what an element shows before the model is there.

    ``name`` is the element's; "diagnosis-hw2" for the one that belongs to a homework.
    """
    with torch.no_grad():
        return STORED[name]()


# --- the site ------------------------------------------------------------------------------------


def figure(file: str) -> str:
    """Return the figure of an element, as it stands without JavaScript and on paper.

    ``file`` is the name of what it shows at first, see :func:`stored`.
    """
    name = file.partition("-")[0]
    still = f'<div class="live-still">{STILLS[name](stored(file))}</div>'
    caption = f"<figcaption>{html.escape(CAPTIONS[name])}</figcaption>"
    room = "--tall: {}rem; --tall-narrow: {}rem".format(*TALL[name])
    opening = (
        f'<figure class="live" id="live-{name}" data-live="{name}" data-state="stored" '
        f'style="{room}">'
    )
    return f"{opening}{still}{caption}</figure>"


def bring_to_life(app, pagename, templatename, context, doctree):
    """Put the figures where the page says so, and load what they need on this page alone."""
    body = context.get("body", "")
    homework = re.search(r"homework/(\w+?)_", pagename)

    def beginning(name: str) -> str:
        return f"{name}-{homework[1]}" if homework and name == "diagnosis" else name

    names = list(dict.fromkeys(name for name, _ in HERE.findall(body)))
    if not names:
        return
    context["body"] = HERE.sub(lambda found: figure(beginning(found[1])), body)
    app.add_css_file("live/live.css")
    files = list(FRAME if set(names) <= set(WITHOUT_ENGINE) else SCRIPTS)
    for name in names:
        app.add_css_file(f"live/elements/{name}.css")
        files += [f"stored/{beginning(name)}", f"elements/{name}"]
    for number, file in enumerate(files):
        app.add_js_file(f"live/{file}.js", loading_method="defer", priority=600 + number)


def write_site(live: Path, target: Path) -> None:
    """Write all that living figures need into ``target``; ``live`` holds their scripts."""
    shutil.copytree(live, target, dirs_exist_ok=True)
    write_assets(target)
    for name in STORED:
        write_stored(target / "stored", name)


def write_stored(folder: Path, name: str) -> None:
    """Write what an element shows at first into ``folder``, as a script, and what it has more."""
    folder.mkdir(exist_ok=True)
    for file, write in MORE.get(name, {}).items():
        (folder.parent / "model").mkdir(exist_ok=True)
        (folder.parent / "model" / file).write_text(write(), encoding="utf-8")
    text = json.dumps(stored(name), ensure_ascii=False, separators=(",", ":"))
    element = name.partition("-")[0]
    (folder / f"{name}.js").write_text(f"live.stored.{element} = {text};\n", encoding="utf-8")


def write_files(app, exception):
    """Write the engine, its model and the stored beginnings into the finished site."""
    if exception is None and app.builder.format == "html":
        write_site(Path(app.srcdir) / "live", Path(app.outdir) / "_static" / "live")


def setup(app):
    """Register the hooks; Sphinx calls this."""
    app.connect("html-page-context", bring_to_life, priority=960)
    app.connect("build-finished", write_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
