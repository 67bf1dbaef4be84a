"""aiohttp on uvloop: its WebSocketResponse, and a broadcast that awaits each recipient's send in turn."""

from __future__ import annotations

import asyncio
import contextlib

import common
import uvloop
from aiohttp import WSMsgType, web

members: set[web.WebSocketResponse] = set()


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    with contextlib.suppress(ConnectionError):  # a peer that left while we sent: not worth a logged traceback
        async for message in ws:
            if message.type is WSMsgType.BINARY:
                await ws.send_bytes(message.data)
            elif message.type is WSMsgType.TEXT:
                await ws.send_str(message.data)
    return ws


async def room(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    members.add(ws)
    try:
        async for message in ws:
            if message.type is WSMsgType.BINARY:
                await broadcast(message.data)
    finally:
        members.discard(ws)
    return ws


async def broadcast(data: bytes) -> None:
    # No Task a recipient: a send that needs not wait never leaves this one.
    for member in tuple(members):
        try:
            await member.send_bytes(data)
        except ConnectionError:
            members.discard(member)


async def page(request: web.Request) -> web.Response:
    return web.Response(body=common.HELLO, content_type="text/plain", charset="utf-8")


async def main() -> None:
    args = common.arguments()
    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/ws", echo), web.get("/room", room)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    context = common.tls_context(args.tls)
    await web.TCPSite(runner, common.HOST, args.port, ssl_context=context, backlog=common.BACKLOG).start()
    await asyncio.Event().wait()


uvloop.run(main())
