"""The client's side of the opening handshake (RFC 6455 §4.1)."""

from __future__ import annotations

import base64

import pytest

from portico.errors import HandshakeError, LocalError
from portico.limits import Deflate, Limits
from portico.wire.extensions import Agreed, accept_offer, make_offer
from portico.wire.handshake import accept_key, check_response, check_upgrade, client_request, new_key, switch_response
from portico.wire.http1 import RequestHead, RequestParser, ResponseHead, ResponseParser

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def response(data: bytes) -> ResponseHead:
    event = ResponseParser(Limits()).feed(data)[0]
    assert isinstance(event, ResponseHead), event
    return event


def test_a_key_is_16_fresh_random_bytes() -> None:  # §4.1, item 7 of the request
    assert len(base64.b64decode(new_key(), validate=True)) == 16
    assert new_key() != new_key()


def test_the_request_is_one_that_a_server_accepts() -> None:  # §4.1, items 2 to 12 of the request
    data = client_request(
        "a.example:8000",
        "/x?y=z",
        KEY,
        origin="http://a.example",
        subprotocols=["chat", "other"],
        extensions="permessage-deflate",
        headers=[("Cookie", "a=1")],
    )
    (head,) = RequestParser(Limits()).feed(data)
    assert isinstance(head, RequestHead)
    assert (head.raw, head.target) == (data, b"/x?y=z")
    assert (b"cookie", b"a=1") in head.headers
    upgrade = check_upgrade(head)
    assert (upgrade.key, upgrade.host, upgrade.origin) == (KEY, "a.example:8000", "http://a.example")
    assert (upgrade.subprotocols, upgrade.extensions) == (["chat", "other"], ["permessage-deflate"])


@pytest.mark.parametrize("target", ["", "x", "/a b", "/\r\n", "/é", "http://a/"])
def test_a_target_that_can_not_be_sent_is_refused(target: str) -> None:
    with pytest.raises(LocalError, match="target"):
        client_request("a", target, KEY)


@pytest.mark.parametrize("header", [("Host", "b"), ("Upgrade", "x"), ("sec-websocket-key", "x"), ("X", "a\nb")])
def test_a_header_of_the_caller_can_not_split_or_change_the_request(header: tuple[str, str]) -> None:
    with pytest.raises(LocalError):
        client_request("a", "/", KEY, headers=[header])


@pytest.mark.parametrize("names", [["a", "a"], ["a b"], [""]])
def test_subprotocols_are_tokens_each_named_once(names: list[str]) -> None:  # §4.1, item 10 of the request
    with pytest.raises(LocalError, match="subprotocol"):
        client_request("a", "/", KEY, subprotocols=names)


def test_no_argument_can_split_the_request() -> None:
    with pytest.raises(LocalError):
        client_request("a\r\nX: y", "/", KEY)
    with pytest.raises(LocalError):
        client_request("a", "/", KEY, origin="x\r\nX: y")


def test_a_valid_answer() -> None:
    assert check_response(response(switch_response(KEY)), KEY, [], None) == (None, None)
    assert check_response(response(switch_response(KEY, "b")), KEY, ["a", "b"], None) == ("b", None)


def test_the_compression_that_both_sides_agree_on() -> None:
    accepted = accept_offer([make_offer(Deflate())], Deflate())
    assert accepted is not None
    answer = response(switch_response(KEY, None, accepted[1]))
    assert check_response(answer, KEY, [], Deflate()) == (None, Agreed(True, True, 15, 15))


VALID = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept_key(KEY)}


def failure(more: str = "", *, line: str = "101 Switching Protocols", **changes: str | None) -> HandshakeError:
    fields = {**VALID, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    with pytest.raises(HandshakeError) as caught:
        check_response(response(f"HTTP/1.1 {line}\r\n{lines}{more}\r\n".encode("latin-1")), KEY, ["chat"], None)
    return caught.value


def test_another_status_fails_and_can_be_read_from_the_error() -> None:  # §4.1, item 1 of the answer
    error = failure("Location: /there\r\n", line="302 Found")
    assert error.status == 302
    assert ("location", "/there") in error.headers
    assert "302 Found" in str(error)


@pytest.mark.parametrize("value", [None, "h2c", "websocket, h2c", "web"])
def test_upgrade_must_be_websocket(value: str | None) -> None:  # §4.1, item 2 of the answer
    assert (value or "none came") in str(failure(Upgrade=value))


@pytest.mark.parametrize("value", [None, "close", "upgrades"])
def test_connection_must_name_upgrade(value: str | None) -> None:  # §4.1, item 3 of the answer
    assert (value or "none came") in str(failure(Connection=value))


@pytest.mark.parametrize("value", [None, "", "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=", accept_key(KEY).lower()])
def test_accept_must_answer_the_key(value: str | None) -> None:  # §4.1, item 4 of the answer
    error = failure(**{"Sec-WebSocket-Accept": value})
    assert accept_key(KEY) in str(error)
    assert error.status == 101


def test_there_must_be_one_accept() -> None:  # RFC 6455 §11.3.3
    failure(f"Sec-WebSocket-Accept: {accept_key(KEY)}\r\n")


@pytest.mark.parametrize("value", ["permessage-deflate", "x-other", "a b"])
def test_an_extension_that_was_not_offered_fails(value: str) -> None:  # §4.1, item 5 of the answer
    assert "xtension" in str(failure(f"Sec-WebSocket-Extensions: {value}\r\n"))


@pytest.mark.parametrize("lines", ["other", "Chat", "", "chat, chat"])
def test_a_subprotocol_that_was_not_offered_fails(lines: str) -> None:  # §4.1, item 6 of the answer
    assert "chat" in str(failure(f"Sec-WebSocket-Protocol: {lines}\r\n"))


def test_two_subprotocols_fail() -> None:  # RFC 6455 §11.3.4
    failure("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n")


def test_tokens_of_the_answer_are_compared_in_any_case() -> None:  # §4.1, items 2 and 3 of the answer
    lines = f"Upgrade: WebSocket\r\nConnection: x, UPGRADE\r\nSec-WebSocket-Accept: {accept_key(KEY)}\r\n"
    assert check_response(response(f"HTTP/1.1 101 OK\r\n{lines}\r\n".encode()), KEY, [], None) == (None, None)


def test_what_a_server_said_is_shown_as_text_and_not_obeyed() -> None:
    """0x80 to 0x9F, which a reason may have in it (RFC 9112 §4), are controls to a terminal; and it may be long."""
    head = response(b"HTTP/1.1 403 \x9b31mred\x9d0;title\xad caf\xe9 " + b"x" * 9000 + b"\r\n\r\n")
    with pytest.raises(HandshakeError) as raised:
        check_response(head, KEY, [], None)
    said = str(raised.value)
    assert said.startswith(r"the server answered 403 \x9b31mred\x9d0;title\xad café xxx")
    assert said.endswith("x, expected 101")
    assert said.isprintable()
    assert len(said) < 300
