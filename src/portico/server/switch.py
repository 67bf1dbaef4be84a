"""The switch from HTTP to WebSocket: everything between a well-formed upgrade request and its answer.

Origin, `authenticate`, subprotocol and compression are settled here, before the 101. Whatever is refused gets one plain
answer, and the connection ends.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from portico.errors import LocalError, ProtocolError, Refuse
from portico.net.stream import Stream
from portico.server.app import Options, Route
from portico.websocket import Endpoint, Settings, WebSocket
from portico.wire.deflate import Codec
from portico.wire.extensions import accept_offer, parse
from portico.wire.handshake import (
    HandshakeRefused,
    Upgrade,
    check_origin,
    check_upgrade,
    choose_subprotocol,
    refusal_response,
    switch_response,
)
from portico.wire.http1 import RequestHead
from portico.wire.messages import Messages
from portico.wire.request import ForwardedRequest, Request

if TYPE_CHECKING:
    from portico.server.connection import HttpConnection

logger = logging.getLogger("portico.server")

RETRY_LATER = "Retry-After", "5"
INTERNAL_ERROR = "Internal server error.\n"


class Switch:
    """One upgrade request on its way to an answer."""

    __slots__ = ("_began", "_connection", "_head", "_task", "on_abandoned", "request", "upgrade")

    def __init__(self, connection: HttpConnection, head: RequestHead) -> None:
        self._connection = connection
        self._head = head
        self._task: asyncio.Future[Any] | None = None  # `authenticate`, where that is a coroutine function
        self.on_abandoned: Callable[[], None] | None = None  # called when there is nobody left to be answered
        self.upgrade: Upgrade | None = None
        stream = connection.stream
        self._began = stream.reactor.now
        server = connection.server
        scheme: Literal["ws", "wss"] = "wss" if stream.tls else "ws"
        if server.proxies is None:
            self.request = Request(head, server.peer(stream), server.local(stream), scheme)
        else:
            seen = server.proxies.seen(stream, head.headers)
            scheme = "wss" if seen.scheme == "https" else "ws"
            self.request = ForwardedRequest(head, seen.client, server.local(stream), scheme, seen.host)

    @property
    def stream(self) -> Stream:
        """The connection's stream."""
        return self._connection.stream

    def begin(self) -> None:
        """Answer at once, or start whoever will."""
        server = self._connection.server
        path = self._head.path
        route = server.site.route(path)
        mounted = server.site.mount(path) if route is None else None
        options = route.options if route is not None else server.site.options
        try:
            self.upgrade = check_upgrade(self._head)
            if route is None and mounted is None:
                raise HandshakeRefused(404, "Nothing is served at this path.")
            host = self.upgrade.host if server.proxies is None else self.request.host
            check_origin(self.upgrade.origin, host, self.request.scheme, options.origins)
            parse(self.upgrade.extensions)  # malformed, it is refused also where no compression is wanted
        except ProtocolError as error:
            headers = error.headers if isinstance(error, HandshakeRefused) else ()
            self.refuse(error.http_status, f"{error}\n", headers)
            return
        if route is not None:
            self._admit(options, lambda user: self._establish(route, user))
        elif mounted is not None:
            self._admit(options, lambda user: server.start_asgi_websocket(self, user, *mounted))

    def _admit(self, options: Options, admitted: Callable[[Any], None]) -> None:
        """Ask `authenticate`, where there is one; `admitted` gets the user."""
        authenticate = options.authenticate
        if authenticate is None:
            admitted(None)
            return
        try:
            user = authenticate(self.request)
        except (Exception, asyncio.CancelledError) as error:
            self._refuse_for(error)
            return
        if inspect.isawaitable(user):
            self._task = self._connection.server.keep(asyncio.ensure_future(user))
            self._task.add_done_callback(lambda task: self._authenticated(admitted, task))
        else:
            admitted(user)

    def _authenticated(self, admitted: Callable[[Any], None], task: asyncio.Future[Any]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._task is None:
            return  # abandoned: whatever it is, nobody is left to be told
        self._task = None
        if error is None:
            admitted(task.result())
        else:
            self._refuse_for(error)

    def _refuse_for(self, error: BaseException) -> None:
        """`authenticate` raised: a Refuse is the application's answer, anything else its failure."""
        if not isinstance(error, Refuse):
            logger.error("authenticate failed; the client got 500", exc_info=error)
            self.refuse(500, INTERNAL_ERROR)
        elif error.data is None:
            self.refuse(error.status, error.reason, error.headers)
        else:
            try:
                body = json.dumps({"reason": error.reason, "data": error.data})
            except (TypeError, ValueError) as unfit:
                logger.error("the data of a Refuse can't be sent as JSON; the client got 500", exc_info=unfit)
                self.refuse(500, INTERNAL_ERROR)
                return
            self.refuse(error.status, body, error.headers, content_type="application/json")

    def _establish(self, route: Route, user: Any) -> None:
        upgrade = self.upgrade
        if upgrade is None:
            return
        subprotocol = choose_subprotocol(upgrade.subprotocols, route.options.subprotocols)
        endpoint = self._connection.server.endpoint(route)
        self.establish(route.options, route.settings, endpoint, subprotocol, user=user, pull=route.pull)

    def establish(
        self,
        options: Options,
        settings: Settings,
        endpoint: Endpoint,
        subprotocol: str | None,
        *,
        headers: Any = (),
        user: Any = None,
        pull: bool,
    ) -> WebSocket | None:
        """Send the 101 and hand the connection over; None where the peer left before, or the server stops. Raises
        LocalError for `headers` that can't be sent, and a subprotocol that wasn't offered."""
        upgrade = self.upgrade
        stream = self._connection.stream
        if upgrade is None or not stream.open:
            return None
        if self._connection.server.stopping:
            self.refuse(503, "This server is stopping.\n", [RETRY_LATER])
            return None
        if subprotocol is not None and subprotocol not in upgrade.subprotocols:
            offered = ", ".join(upgrade.subprotocols) or "none"
            raise LocalError(f"subprotocol {subprotocol!r}: expected one that the client offered ({offered})")
        agreed = accept_offer(upgrade.extensions, options.deflate) if upgrade.extensions else None
        answer = agreed[1] if agreed else None
        stream.write(switch_response(upgrade.key, subprotocol, answer, headers))
        stream.flush_within()  # whatever becomes of the messages that follow, the answer is out
        if not self._connection.stream.open:
            return None  # the peer has left
        codec = Codec(agreed[0], options.deflate, client=False) if agreed and options.deflate else None
        self.request.forget()
        wire = Messages(options.limits, codec)
        ws = WebSocket(stream, wire, settings, endpoint, self.request, subprotocol=subprotocol, user=user, pull=pull)
        access = self._connection.server.access
        if access is not None:
            settings.on_end = access.closed
            access.opened(ws)
        tail = self._connection.switched()
        stream.high_water = options.limits.high_water_bytes
        stream.resume()
        ws.begin(tail)
        return ws

    def refuse(
        self, status: int, body: str | bytes, headers: Any = (), content_type: str = "text/plain; charset=utf-8"
    ) -> None:
        """Answer with `status`, and end the connection."""
        stream = self._connection.stream
        if not stream.open:
            return
        self._connection.server.counters.refused[status] += 1
        date = self._connection.server.date()
        try:
            answer = refusal_response(status, body, headers, content_type, date)
        except LocalError as error:
            logger.error("a refusal can't be sent; the client got 500", exc_info=error)
            answer = refusal_response(500, INTERNAL_ERROR, date=date)
        stream.write(answer)
        access = self._connection.server.access
        if access is not None:
            head, request = self._head, self.request
            agent = next((value for name, value in head.headers if name == b"user-agent"), b"")
            size = len(body if isinstance(body, bytes) else body.encode())
            scheme = request.scheme
            access.request(
                head.method, head.target, head.version, status, size, self._began, request.client, scheme, agent
            )
        self._connection.switched()
        stream.close(linger=True)

    def give_up(self) -> None:
        """It took too long."""
        self.refuse(503, "This server did not decide about the upgrade request in time.\n", [RETRY_LATER])
        self.abandon()

    def abandon(self) -> None:
        """There is nobody to be answered any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if self.on_abandoned is not None:
            self.on_abandoned()
