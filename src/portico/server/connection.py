"""One connection while it speaks HTTP/1.1: requests in order, their answers in the same order, and the switch.

Owns the parser and the queue of exchanges. When a request to switch is accepted, the stream gets a `WebSocket` for its
protocol, with the bytes that came after the head, and this object is let go.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from portico.net.stream import Protocol, Stream
from portico.net.timers import NEVER
from portico.server.exchange import Exchange
from portico.server.switch import Switch
from portico.wire.handshake import HandshakeRefused, check_upgrade
from portico.wire.http1 import END, Rejected, RequestHead, RequestParser, simple_response

if TYPE_CHECKING:
    from portico.server.server import Server

HEAD_SLICE = 4096
BODY_SLICE = 65536
RETRY_AFTER_S = 5
NO_ROUTE = "Nothing is served at this path."


class HttpConnection(Protocol):
    """The HTTP/1.1 side of one TCP connection."""

    __slots__ = ("_deadline", "_exchanges", "_last", "_parser", "_switch", "_waiting", "crowded", "server", "stream")

    def __init__(self, server: Server, stream: Stream, *, crowded: bool = False) -> None:
        self.server = server
        self.stream = stream
        self.crowded = crowded  # over a cap on connections: it gets one answer, 503
        self._parser: RequestParser | None = None
        self._waiting = b""  # came, and not parsed yet: there are requests enough
        self._exchanges: deque[Exchange] = deque()
        self._last: Rejected | RequestHead | None = None  # what is dealt with when the exchanges are over
        self._switch: Switch | None = None
        self._deadline = "idle"

    # -- in ------------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        self._wait_idle()

    def received(self, data: bytearray, size: int) -> None:
        if self._parser is None:
            self._parser = RequestParser(self.server.limits)
        piece = bytes(memoryview(data)[:size])
        self._waiting = self._waiting + piece if self._waiting else piece
        self._pump()

    def _pump(self) -> None:
        """Parse what has come, in slices, as long as what it makes has room."""
        parser = self._parser
        at = 0
        waiting = self._waiting
        self._waiting = b""
        while at < len(waiting) and parser is not None and not self._full():
            step = BODY_SLICE if self._exchanges and not parser.in_head and not parser.idle else HEAD_SLICE
            self._take(parser.feed(waiting[at : at + step]))
            at += step
            parser = self._parser
        if self.stream.protocol is self:
            self._waiting = waiting[at:]
            self._watch()

    def _full(self) -> bool:
        """Whether what came and is not dealt with yet is as much as it may be."""
        limits = self.server.limits
        exchanges = self._exchanges
        held = sum(exchange.held for exchange in exchanges)
        return held > limits.max_body_buffer_bytes or len(exchanges) > limits.max_pipelined

    def _take(self, events: list[Any]) -> None:
        for event in events:
            if type(event) is bytes:
                self._exchanges[-1].body_came(event)
            elif event is END:
                self._exchanges[-1].body_ended()
            elif isinstance(event, RequestHead) and not event.upgrade:
                exchange = Exchange(self, event)
                self._exchanges.append(exchange)
                if len(self._exchanges) == 1:
                    exchange.begin()
            else:
                self._last = event
                if not self._exchanges:
                    self._finish_last()

    def _watch(self) -> None:
        """After input: pause or go on reading, and set the deadline that fits."""
        stream = self.stream
        if stream.gone or self._parser is None:
            return
        exchanges = self._exchanges
        if self._waiting or self._last is not None or self._full():
            stream.pause()
        elif stream.paused:
            stream.resume()
        if exchanges or self._last is not None:
            if self._deadline != "none":
                self._deadline = "none"
                stream.reactor.wheel.schedule(stream, NEVER)
        elif self._parser.idle:
            if self._deadline != "idle" or not stream.due < NEVER:
                self._wait_idle()
        elif self._deadline != "head":
            self._deadline = "head"
            stream.reactor.wheel.schedule(stream, stream.reactor.now + self.server.limits.head_timeout_s)

    def _wait_idle(self) -> None:
        if self.server.stopping:
            self.stream.close()
            return
        self._deadline = "idle"
        self.stream.reactor.wheel.schedule(self.stream, self.stream.reactor.now + self.server.limits.keep_alive_s)

    def eof(self) -> None:
        for event in self._parser.feed_eof() if self._parser else ():
            if isinstance(event, Rejected):
                self.stream.abort()
                return
        if not self._exchanges and self._switch is None:
            self.stream.close()
            return
        for exchange in self._exchanges:  # it may only have shut its side: the answers are still written
            exchange.disconnected()

    def expired(self, now: float) -> None:
        if self._switch is not None:
            self._switch.give_up()
        elif self._deadline == "head":
            seconds = self.server.limits.head_timeout_s
            self._reject(408, f"The request's head did not come within {seconds:g} s.")
        else:
            self.stream.close()

    # -- out -----------------------------------------------------------------------------------------------------

    def exchange_over(self, exchange: Exchange, *, keep_alive: bool) -> None:
        """The answer to the first exchange is written; the next one's turn."""
        if self.stream.gone:
            return
        if not keep_alive or self.server.stopping:
            self._exchanges.clear()
            self.stream.close(linger=True)
            return
        self._exchanges.popleft()
        if self._exchanges:
            self._exchanges[0].begin()
        elif self._last is not None:
            self._finish_last()
        if self.stream.protocol is self:
            self._pump()

    def body_taken(self) -> None:
        """The application has read from a request's body."""
        if self.stream.paused and not self.stream.gone:
            self._pump()

    def drained(self) -> None:
        if self._exchanges:
            self._exchanges[0].drained()

    def _finish_last(self) -> None:
        last = self._last
        if isinstance(last, Rejected):
            self._reject(last.status, f"Bad request: {last.reason}.")
        elif isinstance(last, RequestHead):
            self._begin_switch(last)

    def _reject(self, status: int, text: str, headers: Any = ()) -> None:
        """Answer a request that has no application, and end the connection."""
        self.stream.write(simple_response(status, text + "\n", headers, date=self.server.date()))
        self.stream.close(linger=True)

    def refuse_plain(self, exchange: Exchange) -> bool:
        """Answer a request that no application is there for; returns whether that was so."""
        head = exchange.head
        if self.crowded:
            self._crowd_out()
            return True
        site = self.server.site
        mounted = site.mount(head.path)
        route = site.route(head.path)
        if route is not None and (mounted is None or mounted[0] != head.path.rstrip("/") or head.websocket_hint):
            try:
                check_upgrade(head)
            except HandshakeRefused as refused:
                self.stream.write(self.server.refusal(refused))
                self.stream.close(linger=True)
                return True
        if mounted is None:
            self._reject(404, NO_ROUTE)
            return True
        return False

    def _crowd_out(self) -> None:
        text = "This server has as many connections as it takes; try again later."
        self._reject(503, text, [("Retry-After", str(RETRY_AFTER_S))])

    # -- the switch ----------------------------------------------------------------------------------------------

    def _begin_switch(self, head: RequestHead) -> None:
        if self.crowded:
            self._crowd_out()
            return
        self.stream.pause()
        self._switch = Switch(self, head)
        self.stream.reactor.wheel.schedule(self.stream, self.stream.reactor.now + self.server.limits.head_timeout_s)
        self._switch.begin()

    def switched(self) -> bytes:
        """This connection speaks WebSocket from now on; returns what came after the head."""
        tail = (self._parser.tail() if self._parser is not None else b"") + self._waiting
        self._waiting = b""
        self._parser = None
        self._switch = None
        self._last = None
        return tail

    # -- the end -------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The server stops: end now if nothing is being answered, else after that."""
        if not self._exchanges and self._switch is None and self.stream.open:
            self.stream.close()

    def failed(self, error: Exception) -> None:
        self.server.logger.error("an HTTP connection failed within Portico", exc_info=error)

    def lost(self, cause: BaseException | None) -> None:
        self._parser = None
        if self._switch is not None:
            self._switch.abandon()
        for exchange in self._exchanges:
            exchange.disconnected()
            exchange.drained()
        self._exchanges.clear()
