"""What `portico serve` writes: one line on stdout for each address, its log on stderr, and nothing for mere noise."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import platform
import pty
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable

import httpx
import pytest
from tests.certificates import Tls
from tests.cli.command import Running, serving, started

import portico

LOGGING_APP = """
import logging, warnings

async def app(scope, receive, send):
    if scope["type"] == "http":
        logging.getLogger("shop").info("sold %s", scope["path"], extra={"size": 43})
        warnings.warn("soon over", stacklevel=1)
        raise RuntimeError("out of\\nshoes")
"""


async def get(running: Running, path: str) -> int:
    async with httpx.AsyncClient() as client:
        return (await client.get(running.url + path)).status_code


class TestFirstLine:
    async def test_it_says_where_what_and_with_what(self, folder: pathlib.Path) -> None:
        async with serving(folder, "serve", "shop:app", "--port", "0", "--log-format", "text") as running:
            pass
        build = "compiled" if portico.compiled else "interpreted"
        python = platform.python_version()
        assert re.fullmatch(
            r"Portico listens on http://127\.0\.0\.1:\d+/  "
            rf"\(serves shop:app; {portico.__version__}, {build}, Python {python}; Ctrl\+C stops it\)\n",
            running.line,
        )

    async def test_where_nobody_reads_it_it_is_json(self, folder: pathlib.Path) -> None:
        async with serving(folder, "serve", "shop:app", "--port", "0") as running:
            pass
        found = json.loads(running.line)
        assert (found["target"], found["version"], found["pid"]) == ("shop:app", portico.__version__, running.pid)
        assert found["build"] == ("compiled" if portico.compiled else "interpreted")
        assert found["python"] == platform.python_version()
        assert found["message"] == f"Portico listens on {found['url']}"

    async def test_each_address_has_one(self, folder: pathlib.Path) -> None:
        places = ["--bind", "127.0.0.1:0", "--bind", f"unix:{folder}/a.sock"]
        async with serving(folder, "serve", "shop:app", *places) as running:
            second = json.loads(await running.read_line())
        assert running.url.startswith("http://127.0.0.1:")
        assert second["url"] == f"{folder}/a.sock"


class TestLog:
    async def test_what_the_application_logs_is_there_in_json(self, folder: pathlib.Path) -> None:
        (folder / "shop.py").write_text(LOGGING_APP)
        async with serving(folder, "serve", "shop:app", "--port", "0", "--no-access-log") as running:
            assert await get(running, "shoes") == 500
        sold, warning, failed = running.records()
        assert (sold["logger"], sold["message"], sold["size"]) == ("shop", "sold /shoes", 43)
        assert warning["logger"] == "py.warnings"
        assert failed["level"] == "error"
        assert failed["exception"].endswith("RuntimeError: out of\nshoes")

    async def test_text_has_records_at_the_margin_alone(self, folder: pathlib.Path) -> None:
        (folder / "shop.py").write_text(LOGGING_APP)
        async with serving(folder, "serve", "shop:app", "--port", "0", "--log-format", "text") as running:
            assert await get(running, "shoes%0a2026") == 500
        for line in running.errors.splitlines():
            assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (INFO|WARNING|ERROR) |    ", line), line
        assert "    RuntimeError: out of\n    shoes\n" in running.errors

    async def test_less_may_be_wanted(self, folder: pathlib.Path) -> None:
        (folder / "shop.py").write_text(LOGGING_APP)
        async with serving(folder, "serve", "shop:app", "--port", "0", "--log-level", "critical") as running:
            assert await get(running, "shoes") == 500
        assert running.errors == ""

    async def test_on_a_terminal_it_is_coloured_text(self, folder: pathlib.Path) -> None:
        """For each stream by itself: stdout is none here."""
        (folder / "shop.py").write_text(LOGGING_APP)
        ours, theirs = pty.openpty()
        arguments = ["serve", "shop:app", "--port", "0"]
        try:
            async with started(folder, *arguments, stderr=theirs, env={"TERM": "xterm", "NO_COLOR": ""}) as running:
                assert running.line.startswith("{")
                assert await get(running, "shoes") == 500
                seen = b""
                while b"    shoes" not in seen:
                    seen += await asyncio.to_thread(os.read, ours, 4096)
        finally:
            os.close(ours)
            os.close(theirs)
        assert b"\x1b[31mERROR  \x1b[0m portico.server  " in seen


# -- noise ------------------------------------------------------------------------------------------------------------


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def port_scan(port: int) -> None:
    for _ in range(3):
        _, writer = await connected(port)
        writer.close()
        await writer.wait_closed()


async def half_open(port: int) -> None:
    """The peer shuts its side at once."""
    reader, writer = await connected(port)
    writer.write_eof()
    await reader.read()
    writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def cut_after(data: bytes) -> Callable[[int], Awaitable[None]]:
    """RST after `data`."""

    async def noise(port: int) -> None:
        _, writer = await connected(port)
        writer.write(data)
        await writer.drain()
        reset(writer)

    return noise


def said(data: bytes) -> Callable[[int], Awaitable[None]]:
    """`data`, and then all of the answer."""

    async def noise(port: int) -> None:
        reader, writer = await connected(port)
        writer.write(data)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()

    return noise


async def tls_probe(port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises((ssl.SSLError, OSError)):
        await asyncio.open_connection("127.0.0.1", port, ssl=context)


POST = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
PLAIN_NOISE = {
    "port scan": port_scan,
    "half open": half_open,
    "TLS to plain": tls_probe,
    "RST at once": cut_after(b""),
    "RST in a head": cut_after(b"GET / HT"),
    "RST in a body": cut_after(POST + b"some"),
    "RST before the answer": cut_after(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3),
    "RST in a WebSocket handshake": cut_after(b"GET /echo HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgr"),
    "nonsense": said(b"\x16\x03\x01 SSH-2.0-x\r\n\r\n"),
    "a proxy's test": said(b"OPTIONS * HTTP/1.0\r\nConnection: close\r\n\r\n"),
    "HTTP/2": said(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a health check": said(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
}
TLS_NOISE = {
    "port scan": port_scan,
    "half open": half_open,
    "plain to TLS": said(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "RST at once": cut_after(b""),
    "RST in the handshake": cut_after(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
}


async def make(noises: dict[str, Callable[[int], Awaitable[None]]], running: Running) -> None:
    for noise in noises.values():
        async with asyncio.timeout(20):
            await noise(running.port)


async def test_noise_on_a_plain_port_logs_nothing_above_debug(folder: pathlib.Path) -> None:
    """Also not what an application would be blamed for, when the peer has left before its answer."""
    arguments = ["serve", "shop:app", "--port", "0", "--log-level", "debug", "--no-access-log"]
    async with serving(folder, *arguments) as running:
        await make(PLAIN_NOISE, running)
        assert await get(running, "still-here") == 200
    assert [record for record in running.records() if record["level"] != "debug"] == []


async def test_noise_on_a_tls_port_logs_nothing_above_debug(folder: pathlib.Path, tls: Tls) -> None:
    arguments = ["serve", "shop:app", "--port", "0", "--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]
    async with serving(folder, *arguments, "--log-level", "debug") as running:
        await make(TLS_NOISE, running)
    assert [record for record in running.records() if record["level"] != "debug"] == []
