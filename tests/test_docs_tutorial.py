"""docs/tutorial.md: each step is written down as it stands, served by the command that it names, and opened in two
windows of a real browser. Tests wait for what a reader would see."""

from __future__ import annotations

import pathlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect
from tests.blocks import Block, blocks, changed, write
from tests.browser import PATIENCE_MS, overhear
from tests.cli.command import serving
from tests.node import MODULES

PAGE = "tutorial.md"
LIBRARY = MODULES / "socket.io-client/dist/socket.io.min.js"

pytestmark = pytest.mark.asyncio(loop_scope="module")


def upto(step: int) -> list[Block]:
    """The blocks of all steps until this one."""
    return [block for block in blocks(PAGE) if int(block.section.partition(".")[0]) <= step]


def command(step: int) -> list[str]:
    """What a step says to start, on a free port."""
    text = [block.text for block in upto(step) if block.language == "console" and "portico serve" in block.text][-1]
    [started] = re.findall(r"^\$ portico (serve .*)$", text, re.MULTILINE)
    return [*started.split(), "--port", "0"]


@asynccontextmanager
async def step(number: int, folder: pathlib.Path, browser: Browser, page: str) -> AsyncIterator[list[Page]]:
    """A step as it stands there, in two windows; and no window complains of anything."""
    write(folder, upto(number))
    if number > 2:
        assert LIBRARY.exists(), "the tests need npm's socket.io-client: run make test"
        (folder / "page/socket.io.min.js").write_bytes(LIBRARY.read_bytes())
    complaints: list[str] = []
    async with serving(folder, *command(number)) as running:
        contexts = [await browser.new_context(), await browser.new_context()]
        try:
            yield [await window(context, running.url + page, complaints) for context in contexts]
        finally:
            for context in contexts:
                await context.close()
    assert complaints == []


async def window(context: BrowserContext, url: str, complaints: list[str]) -> Page:
    context.set_default_timeout(PATIENCE_MS)
    await context.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    page = await context.new_page()
    overhear(page, complaints)
    await page.goto(url)
    return page


async def enter(page: Page, name: str, room: str = "kitchen") -> None:
    await page.locator("#name").fill(name)
    await page.locator("#room").select_option(room)
    await page.get_by_role("button", name="Enter").click()
    await expect(page.locator("#status")).to_have_text(f"You are in the {room}.")


async def say(page: Page, text: str) -> None:
    await page.locator("#text").fill(text)
    await page.get_by_role("button", name="Say").click()


async def test_a_value_changes_in_every_browser(tmp_path: pathlib.Path, browser: Browser) -> None:
    async with step(2, tmp_path, browser, "live.html") as pages:
        seen = "new MutationObserver(() => seen.push(price.textContent)).observe(price, { childList: true })"
        for page in pages:
            await expect(page.locator("#price")).to_have_text(re.compile(r"^\d+(\.\d+)?$"))
            await page.evaluate(f"() => {{ window.seen = []; {seen}; }}")
        for page in pages:
            await page.wait_for_function("seen.length >= 3")
        one, other = [await page.evaluate("seen") for page in pages]
    assert len(set(one) & set(other)) >= 2


async def test_a_chat_has_rooms(tmp_path: pathlib.Path, browser: Browser) -> None:
    async with step(3, tmp_path, browser, "chat.html") as (ann, bob):
        await say(ann, "is anybody there?")
        await expect(ann.locator("#status")).to_have_text("enter a room first")
        await enter(ann, "Ann")
        await enter(bob, "Bob", "garden")
        await say(ann, "hello?")
        await expect(ann.locator("#said li")).to_have_text(["Ann: hello?"])
        await enter(bob, "Bob")
        await say(ann, "<b>hello</b> Bob")
        await expect(bob.locator("#said li")).to_have_text(["Ann: <b>hello</b> Bob"])
        for wrong in ("'cellar', 'Ann'", "'kitchen', 7", "'kitchen'"):
            answer = await ann.evaluate(f"socket.emitWithAck('enter', {wrong})")
            assert answer["error"].startswith(("argument", "expected")), answer


async def test_it_shows_who_is_there(tmp_path: pathlib.Path, browser: Browser) -> None:
    async with step(4, tmp_path, browser, "chat.html") as (ann, bob):
        await enter(ann, "Ann")
        await expect(ann.locator("#people")).to_have_text("Ann")
        await enter(bob, "Bob")
        for page in (ann, bob):
            await expect(page.locator("#people")).to_have_text("Ann, Bob")
        await enter(bob, "Bob", "garden")
        await expect(ann.locator("#people")).to_have_text("Ann")
        await expect(bob.locator("#people")).to_have_text("Bob")


async def test_it_comes_back_and_has_missed_nothing(tmp_path: pathlib.Path, browser: Browser) -> None:
    async with step(5, tmp_path, browser, "chat.html") as (ann, bob):
        await enter(ann, "Ann")
        await enter(bob, "Bob")
        await say(ann, "before")
        await expect(bob.locator("#said li")).to_have_text(["Ann: before"])
        await bob.evaluate("void socket.io.engine.close()")
        await say(ann, "meanwhile")
        await expect(bob.locator("#status")).to_have_text("You are back, and have missed nothing.")
        await expect(bob.locator("#said li")).to_have_text(["Ann: before", "Ann: meanwhile"])
        await say(bob, "and on")
        await expect(ann.locator("#said li")).to_have_text(["Ann: before", "Ann: meanwhile", "Bob: and on"])
        await ann.reload()
        await enter(ann, "Ann")
        await expect(ann.locator("#said li")).to_have_text(["Ann: before", "Ann: meanwhile", "Bob: and on"])


@pytest.mark.asyncio(loop_scope="function")
async def test_every_block_is_run() -> None:
    """What is no file of a step is the installation and the commands that start them."""
    rest = [block for block in blocks(PAGE) if not block.file]
    assert {block.language for block in rest} == {"console"}
    lines = [line for block in rest for line in block.text.splitlines()]
    known = re.compile(r"\$ (mkdir|python3 -m venv|(pip|npm) install|cp node_modules|portico serve)\b")
    assert all(known.match(line) for line in lines), lines
    assert {int(block.section.partition(".")[0]) for block in blocks(PAGE) if block.file} == {2, 3, 4, 5}


@pytest.mark.asyncio(loop_scope="function")
async def test_a_diff_that_fits_nowhere_is_found() -> None:
    assert changed("a\nb\nc\n", " a\n-b\n+d\n c\n") == "a\nd\nc\n"
    with pytest.raises(AssertionError, match="fits in 0 places"):
        changed("a\n\nc\n", " a\n-b\n c\n")
