"""One value that changes, and the four ways in which pages get it: the room ``value`` of the demo's `Realtime`.

It changes while anybody has the page open, as often as the last visitor who chose wants. Each change is the event
``value`` with ``n`` (1, 2, 3 …), ``value`` and ``at_ms`` (when it changed, by the server's clock).
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Final

import msgspec

import portico

ROOM: Final = "value"
FIRST_PERIOD_MS: Final = 500
MIDDLE: Final = 100.0


class Change(msgspec.Struct, frozen=True):
    """The value from now on."""

    n: int
    value: float
    at_ms: float


class Value:
    """The value: `run` changes it."""

    def __init__(self, io: portico.Realtime) -> None:
        self.period_ms = FIRST_PERIOD_MS
        self._io = io
        self._random = random.Random()
        self._n = 0
        self._value = MIDDLE
        self._again = asyncio.Event()
        self._watched = asyncio.Event()
        io.on("connect", self._connect)
        io.use_streams(self._open)

    def watched(self, by: int) -> None:
        """So many have the page open."""
        if by:
            self._watched.set()
        else:
            self._watched.clear()

    def every(self, period_ms: int) -> None:
        """Change it this often."""
        self.period_ms = period_ms
        self._again.set()

    async def run(self) -> None:
        """Change it until cancelled, at distances that vary: nobody's polling is to be in step with it."""
        due = time.monotonic()
        while True:
            await self._watched.wait()
            self._change()
            due = max(due + self._random.uniform(0.6, 1.4) * self.period_ms / 1000, time.monotonic())
            self._again.clear()
            try:
                async with asyncio.timeout(due - time.monotonic()):
                    await self._again.wait()
                due = time.monotonic()
            except TimeoutError:
                pass

    def _change(self) -> None:
        self._n += 1
        step = self._random.gauss(0, 0.4) + (MIDDLE - self._value) * 0.02
        self._value = round(self._value + step, 2)
        self._io.to(ROOM).emit("value", Change(self._n, self._value, time.time_ns() / 1e6))

    async def _connect(self, client: Any, auth: Any) -> None:
        client.join(ROOM)

    async def _open(self, request: portico.Request, room: str) -> None:
        """Whether a room may be followed without Socket.IO: polled, or as Server-Sent Events."""
        if room != ROOM:
            raise portico.Refuse(f"expected room={ROOM}")
