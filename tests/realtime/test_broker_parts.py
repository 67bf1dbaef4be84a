"""The parts that brokers are made of: numbering and the watch that finds gaps, deadlines, the roster, receipts."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico import BrokerError
from portico.brokers import Member, Position, Receipt
from portico.brokers.deadlines import Deadlines
from portico.brokers.numbering import ANEW, DUPLICATE, KEPT, Numbering, Watch
from portico.brokers.presence import Change, Roster

# what becomes of each message of one publisher: lost, delivered, or delivered twice
fates = st.lists(st.sampled_from(["lost", "once", "twice"]), max_size=60)


@given(fates, st.booleans())
def test_what_came_and_what_is_missing_add_up_to_what_was_sent(fate: list[str], heard: bool) -> None:
    numbering, watch = Numbering(), Watch()
    watch.host("room")
    first = 1
    if heard:
        assert watch.see("room", "node", *numbering.next("room")) == 0
        first = 2
    came, missing, last = 0, 0, first - 1
    for what in fate:
        epoch, sequence = numbering.next("room")
        if what == "lost":
            continue
        if not came and not heard:
            first = sequence  # what came before the first one that a node hears of a publisher is none of its
        came += 1
        last = sequence
        missing += watch.see("room", "node", epoch, sequence)
        if what == "twice":
            assert watch.see("room", "node", epoch, sequence) == DUPLICATE
    assert came + missing == last - first + 1


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy")), max_size=40))
def test_each_publisher_and_each_channel_counts_for_itself(sent: list[tuple[str, str]]) -> None:
    watch, numberings = Watch(), {"a": Numbering(), "b": Numbering()}
    for channel in "xy":
        watch.host(channel)
    for publisher, channel in sent:
        assert watch.see(channel, publisher, *numberings[publisher].next(channel)) == 0


@given(st.integers(0, 5), st.integers(1, 5), st.booleans())
def test_a_range_that_was_dropped_counts_what_has_not_come(known: int, dropped: int, heard: bool) -> None:
    watch = Watch()
    watch.host("room")
    if heard:
        watch.see("room", "node", "1", known + 1)
    first = known + 2 if heard else known + 1
    assert watch.lose("room", "node", "1", first, first + dropped - 1) == dropped
    assert watch.see("room", "node", "1", first + dropped) == 0


def test_a_count_that_began_anew_begins_at_one() -> None:
    numbering, watch = Numbering(), Watch()
    watch.host("room")
    for _ in range(3):
        assert watch.see("room", "node", *numbering.next("room")) == 0
    numbering.forget("room")
    assert len(numbering) == 0
    numbering.next("room")  # lost
    assert watch.see("room", "node", *numbering.next("room")) == 1


def test_another_epoch_of_a_history_is_told_from_a_missing_number() -> None:
    watch = Watch()
    watch.host("room", Position("epoch", 5))
    assert watch.see("room", KEPT, "epoch", 6) == 0
    assert watch.see("room", KEPT, "other", 1) == ANEW
    assert watch.position("room") == Position("other", 1)


def test_a_channel_that_is_not_hosted_leaves_nothing_behind() -> None:
    watch = Watch()
    assert watch.see("room", "node", "1", 5) == 0
    assert watch.lose("room", "node", "1", 5, 6) == 0
    watch.host("room")
    watch.unhost("room")
    assert len(watch) == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), st.integers(0, 50)))), st.integers(0, 60))
def test_deadlines_come_in_order_each_key_once_at_its_newest_time(
    moves: list[tuple[str, int | None]], now: int
) -> None:
    deadlines, when = Deadlines(), {}
    for key, due in moves:
        if due is None:
            deadlines.discard(key)
            when.pop(key, None)
        else:
            deadlines.set(key, due)
            when[key] = due
    assert deadlines.next() == min(when.values(), default=None)
    popped = list(iter(lambda: deadlines.pop(now), None))
    assert sorted(popped) == sorted(key for key, due in when.items() if due <= now)
    assert [when[key] for key in popped] == sorted(when[key] for key in popped)
    assert len(deadlines) == len(when) - len(popped)


def test_deadlines_that_are_set_and_discarded_for_ever_take_no_room() -> None:
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.set(str(number), 1000.0 - number / 100)
        deadlines.discard(str(number - 5))
    assert len(deadlines) == 5
    assert len(deadlines._heap) < 200


connections = st.tuples(
    st.sampled_from(["room", "hall"]), st.sampled_from("ab"), st.sampled_from("NM"), st.sampled_from("12")
)


@given(st.lists(st.tuples(st.booleans(), connections), max_size=60), st.sampled_from("NM"))
def test_joins_and_leaves_add_up_to_who_is_present(moves: list[tuple[bool, tuple[str, ...]]], dying: str) -> None:
    roster, held, told = Roster(), set[tuple[str, ...]](), set[tuple[str, str]]()

    def tell(change: Change | None) -> None:
        if change is not None:
            assert ((change.channel, change.user) in told) != change.joined, "told twice"
            (told.add if change.joined else told.discard)((change.channel, change.user))

    for joins, (channel, user, node, connection) in moves:
        tell((roster.join if joins else roster.leave)(channel, user, node, connection))
        (held.add if joins else held.discard)((channel, user, node, connection))
    for _ in range(2):
        assert told == {(channel, user) for channel, user, _, _ in held}
        for channel in ("room", "hall"):
            counts = {user: len([h for h in held if h[:2] == (channel, user)]) for user in "ab"}
            expected = {user: Member(user, None, count) for user, count in counts.items() if count}
            assert {member.user: member for member in roster.members(channel)} == expected
            assert roster.count(channel) == len(expected)
        for change in roster.drop(dying):
            tell(change)
        held = {h for h in held if h[2] != dying}
    for node in "NM":
        roster.drop(node)
    assert len(roster) == len(roster._of_node) == 0


def test_only_a_node_whose_lease_has_run_out_is_expired() -> None:
    roster = Roster()
    roster.renew("N", 10.0)
    roster.renew("M", 20.0)
    roster.join("room", "ada", "without a lease", "1")
    assert [roster.expired(now) for now in (9.9, 10.0)] == [[], ["N"]]
    roster.renew("N", 30.0)
    assert roster.expired(20.0) == ["M"]


async def test_a_receipt_wakes_all_who_wait_and_counts_once() -> None:
    receipt = Receipt()
    waiting = [asyncio.ensure_future(_result(receipt)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    receipt.accept(Position("epoch", 1))
    receipt.refuse(BrokerError("too late"))
    assert await asyncio.gather(*waiting[1:]) == [Position("epoch", 1)] * 2
    assert await receipt == Position("epoch", 1)


async def test_a_refused_receipt_raises_each_time_it_is_awaited() -> None:
    receipt = Receipt()
    receipt.refuse(BrokerError("no", reason="too_large"))
    for _, _ in itertools.product(range(2), repeat=2):
        with pytest.raises(BrokerError) as caught:
            await receipt
        assert caught.value.reason == "too_large"


async def _result(receipt: Receipt) -> Position | None:
    return await receipt
