"""Rooms followed by polling: the same as by Server-Sent Events and by a WebSocket in the room, at any pace."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from tests.realtime.followers import following, member, poll, realtime, refused, url
from tests.realtime.raw import Raw, Socket, serving
from tests.support import Peer, get, turns, until

import portico
from portico.brokers.memory import MemoryBroker, MemoryHub
from portico.realtime import History


def args_of(answer: dict[str, Any]) -> list[Any]:
    assert answer["gap"] is None
    return [event["args"] for event in answer["events"]]


async def test_without_a_position_it_is_that_of_now_also_where_nothing_was_ever_emitted() -> None:
    io = realtime()
    async with serving(io) as raw:
        first = await poll(raw, "a")
        assert first == {"events": [], "position": first["position"], "gap": None, "more": False}
        io.to("a").emit("tick", 1, b"\x00")
        io.to("a").emit("tock")
        answer = await poll(raw, "a", since=first["position"])
        one, two = answer["events"]
        assert (one["name"], one["args"], one["room"]) == ("tick", [1, {"base64": "AA=="}], "a")
        assert one["time"] <= two["time"]
        assert two["position"] == answer["position"]
        assert args_of(await poll(raw, "a", since=one["position"])) == [[]]
        assert args_of(await poll(raw, "a", since=answer["position"])) == []
        assert io.counters.polls == 4


async def test_the_newest_few() -> None:
    io = realtime()
    async with serving(io) as raw:
        for n in range(5):
            io.to("ab"[n % 2]).emit("n", n)
        io.to("a", "b").emit("n", 5)
        assert args_of(await poll(raw, "a", "b", last="4")) == [[2], [3], [4], [5]]
        assert args_of(await poll(raw, "a", last="100")) == [[0], [2], [4], [5]]


async def test_at_most_so_many_and_on_from_there() -> None:
    io = realtime()
    async with serving(io) as raw:
        position = (await poll(raw, "a", "b"))["position"]
        for n in range(7):
            io.to(*random.choice((["a"], ["b"], ["b", "a"]))).emit("n", n)
        got = []
        while True:
            answer = await poll(raw, "a", "b", since=position, limit="2")
            got += args_of(answer)
            position = answer["position"]
            if not answer["more"]:
                break
            assert len(answer["events"]) == 2
        assert got == [[n] for n in range(7)]


async def test_an_answer_is_bounded_by_bytes() -> None:
    io = realtime(max_outbox_bytes=10_000)
    async with serving(io) as raw:
        position = (await poll(raw, "a"))["position"]
        for _ in range(5):
            io.to("a").emit("n", "x" * 6000)
        answer = await poll(raw, "a", since=position)
        assert (len(answer["events"]), answer["more"]) == (2, True)


@pytest.mark.parametrize("since", ["another:1", "nonsense", "1:1,2:2"])
async def test_a_position_that_is_not_known_is_a_gap(since: str) -> None:
    io = realtime()
    async with serving(io) as raw:
        io.to("a").emit("n", 1)
        answer = await poll(raw, "a", since=since, wait="10")
        assert answer["gap"]
        assert answer["events"] == []
        io.to("a").emit("n", 2)
        assert args_of(await poll(raw, "a", since=answer["position"])) == [[2]]


async def test_a_gap_in_one_room_is_told_of_that_one() -> None:
    io = realtime(history=History(count=1))
    async with serving(io) as raw:
        position = (await poll(raw, "a", "b"))["position"]
        io.to("a").emit("n", 1)
        io.to("a").emit("n", 2)
        io.to("b").emit("n", 3)
        answer = await poll(raw, "a", "b", since=position)
        assert answer["gap"] == "a: 1 of the 2 messages after that position are no longer kept"
        assert [event["args"] for event in answer["events"]] == [[3]]


async def test_a_poll_that_waits_is_answered_when_there_is_something() -> None:
    io = realtime()
    async with serving(io) as raw:
        waiting = asyncio.ensure_future(poll(raw, "a", wait="60"))
        await until(lambda: io.counters.polls)
        await turns()
        assert not waiting.done()
        io.to("b").emit("n", "not ours")
        io.to("a").emit("n", 1)
        io.to("a").emit("n", 2)  # of the same turn: it goes along
        answer = await waiting
        assert args_of(answer) == [[1], [2]]
        waiting = asyncio.ensure_future(poll(raw, "a", wait="60", since=answer["position"]))
        await until(lambda: io.counters.polls == 2)
        io.to("a").emit("n", 3)
        assert args_of(await waiting) == [[3]]


async def test_a_poll_that_waits_ends_in_time_and_with_the_server() -> None:
    io = realtime()
    async with serving(io) as raw:
        first = await poll(raw, "a", wait="0.05")
        assert args_of(first) == []
        waiting = asyncio.ensure_future(poll(raw, "a", wait="60", since=first["position"]))
        await until(lambda: io.counters.polls == 2)
        await turns()
        ending = asyncio.ensure_future(raw.server.close())
        assert await waiting == first
        await ending


async def test_who_leaves_while_waiting_is_forgotten() -> None:
    io = realtime()
    async with serving(io) as raw:
        async with await Peer.connect(raw.server) as peer:
            peer.send(get("/socket.io/events?room=a&wait=60"))
            await until(lambda: io.counters.polls)
        assert io.feeds is not None
        await until(lambda: not any(feed.watchers for feed in io.feeds.followed))  # type: ignore[union-attr]


async def test_it_is_refused_as_streams_are() -> None:
    io = realtime()

    @io.use_streams
    def only_a(request: portico.Request, room: str) -> bool:
        return room == "a"

    async with serving(io) as raw:
        assert await refused(raw, url(raw, "b", since="")) == "not authorized"
        assert args_of(await poll(raw, "a")) == []


async def test_accept_decides_where_the_query_does_not() -> None:
    io = realtime()
    async with serving(io) as raw:
        for accept, kind in (("application/json", "application/json"), ("*/*", "text/event-stream")):
            async with raw.http.get(url(raw, "a"), headers={"Accept": accept}) as response:
                assert response.headers["Content-Type"] == kind
                assert response.headers["Cache-Control"] == "no-store"
        async with raw.http.get(url(raw, "a", since=""), headers={"Accept": "text/event-stream"}) as response:
            assert response.headers["Content-Type"] == "text/event-stream"


# -- four ways to carry one stream -------------------------------------------------------------------------------------


async def by_polling(raw: Raw, position: str, last: int, wait: str) -> list[int]:
    got: list[int] = []
    while not got or got[-1] != last:
        answer = await poll(raw, "a", since=position, wait=wait, limit=str(random.randrange(1, 20)))
        got += [args[0] for args in args_of(answer)]
        position = answer["position"]
        await turns(random.randrange(30))
    return got


async def by_events(raw: Raw, position: str, last: int) -> list[int]:
    got: list[int] = []
    while not got or got[-1] != last:
        async with following(raw, "a", after=position) as reader:
            for _ in range(random.randrange(1, 40)):
                got += (await reader.take(1))[0]
                position = reader.id
                if got[-1] == last:
                    break
    return got


async def by_websocket(socket: Socket, last: int) -> list[int]:
    got: list[int] = []
    while not got or got[-1] != last:
        message = await socket.next()
        assert isinstance(message, str)
        got.append(json.loads(message[2:])[1])
    return got


@pytest.mark.parametrize("seed", range(2))
async def test_polling_long_polling_a_long_response_and_websocket_carry_the_same(seed: int) -> None:
    random.seed(seed)
    hub = MemoryHub()
    ones, twos = (realtime(broker=MemoryBroker(hub)) for _ in range(2))
    last = 400
    async with serving(ones) as here, serving(twos) as there, here.socket() as socket, there.socket() as other:
        await member(socket, ones, "a")
        await member(other, twos, "a")
        start = (await ones.room("a").history.read()).position
        readers = [asyncio.ensure_future(by_websocket(each, last)) for each in (socket, other)]
        for raw in (here, there):
            readers += [
                asyncio.ensure_future(by_polling(raw, start, last, "0")),
                asyncio.ensure_future(by_polling(raw, start, last, "10")),
                asyncio.ensure_future(by_events(raw, start, last)),
            ]
        for n in range(last + 1):
            random.choice((ones, twos)).to("a").emit("n", n)
            await turns(random.randrange(5))
        order = [event.args[0] for event in (await ones.room("a").history.read()).events]
        assert sorted(order) == list(range(last + 1))
        for reader in readers:
            assert await reader == order
