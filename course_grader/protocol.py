"""Messages between grader and worker: plain data as JSON, numbers of arrays as raw bytes.

Nothing here can execute code on loading (no pickle), and a reader rejects whatever is not a whole,
well-formed message below the size limits with :class:`ProtocolError`. A frame is

    4 bytes "hw1" and a newline | length of the JSON (4) | length of the raw bytes (8) | JSON | raw

and the JSON spells every value that JSON lacks as an object with one key, its kind:
``{"tuple": […]}``, ``{"tensor": [dtype, shape, requires_grad, offset, bytes]}`` and so on.
"""

import builtins
import json
import math
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_JSON, MAX_RAW, MAX_DEPTH, MAX_DIMENSIONS = 4 << 20, 64 << 20, 50, 16
_MAGIC, _HEAD = b"hw1\n", struct.Struct(">4sIQ")

_TORCH_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_NUMPY_TYPES = {np.dtype(code).str for code in ("?", *"bBhHiIqQefdFD")}
_LAZY = (GeneratorType, map, filter, zip, range, reversed, enumerate, deque)
_LAZY += (type({}.keys()), type({}.values()), type({}.items()))


class ProtocolError(Exception):
    """What came is not a message, or what should go cannot be one."""


class Unsendable(ProtocolError):
    """A value is no plain data; the message says of which type."""


# --- values ----------------------------------------------------------------------------------


class Encoder:
    """Turns values into JSON values and raw bytes; ``functions`` collects callables by number.

    With ``functions=None`` a callable is as unsendable as any other object.
    """

    def __init__(self, functions: list[Callable] | None = None) -> None:
        self.functions = functions
        self.raw = bytearray()

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Return the JSON value for ``value``. Raises Unsendable for what is no plain data."""
        if depth > MAX_DEPTH:
            raise Unsendable("a structure nested too deeply (or one that contains itself)")
        if value is None or type(value) in (bool, str):
            return value
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool | int | float | str):
            return _plain(value)
        if isinstance(value, bytes | bytearray):
            return {"bytes": self._keep(bytes(value))}
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, Mapping):
            return {"dict": [self._all(pair, depth) for pair in value.items()]}
        for kind, name in (
            (list, "list"),
            (tuple, "tuple"),
            (frozenset, "frozenset"),
            (set, "set"),
        ):
            if isinstance(value, kind):
                return {name: self._all(value, depth)}
        if isinstance(value, _LAZY):
            return {"list": self._all(value, depth)}
        if isinstance(value, torch.Generator):
            return {"generator": self._tensor(value.get_state())}
        if isinstance(value, np.random.Generator):
            state = value.bit_generator.state
            if state["bit_generator"] == "PCG64":
                return {"rng": state}
        if callable(value) and self.functions is not None:
            self.functions.append(value)
            return {"function": len(self.functions) - 1}
        raise Unsendable(f"a {type(value).__name__}, which is no plain data")

    def _all(self, values: Any, depth: int) -> list:
        return [self.encode(value, depth + 1) for value in values]

    def _keep(self, data: bytes) -> list[int]:
        if len(self.raw) + len(data) > MAX_RAW:
            raise Unsendable(f"more than {MAX_RAW >> 20} MB of numbers")
        self.raw += data
        return [len(self.raw) - len(data), len(data)]

    def _tensor(self, value: Tensor) -> dict:
        if value.numel() * value.element_size() > MAX_RAW:
            raise Unsendable(f"a tensor of more than {MAX_RAW >> 20} MB")
        name = str(value.dtype).removeprefix("torch.")
        if name not in _TORCH_TYPES or value.is_meta:
            raise Unsendable(f"a tensor of type {value.dtype} on {value.device}")
        plain = value.detach().cpu().to_dense().contiguous().resolve_conj().resolve_neg()
        raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
        return {"tensor": [name, list(value.shape), value.requires_grad, *self._keep(raw)]}

    def _array(self, value: np.ndarray) -> dict:
        if value.dtype.str not in _NUMPY_TYPES:
            if value.dtype.kind == "U":  # an array of texts: as nested lists
                return {"list": self.encode(value.tolist())["list"]}
            raise Unsendable(f"an array of type {value.dtype}")
        return {"array": [value.dtype.str, list(value.shape), *self._keep(value.tobytes())]}


def _plain(value: Any) -> bool | int | float | str:
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise AssertionError


class Decoder:
    """Turns JSON values and raw bytes back; ``function`` makes a callable of its number."""

    def __init__(self, raw: bytes, function: Callable[[int], Callable] | None = None) -> None:
        self.raw, self.function = raw, function

    def decode(self, value: Any, depth: int = 0) -> Any:
        """Return the value for a JSON value. Raises ProtocolError for anything malformed."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if not isinstance(value, dict) or len(value) != 1 or depth > MAX_DEPTH:
            raise ProtocolError("a value that is not in the form of the protocol")
        ((kind, body),) = value.items()
        make = getattr(self, f"_{kind}", None) if kind in _KINDS else None
        if make is None or not isinstance(body, _KINDS[kind]):
            raise ProtocolError("a value of an unknown kind")
        try:
            return make(body, depth)
        except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
            raise ProtocolError(f"a malformed {kind}") from error

    def _all(self, body: list, depth: int) -> Iterator:
        return (self.decode(value, depth + 1) for value in body)

    def _list(self, body: list, depth: int) -> list:
        return list(self._all(body, depth))

    def _tuple(self, body: list, depth: int) -> tuple:
        return tuple(self._all(body, depth))

    def _set(self, body: list, depth: int) -> set:
        return set(self._all(body, depth))

    def _frozenset(self, body: list, depth: int) -> frozenset:
        return frozenset(self._all(body, depth))

    def _dict(self, body: list, depth: int) -> dict:
        return {self.decode(k, depth + 1): self.decode(v, depth + 1) for k, v in body}

    def _bytes(self, body: list, _depth: int) -> bytes:
        offset, length = body
        if not 0 <= offset <= offset + length <= len(self.raw):
            raise ProtocolError("numbers that are not in the message")
        return self.raw[offset : offset + length]

    def _tensor(self, body: list, depth: int) -> Tensor:
        name, shape, grad, *where = body
        dtype = _TORCH_TYPES[name]
        data = self._block(shape, dtype.itemsize, where)
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return flat.reshape(shape).requires_grad_(grad is True)

    def _array(self, body: list, depth: int) -> np.ndarray:
        code, shape, *where = body
        if code not in _NUMPY_TYPES:
            raise ProtocolError("an array of an unknown type")
        data = self._block(shape, np.dtype(code).itemsize, where)
        return np.frombuffer(data, dtype=code).reshape(shape)

    def _block(self, shape: list, itemsize: int, where: list) -> bytearray:
        sizes_are_right = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
        if not sizes_are_right or any(type(n) is not int or not 0 <= n < 2**40 for n in shape):
            raise ProtocolError("a shape that is none")
        data = bytearray(self._bytes(where, 0))
        if len(data) != math.prod(shape) * itemsize:
            raise ProtocolError("numbers that do not fill their shape")
        return data

    def _generator(self, body: dict, depth: int) -> torch.Generator:
        generator = torch.Generator()
        generator.set_state(self.decode(body, depth + 1))
        return generator

    def _rng(self, body: dict, _depth: int) -> np.random.Generator:
        bits = np.random.PCG64(0)
        bits.state = body
        return np.random.Generator(bits)

    def _function(self, body: int, _depth: int) -> Callable:
        if self.function is None:
            raise ProtocolError("a function, where only data may come")
        return self.function(body)


_KINDS: dict[str, type] = {
    **dict.fromkeys(("list", "tuple", "set", "frozenset", "dict", "bytes"), list),
    **{"tensor": list, "array": list, "generator": dict, "rng": dict, "function": int},
}


def exception(name: str, message: str) -> Exception:
    """Return Python's own exception of that name, or a new one that is called so."""
    kind = getattr(builtins, name, None)
    if kind is UnicodeDecodeError:
        return UnicodeDecodeError("utf-8", b"", 0, 0, message)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not UnicodeEncodeError:
        return kind(message)
    return type(name, (Exception,), {})(message) if name.isidentifier() else Exception(message)


# --- messages --------------------------------------------------------------------------------


def pack(message: dict[str, Any], functions: list[Callable] | None = None) -> bytes:
    """Return the frame for a message, a dictionary with texts as keys.

    Raises:
        Unsendable: a value is no plain data, or the message is too large.
    """
    encoder = Encoder(functions)
    try:
        body = json.dumps({key: encoder.encode(value) for key, value in message.items()}).encode()
    except (ValueError, RecursionError) as error:  # an int with too many digits
        raise Unsendable(f"something that cannot be written down: {error}") from error
    if len(body) > MAX_JSON:
        raise Unsendable(f"more than {MAX_JSON >> 20} MB of text or lists")
    return _HEAD.pack(_MAGIC, len(body), len(encoder.raw)) + body + bytes(encoder.raw)


def unpack(
    body: bytes, raw: bytes, function: Callable[[int], Callable] | None = None
) -> dict[str, Any]:
    """Return the message in JSON ``body`` and ``raw`` bytes.

    Raises:
        ProtocolError: it is not one.
    """
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON") from error
    if not isinstance(parsed, dict):
        raise ProtocolError("not a message")
    decoder = Decoder(raw, function)
    return {key: decoder.decode(value) for key, value in parsed.items()}


def send(channel: socket.socket, frame: bytes, deadline: float = math.inf) -> None:
    """Send a frame. Raises TimeoutError at ``deadline`` (of ``time.monotonic``)."""
    _limit(channel, deadline)
    channel.sendall(frame)


def receive(
    channel: socket.socket,
    deadline: float = math.inf,
    function: Callable[[int], Callable] | None = None,
) -> dict[str, Any]:
    """Return the next message.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: ``deadline`` has passed.
        ProtocolError: what came is no message.
    """
    magic, n_json, n_raw = _HEAD.unpack(_read(channel, _HEAD.size, deadline))
    if magic != _MAGIC or n_json > MAX_JSON or n_raw > MAX_RAW:
        raise ProtocolError("not a message, or too large a one")
    body = _read(channel, n_json, deadline)
    return unpack(body, _read(channel, n_raw, deadline), function)


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
