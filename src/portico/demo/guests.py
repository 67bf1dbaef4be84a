"""Who visits: the identity that a page's Socket.IO connections come with, and an allowance for whatever anybody sends.

A browser keeps a key of its own and tells it in the query. Others see only a digest of it, so that nobody can pass for
somebody else; several tabs of one browser are one person.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final

import portico

KEY: Final = re.compile(r"[0-9a-z]{8,40}")
LANES: Final = ("polling", "longpolling", "sse", "websocket")
_salt: Final = secrets.token_bytes(16)


@dataclass(frozen=True, slots=True)
class Guest:
    """``id``: what others see of a visitor. ``page``, ``lane``: the page, and what it measures with this, or ``""``."""

    id: str
    page: str
    lane: str


def guest(request: portico.Request) -> Guest:
    """Who sent a request, by ``visitor``, ``page``, ``lane`` of its query; what is not as expected is as not said."""
    query = request.query
    visitor, page, lane = (query.get(name, "") for name in ("visitor", "page", "lane"))
    if not KEY.fullmatch(visitor):
        visitor = secrets.token_hex(8)
    digest = hashlib.blake2s(visitor.encode(), key=_salt, digest_size=6).hexdigest()
    return Guest(digest, page if KEY.fullmatch(page) else "", lane if lane in LANES else "")


class Allowance:
    """A token bucket: `at_once`, and then `per_s` a second."""

    __slots__ = ("_at_once", "_counted_at", "_left", "_per_s")

    def __init__(self, per_s: float, at_once: float, now: float) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._left = at_once
        self._counted_at = now

    def spend(self, now: float) -> bool:
        """Take one at ``now`` seconds; False where there is none left."""
        self._left = min(self._at_once, self._left + (now - self._counted_at) * self._per_s)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
