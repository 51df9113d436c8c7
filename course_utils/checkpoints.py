"""Checkpoints: everything that the next training step depends on, in one file."""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_utils.corpora import to_tensor
from course_utils.files import write_whole
from course_utils.gpt import GPT
from course_utils.history import History

KEYS = {"step", "model_config", "train_config", "model", "optimizers", "batches", "history"}


def save_checkpoint(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write ``state`` so that the file is there whole or not at all.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    whole = io.BytesIO()  # torch.save itself would hide why a stream could not be written
    torch.save(dict(state), whole)
    with write_whole(path) as stream:
        stream.write(whole.getbuffer())


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Return what :func:`save_checkpoint` wrote: tensors and plain values, never code.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: it is not a checkpoint, it is damaged, or an earlier version of the course
            wrote it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {path}; train with resume=False first.")
    try:
        with zipfile.ZipFile(path) as parts:  # torch.load looks at no checksum
            damaged = parts.testzip() is not None
        # weights_only: a pickle could run any program; this loader makes only tensors and values.
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise type(error)(f"{path} cannot be read: {error.strerror}.") from None
    except Exception:  # whatever the two say about a file that is cut or is something else
        state = None
    if not isinstance(state, dict) or KEYS - state.keys():
        raise ValueError(
            f"{path} is not a checkpoint of this training loop, or it is damaged. Delete it, or "
            "name another file, to begin anew."
        )
    if "data" not in state:
        raise ValueError(
            f"{path} was written by an earlier version of the course, which did not note the text "
            "it was trained on. Name another file, to begin anew."
        )
    return state


def describe_data(train_ids: Tensor, val_ids: Tensor, vocabulary: Sequence[str]) -> dict[str, Any]:
    """Return what a checkpoint notes of its text: a hash of all ids, and what they stand for."""
    digest = hashlib.sha256()
    for ids in (train_ids, val_ids):
        digest.update(str(len(ids)).encode())
        digest.update(to_tensor(ids).cpu().numpy().tobytes())
    return {"text": digest.hexdigest(), "vocabulary": list(vocabulary)}


def collect(
    model: GPT,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    train_config: Mapping[str, Any],
    data: Mapping[str, Any],
    step: int,
    history: History,
) -> dict[str, Any]:
    """Return everything that the next step depends on, and what happened so far."""
    return {
        "step": step,
        "model_config": asdict(model.config),
        "train_config": dict(train_config),
        "data": dict(data),
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
    data: Mapping[str, Any],
) -> tuple[int, History]:
    """Put what :func:`collect` returned back into its parts; return its step and its history.

    Raises:
        ValueError: the text is another one, or the model or the training has another
            configuration; it is named.
    """
    if state["data"] != data:
        raise ValueError(
            "the checkpoint is of another run, on another text. Use the same text, or another "
            "checkpoint file."
        )
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
