"""What one peer costs at this moment, and how often limits were reached: plain numbers, for metrics to read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one WebSocket connection holds in memory for its peer, in bytes; see `portico.Limits` for the bounds.

    - ``unread``: messages received and not yet taken, with what their objects weigh (``max_unread_bytes``);
      a text weighs what its characters take in memory, 1, 2 or 4 bytes each.
    - ``assembly``: the message whose end has not come (``max_message_bytes``), inflated where it was compressed, and
      input that is not parsed because too much is unread (one read of 256 KiB at most).
    - ``compression``: about what zlib holds, both ways: for reading, while a compressed message is under assembly;
      with context takeover (`portico.Deflate`), each way from its first compressed message to the connection's end.
    - ``outbox``: written and not yet taken by the network (``max_outbox_bytes``).
    """

    unread: int = 0
    assembly: int = 0
    compression: int = 0
    outbox: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.unread + self.assembly + self.compression + self.outbox


class Counters:
    """What has happened since the start, for all connections of a server.

    - ``closed``: WebSocket connections that ended, by close code.
    - ``exceeded``: how often a limit ended or refused a connection, by the limit's name in `portico.Limits` or
      `portico.Keepalive`; and under ``max_unread_bytes``, how often reading from a WebSocket paused. The limits that
      only make one side wait (``high_water_bytes``, ``max_body_buffer_bytes``, ``max_pipelined``) are not in it, nor
      are those on our own handlers (``handler_grace_s``, ``stop_timeout_s``). A `Room` counts what it ``dropped``.
    - ``refused``: requests that were answered by Portico itself, by HTTP status.
    """

    __slots__ = ("closed", "exceeded", "refused")

    def __init__(self) -> None:
        self.closed: Counter[int] = Counter()
        self.exceeded: Counter[str] = Counter()
        self.refused: Counter[int] = Counter()

    def __repr__(self) -> str:
        return f"Counters(closed={dict(self.closed)}, exceeded={dict(self.exceeded)}, refused={dict(self.refused)})"
