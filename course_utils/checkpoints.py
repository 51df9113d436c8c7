"""Checkpoints: everything that the next training step depends on, in one file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from course_utils.files import write_whole
from course_utils.gpt import GPT
from course_utils.history import History

KEYS = {"step", "model_config", "train_config", "model", "optimizers", "batches", "history"}


def save_checkpoint(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write ``state`` so that the file is there whole or not at all."""
    with write_whole(path) as stream:
        torch.save(dict(state), stream)


def load_checkpoint(path: Path | str) -> dict[str, Any]:
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
    if not isinstance(state, dict) or KEYS - state.keys():
        raise ValueError(f"{path} is not a checkpoint of this training loop.")
    return state


def collect(
    model: GPT,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    train_config: Mapping[str, Any],
    step: int,
    history: History,
) -> dict[str, Any]:
    """Return everything that the next step depends on, and what happened so far."""
    return {
        "step": step,
        "model_config": asdict(model.config),
        "train_config": dict(train_config),
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "batches": generator.get_state(),  # which windows come next
        "dropout_cpu": torch.get_rng_state(),
        "dropout_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "history": asdict(history),
    }


def restore(
    state: Mapping[str, Any],
    model: GPT,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    train_config: Mapping[str, Any],
) -> tuple[int, History]:
    """Put what :func:`collect` returned back into its parts; return its step and its history.

    Raises:
        ValueError: the model or the training has another configuration; it is named.
    """
    here = {"model_config": asdict(model.config), "train_config": train_config}
    for kind, ours in here.items():
        theirs = state[kind]
        differ = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
        if differ:
            key = differ[0]
            raise ValueError(
                f"the checkpoint is of another run: its {key} is {theirs.get(key)}, here {key} is "
                f"{ours.get(key)}. Use the same configuration, or another checkpoint file."
            )
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    generator.set_state(state["batches"])
    torch.set_rng_state(state["dropout_cpu"])
    if state["dropout_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["dropout_cuda"])
    return state["step"], History(**state["history"] | {"interrupted": False})
