"""The KV cache: what makes generation fast. Training does without it."""

import torch
from torch import Tensor


class KVCache:
    """The keys and values of the tokens that one attention layer has read so far.

    Without it, each new token would compute the keys and values of all earlier ones again. The
    buffer doubles when it is full, so that adding a token costs the same on average, however many
    there are.

    Built by hand in chapter 7, "The KV cache: do not read the book again for every word".

    Attributes:
        length: number of tokens held.
    """

    def __init__(self) -> None:
        self.length = 0
        self._buffer: Tensor | None = None  # (2, B, H_kv, capacity, d_k): keys, then values

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new tokens' ``(B, H_kv, T, d_k)``; return all keys and all values so far.

        Raises:
            ValueError: the cache is for another batch size.
        """
        B, H_kv, T, d_k = key.shape
        start, end = self.length, self.length + T
        if self._buffer is None:
            self._buffer = key.new_empty(2, B, H_kv, max(64, 2 * T), d_k)
        elif (n := self._buffer.shape[1]) != B:
            raise ValueError(f"the cache is for {n} texts, not {B}; begin with a new cache.")
        elif end > self._buffer.shape[3]:
            self._buffer = torch.cat([self._buffer, key.new_empty(2, B, H_kv, end, d_k)], dim=3)
        self._buffer[0, :, :, start:end] = key
        self._buffer[1, :, :, start:end] = value
        self.length = end
        return self._buffer[0, :, :, :end], self._buffer[1, :, :, :end]  # (B, H_kv, T_k, d_k) each

    def select(self, rows: Tensor) -> None:
        """Keep the texts that ``rows`` ``(B',)`` names, in its order; a row may come twice."""
        if self._buffer is not None:
            self._buffer = self._buffer[:, rows]
