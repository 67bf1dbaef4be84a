"""The process under attack, as a server or as a client: asked from outside, with its memory and its CPU time."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import support
from tests.wire import raw

GUARD_S = support.GUARD_S
KIB, MIB = 1024, 1024 * 1024


def settled(
    ask: Callable[[], dict[str, Any]], condition: Callable[[dict[str, Any]], object], within_s: float = GUARD_S
) -> dict[str, Any]:
    """The answer, as soon as it fulfils `condition`: asked again and again, but not so often that it is a load."""
    deadline = time.monotonic() + within_s
    while not condition(told := ask()):
        assert time.monotonic() < deadline, told
        time.sleep(0.02)
    return told


class Target:
    """The process, asked and measured from outside; with `client` it is attacked by servers that it connects to."""

    def __init__(self, pid: int, port: int, *, client: bool = False) -> None:
        self.pid = pid
        self.port = port
        self.client = client
        self.key = None if client else b"\x01\x02\x03\x04"  # a client's frames are masked, a server's are not
        self.mask_bit = 0 if client else 0x80
        self._proc = Path(f"/proc/{pid}")

    def frame(self, first: int, payload: bytes = b"") -> bytes:
        """A frame from its peer."""
        return raw.frame(first, payload) if self.client else support.frame(first, payload)

    def close_frame(self, code: int, reason: str = "") -> bytes:
        return self.frame(support.CLOSE, code.to_bytes(2, "big") + reason.encode())

    def ask(self, path: str = "/stats") -> dict[str, Any]:
        """What it tells of itself, over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=GUARD_S)
        try:
            connection.request("GET", path)
            told: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return told

    def settled(
        self, condition: Callable[[dict[str, Any]], object], path: str = "/stats", within_s: float = GUARD_S
    ) -> dict[str, Any]:
        """What it tells as soon as that fulfils `condition`."""
        return settled(lambda: self.ask(path), condition, within_s)

    def _memory(self, name: str) -> int:
        status = dict(line.split(":", 1) for line in (self._proc / "status").read_text().splitlines())
        return int(status[name].split()[0]) * KIB

    @property
    def memory(self) -> int:
        """Resident bytes, with whatever is garbage collected first."""
        self.ask()
        return self._memory("VmRSS")

    @property
    def cpu_s(self) -> float:
        fields = (self._proc / "stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @contextlib.contextmanager
    def spending(self) -> Iterator[Spent]:
        """What the block in it makes the server spend."""
        self.ask()
        (self._proc / "clear_refs").write_text("5")  # the peak begins anew: proc(5)
        before, cpu = self._memory("VmRSS"), self.cpu_s
        spent = Spent()
        yield spent
        spent.peak = self._memory("VmHWM") - before
        spent.cpu_s = self.cpu_s - cpu
        spent.held = self.memory - before


class Spent:
    """Bytes of memory at most, bytes of memory afterwards, seconds of CPU time."""

    peak = 0
    held = 0
    cpu_s = 0.0

    def __repr__(self) -> str:
        return f"Spent(peak={self.peak / KIB:.0f} KiB, held={self.held / KIB:.0f} KiB, cpu={self.cpu_s:.2f} s)"


@contextlib.contextmanager
def target(*, client: bool = False, **options: Any) -> Iterator[Target]:
    """A process to attack."""
    with running("server.py", options) as (pid, [port]):
        yield Target(pid, port, client=client)


@contextlib.contextmanager
def running(script: str, options: dict[str, Any]) -> Iterator[tuple[int, list[int]]]:
    """The process of a script of this folder, and its ports; it must end well, without a word of warning."""
    command = [sys.executable, str(Path(__file__).with_name(script)), json.dumps(options)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            with process:
                assert process.stdout is not None
                yield process.pid, [int(port) for port in process.stdout.readline().split()]
            said.seek(0)
            complaints = said.read().decode()
            assert not complaints, complaints
            assert process.returncode == 0
        finally:
            process.kill()
