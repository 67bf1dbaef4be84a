"""permessage-deflate's data path (RFC 7692 §7.2): deflating whole messages, inflating as pieces arrive.

Inflation never produces more than it is told there is room for. Where no context is taken over, nothing is kept from
one message to the next, so an idle connection holds no zlib state at all.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from portico.limits import Deflate
    from portico.wire.extensions import Agreed

INFLATE_STATE_BYTES: Final = 7 * 1024  # zlib's own figure, beside the window
TAIL: Final = b"\x00\x00\xff\xff"
MAX_STREAM_ENDS: Final = 16


def deflate(payload: bytes, level: int, window_bits: int, memory_level: int) -> bytes:
    """`payload` compressed by itself, without the four bytes that RFC 7692 §7.2.1 removes."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window_bits, memory_level)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Codec:
    """One connection's agreed compression: `compress` for what it sends, `start`, `inflate`, `finish` the other way.

    `client` tells which side this is; `agreed` comes from the handshake and `config` from the application.
    """

    __slots__ = (
        "_compressor",
        "_ends",
        "_inflater",
        "error",
        "keep_reading",
        "keep_writing",
        "level",
        "memory_level",
        "read_bits",
        "threshold",
        "write_bits",
    )

    def __init__(self, agreed: Agreed, config: Deflate, *, client: bool) -> None:
        keep_server = not agreed.server_no_context_takeover
        keep_client = not agreed.client_no_context_takeover
        self.keep_writing, self.keep_reading = (keep_client, keep_server) if client else (keep_server, keep_client)
        bits = agreed.client_max_window_bits, agreed.server_max_window_bits
        self.write_bits, self.read_bits = bits if client else bits[::-1]
        if not self.keep_reading:  # zlib sees a distance beyond a small window only where the input is torn
            self.read_bits = 15
        self.level = config.level
        self.memory_level = config.memory_level
        self.threshold = config.threshold_bytes
        self._compressor: zlib._Compress | None = None
        self._inflater: zlib._Decompress | None = None
        self._ends = 0
        self.error = ""

    @property
    def held(self) -> int:
        """About what zlib's state for reading and writing weighs, in bytes; 0 while no message is under way."""
        reading = 0 if self._inflater is None else INFLATE_STATE_BYTES + (1 << 15)
        writing = 0 if self._compressor is None else (1 << (self.write_bits + 2)) + (1 << (self.memory_level + 9))
        return reading + writing

    def forget(self) -> None:
        """The connection has ended: whoever still has it, if only until garbage is collected, holds no windows."""
        self._inflater = self._compressor = None

    def compress(self, payload: bytes) -> bytes | None:
        """`payload` compressed, or None where it is better sent as it is."""
        if len(payload) < self.threshold or not payload:
            return None
        if not self.keep_writing:
            packed = deflate(payload, self.level, self.write_bits, self.memory_level)
            return packed if len(packed) < len(payload) else None
        if self._compressor is None:
            self._compressor = zlib.compressobj(self.level, zlib.DEFLATED, -self.write_bits, self.memory_level)
        return (self._compressor.compress(payload) + self._compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def start(self) -> None:
        """Begin a compressed message."""
        self._ends = 0

    def inflate(self, piece: bytes, room: int) -> bytes:
        """What `piece` adds to the message: at most ``room + 1`` bytes, and that one more means that it is too big.

        Data that no compressor makes sets ``error``; what the bytes before it add is still returned, so that whatever
        else is wrong with them is found first, however the input is torn.
        """
        out = b""
        while True:
            inflater = self._inflater
            before = None
            if inflater is None:
                inflater = self._inflater = zlib.decompressobj(-self.read_bits)
            elif len(piece) > 1 and piece is not TAIL:
                before = inflater.copy()
            try:
                more = inflater.decompress(piece, room - len(out) + 1)
            except zlib.error:
                self.error = "compressed message can't be inflated"
                if piece is TAIL:
                    return out
                return out + _until_error(before or zlib.decompressobj(-self.read_bits), piece, room - len(out) + 1)
            out = out + more if out else more
            if len(out) > room or not inflater.eof:
                return out
            # A block with BFINAL set ended the stream (RFC 7692 §7.2.3.4); what follows begins a new one.
            piece = inflater.unused_data
            self._inflater = None
            self._ends += 1
            if self._ends > MAX_STREAM_ENDS:
                self.error = "compressed message made of too many streams"
                return out
            if not piece:
                return out

    def finish(self, room: int) -> bytes:
        """The end of a compressed message: what its removed tail adds. The window stays only where it was agreed."""
        out = self.inflate(TAIL, room)
        if not self.keep_reading:
            self._inflater = None
        return out


def _until_error(inflater: zlib._Decompress, piece: bytes, most: int) -> bytes:
    """At most `most` bytes of what `piece` gives before the byte of it at which inflating fails."""
    out = b""
    while len(piece) > 1 and len(out) < most:
        half = piece[: len(piece) // 2]
        attempt = inflater.copy()
        try:
            out += attempt.decompress(half, most - len(out))
        except zlib.error:
            piece = half
        else:
            inflater = attempt
            piece = piece[len(half) :]
    return out
