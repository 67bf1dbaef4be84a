"""Masking (RFC 6455 §5.3): XOR with a four-byte key, in copying form only.

`apply_mask` is the one function with a hand-written twin, ``_masking.pyx``; both are held to the same tests.
"""

from __future__ import annotations

import os
import struct
from typing import Final


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
    from portico.wire import _masking as _twin  # type: ignore[attr-defined, unused-ignore] # compiled, or not there
except ImportError:
    apply_mask = _apply_mask
else:
    apply_mask = _twin.apply_mask


_POOL: Final = struct.Struct("!1024I")
_keys: list[int] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.clear)  # two processes must not draw the same


def fresh_key() -> int:
    """A masking key that can't be predicted from those before (RFC 6455 §10.3), for one frame; from any thread.

    Drawn from the system's strong randomness, 1,024 at a time for all connections; never 0, which would leave the
    payload as it is.
    """
    while True:
        try:
            key = _keys.pop()
        except IndexError:
            _keys.extend(_POOL.unpack(os.urandom(_POOL.size)))
        else:
            if key:
                return key
