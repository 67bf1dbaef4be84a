"""Server-Sent Events of rooms: who listens to the same rooms is one `Group`, for which each event is encoded once.

A `Listener` is one HTTP response. While it keeps up it is live: what comes is written to it at once. Where its peer is
slow, nothing waits for it but a place in the histories; from there it reads on when there is room, and is live again
when it has read everything. So it starts, too. What it can't read any more, it is told as a gap.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from portico.brokers import Position
from portico.errors import BrokerError
from portico.net.timers import NEVER, Timed
from portico.realtime.feeds import PART, Feed, Kept, Read, Watcher, merged
from portico.wire import socketio, sse

if TYPE_CHECKING:
    from portico.realtime.engine import Mounted
    from portico.realtime.realtime import Realtime
    from portico.server.exchange import Exchange

logger = logging.getLogger("portico.realtime")

RETRY_MS = 1000, 3000  # when clients come back, spread so that not all of them do at once

Places = list[Position]  # one for each room


class Group(Watcher):
    """Those who listen to the same rooms, in one order."""

    __slots__ = ("_rooms", "behind", "feeds", "io", "live")

    def __init__(self, io: Realtime, feeds: tuple[Feed, ...]) -> None:
        self.io = io
        self.feeds = feeds
        self.live: dict[Listener, None] = {}
        self.behind: dict[Listener, None] = {}
        self._rooms = frozenset(feed.room for feed in feeds)

    @property
    def places(self) -> Places:
        """How far this node has got."""
        return [feed.position for feed in self.feeds]

    def begin(self) -> None:
        """The first listener comes."""
        for feed in self.feeds:
            feed.watch(self)

    def end(self) -> None:
        """The last one has left."""
        for feed in self.feeds:
            feed.unwatch(self)

    def is_for(self, kept: Kept) -> bool:
        """Whether an event is sent where this room has it; one for several rooms is sent once."""
        return kept.is_first_for(self._rooms)

    def came(self, feed: Feed, kept: Kept) -> None:
        if self.is_for(kept) and self.live:
            self._write(
                feed,
                sse.identity(joined(self.places)) + kept.block,
                Position(kept.position.epoch, kept.position.offset - 1),
            )
        self._go_on()

    def lost(self, feed: Feed, reason: str) -> None:
        if self.live:
            self._write(feed, gap_block(self.places, feed.room, f"some were lost on their way ({reason})"), None)
        self._go_on()

    def ended(self) -> None:
        for listener in [*self.live, *self.behind]:
            listener.end()

    def _write(self, feed: Feed, piece: bytes, before: Position | None) -> None:
        for listener in list(self.live):
            stream = listener.exchange.stream
            if stream.buffered > stream.high_water and not stream.blocked:
                stream.flush_within()  # it may be only we who have not written yet
            if stream.buffered <= stream.high_water or before is None:
                listener.exchange.write(piece, True)
            else:
                listener.fall_behind([before if one is feed else one.position for one in self.feeds])

    def _go_on(self) -> None:
        """There is more for those who had read all there was, and were not live yet."""
        for listener in list(self.behind):
            listener.go_on()


class Listener(Timed):
    """One response of Server-Sent Events."""

    __slots__ = ("_end", "_places", "_reading", "exchange", "group", "mounted", "over")

    def __init__(
        self, mounted: Mounted, exchange: Exchange, group: Group, places: Places, expires_at: float | None
    ) -> None:
        super().__init__()
        self.mounted = mounted
        self.exchange = exchange
        self.group = group
        self.over = False
        self._end = NEVER if expires_at is None else mounted.engine.reactor.clock() + expires_at - time.time()
        self._reading = False
        self._places: Places | None = places  # where it is, unless it is live
        group.behind[self] = None
        self._schedule()

    def write(self, piece: bytes) -> None:
        """Write to it, whatever waits already."""
        if not self.over:
            self.exchange.write(piece, True)

    def fall_behind(self, places: Places) -> None:
        """Its peer is slow: it reads on from `places` when that has taken what there is."""
        del self.group.live[self]
        self.group.behind[self] = None
        self._places = places
        self.mounted.engine.counters.behind += 1

    def go_on(self) -> None:
        """Read what there is, unless it does so already."""
        if not self._reading and not self.over:
            self.group.io.spawn(self.read())

    async def read(self) -> None:
        """Write what it has not got; until it is live, or knows more than this node."""
        if self._reading:
            return
        self._reading = True
        try:
            while self._places is not None and not self.over and await self._read_on(self._places):
                pass
        except BrokerError as error:
            logger.warning("a stream ends, as the history can't be read: %s", error)
            self.end()
        except OSError:
            self.over = True  # the peer has left
        finally:
            self._reading = False

    async def _read_on(self, places: Places) -> bool:
        """Write what came after `places`; returns whether there may be more."""
        group = self.group
        await self._room()
        reads = [await feed.read(place, limit=PART) for feed, place in zip(group.feeds, places, strict=True)]
        for index, read in enumerate(reads):
            if read.gap is not None:
                places[index] = read.position
                self.write(gap_block(places, group.feeds[index].room, read.gap))
        await self._replay(places, reads)
        more = any(read.more for read in reads)
        if not more:
            places[:] = [read.position for read in reads]
        return self._is_short(places) or more

    async def _replay(self, places: Places, reads: list[Read]) -> None:
        for index, kept in merged(reads):
            places[index] = kept.position
            if self.group.is_for(kept):
                self.write(sse.identity(joined(places)) + kept.block)
                await self._room()

    async def _room(self) -> None:
        stream = self.exchange.stream
        if stream.buffered > stream.high_water:
            await self.exchange.wait_room()

    def _is_short(self, places: Places) -> bool:
        """Whether this node has more than `places`. If it is just as much, the listener is live from now on."""
        group = self.group
        if places == group.places:
            if not self.over:
                group.behind.pop(self, None)
                group.live[self] = None
                self._places = None
            return False
        return any(
            place.epoch == feed.position.epoch and place.offset < feed.position.offset
            for feed, place in zip(group.feeds, places, strict=True)
        )

    # -- time ----------------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        reactor = self.mounted.engine.reactor
        reactor.wheel.schedule(self, min(reactor.clock() + self.mounted.engine.options.ping_interval_s, self._end))

    def expired(self, now: float) -> None:
        if now >= self._end:
            self.end()  # whether it may come back is decided then
            return
        if not self.exchange.stream.buffered:
            self.write(sse.COMMENT)
        self._schedule()

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End the response: its client comes back, and misses nothing."""
        if self.over:
            return
        self.over = True
        self.group.live.pop(self, None)
        if self.exchange.stream.blocked:
            self.exchange.stream.abort()  # it would wait for a slow peer
        elif self.exchange.stream.open:
            self.exchange.send({"type": "http.response.body", "body": b""})
        self.exchange.drained()

    def forget(self) -> None:
        """It has ended."""
        self.over = True
        self.mounted.engine.reactor.wheel.cancel(self)
        self.group.live.pop(self, None)
        self.group.behind.pop(self, None)


class Streams:
    """All listeners of a Realtime."""

    def __init__(self, io: Realtime) -> None:
        self.io = io
        self._groups: dict[tuple[Feed, ...], Group] = {}

    def __len__(self) -> int:
        return sum(len(group.live) + len(group.behind) for group in self._groups.values())

    def __iter__(self) -> Iterator[Listener]:
        return iter([one for group in self._groups.values() for one in (*group.live, *group.behind)])

    def group(self, feeds: tuple[Feed, ...]) -> Group:
        """The group of those who listen to `feeds`."""
        group = self._groups.get(feeds)
        if group is None:
            group = self._groups[feeds] = Group(self.io, feeds)
            group.begin()
        return group

    async def run(
        self,
        mounted: Mounted,
        feeds: tuple[Feed, ...],
        places: Places,
        told: bytes,
        calls: Any,
        expires_at: float | None,
    ) -> None:
        """Let a response be a stream, from `places` on and until its end. `told` comes first."""
        receive, send = calls
        group = self.group(feeds)
        listener = Listener(mounted, send.__self__, group, places, expires_at)
        try:
            listener.write(opening(places) + told)
            if mounted.stopping:  # since it was asked for
                listener.end()
            await listener.read()
            while not listener.over and (await receive())["type"] != "http.disconnect":
                pass
        finally:
            listener.forget()
            if not (group.live or group.behind) and self._groups.get(feeds) is group:
                del self._groups[feeds]
                group.end()

    def stop(self, mounted: Mounted) -> None:
        """A server stops: its streams end."""
        for listener in self:
            if listener.mounted is mounted:
                listener.end()


def joined(places: Places) -> str:
    """The places in several rooms as one, as clients are told."""
    return ",".join(map(str, places)) if len(places) > 1 else str(places[0])


def opening(places: Places) -> bytes:
    """What a stream begins with: when to come back, and from where, also where nothing ever comes."""
    data = socketio.to_json({"position": joined(places)})
    return sse.retry(random.randint(*RETRY_MS)) + sse.identity(joined(places)) + sse.block("position", data)


def gap_block(places: Places, room: str | None, reason: str) -> bytes:
    """What tells that events of a room are missing, or of any, and from where it goes on."""
    data = {"room": room, "reason": reason, "position": joined(places)}
    return sse.identity(joined(places)) + sse.block("gap", socketio.to_json(data))
