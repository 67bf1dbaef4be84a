"""A tunnel through an HTTP proxy (RFC 9110 §9.3.6): CONNECT on a fresh socket, before anything else is spoken on it."""

from __future__ import annotations

import asyncio
import socket

MAX_ANSWER_BYTES = 32 * 1024


class ProxyRefused(OSError):
    """The proxy did not open the tunnel; ``answer`` is the head that it sent, perhaps empty."""

    def __init__(self, message: str, answer: bytes = b"") -> None:
        super().__init__(message)
        self.answer = answer


async def open_tunnel(sock: socket.socket, request: bytes) -> None:
    """Send `request`, a CONNECT head, and read the proxy's answer up to its empty line.

    Raises ProxyRefused where it is not 2xx, too long, cut, or followed by bytes that nobody asked for.
    """
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = await loop.sock_recv(sock, 4096)
        if not piece:
            raise ProxyRefused("the proxy closed the connection before it answered CONNECT", answer)
        answer += piece
        if len(answer) > MAX_ANSWER_BYTES:
            raise ProxyRefused(f"the proxy's answer to CONNECT is longer than {MAX_ANSWER_BYTES} bytes")
    head, _, rest = answer.partition(b"\r\n\r\n")
    words = head.partition(b"\r\n")[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ProxyRefused("the proxy's answer to CONNECT is no HTTP/1.1", head)
    if not words[1].startswith(b"2"):
        raise ProxyRefused(f"the proxy answered CONNECT with {words[1].decode('ascii')[:3]}", head)
    if rest:
        raise ProxyRefused("the proxy sent more than its answer to CONNECT", head)
