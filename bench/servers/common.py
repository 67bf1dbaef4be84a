"""What every measured server shares: its command line, its TLS context and the 13-byte page. No server code."""

from __future__ import annotations

import argparse
import ssl
from typing import Any

HOST = "127.0.0.1"
HELLO = b"Hello, world!"
BACKLOG = 1024  # wsload opens up to 200 connections at once; no server should lose time to a full backlog


def arguments(*modes: str) -> argparse.Namespace:
    """Parse ``PORT [--tls CERT KEY] [--mode MODE]``; ``modes`` lists what ``--mode`` takes, the first by default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    if modes:
        parser.add_argument("--mode", choices=modes, default=modes[0])
    return parser.parse_args()


def tls_context(files: list[str] | None) -> ssl.SSLContext | None:
    """The server's TLS context, or None for plain TCP: the same for every server, with OpenSSL's defaults."""
    if files is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The 13-byte page as an ASGI application."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": HELLO})


async def lifespan(receive: Any, send: Any) -> None:
    while True:
        phase = (await receive())["type"]
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return
