"""Through an HTTP proxy (RFC 6455 §4.1, item 3 of the connection's requirements): CONNECT, for ws: as for wss:."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from tests.client import squid
from tests.client.fakes import Certificates, Fake, Visit

import portico

SOON_S = 0.5
SECRET = "s3cr3t"


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def echoed(uri: str, **options: Any) -> None:
    """Connect; a message comes back."""
    async with portico.connect(uri, **options) as ws:
        await ws.send("hi")
        assert await ws.recv() == "hi"


# -- squid -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxy() -> Iterator[squid.Squid]:
    with squid.running() as running:
        yield running


KNOWN = f"{squid.USER}:{quote(squid.PASSWORD, safe='')}"


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("known", [False, True])
async def test_squid_tunnels(known: bool, scheme: str, proxy: squid.Squid, certificates: Certificates) -> None:
    tls = certificates.server(certificates.signed()) if scheme == "wss" else None
    options: dict[str, Any] = {"ssl": certificates.client()} if tls else {}
    where = f"http://{KNOWN}@127.0.0.1:{proxy.known}" if known else f"http://127.0.0.1:{proxy.open}"
    async with portico.serve(echo, "127.0.0.1", 0, ssl=tls) as server:
        await echoed(f"{scheme}://localhost:{server.port}/", proxy=where, **options)


async def test_the_certificate_is_verified_behind_squid(proxy: squid.Squid, certificates: Certificates) -> None:
    tls = certificates.server(certificates.signed("other.example"))
    async with portico.serve(echo, "127.0.0.1", 0, ssl=tls) as server:
        with pytest.raises(OSError, match="Hostname mismatch"):
            await portico.connect(
                f"wss://localhost:{server.port}/", proxy=f"127.0.0.1:{proxy.open}", ssl=certificates.client()
            )


@pytest.mark.parametrize("who", ["", "me:wrong@", "nobody@"])
async def test_squid_wants_credentials(who: str, proxy: squid.Squid) -> None:
    with pytest.raises(portico.HandshakeError) as caught:
        await portico.connect("ws://localhost:9/", proxy=f"http://{who}127.0.0.1:{proxy.known}")
    assert caught.value.status == 407
    assert "proxy-authenticate" in [name for name, _ in caught.value.headers]
    assert f"127.0.0.1:{proxy.known}" in str(caught.value)
    assert "407 Proxy Authentication Required" in str(caught.value)
    assert ("http://user:password@host:port" in str(caught.value)) is (who == "")
    assert "wrong" not in str(caught.value)


async def test_squid_refuses_a_host(proxy: squid.Squid) -> None:
    with pytest.raises(portico.HandshakeError, match="answered CONNECT with 403 Forbidden") as caught:
        await portico.connect(f"wss://{squid.FORBIDDEN}/", proxy=f"http://127.0.0.1:{proxy.open}")
    assert caught.value.status == 403
    assert b"<title>ERROR: The requested URL could not be retrieved</title>" in caught.value.body


async def test_squid_does_not_reach_the_server(proxy: squid.Squid) -> None:
    async with Fake.running(Visit.head) as fake:
        port = fake.port
    with pytest.raises(portico.HandshakeError, match="503") as caught:
        await portico.connect(f"ws://127.0.0.1:{port}/", proxy=f"http://127.0.0.1:{proxy.open}")
    assert caught.value.status == 503


async def test_what_the_server_answers_behind_squid(proxy: squid.Squid) -> None:
    async with Fake.running(lambda visit: visit.answer("401 Unauthorized", body=b"who?")) as fake:
        with pytest.raises(portico.HandshakeError) as caught:
            await portico.connect(f"ws://127.0.0.1:{fake.port}/", proxy=f"http://127.0.0.1:{proxy.open}")
    assert (caught.value.status, caught.value.body) == (401, b"who?")


async def test_a_redirect_behind_squid(proxy: squid.Squid) -> None:
    async def script(visit: Visit) -> None:
        if fake.count == 1:
            await visit.answer("302 Found", "Location: /there")
        else:
            await visit.closed()

    async with Fake.running(script) as fake:
        ws = await portico.connect(f"ws://127.0.0.1:{fake.port}/", proxy=f"http://127.0.0.1:{proxy.open}")
        await ws.close()
    assert ws.request.path == "/there"


# -- what is asked -----------------------------------------------------------------------------------------------------


def tunnel(answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> Callable[[Visit], Awaitable[None]]:
    """A proxy's script: answer CONNECT, and be the server behind it as well."""

    async def script(visit: Visit) -> None:
        await visit.head()
        asked.append(visit.request)
        visit.send(answer)
        await visit.closed()

    asked: list[bytes] = []
    script.asked = asked  # type: ignore[attr-defined]
    return script


@pytest.mark.parametrize(
    ("uri", "where"),
    [
        ("ws://a.example/x", "a.example:80"),  # always with the port (RFC 9110 §9.3.6)
        ("ws://A.example:81/x", "a.example:81"),
        ("ws://[::1]:81/x", "[::1]:81"),
        ("ws://bücher.example/", "xn--bcher-kva.example:80"),
    ],
)
async def test_the_proxy_is_asked_for_host_and_port_and_nothing_else(uri: str, where: str) -> None:
    """The name is not looked up here; nothing for the server is told to the proxy."""
    script: Any = tunnel()
    async with Fake.running(script) as fake:
        options: dict[str, Any] = {
            "headers": {"Authorization": SECRET},
            "proxy": f"http://me:p%40ss@127.0.0.1:{fake.port}",
        }
        await (await portico.connect(uri.replace("//", f"//u:{SECRET}@"), **options)).close()
    lines = script.asked[0].decode().split("\r\n")
    credentials = base64.b64encode(b"me:p@ss").decode()
    assert lines == [
        f"CONNECT {where} HTTP/1.1",
        f"Host: {where}",
        f"Proxy-Authorization: Basic {credentials}",
        "",
        "",
    ]
    assert b"Proxy-Authorization" not in fake.requests[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 299 Odd\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",  # RFC 9110 §9.3.6: ignored
    ],
)
async def test_any_2xx_opens_the_tunnel(answer: bytes) -> None:
    async with Fake.running(tunnel(answer)) as fake:
        await (await portico.connect("ws://a.example/", proxy=f"http://127.0.0.1:{fake.port}")).close()


# -- proxies that do not do what they should ---------------------------------------------------------------------------


async def refused(script: Any, uri: str = "ws://a.example/") -> portico.HandshakeError:
    async with Fake.running(script) as fake:
        with pytest.raises(portico.HandshakeError) as caught:
            await portico.connect(uri, proxy=f"http://u:{SECRET}@127.0.0.1:{fake.port}")
    assert f"127.0.0.1:{fake.port}: the proxy" in str(caught.value)
    assert SECRET not in str(caught.value)
    return caught.value


def says(data: bytes) -> Any:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(data)

    return script


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_silent_proxy_has_until_the_deadline(scheme: str) -> None:
    async with Fake.running(Visit.gone) as fake:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"the proxy 127.* did not answer CONNECT within 0\.5 s"):
            await portico.connect(
                f"{scheme}://a.example/", proxy=f"http://u:{SECRET}@127.0.0.1:{fake.port}", open_timeout_s=SOON_S
            )
        assert time.monotonic() - began < 9


async def test_a_slow_proxy_does_not_renew_the_deadline() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 20_000:
            visit.send(bytes([byte]))
            await visit.writer.drain()
            await asyncio.sleep(0.01)

    async with Fake.running(script) as fake:
        with pytest.raises(TimeoutError, match="did not answer CONNECT"):
            await portico.connect("ws://a/", proxy=f"http://127.0.0.1:{fake.port}", open_timeout_s=SOON_S)


async def test_the_tunnel_does_not_renew_the_deadline() -> None:
    async def script(visit: Visit) -> None:
        await says(b"HTTP/1.1 200 OK\r\n\r\n")(visit)
        await visit.gone()

    async with Fake.running(script) as fake:
        with pytest.raises(TimeoutError, match=r"ws://a/ through the proxy 127\S+ did not answer the opening"):
            await portico.connect("ws://a/", proxy=f"http://127.0.0.1:{fake.port}", open_timeout_s=SOON_S)


async def test_a_proxy_that_closes() -> None:
    error = await refused(says(b"HTTP/1.1 20"))
    assert "closed the connection before it had answered" in str(error)
    assert error.status is None


async def test_a_proxy_that_resets_half_way() -> None:
    async def before(visit: Visit) -> None:
        await says(b"HTTP/1.1 2")(visit)
        visit.reset()

    assert "reset" in str(await refused(before))


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_proxy_that_resets_with_the_tunnel_just_opened(scheme: str) -> None:
    async def script(visit: Visit) -> None:
        await says(b"HTTP/1.1 200 OK\r\n\r\n")(visit)
        visit.reset()

    async with Fake.running(script) as fake:
        with pytest.raises(portico.HandshakeError, match=r"the (connection was lost|server closed the connection)"):
            await portico.connect(f"{scheme}://a.example/", proxy=f"http://127.0.0.1:{fake.port}")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"SSH-2.0-x\r\n\r\n", "SSH-2.0-x"),
        (b"HTTP/2 200\r\n\r\n", "HTTP/2 200"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "2000"),
        (b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n", r"\xb2"),
        (b"\r\n\r\n", "no HTTP/1.1"),
        (b"HTTP/1.1 200 OK\n\n", "no HTTP/1.1"),  # a bare LF
        (b"HTTP/1.1 099 OK\r\n\r\n", "no HTTP/1.1"),
        (b"\x00" * 40_000, r"begins with b'\x00"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", "longer than 32768 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\nextra bytes", "b'extra bytes'"),  # it could pretend to be the server
    ],
)
async def test_what_is_no_answer_to_connect_is_shown(data: bytes, said: str) -> None:
    error = await refused(says(data))
    assert said in str(error)
    assert error.status is None
    assert len(str(error)) < 350


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"x", b"HTTP/1.1 2x", b"HTTP/2 200 OK\r\n", b"\x15\x03\x01", b"HTTP/1.1 200 OK\nX: y"],
)
async def test_what_can_not_become_http_is_known_at_once(data: bytes) -> None:
    """Though the proxy stays, and says no more: nobody waits for the deadline."""

    async def script(visit: Visit) -> None:
        await says(data)(visit)
        await visit.gone()

    error = await refused(script)
    assert "no HTTP/1.1: it begins with" in str(error)


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"])
async def test_interim_answers_are_skipped(interim: bytes, size: int) -> None:  # RFC 9110 §15.2
    async def script(visit: Visit) -> None:
        await visit.head()
        data = interim * 3 + b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n"
        for at in range(0, len(data), size):
            visit.send(data[at : at + size])
            await visit.writer.drain()
        await visit.closed()

    async with Fake.running(script) as fake:
        await (await portico.connect("ws://a.example/", proxy=f"http://127.0.0.1:{fake.port}")).close()


async def test_interim_answers_have_an_end() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        while not visit.reader.at_eof():
            visit.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
            await visit.writer.drain()

    assert "longer than 32768 bytes" in str(await refused(script))


async def test_nobody_asked_a_proxy_to_switch() -> None:  # RFC 9110 §7.8
    error = await refused(says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"))
    assert error.status == 101


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"Content-Length: 5\r\n\r\nsorry, and more", b"sorry"),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nsorry\r\n1\r\n!\r\n0\r\n\r\n", b"sorry!"),
        (b"Connection: close\r\n\r\nto the end", b"to the end"),
        (b"Content-Length: 100\r\n\r\ncut", b"cut"),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nsorry\r\nzz", b"sorry"),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nx", b""),  # RFC 9112 §6.1: nobody knows
        (b"\r\n" + b"x" * 100_000, b"x" * 65_536),
        (b"\r\n", b""),
    ],
)
async def test_the_body_of_a_proxys_refusal(answer: bytes, body: bytes) -> None:
    error = await refused(says(b"HTTP/1.1 403 Forbidden\r\nX-Why: policy\r\n" + answer))
    assert (error.status, error.body) == (403, body)
    assert ("x-why", "policy") in error.headers


async def test_the_body_of_a_proxys_refusal_has_until_the_deadline() -> None:
    async def script(visit: Visit) -> None:
        await says(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 100\r\n\r\nwait")(visit)
        await visit.gone()

    async with Fake.running(script) as fake:
        with pytest.raises(portico.HandshakeError) as caught:
            await portico.connect("ws://a/", proxy=f"http://127.0.0.1:{fake.port}", open_timeout_s=SOON_S)
    assert (caught.value.status, caught.value.body) == (503, b"wait")
    assert ("retry-after", "7") in caught.value.headers


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_proxys_redirect_is_not_followed(scheme: str) -> None:
    """What it says is not the server's word: it could lead anywhere, past the verification of the server's name."""
    async with Fake.running(Visit.closed) as elsewhere:
        location = b"Location: ws://127.0.0.1:%d/\r\n" % elsewhere.port
        error = await refused(says(b"HTTP/1.1 302 Found\r\n" + location + b"\r\n"), f"{scheme}://a.example/")
    assert error.status == 302
    assert elsewhere.count == 0


async def test_a_proxy_that_is_not_there() -> None:
    async with Fake.running(Visit.head) as fake:
        port = fake.port
    with pytest.raises(ConnectionRefusedError, match=f"the proxy: no TCP connection to 127.0.0.1 port {port}"):
        await portico.connect("ws://a.example/", proxy=f"http://127.0.0.1:{port}")
    with pytest.raises(OSError, match=r"the proxy: no address for 'nowhere\.invalid'"):
        await portico.connect("ws://a.example/", proxy="http://nowhere.invalid:1")


@pytest.mark.parametrize("after", range(6))
async def test_cancelling_while_the_proxy_is_silent_leaves_nothing(after: int) -> None:
    async with Fake.running(Visit.gone) as fake:
        task = asyncio.ensure_future(portico.connect("ws://a.example/", proxy=f"http://127.0.0.1:{fake.port}"))
        while not fake.count:
            await asyncio.sleep(0)
        for _ in range(after):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# -- which proxy -------------------------------------------------------------------------------------------------------


async def went_through(monkeypatch: pytest.MonkeyPatch, uri: str, **options: Any) -> str | None:
    """The name of the variable whose proxy was asked; None where none was. ``PROXY`` in `options` is the variables'."""
    environment = options.pop("environment")
    named: dict[int, str] = {}
    async with (
        Fake.running(says(b"HTTP/1.1 418 Proxy\r\n\r\n")) as one,
        Fake.running(says(b"HTTP/1.1 418 Proxy\r\n\r\n")) as two,
        Fake.running(says(b"HTTP/1.1 200 Direct\r\nContent-Length: 0\r\n\r\n")) as direct,
    ):
        fakes = iter((one, two))
        for name, value in environment.items():
            if value == "HERE":
                fake = next(fakes)
                named[fake.port] = name
                value = f"http://127.0.0.1:{fake.port}"
            monkeypatch.setenv(name, value)
        if options.get("proxy") == "HERE":
            options["proxy"] = f"http://127.0.0.1:{one.port}"
            named[one.port] = "argument"
        with pytest.raises(portico.HandshakeError) as caught:
            await portico.connect(uri.replace("PORT", str(direct.port)), **options)
    if caught.value.status == 200:
        return None
    return next(named[fake.port] for fake in (one, two) if fake.count)


@pytest.mark.parametrize(
    ("uri", "environment", "expected"),
    [
        ("wss://a.example/", {"HTTPS_PROXY": "HERE"}, "HTTPS_PROXY"),
        ("wss://a.example/", {"https_proxy": "HERE"}, "https_proxy"),
        ("wss://a.example/", {"HTTP_PROXY": "x://", "HTTPS_PROXY": "HERE"}, "HTTPS_PROXY"),
        ("wss://a.example/", {"WSS_PROXY": "HERE", "HTTPS_PROXY": "HERE"}, "WSS_PROXY"),
        ("ws://a.example/", {"HTTP_PROXY": "HERE"}, "HTTP_PROXY"),
        # RFC 6455 §4.1: "prefer the proxy configured for HTTPS connections over the proxy for HTTP"
        ("ws://a.example/", {"HTTP_PROXY": "HERE", "HTTPS_PROXY": "HERE"}, "HTTPS_PROXY"),
        ("ws://a.example/", {"WS_PROXY": "HERE", "HTTPS_PROXY": "HERE"}, "WS_PROXY"),
        ("ws://a.example/", {"HTTP_PROXY": "HERE", "NO_PROXY": "b.example"}, "HTTP_PROXY"),
        ("ws://127.0.0.1:PORT/", {"HTTP_PROXY": "HERE", "NO_PROXY": "127.0.0.1"}, None),
        ("ws://127.0.0.1:PORT/", {"HTTP_PROXY": "HERE", "no_proxy": "a.example, 127.0.0.1"}, None),
        ("ws://localhost:PORT/", {"HTTPS_PROXY": "HERE", "NO_PROXY": "*"}, None),
        ("ws://127.0.0.1:PORT/", {"HTTP_PROXY": "HERE", "NO_PROXY": "127.0.0.1:1"}, "HTTP_PROXY"),
        ("ws://127.0.0.1:PORT/", {"HTTP_PROXY": ""}, None),
        ("ws://127.0.0.1:PORT/", {"HTTP_PROXY": "HERE", "REQUEST_METHOD": "GET"}, None),  # "httpoxy", CVE-2016-5385
        ("ws://127.0.0.1:PORT/", {}, None),
    ],
)
async def test_the_environment_names_it(
    uri: str, environment: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await went_through(monkeypatch, uri, environment=environment) == expected


@pytest.mark.parametrize("no", [None, False])
async def test_none_ignores_the_environment(no: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"HTTP_PROXY": "HERE", "HTTPS_PROXY": "HERE"}
    assert await went_through(monkeypatch, "ws://127.0.0.1:PORT/", environment=environment, proxy=no) is None


async def test_an_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"HTTPS_PROXY": "x://", "NO_PROXY": "*"}
    assert await went_through(monkeypatch, "ws://a.example/", environment=environment, proxy="HERE") == "argument"


@pytest.mark.parametrize("value", [f"socks5://u:{SECRET}@a", f"http://u:{SECRET}@a:x"])
async def test_what_is_wrong_in_the_environment_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(portico.LocalError, match="HTTPS_PROXY in the environment") as caught:
        await portico.connect("wss://a.example/")
    assert SECRET not in str(caught.value)
    assert os.environ["HTTPS_PROXY"] == value
