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


class TlsStream(Stream):
    """One TLS connection; its protocol hears nothing before the handshake is complete."""

    __slots__ = ("_handshaking",)

    def __init__(
        self, reactor: Reactor, sock: ssl.SSLSocket, protocol: Protocol, peer: Any, high_water: int, listener: Any
    ) -> None:
        super().__init__(reactor, sock, protocol, peer, high_water, listener)
        self._handshaking = True

    @classmethod
    def accepted(
        cls, reactor: Reactor, sock: socket.socket, context: ssl.SSLContext, peer: Any, high_water: int, listener: Any
    ) -> TlsStream:
        """The server's end of a connection that was just accepted."""
        wrapped = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        try:
            return cls(reactor, wrapped, NOBODY, peer, high_water, listener)
        except BaseException:
            wrapped.close()
            raise

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
        else:
            super().ready(events)

    def expired(self, now: float) -> None:
        if self._handshaking:
            self._end(TimeoutError("TLS handshake not complete in time"))
        else:
            super().expired(now)

    def _shake(self) -> None:
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self._set_interest(READ)
        except ssl.SSLWantWriteError:
            self._set_interest(WRITE)
        except OSError as error:
            self._end(error)
        else:
            self._handshaking = False
            self._set_interest(READ)
            self.reactor.wheel.cancel(self)
            self.protocol.connected()
            self._read()

    def _read(self) -> None:
        buffer = self.reactor.buffer
        for _ in range(RECORDS_PER_TURN):
            try:
                size = self.sock.recv_into(buffer)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except ssl.SSLZeroReturnError:
                size = 0
            except OSError as error:
                self._end(error)
                return
            self._take(buffer, size)
            if size < RECORD_BYTES or not self._interest & READ:
                break
        if self.open and not self.paused and self.sock.pending():
            self.reactor.again(self)

    def _send(self, data: bytes) -> int:
        try:
            return self.sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def _shut(self) -> None:
        if not self._handshaking:
            with contextlib.suppress(OSError):  # the peer's own close_notify is not waited for
                self.sock.unwrap()
        super()._shut()

    def _shutdown(self) -> None:
        socket.socket.shutdown(self.sock, socket.SHUT_WR)  # SSLSocket's own would forget its TLS state
