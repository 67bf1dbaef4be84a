"""Brokers: how rooms, history and presence reach the other nodes. A node is one event loop of one process.

::

    class Local(Receiver):                             # yours: what a broker calls, on the node's event loop
        def on_message(self, message: Message) -> int:
            return rooms[message.channel].send(message.data)

    broker = MemoryBroker()                            # one for each node
    await broker.open(Local(), type=Event)             # type: what the published objects are, for msgspec
    start = await broker.subscribe("prices", keep=Retention(count=100))
    receipt = broker.publish("prices", Event("tick", 7), keep=Retention(count=100))
    receipt.delivered                                  # what our own on_message has returned, known at once
    await receipt                                      # accepted: its Position in the history. Or raises BrokerError
    span = await broker.history("prices", since=start) # exactly what came after `start`, or span.gap says why not
    broker.join("prices", "ada", "connection 1")       # presence: everyone who hosts the channel is told
    await broker.close()

What every broker guarantees. `portico.testing.check_broker` checks it, and nothing above may rely on more:

1. **Who gets it.** A message goes to each node that has subscribed to its channel, the publisher's own among them, and
   to no other. A subscription counts from its receipt on: what is accepted later is delivered, or is reported as a gap.
2. **At once at home.** What is not kept is delivered to the publishing node within `publish`, whatever the other nodes
   do, as the very object. Elsewhere it arrives later as an equal one. What is kept is delivered when the broker has
   accepted it, also at home.
3. **At most once**, and in order. Kept messages: each node delivers those of a channel in the one order of its history.
   Others: in the order in which their publisher published them to the channel; nothing is promised between two
   publishers, two channels, or a kept and a passing message.
4. **Never silent.** A message carries its publisher, an epoch and its sequence in it: a missing number is a gap.
   Kept messages are read from the history and delivered in their place; what can't be had is reported: `on_gap`, at the
   latest when the next message of the same numbering arrives or the broker can be reached again.
   A publication that the broker does not take raises `BrokerError` where it is awaited, and is reported: `on_refused`.
5. **Accepted** means that the broker has it: a kept one is in the history; a passing one is on its way to every node
   that has subscribed, and can still be lost with a node or a connection, which is then a gap there.
6. **History.** Offsets count 1, 2, 3 … under an epoch; a history that began anew has another. `history(since=…)` gives
   exactly what was kept after that position, or says that it can't. `Retention` bounds it. With a `limit` it gives the
   first so many of these, and says whether there are more: read on from there, the parts are all, or end in a gap.
7. **Presence.** A user with several connections joins once and leaves once. Nodes that host the channel are told of
   each change; what they are told adds up to `present`. A node that dies loses its connections when its lease
   runs out, at most `lease_s` later, and if it comes back it announces them again.
8. **One loop, no blocking.** Everything is called on the node's event loop. `on_…` are called there, one after another,
   never after `close`; they may call the broker. An exception in one is logged and loses nothing else.
9. **Data, not code.** What crosses between nodes is msgpack by msgspec, decoded to the node's `type`, whoever sent it.
   What can't be decoded is a gap.
"""

from __future__ import annotations

import abc
import asyncio
import dataclasses
import logging
from collections.abc import Callable, Generator
from typing import Any, Literal

import msgspec

from portico.errors import BrokerError, LocalError

__all__ = ["Broker", "BrokerError", "Counts", "Gap", "Member", "Message", "Position", "Receipt", "Receiver"]
__all__ += ["Retention", "Span"]

log = logging.getLogger("portico.brokers")

GapReason = Literal["lost", "overflow", "disconnected", "undecodable"]


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in a channel's history: what has an `offset` up to this one, under this `epoch`, lies behind it."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        """``epoch:offset``, for a header or a query; `parse` reads it."""
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that ``str(position)`` wrote. Raises LocalError for anything else: clients send these."""
        epoch, _, offset = text.rpartition(":")
        if not (epoch and len(text) <= 128 and offset.isascii() and offset.isdecimal() and len(offset) <= 19):
            raise LocalError(f"expected a position as epoch:offset, got {text[:128]!r}")
        return cls(epoch, int(offset))


class Message(msgspec.Struct, frozen=True):
    """What a node receives.

    `sequence` counts from 1 under `epoch`. Of a kept message these are its offset and its history's epoch. Of a passing
    one they are the publisher's own count for the channel, and 0 where it has not left the publisher's node.
    """

    channel: str
    data: Any
    publisher: str  # the id of a node
    epoch: str = ""
    sequence: int = 0
    kept: bool = False

    @property
    def position(self) -> Position | None:
        """Where it is in the channel's history; None for a message that is not kept."""
        return Position(self.epoch, self.sequence) if self.kept else None


class Gap(msgspec.Struct, frozen=True):
    """Messages that this node should have got, and did not, and never will. Tell whom it concerns to read anew.

    `missed` is how many, None where that can't be known. `channel` is None where it concerns every channel that the
    node hosts, and presence as well. `publisher` is None where it is not of one publisher alone (what was kept, for
    example). `position` is where a kept channel goes on.
    """

    channel: str | None
    reason: GapReason
    missed: int | None = None
    publisher: str | None = None
    position: Position | None = None


class Span(msgspec.Struct, frozen=True):
    """A part of a channel's history. Where `gap` is None it is exactly what was asked for.

    `gap` says in plain words why the messages after the given position can't be had; `messages` is empty then.
    `position` is the newest place in the history: the one to go on from; None where the channel has no history.
    `more`: a `limit` has cut it off, and `position` is that of its last message.
    """

    messages: tuple[Message, ...] = ()
    position: Position | None = None
    gap: str | None = None
    more: bool = False


class Member(msgspec.Struct, frozen=True):
    """A user who is present in a channel: `info` of the oldest of its connections, and how many there are."""

    user: str
    info: Any = None
    connections: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """How much of a channel is kept: at most `count` messages, `max_bytes` of them, each for `age_s` seconds.

    What goes over is dropped oldest first; a message that alone exceeds `max_bytes` is refused. A history that is
    empty, and whose channel no node hosts, is forgotten `age_s` after its last use: it begins anew under another epoch.
    """

    count: int = 1000
    max_bytes: int = 1_048_576
    age_s: float = 120.0

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("max_bytes", 1), ("age_s", 0)):
            value = getattr(self, name)
            kinds = (int, float) if name == "age_s" else (int,)
            if (
                isinstance(value, bool)
                or not isinstance(value, kinds)
                or not least <= value < float("inf")
                or not value
            ):
                raise LocalError(
                    f"Retention({name}={value!r}): expected a finite number above 0; keep=None keeps nothing"
                )


class Counts(msgspec.Struct, gc=False):
    """What has become of messages on this node, since it opened."""

    published: int = 0
    received: int = 0  # from other nodes
    repaired: int = 0  # of these, the ones that were read from the history
    missed: int = 0  # as far as known: gaps
    gaps: int = 0
    refused: int = 0  # publications
    duplicates: int = 0  # that came twice and were delivered once


class Receipt(msgspec.Struct, eq=False):
    """The answer to `publish`, `subscribe` and the like. It acts without being awaited.

    ``await receipt`` waits until the broker has accepted it: gives its `position`, or raises BrokerError. It may be
    awaited any number of times, and cancelling that takes nothing back. `delivered` is what our own ``on_message``
    returned for a publication; of a kept one, once it is delivered: 0 where that comes later, after others.
    """

    delivered: int = 0
    position: Position | None = None
    done: bool = False
    error: BrokerError | None = None
    _waiting: list[asyncio.Future[None]] | None = None

    def accept(self, position: Position | None = None) -> None:
        """For brokers: it is accepted. Only the first of `accept` and `refuse` counts."""
        if not self.done:
            self.position = position
            self._settle()

    def refuse(self, error: BrokerError) -> None:
        """For brokers: it is not, and will not be."""
        if not self.done:
            self.error = error
            self._settle()

    def _settle(self) -> None:
        self.done = True
        waiting, self._waiting = self._waiting, None
        for future in waiting or ():
            if not future.done():
                future.set_result(None)

    def __await__(self) -> Generator[Any, None, Position | None]:
        if not self.done:
            future = asyncio.get_running_loop().create_future()
            if self._waiting is None:
                self._waiting = []
            self._waiting.append(future)
            yield from future
        if self.error is not None:
            raise self.error
        return self.position


class Receiver:
    """What a node does with what arrives: a broker calls these, on the node's loop, and none of them may block."""

    def on_message(self, message: Message) -> int:
        """A message of a channel that this node hosts. Returns how many local recipients took it."""
        raise NotImplementedError

    def on_presence(self, channel: str, user: str, joined: bool, info: Any) -> None:
        """A user's first connection has joined, or its last one has left; on a node that hosts the channel."""

    def on_gap(self, gap: Gap) -> None:
        """Messages are missing for good. The default logs a warning."""
        log.warning("a gap, %s: %s of channel %r missing", gap.reason, gap.missed or "an unknown number", gap.channel)

    def on_refused(self, channel: str, error: BrokerError) -> None:
        """A publication of this node was not accepted, awaited or not. The default logs a warning."""
        log.warning("an event for channel %r has reached no other node: %s", channel, error)


class Broker(abc.ABC):
    """One node's membership. The guarantees are at the top of this module.

    `node` is the node's id, another one each time it opens; "" while it is not open. `counts` is a `Counts`. Calls on a
    broker that is not open raise LocalError. Channel names are any non-empty `str` that UTF-8 can express.
    """

    node: str = ""
    counts: Counts
    lease_s: float

    @property
    def inbox(self) -> str:
        """The channel that this node alone hosts, from the time it opens: for an answer, or a message to one client."""
        return inbox_of(self.node)

    @abc.abstractmethod
    async def open(self, receiver: Receiver, *, type: Any = Any) -> None:
        """Join the other nodes. `type`: what arriving data is decoded to by msgspec. Raises BrokerError."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Leave: our connections leave every presence at once, and what is not accepted is refused. Idempotent."""

    @abc.abstractmethod
    def publish(self, channel: str, data: Any, keep: Retention | None = None) -> Receipt:
        """Send `data`, anything that msgspec can encode, to every node that hosts the channel.

        `keep` puts it into the channel's history too. Subscribing first is not needed.
        """

    @abc.abstractmethod
    def subscribe(self, channel: str, keep: Retention | None = None) -> Receipt:
        """Host the channel from now on. With `keep` the receipt has the position from which everything is delivered,
        also where nothing was ever published. Idempotent; not counted: one `unsubscribe` ends it.
        """

    @abc.abstractmethod
    def unsubscribe(self, channel: str) -> None:
        """Host it no longer: nothing of it is delivered any more, from now on."""

    @abc.abstractmethod
    def position(self, channel: str) -> Position | None:
        """Up to where this node has delivered what is kept of a channel that it hosts; None if that is not known."""

    @abc.abstractmethod
    async def history(
        self, channel: str, *, since: Position | None = None, last: int | None = None, limit: int | None = None
    ) -> Span:
        """What was kept after `since`, or why that can't be had. Without `since` all there is; `last`: the newest few.

        `limit`, 1 or more: at most so many, the oldest of these.

        Raises BrokerError where the history can't be read now.
        """

    @abc.abstractmethod
    async def hosts(self, channel: str) -> frozenset[str]:
        """The ids of the nodes that host a channel now: whom to expect an answer from. Raises BrokerError."""

    @abc.abstractmethod
    def join(self, channel: str, user: str, connection: str, info: Any = None) -> Receipt:
        """A connection of ours is present as `user`; `info` is what others see of it. A second time: new `info`."""

    @abc.abstractmethod
    def leave(self, channel: str, user: str, connection: str) -> Receipt:
        """It is present no more. Nothing happens where it was not."""

    @abc.abstractmethod
    async def present(self, channel: str) -> tuple[Member, ...]:
        """Who is in the channel, on any node, the first who came first. Raises BrokerError."""

    @abc.abstractmethod
    async def count(self, channel: str) -> int:
        """How many users are in the channel. Raises BrokerError."""

    @abc.abstractmethod
    def store(self, key: str, data: Any, ttl_s: float) -> Receipt:
        """Set a value aside for any node to `take`: the state of a client that may come back, a ticket."""

    @abc.abstractmethod
    async def take(self, key: str, type: Any = Any) -> Any:
        """Remove a value and return it; None if there is none, or no more. Of several who ask, one gets it.

        Decoded to `type` by msgspec. Raises BrokerError.
        """


def inbox_of(node: str) -> str:
    """The name of the channel that a node alone hosts."""
    return f"\0node:{node}"


def check_name(name: object, what: str = "channel") -> None:
    """Raise LocalError unless `name` can name a channel, a user or a key."""
    if not isinstance(name, str) or not name:
        raise LocalError(f"expected the name of a {what} as a non-empty str, got {name!r:.100}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise LocalError(f"the name of a {what} can't be expressed in UTF-8: {name!r:.100}") from None


def guarded(call: Callable[..., Any], *arguments: Any) -> Any:
    """For brokers: call a receiver; an exception of it is logged, and 0 returned."""
    try:
        return call(*arguments)
    except Exception:
        log.exception("%s failed", getattr(call, "__qualname__", call))
        return 0
