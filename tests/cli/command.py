"""The command ``portico`` in a process of its own, as a user runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

APP = """
import portico

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def asgi(scope, receive, send):
    if scope["type"] == "http":
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

app = portico.App()
app.websocket("/echo", echo)
app.mount("/", asgi)
number = 7
"""

LIMIT_S = 30
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PORTICO_") or name == "PORTICO_PURE"}


def portico_command(
    *arguments: str, cwd: pathlib.Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run to its end; nothing of the tests' own environment changes what it does."""
    command = [sys.executable, "-m", "portico", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=2 * LIMIT_S, env=CLEAN | environment
    )


class Running:
    """A `portico` process that listens."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.line = ""
        self.errors = ""  # all of stderr, once it has ended

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        """Where it listens, with a final slash on TCP."""
        if self.line.startswith("{"):
            return str(json.loads(self.line)["url"])
        return self.line.split("listens on ")[1].split("  ")[0]

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    async def read_line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            return (await self.process.stdout.readline()).decode()

    async def logged(self, words: str) -> str:
        """The next line of stderr that has `words` in it."""
        assert self.process.stderr is not None
        async with asyncio.timeout(LIMIT_S):
            while line := (await self.process.stderr.readline()).decode():
                self.errors += line
                if words in line:
                    return line
        raise AssertionError(f"{words!r} was not logged: {self.errors}")

    async def ended(self) -> int:
        """Its exit status; what it logged is in `errors` then."""
        async with asyncio.timeout(LIMIT_S):
            _, errors = await self.process.communicate()
        self.errors += errors.decode()
        assert self.process.returncode is not None
        return self.process.returncode

    def records(self) -> list[dict[str, Any]]:
        """What was logged, where that is JSON."""
        return [json.loads(line) for line in self.errors.splitlines()]


@contextlib.asynccontextmanager
async def started(
    cwd: pathlib.Path, *arguments: str, program: list[str] | None = None, env: dict[str, str] | None = None, **how: Any
) -> AsyncIterator[Running]:
    """Its first line is there, so it listens. If it still runs at the end, it is killed."""
    process = await asyncio.create_subprocess_exec(
        *(program or [sys.executable, "-m", "portico"]),
        *arguments,
        cwd=cwd,
        stdout=subprocess.PIPE,
        env=CLEAN | (env or {}),
        **({"stderr": subprocess.PIPE} | how),
    )
    running = Running(process)
    try:
        running.line = await running.read_line()
        if not running.line:
            status = await running.ended()
            raise AssertionError(f"ended with {status} before it listened: {running.errors}")
        yield running
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


@contextlib.asynccontextmanager
async def serving(cwd: pathlib.Path, *arguments: str, **how: Any) -> AsyncIterator[Running]:
    """The same, and at the end it stops well on SIGTERM."""
    async with started(cwd, *arguments, **how) as running:
        yield running
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0, running.errors
