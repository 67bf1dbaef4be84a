"""docs/which-transport.md: its page shows one value in four ways, in a real browser."""

from __future__ import annotations

import pathlib

from playwright.async_api import expect
from tests.blocks import blocks, write
from tests.browser import PATIENCE_MS, launched
from tests.cli.command import serving
from tests.test_docs_tutorial import LIBRARY

WAYS = ("polling", "long", "sse", "websocket")
WATCH = """(ways) => {
  window.seen = {};
  for (const way of ways) {
    seen[way] = [];
    new MutationObserver((records) => {
      for (const { addedNodes } of records) for (const node of addedNodes) seen[way].push(Number(node.textContent));
    }).observe(document.getElementById(way), { childList: true });
  }
}"""


async def test_four_ways_carry_the_same(tmp_path: pathlib.Path) -> None:
    write(tmp_path, blocks("which-transport.md"))
    (tmp_path / "page/socket.io.min.js").write_bytes(LIBRARY.read_bytes())
    complaints: list[str] = []
    async with serving(tmp_path, "serve", "four:app", "--port", "0") as running, launched() as browser:
        page = await browser.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type == "warning" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(running.url + "four.html")
        for way in WAYS:
            await expect(page.locator(f"#{way}")).not_to_be_empty(timeout=PATIENCE_MS)
        await page.evaluate(WATCH, list(WAYS))
        await page.wait_for_function("Object.values(seen).every((values) => values.length >= 10)", timeout=PATIENCE_MS)
        seen = await page.evaluate("seen")
        await page.close()
    for way, values in seen.items():
        first = values[0]
        assert values == list(range(first, first + len(values))), f"{way}: not each once and in order"
    assert complaints == []


def test_every_block_is_run() -> None:
    assert [block.file for block in blocks("which-transport.md") if block.language != "console"] == [
        "four.py",
        "page/four.html",
    ]
