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
    """What a client's stream feeds until the server has answered; ``answer`` is done then.

    Its result is the head, and what came after it: of a 101 the first bytes of WebSocket, else the body, cut at 64 KiB.
    A refusal whose body does not end well is a refusal all the same.
    """

    __slots__ = ("_begun", "_body", "_head", "_parser", "_request", "answer", "stream")

    def __init__(self, request: bytes, limits: Limits) -> None:
        self._request = request
        self._parser = ResponseParser(limits)
        self._begun = b""  # the first bytes that came
        self._head: ResponseHead | None = None
        self._body = b""
        self.stream: Stream | None = None
        self.answer: asyncio.Future[tuple[ResponseHead, bytes]] = asyncio.get_running_loop().create_future()

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

    def so_far(self) -> tuple[ResponseHead, bytes] | None:
        """What has come of an answer that is not whole; None where its head is not."""
        return None if self._head is None else (self._head, self._body)

    def _take(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, ResponseHead):
                self._head = event
                if event.status == 101 and self.stream is not None:
                    self.stream.pause()  # what comes now is WebSocket
                    self._done(event, self._parser.tail())
            elif isinstance(event, bytes):
                self._body = (self._body + event)[:MAX_REFUSAL_BYTES]
                if self._head is not None and len(self._body) == MAX_REFUSAL_BYTES:
                    self._done(self._head, self._body)
            elif event is END and self._head is not None:
                self._done(self._head, self._body)
            elif isinstance(event, Rejected):
                self._fail(f"the server's answer is no valid HTTP/1.1: {event.reason}; it begins with {self._begun!r}")

    def _done(self, head: ResponseHead, rest: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result((head, rest))

    def _fail(self, message: str, cause: BaseException | None = None) -> None:
        if self._head is not None:
            self._done(self._head, self._body)
        elif not self.answer.done():
            error: Exception = HandshakeError(message)
            error.__cause__ = cause
            self.answer.set_exception(cause if isinstance(cause, ssl.SSLError) else error)

    def failed(self, error: Exception) -> None:
        self._fail("the handshake failed within Portico", error)

    def lost(self, cause: BaseException | None) -> None:
        self._fail(f"the connection was lost before the server had answered: {cause or 'closed'}", cause)
