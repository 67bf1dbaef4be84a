"""The chat: rooms, presence, typing, history; and a connection that is cut, after which nothing is missed."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from tests.browser import PATIENCE_MS
from tests.demo.conftest import Tabs, when

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def elsewhere(tabs: Tabs, browser: Browser) -> AsyncIterator[Tabs]:
    """Another browser on the same demo: another person."""
    async with await browser.new_context() as context:
        context.set_default_timeout(PATIENCE_MS)
        yield Tabs(context, tabs.port, tabs.complaints)


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Send").click()


async def enter(page: Page, room: str) -> None:
    await page.locator(f"#rooms [data-room={room}]").click()
    await expect(page.locator(f"#rooms [data-room={room}]")).to_have_attribute("aria-pressed", "true")


async def test_a_message_reaches_the_other_tab_as_text_and_never_as_markup(tabs: Tabs, elsewhere: Tabs) -> None:
    first = await tabs.open()
    second = await elsewhere.open()
    markup = "<img src=x onerror=\"document.title='broken'\"> hello"
    await first.get_by_label("Name", exact=True).fill("<b>Ada</b>")
    await say(first, markup)
    await expect(second.locator("#messages .what")).to_have_text(markup)
    await expect(second.locator("#messages .who b").first).to_have_text("<b>Ada</b>")
    await expect(second.locator("#messages img")).to_have_count(0)
    await expect(first.locator("#say-note")).to_have_text("Delivered to 1 other in the lobby.")
    await expect(first.locator("#messages .mine .what")).to_have_text(markup)
    await expect(second.locator("#people .name", has_text="<b>Ada</b>")).to_have_count(1)
    await expect(second.locator("tr:not([data-you]) .tag", has_text="<b>Ada</b>")).to_have_count(1)
    assert tabs.complaints == []


async def test_two_tabs_of_one_browser_are_one_person_and_another_browser_is_another(
    tabs: Tabs, elsewhere: Tabs
) -> None:
    first = await tabs.open()
    await tabs.open()
    await expect(first.locator("#people-count")).to_have_text("1 person")
    other = await elsewhere.open()
    for page in (first, other):
        await expect(page.locator("#people-count")).to_have_text("2 people")
        await expect(page.locator("#people li")).to_have_count(2)
        await expect(page.locator("#rooms [data-room=lobby] .there")).to_have_text("2")
    await enter(other, "terrace")
    await expect(first.locator("#people li")).to_have_count(1)
    await expect(first.locator("#rooms [data-room=terrace] .there")).to_have_text("1")
    assert tabs.complaints == []


async def test_who_types_is_named_until_the_message_is_there(tabs: Tabs, elsewhere: Tabs) -> None:
    first = await tabs.open()
    second = await elsewhere.open()
    await first.get_by_label("Name", exact=True).fill("Grace")
    await first.get_by_label("Message", exact=True).press_sequentially("so")
    await expect(second.locator("#typing")).to_have_text("Grace is typing")
    await expect(first.locator("#typing")).to_be_empty()
    await first.get_by_role("button", name="Send").click()
    await expect(second.locator("#messages .what")).to_have_text("so")
    await expect(second.locator("#typing")).to_be_empty()


async def test_a_room_has_a_history_of_its_own_for_who_comes_later(tabs: Tabs, elsewhere: Tabs) -> None:
    first = await tabs.open()
    for text in ("one", "two"):
        await say(first, text)
        await expect(first.locator("#messages .what").last).to_have_text(text)
    await enter(first, "library")
    await expect(first.locator("#log-empty")).to_be_visible()
    await say(first, "quiet, please")
    second = await elsewhere.open()
    await expect(second.locator("#messages .what")).to_have_text(["one", "two"])
    await enter(second, "library")
    await expect(second.locator("#messages .what")).to_have_text(["quiet, please"])
    assert tabs.complaints == []


async def test_a_connection_that_is_cut_comes_back_and_nothing_was_missed(tabs: Tabs, elsewhere: Tabs) -> None:
    """What another has said meanwhile, and what the server sent to this page alone: all, in order, and once."""
    first = await tabs.open()
    second = await elsewhere.open()
    await say(first, "before")
    await expect(second.locator("#messages .what")).to_have_text(["before"])
    await first.get_by_role("button", name="Cut my connection").click()
    await expect(first.locator("#chat")).to_have_attribute("data-state", "waiting")
    await expect(first.locator("#verdict")).to_contain_text("The server has cut your connection")
    for text in ("while", "away"):
        await say(second, text)
        await expect(second.locator("#messages .what").last).to_have_text(text)
    await expect(first.locator("#verdict")).to_contain_text("Reconnected, nothing missed.")
    came = re.compile(
        r"[1-7]\smessages? sent meanwhile came in order, none doubled\.$"
    )  # those that were in time for that
    await expect(first.locator("#verdict")).to_have_text(came)
    await expect(first.locator("#messages .what")).to_have_text(["before", "while", "away"])
    told = [f"While you were away, {number} of 5" for number in range(1, 6)]
    await expect(first.locator("#messages .aside span")).to_have_text(told)
    await expect(second.locator("#messages .aside")).to_have_count(0)
    await say(second, "after")
    await expect(first.locator("#messages .what").last).to_have_text("after")
    assert [text for text in tabs.complaints if "WebSocket" not in text] == []


async def test_who_is_away_for_a_moment_does_not_leave(tabs: Tabs, elsewhere: Tabs) -> None:
    first = await tabs.open()
    second = await elsewhere.open()
    await second.evaluate(
        """() => {
            window.counts = new Set();
            const count = document.getElementById("people-count");
            counts.add(count.textContent);
            new MutationObserver(() => counts.add(count.textContent)).observe(count, { childList: true });
        }"""
    )
    await expect(second.locator("#people-count")).to_have_text("2 people")
    await first.get_by_role("button", name="Cut my connection").click()
    await expect(first.locator("#verdict")).to_contain_text("Reconnected, nothing missed.")
    assert await second.evaluate("[...counts]") in (["2\u00a0people"], ["1\u00a0person", "2\u00a0people"])


async def test_a_flood_is_refused_and_the_message_is_kept(tabs: Tabs) -> None:
    page = await tabs.open()
    await page.evaluate(
        """() => {
            for (let number = 0; number < 30; number += 1) {
                document.getElementById("text").value = `flood ${number}`;
                document.getElementById("say").requestSubmit();
            }
        }"""
    )
    await expect(page.locator("#say-note")).to_contain_text("Your message is still here.")
    await expect(page.get_by_label("Message", exact=True)).not_to_have_value("")
    assert await page.locator("#messages li").count() < 30


NONSENSE = [
    ["enter", "attic", ""],
    ["enter", "lobby", "x" * 25],
    ["say", "x" * 501, ""],
    ["say", " ", ""],
    ["say", {"text": "no"}, ""],
    ["shout", "no"],
]


async def test_nonsense_is_answered_with_an_error(tabs: Tabs) -> None:
    page = await tabs.open()
    answers = await page.evaluate(
        """async (nonsense) => {
            const { Socket } = await import("/socketio.js");
            const socket = new Socket({ url: `ws://${location.host}/socket.io`, namespace: "/chat", receive: {} });
            await new Promise((done) => {
                socket.changed = done;
                socket.open();
            });
            await socket.ask("enter", "lobby", "");
            const answers = await Promise.allSettled(nonsense.map((event) => socket.ask(...event)));
            socket.close();
            return answers.map(({ status }) => status);
        }""",
        NONSENSE,
    )
    assert answers == ["rejected"] * len(NONSENSE)
    await expect(page.locator("#messages li")).to_have_count(0)


async def test_on_a_phone_nothing_is_wider_than_the_screen(tabs: Tabs) -> None:
    page = await tabs.open()
    await page.set_viewport_size({"width": 360, "height": 740})
    await say(page, "a-very-long-word-" * 20)
    await expect(page.locator("#messages .what")).to_have_count(1)
    await when(page, "Object.values(porticoMeasures().lanes).every((lane) => lane.changes > 0)")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
