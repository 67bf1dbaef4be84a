"""The PROXY protocol, versions 1 and 2: what is one, what is none, and that not a byte more than it is taken."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from portico.wire.proxy_protocol import MAX_V2_BYTES, SIGNATURE, Bad, Client, HeaderReader, crc32c

AFTER = b"GET / HTTP/1.1\r\n\r\n"
OWN = ("10.0.0.1", 5)


def v2(command: int = 0x21, family: int = 0x11, body: bytes | None = None, tlvs: bytes = b"") -> bytes:
    if body is None:
        body = bytes([203, 0, 113, 7, 192, 0, 2, 1]) + struct.pack(">HH", 4711, 443)
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(body) + len(tlvs)) + body + tlvs


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + struct.pack(">H", len(value)) + value


def with_checksum(wrong: int = 0) -> bytes:
    empty = v2(tlvs=tlv(0x04, b"padding") + tlv(0x03, bytes(4)) + tlv(0x01, b"http/1.1"))
    return empty.replace(tlv(0x03, bytes(4)), tlv(0x03, struct.pack(">I", crc32c(empty) ^ wrong)))


V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
V6 += struct.pack(">HH", 4711, 443)
UNIX = b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")

GOOD: dict[str, tuple[bytes, object]] = {
    "v1 TCP4": (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n", ("203.0.113.7", 4711)),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::7 2001:DB8::1 4711 443\r\n", ("2001:db8::7", 4711)),
    "v1 longest": (
        b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n",
        (("ffff:" * 8)[:-1], 65535),
    ),
    "v1 port 0": (b"PROXY TCP4 203.0.113.7 192.0.2.1 0 443\r\n", ("203.0.113.7", 0)),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", OWN),
    "v1 UNKNOWN with more": (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", OWN),
    "v2 TCP4": (v2(), ("203.0.113.7", 4711)),
    "v2 TCP6": (v2(family=0x21, body=V6), ("2001:db8::7", 4711)),
    "v2 Unix": (v2(family=0x31, body=UNIX), None),
    "v2 LOCAL": (v2(command=0x20), OWN),
    "v2 LOCAL, nothing": (v2(command=0x20, family=0, body=b""), OWN),
    "v2 LOCAL, anything": (v2(command=0x20, family=0x77, body=b"xyz"), OWN),
    "v2 UNSPEC": (v2(family=0, body=b""), OWN),
    "v2 UNSPEC with more": (v2(family=1, body=b"whatever"), OWN),
    "v2 TLVs": (v2(tlvs=tlv(0x01, b"h2") + tlv(0x02, b"example.org") + tlv(0xEA, b"")), ("203.0.113.7", 4711)),
    "v2 checksum": (with_checksum(), ("203.0.113.7", 4711)),
    "v2 TLS": (v2(tlvs=tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3"))), ("203.0.113.7", 4711)),
    "v2 no TLS": (v2(tlvs=tlv(0x20, b"\x00\0\0\0\x01")), ("203.0.113.7", 4711)),
    "v2 longest": (v2(tlvs=tlv(0x04, bytes(MAX_V2_BYTES - 28 - 3))), ("203.0.113.7", 4711)),
}

BAD: dict[str, bytes] = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00",
    "POST": b"POST / HTTP/1.1\r\n",
    "zeros": bytes(20),
    "v1 in lower case": b"proxy TCP4 203.0.113.7 192.0.2.1 4711 443\r\n",
    "v1 without a family": b"PROXY\r\n",
    "v1 with another family": b"PROXY UDP4 203.0.113.7 192.0.2.1 4711 443\r\n",
    "v1 with another version of IP": b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n",
    "v1 with an address that is none": b"PROXY TCP4 203.0.113.777 192.0.2.1 4711 443\r\n",
    "v1 with leading zeros in an address": b"PROXY TCP4 203.0.113.07 192.0.2.1 4711 443\r\n",
    "v1 with a port that is none": b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 443\r\n",
    "v1 with leading zeros in a port": b"PROXY TCP4 203.0.113.7 192.0.2.1 04711 443\r\n",
    "v1 with two spaces": b"PROXY TCP4  203.0.113.7 192.0.2.1 4711 443\r\n",
    "v1 with a tab": b"PROXY TCP4\t203.0.113.7 192.0.2.1 4711 443\r\n",
    "v1 with a space at its end": b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443 \r\n",
    "v1 without its ports": b"PROXY TCP4 203.0.113.7 192.0.2.1\r\n",
    "v1 with LF alone": b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\n" + b"x" * 80,
    "v1 too long": b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
    "v1 without end": b"PROXY TCP4 " + b"1" * 200,
    "v2 of another version": v2(command=0x11),
    "v2 with another command": v2(command=0x22),
    "v2 for datagrams": v2(family=0x12),
    "v2 with another family": v2(family=0x41),
    "v2 with another protocol": v2(family=0x13),
    "v2 of no transport": v2(family=0x10),
    "v2 too short for IPv4": v2(body=bytes(11)),
    "v2 too short for IPv6": v2(family=0x21, body=bytes(35)),
    "v2 too short for Unix": v2(family=0x31, body=bytes(215)),
    "v2 too long": SIGNATURE + b"\x21\x11" + struct.pack(">H", MAX_V2_BYTES),
    "v2 as long as it may be": SIGNATURE + b"\x21\x11\xff\xff",
    "v2 with a TLV without length": v2(tlvs=b"\x04\x00"),
    "v2 with a TLV that is cut off": v2(tlvs=b"\x04\x00\x05abcd"),
    "v2 with a wrong checksum": with_checksum(wrong=1),
    "v2 with a checksum of another size": v2(tlvs=tlv(0x03, bytes(3))),
    "v2 with a TLV about TLS that is cut off": v2(tlvs=tlv(0x20, b"\x01\0\0\0")),
    "v2 with a broken signature": b"\r\n\r\n\0\r\nQUIX\n" + v2()[12:],
}


def read(*pieces: bytes) -> tuple[HeaderReader, bytes]:
    """The reader, and what it leaves to the connection."""
    reader = HeaderReader()
    rest = b""
    for index, piece in enumerate(pieces):
        taken = reader.feed(piece)
        assert 0 < taken <= len(piece)
        if reader.done:
            rest = piece[taken:] + b"".join(pieces[index + 1 :])
            break
        assert taken == len(piece), "what comes before the end of the header belongs to it"
    return reader, rest


@pytest.mark.parametrize("name", GOOD)
def test_a_header_in_one_piece_with_what_follows(name: str) -> None:
    raw, peer = GOOD[name]
    reader, rest = read(raw + AFTER)
    assert reader.done
    assert reader.peer(OWN) == peer
    assert rest == AFTER


@pytest.mark.parametrize("name", GOOD)
def test_a_header_torn_at_every_byte(name: str) -> None:
    raw, peer = GOOD[name]
    data = raw + AFTER
    places = range(1, len(data)) if len(data) < 1000 else (1, 11, 12, 13, 15, 16, 17, 28, 4000, len(raw) - 1, len(raw))
    for at in places:
        reader, rest = read(data[:at], data[at:])
        assert (reader.peer(OWN), rest) == (peer, AFTER), at
    reader, rest = read(*(data[at : at + 1] for at in range(len(data))))
    assert (reader.peer(OWN), rest) == (peer, AFTER)


@pytest.mark.parametrize("name", BAD)
def test_what_is_none(name: str) -> None:
    with pytest.raises(Bad):
        read(BAD[name])
    with pytest.raises(Bad):
        read(*(BAD[name][at : at + 1] for at in range(len(BAD[name]))))


@pytest.mark.parametrize("name", GOOD)
def test_a_header_that_does_not_end_is_none_yet(name: str) -> None:
    raw, _ = GOOD[name]
    reader, _ = read(raw[:-1])
    assert not reader.done


@pytest.mark.parametrize("first", [b"G", b"\x16", b"p", b"\n", b"\r\r", b"PO", b"PROXYv2"])
def test_what_is_none_is_refused_at_its_first_wrong_byte(first: bytes) -> None:
    with pytest.raises(Bad):
        HeaderReader().feed(first)


def test_what_is_told_besides() -> None:
    """The address that the client chose; and whether it used TLS, in the TLV for that (§2.2.6)."""
    for name, secure in (("v1 TCP4", False), ("v2 TCP4", False), ("v2 TLS", True), ("v2 no TLS", False)):
        client = read(GOOD[name][0])[0].peer(OWN)
        assert isinstance(client, Client)
        assert client.target == ("192.0.2.1", 443)
        assert client.secure is secure


def test_crc32c() -> None:
    """RFC 3720, Appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


@given(
    st.binary(min_size=1, max_size=300),
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\x00"]),
)
def test_nothing_else_is_raised(data: bytes, start: bytes) -> None:
    try:
        reader, rest = read(start + data)
    except Bad:
        return
    assert reader.done or not rest


@given(st.integers(0, len(with_checksum()) - 1), st.integers(1, 255))
def test_a_changed_byte_of_a_checked_header_is_noticed(at: int, change: int) -> None:
    """Wherever it is, but for what makes it another header: no checksum, another command, another length."""
    raw = bytearray(with_checksum())
    place = raw.index(tlv(0x03, b"")[:1] + b"\0\4")
    assume(at not in (12, 13, 14, 15, 28, 29, 30, place, place + 1, place + 2))
    raw[at] ^= change
    with pytest.raises(Bad):
        HeaderReader().feed(bytes(raw))


def test_two_checksums_are_refused() -> None:
    """Each is over the whole header: many, which can all be made to be right, would cost its length each time."""
    body = bytes(12)  # of 0.0.0.0 to 0.0.0.0
    one = v2(body=body, tlvs=tlv(0x03, bytes(4)))
    assert HeaderReader().feed(one[:-4] + struct.pack(">I", crc32c(one))) == len(one)
    with pytest.raises(Bad, match="two checksums"):
        HeaderReader().feed(v2(body=body, tlvs=tlv(0x03, b"\x28\x21\x3d\xb8") + tlv(0x03, b"\x46\x68\x0c\xaf")))
