"""The contract suite of brokers: the guarantees at the top of `portico.brokers`, each as a check that anybody can run.

::

    import pytest
    from portico.testing import BROKER_CHECKS, Cluster, check_broker

    async def test_my_broker() -> None:              # all at once: every violation in one message
        await check_broker(Cluster(make, cut=cut, mend=mend))

    @pytest.mark.parametrize("check", BROKER_CHECKS, ids=lambda check: check.__name__)
    async def test_guarantee(check) -> None:         # or one test for each
        await check(Cluster(make, cut=cut, mend=mend))

A broker under test needs a lease of at most a few seconds: some checks wait for its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import msgspec

from portico.brokers import Position, Retention
from portico.errors import BrokerError, LocalError
from portico.testing.broker_state import STATE_CHECKS
from portico.testing.cluster import Cluster, Violation, expect, expect_equal, misuse, refused

KEEP = Retention(count=1000, age_s=60.0)
ODD_NAMES: Final = ("a b", "a.b", "*", ">", "{a}", "a/b#?", "\n", "\0", "ä€𝄞", "x" * 500, "A", "a")
VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -(2**63),
    2**64 - 1,
    1.5,
    "",
    "ä𝄞\0",
    b"",
    b"\0\xff",
    [],
    [1, [2]],
    {},
    {"a": {"b": None}},
)

Check: TypeAlias = Callable[[Cluster], Awaitable[None]]


class Sample(msgspec.Struct, frozen=True):
    """A typed event, as the checks publish it."""

    name: str
    number: int
    blob: bytes = b""


async def who_hosts_a_channel_gets_its_messages_and_nobody_else(cluster: Cluster) -> None:
    """Guarantee 1: to each node that has subscribed, and to no other."""
    async with cluster.nodes(3) as (one, two, three):
        channel = cluster.channel()
        for node in (one, two):
            await node.broker.subscribe(channel)
        await one.broker.publish(channel, "hello")
        await three.broker.publish(channel, "from outside")
        for node in (one, two):
            await node.until(lambda node=node: len(node.of(channel)) == 2, "a node hosts the channel")  # type: ignore[misc]
            expect_equal(sorted(node.data(channel)), ["from outside", "hello"], "what a host got")
        await cluster.fence(one, three)
        expect_equal(three.data(channel), [], "what a node got that has not subscribed")
        expect_equal(await three.broker.hosts(channel), {one.broker.node, two.broker.node}, "hosts()")


async def nothing_comes_after_unsubscribe(cluster: Cluster) -> None:
    """Guarantee 1: a node that hosts a channel no longer gets nothing of it."""
    async with cluster.nodes(2) as (one, two):
        channel = cluster.channel()
        await two.broker.subscribe(channel)
        await two.broker.subscribe(channel)  # not counted
        await one.broker.publish(channel, 1)
        await two.until(lambda: two.data(channel) == [1], "the message before")
        two.broker.unsubscribe(channel)
        two.broker.unsubscribe(channel)
        await cluster.poll(lambda: _hosts(one.broker, channel, 0), "hosts() after unsubscribe")
        await one.broker.publish(channel, 2)
        await cluster.fence(one, two)
        expect_equal(two.data(channel), [1], "what came in all")
        await two.broker.subscribe(channel)
        await one.broker.publish(channel, 3)
        await two.until(lambda: two.data(channel) == [1, 3], "subscribed again")
        expect_equal(two.gaps_of(channel), [], "gaps: what was published in between was none of ours")


async def _hosts(broker: Any, channel: str, count: int) -> bool:
    return len(await broker.hosts(channel)) == count


async def an_inbox_is_hosted_by_its_node_alone(cluster: Cluster) -> None:
    """Guarantee 1: a message to one node."""
    async with cluster.nodes(3) as (one, two, three):
        await one.broker.publish(two.broker.inbox, "for two")
        await cluster.fence(one, two, three)
        expect("for two" in two.data(two.broker.inbox), "what was published to the inbox of a node did not come")
        expect(
            not any("for two" in node.data(two.broker.inbox) for node in (one, three)), "it came to another node too"
        )
        expect_equal(await one.broker.hosts(two.broker.inbox), {two.broker.node}, "hosts() of an inbox")


async def names_are_kept_apart(cluster: Cluster) -> None:
    """Channel names are any non-empty str that UTF-8 can express; others are the caller's mistake."""
    async with cluster.nodes(2) as (one, two):
        prefix = cluster.channel("")
        for name in ODD_NAMES:
            await two.broker.subscribe(prefix + name)
        for name in ODD_NAMES:
            await one.broker.publish(prefix + name, name)
        await two.until(lambda: len(two.messages) >= len(ODD_NAMES), "a message for each name")
        got = {message.channel: message.data for message in two.messages}
        expect_equal(got, {prefix + name: name for name in ODD_NAMES}, "messages by channel")
        for wrong in ("", None, 7, b"bytes", "\ud800"):
            misuse(lambda wrong=wrong: one.broker.publish(wrong, 1), f"publish({wrong!r})")  # type: ignore[misc]
            misuse(lambda wrong=wrong: one.broker.subscribe(wrong), f"subscribe({wrong!r})")  # type: ignore[misc]


async def at_home_it_is_delivered_within_publish(cluster: Cluster) -> None:
    """Guarantee 2: what is not kept, as the very object; and the receipt says how many took it."""
    async with cluster.nodes(1) as (one,):
        channel = cluster.channel()
        await one.broker.subscribe(channel)
        data = {"a": [1]}
        receipt = one.broker.publish(channel, data)
        expect_equal(one.data(channel), [data], "delivered when publish returns")
        expect(one.messages[0].data is data, "at home the message carries a copy: expected the very object")
        expect_equal(one.messages[0].publisher, one.broker.node, "publisher")
        expect_equal(receipt.delivered, 1, "receipt.delivered")
        expect_equal(await receipt, None, "await receipt, for what is not kept")
        expect_equal(await receipt, None, "a second await")
        expect_equal(one.broker.publish(cluster.channel(), 1).delivered, 0, "delivered, with nobody there")


async def elsewhere_it_arrives_equal(cluster: Cluster) -> None:
    """Guarantee 9: what msgspec can encode arrives equal, decoded to the node's type."""
    large = b"\xff\x00" * 50_000
    async with cluster.nodes(2) as (one, two):
        channel = cluster.channel()
        await two.broker.subscribe(channel)
        for value in (*VALUES, large):
            await one.broker.publish(channel, value)
        await two.until(lambda: len(two.of(channel)) == len(VALUES) + 1, "all values")
        expect_equal(two.data(channel), [*VALUES, large], "the values")
    async with cluster.nodes(2, type=Sample) as (one, two):
        channel = cluster.channel()
        await two.broker.subscribe(channel)
        await one.broker.publish(channel, Sample("tick", 7, b"\0"))
        await two.until(lambda: bool(two.of(channel)), "a typed event")
        expect_equal(two.data(channel), [Sample("tick", 7, b"\0")], "a typed event")


async def what_does_not_fit_the_type_is_a_gap(cluster: Cluster) -> None:
    """Guarantee 9: what can't be decoded is reported, and what follows is delivered. So it is with versions mixed."""
    async with cluster.nodes(1) as (one,), cluster.nodes(1, type=Sample) as (two,):
        channel = cluster.channel()
        await two.broker.subscribe(channel)
        await one.broker.publish(channel, "not a sample")
        await one.broker.publish(channel, Sample("tick", 1))
        await two.until(lambda: bool(two.of(channel)), "what follows")
        expect_equal(two.data(channel), [Sample("tick", 1)], "what was delivered")
        expect_equal([(g.reason, g.missed) for g in two.gaps_of(channel)], [("undecodable", 1)], "the gap")


async def what_can_not_be_encoded_is_refused_before_it_is_sent(cluster: Cluster) -> None:
    """Guarantee 9: LocalError at once, and nobody gets it."""
    async with cluster.nodes(2) as (one, two):
        channel = cluster.channel()
        for node in (one, two):
            await node.broker.subscribe(channel)
        misuse(lambda: one.broker.publish(channel, object()), "publish(object())")
        misuse(lambda: one.broker.publish(channel, object(), KEEP), "publish(object(), keep)")
        await one.broker.publish(channel, "good")
        await two.until(lambda: bool(two.of(channel)), "what follows")
        expect_equal([one.data(channel), two.data(channel)], [["good"], ["good"]], "what was delivered")
        expect_equal(two.gaps, [], "gaps: a message that was never taken leaves none")


async def messages_come_once_and_in_their_publishers_order(cluster: Cluster) -> None:
    """Guarantees 3 and 4: two publishers at once; numbered 1, 2, 3 … without a hole under one epoch."""
    async with cluster.nodes(3) as (one, two, three):
        channel, count = cluster.channel(), 300
        for node in (one, two, three):
            await node.broker.subscribe(channel)

        async def publish(node: Any) -> None:
            for number in range(count):
                await node.broker.publish(channel, [node.broker.node, number])
                await asyncio.sleep(0)

        await asyncio.gather(publish(one), publish(two))
        for node in (one, two, three):
            await node.until(lambda node=node: len(node.of(channel)) >= 2 * count, "all messages")  # type: ignore[misc]
            for publisher in (one.broker.node, two.broker.node):
                sent = [m for m in node.of(channel) if m.publisher == publisher]
                expect_equal([m.data for m in sent], [[publisher, n] for n in range(count)], "of one publisher")
                if node.broker.node != publisher:
                    start = sent[0].sequence
                    expect(start >= 1, f"sequences count from 1, got {start}")
                    expect_equal([m.sequence for m in sent], list(range(start, start + count)), "sequences")
                    expect_equal(len({m.epoch for m in sent}), 1, "epochs")
        expect_equal([node.gaps for node in (one, two, three)], [[], [], []], "gaps")


async def kept_messages_have_one_order_everywhere(cluster: Cluster) -> None:
    """Guarantee 3: every node delivers the history's order, its own messages too; offsets 1, 2, 3 … under one epoch."""
    async with cluster.nodes(3) as nodes:
        channel, count = cluster.channel(), 60
        starts = [await node.broker.subscribe(channel, KEEP) for node in nodes]
        expect(None not in starts, "subscribe(…, keep) gave no position")
        expect_equal(len({str(start) for start in starts}), 1, "the nodes' start positions, with nothing published")

        async def publish(node: Any) -> list[Position]:
            return [await node.broker.publish(channel, [node.broker.node, number], KEEP) for number in range(count)]

        given = await asyncio.gather(*map(publish, nodes))
        for node in nodes:
            await node.until(lambda node=node: len(node.of(channel)) >= 3 * count, "all messages")  # type: ignore[misc]
            got = node.of(channel)
            expect_equal([m.position.offset for m in got if m.position], list(range(1, 3 * count + 1)), "offsets")
            expect_equal([m.data for m in got], nodes[0].data(channel), "the order, against the first node's")
            expect_equal(node.broker.position(channel), got[-1].position, "position()")
        accepted = sorted(position.offset for positions in given for position in positions)
        expect_equal(accepted, list(range(1, 3 * count + 1)), "the positions that await has given")


async def a_node_that_was_cut_is_told_of_each_gap(cluster: Cluster) -> None:
    """Guarantee 4: what was published meanwhile is missing, and is reported: counted, or as an unknown number."""
    async with cluster.nodes(2) as (one, two):
        heard, fresh = cluster.channel("heard"), cluster.channel("fresh")
        for channel in (heard, fresh):
            await two.broker.subscribe(channel)
        await one.broker.publish(heard, 0)
        await two.until(lambda: bool(two.of(heard)), "the message before")
        await cluster.cut(two)
        for number in (1, 2, 3):
            one.broker.publish(heard, number)
            one.broker.publish(fresh, number)
        await cluster.mend(two)
        await cluster.poll(lambda: _hosts(one.broker, heard, 1), "the node hosts its channels again")
        for channel in (heard, fresh):
            await one.broker.publish(channel, "after")
            await two.until(lambda channel=channel: "after" in two.data(channel), "the message after")  # type: ignore[misc]
            got = [data for data in two.data(channel) if data in (1, 2, 3)]
            gaps = two.gaps_of(channel)
            counted = sum(gap.missed or 0 for gap in gaps)
            expect(
                any(gap.missed is None for gap in gaps) or counted == 3 - len(got),
                f"of 3 messages published while the node was cut, {len(got)} came and {counted} were reported: {gaps}",
            )


async def what_is_kept_is_repaired_after_a_cut(cluster: Cluster) -> None:
    """Guarantee 4: kept messages are delivered in their place; none twice, and no gap."""
    async with cluster.nodes(2) as (one, two):
        known, never = cluster.channel("known"), cluster.channel("never")
        for channel in (known, never):
            await two.broker.subscribe(channel, KEEP)
        await one.broker.publish(known, 0, KEEP)
        await two.until(lambda: two.data(known) == [0], "the message before")
        await cluster.cut(two)
        for number in range(1, 50):
            await one.broker.publish(known, number, KEEP)
            await one.broker.publish(never, number, KEEP)  # nothing came of this one before the cut
        await cluster.mend(two)
        await one.broker.publish(known, 50, KEEP)
        await one.broker.publish(never, 50, KEEP)
        await two.until(lambda: 50 in two.data(known) and 50 in two.data(never), "the message after")
        expect_equal(two.data(known), list(range(51)), "what the node got")
        expect_equal(two.data(never), list(range(1, 51)), "what it got of a channel that was silent before")
        expect_equal([gap for gap in two.gaps if gap.channel], [], "gaps of a channel")


async def what_the_history_has_lost_is_a_gap(cluster: Cluster) -> None:
    """Guarantee 4: where the history has not got it any more, how many are missing is reported, and the rest comes."""
    keep = Retention(count=5)
    async with cluster.nodes(2) as (one, two):
        channel = cluster.channel()
        await two.broker.subscribe(channel, keep)
        await cluster.cut(two)
        for number in range(1, 21):
            await one.broker.publish(channel, number, keep)
        await cluster.mend(two)
        await two.until(lambda: bool(two.gaps_of(channel)), "the gap")
        await one.broker.publish(channel, 21, keep)
        await two.until(lambda: 21 in two.data(channel), "the message after")
        got = two.data(channel)
        missed = sum(gap.missed or 0 for gap in two.gaps_of(channel) if gap.channel)
        expect_equal(got, list(range(22 - len(got), 22)), "what came, in order, up to the newest")
        expect_equal(missed + len(got), 21, "what came and what was reported as missing")


async def what_is_not_taken_is_refused(cluster: Cluster) -> None:
    """Guarantee 4: a publication while cut off raises BrokerError where it is awaited, and is reported."""
    async with cluster.nodes(2) as (one, two):
        channel, kept = cluster.channel(), cluster.channel("kept")
        for name in (channel, kept):
            await one.broker.subscribe(name)
            await two.broker.subscribe(name)
        await cluster.cut(one)
        receipt = one.broker.publish(channel, "lost")
        expect_equal(one.data(channel), ["lost"], "at home, what is not kept is delivered all the same")
        await refused(receipt, cluster.wait_s, "publish while cut")
        await refused(one.broker.publish(kept, "lost", KEEP), cluster.wait_s, "publish(keep) while cut")
        await one.until(lambda: len(one.refused) == 2, "on_refused for each")
        expect_equal(one.data(kept), [], "what is kept is delivered only once it is accepted")
        waiting = one.broker.subscribe(cluster.channel("wanted"))
        await cluster.mend(one)
        async with asyncio.timeout(cluster.wait_s):
            await waiting
        await one.broker.publish(kept, "later", KEEP)
        await two.until(lambda: bool(two.of(kept)), "a message after")
        expect_equal(two.data(kept), ["later"], "what the others got")


async def a_failing_receiver_loses_nothing_else(cluster: Cluster) -> None:
    """Guarantee 8: an exception in on_message is logged; what follows is delivered, and publish does not raise."""
    async with cluster.nodes(2) as (one, two):
        channel = cluster.channel()
        for node in (one, two):
            await node.broker.subscribe(channel)
            node.then = _fail_on_first
        for number in (1, 2):
            await one.broker.publish(channel, number)
        await two.until(lambda: len(two.of(channel)) == 2, "what follows a failure")
        expect_equal([one.data(channel), two.data(channel)], [[1, 2], [1, 2]], "what was delivered")


def _fail_on_first(message: Any) -> None:
    if message.data == 1:
        raise ValueError("on purpose, to check that this is logged and loses nothing else")


async def a_receiver_may_call_the_broker(cluster: Cluster) -> None:
    """Guarantee 8: publish, also what is kept, subscribe and unsubscribe, from within on_message."""
    async with cluster.nodes(2) as (one, two):
        ask, answer = cluster.channel("ask"), cluster.channel("answer")
        await one.broker.subscribe(answer, KEEP)
        await two.broker.subscribe(ask)

        def reply(message: Any) -> None:
            if message.channel == ask:
                two.broker.subscribe(answer)
                two.broker.publish(answer, message.data, KEEP)
                if message.data == 9:
                    two.broker.unsubscribe(ask)

        two.then = reply
        for number in range(10):
            await one.broker.publish(ask, number)
        for node in (one, two):
            await node.until(lambda node=node: len(node.of(answer)) == 10, "the answers")  # type: ignore[misc]
            expect_equal(node.data(answer), list(range(10)), "the answers")


async def its_life_is_plain(cluster: Cluster) -> None:
    """Open once, close as often as you like, nothing after it; another id each time; wrong calls say so."""
    broker = cluster.broker()
    misuse(lambda: broker.publish("channel", 1), "publish before open")
    await broker.close()
    async with cluster.nodes(2) as (one, two):
        channel, first = cluster.channel(), two.broker.node
        expect(bool(first) and first != one.broker.node, f"nodes have no ids of their own: {first!r}")
        try:
            await two.broker.open(two)
        except LocalError:
            pass
        else:
            raise Violation("a second open: expected LocalError")
        await two.broker.subscribe(channel)
        one.broker.publish(channel, "on its way")
        await two.broker.close()
        told = len(two.messages)
        await two.broker.close()
        misuse(lambda: two.broker.subscribe(channel), "subscribe after close")
        await cluster.poll(lambda: _hosts(one.broker, channel, 0), "hosts() after close")
        await two.broker.open(two)
        expect(two.broker.node != first, "a broker that opens again has the same id")
        await cluster.fence(one, two)
        expect_equal(two.data(channel)[:told], two.data(channel), "nothing comes after close")


async def an_await_can_be_cancelled(cluster: Cluster) -> None:
    """Cancelling the wait for a receipt takes nothing back, and disturbs nothing."""
    async with cluster.nodes(2) as (one, two):
        channel = cluster.channel()
        await two.broker.subscribe(channel)
        for number in range(20):
            receipt = one.broker.publish(channel, number, KEEP)
            task = asyncio.ensure_future(_wait(receipt))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await two.until(lambda: len(two.of(channel)) == 20, "all messages")
        expect_equal(two.data(channel), list(range(20)), "what was delivered")
        span = await one.broker.history(channel)
        expect_equal([m.data for m in span.messages], list(range(20)), "the history: answers went to whom they belong")


async def _wait(receipt: Awaitable[Any]) -> None:
    await receipt


BROKER_CHECKS: Final[tuple[Check, ...]] = (
    who_hosts_a_channel_gets_its_messages_and_nobody_else,
    nothing_comes_after_unsubscribe,
    an_inbox_is_hosted_by_its_node_alone,
    names_are_kept_apart,
    at_home_it_is_delivered_within_publish,
    elsewhere_it_arrives_equal,
    what_does_not_fit_the_type_is_a_gap,
    what_can_not_be_encoded_is_refused_before_it_is_sent,
    messages_come_once_and_in_their_publishers_order,
    kept_messages_have_one_order_everywhere,
    a_node_that_was_cut_is_told_of_each_gap,
    what_is_kept_is_repaired_after_a_cut,
    what_the_history_has_lost_is_a_gap,
    what_is_not_taken_is_refused,
    a_failing_receiver_loses_nothing_else,
    a_receiver_may_call_the_broker,
    its_life_is_plain,
    an_await_can_be_cancelled,
    *STATE_CHECKS,
)


async def check_broker(cluster: Cluster) -> None:
    """Run every check. Raises Violation with all that a broker does not keep, and the guarantee it belongs to."""
    failures = []
    for check in BROKER_CHECKS:
        try:
            await check(cluster)
        except (Violation, BrokerError, LocalError, TimeoutError) as error:
            failures.append(f"{check.__name__}\n    {check.__doc__}\n    {type(error).__name__}: {error}")
    if failures:
        raise Violation(f"{len(failures)} of {len(BROKER_CHECKS)} checks failed:\n\n" + "\n\n".join(failures))
