"""The history of a room, as the application has it: how much is kept, and reading it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from portico.brokers import Position, Retention
from portico.errors import LocalError, PorticoError

if TYPE_CHECKING:
    from portico.realtime.events import Event
    from portico.realtime.feeds import Feeds
    from portico.realtime.room import Room

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Which rooms keep what is emitted to them, and how much of it: ``Realtime(history=History())``.

    - `count` (1,000) events of a room, `max_bytes` (1 MiB) of them, each for `age_s` seconds (300).
    - `rooms`: names, and compiled patterns that a whole name has to fit; None (the default) for all rooms.

    A name that looks like a client's id, 20 letters, digits, ``-`` and ``_``, keeps a history only where `rooms` has
    exactly that name. Raises LocalError for other values.
    """

    count: int = 1000
    max_bytes: int = 1024 * 1024
    age_s: float = 300.0
    rooms: Sequence[str | re.Pattern[str]] | None = None

    def __post_init__(self) -> None:
        try:
            Retention(count=self.count, max_bytes=self.max_bytes, age_s=self.age_s)
        except LocalError as error:
            raise LocalError(str(error).replace("Retention(", "History(").partition(";")[0]) from None
        rooms = self.rooms
        if rooms is not None and (
            isinstance(rooms, str)
            or not isinstance(rooms, Sequence)
            or not all(isinstance(room, (str, re.Pattern)) and room for room in rooms)
        ):
            raise LocalError(f"History(rooms={rooms!r}): expected a list of names and compiled patterns, or None")

    @property
    def retention(self) -> Retention:
        """The same for a broker."""
        return Retention(count=self.count, max_bytes=self.max_bytes, age_s=self.age_s)


@dataclass(frozen=True, slots=True)
class RoomEvent:
    """An event that a room has kept: its ``name`` and ``args``, with bytes where bytes were sent; the ``position``
    behind it, to go on from; the ``time`` when it was emitted, in seconds since 1970."""

    name: str
    args: tuple[Any, ...]
    position: str
    time: float


@dataclass(frozen=True, slots=True)
class Past:
    """A part of a room's history. ``events`` are exactly what was asked for, or ``gap`` says why they can't be had.

    ``position`` is the place to go on from: the newest one there is.
    """

    events: tuple[RoomEvent, ...]
    position: str
    gap: str | None = None


class HistoryGap(PorticoError):
    """Events of a room are missing for good. ``reason``; ``position``: where the room goes on, for another `listen`."""

    def __init__(self, room: str, reason: str, position: str) -> None:
        super().__init__(f"events of room {room!r} are missing: {reason}")
        self.room = room
        self.reason = reason
        self.position = position


class RoomHistory:
    """What a room has kept: ``io.room("prices").history``."""

    __slots__ = ("_feeds", "_room")

    def __init__(self, room: Room) -> None:
        feeds = room.namespace.io.feeds
        if feeds is None:
            raise LocalError("no room keeps a history: set Realtime(history=portico.realtime.History(…))")
        feeds.check(room.name)
        self._feeds: Feeds = feeds
        self._room = room

    async def read(self, *, since: str | None = None, last: int | None = None) -> Past:
        """What was kept after the position `since`, or why that can't be had; without it, all there is. `last`: the
        newest few of that.

        A ``read(last=0)`` gives the position of now. Raises LocalError where this is not being served, or `since` is no
        position; BrokerError where the history can't be read now.
        """
        feed = await self._feeds.open(self._room.namespace.name, self._room.name)
        span = await feed.read(None if since is None else Position.parse(since), last)
        events = tuple(event_of(kept.event, kept.position) for kept in span.kept)
        return Past(events, str(span.position), span.gap)

    def listen(self, *, since: str | None = None) -> AsyncIterator[RoomEvent]:
        """What the room keeps from now on, or after the position `since`, as it comes: none missing, none twice.

        Ends when the server does. Raises `HistoryGap` where events are missing for good.
        """
        return self._feeds.listen(self._room.namespace.name, self._room.name, since)


def event_of(event: Event, position: Position) -> RoomEvent:
    """A kept event, as the application has it."""
    name, *args = _decode(event.json)
    if event.attachments:
        args = restore(args, event.attachments)
    return RoomEvent(name, tuple(args), str(position), event.at)


def restore(value: Any, attachments: Sequence[Any]) -> Any:
    """`value`, which may be changed, with each placeholder's attachment in its place, however deep that is."""
    top = [value]
    left: list[Any] = [top]
    while left:
        inside = left.pop()
        for key, item in enumerate(inside) if isinstance(inside, list) else inside.items():
            if isinstance(item, dict) and item.get("_placeholder") is True:
                number = item.get("num")
                if type(number) is int and 0 <= number < len(attachments):
                    inside[key] = attachments[number]
                    continue
            if isinstance(item, (dict, list)):
                left.append(item)
    return top[0]
