"""A tunnel through an HTTP proxy (RFC 9110 §9.3.6): CONNECT on a fresh socket, before anything else is spoken on it."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Final

MAX_ANSWER_BYTES: Final = 32 * 1024
SHOWN_BYTES: Final = 60
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}(?: [^\r\n]*)?\r")
_BEGINNING = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}[ \r]")
_GOOD: Final = b"HTTP/1.1 200 "
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=[^\n])|(?<!\r)\n")  # RFC 9110 §5.5


class ProxyRefused(OSError):
    """The proxy did not open the tunnel. ``head`` is the head that it sent, without its empty line, and ``status`` the
    status in it; None where no whole head came. ``rest`` is what has come of the body."""

    def __init__(self, message: str, head: bytes = b"", status: int | None = None, rest: bytes = b"") -> None:
        super().__init__(message)
        self.head = head
        self.status = status
        self.rest = rest


async def open_tunnel(sock: socket.socket, request: bytes) -> None:
    """Send `request`, a CONNECT head, and read the proxy's answer up to its empty line; interim ones (1xx) are skipped.

    Raises ProxyRefused where it is not 2xx, too long, cut, or followed by bytes that nobody asked for, where a control
    character is in it, and as soon as it can't become HTTP/1.1 any more.
    """
    loop = asyncio.get_running_loop()
    answer = b""
    total = 0
    try:
        await loop.sock_sendall(sock, request)
        while True:
            _check_beginning(answer)
            head, end, rest = answer.partition(b"\r\n\r\n")
            if end:
                if _FORBIDDEN.search(head):
                    raise ProxyRefused("the proxy's answer to CONNECT has a control character in its head")
                if head[9:10] != b"1" or head[9:12] == b"101":  # 101 nobody asked for
                    break
                answer = rest
                continue
            if total > MAX_ANSWER_BYTES:
                raise ProxyRefused(f"the proxy's answer to CONNECT is longer than {MAX_ANSWER_BYTES} bytes")
            piece = await loop.sock_recv(sock, 4096)
            if not piece:
                raise ProxyRefused("the proxy closed the connection before it had answered CONNECT")
            answer += piece
            total += len(piece)
    except ConnectionError as error:
        raise ProxyRefused(f"the proxy was lost before it had answered CONNECT: {error}") from error
    if head[9:10] != b"2":
        came = head.partition(b"\r\n")[0][9 : 9 + SHOWN_BYTES].decode("latin-1")
        came = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in came)  # 0x80-0x9F are controls to a terminal
        raise ProxyRefused(f"the proxy answered CONNECT with {came}", head, int(head[9:12]), rest)
    if rest:
        raise ProxyRefused(f"the proxy sent more than its answer to CONNECT: {rest[:SHOWN_BYTES]!r}", head)


def _check_beginning(answer: bytes) -> None:
    """Raise ProxyRefused where `answer`, as far as it has come, can't begin with a status line."""
    size = len(_GOOD)
    good = _BEGINNING.match(answer[:size] + _GOOD[len(answer) :])  # with what might still come
    line, end, _ = answer.partition(b"\n")
    if good is None or (end and _STATUS_LINE.fullmatch(line) is None):
        first = answer.partition(b"\r\n")[0][:SHOWN_BYTES]
        raise ProxyRefused(f"the proxy's answer to CONNECT is no HTTP/1.1: it begins with {first!r}")
