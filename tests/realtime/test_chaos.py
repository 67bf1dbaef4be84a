"""Random cuts, transport switches and drops by the server: each client's log is what was published to it, in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import Any

import aiohttp
import pytest
from tests.realtime.raw import Raw, Socket, serving
from tests.support import turns, until

import portico
from portico.realtime import Recovery

CLIENTS = 12
EVENTS = 1500


class Reader:
    """A client that loses its connection again and again, and keeps a log of what it was sent."""

    def __init__(self, raw: Raw, seed: int, transports: list[str]) -> None:
        self.raw = raw
        self.random = random.Random(seed)
        self.transports = transports
        self.log: list[int] = []
        self.auth: dict[str, str] = {"room": str(seed % 3)}
        self.recovered = 0
        self.done = False

    async def run(self) -> None:
        while not self.done:
            with contextlib.suppress(ConnectionError, AssertionError, aiohttp.ClientError, TypeError):  # a cut
                await getattr(self, self.random.choice(self.transports))(self.random.randrange(1, 80))
            await asyncio.sleep(0)

    def take(self, message: str | bytes | None) -> None:
        assert isinstance(message, str)
        if message.startswith("42"):
            event = json.loads(message[2:])
            self.auth["offset"] = event[-1]
            if event[0] == "end":
                self.done = True
            else:
                self.log.append(event[1])
        elif message.startswith("40"):
            pid = json.loads(message[2:])["pid"]
            assert self.auth.setdefault("pid", pid) == pid or pytest.fail("not recovered")
            self.recovered += 1
        else:
            assert message[0] in "26"

    async def read(self, socket: Socket, count: int) -> None:
        for _ in range(count):
            self.take(await socket.next())
            if self.done:
                return
        response: Any = socket.connection._response
        response.connection.transport.abort()

    async def websocket(self, count: int) -> None:
        async with self.raw.socket() as socket:
            await socket.opened()
            await socket.send("40" + json.dumps(self.auth))
            await self.read(socket, count)

    async def poll(self, count: int) -> str:
        sid = await self.raw.poll_session()
        await self.raw.post(sid, "40" + json.dumps(self.auth))
        while count > 0 and not self.done:
            held = asyncio.create_task(self.raw.get(sid))
            await asyncio.wait([held], timeout=self.random.choice((1, 1, 1, 0.001)))
            if not held.done():
                held.cancel()  # perhaps with an answer on its way
                raise ConnectionError
            for message in held.result().split("\x1e"):
                self.take(message)
                count -= 1
        return sid

    async def polling(self, count: int) -> None:
        await self.poll(count)

    async def upgrade(self, count: int) -> None:
        sid = await self.poll(count // 3)
        async with self.raw.socket(sid) as socket:
            await socket.send("2probe")
            await socket.expect("3probe")
            for message in (await self.raw.get(sid)).split("\x1e"):
                self.take(message)
            await socket.send("5")
            await self.read(socket, count)


@pytest.mark.parametrize("transports", [["websocket", "polling", "upgrade"], ["polling"]], ids="-".join)
async def test_nothing_is_lost_doubled_or_reordered(transports: list[str]) -> None:
    io = portico.Realtime(recovery=Recovery(max_events=100_000), ping_interval_s=0.7, ping_timeout_s=0.7)
    cutting = random.Random(7)

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        await asyncio.sleep(0)
        client.join(auth["room"])

    async with serving(io) as raw:
        readers = [Reader(raw, seed, transports) for seed in range(CLIENTS)]
        tasks = [asyncio.create_task(reader.run()) for reader in readers]
        await until(lambda: all(reader.recovered for reader in readers))
        published: list[list[int]] = [[] for _ in range(3)]
        for n in range(EVENTS):
            room = n % 3
            if n % 10:
                io.to(str(room)).emit("n", n)
                published[room].append(n)
            else:
                io.emit("n", n)
                for each in published:
                    each.append(n)
            if n % 20 == 0:
                await turns(5)
            if n % 100 == 0 and io.engine.sessions:
                cutting.choice(list(io.engine.sessions.values())).close("transport error", discard=True)
        io.emit("end")
        await asyncio.gather(*tasks)
        for seed, reader in enumerate(readers):
            assert reader.log == published[seed % 3], seed
        assert sum(reader.recovered for reader in readers) > 3 * CLIENTS
        await until(lambda: not io.engine.sessions and not io._tasks)
