"""The server's side of the opening handshake (RFC 6455 §4.2)."""

from __future__ import annotations

import re

import pytest

from portico.errors import LocalError
from portico.limits import Limits
from portico.wire.handshake import (
    HandshakeRefused,
    Upgrade,
    accept_key,
    check_origin,
    check_upgrade,
    choose_subprotocol,
    refusal_response,
    switch_response,
)
from portico.wire.http1 import RequestHead, RequestParser, ResponseHead, ResponseParser

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
VALID = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def head(line: str = "GET /chat HTTP/1.1", more: str = "", **changes: str | None) -> RequestHead:
    """A valid request, its lines changed or, with None, left out."""
    fields = {**VALID, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    event = RequestParser(Limits()).feed(f"{line}\r\n{lines}{more}\r\n".encode("latin-1"))[0]
    assert isinstance(event, RequestHead), event
    return event


def refused(request: RequestHead) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        check_upgrade(request)
    assert caught.value.http_status >= 400
    return caught.value


def check(**changes: str | None) -> Upgrade:
    return check_upgrade(head(**changes))


def test_a_valid_request() -> None:  # RFC 6455 §1.2, §4.2.1
    upgrade = check_upgrade(
        head(
            more="Origin: http://example.com\r\n"
            "Sec-WebSocket-Protocol: chat, superchat\r\n"
            "Sec-WebSocket-Extensions: x\r\n"
        )
    )
    assert upgrade.key == KEY
    assert upgrade.subprotocols == ["chat", "superchat"]
    assert upgrade.extensions == ["x"]
    assert upgrade.origin == "http://example.com"
    assert upgrade.host == "server.example.com"


def test_a_request_without_the_optional_fields() -> None:
    upgrade = check()
    assert (upgrade.subprotocols, upgrade.extensions, upgrade.origin) == ([], [], None)


def test_the_method_must_be_get() -> None:  # §4.2.1, item 1
    error = refused(head("POST /chat HTTP/1.1"))
    assert (error.http_status, error.headers) == (405, (("Allow", "GET"),))


def test_the_version_of_http_must_be_1_1() -> None:  # §4.2.1, item 1
    error = refused(head("GET /chat HTTP/1.0"))
    assert error.http_status == 426
    assert "HTTP/1.0" in error.reason


@pytest.mark.parametrize("value", [None, "h2c", "websockets", "web socket"])
def test_upgrade_must_name_websocket(value: str | None) -> None:  # §4.2.1, item 3
    error = refused(head(Upgrade=value))
    assert (error.http_status, error.headers) == (426, (("Upgrade", "websocket"),))
    assert '"Upgrade: websocket"' in error.reason
    assert "proxy" in error.reason


@pytest.mark.parametrize("value", [None, "close", "Upgraded", "keep-alive"])
def test_connection_must_name_upgrade(value: str | None) -> None:  # §4.2.1, item 4
    error = refused(head(Connection=value))
    assert (error.http_status, error.headers) == (426, (("Upgrade", "websocket"),))
    assert '"Connection: Upgrade"' in error.reason


def test_tokens_are_compared_in_any_case() -> None:  # §4.2.1, items 3 and 4
    assert check(Upgrade="WebSocket", Connection="keep-alive, UPGRADE").key == KEY


@pytest.mark.parametrize(
    "key",
    [
        None,
        "",
        "AQIDBAUGBwgJCgsMDQ4PEA",
        "AQIDBAUGBwgJCgsMDQ4PEBE=",
        "AQIDBAUGBwgJCgsMDQ4P",
        "AQID BAUGBwgJCgsMDQ4PEA==",
        "!" * 24,
    ],
)
def test_the_key_must_be_16_bytes_in_base64(key: str | None) -> None:  # §4.2.1, item 5
    error = refused(head(**{"Sec-WebSocket-Key": key}))
    assert error.http_status == 400
    assert "Sec-WebSocket-Key" in error.reason


def test_there_must_be_one_key() -> None:  # RFC 6455 §11.3.1
    assert refused(head(more=f"Sec-WebSocket-Key: {KEY}\r\n")).http_status == 400


@pytest.mark.parametrize("version", [None, "", "8", "12", "14", "013", "13, 8"])
def test_another_version_gets_426_and_the_version_to_use(version: str | None) -> None:  # §4.2.1, item 6; §4.4
    error = refused(head(**{"Sec-WebSocket-Version": version}))
    assert error.http_status == 426
    assert ("Sec-WebSocket-Version", "13") in error.headers


def test_there_must_be_one_version() -> None:  # RFC 6455 §11.3.5
    assert refused(head(more="Sec-WebSocket-Version: 13\r\n")).http_status == 400


@pytest.mark.parametrize("line", ["Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n"])
def test_a_request_with_a_body_is_refused(line: str) -> None:
    assert refused(head(more=line)).http_status == 400


def test_a_body_of_length_nought_is_no_body() -> None:
    assert check_upgrade(head(more="Content-Length: 0\r\n")).key == KEY


def test_there_may_be_one_origin_only() -> None:  # RFC 6454 §7.3
    assert refused(head(more="Origin: http://a\r\nOrigin: http://b\r\n")).http_status == 400


@pytest.mark.parametrize("value", ["a b", "chat, a/b", "chat, chat", "chât", 'a="b"'])
def test_subprotocols_are_tokens_each_named_once(value: str) -> None:  # §4.1, item 10 of the request
    assert refused(head(**{"Sec-WebSocket-Protocol": value})).http_status == 400


def test_subprotocols_may_stand_in_several_lines() -> None:  # RFC 6455 §11.3.4
    lines = "Sec-WebSocket-Protocol: a,,b\r\nSec-WebSocket-Protocol: A\r\n"
    assert check_upgrade(head(more=lines)).subprotocols == ["a", "b", "A"]


def test_many_subprotocols_are_read() -> None:
    names = [f"p{i}" for i in range(4_000)]
    assert check(**{"Sec-WebSocket-Protocol": ",".join(names)}).subprotocols == names


# The answer


def test_accept_key() -> None:  # RFC 6455 §1.3
    assert accept_key(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_the_first_supported_subprotocol_that_was_offered_is_chosen() -> None:  # §4.2.2, item 5.5
    assert choose_subprotocol(["a", "b"], ["c", "b", "a"]) == "b"
    assert choose_subprotocol(["a"], ["A"]) is None
    assert choose_subprotocol([], ["a"]) is None


def test_the_answer_that_switches() -> None:  # §4.2.2, item 5
    data = switch_response(KEY, "chat", "permessage-deflate", [("Set-Cookie", "a=1"), (b"X", b"y")])
    (event,) = ResponseParser(Limits()).feed(data)
    assert isinstance(event, ResponseHead)
    assert event.raw == data
    assert event.status == 101
    assert event.headers == [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        (b"sec-websocket-protocol", b"chat"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
        (b"set-cookie", b"a=1"),
        (b"x", b"y"),
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "a\r\nY: b"),
        ("X\r\nY", "a"),
        ("upgrade", "x"),
        ("Connection", "close"),
        (b"SEC-WEBSOCKET-ACCEPT", b"x"),
        ("Sec-WebSocket-Protocol", "x"),
        ("Sec-WebSocket-Extensions", "x"),
        ("Content-Length", "0"),
        ("Transfer-Encoding", "chunked"),
    ],
)
def test_a_header_of_the_application_can_not_split_or_change_the_answer(name: str | bytes, value: str | bytes) -> None:
    with pytest.raises(LocalError):
        switch_response(KEY, headers=[(name, value)])


@pytest.mark.parametrize("name", ["", "a b", "a\r\nX: y", "ü"])
def test_a_subprotocol_of_the_application_is_a_token(name: str) -> None:
    with pytest.raises(LocalError, match="token"):
        switch_response(KEY, name)


def answer(data: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    event, *rest = ResponseParser(Limits()).feed(data)
    assert isinstance(event, ResponseHead)
    assert len(event.headers) == len(dict(event.headers))
    return event.status, dict(event.headers), b"".join(part for part in rest if isinstance(part, bytes))


def test_a_refusal_closes_and_says_why() -> None:
    status, headers, body = answer(refusal_response(403, "weil", [("X", "y")], date=b"today"))
    assert (status, body) == (403, b"weil")
    assert headers == {
        b"connection": b"close",
        b"content-length": b"4",
        b"content-type": b"text/plain; charset=utf-8",
        b"date": b"today",
        b"x": b"y",
    }


def test_a_refusal_with_upgrade_names_it_in_connection() -> None:  # RFC 9110 §7.8, §15.5.22
    error = refused(head(Upgrade=None))
    status, headers, body = answer(refusal_response(error.http_status, error.reason, error.headers))
    assert status == 426
    assert headers[b"upgrade"] == b"websocket"
    assert headers[b"connection"] == b"Upgrade, close"
    assert body == error.reason.encode()


def test_a_refusal_may_have_its_own_type_but_not_its_own_length_or_connection() -> None:
    lines = [("Content-Type", "application/json"), ("content-length", "9999"), ("Connection", "keep-alive")]
    _, headers, body = answer(refusal_response(401, "{}", lines))
    assert headers == {b"connection": b"close", b"content-length": b"2", b"content-type": b"application/json"}
    assert body == b"{}"


def test_no_header_can_split_a_refusal() -> None:
    with pytest.raises(LocalError):
        refusal_response(403, "", [("X", "a\r\nY: b")])


# Origin


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        (None, "a.example", "http"),
        ("http://a.example", "a.example", "http"),
        ("http://a.example", "a.example:80", "http"),
        ("http://A.EXAMPLE:80", "a.example", "ws"),
        ("https://a.example", "a.example:443", "https"),
        ("https://a.example:8443", "a.example:8443", "wss"),
        ("http://[::1]:8000", "[::1]:8000", "http"),
        ("http://localhost:8000", "LOCALHOST:8000", "http"),
    ],
)
def test_the_same_origin_is_allowed(origin: str | None, host: str, scheme: str) -> None:  # RFC 6454 §5
    check_origin(origin, host, scheme)  # type: ignore[arg-type]  # a parameter of the test


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        ("null", "a.example", "http"),
        ("", "a.example", "http"),
        ("http://b.example", "a.example", "http"),
        ("http://sub.a.example", "a.example", "http"),
        ("http://a.example.evil", "a.example", "http"),
        ("http://evil-a.example", "a.example", "http"),
        ("https://a.example", "a.example", "http"),
        ("http://a.example", "a.example", "https"),
        ("http://a.example:81", "a.example", "http"),
        ("http://a.example", "a.example:8000", "http"),
        ("http://a.example/", "a.example", "http"),
        ("http://a.example@b.example", "a.example", "http"),
        ("http://a.example http://b.example", "a.example", "http"),
        ("http://127.0.0.1:8000", "localhost:8000", "http"),
        ("http://", "", "http"),
        ("http://[::1]", "[::2]", "http"),
        ("ftp://a.example", "a.example", "http"),
        ("a.example", "a.example", "http"),
    ],
)
def test_another_origin_is_refused_with_403(origin: str, host: str, scheme: str) -> None:  # RFC 6455 §10.2
    with pytest.raises(HandshakeRefused) as caught:
        check_origin(origin, host, scheme)  # type: ignore[arg-type]  # a parameter of the test
    assert caught.value.http_status == 403


def test_the_refusal_says_what_came_what_was_expected_and_what_to_set() -> None:
    with pytest.raises(HandshakeRefused) as caught:
        check_origin("https://b.example", "a.example:8000", "http")
    assert "'https://b.example'" in caught.value.reason
    assert "'http://a.example:8000'" in caught.value.reason
    assert "origins=['https://b.example']" in caught.value.reason


def test_a_page_that_differs_in_the_scheme_only_hints_at_the_proxy() -> None:
    with pytest.raises(HandshakeRefused, match="proxy that ends TLS"):
        check_origin("https://a.example", "a.example", "http")


def test_a_list_of_origins_takes_the_place_of_the_own_one() -> None:
    allowed = ["https://app.example", re.compile(r"https://[a-z]+\.app\.example")]
    check_origin(None, "a.example", "http", allowed)
    check_origin("https://app.example", "a.example", "http", allowed)
    check_origin("HTTPS://APP.EXAMPLE:443", "a.example", "http", allowed)
    check_origin("https://beta.app.example", "a.example", "http", allowed)
    for origin in ("http://a.example", "http://app.example", "https://beta.app.example.evil", "null"):
        with pytest.raises(HandshakeRefused, match=r"one of 'https://app\.example'"):
            check_origin(origin, "a.example", "http", allowed)


def test_an_asterisk_allows_any_and_an_empty_list_none() -> None:
    check_origin("null", "a.example", "http", ["*"])
    check_origin("null", "a.example", "http", ["null"])
    with pytest.raises(HandshakeRefused, match="none at all"):
        check_origin("http://a.example", "a.example", "http", [])
