"""The living figures in JupyterLab, VS Code and Colab: the page's scripts, the kernel's numbers.

    from course_widgets import live

    live.writer(model, tokenizer, "Once upon a time")

The model is a GPT of the course, also one in training, or a GPT-2 or Llama of transformers; the
attention of an encoder such as BERT can be looked at too. While the book is built, where no kernel
stays, a sentence stands in the figure's place.
"""

from importlib import resources
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython.display import Markdown

from course_utils import plots
from course_utils.inputs import check
from course_widgets.kernel import Desk, EncoderDesk, GPTDesk, desk_for, in_buffers

ELEMENTS = ("writer", "attention", "machine", "sampling")
#: What all figures share, in order; the page's own files.
PARTS = ("live", "sampling", "engine", "shell", "picture", "notebook")
LAST = 23  # the last token that attention shows, or the last of a shorter text
#: What the machine says of a step where a model is built otherwise than GPT-2.
RMS = "A copy of the stream, each row scaled to size 1 (its mean stays), for {} to read."
GATED = {
    "widened": "The MLP widens twice: the first half are gates, the second what they let through.",
    "hidden": "Each gate goes through SiLU and is multiplied with its other half.",
}
PLACES = {
    "rotary": "Nothing is added for positions: each block turns its queries and keys by them.",
    "alibi": "Nothing is added for positions: a bias on the scores tells how far away a key is.",
    "none": "Nothing is added for positions. This is the residual stream.",
}


def _scripts(ending: str, names: tuple[str, ...]) -> str:
    """Return files of the page, one after the other: from the package, or the repository."""
    folder = resources.files("course_widgets") / "scripts"
    if not folder.is_dir():
        folder = Path(__file__).resolve().parents[1] / "live"
    return "\n".join((folder / f"{name}{ending}").read_text(encoding="utf-8") for name in names)


class Figure(anywidget.AnyWidget):
    """A living figure; what it asks is answered by a desk."""

    _elements = tuple(f"elements/{name}" for name in ELEMENTS)
    _esm = _scripts(".js", PARTS + _elements) + "\nexport default { render: live.render };\n"
    _css = _scripts(".css", ("live", *_elements, "notebook"))
    name = traitlets.Unicode().tag(sync=True)
    stored = traitlets.Dict().tag(sync=True)
    caption = traitlets.Unicode().tag(sync=True)

    def __init__(self, desk: Desk, **state: Any):
        super().__init__(**state)
        self.desk = desk
        self.on_msg(self._answer)

    def _answer(self, _: Any, question: dict[str, Any], __: Any) -> None:
        """Answer {id, name, args} with {id, result} or {id, error}, as live/desk.js does."""
        buffers: list[bytes] = []
        try:
            if question["name"] not in ("encode", "decode", "next", "trace"):
                raise ValueError(f"The kernel has no answer to {question['name']!r}.")
            result = getattr(self.desk, question["name"])(*question["args"])
            answer = {"result": in_buffers(result, buffers)}
        except Exception as error:  # whatever it is, the figure says it
            answer = {"error": str(error) or type(error).__name__}
        self.send({"id": question["id"], **answer}, buffers)


def writer(model: Any, tokenizer: Any, text: str) -> Figure | Markdown:
    """Show how a text goes on: the ten likeliest tokens, one to choose, and again.

    Raises:
        TypeError, ValueError: see :func:`~course_widgets.kernel.desk_for`; or the text is too long
            for the model, or cannot be written in its tokens.
    """
    desk = _writes(model, tokenizer)
    return _figure("writer", model, desk, text, prompt=text, tree={})


def sampling(model: Any, tokenizer: Any, text: str) -> Figure | Markdown:
    """Show what may follow a text, with all knobs of sampling on it. Errors as :func:`writer`."""
    return _figure("sampling", model, _writes(model, tokenizer), text)


def attention(model: Any, tokenizer: Any, text: str) -> Figure | Markdown:
    """Show who looks at whom in a text, for all heads. Errors as :func:`writer`."""
    desk = desk_for(model, tokenizer)
    width = desk.sizes["n_embd"] // desk.sizes["n_head"]
    begins = {"layer": 0, "head": 0, "query": LAST, "d_k": width}
    unmasked = isinstance(desk, EncoderDesk)
    return _figure("attention", model, desk, text, **begins, unmasked=unmasked)


def machine(model: Any, tokenizer: Any, text: str) -> Figure | Markdown:
    """Show the way of a text through a model, parts of which can be switched off.

    Raises:
        TypeError, ValueError: as :func:`writer`; or the model has its norms after its parts.
    """
    desk = _writes(model, tokenizer)
    c = desk.model.config
    meanings: dict[str, str] = {}
    wrong = "norm_first=False: the machine shows a stream that parts only add to; this has norms"
    check(c.norm_first, f"{wrong} on it. Look at its attention, or let it write.")
    if c.norm == "rms":
        meanings |= {"norm 1": RMS.format("attention"), "norm 2": RMS.format("the MLP")}
    if c.mlp == "swiglu":
        meanings |= GATED
    if c.positions in PLACES:
        meanings["stream at the start"] = PLACES[c.positions]
    return _figure("machine", model, desk, text, meanings=meanings)


def _writes(model: Any, tokenizer: Any) -> GPTDesk:
    desk = desk_for(model, tokenizer)
    if not isinstance(desk, GPTDesk):
        raise ValueError(
            f"{type(model).__name__} is an encoder: it reads a whole text and predicts no next "
            "token. live.attention(model, tokenizer, text) shows where it looks."
        )
    return desk


def _figure(name: str, model: Any, desk: Desk, text: str, **stored: Any) -> Figure | Markdown:
    """Return a figure that begins with ``text``, or in the book a sentence."""
    ids = desk.encode(text)["ids"]
    desk.read(ids)  # too long a text is refused here, not in the figure
    millions = sum(parameter.numel() for parameter in desk.model.parameters()) / 1e6
    what = f"{type(model).__name__} with {millions:.1f} million parameters"
    if plots.in_book():
        return Markdown(
            f"*In JupyterLab, VS Code or Colab a living figure stands here: the {name} of this "
            f"notebook's own model, a {what}.*"
        )
    caption = f"A {what}. Its numbers come from the kernel of this notebook."
    return Figure(desk, name=name, stored={"text": text, **desk.sizes, **stored}, caption=caption)


__all__ = ["attention", "machine", "sampling", "writer"]
