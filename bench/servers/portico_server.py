"""Portico on asyncio's own loop: callbacks (``--mode endpoint``) or a coroutine a connection (``--mode coroutine``).

``PORTICO_UVLOOP=1`` in the environment runs the same on uvloop.
"""

from __future__ import annotations

import os

import common

import portico

room = portico.Room()


class Echo(portico.Endpoint):
    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        ws.write(message)


class RoomEndpoint(portico.Endpoint):
    def on_open(self, ws: portico.WebSocket) -> None:
        room.add(ws)

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        room.send(message)

    def on_close(self, ws: portico.WebSocket, close: object) -> None:
        room.discard(ws)


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def room_handler(ws: portico.WebSocket) -> None:
    room.add(ws)
    try:
        async for message in ws:
            room.send(message)
    finally:
        room.discard(ws)


def main() -> None:
    args = common.arguments("endpoint", "coroutine")
    callbacks = args.mode == "endpoint"
    context = common.tls_context(args.tls)
    app = portico.App()
    app.websocket("/ws", Echo() if callbacks else echo)
    app.websocket("/room", RoomEndpoint() if callbacks else room_handler)
    app.mount("/", common.pages)
    if os.environ.get("PORTICO_UVLOOP") != "1":
        portico.run(app, host=common.HOST, port=args.port, ssl=context)
        return

    import uvloop

    async def on_uvloop() -> None:
        async with portico.serve(app, common.HOST, args.port, ssl=context) as server:
            await server.serve_forever()

    uvloop.run(on_uvloop())


main()
