"""A training run beside its loop: where it is, what was measured, what is kept, when it ends."""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_utils import checkpoints, distributed
from course_utils.gpt import GPT, eval_mode
from course_utils.progress import progress_bar

log = logging.getLogger(__name__)


@dataclass
class History:
    """What happened during training; losses are in nats per token.

    Attributes:
        steps, train_loss, val_loss: one entry for each evaluation.
        batch_loss, learning_rate, grad_norm: one entry for each step; the norm of the gradient is
            measured before clipping.
        seconds: total time.
        interrupted: whether Ctrl-C ended the training before its last step.
    """

    steps: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    batch_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False


class Run:
    """What :func:`course_utils.training.train` does besides training.

    It keeps the history, writes the checkpoint, stops at Ctrl-C, and raises an error before a
    number that is not finite can get into either.

    Args:
        steps: how many there are in all.
        settings: what has to be the same when the run is resumed, in named groups.
        checkpoint: the file to write, or None.
        state: what that file holds, to resume from, or None to begin.
        parts: model, optimizers and the generator of the batches: what the next step depends on.
        on_eval: called as ``on_eval(step, model)`` after each evaluation.
    """

    def __init__(
        self,
        steps: int,
        settings: dict[str, dict[str, Any]],
        checkpoint: Path | str | None,
        state: dict[str, Any] | None,
        parts: tuple[GPT, Sequence[torch.optim.Optimizer], torch.Generator],
        on_eval: Callable[[int, GPT], None] | None,
    ):
        self.steps, self.settings, self.checkpoint = steps, settings, checkpoint
        self.parts, self.on_eval = parts, on_eval
        self.history, self._next = History(), 0  # the next step
        if state is not None:
            checkpoints.refuse_other_settings(state["settings"], settings)
            checkpoints.restore(state, *parts)
            self._next = state["step"]
            self.history = History(**state["history"] | {"interrupted": False})
        self._unread: list[tuple[float, Tensor]] = []
        self._each_step = _reading_is_free(next(parts[0].parameters()).device)
        self._started = time.perf_counter() - self.history.seconds

    @contextmanager
    def steps_left(self) -> Iterator[Iterator[int]]:
        """Give the steps that are left, behind a progress bar; Ctrl-C ends them early."""
        options = {"total": self.steps, "initial": self._next, "desc": "training", "unit": "step"}
        alone = distributed.rank() == 0  # one bar for all processes
        with _ctrl_c() as pressed, progress_bar(**options, disable=not alone) as bar:
            yield self._until(pressed, bar)

    def _until(self, pressed: list[bool], bar: Any) -> Iterator[int]:
        for step in range(self._next, self.steps):
            if pressed:
                self.history.interrupted = True
                self._save(step)
                return
            yield step
            bar.update()
            bar.set_postfix(validation=f"{self.history.val_loss[-1]:.3f}", refresh=False)

    def record(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Note what a step measured, before it changes the weights.

        Raises:
            FloatingPointError: one of the numbers is not finite. On a CPU this is known at once;
                elsewhere, where looking would make each step wait for the one before, it is
                known at the next evaluation.
        """
        rate = self.parts[1][0].param_groups[0]["lr"]
        self._unread.append((rate, torch.stack([loss, grad_norm])))
        if self._each_step:
            self._read()

    def _read(self) -> None:
        """Move what was measured since the last reading into the history."""
        numbers = torch.stack([pair for _, pair in self._unread]).tolist() if self._unread else []
        for (rate, _), (loss, norm) in zip(self._unread, numbers, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                gradient = f", with a gradient of length {norm}," if math.isfinite(loss) else ""
                raise FloatingPointError(
                    f"the loss is {loss:.4g}{gradient} at step {len(self.history.batch_loss)} of "
                    f"{self.steps}. The learning rate was {rate:.2g}: try a tenth of it, or a "
                    "longer warm-up."
                )
            self.history.batch_loss.append(loss)
            self.history.learning_rate.append(rate)
            self.history.grad_norm.append(norm)
        self._unread.clear()

    def note(self, step: int, train_loss: float, val_loss: float) -> None:
        """Note an evaluation after ``step`` steps, call ``on_eval``, and write the checkpoint.

        Raises:
            FloatingPointError: a loss is not finite, here or in a step that was not yet read.
            OSError: the checkpoint cannot be written; the one before is whole.
        """
        self._read()
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            raise FloatingPointError(
                f"the losses at the evaluation after {step} steps are {train_loss} and {val_loss}: "
                "the weights are no longer finite numbers. Try a tenth of the learning rate, or a "
                "longer warm-up."
            )
        self.history.steps.append(step)
        self.history.train_loss.append(train_loss)
        self.history.val_loss.append(val_loss)
        if self.on_eval is not None:
            with eval_mode(self.parts[0]):
                self.on_eval(step, self.parts[0])
        self._save(step)
        log.info(
            f"step {step} of {self.steps}: training loss {train_loss:.4f}, "
            f"validation loss {val_loss:.4f}, {self.history.seconds:.0f} s"
        )

    def _save(self, step: int) -> None:
        self._read()
        self.history.seconds = time.perf_counter() - self._started
        if self.checkpoint is not None and distributed.rank() == 0:
            run = {"step": step, "settings": self.settings, "history": vars(self.history)}
            checkpoints.save_checkpoint(self.checkpoint, run | checkpoints.collect(*self.parts))


def _reading_is_free(device: torch.device) -> bool:
    return device.type == "cpu"


@contextmanager
def _ctrl_c() -> Iterator[list[bool]]:
    """Yield a list that Ctrl-C writes into instead of raising an error; a second one does raise."""
    pressed: list[bool] = []

    def note(*_: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    before = None
    if distributed.world_size() == 1:  # several processes would not all stop after the same step
        with suppress(ValueError):  # only the main thread may listen
            before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
