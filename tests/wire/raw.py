"""Frames written and read by hand (RFC 6455 §5.2), not by the code under test, and both ends to feed them to."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from portico.limits import Deflate, Limits
from portico.wire.deflate import Codec
from portico.wire.extensions import Agreed
from portico.wire.messages import Closing, Failed, Messages, Ping, Pong

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
KEY = b"\x37\xfa\x21\x3d"  # the one of RFC 6455 §5.7


def mask(payload: bytes, key: bytes = KEY) -> bytes:
    return bytes(octet ^ key[i % 4] for i, octet in enumerate(payload))


def header(first: int, length: int, key: bytes | None, form: int | None = None) -> bytes:
    """A frame's header, its length in the shortest form or in the given one: 7, 16 or 64 bits."""
    if form is None:
        form = 7 if length < 126 else 16 if length < 1 << 16 else 64
    flag = 0 if key is None else 128
    if form == 7:
        size = bytes((flag | length,))
    elif form == 16:
        size = bytes((flag | 126,)) + length.to_bytes(2, "big")
    else:
        size = bytes((flag | 127,)) + length.to_bytes(8, "big")
    return bytes((first,)) + size + (key or b"")


def frame(first: int, payload: bytes = b"", key: bytes | None = None) -> bytes:
    return header(first, len(payload), key) + (payload if key is None else mask(payload, key))


def read_frames(data: bytes) -> list[tuple[int, bytes | None, bytes]]:
    """The whole frames in `data`: first byte, masking key if there is one, payload unmasked."""
    found = []
    while data:
        first, length, at = data[0], data[1] & 127, 2
        if length > 125:
            size = 2 if length == 126 else 8
            length = int.from_bytes(data[2 : 2 + size], "big")
            at += size
        key = None
        if data[1] & 128:
            key = data[at : at + 4]
            at += 4
        payload = data[at : at + length]
        assert len(payload) == length
        found.append((first, key, payload if key is None else mask(payload, key)))
        data = data[at + length :]
    return found


class End:
    """One end under test, and how its peer writes: a server's peer masks, a client's does not."""

    def __init__(self, *, client: bool) -> None:
        self.client = client
        self.key = None if client else KEY

    def messages(self, codec: Codec | None = None, **limits: int) -> Messages:
        return Messages(Limits(**limits), codec, client=self.client)

    def codec(self, *, takeover: bool = False, bits: int = 15, threshold: int = 0) -> Codec:
        agreed = Agreed(not takeover, not takeover, bits, bits)
        return Codec(agreed, Deflate(threshold_bytes=threshold), client=self.client)

    def frame(self, first: int, payload: bytes = b"") -> bytes:
        """A frame as the peer sends it."""
        return frame(first, payload, self.key)

    def header(self, first: int, length: int, form: int | None = None) -> bytes:
        """A frame's header as the peer sends it."""
        return header(first, length, self.key, form)


SERVER = End(client=False)
CLIENT = End(client=True)
both_ends = pytest.mark.parametrize("end", [SERVER, CLIENT], ids=["server", "client"])

Told = str | bytes | tuple[str, bytes] | tuple[str, int, str]


def told(events: Iterable[object]) -> list[Told]:
    """Events as plain values: what messages told us."""
    values: list[Told] = []
    for event in events:
        if isinstance(event, Ping):
            values.append(("ping", event.payload))
        elif isinstance(event, Pong):
            values.append(("pong", event.payload))
        elif isinstance(event, Closing):
            values.append(("closing", event.code, event.reason))
        elif isinstance(event, Failed):
            values.append(("failed", event.code, event.reason))
        else:
            assert type(event) in (str, bytes)
            values.append(event)
    return values


def failure(events: Iterable[object]) -> int:
    """The close code of the failure that these events, and nothing else, tell."""
    values = told(events)
    assert len(values) == 1, values
    kind, code, reason = values[0]
    assert kind == "failed", values
    assert 0 < len(reason.encode()) <= 123  # it goes into a close frame
    return code
