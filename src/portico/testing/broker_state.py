"""What a broker remembers: the checks of history, presence, and what is set aside. Part of `BROKER_CHECKS`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from portico.brokers import Member, Position, Retention
from portico.errors import LocalError
from portico.testing.cluster import Cluster, Violation, expect, expect_equal, misuse, refused

KEEP = Retention(count=1000, age_s=60.0)


async def _since(node: Any, channel: str, position: Position | None) -> list[Any]:
    """What was kept after a position, where that has to be exact."""
    span = await node.broker.history(channel, since=position)
    expect(span.gap is None, f"history(since={position}): expected exactly the missed ones, got the gap {span.gap!r}")
    return [message.data for message in span.messages]


async def history_gives_exactly_what_was_missed(cluster: Cluster) -> None:
    """Guarantee 6: from every position, on every node, also before anything was published."""
    async with cluster.nodes(2) as (one, two):
        channel = cluster.channel()
        start = await one.broker.subscribe(channel, KEEP)
        expect(start is not None, "subscribe(…, keep) gave no position where nothing was published")
        expect_equal(await _since(two, channel, start), [], "nothing was missed yet")
        positions = [start]
        for number in range(1, 21):
            await two.broker.publish(channel, "passing")
            positions.append(await two.broker.publish(channel, number, KEEP))
        for node in (one, two):
            for missed, position in enumerate(positions):
                expect_equal(await _since(node, channel, position), list(range(missed + 1, 21)), f"since {position}")
        span = await one.broker.history(channel, last=3)
        expect_equal([m.data for m in span.messages], [18, 19, 20], "history(last=3)")
        expect_equal([m.position for m in span.messages], positions[-3:], "their positions")
        expect_equal([m.publisher for m in span.messages], [two.broker.node] * 3, "their publisher")
        expect_equal(span.position, positions[-1], "the span's position")


async def history_comes_in_parts_that_are_the_whole(cluster: Cluster) -> None:
    """Guarantee 6: with a limit the first so many, and whether there are more; what has gone meanwhile is a gap."""
    async with cluster.nodes(2) as (one, two):
        channel, keep = cluster.channel(), Retention(count=10)
        start = await one.broker.subscribe(channel, keep)
        positions = [await two.broker.publish(channel, number, keep) for number in range(10)]
        for since in (start, None):
            for limit in (1, 3, 5, 10, 11):
                got: list[int] = []
                place, more = since, True
                while more:
                    span = await one.broker.history(channel, since=place, limit=limit)
                    expect(span.gap is None, f"history(since={place}, limit={limit}): got the gap {span.gap!r}")
                    expect_equal(len(span.messages), min(limit, 10 - len(got)), f"how many with limit={limit}")
                    got += [message.data for message in span.messages]
                    expect_equal(span.position, positions[len(got) - 1], f"the place to go on from, limit={limit}")
                    expect_equal(span.more, len(got) < 10, f"more, with limit={limit}")
                    place, more = span.position, span.more
                expect_equal(got, list(range(10)), f"the parts since {since} with limit={limit}")
        span = await one.broker.history(channel, last=4, limit=2)
        expect_equal([message.data for message in span.messages], [6, 7], "history(last=4, limit=2)")
        span = await one.broker.history(channel, since=positions[-1], limit=2)
        expect_equal((span.messages, span.position, span.more), ((), positions[-1], False), "nothing is left")
        span = await one.broker.history(channel, since=start, limit=2)
        for number in range(10, 13):
            await two.broker.publish(channel, number, keep)
        span = await one.broker.history(channel, since=span.position, limit=2)
        expect(bool(span.gap), f"what came after the first part is gone: expected a gap, got {span.messages!r:.200}")
        expect_equal((span.messages, span.more), ((), False), "messages beside a gap")
        try:
            await one.broker.history(channel, limit=0)
        except LocalError:
            return
        raise Violation("history(limit=0): expected LocalError")


async def history_says_when_it_can_not(cluster: Cluster) -> None:
    """Guarantee 6: gone, another epoch, an offset that never was, no history at all: never a part, never silence."""
    async with cluster.nodes(1) as (one,):
        channel, keep = cluster.channel(), Retention(count=5)
        start = await one.broker.subscribe(channel, keep)
        if start is None:
            raise Violation("subscribe(…, keep) gave no position")
        head = [await one.broker.publish(channel, number, keep) for number in range(1, 11)][-1]
        expect_equal(await _since(one, channel, Position(start.epoch, 5)), [6, 7, 8, 9, 10], "all that is kept")
        wrong = [start, Position(start.epoch, 4), Position("another", 10), Position(start.epoch, 11)]
        for where, position in [(channel, position) for position in wrong] + [(cluster.channel(), start)]:
            span = await one.broker.history(where, since=position)
            expect(bool(span.gap), f"history(since={position}): expected a gap, got {span.messages!r:.200}")
            expect_equal(span.messages, (), "messages beside a gap")
        span = await one.broker.history(channel, since=start)
        expect_equal(span.position, head, "the position to go on from, beside a gap")
        nothing = await one.broker.history(cluster.channel())
        expect_equal((nothing.messages, nothing.gap), ((), None), "a channel without a history")


async def history_is_bounded(cluster: Cluster) -> None:
    """Guarantee 6: by count, by bytes and by age; a message that never fits is the caller's mistake."""
    async with cluster.nodes(1) as (one,):
        for keep, left in ((Retention(count=3), 3), (Retention(max_bytes=1000), 9)):
            channel = cluster.channel()
            for _ in range(20):
                await one.broker.publish(channel, b"x" * 100, keep)
            span = await one.broker.history(channel)
            expect(0 < len(span.messages) <= left, f"{keep} keeps {len(span.messages)} messages of 100 bytes")
        channel, keep = cluster.channel(), Retention(max_bytes=1000, age_s=0.2)
        misuse(lambda: one.broker.publish(channel, b"x" * 1001, keep), "a message over max_bytes")
        await one.broker.publish(channel, "old", keep)

        async def empty() -> bool:
            return not (await one.broker.history(channel)).messages

        await cluster.poll(empty, "a message is gone when it is age_s old", cluster.wait_s + keep.age_s)


async def a_person_joins_once_and_leaves_once(cluster: Cluster) -> None:
    """Guarantee 7: several connections, on several nodes, are one person; all hosts are told, and nobody else."""
    async with cluster.nodes(3) as (one, two, three):
        channel = cluster.channel()
        for node in (one, two):
            await node.broker.subscribe(channel)
        await one.broker.join(channel, "ada", "1", {"name": "Ada"})
        await one.broker.join(channel, "ada", "2")
        await two.broker.join(channel, "ada", "1")  # another node's connection of the same name is another connection
        await three.broker.join(channel, "ben", "3")
        for node in (one, two):
            await node.until(lambda node=node: len(node.users(channel)) == 2, "who came")  # type: ignore[misc]
            expect_equal(sorted(node.users(channel)), [("ada", True), ("ben", True)], "who came")
        for node in (one, two, three):
            expect_equal(await node.broker.count(channel), 2, "count()")
            members = {member.user: member for member in await node.broker.present(channel)}
            expect_equal(members, {"ada": Member("ada", {"name": "Ada"}, 3), "ben": Member("ben")}, "present()")
        for node, connection in ((one, "1"), (two, "1"), (one, "never was")):
            await node.broker.leave(channel, "ada", connection)
        expect_equal(await two.broker.count(channel), 2, "count() while one connection is left")
        await one.broker.leave(channel, "ada", "2")
        for node in (one, two):
            await node.until(lambda node=node: ("ada", False) in node.users(channel), "who left")  # type: ignore[misc]
            expect_equal(node.users(channel).count(("ada", False)), 1, "how often ada left")
        expect_equal([member.user for member in await one.broker.present(channel)], ["ben"], "present()")
        await cluster.fence(one, three)
        expect_equal(three.users(channel), [], "what a node was told that does not host the channel")


async def a_node_that_closes_takes_its_people_along(cluster: Cluster) -> None:
    """Guarantee 7: at once, and without a trace."""
    async with cluster.nodes(2) as (one, two):
        channel = cluster.channel()
        await one.broker.subscribe(channel)
        await two.broker.join(channel, "ada", "1")
        await one.until(lambda: one.users(channel) == [("ada", True)], "who came")
        await two.broker.close()
        await one.until(lambda: one.users(channel) == [("ada", True), ("ada", False)], "who left")
        expect_equal(await one.broker.count(channel), 0, "count()")


async def a_node_that_dies_loses_its_people_with_its_lease(cluster: Cluster) -> None:
    """Guarantee 7: others are told when the lease runs out; if the node comes back, it announces them again."""
    async with cluster.nodes(2) as (one, two):
        channel, other = cluster.channel(), cluster.channel("other")
        await one.broker.subscribe(channel)
        await two.broker.subscribe(other, KEEP)
        await two.broker.join(channel, "ada", "1")
        await two.broker.join(channel, "ben", "2")
        await one.until(lambda: len(one.users(channel)) == 2, "who came")
        await cluster.cut(two)
        await one.broker.publish(other, 1, KEEP)
        wait_s = two.broker.lease_s + cluster.wait_s
        left = [("ada", False), ("ben", False)]
        await one.until(lambda: sorted(one.users(channel)[2:]) == left, "who was lost", wait_s)
        await cluster.poll(lambda: _nobody_hosts(one, other), "hosts() without the dead node", wait_s)
        await one.broker.publish(other, 2, KEEP)
        gone = two.broker.leave(channel, "ben", "2")
        await cluster.mend(two)
        await gone
        await one.until(lambda: one.users(channel)[4:] == [("ada", True)], "who came back")
        expect_equal([member.user for member in await one.broker.present(channel)], ["ada"], "present()")
        await two.until(
            lambda: bool(two.gaps_of(channel)), "a node that was held for dead is told that it may have missed"
        )
        await one.broker.publish(other, 3, KEEP)
        await two.until(lambda: 3 in two.data(other), "a message after")
        expect_equal(two.data(other), [1, 2, 3], "what was kept while it was held for dead")


async def _nobody_hosts(node: Any, channel: str) -> bool:
    return not await node.broker.hosts(channel)


async def presence_converges_after_a_cut(cluster: Cluster) -> None:
    """Guarantee 7: what a node is told adds up to `present`, also of what happened while it was cut, however often."""
    async with cluster.nodes(2) as (one, two):
        channel = cluster.channel()
        await two.broker.subscribe(channel)
        for user in ("stays", "leaves", "blinks"):
            await one.broker.join(channel, user, "1")
        await two.until(lambda: len(two.users(channel)) == 3, "who came")
        await cluster.cut(two)
        for user in ("leaves", "blinks"):
            one.broker.leave(channel, user, "1")
        for user in ("blinks", "comes", "flashes"):
            one.broker.join(channel, user, "1")
        one.broker.leave(channel, "flashes", "1")
        await refused(two.broker.present(channel), cluster.wait_s, "present() while cut")
        await cluster.mend(two)
        there = {"stays", "blinks", "comes"}

        def adds_up() -> bool:
            seen: set[str] = set()
            for user, joined in two.users(channel):
                (seen.add if joined else seen.discard)(user)
            return seen == there

        def told_to_read_anew() -> bool:
            return any(gap.channel is None for gap in two.gaps)

        await two.until(lambda: adds_up() or told_to_read_anew(), f"joins and leaves add up to {sorted(there)}")
        expect_equal({member.user for member in await two.broker.present(channel)}, there, "present()")


async def what_is_set_aside_is_taken_once(cluster: Cluster) -> None:
    """`store` and `take`: from any node, once, and for a limited time."""
    async with cluster.nodes(2) as (one, two):
        key, old = cluster.channel("key"), cluster.channel("old")
        await one.broker.store(key, {"rooms": ["a"]}, 60)
        await one.broker.store(key, {"rooms": ["a", "b"]}, 60)  # the newest counts
        got = await asyncio.gather(*(node.broker.take(key) for node in (one, two, one, two)))
        expect_equal([value for value in got if value is not None], [{"rooms": ["a", "b"]}], "what those got who asked")
        expect_equal(await one.broker.take(cluster.channel()), None, "take() of what never was")
        await one.broker.store(key, [1], 60)
        expect_equal(await two.broker.take(key, tuple[int, ...]), (1,), "take(type=…)")
        await one.broker.store(old, 1, 0.05)
        seen = cluster.channel("clock")
        await one.broker.publish(seen, 1, Retention(age_s=0.2))

        async def later() -> bool:
            return not (await one.broker.history(seen)).messages

        await cluster.poll(later, "0.2 s pass on the broker's clock")
        expect_equal(await two.broker.take(old), None, "take() after ttl_s")
        for ttl in (0, -1, float("inf")):
            misuse(lambda ttl=ttl: one.broker.store(key, 1, ttl), f"store(ttl_s={ttl})")  # type: ignore[misc]


async def positions_are_read_from_text(cluster: Cluster) -> None:
    """A position survives a header or a query; what no position is, is refused."""
    async with cluster.nodes(1) as (one,):
        position = await one.broker.publish(cluster.channel(), 1, KEEP)
        expect(position is not None, "await publish(…, keep) gave no position")
        expect_equal(Position.parse(str(position)), position, "Position.parse(str(position))")
    for wrong in ("", "7", ":7", "a:", "a:-1", "a:1.5", "a:" + "9" * 30, "a" * 200 + ":1"):
        try:
            Position.parse(wrong)
        except LocalError:
            continue
        raise Violation(f"Position.parse({wrong!r}): expected LocalError")


STATE_CHECKS: Final[tuple[Callable[[Cluster], Awaitable[None]], ...]] = (
    history_gives_exactly_what_was_missed,
    history_comes_in_parts_that_are_the_whole,
    history_says_when_it_can_not,
    history_is_bounded,
    a_person_joins_once_and_leaves_once,
    a_node_that_closes_takes_its_people_along,
    a_node_that_dies_loses_its_people_with_its_lease,
    presence_converges_after_a_cut,
    what_is_set_aside_is_taken_once,
    positions_are_read_from_text,
)
