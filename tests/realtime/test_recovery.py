"""Connection state recovery (Socket.IO, §Connection state recovery): exactly what was missed, or plainly not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.realtime.raw import Raw, Socket, serving
from tests.support import until

import portico
from portico.brokers.memory import MemoryBroker, MemoryHub
from portico.realtime import Recovery


def realtime(**options: Any) -> portico.Realtime:
    return portico.Realtime(**({"recovery": Recovery()} | options))


async def connect(socket: Socket, **auth: Any) -> dict[str, str]:
    """Connect, perhaps again; returns the id of the client and the name under which it comes back."""
    await socket.send("40" + (json.dumps(auth) if auth else ""))
    answer = await socket.next()
    assert isinstance(answer, str)
    assert answer[:2] == "40", answer
    return json.loads(answer[2:])  # type: ignore[no-any-return]


def place(message: str | bytes | None) -> tuple[list[Any], str]:
    """An event without its place, and that."""
    assert isinstance(message, str)
    event = json.loads(message[2:])
    return event[:-1], event[-1]


async def missed(socket: Socket, count: int) -> list[Any]:
    return [place(await socket.next())[0][1] for _ in range(count)]


async def gone(raw: Raw) -> None:
    await until(lambda: not raw.io.clients)


async def test_where_nothing_was_ever_sent_before_the_cut() -> None:
    io = realtime()
    async with serving(io) as raw:
        io.emit("early", 0)
        async with raw.socket() as socket:
            await socket.opened()
            first = await connect(socket)
            client = io.clients[first["sid"]]
            client.join("x")
            client.data["name"] = "ada"
        await gone(raw)
        io.emit("n", 1)
        io.to("x").emit("n", 2)
        io.to("y").emit("n", "not ours")
        io.to(first["sid"]).emit("n", 3)
        io.except_("x").emit("n", "not ours")
        io.volatile.emit("n", "not kept")
        async with raw.socket() as socket:
            await socket.opened()
            assert await connect(socket, pid=first["pid"]) == first
            client = io.clients[first["sid"]]
            assert (client.recovered, client.rooms, client.data) == (True, {"x"}, {"name": "ada"})
            assert await missed(socket, 3) == [1, 2, 3]
            io.to("x").emit("n", 4)
            assert await missed(socket, 1) == [4]


async def test_from_the_place_that_the_client_names() -> None:
    io = realtime()
    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            first = await connect(socket)
            for n in range(5):
                io.emit("n", n)
            got = [place(await socket.next()) for _ in range(5)]
        await gone(raw)
        io.emit("n", 5)
        async with raw.socket() as socket:
            await socket.opened()
            assert await connect(socket, pid=first["pid"], offset=got[2][1]) == first  # the rest was lost on its way
            assert await missed(socket, 3) == [3, 4, 5]


async def test_over_polling() -> None:
    io = realtime(ping_interval_s=1.0, ping_timeout_s=1.0)
    async with serving(io) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        first = json.loads((await raw.get(sid))[2:])
        io.emit("n", 1)
        await gone(raw)  # it never polled again
        io.emit("n", 2)
        sid = await raw.poll_session()
        await raw.post(sid, "40" + json.dumps({"pid": first["pid"]}))
        got = (await raw.get(sid)).split("\x1e")
        assert json.loads(got[0][2:]) == first
        assert [place(each)[0][1] for each in got[1:]] == [1, 2]


async def test_rooms_count_from_joining_and_until_leaving() -> None:
    io = realtime()
    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            first = await connect(socket)
            client = io.clients[first["sid"]]
            io.to("x").emit("n", "before")
            client.join("x")
            io.to("x").emit("n", 1)
            client.leave("x")
            io.to("x").emit("n", "between")
            client.join("x")
            io.to("x").emit("n", 2)
            assert await missed(socket, 2) == [1, 2]
        await gone(raw)
        async with raw.socket() as socket:
            await socket.opened()
            assert await connect(socket, pid=first["pid"]) == first  # though it has seen both, it names no place
            io.emit("n", 3)
            assert await missed(socket, 3) == [1, 2, 3]


async def test_a_client_that_comes_back_before_its_end_is_noticed() -> None:
    io = realtime()
    async with serving(io) as raw, raw.socket() as old, raw.socket() as new:
        await old.opened()
        first = await connect(old)
        await new.opened()
        assert await connect(new, pid=first["pid"]) == first
        await old.closed()
        io.emit("n", 1)
        assert await missed(new, 1) == [1]


@pytest.mark.parametrize("how", ["disconnect", "unknown", "bad offset", "future", "aged", "overflow", "twice"])
async def test_what_can_not_be_had_whole_is_not_recovered_at_all(how: str) -> None:
    io = realtime(recovery=Recovery(age_s=0.2 if how == "aged" else 60, max_events=3))
    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            first = await connect(socket)
            io.clients[first["sid"]].join("x")
            if how == "disconnect":
                await socket.send("41")
                await gone(raw)
        await gone(raw)
        if how == "aged":
            await asyncio.sleep(0.5)
        for n in range(5 if how == "overflow" else 1):
            io.emit("n", n)
        auth: dict[str, Any] = {"pid": first["pid"]}
        if how == "unknown":
            auth = {"pid": "x" * 20}
        elif how == "bad offset":
            auth["offset"] = "nonsense"
        elif how == "future":
            position = io.broker.position("/")
            assert position is not None
            auth["offset"] = f"{position.epoch}:999"
        if how == "twice":
            async with raw.socket() as socket:
                await socket.opened()
                assert await connect(socket, **auth) == first
                await socket.next()
                await socket.send("41")
                await gone(raw)
        async with raw.socket() as socket:
            await socket.opened()
            again = await connect(socket, **auth)
            client = io.clients[again["sid"]]
            assert again["sid"] != first["sid"]
            assert again["pid"] != first["pid"]
            assert (client.recovered, client.rooms, client.data) == (False, frozenset(), {})
            io.emit("n", "fresh")
            assert await missed(socket, 1) == ["fresh"]


async def test_the_application_is_asked_again_and_may_refuse() -> None:
    io = realtime()
    asked = []

    @io.on("connect")
    async def on_connect(client: Any, auth: Any) -> None:
        asked.append((client.recovered, auth))
        if auth.get("token") == "expired":
            raise portico.Refuse("expired")

    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            first = await connect(socket, token="good")
        await gone(raw)
        async with raw.socket() as socket:
            await socket.opened()
            await socket.send("40" + json.dumps({"pid": first["pid"], "token": "expired"}))
            await socket.expect('44{"message":"expired"}')
            assert not io.clients
    assert asked == [(False, {"token": "good"}), (True, {"token": "expired"})]


async def test_what_is_emitted_while_the_application_decides_comes_once_and_in_order() -> None:
    io = realtime()
    go = asyncio.Event()
    there = asyncio.Event()

    @io.on("connect")
    async def on_connect(client: Any, auth: Any) -> None:
        if client.recovered:
            there.set()
            await go.wait()

    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            first = await connect(socket)
        await gone(raw)
        io.emit("n", 1)
        async with raw.socket() as socket:
            await socket.opened()
            await socket.send("40" + json.dumps({"pid": first["pid"]}))
            await there.wait()
            io.emit("n", 2)
            go.set()
            io.emit("n", 3)
            answer = await socket.next()
            assert isinstance(answer, str)
            assert json.loads(answer[2:]) == first
            assert await missed(socket, 3) == [1, 2, 3]


async def test_on_another_node() -> None:
    hub = MemoryHub()
    ones, twos = (realtime(broker=MemoryBroker(hub)) for _ in range(2))
    async with serving(ones) as here, serving(twos) as there:
        async with here.socket() as socket:
            await socket.opened()
            first = await connect(socket)
            ones.clients[first["sid"]].join("x")
            ones.clients[first["sid"]].data["name"] = "ada"
        await gone(here)
        await twos.to("x").emit("n", 1)
        await ones.to("x").emit("n", 2)
        async with there.socket() as socket:
            await socket.opened()
            assert await connect(socket, pid=first["pid"]) == first
            assert twos.clients[first["sid"]].data == {"name": "ada"}
            assert await missed(socket, 2) == [1, 2]


async def test_without_recovery_nothing_is_added_to_events() -> None:
    io = portico.Realtime()
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        assert set(await connect(socket)) == {"sid"}
        io.emit("n", 1)
        await socket.expect('42["n",1]')


@pytest.mark.parametrize("epoch", ["ours", "another"])
async def test_a_place_from_before_the_connection_counts_as_its_beginning(epoch: str) -> None:
    """The official client goes on naming the last place that it knows when it has connected anew."""
    io = realtime()
    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            await connect(socket)
            io.emit("n", 1)
            _, offset = place(await socket.next())
            await socket.send("41")
            await gone(raw)
        io.emit("n", "before it was there")
        async with raw.socket() as socket:
            await socket.opened()
            anew = await connect(socket)
        await gone(raw)
        io.emit("n", 2)
        offset = offset if epoch == "ours" else "elsewhere:1"
        async with raw.socket() as socket:
            await socket.opened()
            assert await connect(socket, pid=anew["pid"], offset=offset) == anew
            assert await missed(socket, 1) == [2]


@pytest.mark.parametrize("missed", [1, 3], ids=["recovered", "overflow"])
async def test_a_client_that_came_back_is_let_go_of_when_it_leaves(missed: int) -> None:
    """A namespace that a pattern stands for goes with its last client."""
    io = realtime(recovery=Recovery(max_events=2))
    io.matching(r"/game-\d")
    async with serving(io) as raw:
        async with raw.socket() as other:
            await other.opened()
            await other.connect("/game-1,")
            game = io._namespaces["/game-1"]
            async with raw.socket() as socket:
                await socket.opened()
                await socket.send("40/game-1,")
                first = str(await socket.next())
            await until(lambda: len(game.clients) == 1)
            for n in range(missed):
                game.emit("n", n)
            async with raw.socket() as socket:
                await socket.opened()
                await socket.send("40/game-1," + json.dumps({"pid": json.loads(first.partition(",")[2])["pid"]}))
                assert (await socket.next() == first) is (missed == 1)
        await until(lambda: set(io._namespaces) == {"/"})
