"""Starlette: its middleware, sessions, mounts, files, streams and Server-Sent Events, and a client that leaves."""

from __future__ import annotations

import asyncio
import gc
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket
from tests.apps.hosts import GUARD_S, Host, Site, on_portico

told: ContextVar[str] = ContextVar("told", default="nothing")


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body(), headers={"x-told": told.get()})


async def url_of(request: Request) -> Response:
    return PlainTextResponse(str(request.url_for("deep", name="x-y")))


class TestMiddleware:
    async def test_base_http_middleware_around_bodies_streams_and_background(self, host: Host) -> None:
        ran: asyncio.Queue[str] = asyncio.Queue()

        async def around(request: Request, call_next: Any) -> Response:
            body = await request.body()
            response: Response = await call_next(request)
            response.headers["x-around"] = str(len(body))
            return response

        async def stream(request: Request) -> Response:
            body = await request.body()

            async def pieces() -> AsyncIterator[bytes]:
                for _ in range(100):
                    yield body

            return StreamingResponse(pieces(), background=BackgroundTask(ran.put, "ran"))

        routes = [Route("/echo", echo, methods=["POST"]), Route("/stream", stream, methods=["POST"])]
        app = Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=around)] * 2)
        async with host(app) as site:
            for path, times in (("/echo", 1), ("/stream", 100)):
                answer = await site.http.post(path, content=b"0123456789" * 1000)
                assert answer.headers["x-around"] == "10000"
                assert answer.content == b"0123456789" * 1000 * times
            async with asyncio.timeout(GUARD_S):
                assert await ran.get() == "ran"

    async def test_gzip(self, host: Host) -> None:
        async def page(request: Request) -> Response:
            return PlainTextResponse("page " * 1000)

        async def stream(request: Request) -> Response:
            async def pieces() -> AsyncIterator[str]:
                for _ in range(1000):
                    yield "page "

            return StreamingResponse(pieces(), media_type="text/plain")

        app = Starlette(
            routes=[Route("/page", page), Route("/stream", stream)], middleware=[Middleware(GZipMiddleware)]
        )
        async with host(app) as site:
            for path in ("/page", "/stream"):
                async with site.http.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
                    assert answer.headers["content-encoding"] == "gzip"
                    assert gzip.decompress(b"".join([piece async for piece in answer.aiter_raw()])) == b"page " * 1000
                plain = await site.http.get(path, headers={"Accept-Encoding": "identity"})
                assert (plain.text, "content-encoding" in plain.headers) == ("page " * 1000, False)

    async def test_cors(self, host: Host) -> None:
        cors = Middleware(CORSMiddleware, allow_origins=["https://a.example"], allow_methods=["PUT"], max_age=5)
        async with host(Starlette(routes=[Route("/echo", echo, methods=["PUT"])], middleware=[cors])) as site:
            headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "PUT"}
            preflight = await site.http.options("/echo", headers=headers)
            assert (preflight.status_code, preflight.headers["access-control-max-age"]) == (200, "5")
            answer = await site.http.put("/echo", headers=headers, content=b"x")
            assert answer.headers["access-control-allow-origin"] == "https://a.example"
            refused = await site.http.options("/echo", headers={**headers, "Origin": "https://b.example"})
            assert refused.status_code == 400

    async def test_sessions_and_several_cookies(self, host: Host) -> None:
        async def count(request: Request) -> Response:
            request.session["count"] = request.session.get("count", 0) + 1
            answer = JSONResponse({"count": request.session["count"], "cookies": sorted(request.cookies)})
            answer.set_cookie("one", "1")
            answer.set_cookie("two", "2", httponly=True)
            return answer

        async def socket(ws: WebSocket) -> None:
            await ws.accept()
            await ws.send_json({"count": ws.session["count"], "two": ws.cookies["two"]})
            await ws.close()

        middleware = [Middleware(SessionMiddleware, secret_key="for tests")]
        app = Starlette(routes=[Route("/", count), WebSocketRoute("/ws", socket)], middleware=middleware)
        async with host(app) as site:
            first = await site.http.get("/")
            assert len(first.headers.get_list("set-cookie")) == 3
            assert (await site.http.get("/")).json() == {"count": 2, "cookies": ["one", "session", "two"]}
            cookie = "; ".join(f"{name}={value}" for name, value in site.http.cookies.items())
            async with site.ws("/ws", additional_headers={"Cookie": cookie}) as ws:
                assert await ws.recv() == '{"count":2,"two":"2"}'


class TestContextVariables:
    """A task has a copy of the context it was made in: what one request sets, no other sees."""

    async def test_of_middleware_reach_the_endpoint_and_its_background_but_no_other_request(self, host: Host) -> None:
        seen: asyncio.Queue[str] = asyncio.Queue()

        class Tell:
            def __init__(self, app: Any) -> None:
                self.app = app

            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                if scope["type"] != "lifespan" and b"tell" in scope["query_string"]:
                    told.set(scope["query_string"].decode())
                await self.app(scope, receive, send)

        def late() -> None:  # in a thread
            seen.put_nowait(told.get())

        async def page(request: Request) -> Response:
            return PlainTextResponse(told.get(), background=BackgroundTask(late))

        async def socket(ws: WebSocket) -> None:
            await ws.accept()
            while True:
                await ws.receive_text()
                await ws.send_text(told.get())

        app = Starlette(routes=[Route("/", page), WebSocketRoute("/ws", socket)], middleware=[Middleware(Tell)])
        async with host(app) as site, asyncio.timeout(GUARD_S):
            for query in ("tell=1", "", "tell=2", ""):  # over one connection
                assert (await site.http.get("/?" + query)).text == (query or "nothing")
                assert await seen.get() == (query or "nothing")
            async with site.ws("/ws?tell=3") as three, site.ws("/ws") as other:
                for ws, value in ((three, "tell=3"), (other, "nothing"), (three, "tell=3")):
                    await ws.send("?")
                    assert await ws.recv() == value

    async def test_of_the_lifespan_stay_there(self, host: Host) -> None:
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            token = told.set("the lifespan")
            yield
            told.reset(token)  # an error, if the end ran in another context than the start

        app = Starlette(routes=[Route("/echo", echo)], lifespan=asynccontextmanager(lifespan))
        async with host(app) as site:
            assert (await site.http.get("/echo")).headers["x-told"] == "nothing"


class TestTheClientLeaves:
    async def leave(self, site: Site, request: bytes, *, after: bytes) -> None:
        reader, writer = await site.raw()
        writer.write(request)
        await reader.readuntil(after)
        writer.transport.abort()

    async def test_a_waiting_endpoint_sees_it(self, host: Host) -> None:
        gone: asyncio.Queue[bool] = asyncio.Queue()
        waits = asyncio.Event()

        async def wait(request: Request) -> Response:
            assert not await request.is_disconnected()
            waits.set()
            while not await request.is_disconnected():
                await asyncio.sleep(0.005)
            gone.put_nowait(await request.is_disconnected())
            return PlainTextResponse("for nobody")

        async with host(Starlette(routes=[Route("/", wait)])) as site, asyncio.timeout(GUARD_S):
            _, writer = await site.raw()
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await waits.wait()
            writer.transport.abort()
            assert await gone.get(), "it stays so"

    async def test_an_endless_stream_ends(self, host: Host) -> None:
        ended = asyncio.Event()

        async def endless(request: Request) -> Response:
            async def pieces() -> AsyncIterator[bytes]:
                try:
                    while True:
                        yield b"more" * 1000
                        await asyncio.sleep(0)
                finally:
                    ended.set()

            return StreamingResponse(pieces())

        async with host(Starlette(routes=[Route("/", endless)])) as site, asyncio.timeout(GUARD_S):
            await self.leave(site, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", after=b"more")
            await ended.wait()
            assert (await site.http.get("/other")).status_code == 404, "the site goes on"

    async def test_what_a_failed_application_held_is_free_at_once(self) -> None:
        """Not when the garbage collector comes round: a file, a lock, a stream's clean-up may wait for it."""
        freed: list[bool] = []

        class Held:
            def __del__(self) -> None:
                freed.append(True)

        async def failing(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                return
            held = Held()
            await receive()
            await send(
                {"type": "http.response.start" if scope["type"] == "http" else "websocket.accept", "status": 200}
            )
            while held:
                await send({"type": "http.response.body", "body": b"more" * 1000, "more_body": True})
                await asyncio.sleep(0)

        gc.disable()
        try:
            async with on_portico(failing) as site, asyncio.timeout(GUARD_S):
                await self.leave(site, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", after=b"more")
                while not freed:
                    await asyncio.sleep(0.001)
                assert freed == [True]
        finally:
            gc.enable()

    async def test_a_request_that_is_cut_off_raises_in_the_endpoint(self, host: Host) -> None:
        raised: asyncio.Queue[str] = asyncio.Queue()
        began = asyncio.Event()

        async def upload(request: Request) -> Response:
            try:
                async for _ in request.stream():
                    began.set()
            except Exception as error:
                raised.put_nowait(type(error).__name__)
            return PlainTextResponse("")

        app = Starlette(routes=[Route("/", upload, methods=["POST"])])
        async with host(app) as site, asyncio.timeout(GUARD_S):
            _, writer = await site.raw()
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
            await began.wait()
            writer.transport.abort()
            assert await raised.get() == "ClientDisconnect"

    async def test_server_sent_events_flow_and_end(self, host: Host) -> None:
        """sse-starlette, with its pings, its task group and its look-out for the client."""
        ended = asyncio.Event()

        async def events(request: Request) -> Response:
            async def source() -> AsyncIterator[dict[str, Any]]:
                try:
                    for number in range(1 << 30):
                        yield {"event": "tick", "id": str(number), "data": f"line\n{number}"}
                        await asyncio.sleep(0.001)
                finally:
                    ended.set()

            return EventSourceResponse(source(), sep="\n")

        async with host(Starlette(routes=[Route("/", events)])) as site, asyncio.timeout(GUARD_S):
            async with site.http.stream("GET", "/") as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                text = ""
                async for piece in answer.aiter_text():
                    text += piece
                    if "id: 5\n" in text:
                        break
            assert text.startswith("id: 0\nevent: tick\ndata: line\ndata: 0\n\n")
            await ended.wait()


class TestPlaces:
    async def test_mounts_urls_and_redirects(self, host: Host) -> None:
        inner = Starlette(routes=[Route("/deep/{name}", url_of, name="deep"), Route("/slash/", echo)])

        async def away(request: Request) -> Response:
            return RedirectResponse("/app/deep/1?q=ä")

        async with host(Starlette(routes=[Mount("/app", inner), Route("/away", away)])) as site:
            answer = await site.http.get("/away", follow_redirects=True)
            assert answer.text == f"http://127.0.0.1:{site.port}/app/deep/x-y"
            redirect = await site.http.get("/app/slash")
            assert redirect.headers["location"] == f"http://127.0.0.1:{site.port}/app/slash/"

    @pytest.mark.parametrize("size", [0, 10, 200_000])
    async def test_starlettes_own_static_files(self, host: Host, tmp_path: Path, size: int) -> None:
        """It uses ``http.response.pathsend`` where a server offers it."""
        content = b"0123456789" * (size // 10)
        (tmp_path / "file.bin").write_bytes(content)
        async with host(Starlette(routes=[Mount("/files", StaticFiles(directory=tmp_path))])) as site:
            answer = await site.http.get("/files/file.bin")
            assert (answer.status_code, answer.content) == (200, content)
            assert (await site.http.head("/files/file.bin")).headers["content-length"] == str(size)
            headers = {"If-None-Match": answer.headers["etag"]}
            assert (await site.http.get("/files/file.bin", headers=headers)).status_code == 304
            if size:
                part = await site.http.get("/files/file.bin", headers={"Range": "bytes=3-5,7-"})
                assert (part.status_code, content[7:] in part.content) == (206, True)
            assert (await site.http.get("/files/none")).status_code == 404
