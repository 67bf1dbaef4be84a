"""Connecting: who may come in, namespaces, the ends that either side makes, TLS and a proxy on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.client.fakes import Certificates
from tests.client.squid import Squid, running
from tests.realtime.client_peers import (  # noqa: F401
    BOTH,
    SOON,
    WAYS,
    Got,
    Server,
    certificates,
    client_of,
    no_proxy,
    node,
    nothing_left,
)
from tests.support import GUARD_S, until

import portico

pytestmark = pytest.mark.usefixtures("no_proxy", "nothing_left")


@pytest.fixture(scope="module")
def squid() -> Iterator[Squid]:
    with running() as proxy:
        yield proxy


async def waited(client: portico.RealtimeClient) -> str:
    async with asyncio.timeout(GUARD_S):
        return await client.wait()


# -- auth --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("way", WAYS)
async def test_a_refusal_is_a_typed_error_with_its_data(kind: str, way: str) -> None:
    async with Server.running(kind) as server:
        client = client_of(server, way, auth={"token": "no"})
        got = Got(client, "connect_error", "connect")
        with pytest.raises(portico.ConnectError, match="not you") as caught:
            await client.connect()
        assert (caught.value.message, caught.value.data, caught.value.namespace) == ("not you", {"code": 7}, "/")
        assert got.all() == [("connect_error", caught.value)]
        assert not client.connected
        await client.connect(auth={"token": "yes"})
        assert (await server.said("connect"))[0] == {"token": "yes"}
        await client.close()


async def test_a_function_is_asked_for_auth_anew_before_each_attempt() -> None:
    asked = 0

    async def auth() -> dict[str, int]:
        nonlocal asked
        asked += 1
        return {"turn": asked}

    async with node() as server:
        client = client_of(server, "websocket", auth=auth)  # between two polls, a cut would end nothing
        got = Got(client, "connect")
        async with client:
            for turn in (1, 2, 3):
                await got.next()
                assert (await server.said("connect"))[0] == {"turn": turn}
                server.tell("cut")
                await server.said("disconnect")


async def test_what_auth_raises_is_raised_by_connect() -> None:
    def auth() -> dict[str, str]:
        raise LookupError("no token")

    async with node() as server:
        with pytest.raises(LookupError, match="no token"):
            await client_of(server, auth=auth).connect()


async def test_what_auth_returns_has_to_be_a_dict() -> None:
    async with node() as server:
        with pytest.raises(portico.LocalError, match="expected a dict or None, got str"):
            await client_of(server, auth=lambda: "token").connect()


# -- namespaces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("way", WAYS)
async def test_namespaces_share_a_connection_and_nothing_else(kind: str, way: str) -> None:
    async with Server.running(kind) as server:
        client = client_of(server, way, auth={"token": "user"})
        admin = client.of("/admin", auth={"token": "admin"})
        assert client.of("/admin") is admin
        got, got_admin = Got(client, "echo"), Got(admin, "echo")
        async with client:
            assert client.connected
            assert admin.connected
            client.emit("echo", "user")
            admin.emit("echo", "admin", b"\x01")
            assert await got.next() == ("echo", "user")
            assert await got_admin.next() == ("echo", "admin", b"\x01")
            assert await admin.call("give", 1) == 1
            await admin.disconnect()
            assert not admin.connected
            assert await client.call("give", 2) == 2
            await admin.connect()
            assert await admin.call("give", 3) == 3


async def test_a_namespace_can_be_connected_later() -> None:
    async with node() as server, client_of(server) as client:
        admin = client.of("/admin", auth={"token": "wrong"})
        with pytest.raises(portico.ConnectError, match="admins only") as caught:
            await admin.connect()
        assert caught.value.namespace == "/admin"
        client.of("/admin", auth={"token": "admin"})
        await admin.connect()
        assert await admin.call("give", 1) == 1


async def test_the_client_itself_can_be_another_namespace_than_the_first() -> None:
    async with node() as server:
        client = client_of(server, namespace="/admin", auth={"token": "admin"})
        async with client:
            assert await client.call("give", 1) == 1


async def test_a_namespace_that_the_server_does_not_have_is_refused() -> None:
    async with node() as server:
        client = client_of(server)
        client.of("/nowhere")
        with pytest.raises(portico.ConnectError, match="Invalid namespace"):
            await client.connect()


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("way", WAYS)
async def test_a_server_that_disconnects_us_is_not_come_back_to(kind: str, way: str) -> None:
    async with Server.running(kind) as server:
        client = client_of(server, way)
        got = Got(client, "disconnect")
        await client.connect()
        client.emit("kick")
        assert await waited(client) == "io server disconnect"
        assert got.all() == [("disconnect", "io server disconnect")]
        await client.connect()
        assert await client.call("give", 1) == 1
        await client.close()


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("way", WAYS)
async def test_what_was_emitted_before_the_end_arrives(kind: str, way: str) -> None:
    async with Server.running(kind) as server:
        client = client_of(server, way)
        got = Got(client, "disconnect")
        async with client:
            for n in range(50):
                client.emit("say", n)
        assert [(await server.said("say"))[0] for _ in range(50)] == list(range(50))
        assert (await server.said("disconnect"))[0] == "client namespace disconnect" or kind == "python"
        assert got.all() == [("disconnect", "io client disconnect")]


async def test_closing_twice_or_before_connecting_is_harmless() -> None:
    async with node() as server:
        client = client_of(server)
        await client.close()
        await client.connect()
        await client.close()
        await client.close()


async def test_a_handler_may_close_the_client() -> None:
    async with node() as server:
        client = client_of(server)

        @client.on("echo")
        async def echo() -> None:
            await client.close()

        await client.connect()
        client.emit("echo")
        assert await waited(client) == "io client disconnect"


async def test_a_cancelled_connect_leaves_nothing() -> None:
    async with node() as server:
        client = client_of(server)
        connecting = asyncio.create_task(client.connect())
        await until(lambda: client._link.running)
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        assert not client._link.running


async def test_a_second_connect_is_refused() -> None:
    async with node() as server, client_of(server) as client:
        with pytest.raises(portico.LocalError, match="connected or on its way"):
            await client.connect()


async def test_calls_end_when_the_client_does() -> None:
    async with node() as server:
        async with client_of(server) as client:
            call = asyncio.create_task(client.call("silent"))
            await until(lambda: client._calls)
        with pytest.raises(portico.Disconnected, match="before the acknowledgement") as caught:
            await call
        assert caught.value.reason == "io client disconnect"


# -- on the way --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_https_is_verified(way: str, certificates: Certificates) -> None:  # noqa: F811
    pem = certificates.signed()
    async with node(tls=str(pem)) as server:
        url = f"https://localhost:{server.port}"
        with pytest.raises(OSError, match="certificate verify failed"):
            await portico.RealtimeClient(url, transports=WAYS[way]).connect(retry=True)
        client = portico.RealtimeClient(url, transports=WAYS[way], ssl=certificates.client())
        got = Got(client, "echo")
        async with client:
            client.emit("echo", b"x" * 300_000, "y" * 300_000)
            assert await got.next() == ("echo", b"x" * 300_000, "y" * 300_000)


@pytest.mark.parametrize("way", WAYS)
async def test_a_proxy_is_asked_for_a_tunnel(way: str, squid: Squid) -> None:
    async with node() as server:
        client = client_of(server, way, proxy=f"http://127.0.0.1:{squid.open}")
        async with client:
            assert await client.call("give", 1) == 1


async def test_headers_a_query_and_cookies_go_with_every_request() -> None:
    async with node(options={"cookie": True}) as server:
        client = portico.RealtimeClient(f"{server.url}?room=a%20b", headers={"Cookie": "mine=1"}, backoff=SOON)
        async with client:
            query = (await server.said("connect"))[2]
            assert query["room"] == "a b"
            await until(lambda: client.transport == "websocket")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"url": "ftp://x"}, "expected a scheme of http://"),
        ({"url": "http://x/chat"}, r"Set path= to where the server answers .* client.of\("),
        ({"url": 5}, "expected a str"),
        ({"transports": ["smoke"]}, "transports="),
        ({"transports": ["websocket", "polling"]}, "begins with polling"),
        ({"transports": "polling"}, "transports="),
        ({"path": "socket.io"}, "path="),
        ({"namespace": "admin"}, "begins with /"),
        ({"auth": "token"}, "auth=: expected a dict"),
        ({"max_outbox_bytes": 0}, "max_outbox_bytes=0"),
        ({"backoff": 1}, "backoff=1"),
        ({"headers": {"a b": "c"}}, "header name"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_argument_is_refused_at_once(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(portico.LocalError, match=expected):
        portico.RealtimeClient(**({"url": "http://127.0.0.1"} | options))


async def test_a_namespace_whose_auth_fails_is_not_connected_and_may_be_tried_again() -> None:
    answers: list[Any] = [LookupError("no token"), {"token": "admin"}]

    def auth() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with node() as server, client_of(server) as client:
        admin = client.of("/admin", auth=auth)
        with pytest.raises(LookupError, match="no token"):
            await admin.connect()
        await admin.connect()
        assert admin.connected


async def test_handlers_that_do_not_end_are_cancelled_after_their_grace() -> None:
    async with node() as server:
        client = client_of(server, limits=portico.Limits(handler_grace_s=0.05))
        begun = asyncio.Event()
        ended: list[str] = []

        @client.on("echo")
        async def echo() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

        async with asyncio.timeout(GUARD_S), client:
            client.emit("echo")
            await begun.wait()
        assert ended == ["cancelled"]
