"""What slow clients attack, a process of its own: one server over TCP and one over TLS, with the same application.

HTTP at / (13 bytes), /upload (reads a body), /download (many megabytes in pieces) and /stats; WebSockets at /echo,
/feed (sends for ever what its peer takes) and /undecided (never accepts). Its argument is one JSON object: ``limits``,
``keepalive``, ``tls`` (the files of the certificate and its key). Prints its two ports on a line, and ends when its
standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import ssl
import sys
from collections import Counter
from typing import Any

import portico

PIECE = bytes(64 * 1024)
servers: list[portico.Server] = []


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def feed(ws: portico.WebSocket) -> None:
    while ws.closed is None:
        await ws.send(PIECE)


def stats() -> dict[str, Any]:
    gc.collect()
    exceeded: Counter[str] = Counter()
    refused: Counter[int] = Counter()
    for server in servers:
        exceeded.update(server.counters.exceeded)
        refused.update(server.counters.refused)
    return {
        "connections": sum(server.connection_count for server in servers),
        "tasks": len(asyncio.all_tasks()),
        "exceeded": exceeded,
        "refused": refused,
    }


async def answer(path: str, receive: Any, send: Any) -> None:
    body = b"Hello, world!"
    if path == "/upload":
        message = {"more_body": True}
        while message.get("more_body", False):
            message = await receive()
    elif path == "/download":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    elif path == "/stats":
        body = json.dumps(stats()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def site(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await receive()  # it does not decide
    else:
        with contextlib.suppress(OSError):  # the client was cut
            await answer(scope["path"], receive, send)


async def main(limits: dict[str, Any], keepalive: dict[str, float] | None, tls: list[str]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options: dict[str, Any] = {"limits": portico.Limits(**limits)}
    if keepalive:
        options["keepalive"] = portico.Keepalive(**keepalive)
    app = portico.App()
    app.websocket("/echo", echo)
    app.websocket("/feed", feed)
    app.mount("/", site)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    async with (
        portico.serve(app, "127.0.0.1", 0, **options) as plain,
        portico.serve(app, "127.0.0.1", 0, ssl=context, **options) as secure,
    ):
        servers.extend((plain, secure))
        print(plain.port, secure.port, flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
