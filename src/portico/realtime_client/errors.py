"""What the realtime client raises besides `HandshakeError` and OSError."""

from __future__ import annotations

from typing import Any

from portico.errors import PorticoError


class ConnectError(PorticoError):
    """The server refused a namespace (Socket.IO v5, CONNECT_ERROR): ``message`` and ``data`` are what it said,
    ``namespace`` is which one. The text of this error is the message alone."""

    def __init__(self, message: str, *, data: Any = None, namespace: str = "/") -> None:
        super().__init__(message)
        self.message = message
        self.data = data
        self.namespace = namespace


class Disconnected(PorticoError):
    """What was waited for can't come any more: the namespace was disconnected. ``reason`` is the one that its
    "disconnect" handler gets, as "transport close" or "io server disconnect"."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class OutboxFull(PorticoError):
    """`emit` took nothing: what waits to be sent holds ``held`` bytes, and with this event it would be more than
    ``limit`` (``max_outbox_bytes``)."""

    def __init__(self, message: str, *, held: int, limit: int) -> None:
        super().__init__(message)
        self.held = held
        self.limit = limit
