"""The stop, spread: WebSockets are sent away one after the other, and a second signal is heard whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import textwrap
import time

import pytest
from tests.support import GUARD_S, TEXT, Peer, close_frame, frame, get, pages, respond, serving, until, upgrade

import portico


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


@contextlib.asynccontextmanager
async def opened(server: portico.Server, count: int):  # type: ignore[no-untyped-def] # a fixture of this file alone
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(await Peer.connect(server)) for _ in range(count)]
        for peer in peers:
            await peer.open()
        yield peers


class TestDrain:
    async def test_sockets_whose_turn_has_not_come_go_on(self) -> None:
        """The first is closed at once. When the last of the others has left, the stop is over, long before its time."""
        async with serving(echo, limits=portico.Limits(drain_s=600)) as server, opened(server, 3) as peers:
            stopping = asyncio.ensure_future(server.close())
            await until(lambda: sum(not c.websocket.sending for c in server.connections if c.websocket) == 1)
            open_still = []
            for peer in peers:
                peer.send(frame(TEXT, b"hello"))
                if (await peer.frame()) == (TEXT, b"hello"):
                    open_still.append(peer)
            assert len(open_still) == 2
            for peer in peers:
                peer.send(close_frame(1001 if peer not in open_still else 1000))
            for peer in open_still:
                await peer.closed_with(1000)
            async with asyncio.timeout(GUARD_S):
                await stopping

    async def test_they_are_closed_evenly_over_the_time(self) -> None:
        """None before its turn: the last of six, at five sixths of it."""
        async with serving(echo, limits=portico.Limits(drain_s=0.3)) as server, opened(server, 6) as peers:
            began = time.monotonic()
            stopping = asyncio.ensure_future(server.close())
            ends = []
            for peer in peers:
                assert await peer.closed_with(1001) == "server is stopping"
                ends.append(time.monotonic() - began)
                peer.send(close_frame(1001))
            await stopping
        assert all(end >= turn * 0.05 - 0.011 for turn, end in enumerate(sorted(ends)))

    async def test_the_time_for_the_rest_begins_after_it(self) -> None:
        """Also for who calls `close` again meanwhile: nobody is cut before the stop's own time is over."""
        ends = []

        async def handler(ws: portico.WebSocket) -> None:
            await echo(ws)
            ends.append(ws.closed)

        limits = portico.Limits(drain_s=1.5, stop_timeout_s=1.0)
        async with serving(handler, limits=limits) as server, opened(server, 4) as peers:
            stopping = asyncio.gather(server.close(), server.close())
            for peer in peers:
                await peer.closed_with(1001)
                peer.send(close_frame(1001))
            await stopping
        assert [(close.code, close.clean) for close in ends if close] == [(1001, True)] * 4

    async def test_it_is_bounded_for_those_that_keep_silent(self) -> None:
        limits = portico.Limits(drain_s=0.2, stop_timeout_s=0.1, close_timeout_s=60)
        async with serving(echo, limits=limits) as server, opened(server, 3) as peers:
            async with asyncio.timeout(GUARD_S):
                await server.close()
            assert server.connections == []
            for peer in peers:
                await peer.closed_with(1001)

    async def test_nobody_comes_in_meanwhile(self) -> None:
        async with serving(echo, limits=portico.Limits(drain_s=600)) as server, opened(server, 2) as peers:
            stopping = asyncio.ensure_future(server.close())
            await until(lambda: server.stopping)
            with pytest.raises(ConnectionRefusedError):
                await Peer.connect(server)
            for peer in peers:
                peer.reset()
            await stopping

    @pytest.mark.parametrize("value", [-1, float("nan"), "1"])
    def test_its_time_is_checked(self, value: object) -> None:
        with pytest.raises(portico.LocalError, match="drain_s"):
            portico.Limits(drain_s=value)  # type: ignore[arg-type] # is what this tests

    def test_it_holds_for_a_server_not_for_a_route(self) -> None:
        with pytest.raises(portico.LocalError, match="drain_s"):
            portico.App().websocket("/", echo, limits=portico.Limits(drain_s=1))


PROGRAM = """
    import asyncio, sys, time, portico

    if sys.argv[1] == "uvloop":
        import uvloop
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

    async def handler(ws):
        print("held up", flush=True)
        time.sleep(60)

    async def main():
        async with portico.serve(handler, "127.0.0.1", 0) as server:
            print(server.port, flush=True)
            await portico.server.server.until_signal(server)

    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_second_signal_is_heard_also_where_the_loop_is_held_up(loop: str) -> None:
    """As by a handler that computes, or waits for something else than it should."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM), loop), stdout=asyncio.subprocess.PIPE
    )
    assert running.stdout
    try:
        async with asyncio.timeout(GUARD_S):
            port = int(await running.stdout.readline())
            async with await Peer.connect(port) as peer:
                await peer.open()
                assert await running.stdout.readline() == b"held up\n"
                running.send_signal(signal.SIGTERM)
                while running.returncode is None:  # the two may be heard as one, where they come at once
                    with contextlib.suppress(ProcessLookupError):
                        running.send_signal(signal.SIGTERM)
                    await asyncio.wait([asyncio.ensure_future(running.wait())], timeout=0.05)
        assert running.returncode == 1
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


class TestRequestsOnTheirWay:
    """Who was let in before the stop is answered, also where the request is read only after it has begun."""

    async def test_one_that_has_come_and_was_not_read(self) -> None:
        async with serving(pages(lambda scope, receive, send: respond(send, b"answered"))) as server:
            async with await Peer.connect(server) as peer:
                peer.send(get())
                assert (await peer.answer()).body == b"answered"
                peer.send(get("/last"))  # in the kernel when this returns, and not read before what is scheduled next
                stopping = asyncio.ensure_future(server.close())
                answer = await peer.answer()
                assert (answer.body, answer.header("connection")) == (b"answered", "close")
                assert await peer.to_end() == b""
            await stopping

    async def test_the_first_one_of_a_new_connection(self) -> None:
        async with serving(pages(lambda scope, receive, send: respond(send, b"answered"))) as server:
            async with await Peer.connect(server) as peer:
                await until(lambda: server.connection_count == 1)
                stopping = asyncio.ensure_future(server.close())
                await until(lambda: server.stopping)
                peer.send(get())
                answer = await peer.answer()
                assert (answer.body, answer.header("connection")) == (b"answered", "close")
            await stopping

    async def test_but_not_to_switch(self) -> None:
        async with serving(echo) as server, await Peer.connect(server) as peer:
            await until(lambda: server.connection_count == 1)
            stopping = asyncio.ensure_future(server.close())
            await until(lambda: server.stopping)
            peer.send(upgrade())
            await peer.refused(503)
            peer.writer.close()
            await stopping
