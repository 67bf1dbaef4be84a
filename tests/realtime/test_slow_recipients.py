"""Clients that do not keep up: what may wait for one is bounded on each transport, and the application is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.realtime.raw import Raw, serving
from tests.realtime.test_emitting import connected, slow
from tests.support import Logged, turns, until

import portico
from portico.realtime import Recovery, Slow

Told = list[tuple[Any, Slow]]


def telling(**options: Any) -> tuple[portico.Realtime, Told]:
    io = portico.Realtime(**options)
    told: Told = []
    io.on_slow(lambda client, slow: told.append((client, slow)))
    return io, told


@contextlib.asynccontextmanager
async def stalled(raw: Raw) -> AsyncIterator[tuple[Any, Any, Any]]:
    """A client on a WebSocket that does not read, with its socket full; what makes it read again."""
    async with connected(raw) as [(socket, client)]:
        transport: Any = socket.connection._response.connection.transport  # type: ignore[union-attr]
        transport.pause_reading()
        stream = client.session.ws.stream
        await until(lambda: stream.blocked or not client.emit("fill", "x" * 60_000).delivered)
        yield socket, client, transport.resume_reading
        transport.resume_reading()


async def events(socket: Any, last: str) -> list[Any]:
    """What comes up to the event `last`, each with its attachments."""
    got: list[Any] = []
    while True:
        message = await socket.next()
        if isinstance(message, bytes):
            got[-1].append(message)
            continue
        assert isinstance(message, str)
        event = json.loads(message[message.index("[") :])
        got.append(event)
        if event[0] == last:
            return [event for event in got if event[0] != "fill"]


# -- on each transport, the bound -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["close", "drop_oldest", "drop_newest"])
async def test_what_must_not_be_missing_ends_the_session_over_its_budget_on_polling(policy: Any) -> None:
    """A client that asks for ever and never fetches the answers."""
    io = portico.Realtime(max_outbox_bytes=50_000, on_slow=policy)
    io.on("echo", lambda client, text: text)
    async with serving(io) as raw:
        sid, client = await slow(raw)
        for n in range(30):
            status, _ = await raw.request("POST", f'42{n}["echo","{"x" * 5000}"]'.encode(), sid=sid)
            assert client.waiting_bytes <= 50_000
            if status != 200:
                break
        await until(lambda: not client.connected)


@pytest.mark.parametrize("policy", ["close", "drop_oldest", "drop_newest"])
async def test_what_must_not_be_missing_ends_the_session_over_its_budget_on_websocket(policy: Any) -> None:
    io = portico.Realtime(max_outbox_bytes=300_000, on_slow=policy)
    io.on("echo", lambda client, text: text)
    async with serving(io, deflate=None) as raw, stalled(raw) as (socket, client, _):
        for n in range(200):
            if not client.connected:
                break
            await socket.send(f'42{n}["echo","{"x" * 5000}"]')
            assert client.waiting_bytes <= 400_000
        await until(lambda: not client.connected)


async def test_one_answer_is_taken_whatever_its_size() -> None:
    io = portico.Realtime(max_outbox_bytes=10_000)
    io.on("big", lambda client: "x" * 100_000)
    async with serving(io) as raw:
        sid, _ = await slow(raw)
        await raw.post(sid, '420["big"]')
        assert await raw.get(sid) == f'430["{"x" * 100_000}"]'
        async with connected(raw) as [(socket, _)]:
            await socket.send('420["big"]')
            await socket.expect(f'430["{"x" * 100_000}"]')


async def test_what_waits_for_a_client_that_is_not_let_in_yet_is_bounded_in_bytes() -> None:
    io = portico.Realtime(max_outbox_bytes=100_000)
    there, go = asyncio.Event(), asyncio.Event()

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        client.join("x")
        there.set()
        await go.wait()

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("40")
        await there.wait()
        taken = sum(io.to("x").emit("n", "x" * 10_000).delivered for _ in range(20))
        go.set()
        assert taken == 9
        assert await socket.closed() is not None
        assert io.counters.dropped == 1


async def test_who_has_missed_more_than_may_wait_is_plainly_not_recovered() -> None:
    """Else what it missed would end its session, again and again."""
    io = portico.Realtime(recovery=Recovery(), max_outbox_bytes=100_000)
    async with serving(io) as raw:
        for size, recovered in ((9, True), (11, False)):
            async with raw.socket() as socket:
                await socket.opened()
                await socket.send("40")
                first = json.loads(str(await socket.next())[2:])
            await until(lambda: not io.clients)
            for _ in range(size):
                io.emit("n", "x" * 10_000)
            sid = await raw.poll_session()
            await raw.post(sid, f"40{json.dumps({'pid': first['pid']})}")
            answer, *missed = (await raw.get(sid)).split("\x1e")
            assert (json.loads(answer[2:]) == first) is recovered
            assert len(missed) == (size if recovered else 0)
            await raw.post(sid, "41")
            await until(lambda: not io.clients)
        assert io.counters.dropped == 0


# -- the latest -------------------------------------------------------------------------------------------------------


async def test_attachments_are_replaced_with_their_event_on_websocket() -> None:
    io = portico.Realtime()
    async with serving(io, deflate=None) as raw, stalled(raw) as (socket, client, resume):
        for n in range(50):
            assert io.latest("frame").emit("frame", n, bytes([n]) * 100, bytes([n]) * 50).delivered == 1
        client.emit("end")
        resume()
        place = [{"_placeholder": True, "num": n} for n in range(2)]
        expected = ["frame", 49, *place, bytes([49]) * 100, bytes([49]) * 50]
        assert await events(socket, "end") == [expected, ["end"]]
        assert io.counters.replaced == 49


async def test_attachments_are_replaced_with_their_event_between_two_polls() -> None:
    io = portico.Realtime()
    async with serving(io) as raw:
        sid, _ = await slow(raw)
        for n in range(50):
            io.latest("frame").emit("frame", n, bytes([n]) * 100)
        got = (await raw.get(sid)).split("\x1e")
        assert got[0] == '451-["frame",49,{"_placeholder":true,"num":0}]'
        assert got[1] == "b" + base64.b64encode(bytes([49]) * 100).decode()
        assert len(got) == 2


async def test_the_latest_is_alone_also_while_a_poll_is_held() -> None:
    io = portico.Realtime()
    async with serving(io) as raw:
        sid, client = await slow(raw)
        poll = asyncio.create_task(raw.get(sid))
        await until(lambda: client.session.poll is not None)
        for n in range(20):
            io.latest("price").emit("n", n)
        assert await poll == '42["n",19]'


async def test_the_latest_moves_with_the_session_to_websocket() -> None:
    """Engine.IO v4, §Upgrade: what waits goes over."""
    io = portico.Realtime()
    async with serving(io) as raw:
        sid, _ = await slow(raw)
        io.emit("first")
        for n in range(5):
            io.latest("price").emit("n", n)
        async with raw.socket(sid) as socket:
            await socket.send("2probe")
            await socket.expect("3probe")
            await socket.send("5")
            await socket.expect('42["first"]', '42["n",4]')


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_dropping_does_not_spoil_a_compressed_connection_that_keeps_its_window(policy: Any) -> None:
    """RFC 7692 §7.2: each message may refer to those before it, so that none of them may be left out."""
    io = portico.Realtime(max_outbox_bytes=300_000, on_slow=policy)
    deflate = portico.Deflate(server_context_takeover=True, threshold_bytes=0)
    async with serving(io, deflate=deflate) as raw:
        url = raw.url(transport="websocket").replace("http", "ws", 1)
        async with raw.http.ws_connect(url, compress=15) as ws:
            await ws.receive_str()
            await ws.send_str("40")
            client = io.clients[json.loads((await ws.receive_str())[2:])["sid"]]
            assert client.session.ws.wire.codec.keep_writing
            transport: Any = ws._response.connection.transport  # type: ignore[union-attr]
            transport.pause_reading()
            noise = base64.b85encode(bytes((n * n * 7919 >> 5) & 255 for n in range(40_000))).decode()
            number = 0
            while not io.counters.dropped:
                number += 1
                client.emit("n", number, noise[number % 100 :] + str(number) * 1000)
            for n in range(10):
                io.latest("price").emit("price", n)
            assert io.counters.replaced >= 9 or policy == "drop_newest"
            transport.resume_reading()
            got: list[Any] = []
            while client.session.ws.stream.buffered or not got:
                got.append(json.loads((await ws.receive_str())[2:]))
            client.emit("end", noise)
            while got[-1][0] != "end":
                got.append(json.loads((await ws.receive_str())[2:]))
            numbers = [event[1] for event in got if event[0] == "n"]
            assert numbers == sorted(set(numbers))
            assert len(numbers) < number
            assert [event[1] for event in got if event[0] == "price"] in (
                [[9]] if policy == "drop_oldest" else [[9], []]
            )


# -- the application is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_the_application_is_told_of_a_slow_client_and_when_it_has_caught_up(policy: Any) -> None:
    io, told = telling(max_outbox_bytes=300_000, on_slow=policy)
    async with serving(io, deflate=None) as raw, stalled(raw) as (_, client, resume):
        while io.counters.dropped < 100:
            io.emit("n", "x" * 10_000)
        assert told == [], "not within the emission"
        await until(lambda: told)
        assert len(told) == 1, "once, however many were dropped"
        assert told[0][0] is client
        assert told[0][1].state == "slow"
        assert 0 < told[0][1].waiting_bytes <= 400_000
        resume()
        await until(lambda: len(told) == 2)
        assert (told[1][1].state, told[1][1].dropped, told[1][1].waiting_bytes) == ("caught up", 100, 0)
        assert client.session.lag is None


async def test_on_polling_as_well() -> None:
    io, told = telling(max_outbox_bytes=50_000, on_slow="drop_oldest")
    async with serving(io) as raw:
        sid, client = await slow(raw)
        for _ in range(20):
            io.emit("n", "x" * 10_000)
        await until(lambda: told)
        assert told == [(client, Slow("slow", 16, 0, client.waiting_bytes))]
        await raw.get(sid)
        await until(lambda: len(told) == 2)
        assert told[1] == (client, Slow("caught up", 16, 0, 0))


async def test_it_is_told_again_while_that_goes_on_and_not_for_each_event() -> None:
    io, told = telling(max_outbox_bytes=50_000, on_slow="drop_newest")
    async with serving(io) as raw:
        await slow(raw)
        while len(told) < 3:
            io.emit("n", "x" * 10_000)
            await asyncio.sleep(0.001)
        assert [slow.state for _, slow in told] == ["slow"] * 3
        assert told[0][1].dropped < told[1][1].dropped < told[2][1].dropped


async def test_a_client_whose_session_ends_over_it_is_told_of_once() -> None:
    io, told = telling(max_outbox_bytes=50_000)
    async with serving(io) as raw:
        _, client = await slow(raw)
        for _ in range(20):
            io.emit("n", "x" * 10_000)
        await until(lambda: told)
        assert [(each is client, slow.state, slow.dropped) for each, slow in told] == [(True, "closed", 1)]


async def test_a_newer_value_between_two_polls_is_nothing_to_tell() -> None:
    io, told = telling()
    async with serving(io) as raw:
        sid, client = await slow(raw)
        for _ in range(30):
            for n in range(5):
                io.latest("price").emit("n", n)
            await raw.get(sid)
        await until(lambda: client.session.lag is None)
        assert told == []
        for n in range(5):
            io.latest("price").emit("n", n)  # and now it does not poll any more
        await until(lambda: told)
        assert [(slow.state, slow.dropped, slow.replaced) for _, slow in told] == [("slow", 0, 4)]


async def test_a_function_that_fails_or_takes_long_holds_nothing_up(logged: Logged) -> None:
    io = portico.Realtime(max_outbox_bytes=50_000, on_slow="drop_newest")
    told = []
    go = asyncio.Event()

    @io.on_slow
    async def on_slow(client: Any, slow: Slow) -> None:
        told.append(slow.state)
        await go.wait()
        raise RuntimeError("oh")

    async with serving(io) as raw:
        sid, client = await slow(raw)
        for _ in range(20):
            io.emit("n", "x" * 10_000)
        await until(lambda: told)
        await raw.get(sid)
        await until(lambda: client.session.lag is None)
        await turns()
        assert told == ["slow"]
        go.set()
        await until(lambda: len(told) == 2)
        await turns()
        assert told == ["slow", "caught up"]
        assert [record.getMessage() for record in logged.records] == ["the function for slow clients failed"] * 2
        logged.records.clear()


def test_one_function_alone_is_told() -> None:
    io, _ = telling()
    with pytest.raises(portico.LocalError, match="already"):
        io.on_slow(print)
