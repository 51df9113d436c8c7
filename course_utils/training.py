"""The training loop: schedule, clipping, accumulation, evaluation, checkpoints, history.

The optimizers are in :mod:`course_utils.optimizers`, what is saved in
:mod:`course_utils.checkpoints`, what is drawn in :mod:`course_utils.history`.
"""

import functools
import itertools
import logging
import math
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from course_utils import checkpoints, distributed
from course_utils.corpora import Ids, get_batch, to_tensor
from course_utils.gpt import GPT, check_ids, eval_mode
from course_utils.history import History
from course_utils.optimizers import Muon
from course_utils.progress import progress_bar

log = logging.getLogger(__name__)

BETAS = (0.9, 0.99)  # how slowly AdamW forgets the gradient and its square
EVALUATION_SEED = 1234  # the windows for evaluation are the same in every run


@dataclass(frozen=True)
class TrainConfig:
    """How to train; what to train is the model's own config.

    Args:
        steps: updates of the weights.
        batch_size: windows in a batch ``B``.
        accumulate: batches whose gradients are averaged for one update. It acts as a batch that
            is so many times larger, in the memory of one.
        optimizer: "adamw" for everything, or "muon" for the matrices inside the blocks and AdamW
            for the rest.
        learning_rate: AdamW's highest one, reached after the warm-up.
        muon_learning_rate: Muon's highest one.
        warmup_steps: steps in which the learning rates climb to their highest; None is a tenth of
            all steps, and at most 100.
        schedule: how they then go down to zero, "cosine" or "linear".
        weight_decay: how hard matrices are pulled towards zero; biases and norms never are.
        clip_norm: gradients that are longer together are shortened to this.
        eval_every: steps between two evaluations, which also write the checkpoint.
        eval_windows: windows of each split that an evaluation reads, always the same ones.
        seed: of the batches.
        dtype: "float32", "bfloat16" (matrix products only), or "auto", see :func:`fast_dtype`.

    Raises:
        ValueError: a number makes no sense, or a name is unknown.
    """

    steps: int
    batch_size: int = 16
    accumulate: int = 1
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
        for name in ("steps", "batch_size", "accumulate", "eval_every", "eval_windows"):
            self._check_number(name, Integral, at_least=1)
        self._check_number("seed", Integral, at_least=0)
        for name in ("learning_rate", "muon_learning_rate", "clip_norm"):
            self._check_number(name, Real, above=0)
        self._check_number("weight_decay", Real, at_least=0)
        if self.warmup_steps is not None:
            self._check_number("warmup_steps", Integral, at_least=0)
            if self.warmup_steps >= self.steps:
                raise ValueError(
                    f"warmup_steps={self.warmup_steps} must be below steps={self.steps}. About a "
                    "tenth of the steps serves well."
                )
        kinds = {
            "optimizer": ("adamw", "muon"),
            "schedule": ("cosine", "linear"),
            "dtype": ("auto", "float32", "bfloat16"),
        }
        for name, known in kinds.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}.")

    def _check_number(
        self, name: str, kind: type, at_least: float = -math.inf, above: float = -math.inf
    ) -> None:
        value = getattr(self, name)
        whole = "a whole number" if kind is Integral else "a number"
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(f"{name}={value!r} must be {whole}.")
        highest = 2**63 if kind is Integral else math.inf
        if not (at_least <= value < highest and above < value):  # nan is refused here
            limit = f"at least {at_least}" if at_least > -math.inf else f"above {above}"
            if value >= highest:
                limit = f"below {highest}" if kind is Integral else "that is not infinite"
            raise ValueError(f"{name}={value!r} must be {whole} {limit}.")
        # numpy's numbers become Python's, which a checkpoint can hold
        object.__setattr__(self, name, int(value) if kind is Integral else float(value))


# --- learning rate and optimizers ------------------------------------------------------------


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of ``step``, counted from 0: a climb, then a way down to zero.

    Source: Loshchilov and Hutter, 2017, "SGDR" (the cosine, without its restarts).
    """
    return config.learning_rate * _share_of_highest(step, config)


def _share_of_highest(step: int, config: TrainConfig) -> float:
    """Return a number from 0 to 1, the same for all learning rates of a step."""
    warmup = config.warmup_steps
    if warmup is None:
        warmup = min(100, config.steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (config.steps - warmup)  # 0 to 1
    return 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def make_optimizers(model: GPT, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return AdamW with weight decay on matrices only, and Muon if the config asks for it.

    Muon then takes the matrices inside the blocks; embeddings, head, norms and biases stay with
    AdamW. Each group of parameters notes its highest learning rate as ``highest_lr``.
    """
    device = next(model.parameters()).device
    by_muon = []
    if config.optimizer == "muon":
        by_muon = [p for p in model.blocks.parameters() if p.dim() == 2]
    taken = set(by_muon)
    rest = [p for p in model.parameters() if p not in taken]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    # fused: one pass over the memory for all parameters, several times faster than the definition
    fused = device.type in ("cpu", "cuda")
    optimizers = [torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, fused=fused)]
    if by_muon:
        muon = Muon(
            by_muon,
            lr=config.muon_learning_rate,
            weight_decay=config.weight_decay,
            dtype=number_format(device, config.dtype),
        )
        optimizers.append(muon)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest_lr"] = group["lr"]
    return optimizers


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


def number_format(device: torch.device, dtype: str) -> torch.dtype:
    """Return the number format that a config's ``dtype`` means on ``device``."""
    return fast_dtype(device) if dtype == "auto" else getattr(torch, dtype)


def prepare(model: GPT, dtype: str = "auto") -> torch.dtype:
    """Choose number format and attention kernel for the device that ``model`` is on.

    Sets the model's attention to torch's fused kernel, except for bfloat16 on a CPU and at most
    256 tokens, where the plain definition is faster. Returns the number format.
    """
    device = next(model.parameters()).device
    chosen = number_format(device, dtype)
    short = model.config.block_size <= 256
    plain = device.type == "cpu" and chosen == torch.bfloat16 and short
    model.use_fused_attention(not plain)
    return chosen


def loss_of(
    model: GPT | DistributedDataParallel, x: Tensor, y: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the model's loss on one batch, with matrix products in ``dtype``."""
    device = next(model.parameters()).device
    if device.type != "cpu" and x.device.type == "cpu":
        config = getattr(model, "module", model).config
        check_ids(x, config.vocab_size)  # a wrong id on a GPU would end the whole process
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        return model(_move(x, device), _move(y, device))[1]


def _move(ids: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda" or ids.is_cuda:
        return ids.to(device)
    # From pinned memory a GPU copies by itself; otherwise Python would wait for all its work.
    return ids.contiguous().pin_memory().to(device, non_blocking=True)


# --- evaluation ------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model: GPT, ids: Ids, batch_size: int = 64) -> float:
    """Return the mean loss in nats a token over all of ``ids``, in float32.

    The corpus is cut into windows of ``block_size`` that do not overlap, the last one shorter, so
    that every token but the first is predicted exactly once. The first token of a window has no
    context and the last has all of it, as in training. A memory-mapped corpus is read in pieces,
    of at most ``batch_size`` windows and fewer where the logits would take a GB or more.
    """
    n = len(ids) - 1  # predictions
    if n < 1:
        raise ValueError(f"{len(ids)} ids: there is no next token to predict.")
    T = model.config.block_size
    device = next(model.parameters()).device
    batch_size = max(1, min(batch_size, 2**28 // (T * model.config.vocab_size)))
    losses, n_full = [], n // T * T
    starts = [*range(0, n_full, batch_size * T), n_full, n]  # the last piece is the short window
    with eval_mode(model):
        for start, end in itertools.pairwise(starts):
            if start == end:
                continue
            piece = _move(to_tensor(ids[start : end + 1]), device)
            width = min(T, end - start)
            x, y = piece[:-1].view(-1, width), piece[1:].view(-1, width)  # (B, T) each
            logits = model(x)[0].flatten(0, 1).float()
            losses.append(F.cross_entropy(logits, y.flatten(), reduction="sum"))
    return sum(torch.stack(losses).tolist()) / n


@torch.no_grad()
def _quick_loss(
    model: GPT, batch: tuple[Tensor, Tensor], batch_size: int, dtype: torch.dtype
) -> float:
    """Return the loss on one fixed batch, in pieces that fit wherever training fits."""
    x, y = batch
    pieces = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
    losses = torch.stack([loss_of(model, a, b, dtype) for a, b in pieces]).tolist()
    return sum(loss * len(a) for loss, (a, _) in zip(losses, pieces, strict=True)) / len(x)


# --- the loop --------------------------------------------------------------------------------


class _CtrlC:
    """Turns Ctrl-C into a wish to stop after the step in hand; a second one stops at once."""

    def __enter__(self) -> "_CtrlC":
        self.pressed = False
        self._before = None
        if distributed.place()[1] > 1:  # the processes would not all stop after the same step
            return self
        with suppress(ValueError):  # only the main thread may listen
            self._before = signal.signal(signal.SIGINT, self._note)
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
    train_ids: Ids,
    val_ids: Ids,
    config: TrainConfig,
    *,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    on_eval: Callable[[int, GPT], None] | None = None,
    vocabulary: Sequence[str] = (),
) -> History:
    """Train ``model`` in place, and return what happened.

    Ctrl-C (the notebook's stop button) ends the step in hand, writes the checkpoint and returns
    the history so far: what was learned is kept.

    A loss or a gradient that is not a finite number ends the training. On a CPU each step looks,
    before it changes the weights. On other devices a look would make every step wait for the one
    before, so they look at the next evaluation, before the checkpoint is written. The error names
    the step where it happened, and the checkpoint is of an earlier, good one in both cases.

    Inside :func:`course_utils.distributed.processes`, the processes share each batch and average
    their gradients; the first writes the checkpoint. Ctrl-C then ends them all at once, and
    ``resume`` goes on from the last evaluation.

    Args:
        model: on the device to train on.
        train_ids, val_ids: ``(N,)`` each, the two splits: tensors or memory-mapped files.
        config: how to train.
        checkpoint: file to write at every evaluation and on Ctrl-C.
        resume: continue from ``checkpoint``; on a CPU the result is, bit for bit, that of a run
            that was never interrupted. The text and all settings have to be the same.
        on_eval: called as ``on_eval(step, model)`` after each evaluation, for samples.
        vocabulary: what the ids stand for; the checkpoint notes it.

    Raises:
        FloatingPointError: the loss or the gradient is not a finite number.
        ValueError: a split is too short or has ids that the model does not know, or the
            checkpoint is of another text or configuration.
        FileExistsError: ``checkpoint`` is there already, and ``resume`` was not asked for.
        OSError: the checkpoint cannot be written; the one before is whole.
    """
    T, B = model.config.block_size, config.batch_size
    _check_split("training", train_ids, model)
    _check_split("validation", val_ids, model)
    on_cpu = _reading_is_free(next(model.parameters()).device)
    state = _state_to_resume(checkpoint) if resume else None
    if state is None:
        refuse_to_overwrite(checkpoint)
    elif config.dtype == "auto":
        # It was measured then, and might come out differently today.
        config = replace(config, dtype=state["train_config"]["dtype"])
    chosen = number_format(next(model.parameters()).device, config.dtype)
    config = replace(config, dtype=distributed.from_first(str(chosen).removeprefix("torch.")))
    dtype = prepare(model, config.dtype)
    optimizers = make_optimizers(model, config)
    generator = torch.Generator().manual_seed(config.seed)
    fixed = torch.Generator().manual_seed(EVALUATION_SEED)
    windows = [get_batch(ids, config.eval_windows, T, fixed) for ids in (train_ids, val_ids)]
    first, history = 0, History()
    data = checkpoints.describe_data(train_ids, val_ids, vocabulary) if checkpoint else {}
    if state is not None:
        parts = (model, optimizers, generator, asdict(config), data)
        first, history = checkpoints.restore(state, *parts)

    replica = distributed.replicate(model)
    started = time.perf_counter() - history.seconds

    def keep(step: int) -> None:
        history.seconds = time.perf_counter() - started
        if checkpoint is not None and distributed.place()[0] == 0:
            parts = (model, optimizers, generator, asdict(config), data, step, history)
            checkpoints.save_checkpoint(checkpoint, checkpoints.collect(*parts))

    unread: list[Tensor] = []  # loss and length of the gradient of each step, still on the device
    model.train()
    with (
        _CtrlC() as ctrl_c,
        progress_bar(
            total=config.steps,
            initial=first,
            desc="training",
            unit="step",
            disable=distributed.place()[0] > 0,
        ) as bar,
    ):
        for step in range(first, config.steps + 1):
            due = step % config.eval_every == 0 or step == config.steps
            if due or ctrl_c.pressed:
                _read(unread, history, config)
            if due and step not in history.steps:
                model.eval()
                losses = [_quick_loss(model, batch, B, dtype) for batch in windows]
                _write_evaluation(losses, step, history)
                bar.set_postfix(validation=f"{history.val_loss[-1]:.3f}")
                if on_eval is not None:
                    on_eval(step, model)
                keep(step)
                log.info(
                    f"step {step} of {config.steps}: training loss {losses[0]:.4f}, "
                    f"validation loss {losses[1]:.4f}, {history.seconds:.0f} s"
                )
                model.train()
            if step == config.steps:
                break
            if ctrl_c.pressed:
                history.interrupted = True
                keep(step)
                break
            batches = [get_batch(train_ids, B, T, generator) for _ in range(config.accumulate)]
            unread.append(_gradients(replica, batches, dtype, config.clip_norm))
            if on_cpu:
                _read(unread, history, config)
            _update(optimizers, step, config)
            bar.update()
    model.eval()
    return history


def _check_split(name: str, ids: Ids, model: GPT) -> None:
    needed = model.config.block_size + 1
    if ids.ndim != 1 or len(ids) < needed:
        raise ValueError(
            f"the {name} ids have the shape {tuple(ids.shape)}: training needs one row of at least "
            f"{needed}, for a window of block_size={needed - 1} and the token after it."
        )
    check_ids(to_tensor(ids), model.config.vocab_size)


def _state_to_resume(checkpoint: Path | str | None) -> dict[str, Any]:
    if checkpoint is None:
        raise ValueError("resume=True needs the checkpoint to resume from.")
    return checkpoints.load_checkpoint(checkpoint)


def refuse_to_overwrite(checkpoint: Path | str | None) -> None:
    """Raise FileExistsError if there is a checkpoint that a new run would replace."""
    if checkpoint is not None and Path(checkpoint).exists():
        raise FileExistsError(
            f"{checkpoint} holds an earlier run, which the first evaluation would overwrite. "
            "Pass resume=True (--resume) to continue it, or name another file to begin anew."
        )


def _reading_is_free(device: torch.device) -> bool:
    return device.type == "cpu"


def _gradients(
    model: GPT | DistributedDataParallel,
    batches: Sequence[tuple[Tensor, Tensor]],
    dtype: torch.dtype,
    clip_norm: float,
) -> Tensor:
    """Leave the clipped gradient of the mean loss in the parameters.

    Returns:
        ``(2,)``: the loss, and the length of the gradient before clipping.
    """
    model.zero_grad()
    loss = torch.zeros((), device=next(model.parameters()).device)
    for number, batch in enumerate(batches, start=1):
        last = number == len(batches)  # the processes average once, after the last batch
        with nullcontext() if last else distributed.quiet(model):
            part = loss_of(model, *distributed.share(batch), dtype) / len(batches)
            part.backward()  # adds to the gradients that are there
        loss += part.detach()
    loss = distributed.mean(loss)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    return torch.stack([loss, norm])


def _update(optimizers: Sequence[torch.optim.Optimizer], step: int, config: TrainConfig) -> None:
    share = _share_of_highest(step, config)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["highest_lr"] * share
        optimizer.step()


def _read(unread: list[Tensor], history: History, config: TrainConfig) -> None:
    """Move what was measured in the steps since the last reading into the history."""
    numbers = torch.stack(unread).tolist() if unread else []
    unread.clear()
    for loss, norm in numbers:
        step = len(history.batch_loss)
        rate = learning_rate(step, config)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            gradient = f", with a gradient of length {norm}," if math.isfinite(loss) else ""
            raise FloatingPointError(
                f"the loss is {loss:.4g}{gradient} at step {step} of {config.steps}. The learning "
                f"rate was {rate:.2g}: try a tenth of it, or a longer warm-up."
            )
        history.batch_loss.append(loss)
        history.learning_rate.append(rate)
        history.grad_norm.append(norm)


def _write_evaluation(losses: Sequence[float], step: int, history: History) -> None:
    if not all(math.isfinite(loss) for loss in losses):
        raise FloatingPointError(
            f"the losses at the evaluation after {step} steps are {losses}: the weights are no "
            "longer finite numbers. Try a tenth of the learning rate, or a longer warm-up."
        )
    history.steps.append(step)
    history.train_loss.append(losses[0])
    history.val_loss.append(losses[1])
