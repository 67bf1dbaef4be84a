"""Portico's Realtime: ``chat`` goes to everyone in a room, ``echo`` comes back; as in ``socketio_server.py``."""

from __future__ import annotations

from typing import Any

import common

import portico

io = portico.Realtime()


@io.on("connect")
async def connect(client: Any, auth: Any) -> None:
    client.join("room")


@io.on("echo")
async def echo(client: Any, text: str) -> None:
    client.emit("echo", text)


@io.on("chat")
async def chat(client: Any, text: str) -> None:
    io.to("room").emit("chat", text)


def main() -> None:
    args = common.arguments()
    app = portico.App()
    app.mount("/socket.io", io)
    portico.run(app, host=common.HOST, port=args.port, ssl=common.tls_context(args.tls))


main()
