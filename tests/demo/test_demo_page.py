"""The demo's page in a real browser, served by the real server: what `portico demo` promises to show.

Server and browser run in one event loop; every test waits for conditions, never for time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import websockets
from playwright.async_api import Browser, Page, expect
from tests.demo.conftest import Tabs

from portico import demo

OPEN_SOCKETS = "tr[data-protocol=websocket]:not(.gone)"
OPEN_HTTP = "tr[data-protocol='http/1.1']:not(.gone)"
PAGES_OWN = 2  # WebSockets of a page: its own, and the chat's
VALUES = 1  # of the one tab that shows the value

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_each_tab_sees_the_connections_of_both(tabs: Tabs) -> None:
    first = await tabs.open()
    second = await tabs.open()
    for page in (first, second):
        sockets = page.locator(OPEN_SOCKETS)
        await expect(sockets).to_have_count(2 * PAGES_OWN + VALUES)
        await expect(sockets.and_(page.locator("[data-you]"))).to_have_count(1)
        await expect(sockets.filter(has_text="your chat")).to_have_count(2)
        await expect(page.locator("#count-websocket")).to_have_text("5")
        await expect(page.locator(OPEN_HTTP)).not_to_have_count(0)
        await expect(page.locator("#columns .column.websocket:not(.gone)")).to_have_count(5)
    own = await first.locator("tr[data-you] .c-peer .port").inner_text()
    await expect(second.locator("tr:not([data-you]) .c-peer .port", has_text=own)).to_have_count(1)
    await expect(first.locator("[data-five=peer-port]")).to_have_text(own)
    await expect(first.locator("[data-five=local-port]")).to_have_text(str(tabs.port))
    assert tabs.complaints == []


async def test_a_connection_that_ends_leaves_the_list(tabs: Tabs) -> None:
    first = await tabs.open()
    second = await tabs.open()
    await expect(first.locator(OPEN_SOCKETS)).to_have_count(2 * PAGES_OWN + VALUES)
    await second.close()
    await expect(first.locator(OPEN_SOCKETS)).to_have_count(PAGES_OWN)
    await expect(first.locator("#count-websocket")).to_have_text("2")


async def test_plain_http_goes_on_being_answered_while_sockets_stay_open(tabs: Tabs) -> None:
    first = await tabs.open()
    await tabs.open()
    await expect(first.locator(OPEN_SOCKETS)).to_have_count(2 * PAGES_OWN + VALUES)
    own = await first.locator("tr[data-you]").get_attribute("data-id")
    await first.get_by_role("button", name="100 requests now").click()
    await expect(first.locator("#burst-note")).to_contain_text("100 answered in")
    await expect(first.locator("#burst-note")).to_contain_text("5 WebSockets stayed open.")
    before = int(await first.locator("#http-answered").inner_text())
    assert before >= 100
    await expect(first.locator("#http-answered")).not_to_have_text(str(before))
    assert int(await first.locator("#http-answered").inner_text()) > before
    await expect(first.locator(f"tr[data-you][data-id='{own}']:not(.gone)")).to_have_count(1)
    await expect(first.locator(OPEN_SOCKETS)).to_have_count(2 * PAGES_OWN + VALUES)
    assert tabs.complaints == []


async def test_nonsense_is_answered_to_its_sender_alone(tabs: Tabs) -> None:
    """A raw socket opened in the page, since the page itself never sends anything wrong."""
    page = await tabs.open()
    answers = await page.evaluate(
        """async (wrong) => {
            const ws = new WebSocket(`ws://${location.host}/live`);
            const errors = [];
            await new Promise((done, failed) => {
                ws.onopen = () => wrong.forEach((text) => ws.send(text));
                ws.onclose = failed;
                ws.onmessage = ({ data }) => {
                    const told = JSON.parse(data);
                    if (told.type === "error") errors.push(told.code);
                    if (errors.length === wrong.length) done();
                };
            });
            return errors;
        }""",
        ["hello", '{"type": "dance"}', '{"type": "say", "text": " "}', "[" * 4000, '"' + "x" * 5000 + '"'],
    )
    assert answers == ["not_understood"] * 4 + ["too_long"]
    await expect(page.locator("#say-note")).to_be_empty()
    await expect(page.locator("#messages li")).to_have_count(0)


async def test_a_flood_goes_nowhere_and_is_told_so_only_now_and_then(tabs: Tabs) -> None:
    page = await tabs.open()
    flood = [msgspec.json.encode({"type": "say", "text": f"flood {n}"}).decode() for n in range(100)]
    told = await page.evaluate(
        """async (flood) => {
            const ws = new WebSocket(`ws://${location.host}/live`);
            const told = [];
            await new Promise((done) => {
                ws.onopen = () => flood.forEach((text) => ws.send(text));
                ws.onmessage = ({ data }) => {
                    const { type, code } = JSON.parse(data);
                    if (type === "error") told.push(code);
                    if (type === "snapshot" && told.length) done();
                };
            });
            return told;
        }""",
        flood,
    )
    assert set(told) == {"rate_limited"}
    assert len(told) < 10
    await expect(page.locator("#messages li").first).to_contain_text("flood 0")
    assert await page.locator("#messages li").count() < 50


async def test_the_page_reconnects_and_says_so_meanwhile(browser: Browser) -> None:
    async with await browser.new_context() as context:
        async with demo.running("127.0.0.1", 0) as server:
            tabs = Tabs(context, server.port)
            page = await tabs.open()
            await expect(page.locator("#status-text")).to_have_text("Live")
        await expect(page.locator("#status-text")).to_contain_text("Reconnecting…")
        async with demo.running("127.0.0.1", tabs.port):
            await expect(page.locator("#status-text")).to_have_text("Live")
            await expect(page.locator("tr[data-you]:not(.gone)")).to_have_count(1)
            await page.close()


async def test_the_page_asks_nothing_of_any_other_host(tabs: Tabs) -> None:
    asked: list[str] = []
    tabs.context.on("request", lambda request: asked.append(request.url))
    await tabs.open()
    assert asked
    assert [url for url in asked if not url.startswith((tabs.url, "data:"))] == []


async def test_on_a_phone_nothing_is_wider_than_the_screen_however_many_are_connected(tabs: Tabs) -> None:
    page = await tabs.open()
    await page.set_viewport_size({"width": 390, "height": 844})
    async with AsyncExitStack() as others:
        for _ in range(80):
            await others.enter_async_context(websockets.connect(f"ws://127.0.0.1:{tabs.port}/live"))
        await expect(page.locator("#count-websocket")).to_have_text("83")
        await expect(page.locator("#columns .column.you")).to_have_count(1)
        await expect(page.locator("#columns .column:not(.websocket, .gone)")).not_to_have_count(0)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@asynccontextmanager
async def terminal(page: Page, name: str) -> AsyncIterator[Process]:
    """Run the command that the page shows under `name`, with this Python for ``python``; ended on leaving."""
    command = await page.get_by_label(name).locator(".command").inner_text()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_shell(
        f"exec {command}", stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env={**os.environ, "PATH": path}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def test_a_command_on_the_page_asks_once(tabs: Tabs) -> None:
    page = await tabs.open()
    async with terminal(page, "Ask once, over HTTP") as curl:
        assert curl.stdout is not None
        assert (await curl.stdout.read()).startswith(b"Hello 127.0.0.1:")
        assert await curl.wait() == 0


async def test_a_command_on_the_page_keeps_an_http_connection_alive(tabs: Tabs) -> None:
    page = await tabs.open()
    async with terminal(page, "Ask every second, over one connection that is kept alive") as curl:
        assert curl.stdout is not None
        asked_from = [(await curl.stdout.readline()).split(b",")[0].decode() for _ in range(2)]
        assert len(set(asked_from)) == 1
        port = asked_from[0].rpartition(":")[2]
        row = page.locator(OPEN_HTTP, has_text=port)
        await expect(row).to_have_count(1)
    await expect(row).to_have_count(0)


async def test_a_command_on_the_page_joins_over_websocket_and_writes_to_it(tabs: Tabs) -> None:
    page = await tabs.open()
    said = await page.get_by_label("Then write to this page: type").locator(".command").inner_text()
    async with terminal(page, "Stay, over WebSocket, with the websockets package") as client:
        await expect(page.locator(OPEN_SOCKETS)).to_have_count(PAGES_OWN + VALUES + 1)
        assert client.stdin is not None
        client.stdin.write(said.encode() + b"\n")
        await client.stdin.drain()
        await expect(page.locator("#messages .what")).to_have_text("Hello from a terminal")
    await expect(page.locator(OPEN_SOCKETS)).to_have_count(PAGES_OWN + VALUES)
