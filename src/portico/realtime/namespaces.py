"""A namespace: its clients and rooms on this node, the application's functions for it, and the way of an event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from portico.brokers import Message, Position, Receipt
from portico.errors import LocalError, Refuse
from portico.realtime.clients import Client
from portico.realtime.emissions import Audience, Selection
from portico.realtime.events import Event
from portico.realtime.fanout import fan_out
from portico.realtime.handlers import Function, Handler
from portico.realtime.identity import Identity, identify
from portico.realtime.members import CONNECTING, Functions, Group, Member, channel_of, check_name
from portico.realtime.outgoing import Outgoing
from portico.realtime.rates import Rate
from portico.realtime.recovery import Claim, Recovered, restore
from portico.realtime.room import Room
from portico.wire import socketio

if TYPE_CHECKING:
    from portico.realtime.realtime import Realtime
    from portico.realtime.sessions import Session

logger = logging.getLogger("portico.realtime")

AnyFunction = TypeVar("AnyFunction", bound=Function)
ID_LENGTH = 20  # rooms whose names are as long as a client's id go by the channel of their namespace


class Namespace(Group, Audience):
    """Clients that share a name, like ``/admin``. What `Realtime.of` returns."""

    def __init__(self, io: Realtime, name: str, functions: Functions | None = None) -> None:
        Group.__init__(self, io, name, functions or Functions())
        self.clients: dict[str, Client] = {}  # who is connected, by id
        self.live: dict[str, Client] = {}  # the same by the name under which they come back
        self.claims: dict[str, Claim] = {}  # who is being restored, by that name
        self._arriving: dict[str, Client] = {}
        self._rooms: dict[str, dict[Client, None]] = {}
        self._subscription: Receipt | None = None
        self._delivered: asyncio.Event | None = None  # for those who wait until more is
        self.keep = functions is None  # though nobody is in it

    # -- for the application -------------------------------------------------------------------------------------------

    @overload
    def on(
        self, event: str, handler: AnyFunction, *, concurrent: bool = False, rate: Rate | None = None
    ) -> AnyFunction: ...

    @overload
    def on(
        self, event: str, handler: None = None, *, concurrent: bool = False, rate: Rate | None = None
    ) -> Callable[[AnyFunction], AnyFunction]: ...

    def on(self, event: str, handler: Any = None, *, concurrent: bool = False, rate: Rate | None = None) -> Any:
        """Call `handler` for each `event`; without it, a decorator.

        - ``connect(client, auth)`` decides, before the client is connected: `portico.Refuse` turns it away.
        - ``disconnect(client, reason)``.
        - others: ``(client, *args)``; what it returns is the acknowledgement (a tuple: several values). ``"*"`` gets
          the events that have no handler, as ``(client, event, *args)``.

        A coroutine function runs on the event loop, a plain one in a thread. The handlers of one client run one after
        another, but for those registered as `concurrent`. With a `rate`, those of one client that come faster are not
        run: the acknowledgement is an error. One that raises is logged; a `Refuse` is an answer.
        """
        if handler is None:
            return lambda function: self.on(event, function, concurrent=concurrent, rate=rate)
        if not isinstance(event, str) or not event:
            raise LocalError(f"on({event!r}): expected the name of an event")
        if event in self.functions.handlers:
            raise LocalError(f"on({event!r}): this event has a handler already")
        self.functions.handlers[event] = Handler(handler, concurrent=concurrent, rate=rate)
        self.io.limited = self.io.limited or rate is not None
        return handler

    def use(self, function: AnyFunction) -> AnyFunction:
        """Call ``function(client, auth)`` before each ``connect``; it may raise `portico.Refuse`. Also a decorator."""
        self.functions.before.append(Handler(function))
        return function

    def use_events(self, function: AnyFunction) -> AnyFunction:
        """Call ``function(client, event, args)`` before each handler of an event. It may raise `portico.Refuse`, and
        return other arguments, as a list. Also a decorator."""
        self.functions.before_events.append(Handler(function))
        return function

    def on_presence(self, function: AnyFunction) -> AnyFunction:
        """Call ``function(room, member, joined)`` when somebody has joined a room that clients of this node are in, or
        has left it: a `Room`, a `portico.brokers.Member`, and which of the two. One after another. Also a decorator."""
        if self.io.attendance is None:
            raise LocalError("on_presence: nobody is counted; set Realtime(presence=portico.realtime.Presence(…))")
        if self.functions.presence is not None:
            raise LocalError("on_presence: there is such a function already")
        self.functions.presence = Handler(function)
        return function

    def use_streams(self, function: AnyFunction) -> AnyFunction:
        """Open rooms to those who follow them without a session: Server-Sent Events and polling under ``…/events``.

        ``function(request, room)``, or ``(request, room, user)`` with what ``authenticate`` returned, is called for
        each room of each request: it lets in by returning, and refuses by raising `portico.Refuse`. Where there is no
        such function all is refused. Also a decorator. Raises LocalError without ``Realtime(history=…)``.
        """
        if self.io.feeds is None:
            raise LocalError("use_streams: no room keeps a history; set Realtime(history=portico.realtime.History(…))")
        self.functions.streams.append(Handler(function))
        return function

    @property
    def rooms(self) -> dict[str, int]:
        """The rooms on this node, and how many clients are in each."""
        return {name: len(members) for name, members in self._rooms.items()}

    def room(self, name: str) -> Room:
        """The room `name`: those who are in it, and its ``presence``."""
        return Room(self, name)

    def __len__(self) -> int:
        return len(self.clients)

    def __repr__(self) -> str:
        return f"<Namespace {self.name}: {len(self.clients)} clients>"

    def _select(self) -> Selection:
        return Selection(self)

    # -- clients -------------------------------------------------------------------------------------------------------

    def arrive(self, session: Session, auth: dict[str, Any]) -> Client:
        """Somebody wants to connect."""
        client = Client(self, session, auth)
        self._arriving[client.id] = client
        if self._subscription is None:
            recovery = self.io.recovery
            self._subscription = self.io.broker.subscribe(self.name, recovery.retention if recovery else None)
        return client

    async def prepare(self, client: Client, auth: dict[str, Any]) -> Recovered | None:
        """Before the application is asked: who the client is, and what it missed, where it has come back."""
        if "ticket" in auth:
            identify(client, await self.io.redeem(auth.pop("ticket")))
        elif type(client.session.user) is Identity:
            identify(client, client.session.user)
        if self._subscription is not None and not self._subscription.done:
            await self._subscription
        return await restore(client, auth.pop("pid", None), auth.pop("offset", None))

    async def admit(self, client: Client, auth: dict[str, Any]) -> None:
        """Ask the application; it raises Refuse."""
        pool = self.io.pool
        for function in self.functions.before:
            await function.call(pool, client, auth)
        handler = self.functions.handlers.get("connect")
        if handler is not None:
            call = [client, auth]
            handler.convert(call)
            if await handler.call(pool, *call) is False:
                raise Refuse("not authorized")

    def established(self, client: Client) -> None:
        """It is connected."""
        self._arriving.pop(client.id, None)
        self.clients[client.id] = client
        if client._pid:
            self.live[client._pid] = client

    def come_back(self, client: Client, id: str, pid: str) -> None:
        """It has an earlier client's id, and rooms; what is emitted from now on waits for it."""
        self._arriving.pop(client.id, None)
        client.id, client._pid = id, pid
        self.clients[client.id] = client
        self.live[client._pid] = client
        for room in client._rooms or ():
            self.add(room, client)

    def undo_come_back(self, client: Client, id: str, pid: str) -> None:
        """It has not come back after all, and gets its own id again."""
        for room in client._rooms or ():
            self.discard(room, client)
        client._rooms = client._left = None
        client._early = []
        self.clients.pop(client.id, None)
        self.live.pop(client._pid, None)
        client.id, client._pid = id, pid
        self._arriving[id] = client

    def gone(self, client: Client) -> None:
        """It is not connected any more."""
        for index in (self.clients, self._arriving):
            if index.get(client.id) is client:
                del index[client.id]
        if self.live.get(client._pid) is client:
            del self.live[client._pid]
        self.wake()
        if not self.keep and not self.clients and not self._arriving:
            self.io.forget(self)
            if self._subscription is not None and self.io.broker.node:
                self.io.broker.unsubscribe(self.name)

    async def tell_gone(self, client: Client, reason: str) -> None:
        """Tell the application."""
        handler = self.functions.handlers.get("disconnect")
        if handler is not None:
            try:
                await handler.call(self.io.pool, client, reason)
            except Exception:
                logger.exception("the handler of 'disconnect' in %s failed", self.name)

    def forget_subscriptions(self) -> None:
        """The broker is closed."""
        self._subscription = None
        self.wake()

    # -- rooms ---------------------------------------------------------------------------------------------------------

    def add(self, room: str, client: Client) -> Receipt | None:
        """Put it into a room."""
        members = self._rooms.get(room)
        if members is not None:
            members[client] = None
            return None
        self._rooms[room] = {client: None}
        if not self._has_channel(room):
            return None
        feeds = self.io.feeds
        keep = feeds.retention if feeds is not None and feeds.keeps(room) else None
        return self.io.broker.subscribe(self._channel([room]), keep)

    def discard(self, room: str, client: Client) -> None:
        """Take it out of a room."""
        members = self._rooms.get(room)
        if members is not None and client in members:
            del members[client]
            if not members:
                del self._rooms[room]
                if self._has_channel(room) and self.io.broker.node:
                    channel = self._channel([room])
                    if self.io.feeds is None or not self.io.feeds.follows(channel):
                        self.io.broker.unsubscribe(channel)

    def _has_channel(self, room: str) -> bool:
        return self.io.recovery is None and len(room) != ID_LENGTH

    def _channel(self, rooms: list[str]) -> str:
        """The broker's channel for an event to `rooms`."""
        if len(rooms) == 1 and self._has_channel(rooms[0]):
            return channel_of(self.name, rooms[0])
        return self.name

    def members(self, rooms: list[str], excepts: list[str]) -> list[Client]:
        """Those of this node who are in one of `rooms` (all, where there are none), and in none of `excepts`."""
        found: dict[Client, None] | list[Client]
        if not rooms:
            found = list(self.clients.values())
        elif len(rooms) == 1 and rooms[0] not in self.clients and rooms[0] not in self._arriving:
            found = list(self._rooms.get(rooms[0], ()))
        else:
            found = dict.fromkeys(client for room in rooms for client in self._inside(room))
        if excepts:
            without = {client for room in excepts for client in self._inside(room)}
            return [client for client in found if client not in without]
        return found if type(found) is list else list(found)

    def _inside(self, room: str) -> Iterable[Client]:
        yield from self._rooms.get(room, ())
        own = self.clients.get(room) or self._arriving.get(room)
        if own is not None:
            yield own

    # -- events out ----------------------------------------------------------------------------------------------------

    def event(self, kind: str, rooms: list[str], excepts: list[str], args: tuple[Any, ...] = ()) -> Event:
        """An event, encoded. Raises LocalError where it can't be."""
        if not args:
            return Event(kind, self.name, rooms, excepts)
        check_name(args[0])
        json, attachments = socketio.encode_args(args)
        return Event(kind, self.name, rooms, excepts, json, attachments)

    def publish(self, event: Event) -> Receipt:
        """Give an event to the broker, which gives it to every node that has such clients."""
        io = self.io
        if not io.running:
            return Receipt(0, None, True)  # nobody is connected
        if event.kind != "event":
            return io.broker.publish(self.name, event)
        if io.feeds is not None and event.rooms and not event.volatile:
            return io.feeds.publish(self, event)
        return self.pass_on(event)

    def pass_on(self, event: Event) -> Receipt:
        """The same without what rooms keep of it."""
        io = self.io
        recovery = io.recovery
        if recovery is not None:
            return io.broker.publish(self.name, event, None if event.volatile else recovery.retention)
        return io.broker.publish(self._channel(event.rooms), event)

    def publish_to(self, client: Member, event: Event) -> Receipt:
        """The same for one client of this node."""
        if self.io.recovery is not None:
            return self.pass_on(event)
        return Receipt(int(client._send(self.outgoing(event))), None, True)

    def offset(self) -> int:
        """Up to where this node has delivered the history."""
        if self.io.recovery is None:
            return 0
        position = self.io.broker.position(self.name)
        return position.offset if position is not None else 0

    def since(self) -> str:
        """The same with the history's identity, as clients are told."""
        position = self.io.broker.position(self.name) if self.io.recovery is not None else None
        return "" if position is None else str(position)

    async def delivered_up_to(self, position: Position, client: Client) -> None:
        """Until this node has delivered the history up to there, or the client has left.

        Who comes back gets all of that out of the history. What is delivered before it is connected is told apart from
        that; what came afterwards would come twice.
        """
        while client.state is CONNECTING and (here := self.io.broker.position(self.name)) is not None:
            if here.epoch != position.epoch or here.offset >= position.offset:
                return
            if self._delivered is None:
                self._delivered = asyncio.Event()
            await self._delivered.wait()

    def wake(self) -> None:
        """More of the history was delivered, or is missing."""
        if self._delivered is not None:
            self._delivered.set()
            self._delivered = None

    def outgoing(self, event: Event, *, call: int | None = None, place: str = "", offset: int = 0) -> Outgoing:
        """The packet for the clients. `place`: its place in the history, which goes with it."""
        json = event.json
        if call is None and self.io.recovery is None and self._head and not event.attachments:
            return Outgoing(self._head + json, (), droppable=True, key=event.key, offset=offset)
        # One without a place in the history goes with the latest: a client takes any text at the end for its place.
        # Where it is asked, its acknowledgement stands there.
        if self.io.recovery is not None and call is None:
            json = b'%b,"%b"]' % (json[:-1], (place or self.since()).encode())
        text, attachments = self.io.packets.event(self.name, call, json, event.attachments)
        text = b"4" + text if text else b""
        return Outgoing(text, attachments, droppable=call is None, key=event.key, offset=offset)

    def deliver(self, message: Message) -> int:
        """A broker brought an event; returns how many clients took it."""
        event: Event = message.data
        kind = event.kind
        if kind == "event":
            place = str(message.position) if message.kept else ""
            out = self.outgoing(event, place=place, offset=message.sequence if message.kept else 0)
            if self._delivered is not None:
                self.wake()
            return fan_out(out, self.members(event.rooms, event.excepts), event.volatile)
        found = [client for client in self.members(event.rooms, event.excepts) if client.state is not CONNECTING]
        if kind == "fetch":
            self.io.reply(event, [[client.id, sorted(client.rooms), client.data] for client in found])
        elif kind == "call":
            self.io.spawn(self._collect(event, found))
        else:
            for client in found:
                if kind == "join":
                    client._join(event.values)
                elif kind == "leave":
                    client._leave(event.values)
                elif kind == "disconnect":
                    client.disconnect(close=event.flag)
        return len(found)

    async def _collect(self, event: Event, clients: list[Client]) -> None:
        """Ask some clients, and answer with what they have answered."""
        answers: dict[str, Any] = {}
        waiting = {client.id: self.io.spawn(client._asked(event, answers)) for client in clients}
        for task in waiting.values():
            await task
        self.io.reply(event, answers)

    # -- events in -----------------------------------------------------------------------------------------------------

    async def _call(self, client: Client, name: str, args: list[Any]) -> Any:
        functions = self.functions
        pool = self.io.pool
        for function in functions.before_events:
            changed = await function.call(pool, client, name, args)
            if changed is not None:
                args = list(changed)
        handler = functions.handlers.get(name)
        if handler is None:
            handler = functions.handlers.get("*")
            if handler is None:
                raise Refuse("there is no handler for this event", data={"code": "event"})
            args = [name, *args]
        call = [client, *args]
        handler.check(call)
        return await handler.call(pool, *call)
