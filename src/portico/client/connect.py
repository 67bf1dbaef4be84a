"""`connect`: a WebSocket to a URI, by way of DNS, TCP, perhaps a proxy, perhaps TLS, and the opening handshake."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl as ssl_module
import urllib.request
from collections.abc import AsyncIterator, Generator, Hashable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from portico.client.backoff import Backoff, may_come_back
from portico.client.opening import Opening
from portico.errors import HandshakeError, LocalError
from portico.limits import Deflate, Keepalive, Limits
from portico.net.dialer import Dialled, Turnstiles, dial
from portico.net.proxy import ProxyRefused, open_tunnel
from portico.net.reactor import Reactor
from portico.net.stream import Stream
from portico.net.tls import TlsStream
from portico.websocket import Endpoint, Settings, WebSocket
from portico.wire.deflate import Codec
from portico.wire.extensions import make_offer
from portico.wire.handshake import check_response, client_request, new_key
from portico.wire.headers import Headers
from portico.wire.http1 import ResponseHead
from portico.wire.messages import Messages
from portico.wire.request import Request
from portico.wire.uri import Uri, parse_uri

REDIRECTS: Final = frozenset({300, 301, 302, 303, 307, 308})
MAX_REDIRECTS: Final = 10
BEHIND_PROXIES: Final = 16  # how many may be CONNECTING through proxies at a time

HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]


class Ender:
    """Told when a client's stream has ended: the reactor leaves the loop with the last one."""

    address = None

    def ended(self, stream: Stream) -> None:
        stream.reactor.loop.call_soon(stream.reactor.close_if_idle)


ENDER: Final = Ender()


class Connect:
    """What `connect` returns: ``async with``, ``await``, or ``async for`` to come back whenever the connection ends."""

    def __init__(self, uri: str, **options: Any) -> None:
        self._uri = parse_uri(uri)
        self._options = options
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
        backoff = Backoff()
        while True:
            try:
                ws = await self._open()
            except (OSError, HandshakeError) as error:
                if not may_come_back(error):
                    raise
                await backoff.wait_after(error)
                continue
            opened = asyncio.get_running_loop().time()
            try:
                yield ws
            finally:
                await ws.close()
            await backoff.wait_after_connection(asyncio.get_running_loop().time() - opened)

    async def _open(self) -> WebSocket:
        """Connect, following redirects (never from wss to ws; credentials stay with their origin)."""
        uri = self._uri
        options = self._options
        headers = list(options["headers"])
        for _ in range(MAX_REDIRECTS + 1):
            try:
                return await Attempt(uri, headers, options).run()
            except HandshakeError as error:
                there = _redirect(uri, error)
                if there is None:
                    raise
                if there.origin != uri.origin:
                    headers = [(n, v) for n, v in headers if n.lower() not in ("authorization", "cookie")]
                uri = there
        raise HandshakeError(f"more than {MAX_REDIRECTS} redirects, the last one to {uri}")


def _redirect(uri: Uri, error: HandshakeError) -> Uri | None:
    """Where a 3xx answer sends us, or None where it is none."""
    if error.status not in REDIRECTS:
        return None
    places = [value for name, value in error.headers if name.lower() == "location"]
    if len(places) != 1:
        return None
    location = places[0]
    if location.startswith("//"):
        location = f"{uri.scheme}:{location}"
    elif location.startswith("/"):
        location = f"{uri.scheme}://{uri.authority}{location}"
    for http, ws in (("http://", "ws://"), ("https://", "wss://")):
        if location.lower().startswith(http):
            location = ws + location[len(http) :]
    try:
        there = parse_uri(location.partition("#")[0])
    except LocalError as wrong:
        raise HandshakeError(f"redirected to a place that is none: {wrong}", status=error.status) from None
    if uri.secure and not there.secure:
        raise HandshakeError(f"redirected from wss to {there}: refused, it is not encrypted", status=error.status)
    if there.origin == uri.origin and there.credentials is None:
        there.credentials = uri.credentials
    return there


class Attempt:
    """One attempt at one URI."""

    def __init__(self, uri: Uri, headers: list[tuple[str, str]], options: dict[str, Any]) -> None:
        self._uri = uri
        self._headers = headers
        self._options = options
        self._limits: Limits = options["limits"]

    async def run(self) -> WebSocket:
        async with contextlib.AsyncExitStack() as turns:
            dialled = await self._dial(turns)
            turns.callback(dialled.over)
            return await self._handshake(dialled)

    # -- to a connected socket -----------------------------------------------------------------------------------

    async def _dial(self, turns: contextlib.AsyncExitStack) -> Dialled:
        options = self._options
        timeout_s, exclusive = options["open_timeout_s"], options["exclusive"]
        if options["sock"] is not None:
            return Dialled(options["sock"], options["sock"].getpeername(), None)
        if options["uds"] is not None:
            return await _dial_unix(options["uds"], timeout_s)
        proxy = _proxy_for(self._uri, options["proxy"])
        if proxy is None:
            return await dial(self._uri.host, self._uri.port, timeout_s=timeout_s, exclusive=exclusive)
        if exclusive:  # its addresses are the proxy's affair: the name has to do (RFC 6455 §4.1)
            place: Hashable = ("behind a proxy", self._uri.host.lower(), self._uri.port)
            await turns.enter_async_context(Turnstiles.running().at(place))
            await turns.enter_async_context(Turnstiles.running().behind_proxies(BEHIND_PROXIES))
        return await self._dial_proxy(proxy, timeout_s)

    async def _dial_proxy(self, proxy: Uri, timeout_s: float) -> Dialled:
        dialled = await dial(proxy.host, proxy.port, timeout_s=timeout_s, exclusive=False)
        try:
            async with asyncio.timeout(timeout_s):
                await open_tunnel(dialled.sock, _connect_head(self._uri, proxy))
        except ProxyRefused as refused:
            dialled.sock.close()
            raise _proxy_error(refused) from refused
        except TimeoutError:
            dialled.sock.close()
            raise HandshakeError(f"the proxy {proxy.host} did not answer CONNECT within {timeout_s:g} s") from None
        except BaseException:
            dialled.sock.close()
            raise
        return dialled

    # -- from there to a WebSocket -------------------------------------------------------------------------------

    async def _handshake(self, dialled: Dialled) -> WebSocket:
        options = self._options
        uri = self._uri
        key = new_key()
        deflate: Deflate | None = options["deflate"]
        headers = self._headers
        if uri.credentials is not None and not any(name.lower() == "authorization" for name, _ in headers):
            headers = [*headers, ("Authorization", _basic(*uri.credentials))]
        try:
            request = client_request(
                uri.authority,
                uri.target,
                key,
                origin=options["origin"],
                subprotocols=options["subprotocols"],
                extensions=make_offer(deflate) if deflate else None,
                headers=headers,
            )
            opening = Opening(request, self._limits)
            stream = self._stream(dialled, opening)
        except BaseException:
            dialled.sock.close()
            raise
        try:
            async with asyncio.timeout(options["open_timeout_s"]):
                head, rest = await opening.answer
            subprotocol, agreed = self._check(head, rest, key)
        except TimeoutError:
            stream.abort()
            seconds = options["open_timeout_s"]
            raise HandshakeError(f"{uri} did not answer within {seconds:g} s") from None
        except BaseException:
            stream.abort()
            raise
        codec = Codec(agreed, deflate, client=True) if agreed and deflate else None
        wire = Messages(self._limits, codec, client=True)
        place = Request(request, _pair(stream.local), _pair(dialled.address), "wss" if uri.secure else "ws")
        endpoint: Endpoint | None = options["endpoint"]
        ws = WebSocket(
            stream,
            wire,
            Settings(self._limits, options["keepalive"]),
            endpoint or Endpoint(),
            place,
            subprotocol=subprotocol,
            pull=endpoint is None,
        )
        stream.resume()
        ws.begin(rest)
        return ws

    def _stream(self, dialled: Dialled, opening: Opening) -> Stream:
        reactor = Reactor.running()
        high_water = self._limits.high_water_bytes
        if not self._uri.secure:
            stream = Stream(reactor, dialled.sock, opening, dialled.address, high_water, ENDER)
            opening.stream = stream
            opening.connected()
            return stream
        context = self._options["ssl"] or _default_context()
        stream = TlsStream.dialled(
            reactor, dialled.sock, context, self._uri.host, opening, dialled.address, high_water, ENDER
        )
        opening.stream = stream
        stream.begin()
        return stream

    def _check(self, head: ResponseHead, rest: bytes, key: str) -> Any:
        try:
            return check_response(head, key, self._options["subprotocols"], self._options["deflate"])
        except HandshakeError as error:
            if head.status != 101:
                error.body = rest
            raise


async def _dial_unix(path: Any, timeout_s: float) -> Dialled:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, path)
    except BaseException:
        sock.close()
        raise
    return Dialled(sock, path, None)


def _connect_head(uri: Uri, proxy: Uri) -> bytes:
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    lines = [f"CONNECT {host}:{uri.port} HTTP/1.1", f"Host: {host}:{uri.port}"]
    if proxy.credentials is not None:
        lines.append(f"Proxy-Authorization: {_basic(*proxy.credentials)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _proxy_error(refused: ProxyRefused) -> HandshakeError:
    line, _, fields = refused.answer.partition(b"\r\n")
    words = line.split(b" ", 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() and len(words[1]) == 3 else None
    pairs = [field.partition(b":") for field in fields.split(b"\r\n") if b":" in field]
    raw = [(name.strip().lower(), value.strip()) for name, _, value in pairs]
    return HandshakeError(str(refused), status=status, headers=Headers(raw).items())


def _proxy_for(uri: Uri, proxy: bool | str | None) -> Uri | None:
    """The proxy to go through, as a Uri: the one given, or the environment's (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)."""
    if proxy is None or proxy is False:
        return None
    text = proxy
    if text is True:
        if urllib.request.proxy_bypass(f"{uri.host}:{uri.port}"):
            return None
        found = urllib.request.getproxies()
        text = found.get("wss" if uri.secure else "ws") or found.get("https" if uri.secure else "http") or ""
        if not text:
            return None
    if "://" not in str(text):
        text = f"http://{text}"
    if not str(text).lower().startswith("http://"):
        raise LocalError(f"proxy={text!r}: expected one that begins with http://")
    there = parse_uri("ws" + str(text)[4:])
    return there


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def _pair(address: Any) -> Any:
    return tuple(address[:2]) if isinstance(address, tuple) else None


_contexts: list[ssl_module.SSLContext] = []


def _default_context() -> ssl_module.SSLContext:
    """One verifying context for all; making one reads the system's certificates, which takes a while."""
    if not _contexts:
        context = ssl_module.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        _contexts.append(context)
    return _contexts[0]


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
    open_timeout_s: float = 10.0,
    exclusive: bool = True,
    endpoint: Endpoint | None = None,
    sock: socket.socket | None = None,
    uds: Any = None,
) -> Connect:
    """Open a WebSocket to `uri` (``ws:`` or ``wss:``, RFC 6455 §3).

    ::

        async with portico.connect("wss://example.com/feed") as ws: ...
        ws = await portico.connect("ws://localhost:8000/echo")
        async for ws in portico.connect("wss://example.com/feed"): ...  # again and again, with full-jitter backoff

    - `subprotocols`, `headers`, `origin`: sent with the request. User and password in the URI become Basic credentials.
    - `ssl`: a client-side ``ssl.SSLContext``; default: the system's certificates and the host's name are verified.
    - `proxy`: True takes it from HTTPS_PROXY, HTTP_PROXY and NO_PROXY, a URL is used, None goes directly.
    - `open_timeout_s`: for TCP, and again for TLS and the handshake; not counted while this waits for its turn.
    - `exclusive`: at most one connection to an address and port is CONNECTING at a time (RFC 6455 §4.1); False is
      outside the RFC, for load tools.
    - `endpoint`: callbacks instead of ``recv()``. `sock`, `uds`: a connected socket, or a Unix socket's path.
    - `deflate`, `limits`, `keepalive`: as for `portico.serve`.

    Raises LocalError at once for a wrong argument. Connecting raises HandshakeError where the server answers otherwise
    than RFC 6455 §4.1 wants, and OSError (`ssl.SSLError`, `socket.gaierror`, TimeoutError) where nobody answers. 3xx is
    followed, never from wss to ws; ``Authorization`` and ``Cookie`` don't follow to another origin.
    """
    items = list(headers.items() if isinstance(headers, Mapping) else headers)
    if ssl is not None and not isinstance(ssl, ssl_module.SSLContext):
        raise LocalError(f"ssl={ssl!r}: expected an ssl.SSLContext")
    if isinstance(subprotocols, str):
        raise LocalError(f"subprotocols={subprotocols!r}: expected a list of tokens")
    return Connect(
        uri,
        subprotocols=tuple(subprotocols),
        headers=items,
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
