"""The student: a small GPT-2 that learns from the teacher's texts and expectations.

The recipe is the course's fast one as far as GPT-2's architecture allows it: Muon for the matrices
inside the blocks, AdamW for the rest, a warm-up, and a way down to zero at the end. Between the two
the learning rate is constant, so that a longer training can go on from where a shorter one stood
before its way down (Hägele et al., 2024, "Scaling laws and compute-optimal training beyond fixed
training durations"). The phases are minutes, not steps: whatever else the machine does, a training
ends in time, with its way down behind it.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from course_utils.checkpoints import save_checkpoint
from course_utils.device import fast_dtype
from course_utils.gpt import GPT, GPTConfig, eval_mode
from course_utils.training import TrainConfig, loss_of, make_optimizers, set_learning_rate
from course_utils.weights import from_transformers
from tools.gpt2_mini import rounds
from tools.gpt2_mini.bar import blocks_of
from tools.gpt2_mini.head import SoftCrossEntropy, settled_rows, transferred_embedding
from tools.gpt2_mini.mix import LONG, Batch, Mix, among, corpus

CONFIG = GPTConfig(
    vocab_size=50_257,
    block_size=LONG,
    n_layer=6,
    n_head=8,
    n_embd=256,
    tied=True,
    mlp="gelu",  # within 0.0005 of GPT-2's tanh form, and several times faster on a CPU
)
WARMUP = 50  # steps
HEADS_OFF = 0.1  # share of the heads of block 0 that are off, so that none does all of the work


@dataclass
class Plan:
    """How long a training goes on, in minutes.

    Attributes:
        minutes: all of it.
        decay: the last of them, in which the learning rate falls to zero.
        full: the last of these, with the softmax over all tokens.
        rate: the highest learning rates, as a share of the recipe's.
        eval_every: steps between evaluations, which also write the checkpoint.
        start: published weights to begin with.
    """

    minutes: float
    decay: float
    full: float
    rate: float
    eval_every: int
    start: Path | None


@dataclass
class Run:
    """The state of a training, as far as it is in checkpoints."""

    model: GPT
    optimizers: list[torch.optim.Optimizer]
    generator: torch.Generator
    step: int = 0
    tokens: int = 0
    before: int = 0  # tokens that the published weights had read
    minutes: float = 0
    log: list[dict] = field(default_factory=list)

    def keep(self, path: Path) -> None:
        """Write a checkpoint to ``path``."""
        state = {name: getattr(self, name) for name in COUNTERS}
        state |= {
            "config": asdict(self.model.config),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
        }
        save_checkpoint(path, state)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        for name in COUNTERS:
            setattr(self, name, state[name])


COUNTERS = ("step", "tokens", "before", "minutes", "log")


def train(folder: Path, plan: Plan) -> None:
    """Train for ``plan.minutes``, at the end on the way down.

    Lessons and checkpoints are in ``folder``: ``stable.pt`` is the last checkpoint before the way
    down, from which another training goes on, and ``last.pt`` the last of all.
    """
    torch.manual_seed(0)
    corpora, held_out = corpus(folder)
    mix, windows = Mix(corpora), {name: _windows(ids) for name, ids in held_out.items()}
    run = begin(folder, plan.start)
    place = torch.full((CONFIG.vocab_size,), -1)
    place[mix.common] = torch.arange(len(mix.common))
    sizes = ", ".join(f"{name} {len(lessons['ids']):,}" for name, lessons in corpora.items())
    print(f"tokens: {sizes}; {len(mix.common):,} in the softmax; step {run.step}", flush=True)
    started, before = time.perf_counter(), run.minutes
    first, smooth, passed, full = run.step, None, 0.0, False
    while passed < plan.minutes:
        if not full and passed >= plan.minutes - plan.full:
            full = True
            settle(run.model, mix)
        rate = min(1.0, (run.step - first + 1) / WARMUP, (plan.minutes - passed) / plan.decay)
        set_learning_rate(run.optimizers, plan.rate * rate)
        batches = mix.draw(run.generator)
        begun = mix.beginnings(run.generator) if run.step % rounds.EVERY == 0 else None
        loss = step(run, batches, begun, None if full else mix.common, place)
        smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
        passed = (time.perf_counter() - started) / 60
        run.minutes = before + passed
        if run.step % plan.eval_every == 0 or passed >= plan.minutes:
            row = {"step": run.step, "train": smooth, "rate": plan.rate * rate}
            row |= {name: _loss(run.model, part) for name, part in windows.items()}
            run.log.append(row | {"minutes": run.minutes, "tokens": run.tokens})
            print(json.dumps({k: round(v, 4) for k, v in run.log[-1].items()}), flush=True)
            run.keep(folder / ("stable.pt" if passed < plan.minutes - plan.decay else "last.pt"))


def begin(folder: Path, start: Path | None) -> Run:
    """Return the state to go on from: the last checkpoint, ``start``, or the very beginning."""
    config = TrainConfig(steps=10**6, learning_rate=2e-3, warmup_steps=0, optimizer="muon")
    model, before = _first_weights(start)
    run = Run(model, make_optimizers(model, config), torch.Generator().manual_seed(0))
    run.before = before
    model.use_fused_attention(False)
    blocks_of(model)[0].attention.proj.register_forward_pre_hook(_some_heads_off)
    if (folder / "stable.pt").is_file():
        run.resume(folder / "stable.pt")
    return run


def _some_heads_off(proj: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
    """Set what a few heads write, each for a whole window, to zero, in training only."""
    if not proj.training:
        return None
    (x,) = inputs  # (B, T, C), heads side by side
    on = torch.rand(len(x), 1, CONFIG.n_head, 1) >= HEADS_OFF
    return ((x.unflatten(-1, (CONFIG.n_head, -1)) * on).flatten(-2),)


def step(
    run: Run,
    batches: list[Batch],
    begun: Tensor | None,
    common: Tensor | None,
    place: Tensor,
) -> float:
    """Make one step; return the loss on the batches.

    The softmax is over ``common``, or over all if None. Texts that were ``begun`` are continued by
    the student, and what it repeats there is made less likely.
    """
    bfloat16 = fast_dtype(torch.device("cpu")) == torch.bfloat16
    states, targets = [], []
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            x = run.model.hidden_states(batch.ids).flatten(0, 1)  # (B * T, C)
        reduced = batch if common is None else among(batch, place)
        counts = reduced.worth > 0  # where nothing is to be learned, there is no softmax
        states.append(x[counts].float())
        targets.append([part[counts] for part in reduced[1:]])
        run.tokens += batch.ids.numel()
    weight = run.model.token_embedding.weight
    weight = weight if common is None else weight.index_select(0, common)
    parts = map(torch.cat, zip(*targets, strict=True))
    loss = SoftCrossEntropy.apply(torch.cat(states), weight, *parts)
    loss.backward()
    if begun is not None:
        said = rounds.continued(run.model, begun, common)
        repeated = rounds.unlikelihood(run.model, said, common, place)
        if repeated.requires_grad:
            repeated.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    for optimizer in run.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    run.step += 1
    return loss.item()


@torch.no_grad()
def settle(model: GPT, mix: Mix) -> None:
    """Give the rows of the tokens that were in no softmax their place beside the trained ones."""
    (long, _) = mix.draw(torch.Generator().manual_seed(1))
    with eval_mode(model):
        hidden = model.hidden_states(long.ids[:4]).flatten(0, 1)[::4]
    weight = model.token_embedding.weight
    weight.copy_(settled_rows(weight, mix.common, transferred_embedding(CONFIG.n_embd), hidden))


def _first_weights(start: Path | None) -> tuple[GPT, int]:
    """Return a model to begin with, and how many tokens it has read."""
    model = GPT(CONFIG)
    if start is None:
        model.token_embedding.weight.data.copy_(transferred_embedding(CONFIG.n_embd))
        return model, 0
    published = from_transformers(GPT2LMHeadModel.from_pretrained(start, dtype=torch.float32))
    more = CONFIG.n_head // published.config.n_head
    # What a head's scores were is shared out among as many heads as it becomes.
    for block in blocks_of(published):
        for part in (block.attention.query, block.attention.key):
            part.weight.data *= more**0.25
            part.bias.data *= more**0.25
    model.load_state_dict(published.state_dict())
    report = json.loads((start / "report.json").read_text())
    return model, report.get("tokens_read") or 4096 * (report["steps"] + report["steps_before"])


def _windows(ids: np.ndarray, n: int = 24) -> Tensor:
    """Return ``n`` windows ``(n, T + 1)`` at equal distances."""
    T = CONFIG.block_size + 1
    starts = np.linspace(0, len(ids) - T, n).astype(int)
    return torch.from_numpy(ids[starts[:, None] + np.arange(T)].astype(np.int64))


@torch.no_grad()
def _loss(model: GPT, windows: Tensor) -> float:
    """Return the cross-entropy in nats a token on what really came."""
    dtype = fast_dtype(torch.device("cpu"))
    with eval_mode(model):
        losses = [loss_of(model, part[:, :-1], part[:, 1:], dtype) for part in windows.split(8)]
    return torch.stack(losses).mean().item()
