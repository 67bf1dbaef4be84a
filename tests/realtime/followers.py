"""Readers of a room's streams: Server-Sent Events parsed by the rules of WHATWG HTML §9.2.6, and polls."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
from tests.realtime.raw import Raw, Socket
from tests.support import GUARD_S

import portico
from portico.realtime import History

SSE = {"Accept": "text/event-stream"}


@dataclass
class Said:
    """One event of a stream."""

    name: str
    data: Any
    id: str


class Reader:
    """One response of Server-Sent Events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.id = ""  # the last event id
        self.comments = 0
        self.retry: int | None = None

    async def next(self) -> Said | None:
        """The next event; None at the end of the response."""
        name, data, lines = "message", "", 0
        try:
            async with asyncio.timeout(GUARD_S):
                while line := await self.response.content.readline():
                    assert line.endswith(b"\n")
                    field, _, value = line[:-1].decode().partition(":")
                    value = value.removeprefix(" ")
                    if line == b"\n":
                        if lines:
                            return Said(name, json.loads(data), self.id)
                        name = "message"
                    elif not field:
                        self.comments += 1
                    elif field == "event":
                        name = value
                    elif field == "data":
                        data, lines = value, lines + 1
                    elif field == "id":
                        self.id = value
                    elif field == "retry":
                        self.retry = int(value)
                    else:
                        raise AssertionError(f"field {field!r}")
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
            pass  # it was cut
        return None

    async def take(self, count: int) -> list[Any]:
        """The arguments of the next `count` events."""
        taken = []
        for _ in range(count):
            said = await self.next()
            assert said is not None
            assert isinstance(said.data, list), said
            taken.append(said.data)
        return taken


def url(raw: Raw, *rooms: str, **query: str) -> str:
    """Where `rooms` are followed."""
    fields = [*(f"room={room}" for room in rooms), *(f"{name}={value}" for name, value in query.items())]
    return f"{raw.base}/socket.io/events?{'&'.join(fields)}"


@contextlib.asynccontextmanager
async def following(raw: Raw, *rooms: str, after: str = "", **query: str) -> AsyncIterator[Reader]:
    """A stream of `rooms`, on from the event whose id is `after`; it has begun."""
    headers = SSE | ({"Last-Event-ID": after} if after else {})
    async with raw.http.get(url(raw, *rooms, **query), headers=headers) as response:
        assert response.status == 200, await response.text()
        reader = Reader(response)
        first = await reader.next()
        assert first is not None
        assert (first.name, first.data) == ("position", {"position": first.id})
        yield reader


async def poll(raw: Raw, *rooms: str, **query: str) -> dict[str, Any]:
    """The answer to a poll."""
    async with raw.http.get(url(raw, *rooms, **({"since": ""} | query))) as response:
        assert response.status == 200, await response.text()
        return await response.json()  # type: ignore[no-any-return]


async def refused(raw: Raw, address: str, status: int = 403, headers: Any = None) -> str:
    """What a request is refused with."""
    async with raw.http.get(address, headers=headers) as response:
        assert response.status == status, await response.text()
        return str((await response.json())["message"])


async def member(socket: Socket, io: portico.Realtime, *rooms: str) -> Any:
    """A client of the official protocol that is in `rooms`."""
    await socket.opened()
    client = io.clients[await socket.connect()]
    client.join(*rooms)
    return client


def realtime(**options: Any) -> portico.Realtime:
    """A Realtime whose rooms all keep a history, and may be followed by everyone."""
    io = portico.Realtime(**({"history": History()} | options))

    @io.use_streams
    def anyone(request: object, room: str) -> None:
        pass

    return io
