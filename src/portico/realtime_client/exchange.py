"""The HTTP/1.1 side of long polling: requests out and whole answers in, on connections that are kept and used again.

Two of them at most: one for the GET that waits, one for POST. A request that may have reached the server is never
sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any, Final

from portico.client.attempt import Attempt
from portico.errors import HandshakeError
from portico.limits import Limits
from portico.net.stream import Protocol, Stream
from portico.net.tls import TlsStream
from portico.realtime_client.address import Address
from portico.websocket import Settings
from portico.wire.headers import Headers, encode_headers
from portico.wire.http1 import END, Rejected, ResponseHead, ResponseParser

REUSED_WITHIN_S: Final = 3.0  # Node ends a kept-alive connection after 5 s: a POST should not meet that end
SHOWN_BYTES: Final = 60  # of an answer that is no HTTP
OVER: Final = "the session is over"
MAX_COOKIES: Final = 50
MAX_COOKIE_BYTES: Final = 4096
_COOKIE = re.compile(r"[!#-'*+\-.^-`|~\w]+=[\x21\x23-+\x2d-:<-\[\]-~\"]*", re.ASCII)
_ENDED = re.compile(r";\s*max-age\s*=\s*(?:0|-\d+)\s*(?:;|$)", re.IGNORECASE)


class Answer:
    """A whole response: status, headers, body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, head: ResponseHead, body: bytes) -> None:
        self.status = head.status
        self.headers = Headers(head.headers)
        self.body = body


class Cookies:
    """What the server has set: a load balancer finds the session's process by it. All of them go back to the one
    origin that they came from, and to no other."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def take(self, headers: Headers) -> None:
        for line in headers.get_all("set-cookie"):
            pair = line.partition(";")[0].strip()
            if len(pair) > MAX_COOKIE_BYTES or _COOKIE.fullmatch(pair) is None:
                continue
            name = pair.partition("=")[0]
            self._values.pop(name, None)
            if _ENDED.search(line) is None and len(self._values) < MAX_COOKIES:
                self._values[name] = pair

    def __str__(self) -> str:
        return "; ".join(self._values.values())


class Exchange(Protocol):
    """One connection, and the one request on it that is not answered yet."""

    __slots__ = ("_answer", "_begun", "_body", "_head", "_max_body", "_parser", "_ready", "_request", "quiet", "stream")

    def __init__(self, limits: Limits, max_body: int) -> None:
        self._parser = ResponseParser(limits)
        self._max_body = max_body
        self._head: ResponseHead | None = None
        self._body = bytearray()
        self._begun = b""  # the first bytes of an answer
        self._request = b""
        self._ready = False
        self._answer: asyncio.Future[Answer] | None = None
        self.quiet = 0.0  # since when there was nothing to do, on the loop's clock
        self.stream: Stream | None = None

    @property
    def usable(self) -> bool:
        """Whether it can carry another request."""
        return self.stream is not None and self.stream.open and self._parser.idle and self._answer is None

    async def ask(self, request: bytes, deadline: float, late: str) -> Answer:
        """Send `request` and wait for the whole answer.

        Raises HandshakeError where that is no HTTP or too long, OSError where the connection ends before it,
        TimeoutError with the text `late`.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._answer = answer
        self._head = None
        self._body = bytearray()
        self._begun = b""
        try:
            if self.stream is None or self.stream.gone:
                raise ConnectionResetError("the connection was lost")
            if self._ready:
                self.stream.write(request)
            else:
                self._request = request
            async with asyncio.timeout_at(deadline):
                return await answer
        except TimeoutError:
            raise TimeoutError(late) from None
        finally:
            if not answer.done() or answer.cancelled() or answer.exception() is not None:
                self.abort()
            self._answer = None
            self.quiet = loop.time()

    def abort(self) -> None:
        """Drop the connection."""
        if self.stream is not None:
            self.stream.abort()

    # -- what the stream calls -----------------------------------------------------------------------------------------

    def connected(self) -> None:
        self._ready = True
        request, self._request = self._request, b""
        if self.stream is not None:
            self.stream.write(request)

    def received(self, data: bytearray, size: int) -> None:
        if self._answer is None:  # nobody asked for it
            self.abort()
            return
        if len(self._begun) < SHOWN_BYTES:
            self._begun += bytes(data[: min(size, SHOWN_BYTES)])
        self._take(self._parser.feed(memoryview(data)[:size]))

    def eof(self) -> None:
        self._take(self._parser.feed_eof())
        self._fail(ConnectionResetError("the server closed the connection before it had answered"))
        self.abort()

    def failed(self, error: Exception) -> None:
        self._fail(error)

    def lost(self, cause: BaseException | None) -> None:
        if isinstance(cause, OSError):
            self._fail(cause)
        self._fail(ConnectionResetError("the connection was lost before the server had answered"))

    def _take(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, ResponseHead):
                self._head = event
                if event.status == 101:
                    self._fail(HandshakeError("the server switched protocols, which nobody had asked for", status=101))
            elif isinstance(event, bytes):
                self._body += event
                if len(self._body) > self._max_body:
                    status = None if self._head is None else self._head.status
                    text = f"the server's answer is longer than {self._max_body} bytes (max_polled_bytes)"
                    self._fail(HandshakeError(text, status=status))
                    self._body.clear()
                    self.abort()
                    return
            elif event is END and self._head is not None:
                if self._answer is not None and not self._answer.done():
                    self._answer.set_result(Answer(self._head, bytes(self._body)))
                self._body = bytearray()
                if not self._head.keep_alive and self.stream is not None:
                    self.stream.close()
            elif isinstance(event, Rejected):
                begins = self._begun[:SHOWN_BYTES]
                text = f"the server's answer is no valid HTTP/1.1: {event.reason}; it begins with {begins!r}"
                self._fail(HandshakeError(text))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class Dialling(Attempt):
    """The way to a connected stream, which is that of `portico.connect`: proxy, addresses in turn, TLS."""

    async def connect(self, exchange: Exchange) -> None:
        """Give `exchange` its stream. Raises OSError or HandshakeError."""
        async with contextlib.AsyncExitStack() as turns:
            dialled = await self._dial(turns)
            turns.callback(dialled.over)
            try:
                stream = self._stream(dialled, exchange)  # type: ignore[arg-type] # a stream feeds any Protocol
            except BaseException:
                dialled.sock.close()
                raise
            exchange.stream = stream
            if isinstance(stream, TlsStream):
                stream.begin()
            else:
                exchange.connected()


class Asker:
    """Asks one server by HTTP, for one session."""

    def __init__(self, address: Address, cookies: Cookies, max_body: int) -> None:
        self._address = address
        self._max_body = max_body
        self._settings = Settings(address.options.limits, None)
        self._lanes: dict[str, Exchange] | None = {}
        self.cookies = cookies

    async def ask(self, method: str, sid: str, timeout_s: float, body: bytes | None = None) -> Answer:
        """The answer to a GET or POST of the session `sid`. `timeout_s` runs from when there is a connection."""
        exchange = await self._exchange(method)
        deadline = asyncio.get_running_loop().time() + timeout_s
        late = f"{self._address.shown} did not answer a {method} within {timeout_s:g} s"
        answer = await exchange.ask(self._request(method, sid, body), deadline, late)
        self.cookies.take(answer.headers)
        return answer

    async def _exchange(self, lane: str) -> Exchange:
        lanes = self._lanes
        if lanes is None:
            raise ConnectionResetError(OVER)
        exchange = lanes.get(lane)
        if exchange is not None:
            fresh = asyncio.get_running_loop().time() - exchange.quiet < REUSED_WITHIN_S
            if exchange.usable and fresh:
                return exchange
            exchange.abort()
        exchange = Exchange(self._address.options.limits, self._max_body)
        options = self._address.options
        try:
            await Dialling(self._address.uri, [], options, self._settings).connect(exchange)
        except BaseException:
            exchange.abort()
            raise
        if self._lanes is not lanes:  # closed meanwhile
            exchange.abort()
            raise ConnectionResetError(OVER)
        lanes[lane] = exchange
        return exchange

    def _request(self, method: str, sid: str, body: bytes | None) -> bytes:
        lines = [("Host", self._address.uri.authority), ("Accept", "*/*")]
        if body is not None:
            lines += [("Content-Type", "text/plain;charset=UTF-8"), ("Content-Length", str(len(body)))]
        taken = {name.lower() for name, _ in lines}
        mine = [line for line in self._address.headers(str(self.cookies)) if line[0].lower() not in taken]
        first = f"{method} {self._address.target('polling', sid)} HTTP/1.1\r\n".encode("ascii")
        return first + bytes(encode_headers([*lines, *mine])) + b"\r\n" + (body or b"")

    def close(self) -> None:
        """Drop the connections."""
        lanes, self._lanes = self._lanes, None
        for exchange in (lanes or {}).values():
            exchange.abort()
