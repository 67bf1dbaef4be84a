"""Telling the application of clients that do not keep up: once when that begins, and then once a second at most."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from portico.net.timers import Timed

if TYPE_CHECKING:
    from portico.realtime.clients import Client
    from portico.realtime.handlers import Handler
    from portico.realtime.sessions import Session

logger = logging.getLogger("portico.realtime")

LOOK_S: Final = 1.0

State = Literal["slow", "caught up", "closed"]


@dataclass(frozen=True, slots=True)
class Slow:
    """A client that does not keep up.

    - ``state``: ``"slow"``; ``"caught up"``: nothing is waiting any more; ``"closed"``: its session ends over it, as
      ``on_slow="close"`` says.
    - ``dropped``: events that it did not get, ``replaced``: those in whose place it gets a newer one (`latest`). Both
      since it became slow, and of its session.
    - ``waiting_bytes``: what is waiting for it.
    """

    state: State
    dropped: int
    replaced: int
    waiting_bytes: int


class Lag(Timed):
    """One session that does not keep up, until it has caught up. It looks at it once a second.

    A replaced event alone is nothing to tell, unless nothing has left within that second: between two polls that is as
    it should be.
    """

    __slots__ = (
        "_busy",
        "_clients",
        "_handler",
        "_next",
        "_session",
        "_told",
        "_unsaid",
        "_waiting_bytes",
        "drained",
        "dropped",
        "replaced",
    )

    def __init__(self, session: Session, handler: Handler) -> None:
        super().__init__()
        self.dropped = 0
        self.replaced = 0
        self.drained = False  # all that waited has left, at some time since we looked
        self._session = session
        self._handler = handler
        self._told = False
        self._unsaid = False  # there is something new to tell
        self._busy = False
        self._next: State | None = None
        self._waiting_bytes = 0  # when it was closed
        self._clients: list[Client] = []
        self._look_later()

    def lost(self, dropped: int, replaced: int) -> None:
        """Events were dropped or replaced."""
        self.dropped += dropped
        self.replaced += replaced
        self.drained = False
        self._unsaid = True
        if dropped and not self._told:
            self._tell("slow")

    def closing(self) -> None:
        """The session ends over it."""
        self._tell("closed")

    def expired(self, now: float) -> None:
        session = self._session
        if session.closed is not None:
            return
        ws = session.ws
        if self.drained or not (session.waiting if ws is None else ws.stream.blocked):
            session.lag = None
            if self._told:
                self._tell("caught up")
            return
        if self._unsaid:
            self._tell("slow")
        self._look_later()

    def _look_later(self) -> None:
        reactor = self._session.engine.reactor
        reactor.wheel.schedule(self, reactor.clock() + LOOK_S)

    def _tell(self, state: State) -> None:
        self._told = True
        self._unsaid = False
        self._next = state
        self._waiting_bytes = self._session.buffered
        self._clients = list(self._session.channel.clients.values())
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._begin)  # not within the emission that was too much

    def _begin(self) -> None:
        io = self._session.engine.io
        if io.running:
            io.spawn(self._call())

    async def _call(self) -> None:
        """Call the function of the application; what has become of it meanwhile, once more."""
        pool = self._session.engine.io.pool
        try:
            while self._next is not None:
                state, self._next = self._next, None
                waiting = self._waiting_bytes if state == "closed" else self._session.buffered
                slow = Slow(state, self.dropped, self.replaced, waiting)
                for client in self._clients:
                    try:
                        await self._handler.call(pool, client, slow)
                    except Exception:
                        logger.exception("the function for slow clients failed")
        finally:
            self._busy = False
