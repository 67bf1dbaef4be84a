"""What waits for one node of a `MemoryHub`: a bounded queue that remembers what it had to drop, to tell the node."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, TypeAlias

from portico.brokers.presence import Change

OVERHEAD: Final = 200  # bytes that an item weighs besides its payload

# channel, who counts (KEPT: the history), publisher, epoch, sequence, payload
Parcel: TypeAlias = tuple[str, str, str, str, int, bytes]


class Inbound:
    """Items in order; behind them, what was lost, in ranges: it takes no more memory than there are channels and users.

    Once something is lost, so is what follows, until all of that is accounted for: order is kept.
    """

    __slots__ = ("_bytes", "_items", "_limit", "_lost", "_lost_changes")

    def __init__(self, max_bytes: int) -> None:
        self._limit = max_bytes
        self._items: deque[Parcel | Change] = deque()
        self._bytes = 0
        self._lost: dict[tuple[str, str], tuple[str, int, int]] = {}  # (channel, who counts) -> epoch, first, last
        self._lost_changes: dict[tuple[str, str], tuple[bool, Any]] = {}  # (channel, user) -> was present, last info

    def __bool__(self) -> bool:
        return bool(self._items or self._lost or self._lost_changes)

    def put(self, item: Parcel | Change) -> None:
        """The newest item. One is always taken, whatever its size."""
        weight = weight_of(item)
        if self._lost or self._lost_changes or (self._items and self._bytes + weight > self._limit):
            self.lose(item)
        else:
            self._items.append(item)
            self._bytes += weight

    def take(self) -> Parcel | Change | None:
        """The oldest item; None if only lost ones are left, or nothing."""
        if not self._items:
            return None
        item = self._items.popleft()
        self._bytes -= weight_of(item)
        return item

    def lose(self, item: Parcel | Change) -> None:
        """Drop the newest item."""
        if isinstance(item, Change):
            before, _ = self._lost_changes.get((item.channel, item.user), (not item.joined, None))
            self._lost_changes[item.channel, item.user] = (before, item.info)
        else:
            channel, counting, _, epoch, sequence, _ = item
            first = self._lost[channel, counting][1] if (channel, counting) in self._lost else sequence
            self._lost[channel, counting] = (epoch, first, sequence)

    def lose_all(self) -> None:
        """Drop what waits: it is older than what is lost already."""
        newer, self._lost = self._lost, {}
        newer_changes, self._lost_changes = self._lost_changes, {}
        while (item := self.take()) is not None:
            self.lose(item)
        for key, (epoch, first, last) in newer.items():
            self._lost[key] = (epoch, self._lost[key][1] if key in self._lost else first, last)
        for user, (before, info) in newer_changes.items():
            self._lost_changes[user] = (self._lost_changes[user][0] if user in self._lost_changes else before, info)

    def take_lost(self) -> tuple[str, str, str, int, int] | None:
        """Channel, who counts, epoch, first and last of messages that were lost; None if none were."""
        if not self._lost:
            return None
        channel, counting = next(iter(self._lost))
        return (channel, counting, *self._lost.pop((channel, counting)))

    def take_lost_change(self) -> tuple[str, str, bool, Any] | None:
        """Channel and user of lost changes, whether he was present before, and the last info; None if none were."""
        if not self._lost_changes:
            return None
        channel, user = next(iter(self._lost_changes))
        return (channel, user, *self._lost_changes.pop((channel, user)))

    def forget(self, channel: str) -> None:
        """The node hosts the channel no longer: what was lost of it is no loss."""
        if self._lost or self._lost_changes:
            self._lost = {key: lost for key, lost in self._lost.items() if key[0] != channel}
            self._lost_changes = {key: lost for key, lost in self._lost_changes.items() if key[0] != channel}


def weight_of(item: Parcel | Change) -> int:
    """What an item counts against the bound, in bytes."""
    return OVERHEAD if isinstance(item, Change) else OVERHEAD + len(item[5])
