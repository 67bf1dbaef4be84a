"""What the realtime client says of servers that are none, that are old, or that break the protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.client.fakes import Fake, Visit, switching
from tests.realtime.client_peers import SOON, WAYS, Got, no_proxy, nothing_left  # noqa: F401
from tests.support import frame as masked
from tests.support import until

import portico

pytestmark = pytest.mark.usefixtures("no_proxy", "nothing_left")

OPEN = {"sid": "s1", "upgrades": [], "pingInterval": 25_000, "pingTimeout": 20_000, "maxPayload": 1_000_000}
SECRET = "hunter2"
HASTY = portico.Limits(close_timeout_s=0.05)  # for servers that never answer a close frame


def opening(**changes: Any) -> str:
    return "0" + json.dumps(OPEN | changes)


async def failing(script: Callable[[Visit], Awaitable[object]], way: str = "polling", **options: Any) -> Exception:
    """What connect() raises where the server does this."""
    async with Fake.running(script) as fake:
        url = f"http://user:{SECRET}@127.0.0.1:{fake.port}?token={SECRET}"
        client = portico.RealtimeClient(
            url, transports=WAYS[way], auth={"token": SECRET}, backoff=SOON, limits=HASTY, **options
        )
        with pytest.raises((portico.PorticoError, OSError)) as caught:
            await client.connect()
    assert SECRET not in str(caught.value)
    return caught.value


def answering(status: str, *lines: str, body: bytes = b"") -> Callable[[Visit], Awaitable[object]]:
    return lambda visit: visit.answer(status, *lines, body=body)


@pytest.mark.parametrize(
    ("status", "lines", "body", "expected"),
    [
        ("404 Not Found", [], b"no", "status 404: expected a Socket.IO server there; set path="),
        (
            "200 OK",
            ["Content-Type: text/html"],
            b"<!doctype html>",
            "no Socket.IO server: it answered with a page of H",
        ),
        ("200 OK", [], b"{}", "no Socket.IO server"),
        ("200 OK", [], b"", "no Socket.IO server"),
        ("200 OK", [], b"\xff\xfe", "no Socket.IO server"),
        ("200 OK", [], b'0{"sid": 5}', "no Socket.IO server"),
        ("200 OK", [], b'0{"sid":"a"' + b"[" * 5000, "no Socket.IO server"),
        ("200 OK", [], b"0" + b"[" * 100_000, "no Socket.IO server"),
        ("200 OK", [], b'97:0{"sid":"abc","upgrades":[]}2:40', r"Engine\.IO v3, which is Socket\.IO 1\.x or 2\.x"),
        ("200 OK", [], b'\x00\x09\x07\xff0{"sid":"abc"}', r"Engine\.IO v3"),
        (
            "400 Bad Request",
            [],
            b'{"code":5,"message":"Unsupported protocol version"}',
            r"does not speak Engine\.IO v4",
        ),
        (
            "400 Bad Request",
            [],
            b'"The client is using an unsupported version of the Socket.IO or Engine.IO protocols"',
            r"does not speak Engine\.IO v4",
        ),
        ("400 Bad Request", [], b'{"code":0,"message":"Transport unknown"}', "set transports="),
        ("400 Bad Request", [], b'{"code":1,"message":"Session ID unknown"}', "sticky sessions"),
        ("403 Forbidden", [], b'{"code":4,"message":"Forbidden"}', "set headers="),
        ("401 Unauthorized", [], b"", "set headers="),
        ("302 Found", ["Location: https://elsewhere.example/?token=hunter2"], b"", "redirects are not followed"),
        ("502 Bad Gateway", [], b"hunter2", "status 502"),
    ],
)
async def test_what_is_no_socketio_server_is_told_what_it_is(
    status: str, lines: list[str], body: bytes, expected: str
) -> None:
    error = await failing(answering(status, *lines, body=body))
    assert isinstance(error, portico.HandshakeError)
    import re

    assert re.search(expected, str(error)), str(error)
    assert error.status == int(status[:3])
    assert error.body == body[: 64 * 1024]


async def test_what_is_no_http_is_told_with_its_first_bytes() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(b"SSH-2.0-OpenSSH_9.2\r\n")

    error = await failing(script)
    assert "no valid HTTP/1.1" in str(error)
    assert "SSH-2.0" in str(error)


async def test_a_server_that_closes_before_it_has_answered_is_an_oserror() -> None:
    assert isinstance(await failing(lambda visit: visit.head()), OSError)


async def test_a_server_that_never_answers_is_a_timeout() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.gone()

    for way in ("polling", "websocket"):
        error = await failing(script, way, open_timeout_s=0.05)
        assert isinstance(error, TimeoutError)
        assert "within 0.05 s" in str(error)


async def test_a_body_without_end_is_cut_at_its_limit() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            visit.send(b"x" * 10_000)
            await visit.writer.drain()

    error = await failing(script, max_polled_bytes=50_000)
    assert "longer than 50000 bytes (max_polled_bytes)" in str(error)


# -- over WebSocket ----------------------------------------------------------------------------------------------------


def text(payload: str) -> bytes:
    """An unmasked frame of text, as a server sends it."""
    data = payload.encode()
    head = bytes([0x81, len(data)]) if len(data) < 126 else b"\x81\x7e" + len(data).to_bytes(2, "big")
    return head + data


def saying(*packets: str) -> Callable[[Visit], Awaitable[object]]:
    """Switch, say these packets, and wait for the end."""

    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(switching(visit.field("sec-websocket-key") or "") + b"".join(text(packet) for packet in packets))
        await visit.gone()

    return script


@pytest.mark.parametrize("first", ["hello", "", "4", "0", "0[]", '0{"sid":""}', opening(pingInterval=-1), "2"])
async def test_a_websocket_that_does_not_begin_with_a_handshake_is_no_socketio_server(first: str) -> None:
    error = await failing(saying(first), "websocket")
    assert "no handshake of Engine.IO v4" in str(error)


async def test_a_server_of_socketio_2_over_websocket_is_told_from_its_connect() -> None:
    """It says CONNECT without being asked, and without the sid that version 5 of the protocol has in it."""
    error = await failing(saying(opening(), "40"), "websocket")
    assert "Socket.IO 1.x or 2.x" in str(error)


async def test_a_server_that_does_not_answer_connect_is_a_timeout() -> None:
    error = await failing(saying(opening()), "websocket", connect_timeout_s=0.05)
    assert isinstance(error, TimeoutError)
    assert "did not answer CONNECT within 0.05 s (connect_timeout_s)" in str(error)


@pytest.mark.parametrize(
    "packets",
    [
        ["49"],
        ["4"],
        ["42"],
        ["42[]"],
        ["42[5"],
        ['42["connect"]'],
        ["43[]"],
        ["451-[", "4x"],
        ["45999999999999-[]"],
        ["459999-[]"],
        ['451-["a",{"_placeholder":true,"num":0}]', '42["b"]'],
        ["44"],
        ['42["' + "[" * 60_000],
        ["9"],
        ["x"],
        [""],
    ],
    ids=lambda packets: packets[0][:20],
)
async def test_what_breaks_the_protocol_ends_the_connection_and_nothing_else(packets: list[str]) -> None:
    visits = 0

    async def script(visit: Visit) -> None:
        nonlocal visits
        visits += 1
        more = packets if visits == 1 else ['42["news",1]']
        await saying(opening(), '40{"sid":"a"}', *(packet for packet in more))(visit)

    async with Fake.running(script) as fake:
        url = f"http://127.0.0.1:{fake.port}"
        client = portico.RealtimeClient(url, transports=["websocket"], backoff=SOON, limits=HASTY)
        got = Got(client, "disconnect", "news")
        async with client:
            assert await got.next() == ("disconnect", "parse error")
            assert await got.next() == ("news", 1)


async def test_an_event_beyond_its_limit_ends_the_connection() -> None:
    payload = "x" * 50_000

    async def script(visit: Visit) -> None:
        await saying(opening(), '40{"sid":"a"}', '451-["a",{"_placeholder":true,"num":0}]')(visit)

    async def big(visit: Visit) -> None:
        await visit.head()
        start = [text(each) for each in (opening(), '40{"sid":"a"}', '451-["a",{"_placeholder":true,"num":0}]')]
        attachment = b"\x82\x7e" + len(payload).to_bytes(2, "big") + payload.encode()
        visit.send(switching(visit.field("sec-websocket-key") or "") + b"".join(start) + attachment)
        await visit.gone()

    async with Fake.running(big) as fake:
        client = portico.RealtimeClient(
            f"http://127.0.0.1:{fake.port}",
            transports=["websocket"],
            max_event_bytes=40_000,
            reconnect=False,
            limits=HASTY,
        )
        got = Got(client, "disconnect")
        await client.connect()
        assert await got.next() == ("disconnect", "parse error")
        with pytest.raises(portico.Disconnected):
            await client.wait()


# -- details of polling ------------------------------------------------------------------------------------------------


async def test_an_upgrade_that_fails_leaves_the_session_on_polling() -> None:
    """Engine.IO v4, "Upgrade": the probe that is not answered has cost nothing."""
    waiting: asyncio.Queue[str] = asyncio.Queue()

    async def script(visit: Visit) -> None:
        while True:
            head = await visit.head()
            if b"transport=websocket" in head:
                visit.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                waiting.put_nowait('42["news",1]')
            elif head.startswith(b"POST"):
                await visit.reader.readexactly(int(visit.field("content-length") or 0))
                visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            else:
                if b"sid=" in head:
                    body = await waiting.get()
                else:
                    body = opening(upgrades=["websocket"])
                    waiting.put_nowait('40{"sid":"a"}')
                visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body.encode())

    async with Fake.running(script) as fake:
        client = portico.RealtimeClient(f"http://127.0.0.1:{fake.port}", backoff=SOON)
        got = Got(client, "news")
        async with client:
            assert await got.next() == ("news", 1)
            assert client.transport == "polling"


async def test_a_cookie_that_the_server_sets_finds_the_same_process_again() -> None:
    cookies: list[str | None] = []
    waiting: asyncio.Queue[str] = asyncio.Queue()

    async def script(visit: Visit) -> None:
        while True:
            head = await visit.head()
            cookies.append(visit.field("cookie"))
            more = "Set-Cookie: route=7; Path=/; HttpOnly\r\nSet-Cookie: gone=1; Max-Age=0\r\n"
            if head.startswith(b"POST"):
                await visit.reader.readexactly(int(visit.field("content-length") or 0))
                body = "ok"
            elif b"sid=" in head:
                body = await waiting.get()
            else:
                body = opening()
                waiting.put_nowait('40{"sid":"a"}')
            visit.send(f"HTTP/1.1 200 OK\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    async with Fake.running(script) as fake:
        client = portico.RealtimeClient(f"http://127.0.0.1:{fake.port}", headers={"Cookie": "mine=1"}, backoff=SOON)
        async with client:
            await until(lambda: len(cookies) > 2)
    assert cookies[0] == "mine=1"
    assert set(cookies[1:]) == {"mine=1; route=7"}


async def test_a_post_that_fails_is_not_sent_again() -> None:
    """It may have arrived: sending it twice would double what it says. The session ends, and a new one begins."""
    posts: list[bytes] = []
    sessions = 0

    async def script(visit: Visit) -> None:
        nonlocal sessions
        waiting: asyncio.Queue[str] = asyncio.Queue()
        while True:
            head = await visit.head()
            if head.startswith(b"POST"):
                body = await visit.reader.readexactly(int(visit.field("content-length") or 0))
                posts.append(body)
                if b"news" in body:
                    return
                queues[-1].put_nowait('40{"sid":"a"}')
                visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                continue
            if b"sid=" in head:
                answer = await queues[-1].get()
            else:
                sessions += 1
                queues.append(waiting)
                answer = opening()
            visit.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n{answer}".encode())

    queues: list[asyncio.Queue[str]] = []
    async with Fake.running(script) as fake:
        client = portico.RealtimeClient(f"http://127.0.0.1:{fake.port}", transports=["polling"], backoff=SOON)
        got = Got(client, "connect", "disconnect")
        async with client:
            assert await got.next() == ("connect",)
            client.emit("news", 1)
            assert await got.next() == ("disconnect", "transport error")
            assert await got.next() == ("connect",)
    assert sessions == 2
    assert [body for body in posts if b"news" in body] == [b'42["news",1]']


def test_frames_of_the_fakes_are_what_a_server_sends() -> None:
    assert text("2") == b"\x81\x012"
    assert masked(0x81, b"2")[1] & 0x80
