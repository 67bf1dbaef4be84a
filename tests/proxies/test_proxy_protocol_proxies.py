"""nginx and HAProxy before Portico without HTTP: they pass connections on, and the PROXY protocol tells whose."""

from __future__ import annotations

import pathlib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.certificates import Tls
from tests.proxies.clients import CLIENT, FORGED, Site, check_bodies, http, seen, ws
from tests.proxies.running import documented, haproxy, nginx, put
from tests.support import free_port, serving, until

import portico

HERE = "127.0.0.1"
SENDS = {
    "v1": "send-proxy",
    "v2": "send-proxy-v2",
    "v2 with TLS": "send-proxy-v2-ssl-cn",
    "v2 with everything": "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,crc32c,unique-id",
}


@contextmanager
def before(proxy: str, directory: pathlib.Path, server: str, *changes: tuple[str, str]) -> Iterator[int]:
    port = free_port()
    if proxy == "nginx":
        block = put(
            documented("nginx", "stream"),
            ("listen 443", f"listen {HERE}:{port}"),
            ("proxy_pass 127.0.0.1:8000", f"proxy_pass {server}"),
        )
        with nginx(directory, "stream", block, port):
            yield port
    else:
        text = put(
            documented("haproxy", "tcp"),
            ("bind :443", f"bind {HERE}:{port}"),
            ("127.0.0.1:8000", server),
            *changes,
        )
        with haproxy(directory, text, port):
            yield port


async def check(site: Site, tls: ssl.SSLContext, port: int) -> None:
    """The client's own address and port, in HTTP and WebSocket, also where it claims another one."""
    async with http(tls, port) as client:
        told = await seen(client, headers=FORGED)
        assert (told["client"][0], told["scheme"], told["server"]) == (CLIENT, "https", [HERE, port])
        assert told["client"][1] not in (0, port)
    async with ws(tls, port, origin=f"https://localhost:{port}") as connection:
        await connection.send("hello")
        assert await connection.recv() == "hello"
        own = connection.local_address
    request = site.requests.pop()
    assert (request.client, request.scheme, request.server) == (own, "wss", (HERE, port))
    await check_bodies(tls, port)


@pytest.mark.parametrize("unix", [False, True], ids=["TCP", "Unix socket"])
@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
async def test_tls_passed_on(proxy: str, unix: bool, tls: Tls, tmp_path: pathlib.Path) -> None:
    """As the page on deployment has it; nginx speaks version 1, HAProxy version 2."""
    site = Site()
    certificates = portico.Certificates(tls.cert, tls.key)
    path = tmp_path / "portico.sock"
    place = f"unix:{path}" if unix else f"{HERE}:0"
    trusted = "unix" if unix else HERE
    async with portico.serve(
        site.app, bind=place, ssl=certificates, proxy_protocol=True, trusted_proxies=trusted
    ) as server:
        address = (f"unix@{path}" if proxy == "haproxy" else place) if unix else f"{HERE}:{server.port}"
        with before(proxy, tmp_path, address) as port:
            await check(site, tls.client(), port)


@pytest.mark.parametrize("send", SENDS)
async def test_every_form_that_haproxy_knows(send: str, tls: Tls, tmp_path: pathlib.Path) -> None:
    site = Site()
    certificates = portico.Certificates(tls.cert, tls.key)
    async with serving(site.app, ssl=certificates, proxy_protocol=True, trusted_proxies=HERE) as server:
        with before("haproxy", tmp_path, f"{HERE}:{server.port}", ("send-proxy-v2", SENDS[send])) as port:
            await check(site, tls.client(), port)


async def test_a_proxy_that_ends_tls_tells_the_scheme(tls: Tls, tmp_path: pathlib.Path) -> None:
    site = Site()
    async with serving(site.app, proxy_protocol=True, trusted_proxies=HERE) as server:
        port = free_port()
        text = put(
            documented("haproxy", "tcp"),
            ("bind :443", f"bind {HERE}:{port} ssl crt {tls.both}"),
            ("127.0.0.1:8000", f"{HERE}:{server.port}"),
            ("send-proxy-v2", "send-proxy-v2-ssl"),
        )
        with haproxy(tmp_path, text, port):
            await check(site, tls.client(), port)


async def test_health_checks_disturb_nobody(tls: Tls, tmp_path: pathlib.Path) -> None:
    """HAProxy's own connections, which say LOCAL and end: nothing of them is logged."""
    site = Site()
    async with serving(site.app, proxy_protocol=True, trusted_proxies=HERE) as server:
        change = ("check send-proxy-v2", "check inter 20ms send-proxy-v2")
        with before("haproxy", tmp_path, f"{HERE}:{server.port}", change):
            await until(lambda: server.accepted > 3)
            await until(lambda: server.connection_count == 0)
