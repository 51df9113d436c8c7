"""Training on several processes: torch's DistributedDataParallel around the course's loop.

``torchrun`` starts the processes and tells each one its rank. Every process holds the whole model
and draws the same global batch; each takes its shard of the windows, and the gradients are
averaged. So the number of processes changes who does the work, not what is learned.

Source: Li et al., 2020, "PyTorch Distributed" (https://arxiv.org/abs/2006.15704).
"""

import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from course_utils.device import pick_device


@contextmanager
def processes() -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, if any; yield this one's device.

    They communicate through nccl on GPUs and through gloo elsewhere. Each process takes the GPU
    whose number is its local rank.

    Raises:
        ValueError: there are more processes than GPUs, or they could wait for each other forever.
    """
    device = pick_device()
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    _check_environment()
    if device.type == "mps":  # neither of the two backends supports it
        device = torch.device("cpu")
    if device.type == "cuda":
        local_rank, n = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= n:
            raise ValueError(
                f"there are more processes here than GPUs ({n}): start torchrun with "
                f"--nproc-per-node {n}, or set COURSE_DEVICE=cpu."
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    _find_rank_0(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _check_environment() -> None:
    """Raise ValueError unless the variables are torchrun's, and such that a restart cannot hang.

    By default torchrun keeps one store of addresses through all restarts. A new worker may find
    the address of a dead one there, and wait for it for half an hour:
    https://github.com/pytorch/pytorch/issues/135712.
    """
    numbers = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    for name in (*numbers, "MASTER_ADDR"):
        value = os.environ.get(name, "")
        if not value or (name in numbers and not (value.isascii() and value.isdigit())):
            raise ValueError(
                f"WORLD_SIZE is set, which means several processes, and {name} is {value!r}. Start "
                "with torchrun, which sets all of these, or unset WORLD_SIZE to use one process."
            )
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ValueError(
            "after a restart, a worker could wait for one that has died. With "
            "--max-restarts, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun."
        )


def _find_rank_0(device: torch.device) -> None:
    """Make sure that the processes can find rank 0; otherwise they would wait for minutes.

    torchrun may tell them to meet at the machine's own name, and a laptop's name often has no
    address. On a single machine they can do without it.
    """
    names = [os.environ["MASTER_ADDR"]]
    if device.type != "cuda" and "GLOO_SOCKET_IFNAME" not in os.environ:
        names.append(socket.gethostname())  # gloo looks it up
    unknown = [name for name in names if not _resolves(name)]
    if not unknown:
        return
    if os.environ["LOCAL_WORLD_SIZE"] != os.environ["WORLD_SIZE"]:
        raise ValueError(
            f"this machine cannot resolve the name {unknown[0]}: start torchrun with an address "
            "that all machines can reach, and set GLOO_SOCKET_IFNAME to the network interface that "
            "reaches them."
        )
    os.environ["MASTER_ADDR"] = "127.0.0.1"


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except (OSError, UnicodeError):  # UnicodeError: no host can have such a name
        return False


def rank() -> int:
    """Return the number of this process, from 0; 0 if it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def replicate(model: nn.Module) -> nn.Module:
    """Return what to call in place of ``model``, so that ``backward`` averages the gradients.

    All processes start with the weights of rank 0. In a single process it is ``model`` itself.
    """
    return DistributedDataParallel(model) if world_size() > 1 else model


def no_sync(replica: nn.Module, skip: bool) -> AbstractContextManager:
    """Return a context in which ``backward`` leaves out the averaging, if ``skip`` is true."""
    if skip and isinstance(replica, DistributedDataParallel):
        return replica.no_sync()
    return nullcontext()


def shard(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return this process's windows of a global batch, ``(B / world_size, T)`` each.

    Raises:
        ValueError: the windows cannot be divided equally.
    """
    x, y = batch
    if len(x) % (n := world_size()):
        raise ValueError(
            f"batch_size={len(x)} cannot be divided equally among {n} processes: use a multiple of "
            f"{n}."
        )
    return x.chunk(n)[rank()], y.chunk(n)[rank()]


def all_reduce_mean(value: Tensor) -> Tensor:
    """Return the mean of ``value`` over the processes, the same in all of them."""
    if world_size() > 1:
        dist.all_reduce(value)  # the sum
        value /= world_size()
    return value


def broadcast(name: str) -> str:
    """Return the ``name`` that rank 0 has, so that all processes use the same one."""
    names = [name]
    if world_size() > 1:
        dist.broadcast_object_list(names)
    return names[0]
