"""The client's opening handshake on a stream: the request goes out, the answer comes in, a refusal with its body."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

from portico.errors import HandshakeError
from portico.limits import Limits
from portico.net.stream import Protocol, Stream
from portico.wire.http1 import END, Rejected, ResponseHead, ResponseParser

MAX_REFUSAL_BYTES: Final = 64 * 1024
SHOWN_BYTES: Final = 60  # of an answer that is no HTTP


class Opening(Protocol):
    """What a client's stream feeds until the server has answered. ``head`` is done with the head of the answer, or with
    what went wrong before; ``rest`` with what came after it: of a 101 the first bytes of WebSocket, else the body, cut
    at 64 KiB.

    A refusal whose body does not end well is a refusal all the same. `who`: of whom errors speak.
    """

    __slots__ = ("_begun", "_body", "_parser", "_request", "_who", "head", "rest", "stream")

    def __init__(self, request: bytes, limits: Limits, who: str) -> None:
        self._request = request
        self._who = who
        self._parser = ResponseParser(limits)
        self._begun = b""  # the first bytes that came
        self._body = b""
        self.stream: Stream | None = None
        self.head: asyncio.Future[ResponseHead] = asyncio.get_running_loop().create_future()
        self.rest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connected(self) -> None:
        if self.stream is not None:
            self.stream.write(self._request)

    def received(self, data: bytearray, size: int) -> None:
        if len(self._begun) < SHOWN_BYTES:
            self._begun = (self._begun + data[: min(size, SHOWN_BYTES)])[:SHOWN_BYTES]
        self._take(self._parser.feed(memoryview(data)[:size]))

    def eof(self) -> None:
        self._take(self._parser.feed_eof())
        self._fail("the server closed the connection before it had answered")

    def so_far(self) -> bytes:
        """What has come of a body that is not whole."""
        return self._body

    def _take(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, ResponseHead):
                if event.status == 101 and self.stream is not None:
                    self.stream.pause()  # what comes now is WebSocket
                    self._done(self._parser.tail())
                if not self.head.done():
                    self.head.set_result(event)
            elif isinstance(event, bytes):
                self._body = (self._body + event)[:MAX_REFUSAL_BYTES]
                if len(self._body) == MAX_REFUSAL_BYTES:
                    self._done(self._body)
            elif event is END:
                self._done(self._body)
            elif isinstance(event, Rejected):
                self._fail(f"the server's answer is no valid HTTP/1.1: {event.reason}; it begins with {self._begun!r}")

    def _done(self, rest: bytes) -> None:
        if not self.rest.done():
            self.rest.set_result(rest)

    def _fail(self, message: str, cause: BaseException | None = None) -> None:
        if self.head.done():
            self._done(self._body)
        elif isinstance(cause, ssl.SSLError):
            cause.strerror = f"{self._who}: {cause.strerror}"
            cause.args = (cause.errno, cause.strerror)
            self.head.set_exception(cause)
        else:
            error = HandshakeError(f"{self._who}: {message}")
            error.__cause__ = cause
            self.head.set_exception(error)

    def failed(self, error: Exception) -> None:
        self._fail("the handshake failed within Portico", error)

    def lost(self, cause: BaseException | None) -> None:
        self._fail(f"the connection was lost before the server had answered: {cause or 'closed'}", cause)
