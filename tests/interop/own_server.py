"""A server that runs alone in a process of its own and tells at /stats what must not grow there; and whoever asks it.

The process prints its port on a line, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import portico

PATIENCE_S = 20
ROOT = Path(__file__).parents[2]
RARE = portico.Keepalive(ping_interval_s=600)  # no ping comes in between, however slow the machine is
# Blocks that the wheel of timers takes in a second, and keeps until the longest of the deadlines is over: a list, its
# places and its number for each tick, of which there are 10.
WHEEL_BLOCKS_PER_S = 30

Stats = dict[str, Any]


# -- in its process -------------------------------------------------------------------------------------------------


def counted(server: portico.Server) -> Stats:
    """What must not grow: connections, descriptors, tasks, Portico's objects, Python's blocks."""
    gc.collect()
    types = Counter(
        type(one).__qualname__ for one in gc.get_objects() if str(type(one).__module__).startswith("portico.")
    )
    return {
        "connections": server.connection_count,
        "fds": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "types": types,
        "blocks": sys.getallocatedblocks(),
    }


async def serve(
    app: portico.App, answer: Callable[[Any, Any], Awaitable[bytes]], stats: Callable[[portico.Server], Stats]
) -> None:
    """Serve `app` with an ASGI application at /, whose answers are `answer(scope, receive)` and, at /stats, `stats`."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def site(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
            return
        asked = scope["path"] == "/stats"
        body = json.dumps(stats(server)).encode() if asked else await answer(scope, receive)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    app.mount("/", site)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    async with portico.serve(app, "127.0.0.1", 0) as server:
        print(server.port, flush=True)
        await stop.wait()


# -- in the test's --------------------------------------------------------------------------------------------------


class OwnServer:
    """The server's process, and what it says of itself."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.port = port
        self._process = process

    @classmethod
    @contextmanager
    def running(cls, module: str, connections: int = 0) -> Iterator[OwnServer]:
        """`module` as the server, where this process may open `connections` at a time."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < connections:
            raise AssertionError(f"{connections} open files are needed: ulimit -Hn says {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, connections), hard))
        command = [sys.executable, "-m", module]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            with process:
                assert process.stdout is not None
                yield cls(process, int(process.stdout.readline()))
            assert process.returncode == 0
        finally:
            process.kill()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The process gets no time meanwhile: its kernel queues what comes, as far as the backlog reaches."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stats(self) -> Stats:
        """Its state, told over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2 * PATIENCE_S)
        try:
            connection.request("GET", "/stats")
            told: Stats = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return told

    def alone(self, before: Stats | None = None) -> Stats:
        """Its state when the asking connection is the only one; what is countable must be as it was `before`."""
        before = before or {"connections": 1}
        same = [what for what in ("connections", "fds", "tasks", "types") if what in before]
        deadline = time.monotonic() + PATIENCE_S
        while any((told := self.stats())[what] != before[what] for what in same) and time.monotonic() < deadline:
            time.sleep(0.01)
        for what in same:
            assert told[what] == before[what], what
        return told
