"""WebSocket URIs (RFC 6455 §3, RFC 3986): what they name, and what is wrong with those that name nothing."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NoReturn
from urllib.parse import quote, unquote

from portico.errors import LocalError

PORTS: Final = {"ws": 80, "wss": 443}
_PARTS = re.compile(r"(?:([^:/?#]*+):)?(?://([^/?#]*+))?([^?#]*+)(?:\?([^#]*+))?(?:#(.*+))?", re.DOTALL)
_NOT_ALLOWED = re.compile(r"[\x00-\x20\x7f\\^`{|}\"<>]|%(?![0-9A-Fa-f]{2})")
_QUERY = re.compile(r"[?#]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*+://")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_HOST = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=]++")
_MAY_STAND: Final = "!$%&'()*+,/:;=?@~-._"  # RFC 3986 §3.3, §3.4: pchar, "/", "?" and "%"; brackets are for hosts
_TWO_NAMES: Final = frozenset("\u00df\u03c2\u200c\u200d")  # UTS 46's deviations: ß, ς and the two joiners


class Uri:
    """A parsed ``ws:`` or ``wss:`` URI.

    - ``secure``: whether it is ``wss:``. ``host``: a name in ASCII or an address, without brackets. ``port``.
    - ``target``: path and query for the request line; "/" where the URI has no path.
    - ``credentials``: user and password where the URI has them, or None. They are never part of ``str(uri)``.
    - ``shown``: what errors and logs say of it: no query, which may have a token in it, and no credentials.
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

    @property
    def shown(self) -> str:
        """Scheme, authority and path."""
        return f"{self.scheme}://{self.authority}{self.target.partition('?')[0]}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    def __repr__(self) -> str:
        return f"Uri({str(self)!r})"


def parse_uri(text: str) -> Uri:
    """`text` as a `Uri`. Raises LocalError, which says what was expected and what came, but never user information,
    query or fragment."""
    if not isinstance(text, str):
        raise LocalError(f"URI: expected a str, got {type(text).__name__}")
    return _Reader(text).uri()


class _Reader:
    """Reads one URI. What it says of a wrong one never shows what might be user information, a query or a fragment."""

    def __init__(self, text: str) -> None:
        self._text = text
        before, at, after = text.rpartition("@")
        scheme = _SCHEME.match(before)
        begins = (scheme.group() if scheme else "") + "…" if at else ""
        if at and _QUERY.search(before):  # is it a password's ? and a host, or a query's @ and a token?
            self._visible, self._shown = "", begins
            return
        self._visible = _QUERY.split(after, maxsplit=1)[0]
        cut = after[len(self._visible) :]
        self._shown = begins + at + self._visible + (cut[0] + "…" if cut else "")

    def uri(self) -> Uri:
        match = _PARTS.match(self._text)
        if match is None:
            self._wrong("expected one that begins with ws:// or wss://")
        scheme, authority, path, query, fragment = match.groups()
        if scheme is None or scheme.lower() not in PORTS:
            came = "no scheme" if scheme is None else self._piece(scheme)
            self._wrong(f"expected one that begins with ws:// or wss://, got {came}")
        if not authority:
            self._wrong("expected a host after //")
        if fragment is not None:
            self._wrong("expected no fragment (#…); write # as %23 (RFC 6455 §3)")
        user, _, place = authority.rpartition("@")
        host, port = self._host_and_port(place, PORTS[scheme.lower()])
        self._check(path)
        self._check(query or "")
        target = quote(path or "/", safe=_MAY_STAND) + ("" if query is None else "?" + quote(query, safe=_MAY_STAND))
        return Uri(scheme.lower() == "wss", host, port, target, self._credentials(user) if user else None)

    def _wrong(self, message: str) -> NoReturn:
        raise LocalError(f"URI {self._shown!r}: {message}") from None

    def _piece(self, piece: str) -> str:
        """A piece of the URI for an error, where that can't be part of a password."""
        return repr(piece) if piece in self._visible else "something else"

    def _check(self, part: str, *, secret: bool = False) -> None:
        wrong = _NOT_ALLOWED.search(part) or _SURROGATE.search(part)
        if wrong is not None:
            came = "what stands before the @" if secret else repr(wrong.group())
            self._wrong(f"{came} may not stand there; write it percent-encoded (RFC 3986 §2.1)")

    def _credentials(self, user: str) -> tuple[str, str]:
        self._check(user, secret=True)
        name, _, password = user.partition(":")
        try:
            name, password = unquote(name, errors="strict"), unquote(password, errors="strict")
        except UnicodeDecodeError:
            self._wrong("user and password are percent-encoded UTF-8; send others in a header of your own")
        if "@" in user:
            self._wrong("an @ in a user's name or password is written %40 (RFC 3986 §3.2.1)")
        if _CONTROL.search(name + password):
            self._wrong("user and password can't have control characters in them (RFC 7617 §2)")
        if ":" in name:
            self._wrong("a user's name can't have a colon in it (RFC 7617 §2)")
        return name, password

    def _host_and_port(self, place: str, default: int) -> tuple[str, int]:
        if place.startswith("["):
            address, bracket, rest = place[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                self._wrong("expected [address] or [address]:port")
            return self._address(address), self._port(rest[1:], default)
        name, _, digits = place.partition(":")
        if ":" in digits:
            self._wrong("expected one colon at most before the port; an IPv6 address stands in brackets, as in [::1]")
        return self._host(name), self._port(digits, default)

    def _address(self, address: str) -> str:
        if "%" in address:
            self._wrong("a zone (%…) has no place in a URI (RFC 3986 §3.2.2); connect a socket yourself and pass sock=")
        try:
            return str(ipaddress.IPv6Address(address))
        except ValueError:
            self._wrong(f"expected an IPv6 address in brackets, got {self._piece(address)}")

    def _host(self, name: str) -> str:
        """`name` in ASCII: an internationalised one in the form that DNS knows (RFC 3490)."""
        if not name:
            self._wrong("expected a host, got none")
        self._check(name)
        decoded = unquote(name)
        if not _TWO_NAMES.isdisjoint(decoded):
            self._wrong(f"the host {self._piece(name)} means one name in IDNA 2003, another in 2008: write it as xn--…")
        try:
            host = decoded.encode("idna").decode("ascii").lower()
        except UnicodeError:
            host = ""
        if len(host) > 254 or _HOST.fullmatch(host) is None:
            self._wrong(f"{self._piece(name)} is no valid host name")
        return host

    def _port(self, digits: str, default: int) -> int:
        if not digits:
            return default
        number = digits.lstrip("0")  # RFC 3986 §3.2.3: *DIGIT
        if not digits.isascii() or not digits.isdigit() or not 0 < len(number) <= 5 or int(number) > 65535:
            self._wrong(f"expected a port from 1 to 65535, got {self._piece(digits)}")
        return int(number)
