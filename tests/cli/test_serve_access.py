"""`portico serve` and its access log: a line for each request and two for each WebSocket, in whatever way they end."""

from __future__ import annotations

import asyncio
import pathlib
import re
from typing import Any

import pytest
from tests.cli.command import Running, serving
from tests.support import TEXT, Peer, close_frame, frame, get

FAILING = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        raise RuntimeError("no shoes")
"""


def lines(running: Running) -> list[dict[str, Any]]:
    return [record for record in running.records() if record["logger"] == "portico.access"]


async def test_each_request_has_one_line(folder: pathlib.Path) -> None:
    async with serving(folder, "serve", "shop:app", "--port", "0") as running, await Peer.connect(running.port) as peer:
        for target in ("/shoes?token=hunter2", "/other"):
            peer.send(get(target))
            assert (await peer.answer()).status == 200
        client = "127.0.0.1:{}".format(peer.writer.get_extra_info("sockname")[1])
    first, second = lines(running)
    assert first.pop("seconds") >= 0
    assert first.pop("time")
    assert first == {
        "level": "info",
        "logger": "portico.access",
        "message": "GET /shoes 200",
        "client": client,
        "method": "GET",
        "path": "/shoes",
        "query": "token=***",
        "http": "1.1",
        "scheme": "http",
        "status": 200,
        "bytes": 6,
    }
    assert (second["path"], second["bytes"]) == ("/other", 6)


async def test_each_websocket_has_two(folder: pathlib.Path) -> None:
    """Opened, and closed with the code, who closed it, why, and bytes both ways; also where the network ends it."""
    async with (
        serving(folder, "serve", "shop:app", "--port", "0") as running,
        await Peer.connect(running.port) as peer,
        await Peer.connect(running.port) as other,
    ):
        await peer.open("/echo?key=hunter2")
        peer.send(frame(TEXT, b"hello"))
        assert await peer.frame() == (TEXT, b"hello")
        peer.send(close_frame(4001, "enough"))
        await peer.to_end()
        await other.open("/echo")
        other.reset()
        await running.logged('"code":1006')
    told = lines(running)
    opened, closed = told[:2]
    assert [line["message"] for line in told] == ["WebSocket opened /echo", "WebSocket closed /echo"] * 2
    assert opened["query"] == "key=***"
    assert closed["id"] == opened["id"]
    assert (closed["code"], closed["by"], closed["reason"], closed["clean"]) == (4001, "peer", "enough", True)
    assert (told[3]["code"], told[3]["by"]) == (1006, "network")


async def test_an_application_that_fails_has_its_500(folder: pathlib.Path) -> None:
    (folder / "shop.py").write_text(FAILING)
    async with serving(folder, "serve", "shop:app", "--port", "0") as running, await Peer.connect(running.port) as peer:
        peer.send(get("/shoes"))
        assert (await peer.answer()).status == 500
    assert [line["status"] for line in lines(running)] == [500]


async def test_health_checks_have_none_as_long_as_all_is_well(folder: pathlib.Path) -> None:
    async with (
        serving(folder, "serve", "shop:app", "--port", "0", "--quiet-path", "/up") as running,
        await Peer.connect(running.port) as peer,
    ):
        for target in ("/up", "/healthz"):
            peer.send(get(target))
            await peer.answer()
    assert [line["path"] for line in lines(running)] == ["/healthz"]


@pytest.mark.parametrize("arguments", [["--no-access-log"], ["--log-level", "warning"]])
async def test_it_may_be_off(folder: pathlib.Path, arguments: list[str]) -> None:
    async with (
        serving(folder, "serve", "shop:app", "--port", "0", *arguments) as running,
        await Peer.connect(running.port) as peer,
    ):
        peer.send(get())
        await peer.answer()
        peer.send(get("/echo"))
    assert running.errors == ""


async def test_what_was_no_request_has_none(folder: pathlib.Path) -> None:
    """Noise is not a visit: it is counted (`Server.counters.refused`), and answered."""
    async with serving(folder, "serve", "shop:app", "--port", "0") as running:
        for noise in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b""):
            async with await Peer.connect(running.port) as peer:
                peer.send(noise)
                peer.writer.write_eof()
                await peer.to_end()
    assert lines(running) == []


async def test_text_is_one_line_each(folder: pathlib.Path) -> None:
    async with (
        serving(folder, "serve", "shop:app", "--port", "0", "--log-format", "text") as running,
        await Peer.connect(running.port) as peer,
    ):
        peer.send(get("/%0d%0a%1b[2Jshoes"))
        await peer.answer()
        await asyncio.sleep(0)
    assert re.fullmatch(
        r"\S+ \S+ INFO    portico\.access  127\.0\.0\.1:\d+ GET /%0d%0a%1b\[2Jshoes HTTP/1\.1 200 \d+ B \d+\.\d ms\n",
        running.errors,
    )
