"""Flow control of a WebSocket both ways: waiting to send, in turn; messages that nobody takes; pings in between."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.held import SMALL, Push, hall
from tests.support import BINARY, CLOSE, GUARD_S, PING, PONG, TEXT, Peer, close_frame, frame, turns, until

import portico
from portico import ConnectionClosed, LocalError, Sent

HIGH = 10_000
LIMITS = portico.Limits(high_water_bytes=HIGH, max_outbox_bytes=40_000)
BLOCK = bytes(3000)  # written until the peer's buffers are full


def say(peer: Peer, *messages: str) -> None:
    """In one write."""
    peer.send(b"".join(frame(TEXT, message.encode()) for message in messages))


async def stall(ws: portico.WebSocket, above: int = HIGH) -> int:
    """Write until the outbox is above its mark although the kernel has taken what it can; returns how many."""
    count = 0
    while ws.buffered <= above or not ws.stream.blocked:
        assert ws.write(BLOCK) is not Sent.DROPPED
        count += 1
        await asyncio.sleep(0)
    return count


async def skip(peer: Peer, count: int) -> None:
    for _ in range(count):
        assert await peer.frame() == (BINARY, BLOCK)


# -- sending -------------------------------------------------------------------------------------------------------


async def test_a_send_to_a_quick_peer_waits_for_nothing() -> None:
    async with hall() as found:
        ws, peer = await found.enter()
        for way in (lambda: ws.send("a"), lambda: asyncio.create_task(ws.send("a"))):
            await way()
            assert await peer.frame() == (TEXT, b"a")
        await asyncio.gather(ws.send("b"), ws.send("c"))
        await asyncio.wait_for(ws.send(b"d"), GUARD_S)
        assert [await peer.frame() for _ in range(3)] == [(TEXT, b"b"), (TEXT, b"c"), (BINARY, b"d")]


async def test_above_the_high_water_mark_senders_wait_and_go_in_turn() -> None:
    async with hall(small=True, limits=LIMITS) as found:
        ws, peer = await found.enter(receive_buffer=SMALL)
        count = await stall(ws)
        tasks = [asyncio.create_task(ws.send(f"{number:03}" * 1000)) for number in range(30)]
        await turns()
        assert not any(task.done() for task in tasks)
        buffered = ws.buffered
        await turns()
        assert ws.buffered == buffered
        await skip(peer, count)
        for number in range(30):
            assert await peer.frame() == (TEXT, b"%03d" % number * 1000)
            assert ws.buffered <= HIGH + 4000
        await asyncio.gather(*tasks)
        await ws.send("after")
        assert await peer.frame() == (TEXT, b"after")


async def test_nobody_overtakes_a_sender_that_was_woken() -> None:
    """Between its turn and its step, others may call send() on an outbox that has room."""
    async with hall(small=True, limits=LIMITS) as found:
        ws, peer = await found.enter(receive_buffer=SMALL)
        count = await stall(ws)
        first = asyncio.create_task(ws.send("first"))
        await turns()
        first_is_on_its_way = asyncio.Event()
        drained = ws.stream.high_water >> 1

        async def overtake() -> None:
            while ws.buffered > drained:
                await asyncio.sleep(0)
            first_is_on_its_way.set()
            await ws.send("second")

        second = asyncio.create_task(overtake())
        await skip(peer, count)
        assert [await peer.frame() for _ in range(2)] == [(TEXT, b"first"), (TEXT, b"second")]
        await asyncio.gather(first, second)
        assert first_is_on_its_way.is_set()


async def test_a_send_made_when_the_outbox_was_full_and_awaited_when_it_is_empty() -> None:
    async with hall(small=True, limits=LIMITS) as found:
        ws, peer = await found.enter(receive_buffer=SMALL)
        count = await stall(ws)
        late = ws.send("late")
        await skip(peer, count)
        await until(lambda: not ws.buffered)
        await asyncio.wait_for(late, GUARD_S)
        assert await peer.frame() == (TEXT, b"late")


@pytest.mark.parametrize("late", [False, True], ids=["waiting", "not awaited yet"])
async def test_the_end_of_the_connection_wakes_all_senders(late: bool) -> None:
    async with hall(small=True, limits=LIMITS) as found:
        ws, _ = await found.enter(receive_buffer=SMALL)
        await stall(ws)
        sends = [ws.send("never") for _ in range(5)]
        if not late:
            sends = [asyncio.ensure_future(send) for send in sends]  # type: ignore[misc] # awaitables, all the same
            await turns()
        ws.stream.abort()
        for send in sends:
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(send, GUARD_S)
        with pytest.raises(ConnectionClosed):
            await ws.send("never")


async def test_cancelled_senders_send_nothing_and_hold_nobody_up() -> None:
    async with hall(small=True, limits=LIMITS) as found:
        ws, peer = await found.enter(receive_buffer=SMALL)
        count = await stall(ws)
        tasks = [asyncio.create_task(ws.send(f"{number:02}")) for number in range(20)]
        await turns()
        for task in (*tasks[:3], *tasks[10:15], tasks[-1]):
            task.cancel()
        await skip(peer, count)
        expected = [*range(3, 10), *range(15, 19)]
        assert [await peer.frame() for _ in expected] == [(TEXT, b"%02d" % number) for number in expected]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [number for number in range(20) if done[number] is None] == expected


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_is_cancelled_when_each_message_goes_whole_in_order_or_not_at_all(seed: int) -> None:
    chance = random.Random(seed)
    async with hall(small=True, limits=LIMITS) as found:
        ws, peer = await found.enter(receive_buffer=SMALL)
        sent: list[int] = []
        got: list[int] = []

        async def send(number: int) -> None:
            await ws.send(f"{number} " * chance.randint(1, 800))
            sent.append(number)  # no await between the two

        async def read() -> None:
            while True:
                first, payload = await peer.frame()
                if payload == b"end":
                    return
                numbers = set(payload.split())
                assert (first, len(numbers)) == (TEXT, 1)
                got.append(int(numbers.pop()))
                await turns(chance.choice((0, 0, 5)))

        reading = asyncio.create_task(read())
        tasks = []
        for number in range(300):
            tasks.append(asyncio.create_task(send(number)))
            if chance.random() < 0.3:
                chance.choice(tasks[-10:]).cancel()
            await turns(chance.choice((0, 0, 0, 1, 3)))
        await asyncio.gather(*tasks, return_exceptions=True)
        await ws.send("end")
        await reading
        assert got == sent
        assert len(set(got)) == len(got) > 100


async def test_what_write_returns() -> None:
    async with hall(small=True, limits=LIMITS) as found:
        ws, peer = await found.enter(receive_buffer=SMALL)
        assert ws.write("quick") is Sent.DONE
        await stall(ws)
        assert ws.write("slow") is Sent.QUEUED
        while (outcome := ws.write(BLOCK)) is Sent.QUEUED:
            assert ws.buffered <= 40_000
        assert outcome is Sent.DROPPED
        assert ws.write("too late") is Sent.CLOSED
        with pytest.raises(LocalError, match="expected str, bytes"):
            (await found.enter())[0].write(1)  # type: ignore[arg-type] # that is the point
        frames = [await peer.frame()]
        while frames[-1][0] != CLOSE:
            frames.append(await peer.frame())
        assert frames[-1][1][:2] == (1008).to_bytes(2, "big")
        assert (TEXT, b"slow") not in frames, "what was not begun makes room for the close frame"


async def test_a_peer_closed_as_too_slow_hears_why_although_it_was_still_talking() -> None:
    """1008 is behind input that nobody read: it must not be lost to a reset."""
    async with hall(small=True, limits=portico.Limits(high_water_bytes=1000, max_outbox_bytes=2000)) as found:
        ws, peer = await found.enter(receive_buffer=SMALL)
        say(peer, *["unread" * 1000] * 20)
        while ws.write(BLOCK) is not Sent.DROPPED:
            await asyncio.sleep(0)
        first, payload = await peer.frame()
        while first != CLOSE:
            first, payload = await peer.frame()
        assert payload[:2] == (1008).to_bytes(2, "big")


# -- receiving -----------------------------------------------------------------------------------------------------


async def fill(ws: portico.WebSocket, peer: Peer, count: int) -> None:
    say(peer, *(f"{number:01000}" for number in range(count)))
    await until(lambda: ws.stream.paused)


async def test_unread_messages_are_bounded_and_none_is_lost() -> None:
    async with hall(small=True, limits=portico.Limits(max_unread_bytes=10_000)) as found:
        ws, peer = await found.enter()
        await fill(ws, peer, 2000)
        assert ws.inbox is not None
        assert ws.inbox.cost < 400_000
        assert [await ws.recv() for _ in range(2000)] == [f"{number:01000}" for number in range(2000)]
        assert not ws.stream.paused


async def test_pings_are_answered_and_the_end_is_seen_although_nobody_reads() -> None:
    async with hall(limits=portico.Limits(max_unread_bytes=1000)) as found:
        ws, peer = await found.enter()
        await fill(ws, peer, 5)
        peer.send(frame(0x89, b"still there?"))
        assert await peer.frame() == (0x8A, b"still there?")
        peer.send(close_frame(1000))
        assert await peer.frame() == (CLOSE, b"\x03\xe8")
        assert await peer.to_end() == b""
        assert [await ws.recv() for _ in range(5)] == [f"{number:01000}" for number in range(5)]
        with pytest.raises(ConnectionClosed):
            await ws.recv()


async def test_closing_with_messages_unread_still_ends_clean() -> None:
    """The peer's answer is behind what nobody takes any more."""
    async with hall(small=True, limits=portico.Limits(max_unread_bytes=10_000)) as found:
        ws, peer = await found.enter()
        await fill(ws, peer, 2000)
        closing = asyncio.ensure_future(ws.close(4000, "enough"))
        assert await peer.frame() == (CLOSE, (4000).to_bytes(2, "big") + b"enough")
        peer.send(close_frame(4000, "enough"))
        await closing
        assert ws.closed is not None
        assert (ws.closed.clean, ws.closed.by, ws.closed.code) == (True, "us", 4000)
        assert ws.inbox is not None
        assert ws.inbox.cost < 400_000
        first = [message async for message in ws]
        assert first == [f"{number:01000}" for number in range(len(first))]
        assert len(first) >= 10


# -- pings to and from a slow peer ---------------------------------------------------------------------------------


async def test_a_ping_is_answered_although_the_outbox_is_never_drained_to_a_mark() -> None:
    """Blocked, and below the high-water mark: nothing but the pong's own place in the outbox brings it to the peer."""
    async with hall(small=True) as found:
        ws, peer = await found.enter(receive_buffer=SMALL)
        count = await stall(ws, above=0)
        assert ws.buffered < ws.stream.high_water
        before = ws.stream.bytes_in
        peer.send(frame(PING, b"are you there?"))
        await until(lambda: ws.stream.bytes_in > before)
        await skip(peer, count)
        assert await peer.frame() == (PONG, b"are you there?")


async def test_of_many_pings_of_a_peer_that_takes_nothing_the_latest_is_answered() -> None:
    """RFC 6455 §5.5.3; and the outbox stays what it was."""
    async with hall(small=True, limits=LIMITS) as found:
        ws, peer = await found.enter(receive_buffer=SMALL)
        count = await stall(ws)
        before = ws.buffered
        size = ws.stream.bytes_in
        for number in range(20_000):
            peer.send(frame(PING, b"%05d" % number + b"x" * 120))
            size += 131
            if number % 500 == 0:
                await asyncio.sleep(0)
        await until(lambda: ws.stream.bytes_in == size)
        assert ws.buffered - before <= 127 * 2
        await skip(peer, count)
        payload = b""
        for _ in range(3):
            first, payload = await peer.frame()
            assert first == PONG
            if payload.startswith(b"19999"):
                break
        assert payload.startswith(b"19999")
        assert ws.closed is None


async def test_pings_of_a_quick_peer_are_all_answered() -> None:
    async with hall() as found:
        _, peer = await found.enter()
        for number in range(50):
            peer.send(frame(PING, b"%d" % number))
        assert [await peer.frame() for _ in range(50)] == [(PONG, b"%d" % number) for number in range(50)]


async def test_a_ping_measures_the_round_trip_and_a_later_pong_answers_earlier_pings() -> None:
    async with hall() as found:
        ws, peer = await found.enter()
        pings = [asyncio.create_task(ws.ping()) for _ in range(3)]
        payloads = []
        for _ in range(3):
            first, payload = await peer.frame()
            assert first == PING
            payloads.append(payload)
        assert len(set(payloads)) == 3
        peer.send(frame(PONG, b"unasked") + frame(PONG, payloads[1]))
        seconds = await asyncio.gather(*pings[:2])
        assert all(0 <= each < 5 for each in seconds)
        assert not pings[2].done()
        pings[2].cancel()
        await asyncio.wait([pings[2]])
        peer.send(frame(PONG, payloads[2]))
        say(peer, "still open")
        assert await ws.recv() == "still open"
        assert ws.latency is not None
        assert ws.latency < 5


async def test_the_end_ends_a_wait_for_a_pong() -> None:
    async with hall() as found:
        ws, peer = await found.enter()
        ping = asyncio.create_task(ws.ping())
        await peer.frame()
        peer.send(close_frame(1000))
        with pytest.raises(ConnectionClosed):
            await ping
        with pytest.raises(ConnectionClosed):
            await ws.ping()


async def test_the_pong_to_a_keepalive_ping_counts_although_others_were_sent_since() -> None:
    keepalive = portico.Keepalive(ping_interval_s=0.15, ping_timeout_s=100)
    async with hall(keepalive=keepalive) as found:
        ws, peer = await found.enter()
        first, ours = await peer.frame()
        assert first == PING
        pings = [asyncio.create_task(ws.ping()) for _ in range(2)]
        await peer.frame()
        await peer.frame()
        assert ws.latency is None
        peer.send(frame(PONG, ours))
        await until(lambda: ws.latency is not None)
        assert not any(ping.done() for ping in pings)
        for ping in pings:
            ping.cancel()


async def test_a_peer_that_is_dead_is_found_and_one_that_speaks_is_not() -> None:
    keepalive = portico.Keepalive(ping_interval_s=0.1, ping_timeout_s=1.0)
    endpoint = Push()
    async with hall(endpoint, keepalive=keepalive) as found:
        _, dead = await found.enter()
        talking, alive = await found.enter()

        async def talk() -> None:
            while not endpoint.closes:
                say(alive, "I don't answer pings, but I am here")
                await asyncio.sleep(0.05)

        await talk()
        [close] = endpoint.closes
        assert (close.code, close.by) == (1011, "us")
        assert isinstance(close.cause, TimeoutError)
        assert talking.closed is None
        first, payload = await dead.frame()
        while first == PING:
            first, payload = await dead.frame()
        assert (first, payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))
