"""Tasks that are kept: where a handler never waits, its event is dealt with in the turn that brought it.

A handler has to find a task of its own around it (``current_task``, timeouts, context variables). Making one for each
event costs more than most handlers do. So one waits here for an event, and its handler's first step is taken at once,
as within that task. Where the handler waits, the task goes on with it, and ends with it, as its own would. Where it has
returned, the task waits for the next event, if nobody can tell: the handler has changed no context variable, and kept
no hold of the task.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final

from portico.net.reactor import Reactor
from portico.net.stepping import Stepped
from portico.net.steps import Begun, first_step, is_cancelled, references

if TYPE_CHECKING:
    from portico.realtime.members import Member

EVENT_BYTES: Final = 200  # what an unread event weighs besides its text
CREDIT: Final = 16  # of handlers that wait, so many are tried before that is given up
AGAIN: Final = 4096  # events later it is tried again

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Runner(Stepped):
    """One such task, and what it waits in. ``begun``: its handler, where that has not returned at once."""

    __slots__ = ("_name", "_over", "_own", "_pristine", "_references", "_runners", "_what", "begun", "task")

    def __init__(self, runners: Runners) -> None:
        Stepped.__init__(self)
        self._runners = runners
        self._own: Any = None  # the task's context
        self._pristine: Context | None = None  # and a copy of it, as it has to be
        self._name = ""
        self._references = 0
        self._over = False
        self._what: Any = None  # whose event the handler deals with, and which
        self.begun: Begun | None = None
        self.task: Any = None

    async def run(self) -> None:
        """The task."""
        runners = self._runners
        runners.coming = False
        if runners.stopped:
            return
        self.task = asyncio.current_task()
        self._pristine = copy_context()
        self._name = self.task.get_name()
        runners.idle.append(self)
        try:
            await self
        except asyncio.CancelledError as error:
            if self.begun is None:
                raise
            if self.task.cancelling():  # by the handler, before it waited: what it waits for is to be cancelled
                self.task.uncancel()
                self.task.cancel(*error.args)
        if self.begun is not None:
            try:
                await self._go_on(self.begun, *self._what)
            finally:
                runners.forget(self.task)
        self.task = None

    async def _go_on(self, begun: Begun, client: Any, name: str, id: int | None, size: int) -> None:
        try:
            try:
                result = await begun
                if id is not None:
                    client._answer(id, result)
            except Exception as error:
                client.namespace.failed(client, name, id, error)
            finally:
                client.session.hold(-size)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError) or is_cancelled():
                client._interrupted()
                raise
        await client._work()  # what has come meanwhile, and its end

    def step(self, function: Callable[..., Any], args: list[Any]) -> Any:
        """Call a handler, as this task: what it returns, or None where it waits, and has ``begun``."""
        coroutine, value = first_step(self._own, function, args)
        if coroutine is None:
            return value
        self.begun = Begun(coroutine, value)
        return None

    def within(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the task's context."""
        return self._own.run(function, *args)

    def go_on(self, client: Member, name: str, id: int | None, size: int) -> None:
        """Let the task wait for the handler: the event of `size` counts as unread until that is over."""
        self._what = client, name, id, size
        client.session.hold(size)
        self.end()

    def end(self) -> None:
        """Wait for no other event."""
        self._over = True
        self.resume()

    def end_later(self) -> None:
        """The same, from within another task."""
        self._over = True
        self.resume_later()

    def is_unchanged(self) -> bool:
        """Whether nobody can tell that this task has had a handler."""
        return (
            not self._over  # else it was cancelled
            and references(self.task) == self._references
            and self._own == self._pristine
            and not self.task._callbacks
            and self.task.get_name() == self._name
        )

    def __next__(self) -> Runner:
        if self._over:
            raise StopIteration
        self._asyncio_future_blocking = True
        return self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._runners.reactor.loop

    def cancel(self, msg: Any = None) -> bool:
        if self in self._runners.idle:
            self._runners.idle.remove(self)
            return Stepped.cancel(self, msg)
        self._over = True
        return False  # its handler runs: the task keeps that in mind


class Runners:
    """Those of one Realtime on one event loop. `tasks`: where a task stands while its handler waits."""

    __slots__ = ("_credit", "_loop", "_missed", "_spawn", "_tasks", "coming", "idle", "reactor", "stopped")

    def __init__(self, reactor: Reactor, spawn: Spawn, tasks: set[asyncio.Task[Any]]) -> None:
        self.reactor = reactor
        self.idle: list[Runner] = []
        self.stopped = reactor.loop.get_task_factory() is not None  # whose tasks are not ours to keep
        self._loop = reactor.loop
        self._spawn = spawn
        self._tasks = tasks
        self._credit = CREDIT
        self._missed = 0
        self.coming = False  # one is on its way to be idle

    def enter(self) -> Runner | None:
        """A task that is the current one from now on, until `leave`; None where none is idle, or another one runs."""
        if not self.idle:
            self._miss()
            return None
        runner = self.idle[-1]
        if not self.reactor.in_turn:
            return None
        runner._references = references(runner.task)
        try:
            _enter_task(self._loop, runner.task)
        except RuntimeError:
            return None
        self.idle.pop()
        runner._own = runner._context
        return runner

    def leave(self, runner: Runner) -> None:
        """The handler has returned, or waits."""
        _leave_task(self._loop, runner.task)
        if runner.begun is not None:
            self._credit -= 4
            self._tasks.add(runner.task)
            return
        if self._credit < CREDIT:
            self._credit += 1
        try:
            unchanged = not self.stopped and runner.is_unchanged()
        except BaseException:  # of a context variable's value, compared with what it was
            unchanged = False
        if unchanged:
            self.idle.append(runner)
        else:
            runner.end()

    def lost(self, error: BaseException) -> None:
        """A handler, or what tells of its failure, has raised what nobody takes: as in a task."""
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        self._loop.call_exception_handler({"message": "an event could not be dealt with", "exception": error})

    def _miss(self) -> None:
        self._missed += 1
        if self._missed >= AGAIN:
            self._missed = 0
            self._credit = CREDIT
        if self._credit > 0 and not self.stopped and not self.coming:
            self.coming = True
            self._spawn(Runner(self).run())

    def forget(self, task: asyncio.Task[Any]) -> None:
        """A task whose handler had waited is over."""
        self._tasks.discard(task)

    async def stop(self) -> None:
        """End those that are idle."""
        self.stopped = True
        idle, self.idle = self.idle, []
        tasks = [runner.task for runner in idle if runner.task is not None]
        for runner in idle:
            runner.end_later()
        if tasks:
            await asyncio.wait(tasks)
