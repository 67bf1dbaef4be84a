"""Started by systemd, or by whoever speaks its protocols: sd_listen_fds(3) and sd_notify(3), with real processes."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from tests.support import GUARD_S

from portico.errors import LocalError
from portico.net import activation

CHILD = """
import asyncio, os, sys, portico
from portico.server.server import until_signal

async def app(scope, receive, send):
    if scope["type"] == "http":
        left = [name for name in os.environ if name.startswith("LISTEN_")]
        body = repr((scope["server"], sorted(left))).encode()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})

async def main():
    async with portico.serve(app, bind=sys.argv[1:]) as server:
        asyncio.get_running_loop().call_soon(print, server.addresses)  # once signals are heard
        await until_signal(server)

try:
    asyncio.run(main())
except portico.LocalError as error:
    print("LocalError:", error, flush=True)
"""
# As systemd does it: the descriptors from 3 on, and the number of the process that is meant.
AS_SYSTEMD = """
import fcntl, os, sys
passed = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 50) for fd in os.environ.pop("PASSED").split()]
for place, fd in enumerate(passed, 3):
    os.dup2(fd, place)
os.environ["LISTEN_PID"] = str(os.getpid() + int(os.environ.pop("OFF", "0")))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@contextlib.contextmanager
def child(
    *places: str, socks: list[socket.socket], starts: bool = True, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A server in a process that gets `socks` as its descriptors from 3 on; it ends by itself unless it `starts`."""
    kept = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    process = subprocess.Popen(
        [sys.executable, "-c", AS_SYSTEMD, "-u", "-c", CHILD, *places],
        env=kept | environment | {"PASSED": " ".join(str(sock.fileno()) for sock in socks)},
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[sock.fileno() for sock in socks],
    )
    try:
        yield process
    finally:
        if starts:
            process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD_S) == 0
        assert process.stdout is not None
        process.stdout.close()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def get(family: int, address: object) -> str:
    with socket.socket(family) as sock:
        sock.settimeout(GUARD_S)
        sock.connect(address)  # type: ignore[arg-type] # of this family
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        with sock.makefile("rb") as file:
            return file.read().partition(b"\r\n\r\n")[2].decode()


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def unix(tmp_path: pathlib.Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        yield sock


def test_an_inherited_descriptor(tcp: socket.socket) -> None:
    with child("fd://3", socks=[tcp]) as process:
        assert first_line(process).strip() == repr([tcp.getsockname()])
        assert get(socket.AF_INET, tcp.getsockname()).startswith(repr((tcp.getsockname(),))[:-2])


def test_every_socket_of_systemd(tcp: socket.socket, unix: socket.socket) -> None:
    """Named or not; the variables are gone afterwards, so that no child of the server believes them."""
    with child("systemd", socks=[tcp, unix], LISTEN_FDS="2", LISTEN_FDNAMES="web:local") as process:
        assert first_line(process).strip() == repr([tcp.getsockname(), unix.getsockname()])
        assert get(socket.AF_INET, tcp.getsockname()) == repr((tcp.getsockname(), []))
        assert get(socket.AF_UNIX, unix.getsockname()) == repr((None, []))
    assert pathlib.Path(unix.getsockname()).exists(), "systemd's file is systemd's"


def test_sockets_by_name(tcp: socket.socket, unix: socket.socket) -> None:
    names = "web:local"
    with child("systemd:local", "127.0.0.1:0", socks=[tcp, unix], LISTEN_FDS="2", LISTEN_FDNAMES=names) as process:
        assert first_line(process).startswith(f"[{unix.getsockname()!r}, ('127.0.0.1', ")
        assert get(socket.AF_UNIX, unix.getsockname())


def test_connections_wait_in_a_socket_that_stays_open_over_a_restart(tcp: socket.socket) -> None:
    """What socket activation is for: no connection is refused while the server is not there."""
    with child("systemd", socks=[tcp], LISTEN_FDS="1") as process:
        first_line(process)
    with socket.create_connection(tcp.getsockname(), GUARD_S) as early:
        early.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        with child("systemd", socks=[tcp], LISTEN_FDS="1"), early.makefile("rb") as file:
            assert file.read().startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "no socket was passed by systemd"),
        ({"LISTEN_FDS": "1", "OFF": "1"}, "no socket was passed by systemd"),  # meant for another process
        ({"LISTEN_FDS": "one"}, "LISTEN_FDS='one': expected a number"),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}, "no socket named 'local' was passed by systemd"),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "local"}, "expected a stream socket"),
    ],
)
def test_what_was_not_passed(environment: dict[str, str], said: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with child("systemd:local", socks=[sock], starts=False, **environment) as process:
            assert said in first_line(process)


def test_one_started_for_each_connection_is_told_so(tcp: socket.socket) -> None:
    """A socket unit with ``Accept=yes`` passes connected sockets."""
    with socket.create_connection(tcp.getsockname()):
        accepted, _ = tcp.accept()
        with accepted, child("systemd", socks=[accepted], starts=False, LISTEN_FDS="1") as process:
            assert "Accept=no" in first_line(process)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_of_the_start_and_the_stop(tcp: socket.socket, tmp_path: pathlib.Path, abstract: bool) -> None:
    name = f"@portico-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.settimeout(GUARD_S)
        notified.bind("\0" + name[1:] if abstract else name)
        with child("fd://3", socks=[tcp], NOTIFY_SOCKET=name):
            assert notified.recv(100) == b"READY=1"
            assert get(socket.AF_INET, tcp.getsockname())
        assert notified.recv(100) == b"STOPPING=1"


def test_telling_nobody_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    for path in ("", str(tmp_path / "none"), "@portico-nobody", "x" * 300):
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        assert not activation.notify("READY=1")


def test_a_reload_is_told_with_its_time(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """``Type=notify-reload`` wants it on CLOCK_MONOTONIC, in microseconds."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        before = time.monotonic()
        assert activation.notify_reloading()
        state, moment = notified.recv(100).decode().split("\n")
        assert state == "RELOADING=1"
        assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) / 1e6 + 1e-6 <= time.monotonic() + 1e-6


def test_a_process_of_its_own_was_passed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert not activation.offered()
    with pytest.raises(LocalError, match=r"has to be started by a \.socket unit"):
        activation.take()
