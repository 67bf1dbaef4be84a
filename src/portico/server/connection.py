"""One connection while it speaks HTTP/1.1: requests in order, their answers in the same order, and the switch.

Owns the parser and the queue of exchanges. When a request to switch is accepted, the stream gets a `WebSocket` for its
protocol, with the bytes that came after the head, and this object is let go.
"""

from __future__ import annotations

import fcntl
import sys
import termios
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from portico.net.stream import Protocol, Stream
from portico.net.tls import HandshakeTimeout
from portico.server.app import AsgiApp, Native
from portico.server.eager import Spawn, spawners
from portico.server.exchange import Exchange
from portico.server.scopes import http_base
from portico.server.switch import RETRY_LATER, Switch
from portico.wire.handshake import HandshakeRefused, check_upgrade, refusal_response
from portico.wire.http1 import END, Rejected, RequestHead, RequestParser, simple_response

if TYPE_CHECKING:
    from portico.server.server import Server

HEAD_SLICE: Final = 4096
BODY_SLICE: Final = 65536
SPARE: Final = 2  # stretches of time that a peer earns by taking much at once
AT_ONCE: Final = 64  # requests of one connection that are answered in one turn

NONE: Final = 0
IDLE: Final = 1  # no request has begun
HEAD: Final = 2  # a head has begun
BUSY: Final = 3  # a request is being answered


def taken_of(stream: Stream) -> int:
    """Bytes of what was written that have reached the peer. Our kernel holds others back, and is ready for more only
    when a good part of these, which may be megabytes, has gone."""
    try:
        held = fcntl.ioctl(stream.fd, termios.TIOCOUTQ, bytes(4))  # on Linux also SIOCOUTQ: tcp(7), unix(7)
    except OSError:
        return int(stream.bytes_out)
    return int(stream.bytes_out) - int.from_bytes(held, sys.byteorder)


class HttpConnection(Protocol):
    """The HTTP/1.1 side of one TCP connection."""

    __slots__ = (
        "_came",
        "_exchanges",
        "_last",
        "_parser",
        "_phase",
        "_pumping",
        "_reading",
        "_scope",
        "_spare",
        "_spawn",
        "_spawn_apart",
        "_switch",
        "_taken",
        "_waiting",
        "_went",
        "crowded",
        "server",
        "stream",
    )

    def __init__(self, server: Server, stream: Stream, *, crowded: bool = False) -> None:
        self.server = server
        self.stream = stream
        self.crowded = crowded  # over a cap on connections: it gets one answer, 503
        self._parser: RequestParser | None = None
        self._waiting = b""  # came, and not parsed yet: there are requests enough, or a switch is being decided
        self._exchanges: deque[Exchange] = deque()
        self._last: Rejected | RequestHead | None = None  # ends HTTP here; dealt with when the exchanges are over
        self._switch: Switch | None = None
        self._pumping = False
        self._phase = NONE
        self._came = 0  # bytes, when progress was looked at last
        self._went = 0
        self._taken: int | None = None  # bytes that the peer took; known only while our kernel takes no more
        self._spare = 0  # stretches of time in which it need not take any
        self._reading = False  # within `received`, and so in nobody's context
        self._spawn: Spawn | None = None  # made with the first scope
        self._spawn_apart: Spawn | None = None  # for a request that begins where another one ends
        self._scope: dict[str, Any] | None = None  # what the scopes of all requests share

    # -- in ------------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        self._wait_idle()

    def received(self, data: bytearray, size: int) -> None:
        if self._parser is None:
            self._parser = RequestParser(self.server.limits)
        piece = bytes(data[:size]) if size < HEAD_SLICE else bytes(memoryview(data)[:size])
        self._waiting = self._waiting + piece if self._waiting else piece
        self._reading = True
        self._pump()
        self._reading = False

    def _pump(self) -> None:
        """Parse what has come, in slices, as long as what it makes has room; answer what is first, then the next.

        An application may answer at once: this is the one loop that goes on to the next request.
        """
        parser = self._parser
        if parser is None or self._pumping:
            return
        self._pumping = True
        try:
            for _ in range(AT_ONCE):
                self._parse(parser)
                if not self._advance() and not self._may_parse():
                    break
            else:
                self.stream.reactor.soon(self.stream, self._pump)  # others have their turn
        finally:
            self._pumping = False
        if self.stream.protocol is self and self.stream.is_open():
            self._watch(parser)

    def _may_parse(self) -> bool:
        """Whether there is more to parse, and room: an application that has begun at once may have made some."""
        return bool(self._waiting) and self._last is None and not self._full()

    def _parse(self, parser: RequestParser) -> None:
        waiting = self._waiting
        if not waiting:
            return
        at = 0
        while at < len(waiting) and self._last is None and not self._full():
            step = parser.body_left() or HEAD_SLICE  # of a body what is here may come at once: it is held anyway
            self._take(parser.feed(waiting[at : at + step], True))
            at += parser.taken
        self._waiting = waiting[at:]

    def _advance(self) -> bool:
        """Let what is first be answered; returns whether that is over and the next one may come."""
        if not self._exchanges:
            self._begin_last()
            return False
        exchange = self._exchanges[0]
        if not exchange.begun:
            exchange.begun = True
            exchange.began = self._now()
            self._phase = NONE  # its own stretch of time begins
            self._answer(exchange)
        stream = self.stream
        if not exchange.over or not stream.is_open():
            return False
        if stream.buffered > stream.high_water:
            return False  # the peer has to take most of this before anything else, the end too
        if not exchange.keep_alive or self.server.stopping:
            self._end_http()
            return False
        self._exchanges.popleft()
        return True

    def _full(self) -> bool:
        """Whether what came and is not dealt with yet is as much as it may be."""
        if not self._exchanges:
            return False
        server = self.server
        held = 0
        for exchange in self._exchanges:
            held += exchange.held
        return held > server.max_held or len(self._exchanges) > server.max_pipelined

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
                if isinstance(event, Rejected) and event.limit:
                    self.server.counters.exceeded[event.limit] += 1
                if self._exchanges:
                    self._exchanges[-1].broken_off()

    def _begin_last(self) -> None:
        """What ends HTTP here, if it has come, now that all before it is answered."""
        if isinstance(self._last, Rejected):
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
            self._phase = NONE  # what the peer could not send meanwhile does not count
        if self._exchanges:
            if self._phase != BUSY:
                self.watch_progress()
        elif parser.idle:
            if self._phase != IDLE:
                self._wait_idle()
        elif self._phase != HEAD:
            self._phase = HEAD
            self._expect(self.server.limits.head_timeout_s)

    def _expect(self, seconds: float) -> None:
        self.stream.reactor.wheel.schedule(self.stream, self._now() + seconds)

    def _now(self) -> float:
        reactor = self.stream.reactor
        return reactor.turn_time if reactor.in_turn else reactor.clock()

    def _wait_idle(self) -> None:
        if self.server.stopping:
            self.stream.close()
            return
        self._phase = IDLE
        self._expect(self.server.limits.head_timeout_s if self.crowded else self.server.keep_alive)

    def watch_progress(self) -> None:
        """A request is being answered: from now on the peer has to send of its body, or to take of the answer, so much
        in each stretch of time, where one of them is waited for."""
        stream = self.stream
        self._phase = BUSY
        self._came = stream.bytes_in
        self._went = stream.bytes_out
        self._taken = None
        self._expect(self.server.progress_window)

    def eof(self) -> None:
        cut = False
        for event in self._parser.feed_eof() if self._parser else ():
            cut = cut or isinstance(event, Rejected)
        if not self._exchanges:
            if cut:
                self.stream.abort()
            else:
                self.stream.close()
            return
        last = self._exchanges[-1]
        if cut and last.body_short:
            self.stream.abort()
            return
        for exchange in self._exchanges:  # it may only have shut its side: the answers are still written
            exchange.disconnected()
        last.keep_alive = False

    def expired(self, now: float) -> None:
        limits = self.server.limits
        if self._switch is not None:
            self._switch.give_up()
        elif self._phase == BUSY:
            self._check_progress()
        elif self._phase == HEAD:
            self.server.counters.exceeded["head_timeout_s"] += 1
            self._reject(408, f"The request's head did not come within {limits.head_timeout_s:g} s.")
        elif self.stream.blocked:  # it has not even taken the last answer
            self.watch_progress()
        else:
            if not self.crowded:  # that was counted already
                self.server.counters.exceeded["keep_alive_s"] += 1
            self.stream.close(timeout_s=limits.keep_alive_s)

    def _check_progress(self) -> None:
        """A stretch of time is over: end the connection of a peer that was waited for, and did too little.

        Of a body that waits behind other requests nothing is expected yet: they are answered first. Of an answer large
        pieces may be taken now and then, as kernels tell it, so that much of it at once counts for later, too.
        """
        stream = self.stream
        limits = self.server.limits
        least = limits.min_progress_bytes
        too_little = f"fewer than {least} bytes in {limits.progress_window_s:g} s"
        first = self._exchanges[0] if self._exchanges else None
        if stream.blocked and least:
            taken = taken_of(stream)
            moved = max(stream.bytes_out - self._went, 0 if self._taken is None else taken - self._taken)
            spare = min(moved // least, SPARE) if moved >= least or self._taken is None else self._spare - 1
            if spare < 0:
                self.server.counters.exceeded["min_progress_bytes"] += 1
                stream.abort(TimeoutError(f"the peer took {too_little} of an answer"), True)
            else:
                self.watch_progress()
                self._taken, self._spare = taken, spare
        elif first is not None and first.body_due and not stream.paused and stream.bytes_in - self._came < least:
            self.server.counters.exceeded["min_progress_bytes"] += 1
            first.give_up(408, f"Of the request's body came {too_little}.\n")
        elif first is not None or stream.blocked:
            self.watch_progress()
        else:
            self._wait_idle()

    # -- out -----------------------------------------------------------------------------------------------------

    def exchange_over(self) -> None:
        """The answer to the first exchange is written."""
        if self.stream.is_open():
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
            self._pump()
        else:
            self._exchanges[0].drained()

    def _reject(self, status: int, text: str, headers: Any = (), *, head_only: bool = False) -> int:
        """Answer a request that has no application, and end the connection; returns the status."""
        self.server.counters.refused[status] += 1
        date = self.server.date()
        self.stream.write(simple_response(status, text + "\n", headers, head_only=head_only, date=date))
        self.stream.close(linger=True)
        return status

    def _answer(self, exchange: Exchange) -> None:
        """Let the application that is mounted there answer, or refuse."""
        head = exchange.head
        head_only = head.method == "HEAD"
        if self.crowded:
            status = self._crowd_out(head_only=head_only)
        else:
            status = self._refuse_plain(head) if self.server.routes else 0
            if not status:
                mounted = self.server.only or self.server.site.mount(head.path)
                if mounted is not None:
                    root, app = mounted
                    if isinstance(app, Native) and app.take(exchange, root):
                        return
                    scope = self._http_scope(head, root, app)
                    exchange.start(self._spawn if self._reading else self._spawn_apart, app, scope)
                    return
                status = self._reject(404, "Nothing is served at this path.", head_only=head_only)
        exchange.refused(status)

    def _http_scope(self, head: RequestHead, root: str, app: AsgiApp) -> dict[str, Any]:
        """The scope of one request (ASGI HTTP & WebSocket, §HTTP connection scope)."""
        server = self.server
        if self._scope is None:
            self._scope = http_base(server, self.stream)
            self._spawn, self._spawn_apart = spawners(self.stream.reactor.loop, "http request")
        scope = self._scope.copy()
        scope["http_version"] = head.version
        scope["method"] = head.method
        scope["path"] = head.path
        scope["raw_path"] = head.raw_path
        scope["query_string"] = head.query
        scope["root_path"] = root
        scope["headers"] = head.headers
        scope["state"] = server.states[app].copy()
        scope["extensions"] = scope["extensions"].copy()
        if server.proxies is not None:
            server.proxies.describe(scope, self.stream, head.headers)
        return scope

    def _refuse_plain(self, head: RequestHead) -> int:
        """Answer a plain request for the path of a WebSocket, and close; returns the status, 0 for other ones."""
        site = self.server.site
        if site.route(head.path) is None:
            return 0
        mounted = site.mount(head.path)
        # An application mounted at the very path of a WebSocket answers its plain requests; one mounted above doesn't.
        if mounted is not None and mounted[0] == head.path.rstrip("/") and not head.websocket_hint:
            return 0
        try:
            check_upgrade(head)
        except HandshakeRefused as refused:
            status = refused.http_status
            self.server.counters.refused[status] += 1
            text = refused.reason + "\n"
            answer = refusal_response(status, text, refused.headers, date=self.server.date())
            self.stream.write(answer.removesuffix(text.encode()) if head.method == "HEAD" else answer)
            self.stream.close(linger=True)
            return status
        return 0

    def _crowd_out(self, *, head_only: bool = False) -> int:
        text = "This server has as many connections as it takes; try again later."
        return self._reject(503, text, [RETRY_LATER], head_only=head_only)

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
        if isinstance(cause, HandshakeTimeout):
            self.server.counters.exceeded["head_timeout_s"] += 1
        if self._switch is not None:
            self._switch.abandon()
        for exchange in self._exchanges:
            exchange.disconnected()
            exchange.drained()
            if exchange.begun:
                exchange.log()
        self._exchanges.clear()
