"""The history of one channel: what was kept, numbered 1, 2, 3 … under an epoch, bounded by count, bytes and age.

No clock and no I/O: `now` is the caller's, in seconds, and only ever grows. Nothing is dropped from the middle, so that
what is there is always one unbroken run that ends at the head: `since` gives exactly what is missing or says why not.
"""

from __future__ import annotations

import secrets
from collections import deque
from itertools import islice

import msgspec

from portico.brokers import Position, Retention
from portico.errors import LocalError

DEFAULT = Retention()


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One kept message."""

    offset: int
    at: float
    publisher: str
    payload: bytes


class History:
    """Entries under one epoch. `head` is the offset of the newest that ever was, 0 before the first."""

    __slots__ = ("_entries", "bytes", "epoch", "head", "retention", "used")

    def __init__(self, now: float, retention: Retention = DEFAULT, epoch: str | None = None) -> None:
        self.epoch = secrets.token_urlsafe(9) if epoch is None else epoch
        self.retention = retention
        self.head = 0
        self.bytes = 0  # of the payloads
        self.used = now  # the last time that something was kept, or that a node began or ceased to host the channel
        self._entries: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def position(self) -> Position:
        """The head: what comes next is the first one after it."""
        return Position(self.epoch, self.head)

    def append(self, publisher: str, payload: bytes, retention: Retention, now: float) -> int:
        """Keep a message, under the retention that holds from now on. Returns its offset."""
        if len(payload) > retention.max_bytes:
            raise LocalError(
                f"a message of {len(payload)} bytes is more than its history may hold: Retention(max_bytes="
                f"{retention.max_bytes}); raise that, or publish it with keep=None"
            )
        self.retention = retention
        self.used = now
        self.head += 1
        self.bytes += len(payload)
        self._entries.append(Entry(self.head, now, publisher, payload))
        self.trim(now)
        return self.head

    def trim(self, now: float) -> None:
        """Drop what is over a bound, oldest first. An entry is gone as soon as it is `age_s` old."""
        entries, bounds = self._entries, self.retention
        while entries and (
            len(entries) > bounds.count or self.bytes > bounds.max_bytes or entries[0].at + bounds.age_s <= now
        ):
            self.bytes -= len(entries.popleft().payload)

    def since(
        self, position: Position, now: float, last: int | None = None, limit: int | None = None
    ) -> list[Entry] | str:
        """Exactly what was kept after `position`, oldest first; or, in plain words, why that can't be had.

        `last`: the newest so many of that; `limit`: the oldest so many of what is left.
        """
        self.trim(now)
        if position.epoch != self.epoch:
            return "the history has begun anew since that position"
        missed = self.head - position.offset
        if missed < 0 or position.offset < 0:
            return f"there is no such position: the newest message has offset {self.head}"
        if missed > len(self._entries):
            return f"{missed - len(self._entries)} of the {missed} messages after that position are no longer kept"
        return self.last(missed if last is None else min(last, missed), now, limit)

    def last(self, count: int | None, now: float, limit: int | None = None) -> list[Entry]:
        """The newest `count` entries, oldest first; None for all. `limit`: the oldest so many of these."""
        self.trim(now)
        if limit is not None:
            first = 0 if count is None else max(0, len(self._entries) - count)
            return [self._entries[index] for index in range(first, min(first + limit, len(self._entries)))]
        if count is None or count >= len(self._entries):
            return list(self._entries)
        newest = list(islice(reversed(self._entries), count))
        newest.reverse()
        return newest

    def due(self) -> float:
        """When there may be something to drop: `trim`, or, where it is empty and nobody hosts it, the whole of it."""
        return (self._entries[0].at if self._entries else self.used) + self.retention.age_s
