"""How often a client may send, and an address may come: token buckets. Nothing is kept where no rate is set."""

from __future__ import annotations

import ipaddress
import logging
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from portico.errors import LocalError

if TYPE_CHECKING:
    from portico.realtime.clients import Client
    from portico.wire.request import Request

logger = logging.getLogger("portico.realtime")

TOO_MANY: Final = "too many events"  # the error of an acknowledgement, and the reason of a disconnect
MAX_ADDRESSES: Final = 10_000  # whose attempts are remembered; the one that came longest ago is forgotten first


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` events in `per_s` seconds (1) on average, and at most `burst` (`count`) at once: a token bucket.

    ``Rate(5)`` is five a second; ``Rate(5, burst=20)`` lets twenty come at once, and five a second from then on.
    """

    count: float
    per_s: float = 1.0
    burst: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("count", "per_s", "burst"):
            value = getattr(self, name)
            least = 1 if name == "burst" else 0
            if value is None and name == "burst":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise LocalError(f"Rate({name}={value!r}): expected a number")
            if value < least or not value:
                raise LocalError(f"Rate({name}={value!r}): expected {'at least 1' if least else 'more than 0'}")

    @property
    def most(self) -> float:
        """How many may come at once."""
        return self.burst if self.burst is not None else max(1.0, self.count)

    @property
    def patience(self) -> float:
        """How many more than allowed are refused, before the client is closed: ten bursts, and at least 100."""
        return max(100.0, 10 * self.most)


class Bucket:
    """What is left of one `Rate`. ``over``: how many were refused, less what the rate would have allowed since."""

    __slots__ = ("at", "left", "over", "rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self.rate = rate
        self.at = now
        self.left = rate.most
        self.over = 0.0

    def wait(self, now: float) -> float:
        """The seconds until there is one; 0 where there is."""
        rate = self.rate
        gained = (now - self.at) * rate.count / rate.per_s
        self.at = now
        self.left = min(rate.most, self.left + gained)
        self.over = max(0.0, self.over - gained)
        return 0.0 if self.left >= 1 else (1 - self.left) * rate.per_s / rate.count

    def take(self, now: float) -> float:
        """Take one, if there is one; returns what `wait` does."""
        wait = self.wait(now)
        if wait:
            self.over += 1
        else:
            self.left -= 1
        return wait


def check_rate(rate: Any, where: str) -> Rate | None:
    """`rate`, if it is one or None; raises LocalError."""
    if rate is not None and not isinstance(rate, Rate):
        raise LocalError(f"{where}(rate={rate!r}): expected a portico.realtime.Rate, or None")
    return rate


def allowed(client: Any, event: str, id: int | None) -> bool:
    """Whether an event of `client` is to be dealt with. Where not, it is answered here; too many of those end it."""
    namespace = client.namespace
    io = namespace.io
    handlers = namespace.functions.handlers
    handler = handlers.get(event)
    if handler is None:
        event, handler = "*", handlers.get("*")  # a client must not choose how many buckets it has
    now = io.engine.reactor.clock()
    for key, rate in ((None, io.rate), (event, handler.rate if handler is not None else None)):
        if rate is None:
            continue
        if client._buckets is None:
            client._buckets = {}
        bucket = client._buckets.get(key)
        if bucket is None:
            bucket = client._buckets[key] = Bucket(rate, now)
        wait = bucket.take(now)
        if wait:
            _refuse(client, id, wait, over=bucket.over > rate.patience)
            return False
    return True


def _refuse(client: Client, id: int | None, wait: float, *, over: bool) -> None:
    session = client.session
    client.namespace.io.counters.refused["rate"] += 1
    if not over:
        client.namespace._answer_error(client, id, TOO_MANY, too_many(wait))
        return
    logger.info("session %s goes on sending far more than its rate allows: closed", session.id)
    if session.ws is not None:
        session.ws.close(1008, TOO_MANY)
    session.close(TOO_MANY, discard=True)


def too_many(wait: float) -> dict[str, object]:
    """What a client is told besides: for its program."""
    return {"code": "rate", "retry_after_s": math.ceil(wait * 1000) / 1000}


class Attempts:
    """How often each address may begin a session or connect to a namespace."""

    __slots__ = ("_buckets", "_rate")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, request: Request, now: float) -> float:
        """One more: 0; where it is one too many, the seconds until the next."""
        address = address_of(request)
        if address is None:
            return 0.0
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = Bucket(self._rate, now)
            if len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(address)
        return bucket.take(now)

    def wait(self, request: Request, now: float) -> float:
        """What `take` would return, without taking one."""
        address = address_of(request)
        bucket = None if address is None else self._buckets.get(address)
        return 0.0 if bucket is None else bucket.wait(now)


def address_of(request: Request) -> str | None:
    """Whom a request counts for: its address, of IPv6 the network that one customer has (/64); None on a Unix socket,
    or where the proxy does not say."""
    if request.client is None:
        return None
    host = request.client[0]
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
