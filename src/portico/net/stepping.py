"""What a coroutine waits in, so that its next step is taken within the turn that brings what it waits for.

asyncio's Task waits on anything with `_asyncio_future_blocking`, `add_done_callback` and `result`. An object with these
that lives as long as the wait may come again costs no future, no ``call_soon`` and no further turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVar

AnyStepped = TypeVar("AnyStepped", bound="Stepped")


class Cancellation:
    """What wakes the task whose wait was cancelled, and no other."""

    __slots__ = ("_error",)

    def __init__(self, error: asyncio.CancelledError) -> None:
        self._error = error

    def result(self) -> None:
        raise self._error


class Stepped:
    """Its own awaitable and its own future, for one task at a time.

    A subclass has `get_loop` and `__next__`: that ends the wait with StopIteration, or sets `_asyncio_future_blocking`
    and returns the object itself.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_context")

    def __init__(self) -> None:
        self._asyncio_future_blocking: bool | None = None  # None, and so a coroutine to asyncio, until a task waits
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None

    def resume(self) -> None:
        """Let the waiting task, if there is one, take its next step, now: where no other task runs."""
        callback, self._callback = self._callback, None
        context, self._context = self._context, None
        if callback is not None and context is not None:
            context.run(callback, self)

    def resume_later(self) -> None:
        """The same after whatever runs now: a callback of another connection, perhaps."""
        callback, self._callback = self._callback, None
        context, self._context = self._context, None
        if callback is not None:
            self.get_loop().call_soon(callback, self, context=context)

    # what `await` uses

    def __await__(self: AnyStepped) -> AnyStepped:
        return self

    def __iter__(self: AnyStepped) -> AnyStepped:
        return self

    def __next__(self) -> Any:
        raise NotImplementedError

    def send(self, value: object) -> Any:
        return self.__next__()

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> None:
        raise kind if value is None else value

    def close(self) -> None:
        pass

    # what a Task uses of the object that it waits on

    def get_loop(self) -> asyncio.AbstractEventLoop:
        raise NotImplementedError

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        self._asyncio_future_blocking = None
        self._callback = callback
        self._context = context

    def result(self) -> None:
        pass

    def cancel(self, msg: Any = None) -> bool:
        callback, context = self._callback, self._context
        if callback is None:
            return False
        self._callback = self._context = None
        error = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self.get_loop().call_soon(callback, Cancellation(error), context=context)
        return True
