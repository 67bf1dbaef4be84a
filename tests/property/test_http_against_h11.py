"""Requests that hypothesis makes up, read by us and by h11: where h11 refuses, we do; where both accept, both read the
same (RFC 9112 §2 to §7)."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.wire.corpus.cases import CASES
from tests.wire.corpus.oracle import by_h11, by_us

HEAD = b"POST / HTTP/1.1\r\nHost: a.example\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

# Where h11 refuses and we don't, and are right: white space before a chunk's extension (RFC 9112 §7.1.1), and trailer
# fields that would mean something in a head, which we drop. One finding is open: a list that begins with no member.
OURS = re.compile(rb"[ \t];|\n(?:host|content-length|transfer-encoding|connection):", re.IGNORECASE)

names = st.sampled_from([b"X", b"x-y", b"Accept", b"!#$%&'*+-.^_`|~", b"Content-Type", b"Connection", b"9"])
values = st.one_of(
    st.sampled_from([b"", b"a", b"a, b", b"\tx\t", b"close", b"keep-alive", b"caf\xe9", b'"a', b"a:b"]),
    st.binary(max_size=12),
)
bits = st.sampled_from(
    [bytes([octet]) for octet in b"\r\n \t:,;\x00\x0b\x7f\x8005a-+/"]
    + [b"\r\n", b"0x", b"GET", b"HTTP/1.1", b"Host: b\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"]
)
sent = st.sampled_from([case.sent for case in CASES if len(case.sent) < 400])
mutations = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), bits), min_size=1, max_size=3)


def compare(data: bytes) -> None:
    theirs, they_refuse = by_h11(data)
    ours, we_refuse = by_us(data)
    if we_refuse or b"websocket" in data.lower():  # what follows a request to switch is not HTTP to us
        return
    if they_refuse:
        assert OURS.search(data), "h11 refuses, we accept"
    else:
        assert ours == theirs


@settings(deadline=None)
@given(st.lists(st.tuples(names, values), max_size=5), st.booleans())
def test_fields(fields: list[tuple[bytes, bytes]], spaced: bool) -> None:
    colon = b": " if spaced else b":"
    compare(HEAD + b"".join(name + colon + value + b"\r\n" for name, value in fields) + b"\r\n")


@settings(deadline=None)
@given(st.binary(max_size=12), st.binary(min_size=1, max_size=16), st.binary(max_size=10))
def test_first_lines(method: bytes, target: bytes, version: bytes) -> None:
    compare(b"%b /%b HTTP/%b\r\nHost: a\r\n\r\n" % (method or b"GET", target, version or b"1.1"))


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=4), st.binary(max_size=6), st.binary(max_size=5)), max_size=4))
@example([(b"5", b"hello", b"\r\n")])
@example([(b"5", b"hello", b"xx")])
@example([(b"5\n", b"hello", b"\r\n")])
def test_chunks(chunks: list[tuple[bytes, bytes, bytes]]) -> None:
    compare(CHUNKED + b"".join(size + b"\r\n" + data + end for size, data, end in chunks) + b"0\r\n\r\n")


@settings(deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.text('0123456789abcdefABCDEF;= "xyz\t', max_size=12)
)
def test_chunks_that_are_well_formed(chunks: list[bytes], extension: str) -> None:
    ext = b";" + extension.encode()
    coded = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), ext, chunk) for chunk in chunks) + b"0%b\r\n\r\n" % ext
    (ours,), refused = by_us(CHUNKED + coded)
    assert (ours.body, ours.whole, refused) == (b"".join(chunks), True, False)
    compare(CHUNKED + coded)


@settings(max_examples=400, deadline=None)
@given(sent, mutations)
def test_the_corpus_mutated(data: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    for place, replaced, what in changes:
        data = data[:place] + what + data[place + replaced :]
    compare(data)
