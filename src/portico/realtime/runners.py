"""Tasks that are kept: where a handler never waits, its event is dealt with in the turn that brought it.

A handler has to find a task of its own around it (``current_task``, timeouts, context variables). Making one for each
event costs more than most handlers do. So one waits here for an event, and is stepped at once when it comes, as a
coroutine that waits in ``recv()`` is. It is used again only where nobody can tell: its handler has waited for nothing,
changed no context variable, and kept no hold of the task. Any other one ends with its handler, as its own task would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Final

from portico.net.reactor import Reactor
from portico.net.stepping import Stepped

if TYPE_CHECKING:
    from portico.realtime.members import Member

EVENT_BYTES: Final = 200  # what an unread event weighs besides its text
CREDIT: Final = 16  # of handlers that wait, so many are tried before that is given up
AGAIN: Final = 4096  # events later it is tried again

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Runner(Stepped):
    """One such task, and what it waits in."""

    __slots__ = ("_event", "_held", "_id", "_runners", "client", "task")

    def __init__(self, runners: Runners) -> None:
        Stepped.__init__(self)
        self._runners = runners
        self.client: Any = None  # whose event it deals with
        self.task: asyncio.Task[None] | None = None
        self._event: list[Any] = []
        self._id: int | None = None
        self._held = 0  # bytes that count as unread, once its handler has waited

    async def run(self) -> None:
        """The task."""
        task = self.task = asyncio.current_task()
        pristine = copy_context()
        self._runners.coming = False
        while not self._runners.stopped:
            self._runners.idle.append(self)
            await self
            if self.client is None:
                break
            references = getrefcount(task)
            try:
                await self._deal(self.client)
            finally:
                self.client = None
                self._event = []
                if self._held:
                    self._runners.forget(task)
            if self._held or getrefcount(task) != references or copy_context() != pristine:
                break
        self.task = None

    async def _deal(self, client: Any) -> None:
        try:
            await client.namespace.dispatch(client, self._event, self._id)
        except BaseException:  # it was cancelled
            client._working = False
            raise
        finally:
            if self._held:
                client.session.hold(-self._held)
        if self._held or client._inbox or not client.connected:
            await client._work()  # what has come meanwhile, and its end
        else:
            client._working = False

    def step(self, client: Member, event: list[Any], id: int | None) -> None:
        """Deal with an event, as far as that goes without waiting."""
        self.client = client
        self._event = event
        self._id = id
        self.resume()

    def hold(self, size: int) -> None:
        """Its handler waits: the event counts as unread until that is over."""
        self._held = size
        if self.client is not None:
            self.client.session.hold(size)

    def __next__(self) -> Runner:
        if self.client is not None or self._runners.stopped:
            raise StopIteration
        self._asyncio_future_blocking = True
        return self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._runners.reactor.loop

    def cancel(self, msg: Any = None) -> bool:
        if self in self._runners.idle:
            self._runners.idle.remove(self)
        return Stepped.cancel(self, msg)


class Runners:
    """Those of one Realtime on one event loop. `tasks`: where a task stands while its handler waits."""

    __slots__ = ("_credit", "_missed", "_spawn", "_tasks", "coming", "idle", "reactor", "stopped")

    def __init__(self, reactor: Reactor, spawn: Spawn, tasks: set[asyncio.Task[Any]]) -> None:
        self.reactor = reactor
        self.idle: list[Runner] = []
        self.stopped = reactor.loop.get_task_factory() is not None  # whose tasks are not ours to keep
        self._spawn = spawn
        self._tasks = tasks
        self._credit = CREDIT
        self._missed = 0
        self.coming = False  # one is on its way to be idle

    def begin(self, client: Member, event: list[Any], id: int | None, size: int) -> bool:
        """Deal with an event of a client that has no other, now; False where it has to have a task of its own."""
        if not self.idle:
            self._miss()
            return False
        reactor = self.reactor
        if not reactor.in_turn or asyncio.current_task(reactor.loop) is not None:
            return False
        runner = self.idle.pop()
        client._working = True
        runner.step(client, event, id)
        if runner.client is None:
            if self._credit < CREDIT:
                self._credit += 1
        else:  # its handler waits
            self._credit -= 4
            runner.hold(size + EVENT_BYTES)
            if runner.task is not None:
                self._tasks.add(runner.task)
        return True

    def _miss(self) -> None:
        self._missed += 1
        if self._missed >= AGAIN:
            self._missed = 0
            self._credit = CREDIT
        if self._credit > 0 and not self.stopped and not self.coming:
            self.coming = True
            self._spawn(Runner(self).run())

    def forget(self, task: asyncio.Task[Any] | None) -> None:
        """A task whose handler had waited is over."""
        if task is not None:
            self._tasks.discard(task)

    async def stop(self) -> None:
        """End those that are idle."""
        self.stopped = True
        idle, self.idle = self.idle, []
        tasks = [runner.task for runner in idle if runner.task is not None]
        for runner in idle:
            runner.resume_later()  # it finds that it is over
        if tasks:
            await asyncio.wait(tasks)
