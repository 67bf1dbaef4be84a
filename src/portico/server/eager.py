"""Tasks of applications: begun at once where Python can do that, so that what never waits costs no turn of the loop."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from typing import Any

Tasks = set[asyncio.Future[Any]]
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


def spawner(loop: asyncio.AbstractEventLoop, name: str) -> Spawn:
    """What makes a task of a coroutine on `loop`, as ``loop.create_task`` would: with its task factory, if it has one;
    else begun at once, from Python 3.12 on. `name` is the task's, where that is cheaper than a number.

    Each task has its own copy of the context that this was called in: what begins it may be the end of another task,
    whose context variables are none of its business.
    """
    context = contextvars.copy_context()
    plain = getattr(type(loop), "create_task", None) is asyncio.BaseEventLoop.create_task

    def create(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return context.copy().run(loop.create_task, coroutine)

    def begin(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if sys.version_info >= (3, 12):
            return asyncio.Task(coroutine, loop=loop, name=name, context=context.copy(), eager_start=True)
        return asyncio.Task(coroutine, loop=loop, name=name, context=context.copy())

    if loop.get_task_factory() is None and (plain or sys.version_info >= (3, 12)):
        return begin
    return create
