"""The client's opening handshake on a stream: the request goes out, the answer comes in, a refusal with its body."""

from __future__ import annotations

import asyncio
from typing import Any

from portico.errors import HandshakeError
from portico.limits import Limits
from portico.net.stream import Protocol, Stream
from portico.wire.http1 import END, Rejected, ResponseHead, ResponseParser

MAX_REFUSAL_BYTES = 64 * 1024


class Opening(Protocol):
    """What a client's stream feeds until the server has answered; ``answer`` is done then.

    Its result is the head, and what came after it: of a 101 the first bytes of WebSocket, else the body, cut at 64 KiB.
    """

    __slots__ = ("_body", "_head", "_parser", "_request", "answer", "stream")

    def __init__(self, request: bytes, limits: Limits) -> None:
        self._request = request
        self._parser = ResponseParser(limits)
        self._head: ResponseHead | None = None
        self._body = b""
        self.stream: Stream | None = None
        self.answer: asyncio.Future[tuple[ResponseHead, bytes]] = asyncio.get_running_loop().create_future()

    def connected(self) -> None:
        if self.stream is not None:
            self.stream.write(self._request)

    def received(self, data: bytearray, size: int) -> None:
        self._take(self._parser.feed(memoryview(data)[:size]))

    def eof(self) -> None:
        self._take(self._parser.feed_eof())
        self._fail("the server closed the connection before it had answered")

    def _take(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, ResponseHead):
                self._head = event
                if event.status == 101 and self.stream is not None:
                    self.stream.pause()  # what comes now is WebSocket
                    self._done(event, self._parser.tail())
            elif isinstance(event, bytes):
                self._body += event
                if len(self._body) > MAX_REFUSAL_BYTES:
                    self._finish()
            elif event is END:
                self._finish()
            elif isinstance(event, Rejected):
                self._fail(f"the server's answer is no valid HTTP/1.1: {event.reason}")

    def _finish(self) -> None:
        if self._head is not None:
            self._done(self._head, self._body[:MAX_REFUSAL_BYTES])

    def _done(self, head: ResponseHead, rest: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result((head, rest))

    def _fail(self, message: str, cause: BaseException | None = None) -> None:
        if not self.answer.done():
            status = self._head.status if self._head is not None else None
            error = HandshakeError(message, status=status, body=self._body)
            error.__cause__ = cause
            self.answer.set_exception(error)

    def failed(self, error: Exception) -> None:
        self._fail("the handshake failed within Portico", error)

    def lost(self, cause: BaseException | None) -> None:
        self._fail(f"the connection was lost before the server had answered: {cause or 'closed'}", cause)
