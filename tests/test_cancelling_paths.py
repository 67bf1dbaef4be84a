"""`test_cancelling`, for the longer ways: the TLS handshake, the tunnel of a proxy, the hops of a redirect; and recv,
send and close over TLS. Cancelled at any await nothing is lost, nothing is corrupted, nothing is left over.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from tests.client.fakes import Certificates
from tests.support import descriptors, turns
from tests.test_cancelling import (
    CANCELLED,
    NARROW,
    ROLES,
    TAKEOVER,
    _cancelled,
    echo,
    maybe,
    once,
    once_for,
    once_with,
    settled,
    sides,
    wrapped,
)

import portico
from portico.client.attempt import verifying
from portico.testing import Link, pair, run

SEEDS = range(8)
TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The client's and the server's."""
    certificates = Certificates(tmp_path_factory.mktemp("tls"))
    return certificates.client(), certificates.server(certificates.signed())


# -- connect: every await of the way ----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("late", [0, 1, 3, 6])  # turns of the loop: in the middle of a handshake, too
@pytest.mark.parametrize(
    ("kind", "secure", "use"),
    [
        ("directly", True, once),
        ("directly", True, once_with),
        ("directly", True, once_for),
        ("tunnel", False, once_with),
        ("tunnel", True, once_with),
        ("redirects", False, once_with),
        ("redirects", True, once),
    ],
)
def test_connect_leaves_nothing_behind(
    kind: str, secure: bool, use: Callable[..., Any], late: int, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Cancelled at its first await, at its second, and so on: no socket, no task, no turn to connect is kept."""
    client, tls = contexts
    options: dict[str, Any] = {"ssl": client} if secure else {}

    async def main() -> None:
        async with (
            portico.serve(echo, "127.0.0.1", 0, ssl=tls if secure else None) as server,
            way(kind, server, tls if secure else None) as (uri, where, visits),
        ):
            connect = through(use, where)

            async def quiet() -> None:
                while True:
                    await settled(server)
                    if not visits.tasks:
                        return

            await connect(uri, **options)  # what is made once is made: the executor's thread
            await quiet()
            tasks, before = asyncio.all_tasks(), descriptors()
            cancels = 0
            for at in itertools.count():
                task = asyncio.create_task(_cancelled(connect(uri, **options), at, late))
                [outcome] = await asyncio.gather(task, return_exceptions=True)
                assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
                await quiet()
                assert descriptors().keys() == before.keys()
                assert asyncio.all_tasks() == tasks
                if outcome is None:
                    break
                cancels += 1
                await connect(uri, open_timeout_s=5, **options)
                await quiet()
            assert cancels >= (5 if kind == "redirects" else 3)

    verifying()  # reads the system's certificates, which takes a while
    run(main(), patience_s=0.002)


# -- recv, send and close over TLS ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def secured(
    link: Link, contexts: tuple[ssl.SSLContext, ssl.SSLContext], role: str, **options: Any
) -> AsyncIterator[tuple[portico.WebSocket, portico.WebSocket]]:
    """Our end over TLS, and the other."""
    ends = {"client": {"ssl": contexts[0]}, "server": {"ssl": contexts[1]}}
    async with pair(link=link, uri="wss://localhost/", **ends, **options) as both:
        assert both.client.stream.tls
        yield sides(both, role)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_recv_loses_no_message(role: str, seed: int, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    rng = random.Random(seed)
    messages = [f"{number} " + "a" * rng.randrange(200) for number in range(40)]

    async def main() -> None:
        with Link() as link:
            link.tear(seed)
            async with secured(link, contexts, role, deflate=TAKEOVER) as (ours, theirs):

                async def talk() -> None:
                    for message in messages:
                        await theirs.send(message)
                        await asyncio.sleep(rng.choice([0, 0, 0.001, 0.02]))

                talking = asyncio.create_task(talk())
                got: list[object] = []
                while len(got) < len(messages):
                    ways: list[Callable[[], Coroutine[Any, Any, Any]]] = [ours.recv, ours.__anext__]
                    message = await maybe(rng, rng.choice(ways)())
                    if message is not CANCELLED:
                        got.append(message)
                await talking
                assert got == messages

    run(main())


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_send_is_all_or_nothing(role: str, seed: int, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    rng = random.Random(seed)
    sent: list[str] = []
    cancelled: list[str] = []
    got: list[str | bytes] = []

    async def main() -> None:
        with Link() as link:
            link.tear(seed)
            for sock in (link.client, link.server):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            async with secured(link, contexts, role, deflate=TAKEOVER, limits=NARROW) as (ours, theirs):

                async def talk(name: int) -> None:
                    for number in range(12):
                        message = f"{name} {number} " + "".join(rng.choices("abcdef", k=rng.randrange(1500)))
                        done = await maybe(rng, wrapped(lambda message=message: ours.send(message)))
                        (cancelled if done is CANCELLED else sent).append(message)

                async def jam() -> None:
                    while True:
                        link.pause()
                        await asyncio.sleep(rng.uniform(0, 0.05))
                        link.resume()
                        await asyncio.sleep(rng.uniform(0, 0.01))

                async def listen() -> None:
                    async for message in theirs:
                        got.append(message)

                listening = asyncio.create_task(listen())
                jamming = asyncio.create_task(jam())
                await asyncio.gather(*(talk(name) for name in range(4)))
                jamming.cancel()
                await asyncio.gather(jamming, return_exceptions=True)
                link.resume()
                await ours.close()
                await listening

    run(main(), limit_s=600)
    assert sorted(got) == sorted(sent)
    assert cancelled


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_cancelled_close_goes_on(role: str, seed: int, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    rng = random.Random(seed)

    async def main() -> None:
        with Link() as link:
            async with secured(link, contexts, role) as (ours, theirs):
                link.delay(rng.choice([0, 0.01]))
                for _ in range(4):
                    await maybe(rng, wrapped(lambda: ours.close(4001, "done")))
                await ours.close(4002)
                await theirs.close()
                assert ours.closed == portico.Close(4001, "done", clean=True, by="us")
                assert theirs.closed == portico.Close(4001, "done", clean=True, by="peer")
                await turns()

    run(main())
