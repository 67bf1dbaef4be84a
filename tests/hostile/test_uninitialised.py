"""What leaves the process are bytes that somebody wrote (CVE-2026-45736): the compiled build under valgrind, which
knows of every byte of memory whether it has a value. ``PORTICO_LONG=1`` (`make long`) runs it; it takes a minute."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import portico

LONG = os.environ.get("PORTICO_LONG") == "1"

# Every kind of buffer and every length about which a header changes, with compression and without; every close reason.
BOTH_ENDS = """
import array, asyncio, portico

OCTETS = bytes(n * n & 255 for n in range(1024))
PAYLOADS = [
    OCTETS, bytearray(OCTETS), memoryview(OCTETS), memoryview(OCTETS)[3:1000], memoryview(OCTETS)[::3],
    memoryview(OCTETS)[::-1], memoryview(array.array("I", range(300))), memoryview(array.array("q", range(300)))[5::7],
    memoryview(OCTETS).cast("B", (32, 32)), "text", "\\u20ac" * 99, "",
    *[OCTETS[:length] for length in range(140)], *[bytes(length) for length in (65535, 65536, 70000)],
]

app, io = portico.App(), portico.Realtime()
app.mount("/socket.io", io)
reasons = []

@app.websocket("/")
async def echo(ws):
    try:
        while True:
            await ws.send(await ws.recv())
    except portico.ConnectionClosed as closed:
        reasons.append(closed.close.reason)

@io.on("echo")
async def answer(client, *payloads):
    client.emit("echoed", *payloads)
    return payloads

async def main():
    async with asyncio.timeout(500), portico.serve(app, "127.0.0.1", 0) as server:
        for deflate in (portico.Deflate(), None):
            async with portico.connect(f"ws://127.0.0.1:{server.port}/", deflate=deflate) as ws:
                for payload in PAYLOADS:
                    await ws.send(payload)
                    assert await ws.recv() == (payload if isinstance(payload, str) else bytes(payload))
        for length in range(0, 124, 41):
            ws = await portico.connect(f"ws://127.0.0.1:{server.port}/")
            await ws.close(1000, "r" * length)
        assert reasons == ["", "", *["r" * length for length in range(0, 124, 41)]], reasons
        for transport in ("polling", "websocket"):
            url = f"http://127.0.0.1:{server.port}"
            async with portico.RealtimeClient(url, transports=[transport]) as client:
                for payload in PAYLOADS:
                    payload = payload if isinstance(payload, str) else bytes(payload)
                    assert await client.call("echo", payload, 1) == (payload, 1)

asyncio.run(main())
"""

NOBODY_WROTE_IT = """
import ctypes, socket

here, there = socket.socketpair()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
assert libc.send(here.fileno(), ctypes.c_void_p(libc.malloc(64)), 64, 0) == 64
"""


def leaks(script: str, report: Path) -> list[str]:
    """The system calls that were given memory without a value. What Python's integers do within it is not looked at."""
    valgrind = shutil.which("valgrind")
    assert valgrind, "valgrind is needed"
    command = [valgrind, "--xml=yes", f"--xml-file={report}", sys.executable, "-c", script]
    environment = os.environ | {"PYTHONMALLOC": "malloc"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = [error for error in ElementTree.parse(report).iter("error") if error.findtext("kind") == "SyscallParam"]
    return [error.findtext("stack/frame/fn", "") for error in found]


if LONG and portico.compiled:

    def test_no_byte_that_nobody_wrote_is_sent(tmp_path: Path) -> None:
        assert leaks(BOTH_ENDS, tmp_path / "report") == []

    def test_valgrind_would_tell(tmp_path: Path) -> None:
        assert leaks(NOBODY_WROTE_IT, tmp_path / "report") == ["send"]
