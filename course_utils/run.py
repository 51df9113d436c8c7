"""What goes on around the training loop: the history, the checkpoints, Ctrl-C and the guards."""

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


@dataclass
class Run:
    """What :func:`course_utils.training.train` does besides training.

    It keeps the history, writes the checkpoint, stops on Ctrl-C, and raises an error before a
    number that is not finite can get into either.

    Args:
        model, optimizers: the model and what updates it.
        generator: draws the batches.
        steps: how many there are in all.
        settings: what must be the same when the run is resumed, in named groups.
        checkpoint: the file to write, or None.
        on_eval: called as ``on_eval(step, model)`` after each evaluation.
    """

    model: GPT
    optimizers: Sequence[torch.optim.Optimizer]
    generator: torch.Generator
    steps: int
    settings: dict[str, dict[str, Any]]
    checkpoint: Path | str | None
    on_eval: Callable[[int, GPT], None] | None

    def __post_init__(self) -> None:
        self.history, self._next = History(), 0  # the next step
        self._unread: list[Tensor] = []  # the loss and the gradient's norm of each step, (2,)
        self._started = time.perf_counter()

    def save(self, step: int) -> None:
        """Write everything that ``step`` and all later steps depend on, if there is a file for it.

        Raises:
            OSError: it cannot be written; the previous checkpoint is intact.
        """
        self.history.seconds = time.perf_counter() - self._started
        if self.checkpoint is None or distributed.rank() > 0:
            return
        state = {
            "step": step,
            "settings": self.settings,
            "history": vars(self.history),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "batches": self.generator.get_state(),
            "dropout": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }
        checkpoints.save_checkpoint(self.checkpoint, state)

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what :meth:`save` wrote; raise ValueError if it belongs to another run."""
        checkpoints.refuse_other_settings(state["settings"], self.settings)
        self._next = state["step"]
        self.history = History(**state["history"] | {"interrupted": False})
        self._started -= self.history.seconds
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["batches"])
        cpu, *gpus = state["dropout"]
        torch.set_rng_state(cpu)
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(gpus)

    @contextmanager
    def steps_left(self) -> Iterator[Iterator[int]]:
        """Yield the steps that are left, with a progress bar; Ctrl-C ends them early."""
        bar = progress_bar(
            desc="training",
            total=self.steps,
            initial=self._next,
            unit="step",
            disable=distributed.rank() > 0,  # one bar for all processes
        )
        with _ctrl_c() as pressed, bar:
            yield self._until(pressed, bar)

    def _until(self, pressed: list[bool], bar: Any) -> Iterator[int]:
        for step in range(self._next, self.steps):
            if pressed:
                self.history.interrupted = True
                self._read()
                self.save(step)
                return
            yield step
            bar.update()
            bar.set_postfix(validation=f"{self.history.val_loss[-1]:.3f}", refresh=False)

    def record_step(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Record what a step measured, before it changes the weights.

        Raises:
            FloatingPointError: one of the numbers is not finite. On a CPU this is noticed at once.
                On a GPU, where looking would make every step wait for the one before, it is
                noticed at the next evaluation.
        """
        self.history.learning_rate.append(self.optimizers[0].param_groups[0]["lr"])
        self._unread.append(torch.stack([loss, grad_norm]))
        if _reading_is_free(loss.device):
            self._read()

    def _read(self) -> None:
        """Move what was measured since the last reading into the history."""
        history = self.history
        for loss, norm in torch.stack(self._unread).tolist() if self._unread else []:
            step = len(history.batch_loss)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                gradient = f", with a gradient of norm {norm}," if math.isfinite(loss) else ""
                raise FloatingPointError(
                    f"the loss is {loss:.4g}{gradient} at step {step} of {self.steps}. The "
                    f"learning rate was {history.learning_rate[step]:.2g}: try a tenth of it, or a "
                    "longer warm-up."
                )
            history.batch_loss.append(loss)
            history.grad_norm.append(norm)
        self._unread.clear()

    def record_evaluation(self, step: int, train_loss: float, val_loss: float) -> None:
        """Record an evaluation after ``step`` steps, call ``on_eval``, and write the checkpoint.

        Raises:
            FloatingPointError: a loss is not finite, here or in a step that was not read yet.
            OSError: the checkpoint cannot be written; the previous one is intact.
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
            with eval_mode(self.model):
                self.on_eval(step, self.model)
        self.save(step)
        log.info(
            f"step {step} of {self.steps}: training loss {train_loss:.4f}, "
            f"validation loss {val_loss:.4f}, {self.history.seconds:.0f} s"
        )


def _reading_is_free(device: torch.device) -> bool:
    return device.type == "cpu"


@contextmanager
def _ctrl_c() -> Iterator[list[bool]]:
    """Yield a list that the first Ctrl-C appends to; a second one raises KeyboardInterrupt."""
    pressed: list[bool] = []

    def note(*_: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    before = None
    if distributed.world_size() == 1:  # several processes would not all stop after the same step
        with suppress(ValueError):  # only the main thread can handle signals
            before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
