"""The device a chapter runs on, and the seeds that make a run repeatable."""

import os
import random

import numpy as np
import torch

from course_utils import settings


def pick_device() -> torch.device:
    """Return the fastest device of this machine: CUDA, then Apple's MPS, then the CPU.

    Set the environment variable ``COURSE_DEVICE`` (for example to ``cpu``) to choose yourself.

    Raises:
        SettingError: ``COURSE_DEVICE`` names no device, or one that is not here.
    """
    if name := settings.device():
        return _chosen(torch.device(name))
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _chosen(device: torch.device) -> torch.device:
    here = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    if f"{device.type}:{device.index or 0}" in here or device.type in here:
        return device
    raise settings.SettingError(
        f"COURSE_DEVICE is {device}, which this torch does not find here; it can be "
        f"{' or '.join(here)}. Without it, the fastest one is taken."
    )


def describe_device(device: torch.device) -> str:
    """Return one readable line about ``device``, such as ``cpu, 2 threads``."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        n = torch.get_num_threads()
        return f"cpu, {n} thread{'s' if n > 1 else ''}"
    return device.type


def memory(device: torch.device) -> int | None:
    """Return how many bytes of memory ``device`` has in all, or None if it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices), so that two runs give the same numbers."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
