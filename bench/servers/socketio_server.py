"""python-socketio on uvicorn with uvloop: what ``portico_realtime_server.py`` serves, for comparison."""

from __future__ import annotations

import common
import socketio
import uvicorn

io = socketio.AsyncServer(async_mode="asgi")


@io.event
async def join(sid: str) -> None:
    await io.enter_room(sid, "room")


@io.event
async def echo(sid: str, text: str) -> None:
    await io.emit("echo", text, to=sid)


@io.event
async def broadcast(sid: str, text: str) -> None:
    await io.emit("broadcast", text, room="room")


def main() -> None:
    args = common.arguments()
    uvicorn.run(
        socketio.ASGIApp(io),
        host=common.HOST,
        port=args.port,
        loop="uvloop",
        log_level="error",
        access_log=False,
        backlog=common.BACKLOG,
    )


main()
