"""HTTP/1.1 messages out of bytes (RFC 9112): requests for a server, responses for a client.

llhttp (httptools) parses each head, after `head` has checked every byte of it; what a head means for the connection
(where its body ends, whether it stays, whether it asks to switch) is decided here, and anything ambiguous is refused.
Between two messages a parser holds no bytes. Never answers by itself: refusals are returned as `Rejected`.
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar
from urllib.parse import unquote

import httptools

from portico.errors import LocalError
from portico.limits import Limits
from portico.wire.bodies import Body, ChunkedBody, LengthBody, UnboundedBody
from portico.wire.head import Bad, Grammar, HeadReader, Line, Rejected, request_grammar, response_grammar
from portico.wire.headers import Raw, split_tokens
from portico.wire.responses import simple_response, status_line

__all__ = [
    "END",
    "End",
    "Rejected",
    "RequestHead",
    "RequestParser",
    "ResponseHead",
    "ResponseParser",
    "parse_request_head",
    "simple_response",
    "status_line",
]

# RFC 3986 §3.2.2 and §3.2.3, without a look inside the brackets: an address literal, or a name, and maybe a port.
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Za-z:.%~_\-]++\]|[0-9A-Za-z\-._~%!$&'()*+,;=]++)?(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?]*+)([^?]*+)((?:\?.*+)?)", re.IGNORECASE)
_DIGITS = re.compile(rb"[0-9]+")
_MAX_LENGTH_DIGITS: Final = 18

_KNOWN: Final = frozenset([b"host", b"connection", b"upgrade", b"content-length", b"transfer-encoding", b"expect"])
_NONE: Final[list[bytes]] = []


class End:
    """The one event ``END``: the message that began with the last head is complete."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "END"


END: Final = End()


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
    """A response's first line and fields; `raw` is the whole head as it came."""

    __slots__ = ("headers", "keep_alive", "raw", "reason", "status", "version")

    def __init__(self, status: int, reason: str, version: str, headers: Raw, raw: bytes, keep_alive: bool) -> None:
        self.status = status
        self.reason = reason
        self.version = version
        self.headers = headers
        self.raw = raw
        self.keep_alive = keep_alive

    def __repr__(self) -> str:
        return f"ResponseHead({self.status} {self.reason!r}, {self.headers!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResponseHead) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)


RequestEvent = RequestHead | bytes | End | Rejected
ResponseEvent = ResponseHead | bytes | End | Rejected

Head = TypeVar("Head", RequestHead, ResponseHead)


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
            raise Bad(431, f"the head has more than {max_headers} header lines")

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
    if target[:1] != b"/" and _ABSOLUTE.fullmatch(target) is None and (target != b"*" or method != b"OPTIONS"):
        raise Bad(400, "malformed request target: expected a path that begins with / (RFC 9112 §3.2)")
    if b"#" in target:
        raise Bad(400, "malformed request target: a fragment is not sent (RFC 9112 §3.2)")


def _check_status_line(line: Line) -> None:
    if line[1] not in (b"1.1", b"1.0"):
        raise Bad(400, "expected HTTP/1.1 or HTTP/1.0")


_REQUEST = request_grammar(_check_request_line)
_RESPONSE = response_grammar(_check_status_line)


def parse_request_head(raw: bytes) -> RequestHead:
    """The head that a `RequestParser` has once returned with this ``raw``."""
    line = _REQUEST.head.fullmatch(raw)
    if line is None:
        raise LocalError("expected the raw head of a request that was accepted")
    return _request_head(line, raw.count(b"\n"))


def _request_head(line: Line, max_headers: int) -> RequestHead:
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
    if _AUTHORITY.fullmatch(hosts[0]) is None:
        raise Bad(400, "malformed Host header (RFC 9112 §3.2)")
    if authority is not None and authority.lower() != hosts[0].lower():
        raise Bad(400, "the request target and the Host header name two hosts (RFC 9112 §3.2.2)")


def _chunked(known: dict[bytes, list[bytes]], modern: bool) -> bool:
    """Whether the body is chunked; anything beside exactly that is refused (RFC 9112 §6.1)."""
    values = known.get(b"transfer-encoding")
    if values is None:
        return False
    if not modern:
        raise Bad(400, "Transfer-Encoding in an HTTP/1.0 message (RFC 9112 §6.1)")
    if b"content-length" in known:
        raise Bad(400, "both Content-Length and Transfer-Encoding (RFC 9112 §6.3)")
    codings = [coding for value in values for coding in split_tokens(value)]
    if codings == [b"chunked"]:
        return True
    if not codings or b"chunked" in codings[:-1]:
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


class _Parser(Generic[Head]):
    """What both directions share: heads, bodies, the end, and being done for good."""

    __slots__ = ("_body", "_closed", "_keep_alive", "_limits", "_reader", "_tail")

    _kind = "message"

    def __init__(self, limits: Limits, grammar: Grammar) -> None:
        self._limits = limits
        self._reader = HeadReader(grammar, limits.max_head_bytes)
        self._body: Body | None = None
        self._keep_alive = True
        self._closed = False
        self._tail: bytearray | None = None

    @property
    def idle(self) -> bool:
        """Whether no message has begun: the next byte begins a new one."""
        return self._body is None and not self._closed and self._tail is None and not self._reader.started

    @property
    def in_head(self) -> bool:
        """Whether a head has begun and not ended."""
        return not self._closed and self._reader.started

    def tail(self) -> bytes:
        """The bytes that have come after the head that switches the protocol; they are given once."""
        tail = bytes(self._tail or b"")
        if tail:
            self._tail = bytearray()
        return tail

    def feed(self, data: bytes | bytearray | memoryview) -> list[Head | bytes | End | Rejected]:
        """The events that `data` completes; any chunking gives the same ones, save where a body's pieces are cut.

        The caller answers a Rejected and closes; after a head that switches the protocol it gives `tail` and all
        further bytes to whom it switches to.
        """
        events: list[Head | bytes | End | Rejected] = []
        if self._tail is not None:
            self._tail += data
            return events
        data = bytes(data)
        pos = 0
        try:
            while pos < len(data) and not self._closed:
                if self._body is not None:
                    pos = self._take_body(self._body, data, pos, events)
                    continue
                line, data, pos = self._reader.take(data, pos)
                if line is not None and self._begin(line, events):
                    self._tail = bytearray(data[pos:])
                    break
        except Bad as bad:
            self._close()
            events.append(bad.rejected)
        return events

    def feed_eof(self) -> list[Head | bytes | End | Rejected]:
        """The peer sends no more: a Rejected where it stopped inside a message, END where a body had no other end,
        else nothing."""
        if self._closed or self._tail is not None:
            return []
        body = self._body
        inside = "body" if body is not None else "head" if self._reader.started else ""
        self._close()
        if isinstance(body, UnboundedBody):
            return [END]
        return [Rejected(400, f"the connection ended inside a {self._kind}'s {inside}")] if inside else []

    def _begin(self, line: Line, events: list[Head | bytes | End | Rejected]) -> bool:
        """Append the head and choose its body; returns whether it switches the protocol."""
        raise NotImplementedError

    def _take_body(self, body: Body, data: bytes, pos: int, events: list[Head | bytes | End | Rejected]) -> int:
        """Append what ``data[pos:]`` holds of the body as one piece; returns where the body stopped."""
        pieces: list[bytes] = []
        try:
            pos = body.take(data, pos, pieces)
        finally:  # what came before a malformed chunk was the body's all the same
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if piece:
                events.append(piece)
        if body.done:
            self._finish(events)
        return pos

    def _finish(self, events: list[Head | bytes | End | Rejected]) -> None:
        events.append(END)
        self._body = None
        if not self._keep_alive:
            self._close()

    def _close(self) -> None:
        self._closed = True
        self._body = None
        self._reader.clear()


class RequestParser(_Parser[RequestHead]):
    """The server's side: requests out of one connection's bytes.

    The events of a request are its `RequestHead`, its body's pieces as ``bytes``, and ``END``; a head with ``upgrade``
    is the last event. `Rejected` ends everything; so does a request without ``keep_alive``: bytes after it are
    ignored (RFC 9112 §9.6).
    """

    __slots__ = ()

    _kind = "request"

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits, _REQUEST)

    def _begin(self, line: Line, events: list[RequestEvent]) -> bool:
        head = _request_head(line, self._limits.max_headers)
        events.append(head)
        if head.upgrade:
            return True
        self._keep_alive = head.keep_alive
        if head.chunked:
            self._body = ChunkedBody(self._limits.max_head_bytes, self._limits.max_headers)
        elif head.content_length:
            self._body = LengthBody(head.content_length)
        else:
            self._finish(events)
        return False


class ResponseParser(_Parser[ResponseHead]):
    """The client's side: responses out of one connection's bytes.

    The events of a response are its `ResponseHead`, its body's pieces, and ``END``. Interim responses are skipped
    (RFC 9110 §15.2), save 101, which is the last event. A Rejected's ``status`` says nothing here. With `head_only`
    the requests were HEAD, so that no response has a body (RFC 9112 §6.3).
    """

    __slots__ = ("_head_only",)

    _kind = "response"

    def __init__(self, limits: Limits, *, head_only: bool = False) -> None:
        super().__init__(limits, _RESPONSE)
        self._head_only = head_only

    def _begin(self, line: Line, events: list[ResponseEvent]) -> bool:
        raw = line[0]
        status = int(line[2])
        fields = _Fields(raw, self._limits.max_headers, response=True)
        headers = fields.headers
        if status == 101:
            events.append(ResponseHead(status, (line[3] or b"").decode("latin-1"), "1.1", headers, raw, True))
            return True
        if status < 200:
            return False
        known = _known(headers)
        modern = line[1] == b"1.1"
        connection = _connection(known)
        self._keep_alive = b"close" not in connection and (modern or b"keep-alive" in connection)
        chunked, length = _chunked(known, modern), _content_length(known)
        fields.finish()
        reason = (line[3] or b"").decode("latin-1")
        events.append(ResponseHead(status, reason, "1.1" if modern else "1.0", headers, raw, self._keep_alive))
        if self._head_only or status in (204, 304) or length == 0:
            self._finish(events)
        elif chunked:
            self._body = ChunkedBody(self._limits.max_head_bytes, self._limits.max_headers)
        else:
            self._body = UnboundedBody() if length is None else LengthBody(length)
        return False
