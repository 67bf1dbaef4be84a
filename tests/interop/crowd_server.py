"""The server of the crowd, a process of its own: an ASGI application at /, rooms at /room, its own state at /stats.

Whoever enters says first, in a message, which room it wants to be in; whatever it says from then on goes to all in that
room. Prints its port on a line, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
from collections import Counter, defaultdict
from typing import Any

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


def stats(server: portico.Server) -> dict[str, Any]:
    """What must not grow; and what must not happen."""
    gc.collect()
    types = Counter(
        type(one).__qualname__ for one in gc.get_objects() if str(type(one).__module__).startswith("portico.")
    )
    types.pop("Room", None)  # they stay
    return {
        "connections": server.connection_count,
        "fds": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "types": types,
        "blocks": sys.getallocatedblocks(),
        "trouble": {**server.counters.exceeded, **server.counters.refused},
    }


async def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def site(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
            return
        if scope["path"] == "/stats":
            body = json.dumps(stats(server)).encode()
        else:
            body = (await receive())["body"] + scope["query_string"]
        if body.endswith(b"later"):
            await asyncio.sleep(0)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    app = portico.App()
    app.websocket("/room", Rooms())
    app.mount("/", site)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    async with portico.serve(app, "127.0.0.1", 0) as server:
        print(server.port, flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
