"""Training on several processes: torch's DistributedDataParallel around the course's loop.

``torchrun`` starts the processes and tells each its place. Every process holds the whole model and
draws the same global batch; each takes its share of the windows, and the gradients are averaged.
So the number of processes changes who does the work, not what is learned.

Source: Li et al., 2020, "PyTorch Distributed" (https://arxiv.org/abs/2006.15704).
"""

import contextlib
import os
import socket
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from course_utils.device import pick_device
from course_utils.gpt import GPT


@contextlib.contextmanager
def processes() -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, if it did; give the device of this one.

    They talk through nccl on GPUs and through gloo elsewhere. Each process takes the GPU of its
    place on its machine.
    """
    device = pick_device()
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    _check_environment()
    _refuse_stale_addresses()
    _find_first_process(device)
    if device.type == "mps":  # neither of the two reaches it
        device = torch.device("cpu")
    if device.type == "cuda":
        local, n = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= n:
            raise ValueError(
                f"this machine has {n} GPU{'s' * (n > 1)} for more processes: start torchrun with "
                f"--nproc-per-node {n}, or set COURSE_DEVICE=cpu."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _check_environment() -> None:
    """Stop with a sentence if WORLD_SIZE was set by something else than ``torchrun``."""
    numbers = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    for name in (*numbers, "MASTER_ADDR"):
        value = os.environ.get(name, "")
        if not value or (name in numbers and not (value.isascii() and value.isdigit())):
            raise ValueError(
                f"WORLD_SIZE is set, which means several processes, and {name} is {value!r}. Start "
                "with torchrun, which sets all of these, or unset WORLD_SIZE to train alone."
            )


def _refuse_stale_addresses() -> None:
    """Stop before a restart could hang: https://github.com/pytorch/pytorch/issues/135712.

    Unless told otherwise, torchrun keeps one store of addresses through all restarts, and a new
    worker may find the address of a dead one there and wait for it for half an hour.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ValueError(
            "after a restart, a worker could wait for the address of a dead one. With "
            "--max-restarts, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun."
        )


def _find_first_process(device: torch.device) -> None:
    """Make sure that the processes can find each other, where a long wait would begin.

    A laptop's own name often has no address, and ``torchrun`` may have told the processes to meet
    at that name. On one machine they need no name.
    """
    one_machine = os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]
    if not _has_address(first := os.environ["MASTER_ADDR"]):
        if not one_machine:
            raise ValueError(
                f"this machine does not know the address of {first}, where the processes meet: "
                "start torchrun with an address that all machines can reach."
            )
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    needs_own_name = device.type != "cuda" and "GLOO_SOCKET_IFNAME" not in os.environ
    if not one_machine and needs_own_name and not _has_address(own := socket.gethostname()):
        raise ValueError(
            f"this machine does not know the address of its own name, {own}: set "
            "GLOO_SOCKET_IFNAME to the network card that reaches the other machines."
        )


def _has_address(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def place() -> tuple[int, int]:
    """Return which process this is, from 0, and how many there are: ``(0, 1)`` when alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def replicate(model: GPT) -> GPT | DistributedDataParallel:
    """Return what to call in place of ``model``, so that ``backward`` averages the gradients.

    All processes begin with the weights of the first. Alone, it is ``model`` itself.
    """
    return DistributedDataParallel(model) if place()[1] > 1 else model


def quiet(replica: GPT | DistributedDataParallel) -> contextlib.AbstractContextManager:
    """Return a context in which gradients are only added up, to be averaged at a later batch."""
    alone = not isinstance(replica, DistributedDataParallel)
    return contextlib.nullcontext() if alone else replica.no_sync()


def share(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return this process's windows of a global batch, ``(B / n, T)`` each.

    Raises:
        ValueError: the windows cannot be shared out equally.
    """
    rank, n = place()
    x, y = batch
    if len(x) % n:
        raise ValueError(
            f"batch_size={len(x)} cannot be shared equally by {n} processes: take a multiple of "
            f"{n}."
        )
    return x.chunk(n)[rank], y.chunk(n)[rank]


def mean(value: Tensor) -> Tensor:
    """Return the mean of ``value`` over the processes, the same in all of them."""
    n = place()[1]
    if n > 1:
        dist.all_reduce(value)
        value /= n
    return value


def from_first(name: str) -> str:
    """Return the first process's ``name``, so that all of them go on with the same."""
    names = [name]
    if place()[1] > 1:
        dist.broadcast_object_list(names)
    return names[0]
