"""Clients that lose their connections in every way, and a ledger of what was published to each of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from tests.realtime.raw import Raw
from tests.support import GUARD_S

import portico

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: close() sends RST
FATES = ("rst", "fin", "silence", "close", "leave")
AGAIN = (ConnectionError, aiohttp.ClientError, EOFError)  # a cut, by whichever side


@dataclass
class Gap:
    """What a reader was told that it has missed: all with an offset after `after` and up to `upto`."""

    after: int
    upto: int


@dataclass
class Ledger:
    """What was published: for each reader its events as (offset, number), in order; volatile ones by number alone."""

    events: list[list[tuple[int, int]]]
    volatile: list[set[int]]
    published: int = 0

    @classmethod
    def of(cls, readers: int) -> Ledger:
        return cls([[] for _ in range(readers)], [set() for _ in range(readers)])


@dataclass
class Log:
    """What one reader got: events as (offset, number), volatile ones by number, gaps; and all numbers as they came."""

    events: list[tuple[int, int]] = field(default_factory=list)
    volatile: list[int] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


class Reader:
    """A client that loses its connection again and again, and comes back as the official one does.

    That is with the ``pid`` of its last connection and the last place in the history that it was told of, be that from
    an older connection. It is `recovered` where the answer has the same ``pid``; else there is a gap, from the last
    place it knows to the ``anew`` event, which the application sends to every client that comes anew.
    """

    def __init__(
        self,
        io: portico.Realtime,
        server: portico.Server,
        number: int,
        seed: int,
        transports: list[str],
        ledger: Ledger,
    ) -> None:
        self.number = number
        self.random = random.Random(seed * 1000 + number)
        self.transports = transports
        self.ledger = ledger
        self.log = Log()
        self.seen = 0  # the last offset
        self.away = False  # it stays away on purpose
        self.done = False
        self.counts: Counter[str] = Counter()
        self._auth: dict[str, Any] = {"number": number}
        self._gap = True  # it was told that there is one, and does not know yet up to where
        self._sockets: list[socket.socket] = []
        self._limbo: list[Any] = []  # what it has turned its back on without a word
        connector = aiohttp.TCPConnector(limit=0, socket_factory=self._socket)
        self.http = aiohttp.ClientSession(connector=connector)
        self.raw = Raw(io, self.http, server)

    def _socket(self, address: Any) -> socket.socket:
        """One with a small buffer, so that a reader that stalls is soon noticed."""
        sock = socket.socket(address[0], address[1], address[2])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self._sockets = [one for one in self._sockets if one.fileno() >= 0] + [sock]
        return sock

    async def run(self) -> None:
        while not self.done:
            way = self.random.choice(self.transports)
            self.counts[way] += 1
            with contextlib.suppress(*AGAIN):
                await getattr(self, way)(self.random.randrange(0, 150))
            if not self.done:
                await self._stay_away()

    async def close(self) -> None:
        for task in self._limbo:
            if isinstance(task, asyncio.Task):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, *AGAIN):
                    await task
            else:
                self._abort(task)
        await self.http.close()

    # -- what comes ----------------------------------------------------------------------------------------------------

    def take(self, message: str | bytes | None) -> None:
        """A packet came."""
        if message is None:
            raise EOFError
        assert isinstance(message, str)
        if message.startswith("42"):
            self._event(json.loads(message[2:]))
        elif message.startswith("40"):
            self._connected(json.loads(message[2:])["pid"])
        elif message == "41":
            self.counts["disconnected"] += 1
            raise EOFError
        elif message == "1":
            raise EOFError
        else:
            assert message in ("2", "6"), message

    def _connected(self, pid: str) -> None:
        if self._auth.get("pid") == pid:
            self.counts["recovered"] += 1
        else:
            self.counts["anew"] += 1
            self._auth["pid"] = pid
            self._gap = True

    def _event(self, event: list[Any]) -> None:
        name, *values, place = event
        offset = int(place.rpartition(":")[2])
        self._auth["offset"] = place
        if name == "anew":
            assert self._gap, "told twice"
            self._gap = False
            self.log.gaps.append(Gap(self.seen, offset))
        else:
            assert not self._gap, f"{name} {values[:1]} before it was known where it begins"
        self.seen = max(self.seen, offset)
        if name == "end":
            self.done = True
        elif name == "n":
            self.log.events.append((offset, values[0]))
            self.log.numbers.append(values[0])
        elif name == "volatile":
            self.log.volatile.append(values[0])
            self.log.numbers.append(values[0])

    # -- ways to be connected ------------------------------------------------------------------------------------------

    async def websocket(self, count: int) -> None:
        async with asyncio.timeout(GUARD_S):
            ws = await self.http.ws_connect(self.raw.url(transport="websocket"), autoping=False, max_msg_size=0)
        await self._on(ws, count, "40" + json.dumps(self._auth))

    async def _on(self, ws: aiohttp.ClientWebSocketResponse, count: int, *first: str) -> None:
        """Read `count` messages on a WebSocket, and come to an end."""
        fate = self.random.choice(FATES)
        stall = self.random.randrange(500)
        try:
            for each in first:
                await ws.send_str(each)
            while count > 0 and not self.done:
                if count == stall:
                    await self._stall()
                message = await self._receive(ws)
                if message is None or message[0] != "0":
                    self.take(message)
                if message == "2":
                    await ws.send_str("3")
                count -= 1
        except AGAIN:
            fate = "fin"
            raise
        finally:
            await self._end(ws, fate if not self.done else "close")

    async def _receive(self, ws: aiohttp.ClientWebSocketResponse) -> str | None:
        async with asyncio.timeout(GUARD_S):
            message = await ws.receive()
        return message.data if message.type is aiohttp.WSMsgType.TEXT else None

    async def _end(self, ws: aiohttp.ClientWebSocketResponse, fate: str) -> None:
        self.counts[fate] += 1
        if fate == "silence" and not ws.closed:
            response: Any = ws._response
            response.connection.transport.pause_reading()
            self._limbo.append(ws)
        elif fate in ("rst", "fin", "silence"):
            self._abort(ws, reset=fate == "rst")
        elif fate == "leave":
            with contextlib.suppress(*AGAIN):
                await ws.send_str("1")
            self._abort(ws)
        else:
            self._limbo.append(asyncio.create_task(ws.close()))

    def _abort(self, ws: Any, *, reset: bool = False) -> None:
        connection = ws._response.connection
        if connection is None or connection.transport is None:
            return
        if reset:
            connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.transport.abort()

    async def polling(self, count: int) -> str:
        sid = await self._begin_polling()
        while count > 0 and not self.done:
            count -= await self._poll(sid)
        return sid

    async def _begin_polling(self) -> str:
        status, opened = await self.raw.request()
        if status != 200:
            raise EOFError
        sid = str(json.loads(opened[1:])["sid"])
        status, _ = await self.raw.request("POST", ("40" + json.dumps(self._auth)).encode(), sid=sid)
        if status != 200:
            raise EOFError
        return sid

    async def _poll(self, sid: str) -> int:
        """One GET; returns how many packets it brought."""
        if not self.random.randrange(100):
            await self._stall()
        held = asyncio.create_task(self.raw.request(sid=sid))
        if not self.random.randrange(25):
            await self._lose(held)
        status, text = await held
        if status != 200:
            raise EOFError
        messages = text.split("\x1e")
        for message in messages:
            self.take(message)
            if message == "2":
                await self.raw.request("POST", b"3", sid=sid)
        return len(messages)

    async def _lose(self, held: asyncio.Task[Any]) -> None:
        """A GET is lost, perhaps with its answer."""
        how = self.random.choice(("cut held", "cut answered", "never read"))
        self.counts[how] += 1
        if how == "cut answered":
            await asyncio.wait([held], timeout=0.2)
        elif how == "cut held":
            await asyncio.wait([held], timeout=self.random.choice((0, 0.002)))
        if how == "never read":
            self._limbo.append(held)
        else:
            if self.random.randrange(2):
                for sock in self._sockets:
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            held.cancel()
            await asyncio.wait([held])
            held.cancelled() or held.exception()
        raise ConnectionError

    async def upgrade(self, count: int) -> None:
        """Polling first, then WebSocket; at times it breaks off in between."""
        sid = await self.polling(count // 3)
        if self.done:
            return
        async with asyncio.timeout(GUARD_S):
            ws = await self.http.ws_connect(
                self.raw.url(transport="websocket", sid=sid), autoping=False, max_msg_size=0
            )
        try:
            await self._change_over(ws, sid, self.random.randrange(12))
        except BaseException:
            await self._end(ws, self.random.choice(FATES))
            raise
        await self._on(ws, count)

    async def _change_over(self, ws: aiohttp.ClientWebSocketResponse, sid: str, breaks_at: int) -> None:
        if breaks_at == 0:
            raise EOFError
        await ws.send_str("2probe")
        if breaks_at == 1:
            raise EOFError
        if await self._receive(ws) != "3probe":
            raise EOFError
        if breaks_at == 2:
            raise EOFError
        await self._poll(sid)
        if not self.done:
            await ws.send_str("5")
        if breaks_at == 3:
            raise EOFError

    # -- time ----------------------------------------------------------------------------------------------------------

    async def _stall(self) -> None:
        self.counts["stalls"] += 1
        await asyncio.sleep(self.random.choice((0.005, 0.05, 0.2)))

    async def _stay_away(self) -> None:
        """Between two connections: not at all, a moment, or until so much was published that it can't all be had."""
        if self.random.randrange(60):
            await asyncio.sleep(self.random.choice((0, 0, 0.001, 0.02)))
            return
        self.counts["long absences"] += 1
        self.away = True
        until = self.ledger.published + self.random.randrange(5000)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while self.ledger.published < until:
                    await asyncio.sleep(0.01)
        self.away = False
