"""One connected socket: reading through the reactor's shared buffer, writing from a bounded outbox.

A stream owns its socket and ends exactly once: `lost` tells its protocol, with the cause, whatever ended it. Its
protocol can be swapped while it lives; that is how one connection, and no other, switches from HTTP to WebSocket.
An idle stream holds no buffer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from functools import partial
from typing import Any, Final

from portico.net import calls
from portico.net.reactor import ERROR, READ, WRITE, Reactor, Source

OPEN: Final = 0
FINISHING: Final = 1  # what is in the outbox is still written, nothing more is taken
LINGERING: Final = 2  # all is written and our side shut; reading until the peer's end
BROKEN: Final = 3  # writing has failed; what the peer said last is read in a turn of its own
GONE: Final = 4

MAX_WRITE_BYTES: Final = 256 * 1024
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends RST
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 64 * 1024 * 1024  # proxies and simple clients read an answer after all they have to send
FINISH_BYTES: Final = 4096  # less than this in a stretch of the time to finish is no progress
SHORT_BYTES: Final = 4096  # a second write in the same turn may follow
SMALL_ENTRY: Final = 512  # the object around it weighs more than many a message: these are put together
ENTRY_BYTES: Final = 16384
LAST_READS: Final = 16  # of a stream that can't be written any more


class Protocol:
    """What a stream feeds. Every method is called by the stream alone, and none after `lost`."""

    __slots__ = ()

    def connected(self) -> None:
        """The stream carries data from now on: at once on TCP, after the handshake on TLS."""

    def received(self, data: bytearray, size: int) -> None:
        """``data[:size]`` came; the buffer is the reactor's again when this returns."""
        raise NotImplementedError

    def eof(self) -> None:
        """The peer has shut its side."""
        raise NotImplementedError

    def broken(self) -> None:
        """Writing has failed within a callback; what the peer said last, and `lost`, come in a turn of their own."""

    def drained(self) -> None:
        """The outbox, which was above `Stream.high_water`, is at half of it or below."""

    def resumed(self) -> None:
        """Reading goes on, after a pause: what this protocol has held back itself may, too."""

    def expired(self, now: float) -> None:
        """The stream's deadline is over."""

    def failed(self, error: Exception) -> None:
        """A method of this protocol raised `error`; the stream is about to be aborted with it."""

    def lost(self, cause: BaseException | None) -> None:
        """The socket is closed; called once. `cause` is None after an orderly end."""
        raise NotImplementedError


class Nobody(Protocol):
    """Holds a stream's place for a protocol until its own is made."""

    __slots__ = ()

    def received(self, data: bytearray, size: int) -> None:
        pass

    def eof(self) -> None:
        pass

    def lost(self, cause: BaseException | None) -> None:
        pass


NOBODY: Final = Nobody()


class Stream(Source):
    """One TCP (or Unix) connection. Reading starts at once."""

    __slots__ = (
        "_blocked",
        "_eof",
        "_finish_mark",
        "_finish_timeout",
        "_interest",
        "_linger",
        "_out",
        "_state",
        "_told",
        "buffered",
        "bytes_in",
        "bytes_out",
        "high_water",
        "last_read",
        "listener",
        "opened",
        "peer",
        "protocol",
        "reactor",
        "sock",
    )

    def __init__(
        self, reactor: Reactor, sock: socket.socket, protocol: Protocol, peer: Any, high_water: int, listener: Any
    ) -> None:
        super().__init__()
        self.reactor = reactor
        self.sock = sock
        self.protocol = protocol
        self.peer = peer  # the peer's address, as accept() or connect() gave it
        self.high_water = high_water
        self.buffered = 0  # bytes in the outbox
        self.bytes_in = 0
        self.bytes_out = 0
        self.last_read = self.opened = reactor.now
        self.listener = listener  # its `ended(stream)` is called once, when this stream has ended
        # Bytes-like, or a list of such; of a blocked socket, the first one is begun. One alone, as most are, is in no
        # list: for a thousand of those, in a broadcast, Python's garbage collector would look at everything.
        self._out: Any = None
        self._state = OPEN
        self._blocked = False  # the socket takes no more for now; its being writable is waited for
        self._told = False  # the outbox went above high_water and drained() is due
        self._eof = False  # the peer has shut its side
        self._linger = False
        self._finish_timeout = 0.0
        self._finish_mark = 0  # FINISHING: what was written when last looked at; LINGERING: what may be read
        self._interest = READ
        reactor.add(self, sock.fileno(), READ)

    # -- facts ---------------------------------------------------------------------------------------------------

    @property
    def tls(self) -> bool:
        """Whether this stream is under TLS."""
        return False

    @property
    def open(self) -> bool:
        """Whether `write` still takes data."""
        return self._state == OPEN

    def is_open(self) -> bool:
        """`open`, for those who ask often."""
        return self._state == OPEN

    @property
    def gone(self) -> bool:
        """Whether the socket is closed."""
        return self._state == GONE

    @property
    def blocked(self) -> bool:
        """Whether the peer (or the network) takes no more for now."""
        return self._blocked

    @property
    def state(self) -> str:
        """One of "open", "finishing", "lingering", "broken" and "gone"."""
        return ("open", "finishing", "lingering", "broken", "gone")[self._state]

    @property
    def paused(self) -> bool:
        """Whether reading is paused."""
        return not self._interest & READ

    @property
    def local(self) -> Any:
        """Our own address, as getsockname() gives it; None where the socket is gone."""
        return None if self._state == GONE else self.sock.getsockname()

    # -- reading -------------------------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        if events & WRITE:
            self._blocked = False
            self._set_interest(self._interest & ~WRITE)
            self.flush()
        if self._state >= BROKEN:
            return
        if events & READ or (events & ERROR and not events & WRITE):
            if self._interest & READ:
                self._read()
            elif events & ERROR:
                self._hung_up()

    def _read(self) -> None:
        reactor = self.reactor
        buffer = reactor.buffer
        try:
            size = calls.receive(self.sock, self.fd, buffer)
        except OSError as error:
            self._end(error.with_traceback(None))  # who keeps the cause keeps no frames
            return
        if size >= 0:
            self._take(buffer, size)

    def _take(self, buffer: bytearray, size: int) -> None:
        """Hand on what was read; 0 is the peer's end."""
        reactor = self.reactor
        self.last_read = reactor.turn_time if reactor.in_turn else reactor.now
        self.bytes_in += size
        if not size:
            self._eof = True
            self._set_interest(self._interest & ~READ)  # an end stays readable for ever
        if self._state == OPEN:
            protocol = self.protocol  # which may be swapped by what it does, and has to live until that returns
            if size:
                protocol.received(buffer, size)
            else:
                protocol.eof()
        elif self._state == LINGERING and (not size or self.bytes_in > self._finish_mark):
            self._end(None)

    def _hung_up(self) -> None:
        """The connection is over in both directions, and reading is paused."""
        number = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number or self._eof or self._interest:
            number = number or errno.ECONNRESET
            self._end(OSError(number, os.strerror(number)))
        # else the peer ended in good order: what it said before is read after `resume`, or by `peek`

    def peek(self) -> None:
        """Read once although reading is paused."""
        if self._state == OPEN and not self._eof:
            self._read()

    def pause(self) -> None:
        """Read no more until `resume`: the kernel's buffers fill, and the peer has to wait."""
        self._set_interest(self._interest & ~READ)

    def resume(self) -> None:
        """Read on after `pause`."""
        if not self._eof and not self._interest & READ and self._state != GONE:
            self._set_interest(self._interest | READ)
            protocol = self.protocol
            protocol.resumed()

    def _set_interest(self, interest: int) -> None:
        if interest != self._interest and self._state != GONE:
            self._interest = interest
            self.reactor.change(self, interest)

    # -- writing -------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Put `data` into the outbox; it is written at the end of this turn. Nothing where `open` is False."""
        if self._state != OPEN or not data:
            return
        if self._out is None:
            self._out = data
        else:
            self._append(data)
        self.buffered += len(data)
        if self.buffered > self.high_water:
            self._told = True
        if not self._blocked and not self.in_dirty:
            self.reactor.mark(self)

    def _append(self, data: bytes) -> None:
        out = self._entries()
        if self._blocked and len(data) < SMALL_ENTRY and type(data) is bytes:
            last = out[-1]
            if type(last) is bytearray and len(last) < ENTRY_BYTES:
                last += data
            else:
                out.append(bytearray(data))
        else:
            out.append(data)

    def _entries(self) -> list[Any]:
        """The outbox, as a list that may be changed."""
        out = self._out
        if type(out) is not list:
            out = self._out = [] if out is None else [out]
        return out

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """Write up to `count` bytes of a file from `offset` on, within the kernel (os.sendfile); not under TLS.

        Returns how many went. 0 with `blocked`, or with an outbox that is not empty: `drained` is called when there is
        room; 0 otherwise: the file has ended, or this stream has, which `open` tells.
        """
        if self._out is not None and not self._blocked:
            self.flush_within()
        if self._state != OPEN:
            return 0
        if self._out is not None or self._blocked:
            self._told = True
            return 0
        try:
            sent = os.sendfile(self.sock.fileno(), fd, offset, count)
        except (BlockingIOError, InterruptedError):
            sent = -1
        except OSError as error:
            self._break(error.with_traceback(None))
            return 0
        if sent:
            self.bytes_out += max(sent, 0)
            if sent < count:
                self._blocked = self._told = True
                self._wait_writable()
        return max(sent, 0)

    def flush(self) -> None:
        """Write what the socket takes of the outbox, with one call or two. For the reactor: it may end the stream."""
        error = self._flush()
        if error is not None:
            self._end_broken(error)

    def flush_within(self) -> None:
        """`flush` for a callback. Where that fails, `open` is False, and the end comes in a turn of its own: no other
        callback is called within this one."""
        error = self._flush()
        if error is not None:
            self._break(error)

    def _break(self, error: OSError) -> None:
        state, self._state = self._state, BROKEN
        self.protocol.broken()
        self.reactor.soon(self, partial(self._end_broken, error, state))

    def _flush(self) -> OSError | None:
        if self._blocked:
            return None
        if self._out is None:
            if self._told:  # a file was being sent
                self._told = False
                self.protocol.drained()
            return None
        while True:
            data = self._out
            more = False
            if type(data) is list:
                count = len(data)
                data, taken = self._join(data)
                more = taken < count
            size = len(data)
            try:
                sent = self._send(data)
            except OSError as error:
                self._out = None
                self.buffered = 0
                return error.with_traceback(None)
            self.bytes_out += sent
            self.buffered -= sent
            if sent == size and not more:
                self._out = None
                break
            self._cut(self._entries(), sent)
            if sent < size or size > SHORT_BYTES:  # else it was a head, and what follows is too long to be joined to it
                self._blocked = True
                self._wait_writable()
                break
        if self._told and self.buffered <= self.high_water >> 1:
            self._told = False
            protocol = self.protocol
            protocol.drained()
        if self._out is None and self._state == FINISHING:
            self._shut()
        return None

    def _end_broken(self, error: OSError, state: int = BROKEN) -> None:
        """Writing has failed. What the peer said before it left may be waiting to be read: its close frame, above all.
        `state` is what this stream was in before it was BROKEN."""
        if self._state == BROKEN:
            self._state = state
        for _ in range(LAST_READS):
            before = self.bytes_in
            if self._interest & READ and self._state != GONE:
                self._read()
            if self._state == GONE or self.bytes_in == before:
                break
        self._end(error)

    def _join(self, out: list[bytes]) -> tuple[bytes, int]:
        """As many entries of the outbox as make a reasonable write, as one, and how many those are."""
        if len(out) == 1:
            return out[0], 1
        if self.buffered <= MAX_WRITE_BYTES:
            return b"".join(out), len(out)
        total = 0
        for count, entry in enumerate(out):
            total += len(entry)
            if total > MAX_WRITE_BYTES:
                return (b"".join(out[:count]), count) if count else (entry, 1)
        return b"".join(out), len(out)

    def _send(self, data: bytes) -> int:
        return calls.send(self.sock, self.fd, data)

    def _cut(self, out: list[Any], sent: int) -> None:
        """Take the `sent` bytes that were written off the front of the outbox; the entries after them stay whole."""
        index = 0
        while sent and sent >= len(out[index]):
            sent -= len(out[index])
            index += 1
        del out[:index]
        if sent:
            entry = out[0]
            out[0] = entry[sent:] if len(entry) <= MAX_WRITE_BYTES else memoryview(entry)[sent:]

    def _wait_writable(self) -> None:
        self._set_interest(self._interest | WRITE)

    def drop_oldest(self, kind: type[bytes], needed: int) -> int:
        """Drop the oldest entries of class `kind` that make `needed` bytes of room, each whole and not begun.

        Returns how many; 0, with nothing dropped, where all of them together would not make that room.
        """
        if self._out is None:
            return 0
        found = []
        freed = 0
        out = self._entries()
        for index, entry in enumerate(out):
            if isinstance(entry, kind) and (index or not self._blocked):
                found.append(index)
                freed += len(entry)
                if freed >= needed:
                    break
        if freed < needed:
            return 0
        for index in reversed(found):
            del out[index]
        self.buffered -= freed
        return len(found)

    def drop_unsent(self) -> None:
        """Empty the outbox of everything not yet begun."""
        if self._out is not None:
            self._out = self._entries()[0] if self._blocked else None
            self.buffered = len(self._out) if self._blocked else 0

    def replace(self, entry: bytes, same: Any) -> bool:
        """Put `entry` in the place of the last one not yet begun for which ``same`` holds; False: there is none.

        An empty one only takes that out.
        """
        if self._out is None:
            return False
        out = self._entries()
        for index in range(len(out) - 1, 0 if self._blocked else -1, -1):
            if same(out[index]):
                self.buffered += len(entry) - len(out[index])
                if entry:
                    out[index] = entry
                else:
                    del out[index]
                if self.buffered > self.high_water:
                    self._told = True
                return True
        return False

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self, *, linger: bool = False, timeout_s: float = 5.0) -> None:
        """Write what is in the outbox and end TCP, our side first (RFC 6455 §7.1.1); give up when the peer takes
        hardly any of it for `timeout_s`.

        With `linger`, and where reading is paused, our side is shut and input is read and thrown away until the peer's
        end, for at most two seconds: closing with input unread makes the kernel send RST, and that can take our last
        words with it.
        """
        if self._state != OPEN:
            if self._state == BROKEN:
                self.pause()  # what the peer said last is not wanted any more
            return
        self._state = FINISHING
        self._linger = linger
        self._told = False
        self._finish_timeout = timeout_s
        self._finish_mark = self.bytes_out
        if self._out is None:
            self._shut()
        else:
            self.reactor.wheel.schedule(self, self.reactor.now + timeout_s)

    def abort(self, cause: BaseException | None = None, reset: bool = False) -> None:
        """Drop the connection now, with what is in the outbox; with `reset` by RST, which the peer takes for no orderly
        end."""
        if reset and self._state != GONE:
            with contextlib.suppress(OSError):  # a Unix socket has none
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._end(cause)

    def expired(self, now: float) -> None:
        if self._state == OPEN:
            protocol = self.protocol
            protocol.expired(now)
        elif self._state == FINISHING and self.bytes_out - self._finish_mark >= FINISH_BYTES:
            self._finish_mark = self.bytes_out
            self.reactor.wheel.schedule(self, now + self._finish_timeout)
        elif self._state != BROKEN:
            self._end(None)

    def failed(self, error: Exception) -> None:
        try:
            if self._state != GONE:
                protocol = self.protocol
                protocol.failed(error)
        finally:
            self._end(error)

    def _shut(self) -> None:
        """The outbox is empty and nothing more will come: end, or linger."""
        if self._eof or (not self._linger and self._interest & READ):
            self._end(None)
            return
        self._state = LINGERING
        self._finish_mark = self.bytes_in + LINGER_BYTES
        try:
            self._shutdown()
        except OSError as error:
            self._end(error.with_traceback(None))
            return
        self._set_interest(READ)
        self.reactor.wheel.schedule(self, self.reactor.now + LINGER_S)

    def _shutdown(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def _end(self, cause: BaseException | None) -> None:
        """The one clean-up."""
        if self._state == GONE:
            return
        self._state = GONE
        self._out = None
        self.buffered = 0
        self._blocked = False
        try:
            self.reactor.remove(self)
        finally:
            self.sock.close()
            try:
                protocol = self.protocol
                protocol.lost(cause)
            finally:
                if self.listener is not None:
                    self.listener.ended(self)
