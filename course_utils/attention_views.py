"""Views of attention weights: BertViz's, heat maps, a soft lookup to play with, numbers per head.

The views are BertViz's own [Vig, 2019, https://arxiv.org/abs/1906.05714], read from the installed
package. By itself BertViz loads scripts from three addresses on the internet and puts the tokens
into the page unescaped. Here it runs in a sandboxed frame with its own d3 and jQuery.
"""

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import bertviz
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML, display
from torch import Tensor

from course_utils.inputs import check
from course_utils.markup import Markup, in_matplotlib, page
from course_utils.plots import in_book, show

_VENDOR = "../_static/vendor"  # as seen from a chapter's page


def head_view(
    attentions: Sequence[Tensor],
    tokens: Sequence[str],
    *,
    alt: str,
    layers: Sequence[int] | None = None,
    layer: int | None = None,
    heads: Sequence[int] | None = None,
) -> None:
    """Display BertViz's head view: all heads of one layer as lines between two columns of tokens.

    Args:
        attentions: one ``(1, H, T, T)`` tensor per layer, as ``model(…).attentions``.
        tokens: the ``T`` tokens as text.
        alt: a sentence for a reader who cannot see the view.
        layers: the layers to offer; all by default.
        layer: the layer shown at first; the first of ``layers`` by default.
        heads: the heads switched on at first; all by default.
    """
    attentions, layers = _checked(attentions, tokens, layers, alt)
    options = {"include_layers": layers, "layer": layer, "html_action": "return"}
    heads = None if heads is None else list(heads)
    theirs = bertviz.head_view(attentions, list(tokens), heads=heads, **options).data
    height = 22.5 * len(tokens) + 30 + 60  # BertViz: 22.5 px a token; a row of squares; a menu
    words = _in_words(attentions, tokens, layers)
    display(HTML(_frame(_inert(theirs, 3), alt, f"height:{height:.0f}px;max-width:380px", words)))


def model_view(
    attentions: Sequence[Tensor],
    tokens: Sequence[str],
    *,
    alt: str,
    layers: Sequence[int] | None = None,
) -> None:
    """Display BertViz's model view: a thumbnail per layer (row) and head (column).

    Arguments as in :func:`head_view`. Long texts make large pages: choose ``layers`` then.
    """
    attentions, layers = _checked(attentions, tokens, layers, alt)
    options = {"include_layers": layers, "display_mode": "light", "html_action": "return"}
    theirs = bertviz.model_view(attentions, list(tokens), **options).data
    # BertViz's own script: rows of thumbnails, or the detail beside them, whichever is higher.
    thumbnails = len(layers) * (len(tokens) * 7 * 12 / attentions[0].shape[1] + 10) + 38
    height = max(thumbnails, len(tokens) * 18 + 55) + 40
    size = f"min-width:600px;max-width:990px;aspect-ratio:990/{height:.0f}"
    words = _in_words(attentions, tokens, layers)
    display(HTML(_frame(_inert(theirs, 2), alt, size, words)))


def lookup_explorer(keys: Mapping[str, tuple[float, float]], *, alt: str) -> None:
    """Display a soft lookup in the plane: turn and stretch a query, watch the weights follow.

    Args:
        keys: the two numbers of each key, by its name; two to seven keys of length up to 2 or so.
        alt: a sentence for a reader who cannot see the figure.
    """
    explorer = page("lookup_explorer.html", keys=[(str(name), key) for name, key in keys.items()])
    display(HTML(_frame(explorer, alt, "height:440px;min-width:420px;max-width:760px")))


def heat_maps(
    panels: Mapping[str, Tensor],
    queries: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    alt: str,
    axes: tuple[str, str] = ("query", "key"),
    limits: tuple[float, float] = (0.0, 1.0),
    numbers: bool = False,
) -> None:
    """Display matrices of queries (rows) by keys (columns) side by side, in one colour scale.

    Args:
        panels: ``(T_q, T_k)`` each, by its title. Infinite and NaN values are grey.
        queries: ``T_q`` labels.
        keys: ``T_k`` labels; the queries' by default.
        alt: a sentence for a reader who cannot see the figure.
        axes: what the rows and the columns are.
        limits: the values at both ends of the scale; a scale with negative values has two hues.
        numbers: write the value into each cell.
    """
    queries = [in_matplotlib(query.replace("Ġ", "")) for query in queries]
    keys = queries if keys is None else [in_matplotlib(key.replace("Ġ", "")) for key in keys]
    cell = 0.46 if numbers else min(0.24, 4 / len(keys), 7 / len(keys) / len(panels))  # inches
    width, height = max(1.6, cell * len(keys)), max(1.6, cell * len(queries))
    size = (len(panels) * (width + 0.4) + 1.6, height + 1.3)
    figure, row = plt.subplots(
        1, len(panels), figsize=size, dpi=100, squeeze=False, sharey=True, layout="compressed"
    )
    colours = plt.get_cmap("RdBu_r" if limits[0] < 0 else "viridis").with_extremes(bad="#bbb")
    for axis, (title, matrix) in zip(row[0], panels.items(), strict=True):
        values = np.asarray(matrix.detach().cpu().float())
        shown = np.ma.masked_invalid(values)
        image = axis.imshow(shown, cmap=colours, vmin=limits[0], vmax=limits[1])
        axis.set(title="\n".join(map(in_matplotlib, title.split("\n"))), xlabel=axes[1])
        axis.set_xticks(range(len(keys)), keys, rotation=90)
        axis.set_yticks(range(len(queries)), queries)
        axis.tick_params(length=2 if any(keys) else 0)
        if numbers:
            _write_numbers(axis, image, values)
    row[0, 0].set_ylabel(axes[0])
    figure.colorbar(image, ax=row, shrink=0.8)
    show(figure, alt)


def _write_numbers(axis: plt.Axes, image: Any, values: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = image.cmap(image.norm(value)) if np.isfinite(value) else (0.7,) * 4
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        text = f"{value:.2f}".replace("inf", "∞").replace("-", "−")
        color = "white" if dark else "black"
        axis.text(column, row, text, color=color, ha="center", va="center", fontsize=8)


def head_statistics(attentions: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Return what each head does with its attention, averaged over the queries.

    The first query is left out: in a causal model it can only look at itself.

    Args:
        attentions: one ``(1, H, T, T)`` tensor per layer, ``T`` at least 2.

    Returns:
        arrays ``(n_layer, H)``: ``entropy`` in bits (0: one key; log2 T: all keys alike),
        ``distance`` from query to key in tokens, and the share of the attention, 0 to 1, that
        goes to the ``previous`` token, the query's own (``self``), the ``first`` and the ``last``.
    """
    weights = torch.stack([layer[0] for layer in attentions]).detach().double().cpu()
    n_token = weights.shape[-1]
    check(n_token > 1, f"head_statistics needs at least 2 tokens, got {n_token}.")
    position = torch.arange(n_token)
    distance = (position[:, None] - position[None, :]).abs().double()
    queries = weights[:, :, 1:]  # (n_layer, H, T-1, T)
    per_query = {
        "entropy": torch.special.entr(queries).sum(-1) / np.log(2),
        "distance": (queries * distance[1:]).sum(-1),
        "previous": weights.diagonal(-1, dim1=-2, dim2=-1),
        "self": weights.diagonal(dim1=-2, dim2=-1)[..., 1:],
        "first": queries[..., 0],
        "last": queries[..., -1],
    }
    return {name: values.mean(-1).numpy() for name, values in per_query.items()}


def _checked(
    attentions: Sequence[Tensor], tokens: Sequence[str], layers: Sequence[int] | None, alt: str
) -> tuple[Sequence[Tensor], list[int]]:
    """Return the attentions and the list of layers; raise ValueError if they do not fit."""
    check(alt.strip(), "alt is empty: describe in a sentence what the view shows.")
    if not attentions or attentions[0] is None:
        raise ValueError(
            "There are no attention weights. Load the model with attn_implementation='eager' and "
            "call it with output_attentions=True; the fused kernels never compute the weights."
        )
    shape = tuple(attentions[0].shape)
    if len(shape) != 4 or shape[0] != 1 or shape[2:] != (len(tokens), len(tokens)):
        raise ValueError(
            f"attentions[0] has shape {shape}; expected (1, n_head, {len(tokens)}, {len(tokens)}) "
            f"for {len(tokens)} tokens and a batch of one."
        )
    layers = list(range(len(attentions))) if layers is None else list(layers)
    outside = [layer for layer in layers if not 0 <= layer < len(attentions)]
    check(not outside, f"layers {outside} do not exist; there are {len(attentions)} layers.")
    return attentions, layers


def _inert(theirs: str, decimals: int) -> Markup:
    """Remove the outside addresses from BertViz's page, and write its data so that none of it runs.

    Weights are rounded, because digits that nobody can see would be most of the page.
    """
    theirs, tags = re.subn(r'<script src="[^"]*require[^"]*"></script>', "", theirs)
    theirs, configs = re.subn(r"require\.config\(\{.*?\}\);", "", theirs, flags=re.DOTALL)
    before, marker, after = theirs.partition("const params = ")
    if (tags, configs, marker) != (1, 1, "const params = "):
        raise RuntimeError("This release of BertViz writes its page differently; install 1.4.1.")

    def rounded(number: str) -> float:
        value = round(float(number), decimals)
        return int(value) if value in (0, 1) else value  # half of a causal matrix is zeros

    params, _ = json.JSONDecoder(parse_float=rounded).raw_decode(after)
    rest = after.partition("\n")[2]  # drops the line's comment, which repeats all the data
    # In JSON, "<" occurs only inside strings, where \u003c means the same: no token ends a script.
    data = json.dumps(params, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"before": Markup(before), "data": Markup(data), "after": Markup(rest)}
    return page("bertviz.html", **parts, scripts=_scripts(), in_book=in_book())


def _scripts() -> list[Markup]:
    """Return d3 and jQuery: the addresses of the book's shared files, or the code itself."""
    if in_book():
        return [Markup(f"{_VENDOR}/{name}") for name in ("d3.min.js", "jquery.min.js")]
    d3 = resources.files("mpld3") / "js" / "d3.v5.min.js"
    jquery = resources.files("xstatic.pkg.jquery") / "data" / "jquery.min.js"
    return [Markup(file.read_text(encoding="utf-8")) for file in (d3, jquery)]


def _in_words(attentions: Sequence[Tensor], tokens: Sequence[str], layers: Sequence[int]) -> Markup:
    """Return a folded list of where each token looks, for readers who cannot see the drawing."""
    mean = torch.stack([attentions[layer][0] for layer in layers]).double().mean((0, 1))
    lines = []
    for token, row in zip(tokens, mean, strict=True):
        top = row.topk(min(3, len(tokens)))
        found = zip(top.values.tolist(), top.indices.tolist(), strict=True)
        looks = ", ".join(f"{tokens[key]} {weight:.2f}" for weight, key in found if weight >= 0.005)
        lines.append(f"{token}: {looks}".replace("Ġ", ""))
    return page("in_words.html", lines=lines)


def _frame(content: str, alt: str, size: str, below: str = "") -> Markup:
    """Return HTML that shows ``content`` in a frame that may run scripts and do nothing else."""
    source = f'<!doctype html><html lang="en"><meta charset="utf-8">{content}</html>'
    source = source.replace("&", "&amp;").replace('"', "&quot;")  # all that an attribute needs
    parts = {"alt": alt, "size": size, "source": Markup(source), "below": below}
    return page("frame.html", **parts, filled=_VENDOR in content)
