"""Quart: requests, streams both ways, WebSockets, and its clean-up when a client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from quart import Quart, abort, jsonify, make_response, request, session, websocket
from tests.apps.hosts import GUARD_S, Host


def build() -> Quart:
    app = Quart(__name__)
    app.secret_key = "for tests"
    app.ended = asyncio.Queue()  # type: ignore[attr-defined]

    @app.before_serving
    async def start() -> None:
        app.config["STARTED"] = True

    @app.route("/count", methods=["GET", "POST"])
    async def count() -> Any:
        session["count"] = session.get("count", 0) + 1
        form = await request.form
        return jsonify(count=session["count"], form=dict(form), started=app.config["STARTED"])

    @app.post("/size")
    async def size() -> Any:
        total = 0
        async for piece in request.body:
            total += len(piece)
        return str(total)

    @app.get("/endless")
    async def endless() -> Any:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"more" * 1000
                    await asyncio.sleep(0)
            finally:
                app.ended.put_nowait("the stream ended")  # type: ignore[attr-defined]

        response = await make_response(pieces())
        response.timeout = None
        return response

    @app.get("/broken")
    async def broken() -> Any:
        raise RuntimeError("the view is broken")

    @app.websocket("/ws/<name>")
    async def ws(name: str) -> None:
        if name == "nobody":
            abort(401)
        await websocket.accept(subprotocol="chat", headers={"x-name": name})
        try:
            while True:
                message = await websocket.receive()
                if message == "close":
                    await websocket.close(4001, "as you wish")
                    return
                await websocket.send(message)
        except asyncio.CancelledError:
            app.ended.put_nowait("the socket ended")  # type: ignore[attr-defined]
            raise

    return app


async def test_requests_sessions_and_bodies(host: Host) -> None:
    async with host(build()) as site:
        assert (await site.http.get("/count")).json()["count"] == 1
        answer = await site.http.post("/count", data={"a": "ü"})
        assert answer.json() == {"count": 2, "form": {"a": "ü"}, "started": True}

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 10_000

        assert (await site.http.post("/size", content=pieces())).text == "1000000"
        assert (await site.http.post("/size", content=b"x" * 3_000_000)).text == "3000000"
        assert (await site.http.get("/broken")).status_code == 500
        assert (await site.http.get("/nowhere")).status_code == 404


async def test_websockets(host: Host) -> None:
    async with host(build()) as site:
        async with site.ws("/ws/ann", subprotocols=["chat"]) as ws:
            assert ws.subprotocol == "chat"
            assert ws.response is not None
            assert ws.response.headers["x-name"] == "ann"
            for message in ("text", b"bytes"):
                await ws.send(message)
                assert await ws.recv() == message
            await ws.send("close")
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (4001, "as you wish")
        with pytest.raises(websockets.InvalidStatus) as refused:
            await site.ws("/ws/nobody")
        assert refused.value.response.status_code == 401


@pytest.mark.parametrize("kind", ["stream", "socket"])
async def test_a_client_that_leaves_ends_its_view(host: Host, kind: str) -> None:
    app = build()
    async with host(app) as site, asyncio.timeout(GUARD_S):
        if kind == "stream":
            reader, writer = await site.raw()
            writer.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"more")
            writer.transport.abort()
        else:
            ws = await site.ws("/ws/ann", subprotocols=["chat"])
            ws.transport.abort()
        assert await app.ended.get() == f"the {kind} ended"  # type: ignore[attr-defined]
