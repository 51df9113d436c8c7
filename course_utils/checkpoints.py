"""Checkpoint files: written whole, read without running code, refused for another run."""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_utils.files import write_whole

#: What the checkpoint of a training run holds; see :meth:`course_utils.run.Run.save`.
KEYS = {"step", "settings", "history", "model", "optimizers", "batches", "dropout"}


def save_checkpoint(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write ``state`` to a file that is complete or not there at all.

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
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not a checkpoint, it is damaged, or another version of the course wrote
            it.
    """
    try:
        with zipfile.ZipFile(path) as parts:  # torch.load does not look at the checksums
            damaged = parts.testzip() is not None
        # weights_only: a pickle could run any program; this loader makes only tensors and values.
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise type(error)(f"the checkpoint {path} cannot be read: {error.strerror}.") from None
    except Exception:  # whatever the two raise for a truncated file or one of another kind
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
    if not resume:
        if path is not None:
            refuse_to_overwrite(path)
        return None
    if path is None:
        raise ValueError("resume=True needs the checkpoint to resume from.")
    return load_checkpoint(path)


def refuse_to_overwrite(path: Path | str) -> None:
    """Raise FileExistsError if there is a checkpoint that a new run would replace."""
    if Path(path).exists():
        raise FileExistsError(
            f"{path} holds an earlier run, which the first evaluation would overwrite. "
            "Pass resume=True (--resume) to continue it, or name another file to start again."
        )


def refuse_other_settings(theirs: Mapping[str, Mapping], ours: Mapping[str, Mapping]) -> None:
    """Raise ValueError, with the first difference, unless the settings of two runs agree."""
    for group in ours:
        for key, here in ours[group].items():
            if (saved := theirs[group].get(key)) != here:
                what = f"its {key} is {saved}, and here {key} is {here}"
                if group == "data":
                    what = "it was trained on another text"
                raise ValueError(
                    f"the checkpoint belongs to another run: {what}. Use the same text and "
                    "settings, or another checkpoint file."
                )


def fingerprint(train_ids: Tensor, val_ids: Tensor, vocabulary: Sequence[str]) -> dict[str, Any]:
    """Return a hash of both splits, and what their ids stand for."""
    digest = hashlib.sha256()
    for ids in (train_ids, val_ids):
        digest.update(f"{len(ids)} ".encode())
        digest.update(ids.long().cpu().numpy().tobytes())
    return {"hash": digest.hexdigest(), "vocabulary": list(vocabulary)}
