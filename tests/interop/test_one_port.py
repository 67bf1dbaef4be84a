"""The promise of one port, with real clients: HTTP and WebSocket connections come, talk and go; none disturbs another.

A connects and upgrades, and talks to the server all the time. B makes plain HTTP requests meanwhile, on connections of
its own. C connects, upgrades and leaves without a word. A's messages come back in order and complete, over the same
connection, and new connections of both kinds go on being accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest
import pytest_asyncio
from tests.browser import launched
from tests.interop.peers import KINDS, Message, Node, Peer, Peers

import portico

MIB = 1024 * 1024
PATIENCE_S = 30
CLEAN_UP_S = 3
IN_FLIGHT = 8
PATHS = ("/echo", "/endpoint")
SUBPROTOCOLS = ("chat.v2", "chat.v1")

pytestmark = pytest.mark.asyncio(loop_scope="module")


# -- the server ----------------------------------------------------------------------------------------------------


class Port:
    """One Portico server with every kind of handler, and how each of its WebSockets ended."""

    server: portico.Server

    def __init__(self) -> None:
        self.ends: dict[str, asyncio.Future[portico.Close]] = {}
        self.app = portico.App()
        self.app.websocket("/echo", self._echo)
        self.app.websocket("/endpoint", EchoEndpoint(self))
        self.app.mount("/", page)

    async def _echo(self, ws: portico.WebSocket) -> None:
        self.ends[ws.id] = asyncio.get_running_loop().create_future()
        async for message in ws:
            await ws.send(message)
        assert ws.closed is not None
        self.ends[ws.id].set_result(ws.closed)

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def ws(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.server.port}{path}"

    def sockets(self) -> dict[str, portico.Connection]:
        """The open WebSockets' connections by the id of the WebSocket."""
        return {one.websocket.id: one for one in self.server.connections if one.websocket is not None}

    async def all_ended(self) -> None:
        """Wait until every WebSocket there ever was has ended; none may be left over."""
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self.ends.values())
        assert self.sockets() == {}


class EchoEndpoint(portico.Endpoint):
    def __init__(self, port: Port) -> None:
        self._port = port

    def on_open(self, ws: portico.WebSocket) -> None:
        self._port.ends[ws.id] = asyncio.get_running_loop().create_future()

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        ws.write(message)

    def on_close(self, ws: portico.WebSocket, close: portico.Close) -> None:
        self._port.ends[ws.id].set_result(close)


async def page(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application: answers with who asked, and with the body that came."""
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    body = b""
    more = True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    answer = b"%s %s from %d: %s" % (scope["method"].encode(), scope["raw_path"], scope["client"][1], body)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def asked_from(answer: str, method: str, path: str, body: str = "") -> int:
    """Check one of `page`'s answers; returns the client's port in it."""
    head, _, rest = answer.partition(": ")
    words = head.split(" ")
    assert (words[:3], rest) == ([method, path, "from"], body)
    return int(words[3])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def peers() -> AsyncIterator[Peers]:
    async with Node.running() as node, launched() as browser, await browser.new_context() as context:
        yield Peers(node, context)


@pytest_asyncio.fixture(loop_scope="module")
async def port() -> AsyncIterator[Port]:
    port = Port()
    async with portico.serve(port.app, "127.0.0.1", 0, subprotocols=SUBPROTOCOLS) as server:
        port.server = server
        yield port


@asynccontextmanager
async def opened(
    peers: Peers, port: Port, kind: str, path: str, **options: Any
) -> AsyncIterator[tuple[Peer, portico.Connection]]:
    """A peer and its connection as the server shows it."""
    async with asyncio.timeout(PATIENCE_S):
        before = set(port.sockets())
        peer = await peers.open(kind, port.ws(path), **options)
        (connection,) = [one for id, one in port.sockets().items() if id not in before]
        assert peer.port is None or connection.peer == ("127.0.0.1", peer.port)
        try:
            yield peer, connection
        except BaseException:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLEAN_UP_S):
                    await peer.vanish()
            raise


# -- A: one conversation without end -------------------------------------------------------------------------------


class Conversation:
    """Numbered messages, text and binary by turns, some in flight all the time; each must come back, in order."""

    def __init__(self, peer: Peer) -> None:
        self.answered = 0
        self._peer = peer
        self._stopping = False
        self._moved = asyncio.Event()
        self._task = asyncio.create_task(self._talk())

    @staticmethod
    def message(n: int) -> Message:
        text = f"message {n} " + "é" * (n * 37 % 900)  # on both sides of the size from which messages are compressed
        return text if n % 2 else text.encode() + b"\xff"

    async def _talk(self) -> None:
        try:
            sent = 0
            while not self._stopping or self.answered < sent:
                while sent < self.answered + IN_FLIGHT and not self._stopping:
                    await self._peer.send(self.message(sent))
                    sent += 1
                if self.answered < sent:
                    assert await self._peer.recv() == self.message(self.answered)
                    self.answered += 1
                self._moved.set()
                self._moved.clear()
        finally:
            self._stopping = True
            self._moved.set()

    async def goes_on(self) -> None:
        """Wait until everything now in flight and as much again has come back."""
        goal = self.answered + 2 * IN_FLIGHT
        while self.answered < goal:
            if self._task.done():
                await self._task
                pytest.fail("the conversation ended")
            await self._moved.wait()

    async def __aenter__(self) -> Conversation:
        await self.goes_on()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._stopping = True
        if error is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        else:
            await self._task


# -- B: plain HTTP -------------------------------------------------------------------------------------------------


def http_client(**options: Any) -> httpx.AsyncClient:
    """No TLS here, and reading the authorities takes long; a kept connection is kept however long that takes."""
    kept = httpx.Limits(keepalive_expiry=None)
    return httpx.AsyncClient(verify=False, **{"limits": kept, **options})


async def by_httpx_kept_alive(base: str) -> int:
    async with http_client() as client:
        ports = {asked_from((await client.get(f"{base}/a{n}")).text, "GET", f"/a{n}") for n in range(5)}
        answer = await client.post(f"{base}/form", content="x" * 100_000)
        ports.add(asked_from(answer.text, "POST", "/form", "x" * 100_000))
    assert len(ports) == 1
    return 1


async def by_httpx_closed(base: str) -> int:
    ports = set()
    for n in range(3):
        async with http_client(headers={"Connection": "close"}) as client:
            answer = await client.get(f"{base}/b{n}")
            assert answer.headers["connection"] == "close"
            ports.add(asked_from(answer.text, "GET", f"/b{n}"))
    assert len(ports) == 3
    return 3


async def by_aiohttp(base: str) -> int:
    """Several at once, each connection kept alive and used again."""
    ports = set()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2)) as session:

        async def ask(n: int) -> None:
            async with session.get(f"{base}/c{n}") as answer:
                ports.add(asked_from(await answer.text(), "GET", f"/c{n}"))

        await asyncio.gather(*map(ask, range(10)))
    assert len(ports) == 2
    return 2


async def _curl(*arguments: str) -> list[str]:
    found = shutil.which("curl")
    if found is None:
        pytest.fail("the tests need curl: apt-get install curl")
    process = await asyncio.create_subprocess_exec(
        found, "--http1.1", "-sS", "-w", "\n", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().splitlines()


async def by_curl_kept_alive(base: str) -> int:
    answers = await _curl(*(f"{base}/d{n}" for n in range(4)))
    ports = {asked_from(answer, "GET", f"/d{n}") for n, answer in enumerate(answers)}
    assert (len(answers), len(ports)) == (4, 1)
    return 1


async def by_curl_closed(base: str) -> int:
    answers = await _curl("-H", "Connection: close", *(f"{base}/e{n}" for n in range(3)))
    ports = {asked_from(answer, "GET", f"/e{n}") for n, answer in enumerate(answers)}
    assert (len(answers), len(ports)) == (3, 3)
    return 3


HTTP_CLIENTS: tuple[Callable[[str], Awaitable[int]], ...] = (
    by_httpx_kept_alive,
    by_httpx_closed,
    by_aiohttp,
    by_curl_kept_alive,
    by_curl_closed,
)


# -- the promise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c_kind", KINDS)
@pytest.mark.parametrize("a_kind", KINDS)
async def test_connections_come_and_go_and_none_disturbs_another(
    port: Port, peers: Peers, a_kind: str, c_kind: str
) -> None:
    path = PATHS[(KINDS.index(a_kind) + KINDS.index(c_kind)) % 2]  # each kind meets both
    async with opened(peers, port, a_kind, path) as (a, a_connection), http_client() as kept:
        identity = (a_connection.id, a_connection.local, a_connection.peer)
        assert a_connection.protocol == "websocket"
        async with Conversation(a) as talk:
            kept_port = asked_from((await kept.get(f"{port.http}/kept")).text, "GET", "/kept")

            async def undisturbed() -> None:
                """A's conversation moves on; its connection and B's kept one are the same as ever."""
                await talk.goes_on()
                assert (a_connection.id, a_connection.local, a_connection.peer) == identity
                assert [one.id for one in port.server.connections].count(identity[0]) == 1
                assert a_connection.state == "open"
                assert asked_from((await kept.get(f"{port.http}/kept")).text, "GET", "/kept") == kept_port

            accepted = port.server.accepted
            for ask in HTTP_CLIENTS:
                accepted += await ask(port.http)
                await undisturbed()
            assert port.server.accepted == accepted

            for c_path in PATHS:
                await comes_and_vanishes(port, peers, c_kind, c_path, undisturbed)
                await by_httpx_closed(port.http)
                await undisturbed()
        assert await a.close(1000, "") == 1000
    await port.all_ended()


async def comes_and_vanishes(
    port: Port, peers: Peers, kind: str, path: str, undisturbed: Callable[[], Awaitable[None]]
) -> None:
    """C: connects, upgrades, exchanges messages, and leaves abruptly."""
    async with opened(peers, port, kind, path) as (c, connection):
        assert connection.websocket is not None
        ended = port.ends[connection.websocket.id]
        for message in ("from C", b"\x00from C"):
            await c.send(message)
            assert await c.recv() == message
        await undisturbed()
        assert len(port.sockets()) == 2
        await c.vanish()
        close = await ended
        if kind == "chromium" and close.code == 1001:  # a page that is left may still say goodbye
            assert (close.clean, close.by) == (True, "peer")
        else:
            assert (close.code, close.clean, close.by) == (1006, False, "network")
        await undisturbed()
        assert len(port.sockets()) == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
async def test_http_and_websocket_by_the_hundred_at_once(port: Port, peers: Peers, kind: str, path: str) -> None:
    """A's conversation goes on while HTTP requests and other WebSockets are opened all at the same time."""
    async with opened(peers, port, kind, path) as (a, a_connection):
        async with Conversation(a) as talk:
            before = port.server.accepted

            async def visit(n: int) -> None:
                c = await peers.open("websockets", port.ws(path))
                await c.send(f"visit {n}")
                assert await c.recv() == f"visit {n}"
                await (c.vanish() if n % 2 else c.close(1000, ""))

            made = await asyncio.gather(*(ask(port.http) for ask in HTTP_CLIENTS * 3), *map(visit, range(50)))
            assert port.server.accepted - before == sum(filter(None, made)) + 50
            await talk.goes_on()
            assert a_connection.state == "open"
        assert await a.close(1000, "") == 1000
    await port.all_ended()


# -- what each peer must be able to do with it ---------------------------------------------------------------------


def noise(size: int) -> bytes:
    """Bytes that don't compress."""
    return random.Random(7).randbytes(size)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
async def test_messages_up_to_the_limit_come_back_whole(port: Port, peers: Peers, kind: str, path: str) -> None:
    """RFC 6455 §5.6; the limit of 1 MiB counts the message, not its frames or what compression made of it."""
    async with opened(peers, port, kind, path) as (peer, _):
        for message in ("", b"", "é€😀\x00", b"\x00\xff", "x" * 125, "x" * 126, b"y" * 65535, b"y" * 65536):
            await peer.send(message)
            assert await peer.recv() == message
        for big in (noise(MIB), b"\x00" * MIB, "a" * MIB, "€" * (MIB // 3)):
            await peer.send(big)
            assert await peer.recv() == big
        assert await peer.close(1000, "") == 1000


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_above_the_limit_ends_its_own_connection_alone(
    port: Port, peers: Peers, kind: str, path: str
) -> None:
    """RFC 6455 §7.4.1: 1009, and the limit in the reason; however small it is on the wire."""
    async with opened(peers, port, kind, path) as (other, _), opened(peers, port, kind, path) as (peer, _):
        await peer.send(b"\x00" * (MIB + 1))
        code, reason = await peer.closed()
        assert code == 1009
        assert str(MIB) in reason
        await other.send("still here")
        assert await other.recv() == "still here"
        await other.close(1000, "")


@pytest.mark.parametrize("kind", KINDS)
async def test_every_peer_agrees_on_permessage_deflate_and_it_is_used(port: Port, peers: Peers, kind: str) -> None:
    """RFC 7692 §5, §7: the answer names the extension, and what can be compressed is small on the wire, both ways."""
    async with opened(peers, port, kind, "/echo") as (peer, connection):
        assert peer.deflate
        text = "the same words again and again; " * 8192
        for message in (text, text.encode(), text):
            before = connection.bytes_in, connection.bytes_out
            await peer.send(message)
            assert await peer.recv() == message
            assert connection.bytes_in - before[0] < len(text) // 10
            assert connection.bytes_out - before[1] < len(text) // 10
        await peer.close(1000, "")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
async def test_pings_are_answered_both_ways(port: Port, peers: Peers, kind: str, path: str) -> None:
    """RFC 6455 §5.5.2, §5.5.3; in the middle of a conversation, too."""
    async with opened(peers, port, kind, path) as (peer, connection):
        assert connection.websocket is not None
        answer = asyncio.create_task(peer.recv()) if kind == "aiohttp" else None  # it answers pings while it reads
        assert await connection.websocket.ping() > 0
        assert connection.latency is not None
        await peer.send("between")
        assert await (answer or peer.recv()) == "between"
        if peer.can_ping:
            await peer.ping()
            await peer.send("after")
            assert await peer.recv() == "after"
        assert await peer.close(1000, "") == 1000


CLOSES = [
    pytest.param(1000, "", id="1000"),
    pytest.param(1000, "done", id="1000 done"),
    pytest.param(4000, "schöner Grund", id="4000 schön"),
    pytest.param(4999, "é" * 61, id="4999 longest reason"),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("code", "reason"), CLOSES)
@pytest.mark.parametrize("kind", KINDS)
async def test_code_and_reason_of_a_peers_close_arrive(
    port: Port, peers: Peers, kind: str, code: int, reason: str, path: str
) -> None:
    """RFC 6455 §5.5.1, §7.1.5, §7.1.6: the code comes back, and the handler learns both."""
    async with opened(peers, port, kind, path) as (peer, connection):
        ended = port.ends[connection.websocket.id]  # type: ignore[union-attr] # it has upgraded
        assert await peer.close(code, reason) == code
        close = await ended
        assert (close.code, close.reason, close.clean, close.by) == (code, reason, True, "peer")
    await port.all_ended()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("code", "reason"), CLOSES)
@pytest.mark.parametrize("kind", KINDS)
async def test_code_and_reason_of_the_servers_close_arrive(
    port: Port, peers: Peers, kind: str, code: int, reason: str, path: str
) -> None:
    """RFC 6455 §7.1.2: a closing handshake that the server begins; it closes TCP as well (§7.1.1)."""
    async with opened(peers, port, kind, path) as (peer, connection):
        ws = connection.websocket
        assert ws is not None
        seen, _ = await asyncio.gather(peer.closed(), ws.close(code, reason))
        assert seen == (code, reason)
        close = await port.ends[ws.id]
        assert (close.code, close.reason, close.clean, close.by) == (code, reason, True, "us")
    await port.all_ended()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("offered", "agreed"),
    [((), None), (("chat.v1",), "chat.v1"), (("chat.v1", "chat.v2"), "chat.v2"), (("other", "chat.v1"), "chat.v1")],
)
async def test_both_sides_agree_on_a_subprotocol(
    port: Port, peers: Peers, kind: str, offered: tuple[str, ...], agreed: str | None
) -> None:
    """RFC 6455 §4.2.2: the first of the server's that the client offered."""
    async with opened(peers, port, kind, "/echo", subprotocols=offered) as (peer, connection):
        assert connection.websocket is not None
        assert peer.subprotocol == connection.websocket.subprotocol == agreed
        await peer.close(1000, "")
