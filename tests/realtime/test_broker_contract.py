"""The contract of `portico.brokers` for every broker there is; and that the checks find brokers that break it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from portico.brokers import Gap, Member, Message, Position, Receipt, Span
from portico.brokers.history import History
from portico.brokers.memory import MemoryBroker, MemoryHub
from portico.testing import BROKER_CHECKS, Cluster, Violation, check_broker, run
from portico.testing.brokers import Check


def memory(
    make: Callable[[MemoryHub], MemoryBroker] = MemoryBroker, lease_s: float = 0.3, wait_s: float = 5
) -> Cluster:
    hub = MemoryHub(lease_s=lease_s)
    return Cluster(lambda: make(hub), cut=hub.cut, mend=hub.mend, wait_s=wait_s)


@pytest.mark.parametrize("check", BROKER_CHECKS, ids=lambda check: check.__name__)
async def test_memory(check: Check) -> None:
    await check(memory())


def test_all_of_them_at_once_on_simulated_time() -> None:
    run(check_broker(memory(lease_s=15.0)))


class Doubling(MemoryBroker):
    def offer(self, item: Any) -> None:
        super().offer(item)
        super().offer(item)

    def _arrived(self, parcel: Any) -> None:
        self._watch.unhost(parcel[0])  # and does not see it
        super()._arrived(parcel)


class Losing(MemoryBroker):
    offered = 0

    def offer(self, item: Any) -> None:
        self.offered += 1
        if self.offered % 7:
            super().offer(item)


class Silent(MemoryBroker):
    def _gap(self, gap: Gap) -> None: ...


class Forgetful(MemoryBroker):
    def _missing(self, channel: str, counting: str, epoch: str, last: int, missing: int, reason: Any) -> None:
        self._gap(Gap(channel, reason, missing))


class Reversing(MemoryBroker):
    """Delivers its own kept messages before those that came first."""

    def _catch_up(self) -> bool:
        return True


class Gossiping(MemoryBroker):
    def on_change(self, change: Any) -> None:
        self._receiver.on_presence(change.channel, change.user, change.joined, change.info)

    async def open(self, receiver: Any, *, type: Any = Any) -> None:
        await super().open(receiver, type=type)
        self.hub.tell = lambda change, by=None: [  # type: ignore[method-assign, assignment]
            broker.on_change(change) for broker in self.hub.nodes.values() if change is not None
        ]


class Everywhere(MemoryBroker):
    async def hosts(self, channel: str) -> frozenset[str]:
        return frozenset(self.hub.nodes)


class Partial(MemoryBroker):
    """Gives what is left of a history, as if it were all."""

    async def history(self, channel: str, *, since: Position | None = None, **parts: int | None) -> Span:
        span = await super().history(channel, since=since, **parts)
        return span if span.gap is None or parts else await super().history(channel)


class Hasty(MemoryBroker):
    """Says of a part that it is up to date."""

    async def history(self, channel: str, **asked: Any) -> Span:
        span = await super().history(channel, **asked)
        return msgspec.structs.replace(span, more=False)


class Skipping(MemoryBroker):
    """Goes on from the newest place behind a part."""

    async def history(self, channel: str, **asked: Any) -> Span:
        span = await super().history(channel, **asked)
        return msgspec.structs.replace(span, position=(await super().history(channel)).position)


class Agreeing(MemoryBroker):
    def _refused(self, channel: str) -> Receipt:
        return Receipt(done=True)


class Generous(MemoryBroker):
    async def take(self, key: str, type: Any = Any) -> Any:
        value = await super().take(key, type)
        if value is not None:
            self.store(key, value, 60)
        return value


class Counting(MemoryBroker):
    async def present(self, channel: str) -> tuple[Member, ...]:
        members = await super().present(channel)
        return tuple(Member(member.user, member.info, 1) for member in members)


class Copying(MemoryBroker):
    def _deliver(self, message: Message) -> int:
        if isinstance(message.data, dict):
            message = Message(message.channel, dict(message.data), message.publisher)
        return super()._deliver(message)


class Fragile(MemoryBroker):
    def _deliver(self, message: Message) -> int:
        return self._receiver.on_message(message)


class Immortal(MemoryBroker):
    def on_mended(self, expired: bool) -> None:
        self._mine.clear()  # whoever was held for dead stays it
        super().on_mended(expired)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Doubling, "messages_come_once_and_in_their_publishers_order"),
        (Losing, "messages_come_once_and_in_their_publishers_order"),
        (Silent, "a_node_that_was_cut_is_told_of_each_gap"),
        (Silent, "what_the_history_has_lost_is_a_gap"),
        (Silent, "what_does_not_fit_the_type_is_a_gap"),
        (Forgetful, "what_is_kept_is_repaired_after_a_cut"),
        (Reversing, "kept_messages_have_one_order_everywhere"),
        (Gossiping, "a_person_joins_once_and_leaves_once"),
        (Everywhere, "who_hosts_a_channel_gets_its_messages_and_nobody_else"),
        (Everywhere, "an_inbox_is_hosted_by_its_node_alone"),
        (Partial, "history_says_when_it_can_not"),
        (Hasty, "history_comes_in_parts_that_are_the_whole"),
        (Skipping, "history_comes_in_parts_that_are_the_whole"),
        (Agreeing, "what_is_not_taken_is_refused"),
        (Generous, "what_is_set_aside_is_taken_once"),
        (Counting, "a_person_joins_once_and_leaves_once"),
        (Copying, "at_home_it_is_delivered_within_publish"),
        (Fragile, "a_failing_receiver_loses_nothing_else"),
        (Immortal, "a_node_that_dies_loses_its_people_with_its_lease"),
    ],
)
def test_a_broker_that_breaks_a_guarantee_is_found(broken: type[MemoryBroker], check: str) -> None:
    chosen = {found.__name__: found for found in BROKER_CHECKS}[check]

    async def main() -> None:
        errors = (Violation, ValueError) if broken is Fragile else Violation
        with pytest.raises(errors):
            await chosen(memory(broken))

    run(main())


def test_the_report_names_each_check_its_rule_and_what_came() -> None:
    with pytest.raises(Violation) as caught:
        run(check_broker(memory(Partial)))
    text = str(caught.value)
    assert text.startswith(f"1 of {len(BROKER_CHECKS)} checks failed:")
    assert "history_says_when_it_can_not\n    Guarantee 6: gone, another epoch" in text
    assert "Violation: history(since=" in text


def test_a_history_that_is_never_too_old_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(History, "trim", lambda self, now: None)
    checks = {found.__name__: found for found in BROKER_CHECKS}
    with pytest.raises(Violation, match="keeps 20 messages"):
        run(checks["history_is_bounded"](memory()))
