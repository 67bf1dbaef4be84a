"""The orderly stop: nothing new is taken, what is under way ends, and all of it within a bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.support import (
    GUARD_S,
    TEXT,
    Logged,
    Peer,
    Waiting,
    close_frame,
    descriptors,
    frame,
    free_port,
    get,
    pages,
    respond,
    serving,
    turns,
    until,
)

import portico

PATIENT = portico.Limits(stop_timeout_s=2 * GUARD_S)  # whoever needs all of that is late


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type] # there is one


async def refused(port: int) -> bool:
    """Whether nobody listens at `port`."""
    try:
        async with await Peer.connect(port):
            return False
    except ConnectionRefusedError:
        return True


class TestClose:
    async def test_it_takes_no_more_connections(self) -> None:
        async with serving(echo) as server:
            port = server.port
            await server.close()
            assert await refused(port)
            assert server.port == port

    async def test_websockets_are_told_1001(self) -> None:
        """RFC 6455 §7.4.1: going away. The peers answer, and it is over at once."""
        ends = []

        async def handler(ws: portico.WebSocket) -> None:
            async for _ in ws:
                pass
            ends.append(ws.closed)

        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(serving(handler, limits=PATIENT))
            peers = [await stack.enter_async_context(await Peer.connect(server)) for _ in range(5)]
            for peer in peers:
                await peer.open()
            stopping = asyncio.ensure_future(server.close())
            for peer in peers:
                await peer.closed_with(1001)
                peer.send(close_frame(1001))
                assert await peer.to_end() == b""
            async with asyncio.timeout(GUARD_S):
                await stopping
        assert [(close.code, close.by, close.clean) for close in ends if close] == [(1001, "us", True)] * 5

    async def test_a_running_request_is_answered(self) -> None:
        """Its connection ends after it; requests that wait behind it are not begun."""
        wait = Waiting()
        begun = []

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            begun.append(scope["path"])
            await wait.stay()
            await respond(send, b"whole")

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get("/one") + get("/two"))
            await wait.reached()
            stopping = asyncio.ensure_future(server.close())
            await turns()
            assert await refused(server.addresses[0][1])
            wait.go.set()
            answer = await peer.answer()
            assert (answer.body, answer.header("connection")) == (b"whole", "close")
            assert await peer.to_end() == b""
            peer.writer.close()
            await stopping
        assert begun == ["/one"]

    async def test_idle_connections_end_at_once(self) -> None:
        """Those that never asked, those between two requests, those within a head."""
        async with (
            serving(pages(lambda scope, receive, send: respond(send)), limits=PATIENT) as server,
            await Peer.connect(server) as silent,
            await Peer.connect(server) as between,
            await Peer.connect(server) as within,
        ):
            between.send(get())
            await between.answer()
            within.send(get()[:10])
            await until(lambda: sum(connection.bytes_in > 0 for connection in server.connections) == 2)
            async with asyncio.timeout(GUARD_S):
                await server.close()
            for peer in (silent, between, within):
                assert await peer.to_end() == b""

    async def test_peers_that_never_answer_are_cut(self) -> None:
        """`Limits.stop_timeout_s` bounds the stop, for a WebSocket that keeps silent and a request without an end."""

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        site = portico.App()
        site.websocket("/ws", echo)
        site.mount("/", app)
        limits = portico.Limits(stop_timeout_s=0.3, close_timeout_s=60)
        async with (
            serving(site, limits=limits) as server,
            await Peer.connect(server) as socket,
            await Peer.connect(server) as page,
        ):
            await socket.open("/ws")
            page.send(get(method="POST", Content_Length="100") + b"some")
            await until(lambda: len(others()) >= 2)
            began = time.monotonic()
            await server.close()
            assert 0.25 < time.monotonic() - began < GUARD_S
            assert server.connections == []
            await socket.closed_with(1001)
            await socket.to_end()
            assert b"200" not in await page.to_end()
        assert others() == set()

    async def test_handlers_that_wait_are_cancelled(self) -> None:
        """A handler that waits for something else learns the end by its cancellation, before its grace is over."""
        cancelled = []
        wait = Waiting()

        async def handler(ws: portico.WebSocket) -> None:
            try:
                await wait.stay()
            except asyncio.CancelledError:
                cancelled.append(ws.closed)
                raise

        limits = portico.Limits(stop_timeout_s=0.1)
        async with serving(handler, limits=limits) as server, await Peer.connect(server) as peer:
            await peer.open()
            await wait.reached()
            async with asyncio.timeout(9):
                await server.close()
        assert len(cancelled) == 1
        assert others() == set()

    async def test_a_handler_that_ignores_its_cancellation_is_left_behind(self, logged: Logged) -> None:
        """In bounded time, and with a warning that names it."""
        wait = Waiting()

        async def stubborn(ws: portico.WebSocket) -> None:
            while not wait.go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await wait.stay()

        limits = portico.Limits(stop_timeout_s=0.1)
        async with serving(stubborn, limits=limits) as server, await Peer.connect(server) as peer:
            await peer.open()
            await wait.reached()
            began = time.monotonic()
            await server.close()
            assert time.monotonic() - began < 9
        assert "stubborn" in logged.take("ignores its cancellation").getMessage()
        wait.go.set()
        await until(lambda: others() == set())

    async def test_it_may_be_called_again(self) -> None:
        async with serving(echo) as server, await Peer.connect(server) as peer:
            await peer.open()
            both = asyncio.gather(server.close(), server.close())
            await peer.closed_with(1001)
            peer.send(close_frame(1001))
            await both
            await server.close()
            async with asyncio.timeout(GUARD_S):
                await server.serve_forever()  # over already

    async def test_it_ends_serve_forever(self) -> None:
        async with serving(echo) as server:
            forever = asyncio.ensure_future(server.serve_forever())
            await turns()
            assert not forever.done()
            await server.close()
            await forever

    async def test_cancelling_serve_forever_closes(self) -> None:
        async with serving(echo) as server:
            forever = asyncio.ensure_future(server.serve_forever())
            await turns()
            forever.cancel()
            with pytest.raises(asyncio.CancelledError):
                await forever
            assert await refused(server.port)

    async def test_one_server_starts_once(self) -> None:
        async with serving(echo) as server:
            await server.close()
            with pytest.raises(portico.LocalError, match="started before"):
                await server.start()

    async def test_a_second_server_on_the_loop_is_not_touched(self) -> None:
        async with serving(echo) as one, serving(echo) as two, await Peer.connect(two) as peer:
            await peer.open()
            await one.close()
            peer.send(frame(TEXT, b"still here"))
            assert await peer.frame() == (TEXT, b"still here")


async def test_nothing_is_left() -> None:
    """After the stop there is no task and no descriptor more than before the start, whatever the peers were doing."""

    @pages
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, bytes(2_000_000))

    site = portico.App()
    site.websocket("/ws", echo)
    site.mount("/", app)
    before, tasks = descriptors(), others()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(site, limits=portico.Limits(stop_timeout_s=0.2)))
        peers = [await stack.enter_async_context(await Peer.connect(server, receive_buffer=4096)) for _ in range(6)]
        for peer in peers[:3]:
            await peer.open("/ws")
        peers[0].send(frame(TEXT, b"x" * 50_000)[:1000])
        peers[1].reset()
        peers[3].send(get() * 3)
        peers[4].send(b"GET / HT")
        await until(lambda: server.connection_count == 5)
        await server.close()
    await until(lambda: others() == tasks)
    assert descriptors() == before


async def test_a_start_that_fails_leaves_nothing() -> None:
    before, tasks = descriptors(), others()
    async with serving(echo) as server:
        within = descriptors()
        with pytest.raises(portico.LocalError):
            await portico.serve(echo, "127.0.0.1", server.port)
        assert descriptors() == within
    assert descriptors() == before
    assert others() == tasks


PROGRAM = """
    import asyncio, sys, portico

    async def handler(ws):
        async for message in ws:
            await ws.send(message)

    async def stubborn(ws):
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    class Told:
        async def __call__(self, scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.complete"})
            print("started", flush=True)
            await receive()
            print("stopped", flush=True)
            await send({"type": "lifespan.shutdown.complete"})

    app = portico.App()
    app.websocket("/ws", handler)
    app.websocket("/stubborn", stubborn)
    app.mount("/", Told())
    portico.run(app, "127.0.0.1", int(sys.argv[1]), limits=portico.Limits(stop_timeout_s=float(sys.argv[2])))
"""


@contextlib.asynccontextmanager
async def process(port: int, stop_timeout_s: float) -> AsyncIterator[asyncio.subprocess.Process]:
    """`portico.run` in a process of its own, which listens on `port`."""
    program = textwrap.dedent(PROGRAM)
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(port), str(stop_timeout_s)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert running.stdout
    try:
        async with asyncio.timeout(GUARD_S):
            assert await running.stdout.readline() == b"started\n"
        while await refused(port):
            await asyncio.sleep(0.01)
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


@pytest.fixture
def port() -> int:
    return free_port()


class TestRun:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_signal_stops_it_in_order(self, number: signal.Signals, port: int) -> None:
        """Sockets get their 1001, the application its shutdown, and the exit status is 0."""
        async with process(port, 5) as running, await Peer.connect(port) as peer:
            await peer.open("/ws")
            os.kill(running.pid, number)
            await peer.closed_with(1001)
            peer.send(close_frame(1001))
            assert await peer.to_end() == b""
            async with asyncio.timeout(GUARD_S):
                out, errors = await running.communicate()
            assert (running.returncode, out, errors) == (0, b"stopped\n", b"")

    async def test_it_does_not_wait_longer_than_it_says(self, port: int) -> None:
        async with process(port, 0.2) as running, await Peer.connect(port) as peer:
            await peer.open("/ws")
            began = time.monotonic()
            os.kill(running.pid, signal.SIGTERM)
            async with asyncio.timeout(GUARD_S):
                await running.wait()
            assert time.monotonic() - began < 4.5
            assert running.returncode == 0

    async def test_a_handler_that_ignores_its_cancellation_does_not_hold_it(self, port: int) -> None:
        async with process(port, 0.2) as running, await Peer.connect(port) as peer:
            await peer.open("/stubborn")
            os.kill(running.pid, signal.SIGTERM)
            async with asyncio.timeout(GUARD_S):
                out, errors = await running.communicate()
            assert (running.returncode, out) == (1, b"stopped\n")
            assert b"a handler ignores its cancellation" in errors

    async def test_a_second_signal_ends_it_at_once(self, port: int) -> None:
        async with process(port, 60) as running, await Peer.connect(port) as peer:
            await peer.open("/ws")
            os.kill(running.pid, signal.SIGTERM)
            await peer.closed_with(1001)  # it is stopping, and waits for our answer
            os.kill(running.pid, signal.SIGINT)
            async with asyncio.timeout(GUARD_S):
                await running.wait()
            assert running.returncode == 1
