"""What one peer costs at this moment, and how often limits were reached: plain numbers, for metrics to read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one WebSocket connection holds in memory for its peer, in bytes; see `portico.Limits` for the bounds.

    - ``unread``: messages received and not yet taken, with what their objects weigh (``max_unread_bytes``).
    - ``assembly``: the message whose end has not come (``max_message_bytes``).
    - ``inflating``: zlib's state for what is being inflated, or kept from one message to the next.
    - ``outbox``: written and not yet taken by the network (``max_outbox_bytes``).
    """

    unread: int = 0
    assembly: int = 0
    inflating: int = 0
    outbox: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.unread + self.assembly + self.inflating + self.outbox


class Counters:
    """What has happened since the start, for all connections of a server.

    - ``closed``: WebSocket connections that ended, by close code.
    - ``exceeded``: how often a WebSocket reached a limit, by its name in `portico.Limits` or `portico.Keepalive`.
    - ``refused``: requests that were answered by Portico itself, by HTTP status.
    """

    __slots__ = ("closed", "exceeded", "refused")

    def __init__(self) -> None:
        self.closed: Counter[int] = Counter()
        self.exceeded: Counter[str] = Counter()
        self.refused: Counter[int] = Counter()
