"""One packet on its way out, encoded once for each form that its recipients need: no connection, no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from portico.wire.deflate import Codec, deflate
from portico.wire.engineio import encode_binary
from portico.wire.frames import BINARY, FIN, RSV1, TEXT, encode_frame

OBJECT_BYTES = 128  # what one weighs besides its bytes


class EventFrame(bytes):
    """Frames of an event in an outbox: unlike others, they may be dropped."""

    __slots__ = ()


class KeyedFrame(EventFrame):
    """The same of an event that a later one with the same key replaces."""

    key: str


class Outgoing:
    """An Engine.IO packet and the attachments that follow it.

    - ``text``: the packet with its type; empty where binary alone is sent. ``size``: about what it weighs, in bytes.
    - ``messages``: how many it takes on a WebSocket.
    - ``droppable``: an event, which a slow recipient may lose where the policy says so.
    - ``key``: of an event that replaces the one before it with the same key, where the recipient has not got that.
    - ``offset``: its place in the history, 0 where it has none.
    """

    __slots__ = (
        *("_frames", "_packed", "_payload"),
        *("attachments", "droppable", "key", "messages", "offset", "size", "text"),
    )

    def __init__(
        self,
        text: bytes,
        attachments: Sequence[bytes] = (),
        *,
        droppable: bool = False,
        key: str | None = None,
        offset: int = 0,
    ) -> None:
        self.text = text
        self.attachments = attachments
        self.droppable = droppable
        self.key = key
        self.offset = offset
        self.messages = (1 if text else 0) + len(attachments)
        self.size = OBJECT_BYTES + len(text) + (sum(map(len, attachments)) if attachments else 0)
        self._frames: bytes | None = None
        self._payload: bytes | None = None
        self._packed: dict[tuple[int, int, int], bytes] | None = None

    def framed(self) -> bytes:
        """Its WebSocket frames, joined, so that nothing comes between them."""
        frames = self._frames
        if frames is None:
            frames = encode_frame(FIN | TEXT, self.text) if self.text else b""
            for data in self.attachments:
                frames += encode_frame(FIN | BINARY, data)
            frames = self._frames = self._marked(frames)
        return frames

    def packed(self, codec: Codec) -> bytes:
        """The same compressed as `codec`, which takes no context over, would: once for all with its parameters."""
        if len(self.text) < codec.threshold and not any(len(data) >= codec.threshold for data in self.attachments):
            return self.framed()
        parameters = codec.level, codec.write_bits, codec.memory_level
        if self._packed is None:
            self._packed = {}
        frames = self._packed.get(parameters)
        if frames is None:
            pieces = [(TEXT, self.text)] if self.text else []
            pieces += [(BINARY, data) for data in self.attachments]
            joined = b"".join(_frame(opcode, data, codec.threshold, *parameters) for opcode, data in pieces)
            frames = self._packed[parameters] = self._marked(joined)
        return frames

    @property
    def payload(self) -> bytes:
        """Its packets in a polling payload."""
        if not self.attachments:
            return self.text
        if self._payload is None:
            text = [self.text] if self.text else []
            self._payload = b"\x1e".join([*text, *map(encode_binary, self.attachments)])
        return self._payload

    def _marked(self, frames: bytes) -> bytes:
        if self.key is not None:
            keyed = KeyedFrame(frames)
            keyed.key = self.key
            return keyed
        return EventFrame(frames) if self.droppable else frames


def event(text: bytes) -> Outgoing:
    """``Outgoing(text, droppable=True)``: what most are, made at less cost."""
    out = Outgoing.__new__(Outgoing)
    out.text = text
    out.attachments = ()
    out.droppable = True
    out.key = None
    out.offset = 0
    out.messages = 1
    out.size = OBJECT_BYTES + len(text)
    out._frames = out._payload = out._packed = None
    return out


def _frame(opcode: int, data: bytes, threshold: int, level: int, bits: int, memory: int) -> bytes:
    if len(data) >= threshold and data:
        packed = deflate(data, level, bits, memory)
        if len(packed) < len(data):
            return encode_frame(FIN | RSV1 | opcode, packed)
    return encode_frame(FIN | opcode, data)


PING = Outgoing(b"2")
NOOP = Outgoing(b"6")
CLOSE = Outgoing(b"1")
PROBE_PONG = Outgoing(b"3probe")
