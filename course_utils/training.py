"""The training loop, and what it calls: learning rate, optimizers, dtype, evaluation.

Begin with :func:`train`. Each step sets the learning rate, draws a batch, computes the loss and
its gradients, clips them, and lets the optimizers change the weights; now and then it evaluates.
What happens around the loop (checkpoints, Ctrl-C, the history) is in :mod:`course_utils.run`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import checkpoints, distributed
from course_utils.corpora import get_batch
from course_utils.device import choose_dtype
from course_utils.gpt import GPT, eval_mode
from course_utils.inputs import check_fields, check_ids
from course_utils.optimizers import Muon
from course_utils.run import History, Run

EVALUATION_SEED = 1234  # every run is evaluated on the same windows
MAY_BE_ZERO = ("warmup_steps", "weight_decay", "seed")
CHOICES = {
    "optimizer": ("adamw", "muon"),
    "schedule": ("cosine", "linear"),
    "dtype": ("auto", "float32", "bfloat16"),
}


@dataclass(frozen=True)
class TrainConfig:
    """How to train; what to train is in the model's own config.

    Args:
        steps: updates of the weights.
        batch_size: windows in a batch ``B``.
        accumulation_steps: batches whose gradients are averaged for one update. This acts like a
            batch that many times larger, in the memory of one.
        optimizer: "adamw" for everything, or "muon" for the matrices inside the blocks and AdamW
            for the rest.
        learning_rate: AdamW's maximum learning rate, reached after the warm-up.
        muon_learning_rate: Muon's maximum learning rate.
        warmup_steps: steps over which the learning rates rise to their maximum; None means a tenth
            of all steps, at most 100.
        schedule: how they then fall to zero, "cosine" or "linear".
        weight_decay: how strongly matrices are pulled towards zero; biases and norms never are.
        clip_norm: a gradient whose norm is larger is scaled down to this norm.
        eval_every: steps between two evaluations, which also write the checkpoint.
        eval_windows: windows of each split that an evaluation reads, always the same ones.
        seed: decides which windows are drawn.
        dtype: "float32", "bfloat16" (for matrix products only), or "auto", which takes
            :func:`course_utils.device.fast_dtype`.

    Raises:
        ValueError: a number is out of range, or a name is unknown.
    """

    steps: int
    batch_size: int = 16
    accumulation_steps: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 3e-3
    muon_learning_rate: float = 0.02
    warmup_steps: int | None = None
    schedule: str = "cosine"
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    eval_every: int = 100
    eval_windows: int = 128
    seed: int = 0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self, CHOICES, MAY_BE_ZERO)
        if self.warmup_steps is not None and self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} must be below steps={self.steps}. About a tenth "
                "of the steps works well."
            )


# --- the loop --------------------------------------------------------------------------------


def train(
    model: GPT,
    train_ids: Tensor,
    val_ids: Tensor,
    config: TrainConfig,
    *,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    on_eval: Callable[[int, GPT], None] | None = None,
    vocabulary: Sequence[str] = (),
) -> History:
    """Train ``model`` in place, and return what happened.

    Ctrl-C (the notebook's stop button) ends training after the current step, writes the checkpoint
    and returns the history so far: nothing that was learned is lost.

    A loss or a gradient that is not a finite number ends training with an error that names the
    step. On a CPU this happens before the weights change, elsewhere at the next evaluation. Either
    way it happens before a checkpoint is written, so the last checkpoint is always a good one.

    Inside :func:`course_utils.distributed.processes`, the processes share each batch and average
    their gradients, and rank 0 writes the checkpoint. Ctrl-C then ends all of them at once;
    ``resume`` continues from the last evaluation.

    Args:
        model: on the device to train on.
        train_ids, val_ids: ``(N,)`` each, the two splits.
        config: how to train.
        checkpoint: file to write at every evaluation and on Ctrl-C.
        resume: continue from ``checkpoint``, with the same text and settings. On a CPU the result
            is, bit for bit, that of a run that was never interrupted.
        on_eval: called as ``on_eval(step, model)`` after each evaluation, for samples.
        vocabulary: what the ids stand for, to be saved with the checkpoint.

    Raises:
        FloatingPointError: the loss or the gradient is not a finite number.
        ValueError: a split is too short or has ids that the model does not know, or the checkpoint
            belongs to another text or other settings.
        FileExistsError: ``checkpoint`` already exists, and ``resume`` is False.
        OSError: the checkpoint cannot be written; the previous one is intact.
    """
    T, B, n_batches = model.config.block_size, config.batch_size, config.accumulation_steps
    windows = _evaluation_windows(model, train_ids, val_ids, config.eval_windows)
    state = checkpoints.load_or_none(checkpoint, resume)
    config = _settle_dtype(config, model, state)
    dtype = prepare(model, config.dtype)
    optimizers = make_optimizers(model, config)
    generator = torch.Generator().manual_seed(config.seed)  # draws the batches
    settings = {"model": asdict(model.config), "training": asdict(config)}
    settings["data"] = checkpoints.fingerprint(train_ids, val_ids, vocabulary)
    run = Run(model, optimizers, generator, config.steps, settings, checkpoint, on_eval)
    if state is not None:
        run.restore(state)
    replica = distributed.replicate(model)  # in a single process, the model itself

    model.train()
    with run.steps_left() as steps:  # those after the checkpoint; Ctrl-C ends them early
        if not run.history.steps:  # a new run: how good are the first weights?
            run.record_evaluation(0, *estimate_losses(model, windows, B, dtype))
        for step in steps:
            set_learning_rate(optimizers, lr_fraction(step, config))

            model.zero_grad()
            loss = torch.zeros((), device=_device_of(model))
            for micro_step in range(n_batches):
                # y holds the tokens of x one place further on: what is to be predicted.
                # (B, T) each, or this process's share of B.
                x, y = distributed.shard(get_batch(train_ids, B, T, generator))
                with distributed.no_sync(replica, micro_step < n_batches - 1):  # wait for the last
                    micro_loss = loss_of(replica, x, y, dtype) / n_batches
                    micro_loss.backward()  # adds to the gradients of the batches before
                loss += micro_loss.detach()

            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            # On a CPU, it raises an error if either is not finite, before the weights change.
            run.record_step(distributed.all_reduce_mean(loss), norm)
            for optimizer in optimizers:
                optimizer.step()

            if (step + 1) % config.eval_every == 0 or step + 1 == config.steps:
                run.record_evaluation(step + 1, *estimate_losses(model, windows, B, dtype))
    model.eval()  # no dropout from here on
    return run.history


def _evaluation_windows(
    model: GPT, train_ids: Tensor, val_ids: Tensor, n: int
) -> list[tuple[Tensor, Tensor]]:
    """Return ``n`` windows of each split, the same in every run; refuse a split without any."""
    T, generator = model.config.block_size, torch.Generator().manual_seed(EVALUATION_SEED)
    for name, ids in (("training", train_ids), ("validation", val_ids)):
        if ids.ndim != 1 or len(ids) <= T:
            raise ValueError(
                f"the {name} ids have the shape {tuple(ids.shape)}: training needs one row of at "
                f"least {T + 1}, for a window of block_size={T} and the token after it."
            )
        check_ids(ids, model.config.vocab_size)
    return [get_batch(ids, n, T, generator) for ids in (train_ids, val_ids)]


def _settle_dtype(config: TrainConfig, model: GPT, state: dict[str, Any] | None) -> TrainConfig:
    """Replace the dtype "auto" by that of the run to resume, or else by rank 0's choice."""
    if state is not None and config.dtype == "auto":
        return replace(config, dtype=state["settings"]["training"]["dtype"])
    chosen = choose_dtype(_device_of(model), config.dtype)
    return replace(config, dtype=distributed.broadcast(str(chosen).removeprefix("torch.")))


# --- learning rate and optimizers ------------------------------------------------------------


def lr_fraction(step: int, config: TrainConfig) -> float:
    """Return the learning rate at ``step``, counted from 0, as a fraction of its maximum.

    It rises in a straight line during the warm-up, and then falls to zero.

    Source: Loshchilov and Hutter, 2017, "SGDR" (the cosine, without its restarts).
    """
    warmup = config.warmup_steps
    if warmup is None:
        warmup = min(100, config.steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (config.steps - warmup)  # 0 to 1
    return 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return AdamW's learning rate at ``step``, counted from 0."""
    return config.learning_rate * lr_fraction(step, config)


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], fraction: float) -> None:
    """Set each learning rate to ``fraction`` of its maximum."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = fraction * group["max_lr"]


def make_optimizers(model: GPT, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return AdamW, with weight decay on matrices only, and Muon if the config asks for it.

    Muon then takes the matrices inside the blocks; embeddings, head, norms and biases stay with
    AdamW. Each group of parameters keeps its maximum learning rate as ``max_lr``.
    """
    device, use_muon = _device_of(model), config.optimizer == "muon"
    by_muon = [p for p in model.blocks.parameters() if p.dim() == 2] if use_muon else []
    taken = set(by_muon)
    rest = [p for p in model.parameters() if p not in taken]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    # fused: one pass over the memory for all parameters, several times faster than the default
    fused = device.type in ("cpu", "cuda")
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=fused)
    ]
    if use_muon:
        dtype = choose_dtype(device, config.dtype)
        rate, decay = config.muon_learning_rate, config.weight_decay
        optimizers.append(Muon(by_muon, lr=rate, weight_decay=decay, dtype=dtype))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["max_lr"] = group["lr"]
    return optimizers


# --- speed -----------------------------------------------------------------------------------


def prepare(model: GPT, dtype: str = "auto") -> torch.dtype:
    """Choose the dtype and the attention kernel for the device that ``model`` is on.

    Sets the model's attention to torch's fused kernel, except for bfloat16 on a CPU and at most
    256 tokens, where the plain formula is faster. Returns the dtype.
    """
    device = _device_of(model)
    chosen = choose_dtype(device, dtype)
    short = model.config.block_size <= 256
    model.use_fused_attention(not (device.type == "cpu" and chosen == torch.bfloat16 and short))
    return chosen


def loss_of(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the loss of a GPT, or of its replica, on one batch, with matrix products in ``dtype``.

    Args:
        x, y: ``(B, T)`` each, on any device.
    """
    device = _device_of(model)
    if device.type != "cpu" and x.device.type == "cpu":
        gpt: Any = getattr(model, "module", model)  # the GPT inside a replica
        check_ids(x, gpt.config.vocab_size)  # a wrong id would crash the process on a GPU
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        return model(_move(x, device), _move(y, device))[1]


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _move(ids: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda" or ids.is_cuda:
        return ids.to(device)
    # From pinned memory a GPU copies by itself; otherwise Python would wait for all its work.
    return ids.contiguous().pin_memory().to(device, non_blocking=True)


# --- evaluation ------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model: GPT, ids: Tensor) -> float:
    """Return the mean loss in nats per token over all of ``ids``, ``(N,)``, in float32.

    The ids are cut into windows of ``block_size`` that do not overlap, the last one shorter, so
    that every token but the first is predicted exactly once. The first token of a window has no
    context and the last has all of it, as in training. At most 64 windows are read at once, and
    fewer where the logits (4 bytes each) would take a GB or more. This is for a model that has
    learned; during training, :func:`estimate_losses` reads a few windows.

    Raises:
        ValueError: there are fewer than two ids, and so nothing to predict.
    """
    n = len(ids) - 1  # predictions
    if n < 1:
        raise ValueError(f"{len(ids)} ids: there is no next token to predict.")
    T, device = model.config.block_size, _device_of(model)
    at_once = T * max(1, min(64, 2**28 // (T * model.config.vocab_size)))
    losses, n_full = [], n // T * T  # n_full: tokens in whole windows
    starts = sorted({*range(0, n_full, at_once), n_full, n})
    with eval_mode(model):
        for start, end in itertools.pairwise(starts):
            piece = _move(ids[start : end + 1].long(), device)
            width = min(T, end - start)
            x, y = piece[:-1].view(-1, width), piece[1:].view(-1, width)  # (B, T) each
            logits = model(x)[0].flatten(0, 1).float()  # (B * T, V)
            losses.append(F.cross_entropy(logits, y.flatten(), reduction="sum"))
    return sum(torch.stack(losses).tolist()) / n


@torch.no_grad()
def estimate_losses(
    model: GPT, windows: Sequence[tuple[Tensor, Tensor]], batch_size: int, dtype: torch.dtype
) -> list[float]:
    """Return the mean loss on each set of windows, in pieces that fit wherever training fits."""
    means = []
    with eval_mode(model):
        for x, y in windows:
            pieces = zip(x.split(batch_size), y.split(batch_size), strict=True)
            losses = [loss_of(model, a, b, dtype) * len(a) for a, b in pieces]
            means.append(sum(torch.stack(losses).tolist()) / len(x))
    return means
