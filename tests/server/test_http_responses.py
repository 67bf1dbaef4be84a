"""How a response is framed and sent (RFC 9112 §6), what an application may not do, and peers that read slowly."""

from __future__ import annotations

import tracemalloc
from typing import Any

import h11
import pytest
from tests.support import Logged, Peer, get, pages, respond, serving, until

import portico


async def answer_of(app: Any, request: bytes = b"", method: str = "GET") -> Any:
    async with serving(app) as server, await Peer.connect(server) as peer:
        peer.send(request or get(method=method))
        return await peer.answer(method)


class TestFraming:
    async def test_one_piece_has_a_length(self) -> None:
        answer = await answer_of(pages(lambda scope, receive, send: respond(send, b"12345")))
        assert answer.header("content-length") == "5"
        assert answer.header("transfer-encoding") is None
        assert answer.body == b"12345"

    async def test_several_pieces_are_chunks(self) -> None:
        """RFC 9112 §7.1; an empty piece must not become the last chunk."""

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for piece in (b"one", b"", b"two" * 10_000):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})

        async with serving(app) as server, await Peer.connect(server) as peer:
            for _ in range(2):  # and the connection goes on
                peer.send(get())
                answer = await peer.answer()
                assert answer.header("transfer-encoding") == "chunked"
                assert answer.header("content-length") is None
                assert answer.body == b"one" + b"two" * 10_000

    async def test_several_pieces_to_http_1_0_end_with_the_connection(self) -> None:
        """RFC 9112 §7: no chunks to HTTP/1.0."""

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await send({"type": "http.response.body", "body": b"two"})

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get(version="1.0", connection="keep-alive"))
            answer = await peer.answer()
            assert (answer.body, answer.header("connection")) == (b"onetwo", "close")
            assert answer.header("transfer-encoding") is None

    async def test_an_announced_length_is_kept(self) -> None:
        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"Content-Length", b"6"), (b"Transfer-Encoding", b"gzip, chunked")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await send({"type": "http.response.body", "body": b"two"})

        answer = await answer_of(app)
        assert answer.body == b"onetwo"
        assert answer.header("transfer-encoding") is None  # framing is the server's

    @pytest.mark.parametrize("length", [b"5", b"1000000"])
    async def test_head_has_the_head_alone(self, length: bytes) -> None:
        """RFC 9110 §9.3.2; and the next answer on the connection is not misread."""
        app = pages(lambda scope, receive, send: respond(send, b"12345", headers=[(b"content-length", length)]))
        async with serving(app) as server, await Peer.connect(server) as peer:
            for _ in range(2):
                peer.send(get(method="HEAD"))
                answer = await peer.answer("HEAD")
                assert (answer.status, answer.header("content-length")) == (200, length.decode())

    @pytest.mark.parametrize("status", [204, 304])
    async def test_statuses_without_a_body(self, status: int) -> None:
        """RFC 9112 §6.3; what the application sends as one is dropped."""
        app = pages(lambda scope, receive, send: respond(send, b"body", status))
        async with serving(app) as server, await Peer.connect(server) as peer:
            for _ in range(2):
                peer.send(get())
                answer = await peer.answer()
                assert (answer.status, answer.header("content-length")) == (status, None)
                assert answer.header("transfer-encoding") is None

    async def test_a_date_of_its_own_is_not_doubled(self) -> None:
        headers = [(b"Date", b"Sun, 06 Nov 1994 08:49:37 GMT"), (b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")]
        answer = await answer_of(pages(lambda scope, receive, send: respond(send, headers=headers)))
        assert answer.header("date") == "Sun, 06 Nov 1994 08:49:37 GMT"
        assert [value for name, value in answer.headers if name.lower() == "set-cookie"] == ["a=1", "b=2"]

    async def test_another_parser_reads_them_all(self) -> None:
        """h11, strict, over one connection with answers of each kind."""

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            kind = scope["path"]
            status = 204 if kind == "/204" else 599 if kind == "/unregistered" else 200
            await send({"type": "http.response.start", "status": status, "headers": [(b"x-kind", kind.encode())]})
            if kind == "/chunks":
                await send({"type": "http.response.body", "body": b"a" * 70_000, "more_body": True})
            await send({"type": "http.response.body", "body": b"end"})

        async with serving(app) as server, await Peer.connect(server) as peer:
            h11_client = h11.Connection(h11.CLIENT)
            for method, target in [("GET", "/chunks"), ("HEAD", "/head"), ("GET", "/204"), ("GET", "/unregistered")]:
                request = h11.Request(method=method, target=target, headers=[("Host", "a")])
                peer.send((h11_client.send(request) or b"") + (h11_client.send(h11.EndOfMessage()) or b""))
                events: list[Any] = []
                while not events or type(events[-1]) is not h11.EndOfMessage:
                    event = h11_client.next_event()
                    if event is h11.NEED_DATA:
                        h11_client.receive_data(await peer.reader.read(65536))
                    else:
                        events.append(event)
                assert dict(events[0].headers)[b"x-kind"] == target.encode()
                h11_client.start_next_cycle()


class TestMisuse:
    """What can't be framed raises in the application; the peer gets 500, or sees that the response was cut."""

    @pytest.mark.parametrize(
        "headers",
        [
            [(b"x-a", b"1\r\nx-injected: 2")],
            [(b"x-a", b"1\nx-injected: 2")],
            [(b"x-a", b"1\x00")],
            [(b"x-a\r\nx-injected", b"2")],
            [(b"x a", b"2")],
            [(b"", b"2")],
            [(b"content-length", b"-1")],
            [(b"content-length", b"1, 1")],
            [(b"content-length", b"1"), (b"Content-Length", b"1")],
            [("x-a", "text where bytes are due")],
        ],
    )
    async def test_headers_that_would_split_the_response(self, headers: Any, logged: Logged) -> None:
        raised = []

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            except Exception as error:
                raised.append(error)
                raise

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get())
            answer = await peer.refused(500)
            assert not any("injected" in name for name, _ in answer.headers)
        assert raised
        logged.take("failed at GET")

    @pytest.mark.parametrize("status", [100, 101, 199, 1000, "200", None])
    async def test_statuses_that_are_none(self, status: Any, logged: Logged) -> None:
        answer = await answer_of(pages(lambda scope, receive, send: respond(send, status=status)))
        assert answer.status == 500
        logged.take("failed at GET")

    @pytest.mark.parametrize("body", [b"123", b"1234567"])
    async def test_a_body_that_is_not_as_long_as_announced(self, body: bytes, logged: Logged) -> None:
        app = pages(lambda scope, receive, send: respond(send, body, headers=[(b"content-length", b"5")]))
        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get() + get())
            await peer.refused(500)
        record = logged.take("failed at GET")
        assert record.exc_info
        assert isinstance(record.exc_info[1], portico.LocalError)

    @pytest.mark.parametrize("last", [b"", b"4567"])
    async def test_one_that_turns_out_so_later_is_cut(self, last: bytes, logged: Logged) -> None:
        """RFC 9112 §8: never more than announced, and never a whole response that isn't."""

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
            await send({"type": "http.response.body", "body": b"123", "more_body": True})
            await send({"type": "http.response.body", "body": last})

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get() + get())
            raw = await peer.to_end()
            assert raw == b"" or raw.endswith(b"\r\n\r\n123")
        logged.take("failed at GET")

    @pytest.mark.parametrize(
        "kinds",
        [
            ["http.response.body"],
            ["http.response.start", "http.response.start"],
            ["http.response.trailers"],
            ["websocket.accept"],
        ],
    )
    async def test_messages_at_the_wrong_time(self, kinds: list[str], logged: Logged) -> None:
        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            for kind in kinds:
                await send({"type": kind, "status": 200})

        assert (await answer_of(app)).status == 500
        record = logged.take("failed at GET")
        assert record.exc_info
        assert isinstance(record.exc_info[1], portico.LocalError)

    async def test_more_after_the_end(self, logged: Logged) -> None:
        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await respond(send, b"whole")
            await send({"type": "http.response.body", "body": b"more"})

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get())
            assert (await peer.answer()).body == b"whole"
            await until(lambda: logged.records)
            peer.send(get())
            assert (await peer.answer()).body == b"whole"
            await until(lambda: len(logged.records) == 2)
        assert all(isinstance(record.exc_info[1], portico.LocalError) for record in logged.records if record.exc_info)
        logged.records.clear()


class TestSlowReaders:
    async def test_sending_waits_for_the_peer(self) -> None:
        """50 MB in pieces to a peer that reads late: memory stays bounded, and all of it arrives."""
        piece, count = bytes(100_000), 500
        sent = 0

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal sent
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(count):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                sent += 1
            await send({"type": "http.response.body"})

        async with serving(app) as server, await Peer.connect(server, receive_buffer=4096) as peer:
            tracemalloc.start()
            try:
                peer.send(get())
                [connection] = await waiting_for_the_peer(server)
                assert 0 < sent < 100
                assert connection._stream.buffered < 300_000
                received = 0
                answer = await peer.head()
                assert answer.header("transfer-encoding") == "chunked"
                while received < len(piece) * count:
                    received += len(await peer.reader.read(1 << 16))
                assert tracemalloc.get_traced_memory()[1] < 3_000_000
            finally:
                tracemalloc.stop()
            assert sent == count

    async def test_one_big_piece_does_not_hold_its_application(self) -> None:
        """The last piece is the server's to send: the application may end, and what it held be freed."""
        ended = False

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal ended
            await respond(send, bytes(50_000_000))
            ended = True

        async with serving(app) as server, await Peer.connect(server, receive_buffer=4096) as peer:
            peer.send(get())
            await until(lambda: ended)
            assert len((await peer.answer()).body) == 50_000_000

    async def test_a_peer_that_leaves_frees_the_application(self) -> None:
        """One that waits for room learns that there is nobody left."""
        errors = []

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            try:
                while True:
                    await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            except OSError as error:
                errors.append(error)

        async with serving(app) as server, await Peer.connect(server, receive_buffer=4096) as peer:
            peer.send(get())
            await waiting_for_the_peer(server)
            peer.reset()
            await until(lambda: errors)


async def waiting_for_the_peer(server: portico.Server) -> list[portico.Connection]:
    """The connections, when the first one's socket takes no more."""
    await until(lambda: server.connections and server.connections[0]._stream.blocked)
    return server.connections
