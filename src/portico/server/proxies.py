"""Behind a proxy: whose word is taken for who the client is, and what they say of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from portico.errors import LocalError
from portico.net.stream import Stream
from portico.wire.forwarded import Forwarded, Malformed, ProxyHeaders, Trust, reader
from portico.wire.headers import Raw
from portico.wire.proxy_protocol import Client, HeaderReader

logger = logging.getLogger("portico.server")

NOTHING = Forwarded(None, None, None)


class Proxies:
    """The proxies that a server trusts; there is none of these where it trusts none.

    Raises LocalError for values that `portico.serve` does not take.
    """

    __slots__ = ("_read", "_trust", "protocol")

    def __init__(self, trusted: Sequence[str] | str, headers: ProxyHeaders, protocol: bool) -> None:
        self._trust = Trust([trusted] if isinstance(trusted, str) else trusted)
        self._read = reader(headers)
        self.protocol = protocol
        if protocol and not self._trust:
            raise LocalError("proxy_protocol= without trusted_proxies=: expected the addresses of the proxies")

    @staticmethod
    def of(trusted: Sequence[str] | str, headers: ProxyHeaders, protocol: bool) -> Proxies | None:
        """The proxies for these options of `portico.serve`; None where none is trusted."""
        proxies = Proxies(trusted, headers, protocol)
        return proxies if proxies._trust else None

    def trusts(self, peer: Any) -> bool:
        """Whether a socket's peer is one of them."""
        return self._trust.peer(peer)

    def greet(self, peer: Any) -> HeaderReader:
        """What reads the PROXY header of a new connection; raises ConnectionRefusedError where `peer` is not one of
        them."""
        if not self._trust.peer(peer):
            raise ConnectionRefusedError("expected a proxy in trusted_proxies=, as proxy_protocol= is on")
        return HeaderReader()

    def seen(self, stream: Stream, headers: Raw) -> Forwarded:
        """The client's address, None on a Unix socket; the scheme that it used, "http" or "https"; the host that it
        asked where that is told, else None: the Host header holds."""
        peer = stream.peer
        said = NOTHING
        if self._trust.peer(peer):
            try:
                said = self._read(headers, self._trust)
            except Malformed as error:
                logger.debug("what the proxy %s says of its client is ignored: %s", peer, error)
        secure = stream.tls or (isinstance(peer, Client) and peer.secure)
        client = said.client
        if client is None and isinstance(peer, tuple):
            client = (peer[0], peer[1])
        return Forwarded(client, said.scheme or ("https" if secure else "http"), said.host)

    def describe(self, scope: dict[str, Any], stream: Stream, headers: Raw) -> None:
        """Put what is `seen` into the ASGI scope of an HTTP request."""
        seen = self.seen(stream, headers)
        scope["client"] = seen.client
        scope["scheme"] = seen.scheme
        if seen.host is not None:
            scope["extensions"]["portico.host"] = {"host": seen.host}
