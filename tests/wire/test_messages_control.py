"""Control frames (RFC 6455 §5.5): pings, pongs and how they are answered. Close frames are in test_messages_close."""

from __future__ import annotations

import pytest
from tests.wire.raw import End, both_ends, failure, read_frames, told

from portico.errors import LocalError
from portico.wire.messages import Ping
from portico.wire.states import FAILED, OPEN

NAMES = {0x89: "ping", 0x8A: "pong"}


@both_ends
@pytest.mark.parametrize("first", [0x89, 0x8A])
@pytest.mark.parametrize("size", [0, 1, 124, 125])
def test_a_control_frame_has_at_most_125_bytes(end: End, first: int, size: int) -> None:  # §5.5
    payload = bytes(range(size))
    messages = end.messages()
    assert told(messages.feed(end.frame(first, payload))) == [(NAMES[first], payload)]
    assert messages.state == OPEN


@both_ends
@pytest.mark.parametrize("first", [0x88, 0x89, 0x8A])
@pytest.mark.parametrize("form", [16, 64])
def test_a_longer_control_frame_fails_at_its_second_byte(end: End, first: int, form: int) -> None:  # §5.5: MUST have
    messages = end.messages()
    assert failure(messages.feed(end.header(first, 126, form)[:2])) == 1002
    assert messages.state == FAILED


@both_ends
@pytest.mark.parametrize("first", [0x89, 0x8A])
def test_a_control_frame_is_told_whole_wherever_it_is_torn(end: End, first: int) -> None:
    stream = end.frame(first, b"application data")
    for cut in range(len(stream)):
        messages = end.messages()
        assert messages.feed(stream[:cut]) == []
        assert messages.assembling() == (cut > 0)
        assert told(messages.feed(stream[cut:])) == [(NAMES[first], b"application data")]
        assert not messages.assembling()


@both_ends
def test_a_control_payload_is_any_bytes(end: End) -> None:  # §5.5.2, §5.5.3: application data
    payload = bytes(range(131, 256))
    for first, name in NAMES.items():
        assert told(end.messages().feed(end.frame(first, payload))) == [(name, payload)]


@both_ends
def test_a_pong_has_the_payload_of_its_ping(end: End) -> None:  # §5.5.3: identical application data
    messages = end.messages()
    for payload in (b"", b"x", bytes(range(125))):
        (ping,) = messages.feed(end.frame(0x89, payload))
        assert isinstance(ping, Ping)
        ((first, _, answer),) = read_frames(messages.pong(ping.payload))
        assert (first, answer) == (0x8A, payload)


@both_ends
def test_several_pings_are_all_told_so_that_the_latest_can_be_answered(end: End) -> None:  # §5.5.3: MAY elect
    stream = b"".join(end.frame(0x89, b"%d" % i) for i in range(50))
    assert told(end.messages().feed(stream)) == [("ping", b"%d" % i) for i in range(50)]


@both_ends
def test_a_pong_nobody_asked_for_is_told_and_harmless(end: End) -> None:  # §5.5.3: unsolicited
    messages = end.messages()
    assert told(messages.feed(end.frame(0x8A, b"heartbeat"))) == [("pong", b"heartbeat")]
    assert messages.state == OPEN
    assert messages.feed(end.frame(0x81, b"on")) == ["on"]


@both_ends
def test_a_ping_is_answered_after_our_close_frame_too(end: End) -> None:
    """§5.5.2: MUST send a pong, unless it already *received* a close frame."""
    messages = end.messages()
    messages.close()
    assert told(messages.feed(end.frame(0x89, b"x"))) == [("ping", b"x")]
    ((first, _, payload),) = read_frames(messages.pong(b"x"))
    assert (first, payload) == (0x8A, b"x")


@both_ends
def test_no_ping_is_told_after_the_peers_close_frame(end: End) -> None:  # §5.5.2, so none is answered
    messages = end.messages()
    assert told(messages.feed(end.frame(0x88) + end.frame(0x89, b"x"))) == [("closing", 1005, "")]
    assert messages.feed(end.frame(0x89, b"x")) == []


@both_ends
def test_what_is_sent_has_fin_no_reserved_bit_and_at_most_125_bytes(end: End) -> None:  # §5.5
    messages = end.messages(end.codec())
    for size in (0, 1, 125):
        sent = read_frames(messages.ping(b"x" * size) + messages.pong(b"x" * size))
        assert [(first, payload) for first, _, payload in sent] == [(0x89, b"x" * size), (0x8A, b"x" * size)]
    for write in (messages.ping, messages.pong):
        with pytest.raises(LocalError, match="at most 125"):
            write(b"x" * 126)
    assert [payload for _, _, payload in read_frames(messages.ping() + messages.pong())] == [b"", b""]


@both_ends
def test_a_flood_of_control_frames_leaves_nothing_behind(end: End) -> None:
    messages = end.messages()
    assert len(messages.feed(end.frame(0x89, b"x" * 125) * 2000)) == 2000
    assert not messages.assembling()
