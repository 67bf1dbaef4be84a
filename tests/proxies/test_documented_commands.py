"""The commands of the page on deployment: those of the systemd unit and of the container, started as these would."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.proxies.running import PAGE
from tests.support import free_port

GUARD_S = 30.0
APP = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": repr(scope["client"][0]).encode()})
"""
# As systemd does it: the descriptor 3, and the number of the process that is meant.
AS_SYSTEMD = """
import os, sys
for fd in os.environ.pop("PASSED").split():
    os.dup2(int(fd), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def units() -> dict[str, configparser.ConfigParser]:
    """The unit files, by their names' ends."""
    found = {}
    for name, text in re.findall(
        r"^```ini\n# \S+\.(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    ):
        found[name] = configparser.ConfigParser()
        found[name].optionxform = str  # type: ignore[assignment] # as configparser's documentation has it
        found[name].read_string(text)
    return found


@contextlib.contextmanager
def running(
    directory: pathlib.Path, command: list[str], *, listening: socket.socket | None = None, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    (directory / "app.py").write_text(APP)
    passed = [listening.fileno()] if listening else []
    program, *arguments = command
    assert pathlib.Path(program).name == "portico"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LISTEN_", "NOTIFY_"))}
    process = subprocess.Popen(
        [sys.executable, "-c", AS_SYSTEMD, "-m", "portico", *arguments],
        cwd=directory,
        env=kept | environment | {"PASSED": " ".join(map(str, passed))},
        stdout=subprocess.DEVNULL,
        pass_fds=passed,
    )
    try:
        yield process
        assert process.wait(GUARD_S) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def get(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, GUARD_S) as sock, sock.makefile("rb") as file:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\nConnection: close\r\n\r\n")
        return file.read()


@pytest.fixture
def notified(tmp_path: pathlib.Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(GUARD_S)
        sock.bind(str(tmp_path / "notify"))
        yield sock


def test_the_systemd_unit(tmp_path: pathlib.Path, notified: socket.socket) -> None:
    """Its service with its socket: a connection that came before the start is answered, the start and stop are told."""
    service = units()["service"]["Service"]
    host, port = units()["socket"]["Socket"]["ListenStream"].split(":")
    assert (host, int(port)) == ("127.0.0.1", 8000)
    assert service["Type"] == "notify"
    with socket.create_server((host, 0)) as listening:
        name = notified.getsockname()
        command = shlex.split(service["ExecStart"])
        with running(tmp_path, command, listening=listening, LISTEN_FDS="1", NOTIFY_SOCKET=name) as process:
            assert b"'127.0.0.1'" in get(listening.getsockname())
            assert notified.recv(100) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            assert notified.recv(100) == b"STOPPING=1"


def test_the_container(tmp_path: pathlib.Path, notified: socket.socket) -> None:
    """Process 1 is the server itself; and what the ingress says of its client holds."""
    [line] = re.findall(r"^CMD (\[.*\])$", PAGE.read_text("utf-8"), re.MULTILINE)
    port = free_port()
    name = notified.getsockname()
    with running(tmp_path, json.loads(line), PORTICO_PORT=str(port), NOTIFY_SOCKET=name) as process:
        assert notified.recv(100) == b"READY=1"
        assert b"'203.0.113.7'" in get(("127.0.0.1", port))
        process.send_signal(signal.SIGTERM)
