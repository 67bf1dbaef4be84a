"""The PROXY protocol, versions 1 and 2: a short header before everything else on a connection, in which a proxy says
whose connection it passes on.

Source: https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt. Sections are named as there.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NamedTuple

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"  # §2.2
FIXED_BYTES: Final = 16
MAX_V1_BYTES: Final = 107  # §2.1, with its CRLF
MAX_V2_BYTES: Final = 8192  # §2.2 asks for 536 at least; a client's certificate may be among the TLVs

CRC32C: Final = 0x03  # §2.2.3
SSL: Final = 0x20  # §2.2.6
SSL_CLIENT: Final = 0x01  # the client connected over TLS

_V1 = re.compile(
    rb"PROXY (?:UNKNOWN(?: [\x20-\x7e]*)?|(?P<family>TCP4|TCP6) (?P<source>[0-9A-Fa-f:.]+) (?P<target>[0-9A-Fa-f:.]+) "
    rb"(?P<sport>0|[1-9][0-9]{0,4}) (?P<tport>0|[1-9][0-9]{0,4}))\r\n"
)
_FAMILIES: Final = {0x11: (IPv4Address, 4), 0x21: (IPv6Address, 16)}  # a stream over IPv4, over IPv6
_UNIX_STREAM: Final = 0x31
_UNIX_BYTES: Final = 216
_POLYNOMIAL: Final = 0x82F63B78  # Castagnoli's, reflected


class Bad(ValueError):
    """What came is no PROXY header that can be accepted; the connection is to be closed."""


class Header(NamedTuple):
    """What a proxy said. ``source`` and ``target`` are (host, port), None where no addresses were told: then the
    connection's own hold, if ``own``; else there are none, as on a Unix socket. ``secure``: the client used TLS."""

    source: tuple[str, int] | None = None
    target: tuple[str, int] | None = None
    own: bool = True
    secure: bool = False


class Client(tuple[str, int]):
    """The (host, port) of a client, as a PROXY header told it, in place of the socket's own peer."""

    target: tuple[str, int] | None = None
    """The address that the client connected to."""
    secure: bool = False
    """Whether it used TLS up to the proxy."""


class HeaderReader:
    """Reads one header, and nothing after it: feed it what can be seen, and take from the connection what it says."""

    __slots__ = ("_came", "header")

    def __init__(self) -> None:
        self._came = b""
        self.header: Header | None = None

    def feed(self, data: bytes) -> int:
        """How many of the next bytes `data` belong to the header. Once ``header`` is there, what follows them is the
        connection's; before that, all of them belong to it, and more has to come. Raises Bad."""
        before = len(self._came)
        came = self._came + data
        size = _size(came)
        if size is None or len(came) < size:
            self._came = came
            return len(data)
        self._came = b""
        self.header = _parse_v1(came[:size]) if came[:1] == b"P" else _parse_v2(came[:size])
        return size - before

    @property
    def done(self) -> bool:
        """Whether the header is complete."""
        return self.header is not None

    def peer(self, own: Any) -> Any:
        """The peer of the connection, whose socket says that it is `own`: a `Client`, `own`, or None for nobody that
        has an address."""
        header = self.header
        if header is None or header.own:
            return own
        if header.source is None:
            return None
        client = Client(header.source)
        client.target = header.target
        client.secure = header.secure
        return client


def _size(came: bytes) -> int | None:
    """How long the header is that begins so, None where that can't be told yet. Raises Bad."""
    if came[:1] == b"P":
        end = came.find(b"\r\n", 0, MAX_V1_BYTES)
        if end >= 0:
            return end + 2
        if len(came) >= MAX_V1_BYTES or not b"PROXY ".startswith(came[:6]):
            raise Bad("malformed PROXY header, version 1 (§2.1)")
        return None
    if not came.startswith(SIGNATURE[: len(came)]):
        raise Bad("no PROXY header")
    if len(came) < FIXED_BYTES:
        return None
    size = FIXED_BYTES + int.from_bytes(came[14:16], "big")
    if size > MAX_V2_BYTES:
        raise Bad(f"a PROXY header of {size} bytes: expected at most {MAX_V2_BYTES}")
    return size


def _parse_v1(line: bytes) -> Header:
    match = _V1.fullmatch(line)
    if match is None:
        raise Bad("malformed PROXY header, version 1 (§2.1)")
    family = match["family"]
    if family is None:
        return Header()
    kind = IPv4Address if family == b"TCP4" else IPv6Address
    try:
        source, target = (str(kind(match[name].decode())) for name in ("source", "target"))
    except ValueError:
        raise Bad("malformed address in a PROXY header, version 1 (§2.1)") from None
    ports = int(match["sport"]), int(match["tport"])
    if max(ports) > 65535:
        raise Bad("no such port, in a PROXY header, version 1 (§2.1)")
    return Header((source, ports[0]), (target, ports[1]), own=False)


def _parse_v2(raw: bytes) -> Header:
    version, command = raw[12] >> 4, raw[12] & 15
    if version != 2 or command > 1:
        raise Bad(f"a PROXY header of version {version} with command {command}: expected 2, and 0 or 1 (§2.2)")
    if not command:
        return Header()  # LOCAL: the proxy's own connection, whatever else it says
    family = raw[13]
    body = raw[FIXED_BYTES:]
    if family in _FAMILIES:
        kind, width = _FAMILIES[family]
        rest = 2 * width + 4
        if len(body) < rest:
            raise Bad("a PROXY header that is too short for its addresses (§2.2)")
        source = str(kind(body[:width])), int.from_bytes(body[2 * width : 2 * width + 2], "big")
        target = str(kind(body[width : 2 * width])), int.from_bytes(body[2 * width + 2 : rest], "big")
        header = Header(source, target, own=False)
    elif family == _UNIX_STREAM:
        rest = _UNIX_BYTES
        if len(body) < rest:
            raise Bad("a PROXY header that is too short for its addresses (§2.2)")
        header = Header(own=False)
    elif family <= 2:
        return Header()  # UNSPEC: what follows can't be understood
    else:
        raise Bad(f"a PROXY header of family {family:#04x}: expected TCP or a Unix stream (§2.2)")
    return header._replace(secure=_tlvs(raw, FIXED_BYTES + rest))


def _tlvs(raw: bytes, at: int) -> bool:
    """Check the TLVs of `raw` from `at` on; whether they say that the client used TLS (§2.2)."""
    secure = summed = False
    while at < len(raw):
        end = at + 3 + int.from_bytes(raw[at + 1 : at + 3], "big")
        if at + 3 > len(raw) or end > len(raw):
            raise Bad("a PROXY header whose TLVs are cut off (§2.2)")
        kind, value = raw[at], raw[at + 3 : end]
        if kind == CRC32C:
            if summed:  # each costs the time of the whole header, and a thousand right ones fit into one
                raise Bad("a PROXY header with two checksums (§2.2.3)")
            summed = True
            whole = raw[: at + 3] + bytes(len(value)) + raw[end:]
            if len(value) != 4 or crc32c(whole) != int.from_bytes(value, "big"):
                raise Bad("a PROXY header whose checksum is wrong (§2.2.3)")
        elif kind == SSL:
            if len(value) < 5:
                raise Bad("a PROXY header with a malformed TLV about TLS (§2.2.6)")
            secure = bool(value[0] & SSL_CLIENT)
        at = end
    return secure


def crc32c(data: bytes) -> int:
    """The CRC-32C of `data` (RFC 9260, Appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE: Final = _table()
