"""Responses out of bytes, for the client (RFC 9112), and small ones written."""

from __future__ import annotations

import pytest

from portico.errors import LocalError
from portico.limits import Limits
from portico.wire.http1 import END, Rejected, ResponseEvent, ResponseHead, ResponseParser
from portico.wire.responses import simple_response, status_line


def feed(data: bytes, *, head_only: bool = False) -> list[ResponseEvent]:
    parser = ResponseParser(Limits(max_head_bytes=500, max_headers=5), head_only=head_only)
    return parser.feed(data) + parser.feed_eof()


def test_a_response_by_content_length_and_the_next_one() -> None:
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: \t a \r\n\r\nhi"
    events = feed(one + one)
    head = events[0]
    assert isinstance(head, ResponseHead)
    assert (head.status, head.reason, head.version, head.keep_alive) == (200, "OK", "1.1", True)
    assert head.headers == [(b"content-length", b"2"), (b"x", b"a")]
    assert head.raw == one[:-2]
    assert events == [head, b"hi", END] * 2


def test_a_chunked_response() -> None:
    assert feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")[1:] == [b"hi", END]


def test_a_response_without_length_ends_with_the_connection() -> None:  # RFC 9112 §6.3, item 8
    assert feed(b"HTTP/1.0 200 OK\r\n\r\nhi")[1:] == [b"hi", END]


@pytest.mark.parametrize("line", [b"204 No Content", b"304 Not Modified"])
def test_some_responses_have_no_body(line: bytes) -> None:  # RFC 9112 §6.3, item 1
    assert feed(b"HTTP/1.1 " + line + b"\r\nContent-Length: 5\r\n\r\n")[1:] == [END]


def test_the_answer_to_head_has_no_body() -> None:  # RFC 9112 §6.3, item 1
    assert feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", head_only=True)[1:] == [END]


def test_interim_responses_are_skipped() -> None:  # RFC 9110 §15.2
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 OK\r\n\r\n"
    assert [event.status for event in feed(data) if isinstance(event, ResponseHead)] == [204]


def test_a_101_is_the_last_event_and_the_bytes_behind_it_are_kept() -> None:
    parser = ResponseParser(Limits())
    (head,) = parser.feed(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00")
    assert isinstance(head, ResponseHead)
    assert head.status == 101
    assert parser.feed(b"more") == []
    assert parser.tail() == b"\x81\x00more"
    assert parser.feed_eof() == []


@pytest.mark.parametrize("line", [b"HTTP/1.1 200 ", b"HTTP/1.1 200", b"HTTP/1.1 299 \xe9\tx"])
def test_a_reason_may_be_empty_or_anything(line: bytes) -> None:  # RFC 9112 §4
    events = feed(line + b"\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(events[0], ResponseHead)
    assert events[1] is END


MALFORMED = [
    b"HTTP/1.1 200 OK\n\n",
    b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 000 OK\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"\x15\x03\x01",
    b"<html>",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 600,
    b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 6 + b"\r\n",
]


@pytest.mark.parametrize("data", MALFORMED)
def test_a_malformed_response_is_rejected(data: bytes) -> None:
    assert [type(event) for event in feed(data)] == [Rejected]


@pytest.mark.parametrize("data", [b"HTTP", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh"])
def test_an_end_inside_a_response_is_rejected(data: bytes) -> None:  # RFC 9112 §8
    assert isinstance(feed(data)[-1], Rejected)


def test_status_lines() -> None:  # RFC 9112 §4
    assert status_line(200) == b"HTTP/1.1 200 OK\r\n"
    assert status_line(426) == b"HTTP/1.1 426 Upgrade Required\r\n"
    assert status_line(599) == b"HTTP/1.1 599 \r\n"


def test_a_simple_response_reads_back() -> None:
    data = simple_response(503, "später", [("Retry-After", "5")], date=b"Thu, 01 Jan 1970 00:00:00 GMT")
    head, body, end = feed(data)
    assert isinstance(head, ResponseHead)
    assert head.status == 503
    assert dict(head.headers) == {
        b"content-type": b"text/plain; charset=utf-8",
        b"content-length": b"7",
        b"date": b"Thu, 01 Jan 1970 00:00:00 GMT",
        b"connection": b"close",
        b"retry-after": b"5",
    }
    assert (body, end) == ("später".encode(), END)


def test_a_simple_response_to_head_says_the_length_without_the_body() -> None:  # RFC 9110 §9.3.2
    data = simple_response(200, "hello", head_only=True, close=False)
    assert b"Content-Length: 5\r\n" in data
    assert b"Connection" not in data
    assert data.endswith(b"\r\n\r\n")


def test_no_header_can_split_a_simple_response() -> None:
    with pytest.raises(LocalError):
        simple_response(200, "", [("X", "a\r\nY: b")])
