"""Any chunking gives the same events: requests and responses, well-formed, malformed and mutated (RFC 9112)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from portico.limits import Limits
from portico.wire.http1 import (
    RequestEvent,
    RequestHead,
    RequestParser,
    ResponseEvent,
    ResponseHead,
    ResponseParser,
)

LIMITS = Limits(max_head_bytes=300, max_headers=8)
HOST = b"Host: a.example\r\n"

REQUESTS = [
    b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"\r\nGET /a%20b?c HTTP/1.1\r\n" + HOST + b"Cookie: a=1\r\n\r\n",
    b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 11\r\n\r\nhello\r\n\r\nhi",
    b"POST / HTTP/1.1\r\n" + HOST + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nok",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nT: 1\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00\x88\x00",
]

MALFORMED_REQUESTS = [
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"\x00",
    b"\n" + REQUESTS[0],
    b"\r" + REQUESTS[0],
    b"\r\n\r" + REQUESTS[0],
    b"\r\n\r\n\r\n" + REQUESTS[0],
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
    b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /# HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET x HTTP/1.1\r\nHost: a\r\nX: \x00",
    b"GET / HTTP/3.0\r\nHost: a\n",
    b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    b"GET /\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    b"NONSENSE / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"EHLO there\r\n",
    b"GET /" + b"a" * 400,
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 400 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 400 + b"\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 8 + b"\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloxx0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\rx",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"a" * 2000,
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : 1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: 1\r\n" * 9 + b"\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 400,
]

RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200\r\n\r\nto the end",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00",
    b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: \x00",
    b"HTTP/1.1 200 OK\nX: a\n\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 400,
    b"<html>\r\n\r\n",
]


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def seen(events: Iterable[RequestEvent | ResponseEvent]) -> list[object]:
    """The events as plain data, adjacent pieces of a body joined."""
    found: list[object] = []
    for event in events:
        if isinstance(event, bytes):
            assert event, "an empty piece of a body"
            if found and isinstance(found[-1], bytes):
                found[-1] += event
            else:
                found.append(event)
        elif isinstance(event, RequestHead | ResponseHead):
            found.append({name: getattr(event, name) for name in event.__slots__})
        else:
            found.append(repr(event))
    return found


def outcome(kind: type[RequestParser] | type[ResponseParser], chunks: Iterable[bytes]) -> tuple[list[object], bytes]:
    parser = kind(LIMITS)
    events: list[RequestEvent | ResponseEvent] = [event for chunk in chunks for event in parser.feed(chunk)]
    events += parser.feed_eof()
    return seen(events), parser.tail()


def same_however_torn(kind: type[RequestParser] | type[ResponseParser], data: bytes, cuts: Iterable[int]) -> None:
    assert outcome(kind, pieces(data, cuts)) == outcome(kind, [data])


CUTS = st.lists(st.integers(0, 700), max_size=12)


@pytest.mark.parametrize("data", REQUESTS + MALFORMED_REQUESTS)
def test_a_request_torn_at_every_byte_and_at_each_one_byte(data: bytes) -> None:
    data += REQUESTS[0]
    same_however_torn(RequestParser, data, range(len(data)))
    for cut in range(len(data)):
        same_however_torn(RequestParser, data, [cut])


@pytest.mark.parametrize("data", RESPONSES)
def test_a_response_torn_at_every_byte_and_at_each_one_byte(data: bytes) -> None:
    data += RESPONSES[0]
    same_however_torn(ResponseParser, data, range(len(data)))
    for cut in range(len(data)):
        same_however_torn(ResponseParser, data, [cut])


@given(st.lists(st.sampled_from(REQUESTS + MALFORMED_REQUESTS), max_size=5).map(b"".join), CUTS)
def test_pipelined_requests_torn_anywhere(data: bytes, cuts: list[int]) -> None:
    same_however_torn(RequestParser, data, cuts)


@given(st.lists(st.sampled_from(RESPONSES), max_size=5).map(b"".join), CUTS)
def test_responses_in_a_row_torn_anywhere(data: bytes, cuts: list[int]) -> None:
    same_however_torn(ResponseParser, data, cuts)


MUTATION = st.tuples(
    st.integers(0, 300), st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b":", b"\x00", b";", b"0", b"", b"\xff"])
)


@settings(max_examples=300)
@given(st.sampled_from(REQUESTS), st.lists(MUTATION, min_size=1, max_size=4), st.integers(0, 2), CUTS)
@example(REQUESTS[0], [(0, b"\r\n")], 0, [1])
def test_mutated_requests_torn_anywhere(
    data: bytes, mutations: list[tuple[int, bytes]], replaced: int, cuts: list[int]
) -> None:
    for place, what in mutations:
        data = data[:place] + what + data[place + replaced :]
    same_however_torn(RequestParser, data, range(len(data)))
    same_however_torn(RequestParser, data, cuts)


@given(st.binary(max_size=200), CUTS)
def test_any_bytes_end_in_events_and_never_in_an_exception(data: bytes, cuts: list[int]) -> None:
    same_however_torn(RequestParser, data, cuts)
    same_however_torn(ResponseParser, data, cuts)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), CUTS)
def test_a_chunked_body_is_its_chunks_joined(chunks: list[bytes], cuts: list[int]) -> None:  # RFC 9112 §7.1
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    data = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + coded
    parser = RequestParser(LIMITS)
    events = [event for piece in pieces(data, cuts) for event in parser.feed(piece)]
    assert b"".join(event for event in events if isinstance(event, bytes)) == b"".join(chunks)
    assert repr(events[-1]) == "END"
    assert parser.idle
