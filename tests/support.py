"""What the tests of the server share: a peer that says exactly what it is told to, and waits that are no sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pathlib
import random
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import portico

GUARD_S = 30.0  # how long a wait may last before it is a failure
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3, with the answer that it has there
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A


@dataclass
class Answer:
    """One HTTP response as it came."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The value of the one header `name`; None where there is none."""
        values = [value for each, value in self.headers if each.lower() == name.lower()]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def text(self) -> str:
        return self.body.decode()


class Peer:
    """One raw connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(
        cls, server: portico.Server | int, *, tls: ssl.SSLContext | None = None, receive_buffer: int = 0
    ) -> Self:
        """Connected to the port of `server`; a small `receive_buffer` makes for a peer that is soon full."""
        sock = socket.socket()
        try:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.setblocking(False)
            port = server if isinstance(server, int) else server.port
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        name = "localhost" if tls else None
        limit = receive_buffer or 1 << 16
        return cls(*await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=name, limit=limit))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def reset(self) -> None:
        """End TCP with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(GUARD_S):
            return await self.reader.readexactly(size)

    async def to_end(self) -> bytes:
        """All that still comes until the server ends the connection; a reset is an end, too."""
        pieces = []
        async with asyncio.timeout(GUARD_S):
            with contextlib.suppress(ConnectionResetError):
                while piece := await self.reader.read(1 << 16):
                    pieces.append(piece)
        return b"".join(pieces)

    # HTTP

    async def head(self) -> Answer:
        """The head of the next response."""
        async with asyncio.timeout(GUARD_S):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        version, status, reason = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Answer(int(status), reason, headers)

    async def answer(self, method: str = "GET") -> Answer:
        """The next response, whole."""
        answer = await self.head()
        length = answer.header("content-length")
        if method == "HEAD" or answer.status in (204, 304) or answer.status < 200:
            return answer
        if answer.header("transfer-encoding") == "chunked":
            assert length is None
            answer.body = await self._chunks()
        elif length is not None:
            answer.body = await self.exactly(int(length))
        else:
            answer.body = await self.to_end()
        return answer

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            async with asyncio.timeout(GUARD_S):
                size = int(await self.reader.readuntil(b"\r\n"), 16)
            piece = await self.exactly(size + 2)
            assert piece.endswith(b"\r\n")
            if not size:
                return body
            body += piece[:-2]

    async def refused(self, status: int, *, method: str = "GET") -> Answer:
        """A response with `status`, after which the connection closes and nothing more comes."""
        answer = await self.answer(method)
        assert answer.status == status, answer
        assert "close" in (answer.header("connection") or "").lower()
        assert await self.to_end() == b""
        return answer

    # WebSocket

    async def open(self, path: str = "/", **headers: str | None) -> Answer:
        """Switch to WebSocket."""
        self.send(upgrade(path, **headers))
        answer = await self.head()
        assert answer.status == 101, await self.to_end()
        return answer

    async def frame(self) -> tuple[int, bytes]:
        """First byte and payload of the next frame, which is unmasked."""
        first, second = await self.exactly(2)
        assert second < 128, "masked frame from a server"
        size = second
        if second == 126:
            size = int.from_bytes(await self.exactly(2), "big")
        elif second == 127:
            size = int.from_bytes(await self.exactly(8), "big")
        return first, await self.exactly(size)

    async def closed_with(self, code: int) -> str:
        """The reason of the close frame, which must be the next frame and have `code`."""
        first, payload = await self.frame()
        assert (first, int.from_bytes(payload[:2], "big")) == (CLOSE, code), (hex(first), payload)
        return payload[2:].decode()


def upgrade(path: str = "/", **headers: str | None) -> bytes:
    """The bytes of a request to switch; a header is named as in ``sec_websocket_key=``, None leaves it out."""
    fields: dict[str, str | None] = {
        "host": "127.0.0.1",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
    }
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = [f"{name}: {value}\r\n" for name, value in fields.items() if value is not None]
    return f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1")


def frame(first: int, payload: bytes = b"") -> bytes:
    """A masked frame, as a client sends it."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = bytes([0xFE]) + size.to_bytes(2, "big")
    else:
        length = bytes([0xFF]) + size.to_bytes(8, "big")
    key = b"\x01\x02\x03\x04"
    masked = int.from_bytes(payload, "big") ^ int.from_bytes((key * (size // 4 + 1))[:size], "big")
    return bytes([first]) + length + key + masked.to_bytes(size, "big")


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


Asgi = Callable[[Any, Any, Any], Awaitable[None]]


def pages(http: Asgi) -> Asgi:
    """An ASGI application that knows HTTP alone."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await http(scope, receive, send)

    return app


async def respond(send: Any, body: bytes = b"", status: int = 200, headers: Any = ()) -> None:
    """A whole ASGI response."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def get(target: str = "/", version: str = "1.1", method: str = "GET", **headers: str) -> bytes:
    """The bytes of a request without a body."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"{method} {target} HTTP/{version}\r\nHost: a\r\n{lines}\r\n".encode()


@contextlib.asynccontextmanager
async def serving(app: object, **options: Any) -> AsyncIterator[portico.Server]:
    """A server on a free port of the loopback, for at most a minute."""
    async with asyncio.timeout(2 * GUARD_S), portico.serve(app, "127.0.0.1", 0, **options) as server:
        yield server


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that nothing announces."""
    async with asyncio.timeout(GUARD_S):
        while not condition():
            await asyncio.sleep(0.001)


async def turns(count: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def paused(server: portico.Server) -> portico.Connection:
    """The one connection, when reading from it is paused, and has had the time to go on nevertheless."""
    [connection] = server.connections
    await until(lambda: connection._stream.paused)
    await turns()
    return connection


@dataclass
class Waiting:
    """A handler's rendezvous with its test: it says that it is `there`, and stays until `go`."""

    there: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def stay(self) -> None:
        self.there.set()
        await self.go.wait()

    async def reached(self) -> None:
        async with asyncio.timeout(GUARD_S):
            await self.there.wait()


class Logged(logging.Handler):
    """What Portico logged at WARNING and above; each record has to be taken."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    @classmethod
    @contextlib.contextmanager
    def all_expected(cls) -> Iterator[Logged]:
        """Hears what Portico and asyncio log; what is not taken by the end is a failure."""
        logged = cls()
        loggers = [logging.getLogger(name) for name in ("portico", "asyncio")]
        for logger in loggers:
            logger.addHandler(logged)
        try:
            yield logged
        finally:
            for logger in loggers:
                logger.removeHandler(logged)
        assert not logged.records, [record.getMessage() for record in logged.records]

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def take(self, containing: str = "") -> logging.LogRecord:
        """The one record that there is."""
        assert len(self.records) == 1, [record.getMessage() for record in self.records]
        record = self.records.pop()
        assert containing in record.getMessage()
        return record


def wait_for(process: subprocess.Popen[Any], port: int, said: pathlib.Path) -> None:
    """Until `process` listens on `port` of the loopback; where it doesn't, the failure shows what it has `said`."""
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        running = process.poll() is None and time.monotonic() < deadline
        assert running, f"{process.args!r} does not listen:\n{said.read_text()}"
        time.sleep(0.01)


def free_port() -> int:
    """A port of the loopback that nobody has, below those that the kernel gives whoever asks for any: still free when
    it is used at last, or once more, whatever other tests open meanwhile."""
    lowest = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(10_000, max(lowest, 20_000))
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def descriptors() -> dict[str, str]:
    """The descriptors that this process has open, with what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found
