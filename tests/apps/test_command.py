"""``portico serve`` in a process of its own, as a container runs it, with applications from the registry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import websockets
from tests.apps.hosts import GUARD_S

ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def command(target: str) -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
    """The port of a running ``portico serve TARGET``, and its process."""
    arguments = ["-m", "portico", "serve", target, "--port", "0", "--app-dir", str(ROOT)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = ""
    try:
        async with asyncio.timeout(GUARD_S):
            assert process.stdout is not None
            while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", said)):
                line = await process.stdout.readline()
                assert line, f"it ended: {said}"
                said += line.decode()
            yield int(found[1]), process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


@pytest.mark.parametrize("target", ["tests.apps.django_project:with_channels", "tests.apps.django_project:plain"])
async def test_django(target: str) -> None:
    async with command(target) as (port, _), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/sync/3")).json()["number"] == 3
        if target.endswith("channels"):
            origin = f"http://127.0.0.1:{port}"
            async with websockets.connect(f"ws://127.0.0.1:{port}/chat/red?x", origin=origin, proxy=None) as ws:
                await ws.send(json.dumps("hello"))
                assert json.loads(await ws.recv()) == "hello"


async def test_fastapi_finishes_its_lifespan_on_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "stopped"
    monkeypatch.setenv("TEST_MARK", str(mark))
    async with command("tests.apps.fastapi_served:app") as (port, process):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.get("/")).json() == {"pid": process.pid}
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(GUARD_S):
            await process.communicate()
    assert process.returncode in (0, -signal.SIGTERM)
    assert mark.read_text() == "stopped"
