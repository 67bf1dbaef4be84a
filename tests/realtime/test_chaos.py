"""Cuts, silence, stalls, changes of transport and drops by the server, all at random: each client's log is what was
published to it, in order, or it was told of a gap; nothing comes twice. On every transport, and on polling alone.

``PORTICO_LONG=1`` (`make long`) runs it in full, with 100 clients and 200,000 events; ``-s`` shows the figures.
``PORTICO_CHAOS_SEED`` repeats a run, as far as the network's timing lets it: a failure names its seed.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import random
import time
from collections import Counter
from typing import Any

import pytest
from tests.held import small_listener
from tests.realtime.chaos import Ledger, Reader
from tests.support import turns, until

import portico
from portico.realtime import Recovery

LONG = os.environ.get("PORTICO_LONG") == "1"
CLIENTS, EVENTS = (100, 200_000) if LONG else (25, 6_000)
WITHIN_S = 3600 if LONG else 120
KEPT = 1_500  # events: who has missed more can't have them all
SEED = int(os.environ.get("PORTICO_CHAOS_SEED", "0")) or random.randrange(1, 1 << 30)
PADDING = "x" * 10_000  # of some events, so that stalled readers' buffers fill


class Publisher:
    """Emits events to rooms, to all, to one, to all but one; and now and then drops a client."""

    def __init__(self, io: portico.Realtime, ledger: Ledger, seed: int) -> None:
        self.io = io
        self.ledger = ledger
        self.random = random.Random(seed)
        self.ids: dict[int, str] = {}  # of the clients, by their numbers
        self.latest: dict[int, Any] = {}  # who came last, by that
        self.finished = False
        self.drops: Counter[str] = Counter()
        io.on("connect", self.connect)

    async def connect(self, client: Any, auth: Any) -> None:
        number = auth["number"]
        self.latest[number] = client
        await asyncio.sleep(self.random.choice((0, 0.002, 0.01)))  # while events go on
        if client.recovered or self.latest[number] is not client:  # it has come once more meanwhile
            return
        self.ids[number] = client.id
        client.join(*rooms_of(number))
        client.emit("anew")
        if self.finished:
            client.emit("end")

    async def publish(self, readers: list[Reader]) -> None:
        for number in range(EVENTS):
            self._emit(number)
            self.ledger.published += 1
            if not number % 20:
                await turns(2)
                if not number % 400:
                    self._drop()
                while sum(self.offset - reader.seen > KEPT / 3 and not reader.away for reader in readers) > CLIENTS / 4:
                    await asyncio.sleep(0.002)
        self.finished = True
        self.io.emit("end")

    def _emit(self, number: int) -> None:
        """One event, and into the ledger whom it is for."""
        chosen = self.random
        kind = chosen.choices(("room", "two", "one", "but one", "all", "volatile"), (60, 10, 10, 10, 0.5, 5))[0]
        rooms = [
            f"a{chosen.randrange(CLIENTS // 4)}",
            *([f"b{chosen.randrange(CLIENTS // 5)}"] if kind == "two" else []),
        ]
        args = (number,) if chosen.randrange(20) else (number, PADDING)
        one = chosen.randrange(CLIENTS)
        whom = [other for other in range(CLIENTS) if not rooms_of(other).isdisjoint(rooms)]
        if kind == "volatile":
            self.io.to(*rooms).volatile.emit("volatile", *args)
            for other in whom:
                self.ledger.volatile[other].add(number)
            return
        if kind == "one":
            self.io.to(self.ids[one]).emit("n", *args)
            whom = [one]
        elif kind == "but one":
            self.io.to(*rooms).except_(self.ids[one]).emit("n", *args)
            whom = [other for other in whom if other != one]
        elif kind == "all":
            self.io.emit("n", *args)
            whom = list(range(CLIENTS))
        else:
            self.io.to(*rooms).emit("n", *args)
        for other in whom:
            self.ledger.events[other].append((self.offset, number))

    @property
    def offset(self) -> int:
        """Of the last event."""
        position = self.io.broker.position("/")
        assert position is not None
        return position.offset

    def _drop(self) -> None:
        """The server ends a connection, in a way after which the client may come back; or a client, which may not."""
        sessions = list(self.io.engine.sessions.values())
        clients = list(self.io.clients.values())
        if not sessions or not clients:
            return
        how = self.random.choices(("session", "discarded", "client", "client and session"), (5, 5, 1, 1))[0]
        self.drops[how] += 1
        if how.startswith("client"):
            self.random.choice(clients).disconnect(close=how != "client")
        else:
            self.random.choice(sessions).close("transport error", discard=how == "discarded")


@functools.cache
def rooms_of(number: int) -> frozenset[str]:
    return frozenset((f"a{number % (CLIENTS // 4)}", f"b{number % (CLIENTS // 5)}"))


def check(reader: Reader, ledger: Ledger) -> None:
    """The reader's log against what was published to it."""
    log, gaps = reader.log, reader.log.gaps
    published = ledger.events[reader.number]
    due = [event for event in published if not any(gap.after < event[0] <= gap.upto for gap in gaps)]
    assert log.events == due, f"reader {reader.number}: {difference(log.events, due)}"
    assert set(log.volatile) <= ledger.volatile[reader.number]
    assert all(one < other for one, other in itertools.pairwise(log.numbers)), f"reader {reader.number}: out of order"
    assert all(one.upto <= other.after for one, other in itertools.pairwise(gaps))


def difference(got: list[tuple[int, int]], due: list[tuple[int, int]]) -> str:
    missing, extra = sorted(set(due) - set(got)), [each for each, count in Counter(got).items() if count > 1]
    return f"missing {missing[:5]}, doubled {extra[:5]}, not due {sorted(set(got) - set(due))[:5]}"


def report(name: str, readers: list[Reader], publisher: Publisher, took_s: float) -> None:
    counts = sum((reader.counts for reader in readers), Counter[str]())
    got = sum(len(reader.log.events) for reader in readers)
    due = sum(map(len, publisher.ledger.events))
    print(
        f"chaos over {name}: {CLIENTS} clients, {EVENTS} events, {due} deliveries due, {got} made, "
        f"{due - got} in gaps; {counts['recovered']} recoveries, {counts['anew'] - CLIENTS} gaps told of; "
        f"{dict(sorted(counts.items()))}; drops by the server {dict(publisher.drops)}; "
        f"sessions ended {dict(publisher.io.counters.closed)}; {took_s:.1f} s"
    )


@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")  # aiohttp's, where a request is cut off
@pytest.mark.parametrize("transports", [["websocket", "polling", "upgrade"], ["polling"]], ids="-".join)
async def test_each_log_is_what_was_published_or_has_a_gap_that_was_told(transports: list[str]) -> None:
    io = portico.Realtime(
        recovery=Recovery(max_events=KEPT, max_bytes=1 << 26, age_s=600),
        ping_interval_s=0.7,
        ping_timeout_s=0.7,
        upgrade_timeout_s=1,
        max_outbox_bytes=1 << 18,
    )
    ledger = Ledger.of(CLIENTS)
    publisher = Publisher(io, ledger, SEED)
    app = portico.App()
    app.mount("/socket.io", io)
    began = time.monotonic()
    print(f"\nPORTICO_CHAOS_SEED={SEED}")  # pytest shows it where the test fails
    async with asyncio.timeout(WITHIN_S), portico.serve(app, "127.0.0.1", 0, sock=small_listener()) as server:
        readers = [Reader(io, server, number, SEED, transports, ledger) for number in range(CLIENTS)]
        try:
            await go(publisher, readers)
        finally:
            for reader in readers:
                await reader.close()
        report(" and ".join(transports), readers, publisher, time.monotonic() - began)
        for reader in readers:
            check(reader, ledger)
        assert sum(reader.counts["recovered"] for reader in readers) > 3 * CLIENTS, f"seed {SEED}"
        await until(lambda: not io._tasks and all(session.closed for session in io.engine.sessions.values()))


async def go(publisher: Publisher, readers: list[Reader]) -> None:
    """All at once, until every reader has come to the end; the first that fails ends it."""
    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(reader.run())
        await until(lambda: len(publisher.ids) == CLIENTS)
        await publisher.publish(readers)
