"""Started by systemd: the sockets that it has opened for us, and telling it how we are.

Both are small text protocols, sd_listen_fds(3) and sd_notify(3). Without systemd nothing happens here.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Final

from portico.errors import LocalError

logger = logging.getLogger("portico.net")

FIRST_FD: Final = 3
VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

_waiting: list[tuple[str, int]] = []  # name and descriptor of what was passed and not yet asked for


def offered() -> bool:
    """Whether this process was passed sockets that nobody took yet."""
    return bool(_waiting) or os.environ.get("LISTEN_PID") == str(os.getpid())


def take(name: str | None = None) -> list[socket.socket]:
    """The sockets that were passed to this process, or those that the socket unit calls `name`
    (``FileDescriptorName=``); each is had once. The variables that say so are removed, so that no child believes them.

    Raises LocalError where there is none.
    """
    _waiting.extend(_passed())
    found = [entry for entry in _waiting if name is None or entry[0] == name]
    if not found:
        names = ", ".join(repr(each) for each, _ in _waiting)
        raise LocalError(
            f"no socket named {name!r} was passed by systemd: expected one of {names}"
            if names
            else "no socket was passed by systemd: LISTEN_FDS and LISTEN_PID are not set for this process; "
            "it has to be started by a .socket unit"
        )
    sockets: list[socket.socket] = []
    try:
        for entry in found:
            _waiting.remove(entry)
            sockets.append(inherited(entry[1]))
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets


def _passed() -> list[tuple[str, int]]:
    """What the environment says was passed, which is forgotten there."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []  # none, or meant for the process that started this one
    _, count, names = (os.environ.pop(variable, "") for variable in VARIABLES)
    count = count or "0"
    if not count.isascii() or not count.isdigit():
        raise LocalError(f"LISTEN_FDS={count!r}: expected a number (sd_listen_fds(3))")
    every = names.split(":") if names else []
    every += ["unknown"] * (int(count) - len(every))
    return [(name, FIRST_FD + index) for index, name in enumerate(every[: int(count)])]


def inherited(fd: int) -> socket.socket:
    """The socket with the descriptor `fd`, ours from here on and not for our children. Raises LocalError."""
    try:
        sock = socket.socket(fileno=fd)
        sock.set_inheritable(False)
    except OSError as error:
        raise LocalError(f"fd://{fd}: expected a socket: {error.strerror}") from error
    return sock


def notify(*states: str) -> bool:
    """Tell systemd, where it asked for it with ``Type=notify``: ``"READY=1"``, ``"STOPPING=1"``, ``"STATUS=…"``.

    Returns whether it was told. Failing to is no reason to end, and is logged at DEBUG.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(states).encode(), "\0" + path[1:] if path.startswith("@") else path)
    except (OSError, ValueError) as error:
        logger.debug("systemd could not be told %s: %s", states, error)
        return False
    return True


def notify_reloading() -> bool:
    """Tell systemd that a reload begins, as ``Type=notify-reload`` wants it; ``notify("READY=1")`` ends it."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
