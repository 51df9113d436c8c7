"""A token is data: text written so that no page, figure or sentence takes it for markup.

Text from a model or a user may hold ``$x$``, ``<b>``, backticks or a mark that reverses the text
after it. There is one function for each medium, and everything that shows tokens uses it.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

Piece = str | bytes

#: The marks that show white space.
MARKS = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}

# MathJax, in the page or in JupyterLab, leaves elements of these classes alone.
NO_MATH = "tex2jax_ignore mathjax_ignore"


def visible(piece: Piece) -> str:
    """Return ``piece`` with white space marked and unprintable characters written out.

    ``b" fox"`` gives ``·fox``. Bytes that do not form a whole character are written as
    ``\\xf0\\x9f``, characters that do not print, or would reverse the text, as ``\\u202e``.
    """
    return "".join(MARKS.get(c) or c for c in printable(piece, keep=" \n\t\r"))


def printable(piece: Piece, keep: str = " \n\t\u00a0\u200c\u200d") -> str:
    """Return ``piece`` with unprintable characters written out, except for those in ``keep``."""
    text = piece.decode("utf-8", "backslashreplace") if isinstance(piece, bytes) else piece
    return "".join(c if c in keep or _prints(c) else _written_out(c) for c in text)


def _prints(character: str) -> bool:
    # Marks (Hindi vowel signs) belong to their neighbours.
    return character.isprintable() or unicodedata.category(character) in ("Mn", "Mc")


def _written_out(character: str) -> str:
    if character > "\x7f":
        return character.encode("unicode_escape").decode()
    return repr(character)[1:-1]


def in_html(value: Any) -> str:
    """Return a value as the text of an HTML element."""
    return html.escape(printable(str(value)))


def in_markdown(piece: Piece) -> str:
    """Return ``piece`` as code in a Markdown sentence.

    White space that Markdown would drop is marked: at both ends, and several spaces in a row.
    """
    text = re.sub(r"^ +| +$|  +", lambda spaces: visible(spaces[0]), _one_line(piece))
    fence = "`"
    while fence in text:  # a code span ends with as many backticks as it begins with
        fence += "`"
    pad = " " if "`" in (text[:1], text[-1:]) else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else "(empty)"


def in_matplotlib(piece: Piece) -> str:
    """Return ``piece`` as a label of a matplotlib figure, without mathematics.

    A line end is marked; a character that the figure's font lacks is written out.
    """
    from matplotlib import font_manager  # here, so that tables do not load matplotlib

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    text = _one_line(piece)
    drawn = (c if font.get_char_index(ord(c)) else _written_out(c) for c in text)
    return "".join(drawn).replace("$", r"\$")


def in_plotly(piece: Piece) -> str:
    """Return ``piece`` as a label of a plotly figure, which reads some HTML and LaTeX."""
    return html.escape(_one_line(piece), quote=False).replace("$", "&#36;")


def in_plotly_3d(piece: Piece) -> str:
    """Return ``piece`` as a label in a 3-D plotly figure, which interprets tags but no entities."""
    return _one_line(piece).replace("<", "<\u2060")  # a word joiner, which has no width


def _one_line(piece: Piece) -> str:
    return "".join(c if c == " " else MARKS.get(c) or c for c in printable(piece, keep=" \n\t\r"))


def _as_html(value: Any) -> Any:
    """Return a value's own HTML if it has any, or else the value as text."""
    if hasattr(value, "__html__"):
        return value
    return Markup(value._repr_html_() if hasattr(value, "_repr_html_") else in_html(value))


_FOLDER = PackageLoader("course_utils", "page")
_PAGES = Environment(loader=_FOLDER, autoescape=True, finalize=_as_html)


def page(name: str, **values: Any) -> Markup:
    """Return ``course_utils/page/<name>``, a Jinja template, filled with ``values``.

    They are escaped, except for those with HTML of their own, such as a ``Markup``.
    """
    return Markup(_PAGES.get_template(name).render(no_math=NO_MATH, **values))


def html_table(
    rows: Sequence[Sequence[Any]],
    head: Sequence[str] = (),
    *,
    caption: str = "",
    row_heads: bool = False,
    css: str = "course-table",
) -> Markup:
    """Return a table in HTML; a cell is escaped unless it has HTML of its own.

    Args:
        rows: the cells; numbers are aligned right. What has a ``_repr_html_``, or is a ``Markup``,
            is shown by it.
        head: the column heads.
        caption: the line above.
        row_heads: the first cell of each row is its head.
        css: the class of the table.
    """
    table = {"rows": rows, "head": head, "caption": caption, "row_heads": row_heads, "css": css}
    return page("table.html", **table)
