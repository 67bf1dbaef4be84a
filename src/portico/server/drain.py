"""The way to a server's end: until when it serves, and how its WebSockets are sent away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from portico.net import activation
from portico.net.stream import Stream
from portico.websocket import WebSocket

if TYPE_CHECKING:
    from portico.server.connection import HttpConnection
    from portico.server.server import Server

HEAR_S: Final = 0.5  # in a stop: what a new connection has for its first request to come
STEP_S: Final = 0.01  # closer together, they are closed in one go
NOT_IN_ORDER: Final = 1  # the exit status


def hear_out(stream: Stream) -> bool:
    """Before a connection without a request is ended: read what it may have sent just now, which is still answered.

    Returns whether that was all; False for one so new that its first request may be on its way. To end it now would be
    to refuse who was already let in.
    """
    if not getattr(stream, "handshaking", False):
        try:
            stream.peek()
        except Exception as error:
            stream.failed(error)
    return stream.bytes_in > 0 or stream.reactor.now - stream.opened > HEAR_S


def stop_all(connections: Iterable[HttpConnection]) -> None:
    """End those of `connections` that nothing came from meanwhile."""
    for connection in connections:
        connection.stop()


async def send_away(sockets: Sequence[WebSocket], seconds: float) -> None:
    """Close `sockets` with 1001, evenly over `seconds`, so that their peers don't all come back in one instant."""
    clock = asyncio.get_running_loop().time
    began = clock()
    for index, ws in enumerate(sockets):
        wait_s = began + seconds * index / len(sockets) - clock()
        if wait_s > STEP_S:
            await asyncio.sleep(wait_s)
        ws.close(1001, "server is stopping")


async def until_signal(
    server: Server,
    numbers: Iterable[int] = (signal.SIGINT, signal.SIGTERM),
    *,
    ready: Callable[[], None] = lambda: None,
) -> Rest:
    """Serve until one of the signals `numbers` or the server's end, then stop in order. `ready` is called when they are
    heard: whoever is told then that the server runs may end it at once.

    A second signal ends the process at once, also where the application holds the event loop up. SIGHUP calls
    ``server.on_hangup``, where that is set; otherwise it is left as it is. What is left at the end is returned: see
    `Rest`.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    serving = loop.create_task(server.serve_forever())
    serving.add_done_callback(lambda _: stop.set())
    asked = 0.0

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            end_now(server)
        asked = time.monotonic()
        loop.call_soon_threadsafe(stop.set)

    # Not loop.add_signal_handler() alone: what that calls has to wait for the loop.
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}
    for number in before:
        loop.add_signal_handler(number, stop.set)
        signal.signal(number, hear)
    if server.on_hangup is not None:
        loop.add_signal_handler(signal.SIGHUP, server.on_hangup)
    rest = Rest(server, before)
    try:
        ready()
        activation.notify("READY=1")
        await stop.wait()
        activation.notify("STOPPING=1")
        await server.close()
        await serving
    except BaseException:
        rest.over()
        raise
    finally:
        if server.on_hangup is not None:
            loop.remove_signal_handler(signal.SIGHUP)
    if server.stuck:  # asyncio.run() would wait for them for ever
        end_now(server)
    for number in before:
        loop.remove_signal_handler(number)
        signal.signal(number, hear)
    rest.limit((asked or time.monotonic()) + server.limits.stop_timeout_s - time.monotonic())
    return rest


class Rest:
    """What is left when a server has stopped: threads of the application, which Python waits for, and the signals'
    handlers, so that a second signal is still heard. `over` ends that."""

    def __init__(self, server: Server, before: dict[int, Any]) -> None:
        self._server = server
        self._before = before
        self._timer: threading.Timer | None = None

    def limit(self, seconds: float) -> None:
        """End the process in `seconds`, at the soonest in one, where it has not ended by then."""
        self._timer = threading.Timer(max(seconds, 1.0), self._cut)
        self._timer.daemon = True
        self._timer.start()

    def over(self) -> None:
        """The event loop has ended: nothing is waited for, and the signals are whose they were."""
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _cut(self) -> None:
        mine = threading.current_thread(), threading.main_thread()
        names = sorted(thread.name for thread in threading.enumerate() if thread not in mine)
        self._server.logger.warning("threads of the application still run, and are cut off: %s", ", ".join(names))
        end_now(self._server)


def end_now(server: Server) -> None:
    """End the process; of what is still to be written, only the logs are."""
    with contextlib.suppress(Exception):  # a signal may have come in the middle of writing these
        if server.access is not None:
            server.access.flush()
        logging.shutdown()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(NOT_IN_ORDER)
