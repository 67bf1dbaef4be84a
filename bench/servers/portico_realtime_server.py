"""Portico's Realtime: ``join`` a room, ``broadcast`` to it, ``echo`` comes back; as the other servers of Socket.IO."""

from __future__ import annotations

from typing import Any

import common

import portico

io = portico.Realtime()


@io.on("join")
async def join(client: Any) -> None:
    client.join("room")


@io.on("echo")
async def echo(client: Any, text: str) -> None:
    client.emit("echo", text)


@io.on("broadcast")
async def broadcast(client: Any, text: str) -> None:
    io.to("room").emit("broadcast", text)


def main() -> None:
    args = common.arguments()
    app = portico.App()
    app.mount("/socket.io", io)
    portico.run(app, host=common.HOST, port=args.port, ssl=common.tls_context(args.tls))


main()
