"""The server of the crowd: an ASGI application at /, which sends back what it gets, and rooms at /room.

Whoever enters says first, in a message, which room it wants to be in; whatever it says from then on goes to all in that
room.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from tests.interop.own_server import RARE, Stats, counted, serve

import portico


class Rooms(portico.Endpoint):
    def __init__(self) -> None:
        self.rooms: defaultdict[str, portico.Room] = defaultdict(portico.Room)

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        if ws.state is None:
            assert isinstance(message, str)
            ws.state = self.rooms[message]
            ws.state.add(ws)
            ws.write("welcome")
        else:
            ws.state.send(message)


async def answer(scope: Any, receive: Any) -> bytes:
    body: bytes = (await receive())["body"] + scope["query_string"]
    if body.endswith(b"later"):
        await asyncio.sleep(0)
    return body


def stats(server: portico.Server) -> Stats:
    """What must not grow; and what must not happen."""
    told = counted(server)
    told["types"].pop("Room", None)  # they stay
    return {**told, "trouble": {**server.counters.exceeded, **server.counters.refused}}


if __name__ == "__main__":
    app = portico.App()
    app.websocket("/room", Rooms(), keepalive=RARE)
    asyncio.run(serve(app, answer, stats))
