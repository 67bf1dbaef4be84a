"""nginx and HAProxy before Portico, as `docs/deployment.md` sets them up: they end TLS and speak HTTP to it."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import Callable, Iterator

import httpx
import pytest
from tests.certificates import Tls
from tests.proxies.clients import (
    CLIENT,
    Site,
    check_bodies,
    check_http_and_websocket,
    check_kept_connections,
    http,
    seen,
)
from tests.proxies.running import documented, haproxy, nginx, put
from tests.support import GUARD_S, free_port, serving, until

import portico

HERE = "127.0.0.1"
Start = Callable[..., contextlib.AbstractContextManager[int]]


@pytest.fixture(params=["nginx", "haproxy"])
def start(request: pytest.FixtureRequest, tmp_path: pathlib.Path, tls: Tls) -> Start:
    """Starts a proxy before these addresses of servers, on the port that it gives."""

    @contextlib.contextmanager
    def before(*servers: str) -> Iterator[int]:
        port = free_port()
        if request.param == "nginx":
            block = put(
                documented("nginx", "http"),
                ("server 127.0.0.1:8000;", " ".join(f"server {each};" for each in servers)),
                ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
                ("/etc/ssl/example.org.pem", str(tls.cert)),
                ("/etc/ssl/example.org.key", str(tls.key)),
            )
            with nginx(tmp_path, "http", block, port):
                yield port
        else:
            places = [each.replace("unix:", "unix@") for each in servers]
            lines = "\n".join(f"    server s{index} {each} check" for index, each in enumerate(places))
            text = put(
                documented("haproxy", "http"),
                ("    server one 127.0.0.1:8000 check", lines),
                ("bind :443", f"bind 127.0.0.1:{port}"),
                ("/etc/haproxy/example.org.pem", str(tls.both)),
            )
            with haproxy(tmp_path, text, port):
                yield port

    return before


async def test_http_and_websocket(start: Start, tls: Tls) -> None:
    site = Site()
    async with serving(site.app, trusted_proxies=[HERE]) as server:
        with start(f"{HERE}:{server.port}") as port:
            await check_http_and_websocket(site, tls.client(), port)


async def test_who_is_not_trusted_is_the_client(start: Start, tls: Tls) -> None:
    async with serving(Site().app) as server:
        with start(f"{HERE}:{server.port}") as port:
            async with http(tls.client(), port) as client:
                told = await seen(client)
            assert (told["client"][0], told["scheme"]) == (HERE, "http")


async def test_over_a_unix_socket(start: Start, tls: Tls, tmp_path: pathlib.Path) -> None:
    site = Site()
    path = tmp_path / "portico.sock"
    async with portico.serve(site.app, uds=path, uds_mode=0o666, trusted_proxies="unix"):
        with start(f"unix:{path}") as port:
            await check_http_and_websocket(site, tls.client(), port)
            await check_bodies(tls.client(), port)


async def test_big_bodies(start: Start, tls: Tls) -> None:
    async with serving(Site().app, trusted_proxies=[HERE]) as server:
        with start(f"{HERE}:{server.port}") as port:
            await check_bodies(tls.client(), port)


async def test_connections_are_kept(start: Start, tls: Tls) -> None:
    async with serving(Site().app, trusted_proxies=[HERE]) as server:
        with start(f"{HERE}:{server.port}") as port:
            await check_kept_connections(server, tls.client(), port)


async def test_a_server_that_stops_under_load_costs_no_request(start: Start, tls: Tls) -> None:
    """One of two: what it was asked is answered, what was on its way to it goes to the other one."""
    one, two = Site(), Site()
    statuses: list[int] = []
    stopped = asyncio.Event()

    async def load(client: httpx.AsyncClient) -> None:
        while not stopped.is_set():
            statuses.append((await client.get("/")).status_code)

    async with serving(two.app, trusted_proxies=[HERE]) as second, serving(one.app, trusted_proxies=[HERE]) as first:
        with start(f"{HERE}:{first.port}", f"{HERE}:{second.port}") as port:
            async with contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(http(tls.client(), port)) for _ in range(8)]
                slow = asyncio.ensure_future(clients[0].get("/slow"))
                async with asyncio.timeout(GUARD_S):  # whichever server got it
                    waits = [asyncio.ensure_future(site.waiting.acquire()) for site in (one, two)]
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
                loads = [asyncio.ensure_future(load(client)) for client in clients[1:]]
                await until(lambda: len(statuses) > 100 and first.accepted and second.accepted)
                closing = asyncio.ensure_future(first.close())
                count = len(statuses)
                await until(lambda: len(statuses) > count + 100)
                one.go.set()
                two.go.set()
                assert (await slow).status_code == 200
                async with asyncio.timeout(GUARD_S):
                    await closing
                count = len(statuses)
                await until(lambda: len(statuses) > count + 100)
                stopped.set()
                await asyncio.gather(*loads)
    assert set(statuses) == {200}


async def test_a_proxy_in_front_of_another(start: Start, tls: Tls, tmp_path: pathlib.Path) -> None:
    """Both are trusted by name; the client is the one before them, and its scheme is that of the outer one."""
    inner = free_port()
    async with serving(Site().app, trusted_proxies=[HERE]) as server:
        block = f"""
            server {{
                listen {HERE}:{inner};
                location / {{
                    proxy_pass http://{HERE}:{server.port};
                    proxy_set_header Host $http_host;
                    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                }}
            }}"""
        (tmp_path / "inner").mkdir()
        with nginx(tmp_path / "inner", "http", block, inner), start(f"{HERE}:{inner}") as port:
            async with http(tls.client(), port) as client:
                told = await seen(client, headers={"X-Forwarded-For": "198.51.100.66"})
            assert (told["client"][0], told["scheme"]) == (CLIENT, "https")
