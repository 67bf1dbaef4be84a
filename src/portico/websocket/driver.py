"""What goes on in a WebSocket connection without its user: dispatching, pings and pongs, deadlines, the end.

What comes is handed to the `Endpoint` at once, or put into the `Inbox`. Control frames, the closing handshake,
deadlines and limits work although nobody reads. Closing runs one clean-up, once, with one typed `Close`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from portico.codes import Close
from portico.errors import ConnectionClosed, LimitExceeded
from portico.net.stream import Stream
from portico.net.timers import NEVER
from portico.websocket.endpoint import Endpoint, Settings
from portico.websocket.inbox import Inbox, Owner
from portico.wire.messages import Closing, Failed, Messages, Ping, Pong

if TYPE_CHECKING:
    from portico.wire.request import Request

logger = logging.getLogger("portico.websocket")

LOOKAHEAD_BYTES: Final = 64 * 1024
PEEK_S: Final = 1.0
LAG_S: Final = 1.0
SCANS_A_TURN: Final = 8  # parts of what came that an endpoint is given in one turn of the loop

_ids = itertools.count(1)


class PendingPong(bytes):
    """A pong in the outbox of a slow peer: the next one takes its place."""


class Driver(Owner):
    """The part of a `WebSocket` that the stream and the reactor drive."""

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
        "_reading_on",
        "_told",
        "endpoint",
        "inbox",
        "latency",
        "request",
        "rooms",
        "sending",
        "settings",
        "state",
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
        self.endpoint: Any = endpoint  # which is called with a WebSocket: nothing else is made on a Driver
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
        self._reading_on = False  # without an inbox: `_read_on` is due
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
        self.stream.reactor.soon(self.stream, functools.partial(self._read_on, tail))

    # -- what comes ----------------------------------------------------------------------------------------------------

    def received(self, data: bytearray, size: int) -> None:
        self._dispatch(self.wire.scan(data, size))
        if self.wire.pending():
            self._dispatch_rest()

    def _dispatch_rest(self) -> None:
        """Deal with what came and was not scanned yet, a bounded part at a time, unless nobody takes it.

        An endpoint takes everything, so that it gets a bounded number of parts in a turn: what came at once may have
        been inflated a thousandfold. Who has paused reading meanwhile gets the rest after `resumed`.
        """
        stream = self.stream
        parts = 1
        while self.wire.pending() and stream.open and not self._full():
            if self.inbox is None:
                if stream.paused:
                    return
                if parts == SCANS_A_TURN:
                    stream.pause()
                    self._read_on_soon()
                    return
                parts += 1
            self._dispatch(self.wire.scan(bytearray(), 0))

    def resumed(self) -> None:
        if self.inbox is None and self.wire.pending():
            self._read_on_soon()

    def _full(self) -> bool:
        """Whether as much is unread as may be; a connection that closes drops what is more instead."""
        if self.inbox is None or self._our_close is not None or self.closed is not None:
            return False
        return self.inbox.cost > self.settings.max_unread

    def _read_on(self, tail: bytes = b"") -> None:
        """There is somebody to read, there is room again, or the connection closes: what came first, then reading."""
        stream = self.stream
        if self.inbox is None:
            stream.resume()  # where it is too much, that is found again
            self._reading_on = False
            if tail and stream.open:
                self.received(bytearray(tail), len(tail))
            else:
                self._dispatch_rest()
            return
        self.inbox.reading_on = False
        if tail and stream.open:
            stream.resume()  # where it is too much, `_pause` shall find it reading
            self.received(bytearray(tail), len(tail))
        else:
            self._dispatch_rest()
        if stream.open and not self._full():
            stream.resume()

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
                    endpoint.on_message(self, event)
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

    def _next_ping_payload(self) -> bytes:
        self._ping_id += 1
        return self._ping_id.to_bytes(8, "big")

    def _pause(self) -> None:
        """The application doesn't take what came: read no more, but for a bounded look ahead at control frames."""
        if self.stream.paused:
            return
        self.stream.pause()
        self.settings.counters.exceeded["max_unread_bytes"] += 1
        self.stream.reactor.wheel.schedule(self.stream, min(self.stream.due, self.stream.reactor.clock() + PEEK_S))

    def taken(self, cost: int) -> None:
        stream = self.stream
        if cost <= self.settings.max_unread >> 1 and stream.paused and not stream.gone:
            if self.wire.pending():
                self._read_on_soon()
            else:
                stream.resume()

    def _read_on_soon(self) -> None:
        if self.inbox is None:
            due, self._reading_on = self._reading_on, True
        else:
            due, self.inbox.reading_on = self.inbox.reading_on, True
        if not due:
            self.stream.reactor.soon(self.stream, self._read_on)

    def _assembly_deadline(self, completed: bool) -> None:
        if self.sending and (self._due == NEVER or completed):
            stream = self.stream
            self._due = stream.reactor.now + self.settings.assembly_timeout
            if self._due < stream.due:
                stream.reactor.wheel.schedule(stream, self._due)

    # -- deadlines -----------------------------------------------------------------------------------------------------

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

    # -- the end -------------------------------------------------------------------------------------------------------

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
            self.inbox.resume_later()

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
            self.stream.resume()  # that end is seen though nobody takes what came before it
        else:
            self.stream.close(timeout_s=self.settings.close_timeout)

    def broken(self) -> None:
        self.sending = False

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
        if self.wire.codec is not None:
            self.wire.codec.forget()
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
            if self.settings.on_end is not None:
                self.settings.on_end(self)
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


def _is_pending_pong(entry: bytes) -> bool:
    return type(entry) is PendingPong
