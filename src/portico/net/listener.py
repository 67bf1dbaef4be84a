"""The listener: the passive socket, which never carries data and only yields connections.

`ready` drains the backlog in bounded batches. It survives running out of descriptors (it pauses, says so once, and goes
on) and peers that gave up while they waited. A connection that was accepted is never leaked, whatever raises next.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import stat
from collections.abc import Callable
from typing import Any, Final

from portico.errors import LocalError
from portico.net.reactor import READ, Reactor, Source
from portico.net.stream import NOBODY, Protocol, Stream
from portico.net.tls import TlsStream

logger = logging.getLogger("portico.net")

BACKLOG: Final = 4096  # the kernel cuts it to its own limit, net.core.somaxconn
ACCEPTS_PER_TURN: Final = 256
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
EXHAUSTED_PAUSE_S: Final = 0.5
EXHAUSTED_LOG_S: Final = 60.0
ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})  # as ::1 where the machine has no IPv6
BROKEN: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})  # of the listening socket itself


class Listener(Source):
    """One listening socket. `make_protocol` gives each new stream its protocol; `on_gone` is told of each that ends."""

    __slots__ = (
        "_exhausted",
        "_high_water",
        "_host",
        "_make_protocol",
        "_on_gone",
        "_reactor",
        "_silent_until",
        "_sock",
        "_ssl",
        "_tls_timeout",
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
        ssl_context: ssl.SSLContext | None = None,
        tls_timeout_s: float = 10.0,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._sock = sock
        self._make_protocol = make_protocol
        self._on_gone = on_gone
        self._high_water = high_water
        self._ssl = ssl_context
        self._tls_timeout = tls_timeout_s
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
        self._open(sock, peer)

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
            self._open(sock, self._shared(peer))

    def _shared(self, peer: Any) -> Any:
        """`peer` without its own copy of the host where the connection before came from there, as behind a proxy."""
        if isinstance(peer, tuple):
            if peer[0] != self._host:
                self._host = peer[0]
            return (self._host, *peer[1:])
        return peer

    def _open(self, sock: socket.socket, peer: Any) -> None:
        stream: Stream | None = None
        try:
            sock.setblocking(False)
            if self._ssl is None:
                stream = Stream(self._reactor, sock, NOBODY, peer, self._high_water, self)
            else:
                stream = TlsStream.accepted(self._reactor, sock, self._ssl, peer, self._high_water, self)
            self.accepted += 1
            stream.protocol = self._make_protocol(stream)
            if self._ssl is None:
                stream.protocol.connected()
            else:
                self._reactor.wheel.schedule(stream, self._reactor.now + self._tls_timeout)
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
        """Stop listening; what waits in the backlog is refused by the kernel. Accepted streams live on."""
        if self.fd >= 0:
            self._reactor.remove(self)
            self._sock.close()


async def bind(
    host: str | None,
    port: int,
    *,
    uds: str | os.PathLike[str] | None = None,
    sock: socket.socket | None = None,
    backlog: int = BACKLOG,
) -> list[socket.socket]:
    """Listening, non-blocking sockets: on every address of `host` (None: on all), at the path `uds`, or `sock` itself.

    Raises LocalError where an address can't be had; nothing is left open then.
    """
    if sock is not None:
        if sock.type != socket.SOCK_STREAM:
            raise LocalError(f"sock={sock!r}: expected a stream socket")
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        sock.listen(backlog)
        return [sock]
    if uds is not None:
        return [_bind_unix(os.fspath(uds), backlog)]
    if not 0 <= port <= 65535:  # getaddrinfo would take it modulo 65536
        raise LocalError(f"port={port!r}: expected a number from 0 to 65535")
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise LocalError(f"host={host!r}, port={port}: {error.strerror}") from error
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, kind, proto, _, address in dict.fromkeys(found):
        if sockets and port == 0:  # every address gets the port that the first one got
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            sockets.append(_bind_tcp(family, kind, proto, address, backlog))
        except OSError as error:
            failure = error
            if error.errno not in ABSENT:
                break
    if failure is not None and not (sockets and failure.errno in ABSENT):
        for each in sockets:
            each.close()
        raise LocalError(f"cannot listen on {host or '*'} port {port}: {failure.strerror}") from failure
    return sockets


def _bind_tcp(family: int, kind: int, proto: int, address: Any, backlog: int) -> socket.socket:
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(path: str, backlog: int) -> socket.socket:
    """Listen at `path`; a socket file that nobody listens on any more is replaced."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise LocalError(f"uds={path!r}: expected a socket or nothing there, found another kind of file")
            if _listened(path):
                raise LocalError(f"uds={path!r}: another process listens there")
            os.unlink(path)
        sock.bind(path)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise LocalError(f"uds={path!r}: {error.strerror or error}") from error
    except LocalError:
        sock.close()
        raise
    return sock


def _listened(path: str) -> bool:
    """Whether somebody listens on the socket file at `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a full backlog would make it wait
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            pass
    return True
