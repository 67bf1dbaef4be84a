"""`Realtime`: events, rooms and recovery for Socket.IO clients. It owns the namespaces, and is one node of a broker."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from portico.accounting import Counters
from portico.brokers import Broker, Gap, Message
from portico.brokers.memory import MemoryBroker
from portico.errors import LocalError
from portico.realtime.arrivals import Arrivals
from portico.realtime.emissions import Audience, Selection
from portico.realtime.engine import Engine, EngineCounters, EngineOptions, Mounted, OnSlow
from portico.realtime.events import Event
from portico.realtime.feeds import Feeds
from portico.realtime.handlers import Function, Handler, Pool
from portico.realtime.history import History
from portico.realtime.members import Functions, Here
from portico.realtime.namespaces import Namespace
from portico.realtime.presence import Attendance, Presence
from portico.realtime.rates import Rate, check_rate
from portico.realtime.recovery import Recovery
from portico.realtime.room import Room
from portico.realtime.runners import Runners
from portico.realtime.streams import Streams
from portico.realtime.tickets import Tickets
from portico.realtime.unidentified import Unidentified
from portico.server.app import Authenticate, Mountable, Options, Origins
from portico.server.eager import Spawn, spawners
from portico.wire.formats import Name as PacketFormat
from portico.wire.formats import format_named

logger = logging.getLogger("portico.realtime")

AnyFunction = TypeVar("AnyFunction", bound=Function)
END_S = 5.0  # how long handlers have, when the server stops


class Realtime(Here, Tickets, Audience, Mountable):
    """Events for the official Socket.IO clients, over WebSocket and long-polling.

    ::

        io = portico.Realtime()

        @io.on("chat")
        async def chat(client, text):
            await io.to("lobby").emit("chat", text)

        app.mount("/socket.io", io)

    It is the namespace ``/``, and `of` has the others.

    - `ping_interval_s` (25), `ping_timeout_s` (20): the heartbeat, on both transports.
    - `max_payload_bytes` (1,000,000): a message, a polling request, an event with its attachments.
    - `connect_timeout_s` (45): for a session to connect to a namespace. `upgrade_timeout_s` (10): from polling to
      WebSocket, once that is open.
    - `max_outbox_bytes` (1 MiB): what may wait for one client; `on_slow` says what becomes of more: ``"close"`` its
      session, ``"drop_oldest"`` or ``"drop_newest"`` of its events. `max_unread_bytes` (256 KiB): what one client has
      sent and no handler has taken; then reading pauses.
    - `origins`, `authenticate`: as for `portico.serve`; they take the place of the server's.
    - `rate`: a `Rate` for all events of a client; `connect_rate`: one for the sessions and namespaces that an address
      asks for, each of which counts one. None (the default): no bound.
    - `unidentified`: an `Unidentified`, what a session may have that is connected to no namespace yet.
    - `recovery`: a `Recovery`, for clients that come back; None (the default) for none.
    - `history`: a `History`: which rooms keep what is emitted to them; None (the default) for none.
    - `presence`: a `Presence`: who is in which room; None (the default) for none.
    - `broker`: what joins it with other nodes; by default there are none.
    - `handler_threads` (32): for handlers that are plain functions.
    - `packets`: ``"json"``, or ``"msgpack"`` for clients that have a msgpack parser: all of them must then.
    """

    path = "/socket.io"

    def __init__(
        self,
        *,
        ping_interval_s: float = 25.0,
        ping_timeout_s: float = 20.0,
        max_payload_bytes: int = 1_000_000,
        connect_timeout_s: float = 45.0,
        upgrade_timeout_s: float = 10.0,
        max_outbox_bytes: int = 1024 * 1024,
        max_unread_bytes: int = 256 * 1024,
        on_slow: OnSlow = "close",
        origins: Origins = None,
        authenticate: Authenticate | None = None,
        rate: Rate | None = None,
        connect_rate: Rate | None = None,
        unidentified: Unidentified | None = None,
        recovery: Recovery | None = None,
        history: History | None = None,
        presence: Presence | None = None,
        broker: Broker | None = None,
        handler_threads: int = 32,
        packets: PacketFormat = "json",
    ) -> None:
        options = EngineOptions(
            ping_interval_s=ping_interval_s,
            ping_timeout_s=ping_timeout_s,
            max_payload_bytes=max_payload_bytes,
            connect_timeout_s=connect_timeout_s,
            upgrade_timeout_s=upgrade_timeout_s,
            max_outbox_bytes=max_outbox_bytes,
            max_unread_bytes=max_unread_bytes,
            on_slow=on_slow,
            origins=origins,
            unidentified=Unidentified() if unidentified is None else unidentified,
        )
        if recovery is not None and not isinstance(recovery, Recovery):
            raise LocalError(f"Realtime(recovery={recovery!r}): expected a portico.realtime.Recovery, or None")
        if presence is not None and not isinstance(presence, Presence):
            raise LocalError(f"Realtime(presence={presence!r}): expected a portico.realtime.Presence, or None")
        self.authenticate = authenticate
        Here.__init__(self, recovery, rate is not None)
        self.attendance = Attendance(self, presence) if presence is not None else None
        self.feeds = Feeds(self, history) if history is not None else None
        self.streams = Streams(self)
        self.slow: Handler | None = None  # whom to tell of clients that do not keep up
        self.broker = broker if broker is not None else MemoryBroker()
        self.packets = format_named(packets, "Realtime")
        self.engine = Engine(self, options, check_rate(connect_rate, "Realtime"))
        self.rate = check_rate(rate, "Realtime")
        self.pool = Pool(handler_threads)
        self._root = Namespace(self, "/")
        self._namespaces: dict[str, Namespace] = {"/": self._root}
        self._patterns: list[tuple[re.Pattern[str], Functions]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._servers = 0
        self._starting: asyncio.Future[None] | None = None
        self._spawn: Spawn | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._asked: dict[int, Answers] = {}
        self._numbers = itertools.count(1)

    # -- for the application -------------------------------------------------------------------------------------------

    def on(self, event: str, handler: Any = None, *, concurrent: bool = False, rate: Rate | None = None) -> Any:
        """Call `handler` for each `event` in the namespace ``/``; see `Namespace.on`."""
        return self._root.on(event, handler, concurrent=concurrent, rate=rate)

    def use(self, function: AnyFunction) -> AnyFunction:
        """Call ``function(client, auth)`` before each ``connect``; see `Namespace.use`."""
        return self._root.use(function)

    def use_events(self, function: AnyFunction) -> AnyFunction:
        """Call ``function(client, event, args)`` before each handler; see `Namespace.use_events`."""
        return self._root.use_events(function)

    def use_streams(self, function: AnyFunction) -> AnyFunction:
        """Open rooms of ``/`` to those who follow them by Server-Sent Events or polling, with ``function(request,
        room)``; see `Namespace.use_streams`."""
        return self._root.use_streams(function)

    def on_presence(self, function: AnyFunction) -> AnyFunction:
        """Call ``function(room, member, joined)`` when somebody has joined or left a room; see
        `Namespace.on_presence`."""
        return self._root.on_presence(function)

    def on_slow(self, function: AnyFunction) -> AnyFunction:
        """Call ``function(client, slow)`` when a client no longer keeps up, once a second while it goes on losing
        events, and when it has caught up: `slow` is a `Slow`. Also a decorator."""
        if self.slow is not None:
            raise LocalError("on_slow: there is such a function already")
        self.slow = Handler(function)
        return function

    def of(self, name: str) -> Namespace:
        """The namespace `name`, which begins with ``/``; it is there from now on."""
        if not isinstance(name, str) or not name.startswith("/") or not {",", "?", "\0"}.isdisjoint(name):
            raise LocalError(f"of({name!r}): expected a name like '/admin', or matching() for a pattern")
        namespace = self._namespaces.get(name)
        if namespace is None:
            functions = self._matching(name)
            namespace = self._namespaces[name] = Namespace(self, name, functions)
        namespace.keep = True  # also one that a client has made: who has it here may go on asking it
        return namespace

    def matching(self, pattern: str | re.Pattern[str]) -> Namespace:
        """The functions for all namespaces whose whole name fits `pattern`; each of them is made when a client comes.

        What is returned has `on`, `use` and `use_events`; ``client.namespace`` is the one that a client is in.
        """
        compiled = re.compile(pattern)
        for known, functions in self._patterns:
            if known == compiled:
                return Pattern(self, compiled.pattern, functions)
        functions = Functions()
        self._patterns.append((compiled, functions))
        return Pattern(self, compiled.pattern, functions)

    @property
    def clients(self) -> Mapping[str, Any]:
        """The clients of ``/`` on this node, by id."""
        return self._root.clients

    @property
    def rooms(self) -> dict[str, int]:
        """The rooms of ``/`` on this node, and how many clients are in each."""
        return self._root.rooms

    def room(self, name: str) -> Room:
        """The room `name` of ``/``: those who are in it, and its ``presence``."""
        return self._root.room(name)

    @property
    def counters(self) -> EngineCounters:
        """What was dropped, refused and ended since the start."""
        return self.engine.counters

    def background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine until it ends, or the server does; what it raises is logged."""
        try:
            return self.spawn(_logged(work))
        except LocalError:
            work.close()
            raise

    def _select(self) -> Selection:
        return Selection(self._root)

    def __repr__(self) -> str:
        return f"<Realtime: {len(self.engine.sessions)} sessions, {len(self.streams)} streams>"

    # -- where it is served --------------------------------------------------------------------------------------------

    def bound(self, options: Options, counters: Counters) -> Mounted:
        """This under one server's options."""
        return Mounted(self, options, counters)

    async def begin(self, *, server: bool = False) -> None:
        """Run on this event loop, where that is not so already; for one more server, if that is said."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or not (self.running or self._starting):
            if self.running and self._loop is not None and not self._loop.is_closed():
                raise LocalError("this Realtime is served on another event loop: each needs one of its own")
            self._loop = loop
            self._thread = threading.get_ident()
            _, self._spawn = spawners(loop, "realtime handler")
            self._starting = loop.create_future()
            try:
                self.engine.start()
                self.runners = Runners(self.engine.reactor, self._spawn, self._tasks)
                if not self.broker.node:
                    await self.broker.open(Arrivals(self), type=Event)
            except BaseException:
                self._starting.cancel()
                self._starting = self._loop = None
                raise
            self.running = True
            self.ending = False
            self._starting.set_result(None)
        elif self._starting is not None and not self._starting.done():
            await asyncio.shield(self._starting)
        self._servers += server

    async def end(self) -> None:
        """A server has stopped. With the last one end all sessions, let handlers end, leave the broker."""
        self._servers -= 1
        if self._servers > 0 or not self.running:
            return
        self.engine.stop()
        if self.runners is not None:
            await self.runners.stop()
        if self.feeds is not None:
            self.feeds.stop()
        if self.attendance is not None:
            self.attendance.end()
        by = asyncio.get_running_loop().time() + END_S
        while (tasks := self._others()) or self.resuming:
            left = by - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await (asyncio.wait(tasks, timeout=left) if tasks else asyncio.sleep(0))
        self.ending = True
        late = self._others()
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)
        self.running = False
        self._starting = None
        if self.feeds is not None:
            self.feeds.clear()
        await self.broker.close()
        for namespace in self._namespaces.values():
            namespace.forget_subscriptions()
        self.pool.close()
        self._loop = self._spawn = None

    def _others(self) -> set[asyncio.Task[Any]]:
        return {task for task in self._tasks if task is not asyncio.current_task()}

    def soon(self, act: Callable[[], object]) -> None:
        """Do it on the event loop's thread; from any."""
        if self._loop is None:
            raise LocalError("this Realtime is not being served: mount it in a portico.App")
        self._loop.call_soon_threadsafe(act)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a task of this Realtime."""
        if self._spawn is None:
            work.close()
            raise LocalError("this Realtime is not being served: mount it in a portico.App")
        task = self._spawn(work)
        if task.done():
            return task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def begin_work(self, work: Coroutine[Any, Any, None]) -> None:
        """`spawn` for a coroutine that calls `end_work` at its end: what every event costs."""
        if self._spawn is None:
            work.close()
            raise LocalError("this Realtime is not being served: mount it in a portico.App")
        task = self._spawn(work)
        if not task.done():
            self._tasks.add(task)

    def end_work(self) -> None:
        """The running task is over."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.discard(task)

    # -- namespaces ----------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Namespace | None:
        """The namespace that a client asks for; one that a pattern stands for is made now."""
        namespace = self._namespaces.get(name)
        if namespace is None:
            functions = self._matching(name)
            if functions is not None:
                namespace = self._namespaces[name] = Namespace(self, name, functions)
        return namespace

    def _matching(self, name: str) -> Functions | None:
        if not name.startswith("/") or "\0" in name:
            return None  # whatever the pattern is: a client names it, and channels are told apart by both
        for pattern, functions in self._patterns:
            if pattern.fullmatch(name):
                return functions
        return None

    def functions_of(self, name: str) -> Functions | None:
        """The functions of a namespace, or of one that a pattern stands for; None makes it unknown."""
        namespace = self._namespaces.get(name)
        return self._matching(name) if namespace is None else namespace.functions

    def hosts_room(self, name: str, room: str) -> bool:
        """Whether a room's channel is hosted for clients of this node."""
        namespace = self._namespaces.get(name)
        return namespace is not None and room in namespace._rooms and namespace._has_channel(room)

    def forget(self, namespace: Namespace) -> None:
        """Nobody is in a namespace that a pattern stands for."""
        if self._namespaces.get(namespace.name) is namespace:
            del self._namespaces[namespace.name]

    # -- other nodes ---------------------------------------------------------------------------------------------------

    def on_message(self, message: Message) -> int:
        """The broker brought something."""
        event: Event = message.data
        if event.kind == "answer":
            answers = self._asked.get(event.id)
            if answers is not None:
                answers.add(event.data)
            return 0
        if self.feeds is not None and message.kept:
            self.feeds.deliver(message)
            if event.kind == "kept":
                return 0
        namespace = self._namespaces.get(event.namespace)
        return 0 if namespace is None else namespace.deliver(message)

    def on_gap(self, gap: Gap) -> None:
        """Events are missing. Clients that could be recovered come back and are told; of the others nobody can know."""
        if self.attendance is not None:
            self.attendance.on_gap(gap)
        if self.feeds is not None:
            self.feeds.on_gap(gap)
        if self.recovery is None:
            return
        for namespace in list(self._namespaces.values()):
            if gap.channel is None or gap.channel == namespace.name:
                namespace.wake()
                for client in list(namespace.clients.values()):
                    client.session.close("transport error")

    def reply(self, asked: Event, data: Any) -> None:
        """Answer what a node has asked: another one, or this."""
        if not self.running:
            return
        answer = Event("answer", asked.namespace, id=asked.id, data=data)
        try:
            self.broker.publish(asked.reply, answer)
        except LocalError as error:
            if asked.kind != "fetch":
                raise
            logger.error("fetch() on another node gets no client.data of this one: %s", error)
            answer.data = [[id, rooms, {}] for id, rooms, _ in data]
            self.broker.publish(asked.reply, answer)

    async def ask(self, event: Event, timeout_s: float) -> list[Any]:
        """The answers of all nodes that have clients of the namespace."""
        if not self.running:
            return []
        hosts = await self.broker.hosts(event.namespace)
        if not hosts:
            return []
        event.id = next(self._numbers)
        event.reply = self.broker.inbox
        answers = self._asked[event.id] = Answers(len(hosts))
        try:
            self.broker.publish(event.namespace, event)
            await answers.wait(timeout_s + 1.0)
        finally:
            del self._asked[event.id]
        return answers.parts


class Answers:
    """What nodes have answered."""

    def __init__(self, expected: int) -> None:
        self.parts: list[Any] = []
        self._expected = expected
        self._all = asyncio.Event()

    def add(self, part: Any) -> None:
        """One node's part."""
        self.parts.append(part)
        if len(self.parts) >= self._expected:
            self._all.set()

    async def wait(self, timeout_s: float) -> None:
        """Until all have answered, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._all.wait()
        except TimeoutError:
            logger.warning("%d of %d nodes have answered in time", len(self.parts), self._expected)


class Pattern(Namespace):
    """The functions of many namespaces: it has no clients itself."""

    def _select(self) -> Selection:
        raise LocalError(f"the pattern {self.name!r} stands for many namespaces: emit to one, of(name)")


async def _logged(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except Exception:
        logger.exception("work in the background failed")
