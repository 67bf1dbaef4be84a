"""A peer that speaks Engine.IO and Socket.IO by hand: exactly what a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
from tests.support import GUARD_S

import portico
from portico.realtime.sessions import Session

PATH = "/socket.io/"


@dataclass
class Raw:
    """A client of one server, over polling and WebSocket."""

    io: portico.Realtime
    http: aiohttp.ClientSession
    server: portico.Server

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def session(self) -> Session:
        """The first session that there is."""
        return next(iter(self.io.engine.sessions.values()))

    def url(self, **query: str | None) -> str:
        fields = {"EIO": "4", "transport": "polling"} | query
        return (
            self.base + PATH + "?" + "&".join(f"{name}={value}" for name, value in fields.items() if value is not None)
        )

    async def request(
        self, method: str = "GET", data: Any = None, headers: Any = None, **query: str | None
    ) -> tuple[int, str]:
        headers = {"Content-Type": "text/plain; charset=UTF-8"} | (headers or {}) if data is not None else headers
        async with (
            asyncio.timeout(GUARD_S),
            self.http.request(method, self.url(**query), data=data, headers=headers) as answer,
        ):
            return answer.status, await answer.text()

    async def get(self, sid: str) -> str:
        status, text = await self.request(sid=sid)
        assert status == 200, text
        return text

    async def post(self, sid: str, body: str) -> None:
        assert await self.request("POST", body.encode(), sid=sid) == (200, "ok")

    async def poll_session(self) -> str:
        """The id of a new session on polling."""
        text = await self.get_open()
        return str(json.loads(text[1:])["sid"])

    async def get_open(self) -> str:
        status, text = await self.request()
        assert status == 200, text
        assert text[0] == "0"
        return text

    @contextlib.asynccontextmanager
    async def socket(self, sid: str | None = None, **query: str | None) -> AsyncIterator[Socket]:
        url = self.url(transport="websocket", sid=sid, **query).replace("http", "ws", 1)
        async with asyncio.timeout(GUARD_S):
            connection = await self.http.ws_connect(url, autoping=False, max_msg_size=0)
        try:
            yield Socket(connection)
        finally:
            await connection.close()


@dataclass
class Socket:
    """A WebSocket by hand."""

    connection: aiohttp.ClientWebSocketResponse

    async def send(self, *messages: str | bytes) -> None:
        for message in messages:
            if isinstance(message, str):
                await self.connection.send_str(message)
            else:
                await self.connection.send_bytes(message)

    async def next(self) -> str | bytes | None:
        """The next message, None at the end."""
        async with asyncio.timeout(GUARD_S):
            message = await self.connection.receive()
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            return message.data  # type: ignore[no-any-return]
        return None

    async def expect(self, *messages: str | bytes) -> None:
        for expected in messages:
            assert await self.next() == expected

    async def closed(self) -> int | None:
        """Nothing but the end comes; returns the code."""
        assert await self.next() is None
        return self.connection.close_code

    async def opened(self) -> dict[str, Any]:
        first = await self.next()
        assert isinstance(first, str)
        assert first[0] == "0"
        return json.loads(first[1:])  # type: ignore[no-any-return]

    async def connect(self, namespace: str = "", auth: str = "") -> str:
        """Connect to a namespace; returns the client's id. `namespace` ends with a comma."""
        await self.send(f"40{namespace}{auth}")
        answer = await self.next()
        assert isinstance(answer, str)
        assert answer.startswith(f"40{namespace}"), answer
        return str(json.loads(answer[2 + len(namespace) :])["sid"])


@contextlib.asynccontextmanager
async def serving(io: portico.Realtime, **options: Any) -> AsyncIterator[Raw]:
    """A server with `io` at /socket.io, and a client for it."""
    app = portico.App()
    app.mount("/socket.io", io)
    async with (
        asyncio.timeout(3 * GUARD_S),
        portico.serve(app, "127.0.0.1", 0, **options) as server,
        aiohttp.ClientSession() as http,
    ):
        yield Raw(io, http, server)


def realtime(**options: Any) -> portico.Realtime:
    """A Realtime that answers ``echo`` with what came, and ``quiet`` with nothing."""
    io = portico.Realtime(**options)

    @io.on("echo")
    async def echo(client: object, *args: Any) -> Any:
        return args

    @io.on("quiet")
    async def quiet(client: object) -> None:
        pass

    return io
