"""Numbering what is published, and watching the numbers that arrive: how a node sees that something is missing.

A publisher counts what it sends to a channel, 1, 2, 3 … under an epoch; it may stop to count a channel, and then begins
anew under another epoch. What is kept has the offsets of its history instead, whoever published it (`KEPT`). No I/O.
"""

from __future__ import annotations

from typing import Final

from portico.brokers import Position

KEPT: Final = ""  # stands for a publisher where the numbering is that of the channel's history
DUPLICATE: Final = -1
ANEW: Final = -2


class Numbering:
    """One publisher's counts, one for each channel that is being counted."""

    __slots__ = ("_counts", "_epochs")

    def __init__(self) -> None:
        self._epochs = 0
        self._counts: dict[str, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def next(self, channel: str) -> tuple[str, int]:
        """The epoch and the number of the next message."""
        known = self._counts.get(channel)
        if known is None:
            self._epochs += 1
            known = (f"{self._epochs:x}", 0)
        number = self._counts[channel] = (known[0], known[1] + 1)
        return number

    def forget(self, channel: str) -> None:
        """Nobody hears it any more: begin anew the next time."""
        self._counts.pop(channel, None)


class Watch:
    """What one node has seen of the channels that it hosts."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, tuple[str, int]]] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def host(self, channel: str, position: Position | None = None) -> None:
        """The channel is hosted from now on; what is kept goes on after `position`, where that is known."""
        seen = self._seen.setdefault(channel, {})
        if position is not None:
            seen[KEPT] = (position.epoch, position.offset)

    def unhost(self, channel: str) -> None:
        """The channel is not hosted any more: what was seen of it is forgotten."""
        self._seen.pop(channel, None)

    def position(self, channel: str) -> Position | None:
        """Up to where what is kept was seen."""
        known = self._seen.get(channel, {}).get(KEPT)
        return None if known is None else Position(*known)

    def see(self, channel: str, publisher: str, epoch: str, sequence: int) -> int:
        """A message has arrived. Returns how many are missing before it; `DUPLICATE`: it was seen before.

        `ANEW`: a history has another epoch, and nobody knows how many were missed. Of a publisher that was never seen,
        nothing is missing: its messages from before the subscription are none of ours.
        """
        seen = self._seen.get(channel)
        if seen is None:
            return 0
        known = seen.get(publisher)
        if known is None:
            seen[publisher] = (epoch, sequence)
            return 0
        if known[0] != epoch:
            seen[publisher] = (epoch, sequence)
            return ANEW if publisher == KEPT else sequence - 1
        if sequence <= known[1]:
            return DUPLICATE
        seen[publisher] = (epoch, sequence)
        return sequence - known[1] - 1

    def lose(self, channel: str, publisher: str, epoch: str, first: int, last: int) -> int:
        """The messages `first` to `last` won't arrive. Returns how many that are missing now, or `ANEW`."""
        seen = self._seen.get(channel)
        if seen is None:
            return 0
        known = seen.get(publisher)
        if known is None:
            seen[publisher] = (epoch, last)
            return last - first + 1
        missing = self.see(channel, publisher, epoch, last)
        return missing if missing == ANEW else missing + 1  # `last` itself is missing too
