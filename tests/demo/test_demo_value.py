"""One value in four ways: each shows it, and what each costs is what the server has counted for it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
import websockets
from playwright.async_api import Page, expect
from tests.demo.conftest import Tabs, when
from tests.support import GUARD_S

WAYS = ("polling", "longpolling", "sse", "websocket")
CHANGES = 5

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def choose(page: Page, setting: str, ms: int) -> None:
    await page.locator(f"#{setting} input[value='{ms}']").check()


async def measured(page: Page, enough: str) -> dict[str, Any]:
    """What the page has measured, as soon as `enough` of its ways is true."""
    return await when(page, f"Object.values(porticoMeasures().lanes).every((lane) => {enough}) && porticoMeasures()")


async def test_all_four_ways_show_the_same_value(tabs: Tabs) -> None:
    """Slowly changing, all four have it before the next change: once, all are equal, and not for want of a value."""
    page = await tabs.open()
    await choose(page, "rate", 2000)
    await choose(page, "interval", 250)
    shown = '[...document.querySelectorAll("[data-lane] .value")].map((value) => value.textContent)'
    same = await when(page, f"((s) => s.length === 4 && new Set(s).size === 1 && Number(s[0]) > 0 && s)({shown})")
    assert len(set(same)) == 1
    assert tabs.complaints == []


async def test_what_each_way_costs_is_shown_and_can_be_read(tabs: Tabs) -> None:
    page = await tabs.open()
    await choose(page, "rate", 100)
    polled = "porticoMeasures().lanes.longpolling.requests > 1"
    told = await measured(page, f"lane.changes >= {CHANGES} && lane.bytes_received > 0 && {polled}")
    assert told["every_ms"] == 100
    assert told["clock_error_ms"] >= 0
    lanes = told["lanes"]
    assert tuple(lanes) == WAYS
    for lane in lanes.values():
        assert lane["bytes_sent"] > 0
        assert 0 <= lane["delay_ms"]["median"] <= lane["delay_ms"]["p95"] <= lane["delay_ms"]["most"]
        assert lane["arrival_ms"]["median"] <= lane["delay_ms"]["median"]
    for way in ("sse", "websocket"):
        assert lanes[way]["requests"] == 1
    await expect(page.locator("[data-lane=sse] .requests")).to_have_text("1")
    await expect(page.locator("[data-lane=sse] .delay")).to_contain_text("ms")
    assert tabs.complaints == []


async def test_a_page_with_another_key_begins_from_nothing(tabs: Tabs) -> None:
    page = await tabs.open()
    await measured(page, "lane.changes >= 1 && lane.requests >= 1")
    told = await page.get_by_role("button", name="Start over").evaluate(
        "(it) => { it.click(); return porticoMeasures(); }"
    )
    assert [lane["changes"] for lane in told["lanes"].values()] == [0] * 4
    assert [lane["requests"] for lane in told["lanes"].values()] == [0] * 4
    told = await measured(page, "lane.changes >= 1 && lane.requests >= 1")
    assert told["lanes"]["sse"]["requests"] == 1


async def test_the_rate_is_everybodys_and_the_interval_ones_own(tabs: Tabs) -> None:
    first = await tabs.open()
    second = await tabs.open()
    await choose(second, "rate", 50)
    await choose(second, "interval", 5000)
    await expect(first.locator("#rate input[value='50']")).to_be_checked()
    await expect(first.locator("#interval input[value='1000']")).to_be_checked()
    await expect(second.locator("#interval input[value='5000']")).to_be_checked()
    third = await tabs.open()
    await expect(third.locator("#rate input[value='50']")).to_be_checked()


async def test_one_tab_at_a_time_runs_them(tabs: Tabs) -> None:
    """Browsers open six HTTP/1.1 connections to a server: three tabs that hold two each would leave none at all."""
    first = await tabs.open()
    await expect(first.locator("#lanes")).to_have_attribute("data-running", "true")
    second = await tabs.open()
    third = await tabs.open()
    await expect(third.locator("#lanes")).to_have_attribute("data-running", "true")
    for page in (first, second):
        await expect(page.locator("#lanes")).to_have_attribute("data-running", "false")
    await first.get_by_role("button", name="Run them here").click()
    await expect(first.locator("#lanes")).to_have_attribute("data-running", "true")
    await expect(third.locator("#lanes")).to_have_attribute("data-running", "false")
    await measured(first, "lane.changes >= 1")
    assert tabs.complaints == []


async def test_the_bytes_are_those_of_the_wire(tabs: Tabs) -> None:
    """A client counts what it sends and gets, to the byte, and the server has counted as much."""
    key = "0123456789abcdef"
    head = (
        f"GET /socket.io/events?room=value&since=&visitor={key}&page={key}&lane=polling HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{tabs.port}\r\n\r\n"
    ).encode()
    async with asyncio.timeout(GUARD_S), websockets.connect(tabs.url.replace("http", "ws") + "live") as live:
        reader, writer = await asyncio.open_connection("127.0.0.1", tabs.port)
        received = 0
        for _ in range(3):
            writer.write(head)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            received += len(answer) + len(await reader.readexactly(length))
        await live.send(msgspec.json.encode({"type": "measure", "page": key}).decode())
        while (told := msgspec.json.decode(await live.recv()))["type"] != "measured":
            pass
        writer.close()
    counted = {"requests": 3, "sent": 3 * len(head), "received": received}
    assert told == {"type": "measured", "page": key, "lanes": {"polling": counted}}


async def test_only_the_value_may_be_followed_without_a_session(tabs: Tabs) -> None:
    async with httpx.AsyncClient(base_url=tabs.url) as client:
        for room, status in (("value", 200), ("lobby", 403), ("elsewhere", 403)):
            answer = await client.get("/socket.io/events", params={"room": room, "since": ""})
            assert answer.status_code == status
        crossed = await client.get(
            "/socket.io/events?room=value&since=", headers={"Origin": "https://elsewhere.example"}
        )
        assert crossed.status_code == 403
