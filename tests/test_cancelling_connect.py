"""Cancelling connect at any await, one after the other, on every way: directly, over a Unix socket, over TLS, through a
proxy's tunnel, by way of redirects. Nothing is left over, on simulated time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import pathlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.cancels import cancelled, settled
from tests.certificates import Tls
from tests.support import descriptors

import portico
from portico.client.attempt import verifying
from portico.testing import run

FEWEST = {"directly": 2, "unix": 1, "tunnel": 2, "redirects": 4}  # awaits that a late cancel still meets
TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"


# -- who connects -----------------------------------------------------------------------------------------------------


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def once(uri: str, **options: Any) -> None:
    ws = await portico.connect(uri, proxy=None, **options)
    try:
        await ws.send("hello")
        assert await ws.recv() == "hello"
    finally:
        await ws.close()


async def once_with(uri: str, **options: Any) -> None:
    async with portico.connect(uri, proxy=None, **options) as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"


async def once_for(uri: str, **options: Any) -> None:
    async for ws in portico.connect(uri, proxy=None, **options):
        await ws.send("hello")
        assert await ws.recv() == "hello"
        break


# -- who stands between ------------------------------------------------------------------------------------------------


class Visits:
    """A listening socket whose every connection runs a script."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def to(
        cls, script: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], tls: Any = None
    ) -> AsyncIterator[Visits]:
        visits = cls()

        async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await script(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass  # the client was given up
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

        def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(visit(reader, writer))
            visits.tasks.add(task)
            task.add_done_callback(visits.tasks.discard)

        server = await asyncio.start_server(visited, "127.0.0.1", 0, ssl=tls)
        visits.port = server.sockets[0].getsockname()[1]
        try:
            yield visits
        finally:
            server.close()
            while visits.tasks:
                await asyncio.wait(visits.tasks)


async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Open the tunnel that is asked for, and relay until either side ends."""
    line = await reader.readuntil(b"\r\n\r\n")
    port = int(line.split(b" ")[1].rpartition(b":")[2])
    theirs, ours = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(TUNNEL)
        relays = [asyncio.create_task(relay(reader, ours)), asyncio.create_task(relay(theirs, writer))]
        await asyncio.wait(relays, return_when=asyncio.FIRST_COMPLETED)
        for task in relays:
            task.cancel()
        await asyncio.wait(relays)
    finally:
        ours.close()
        with contextlib.suppress(OSError):
            await ours.wait_closed()


async def relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(4096):
            sink.write(data)
            await sink.drain()


def redirecting(hops: list[int], secure: bool) -> Any:
    """Redirect to itself, and then to the last place; the body is promised, and does not come."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        again = head.startswith(b"GET /first ")
        where = f"ws{'s' * secure}://localhost:{hops[0 if again else 1]}/next"
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 9\r\n\r\n".encode())
        await reader.read()

    return script


@contextlib.asynccontextmanager
async def way(kind: str, server: portico.Server, tls: ssl.SSLContext | None) -> AsyncIterator[tuple[str, Any, Visits]]:
    """A URI that leads to `server`, the proxy to use, and who stands between."""
    scheme = "wss" if tls else "ws"
    if kind == "unix":
        yield "ws://portico.test/", None, Visits()
        return
    if kind == "tunnel":
        async with Visits.to(proxy) as visits:
            yield f"{scheme}://localhost:{server.port}/", f"http://127.0.0.1:{visits.port}", visits
        return
    hops = [0, server.port]
    async with Visits.to(redirecting(hops, tls is not None), tls) as visits:
        hops[0] = visits.port
        first = visits.port if kind == "redirects" else server.port
        yield f"{scheme}://localhost:{first}/first", None, visits


def through(use: Callable[..., Any], where: Any) -> Callable[..., Any]:
    """`use`, by way of a proxy."""

    async def used(uri: str, **options: Any) -> None:
        async with portico.connect(uri, proxy=where, **options) as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"

    return used if where else use


@pytest.mark.parametrize("late", [0, 1, 2, 3, 6])  # turns of the loop: in the middle of a handshake, too
@pytest.mark.parametrize(
    ("kind", "secure", "use"),
    [
        *(("directly", secure, use) for secure in (False, True) for use in (once, once_with, once_for)),
        *(("unix", False, use) for use in (once, once_with, once_for)),
        ("tunnel", False, once_with),
        ("tunnel", True, once_with),
        ("redirects", False, once_with),
        ("redirects", True, once),
    ],
)
def test_connect_leaves_nothing_behind(
    kind: str, secure: bool, use: Callable[..., Any], late: int, tls: Tls, tmp_path: pathlib.Path
) -> None:
    """Cancelled at its first await, at its second, and so on until it is over before: no socket, no task, no turn to
    connect (RFC 6455 §4.1) is kept, and the next one gets through."""
    context = tls.server() if secure else None
    options: dict[str, Any] = {"ssl": tls.client()} if secure else {}
    uds = {"uds": str(tmp_path / "socket")} if kind == "unix" else {}

    async def main() -> None:
        async with (
            portico.serve(echo, "127.0.0.1", 0, ssl=context, **uds) as server,
            way(kind, server, context) as (uri, where, visits),
        ):
            connect = functools.partial(through(use, where), uri, **options, **uds)

            async def quiet() -> None:
                while True:
                    await settled(server)
                    if not visits.tasks:
                        return

            await connect()  # what is made once is made: the executor's thread
            await quiet()
            tasks, before = asyncio.all_tasks(), descriptors()
            cancels = 0
            for at in itertools.count():
                task = asyncio.create_task(cancelled(connect(), at, late))
                [outcome] = await asyncio.gather(task, return_exceptions=True)
                assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
                await quiet()
                assert descriptors().keys() == before.keys()
                assert asyncio.all_tasks() == tasks
                if outcome is None:
                    break
                cancels += 1
                await connect(open_timeout_s=5)
                await quiet()
            assert cancels >= FEWEST[kind] + secure

    verifying()  # reads the system's certificates, which takes a while
    run(main(), patience_s=0.002)
