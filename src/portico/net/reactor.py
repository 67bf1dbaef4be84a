"""The reactor: one readiness set for every stream of an event loop, itself one descriptor in that loop.

An epoll or kqueue descriptor is pollable. The reactor keeps its own set with every source in it and registers that one
descriptor with the running loop. When anything is ready the loop calls `turn` once: it asks the set without waiting,
lets each ready source act once, and then writes every stream that has output, once each. A write outside a turn
schedules one flush.

A turn is bounded (sources per poll, bytes per source, accepts per turn), and one source's exception ends that source
and nothing else.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import time
from collections.abc import Callable
from typing import Any, Final

from portico.errors import LocalError
from portico.net.timers import Timed, Wheel

READ: Final = 1
WRITE: Final = 2
ERROR: Final = 4

BUFFER_BYTES: Final = 256 * 1024
MAX_EVENTS: Final = 512


class Source(Timed):
    """A descriptor in the readiness set, with one deadline on the wheel."""

    __slots__ = ("fd", "in_dirty")

    def __init__(self) -> None:
        super().__init__()
        self.fd = -1
        self.in_dirty = False

    def ready(self, events: int) -> None:
        """The descriptor can be read (READ), written (WRITE) or has failed (ERROR); act once, never wait."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what there is to write, once."""
        raise NotImplementedError

    def failed(self, error: Exception) -> None:
        """`ready`, `flush` or `expired` raised `error`: end this source."""
        raise NotImplementedError


class Epoll:
    """The readiness set on Linux."""

    READ = 0x001  # EPOLLIN
    WRITE = 0x004  # EPOLLOUT
    NOTHING = 0x40000000  # EPOLLONESHOT: an error, once; without it a hang-up would be reported again and again

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.add = self._epoll.register
        self.change = self._epoll.modify
        self.remove = self._epoll.unregister
        self.fileno = self._epoll.fileno
        self.close = self._epoll.close

    def poll(self, limit: int) -> list[tuple[int, int]]:
        """Up to `limit` pairs of descriptor and events, in this set's own bits; never waits. Bits beside READ and WRITE
        are errors and hang-ups, which are always reported."""
        return self._epoll.poll(0, limit)


class Selected:
    """The readiness set elsewhere: the standard library's, which is kqueue on macOS and the BSDs.

    An error shows as a descriptor that can be read or written, as `selectors` has it: the call that follows raises it.
    So the hang-up of a stream that is paused shows when that is read again, or written.
    """

    READ = selectors.EVENT_READ
    WRITE = selectors.EVENT_WRITE
    NOTHING = 0

    def __init__(self) -> None:
        self._selector: Any = selectors.DefaultSelector()
        if not hasattr(self._selector, "fileno"):
            self._selector.close()
            raise LocalError("this system has neither epoll nor kqueue: expected Linux, macOS or a BSD")
        self._served = 0
        self.fileno = self._selector.fileno
        self.close = self._selector.close

    def add(self, fd: int, interest: int) -> None:
        if interest:
            self._selector.register(fd, interest)

    def change(self, fd: int, interest: int) -> None:
        watched = fd in self._selector.get_map()
        if watched and interest:
            self._selector.modify(fd, interest)
        elif watched:
            self._selector.unregister(fd)
        else:
            self.add(fd, interest)

    def remove(self, fd: int) -> None:
        self.change(fd, 0)

    def poll(self, limit: int) -> list[tuple[int, int]]:
        ready = [(key.fd, events) for key, events in self._selector.select(0)]
        if len(ready) > limit:  # the next turn begins where this one ends, so that none has to wait for ever
            start = self._served % len(ready)
            self._served += limit
            ready = (ready + ready)[start : start + limit]
        return ready


Poller: Final = Epoll if hasattr(select, "epoll") else Selected


class Reactor:
    """One per event loop; `Reactor.running()` finds or makes the running loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: type[Epoll | Selected] = Poller) -> None:
        self.loop = loop
        self.poller: Any = poller()
        self.read_bit = self.poller.READ
        self.write_bit = self.poller.WRITE
        self.buffer = bytearray(BUFFER_BYTES)
        # A loop that makes its own time says so; the others' is too coarse (uvloop's stands still within a turn).
        self.clock: Callable[[], float] = getattr(loop, "clock", time.monotonic)
        self.wheel = Wheel(loop, self.clock)
        self.in_turn = False
        self.turn_time = 0.0
        self.count = 0
        self._sources: list[Source | None] = []
        self._dirty: list[Source] = []
        self._again: dict[Source, None] = {}
        self._flush_scheduled = False
        self._closed = False
        try:
            loop.add_reader(self.poller.fileno(), self.turn)
        except NotImplementedError:
            self.poller.close()
            raise LocalError(
                f"{type(loop).__name__} has no add_reader(): expected a selector event loop or uvloop"
            ) from None

    @staticmethod
    def running(poller: type[Epoll | Selected] = Poller) -> Reactor:
        """The running loop's reactor; made, with `poller` for its readiness set, when the loop has none."""
        loop = asyncio.get_running_loop()
        reactor = _reactors.get(loop)
        if reactor is None:
            for other in [other for other in _reactors if other.is_closed()]:
                del _reactors[other]
            reactor = _reactors[loop] = Reactor(loop, poller)
        return reactor

    @property
    def now(self) -> float:
        """The time on the clock of `time.monotonic`; within a turn, when that began."""
        return self.turn_time if self.in_turn else self.clock()

    def close_if_idle(self) -> None:
        """Leave the loop when no source is left; called by whoever closes a listener or a client."""
        if self.count or self._closed:
            return
        self._closed = True
        _reactors.pop(self.loop, None)
        if not self.loop.is_closed():
            self.loop.remove_reader(self.poller.fileno())
        self.wheel.close()
        self.poller.close()

    # -- sources -------------------------------------------------------------------------------------------------

    def add(self, source: Source, fd: int, interest: int) -> None:
        """Watch `fd` for `source`; `interest` is READ, WRITE or both."""
        sources = self._sources
        while len(sources) <= fd:
            sources.extend([None] * 64)
        self.poller.add(fd, self._bits(interest))
        sources[fd] = source
        source.fd = fd
        self.count += 1

    def change(self, source: Source, interest: int) -> None:
        """Watch for something else from now on; 0 for nothing but errors."""
        self.poller.change(source.fd, self._bits(interest))

    def remove(self, source: Source) -> None:
        """Watch it no more. The descriptor is the caller's, to be closed afterwards."""
        fd = source.fd
        if fd < 0:
            return
        source.fd = -1
        self._sources[fd] = None
        self.count -= 1
        self.wheel.cancel(source)
        self.poller.remove(fd)

    def sources(self) -> list[Source]:
        """Everything that is watched."""
        return [source for source in self._sources if source is not None]

    def _bits(self, interest: int) -> int:
        bits: int = (self.read_bit if interest & READ else 0) | (self.write_bit if interest & WRITE else 0)
        return bits or self.poller.NOTHING

    # -- turns ---------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """What the loop calls when anything in the set is ready."""
        if self._closed:
            return
        self.turn_time = self.clock()
        self.in_turn = True
        write_bit = self.write_bit
        read_bit = self.read_bit
        sources = self._sources
        try:
            if self._again:
                self._serve_again()
            for fd, bits in self.poller.poll(MAX_EVENTS):
                source = sources[fd]
                if source is None:
                    continue  # ended earlier in this turn
                if bits == read_bit:
                    events = 1
                else:
                    events = (1 if bits & read_bit else 0) | (2 if bits & write_bit else 0)
                    if bits & ~(read_bit | write_bit):
                        events |= 4
                try:
                    source.ready(events)
                except Exception as error:
                    self._fail(source, error)
        finally:
            self._end_turn()

    def mark(self, source: Source) -> None:
        """`source` has output: it is flushed at the end of this turn, or by one scheduled flush outside of turns."""
        if source.in_dirty:
            return
        source.in_dirty = True
        self._dirty.append(source)
        if not self.in_turn and not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush_later)

    def again(self, source: Source) -> None:
        """`source` holds input that its descriptor doesn't show: let it act in the next turn."""
        if not self._again:
            self.loop.call_soon(self.turn)
        self._again[source] = None

    def _serve_again(self) -> None:
        waiting, self._again = self._again, {}
        for source in waiting:
            if source.fd < 0:
                continue
            try:
                source.ready(1)
            except Exception as error:
                self._fail(source, error)

    def _fail(self, source: Source, error: Exception) -> None:
        try:
            source.failed(error)
        except Exception as another:
            self.loop.call_exception_handler({"message": "ending a failed source failed", "exception": another})

    def soon(self, source: Source, callback: Callable[[], object]) -> None:
        """Run `callback` in a turn of its own, next time round the loop; where it raises, `source` has failed."""
        self.loop.call_soon(self._act, source, callback)

    def _act(self, source: Source, callback: Callable[[], object]) -> None:
        nested = self.in_turn  # a turn that runs a nested loop flushes by itself
        if not nested:
            self.turn_time = self.clock()
            self.in_turn = True
        try:
            callback()
        except Exception as error:
            self._fail(source, error)
        finally:
            if not nested:
                self._end_turn()

    def _flush_later(self) -> None:
        self._flush_scheduled = False
        if not self.in_turn:
            self.in_turn = True
            self.turn_time = self.clock()
            self._end_turn()

    def _end_turn(self) -> None:
        try:
            self._flush_dirty()
        finally:
            self.in_turn = False

    def _flush_dirty(self) -> None:
        while self._dirty:
            dirty = self._dirty
            self._dirty = []
            done = 0
            try:
                for source in dirty:
                    done += 1
                    source.in_dirty = False
                    if source.fd < 0:
                        continue
                    try:
                        source.flush()
                    except Exception as error:
                        self._fail(source, error)
            finally:
                if done < len(dirty):  # an interruption, as by Ctrl-C: the rest is for the next flush
                    self._dirty[:0] = dirty[done:]


_reactors: dict[asyncio.AbstractEventLoop, Reactor] = {}
