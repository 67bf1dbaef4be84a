"""python-socketio's ASGI server, unchanged: its own client and npm's, by polling, upgrade, WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import socketio
from socketio.exceptions import ConnectionError as Refused
from tests.apps.hosts import GUARD_S, Host
from tests.node import said

TRANSPORTS = (["polling", "websocket"], ["websocket"], ["polling"])


def build(ended: asyncio.Queue[str]) -> Any:
    io = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins=[])

    @io.event
    async def connect(sid: str, environ: Any, auth: Any) -> None:
        if not auth or auth.get("token") != "right":
            raise socketio.exceptions.ConnectionRefusedError("wrong token")
        await io.save_session(sid, {"agent": environ.get("HTTP_USER_AGENT", "")})
        await io.enter_room(sid, "room")

    @io.event
    async def add(sid: str, a: int, b: int) -> int:
        return a + b

    @io.on("bytes")
    async def on_bytes(sid: str, data: bytes) -> bytes:
        return data[::-1]

    @io.event
    async def echo(sid: str, data: Any) -> Any:
        return data

    @io.event
    async def tell(sid: str, room: str, text: str) -> None:
        await io.emit("told", (text, len(await io.get_session(sid))), room=room)

    @io.event
    async def leave(sid: str) -> None:
        await io.disconnect(sid)

    @io.event
    async def disconnect(sid: str, reason: str) -> None:
        ended.put_nowait(reason)

    return socketio.ASGIApp(io)


@asynccontextmanager
async def client(port: int, transports: list[str], token: str = "right") -> AsyncIterator[socketio.AsyncClient]:
    async with aiohttp.ClientSession() as session:
        one = socketio.AsyncClient(reconnection=False, http_session=session)
        try:
            await one.connect(f"http://127.0.0.1:{port}", auth={"token": token}, transports=transports)
            yield one
        finally:
            await one.disconnect()


@pytest.mark.parametrize("transports", TRANSPORTS[:2], ids="-".join)  # while it polls, it waits for a poll to leave
async def test_its_python_client(host: Host, transports: list[str]) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()
    async with host(build(ended)) as site, asyncio.timeout(GUARD_S):
        async with client(site.port, transports) as one, client(site.port, transports) as two:
            assert one.transport() == transports[-1]
            assert await one.call("add", (2, 3)) == 5
            assert await one.call("bytes", b"\x00\x01\xff") == b"\xff\x01\x00"
            assert await one.call("echo", "x" * 200_000) == "x" * 200_000
            told: list[asyncio.Future[Any]] = []
            for each in (one, two):
                told.append(future := asyncio.get_running_loop().create_future())
                each.on("told", lambda *args, future=future: future.set_result(args))
            await one.emit("tell", ("room", "héllo €"))
            assert [await future for future in told] == [("héllo €", 1)] * 2
        assert await ended.get() in ("client disconnect", "transport close")  # which of them it hears of first


async def test_a_client_that_is_refused(host: Host) -> None:
    async with host(build(asyncio.Queue())) as site:
        with pytest.raises(Refused):
            async with client(site.port, ["websocket"], "wrong"):
                pass


@pytest.mark.parametrize("transports", TRANSPORTS, ids="-".join)
async def test_npm_socket_io_client(host: Host, transports: list[str]) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()
    async with host(build(ended)) as site, asyncio.timeout(GUARD_S):
        url = f"http://127.0.0.1:{site.port}"
        assert await said("socketio.mjs", url, ",".join(transports), packages=("socket.io-client",)) == {
            "last": transports[-1],
            "answer": 5,
            "binary": [255, 1, 0],
            "told": ["héllo €", 1],
            "big": True,
            "gone": "io server disconnect",
        }
        assert await ended.get() in ("server disconnect", "transport close")
