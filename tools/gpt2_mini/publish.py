"""The result: weights in half precision, and a model card with measured figures."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2LMHeadModel

from course_utils import pretrained
from course_utils.assets import sha256
from course_utils.gpt import GPT, GPTConfig
from course_utils.metrics import bits_per_byte
from course_utils.sampling import generate
from course_utils.weights import to_transformers
from tools.gpt2_mini import bar, facts, rounds
from tools.gpt2_mini.mix import (
    BATCH,
    COPIES,
    DRILLS,
    FACTS,
    LONG,
    N_COMMON,
    SHORT,
    corpus,
)
from tools.gpt2_mini.prompts import beginnings, requests, topics
from tools.gpt2_mini.teacher import END, TEMPERATURE, Teacher
from tools.gpt2_mini.train import HEADS_OFF

PROMPTS = ("The weather is", "The cat sat on the", "The meaning of life is")
TOLERANCE = 1.03  # more bits a byte than the published model needs, by this factor, are too many


def publish(folder: Path, target: Path, brief: bool) -> None:
    """Write the model, its curve, its figures and its card to ``target``.

    SmolLM2 sits the exam too, which takes minutes; if ``brief``, it does not, and less is asked.

    Raises:
        ValueError: the model is worse than the one in ``target``.
    """
    state = torch.load(folder / "last.pt", weights_only=True)
    new = folder / "published"
    new.mkdir(exist_ok=True)
    export(state, new)
    log = state["log"]
    rows = [",".join(log[0]), *(",".join(f"{value:.6g}" for value in row.values()) for row in log)]
    (new / "curve.csv").write_text("\n".join(rows) + "\n")
    report = measure(folder, examined(new, target, brief), brief)
    report |= {name: state[name] for name in ("step", "minutes", "before")}
    report["tokens_read"] = state["before"] + state["tokens"]
    (new / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    card = write_card(report, log, state["config"], new)
    (new / "README.md").write_text(card)
    print(card)
    if reasons := worse(report):
        raise ValueError(
            f"This model is worse than the one in {target}: {'; '.join(reasons)}. Expected one "
            f"that is not. Nothing there was changed; look at {new}, and train on."
        )
    target.mkdir(parents=True, exist_ok=True)
    for file in new.iterdir():
        shutil.copy(file, target)
    print("For course_utils/assets.toml:")
    for name in ("config.json", "model.safetensors"):
        digest, size = sha256(target / name), (target / name).stat().st_size
        print(f'  {{ name = "{name}", size = {size}, sha256 = "{digest}" }},')


def worse(report: dict) -> list[str]:
    """Return in what a model is worse than the published one: bits a byte, or what the bar wants.

    A measure is worse if it was met and is not any more, or if its interval is below the old one's.
    """
    if "published" not in report["bar"]:
        return []
    reasons = [
        f"{name} {report[name]['gpt2-mini']:.3f} bits a byte, was {report[name]['published']:.3f}"
        for name in report["tokens"]
        if name in report and report[name]["gpt2-mini"] > TOLERANCE * report[name]["published"]
    ]
    pairs = zip(*(bar.from_rows(report["bar"][n]) for n in ("gpt2-mini", "published")), strict=True)
    return reasons + [
        f"{new.what}: {new.shown()}, was {old.shown()}"
        for new, old in pairs
        if (old.met() and not new.met()) or new.surely_worse_than(old)
    ]


def export(state: dict, target: Path) -> None:
    """Write the checkpoint as transformers' ``GPT2LMHeadModel``, in half precision."""
    # The model was trained with the exact GELU; GPT-2's tanh form differs by less than 0.0005.
    model = GPT(GPTConfig(**state["config"] | {"mlp": "gelu_tanh"}))
    model.load_state_dict(state["model"])
    theirs = to_transformers(model).half()
    theirs.config.bos_token_id = theirs.config.eos_token_id = END
    theirs.config.architectures = [type(theirs).__name__]
    theirs.config.save_pretrained(target)
    weights = {name: value.contiguous() for name, value in theirs.state_dict().items()}
    weights.pop("lm_head.weight")  # tied to the token embedding
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


# --- measuring -------------------------------------------------------------------------------


def write_card(report: dict, log: list[dict], config: dict, target: Path) -> str:
    """Return the model card: ``card.md`` with its figures filled in."""
    held_out = [name for name in report["tokens"] if name in report]
    curve = log[:: max(1, len(log) // 8)]
    curve += log[-1:] if curve[-1] is not log[-1] else []
    samples = [
        f"**{prompt}** …\n\n"
        f"- most likely next: {', '.join(sample['top'])}\n"
        f"- greedy: {sample['greedy']!r}\n"
        + "".join(f"- drawn at temperature 0.8: {text!r}\n" for text in sample["drawn"])
        for prompt, sample in report["samples"].items()
    ]
    heads = {
        name: " to ".join(f"{v:.0%}" for v in sorted(report["heads"][name])[::3])
        for name in report["heads"]
    }
    fields = config | report | heads | _mix_in_words()
    fields |= {
        "n_positions": config["block_size"],
        "n_heads": config["n_layer"] * config["n_head"],
        "megabytes": (target / "model.safetensors").stat().st_size / 1e6,
        "million_tokens": sum(report["tokens"].values()) / 1e6,
        "million_addresses": report["tokens"].get("addresses", 0) / 1e6,
        "million_written": report["tokens"]["texts"] / 1e6,
        "thousand_own": report["tokens"].get("own", 0) / 1e3,
        "n_own": BATCH["own"] if "own" in report["tokens"] else 0,
        "million_read": report["tokens_read"] / 1e6,
        "origin": _origin(report["before"]),
        "curve_table": _table(
            [
                {"step": f"{row['step']:,}", "rate": f"{row['rate']:.2f}"}
                | {name: f"{row[name]:.3f}" for name in held_out}
                for row in curve
            ]
        ),
        "bits_table": _table(
            [
                {"held-out text": name}
                | {n: f"{v:.3f}" for n, v in report[name].items() if n != "bytes"}
                for name in held_out
            ]
        ),
        "bar_table": _table(
            bar.table({name: bar.from_rows(rows) for name, rows in report["bar"].items()})
        ),
        "notes": "; ".join(
            f"{r['what']}: {r['note']}" for r in report["bar"]["gpt2-mini"] if r["note"]
        ),
        "samples": "\n".join(samples),
    }
    return (Path(__file__).parent / "card.md").read_text(encoding="utf-8").format(**fields)


def _mix_in_words() -> dict[str, str | int | float]:
    """Return what the card says of the mix, and all that the student was told."""
    told = facts.told()
    return {
        "temperature": TEMPERATURE,
        "n_kinds": len(requests(0)) // len(topics()),
        "n_topics": len(topics()),
        "n_beginnings": len(beginnings()),
        "n_facts": sum(len(relation.facts) for relation in told.values()),
        "n_wordings": min(len(relation.wordings) for relation in told.values()),
        "n_common": N_COMMON,
        "n_texts": BATCH["texts"],
        "n_addresses": BATCH["addresses"],
        "copies": COPIES,
        "n_fact_windows": FACTS,
        "n_drill_windows": DRILLS,
        "window": LONG,
        "short_window": SHORT,
        "heads_off": HEADS_OFF,
        "rounds_every": rounds.EVERY,
        "rounds_rows": rounds.ROWS,
        "phrase": rounds.PHRASE,
        "told": "\n".join(
            f"- {kind}: " + ", ".join(f"{fact['a']} {fact['b']}" for fact in relation.facts)
            for kind, relation in told.items()
        ),
        "control": facts.CONTROL,
    }


def _origin(before: int) -> str:
    if not before:
        return "Everything else began at random. "
    return (
        f"A first version learned from {before / 1e6:.0f} million tokens, with four heads a block; "
        "each became two, and this one went on from its weights. "
    )


def _table(rows: list[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@torch.no_grad()
def measure(folder: Path, subjects: dict[str, bar.Subject], brief: bool) -> dict:
    """Return what the model card says: the bar, bits per byte, continuations, patterns of heads."""
    teacher = Teacher()
    corpora, held_out = corpus(folder)
    train_ids = np.concatenate([lessons["ids"] for lessons in corpora.values()]).astype(np.int64)
    report: dict[str, Any] = {
        "parameters": subjects["gpt2-mini"].model.num_parameters(),
        "tokens": {name: len(lessons["ids"]) for name, lessons in corpora.items()},
        "bar": {name: bar.as_rows(bar.examine(one, brief)) for name, one in subjects.items()},
    }
    for name, ids in held_out.items():
        texts = _texts(ids, teacher)[:150]
        report[name] = {"bytes": sum(len(text) for text in texts)}
        report[name] |= {who: bar.bits(one, texts) for who, one in subjects.items()}
        rows = [teacher.gpt2.encode(text) for text in texts]
        report[name]["trigram"] = _trigram_bits(train_ids, rows, texts)
    model = subjects["gpt2-mini"].model
    report["samples"] = {prompt: _continuations(model, teacher, prompt) for prompt in PROMPTS}
    report["heads"] = _heads(subjects["gpt2-mini"].theirs, teacher)
    return report


def examined(new: Path, published: Path, brief: bool) -> dict[str, bar.Subject]:
    """Return the models of the table: the new one, the one it replaces, and SmolLM2."""
    subjects = {"gpt2-mini": subject(new)}
    if (published / "config.json").is_file():
        subjects["published"] = subject(published)
    if not brief:
        smollm2 = pretrained.load("smollm2")
        subjects["smollm2"] = bar.Subject(smollm2.model, smollm2.tokenizer)
    return subjects


def subject(folder: Path) -> bar.Subject:
    """Return the model in ``folder`` for an examination."""
    theirs = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    return bar.Subject(theirs, pretrained.load_tokenizer("gpt2"))


def _texts(ids: np.ndarray, teacher: Teacher) -> list[str]:
    ends = np.flatnonzero(ids == END)
    texts = [teacher.gpt2.decode(part[1:])[:900] for part in np.split(ids, ends)]
    return [text for text in texts if text]  # 900 characters: within every model's window


def _trigram_bits(train_ids: np.ndarray, rows: list[list[int]], texts: list[str]) -> float:
    """Return the bits per byte of a trigram model, with the best of several strengths."""
    n_bytes = sum(map(len, texts))
    sums = []
    for strength in (1.0, 3.0, 10.0, 30.0):
        p = trigram_probabilities(train_ids, rows, strength)
        sums.append(-np.log(p).sum())
    return bits_per_byte(min(sums), 1, n_bytes)


def trigram_probabilities(
    train_ids: np.ndarray, rows: list[list[int]], strength: float
) -> np.ndarray:
    """Return the probability of each token but the first of a row, as ``metrics.NGram`` does."""
    V = END + 1
    probabilities = np.full(sum(len(row) - 1 for row in rows), 1 / V)
    for order in (1, 2, 3):
        codes = _codes(train_ids, order)
        seen, counts = np.unique(codes, return_counts=True)
        contexts, totals = np.unique(codes // V, return_counts=True)
        padded = [
            np.array([END] * (order - 2) + row)[-(len(row) - 1) - order + 1 :] for row in rows
        ]
        codes = np.concatenate([_codes(row, order) for row in padded])
        count = _look_up(seen, counts, codes)
        total = _look_up(contexts, totals, codes // V)
        probabilities = (count + strength * probabilities) / (total + strength)
    return probabilities


def _codes(ids: np.ndarray, n: int) -> np.ndarray:
    """Return each window of ``n`` ids as one whole number."""
    codes = np.zeros(len(ids) - n + 1, dtype=np.int64)
    for k in range(n):
        codes = codes * (END + 1) + ids[k : len(ids) - n + 1 + k]
    return codes


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def _continuations(model: GPT, teacher: Teacher, prompt: str) -> dict:
    ids = teacher.gpt2.encode(prompt)
    probabilities = model(torch.tensor([ids]))[0][0, -1].softmax(-1)
    top = probabilities.topk(10)
    (greedy,) = generate(model, [ids], 40, greedy=True, stop=[END])
    generator = torch.Generator().manual_seed(0)
    drawn = generate(
        model, [ids] * 2, 60, temperature=0.8, top_p=0.95, stop=[END], generator=generator
    )
    return {
        "top": [
            f"{teacher.gpt2.decode([i])!r} {p:.1%}"
            for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ],
        "greedy": teacher.gpt2.decode(greedy),
        "drawn": [teacher.gpt2.decode(row) for row in drawn],
    }


def _heads(model: GPT2LMHeadModel, teacher: Teacher) -> dict:
    """Return how many heads look mostly at the token before, and mostly at the first token."""
    text = (
        "The old house at the end of the street had been empty for many years, and the children "
        "of the village told stories about it."
    )
    ids = torch.tensor([teacher.gpt2.encode(text)])
    weights: Tensor = torch.cat(model(ids, output_attentions=True).attentions)  # (L, H, T, T)
    previous = weights.diagonal(-1, 2, 3)[..., 1:].mean(-1)  # (L, H)
    first = weights[:, :, 2:, 0].mean(-1)
    return {
        "previous": [round(v, 2) for v in previous.flatten().topk(4).values.tolist()],
        "first": [round(v, 2) for v in first.flatten().topk(4).values.tolist()],
    }
