"""Socket.IO packets in msgpack, as npm's ``socket.io-msgpack-parser`` 3 has them: sans I/O.

Each packet is one binary message, the map ``{type, data, nsp, id}``; binary stands in it as it is, so that nothing has
to follow. JavaScript's own values are extensions of type 0, in notepack.io's way: a fixed one of a single byte is
``undefined``, a fixed one of eight a ``Date``, any other an ``ArrayBuffer``. They become None, text as JSON would have
it, and bytes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from portico.errors import LimitExceeded, LocalError, ProtocolError
from portico.wire.socketio import ACK, CONNECT_ERROR, EVENT, MAX_ID, MAX_NAMESPACE, Packet, check

NIL: Final = b"\xc0"
UNDEFINED: Final = b"\xd4\x00"
DATE: Final = b"\xd7\x00"


class Decoder:
    """What reads packets: `feed_binary` alone, for each message is a whole one. It holds nothing.

    After a ProtocolError the session can't be understood any more: end it.
    """

    __slots__ = ()
    held = 0
    assembling = None

    def feed(self, text: str) -> Packet:
        """Text is never a packet: raises ProtocolError."""
        raise ProtocolError("text packet where msgpack was expected: has the peer another packet format?")

    def feed_binary(self, data: bytes) -> Packet:
        """The packet that `data` is. Raises ProtocolError, LimitExceeded."""
        if UNDEFINED in data or DATE in data:
            data = _without_extensions(data)
        try:
            value = _decode(data)
        except (msgspec.MsgspecError, RecursionError, ValueError, TypeError) as error:
            raise ProtocolError(f"packet whose msgpack can't be read: {error}") from None
        packet = _packet(value)
        check(packet)
        return packet

    def clear(self) -> None:
        """It holds nothing."""


def encode(kind: int, namespace: str = "/", id: int | None = None, data: Any = None) -> tuple[bytes, list[bytes]]:
    """A packet as an Engine.IO message: no text, and one binary message.

    Raises LocalError for data that can't be sent.
    """
    packet: dict[str, Any] = {"type": kind, "nsp": namespace}
    if data is not None:
        try:
            packet["data"] = msgspec.to_builtins(data, builtin_types=BINARY, str_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise LocalError(f"data that can't be sent as msgpack: {error}") from None
    if id is not None:
        packet["id"] = id
    try:
        return b"", [_encode(packet)]
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise LocalError(f"data that can't be sent as msgpack: {error}") from None


BINARY: Final = (bytes, bytearray, memoryview)
_encode = msgspec.msgpack.Encoder().encode


def _extension(code: int, data: memoryview) -> bytes:
    if code:
        raise ValueError(f"an extension of type {code}")
    return bytes(data)


_decode = msgspec.msgpack.Decoder(ext_hook=_extension).decode


def _packet(value: Any) -> Packet:
    """The packet that a map describes; what else is in the map does not count."""
    if not isinstance(value, dict):
        raise ProtocolError("packet that is no map")
    kind, namespace, id = value.get("type"), value.get("nsp"), value.get("id")
    if type(kind) is not int or not 0 <= kind <= CONNECT_ERROR:
        raise ProtocolError(f"packet of type {str(kind)[:20]}: expected 0 to 4")
    if not isinstance(namespace, str):
        raise ProtocolError("packet without a namespace")
    if len(namespace) > MAX_NAMESPACE:
        raise LimitExceeded(f"namespace over {MAX_NAMESPACE} characters", limit="max_namespace")
    if id is not None and (type(id) is not int or not 0 <= id <= MAX_ID):
        raise ProtocolError(f"packet with an id that is no number up to {MAX_ID}")
    if id is not None and kind not in (EVENT, ACK):
        id = None
    return Packet(kind, namespace.partition("?")[0], id, value.get("data"))


def _without_extensions(data: bytes) -> bytes:
    """`data` with each ``undefined`` as nil and each ``Date`` as text: msgspec does not tell a ``Date`` from an
    ``ArrayBuffer`` of eight bytes. What is cut off or malformed is left for msgspec to refuse."""
    kept = bytearray()
    at = begin = 0
    size = len(data)
    while at < size:
        first = data[at]
        if first == 0xD4 and data[at + 1 : at + 2] == b"\0":
            kept += data[begin:at] + NIL
            at = begin = at + 3
        elif first == 0xD7 and data[at + 1 : at + 2] == b"\0" and at + 10 <= size:
            kept += data[begin:at] + _date(int.from_bytes(data[at + 2 : at + 10], signed=True))
            at = begin = at + 10
        else:
            at += _span(data, at, size)
    return bytes(kept + data[begin:])


# How many bytes a value has, by its first byte, and in how many of these its length stands (then without that). Of maps
# and arrays it is the head alone: what is in them are the next values.
_FIXED: Final = dict.fromkeys(range(256), 1) | {
    **{0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9},
    **{0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18, 0xDC: 3, 0xDD: 5, 0xDE: 3, 0xDF: 5},
    **{0xA0 + length: 1 + length for length in range(32)},
}
_LENGTHS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_SPANS: Final = bytes(_FIXED.values())
_WIDTHS: Final = bytes(_LENGTHS.get(first, 0) for first in range(256))


def _span(data: bytes, at: int, size: int) -> int:
    first = data[at]
    width = _WIDTHS[first]
    if not width:
        return _SPANS[first]
    length = 0
    for place in range(at + 1, min(at + 1 + width, size)):
        length = length << 8 | data[place]
    typed = 0xC7 <= first <= 0xC9  # an extension: its type follows the length
    return 1 + width + typed + length


def _date(milliseconds: int) -> bytes:
    """A ``Date`` as msgpack text, like ``2026-01-31T12:00:00.000Z``: by way of msgpack's own timestamp of 96 bits."""
    seconds, rest = divmod(milliseconds, 1000)
    stamp = b"\xc7\x0c\xff" + (rest * 1_000_000).to_bytes(4) + seconds.to_bytes(8, signed=True)
    try:
        time = msgspec.msgpack.decode(stamp)
    except msgspec.MsgspecError:
        raise ProtocolError("a Date of no year that there is") from None
    return _encode(time.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
