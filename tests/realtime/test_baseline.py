"""Sessions that come, do some of everything and go in every way leave nothing behind: no session, client, room,
namespace, acknowledgement, timer, task, descriptor, history, presence or memory.

``PORTICO_LONG=1`` (`make long`) has 100,000 of them; ``-s`` shows the figures.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from tests.interop.own_server import OwnServer, Stats
from tests.interop.storm_client import Storm
from tests.realtime.wanderers import Wanderer

pytestmark = pytest.mark.alone

LONG = os.environ.get("PORTICO_LONG") == "1"
SESSIONS, PARTS = (100_000, 10) if LONG else (3_000, 5)
AT_ONCE = 100
QUIET_S = 30
# Besides its inbox the broker hosts the channels of / and /admin, with their histories, from their first client on.
FROM_NOW_ON = {"channels": 3, "hosted": 3, "histories": 2}


@pytest.fixture
def server() -> Iterator[OwnServer]:
    with OwnServer.running("tests.realtime.baseline_server") as server:
        yield server


def settled(server: OwnServer, before: dict[str, int]) -> Stats:
    """The server's state, as soon as what can be counted is as it was `before`; it has to be, after a while."""
    deadline = time.monotonic() + QUIET_S
    while (told := server.stats())["counts"] != before and time.monotonic() < deadline:
        time.sleep(0.05)  # what is kept for a while goes by the clock
    assert told["counts"] == before
    return told


def test_sessions_that_come_and_go_leave_nothing_behind(server: OwnServer) -> None:
    """An allocator takes memory in steps, now and then; a leak takes some in every part of the time. So the median part
    tells, as in tests/interop/test_storm.py. What the process holds grows by gaps in it, too: of its use that says
    little, and it has a wide bound."""
    numbers = itertools.count(1)
    left: deque[dict[str, Any]] = deque(maxlen=50)
    storm = Storm(server.port)
    before = server.stats()["counts"] | FROM_NOW_ON
    part = SESSIONS // PARTS
    parts: list[Stats] = []
    began = time.monotonic()
    try:
        for _ in range(PARTS):
            scripts = (
                (number, lambda sock, number: Wanderer(sock, number, left).wander())
                for number in itertools.islice(numbers, part)
            )
            storm.run(scripts, at_once=AT_ONCE, timeout_s=60 + part / 20)
            parts.append(settled(server, before))
    finally:
        storm.close()
    print(
        f"\n{SESSIONS} sessions in {time.monotonic() - began:.0f} s; ended {parts[-1]['closed']}, refused "
        f"{parts[-1]['refused']}, {parts[-1]['recovered']} recovered; baseline {before}"
    )
    for what, most in (("blocks", max(150, part // 50)), ("malloc_kib", 128), ("memory_kib", 1024)):
        growth = [after[what] - one[what] for one, after in itertools.pairwise(parts[1:])]
        print(what, [one[what] for one in parts])
        assert statistics.median(growth) <= most, (what, growth)
    for one, after in itertools.pairwise(parts[1:]):
        assert one["types"] == after["types"]
    assert parts[-1]["recovered"] > SESSIONS / 100
    assert set(parts[-1]["closed"]) == {
        "transport close",
        "transport error",
        "ping timeout",
        "parse error",
        "forced server close",
    }
