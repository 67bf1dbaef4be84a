"""The memory broker: nothing is silent under chaos, its bounds hold, and everything returns to nothing."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portico import LocalError
from portico.brokers import Gap, Message, Receiver, Retention
from portico.brokers.memory import MemoryBroker, MemoryHub
from portico.testing import run

KEEP = Retention(count=10, age_s=60.0)


class Log(Receiver):
    """What a node was told; with how many were missing in between, for each channel and numbering."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.gaps: list[Gap] = []
        self.there: set[tuple[str, str]] = set()
        self.anew = False

    def on_message(self, message: Message) -> int:
        self.messages.append(message)
        return 1

    def on_gap(self, gap: Gap) -> None:
        self.gaps.append(gap)
        self.anew = self.anew or gap.channel is None

    def on_refused(self, channel: str, error: Exception) -> None: ...

    def on_presence(self, channel: str, user: str, joined: bool, info: Any) -> None:
        if not self.anew:
            assert ((channel, user) in self.there) != joined, "told twice"
            (self.there.add if joined else self.there.discard)((channel, user))


class Chaos:
    """Three nodes that host two channels, and what was accepted from whom."""

    def __init__(self, max_queue_bytes: int) -> None:
        self.hub = MemoryHub(max_queue_bytes=max_queue_bytes)
        self.brokers = [MemoryBroker(self.hub) for _ in range(3)]
        self.logs = [Log() for _ in range(3)]
        self.kept: dict[str, list[int]] = {"a": [], "b": []}
        self.passing: dict[tuple[int, str], list[int]] = {}
        self.users: set[tuple[str, str, int]] = set()
        self.number = 0

    async def play(self, moves: list[tuple[str, int, str]]) -> None:
        for broker, log in zip(self.brokers, self.logs, strict=True):
            await broker.open(log)
            for channel in "ab":
                await broker.subscribe(channel, KEEP)
        for move, node, channel in moves:
            getattr(self, move)(node, channel)
            if move == "turn":
                await asyncio.sleep(0)
        for broker in self.brokers:
            self.hub.mend(broker)
        await asyncio.sleep(1)
        for node in range(3):  # the next message of each numbering
            for channel in "ab":
                self.publish(node, channel)
                self.keep(node, channel)
                await asyncio.sleep(1)  # an overflow is over then
        for log in self.logs:
            self.check(log)
        for broker, log in zip(self.brokers, self.logs, strict=True):
            there = {(channel, m.user) for channel in "ab" for m in await broker.present(channel)}
            assert there == {user[:2] for user in self.users}
            assert log.anew or log.there == there
            assert not log.anew or any(gap.channel is None for gap in log.gaps)
        for broker in self.brokers:
            await broker.close()

    def check(self, log: Log) -> None:
        for channel in "ab":
            kept = [m for m in log.messages if m.channel == channel and m.kept]
            numbers = [m.data for m in kept]
            assert numbers == [number for number in self.kept[channel] if number in set(numbers)], "order, once"
            missed = [gap.missed for gap in log.gaps if gap.channel == channel and gap.publisher is None]
            assert None in missed or len(kept) + sum(map(int, filter(None, missed))) == len(self.kept[channel])
            for (node, name), sent in self.passing.items():
                publisher = self.brokers[node].node
                got = [m.data for m in log.messages if (m.channel, m.publisher, m.kept) == (channel, publisher, False)]
                if name != channel or log is self.logs[node]:
                    continue
                assert got == [number for number in sent if number in set(got)], "order, once"
                lost = sum(g.missed or 0 for g in log.gaps if (g.channel, g.publisher) == (channel, publisher))
                assert log.anew or len(got) + lost == len(sent)

    def publish(self, node: int, channel: str) -> None:
        self.number += 1
        if self.brokers[node].publish(channel, self.number).error is None:
            self.passing.setdefault((node, channel), []).append(self.number)

    def keep(self, node: int, channel: str) -> None:
        self.number += 1
        if self.brokers[node].publish(channel, self.number, KEEP).error is None:
            self.kept[channel].append(self.number)

    def join(self, node: int, channel: str) -> None:
        self.brokers[node].join(channel, "ada", "1")
        self.users.add((channel, "ada", node))

    def leave(self, node: int, channel: str) -> None:
        self.brokers[node].leave(channel, "ada", "1")
        self.users.discard((channel, "ada", node))

    def cut(self, node: int, _: str) -> None:
        self.hub.cut(self.brokers[node])

    def mend(self, node: int, _: str) -> None:
        self.hub.mend(self.brokers[node])

    def turn(self, node: int, _: str) -> None: ...


MOVES = ["publish", "publish", "keep", "keep", "keep", "join", "leave", "cut", "mend", "turn"]
moves = st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 2), st.sampled_from("ab")), max_size=80)


@settings(max_examples=300, deadline=None)
@given(moves, st.sampled_from([500, 1500, 8_388_608]))
def test_under_cuts_and_overflows_each_node_gets_all_in_order_or_is_told(
    played: list[tuple[str, int, str]], max_queue_bytes: int
) -> None:
    run(Chaos(max_queue_bytes).play(played))


@settings(max_examples=100, deadline=None)
@given(moves, st.sampled_from([500, 8_388_608]))
def test_also_when_a_lease_runs_out_at_every_pause(played: list[tuple[str, int, str]], max_queue_bytes: int) -> None:
    class Slow(Chaos):
        def turn(self, node: int, _: str) -> None:
            for broker in self.brokers:
                if broker.is_cut and broker.node in self.hub.nodes:
                    self.hub._leases.set(broker.node, 0.0)
                    self.hub._tick()

    run(Slow(max_queue_bytes).play(played))


def test_100_000_publishes_arrive_and_nothing_is_left() -> None:
    async def main() -> tuple[int, int]:
        hub, logs = MemoryHub(), [Count(), Count()]
        brokers = [MemoryBroker(hub), MemoryBroker(hub)]
        for broker, log in zip(brokers, logs, strict=True):
            await broker.open(log)
        for number in range(100_000):
            channel = f"room {number // 4}"
            if number % 4 == 0:
                brokers[1].subscribe(channel)
                brokers[0].join(channel, "ada", "1")
            brokers[0].publish(channel, number, KEEP if number % 4 == 1 else None)
            if number % 4 == 3:
                await asyncio.sleep(0)
                brokers[0].leave(channel, "ada", "1")
                brokers[1].unsubscribe(channel)
        held = len(hub.histories)
        await asyncio.sleep(200)
        assert logs[1].count == 100_000
        assert logs[1].gaps == 0
        assert brokers[1].counts.received == 100_000
        assert len(hub.histories) == len(hub._aging) == len(hub._unhosted) == len(hub.roster) == 0
        assert set(hub.hosts) == {broker.inbox for broker in brokers}
        assert [len(broker.numbering) for broker in brokers] == [0, 0]
        assert [len(broker._watch) for broker in brokers] == [1, 1]  # its inbox
        assert hub._timer is None
        for broker in brokers:
            await broker.close()
        assert not hub.hosts
        return held, held

    class Count(Receiver):
        count = gaps = 0

        def on_message(self, message: Message) -> int:
            self.count += 1
            return 1

        def on_gap(self, gap: Gap) -> None:
            self.gaps += 1

    assert run(main()) == (25_000, 25_000)


def test_memory_returns_to_where_it_was() -> None:
    async def round_of_use() -> None:
        hub = MemoryHub()
        brokers = [MemoryBroker(hub), MemoryBroker(hub)]
        for broker in brokers:
            await broker.open(Quiet())
        for number in range(3000):
            channel = f"room {number}"
            for broker in brokers:
                await broker.subscribe(channel, KEEP)
                broker.join(channel, "ada", str(number))
            brokers[number % 2].publish(channel, b"x" * 100, KEEP)
            brokers[number % 2].publish(channel, b"x" * 100)
            brokers[0].store(channel, "state", 30.0)
            for broker in brokers:
                broker.leave(channel, "ada", str(number))
                broker.unsubscribe(channel)
        await asyncio.sleep(200)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
        for broker in brokers:
            await broker.close()

    class Quiet(Receiver):
        def on_message(self, message: Message) -> int:
            return 1

    sizes: list[int] = []
    tracemalloc.start()
    try:
        for _ in range(3):
            run(round_of_use())
    finally:
        tracemalloc.stop()
    assert sizes[2] - sizes[1] < 20_000, sizes


async def test_a_publication_that_stays_at_home_is_neither_encoded_nor_numbered() -> None:
    broker, log = MemoryBroker(), Log()
    await broker.open(log)
    await broker.subscribe("room")
    thing = object()
    broker.publish("room", thing)
    assert (log.messages[0].data is thing, log.messages[0].sequence, len(broker.numbering)) == (True, 0, 0)
    assert broker.hub._timer is None
    await broker.close()


async def test_a_node_that_takes_nothing_for_long_loses_what_is_over_its_bound_and_is_told() -> None:
    hub = MemoryHub(max_queue_bytes=10_000)
    one, two, log = MemoryBroker(hub), MemoryBroker(hub), Log()
    await one.open(Log())
    await two.open(log)
    await two.subscribe("room")
    for number in range(100):
        one.publish("room", [number, b"x" * 295])  # 500 bytes with the overhead
    await asyncio.sleep(0)
    assert [message.data[0] for message in log.messages] == list(range(20))
    assert [(gap.channel, gap.reason, gap.missed, gap.publisher) for gap in log.gaps] == [
        ("room", "overflow", 80, one.node)
    ]
    one.publish("room", [100, b"x" * 50_000])  # one is always taken
    await asyncio.sleep(0)
    assert (log.messages[-1].data[0], len(log.gaps)) == (100, 1)
    assert (two.counts.received, two.counts.missed, two.counts.gaps) == (21, 80, 1)
    for broker in (one, two):
        await broker.close()


async def test_histories_without_a_host_are_bounded_and_those_with_one_stay() -> None:
    broker = MemoryBroker(MemoryHub(max_histories=3))
    await broker.open(Log())
    start = await broker.subscribe("hosted", KEEP)
    for number in range(10):
        await broker.publish(f"room {number}", number, KEEP)
    assert list(broker.hub.histories) == ["hosted", "room 7", "room 8", "room 9"]
    assert len(broker.hub._aging) == 3
    assert (await broker.history("hosted", since=start)).gap is None
    await broker.close()


async def test_what_is_set_aside_is_bounded_and_the_oldest_goes_first() -> None:
    broker = MemoryBroker(MemoryHub(max_stored_bytes=1000))
    await broker.open(Log())
    for number in range(20):
        await broker.store(str(number), b"x" * 98, 60)  # 100 bytes each
    assert [await broker.take(str(number)) for number in range(10)] == [None] * 10
    assert [await broker.take(str(number)) for number in range(10, 20)] == [b"x" * 98] * 10
    assert (broker.hub._stored_bytes, len(broker.hub._storing)) == (0, 0)
    await broker.close()


def test_a_position_is_good_for_as_long_as_the_history_is_kept_after_the_last_one_left() -> None:
    async def main() -> None:
        broker = MemoryBroker()
        await broker.open(Log())
        start = await broker.subscribe("room", Retention(age_s=60))
        await asyncio.sleep(1000)  # hosted, and nothing was ever sent
        broker.unsubscribe("room")
        await asyncio.sleep(59)
        assert (await broker.history("room", since=start)).gap is None
        await broker.publish("room", 1, Retention(age_s=60))
        await asyncio.sleep(59)
        assert [m.data for m in (await broker.history("room", since=start)).messages] == [1]
        await asyncio.sleep(2)
        assert (await broker.history("room", since=start)).gap == "the channel has no history, or none any more"
        assert await broker.subscribe("room", KEEP) != start, "another epoch"
        await broker.close()

    run(main())


def test_nodes_of_one_hub_run_on_one_loop() -> None:
    hub = MemoryHub()
    broker = MemoryBroker(hub)

    async def main() -> None:
        await broker.open(Log())
        other = MemoryBroker(hub)
        with pytest.raises(LocalError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, other.open(Log()))
        assert other.node == ""
        await broker.close()

    for _ in range(2):  # and with the last of them the hub is free again
        asyncio.run(main())


@pytest.mark.parametrize("name", ["lease_s", "max_queue_bytes", "max_histories", "max_stored_bytes"])
def test_a_hub_refuses_a_bound_without_sense(name: str) -> None:
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(LocalError, match=f"MemoryHub\\({name}="):
            MemoryHub(**{name: wrong})  # type: ignore[arg-type]


async def test_a_node_that_closes_while_it_is_cut_leaves_with_its_lease() -> None:
    hub = MemoryHub(lease_s=0.05)
    one, two, log = MemoryBroker(hub), MemoryBroker(hub), Log()
    await one.open(log)
    await two.open(Log())
    await one.subscribe("room")
    two.join("room", "ada", "1")
    hub.cut(two)
    await two.close()
    await two.open(Log())  # as another node, which has nobody
    assert await one.count("room") == 1
    async with asyncio.timeout(5):
        while await one.count("room"):
            await asyncio.sleep(0.01)
    assert log.there == set()
    for broker in (one, two):
        await broker.close()


async def test_a_queue_longer_than_a_turn_may_be_is_worked_off_in_several() -> None:
    hub = MemoryHub()
    one, two, log = MemoryBroker(hub), MemoryBroker(hub), Log()
    await one.open(Log())
    await two.open(log)
    await two.subscribe("room")
    for number in range(2500):
        one.publish("room", number)
    seen = []
    while len(log.messages) < 2500:
        await asyncio.sleep(0)
        seen.append(len(log.messages))
    assert seen == [1000, 2000, 2500]
    for broker in (one, two):
        await broker.close()
