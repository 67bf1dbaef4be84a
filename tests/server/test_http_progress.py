"""`Limits.min_progress_bytes` in each `Limits.progress_window_s`: who is waited for has to go on, and only he.

What is measured is time, so each test that expects an end waits for it, and each that expects none looks on for several
windows.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.held import small_listener
from tests.support import GUARD_S, Asgi, Peer, Waiting, get, pages, respond, until

import portico

WINDOW_S = 0.1
LIMITS = portico.Limits(min_progress_bytes=1000, progress_window_s=WINDOW_S)
LENIENT = portico.Limits(min_progress_bytes=1000, progress_window_s=0.5)  # for who must not be cut on a busy machine
KINDS = pytest.mark.parametrize("over", ["tcp", "tls"])


@pytest.fixture
def contexts(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return server_tls, client_tls


class Port:
    """A server with an application, and its peers, over TCP or over TLS."""

    def __init__(self, server: portico.Server, client_tls: ssl.SSLContext | None) -> None:
        self.server = server
        self._tls = client_tls

    async def peer(self, receive_buffer: int = 0) -> Peer:
        return await Peer.connect(self.server, tls=self._tls, receive_buffer=receive_buffer)

    @property
    def exceeded(self) -> int:
        return self.server.counters.exceeded["min_progress_bytes"]

    def paused(self) -> bool:
        return any(connection._stream.paused for connection in self.server.connections)

    def blocked(self) -> bool:
        return any(connection._stream.blocked for connection in self.server.connections)


@contextlib.asynccontextmanager
async def port(
    app: Any, contexts: Any, over: str = "tcp", *, small: bool = False, limits: portico.Limits = LIMITS
) -> AsyncIterator[Port]:
    """`small`: our kernel holds little for a connection."""
    server_tls, client_tls = contexts if over == "tls" else (None, None)
    place: Any = {"sock": small_listener()} if small else {"host": "127.0.0.1", "port": 0}
    async with (
        asyncio.timeout(3 * GUARD_S),
        portico.serve(pages(app), ssl=server_tls, limits=limits, **place) as server,
    ):
        yield Port(server, client_tls)


async def windows(count: float = 2.5) -> None:
    """Nothing is to be heard of for so long; there is no other way to see that nothing happens."""
    await asyncio.sleep(count * WINDOW_S)


@contextlib.asynccontextmanager
async def trickle(peer: Peer, piece: bytes, every_s: float) -> AsyncIterator[None]:
    """Send it again and again."""

    async def send() -> None:
        while True:
            peer.send(piece)
            await asyncio.sleep(every_s)

    task = asyncio.ensure_future(send())
    try:
        yield
    finally:
        task.cancel()


def late(waiting: Waiting, app: Asgi) -> Asgi:
    """`app`, which begins when it is let go on."""

    async def begin(scope: Any, receive: Any, send: Any) -> None:
        await waiting.stay()
        await app(scope, receive, send)

    return begin


def post(size: int, **headers: str) -> bytes:
    return get(method="POST", Content_Length=str(size), **headers)


class Reading:
    """An application that reads its request's body, and answers with its size; ``more_body`` False is the end."""

    def __init__(self) -> None:
        self.size = 0
        self.messages: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            self.messages.append(message["type"])
            if message["type"] == "http.disconnect":
                return
            self.size += len(message["body"])
            more = message["more_body"]
        await respond(send, b"%d" % self.size)


class TestBodies:
    @KINDS
    @pytest.mark.parametrize("dribbled", [b"", b"x"], ids=["stalled", "dribbled"])
    async def test_one_that_does_not_come_is_408(self, dribbled: bytes, over: str, contexts: Any) -> None:
        """RFC 9110 §15.5.9; the application is told that nobody is left."""
        app = Reading()
        async with port(app, contexts, over) as at, await at.peer() as peer:
            peer.send(post(100_000) + b"y" * 50_000)
            async with trickle(peer, dribbled, 0.01):
                answer = await peer.answer()
            assert (answer.status, answer.header("connection")) == (408, "close")
            assert b"1000 bytes in 0.1 s" in answer.body
            assert (at.exceeded, at.server.counters.refused[408]) == (1, 1)
        assert 50_000 <= app.size < 51_000
        assert app.messages[-1] == "http.disconnect"

    async def test_in_chunks(self, contexts: Any) -> None:
        """A chunk's size, or the body's end, may be what is missing."""

        async def cut(at: Port, begun: bytes) -> None:
            async with await at.peer() as peer:
                peer.send(get(method="POST", Transfer_Encoding="chunked") + begun)
                await peer.refused(408)

        async with port(Reading(), contexts) as at:
            begun = b"", b"5\r\n", b"5\r\nabcde\r\n", b"5\r\nabcde\r\n0\r\n"
            await asyncio.gather(*[cut(at, each) for each in begun])
            assert at.exceeded == 4

    async def test_where_the_answer_has_begun_it_is_cut(self, contexts: Any) -> None:
        errors: list[OSError] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            try:
                await send({"type": "http.response.body", "body": b"end"})
            except OSError as error:
                errors.append(error)

        async with port(app, contexts) as at, await at.peer() as peer:
            peer.send(post(100_000))
            assert (await peer.to_end()).endswith(b"begun\r\n")
            await until(lambda: errors)
            assert at.exceeded == 1

    @KINDS
    async def test_a_slow_one_that_suffices_goes_through(self, over: str, contexts: Any) -> None:
        size = 50_000
        async with port(Reading(), contexts, over, limits=LENIENT) as at, await at.peer() as peer:
            peer.send(post(size))
            for _ in range(size // 500):  # 500 bytes 80 times a second, where 4 times would do
                peer.send(b"x" * 500)
                await asyncio.sleep(0.012)
            assert (await peer.answer()).body == b"%d" % size
            assert at.exceeded == 0

    @pytest.mark.parametrize("size", [1_000, 200_000])
    async def test_a_slow_application_is_not_the_clients_fault(self, size: int, contexts: Any) -> None:
        """It may take what time it needs before and between its reads; reading is paused where much has come."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await windows()
            while (await receive())["more_body"]:
                await windows(1.1)
            await respond(send, b"done")

        async with port(app, contexts) as at, await at.peer() as peer:
            peer.send(post(size) + bytes(size))
            assert (await peer.answer()).body == b"done"
            assert at.exceeded == 0

    async def test_one_that_reads_late_gives_the_client_its_time(self, contexts: Any) -> None:
        """While reading was paused, nothing could come: a new stretch of time begins after it."""
        waiting, app = Waiting(), Reading()

        async with port(late(waiting, app), contexts, limits=LENIENT) as at, await at.peer() as peer:
            peer.send(post(200_000) + bytes(199_000))
            await until(at.paused)
            await asyncio.sleep(0.95)  # the second window is over soon
            waiting.go.set()
            await until(lambda: app.size == 199_000)
            peer.send(bytes(1_000))
            assert (await peer.answer()).body == b"200000"
            assert at.exceeded == 0

    async def test_who_waits_for_100_continue_is_not_blamed(self, contexts: Any) -> None:
        """RFC 9110 §10.1.1: it is the application that has not asked yet. From then on the client has to send."""
        waiting, app = Waiting(), Reading()

        async with port(late(waiting, app), contexts) as at, await at.peer() as peer:
            peer.send(post(5, Expect="100-continue"))
            await waiting.reached()
            await windows()
            assert at.exceeded == 0
            waiting.go.set()
            assert (await peer.head()).status == 100
            await peer.refused(408)
            assert at.exceeded == 1

    async def test_one_behind_another_request_has_time_until_its_turn(self, contexts: Any) -> None:
        """What the client sent first is answered first, and whole, whatever becomes of the rest."""
        waiting, app = Waiting(), Reading()

        async def first(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/first":
                await waiting.stay()
                await respond(send, b"first")
            else:
                await app(scope, receive, send)

        async with port(first, contexts) as at, await at.peer() as peer:
            peer.send(get("/first") + post(100_000) + bytes(10))
            await waiting.reached()
            await windows()
            assert at.exceeded == 0
            waiting.go.set()
            assert (await peer.answer()).body == b"first"
            await peer.refused(408)
            assert at.exceeded == 1

    async def test_requests_behind_a_slow_one(self, contexts: Any) -> None:
        """They are answered after it, in order, however long it takes."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/0":
                await windows()
            await respond(send, scope["path"].encode())

        async with port(app, contexts) as at, await at.peer() as peer:
            peer.send(b"".join(get(f"/{number}") for number in range(40)))
            assert [(await peer.answer()).body for _ in range(40)] == [b"/%d" % number for number in range(40)]
            assert at.exceeded == 0

    async def test_0_is_no_bound(self, contexts: Any) -> None:
        limits = portico.Limits(min_progress_bytes=0, progress_window_s=WINDOW_S)
        app = Reading()
        async with port(app, contexts, limits=limits) as at, await at.peer() as peer:
            peer.send(post(10) + b"12345")
            await windows()
            peer.send(b"67890")
            assert (await peer.answer()).body == b"10"


class Streaming:
    """An application that sends for ever; it keeps the error that ends it."""

    def __init__(self) -> None:
        self.errors: list[OSError] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(50_000), "more_body": True})
        except OSError as error:
            self.errors.append(error)


class TestAnswers:
    @KINDS
    async def test_who_stops_reading_is_cut(self, over: str, contexts: Any) -> None:
        """And the application's send raises OSError, as for any client that has left."""
        app = Streaming()
        async with port(app, contexts, over) as at, await at.peer(receive_buffer=4096) as peer:
            peer.send(get())
            await until(lambda: app.errors)
            assert at.exceeded == 1
            await until(lambda: at.server.connection_count == 0)

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    async def test_so_is_who_does_not_read_the_end(self, version: str, contexts: Any) -> None:
        """The application has ended long ago: what is left is the server's to send, to a peer that takes it."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await respond(send, bytes(20_000_000))

        async with port(app, contexts) as at, await at.peer(receive_buffer=4096) as peer:
            peer.send(get(version=version))
            await until(at.blocked)
            await until(lambda: at.server.connection_count == 0)
            assert at.exceeded == 1

    async def test_so_is_who_never_reads_small_ones(self, contexts: Any) -> None:
        """A kept-alive connection, of which less than `Limits.high_water_bytes` is left to take."""
        limits = portico.Limits(min_progress_bytes=1000, progress_window_s=WINDOW_S, keep_alive_s=WINDOW_S)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await respond(send, bytes(60_000))

        async with port(app, contexts, small=True, limits=limits) as at, await at.peer(receive_buffer=4096) as peer:
            peer.send(get())
            await until(at.blocked)
            await until(lambda: at.server.connection_count == 0)
            assert at.exceeded == 1

    async def test_a_dribble_is_no_progress(self, contexts: Any) -> None:
        app = Streaming()
        async with port(app, contexts, small=True) as at, await at.peer(receive_buffer=4096) as peer:
            peer.send(get())
            await until(at.blocked)
            while not app.errors:  # 100 bytes in a window, where 1000 are due
                await peer.reader.read(10)
                await asyncio.sleep(WINDOW_S / 10)
            assert at.exceeded == 1

    @KINDS
    async def test_a_slow_one_that_suffices_goes_through(self, over: str, contexts: Any) -> None:
        """Also where our kernel holds megabytes, and is not writable again before a third of these has gone."""
        size = 12_000_000

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await respond(send, bytes(size))

        async with (
            port(app, contexts, over, limits=LENIENT) as at,
            await at.peer(receive_buffer=100_000) as peer,
        ):
            peer.send(get())
            assert (await peer.head()).header("content-length") == str(size)
            for _ in range(50):  # some 300 KB in each window, where 1000 bytes would do
                await peer.exactly(20_000)
                await asyncio.sleep(0.03)
            [stream] = [connection._stream for connection in at.server.connections]
            assert stream.blocked
            assert at.exceeded == 0
            assert len(await peer.exactly(size - 1_000_000)) == size - 1_000_000

    async def test_an_answer_that_is_late_is_no_slow_client(self, contexts: Any) -> None:
        """A long poll; and a stream of events that is silent for long."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await windows()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await windows()
            await send({"type": "http.response.body", "body": b"two"})

        async with port(app, contexts) as at, await at.peer() as peer:
            peer.send(get())
            assert (await peer.answer()).body == b"onetwo"
            assert at.exceeded == 0
