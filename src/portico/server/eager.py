"""Tasks of applications: begun at once where Python can do that, so that what never waits costs no turn of the loop."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

Tasks = set[asyncio.Future[Any]]
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


def spawners(loop: asyncio.AbstractEventLoop, name: str) -> tuple[Spawn, Spawn]:
    """What makes a task of a coroutine on `loop`, as ``loop.create_task`` would: with its task factory, if it has one;
    else begun at once, from Python 3.12 on. `name` is the task's, where that is cheaper than a number.

    The first is for where no task runs: it takes the context that is there. With the second each task has its own copy
    of the context that this was called in: what begins it may be the end of another task, whose context variables are
    none of its business.
    """
    context = contextvars.copy_context()
    eager: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}
    plain = getattr(type(loop), "create_task", None) is asyncio.BaseEventLoop.create_task
    if loop.get_task_factory() is not None or not (plain or eager):
        return loop.create_task, lambda coroutine: context.copy().run(loop.create_task, coroutine)
    make: Callable[..., asyncio.Task[None]] = partial(asyncio.Task, loop=loop, name=name, **eager)
    return make, lambda coroutine: make(coroutine, context=context.copy())
