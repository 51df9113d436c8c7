"""What the student is held to: each classic phenomenon, measured with :mod:`.exam`'s wordings.

Every measure gives a share or a number, with what chance would give and, for shares, the 95%
interval of Wilson's ("Probable inference, the law of succession, and statistical inference", 1927).
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from course_utils import corpora, pretrained
from course_utils.gpt import GPT, Block
from course_utils.metrics import bits_per_byte
from course_utils.sampling import generate
from course_utils.weights import from_transformers
from tools.gpt2_mini import exam


@dataclass
class Result:
    """One row of the table.

    Attributes:
        what: what was measured.
        value: a share, or a number where ``n`` is 0.
        n: of how many it is a share.
        wanted: what the student should reach.
        chance: what guessing gives, if there is such a thing.
        more: whether more is better.
        note: what else was seen.
    """

    what: str
    value: float
    n: int = 0
    wanted: float | None = None
    chance: float | None = None
    more: bool = True
    note: str = ""

    def met(self) -> bool:
        """Return whether the value is what is wanted; what nobody wants is met."""
        if self.wanted is None:
            return True
        return self.value >= self.wanted if self.more else self.value <= self.wanted

    def surely_worse_than(self, other: "Result") -> bool:
        """Return whether this share's interval lies on the wrong side of the other's."""
        if not self.n or not other.n:
            return False
        mine, theirs = interval(self.value, self.n), interval(other.value, other.n)
        return mine[1] < theirs[0] if self.more else mine[0] > theirs[1]

    def shown(self) -> str:
        """Return the value as it stands in the table, a share with its interval."""
        if not self.n:
            return f"{self.value:.3g}"
        low, high = interval(self.value, self.n)
        return f"{self.value * self.n:.0f} of {self.n} ({low:.0%} to {high:.0%})"


def interval(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share of ``n``."""
    z = 1.96
    centre, spread = (
        share + z * z / (2 * n),
        z * math.sqrt(share * (1 - share) / n + (z / 2 / n) ** 2),
    )
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


class Subject:
    """A model under examination, with its tokenizer."""

    def __init__(self, theirs: PreTrainedModel, tokenizer):
        theirs.set_attn_implementation("eager")  # gives the attention weights
        self.theirs, self.tokenizer = theirs.eval(), tokenizer
        self.model = from_transformers(theirs)
        self.end = tokenizer.convert_tokens_to_ids("<|endoftext|>")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; no token is added."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def first(self, word: str) -> int:
        """Return the id of the first token of a word in the middle of a text."""
        return self.encode(f" {word}")[0]

    @torch.no_grad()
    def next(self, text: str) -> Tensor:
        """Return the log probabilities of the token after ``text``, ``(V,)``."""
        return self.model(torch.tensor([self.encode(text)]))[0][0, -1].float().log_softmax(-1)


def examine(subject: Subject, brief: bool = False) -> list[Result]:
    """Return the table's rows for a model.

    The parts of a large one are not switched off, which would take an hour. If ``brief``, nothing
    is written or switched off, and it takes seconds.
    """
    parts: list[Callable[[Subject], list[Result]]] = [copies, known_facts, grammar, senses, weather]
    if not brief:
        parts += [written, other_hands]
        if subject.model.num_parameters() < 50e6:
            parts += [heads, where_facts_are]
    return [result for part in parts for result in part(subject)]


@torch.no_grad()
def copies(subject: Subject, n: int = 40) -> list[Result]:
    """Random common words that come twice: who looks there, and is the right one said?"""
    words = common_words(subject)
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(words), (24, n), generator=generator)
    ids = torch.tensor(words)[picks].repeat(1, 2)  # (B, 2n)
    out = subject.theirs(ids, output_attentions=True)
    at = torch.arange(n, 2 * n - 1)
    looks = torch.stack([a[:, :, at, at - n + 1].mean((0, 2)) for a in out.attentions])  # (L, H)
    right = out.logits[:, at].argmax(-1) == ids[:, at + 1]
    best = divmod(int(looks.argmax()), looks.shape[1])
    return [
        Result(
            "induction head: attention to the token to copy",
            looks.max().item(),
            wanted=0.7,
            chance=1 / (1.5 * n),
            note=f"block {best[0]}, head {best[1]}",
        ),
        Result(
            "right copies of random words", right.float().mean().item(), right.numel(), 0.7, 0.0
        ),
    ]


def common_words(subject: Subject) -> list[int]:
    """Return ids of single tokens that are a space and a word of the exam."""
    texts = " ".join(exam.sentences()).lower()
    words = sorted(set(re.findall(r"[a-z]{3,}", texts)))
    ids = [subject.encode(f" {word}") for word in words]
    return [row[0] for row in ids if len(row) == 1]


def known_facts(subject: Subject) -> list[Result]:
    """Everyday facts in wordings that nobody told, and facts that nobody told at all."""
    results = []
    for what, text, wanted in (
        ("facts in unseen wordings", exam.FACTS, 0.5),
        ("facts never told (control)", exam.CONTROL, None),
    ):
        places = []
        for prompt, answer in exam.rows(text):
            logp = subject.next(prompt)
            places.append(int((logp > logp[subject.first(answer)]).sum()) + 1)
        share = float(np.mean([place == 1 for place in places]))
        note = f"median rank {np.median(places):.0f}"
        results.append(Result(what, share, len(places), wanted, 0.0, note=note))
    return results


def grammar(subject: Subject) -> list[Result]:
    """Agreement with an attractor, pronouns, articles: is the right word likelier?"""

    def right(text: str) -> list[bool]:
        outcomes = []
        for prompt, good, others in exam.rows(text):
            logp = subject.next(prompt)
            best = max(logp[subject.first(word)] for word in others.split())
            outcomes.append(bool(logp[subject.first(good)] > best))
        return outcomes

    agreement, pronouns = right(exam.AGREEMENT), right(exam.PRONOUNS)
    an, a = (subject.next(f"{exam.ARTICLE_FRAME} {word}") for word in ("an", "a"))
    articles = [
        bool(an[v] - an[c] > a[v] - a[c])
        for v, c in ([subject.first(w) for w in pair] for pair in exam.rows(exam.ARTICLES))
    ]
    rows = (
        ("agreement with an attractor between", agreement, 0.9, 0.5),
        ("pronouns", pronouns, 0.9, 1 / 3),
        ("a and an", articles, 1.0, 0.5),
    )
    return [
        Result(what, float(np.mean(right)), len(right), wanted, chance)
        for what, right, wanted, chance in rows
    ]


@torch.no_grad()
def senses(subject: Subject) -> list[Result]:
    """The last word of each sentence: has its nearest neighbour the same sense?"""
    right = []
    for groups in exam.senses().values():
        vectors = []
        for text in [text for group in groups for text in group]:
            out = subject.theirs(torch.tensor([subject.encode(text)]), output_hidden_states=True)
            vectors.append(torch.stack([layer[0, -1] for layer in out.hidden_states]))
        unit = F.normalize(torch.stack(vectors, 1).float(), dim=-1)  # (L + 1, n, C)
        n = len(vectors)
        nearest = (unit @ unit.mT - 3 * torch.eye(n)).argmax(-1)  # (L + 1, n)
        half = torch.arange(n) // len(groups[0])
        right.append(half[nearest] == half)
    hits = torch.cat(right, -1).float()  # (L + 1, N)
    best = int(hits.mean(-1).argmax())
    note = f"after block {best}"
    return [
        Result(
            "word sense, best layer",
            hits[best].mean().item(),
            hits.shape[1],
            0.9,
            5 / 11,
            note=note,
        )
    ]


def weather(subject: Subject) -> list[Result]:
    """How many of the ten likeliest words after "The weather is" are about weather?"""
    top = subject.next("The weather is").topk(10).indices.tolist()
    words = [subject.tokenizer.decode([i]).strip() for i in top]
    share = float(np.mean([word in exam.WEATHER.split() for word in words]))
    note = ", ".join(words)
    return [Result('weather among ten after "The weather is"', share, 10, 0.1, 0.0, note=note)]


def written(subject: Subject) -> list[Result]:
    """What it writes: loops in greedy texts, and non-words in samples."""
    prompts = [subject.encode(text) for (text,) in exam.rows(exam.OPENINGS)]
    texts = generate(subject.model, prompts, 60, greedy=True, stop=[subject.end])
    loops = [goes_round(text[len(prompt) :]) for prompt, text in zip(prompts, texts, strict=True)]
    generator = torch.Generator().manual_seed(0)
    options = {"temperature": 0.8, "top_p": 0.95, "generator": generator}
    drawn = generate(subject.model, prompts * 2, 60, stop=[subject.end], **options)
    shares = []
    for row in drawn:
        words = re.findall(r"(?<![\w'-])[a-z]{2,}(?![\w'-])", subject.tokenizer.decode(row))
        shares.append((sum(word not in dictionary() for word in words[:-1]), len(words)))
    strange, all_words = map(sum, zip(*shares, strict=True))
    return [
        Result(
            "greedy texts in a loop within 60 tokens",
            float(np.mean(loops)),
            len(loops),
            1 / 3,
            more=False,
        ),
        Result("non-words among words drawn", strange / all_words, all_words, 0.01, more=False),
    ]


def goes_round(ids: list[int]) -> bool:
    """Return whether some five tokens in a row stand in a text three times or more."""
    counts = Counter(zip(*(ids[k:] for k in range(5)), strict=False))
    return max(counts.values(), default=0) >= 3


@cache
def dictionary() -> frozenset[str]:
    """Return the words that GloVe has vectors of."""
    return frozenset(pretrained.load_glove().key_to_index)


def pieces() -> list[str]:
    """Return paragraphs of the course's own prose, which no model here has learned from."""
    paragraphs = corpora.load_text("course-prose").split("\n")
    return [text[:700] for text in paragraphs if len(text) > 300][:80]


@torch.no_grad()
def bits(subject: Subject, texts: list[str]) -> float:
    """Return bits per byte; the first token of each text is given and counts as certain."""
    nats = 0.0
    for text in texts:
        window = torch.tensor([subject.encode(text)])
        logits = subject.model(window)[0][0].float()
        nats += F.cross_entropy(logits[:-1], window[0, 1:], reduction="sum").item()
    return bits_per_byte(nats, 1, sum(len(text.encode()) for text in texts))


def other_hands(subject: Subject) -> list[Result]:
    """English by a second author: the course's own."""
    return [Result("bits a byte, the course's prose", bits(subject, pieces()), more=False)]


def blocks_of(model: GPT) -> list[Block]:
    """Return a model's blocks, first to last."""
    return cast(list[Block], list(model.blocks))


@contextmanager
def switched_off(part: nn.Module, head: slice | None = None) -> Iterator[None]:
    """Let a projection read zeros in the channels of ``head``, or write nothing if None."""

    def no_head(_, inputs):
        x = inputs[0].clone()
        x[..., head] = 0
        return (x,)

    def nothing(_, inputs, output):
        return torch.zeros_like(output)

    hook = (
        part.register_forward_hook(nothing)
        if head is None
        else part.register_forward_pre_hook(no_head)
    )
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def heads(subject: Subject) -> list[Result]:
    """How many heads are missed: the loss without one changes by over two standard errors."""
    rows = [subject.encode(text)[:128] for text in pieces()]
    ids = torch.tensor([row for row in rows if len(row) == 128][:8])  # (B, 128)

    def losses() -> Tensor:
        logits = subject.model(ids)[0][:, :-1].float()
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")

    whole, d = losses(), blocks_of(subject.model)[0].attention.d_k
    effects = []
    for block in blocks_of(subject.model):
        for h in range(subject.model.config.n_head):
            with switched_off(block.attention.proj, slice(h * d, (h + 1) * d)):
                effects.append(losses() - whole)
    effect = torch.stack(effects)  # (L * H, N)
    clear = effect.mean(-1).abs() > 2 * effect.std(-1) / math.sqrt(effect.shape[1])
    worst = int(effect.mean(-1).argmax())
    where = divmod(worst, subject.model.config.n_head)
    note = f"most missed: block {where[0]}, head {where[1]}, {effect.mean(-1)[worst]:+.2f} nats"
    return [
        Result(
            "heads with a significant effect",
            clear.float().mean().item(),
            len(clear),
            0.5,
            0.05,
            note=note,
        )
    ]


def where_facts_are(subject: Subject) -> list[Result]:
    """The facts it knows, without the MLP, or without the attention, of each block."""
    asked, whole = [], []
    for prompt, word in exam.rows(exam.FACTS):
        logp, answer = subject.next(prompt), subject.first(word)
        if logp.argmax() == answer:
            asked.append((prompt, answer))
            whole.append(logp[answer])
    what = "known facts: cost of an MLP off, to that of an attention off"
    if not asked:
        return [Result(what, 0.0, wanted=1.0, note="it knows none")]
    lost = {}
    for name in ("attention", "mlp"):
        costs = []
        for block in blocks_of(subject.model):
            with switched_off(getattr(block, name).proj):
                costs.append(
                    [
                        (before - subject.next(prompt)[answer]).item()
                        for before, (prompt, answer) in zip(whole, asked, strict=True)
                    ]
                )
        lost[name] = float(np.mean(costs))
    note = f"MLP {lost['mlp']:.2f}, attention {lost['attention']:.2f} nats, mean over blocks"
    return [Result(what, lost["mlp"] / max(lost["attention"], 1e-3), wanted=1.0, note=note)]


def as_rows(results: list[Result]) -> list[dict]:
    """Return results as plain data for a report."""
    return [asdict(result) for result in results]


def from_rows(rows: list[dict]) -> list[Result]:
    """Return what :func:`as_rows` was given."""
    return [Result(**row) for row in rows]


def table(columns: dict[str, list[Result]]) -> list[dict[str, str]]:
    """Return the rows of the table, a column for each model; what was not measured is empty."""
    first, *_ = columns.values()
    found = {name: {r.what: r.shown() for r in results} for name, results in columns.items()}
    rows = []
    for result in first:
        sign = "≥" if result.more else "≤"
        wanted = "" if result.wanted is None else f"{sign} {result.wanted:.2g}"
        row = {"what": result.what, "wanted": wanted}
        row |= {name: shown.get(result.what, "") for name, shown in found.items()}
        rows.append(row | {"chance": "" if result.chance is None else f"{result.chance:.2g}"})
    return rows
