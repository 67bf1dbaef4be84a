"""Both ends of one connection: what happens there is what happens over TCP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.support import descriptors, serving, turns

import portico
from portico import Close
from portico.testing import Link, Pair, pair, run


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


# -- conformance: the same over a pair and over TCP ------------------------------------------------------------------


@contextlib.asynccontextmanager
async def over_tcp(handler: Any, **options: Any) -> AsyncIterator[Pair]:
    async with serving(handler, **options) as server:
        client = await portico.connect(f"ws://127.0.0.1:{server.port}/", proxy=None, **options)
        ws = server.connections[0].websocket
        assert ws is not None
        try:
            yield Pair(client, ws)
        finally:
            await client.close()


Facts = list[Any]


async def messages_of_all_kinds(ends: Pair) -> Facts:
    facts: Facts = []
    for message in ("", "é" * 70, b"", bytes(126), "x" * 65535, bytes(65536), "y" * 200_000):
        await ends.client.send(message)
        facts.append(await ends.client.recv() == message)
    return facts


async def a_close_by_the_client(ends: Pair) -> Facts:
    await ends.client.close(4000, "bye")
    await ends.server.close()
    return [ends.client.closed, ends.server.closed]


async def a_close_by_the_server(ends: Pair) -> Facts:
    await ends.server.close(4001, "done")
    await ends.client.close()
    return [ends.client.closed, ends.server.closed]


async def a_message_that_is_too_big(ends: Pair) -> Facts:
    await ends.client.send(bytes(300_000))
    with pytest.raises(portico.ConnectionClosed) as caught:
        await ends.client.recv()
    await ends.server.close()
    return [caught.value.close, ends.server.closed]


async def what_was_agreed(ends: Pair) -> Facts:
    both = [ends.client, ends.server]
    return [
        *[ws.subprotocol for ws in both],
        *[ws.client for ws in both],
        ends.server.request.method,
        ends.server.request.path,
        sorted(name for name, _ in ends.server.request.headers if name.startswith("sec-")),
    ]


async def pings(ends: Pair) -> Facts:
    return [await ws.ping() >= 0 for ws in ends]


async def an_end_of_tcp(ends: Pair) -> Facts:
    ends.client.stream.abort()
    await _talk_on(ends.server)
    return [ends.server.closed, ends.client.closed]


async def _talk_on(ws: portico.WebSocket) -> None:
    with contextlib.suppress(portico.ConnectionClosed):
        while True:
            await ws.send("into the void")
            await asyncio.sleep(0)


CONFORMANCE = [
    messages_of_all_kinds,
    a_close_by_the_client,
    a_close_by_the_server,
    a_message_that_is_too_big,
    what_was_agreed,
    pings,
    an_end_of_tcp,
]


@pytest.mark.parametrize("check", CONFORMANCE)
async def test_the_same_over_a_pair_and_over_tcp(check: Callable[[Pair], Awaitable[Facts]]) -> None:
    options: dict[str, Any] = {"limits": portico.Limits(max_message_bytes=250_000), "subprotocols": ["chat"]}
    async with over_tcp(echo, **options) as ends:
        real = await check(ends)
    async with pair(echo, **options) as ends:
        assert await check(ends) == real

    async def simulated() -> Facts:
        with Link() as link:
            link.tear(1)
            async with pair(echo, link=link, **options) as ends:
                return await check(ends)

    assert await asyncio.to_thread(run, simulated()) == real
    assert real


# -- the pair --------------------------------------------------------------------------------------------------------


async def test_the_server_end_is_the_tests_without_a_handler() -> None:
    async with pair() as (client, server):
        await client.send("one")
        assert await server.recv() == "one"
        await server.send(b"two")
        assert await client.recv() == b"two"
        await client.send("last")
        await client.close()
        assert await server.recv() == "last"
        with pytest.raises(portico.ConnectionClosed):
            await server.recv()


async def test_callbacks_at_both_ends() -> None:
    said: list[Any] = []

    class Says(portico.Endpoint):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_open(self, ws: portico.WebSocket) -> None:
            ws.write(f"from the {self.name}")

        def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
            said.append((self.name, message))

        def on_close(self, ws: portico.WebSocket, close: Close) -> None:
            said.append((self.name, close))

    async with pair(Says("server"), endpoint=Says("client")) as (client, _):
        await client.ping()
    assert sorted(said[:2]) == [("client", "from the server"), ("server", "from the client")]
    assert sorted(said[2:], key=str) == [
        ("client", Close(1000, clean=True, by="us")),
        ("server", Close(1000, clean=True, by="peer")),
    ]


async def test_options_of_one_end() -> None:
    app = portico.App()
    app.websocket("/echo", echo, authenticate=lambda request: request.headers["x-user"])
    options: dict[str, Any] = {
        "uri": "ws://example.com/echo?a=b",
        "client": {"headers": {"X-User": "me"}, "origin": "http://example.com"},
        "server": {"limits": portico.Limits(max_message_bytes=10)},
    }
    async with pair(app, **options) as (client, server):
        assert server.user == "me"
        assert server.request.query == {"a": "b"}
        await client.send("x" * 11)
        with pytest.raises(portico.ConnectionClosed) as caught:
            await client.recv()
        assert caught.value.close.code == 1009


async def test_a_handshake_that_fails() -> None:
    with pytest.raises(portico.HandshakeError) as caught:
        async with pair(client={"origin": "http://elsewhere.test"}):
            pass
    assert caught.value.status == 403


async def test_a_handler_that_is_over_at_once() -> None:
    async def handler(ws: portico.WebSocket) -> None:
        await ws.close(4000)

    async with pair(handler) as (client, server):
        with pytest.raises(portico.ConnectionClosed):
            await client.recv()
        await server.close()
        assert server.closed == Close(4000, clean=True, by="us")


@pytest.mark.parametrize("fault", ["none", "drop", "cut", "pause", "reset", "raised"])
async def test_nothing_is_left(fault: str) -> None:
    """No task, no socket, no port, whatever became of the connection."""
    async with pair():
        pass  # what is made once is made
    await turns()
    tasks, before = asyncio.all_tasks(), descriptors()
    with contextlib.suppress(KeyError), Link(tcp=fault == "reset") as link:
        async with pair(echo, link=link):
            if fault == "raised":
                raise KeyError
            if fault != "none":
                getattr(link, fault)()
    await turns()
    assert asyncio.all_tasks() == tasks
    assert descriptors().keys() == before.keys()


@pytest.mark.parametrize("options", [{"uri": "http://nowhere"}, {"server": {"origins": 5}}, {"subprotocols": "chat"}])
async def test_wrong_options(options: dict[str, Any]) -> None:
    before = descriptors()
    with pytest.raises(portico.LocalError):
        async with pair(**options):
            pass
    assert descriptors().keys() == before.keys()


async def test_many_at_once() -> None:
    async with contextlib.AsyncExitStack() as stack:
        pairs = await asyncio.gather(*(stack.enter_async_context(pair(echo)) for _ in range(20)))
        await asyncio.gather(*(client.send("hello") for client, _ in pairs))
        assert await asyncio.gather(*(client.recv() for client, _ in pairs)) == ["hello"] * 20
