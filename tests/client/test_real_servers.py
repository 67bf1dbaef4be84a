"""The client against real servers, with and without TLS: messages, compression, subprotocols, pings and closing with
each of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from tests.client.fakes import GUARD_S, Certificates, nothing_left_behind
from tests.client.servers import CAN_FRAGMENT, CAN_PING, RUNNING, Server

import portico

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGES: list[str | bytes] = [
    "",
    b"",
    "grüße, 世界, 💩",
    b"\x00\xff" * 50,
    "x" * 125,
    b"y" * 126,
    "z" * 65_535,
    b"\x80" * 65_536,
    "é" * 500_000,
]


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=itertools.product(RUNNING, ["ws", "wss"]), ids="-".join
)
async def server(request: pytest.FixtureRequest, certificates: Certificates) -> AsyncIterator[Server]:
    kind, scheme = request.param
    certificate = certificates.signed() if scheme == "wss" else None
    async with RUNNING[kind](certificate) as server:
        server.kind = kind
        server.trusting = certificates.client() if certificate else None
        yield server
        assert server.ends.empty()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_left(server: Server) -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


@asynccontextmanager
async def connected(server: Server, **options: Any) -> AsyncIterator[portico.WebSocket]:
    """A connection that is closed afterwards, which the server sees."""
    async with asyncio.timeout(GUARD_S):
        async with server.connect(**options) as ws:
            yield ws
        assert await server.ended() == (1000, "")


async def test_messages_come_back_as_they_were(server: Server) -> None:  # RFC 6455 §5.6, §6
    async with connected(server) as ws:
        for message in MESSAGES:
            await ws.send(message)
            assert await ws.recv() == message
        for message in MESSAGES[:-1]:
            ws.write(message)
        assert [await ws.recv() for _ in MESSAGES[:-1]] == MESSAGES[:-1]


@pytest.mark.parametrize("deflate", [None, portico.Deflate()], ids=["plain", "compressed"])
async def test_fragments_are_one_message(server: Server, deflate: portico.Deflate | None) -> None:  # RFC 6455 §5.4
    async with connected(server, deflate=deflate) as ws:
        await ws.send("fragments")
        assert await ws.recv() == ("one message" if server.kind in CAN_FRAGMENT else "fragments")


async def test_endpoint_callbacks(server: Server) -> None:
    done: asyncio.Future[portico.Close] = asyncio.get_running_loop().create_future()
    told: list[object] = []

    class Told(portico.Endpoint):
        def on_open(self, ws: portico.WebSocket) -> None:
            told.append("open")
            ws.write("a")

        def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
            told.append(message)
            ws.close(4000, "enough")

        def on_close(self, ws: portico.WebSocket, close: portico.Close) -> None:
            done.set_result(close)

    async with asyncio.timeout(GUARD_S):
        await server.connect(endpoint=Told())
        close = await done
    assert told == ["open", "a"]
    assert close == portico.Close(4000, "enough", clean=True, by="us")
    assert await server.ended() == (4000, "enough")


@pytest.mark.parametrize("takeover", [False, True])
async def test_compression_is_agreed_and_used_both_ways(server: Server, takeover: bool) -> None:  # RFC 7692
    deflate = portico.Deflate(server_context_takeover=takeover, client_context_takeover=takeover)
    async with connected(server, deflate=deflate) as ws:
        before = ws.stream.bytes_out, ws.stream.bytes_in
        for message in ("compress me " * 10_000, b"\x00" * 100_000, "again " * 10_000):
            await ws.send(message)
            assert await ws.recv() == message
        after = ws.stream.bytes_out, ws.stream.bytes_in
    assert max(after[0] - before[0], after[1] - before[1]) < 10_000


async def test_without_compression(server: Server) -> None:
    async with connected(server, deflate=None) as ws:
        await ws.send("compress me " * 10_000)
        assert await ws.recv() == "compress me " * 10_000
        assert min(ws.stream.bytes_out, ws.stream.bytes_in) > 100_000


@pytest.mark.parametrize(("offered", "chosen"), [((), None), (["chat.v1", "chat.v2"], "chat.v2"), (["chat.v1"], None)])
async def test_subprotocols(server: Server, offered: list[str], chosen: str | None) -> None:  # RFC 6455 §1.9
    async with connected(server, subprotocols=offered) as ws:
        assert ws.subprotocol == chosen


async def test_pings_go_both_ways(server: Server) -> None:  # RFC 6455 §5.5.2
    async with connected(server) as ws:
        assert 0 < await ws.ping() < 5
        assert ws.latency is not None
        if server.kind in CAN_PING:
            await ws.send("ping")
            assert await ws.recv() == "pong"


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going"), (3000, "ä"), (4999, "x" * 123)])
async def test_our_close_reaches_the_server(server: Server, code: int, reason: str) -> None:  # RFC 6455 §7.1.2
    async with asyncio.timeout(GUARD_S):
        ws = await server.connect()
        await ws.close(code, reason)
    assert ws.closed == portico.Close(code, reason, clean=True, by="us")
    assert await server.ended() == (code, reason)
    with pytest.raises(portico.ConnectionClosed):
        await ws.recv()


@pytest.mark.parametrize(("code", "reason"), [(1000, "done"), (1008, "no"), (4001, "why")])
async def test_the_servers_close_reaches_us(server: Server, code: int, reason: str) -> None:  # RFC 6455 §7.1.5, §7.1.6
    async with asyncio.timeout(GUARD_S):
        ws = await server.connect()
        await ws.send(f"close {code} {reason}")
        assert [message async for message in ws] == []
        assert ws.closed == portico.Close(code, reason, clean=True, by="peer")
        await ws.close()
    assert (await server.ended())[0] == code  # our answer repeats the code (RFC 6455 §5.5.1)


async def test_a_refusal(server: Server) -> None:
    with pytest.raises(portico.HandshakeError) as caught:
        await server.connect("/no")
    assert caught.value.status in (403, 404)
    assert "expected 101" in str(caught.value)
    assert any(name in ("server", "date", "connection", "content-length") for name, _ in caught.value.headers)


async def test_many_at_once(server: Server) -> None:
    async def one(server: Server, number: int) -> None:
        async with connected(server) as ws:
            await ws.send(str(number))
            assert await ws.recv() == str(number)

    await asyncio.gather(*(one(server, number) for number in range(20)))
