"""What every measured server shares: its command line, its TLS context and the ASGI application. No server code."""

from __future__ import annotations

import argparse
import contextlib
import ssl
from typing import Any

HOST = "127.0.0.1"
HELLO = b"Hello, world!"
MEBIBYTE = bytes(1024 * 1024)
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


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application: a 13-byte page, what reads a body (``/post``), 1 MiB (``/download``), and an echo."""
    if scope["type"] == "http":
        if scope["path"] != "/":
            await page(scope["path"], receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"13")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": HELLO})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        with contextlib.suppress(OSError):  # the peer left while we sent
            await echo(receive, send)
    else:
        await lifespan(receive, send)


async def page(path: str, receive: Any, send: Any) -> None:
    if path == "/post":
        while (await receive()).get("more_body", False):
            pass
    body = MEBIBYTE if path == "/download" else HELLO
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(receive: Any, send: Any) -> None:
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": event.get("bytes"), "text": event.get("text")})


async def lifespan(receive: Any, send: Any) -> None:
    while True:
        phase = (await receive())["type"]
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return
