"""A WSGI application through a2wsgi: threads, bodies both ways, one port with WebSockets beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from a2wsgi import WSGIMiddleware
from tests.apps.hosts import Host, on_portico

import portico

Start = Callable[..., Any]


def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/echo":
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        start_response("201 Created", [("Content-Type", "text/plain"), ("X-Query", environ["QUERY_STRING"])])
        return [body]
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (b"%d\n" % number for number in range(1000))
    if path == "/broken":
        raise RuntimeError("the application is broken")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [threading.current_thread().name.encode()]


async def test_bodies_streams_and_threads(host: Host) -> None:
    app: Any = WSGIMiddleware(application, workers=4)
    async with host(app) as site:
        for size in (0, 10, 1_000_000):
            answer = await site.http.post("/echo?a=%20b", content=b"x" * size)
            assert (answer.status_code, answer.headers["x-query"], len(answer.content)) == (201, "a=%20b", size)
        assert (await site.http.get("/stream")).text.split() == [str(number) for number in range(1000)]
        assert (await site.http.get("/")).text != threading.current_thread().name
        assert (await site.http.get("/broken")).status_code == 500
        assert (await site.http.get("/")).status_code == 200
        assert (await site.http.head("/")).content == b""


async def test_it_and_websockets_share_one_port() -> None:
    async def echo(ws: portico.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    app = portico.App()
    app.websocket("/echo", echo)
    mounted: Any = WSGIMiddleware(application)
    app.mount("/", mounted)
    async with on_portico(app) as site, site.ws("/echo") as ws:
        await ws.send("hello")
        assert (await site.http.get("/")).status_code == 200
        assert await ws.recv() == "hello"
