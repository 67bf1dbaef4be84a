"""The realtime client and Portico's own server: every transport, refusals, and a recovery that leaves no gap."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.realtime.client_peers import WAYS, Got, Relay, client_of, no_proxy, nothing_left  # noqa: F401
from tests.support import GUARD_S, serving, until

import portico
from portico.realtime.recovery import Recovery

pytestmark = pytest.mark.usefixtures("no_proxy", "nothing_left")


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[portico.Realtime, Relay]]:
    """A server behind a relay."""
    io = portico.Realtime(**options)

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        if (auth or {}).get("token") == "no":
            raise portico.Refuse("not you", data={"code": 7})
        client.join("lobby")

    @io.on("echo")
    async def echo(client: Any, *args: Any) -> None:
        client.emit("echo", *args)

    @io.on("give")
    async def give(client: Any, value: Any) -> Any:
        return value

    @io.on("ask me", concurrent=True)
    async def ask_me(client: Any, value: Any) -> str:
        return f"you said {await client.call('question', value, timeout=GUARD_S)}"

    app = portico.App()
    app.mount("/socket.io", io)
    async with serving(app) as server, Relay.running(server.port) as relay:
        yield io, relay


@pytest.mark.parametrize("way", WAYS)
async def test_events_and_acknowledgements_both_ways(way: str) -> None:
    async with running() as (_, relay):
        client = client_of(relay, way)
        got = Got(client, "echo")
        client.on("question", lambda value: f"got {value}")
        async with client:
            client.emit("echo", 1, b"\x00", {"deep": [b"x"]})
            assert await got.next() == ("echo", 1, b"\x00", {"deep": [b"x"]})
            assert await client.call("give", [1, b"2"]) == [1, b"2"]
            assert await client.call("ask me", 5) == "you said got 5"


@pytest.mark.parametrize("way", WAYS)
async def test_a_refusal_comes_with_its_data(way: str) -> None:
    async with running() as (_, relay):
        with pytest.raises(portico.ConnectError, match="not you") as caught:
            await client_of(relay, way, auth={"token": "no"}).connect()
        assert caught.value.data == {"code": 7}


@pytest.mark.parametrize("way", WAYS)
async def test_recovery_also_where_nothing_was_sent_before_the_cut(way: str) -> None:
    async with running(recovery=Recovery()) as (io, relay):
        client = client_of(relay, way)
        got = Got(client, "connect", "disconnect", "news")
        async with client:
            assert await got.next() == ("connect",)
            name = client.id
            relay.refusing = True
            relay.cut()
            assert (await got.next())[0] == "disconnect"
            io.emit("news", 1)
            io.to("lobby").emit("news", 2, "text", b"\x02")
            relay.refusing = False
            assert await got.next() == ("connect",)
            assert (client.recovered, client.id) == (True, name)
            assert await got.next() == ("news", 1)
            assert await got.next() == ("news", 2, "text", b"\x02")


@pytest.mark.parametrize("way", WAYS)
async def test_whatever_is_cut_every_event_comes_once_and_in_order(way: str) -> None:
    rng = random.Random(way)
    async with running(recovery=Recovery()) as (io, relay):
        client = client_of(relay, way, backoff=portico.Backoff(first_s=0.001, longest_s=0.005))
        numbers: list[int] = []
        lost = 0

        @client.on("connect")
        async def connect() -> None:
            nonlocal lost
            lost += not client.recovered

        @client.on("news")
        async def news(n: int) -> None:
            numbers.append(n)

        async with client:
            for n in range(500):
                io.emit("news", n)
                if rng.random() < 0.04:
                    relay.cut()
                if n % 5 == 0:
                    await asyncio.sleep(0.002)
            await until(lambda: numbers and numbers[-1] == 499)
        assert (lost, numbers) == (1, list(range(500)))
