"""The result: weights in half precision, and a model card with measured figures."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2LMHeadModel

from course_utils.assets import sha256
from course_utils.gpt import GPT, GPTConfig
from course_utils.metrics import bits_per_byte
from course_utils.sampling import generate
from course_utils.weights import from_transformers, to_transformers
from tools.gpt2_mini.prompts import beginnings, requests, topics
from tools.gpt2_mini.teacher import END, TEMPERATURE, Teacher
from tools.gpt2_mini.train import BATCH, corpus

PROMPTS = ("The weather is", "The cat sat on the", "The meaning of life is")


def publish(folder: Path, target: Path) -> None:
    """Write the model, its curve, its figures and its card to ``target``."""
    state = torch.load(folder / "last.pt", weights_only=True)
    target.mkdir(parents=True, exist_ok=True)
    export(state, target)
    log = state["log"]
    rows = [",".join(log[0]), *(",".join(f"{value:.6g}" for value in row.values()) for row in log)]
    (target / "curve.csv").write_text("\n".join(rows) + "\n")
    report = measure(folder, target)
    report |= {"steps": state["step"], "decay": state["decay"], "steps_before": state["before"]}
    (target / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    card = write_card(report, log, state["config"], target)
    (target / "README.md").write_text(card)
    print(f"{card}\nFor course_utils/assets.toml:")
    for name in ("config.json", "model.safetensors"):
        digest, size = sha256(target / name), (target / name).stat().st_size
        print(f'  {{ name = "{name}", size = {size}, sha256 = "{digest}" }},')


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
    held_out = list(report["tokens"])
    batch_tokens = sum(BATCH[name] for name in held_out) * config["block_size"]
    curve = log[:: max(1, len(log) // 8)]
    curve += log[-1:] if curve[-1] is not log[-1] else []
    names = ("gpt2-mini", "trigram", "smollm2")
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
    fields = config | report | heads
    fields |= {
        "n_positions": config["block_size"],
        "n_heads": config["n_layer"] * config["n_head"],
        "megabytes": (target / "model.safetensors").stat().st_size / 1e6,
        "million_tokens": sum(report["tokens"].values()) / 1e6,
        "million_addresses": report["tokens"].get("addresses", 0) / 1e6,
        "million_written": report["tokens"]["texts"] / 1e6,
        "batch_tokens": batch_tokens,
        "million_read": (report["steps"] + report["steps_before"]) * batch_tokens / 1e6,
        "origin": _origin(report["steps_before"]),
        "temperature": TEMPERATURE,
        "n_kinds": len(requests(0)) // len(topics()),
        "n_topics": len(topics()),
        "n_beginnings": len(beginnings()),
        "curve_table": _table(
            [
                {"step": f"{row['step']:,}"} | {name: f"{row[name]:.3f}" for name in held_out}
                for row in curve
            ]
        ),
        "bits_table": _table(
            [
                {"held-out text": name} | {n: f"{report[name][n]:.3f}" for n in names}
                for name in held_out
            ]
        ),
        "samples": "\n".join(samples),
    }
    return (Path(__file__).parent / "card.md").read_text(encoding="utf-8").format(**fields)


def _origin(steps_before: int) -> str:
    if not steps_before:
        return "Then "
    return (
        f"A first version learned for {steps_before:,} steps, from fewer texts; this one went on "
        "from its weights. Then "
    )


def _table(rows: list[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@torch.no_grad()
def measure(folder: Path, target: Path) -> dict:
    """Return what the model card says: bits per byte, continuations, and patterns of heads."""
    theirs = GPT2LMHeadModel.from_pretrained(
        target, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model = from_transformers(theirs)
    teacher = Teacher()
    corpora, held_out = corpus(folder)
    train_ids = np.concatenate([lessons["ids"] for lessons in corpora.values()]).astype(np.int64)
    report = {
        "parameters": model.num_parameters(),
        "tokens": {name: len(lessons["ids"]) for name, lessons in corpora.items()},
    }
    for name, ids in held_out.items():
        texts = _texts(ids, teacher)[:150]
        report[name] = {
            "bytes": sum(len(text) for text in texts),
            "gpt2-mini": _bits(model, [teacher.gpt2.encode(text) for text in texts], texts),
            "smollm2": _bits(
                teacher.model, [teacher.tokenizer.encode(text) for text in texts], texts
            ),
            "trigram": _trigram_bits(
                train_ids, [teacher.gpt2.encode(text) for text in texts], texts
            ),
        }
    report["samples"] = {prompt: _continuations(model, teacher, prompt) for prompt in PROMPTS}
    report["heads"] = _heads(theirs, teacher)
    return report


def _texts(ids: np.ndarray, teacher: Teacher) -> list[str]:
    ends = np.flatnonzero(ids == END)
    texts = [teacher.gpt2.decode(part[1:])[:900] for part in np.split(ids, ends)]
    return [text for text in texts if text]  # 900 characters: within every model's window


def _bits(model: GPT, rows: list[list[int]], texts: list[str]) -> float:
    """Return bits per byte; the first token of each text is given and counts as certain."""
    nats = 0.0
    for ids in rows:
        window = torch.tensor([ids])
        logits = model(window)[0][0].float()
        nats += F.cross_entropy(logits[:-1], window[0, 1:], reduction="sum").item()
    return bits_per_byte(nats, 1, sum(map(len, texts)))


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
