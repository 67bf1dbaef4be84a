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
from portico.wire.headers import encode_headers
from portico.wire.http1 import RequestHead, simple_response, status_line

if TYPE_CHECKING:
    from portico.server.connection import HttpConnection

logger = logging.getLogger("portico.server")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchange:
    """A request in its connection's queue; its application starts when those before it are answered."""

    __slots__ = (
        "_body",
        "_body_complete",
        "_chunked",
        "_connection",
        "_continue_due",
        "_disconnected",
        "_keep_alive",
        "_left",
        "_no_body",
        "_over",
        "_start",
        "_started",
        "_wake_body",
        "_wake_room",
        "head",
        "held",
        "task",
    )

    def __init__(self, connection: HttpConnection, head: RequestHead) -> None:
        self._connection = connection
        self.head = head
        self.held = 0  # body bytes that came and were not read
        self.task: asyncio.Task[None] | None = None
        self._body: deque[bytes] = deque()
        self._body_complete = False
        self._continue_due = head.expect_continue
        self._disconnected = False
        self._keep_alive = head.keep_alive
        self._start: dict[str, Any] | None = None  # http.response.start, until the first piece of the body
        self._started = False
        self._over = False
        self._chunked = False
        self._no_body = False
        self._left: int | None = None  # bytes that the announced Content-Length still wants
        self._wake_body: asyncio.Future[None] | None = None
        self._wake_room: asyncio.Future[None] | None = None

    @property
    def stream(self) -> Stream:
        """The connection's stream."""
        return self._connection.stream

    # -- from the connection -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """It is this request's turn to be answered."""
        connection = self._connection
        if connection.refuse_plain(self):
            self._over = True
            return
        mounted = connection.server.site.mount(self.head.path)
        if mounted is not None:
            connection.server.start_asgi_http(self, *mounted)

    def body_came(self, piece: bytes) -> None:
        if self._over:
            return
        self._body.append(piece)
        self.held += len(piece)
        self._wake(self._wake_body)

    def body_ended(self) -> None:
        self._body_complete = True
        self._wake(self._wake_body)

    def disconnected(self) -> None:
        """The peer has left, or shut its side."""
        self._disconnected = True
        self._wake(self._wake_body)

    def drained(self) -> None:
        """There is room in the outbox again."""
        self._wake(self._wake_room)

    @staticmethod
    def _wake(future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)

    # -- the application's two callables -------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        """ASGI ``receive``: ``http.request`` until the body has been read, then ``http.disconnect`` at the end."""
        if self._continue_due:
            self._continue_due = False
            if not self._body and not self._body_complete and not self._started:
                self._connection.stream.write(CONTINUE)
        while not self._body and not self._body_complete and not self._disconnected and not self._over:
            await self._wait_body()
        if self._body:
            body = b"".join(self._body) if len(self._body) > 1 else self._body[0]
            self._body.clear()
            self.held = 0
            self._connection.body_taken()
            return {"type": "http.request", "body": body, "more_body": not self._body_complete}
        if self._body_complete and self.held == 0:
            self.held = -1  # the end has been told
            return {"type": "http.request", "body": b"", "more_body": False}
        while not self._disconnected and not self._over:
            await self._wait_body()
        return {"type": "http.disconnect"}

    async def _wait_body(self) -> None:
        self._wake_body = asyncio.get_running_loop().create_future()
        try:
            await self._wake_body
        finally:
            self._wake_body = None

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI ``send``: ``http.response.start``, then ``http.response.body`` until ``more_body`` is False.

        Waits while the outbox is above ``Limits.high_water_bytes``. Raises OSError when the peer has left, LocalError
        for a message at the wrong time or a response that can't be framed.
        """
        kind = message["type"]
        stream = self._connection.stream
        if stream.gone:
            raise ConnectionResetError("the client has left")
        if kind == "http.response.start":
            if self._start is not None or self._started:
                raise LocalError("http.response.start sent twice")
            self._prepare(message)
        elif kind == "http.response.body":
            if self._over:
                raise LocalError("http.response.body sent after the response was complete")
            if self._start is None and not self._started:
                raise LocalError("http.response.body sent before http.response.start")
            self._write_body(bytes(message.get("body", b"")), bool(message.get("more_body", False)))
            while stream.buffered > stream.high_water:
                await self._wait_room()
        else:
            raise LocalError(f"message {kind!r}: expected http.response.start or http.response.body")

    async def _wait_room(self) -> None:
        self._wake_room = asyncio.get_running_loop().create_future()
        try:
            await self._wake_room
        finally:
            self._wake_room = None

    # -- writing -------------------------------------------------------------------------------------------------

    def _prepare(self, message: dict[str, Any]) -> None:
        """Decide how the body will be framed (RFC 9112 §6) and keep the head until its first piece."""
        status = message["status"]
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise LocalError(f"status {status!r}: expected a number from 200 to 999")
        lines = []
        names = set()
        for name, value in message.get("headers", ()):
            lower = bytes(name).lower()
            if lower == b"transfer-encoding":
                continue  # framing is ours
            if lower == b"connection":
                self._keep_alive = self._keep_alive and b"close" not in bytes(value).lower()
                continue
            if lower == b"content-length":
                self._left = _content_length(bytes(value), self._left)
            names.add(lower)
            lines.append((bytes(name), bytes(value)))
        self._no_body = self.head.method == "HEAD" or status in (204, 304)
        if status == 204 and self._left is not None:
            raise LocalError("a 204 response has no Content-Length (RFC 9110 §8.6)")
        self._start = {"status": status, "lines": lines, "names": names}

    def _head_bytes(self, first: bytes, more: bool) -> bytes:
        start = self._start or {}
        lines, names, status = start["lines"], start["names"], start["status"]
        self._start = None
        self._started = True
        if self._left is None and not self._no_body:
            if not more:
                self._left = len(first)
                lines.append((b"content-length", b"%d" % len(first)))
            elif self.head.version == "1.1":
                self._chunked = True
                lines.append((b"transfer-encoding", b"chunked"))
            else:
                self._keep_alive = False
        if b"date" not in names:
            lines.append((b"date", self._connection.server.date()))
        if self._connection.server.stopping:
            self._keep_alive = False
        if not self._keep_alive:
            lines.append((b"connection", b"close"))
        elif self.head.version == "1.0":
            lines.append((b"connection", b"keep-alive"))
        return status_line(status) + encode_headers(lines) + b"\r\n"

    def _write_body(self, piece: bytes, more: bool) -> None:
        out = self._head_bytes(piece, more) if self._start is not None else b""
        if self._no_body:
            piece = b""
        elif self._left is not None:
            self._left -= len(piece)
            if self._left < 0:
                self._broken("a body longer than its Content-Length")
        if self._chunked:
            if piece:
                out += b"%x\r\n" % len(piece) + piece + b"\r\n"
            if not more:
                out += b"0\r\n\r\n"
        else:
            out = out + piece if out else piece
        self._connection.stream.write(out)
        if not more:
            if self._left and not self._no_body:
                self._broken("a body shorter than its Content-Length")
            self._finish()

    def _broken(self, what: str) -> None:
        self._over = True
        self._connection.stream.abort()
        raise LocalError(f"the application sent {what}")

    def _finish(self) -> None:
        """The response is complete."""
        self._over = True
        self._wake(self._wake_body)
        unread = not self._body_complete
        self._body.clear()
        self.held = 0
        # A body that nobody read may be long; the connection ends rather than read it.
        self._connection.exchange_over(self, keep_alive=self._keep_alive and not unread)

    def application_ended(self, error: BaseException | None) -> None:
        """The application returned, or raised `error`: complete what it left open."""
        if self._over or self._connection.stream.gone:
            if error is not None and not isinstance(error, OSError):
                logger.error("an application failed after its response", exc_info=error)
            return
        if error is not None:
            logger.error("an application failed at %s %s", self.head.method, self.head.path[:200], exc_info=error)
        else:
            logger.error("an application ended without a response to %s %s", self.head.method, self.head.path[:200])
        if self._started:
            self._over = True
            self._connection.stream.abort()  # the peer sees that the response is cut
            return
        head_only = self.head.method == "HEAD"
        text = "Internal server error.\n"
        date = self._connection.server.date()
        self._connection.stream.write(simple_response(500, text, head_only=head_only, date=date))
        self._over = True
        self._connection.exchange_over(self, keep_alive=False)


def _content_length(value: bytes, before: int | None) -> int:
    if not value.isdigit() or len(value) > 18 or before not in (None, int(value)):
        raise LocalError(f"Content-Length {value!r}: expected one number")
    return int(value)
