"""The two system calls of a stream, on sockets that don't wait.

Both have a hand-written twin, ``_calls.pyx``, held to the same tests. It keeps the GIL, as neither call waits; but for
one `send` in 64, so that a broadcast to very many does not keep other threads waiting until its end.
"""

from __future__ import annotations

import socket
from typing import Any


def _receive(sock: socket.socket, fd: int, buffer: bytearray) -> int:
    """Read into `buffer`; returns how many bytes, 0 at the peer's end, -1 where there is nothing. Raises OSError."""
    try:
        return sock.recv_into(buffer)
    except (BlockingIOError, InterruptedError):
        return -1


def _send(sock: socket.socket, fd: int, data: Any) -> int:
    """Write `data`, which is bytes-like; returns how many bytes were taken. Raises OSError."""
    try:
        return sock.send(data)
    except (BlockingIOError, InterruptedError):
        return 0


try:
    from portico.net import _calls as _twin  # type: ignore[attr-defined, unused-ignore] # compiled, or not there
except ImportError:
    receive, send = _receive, _send
else:
    receive, send = _twin.receive, _twin.send
