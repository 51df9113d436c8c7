"""The sentiment sentences: what the datasheet says of them is true, and they are fit to learn from."""

import hashlib
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from course_utils.corpora import load_table

FOLDER = Path(__file__).resolve().parents[1] / "data" / "sentiment"
TABLE = FOLDER / "sentiment.csv"
KINDS = ["negation", "contrast", "irony", "implicit", "comparison"]
SPLITS = ["train", "validation", "test"]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9'-]+", text.lower())


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return load_table("sentiment")


@pytest.fixture(scope="module")
def sheet() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def bag_of_words():
    return make_pipeline(TfidfVectorizer(), LogisticRegression(class_weight="balanced"))


def test_columns_and_values(rows):
    assert list(rows[0]) == ["id", "text", "label", "topic", "split", "hard"]
    assert [row["id"] for row in rows] == [f"s{n:03d}" for n in range(1, len(rows) + 1)]
    for row in rows:
        assert row["label"] in {"0", "1"} and row["split"] in SPLITS
        assert row["hard"] in {"", *KINDS}
        assert row["text"].isascii() and row["text"] == row["text"].strip()
        assert row["text"][0].isupper() and row["text"][-1] in ".!?"
        assert 5 <= len(words(row["text"])) <= 35, row["text"]


def test_every_topic_and_label_is_split_alike(rows):
    cells = Counter((row["topic"], row["label"], row["split"]) for row in rows)
    assert len(cells) == 10 * 2 * 3
    size = {"train": 14, "validation": 2, "test": 4}
    assert all(count == size[split] for (_, _, split), count in cells.items())


def test_hard_texts(rows):
    hard = [row for row in rows if row["hard"]]
    assert len(rows) / 3 < len(hard) < len(rows) / 2
    for kind in KINDS:
        for split in ("train", "test"):
            labels = {r["label"] for r in hard if (r["hard"], r["split"]) == (kind, split)}
            assert labels == {"0", "1"}, (kind, split)


def test_no_two_texts_share_five_words_in_a_row(rows):
    where = defaultdict(set)
    for row in rows:
        tokens = words(row["text"])
        for start in range(len(tokens) - 4):
            where[" ".join(tokens[start : start + 5])].add(row["id"])
    assert not {five: ids for five, ids in where.items() if len(ids) > 1}
    assert len({" ".join(words(row["text"])) for row in rows}) == len(rows)


def test_the_words_do_not_tell_the_split(rows):
    texts = [row["text"] for row in rows]
    is_test = [row["split"] == "test" for row in rows]
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    scores = cross_val_score(bag_of_words(), texts, is_test, cv=folds, scoring="balanced_accuracy")
    assert scores.mean() < 0.6  # chance is 0.5


def test_a_bag_of_words_learns_something_and_leaves_room(rows, sheet):
    texts, labels = {}, {}
    for split in SPLITS:
        texts[split] = [row["text"] for row in rows if row["split"] == split]
        labels[split] = [row["label"] for row in rows if row["split"] == split]
    model = bag_of_words().fit(texts["train"], labels["train"])
    on_test = model.score(texts["test"], labels["test"])
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    everything = [row["text"] for row in rows], [row["label"] for row in rows]
    crossed = cross_val_score(bag_of_words(), *everything, cv=folds).mean()
    for name, accuracy in (("test split", on_test), ("ten-fold", crossed)):
        assert 0.65 < accuracy < 0.85, name
        stated = re.search(rf"\| {name} \| (0\.\d\d) \|", sheet)
        assert stated, f"the datasheet has no line for {name}: {accuracy:.2f}"
        assert float(stated[1]) == pytest.approx(accuracy, abs=0.02), name


def test_the_datasheet_describes_this_file(rows, sheet):
    assert hashlib.sha256(TABLE.read_bytes()).hexdigest() in sheet
    lengths = sorted(len(words(row["text"])) for row in rows)
    statements = [
        f"{len(rows)} texts",
        f"{lengths[0]} to {lengths[-1]} words, {sum(lengths) / len(lengths):.1f} on average",
        f"{sum(bool(row['hard']) for row in rows)} of them are hard",
    ]
    by_split = Counter((row["split"], row["label"]) for row in rows)
    by_kind = Counter((row["hard"], row["label"]) for row in rows)
    for name, counts in [(s, by_split) for s in SPLITS] + [(k, by_kind) for k in KINDS]:
        statements.append(f"| {name} | {counts[name, '1']} | {counts[name, '0']} |")
    for topic, count in Counter(row["topic"] for row in rows).items():
        statements.append(f"| {topic} | {count} |")
    for statement in statements:
        assert statement in sheet, statement
