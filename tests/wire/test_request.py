"""What users read from `ws.request`."""

from __future__ import annotations

import base64

import pytest

from portico.limits import Limits
from portico.wire.http1 import RequestHead, RequestParser
from portico.wire.request import Request


def request(lines: bytes = b"", target: bytes = b"/") -> Request:
    head = RequestParser(Limits()).feed(b"GET " + target + b" HTTP/1.1\r\nHost: a.example\r\n" + lines + b"\r\n")[0]
    assert isinstance(head, RequestHead)
    return Request(head, ("192.0.2.1", 4711), ("192.0.2.2", 80), "ws")


def test_the_first_line_and_the_addresses() -> None:
    one = request(target=b"/caf%C3%A9/%20?x=1")
    assert (one.method, one.path, one.raw_path, one.scheme) == ("GET", "/café/ ", b"/caf%C3%A9/%20", "ws")
    assert (one.client, one.server) == (("192.0.2.1", 4711), ("192.0.2.2", 80))


def test_the_query_is_decoded_and_the_last_of_a_name_counts() -> None:
    one = request(target=b"/?a=1&b=&a=2+3&c=%C3%A9")
    assert one.query_string == "a=1&b=&a=2+3&c=%C3%A9"
    assert one.query == {"a": "2 3", "b": "", "c": "é"}
    assert request().query == {}


def test_headers_and_cookies() -> None:
    one = request(b"Cookie: a=1; b=2\r\nCookie: c=3\r\n")
    assert one.headers["host"] == "a.example"
    assert one.cookies == {"a": "1", "b": "2", "c": "3"}


def test_after_forget_everything_reads_the_same() -> None:
    one = request(b"Cookie: a=1\r\nAuthorization: Bearer t\r\n", b"/x?y=z")
    names = ("method", "path", "raw_path", "query", "query_string", "headers", "cookies", "authorization", "raw")
    before = [getattr(one, name) for name in names]
    one.forget()
    assert [getattr(one, name) for name in names] == before


def test_a_request_can_be_made_of_the_raw_head_alone() -> None:
    one = request(target=b"http://a.example/x?y=z")
    assert Request(one.raw).path == "/x"


def test_the_text_of_a_request_holds_no_query_and_no_header() -> None:
    assert "secret" not in repr(request(b"Cookie: secret=1\r\n", b"/?token=secret"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"", None),
        (b"Authorization:\r\n", None),
        (b"Authorization: Bearer abc.def\r\n", ("bearer", "abc.def")),
        (b"Authorization: negotiate\r\n", ("negotiate", "")),
        (b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", None),
    ],
)
def test_authorization(line: bytes, expected: tuple[str, str] | None) -> None:  # RFC 9110 §11.6.2
    assert request(line).authorization == expected


def basic(text: str) -> bytes:
    return b"Authorization: BASIC " + base64.b64encode(text.encode()) + b"\r\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (basic("Aladdin:open sesame"), ("Aladdin", "open sesame")),
        (basic("user:pass:word"), ("user", "pass:word")),
        (basic("tést:£"), ("tést", "£")),
        (basic(":"), ("", "")),
        (basic("no colon"), None),
        (b"Authorization: Basic !!!\r\n", None),
        (b"Authorization: Basic /w==\r\n", None),
        (b"Authorization: Basic \xff\r\n", None),
        (b"Authorization: Bearer YTpi\r\n", None),
        (b"", None),
    ],
)
def test_basic_auth(line: bytes, expected: tuple[str, str] | None) -> None:  # RFC 7617
    assert request(line).basic_auth == expected
