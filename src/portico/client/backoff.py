"""When to come back: full-jitter backoff, which failures pass by themselves, and what the server asks for."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from email.utils import parsedate_to_datetime
from typing import Final

from portico.errors import HandshakeError

FIRST_S: Final = 1.0
LONGEST_S: Final = 60.0
STABLE_S: Final = 10.0
PASSING: Final = frozenset({408, 421, 425, 429, 500, 502, 503, 504})


def may_come_back(error: OSError | HandshakeError) -> bool:
    """Whether trying again may help: not for a certificate that is wrong, nor for a status that says never."""
    if isinstance(error, HandshakeError):
        return error.status is None or error.status in PASSING
    return not isinstance(error, ssl.SSLCertVerificationError)


class Backoff:
    """Delays between attempts: a random part of a span that doubles with each failure, from 1 s up to 60 s."""

    def __init__(self) -> None:
        self.failures = 0

    def delay(self, at_least_s: float = 0.0) -> float:
        """The next delay in seconds; at least what the server asked for."""
        span = min(LONGEST_S, FIRST_S * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return at_least_s + random.uniform(0.0, span)

    async def wait_after(self, error: OSError | HandshakeError) -> None:
        """Wait after a failed attempt."""
        asked = retry_after(error.headers) if isinstance(error, HandshakeError) else 0.0
        await asyncio.sleep(self.delay(asked))

    async def wait_after_connection(self, lived_s: float) -> None:
        """Wait after a connection that was open for `lived_s` seconds: one that was stable begins anew."""
        if lived_s >= STABLE_S:
            self.failures = 0
        await asyncio.sleep(self.delay())


def retry_after(headers: tuple[tuple[str, str], ...]) -> float:
    """The seconds that Retry-After asks for (RFC 9110 §10.2.3), at most an hour; 0 where it is missing or malformed."""
    for name, value in headers:
        if name.lower() == "retry-after":
            return min(3600.0, max(0.0, _seconds(value)))
    return 0.0


def _seconds(value: str) -> float:
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return then.timestamp() - time.time() if then.tzinfo else 0.0
