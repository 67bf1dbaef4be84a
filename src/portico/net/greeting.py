"""What comes first on an accepted socket, before it is a stream: a proxy's header, read without a byte of what follows.

What follows may be TLS, and TLS reads the socket by itself. So nothing is taken from the socket before it is known to
belong to the header.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from portico.net.reactor import READ, Reactor, Source

logger = logging.getLogger("portico.net")

PEEK_BYTES: Final = 4096
PEEKS_PER_TURN: Final = 8


class Reader(Protocol):
    """Knows the header's form; see `portico.wire.proxy_protocol.HeaderReader`."""

    @property
    def done(self) -> bool:
        """Whether the header is complete."""
        ...

    def feed(self, data: bytes) -> int:
        """How many of the next bytes belong to the header. Raises ValueError for what is none."""
        ...

    def peer(self, own: Any) -> Any:
        """Who the peer is, where the socket says that it is `own`."""
        ...


class Greeting(Source):
    """One accepted socket until its header is complete; `on_end` gets this, and `sock` to go on with, or None where
    it was closed."""

    __slots__ = ("_on_end", "_reactor", "_reader", "_sock", "peer")

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        reader: Reader,
        peer: Any,
        timeout_s: float,
        on_end: Callable[[Greeting, socket.socket | None], None],
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._sock = sock
        self._reader = reader
        self._on_end = on_end
        self.peer = peer
        reactor.add(self, sock.fileno(), READ)
        reactor.wheel.schedule(self, reactor.now + timeout_s)

    def ready(self, events: int) -> None:
        reader = self._reader
        for _ in range(PEEKS_PER_TURN):
            try:
                data = self._sock.recv(PEEK_BYTES, socket.MSG_PEEK)
                if not data:
                    self._fail("it ended before its header")
                    return
                self._sock.recv(reader.feed(data))
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, ValueError) as error:
                self._fail(error)
                return
            if reader.done:
                self.peer = reader.peer(self.peer)
                self._end(self._sock)
                return

    def flush(self) -> None:
        pass

    def expired(self, now: float) -> None:
        self._fail("its header did not come in time")

    def failed(self, error: Exception) -> None:
        logger.error("the header of a connection could not be read", exc_info=error)
        self.close()

    def _fail(self, why: object) -> None:
        logger.debug("a connection from %s was closed: %s", self.peer, why)
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._end(None)

    def _end(self, sock: socket.socket | None) -> None:
        if self.fd >= 0:
            self._reactor.remove(self)
            if sock is None:
                self._sock.close()
            self._on_end(self, sock)
