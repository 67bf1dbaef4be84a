"""The server of the storm, a process of its own: WebSockets at /echo and /endpoint, HTTP at /, its own state at /stats.

Prints its port on a line, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import portico


class Echo(portico.Endpoint):
    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        ws.write(message)


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def stats(server: portico.Server) -> dict[str, Any]:
    """What must not grow: connections, descriptors, tasks, Portico's objects, Python's blocks, memory in KiB."""
    gc.collect()
    types = Counter(
        type(one).__qualname__ for one in gc.get_objects() if str(type(one).__module__).startswith("portico.")
    )
    memory = dict(line.split()[:2] for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return {
        "connections": server.connection_count,
        "accepted": server.accepted,
        "fds": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "types": types,
        "blocks": sys.getallocatedblocks(),
        "memory_kib": int(memory["Anonymous:"]),
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
        body = json.dumps(stats(server)).encode() if scope["path"] == "/stats" else b"hello"
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    app = portico.App()
    app.websocket("/echo", echo)
    app.websocket("/endpoint", Echo())
    app.mount("/", site)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    async with portico.serve(app, "127.0.0.1", 0) as server:
        print(server.port, flush=True)
        await stop.wait()


asyncio.run(main())
