"""``portico serve --reload``: a parent that holds the listening sockets, and a child that is started again.

The sockets are open all the time, so that nobody is refused while the child is away: who connects then waits in the
backlog for the next one. A child that fails is no end: the next change may mend it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import click

logger = logging.getLogger("portico.reload")

VARIABLE: Final = "_PORTICO_RELOAD"  # in the child: the descriptor of a pipe that ends with its parent, and of sockets
GRACE_S: Final = 2.0  # for a child to stop in order, before a second signal ends it
SHOWN: Final = 3  # of the files that have changed


def check() -> None:
    """Raise click.UsageError where what this needs is not installed."""
    if importlib.util.find_spec("watchfiles") is None:
        raise click.UsageError("--reload needs watchfiles, which is not installed: pip install 'portico[reload]'")


@dataclass(frozen=True)
class Watched:
    """Which files' changes count: `include` names kinds besides ``*.py``, `exclude` those that never do.

    A pattern is compared with a file's name and with its whole path, as by `fnmatch`.
    """

    folders: tuple[str, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: dict[str, Any]) -> Watched:
        return cls(
            tuple(given["reload_dir"]) or (given["app_dir"],),
            ("*.py", *given["reload_include"]),
            tuple(given["reload_exclude"]),
        )

    def counts(self, path: str) -> bool:
        name = os.path.basename(path)

        def fits(patterns: tuple[str, ...]) -> bool:
            return any(fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(path, pattern) for pattern in patterns)

        return fits(self.include) and not fits(self.exclude)

    async def changes(self, stop: asyncio.Event) -> AsyncIterator[list[str]]:
        """The files that have changed, time after time, until `stop`."""
        import watchfiles

        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # what has changed, we say ourselves
        usual = watchfiles.DefaultFilter()  # not what is in .git, .venv, __pycache__ and the like
        found = watchfiles.awatch(
            *self.folders,
            watch_filter=lambda change, path: usual(change, path) and self.counts(path),
            stop_event=stop,
            step=20,
            debounce=400,
        )
        async for changed in found:
            yield sorted({os.path.relpath(path) for _, path in changed})


# -- the parent -------------------------------------------------------------------------------------------------------


class Parent:
    """Serves with one child after the other."""

    def __init__(self, sockets: list[socket.socket], watched: Watched) -> None:
        self._sockets = sockets
        self._watched = watched
        self._child: asyncio.subprocess.Process | None = None
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Until a signal; returns the last child's exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked)
        loop.add_signal_handler(signal.SIGHUP, self._signal, signal.SIGHUP)
        changes = self._watched.changes(self._stop)
        stopped = asyncio.ensure_future(self._stop.wait())
        changed = asyncio.ensure_future(anext(changes, None))
        reader, writer = os.pipe()
        try:
            while True:
                ended = asyncio.ensure_future(await self._start(reader))
                await asyncio.wait([changed, ended, stopped], return_when=asyncio.FIRST_COMPLETED)
                if ended.done() and not stopped.done():
                    logger.error(
                        "the application ended with status %d; the next change starts it again", ended.result()
                    )
                    await asyncio.wait([changed, stopped], return_when=asyncio.FIRST_COMPLETED)
                if stopped.done():
                    status: int = await ended
                    return status
                files = changed.result()
                if files is None:
                    raise RuntimeError("the files can't be watched any more")
                changed = asyncio.ensure_future(anext(changes, None))
                more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
                logger.info("changed: %s%s; starting again", ", ".join(files[:SHOWN]), more)
                await self._end(ended)
        finally:
            self._stop.set()
            os.close(reader)
            os.close(writer)
            await asyncio.wait([changed])

    async def _start(self, reader: int) -> Any:
        """Start a child, which holds the sockets too; returns what waits for its end."""
        descriptors = [reader, *(sock.fileno() for sock in self._sockets)]
        self._child = await asyncio.create_subprocess_exec(
            sys.executable,
            *sys.orig_argv[1:],
            pass_fds=descriptors,
            env=os.environ | {VARIABLE: ",".join(map(str, descriptors))},
        )
        return self._child.wait()

    async def _end(self, ended: asyncio.Future[int]) -> None:
        """End the child: in order, where that takes no long time."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            done, _ = await asyncio.wait([ended], timeout=GRACE_S)
            if done:
                return
        await ended

    def _asked(self) -> None:
        self._stop.set()
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)


# -- the child --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Child:
    """What a child has from its parent."""

    pipe: int
    descriptors: tuple[int, ...]

    @classmethod
    def here(cls) -> Child | None:
        """What this process has, if it is one. Ctrl+C reaches both, and is the parent's to answer."""
        text = os.environ.pop(VARIABLE, None)
        if text is None:
            return None
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        pipe, *descriptors = map(int, text.split(","))
        for fd in (pipe, *descriptors):
            os.set_inheritable(fd, False)
        return cls(pipe, tuple(descriptors))

    def place(self) -> dict[str, Any]:
        """Where to listen, in the place of what the options say."""
        return {"sock": [socket.socket(fileno=fd) for fd in self.descriptors]}

    def watch_parent(self, end: Callable[[int, int], None] = os.kill) -> None:
        """Stop when the parent is no more: there would be nobody to tell us to."""
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(self.pipe)
            end(os.getpid(), signal.SIGTERM)

        loop.add_reader(self.pipe, gone)
