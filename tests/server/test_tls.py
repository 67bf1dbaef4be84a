"""TLS on the same port and the same reactor: wss and https beside each other, peers that don't shake hands."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import websockets
from tests.support import GUARD_S, TEXT, Peer, close_frame, frame, get, pages, respond, serving, until

import portico


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """All that Portico logs above DEBUG."""
    with caplog.at_level(logging.INFO, "portico"):
        yield caplog.records


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def site() -> portico.App:
    @pages
    async def upload(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        await respond(send, body, headers=[(b"x-scheme", scope["scheme"].encode())])

    app = portico.App()
    app.websocket("/ws", echo)
    app.mount("/", upload)
    return app


async def test_wss_and_https_on_one_port(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    """Two real clients at once."""
    async with serving(site(), ssl=server_tls) as server:
        uri = f"wss://localhost:{server.port}/ws"
        async with (
            websockets.connect(uri, ssl=client_tls, host="127.0.0.1") as ws,
            httpx.AsyncClient(verify=client_tls, base_url=f"https://127.0.0.1:{server.port}") as http,
        ):
            for round_trip in range(3):
                await ws.send(f"message {round_trip}")
                assert await ws.recv() == f"message {round_trip}"
                answer = await http.post("/", content=b"page %d" % round_trip)
                assert (answer.content, answer.headers["x-scheme"]) == (b"page %d" % round_trip, "https")
            assert {connection.tls for connection in server.connections} == {True}
            assert server.accepted == 2


async def test_big_messages_both_ways(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    """Many records each; and several at once, so that reading and writing wait for each other."""
    limits = portico.Limits(max_message_bytes=8_000_000)
    async with serving(site(), ssl=server_tls, limits=limits) as server:
        uri = f"wss://localhost:{server.port}/ws"
        async with websockets.connect(uri, ssl=client_tls, host="127.0.0.1", max_size=None, compression=None) as ws:
            messages = [bytes([number]) * 3_000_000 for number in range(5)]
            sending = asyncio.ensure_future(_send_all(ws, messages))
            for message in messages:
                assert await ws.recv() == message
            await sending


async def _send_all(ws: websockets.ClientConnection, messages: list[bytes]) -> None:
    for message in messages:
        await ws.send(message)


async def test_a_big_body_both_ways(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with serving(site(), ssl=server_tls) as server, httpx.AsyncClient(verify=client_tls) as http:
        body = bytes(range(256)) * 20_000
        answer = await http.post(f"https://localhost:{server.port}/", content=body)
        assert answer.content == body


async def test_the_closing_handshake_over_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    """Close frames, then TLS's own end: the peer sees an orderly one (RFC 8446 §6.1)."""
    async with serving(echo, ssl=server_tls) as server, await Peer.connect(server, tls=client_tls) as peer:
        await peer.open()
        peer.send(frame(TEXT, b"x") + close_frame(4000))
        assert await peer.frame() == (TEXT, b"x")
        await peer.closed_with(4000)
        assert await peer.to_end() == b""
        await until(lambda: server.connection_count == 0)


@pytest.mark.parametrize("sent", [get(), b"\x00" * 100, b"\x16\x03\x01\x00\x05hello", b""])
async def test_who_speaks_no_tls_is_dropped_quietly(
    sent: bytes, server_tls: ssl.SSLContext, everything: list[logging.LogRecord]
) -> None:
    """Scanners and misdirected browsers are everyday: nothing above DEBUG, and the others are not disturbed."""
    async with serving(site(), ssl=server_tls) as server:
        async with await Peer.connect(server) as peer:
            peer.send(sent)
            if sent:
                assert b"HTTP" not in await peer.to_end()
        await until(lambda: server.connection_count == 0)
    assert everything == []


async def test_who_trusts_us_not_is_dropped_quietly(
    server_tls: ssl.SSLContext, everything: list[logging.LogRecord]
) -> None:
    """A client's alert ends its own connection."""
    async with serving(site(), ssl=server_tls) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", server.port, ssl=ssl.create_default_context())
        await until(lambda: server.accepted == 1 and server.connection_count == 0)
    assert everything == []


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
async def test_a_handshake_that_never_ends_has_a_deadline(sent: bytes, server_tls: ssl.SSLContext) -> None:
    """`Limits.head_timeout_s` bounds it too."""
    limits = portico.Limits(head_timeout_s=0.3)
    async with serving(site(), ssl=server_tls, limits=limits) as server, await Peer.connect(server) as peer:
        peer.send(sent)
        assert await peer.to_end() == b""
        await until(lambda: server.connection_count == 0)


async def test_the_head_has_a_deadline_of_its_own(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    limits = portico.Limits(head_timeout_s=1.0)
    async with (
        serving(site(), ssl=server_tls, limits=limits) as server,
        await Peer.connect(server, tls=client_tls) as peer,
    ):
        peer.send(b"GET / HT")
        assert (await peer.answer()).status == 408


async def test_the_stop_over_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    """1001 as without TLS; a connection within its TLS handshake just ends."""
    limits = portico.Limits(stop_timeout_s=2 * GUARD_S)
    async with (
        serving(echo, ssl=server_tls, limits=limits) as server,
        await Peer.connect(server, tls=client_tls) as peer,
        await Peer.connect(server) as silent,
    ):
        await peer.open()
        await until(lambda: server.connection_count == 2)
        stopping = asyncio.ensure_future(server.close())
        await peer.closed_with(1001)
        peer.send(close_frame(1001))
        assert await silent.to_end() == b""
        async with asyncio.timeout(GUARD_S):
            await stopping
