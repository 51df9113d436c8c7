"""Checks of what a model or a function is given: numbers, settings, token ids, targets, shapes.

Each raises ValueError with what was wrong, what was expected and what to do, before anything is
computed.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def check_ids(ids: Tensor, vocab_size: int, name: str = "ids") -> None:
    """Refuse ids outside 0 to ``vocab_size - 1``."""
    if ids.numel() and (ids.min() < 0 or ids.max() >= vocab_size):
        wrong = f"{name} range from {ids.min()} to {ids.max()}; the vocabulary has {vocab_size}"
        advice = f"tokens, 0 to {vocab_size - 1}. Was the text encoded by another tokenizer?"
        raise ValueError(f"{wrong} {advice}")


def check_batch(ids: Tensor, cache: Sequence | None, config: Any, device: torch.device) -> None:
    """Refuse ``ids`` unless they are ``(B, T)`` and fit after the tokens in the cache.

    Args:
        cache: the model's caches, one for each block.
        config: the model's.
    """
    block_size, n_past = config.block_size, cache[0].length if cache else 0
    check_whole_numbers("ids", ids, device)
    wrong = f"ids has shape {tuple(ids.shape)}; expected (batch, time)."
    check(ids.dim() == 2, f"{wrong} For one sequence, write ids[None].")
    if not 1 <= ids.shape[1] <= block_size - n_past:
        cached = f" after {n_past} in the cache" if n_past else ""
        advice = "Cut the sequence: ids[:, -block_size:]."
        if n_past:
            advice = "Begin with a new cache, and give it the last tokens only."
        elif ids.shape[1] == 0:
            advice = "Give it at least one token, such as a line end."
        reads = f"the model reads 1 to block_size={block_size}"
        raise ValueError(f"ids has {ids.shape[1]} positions{cached}; {reads}. {advice}")
    if values_are_at_hand(ids):
        check_ids(ids, config.vocab_size)
    if cache is not None and len(cache) != config.n_layer:
        raise ValueError(f"cache is for {len(cache)} blocks, the model has {config.n_layer}.")


def check_targets(targets: Tensor, ids: Tensor, vocab_size: int, device: torch.device) -> None:
    """Refuse ``targets`` unless there is one for each of ``ids``: the id that follows, or -100."""
    check_whole_numbers("ids", ids, device)
    check_whole_numbers("targets", targets, device)
    wrong = f"targets has shape {tuple(targets.shape)} and ids {tuple(ids.shape)}; expected the"
    advice = "same: for each position the id that follows, -100 where there is none."
    check(targets.shape == ids.shape, f"{wrong} {advice}")
    if values_are_at_hand(targets):
        check_ids(targets[targets != -100], vocab_size, "targets")


def check_padding(n_pad: Tensor, ids: Tensor) -> None:
    """Refuse ``n_pad`` unless it has one whole number for each row of ``ids``."""
    check_whole_numbers("n_pad", n_pad, ids.device)
    wrong = f"n_pad has shape {tuple(n_pad.shape)}; expected one number for each row of ids:"
    check(n_pad.shape == ids.shape[:1], f"{wrong} ({len(ids)},).")


def check_whole_numbers(name: str, ids: Tensor, device: torch.device) -> None:
    """Refuse what is not a tensor of whole numbers on ``device``."""
    if not isinstance(ids, Tensor):
        raise ValueError(
            f"{name} is a {type(ids).__name__}; expected a tensor of whole numbers. "
            f"Write torch.tensor({name})."
        )
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"{name} holds {ids.dtype}; expected whole numbers, torch.int64. "
            f"If they are token ids, write {name}.long()."
        )
    if ids.device != device:
        raise ValueError(
            f"{name} is on {ids.device}, the model on {device}. Write {name}.to({str(device)!r})."
        )


def values_are_at_hand(ids: Tensor) -> bool:
    """Say whether looking at the values costs nothing.

    On a GPU, looking would wait for all earlier steps; while torch compiles or exports the model,
    there are no values yet.
    """
    return ids.device.type == "cpu" and not torch.compiler.is_compiling()


def check_width(x: Tensor, n_embd: int) -> None:
    """Refuse ``x`` unless it is ``(..., n_embd)``."""
    if x.shape[-1:] != (n_embd,):
        raise ValueError(
            f"x has shape {tuple(x.shape)}; this layer expects n_embd={n_embd} channels in its "
            "last dimension."
        )


def check_sources(x: Tensor, memory: Tensor | None, n_embd: int, rotary: Any, cache: Any) -> None:
    """Refuse other widths than ``n_embd``, and a memory where ``rotary`` or ``cache`` is given."""
    if memory is not None:
        wrong = "cache and rotary are for self-attention; leave them out where there is a memory."
        check(cache is None and rotary is None, wrong)
        check_width(memory, n_embd)
    check_width(x, n_embd)


def check_heads(n_embd: int, n_head: int, n_kv_head: int) -> None:
    """Refuse numbers of heads that do not divide."""
    check(n_embd % n_head == 0, f"n_embd={n_embd} is not divisible by n_head={n_head}.")
    fits = n_kv_head > 0 and n_head % n_kv_head == 0
    check(fits, f"n_head={n_head} is not divisible by n_kv_head={n_kv_head}.")


def check_kind(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse a name that is not ``known``."""
    check(value in known, f"{name}={value!r} is not one of {', '.join(known)}.")


def check_fields(config: Any, choices: Mapping[str, tuple], may_be_zero: Collection[str]) -> None:
    """Refuse settings of the wrong kind, and make numbers Python's own: files cannot hold numpy's.

    Args:
        config: a frozen dataclass, whose numbers must be above 0.
        choices: the words that some fields can be.
        may_be_zero: the fields whose numbers can also be 0.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in choices:
            check_kind(field.name, value, choices[field.name])
        zero = field.name in may_be_zero
        object.__setattr__(config, field.name, _plain(field.name, value, field.type, zero))


def _plain(name: str, value: Any, kind: Any, may_be_zero: bool) -> Any:
    """Return ``value`` as a plain bool, int or float, if ``kind`` is one of them."""
    if kind == int | None and value is not None:
        kind = int
    check(kind is not bool or isinstance(value, bool), f"{name}={value!r} must be True or False.")
    if kind not in (int, float):
        return value
    whole = kind is int
    needed = f"{name}={value!r} must be a {'whole number' if whole else 'number'}"
    check(is_number(value, Integral if whole else Real), f"{needed}.")
    end = 2**63 if whole else math.inf
    check(not value >= end, f"{needed} below {end}.")
    least = "of at least 0" if may_be_zero else "above 0"
    check(value > 0 or (value == 0 and may_be_zero), f"{needed} {least}.")
    return kind(value)


def check_whole(name: str, value: Any, least: int = 1, why: str = "") -> None:
    """Refuse what is not a whole number from ``least`` up; ``why`` ends the sentence."""
    fits = is_number(value, Integral) and value >= least
    check(fits, f"{name}={value!r} must be a whole number and at least {least}{why}.")


def is_number(value: Any, kind: type = Real) -> bool:
    """Say whether ``value`` is a number of this kind, which True and False are not."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check(fits: Any, message: str) -> None:
    """Raise ValueError with ``message`` unless something ``fits``."""
    if not fits:
        raise ValueError(message)
