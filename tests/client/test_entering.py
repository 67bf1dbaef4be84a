"""The three ways to use what `connect` returns, more than once, and how a block's end closes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from tests.client.fakes import Fake, Visit
from tests.support import until

import portico
from portico.client.connect import Connect

SOON = portico.Backoff(first_s=0.001, longest_s=0.01)


class Served:
    """A server that echoes, knows who is there, and with which codes they went."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.open: set[portico.WebSocket] = set()
        self.uri = ""

    async def handler(self, ws: portico.WebSocket) -> None:
        self.open.add(ws)
        async for message in ws:
            if message == "go":
                await ws.close(1012)
            else:
                await ws.send(message)
        self.open.discard(ws)
        assert ws.closed is not None
        self.codes.append(ws.closed.code)

    async def closed_with(self, *codes: int) -> None:
        await until(lambda: len(self.codes) == len(codes))
        assert sorted(self.codes) == sorted(codes)
        assert not self.open


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    async with portico.serve(served.handler, "127.0.0.1", 0) as server:
        served.uri = f"ws://127.0.0.1:{server.port}/"
        yield served


# -- how a block's end closes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyError, 1011),
        (ExceptionGroup("two", [KeyError(), ValueError()]), 1011),
        (asyncio.CancelledError, 1001),
        (KeyboardInterrupt, 1001),
        (SystemExit, 1001),
        (GeneratorExit, 1001),
        (BaseExceptionGroup("two", [KeyboardInterrupt()]), 1001),
    ],
)
async def test_what_leaves_the_block_says_how_it_closes(
    error: BaseException | type[BaseException], code: int, served: Served
) -> None:
    """1011 is for the block's own fault; 1001 for who goes away (RFC 6455 §7.4.1)."""
    context = portico.connect(served.uri)
    ws = await context.__aenter__()
    kind = error if isinstance(error, type) else type(error)
    await context.__aexit__(kind, None, None)
    assert ws.closed is not None
    await served.closed_with(code)


async def test_cancelling_the_block_goes_away(served: Served) -> None:
    there = asyncio.Event()

    async def converse() -> None:
        async with portico.connect(served.uri) as ws:
            there.set()
            await ws.recv()

    task = asyncio.create_task(converse())
    await there.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await served.closed_with(1001)


async def test_a_timeout_around_the_block_goes_away(served: Served) -> None:
    async def converse() -> None:
        async with asyncio.timeout(None) as timeout, portico.connect(served.uri) as ws:
            timeout.reschedule(asyncio.get_running_loop().time())
            await ws.recv()

    with pytest.raises(TimeoutError):
        await converse()
    await served.closed_with(1001)


# -- one object, several uses ------------------------------------------------------------------------------------------


async def test_a_block_within_its_own_block_is_refused(served: Served) -> None:
    context = portico.connect(served.uri)
    async with context as ws:
        with pytest.raises(portico.LocalError, match="is in an async with already"):
            async with context:
                pass
        await ws.send("hi")  # the first one is none the worse for it
        assert await ws.recv() == "hi"
    await served.closed_with(1000)


async def test_two_tasks_can_not_enter_one_at_a_time(served: Served) -> None:
    context = portico.connect(served.uri)

    async def converse() -> str | bytes:
        async with context as ws:
            await ws.send("hi")
            return await ws.recv()

    found = await asyncio.gather(*(converse() for _ in range(5)), return_exceptions=True)
    assert found.count("hi") == 1
    assert sum(isinstance(one, portico.LocalError) for one in found) == 4
    await served.closed_with(1000)


async def test_one_after_the_other_may_enter(served: Served) -> None:
    context = portico.connect(served.uri)
    for _ in range(3):
        async with context as ws:
            await ws.send("hi")
            assert await ws.recv() == "hi"
    await served.closed_with(1000, 1000, 1000)


async def test_it_may_be_entered_after_it_could_not_be() -> None:
    async with Fake.running(lambda visit: visit.answer("503 No") if fake.count == 1 else visit.closed()) as fake:
        context = portico.connect(f"ws://127.0.0.1:{fake.port}/")
        with pytest.raises(portico.HandshakeError):
            async with context:
                pass
        async with context as ws:
            assert isinstance(ws, portico.WebSocket)


async def test_awaiting_and_iterating_within_the_block_are_connections_of_their_own(served: Served) -> None:
    context = portico.connect(served.uri)
    async with context as one:
        two = await context
        async for three in context:
            for ws in (one, two, three):
                await ws.send("hi")
                assert await ws.recv() == "hi"
            assert len(served.open) == 3
            await three.close()
            break
        await two.close()
        await until(lambda: served.open)
        assert one.closed is None
    await served.closed_with(1000, 1000, 1000)


async def test_a_socket_can_be_used_once_in_any_way(served: Served) -> None:
    sock = socket.create_connection(("127.0.0.1", int(served.uri.rpartition(":")[2].rstrip("/"))))
    context = portico.connect("ws://a/", sock=sock)
    async with context as ws:
        with pytest.raises(portico.LocalError, match="used once"):
            await context
        with pytest.raises(portico.LocalError, match="used once"):
            async for _ in context:
                pass
        await ws.send("hi")  # it is still the first one's
        assert await ws.recv() == "hi"
    with pytest.raises(portico.LocalError, match="used once"):
        async with context:
            pass
    await served.closed_with(1000)


# -- counters ----------------------------------------------------------------------------------------------------------


async def test_counters_are_of_all_connections_of_one_connect(served: Served) -> None:
    connection = portico.connect(served.uri, backoff=SOON)
    count = 0
    async for ws in connection:
        count += 1
        await ws.send("go" if count < 4 else "hi")
        async for _ in ws:
            await ws.close(4000)
        if count == 4:
            break
    assert dict(connection.counters.closed) == {1012: 3, 4000: 1}
    other: Connect = portico.connect(served.uri)
    assert dict(other.counters.closed) == {}
    async with other:
        assert dict(other.counters.closed) == {}
    assert dict(other.counters.closed) == {1000: 1}
    assert dict(connection.counters.closed) == {1012: 3, 4000: 1}


async def test_counters_know_which_limit_a_server_went_over() -> None:
    async def script(visit: Visit) -> None:
        await visit.switch(b"\x82\x7e\x04\x00" + bytes(1024))
        await visit.gone()

    async with Fake.running(script) as fake:
        connection = portico.connect(f"ws://127.0.0.1:{fake.port}/", limits=portico.Limits(max_message_bytes=1000))
        for _ in range(2):
            async with connection as ws:
                with pytest.raises(portico.ConnectionClosed):
                    await ws.recv()
    assert dict(connection.counters.exceeded) == {"max_message_bytes": 2}
    assert dict(connection.counters.closed) == {1009: 2}
    assert repr(connection.counters) == "Counters(closed={1009: 2}, exceeded={'max_message_bytes': 2}, refused={})"
