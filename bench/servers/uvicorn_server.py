"""uvicorn on uvloop, httptools and websockets' sans-I/O layer (its default): a bare ASGI application."""

from __future__ import annotations

import contextlib
from typing import Any

import common
import uvicorn

members: set[Any] = set()


async def room(receive: Any, send: Any) -> None:
    members.add(send)
    try:
        while (event := await receive())["type"] == "websocket.receive":
            await broadcast({"type": "websocket.send", "bytes": event.get("bytes"), "text": event.get("text")})
    finally:
        members.discard(send)


async def broadcast(event: dict[str, Any]) -> None:
    # No Task a recipient: a send that needs not wait never leaves this one.
    for send in tuple(members):
        try:
            await send(event)
        except (OSError, RuntimeError):  # it left; RuntimeError when its close was already under way
            members.discard(send)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "websocket" or scope["path"] != "/room":
        await common.pages(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    with contextlib.suppress(OSError):  # the peer left while we sent: uvicorn's ClientDisconnected
        await room(receive, send)


args = common.arguments()
cert, key = args.tls or (None, None)
uvicorn.run(
    app,
    host=common.HOST,
    port=args.port,
    loop="uvloop",
    http="httptools",
    ws="websockets-sansio",
    log_level="warning",
    access_log=False,
    backlog=common.BACKLOG,
    ssl_certfile=cert,
    ssl_keyfile=key,
)
