"""Handlers of WebSockets: coroutines and callbacks, in which order they are called, and what their failures become."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest
import websockets
from tests.support import TEXT, Logged, Peer, Waiting, close_frame, frame, serving, turns, until

import portico
from portico import Close


class Recorder(portico.Endpoint):
    """Writes down what it is called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.sockets: list[portico.WebSocket] = []

    def on_open(self, ws: portico.WebSocket) -> None:
        self.sockets.append(ws)
        self.calls.append("open")

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        self.calls.append(message)

    def on_close(self, ws: portico.WebSocket, close: Close) -> None:
        self.calls.append(close.code)


class TestEndpoints:
    async def test_the_order_of_callbacks(self) -> None:
        it = Recorder()
        async with serving(it) as server, await Peer.connect(server) as peer:
            await peer.open()
            for message in (b"1", b"2", b"3"):
                peer.send(frame(TEXT, message))
            peer.send(close_frame(4000))
            await peer.to_end()
        assert it.calls == ["open", "1", "2", "3", 4000]

    async def test_one_instance_serves_all(self) -> None:
        class Counter(Recorder):
            def on_open(self, ws: portico.WebSocket) -> None:
                super().on_open(ws)
                ws.state = 0

            def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
                ws.state += 1
                ws.write(str(ws.state))

        it = Counter()
        async with serving(it) as server, await Peer.connect(server) as one, await Peer.connect(server) as two:
            await one.open()
            await two.open()
            for peer, answer in ((one, b"1"), (one, b"2"), (two, b"1")):
                peer.send(frame(TEXT, b"count"))
                assert await peer.frame() == (TEXT, answer)
        assert len({ws.id for ws in it.sockets}) == 2

    async def test_what_is_written_on_opening_comes_first(self) -> None:
        class Hello(portico.Endpoint):
            def on_open(self, ws: portico.WebSocket) -> None:
                assert ws.write("hello") is portico.Sent.DONE

        async with serving(Hello()) as server, await Peer.connect(server) as peer:
            await peer.open()
            assert await peer.frame() == (TEXT, b"hello")

    @pytest.mark.parametrize("where", ["on_open", "on_message"])
    async def test_a_failure_closes_with_1011(self, where: str, logged: Logged) -> None:
        """Logged once; the peer never sees its text; nothing more is handed on."""
        it = Recorder()
        plain = getattr(it, where)

        def fail(ws: portico.WebSocket, *rest: Any) -> None:
            plain(ws, *rest)
            raise ValueError("the secret is 1234")

        setattr(it, where, fail)
        async with serving(it) as server, await Peer.connect(server) as peer:
            await peer.open()
            peer.send(frame(TEXT, b"one") + frame(TEXT, b"two"))
            assert "secret" not in await peer.closed_with(1011)
            assert await peer.to_end() == b""
            peer.writer.close()
            await until(lambda: it.calls[-1] == 1011)
        assert it.calls == (["open", 1011] if where == "on_open" else ["open", "one", 1011])
        assert isinstance(it.sockets[0].closed.cause, ValueError)
        logged.take("closed with 1011")

    async def test_a_failure_in_on_close_is_logged(self, logged: Logged) -> None:
        class Bad(portico.Endpoint):
            def on_close(self, ws: portico.WebSocket, close: Close) -> None:
                raise ValueError

        async with serving(Bad()) as server:
            async with await Peer.connect(server) as peer:
                await peer.open()
            await until(lambda: server.connection_count == 0)
        logged.take("on_close failed")

    async def test_closing_within_a_callback(self) -> None:
        class Once(Recorder):
            def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
                super().on_message(ws, message)
                ws.close(4001)

        it = Once()
        async with serving(it) as server, await Peer.connect(server) as peer:
            await peer.open()
            peer.send(frame(TEXT, b"one"))
            await peer.closed_with(4001)
            peer.send(close_frame(4001))
            await peer.to_end()
        assert it.calls == ["open", "one", 4001]

    async def test_its_messages_cant_be_taken_by_recv(self) -> None:
        it = Recorder()
        async with serving(it) as server, await Peer.connect(server) as peer:
            await peer.open()
            with pytest.raises(portico.LocalError, match="on_message"):
                await it.sockets[0].recv()
            with pytest.raises(portico.LocalError, match="on_message"):
                async for _ in it.sockets[0]:
                    pass


class TestCoroutines:
    async def test_messages_in_order(self) -> None:
        got = []

        async def handler(ws: portico.WebSocket) -> None:
            got.append(await ws.recv())
            await turns()  # what comes meanwhile waits
            async for message in ws:
                got.append(message)
            got.append(ws.closed.code if ws.closed else None)

        async with serving(handler) as server:
            async with websockets.connect(f"ws://127.0.0.1:{server.port}") as ws:
                for message in ("a", b"b", "", "c" * 200_000):
                    await ws.send(message)
            await until(lambda: len(got) == 5)
        assert got == ["a", b"b", "", "c" * 200_000, 1000]

    async def test_its_return_closes_with_1000(self) -> None:
        async def handler(ws: portico.WebSocket) -> None:
            await ws.send("bye")

        async with serving(handler) as server, await Peer.connect(server) as peer:
            await peer.open()
            assert await peer.frame() == (TEXT, b"bye")
            assert await peer.closed_with(1000) == ""

    @pytest.mark.parametrize("after", ["nothing", "a message"])
    async def test_its_failure_closes_with_1011(self, after: str, logged: Logged) -> None:
        async def handler(ws: portico.WebSocket) -> None:
            if after == "a message":
                await ws.recv()
            raise ValueError("the secret is 1234")

        async with serving(handler) as server, await Peer.connect(server) as peer:
            await peer.open()
            peer.send(frame(TEXT, b"x"))
            assert "secret" not in await peer.closed_with(1011)
        record = logged.take("closed with 1011")
        assert record.exc_info
        assert isinstance(record.exc_info[1], ValueError)

    @pytest.mark.parametrize("act", ["recv", "send", "ping"])
    async def test_connection_closed_may_leave_it(self, act: str) -> None:
        """A peer that left is no error: nothing is logged."""
        ends: list[Close] = []

        async def handler(ws: portico.WebSocket) -> None:
            try:
                while True:
                    await (ws.recv() if act == "recv" else ws.send("x") if act == "send" else ws.ping())
                    await asyncio.sleep(0)
            except portico.ConnectionClosed as closed:
                ends.append(closed.close)
                raise

        async with serving(handler) as server, await Peer.connect(server) as peer:
            await peer.open()
            peer.reset()
            await until(lambda: ends)
            await until(lambda: server.connection_count == 0)
        assert ends == [Close(1006, clean=False, by="network")]

    async def test_another_connections_end_is_its_failure(self, logged: Logged) -> None:
        """A ConnectionClosed of some other WebSocket, as in a proxy, is not this one's end."""
        others: list[portico.WebSocket] = []

        async def handler(ws: portico.WebSocket) -> None:
            if ws.request.path == "/other":
                others.append(ws)
                return
            await others[0].recv()

        async with serving(handler) as server, await Peer.connect(server) as other, await Peer.connect(server) as peer:
            await other.open("/other")
            await other.closed_with(1000)
            other.send(close_frame(1000))
            await other.to_end()
            await peer.open("/this")
            await peer.closed_with(1011)
        logged.take("closed with 1011")

    async def test_one_that_ignores_the_end_is_cancelled(self) -> None:
        """`Limits.handler_grace_s` after it."""
        wait = Waiting()
        cancelled = []

        async def handler(ws: portico.WebSocket) -> None:
            try:
                await wait.stay()
            except asyncio.CancelledError:
                cancelled.append(ws.closed)
                raise

        limits = portico.Limits(handler_grace_s=1.0)
        async with serving(handler, limits=limits) as server, await Peer.connect(server) as peer:
            await peer.open()
            await wait.reached()
            peer.send(close_frame(1000))
            await peer.to_end()
            await turns()
            assert not cancelled
            await until(lambda: cancelled)
        assert cancelled == [Close(1000, clean=True, by="peer")]

    async def test_one_that_takes_its_time_is_let_end(self) -> None:
        wait, done = Waiting(), []

        async def handler(ws: portico.WebSocket) -> None:
            async for _ in ws:
                pass
            await wait.stay()
            done.append(True)

        async with serving(handler) as server:
            async with await Peer.connect(server) as peer:
                await peer.open()
            await wait.reached()
            assert server.connection_count == 0
            wait.go.set()
            await until(lambda: done)

    async def test_one_that_is_cancelled_from_outside(self) -> None:
        tasks: list[asyncio.Task[Any] | None] = []

        async def handler(ws: portico.WebSocket) -> None:
            tasks.append(asyncio.current_task())
            await ws.recv()

        async with serving(handler) as server, await Peer.connect(server) as peer:
            await peer.open()
            await until(lambda: tasks)
            assert tasks[0]
            tasks[0].cancel()
            await peer.closed_with(1001)

    async def test_any_coroutine_function_will_do(self) -> None:
        class Callable:
            async def __call__(self, ws: portico.WebSocket) -> None:
                await ws.send("object")

            async def method(self, ws: portico.WebSocket) -> None:
                await ws.send("method")

        async def named(name: str, ws: portico.WebSocket) -> None:
            await ws.send(name)

        for handler, answer in (
            (Callable(), b"object"),
            (Callable().method, b"method"),
            (functools.partial(named, "partial"), b"partial"),
        ):
            async with serving(handler) as server, await Peer.connect(server) as peer:
                await peer.open()
                assert await peer.frame() == (TEXT, answer)

    async def test_an_eager_task_factory_changes_nothing(self) -> None:
        """Python 3.12 can start tasks at once, within the turn that made them."""
        factory = getattr(asyncio, "eager_task_factory", None)
        if factory is None:
            return  # Python 3.11 has none: nothing can differ

        async def handler(ws: portico.WebSocket) -> None:
            async for message in ws:
                await ws.send(message)

        asyncio.get_running_loop().set_task_factory(factory)
        try:
            async with serving(handler) as server, await Peer.connect(server) as peer:
                await peer.open()
                for _ in range(3):
                    peer.send(frame(TEXT, b"x"))
                    assert await peer.frame() == (TEXT, b"x")
        finally:
            asyncio.get_running_loop().set_task_factory(None)

    async def test_a_second_reader_gets_an_error(self) -> None:
        """One task reads; the first one goes on."""
        results: list[Any] = []

        async def handler(ws: portico.WebSocket) -> None:
            first = asyncio.ensure_future(_receive(ws))
            await turns()
            with pytest.raises(portico.LocalError, match="one reader"):
                await ws.recv()
            results.append("refused")
            results.append(await first)

        async with serving(handler) as server, await Peer.connect(server) as peer:
            await peer.open()
            await until(lambda: results)
            peer.send(frame(TEXT, b"x"))
            await peer.closed_with(1000)
        assert results == ["refused", "x"]


async def _receive(ws: portico.WebSocket) -> str | bytes:
    return await ws.recv()


class TestFacts:
    async def test_what_a_websocket_knows(self) -> None:
        it = Recorder()
        async with serving(it, subprotocols=["chat"]) as server, await Peer.connect(server) as peer:
            await peer.open("/room/1?a=b", sec_websocket_protocol="chat", cookie="c=d", user_agent="test")
            [ws] = it.sockets
            request = ws.request
            assert (request.method, request.path, request.query) == ("GET", "/room/1", {"a": "b"})
            assert request.headers["User-Agent"] == "test"
            assert request.cookies == {"c": "d"}
            assert request.client == peer.writer.get_extra_info("sockname")
            assert (ws.subprotocol, ws.user, ws.state, ws.closed, ws.latency) == ("chat", None, None, None, None)
            assert (ws.buffered, ws.client) == (0, False)

    async def test_ping_gives_the_round_trip(self) -> None:
        it = Recorder()
        async with serving(it) as server, await Peer.connect(server) as peer:
            await peer.open()
            [ws] = it.sockets
            pings = [asyncio.ensure_future(ws.ping()) for _ in range(2)]
            payloads = [(await peer.frame())[1] for _ in pings]
            peer.send(frame(0x8A, b"unasked"))  # §5.5.3: harmless
            peer.send(frame(0x8A, payloads[1]))  # answers the one before it, too
            trips = [await ping for ping in pings]
            assert all(0 < trip < 5 for trip in trips)
            assert ws.latency == trips[1]
            unanswered = asyncio.ensure_future(ws.ping())
            await peer.frame()
            peer.reset()
            with pytest.raises(portico.ConnectionClosed):
                await unanswered

    async def test_the_server_shows_its_connections(self) -> None:
        async with (
            serving(Recorder()) as server,
            await Peer.connect(server) as http,
            await Peer.connect(server) as peer,
        ):
            await peer.open()
            await until(lambda: server.connection_count == 2)
            by_protocol = {connection.protocol: connection for connection in server.connections}
            assert set(by_protocol) == {"http/1.1", "websocket"}
            ours = by_protocol["websocket"]
            assert ours.peer == peer.writer.get_extra_info("sockname")
            assert ours.local == ("127.0.0.1", server.port)
            assert (ours.state, ours.tls, ours.latency) == ("open", False, None)
            assert ours.bytes_in > 0
            assert ours.bytes_out > 0
            assert ours.age_s >= 0
            assert ours.id != by_protocol["http/1.1"].id
            assert by_protocol["http/1.1"].websocket is None
            assert ours.websocket is not None
            ours.websocket.close(4001)
            assert ours.state == "closing"
            await peer.closed_with(4001)
            peer.send(close_frame(4001))
            await peer.to_end()
            assert ours.state == "closed"
            http.writer.close()
            await until(lambda: server.connections == [])
        assert server.accepted == 2
