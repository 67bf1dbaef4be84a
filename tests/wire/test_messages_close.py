"""Closing (RFC 6455 §5.5.1, §7): the handshake from either side or both, close codes, and failing the connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.wire.raw import CLIENT, SERVER, End, both_ends, failure, read_frames, told

from portico.errors import LocalError
from portico.wire.messages import Messages
from portico.wire.states import CLOSE_RECEIVED, CLOSE_SENT, CLOSED, FAILED, OPEN

ALLOWED = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
REFUSED = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, 65535]


def close_body(code: int, reason: bytes = b"") -> bytes:
    return code.to_bytes(2, "big") + reason


def sent_close(data: bytes) -> bytes:
    """The payload of the one close frame in `data`."""
    ((first, _, payload),) = read_frames(data)
    assert first == 0x88
    return payload


# -- §7.1.2, §7.1.3: the closing handshake


@both_ends
def test_we_close_and_the_peer_answers(end: End) -> None:  # §7.1.2
    messages = end.messages()
    assert sent_close(messages.close(1001, "bye")) == close_body(1001, b"bye")
    assert messages.state == CLOSE_SENT
    assert told(messages.feed(end.frame(0x88, close_body(1001, b"bye")))) == [("closing", 1001, "bye")]
    assert messages.state == CLOSED
    assert messages.close_answer(1001) == b""
    assert messages.feed_eof() == []


@both_ends
def test_the_peer_closes_and_we_answer(end: End) -> None:  # §5.5.1: MUST send a close frame in response
    messages = end.messages()
    assert told(messages.feed(end.frame(0x88, close_body(4000, "très bien".encode())))) == [
        ("closing", 4000, "très bien")
    ]
    assert messages.state == CLOSE_RECEIVED
    assert sent_close(messages.close_answer(4000)) == close_body(4000)  # it echoes the status code
    assert messages.state == CLOSED
    assert messages.feed_eof() == []


def test_both_close_at_once() -> None:  # §5.5.1: both sent, both received: closed
    server, client = SERVER.messages(), CLIENT.messages()
    from_server, from_client = server.close(1000), client.close(4001, "me too")
    assert told(server.feed(from_client)) == [("closing", 4001, "me too")]
    assert told(client.feed(from_server)) == [("closing", 1000, "")]
    assert server.state == client.state == CLOSED
    assert server.close_answer(4001) == client.close_answer(1000) == b""


@both_ends
def test_the_answer_to_a_close_frame_without_a_code_has_none(end: End) -> None:  # §5.5.1, §7.4.1: never 1005
    messages = end.messages()
    assert told(messages.feed(end.frame(0x88))) == [("closing", 1005, "")]
    assert sent_close(messages.close_answer(1005)) == b""


@both_ends
def test_an_answer_may_have_another_code(end: End) -> None:  # §5.5.1: "typically echoes"
    messages = end.messages()
    messages.feed(end.frame(0x88, close_body(1000)))
    assert sent_close(messages.close(1011, "x")) == close_body(1011, b"x")
    assert messages.state == CLOSED


@both_ends
@pytest.mark.parametrize("code", ALLOWED)
def test_every_code_that_may_be_received_is_told_and_can_be_echoed(end: End, code: int) -> None:  # §7.4
    messages = end.messages()
    assert told(messages.feed(end.frame(0x88, close_body(code)))) == [("closing", code, "")]
    assert sent_close(messages.close_answer(code)) == close_body(code)


@both_ends
def test_there_is_nothing_to_answer_without_a_close_frame(end: End) -> None:
    messages = end.messages()
    assert messages.close_answer(1000) == b""
    assert messages.state == OPEN


@both_ends
def test_a_close_frame_is_sent_only_once(end: End) -> None:  # §5.5.1
    def sent(messages: Messages) -> Messages:
        assert messages.close()
        return messages

    def answered(messages: Messages) -> Messages:
        messages.feed(end.frame(0x88))
        assert messages.close_answer(1005)
        return messages

    def crossed(messages: Messages) -> Messages:
        messages.feed(end.frame(0x88))
        return sent(messages)

    def failed_before(messages: Messages) -> Messages:
        assert failure(messages.feed(b"\xff")) == 1002
        return sent(messages)

    def failed_after(messages: Messages) -> Messages:
        sent(messages)
        assert failure(messages.feed(b"\xff")) == 1002
        return messages

    for way in (sent, answered, crossed, failed_before, failed_after):
        messages = way(end.messages())
        assert messages.close(1002) == b""
        assert messages.close_answer(1000) == b""


@both_ends
@pytest.mark.parametrize("thing", ["text", b"data", bytearray(b"data")])
def test_no_data_follows_our_close_frame(end: End, thing: object) -> None:  # §5.5.1: MUST NOT send any more data
    messages = end.messages()
    messages.close()
    with pytest.raises(LocalError, match="after the close frame"):
        messages.encode(thing)
    messages.feed(end.frame(0x88))
    with pytest.raises(LocalError, match="after the close frame"):
        messages.encode(thing)


@both_ends
def test_data_may_be_sent_between_the_peers_close_frame_and_ours(end: End) -> None:
    """§5.5.1: an endpoint MAY delay its close frame until its current message is sent."""
    messages = end.messages()
    messages.feed(end.frame(0x88))
    assert read_frames(messages.encode("last"))[0][2] == b"last"


@both_ends
def test_messages_are_still_received_between_our_close_frame_and_the_peers(end: End) -> None:  # §7.1.3
    messages = end.messages()
    messages.close()
    stream = end.frame(0x81, b"on its way") + end.frame(0x01, b"a") + end.frame(0x80, b"b")
    assert messages.feed(stream) == ["on its way", "ab"]
    assert messages.state == CLOSE_SENT
    assert told(messages.feed(end.frame(0x8A, b"x") + end.frame(0x88))) == [("pong", b"x"), ("closing", 1005, "")]
    assert messages.state == CLOSED


@both_ends
@pytest.mark.parametrize("after", [b"", b"\xff\xff\xff", b"\x81", b"\x88\x00", b"\x00" * 1000])
@pytest.mark.parametrize("we_close_first", [False, True])
def test_what_follows_the_peers_close_frame_is_not_read(end: End, after: bytes, we_close_first: bool) -> None:  # §1.4
    messages = end.messages()
    if we_close_first:
        messages.close()
    assert told(messages.feed(end.frame(0x88, close_body(1000)) + after)) == [("closing", 1000, "")]
    assert messages.feed(after) == []
    assert messages.feed(end.frame(0x81, b"x")) == []
    assert messages.state == (CLOSED if we_close_first else CLOSE_RECEIVED)
    assert not messages.assembling()


@both_ends
def test_a_close_frame_is_read_wherever_it_is_torn(end: End) -> None:  # §5.5.1
    stream = end.frame(0x88, close_body(1001, "bis später".encode()))
    for cut in range(len(stream)):
        messages = end.messages()
        assert messages.feed(stream[:cut]) == []
        assert messages.state == OPEN
        assert told(messages.feed(stream[cut:])) == [("closing", 1001, "bis später")]


# -- §5.5.1, §7.1.5, §7.1.6, §7.4: what is in a close frame


@both_ends
@pytest.mark.parametrize("octet", [b"\x00", b"\x03", b"\xff"])
def test_a_close_payload_of_one_byte_fails(end: End, octet: bytes) -> None:  # §5.5.1: MUST be a 2-byte integer
    messages = end.messages()
    assert failure(messages.feed(end.frame(0x88, octet))) == 1002
    assert messages.state == FAILED


@both_ends
@pytest.mark.parametrize("code", REFUSED)
@pytest.mark.parametrize("reason", [b"", b"why"])
def test_a_code_that_must_not_be_in_a_frame_fails(end: End, code: int, reason: bytes) -> None:  # §7.4.1, §7.4.2
    assert failure(end.messages().feed(end.frame(0x88, close_body(code, reason)))) == 1002


@both_ends
@pytest.mark.parametrize("code", [*REFUSED[:4], *REFUSED[5:], -1, 65536, 1 << 40])
def test_a_code_that_must_not_be_in_a_frame_is_not_sent(end: End, code: int) -> None:  # §7.4.1: MUST NOT be set
    messages = end.messages()
    with pytest.raises(LocalError, match="close code"):
        messages.close(code)
    assert messages.state == OPEN
    assert messages.encode("still open")


@both_ends
def test_a_close_frame_without_a_code_is_sent_for_1005(end: End) -> None:  # §7.4.1: 1005 itself is never in a frame
    assert sent_close(end.messages().close(1005)) == b""


@both_ends
@pytest.mark.parametrize("reason", [b"\xff", b"x\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80"])
def test_a_reason_that_is_not_utf_8_fails(end: End, reason: bytes) -> None:  # §5.5.1, §8.1
    assert failure(end.messages().feed(end.frame(0x88, close_body(1000, reason)))) == 1007


@both_ends
def test_a_reason_of_123_bytes_is_told(end: End) -> None:  # §5.5, §7.1.6
    reason = "€" * 41
    assert told(end.messages().feed(end.frame(0x88, close_body(3000, reason.encode())))) == [("closing", 3000, reason)]
    assert sent_close(end.messages().close(3000, reason)) == close_body(3000, reason.encode())


@both_ends
@pytest.mark.parametrize("reason", ["x" * 124, "€" * 42, "\ud800"])
def test_a_reason_that_does_not_fit_is_not_sent(end: End, reason: str) -> None:  # §5.5
    messages = end.messages()
    with pytest.raises(LocalError, match="close reason"):
        messages.close(1000, reason)
    assert messages.state == OPEN


# -- §7.1.4, §7.1.5, §7.2: TCP's end

WAYS: dict[str, Callable[[End, Messages], object]] = {
    "open": lambda end, messages: None,
    "within a header": lambda end, messages: messages.feed(b"\x81"),
    "within a frame": lambda end, messages: messages.feed(end.frame(0x82, b"abc")[:-1]),
    "within a message": lambda end, messages: messages.feed(end.frame(0x02, b"abc")),
    "after our close frame": lambda end, messages: messages.close(),
}


@both_ends
@pytest.mark.parametrize("way", WAYS)
def test_tcp_that_ends_before_a_close_frame_came_means_1006(end: End, way: str) -> None:  # §7.1.5
    messages = end.messages()
    WAYS[way](end, messages)
    assert failure(messages.feed_eof()) == 1006
    assert messages.state == FAILED
    assert not messages.assembling()
    assert messages.feed_eof() == []
    assert messages.feed(end.frame(0x81, b"x")) == []


@both_ends
def test_tcp_that_ends_before_our_answer_changes_nothing_about_the_code(end: End) -> None:
    """§7.1.5: the code is the one in the close frame that came."""
    messages = end.messages()
    assert told(messages.feed(end.frame(0x88, close_body(1001)))) == [("closing", 1001, "")]
    assert messages.feed_eof() == []
    assert messages.state == FAILED  # not cleanly: no answer went out (§7.1.4)
    assert messages.close_answer(1001) == b""


@both_ends
def test_tcp_that_ends_after_a_failure_tells_nothing_more(end: End) -> None:  # §7.1.7
    messages = end.messages()
    assert failure(messages.feed(b"\xff")) == 1002
    assert messages.feed_eof() == []


# -- §7.1.7: failing the connection

BREAKS = {
    1002: b"\xff",
    1007: b"\x81\x01\xff",
    1009: b"\x82\x7f\x00\x00\x00\x00\xff\xff\xff\xff",
}


@pytest.mark.parametrize("code", BREAKS)
def test_a_failure_is_answered_by_a_close_frame_with_its_code(code: int) -> None:  # §7.1.7: SHOULD
    messages = CLIENT.messages()
    (event,) = told(messages.feed(BREAKS[code]))
    assert event[:2] == ("failed", code)
    payload = sent_close(messages.close(code, str(event[2])))
    assert payload[:2] == code.to_bytes(2, "big")
    assert payload[2:].decode() == event[2]
    assert messages.state == FAILED


@both_ends
def test_nothing_is_read_after_a_failure_not_even_a_close_frame(end: End) -> None:  # §7.1.7: MUST NOT process
    messages = end.messages()
    stream = end.frame(0x81, b"good") + b"\xff" + end.frame(0x81, b"x") + end.frame(0x88)
    good, failed = told(messages.feed(stream))
    assert good == "good"
    assert failed[:2] == ("failed", 1002)
    assert messages.feed(end.frame(0x88)) == []
    assert messages.state == FAILED
    assert not messages.assembling()


@both_ends
def test_what_came_before_a_failure_in_the_same_read_is_told(end: End) -> None:  # §7.1.7
    stream = end.frame(0x81, b"a") + end.frame(0x89, b"b") + end.frame(0x82, b"c") + end.frame(0x83)
    *good, failed = told(end.messages().feed(stream))
    assert good == ["a", ("ping", b"b"), b"c"]
    assert failed[0] == "failed"


@both_ends
def test_a_rule_is_held_to_after_our_close_frame_too(end: End) -> None:  # §7.1.7
    messages = end.messages()
    messages.close()
    assert failure(messages.feed(b"\x83")) == 1002
    assert messages.state == FAILED
