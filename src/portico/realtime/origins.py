"""Which pages the HTTP side of a mount lets in, as its WebSockets do, and what lets them read the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from portico.realtime.refusals import forbidden
from portico.wire.handshake import HandshakeRefused, check_origin

if TYPE_CHECKING:
    from portico.server.app import Origins

Header = tuple[bytes, bytes]

ANY: Final[Header] = (b"access-control-allow-origin", b"*")
CREDENTIALS: Final[Header] = (b"access-control-allow-credentials", b"true")
VARY: Final[Header] = (b"vary", b"Origin")


def cross_origin(origin: bytes, host: str | bytes, scheme: Any, origins: Origins) -> list[Header]:
    """The headers for a page of `origin` (Fetch, §HTTP responses); raises Refused for one of another site.

    `host` and `scheme` are how the client reached this server: what a trusted proxy says, else the connection.
    """
    asked = host if isinstance(host, str) else host.decode("latin-1")
    try:
        check_origin(origin.decode("latin-1"), asked, scheme, origins)
    except HandshakeRefused as refused:
        raise forbidden(str(refused)) from None
    if origins is not None and "*" in origins:
        return [ANY]
    return [(b"access-control-allow-origin", origin), CREDENTIALS, VARY]
