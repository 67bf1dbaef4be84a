"""No error text shows a query, where tokens often are, nor user information: scheme, authority and path are enough."""

from __future__ import annotations

import pathlib
import socket
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.client.fakes import Certificates, Fake, HangingNames, Visit, switching
from tests.support import free_port

import portico

SECRET = "s3cr3t"
SOON_S = 0.1

Script = Callable[[Visit], Awaitable[object]]


def all_of_it(error: BaseException) -> str:
    """What a log would show of it, causes and all, without the lines of source."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=False).format(chain=True)
    return "".join(line for line in lines if not line.startswith('  File "'))


async def failing(uri: str, **options: Any) -> str:
    """Connect in vain; returns the error's text."""
    with pytest.raises((portico.PorticoError, OSError)) as caught:
        await portico.connect(uri, open_timeout_s=options.pop("open_timeout_s", 5), **options)
    assert SECRET not in all_of_it(caught.value)
    return str(caught.value)


def secret(port: int, scheme: str = "ws", host: str = "127.0.0.1") -> str:
    return f"{scheme}://me:{SECRET}@{host}:{port}/a/b?token={SECRET}"


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_timeout(scheme: str) -> None:
    async with Fake.running(Visit.gone) as fake:
        said = await failing(secret(fake.port, scheme), open_timeout_s=SOON_S)
    assert f"{scheme}://127.0.0.1:{fake.port}/a/b" in said


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (b"what?\r\n\r\n", "expected HTTP/1.1 STATUS REASON; it begins with b'what?"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered 404 Not Found, expected 101"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "expected Upgrade: websocket in the answer, but none came"),
        (b"HTTP/1.1 30", "the connection ended inside a response's head; it begins with b'HTTP/1.1 30'"),
        (b"", "/a/b: the server closed the connection before it had answered"),
    ],
)
async def test_a_wrong_answer(answer: bytes, shown: str) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(answer)

    async with Fake.running(script) as fake:
        assert shown in await failing(secret(fake.port))


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        (f"ws://127.0.0.1:PORT/x?token={SECRET}", "more than 10 redirects, the last one to ws://127.0.0.1:PORT/x"),
        (f"ftp://h/x?token={SECRET}", "'ftp://h/x?…': expected one that begins with ws:// or wss://, got 'ftp'"),
        (f"ws://h:x/?token={SECRET}", "'ws://h:x/?…'"),
        (f"ws://u:{SECRET}@[x/", "redirected to what is no WebSocket's address"),
        (f"ws://h/?{SECRET}%", "write it percent-encoded"),
    ],
)
async def test_a_redirect(location: str, shown: str) -> None:
    async def script(visit: Visit) -> None:
        await visit.answer("302 Found", "Location: " + location.replace("PORT", str(fake.port)))

    async with Fake.running(script) as fake:
        assert shown.replace("PORT", str(fake.port)) in await failing(secret(fake.port))


async def test_a_redirect_from_wss_to_ws(certificates: Certificates) -> None:
    tls = certificates.server(certificates.signed())
    script = redirecting(f"http://h:81/x?token={SECRET}")
    async with Fake.running(script, tls=tls) as fake:
        said = await failing(secret(fake.port, "wss", "localhost"), ssl=certificates.client())
    assert "to ws://h:81/x: not followed" in said


async def test_a_redirect_with_a_socket_or_behind_a_unix_socket(tmp_path: pathlib.Path) -> None:
    script = redirecting(f"ws://h:81/x?token={SECRET}")
    async with Fake.running(script) as fake:
        sock = socket.create_connection(("127.0.0.1", fake.port))
        assert "redirected to ws://h:81/x: not" in await failing(secret(80), sock=sock)
    async with Fake.running(script, uds=str(tmp_path / "s")):
        assert "redirected to ws://h:81/x, which" in await failing(secret(80), uds=tmp_path / "s")


def redirecting(location: str) -> Script:
    return lambda visit: visit.answer("302 Found", f"Location: {location}")


async def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "127.0.0.1 port" in await failing(secret(free_port()))
    assert "nowhere.invalid" in await failing(secret(80, host="nowhere.invalid"))
    with HangingNames.running(monkeypatch):
        assert "a.example" in await failing(secret(80, host="a.example"), open_timeout_s=SOON_S)
    assert "/nowhere" in await failing(secret(80), uds="/nowhere/s")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 403 No\r\n\r\n", b"what?", b"", None])
async def test_a_proxy(answer: bytes | None) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        if answer is None:
            await visit.gone()
        visit.send(answer or b"")

    async with Fake.running(script) as fake:
        proxy = f"http://me:{SECRET}@127.0.0.1:{fake.port}/?{SECRET}"
        assert f"127.0.0.1:{fake.port}" in await failing(secret(80), proxy=proxy, open_timeout_s=SOON_S)


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        (f"ws://h/ ?token={SECRET}", {}),
        (f"http://h/?token={SECRET}", {}),
        (f"ws://h/?token={SECRET}#x", {}),
        (f"ws://h/#{SECRET}", {}),
        (f"ws://h/?token={SECRET}", {"headers": {"Host": SECRET}}),
        (f"ws://h/?token={SECRET}", {"headers": {"Authorization": SECRET + "\n"}}),
        ("ws://h/", {"proxy": f"http://u:{SECRET}@h:x/?{SECRET}"}),
    ],
)
def test_a_wrong_argument(uri: str, options: dict[str, Any]) -> None:
    with pytest.raises(portico.LocalError) as caught:
        portico.connect(uri, **options)
    assert SECRET not in all_of_it(caught.value)


async def test_after_a_lost_connection() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(switching(visit.field("sec-websocket-key") or ""))
        await visit.writer.drain()
        visit.reset()

    async with Fake.running(script) as fake:
        with pytest.raises((portico.ConnectionClosed, portico.HandshakeError)) as caught:
            await (await portico.connect(secret(fake.port))).recv()
    assert SECRET not in all_of_it(caught.value)
