"""`connect`: a WebSocket to a URI, through redirects, and again and again where that is wanted."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl as ssl_module
from collections.abc import AsyncIterator, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final
from urllib.parse import urljoin

from portico.client.attempt import Attempt, Options
from portico.client.backoff import Backoff, Delays, may_come_back
from portico.client.proxies import parse_proxy
from portico.errors import HandshakeError, LocalError
from portico.limits import Deflate, Keepalive, Limits
from portico.websocket import Endpoint, WebSocket
from portico.wire.handshake import new_key
from portico.wire.uri import Uri, parse_uri

REDIRECTS: Final = frozenset({300, 301, 302, 303, 307, 308})
MAX_REDIRECTS: Final = 10
CREDENTIALS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})

HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]


class Connect:
    """What `connect` returns: ``async with``, ``await``, or ``async for`` to come back whenever the connection ends."""

    def __init__(self, uri: Uri, options: Options, backoff: Backoff) -> None:
        self._uri = uri
        self._options = options
        self._backoff = backoff
        self._ws: WebSocket | None = None

    def __await__(self) -> Generator[Any, None, WebSocket]:
        return self._open().__await__()

    async def __aenter__(self) -> WebSocket:
        self._ws = await self._open()
        return self._ws

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ws, self._ws = self._ws, None
        if ws is not None:
            await ws.close(1000 if kind is None else 1011)

    async def __aiter__(self) -> AsyncIterator[WebSocket]:
        if self._options.sock is not None:
            self._options.sock.close()
            raise LocalError("async for over connect(sock=…): a socket can be used once; expected async with, or uds=")
        delays = Delays(self._backoff)
        loop = asyncio.get_running_loop()
        while True:
            try:
                ws = await self._open()
            except (OSError, HandshakeError) as error:
                if not may_come_back(error):
                    raise
                delay = delays.after_failure(error)
            else:
                opened = loop.time()
                try:
                    yield ws
                finally:
                    await ws.close()  # waits until TCP has ended: there are never two
                delay = delays.after_connection(loop.time() - opened)
            await asyncio.sleep(delay)

    async def _open(self) -> WebSocket:
        """Connect, following redirects (never from wss to ws; credentials stay with their origin)."""
        uri = self._uri
        headers = self._options.headers
        for _ in range(MAX_REDIRECTS + 1):
            attempt = Attempt(uri, headers, self._options)
            try:
                return await attempt.run()
            except HandshakeError as error:
                if not attempt.answered:
                    raise  # it was a proxy's answer; nothing that it says leads elsewhere
                answer = error
                there = self._redirect(uri, error)
                if there is None:
                    raise
            if there.origin != uri.origin:
                headers = [(name, value) for name, value in headers if name.lower() not in CREDENTIALS]
            uri = there
        raise _not_followed(answer, f"more than {MAX_REDIRECTS} redirects, the last one to {uri}")

    def _redirect(self, uri: Uri, answer: HandshakeError) -> Uri | None:
        """Where an answer sends us; None where it does not. Raises HandshakeError where that is no place to go."""
        places = [value for name, value in answer.headers if name == "location"]
        if answer.status not in REDIRECTS or not places:
            return None
        if len(places) > 1:
            raise _not_followed(answer, f"redirected to {len(places)} places at once")
        try:
            there = parse_uri(_resolve(uri, places[0]))
        except ValueError as wrong:  # LocalError is one
            raise _not_followed(answer, f"redirected to what is no WebSocket's address: {wrong}") from None
        if uri.secure and not there.secure:
            raise _not_followed(answer, f"redirected from wss to {there}: not followed, it is not encrypted")
        if there.origin != uri.origin:
            if self._options.uds is not None:
                raise _not_followed(answer, f"redirected to {there}, which is not behind uds={self._options.uds!r}")
        elif there.credentials is None:
            there.credentials = uri.credentials
        if self._options.sock is not None:
            raise _not_followed(answer, f"redirected to {there}: not followed, sock= can be used once")
        return there


def _resolve(uri: Uri, location: str) -> str:
    """Location as a ws: or wss: URI without a fragment (RFC 9110 §10.2.2); http: and https: mean the same here."""
    base = f"http{'s' if uri.secure else ''}://{uri.authority}{uri.target}"
    place = urljoin(base, location).partition("#")[0]
    scheme, colon, rest = place.partition(":")
    return {"http": "ws", "https": "wss"}.get(scheme.lower(), scheme) + colon + rest


def _not_followed(answer: HandshakeError, message: str) -> HandshakeError:
    return HandshakeError(message, status=answer.status, headers=answer.headers, body=answer.body)


def connect(
    uri: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: HeaderItems = (),
    origin: str | None = None,
    ssl: ssl_module.SSLContext | None = None,
    proxy: bool | str | None = True,
    deflate: Deflate | None = Deflate(),  # noqa: B008 # frozen
    limits: Limits = Limits(),  # noqa: B008 # frozen
    keepalive: Keepalive | None = Keepalive(),  # noqa: B008 # frozen
    backoff: Backoff = Backoff(),  # noqa: B008 # frozen
    open_timeout_s: float = 10.0,
    exclusive: bool = True,
    endpoint: Endpoint | None = None,
    sock: socket.socket | None = None,
    uds: str | os.PathLike[str] | None = None,
) -> Connect:
    """Open a WebSocket to `uri` (``ws:`` or ``wss:``, RFC 6455 §3).

    ::

        async with portico.connect("wss://example.com/feed") as ws: ...
        ws = await portico.connect("ws://localhost:8000/echo")
        async for ws in portico.connect("wss://example.com/feed"): ...  # again and again, with full-jitter backoff

    - `subprotocols`, `headers`, `origin`: sent with the request. User and password in the URI become Basic credentials.
    - `ssl`: a client-side ``ssl.SSLContext``; default: the system's certificates and the host's name are verified.
    - `proxy`: True takes it from the environment: HTTPS_PROXY, for ws: else HTTP_PROXY, and NO_PROXY. A URL
      (``http://user:password@host:port``) is used; None goes directly. It is asked for a tunnel (CONNECT) always.
    - `open_timeout_s`: for looking up the name, and then once for all of TCP, proxy, TLS and opening handshake; it is
      not renewed by what comes, begins anew with each redirect, and does not run while this waits for its turn.
    - `exclusive`: at most one connection to an address and port is CONNECTING at a time (RFC 6455 §4.1); False is
      outside the RFC, for load tools.
    - `endpoint`: callbacks instead of ``recv()``.
    - `sock`: a connected socket, from now on this connection's, closed whatever happens. `uds`: a Unix socket's path.
      The URI says what is asked there; no proxy is used.
    - `deflate`, `limits`, `keepalive`: as for `portico.serve`.
    - `backoff`: how ``async for`` waits before it comes back, a `portico.Backoff`. It waits at least as
      long as Retry-After asks, comes back after whatever may pass, and raises what does not: a status that says never
      (401, 404, …), an answer that is no WebSocket's, a certificate that is wrong. Leaving the loop closes; the next
      connection is made only when the last one has ended.

    Raises LocalError at once for a wrong argument. Connecting raises HandshakeError (``status``, ``headers``, ``body``)
    where the server or the proxy answers otherwise than RFC 6455 §4.1 wants, or ends the connection before it has
    answered; ``status`` is None where no status came. It raises OSError where nobody answers: TimeoutError after
    `open_timeout_s`, `socket.gaierror` without an address, `ssl.SSLError` where TLS fails
    (`ssl.SSLCertVerificationError`: not the host that was asked for), ConnectionRefusedError and the like. 3xx is
    followed up to ten times, never from wss to ws; ``Authorization`` and ``Cookie`` don't follow to another origin.
    """
    checks: list[tuple[str, Any, type]] = [
        ("ssl", ssl, ssl_module.SSLContext),
        ("deflate", deflate, Deflate),
        ("keepalive", keepalive, Keepalive),
        ("endpoint", endpoint, Endpoint),
        ("sock", sock, socket.socket),
    ]
    for name, value, kind in checks:
        if value is not None and not isinstance(value, kind):
            raise LocalError(f"{name}={value!r}: expected a {kind.__name__} or None")
    if not isinstance(limits, Limits) or not isinstance(backoff, Backoff):
        raise LocalError(f"limits={limits!r}, backoff={backoff!r}: expected a Limits and a Backoff")
    if ssl is not None and ssl.protocol is ssl_module.PROTOCOL_TLS_SERVER:
        raise LocalError("ssl: expected a client's context, as ssl.create_default_context() makes it, got a server's")
    if isinstance(subprotocols, str):
        raise LocalError(f"subprotocols={subprotocols!r}: expected a list of tokens")
    if not isinstance(open_timeout_s, int | float) or not 0 < open_timeout_s < float("inf"):
        raise LocalError(f"open_timeout_s={open_timeout_s!r}: expected seconds, more than 0")
    if isinstance(sock, ssl_module.SSLSocket):
        raise LocalError("sock: expected a plain socket; a wss: URI brings the TLS")
    if sock is not None and uds is not None:
        raise LocalError("sock= and uds=: expected one of them")
    if (sock is not None or uds is not None) and isinstance(proxy, str):
        raise LocalError("proxy=: expected none with sock= or uds=, which are connected directly")
    options = Options(
        subprotocols=tuple(subprotocols),
        headers=list(headers.items() if isinstance(headers, Mapping) else headers),
        origin=origin,
        ssl=ssl,
        proxy=proxy if proxy is None or isinstance(proxy, bool) else parse_proxy(proxy),
        deflate=deflate,
        limits=limits,
        keepalive=keepalive,
        open_timeout_s=open_timeout_s,
        exclusive=exclusive,
        endpoint=endpoint,
        sock=sock,
        uds=None if uds is None else os.fspath(uds),
    )
    place = parse_uri(uri)
    options.request(place, new_key(), options.headers)  # what can't be sent is found out now
    return Connect(place, options, backoff)
