"""Engine.IO, version 4 of its protocol: packets and payloads, sans I/O.

A packet is one character of type and its data. In a WebSocket it is one text message; a binary message is the data of
a ``message`` packet. Over HTTP long-polling several packets make a payload, with U+001E between them, and binary is
base64 after the letter ``b``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from portico.errors import ProtocolError

VERSION: Final = "4"

OPEN: Final = "0"
CLOSE: Final = "1"
PING: Final = "2"
PONG: Final = "3"
MESSAGE: Final = "4"
UPGRADE: Final = "5"
NOOP: Final = "6"

SEPARATOR: Final = "\x1e"
PROBE_PING: Final = "2probe"
PROBE_PONG: Final = "3probe"

# The errors of the protocol's reference server: number and words.
UNKNOWN_TRANSPORT: Final = 0, "Transport unknown"
UNKNOWN_SID: Final = 1, "Session ID unknown"
BAD_METHOD: Final = 2, "Bad handshake method"
BAD_REQUEST: Final = 3, "Bad request"
FORBIDDEN: Final = 4, "Forbidden"
BAD_VERSION: Final = 5, "Unsupported protocol version"


def handshake(
    sid: str, upgrades: Iterable[str], *, ping_interval_s: float, ping_timeout_s: float, max_payload_bytes: int
) -> bytes:
    """The ``open`` packet that begins a session (Engine.IO v4, §Handshake)."""
    return b"0" + msgspec.json.encode(
        {
            "sid": sid,
            "upgrades": list(upgrades),
            "pingInterval": round(ping_interval_s * 1000),
            "pingTimeout": round(ping_timeout_s * 1000),
            "maxPayload": max_payload_bytes,
        }
    )


def error_body(error: tuple[int, str], hint: str = "") -> bytes:
    """The body of an answer that refuses: ``code`` and ``message`` as the reference server has them, and our hint."""
    body: dict[str, object] = {"code": error[0], "message": error[1]}
    if hint:
        body["hint"] = hint
    return msgspec.json.encode(body)


def encode_binary(data: bytes) -> bytes:
    """A binary message within a payload (§Payload)."""
    return b"b" + base64.b64encode(data)


def decode_payload(body: bytes) -> Iterator[str | bytes]:
    """The packets of a payload: str with its type first, bytes for a binary message.

    Raises ProtocolError at the first packet that is none.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"payload that is not UTF-8: {error.reason} at byte {error.start}") from None
    at = 0
    while True:
        end = text.find(SEPARATOR, at)
        packet = text[at:] if end < 0 else text[at:end]
        yield decode_packet(packet)
        if end < 0:
            return
        at = end + 1


def decode_packet(packet: str) -> str | bytes:
    """One packet of a payload; raises ProtocolError where it is none."""
    first = packet[:1]
    if first == "b":
        try:
            return base64.b64decode(packet[1:], validate=True)
        except (binascii.Error, ValueError):
            raise ProtocolError("binary packet that is not base64") from None
    if first not in "0123456" or not first:
        raise ProtocolError(f"packet of type {first!r}: expected 0 to 6")
    return packet
