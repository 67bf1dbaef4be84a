"""ASGI's extensions over real sockets: trailers, early hints, TLS, and what a scope says of them.

Files as bodies are in `test_http_files`.
"""

from __future__ import annotations

import pathlib
import ssl
import subprocess
from typing import Any

import h11
import httpx
import pytest
from tests.support import Logged, Peer, get, pages, respond, serving, until

import portico

START = "http.response.start"
BODY = "http.response.body"
TRAILERS = "http.response.trailers"
HINT = "http.response.early_hint"


def sending(*messages: dict[str, Any]) -> Any:
    """An application that sends these."""

    @pages
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def start(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"type": START, "status": 200, "headers": list(headers), **more}


def body(piece: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": BODY, "body": piece, "more_body": more}


def trailers(*fields: tuple[bytes, bytes], more: bool = False) -> dict[str, Any]:
    return {"type": TRAILERS, "headers": list(fields), "more_trailers": more}


async def read_by_h11(peer: Peer, method: str = "GET") -> tuple[list[int], list[Any], bytes, list[Any]]:
    """The next response as h11 reads it, strictly: the statuses, the headers, the body and the trailers."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    parser.send(h11.EndOfMessage())
    statuses: list[int] = []
    headers: list[Any] = []
    content = b""
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(await peer.reader.read(1 << 16))
        elif isinstance(event, (h11.InformationalResponse, h11.Response)):
            statuses.append(event.status_code)
            headers = list(event.headers)
        elif isinstance(event, h11.Data):
            content += event.data
        else:
            assert isinstance(event, h11.EndOfMessage)
            return statuses, headers, content, list(event.headers)


class TestTrailers:
    """RFC 9110 §6.5, RFC 9112 §7.1.2; ASGI's ``http.response.trailers``."""

    WHOLE = (start(trailers=True), body(b"one", True), body(b"two"), trailers((b"x-sum", b"42"), (b"x-more", b"1")))

    async def test_who_reads_them_gets_them(self) -> None:
        async with serving(sending(*self.WHOLE)) as server, await Peer.connect(server) as peer:
            for _ in range(2):  # and the connection goes on
                peer.send(get(TE="trailers", Connection="TE"))
                read = await read_by_h11(peer)
                assert read[2:] == (b"onetwo", [(b"x-sum", b"42"), (b"x-more", b"1")])

    @pytest.mark.parametrize("te", ["deflate, Trailers", "trailers,gzip;q=0.5"])
    async def test_named_among_others(self, te: str) -> None:
        async with serving(sending(*self.WHOLE)) as server, await Peer.connect(server) as peer:
            peer.send(get(TE=te, Connection="TE"))
            assert (await read_by_h11(peer))[3] == [(b"x-sum", b"42"), (b"x-more", b"1")]

    @pytest.mark.parametrize("headers", [{}, {"TE": "gzip"}, {"TE": "nontrailers"}])
    async def test_others_get_none(self, headers: dict[str, str]) -> None:
        """RFC 9110 §6.5.1: not without the client's word; and the application notices nothing."""
        async with serving(sending(*self.WHOLE)) as server, await Peer.connect(server) as peer:
            for _ in range(2):
                peer.send(get(**headers))
                assert (await read_by_h11(peer))[2:] == (b"onetwo", [])

    async def test_http_1_0_gets_none(self) -> None:
        async with serving(sending(*self.WHOLE)) as server, await Peer.connect(server) as peer:
            peer.send(get(version="1.0", TE="trailers"))
            answer = await peer.answer()
            assert (answer.body, answer.header("transfer-encoding")) == (b"onetwo", None)

    async def test_head_gets_none(self) -> None:
        async with serving(sending(*self.WHOLE)) as server, await Peer.connect(server) as peer:
            for _ in range(2):
                peer.send(get(method="HEAD", TE="trailers"))
                assert (await peer.answer("HEAD")).status == 200

    async def test_a_body_with_a_length_has_none(self) -> None:
        """They need chunks."""
        app = sending(start((b"content-length", b"3"), trailers=True), body(b"one"), trailers((b"x-sum", b"42")))
        async with serving(app) as server, await Peer.connect(server) as peer:
            for _ in range(2):
                peer.send(get(TE="trailers"))
                answer = await peer.answer()
                assert (answer.body, answer.header("content-length")) == (b"one", "3")

    async def test_one_piece_and_trailers_are_chunked(self) -> None:
        app = sending(start(trailers=True), body(b"one"), trailers((b"x-sum", b"42")))
        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get(TE="trailers"))
            assert (await read_by_h11(peer))[2:] == (b"one", [(b"x-sum", b"42")])

    async def test_without_a_body(self) -> None:
        app = sending(start(trailers=True), body(b""), trailers((b"x-sum", b"42")))
        async with serving(app) as server, await Peer.connect(server) as peer:
            for _ in range(2):
                peer.send(get(TE="trailers"))
                assert (await read_by_h11(peer))[2:] == (b"", [(b"x-sum", b"42")])

    async def test_in_several_messages(self) -> None:
        app = sending(
            start(trailers=True), body(b"one"), trailers((b"x-a", b"1"), more=True), trailers(more=True), trailers()
        )
        async with serving(app) as server, await Peer.connect(server) as peer:
            for _ in range(2):
                peer.send(get(TE="trailers"))
                assert (await read_by_h11(peer))[3] == [(b"x-a", b"1")]

    @pytest.mark.parametrize(
        "field",
        [
            (b"Content-Length", b"3"),
            (b"transfer-encoding", b"chunked"),
            (b"host", b"a"),
            (b"x-split", b"1\r\n\r\nHTTP/1.1 200 OK"),
            (b"x split", b"1"),
        ],
    )
    async def test_fields_that_may_not_be_there(self, field: tuple[bytes, bytes], logged: Logged) -> None:
        """RFC 9110 §6.5.1; the response is cut, and nothing of the field is written."""
        app = sending(start(trailers=True), body(b"one"), trailers(field))
        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get(TE="trailers"))
            came = await peer.to_end()
            assert not came.endswith(b"0\r\n\r\n")
            assert came.count(b"HTTP/1.1") <= 1
            await until(lambda: logged.records)
        assert isinstance(logged.take().exc_info[1], portico.LocalError)  # type: ignore[index]

    @pytest.mark.parametrize(
        "messages",
        [
            (start(), body(b"one", True), trailers((b"x-sum", b"42"))),
            (start(), body(b"one"), trailers((b"x-sum", b"42"))),
        ],
        ids=["in the body", "after it"],
    )
    async def test_unannounced_ones_are_refused(self, messages: Any, logged: Logged) -> None:
        async with serving(sending(*messages)) as server, await Peer.connect(server) as peer:
            peer.send(get(TE="trailers"))
            await until(lambda: logged.records)
        assert "'trailers': True" in str(logged.take().exc_info[1])  # type: ignore[index]

    @pytest.mark.parametrize("te", ["trailers", "gzip"])
    @pytest.mark.parametrize(
        "messages",
        [
            (start(trailers=True), body(b"one", True), trailers((b"x-sum", b"42")), body(b"two")),
            (start(trailers=True), trailers((b"x-sum", b"42")), body(b"two")),
            (start(trailers=True), body(b"one"), body(b"two"), trailers((b"x-sum", b"42"))),
        ],
        ids=["in the body", "before it", "and the body goes on"],
    )
    async def test_at_the_wrong_time(self, messages: Any, te: str, logged: Logged) -> None:
        """What came first would be read as a part of the other."""
        async with serving(sending(*messages)) as server, await Peer.connect(server) as peer:
            peer.send(get(TE=te))
            await until(lambda: logged.records)
        assert isinstance(logged.take().exc_info[1], portico.LocalError)  # type: ignore[index]

    async def test_promised_and_not_given(self, logged: Logged) -> None:
        """The response is not whole: it is cut."""
        app = sending(start(trailers=True), body(b"one"))
        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get(TE="trailers"))
            assert not (await peer.to_end()).endswith(b"0\r\n\r\n")
            await until(lambda: logged.records)
        logged.take("without a whole response")


class TestEarlyHints:
    """RFC 8297; ASGI's ``http.response.early_hint``."""

    LINKS = (b"</a.css>; rel=preload; as=style", b"</b.js>; rel=preload")

    def app(self, *hints: Any) -> Any:
        return sending(*({"type": HINT, "links": links} for links in hints), start(), body(b"page"))

    async def test_before_the_response(self) -> None:
        async with serving(self.app(self.LINKS)) as server, await Peer.connect(server) as peer:
            for _ in range(2):
                peer.send(get())
                hint = await peer.head()
                assert (hint.status, hint.reason) == (103, "Early Hints")
                assert hint.headers == [("link", link.decode()) for link in self.LINKS]
                assert (await peer.answer()).body == b"page"

    async def test_several(self) -> None:
        async with serving(self.app(self.LINKS[:1], [], self.LINKS[1:])) as server:
            async with await Peer.connect(server) as peer:
                peer.send(get())
                assert (await read_by_h11(peer))[0] == [103, 103, 200]
            async with httpx.AsyncClient() as client:
                assert (await client.get(f"http://127.0.0.1:{server.port}/")).text == "page"

    async def test_it_is_not_held_back(self) -> None:
        """It comes while the application still works."""

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": HINT, "links": self.LINKS})
            await receive()
            await receive()

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get())
            assert (await peer.head()).status == 103

    async def test_http_1_0_gets_none(self) -> None:
        """RFC 9110 §15.2: no 1xx to a client of HTTP/1.0."""
        async with serving(self.app(self.LINKS)) as server, await Peer.connect(server) as peer:
            peer.send(get(version="1.0"))
            assert (await peer.answer()).status == 200

    async def test_before_100_continue(self) -> None:
        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": HINT, "links": self.LINKS})
            await respond(send, (await receive())["body"])

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get(method="POST", Content_Length="5", Expect="100-continue"))
            assert [(await peer.head()).status for _ in range(2)] == [103, 100]
            peer.send(b"12345")
            assert (await peer.answer()).body == b"12345"

    async def test_after_the_start_it_is_refused(self, logged: Logged) -> None:
        app = sending(start(), {"type": HINT, "links": self.LINKS}, body(b"page"))
        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get())
            await peer.refused(500)
        assert "before http.response.start" in str(logged.take().exc_info[1])  # type: ignore[index]

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    async def test_one_that_would_split_the_response(self, version: str, logged: Logged) -> None:
        async with serving(self.app([b"</a>\r\nSet-Cookie: a=1"])) as server, await Peer.connect(server) as peer:
            peer.send(get(version=version))
            assert (await peer.refused(500)).header("set-cookie") is None
        assert isinstance(logged.take().exc_info[1], portico.LocalError)  # type: ignore[index]


def scopes_of(seen: list[Any]) -> portico.App:
    """An application that keeps its scopes, of both kinds."""

    async def site(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"].update(number=1, shared=[])
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        seen.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await respond(send)

    app = portico.App()
    app.mount("/", site)
    return app


class TestScopes:
    ALL = (HINT, "http.response.pathsend", TRAILERS, "http.response.zerocopysend")

    async def test_extensions_are_advertised(self) -> None:
        seen: list[Any] = []
        async with serving(scopes_of(seen)) as server, await Peer.connect(server) as peer:
            peer.send(get())
            await peer.answer()
            async with await Peer.connect(server) as other:
                other.send(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n")
                other.send(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
                await other.refused(403)
        assert seen[0]["extensions"] == {name: {} for name in self.ALL}
        assert seen[1]["extensions"] == {"websocket.http.response": {}}

    async def test_what_one_request_changes_is_its_own(self) -> None:
        """Its state (ASGI §Lifespan State), its extensions, the scope itself: shallow copies."""
        seen: list[Any] = []
        async with serving(scopes_of(seen)) as server, await Peer.connect(server) as peer:
            for number in range(3):
                peer.send(get())
                await peer.answer()
                scope = seen[number]
                assert (scope["state"]["number"], scope["client"][0]) == (1, "127.0.0.1")
                scope["state"]["shared"].append(number)
                scope["state"]["number"] = 99
                scope["extensions"].clear()
                scope["client"] = None
                scope["x"] = 1
        assert [("x" in scope) for scope in seen] == [True] * 3
        assert seen[2]["state"]["shared"] == [0, 1, 2]  # what is in it is shared


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An authority with a certificate for localhost, and one for a client whose name needs escapes."""
    where = tmp_path_factory.mktemp("keys")
    new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    usage = "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign"

    leaf = "-addext basicConstraints=critical,CA:FALSE"

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True)

    openssl(*f"req -x509 {new} {usage} -subj /CN=authority -keyout {where}/ca.key -out {where}/ca.pem".split())
    for name, subject, also in (
        ("server", "/CN=localhost", "subjectAltName=DNS:localhost"),
        ("client", "/C=CH/O=Doors, Inc./OU= left/CN=Anna+emailAddress=a@b.ch", "subjectAltName=DNS:client"),
    ):
        signed = f"-CA {where}/ca.pem -CAkey {where}/ca.key -keyout {where}/{name}.key -out {where}/{name}.pem"
        openssl(*f"req -x509 {new} {signed} {leaf} -addext {also}".split(), "-multivalue-rdn", "-subj", subject)
    return where


def tls_of_server(keys: pathlib.Path, verify: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(keys / "ca.pem"))
    context.load_cert_chain(keys / "server.pem", keys / "server.key")
    context.verify_mode = verify
    return context


def tls_of_client(keys: pathlib.Path, certificate: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
    if certificate:
        context.load_cert_chain(keys / "client.pem", keys / "client.key")
    return context


class TestTls:
    """ASGI's ``tls`` extension."""

    async def scope(self, keys: pathlib.Path, verify: ssl.VerifyMode, client: ssl.SSLContext) -> dict[str, Any]:
        seen: list[Any] = []
        async with (
            serving(scopes_of(seen), ssl=tls_of_server(keys, verify)) as server,
            await Peer.connect(server, tls=client) as peer,
        ):
            for _ in range(2):
                peer.send(get())
                await peer.answer()
        assert seen[0]["extensions"]["tls"] == seen[1]["extensions"]["tls"]
        assert seen[0]["scheme"] == "https"
        assert set(seen[0]["extensions"]) == {*TestScopes.ALL, "tls"}
        told: dict[str, Any] = seen[0]["extensions"]["tls"]
        return told

    async def test_without_a_clients_certificate(self, keys: pathlib.Path) -> None:
        told = await self.scope(keys, ssl.CERT_NONE, tls_of_client(keys, False))
        assert told == {
            "server_cert": None,
            "client_cert_chain": [],
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": 0x0304,
            "cipher_suite": told["cipher_suite"],
        }
        assert told["cipher_suite"] in (0x1301, 0x1302, 0x1303)  # RFC 8446 §B.4

    async def test_with_one(self, keys: pathlib.Path) -> None:
        """The name as in RFC 4514: the last part first, what is special escaped."""
        told = await self.scope(keys, ssl.CERT_REQUIRED, tls_of_client(keys, True))
        [pem] = told["client_cert_chain"]
        assert pem.strip().splitlines()[0] == "-----BEGIN CERTIFICATE-----"
        assert ssl.PEM_cert_to_DER_cert(pem) == ssl.PEM_cert_to_DER_cert((keys / "client.pem").read_text())
        parts = told["client_cert_name"].split(",", 1)
        assert sorted(parts[0].split("+"))[0] == "CN=Anna"
        assert parts[1] == r"OU=\ left,O=Doors\, Inc.,C=CH"
        assert told["client_cert_error"] is None

    async def test_an_older_version(self, keys: pathlib.Path) -> None:
        client = tls_of_client(keys, False)
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        told = await self.scope(keys, ssl.CERT_OPTIONAL, client)
        assert (told["tls_version"], told["cipher_suite"]) == (0x0303, 0xC02B)
