"""What a proxy's answer can not do: put control characters before the user, keep others waiting, or stay unnamed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.client.fakes import Fake, Visit
from tests.support import until

import portico

Script = Callable[[Visit], Awaitable[None]]


def says(data: bytes, *, reset: bool = False) -> Script:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(data)
        if reset:
            visit.reset()

    return script


async def refused(script: Script, uri: str = "ws://a.example/") -> portico.HandshakeError:
    async with Fake.running(script) as fake:
        with pytest.raises(portico.HandshakeError) as caught:
            await portico.connect(uri, proxy=f"http://127.0.0.1:{fake.port}")
        assert f"127.0.0.1:{fake.port}" in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 403 \x1b[2J\r\n",
        b"HTTP/1.1 403 No\r\nX-Why: \x1b]0;owned\x07\r\n",
        b"HTTP/1.1 403 No\r\nX-\x00: y\r\n",
        b"HTTP/1.1 403 No\r\nX: y\nforged: z\r\n",  # a bare LF
        b"HTTP/1.1 403 No\r\nX: y\rforged: z\r\n",  # a bare CR
        b"HTTP/1.1 200 OK\r\nX: \x7f\r\n",
        b"HTTP/1.1 100 Continue\r\nX: \x08\r\n\r\nHTTP/1.1 200 OK\r\n",
    ],
)
async def test_a_control_character_in_the_head_is_refused(head: bytes) -> None:
    """RFC 9110 §5.5, as in the answer of a server: what is shown goes to terminals and into logs."""
    error = await refused(says(head + b"\r\n"))
    assert "a control character in its head" in str(error)
    assert str(error).isprintable()
    assert (error.status, error.headers, error.body) == (None, (), b"")


async def test_the_reason_is_shown_without_the_controls_of_iso_8859() -> None:
    """0x9B is CSI to some terminals, but may stand in a reason (RFC 9112 §4: obs-text)."""
    error = await refused(says(b"HTTP/1.1 403 \x9b2J n\xf6\r\nContent-Length: 0\r\n\r\n"))
    assert str(error).endswith(r"answered CONNECT with 403 \x9b2J nö")
    assert error.status == 403


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_tunnel_that_ends_at_once_is_told_of_with_host_and_proxy(scheme: str, reset: bool) -> None:
    async with Fake.running(says(b"HTTP/1.1 200 OK\r\n\r\n", reset=reset)) as fake:
        with pytest.raises((portico.HandshakeError, OSError)) as caught:
            await portico.connect(f"{scheme}://a.example/feed", proxy=f"http://me:s3cr3t@127.0.0.1:{fake.port}")
    assert f"{scheme}://a.example/feed through the proxy 127.0.0.1:{fake.port}" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


async def test_a_refusal_whose_body_hangs_gives_up_its_turn() -> None:
    """RFC 6455 §4.1, item 2: with the head in it is CONNECTING no more; its body is read all the same."""

    async def script(visit: Visit) -> None:
        if fake.count == 1:
            await says(b"HTTP/1.1 407 Who?\r\nContent-Length: 100\r\n\r\nwho")(visit)
            await go.wait()
        else:
            await says(b"HTTP/1.1 200 OK\r\n\r\n")(visit)
            await visit.switch()
            await visit.gone()

    go = asyncio.Event()
    async with Fake.running(script) as fake:
        proxy = f"127.0.0.1:{fake.port}"
        hanging = asyncio.ensure_future(portico.connect("ws://a.example/", proxy=proxy))
        await until(lambda: fake.count)
        ws = await portico.connect("ws://a.example/", proxy=proxy)
        assert not hanging.done()
        go.set()
        ws.stream.abort()
        with pytest.raises(portico.HandshakeError) as caught:
            await hanging
    assert (caught.value.status, caught.value.body) == (407, b"who")


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_server_that_ends_at_once_is_named_without_a_proxy_too(scheme: str) -> None:
    async def script(visit: Visit) -> None:
        await visit.reader.read(1)

    async with Fake.running(script) as fake:
        with pytest.raises((portico.HandshakeError, OSError)) as caught:
            await portico.connect(f"{scheme}://127.0.0.1:{fake.port}/feed?token=s3cr3t")
    assert f"{scheme}://127.0.0.1:{fake.port}/feed: " in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
