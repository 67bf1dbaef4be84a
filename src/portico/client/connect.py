"""`connect`: a WebSocket to a URI, through redirects, and again and again where that is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import ssl as ssl_module
from collections.abc import AsyncIterator, Generator, Sequence
from types import TracebackType
from typing import Any, Final
from urllib.parse import urljoin

from portico.accounting import Counters
from portico.client.arguments import HeaderItems, Options, checked
from portico.client.attempt import Attempt
from portico.client.backoff import Backoff, Delays, may_come_back
from portico.errors import HandshakeError, LocalError
from portico.limits import Deflate, Keepalive, Limits
from portico.websocket import Endpoint, Settings, WebSocket
from portico.wire.handshake import new_key
from portico.wire.headers import Headers
from portico.wire.http1 import ResponseHead
from portico.wire.uri import Uri, parse_uri

REDIRECTS: Final = frozenset({300, 301, 302, 303, 307, 308})
MAX_REDIRECTS: Final = 10
CREDENTIALS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


class Connect:
    """What `connect` returns: ``async with``, ``await``, or ``async for`` to come back whenever the connection ends.

    It can be used again, and each use is a connection of its own; but only one ``async with`` at a time, for nothing
    would tell which one is left. With `sock` it can be used once.

    ``counters`` (`portico.Counters`): how all its connections ended, and which limits they reached.
    """

    def __init__(self, uri: Uri, options: Options, backoff: Backoff) -> None:
        self._uri = uri
        self._options = options
        self._backoff = backoff
        self.counters = Counters()
        self._settings = Settings(options.limits, options.keepalive, self.counters)
        self._entered = False
        self._ws: WebSocket | None = None
        self._sock_used = False

    def __await__(self) -> Generator[Any, None, WebSocket]:
        return self._open().__await__()

    async def __aenter__(self) -> WebSocket:
        if self._entered:
            raise LocalError(
                "async with over a connect(…) that is in an async with already: expected one connect(…) each"
            )
        self._entered = True
        try:
            self._ws = await self._open()
        except BaseException:
            self._entered = False
            raise
        return self._ws

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ws, self._ws = self._ws, None
        self._entered = False
        if ws is not None:
            # What is no Exception was not the block's fault: it was cancelled, or the program ends.
            await ws.close(1000 if kind is None else 1011 if issubclass(kind, Exception) else 1001)

    async def __aiter__(self) -> AsyncIterator[WebSocket]:
        if self._options.sock is not None:
            if not self._sock_used:
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
        if self._options.sock is not None:
            if self._sock_used:
                raise LocalError("connect(sock=…) for a second time: a socket can be used once")
            self._sock_used = True
        uri = self._uri
        headers = self._options.headers
        for _ in range(MAX_REDIRECTS + 1):
            attempt = Attempt(uri, headers, self._options, self._settings, functools.partial(self._leads, uri))
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
        raise _not_followed(answer, f"more than {MAX_REDIRECTS} redirects, the last one to {uri.shown}")

    def _leads(self, uri: Uri, head: ResponseHead) -> bool:
        """Whether an answer with this head sends us elsewhere."""
        answer = HandshakeError("", status=head.status, headers=Headers(head.headers).items())
        with contextlib.suppress(HandshakeError):
            return self._redirect(uri, answer) is not None
        return False

    def _redirect(self, uri: Uri, answer: HandshakeError) -> Uri | None:
        """Where an answer sends us; None where it does not. Raises HandshakeError where that is no place to go."""
        places = [value for name, value in answer.headers if name == "location"]
        if answer.status not in REDIRECTS or not places:
            return None
        if len(places) > 1:
            raise _not_followed(answer, f"redirected to {len(places)} places at once")
        try:
            there = parse_uri(_resolve(uri, places[0]))
        except ValueError as wrong:  # LocalError is one; what others say may show a password
            why = f": {wrong}" if isinstance(wrong, LocalError) else ""
            raise _not_followed(answer, f"redirected to what is no WebSocket's address{why}") from None
        if uri.secure and not there.secure:
            raise _not_followed(answer, f"redirected from wss to {there.shown}: not followed, it is not encrypted")
        if there.origin != uri.origin:
            if self._options.uds is not None:
                raise _not_followed(
                    answer, f"redirected to {there.shown}, which is not behind uds={self._options.uds!r}"
                )
        elif there.credentials is None:
            there.credentials = uri.credentials
        if self._options.sock is not None:
            raise _not_followed(answer, f"redirected to {there.shown}: not followed, sock= can be used once")
        return there


def _resolve(uri: Uri, location: str) -> str:
    """Location as a ws: or wss: URI without a fragment (RFC 9110 §10.2.2); http: and https: mean the same here."""
    with contextlib.suppress(UnicodeError):  # raw UTF-8 is wrong there, and frequent
        location = location.encode("latin-1").decode()
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
    - `ssl`: a client-side ``ssl.SSLContext``, for wss: only; default: the system's certificates and the host's name are
      verified, and so they are where a ws: URI is redirected to wss:.
    - `proxy`: True takes it from the environment: HTTPS_PROXY, for ws: else HTTP_PROXY, and NO_PROXY. A URL
      (``http://user:password@host:port``) is used; None goes directly. It is asked for a tunnel (CONNECT) always.
    - `open_timeout_s`: for looking up the name, and then once for all of TCP, proxy, TLS and opening handshake; it is
      not renewed by what comes, begins anew with each redirect, and does not run while this waits for its turn.
    - `exclusive`: at most one connection to an address and port is CONNECTING at a time (RFC 6455 §4.1); False is
      outside the RFC, for load tools.
    - `endpoint`: callbacks instead of ``recv()``.
    - `sock`: a connected socket, from now on this connection's, closed whatever happens. `uds`: a Unix socket's path.
      The URI says what is asked there; no proxy is used. `sock` is closed, too, where this raises LocalError.
    - `deflate`, `limits`, `keepalive`: as for `portico.serve`.
    - `backoff`: how ``async for`` waits before it comes back, a `portico.Backoff`. It waits at least as long as
      Retry-After asks, up to an hour, and comes back after whatever may pass: OSError, the statuses 408, 421, 425, 429,
      500, 502, 503 and 504, a connection that is lost, an answer that is no HTTP. It raises what does not: any other
      status (401, 404, …), a 101 that breaks RFC 6455, a redirect that can't be followed, a certificate that is wrong.
      Leaving the loop closes; the next connection is made only when the last one has ended.

    The end of the ``async with`` block closes with 1000; with 1011 where an Exception left it; with 1001 where it was
    cancelled, or the program is ending (any other BaseException).

    Raises LocalError at once for a wrong argument. Connecting raises HandshakeError (``status``, ``headers``, ``body``)
    where the server or the proxy answers otherwise than RFC 6455 §4.1 wants, or ends the connection before it has
    answered; ``status`` is None where no status came. It raises OSError where nobody answers: TimeoutError after
    `open_timeout_s`, `socket.gaierror` without an address, `ssl.SSLError` where TLS fails
    (`ssl.SSLCertVerificationError`: not the host that was asked for), ConnectionRefusedError and the like. 3xx is
    followed up to ten times, never from wss to ws; ``Authorization`` and ``Cookie`` don't follow to another origin.
    """
    try:
        place = parse_uri(uri)
        if not isinstance(backoff, Backoff):
            raise LocalError(f"backoff={backoff!r}: expected a Backoff")
        options = checked(
            uri=place,
            subprotocols=subprotocols,
            headers=headers,
            origin=origin,
            ssl=ssl,
            proxy=proxy,
            deflate=deflate,
            limits=limits,
            keepalive=keepalive,
            open_timeout_s=open_timeout_s,
            exclusive=exclusive,
            endpoint=endpoint,
            sock=sock,
            uds=uds,
        )
        options.request(place, new_key(), options.headers)  # what can't be sent is found out now
    except BaseException:
        if isinstance(sock, socket.socket):
            sock.close()
        raise
    return Connect(place, options, backoff)
