"""To whom an event goes: rooms, exceptions, volatile, answers, from any thread, to every node; and slow clients."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.realtime.raw import Raw, Socket, serving
from tests.support import Logged, until

import portico
from portico.brokers.memory import MemoryBroker, MemoryHub
from portico.realtime import History
from portico.realtime.outgoing import Outgoing
from portico.wire.deflate import Codec
from portico.wire.extensions import Agreed


@contextlib.asynccontextmanager
async def connected(raw: Raw, count: int = 1, *rooms: str) -> AsyncIterator[list[tuple[Socket, Any]]]:
    """So many clients on WebSockets of their own, with what the server has of them; all in `rooms`."""
    async with contextlib.AsyncExitStack() as stack:
        pairs = []
        for _ in range(count):
            socket = await stack.enter_async_context(raw.socket())
            await socket.opened()
            client = raw.io.clients[await socket.connect()]
            client.join(*rooms)
            pairs.append((socket, client))
        yield pairs


async def test_who_gets_an_event() -> None:
    io = portico.Realtime()
    async with serving(io) as raw, connected(raw, 3) as [(a, one), (b, two), (c, three)]:
        one.join("x", "y")
        two.join("y")
        assert (io.rooms, one.rooms) == ({"x": 1, "y": 2}, frozenset(("x", "y")))
        cases: list[tuple[Any, set[Any]]] = [
            (io, {one, two, three}),
            (io.to("x"), {one}),
            (io.to("y"), {one, two}),
            (io.to("x", "y"), {one, two}),
            (io.to("x").to("y").except_("x"), {two}),
            (io.to(three.id), {three}),
            (io.to(three, "x"), {one, three}),
            (io.except_(one), {two, three}),
            (io.except_("y"), {three}),
            (io.to("nobody"), set()),
            (one.to("y"), {two}),
            (one.broadcast, {two, three}),
            (one, {one}),
            (io.room("x"), {one}),
            (io.to(), set()),
            (three.to(*three.rooms), set()),
            (io.to().to("x"), {one}),
        ]
        for number, (audience, expected) in enumerate(cases):
            assert audience.emit("n", number).delivered == len(expected), number
            for socket, client in ((a, one), (b, two), (c, three)):
                if client in expected:
                    await socket.expect(f'42["n",{number}]')
        two.leave("y")
        assert io.to("y").emit("n").delivered == 1
        io.to("x").join("z")
        io.except_(one).leave("z")
        assert io.rooms == {"x": 1, "y": 1, "z": 1}
        found = {each.id: each.rooms for each in await io.fetch()}
        assert found == {one.id: frozenset("xyz"), two.id: frozenset(), three.id: frozenset()}


async def test_an_emission_need_not_be_awaited_and_can_be() -> None:
    io = portico.Realtime()
    async with serving(io) as raw, connected(raw) as [(socket, client)]:
        emission = io.emit("x")
        assert emission.delivered == 1
        await emission
        await client.emit("y")
        await socket.expect('42["x"]', '42["y"]')
    assert io.emit("x").delivered == 0


async def test_what_can_be_sent() -> None:
    class Point(msgspec.Struct):
        x: int
        data: bytes = b""

    io = portico.Realtime()
    async with serving(io) as raw, connected(raw) as [(socket, client)]:
        client.emit("x", Point(1, b"\x01"), {"t": (1, 2)}, bytearray(b"\x02"))
        await socket.expect(
            '452-["x",{"x":1,"data":{"_placeholder":true,"num":0}},{"t":[1,2]},{"_placeholder":true,"num":1}]'
        )
        await socket.expect(b"\x01", b"\x02")
        for bad in (object(), "\ud800", {1: object()}):
            with pytest.raises(portico.LocalError, match="JSON"):
                client.emit("x", bad)
        for name in ("connect", "disconnect", 5):
            with pytest.raises(portico.LocalError):
                client.emit(name)
        with pytest.raises(portico.LocalError, match="room"):
            io.to(5)  # type: ignore[arg-type]


async def test_what_goes_out_is_counted() -> None:
    """Each attachment is a message of its own; the access log tells how many there were."""
    io = portico.Realtime()
    async with serving(io) as raw, connected(raw) as [(socket, client)]:
        ws = client.session.ws
        before = ws.messages_out
        io.emit("a")
        client.emit("b", b"1")
        io.emit("c", b"2", b"3")
        await socket.expect('42["a"]', '451-["b",{"_placeholder":true,"num":0}]', b"1")
        assert ws.messages_out == before + 1 + 2 + 3


async def test_nothing_runs_in_the_background_of_what_is_served_no_more() -> None:
    io = portico.Realtime()
    async with serving(io):
        await io.background(asyncio.sleep(0))
    with pytest.raises(portico.LocalError, match="not being served"):
        io.background(asyncio.sleep(0))


async def test_threads_emit_join_and_leave_in_their_order() -> None:
    io = portico.Realtime()
    async with serving(io) as raw, connected(raw) as [(socket, client)]:
        delivered = []

        def work() -> None:
            delivered.append(io.to("x").emit("n", 0).delivered)
            client.join("x")
            delivered.append(io.to("x").emit("n", 1).delivered)
            client.leave("x")
            delivered.append(io.to("x").emit("n", 2).delivered)
            client.emit("n", 3)

        await asyncio.to_thread(work)
        assert delivered == [0, 1, 0]
        await socket.expect('42["n",1]', '42["n",3]')


async def test_what_a_thread_emits_in_vain_is_logged(logged: Logged) -> None:
    """It has gone on by then: nobody may ask for .delivered."""
    io = portico.Realtime(history=History(max_bytes=2_000))
    async with serving(io) as raw, connected(raw, 1, "x") as [(socket, _)]:
        emission = await asyncio.to_thread(lambda: io.to("x").emit("n", "x" * 5_000))
        with pytest.raises(portico.LocalError, match="max_bytes"):
            await asyncio.to_thread(lambda: emission.delivered)
        logged.take("reaches nobody")
        io.to("x").emit("n", 1)
        await socket.expect('42["n",1]')


async def test_no_rooms_are_nobody_whatever_is_asked_of_them() -> None:
    """``io.to(*client.rooms)`` of a client without rooms is not everyone."""
    io = portico.Realtime()
    async with serving(io) as raw, connected(raw) as [(socket, client)]:
        nobody = io.to(*client.rooms)
        assert (await nobody.fetch(), await nobody.call("q", timeout=5)) == ([], {})
        nobody.join("x")
        nobody.disconnect(close=True)
        assert (client.connected, io.rooms) == (True, {})
        with pytest.raises(portico.LocalError):
            nobody.emit("connect")
        io.emit("n")
        await socket.expect('42["n"]')


async def test_a_sync_handler_works_in_a_thread_with_everything() -> None:
    io = portico.Realtime()
    here = threading.get_ident()

    @io.on("go")
    def go(client: Any) -> Any:
        assert threading.get_ident() != here
        client.join("x")
        assert client.emit("a").delivered == 1
        return io.to("x").emit("b").delivered

    async with serving(io) as raw, connected(raw) as [(socket, _)]:
        await socket.send('421["go"]')
        await socket.expect('42["a"]', '42["b"]', "431[1]")


async def test_answers_of_many() -> None:
    io = portico.Realtime()
    async with serving(io) as raw, connected(raw, 3, "x") as [(a, one), (b, two), (c, _)]:
        call = asyncio.create_task(io.to("x").call("q", timeout=1.5))
        await a.expect('421["q"]')
        await b.expect('421["q"]')
        await c.expect('421["q"]')
        await a.send('431["a"]')
        await b.send('431["b"]')
        assert await call == {one.id: "a", two.id: "b"}
        assert await io.to("nobody").timeout(0.3).call("q") == {}


async def test_volatile_events_are_for_those_who_can_take_them_now() -> None:
    io = portico.Realtime()
    async with serving(io) as raw, connected(raw) as [(socket, _)]:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        await raw.get(sid)
        assert io.volatile.emit("v").delivered == 1  # between two polls: not taken
        await socket.expect('42["v"]')
        held = asyncio.create_task(raw.get(sid))
        await until(lambda: any(session.poll for session in io.engine.sessions.values()))
        assert io.volatile.emit("w").delivered == 2
        assert await held == '42["w"]'


async def test_several_nodes_are_one_audience() -> None:
    """The same over a broker: rooms, everyone, one client by its id, answers, joining, disconnecting."""
    hub = MemoryHub()
    ones, twos = (portico.Realtime(broker=MemoryBroker(hub)) for _ in range(2))
    async with (
        serving(ones) as here,
        serving(twos) as there,
        connected(here, 1, "x") as [(a, one)],
        connected(there, 1, "x") as [(b, two)],
    ):
        assert ones.to("x").emit("n", 1).delivered == 1
        twos.emit("n", 2)
        ones.to(two.id).emit("n", 3)
        one.to("x").emit("n", 4)
        assert sorted([await b.next() for _ in range(4)]) == [f'42["n",{n}]' for n in (1, 2, 3, 4)]  # type: ignore[type-var]
        await a.expect('42["n",1]', '42["n",2]')
        assert {each.id for each in await ones.fetch()} == {one.id, two.id}
        call = asyncio.create_task(ones.call("q", timeout=5))
        for socket in (a, b):
            await socket.expect('421["q"]')
            await socket.send("431[7]")
        assert await call == {one.id: 7, two.id: 7}
        ones.join("y")
        await until(lambda: "y" in two.rooms)
        ones.to(two.id).disconnect()
        await b.expect("41")


async def test_who_is_found_on_another_node_without_the_data_that_can_not_be_sent(logged: Logged) -> None:
    hub = MemoryHub()
    ones, twos = (portico.Realtime(broker=MemoryBroker(hub)) for _ in range(2))
    async with (
        serving(ones) as here,
        serving(twos) as there,
        connected(here) as [(_, one)],
        connected(there) as [(_, two)],
    ):
        one.data["n"], two.data["n"] = 1, {1, 2}
        found = {each.id: each.data for each in await ones.fetch()}
        assert found == {one.id: {"n": 1}, two.id: {"n": [1, 2]}}
        two.data["n"] = object()
        found = {each.id: each.data for each in await ones.timeout(5).fetch()}
        assert found == {one.id: {"n": 1}, two.id: {}}
    logged.take("client.data")


async def slow(raw: Raw) -> tuple[str, Any]:
    """A client on polling that does not poll."""
    sid = await raw.poll_session()
    await raw.post(sid, "40")
    await raw.get(sid)
    return sid, next(iter(raw.io.clients.values()))


async def test_a_slow_client_on_polling_is_closed_over_its_budget() -> None:
    io = portico.Realtime(max_outbox_bytes=100_000)
    async with serving(io) as raw:
        sid, client = await slow(raw)
        taken = sum(io.emit("n", "x" * 10_000).delivered for _ in range(20))
        assert taken == 9
        assert not client.connected
        assert (await raw.request(sid=sid))[0] == 400
        assert io.counters.dropped == 1


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_a_slow_client_on_polling_loses_what_the_policy_says(policy: Any) -> None:
    io = portico.Realtime(max_outbox_bytes=100_000, on_slow=policy)
    async with serving(io) as raw:
        sid, client = await slow(raw)
        for n in range(20):
            io.emit("n", n, "x" * 10_000)
        got = (await raw.get(sid)).split("\x1e")
        numbers = [int(text.split(",")[1]) for text in got]
        assert numbers == (list(range(11, 20)) if policy == "drop_oldest" else list(range(9)))
        assert (client.connected, io.counters.dropped) == (True, 11)


async def test_the_latest_takes_the_place_of_the_one_before_it_on_polling() -> None:
    io = portico.Realtime()
    async with serving(io) as raw:
        sid, _ = await slow(raw)
        for n in range(10):
            io.latest("price").emit("n", n)
            io.latest("other").emit("m", n)
        assert await raw.get(sid) == '42["n",9]\x1e42["m",9]'
        assert io.counters.replaced == 18


@pytest.mark.parametrize("policy", ["close", "drop_oldest", "drop_newest"])
async def test_a_slow_client_on_websocket_is_bounded_by_the_policy(policy: Any) -> None:
    io = portico.Realtime(max_outbox_bytes=300_000, on_slow=policy)
    async with serving(io, deflate=None) as raw, connected(raw) as [(socket, client)]:
        stream = client.session.ws.stream
        transport: Any = socket.connection._response.connection.transport  # type: ignore[union-attr]
        transport.pause_reading()
        await until(lambda: not client.emit("n", "x" * 50_000).delivered or io.counters.dropped)
        assert stream.buffered <= 400_000
        assert client.connected is (policy != "close")
        transport.resume_reading()


async def test_the_latest_takes_the_place_of_the_one_before_it_on_websocket() -> None:
    io = portico.Realtime()
    async with serving(io, deflate=None) as raw, connected(raw) as [(socket, client)]:
        transport: Any = socket.connection._response.connection.transport  # type: ignore[union-attr]
        transport.pause_reading()
        await until(lambda: client.emit("fill", "x" * 60_000).delivered and client.session.ws.stream.blocked)
        for n in range(100):
            assert io.latest("price").emit("n", n).delivered == 1
        transport.resume_reading()
        got = []
        while not got or got[-1] != '42["n",99]':
            message = await socket.next()
            assert isinstance(message, str)
            if message.startswith('42["n"'):
                got.append(message)
        assert len(got) == 1


async def test_one_encoding_serves_every_recipient() -> None:
    io = portico.Realtime()
    async with serving(io) as raw, connected(raw, 3) as pairs:
        seen = []
        outgoing = io._root.outgoing
        io._root.outgoing = lambda *args, **kwargs: seen.append(outgoing(*args, **kwargs)) or seen[-1]  # type: ignore
        io.emit("n", 1)
        assert len(seen) == 1
        for socket, _ in pairs:
            await socket.expect('42["n",1]')


async def test_each_form_of_it_is_made_once() -> None:
    """WebSocket frames, the same compressed with each set of parameters, a payload for polling; with binary in it."""
    out = Outgoing(b'451-["n",{"_placeholder":true,"num":0}]' + b" " * 2_000, [b"\x00" * 2_000], droppable=True)
    agreed = Agreed(True, True, 15, 15)
    one, other, lower = (Codec(agreed, portico.Deflate(level=level), client=False) for level in (6, 6, 1))
    assert out.framed() is out.framed()
    assert out.payload is out.payload
    assert out.packed(one) is out.packed(other)
    assert out.packed(one) is not out.packed(lower)
    assert len(out.packed(one)) < len(out.framed()) / 10


async def test_a_broadcast_makes_no_task_on_any_transport() -> None:
    io = portico.Realtime()
    async with serving(io) as raw, connected(raw, 3) as pairs:
        sids = [await raw.poll_session() for _ in range(3)]
        for sid in sids:
            await raw.post(sid, "40")
            await raw.get(sid)
        url = raw.url(transport="websocket").replace("http", "ws", 1)
        async with raw.http.ws_connect(url, compress=15) as ws:
            await ws.receive_str()
            await ws.send_str("40")
            await ws.receive_str()
            before = asyncio.all_tasks()
            assert io.emit("n", "x" * 5_000, b"y").delivered == 7
            assert asyncio.all_tasks() <= before
            told = f'451-["n","{"x" * 5_000}",{{"_placeholder":true,"num":0}}]'
            assert await ws.receive_str() == told
        for socket, _ in pairs:
            await socket.expect(told, b"y")
        for sid in sids:
            assert await raw.get(sid) == f"{told}\x1ebeQ=="


async def test_compressed_broadcasts_arrive_whole() -> None:
    io = portico.Realtime()
    async with serving(io) as raw:
        url = raw.url(transport="websocket").replace("http", "ws", 1)
        async with raw.http.ws_connect(url, compress=15) as ws:
            await ws.receive_str()
            await ws.send_str("40")
            await ws.receive_str()
            io.emit("n", "x" * 5000, b"y" * 5000)
            io.emit("small")
            assert await ws.receive_str() == f'451-["n","{"x" * 5000}",{{"_placeholder":true,"num":0}}]'
            assert await ws.receive_bytes() == b"y" * 5000
            assert await ws.receive_str() == '42["small"]'


async def test_everything_is_let_go_of_when_clients_leave() -> None:
    io = portico.Realtime()
    async with serving(io) as raw:
        for _ in range(30):
            async with connected(raw, 1, "x", "y") as [(socket, _)]:
                await socket.send('421["nobody"]')
                await socket.next()
        await until(lambda: not io.engine.sessions and not io._tasks)
        assert (io.rooms, dict(io.clients), io._root._arriving, io._asked) == ({}, {}, {}, {})
        assert not io.broker._hosted.keys() - {io.broker.inbox, "/"}  # type: ignore[attr-defined]
