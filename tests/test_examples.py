"""Each program of ``examples/`` runs as it stands, and its page does in Chromium what it promises."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import httpx
import pytest
import pytest_asyncio
import websockets
from playwright.async_api import Browser, BrowserContext, Page, Route, expect
from tests.browser import PATIENCE_MS, overhear
from tests.node import MODULES
from tests.support import GUARD_S, free_port

import portico

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NAMES = sorted(folder.name for folder in EXAMPLES.iterdir() if (folder / "app.py").exists())
CLIENT = MODULES / "socket.io-client/dist/socket.io.esm.min.js"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser that has what the pages load from elsewhere: the official client, out of its package."""
    if not CLIENT.exists():
        pytest.fail("the tests need npm's socket.io-client: run make test, or npm ci in tests/interop/node")

    async with await browser.new_context() as context:
        await share(context)
        yield context


async def share(context: BrowserContext) -> None:
    """Let pages of a context have the official client."""

    async def client(route: Route) -> None:
        await route.fulfill(
            body=CLIENT.read_bytes(), content_type="text/javascript", headers={"access-control-allow-origin": "*"}
        )

    context.set_default_timeout(PATIENCE_MS)
    await context.route("https://cdn.socket.io/**", client)


class Relay:
    """A way to a server that can be cut: each connection is passed on, until then."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rsplit(":", 1)[1].strip("/"))
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = True

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    def cut(self) -> None:
        """All connections break, and new ones are, too."""
        self._open = False
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """From now on connections are passed on again."""
        self._open = True

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        onwards, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, back}
        await asyncio.gather(self._copy(reader, back), self._copy(onwards, writer))
        self._writers -= {writer, back}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def started(name: str) -> AsyncIterator[str]:
    """Run an example as a process; its address. It stops on SIGINT, without a complaint."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name / "app.py"),
        env={**os.environ, "PORT": str(port)},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(3 * GUARD_S), httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{port}/"
            while not await answers(client, url):
                assert process.returncode is None, await process.stderr.read() if process.stderr else None
        yield url
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        _, said = await asyncio.wait_for(process.communicate(), GUARD_S)
    assert (process.returncode, said) == (0, b"")


async def answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False


async def opened(context: BrowserContext, url: str, complaints: list[str]) -> Page:
    page = await context.new_page()
    overhear(page, complaints)
    await page.goto(url)
    return page


@pytest.mark.parametrize("name", NAMES)
async def test_an_example_is_short_and_the_page_names_it(name: str) -> None:
    assert len((EXAMPLES / name / "app.py").read_text(encoding="utf-8").splitlines()) < 60
    for page in (EXAMPLES / "README.md", ROOT / "README.md"):
        assert f"examples/{name}/app.py" in page.read_text(encoding="utf-8")


async def test_echo(context: BrowserContext) -> None:
    complaints: list[str] = []
    async with started("echo") as url:
        first = await opened(context, url, complaints)
        second = await opened(context, url, complaints)
        for page in (first, second):
            await expect(page.locator("#state")).to_have_text("Connected.")
        for text, button in (("<b>mine</b>", "Echo"), ("ours", "Everybody")):
            await first.get_by_label("Message").fill(text)
            await first.get_by_role("button", name=button).click()
        await expect(first.get_by_text("echo: <b>mine</b>")).to_have_count(1)
        for page in (first, second):
            await expect(page.get_by_text("everybody: ours")).to_have_count(1)
        await expect(second.get_by_text("mine")).to_have_count(0)
        async with websockets.connect(url.replace("http", "ws") + "echo") as ws:
            await ws.send(b"\x00\xff")
            assert await ws.recv() == b"\x00\xff"
        assert complaints == []


async def test_value(context: BrowserContext) -> None:
    complaints: list[str] = []
    async with started("value") as url:
        page = await opened(context, url, complaints)
        for row in ("polling", "long-polling", "server-sent-events", "websocket"):
            await expect(page.locator(f"#{row} .value")).not_to_be_empty()
        for row in ("server-sent-events", "websocket"):
            await expect(page.locator(f"#{row} td").last).to_have_text("1")
        await expect(page.locator("#long-polling td").last).not_to_have_text("1")
        assert complaints == []


async def test_chat(browser: Browser, context: BrowserContext) -> None:
    complaints: list[str] = []  # not looked at: a browser complains of a connection that is cut
    async with started("chat") as url, Relay(url) as relay:
        ada = await opened(context, url, complaints)
        bob = await opened(context, relay.url, complaints)
        for page, name in ((ada, "Ada"), (bob, "Bob")):
            await expect(page.locator("#state")).to_have_text("Connected.")
            await page.get_by_label("Name").fill(name)
            await page.get_by_role("button", name="Enter").click()
        for page in (ada, bob):
            await expect(page.locator("#people")).to_have_text("Here: Ada, Bob")
        await ada.get_by_label("Message").fill("<i>hello</i>")
        await expect(bob.locator("#typing")).to_have_text("Ada is typing…")
        await ada.get_by_role("button", name="Send").click()
        await expect(bob.locator("#messages li")).to_have_text(["Ada<i>hello</i>"])
        async with await browser.new_context() as elsewhere:
            await share(elsewhere)
            relay.cut()
            await expect(bob.locator("#state")).to_have_text("Connection lost. Coming back…")
            late = await opened(elsewhere, url, complaints)
            await late.get_by_label("Name").fill("Eve")
            await late.get_by_role("button", name="Enter").click()
            await expect(late.locator("#messages li")).to_have_text(["Ada<i>hello</i>"])
            await late.get_by_label("Message").fill("while you were away")
            await late.get_by_role("button", name="Send").click()
            await expect(late.locator("#messages li")).to_have_count(2)
            relay.mend()
            await expect(bob.locator("#state")).to_have_text("Reconnected, nothing missed.")
            await expect(bob.locator("#messages li")).to_have_text(["Ada<i>hello</i>", "Evewhile you were away"])


async def test_dashboard(context: BrowserContext) -> None:
    complaints: list[str] = []
    async with started("dashboard") as url:
        first = await opened(context, url, complaints)
        await expect(first.locator("#state")).to_have_text("Live.")
        await first.get_by_label("Item").fill("<b>tea</b>")
        await first.get_by_label("Count").fill("3")
        await first.get_by_role("button", name="Order").click()
        await expect(first.locator("#orders li")).to_have_text(["<b>tea</b>: 3"])
        second = await opened(context, url, complaints)  # later: it has what was before
        await expect(second.locator("#orders li")).to_have_text(["<b>tea</b>: 3"])
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/orders", json={"item": "cake", "count": 1})).json() == {"orders": 2}
            assert (await client.post("/orders", json={"item": "cake", "count": 0})).status_code == 422
            assert (await client.get("/docs")).status_code == 200
        for page in (first, second):
            await expect(page.locator("#orders li")).to_have_text(["cake: 1", "<b>tea</b>: 3"])
        assert complaints == []


async def test_tickets(context: BrowserContext) -> None:
    complaints: list[str] = []
    async with started("tickets") as url:
        page = await opened(context, url, complaints)
        await page.get_by_label("Name").fill("ada")
        await page.get_by_label("Password").fill("wrong")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.locator("#state")).to_have_text("Wrong name or password.")
        await page.get_by_label("Password").fill("engine")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.locator("#state")).to_have_text("You are ada.")
        async with httpx.AsyncClient(base_url=url) as client:
            login = {"name": "ada", "password": "engine"}
            ticket = (await client.post("/ticket", json=login)).json()["ticket"]
        assert await joined(url, {"ticket": ticket})
        assert not await joined(url, {"ticket": ticket})  # it is good for once
        assert not await joined(url, {})


async def joined(url: str, auth: dict[str, str]) -> bool:
    """Whether a client that shows this is let in."""
    try:
        async with portico.RealtimeClient(url, auth=auth):
            return True
    except portico.ConnectError:
        return False
