"""Django: as it is, and with Channels."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import websockets
from tests.apps import django_project
from tests.apps.hosts import GUARD_S, Host, Site


@pytest.fixture(params=["plain", "with_channels"])
def app(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(django_project, "left", asyncio.Queue())
    return getattr(django_project, request.param)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Django logs each refused request; that is its own affair."""
    logger = logging.getLogger("django")
    logger.addHandler(handler := logging.NullHandler())
    yield
    logger.removeHandler(handler)


class TestHttp:
    async def test_views_sync_and_async(self, host: Host, app: Any) -> None:
        async with host(app) as site:
            for seen in (1, 2):
                answer = await site.http.get("/sync/7?q=%C3%A4")
                url = f"http://127.0.0.1:{site.port}/sync/7?q=%C3%A4"
                assert answer.json() == {"number": 7, "seen": seen, "url": url}
            answer = await site.http.request(
                "PATCH", "/async", headers={"User-Agent": "tests", "Cookie": "csrftoken=x"}
            )
            assert answer.status_code == 403
            assert (await site.http.get("/async", headers={"User-Agent": "tests"})).json()["agent"] == "tests"
            assert (await site.http.head("/sync/7")).content == b""
            assert (await site.http.get("/nowhere")).status_code == 404

    async def test_uploads_and_csrf(self, host: Host, app: Any) -> None:
        content = b"x" * 3_000_000
        async with host(app) as site:
            answer = await site.http.post("/upload", files={"file": ("a.bin", content)}, data={"note": "ü"})
            assert answer.json() == {"name": "a.bin", "size": len(content), "note": "ü"}
            assert (await site.http.post("/protected")).status_code == 403
            assert (await site.http.post("/upload", data={"note": "x" * (2 << 20)})).status_code == 400

    async def test_streams(self, host: Host, app: Any) -> None:
        async with host(app) as site:
            assert (await site.http.get("/stream")).text.split() == [str(number) for number in range(100)]

    @pytest.mark.parametrize(("path", "last"), [("/endless", "closed"), ("/waiting", "cancelled")])
    async def test_a_client_that_leaves_is_seen(self, host: Host, app: Any, path: str, last: str) -> None:
        async with host(app) as site, asyncio.timeout(GUARD_S):
            reader, writer = await site.raw()
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            await (reader.readuntil(b"more") if path == "/endless" else django_project.left.get())
            writer.transport.abort()
            assert await django_project.left.get() == last

    async def test_an_exception_is_500(self, host: Host, app: Any) -> None:
        async with host(app) as site:
            answer = await site.http.get("/broken")
            assert (answer.status_code, "broken" in answer.text) == (500, False)
            assert (await site.http.get("/sync/1")).status_code == 200

    async def test_a_host_that_is_not_allowed_is_400(self, host: Host, app: Any) -> None:
        async with host(app) as site:
            assert (await site.http.get("/sync/1", headers={"Host": "evil.example"})).status_code == 400


class TestChannels:
    async def chat(self, site: Site, room: str) -> websockets.ClientConnection:
        return await site.ws(f"/chat/{room}?name=x", subprotocols=["json"], origin=f"http://127.0.0.1:{site.port}")

    async def test_a_group_hears_everything_and_others_nothing(self, host: Host) -> None:
        async with host(django_project.with_channels) as site, asyncio.timeout(GUARD_S):
            one, two, other = [await self.chat(site, room) for room in ("red", "red", "blue")]
            assert one.subprotocol == "json"
            for number in range(20):
                await one.send(json.dumps({"number": number}))
            for ws in (one, two):
                assert [json.loads(await ws.recv())["number"] for _ in range(20)] == list(range(20))
            await other.send('"mine"')
            assert await other.recv() == '"mine"'
            await two.send('"close"')
            await two.wait_closed()
            assert two.close_code == 4003
            await one.close()
            await other.close()

    async def test_sync_consumers(self, host: Host) -> None:
        async with (
            host(django_project.with_channels) as site,
            site.ws("/echo", origin=f"http://127.0.0.1:{site.port}") as ws,
        ):
            for message in ("text", b"bytes"):
                await ws.send(message)
                assert await ws.recv() == message

    async def test_who_is_refused(self, host: Host) -> None:
        async with host(django_project.with_channels) as site:
            for path, origin in (("/chat/red", None), ("/chat/red?name=x", "http://evil.example")):
                with pytest.raises(websockets.InvalidStatus) as refused:
                    await site.ws(path, origin=origin)
                assert refused.value.response.status_code == 403

    async def test_http_consumers(self, host: Host) -> None:
        async with host(django_project.with_channels) as site:
            answer = await site.http.post("/poll", content=b"and half")
            assert (answer.status_code, answer.text) == (202, "half and half")
