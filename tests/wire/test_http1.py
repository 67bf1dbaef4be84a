"""Requests out of bytes: RFC 9112, and what a careful server refuses."""

from __future__ import annotations

import pytest

from portico.limits import Limits
from portico.wire.http1 import END, Rejected, RequestEvent, RequestHead, RequestParser

HOST = b"Host: a.example\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n"


def feed(data: bytes, **limits: int) -> list[RequestEvent]:
    return RequestParser(Limits(**limits)).feed(data)


def head(data: bytes) -> RequestHead:
    event = feed(data)[0]
    assert isinstance(event, RequestHead), event
    return event


def get(lines: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return line + b"\r\n" + HOST + lines + b"\r\n"


def refusal(data: bytes, **limits: int) -> Rejected:
    event = feed(data, **limits)[-1]
    assert isinstance(event, Rejected), event
    return event


# A request's head


def test_a_request_without_body() -> None:
    event, end = feed(
        b"GET /a%20b/c?x=%31 HTTP/1.1\r\nHost: a.example\r\nX-One: \t 1 \t\r\nX-Empty:\r\nx-one: 2\r\n\r\n"
    )
    assert isinstance(event, RequestHead)
    assert end is END
    assert (event.method, event.target, event.version) == ("GET", b"/a%20b/c?x=%31", "1.1")
    assert (event.path, event.raw_path, event.query) == ("/a b/c", b"/a%20b/c", b"x=%31")
    assert event.headers == [(b"host", b"a.example"), (b"x-one", b"1"), (b"x-empty", b""), (b"x-one", b"2")]
    assert (event.content_length, event.chunked, event.keep_alive) == (None, False, True)
    assert (event.upgrade, event.websocket_hint, event.expect_continue) == (False, False, False)
    assert event.raw.startswith(b"GET /a%20b")
    assert event.raw.endswith(b"2\r\n\r\n")


def test_white_space_inside_a_value_and_bytes_above_127_stay() -> None:  # RFC 9110 §5.5
    assert head(get(b"X: a  \t b\xff\r\n")).headers[1] == (b"x", b"a  \t b\xff")


@pytest.mark.parametrize(
    ("line", "lines", "keep_alive"),
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"Connection: Close\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: foo, ,close\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: closed\r\n", True),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Connection: Keep-Alive\r\n", True),
        (b"GET / HTTP/1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_whether_the_connection_stays(line: bytes, lines: bytes, keep_alive: bool) -> None:  # RFC 9112 §9.3
    assert head(get(lines, line)).keep_alive is keep_alive


def test_http_1_0_needs_no_host() -> None:  # RFC 9112 §3.2
    assert head(b"GET / HTTP/1.0\r\n\r\n").version == "1.0"


def test_an_absolute_target_gives_its_path() -> None:  # RFC 9112 §3.2.2
    event = head(get(b"", b"GET HTTP://A.example/p%21?q HTTP/1.1"))
    assert (event.path, event.raw_path, event.query) == ("/p!", b"/p%21", b"q")
    assert head(get(b"", b"GET http://a.example?q HTTP/1.1")).raw_path == b"/"


def test_an_asterisk_is_the_target_of_options() -> None:  # RFC 9112 §3.2.4
    assert head(get(b"", b"OPTIONS * HTTP/1.1")).raw_path == b"*"
    assert refusal(get(b"", b"GET * HTTP/1.1")).status == 400


def test_one_or_two_empty_lines_before_a_request_are_ignored() -> None:  # RFC 9112 §2.2
    assert feed(b"\r\n" + GET + b"\r\n\r\n" + GET) == [*feed(GET), *feed(GET)]
    assert refusal(b"\r\n\r\n\r\n" + GET).status == 400


def test_expect_100_continue() -> None:  # RFC 9110 §10.1.1
    assert head(get(b"Expect: 100-Continue\r\nContent-Length: 1\r\n")).expect_continue
    assert not head(get(b"Expect: 100-continue\r\n")).expect_continue
    assert not head(get(b"Expect: 100-continue\r\nContent-Length: 1\r\n", b"POST / HTTP/1.0")).expect_continue
    assert refusal(get(b"Expect: 200-ok\r\n")).status == 417


# Bodies


def test_a_body_by_content_length_and_the_request_behind_it() -> None:  # RFC 9112 §6.2
    events = feed(get(b"Content-Length: 5\r\n", b"POST / HTTP/1.1") + b"hello" + GET)
    assert events[1:3] == [b"hello", END]
    assert events[3:] == feed(GET)


def test_a_body_of_length_nought_is_none() -> None:
    assert feed(get(b"Content-Length: 0\r\n"))[1:] == [END]


def test_a_body_comes_in_pieces_as_it_arrives() -> None:
    parser = RequestParser(Limits())
    parser.feed(get(b"Content-Length: 5\r\n"))
    assert parser.feed(b"he") == [b"he"]
    assert not parser.idle
    assert parser.feed(memoryview(b"llo")) == [b"llo", END]
    assert parser.idle


CHUNKED = get(b"Transfer-Encoding: Chunked\r\n", b"POST / HTTP/1.1")


def test_a_chunked_body_with_extensions_and_trailers() -> None:  # RFC 9112 §7.1
    body = b'5\r\nhello\r\n00A ;a=b;c="d;e"\r\n, chunked!\r\n0;x\r\nTrailer: 1\r\nOther:\r\n\r\n'
    events = feed(CHUNKED + body + GET)
    assert events[1:3] == [b"hello, chunked!", END]
    assert events[3:] == feed(GET)


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello!\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"+5\r\nhello",
        b"0x5\r\nhello",
        b" 5\r\nhello",
        b"5 \r\nhello",
        b"\r\n",
        b"5;a=\x01\r\n",
        b"5;a\rb\r\n",
        b"5_0\r\n",
        b"ffffffffffffffff\r\n",
        b"5;" + b"a" * 2000,
        b"0\r\nX : 1\r\n\r\n",
        b"0\r\nX: 1\n\r\n",
        b"0\r\n X: 1\r\n\r\n",
        b"0\r\nX: \x00\r\n\r\n",
        b"0\r\nX: a\rb\r\n\r\n",
        b"0\r\nnocolon\r\n\r\n",
    ],
)
def test_a_malformed_chunk_is_refused(body: bytes) -> None:  # RFC 9112 §7.1
    assert refusal(CHUNKED + body).status == 400


def test_trailers_are_bounded_as_the_head_is() -> None:
    assert refusal(CHUNKED + b"0\r\n" + b"X: 1\r\n" * 5, max_headers=4).status == 431
    assert refusal(CHUNKED + b"0\r\nX: " + b"a" * 300, max_head_bytes=300).status == 431


# What is refused


MALFORMED = [
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\r\nHost: a\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
    b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \x0b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n",
    b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\r\nHost: a\r\n\r\n",
    b"GET / http/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
    b"hello\r\n",
    b"(GET / HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX\t: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX Y: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX(): a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\xc3\xa9: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a:port\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a, b:1:2\r\n\r\n",
    b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xb2\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x80\x00",
]


@pytest.mark.parametrize("data", MALFORMED)
def test_what_could_be_read_in_two_ways_is_400(data: bytes) -> None:  # RFC 9112 §2.2, §3, §5, §6
    events = feed(data)
    assert [type(event) for event in events] == [Rejected]
    assert refusal(data).status == 400


@pytest.mark.parametrize(
    ("line", "lines", "status"),
    [
        (b"GET / HTTP/2.0", b"", 505),
        (b"GET / HTTP/1.2", b"", 505),
        (b"PRI * HTTP/2.0", b"", 505),
        (b"GET / HTTP/0.9", b"", 505),
        (b"CONNECT a.example:443 HTTP/1.1", b"", 501),
        (b"NONSENSE / HTTP/1.1", b"", 501),
        (b"POST / HTTP/1.1", b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"POST / HTTP/1.1", b"Transfer-Encoding: identity\r\n", 501),
        (b"POST / HTTP/1.1", b"Transfer-Encoding: xchunked\r\n", 501),
        (b"POST / HTTP/1.1", b"Content-Length: 1" + b"0" * 18 + b"\r\n", 413),
    ],
)
def test_what_is_not_done_has_its_own_status(line: bytes, lines: bytes, status: int) -> None:
    assert refusal(get(lines, line)).status == status


def test_the_first_bytes_of_a_tls_client_are_refused_at_once_and_named() -> None:
    assert "TLS" in refusal(b"\x16").reason


def test_a_wrong_first_line_is_refused_before_the_head_ends() -> None:
    assert refusal(b"EHLO mail\r\n").status == 400
    assert refusal(b"GET / HTTP/3.0\r\n").status == 505


@pytest.mark.parametrize(
    "host", [b"a", b"A.example:8000", b"[::1]", b"[::1]:80", b"a:", b"", b"a_b.example", b"xn--caf-dma.example"]
)
def test_a_well_formed_host_is_accepted(host: bytes) -> None:  # RFC 3986 §3.2.2
    assert head(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").headers == [(b"host", host)]


# Limits


def test_a_head_of_exactly_the_limit_passes_and_one_byte_more_is_431() -> None:
    assert len(feed(GET, max_head_bytes=len(GET))) == 2
    assert refusal(GET, max_head_bytes=len(GET) - 1).status == 431


def test_a_head_without_end_is_refused_when_it_is_too_long_and_not_later() -> None:
    parser = RequestParser(Limits(max_head_bytes=100))
    assert parser.feed(b"GET / HTTP/1.1\r\nX: ") == []
    assert parser.feed(b"a" * 80) == []
    assert parser.feed(b"a") == [Rejected(431, "the head is longer than 100 bytes")]


def test_a_target_that_is_too_long_is_414() -> None:  # RFC 9112 §3
    assert refusal(b"GET /" + b"a" * 200, max_head_bytes=100).status == 414


def test_too_many_header_lines_are_431() -> None:
    assert len(feed(get(b"X: 1\r\n" * 3), max_headers=4)) == 2
    assert refusal(get(b"X: 1\r\n" * 4), max_headers=4).status == 431


def test_long_white_space_and_many_commas_in_a_head_are_read() -> None:
    event = feed(get(b"X: " + b" " * 500_000 + b"x" + b"\t" * 500_000 + b"\r\n"), max_head_bytes=1 << 21)[0]
    assert isinstance(event, RequestHead)
    assert event.headers[1] == (b"x", b"x")
    event = feed(get(b"Connection:" + b", " * 500_000 + b"close\r\n"), max_head_bytes=1 << 21)[0]
    assert isinstance(event, RequestHead)
    assert not event.keep_alive


@pytest.mark.parametrize("data", [get(b"Cookie: " + b"a" * 30_000 + b"\r\n"), b"A" * 40_000])
def test_a_long_head_byte_by_byte(data: bytes) -> None:
    parser = RequestParser(Limits())
    events = [event for byte in data for event in parser.feed(bytes([byte]))]
    assert events == feed(data)


# Ends


def test_after_a_rejection_everything_is_ignored() -> None:
    parser = RequestParser(Limits())
    assert len(parser.feed(b"\x00" + GET)) == 1
    assert parser.feed(GET) == []
    assert parser.feed_eof() == []


def test_after_a_request_that_closes_nothing_more_is_parsed() -> None:  # RFC 9112 §9.6
    parser = RequestParser(Limits())
    assert len(parser.feed(get(b"Connection: close\r\n") + GET)) == 2
    assert parser.feed(GET) == []
    assert parser.feed_eof() == []


@pytest.mark.parametrize("data", [b"", b"\r", b"\r\n", GET, GET + b"\r\n\r"])
def test_an_end_between_requests_is_nothing(data: bytes) -> None:
    parser = RequestParser(Limits())
    parser.feed(data)
    assert parser.idle
    assert not parser.in_head
    assert parser.feed_eof() == []


def test_whether_a_head_has_begun() -> None:
    parser = RequestParser(Limits())
    parser.feed(GET + b"G")
    assert parser.in_head
    parser.feed(get(b"Content-Length: 1\r\n")[1:])
    assert not parser.in_head
    assert not parser.idle


@pytest.mark.parametrize("data", [b"G", GET[:-1], CHUNKED, CHUNKED + b"1\r\na", get(b"Content-Length: 2\r\n") + b"a"])
def test_an_end_inside_a_request_is_400(data: bytes) -> None:  # RFC 9112 §8
    parser = RequestParser(Limits())
    parser.feed(data)
    assert not parser.idle
    assert [event.status for event in parser.feed_eof() if isinstance(event, Rejected)] == [400]
    assert parser.feed_eof() == []


# Switching


def test_an_upgrade_is_the_last_event_and_the_bytes_behind_it_are_kept() -> None:
    parser = RequestParser(Limits())
    (event,) = parser.feed(UPGRADE + b"\x81\x00")
    assert isinstance(event, RequestHead)
    assert event.upgrade
    assert event.websocket_hint
    assert parser.feed(GET) == []
    assert parser.tail() == b"\x81\x00" + GET
    assert parser.tail() == b""
    assert parser.feed_eof() == []


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        (b"POST / HTTP/1.1", b"Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        (b"GET / HTTP/1.0", b"Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        (b"GET / HTTP/1.1", b"Upgrade: websocket\r\n"),
        (b"GET / HTTP/1.1", b"Upgrade: websocket\r\nConnection: upgraded\r\n"),
        (b"GET / HTTP/1.1", b"Upgrade: websockets\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n"),
        (b"GET / HTTP/1.1", b"Sec-WebSocket-Version: 13\r\n"),
    ],
)
def test_what_is_nearly_an_upgrade_is_no_upgrade_but_hints(line: bytes, lines: bytes) -> None:  # RFC 6455 §4.2.1
    event = head(get(lines, line))
    assert not event.upgrade
    assert event.websocket_hint


def test_tokens_of_an_upgrade_are_exact_and_in_any_case() -> None:  # RFC 9110 §7.8
    assert head(get(b"Upgrade: h2c, WebSocket\r\nConnection: x\r\nConnection: UPGRADE\r\n")).upgrade


def test_another_upgrade_is_ignored_and_its_body_read() -> None:  # RFC 9110 §7.8
    lines = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 2\r\n"
    events = feed(get(lines, b"POST / HTTP/1.1") + b"ok" + GET)
    assert events[1:3] == [b"ok", END]
    assert (b"upgrade", b"h2c") in head(get(lines)).headers
    assert events[3:] == feed(GET)
