"""Floods of control frames (RFC 6455 §5.5) from peers that read, and from peers that don't.

Of several pings the latest is answered (§5.5.3), so that a flood of them costs one pong; a neighbour, a well-behaved
connection of the same victim, echoes before, during and after.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.hostile.attacker import echoes, peer_at, told
from tests.hostile.target import KIB, MIB, Target
from tests.support import CLOSE, PING, PONG, TEXT, Peer
from tests.wire import raw

pytestmark = pytest.mark.usefixtures("neighbour")

FLOOD = 100_000
HIGH_WATER = 64 * KIB  # Limits.high_water_bytes, as it is by default


async def write(peer: Peer, data: bytes) -> None:
    """Until the kernel has it, or the loop will give it to the kernel."""
    for at in range(0, len(data), MIB):
        peer.send(data[at : at + MIB])
        await peer.writer.drain()


async def answers(peer: Peer, last: bytes, message: tuple[int, bytes] | None = None) -> int:
    """How many pongs come, their numbers rising, until the one with `last` and the message have come."""
    count, before = 0, b""
    while before != last or message:
        came = await peer.frame()
        if came == message:
            message = None
            continue
        first, payload = came
        assert first == PONG
        assert payload > before
        before = payload
        count += 1
    return count


def pings(victim: Target, size: int) -> bytes:
    """A flood of numbered pings with `size` bytes of payload, masked with key 0 so as to be made quickly."""
    head = raw.header(PING, size, None if victim.client else bytes(4))
    return b"".join(head + b"%0*d" % (size, n) for n in range(FLOOD))


@pytest.mark.parametrize("size", [8, 125])
async def test_pings_of_a_peer_that_does_not_read(victim: Target, size: int) -> None:
    """What waits for it is one pong beyond the mark from which on a peer counts as slow."""
    calls = victim.ask()["calls"]
    async with peer_at(victim, "/told", receive_buffer=4096) as peer:
        with victim.spending() as spent:
            await write(peer, pings(victim, size) + victim.frame(TEXT, b"after the flood"))
            now = await asyncio.to_thread(victim.settled, lambda now: now["calls"] > calls)
        assert max(now["buffered"]) <= HIGH_WATER + 2 * KIB, now["buffered"]
        assert spent.peak <= 3 * MIB, spent
        assert await answers(peer, b"%0*d" % (size, FLOOD - 1), told("str", b"after the flood")) < FLOOD
        await echoes(victim, peer)


async def test_pings_of_a_peer_that_reads(victim: Target) -> None:
    async with peer_at(victim, "/told") as peer:
        with victim.spending() as spent:
            flood = asyncio.create_task(write(peer, pings(victim, 8)))
            await answers(peer, b"%08d" % (FLOOD - 1))
            await flood
        assert spent.peak <= 4 * MIB, spent
        await echoes(victim, peer)


async def test_pings_within_a_message(victim: Target) -> None:
    """Between two fragments (§5.4): the message is what it was."""
    async with peer_at(victim, "/told") as peer:
        flood = asyncio.create_task(
            write(peer, victim.frame(0x01, b"half and ") + pings(victim, 8) + victim.frame(0x80, b"half"))
        )
        await answers(peer, b"%08d" % (FLOOD - 1), told("str", b"half and half"))
        await flood


async def test_pongs_that_nobody_asked_for(victim: Target) -> None:
    """A pong MAY be sent unsolicited; a response is not expected (§5.5.3)."""
    async with peer_at(victim, "/told") as peer:
        with victim.spending() as spent:
            await write(peer, victim.frame(PONG, bytes(125)) * FLOOD)
            await echoes(victim, peer)
        assert spent.peak <= 3 * MIB, spent


async def test_what_follows_a_close_frame(victim: Target) -> None:
    """Nothing after it is read (§5.5.1): one answer, then the end."""
    async with peer_at(victim, "/told") as peer:
        with victim.spending() as spent:
            peer.send(victim.close_frame(1000) + victim.frame(CLOSE) * FLOOD + victim.frame(PING) * FLOOD)
            await peer.closed_with(1000)
            with contextlib.suppress(ConnectionError):  # the server has ended TCP, though there was more to read
                assert await peer.to_end() == b""
        assert spent.peak <= 3 * MIB, spent
