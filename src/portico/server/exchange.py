"""One HTTP request and its answer by an ASGI application (ASGI 3.0, HTTP scope).

Owns the body that has come and not been read, and the writing of one response: its head, the framing of its body, and
waiting while the peer is slow. Nothing that an application returns can split a response: it raises instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from portico.errors import LocalError
from portico.net.stream import Stream
from portico.server.switch import INTERNAL_ERROR
from portico.wire.headers import encode_headers
from portico.wire.http1 import RequestHead, simple_response, status_line

if TYPE_CHECKING:
    from portico.server.connection import HttpConnection

logger = logging.getLogger("portico.server")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchange:
    """A request in its connection's queue; its application starts when those before it are answered.

    - ``held``: body bytes that came and were not read. ``keep_alive``: whether another request may follow.
    - ``begun``: its turn has come. ``started``: a part of its response is written. ``over``: all that there will be.
    """

    __slots__ = (
        "_body",
        "_body_complete",
        "_chunked",
        "_connection",
        "_continue_due",
        "_disconnected",
        "_end_told",
        "_head",
        "_left",
        "_left_told",
        "_no_body",
        "_wake_body",
        "_wake_room",
        "begun",
        "head",
        "held",
        "keep_alive",
        "over",
        "started",
    )

    def __init__(self, connection: HttpConnection, head: RequestHead) -> None:
        self._connection = connection
        self.head = head
        self.held = 0
        self.keep_alive = head.keep_alive
        self.begun = False
        self.started = False
        self.over = False
        self._body: deque[bytes] = deque()
        self._body_complete = False
        self._end_told = False  # the application has read the body's end
        self._continue_due = head.expect_continue
        self._disconnected = False
        self._left_told = False  # the application knows that the peer has left
        self._head: tuple[int, bytes, bool] | None = None  # of the response: status, fields, whether Date is there
        self._chunked = False
        self._no_body = False
        self._left: int | None = None  # bytes that the announced Content-Length still wants
        self._wake_body: asyncio.Event | None = None
        self._wake_room: asyncio.Event | None = None

    @property
    def stream(self) -> Stream:
        """The connection's stream."""
        return self._connection.stream

    # -- from the connection -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """It is this request's turn to be answered."""
        self.begun = True
        connection = self._connection
        if connection.refuse_plain(self.head):
            self.over = True
            return
        mounted = connection.server.site.mount(self.head.path)
        if mounted is not None:
            connection.server.start_asgi_http(self, *mounted)

    def body_came(self, piece: bytes) -> None:
        if self.over:
            return
        self._body.append(piece)
        self.held += len(piece)
        self._wake(self._wake_body)

    def body_ended(self) -> None:
        self._body_complete = True
        self._wake(self._wake_body)

    def broken_off(self) -> None:
        """What came next was malformed: if that was this request's own body, the rest of it will never come."""
        if not self._body_complete:
            self.keep_alive = False
            self.disconnected()

    def disconnected(self) -> None:
        """The peer has left, or shut its side."""
        self._disconnected = True
        self._wake(self._wake_body)

    def drained(self) -> None:
        """There is room in the outbox again."""
        self._wake(self._wake_room)

    @staticmethod
    def _wake(event: asyncio.Event | None) -> None:
        if event is not None:
            event.set()

    # -- the application's two callables -------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        """ASGI ``receive``: ``http.request`` until the body has been read, then ``http.disconnect`` at the end."""
        if self._continue_due:
            self._continue_due = False
            if not self._body and not self._body_complete and not self.started:
                self.stream.write(CONTINUE)
        while not (self._body or self._body_complete or self._disconnected or self.over):
            await self._wait_body()
        if self._body:
            body = b"".join(self._body) if len(self._body) > 1 else self._body[0]
            self._body.clear()
            self.held = 0
            self._end_told = self._body_complete
            self._connection.body_taken()
            return {"type": "http.request", "body": body, "more_body": not self._end_told}
        if self._body_complete and not self._end_told:
            self._end_told = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while not (self._disconnected or self.over):
            await self._wait_body()
        self._left_told = True
        return {"type": "http.disconnect"}

    async def _wait_body(self) -> None:
        if self._wake_body is None:
            self._wake_body = asyncio.Event()
        self._wake_body.clear()
        await self._wake_body.wait()

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI ``send``: ``http.response.start``, then ``http.response.body`` until ``more_body`` is False.

        Waits while the outbox is above ``Limits.high_water_bytes`` and more is to come. Raises OSError when the peer
        has left, LocalError for a message at the wrong time or a response that can't be framed.
        """
        kind = message["type"]
        stream = self.stream
        if stream.gone:
            self._left_told = True
            raise ConnectionResetError("the client has left")
        if kind == "http.response.start":
            if self._head is not None or self.started:
                raise LocalError("http.response.start sent twice")
            self._prepare(message)
        elif kind == "http.response.body":
            if self.over:
                raise LocalError("http.response.body sent after the response was complete")
            if self._head is None and not self.started:
                raise LocalError("http.response.body sent before http.response.start")
            self._write_body(bytes(message.get("body", b"")), bool(message.get("more_body", False)))
            while stream.buffered > stream.high_water and not self.over:
                await self._wait_room()
        else:
            raise LocalError(f"message {kind!r}: expected http.response.start or http.response.body")

    async def _wait_room(self) -> None:
        if self._wake_room is None:
            self._wake_room = asyncio.Event()
        self._wake_room.clear()
        await self._wake_room.wait()

    # -- writing -------------------------------------------------------------------------------------------------

    def _prepare(self, message: dict[str, Any]) -> None:
        """Check the response's head, and keep it until the first piece of the body tells how that is framed."""
        status = message["status"]
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise LocalError(f"status {status!r}: expected a number from 200 to 999")
        lines: list[tuple[bytes, bytes]] = []
        keep_alive, dated = self.keep_alive, False
        length: int | None = None
        for name, value in message.get("headers", ()):
            name, value = bytes(name), bytes(value)
            lower = name.lower()
            if lower == b"transfer-encoding":
                continue  # framing is ours
            if lower == b"connection":
                keep_alive = keep_alive and b"close" not in value.lower()
                continue
            if lower == b"content-length":
                if length is not None:
                    raise LocalError("two Content-Length headers: expected one")
                length = _content_length(value)
            dated = dated or lower == b"date"
            lines.append((name, value))
        if status == 204 and length is not None:
            raise LocalError("a 204 response has no Content-Length (RFC 9110 §8.6)")
        self._head = status, encode_headers(lines), dated
        self._no_body = self.head.method == "HEAD" or status in (204, 304)
        self._left = None if self._no_body else length
        self.keep_alive = keep_alive

    def _head_bytes(self, status: int, fields: bytes, dated: bool, first: bytes, more: bool) -> bytes:
        """The response's head; how its body is framed (RFC 9112 §6) is decided here."""
        lines: list[tuple[bytes, bytes]] = []
        if self._left is None and not self._no_body:
            if not more:
                self._left = len(first)
                lines.append((b"content-length", b"%d" % len(first)))
            elif self.head.version == "1.1":
                self._chunked = True
                lines.append((b"transfer-encoding", b"chunked"))
            else:
                self.keep_alive = False
        if not dated:
            lines.append((b"date", self._connection.server.date()))
        if self._connection.server.stopping or not (more or self._body_complete):
            self.keep_alive = False  # a body that nobody read may be long: the connection ends rather than read it
        if not self.keep_alive:
            lines.append((b"connection", b"close"))
        elif self.head.version == "1.0":
            lines.append((b"connection", b"keep-alive"))
        return status_line(status) + fields + encode_headers(lines) + b"\r\n"

    def _write_body(self, piece: bytes, more: bool) -> None:
        if self._no_body:
            piece = b""
        elif self._left is not None and (len(piece) > self._left or (len(piece) < self._left and not more)):
            self._misframed("longer" if len(piece) > self._left else "shorter")
        out = b""
        if self._head is not None:
            out = self._head_bytes(*self._head, piece, more)
            self._head = None
            self.started = True
        if self._left is not None:
            self._left -= len(piece)
        if self._chunked:
            if piece:
                out += b"%x\r\n" % len(piece) + piece + b"\r\n"
            if not more:
                out += b"0\r\n\r\n"
        else:
            out = out + piece if out else piece
        self.stream.write(out)
        if not more:
            self._finish()

    def _misframed(self, how: str) -> None:
        if self.started:  # the peer sees that the response is cut
            self.over = True
            self.stream.abort()
        raise LocalError(f"the application sent a body {how} than its Content-Length")

    def _finish(self) -> None:
        """The response is complete."""
        self.over = True
        self._wake(self._wake_body)
        if not self._body_complete:
            self.keep_alive = False
        self._body.clear()
        self.held = 0
        self._connection.exchange_over()

    def application_ended(self, error: BaseException | None) -> None:
        """The application returned, or raised `error`: complete what it left open."""
        self._log_end(error)
        if self.over or self.stream.gone:
            return
        self.over = True
        if self.started:
            self.stream.abort()  # the peer sees that the response is cut
            return
        self.keep_alive = False
        if not self._left_told:
            date = self._connection.server.date()
            self.stream.write(simple_response(500, INTERNAL_ERROR, head_only=self.head.method == "HEAD", date=date))
            self.started = True
        self._connection.exchange_over()

    def _log_end(self, error: BaseException | None) -> None:
        what = f"{self.head.method} {self.head.path[:200]!r}"
        if error is None:
            if not (self.over or self.stream.gone or self._left_told):
                logger.error("an application ended without a whole response to %s", what)
        elif self._left_told:
            logger.info("the client has left; an application ended with %r at %s", error, what)
        elif not (isinstance(error, asyncio.CancelledError) and self._connection.server.stopping):
            logger.error("an application failed at %s", what, exc_info=error)


def _content_length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise LocalError(f"Content-Length {value!r}: expected one number")
    return int(value)
