"""Litestar: controllers, dependencies, uploads, streams, and its WebSocket listeners, handlers and channels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import websockets
from litestar import Controller, Litestar, WebSocket, get, post, websocket, websocket_listener
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.datastructures import State, UploadFile
from litestar.di import NamedDependency, Provide
from litestar.enums import RequestEncodingType
from litestar.exceptions import PermissionDeniedException
from litestar.params import Body, FromPath, JSONBody
from litestar.response import ServerSentEvent, Stream
from tests.apps.hosts import GUARD_S, Host


@dataclass
class Item:
    name: str
    count: int


class Items(Controller):
    path = "/items"

    @post()
    async def create(self, data: JSONBody[Item], unit: NamedDependency[str]) -> Item:
        return Item(f"{data.name} in {unit}", data.count + 1)

    @get("/{number:int}")
    async def one(self, number: FromPath[int], state: State) -> dict[str, Any]:
        return {"number": number, "started": state.started}


@post("/upload")
async def upload(data: Annotated[UploadFile, Body(media_type=RequestEncodingType.MULTI_PART)]) -> dict[str, Any]:
    return {"name": data.filename, "size": len(await data.read())}


@get("/stream")
async def stream() -> Stream:
    async def lines() -> AsyncIterator[str]:
        for number in range(100):
            yield f"{number}\n"

    return Stream(lines())


@get("/events")
async def events() -> ServerSentEvent:
    async def source() -> AsyncIterator[dict[str, Any]]:
        for number in range(3):
            yield {"data": str(number), "event": "tick"}

    return ServerSentEvent(source())


@get("/broken")
async def broken() -> None:
    raise RuntimeError("the handler is broken")


@websocket_listener("/upper")
async def upper(data: str) -> str:
    return data.upper()


@websocket("/plain")
async def plain(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_bytes(await socket.receive_bytes())
    await socket.close(4002, "enough")


@websocket("/denied")
async def denied(socket: WebSocket) -> None:
    raise PermissionDeniedException("not you")


def build() -> Litestar:
    def started(app: Litestar) -> None:
        app.state.started = True

    return Litestar(
        [Items, upload, stream, events, broken, upper, plain, denied],
        dependencies={"unit": Provide(lambda: "grams", sync_to_thread=False)},
        on_startup=[started],
        plugins=[ChannelsPlugin(MemoryChannelsBackend(), channels=["news"], create_ws_route_handlers=True)],
        logging_config=None,
        openapi_config=None,
    )


async def test_http(host: Host) -> None:
    async with host(build()) as site:
        answer = await site.http.post("/items", json={"name": "tea", "count": 1})
        assert (answer.status_code, answer.json()) == (201, {"name": "tea in grams", "count": 2})
        assert (await site.http.post("/items", json={"name": "tea"})).status_code == 400
        assert (await site.http.get("/items/7")).json() == {"number": 7, "started": True}
        content = b"x" * 300_000
        answer = await site.http.post("/upload", files={"data": ("a.bin", content)})
        assert answer.json() == {"name": "a.bin", "size": len(content)}
        assert (await site.http.get("/stream")).text.split() == [str(number) for number in range(100)]
        events = await site.http.get("/events")
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.text.count("event: tick") == 3
        assert (await site.http.get("/nowhere")).status_code == 404


async def test_an_exception_is_500(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    async with host(build()) as site:
        answer = await site.http.get("/broken")
        assert (answer.status_code, "broken" in answer.text) == (500, False)
        assert (await site.http.get("/items/1")).status_code == 200
    assert [record for record in caplog.records if record.levelno > logging.ERROR] == []


async def test_websockets(host: Host) -> None:
    async with host(build()) as site:
        async with site.ws("/upper") as ws:
            for _ in range(3):
                await ws.send("quiet €")
                assert await ws.recv() == "QUIET €"
        async with site.ws("/plain") as ws:
            await ws.send(b"\x00")
            assert await ws.recv() == b"\x00"
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (4002, "enough")


async def test_a_refusal(host: Host) -> None:
    """Litestar closes with 4403 before it accepts: the client sees 403 (ASGI §Close - send event)."""
    async with host(build()) as site:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await site.ws("/denied")
        assert refused.value.response.status_code == 403


async def test_channels_reach_every_subscriber(host: Host) -> None:
    app = build()
    async with host(app) as site, asyncio.timeout(GUARD_S):
        channels = app.plugins.get(ChannelsPlugin)
        async with site.ws("/news") as one, site.ws("/news") as two:
            got: list[Any] = [asyncio.create_task(_first(ws)) for ws in (one, two)]
            while not all(task.done() for task in got):  # nothing announces that a subscription is in place
                await channels.wait_published("hello", ["news"])
                await asyncio.sleep(0.001)
            assert [task.result() for task in got] == ["hello", "hello"]


async def _first(ws: websockets.ClientConnection) -> Any:
    return await ws.recv()
