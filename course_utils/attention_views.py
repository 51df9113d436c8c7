"""Views of attention weights: BertViz's, heat maps, a soft lookup to play with, numbers per head.

The views are BertViz's own [Vig, 2019, https://arxiv.org/abs/1906.05714], read from the installed
package. By itself BertViz loads scripts from three addresses on the internet and puts the tokens
into the page unescaped. Here it runs in a sandboxed frame with its own d3 and jQuery.
"""

import html
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bertviz
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML, display
from torch import Tensor

from course_utils.markup import in_html, in_matplotlib
from course_utils.plots import in_book, show

# BertViz uses require.js only to load jQuery and d3, so this line can replace it.
_REQUIRE = "<script>const requirejs = (names, start) => start(jQuery, d3);</script>"

# The drawing is as wide as BertViz made it; the view box lets it shrink on a narrow page.
_FIT = """<script>
for (const svg of document.querySelectorAll("#vis > svg[width]")) {
  const width = svg.getAttribute("width");
  if (width === "100%") continue;
  svg.setAttribute("viewBox", `0 0 ${width} ${svg.getAttribute("height")}`);
  svg.style = "display: block; max-width: 100%; height: auto";
}
</script>"""

_VENDOR = "../_static/vendor"  # as seen from a chapter's page

# In the book the frame is filled by the page, which knows its own way to the book's root. A book
# opened from disk takes the sandbox off, because a sandboxed frame may not read files.
_FILL = """<script>{
  const frame = document.currentScript.previousElementSibling;
  const root = document.documentElement.dataset.content_root ?? "../";
  if (location.protocol === "file:") frame.removeAttribute("sandbox");
  frame.srcdoc = frame.dataset.page.replaceAll('"../_static/', `"${root}_static/`);
}</script>"""

_STYLE = """<style>
:root { color-scheme: light; }
html, body { margin: 0; background: #fff; color: #111; }
body { padding: 8px; font: 15px/1.4 system-ui, sans-serif; }
</style>"""


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
    page = bertviz.head_view(
        _rounded(attentions, decimals=3),
        list(tokens),
        include_layers=layers,
        layer=layer,
        heads=None if heads is None else list(heads),
        html_action="return",
    ).data
    height = 22.5 * len(tokens) + 30 + 60  # BertViz: 22.5 px a token; a row of squares; a menu
    words = _in_words(attentions, tokens, layers)
    display(HTML(_frame(_mended(page), alt, f"height:{height:.0f}px;max-width:380px", words)))


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
    page = bertviz.model_view(
        _rounded(attentions, decimals=2),
        list(tokens),
        include_layers=layers,
        display_mode="light",
        html_action="return",
    ).data
    width, height = 970, _model_view_height(len(layers), attentions[0].shape[1], len(tokens))
    size = f"min-width:600px;max-width:{width + 20}px;aspect-ratio:{width + 20}/{height + 40:.0f}"
    words = _in_words(attentions, tokens, layers)
    display(HTML(_frame(_mended(page), alt, size, words)))


def lookup_explorer(keys: Mapping[str, tuple[float, float]], *, alt: str) -> None:
    """Display a soft lookup in the plane: turn and stretch a query, watch the weights follow.

    Args:
        keys: the two numbers of each key, by its name; two to seven keys of length up to 2 or so.
        alt: a sentence for a reader who cannot see the figure.
    """
    template = (Path(__file__).parent / "lookup_explorer.html").read_text(encoding="utf-8")
    data = json.dumps({str(name): list(key) for name, key in keys.items()})
    page = template.replace('{"KEYS": [1, 0]}', data.replace("<", "\\u003c"))
    display(HTML(_frame(page, alt, "height:440px;min-width:420px;max-width:760px")))


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
    options = {"squeeze": False, "sharey": True, "layout": "compressed"}
    figure, row = plt.subplots(1, len(panels), figsize=size, dpi=100, **options)
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
        text = f"{value:.2f}" if np.isfinite(value) else str(value).replace("inf", "∞")
        text = text.replace("-", "−")
        style = {"ha": "center", "va": "center", "fontsize": 8}
        axis.text(column, row, text, color="white" if dark else "black", **style)


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
    if n_token < 2:
        raise ValueError(f"head_statistics needs at least 2 tokens, got {n_token}.")
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
    """Return the attentions and the list of layers, or say what does not fit."""
    if not alt.strip():
        raise ValueError("alt is empty: describe in a sentence what the view shows.")
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
    if outside := [layer for layer in layers if not 0 <= layer < len(attentions)]:
        raise ValueError(f"layers {outside} do not exist; there are {len(attentions)} layers.")
    return attentions, layers


def _rounded(attentions: Sequence[Tensor], decimals: int) -> list[Tensor]:
    """Return the weights without the digits that nobody can see; they would be most of the page."""
    # Doubles, because 0.123 in single precision prints as 0.12300000339746094.
    return [layer.detach().double().cpu().round(decimals=decimals) for layer in attentions]


def _mended(page: str) -> str:
    """Remove the outside addresses from BertViz's page, and write its data so that it is inert."""
    page, tags = re.subn(r'<script src="[^"]*require[^"]*"></script>', "", page)
    page, configs = re.subn(r"require\.config\(\{.*?\}\);", "", page, flags=re.DOTALL)
    before, marker, after = page.partition("const params = ")
    if (tags, configs, marker) != (1, 1, "const params = "):
        raise RuntimeError("This release of BertViz writes its page differently; install 1.4.1.")
    params, _ = json.JSONDecoder().raw_decode(after)
    rest = after.partition("\n")[2]  # drops the line's comment, which repeats all the data
    for view in params["attention"]:
        view["attn"] = _short(view["attn"])
    # In JSON, "<" occurs only inside strings, where \u003c means the same: no token ends a script.
    data = json.dumps(params, separators=(",", ":")).replace("<", "\\u003c")
    return f"{_STYLE}{_scripts()}{_REQUIRE}{before}const params = {data};\n{rest}{_FIT}"


def _short(values: Any) -> Any:
    """Write 0.0 and 1.0 as 0 and 1 in nested lists: half of a causal matrix is zeros."""
    if isinstance(values, list):
        return [_short(value) for value in values]
    return int(values) if values in (0, 1) else values


def _model_view_height(n_layer: int, n_head: int, n_token: int) -> float:
    """Return the height of BertViz's model view in pixels, by the rule in its own script."""
    thumbnails = n_layer * (n_token * 7 * 12 / n_head + 10) + 38
    detail = n_token * 18 + 55
    return max(thumbnails, detail)


def _scripts() -> str:
    """Return script tags for d3 and jQuery: the book's shared files, or the code itself."""
    if in_book():
        names = ("d3.min.js", "jquery.min.js")
        return "".join(f'<script src="{_VENDOR}/{name}"></script>' for name in names)
    mpld3 = Path(importlib.util.find_spec("mpld3").origin).parent
    xstatic = Path(importlib.util.find_spec("xstatic.pkg.jquery").origin).parent
    files = (mpld3 / "js" / "d3.v5.min.js", xstatic / "data" / "jquery.min.js")
    return "".join(f"<script>{path.read_text(encoding='utf-8')}</script>" for path in files)


def _in_words(attentions: Sequence[Tensor], tokens: Sequence[str], layers: Sequence[int]) -> str:
    """Return a folded list of where each token looks, for readers who cannot see the drawing."""
    mean = torch.stack([attentions[layer][0] for layer in layers]).double().mean((0, 1))
    items = []
    for token, row in zip(tokens, mean, strict=True):
        top = row.topk(min(3, len(tokens)))
        looks = ", ".join(
            f"{tokens[key]} {weight:.2f}"
            for weight, key in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            if weight >= 0.005
        )
        items.append(f"<li>{in_html(f'{token}: {looks}'.replace('Ġ', ''))}</li>")
    return (
        "<details><summary>The same in words</summary>"
        "<p>Where each token looks most, averaged over the heads and layers of this view:</p>"
        f"<ul>{''.join(items)}</ul></details>"
    )


def _frame(page: str, alt: str, size: str, below: str = "") -> str:
    """Return HTML that shows ``page`` in a frame that may run scripts and do nothing else."""
    source = f'<!doctype html><html lang="en"><meta charset="utf-8">{page}</html>'
    source = source.replace("&", "&amp;").replace('"', "&quot;")  # all that an attribute needs
    attribute, script = ("data-page", _FILL) if _VENDOR in page else ("srcdoc", "")
    return (
        '<div class="course-frame tex2jax_ignore mathjax_ignore" style="overflow-x:auto">'
        f'<iframe title="{html.escape(alt)}" sandbox="allow-scripts" style="display:block;'
        "width:100%;box-sizing:border-box;border:1px solid #8886;border-radius:6px;"
        f'background:#fff;color-scheme:light;{size}" {attribute}="{source}"></iframe>'
        f"{script}{below}</div>"
    )
