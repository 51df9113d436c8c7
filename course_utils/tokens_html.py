"""Tokens made visible: a coloured view, a slider over merges, a summary of a tokenizer.

Everything is escaped, so a token such as ``</script>`` is shown and not run. Each token has a frame
as well as a colour, and dark text on its own light background, so that it looks the same in a light
and a dark theme. A screen reader says "space, fox; id 21831".
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from IPython.display import HTML, display

from course_utils.bpe import BPETokenizer, from_symbols
from course_utils.markup import Markup, Piece, html_table, page, printable, visible
from course_utils.plots import slider

_SPOKEN = {" ": "space", "\n": "new line", "\t": "tab", "\r": "carriage return"}


def show_tokens(
    tokenizer: Any, text: str, *, show_ids: bool = False, caption: str | None = None
) -> None:
    """Display the tokens of ``text``, each in its own frame; hover to see its id.

    Args:
        tokenizer: a :class:`~course_utils.bpe.BPETokenizer` or a transformers tokenizer.
        text: the text to split.
        show_ids: write the id below each token.
        caption: the line above; by default the number of tokens and characters.
    """
    ids, pieces = tokens_of(tokenizer, text)
    if caption is None:
        caption = f"{_count(len(ids), 'token')} for {_count(len(text), 'character')}"
    show_pieces(pieces, ids, show_ids=show_ids, caption=caption)


def show_pieces(
    pieces: Sequence[Piece],
    ids: Sequence[int] | None = None,
    *,
    show_ids: bool = False,
    caption: str | None = None,
) -> None:
    """Display given pieces of text (``str`` or ``bytes``) as :func:`show_tokens` does.

    Args:
        pieces: the pieces, in order.
        ids: one id for each piece.
        show_ids: write the id below each piece.
        caption: the line above; by default the number of pieces.

    Raises:
        ValueError: there are not as many ids as pieces.
    """
    if ids is not None and len(ids) != len(pieces):
        raise ValueError(f"{len(pieces)} pieces but {len(ids)} ids; each piece needs one id.")
    caption = _count(len(pieces), "piece") if caption is None else caption
    display(HTML(_figure(caption, _list(pieces, ids, show_ids))))


def show_merges(tokenizer: BPETokenizer, text: str, merge_counts: Iterable[int]) -> None:
    """Display ``text`` with a slider that moves through the number of merges applied.

    Args:
        tokenizer: its first merges are applied, as many as the slider says.
        text: a sentence; every position of the slider holds a copy of it.
        merge_counts: the positions of the slider, in rising order.

    Raises:
        ValueError: a position is below zero or above the number of merges.
    """
    positions = list(merge_counts)
    if not positions or min(positions) < 0 or max(positions) > len(tokenizer.merges):
        raise ValueError(
            f"merge_counts={positions} must name at least one number of merges, "
            f"from 0 to {len(tokenizer.merges)}."
        )
    panels = []
    for merges in positions:
        ids, pieces = tokens_of(BPETokenizer(tokenizer.merges[:merges]), text)
        caption = f"{_count(merges, 'merge')}: {_count(len(ids), 'token')}"
        panels.append((caption, _list(pieces, ids)))
    display(HTML(page("tokens_part.html", body=slider("Merges applied", panels), css="")))


def tokens_of(tokenizer: Any, text: str) -> tuple[list[int], list[Piece]]:
    """Return the ids of ``text`` and the piece of text behind each.

    A piece is ``bytes`` where the tokenizer works on bytes, as GPT-2's does, and otherwise the
    token as the tokenizer writes it, such as ``##ing``. Ids that the tokenizer adds by itself,
    such as ``[CLS]``, are included.
    """
    if isinstance(tokenizer, BPETokenizer):
        ids = tokenizer.encode(text)
        return ids, [tokenizer.vocab[id_] for id_ in ids]
    ids = list(tokenizer.encode(text))
    tokens = tokenizer.convert_ids_to_tokens(ids)
    if not _is_byte_level(tokenizer, text):
        return ids, tokens
    special = set(tokenizer.all_special_tokens)
    return ids, [token if token in special else from_symbols(token) for token in tokens]


def _is_byte_level(tokenizer: Any, text: str) -> bool:
    """Return True where the tokens, read as GPT-2's byte symbols, spell the text."""
    special, tokens = set(tokenizer.all_special_tokens), tokenizer.tokenize(text)
    try:
        spelled = [t.encode() if t in special else from_symbols(t) for t in tokens]
    except ValueError:
        return False
    return b"".join(spelled) == text.encode(errors="replace")


@dataclass(frozen=True)
class TokenizerSummary:
    """What :func:`summarize_tokenizer` found; it displays itself as the last line of a cell.

    Attributes:
        name: the tokenizer's class.
        vocab_size: number of entries, special tokens included.
        special_tokens: the special tokens' texts.
        vocab_sample: ``{id: token}`` for a few ids spread evenly over the vocabulary.
        ids: the ids of the text.
        pieces: the piece of text behind each id.
        text: the text.
        decoded: the text decoded from the ids.
    """

    name: str
    vocab_size: int
    special_tokens: list[str]
    vocab_sample: dict[int, Piece]
    ids: list[int]
    pieces: list[Piece]
    text: str
    decoded: str

    def _rows(self) -> list[tuple[str, str]]:
        sample = ", ".join(f"{id_} {visible(piece)}" for id_, piece in self.vocab_sample.items())
        same = "the same as the text" if self.decoded == self.text else "not the same as the text"
        return [
            ("Tokenizer", self.name),
            ("Vocabulary", f"{self.vocab_size:,} entries"),
            ("Some entries", sample),
            ("Special tokens", ", ".join(self.special_tokens) or "none"),
            ("Tokens", " | ".join(visible(piece) for piece in self.pieces)),
            ("Ids", " ".join(map(str, self.ids))),
            ("Decoded", f"{self.decoded!r} ({same})"),
        ]

    def __repr__(self) -> str:
        return "\n".join(f"{label}: {value}" for label, value in self._rows())

    def _repr_html_(self) -> str:
        framed = {
            "Some entries": _list([*self.vocab_sample.values()], [*self.vocab_sample], True),
            "Tokens": _list(self.pieces, self.ids),
        }
        rows = [(label, framed.get(label, value)) for label, value in self._rows()]
        table = html_table(rows, row_heads=True)
        return page("tokens_part.html", body=table, css="course-table")


def summarize_tokenizer(tokenizer: Any, text: str) -> TokenizerSummary:
    """Return a summary of ``tokenizer`` and of the tokens that it makes of ``text``.

    Args:
        tokenizer: a :class:`~course_utils.bpe.BPETokenizer` or a transformers tokenizer.
        text: the text to encode and decode.
    """
    ids, pieces = tokens_of(tokenizer, text)
    is_ours = isinstance(tokenizer, BPETokenizer)
    size = tokenizer.vocab_size if is_ours else len(tokenizer)
    entry: Callable = tokenizer.vocab.get if is_ours else tokenizer.convert_ids_to_tokens
    spread = sorted({round(i * (size - 1) / 11) for i in range(12)})
    return TokenizerSummary(
        name=type(tokenizer).__name__,
        vocab_size=size,
        special_tokens=list(tokenizer.special_tokens if is_ours else tokenizer.all_special_tokens),
        vocab_sample={id_: entry(id_) for id_ in spread if entry(id_) is not None},
        ids=ids,
        pieces=pieces,
        text=text,
        decoded=tokenizer.decode(ids),
    )


def _spoken(piece: Piece) -> str:
    text = printable(piece, keep="".join(_SPOKEN))
    words = "".join(f"\0{_SPOKEN[c]}\0" if c in _SPOKEN else c for c in text).split("\0")
    return ", ".join(word for word in words if word)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _list(
    pieces: Sequence[Piece], ids: Sequence[int] | None = None, show_ids: bool = False
) -> Markup:
    label = _count(len(pieces), "token")
    how = {"visible": visible, "printable": printable, "spoken": _spoken}
    return page("tokens.html", label=label, pieces=pieces, ids=ids, show_ids=show_ids, **how)


def _figure(caption: str, body: Markup) -> Markup:
    return page("tokens_figure.html", caption=caption, body=body)
