"""What a head means: for its message, where the body ends; for its connection, whether that stays, or asks to switch.

`head` has checked every byte of it; llhttp (httptools) then reads the fields, as a second opinion. Anything ambiguous
is refused here. What nearly all requests are, `scan` reads at once: `scanned_head`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import unquote

import httptools

from portico.errors import LocalError
from portico.wire.head import Bad, Line, request_grammar, response_grammar
from portico.wire.headers import Raw, split_tokens
from portico.wire.scan import Scanned

# RFC 3986 §3.2.2 and §3.2.3: an IPv6 address in brackets, or a name, and maybe a port. A name might have a comma; two
# lines that were joined do have one, so it is none.
_NAME = rb"(?:[0-9A-Za-z\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})++"
_AUTHORITY = re.compile(rb"(?:\[([0-9A-Fa-f:.]++)\]|" + _NAME + rb")(?::([0-9]{0,5}))?")
_ABSOLUTE = re.compile(rb"https?://([^/?]*+)([^?]*+)((?:\?.*+)?)", re.IGNORECASE)
_DIGITS = re.compile(rb"[0-9]+")
_MAX_LENGTH_DIGITS: Final = 18

_KNOWN: Final = frozenset([b"host", b"connection", b"upgrade", b"content-length", b"transfer-encoding", b"expect"])
_NONE: Final[list[bytes]] = []


class RequestHead:
    """A request's first line and fields.

    - ``method``; ``target`` as sent; ``raw_path`` and ``query``, cut out of it; ``path``, percent-decoded;
      ``version``, "1.0" or "1.1".
    - ``headers``: names in lower case, values without white space around them, in the order they came.
    - ``raw``: the whole head as it came, with its empty line.
    - ``keep_alive``: whether the connection may carry another request after this one (RFC 9112 §9.3).
    - ``expect_continue``: the client waits for ``100 Continue`` before it sends the body (RFC 9110 §10.1.1).
    - ``content_length`` (None where not said) and ``chunked``: how the body's end is known (RFC 9112 §6).
    - ``upgrade``: a well-formed request to switch to WebSocket (RFC 6455 §4.1), or nearly: `handshake` checks it.
      Nothing after it is parsed.
    - ``websocket_hint``: an Upgrade header that names websocket, or any Sec-WebSocket header, is there.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "expect_continue",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "raw",
        "raw_path",
        "target",
        "upgrade",
        "version",
        "websocket_hint",
    )

    method: str
    target: bytes
    raw_path: bytes
    path: str
    query: bytes
    version: str
    headers: Raw
    raw: bytes
    keep_alive: bool
    expect_continue: bool
    content_length: int | None
    chunked: bool
    upgrade: bool
    websocket_hint: bool

    def __repr__(self) -> str:
        return f"RequestHead({self.method} {self.target!r} HTTP/{self.version}, {self.headers!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RequestHead) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)


class ResponseHead:
    """A response's first line and fields; `raw` is the whole head as it came; the rest as in `RequestHead`."""

    __slots__ = ("chunked", "content_length", "headers", "keep_alive", "raw", "reason", "status", "version")

    def __init__(self, status: int, reason: str, version: str, headers: Raw, raw: bytes, keep_alive: bool) -> None:
        self.status = status
        self.reason = reason
        self.version = version
        self.headers = headers
        self.raw = raw
        self.keep_alive = keep_alive
        self.chunked = False
        self.content_length: int | None = None

    def __repr__(self) -> str:
        return f"ResponseHead({self.status} {self.reason!r}, {self.headers!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResponseHead) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)


class _Fields:
    """What llhttp finds in a head that `head` has found well-formed. A parser for each head: none is kept."""

    __slots__ = ("headers", "refused")

    def __init__(self, raw: bytes, max_headers: int, *, response: bool = False) -> None:
        self.headers: Raw = []
        self.refused = False
        parser = httptools.HttpResponseParser(self) if response else httptools.HttpRequestParser(self)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserInvalidMethodError:
            raise Bad(501, "unknown method (RFC 9110 §9.1)") from None
        except httptools.HttpParserError:
            # Our own checks of these lines say what is wrong with them; llhttp's word counts where they don't.
            self.refused = True
            pairs = [line.partition(b":") for line in raw[:-4].split(b"\r\n")[1:]]
            self.headers = [(name.lower(), value.strip(b" \t")) for name, _, value in pairs]
        if len(self.headers) > max_headers:
            raise Bad(431, f"the head has more than {max_headers} header lines", "max_headers")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def finish(self) -> None:
        if self.refused:
            raise Bad(400, "malformed head")


def _check_request_line(line: Line) -> None:
    method, target, version = line.group(1, 2, 3)
    if version not in (b"1.1", b"1.0"):
        raise Bad(505, "expected HTTP/1.1 or HTTP/1.0")
    if method == b"CONNECT":
        raise Bad(501, "CONNECT is not implemented: this is not a proxy")
    if target[:1] != b"/" and (target != b"*" or method != b"OPTIONS"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Bad(400, "malformed request target: expected a path that begins with / (RFC 9112 §3.2)")
        if not _is_authority(absolute[1]):
            raise Bad(400, "malformed request target: expected a host and maybe a port (RFC 9110 §4.2.1)")
    if b"#" in target:
        raise Bad(400, "malformed request target: a fragment is not sent (RFC 9112 §3.2)")


def _check_status_line(line: Line) -> None:
    if line[1] not in (b"1.1", b"1.0"):
        raise Bad(400, "expected HTTP/1.1 or HTTP/1.0")


REQUEST: Final = request_grammar(_check_request_line)
RESPONSE: Final = response_grammar(_check_status_line)


def parse_request_head(raw: bytes) -> RequestHead:
    """The head that a `RequestParser` has once returned with this ``raw``."""
    line = REQUEST.head.fullmatch(raw)
    if line is None:
        raise LocalError("expected the raw head of a request that was accepted")
    return request_head(line, raw.count(b"\n"))


def scanned_head(scanned: Scanned, raw: bytes) -> RequestHead:
    """The head that `scan_request` has read at once; `raw` is the whole of it."""
    head = RequestHead()
    head.raw = raw
    _, head.method, head.target, head.raw_path, path, head.query, head.headers, length = scanned[:8]
    head.keep_alive, head.websocket_hint, head.upgrade = scanned[8:]
    head.path = unquote(head.raw_path.decode("ascii")) if path is None else path
    head.version = "1.1"
    head.content_length = length
    head.chunked = head.expect_continue = False
    return head


def request_head(line: Line, max_headers: int) -> RequestHead:
    """What a well-formed head means, with its match; raises Bad."""
    head = RequestHead()
    raw = head.raw = line[0]
    method, target, version = line.group(1, 2, 3)
    fields = _Fields(raw, max_headers)
    head.headers = fields.headers
    head.method = method.decode("ascii")
    head.target = target
    head.version = "1.1" if version == b"1.1" else "1.0"
    authority = None
    if target[:1] == b"/" or target == b"*":
        path, _, head.query = target.partition(b"?")
    else:
        authority, path, query = _ABSOLUTE.fullmatch(target).group(1, 2, 3)  # type: ignore[union-attr]  # was checked
        path, head.query = path or b"/", query[1:]
    head.raw_path = path
    text = path.decode("ascii")
    head.path = unquote(text) if "%" in text else text
    _interpret(head, authority)
    fields.finish()
    return head


def _interpret(head: RequestHead, authority: bytes | None) -> None:
    """What the fields mean for this message and its connection; raises Bad where they contradict each other."""
    known = _known(head.headers)
    modern = head.version == "1.1"
    _check_host(known.get(b"host", _NONE), authority, required=modern)
    connection = _connection(known)
    head.keep_alive = b"close" not in connection and (modern or b"keep-alive" in connection)
    head.chunked = _chunked(known, modern)
    head.content_length = _content_length(known)
    websocket = b"upgrade" in known and any(b"websocket" in split_tokens(value) for value in known[b"upgrade"])
    head.websocket_hint = websocket or any(name.startswith(b"sec-websocket-") for name, _ in head.headers)
    head.upgrade = websocket and modern and head.method == "GET" and b"upgrade" in connection
    head.expect_continue = False
    if b"expect" in known and modern:  # RFC 9110 §10.1.1: ignored in an HTTP/1.0 request
        if [value.lower() for value in known[b"expect"]] != [b"100-continue"]:
            raise Bad(417, "unknown expectation: only 100-continue is implemented (RFC 9110 §10.1.1)")
        head.expect_continue = head.chunked or bool(head.content_length)


def _known(headers: Raw) -> dict[bytes, list[bytes]]:
    """The values of the fields that say something about the message or its connection."""
    known: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _KNOWN:
            known.setdefault(name, []).append(value)
    return known


def _connection(known: dict[bytes, list[bytes]]) -> list[bytes]:
    return [token for value in known.get(b"connection", _NONE) for token in split_tokens(value)]


def _check_host(hosts: list[bytes], authority: bytes | None, *, required: bool) -> None:
    """RFC 9112 §3.2: one Host line, well-formed, and the same as in a target that names a host (§3.2.2)."""
    if not hosts:
        if required:
            raise Bad(400, "no Host header (RFC 9112 §3.2)")
        return
    if len(hosts) > 1:
        raise Bad(400, "more than one Host header (RFC 9112 §3.2)")
    if hosts[0] and not _is_authority(hosts[0]):
        raise Bad(400, "malformed Host header (RFC 9112 §3.2)")
    if authority is not None and authority.lower() != hosts[0].lower():
        raise Bad(400, "the request target and the Host header name two hosts (RFC 9112 §3.2.2)")


def _is_authority(text: bytes) -> bool:
    found = _AUTHORITY.fullmatch(text)
    if found is None or int(found[2] or 0) > 65535:
        return False
    try:
        return found[1] is None or bool(ipaddress.IPv6Address(found[1].decode("ascii")))
    except ValueError:
        return False


def _chunked(known: dict[bytes, list[bytes]], modern: bool) -> bool:
    """Whether the body is chunked; anything beside exactly that is refused (RFC 9112 §6.1)."""
    values = known.get(b"transfer-encoding")
    if values is None:
        return False
    if not modern:
        raise Bad(400, "Transfer-Encoding in an HTTP/1.0 message (RFC 9112 §6.1)")
    if b"content-length" in known:
        raise Bad(400, "both Content-Length and Transfer-Encoding (RFC 9112 §6.3)")
    if len(values) == 1 and values[0].lower() == b"chunked":
        return True
    codings = [coding for value in values for coding in split_tokens(value)]
    if not codings or codings == [b"chunked"] or b"chunked" in codings[:-1]:
        raise Bad(400, "Transfer-Encoding: chunked may stand only once and last (RFC 9112 §6.1)")
    raise Bad(501, "unknown transfer coding: only chunked is implemented (RFC 9112 §6.1)")


def _content_length(known: dict[bytes, list[bytes]]) -> int | None:
    values = known.get(b"content-length")
    if values is None:
        return None
    if len(values) > 1:
        raise Bad(400, "more than one Content-Length header (RFC 9112 §6.3)")
    if _DIGITS.fullmatch(values[0]) is None:
        raise Bad(400, "malformed Content-Length: expected digits only (RFC 9110 §8.6)")
    if len(values[0]) > _MAX_LENGTH_DIGITS:
        raise Bad(413, f"Content-Length has more than {_MAX_LENGTH_DIGITS} digits")
    return int(values[0])


def response_head(line: Line, max_headers: int) -> ResponseHead:
    """What a well-formed response's head means, with its match; raises Bad. An interim one has no body."""
    fields = _Fields(line[0], max_headers, response=True)
    known = _known(fields.headers)
    modern = line[1] == b"1.1"
    status = int(line[2])
    head = ResponseHead(
        status, (line[3] or b"").decode("latin-1"), "1.1" if modern else "1.0", fields.headers, line[0], True
    )
    if status >= 200:
        connection = _connection(known)
        head.keep_alive = b"close" not in connection and (modern or b"keep-alive" in connection)
        head.chunked, head.content_length = _chunked(known, modern), _content_length(known)
        fields.finish()
    return head
