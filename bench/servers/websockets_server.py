"""websockets on uvloop: the asyncio implementation, with its own ``broadcast``."""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus

import common
import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

members: set[ServerConnection] = set()


async def echo(ws: ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def room(ws: ServerConnection) -> None:
    members.add(ws)
    try:
        async for message in ws:
            broadcast(members, message)
    finally:
        members.discard(ws)


ROUTES = {"/ws": echo, "/room": room}


async def handler(ws: ServerConnection) -> None:
    # A peer that leaves without a closing handshake raises; left alone, each one would cost a logged traceback.
    with contextlib.suppress(ConnectionClosed):
        await ROUTES[ws.request.path](ws)


def page(ws: ServerConnection, request: Request) -> Response | None:
    """``GET /``. websockets closes the connection after each plain HTTP answer."""
    if request.path in ROUTES:
        return None
    return ws.respond(HTTPStatus.OK, common.HELLO.decode())


async def main() -> None:
    args = common.arguments()
    async with serve(
        handler,
        common.HOST,
        args.port,
        ssl=common.tls_context(args.tls),
        process_request=page,
        backlog=common.BACKLOG,
    ):
        await asyncio.Event().wait()


uvloop.run(main())
