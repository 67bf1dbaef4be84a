"""The usual requests of long-polling, answered in the connection's own turn: no ASGI scope, no task, no coroutine.

A GET or a small POST of a session that there is, with nothing unusual about it, as pages in browsers send them. All
other requests, and all that are refused, are `polling`'s affair: what is in any doubt goes there.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final

from portico.errors import ProtocolError
from portico.net.timers import Timed
from portico.realtime.origins import Header, cross_origin
from portico.realtime.outgoing import NOOP, Outgoing
from portico.realtime.refusals import Refused
from portico.realtime.runners import EVENT_BYTES
from portico.server.exchange import Exchange
from portico.wire import engineio

if TYPE_CHECKING:
    from portico.realtime.engine import Engine, Mounted
    from portico.realtime.sessions import Session

Start = dict[str, Any]

USUAL: Final = re.compile(rb"EIO=4&transport=polling(?:&t=[\w.-]*)?&sid=([\w-]+)(?:&t=[\w.-]*)?")
SMALL_BODY: Final = 16 * 1024
PACKETS_AT_ONCE: Final = 64
LONGEST_ORIGIN: Final = 300  # bytes: a scheme, a name of DNS and a port are less
OWN_ORIGINS: Final = 256  # that are remembered
TEXT: Final[Header] = (b"content-type", b"text/plain; charset=UTF-8")
JSON: Final[Header] = (b"content-type", b"application/json")
NO_STORE: Final[Header] = (b"cache-control", b"no-store")
START: Final[Start] = {"type": "http.response.start", "status": 200, "headers": [TEXT, NO_STORE]}
OK: Final[dict[str, Any]] = {"type": "http.response.body", "body": b"ok"}
NOT_UNDERSTOOD: Final = engineio.error_body(engineio.BAD_REQUEST, "this payload can't be understood")
UPGRADE_POLL_S: Final = 0.1  # how long a poll is held while the session is on its way to WebSocket


class Poll(Timed):
    """A GET that waits for packets. It is answered once."""

    __slots__ = ("packets", "session")

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.packets: list[Outgoing] | None = None  # the answer, where it is known before it is written
        session.poll = self
        if session.probe is not None:
            reactor = session.engine.reactor
            reactor.wheel.schedule(self, reactor.clock() + UPGRADE_POLL_S)

    def wake(self) -> None:
        """There is something: it is answered soon, with what is added until then."""
        raise NotImplementedError

    def finish(self, packets: list[Outgoing]) -> None:
        """Answer with `packets`, the last ones."""
        if self.packets is None:
            self.packets = packets
            self.session.poll = None
            self.wake()

    def release(self) -> None:
        """Answer now, with a ``noop`` if there is nothing else."""
        self.finish(self.session.take() or [NOOP])

    def expired(self, now: float) -> None:
        self.release()


class HeldPoll(Poll):
    """One of the usual ones, answered with all that the loop's turn brings."""

    __slots__ = ("_exchange", "_polls", "_start", "_woken", "over")

    def __init__(self, polls: Polls, session: Session, exchange: Exchange, start: Start) -> None:
        super().__init__(session)
        self.over = False
        self._polls = polls
        self._exchange = exchange
        self._start = start
        self._woken = False

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._polls.answer_soon(self)

    def set(self) -> None:
        """For the exchange: the peer has left, or the answer is complete."""
        if self.over or self.packets is not None:
            return
        session = self.session
        if session.poll is self:
            session.poll = None
        session.close("transport close", discard=True)
        self.packets = [NOOP]  # who has only shut its side gets an answer, which ends the connection
        self.wake()

    def answer(self) -> None:
        """Write the answer."""
        if self.over:
            return
        self.over = True
        session = self.session
        session.engine.reactor.wheel.cancel(self)
        if self._exchange.stream.gone:
            return
        packets = self.packets
        if packets is None:
            session.poll = None
            packets = session.take()
        respond(session, self._exchange, self._start, packets)


class Polls:
    """The usual requests of one mount."""

    def __init__(self, mounted: Mounted) -> None:
        self._engine: Engine = mounted.engine
        self._origins = mounted.options.origins
        self._woken: list[HeldPoll] = []

    def take(self, exchange: Exchange, root: str) -> bool:
        """Answer a request whose turn it is, now or later; False for one that is not usual."""
        head = exchange.head
        if len(head.path) > len(root) + 1 or head.version != "1.1":
            return False
        found = USUAL.fullmatch(head.query)
        session = self._engine.sessions.get(found[1].decode()) if found is not None else None
        if session is None or session.ws is not None or session.closed is not None:
            return False
        start = self._start(exchange)
        if start is None:
            return False
        if head.method == "GET":
            return self._get(session, exchange, start)
        return head.method == "POST" and self._post(session, exchange, start)

    def _start(self, exchange: Exchange) -> Start | None:
        """What the answer begins with; None where the headers ask for more than an answer, or their page is refused."""
        host = origin = None
        for name, value in exchange.head.headers:
            if name == b"host":
                host = value
            elif name == b"origin":
                if origin is not None or len(value) > LONGEST_ORIGIN:
                    return None
                origin = value
            elif name == b"content-type" and not value.startswith(b"text/plain"):
                return None
        if origin is None:
            return START
        _, scheme, told = exchange.seen()
        try:
            if self._origins is None:
                return _own_start(origin, told or host or b"", scheme)
            return _start(cross_origin(origin, told or host or b"", scheme, self._origins))
        except Refused:
            return None  # as `polling` will, which says why

    def _get(self, session: Session, exchange: Exchange, start: Start) -> bool:
        if session.poll is not None or exchange.body_short:
            return False
        session.heard()
        if session.waiting:
            respond(session, exchange, start, session.take())
        else:
            exchange.watch(HeldPoll(self, session, exchange, start))
        return True

    def _post(self, session: Session, exchange: Exchange, start: Start) -> bool:
        if session.posting or exchange.body_short or exchange.held > min(SMALL_BODY, session.max_payload_bytes):
            return False
        if not session.has_room(exchange.held + EVENT_BYTES * PACKETS_AT_ONCE):
            return False
        body = exchange.peek_body()
        if body.count(b"\x1e") >= PACKETS_AT_ONCE:
            return False
        try:
            packets = list(engineio.decode_payload(body))
        except ProtocolError:
            return False
        session.heard()
        for packet in packets:
            session.receive(packet)
        if session.closed == "parse error":
            self._engine.counters.refused[engineio.BAD_REQUEST[1]] += 1
            exchange.send(start | {"status": 400, "headers": [JSON, *start["headers"][1:]]})
            exchange.send({"type": "http.response.body", "body": NOT_UNDERSTOOD})
        else:
            exchange.send(start)
            exchange.send(OK)
        return True

    def answer_soon(self, poll: HeldPoll) -> None:
        """Answer `poll` in the loop's next turn, together with all others that are woken until then."""
        self._woken.append(poll)
        if len(self._woken) == 1:
            self._engine.reactor.loop.call_soon(self._answer)

    def _answer(self) -> None:
        woken, self._woken = self._woken, []
        for poll in woken:
            poll.answer()


def respond(session: Session, exchange: Exchange, start: Start, packets: list[Outgoing]) -> None:
    """Answer a GET."""
    body = payload(session, packets)
    exchange.send(start)
    exchange.send({"type": "http.response.body", "body": body})


def payload(session: Session, packets: list[Outgoing]) -> bytes:
    """The body that answers a GET. A session that is over, and has nothing else to say, is forgotten."""
    if session.closed is not None and not session.waiting:
        session.engine.forget(session)
    return packets[0].payload if len(packets) == 1 else b"\x1e".join([out.payload for out in packets or (NOOP,)])


def _start(crossing: list[Header]) -> Start:
    return START | {"headers": [TEXT, NO_STORE, *crossing]}


@functools.lru_cache(OWN_ORIGINS)
def _own_start(origin: bytes, host: str | bytes, scheme: str) -> Start:
    """The start for a page of the server's own origin. Raises Refused for another, which is not remembered."""
    return _start(cross_origin(origin, host, scheme, None))
