"""Nothing that an application returns can split a response: it is on the wire as it was said, or it raises and nothing
is written (RFC 9110 §5.5, RFC 9112 §11.1)."""

from __future__ import annotations

import contextlib
from typing import Any

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st

from portico.errors import LocalError
from portico.limits import Limits
from portico.wire.handshake import client_request, refusal_response, switch_response
from portico.wire.headers import encode_headers
from portico.wire.http1 import END, ResponseHead, ResponseParser
from portico.wire.responses import simple_response, status_line
from portico.wire.uri import parse_uri

EVIL = [
    "\r\n",
    "\r",
    "\n",
    "\x00",
    "\r\n\r\n",
    "X: y\r\nZ",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x7f",
    "\x85",
    "\u2028",
    "\u010d\u010a",
]
texts = st.one_of(
    st.text(max_size=20), st.sampled_from(EVIL), st.tuples(st.text(max_size=4), st.sampled_from(EVIL)).map("".join)
)
octets = st.one_of(st.binary(max_size=20), texts.map(lambda text: text.encode("utf-8", "surrogatepass")))
said = st.one_of(texts, octets)
headers = st.lists(st.tuples(st.one_of(said, st.just("X-Name"), st.just(b"x-name")), said), max_size=4)
statuses = st.integers(200, 999)


def raw(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def lines_of(head: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a head that is exactly one, cut by hand."""
    assert head.endswith(b"\r\n\r\n")
    lines = head[:-4].split(b"\r\n")
    assert b"\r" not in b"".join(lines)
    assert b"\n" not in b"".join(lines)
    assert b"\x00" not in head
    return [(name, value[1:]) for name, _, value in (line.partition(b":") for line in lines[1:])]


@settings(deadline=None)
@given(headers)
@example([("X", "a\r\nSet-Cookie: b=c")])
@example([("X\r\nY", "a")])
@example([("X: a\r\nY", "a")])
@example([("X", "\u010a")])  # its low byte is LF
def test_fields_are_written_as_said_or_raise(fields: list[tuple[Any, Any]]) -> None:
    try:
        written = encode_headers(fields)
    except LocalError:
        return
    expected = [(raw(name), raw(value)) for name, value in fields]
    assert lines_of(b"HTTP/1.1 200 OK\r\n" + written + b"\r\n") == expected


@settings(deadline=None)
@given(statuses, headers, st.text(max_size=30))
def test_a_whole_response_is_one_response(status: int, fields: list[tuple[Any, Any]], body: str) -> None:
    """Both parsers find one response in it, with the body that was given, and nothing behind it."""
    try:
        body.encode()
        written = simple_response(status, body, fields)
    except (LocalError, UnicodeEncodeError):
        return
    head, _, content = written.partition(b"\r\n\r\n")
    assert content == body.encode()
    own = [(raw(name), raw(value)) for name, value in fields]
    lines = lines_of(head + b"\r\n\r\n")
    assert lines[len(lines) - len(own) :] == own
    if status in (204, 304) or any(raw(name).lower() in FRAMING for name, _ in fields):
        return
    events = ResponseParser(Limits()).feed(written)
    assert isinstance(events[0], ResponseHead), events
    assert events[0].status == status
    assert events[-1] is END
    assert b"".join(event for event in events if isinstance(event, bytes)) == content
    assert by_h11(written) == (status, content)


FRAMING = (b"content-length", b"transfer-encoding", b"connection")


def by_h11(written: bytes) -> tuple[int, bytes]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(written)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data[0] == b""
    return response.status_code, body


@settings(deadline=None)
@given(st.integers(-10, 2000))
def test_a_status_line_is_one_line(status: int) -> None:
    line = status_line(status)
    assert line.startswith(b"HTTP/1.1 ")
    assert line.endswith(b"\r\n")
    assert b"\r" not in line[:-2]
    assert b"\n" not in line[:-2]


KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@settings(deadline=None)
@given(texts, headers)
@example("chat\r\nX: y", [])
@example("chat, superchat", [])
def test_a_switch_is_one_head(subprotocol: str, fields: list[tuple[Any, Any]]) -> None:
    with contextlib.suppress(LocalError):
        lines = lines_of(switch_response(KEY, subprotocol=subprotocol, headers=fields))
        assert [value for name, value in lines if name.lower() == b"sec-websocket-protocol"] == [raw(subprotocol)]


@settings(deadline=None)
@given(statuses, headers, octets, texts)
def test_a_refused_switch_is_one_response(status: int, fields: list[tuple[Any, Any]], body: bytes, kind: str) -> None:
    with contextlib.suppress(LocalError):
        written = refusal_response(status, body, fields, kind)
        head = written.removesuffix(body)
        assert (b"Content-Length", b"%d" % len(body)) in lines_of(head)


@settings(deadline=None)
@given(texts, texts, texts, st.lists(texts, max_size=2), headers)
def test_a_client_s_request_is_one_head(
    host: str, target: str, origin: str, subprotocols: list[str], fields: list[tuple[Any, Any]]
) -> None:
    with contextlib.suppress(LocalError):
        written = client_request(host, "/" + target, KEY, origin=origin, subprotocols=subprotocols, headers=fields)
        lines = lines_of(written)
        assert lines[0] == (b"Host", raw(host))
        assert written.count(b"\r\n\r\n") == 1


@settings(deadline=None)
@given(texts)
def test_a_uri_makes_one_request_line(text: str) -> None:
    with contextlib.suppress(LocalError, ValueError):
        uri = parse_uri("ws://a/" + text)
        assert lines_of(client_request(uri.authority, uri.target, KEY))[0] == (b"Host", b"a")
