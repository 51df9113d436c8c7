"""Exercises of chapter 9: masking for BERT, T5's spans, the DPO loss, F1, patches of an image."""

import random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_checks.answers import draw
from course_checks.exercises import Exercise, Way
from course_checks.outcomes import as_pair

# --- 1 ---------------------------------------------------------------------------------------


def _dice(ids: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(ids.shape, generator=generator)


def _label(ids: Tensor, inputs: Tensor, chosen: Tensor) -> Tensor:
    return ids.masked_fill(~chosen, -100)


def _bert(at: Any = (0.15, 0.8, 0.9), label: Way = _label, dice: Way = _dice, n: Any = ()) -> Way:
    """Return an answer with dice below these limits for: chosen, masked, another word."""

    def mask_tokens(ids: Tensor, vocab_size: int, mask_id: int, generator: Any) -> tuple:
        chosen, die = dice(ids, generator) < at[0], _dice(ids, generator)
        words = torch.randint(vocab_size, n or ids.shape, generator=generator)
        inputs = torch.where(die < at[1], mask_id, torch.where(die < at[2], words, ids))
        inputs = torch.where(chosen, inputs, ids)
        return inputs, label(ids, inputs, chosen)

    return mask_tokens


def _shares(answer: Way, ids: Tensor, vocab_size: int, mask_id: int, generator: int) -> dict:
    """Return what happens to 200 texts of 200 tokens; chance is within the tolerance."""

    def run(text: Tensor, dice: torch.Generator) -> Tensor:
        parts = as_pair(answer(text, vocab_size, mask_id, dice), "inputs", "labels").values()
        return torch.stack([torch.as_tensor(part).long().expand(ids.shape) for part in parts])

    before, dice = ids.clone(), torch.Generator().manual_seed(generator)
    inputs, labels = torch.stack([run(before.clone(), dice) for _ in range(200)], 1)
    chosen, masked = labels != -100, inputs == mask_id
    changed = ~masked & (inputs != before)
    words = inputs[changed].sort().values
    shares = {
        "the share of places with a label": chosen,
        "of them, the share that is masked": masked[chosen],
        "of them, the share that is another word": changed[chosen],
        "of them, the share with the id from before as label": (labels == before)[chosen],
        "the share of other places that changed": (inputs != before)[~chosen],
        "the share of different words among the random ones": words[1:] != words[:-1],
        "how much the number of labels varies": (chosen.flatten(1).sum(1) - 30).square() / 500,
        "1 if the seed decides all": (run(ids, dice.manual_seed(generator))[0] == inputs[0]).all(),
    }
    return {name: each.double().mean() for name, each in shares.items()}


check_mask_tokens = Exercise(
    name="mask_tokens",
    task="BERT's rule: 15% of the places get a label; 80% of them are masked, 10% random.",
    right=_bert(),
    use=_shares,
    inputs=lambda seed: [((draw(10, 20, seed=seed).abs() * 300 + 5).long(), 20_000, 3, seed)],
    tolerance=0.03,
    mistakes={
        "All chosen places are masked; 10% get a random word, 10% stay.": _bert((0.15, 1, 1)),
        "No chosen place stays as it was; 10% of them should.": _bert((0.15, 0.8, 1)),
        "2% get a random word, not 10%: half of those not masked.": _bert((0.15, 0.8, 0.82)),
        "You chose 85% of the places: compare the other way round.": _bert((0.85, 0.8, 0.9)),
        "Every place has a label; those not chosen have -100.": _bert(label=lambda ids, *_: ids),
        "The labels are at all other places.": _bert(label=lambda x, _, c: _label(x, x, ~c)),
        "Labels are the ids from before.": _bert(label=lambda x, y, c: _label(y, x, c)),
        "No loss is -100; 0 is the id of a word.": _bert(label=lambda ids, _, where: ids * where),
        "The labels are True and False; expected ids and -100.": _bert(label=lambda *a: a[2]),
        "Places that stay have labels too.": _bert(label=lambda x, y, _: _label(x, x, x != y)),
        "All random words of a text are one: draw one for each place.": _bert(n=(1,)),
        "Draw from the generator; its seed decides all.": lambda *a: _bert()(*a[:3], None),
        "Choose each place by itself.": _bert(dice=lambda x, g: _dice(x[0], g).expand(x.shape)),
    },
    notice="One place in 67 gets a random word: so few that the text stays readable.",
)

# --- 2 ---------------------------------------------------------------------------------------


def _spans(words: list, spans: list, name: Way = "<{}>".format, past: int = 0) -> tuple:
    inputs, targets, at = [], [], 0
    for k, (start, stop) in enumerate(spans):
        inputs += [*words[at:start], name(k)]
        at = stop + past
        targets += [name(k), *words[start:at]]
    return inputs + words[at:], [*targets, name(len(spans))]


def _then(change: Way) -> Way:
    return lambda words, spans: change(*_spans(words, spans))


def _cut_in_place(words: list, spans: list) -> tuple:
    targets = []
    for k, (start, stop) in enumerate(spans):
        targets += [f"<{k}>", *words[start:stop]]
        words = [*words[:start], f"<{k}>", *words[stop:]]
    return words, [*targets, f"<{len(spans)}>"]


_WORDS = ["the", "keeper", "lit", "a", "lamp", "in", "my", "old", "tower", "as", "we", "sat"]
_CUTS = (((1, 3),), ((2, 4),), ((1, 3), (5, 8)), ((0, 2), (3, 4), (6, 9)), ((2, 5), (8, 10)))
check_span_corruption = Exercise(
    name="span_corruption",
    task="The text with a sentinel for each span, and the target that says what each stands for.",
    right=_spans,
    use=lambda answer, *call: as_pair(answer(*call), "the input", "the target"),
    inputs=lambda seed: [
        (random.Random(seed).sample(_WORDS, 4 + 2 * n), list(at)) for n, at in enumerate(_CUTS)
    ],
    mistakes={
        "The sentinel that closes the target is missing.": _then(lambda x, y: (x, y[:-1])),
        "Each span has its own sentinel.": lambda w, at: _spans(w, at, lambda k: "<0>"),
        "The first sentinel is <0>.": lambda w, at: _spans(w, at, lambda k: f"<{k + 1}>"),
        "A span (start, end) ends before word `end`.": lambda w, at: _spans(w, at, past=1),
        "The words of a span share one sentinel, in the input and in the target; yours has one for "
        "each.": lambda w, at: _spans(w, [(i, i + 1) for a, b in at for i in range(a, b)]),
        "After the first cut all later words have moved, and the next spans do not fit: cut from "
        "the end, or build new lists.": _cut_in_place,
        "The target lacks sentinels.": _then(lambda x, y: (x, [w for w in y if w[0] != "<"])),
        "Sentinels come before their words.": lambda w, at: (
            _spans(w, at)[0],
            [v for k, (a, b) in enumerate(at) for v in (*w[a:b], f"<{k}>")],
        ),
        "The target is only what was cut out.": lambda w, at: (_spans(w, at)[0], w),
        "The words after the last span are missing.": lambda w, at: _spans(w[: at[-1][1]], at),
        "First the input, then the target.": _then(lambda x, y: (y, x)),
        "The last sentinel is the target's alone.": _then(lambda x, y: (x + y[-1:], y)),
        "Only the first span was cut out.": lambda w, at: _spans(w, at[:1]),
    },
    notice="Input and target together say each word once: a target is as short as what was hidden.",
)

# --- 3 ---------------------------------------------------------------------------------------

log_s = F.logsigmoid


def _with_gradient(answer: Way, chosen: Tensor, *rest: Any) -> dict[str, Any]:
    loss = answer(chosen.clone().requires_grad_(), *rest)
    return {"the loss": loss, "1 if it has a gradient": 1.0 * getattr(loss, "requires_grad", 0)}


check_dpo_loss = Exercise(
    name="dpo_loss",
    task="-log σ(beta · (log-ratio of the chosen less that of the rejected)), with gradients.",
    right=lambda chosen, rejected, ref_chosen, ref_rejected, beta: (
        -log_s(beta * (chosen - rejected - ref_chosen + ref_rejected))
    ),
    use=_with_gradient,
    inputs=lambda seed: [
        (*(-k * (draw(4, seed=seed + k).abs() + 0.2)).round(decimals=1), 1 / k)
        for k in (2, 5, 9, 3)
    ],
    mistakes={
        "The log is missing: −σ.": lambda c, r, rc, rr, b: -(b * (c - r - rc + rr)).sigmoid(),
        "The log is missing: 1 − σ.": lambda c, r, rc, rr, b: (b * (r - c + rc - rr)).sigmoid(),
        "The minus is missing: −log σ(…).": lambda c, r, rc, rr, b: log_s(b * (c - r - rc + rr)),
        "log σ is missing: −log σ(…).": lambda c, r, rc, rr, b: -b * (c - r - rc + rr),
        "The reference is not used.": lambda c, r, rc, rr, b: -log_s(b * (c - r)),
        "The reference is subtracted.": lambda c, r, rc, rr, b: -log_s(b * (c - r + rc - rr)),
        "Brackets: − (rejected − ref_rejected).": lambda c, r, x, y, b: -log_s(b * (c - x - r - y)),
        "Chosen and rejected are swapped.": lambda c, r, rc, rr, b: -log_s(b * (r - rr - c + rc)),
        "log(a / b) = log a − log b.": lambda c, r, rc, rr, b: -log_s(b * (c / rc - r / rr)),
        "Logs already: no log.": lambda c, r, x, y, b: -log_s(b * ((c / x).log() - (r / y).log())),
        "Leave out exp.": lambda c, r, rc, rr, b: -log_s(b * ((c - rc).exp() - (r - rr).exp())),
        "beta belongs inside the sigmoid.": lambda c, r, rc, rr, b: -b * log_s(c - r - rc + rr),
        "beta is not used.": lambda c, r, rc, rr, b: -log_s(c - r - rc + rr),
        "You divided by beta; multiply.": lambda c, r, rc, rr, b: -log_s((c - r - rc + rr) / b),
        "The value is right, but without a gradient nothing is learned: use torch's functions, not "
        "float(), .item() or math.": lambda c, r, x, y, b: -log_s(b * (c - r - x + y)).item(),
    },
    notice="A pair on which the model agrees with its reference costs log 2, whatever it says.",
)

# --- 4 ---------------------------------------------------------------------------------------


def _f1(mean: Way = lambda p, r: 2 * p * r / (p + r), one: int = 1, none: Any = 0.0) -> Way:
    def f1(labels: list[int], predictions: list[int]) -> float:
        hits = sum(y == p == one for y, p in zip(labels, predictions, strict=True))
        if hits == 0 and none is not None:
            return none
        return mean(hits / predictions.count(one), hits / labels.count(one))

    return f1


def _same(labels: list[int], predictions: list[int]) -> int:
    return sum(y == p for y, p in zip(labels, predictions, strict=True))


#: How many 1s are found, 0s left out, 0s taken for 1, 1s missed.
_FOUND = ((3, 4, 2, 1), (4, 3, 1, 2), (2, 1, 1, 3), (1, 4, 5, 2), (0, 1, 1, 1), (0, 1, 0, 2))
check_f1 = Exercise(
    name="f1",
    task="The F1 of class 1, 2pr / (p + r); 0 where no 1 was found.",
    right=_f1(),
    inputs=lambda seed: [
        ([1] * hit + [0] * (no + more) + [1] * less, [1] * hit + [0] * no + [1] * more + [0] * less)
        for hit, no, more, less in [(3, 2 + seed % 99, 1, 4), *_FOUND]
    ],
    mistakes={
        "That is the accuracy, which counts class 0 as well.": lambda y, p: _same(y, p) / len(y),
        "A 0 called 0 is not a hit.": lambda y, p: 2 * _same(y, p) / (sum(y) + sum(p)) * (1 in p),
        "That is the precision alone.": _f1(lambda p, r: p),
        "That is the recall alone.": _f1(lambda p, r: r),
        "That is the plain average; F1 is the harmonic mean.": _f1(lambda p, r: (p + r) / 2),
        "That is the geometric mean; F1 is the harmonic one.": _f1(lambda p, r: (p * r) ** 0.5),
        "The 2 is missing: 2pr / (p + r).": _f1(lambda p, r: p * r / (p + r)),
        "The division by p + r is missing.": _f1(lambda p, r: 2 * p * r),
        "That is the F1 of class 0.": _f1(one=0),
        "That is the mean over both classes.": lambda *a: (_f1()(*a) + _f1(one=0)(*a)) / 2,
        "Where no 1 was found it stops, with a division by 0: return 0.0.": _f1(none=None),
        "Where no 1 was found, return 0.0.": _f1(none=1.0),
    },
    notice="The harmonic mean is low when either precision or recall is.",
)

# --- 5 ---------------------------------------------------------------------------------------


def _cut(*order: int) -> Way:
    """Return an answer that moves (B, rows, row in it, columns, column in it) into this order."""

    def patchify(images: Tensor, size: int) -> Tensor:
        B, H, W = images.shape
        parts = images.reshape(B, H // size, size, W // size, size)
        return parts.permute(order or (0, 1, 3, 2, 4)).reshape(B, -1, size * size)

    return patchify


_IMAGES = ((1, 4, 4, 2), (2, 4, 6, 2), (2, 9, 6, 3), (3, 6, 6, 3), (2, 6, 3, 1))
check_patchify = Exercise(
    name="patchify",
    task="Squares of an image as a sequence, row by row: (B, H, W) -> (B, n, size * size).",
    right=_cut(),
    inputs=lambda seed: [
        (torch.arange(B * H * W).view(B, H, W) + seed % 999.0, s) for B, H, W, s in _IMAGES
    ],
    shape="(B, n, size * size)",
    mistakes={
        "You reshaped without moving axes: a patch holds a strip of a row.": _cut(0, 1, 2, 3, 4),
        "The patches run down the columns; they should run along the rows.": _cut(0, 3, 1, 2, 4),
        "The pixels inside each patch run down its columns.": _cut(0, 1, 3, 4, 2),
        "A patch holds neighbours; yours has every n-th pixel.": _cut(0, 2, 4, 1, 3),
        "Patches come after the batch: stack(…, dim=1).": lambda x, s: _cut()(x, s).transpose(0, 1),
        "The patches overlap: the next one begins size pixels further on, not one: count in "
        "steps of size.": lambda x, s: x.unfold(1, s, 1).unfold(2, s, 1).reshape(len(x), -1, s * s),
        "The last row and column of patches is missing.": lambda x, s: _cut()(x[:, :-s, :-s], s),
        "Right for square images only.": lambda x, s: _cut()(x.view(len(x), *x.shape[1:2] * 2), s),
        "size is fixed in your function: use the argument.": lambda x, s: _cut()(x, 2),
    },
    notice="Every square of pixels is a token now; the transformer needs nothing else to change.",
)
