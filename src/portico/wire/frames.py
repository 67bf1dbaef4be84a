"""Frames (RFC 6455 §5): what their headers say and how they are written. Reading is in `messages`.

Every encoder returns one bytes object, header and payload joined, ready for a socket.
"""

from __future__ import annotations

import struct
from typing import Final

from portico.codes import may_be_sent
from portico.errors import LocalError, ProtocolError
from portico.wire.masking import apply_mask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

FIN: Final = 0x80
RSV1: Final = 0x40

MAX_CONTROL_PAYLOAD: Final = 125
MAX_CLOSE_REASON: Final = 123

_pack_16 = struct.Struct("!BBH").pack
_pack_64 = struct.Struct("!BBQ").pack
_pack_masked = struct.Struct("!BBI").pack
_pack_masked_16 = struct.Struct("!BBHI").pack
_pack_masked_64 = struct.Struct("!BBQI").pack

# headers of unmasked frames with FIN and a payload under 126 bytes
TEXT_HEADERS: Final = [bytes((FIN | TEXT, size)) for size in range(126)]
BINARY_HEADERS: Final = [bytes((FIN | BINARY, size)) for size in range(126)]


def encode_frame(first: int, payload: bytes) -> bytes:
    """An unmasked frame, as a server sends it. `first` is the frame's first byte: FIN, RSV bits and opcode."""
    size = len(payload)
    if size < 126:
        if first == FIN | TEXT:
            return TEXT_HEADERS[size] + payload
        return bytes((first, size)) + payload
    if size < 65536:
        return _pack_16(first, 126, size) + payload
    return _pack_64(first, 127, size) + payload


def encode_masked_frame(first: int, payload: bytes, key: int) -> bytes:
    """A masked frame, as a client sends it (RFC 6455 §5.3). `key`: 32 bits, fresh for every frame."""
    size = len(payload)
    masked = apply_mask(payload, 0, size, key, 0)
    if size < 126:
        return _pack_masked(first, 128 | size, key) + masked
    if size < 65536:
        return _pack_masked_16(first, 128 | 126, size, key) + masked
    return _pack_masked_64(first, 128 | 127, size, key) + masked


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a close frame (RFC 6455 §5.5.1); 1005 stands for an empty one.

    Raises LocalError for a code that must not be sent (§7.4) or a reason that is no text or over 123 bytes of UTF-8.
    """
    if not isinstance(reason, str):
        raise LocalError(f"close reason of type {type(reason).__name__}: expected str")
    if code == 1005 and not reason:
        return b""
    if not isinstance(code, int) or not may_be_sent(code):
        raise LocalError(f"close code {code!r}: expected 1000-1003, 1007-1014 or 3000-4999")
    try:
        text = reason.encode("utf-8")
    except UnicodeEncodeError as error:
        raise LocalError(f"close reason that can't be sent as UTF-8: {error.reason} at {error.start}") from None
    if len(text) > MAX_CLOSE_REASON:
        raise LocalError(f"close reason of {len(text)} bytes: expected at most {MAX_CLOSE_REASON} bytes of UTF-8")
    return code.to_bytes(2, "big") + text


def parse_close(payload: bytes) -> tuple[int, str]:
    """The code and reason of a received close frame; code 1005 for an empty one (RFC 6455 §7.1.5).

    Raises ProtocolError, with the close code that answers it, for a payload of one byte, a code that must not be sent
    or a reason that is not UTF-8.
    """
    if not payload:
        return 1005, ""
    if len(payload) == 1:
        raise ProtocolError("close frame with a payload of 1 byte")
    code = payload[0] << 8 | payload[1]
    if not may_be_sent(code):
        raise ProtocolError(f"close frame with code {code}")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError("close reason is not UTF-8", close_code=1007) from None
