"""The listener: the passive socket, which never carries data and only yields connections.

`ready` drains the backlog in bounded batches. It survives running out of descriptors (it pauses, says so once, and goes
on) and peers that gave up while they waited. A connection that was accepted is never leaked, whatever raises next.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from portico.net.certificates import Certificates
from portico.net.greeting import Greeting, Reader
from portico.net.reactor import READ, Reactor, Source
from portico.net.stream import NOBODY, Protocol, Stream
from portico.net.tls import TlsStream

logger = logging.getLogger("portico.net")

ACCEPTS_PER_TURN: Final = 256
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
EXHAUSTED_PAUSE_S: Final = 0.5
EXHAUSTED_LOG_S: Final = 60.0
BROKEN: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})  # of the listening socket itself


class Listener(Source):
    """One listening socket. `make_protocol` gives each new stream its protocol; `on_gone` is told of each that ends.

    `greet`, where there is one, gets a new connection's peer and returns the reader of what has to come before anything
    else, TLS included; it raises OSError to refuse the connection.
    """

    __slots__ = (
        "_exhausted",
        "_greet",
        "_greetings",
        "_high_water",
        "_host",
        "_make_protocol",
        "_on_gone",
        "_reactor",
        "_silent_until",
        "_sock",
        "_ssl",
        "_timeout",
        "accepted",
        "address",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        make_protocol: Callable[[Stream], Protocol],
        on_gone: Callable[[Stream], None],
        *,
        high_water: int,
        ssl_context: ssl.SSLContext | Certificates | None = None,
        tls_timeout_s: float = 10.0,
        greet: Callable[[Any], Reader] | None = None,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._sock = sock
        self._make_protocol = make_protocol
        self._on_gone = on_gone
        self._high_water = high_water
        self._ssl = ssl_context
        self._timeout = tls_timeout_s  # for the handshake of TLS, and for a greeting before it
        self._greet = greet
        self._greetings: set[Greeting] = set()
        self._exhausted = False  # not accepting until a descriptor is free
        self._silent_until = 0.0  # running out of descriptors has been said
        self._host = ""
        self.accepted = 0
        self.address: Any = sock.getsockname()
        reactor.add(self, sock.fileno(), READ)

    @property
    def sock(self) -> socket.socket:
        """The listening socket."""
        return self._sock

    def adopt(self, sock: socket.socket, peer: Any) -> None:
        """Take over a connected socket as if it had been accepted here; it is closed where that fails."""
        self._arrived(sock, peer)

    def ready(self, events: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self.fd < 0:
                return  # closed by what a new connection did
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in BROKEN:
                    raise
                if error.errno not in EXHAUSTED:
                    continue  # of the one connection, as accept(2) says: its peer gave up while it waited
                self._pause(error)
                return
            self._arrived(sock, self._shared(peer))

    def _shared(self, peer: Any) -> Any:
        """`peer` without its own copy of the host where the connection before came from there, as behind a proxy."""
        if isinstance(peer, tuple):
            if peer[0] != self._host:
                self._host = peer[0]
            return (self._host, *peer[1:])
        return peer

    def _arrived(self, sock: socket.socket, peer: Any) -> None:
        """Let a new connection be greeted first, where that has to be."""
        if self._greet is None:
            self._open(sock, peer)
            return
        try:
            sock.setblocking(False)
            reader = self._greet(peer)
            self._greetings.add(Greeting(self._reactor, sock, reader, peer, self._timeout, self._greeted))
        except OSError as error:
            logger.debug("a connection from %s was refused: %s", peer, error)
            sock.close()

    def _greeted(self, greeting: Greeting, sock: socket.socket | None) -> None:
        self._greetings.discard(greeting)
        if sock is not None:
            self._open(sock, greeting.peer)
        elif self._exhausted:
            self._resume()

    def _open(self, sock: socket.socket, peer: Any) -> None:
        context = self._ssl.context if isinstance(self._ssl, Certificates) else self._ssl
        stream: Stream | None = None
        try:
            sock.setblocking(False)
            if context is None:
                stream = Stream(self._reactor, sock, NOBODY, peer, self._high_water, self)
            else:
                stream = TlsStream.accepted(self._reactor, sock, context, peer, self._high_water, self)
            self.accepted += 1
            stream.protocol = self._make_protocol(stream)
            if context is None:
                stream.protocol.connected()
            else:
                self._reactor.wheel.schedule(stream, self._reactor.now + self._timeout)
        except Exception as error:
            if stream is None:
                sock.close()
            else:
                stream.abort(error)
            if not isinstance(error, OSError):
                logger.exception("a new connection could not be set up")

    def ended(self, stream: Stream) -> None:
        """One of our streams has ended."""
        if self._exhausted:
            self._resume()
        self._on_gone(stream)

    def _pause(self, error: OSError) -> None:
        """No descriptor is left: wait until one is, and leave the peers in the backlog."""
        self._exhausted = True
        if self._reactor.now >= self._silent_until:
            self._silent_until = self._reactor.now + EXHAUSTED_LOG_S
            logger.error(
                "accept: %s; new connections wait until others end. Raise the limit on open files (ulimit -n)", error
            )
        self._reactor.change(self, 0)
        self._reactor.wheel.schedule(self, self._reactor.now + EXHAUSTED_PAUSE_S)

    def _resume(self) -> None:
        self._exhausted = False
        if self.fd >= 0:
            self._reactor.change(self, READ)

    def expired(self, now: float) -> None:
        self._resume()

    def flush(self) -> None:
        pass

    def failed(self, error: Exception) -> None:
        logger.error("the listener on %s failed and accepts no more", self.address, exc_info=error)
        self.close()

    def close(self) -> None:
        """Stop listening; what waits in the backlog is refused by the kernel. Accepted streams live on; what was not
        greeted yet is closed."""
        if self.fd >= 0:
            self._reactor.remove(self)
            self._sock.close()
            for greeting in list(self._greetings):
                greeting.close()
