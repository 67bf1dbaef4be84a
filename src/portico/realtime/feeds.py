"""What rooms keep, as this node gets it: one `Feed` for each room that somebody here follows, live and from before.

A room's history is the broker's, under the room's own channel. What is emitted to one room alone goes by that channel
to its members as well. Where events go to members by another channel (several rooms at once, or `Recovery`), the room's
has a copy, of the kind ``"kept"``, which is only for those who follow the room.
"""

from __future__ import annotations

import asyncio
import base64
import heapq
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import msgspec

from portico.brokers import Gap, Message, Position, Receipt
from portico.errors import BrokerError, LocalError
from portico.net.timers import Timed
from portico.realtime.history import History, HistoryGap, RoomEvent, event_of, restore
from portico.realtime.members import channel_of
from portico.wire import socketio, sse

if TYPE_CHECKING:
    from portico.realtime.events import Event
    from portico.realtime.namespaces import Namespace
    from portico.realtime.realtime import Realtime

RECENT = 200  # events that a feed has at hand, and the bytes of them
RECENT_BYTES = 64 * 1024
LINGER_S = 60.0  # how long a room is followed that nobody asks for any more: who polls comes back
MAX_LINGERING = 1000
OPEN_S = 10.0  # how long the broker has to say from where a room is followed
PART = 32  # events that who is far behind reads at once, and so may hold while it is slow
ENVELOPE_BYTES = 300  # more than what a broker adds to an event
CLIENT_ID = re.compile(r"[A-Za-z0-9_-]{20}")

_FIRST = re.compile(rb'\["[^"\\]*+(?:\\.[^"\\]*+)*+"')  # a parser's stack might end within the arguments
_decode = msgspec.json.Decoder().decode


class Kept:
    """An event that a room has kept; encoded for a form when the first needs that."""

    __slots__ = ("__weakref__", "_args", "_block", "_name", "event", "position", "room", "size")

    def __init__(self, room: str, position: Position, event: Event) -> None:
        self.room = room
        self.position = position
        self.event = event
        self.size = len(event.json) + sum(map(len, event.attachments))
        self._name = b""
        self._args = b""
        self._block: bytes | None = None

    def _encode(self) -> None:
        """Its name and its arguments, each as JSON; binary as ``{"base64": "…"}``."""
        event = self.event
        if event.attachments:
            texts = [{"base64": base64.b64encode(data).decode()} for data in event.attachments]
            name, *args = restore(_decode(event.json), texts)
            self._name, self._args = socketio.to_json(name), socketio.to_json(args)
        else:
            end = _FIRST.match(event.json).end()  # type: ignore[union-attr] # it begins with the event's name
            self._name = event.json[1:end]
            self._args = b"[" + event.json[end:].removeprefix(b",")

    @property
    def block(self) -> bytes:
        """Its Server-Sent Event, but for the id."""
        if self._block is None:
            self._encode()
            self._block = sse.block(_decode(self._name), self._args)
        return self._block

    def json(self, position: str) -> bytes:
        """It as JSON, for who polls."""
        if not self._name:
            self._encode()
        rest = socketio.to_json({"room": self.room, "position": position, "time": self.event.at})
        return b'{"name":%b,"args":%b,%b' % (self._name, self._args, rest[1:])

    def is_first_for(self, rooms: frozenset[str]) -> bool:
        """Whether a reader of all of `rooms` gets it here: an event for several is kept by each of them."""
        of = self.event.rooms
        return len(of) == 1 or next((room for room in of if room in rooms), self.room) == self.room


class Read:
    """A part of a feed's history; see `portico.brokers.Span`. ``position`` is never None."""

    __slots__ = ("gap", "kept", "more", "position")

    def __init__(self, kept: list[Kept], position: Position, gap: str | None = None, more: bool = False) -> None:
        self.kept = kept
        self.position = position
        self.gap = gap
        self.more = more


class Watcher:
    """Who is told, at once, of what a feed gets. ``feed.position`` has moved already."""

    __slots__ = ()

    def came(self, feed: Feed, kept: Kept) -> None:
        """An event."""
        raise NotImplementedError

    def lost(self, feed: Feed, reason: str) -> None:
        """Some are missing for good."""
        raise NotImplementedError

    def ended(self) -> None:
        """Nothing comes any more: the server stops."""
        raise NotImplementedError


class Feed(Timed):
    """A room that this node follows. ``position``: up to where it has got what the room keeps."""

    __slots__ = (
        "_read",
        "_recent",
        "_recent_bytes",
        "_sure",
        "channel",
        "feeds",
        "namespace",
        "position",
        "room",
        "watchers",
    )

    def __init__(self, feeds: Feeds, namespace: str, room: str, channel: str) -> None:
        super().__init__()
        self.feeds = feeds
        self.namespace = namespace
        self.room = room
        self.channel = channel
        self.position = Position("", 0)  # before the broker has said
        self.watchers: dict[Watcher, None] = {}
        self._sure = False  # the next event has to be the one after `position`
        self._recent: deque[Kept] = deque()
        self._recent_bytes = 0
        self._read: WeakValueDictionary[int, Kept] = WeakValueDictionary()  # what somebody has read and still holds

    def began(self, position: Position | None) -> None:
        """From where on everything is delivered."""
        if not self.position.epoch and position is not None:
            self.position = position
            self._sure = True

    # -- what comes ----------------------------------------------------------------------------------------------------

    def came(self, message: Message) -> None:
        """A message of the channel that is in its history."""
        position = Position(message.epoch, message.sequence)
        before = self.position
        if before.epoch == position.epoch and position.offset <= before.offset:
            return
        if self._sure and (before.epoch != position.epoch or position.offset != before.offset + 1):
            self.lost("lost", Position(position.epoch, position.offset - 1))
        self.position = position
        self._sure = True
        kept = Kept(self.room, position, message.data)
        self._remember(kept)
        for watcher in list(self.watchers):
            watcher.came(self, kept)

    def lost(self, reason: str, position: Position | None) -> None:
        """Messages are missing."""
        self._recent.clear()
        self._recent_bytes = 0
        self._sure = position is not None
        if position is not None:
            self.position = position
        for watcher in list(self.watchers):
            watcher.lost(self, reason)

    def _remember(self, kept: Kept) -> None:
        recent, most = self._recent, self.feeds.retention
        recent.append(kept)
        self._recent_bytes += kept.size
        while len(recent) > min(RECENT, most.count) or self._recent_bytes > min(RECENT_BYTES, most.max_bytes):
            self._recent_bytes -= recent.popleft().size

    # -- what was before -----------------------------------------------------------------------------------------------

    def recent(self, since: Position) -> Read | None:
        """What was kept after a position, where that is at hand."""
        position = self.position
        missed = position.offset - since.offset
        if since.epoch != position.epoch or not position.epoch or not 0 <= missed <= len(self._recent):
            return None
        if not missed:
            return Read([], position)
        recent = self._recent
        kept = [recent[index] for index in range(len(recent) - missed, len(recent))]
        if kept[0].event.at + self.feeds.retention.age_s <= time.time():
            return None  # the broker knows whether it is too old
        return Read(kept, position)

    async def read(self, since: Position | None, last: int | None = None, limit: int | None = None) -> Read:
        """The history after `since`; all of it for None; of that the newest `last`; of that the oldest `limit`, or all
        that is at hand. Raises BrokerError."""
        read = self.recent(since) if since is not None and last is None else None
        if read is not None:
            return read
        span = await self.feeds.io.broker.history(self.channel, since=since, last=last, limit=limit)
        kept = [self._shared(message) for message in span.messages]
        return Read(kept, span.position or self.position, span.gap, span.more)

    def _shared(self, message: Message) -> Kept:
        """A message of the history: however many slow readers hold it, it is there once."""
        kept = self._read.get(message.sequence)
        if kept is None or kept.position.epoch != message.epoch:
            kept = Kept(self.room, Position(message.epoch, message.sequence), message.data)
            self._read[message.sequence] = kept
        return kept

    # -- who follows it ------------------------------------------------------------------------------------------------

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` from now on."""
        self.watchers[watcher] = None

    def unwatch(self, watcher: Watcher) -> None:
        """No more."""
        self.watchers.pop(watcher, None)
        self.feeds.linger(self)

    def expired(self, now: float) -> None:
        if not self.watchers:
            self.feeds.drop(self)


class Feeds:
    """The rooms of a Realtime that keep a history, and those of them that are followed here."""

    def __init__(self, io: Realtime, history: History) -> None:
        if not isinstance(history, History):
            raise LocalError(f"Realtime(history={history!r}): expected a portico.realtime.History, or None")
        self.io = io
        self.retention = history.retention
        self._all = history.rooms is None
        self._names = frozenset(room for room in history.rooms or () if isinstance(room, str))
        self._patterns = tuple(room for room in history.rooms or () if not isinstance(room, str))
        self._feeds: dict[str, Feed] = {}
        self._opening: dict[str, Receipt] = {}
        self._lingering: dict[Feed, None] = {}

    def keeps(self, room: str) -> bool:
        """Whether a room keeps a history."""
        if room in self._names:
            return True
        if len(room) == 20 and CLIENT_ID.fullmatch(room):
            return False
        return self._all or any(pattern.fullmatch(room) for pattern in self._patterns)

    def check(self, room: str) -> None:
        """Raise LocalError unless a room keeps a history."""
        if not self.keeps(room):
            raise LocalError(f"room {room!r} keeps no history: name it in History(rooms=…)")

    # -- out -----------------------------------------------------------------------------------------------------------

    def publish(self, namespace: Namespace, event: Event) -> Receipt:
        """Give an event for some rooms to the broker, and to the histories of those that keep one."""
        rooms = [room for room in dict.fromkeys(event.rooms) if self.keeps(room)]
        if not rooms:
            return namespace.pass_on(event)
        size = len(event.json) + sum(len(data) + 5 for data in event.attachments) + ENVELOPE_BYTES
        size += sum(len(name.encode()) + 5 for name in (*event.rooms, *event.excepts))
        if size > self.retention.max_bytes:
            raise LocalError(
                f"an event of {size} bytes is more than the history of a room may hold: raise History(max_bytes="
                f"{self.retention.max_bytes}), or emit it as volatile, which is not kept"
            )
        event.at = time.time()
        broker = self.io.broker
        if len(event.rooms) == 1 and namespace._has_channel(rooms[0]):
            return broker.publish(channel_of(namespace.name, rooms[0]), event, self.retention)
        receipt = namespace.pass_on(event)
        copy = msgspec.structs.replace(event, kind="kept")
        copies = [broker.publish(channel_of(namespace.name, room), copy, self.retention) for room in rooms]
        return Receipts.of(receipt, copies)

    # -- in ------------------------------------------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        """The broker brought what is kept of a channel."""
        feed = self._feeds.get(message.channel)
        if feed is not None:
            feed.came(message)

    def on_gap(self, gap: Gap) -> None:
        """The broker misses something. Where it doesn't say of which channel, the next event's number tells."""
        feed = self._feeds.get(gap.channel or "")
        if feed is not None and gap.publisher is None:
            feed.lost(gap.reason, gap.position)

    # -- following rooms -----------------------------------------------------------------------------------------------

    async def open(self, namespace: str, room: str) -> Feed:
        """The feed of a room, which is followed from now on; for a while also if nobody watches it."""
        if not self.io.running:
            raise LocalError("this Realtime is not being served: mount it in a portico.App")
        channel = channel_of(namespace, room)
        feed = self._feeds.get(channel)
        if feed is None:
            self._opening[channel] = self.io.broker.subscribe(channel, self.retention)
            feed = self._feeds[channel] = Feed(self, namespace, room, channel)
        self.linger(feed)
        receipt = self._opening.get(channel)
        if receipt is not None:
            try:
                async with asyncio.timeout(OPEN_S):
                    feed.began(await receipt)
            except TimeoutError:
                raise BrokerError("the other nodes have not answered in time") from None
            except BrokerError:
                self.drop(feed)
                raise
            if self._opening.get(channel) is receipt:
                del self._opening[channel]
        return feed

    def linger(self, feed: Feed) -> None:
        """If nobody watches it, it is dropped after a while."""
        if feed.watchers or self._feeds.get(feed.channel) is not feed:
            return
        reactor = self.io.engine.reactor
        reactor.wheel.schedule(feed, reactor.clock() + LINGER_S)
        self._lingering.pop(feed, None)
        self._lingering[feed] = None
        if len(self._lingering) > MAX_LINGERING:
            oldest = next(iter(self._lingering))
            if oldest.watchers:
                del self._lingering[oldest]
            else:
                self.drop(oldest)

    def drop(self, feed: Feed) -> None:
        """It is followed no more."""
        self._lingering.pop(feed, None)
        self.io.engine.reactor.wheel.cancel(feed)
        if self._feeds.get(feed.channel) is feed:
            del self._feeds[feed.channel]
            self._opening.pop(feed.channel, None)
            if self.io.broker.node and not self.io.hosts_room(feed.namespace, feed.room):
                self.io.broker.unsubscribe(feed.channel)

    @property
    def followed(self) -> list[Feed]:
        """All feeds of this node."""
        return list(self._feeds.values())

    def has(self, feed: Feed) -> bool:
        """Whether a feed is still that of its room: nobody may have watched it for too long."""
        return self._feeds.get(feed.channel) is feed

    def follows(self, channel: str) -> bool:
        """Whether a channel is hosted for those who follow it, also where no client is in the room."""
        return channel in self._feeds

    async def listen(self, namespace: str, room: str, since: str | None) -> AsyncIterator[RoomEvent]:
        """See `RoomHistory.listen`."""
        feed = await self.open(namespace, room)
        position = feed.position if since is None else Position.parse(since)
        bell = Bell()
        feed.watch(bell)
        try:
            while True:
                bell.clear()
                read = await feed.read(position, limit=PART)
                if read.gap is not None:
                    raise HistoryGap(room, read.gap, str(read.position))
                for kept in read.kept:
                    yield event_of(kept.event, kept.position)
                position = read.position
                if bell.over:
                    return
                if not read.more:
                    await bell.wait()
        finally:
            feed.unwatch(bell)

    def stop(self) -> None:
        """The last server stops: those who listen are told."""
        for feed in self.followed:
            for watcher in list(feed.watchers):
                watcher.ended()

    def clear(self) -> None:
        """The broker is closed."""
        for feed in self._feeds.values():
            self.io.engine.reactor.wheel.cancel(feed)
        self._feeds.clear()
        self._opening.clear()
        self._lingering.clear()


class Bell(asyncio.Event, Watcher):
    """Rings when there is something to read."""

    over = False

    def came(self, feed: Feed, kept: Kept) -> None:
        self.set()

    def lost(self, feed: Feed, reason: str) -> None:
        self.set()

    def ended(self) -> None:
        self.over = True
        self.set()


class Receipts(Receipt):
    """The receipt of an event that went by several channels: awaiting it awaits them all."""

    others: tuple[Receipt, ...] = ()

    @classmethod
    def of(cls, receipt: Receipt, others: list[Receipt]) -> Receipt:
        """All of them in one."""
        if receipt.done and all(other.done and other.error is None for other in others):
            return receipt
        return cls(receipt.delivered, receipt.position, others=(receipt, *others))

    def __await__(self) -> Generator[Any, None, Position | None]:
        for other in self.others:
            yield from other.__await__()
        return self.position


def merged(reads: list[Read]) -> Iterator[tuple[int, Kept]]:
    """What several rooms have kept, the oldest first as far as their clocks tell; of each room in its own order.

    It ends where one of them does that has more: that may be older than what the others still have, and is read first.
    """
    if len(reads) == 1:
        return iter([(0, kept) for kept in reads[0].kept])
    items = heapq.merge(*([(index, kept) for kept in read.kept] for index, read in enumerate(reads)), key=_time)
    return _up_to_more(items, reads) if any(read.more for read in reads) else iter(items)


def _up_to_more(items: Iterable[tuple[int, Kept]], reads: list[Read]) -> Iterator[tuple[int, Kept]]:
    for index, kept in items:
        yield index, kept
        if reads[index].more and kept is reads[index].kept[-1]:
            return


def _time(item: tuple[int, Kept]) -> float:
    return item[1].event.at
