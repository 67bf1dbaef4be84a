"""Streams of rooms under strain: slow readers, and readers that come and go while history and new events meet."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import random
import time
from typing import Any

import pytest
from tests.realtime.followers import following, realtime
from tests.realtime.raw import serving
from tests.support import GUARD_S, Peer, get, turns, until

from portico.brokers.memory import MemoryBroker, MemoryHub
from portico.realtime import History
from portico.realtime.feeds import PART, Kept

KIB = 1024


async def numbers_of(slow: Peer, last: int) -> list[Any]:
    """The numbers that come on a connection until `last`, and "gap" where one is told."""
    assert (await slow.head()).status == 200
    got: list[Any] = []
    async with asyncio.timeout(GUARD_S):
        while not got or got[-1] != last:
            data = await slow.exactly(int(await slow.reader.readline(), 16) + 2)
            if b"event: n\n" in data:
                got.append(json.loads(data.partition(b"data: ")[2])[0])
            elif b"event: gap\n" in data:
                got.append("gap")
    return got


async def test_a_slow_reader_costs_no_memory_and_misses_nothing() -> None:
    io = realtime(history=History(max_bytes=64 * KIB * KIB))
    async with (
        serving(io) as raw,
        following(raw, "a") as quick,
        await Peer.connect(raw.server, receive_buffer=64 * KIB) as slow,
    ):
        slow.send(get("/socket.io/events?room=a"))
        await until(lambda: len(io.streams) == 2)
        n = more = 0
        while more < 100:
            io.to("a").emit("n", n, "x" * 20 * KIB)
            assert (await quick.take(1))[0][0] == n
            n += 1
            more += bool(io.counters.behind)
        assert io.counters.behind == 1
        assert max(listener.exchange.stream.buffered for listener in io.streams) <= 64 * KIB + 21 * KIB
        assert await numbers_of(slow, n - 1) == list(range(n))
        await until(lambda: all(listener not in listener.group.behind for listener in io.streams))
        io.to("a").emit("n", n)
        data = await slow.exactly(int(await slow.reader.readline(), 16) + 2)
        assert b"data: [%d]\n" % n in data


async def test_a_reader_that_is_slower_than_the_history_is_told_of_the_gap() -> None:
    io = realtime(history=History(count=10))
    async with serving(io) as raw, await Peer.connect(raw.server, receive_buffer=64 * KIB) as slow:
        slow.send(get("/socket.io/events?room=a"))
        await until(lambda: len(io.streams) == 1)
        n = more = 0
        while more < 100:
            io.to("a").emit("n", n, "x" * 20 * KIB)
            n += 1
            more += bool(io.counters.behind)
            await turns(1)
        reading = asyncio.ensure_future(numbers_of(slow, n))
        await until(lambda: all(listener not in listener.group.behind for listener in io.streams))
        io.to("a").emit("n", n)
        got = await reading
        assert "gap" in got
        for one, two in itertools.pairwise(got):
            assert "gap" in (one, two) or two == one + 1, "a hole that was not told"


async def test_what_slow_readers_have_read_of_the_history_is_held_once_for_all_of_them() -> None:
    count = 500
    io = realtime(history=History(max_bytes=64 * KIB * KIB))
    async with serving(io) as raw, contextlib.AsyncExitStack() as stack:
        start = (await io.room("a").history.read()).position
        for n in range(count):
            io.to("a").emit("n", n, "x" * 20 * KIB)
        for _ in range(10):
            slow = await stack.enter_async_context(await Peer.connect(raw.server, receive_buffer=64 * KIB))
            slow.send(get(f"/socket.io/events?room=a&lastEventId={start}"))
        await until(
            lambda: [one in one.group.behind and one.exchange.stream.blocked for one in io.streams] == [True] * 10
        )
        held = [
            each for each in gc.get_objects() if type(each) is Kept
        ]  # not isinstance: among all objects are proxies of what is gone
        assert PART <= len(held) <= PART + 10  # and the newest, that are at hand: 64 KiB of them
        del held


async def test_readers_that_got_stuck_at_different_times_hold_a_part_each_and_not_what_the_history_has_dropped() -> (
    None
):
    io = realtime(history=History(count=300, max_bytes=64 * KIB * KIB))
    async with serving(io) as raw, contextlib.AsyncExitStack() as stack:
        start = (await io.room("a").history.read()).position
        for number in range(1, 6):
            for n in range(300):
                io.to("a").emit("n", n, "x" * 20 * KIB)
            slow = await stack.enter_async_context(await Peer.connect(raw.server, receive_buffer=64 * KIB))
            slow.send(get(f"/socket.io/events?room=a&lastEventId={start}"))
            await until(lambda: [one.exchange.stream.blocked for one in io.streams] == [True] * number)  # noqa: B023
            start = (await io.room("a").history.read(last=0)).position
        held = [each for each in gc.get_objects() if type(each) is Kept]
        assert len(held) <= 5 * PART + 10
        del held


async def test_several_rooms_are_read_on_in_one_order_however_much_more_of_one_there_is() -> None:
    io = realtime(history=History())
    async with serving(io) as raw:
        starts = [(await io.room(room).history.read()).position for room in "ab"]
        for n in range(700):
            now = time.time()
            io.to("b" if n in (3, 350, 690) else "a").emit("n", n)
            while time.time() == now:
                pass  # the order of rooms is that of the clock
        async with following(raw, "a", "b", after=",".join(starts)) as reader:
            assert [args[0] for args in await reader.take(700)] == list(range(700))


async def test_who_listens_within_the_application_reads_a_long_history_in_parts() -> None:
    asked: list[Any] = []

    class Asked(MemoryBroker):
        async def history(self, *args: Any, **options: Any) -> Any:
            span = await super().history(*args, **options)
            asked.append(len(span.messages))
            return span

    io = realtime(history=History(), broker=Asked())
    async with serving(io):
        room = io.room("a")
        start = (await room.history.read()).position
        for n in range(700):
            room.emit("n", n)
        got: list[Any] = []
        async for event in room.history.listen(since=start):
            got.append(event.args[0])
            if len(got) == 700:
                room.emit("n", 700)
            if len(got) == 701:
                break
        assert got == list(range(701))
        assert max(asked) == PART


async def test_streams_end_with_their_server_at_once() -> None:
    io = realtime()
    async with (
        serving(io) as raw,
        following(raw, "a") as reader,
        await Peer.connect(raw.server, receive_buffer=64 * KIB) as slow,
    ):
        slow.send(get("/socket.io/events?room=a"))
        await until(lambda: len(io.streams) == 2)
        while not io.counters.behind:
            io.to("a").emit("n", "x" * 20 * KIB)
            await reader.take(1)
        ending = asyncio.ensure_future(raw.server.close())
        assert await reader.next() is None
        async with asyncio.timeout(5):
            await ending
    assert not len(io.streams)


# -- where history and what comes meet ---------------------------------------------------------------------------------


class Delaying(MemoryBroker):
    """A broker whose histories take a few turns to read, as those of other machines do."""

    async def history(self, *args: Any, **options: Any) -> Any:
        await turns(random.randrange(4))
        span = await super().history(*args, **options)
        await turns(random.randrange(4))
        return span


@pytest.mark.parametrize("seed", range(4))
async def test_none_lost_and_none_doubled_at_the_seam(seed: int) -> None:
    """Readers that come and go at random while two nodes emit to two rooms: each one's log is what was emitted."""
    random.seed(seed)
    hub = MemoryHub()
    ones, twos = (realtime(broker=Delaying(hub), history=History(count=5000)) for _ in range(2))
    emitted: dict[str, list[int]] = {"a": [], "b": []}
    total = 300

    async def emit() -> None:
        for n in range(total):
            rooms = random.choice((["a"], ["b"], ["a", "b"]))
            random.choice((ones, twos)).to(*rooms).emit("n", n, rooms)
            for room in rooms:
                emitted[room].append(n)
            await turns(random.randrange(6))

    async def follow(*rooms: str) -> tuple[tuple[str, ...], list[int]]:
        got: list[int] = []
        after = ""
        while not got or got[-1] < total:
            raw = random.choice((here, there))
            async with following(raw, *rooms, after=after or start[rooms]) as reader:
                for _ in range(random.randrange(1, 60)):
                    said = await reader.next()
                    assert said is not None
                    assert isinstance(said.data, list), said
                    got.append(said.data[0])
                    after = said.id
                    if got[-1] == total:
                        break
        return rooms, got[:-1]

    async with serving(ones) as here, serving(twos) as there:
        start = {}
        for rooms in (("a",), ("b",), ("a", "b")):
            async with following(here, *rooms) as reader:
                start[rooms] = reader.id
        readers = [asyncio.ensure_future(follow(*rooms)) for rooms in start for _ in range(4)]
        await emit()
        await turns()
        ones.to("a", "b").emit("n", total)
        for reader_task in readers:
            rooms, got = await reader_task
            assert len(set(got)) == len(got), "doubled"
            assert sorted(got) == sorted({n for room in rooms for n in emitted[room]})
            for room in rooms:
                order = [int(event.args[0]) for event in (await ones.room(room).history.read()).events]
                assert [n for n in got if n in set(emitted[room])] == order[:-1] or len(rooms) > 1
