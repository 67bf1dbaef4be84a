"""Simulated time: an event loop whose clock stands still while anything is ready, and then jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Final, TypeVar, TypeVarTuple

from portico.errors import LocalError

START_S: Final = 1000.0
MAX_TURNS: Final = 100_000  # of the loop without a socket or a timer: what goes round like that waits for nothing
EXECUTOR_S: Final = 60.0
SHOWN_TASKS: Final = 10

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Stalled(LocalError):
    """Simulated time can't go on, or went on for too long. The message says why, and where each task waits."""


class Selector(selectors.DefaultSelector):
    """The loop's selector: sockets are asked for real and without waiting, and what is left of a wait is a jump."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found:
            self._turns = 0
            return found
        if timeout is not None and timeout <= 0:
            self._turns += 1
            if self._turns > MAX_TURNS:
                self._turns = 0
                raise self._loop.stalled(f"{MAX_TURNS} turns of the loop, and no time has passed: a task is spinning")
            return found
        self._turns = 0
        return self._loop.wait(super().select, timeout)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop on simulated time, which begins at 1000 s.

    Time stands still while there is anything to do. Before each jump the sockets are asked: what is sent over one
    within the same loop is there at once, and takes no time. Work in executors (``asyncio.to_thread``, ``getaddrinfo``)
    is really waited for, and takes no simulated time either. `clock` is how Portico finds out.

    - `limit_s` (86,400): how much time may pass in all; keepalive alone would let it pass for ever.
    - `patience_s` (0): how long to really wait for sockets before each jump, where the peer is another process.

    Raises `Stalled` out of whatever runs the loop where nothing at all is left to wait for, where a task goes round
    without waiting, where work in an executor takes longer than a minute, and at the limit.
    """

    _closed = True  # until it is made

    def __init__(self, *, limit_s: float = 86_400.0, patience_s: float = 0.0) -> None:
        if not limit_s > 0 or not 0 <= patience_s < float("inf"):
            raise LocalError(f"limit_s={limit_s!r}, patience_s={patience_s!r}: expected more than 0, and 0 or more")
        self._now = START_S
        self._limit_s = limit_s
        self._end = START_S + limit_s
        self._patience_s = patience_s
        self._outside = 0  # jobs in executors
        super().__init__(Selector(self))

    def time(self) -> float:
        """The simulated time in seconds."""
        return self._now

    clock = time

    def wait(
        self, select: Callable[[float | None], list[tuple[selectors.SelectorKey, int]]], timeout: float | None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing is ready: what the loop does then, for at most `timeout`. For the loop's own selector."""
        if self._outside:
            found = select(EXECUTOR_S)
            if not found:
                raise self.stalled(f"work in an executor has not ended within {EXECUTOR_S:g} real seconds")
            return found
        if self._patience_s:
            found = select(self._patience_s)
            if found:
                return found
        if timeout is None:
            raise self.stalled("nothing is left to wait for: no timer, no ready socket, no work in an executor")
        if self._now + timeout > self._end:
            self._end += self._limit_s  # for the clean-up
            raise self.stalled(f"{self._limit_s:g} s have passed (limit_s): something waits for ever")
        self._now += timeout
        return []

    def stalled(self, why: str) -> Stalled:
        """The error, with where each task waits."""
        tasks = [task for task in asyncio.all_tasks(self) if not task.done()]
        lines = [f"  {task.get_name()}: {_place(task)}" for task in tasks[:SHOWN_TASKS]]
        if len(tasks) > SHOWN_TASKS:
            lines.append(f"  and {len(tasks) - SHOWN_TASKS} more")
        return Stalled("\n".join([f"at {self._now - START_S:g} s: {why}", *sorted(lines)]))

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._outside += 1
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _: object) -> None:
        self._outside -= 1

    async def shutdown_default_executor(self, *args: Any, **options: Any) -> None:
        self._outside += 1
        try:
            await super().shutdown_default_executor(*args, **options)
        finally:
            self._outside -= 1


def _place(task: asyncio.Task[Any]) -> str:
    """Where a task waits: the innermost line of its own."""
    stack = task.get_stack()
    if not stack:
        return repr(task.get_coro())
    frame = stack[-1]
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def run(
    main: Coroutine[Any, Any, T], *, limit_s: float = 86_400.0, patience_s: float = 0.0, debug: bool | None = None
) -> T:
    """`asyncio.run` on simulated time, with the options of `VirtualLoop`: returns or raises what `main` does.

    ::

        async def main() -> None:
            await asyncio.sleep(3600)  # at once


        run(main())
    """

    def loop() -> VirtualLoop:
        return VirtualLoop(limit_s=limit_s, patience_s=patience_s)

    try:
        with asyncio.Runner(debug=debug, loop_factory=loop) as runner:
            return runner.run(main)
    finally:
        main.close()  # where the loop could not be made
