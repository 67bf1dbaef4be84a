"""What the tests with real proxies share: a site that tells whom it sees, and clients with an address of their own."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any

import httpx
import pytest
import websockets
from tests.support import GUARD_S, respond

import portico

CLIENT = "127.0.0.2"  # of the loopback, and not trusted
FORGED = {
    "X-Forwarded-For": "198.51.100.66, 127.0.0.1",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "Forwarded": "for=198.51.100.66;proto=http;host=evil.example",
}


class Site:
    """``/`` tells whom it sees, ``/echo`` gives back what it gets, ``/slow`` waits; ``/ws`` echoes messages."""

    def __init__(self) -> None:
        self.requests: list[portico.Request] = []
        self.waiting = asyncio.Semaphore(0)  # released for each request that is there
        self.go = asyncio.Event()
        self.app = portico.App()
        self.app.websocket("/ws", self.echo)
        self.app.mount("/", self.page)

    async def echo(self, ws: portico.WebSocket) -> None:
        self.requests.append(ws.request)
        async for message in ws:
            await ws.send(message)

    async def page(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/slow":
            self.waiting.release()
            await self.go.wait()
        if scope["path"] == "/echo":
            body = b""
            more = True
            while more:  # all of it first: the client reads nothing before it has sent everything
                message = await receive()
                body += message["body"]
                more = message.get("more_body", False)
            await respond(send, body)
            return
        seen = {name: scope[name] for name in ("client", "scheme", "server")}
        await respond(send, json.dumps(seen).encode())


def http(tls: ssl.SSLContext, port: int) -> httpx.AsyncClient:
    """A client whose address is `CLIENT`."""
    transport = httpx.AsyncHTTPTransport(verify=tls, local_address=CLIENT)
    return httpx.AsyncClient(transport=transport, base_url=f"https://localhost:{port}", timeout=GUARD_S)


def ws(tls: ssl.SSLContext, port: int, **options: Any) -> websockets.connect:
    """A WebSocket from `CLIENT`."""
    uri = f"wss://localhost:{port}/ws"
    return websockets.connect(uri, ssl=tls, local_addr=(CLIENT, 0), host="127.0.0.1", max_size=None, **options)


async def seen(client: httpx.AsyncClient, **options: Any) -> dict[str, Any]:
    answer = await client.get("/", **options)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def check_http_and_websocket(site: Site, tls: ssl.SSLContext, port: int) -> None:
    """The same client, scheme and host for both, whatever the client makes up; and same-origin by what it asked."""
    for headers in ({}, FORGED):
        async with http(tls, port) as client:
            told = await seen(client, headers=headers)
            assert (told["client"][0], told["scheme"]) == (CLIENT, "https"), headers
        async with ws(tls, port, additional_headers=headers, origin=f"https://localhost:{port}") as connection:
            for message in ("hello", b"\0" * 1_000_000):
                await connection.send(message)
                assert await connection.recv() == message
        request = site.requests.pop()
        assert request.client is not None
        assert (request.client[0], request.scheme, request.host) == (CLIENT, "wss", f"localhost:{port}")
    for origin in ("https://evil.example", f"http://localhost:{port}"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await ws(tls, port, origin=origin)
        assert refused.value.response.status_code == 403


async def check_bodies(tls: ssl.SSLContext, port: int) -> None:
    """Big ones, both ways, with a length and in chunks."""
    body = bytes(range(256)) * 20_000

    async def pieces() -> Any:
        for at in range(0, len(body), 100_000):
            yield body[at : at + 100_000]

    async with http(tls, port) as client:
        for content in (body, pieces()):
            answer = await client.post("/echo", content=content)
            assert (answer.status_code, answer.content) == (200, body)


async def check_kept_connections(server: portico.Server, tls: ssl.SSLContext, port: int) -> None:
    """The proxy asks for no connection of its own for each request; HAProxy asks for one for each client."""
    async with http(tls, port) as client:
        await seen(client)
    before = server.accepted
    for _ in range(5):
        async with http(tls, port) as client:
            for _ in range(4):
                await seen(client)
    assert server.accepted - before <= 5, "for 20 requests of 5 clients"
