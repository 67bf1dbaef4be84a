"""The first step of a coroutine, taken at once and without a task's machinery.

`first_step` and `references`, which counts the references to an object, have a hand-written twin, ``_steps.pyx``; both
are held to the same tests.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from types import CoroutineType
from typing import Any

AnyCoroutine = Coroutine[Any, Any, Any]


def _first_step(
    context: Context, function: Callable[..., Awaitable[Any]], args: list[Any]
) -> tuple[AnyCoroutine | None, Any]:
    """Call ``function(*args)`` in `context`, and run what it returns up to where that waits.

    Returns ``(None, value)`` where it never did; otherwise the coroutine and what it waits for, for `Begun`. Raises
    what it raises.
    """
    return context.run(_step, function, args)


def _step(function: Callable[..., Awaitable[Any]], args: list[Any]) -> tuple[AnyCoroutine | None, Any]:
    awaitable = function(*args)
    coroutine: Any = awaitable if type(awaitable) is CoroutineType else _awaited(awaitable)
    try:
        return coroutine, coroutine.send(None)
    except StopIteration as end:
        return None, end.value


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def is_cancelled() -> bool:
    """Whether somebody has cancelled the running task; where not, a CancelledError is what its own code has raised."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class Begun:
    """A coroutine that has begun, to be awaited from there on. ``waits_for``: what it gave at its last step."""

    __slots__ = ("coroutine", "waits_for")

    def __init__(self, coroutine: AnyCoroutine, waits_for: Any) -> None:
        self.coroutine = coroutine
        self.waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, waits_for = self.coroutine, self.waits_for
        step: Callable[[Any], Any]
        while True:
            try:
                value = yield waits_for
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                step, value = coroutine.throw, error
            else:
                step = coroutine.send
            try:
                waits_for = step(value)
            except StopIteration as end:
                return end.value


try:
    from portico.net import _steps as _twin  # type: ignore[attr-defined, unused-ignore] # compiled, or not there
except ImportError:
    first_step, references = _first_step, sys.getrefcount
else:
    first_step, references = _twin.first_step, _twin.references
