"""The default broker: nodes of one process, which is one node as a rule. Nothing to install and nothing to wait for.

What is published to a channel that only its own node hosts goes straight to that node's receiver: it is not encoded,
not numbered and not queued. Other nodes get it encoded, in the loop's next turn, out of a queue with a bound.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

import msgspec

from portico.brokers import (
    Broker,
    BrokerError,
    Counts,
    Gap,
    GapReason,
    Member,
    Message,
    Position,
    Receipt,
    Receiver,
    Retention,
    Span,
    check_name,
    guarded,
)
from portico.brokers.history import Entry
from portico.brokers.hub import BATCH, MemoryHub
from portico.brokers.inbound import Inbound, Parcel
from portico.brokers.numbering import ANEW, DUPLICATE, KEPT, Numbering, Watch
from portico.brokers.presence import Change
from portico.errors import LocalError

__all__ = ["MemoryBroker", "MemoryHub"]

log = logging.getLogger("portico.brokers")


class MemoryBroker(Broker):
    """One node. Those that are given the same `hub` reach each other; without one it is a node for itself."""

    def __init__(self, hub: MemoryHub | None = None) -> None:
        self.hub = MemoryHub() if hub is None else hub
        self.lease_s = self.hub.lease_s
        self.counts = Counts()
        self.numbering = Numbering()
        self.is_cut = False
        self._hosts = self.hub.hosts
        self._receiver: Receiver = Receiver()
        self._forget()

    def _forget(self) -> None:
        self._ready = False  # open and not cut
        self._hosted: dict[str, Retention | None] = {}
        self._mine: dict[tuple[str, str, str], Any] = {}  # (channel, user, connection) -> info
        self._watch = Watch()
        self._pending: list[tuple[Receipt, str]] = []  # of subscriptions and presence, until we are not cut any more
        self._scheduled = False
        self._delivering = False
        self._why: GapReason = "overflow"  # or else we were cut: why what _inbound has lost is lost
        self._inbound = Inbound(self.hub.max_queue_bytes)

    async def open(self, receiver: Receiver, *, type: Any = Any) -> None:
        if self.node:
            raise LocalError("the broker is open already: each node needs a broker of its own")
        node = secrets.token_urlsafe(9)
        decoder = msgspec.msgpack.Decoder(type)
        self.node = node
        try:
            self.hub.attach(self)
        except LocalError:
            self.node = ""
            raise
        self.counts = Counts()
        self._receiver = receiver
        self._decoder = decoder
        self._ready = True
        self.subscribe(self.inbox)

    async def close(self) -> None:
        if not self.node:
            return
        pending, hosted = self._pending, self._hosted
        self._forget()
        self._receiver = Receiver()  # our own departure is not told to us
        self.hub.detach(self, hosted)
        self.is_cut = False
        self.numbering = Numbering()
        self.node = ""
        for receipt, channel in pending:
            receipt.refuse(BrokerError(f"the broker was closed before it had accepted {channel!r}", reason="closed"))

    def _check(self, name: object, what: str = "channel") -> None:
        check_name(name, what)
        if not self.node:
            raise LocalError("the broker is not open: await broker.open(receiver) first, and close it last")

    def _check_reachable(self) -> None:
        if self.is_cut:
            raise BrokerError("the other nodes can't be reached")

    def publish(self, channel: str, data: Any, keep: Retention | None = None) -> Receipt:
        if not self._ready or type(channel) is not str or not channel:
            self._check(channel)
        if keep is not None:
            return self._publish_kept(channel, data, keep)
        if self.is_cut:
            return self._publish_cut(channel, data)
        hosts = self._hosts.get(channel)
        self.counts.published += 1
        receipt = Receipt(0, None, True)
        if hosts is None:
            check_name(channel)  # of hosted ones it was checked
            return receipt
        here = self in hosts
        epoch, sequence = "", 0
        if len(hosts) > here:
            payload = self._encode(data)
            epoch, sequence = self.numbering.next(channel)
            self._offer_others(hosts, (channel, self.node, self.node, epoch, sequence, payload))
        if here:
            receipt.delivered = self._deliver(Message(channel, data, self.node, epoch, sequence))
        return receipt

    def _publish_kept(self, channel: str, data: Any, keep: Retention) -> Receipt:
        if channel not in self._hosted:
            check_name(channel)
        payload = self._encode(data)
        if self.is_cut:
            return self._refused(channel)
        # What comes before it in the history is delivered before it.
        caught_up = not (self._scheduled or self._delivering) or self._catch_up()
        history, offset = self.hub.keep(channel, self.node, payload, keep)
        self.counts.published += 1
        receipt = Receipt(0, Position(history.epoch, offset), True)
        hosts = self._hosts.get(channel)
        if hosts is None:
            return receipt
        parcel = (channel, KEPT, self.node, history.epoch, offset, payload)
        self._offer_others(hosts, parcel)
        if self in hosts and not caught_up:
            self.offer(parcel)
        elif self in hosts:
            self._watch.see(channel, KEPT, history.epoch, offset)
            receipt.delivered = self._deliver(Message(channel, data, self.node, history.epoch, offset, True))
        return receipt

    def _publish_cut(self, channel: str, data: Any) -> Receipt:
        self._encode(data)
        receipt = self._refused(channel)
        if channel in self._hosted:
            receipt.delivered = self._deliver(Message(channel, data, self.node))
        return receipt

    def _refused(self, channel: str) -> Receipt:
        receipt = Receipt()
        receipt.refuse(BrokerError("the other nodes can't be reached"))
        self.counts.refused += 1
        guarded(self._receiver.on_refused, channel, receipt.error)
        return receipt

    def _encode(self, data: Any) -> bytes:
        try:
            return self.hub.encoder.encode(data)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise LocalError(
                f"expected data that msgspec can encode as msgpack, got {type(data).__name__}: {error}"
            ) from None

    def _deliver(self, message: Message) -> int:
        try:
            return self._receiver.on_message(message) or 0
        except Exception:
            log.exception("on_message failed: a message of channel %r", message.channel)
            return 0

    def _offer_others(self, hosts: dict[MemoryBroker, None], parcel: Parcel) -> None:
        for broker in hosts:
            if broker is not self:
                broker.offer(parcel)

    # What arrives from other nodes.

    def offer(self, item: Parcel | Change) -> None:
        """For the hub and other nodes: something for this one, for the loop's next turn."""
        if self.is_cut:
            self._inbound.lose(item)
            return
        self._inbound.put(item)
        if not self._scheduled:
            self._scheduled = True
            self.hub.loop.call_soon(self._turn)

    def _turn(self) -> None:
        """A bounded part of the queue."""
        self._scheduled = False
        for _ in range(BATCH):
            if not self._take_next():
                return
        if not self.node:
            return
        self._scheduled = True
        self.hub.loop.call_soon(self._turn)

    def _catch_up(self) -> bool:
        """Deliver all of the queue. False: we are within such a delivery, and what is done now must wait its turn."""
        if self._delivering:
            return not self._inbound
        while self._take_next():
            pass
        return True

    def _take_next(self) -> bool:
        if self.is_cut:
            return False
        self._delivering = True
        try:
            return self._deliver_next()
        finally:
            self._delivering = False

    def _deliver_next(self) -> bool:
        inbound = self._inbound
        if (item := inbound.take()) is not None:
            if isinstance(item, Change):
                self.on_change(item)
            else:
                self._arrived(item)
        elif (lost := inbound.take_lost()) is not None:
            self._account(*lost, self._why)
        elif (change := inbound.take_lost_change()) is not None:
            self._reconcile(*change)
        else:
            return False
        return True

    def _arrived(self, parcel: Parcel) -> None:
        channel, counting, publisher, epoch, sequence, payload = parcel
        if channel not in self._hosted:
            return
        missing = self._watch.see(channel, counting, epoch, sequence)
        if missing == DUPLICATE:
            self.counts.duplicates += 1
            return
        if missing:
            self._missing(channel, counting, epoch, sequence - 1, missing, "lost")
        self.counts.received += 1
        self._decoded(channel, publisher, epoch, sequence, counting == KEPT, payload)

    def _account(self, channel: str, counting: str, epoch: str, first: int, last: int, reason: GapReason) -> None:
        missing = self._watch.lose(channel, counting, epoch, first, last)
        if missing:
            self._missing(channel, counting, epoch, last, missing, reason)

    def _missing(self, channel: str, counting: str, epoch: str, last: int, missing: int, reason: GapReason) -> None:
        """The messages up to `last` are missing: what was kept of them is delivered, of the rest we are told."""
        if counting != KEPT:
            self._gap(Gap(channel, reason, missing, counting))
            return
        position = Position(epoch, last)
        if missing == ANEW:
            self._gap(Gap(channel, reason, None, None, position))
            return
        history = self.hub.histories.get(channel)
        first = last - missing + 1
        kept: list[Entry] = []
        if history is not None and history.epoch == epoch:
            entries = history.last(history.head - first + 1, self.hub.loop.time())
            kept = [entry for entry in entries if entry.offset <= last]
        if len(kept) < missing:
            self._gap(Gap(channel, reason, missing - len(kept), None, Position(epoch, last - len(kept))))
        for entry in kept:
            self.counts.received += 1
            self.counts.repaired += 1
            self._decoded(channel, entry.publisher, epoch, entry.offset, True, entry.payload)

    def _decoded(self, channel: str, publisher: str, epoch: str, sequence: int, kept: bool, payload: bytes) -> None:
        try:
            data = self._decoder.decode(payload)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            log.warning("a message of channel %r can't be decoded: %s", channel, error)
            position = Position(epoch, sequence) if kept else None
            self._gap(Gap(channel, "undecodable", 1, None if kept else publisher, position))
            return
        self._deliver(Message(channel, data, publisher, epoch, sequence, kept))

    def _gap(self, gap: Gap) -> None:
        self.counts.gaps += 1
        self.counts.missed += gap.missed or 0
        guarded(self._receiver.on_gap, gap)

    def on_change(self, change: Change) -> None:
        """For the hub: a user has joined or left, somewhere."""
        if change.channel in self._hosted:
            guarded(self._receiver.on_presence, change.channel, change.user, change.joined, change.info)

    def _reconcile(self, channel: str, user: str, before: bool, info: Any) -> None:
        """Changes were lost: the difference between what we were told of last and what is true now."""
        now = self.hub.roster.has(channel, user)
        if now != before:
            self.on_change(Change(channel, user, now, self.hub.roster.info(channel, user) if now else info))

    # Being cut from the others, for the hub.

    def on_cut(self) -> None:
        """Nothing arrives any more, and what was on its way is lost."""
        self.is_cut, self._ready, self._why = True, False, "disconnected"
        self._inbound.lose_all()

    def on_expired(self) -> tuple[str, ...]:
        """The others hold us for dead. Returns the channels that we host no more."""
        self._inbound = Inbound(self.hub.max_queue_bytes)
        return tuple(self._hosted)

    def on_mended(self, expired: bool) -> None:
        """We are back: make true what is wanted, and find out what was missed."""
        self.is_cut, self._ready = False, True
        self._catch_up()
        self._why = "overflow"
        for channel, keep in tuple(self._hosted.items()):
            if self not in self._hosts.get(channel, ()):
                self._come_back(channel, keep)
        if expired:
            self._gap(Gap(None, "disconnected"))
        held = self.hub.roster.held(self.node)
        for channel, user, connection in sorted(held - self._mine.keys()):
            self.hub.tell(self.hub.roster.leave(channel, user, self.node, connection), self)
        for (channel, user, connection), info in tuple(self._mine.items()):
            self.hub.tell(self.hub.roster.join(channel, user, self.node, connection, info), self)
        pending, self._pending = self._pending, []
        for receipt, channel in pending:
            receipt.accept(self.position(channel))

    def _come_back(self, channel: str, keep: Retention | None) -> None:
        """Host a channel again, after others held us for dead; or for the first time: it was wanted while cut."""
        seen = self._watch.position(channel)
        now = self._attach(channel, keep)
        if seen is None:
            return
        history = self.hub.histories.get(channel)
        if history is None or history.epoch != seen.epoch:
            self._watch.host(channel, now)
            self._gap(Gap(channel, "disconnected", None, None, now))
        elif history.head > seen.offset:
            self._account(channel, KEPT, seen.epoch, seen.offset + 1, history.head, "disconnected")

    # Hosting, history, presence, things set aside.

    def subscribe(self, channel: str, keep: Retention | None = None) -> Receipt:
        self._check(channel)
        self._hosted[channel] = keep or self._hosted.get(channel)
        if self.is_cut:
            return self._later(channel)
        return Receipt(0, self._attach(channel, keep), True)

    def _attach(self, channel: str, keep: Retention | None) -> Position | None:
        new = self not in self._hosts.get(channel, ())
        if new:
            self.hub.host(channel, self)
        history = self.hub.histories.get(channel) if keep is None else self.hub.history(channel, keep)
        if self._watch.position(channel) is None:
            position = None
            if history is not None:  # it began when we hosted the channel already: all of it is for us
                position = history.position if new else Position(history.epoch, 0)
            self._watch.host(channel, position)
        return self._watch.position(channel)

    def _later(self, channel: str) -> Receipt:
        receipt = Receipt()
        self._pending.append((receipt, channel))
        return receipt

    def unsubscribe(self, channel: str) -> None:
        self._check(channel)
        self._hosted.pop(channel, None)
        self._watch.unhost(channel)
        self._inbound.forget(channel)
        self.hub.unhost(channel, self)

    def position(self, channel: str) -> Position | None:
        return self._watch.position(channel)

    async def history(
        self, channel: str, *, since: Position | None = None, last: int | None = None, limit: int | None = None
    ) -> Span:
        self._check(channel)
        self._check_reachable()
        if last is not None and last < 0:
            raise LocalError(f"history(last={last!r}): expected 0 or more, or None for all")
        if limit is not None and limit < 1:
            raise LocalError(f"history(limit={limit!r}): expected 1 or more, or None for all")
        history = self.hub.histories.get(channel)
        if history is None:
            return Span() if since is None else Span(gap="the channel has no history, or none any more")
        now = self.hub.loop.time()
        found = history.last(last, now, limit) if since is None else history.since(since, now, last, limit)
        if isinstance(found, str):
            return Span(position=history.position, gap=found)
        try:
            messages = tuple(
                Message(
                    channel, self._decoder.decode(entry.payload), entry.publisher, history.epoch, entry.offset, True
                )
                for entry in found
            )
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            log.warning("the history of channel %r can't be decoded: %s", channel, error)
            return Span(position=history.position, gap="a message of it can't be decoded")
        if found and found[-1].offset < history.head:
            return Span(messages, Position(history.epoch, found[-1].offset), more=True)
        return Span(messages, history.position)

    async def hosts(self, channel: str) -> frozenset[str]:
        self._check(channel)
        self._check_reachable()
        return frozenset(broker.node for broker in self._hosts.get(channel, ()))

    def join(self, channel: str, user: str, connection: str, info: Any = None) -> Receipt:
        self._check(channel)
        self._check(user, "user")
        self._check(connection, "connection")
        info = msgspec.msgpack.decode(self._encode(info))  # as others would get it
        self._mine[channel, user, connection] = info
        if self.is_cut:
            return self._later(channel)
        by = self if self._catch_up() else None  # what others have done before is told before
        self.hub.tell(self.hub.roster.join(channel, user, self.node, connection, info), by)
        return Receipt(done=True)

    def leave(self, channel: str, user: str, connection: str) -> Receipt:
        self._check(channel)
        self._mine.pop((channel, user, connection), None)
        if self.is_cut:
            return self._later(channel)
        by = self if self._catch_up() else None
        self.hub.tell(self.hub.roster.leave(channel, user, self.node, connection), by)
        return Receipt(done=True)

    async def present(self, channel: str) -> tuple[Member, ...]:
        self._check(channel)
        self._check_reachable()
        self._catch_up()
        return self.hub.roster.members(channel)

    async def count(self, channel: str) -> int:
        self._check(channel)
        self._check_reachable()
        self._catch_up()
        return self.hub.roster.count(channel)

    def store(self, key: str, data: Any, ttl_s: float) -> Receipt:
        self._check(key, "key")
        if not 0 < ttl_s < float("inf"):
            raise LocalError(f"store(ttl_s={ttl_s!r}): expected a finite number of seconds above 0")
        payload = self._encode(data)
        if self.is_cut:
            return self._refused(key)
        self.hub.store(key, payload, ttl_s)
        return Receipt(done=True)

    async def take(self, key: str, type: Any = Any) -> Any:
        self._check(key, "key")
        self._check_reachable()
        payload = self.hub.take(key)
        if payload is None:
            return None
        try:
            return msgspec.msgpack.decode(payload, type=type)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            log.warning("what was set aside as %r can't be decoded: %s", key, error)
            return None
