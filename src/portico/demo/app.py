"""The demo's application, put together: a page over HTTP, ``/live`` over WebSocket, ``/socket.io`` for the rest.

It uses public names of `portico` alone: whatever it does, a user's own application can do. What a visitor sends is
never trusted: it is bounded here, and the page inserts it as text. Nothing is stored beyond the last messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import portico
from portico.demo.chat import ROOMS, Chat, Said, shown
from portico.demo.guests import Guest, guest
from portico.demo.live import Live
from portico.demo.meter import Meter
from portico.demo.site import Address, Site
from portico.demo.value import ROOM, Value
from portico.realtime import Presence, Rate, Recovery
from portico.realtime.history import History

PAYLOAD_BYTES: Final = 16 * 1024
RECOVERY: Final = Recovery(age_s=120, max_events=5000, max_bytes=4 * 1024 * 1024)
HISTORY: Final = History(count=200, max_bytes=256 * 1024, age_s=3600, rooms=(ROOM, *ROOMS))
RATE: Final = Rate(5, burst=10)


class Demo:
    """The application and its parts; `run` beside the server."""

    def __init__(self) -> None:
        self._server: portico.Server | None = None
        io = portico.Realtime(
            authenticate=self._admit,
            recovery=RECOVERY,
            history=HISTORY,
            presence=Presence(rooms=ROOMS, info=shown),
            rate=RATE,
            max_payload_bytes=PAYLOAD_BYTES,
        )
        self.meter = Meter(self._connections)
        self.value = Value(io)
        self.live = Live(self.value, self.meter)
        self.chat = self.live.chat = Chat(io, self._connections, self._heard)
        self.app = app = portico.App()
        app.websocket("/live", self.live)
        app.mount("/socket.io", io)
        app.mount("/", Site(self._answering))

    async def run(self, server: portico.Server) -> None:
        """Do what is done beside serving, until cancelled."""
        self._server = server
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.live.watch(server))
            tasks.create_task(self.value.run())

    def _connections(self) -> list[portico.Connection]:
        return [] if self._server is None else self._server.connections

    def _heard(self, said: Said) -> None:
        self.live.heard(said)

    def _answering(self, peer: Address | None) -> None:
        self.meter.begin(peer)
        self.live.answering(peer)

    def _admit(self, request: Any) -> Guest:
        visitor = guest(request)
        self.meter.begin(request.client, visitor)
        if "transport" not in request.query:  # it is no session of Socket.IO, but a request of its own
            self.live.answering(request.client)
        return visitor


@asynccontextmanager
async def running(host: str = "127.0.0.1", port: int = 8000) -> AsyncIterator[portico.Server]:
    """Serve the demo while the block runs; ``port`` 0 takes a free one, which ``server.addresses`` then tells."""
    demo = Demo()
    async with portico.serve(demo.app, host, port) as server:
        beside = asyncio.create_task(demo.run(server))
        try:
            yield server
        finally:
            beside.cancel()
            await asyncio.wait([beside])
            if not beside.cancelled():
                beside.result()  # raises what ended it
