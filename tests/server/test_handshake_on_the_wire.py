"""The opening handshake as a peer sees it on the socket (RFC 6455 §4.2): each requirement and each way to fail it."""

from __future__ import annotations

import asyncio
import zlib

import pytest
from tests.support import (
    ACCEPT,
    BINARY,
    CLOSE,
    KEY,
    PING,
    PONG,
    TEXT,
    Peer,
    close_frame,
    frame,
    serving,
    until,
    upgrade,
)

import portico

PIPELINED = b"GET /second HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class Never(portico.Endpoint):
    """No connection may get here."""

    def on_open(self, ws: portico.WebSocket) -> None:
        raise AssertionError("a refused request became a WebSocket")


async def test_the_answer_switches_the_protocol() -> None:
    """§4.2.2 item 5: 101, Upgrade, Connection and the Accept of the example in §1.3, and nothing that wasn't asked."""
    async with serving(echo) as server, await Peer.connect(server) as peer:
        answer = await peer.open("/any?thing=1")
        assert (answer.status, answer.reason) == (101, "Switching Protocols")
        assert answer.header("upgrade") == "websocket"
        assert answer.header("connection") == "Upgrade"
        assert answer.header("sec-websocket-accept") == ACCEPT
        assert {name.lower() for name, _ in answer.headers} == {"upgrade", "connection", "sec-websocket-accept"}
        peer.send(frame(TEXT, b"hello"))
        assert await peer.frame() == (TEXT, b"hello")


@pytest.mark.parametrize(
    "headers",
    [
        {"upgrade": "WebSocket"},
        {"upgrade": "h2c, websocket"},
        {"connection": "keep-alive, upgrade"},
        {"connection": "UPGRADE"},
        {"host": "example.org:8000"},
        {"host": "[::1]:8000"},
        {"sec_websocket_protocol": "chat, superchat"},
        {"sec_websocket_extensions": "x-unknown; a=1, permessage-deflate; server_max_window_bits=7"},
        {"x_more": "what the server doesn't know is ignored (§4.2.1)"},
    ],
)
async def test_what_a_client_may_say(headers: dict[str, str]) -> None:
    """§4.2.1: tokens are compared without case and within lists; unknown offers and fields are no reason to refuse."""
    async with serving(echo) as server, await Peer.connect(server) as peer:
        answer = await peer.open(**headers)
        assert answer.header("sec-websocket-protocol") is None
        assert answer.header("sec-websocket-extensions") is None


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({"host": None}, 400, "no Host header"),
        ({"host": "a b"}, 400, "malformed Host"),
        ({"sec_websocket_key": None}, 400, "none came"),
        ({"sec_websocket_key": ""}, 400, "malformed Sec-WebSocket-Key"),
        ({"sec_websocket_key": "c2hvcnQ="}, 400, "16 bytes in base64"),
        ({"sec_websocket_key": f"{KEY}, {KEY}"}, 400, "malformed Sec-WebSocket-Key"),
        ({"sec_websocket_version": None}, 426, "none came"),
        ({"sec_websocket_version": "8"}, 426, "another one came"),
        ({"sec_websocket_version": "13, 8"}, 426, "another one came"),
        ({"sec_websocket_protocol": "chat, chat"}, 400, "twice"),
        ({"sec_websocket_protocol": "a b"}, 400, "expected tokens"),
        ({"sec_websocket_extensions": "permessage-deflate; ="}, 400, "Sec-WebSocket-Extensions"),
        ({"content_length": "5"}, 400, "no body"),
        ({"transfer_encoding": "chunked"}, 400, "no body"),
        ({"upgrade": None}, 426, '"Upgrade: websocket"'),
        ({"upgrade": "h2c"}, 426, '"Upgrade: websocket"'),
        ({"upgrade": "websockets"}, 426, '"Upgrade: websocket"'),
        ({"connection": None}, 426, '"Connection: Upgrade"'),
        ({"connection": "keep-alive"}, 426, '"Connection: Upgrade"'),
        ({"connection": "keep-alive, upgraded"}, 426, '"Connection: Upgrade"'),
        ({"expect": "something"}, 417, "unknown expectation"),
    ],
)
async def test_what_a_client_may_not_say(headers: dict[str, str | None], status: int, said: str) -> None:
    """§4.2.1: each violation has its own status and explanation, and the connection ends; what is pipelined after it
    is never read as a request."""
    async with serving(Never()) as server, await Peer.connect(server) as peer:
        peer.send(upgrade(**headers) + PIPELINED)
        answer = await peer.refused(status)
        assert said in answer.text
        assert answer.header("content-type") == "text/plain; charset=utf-8"
        if status == 426:
            assert answer.header("upgrade") == "websocket"
            assert answer.header("connection") == "Upgrade, close"
        else:
            assert answer.header("connection") == "close"


@pytest.mark.parametrize(
    "line",
    [
        "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Version: 8",
        "Host: 127.0.0.1",
        "Origin: http://127.0.0.1\r\nOrigin: http://127.0.0.1",
    ],
)
async def test_a_header_that_may_come_once_came_twice(line: str) -> None:
    """§11.3: Key and Version appear once; RFC 9112 §3.2: so does Host; RFC 6454 §7.3: so does Origin."""
    async with serving(Never()) as server, await Peer.connect(server) as peer:
        peer.send(upgrade().replace(b"\r\n\r\n", f"\r\n{line}\r\n\r\n".encode()) + PIPELINED)
        assert "more than one" in (await peer.refused(400)).text


async def test_another_version_is_told_ours() -> None:
    """§4.2.2 item 4, §4.4: 426 with the versions that are understood."""
    async with serving(Never()) as server, await Peer.connect(server) as peer:
        peer.send(upgrade(sec_websocket_version="12"))
        assert (await peer.refused(426)).header("sec-websocket-version") == "13"


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "HEAD"])
async def test_another_method_than_get(method: str) -> None:
    """§4.2.1 item 1: the handshake is a GET; a HEAD's answer has no body all the same (RFC 9110 §9.3.2)."""
    async with serving(Never()) as server, await Peer.connect(server) as peer:
        peer.send(upgrade().replace(b"GET", method.encode(), 1) + PIPELINED)
        assert (await peer.refused(405, method=method)).header("allow") == "GET"


async def test_http_1_0_cannot_switch() -> None:
    """§4.2.1 item 1: HTTP/1.1 or higher."""
    async with serving(Never()) as server, await Peer.connect(server) as peer:
        peer.send(upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert "HTTP/1.0" in (await peer.refused(426)).text


async def test_a_plain_get_is_told_which_header_is_missing() -> None:
    """A proxy that drops Upgrade is the most usual cause, and the answer says so."""
    async with serving(Never()) as server, await Peer.connect(server) as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + PIPELINED)
        answer = await peer.refused(426)
        assert '"Upgrade: websocket"' in answer.text
        assert "proxy" in answer.text


async def test_no_route_for_the_path() -> None:
    """§4.2.2 item 3: a resource that isn't there is 404."""
    app = portico.App()
    app.websocket("/here", Never())
    async with serving(app) as server, await Peer.connect(server) as peer:
        peer.send(upgrade("/there") + PIPELINED)
        await peer.refused(404)


async def test_a_mounted_page_and_a_websocket_at_one_path() -> None:
    """An application mounted at the very path of a WebSocket answers its plain requests; one mounted above doesn't."""

    async def pages(scope, receive, send):  # type: ignore[no-untyped-def]
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": scope["path"].encode()})

    app = portico.App()
    app.websocket("/", echo)
    app.websocket("/ws", echo)
    app.mount("/", pages)
    async with serving(app) as server:
        async with await Peer.connect(server) as peer:
            peer.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /other HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await peer.answer()).body == b"/"
            assert (await peer.answer()).body == b"/other"
            peer.send(b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n" + PIPELINED)
            await peer.refused(426)
        async with await Peer.connect(server) as peer:
            peer.send(upgrade("/", connection=None))  # nearly an upgrade: somebody wanted the WebSocket
            await peer.refused(426)
        for path in ("/", "/ws"):
            async with await Peer.connect(server) as peer:
                await peer.open(path)


async def test_the_switch_waits_its_turn_behind_http() -> None:
    """RFC 9112 §9.3.2: answers come in order, the 101 too; the frames that came with it are kept."""
    go = asyncio.Event()

    async def pages(scope, receive, send):  # type: ignore[no-untyped-def]
        if scope["type"] == "http":
            await go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"page"})

    app = portico.App()
    app.websocket("/ws", echo)
    app.mount("/", pages)
    async with serving(app) as server, await Peer.connect(server) as peer:
        page = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        peer.send(page * 2 + upgrade("/ws") + frame(TEXT, b"first") + frame(BINARY, bytes(100_000)))
        go.set()
        assert [(await peer.answer()).body for _ in range(2)] == [b"page", b"page"]
        assert (await peer.head()).status == 101
        assert await peer.frame() == (TEXT, b"first")
        assert await peer.frame() == (BINARY, bytes(100_000))


async def test_what_comes_with_the_request_are_frames() -> None:
    """§4.1: the server may find frames right behind the head; none of them is lost, however many they are."""
    messages = [b"%d" % number * 50 for number in range(1500)]
    async with serving(echo) as server, await Peer.connect(server) as peer:
        peer.send(upgrade() + b"".join(frame(TEXT, message) for message in messages))
        assert (await peer.head()).status == 101
        assert [await peer.frame() for _ in messages] == [(TEXT, message) for message in messages]


async def test_bytes_behind_the_request_may_end_the_connection() -> None:
    """What is no frame is answered as one that breaks the rules (§7.1.7), not as HTTP."""
    async with serving(echo) as server, await Peer.connect(server) as peer:
        peer.send(upgrade() + PIPELINED)
        assert (await peer.head()).status == 101
        await peer.closed_with(1002)
        assert await peer.to_end() == b""


async def test_torn_byte_by_byte() -> None:
    """Head and frames may come in any pieces; here each byte is a TCP segment that the server reads alone."""
    async with serving(echo) as server, await Peer.connect(server) as peer:
        await until(lambda: server.connections)
        [connection] = server.connections
        for count, byte in enumerate(upgrade() + frame(TEXT, b"torn") + frame(PING, b"?") + close_frame(1000), 1):
            peer.send(bytes([byte]))
            await until(lambda count=count: connection.bytes_in == count)
        assert (await peer.head()).status == 101
        assert await peer.frame() == (TEXT, b"torn")
        assert await peer.frame() == (PONG, b"?")
        assert await peer.frame() == (CLOSE, b"\x03\xe8")
        assert await peer.to_end() == b""


class TestSubprotocols:
    """§4.2.2 item 5.5: one that the client offered, or none."""

    @pytest.mark.parametrize(
        ("offered", "chosen"),
        [
            ("chat", "chat"),
            ("superchat, chat", "chat"),  # the server's order of preference counts
            ("other, superchat", "superchat"),
            ("other", None),
            ("CHAT", None),  # compared with case (§1.9, as registered)
            (None, None),
        ],
    )
    async def test_the_choice(self, offered: str | None, chosen: str | None) -> None:
        seen = []

        async def handler(ws: portico.WebSocket) -> None:
            seen.append(ws.subprotocol)

        async with (
            serving(handler, subprotocols=["chat", "superchat"]) as server,
            await Peer.connect(server) as peer,
        ):
            answer = await peer.open(sec_websocket_protocol=offered)
            assert answer.header("sec-websocket-protocol") == chosen
            await peer.closed_with(1000)
        assert seen == [chosen]

    async def test_an_offer_in_several_lines(self) -> None:
        """§11.3.4: the header may come more than once, as if it were one list."""
        async with serving(echo, subprotocols=["b"]) as server, await Peer.connect(server) as peer:
            lines = b"\r\nSec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n\r\n"
            peer.send(upgrade().replace(b"\r\n\r\n", lines))
            assert (await peer.head()).header("sec-websocket-protocol") == "b"


class TestExtensions:
    """RFC 7692 §5 on the wire: what is agreed stands in the answer, and is used."""

    async def test_deflate_is_answered_and_used(self) -> None:
        async with serving(echo) as server, await Peer.connect(server) as peer:
            answer = await peer.open(sec_websocket_extensions="permessage-deflate; client_max_window_bits")
            agreed = answer.header("sec-websocket-extensions") or ""
            assert agreed.split("; ")[0] == "permessage-deflate"
            assert "server_no_context_takeover" in agreed
            packer = zlib.compressobj(wbits=-15)
            packed = packer.compress(b"a" * 5000) + packer.flush(zlib.Z_SYNC_FLUSH)
            peer.send(frame(TEXT | 0x40, packed[:-4]))
            first, payload = await peer.frame()
            assert first == TEXT | 0x40
            assert zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff") == b"a" * 5000

    async def test_the_first_offer_that_can_be_had_is_taken(self) -> None:
        offers = "permessage-deflate; server_max_window_bits=8; unknown, permessage-deflate; server_max_window_bits=10"
        async with serving(echo) as server, await Peer.connect(server) as peer:
            answer = await peer.open(sec_websocket_extensions=offers)
            assert "server_max_window_bits=10" in (answer.header("sec-websocket-extensions") or "")

    async def test_none_is_agreed_without_an_offer(self) -> None:
        async with serving(echo) as server, await Peer.connect(server) as peer:
            assert (await peer.open()).header("sec-websocket-extensions") is None
            peer.send(frame(TEXT | 0x40, b"x"))
            await peer.closed_with(1002)  # §5.2: a reserved bit without an extension that uses it

    async def test_none_is_agreed_where_the_server_wants_none(self) -> None:
        async with serving(echo, deflate=None) as server, await Peer.connect(server) as peer:
            answer = await peer.open(sec_websocket_extensions="permessage-deflate")
            assert answer.header("sec-websocket-extensions") is None
