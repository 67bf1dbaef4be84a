"""What an ASGI application raises, and when: one answer, one record with the traceback, and nobody else notices."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest
from tests.support import Logged, Peer, get, pages, paused, respond, serving, until, upgrade

import portico
from portico.server.exchange import Exchange


class Odd(BaseException):
    """Neither an Exception nor one of Python's own."""


@pytest.mark.parametrize("error", [SystemExit(7), KeyboardInterrupt(), Odd("odd"), ValueError("value")])
class TestWhateverItRaises:
    async def test_a_request_is_answered_with_500(self, error: BaseException, logged: Logged) -> None:
        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/fails":
                raise error
            await respond(send, b"fine")

        async with serving(app) as server, await Peer.connect(server) as peer, await Peer.connect(server) as other:
            peer.send(get("/fails"))
            assert (await peer.answer()).status == 500
            assert await peer.to_end() == b""
            other.send(get("/"))
            assert (await other.answer()).body == b"fine"
            assert not server.tasks
        record = logged.take("failed at GET")
        assert record.exc_info is not None
        assert record.exc_info[1] is error

    async def test_a_websocket_is_closed_with_1011(self, error: BaseException, logged: Logged) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.accept"})
                raise error

        async with serving(app) as server, await Peer.connect(server) as peer:
            await peer.open()
            await peer.closed_with(1011)
        assert logged.take("failed on a WebSocket").exc_info is not None


async def test_a_204_with_a_content_length_has_none() -> None:
    """RFC 9110 §8.6; Django's CommonMiddleware says 0."""

    @pages
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": [(b"Content-Length", b"0")]})
        await send({"type": "http.response.body"})

    async with serving(app) as server, await Peer.connect(server) as peer:
        peer.send(get())
        answer = await peer.answer()
        assert answer.status == 204
        assert "content-length" not in [name.lower() for name, _ in answer.headers]


async def test_what_fails_after_a_whole_answer_is_logged(logged: Logged) -> None:
    """Also where the application listens for the client's end: that the answer is complete is no such end."""

    @pages
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        listening = asyncio.ensure_future(receive())
        await respond(send, b"whole")
        assert (await listening)["type"] == "http.disconnect"
        raise ValueError("afterwards")

    async with serving(app) as server, await Peer.connect(server) as peer:
        peer.send(get())
        assert (await peer.answer()).body == b"whole"
        await until(lambda: logged.records)
    assert "afterwards" in str(logged.take("failed at GET").exc_info)


async def test_what_was_sent_before_a_failure_arrives(logged: Logged) -> None:
    """RFC 9112 §8: the peer sees that the answer is cut, and what there was of it."""

    @pages
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise ValueError("cut")

    async with serving(app) as server, await Peer.connect(server) as peer:
        peer.send(get())
        assert (await peer.to_end()).endswith(b"5\r\nbegun\r\n")
    logged.take("failed at GET")


@pytest.mark.parametrize("failing", [True, False])
async def test_an_answer_without_a_length_that_is_cut_ends_in_a_reset(failing: bool, logged: Logged) -> None:
    """RFC 9112 §8: to a client of HTTP/1.0 the end of the connection is the end of the body; a failure must not be."""

    @pages
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        if failing:
            raise ValueError("cut")
        await send({"type": "http.response.body", "body": b", ended"})

    async with serving(app) as server, await Peer.connect(server) as peer:
        peer.send(get(version="1.0"))
        if failing:
            with pytest.raises(ConnectionResetError):
                await peer.reader.read()  # to the end
            logged.take("failed at GET")
        else:
            assert (await peer.to_end()).endswith(b"\r\n\r\nbegun, ended")


async def test_a_whole_request_is_answered_though_the_next_is_cut() -> None:
    go_on = asyncio.Event()

    @pages
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await respond(send, b"whole")

    async with serving(app) as server, await Peer.connect(server) as peer:
        peer.send(get() + b"GET /x HT")
        peer.writer.write_eof()
        await until(lambda: server.connections[0].bytes_in > len(get()))
        go_on.set()
        assert (await peer.answer()).body == b"whole"
        assert await peer.to_end() == b""


def exchanges() -> int:
    """How many requests are held."""
    return sum(type(each) is Exchange for each in gc.get_objects())


@pytest.mark.parametrize("size", [1, 400])
async def test_no_more_requests_wait_than_may(size: int) -> None:
    """`Limits.max_pipelined`, however small they are."""
    begun: list[str] = []
    go_on = asyncio.Event()

    @pages
    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        await go_on.wait()
        await respond(send, b"")

    gc.collect()
    others = exchanges()
    requests = b"".join(get(f"/{number}", x="y" * size) for number in range(200))
    async with serving(app, limits=portico.Limits(max_pipelined=3)) as server, await Peer.connect(server) as peer:
        peer.send(requests)
        await until(lambda: begun)
        await paused(server)
        assert exchanges() - others == 1 + 3
        go_on.set()
        for _ in range(200):
            assert (await peer.answer()).status == 200
    assert begun == [f"/{number}" for number in range(200)]


async def test_a_lifespan_that_fails_at_once_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no database")

    with caplog.at_level(logging.INFO, "portico.server"):
        async with serving(app):
            pass
    assert "takes no part in the lifespan: RuntimeError('no database')" in caplog.text


async def test_a_refused_handshake_has_its_access_line(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})

    with caplog.at_level(logging.INFO, "portico.access"):
        async with serving(app, access_log=True) as server:
            for headers in ({}, {"origin": "http://elsewhere.example"}, {"sec_websocket_version": "12"}):
                async with await Peer.connect(server) as peer:
                    peer.send(upgrade("/chat", **headers))
                    await peer.answer()
    assert [record.fields["status"] for record in caplog.records if hasattr(record, "fields")] == [403, 403, 426]
