"""Messages between grader and worker: plain data as JSON, tensors and arrays as safetensors.

Nothing here can execute code on loading (no pickle), and a reader rejects whatever is not a whole,
well-formed message below the size limits with :class:`ProtocolError`. A frame is

    "hw2" and a newline (4) | length of the JSON (4) | of the tensors (8) | JSON | tensors

and the JSON spells every value that JSON lacks as an object with one key, its kind:
``{"tuple": […]}``, ``{"tensor": [name, requires_grad]}`` and so on.
"""

import builtins
import json
import math
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from safetensors import torch as safetensors
from torch import Tensor

MAX_JSON, MAX_RAW, MAX_DEPTH = 4 << 20, 64 << 20, 50
_MAGIC, _HEAD = b"hw2\n", struct.Struct(">4sIQ")
_SERIES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_VIEWS = (KeysView, ValuesView, ItemsView)
_LAZY = (GeneratorType, map, filter, zip, range, reversed, enumerate, deque, *_VIEWS)


class ProtocolError(Exception):
    """What was received is not a message, or what was to be sent cannot be one."""


class Unsendable(ProtocolError):
    """A value is not plain data; the message says of which type."""


# --- values ----------------------------------------------------------------------------------


class _Writer:
    """Turns values into JSON values, and collects tensors by name."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.size = 0

    def write(self, value: Any, depth: int = 0) -> Any:
        """Return the JSON value for ``value``. Raises Unsendable for what is not plain data."""
        if depth > MAX_DEPTH:
            raise Unsendable("a structure nested too deeply (or one that contains itself)")
        value = value.item() if isinstance(value, np.generic) else value
        for kind in (bool, int, float, str):
            if isinstance(value, kind):
                return kind(value)
        if value is None:
            return None
        if isinstance(value, bytes | bytearray):
            return {"bytes": value.decode("latin-1")}
        if isinstance(value, Mapping):
            return {"dict": [self._all(pair, depth) for pair in value.items()]}
        for name, series in _SERIES.items():
            if isinstance(value, series):
                return {name: self._all(value, depth)}
        if isinstance(value, _LAZY):
            return {"list": self._all(value, depth)}
        return self._numbers(value)

    def _all(self, values: Any, depth: int) -> list:
        return [self.write(value, depth + 1) for value in values]

    def _numbers(self, value: Any) -> dict:
        if isinstance(value, np.ndarray):
            if value.dtype.kind == "U":  # an array of texts: as nested lists
                return self.write(value.tolist())
            return {"array": self._keep(value, torch.from_numpy)}
        if isinstance(value, Tensor):
            return {"tensor": [self._keep(value, lambda t: t.detach()), value.requires_grad]}
        raise Unsendable(f"a {type(value).__name__}, which is not plain data")

    def _keep(self, value: Any, as_tensor: Callable) -> str:
        size = math.prod(value.shape) * value.itemsize
        if self.size + size > MAX_RAW // 2:  # the file has a head, too
            raise Unsendable(f"more than {MAX_RAW >> 21} MB of numbers")
        self.size += size
        name = str(len(self.tensors))
        try:
            plain = as_tensor(value).cpu().to_dense().resolve_conj().resolve_neg()
            self.tensors[name] = plain.clone(memory_format=torch.contiguous_format)
        except (TypeError, ValueError, RuntimeError) as error:
            where = getattr(value, "device", "cpu")
            raise Unsendable(f"numbers of type {value.dtype} on {where}") from error
        return name


def _read_value(value: Any, tensors: Mapping[str, Tensor], depth: int = 0) -> Any:
    """Return the value for a JSON value. Raises anything for what is malformed."""
    if not isinstance(value, dict | list):
        return value
    ((kind, body),) = dict(value).items()

    def read(part: Any) -> Any:
        return _read_value(part, tensors, depth + 1)

    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if kind in _SERIES:
        return _SERIES[kind](map(read, body))
    if kind == "dict":
        return {read(k): read(v) for k, v in body}
    if kind == "bytes":
        return body.encode("latin-1")
    if kind == "tensor":
        return tensors[body[0]].requires_grad_(body[1] is True)
    if kind == "array":
        return tensors[body].numpy()
    raise ValueError("an unknown kind")


def exception(name: str, message: str) -> Exception:
    """Return Python's own exception of that name, or a new one that is called so."""
    kind = getattr(builtins, name, None)
    if kind is UnicodeDecodeError:
        return UnicodeDecodeError("utf-8", b"", 0, 0, message)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not UnicodeEncodeError:
        return kind(message)
    return type(name, (Exception,), {})(message) if name.isidentifier() else Exception(message)


# --- messages --------------------------------------------------------------------------------


def pack(message: dict[str, Any]) -> bytes:
    """Return the frame for a message, a dictionary with texts as keys.

    Raises:
        Unsendable: a value is not plain data, or the message is too large.
    """
    writer = _Writer()
    try:
        body = json.dumps({key: writer.write(value) for key, value in message.items()}).encode()
        raw = safetensors.save(writer.tensors)
    except Unsendable:
        raise
    except Exception as error:  # an int with too many digits, a dtype that no file can hold
        raise Unsendable(f"something that cannot be written down: {error}") from error
    if len(body) > MAX_JSON or len(raw) > MAX_RAW:
        raise Unsendable(f"more than {MAX_JSON >> 20} MB of text or lists")
    return _HEAD.pack(_MAGIC, len(body), len(raw)) + body + raw


def unpack(body: bytes, raw: bytes) -> dict[str, Any]:
    """Return the message in JSON ``body`` and ``raw`` tensors.

    Raises:
        ProtocolError: it is not one.
    """
    try:
        tensors = safetensors.load(raw)
        return {key: _read_value(value, tensors) for key, value in json.loads(body).items()}
    except Exception as error:  # whatever the parts of a malformed message bring about
        raise ProtocolError(f"a malformed message ({type(error).__name__})") from error


def send(channel: socket.socket, frame: bytes, deadline: float = math.inf) -> None:
    """Send a frame. Raises TimeoutError at ``deadline`` (of ``time.monotonic``)."""
    _limit(channel, deadline)
    channel.sendall(frame)


def receive(channel: socket.socket, deadline: float = math.inf) -> dict[str, Any]:
    """Return the next message.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: ``deadline`` has passed.
        ProtocolError: what arrived is not a message.
    """
    magic, n_json, n_raw = _HEAD.unpack(_read(channel, _HEAD.size, deadline))
    if magic != _MAGIC or n_json > MAX_JSON or n_raw > MAX_RAW:
        raise ProtocolError("not a message, or too large a one")
    body = _read(channel, n_json, deadline)
    return unpack(body, _read(channel, n_raw, deadline))


def _read(channel: socket.socket, size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        _limit(channel, deadline)
        part = channel.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _limit(channel: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    channel.settimeout(None if math.isinf(left) else left)
