"""When to come back: full-jitter backoff, which failures pass by themselves, and what the server asks for."""

from __future__ import annotations

import random
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from portico.errors import HandshakeError, LocalError

LONGEST_ASKED_S: Final = 3600.0
PASSING: Final = frozenset({408, 421, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """How ``async for`` over `portico.connect` waits before it comes back: a random part of a span that doubles with
    each failure ("full jitter"), so that the clients of a server that was away do not come back all at once.

    - ``first_s`` (1): the span after the first failure. ``longest_s`` (60): where the doubling ends.
    - ``stable_s`` (10): a connection that was open for so long was no failure; the span begins anew after it.

    What the server or the proxy asks for with Retry-After is waited for besides; of more than an hour, one hour.
    """

    first_s: float = 1.0
    longest_s: float = 60.0
    stable_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.longest_s < float("inf"):
            raise LocalError(f"{self!r}: expected 0 < first_s <= longest_s")
        if not 0 <= self.stable_s < float("inf"):
            raise LocalError(f"{self!r}: expected stable_s of 0 or more")


class Delays:
    """The delays of one loop that comes back."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures = 0

    def after_failure(self, error: OSError | HandshakeError) -> float:
        """Seconds to wait after an attempt that failed."""
        asked = retry_after(error.headers) if isinstance(error, HandshakeError) else 0.0
        return asked + self._next()

    def after_connection(self, lived_s: float) -> float:
        """Seconds to wait after a connection that was open for `lived_s`."""
        if lived_s >= self._backoff.stable_s:
            self._failures = 0
        return self._next()

    def _next(self) -> float:
        span = min(self._backoff.longest_s, self._backoff.first_s * 2.0 ** min(self._failures, 64))
        self._failures += 1
        return random.uniform(0.0, span)


def may_come_back(error: OSError | HandshakeError) -> bool:
    """Whether trying again may help: not for a certificate that is wrong, nor for a status that says never.

    An answer that is no HTTP has no status, and may pass: a server that starts, or what stands in for it.
    """
    if isinstance(error, HandshakeError):
        return error.status is None or error.status in PASSING
    return not isinstance(error, ssl.SSLCertVerificationError)


def retry_after(headers: tuple[tuple[str, str], ...]) -> float:
    """The seconds that Retry-After asks for (RFC 9110 §10.2.3), at most an hour; 0 where it is missing or malformed."""
    for name, value in headers:
        if name.lower() == "retry-after":
            return min(LONGEST_ASKED_S, max(0.0, _seconds(value)))
    return 0.0


def _seconds(value: str) -> float:
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        then = parsedate_to_datetime(value)
        return then.timestamp() - time.time() if then.tzinfo else 0.0
    except (ValueError, OverflowError):
        return 0.0
