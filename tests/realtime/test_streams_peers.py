"""Rooms followed by real peers: curl, httpx, the npm package ``eventsource``, and Chromium's own EventSource.

Their connections are cut again and again; that none is missing and none doubled is then the work of their
``Last-Event-ID`` (WHATWG HTML §9.2.4) and of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.browser import launched
from tests.node import NODE
from tests.realtime.followers import realtime, url
from tests.realtime.raw import Raw, serving
from tests.support import GUARD_S, until

import portico

PATIENCE_S = 3 * GUARD_S


@contextlib.asynccontextmanager
async def program(name: str, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """The output of a program; the test fails where there is none of that name."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"the tests need {name}: see scripts/system-packages.sh")
    process = await asyncio.create_subprocess_exec(found, *arguments, stdout=PIPE, cwd=NODE)
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()  # to the pipe's end: what is left of it would be a warning later on


async def line(output: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        return await output.readline()


async def listening(io: portico.Realtime) -> None:
    """Until there is a stream: a program may need long to start."""
    async with asyncio.timeout(PATIENCE_S):
        while not len(io.streams):
            await asyncio.sleep(0.01)


async def cut(io: portico.Realtime) -> None:
    """Cut every stream, in the middle of whatever it is doing. Its peer may be back before we know that it has gone."""
    listeners = list(io.streams)
    for listener in listeners:
        listener.exchange.stream.abort()
    await until(lambda: all(listener.over for listener in listeners))


async def emit_with_cuts(raw: Raw) -> list[Any]:
    """Emit to the room while its streams are cut: with events before, between and right behind that. The peer has been
    told where it begins."""
    io = raw.io
    emitted: list[Any] = []

    def emit(*args: Any) -> None:
        io.to("a").emit("n", *args)
        emitted.append(list(args))

    for round in range(2):
        await listening(io)
        if round:  # the first cut comes where there never was an event
            emit(round, "before")
        await cut(io)
        emit(round, "while it is away")
    await listening(io)
    emit("end")
    return emitted


async def test_curl() -> None:
    io = realtime()
    async with serving(io) as raw, program("curl", "-sN", url(raw, "a")) as output:
        await listening(io)
        io.to("a").emit("n", 1)
        got = [await line(output) for _ in range(9)]
        assert got[6:] == [b"event: n\n", b"data: [1]\n", b"\n"]


async def test_httpx() -> None:
    io = realtime()
    async with (
        serving(io) as raw,
        httpx.AsyncClient() as client,
        client.stream("GET", url(raw, "a"), headers={"Accept": "text/event-stream"}) as response,
    ):
        assert response.status_code == 200
        lines = response.aiter_lines()
        while await anext(lines):
            pass
        io.to("a").emit("n", "€")
        assert [await anext(lines) for _ in range(4)][1:] == ["event: n", 'data: ["€"]', ""]


async def test_eventsource_in_node_through_cuts() -> None:
    io = realtime()
    async with serving(io) as raw, program("node", "eventsource.mjs", url(raw, "a")) as output:
        assert json.loads(await line(output)) == {"open": True}
        emitted = await emit_with_cuts(raw)
        got: list[Any] = []
        while not got or got[-1] != ["end"]:
            said = json.loads(await line(output))
            assert "gap" not in said
            if "data" in said:
                got.append(said["data"])
        assert got == emitted


async def test_eventsource_in_chromium_through_cuts() -> None:
    io = realtime(origins=["*"])
    script = """address => {
        window.said = [];
        const source = new EventSource(address);
        source.addEventListener("n", event => said.push(JSON.parse(event.data)));
        source.addEventListener("gap", event => said.push("gap"));
        return new Promise(resolve => source.addEventListener("position", () => resolve(), {once: true}));
    }"""
    async with serving(io) as raw, launched() as browser:
        page = await browser.new_page()
        await page.evaluate(script, url(raw, "a"))
        emitted = await emit_with_cuts(raw)
        async with asyncio.timeout(PATIENCE_S):
            await page.wait_for_function("() => window.said.some(each => each[0] === 'end')")
        assert await page.evaluate("window.said") == emitted
