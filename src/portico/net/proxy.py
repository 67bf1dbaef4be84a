"""A tunnel through an HTTP proxy (RFC 9110 §9.3.6): CONNECT on a fresh socket, before anything else is spoken on it."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Final

MAX_ANSWER_BYTES: Final = 32 * 1024
SHOWN_BYTES: Final = 60
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?")


class ProxyRefused(OSError):
    """The proxy did not open the tunnel; ``answer`` is the head that it sent, perhaps cut or empty, and ``status``
    the status in it, None where it has none."""

    def __init__(self, message: str, answer: bytes = b"", status: int | None = None) -> None:
        super().__init__(message)
        self.answer = answer
        self.status = status


async def open_tunnel(sock: socket.socket, request: bytes) -> None:
    """Send `request`, a CONNECT head, and read the proxy's answer up to its empty line.

    Raises ProxyRefused where it is not 2xx, too long, cut, or followed by bytes that nobody asked for.
    """
    loop = asyncio.get_running_loop()
    answer = b""
    try:
        await loop.sock_sendall(sock, request)
        while b"\r\n\r\n" not in answer:
            piece = await loop.sock_recv(sock, 4096)
            if not piece:
                raise ProxyRefused("the proxy closed the connection before it had answered CONNECT", answer)
            answer += piece
            if len(answer) > MAX_ANSWER_BYTES:
                raise ProxyRefused(f"the proxy's answer to CONNECT is longer than {MAX_ANSWER_BYTES} bytes", answer)
    except ConnectionError as error:
        raise ProxyRefused(f"the proxy was lost before it had answered CONNECT: {error}", answer) from error
    head, _, rest = answer.partition(b"\r\n\r\n")
    first = head.partition(b"\r\n")[0]
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise ProxyRefused(
            f"the proxy's answer to CONNECT is no HTTP/1.1: it begins with {first[:SHOWN_BYTES]!r}", head
        )
    status = int(match[1])
    if not 200 <= status <= 299:
        came = first.partition(b" ")[2][:SHOWN_BYTES].decode("latin-1")
        raise ProxyRefused(f"the proxy answered CONNECT with {came}", head, status)
    if rest:
        raise ProxyRefused(f"the proxy sent more than its answer to CONNECT: {rest[:SHOWN_BYTES]!r}", head)
