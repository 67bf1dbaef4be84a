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
from portico.server.switch import RETRY_LATER, Switch
from portico.wire.handshake import HandshakeRefused, check_upgrade, refusal_response
from portico.wire.http1 import END, Rejected, RequestHead, RequestParser, simple_response

if TYPE_CHECKING:
    from portico.server.server import Server

HEAD_SLICE = 4096
BODY_SLICE = 65536


class HttpConnection(Protocol):
    """The HTTP/1.1 side of one TCP connection."""

    __slots__ = ("_deadline", "_exchanges", "_last", "_parser", "_switch", "_waiting", "crowded", "server", "stream")

    def __init__(self, server: Server, stream: Stream, *, crowded: bool = False) -> None:
        self.server = server
        self.stream = stream
        self.crowded = crowded  # over a cap on connections: it gets one answer, 503
        self._parser: RequestParser | None = None
        self._waiting = b""  # came, and not parsed yet: there are requests enough, or a switch is being decided
        self._exchanges: deque[Exchange] = deque()
        self._last: Rejected | RequestHead | None = None  # ends HTTP here; dealt with when the exchanges are over
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
        """Parse what has come, in slices, as long as what it makes has room; then begin what is first."""
        parser = self._parser
        if parser is None:
            return
        waiting = self._waiting
        at = 0
        while at < len(waiting) and self._last is None and not self._full():
            step = BODY_SLICE if self._exchanges and not parser.in_head and not parser.idle else HEAD_SLICE
            self._take(parser.feed(waiting[at : at + step]))
            at += step
        self._waiting = waiting[at:]
        self._begin_first()
        if self.stream.protocol is self and self.stream.open:
            self._watch(parser)

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
                self._exchanges.append(Exchange(self, event))
            else:
                self._last = event
                if self._exchanges:
                    self._exchanges[-1].broken_off()

    def _begin_first(self) -> None:
        """Let the first of what was parsed be answered, where that is not under way."""
        if self._exchanges:
            if not self._exchanges[0].begun:
                self._exchanges[0].begin()
        elif isinstance(self._last, Rejected):
            self._reject(self._last.status, f"Bad request: {self._last.reason}.")
        elif self._last is not None and self._switch is None:
            self._begin_switch(self._last)

    def _watch(self, parser: RequestParser) -> None:
        """After input: pause or go on reading, and set the deadline that fits."""
        stream = self.stream
        if self._switch is not None:  # reading goes on, so that the peer's end is seen
            if len(self._waiting) >= BODY_SLICE:
                stream.pause()
            return
        if self._waiting or self._last is not None or self._full():
            stream.pause()
        elif stream.paused:
            stream.resume()
        if self._exchanges and not self._exchanges[0].over:
            if self._deadline != "none":
                self._deadline = "none"
                stream.reactor.wheel.schedule(stream, NEVER)
        elif self._exchanges or parser.idle:
            if self._deadline != "idle" or not stream.due < NEVER:
                self._wait_idle()
        elif self._deadline != "head":
            self._deadline = "head"
            stream.reactor.wheel.schedule(stream, stream.reactor.now + self.server.limits.head_timeout_s)

    def _wait_idle(self) -> None:
        if self.server.stopping:
            self.stream.close()
            return
        limits = self.server.limits
        self._deadline = "idle"
        seconds = limits.head_timeout_s if self.crowded else limits.keep_alive_s
        self.stream.reactor.wheel.schedule(self.stream, self.stream.reactor.now + seconds)

    def eof(self) -> None:
        for event in self._parser.feed_eof() if self._parser else ():
            if isinstance(event, Rejected):
                self.stream.abort()
                return
        if not self._exchanges:
            self.stream.close()
            return
        for exchange in self._exchanges:  # it may only have shut its side: the answers are still written
            exchange.disconnected()
        self._exchanges[-1].keep_alive = False

    def expired(self, now: float) -> None:
        if self._switch is not None:
            self._switch.give_up()
        elif self._deadline == "head":
            seconds = self.server.limits.head_timeout_s
            self._reject(408, f"The request's head did not come within {seconds:g} s.")
        else:
            self.stream.close(timeout_s=self.server.limits.keep_alive_s)

    # -- out -----------------------------------------------------------------------------------------------------

    def exchange_over(self) -> None:
        """The answer to the first exchange is written."""
        stream = self.stream
        if not stream.open:
            return
        if stream.buffered <= stream.high_water or not self._exchanges[0].keep_alive:
            self._next()
        elif self._parser is not None:  # nothing more is answered until the peer has taken most of this
            self._watch(self._parser)

    def _next(self) -> None:
        """The next request's turn, or the end where there is none to be."""
        if not self._exchanges[0].keep_alive or self.server.stopping:
            self._end_http()
            return
        self._exchanges.popleft()
        self._pump()

    def _end_http(self) -> None:
        """Write what is left, and close; the requests that may wait are not answered (RFC 9112 §9.6)."""
        broken = self._last if isinstance(self._last, Rejected) and not self._exchanges[0].started else None
        self._exchanges.clear()
        if broken is not None:
            self._reject(broken.status, f"Bad request: {broken.reason}.")
        else:
            self.stream.close(linger=True, timeout_s=self.server.limits.keep_alive_s)

    def body_taken(self) -> None:
        """The application has read from a request's body."""
        if self.stream.paused and self.stream.open:
            self._pump()

    def drained(self) -> None:
        if not self._exchanges:
            return
        if self._exchanges[0].over:
            self._next()
        else:
            self._exchanges[0].drained()

    def _reject(self, status: int, text: str, headers: Any = (), *, head_only: bool = False) -> None:
        """Answer a request that has no application, and end the connection."""
        self.server.counters.refused[status] += 1
        date = self.server.date()
        self.stream.write(simple_response(status, text + "\n", headers, head_only=head_only, date=date))
        self.stream.close(linger=True)

    def refuse_plain(self, head: RequestHead) -> bool:
        """Answer a request that no application is there for, and close; returns whether that was so."""
        head_only = head.method == "HEAD"
        if self.crowded:
            self._crowd_out(head_only=head_only)
            return True
        site = self.server.site
        mounted = site.mount(head.path)
        # An application mounted at the very path of a WebSocket answers its plain requests; one mounted above doesn't.
        page = mounted is not None and mounted[0] == head.path.rstrip("/") and not head.websocket_hint
        if site.route(head.path) is not None and not page:
            try:
                check_upgrade(head)
            except HandshakeRefused as refused:
                self.server.counters.refused[refused.http_status] += 1
                text = refused.reason + "\n"
                answer = refusal_response(refused.http_status, text, refused.headers, date=self.server.date())
                self.stream.write(answer.removesuffix(text.encode()) if head_only else answer)
                self.stream.close(linger=True)
                return True
        if mounted is None:
            self._reject(404, "Nothing is served at this path.", head_only=head_only)
            return True
        return False

    def _crowd_out(self, *, head_only: bool = False) -> None:
        text = "This server has as many connections as it takes; try again later."
        self._reject(503, text, [RETRY_LATER], head_only=head_only)

    # -- the switch ----------------------------------------------------------------------------------------------

    def _begin_switch(self, head: RequestHead) -> None:
        if self.crowded:
            self._crowd_out()
            return
        self._switch = Switch(self, head)
        if self.stream.paused:  # as it was behind other requests
            self.stream.resume()
        self.stream.reactor.wheel.schedule(self.stream, self.stream.reactor.now + self.server.limits.head_timeout_s)
        self._switch.begin()

    def switched(self) -> bytes:
        """This connection speaks HTTP no more; returns what came after the head."""
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
