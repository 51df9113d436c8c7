"""Figures, tables and computed sentences that work in JupyterLab, in Colab and in the built book.

The book is read without a network and in a dark theme, so a figure is put on the page by
:func:`show`, which adds a text alternative and keeps third-party addresses out.
"""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown, display
from PIL import Image

from course_utils import markup
from course_utils.inputs import check
from course_utils.metrics import perplexity
from course_utils.run import History

#: Okabe and Ito's eight colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def in_book() -> bool:
    """Return True while a notebook runs for the built book, which brings its own JavaScript."""
    return os.environ.get("COURSE_BOOK") == "1"


def use_course_style() -> None:
    """Set matplotlib's defaults for the course: colour-blind safe colours, readable sizes."""
    plt.style.use(str(resources.files("course_utils") / "page" / "course.mplstyle"))
    plt.rcParams["axes.prop_cycle"] = plt.cycler(color=COLOURS)


def show(figure: Any, alt: str) -> None:
    """Display a matplotlib or plotly figure with a text alternative.

    Args:
        figure: a ``matplotlib.figure.Figure`` or a ``plotly.graph_objects.Figure``.
        alt: one or two sentences that tell a reader who cannot see the figure what it shows.

    Raises:
        TypeError: ``figure`` is neither of the two.
        ValueError: ``alt`` is empty.
    """
    check(alt.strip(), "alt is empty: describe in a sentence what the figure shows.")
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
    picture = Image.open(drawn).convert("RGB")
    picture = picture.quantize(128, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    picture.save(small, "png", optimize=True)
    data = markup.Markup(base64.b64encode(small.getvalue()).decode())
    return markup.page("figure.html", alt=alt, width=width, data=data)


def _show_plotly(figure: Any, alt: str) -> None:
    if not in_book():
        display(figure)
        return
    # "</" is escaped so that no label can end the script.
    data = markup.Markup(figure.to_json().replace("</", "<\\/"))
    height = figure.layout.height or 450
    display(HTML(markup.page("plotly.html", alt=alt, height=height, data=data)))


def table(rows: Sequence[Mapping[str, Any]], caption: str) -> None:
    """Display rows as a table; the keys of the first row are the column heads.

    Values are shown with ``str`` and escaped, so a token such as ``</script>`` is shown, not run;
    numbers are aligned right. Format numbers before you pass them.

    Raises:
        ValueError: there are no rows, or one lacks a key of the first.
    """
    check(rows, f"the table {caption!r} has no rows; give at least one.")
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
    panels = [(caption, markup.page("snapshot.html", text=text)) for caption, text in snapshots]
    display(HTML(slider(label, panels)))


def slider(label: str, panels: Sequence[tuple[str, str]]) -> markup.Markup:
    """Return the HTML of a slider that shows one of ``panels`` at a time; the last comes first.

    It works without a network, by mouse, touch and arrow keys; screen readers say the caption.

    Args:
        label: what the slider moves through; escaped here.
        panels: ``(caption, body)`` of each; both are escaped here, except for HTML in a ``Markup``.

    Raises:
        ValueError: there are no panels.
    """
    check(panels, f"there is nothing to show for the slider {label!r}.")
    return markup.page("slider.html", label=label, panels=panels)


def training_curves(
    history: History, baselines: Mapping[str, float] | None = None, title: str = ""
) -> plt.Figure:
    """Return a figure of a training run: the loss on both splits, and the perplexity beside it.

    The right half leaves out the perplexity before training, which would make the rest look flat.

    Args:
        history: what :func:`course_utils.training.train` returned.
        baselines: losses to compare with, by name, drawn as dotted lines.
        title: put before the titles of both halves.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
    splits = {"training": (history.train_loss, "--"), "validation": (history.val_loss, "-")}
    for axes, value in ((left, float), (right, perplexity)):
        for name, (losses, style) in splits.items():
            axes.plot(history.steps, [value(loss) for loss in losses], style, label=name)
        for number, (name, loss) in enumerate((baselines or {}).items(), start=2):
            colour = COLOURS[number % len(COLOURS)]
            axes.axhline(value(loss), color=colour, linestyle=":", label=markup.in_matplotlib(name))
        axes.set(xlabel="training step")
    left.set(title=f"{title}Loss", ylabel="cross-entropy (nats per token)")
    right.set(title=f"{title}Perplexity", ylabel="perplexity (tokens)")
    if learned := history.train_loss[1:] + history.val_loss[1:]:
        right.set_ylim(0, 1.15 * perplexity(max(learned)))
    left.legend(loc="center right", bbox_to_anchor=(1, 0.68), frameon=True, edgecolor="none")
    return figure
