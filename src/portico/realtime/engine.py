"""The engine: all sessions of a Realtime, which requests reach which of them, and the WebSocket transport."""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from portico.accounting import Counters as ServerCounters
from portico.errors import LocalError, Refuse
from portico.net.reactor import Reactor
from portico.realtime.following import Following
from portico.realtime.polling import Polling
from portico.realtime.polls import Polls
from portico.realtime.refusals import Refused, refused_by, wrong_version
from portico.realtime.sessions import Session
from portico.realtime.transport import Admission, SessionSocket
from portico.realtime.unidentified import Unidentified, Waiting
from portico.server.app import Native, Options, Origins, Route
from portico.wire import engineio

if TYPE_CHECKING:
    from portico.realtime.rates import Rate
    from portico.realtime.realtime import Realtime
    from portico.server.exchange import Exchange
    from portico.wire.request import Request

OnSlow = Literal["close", "drop_oldest", "drop_newest"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """The options of the sessions of a `Realtime`; see there."""

    ping_interval_s: float = 25.0
    ping_timeout_s: float = 20.0
    max_payload_bytes: int = 1_000_000
    connect_timeout_s: float = 45.0
    upgrade_timeout_s: float = 10.0
    max_outbox_bytes: int = 1024 * 1024
    max_unread_bytes: int = 256 * 1024
    on_slow: OnSlow = "close"
    origins: Origins = None
    unidentified: Unidentified = dataclasses.field(default_factory=Unidentified)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if not name.endswith(("_s", "_bytes")):
                continue
            kinds = (int, float) if name.endswith("_s") else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0.01 <= value <= 2**31:
                raise LocalError(f"Realtime({name}={value!r}): expected a number above 0")
        if not isinstance(self.unidentified, Unidentified):
            raise LocalError(
                f"Realtime(unidentified={self.unidentified!r}): expected a portico.realtime.Unidentified, or None"
            )
        if self.on_slow not in ("close", "drop_oldest", "drop_newest"):
            raise LocalError(f"Realtime(on_slow={self.on_slow!r}): expected 'close', 'drop_oldest' or 'drop_newest'")


class EngineCounters:
    """What has happened since the start: events that slow clients did not get (``dropped``) or got a newer one in place
    of (``replaced``), requests and packets that were refused, by reason, and sessions that ended, by reason.

    Of those who follow rooms without a session: ``streams`` that began, how often one fell ``behind`` and read on from
    the history, and ``polls``.
    """

    __slots__ = ("behind", "closed", "dropped", "polls", "refused", "replaced", "streams")

    def __init__(self) -> None:
        self.behind = 0
        self.polls = 0
        self.streams = 0
        self.dropped = 0
        self.replaced = 0
        self.refused: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()


class Engine:
    """All sessions of one `Realtime` in this process."""

    def __init__(self, io: Realtime, options: EngineOptions, connect_rate: Rate | None = None) -> None:
        self.io = io
        self.options = options
        self.counters = EngineCounters()
        self.sessions: dict[str, Session] = {}
        self.waiting = Waiting(options.unidentified, connect_rate)  # those that are connected to no namespace
        self._reactor: Reactor | None = None

    @property
    def reactor(self) -> Reactor:
        if self._reactor is None:
            raise LocalError("this Realtime is not being served: mount it in a portico.App")
        return self._reactor

    def start(self) -> None:
        """Run on this event loop from now on."""
        self._reactor = Reactor.running()

    def stop(self, mounted: Mounted | None = None) -> None:
        """End every session, or those of one server: it stops."""
        for session in list(self.sessions.values()):
            if mounted is None or session.mounted is mounted:
                session.close("server shutting down")

    def check(self, query: dict[str, str], *, upgrade: bool, method: str = "GET") -> Session | None:
        """The session that a request is for; None where it asks for a new one. Raises Refused.

        In the order of the reference server: transport, session, method, version.
        """
        transport = query.get("transport")
        if transport not in ("polling", "websocket"):
            came = "none" if transport is None else repr(transport[:20])
            raise Refused(engineio.UNKNOWN_TRANSPORT, f"expected transport=polling or websocket, and {came} came")
        sid = query.get("sid")
        if sid is not None:
            return self._known(sid, transport, upgrade)
        if method != "GET":
            raise Refused(engineio.BAD_METHOD, f"a session begins with GET, and {method} came")
        if query.get("EIO") != engineio.VERSION:
            raise wrong_version(query.get("EIO"))
        if upgrade != (transport == "websocket"):
            hint = "it asks for transport=websocket without an upgrade to WebSocket: has a proxy dropped that?"
            raise Refused(engineio.BAD_REQUEST, hint if not upgrade else "it upgrades with transport=polling")
        return None

    def _known(self, sid: str, transport: str, upgrade: bool) -> Session:
        session = self.sessions.get(sid)
        if session is None:
            raise Refused(engineio.UNKNOWN_SID, "it has ended, or another process has it")
        if upgrade:
            if session.ws is not None or session.probe is not None or transport != "websocket" or session.closed:
                raise Refused(engineio.BAD_REQUEST, "this session has a WebSocket already, or has ended")
        elif session.ws is not None or transport != "polling":
            raise Refused(engineio.BAD_REQUEST, "this session is on another transport")
        return session

    def open(self, mounted: Mounted, request: Request, user: Any) -> Session:
        """A new session."""
        if mounted.stopping:
            raise Refused(engineio.FORBIDDEN, "this server is stopping", status=503, headers=[("Retry-After", "5")])
        self.waiting.check(request)
        session = Session(self, mounted, request, user)
        self.waiting.enter(session)
        self.sessions[session.id] = session
        return session

    def forget(self, session: Session) -> None:
        """A session is over, and all that it had to say is said."""
        if self.sessions.pop(session.id, None) is not None:
            self.reactor.wheel.cancel(session)
            self.counters.closed[session.closed or ""] += 1


class Mounted(Native):
    """A Realtime under one server's options."""

    def __init__(self, io: Realtime, options: Options, counters: ServerCounters) -> None:
        self.io = io
        self.engine = engine = io.engine
        self.stopping = False
        own = engine.options
        limits = options.limits
        outbox = max(own.max_outbox_bytes, limits.high_water_bytes)
        self.options = dataclasses.replace(
            options,
            origins=own.origins if own.origins is not None else options.origins,
            authenticate=io.authenticate or options.authenticate,
            subprotocols=(),
            keepalive=None,  # sessions have a heartbeat of their own, on each transport
            limits=dataclasses.replace(
                limits,
                max_message_bytes=own.max_payload_bytes,
                max_outbox_bytes=outbox,
                max_unread_bytes=own.max_unread_bytes,
            ),
        )
        admitting = dataclasses.replace(self.options, authenticate=self._admit)
        self.route = Route(SessionSocket(self), admitting, counters)
        self._polling = Polling(self)
        self._polls = Polls(self)
        self.following = Following(self)

    def _admit(self, request: Request) -> Any:
        """Whether an upgrade request gets its 101, before it does; an `Admission`, or what will be one."""
        try:
            session = self.engine.check(request.query, upgrade=True)
            if session is not None:
                return Admission(session, session.user)
            if self.stopping:
                raise Refused(engineio.FORBIDDEN, "this server is stopping", status=503)
            self.engine.waiting.check_attempt(request, self.engine.reactor)
        except Refused as refused:
            self.engine.counters.refused[refused.why] += 1
            raise refused.refuse() from None
        user = self.identify(request)
        return _later(request, user) if inspect.isawaitable(user) else Admission(None, user)

    def identify(self, request: Request) -> Any:
        """Who asks, or what will be that once it is awaited: by the ticket in the query, else as ``authenticate`` says.
        Raises Refuse, at once or then."""
        ticket = request.query.get("ticket")
        if ticket is not None:
            return self.io.redeem(ticket)
        authenticate = self.options.authenticate
        return None if authenticate is None else authenticate(request)

    def take(self, exchange: Exchange, root: str) -> bool:
        """Answer a usual request of long-polling; False for others."""
        return self._polls.take(exchange, root)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if not self.io.running:
                await self.io.begin()
            await self._polling.answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            raise Refuse("nothing is served at this path", 404)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        try:
            await self.io.begin(server=True)
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"Realtime: {error}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.io.end()
        await send({"type": "lifespan.shutdown.complete"})

    def stop(self) -> None:
        """The server stops, now."""
        self.stopping = True
        self.engine.stop(self)
        self.io.streams.stop(self)
        self.following.stop()


async def _later(request: Request, user: Any) -> Admission:
    try:
        return Admission(None, await user)
    except Refuse as refuse:
        if "ticket" in request.query:
            raise refused_by(refuse).refuse() from None  # as by polling
        raise
