"""What the tests of `net` share: a protocol that writes down what it is told, and both ends of a real connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any, Self

from tests.support import GUARD_S, turns, until

from portico.net.reactor import Reactor, Selected
from portico.net.stream import Protocol, Stream


class Recorder(Protocol):
    """Every call that a stream makes, in order; ``data`` is all that was received."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.data = bytearray()
        self.causes: list[BaseException | None] = []
        self.failures: list[Exception] = []
        self.on_received: Callable[[bytes], object] = lambda data: None
        self.on_eof: Callable[[], object] = lambda: None
        self.on_lost: Callable[[], object] = lambda: None

    def connected(self) -> None:
        self.calls.append("connected")

    def received(self, data: bytearray, size: int) -> None:
        self.calls.append("received")
        piece = bytes(memoryview(data)[:size])
        self.data += piece
        self.on_received(piece)

    def eof(self) -> None:
        self.calls.append("eof")
        self.on_eof()

    def drained(self) -> None:
        self.calls.append("drained")

    def expired(self, now: float) -> None:
        self.calls.append("expired")

    def failed(self, error: Exception) -> None:
        self.calls.append("failed")
        self.failures.append(error)

    def lost(self, cause: BaseException | None) -> None:
        self.calls.append("lost")
        self.causes.append(cause)
        self.on_lost()

    async def got(self, size: int) -> bytes:
        """What was received, once it is `size` bytes or more."""
        await until(lambda: len(self.data) >= size)
        return bytes(self.data)

    async def gone(self) -> BaseException | None:
        """The cause that `lost` was called with, once."""
        await until(lambda: self.causes)
        assert self.causes[1:] == []
        return self.causes[0]


class End:
    """The other end: a plain socket, read and written by the test alone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        data = bytearray()
        async with asyncio.timeout(GUARD_S):
            while len(data) < size:
                piece = await asyncio.get_running_loop().sock_recv(self.sock, min(1 << 16, size - len(data)))
                assert piece, f"the end came after {len(data)} of {size} bytes"
                data += piece
        return bytes(data)

    async def to_end(self) -> bytes:
        """All that comes until the stream ends TCP in good order; a reset is raised."""
        data = bytearray()
        async with asyncio.timeout(GUARD_S):
            while piece := await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16):
                data += piece
        return bytes(data)

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(GUARD_S):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def reset(self) -> None:
        """End TCP with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def tcp_pair(*, buffer: int = 0) -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets; a small `buffer` makes both soon full."""
    with socket.socket() as listener:
        if buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        other = socket.socket()
        if buffer:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        other.connect(listener.getsockname())
        sock, _ = listener.accept()
    sock.setblocking(False)
    return sock, other


class Wire(contextlib.AsyncExitStack):
    """A stream with a `Recorder`, and its other `End`; whatever is left is closed afterwards."""

    def __init__(
        self,
        reactor: Reactor,
        *,
        buffer: int = 0,
        unix: bool = False,
        high_water: int = 65536,
        kind: type[Stream] = Stream,
        listener: Any = None,
    ) -> None:
        super().__init__()
        if unix:
            sock, other = socket.socketpair()
            sock.setblocking(False)
        else:
            sock, other = tcp_pair(buffer=buffer)
        self.protocol = Recorder()
        self.end = End(other)
        self.stream = kind(reactor, sock, self.protocol, None, high_water, listener)
        self.callback(other.close)
        self.callback(self.stream.abort)

    async def __aenter__(self) -> Self:
        return self

    def block(self) -> bytes:
        """Write until the socket takes no more; returns what was written, of which some is in the outbox."""
        written = bytearray()
        while not self.stream.blocked:
            piece = b"%07d." % len(written) * 512
            self.stream.write(piece)
            written += piece
            self.stream.flush()
        return bytes(written)


def shows_hang_ups(reactor: Reactor) -> bool:
    """Whether its readiness set shows the hang-up of a stream that is not read; else the next call on it finds that."""
    return not isinstance(reactor.poller, Selected)


async def idles(reactor: Reactor) -> None:
    """The reactor has nothing to do: its set shows nothing, again and again."""
    await turns()
    for _ in range(5):
        assert reactor.poller.poll(10) == []
        await asyncio.sleep(0)
