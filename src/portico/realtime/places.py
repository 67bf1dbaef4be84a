"""The presence in one room, on one node.

A node hosts the presence of the rooms that its own clients are in. It keeps a copy of who is there, which the broker's
changes bring up to date, and tells its clients out of that copy: first all of it, then what changes. Both are sent from
one place and in one order, so that they add up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from portico.brokers import BrokerError
from portico.errors import LocalError
from portico.net.timers import Timed
from portico.realtime.fanout import fan_out

if TYPE_CHECKING:
    from portico.realtime.clients import Client
    from portico.realtime.namespaces import Namespace
    from portico.realtime.presence import Attendance

logger = logging.getLogger("portico.realtime")

GATHER_S: Final = 0.05  # changes of a room within this time are told together
BEHIND_BYTES: Final = 65_536  # who has so much waiting is told all of it later, in place of each change
BEHIND_S: Final = 0.5
RETRY_S: Final = 1.0  # a broker that can't be read is asked again after this
HOSTED_S: Final = 1.0  # a room that nobody of this node is in any more is hosted for so long, to hear its last changes


class Waiting(Timed):
    """A connection that has broken, of a person who may be back soon."""

    __slots__ = ("connection", "of", "user")

    def __init__(self, of: Place, user: str, connection: str) -> None:
        super().__init__()
        self.of = of
        self.user = user
        self.connection = connection

    def expired(self, now: float) -> None:
        self.of.drop(self.user, self.connection)


class Place(Timed):
    """The presence in one room, on a node that has clients in it. Its deadline is its end, when nobody is left.

    ``people``: everyone in the room, by user, with what others see of them. ``clients``: of this node, with the user
    that each is, "" for who is not shown. ``held``: their connections by user, and those that have broken just now.
    """

    __slots__ = (
        "_again",
        "_changes",
        "_flushed",
        "_handle",
        "_late",
        "_listed",
        "_new",
        "_reading",
        "_ready",
        "_subscribed",
        "attendance",
        "channel",
        "clients",
        "held",
        "namespace",
        "people",
        "room",
        "touched",
    )

    def __init__(self, attendance: Attendance, namespace: Namespace, room: str, channel: str) -> None:
        super().__init__()
        self.attendance = attendance
        self.namespace = namespace
        self.room = room
        self.channel = channel
        self.people: dict[str, Any] = {}
        self.clients: dict[Client, str] = {}
        self.held: dict[str, dict[str, Waiting | None]] = {}
        self.touched: set[str] | None = None  # whose change came while we read: it is newer than what we read
        self._changes: dict[str, tuple[bool, Any]] = {}  # users: were they here when clients were told, and their info
        self._new: dict[Client, None] = {}  # who is to be told all of it
        self._listed = True
        self._ready = False
        self._again = False
        self._reading: asyncio.Task[None] | None = None
        self._flushed = 0.0
        self._handle: asyncio.Handle | None = None
        self._late = False  # the handle is for those alone who are behind
        self._subscribed = attendance.io.broker.subscribe(channel)

    # -- clients of this node ------------------------------------------------------------------------------------------

    def enter(self, client: Client) -> None:
        """A client is in the room from now on."""
        self.namespace = client.namespace
        self._wheel.cancel(self)
        self._new[client] = None
        self._present(client, self._identify(client))
        self._soon()

    def renew(self, client: Client) -> None:
        """Its identity is another one. Where it is another person now, the one that it was leaves at once, unless that
        one has another connection here, and then the one that it is joins."""
        before = self.clients.get(client)
        if before is None:
            return
        user = self._identify(client)
        if user == before:
            return
        if before:
            self.clients[client] = ""
            self.drop(before, client.id)
        self._present(client, user)

    def _identify(self, client: Client) -> str:
        """The user that a client is; "" for nobody."""
        try:
            user = self.attendance.options.identify(client)
            if user and not isinstance(user, (str, int)):
                raise LocalError(f"Presence(identify=…) has returned {user!r}: expected a str, or None")
        except Exception:
            self._not_shown(client)
            return ""
        return str(user) if user else ""

    def _present(self, client: Client, user: str) -> None:
        """From now on a client is this user, who is present; "" for nobody."""
        self.clients[client] = ""
        if not user:
            return
        options = self.attendance.options
        try:
            info = options.info(client) if options.info is not None else None
            self.attendance.io.broker.join(self.channel, user, client.id, info)
        except Exception:
            self._not_shown(client)
            return
        self.clients[client] = user
        connections = self.held.setdefault(user, {})
        before = list(connections.items())
        connections[client.id] = None
        for connection, waiting in before:
            if waiting is not None:  # the person is back
                self._wheel.cancel(waiting)
                if connection != client.id:
                    self.drop(user, connection)

    def _not_shown(self, client: Client) -> None:
        logger.exception("%r could not be made present in %r", client, self.room)

    def leave(self, client: Client, wait_s: float) -> None:
        """It is there no more. The person that it was stays for `wait_s` seconds, where it has no other connection."""
        user = self.clients.pop(client, None)
        if user is None:
            return
        self._new.pop(client, None)
        if not user:
            self._end_soon()
        elif wait_s and len(self.held[user]) == 1:
            waiting = self.held[user][client.id] = Waiting(self, user, client.id)
            self._wheel.schedule(waiting, self._clock() + wait_s)
        else:
            self.drop(user, client.id)

    def drop(self, user: str, connection: str) -> None:
        """A connection of a person is there no more."""
        connections = self.held[user]
        del connections[connection]
        if not connections:
            del self.held[user]
        self.attendance.io.broker.leave(self.channel, user, connection)
        self._end_soon()

    def _end_soon(self) -> None:
        if not self.clients and not self.held:
            self._wheel.schedule(self, self._clock() + HOSTED_S)

    def expired(self, now: float) -> None:
        if not self.clients and not self.held:
            self.attendance.places.pop(self.channel, None)
            self.attendance.io.broker.unsubscribe(self.channel)
            self.close()

    def close(self) -> None:
        """It is hosted no more."""
        self._wheel.cancel(self)
        for connections in self.held.values():
            for waiting in connections.values():
                if waiting is not None:
                    self._wheel.cancel(waiting)
        if self._handle is not None:
            self._handle.cancel()
        if self._reading is not None:
            self._reading.cancel()
        self.clients.clear()

    @property
    def _wheel(self) -> Any:
        return self.attendance.io.engine.reactor.wheel

    @property
    def _clock(self) -> Callable[[], float]:
        return self.attendance.io.engine.reactor.clock

    # -- who is there --------------------------------------------------------------------------------------------------

    def change(self, user: str, joined: bool, info: Any, *, quiet: bool = False) -> None:
        """Somebody has come or gone; nothing happens where that is known. `quiet`: the application is not told."""
        before = user in self.people
        if before == joined:
            return
        if joined:
            self.people[user] = info
        else:
            info = self.people.pop(user)
        self._changes.setdefault(user, (before, info))
        if not quiet:
            self.attendance.tell(self, user, joined, info)
        self._soon()

    def read(self, *, first: bool = False) -> None:
        """Find out who is there; what differs is told, but for the `first` time."""
        if self._reading is not None:
            self._again = True
            return
        self.touched = set()
        self._reading = asyncio.get_running_loop().create_task(self._read(first))

    async def _read(self, first: bool) -> None:
        broker = self.attendance.io.broker
        while True:
            self._again = False
            try:
                await self._subscribed
                members = await broker.present(self.channel)
            except BrokerError as error:
                logger.debug("who is in %r can't be read: %s", self.room, error)
                await asyncio.sleep(RETRY_S)
                self._subscribed = broker.subscribe(self.channel)
                continue
            if not self._again:
                break
            self.touched = set()
        self._reading = None
        self._reconcile({member.user: member.info for member in members}, first)

    def _reconcile(self, members: dict[str, Any], first: bool) -> None:
        touched, self.touched = self.touched or set(), None
        for user, info in members.items():
            if user not in touched:
                self.change(user, True, info, quiet=first)
        for user in list(self.people):
            if user not in members and user not in touched and user not in self.held:
                self.change(user, False, None)
        if not self._ready:
            self._ready = True
            self._soon()

    # -- telling clients -----------------------------------------------------------------------------------------------

    def _soon(self) -> None:
        """Tell clients in a moment, with what else changes until then."""
        if self.attendance.options.event is None or (self._handle is not None and not self._late):
            return
        if self._handle is not None:
            self._handle.cancel()
        self._late = False
        wait = self._flushed + GATHER_S - self._clock()
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(wait, self._flush) if wait > 0 else loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Tell clients what has changed; those who know nothing yet, all of it."""
        self._handle = None
        if not self._ready:
            return
        self._flushed = self._clock()
        changes, self._changes = self._changes, {}
        before, most = self._listed, self.attendance.options.max_listed
        self._listed = len(self.people) <= (most if before else most * 3 // 4)
        if self._listed and not before:
            self._new = dict.fromkeys(self.clients)
        if changes:
            known = [client for client in self.clients if client not in self._new]
            self._new.update(dict.fromkeys(self._send(known, self._news(changes))))
        if self._new:
            self._new = dict.fromkeys(self._send(list(self._new), self._whole()))
        if self._new:  # they are behind
            self._late = True
            self._handle = asyncio.get_running_loop().call_later(BEHIND_S, self._flush)

    def _whole(self) -> dict[str, Any]:
        told: dict[str, Any] = {"room": self.room, "count": len(self.people)}
        if self._listed:
            told["members"] = [{"user": user, "info": info} for user, info in self.people.items()]
        return told

    def _news(self, changes: dict[str, tuple[bool, Any]]) -> dict[str, Any]:
        """What has changed; nothing for a user who is there, or is not, as before."""
        joined, left = [], []
        for user, (before, info) in changes.items():
            if user in self.people:
                if not before or self.people[user] != info:
                    joined.append({"user": user, "info": self.people[user]})
            elif before:
                left.append({"user": user, "info": info})
        if not joined and not left:
            return {}
        told: dict[str, Any] = {"room": self.room, "count": len(self.people)}
        return told | {"joined": joined, "left": left} if self._listed else told

    def _send(self, clients: list[Client], told: dict[str, Any]) -> list[Client]:
        """Send it to `clients`; returns those who have so much waiting that they did not get it."""
        if not clients or not told:
            return []
        namespace = self.namespace
        try:
            made = namespace.event("event", [], [], (self.attendance.options.event, told))
        except LocalError:
            logger.exception("who is in %r can't be told: what Presence(info=…) returns is no JSON", self.room)
            return []
        out = namespace.outgoing(made)
        out.droppable = False  # or what follows would not add up
        most = self.attendance.io.engine.options.max_outbox_bytes
        behind: list[Client] = []
        ready: list[Client] = []
        for client in clients:
            waiting = client.session.buffered
            late = waiting > BEHIND_BYTES or (waiting and waiting + out.size > most)
            (behind if late else ready).append(client)
        fan_out(out, ready, False)
        return behind
