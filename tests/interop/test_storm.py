"""Very many connections: 10,000 at once in bursts beyond the backlog, and tens of thousands that come and go.

All are accepted, none is refused, none leaks. Server and client are two processes, so that each keeps its 10,000
descriptors below the usual limit of 20,000. ``PORTICO_STORM_CYCLES`` sets how many connections come and go.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Iterator

import pytest
from tests.interop import storm_client
from tests.interop.own_server import WHEEL_BLOCKS_PER_S, OwnServer, Stats
from tests.interop.storm_client import Storm

from portico.net.binding import BACKLOG

pytestmark = pytest.mark.alone

CONNECTIONS = 10_000
CYCLES = int(os.environ.get("PORTICO_STORM_CYCLES", "100000"))
AT_ONCE = 200
SPARE_DESCRIPTORS = 1_000
PARTS = 10


@pytest.fixture
def server() -> Iterator[OwnServer]:
    with OwnServer.running("tests.interop.storm_server", CONNECTIONS + SPARE_DESCRIPTORS) as server:
        yield server


@pytest.fixture
def storm(server: OwnServer) -> Iterator[Storm]:
    storm = Storm(server.port)
    try:
        yield storm
    finally:
        storm.close()


def test_ten_thousand_at_once_are_all_accepted_and_none_leaks(server: OwnServer, storm: Storm) -> None:
    """The burst comes while the server has no time: more connections than the backlog holds (listen(2))."""
    storm.run(((number, storm_client.mixed) for number in range(100)), at_once=AT_ONCE, timeout_s=30)
    before = server.alone()
    for _ in range(2):
        with server.stopped():
            for number in range(CONNECTIONS):
                storm.connect(number, storm_client.open_websocket)
            assert storm.established() <= BACKLOG + 1 < CONNECTIONS  # the burst is beyond the backlog indeed
        storm.run(timeout_s=60)
        assert len(storm.held) == CONNECTIONS
        full = server.stats()
        lost = full["connections"] - CONNECTIONS - 1  # still waited for, until their deadline: the server ended none
        assert 0 <= lost <= storm.lost
        assert full["fds"] == before["fds"] + CONNECTIONS + lost
        assert full["tasks"] == before["tasks"] + CONNECTIONS // 2  # one for each coroutine handler
        assert full["types"]["WebSocket"] == CONNECTIONS

        storm.resume(storm_client.say_and_stay)  # every one of them is alive
        storm.run(timeout_s=30)
        assert len(storm.held) == CONNECTIONS

        endings = (storm_client.close_cleanly, storm_client.close_with_reset, storm_client.close_half)
        for n, ending in enumerate(endings):
            storm.resume(ending, range(n, CONNECTIONS, len(endings)))
        storm.run(timeout_s=30)
        assert storm.held == {}
        server.alone(before)


def test_connections_that_come_and_go_leave_nothing_behind(server: OwnServer, storm: Storm) -> None:
    """Closed cleanly, cut off, left half open, refused, never used: none of it adds up.

    An allocator takes memory in steps, now and then; a leak takes some in every part of the time. So the median part
    tells: with 10,000 connections in each, one object left by every 50th connection is too much, and so are 100 bytes
    left by every 4th.
    """
    numbers = itertools.count()

    def come_and_go(count: int) -> Stats:
        cycles = ((number, storm_client.mixed) for number in itertools.islice(numbers, count))
        storm.run(cycles, at_once=AT_ONCE, timeout_s=60 + count / 500)
        return server.alone(parts[0] if parts else None)

    part = CYCLES // PARTS
    parts: list[Stats] = []
    began = time.monotonic()
    for _ in range(PARTS):
        parts.append(come_and_go(part))
    wheel = WHEEL_BLOCKS_PER_S * (time.monotonic() - began) / PARTS
    for what, most in (("blocks", part // 50 + wheel), ("memory_kib", 256)):
        growth = [after[what] - before[what] for before, after in itertools.pairwise(parts[1:])]
        assert statistics.median(growth) <= most, (what, growth)
