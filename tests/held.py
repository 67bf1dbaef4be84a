"""WebSockets in the hands of a test: a server whose handlers give them away, and peers that are slow to the byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, Self

from tests.support import GUARD_S, Peer, serving

import portico

SMALL = 4096  # for the kernel's buffers: soon full


def small_listener() -> socket.socket:
    """A bound socket whose connections hold little in the kernel, so that a peer that doesn't read is soon noticed."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    sock.bind(("127.0.0.1", 0))
    return sock


class Pull:
    """A coroutine handler for every connection; it stays until the test is over."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[portico.WebSocket] = asyncio.Queue()
        self.over = asyncio.Event()

    async def __call__(self, ws: portico.WebSocket) -> None:
        self.opened.put_nowait(ws)
        await self.over.wait()


class Push(portico.Endpoint):
    """Callbacks for every connection: what they were called with, and what else they shall do."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[portico.WebSocket] = asyncio.Queue()
        self.messages: list[str | bytes] = []
        self.closes: list[portico.Close] = []
        self.open_hook: Any = lambda ws: None
        self.message_hook: Any = lambda ws, message: None
        self.close_hook: Any = lambda ws, close: None

    def on_open(self, ws: portico.WebSocket) -> None:
        self.opened.put_nowait(ws)
        self.open_hook(ws)

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        self.messages.append(message)
        self.message_hook(ws, message)

    def on_close(self, ws: portico.WebSocket, close: portico.Close) -> None:
        self.closes.append(close)
        self.close_hook(ws, close)


class Hall:
    """A server and its connections: `enter` makes one."""

    def __init__(self, server: portico.Server, handler: Pull | Push) -> None:
        self.server = server
        self.handler = handler
        self._stack = contextlib.AsyncExitStack()

    async def enter(self, *, receive_buffer: int = 0, **headers: str) -> tuple[portico.WebSocket, Peer]:
        """Our end and the raw peer's of one more connection."""
        peer = await self._stack.enter_async_context(await Peer.connect(self.server, receive_buffer=receive_buffer))
        await peer.open(**headers)
        return await self.next(), peer

    async def next(self) -> portico.WebSocket:
        """Our end of the next connection, whoever made it."""
        async with asyncio.timeout(GUARD_S):
            return await self.handler.opened.get()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def hall(handler: Pull | Push | None = None, *, small: bool = False, **options: Any) -> AsyncIterator[Hall]:
    """A server on a free port; `small` gives its connections small buffers in the kernel."""
    handler = handler or Pull()
    if small:
        options["sock"] = small_listener()
    app = portico.App()
    app.websocket("/", handler)
    async with serving(app, **options) as server, Hall(server, handler) as found:
        try:
            yield found
        finally:
            if isinstance(handler, Pull):
                handler.over.set()
