"""The history of rooms: what is kept, how it is read, and that its members get everything once all the same."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from tests.realtime.followers import following, member, realtime
from tests.realtime.raw import serving
from tests.support import GUARD_S, turns, until

import portico
from portico.brokers.memory import MemoryBroker, MemoryHub
from portico.realtime import History, HistoryGap, Recovery


async def names(io: portico.Realtime, room: str, **asked: Any) -> list[str]:
    past = await io.room(room).history.read(**asked)
    assert past.gap is None
    return [event.name for event in past.events]


async def test_what_was_emitted_to_a_room_is_read_with_its_position_and_time() -> None:
    io = realtime()
    async with serving(io):
        start = (await io.room("prices").history.read()).position
        io.to("prices").emit("tick", 1, {"deep": [b"\x00\xff"]})
        io.room("prices").emit("tock")
        past = await io.room("prices").history.read()
        assert [(event.name, event.args) for event in past.events] == [
            ("tick", (1, {"deep": [b"\x00\xff"]})),
            ("tock", ()),
        ]
        assert past.events[0].time <= past.events[1].time
        assert past.position == past.events[1].position
        assert await names(io, "prices", since=start) == ["tick", "tock"]
        assert await names(io, "prices", since=past.events[0].position) == ["tock"]
        assert await names(io, "prices", last=1) == ["tock"]
        assert await names(io, "prices", last=0) == []
        assert await names(io, "prices", since=past.position) == []


async def test_bounded_by_count_and_what_is_over_is_a_plain_gap() -> None:
    io = realtime(history=History(count=3))
    async with serving(io):
        start = (await io.room("a").history.read()).position
        for n in range(5):
            io.to("a").emit(str(n))
        assert await names(io, "a") == ["2", "3", "4"]
        past = await io.room("a").history.read(since=start)
        assert past.events == ()
        assert past.gap == "2 of the 5 messages after that position are no longer kept"
        assert await names(io, "a", since=past.position) == []


async def test_bounded_by_bytes_and_age() -> None:
    io = realtime(history=History(max_bytes=2000, age_s=1.0))
    async with serving(io):
        for n in range(5):
            io.to("a").emit(str(n), "x" * 900)
        assert await names(io, "a") == ["3", "4"]
        async with asyncio.timeout(GUARD_S):
            while await names(io, "a"):
                await asyncio.sleep(0.01)
        with pytest.raises(portico.LocalError, match=r"raise History\(max_bytes=2000\)"):
            io.to("a").emit("big", "x" * 2000)
        io.to("a").volatile.emit("big", "x" * 2000)


async def test_kept_is_what_was_emitted_to_the_room_alone() -> None:
    io = realtime()
    async with serving(io) as raw, raw.socket() as socket:
        client = await member(socket, io, "a")
        io.emit("to all")
        client.emit("to one")
        io.to(client.id).emit("to one")
        client.broadcast.emit("to the others")
        io.to("a").volatile.emit("volatile")
        io.to("b").emit("another room")
        await io.to("nobody").call("call", timeout=0.1)
        client.to("a").emit("from a member")
        io.to("a").except_(client).emit("without a member")
        io.to("a").latest("key").emit("keyed")
        io.to("b", "a", "a").emit("to several")
        assert await names(io, "a") == ["from a member", "without a member", "keyed", "to several"]
        assert await names(io, "b") == ["another room", "to several"]


async def test_the_rooms_that_are_named_and_the_patterns_that_fit() -> None:
    io = realtime(history=History(rooms=("prices", re.compile(r"game-\d+"), "a-name-of-20-letters")))
    async with serving(io):
        for room in ("prices", "game-7", "a-name-of-20-letters"):
            io.to(room).emit("kept")
            assert await names(io, room) == ["kept"]
        for room in ("price", "game-", "game-7-and-19-others"):
            io.to(room).emit("not kept")
            with pytest.raises(portico.LocalError, match=r"keeps no history: name it in History\(rooms=…\)"):
                await io.room(room).history.read()


async def test_a_name_like_a_clients_id_keeps_nothing_unless_it_is_named() -> None:
    io = realtime()
    async with serving(io):
        with pytest.raises(portico.LocalError, match="keeps no history"):
            await io.room("a-name-of-20-letters").history.read()
        io.to("a name of 20 letters").emit("kept")
        assert await names(io, "a name of 20 letters") == ["kept"]


async def test_each_namespace_has_rooms_of_its_own() -> None:
    io = realtime()
    async with serving(io):
        io.of("/x").to("a").emit("in x")
        io.to("a").emit("in the root")
        assert await names(io, "a") == ["in the root"]
        past = await io.of("/x").room("a").history.read()
        assert [event.name for event in past.events] == ["in x"]


async def test_without_a_history_there_is_none() -> None:
    io = portico.Realtime()
    with pytest.raises(portico.LocalError, match=r"set Realtime\(history="):
        _ = io.room("a").history
    with pytest.raises(portico.LocalError, match=r"set Realtime\(history="):
        io.use_streams(lambda request, room: None)
    with pytest.raises(portico.LocalError, match="not being served"):
        await realtime().room("a").history.read()


@pytest.mark.parametrize(
    "wrong",
    [{"count": 0}, {"max_bytes": 0}, {"age_s": -1}, {"age_s": True}, {"rooms": "a"}, {"rooms": [1]}, {"rooms": [""]}],
)
def test_a_history_says_what_it_expects(wrong: dict[str, Any]) -> None:
    with pytest.raises(portico.LocalError, match=rf"History\({next(iter(wrong))}="):
        History(**wrong)
    with pytest.raises(portico.LocalError, match=r"expected a portico\.realtime\.History"):
        portico.Realtime(history=True)  # type: ignore[arg-type]


# -- listening ---------------------------------------------------------------------------------------------------------


async def test_listening_gets_what_was_missed_then_what_comes() -> None:
    io = realtime()
    async with serving(io):
        start = (await io.room("a").history.read()).position
        io.to("a").emit("0")
        got = []
        async with asyncio.timeout(GUARD_S):
            async for event in io.room("a").history.listen(since=start):
                got.append(event.name)
                if len(got) == 5:
                    break
                io.to("a").emit(str(len(got)))
        assert got == ["0", "1", "2", "3", "4"]


async def test_who_listens_is_told_of_a_gap_and_of_the_end() -> None:
    io = realtime(history=History(count=2))
    async with serving(io):
        start = (await io.room("a").history.read()).position
        for n in range(3):
            io.to("a").emit(str(n))
        with pytest.raises(HistoryGap, match="no longer kept") as caught:
            await anext(io.room("a").history.listen(since=start))
        assert (caught.value.room, caught.value.position) == ("a", (await io.room("a").history.read()).position)

        async def listen() -> list[str]:
            return [event.name async for event in io.room("a").history.listen()]

        listening = io.background(listen())
        await until(lambda: io.feeds is not None and any(feed.watchers for feed in io.feeds.followed))
        io.to("a").emit("last")
    assert await listening == ["last"]


# -- the members of the room -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recovery", [None, Recovery()], ids=["", "recovery"])
@pytest.mark.parametrize("follow", [True, False], ids=["followed", ""])
async def test_members_get_each_event_once_on_every_node(recovery: Recovery | None, follow: bool) -> None:
    hub = MemoryHub()
    ones, twos = (realtime(broker=MemoryBroker(hub), recovery=recovery) for _ in range(2))
    async with serving(ones) as here, serving(twos) as there, here.socket() as one, there.socket() as two:
        await member(one, ones, "a", "b")
        await member(two, twos, "a", "b")
        if follow:
            for io in (ones, twos):
                await io.room("a").history.read()
        expected = []
        for n in range(20):
            io = (ones, twos)[n % 2]
            rooms = (("a",), ("a", "b"), ("b",))[n % 3]
            await io.to(*rooms).emit("n", n)
            await turns()  # it is on both nodes
            expected.append(n)
        for socket in (one, two):
            got = []
            for _ in expected:
                message = await socket.next()
                assert isinstance(message, str)
                got.append(json.loads(message[2:])[1])
            assert got == expected
        for room, skipped in (("a", 2), ("b", 0)):
            past = await ones.room(room).history.read()
            assert [event.args for event in past.events] == [(n,) for n in expected if n % 3 != skipped]
            assert await twos.room(room).history.read() == past


async def test_who_follows_a_room_and_who_is_in_it_come_and_go() -> None:
    hub = MemoryHub()
    ones, twos = (realtime(broker=MemoryBroker(hub)) for _ in range(2))
    async with serving(ones) as here, serving(twos), here.socket() as socket:
        client = await member(socket, ones, "a")
        async with following(here, "a") as reader:
            await twos.to("a").emit("n", 1)
            assert await reader.take(1) == [[1]]
            await socket.expect('42["n",1]')
            client.leave("a")
            await twos.to("a").emit("n", 2)
            assert await reader.take(1) == [[2]]
            client.join("a")
        await until(lambda: not len(ones.streams))
        assert ones.feeds is not None
        for feed in ones.feeds.followed:
            ones.feeds.drop(feed)  # as when nobody has asked for a while
        await twos.to("a").emit("n", 3)
        await socket.expect('42["n",3]')
        client.leave("a")
        assert "/\0a" not in hub.hosts


async def test_positions_hold_on_another_node() -> None:
    hub = MemoryHub()
    ones, twos = (realtime(broker=MemoryBroker(hub)) for _ in range(2))
    async with serving(ones), serving(twos):
        await ones.to("a").emit("1")
        position = (await ones.room("a").history.read()).position
        await ones.to("a").emit("2")
        assert await names(twos, "a", since=position) == ["2"]


async def test_rooms_that_nobody_asks_for_any_more_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portico.realtime.feeds.LINGER_S", 0.05)
    monkeypatch.setattr("portico.realtime.feeds.MAX_LINGERING", 3)
    io = realtime()
    async with serving(io) as raw, following(raw, "followed"):
        assert io.feeds is not None
        for n in range(10):
            await io.room(str(n)).history.read()
            assert len(io.feeds.followed) <= 4
        await until(lambda: io.feeds is not None and [feed.room for feed in io.feeds.followed] == ["followed"])
        assert isinstance(io.broker, MemoryBroker)
        assert [channel for channel in io.broker.hub.hosts if channel.startswith("/")] == ["/\0followed"]
