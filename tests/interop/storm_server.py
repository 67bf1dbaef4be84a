"""The server of the storm: WebSockets at /echo and /endpoint, HTTP at /."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.interop.own_server import RARE, Stats, counted, serve

import portico


class Echo(portico.Endpoint):
    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        ws.write(message)


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def answer(scope: Any, receive: Any) -> bytes:
    return b"hello"


def stats(server: portico.Server) -> Stats:
    """What must not grow, memory in KiB, too."""
    memory = dict(line.split()[:2] for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return {**counted(server), "memory_kib": int(memory["Anonymous:"])}


if __name__ == "__main__":
    app = portico.App()
    app.websocket("/echo", echo, keepalive=RARE)
    app.websocket("/endpoint", Echo(), keepalive=RARE)
    asyncio.run(serve(app, answer, stats))
