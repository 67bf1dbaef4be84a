"""The head of a message, before it means anything: where it ends, and whether each byte of it may be there.

A head is collected up to its empty line and then checked as a whole, stricter than RFC 9112 asks of a server: what two
parsers could read in two ways is refused. The violation that comes first in the bytes is the one reported, so the
answer doesn't depend on how the bytes were torn. Never looks at what a field means.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from portico.wire.headers import TOKEN_CHARS

_TOKEN: Final = rb"[" + TOKEN_CHARS + rb"]++"
_TEXT: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
# Possessive quantifiers never go back, so that a match is linear in the head's length.
_FIELDS: Final = rb"\r\n(?:" + _TOKEN + rb":" + _TEXT + rb"\r\n)*+\r\n"
_REQUEST_LINE: Final = rb"(" + _TOKEN + rb") ([!-~]++) HTTP/([0-9]\.[0-9])"
_STATUS_LINE: Final = rb"HTTP/([0-9]\.[0-9]) ([1-9][0-9]{2})(?: (" + _TEXT + rb"))?"

_END: Final = b"\r\n\r\n"
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=[^\n])|(?<!\r)\n")
_NAME = re.compile(_TOKEN)
_FIRST = re.compile(rb"[" + TOKEN_CHARS + rb"]")
_MAX_EMPTY_LINES: Final = 2

Line = re.Match[bytes]
"""A first line's match: method, target and version of a request; version, status and reason of a response."""


class Rejected:
    """The peer's message can't be accepted: ``status`` is the HTTP status that answers it, ``reason`` a plain text
    that the peer may see. The caller answers and closes; the parser ignores whatever comes after. ``limit`` names the
    limit of `portico.Limits` that the message went over, if it was that."""

    __slots__ = ("limit", "reason", "status")

    def __init__(self, status: int, reason: str, limit: str = "") -> None:
        self.status = status
        self.reason = reason
        self.limit = limit

    def __repr__(self) -> str:
        return f"Rejected({self.status}, {self.reason!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rejected) and (self.status, self.reason) == (other.status, other.reason)

    def __hash__(self) -> int:
        return hash((self.status, self.reason))


class Bad(Exception):
    """Carries a Rejected up to the parser that will return it."""

    def __init__(self, status: int, reason: str, limit: str = "") -> None:
        super().__init__(reason)
        self.rejected = Rejected(status, reason, limit)


class Grammar:
    """What differs between the heads of requests and of responses.

    `check` gets the match of the first line and raises Bad where that line alone is reason to refuse.
    """

    __slots__ = ("check", "expected", "head", "line")

    def __init__(self, line: bytes, expected: str, check: Callable[[Line], None]) -> None:
        self.line = re.compile(line)
        self.head = re.compile(line + _FIELDS)
        self.expected = expected
        self.check = check


def request_grammar(check: Callable[[Line], None]) -> Grammar:
    return Grammar(_REQUEST_LINE, "METHOD TARGET HTTP/1.1", check)


def response_grammar(check: Callable[[Line], None]) -> Grammar:
    return Grammar(_STATUS_LINE, "HTTP/1.1 STATUS REASON", check)


class HeadReader:
    """Collects one head after another; between two it holds no bytes."""

    __slots__ = ("_empty_lines", "_grammar", "_line_passed", "_max_bytes", "_partial", "_scanned")

    def __init__(self, grammar: Grammar, max_bytes: int) -> None:
        self._grammar = grammar
        self._max_bytes = max_bytes
        self._partial: bytearray | None = None
        self._scanned = 0
        self._empty_lines = 0
        self._line_passed = False

    @property
    def started(self) -> bool:
        """Whether a head has begun and not ended; the CR of an empty line before it is no beginning."""
        return self._partial is not None and self._partial != b"\r"

    def fresh(self) -> bool:
        """Whether nothing was collected or skipped: the next byte is a message's first."""
        return self._partial is None and not self._empty_lines

    def take(self, data: bytes, pos: int) -> tuple[Line | None, bytes, int]:
        """Read on from ``data[pos:]``: the match of a whole and well-formed head, or None while it is partial, and
        the bytes and the place in them where the head's successor begins. Raises Bad."""
        if self._partial is not None:
            self._partial += data[pos:] if pos else data
            return self._take_partial(self._partial)
        if data[pos : pos + 1] == b"\r":
            pos = self._skip_empty_lines(data, pos)
        if pos >= len(data):
            return None, b"", 0
        end = data.find(_END, pos, pos + self._max_bytes)
        if end < 0:
            self._partial = bytearray(data[pos:])
            self._check_partial(self._partial)
            return None, b"", 0
        match = self._grammar.head.fullmatch(data, pos, end + 4)
        if match is None:
            raise self._diagnose(data[pos : end + 4])
        self._grammar.check(match)
        self._empty_lines = 0
        return match, data, end + 4

    def clear(self) -> None:
        """Drop what was collected."""
        self._partial = None
        self._scanned = 0
        self._line_passed = False

    def _take_partial(self, partial: bytearray) -> tuple[Line | None, bytes, int]:
        # The end may have come in with the last bytes only, so the search goes back three and never further.
        if partial.find(_END, max(0, self._scanned - 3), self._max_bytes) < 0 and (self._scanned or partial[0] != 13):
            self._check_partial(partial)
            return None, b"", 0
        self.clear()
        return self.take(bytes(partial), 0)

    def _skip_empty_lines(self, data: bytes, pos: int) -> int:
        """RFC 9112 §2.2: a server ignores at least one empty line before the request line."""
        while data.startswith(b"\r\n", pos):
            self._empty_lines += 1
            pos += 2
            if self._empty_lines > _MAX_EMPTY_LINES:
                raise Bad(400, f"more than {_MAX_EMPTY_LINES} empty lines before the message")
        return pos

    def _check_partial(self, partial: bytearray) -> None:
        """Refuse as soon as the bytes that are here allow it, without waiting for the head's end."""
        if partial == b"\r":
            return
        if _FIRST.match(partial) is None:
            raise self._diagnose(partial)
        limit = self._max_bytes
        if not self._line_passed:
            end = partial.find(b"\r\n", max(0, self._scanned - 1), limit)
            if end >= 0:
                self._check_line(bytes(partial[:end]))
                self._line_passed = True
        if len(partial) >= limit or _FORBIDDEN.search(partial, max(0, self._scanned - 1), limit):
            raise self._diagnose(partial[:limit])
        self._scanned = len(partial)

    def _check_line(self, line: bytes) -> None:
        match = self._grammar.line.fullmatch(line)
        if match is None:
            found = _FORBIDDEN.search(line + b"\r\n")
            if found is not None:
                raise _forbidden(found)
            raise Bad(400, f"malformed first line: expected {self._grammar.expected}")
        self._grammar.check(match)

    def _diagnose(self, head: bytes | bytearray) -> Bad:
        """Why `head` can't be accepted: the first violation in it. `head` is whole, or as long as one may be."""
        head = bytes(head)
        if _FIRST.match(head) is None:
            return _not_http(head)
        end = head.find(b"\r\n")
        if end >= 0:
            try:
                self._check_line(head[:end])
            except Bad as bad:
                return bad
        found = _FORBIDDEN.search(head)
        if found is not None:
            return _forbidden(found)
        if not head.endswith(_END):
            if end < 0:
                return Bad(414, f"the first line is longer than {self._max_bytes} bytes", "max_head_bytes")
            return Bad(431, f"the head is longer than {self._max_bytes} bytes", "max_head_bytes")
        for line in head[end + 2 : -4].split(b"\r\n"):
            check_field_line(line)
        return Bad(400, "malformed head")


def check_field_line(line: bytes) -> None:
    """Raise Bad where `line` is no ``name: value`` (RFC 9112 §5)."""
    if line[:1] in (b" ", b"\t"):
        raise Bad(400, "a header line begins with white space: line folding is obsolete (RFC 9112 §5.2)")
    name, colon, value = line.partition(b":")
    if not colon:
        raise Bad(400, "a header line has no colon")
    if name[-1:] in (b" ", b"\t"):
        raise Bad(400, "white space between a header name and its colon (RFC 9112 §5.1)")
    if _NAME.fullmatch(name) is None:
        raise Bad(400, "a header name is not a token (RFC 9110 §5.1)")
    found = _FORBIDDEN.search(value + b"\r\n")
    if found is not None:
        raise _forbidden(found)


def _forbidden(found: re.Match[bytes]) -> Bad:
    what = {b"\r": "a CR without LF", b"\n": "a LF without CR"}.get(found[0], "a control character")
    return Bad(400, f"{what} in the head (RFC 9112 §2.2, RFC 9110 §5.5)")


def _not_http(head: bytes) -> Bad:
    if head[:1] == b"\x16":
        return Bad(400, "this looks like TLS, and this port expects plain HTTP: use http:// or ws://")
    return Bad(400, "this is not HTTP/1.1: the first byte can't begin a message")
