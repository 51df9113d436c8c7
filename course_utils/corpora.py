"""Texts, the characters as tokens, files of token ids, splits, and batches to train on."""

import codecs
import csv
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from course_utils import assets
from course_utils.files import write_whole

#: A corpus as token ids, ``(N,)``: in memory, or in a file that :func:`open_tokens` mapped.
Ids = Tensor | np.ndarray


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
    """Return the text of a UTF-8 file that a user brings, in whatever alphabet.

    A byte-order mark at the start is left out, and every line end becomes a newline.

    Raises:
        OSError: the file cannot be read; the message says why.
        ValueError: it is empty, or it is not UTF-8 text.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise type(error)(f"{path} cannot be read as a text file: {error.strerror}.") from None
    if not content.removeprefix(codecs.BOM_UTF8):
        raise ValueError(f"{path} is empty: there is no text in it.")
    wrong = content.find(b"\0")  # no text has it; in UTF-16, each Latin letter does
    utf16 = wrong >= 0 or content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        raise ValueError(
            f"{path} is not UTF-8 text, but {'UTF-16' if utf16 else 'perhaps Latin-1'} or no text "
            f"at all: at place {wrong} it has the byte 0x{content[wrong]:02x}. Open it in an "
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
    """Each character is a token; its id is its place in ``characters``."""

    characters: str

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
        """Return the tokenizer whose vocabulary is the characters of ``text``, sorted."""
        if not text:
            raise ValueError("the text is empty: there are no characters to make a vocabulary of.")
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        """The number of different characters ``V``."""
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        """Return one id for each character.

        Raises:
            ValueError: a character is not in the vocabulary; it is named with its place.
        """
        id_of = {character: number for number, character in enumerate(self.characters)}
        try:
            return [id_of[character] for character in text]
        except KeyError as error:
            unknown = error.args[0]
            raise ValueError(
                f"the character {unknown!r} (place {text.index(unknown)}) is not in the vocabulary "
                f"of {self.vocab_size} characters: {self.characters!r}. "
                "Replace it, or build the tokenizer from a text that has it."
            ) from None

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """Return the text of a list or a 1-D tensor of ids.

        Raises:
            ValueError: an id is outside the vocabulary, or the tensor has more dimensions.
        """
        ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        if any(isinstance(number, list) for number in ids):
            raise ValueError("ids has a batch dimension; decode one sequence: decode(ids[0]).")
        for number in ids:
            if not 0 <= number < self.vocab_size:
                raise ValueError(
                    f"id {number} is outside the vocabulary: 0 to {self.vocab_size - 1}."
                )
        return "".join(self.characters[number] for number in ids)


# --- token ids in a file ---------------------------------------------------------------------


def write_tokens(path: Path | str, ids: Iterable[int], vocab_size: int) -> int:
    """Write a stream of token ids to ``path`` and return how many there were.

    The ids are taken in pieces, so they may come from a generator and be more than fit into
    memory. The file is numpy's ``.npy``, two bytes an id (uint16) if the vocabulary allows it and
    four (uint32) otherwise; it is there whole or not at all.

    Raises:
        ValueError: there are no ids, or one is not in the vocabulary; it is named with its place.
    """
    dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    ids, n = iter(ids), 0
    with write_whole(path) as stream:
        _write_header(stream, dtype, n)  # padded by numpy, so that any length fits in later
        while len(piece := np.fromiter(islice(ids, 2**16), dtype=np.int64)):
            wrong = np.flatnonzero((piece < 0) | (piece >= vocab_size))
            if len(wrong):
                raise ValueError(
                    f"id {piece[wrong[0]]} (place {n + wrong[0]}) is outside the vocabulary: 0 to "
                    f"{vocab_size - 1}. Is vocab_size={vocab_size} that of the tokenizer?"
                )
            stream.write(piece.astype(dtype).tobytes())
            n += len(piece)
        if not n:
            raise ValueError("the corpus is empty: there are no ids to write.")
        stream.seek(0)
        _write_header(stream, dtype, n)
    return n


def _write_header(stream, dtype: np.dtype, n: int) -> None:
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (n,)}
    npy.write_array_header_1_0(stream, header)


def open_tokens(path: Path | str) -> np.memmap:
    """Return the ids of a file from :func:`write_tokens`, ``(N,)``, without reading them.

    The array reads from the disk what is looked at, and no more.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a file of token ids, or it is cut off.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; write it with write_tokens first.")
    try:
        ids = npy.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path} is not a file of token ids, or it is cut off: {error}") from error
    if ids.ndim != 1 or ids.dtype not in (np.uint16, np.uint32):
        raise ValueError(
            f"{path} holds {ids.dtype} of shape {ids.shape}, not token ids as write_tokens writes "
            "them: uint16 or uint32 in one row."
        )
    return ids


def to_tensor(ids: Ids) -> Tensor:
    """Return ids as the int64 tensor that embeddings and losses ask for, copied if need be."""
    return ids.long() if isinstance(ids, Tensor) else torch.from_numpy(ids.astype(np.int64))


# --- splits and batches ----------------------------------------------------------------------


def split(ids: Ids, train_share: float = 0.9) -> tuple[Ids, Ids]:
    """Return the first ``train_share`` of ``ids`` to train on and the rest to validate on.

    The cut is in one place and nothing is shuffled, so that no validation text stands next to
    training text.

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
    ids: Ids, batch_size: int, block_size: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``(x, y)``, both ``(B, T)``: windows from random places, and what follows each token.

    ``y`` is ``x`` one token later: ``y[b, t]`` is the token after ``x[b, t]``.

    Args:
        ids: ``(N,)``, the corpus: a tensor, or a file from :func:`open_tokens`, of which only the
            windows are read.
        batch_size: windows ``B``.
        block_size: tokens of each window ``T``.
        generator: where the random places come from; torch's global one by default.

    Raises:
        ValueError: the corpus is empty or too short for one window and the token after it.
    """
    if len(ids) < block_size + 1:
        raise ValueError(
            f"the corpus {f'has {len(ids)} tokens' if len(ids) else 'is empty'}; a window of "
            f"block_size={block_size} and the token after it need {block_size + 1}."
        )
    starts = torch.randint(len(ids) - block_size, (batch_size, 1), generator=generator)  # (B, 1)
    places = starts + torch.arange(block_size + 1)  # (B, T + 1)
    windows = to_tensor(ids[places if isinstance(ids, Tensor) else places.numpy()])
    return windows[:, :-1], windows[:, 1:]
