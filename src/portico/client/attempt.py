"""One attempt at one URI: its turn, TCP, perhaps a proxy, perhaps TLS, and the opening handshake."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
import ssl
from collections.abc import Callable, Hashable
from typing import Any, Final

from portico.client.arguments import Headers, Options
from portico.client.opening import Opening
from portico.client.proxies import connect_head, proxy_error, proxy_for, refusal_body
from portico.errors import HandshakeError
from portico.net.dialer import Dialled, Turnstiles, dial, place_of
from portico.net.proxy import ProxyRefused, open_tunnel
from portico.net.reactor import Reactor
from portico.net.stream import Stream
from portico.net.tls import TlsStream
from portico.websocket import Endpoint, Settings, WebSocket
from portico.wire.deflate import Codec
from portico.wire.handshake import check_response, new_key
from portico.wire.http1 import ResponseHead
from portico.wire.messages import Messages
from portico.wire.request import Request
from portico.wire.uri import Uri

BEHIND_PROXIES: Final = 16  # how many may be CONNECTING through proxies at a time


class Ender:
    """Told when a client's stream has ended: the reactor leaves the loop with the last one."""

    address = None

    def ended(self, stream: Stream) -> None:
        stream.reactor.loop.call_soon(stream.reactor.close_if_idle)


ENDER: Final = Ender()


class Attempt:
    """One attempt at one URI. ``answered``: whether it was the server, and not a proxy, that answered.

    `leads`: whether an answer with this head will be followed elsewhere, so that nobody needs its body.
    """

    def __init__(
        self,
        uri: Uri,
        headers: Headers,
        options: Options,
        settings: Settings,
        leads: Callable[[ResponseHead], bool] = lambda head: False,
    ) -> None:
        self.answered = False
        self._uri = uri
        self._shown = uri.shown  # and the proxy, where there is one: of whom errors speak
        self._leads = leads
        self._headers = headers
        self._options = options
        self._settings = settings
        self._within = f"within {options.open_timeout_s:g} s (open_timeout_s)"

    async def run(self) -> WebSocket:
        """The open WebSocket; nothing of the attempt is left where this raises."""
        async with contextlib.AsyncExitStack() as turns:
            dialled = await self._dial(turns)
            turns.callback(dialled.over)
            return await self._handshake(dialled, turns)

    # -- to a connected socket -----------------------------------------------------------------------------------

    async def _dial(self, turns: contextlib.AsyncExitStack) -> Dialled:
        options = self._options
        if options.sock is not None:
            return await self._take(options.sock, turns)
        if options.uds is not None:
            return await self._dial_unix(options.uds, turns)
        proxy = proxy_for(self._uri, options.proxy)
        if proxy is not None:
            return await self._dial_proxy(proxy, turns)
        return await dial(self._uri.host, self._uri.port, timeout_s=options.open_timeout_s, exclusive=options.exclusive)

    async def _turn(self, turns: contextlib.AsyncExitStack, place: Hashable) -> float:
        """Wait for the turn at `place`; returns the deadline of what comes now."""
        if self._options.exclusive:
            await turns.enter_async_context(Turnstiles.running().at(place))
        return asyncio.get_running_loop().time() + self._options.open_timeout_s

    async def _take(self, sock: socket.socket, turns: contextlib.AsyncExitStack) -> Dialled:
        try:
            sock.setblocking(False)
            address = sock.getpeername()
            deadline = await self._turn(turns, place_of(address))
        except BaseException:
            sock.close()
            raise
        taken = socket.socket(fileno=sock.detach())  # who gave it, and closes it, closes nobody's descriptor
        taken.setblocking(False)
        return Dialled(taken, address, deadline)

    async def _dial_unix(self, path: str, turns: contextlib.AsyncExitStack) -> Dialled:
        deadline = await self._turn(turns, path)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            async with asyncio.timeout_at(deadline):
                await asyncio.get_running_loop().sock_connect(sock, path)
            sock.getpeername()  # a full backlog (EAGAIN) looks like success to some loops
        except OSError as error:
            sock.close()
            if error.errno:
                raise OSError(error.errno, os.strerror(error.errno), path) from None
            if not isinstance(error, TimeoutError):
                raise OSError(errno.ENAMETOOLONG, str(error), path) from None
            raise TimeoutError(f"no connection to {path} {self._within}") from None
        except BaseException:
            sock.close()
            raise
        return Dialled(sock, path, deadline)

    async def _dial_proxy(self, proxy: Uri, turns: contextlib.AsyncExitStack) -> Dialled:
        options = self._options
        # The server's addresses are the proxy's affair: its name has to do, with a cap on all (RFC 6455 §4.1).
        await self._turn(turns, ("behind a proxy", self._uri.host.removesuffix("."), self._uri.port))
        if options.exclusive:
            await turns.enter_async_context(Turnstiles.running().behind_proxies(BEHIND_PROXIES))
        try:
            dialled = await dial(proxy.host, proxy.port, timeout_s=options.open_timeout_s, exclusive=False)
        except OSError as error:
            raise _of_the_proxy(error) from error
        self._shown += f" through the proxy {proxy.authority}"
        try:
            await self._tunnel(dialled, proxy, turns)
        except BaseException:
            dialled.sock.close()
            raise
        return dialled

    async def _tunnel(self, dialled: Dialled, proxy: Uri, turns: contextlib.AsyncExitStack) -> None:
        try:
            async with asyncio.timeout_at(dialled.deadline):
                await open_tunnel(dialled.sock, connect_head(self._uri, proxy))
        except ProxyRefused as refused:
            body = b""
            await turns.aclose()  # it is CONNECTING no more
            if refused.status is not None:
                body = await refusal_body(dialled.sock, refused, self._options.limits, dialled.deadline)
            raise proxy_error(refused, proxy, body) from refused
        except TimeoutError:
            raise TimeoutError(f"the proxy {proxy.authority} did not answer CONNECT {self._within}") from None

    # -- from there to a WebSocket -------------------------------------------------------------------------------

    async def _handshake(self, dialled: Dialled, turns: contextlib.AsyncExitStack) -> WebSocket:
        options = self._options
        key = new_key()
        try:
            request = options.request(self._uri, key, self._headers)
            opening = Opening(request, options.limits, self._shown)
            stream = self._stream(dialled, opening)
        except BaseException:
            dialled.sock.close()
            raise
        try:
            opening.stream = stream
            if isinstance(stream, TlsStream):
                stream.begin()
            else:
                opening.connected()
            head, rest = await self._answer(opening, stream, dialled.deadline, turns)
            self.answered = True
            try:
                subprotocol, agreed = check_response(head, key, options.subprotocols, options.deflate)
            except HandshakeError as error:
                error.body = b"" if head.status == 101 else rest
                raise
            if stream.gone:
                raise HandshakeError(f"{self._shown}: the connection was lost as soon as the server had switched")
            codec = Codec(agreed, options.deflate, client=True) if agreed and options.deflate else None
            place = Request(request, _pair(stream.local), _pair(dialled.address), "wss" if self._uri.secure else "ws")
            ws = WebSocket(
                stream,
                Messages(options.limits, codec, client=True),
                self._settings,
                options.endpoint or Endpoint(),
                place,
                subprotocol=subprotocol,
                pull=options.endpoint is None,
            )
            ws.begin_later(rest)
            return ws
        except BaseException:
            stream.abort()
            raise

    def _stream(self, dialled: Dialled, opening: Opening) -> Stream:
        reactor = Reactor.running()
        high_water = self._options.limits.high_water_bytes
        try:
            if not self._uri.secure:
                return Stream(reactor, dialled.sock, opening, dialled.address, high_water, ENDER)
            context = self._options.ssl or verifying()
            name = self._uri.host.removesuffix(".")  # RFC 6066 §3: without the dot of the root
            return TlsStream.dialled(reactor, dialled.sock, context, name, opening, dialled.address, high_water, ENDER)
        except BaseException as error:
            reactor.close_if_idle()
            if isinstance(error, OSError):
                text = f"{self._shown}: the connection was lost before the opening handshake: {error}"
                raise HandshakeError(text) from error
            raise

    async def _answer(
        self, opening: Opening, stream: Stream, deadline: float, turns: contextlib.AsyncExitStack
    ) -> tuple[ResponseHead, bytes]:
        """The head of the answer, and what came after it; of a refusal, what of its body came until the deadline."""
        try:
            async with asyncio.timeout_at(deadline):
                head = await opening.head
        except TimeoutError:
            if isinstance(stream, TlsStream) and stream.handshaking:
                raise TimeoutError(f"{self._shown}: the TLS handshake was not complete {self._within}") from None
            raise TimeoutError(f"{self._shown} did not answer the opening handshake {self._within}") from None
        if head.status != 101:
            await turns.aclose()  # it is CONNECTING no more, however long its body takes
            if self._leads(head):
                return head, b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                return head, await opening.rest
        return head, opening.so_far()


def _of_the_proxy(error: OSError) -> OSError:
    """The same error, saying whose it is."""
    text = f"the proxy: {error.strerror or error}"
    return type(error)(error.errno, text) if error.errno else type(error)(text)


def _pair(address: Any) -> Any:
    return tuple(address[:2]) if isinstance(address, tuple) else None


@functools.cache
def verifying() -> ssl.SSLContext:
    """The default for wss:. One context for all; making one reads the system's certificates, which takes a while."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
