"""Clients that send all they have before they read, and applications that ask on after the end: neither loses anything.

An answer that comes before a body, or a message, has been taken reaches whoever goes on sending: the connection is shut
on our side alone, and input is thrown away until the client has read (RFC 9112 §9.6, RFC 6455 §7.1.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
from typing import Any

from tests.support import GUARD_S, Peer, frame, get, pages, respond, serving, upgrade

import portico

LARGE = bytes(8 * 1024 * 1024)  # more than the kernel takes for a peer that does not read


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, b"too much", 413)


def posted(port: int) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD_S)) as connection:
        connection.request("POST", "/", LARGE)
        answer = connection.getresponse()
        return answer.status, answer.read()


def said(port: int) -> bytes:
    """What a WebSocket is told that sends one large message and reads afterwards."""
    with socket.create_connection(("127.0.0.1", port), timeout=GUARD_S) as sock, sock.makefile("rb") as file:
        sock.sendall(upgrade())
        while file.readline() != b"\r\n":
            pass
        sock.sendall(frame(0x82, LARGE))
        return file.read()


async def test_an_early_answer_reaches_a_client_that_sends_its_whole_body_first() -> None:
    """RFC 9112 §9.6: closing with input unread would make the kernel reset, and take the answer with it."""
    async with serving(pages(refuse)) as server:
        assert await asyncio.to_thread(posted, server.port) == (413, b"too much")


async def test_a_close_frame_reaches_a_client_that_sends_its_whole_message_first() -> None:
    """RFC 6455 §7.1.7 and §7.4.1: 1009."""

    async def handler(ws: portico.WebSocket) -> None:
        async for _ in ws:
            pass

    async with serving(handler) as server:
        told = await asyncio.to_thread(said, server.port)
    assert told[:1] == b"\x88"
    assert told[2:4] == (1009).to_bytes(2, "big")


class Asking:
    """An application that asks on when it was told that all is over, until others had their turn."""

    def __init__(self) -> None:
        self.others: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        else:
            await respond(send)
        turned = asyncio.Event()
        for _ in range(10_000):
            message = await receive()
            if message["type"] == f"{scope['type']}.disconnect":
                asyncio.get_running_loop().call_soon(turned.set)
            if turned.is_set():
                break
        self.others.set_result(turned.is_set())


async def test_an_application_that_asks_on_after_http_disconnect_leaves_the_loop_to_others() -> None:
    """The ASGI specification has no end of `receive`: whoever ignores ``http.disconnect`` would stop the server."""
    app = Asking()
    async with serving(app) as server, await Peer.connect(server) as peer:
        peer.send(get())
        assert (await peer.answer()).status == 200
        assert await app.others


async def test_an_application_that_asks_on_after_websocket_disconnect_leaves_the_loop_to_others() -> None:
    app = Asking()
    async with serving(app) as server:
        async with await Peer.connect(server) as peer:
            await peer.open()
        assert await app.others
