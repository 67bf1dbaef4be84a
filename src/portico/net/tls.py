"""TLS on a stream: a non-blocking `ssl.SSLSocket` on the same reactor, with a deadline for its handshake.

What TLS wants to write while we read, and the other way round, changes only what the stream waits for.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any, Final

from portico.net.reactor import READ, WRITE, Reactor
from portico.net.stream import NOBODY, Protocol, Stream

RECORD_BYTES: Final = 16384
RECORDS_PER_TURN: Final = 16


class HandshakeTimeout(TimeoutError):
    """The peer did not complete its TLS handshake in time."""


class TlsStream(Stream):
    """One TLS connection; its protocol hears nothing before the handshake is complete."""

    __slots__ = ("_crossed", "_handshaking", "_tls")

    def __init__(
        self, reactor: Reactor, sock: ssl.SSLSocket, protocol: Protocol, peer: Any, high_water: int, listener: Any
    ) -> None:
        super().__init__(reactor, sock, protocol, peer, high_water, listener)
        self._tls: Any = sock  # None after the end of TLS
        self._handshaking = True
        self._crossed = False  # reading waits for the socket to be writable, or writing for it to be readable

    @classmethod
    def accepted(
        cls, reactor: Reactor, sock: socket.socket, context: ssl.SSLContext, peer: Any, high_water: int, listener: Any
    ) -> TlsStream:
        """The server's end of a connection that was just accepted. Raises OSError where it has ended already."""
        sock.getpeername()  # where this raises, wrap_socket would leave a descriptor open
        wrapped = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        try:
            return cls(reactor, wrapped, NOBODY, peer, high_water, listener)
        except BaseException:
            wrapped.close()
            raise

    @classmethod
    def dialled(
        cls,
        reactor: Reactor,
        sock: socket.socket,
        context: ssl.SSLContext,
        host: str,
        protocol: Protocol,
        peer: Any,
        high_water: int,
        listener: Any,
    ) -> TlsStream:
        """The client's end of a connected socket; `host` is verified and sent as SNI. `begin` starts the handshake.

        Raises OSError where the connection has ended already.
        """
        sock.getpeername()  # where this raises, wrap_socket would leave a descriptor open
        wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        try:
            return cls(reactor, wrapped, protocol, peer, high_water, listener)
        except BaseException:
            wrapped.close()
            raise

    def begin(self) -> None:
        """The client speaks first."""
        self._shake()

    @property
    def tls(self) -> bool:
        return True

    @property
    def handshaking(self) -> bool:
        """Whether the TLS handshake is still under way."""
        return self._handshaking

    def ready(self, events: int) -> None:
        if self._handshaking:
            self._shake()
            return
        if self._crossed:
            self._crossed = False
            events |= READ | WRITE
        Stream.ready(self, events)

    def expired(self, now: float) -> None:
        if self._handshaking:
            self._end(HandshakeTimeout("TLS handshake not complete in time"))
        else:
            Stream.expired(self, now)

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._set_interest(READ)
        except ssl.SSLWantWriteError:
            self._set_interest(WRITE)
        except OSError as error:
            self._end(error.with_traceback(None))
        else:
            self._handshaking = False
            self._set_interest(READ)
            self.reactor.wheel.cancel(self)
            protocol = self.protocol
            protocol.connected()
            if not self.gone and not self.paused:
                self._read()

    def _read(self) -> None:
        if self._tls is None:
            Stream._read(self)
            return
        buffer = self.reactor.buffer
        for _ in range(RECORDS_PER_TURN):
            try:
                size = self._tls.recv_into(buffer)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLWantWriteError:
                self._crossed = True
                self._set_interest(self._interest | WRITE)
                return
            except ssl.SSLZeroReturnError:
                size = 0
            except OSError as error:
                self._end(error.with_traceback(None))
                return
            self._take(buffer, size)
            if size < RECORD_BYTES or self.gone or not self._interest & READ:
                break
        self._read_pending()

    def _read_pending(self) -> None:
        """What TLS holds already, the descriptor does not show."""
        if self.open and not self.paused and self._tls.pending():
            self.reactor.again(self)

    def resume(self) -> None:
        Stream.resume(self)
        self._read_pending()

    def _send(self, data: bytes) -> int:
        size = len(data)
        sent = 0
        view = memoryview(data)
        for _ in range(RECORDS_PER_TURN):  # offered one by one: of more, TLS could have begun more than it says
            try:
                sent += self._tls.send(view[sent : sent + RECORD_BYTES])
            except ssl.SSLWantWriteError:
                break
            except ssl.SSLWantReadError:
                self._crossed = True
                break
            if sent == size:
                break
        return sent

    def _cut(self, out: list[Any], sent: int) -> None:
        """TLS has begun a record with what comes next: that has to be offered again, as one piece."""
        Stream._cut(self, out, sent)
        count = 1
        size = len(out[0])
        while size < RECORD_BYTES and count < len(out):
            size += len(out[count])
            count += 1
        if count > 1:
            out[:count] = [b"".join(out[:count])]

    def _wait_writable(self) -> None:
        if self._crossed:
            self._set_interest(READ)
        else:
            Stream._wait_writable(self)

    def _shut(self) -> None:
        if not self._handshaking:
            with contextlib.suppress(OSError):  # the peer's own close_notify is not waited for
                self._tls.unwrap()
            # What is still read is thrown away, and TLS would fail on data after its end: go on without it.
            tls, self._tls = self._tls, None
            self.sock = socket.socket(tls.family, tls.type, tls.proto, tls.detach())
        Stream._shut(self)
