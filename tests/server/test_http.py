"""HTTP/1.1 on a connection: requests, their answers in order, and how the connection ends (RFC 9112)."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from tests.support import Logged, Peer, Waiting, get, pages, paused, respond, serving, until

import portico


@pages
async def path(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path."""
    await respond(send, scope["path"].encode(), headers=[(b"content-type", b"text/plain")])


class TestConnections:
    async def test_one_carries_many_requests(self) -> None:
        """RFC 9112 §9.3: HTTP/1.1 connections persist."""
        async with serving(path) as server, await Peer.connect(server) as peer:
            for number in range(3):
                peer.send(get(f"/{number}"))
                answer = await peer.answer()
                assert answer.body == b"/%d" % number
                assert answer.header("connection") is None
                assert answer.header("content-length") == "2"
                assert answer.header("content-type") == "text/plain"
                assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", answer.header("date") or "")
            assert server.accepted == 1

    async def test_the_client_asks_for_its_end(self) -> None:
        """RFC 9112 §9.6: after a request with Connection: close, the answer says so, and what follows isn't read."""
        async with serving(path) as server, await Peer.connect(server) as peer:
            peer.send(get("/last", connection="Close") + get("/never"))
            answer = await peer.answer()
            assert (answer.body, answer.header("connection")) == (b"/last", "close")
            assert await peer.to_end() == b""

    async def test_the_application_asks_for_its_end(self) -> None:
        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await respond(send, b"x", headers=[(b"Connection", b"close")])

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get() + get())
            assert (await peer.answer()).header("connection") == "close"
            assert await peer.to_end() == b""

    async def test_http_1_0_ends_unless_asked(self) -> None:
        """RFC 9112 §9.3: an HTTP/1.0 connection persists only when the client asks, and is told so."""
        async with serving(path) as server, await Peer.connect(server) as peer:
            peer.send(get("/a", "1.0", connection="keep-alive"))
            answer = await peer.answer()
            assert (answer.body, answer.header("connection")) == (b"/a", "keep-alive")
            peer.send(get("/b", "1.0"))
            answer = await peer.answer()
            assert (answer.body, answer.header("connection")) == (b"/b", "close")
            assert await peer.to_end() == b""

    async def test_idle_ones_are_closed(self) -> None:
        """`Limits.keep_alive_s`, from the last answer on; without a word, for nothing was asked."""
        limits = portico.Limits(keep_alive_s=0.2)
        async with serving(path, limits=limits) as server, await Peer.connect(server) as peer:
            peer.send(get())
            await peer.answer()
            assert await peer.to_end() == b""

    async def test_one_that_never_asks_is_closed(self) -> None:
        async with (
            serving(path, limits=portico.Limits(keep_alive_s=0.2)) as server,
            await Peer.connect(server) as peer,
        ):
            assert await peer.to_end() == b""

    async def test_a_half_closed_one_gets_its_answers(self) -> None:
        """RFC 9112 §9.6: a client may shut its side and read on."""
        wait = Waiting()

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await wait.stay()
            await respond(send, scope["path"].encode())

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get("/one") + get("/two"))
            peer.writer.write_eof()
            await wait.reached()
            wait.go.set()
            assert (await peer.answer()).body == b"/one"
            answer = await peer.answer()
            assert (answer.body, answer.header("connection")) == (b"/two", "close")
            assert await peer.to_end() == b""

    async def test_nothing_served_at_the_path(self) -> None:
        app = portico.App()
        app.mount("/here", path)
        async with serving(app) as server:
            for method in ("GET", "HEAD", "POST"):
                async with await Peer.connect(server) as peer:
                    peer.send(get("/there", method=method))
                    answer = await peer.refused(404, method=method)
                    assert answer.text == ("" if method == "HEAD" else "Nothing is served at this path.\n")


class TestPipelining:
    async def test_answers_come_in_order(self) -> None:
        """RFC 9112 §9.3.2. Each application starts when those before it have answered."""
        running = 0

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal running
            running += 1
            assert running == 1
            await asyncio.sleep(0)
            running -= 1
            await respond(send, scope["path"].encode())

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(b"".join(get(f"/{number}") for number in range(10)))
            assert [(await peer.answer()).body for _ in range(10)] == [b"/%d" % number for number in range(10)]

    async def test_too_many_wait_in_the_kernel(self) -> None:
        """`Limits.max_pipelined`: reading pauses behind as many; at last all are answered."""
        wait = Waiting()
        count = 3000

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await wait.stay()
            await respond(send, scope["path"].encode())

        requests = b"".join(get(f"/{number:06}", X_Long="x" * 400) for number in range(count))
        limits = portico.Limits(max_pipelined=4)
        async with serving(app, limits=limits) as server, await Peer.connect(server) as peer:
            peer.send(requests)
            await wait.reached()
            assert (await paused(server)).bytes_in < len(requests) // 2
            wait.go.set()
            for number in range(count):
                assert (await peer.answer()).body == b"/%06d" % number

    async def test_answers_that_nobody_reads_are_not_made(self) -> None:
        """The next request waits until the peer has taken most of the answer before it: memory stays bounded."""
        made = 0

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal made
            made += 1
            await respond(send, bytes(4_000_000))

        async with serving(app) as server, await Peer.connect(server, receive_buffer=4096) as peer:
            peer.send(get() * 10)
            await until(lambda: made)
            [connection] = server.connections
            sent = -1
            while sent != connection.bytes_out:
                sent = connection.bytes_out
                await asyncio.sleep(0.01)
            assert made == 1
            for _ in range(10):
                assert len((await peer.answer()).body) == 4_000_000

    async def test_a_malformed_request_behind_good_ones(self) -> None:
        """The good ones are answered, the malformed one gets its 400, what follows is never read."""
        async with serving(path) as server, await Peer.connect(server) as peer:
            peer.send(get("/a") + get("/b") + b"GET bad HTTP/1.1\r\n\r\n" + get("/c"))
            assert [(await peer.answer()).body for _ in range(2)] == [b"/a", b"/b"]
            assert "target" in (await peer.refused(400)).text


class TestApplications:
    async def test_a_failure_is_500_and_one_record(self, logged: Logged) -> None:
        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise ValueError("the secret is 1234")

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get("/page") + get())
            assert (await peer.refused(500)).text == "Internal server error.\n"
        record = logged.take("failed at GET '/page'")
        assert record.exc_info
        assert record.exc_info[0] is ValueError

    async def test_a_failure_before_the_first_byte_of_the_body_is_500(self, logged: Logged) -> None:
        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise ValueError

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get())
            await peer.refused(500)
        logged.take("failed at GET")

    async def test_a_failure_after_it_cuts_the_connection(self, logged: Logged) -> None:
        """RFC 9112 §8: a cut response must be seen as incomplete; no last chunk comes."""

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            await receive()
            raise ValueError

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get() + get())
            raw = await peer.to_end()
            assert b"transfer-encoding: chunked" in raw or raw == b""
            assert not raw.endswith(b"0\r\n\r\n")
            assert raw.count(b"HTTP/1.1") <= 1
        logged.take("failed at GET")

    @pytest.mark.parametrize("started", [False, True])
    async def test_an_end_without_a_whole_response(self, started: bool, logged: Logged) -> None:
        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if started:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"half", "more_body": True})

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get())
            if started:
                assert not (await peer.to_end()).endswith(b"0\r\n\r\n")
            else:
                await peer.refused(500)
        logged.take("without a whole response")

    async def test_one_that_is_no_coroutine_function(self, logged: Logged) -> None:
        """What can't be awaited fails as an application, not as a connection."""

        def app(scope: Any, receive: Any, send: Any) -> None:
            return None

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get())
            await peer.refused(500)
        logged.take("failed at GET")

    @pytest.mark.parametrize("how", ["FIN", "RST"])
    async def test_one_that_waits_sees_the_client_leave(self, how: str) -> None:
        seen: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        wait = Waiting()
        wait.go.set()

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
            await wait.stay()
            seen.set_result(await receive())

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get())
            await wait.reached()
            if how == "FIN":
                peer.writer.close()
            else:
                peer.reset()
            assert await seen == {"type": "http.disconnect"}
            await until(lambda: server.connection_count == 0)

    async def test_two_tasks_may_wait_for_the_client_to_leave(self) -> None:
        ends: list[Any] = []
        wait = Waiting()
        wait.go.set()

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            both = asyncio.gather(receive(), receive())
            await wait.stay()
            ends.extend(await both)

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get())
            await wait.reached()
            peer.reset()
            await until(lambda: len(ends) == 2)
        assert ends == [{"type": "http.disconnect"}] * 2

    async def test_one_that_learns_of_it_and_raises_is_no_error(self) -> None:
        """A peer that left is no ERROR, whatever a framework makes of `http.disconnect`."""
        ended = asyncio.Event()
        wait = Waiting()
        wait.go.set()

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await wait.stay()
            assert (await receive())["type"] == "http.disconnect"
            ended.set()
            raise RuntimeError("client disconnected")

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get())
            await wait.reached()
            peer.reset()
            await until(ended.is_set)
            await until(lambda: server.connection_count == 0)

    async def test_sending_to_nobody_raises_oserror(self) -> None:
        """ASGI HTTP, §Send: an OSError where the client has left."""
        raised: list[BaseException] = []
        wait = Waiting()
        wait.go.set()

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await wait.stay()
            await receive()
            try:
                await respond(send, b"late")
            except OSError as error:
                raised.append(error)
                raise

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get())
            await wait.reached()
            peer.reset()
            await until(lambda: raised)
