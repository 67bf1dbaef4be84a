"""Rooms: a set of connections, and one message to all of them.

A broadcast is framed, and compressed, once; each recipient only gets a reference to it in its outbox. No task for a
recipient, and nobody waits for a slow one: what happens to those is the room's policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from portico.errors import LocalError
from portico.websocket.websocket import WebSocket
from portico.wire.deflate import Codec, deflate
from portico.wire.frames import encode_frame, encode_masked_frame
from portico.wire.masking import fresh_key

Policy = Literal["close", "drop_oldest", "drop_newest", "latest"]

CLOSE = 0
DROP_OLDEST = 1
DROP_NEWEST = 2
LATEST = 3

POLICIES = {"close": CLOSE, "drop_oldest": DROP_OLDEST, "drop_newest": DROP_NEWEST, "latest": LATEST}


class Broadcast(bytes):
    """A room's frame in an outbox: unlike others, it may be dropped."""

    __slots__ = ()


class Masked(Broadcast):
    """The same for one connection where we are the client: every frame is masked with its own key (RFC 6455 §5.3)."""

    room: Room


class Room:
    """A set of WebSocket connections. A connection leaves by itself when it ends.

    `on_slow` says what becomes of a message for a member whose outbox is full (``Limits.max_outbox_bytes``):

    - ``"close"`` (default): the member is closed with 1008.
    - ``"drop_oldest"``: older broadcasts that it has not got yet make room; direct sends are never dropped.
    - ``"drop_newest"``: it doesn't get this message.
    - ``"latest"``: as soon as it is slow at all, a new message takes the place of the room's last one that it has not
      got yet: it sees the newest value and never a queue of old ones.
    """

    __slots__ = ("__weakref__", "_last", "_members", "_policy", "dropped")

    def __init__(self, on_slow: Policy = "close") -> None:
        if on_slow not in POLICIES:
            raise LocalError(f"Room(on_slow={on_slow!r}): expected one of {', '.join(map(repr, POLICIES))}")
        self._policy: int = POLICIES[on_slow]
        self._members: set[WebSocket] = set()
        self._last: tuple[bytes, ...] = ()  # of "latest": the frames of the last message
        self.dropped = 0  # messages that members did not get

    def add(self, ws: WebSocket) -> None:
        """Let `ws` get what is sent from now on; nothing where it is closed or a member already."""
        if ws.closed is not None:
            return
        self._members.add(ws)
        if ws.rooms is None:
            ws.rooms = set()
        ws.rooms.add(self)

    def discard(self, ws: WebSocket) -> None:
        """Let `ws` get no more; nothing where it is no member."""
        self._members.discard(ws)
        if ws.rooms is not None:
            ws.rooms.discard(self)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, ws: object) -> bool:
        return ws in self._members

    def __iter__(self) -> Iterator[WebSocket]:
        return iter(list(self._members))

    def send(self, message: str | bytes | bytearray | memoryview) -> int:
        """Send a message to every member, without waiting; returns how many took it.

        From the event loop's thread only. Raises LocalError for a message that is neither text nor bytes.
        """
        opcode, payload = _payload(message)
        policy = self._policy
        frame = encode_frame(0x80 | opcode, payload)
        if policy in (DROP_OLDEST, LATEST):
            frame = Broadcast(frame)
        size = len(frame)
        packed: dict[object, bytes] | None = None
        slow: list[WebSocket] | None = None
        taken = 0
        for ws in self._members:
            if not ws.sending:
                continue
            wire = ws.wire
            stream = ws.stream
            if (
                wire.client
                or (stream.buffered > stream.high_water and stream.buffered + size > ws.settings.max_outbox)
                or (policy == LATEST and stream.blocked)
            ):
                if slow is None:
                    slow = []
                slow.append(ws)
                continue
            if wire.codec is not None and len(payload) >= wire.codec.threshold and not wire.codec.keep_writing:
                if packed is None:
                    packed = {}
                stream.write(self._packed(wire.codec, opcode, payload, frame, packed))
            else:
                stream.write(frame)
            wire.sent += 1
            taken += 1
        if slow is not None:
            for ws in slow:
                if self._send_slow(ws, opcode, payload, frame):
                    ws.wire.sent += 1
                    taken += 1
        if policy == LATEST:
            self._last = (frame, *packed.values()) if packed is not None else (frame,)
        return taken

    def _packed(self, codec: object, opcode: int, payload: bytes, frame: bytes, made: dict[object, bytes]) -> bytes:
        """The frame compressed as `codec` would, made once for all that have the same parameters."""
        level, bits, memory = codec.level, codec.write_bits, codec.memory_level  # type: ignore[attr-defined]
        key = level, bits, memory
        entry = made.get(key)
        if entry is None:
            data = deflate(payload, level, bits, memory)
            entry = frame
            if len(data) < len(payload):
                entry = encode_frame(0xC0 | opcode, data)
                if type(frame) is Broadcast:
                    entry = Broadcast(entry)
            made[key] = entry
        return entry

    def _send_slow(self, ws: WebSocket, opcode: int, payload: bytes, frame: bytes) -> bool:
        """Send to a member that needs more than a place in its outbox; returns whether it takes the message."""
        stream = ws.stream
        policy = self._policy
        if not stream.blocked:
            stream.flush_within()  # it may be only we who have not written yet
            if not ws.sending:
                return False
        if ws.client:
            frame = self._masked(ws.wire.codec, opcode, payload)
        missing = stream.buffered + len(frame) - ws.settings.max_outbox
        full = missing > 0 and stream.buffered > stream.high_water
        if policy == LATEST and (full or stream.blocked) and stream.replace(frame, self._is_ours):
            self.dropped += 1
            return True
        if not full:
            stream.write(frame)
            return True
        if policy == DROP_OLDEST:
            dropped = stream.drop_oldest(Broadcast, missing)
            if dropped:
                self.dropped += dropped
                stream.write(frame)
                return True
        self.dropped += 1
        if policy == CLOSE:
            ws.too_slow()
        return False

    def _masked(self, codec: Codec | None, opcode: int, payload: bytes) -> bytes:
        first = 0x80 | opcode
        if codec is not None and not codec.keep_writing:
            packed = codec.compress(payload)
            if packed is not None:
                first, payload = 0xC0 | opcode, packed
        frame = encode_masked_frame(first, payload, fresh_key())
        if self._policy not in (DROP_OLDEST, LATEST):
            return frame
        entry = Masked(frame)
        entry.room = self
        return entry

    def _is_ours(self, entry: bytes) -> bool:
        if type(entry) is Masked:
            return entry.room is self
        return any(entry is last for last in self._last)


def _payload(message: object) -> tuple[int, bytes]:
    if isinstance(message, str):
        try:
            return 1, message.encode()
        except UnicodeEncodeError as error:
            raise LocalError(f"text that can't be sent as UTF-8: {error.reason} at {error.start}") from None
    if isinstance(message, (bytes, bytearray, memoryview)):
        return 2, bytes(message)
    raise LocalError(f"message of type {type(message).__name__}: expected str, bytes, bytearray or memoryview")
