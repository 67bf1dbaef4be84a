"""Deadlines by key: which come next, for one timer of a broker. Moving one later costs an assignment."""

from __future__ import annotations

import heapq
from typing import Final

SLACK: Final = 64  # entries of the heap that are out of date, besides as many as are in use


class Deadlines:
    """Keys and when each is due, on the caller's clock: a heap that is put right lazily, and stays small."""

    __slots__ = ("_heap", "_when")

    def __init__(self) -> None:
        self._when: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # each key in use is in it, at its time or too early

    def __len__(self) -> int:
        return len(self._when)

    def __contains__(self, key: str) -> bool:
        return key in self._when

    def set(self, key: str, when: float) -> None:
        """`key` is due at `when`, and no more at any other time."""
        known = self._when.get(key)
        self._when[key] = when
        if known is None or when < known:
            heapq.heappush(self._heap, (when, key))
            self._tidy()

    def discard(self, key: str) -> None:
        """`key` is due no more."""
        if self._when.pop(key, None) is not None:
            self._tidy()

    def next(self) -> float | None:
        """When the first one is due; None if there is none."""
        heap = self._heap
        while heap:
            when, key = heap[0]
            due = self._when.get(key)
            if due == when:
                return when
            if due is None or due < when:
                heapq.heappop(heap)  # gone, or in the heap a second time, earlier
            else:
                heapq.heapreplace(heap, (due, key))
        return None

    def pop(self, now: float) -> str | None:
        """One key that is due by now, which is thereby removed; None if none is."""
        when = self.next()
        if when is None or when > now:
            return None
        _, key = heapq.heappop(self._heap)
        del self._when[key]
        return key

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._when) + SLACK:
            self._heap = [(when, key) for key, when in self._when.items()]
            heapq.heapify(self._heap)
