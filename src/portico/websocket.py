"""The WebSocket that a user holds: the same class on both sides, over a stream, after the handshake.

Callbacks at the bottom, awaitables on top: what comes is handed to an `Endpoint` at once, or put into an `Inbox` for
the one coroutine that reads with `recv()` or `async for`. Pings, pongs, the closing handshake, deadlines and limits
work although nobody reads. Closing runs one clean-up, once, with one typed `Close`.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from portico.accounting import Cost, Counters
from portico.codes import Close
from portico.errors import ConnectionClosed, LimitExceeded, LocalError
from portico.limits import Keepalive, Limits
from portico.net.stream import Protocol, Stream
from portico.net.timers import NEVER
from portico.wire.messages import Closing, Failed, Messages, Ping, Pong

if TYPE_CHECKING:
    from portico.wire.request import Request

logger = logging.getLogger("portico.websocket")

MESSAGE_COST: Final = 64  # what an unread message weighs besides its bytes: the object, its place in the queue
LOOKAHEAD_BYTES: Final = 64 * 1024
PEEK_S: Final = 1.0
LAG_S: Final = 1.0

_ids = itertools.count(1)
_id_prefix = secrets.token_hex(4)


class Sent(enum.Enum):
    """What became of a message given to `WebSocket.write`."""

    DONE = "done"  # taken, and the outbox is below the high-water mark
    QUEUED = "queued"  # taken, but the peer is slow: the outbox is above the high-water mark
    DROPPED = "dropped"  # not taken: it would not fit the outbox; the connection is being closed with 1008
    CLOSED = "closed"  # not taken: the connection is closing or closed


DONE = Sent.DONE
QUEUED = Sent.QUEUED
DROPPED = Sent.DROPPED
GONE = Sent.CLOSED


class Endpoint:
    """Callbacks for WebSocket connections. One instance serves every connection; keep a connection's own things in
    ``ws.state``. The methods are plain functions: they must not wait. One that raises closes its connection with 1011
    and is logged once."""

    def on_open(self, ws: WebSocket) -> None:
        """The connection is established."""

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        """A message came: str for text, bytes for binary."""

    def on_close(self, ws: WebSocket, close: Close) -> None:
        """The connection has ended; called exactly once after `on_open`."""


class Settings:
    """What every connection of one route shares, ready for the hot path."""

    __slots__ = (
        "assembly_timeout",
        "close_timeout",
        "counters",
        "limits",
        "max_outbox",
        "max_unread",
        "ping_interval",
        "ping_timeout",
    )

    def __init__(self, limits: Limits, keepalive: Keepalive | None, counters: Counters | None = None) -> None:
        self.limits = limits
        self.counters = counters or Counters()
        self.max_outbox = limits.max_outbox_bytes
        self.max_unread = limits.max_unread_bytes
        self.assembly_timeout = limits.assembly_timeout_s
        self.close_timeout = limits.close_timeout_s
        self.ping_interval = keepalive.ping_interval_s if keepalive else NEVER
        self.ping_timeout = keepalive.ping_timeout_s if keepalive else NEVER


class Finished:
    """What `send` returns when there is nothing to wait for; awaiting it costs next to nothing."""

    __slots__ = ()

    def __await__(self) -> Finished:
        return self

    def __iter__(self) -> Finished:
        return self

    def __next__(self) -> None:
        raise StopIteration

    def send(self, value: object) -> None:
        raise StopIteration

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> None:
        raise kind if value is None else value

    def close(self) -> None:
        pass


FINISHED = Finished()


class Ending(Coroutine[Any, Any, None]):
    """What `close` returns: the closing is under way already, and awaiting this waits until it is over."""

    __slots__ = ("_steps", "_ws")

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self._steps: Generator[Any, None, None] | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait()

    def _wait(self) -> Generator[Any, None, None]:
        future = self._ws._end_future()
        if future is not None:
            yield from future

    def send(self, value: Any) -> Any:
        if self._steps is None:
            self._steps = self._wait()
        return self._steps.send(value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        if self._steps is None:
            self._steps = self._wait()
        return self._steps.throw(kind if value is None else value)

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()


class Cancellation:
    """What wakes the task whose wait in `recv()` was cancelled, and no other."""

    __slots__ = ("_error",)

    def __init__(self, error: asyncio.CancelledError) -> None:
        self._error = error

    def result(self) -> None:
        raise self._error


class PendingPong(bytes):
    """A pong in the outbox of a slow peer: the next one takes its place."""


class Inbox:
    """Messages received and not yet taken, and the one task that waits for them.

    It is its own awaitable and its own future, one object for the connection's life. asyncio's Task waits on anything
    with `_asyncio_future_blocking`, `add_done_callback` and `result`, so the reactor can run the waiting task's next
    step within its turn, in the task's context, when no other task is running. Cancelling a wait takes no message.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_context",
        "_queue",
        "_ws",
        "cost",
        "iterating",
        "reading_on",
        "task",
    )

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self._queue: deque[str | bytes] | None = None
        self.cost = 0  # what the queue weighs in bytes
        self.iterating = False
        self.reading_on = False  # WebSocket._read_on is due
        self.task: asyncio.Task[Any] | None = None  # the coroutine handler's, where a server runs one
        self._asyncio_future_blocking: bool | None = None  # None, and so a coroutine to asyncio, until a task waits
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None

    def put(self, message: str | bytes) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(message)
        self.cost += len(message) + MESSAGE_COST

    def wake(self) -> None:
        """Let the waiting task, if there is one, take its next step: now, where that is possible."""
        callback = self._callback
        if callback is None:
            return
        context = self._context
        self._callback = None
        self._context = None
        reactor = self._ws.stream.reactor
        if reactor.in_turn and context is not None and asyncio.current_task(reactor.loop) is None:
            context.run(callback, self)
        else:
            reactor.loop.call_soon(callback, self, context=context)

    # what `await` uses

    def __await__(self) -> Inbox:
        return self

    def __iter__(self) -> Inbox:
        return self

    def __next__(self) -> Inbox:
        if self._queue:
            message = self._queue.popleft()
            self.cost -= len(message) + MESSAGE_COST
            if not self._queue:
                self._queue = None
            self._ws._taken(self.cost)
            raise StopIteration(message)
        close = self._ws.closed
        if close is not None:
            raise StopAsyncIteration if self.iterating else ConnectionClosed(close)
        if self._callback is not None:
            raise LocalError("recv() while another task waits in recv(): expected one reader for a connection")
        self._asyncio_future_blocking = True
        return self

    def send(self, value: object) -> Inbox:
        return self.__next__()

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> None:
        raise kind if value is None else value

    def close(self) -> None:
        pass

    # what a Task uses of the object that it waits on

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._ws.stream.reactor.loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        self._asyncio_future_blocking = None
        self._callback = callback
        self._context = context

    def result(self) -> None:
        pass

    def cancel(self, msg: Any = None) -> bool:
        callback = self._callback
        if callback is None:
            return False
        self._callback = None
        error = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self.get_loop().call_soon(callback, Cancellation(error), context=self._context)
        self._context = None
        return True


class WebSocket(Protocol):
    """One WebSocket connection.

    - ``request``: the upgrade request: method, path, query, headers, cookies, client.
    - ``subprotocol``: the agreed one, or None.
    - ``user``: what ``authenticate`` returned, or None. ``state``: yours.
    - ``latency``: round trip of the last answered ping in seconds, or None.
    - ``stream``: the connection below; ``client``: whether this is the client's end.
    """

    __slots__ = (
        "__weakref__",
        "_drain",
        "_due",
        "_end",
        "_keepalive_id",
        "_next_ping",
        "_number",
        "_our_close",
        "_ping_id",
        "_ping_sent",
        "_pings",
        "_pong_due",
        "_told",
        "closed",
        "endpoint",
        "inbox",
        "latency",
        "request",
        "rooms",
        "sending",
        "settings",
        "state",
        "stream",
        "subprotocol",
        "user",
        "wire",
    )

    def __init__(
        self,
        stream: Stream,
        wire: Messages,
        settings: Settings,
        endpoint: Endpoint,
        request: Request,
        *,
        subprotocol: str | None = None,
        user: Any = None,
        pull: bool = False,
    ) -> None:
        self.stream = stream
        self.wire = wire
        self.settings = settings
        self.endpoint = endpoint
        self.request = request
        self.subprotocol = subprotocol
        self.user = user
        self.state: Any = None
        self.closed: Close | None = None
        self.sending = True  # messages may be sent: no close frame of ours is out, and the connection has not ended
        self.latency: float | None = None
        self.rooms: set[Any] | None = None
        self.inbox = Inbox(self) if pull else None
        self._number = next(_ids) & 0xFFFFFFFF
        self._our_close: Close | None = None
        self._told = False
        self._drain: deque[asyncio.Future[None]] | None = None
        self._end: asyncio.Future[None] | None = None
        self._pings: dict[bytes, tuple[asyncio.Future[float], float]] | None = None
        self._ping_id = 0
        self._ping_sent = 0.0  # when the oldest unanswered keepalive ping went out; 0 where there is none
        self._keepalive_id = 0  # the number of that ping
        self._pong_due: bytes | None = None  # while reading: payload of the latest ping that a slow peer sent
        self._next_ping = NEVER
        self._due = NEVER  # by when the message under assembly has to be whole; of a closing connection, TCP's end

    def begin(self, tail: bytes = b"") -> None:
        """The handshake is complete: take over the stream, tell the endpoint, and read `tail`, which came with it."""
        self.stream.protocol = self
        self._next_ping = self.stream.reactor.clock() + self.settings.ping_interval
        self.stream.reactor.wheel.schedule(self.stream, self._next_ping)
        try:
            self.endpoint.on_open(self)
        except (Exception, asyncio.CancelledError) as error:
            self.callback_failed(error)
        if tail and self.stream.open:
            self.received(bytearray(tail), len(tail))

    def begin_later(self, tail: bytes) -> None:
        """`begin` for a paused stream whose user gets this object first: `tail`, and what comes after it, is read when
        the user has had the chance to wait for it."""
        self.begin()
        self.stream.reactor.soon(lambda: self._go_on(tail))

    def _go_on(self, tail: bytes) -> None:
        stream = self.stream
        if tail and stream.open:
            self.received(bytearray(tail), len(tail))
        if stream.open and not self._full():
            stream.resume()

    # -- facts ---------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """A name for this connection, unique among processes too."""
        return f"{_id_prefix}-{self._number:x}"

    @property
    def buffered(self) -> int:
        """Bytes that wait in the outbox."""
        return self.stream.buffered

    @property
    def client(self) -> bool:
        """Whether this is the client's end."""
        return bool(self.wire.client)

    @property
    def cost(self) -> Cost:
        """What this connection holds in memory for its peer at this moment."""
        return Cost(
            unread=0 if self.inbox is None else self.inbox.cost,
            assembly=self.wire.held(),
            inflating=0 if self.wire.codec is None else self.wire.codec.held,
            outbox=self.stream.buffered,
        )

    def __repr__(self) -> str:
        what = "open" if self.closed is None else f"closed {self.closed}"
        return f"<WebSocket {self.id} {what}>"

    # -- sending -------------------------------------------------------------------------------------------------

    def write(self, message: str | bytes | bytearray | memoryview) -> Sent:
        """Send a message without waiting: str as text, bytes as binary. From the event loop's thread only.

        Returns a `Sent`. A peer so slow that the message doesn't fit the outbox any more
        (``Limits.max_outbox_bytes``) is closed with 1008; one that is not slow gets any message. Raises LocalError for
        a message of another type.
        """
        if not self.sending:
            return GONE
        stream = self.stream
        frame = self.wire.encode(message)
        if stream.buffered > stream.high_water and stream.buffered + len(frame) > self.settings.max_outbox:
            if not stream.blocked:
                stream.flush()  # it may be only we who have not written yet
            if stream.buffered > stream.high_water and stream.buffered + len(frame) > self.settings.max_outbox:
                self.too_slow()
                return DROPPED
            if stream.gone:
                return GONE
        stream.write(frame)
        if stream.buffered > stream.high_water:
            return QUEUED
        return DONE

    def send(self, message: str | bytes | bytearray | memoryview) -> Coroutine[Any, Any, None]:
        """Send a message: str as text, bytes as binary. Await the result: it waits while the outbox is above
        ``Limits.high_water_bytes``.

        Cancelling is safe: the message goes out whole or not at all. Many tasks may send at once. Raises
        ConnectionClosed when the connection is closing or closed, LocalError for a message of another type.
        """
        if not self.sending:
            raise ConnectionClosed(self._why())
        stream = self.stream
        if self._drain is not None or stream.buffered > stream.high_water:
            return self._send_later(message)
        stream.write(self.wire.encode(message))
        return FINISHED

    async def _send_later(self, message: str | bytes | bytearray | memoryview) -> None:
        stream = self.stream
        future: asyncio.Future[None] | None = None
        try:
            if self.sending and (self._drain is not None or stream.buffered > stream.high_water):
                future = stream.reactor.loop.create_future()
                if self._drain is None:
                    self._drain = deque()
                self._drain.append(future)
                await future
            if not self.sending:
                raise ConnectionClosed(self._why())
            stream.write(self.wire.encode(message))
        finally:
            if future is not None and self._drain is not None:
                self._drain.remove(future)
                if not self._drain:
                    self._drain = None
                elif stream.buffered <= stream.high_water:
                    self.drained()  # it is the next one's turn

    def drained(self) -> None:
        waiting = self._drain
        if waiting and not waiting[0].done():  # it stays the first until it has sent
            waiting[0].set_result(None)

    def too_slow(self) -> None:
        """The outbox is full: drop what is in it and close with 1008."""
        self.stream.drop_unsent()
        reason = f"peer too slow: over {self.settings.max_outbox} bytes unsent"
        cause = LimitExceeded(reason, limit="max_outbox_bytes", close_code=1008)
        self._close_now(1008, reason, linger=True, cause=cause)

    async def ping(self) -> float:
        """Send a ping and wait for its pong; returns the round trip in seconds. Raises ConnectionClosed."""
        if not self.sending:
            raise ConnectionClosed(self._why())
        future: asyncio.Future[float] = self.stream.reactor.loop.create_future()
        payload = self._next_ping_payload()
        if self._pings is None:
            self._pings = {}
        self._pings[payload] = future, self.stream.reactor.clock()
        self.stream.write(self.wire.ping(payload))
        try:
            return await future
        finally:
            if self._pings is not None:
                self._pings.pop(payload, None)

    def _next_ping_payload(self) -> bytes:
        self._ping_id += 1
        return self._ping_id.to_bytes(8, "big")

    # -- receiving -----------------------------------------------------------------------------------------------

    def recv(self) -> Coroutine[Any, Any, str | bytes]:
        """The next message: str for text, bytes for binary. Cancelling is safe: no message is lost.

        Raises ConnectionClosed when the connection has ended and everything that came before has been taken. One
        task may wait at a time; a second one gets a LocalError, and so does a connection with an `Endpoint`.
        """
        if self.inbox is None:
            raise LocalError("recv() on a connection whose Endpoint gets the messages: use on_message")
        if self.inbox._callback is None:  # else another task waits, and this one will get an error
            self.inbox.iterating = False
        return self.inbox

    def __aiter__(self) -> WebSocket:
        return self

    def __anext__(self) -> Coroutine[Any, Any, str | bytes]:
        if self.inbox is None:
            raise LocalError("'async for' on a connection whose Endpoint gets the messages: use on_message")
        if self.inbox._callback is None:
            self.inbox.iterating = True
        return self.inbox

    def received(self, data: bytearray, size: int) -> None:
        self._dispatch(self.wire.scan(data, size))
        if self.wire.pending():
            self._dispatch_rest()

    def _dispatch_rest(self) -> None:
        """Deal with what came and was not scanned yet, a bounded part at a time, unless nobody takes it."""
        while self.wire.pending() and self.stream.open and not self._full():
            self._dispatch(self.wire.scan(bytearray(), 0))

    def _full(self) -> bool:
        """Whether as much is unread as may be; a closing connection drops what is more instead."""
        return self.inbox is not None and self._our_close is None and self.inbox.cost > self.settings.max_unread

    def _read_on(self) -> None:
        """There is room again, or the connection closes: what came first, then reading."""
        if self.inbox is not None:
            self.inbox.reading_on = False
        if self.stream.open:
            self._dispatch_rest()
        if self.stream.open and not self._full():
            self.stream.resume()

    def _dispatch(self, events: list[object]) -> None:
        inbox = self.inbox
        endpoint = self.endpoint
        completed = False
        for event in events:
            kind = type(event)
            if kind is bytes or kind is str:
                completed = True
                if inbox is not None:
                    if self._our_close is None or inbox.cost <= self.settings.max_unread:
                        inbox.put(event)  # type: ignore[arg-type] # its type was just looked at
                    continue
                try:
                    endpoint.on_message(self, event)  # type: ignore[arg-type] # its type was just looked at
                except (Exception, asyncio.CancelledError) as error:
                    self.callback_failed(error)
                    break
                if self._told:
                    return
            else:
                self._control(event)
        if self.wire.assembling():
            self._assembly_deadline(completed)
        elif self.sending:
            self._due = NEVER
        if self._pong_due is not None:
            payload, self._pong_due = self._pong_due, None
            self._late_pong(payload)
        if inbox is not None:
            if self._full() and self.stream.open:
                self._pause()
            inbox.wake()

    def _control(self, event: object) -> None:
        if isinstance(event, Ping):
            if self.stream.buffered > self.stream.high_water or self.stream.blocked:
                self._pong_due = event.payload  # of several, the latest is answered (RFC 6455 §5.5.3)
            else:
                self._pong(event.payload)
        elif isinstance(event, Pong):
            self._ponged(event.payload)
        elif isinstance(event, Closing):
            self._let_answer()
            if not self._told:
                self._closing(event)
        elif isinstance(event, Failed):
            self._let_answer()
            self._close_now(event.code, event.reason, linger=True, cause=event.cause)

    def _let_answer(self) -> None:
        """Before the end that was read with them is acted on, let the handler take the messages that came before it."""
        if self.inbox is not None:
            self.inbox.wake()

    def _pong(self, payload: bytes) -> None:
        if self.closed is None:
            self.stream.write(self.wire.pong(payload))

    def _late_pong(self, payload: bytes) -> None:
        """Answer a slow peer: one pong waits in its outbox, the latest (RFC 6455 §5.5.3)."""
        if self.closed is None:
            pong = PendingPong(self.wire.pong(payload))
            if not self.stream.replace(pong, _is_pending_pong):
                self.stream.write(pong)

    def _ponged(self, payload: bytes) -> None:
        now = self.stream.reactor.clock()
        number = int.from_bytes(payload, "big") if len(payload) == 8 else 0
        if self._ping_sent and self._keepalive_id <= number <= self._ping_id:
            if number == self._keepalive_id:
                self.latency = now - self._ping_sent
            self._ping_sent = 0.0
        if self._pings is None or payload not in self._pings:
            return  # an unasked pong (RFC 6455 §5.5.3)
        for name in list(self._pings):  # a pong answers the pings before it, too
            future, sent = self._pings.pop(name)
            self.latency = now - sent
            if not future.done():
                future.set_result(now - sent)
            if name == payload:
                break

    def _pause(self) -> None:
        """The application doesn't take what came: read no more, but for a bounded look ahead at control frames."""
        if self.stream.paused:
            return
        self.stream.pause()
        self.settings.counters.exceeded["max_unread_bytes"] += 1
        self.stream.reactor.wheel.schedule(self.stream, min(self.stream.due, self.stream.reactor.clock() + PEEK_S))

    def _taken(self, cost: int) -> None:
        stream = self.stream
        if cost <= self.settings.max_unread >> 1 and stream.paused and not stream.gone:
            if self.wire.pending():
                self._read_on_soon()
            else:
                stream.resume()

    def _read_on_soon(self) -> None:
        if self.inbox is not None and not self.inbox.reading_on:
            self.inbox.reading_on = True
            self.stream.reactor.soon(self._read_on)

    def _assembly_deadline(self, completed: bool) -> None:
        if self.sending and (self._due == NEVER or completed):
            stream = self.stream
            self._due = stream.reactor.now + self.settings.assembly_timeout
            if self._due < stream.due:
                stream.reactor.wheel.schedule(stream, self._due)

    # -- deadlines -----------------------------------------------------------------------------------------------

    def expired(self, now: float) -> None:
        stream = self.stream
        if not self.sending:
            if self._due <= now:
                self.settings.counters.exceeded["close_timeout_s"] += 1
                stream.abort(TimeoutError("no answer to our close frame"))
                return
        else:
            if self._due <= now and stream.paused:
                self._due = now + self.settings.assembly_timeout  # it is we who keep the rest of it waiting
            elif self._due <= now:
                seconds = self.settings.assembly_timeout
                reason = f"message not complete within {seconds:g} s"
                cause = LimitExceeded(reason, limit="assembly_timeout_s", close_code=1008)
                self._close_now(1008, reason, linger=True, cause=cause)
                return
            if stream.paused and self.inbox is not None:
                if self.inbox.cost < self.settings.max_unread + LOOKAHEAD_BYTES:
                    if self.wire.pending():
                        self._dispatch(self.wire.scan(bytearray(), 0))
                    else:
                        stream.peek()
                else:  # we don't read, so the peer's silence means nothing
                    self._ping_sent = 0.0
                    self._next_ping = now + self.settings.ping_interval
            if not stream.gone and self.sending:
                self._keepalive(now)
        if stream.open:
            self._reschedule(now)

    def _keepalive(self, now: float) -> None:
        timeout = self.settings.ping_timeout
        if self._ping_sent:
            if self.stream.last_read > self._ping_sent:
                self._ping_sent = 0.0  # any byte is a sign of life
            elif now > self._ping_sent + timeout + LAG_S:
                self._ping_sent = now - timeout + LAG_S / 2  # it was we who were late: read first, then judge
            elif now >= self._ping_sent + timeout:
                reason = f"no byte for {timeout:g} s after a ping"
                self.settings.counters.exceeded["ping_timeout_s"] += 1
                self._close_now(1011, reason, cause=TimeoutError(reason), drop=True)
                return
        if self._next_ping <= now:
            self._next_ping = now + self.settings.ping_interval
            payload = self._next_ping_payload()
            if not self._ping_sent:
                self._ping_sent = now
                self._keepalive_id = self._ping_id
            self.stream.write(self.wire.ping(payload))

    def _reschedule(self, now: float) -> None:
        due = self._due
        if self.sending:
            due = min(due, self._next_ping)
            if self._ping_sent:
                due = min(due, self._ping_sent + self.settings.ping_timeout)
            if self.stream.paused:
                due = min(due, now + PEEK_S)
        self.stream.reactor.wheel.schedule(self.stream, due)

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self, code: int = 1000, reason: str = "") -> Ending:
        """Begin the closing handshake (RFC 6455 §7.1.2) at once; await the result to wait until the connection is over.

        `code`: 1000-1003, 1007-1014 or 3000-4999, or 1005 for a frame without one; `reason`: at most 123 bytes of
        UTF-8. Raises LocalError for others.
        A peer that does not answer is dropped after ``Limits.close_timeout_s``. Messages that come before its answer
        can still be received, up to ``Limits.max_unread_bytes``. Closing twice is harmless.
        """
        if self.sending:
            frame = self.wire.close(code, reason)
            self.sending = False
            self._our_close = Close(code, reason, by="us")
            self.stream.write(frame)
            self._due = self.stream.reactor.clock() + self.settings.close_timeout
            self.stream.reactor.wheel.schedule(self.stream, self._due)
            if self.wire.pending():
                self._read_on_soon()
            elif self.stream.paused:
                self.stream.resume()  # the answer is behind what nobody takes
        return Ending(self)

    def _close_now(
        self, code: int, reason: str, *, linger: bool = False, drop: bool = False, cause: BaseException | None = None
    ) -> None:
        """Fail the connection (RFC 6455 §7.1.7): a close frame if none was sent, then TCP's end."""
        if self.closed is None:
            reason = reason.encode()[:123].decode(errors="ignore")
            if self._our_close is None:
                self._our_close = Close(code, reason, by="us", cause=cause)
                self.stream.write(self.wire.close(code, reason))
            elif cause is not None:
                self._our_close.cause = cause
            if isinstance(cause, LimitExceeded):
                self.settings.counters.exceeded[cause.limit] += 1
            self._settle(self._our_close)
        self.stream.close(linger=linger, timeout_s=1.0 if drop else self.settings.close_timeout)
        if self.inbox is not None:
            self.inbox.wake()

    def _closing(self, event: Closing) -> None:
        """The peer's close frame came."""
        ours = self._our_close
        if ours is not None:
            ours.clean = True
            self._settle(ours)
        else:
            self._settle(Close(event.code, event.reason, clean=True, by="peer"))
            self.stream.write(self.wire.close_answer(event.code))
        if self.wire.client:  # the server ends TCP first (RFC 6455 §7.1.1)
            self._due = self.stream.reactor.clock() + self.settings.close_timeout
            self.stream.reactor.wheel.schedule(self.stream, self._due)
        else:
            self.stream.close(timeout_s=self.settings.close_timeout)

    def eof(self) -> None:
        if self.closed is None:
            self.wire.feed_eof()
            self._settle(self._our_close or Close(1006))
        self.stream.abort()

    def failed(self, error: Exception) -> None:
        logger.error("a WebSocket connection failed within Portico", exc_info=error)

    def lost(self, cause: BaseException | None) -> None:
        if self.closed is None:
            self.wire.feed_eof()
            close = self._our_close or Close(1006)
            if close.cause is None:
                close.cause = cause
            self._settle(close)
        self._clean_up()

    def _settle(self, close: Close) -> None:
        """How the connection ended is known now; whoever waits for a message or for room learns it."""
        self.closed = close
        self.sending = False
        waiting, self._drain = self._drain, None
        for future in waiting or ():
            if not future.done():
                future.set_result(None)
        pings, self._pings = self._pings, None
        for pong, _ in (pings or {}).values():
            if not pong.done():
                pong.set_exception(ConnectionClosed(close))
        self._pong_due = None

    def _clean_up(self) -> None:
        """TCP has ended: the one clean-up, run once by the stream."""
        if self.rooms is not None:
            for room in list(self.rooms):
                room.discard(self)
            self.rooms = None
        if self._end is not None and not self._end.done():
            self._end.set_result(None)
        endpoint = self.endpoint
        self._told = True
        close = self._why()
        self.settings.counters.closed[close.code] += 1
        try:
            endpoint.on_close(self, close)
        except (Exception, asyncio.CancelledError):
            logger.exception("on_close failed")
        if self.inbox is not None:
            self.inbox.wake()

    def callback_failed(self, error: BaseException) -> None:
        """The application's code for this connection raised `error`: log it once, close with 1011."""
        logger.error("a WebSocket handler failed; its connection is closed with 1011", exc_info=error)
        self._close_now(1011, "internal error", linger=True, cause=error)

    def _why(self) -> Close:
        """How the connection ended, or is about to."""
        return self.closed or self._our_close or Close(1006)

    def _end_future(self) -> asyncio.Future[None] | None:
        """Done when TCP has ended; None where it has."""
        if self._told:
            return None
        if self._end is None:
            self._end = self.stream.reactor.loop.create_future()
        return asyncio.shield(self._end)


def _is_pending_pong(entry: bytes) -> bool:
    return type(entry) is PendingPong
