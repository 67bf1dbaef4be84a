"""What the attacks share: the server's process with its memory and CPU time, and a neighbour that nothing may touch."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

from tests.support import BINARY, TEXT, Peer, close_frame, frame, upgrade

GUARD_S = 20.0
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
    """The server's process, asked and measured from outside."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port
        self._proc = Path(f"/proc/{pid}")

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
def target(**options: Any) -> Iterator[Target]:
    """A server's process; it must end well, without a word of warning."""
    script = Path(__file__).with_name("server.py")
    command = [sys.executable, str(script), json.dumps(options)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            with process:
                assert process.stdout is not None
                yield Target(process.pid, int(process.stdout.readline()))
            said.seek(0)
            complaints = said.read().decode()
            assert not complaints, complaints
            assert process.returncode == 0
        finally:
            process.kill()


class Neighbour(threading.Thread):
    """A well-behaved connection to the same server: echoes before, during and after, and closes in good order."""

    def __init__(self, port: int) -> None:
        super().__init__(name="neighbour")
        self.count = 0
        self.worst_s = 0.0
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._sock = socket.create_connection(("127.0.0.1", port), GUARD_S)

    def __enter__(self) -> Self:
        self._sock.sendall(upgrade("/echo"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._sock.recv(1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        self._echo()
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        self.join()
        try:
            if kind is None:
                assert self._error is None, self._error
                self._echo()
                self._sock.sendall(close_frame(1000))
                assert self._exactly(4) == b"\x88\x02\x03\xe8"
                assert self._sock.recv(1) == b""
        finally:
            self._sock.close()

    def run(self) -> None:
        try:
            self._echo()
            while not self._over.wait(0.002):
                self._echo()
        except BaseException as error:
            self._error = error

    def _echo(self) -> None:
        self.count += 1
        payload = b"neighbour %d" % self.count
        began = time.monotonic()
        self._sock.sendall(frame(BINARY, payload))
        assert self._exactly(2 + len(payload)) == bytes((BINARY, len(payload))) + payload
        self.worst_s = max(self.worst_s, time.monotonic() - began)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._sock.recv(size - len(data))
            assert piece, "the neighbour's connection was ended"
            data += piece
        return data


def told(kind: str, data: bytes) -> tuple[int, bytes]:
    """The answer of the server's endpoint to a message."""
    return TEXT, f"{kind} {len(data)} {hashlib.sha256(data).hexdigest()}".encode()


@contextlib.asynccontextmanager
async def peer_at(server: Target, path: str, receive_buffer: int = 0, **headers: str) -> AsyncIterator[Peer]:
    async with await Peer.connect(server.port, receive_buffer=receive_buffer) as peer:
        await peer.open(path, **headers)
        yield peer


async def echoes(peer: Peer) -> None:
    """The connection still does what it is for."""
    peer.send(frame(TEXT, b"still there?"))
    assert await peer.frame() == told("str", b"still there?")
