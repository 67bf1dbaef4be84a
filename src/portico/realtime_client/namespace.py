"""One namespace as its client sees it: handlers, events out and in, acknowledgements, its own connection state."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from portico.errors import HandshakeError, LocalError
from portico.realtime_client.errors import ConnectError, Disconnected
from portico.realtime_client.handlers import Handlers, is_async
from portico.realtime_client.offsets import is_offset
from portico.realtime_client.outbox import Emission, Outbox
from portico.wire import socketio

if TYPE_CHECKING:
    from portico.realtime_client.link import Link

EVENT_BYTES: Final = 200  # what an event that waits for its handler weighs besides its text

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Volatile:
    """What `Namespace.volatile` gives: its ``emit`` sends now or not at all."""

    __slots__ = ("_namespace",)

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def emit(self, event: str, *args: Any) -> bool:
        """Send the event if it can go out at this moment; returns whether it did. From the event loop's thread only."""
        return self._namespace._emit_now(event, args)


class Namespace:
    """A namespace of the server. ``client.of("/admin")`` makes one; the client itself is the one of ``namespace=``.

    - ``name``: as "/" or "/admin". ``connected``: whether the server has let us in, and the connection stands.
    - ``id``: the server's name for us in this namespace; None while not connected.
    - ``recovered``: whether the last connect brought everything back that was missed while there was no connection
      (Socket.IO's connection state recovery). Where it is False after a reconnect, events may have been missed.
    """

    def __init__(self, link: Link, name: str, auth: Any) -> None:
        self._link = link
        self._auth = auth
        self.name = name
        self.connected = False
        self.id: str | None = None
        self.recovered = False
        self._wanted = False  # whether it is to be connected whenever there is a session
        self._handlers = Handlers(name)
        self._outbox = Outbox(link.budget)
        self._calls: dict[int, asyncio.Future[list[Any]]] = {}
        self._numbers = itertools.count()
        self._outcome: asyncio.Future[None] | None = None
        self._early: list[tuple[socketio.Packet, int]] = []  # missed events come before the server's CONNECT
        self._pid: str | None = None
        self._offset: str | None = None
        self._connection = 0  # its number: an acknowledgement belongs to one

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {'connected' if self.connected else 'not connected'}>"

    # -- events --------------------------------------------------------------------------------------------------------

    @overload
    def on(self, event: str) -> Callable[[Handler], Handler]: ...

    @overload
    def on(self, event: str, handler: Handler) -> Handler: ...

    def on(self, event: str, handler: Handler | None = None) -> Any:
        """Register the handler of an event; also as a decorator.

        The handlers of a namespace run one after another, in the order of what came; a sync one runs in a thread.
        What it returns is the acknowledgement, where the server asked for one (a tuple: several values). "connect"
        gets nothing, "disconnect" the reason, "connect_error" the error; "*" gets the name and the arguments of
        every other event that has no handler of its own. Raises LocalError for a second handler of one event.
        """
        if handler is not None:
            self._handlers.on(event, handler)
            return handler

        def register(function: Handler) -> Handler:
            self._handlers.on(event, function)
            return function

        return register

    def emit(self, event: str, *args: Any) -> Emission:
        """Send an event: its arguments are anything that JSON can carry, and bytes. From any thread.

        It acts at once and returns an `Emission`, which need not be awaited. Without a connection the event waits in
        the outbox and goes out after the next connect, in order. Raises OutboxFull where that holds too much already,
        LocalError for what can't be sent.
        """
        return self._send(self._event(event, args))

    async def call(self, event: str, *args: Any, timeout: float = 60.0) -> Any:
        """Send an event and wait for its acknowledgement: its value, None where it has none, a tuple of several.

        Raises TimeoutError after `timeout` seconds; then an event that still waited to be sent is not sent any more.
        Raises Disconnected where the connection ends between the event and the answer: whether the server acted on
        it is not known.
        """
        number = next(self._numbers)
        item = self._event(event, args, call=number)
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        try:
            self._send(item)
            async with asyncio.timeout(timeout):
                values = await future
        except TimeoutError:
            raise TimeoutError(f"no acknowledgement of {event!r} within {timeout:g} s") from None
        finally:
            self._calls.pop(number, None)
            self._outbox.drop_call(number)
        return None if not values else values[0] if len(values) == 1 else tuple(values)

    @property
    def volatile(self) -> Volatile:
        """For events that are worth nothing later: ``client.volatile.emit("position", x, y)``."""
        return Volatile(self)

    async def connect(self) -> None:
        """Connect this namespace of a client that is connected. Raises as `RealtimeClient.connect`."""
        await self._link.join(self)

    async def disconnect(self) -> None:
        """Leave this namespace. With the last one the connection ends."""
        await self._link.leave(self)

    # -- out -----------------------------------------------------------------------------------------------------------

    def _event(self, event: Any, args: tuple[Any, ...], call: int | None = None) -> Emission:
        if not isinstance(event, str) or event in socketio.RESERVED:
            raise LocalError(f"emit({event!r}): expected the name of an event, and none of {sorted(socketio.RESERVED)}")
        text, attachments = self._link.packets.encode(socketio.EVENT, self.name, call, [event, *args])
        self._link.check_size(text, attachments)
        return Emission(text, attachments, call=call)

    def _send(self, item: Emission) -> Emission:
        if self._link.ended:
            raise Disconnected("the client was closed: connect() begins anew", reason=self._link.reason)
        self._outbox.put(item, "connected" if self.connected else "not connected")
        self._link.pump_from_any_thread()
        return item

    def _emit_now(self, event: str, args: tuple[Any, ...]) -> bool:
        item = self._event(event, args)
        if not self.connected or self._outbox or not self._link.free:
            return False
        self._link.write(item)
        return True

    def _pump(self) -> None:
        """Hand over what waits, as far as the session takes it."""
        while self._outbox and self.connected and self._link.free:
            self._link.write(self._outbox.next())

    # -- connecting ----------------------------------------------------------------------------------------------------

    async def _ask_auth(self) -> dict[str, Any]:
        """What to say at the next connect, asked anew; with what the server needs for a recovery."""
        auth = self._auth
        if callable(auth):
            auth = await auth() if is_async(auth) else auth()
            if asyncio.iscoroutine(auth) or isinstance(auth, asyncio.Future):
                auth = await auth
        if auth is not None and not isinstance(auth, dict):
            raise LocalError(f"auth= of the namespace {self.name}: expected a dict or None, got {type(auth).__name__}")
        return auth or {}

    def _connect_packet(self, auth: dict[str, Any]) -> tuple[bytes, list[bytes]]:
        if self._pid is not None:
            auth = {"pid": self._pid, **({"offset": self._offset} if self._offset is not None else {}), **auth}
        return self._link.packets.encode(socketio.CONNECT, self.name, None, auth or None)

    def _took(self, packet: socketio.Packet, size: int) -> None:
        """A packet for this namespace."""
        if packet.type == socketio.EVENT:
            if self.connected:
                self._took_event(packet, size)
            elif self._wanted:
                self._link.count_early(size)
                self._early.append((packet, size))
        elif packet.type == socketio.ACK:
            call = self._calls.pop(-1 if packet.id is None else packet.id, None)
            if call is not None and not call.done():
                call.set_result(packet.data)
        elif packet.type == socketio.CONNECT:
            self._took_connect(packet.data or {})
        elif packet.type == socketio.CONNECT_ERROR:
            self._took_refusal(packet.data)
        elif packet.type == socketio.DISCONNECT and self._wanted:
            self._wanted = False
            self._lost("io server disconnect")
            self._link.left(None)

    def _took_connect(self, data: dict[str, Any]) -> None:
        sid, pid = data.get("sid"), data.get("pid")
        if not isinstance(sid, str):
            raise HandshakeError(self._link.old())
        if self.connected or not self._wanted:
            return
        pid = pid if isinstance(pid, str) else None
        self.recovered = pid is not None and pid == self._pid
        if not self.recovered:
            self._offset = None
        self._pid = pid
        self.id = sid
        self.connected = True
        self._connection += 1
        self._handlers.put("connect", [], EVENT_BYTES)
        early, self._early = self._early, []
        for packet, size in early:
            self._took_event(packet, size)
        self._settle(None)
        self._link.joined(self)

    def _took_event(self, packet: socketio.Packet, size: int) -> None:
        event, *args = packet.data
        if self._pid is not None and packet.id is None and args and is_offset(args[-1]):
            self._offset = args.pop()
        answer = None
        if packet.id is not None:
            answer = self._answer(packet.id)
        self._handlers.put(event, args, size + EVENT_BYTES, answer)

    def _answer(self, number: int) -> Callable[[Any], None]:
        connection = self._connection

        def answer(value: Any) -> None:
            if not self.connected or connection != self._connection:
                return  # who asked is gone
            values = list(value) if isinstance(value, tuple) else [] if value is None else [value]
            text, attachments = self._link.packets.encode(socketio.ACK, self.name, number, values)
            self._outbox.put(Emission(text, attachments, ack_of=connection), "connected")
            self._link.pump()

        return answer

    def _took_refusal(self, data: Any) -> None:
        said = data if isinstance(data, dict) else {"message": data}
        message = said.get("message")
        text = message if isinstance(message, str) else "the server refused the namespace"
        error = ConnectError(text, data=said.get("data"), namespace=self.name)
        self._wanted = False
        self._early = []
        self._handlers.put("connect_error", [error], EVENT_BYTES)
        self._settle(error)
        self._link.left(error)

    def _settle(self, error: BaseException | None) -> None:
        outcome, self._outcome = self._outcome, None
        if outcome is not None and not outcome.done():
            if error is None:
                outcome.set_result(None)
            else:
                outcome.set_exception(error)

    def _lost(self, reason: str) -> None:
        """It is connected no more. Calls that were sent fail; what still waits, goes out after the next connect."""
        was, self.connected = self.connected, False
        self.id = None
        self._early = []
        self._outbox.drop_acks()
        for number, call in [*self._calls.items()]:
            if not call.done() and not self._outbox.has_call(number):
                text = f"disconnected ({reason}) before the acknowledgement came"
                call.set_exception(Disconnected(text, reason=reason))
        if was:
            self._handlers.put("disconnect", [reason], EVENT_BYTES)

    def _end(self, reason: str, error: BaseException | None) -> None:
        """It won't be connected again."""
        self._wanted = False
        self._lost(reason)
        self._outbox.drop_all(reason)
        self._pid = self._offset = None
        for call in self._calls.values():
            if not call.done():
                call.set_exception(Disconnected(f"disconnected ({reason}) before it was sent", reason=reason))
        self._settle(error or Disconnected(f"disconnected: {reason}", reason=reason))
