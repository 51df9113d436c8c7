"""Figures, tables and computed sentences that work in JupyterLab, in Colab and in the built book.

The book is read without a network and in a dark theme, so a figure is put on the page by
:func:`show`, which adds a text alternative and keeps third-party addresses out.
"""

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown, display
from PIL import Image

from course_utils import markup

#: Okabe and Ito's eight colours, which colour-blind readers can tell apart.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#F0E442",
)


def in_book() -> bool:
    """Return True while a notebook runs for the built book, which brings its own JavaScript."""
    return os.environ.get("COURSE_BOOK") == "1"


def use_course_style() -> None:
    """Set matplotlib's defaults for the course: colour-blind safe colours, readable sizes."""
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=COLOURS),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 12,
            "axes.titleweight": "bold",
            "figure.constrained_layout.use": True,
            "figure.dpi": 120,
            "figure.figsize": (7.0, 3.6),
            "font.size": 10,
            "image.cmap": "viridis",
            "legend.frameon": False,
        }
    )


def show(figure: Any, alt: str) -> None:
    """Display a matplotlib or plotly figure with a text alternative.

    Args:
        figure: a ``matplotlib.figure.Figure`` or a ``plotly.graph_objects.Figure``.
        alt: one or two sentences that tell a reader who cannot see the figure what it shows.

    Raises:
        TypeError: ``figure`` is neither of the two.
        ValueError: ``alt`` is empty.
    """
    if not alt.strip():
        raise ValueError("alt is empty: describe in a sentence what the figure shows.")
    if isinstance(figure, plt.Figure):
        display(HTML(_image(figure, alt)))
    elif hasattr(figure, "to_plotly_json"):
        _show_plotly(figure, alt)
    else:
        raise TypeError(
            f"show() got a {type(figure).__name__}; it expects a matplotlib or plotly figure. "
            "With pyplot, pass the figure of `fig, ax = plt.subplots()`."
        )


def _image(figure: plt.Figure, alt: str) -> str:
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", facecolor="white")
    width = round(figure.get_figwidth() * 100)
    plt.close(figure)
    # With a palette of 128 colours the file is a quarter of the size and looks the same.
    picture = Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.FASTOCTREE, dither=0)
    picture.save(small, "png", optimize=True)
    data = base64.b64encode(small.getvalue()).decode()
    return (
        f'<img class="course-figure" alt="{html.escape(alt)}" '
        f'style="width:{width}px;max-width:100%" src="data:image/png;base64,{data}">'
    )


def _show_plotly(figure: Any, alt: str) -> None:
    if not in_book():
        display(figure)
        return
    # `_static/course.js` draws the figure with the book's own copy of plotly.js, in the
    # colours of the reader's theme. "</" is escaped so that no label can end the script.
    data = figure.to_json().replace("</", "<\\/")
    height = figure.layout.height or 450
    display(
        HTML(
            f'<div class="course-plotly" role="img" aria-label="{html.escape(alt)}" '
            f'style="min-height:{height}px">'
            f'<script type="application/json">{data}</script></div>'
        )
    )


def table(rows: Sequence[Mapping[str, Any]], caption: str) -> None:
    """Display rows as a table; the keys of the first row are the column heads.

    Values are shown with ``str`` and escaped, so a token such as ``</script>`` is shown, not run;
    numbers are aligned right. Format numbers before you pass them.

    Raises:
        ValueError: there are no rows, or one lacks a key of the first.
    """
    if not rows:
        raise ValueError(f"the table {caption!r} has no rows; give at least one.")
    head = list(rows[0])
    if short := [number for number, row in enumerate(rows) if set(head) - set(row)]:
        raise ValueError(f"row {short[0]} of the table {caption!r} lacks a column of {head}.")
    whole = markup.html_table([[row[key] for key in head] for row in rows], head, caption=caption)
    display(HTML(f'<div class="course-table" style="overflow-x:auto">{whole}</div>'))


def say(text: str) -> None:
    """Display a computed sentence as Markdown: numbers in the prose come from the run itself.

    Put a token into it with :func:`course_utils.markup.in_markdown`.
    """
    display(Markdown(text))


def show_snapshots(snapshots: Sequence[tuple[str, str]], label: str) -> None:
    """Display texts one at a time, with a slider to move between them; the last is shown first.

    Args:
        snapshots: ``(caption, text)`` of each, for example of one moment of the training.
        label: what the slider moves through, for example "training step".

    Raises:
        ValueError: there are no snapshots.
    """
    box = (
        "white-space:pre-wrap;overflow-wrap:anywhere;min-height:11em;max-width:46rem;"
        "font-family:monospace;font-size:0.9em;line-height:1.35;padding:0.6rem 0.8rem;"
        "box-sizing:border-box;border:1px solid #8888;border-radius:6px"
    )
    panels = [
        (caption, f'<div style="{box}">{markup.in_html(text)}</div>') for caption, text in snapshots
    ]
    display(HTML(slider(label, panels)))


def slider(label: str, panels: Sequence[tuple[str, str]]) -> str:
    """Return the HTML of a slider that shows one of ``panels`` at a time; the last comes first.

    It works without a network, by mouse, touch and arrow keys; screen readers say the caption.

    Args:
        label: what the slider moves through; escaped here.
        panels: ``(caption, body)`` of each; captions are escaped here, bodies are HTML.

    Raises:
        ValueError: there are no panels.
    """
    if not panels:
        raise ValueError(f"there is nothing to show for the slider {label!r}.")
    last = len(panels) - 1
    captions = [markup.in_html(caption) for caption, _ in panels]
    bodies = "".join(
        f'<div role="group" aria-label="{captions[n]}"{"" if n == last else " hidden"}>{body}</div>'
        for n, (_, body) in enumerate(panels)
    )
    # The handler is in the element itself: it needs no script, no id and no library, and works
    # wherever the output is shown. Without JavaScript the last panel stays in view.
    move = (
        "const whole=this.closest('.course-slider'),value=+this.value;"
        "const panels=[...whole.querySelector('.course-panels').children];"
        "panels.forEach((panel,number)=>{panel.hidden=number!==value});"
        "const caption=panels[value].getAttribute('aria-label');"
        "whole.querySelector('output').textContent=caption;"
        "this.setAttribute('aria-valuetext',caption)"
    )
    return (
        f'<div class="course-slider {markup.NO_MATH}" style="margin:0.5em 0">'
        '<label style="display:flex;gap:0.8rem;align-items:center;max-width:46rem">'
        f"<span>{markup.in_html(label)}</span>"
        f'<input type="range" min="0" max="{last}" value="{last}" step="1" '
        f'aria-valuetext="{captions[-1]}" oninput="{html.escape(move)}" '
        'style="flex:1;min-width:0;accent-color:#0072b2"></label>'
        f'<output style="display:block;margin:0.3rem 0;font-weight:bold">{captions[-1]}</output>'
        f'<div class="course-panels">{bodies}</div></div>'
    )
