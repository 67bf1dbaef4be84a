"""The ways to use a WebSocket, each of which learns once how it ended."""

from __future__ import annotations

import asyncio
from typing import Any

import portico
from portico import Close


class Told:
    """What the connections' users were told: `ends`, the Closes; and which connections they are, `sockets`."""

    def __init__(self) -> None:
        self.sockets: list[portico.WebSocket] = []
        self.ends: list[Close | None] = []

    async def reading(self, ws: portico.WebSocket) -> None:
        self.sockets.append(ws)
        try:
            while True:
                await ws.recv()
        except portico.ConnectionClosed as closed:
            self.ends.append(closed.close)
            raise

    async def iterating(self, ws: portico.WebSocket) -> None:
        self.sockets.append(ws)
        async for _ in ws:
            pass
        self.ends.append(ws.closed)

    async def pushing(self, ws: portico.WebSocket) -> None:
        self.sockets.append(ws)
        try:
            while True:
                for _ in range(10):
                    await ws.send(b"x" * 1000)
                await asyncio.sleep(0.01)
        except portico.ConnectionClosed as closed:
            self.ends.append(closed.close)
            raise

    async def idle(self, ws: portico.WebSocket) -> None:
        """Waits for something else, and is cancelled ``Limits.handler_grace_s`` after the end."""
        self.sockets.append(ws)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ends.append(ws.closed)
            raise

    def callbacks(self) -> portico.Endpoint:
        told = self

        class Handler(portico.Endpoint):
            def on_open(self, ws: portico.WebSocket) -> None:
                told.sockets.append(ws)

            def on_close(self, ws: portico.WebSocket, close: Close) -> None:
                told.ends.append(close)

        return Handler()

    def handler(self, style: str) -> Any:
        """The one of that style."""
        return self.callbacks() if style == "callbacks" else getattr(self, style)


STYLES = ["reading", "iterating", "pushing", "idle", "callbacks"]
