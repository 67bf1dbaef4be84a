"""The polling transport: GETs that are held until there is something, POSTs with what the client sends.

An ASGI application for the HTTP side of the mount; it also refuses what is no such request.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from portico.errors import ProtocolError, Refuse
from portico.realtime.origins import Header, cross_origin
from portico.realtime.polls import JSON, NO_STORE, TEXT, Poll, payload
from portico.realtime.refusals import Refused, refused_by
from portico.wire import engineio
from portico.wire.http1 import parse_request_head
from portico.wire.request import ForwardedRequest, Request

if TYPE_CHECKING:
    from portico.realtime.engine import Engine, Mounted
    from portico.realtime.sessions import Session

PACKETS_A_TURN = 256


class Waker:
    """Wakes a task that waits for its client to leave: by cancelling it, which it takes back."""

    __slots__ = ("_task", "_waiting", "_woken")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._woken = False
        self._waiting = False

    def wake(self) -> None:
        """There is something, or the time is over."""
        if not self._woken:
            self._woken = True
            if self._waiting and self._task is not None:
                self._task.cancel()

    async def wait(self, receive: Any) -> bool:
        """Until it is woken; False: the client has left."""
        self._waiting = True
        try:
            while not self._woken:
                if (await receive())["type"] == "http.disconnect":
                    return False
        except asyncio.CancelledError:
            if not self._woken or (self._task is not None and self._task.uncancel() > 0):
                raise
        finally:
            self._waiting = False
            self._woken = False
        return True


class TaskPoll(Poll):
    """One that a task waits for."""

    __slots__ = ("waker",)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.waker = Waker()

    def wake(self) -> None:
        self.waker.wake()

    def end(self) -> None:
        """It waits no more."""
        self.session.engine.reactor.wheel.cancel(self)
        if self.session.poll is self:
            self.session.poll = None


class Polling:
    """The requests of one mount."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted
        self._engine: Engine = mounted.engine

    async def answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one HTTP request."""
        headers: list[Header] = [NO_STORE]
        try:
            await self._answer(scope, receive, send, headers)
        except Refused as refused:
            self._engine.counters.refused[refused.why] += 1
            extra = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in refused.headers]
            await respond(send, refused.status, refused.body, [JSON, *headers, *extra])

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any, headers: list[Header]) -> None:
        path = scope["path"][len(scope.get("root_path", "")) :]
        if path not in ("", "/", "/events"):
            raise Refused(engineio.BAD_REQUEST, "nothing is served at this path", status=404)
        fields = dict(scope["headers"])
        headers += self._cross_origin(scope, fields)
        method = scope["method"]
        if method == "OPTIONS":
            await respond(send, 204, b"", [*headers, *_preflight(fields)])
            return
        if path == "/events":
            await self._mounted.following.answer(scope, fields, (receive, send), headers)
            return
        query = parse_query(scope["query_string"].decode("ascii"))
        session = self._engine.check(query, upgrade=False, method=method)
        if session is None:
            session = await self._open(scope)
            await respond(send, 200, session.greeting(["websocket"]), [TEXT, *headers])
        elif method == "GET":
            await self._get(session, receive, send, headers)
        elif method == "POST":
            await self._post(session, fields, receive, send, headers)
        else:
            raise Refused(engineio.BAD_REQUEST, f"{method} for a session: expected GET or POST")

    def _cross_origin(self, scope: dict[str, Any], fields: dict[bytes, bytes]) -> list[Header]:
        """Refuse a page of another site, as a WebSocket would be; else the headers that let a page read the answer."""
        origin = fields.get(b"origin")
        if origin is None:
            return []
        host = told_host(scope) or fields.get(b"host", b"")
        return cross_origin(origin, host, scope["scheme"], self._mounted.options.origins)

    async def _open(self, scope: dict[str, Any]) -> Session:
        request = request_of(scope)
        self._engine.waiting.check_attempt(request, self._engine.reactor)
        try:
            user = self._mounted.identify(request)
            if inspect.isawaitable(user):
                user = await user
        except Refuse as refuse:
            raise refused_by(refuse) from None
        request.forget()
        return self._engine.open(self._mounted, request, user)

    async def _get(self, session: Session, receive: Any, send: Any, headers: list[Header]) -> None:
        session.heard()
        if session.poll is not None:
            session.fail(ProtocolError("two GETs of one session at once"))
            raise Refused(engineio.BAD_REQUEST, "another GET of this session is being held")
        if session.waiting:
            packets = session.take()
        else:
            poll = TaskPoll(session)
            try:
                here = await poll.waker.wait(receive)
            finally:
                poll.end()
            if not here:
                session.close("transport close", discard=True)
                return
            packets = session.take() if poll.packets is None else poll.packets
        await respond(send, 200, payload(session, packets), [TEXT, *headers])

    async def _post(
        self, session: Session, fields: dict[bytes, bytes], receive: Any, send: Any, headers: list[Header]
    ) -> None:
        session.heard()
        if session.posting:
            session.fail(ProtocolError("two POSTs of one session at once"))
            raise Refused(engineio.BAD_REQUEST, "another POST of this session is being read")
        if fields.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"application/octet-stream":
            session.fail(ProtocolError("a payload of binary"))
            raise Refused(engineio.BAD_REQUEST, "binary is sent as base64: expected a body of text/plain")
        session.posting = True
        try:
            body = await self._body(session, fields, receive)
            if body is None:
                return
            await self._take(session, body)
        finally:
            session.posting = False
        await respond(send, 200, b"ok", [TEXT, *headers])

    async def _body(self, session: Session, fields: dict[bytes, bytes], receive: Any) -> bytes | None:
        """A POST's body; None where the client has left."""
        most = session.max_payload_bytes
        length = fields.get(b"content-length", b"0")
        body = bytearray()
        if int(length) <= most:
            while len(body) <= most:
                message = await receive()
                if message["type"] == "http.disconnect":
                    session.close("transport close", discard=True)
                    return None
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    break
        if max(int(length), len(body)) > most:
            self._engine.counters.refused["max_payload_bytes"] += 1
            session.close("transport error", discard=True)
            option = "max_payload_bytes="
            if session.allowance is not None and most < self._engine.options.max_payload_bytes:
                option = "unidentified=Unidentified(max_payload_bytes=…), for sessions without a namespace,"
            hint = f"expected at most {most} bytes (maxPayload); set {option} on the Realtime"
            raise Refused(engineio.BAD_REQUEST, hint, status=413)
        return bytes(body)

    async def _take(self, session: Session, body: bytes) -> None:
        """Deal with a payload; a long one in parts, and while too much is unread it waits."""
        count = 0
        try:
            for packet in engineio.decode_payload(body):
                session.receive(packet)
                count += 1
                if not count % PACKETS_A_TURN:
                    await asyncio.sleep(0)
        except ProtocolError as error:
            session.fail(error)
        if session.closed == "parse error":
            raise Refused(engineio.BAD_REQUEST, "this payload can't be understood")
        await session.room()


def parse_query(text: str) -> dict[str, str]:
    """The parameters of a query; of several with one name, the last."""
    if "%" in text or "+" in text:
        return dict(parse_qsl(text, keep_blank_values=True))
    query = {}
    for part in text.split("&"):  # what most are
        name, _, value = part.partition("=")
        query[name] = value
    return query


def _preflight(fields: dict[bytes, bytes]) -> list[Header]:
    """The headers that answer a preflight (Fetch, §CORS-preflight fetch)."""
    answer = [(b"access-control-allow-methods", b"GET, POST"), (b"access-control-max-age", b"600")]
    wanted = fields.get(b"access-control-request-headers")
    if wanted:
        answer.append((b"access-control-allow-headers", wanted))
    return answer


def request_of(scope: dict[str, Any]) -> Request:
    """The `Request` that an ASGI scope describes."""
    target = scope.get("raw_path") or scope["path"].encode()
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    lines = [b"%b %b HTTP/%b" % (scope["method"].encode(), target, scope["http_version"].encode())]
    lines += [name + b": " + value for name, value in scope["headers"]]
    raw = b"\r\n".join(lines) + b"\r\n\r\n"
    client, server = (None if pair is None else tuple(pair) for pair in (scope.get("client"), scope.get("server")))
    host = told_host(scope)
    if host:
        return ForwardedRequest(parse_request_head(raw), client, server, scope["scheme"], host)
    return Request(raw, client, server, scope["scheme"])


def told_host(scope: dict[str, Any]) -> str | None:
    """The host that a trusted proxy says the client asked; None where it doesn't say."""
    told: dict[str, str] = (scope.get("extensions") or {}).get("portico.host", {})
    return told.get("host")


async def respond(send: Any, status: int, body: bytes, headers: Sequence[Header]) -> None:
    """A whole response."""
    if status != 204:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
