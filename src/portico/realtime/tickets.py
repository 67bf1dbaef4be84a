"""One-time tickets: an HTTP route knows who the visitor is, and gives his page something to show when it connects.

A ticket is a random text. What it stands for is with the broker, under the text's hash, until any node takes it, once,
or its time is over.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
from typing import TYPE_CHECKING, Any, Final

import msgspec

from portico.errors import LocalError, Refuse
from portico.realtime.handlers import Handler
from portico.realtime.identity import Identity, moment

if TYPE_CHECKING:
    from portico.brokers import Broker

logger = logging.getLogger("portico.realtime")

BYTES: Final = 24  # of randomness
MAX_S: Final = 3600.0
INVALID: Final = "this ticket is not valid"  # wrong, used or expired: nobody is told which
INVALID_DATA: Final = {"code": "ticket"}


class Issued(msgspec.Struct, omit_defaults=True, gc=False):
    """What a ticket stands for."""

    user: Any
    until: float | None = None  # the identity's end


class Tickets:
    """What a `Realtime` has of this."""

    broker: Broker
    running: bool
    expiring: tuple[Handler, float] | None = None

    @property
    def counters(self) -> Any:
        raise NotImplementedError

    async def ticket(self, user: Any, *, expires_s: float = 30.0, identity_s: float | None = None) -> str:
        """A ticket for `user`: who shows it within `expires_s` seconds (30; at most an hour) is him, once.

        `user` is any data that msgspec can encode; ``client.user`` is the plain form of it. With `identity_s` the
        identity expires so many seconds from now. Raises LocalError for other data, and where this Realtime is not
        being served; BrokerError.
        """
        wrong = isinstance(expires_s, bool) or not isinstance(expires_s, (int, float)) or math.isnan(expires_s)
        if wrong or not 0 < expires_s <= MAX_S:
            raise LocalError(f"ticket(expires_s={expires_s!r}): expected seconds, above 0 and at most {MAX_S:.0f}")
        if not self.running:
            raise LocalError("ticket(): this Realtime is not being served: mount it in a portico.App")
        text = secrets.token_urlsafe(BYTES)
        issued = Issued(user, moment(identity_s, None))
        await self.broker.store(_key(text), issued, expires_s)
        return text

    async def redeem(self, ticket: object) -> Identity:
        """Who a ticket stands for; it is used then. Raises `portico.Refuse` for one that is wrong, used or expired:
        the same for all three. For a handler that renews an identity."""
        issued = None
        if isinstance(ticket, str) and len(ticket) <= 64:
            issued = await self.broker.take(_key(ticket), Issued)
        if issued is None:
            self.counters.refused["ticket"] += 1
            raise Refuse(INVALID, data=INVALID_DATA)
        return Identity(issued.user, expires_at=issued.until)

    def on_expiring(self, function: Any = None, *, before_s: float = 30.0) -> Any:
        """Call ``function(client)`` `before_s` seconds before a client's identity expires; it may renew that, or tell
        the page to. Also a decorator. For an identity of a shorter life it is not called."""
        if isinstance(before_s, bool) or not isinstance(before_s, (int, float)) or not 0 < before_s < math.inf:
            raise LocalError(f"on_expiring(before_s={before_s!r}): expected a number of seconds above 0")
        if function is None:
            return lambda function: self.on_expiring(function, before_s=before_s)
        if self.expiring is not None:
            raise LocalError("on_expiring(): there is such a function already")
        self.expiring = Handler(function), before_s
        return function


def _key(ticket: str) -> str:
    """Whoever reads what a broker holds has no ticket by that."""
    return "ticket\0" + hashlib.sha256(ticket.encode(errors="replace")).hexdigest()
