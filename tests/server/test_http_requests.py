"""Requests on the wire: bodies and their flow control, heads and their limits, and what is no HTTP at all."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
from tests.support import Logged, Peer, Waiting, get, pages, paused, respond, serving, turns, until

import portico


@pages
async def measure(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the request's body and how many messages it came in."""
    size = count = 0
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        size += len(message["body"])
        count += 1
        more = message["more_body"]
    await respond(send, b"%d" % size, headers=[(b"x-messages", b"%d" % count)])


def post(body: bytes, **headers: str) -> bytes:
    return get(method="POST", Content_Length=str(len(body)), **headers) + body


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


class TestBodies:
    @pytest.mark.parametrize("size", [0, 1, 65536, 65537, 1_000_000])
    async def test_with_a_length(self, size: int) -> None:
        async with serving(measure) as server, await Peer.connect(server) as peer:
            for _ in range(2):  # the next request begins right after it
                peer.send(post(bytes(size)))
                assert (await peer.answer()).body == b"%d" % size

    async def test_in_chunks(self) -> None:
        """RFC 9112 §7.1, with an extension and a trailer, which are dropped."""
        body = b"3;name=value\r\nabc\r\n" + chunks(b"x" * 200_000).replace(b"0\r\n\r\n", b"0\r\nX-Trailer: 1\r\n\r\n")
        async with serving(measure) as server, await Peer.connect(server) as peer:
            for _ in range(2):
                peer.send(get(method="POST", Transfer_Encoding="chunked") + body)
                assert (await peer.answer()).body == b"200003"

    async def test_none_ends_at_once(self) -> None:
        async with serving(measure) as server, await Peer.connect(server) as peer:
            peer.send(get())
            answer = await peer.answer()
            assert (answer.body, answer.header("x-messages")) == (b"0", "1")

    @pytest.mark.parametrize("framing", ["length", "chunks"])
    async def test_one_that_nobody_reads_waits_in_the_kernel(self, framing: str) -> None:
        """`Limits.max_body_buffer_bytes`: reading pauses; when the application reads at last, all of it is there."""
        wait = Waiting()

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await wait.stay()
            await measure({"type": "http"}, receive, send)

        size = 40_000_000
        body = bytes(size)
        request = post(body)
        if framing == "chunks":
            request = get(method="POST", Transfer_Encoding="chunked") + chunks(*[body[:1_000_000]] * 40)
        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(request)
            await wait.reached()
            assert (await paused(server)).bytes_in < 65536 + 2 * 256 * 1024
            wait.go.set()
            assert (await peer.answer()).body == b"%d" % size

    async def test_one_that_nobody_wanted_ends_the_connection(self) -> None:
        """The answer arrives although more of the body is under way than anybody will read."""
        async with (
            serving(pages(lambda scope, receive, send: respond(send, b"no", 413))) as server,
            await Peer.connect(server) as peer,
        ):
            peer.send(get(method="POST", Content_Length="10000000") + bytes(200_000))
            answer = await peer.answer()
            assert (answer.status, answer.header("connection")) == (413, "close")
            assert await peer.to_end() == b""

    async def test_one_that_came_whole_is_no_reason_to_end_it(self) -> None:
        async with (
            serving(pages(lambda scope, receive, send: respond(send, b"no", 413))) as server,
            await Peer.connect(server) as peer,
        ):
            for _ in range(2):
                peer.send(post(b"short"))
                assert (await peer.answer()).header("connection") is None

    async def test_a_client_that_leaves_within_it(self) -> None:
        seen = []
        wait = Waiting()
        wait.go.set()

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            while not seen or seen[-1]["type"] != "http.disconnect":
                seen.append(await receive())
                await wait.stay()

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get(method="POST", Content_Length="10") + b"half")
            await wait.reached()
            peer.writer.close()
            await until(lambda: len(seen) == 2)
        assert seen == [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]

    @pytest.mark.parametrize("reads", [True, False])
    async def test_a_malformed_one(self, reads: bool) -> None:
        """RFC 9112 §7.1: a bad chunk ends the connection; an application that waits for more learns that none comes."""
        ends = []

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            while reads:
                message = await receive()
                if message["type"] == "http.disconnect":
                    ends.append(message)
                    return
            await respond(send, b"never mind")

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get(method="POST", Transfer_Encoding="chunked") + b"3\r\nabc\r\nnope\r\n" + get())
            if reads:
                assert "chunk" in (await peer.refused(400)).text
                assert len(ends) == 1
            else:
                answer = await peer.answer()
                assert (answer.body, answer.header("connection")) == (b"never mind", "close")
                assert await peer.to_end() == b""


class TestExpect:
    """RFC 9110 §10.1.1."""

    async def test_100_continue_comes_when_the_body_is_wanted(self) -> None:
        wait = Waiting()

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await wait.stay()
            await measure({"type": "http"}, receive, send)

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get(method="POST", Content_Length="5", Expect="100-continue"))
            await wait.reached()
            await turns()
            assert server.connections[0].bytes_out == 0
            wait.go.set()
            answer = await peer.answer()
            assert (answer.status, answer.headers) == (100, [])
            peer.send(b"12345")
            assert (await peer.answer()).body == b"5"

    async def test_a_body_that_came_unasked_needs_none(self) -> None:
        async with serving(measure) as server, await Peer.connect(server) as peer:
            peer.send(get(method="POST", Content_Length="5", Expect="100-continue") + b"12345")
            assert (await peer.answer()).status == 200

    async def test_an_answer_without_it_ends_the_connection(self) -> None:
        """The client may or may not send the body now; whoever can't know can't go on."""
        async with (
            serving(pages(lambda scope, receive, send: respond(send, b"no", 403))) as server,
            await Peer.connect(server) as peer,
        ):
            peer.send(get(method="POST", Content_Length="5", Expect="100-continue"))
            await peer.refused(403)


class TestLimits:
    async def test_a_head_that_takes_too_long(self) -> None:
        """`Limits.head_timeout_s`, from the first byte on; further bytes don't renew it."""
        limits = portico.Limits(head_timeout_s=0.3)
        async with serving(measure, limits=limits) as server, await Peer.connect(server) as peer:
            peer.send(b"GET / HTTP/1.1\r\n")

            async def dribble() -> None:
                while True:
                    peer.send(b"X-Slow: 1\r\n")
                    await asyncio.sleep(0.02)

            dribbling = asyncio.ensure_future(dribble())
            answer = await peer.head()
            dribbling.cancel()
            assert answer.status == 408

    async def test_the_next_head_has_a_deadline_of_its_own(self) -> None:
        limits = portico.Limits(head_timeout_s=0.3)
        async with serving(measure, limits=limits) as server, await Peer.connect(server) as peer:
            peer.send(get())
            await peer.answer()
            peer.send(b"G")
            await peer.refused(408)

    async def test_a_slow_application_has_none(self) -> None:
        """The deadline is for the head alone."""

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.4)
            await respond(send, b"late")

        limits = portico.Limits(head_timeout_s=0.1, keep_alive_s=0.1)
        async with serving(app, limits=limits) as server, await Peer.connect(server) as peer:
            peer.send(get())
            assert (await peer.answer()).body == b"late"

    @pytest.mark.parametrize(
        ("request_bytes", "status"),
        [
            (b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000, 431),
            (b"GET /" + b"a" * 40_000, 414),
            (get("/" + "a" * 30_000, X_Long="b" * 3000), 431),
            (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 100 + b"\r\n", 431),
        ],
    )
    async def test_a_head_that_is_too_large(self, request_bytes: bytes, status: int) -> None:
        """`Limits.max_head_bytes`, `Limits.max_headers`; RFC 6585 §5."""
        async with serving(measure) as server, await Peer.connect(server) as peer:
            peer.send(request_bytes + get())
            await peer.refused(status)

    async def test_the_limits_can_be_set(self) -> None:
        limits = portico.Limits(max_head_bytes=100, max_headers=2)
        async with serving(measure, limits=limits) as server:
            for request, status in ((get(a="1"), 200), (get(a="1", b="2"), 431), (get(a="b" * 100), 431)):
                async with await Peer.connect(server) as peer:
                    peer.send(request)
                    assert (await peer.answer()).status == status


class TestNoHttp:
    @pytest.mark.parametrize(
        ("sent", "said"),
        [
            (b"\x00\x01\x02", "not HTTP"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "first line"),
            (b"GET / HTTP/1.1\nHost: a\n\n", "LF without CR"),
            (b"GET / HTTP/2.0\r\n", "HTTP/1.1"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1"),
            (b"{}\r\n", "not HTTP"),
        ],
    )
    async def test_garbage_is_told_so_at_once(self, sent: bytes, said: str) -> None:
        """Without waiting for a head's end, which may never come."""
        async with serving(measure) as server, await Peer.connect(server) as peer:
            peer.send(sent)
            answer = await peer.answer()
            assert answer.status in (400, 505)
            assert said in answer.text
            assert await peer.to_end() == b""

    async def test_a_tls_client_is_told_that_this_is_no_tls(self) -> None:
        hello, into = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = ssl.create_default_context().wrap_bio(into, hello, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        async with serving(measure) as server, await Peer.connect(server) as peer:
            peer.send(hello.read())
            assert "TLS" in (await peer.refused(400)).text

    async def test_a_peer_that_says_nothing_and_leaves(self) -> None:
        async with serving(measure) as server:
            for how in ("FIN", "RST", "half a head"):
                async with await Peer.connect(server) as peer:
                    await until(lambda: server.connection_count)
                    if how == "RST":
                        peer.reset()
                    elif how == "half a head":
                        peer.send(b"GET / HT")
                await until(lambda: server.connection_count == 0)


async def test_one_failing_connection_leaves_the_others_alone(logged: Logged) -> None:
    @pages
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/bad":
            raise ValueError
        await respond(send, b"good")

    async with serving(app) as server, await Peer.connect(server) as good, await Peer.connect(server) as bad:
        bad.send(get("/bad"))
        good.send(get("/good"))
        assert (await good.answer()).body == b"good"
        await bad.refused(500)
        good.send(get("/good"))
        assert (await good.answer()).body == b"good"
    logged.take("failed at GET '/bad'")
