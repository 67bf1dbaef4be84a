"""WebSocket URIs (RFC 6455 §3, RFC 3986): what they name, and what is wrong with those that name nothing."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import quote, unquote

from portico.errors import LocalError

PORTS: Final = {"ws": 80, "wss": 443}
_PARTS = re.compile(r"(?:([^:/?#]*+):)?(?://([^/?#]*+))?([^?#]*+)(?:\?([^#]*+))?(?:#(.*+))?", re.DOTALL)
_NOT_ALLOWED = re.compile(r"[\x00-\x20\x7f\\^`{|}\"<>]")
_HOST = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=]++")
_MAY_STAND: Final = "!#$%&'()*+,/:;=?@[]~-._"


class Uri:
    """A parsed ``ws:`` or ``wss:`` URI.

    - ``secure``: whether it is ``wss:``. ``host``: a name in ASCII or an address, without brackets. ``port``.
    - ``target``: path and query for the request line; "/" where the URI has no path.
    - ``credentials``: user and password where the URI has them, or None. They are never part of ``str(uri)``.
    """

    __slots__ = ("credentials", "host", "port", "secure", "target")

    def __init__(
        self, secure: bool, host: str, port: int, target: str, credentials: tuple[str, str] | None = None
    ) -> None:
        self.secure = secure
        self.host = host
        self.port = port
        self.target = target
        self.credentials = credentials

    @property
    def authority(self) -> str:
        """The value of the Host header: brackets around an IPv6 address, no default port (RFC 9112 §3.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def scheme(self) -> str:
        """One of "ws" and "wss"."""
        return "wss" if self.secure else "ws"

    @property
    def origin(self) -> tuple[str, str, int]:
        """What has to be the same for credentials to be sent again: scheme, host and port."""
        return self.scheme, self.host.lower(), self.port

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    def __repr__(self) -> str:
        return f"Uri({str(self)!r})"


def parse_uri(text: str) -> Uri:
    """`text` as a `Uri`. Raises LocalError, which says what was expected and what came."""
    match = _PARTS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise LocalError(f"URI {text!r}: expected a str")
    scheme, authority, path, query, fragment = match.groups()
    if scheme is None or scheme.lower() not in PORTS:
        raise LocalError(f"URI {text!r}: expected one that begins with ws:// or wss://, got {scheme or 'no scheme'!r}")
    if not authority:
        raise LocalError(f"URI {text!r}: expected a host after //")
    if fragment is not None:
        raise LocalError(f"URI {text!r}: expected no fragment (#…); write # as %23 (RFC 6455 §3)")
    wrong = _NOT_ALLOWED.search(path + (query or ""))
    if wrong is not None:
        raise LocalError(f"URI {text!r}: {wrong.group()!r} may not stand there; write it percent-encoded")
    user, at, place = authority.rpartition("@")
    host, port = _host_and_port(text, place, PORTS[scheme.lower()])
    target = quote(path or "/", safe=_MAY_STAND) + ("" if query is None else "?" + quote(query, safe=_MAY_STAND))
    name, _, password = user.partition(":")
    credentials = (unquote(name), unquote(password)) if at else None
    return Uri(scheme.lower() == "wss", host, port, target, credentials)


def _host_and_port(text: str, place: str, default: int) -> tuple[str, int]:
    if place.startswith("["):
        address, bracket, rest = place[1:].partition("]")
        try:
            host = str(ipaddress.IPv6Address(address))
        except ValueError:
            raise LocalError(f"URI {text!r}: expected an IPv6 address in brackets, got {address!r}") from None
        if not bracket or (rest and not rest.startswith(":")):
            raise LocalError(f"URI {text!r}: expected [address] or [address]:port")
        return host, _port(text, rest[1:], default)
    name, _, digits = place.partition(":")
    return _host(text, name), _port(text, digits, default)


def _host(text: str, name: str) -> str:
    """`name` in ASCII: an internationalised one in the form that DNS knows (RFC 3490)."""
    decoded = unquote(name)
    if not decoded:
        raise LocalError(f"URI {text!r}: expected a host, got none")
    try:
        host = decoded.encode("idna").decode("ascii") if not decoded.isascii() else decoded
    except UnicodeError:
        raise LocalError(f"URI {text!r}: {decoded!r} is no valid host name") from None
    if _HOST.fullmatch(host) is None:
        raise LocalError(f"URI {text!r}: {decoded!r} is no valid host name")
    return host.lower()


def _port(text: str, digits: str, default: int) -> int:
    if not digits:
        return default
    if not digits.isascii() or not digits.isdigit() or len(digits) > 5 or not 0 < int(digits) < 65536:
        raise LocalError(f"URI {text!r}: expected a port from 1 to 65535, got {digits!r}")
    return int(digits)
