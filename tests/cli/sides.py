"""What both tests of ``portico connect`` stand on: the command, and the servers that it talks to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
import websockets
import websockets.utils
from tests.support import CLOSE, Waiting, serving

import portico

CLEAN_ENV = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
COMMAND = [sys.executable, "-m", "portico", "connect"]


@dataclass
class Seen:
    """What a server saw of its clients."""

    uri: str = ""
    messages: list[str | bytes] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)


@contextlib.asynccontextmanager
async def portico_echo() -> AsyncIterator[Seen]:
    seen = Seen()

    async def echo(ws: portico.WebSocket) -> None:
        async for message in ws:
            seen.messages.append(message)
            await ws.send(message)
        assert ws.closed is not None
        seen.codes.append(ws.closed.code)

    async with serving(echo) as server:
        seen.uri = f"ws://127.0.0.1:{server.port}/"
        yield seen


@contextlib.asynccontextmanager
async def websockets_echo() -> AsyncIterator[Seen]:
    seen = Seen()

    async def echo(ws: websockets.ServerConnection) -> None:
        async for message in ws:
            seen.messages.append(message)
            with contextlib.suppress(websockets.ConnectionClosed):
                await ws.send(message)
        seen.codes.append(ws.close_code or 0)

    async with websockets.serve(echo, "127.0.0.1", 0) as server:
        seen.uri = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
        yield seen


Echo = Callable[[], contextlib.AbstractAsyncContextManager[Seen]]
BOTH = pytest.mark.parametrize("peer", [portico_echo, websockets_echo])


async def deaf_server(closing: Waiting) -> asyncio.Server:
    """A server that never answers a close frame; `closing` is there when one has come."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", head)
        assert key is not None
        accept = websockets.utils.accept_key(key[1].decode())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
        )
        assert (await reader.readexactly(8))[0] == CLOSE
        await closing.stay()
        writer.close()

    return await asyncio.start_server(deaf, "127.0.0.1", 0)
