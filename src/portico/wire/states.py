"""The states of one end of a WebSocket connection (RFC 6455 §7.1); `messages` draws how they follow each other."""

from __future__ import annotations

from typing import Final

OPEN: Final = 0
CLOSE_SENT: Final = 1
CLOSE_RECEIVED: Final = 2
CLOSED: Final = 3
FAILED: Final = 4
