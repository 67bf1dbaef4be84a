"""FastAPI: dependencies, validation, uploads, background tasks, streaming, lifespan state, WebSockets, failures."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
import websockets
from fastapi import (
    BackgroundTasks,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from tests.apps.hosts import GUARD_S, Host

Events = asyncio.Queue[Any]


class Item(BaseModel):
    name: str
    price: float = 1.5


def build(events: Events) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        events.put_nowait("startup")
        yield {"pool": ["shared"]}
        events.put_nowait("shutdown")

    app = FastAPI(lifespan=lifespan)

    async def opened() -> AsyncIterator[str]:
        events.put_nowait("opened")
        try:
            yield "session"
        finally:
            events.put_nowait("closed")

    def authenticated(x_token: Annotated[str, Header()], session: str = Depends(opened)) -> str:
        if x_token != "right":
            raise HTTPException(401, "wrong token", headers={"WWW-Authenticate": "Token"})
        return f"user of {session}"

    @app.get("/state")
    async def state(request: Request) -> Any:
        return {"pool": request.state.pool, "client": request.client.host if request.client else None}

    @app.get("/me")
    def me(user: str = Depends(authenticated)) -> str:  # a sync endpoint: in a thread
        return user

    @app.post("/items", status_code=201)
    async def create(item: Item, tag: Annotated[list[str], Query()] = []) -> Any:  # noqa: B006 # FastAPI copies it
        return {"item": item, "tag": tag}

    @app.post("/upload")
    async def upload(file: Annotated[UploadFile, File()], note: Annotated[str, Form()]) -> Any:
        digest = hashlib.sha256()
        while piece := await file.read(1 << 16):
            digest.update(piece)
        return {"name": file.filename, "type": file.content_type, "sha256": digest.hexdigest(), "note": note}

    @app.post("/raw")
    async def raw(request: Request) -> Any:
        return sum([len(piece) async for piece in request.stream()])

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(events.put, "after the response")
        return "soon"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            for number in range(1000):
                yield f"line {number}\n"

        return StreamingResponse(lines(), media_type="text/plain")

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the endpoint is broken")

    _websockets(app, events)
    return app


def _websockets(app: FastAPI, events: Events) -> None:
    @app.websocket("/rooms/{room}")
    async def rooms(ws: WebSocket, room: str, name: Annotated[str, Query()]) -> None:
        await ws.accept(subprotocol="chat", headers=[(b"x-room", room.encode())])
        await ws.send_json({"room": room, "name": name, "pool": ws.state.pool})
        try:
            while True:
                message = await ws.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message["code"], message.get("reason"))
                await (ws.send_text(message["text"]) if message.get("text") else ws.send_bytes(message["bytes"]))
        except WebSocketDisconnect as gone:
            events.put_nowait((gone.code, gone.reason))

    @app.websocket("/policy")
    async def policy(ws: WebSocket) -> None:
        await ws.accept()
        raise WebSocketException(code=4001, reason="not you")

    @app.websocket("/denied")
    async def denied(ws: WebSocket) -> None:
        raise HTTPException(402, "pay first")

    @app.websocket("/broken")
    async def broken(ws: WebSocket) -> None:
        await ws.accept()
        raise RuntimeError("the socket is broken")

    @app.websocket("/returns")
    async def returns(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text("and that was it")
        await ws.close(1000, "done")


@pytest.fixture
def events() -> Events:
    return asyncio.Queue()


async def next_of(events: Events) -> Any:
    async with asyncio.timeout(GUARD_S):
        return await events.get()


class TestHttp:
    async def test_lifespan_state_reaches_requests_and_its_end_is_run(self, host: Host, events: Events) -> None:
        async with host(build(events)) as site:
            assert events.get_nowait() == "startup"
            assert (await site.http.get("/state")).json() == {"pool": ["shared"], "client": "127.0.0.1"}
        assert events.get_nowait() == "shutdown"

    async def test_dependencies_are_opened_checked_and_closed(self, host: Host, events: Events) -> None:
        async with host(build(events)) as site:
            assert await next_of(events) == "startup"
            answer = await site.http.get("/me", headers={"X-Token": "right"})
            assert (answer.status_code, answer.json()) == (200, "user of session")
            assert [await next_of(events), await next_of(events)] == ["opened", "closed"]
            answer = await site.http.get("/me", headers={"X-Token": "wrong"})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Token")

    async def test_bodies_are_validated(self, host: Host, events: Events) -> None:
        async with host(build(events)) as site:
            answer = await site.http.post("/items?tag=a&tag=%20b", json={"name": "tea"})
            assert (answer.status_code, answer.json()) == (
                201,
                {"item": {"name": "tea", "price": 1.5}, "tag": ["a", " b"]},
            )
            answer = await site.http.post("/items", content=b"{", headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, "json_invalid")
            assert (await site.http.get("/items")).status_code == 405
            assert "/items" in (await site.http.get("/openapi.json")).json()["paths"]

    @pytest.mark.parametrize("size", [0, 10, 3_000_000])
    async def test_files_are_uploaded(self, host: Host, events: Events, size: int) -> None:
        content = b"0123456789" * (size // 10)
        async with host(build(events)) as site:
            files = {"file": ("a €.bin", content, "application/x-test")}
            answer = await site.http.post("/upload", files=files, data={"note": "über"})
        digest = hashlib.sha256(content).hexdigest()
        assert answer.json() == {"name": "a €.bin", "type": "application/x-test", "sha256": digest, "note": "über"}

    async def test_a_chunked_body_is_streamed(self, host: Host, events: Events) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b"x" * 10_000

        async with host(build(events)) as site:
            assert (await site.http.post("/raw", content=pieces())).json() == 500_000

    async def test_background_tasks_run_after_the_response(self, host: Host, events: Events) -> None:
        async with host(build(events)) as site:
            assert await next_of(events) == "startup"
            assert (await site.http.get("/background")).json() == "soon"
            assert await next_of(events) == "after the response"

    async def test_a_response_is_streamed(self, host: Host, events: Events) -> None:
        async with host(build(events)) as site:
            answer = await site.http.get("/stream")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.text.splitlines() == [f"line {number}" for number in range(1000)]

    async def test_an_exception_is_500_and_logged_with_its_traceback(
        self, host: Host, events: Events, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with host(build(events)) as site:
            answer = await site.http.get("/broken")
            assert (answer.status_code, "broken" in answer.text) == (500, False)
            assert (await site.http.get("/state")).status_code == 200
        failures = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(failures) == 1
        assert failures[0].exc_info is not None
        assert "the endpoint is broken" in str(failures[0].exc_info[1])


class TestWebSocket:
    async def test_is_accepted_with_what_the_endpoint_says(self, host: Host, events: Events) -> None:
        async with host(build(events)) as site:
            assert await next_of(events) == "startup"
            async with site.ws("/rooms/red?name=ann", subprotocols=["other", "chat"]) as ws:
                assert ws.subprotocol == "chat"
                assert ws.response is not None
                assert ws.response.headers["x-room"] == "red"
                assert json.loads(await ws.recv()) == {"room": "red", "name": "ann", "pool": ["shared"]}
                for message in ("text €", b"\x00bytes", "x" * 100_000):
                    await ws.send(message)
                    assert await ws.recv() == message
                await ws.close(4000, "bye")
            assert await next_of(events) == (4000, "bye")

    async def test_a_client_that_vanishes_is_1006(self, host: Host, events: Events) -> None:
        async with host(build(events)) as site:
            assert await next_of(events) == "startup"
            ws = await site.ws("/rooms/red?name=ann", subprotocols=["chat"])
            ws.transport.abort()
            code, _ = await next_of(events)
        assert code in (1005, 1006)

    @pytest.mark.parametrize(("path", "code", "reason"), [("/policy", 4001, "not you"), ("/returns", 1000, "done")])
    async def test_is_closed_as_the_endpoint_says(
        self, host: Host, events: Events, path: str, code: int, reason: str
    ) -> None:
        async with host(build(events)) as site, site.ws(path) as ws:
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (code, reason)

    @pytest.mark.parametrize(("path", "status"), [("/denied", 402), ("/rooms/red", 403), ("/nowhere", 403)])
    async def test_is_refused_as_the_endpoint_says(self, host: Host, events: Events, path: str, status: int) -> None:
        """The extension ``websocket.http.response``; a close before the accept is 403."""
        async with host(build(events)) as site:
            with pytest.raises(websockets.InvalidStatus) as refused:
                await site.ws(path)
            assert refused.value.response.status_code == status
            if status == 402:
                assert json.loads(refused.value.response.body or b"") == {"detail": "pay first"}

    async def test_an_exception_is_an_end_and_logged(
        self, host: Host, events: Events, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with host(build(events)) as site:
            async with site.ws("/broken") as ws:
                await ws.wait_closed()
                assert ws.close_code == (1011 if site.server == "portico" else 1006)  # uvicorn drops TCP
            assert (await site.http.get("/state")).status_code == 200
        failures = [record for record in caplog.records if record.levelno == logging.ERROR and record.exc_info]
        assert len(failures) == 1
