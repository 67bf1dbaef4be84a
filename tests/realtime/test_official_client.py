"""The official client from npm, unchanged: every feature, in Node and in Chromium, over each transport, in the oldest
and the newest version that speaks the protocol. The page, its library and the realtime connection come over one port.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from playwright.async_api import Browser
from tests.node import MODULES, NODE, said
from tests.realtime.official import expected, realtime
from tests.support import GUARD_S

import portico

LIBRARIES = ("socket.io-client", "socket.io-client-4.0", "socket.io-client-3")
TRANSPORTS = ("default", "websocket", "polling")

every_way = pytest.mark.parametrize("transports", TRANSPORTS)
every_library = pytest.mark.parametrize("library", LIBRARIES)


def version(library: str) -> str:
    file = MODULES / library / "package.json"
    if not file.exists():
        pytest.fail(f"the tests need npm's {library}: run make test, or npm ci in {NODE}")
    return str(json.loads(file.read_text())["version"])


def ends_at(transports: str) -> str:
    return "websocket" if transports == "default" else transports


def served() -> Any:
    app = portico.App()
    app.mount("/socket.io", realtime())
    app.static("/", NODE)
    return portico.serve(app, "127.0.0.1", 0)


def test_they_are_the_oldest_and_the_newest_of_the_protocol() -> None:
    """Engine.IO 4 and Socket.IO 5 begin with 3.0 of the library."""
    assert [version(library).rpartition(".")[0] for library in LIBRARIES] == ["4.8", "4.0", "3.1"]


@pytest.mark.asyncio(loop_scope="module")
@every_way
@every_library
async def test_every_feature_in_node(library: str, transports: str) -> None:
    async with asyncio.timeout(3 * GUARD_S), served() as server:
        saw = await said("official.mjs", library, f"http://127.0.0.1:{server.port}", transports, packages=(library,))
    assert saw == expected(version(library), ends_at(transports), page=False)


PAGE_SCRIPT = """async ([transports, version, module]) => {
    const io = module ? (await import(module)).io : window.io;
    const { run } = await import("/features.mjs");
    return await run(io, location.origin, transports, version);
}"""


async def in_a_page(browser: Browser, library: str, transports: str, bundle: str) -> tuple[Any, set[str]]:
    """What the script saw in a page, and which hosts that page asked for anything."""
    script = f"/node_modules/{library}/dist/{bundle}"
    async with asyncio.timeout(3 * GUARD_S), served() as server, await browser.new_context() as context:
        page = await context.new_page()
        asked: set[str] = set()
        page.on("request", lambda request: asked.add(request.url.split("/")[2]))
        page.on("websocket", lambda ws: asked.add(ws.url.split("/")[2]))
        await page.goto(f"http://127.0.0.1:{server.port}/page.html")
        module = script if ".esm." in bundle else ""
        if not module:
            await page.add_script_tag(url=script)
        saw = await page.evaluate(PAGE_SCRIPT, [transports, version(library), module])
        return saw, asked - {f"127.0.0.1:{server.port}"}


@pytest.mark.asyncio(loop_scope="module")
@every_way
@every_library
async def test_every_feature_in_a_page_over_one_port(browser: Browser, library: str, transports: str) -> None:
    saw, elsewhere = await in_a_page(browser, library, transports, "socket.io.min.js")
    assert saw == expected(version(library), ends_at(transports), page=True)
    assert not elsewhere


@pytest.mark.asyncio(loop_scope="module")
async def test_every_feature_in_a_page_with_the_library_as_a_module(browser: Browser) -> None:
    saw, elsewhere = await in_a_page(browser, LIBRARIES[0], "default", "socket.io.esm.min.js")
    assert saw == expected(version(LIBRARIES[0]), "websocket", page=True)
    assert not elsewhere
