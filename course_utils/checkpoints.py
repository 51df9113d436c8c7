"""Checkpoints: everything that the next training step depends on, in one file."""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.files import write_whole

KEYS = {"step", "settings", "history", "model", "optimizers", "batches"}  # of a training run


def save_checkpoint(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write ``state`` so that the file is there whole or not at all.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    whole = io.BytesIO()  # torch.save hides why a stream could not be written
    torch.save(dict(state), whole)
    with write_whole(path) as stream:
        stream.write(whole.getbuffer())


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Return what a run saved with :func:`save_checkpoint`: tensors and plain values, never code.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: it is not a checkpoint, it is damaged, or another version of the course wrote
            it.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as parts:  # torch.load does not look at the checksums
            damaged = parts.testzip() is not None
        # weights_only: a pickle could run any program; this loader makes only tensors and values.
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise type(error)(f"the checkpoint {path} cannot be read: {error.strerror}.") from None
    except Exception:  # whatever the two raise for a file that is cut off or is something else
        state = None
    if not isinstance(state, dict) or KEYS - state.keys():
        raise ValueError(
            f"{path} is not a checkpoint of this version of the course, or it is damaged. Delete "
            "it, or name another file, to start again."
        )
    return state


def load_or_none(path: Path | str | None, resume: bool) -> dict[str, Any] | None:
    """Return what ``path`` holds, or None for a new run, which must not overwrite anything.

    Raises:
        FileExistsError: a new run would overwrite ``path``.
        OSError, ValueError: see :func:`load_checkpoint`.
    """
    if resume and path is None:
        raise ValueError("resume=True needs the checkpoint to resume from.")
    if resume:
        return load_checkpoint(path)
    if path is not None and Path(path).exists():
        raise FileExistsError(
            f"{path} holds an earlier run, which the first evaluation would overwrite. "
            "Pass resume=True (--resume) to continue it, or name another file to start again."
        )
    return None


def collect(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], generator: torch.Generator
) -> dict[str, Any]:
    """Return everything that the next step depends on; ``generator`` draws the batches."""
    return {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "batches": generator.get_state(),
        "dropout_cpu": torch.get_rng_state(),
        "dropout_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(
    state: Mapping[str, Any],
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
) -> None:
    """Put what :func:`collect` returned back where it came from."""
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    generator.set_state(state["batches"])
    torch.set_rng_state(state["dropout_cpu"])
    if state["dropout_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["dropout_cuda"])


def refuse_other_settings(theirs: Mapping[str, Mapping], ours: Mapping[str, Mapping]) -> None:
    """Raise ValueError, with the first difference, unless the settings of two runs agree."""
    for group in ours:
        for key, here in ours[group].items():
            if (saved := theirs[group].get(key)) != here:
                what = f"its {key} is {saved}, and here {key} is {here}"
                raise ValueError(
                    "the checkpoint belongs to another run: "
                    f"{'it was trained on another text' if group == 'data' else what}. Use the "
                    "same text and settings, or another checkpoint file."
                )


def fingerprint(train_ids: Tensor, val_ids: Tensor, vocabulary: Sequence[str]) -> dict[str, Any]:
    """Return a hash of both splits, and what their ids stand for."""
    digest = hashlib.sha256()
    for ids in (train_ids, val_ids):
        digest.update(f"{len(ids)} ".encode())
        digest.update(ids.long().cpu().numpy().tobytes())
    return {"hash": digest.hexdigest(), "vocabulary": list(vocabulary)}
