"""The demo's HTTP side, an ASGI application: the page, its files, and ``/hello``, which says who asks and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Address = tuple[str, int]

TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; "
        b"object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
NOTHING: Final = (
    b"Nothing here: the page is at /, a greeting at /hello, the WebSocket at /live, Socket.IO at /socket.io.\n"
)


def address(pair: Address | None) -> str:
    """``host:port``, with brackets around an IPv6 host (RFC 3986 §3.2.2); None, as on a Unix socket, is ``local``."""
    if pair is None:
        return "local"
    host, port = pair[0], pair[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Site:
    """What is served over plain HTTP. `answering` is told of each request, with who asks."""

    def __init__(self, answering: Callable[[Address | None], object]) -> None:
        self._answering = answering
        self._files: dict[str, tuple[str, bytes]] = {}
        for file in resources.files("portico.demo").joinpath("page").iterdir():
            kind = TYPES.get(file.name[file.name.rfind(".") :])
            if kind is not None:
                path = "/" if file.name == "index.html" else f"/{file.name}"
                self._files[path] = f"{kind}; charset=utf-8", file.read_bytes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._answer(scope, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": "WebSocket is at /live"})
            case "lifespan":
                for stage in ("startup", "shutdown"):
                    await receive()
                    await send({"type": f"lifespan.{stage}.complete"})

    async def _answer(self, scope: Scope, send: Send) -> None:
        client = scope.get("client")
        peer = (client[0], client[1]) if client else None
        self._answering(peer)
        kind, status = "text/plain; charset=utf-8", 200
        more: tuple[tuple[bytes, bytes], ...] = ()
        if scope["method"] not in ("GET", "HEAD"):
            status, body, more = 405, b"Expected GET or HEAD.\n", ((b"allow", b"GET, HEAD"),)
        elif scope["path"] == "/hello":
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            body = f"Hello {address(peer)}, it is {now}.\n".encode()
        elif scope["path"] in self._files:
            kind, body = self._files[scope["path"]]
        else:
            status, body = 404, NOTHING
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body)), *HEADERS, *more]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
