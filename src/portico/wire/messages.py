"""Messages (RFC 6455 §5.4-§7): one end of a WebSocket connection after its handshake, sans I/O, both roles.

Bytes go in by `feed`, events come out as a list: a whole message is a plain `str` or `bytes`, everything else is a
`Ping`, `Pong`, `Closing` or `Failed`. Whatever is to be sent comes back as bytes from the other methods. Nothing here
waits, logs or knows the time. Torn at any byte, the same bytes give the same events.

::

    state             we send Close     Close comes         a rule is broken
    OPEN              CLOSE_SENT        CLOSE_RECEIVED      FAILED
    CLOSE_SENT        -                 CLOSED              FAILED
    CLOSE_RECEIVED    CLOSED            (not read)          -
    CLOSED, FAILED    -                 (not read)          -
"""

from __future__ import annotations

from typing import Final

from portico.errors import LimitExceeded, LocalError, ProtocolError
from portico.limits import Limits
from portico.wire.deflate import Codec
from portico.wire.frames import (
    BINARY_HEADERS,
    TEXT_HEADERS,
    close_payload,
    encode_frame,
    encode_masked_frame,
    parse_close,
)
from portico.wire.masking import apply_mask, fresh_key
from portico.wire.states import CLOSE_RECEIVED, CLOSE_SENT, CLOSED, FAILED, OPEN
from portico.wire.utf8 import check_piece

SCAN_BYTES: Final = 64 * 1024
EVENT_BYTES: Final = 64  # what an event weighs besides its bytes


class Ping:
    """A ping came: answer the latest of several with `Messages.pong` (RFC 6455 §5.5.2)."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class Pong:
    """A pong came (RFC 6455 §5.5.3)."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class Closing:
    """A close frame came (RFC 6455 §5.5.1): if none was sent before, answer with `Messages.close_answer`.

    The server closes TCP when both frames have been sent; the client waits for it (§7.1.1). ``code`` is 1005 where
    the frame had none.
    """

    __slots__ = ("code", "reason")

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason


class Failed:
    """The peer broke a rule or a limit: send `Messages.close` with ``code`` and end TCP (RFC 6455 §7.1.7).

    ``cause`` is the ProtocolError, a LimitExceeded where it was a limit.
    """

    __slots__ = ("cause", "code", "reason")

    def __init__(self, cause: ProtocolError) -> None:
        self.cause = cause
        self.code = cause.close_code
        self.reason = str(cause)


class Messages:
    """The protocol state of one end. `client` tells which; `codec` is the agreed compression, if any; `received` and
    `sent` count messages. `max_message` is the limit on one, in bytes, from its next frame on."""

    __slots__ = (
        "_assembly",
        "_close_sent",
        "_fragments",
        "_header",
        "_in_frame",
        "_key",
        "_last",
        "_max_fragments",
        "_opcode",
        "_packed",
        "_packed_size",
        "_phase",
        "_produced",
        "_remaining",
        "_rest",
        "_utf8",
        "client",
        "codec",
        "max_message",
        "received",
        "sent",
        "state",
    )

    def __init__(self, limits: Limits, codec: Codec | None = None, *, client: bool = False) -> None:
        self.client = client
        self.codec = codec
        self.state = OPEN
        self.received = 0
        self.sent = 0
        self.max_message = limits.max_message_bytes
        self._max_fragments = limits.max_fragments
        self._close_sent = False
        self._header: bytes | None = None  # the start of a header, or of a control frame, whose rest has not come
        self._rest: bytes | None = None  # came, and not scanned yet
        self._produced = 0  # what the events of this scan weigh
        self._in_frame = False  # within a data frame whose payload has not come whole
        self._remaining = 0  # bytes of that payload still to come
        self._last = False  # that frame has FIN
        self._key = 0
        self._phase = 0
        self._opcode = 0  # of the message under assembly; 0 when there is none
        self._packed = False  # that message is compressed
        self._packed_size = 0  # its bytes before inflation
        self._fragments = 0
        self._assembly: bytearray | None = None
        self._utf8 = b""  # the unfinished code point at the end of the assembly

    # -- in ------------------------------------------------------------------------------------------------------

    def assembling(self) -> bool:
        """Whether a message has begun and not ended: its assembly deadline runs."""
        return self._opcode != 0 or self._header is not None

    def held(self) -> int:
        """The bytes held for a message, or a frame's header, whose end has not come."""
        size = 0 if self._assembly is None else len(self._assembly)
        if self._rest is not None:
            size += len(self._rest)
        return size if self._header is None else size + len(self._header)

    def pending(self) -> bool:
        """Whether `scan` has stopped before the end of what came."""
        return self._rest is not None

    def feed(self, data: bytes | bytearray | memoryview) -> list[object]:
        """The events that `data` completes. After a `Closing` or `Failed` nothing more is read."""
        buffer = data if isinstance(data, bytearray) else bytearray(data)
        events = self.scan(buffer, len(buffer))
        while self._rest is not None:
            events += self.scan(bytearray(), 0)
        return events

    def feed_eof(self) -> list[object]:
        """TCP ended. A `Failed` with code 1006 where no close frame had come (RFC 6455 §7.1.5); nothing otherwise."""
        if self.state != OPEN and self.state != CLOSE_SENT:
            if self.state == CLOSE_RECEIVED:
                self.state = FAILED
            return []
        self.state = FAILED
        self._forget()
        return [Failed(ProtocolError("connection ended without a close frame", close_code=1006))]

    def scan(self, data: bytearray, end: int) -> list[object]:
        """`feed` of ``data[:end]`` without a copy; `data` is the caller's again afterwards.

        It stops after the message that brings its events over 64 KiB, and keeps the rest: while `pending`, the caller
        deals with what it got and calls again, with ``(bytearray(), 0)`` where nothing more has come.
        """
        events: list[object] = []
        at = 0
        if self.state != OPEN and self.state != CLOSE_SENT:
            return events
        self._produced = 0
        if self._rest is not None:
            data = bytearray(self._rest) + memoryview(data)[:end]
            end = len(data)
            self._rest = None
        elif self._header is not None:
            data = bytearray(self._header) + memoryview(data)[:end]
            end = len(data)
            self._header = None
        try:
            while at < end:
                if self._in_frame:
                    at = self._payload(data, at, end, events)
                else:
                    at = self._frame(data, at, end, events)
                    if at < 0:  # what is left has been kept in _header
                        break
                if self.state != OPEN and self.state != CLOSE_SENT:
                    break
                if self._produced > SCAN_BYTES and at < end:
                    self._rest = bytes(memoryview(data)[at:end])
                    break
        except ProtocolError as error:
            self._fail(error, events)
        return events

    def _frame(self, data: bytearray, at: int, end: int, events: list[object]) -> int:
        """Read a frame's header, and its payload if that is whole; returns where the next one starts, -1 at the end."""
        available = end - at
        first = data[at]
        opcode = first & 15
        if first & 0x70:
            self._check_rsv(first)
        if opcode > 2:
            if opcode < 8 or opcode > 10:
                raise ProtocolError(f"reserved opcode {opcode}")
            if first < 128:
                raise ProtocolError("fragmented control frame")
        elif opcode:
            if self._opcode:
                raise ProtocolError("new message before the end of the one before it")
        elif not self._opcode:
            raise ProtocolError("continuation of no message")
        if available < 2:
            return self._keep(data, at, end)
        second = data[at + 1]
        length = second & 127
        if (second < 128) != self.client:
            raise ProtocolError("masked frame from a server" if self.client else "unmasked frame from a client")
        start = at + 2 if self.client else at + 6
        if length > 125:
            if opcode > 7:
                raise ProtocolError("control frame over 125 bytes")
            size = 2 if length == 126 else 8
            start += size
            if available < 2 + size:
                return self._keep(data, at, end)
            length = self._long_length(data, at + 2, size)
        if opcode < 8:
            self._check_size(opcode, first, length)
        if start > end:
            return self._keep(data, at, end)
        key = 0
        if not self.client:
            key = data[start - 4] << 24 | data[start - 3] << 16 | data[start - 2] << 8 | data[start - 1]
        stop = start + length
        if opcode > 7:
            if stop > end:
                return self._keep(data, at, end)
            self._control(opcode, apply_mask(data, start, stop, key, 0), events)
            return stop
        if first < 128 or stop > end or not opcode or first & 0x40:
            self._begin(first, length, key)
            return self._payload(data, start, end, events)
        payload = apply_mask(data, start, stop, key, 0)
        self._produced += length + EVENT_BYTES
        self.received += 1
        if opcode == 1:
            try:
                text = payload.decode("utf-8")
                events.append(text)
                if length < SCAN_BYTES and not text.isascii():
                    self._produced += 3 * length  # in memory its characters may take 4 bytes each
            except UnicodeDecodeError:
                raise ProtocolError("text message is not UTF-8", close_code=1007) from None
        else:
            events.append(payload)
        return stop

    def _keep(self, data: bytearray, at: int, end: int) -> int:
        self._header = bytes(memoryview(data)[at:end])
        return -1

    def _check_rsv(self, first: int) -> None:
        if first & 0x30 or self.codec is None:
            raise ProtocolError("reserved bit set, and no extension was agreed that uses it")
        if not 1 <= first & 15 <= 2:
            raise ProtocolError("RSV1 set on a frame that does not begin a message")

    def _long_length(self, data: bytearray, at: int, size: int) -> int:
        """A length in 2 or 8 bytes (RFC 6455 §5.2): the shortest form, and at most 63 bits."""
        length = int.from_bytes(memoryview(data)[at : at + size], "big")
        if length > 0x7FFFFFFFFFFFFFFF:
            raise ProtocolError("frame length with its highest bit set")
        if length < (126 if size == 2 else 65536):
            raise ProtocolError("frame length not in its shortest form")
        return length

    def _check_size(self, opcode: int, first: int, length: int) -> None:
        """Hold a data frame to the limits before any of its payload is taken."""
        limit = self.max_message
        packed = (first & 0x40) != 0
        if not opcode:
            if self._fragments >= self._max_fragments:
                reason = f"message of more than {self._max_fragments} fragments"
                raise LimitExceeded(reason, limit="max_fragments", close_code=1008)
            packed = self._packed
            if packed:
                limit -= self._packed_size
            elif self._assembly is not None:
                limit -= len(self._assembly)
        if packed:  # stored blocks make incompressible data a little longer
            limit += (self.max_message >> 6) + 64
        if length > limit:  # never their sum: 63 bits can't hold it
            raise LimitExceeded(f"message larger than {self.max_message} bytes", limit="max_message_bytes")

    def _begin(self, first: int, length: int, key: int) -> None:
        """Enter a data frame whose payload is taken in pieces."""
        opcode = first & 15
        self._in_frame = True
        self._remaining = length
        self._last = first >= 128
        self._key = key
        self._phase = 0
        if opcode:
            self._opcode = opcode
            self._fragments = 1
            self._packed = (first & 0x40) != 0
            self._packed_size = 0
            self._assembly = bytearray()
            if self._packed and self.codec is not None:
                self.codec.start()
        else:
            self._fragments += 1

    def _payload(self, data: bytearray, at: int, end: int, events: list[object]) -> int:
        """Take what has come of a data frame's payload; at its end, perhaps, complete the message."""
        take = end - at
        if take > self._remaining:
            take = self._remaining
        if take:
            self._remaining -= take
            self._append(apply_mask(data, at, at + take, self._key, self._phase))
            self._phase = (self._phase + take) & 3
        if not self._remaining:
            self._in_frame = False
            if self._last:
                self._complete(events)
        return at + take

    def _append(self, piece: bytes) -> None:
        assembly = self._assembly
        if assembly is None:
            return
        if self._packed and self.codec is not None:
            self._packed_size += len(piece)
            piece = self.codec.inflate(piece, self.max_message - len(assembly))
        self._add(assembly, piece)
        if self._packed:
            self._check_inflated()

    def _add(self, assembly: bytearray, piece: bytes) -> None:
        if self._opcode == 1:
            self._check_text(piece)
        if len(assembly) + len(piece) > self.max_message:
            raise LimitExceeded(f"message larger than {self.max_message} bytes", limit="max_message_bytes")
        assembly += piece

    def _check_inflated(self) -> None:
        if self.codec is not None and self.codec.error:
            raise ProtocolError(self.codec.error, close_code=1007)

    def _check_text(self, piece: bytes) -> None:
        try:
            self._utf8 = check_piece(self._utf8, piece)
        except UnicodeDecodeError:
            raise ProtocolError("text message is not UTF-8", close_code=1007) from None

    def _complete(self, events: list[object]) -> None:
        assembly = self._assembly
        if assembly is None:
            return
        if self._packed_size and self.codec is not None:  # without any data the tail would be no block
            self._add(assembly, self.codec.finish(self.max_message - len(assembly)))
            self._check_inflated()
        if self._utf8:  # it ends within a code point
            raise ProtocolError("text message is not UTF-8", close_code=1007)
        self._produced += len(assembly) + EVENT_BYTES
        self.received += 1
        if self._opcode == 1:
            text = assembly.decode("utf-8")
            events.append(text)
            if len(text) < SCAN_BYTES and not text.isascii():
                self._produced += 3 * len(assembly)
        else:
            events.append(bytes(assembly))
        self._assembly = None
        self._opcode = 0

    def _control(self, opcode: int, payload: bytes, events: list[object]) -> None:
        self._produced += EVENT_BYTES
        if opcode == 9:
            events.append(Ping(payload))
        elif opcode == 10:
            events.append(Pong(payload))
        else:
            code, reason = parse_close(payload)
            self.state = CLOSED if self.state == CLOSE_SENT else CLOSE_RECEIVED
            self._forget()
            events.append(Closing(code, reason))

    def _fail(self, error: ProtocolError, events: list[object]) -> None:
        self.state = FAILED
        self._forget()
        events.append(Failed(error.with_traceback(None)))  # its frames would hold what was under assembly

    def _forget(self) -> None:
        """Let go of what was under assembly: nothing more will be read."""
        self._header = None
        self._rest = None
        self._assembly = None
        self._in_frame = False
        self._opcode = 0
        self._utf8 = b""

    # -- out -----------------------------------------------------------------------------------------------------

    def encode(self, message: object) -> bytes:
        """The frame of a whole message: text for a str, binary for anything that has bytes.

        Raises LocalError for another type, for a str that UTF-8 can't hold (a lone surrogate), and after `close`: no
        data follows a close frame (RFC 6455 §5.5.1).
        """
        if self._close_sent:
            raise LocalError("message after the close frame")
        if isinstance(message, str):
            try:
                payload = message.encode("utf-8")
            except UnicodeEncodeError as error:
                raise LocalError(f"text that can't be sent as UTF-8: {error.reason} at {error.start}") from None
            opcode = 1
        elif type(message) is bytes:
            payload = message
            opcode = 2
        elif isinstance(message, (bytes, bytearray, memoryview)):
            payload = bytes(message)
            opcode = 2
        else:
            raise LocalError(f"message of type {type(message).__name__}: expected str, bytes, bytearray or memoryview")
        size = len(payload)
        self.sent += 1
        if self.codec is not None and size >= self.codec.threshold:
            packed = self.codec.compress(payload)
            if packed is not None:
                return self._frame_out(0xC0 | opcode, packed)
        if size < 126 and not self.client:
            if opcode == 1:
                return TEXT_HEADERS[size] + payload
            return BINARY_HEADERS[size] + payload
        return self._frame_out(0x80 | opcode, payload)

    def ping(self, payload: bytes = b"") -> bytes:
        """A ping frame; at most 125 bytes of payload."""
        return self._control_out(0x89, payload)

    def pong(self, payload: bytes = b"") -> bytes:
        """A pong frame: the answer to a ping, with the ping's payload (RFC 6455 §5.5.3)."""
        return self._control_out(0x8A, payload)

    def close(self, code: int = 1000, reason: str = "") -> bytes:
        """A close frame; nothing may be sent after it. b"" where one has been sent already."""
        if self._close_sent:
            return b""
        payload = close_payload(code, reason)
        self._close_sent = True
        if self.state == OPEN:
            self.state = CLOSE_SENT
        elif self.state == CLOSE_RECEIVED:
            self.state = CLOSED
        return self._frame_out(0x88, payload)

    def close_answer(self, code: int) -> bytes:
        """The answer to the peer's close frame: its own code (RFC 6455 §5.5.1). b"" where ours was sent before."""
        if self.state != CLOSE_RECEIVED:
            return b""
        return self.close(code)

    def _control_out(self, first: int, payload: bytes) -> bytes:
        if len(payload) > 125:
            raise LocalError(f"control frame with {len(payload)} bytes of payload: expected at most 125")
        return self._frame_out(first, payload)

    def _frame_out(self, first: int, payload: bytes) -> bytes:
        if self.client:
            return encode_masked_frame(first, payload, fresh_key())
        return encode_frame(first, payload)
