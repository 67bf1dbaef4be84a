"""The PROXY protocol on the port: before HTTP, before TLS, torn anywhere, and refused where it is not due."""

from __future__ import annotations

import asyncio
import json
import logging
import pathlib
import ssl
import struct
from typing import Any

import pytest
from tests.support import TEXT, Peer, descriptors, frame, get, respond, serving, turns, until

import portico
from portico.wire.proxy_protocol import SIGNATURE

V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
ADDRESSES = bytes([203, 0, 113, 7, 192, 0, 2, 1]) + struct.pack(">HH", 4711, 443)
V2 = SIGNATURE + b"\x21\x11" + struct.pack(">H", len(ADDRESSES)) + ADDRESSES
SECURE = b"\x20\0\x05\x01\0\0\0\0"
V2_TLS = SIGNATURE + b"\x21\x11" + struct.pack(">H", len(ADDRESSES) + len(SECURE)) + ADDRESSES + SECURE
V2_UNIX = SIGNATURE + b"\x21\x31" + struct.pack(">H", 216) + bytes(216)
LOCAL = SIGNATURE + b"\x20\0\0\0"
HERE = "127.0.0.1"
OPTIONS: dict[str, Any] = {"proxy_protocol": True, "trusted_proxies": [HERE]}


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def site() -> portico.App:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen = [scope["client"], scope["scheme"], scope["server"]]
            await respond(send, json.dumps(seen).encode())

    app = portico.App()
    app.websocket("/ws", echo)
    app.mount("/", page)
    return app


@pytest.mark.parametrize(
    ("header", "client", "scheme", "target"),
    [
        (V1, ["203.0.113.7", 4711], "http", ["192.0.2.1", 443]),
        (V2, ["203.0.113.7", 4711], "http", ["192.0.2.1", 443]),
        (V2_TLS, ["203.0.113.7", 4711], "https", ["192.0.2.1", 443]),  # the proxy ended TLS, and says so
        (V2_UNIX, None, "http", None),
    ],
    ids=["v1", "v2", "v2 with TLS", "v2 of a Unix socket"],
)
async def test_who_the_client_is(header: bytes, client: Any, scheme: str, target: Any) -> None:
    async with serving(site(), **OPTIONS) as server, await Peer.connect(server) as peer:
        if target is None:
            target = list(server.addresses[0])
        peer.send(header + get("/") + get("/"))
        for _ in range(2):
            assert json.loads((await peer.answer()).text) == [client, scheme, target]
        [connection] = server.connections
        assert connection.peer == (None if client is None else tuple(client))


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"], ids=["v2 LOCAL", "v1 UNKNOWN"])
async def test_the_proxy_s_own_connection(header: bytes) -> None:
    async with serving(site(), **OPTIONS) as server, await Peer.connect(server) as peer:
        peer.send(header + get("/"))
        client, _, target = json.loads((await peer.answer()).text)
        assert (client[0], tuple(target)) == (HERE, server.addresses[0])


async def test_a_websocket() -> None:
    seen = []

    async def handler(ws: portico.WebSocket) -> None:
        seen.append((ws.request.client, ws.request.server, ws.request.scheme))
        await echo(ws)

    async with serving(handler, **OPTIONS) as server, await Peer.connect(server) as peer:
        peer.send(V2_TLS)
        await peer.open()
        peer.send(frame(TEXT, b"x"))
        assert await peer.frame() == (TEXT, b"x")
    assert seen == [(("203.0.113.7", 4711), ("192.0.2.1", 443), "wss")]
    assert type(seen[0][0]) is tuple


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_torn_at_every_byte(header: bytes) -> None:
    data = header + get("/", connection="close")
    async with serving(site(), **OPTIONS) as server:
        for at in range(1, len(header) + 2):
            async with await Peer.connect(server) as peer:
                peer.send(data[:at])
                await peer.writer.drain()
                await turns(4)
                peer.send(data[at:])
                assert json.loads((await peer.answer()).text)[0] == ["203.0.113.7", 4711]
        async with await Peer.connect(server) as peer:
            for at in range(len(data)):
                peer.send(data[at : at + 1])
                await turns(2)
            assert json.loads((await peer.answer()).text)[0] == ["203.0.113.7", 4711]


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("together", [True, False])
async def test_before_tls(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, header: bytes, together: bool
) -> None:
    """Not a byte of the ClientHello is taken with the header, although both may come in one piece."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_tls.wrap_bio(incoming, outgoing, server_hostname="localhost")
    async with serving(site(), ssl=server_tls, **OPTIONS) as server, await Peer.connect(server) as peer:

        async def step(act: Any) -> Any:
            while True:
                try:
                    return act()
                except ssl.SSLWantReadError:
                    peer.send(outgoing.read())
                    async with asyncio.timeout(10):
                        incoming.write(await peer.reader.read(1 << 16))

        if together:
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            peer.send(header + outgoing.read())
        else:
            for at in range(len(header)):
                peer.send(header[at : at + 1])
                await turns(2)
        await step(client.do_handshake)
        client.write(get("/"))
        data = b""
        while b"203.0.113.7" not in data:
            data += await step(lambda: client.read(1 << 16))
        assert b'"https"' in data
        assert [connection.tls for connection in server.connections] == [True]


@pytest.mark.parametrize(
    "sent",
    [
        get("/"),
        b"\x16\x03\x01\x00\x05hello",
        b"PROXY TCP4 1.2.3.4\r\n" + get("/"),
        b"PROXY UNKNOWN " + b"x" * 200,
        SIGNATURE + b"\x21\x11\xff\xff" + bytes(1000),
        V1[:20],
        b"",
    ],
    ids=["HTTP", "TLS", "malformed v1", "v1 too long", "v2 too long", "cut off", "nothing"],
)
async def test_a_connection_without_it_is_closed(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """With no answer, and nothing above DEBUG in the log: health checks and scanners are everyday."""
    with caplog.at_level(logging.DEBUG, "portico"):
        async with serving(site(), **OPTIONS) as server:
            before = descriptors()
            async with await Peer.connect(server) as peer:
                peer.send(sent)
                if peer.writer.can_write_eof():
                    peer.writer.write_eof()
                assert await peer.to_end() == b""
            assert server.accepted == 0
            await until(lambda: descriptors() == before)
            assert server.connection_count == 0
    assert {record.levelno for record in caplog.records if record.name.startswith("portico")} == {logging.DEBUG}


async def test_two_headers_are_one_too_many() -> None:
    async with serving(site(), **OPTIONS) as server, await Peer.connect(server) as peer:
        peer.send(V1 + V1 + get("/"))
        await peer.refused(400)


@pytest.mark.parametrize("trusted", [["10.0.0.0/8"], ["unix"]])
async def test_who_is_not_trusted_is_closed(trusted: list[str]) -> None:
    async with (
        serving(site(), proxy_protocol=True, trusted_proxies=trusted) as server,
        await Peer.connect(server) as peer,
    ):
        peer.send(V1 + get("/"))
        assert await peer.to_end() == b""
        assert server.accepted == 0


async def test_where_it_is_off_it_is_no_request() -> None:
    async with serving(site(), trusted_proxies=[HERE]) as server, await Peer.connect(server) as peer:
        peer.send(V1 + get("/"))
        await peer.refused(400)


@pytest.mark.parametrize("sent", [b"", V1[:10], V2[:14]], ids=["nothing", "some of v1", "some of v2"])
async def test_it_has_a_deadline(sent: bytes) -> None:
    """`Limits.head_timeout_s`, whatever comes meanwhile."""
    limits = portico.Limits(head_timeout_s=0.3)
    async with serving(site(), limits=limits, **OPTIONS) as server, await Peer.connect(server) as peer:
        peer.send(sent)
        assert await peer.to_end() == b""


async def test_what_the_client_then_says_of_itself_is_not_believed() -> None:
    """The header names who speaks now, and that is no proxy that is trusted."""
    async with serving(site(), **OPTIONS) as server, await Peer.connect(server) as peer:
        peer.send(V1 + get("/", x_forwarded_for="198.51.100.66", x_forwarded_proto="https"))
        assert json.loads((await peer.answer()).text)[:2] == [["203.0.113.7", 4711], "http"]


async def test_a_proxy_behind_a_proxy() -> None:
    """The header names a second one that is trusted: what that says of its client holds."""
    options = {"proxy_protocol": True, "trusted_proxies": [HERE, "203.0.113.7"]}
    async with serving(site(), **options) as server, await Peer.connect(server) as peer:
        peer.send(V1 + get("/", x_forwarded_for="198.51.100.66", x_forwarded_proto="https"))
        assert json.loads((await peer.answer()).text)[:2] == [["198.51.100.66", 0], "https"]


async def test_caps_count_the_clients() -> None:
    limits = portico.Limits(max_connections_per_address=1)
    other = V1.replace(b"203.0.113.7", b"203.0.113.8")
    async with serving(site(), limits=limits, **OPTIONS) as server:
        async with await Peer.connect(server) as one, await Peer.connect(server) as two:
            one.send(V1 + get("/"))
            two.send(other + get("/"))
            assert [(await peer.answer()).status for peer in (one, two)] == [200, 200]
            async with await Peer.connect(server) as three:
                three.send(V1 + get("/"))
                await three.refused(503)
        await until(lambda: server.connection_count == 0)
        assert not server._by_address


async def test_the_stop_ends_those_that_have_not_said_who_they_are(tmp_path: pathlib.Path) -> None:
    async with serving(site(), **OPTIONS) as server:
        before = len(descriptors())
        async with await Peer.connect(server) as peer:
            peer.send(V1[:10])
            await until(lambda: len(descriptors()) == before + 2)
            await server.close()
            assert await peer.to_end() == b""
