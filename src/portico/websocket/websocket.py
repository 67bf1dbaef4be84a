"""The WebSocket that a user holds: what it is, sending, receiving, closing."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Coroutine
from typing import Any

from portico.accounting import Cost
from portico.codes import Close
from portico.errors import ConnectionClosed, LimitExceeded, LocalError
from portico.websocket.driver import Driver
from portico.websocket.outcomes import FINISHED, Ending, Sent
from portico.wire.frames import close_payload

DONE = Sent.DONE
QUEUED = Sent.QUEUED
DROPPED = Sent.DROPPED
GONE = Sent.CLOSED

_id_prefix = secrets.token_hex(4)


class WebSocket(Driver):
    """One WebSocket connection.

    - ``request``: the upgrade request: method, path, query, headers, cookies, client.
    - ``subprotocol``: the agreed one, or None.
    - ``user``: what ``authenticate`` returned, or None. ``state``: yours.
    - ``latency``: round trip of the last answered ping in seconds, or None.
    - ``stream``: the connection below; ``client``: whether this is the client's end.
    """

    __slots__ = ()

    # -- facts ---------------------------------------------------------------------------------------------------------

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
            compression=0 if self.wire.codec is None else self.wire.codec.held,
            outbox=self.stream.buffered,
        )

    @property
    def messages_in(self) -> int:
        """How many messages have come, modulo 2**32."""
        return self.wire.received

    @property
    def messages_out(self) -> int:
        """How many messages were sent, or wait to be, modulo 2**32."""
        return self.wire.sent

    def __repr__(self) -> str:
        what = "open" if self.closed is None else f"closed {self.closed}"
        return f"<WebSocket {self.id} {what}>"

    # -- sending -------------------------------------------------------------------------------------------------------

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
                stream.flush_within()  # it may be only we who have not written yet
            if stream.buffered > stream.high_water and stream.buffered + len(frame) > self.settings.max_outbox:
                self.too_slow()
                return DROPPED
            if not stream.open:
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

    # -- receiving -----------------------------------------------------------------------------------------------------

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

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self, code: int = 1000, reason: str = "") -> Ending:
        """Begin the closing handshake (RFC 6455 §7.1.2) at once; await the result to wait until the connection is over.

        `code`: 1000-1003, 1007-1014 or 3000-4999, or 1005 for a frame without one; `reason`: at most 123 bytes of
        UTF-8. Raises LocalError for others, also after the end.
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
        else:
            close_payload(code, reason)  # what is wrong is wrong at any time
        return Ending(self)

    def _end_future(self) -> asyncio.Future[None] | None:
        """Done when TCP has ended; None where it has."""
        if self._told:
            return None
        if self._end is None:
            self._end = self.stream.reactor.loop.create_future()
        return asyncio.shield(self._end)
