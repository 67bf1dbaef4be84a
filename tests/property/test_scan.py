"""The fast paths of HTTP/1.1 read and write what the long ways do, or nothing (RFC 9112 §2-§6).

Interpreted there is no fast path: the same tests then say that the long way agrees with itself.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import portico
from portico.errors import LocalError
from portico.server.response import check_lines
from portico.wire.framing import REQUEST, RequestHead, request_head, scanned_head
from portico.wire.head import Bad
from portico.wire.http1 import RequestParser
from portico.wire.scan import pack_fields, scan_request

LIMITS = portico.Limits()
FIELDS = RequestHead.__slots__

plain = [
    b"Host: example.com",
    b"host:127.0.0.1:8000",
    b"HOST: \t a.b-c_d:1 \t",
    b"Content-Length: 0",
    b"Content-Length: 0012",
    b"content-length: 123456789012345678",
    b"Connection: close",
    b"connection: Keep-Alive",
    b"User-Agent: caf\xe9 (\xff)",
    b"X-Empty:",
    b"X-Spaces: a  b\tc ",
    b"!#$%&'*+-.^_`|~1aZ: token",
]
odd = [
    b"Host: a\r\nHost: a",
    b"Host:",
    b"Host: a:123456",
    b"Host: [::1]:80",
    b"Host: a b",
    b"Host: user@a",
    b"Content-Length: 1\r\nContent-Length: 1",
    b"Content-Length: 1234567890123456789",
    b"Content-Length: +1",
    b"Content-Length: 1, 1",
    b"Content-Length:",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Key: x",
    b"sec-websocket-foo: x",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"connection: Upgrade\r\nUPGRADE: WebSocket\r\nSec-WebSocket-Key: x",
    b"Connection: upgrade\r\nUpgrade: h2c",
    b"Upgrade: websocket\r\nUpgrade: websocket",
    b"Connection: upgrade",
    b"Connection: close, keep-alive",
    b"Connection: close\r\nConnection: close",
    b"Folded: a\r\n b",
    b"Space : a",
    b": a",
    b"no colon",
    b"Nul: a\x00b",
    b"Del: \x7f",
    b"Bare: a\rb",
    b"Bare: a\nb",
    b"K\xe9y: a",
]
methods = st.sampled_from(
    [b"GET", b"POST", b"PUT", b"HEAD", b"PATCH", b"DELETE", b"OPTIONS", b"get", b"TRACE", b"QUERY", b""]
)
targets = st.one_of(
    st.sampled_from(
        [b"/", b"/a/b?c=d", b"/%41%zz", b"/?", b"/a?b?c#d", b"//", b"*", b"", b"http://example.com/", b"/a%", b"/\xc3"]
    ),
    st.binary(max_size=12).map(lambda tail: b"/" + tail),
    st.text('/?%#aZ0!"<>^`{|}~\\', max_size=12).map(lambda tail: b"/" + tail.encode()),
)
versions = st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/1.1 ", b"http/1.1"])
lines = st.lists(st.sampled_from(plain + odd) | st.sampled_from(plain), max_size=6)
ends = st.sampled_from([b"\r\n\r\n", b"\r\n\r\n", b"\r\n\r\nrest", b"\r\n\rrest", b"\r\n", b"\n\n", b""])


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    head = b" ".join([draw(methods), draw(targets), draw(versions)])
    for line in draw(lines):
        head += b"\r\n" + line
    head += draw(ends)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(head)))
        head = head[:at] + draw(st.binary(max_size=2)) + head[at + draw(st.integers(0, 2)) :]
    return head


def in_full(data: bytes) -> RequestHead | None:
    """What the long way makes of a head at the begin of `data`; None where it refuses, or waits for more."""
    end = data.find(b"\r\n\r\n") + 4
    line = REQUEST.head.fullmatch(data, 0, end)
    if line is None:
        return None
    try:
        REQUEST.check(line)
        return request_head(line, LIMITS.max_headers)
    except Bad:
        return None


@given(heads())
@example(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
@example(b"GET / HTTP/1.1")
@example(b"")
def test_what_is_scanned_is_what_the_long_way_reads(data: bytes) -> None:
    before = b"before"
    scanned = scan_request(before + data, len(before), LIMITS.max_head_bytes, LIMITS.max_headers)
    if scanned is not None:
        end = scanned[0]
        head, expected = scanned_head(scanned, (before + data)[len(before) : end]), in_full(data)
        assert expected is not None, data
        assert [getattr(head, name) for name in FIELDS] == [getattr(expected, name) for name in FIELDS]


if portico.compiled:

    @pytest.mark.parametrize("line", plain[3:])
    def test_what_is_plain_is_scanned(line: bytes) -> None:
        data = b"GET /a%20b?c HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n"
        scanned = scan_request(data, 0, len(data), 2)
        assert scanned is not None
        assert scanned[0] == len(data)

    @pytest.mark.parametrize("cut", [0, 1])
    def test_bounds_are_kept(cut: int) -> None:
        """`Limits.max_head_bytes` and `Limits.max_headers`; the long way says what is wrong."""
        data = b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"
        assert (scan_request(data, 0, len(data) - cut, 2) is None) == bool(cut)
        assert (scan_request(data, 0, len(data), 2 - cut) is None) == bool(cut)


@given(heads(), st.integers(1, 40))
def test_torn_or_whole_the_events_are_the_same(data: bytes, size: int) -> None:
    """A torn head never takes the fast path."""
    whole, torn = RequestParser(LIMITS), RequestParser(LIMITS)
    expected = whole.feed(data)
    found: list[Any] = []
    for at in range(0, len(data), size):
        found += torn.feed(data[at : at + size])
    heads_of = [event for event in expected if isinstance(event, RequestHead)]
    assert heads_of == [event for event in found if isinstance(event, RequestHead)]
    assert repr(expected[-1:]) == repr(found[-1:]) or not isinstance(expected[-1], type(found[-1]))


names = st.sampled_from(
    [b"content-type", b"Content-Length", b"DATE", b"connection", b"transfer-encoding", b"a b", b"", b"x"]
)
values = st.sampled_from([b"text/plain", b"12", b"0", b"-1", b"", b"a\r\nb: c", b"\x00", b"\xff", b"close", b" a "])


@given(st.lists(st.tuples(names, values) | st.tuples(st.binary(max_size=3), st.binary(max_size=3)), max_size=5))
def test_what_is_packed_is_what_the_long_way_writes(pairs: list[tuple[bytes, bytes]]) -> None:
    packed = pack_fields(pairs)
    if packed is not None:
        assert (*packed, True) == check_lines(pairs, True)


@given(st.lists(st.tuples(names, values) | st.tuples(st.binary(max_size=3), st.binary(max_size=3)), max_size=5))
def test_nothing_that_is_written_splits_the_head(pairs: list[tuple[bytes, bytes]]) -> None:
    """RFC 9110 §5.5: a line for each field, or an error."""
    try:
        packed = pack_fields(pairs)
        fields = packed[0] if packed is not None else check_lines(pairs, True)[0]
    except LocalError:
        return
    dropped = sum(name.lower() in (b"connection", b"transfer-encoding") for name, _ in pairs)
    assert fields.count(b"\r\n") == fields.count(b"\n") == fields.count(b"\r") == len(pairs) - dropped
