"""What `write`, `send` and `close` of a WebSocket return: a value, and two things to await."""

from __future__ import annotations

import enum
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from portico.websocket.websocket import WebSocket


class Sent(enum.Enum):
    """What became of a message given to `WebSocket.write`."""

    DONE = "done"  # taken, and the outbox is below the high-water mark
    QUEUED = "queued"  # taken, but the peer is slow: the outbox is above the high-water mark
    DROPPED = "dropped"  # not taken: it would not fit the outbox; the connection is being closed with 1008
    CLOSED = "closed"  # not taken: the connection is closing or closed


DONE = Sent.DONE
QUEUED = Sent.QUEUED
DROPPED = Sent.DROPPED
GONE = Sent.CLOSED


class Finished:
    """What `send` returns when there is nothing to wait for; awaiting it costs next to nothing."""

    __slots__ = ()

    def __await__(self) -> Finished:
        return self

    def __iter__(self) -> Finished:
        return self

    def __next__(self) -> None:
        raise StopIteration

    def send(self, value: object) -> None:
        raise StopIteration

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> None:
        raise kind if value is None else value

    def close(self) -> None:
        pass


FINISHED = Finished()


class Ending(Coroutine[Any, Any, None]):
    """What `close` returns: the closing is under way already, and awaiting this waits until it is over."""

    __slots__ = ("_steps", "_ws")

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self._steps: Generator[Any, None, None] | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait()

    def _wait(self) -> Generator[Any, None, None]:
        future = self._ws._end_future()
        if future is not None:
            yield from future

    def send(self, value: Any) -> Any:
        if self._steps is None:
            self._steps = self._wait()
        return self._steps.send(value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        if self._steps is None:
            self._steps = self._wait()
        return self._steps.throw(kind if value is None else value)

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()
