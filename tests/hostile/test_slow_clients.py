"""A client that is slow, in whatever phase, costs a bounded amount for a bounded time.

| phase | limit | answer |
|---|---|---|
| TCP: connected, and silent | `keep_alive_s` | TCP ends |
| TLS: a handshake that does not end | `head_timeout_s` | TCP ends |
| a head that does not end, the first or a later one | `head_timeout_s`, not renewed by a byte | 408 |
| a body that hardly comes | `min_progress_bytes` in `progress_window_s` | 408; cut where the answer has begun |
| an upgrade request that does not end | `head_timeout_s` | 408 |
| an upgrade request about which nobody decides | `head_timeout_s` | 503 |
| a frame, or a message of many, that does not end | `assembly_timeout_s` | close 1008 |
| a WebSocket that is silent | `ping_timeout_s` after a ping | close 1011 |
| a close frame that is not answered | `close_timeout_s` | TCP ends |
| a response that is not read | `min_progress_bytes` in `progress_window_s` | cut |
| messages that are not read | `ping_timeout_s`, as pongs don't get through either | cut |

And all of them together don't make others wait. ``PORTICO_LONG=1`` runs that in full, with the limits as they are by
default; ``-s`` shows the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.certificates import Tls
from tests.hostile import slow_clients
from tests.hostile.slow_clients import Phase, Slow
from tests.hostile.target import GUARD_S, KIB, MIB, Target, running
from tests.support import BINARY, frame, get, upgrade

pytestmark = pytest.mark.alone  # limits of tenths of a second

LONG = os.environ.get("PORTICO_LONG") == "1"
SHORT: dict[str, Any] = {
    "limits": {
        "keep_alive_s": 0.4,
        "head_timeout_s": 0.4,
        "min_progress_bytes": 1000,
        "progress_window_s": 0.2,
        "assembly_timeout_s": 0.4,
        "close_timeout_s": 0.4,
    },
    "keepalive": {"ping_interval_s": 0.3, "ping_timeout_s": 0.2},
}
PATIENT: dict[str, Any] = {  # with someone of good manners, whom a busy machine may hold up
    "limits": {**SHORT["limits"], "keep_alive_s": 5.0, "head_timeout_s": 5.0, "assembly_timeout_s": 5.0},
    "keepalive": {"ping_interval_s": 0.3, "ping_timeout_s": 5.0},
}
DEFAULT: dict[str, Any] = {"limits": {}, "keepalive": None}
COUNT = 50  # connections in one phase
EACH = 400 * KIB  # what one may cost at most
MARGIN = 6 * MIB


class Port(Target):
    """The server's process, with a second port for TLS."""

    def __init__(self, pid: int, port: int, tls_port: int) -> None:
        super().__init__(pid, port)
        self.tls_port = tls_port


@contextlib.contextmanager
def attacked(tls: Tls, **options: Any) -> Iterator[Port]:
    with running("slow_server.py", {**options, "tls": [str(tls.cert), str(tls.key)]}) as (pid, [port, tls_port]):
        yield Port(pid, port, tls_port)


@pytest.fixture(scope="module")
def port(tls: Tls) -> Iterator[Port]:
    with attacked(tls, **SHORT) as port:
        yield port


async def at_once(port: Port, phase: Phase, count: int) -> list[bytes]:
    """What came to so many clients until they were cut."""

    every_s = 0.06 if phase in (slow_clients.response, slow_clients.messages) else 0.02  # they stare for some seconds

    async def one() -> bytes:
        slow = await Slow.connect(port.tls_port if phase is slow_clients.tls else port.port, every_s)
        try:
            return await phase(slow)
        finally:
            slow.writer.transport.abort()

    async with asyncio.timeout(GUARD_S):
        return await asyncio.gather(*[one() for _ in range(count)])


def closed_with(code: int) -> Callable[[bytes], bool]:
    """Ends with a close frame of this code, perhaps after a ping."""
    return lambda came: came.find(b"\x88") >= 0 and came[came.find(b"\x88") + 2 :][:2] == code.to_bytes(2, "big")


def answered(*statuses: int) -> Callable[[bytes], bool]:
    """Exactly these responses."""
    lines = [b"HTTP/1.1 %d " % status for status in statuses]
    return lambda came: came.count(b"HTTP/1.1 ") == len(lines) and all(line in came for line in lines)


def nothing(came: bytes) -> bool:
    return not came


EXPECTED: dict[str, tuple[str | None, Callable[[bytes], bool]]] = {
    "tcp": ("keep_alive_s", nothing),
    "tls": ("head_timeout_s", nothing),
    "head": ("head_timeout_s", answered(408)),
    "next_head": ("head_timeout_s", answered(200, 408)),
    "body": ("min_progress_bytes", answered(408)),
    "chunks": ("min_progress_bytes", answered(408)),
    "switching": ("head_timeout_s", answered(408)),
    "undecided": (None, answered(503)),
    "frames": ("assembly_timeout_s", closed_with(1008)),
    "fragments": ("assembly_timeout_s", closed_with(1008)),
    "silent": ("ping_timeout_s", closed_with(1011)),
    "closing": (None, closed_with(1002)),
    "response": ("min_progress_bytes", nothing),
    "messages": ("ping_timeout_s", nothing),
}


@pytest.mark.parametrize("phase", slow_clients.PHASES, ids=lambda phase: phase.__name__)
async def test_each_phase(phase: Phase, port: Port) -> None:
    """Each is answered, or cut, as the table says; and when they are gone nothing of them is left."""
    limit, expected = EXPECTED[phase.__name__]
    before = await asyncio.to_thread(port.ask)
    with port.spending() as spent:
        came = await at_once(port, phase, COUNT)
    after = await asyncio.to_thread(
        port.settled, lambda now: (now["connections"], now["tasks"]) == (1, before["tasks"])
    )
    assert all(map(expected, came)), came[:3]
    if limit is not None:
        assert after["exceeded"].get(limit, 0) - before["exceeded"].get(limit, 0) == COUNT, (limit, after, before)
    assert spent.peak <= COUNT * EACH + MARGIN, spent
    assert spent.cpu_s < 2, spent


class TestCaps:
    """They hold for slow clients, too, and let others in when these are gone (RFC 9110 §15.6.4, §10.2.3)."""

    @pytest.mark.parametrize("cap", ["max_connections", "max_connections_per_address"])
    @pytest.mark.parametrize("phase", [slow_clients.head, slow_clients.frames], ids=lambda phase: phase.__name__)
    async def test_slow_ones_take_no_more_places(self, phase: Phase, cap: str, tls: Tls) -> None:
        limits = {**SHORT["limits"], "head_timeout_s": 1.5, "assembly_timeout_s": 1.5, cap: 10}
        with attacked(tls, limits=limits, keepalive=None) as port:
            async with slow_ones(port, phase, 10), asyncio.timeout(GUARD_S):
                answer = await asked(port)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nretry-after: 5\r\n" in answer.lower()
                if cap == "max_connections_per_address":
                    assert (await asked(port, "127.0.0.2")).startswith(b"HTTP/1.1 200 ")
            async with asyncio.timeout(GUARD_S):
                while (await asked(port)).startswith(b"HTTP/1.1 503 "):
                    await asyncio.sleep(0.05)
            now = await asyncio.to_thread(port.settled, lambda now: now["connections"] == 1)
            assert now["refused"]["503"] > 0


async def asked(port: Port, address: str = "127.0.0.1") -> bytes:
    """The answer to one request, from a connection of its own that comes from `address`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port.port, local_addr=(address, 0))
    writer.write(get(Connection="close"))
    answer = await reader.read()
    writer.close()
    return answer


@contextlib.asynccontextmanager
async def slow_ones(port: Port, phase: Phase, count: int) -> AsyncIterator[None]:
    """So many that are there, and have been cut by the end."""
    attack = asyncio.ensure_future(at_once(port, phase, count))
    try:
        async with asyncio.timeout(GUARD_S):
            while _established(port) < count:
                await asyncio.sleep(0.01)
        yield
        assert len(await attack) == count
    finally:
        attack.cancel()


def _established(port: Port) -> int:
    """How many connections the process has on its port, as the kernel knows (proc(5))."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    local = f"0100007F:{port.port:04X}"
    return sum(fields[1] == local and fields[3] == "01" for fields in map(str.split, lines))


class Legitimate:
    """A client of good manners on two connections, one for each protocol: how long it waits for what it asks for."""

    def __init__(self, port: Port) -> None:
        self._http = socket.create_connection(("127.0.0.1", port.port), GUARD_S)
        self._ws = socket.create_connection(("127.0.0.1", port.port), GUARD_S)
        self._ws.sendall(upgrade("/echo"))
        assert b" 101 " in self._ws.recv(4096)

    def __enter__(self) -> Legitimate:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._ws.close()

    def p99_us(self, count: int) -> float:
        """The 99th percentile of so many."""
        waited = []
        for number in range(count):
            began = time.perf_counter()
            if number % 2:
                self._http.sendall(get())
                assert self._http.recv(4096).endswith(b"Hello, world!")
            else:
                self._ws.sendall(frame(BINARY, b"Hello, world!"))
                came = b""
                while b"\x82\x0dHello, world!" not in came:  # perhaps beside a ping, for which it is enough to go on
                    piece = self._ws.recv(4096)
                    assert piece, came
                    came += piece
            waited.append(time.perf_counter() - began)
            time.sleep(0.0005)
        return statistics.quantiles(waited, n=100)[98] * 1e6


def p99_us(port: Port, count: int, slices: int) -> float:
    """Of each slice the 99th percentile, and of these the median: a hiccup of the machine spoils but one."""
    with Legitimate(port) as client:
        client.p99_us(100)  # warm
        return statistics.median(client.p99_us(count) for _ in range(slices))


@contextlib.contextmanager
def attack(port: Port, count: int, every_s: float) -> Iterator[dict[str, int]]:
    """A crowd of slow clients; afterwards, how many connections each phase has had."""
    command = [sys.executable, "-m", "tests.hostile.slow_clients", str(port.port), str(port.tls_port)]
    process = subprocess.Popen(
        [*command, str(count), str(every_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    came: dict[str, int] = {}
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield came
            assert process.stdin is not None
            process.stdin.close()
            came.update(json.loads(process.stdout.readline()))
        finally:
            process.kill()


def test_others_hardly_notice(tls: Tls) -> None:
    """The 99th percentile of what a legitimate client waits, under attack and without."""
    connections, every_s, count, slices = (500, 0.2, 4000, 9) if LONG else (120, 0.1, 400, 5)
    with attacked(tls, **(DEFAULT if LONG else PATIENT)) as port:
        before = p99_us(port, count, slices)
        with attack(port, connections, every_s) as came, port.spending() as spent:
            under = p99_us(port, count, slices)
        port.settled(lambda now: now["connections"] == 1)
        after = p99_us(port, count, slices)
    print(f"\np99: {before:.0f} and {after:.0f} µs alone, {under:.0f} µs with {connections} slow ones", came, spent)
    assert set(came) == {phase.__name__ for phase in (*slow_clients.PHASES, slow_clients.churn)}
    most = 2 * max(before, after) + 200 if LONG else 5 * max(before, after) + 20_000
    assert under <= most
