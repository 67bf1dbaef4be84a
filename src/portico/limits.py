"""What one peer may cost, and the other options: frozen values with units in their names, checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from portico.errors import LocalError

KIB = 1024
MIB = 1024 * 1024
NO_BOUND = "max_connections", "min_progress"  # where 0 means none


def _check(owner: object, name: str, low: float, high: float = math.inf) -> None:
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        span = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise LocalError(f"{type(owner).__name__}({name}={value!r}): expected a number, {span}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds on what one peer may cost; each is counted in memory, not in bytes on the wire.

    - ``max_head_bytes`` (32 KiB), ``max_headers`` (100): a request's head; 431 beyond.
    - ``head_timeout_s`` (10): from a connection's first byte, or a kept-alive connection's next one, to the end of
      the head, and for a TLS handshake; 408 beyond. Not renewed by further bytes.
    - ``max_body_buffer_bytes`` (64 KiB): body bytes held for an application that doesn't read; then reading pauses.
    - ``min_progress_bytes`` (2,400) in each ``progress_window_s`` (10): what a peer has to send of a request's body, or
      to take of an answer, while one of them is waited for; 408 beyond, or the connection is cut. Who takes much of an
      answer at once has up to two more stretches. 0: no bound.
    - ``keep_alive_s`` (75): how long a connection without a request stays.
    - ``max_pipelined`` (16): requests waiting behind the one being answered; then reading pauses.
    - ``max_message_bytes`` (1 MiB): a message, after inflation; close 1009 beyond.
    - ``max_fragments`` (1,024): frames in a message, empty ones too; close 1008 beyond.
    - ``assembly_timeout_s`` (60): from a message's first frame to its last; close 1008 beyond.
    - ``max_unread_bytes`` (256 KiB): messages received and not yet taken by ``recv()``, as they weigh in memory; then
      reading pauses. With what a read has brought and looks ahead at control frames: at most 128 KiB and one message
      more.
    - ``high_water_bytes`` (64 KiB): unsent bytes above which ``send()`` waits.
    - ``max_outbox_bytes`` (1 MiB): unsent bytes above which a room's ``on_slow`` policy acts, and a direct ``write()``
      closes the connection with 1008. One message to a peer that is not slow is always taken.
    - ``close_timeout_s`` (5): for the peer's answer to a close frame; then TCP is dropped.
    - ``handler_grace_s`` (10): for a handler to end by itself after its connection has; then it is cancelled.
    - ``drain_s`` (0): when the server stops, its WebSockets are closed one after the other over so long, so that their
      peers don't all come back in one instant; 0 closes them at once.
    - ``stop_timeout_s`` (10): for requests and sockets to end when the server stops, after ``drain_s``; then they are
      cut.
    - ``max_connections``, ``max_connections_per_address`` (0: no cap): 503 with Retry-After beyond.
    """

    max_head_bytes: int = 32 * KIB
    max_headers: int = 100
    head_timeout_s: float = 10.0
    max_body_buffer_bytes: int = 64 * KIB
    min_progress_bytes: int = 2400
    progress_window_s: float = 10.0
    keep_alive_s: float = 75.0
    max_pipelined: int = 16
    max_message_bytes: int = MIB
    max_fragments: int = 1024
    assembly_timeout_s: float = 60.0
    max_unread_bytes: int = 256 * KIB
    high_water_bytes: int = 64 * KIB
    max_outbox_bytes: int = MIB
    close_timeout_s: float = 5.0
    handler_grace_s: float = 10.0
    drain_s: float = 0.0
    stop_timeout_s: float = 10.0
    max_connections: int = 0
    max_connections_per_address: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name == "drain_s":
                _check(self, field.name, 0, 10_000_000)
            elif field.name.endswith("_s"):
                _check(self, field.name, 0.001, 10_000_000)
            elif not isinstance(getattr(self, field.name), int):
                raise LocalError(f"Limits({field.name}={getattr(self, field.name)!r}): expected a whole number")
            else:
                _check(self, field.name, 0 if field.name.startswith(NO_BOUND) else 1, (1 << 31) - 1)
        if self.high_water_bytes > self.max_outbox_bytes:
            raise LocalError(
                f"Limits(high_water_bytes={self.high_water_bytes}): expected at most max_outbox_bytes, "
                f"which is {self.max_outbox_bytes}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Keepalive:
    """Pings that find dead peers: one every ``ping_interval_s`` (25); with no byte from the peer for
    ``ping_timeout_s`` (20) after it, the connection is closed with 1011. Suspended while we don't read ourselves."""

    ping_interval_s: float = 25.0
    ping_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        _check(self, "ping_interval_s", 0.01, 10_000_000)
        _check(self, "ping_timeout_s", 0.01, 10_000_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deflate:
    """permessage-deflate (RFC 7692). Stateless unless asked: nothing is kept for an idle connection, and one
    compressed broadcast serves every recipient.

    - ``level`` (6): zlib's, 1 to 9. ``memory_level`` (8): zlib's, 1 to 9.
    - ``threshold_bytes`` (1,024): shorter messages are sent as they are.
    - ``server_context_takeover``, ``client_context_takeover`` (False): whether that side may keep its window from one
      message to the next (RFC 7692 §7.1.1); some 300 KiB a connection where both do.
    - ``server_max_window_bits``, ``client_max_window_bits`` (15): 9 to 15 (RFC 7692 §7.1.2).
    """

    level: int = 6
    memory_level: int = 8
    threshold_bytes: int = 1024
    server_context_takeover: bool = False
    client_context_takeover: bool = False
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15

    def __post_init__(self) -> None:
        _check(self, "level", 1, 9)
        _check(self, "memory_level", 1, 9)
        _check(self, "threshold_bytes", 0)
        _check(self, "server_max_window_bits", 9, 15)
        _check(self, "client_max_window_bits", 9, 15)
