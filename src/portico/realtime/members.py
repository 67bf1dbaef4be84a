"""What every event passes, coming and going: the compiled part of `Client`, `Namespace` and `Realtime`."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from threading import get_ident
from typing import TYPE_CHECKING, Any

from portico.errors import ConnectionClosed, LocalError, Refuse
from portico.realtime import outgoing
from portico.realtime.emissions import Emission, emit, taken_by
from portico.realtime.handlers import Function, Handler
from portico.realtime.outgoing import Outgoing
from portico.realtime.rates import allowed
from portico.realtime.runners import EVENT_BYTES, Runner, Runners
from portico.realtime.unidentified import afford
from portico.wire import socketio
from portico.wire.socketio import ACK, RESERVED

if TYPE_CHECKING:
    from portico.realtime.namespaces import Namespace
    from portico.realtime.realtime import Realtime
    from portico.realtime.recovery import Recovery
    from portico.realtime.sessions import Session

logger = logging.getLogger("portico.realtime")

CONNECTING, CONNECTED, GONE = "connecting", "connected", "gone"

Item = tuple[list[Any], int | None, int]  # an event and its arguments; the id of its acknowledgement; what it weighs


class Here:
    """What every event asks of its `Realtime`. ``limited``: whether any event has a rate."""

    __slots__ = ("_thread", "ending", "limited", "recovery", "resuming", "runners", "running")

    def __init__(self, recovery: Recovery | None, limited: bool) -> None:
        self.recovery = recovery
        self.limited = limited
        self.resuming = 0  # clients whose next task is on its way
        self.running = False
        self.ending = False  # no handler is begun any more
        self.runners: Runners | None = None
        self._thread = 0

    def is_here(self) -> bool:
        """Whether this is the event loop's thread, or there is no loop yet."""
        return not self.running or get_ident() == self._thread


class Functions:
    """What the application does in a namespace, or in all that a pattern stands for."""

    __slots__ = ("before", "before_events", "handlers", "presence", "streams")

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.before: list[Handler] = []
        self.before_events: list[Handler] = []
        self.streams: list[Handler] = []
        self.presence: Handler | None = None


class Group:
    """What a `Namespace` is made of, and the way of its events."""

    __slots__ = ("_head", "functions", "io", "name")

    def __init__(self, io: Realtime, name: str, functions: Functions) -> None:
        self.io = io
        self.name = name
        self.functions = functions
        # What stands before the JSON of an event; empty where that is not all.
        self._head = b"" if io.packets.whole else b"4" + socketio.head(socketio.EVENT, name, None, 0)

    async def _call(self, client: Any, name: str, args: list[Any]) -> Any:
        raise NotImplementedError

    def packed(self, args: tuple[Any, ...]) -> Outgoing:
        """The packet of an event that only clients of this node get, and no history. Raises LocalError."""
        check_name(args[0])
        json = socketio.plain_json(args) if self._head else None
        if json is not None:
            return outgoing.event(self._head + json)
        text, attachments = self.io.packets.event(self.name, None, *socketio.encode_args(args))
        return Outgoing(b"4" + text if text else b"", attachments, droppable=True)

    async def dispatch(self, client: Any, event: list[Any], id: int | None) -> None:
        """Let the application deal with an event, and answer it."""
        name = event[0]
        try:
            function, args = self.wanted(client, event)
            result = await function(*args)
            if id is not None:
                client._answer(id, result)
        except Exception as error:
            self.failed(client, name, id, error)

    def wanted(self, client: Any, event: list[Any]) -> tuple[Function, list[Any]]:
        """What the application wants to be called for an event, and with what, which `event` may become. Raises Refuse
        where its arguments don't fit."""
        handler = self.direct(event[0])
        if handler is None:
            return self._call, [client, event[0], event[1:]]
        event[0] = client
        handler.check(event)
        return handler.function, event

    def direct(self, name: str) -> Handler | None:
        """The handler of an event where nothing but its arguments' check comes before it, as with most."""
        functions = self.functions
        handler = functions.handlers.get(name)
        return None if handler is None or not handler.waits or functions.before_events else handler

    def failed(self, client: Any, name: str, id: int | None, error: Exception) -> None:
        """The application has raised `error` for an event: that is its answer."""
        if isinstance(error, Refuse):
            self._answer_error(client, id, error.reason or "refused", error.data)
        elif not isinstance(error, ConnectionClosed) or client.connected:  # else it was asking a client that has left
            logger.error("the handler of %r in %s failed", name[:100], self.name, exc_info=error)
            self._answer_error(client, id, "internal error")

    def _answer_error(self, client: Any, id: int | None, reason: str, data: Any = None) -> None:
        error = {"error": reason}
        for answer in [error] if data is None else [error | {"data": data}, error]:
            try:
                client._answer(id, answer)
                return
            except LocalError as unsendable:
                logger.error("a Refuse with what can't be sent as JSON", exc_info=unsendable)
        client._answer(id, {"error": "refused"})


class Member:
    """What a `Client` is made of, and the way of its events."""

    __slots__ = ("_early", "_early_bytes", "_inbox", "_working", "id", "namespace", "session", "state")

    def __init__(self, namespace: Namespace, session: Session, id: str) -> None:
        self.namespace = namespace
        self.session = session
        self.id = id
        self.state = CONNECTING
        self._early: list[Outgoing] | None = []  # what it gets when it is connected
        self._early_bytes = 0
        self._inbox: deque[Item] = deque()
        self._working = False  # a task deals with what has come

    @property
    def connected(self) -> bool:
        """Whether it was let in, and has not left."""
        return self.state is CONNECTED

    async def _work(self) -> None:
        raise NotImplementedError

    async def _handle(self, item: Item) -> None:
        raise NotImplementedError

    # -- out -----------------------------------------------------------------------------------------------------------

    def emit(self, event: str, *args: Any) -> Emission:
        """Send it an event, at once and from any thread."""
        namespace = self.namespace
        io = namespace.io
        if io.recovery is None and io.is_here():
            return taken_by(self._send(namespace.packed((event, *args))))
        made = namespace.event("event", [self.id], [], (event, *args))
        return emit(io, lambda: namespace.publish_to(self, made))

    def _send(self, out: Outgoing) -> bool:
        """Give it a packet now, or when it is connected."""
        early = self._early
        session = self.session
        if early is None:
            return self.state is CONNECTED and session.send(out)
        self._early_bytes += out.size
        if self._early_bytes + 1024 > session.engine.options.max_outbox_bytes and early:
            session.overflow(out)
            session.close("transport error", discard=True)  # whatever the policy: it was let in to nothing yet
            return False
        early.append(out)
        return True

    def _answer(self, id: int | None, result: Any) -> None:
        """Acknowledge an event (Socket.IO v5, §Acknowledgement)."""
        if id is None or self.state is not CONNECTED:
            return
        values = [] if result is None else list(result) if isinstance(result, tuple) else [result]
        self.session.channel.send(ACK, self.namespace.name, values, id)

    # -- in ------------------------------------------------------------------------------------------------------------

    def _receive(self, event: list[Any], id: int | None, size: int) -> None:
        namespace = self.namespace
        io = namespace.io
        if io.limited and not allowed(self, event[0], id):
            return
        session = self.session
        connected = self.state is CONNECTED
        if connected:
            handler = namespace.functions.handlers.get(event[0])
            if handler is not None and handler.concurrent:
                session.hold(size + EVENT_BYTES)
                io.spawn(self._handle((event, id, size)))
                return
            if not self._working and io.runners is not None and self._at_once(io.runners, event, id, size):
                return
        session.hold(size + EVENT_BYTES)
        self._inbox.append((event, id, size))
        if not self._working:
            self._begin()
        elif not connected and self.state is CONNECTING:
            afford(session, size)

    def _at_once(self, runners: Runners, event: list[Any], id: int | None, size: int) -> bool:
        """Deal with an event here and now, as far as that goes without waiting; False where that can't be."""
        runner = runners.enter()
        if runner is None:
            return False
        self._working = True
        name = event[0]
        lost: BaseException | None = None  # what no answer tells
        try:
            try:
                value = self._step(runner, event)
                if id is not None and runner.begun is None:
                    self._answer(id, value)
            except Exception as error:
                runner.within(self.namespace.failed, self, name, id, error)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            lost = error
        runners.leave(runner)
        if runner.begun is not None:
            runner.go_on(self, name, id, size + EVENT_BYTES)
        elif self._inbox or self.state is not CONNECTED:
            self._interrupted()  # what has come meanwhile, and its end
        else:
            self._working = False
        if lost is not None:
            runners.lost(lost)
        return True

    def _step(self, runner: Runner, event: list[Any]) -> Any:
        """Let the application begin with an event; returns what it has returned."""
        namespace = self.namespace
        handler = namespace.direct(event[0])
        if handler is not None and handler.fits(event):
            event[0] = self
            return runner.step(handler.function, event)
        function, args = runner.within(namespace.wanted, self, event)
        return runner.step(function, args)

    def _interrupted(self) -> None:
        """What dealt with its events has ended: another task goes on with what has come, and with its end."""
        if (self._inbox or self.state is GONE) and not self.namespace.io.ending:
            self.namespace.io.resuming += 1
            asyncio.get_running_loop().call_soon(self._resume)  # a task may begin at once: never one within another
        else:
            self._working = False

    def _resume(self) -> None:
        self.namespace.io.resuming -= 1
        self._working = False
        if not self.namespace.io.ending:
            self._begin()

    def _begin(self) -> None:
        self._working = True
        self.namespace.io.begin_work(self._work())


def check_name(name: Any) -> None:
    """Raise LocalError where no event may be called so."""
    if not isinstance(name, str) or name in RESERVED:
        raise LocalError(f"event {name!r}: expected a name, and none of {', '.join(sorted(RESERVED))}")


def channel_of(namespace: str, room: str) -> str:
    """The broker's channel of a room."""
    return f"{namespace}\0{room}"
