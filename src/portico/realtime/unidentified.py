"""Sessions that are connected to no namespace yet: anybody may have one, so they may have little."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portico.errors import LimitExceeded, LocalError
from portico.realtime.rates import Attempts, Rate, address_of, too_many
from portico.realtime.refusals import Refused, forbidden
from portico.wire import engineio

if TYPE_CHECKING:
    from portico.net.reactor import Reactor
    from portico.realtime.sessions import Session
    from portico.websocket import WebSocket
    from portico.wire.request import Request

PACKET_BYTES: Final = 64  # what a packet counts besides its bytes
CROWDED: Final = "too many sessions that are connected to no namespace"
TOO_OFTEN: Final = "too many attempts to connect"
RETRY_S: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Unidentified:
    """What a session may have until it is connected to a namespace.

    - `max_payload_bytes` (16 KiB): a message, a polling request. Beyond: as for the Realtime's `max_payload_bytes`,
      which holds where it is less.
    - `max_bytes` (64 KiB): all that comes; each packet counts 64 bytes besides. Beyond: close 1008.
    - `max_sessions`, `max_sessions_per_address` (0: no cap): how many there may be. Beyond: 503 with Retry-After.

    How long one may be that is the Realtime's `connect_timeout_s`.
    """

    max_payload_bytes: int = 16 * 1024
    max_bytes: int = 64 * 1024
    max_sessions: int = 0
    max_sessions_per_address: int = 0

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            least = 0 if "sessions" in each.name else 1
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 31:
                raise LocalError(f"Unidentified({each.name}={value!r}): expected a whole number from {least} on")


class Waiting:
    """The sessions of a Realtime that are connected to no namespace; counted only where that is bounded."""

    def __init__(self, limits: Unidentified, connect_rate: Rate | None) -> None:
        self._limits = limits
        self._attempts = None if connect_rate is None else Attempts(connect_rate)
        self._counts = limits.max_sessions > 0 or limits.max_sessions_per_address > 0
        self._addresses: Counter[str | None] = Counter()
        self.count = 0

    def check_attempt(self, request: Request, reactor: Reactor) -> None:
        """Somebody asks for a session; raises Refused where it is once too often, or there are too many."""
        _let_wait(self.attempt(request, reactor))
        self.check(request)

    def check_failures(self, request: Request, reactor: Reactor) -> None:
        """Somebody shows who it is without asking for a session: only what fails is an `attempt`. Raises Refused where
        there were too many."""
        if self._attempts is not None:
            _let_wait(self._attempts.wait(request, reactor.clock()))

    def attempt(self, request: Request, reactor: Reactor) -> float:
        """One more attempt of an address: 0; where it is one too many, the seconds until the next."""
        return 0.0 if self._attempts is None else self._attempts.take(request, reactor.clock())

    def check(self, request: Request) -> None:
        """Raise Refused where there is no room for one more."""
        if not self._counts:
            return
        limits = self._limits
        address = address_of(request)
        full = 0 < limits.max_sessions <= self.count
        if full or (address is not None and 0 < limits.max_sessions_per_address <= self._addresses[address]):
            headers = [("Retry-After", str(RETRY_S))]
            raise Refused(engineio.FORBIDDEN, CROWDED, status=503, headers=headers)

    def enter(self, session: Session) -> None:
        """There is one more."""
        if self._counts:
            self.count += 1
            self._addresses[address_of(session.request)] += 1

    def leave(self, session: Session) -> None:
        """One has been connected to a namespace, or has ended."""
        if self._counts:
            self.count -= 1
            address = address_of(session.request)
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]


def _let_wait(seconds: float) -> None:
    """Refuse who has come too often, where that is to wait."""
    if seconds:
        raise forbidden(TOO_OFTEN, 429, [("Retry-After", str(math.ceil(seconds)))], too_many(seconds))


def restrict(session: Session, ws: WebSocket) -> None:
    """A WebSocket takes no more than its session may have; but what is half here is taken by the old measure."""
    if session.allowance is not None and not ws.wire.assembling():
        ws.wire.max_message = session.max_payload_bytes


def begin_again(session: Session) -> None:
    """It is connected to no namespace any more: it has to be in time, and may have little until then."""
    if session.closed is None and session.allowance is None:
        session.engine.waiting.enter(session)
        session.expect_connect()
        if session.ws is not None:
            restrict(session, session.ws)


def afford(session: Session, size: int) -> bool:
    """Whether the session may still send a packet of `size`; where not, it ends."""
    left = session.allowance
    if left is None:
        return True
    session.allowance = left = left - size - PACKET_BYTES
    if left >= 0:
        return True
    session.engine.counters.refused["unidentified"] += 1
    most = session.engine.options.unidentified.max_bytes
    session.fail(LimitExceeded(f"over {most} bytes before a namespace is connected", limit="max_bytes"))
    return False


def admitted(session: Session) -> None:
    """It is connected to a namespace: from now on it may have what the Realtime allows."""
    if session.allowance is None:
        return
    session.allowance = None
    session.engine.waiting.leave(session)
    for ws in (session.ws, session.probe):
        if ws is not None:
            ws.wire.max_message = session.max_payload_bytes
