"""What came for the one coroutine that reads, and its waiting for it: stepped inside the reactor's turn."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from portico.codes import Close
from portico.errors import ConnectionClosed, LocalError
from portico.net.stepping import Stepped
from portico.net.stream import Protocol, Stream

MESSAGE_COST: Final = 64  # what an unread message weighs besides its bytes: the object, its place in the queue
_HEAD_BYTES: Final = "\xe9".__sizeof__() - 2  # of a str that is not ASCII: its fields, without its characters


def weight(message: str | bytes) -> int:
    """What an unread message weighs in bytes of memory. CPython stores all characters of a str like the widest one: in
    1, 2 or 4 bytes each, and a last one of zero where they are not ASCII (PEP 393)."""
    if type(message) is str:
        text = message
        if not text.isascii():
            return text.__sizeof__() - _HEAD_BYTES + MESSAGE_COST
    return len(message) + MESSAGE_COST


class Owner(Protocol):
    """A connection as its `Inbox` sees it: its stream, how it ended once it has, and who is told what was taken."""

    __slots__ = ("closed", "stream")

    stream: Stream
    closed: Close | None

    def taken(self, cost: int) -> None:
        """A message was taken; those that are left weigh `cost` bytes."""
        raise NotImplementedError


class Inbox(Stepped):
    """Messages received and not yet taken, and the one task that waits for them; one object for the connection's life.

    The waiting task's next step is taken within the reactor's turn, in the task's context, when no other task is
    running. Cancelling a wait takes no message.
    """

    __slots__ = ("_queue", "_ws", "cost", "iterating", "reading_on", "task")

    def __init__(self, ws: Owner) -> None:
        Stepped.__init__(self)
        self._ws = ws
        self._queue: deque[str | bytes] | None = None
        self.cost = 0  # what the queue weighs in bytes
        self.iterating = False
        self.reading_on = False  # Driver._read_on is due
        self.task: asyncio.Task[Any] | None = None  # the coroutine handler's, where a server runs one

    def put(self, message: str | bytes) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(message)
        self.cost += weight(message)

    def wake(self) -> None:
        """Let the waiting task, if there is one, take its next step: now, where that is possible."""
        reactor = self._ws.stream.reactor
        if self._callback is None:
            return
        if reactor.in_turn and self._context is not None and asyncio.current_task(reactor.loop) is None:
            self.resume()
        else:
            self.resume_later()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._ws.stream.reactor.loop

    def __next__(self) -> Inbox:
        if self._queue:
            message = self._queue.popleft()
            if self._queue:
                self.cost -= weight(message)
            else:
                self._queue = None
                self.cost = 0
            self._ws.taken(self.cost)
            raise StopIteration(message)
        close = self._ws.closed
        if close is not None:
            raise StopAsyncIteration if self.iterating else ConnectionClosed(close)
        if self._callback is not None:
            raise LocalError("recv() while another task waits in recv(): expected one reader for a connection")
        self._asyncio_future_blocking = True
        return self
