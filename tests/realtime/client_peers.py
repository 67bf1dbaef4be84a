"""Real Socket.IO servers for the realtime client, in processes of their own, and a relay before them that cuts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.client.conftest import certificates, no_proxy, nothing_left
from tests.node import NODE, node_js
from tests.support import GUARD_S

import portico

__all__ = [
    "BOTH",
    "SOON",
    "WAYS",
    "Got",
    "Relay",
    "Server",
    "certificates",
    "client_of",
    "no_proxy",
    "node",
    "nothing_left",
]

ROOT = Path(__file__).parents[2]
WAYS = {"websocket": ["websocket"], "polling": ["polling"], "upgrade": ["polling", "websocket"]}
BOTH = ("node", "python")
SOON = portico.Backoff(first_s=0.01, longest_s=0.05)


class Server:
    """A server in a process: its port, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: list[list[Any]] = []
        self._more = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, kind: str, **settings: Any) -> AsyncIterator[Server]:
        """A server of this kind; `settings` are in its own words (``options={"pingInterval": 100}``)."""
        if kind == "node":
            command = [node_js("socket.io"), str(NODE / "realtime.mjs")]
        else:
            command = [sys.executable, str(Path(__file__).with_name("python_peer.py"))]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, json.dumps(settings), stdin=pipe, stdout=pipe, cwd=ROOT, limit=1 << 22
        )
        server = cls(process)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(2 * GUARD_S):
                server.port = json.loads(await process.stdout.readline())[0]
            reading = asyncio.create_task(server._read(process.stdout))
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            assert process.stdin is not None
            process.stdin.close()
        await reading

    async def _read(self, lines: asyncio.StreamReader) -> None:
        async for line in lines:
            self._lines.append(json.loads(line))
            self._more.set()

    async def said(self, what: str) -> list[Any]:
        """What came with the next `what` that it says."""
        async with asyncio.timeout(GUARD_S):
            while True:
                for line in self._lines:
                    if line[0] == what:
                        self._lines.remove(line)
                        return line[1:]
                self._more.clear()
                await self._more.wait()

    def tell(self, *what: Any) -> None:
        """Make Node's do something: "emit" to all, or "cut" all connections."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")

    async def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        await self._process.wait()


@contextlib.asynccontextmanager
async def node(**settings: Any) -> AsyncIterator[Server]:
    async with asyncio.timeout(3 * GUARD_S), Server.running("node", **settings) as server:
        yield server


class Relay:
    """A port that leads to a server's, until it is cut."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.port = 0
        self.refusing = False
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, to: int) -> AsyncIterator[Relay]:
        relay = cls(to)
        server = await asyncio.start_server(relay._visited, "127.0.0.1", 0)
        relay.port = server.sockets[0].getsockname()[1]
        try:
            yield relay
        finally:
            server.close()
            relay.cut()
            if relay._tasks:
                await asyncio.wait(relay._tasks)

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _visited(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        if self.refusing:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        await asyncio.wait([asyncio.create_task(_copy(reader, back)), asyncio.create_task(_copy(there, writer))])
        self._writers -= {writer, back}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Got:
    """What a client's handlers were called with, in order."""

    def __init__(self, client: portico.RealtimeClient, *events: str) -> None:
        self._queue: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        for event in events:
            client.on(event, self._taker(event))

    def _taker(self, event: str) -> Any:
        async def take(*args: Any) -> None:
            self._queue.put_nowait((event, *args))

        return take

    async def next(self) -> tuple[Any, ...]:
        async with asyncio.timeout(GUARD_S):
            return await self._queue.get()

    def all(self) -> list[tuple[Any, ...]]:
        """What is here already."""
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]


def client_of(server: Server | Relay, way: str = "upgrade", **options: Any) -> portico.RealtimeClient:
    """A client that goes this way, and comes back soon."""
    return portico.RealtimeClient(server.url, transports=WAYS[way], **({"backoff": SOON} | options))
