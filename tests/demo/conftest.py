"""A browser on the demo's page, served by the real server in the tests' own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect
from tests.browser import PATIENCE_MS, overhear

from portico import demo


@dataclass
class Tabs:
    """A browser on the demo's page: `open` opens one more tab; `complaints` are errors from any of their consoles."""

    context: BrowserContext
    port: int
    complaints: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def open(self) -> Page:
        page = await self.context.new_page()
        overhear(page, self.complaints)
        page.on("response", lambda got: self.complaints.append(f"{got.status} {got.url}") if not got.ok else None)
        await page.goto(self.url)
        await expect(page.locator("tr[data-you]:not(.gone)")).to_have_count(1)
        await expect(page.locator("#people .me")).to_have_count(1)
        return page


async def when(page: Page, expression: str) -> Any:
    """What a JavaScript expression is in the page, as soon as that is true: asked in each of the browser's frames."""
    async with asyncio.timeout(PATIENCE_MS / 1000):
        return await page.evaluate(
            f"""() => new Promise((done) => {{
                const look = () => {{
                    const value = {expression};
                    if (value) done(value);
                    else requestAnimationFrame(look);
                }};
                look();
            }})"""
        )


@pytest_asyncio.fixture(loop_scope="module")
async def tabs(browser: Browser) -> AsyncIterator[Tabs]:
    async with demo.running("127.0.0.1", 0) as server, await browser.new_context() as context:
        context.set_default_timeout(PATIENCE_MS)
        yield Tabs(context, server.port)
