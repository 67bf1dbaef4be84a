"""What one peer costs is told in one place, and every limit that is reached is counted, once and under its name."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support import BINARY, CLOSE, TEXT, Answer, Peer, frame, get, pages, respond, serving, turns, until

import portico

KIB = 1024
WINDOW = 1 << 15  # of zlib, with the 15 bits that are the default (RFC 7692 §7.1.2)


class Callbacks(portico.Endpoint):
    """Keeps how connections ended; told to, it floods one or closes it."""

    def __init__(self) -> None:
        self.closes: list[portico.Close] = []

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        if message == "flood":
            while ws.write(bytes(10_000)) is not portico.Sent.DROPPED:
                pass
        elif message == "flood by a room":
            room = portico.Room()
            room.add(ws)
            while room.send(bytes(10_000)):
                pass
        elif message == "close":
            ws.close(4000, "enough")

    def on_close(self, ws: portico.WebSocket, close: portico.Close) -> None:
        self.closes.append(close)


async def last_close(peer: Peer) -> tuple[int, str]:
    """Code and reason of the close frame that comes after whatever else does; then TCP ends."""
    first, payload = await peer.frame()
    while first != CLOSE:
        first, payload = await peer.frame()
    assert await peer.to_end() == b""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


# limit, its value (or what else is set), what the peer sends, close code and reason (DESIGN: docs/design.md §7)
CLOSES: list[tuple[str, dict[str, Any], bytes, int, str]] = [
    ("max_message_bytes", {"max_message_bytes": 10}, frame(BINARY, bytes(11)), 1009, "message larger than 10 bytes"),
    ("max_fragments", {"max_fragments": 2}, frame(2) + frame(0) * 2, 1008, "message of more than 2 fragments"),
    ("assembly_timeout_s", {"assembly_timeout_s": 0.05}, frame(2, b"x"), 1008, "message not complete within 0.05 s"),
    (
        "max_outbox_bytes",
        {"max_outbox_bytes": 100_000, "high_water_bytes": 50_000},
        frame(TEXT, b"flood"),
        1008,
        "peer too slow: over 100000 bytes unsent",
    ),
    (
        "max_outbox_bytes",
        {"max_outbox_bytes": 100_000, "high_water_bytes": 50_000},
        frame(TEXT, b"flood by a room"),
        1008,
        "peer too slow: over 100000 bytes unsent",
    ),
    ("ping_timeout_s", {}, b"", 1011, "no byte for 0.05 s after a ping"),
    ("close_timeout_s", {"close_timeout_s": 0.05}, frame(TEXT, b"close"), 4000, "enough"),
]


@pytest.mark.parametrize(("limit", "options", "sent", "code", "reason"), CLOSES, ids=lambda value: str(value)[:20])
async def test_a_websocket_over_a_limit_is_closed_with_its_code_and_counted(
    limit: str, options: dict[str, Any], sent: bytes, code: int, reason: str
) -> None:
    endpoint = Callbacks()
    keepalive = portico.Keepalive(ping_interval_s=0.05, ping_timeout_s=0.05) if limit == "ping_timeout_s" else None
    async with serving(endpoint, limits=portico.Limits(**options), keepalive=keepalive) as server:
        async with await Peer.connect(server) as peer:
            await peer.open("/")
            peer.send(sent)
            assert await last_close(peer) == (code, reason)
        await until(lambda: endpoint.closes)
        [close] = endpoint.closes
        assert (close.code, close.reason, close.by, close.clean) == (code, reason, "us", False)
        if options and limit != "close_timeout_s":
            assert isinstance(close.cause, portico.LimitExceeded)
            assert close.cause.limit == limit
        else:
            assert isinstance(close.cause, TimeoutError)
        assert server.counters.exceeded == {limit: 1}
        assert server.counters.closed == {code: 1}
        assert server.counters.refused == {}


async def test_a_compressed_message_is_counted_by_what_it_inflates_to() -> None:
    """The limit holds while inflating (RFC 7692 §8.1)."""
    endpoint = Callbacks()
    async with serving(endpoint, limits=portico.Limits(max_message_bytes=1000)) as server:
        async with await Peer.connect(server) as peer:
            await peer.open("/", sec_websocket_extensions="permessage-deflate")
            peer.send(frame(0xC2, packed(bytes(1001))))
            assert await last_close(peer) == (1009, "message larger than 1000 bytes")
        assert server.counters.exceeded == {"max_message_bytes": 1}


@pytest.mark.parametrize("excess", [1, 64 * KIB, 500 * KIB])
async def test_each_pause_for_unread_messages_is_counted(excess: int) -> None:
    """It is flow control: nobody is closed, and nothing is lost."""
    over, taken = asyncio.Event(), asyncio.Event()

    async def handler(ws: portico.WebSocket) -> None:
        await over.wait()
        while await ws.recv() != b"the last":
            pass
        taken.set()

    async with serving(handler, limits=portico.Limits(max_unread_bytes=1000)) as server:
        async with await Peer.connect(server) as peer:
            await peer.open("/")
            peer.send(frame(BINARY, bytes(1000 - 64 + excess)))
            await until(lambda: server.counters.exceeded)
            assert server.counters.exceeded == {"max_unread_bytes": 1}
            peer.send(frame(BINARY, b"the last"))
            over.set()
            async with asyncio.timeout(10):
                await taken.wait()
        assert server.counters.exceeded == {"max_unread_bytes": 1}


# -- before the switch ---------------------------------------------------------------------------------------------


async def silent(peer: Peer) -> Answer | None:
    assert await peer.to_end() == b""
    return None


def refused(status: int) -> Callable[[Peer], Awaitable[Answer]]:
    return lambda peer: peer.refused(status)


async def after_an_answer(peer: Peer) -> Answer | None:
    assert (await peer.answer()).status == 200
    return await silent(peer)


@pages
async def page(scope: Any, receive: Any, send: Any) -> None:
    message: dict[str, Any] = {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            return
    with contextlib.suppress(OSError):
        await respond(send, b"page")


LONG = b"x" * 2000
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
TRAILERS = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
# limit, what is set, what the peer sends, the answer, a part of its text
REFUSALS: list[tuple[str, dict[str, Any], bytes, Callable[[Peer], Awaitable[Answer | None]], str]] = [
    ("max_head_bytes", {"max_head_bytes": 1000}, get(x=LONG.decode()), refused(431), "longer than 1000 bytes"),
    ("max_head_bytes", {"max_head_bytes": 1000}, get("/" + LONG.decode()), refused(414), "longer than 1000 bytes"),
    ("max_headers", {"max_headers": 3}, get(a="1", b="2", c="3"), refused(431), "more than 3 header lines"),
    ("max_headers", {"max_headers": 2}, TRAILERS + b"a: b\r\n" * 3 + b"\r\n", refused(431), "too many trailer fields"),
    ("max_head_bytes", {"max_head_bytes": 1000}, TRAILERS + b"a: " + LONG, refused(431), "trailer section is longer"),
    ("head_timeout_s", {"head_timeout_s": 0.05}, b"GET / HT", refused(408), "did not come within 0.05 s"),
    ("keep_alive_s", {"keep_alive_s": 0.05}, b"", silent, ""),
    ("keep_alive_s", {"keep_alive_s": 0.05}, get(), after_an_answer, ""),
    (
        "min_progress_bytes",
        {"min_progress_bytes": 100, "progress_window_s": 0.05},
        POST,
        refused(408),
        "fewer than 100 bytes in 0.05 s",
    ),
]


@pytest.mark.parametrize(("limit", "options", "sent", "answer", "text"), REFUSALS, ids=lambda value: str(value)[:20])
async def test_a_request_over_a_limit_is_refused_with_its_status_and_counted(
    limit: str, options: dict[str, Any], sent: bytes, answer: Callable[[Peer], Awaitable[Answer | None]], text: str
) -> None:
    async with serving(page, limits=portico.Limits(**options)) as server:
        async with await Peer.connect(server) as peer:
            peer.send(sent)
            found = await answer(peer)
        await until(lambda: server.connection_count == 0)
        assert server.counters.exceeded == {limit: 1}
        assert text in (found.text if found else "")
        assert server.counters.refused == ({found.status: 1} if found else {})


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_address"])
@pytest.mark.parametrize("upgrades", [False, True])
async def test_a_connection_over_a_cap_is_refused_with_503_and_counted(limit: str, upgrades: bool) -> None:
    app = portico.App()
    app.websocket("/ws", Callbacks())
    app.mount("/", page)
    async with serving(app, limits=portico.Limits(**{limit: 1})) as server, await Peer.connect(server) as first:
        first.send(get())
        assert (await first.answer()).status == 200
        async with await Peer.connect(server) as peer:
            peer.send(get("/ws", upgrade="websocket", connection="Upgrade") if upgrades else get())
            answer = await peer.refused(503)
            assert answer.header("retry-after") == "5"
        assert server.counters.exceeded == {limit: 1}
        assert server.counters.refused == {503: 1}


async def test_a_connection_over_a_cap_is_counted_once_although_it_says_nothing() -> None:
    limits = portico.Limits(max_connections=1, head_timeout_s=0.05)
    async with serving(page, limits=limits) as server, await Peer.connect(server):
        await until(lambda: server.connection_count)
        async with await Peer.connect(server) as peer:
            assert await peer.to_end() == b""
        assert server.counters.exceeded == {"max_connections": 1}


async def test_a_tls_handshake_that_takes_too_long_is_counted() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with serving(page, ssl=context, limits=portico.Limits(head_timeout_s=0.05)) as server:
        async with await Peer.connect(server) as peer:
            assert await peer.to_end() == b""
        await until(lambda: server.connection_count == 0)
        assert server.counters.exceeded == {"head_timeout_s": 1}


async def test_requests_refused_for_what_they_are_reach_no_limit() -> None:
    async with serving(portico.App()) as server:
        for request in (get("/nowhere"), b"BAD\r\n\r\n"):
            async with await Peer.connect(server) as peer:
                peer.send(request)
                await peer.to_end()
        assert server.counters.refused == {404: 1, 400: 1}
        assert server.counters.exceeded == {}


def test_every_limit_has_its_place_here() -> None:
    """A new limit that ends or refuses a connection is to be counted, and tested above."""
    ends = {limit for limit, *_ in CLOSES} | {limit for limit, *_ in REFUSALS}
    ends |= {"max_connections", "max_connections_per_address"}
    waits = {"max_unread_bytes", "high_water_bytes", "max_body_buffer_bytes", "max_pipelined"}
    ours = {"handler_grace_s", "drain_s", "stop_timeout_s"}
    belong_to_another = {"progress_window_s", "ping_interval_s"}
    names = {field.name for kind in (portico.Limits, portico.Keepalive) for field in dataclasses.fields(kind)}
    assert ends | waits | ours | belong_to_another == names


# -- what a connection costs ---------------------------------------------------------------------------------------


def packed(payload: bytes) -> bytes:
    """A whole compressed message (RFC 7692 §7.2.1)."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Held:
    """A coroutine handler that takes a message whenever it is told to."""

    def __init__(self) -> None:
        self.sockets: list[portico.WebSocket] = []
        self.orders: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, ws: portico.WebSocket) -> None:
        self.sockets.append(ws)
        while await self.orders.get() == "take":
            await ws.recv()


async def test_the_cost_of_a_connection_is_what_it_holds() -> None:
    """Unread messages, the message under assembly, the outbox."""
    handler = Held()
    async with serving(handler) as server, await Peer.connect(server) as peer:
        await peer.open("/")
        await until(lambda: handler.sockets)
        [ws] = handler.sockets
        assert ws.cost == portico.Cost()
        peer.send(frame(BINARY, b"x" * 1000) + frame(0x02, b"y" * 500))
        await until(lambda: ws.cost.assembly == 500)
        assert ws.cost.unread == 1000 + 64
        ws.write(b"z" * 100)
        assert ws.cost.outbox == 102
        assert ws.cost.total == 1064 + 500 + 102
        handler.orders.put_nowait("take")
        await until(lambda: not ws.cost.unread)
        peer.send(frame(0x80, b"the rest"))
        await until(lambda: ws.cost == portico.Cost(unread=508 + 64))
        handler.orders.put_nowait("end")


async def test_zlib_is_held_while_a_compressed_message_is_under_assembly() -> None:
    handler = Held()
    async with serving(handler) as server, await Peer.connect(server) as peer:
        await peer.open("/", sec_websocket_extensions="permessage-deflate")
        await until(lambda: handler.sockets)
        [ws] = handler.sockets
        data = packed(b"some text, some text, some text" * 10)
        peer.send(frame(0x42, data[:-3]))
        await until(lambda: ws.cost.compression)
        assert WINDOW <= ws.cost.compression <= 2 * WINDOW
        assert 0 < ws.cost.assembly <= 310
        peer.send(frame(0x80, data[-3:]))
        await until(lambda: ws.cost == portico.Cost(unread=310 + 64))
        ws.write(bytes(5000))
        await turns()
        assert ws.cost.compression == 0, "nothing is kept from one message to the next"
        handler.orders.put_nowait("end")


async def test_with_context_takeover_zlib_is_held_from_the_first_compressed_message_on() -> None:
    """Each way by itself (RFC 7692 §7.1.1)."""
    handler = Held()
    deflate = portico.Deflate(server_context_takeover=True, client_context_takeover=True)
    async with serving(handler, deflate=deflate) as server, await Peer.connect(server) as peer:
        await peer.open("/", sec_websocket_extensions="permessage-deflate")
        await until(lambda: handler.sockets)
        [ws] = handler.sockets
        assert ws.cost.compression == 0
        peer.send(frame(0xC2, packed(bytes(310))))
        await until(lambda: ws.cost.unread)
        reading = ws.cost.compression
        assert WINDOW <= reading <= 2 * WINDOW
        ws.write(bytes(5000))
        assert 4 * WINDOW <= ws.cost.compression - reading <= 16 * WINDOW, (
            "zlib's memLevel and window: RFC 1950's zconf"
        )
        assert ws.cost.total == sum((ws.cost.unread, ws.cost.assembly, ws.cost.compression, ws.cost.outbox))
        handler.orders.put_nowait("end")


async def test_zlib_is_not_held_any_longer_than_the_connection() -> None:
    """Not even by who keeps its WebSocket, nor until the garbage collector runs."""
    handler = Held()
    deflate = portico.Deflate(server_context_takeover=True, client_context_takeover=True)
    async with serving(handler, deflate=deflate) as server:
        async with await Peer.connect(server) as peer:
            await peer.open("/", sec_websocket_extensions="permessage-deflate")
            await until(lambda: handler.sockets)
            [ws] = handler.sockets
            peer.send(frame(0xC2, packed(bytes(310))))
            await until(lambda: ws.cost.unread)
            ws.write(bytes(5000))
            assert ws.cost.compression > 5 * WINDOW
        await until(lambda: ws.stream.gone)
        assert ws.cost.compression == 0
        handler.orders.put_nowait("end")
