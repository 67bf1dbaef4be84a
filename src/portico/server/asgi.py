"""ASGI 3.0: the lifespan, and an application's own WebSockets over ours."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from portico.errors import ConnectionClosed, LocalError, PorticoError
from portico.server.app import AsgiApp
from portico.server.scopes import ENDS_A_TURN, VERSIONS
from portico.server.switch import INTERNAL_ERROR, Switch
from portico.websocket import Endpoint, WebSocket
from portico.wire.headers import encode_headers

if TYPE_CHECKING:
    from portico.server.server import Server

logger = logging.getLogger("portico.server")


class AsgiWebSocket(Endpoint):
    """One WebSocket of an ASGI application: its `receive` and `send` over a `Switch`, then over a `WebSocket`."""

    def __init__(self, server: Server, switch: Switch) -> None:
        self._server = server
        self._switch = switch
        self._ws: WebSocket | None = None
        self._connect_told = False
        self._refused = False
        self._left_told = False  # the application knows that the peer has left
        self._ends_told = 0  # how often it asked again
        self._decided = asyncio.Event()  # the peer was accepted or refused, or has left before
        switch.on_abandoned = self._decided.set
        self._denial: tuple[int, Any, list[bytes]] | None = None

    async def receive(self) -> dict[str, Any]:
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        if self._left_told:
            self._ends_told += 1
            if self._ends_told == ENDS_A_TURN:
                self._ends_told = 0
                await asyncio.sleep(0)
        ws = self._ws
        if ws is None:
            await self._decided.wait()
            ws = self._ws
        if ws is None:
            self._left_told = True
            return {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        try:
            message = await ws.recv()
        except ConnectionClosed as closed:
            self._left_told = True
            return {"type": "websocket.disconnect", "code": closed.close.code, "reason": closed.close.reason}
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self._ws is not None:
            await self._send_open(self._ws, kind, message)
        elif self._refused:
            raise LocalError(f"{kind} after the connection was refused")
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._refuse(403, "The application refused this connection.\n")
        elif kind == "websocket.http.response.start":
            self._denial = _denial_start(message)
        elif kind == "websocket.http.response.body" and self._denial is not None:
            status, headers, pieces = self._denial
            pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                self._refuse(status, b"".join(pieces), headers)
        else:
            raise LocalError(f"{kind} before the connection is accepted: expected websocket.accept or websocket.close")

    async def _send_open(self, ws: WebSocket, kind: str, message: dict[str, Any]) -> None:
        if kind == "websocket.send":
            data = message.get("bytes")
            if data is None:
                data = message.get("text")
            if data is None:
                raise LocalError("websocket.send without a message: expected 'bytes' or 'text'")
            try:
                await ws.send(data)
            except ConnectionClosed as closed:
                self._left_told = True
                raise ConnectionResetError(str(closed)) from closed
        elif kind == "websocket.close":
            ws.close(message.get("code", 1000), message.get("reason") or "")
        else:
            raise LocalError(f"{kind} on an open connection: expected websocket.send or websocket.close")

    def _accept(self, message: dict[str, Any]) -> None:
        site = self._server.site
        self._ws = self._switch.establish(
            site.options,
            site.settings,
            self,
            message.get("subprotocol"),
            headers=[(bytes(name), bytes(value)) for name, value in message.get("headers", ())],
            pull=True,
        )
        self._decided.set()
        if self._ws is None:
            self._refused = self._left_told = True
            raise ConnectionResetError("the client has left, or the server stops")

    def _refuse(self, status: int, body: str | bytes, headers: Any = ()) -> None:
        self._refused = True
        self._decided.set()
        self._switch.refuse(status, body, [(bytes(name), bytes(value)) for name, value in headers])

    def application_ended(self, error: BaseException | None) -> None:
        """The application returned, or raised `error`: end what it left open."""
        stopped = isinstance(error, asyncio.CancelledError) and self._server.stopping
        if error is not None and self._left_told:
            logger.debug("the client has left; an application ended with %r on a WebSocket", error)
        elif error is not None and not stopped:
            logger.error("an application failed on a WebSocket", exc_info=error)
        elif self._ws is None and not self._refused and not self._left_told and not stopped:
            logger.error("an application ended without an answer to an upgrade request")
        ws = self._ws
        if ws is None:
            if not self._refused:
                self._refuse(500, INTERNAL_ERROR)
        elif error is not None:
            ws.close(1011, "internal error")
        else:
            ws.close(1000)


def _denial_start(message: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], list[bytes]]:
    """What ``websocket.http.response.start`` begins with, checked."""
    status = message["status"]
    if not isinstance(status, int) or not 200 <= status <= 999:
        raise LocalError(f"status {status!r}: expected a number from 200 to 999")
    headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
    encode_headers(headers)
    return status, headers, []


class Lifespan:
    """The lifespan of one mounted application (ASGI §Lifespan); an application that knows none is left alone."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self.state: dict[str, Any] = {}
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._answer: asyncio.Future[str | None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._takes_part = False  # it started, and wants to be told of the end

    async def startup(self) -> None:
        """Let the application start; raises PorticoError with its message where it says that it failed."""
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._inbox.put_nowait({"type": "lifespan.startup"})
        self._task = loop.create_task(self._run())
        try:
            failure = await self._answer
        except BaseException:
            await self._end(0.0)
            raise
        if failure is not None:
            await self._end(1.0)
            raise PorticoError(f"the application failed to start: {failure}")

    async def shutdown(self, timeout_s: float) -> None:
        """Let the application end, if it took part, within `timeout_s`."""
        if self._task is None or not self._takes_part:
            return
        if not self._task.done():
            self._answer = asyncio.get_running_loop().create_future()
            self._inbox.put_nowait({"type": "lifespan.shutdown"})
            await asyncio.wait([self._answer], timeout=timeout_s)
            if not self._answer.done():
                logger.error("the application did not shut down within %g s", timeout_s)
                await self._end(0.0)
                return
            if self._answer.result() is not None:
                logger.error("the application failed to shut down: %s", self._answer.result())
        await self._end(1.0)

    async def _end(self, timeout_s: float) -> None:
        """Nothing more will be asked of the application: let its task end, or end it."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout_s)
            if self._task.cancel():
                await asyncio.wait([self._task], timeout=1.0)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": VERSIONS, "state": self.state}
        try:
            await self._app(scope, self._inbox.get, self._send)
        except Exception as error:
            if self._takes_part:
                logger.error("the application failed in its lifespan", exc_info=error)
            else:  # ASGI §Lifespan: it is one that knows none, or so it seems
                logger.info("the application takes no part in the lifespan: %r", error)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        answer = self._answer
        if answer is None or answer.done():
            raise LocalError(f"{kind} at the wrong time")
        if kind in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
            self._takes_part = True
            answer.set_result(None)
        elif kind in ("lifespan.startup.failed", "lifespan.shutdown.failed"):
            answer.set_result(message.get("message", "") or "no message")
        else:
            raise LocalError(f"message {kind!r}: expected a lifespan message")
