"""The demo's page in a real browser, served by the real server: what `portico demo` promises to show.

Chromium is taken from ``PORTICO_CHROMIUM`` or the path. Each test runs server and browser in one event loop, and waits
for conditions, never for time.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest

playwright = pytest.importorskip("playwright.async_api")
portico = pytest.importorskip("portico")
demo = pytest.importorskip("portico.demo")

CHROMIUM = os.environ.get("PORTICO_CHROMIUM") or shutil.which("chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
OPEN_SOCKETS = "tr[data-protocol=websocket]:not(.gone)"
PATIENCE_MS = 15_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it or set PORTICO_CHROMIUM")
expect = playwright.expect


@dataclass
class Tabs:
    """A browser on the demo's page: `open` opens one more tab; `complaints` are errors from any of their consoles."""

    context: playwright.BrowserContext
    port: int
    complaints: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def open(self) -> playwright.Page:
        page = await self.context.new_page()
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("response", lambda got: self.complaints.append(f"{got.status} {got.url}") if not got.ok else None)
        await page.goto(self.url)
        await expect(page.locator("tr[data-you]:not(.gone)")).to_have_count(1)
        return page


@asynccontextmanager
async def browser_on_demo() -> AsyncIterator[Tabs]:
    expect.set_options(timeout=PATIENCE_MS)
    async with (
        demo.running("127.0.0.1", 0) as server,
        playwright.async_playwright() as play,
        await play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS) as browser,
    ):
        context = await browser.new_context()
        context.set_default_timeout(PATIENCE_MS)
        yield Tabs(context, server.addresses[0][1])


def in_browser(test: Callable[[Tabs], Awaitable[None]]) -> None:
    async def run() -> None:
        async with browser_on_demo() as tabs:
            await test(tabs)

    asyncio.run(run())


async def say(page: playwright.Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Send").click()


def test_each_tab_sees_the_connections_of_both() -> None:
    async def check(tabs: Tabs) -> None:
        first = await tabs.open()
        second = await tabs.open()
        for page in (first, second):
            sockets = page.locator(OPEN_SOCKETS)
            await expect(sockets).to_have_count(2)
            await expect(sockets.filter(has_text="you")).to_have_count(1)
            await expect(page.locator("#count-websocket")).to_have_text("2")
            await expect(page.locator("tr[data-protocol='http/1.1']:not(.gone)")).not_to_have_count(0)
        own = await first.locator("tr[data-you] .c-peer .port").inner_text()
        await expect(second.locator("tr:not([data-you]) .c-peer .port", has_text=own)).to_have_count(1)
        await expect(first.locator("[data-five=peer-port]")).to_have_text(own)
        await expect(first.locator("[data-five=local-port]")).to_have_text(str(tabs.port))
        assert tabs.complaints == []

    in_browser(check)


def test_a_connection_that_ends_leaves_the_list() -> None:
    async def check(tabs: Tabs) -> None:
        first = await tabs.open()
        second = await tabs.open()
        await expect(first.locator(OPEN_SOCKETS)).to_have_count(2)
        await second.close()
        await expect(first.locator(OPEN_SOCKETS)).to_have_count(1)
        await expect(first.locator("#count-websocket")).to_have_text("1")

    in_browser(check)


def test_a_message_reaches_the_other_tab_as_text_and_never_as_markup() -> None:
    async def check(tabs: Tabs) -> None:
        first = await tabs.open()
        second = await tabs.open()
        markup = "<img src=x onerror=\"document.title='broken'\"> hello"
        await first.get_by_label("Name", exact=True).fill("<b>Ada</b>")
        await say(first, markup)
        await expect(second.locator("#messages .what")).to_have_text(markup)
        await expect(second.locator("#messages .who b").first).to_have_text("<b>Ada</b>")
        await expect(second.locator("#messages img")).to_have_count(0)
        await expect(first.locator("#say-note")).to_have_text("Delivered to 1 other.")
        await expect(first.locator("#messages .mine .what")).to_have_text(markup)
        await expect(second.locator("tr:not([data-you]) .tag", has_text="<b>Ada</b>")).to_have_count(1)
        assert tabs.complaints == []

    in_browser(check)


def test_plain_http_goes_on_being_answered_while_sockets_stay_open() -> None:
    async def check(tabs: Tabs) -> None:
        first = await tabs.open()
        await tabs.open()
        await expect(first.locator(OPEN_SOCKETS)).to_have_count(2)
        own = await first.locator("tr[data-you]").get_attribute("data-id")
        await first.get_by_role("button", name="100 requests now").click()
        await expect(first.locator("#burst-note")).to_contain_text("100 answered in")
        await expect(first.locator("#burst-note")).to_contain_text("2 WebSockets stayed open.")
        before = int(await first.locator("#http-answered").inner_text())
        assert before >= 100
        await expect(first.locator("#http-answered")).not_to_have_text(str(before))
        assert int(await first.locator("#http-answered").inner_text()) > before
        await expect(first.locator(f"tr[data-you][data-id='{own}']:not(.gone)")).to_have_count(1)
        await expect(first.locator(OPEN_SOCKETS)).to_have_count(2)
        assert tabs.complaints == []

    in_browser(check)


def test_nonsense_is_answered_to_its_sender_alone() -> None:
    """A raw socket opened in the page, since the page itself never sends anything wrong."""

    async def check(tabs: Tabs) -> None:
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

    in_browser(check)


def test_a_flood_goes_nowhere_and_is_told_so_only_now_and_then() -> None:
    async def check(tabs: Tabs) -> None:
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

    in_browser(check)


def test_the_page_reconnects_and_says_so_meanwhile() -> None:
    async def run() -> None:
        expect.set_options(timeout=PATIENCE_MS)
        async with (
            playwright.async_playwright() as play,
            await play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS) as browser,
        ):
            async with demo.running("127.0.0.1", 0) as server:
                tabs = Tabs(await browser.new_context(), server.addresses[0][1])
                page = await tabs.open()
                await expect(page.locator("#status-text")).to_have_text("Live")
            await expect(page.locator("#status-text")).to_contain_text("Reconnecting…")
            async with demo.running("127.0.0.1", tabs.port):
                await expect(page.locator("#status-text")).to_have_text("Live")
                await expect(page.locator("tr[data-you]:not(.gone)")).to_have_count(1)

    asyncio.run(run())


def test_the_page_asks_nothing_of_any_other_host() -> None:
    async def check(tabs: Tabs) -> None:
        asked: list[str] = []
        tabs.context.on("request", lambda request: asked.append(request.url))
        await tabs.open()
        assert asked
        assert [url for url in asked if not url.startswith((tabs.url, "data:"))] == []

    in_browser(check)
