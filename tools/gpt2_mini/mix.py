"""What one step learns from: prose with the teacher's expectations, copies, facts and drills."""

import random
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from course_utils import pretrained
from tools.gpt2_mini import drills, facts, rounds
from tools.gpt2_mini.teacher import END

#: A part of the corpus: arrays "ids", "expected" and "share", see :class:`.teacher.Lesson`.
Lessons = dict[str, np.ndarray]
LONG, SHORT = 256, 64  # tokens of a window
BATCH = {"texts": 4, "own": 6, "addresses": 2}  # long windows
COPIES = 0.75  # long windows of random tokens that come twice, on average
FACTS, DRILLS = 5, 3  # short windows
WORTH = {"copies": 0.7, "facts": 3.0, "drills": 2.0}  # of what counts there; of prose 1
#: Weight of what the teacher expected; the rest is on the token that came.
TRUST = {"texts": 0.75, "own": 1.0, "addresses": 0.0}
N_COMMON = 12_000  # tokens among which the softmax is taken until the last minutes
TWICE = ("day", "month", "number", "sound")  # kinds of facts that are few, and told twice as often


class Batch(NamedTuple):
    """Windows, and for what follows each token, tokens with shares and what they are worth.

    Attributes:
        ids: ``(B, T)``.
        tokens, shares: ``(B * T, K)`` each.
        worth: ``(B * T,)``, 0 where nothing is to be learned.
    """

    ids: Tensor
    tokens: Tensor
    shares: Tensor
    worth: Tensor


class Mix:
    """Draws batches from the corpora and from the sentences that this package makes."""

    def __init__(self, corpora: dict[str, Lessons]):
        self.corpora = corpora
        self.tokenizer = pretrained.load_tokenizer("gpt2")
        self.told = [
            (relation, fact)
            for kind, relation in facts.told().items()
            for fact in relation.facts
            for _ in range(1 + (kind in TWICE))
        ]
        self.begins = {name: np.flatnonzero(part["ids"] == END) for name, part in corpora.items()}
        ids = np.concatenate([part["ids"] for part in corpora.values()]).astype(np.int64)
        counts = np.bincount(ids, minlength=END + 1)  # (V,)
        by_count = np.argsort(-counts, kind="stable")
        self.frequent = by_count[: min(3_000, int((counts > 0).sum()))]
        seen = by_count[:N_COMMON][counts[by_count[:N_COMMON]] > 0]
        own = [part["expected"].ravel() for name, part in corpora.items() if name == "own"]
        known = np.concatenate([seen, self._needed(), *own])
        self.common = torch.from_numpy(np.unique(known).astype(np.int64))
        self.encode = lru_cache(100_000)(self._encode)

    def _needed(self) -> np.ndarray:
        """Return the ids of all that facts and drills may ask for."""
        r = random.Random(0)
        texts = [facts.sentence(r, relation, fact) for relation, fact in self.told * 20]
        texts += [drills.sentence(r) for _ in range(5_000)]
        ids = [i for text in set(texts) for i in self._encode(text)[0]]
        return np.unique([*ids, END]).astype(np.int64)

    def _encode(self, text: str) -> tuple[list[int], list[bool]]:
        """Return ids of a sentence without its square brackets, and which stood in them."""
        ids, counts = [], []
        for part in re.split(r"(\s*\[.*?\])", text):
            inside = part.strip()[:1] == "["
            new = self.tokenizer.encode(part.replace("[", "").replace("]", ""))
            ids += new
            counts += [inside] * len(new)
        return ids, counts

    def draw(self, generator: torch.Generator) -> list[Batch]:
        """Return the long and the short windows of one step."""
        seed = int(torch.randint(2**31, (), generator=generator))
        r, numbers = random.Random(seed), np.random.default_rng(seed)
        long = [self._prose(name, n, numbers) for name, n in BATCH.items() if name in self.corpora]
        if r.random() < COPIES:
            ids, repeat = drills.copy_window(numbers, self.frequent, LONG)
            long.append(_hard(ids[None], WORTH["copies"] * repeat[None]))
        short = [self._short(r, self._fact, WORTH["facts"]) for _ in range(FACTS)]
        short += [self._short(r, self._drill, WORTH["drills"]) for _ in range(DRILLS)]
        return [Batch(*map(torch.cat, zip(*part, strict=True))) for part in (long, short)]

    def beginnings(self, generator: torch.Generator) -> Tensor:
        """Return how some of the teacher's texts begin, see :func:`.rounds.beginnings`."""
        seed = int(torch.randint(2**31, (), generator=generator))
        ids, begins = self.corpora["texts"]["ids"], self.begins["texts"]
        return rounds.beginnings(ids, begins, np.random.default_rng(seed))

    def _prose(self, name: str, n: int, numbers: np.random.Generator) -> Batch:
        """Return windows of which half begin at an end of text, a fifth just after one."""
        lessons, begins = self.corpora[name], self.begins[name]
        last = len(lessons["ids"]) - LONG - 1
        starts = numbers.integers(last, size=n)
        kind = numbers.random(n)
        chosen = numbers.choice(begins, n) + ((kind > 0.5) & (kind < 0.7))
        starts = np.where(kind < 0.7, chosen, starts).clip(max=last)
        at = starts[:, None] + np.arange(LONG)  # (n, T)
        after = (at + 1).reshape(-1)
        came = lessons["ids"][after, None]
        tokens = np.concatenate([lessons["expected"][after], came], axis=1).astype(np.int64)
        trust = TRUST[name] * lessons["share"][after].astype(np.float32)
        rest = np.full((len(after), 1), 1 - TRUST[name], np.float32)
        return Batch(
            torch.from_numpy(lessons["ids"][at].astype(np.int64)),
            torch.from_numpy(tokens),
            torch.from_numpy(np.concatenate([trust, rest], axis=1)),
            torch.ones(len(after)),
        )

    def _short(self, r: random.Random, sentence, worth: float) -> Batch:
        """Return one window of sentences, now and then with a piece of prose before one."""
        ids, counts = ([END], [False]) if r.random() < 0.5 else ([], [])
        told: set[str] = set()
        while len(ids) <= SHORT:
            if r.random() < 0.25:
                prose = self._piece(r)
                ids, counts = ids + prose, counts + [False] * len(prose)
            text = sentence(r, told)
            if len(ids) and ids[-1] != END:
                text = f" {text}"
            new, asked = self.encode(text)
            ids, counts = ids + new, counts + asked
            if r.random() < 0.2:
                ids, counts = [*ids, END], [*counts, False]
        n = SHORT + 1
        return _hard(np.array([ids[:n]]), worth * np.array([counts[:n]], dtype=np.float32))

    def _fact(self, r: random.Random, told: set[str]) -> str:
        """Return a fact that does not repeat a word of those told in this window, if possible."""
        for _ in range(20):
            relation, fact = r.choice(self.told)
            if not told & set(fact.values()):
                break
        told.update((fact["a"], fact["b"]))
        return facts.sentence(r, relation, fact)

    def _drill(self, r: random.Random, told: set[str]) -> str:
        return drills.sentence(r)

    def _piece(self, r: random.Random) -> list[int]:
        """Return the first sentence of some text of the teacher's, or its first 24 tokens."""
        ids, begins = self.corpora["texts"]["ids"], self.begins["texts"]
        start = int(r.choice(begins)) + 1
        piece = ids[start : start + 24].astype(int).tolist()
        stops = [k for k, i in enumerate(piece) if i in (13, END)]  # a full stop
        return [i for i in piece[: stops[0] + 1] if i != END] if stops else piece


def _hard(ids: np.ndarray, worth: np.ndarray) -> Batch:
    """Return windows whose targets are the tokens that come, ``worth`` ``(B, T + 1)`` each."""
    came = torch.from_numpy(ids[:, 1:].reshape(-1, 1).astype(np.int64))
    tokens = came.repeat(1, 13)  # as many columns as prose has
    shares = torch.zeros(len(tokens), 13)
    shares[:, 0] = 1
    weights = torch.from_numpy(worth[:, 1:].reshape(-1).astype(np.float32))
    return Batch(torch.from_numpy(ids[:, :-1].astype(np.int64)), tokens, shares, weights)


def among(batch: Batch, place: Tensor) -> Batch:
    """Return the batch with tokens numbered by ``place`` ``(V,)``; what has -1 there is left out.

    The probability that is left out is missing from a row's worth.
    """
    tokens = place[batch.tokens]
    shares = batch.shares * (tokens >= 0)
    mass = shares.sum(-1)  # (N,)
    shares = shares / mass.clamp(min=1e-6)[:, None]
    return Batch(batch.ids, tokens.clamp(min=0), shares, batch.worth * mass)


def corpus(folder: Path) -> tuple[dict[str, Lessons], dict[str, np.ndarray]]:
    """Return the lessons to train on, behind each other, and the ids held out, each by its source.

    Of the teacher's texts each 25th batch is held out, of the addresses those of each tenth year,
    of the student's own texts nothing.
    """
    files = {"texts": sorted(folder.glob("texts-*.npz")), "addresses": []}
    out = {"texts": [file for file in files["texts"] if int(file.stem[-4:]) % 25 == 0]}
    if (folder / "addresses.npz").is_file():
        files["addresses"] = [folder / "addresses.npz"]
        out["addresses"] = [folder / "addresses-held-out.npz"]
    if own := sorted(folder.glob("own-*.npz")):
        files["own"], out["own"] = own, own[:0]
    corpora = {}
    for name, held_out in out.items():
        parts = [np.load(file) for file in files[name] if file not in held_out]
        corpora[name] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return corpora, {
        name: np.concatenate([np.load(file)["ids"] for file in held_out])
        for name, held_out in out.items()
        if held_out
    }
