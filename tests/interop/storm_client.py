"""Thousands of raw sockets in one thread: each follows a script, a generator that sends by itself and yields to read.

``data = yield`` waits until there is something to read and receives it; b"" is the peer's end, and ConnectionResetError
is raised there. A script that returns KEEP leaves its socket open; any other's is closed when it ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final

KEEP: Final = object()
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: close() sends RST
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3, with its answer
ACCEPT: Final = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MASK: Final = b"\x37\xfa\x21\x3d"
MOST_LOST: Final = 10

Script = Generator[None, bytes, object]
MakeScript = Callable[[socket.socket, int], Script]


def _masked(first: int, payload: bytes) -> bytes:
    """A client's frame with a payload of up to 125 bytes (RFC 6455 §5.2, §5.3)."""
    masked = bytes(byte ^ MASK[n & 3] for n, byte in enumerate(payload))
    return bytes((first, 0x80 | len(payload))) + MASK + masked


# -- scripts -------------------------------------------------------------------------------------------------------


def _until(ending: bytes, data: bytes = b"") -> Generator[None, bytes, bytes]:
    while not data.endswith(ending):
        more = yield
        assert more, f"the server ended the connection after {data!r}"
        data += more
    return data


def _to_the_end() -> Generator[None, bytes, None]:
    """Read to the peer's end."""
    while (yield):
        pass


def upgrade(sock: socket.socket, number: int) -> Generator[None, bytes, None]:
    path = "/endpoint" if number % 2 else "/echo"
    sock.send(
        f"GET {path} HTTP/1.1\r\nHost: storm\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n".encode()
    )
    head = yield from _until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert ACCEPT in head, head


def echo(sock: socket.socket, number: int) -> Generator[None, bytes, None]:
    """One message of this connection's own, there and back."""
    payload = b"%08d" % number
    sock.send(_masked(0x82, payload))
    answer = yield from _until(payload)
    assert answer == b"\x82\x08" + payload, answer


def open_websocket(sock: socket.socket, number: int) -> Script:
    """Upgrade, one message, stay."""
    yield from upgrade(sock, number)
    yield from echo(sock, number)
    return KEEP


def say_and_stay(sock: socket.socket, number: int) -> Script:
    """One more message on an open WebSocket."""
    yield from echo(sock, number)
    return KEEP


def close_cleanly(sock: socket.socket, number: int) -> Script:
    """The closing handshake; the server ends TCP (RFC 6455 §7.1.1)."""
    sock.send(_masked(0x88, b"\x03\xe8"))
    answer = yield from _until(b"\x03\xe8")
    assert answer == b"\x88\x02\x03\xe8", answer
    yield from _to_the_end()


def close_with_reset(sock: socket.socket, number: int) -> Script:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return None
    yield


def close_half(sock: socket.socket, number: int) -> Script:
    """FIN, and the server's end is waited for."""
    sock.shutdown(socket.SHUT_WR)
    yield from _to_the_end()


def _websocket(ending: MakeScript) -> MakeScript:
    def script(sock: socket.socket, number: int) -> Script:
        yield from upgrade(sock, number)
        yield from echo(sock, number)
        return (yield from ending(sock, number))

    return script


def http_kept_alive(sock: socket.socket, number: int) -> Script:
    """Two requests, then FIN."""
    for path in ("/", f"/{number}"):
        sock.send(f"GET {path} HTTP/1.1\r\nHost: storm\r\n\r\n".encode())
        answer = yield from _until(b"hello")
        assert answer.startswith(b"HTTP/1.1 200 "), answer
    yield from close_half(sock, number)


def http_cut(sock: socket.socket, number: int) -> Script:
    """Half a head, then FIN or RST."""
    sock.send(b"GET / HTTP/1.1\r\nHo")
    yield from (close_half if number & 1 else close_with_reset)(sock, number)


def http_refused(sock: socket.socket, number: int) -> Script:
    """Bytes that are no request."""
    sock.send(b"\x16\x03\x01 no HTTP\r\n\r\n")
    with contextlib.suppress(ConnectionResetError):
        yield from _to_the_end()


def nothing(sock: socket.socket, number: int) -> Script:
    """Connect, and end without a byte."""
    yield from (close_half if number & 1 else close_with_reset)(sock, number)


CYCLES: Final[tuple[MakeScript, ...]] = (
    _websocket(close_cleanly),
    _websocket(close_with_reset),
    _websocket(close_half),
    http_kept_alive,
    http_cut,
    http_refused,
    nothing,
)


def mixed(sock: socket.socket, number: int) -> Script:
    """Every way in which a connection may come and go, by turns."""
    return CYCLES[number % len(CYCLES)](sock, number)


# -- the engine ----------------------------------------------------------------------------------------------------


class Storm:
    """Runs scripts on many sockets at once; `held` are those left open, with their numbers.

    `lost` counts connections that the kernel itself reset, and that were made again. While one processor moves a
    connection from the half-open ones to the established ones, Linux may find it in neither for a packet that arrives
    on another processor, and answers RST. The server knows nothing of that: it has accepted the connection and waits
    for its first byte. Such a reset can only come before the server's first byte, and is rare: MOST_LOST bounds it.
    """

    def __init__(self, port: int) -> None:
        self.held: dict[int, socket.socket] = {}
        self.lost = 0
        self._address = ("127.0.0.1", port)
        self._epoll = select.epoll()
        self._running: dict[int, tuple[socket.socket, int, Script]] = {}
        self._unanswered: dict[int, MakeScript] = {}  # what runs there, until the server's first byte
        self._connecting: dict[int, tuple[socket.socket, int, MakeScript]] = {}

    def connect(self, number: int, make: MakeScript) -> None:
        """Begin to connect; the script begins when the connection is there."""
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(self._address)
        self._connecting[sock.fileno()] = sock, number, make
        self._epoll.register(sock, select.EPOLLOUT)

    def resume(self, make: MakeScript, numbers: Iterable[int] | None = None) -> None:
        """Begin another script on the held sockets of these numbers, or on all."""
        for number in list(self.held if numbers is None else numbers):
            sock = self.held.pop(number)
            self._epoll.register(sock, 0)
            self._begin(sock, number, make(sock, number))

    def established(self) -> int:
        """How many of those that are connecting are connected, as the kernel sees it at this moment."""
        return len({fd for fd, events in self._epoll.poll(0, len(self._connecting) + 1) if events & select.EPOLLOUT})

    def run(self, more: Iterator[tuple[int, MakeScript]] | None = None, *, at_once: int = 0, timeout_s: float) -> None:
        """Until every script is at its end; from `more` as many are begun as keep `at_once` going."""
        deadline = time.monotonic() + timeout_s
        while True:
            while more is not None and len(self._running) + len(self._connecting) < at_once:
                following = next(more, None)
                if following is None:
                    more = None
                    break
                self.connect(*following)
            if not self._running and not self._connecting:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{len(self._connecting)} not connected, {len(self._running)} not at their end")
            for fd, _ in self._epoll.poll(left, 4096):
                self._ready(fd)

    def _ready(self, fd: int) -> None:
        if fd in self._connecting:
            sock, number, make = self._connecting.pop(fd)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                sock.close()
                raise OSError(error, f"connection {number}: {os.strerror(error)}")
            self._unanswered[fd] = make
            self._begin(sock, number, make(sock, number))
            return
        sock, number, script = self._running[fd]
        first = self._unanswered.pop(fd, None)
        try:
            data = sock.recv(65536)
        except ConnectionResetError as error:
            if first is not None and self.lost < MOST_LOST:
                self.lost += 1
                self._end(sock)
                self.connect(number, first)
            else:
                self._step(sock, number, script, lambda: script.throw(error))
        else:
            self._step(sock, number, script, lambda: script.send(data))

    def _begin(self, sock: socket.socket, number: int, script: Script) -> None:
        fd = sock.fileno()
        self._running[fd] = sock, number, script
        self._epoll.modify(fd, select.EPOLLIN)
        self._step(sock, number, script, lambda: next(script))

    def _step(self, sock: socket.socket, number: int, script: Script, step: Callable[[], None]) -> None:
        try:
            step()
        except StopIteration as end:
            self._end(sock, keep=end.value is KEEP)
            if end.value is KEEP:
                self.held[number] = sock

    def _end(self, sock: socket.socket, *, keep: bool = False) -> None:
        fd = sock.fileno()
        del self._running[fd]
        self._unanswered.pop(fd, None)
        self._epoll.unregister(fd)
        if not keep:
            sock.close()

    def close(self) -> None:
        """Close whatever is still open."""
        for sock, *_ in (*self._running.values(), *self._connecting.values()):
            sock.close()
        for sock in self.held.values():
            sock.close()
        self._epoll.close()
