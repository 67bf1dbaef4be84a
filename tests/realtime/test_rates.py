"""Rates: what comes faster is not run, its acknowledgement says so, and who goes on and on is closed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.realtime.raw import Socket, realtime, serving
from tests.support import until

import portico
from portico.realtime import Rate
from portico.realtime.rates import Attempts, Bucket
from portico.wire.request import Request

pytestmark = pytest.mark.usefixtures("logged")

HOUR = 3600.0


def counting(io: portico.Realtime, event: str, **options: Any) -> list[int]:
    """What the handler of `event` was given."""
    taken: list[int] = []

    async def take(client: Any, n: int) -> int:
        taken.append(n)
        return n

    io.on(event, take, **options)
    return taken


async def ask(socket: Socket, event: str, n: int) -> Any:
    await socket.send(f'421["{event}",{n}]')
    return json.loads(str(await socket.next())[3:])[0]


def is_refusal(answer: Any) -> bool:
    return (
        isinstance(answer, dict)
        and answer["error"] == "too many events"
        and answer["data"]["code"] == "rate"
        and 0 < answer["data"]["retry_after_s"] <= HOUR
    )


def test_a_bucket_gives_a_burst_and_then_the_rate() -> None:
    bucket = Bucket(Rate(5, 1, burst=10), now=100.0)
    assert [bucket.take(100.0) for _ in range(10)] == [0.0] * 10
    assert bucket.take(100.0) == pytest.approx(0.2)
    assert bucket.take(100.1) == pytest.approx(0.1)
    assert bucket.take(100.2) == 0.0
    assert [bucket.take(1000.0) for _ in range(11)].count(0.0) == 10  # it holds no more than a burst


def test_what_is_refused_costs_nothing_and_is_forgotten_at_the_rate() -> None:
    bucket = Bucket(Rate(2), now=0.0)
    taken = [bucket.take(n / 10) for n in range(101)].count(0.0)  # ten seconds, ten a second
    assert taken == pytest.approx(2 + 20, abs=1)
    assert bucket.over == pytest.approx(101 - taken - 20, abs=3)
    bucket.take(1000.0)
    assert bucket.over == 0


async def test_an_event_over_its_rate_is_not_run_and_its_acknowledgement_says_so() -> None:
    io = realtime()
    taken = counting(io, "chat", rate=Rate(3, HOUR))
    async with serving(io) as raw, raw.socket() as socket, raw.socket() as other:
        for each in (socket, other):
            await each.opened()
            await each.connect()
        answers = [await ask(socket, "chat", n) for n in range(5)]
        assert answers[:3] == [0, 1, 2]
        assert all(map(is_refusal, answers[3:]))
        await socket.send('42["chat",9]')  # without an acknowledgement nothing is said
        assert await ask(socket, "echo", 1) == 1  # other events are as before
        assert await ask(other, "chat", 7) == 7  # and other clients
        assert taken == [0, 1, 2, 7]
        assert io.counters.refused["rate"] == 3


async def test_over_polling_too() -> None:
    io = realtime()
    taken = counting(io, "chat", rate=Rate(1, HOUR))
    async with serving(io) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        await raw.get(sid)
        await raw.post(sid, '421["chat",1]\x1e422["chat",2]')
        text = ""
        while not ("431" in text and "432" in text):
            text += await raw.get(sid)
        assert "too many events" in text
        assert taken == [1]


async def test_the_rate_of_all_events_holds_over_every_event_and_namespace_of_a_client() -> None:
    io = realtime(rate=Rate(4, HOUR))
    taken = counting(io, "chat", rate=Rate(2, HOUR))
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        assert [is_refusal(await ask(socket, "chat", n)) for n in range(3)] == [False, False, True]
        assert [is_refusal(await ask(socket, "echo", n)) for n in range(2)] == [False, True]
        assert taken == [0, 1]


async def test_events_without_a_handler_of_their_own_share_one_rate() -> None:
    """A client can't have more by inventing names."""
    io = realtime()
    names: list[str] = []

    @io.on("*", rate=Rate(2, HOUR))
    async def anything(client: Any, event: str, n: int) -> None:
        names.append(event)

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        for n in range(50):
            await socket.send(f'42["name {n}",{n}]')
        assert await ask(socket, "echo", 1) == 1
        assert names == ["name 0", "name 1"]
        client = next(iter(io.clients.values()))
        assert len(client._buckets or {}) == 1


async def test_a_concurrent_handler_and_a_namespaces_pattern_have_rates_too() -> None:
    io = realtime()
    space = io.matching(r"/room-\d+")

    @space.on("go", concurrent=True, rate=Rate(1, HOUR))
    async def go(client: Any, n: int) -> int:
        return n

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect("/room-1,")
        await socket.send('42/room-1,1["go",1]', '42/room-1,2["go",2]')
        answers = {str(await socket.next()) for _ in range(2)}
        assert "43/room-1,1[1]" in answers
        assert any(answer.startswith('43/room-1,2[{"error":"too many events"') for answer in answers)


async def test_events_that_come_before_the_application_has_decided_count() -> None:
    io = realtime()
    go = asyncio.Event()

    @io.on("connect")
    async def connect(client: Any) -> None:
        await go.wait()

    taken = counting(io, "chat", rate=Rate(2, HOUR))
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("40", *[f'42["chat",{n}]' for n in range(5)])
        await until(lambda: io.counters.refused["rate"] == 3)
        go.set()
        await socket.next()
        await socket.send('421["echo"]')
        await socket.expect("431[]")
        assert taken == [0, 1]


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_client_that_goes_on_far_beyond_is_closed_and_the_application_told(transport: str) -> None:
    """Ten bursts, and at least a hundred."""
    io = realtime()
    taken = counting(io, "chat", rate=Rate(2, HOUR))
    reasons: list[str] = []
    io.on("disconnect", lambda client, reason: reasons.append(reason))
    async with serving(io) as raw:
        if transport == "polling":
            sid = await raw.poll_session()
            await raw.post(sid, "40")
            await raw.get(sid)
            await raw.post(sid, "\x1e".join(['42["chat",1]'] * 102))
            assert not reasons
            assert io.engine.sessions
            await raw.post(sid, '42["chat",1]')
            assert (await raw.request("POST", b"2", sid=sid))[0] == 400
        else:
            async with raw.socket() as socket:
                await socket.opened()
                await socket.connect()
                for _ in range(102):
                    await socket.send('42["chat",1]')
                assert await ask(socket, "echo", 1) == 1
                await socket.send('42["chat",1]')
                assert await socket.closed() == 1008
        await until(lambda: reasons)
        assert (reasons, taken) == (["too many events"], [1, 1])
        assert io.counters.closed == {"too many events": 1}
        assert io.counters.refused["rate"] == 101


async def test_without_rates_nothing_is_kept_and_nothing_refused() -> None:
    io = realtime()
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        for _ in range(1000):
            await socket.send('42["echo",1]')
        assert await ask(socket, "echo", 1) == 1
        assert next(iter(io.clients.values()))._buckets is None
        assert not io.counters.refused


async def test_the_python_client_is_told_when_to_try_again() -> None:
    io = realtime()
    counting(io, "chat", rate=Rate(1, HOUR))
    async with serving(io) as raw, portico.RealtimeClient(raw.base) as client:
        assert await client.call("chat", 1) == 1
        assert is_refusal(await client.call("chat", 2))


def test_the_addresses_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portico.realtime.rates.MAX_ADDRESSES", 3)
    attempts = Attempts(Rate(1, HOUR))
    requests = [Request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", (f"192.0.2.{n}", 1)) for n in range(5)]
    assert [attempts.take(request, 0.0) for request in requests] == [0.0] * 5
    assert len(attempts._buckets) == 3
    assert attempts.take(requests[4], 0.0) > 0
    assert attempts.take(requests[0], 0.0) == 0.0  # forgotten: the one that came longest ago
    nobody = Request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None)  # a Unix socket
    assert [attempts.take(nobody, 0.0) for _ in range(3)] == [0.0] * 3


@pytest.mark.parametrize("ipv6", ["2001:db8::1", "2001:db8::ffff", "2001:db8::1%eth0"])
def test_an_ipv6_customer_is_one_whatever_address_he_takes(ipv6: str) -> None:
    attempts = Attempts(Rate(1, HOUR))
    head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert attempts.take(Request(head, ("2001:db8::7", 1)), 0.0) == 0.0
    assert attempts.take(Request(head, (ipv6, 1)), 0.0) > 0
    assert attempts.take(Request(head, ("2001:db8:0:1::7", 1)), 0.0) == 0.0
    assert attempts.take(Request(head, ("::ffff:192.0.2.1", 1)), 0.0) == 0.0
    assert attempts.take(Request(head, ("192.0.2.1", 1)), 0.0) > 0


@pytest.mark.parametrize("values", [(0,), (-1,), (True,), ("5",), (5, 0), (5, float("nan")), (5, float("inf"))])
def test_rates_that_can_not_be_are_refused(values: Any) -> None:
    with pytest.raises(portico.LocalError, match="Rate"):
        Rate(*values)
    with pytest.raises(portico.LocalError, match="burst"):
        Rate(1, burst=0.5)
    for options in ({"rate": 5}, {"connect_rate": 5}):
        with pytest.raises(portico.LocalError, match=r"portico\.realtime\.Rate"):
            portico.Realtime(**options)  # type: ignore[arg-type]
    with pytest.raises(portico.LocalError, match=r"portico\.realtime\.Rate"):
        portico.Realtime().on("x", print, rate=5)  # type: ignore[call-overload]
