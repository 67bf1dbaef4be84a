"""Streams of frames to be torn: well-formed, mutated and random bytes (RFC 6455 §5, RFC 7692 §7.2)."""

from __future__ import annotations

import zlib

from hypothesis import strategies as st
from tests.wire.raw import End

MODES = {"plain": None, "fresh": False, "takeover": True}  # whether windows are taken over; None without compression
LIMITS = {"max_message_bytes": 300, "max_fragments": 4}

TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="aé€\U0001f600", max_size=120),
    st.sampled_from(["", "x" * 299, "x" * 300, "x" * 301, "€" * 100, "é" * 151]),
)
DATA = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([bytes(125), bytes(126), bytes(300), bytes(301), b"\xff" * 3, b"\xe2\x82", b"\xed\xa0\x80"]),
)
CLOSES = st.sampled_from(
    [b"", b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa0\xe2\x82\xac", b"\x03", b"\x03\xed", b"\x03\xe8\xff", b"\x00\x00"]
)


class Packer:
    """Deflates the messages of one stream as its mode has it; sometimes ends a block or a stream within a message."""

    def __init__(self, mode: bool | None) -> None:
        self.keep = bool(mode)
        self.packer = zlib.compressobj(6, zlib.DEFLATED, -15)

    def pack(self, payload: bytes, kind: int) -> bytes:
        if not self.keep:
            self.packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        if kind == 1:  # a stream of its own, with BFINAL (RFC 7692 §7.2.3.4)
            alone = zlib.compressobj(6, zlib.DEFLATED, -15)
            ended = alone.compress(payload) + alone.flush(zlib.Z_FINISH) + b"\x00"
            self.packer = zlib.compressobj(6, zlib.DEFLATED, -15)
            return ended
        packed = b""
        if kind == 2:  # two blocks (RFC 7692 §7.2.3.5)
            packed = self.packer.compress(payload[:5]) + self.packer.flush(zlib.Z_SYNC_FLUSH)
            payload = payload[5:]
        return packed + (self.packer.compress(payload) + self.packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def control(draw: st.DrawFn, end: End) -> bytes:
    return end.frame(draw(st.sampled_from([0x89, 0x8A])), draw(st.binary(max_size=20)))


def message(draw: st.DrawFn, end: End, packer: Packer, mode: bool | None) -> bytes:
    if draw(st.integers(0, 3)):
        opcode, payload = 1, draw(TEXTS).encode()
    else:
        opcode, payload = draw(st.sampled_from([1, 2, 2, 2])), draw(DATA)
    first = opcode
    if mode is not None and draw(st.booleans()):
        first |= 0x40
        payload = packer.pack(payload, draw(st.integers(0, 2)))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    frames = b""
    for i, piece in enumerate(pieces):
        fin = 0x80 if i == len(pieces) - 1 else 0
        frames += end.frame(fin | (0 if i else first), piece)
        if not fin and draw(st.booleans()):
            frames += control(draw, end)
    return frames


def mutated(draw: st.DrawFn, stream: bytes) -> bytes:
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(stream)))
        kind = draw(st.sampled_from(["flip", "flip", "flip", "insert", "delete", "cut"]))
        if kind == "insert":
            stream = stream[:at] + draw(st.binary(max_size=5)) + stream[at:]
        elif kind == "delete":
            stream = stream[:at] + stream[at + 1 :]
        elif kind == "cut":
            stream = stream[:at]
        elif at < len(stream):
            stream = stream[:at] + bytes((stream[at] ^ 1 << draw(st.integers(0, 7)),)) + stream[at + 1 :]
    return stream


@st.composite
def streams(draw: st.DrawFn, end: End, mode: bool | None) -> bytes:
    """What a peer of `end` may send, and what no peer should."""
    shape = draw(st.integers(0, 9))
    if shape == 0:
        return draw(st.binary(max_size=60))
    packer = Packer(mode)
    stream = b""
    for _ in range(draw(st.integers(1, 5))):
        stream += control(draw, end) if draw(st.integers(0, 4)) == 0 else message(draw, end, packer, mode)
    if draw(st.integers(0, 4)) == 0:
        stream += end.frame(0x88, draw(CLOSES)) + draw(st.binary(max_size=4))
    return mutated(draw, stream) if shape > 4 else stream


@st.composite
def torn(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """`stream` in pieces, some of them empty."""
    if draw(st.booleans()):
        size = draw(st.integers(1, 9))
        return [stream[i : i + size] for i in range(0, len(stream), size)]
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
