"""Attention by its definition and by torch's fused kernel: time and memory against length."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.device import pick_device
from course_utils.gpt import causal_mask, scaled_dot_product_attention

HEADS, D_K = 8, 64


def tables(quick: bool) -> list[tuple[str, list[dict]]]:
    lengths = (64, 128) if quick else (128, 256, 512, 1024, 2048, 4096)
    rows, device = [], pick_device()
    for T in lengths:
        shape = (1, HEADS, T, D_K)
        qkv = [torch.randn(shape, device=device, requires_grad=True) for _ in range(3)]
        mask = causal_mask(T, device=device)
        kinds: dict[str, Callable[..., Tensor]] = {
            "naive": lambda q, k, v, mask=mask: scaled_dot_product_attention(q, k, v, mask),
            "fused": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        }
        difference = (kinds["naive"](*qkv) - kinds["fused"](*qkv)).abs().max().item()
        seconds = fastest(kinds, qkv, rounds=3 if quick else 5)
        kept = {name: bytes_kept(attend, qkv) for name, attend in kinds.items()}
        rows.append(
            {
                "tokens": T,
                "naive ms": f"{1e3 * seconds['naive']:.1f}",
                "fused ms": f"{1e3 * seconds['fused']:.1f}",
                "times faster": f"{seconds['naive'] / seconds['fused']:.1f}",
                "naive MB": f"{kept['naive'] / 1e6:.1f}",
                "fused MB": f"{kept['fused'] / 1e6:.1f}",
                "largest difference": f"{difference:.0e}",
            }
        )
    title = (
        f"Attention, causal, {HEADS} heads of {D_K} channels, float32: milliseconds forward "
        "and backward (best of the rounds, in turns), and megabytes kept for the backward pass. "
        "The peer of the definition is torch's fused kernel."
    )
    return [(title, rows)]


def fastest(kinds: dict[str, Callable[..., Tensor]], qkv: list[Tensor], rounds: int) -> dict:
    """Return the shortest time in seconds of each kind, forward and backward."""
    seconds = dict.fromkeys(kinds, float("inf"))
    for _ in range(rounds):
        for name, attend in kinds.items():
            start = time.perf_counter()
            attend(*qkv).sum().backward()
            if qkv[0].device.type != "cpu":
                torch.accelerator.synchronize()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def bytes_kept(attend: Callable[..., Tensor], qkv: list[Tensor]) -> int:
    """Return the bytes that the forward pass keeps for the backward pass, each tensor once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = attend(*qkv)
    del out
    return sum(kept.values())
