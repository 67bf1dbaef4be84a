"""The servers that an application runs on: Portico, and uvicorn for comparison; both in this process, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import uvicorn
import websockets
from tests.support import GUARD_S

import portico

Host = Callable[[Any], AbstractAsyncContextManager["Site"]]


class Site:
    """An application that `server` serves at `port`, and clients for it."""

    def __init__(self, server: str, port: int, client: httpx.AsyncClient) -> None:
        self.server = server
        self.port = port
        self.http = client

    def ws(self, path: str, **options: Any) -> websockets.connect:
        """A WebSocket to `path`."""
        return websockets.connect(f"ws://127.0.0.1:{self.port}{path}", proxy=None, **options)

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)


@contextlib.asynccontextmanager
async def _site(server: str, port: int) -> AsyncIterator[Site]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=GUARD_S) as client:
        yield Site(server, port, client)


@contextlib.asynccontextmanager
async def on_portico(app: Any) -> AsyncIterator[Site]:
    async with (
        asyncio.timeout(2 * GUARD_S),
        portico.serve(app, "127.0.0.1", 0) as server,
        _site("portico", server.port) as site,
    ):
        yield site


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def on_uvicorn(app: Any) -> AsyncIterator[Site]:
    config = uvicorn.Config(app, http="httptools", ws="websockets-sansio", log_config=None, timeout_graceful_shutdown=5)
    server = _Uvicorn(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with asyncio.timeout(2 * GUARD_S):
            task = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                while not server.started and not task.done():
                    await asyncio.sleep(0.001)
                async with _site("uvicorn", listener.getsockname()[1]) as site:
                    yield site
            finally:
                server.should_exit = True
                await task


HOSTS: dict[str, Host] = {"portico": on_portico, "uvicorn": on_uvicorn}
