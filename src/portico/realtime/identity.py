"""Who a client is, and until when: an identity that expires ends its client, or is renewed in place.

One entry of the timer wheel for each client whose identity expires; nothing for the others.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from portico.errors import LocalError, Refuse
from portico.net.timers import NEVER, Timed
from portico.realtime.members import CONNECTING, GONE
from portico.realtime.unidentified import begin_again
from portico.wire.socketio import DISCONNECT

if TYPE_CHECKING:
    from portico.realtime.clients import Client
    from portico.realtime.namespaces import Namespace
    from portico.realtime.sessions import Session

logger = logging.getLogger("portico.realtime")

EXPIRED: Final = "identity expired"  # the reason of a disconnect, and the message of a connect_error
EXPIRED_EVENT: Final = "identity_expired"
EXPIRED_DATA: Final = {"code": "expired"}


class Identity:
    """A user, and until when he is that: what ``authenticate`` may return, and `Realtime.redeem` does.

    - `expires_s`: in so many seconds, or
    - `expires_at`: at this time (seconds since 1970, as `time.time` has them and the ``exp`` of a JWT); None: never.
    """

    __slots__ = ("expires_at", "user")

    def __init__(self, user: Any, *, expires_s: float | None = None, expires_at: float | None = None) -> None:
        self.user = user
        self.expires_at = moment(expires_s, expires_at)

    def __repr__(self) -> str:
        return f"Identity(expires_at={self.expires_at!r})"  # without the user: this text ends in logs


def moment(after_s: float | None, at: float | None) -> float | None:
    """The time that is meant: `after_s` seconds from now, or `at`; None for neither. Raises LocalError."""
    for name, value in (("expires_s", after_s), ("expires_at", at)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise LocalError(f"{name}={value!r}: expected a finite number of seconds, or None for never")
    if after_s is None:
        return at
    if at is not None:
        raise LocalError("expires_s and expires_at: expected one of the two")
    return time.time() + after_s


class Lifetime(Timed):
    """The identity of one client, and the deadline that it has."""

    __slots__ = ("_client", "_end", "expires_at", "user")

    def __init__(self, client: Client, user: Any, expires_at: float | None) -> None:
        super().__init__()
        self._client = client
        self.user = user
        self.expires_at = expires_at
        self._end = NEVER

    def begin(self) -> None:
        """From now on it has its deadline."""
        if self.expires_at is None:
            return
        io = self._client.namespace.io
        reactor = io.engine.reactor
        left = self.expires_at - time.time()
        now = reactor.clock()
        self._end = now + left
        early = io.expiring[1] if io.expiring is not None else 0.0
        reactor.wheel.schedule(self, self._end - early if 0 < early < left else self._end)

    def end(self) -> None:
        """It is no more that of its client."""
        if self._end != NEVER:
            self._client.session.engine.reactor.wheel.cancel(self)

    @property
    def over(self) -> bool:
        """Whether it has expired."""
        return self.expires_at is not None and self.expires_at <= time.time()

    def expired(self, now: float) -> None:
        client = self._client
        io = client.namespace.io
        if now >= self._end:
            _end(client)
            return
        client.session.engine.reactor.wheel.schedule(self, self._end)
        if io.expiring is not None and client.connected:
            io.background(io.expiring[0].call(io.pool, client))


def _end(client: Client) -> None:
    """Tell a client that its identity has expired, and disconnect it. A session that has no other is one that is
    connected to no namespace: it connects anew in time, or is closed. Not at once: the official client loses what comes
    by polling together with the session's end."""
    session = client.session
    namespace = client.namespace
    namespace.io.counters.refused["expired"] += 1
    if client.state is CONNECTING:
        client._refuse({"message": EXPIRED, "data": EXPIRED_DATA})
        client._reason = EXPIRED  # if the application lets it in all the same, it is told
    else:
        session.send(namespace.outgoing(namespace.event("event", [], [], (EXPIRED_EVENT,))))
        session.channel.send(DISCONNECT, namespace.name)
        client._end(EXPIRED)
        if not session.channel.clients:
            begin_again(session)


class Identified:
    """What a `Client` has of this."""

    __slots__ = ()

    namespace: Namespace
    session: Session
    _lifetime: Lifetime | None

    @property
    def user(self) -> Any:
        """What ``authenticate`` returned for the request that began its session, a ticket stands for, or `renew` was
        given."""
        if self._lifetime is not None:
            return self._lifetime.user
        user = self.session.user
        return user.user if type(user) is Identity else user

    @property
    def expires_at(self) -> float | None:
        """When its identity expires, in seconds since 1970; None for never."""
        return None if self._lifetime is None else self._lifetime.expires_at

    def renew(self, user: Any, *, expires_s: float | None = None, expires_at: float | None = None) -> None:
        """From now on it is `user`, until that expires: never, if neither is given. From any thread.

        An `Identity` brings its own time, if neither is given. Where it is another person now, as `Presence.identify`
        tells, the one that it was leaves the presence of its rooms, and this one joins.
        """
        until = moment(expires_s, expires_at)
        if type(user) is Identity:
            until = user.expires_at if until is None else until
            user = user.user
        self._do(lambda: self._become(user, until))

    def expire(self, after_s: float | None = None, *, at: float | None = None) -> None:
        """Its identity expires in `after_s` seconds, or at the time `at`; if neither is given, never. From any
        thread."""
        until = moment(after_s, at)
        self._do(lambda: self._begin_life(self.user, until))  # who it is then: it may be renewed before

    def _do(self, act: Callable[[], None]) -> None:
        """On the event loop, in the order of the calls."""
        io = self.namespace.io
        if io.is_here():
            act()
        else:
            io.soon(act)

    def _become(self, user: Any, until: float | None) -> None:
        client: Any = self
        self._begin_life(user, until)
        if client.connected and self.namespace.io.attendance is not None:
            self.namespace.io.attendance.renewed(client)

    def _begin_life(self, user: Any, until: float | None) -> None:
        client: Any = self
        if client.state is GONE:
            return
        if self._lifetime is not None:
            self._lifetime.end()
        lifetime = client._lifetime = Lifetime(client, user, until)
        lifetime.begin()


def identify(client: Client, identity: Identity) -> None:
    """Before a client is let in: it is who `identity` says. Raises Refuse where that has expired."""
    client._begin_life(identity.user, identity.expires_at)
    if client._lifetime is not None and client._lifetime.over:
        raise Refuse(EXPIRED, data=EXPIRED_DATA)
