"""The connections of a server, as `Server.connections` shows them."""

from __future__ import annotations

from typing import Any

from portico.net.stream import Stream
from portico.websocket import WebSocket


class Connection:
    """One connection on the port, as `Server.connections` shows it."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def websocket(self) -> WebSocket | None:
        """Its WebSocket, once it has switched."""
        protocol = self._stream.protocol
        return protocol if isinstance(protocol, WebSocket) else None

    @property
    def id(self) -> str:
        """Unique among the server's connections."""
        return f"{self._stream.fd}-{self._stream.opened:.6f}"

    @property
    def protocol(self) -> str:
        """One of "http/1.1" and "websocket"."""
        return "http/1.1" if self.websocket is None else "websocket"

    @property
    def tls(self) -> bool:
        return self._stream.tls

    @property
    def local(self) -> Any:
        """Our address, (host, port) on TCP."""
        return pair(self._stream.local)

    @property
    def peer(self) -> Any:
        """The peer's address, (host, port) on TCP."""
        return pair(self._stream.peer)

    @property
    def state(self) -> str:
        """One of "open", "closing" and "closed"."""
        ws = self.websocket
        if self._stream.gone:
            return "closed"
        return "open" if self._stream.open and (ws is None or ws.sending) else "closing"

    @property
    def age_s(self) -> float:
        return max(0.0, self._stream.reactor.clock() - self._stream.opened)

    @property
    def bytes_in(self) -> int:
        return self._stream.bytes_in

    @property
    def bytes_out(self) -> int:
        return self._stream.bytes_out

    @property
    def latency(self) -> float | None:
        """Round trip of the last answered ping in seconds, or None."""
        ws = self.websocket
        return None if ws is None else ws.latency

    def abort(self) -> None:
        """Drop it now, as if the network had: no closing handshake, and what is unsent is lost."""
        self._stream.abort()


def pair(address: Any) -> Any:
    """(host, port) of a socket address; of an IPv6 one, too."""
    return address[:2] if isinstance(address, tuple) and len(address) > 2 else address
