"""The training loop: AdamW, warm-up and decay, clipping, evaluation, checkpoints, history."""

import functools
import math
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.corpora import get_batch
from course_utils.gpt import GPT
from course_utils.metrics import perplexity
from course_utils.plots import COLOURS
from course_utils.progress import progress_bar

BETAS = (0.9, 0.99)  # how slowly AdamW forgets the gradient and its square
EVALUATION_SEED = 1234  # the windows for evaluation are the same in every run


@dataclass(frozen=True)
class TrainConfig:
    """How to train; what to train is the model's own config.

    Args:
        steps: updates of the weights.
        batch_size: windows in a batch ``B``.
        learning_rate: the highest one, reached after the warm-up.
        warmup_steps: steps in which the learning rate climbs to it.
        weight_decay: how hard matrices are pulled towards zero; biases and norms never are.
        clip_norm: gradients that are longer together are shortened to this.
        eval_every: steps between two evaluations, which also write the checkpoint.
        eval_windows: windows of each split that an evaluation reads, always the same ones.
        seed: of the batches.
        dtype: "float32", "bfloat16" (matrix products only), or "auto", see :func:`fast_dtype`.

    Raises:
        ValueError: a number makes no sense, or ``dtype`` is unknown.
    """

    steps: int
    batch_size: int = 16
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    eval_every: int = 100
    eval_windows: int = 128
    seed: int = 0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "eval_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} must be at least 0 and below steps={self.steps}."
            )
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0.")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r} is not 'auto', 'float32' or 'bfloat16'.")


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of ``step``, counted from 0: a climb, then half a cosine to zero.

    Source: Loshchilov and Hutter, 2017, "SGDR" (the cosine, without its restarts).
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / (config.steps - config.warmup_steps)  # 0 to 1
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only.

    Source: Loshchilov and Hutter, 2019, "Decoupled weight decay regularization".
    """
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    device = next(model.parameters()).device
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=BETAS, fused=device.type in ("cpu", "cuda")
    )


# --- speed -----------------------------------------------------------------------------------


@functools.cache
def fast_dtype(device: torch.device) -> torch.dtype:
    """Return the number format in which matrix products are fastest: bfloat16 or float32.

    A CPU is asked by timing one product in both, because only some have instructions for
    bfloat16, and without them it is much slower.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    if device.type != "cpu":
        return torch.float32
    gain = _seconds_of_product(torch.float32) / _seconds_of_product(torch.bfloat16)
    return torch.bfloat16 if gain > 1.5 else torch.float32


def _seconds_of_product(dtype: torch.dtype) -> float:
    a, b = torch.ones(512, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    seconds = []
    for _ in range(6):  # the first ones also prepare the kernel: the shortest counts
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def prepare(model: GPT, dtype: str = "auto") -> torch.dtype:
    """Choose number format and attention kernel for the device that ``model`` is on.

    Sets the model's attention to torch's fused kernel, except for bfloat16 on a CPU, where the
    plain definition is faster for short sequences. Returns the number format.
    """
    device = next(model.parameters()).device
    chosen = fast_dtype(device) if dtype == "auto" else getattr(torch, dtype)
    model.use_fused_attention(device.type != "cpu" or chosen == torch.float32)
    return chosen


def loss_of(model: GPT, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the model's loss on one batch, with matrix products in ``dtype``."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        return model(x.to(device), y.to(device))[1]


# --- evaluation ------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model: GPT, ids: Tensor, batch_size: int = 64) -> float:
    """Return the mean loss in nats a token over all of ``ids``, in float32.

    The corpus is cut into windows of ``block_size`` that do not overlap, the last one shorter, so
    that every token but the first is predicted exactly once. The first token of a window has no
    context and the last has all of it, as in training.
    """
    if len(ids) < 2:
        raise ValueError(f"{len(ids)} ids: there is no next token to predict.")
    T = model.config.block_size
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    total, n_full = 0.0, (len(ids) - 1) // T
    x, y = ids[: n_full * T].view(-1, T), ids[1 : n_full * T + 1].view(-1, T)
    batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True)) if n_full else []
    if n_full * T < len(ids) - 1:
        batches.append((ids[None, n_full * T : -1], ids[None, n_full * T + 1 :]))
    for x, y in batches:
        logits, _ = model(x.to(device))
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten().to(device), reduction="sum")
        total += loss.item()
    model.train(was_training)
    return total / (len(ids) - 1)


@torch.no_grad()
def _quick_loss(model: GPT, batch: tuple[Tensor, Tensor], dtype: torch.dtype) -> float:
    """Return the loss on one fixed batch, in pieces of 64 windows."""
    x, y = batch
    pieces = zip(x.split(64), y.split(64), strict=True)
    return sum(loss_of(model, a, b, dtype).item() * len(a) for a, b in pieces) / len(x)


# --- history ---------------------------------------------------------------------------------


@dataclass
class History:
    """What happened in training; losses in nats a token.

    Attributes:
        steps, train_loss, val_loss: one entry for each evaluation.
        batch_loss, learning_rate, grad_norm: one entry for each step; the gradient's length is
            the one before clipping.
        seconds: time spent in all.
        interrupted: Ctrl-C ended the training before its last step.
    """

    steps: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    batch_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    def plot(self, baselines: Mapping[str, float] | None = None, title: str = "") -> plt.Figure:
        """Return a figure: loss on the left, perplexity on the right, on both splits.

        The right half leaves out the perplexity before training: it would flatten all the rest.

        Args:
            baselines: losses to compare with, by name, drawn as dotted lines.
            title: put before the titles of both halves.
        """
        figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
        for axes, value in ((left, float), (right, perplexity)):
            for name, losses, style in (
                ("training", self.train_loss, "--"),
                ("validation", self.val_loss, "-"),
            ):
                axes.plot(self.steps, [value(loss) for loss in losses], style, label=name)
            for number, (name, loss) in enumerate((baselines or {}).items(), start=2):
                colour = COLOURS[number % len(COLOURS)]
                axes.axhline(value(loss), color=colour, linestyle=":", label=name)
            axes.set(xlabel="training step")
        left.set(title=f"{title}Loss", ylabel="cross-entropy (nats per token)")
        right.set(title=f"{title}Perplexity", ylabel="perplexity (tokens)")
        if len(self.steps) > 1:
            learned = self.train_loss[1:] + self.val_loss[1:]
            right.set_ylim(0, 1.15 * perplexity(max(learned)))
        left.legend(loc="center right", bbox_to_anchor=(1, 0.68), frameon=True, edgecolor="none")
        return figure


# --- checkpoints -----------------------------------------------------------------------------


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` so that the file is there whole or not at all.

    It is written under another name in the same folder and then renamed, which cannot be cut off.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as stream:
            torch.save(dict(state), stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return what :func:`save_checkpoint` wrote: tensors and plain values, never code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint, or it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}; train with resume=False first.")
    try:
        # weights_only: a pickle could run any program; this loader makes only tensors and values.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint, or it is damaged: {error}") from error
    if not isinstance(state, dict) or not {"model", "step"} <= state.keys():
        raise ValueError(f"{path} is not a checkpoint of this training loop.")
    return state


def _state(
    model: GPT,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    config: TrainConfig,
    step: int,
    history: History,
) -> dict[str, Any]:
    """Return everything that the next step depends on, and what happened so far."""
    return {
        "step": step,
        "model_config": asdict(model.config),
        "train_config": asdict(config),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "batches": generator.get_state(),  # which windows come next
        "dropout_cpu": torch.get_rng_state(),
        "dropout_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "history": asdict(history),
    }


def _restore(
    state: Mapping[str, Any],
    model: GPT,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    config: TrainConfig,
) -> tuple[int, History]:
    """Put a checkpoint back into its parts; return its step and its history."""
    for name, here in (("model_config", asdict(model.config)), ("train_config", asdict(config))):
        there = state[name]
        differ = [key for key in here | there if here.get(key) != there.get(key)]
        if differ:
            key = differ[0]
            raise ValueError(
                f"the checkpoint is of another run: its {key} is {there.get(key)}, here {key} is "
                f"{here.get(key)}. Use the same configuration, or another checkpoint file."
            )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["batches"])
    torch.set_rng_state(state["dropout_cpu"])
    if state["dropout_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["dropout_cuda"])
    return state["step"], History(**state["history"] | {"interrupted": False})


# --- the loop --------------------------------------------------------------------------------


class _CtrlC:
    """Turns Ctrl-C into a wish to stop after the step in hand; a second one stops at once."""

    def __enter__(self) -> "_CtrlC":
        self.pressed = False
        try:
            self._before = signal.signal(signal.SIGINT, self._note)
        except ValueError:  # only the main thread may listen
            self._before = None
        return self

    def _note(self, *_: Any) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    def __exit__(self, *_: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def train(
    model: GPT,
    train_ids: Tensor,
    val_ids: Tensor,
    config: TrainConfig,
    *,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    on_eval: Callable[[int, GPT], None] | None = None,
) -> History:
    """Train ``model`` in place, and return what happened.

    Ctrl-C (the notebook's stop button) ends the step in hand, writes the checkpoint and returns
    the history so far: what was learned is kept.

    Args:
        model: on the device to train on.
        train_ids, val_ids: ``(N,)`` each, the two splits.
        config: how to train.
        checkpoint: file to write at every evaluation and on Ctrl-C.
        resume: continue from ``checkpoint``; on a CPU the result is, bit for bit, that of a run
            that was never interrupted.
        on_eval: called as ``on_eval(step, model)`` after each evaluation, for samples.

    Raises:
        FloatingPointError: the loss is not a number; the step is named.
        ValueError: the corpus is too short, or the checkpoint belongs to another configuration.
    """
    T = model.config.block_size
    dtype = prepare(model, config.dtype)
    optimizer = make_optimizer(model, config)
    generator = torch.Generator().manual_seed(config.seed)
    fixed = torch.Generator().manual_seed(EVALUATION_SEED)
    windows = [get_batch(ids, config.eval_windows, T, fixed) for ids in (train_ids, val_ids)]
    first, history = 0, History()
    if resume:
        if checkpoint is None:
            raise ValueError("resume=True needs the checkpoint to resume from.")
        state = load_checkpoint(Path(checkpoint))
        first, history = _restore(state, model, optimizer, generator, config)

    started = time.perf_counter() - history.seconds

    def keep(step: int) -> None:
        history.seconds = time.perf_counter() - started
        if checkpoint is not None:
            state = _state(model, optimizer, generator, config, step, history)
            save_checkpoint(Path(checkpoint), state)

    with (
        _CtrlC() as ctrl_c,
        progress_bar(total=config.steps, initial=first, desc="training", unit="step") as bar,
    ):
        for step in range(first, config.steps + 1):
            due = step % config.eval_every == 0 or step == config.steps
            if due and step not in history.steps:
                model.eval()
                history.steps.append(step)
                history.train_loss.append(_quick_loss(model, windows[0], dtype))
                history.val_loss.append(_quick_loss(model, windows[1], dtype))
                bar.set_postfix(validation=f"{history.val_loss[-1]:.3f}")
                if on_eval is not None:
                    on_eval(step, model)
                keep(step)
            if step == config.steps:
                break
            if ctrl_c.pressed:
                history.interrupted = True
                keep(step)
                break
            model.train()
            batch = get_batch(train_ids, config.batch_size, T, generator)
            _step(model, batch, optimizer, config, step, dtype, history)
            bar.update()
    model.eval()
    return history


def _step(
    model: GPT,
    batch: tuple[Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
    dtype: torch.dtype,
    history: History,
) -> None:
    """One update of the weights."""
    rate = learning_rate(step, config)
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = loss_of(model, *batch, dtype)
    if not math.isfinite(loss.item()):
        raise FloatingPointError(
            f"the loss is {loss.item()} at step {step} of {config.steps}; the weights are those of "
            f"the step before. The learning rate was {rate:.2g}: try a tenth of it, or a longer "
            "warm-up."
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    optimizer.step()
    history.batch_loss.append(loss.item())
    history.learning_rate.append(rate)
    history.grad_norm.append(norm.item())
