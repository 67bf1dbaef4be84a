"""The handlers of one namespace: which there are, and running them one after another, in the order of what came."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

from portico.errors import LocalError

logger = logging.getLogger("portico.realtime_client")

ANY: Final = "*"
LIFECYCLE: Final = frozenset(("connect", "connect_error", "disconnect"))

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Intake:
    """How many bytes of events wait for their handlers; above the limit, no more is read from the server."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._free = asyncio.Event()
        self._free.set()

    def add(self, size: int) -> None:
        self._held += size
        if self._held > self._limit:
            self._free.clear()

    def done(self, size: int) -> None:
        self._held -= size
        if self._held <= self._limit:
            self._free.set()

    async def room(self) -> None:
        """Wait until events that came have been handled."""
        await self._free.wait()


class Job:
    """One run of a handler."""

    __slots__ = ("answer", "args", "event", "size")

    def __init__(self, event: str, args: list[Any], size: int, answer: Callable[[Any], None] | None) -> None:
        self.event = event
        self.args = args
        self.size = size
        self.answer = answer


class Handlers:
    """What `on` was given for one namespace, and the task that runs it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._by_event: dict[str, Callable[..., Any]] = {}
        self._jobs: deque[Job] = deque()
        self._task: asyncio.Task[None] | None = None
        self._executor: Executor | None = None
        self._intake: Intake | None = None

    def on(self, event: str, handler: Callable[..., Any]) -> None:
        if not isinstance(event, str) or not callable(handler):
            raise LocalError(f"on({event!r}, {handler!r}): expected the name of an event, and a function")
        if event in self._by_event:
            raise LocalError(f"on({event!r}): there is a handler already; expected one for each event of a namespace")
        self._by_event[event] = handler

    def begin(self, executor: Executor, intake: Intake) -> None:
        """What runs sync handlers, and who counts what waits."""
        self._executor = executor
        self._intake = intake

    @property
    def running(self) -> bool:
        """Whether the caller is one of these handlers."""
        return self._task is not None and asyncio.current_task() is self._task

    def put(self, event: str, args: list[Any], size: int, answer: Callable[[Any], None] | None = None) -> None:
        """Run the handler of `event` when all that came before has been handled; `answer` gets what it returns."""
        if event not in self._by_event and (event in LIFECYCLE or ANY not in self._by_event):
            if answer is not None:
                answer(None)
            return
        if self._intake is not None:
            self._intake.add(size)
        self._jobs.append(Job(event, args, size, answer))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def settled(self, grace_s: float) -> None:
        """Wait until all that came has been handled; after `grace_s`, cancel what is not."""
        task = self._task
        if task is not None and not self.running:
            _, late = await asyncio.wait([task], timeout=grace_s)
            if late:
                task.cancel()
                await asyncio.wait([task])

    async def _work(self) -> None:
        try:
            while self._jobs:
                job = self._jobs.popleft()
                try:
                    result = await self._call(job)
                except Exception:
                    logger.exception("the handler of %r in the namespace %s failed", job.event, self._name)
                else:
                    if job.answer is not None:
                        job.answer(result)
                finally:
                    if self._intake is not None:
                        self._intake.done(job.size)
        finally:
            self._jobs.clear()  # what is left was cancelled
            self._task = None

    async def _call(self, job: Job) -> Any:
        handler = self._by_event.get(job.event)
        args = job.args
        if handler is None:
            handler = self._by_event[ANY]
            args = [job.event, *args]
        args = args[: most(handler)]
        if is_async(handler):
            return await handler(*args)
        result = await asyncio.get_running_loop().run_in_executor(self._executor, functools.partial(handler, *args))
        return await result if inspect.isawaitable(result) else result


def most(function: Callable[..., Any]) -> int | None:
    """How many positional arguments `function` takes at most: it is not given more, as in JavaScript. None: any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return sum(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters
    )


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: also a partial, a method, or an object with an async ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
