"""Behind a trusted proxy: client, scheme and host, the same for HTTP, for WebSockets and for the origin check."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import pathlib
import socket
from typing import Any, ClassVar

import pytest
from tests.support import Peer, get, respond, serving, upgrade

import portico

CLIENT = "203.0.113.7"
FORGED = "198.51.100.66"
HERE = "127.0.0.1"


class Site:
    """An application and a handler that tell whom they see."""

    def __init__(self) -> None:
        self.requests: list[portico.Request] = []
        self.app = portico.App()
        self.app.websocket("/ws", self.handler)
        self.app.mount("/", self.asgi)

    async def handler(self, ws: portico.WebSocket) -> None:
        self.requests.append(ws.request)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen = {name: scope[name] for name in ("client", "scheme", "server")}
            await respond(send, json.dumps(seen).encode())
        elif scope["type"] == "websocket":
            self.requests.append(portico.Request(b"", scope["client"], scope["server"], scope["scheme"]))
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close"})


async def both(headers: dict[str, str], **options: Any) -> tuple[Any, str, str | None]:
    """Client, scheme and host of a request with these headers; that they are the same in every way in is checked."""
    site = Site()
    async with serving(site.app, **options) as server:
        async with await Peer.connect(server) as peer:
            peer.send(get("/", **headers))
            seen = json.loads((await peer.answer()).text)
        for path in ("/ws", "/asgi"):
            async with await Peer.connect(server) as peer:
                await peer.open(path, host="here.example", **headers)
    own, other = site.requests
    http = tuple(seen["client"])
    own_client = own.client if own.client is None or own.client[0] != HERE else (HERE, http[1])
    assert own_client == http, "as the ports differ where nobody is told of, only the hosts are compared"
    assert other.client is not None
    assert other.client[0] == http[0]
    assert own.scheme == other.scheme == {"http": "ws", "https": "wss"}[seen["scheme"]]
    return http, seen["scheme"], own.host


class TestTrust:
    @pytest.mark.parametrize("trusted", [HERE, [HERE], ["10.0.0.1", "127.0.0.0/8"], "*"])
    async def test_who_is_trusted_is_believed(self, trusted: Any) -> None:
        headers = {"x_forwarded_for": CLIENT, "x_forwarded_proto": "https", "x_forwarded_host": "example.org"}
        assert await both(headers, trusted_proxies=trusted) == ((CLIENT, 0), "https", "example.org")

    @pytest.mark.parametrize("trusted", [(), ["10.0.0.0/8"], ["unix"], ["::1"]])
    async def test_who_is_not_is_not(self, trusted: Any) -> None:
        headers = {"x_forwarded_for": CLIENT, "x_forwarded_proto": "https", "x_forwarded_host": "example.org"}
        client, scheme, host = await both(headers, trusted_proxies=trusted)
        assert (client[0], scheme, host) == (HERE, "http", "here.example")

    async def test_what_a_client_makes_up_never_wins(self) -> None:
        """The proxy adds to the right of what came."""
        headers = {"x_forwarded_for": f"{FORGED}, {HERE}, {CLIENT}", "x_forwarded_proto": "http, https"}
        client, scheme, _ = await both(headers, trusted_proxies=[HERE])
        assert (client, scheme) == ((CLIENT, 0), "https")

    async def test_a_proxy_that_says_nothing(self) -> None:
        client, scheme, host = await both({}, trusted_proxies=[HERE])
        assert (client[0], scheme, host) == (HERE, "http", "here.example")

    async def test_on_a_unix_socket(self, tmp_path: pathlib.Path) -> None:
        for trusted, expected in ((["unix"], [CLIENT, 0]), ([HERE], None)):
            path = str(tmp_path / "s")
            async with portico.serve(Site().app, uds=path, trusted_proxies=trusted):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(path)
                sock.setblocking(False)
                async with Peer(*await asyncio.open_connection(sock=sock)) as peer:
                    peer.send(get("/", x_forwarded_for=CLIENT))
                    assert json.loads((await peer.answer()).text)["client"] == expected

    async def test_each_request_of_a_connection_has_its_own(self) -> None:
        """Proxies send requests of many clients over one connection."""
        async with serving(Site().app, trusted_proxies=[HERE]) as server, await Peer.connect(server) as peer:
            clients = [f"203.0.113.{number}" for number in range(5)]
            peer.send(b"".join(get("/", x_forwarded_for=client, x_forwarded_proto="https") for client in clients))
            peer.send(get("/"))
            seen = [json.loads((await peer.answer()).text) for _ in range(6)]
            assert [each["client"][0] for each in seen] == [*clients, HERE]
            assert [each["scheme"] for each in seen] == ["https"] * 5 + ["http"]


class TestKinds:
    """Which of the two kinds counts is an option: a proxy that sets one lets the other one pass."""

    BOTH: ClassVar = {
        "x_forwarded_for": CLIENT,
        "x_forwarded_proto": "https",
        "forwarded": f"for={FORGED};host=evil.example",
    }

    async def test_x_forwarded_by_default(self) -> None:
        assert await both(self.BOTH, trusted_proxies=[HERE]) == ((CLIENT, 0), "https", "here.example")

    async def test_forwarded_where_it_is_asked_for(self) -> None:
        seen = await both(self.BOTH, trusted_proxies=[HERE], proxy_headers="forwarded")
        assert seen == ((FORGED, 0), "http", "evil.example")

    @pytest.mark.parametrize("kind", ["x-forwarded", "forwarded"])
    async def test_the_other_one_alone_is_not_read(self, kind: str) -> None:
        other = {"forwarded": f"for={FORGED};proto=https"} if kind == "x-forwarded" else {"x_forwarded_for": FORGED}
        client, scheme, _ = await both(other, trusted_proxies=[HERE], proxy_headers=kind)
        assert (client[0], scheme) == (HERE, "http")


class TestMalformed:
    @pytest.mark.parametrize(
        ("kind", "headers"),
        [
            ("x-forwarded", {"x_forwarded_for": "nonsense", "x_forwarded_proto": "https"}),
            ("x-forwarded", {"x_forwarded_for": CLIENT, "x_forwarded_proto": "gopher"}),
            ("x-forwarded", {"x_forwarded_for": CLIENT, "x_forwarded_host": "a/b"}),
            ("forwarded", {"forwarded": f"for={CLIENT}:80;proto=https"}),
        ],
    )
    async def test_nothing_of_it_counts_and_it_is_said_at_debug(
        self, kind: str, headers: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG, "portico.server"):
            client, scheme, host = await both(headers, trusted_proxies=[HERE], proxy_headers=kind)
        assert (client[0], scheme, host) == (HERE, "http", "here.example")
        said = [record for record in caplog.records if "is ignored" in record.getMessage()]
        assert {record.levelno for record in said} == {logging.DEBUG}
        assert len(said) == 3


class TestOrigin:
    """RFC 6455 §10.2: the page's origin is compared with what the client asked the proxy for."""

    @pytest.mark.parametrize(
        ("origin", "forwarded", "status"),
        [
            ("https://example.org", {"x_forwarded_proto": "https", "x_forwarded_host": "example.org"}, 101),
            ("https://example.org", {"x_forwarded_proto": "wss", "x_forwarded_host": "example.org:443"}, 101),
            ("https://inner.example", {"x_forwarded_proto": "https"}, 101),  # the proxy passes Host on
            ("http://example.org", {"x_forwarded_proto": "https", "x_forwarded_host": "example.org"}, 403),
            ("https://inner.example", {"x_forwarded_proto": "https", "x_forwarded_host": "example.org"}, 403),
            ("https://evil.example", {"x_forwarded_proto": "https", "x_forwarded_host": "example.org"}, 403),
            (
                "https://evil.example",
                {"x_forwarded_proto": "https", "x_forwarded_host": "evil.example, example.org"},
                403,
            ),
            ("http://inner.example", {}, 101),
        ],
    )
    @pytest.mark.parametrize("path", ["/ws", "/asgi"])
    async def test_behind_a_trusted_proxy(self, origin: str, forwarded: dict[str, str], status: int, path: str) -> None:
        async with serving(Site().app, trusted_proxies=[HERE]) as server, await Peer.connect(server) as peer:
            peer.send(upgrade(path, origin=origin, host="inner.example", **forwarded))
            answer = await peer.head()
            assert answer.status == status

    async def test_a_client_can_t_choose_its_origin(self) -> None:
        """Where nobody is trusted the headers say nothing."""
        async with serving(Site().app) as server, await Peer.connect(server) as peer:
            forwarded = {"x_forwarded_proto": "https", "x_forwarded_host": "evil.example"}
            peer.send(upgrade("/ws", origin="https://evil.example", host="inner.example", **forwarded))
            await peer.refused(403)


async def test_what_authenticate_sees_and_what_stays_when_the_head_is_forgotten() -> None:
    seen = []
    done = []

    def authenticate(request: portico.Request) -> None:
        seen.append((request.client, request.scheme, request.host))

    async def handler(ws: portico.WebSocket) -> None:
        done.append((ws.request.client, ws.request.scheme, ws.request.host))

    async with (
        serving(handler, trusted_proxies=[HERE], authenticate=authenticate) as server,
        await Peer.connect(server) as peer,
    ):
        await peer.open("/", x_forwarded_for=CLIENT, x_forwarded_proto="https", x_forwarded_host="a.example")
        await peer.closed_with(1000)
    assert seen == done == [((CLIENT, 0), "wss", "a.example")]


async def test_a_cap_for_each_address_does_not_count_a_proxy() -> None:
    """Its connections are those of many clients."""
    limits = portico.Limits(max_connections_per_address=1)
    for trusted, statuses in (([HERE], [200, 200, 200]), ([], [200, 503, 503])):
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(serving(Site().app, limits=limits, trusted_proxies=trusted))
            found = []
            for _ in range(3):
                peer = await stack.enter_async_context(await Peer.connect(server))
                peer.send(get("/"))
                found.append((await peer.answer()).status)
            assert found == statuses


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trusted_proxies": ["localhost"]}, "trusted_proxies: 'localhost': expected an address"),
        ({"trusted_proxies": [10]}, "trusted_proxies: 10: expected an address"),
        ({"proxy_headers": True}, "the one that your proxy sets"),
        ({"proxy_protocol": True}, "proxy_protocol= without trusted_proxies="),
    ],
)
def test_options_that_can_t_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(portico.LocalError, match=said):
        portico.serve(Site().app, **options)
