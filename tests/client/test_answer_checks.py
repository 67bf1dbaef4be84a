"""The client's checks of the server's answer (RFC 6455 §4.1, second list): each fails the connection with what came.

The server is a raw socket that answers whatever a test says.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.client.fakes import Fake, Visit, switching

import portico
from portico.wire.handshake import accept_key

LINES = {"Upgrade": "websocket", "Connection": "Upgrade"}


async def refused(script: Any, **options: Any) -> portico.HandshakeError:
    """What `connect` says of a server that runs `script`; its connection is closed then, with nothing sent."""
    ended = asyncio.Event()

    async def visit(visit: Visit) -> None:
        await script(visit)
        assert await visit.reader.read() == b""
        ended.set()

    async with Fake.running(visit) as fake:
        with pytest.raises(portico.HandshakeError) as caught:
            await portico.connect(f"ws://127.0.0.1:{fake.port}/", **options)
        await ended.wait()
    return caught.value


def answering(status: str = "101 Switching Protocols", *more: str, **changes: str | None) -> Any:
    """A script that switches, but for `changes` in its lines; Sec-WebSocket-Accept is right unless changed."""

    async def script(visit: Visit) -> None:
        await visit.head()
        right = {**LINES, "Sec-WebSocket-Accept": accept_key(visit.field("sec-websocket-key") or "")}
        fields = {**right, **{name.replace("_", "-"): value for name, value in changes.items()}}
        lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
        visit.send("\r\n".join([f"HTTP/1.1 {status}", *lines, *more, "", ""]).encode("latin-1"))

    return script


async def test_a_right_answer_is_taken() -> None:
    async def script(visit: Visit) -> None:
        await answering("101 Fine", Upgrade="WebSocket", Connection="keep-alive, UPGRADE")(visit)
        await visit.gone()

    async with Fake.running(script) as fake:
        ws = await portico.connect(f"ws://127.0.0.1:{fake.port}/", limits=portico.Limits(close_timeout_s=0.01))
        assert ws.subprotocol is None
        await ws.close()


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "426 Upgrade Required", "299 ", "599 Odd"])
async def test_1_the_status_must_be_101(status: str) -> None:
    error = await refused(answering(status, "Content-Length: 4", "", "body"))
    assert (error.status, error.body) == (int(status[:3]), b"body")
    assert f"answered {status}".strip() in str(error)
    assert "expected 101" in str(error)


async def test_1_the_version_must_be_http_1_1_or_higher() -> None:  # RFC 6455 §4.1
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(switching(visit.field("sec-websocket-key") or "").replace(b"HTTP/1.1", b"HTTP/1.0"))

    error = await refused(script)
    assert error.status == 101
    assert "expected HTTP/1.1 or higher in the answer, but it came as HTTP/1.0" in str(error)


@pytest.mark.parametrize("value", [None, "h2c", "websocket, h2c", "websockets", ""])
async def test_2_upgrade_must_be_websocket(value: str | None) -> None:
    error = await refused(answering(Upgrade=value))
    assert error.status == 101
    assert "expected Upgrade: websocket" in str(error)
    assert ("none came" if value is None else repr(value)) in str(error)


@pytest.mark.parametrize("value", [None, "close", "keep-alive", "upgraded"])
async def test_3_connection_must_name_upgrade(value: str | None) -> None:
    error = await refused(answering(Connection=value))
    assert "expected Connection: Upgrade" in str(error)
    assert ("none came" if value is None else repr(value)) in str(error)


@pytest.mark.parametrize("value", [None, "", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="])
async def test_4_accept_must_answer_our_key(value: str | None) -> None:
    error = await refused(answering(Sec_WebSocket_Accept=value))
    assert "expected Sec-WebSocket-Accept: " in str(error)
    assert ("none came" if value is None else repr(value)) in str(error)


async def test_4_an_accept_for_another_case_or_with_a_second_line_is_wrong() -> None:
    keys: list[str] = []

    async def lower(visit: Visit) -> None:
        await visit.head()
        keys.append(accept_key(visit.field("sec-websocket-key") or ""))
        visit.send(switching("").replace(accept_key("").encode(), keys[-1].swapcase().encode()))

    async def twice(visit: Visit) -> None:
        await visit.head()
        key = visit.field("sec-websocket-key") or ""
        visit.send(switching(key, f"Sec-WebSocket-Accept: {accept_key(key)}"))

    for script in (lower, twice):
        assert "Sec-WebSocket-Accept" in str(await refused(script))


@pytest.mark.parametrize(
    ("value", "deflate", "said"),
    [
        ("permessage-deflate", None, "permessage-deflate"),  # not offered
        ("x-snappy", portico.Deflate(), "x-snappy"),
        ("permessage-deflate; server_no_context_takeover, x-snappy", portico.Deflate(), "x-snappy"),
        ("permessage-deflate", portico.Deflate(), "server_no_context_takeover"),  # RFC 7692 §7.1.1.1: was asked for
        ("permessage-deflate; server_no_context_takeover; x=1", portico.Deflate(), "parameter"),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=15",
            portico.Deflate(server_max_window_bits=10),
            "server_max_window_bits=10",
        ),
        ("permessage-deflate; server_no_context_takeover; client_max_window_bits=8", portico.Deflate(), "chose 8"),
    ],
)
async def test_5_an_extension_must_be_one_that_was_offered(
    value: str, deflate: portico.Deflate | None, said: str
) -> None:
    error = await refused(answering(Sec_WebSocket_Extensions=value), deflate=deflate)
    assert said in str(error)
    assert error.status == 101


@pytest.mark.parametrize("value", ["c", "A", "a, b", ""])
async def test_6_the_subprotocol_must_be_one_that_was_offered(value: str) -> None:
    error = await refused(answering(Sec_WebSocket_Protocol=value), subprotocols=["a", "b"])
    assert "subprotocols offered (a, b)" in str(error)
    assert repr(value) in str(error)


async def test_6_none_may_be_chosen_where_none_was_offered_nor_two() -> None:
    error = await refused(answering(Sec_WebSocket_Protocol="a"))
    assert "offered (none)" in str(error)
    error = await refused(answering("101 OK", "Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: a"))
    assert "'a', 'a'" in str(error)


async def test_no_subprotocol_is_an_answer_to_any_offer() -> None:  # RFC 6455 §4.2.2, item 5.5
    async def script(visit: Visit) -> None:
        await visit.switch(b"\x88\x02\x03\xe8")

    async with Fake.running(script) as fake, portico.connect(f"ws://127.0.0.1:{fake.port}/", subprotocols=["a"]) as ws:
        assert ws.subprotocol is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0"),
        (b"\x15\x03\x01\x00\x02\x02\x50", r"\x15\x03"),  # a TLS alert: the port speaks TLS
        (b"HTTP/1.1 1o1 Switching\r\n\r\n", "1o1"),
        (b"HTTP/2 101 \r\n\r\n", "HTTP/2"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade : websocket\r\n\r\n", "HTTP/1.1 101"),
        (b"\x00" * 100_000, r"\x00"),
        (b"HTTP/1.1 101 Switching\r\n" + b"X: " + b"y" * 100_000, "HTTP/1.1 101"),  # a head above the limit
    ],
)
async def test_what_is_no_http_fails_and_is_shown(data: bytes, said: str) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(data)

    error = await refused(script)
    assert error.status is None
    assert "no valid HTTP/1.1" in str(error)
    assert said in str(error)
    assert len(str(error)) < 500


async def test_interim_answers_are_passed_over() -> None:  # RFC 9110 §15.2
    async def script(visit: Visit) -> None:
        visit.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        await visit.switch(b"\x81\x02hi\x88\x00")

    async with Fake.running(script) as fake, portico.connect(f"ws://127.0.0.1:{fake.port}/") as ws:
        assert await ws.recv() == "hi"


async def test_the_first_messages_may_come_with_the_answer() -> None:
    async def script(visit: Visit) -> None:
        await visit.switch(b"\x81\x01a\x02\x01b\x80\x01c\x89\x00\x88\x05\x0f\xa0bye")

    async with Fake.running(script) as fake, portico.connect(f"ws://127.0.0.1:{fake.port}/") as ws:
        assert [message async for message in ws] == ["a", b"bc"]
        assert ws.closed == portico.Close(4000, "bye", clean=True, by="peer")


async def test_an_answer_may_come_byte_by_byte() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        for byte in switching(visit.field("sec-websocket-key") or "") + b"\x81\x02hi\x88\x00":
            visit.send(bytes([byte]))
            await visit.writer.drain()
            await asyncio.sleep(0)

    async with Fake.running(script) as fake, portico.connect(f"ws://127.0.0.1:{fake.port}/") as ws:
        assert await ws.recv() == "hi"


# -- refusals and their bodies (RFC 6455 §4.1: "the client handles the response per HTTP procedures") -----------------


async def test_a_refusal_comes_with_headers_and_body() -> None:
    async def script(visit: Visit) -> None:
        await visit.answer("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"', "X-Odd: \xe9", body=b"who are you?")

    error = await refused(script)
    assert (error.status, error.body) == (401, b"who are you?")
    assert ("www-authenticate", 'Basic realm="x"') in error.headers
    assert ("x-odd", "\xe9") in error.headers
    assert "401 Unauthorized" in str(error)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 403 No\r\nConnection: close\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.0 403 No\r\n\r\nold", b"old"),
        (b"HTTP/1.1 403 No\r\nContent-Length: 100\r\n\r\ncut", b"cut"),
        (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz", b"abc"),
    ],
)
async def test_however_the_body_ends_the_refusal_is_known(answer: bytes, body: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(answer)
        visit.writer.write_eof()

    error = await refused(script)
    assert (error.status, error.body) == (403, body)


async def test_a_refusal_that_is_reset_half_way_is_known() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 403 No\r\nContent-Length: 100\r\n\r\ncut")
        await asyncio.sleep(0)  # it has been written
        visit.reset()

    async with Fake.running(script) as fake:
        with pytest.raises(portico.HandshakeError) as caught:
            await portico.connect(f"ws://127.0.0.1:{fake.port}/")
    assert caught.value.status in (403, None)  # whether the bytes come before the reset is TCP's affair


async def test_a_body_is_cut_at_64_kib() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 500 No\r\nContent-Length: 10000000000\r\n\r\n" + b"x" * 200_000)
        await visit.gone()

    async with Fake.running(script) as fake:
        with pytest.raises(portico.HandshakeError) as caught:
            await portico.connect(f"ws://127.0.0.1:{fake.port}/")
    assert (caught.value.status, len(caught.value.body)) == (500, 64 * 1024)


async def test_no_bytes_of_a_wrong_101_are_taken_for_a_body() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 101 OK\r\n\r\n\x81\x02hi")

    error = await refused(script)
    assert (error.status, error.body) == (101, b"")
