"""HTTP/1.1 messages out of bytes (RFC 9112): requests for a server, responses for a client.

A head comes to `framing`, which says what it means, and to `bodies`, which take what follows. Between two messages a
parser holds no bytes. Never answers by itself: refusals are returned as `Rejected`.
"""

from __future__ import annotations

from typing import Any, Final

from portico.limits import Limits
from portico.wire.bodies import Body, ChunkedBody, LengthBody, UnboundedBody
from portico.wire.framing import (
    REQUEST,
    RESPONSE,
    RequestHead,
    ResponseHead,
    parse_request_head,
    request_head,
    response_head,
    scanned_head,
)
from portico.wire.head import Bad, Grammar, HeadReader, Line, Rejected
from portico.wire.responses import simple_response, status_line
from portico.wire.scan import scan_request

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


class End:
    """The one event ``END``: the message that began with the last head is complete."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "END"


END: Final = End()


RequestEvent = RequestHead | bytes | End | Rejected
ResponseEvent = ResponseHead | bytes | End | Rejected


class Parser:
    """What both directions share: heads, bodies, the end, and being done for good."""

    __slots__ = ("_body", "_closed", "_keep_alive", "_limits", "_reader", "_tail", "taken")

    _kind = "message"

    def __init__(self, limits: Limits, grammar: Grammar) -> None:
        self._limits = limits
        self._reader = HeadReader(grammar, limits.max_head_bytes)
        self._body: Body | None = None
        self._keep_alive = True
        self._closed = False
        self._tail: bytearray | None = None
        self.taken = 0

    @property
    def idle(self) -> bool:
        """Whether no message has begun: the next byte begins a new one."""
        return self._body is None and not self._closed and self._tail is None and not self._reader.started

    @property
    def in_head(self) -> bool:
        """Whether a head has begun and not ended."""
        return not self._closed and self._reader.started

    def body_left(self) -> int:
        """How many of the next bytes belong to the body that has begun, at least; 0 in a head or between messages."""
        return 0 if self._body is None else self._body.left

    def tail(self) -> bytes:
        """The bytes that have come after the head that switches the protocol; they are given once."""
        tail = bytes(self._tail or b"")
        if tail:
            self._tail = bytearray()
        return tail

    def feed(self, data: bytes | bytearray | memoryview, one: bool = False) -> list[Any]:
        """The events that `data` completes; any chunking gives the same ones, save where a body's pieces are cut. With
        `one` it stops behind the end of a message, and ``taken`` says how much of `data` that was.

        The caller answers a Rejected and closes; after a head that switches the protocol it gives `tail` and all
        further bytes to whom it switches to.
        """
        events: list[Any] = []
        self.taken = size = len(data)
        if self._tail is not None:
            self._tail += data
            return events
        data = bytes(data)
        pos = 0
        try:
            while pos < len(data) and not self._closed:
                if one and events and events[-1] is END:
                    self.taken = size - (len(data) - pos)
                    break
                if self._body is not None:
                    pos = self._take_body(self._body, data, pos, events)
                    continue
                if self._reader.fresh():
                    end = self._plain(data, pos, events)
                    if end:
                        pos = end
                        if self._switched():
                            break
                        continue
                line, data, pos = self._reader.take(data, pos)
                if line is not None and self._begin(line, events):
                    self._tail = bytearray(data[pos:])
                    break
        except Bad as bad:
            self._close()
            events.append(bad.rejected)
        return events

    def feed_eof(self) -> list[Any]:
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

    def _switched(self) -> bool:
        return self._tail is not None

    def _plain(self, data: bytes, pos: int, events: list[Any]) -> int:
        """Take a head at once, if it is a plain one that begins at ``data[pos]``; returns where it ends, or 0."""
        return 0

    def _begin(self, line: Line, events: list[Any]) -> bool:
        """Append the head and choose its body; returns whether it switches the protocol."""
        raise NotImplementedError

    def _take_body(self, body: Body, data: bytes, pos: int, events: list[Any]) -> int:
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

    def _finish(self, events: list[Any]) -> None:
        events.append(END)
        self._body = None
        if not self._keep_alive:
            self._close()

    def _close(self) -> None:
        self._closed = True
        self._body = None
        self._reader.clear()


class RequestParser(Parser):
    """The server's side: requests out of one connection's bytes.

    The events of a request are its `RequestHead`, its body's pieces as ``bytes``, and ``END``; a head with ``upgrade``
    is the last event. `Rejected` ends everything; so does a request without ``keep_alive``: bytes after it are
    ignored (RFC 9112 §9.6).
    """

    __slots__ = ("_max_head", "_max_headers")

    _kind = "request"

    def __init__(self, limits: Limits) -> None:
        Parser.__init__(self, limits, REQUEST)
        self._max_head = limits.max_head_bytes
        self._max_headers = limits.max_headers

    def _plain(self, data: bytes, pos: int, events: list[Any]) -> int:
        scanned = scan_request(data, pos, self._max_head, self._max_headers)
        if scanned is None:
            return 0
        end: int = scanned[0]
        head = scanned_head(scanned, data[pos:end])
        if head.upgrade:
            events.append(head)
            self._tail = bytearray(data[end:])
        else:
            self._accept(head, events)
        return end

    def _begin(self, line: Line, events: list[Any]) -> bool:
        head = request_head(line, self._limits.max_headers)
        if head.upgrade:
            events.append(head)
            return True
        self._accept(head, events)
        return False

    def _accept(self, head: RequestHead, events: list[Any]) -> None:
        events.append(head)
        self._keep_alive = head.keep_alive
        if head.chunked:
            self._body = ChunkedBody(self._limits.max_head_bytes, self._limits.max_headers)
        elif head.content_length:
            self._body = LengthBody(head.content_length)
        else:
            self._finish(events)


class ResponseParser(Parser):
    """The client's side: responses out of one connection's bytes.

    The events of a response are its `ResponseHead`, its body's pieces, and ``END``. Interim responses are skipped
    (RFC 9110 §15.2), save 101, which is the last event. A Rejected's ``status`` says nothing here. With `head_only`
    the requests were HEAD, so that no response has a body (RFC 9112 §6.3).
    """

    __slots__ = ("_head_only",)

    _kind = "response"

    def __init__(self, limits: Limits, *, head_only: bool = False) -> None:
        Parser.__init__(self, limits, RESPONSE)
        self._head_only = head_only

    def _begin(self, line: Line, events: list[Any]) -> bool:
        head = response_head(line, self._limits.max_headers)
        if head.status < 200 and head.status != 101:
            return False
        events.append(head)
        if head.status == 101:
            return True
        self._keep_alive = head.keep_alive
        length = head.content_length
        if self._head_only or head.status in (204, 304) or length == 0:
            self._finish(events)
        elif head.chunked:
            self._body = ChunkedBody(self._limits.max_head_bytes, self._limits.max_headers)
        else:
            self._body = UnboundedBody() if length is None else LengthBody(length)
        return False
