"""Very many connections: 10,000 at once in bursts beyond the backlog, and tens of thousands that come and go.

All are accepted, none is refused, none leaks. Server and client are two processes, so that each keeps its 10,000
descriptors below the usual limit of 20,000. ``PORTICO_STORM_CYCLES`` sets how many connections come and go.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.interop import storm_client
from tests.interop.storm_client import Storm

from portico.net.binding import BACKLOG

pytestmark = pytest.mark.alone

CONNECTIONS = 10_000
CYCLES = int(os.environ.get("PORTICO_STORM_CYCLES", "100000"))
AT_ONCE = 200
SPARE_DESCRIPTORS = 1_000
QUIET_S = 20
PARTS = 10

Stats = dict[str, Any]


class StormServer:
    """The server's process, and what it says of itself."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.port = port
        self._process = process

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The process gets no time meanwhile: its kernel queues what comes, as far as the backlog reaches."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stats(self) -> Stats:
        """Its state, told over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=QUIET_S)
        try:
            connection.request("GET", "/stats")
            told: Stats = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return told

    def settled(self, condition: Callable[[Stats], bool]) -> Stats:
        """Its state, as soon as that fulfils `condition`; after a while, its state anyhow."""
        deadline = time.monotonic() + QUIET_S
        while not condition(told := self.stats()) and time.monotonic() < deadline:
            pass
        return told

    def alone(self, before: Stats | None = None) -> Stats:
        """Its state when the asking connection is the only one; what is countable must be as it was `before`."""
        before = before or {"connections": 1}
        same = [what for what in ("connections", "fds", "tasks", "types") if what in before]
        told = self.settled(lambda told: all(told[what] == before[what] for what in same))
        for what in same:
            assert told[what] == before[what], what
        return told


@pytest.fixture
def server() -> Iterator[StormServer]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < CONNECTIONS + SPARE_DESCRIPTORS:
        pytest.fail(f"the storm needs {CONNECTIONS + SPARE_DESCRIPTORS} open files: ulimit -Hn says {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CONNECTIONS + SPARE_DESCRIPTORS), hard))
    script = Path(__file__).with_name("storm_server.py")
    process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        with process:
            assert process.stdout is not None
            yield StormServer(process, int(process.stdout.readline()))
        assert process.returncode == 0
    finally:
        process.kill()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def storm(server: StormServer) -> Iterator[Storm]:
    storm = Storm(server.port)
    try:
        yield storm
    finally:
        storm.close()


def test_ten_thousand_at_once_are_all_accepted_and_none_leaks(server: StormServer, storm: Storm) -> None:
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


def test_connections_that_come_and_go_leave_nothing_behind(server: StormServer, storm: Storm) -> None:
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
    for _ in range(PARTS):
        parts.append(come_and_go(part))
    for what, most in (("blocks", part // 50), ("memory_kib", 256)):
        growth = [after[what] - before[what] for before, after in itertools.pairwise(parts[1:])]
        assert statistics.median(growth) <= most, (what, growth)
