"""Masking (RFC 6455 §5.3): XOR with a four-byte key, in copying form only.

`apply_mask` is the one function with a hand-written twin, ``_masking.pyx``; both are held to the same tests.
"""

from __future__ import annotations

import os


def _apply_mask(data: bytes | bytearray, start: int, end: int, key: int, phase: int) -> bytes:
    """A copy of ``data[start:end]`` masked with `key`, a 32-bit number whose highest byte comes first.

    `phase` (0 to 3) is how many bytes of the same frame came before, modulo 4. Key 0 copies. Masking twice gives back
    the data. Raises IndexError where the span does not lie within `data`.
    """
    if not 0 <= start <= end <= len(data):
        raise IndexError(f"span {start}:{end} of {len(data)} bytes")
    piece = bytes(memoryview(data)[start:end])
    if not key:
        return piece
    length = end - start
    key_bytes = key.to_bytes(4, "big")
    rotated = key_bytes[phase:] + key_bytes[:phase]
    pad = (rotated * (length // 4 + 1))[:length]
    return (int.from_bytes(piece, "little") ^ int.from_bytes(pad, "little")).to_bytes(length, "little")


try:
    from portico.wire._masking import apply_mask  # type: ignore[import-not-found, unused-ignore] # the compiled twin
except ImportError:
    apply_mask = _apply_mask


class MaskKeys:
    """Fresh masking keys from the system's strong randomness (RFC 6455 §10.3), drawn 1,024 at a time."""

    __slots__ = ("_at", "_pool")

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def next(self) -> int:
        """A key that can't be predicted from those before; never 0, which would leave the payload as it is."""
        while True:
            if self._at >= len(self._pool):
                self._pool = os.urandom(4096)
                self._at = 0
            key = int.from_bytes(self._pool[self._at : self._at + 4], "big")
            self._at += 4
            if key:
                return key
