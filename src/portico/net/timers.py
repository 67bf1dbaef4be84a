"""One coarse timer wheel for every deadline of a reactor: no `call_later` per connection.

A deadline falls due at most one tick late. Moving one later costs an assignment; only moving it earlier moves an entry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

TICK_S: Final = 0.1
NEVER: Final = float("inf")


class Timed:
    """What has one deadline at a time. ``due`` is on the clock of `time.monotonic`; NEVER where there is none."""

    __slots__ = ("due", "place", "slot")

    def __init__(self) -> None:
        self.due = NEVER
        self.slot = 0  # the wheel's slot that holds this, and where in it; 0 for none
        self.place = 0

    def expired(self, now: float) -> None:
        """The deadline is over. It is NEVER again; schedule the next one from here where there is one."""
        raise NotImplementedError

    def failed(self, error: Exception) -> None:
        """`expired` raised `error`."""
        raise error


class Wheel:
    """Deadlines by tick; asleep until the next one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._slots: dict[int, list[Timed]] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._armed = 0  # the slot that the handle waits for
        self._current = 0  # the last slot that was worked off; nothing is put there or before

    def schedule(self, entry: Timed, due: float) -> None:
        """Set the deadline of `entry`, in place of any before it."""
        entry.due = due
        if due == NEVER:
            return
        slot = max(int(due / TICK_S), self._current) + 1
        if entry.slot:
            if entry.slot <= slot:
                return  # it is looked at early, and put off then
            self._remove(entry)
        self._insert(entry, slot)

    def cancel(self, entry: Timed) -> None:
        """Forget `entry`; the wheel holds no reference to it afterwards."""
        entry.due = NEVER
        if entry.slot:
            self._remove(entry)

    def close(self) -> None:
        """Forget everything."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._armed = 0
        for entries in self._slots.values():
            for entry in entries:
                entry.slot = 0
        self._slots.clear()

    def advance(self, now: float) -> None:
        """Let everything that is due by `now` expire."""
        current = self._current = int(now / TICK_S)
        for slot in sorted([slot for slot in self._slots if slot <= current]):
            for entry in self._slots.pop(slot):
                if entry.slot != slot:
                    continue  # moved by one that expired before it
                entry.slot = 0
                if entry.due > now:
                    self.schedule(entry, entry.due)
                else:
                    entry.due = NEVER
                    self._expire(entry, now)

    def _expire(self, entry: Timed, now: float) -> None:
        try:
            try:
                entry.expired(now)
            except Exception as error:
                entry.failed(error)
        except Exception as error:
            self._loop.call_exception_handler({"message": "a deadline's callback failed", "exception": error})

    def _insert(self, entry: Timed, slot: int) -> None:
        entry.slot = slot
        entries = self._slots.get(slot)
        if entries is None:
            entry.place = 0
            self._slots[slot] = [entry]
            self._arm()
        else:
            entry.place = len(entries)
            entries.append(entry)

    def _remove(self, entry: Timed) -> None:
        entries = self._slots.get(entry.slot)
        entry.slot = 0
        if entries is None:
            return  # its slot is being worked off
        last = entries.pop()
        if last is not entry:  # the last one takes its place
            entries[entry.place] = last
            last.place = entry.place

    def _arm(self) -> None:
        if not self._slots:
            return
        first = min(self._slots)
        if self._handle is not None:
            if self._armed <= first:
                return
            self._handle.cancel()
        self._armed = first
        delay = max(0.0, first * TICK_S - self._clock())
        self._handle = self._loop.call_later(delay + 0.001, self._tick)

    def _tick(self) -> None:
        self._handle = None
        try:
            self.advance(self._clock())
        finally:
            self._arm()
