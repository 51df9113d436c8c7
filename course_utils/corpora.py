"""Texts, characters as tokens, splits, and batches to train on."""

import codecs
import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from course_utils import assets
from course_utils.inputs import check


def load_text(name: str = "shakespeare") -> str:
    """Return a corpus by name.

    "shakespeare" comes with the course: ten plays, 1.1 million characters. "tiny-shakespeare" is
    the file that many small models are measured on; it is fetched from the web.

    Raises:
        KeyError: there is no asset of that name.
        course_utils.assets.AssetError: the text cannot be fetched here; the message says why.
        ValueError: the asset is not a text.
    """
    return _only_file(name, ".txt").read_text(encoding="utf-8")


def read_text(path: Path | str) -> str:
    """Return the text of a UTF-8 file of your own, in any alphabet.

    A byte-order mark at the start is dropped, and every line ending becomes a newline.

    Raises:
        OSError: the file cannot be read; the message says why.
        ValueError: it is empty, or it is not UTF-8 text.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise type(error)(f"{path} cannot be read as a text file: {error.strerror}.") from None
    check(content.removeprefix(codecs.BOM_UTF8), f"{path} is empty: there is no text in it.")
    wrong = content.find(b"\0")  # never in a text; in UTF-16, beside each Latin letter
    utf16 = wrong >= 0 or content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        raise ValueError(
            f"{path} is not UTF-8 text, but {'UTF-16' if utf16 else 'perhaps Latin-1'} or not text "
            f"at all: at position {wrong} it has the byte 0x{content[wrong]:02x}. Open it in an "
            "editor and save it as plain text with the encoding UTF-8."
        )
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def load_table(name: str) -> list[dict[str, str]]:
    """Return the rows of a table, each a dict from column to text.

    "sentiment" has sentences with a label, "scaling-grid" the losses of small models; both come
    with the course.

    Raises:
        KeyError: there is no asset of that name.
        ValueError: the asset is not a table.
    """
    with _only_file(name, ".csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _only_file(name: str, suffix: str) -> Path:
    folder = assets.get(name)
    files = [file.name for file in assets.manifest()[name].files]
    if len(files) != 1 or not files[0].endswith(suffix):
        raise ValueError(f"{name!r} is not one {suffix} file; its files are {', '.join(files)}.")
    return folder / files[0]


@dataclass(frozen=True)
class CharTokenizer:
    """Each character is a token; its id is its index in ``characters``."""

    characters: str

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
        """Return the tokenizer whose vocabulary is the characters of ``text``, sorted."""
        check(text, "the text is empty: there are no characters to build a vocabulary from.")
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        """The number of different characters ``V``."""
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        """Return one id for each character.

        Raises:
            ValueError: a character is not in the vocabulary; the message gives its position.
        """
        id_of = {character: number for number, character in enumerate(self.characters)}
        try:
            return [id_of[character] for character in text]
        except KeyError as error:
            unknown = error.args[0]
            raise ValueError(
                f"the character {unknown!r} (position {text.index(unknown)}) is not in the "
                f"vocabulary of {self.vocab_size} characters: {self.characters!r}. Replace it, or "
                "build the tokenizer from a text that has it."
            ) from None

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """Return the text of a list or a 1-D tensor of ids.

        Raises:
            ValueError: an id is outside the vocabulary, or the tensor has more dimensions.
        """
        ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        batch = any(isinstance(id_, list) for id_ in ids)
        check(not batch, "ids has a batch dimension; decode one sequence: decode(ids[0]).")
        wrong = next((id_ for id_ in ids if not 0 <= id_ < self.vocab_size), None)
        check(wrong is None, f"id {wrong} is outside the vocabulary: 0 to {self.vocab_size - 1}.")
        return "".join(self.characters[id_] for id_ in ids)


# --- splits and batches ----------------------------------------------------------------------


def split(ids: Tensor, train_share: float = 0.9) -> tuple[Tensor, Tensor]:
    """Return the first ``train_share`` of ``ids`` to train on and the rest to validate on.

    The text is cut once and nothing is shuffled, so that validation text is never found in the
    middle of training text.

    Raises:
        ValueError: ``ids`` is empty, or a part would be.
    """
    n_train = int(train_share * len(ids))
    if not 0 < n_train < len(ids):
        raise ValueError(
            f"{len(ids)} ids cannot be split at {train_share:.0%}: one part would be empty."
        )
    return ids[:n_train], ids[n_train:]


def get_batch(
    ids: Tensor, batch_size: int, block_size: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``(x, y)``, both ``(B, T)``: random windows of a corpus, and the tokens to predict.

    ``y`` is ``x`` one token later: ``y[b, t]`` is the token after ``x[b, t]``.

    Args:
        ids: ``(N,)``, the corpus.
        batch_size: windows ``B``.
        block_size: tokens in each window ``T``.
        generator: draws where the windows begin; torch's global generator by default.

    Raises:
        ValueError: the corpus is empty or too short for one window and the token after it.
    """
    if len(ids) < block_size + 1:
        raise ValueError(
            f"the corpus {f'has {len(ids)} tokens' if len(ids) else 'is empty'}; a window of "
            f"block_size={block_size} and the token after it need {block_size + 1}."
        )
    starts = torch.randint(len(ids) - block_size, (batch_size, 1), generator=generator)  # (B, 1)
    indices = starts + torch.arange(block_size + 1)  # (B, T + 1)
    windows = ids[indices].long()  # embeddings and losses need int64
    return windows[:, :-1], windows[:, 1:]
