"""The device a chapter runs on, its fastest dtype, and the seeds that make a run repeatable."""

import functools
import random
import timeit

import numpy as np
import torch

from course_utils import settings


def pick_device() -> torch.device:
    """Return the fastest device of this machine: CUDA, then Apple's MPS, then the CPU.

    Set the environment variable ``COURSE_DEVICE`` (for example to ``cpu``) to choose yourself.

    Raises:
        SettingError: ``COURSE_DEVICE`` does not name a device, or one that is not here.
    """
    mps = ["mps"] if torch.backends.mps.is_available() else []
    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    name = settings.device()
    if name is None:
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if name not in (here := ["cpu", *cuda, *mps]) and f"{name}:0" not in here:
        raise settings.SettingError(
            f"COURSE_DEVICE is {name}, which torch does not find on this machine; it can be "
            f"{' or '.join(here)}. Leave it unset to use the fastest one."
        )
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """Return one readable line about ``device``, such as ``cpu, 2 threads``."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        n = torch.get_num_threads()
        return f"cpu, {n} thread{'s' if n > 1 else ''}"
    return device.type


@functools.cache
def fast_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype in which matrix products are fastest: bfloat16 or float32.

    On a CPU one product is timed in both, because only some CPUs have instructions for bfloat16,
    and the others are much slower with it.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    if device.type != "cpu":
        return torch.float32
    gain = _seconds_of_product(torch.float32) / _seconds_of_product(torch.bfloat16)
    return torch.bfloat16 if gain > 1.5 else torch.float32


def _seconds_of_product(dtype: torch.dtype) -> float:
    a = torch.ones(512, 512, dtype=dtype)
    return min(timeit.repeat(lambda: a @ a, number=1, repeat=6))  # the first also loads the kernel


def choose_dtype(device: torch.device, name: str) -> torch.dtype:
    """Return the torch dtype that a config's ``dtype`` means on ``device``."""
    return fast_dtype(device) if name == "auto" else getattr(torch, name)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices), so that two runs give the same numbers."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
