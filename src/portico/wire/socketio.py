"""Socket.IO, version 5 of its protocol: packets in Engine.IO messages, sans I/O.

``<type>[<number of attachments>-][<namespace>,][<id>][<JSON>]``; each attachment follows in a binary message, and
stands in the JSON as ``{"_placeholder": true, "num": n}``. JSON by msgspec.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from portico.errors import LimitExceeded, LocalError, ProtocolError

CONNECT: Final = 0
DISCONNECT: Final = 1
EVENT: Final = 2
ACK: Final = 3
CONNECT_ERROR: Final = 4
BINARY_EVENT: Final = 5
BINARY_ACK: Final = 6

RESERVED: Final = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener")
)
MAX_ID: Final = (1 << 53) - 1  # the largest whole number that every client can hold
MAX_ATTACHMENTS: Final = 1000
MAX_NAMESPACE: Final = 512
MAX_DEPTH: Final = 500  # of what is looked through for binary: compiled code has no limit of its own

_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode


class Packet:
    """One packet. ``data``: of an EVENT its name and arguments, of an ACK the arguments, of others any JSON or None.

    EVENT and ACK stand for their binary kinds too: by the time that one is seen, its attachments are in its data.
    """

    __slots__ = ("data", "id", "namespace", "type")

    def __init__(self, type: int, namespace: str = "/", id: int | None = None, data: Any = None) -> None:
        self.type = type
        self.namespace = namespace
        self.id = id
        self.data = data

    def __repr__(self) -> str:
        return f"Packet(type={self.type}, namespace={self.namespace!r}, id={self.id!r}, data={self.data!r})"


class Decoder:
    """What puts packets together for one session: text in by `feed`, attachments by `feed_binary`.

    After a ProtocolError the session can't be understood any more: end it. An event with its attachments may have
    `max_bytes`, and `MAX_ATTACHMENTS` of them.
    """

    __slots__ = ("_attachments", "_expected", "_packet", "_size", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._packet: Packet | None = None  # whose attachments have not all come
        self._attachments: list[bytes] = []
        self._expected = 0
        self._size = 0

    @property
    def held(self) -> int:
        """The bytes held for a packet whose attachments have not all come."""
        return self._size

    @property
    def assembling(self) -> str | None:
        """The namespace of the packet whose attachments have not all come; None where there is none."""
        return None if self._packet is None else self._packet.namespace

    def feed(self, text: str) -> Packet | None:
        """The packet that `text` is; None where attachments have to follow. Raises ProtocolError, LimitExceeded."""
        if self._packet is not None:
            raise ProtocolError("text packet where an attachment was expected")
        packet, count = _parse(text)
        if not count:
            check(packet)  # a binary packet may have none
            return packet
        if count > MAX_ATTACHMENTS:
            raise LimitExceeded(
                f"packet with {count} attachments: expected at most {MAX_ATTACHMENTS}", limit="max_attachments"
            )
        self._packet, self._expected, self._size = packet, count, len(text)
        return None

    @staticmethod
    def whole(text: str) -> Packet:
        """The packet that `text` is, where that announces no attachments. Raises ProtocolError."""
        packet = _parse(text)[0]
        check(packet)
        return packet

    def feed_binary(self, data: bytes) -> Packet | None:
        """The packet that the attachment `data` completes; None where more have to follow."""
        packet = self._packet
        if packet is None:
            raise ProtocolError("attachment where none was expected")
        self._size += len(data)
        if self._size > self.max_bytes:
            self.clear()
            raise LimitExceeded(f"packet over {self.max_bytes} bytes with its attachments", limit="max_payload_bytes")
        self._attachments.append(data)
        if len(self._attachments) < self._expected:
            return None
        attachments = self._attachments
        self.clear()
        try:
            packet.data = _fill(packet.data, attachments)
        except RecursionError:
            raise ProtocolError("packet whose JSON is too deep") from None
        check(packet)
        return packet

    def clear(self) -> None:
        """Let go of what is not complete."""
        self._packet = None
        self._attachments = []
        self._expected = self._size = 0


def event(json: str) -> list[Any]:
    """An event's name and arguments. Raises ProtocolError."""
    data = _json(json)
    _check_event(data)
    return data  # type: ignore[no-any-return]


def _check_event(data: Any) -> None:
    name = data[0] if isinstance(data, list) and data else None
    if not isinstance(name, str) or name in RESERVED:
        raise ProtocolError("event without a name that events may have")


def _parse(text: str) -> tuple[Packet, int]:
    """The packet in `text`, and how many attachments have to follow."""
    kind = ord(text[0]) - 48 if text else -1
    if not 0 <= kind <= 6:
        raise ProtocolError(f"packet of type {text[:1]!r}: expected 0 to 6")
    at = 1
    count = 0
    if kind >= BINARY_EVENT:
        end = _digits(text, at)
        if end == at or text[end : end + 1] != "-":
            raise ProtocolError("binary packet without a number of attachments")
        count = _number(text[at:end])
        at = end + 1
        kind = EVENT if kind == BINARY_EVENT else ACK
    namespace = "/"
    if text[at : at + 1] == "/":
        end = text.find(",", at)
        if end < 0:
            end = len(text)
        namespace = text[at:end].partition("?")[0]
        if len(namespace) > MAX_NAMESPACE:
            raise LimitExceeded(f"namespace over {MAX_NAMESPACE} characters", limit="max_namespace")
        at = end + 1
    end = _digits(text, at)
    identity = _number(text[at:end]) if end > at else None
    data = _json(text[end:]) if end < len(text) else None
    return Packet(kind, namespace, identity, data), count


def _digits(text: str, at: int) -> int:
    """Where the ASCII digits that begin at `at` end."""
    while at < len(text) and "0" <= text[at] <= "9":
        at += 1
        if at > 1 << 16:
            raise ProtocolError("a number of thousands of digits")
    return at


def _number(digits: str) -> int:
    if len(digits) > 16 or int(digits) > MAX_ID:
        raise ProtocolError(f"number of {len(digits)} digits: expected at most {MAX_ID}")
    return int(digits)


def _json(text: str) -> Any:
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise ProtocolError(f"packet whose JSON can't be read: {error}") from None


def check(packet: Packet) -> None:
    """Raise ProtocolError for data that does not fit the packet's type (Socket.IO v5, §Packet types)."""
    kind = packet.type
    data = packet.data
    if kind == EVENT:
        _check_event(data)
    elif kind == ACK:
        if not isinstance(data, list) or packet.id is None:
            raise ProtocolError("acknowledgement without an id or a list of values")
    elif kind == CONNECT:
        if data is not None and not isinstance(data, dict):
            raise ProtocolError("CONNECT whose data is no object")
    elif kind == DISCONNECT:
        if data is not None:
            raise ProtocolError("DISCONNECT with data")
    elif not isinstance(data, (str, dict)):
        raise ProtocolError("CONNECT_ERROR whose data is neither text nor an object")


def _fill(value: Any, attachments: list[bytes], depth: int = 0) -> Any:
    """`value` with each placeholder's attachment in its place. Raises RecursionError."""
    if depth > MAX_DEPTH:
        raise RecursionError(f"more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        if value.get("_placeholder") is True:
            number = value.get("num")
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(attachments):
                raise ProtocolError("placeholder of an attachment that there is not")
            return attachments[number]
        return {name: _fill(item, attachments, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, attachments, depth + 1) for item in value]
    return value


def encode(kind: int, namespace: str = "/", id: int | None = None, data: Any = None) -> tuple[bytes, list[bytes]]:
    """A packet as the text of an Engine.IO message, and its attachments. `data` may hold bytes where `kind` is EVENT or
    ACK, whose data is a list.

    Raises LocalError for data that can't be sent as JSON.
    """
    if kind in (EVENT, ACK):
        json, attachments = encode_args(data)
        return head(kind, namespace, id, len(attachments)) + json, attachments
    return head(kind, namespace, id, 0) + (b"" if data is None else to_json(data)), []


def to_json(data: Any) -> bytes:
    """`data` as JSON; raises LocalError where it can't be."""
    try:
        return _encode(data)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise LocalError(f"data that can't be sent as JSON: {error}") from None


_PLAIN: Final = frozenset((str, int, float, bool, type(None)))


def _is_plain(value: Any, depth: int) -> bool:
    """Whether there is surely no binary in it. Raises RecursionError."""
    if depth > MAX_DEPTH:
        raise RecursionError(f"more than {MAX_DEPTH} levels deep")
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is dict:
        value = value.values()
    elif kind is not list and kind is not tuple:
        return False
    for item in value:  # noqa: SIM110 # a generator costs more than all of this
        if type(item) not in _PLAIN and not _is_plain(item, depth + 1):
            return False
    return True


def _take_out(value: Any, attachments: list[bytes], depth: int) -> Any:
    """`value` with a placeholder for all that is binary in it. Raises RecursionError."""
    if depth > MAX_DEPTH:
        raise RecursionError(f"more than {MAX_DEPTH} levels deep")
    if isinstance(value, (bytes, bytearray, memoryview)):
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(value, dict):
        return {name: _take_out(item, attachments, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_take_out(item, attachments, depth + 1) for item in value]
    if type(value) in _PLAIN:
        return value
    try:
        built = msgspec.to_builtins(value, builtin_types=(bytes, bytearray, memoryview), str_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise LocalError(f"data that can't be sent as JSON: {error}") from None
    return value if isinstance(built, (str, int, float)) else _take_out(built, attachments, depth + 1)


def plain_json(args: Sequence[Any]) -> bytes | None:
    """What `encode_args` makes of them where there is surely no binary among them; None otherwise."""
    try:
        return to_json(args) if _is_plain(args, 0) else None
    except RecursionError:
        return None


def encode_args(args: Sequence[Any]) -> tuple[bytes, list[bytes]]:
    """An event's name and arguments, or an acknowledgement's values, as JSON, and the attachments."""
    attachments: list[bytes] = []
    try:
        if not _is_plain(args, 0):
            args = _take_out(list(args), attachments, 0)
    except RecursionError as error:
        raise LocalError(f"data that can't be sent as JSON: {error}") from None
    return to_json(args), attachments


def decode_args(json: bytes, attachments: list[bytes]) -> Any:
    """What `encode_args` was given, as plain values."""
    args = _decode(json)
    return _fill(args, attachments) if attachments else args


def head(kind: int, namespace: str, id: int | None, attachments: int) -> bytes:
    """What stands before the JSON of an EVENT or ACK."""
    if kind == EVENT and not attachments and id is None and namespace == "/":
        return b"2"
    text = f"{kind + 3}{attachments}-" if attachments else str(kind)
    if namespace != "/":
        text += namespace + ","
    if id is not None:
        text += str(id)
    return text.encode()
