"""Who is in a room, as people: several connections of one user are one person, on whichever nodes they are."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from portico.brokers import Gap, Member
from portico.errors import LocalError
from portico.realtime.places import Place
from portico.realtime.recovery import RECOVERABLE

if TYPE_CHECKING:
    from portico.realtime.clients import Client
    from portico.realtime.namespaces import Namespace
    from portico.realtime.realtime import Realtime
    from portico.realtime.room import Room

logger = logging.getLogger("portico.realtime")


def identify(client: Client) -> str:
    """The default of `Presence`: ``client.user``, where that is a name or a number; its ``id``, where it has one, as an
    attribute or a key; else the client's own id."""
    user = client.user
    if not isinstance(user, (str, int)):
        user = user.get("id") if isinstance(user, dict) else getattr(user, "id", None)
    return str(user) if user not in (None, "") else client.id


@dataclass(frozen=True, kw_only=True, slots=True)
class Presence:
    """Which rooms have presence, and what is told of it.

    - `rooms`: their names, and compiled patterns (``re.compile(r"game-\\d+")``) that whole names fit; None (the
      default): all rooms. The same in every namespace.
    - `identify`: ``(client) -> str | None``: the person that a client is; None for one who looks on and is not shown.
      The default is `identify` of this module.
    - `info`: ``(client) -> value``: what others see of that person, by default nothing. JSON that msgspec can encode.
    - `leave_after_s` (5): a person whose connection broke, or whose page was reloaded, leaves after so many seconds, if
      not back by then. Who disconnects or leaves the room is gone at once.
    - `event` (``"presence"``): the event that tells those who are in a room; None: they are not told.
    - `max_listed` (1,000): in a room with more people the event tells their number alone.
    """

    rooms: Iterable[str | re.Pattern[str]] | None = None
    identify: Callable[[Client], str | None] = identify
    info: Callable[[Client], Any] | None = None
    leave_after_s: float = 5.0
    event: str | None = "presence"
    max_listed: int = 1000

    def __post_init__(self) -> None:
        if self.rooms is not None:
            rooms = None if isinstance(self.rooms, (str, re.Pattern)) else tuple(self.rooms)
            if rooms is None or not all(isinstance(room, (str, re.Pattern)) and room for room in rooms):
                raise LocalError(f"Presence(rooms={self.rooms!r}): expected a list of names and compiled patterns")
            object.__setattr__(self, "rooms", rooms)
        for name in ("leave_after_s", "max_listed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 2**31:
                raise LocalError(f"Presence({name}={value!r}): expected a number, 0 or more")
        if self.event is not None and (not isinstance(self.event, str) or not self.event):
            raise LocalError(f"Presence(event={self.event!r}): expected the name of an event, or None")


class RoomPresence:
    """Who is in one room, on any node: what ``io.room("lobby").presence`` returns."""

    __slots__ = ("_room",)

    def __init__(self, room: Room) -> None:
        self._room = room

    async def members(self) -> tuple[Member, ...]:
        """Who is there, the first who came first: each a `Member` with ``user``, ``info`` and ``connections``.

        Raises BrokerError where the other nodes can't be asked.
        """
        return await self._room.namespace.io.broker.present(self._channel())

    async def count(self) -> int:
        """How many people are there. Raises BrokerError where the other nodes can't be asked."""
        return await self._room.namespace.io.broker.count(self._channel())

    def _channel(self) -> str:
        room = self._room
        attendance = room.namespace.io.attendance
        if attendance is None:
            raise LocalError("nobody is counted: set Realtime(presence=portico.realtime.Presence(…))")
        if not attendance.wants(room.name):
            raise LocalError(f"room {room.name!r} is none of those that Presence(rooms=…) names")
        if not room.namespace.io.running:
            raise LocalError("this Realtime is not being served: mount it in a portico.App")
        return channel_of(room.namespace, room.name)


def channel_of(namespace: Namespace, room: str) -> str:
    """The broker's channel for the presence in a room."""
    return f"presence\0{namespace.name}\0{room}"


class Attendance:
    """All presence of one node."""

    def __init__(self, io: Realtime, options: Presence) -> None:
        self.io = io
        self.options = options
        self.places: dict[str, Place] = {}  # by channel
        self._untold: dict[tuple[str, str], tuple[Place, Member, bool]] = {}  # to the application: by channel and user
        self._telling = False

    def wants(self, room: str) -> bool:
        """Whether a room has presence."""
        rooms = self.options.rooms
        if rooms is None:
            return True
        return any(room == each if isinstance(each, str) else each.fullmatch(room) for each in rooms)

    # -- what clients do -----------------------------------------------------------------------------------------------

    def arrived(self, client: Client) -> None:
        """It was let in, perhaps into rooms."""
        for room in client.rooms:
            self.joined(client, room)

    def joined(self, client: Client, room: str) -> None:
        """A client that was let in has joined a room."""
        if not self.wants(room):
            return
        channel = channel_of(client.namespace, room)
        place = self.places.get(channel)
        if place is None:
            place = self.places[channel] = Place(self, client.namespace, room, channel)
            place.read(first=True)
        place.enter(client)

    def left(self, client: Client, room: str) -> None:
        """It has left a room."""
        place = self.places.get(channel_of(client.namespace, room))
        if place is not None:
            place.leave(client, 0.0)

    def renewed(self, client: Client) -> None:
        """It has another identity, perhaps that of another person."""
        for room in client.rooms:
            place = self.places.get(channel_of(client.namespace, room))
            if place is not None:
                place.renew(client)

    def gone(self, client: Client, reason: str) -> None:
        """It is not connected any more, but may come back."""
        wait_s = self.options.leave_after_s if reason in RECOVERABLE else 0.0
        for room in client.rooms:
            place = self.places.get(channel_of(client.namespace, room))
            if place is not None:
                place.leave(client, wait_s)

    # -- what the broker tells -----------------------------------------------------------------------------------------

    def on_presence(self, channel: str, user: str, joined: bool, info: Any) -> None:
        """Somebody has joined or left, on some node."""
        place = self.places.get(channel)
        if place is not None:
            if place.touched is not None:
                place.touched.add(user)
            place.change(user, joined, info)

    def on_gap(self, gap: Gap) -> None:
        """Changes were missed: read who is there."""
        for place in list(self.places.values()):
            if gap.channel is None or gap.channel == place.channel:
                place.read()

    def end(self) -> None:
        """The node leaves."""
        places, self.places = self.places, {}
        self._untold.clear()
        for place in places.values():
            place.close()

    # -- the application -----------------------------------------------------------------------------------------------

    def tell(self, place: Place, user: str, joined: bool, info: Any) -> None:
        """Tell it of a change. While it is busy with others, a change and its opposite are none."""
        if place.namespace.functions.presence is None:
            return
        before = self._untold.pop((place.channel, user), None)
        if before is None:
            self._untold[place.channel, user] = place, Member(user, info, int(joined)), joined
        if not self._telling and self._untold:
            self._telling = True
            asyncio.get_running_loop().call_soon(self._begin)  # not within what it is that it does now

    def _begin(self) -> None:
        if self.io.running:
            self.io.spawn(self._tell())
        else:
            self._telling = False

    async def _tell(self) -> None:
        try:
            while self._untold:
                place, member, joined = self._untold.pop(next(iter(self._untold)))
                handler = place.namespace.functions.presence
                if handler is not None:
                    try:
                        await handler.call(self.io.pool, place.namespace.room(place.room), member, joined)
                    except Exception:
                        logger.exception("the function for presence in %s failed", place.namespace.name)
        finally:
            self._telling = False
