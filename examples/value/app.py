"""One value that changes, carried by polling, long polling, Server-Sent Events and WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import random
import time
from typing import Any

import portico
from portico.realtime.history import History

ROOM = "value"

io = portico.Realtime(history=History(rooms=[ROOM], count=100))
app = portico.App()
app.mount("/socket.io", io)
app.static("/", pathlib.Path(__file__).with_name("page"), html=True)


@io.on("connect")
async def connect(client: Any) -> None:
    client.join(ROOM)


@io.use_streams
async def admit(request: portico.Request, room: str) -> None:
    """Who may follow a room without Socket.IO: everybody, and this one."""
    if room != ROOM:
        raise portico.Refuse("there is no such room")


async def change() -> None:
    value = 100.0
    while True:
        value += random.gauss(0, 0.3)
        io.room(ROOM).emit("value", {"value": round(value, 2), "at": time.time()})
        await asyncio.sleep(0.5)


async def main() -> None:
    async with portico.serve(app, port=int(os.environ.get("PORT", "8000"))) as server:
        changing = asyncio.create_task(change())
        try:
            await server.serve_forever()
        finally:
            changing.cancel()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
