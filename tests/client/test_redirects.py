"""3xx answers (RFC 6455 §4.1, item 1 of the answer; RFC 9110 §15.4): where they lead, and what does not go along."""

from __future__ import annotations

import pathlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.client.fakes import Certificates, Fake, Visit, switching

import portico
from portico.client.attempt import verifying

SECRETS = {
    "Authorization": "Bearer s3cr3t",
    "Cookie": "id=s3cr3t",
    "Proxy-Authorization": "Basic s3cr3t",
    "X-Kept": "1",
}


class Site:
    """A server of which each path answers with a status and a Location, or accepts; it counts."""

    def __init__(self, **answers: tuple[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.heads: list[str] = []

    async def __call__(self, visit: Visit) -> None:
        head = (await visit.head()).decode()
        path = head.split(" ")[1]
        self.asked.append(path)
        self.heads.append(head)
        if path in self.answers:
            status, location = self.answers[path]
            visit.send(f"HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode("latin-1"))
            return
        visit.send(switching(visit.field("sec-websocket-key") or "") + b"\x88\x02\x03\xe8")
        await visit.reader.readexactly(8)  # the answer to that


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
async def fake(site: Site) -> AsyncIterator[Fake]:
    async with Fake.running(site) as fake:
        yield fake


@pytest.fixture
def trusted(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system's authority is ours."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    verifying.cache_clear()
    yield
    verifying.cache_clear()


async def connect(uri: str, **options: Any) -> None:
    await (await portico.connect(uri, **options)).close()


async def not_followed(uri: str, **options: Any) -> portico.HandshakeError:
    with pytest.raises(portico.HandshakeError) as caught:
        await portico.connect(uri, **options)
    return caught.value


@pytest.mark.parametrize(
    "status", ["300 Multiple Choices", "301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
async def test_every_redirect_is_followed(status: str, site: Site, fake: Fake) -> None:
    site.answers["/a"] = (status, "/b?c=d")
    await connect(f"ws://127.0.0.1:{fake.port}/a")
    assert site.asked == ["/a", "/b?c=d"]


@pytest.mark.parametrize(
    "body", ["Content-Length: 100\r\n\r\nsee th", "Transfer-Encoding: chunked\r\n\r\n", "Connection: close\r\n\r\n"]
)
async def test_a_redirect_is_followed_without_its_body(body: str) -> None:
    """Which nobody wants: it may hang, and the turn to connect (RFC 6455 §4.1, item 2) is not kept for it."""

    async def script(visit: Visit) -> None:
        if fake.count == 1:
            await visit.head()
            visit.send(f"HTTP/1.1 302 Found\r\nLocation: /there\r\n{body}".encode())
            await visit.gone()
        else:
            await visit.closed()

    async with Fake.running(script) as fake:
        ws = await portico.connect(f"ws://127.0.0.1:{fake.port}/", open_timeout_s=60)  # the guard of Fake is sooner
        await ws.close()
    assert ws.request.path == "/there"


async def test_of_a_redirect_that_is_not_followed_the_body_is_read() -> None:
    async with Fake.running(lambda visit: visit.answer("302 Found", "Location: ftp://h/", body=b"over there")) as fake:
        error = await not_followed(f"ws://127.0.0.1:{fake.port}/")
    assert (error.status, error.body) == (302, b"over there")


@pytest.mark.parametrize("status", ["304 Not Modified", "305 Use Proxy", "306 ", "200 OK"])
async def test_other_answers_are_not(status: str, site: Site, fake: Fake) -> None:
    site.answers["/a"] = (status, "/b")
    error = await not_followed(f"ws://127.0.0.1:{fake.port}/a")
    assert error.status == int(status[:3])
    assert site.asked == ["/a"]


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/x/y", "/x/y"),
        ("c", "/a/c"),
        ("../c", "/c"),
        ("?q=1", "/a/b?q=1"),
        ("", "/a/b"),
        ("./c?d#e", "/a/c?d"),  # a fragment does not reach the server
        ("//localhost:PORT/z", "/z"),
        ("http://127.0.0.1:PORT/z", "/z"),
        ("HTTP://127.0.0.1:PORT/z", "/z"),
        ("ws://127.0.0.1:PORT/z#top", "/z"),
        ("ws://127.0.0.1:PORT", "/"),
    ],
)
async def test_a_location_may_be_relative(location: str, path: str, site: Site, fake: Fake) -> None:
    """RFC 9110 §10.2.2, RFC 3986 §5."""
    site.answers["/a/b"] = ("302 Found", location.replace("PORT", str(fake.port)))
    if path == "/a/b":
        error = await not_followed(f"ws://127.0.0.1:{fake.port}/a/b")
        assert "more than 10 redirects" in str(error)
    else:
        await connect(f"ws://127.0.0.1:{fake.port}/a/b")
        assert site.asked == ["/a/b", path]


async def test_a_chain_of_ten_is_followed_and_no_longer_one(site: Site, fake: Fake) -> None:
    for number in range(11):
        site.answers[f"/{number}"] = ("307 Temporary", f"/{number + 1}")
    await connect(f"ws://127.0.0.1:{fake.port}/1")
    assert len(site.asked) == 11
    error = await not_followed(f"ws://127.0.0.1:{fake.port}/0")
    assert "more than 10 redirects" in str(error)
    assert "/11" in str(error)
    assert error.status == 307
    assert len(site.asked) == 22


async def test_a_loop_ends(site: Site, fake: Fake) -> None:
    site.answers["/"] = ("302 Found", "/")
    error = await not_followed(f"ws://127.0.0.1:{fake.port}/")
    assert "more than 10 redirects" in str(error)
    assert len(site.asked) == 11


async def test_credentials_stay_with_their_origin(site: Site, fake: Fake) -> None:  # RFC 9110 §15.4
    other = Site()
    async with Fake.running(other) as elsewhere:
        site.answers["/a"] = ("302 Found", "/b")
        site.answers["/b"] = ("302 Found", f"ws://127.0.0.1:{elsewhere.port}/c")
        other.answers["/c"] = ("302 Found", f"ws://127.0.0.1:{fake.port}/d")
        await connect(f"ws://127.0.0.1:{fake.port}/a", headers=SECRETS)
    assert site.asked == ["/a", "/b", "/d"]
    assert other.asked == ["/c"]
    for head in site.heads[:2]:
        assert head.count("s3cr3t") == 3
    for head in (*other.heads, site.heads[2]):  # nor do they come back
        assert "s3cr3t" not in head
        assert "X-Kept: 1" in head


async def test_the_uris_credentials_stay_with_their_origin(site: Site, fake: Fake) -> None:
    other = Site()
    async with Fake.running(other) as elsewhere:
        site.answers["/a"] = ("302 Found", f"http://127.0.0.1:{fake.port}/b")
        site.answers["/b"] = ("302 Found", f"http://127.0.0.1:{elsewhere.port}/")
        await connect(f"ws://u:p@127.0.0.1:{fake.port}/a")
    assert [head.count("Authorization: Basic dTpw") for head in (*site.heads, *other.heads)] == [1, 1, 0]


async def test_another_port_or_name_is_another_origin(site: Site, fake: Fake) -> None:
    site.answers["/a"] = ("302 Found", f"ws://localhost:{fake.port}/b")
    await connect(f"ws://127.0.0.1:{fake.port}/a", headers=SECRETS)
    assert ["s3cr3t" in head for head in site.heads] == [True, False]


async def test_wss_is_never_left_for_ws(site: Site, fake: Fake, certificates: Certificates) -> None:
    secure = Site(**{"/http": ("302 Found", f"http://127.0.0.1:{fake.port}/x")})
    secure.answers["/ws"] = ("302 Found", f"ws://127.0.0.1:{fake.port}/x")
    context = certificates.client()
    async with Fake.running(secure, tls=certificates.server(certificates.signed())) as tls:
        for path in secure.answers:
            error = await not_followed(f"wss://localhost:{tls.port}{path}", ssl=context)
            assert "not encrypted" in str(error)
            assert f"ws://127.0.0.1:{fake.port}/x" in str(error)
            assert error.status == 302
    assert site.asked == []


@pytest.mark.usefixtures("trusted")
async def test_ws_may_lead_to_wss_but_without_credentials(site: Site, fake: Fake, certificates: Certificates) -> None:
    secure = Site()
    async with Fake.running(secure, tls=certificates.server(certificates.signed())) as tls:
        site.answers["/a"] = ("301 Moved", f"https://localhost:{tls.port}/b")
        await connect(f"ws://localhost:{fake.port}/a", headers=SECRETS)
    assert secure.asked == ["/b"]
    assert "s3cr3t" not in secure.heads[0]


@pytest.mark.usefixtures("trusted")
async def test_a_certificate_is_verified_after_a_redirect_too(
    site: Site, fake: Fake, certificates: Certificates
) -> None:
    async with Fake.running(Site(), tls=certificates.server(certificates.signed("elsewhere.example"))) as tls:
        site.answers["/a"] = ("301 Moved", f"https://localhost:{tls.port}/b")
        with pytest.raises(ssl.SSLCertVerificationError):
            await portico.connect(f"ws://localhost:{fake.port}/a")


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("ftp://127.0.0.1/", "got 'ftp'"),
        ("http://[bad/", "redirected to what is no WebSocket's address"),
        ("ws://127.0.0.1:99999/", "1 to 65535"),
        ("javascript:alert(1)", "javascript"),
        ("ws://u:s3cr3t@127.0.0.1:0/", "1 to 65535"),
        ("/a b", "percent-encoded"),
    ],
)
async def test_a_place_that_is_none_is_named(location: str, said: str, site: Site, fake: Fake) -> None:
    site.answers["/a"] = ("302 Found", location)
    error = await not_followed(f"ws://127.0.0.1:{fake.port}/a")
    assert said in str(error)
    assert "s3cr3t" not in str(error)
    assert error.status == 302


async def test_a_location_in_raw_utf_8(site: Site, fake: Fake) -> None:
    """No URI has such bytes (RFC 3986 §2), many servers send them, and browsers read them so."""
    site.answers["/a"] = ("302 Found", "/gr\u00fc\u00df".encode().decode("latin-1"))
    await connect(f"ws://127.0.0.1:{fake.port}/a")
    assert site.asked == ["/a", "/gr%C3%BC%C3%9F"]


async def test_no_location_or_two() -> None:
    async with Fake.running(lambda visit: visit.answer("302 Found")) as fake:
        assert "answered 302 Found, expected 101" in str(await not_followed(f"ws://127.0.0.1:{fake.port}/a"))
    async with Fake.running(lambda visit: visit.answer("302 Found", "Location: /b", "Location: /c")) as fake:
        assert "2 places" in str(await not_followed(f"ws://127.0.0.1:{fake.port}/a"))


async def test_a_connected_socket_leads_nowhere_else(site: Site, fake: Fake) -> None:
    site.answers["/a"] = ("302 Found", "/b")
    error = await not_followed("ws://a.example/a", sock=socket.create_connection(("127.0.0.1", fake.port)))
    assert "sock= can be used once" in str(error)
    assert "ws://a.example/b" in str(error)


async def test_a_unix_socket_leads_only_to_its_own_origin(tmp_path: pathlib.Path, site: Site) -> None:
    path = str(tmp_path / "s")
    site.answers["/a"] = ("302 Found", "/b")
    site.answers["/c"] = ("302 Found", "http://127.0.0.1:1/")
    async with Fake.running(site, uds=path):
        await connect("ws://a.example/a", uds=path)
        error = await not_followed("ws://a.example/c", uds=path)
    assert "not behind uds=" in str(error)
    assert site.asked == ["/a", "/b", "/c"]
