"""What the connections of one route share: the application's callbacks, and the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from portico.accounting import Counters
from portico.limits import Keepalive, Limits
from portico.net.timers import NEVER

if TYPE_CHECKING:
    from portico.codes import Close
    from portico.websocket.websocket import WebSocket


class Endpoint:
    """Callbacks for WebSocket connections. One instance serves every connection; keep a connection's own things in
    ``ws.state``. The methods are plain functions: they must not wait. One that raises closes its connection with 1011
    and is logged once."""

    def on_open(self, ws: WebSocket) -> None:
        """The connection is established."""

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        """A message came: str for text, bytes for binary."""

    def on_close(self, ws: WebSocket, close: Close) -> None:
        """The connection has ended; called exactly once after `on_open`."""


class Settings:
    """Limits, keepalive and counters, ready for the hot path."""

    __slots__ = (
        "assembly_timeout",
        "close_timeout",
        "counters",
        "limits",
        "max_outbox",
        "max_unread",
        "on_end",
        "ping_interval",
        "ping_timeout",
    )

    def __init__(self, limits: Limits, keepalive: Keepalive | None, counters: Counters | None = None) -> None:
        self.limits = limits
        self.counters = counters or Counters()
        self.on_end: Callable[[Any], object] | None = None  # called once with each WebSocket that has ended
        self.max_outbox = limits.max_outbox_bytes
        self.max_unread = limits.max_unread_bytes
        self.assembly_timeout = limits.assembly_timeout_s
        self.close_timeout = limits.close_timeout_s
        self.ping_interval = keepalive.ping_interval_s if keepalive else NEVER
        self.ping_timeout = keepalive.ping_timeout_s if keepalive else NEVER
