"""The device a chapter runs on, and the seeds that make a run repeatable."""

import os
import random

import numpy as np
import torch


def pick_device() -> torch.device:
    """Return the fastest device of this machine: CUDA, then Apple's MPS, then the CPU.

    Set the environment variable ``COURSE_DEVICE`` (for example to ``cpu``) to choose yourself.
    """
    if name := os.environ.get("COURSE_DEVICE"):
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def describe_device(device: torch.device) -> str:
    """Return one readable line about ``device``, such as ``cpu, 2 threads``."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        n = torch.get_num_threads()
        return f"cpu, {n} thread{'s' if n > 1 else ''}"
    return device.type


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices), so that two runs give the same numbers."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
