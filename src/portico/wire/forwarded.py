"""What proxies say of the client before them: ``Forwarded`` (RFC 7239), and ``X-Forwarded-For``, ``-Proto``, ``-Host``.

Lists are read from right to left. The rightmost entry was written by the socket's peer; each further one only counts
when the entry to its right names a proxy that is trusted, because that proxy wrote it. What a client made up stands to
the left of its own address and is never reached.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, Literal, NamedTuple

from portico.errors import LocalError
from portico.wire.headers import TOKEN_CHARS, Raw

ProxyHeaders = Literal["x-forwarded", "forwarded"]

SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
KNOWN_ADDRESSES: Final = 4096  # texts whose meaning is remembered
MAX_NODE: Final = 256  # characters
MAX_HOPS: Final = 100  # that are read
MAX_COMMAS: Final = 16  # within the quotes of one element

_TOKEN: Final = "[" + TOKEN_CHARS.decode() + "]++"
_QUOTED: Final = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
_PAIR = re.compile(rf"({_TOKEN})=({_TOKEN}|{_QUOTED})")
# Without groups: Python 3.11 fails on those within a possessive quantifier (CPython issue 101955).
_ELEMENT = re.compile(rf"(?:{_TOKEN}=(?:{_TOKEN}|{_QUOTED})|[; \t])*+")
_PORT: Final = r"(?::([0-9]{1,5}|_[A-Za-z0-9._\-]+))?"
_NODE = re.compile(rf"(\[[0-9A-Fa-f:.]+\]|[0-9.]+|unknown|_[A-Za-z0-9._\-]+){_PORT}", re.IGNORECASE)
_HOST = re.compile(r"(?:[A-Za-z0-9\-._~]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ESCAPED = re.compile(r"\\(.)")

Ip = IPv4Address | IPv6Address


class Malformed(ValueError):
    """What a trusted proxy sent can't be read; nothing of it counts."""


class Forwarded(NamedTuple):
    """What trusted proxies say: the client's (host, port), port 0 where it is not told; "http" or "https"; the host
    that the client asked. None for what they don't say."""

    client: tuple[str, int] | None
    scheme: Literal["http", "https"] | None
    host: str | None


class Trust:
    """Whose word counts: addresses, networks, ``"unix"`` for peers on Unix sockets, ``"*"`` for any socket peer.

    ``"*"`` is for a server that only a proxy can reach. It trusts the peer of the socket, whoever that is, and nobody
    named in a list. Raises LocalError for an entry of another kind.
    """

    __slots__ = ("_any", "_known", "_networks", "_unix")

    def __init__(self, entries: Iterable[str]) -> None:
        self._any = False
        self._unix = False
        self._known: dict[str, bool] = {}
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in entries:
            if entry == "*":
                self._any = True
            elif entry == "unix":
                self._unix = True
            else:
                self._networks.append(_network(entry))

    def __bool__(self) -> bool:
        return self._any or self._unix or bool(self._networks)

    def peer(self, address: Any) -> bool:
        """Whether a socket's peer is trusted; `address` as accept() gave it."""
        if isinstance(address, tuple):
            return self._any or self.names(address[0])
        return isinstance(address, (str, bytes)) and (self._any or self._unix)

    def names(self, host: str) -> bool:
        """Whether the address `host` is one of those trusted by name."""
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= KNOWN_ADDRESSES:
                self._known.clear()
            try:
                ip = _plain(ip_address(host))
            except ValueError:
                known = False
            else:
                known = any(ip in network for network in self._networks if network.version == ip.version)
            self._known[host] = known
        return known


def _network(entry: object) -> IPv4Network | IPv6Network:
    try:
        if isinstance(entry, str):
            network = ip_network(entry.strip())
            if isinstance(network, IPv6Network) and network.prefixlen >= 96:
                mapped = network.network_address.ipv4_mapped
                if mapped is not None:
                    return IPv4Network((mapped, network.prefixlen - 96))
            return network
        reason = ""
    except ValueError as error:
        reason = f" ({error})"
    raise LocalError(f"trusted_proxies: {entry!r}: expected an address, a network as 10.0.0.0/8, 'unix' or '*'{reason}")


def _plain(ip: Ip) -> Ip:
    """An IPv4 address that came as an IPv6 one, as on a socket that takes both, is an IPv4 address."""
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip.scope_id is not None:
            return IPv6Address(int(ip))
    return ip


def reader(kind: object) -> Callable[[Raw, Trust], Forwarded]:
    """`x_forwarded` or `forwarded`, by its name; raises LocalError for another."""
    found = _READERS.get(kind) if isinstance(kind, str) else None
    if found is None:
        raise LocalError(f"proxy_headers={kind!r}: expected 'x-forwarded' or 'forwarded', the one that your proxy sets")
    return found


# -- X-Forwarded-* -------------------------------------------------------------------------------------------------


def x_forwarded(headers: Raw, trust: Trust) -> Forwarded:
    """``X-Forwarded-For``, ``-Proto`` and ``-Host`` of a request whose socket peer is trusted. Raises Malformed.

    Of several schemes or hosts the one counts that the outermost trusted proxy wrote: as many from the right as
    addresses were read.
    """
    hops: list[str] = []
    schemes: list[str] = []
    hosts: list[str] = []
    for name, value in headers:
        if name[:12] == b"x-forwarded-":
            if name == b"x-forwarded-for":
                hops += _members(value)
            elif name == b"x-forwarded-proto":
                schemes += _members(value)
            elif name == b"x-forwarded-host":
                hosts += _members(value)
    client, read = _client(hops, trust)
    scheme = schemes[-min(read, len(schemes))] if schemes else None
    host = hosts[-min(read, len(hosts))] if hosts else None
    return Forwarded(client, _scheme(scheme), _host(host))


def _members(value: bytes) -> list[str]:
    """The members of a comma list; empty ones don't count (RFC 9110 §5.6.1)."""
    if b"," not in value:
        text = value.decode("latin-1").strip(" \t")
        return [text] if text else []
    return [text for part in value.decode("latin-1").split(",") if (text := part.strip(" \t"))]


def _client(hops: list[str], trust: Trust) -> tuple[tuple[str, int] | None, int]:
    """The client among `hops`, and how many of them were written by a trusted proxy: at least 1, if it wrote any."""
    client = None
    read = 0
    for text in reversed(hops[-MAX_HOPS:]):
        read += 1
        address = _node(text)
        if address is None:
            break  # hidden: the last address that is known stays
        client = address
        if not trust.names(address[0]):
            break
    return client, max(read, 1)


@lru_cache(KNOWN_ADDRESSES)
def _node(text: str) -> tuple[str, int] | None:
    """`node`, or an IPv6 address without brackets, as ``X-Forwarded-For`` has it."""
    if text.count(":") < 2 or text.startswith("[") or len(text) > MAX_NODE:
        return node(text)
    return _address(text), 0


# -- Forwarded -----------------------------------------------------------------------------------------------------


def forwarded(headers: Raw, trust: Trust) -> Forwarded:
    """``Forwarded`` (RFC 7239) of a request whose socket peer is trusted. Raises Malformed.

    Scheme and host are those of the outermost trusted proxy that tells them.
    """
    text = ",".join([value.decode("latin-1") for name, value in headers if name == b"forwarded"])
    client: tuple[str, int] | None = None
    scheme: str | None = None
    host: str | None = None
    end = len(text)
    for _ in range(MAX_HOPS):
        if end <= 0:
            break
        begin = _last_element(text, end)
        pairs = _pairs(text[begin:end])
        end = begin - 1
        if not pairs:
            continue
        scheme = pairs.get("proto", scheme)
        host = pairs.get("host", host)
        address = node(pairs["for"]) if "for" in pairs else None
        if address is None:
            break  # hidden, or not told: the last address that is known stays
        client = address
        if not trust.names(address[0]):
            break
    return Forwarded(client, _scheme(scheme), _host(host))


def _last_element(text: str, end: int) -> int:
    """Where the last element of ``text[:end]`` begins. Raises Malformed.

    A comma within quotes separates nothing, but what follows it is no well-formed element either: a quoted string
    ends with a quote that was not opened there, and has a backslash before any other one. So the shortest well-formed
    end is the last element, whatever stands before it.
    """
    at = end
    for _ in range(MAX_COMMAS):
        at = text.rfind(",", 0, at)
        if _ELEMENT.fullmatch(text, at + 1, end) is not None:
            return at + 1
        if at < 0:
            break
    raise Malformed(f"Forwarded: malformed element in {text[max(0, end - 200) : end]!r} (RFC 7239 §4)")


def _pairs(element: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in _parts(element):
        match = _PAIR.fullmatch(part)
        if match is None:
            raise Malformed(f"Forwarded: malformed pair {part[:200]!r} (RFC 7239 §4)")
        name, value = match[1].lower(), match[2]
        if name in pairs:
            raise Malformed(f"Forwarded: {name!r} twice in one element (RFC 7239 §4)")
        pairs[name] = _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value
    return pairs


def _parts(element: str) -> Iterable[str]:
    """What stands between the semicolons that are not within quotes."""
    begin = at = 0
    for match in re.finditer(rf"{_QUOTED}|;", element):
        if match[0] == ";":
            at = match.start()
            if part := element[begin:at].strip(" \t"):
                yield part
            begin = match.end()
    if part := element[begin:].strip(" \t"):
        yield part


# -- both ----------------------------------------------------------------------------------------------------------


@lru_cache(KNOWN_ADDRESSES)
def node(text: str) -> tuple[str, int] | None:
    """The (host, port) of a node (RFC 7239 §6), port 0 where it is not told; None for ``unknown`` and for an obfuscated
    identifier. Raises Malformed."""
    match = _NODE.fullmatch(text) if len(text) <= MAX_NODE else None  # what is remembered is bounded by it, too
    if match is None:
        raise Malformed(f"{text[:200]!r} names no node (RFC 7239 §6)")
    name, port = match[1], match[2]
    if name.startswith("_") or name.lower() == "unknown":
        return None
    host = _address(name[1:-1], v6=True) if name.startswith("[") else _address(name)
    if port is None or port.startswith("_"):
        return host, 0
    if int(port) > 65535:
        raise Malformed(f"{text!r}: no such port")
    return host, int(port)


def _address(text: str, *, v6: bool = False) -> str:
    try:
        return str(_plain(IPv6Address(text) if v6 else ip_address(text)))
    except (AddressValueError, ValueError):
        raise Malformed(f"{text[:200]!r} is no address") from None


def _scheme(text: str | None) -> Literal["http", "https"] | None:
    if text is None:
        return None
    scheme = SCHEMES.get(text.lower())
    if scheme is None:
        raise Malformed(f"{text[:200]!r}: expected the scheme http, https, ws or wss")
    return "https" if scheme == "https" else "http"


def _host(text: str | None) -> str | None:
    if text is not None and _HOST.fullmatch(text) is None:
        raise Malformed(f"{text[:200]!r} is no host (RFC 9112 §3.2)")
    return text


_READERS: Final = {"x-forwarded": x_forwarded, "forwarded": forwarded}
