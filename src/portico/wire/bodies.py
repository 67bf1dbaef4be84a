"""The body of a message: where it ends (RFC 9112 §6), and the chunked coding taken off (§7.1).

A body takes what belongs to it and says where it stopped; the next message's bytes are never touched. A piece is
handed on as soon as it is here; nothing is held but an unfinished line.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from portico.wire.head import Bad, check_field_line

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*+;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_MAX_CHUNK_LINE: Final = 1024

_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


class Body(Protocol):
    """`take` reads ``data[pos:]``, appends what it holds of the body to `pieces`, and returns where it stopped."""

    done: bool

    @property
    def left(self) -> int:
        """How many of the next bytes are its own, at least."""

    def take(self, data: bytes, pos: int, pieces: list[bytes]) -> int: ...


class LengthBody:
    """A body of ``Content-Length`` bytes (RFC 9112 §6.2)."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0

    def take(self, data: bytes, pos: int, pieces: list[bytes]) -> int:
        piece = data[pos : pos + self.left]
        pieces.append(piece)
        self.left -= len(piece)
        self.done = self.left == 0
        return pos + len(piece)


class UnboundedBody:
    """A response's body that ends with the connection (RFC 9112 §6.3, item 8)."""

    __slots__ = ("done", "left")

    def __init__(self) -> None:
        self.done = False
        self.left = 1 << 62

    def take(self, data: bytes, pos: int, pieces: list[bytes]) -> int:
        pieces.append(data[pos:])
        return len(data)


class ChunkedBody:
    """A body in the chunked coding (RFC 9112 §7.1). Chunk extensions and trailer fields are checked and dropped."""

    __slots__ = ("_fields_left", "_line", "_state", "_trailer_bytes_left", "done", "left")

    def __init__(self, max_trailer_bytes: int, max_trailers: int) -> None:
        self.done = False
        self._state = _SIZE
        self.left = 0
        self._line = bytearray()
        self._trailer_bytes_left = max_trailer_bytes
        self._fields_left = max_trailers

    def take(self, data: bytes, pos: int, pieces: list[bytes]) -> int:
        size = len(data)
        while pos < size and not self.done:
            if self._state == _DATA:
                piece = data[pos : pos + self.left]
                pieces.append(piece)
                pos += len(piece)
                self.left -= len(piece)
                if not self.left:
                    self._state = _DATA_END
            elif self._state == _TRAILERS:
                pos = self._take_trailer(data, pos)
            elif self._state == _DATA_END:
                pos = self._take_data_end(data, pos)
            else:
                pos = self._take_size(data, pos)
        return pos

    def _take_size(self, data: bytes, pos: int) -> int:
        pos = self._take_line(data, pos, _MAX_CHUNK_LINE, 400, "a chunk's first line")
        if self._line[-1:] == b"\n":
            match = _CHUNK_LINE.fullmatch(bytes(self._line))
            if match is None:
                raise Bad(400, "malformed chunk: expected its size in hexadecimal digits (RFC 9112 §7.1)")
            self._line.clear()
            self.left = int(match[1], 16)
            self._state = _DATA if self.left else _TRAILERS
        return pos

    def _take_data_end(self, data: bytes, pos: int) -> int:
        expected = b"\r\n"[len(self._line) :]
        found = data[pos : pos + len(expected)]
        if not expected.startswith(found):
            raise Bad(400, "malformed chunk: its data is longer than its size said (RFC 9112 §7.1)")
        self._line += found
        if len(found) == len(expected):
            self._line.clear()
            self._state = _SIZE
        return pos + len(found)

    def _take_trailer(self, data: bytes, pos: int) -> int:
        pos = self._take_line(data, pos, self._trailer_bytes_left, 431, "the trailer section")
        if self._line[-1:] == b"\n":
            line = bytes(self._line)
            self._line.clear()
            self._trailer_bytes_left -= len(line)
            if line == b"\r\n":
                self.done = True
                return pos
            if line[-2:] != b"\r\n":
                raise Bad(400, "a LF without CR in the trailer section (RFC 9112 §2.2)")
            check_field_line(line[:-2])
            self._fields_left -= 1
            if self._fields_left < 0:
                raise Bad(431, "too many trailer fields", "max_headers")
        return pos

    def _take_line(self, data: bytes, pos: int, limit: int, status: int, what: str) -> int:
        """Add to the line up to its LF, if that is here."""
        room = limit - len(self._line)
        end = data.find(b"\n", pos, pos + room)
        stop = end + 1 if end >= 0 else min(len(data), pos + room)
        self._line += data[pos:stop]
        if end < 0 and len(self._line) >= limit:
            name = "max_head_bytes" if status == 431 else ""
            raise Bad(status, f"{what} is longer than its limit of {limit} bytes", name)
        return stop
