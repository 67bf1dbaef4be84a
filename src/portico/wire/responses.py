"""Responses written at once: status lines, and the small plain answers that need no application."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from portico.wire.headers import HeaderLines, encode_headers

_LINES: Final = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}


def status_line(status: int) -> bytes:
    """The first line of a response, with its CRLF (RFC 9112 §4); an unregistered status has an empty reason."""
    return _LINES.get(status) or b"HTTP/1.1 %03d \r\n" % status


def simple_response(
    status: int,
    body: str,
    headers: HeaderLines = (),
    *,
    head_only: bool = False,
    close: bool = True,
    date: bytes = b"",
) -> bytes:
    """A whole response with `body` as plain text in UTF-8.

    `head_only` leaves the body out and says its length all the same, as an answer to HEAD does (RFC 9110 §9.3.2);
    `close` adds ``Connection: close``; `date` is the value of Date, or empty for none. `headers` are added as they are;
    raises LocalError where one could split the head.
    """
    content = body.encode("utf-8")
    lines = [status_line(status), b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n" % len(content)]
    if date:
        lines.append(b"Date: %b\r\n" % date)
    if close:
        lines.append(b"Connection: close\r\n")
    lines += [encode_headers(headers), b"\r\n"]
    if not head_only:
        lines.append(content)
    return b"".join(lines)
