"""Clients that are as slow as they can be, each in one phase of a connection; and, as a program, a crowd of them.

As a program: ``slow_clients.py PORT TLS_PORT COUNT EVERY_S`` keeps `COUNT` connections going, spread over all phases,
and comes again whenever it is cut; each sends a byte or takes one every `EVERY_S` seconds. It ends when its standard
input does, and prints how many connections it has had, by phase.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

from tests.support import TEXT, frame, get, upgrade

FEW = 4096  # bytes that its kernel takes for a client that does not read
STARE = 75  # times as long as another one waits between two bytes
HELLO = bytes.fromhex("160301020001")  # TLS: a record of 512 bytes begins, with a ClientHello


class Slow:
    """One connection of a slow client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, every_s: float) -> None:
        self.reader = reader
        self.writer = writer
        self._every_s = every_s

    @classmethod
    async def connect(cls, port: int, every_s: float) -> Slow:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, FEW)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return cls(*await asyncio.open_connection(sock=sock, limit=FEW), every_s)

    async def to_end(self) -> bytes:
        """All that comes until the server ends the connection."""
        pieces = []
        with contextlib.suppress(ConnectionError):
            while piece := await self.reader.read(1 << 16):
                pieces.append(piece)
        return b"".join(pieces)

    async def dribble(self, begin: bytes, pieces: Iterator[bytes]) -> bytes:
        """Send `begin`, and then from `pieces` one after the other, until the server has enough of it."""
        self.writer.write(begin)
        ended = asyncio.ensure_future(self.to_end())
        while not ended.done():
            await asyncio.wait([ended], timeout=self._every_s)
            self.writer.write(next(pieces))
        return ended.result()

    async def switch(self, path: str) -> None:
        self.writer.write(upgrade(path))
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    async def stare(self) -> bytes:
        """Neither read nor write for a while, in which the server may have cut the connection."""
        await asyncio.sleep(STARE * self._every_s)
        return b""


def _again(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


# -- the phases ----------------------------------------------------------------------------------------------------


async def tcp(slow: Slow) -> bytes:
    """Connected, and silent."""
    return await slow.to_end()


async def tls(slow: Slow) -> bytes:
    """A handshake that comes byte by byte."""
    return await slow.dribble(HELLO, _again(b"\0"))


async def head(slow: Slow) -> bytes:
    """A head that does not end."""
    return await slow.dribble(b"GET / HTTP/1.1\r\nHost: a\r\n", _again(b"X: y\r\n"))


async def next_head(slow: Slow) -> bytes:
    """A first request, and a second one that comes byte by byte."""
    return await slow.dribble(get() + b"GET / HTTP/1.1\r\nHost: a\r\nX: ", _again(b"y"))


async def body(slow: Slow) -> bytes:
    """A body that comes byte by byte."""
    return await slow.dribble(get("/upload", method="POST", Content_Length="100000"), _again(b"y"))


async def chunks(slow: Slow) -> bytes:
    """A body in chunks of one byte."""
    return await slow.dribble(get("/upload", method="POST", Transfer_Encoding="chunked"), _again(b"1\r\ny\r\n"))


async def switching(slow: Slow) -> bytes:
    """An upgrade request that does not end."""
    return await slow.dribble(upgrade("/echo")[:-2], _again(b"X: y\r\n"))


async def undecided(slow: Slow) -> bytes:
    """An upgrade request about which the application does not decide; it is not the client that is slow."""
    return await slow.dribble(upgrade("/undecided"), _again(b""))


async def frames(slow: Slow) -> bytes:
    """A frame that comes byte by byte."""
    await slow.switch("/echo")
    return await slow.dribble(frame(TEXT, bytes(100_000))[:8], _again(b"y"))


async def fragments(slow: Slow) -> bytes:
    """A message of many frames, one byte each, that does not end (RFC 6455 §5.4)."""
    await slow.switch("/echo")
    return await slow.dribble(frame(0x01, b"y"), _again(frame(0x00, b"y")))


async def silent(slow: Slow) -> bytes:
    """A WebSocket that answers nothing, pings neither."""
    await slow.switch("/echo")
    return await slow.to_end()


async def closing(slow: Slow) -> bytes:
    """A WebSocket that gets a close frame, for what it sent, and never answers it."""
    await slow.switch("/echo")
    return await slow.dribble(b"\xff", _again(b""))


async def response(slow: Slow) -> bytes:
    """A response that nobody reads."""
    slow.writer.write(get("/download"))
    return await slow.stare()


async def messages(slow: Slow) -> bytes:
    """Messages that nobody reads."""
    await slow.switch("/feed")
    return await slow.stare()


Phase = Callable[[Slow], Awaitable[bytes]]
PHASES: tuple[Phase, ...] = (
    *(tcp, tls, head, next_head, body, chunks, switching, undecided),
    *(frames, fragments, silent, closing, response, messages),
)


async def churn(slow: Slow) -> bytes:
    """Connections that come and go, with what is no request, or with nothing."""
    slow.writer.write(b"\x16\x03\x01 no HTTP\r\n\r\n")
    return await slow.to_end()


# -- the crowd -----------------------------------------------------------------------------------------------------


async def crowd(port: int, tls_port: int, count: int, every_s: float) -> Counter[str]:
    """Keep `count` connections going until standard input ends."""
    os.nice(10)  # it has a machine of its own elsewhere: here it may not take the processor from those it competes with
    came: Counter[str] = Counter()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)

    async def one(phase: Phase) -> None:
        rhythm = random.uniform(0.5, 1.5) * every_s  # each has one of its own, as those have who come from everywhere
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                slow = await Slow.connect(tls_port if phase is tls else port, rhythm)
                came[phase.__name__] += 1
                try:
                    await phase(slow)
                finally:
                    slow.writer.transport.abort()
            await asyncio.sleep(rhythm)

    phases = (*PHASES, churn)
    tasks = [asyncio.ensure_future(one(phases[number % len(phases)])) for number in range(count)]
    while len(came) < min(len(phases), count):
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return came


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plain, secure, number = (int(each) for each in sys.argv[1:4])
    print(json.dumps(asyncio.run(crowd(plain, secure, number, float(sys.argv[4])))))
