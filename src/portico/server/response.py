"""One response on its way out (RFC 9112): its head, the framing of its body, trailers, and what may come before it.

Nothing that an application gives can split a response or contradict its framing: it raises instead. Owns no request and
waits for nothing; `exchange` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from portico.errors import LocalError
from portico.wire.headers import encode_headers, split_tokens
from portico.wire.responses import status_line
from portico.wire.scan import pack_fields

if TYPE_CHECKING:
    from portico.net.stream import Stream
    from portico.server.connection import HttpConnection
    from portico.wire.http1 import RequestHead

CHUNKED: Final = b"transfer-encoding: chunked\r\n"
CLOSE: Final = b"connection: close\r\n"
KEEP_ALIVE: Final = b"connection: keep-alive\r\n"
CRLF: Final = b"\r\n"
JOINED_BYTES: Final = 32 * 1024  # a piece that is longer is not copied to stand behind the head
NO_TRAILERS: Final = frozenset(  # RFC 9110 §6.5.1: framing, routing, and what was needed before
    b"connection content-encoding content-length content-range content-type host set-cookie te trailer "
    b"transfer-encoding".split()
)


class Response:
    """The answer to one request.

    - ``keep_alive``: whether another request may follow. ``started``: a part of it is written. ``over``: all that there
      will be. ``status`` (0 before the start) and ``sent``, the bytes of its body, are there for the log.
    """

    __slots__ = (
        "_announced",
        "_body_complete",
        "_body_ended",
        "_chunked",
        "_connection",
        "_dated",
        "_fields",
        "_left",
        "_no_body",
        "_server",
        "_trailers",
        "_trailers_said",
        "head",
        "keep_alive",
        "over",
        "sent",
        "started",
        "status",
        "stream",
    )

    def _set_up(self, connection: HttpConnection, head: RequestHead) -> None:
        self._connection = connection
        self._server = connection.server
        self.stream: Stream = connection.stream
        self.head = head
        self.keep_alive = head.keep_alive
        self.started = False
        self.over = False
        self.status = 0
        self.sent = 0
        self._body_complete = False  # the request's
        self._fields = b""
        self._dated = False
        self._announced = False  # a Content-Length stands in the head
        self._left = 0  # bytes of the body that the Content-Length still wants
        self._chunked = False
        self._no_body = False
        self._body_ended = False  # the response's; only trailers may follow
        self._trailers_said = False  # the application will give some
        self._trailers: list[bytes] | None = None  # those that it gave; None: none will be sent

    @property
    def bodiless(self) -> bool:
        """Whether the response has no body, whatever is given for one."""
        return self._no_body

    # -- the head ------------------------------------------------------------------------------------------------

    def prepare(self, message: dict[str, Any]) -> None:
        """Check what the application begins with, and keep it until the first piece of the body tells how that is
        framed. Raises LocalError."""
        if self.status:
            raise LocalError("http.response.start sent twice")
        status = message["status"]
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise LocalError(f"status {status!r}: expected a number from 200 to 999")
        headers = message.get("headers", ())
        lines = headers if type(headers) is list else list(headers)
        if status == 204:  # RFC 9110 §8.6: it has no Content-Length; some applications say 0 all the same
            lines = [line for line in lines if bytes(line[0]).lower() != b"content-length"]
        packed = pack_fields(lines)
        keep_alive = self.keep_alive
        if packed is None:
            fields, length, dated, keep_alive = check_lines(lines, keep_alive)
        else:
            fields, length, dated = packed
        self._no_body = status == 204 or status == 304 or self.head.method == "HEAD"
        if length is not None:
            self._announced = True
            self._left = length
        if message.get("trailers", False):
            self._trailers_said = True
            if not self._announced and self._takes_trailers():
                self._trailers = []
        self._fields = fields
        self._dated = dated
        self.keep_alive = keep_alive
        self.status = status

    def _takes_trailers(self) -> bool:
        """Whether the client said that it reads trailers (RFC 9110 §6.5.1); others don't get them."""
        if self._no_body or self.head.version != "1.1":
            return False
        return any(b"trailers" in split_tokens(value) for name, value in self.head.headers if name == b"te")

    def _head_bytes(self, size: int, more: bool) -> bytes:
        """The response's head; how its body is framed (RFC 9112 §6) is decided here. `size`: of the first piece."""
        server = self._server
        parts = [status_line(self.status), self._fields]
        if not (self._announced or self._no_body):
            if not more and self._trailers is None:
                self._left = size
                self._announced = True
                parts.append(b"content-length: %d\r\n" % size)
            elif self.head.version == "1.1":
                self._chunked = True
                parts.append(CHUNKED)
            else:
                self.keep_alive = False
        if not self._dated:
            parts.append(server.dates.line())
        if server.stopping or not (more or self._body_complete):
            self.keep_alive = False  # a body that nobody read may be long: the connection ends rather than read it
        if not self.keep_alive:
            parts.append(CLOSE)
        elif self.head.version == "1.0":
            parts.append(KEEP_ALIVE)
        parts.append(CRLF)
        return b"".join(parts)

    def announce(self, size: int) -> None:
        """The body's size is known before its first piece: it stands in the head."""
        if self.status == 204 or self.status == 304 or self.started or self._trailers is not None:
            return
        if not self._announced:
            self._announced = True
            self._left = size
            self._fields += b"content-length: %d\r\n" % size

    # -- the body ------------------------------------------------------------------------------------------------

    def chunks(self, more: bool) -> bool:
        """Whether the next piece of the body is a chunk; `more`: whether others follow it."""
        if self.started:
            return self._chunked
        return self.head.version == "1.1" and not self._announced and (more or self._trailers is not None)

    def frame(self, size: int, more: bool) -> bytes:
        """What goes before a piece of `size` bytes of the body: the head before the first one, a chunk's first line.
        Raises LocalError where the piece does not fit the Content-Length."""
        if self._announced and not self._no_body and (size > self._left or (size < self._left and not more)):
            self._misframed("longer" if size > self._left else "shorter")
        before = b""
        if not self.started:
            before = self._head_bytes(size, more)
            self.started = True
        self.sent += size
        if self._chunked and size:
            before += b"%x\r\n" % size
        elif self._announced:
            self._left -= size
        return before

    def write(self, piece: bytes, more: bool) -> bool:
        """Write a piece of the body, and what goes around it; returns whether the response is complete."""
        if self._body_ended:
            raise LocalError("http.response.body after the body's last piece: expected http.response.trailers")
        self._body_ended = not more
        if self._no_body:
            piece = b""
        before = self.frame(len(piece), more)
        if not self._chunked:
            if before and len(piece) > JOINED_BYTES:
                self.stream.write(before)
                before = b""
            self.stream.write(before + piece if before else piece)
            return not more
        after = CRLF if piece else b""
        if not more and self._trailers is None:
            after += b"0\r\n\r\n"
        self.stream.write(before + piece + after)
        return not more and self._trailers is None

    def write_trailers(self, headers: Iterable[Any], more: bool) -> bool:
        """Trailer fields, after the body's end; returns whether the response is complete."""
        if not self._trailers_said:
            raise LocalError("http.response.trailers: expected 'trailers': True in http.response.start")
        if not self._body_ended:
            raise LocalError("http.response.trailers: expected after the body's last piece")
        lines = [(bytes(name), bytes(value)) for name, value in headers]
        for name, _ in lines:
            if name.lower() in NO_TRAILERS:
                raise LocalError(f"trailer {name!r}: expected a field that may come after the body (RFC 9110 §6.5.1)")
        fields = encode_headers(lines)
        if self._trailers is None:
            return False  # it was complete with its body
        self._trailers.append(fields)
        if not more:
            self.stream.write(b"0\r\n" + b"".join(self._trailers) + CRLF)
        return not more

    def hint(self, links: Iterable[Any]) -> None:
        """103 Early Hints (RFC 8297); a client of HTTP/1.0 gets none."""
        fields = encode_headers([(b"link", bytes(link)) for link in links])
        if self.status:
            raise LocalError("http.response.early_hint: expected before http.response.start")
        if self.head.version == "1.1" and fields:
            self.stream.write(status_line(103) + fields + CRLF)

    def cut(self, cause: BaseException | None = None) -> None:
        """End the connection in the middle of the response. Where nothing but that end says where the body ends, it is
        a reset: what came must not pass for the whole (RFC 9112 §8)."""
        self.stream.abort(cause, not (self._announced or self._chunked or self._no_body))

    def _misframed(self, how: str) -> None:
        if self.started:
            self.over = True
            self.cut()
        raise LocalError(f"the application sent a body {how} than its Content-Length")


def check_lines(lines: list[Any], keep_alive: bool) -> tuple[bytes, int | None, bool, bool]:
    """What `pack_fields` does not take at once: the lines as they go on the wire, their Content-Length, whether Date is
    there, and whether the connection stays. Raises LocalError."""
    kept: list[tuple[bytes, bytes]] = []
    length: int | None = None
    dated = False
    for name, value in lines:
        name, value = bytes(name), bytes(value)
        lower = name.lower()
        if lower == b"transfer-encoding":
            continue  # framing is ours
        if lower == b"connection":
            keep_alive = keep_alive and b"close" not in value.lower()
            continue
        if lower == b"content-length":
            if length is not None:
                raise LocalError("two Content-Length headers: expected one")
            if not value.isdigit() or len(value) > 18:
                raise LocalError(f"Content-Length {value!r}: expected one number")
            length = int(value)
        dated = dated or lower == b"date"
        kept.append((name, value))
    return encode_headers(kept), length, dated, keep_alive
