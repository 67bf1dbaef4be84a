"""One HTTP request and its answer by an ASGI application (ASGI 3.0, HTTP scope).

Owns the body that has come and not been read, and waiting: for the body, for room while the peer is slow, for the
peer's end. What is written is `response`'s affair.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from portico.errors import LocalError
from portico.server.awaitables import DONE, Ready
from portico.server.files import send_file
from portico.server.response import Response
from portico.server.scopes import ENDS_A_TURN
from portico.server.switch import INTERNAL_ERROR
from portico.wire.http1 import RequestHead, simple_response

if TYPE_CHECKING:
    from portico.server.connection import HttpConnection

logger = logging.getLogger("portico.server")

SMALL_PIECE: Final = 512  # bytes: the object around one that is shorter may weigh more than it does
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
TO_SEND: Final = (
    "http.response.start, http.response.body, http.response.trailers, http.response.early_hint, http.response.pathsend "
    "or http.response.zerocopysend"
)


class Exchange(Response):
    """A request in its connection's queue; its application starts when those before it are answered.

    - ``held``: body bytes that came and were not read. ``begun``: its turn has come, at ``began``, in seconds of the
      reactor's clock.
    """

    __slots__ = (
        "_body",
        "_continue_due",
        "_disconnected",
        "_end_told",
        "_ends_told",
        "_given_up",
        "_left_told",
        "_logged",
        "_ran",
        "_scope",
        "_task",
        "_wake_body",
        "_wake_room",
        "began",
        "begun",
        "held",
    )

    def __init__(self, connection: HttpConnection, head: RequestHead) -> None:
        self._set_up(connection, head)
        self.held = 0
        self.begun = False
        self.began = 0.0
        self._body: deque[bytes] | None = None
        self._end_told = False  # the application has read the body's end
        self._ends_told = 0  # how often it was told ``http.disconnect``
        self._continue_due = head.expect_continue
        self._disconnected = False
        self._given_up = False  # it was answered for the application, or cut off
        self._left_told = False  # the application knows that the peer has left
        self._task: asyncio.Task[None] | None = None
        self._scope: dict[str, Any] | None = None
        self._logged = False
        self._ran = False  # the application has returned, or raised
        self._wake_body: asyncio.Event | None = None
        self._wake_room: asyncio.Event | None = None

    # -- from the connection -------------------------------------------------------------------------------------

    @property
    def body_due(self) -> bool:
        """Whether the peer has to send more of the body, and nobody told it to wait with it."""
        return not (self._body_complete or self._continue_due or self.over)

    @property
    def body_short(self) -> bool:
        """Whether a part of the body has not come."""
        return not self._body_complete

    def body_came(self, piece: bytes) -> None:
        if self.over:
            return
        body = self._body
        if body is None:
            body = self._body = deque()
        if body and len(piece) < SMALL_PIECE and len(body[-1]) < SMALL_PIECE:
            body[-1] += piece
        else:
            body.append(piece)
        self.held += len(piece)
        _wake(self._wake_body)

    def body_ended(self) -> None:
        self._body_complete = True
        _wake(self._wake_body)

    def broken_off(self) -> None:
        """What came next was malformed: if that was this request's own body, the rest of it will never come."""
        if not self._body_complete:
            self.keep_alive = False
            self.disconnected()

    def disconnected(self) -> None:
        """The peer has left, or shut its side."""
        self._disconnected = True
        _wake(self._wake_body)

    def refused(self, status: int) -> None:
        """Portico has answered by itself."""
        self.over = True
        self.status = status
        self.log()

    def give_up(self, status: int, text: str) -> None:
        """The peer is too slow: it gets this answer, or the end of the one it is getting."""
        self._given_up = True
        self.disconnected()
        if self.started:
            self.log()
            self.cut(TimeoutError(text))
        else:
            self._server.counters.refused[status] += 1
            self._answer(status, text)

    def drained(self) -> None:
        """There is room in the outbox again."""
        _wake(self._wake_room)

    # -- what answers without an application ---------------------------------------------------------------------

    def watch(self, watcher: Any) -> None:
        """Call ``watcher.set()`` when the peer has left, and when the answer is complete."""
        self._wake_body = watcher
        if self._disconnected:
            watcher.set()

    def peek_body(self) -> bytes:
        """As much of the request's body as is here."""
        return b"".join(self._body or ())

    def seen(self) -> tuple[Any, str, str | None]:
        """The client's address, the scheme it used, and the host that a trusted proxy says it asked: as in the scope of
        this request, where it has one."""
        server, stream = self._server, self.stream
        scheme = "https" if stream.tls else "http"
        if server.proxies is None:
            return server.peer(stream), scheme, None
        seen = server.proxies.seen(stream, self.head.headers)
        return seen.client, seen.scheme or scheme, seen.host

    # -- the application -----------------------------------------------------------------------------------------

    def start(self, spawn: Any, app: Any, scope: dict[str, Any]) -> None:
        """Let `app` answer, in a task of its own."""
        self._scope = scope
        task = spawn(run_application(app, scope, self))
        if not self._ran:  # it may have done so already
            self._task = task
            self._server.tasks.add(task)

    def receive(self) -> Awaitable[dict[str, Any]]:
        """ASGI ``receive``: ``http.request`` until the body has been read, then ``http.disconnect`` at the end.

        Called in another thread, it does nothing before it is awaited on the loop, as a coroutine would.
        """
        if _get_running_loop() is not self.stream.reactor.loop:
            return self._receive()
        if self._body_complete and not self._end_told and not self.held:
            self._end_told = True
            return Ready({"type": "http.request", "body": b"", "more_body": False})
        if self.held and self._body is not None:
            return Ready(self._take_body())
        return self._receive()

    def _take_body(self) -> dict[str, Any]:
        pieces = self._body or (b"",)
        body = b"".join(pieces) if len(pieces) > 1 else pieces[0]
        self._body = None
        self.held = 0
        self._end_told = self._body_complete
        self._connection.body_taken()
        return {"type": "http.request", "body": body, "more_body": not self._end_told}

    async def _receive(self) -> dict[str, Any]:
        if self._continue_due:
            self._continue_due = False
            if not self.started:
                self.stream.write(CONTINUE)
                self._connection.watch_progress()
        while not (self.held or self._body_complete or self._disconnected or self.over):
            await self._wait_body()
        if self.held:
            return self._take_body()
        if self._body_complete and not self._end_told:
            self._end_told = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while not (self._disconnected or self.over):
            await self._wait_body()
        self._ends_told += 1
        if self._ends_told == ENDS_A_TURN:
            self._ends_told = 0
            await asyncio.sleep(0)
        self._left_told = self._disconnected
        return {"type": "http.disconnect"}

    async def _wait_body(self) -> None:
        if self._wake_body is None:
            self._wake_body = asyncio.Event()
        self._wake_body.clear()
        await self._wake_body.wait()

    def send(self, message: dict[str, Any]) -> Awaitable[None]:
        """ASGI ``send``: ``http.response.start``, then ``http.response.body`` until ``more_body`` is False.

        Waits while the outbox is above ``Limits.high_water_bytes`` and more is to come. Raises OSError when the peer
        has left, LocalError for a message at the wrong time or a response that can't be framed. Called in another
        thread, it does nothing before it is awaited on the loop.
        """
        if _get_running_loop() is not self.stream.reactor.loop:
            return self._send_later(message)
        if type(message) is not dict:
            message = dict(message)
        return self._send(message)

    def _send(self, message: dict[str, Any]) -> Awaitable[None]:
        kind = message["type"]
        stream = self.stream
        if self._given_up or (not stream.is_open() and stream.gone):
            return self._peer_left()
        if kind == "http.response.start":
            self.prepare(message)
            return DONE
        if kind == "http.response.body":
            self._check_begun(kind)
            piece = message.get("body", b"")
            if self.write(piece if type(piece) is bytes else bytes(piece), bool(message.get("more_body", False))):
                self._finish()
        elif kind == "http.response.pathsend" or kind == "http.response.zerocopysend":
            self._check_begun(kind)
            return self._send_file(message)
        elif kind == "http.response.early_hint":
            self.hint(message["links"])
        elif kind == "http.response.trailers":
            if self.write_trailers(message.get("headers", ()), bool(message.get("more_trailers", False))):
                self._finish()
        else:
            raise LocalError(f"message {kind!r}: expected {TO_SEND}")
        if stream.buffered > stream.high_water and not self.over:
            return self._wait_room()
        return DONE

    async def _send_later(self, message: dict[str, Any]) -> None:
        await self.send(message)

    async def _peer_left(self) -> None:
        """Say that the peer has left. Who waits in `receive` hears of it first, and may cancel the task that sends:
        Django does, and cleans up after a request only so."""
        if self._wake_body is not None and not self._left_told:
            for _ in range(10):
                await asyncio.sleep(0)
        self._left_told = True
        raise ConnectionResetError("the client has left")

    def _check_begun(self, kind: str) -> None:
        if self.over:
            raise LocalError(f"{kind} sent after the response was complete")
        if not self.status:
            raise LocalError(f"{kind} sent before http.response.start")

    async def _send_file(self, message: dict[str, Any]) -> None:
        """A file as the next piece of the body, or as the whole of it."""
        if await send_file(self, message, bool(message.get("more_body", False))):
            self._finish()

    async def wait_room(self) -> None:
        """Until the outbox is below its mark; raises OSError where the peer has left meanwhile."""
        await self._wait_room()
        if self.stream.gone:
            self._left_told = True
            raise ConnectionResetError("the client has left")

    async def wait_drained(self) -> None:
        """Until the stream's next `drained`, which has to be due; raises OSError where the peer has left."""
        if self.stream.open:
            await self._wait_woken()
        if not self.stream.open:
            self._left_told = True
            raise ConnectionResetError("the client has left")

    async def _wait_room(self) -> None:
        stream = self.stream
        while stream.buffered > stream.high_water and not self.over:
            await self._wait_woken()

    async def _wait_woken(self) -> None:
        if self._wake_room is None:
            self._wake_room = asyncio.Event()
        self._wake_room.clear()
        await self._wake_room.wait()

    # -- the end -------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """The response is complete."""
        self.over = True
        if self._wake_body is not None:
            self._wake_body.set()
        if not self._body_complete:
            self.keep_alive = False
        self._body = None
        self.held = 0
        if self._server.access is not None:
            self.log()
        self._connection.exchange_over()

    def application_ended(self, error: BaseException | None) -> None:
        """The application returned, or raised `error`: complete what it left open."""
        self._ran = True
        if self._task is not None:
            self._server.tasks.discard(self._task)
            self._task = None
        if error is None and self.over:
            return
        self._log_end(error)
        if self.over or self.stream.gone:
            return
        if self.started:
            self.over = True
            self.log()
            self.stream.flush_within()
            self.cut()
        elif self._left_told:
            self.over = True
            self.keep_alive = False
            self.log()
            self._connection.exchange_over()
        else:
            self._answer(500, INTERNAL_ERROR)

    def _answer(self, status: int, text: str) -> None:
        """Answer in the application's place, and close."""
        self.over = self.started = True
        self.status = status
        self.sent = len(text.encode())
        self.keep_alive = False
        date = self._server.date()
        self.stream.write(simple_response(status, text, head_only=self.head.method == "HEAD", date=date))
        self.log()
        self._connection.exchange_over()

    def log(self) -> None:
        """The access line, once: where the answer is complete, or cut. A client that left before it began gets 499."""
        access = self._server.access
        if access is None or self._logged:
            return
        self._logged = True
        head = self.head
        scope = self._scope
        client, scheme, _ = self.seen() if scope is None else (scope["client"], scope["scheme"], None)
        agent = next((value for name, value in head.headers if name == b"user-agent"), b"")
        access.request(
            head.method, head.target, head.version, self.status or 499, self.sent, self.began, client, scheme, agent
        )

    def _log_end(self, error: BaseException | None) -> None:
        what = f"{self.head.method} {self.head.path[:200]!r}"
        if error is None:
            if not (self.over or self.stream.gone or self._left_told):
                logger.error("an application ended without a whole response to %s", what)
        elif self._left_told:
            logger.debug("the client has left; an application ended with %r at %s", error, what)
        elif not (isinstance(error, asyncio.CancelledError) and self._server.stopping):
            logger.error("an application failed at %s", what, exc_info=error)


async def run_application(app: Any, scope: dict[str, Any], owner: Any) -> None:
    """Let `app` run with `owner`'s ``receive`` and ``send``, and tell `owner` of its end; nothing is raised here."""
    error: BaseException | None = None
    try:
        await app(scope, owner.receive, owner.send)
    except asyncio.CancelledError as cancelled:
        error = cancelled
    except GeneratorExit:
        raise  # the loop has ended
    except BaseException as raised:  # SystemExit, too: what one connection does ends no server
        error = raised
    owner.application_ended(error)
    error = None  # its traceback has this frame: a circle, that would keep what the application held


def _wake(event: asyncio.Event | None) -> None:
    if event is not None:
        event.set()
