"""The student: a small GPT-2 that learns from the teacher's texts and expectations.

The recipe is the course's fast one as far as GPT-2's architecture allows it: Muon for the matrices
inside the blocks, AdamW for the rest, a warm-up, and a way down to zero at the end. Between the two
the learning rate is constant, so that a longer training can go on from where a shorter one stood
before its way down (Hägele et al., 2024, "Scaling laws and compute-optimal training beyond fixed
training durations").
"""

import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from course_utils import pretrained
from course_utils.bpe import from_symbols
from course_utils.checkpoints import save_checkpoint
from course_utils.device import fast_dtype
from course_utils.gpt import GPT, GPTConfig, eval_mode
from course_utils.training import TrainConfig, loss_of, make_optimizers, set_learning_rate
from course_utils.weights import from_transformers
from tools.gpt2_mini.teacher import END

CONFIG = GPTConfig(
    vocab_size=50_257,
    block_size=256,
    n_layer=6,
    n_head=4,
    n_embd=256,
    tied=True,
    mlp="gelu",  # within 0.0005 of GPT-2's tanh form, and several times faster on a CPU
)
BATCH = {"texts": 12, "addresses": 4}  # windows of block_size tokens
WARMUP = 200
#: A part of the corpus: arrays "ids", "expected" and "share", see :class:`.teacher.Lesson`.
Lessons = dict[str, np.ndarray]
TRUST = 0.75  # weight of what the teacher expected; the rest is on the token that came


def batch(corpora: dict[str, Lessons], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids ``(B, T)``, and for what follows each, tokens and shares ``(B * T, K)``."""
    parts = [_windows_of(lessons, BATCH[name], generator) for name, lessons in corpora.items()]
    ids, tokens, shares = (torch.cat(part) for part in zip(*parts, strict=True))
    return ids, tokens, shares


def _windows_of(
    lessons: Lessons, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    T = CONFIG.block_size
    starts = torch.randint(len(lessons["ids"]) - T, (n, 1), generator=generator).numpy()
    at = starts + np.arange(T)  # (n, T)
    after = (at + 1).reshape(-1)
    came = lessons["ids"][after, None]
    tokens = np.concatenate([lessons["expected"][after], came], axis=1).astype(np.int64)
    trust = TRUST * lessons["share"][after].astype(np.float32)
    shares = np.concatenate([trust, np.full((n * T, 1), 1 - TRUST, np.float32)], axis=1)
    ids = torch.from_numpy(lessons["ids"][at].astype(np.int64))
    return ids, torch.from_numpy(tokens), torch.from_numpy(shares)


class SoftCrossEntropy(torch.autograd.Function):
    """Cross-entropy of softmax(x Wᵀ) to targets that share out the probability among few tokens.

    With 50,257 tokens, the logits of one batch are most of the memory and of the time. Their
    gradient is the softmax minus the targets, so it is computed along with them, a piece at a time,
    and the logits are never kept.
    """

    PIECE = 2048  # rows

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, tokens: Tensor, shares: Tensor) -> Tensor:
        """``(N, C)``, ``(V, C)``, ``(N, K)``, ``(N, K)`` -> the mean in nats a token, a scalar."""
        dtype = fast_dtype(x.device)
        narrow = weight.to(dtype)
        loss, dx, dw = x.new_zeros(()), torch.empty_like(x), torch.zeros_like(weight)
        pieces = (part.split(SoftCrossEntropy.PIECE) for part in (x, dx, tokens, shares))
        for rows, grad, ids, share in zip(*pieces, strict=True):
            p = (rows.to(dtype) @ narrow.T).softmax(-1)  # (n, V)
            loss -= (share * p.gather(1, ids).float().clamp(min=1e-30).log()).sum()
            share = share[:, :, None]  # (n, K, 1)
            grad.copy_(p @ narrow - (share * weight[ids]).sum(1))
            dw += p.T @ rows.to(dtype)
            dw.index_add_(0, ids.flatten(), (share * rows[:, None]).flatten(0, 1), alpha=-1)
        n = len(x)
        ctx.save_for_backward(dx.div_(n), dw.div_(n))
        return loss / n

    @staticmethod
    def backward(ctx, upstream: Tensor):
        """Scale the gradients that :meth:`forward` found."""
        dx, dw = ctx.saved_tensors
        return upstream * dx, upstream * dw, None, None


def transferred_embedding(n_embd: int) -> Tensor:
    """Return a token embedding ``(V, n_embd)`` made from SmolLM2's, for GPT-2's tokens.

    A token of GPT-2's gets the mean of the vectors of the pieces that SmolLM2 would write it with,
    and the vectors keep the ``n_embd`` directions in which they differ most (their principal
    components). They are scaled to the size that GPT-2's embedding starts with.
    """
    loaded = pretrained.load("smollm2")
    theirs = loaded.model.get_input_embeddings().weight.detach()  # (V', C')
    gpt2 = pretrained.load_tokenizer("gpt2")
    tokens = [from_symbols(t) for t in gpt2.convert_ids_to_tokens(range(len(gpt2)))]
    texts = [token.decode(errors="replace") for token in tokens[:END]]
    pieces = loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = torch.zeros(END + 1, theirs.shape[1])  # (V, C'), zeros for the end of text
    for row, ids in zip(rows, pieces, strict=False):
        if ids:
            row.copy_(theirs[ids].mean(0))
    rows = rows - rows.mean(0)
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    rows = rows @ directions[:n_embd].T  # (V, n_embd)
    return rows * (0.02 / rows.std())


def learning_rate_share(step: int, steps: int, decay: int) -> float:
    """Return the learning rate of ``step`` as a share of the highest."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / max(1, decay))


def train(
    folder: Path, steps: int, decay: int, minutes: float, eval_every: int, start: Path | None
) -> None:
    """Train for ``steps`` steps in all, the last ``decay`` of them on the way down.

    The weights begin as those published in ``start``, or at random with the token embedding
    transferred from SmolLM2. Lessons and checkpoints are in ``folder``: ``stable.pt`` is the last
    checkpoint before the way down, from which a longer training goes on, and ``last.pt`` the last
    of all.
    """
    torch.manual_seed(0)
    corpora, held_out = corpus(folder)
    windows = {name: _windows(ids) for name, ids in held_out.items()}
    config = TrainConfig(steps=steps, learning_rate=2e-3, warmup_steps=0, optimizer="muon")
    model, before = _first_weights(start)
    optimizers = make_optimizers(model, config)
    model.use_fused_attention(False)
    generator = torch.Generator().manual_seed(0)
    step, log = _resume(folder, model, optimizers, generator, steps - decay)
    # Most of GPT-2's tokens are in no lesson. Until the way down they are left out of the softmax,
    # which is most of the work; then all are in it, and those learn that they do not come.
    seen = _tokens_of(corpora)
    place = torch.zeros(CONFIG.vocab_size, dtype=torch.long)
    place[seen] = torch.arange(len(seen))
    dtype, started = fast_dtype(torch.device("cpu")), time.perf_counter()
    smooth = None
    sizes = ", ".join(f"{name} {len(lessons['ids']):,}" for name, lessons in corpora.items())
    print(f"tokens: {sizes}; {len(seen):,} different ones; step {step}", flush=True)
    while step < steps:
        ids, tokens, shares = batch(corpora, generator)
        share = learning_rate_share(step, steps, decay)
        set_learning_rate(optimizers, share)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            x = model.hidden_states(ids)  # (B, T, C)
        weight = model.token_embedding.weight
        if step < steps - decay:  # among the tokens that the lessons have
            weight, tokens = weight.index_select(0, seen), place[tokens]
        loss = SoftCrossEntropy.apply(x.flatten(0, 1).float(), weight, tokens, shares)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        step += 1
        if step % eval_every == 0 or step == steps:
            row = {"step": step, "train": smooth}
            row |= {name: _loss(model, part, dtype) for name, part in windows.items()}
            row["seconds"] = time.perf_counter() - started
            log.append(row)
            print(json.dumps({key: round(value, 4) for key, value in row.items()}), flush=True)
            name = "stable.pt" if step <= steps - decay else "last.pt"
            _keep(folder / name, model, optimizers, generator, step, decay, before, log)
        if time.perf_counter() - started > 60 * minutes and step <= steps - decay:
            break
    _keep(folder / "last.pt", model, optimizers, generator, step, decay, before, log)


def _first_weights(start: Path | None) -> tuple[GPT, int]:
    """Return a model to begin with, and how many steps it has learned for."""
    model = GPT(CONFIG)
    if start is None:
        model.token_embedding.weight.data.copy_(transferred_embedding(CONFIG.n_embd))
        return model, 0
    published = GPT2LMHeadModel.from_pretrained(start, dtype=torch.float32)
    model.load_state_dict(from_transformers(published).state_dict())
    report = json.loads((start / "report.json").read_text())
    return model, report["steps"] + report["steps_before"]


def _tokens_of(corpora: dict[str, Lessons]) -> Tensor:
    """Return the ids of all tokens that lessons have, or the teacher expected there."""
    parts = [lessons[key].ravel() for lessons in corpora.values() for key in ("ids", "expected")]
    return torch.from_numpy(np.unique(np.concatenate(parts)).astype(np.int64))


def corpus(folder: Path) -> tuple[dict[str, Lessons], dict[str, np.ndarray]]:
    """Return the lessons to train on, behind each other, and the ids held out, each by its source.

    Of the teacher's texts each 25th batch is held out, of the addresses those of each tenth year.
    """
    files = {"texts": sorted(folder.glob("texts-*.npz")), "addresses": []}
    out = {"texts": [file for file in files["texts"] if int(file.stem[-4:]) % 25 == 0]}
    if (folder / "addresses.npz").is_file():
        files["addresses"] = [folder / "addresses.npz"]
        out["addresses"] = [folder / "addresses-held-out.npz"]
    corpora = {}
    for name, held_out in out.items():
        parts = [np.load(file) for file in files[name] if file not in held_out]
        corpora[name] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return corpora, {
        name: np.concatenate([np.load(file)["ids"] for file in held_out])
        for name, held_out in out.items()
    }


def _windows(ids: np.ndarray, n: int = 64) -> Tensor:
    """Return ``n`` windows ``(n, T + 1)`` at equal distances."""
    T = CONFIG.block_size + 1
    starts = np.linspace(0, len(ids) - T, n).astype(int)
    return torch.from_numpy(ids[starts[:, None] + np.arange(T)].astype(np.int64))


@torch.no_grad()
def _loss(model: GPT, windows: Tensor, dtype: torch.dtype) -> float:
    """Return the cross-entropy in nats a token on what really came."""
    with eval_mode(model):
        losses = [loss_of(model, part[:, :-1], part[:, 1:], dtype) for part in windows.split(8)]
    return torch.stack(losses).mean().item()


def _keep(
    path: Path, model, optimizers, generator, step: int, decay: int, before: int, log: list
) -> None:
    state = {
        "config": asdict(model.config),
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "generator": generator.get_state(),
        "step": step,
        "decay": decay,
        "before": before,
        "log": log,
    }
    save_checkpoint(path, state)


def _resume(folder: Path, model, optimizers, generator, stable_steps: int) -> tuple[int, list]:
    """Go on from the last checkpoint that is not further than the way down's begin."""
    file = folder / "stable.pt"
    if not file.is_file():
        return 0, []
    state = torch.load(file, weights_only=True)
    if state["step"] > stable_steps:
        raise ValueError(
            f"{file} is at step {state['step']}, beyond the {stable_steps} steps before the way "
            "down. Ask for more steps, or for a shorter way down."
        )
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    generator.set_state(state["generator"])
    return state["step"], state["log"]
