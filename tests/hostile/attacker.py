"""Who attacks, as a client or as a server, and a neighbour that nothing may touch."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from tests.client.fakes import switching
from tests.hostile.target import GUARD_S, Spent, Target
from tests.support import BINARY, TEXT, Peer, upgrade
from tests.wire import raw

DEFLATE = "permessage-deflate"
WITHOUT = f"{DEFLATE}; server_no_context_takeover"


class Host(Peer):
    """A server that a client has connected to."""

    async def switch(self, *lines: str, tail: bytes = b"") -> None:
        """Accept its request, with these header lines; `tail` follows at once."""
        self.send(_switching(await self.reader.readuntil(b"\r\n\r\n"), *lines) + tail)

    async def frame(self) -> tuple[int, bytes]:
        """First byte and payload of the next frame, which is masked."""
        first, second = await self.exactly(2)
        assert second >= 128, "unmasked frame from a client"
        size = second & 127
        if size == 126:
            size = int.from_bytes(await self.exactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.exactly(8), "big")
        key = await self.exactly(4)
        return first, raw.mask(await self.exactly(size), key)

    async def to_end(self) -> bytes:
        """All that still comes; it is the server that ends TCP first (RFC 6455 §7.1.1)."""
        with contextlib.suppress(OSError):
            self.writer.write_eof()
        return await super().to_end()


def _switching(head: bytes, *lines: str) -> bytes:
    key = re.search(r"(?i)sec-websocket-key: *(\S+)", head.decode("latin-1"))
    assert key, head
    return switching(key[1], *lines)


def _listener(receive_buffer: int = 0) -> socket.socket:
    listener = socket.socket()
    if receive_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@contextlib.asynccontextmanager
async def peer_at(
    victim: Target, path: str, *, deflate: bool = False, receive_buffer: int = 0, tail: bytes = b""
) -> AsyncIterator[Peer]:
    """One more connection to what the victim does at `path`; with `deflate` compression is agreed. `tail` is sent
    together with the handshake."""
    if not victim.client:
        async with await Peer.connect(victim.port, receive_buffer=receive_buffer) as peer:
            peer.send(upgrade(path, sec_websocket_extensions=DEFLATE if deflate else None) + tail)
            assert (await peer.head()).status == 101
            yield peer
        return
    with _listener(receive_buffer) as listener:
        listener.setblocking(False)
        victim.ask(f"/dial?port={listener.getsockname()[1]}&path={path}")
        async with asyncio.timeout(GUARD_S):
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
    async with Host(*await asyncio.open_connection(sock=sock, limit=receive_buffer or 1 << 16)) as host:
        agreed = DEFLATE if path == "/kept" else WITHOUT
        await host.switch(*([f"Sec-WebSocket-Extensions: {agreed}"] if deflate else []), tail=tail)
        yield host


class Neighbour(threading.Thread):
    """A well-behaved connection of the same victim: it echoes before, during and after, and closes in good order."""

    def __init__(self, victim: Target) -> None:
        super().__init__(name="neighbour")
        self.count = 0
        self.worst_s = 0.0
        self._victim = victim
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._sock = self._open()

    def _open(self) -> socket.socket:
        if not self._victim.client:
            sock = socket.create_connection(("127.0.0.1", self._victim.port), GUARD_S)
            sock.sendall(upgrade("/echo"))
            assert _head(sock).startswith(b"HTTP/1.1 101 ")
            return sock
        with _listener() as listener:
            listener.settimeout(GUARD_S)
            self._victim.ask(f"/dial?port={listener.getsockname()[1]}&path=/echo")
            sock, _ = listener.accept()
        sock.settimeout(GUARD_S)
        sock.sendall(_switching(_head(sock)))
        return sock

    def __enter__(self) -> Self:
        self._echo()
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        self.join()
        try:
            if kind is None:
                assert self._error is None, self._error
                self._echo()
                self._sock.sendall(self._victim.close_frame(1000))
                assert self._frame() == (0x88, b"\x03\xe8")
                if self._victim.client:
                    self._sock.shutdown(socket.SHUT_WR)  # the server ends TCP first (RFC 6455 §7.1.1)
                assert self._sock.recv(1) == b""
        finally:
            self._sock.close()

    def run(self) -> None:
        try:
            self._echo()
            while not self._over.wait(0.002):
                self._echo()
        except BaseException as error:
            self._error = error

    def _echo(self) -> None:
        self.count += 1
        payload = b"neighbour %d" % self.count
        began = time.monotonic()
        self._sock.sendall(self._victim.frame(BINARY, payload))
        assert self._frame() == (BINARY, payload)
        self.worst_s = max(self.worst_s, time.monotonic() - began)

    def _frame(self) -> tuple[int, bytes]:
        first, second = self._exactly(2)
        assert second & 0x80 == 0x80 - self._victim.mask_bit
        key = self._exactly(4) if second & 0x80 else bytes(4)
        return first, raw.mask(self._exactly(second & 0x7F), key)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._sock.recv(size - len(data))
            assert piece, "the neighbour's connection was ended"
            data += piece
        return data


def _head(sock: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = sock.recv(1)
        assert piece, head
        head += piece
    return head


def told(kind: str, data: bytes) -> tuple[int, bytes]:
    """The answer of the victim's endpoint to a message."""
    return TEXT, f"{kind} {len(data)} {hashlib.sha256(data).hexdigest()}".encode()


async def echoes(victim: Target, peer: Peer) -> None:
    """The connection still does what it is for."""
    peer.send(victim.frame(TEXT, b"still there?"))
    assert await peer.frame() == told("str", b"still there?")


async def leaves_nothing(victim: Target, come_and_go: Callable[[], Awaitable[None]], most: int) -> Spent:
    """What the last of a few rounds spends, each of which may leave `most` bytes behind: a leak leaves more each time,
    an allocator that keeps memory for the next round does not. A first round is not measured."""
    await come_and_go()
    for _ in range(5):
        with victim.spending() as spent:
            await come_and_go()
        if spent.held <= most:
            return spent
    raise AssertionError(f"more than {most} bytes were held after each of five rounds; after the last: {spent}")
