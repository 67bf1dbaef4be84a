"""Bytes of a page's four ways to the same value, as they went over their connections: heads, frames and all.

A connection carries one request after another. Whenever one begins, what came since the last one did is this one's, and
what went is still the last one's: so every byte of HTTP and WebSocket is counted once, for whoever it was. What TCP and
IP add is not in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

import portico
from portico.demo.guests import Guest

PAGES_KEPT: Final = 500

Address = tuple[str, int]


class Lane(msgspec.Struct):
    """What one way has cost: requests, and bytes from the page and to it."""

    requests: int = 0
    sent: int = 0
    received: int = 0


class Wire:
    """One connection, whose bytes are counted up to here; ``lane``: whose request it carries, None for any other."""

    __slots__ = ("connection", "held", "lane", "seen_in", "seen_out")

    def __init__(self, connection: portico.Connection) -> None:
        self.connection = connection
        self.lane: Lane | None = None
        self.held = ""
        self.seen_in = 0
        self.seen_out = 0

    def begin(self, lane: Lane | None) -> None:
        """A request begins: what has come is `lane`'s, what has gone was for the one before."""
        self.settle()
        self.lane = lane
        self._take_in()

    def settle(self) -> None:
        """Count until now, for who it is now. What comes over HTTP belongs to a request that may not have begun yet."""
        went = self.connection.bytes_out
        if self.lane is not None:
            self.lane.received += went - self.seen_out
        self.seen_out = went
        if self.connection.protocol == "websocket":
            self._take_in()

    def _take_in(self) -> None:
        came = self.connection.bytes_in
        if self.lane is not None:
            self.lane.sent += came - self.seen_in
        self.seen_in = came


class Meter:
    """All that is measured. `connections` returns those of the server."""

    def __init__(self, connections: Callable[[], list[portico.Connection]]) -> None:
        self._connections = connections
        self._wires: dict[Address, Wire] = {}
        self._pages: OrderedDict[str, dict[str, Lane]] = OrderedDict()

    def begin(self, peer: Address | None, guest: Guest | None = None) -> None:
        """A request of `guest`, None for any other, has come from `peer`, and is about to be answered."""
        wire = self._find(peer)
        if wire is None:
            return
        lane = None
        if guest is not None and guest.page and guest.lane:
            lane = self._page(guest.page).setdefault(guest.lane, Lane())
            lane.requests += 1
        wire.begin(lane)
        wire.held = guest.lane if guest is not None else ""

    def measured(self, page: str) -> dict[str, Lane]:
        """What the lanes of `page` have cost until now."""
        self.settle()
        return self._page(page)

    def settle(self) -> None:
        """Count all until now, and forget connections that are closed; to be called now and then."""
        for peer, wire in list(self._wires.items()):
            wire.settle()
            if wire.connection.state == "closed":
                del self._wires[peer]

    def held(self, peer: Address) -> str:
        """The lane whose request the connection from `peer` carried last, or ``""``."""
        wire = self._wires.get(peer)
        return "" if wire is None else wire.held

    def _page(self, page: str) -> dict[str, Lane]:
        lanes = self._pages.setdefault(page, {})
        self._pages.move_to_end(page)
        if len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)
        return lanes

    def _find(self, peer: Address | None) -> Wire | None:
        if peer is None:
            return None
        wire = self._wires.get(peer)
        if wire is None or wire.connection.state == "closed":
            wire = next((Wire(one) for one in self._connections() if one.peer == peer), None)
            if wire is not None:
                self._wires[peer] = wire
        return wire
