"""Where two things happen at once: what is read of a history and what is delivered, what is put in another's place,
what begins and what ends. Nothing is lost there, doubled, or left waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.realtime.followers import SSE, member, realtime, url
from tests.realtime.raw import Socket, serving
from tests.realtime.test_slow_recipients import events, stalled
from tests.support import Peer, get, until

import portico
from portico.brokers.memory import MemoryBroker, MemoryHub
from portico.realtime import History, Recovery
from portico.realtime.feeds import MAX_LINGERING


class Interrupted(MemoryBroker):
    """A broker to whose histories something happens right before they are read, or that waits before it reads them."""

    before: Callable[[], object] | None = None
    gate: asyncio.Event | None = None
    reading = 0

    async def history(self, *args: Any, **options: Any) -> Any:
        if self.before is not None:
            self.before()
        if self.gate is not None:
            self.reading += 1
            await self.gate.wait()
        return await super().history(*args, **options)


async def connect(socket: Socket, **auth: Any) -> dict[str, str]:
    await socket.opened()
    await socket.send("40" + json.dumps(auth))
    message = await socket.next()
    assert isinstance(message, str)
    assert message.startswith("40"), message
    return dict(json.loads(message[2:]))


async def event(socket: Socket) -> list[Any]:
    message = await socket.next()
    assert isinstance(message, str)
    return list(json.loads(message[2:]))


@pytest.mark.parametrize("rooms", [[], ["a"]])
async def test_what_another_node_emits_while_a_client_comes_back_comes_once(rooms: list[str]) -> None:
    """It is in the history already, and this node has not delivered it yet."""
    hub = MemoryHub()
    broker = Interrupted(hub)
    here = portico.Realtime(recovery=Recovery(), broker=broker)
    there = portico.Realtime(recovery=Recovery(), broker=MemoryBroker(hub))
    target = there.to(*rooms) if rooms else there
    async with serving(here) as raw, serving(there):
        async with raw.socket() as socket:
            told = await connect(socket)
            here.clients[told["sid"]].join("a")
            target.emit("n", 0)
            offset = (await event(socket))[-1]
        await until(lambda: not here.clients)
        target.emit("n", 1)
        broker.before = lambda: target.emit("n", 2)
        async with raw.socket() as socket:
            assert (await connect(socket, pid=told["pid"], offset=offset))["sid"] == told["sid"]
            broker.before = None
            here.emit("n", 3)
            assert [(await event(socket))[1] for _ in range(3)] == [1, 2, 3]


async def test_who_leaves_while_it_waits_for_that_may_come_back_again() -> None:
    hub = MemoryHub()
    broker = Interrupted(hub)
    here = portico.Realtime(recovery=Recovery(), broker=broker)
    there = portico.Realtime(recovery=Recovery(), broker=MemoryBroker(hub))
    async with serving(here) as raw, serving(there):
        async with raw.socket() as socket:
            told = await connect(socket)
        await until(lambda: not here.clients)

        def cut() -> None:
            there.emit("n", 1)
            raw.session.close("transport close")

        broker.before = cut
        async with raw.socket() as socket:
            await socket.opened()
            await socket.send("40" + json.dumps({"pid": told["pid"]}))
            await until(lambda: not here.engine.sessions)
        broker.before = None
        assert not here._root.claims
        async with raw.socket() as socket:
            assert (await connect(socket, pid=told["pid"]))["sid"] == told["sid"]
            assert (await event(socket))[1] == 1


async def test_a_newer_value_is_behind_what_came_before_it_where_clients_come_back() -> None:
    """A client is asked for the last that it got: were the newest value first, the event after it would be lost."""
    io = portico.Realtime(recovery=Recovery(), max_payload_bytes=100)
    async with serving(io) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        told = json.loads((await raw.get(sid))[2:])
        io.latest("price").emit("price", 1)
        io.emit("n", 1)
        io.latest("price").emit("price", 2)
        io.latest("price").emit("price", 3)
        first = json.loads((await raw.get(sid))[2:])
        assert first[:2] == ["n", 1]
        assert io.counters.replaced == 2
        raw.session.close("transport close", discard=True)
        async with raw.socket() as socket:
            await connect(socket, pid=told["pid"], offset=first[-1])
            assert [(await event(socket))[:2] for _ in range(2)] == [["price", 2], ["price", 3]]


async def test_a_newer_value_is_behind_it_on_websocket_as_well() -> None:
    io = portico.Realtime(recovery=Recovery())
    async with serving(io, deflate=None) as raw, stalled(raw) as (socket, client, go_on):
        for n in range(5):
            io.latest("price").emit("price", n)
            client.emit("n", n)
        assert io.counters.replaced == 4
        io.emit("end")
        go_on()
        got = [event[:2] for event in await events(socket, "end")]
        assert got[:-1] == [["n", 0], ["n", 1], ["n", 2], ["n", 3], ["price", 4], ["n", 4]]


async def test_a_joined_room_leaves_nothing_behind_while_the_other_nodes_can_not_be_reached() -> None:
    hub = MemoryHub()
    io = portico.Realtime(broker=MemoryBroker(hub))
    async with serving(io) as raw, raw.socket() as socket:
        client = await member(socket, io, "a")
        hub.cut(io.broker)  # type: ignore[arg-type]
        for n in range(10):
            client.join(f"room {n}")
        assert client._joining is None
        hub.mend(io.broker)  # type: ignore[arg-type]
        assert io.to("room 9").emit("n").delivered == 1


@pytest.mark.parametrize("excepts", [[], ["y" * 200] * 20])
async def test_an_event_that_is_too_much_for_a_history_reaches_nobody(excepts: list[str]) -> None:
    io = realtime(history=History(max_bytes=50_000))
    async with serving(io) as raw, raw.socket() as socket:
        await member(socket, io, "a")
        taken = 0
        refusal = ""
        for size in itertools.count(33_000, 50):
            try:
                io.to("a", "b").except_(*excepts).emit("n", [b""] * 300, "x" * size)
            except portico.LocalError as error:
                refusal = str(error)
                break
            taken += 1
            for _ in range(301):
                await socket.next()
        assert "raise History(max_bytes=50000)" in refusal
        io.emit("end")
        await socket.expect('42["end"]')
        for room in ("a", "b"):
            assert (await io.room(room).history.read()).position.endswith(f":{taken}")


async def test_a_stream_that_begins_while_the_server_stops_ends_at_once() -> None:
    broker = Interrupted()
    io = realtime(broker=broker)
    async with serving(io) as raw, await Peer.connect(raw.server) as peer:
        broker.gate = asyncio.Event()
        peer.send(get("/socket.io/events?room=a&last=1"))
        await until(lambda: broker.reading)
        ending = asyncio.ensure_future(raw.server.close())
        await until(lambda: raw.server.stopping)
        broker.gate.set()
        async with asyncio.timeout(5):
            await ending


@pytest.mark.parametrize("stream", [True, False])
async def test_a_room_that_is_let_go_of_while_it_is_asked_for_is_asked_for_again(stream: bool) -> None:
    """Of rooms that nobody watches a bounded number is followed, those left first go first."""
    broker = Interrupted()
    io = realtime(broker=broker)
    async with serving(io) as raw:
        broker.gate = asyncio.Event()
        query = {"last": "1"} if stream else {"last": "1", "wait": "60"}
        asking = asyncio.ensure_future(
            raw.http.get(url(raw, "a", **query), headers=SSE if stream else None).__aenter__()
        )
        await until(lambda: broker.reading)
        broker.gate.set()
        broker.gate = None
        for n in range(MAX_LINGERING + 1):
            await io.feeds.open("/", f"room {n}")  # type: ignore[union-attr]
        async with asyncio.timeout(5):
            response = await asking
            assert response.status == (200 if stream else 503)
            assert (b"retry: " in await response.read()) is stream
        assert len(io.feeds.followed) <= MAX_LINGERING  # type: ignore[union-attr]
