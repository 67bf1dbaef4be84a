"""Any chunking gives the same handshake, and whatever stands in its headers ends in an answer (RFC 6455 §4)."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.errors import HandshakeError, LocalError, ProtocolError
from portico.limits import Deflate, Limits
from portico.wire.extensions import accept_offer, check_answer, format_extension, make_offer, parse
from portico.wire.handshake import (
    HandshakeRefused,
    check_origin,
    check_response,
    check_upgrade,
    client_request,
    new_key,
    refusal_response,
    switch_response,
)
from portico.wire.headers import encode_headers
from portico.wire.http1 import RequestHead, RequestParser, ResponseHead, ResponseParser

TOKEN = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=8)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=30)
CUTS = st.lists(st.integers(0, 600), max_size=10)
DEFLATE = st.none() | st.builds(
    Deflate,
    server_context_takeover=st.booleans(),
    client_context_takeover=st.booleans(),
    server_max_window_bits=st.integers(9, 15),
    client_max_window_bits=st.integers(9, 15),
)


def torn(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@given(DEFLATE, DEFLATE, st.lists(TOKEN, unique=True, max_size=3), st.binary(max_size=20), CUTS)
def test_both_sides_agree_however_their_bytes_are_torn(
    ours: Deflate | None, theirs: Deflate | None, names: list[str], tail: bytes, cuts: list[int]
) -> None:
    key = new_key()
    request = client_request(
        "a.example", "/", key, subprotocols=names, extensions=None if theirs is None else make_offer(theirs)
    )
    server = RequestParser(Limits())
    heads = [event for piece in torn(request + tail, cuts) for event in server.feed(piece)]
    assert len(heads) == 1
    assert isinstance(heads[0], RequestHead)
    assert server.tail() == tail
    upgrade = check_upgrade(heads[0])
    assert upgrade.subprotocols == names
    accepted = accept_offer(upgrade.extensions, ours)
    chosen = names[-1] if names else None

    answer = switch_response(upgrade.key, chosen, None if accepted is None else accepted[1])
    client = ResponseParser(Limits())
    answers = [event for piece in torn(answer + tail, cuts) for event in client.feed(piece)]
    assert len(answers) == 1
    assert isinstance(answers[0], ResponseHead)
    assert client.tail() == tail
    agreed = None if accepted is None else accepted[0]
    assert check_response(answers[0], key, names, theirs) == (chosen, agreed)


FIELD = st.sampled_from(
    [
        "Upgrade",
        "Connection",
        "Origin",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Version",
    ]
)


@given(st.lists(st.tuples(FIELD, VALUE | st.sampled_from(["websocket", "Upgrade", "13", ","])), max_size=8))
def test_any_request_is_accepted_or_refused_with_a_response(lines: list[tuple[str, str]]) -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + encode_headers(lines) + b"\r\n"
    head = RequestParser(Limits()).feed(data)[0]
    assert isinstance(head, RequestHead)
    error: ProtocolError | None = None
    try:
        upgrade = check_upgrade(head)
        check_origin(upgrade.origin, upgrade.host, "http")
        accept_offer(upgrade.extensions, Deflate())
    except ProtocolError as caught:
        error = caught
    if isinstance(error, HandshakeRefused):
        answer = ResponseParser(Limits()).feed(refusal_response(error.http_status, error.reason, error.headers))[0]
        assert isinstance(answer, ResponseHead)
        assert answer.status == error.http_status
    else:
        assert error is None or error.http_status == 400


@given(st.lists(st.tuples(FIELD, VALUE), max_size=6), DEFLATE)
def test_any_answer_to_another_key_is_a_handshake_error(lines: list[tuple[str, str]], offer: Deflate | None) -> None:
    data = b"HTTP/1.1 101 Switching Protocols\r\n" + encode_headers(lines) + b"\r\n"
    head = ResponseParser(Limits()).feed(data)[0]
    assert isinstance(head, ResponseHead)
    with pytest.raises(HandshakeError) as caught:  # the key is fresh, so nothing answers it
        check_response(head, new_key(), ["a"], offer)
    assert caught.value.status == 101


@given(st.lists(st.tuples(TOKEN, st.lists(st.tuples(TOKEN, st.none() | TOKEN), max_size=4)), max_size=4))
def test_extensions_that_are_written_parse_back(extensions: list[tuple[str, list[tuple[str, str | None]]]]) -> None:
    assert parse([", ".join(format_extension(name, parameters) for name, parameters in extensions)]) == extensions


@given(st.text(' \t,;="\\aé9', max_size=40), DEFLATE)
def test_any_extension_header_parses_or_is_a_protocol_error(text: str, config: Deflate | None) -> None:
    for read in (accept_offer, check_answer):
        with suppress(ProtocolError):
            read([text], config)


@given(st.text(max_size=12), st.text(max_size=12))
def test_no_header_of_an_application_adds_a_line(name: str, value: str) -> None:
    try:
        data = switch_response(new_key(), headers=[(name, value)])
    except LocalError:
        return
    (head,) = ResponseParser(Limits()).feed(data)
    assert isinstance(head, ResponseHead)
    assert len(head.headers) == 4
    assert head.headers[-1] == (name.lower().encode(), value.strip(" \t").encode("latin-1"))
