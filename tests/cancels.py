"""Ways to cancel, at a random moment or at a chosen await, and what is cancelled by them."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from tests.support import turns

import portico

CANCELLED = object()


async def maybe(rng: random.Random, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What `coroutine` returns; CANCELLED where it was cancelled, at a random moment, before that."""
    task = asyncio.create_task(coroutine)
    way = rng.randrange(4)
    if way == 1:
        await turns(rng.randrange(12))
    elif way == 2:
        await asyncio.sleep(rng.uniform(0, 0.02))
    elif way == 3:
        await asyncio.wait([task], timeout=rng.uniform(0, 0.02))
        task.cancel()
    if way:
        task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return CANCELLED


async def wrapped(awaitable: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return await awaitable()


class Cancelled:
    """Awaits a coroutine, and cancels the task `late` turns after it has begun to wait for the `at`-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int, late: int = 0) -> None:
        self._steps = coroutine.__await__()
        self._at = at
        self._late = late

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        step: Callable[[], Any] = lambda: next(self._steps)  # noqa: E731
        for number in itertools.count():
            try:
                waits_for = step()
            except StopIteration as stop:
                return stop.value
            if number == self._at:
                _later(self._late, task.cancel)
            try:
                value = yield waits_for
                step = lambda value=value: self._steps.send(value)  # noqa: E731
            except BaseException as error:
                step = lambda error=error: self._steps.throw(error)  # type: ignore[misc] # noqa: E731
        return None


def _later(count: int, act: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    if count:
        loop.call_soon(_later, count - 1, act)
    else:
        loop.call_soon(act)


async def cancelled(coroutine: Coroutine[Any, Any, Any], at: int, late: int) -> Any:
    return await Cancelled(coroutine, at, late)


async def settled(server: portico.Server) -> None:
    """The server has seen the end of every connection, and everybody has had the time to clean up."""
    async with asyncio.timeout(30):
        await asyncio.sleep(0.1)  # whoever was given up while it waited to be accepted
        while server.connection_count:
            await asyncio.sleep(0.1)
    await turns()
