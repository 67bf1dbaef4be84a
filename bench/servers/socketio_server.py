"""python-socketio on uvicorn with uvloop: what ``portico_realtime_server.py`` serves, for comparison."""

from __future__ import annotations

from typing import Any

import common
import socketio
import uvicorn

io = socketio.AsyncServer(async_mode="asgi")


@io.event
async def connect(sid: str, environ: Any, auth: Any = None) -> None:
    await io.enter_room(sid, "room")


@io.event
async def echo(sid: str, text: str) -> None:
    await io.emit("echo", text, to=sid)


@io.event
async def chat(sid: str, text: str) -> None:
    await io.emit("chat", text, room="room")


def main() -> None:
    args = common.arguments()
    uvicorn.run(socketio.ASGIApp(io), host=common.HOST, port=args.port, loop="uvloop", log_level="error")


main()
