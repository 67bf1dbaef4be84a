"""A coroutine per connection: the Endpoint that starts a handler, ends its connection after it, and it after that."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

from portico.codes import Close
from portico.errors import ConnectionClosed, LocalError
from portico.net.timers import Timed
from portico.server.app import Handler
from portico.websocket import Endpoint, Inbox, WebSocket

logger = logging.getLogger("portico.server")


class Grace(Timed):
    """The time that a handler has left after its connection has ended."""

    __slots__ = ("task",)

    def __init__(self, task: asyncio.Task[Any]) -> None:
        super().__init__()
        self.task = task

    def expired(self, now: float) -> None:
        self.task.cancel()


class Coroutines(Endpoint):
    """Runs one coroutine handler for all connections of a route.

    When the handler returns, its connection closes with 1000; when it raises, with 1011, logged once. When the
    connection ends first, the handler learns it from `recv`, `send` or the end of its loop; if it is still running
    ``Limits.handler_grace_s`` later, it is cancelled.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._ending: dict[asyncio.Task[Any], Grace] = {}

    @property
    def ending(self) -> list[asyncio.Task[Any]]:
        """The handlers whose connections have ended already."""
        return list(self._ending)

    def on_open(self, ws: WebSocket) -> None:
        coroutine: Any = self._handler(ws)
        task: asyncio.Task[Any] = ws.stream.reactor.loop.create_task(coroutine)
        self._inbox(ws).task = task
        task.add_done_callback(functools.partial(self._done, ws))

    def on_close(self, ws: WebSocket, close: Close) -> None:
        task = self._inbox(ws).task
        if task is None or task.done():
            return
        grace = self._ending[task] = Grace(task)
        ws.stream.reactor.wheel.schedule(grace, ws.stream.reactor.clock() + ws.settings.limits.handler_grace_s)

    def _done(self, ws: WebSocket, task: asyncio.Task[Any]) -> None:
        self._inbox(ws).task = None
        grace = self._ending.pop(task, None)
        if grace is not None:
            ws.stream.reactor.wheel.cancel(grace)
        if task.cancelled():
            ws.close(1001, "handler cancelled")
            return
        error = task.exception()
        if error is None or (isinstance(error, ConnectionClosed) and not ws.sending):
            ws.close(1000)
            return
        ws.callback_failed(error)

    @staticmethod
    def _inbox(ws: WebSocket) -> Inbox:
        if ws.inbox is None:
            raise LocalError("a coroutine handler needs a connection that is read with recv()")
        return ws.inbox
