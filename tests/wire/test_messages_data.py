"""Data frames, sending, receiving and UTF-8 (RFC 6455 §5.6, §6, §8.1)."""

from __future__ import annotations

import pytest
from tests.wire.raw import CLIENT, SERVER, End, both_ends, failure, frame, read_frames

from portico.errors import LocalError
from portico.wire.states import FAILED, OPEN

TEXTS = ["", "a", "κόσμε", "\x00", "\ufeffbom", "\u0080߿", "ࠀ\uffff", "\U00010000\U0010ffff", "\ud7ff\ue000", "\ufffe"]

# text, and the index of the first byte that no text can have there (RFC 3629 §4)
BAD = [
    (b"\x80", 0),
    (b"ok\xbf", 2),
    (b"\xc0\xaf", 0),
    (b"\xc1\xbf", 0),
    (b"\xc3(", 1),
    (b"\xe0\x80\xaf", 1),
    (b"\xe2\x82(", 2),
    (b"\xed\xa0\x80", 1),
    (b"\xed\xbf\xbf", 1),
    (b"\xf0\x80\x80\xaf", 1),
    (b"\xf0\x9f\x98(", 3),
    (b"\xf4\x90\x80\x80", 1),
    (b"\xf5\x80\x80\x80", 0),
    (b"\xfe", 0),
    (b"\xff", 0),
    (b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited", 12),
]
UNFINISHED = [b"\xc3", b"ok \xe2\x82", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xf4", b"\xed"]


# -- §5.6, §6.2: receiving


@both_ends
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_frame_is_a_str(end: End, text: str) -> None:  # §5.6
    (message,) = end.messages().feed(end.frame(0x81, text.encode()))
    assert type(message) is str
    assert message == text


@both_ends
def test_a_binary_frame_is_bytes_whatever_they_are(end: End) -> None:  # §5.6: arbitrary
    for payload in (b"", b"\x00", bytes(range(256)), b"\xff" * 1000):
        (message,) = end.messages().feed(end.frame(0x82, payload))
        assert type(message) is bytes
        assert message == payload


@both_ends
@pytest.mark.parametrize("text", TEXTS)
def test_a_fragment_of_a_text_may_end_within_a_code_point(end: End, text: str) -> None:  # §5.6: the whole MUST be valid
    data = text.encode()
    for a in range(len(data) + 1):
        for b in range(a, len(data) + 1):
            stream = end.frame(0x01, data[:a]) + end.frame(0x00, data[a:b]) + end.frame(0x80, data[b:])
            assert end.messages().feed(stream) == [text]


@both_ends
def test_messages_come_in_the_order_of_their_frames(end: End) -> None:  # §6.2
    stream = b"".join(end.frame(0x81 if i % 2 else 0x82, b"%d" % i) for i in range(100))
    assert end.messages().feed(stream) == [str(i) if i % 2 else b"%d" % i for i in range(100)]


@both_ends
def test_a_large_message_that_comes_byte_by_byte(end: End) -> None:
    """Its cost must stay linear: each byte is looked at once."""
    payload = "é".encode() * 40_000
    stream = end.frame(0x81, payload)
    messages = end.messages()
    events = [event for i in range(len(stream)) for event in messages.feed(stream[i : i + 1])]
    assert events == ["é" * 40_000]


# -- §8.1: UTF-8


@both_ends
@pytest.mark.parametrize(("data", "_bad"), BAD)
def test_a_text_that_is_not_utf_8_fails_with_1007(end: End, data: bytes, _bad: int) -> None:  # §8.1: MUST fail
    messages = end.messages()
    assert failure(messages.feed(end.frame(0x81, data))) == 1007
    assert messages.state == FAILED


@both_ends
@pytest.mark.parametrize(("data", "bad"), BAD)
@pytest.mark.parametrize("first", [0x01, 0x81])
def test_it_fails_at_the_first_bad_byte_in_the_middle_of_a_frame(end: End, data: bytes, bad: int, first: int) -> None:
    payload = data + b" and much more"
    stream = end.frame(first, payload)
    start = len(stream) - len(payload)
    messages = end.messages()
    for at in range(start + bad):
        assert messages.feed(stream[at : at + 1]) == []
    assert messages.state == OPEN
    assert failure(messages.feed(stream[start + bad : start + bad + 1])) == 1007


@both_ends
@pytest.mark.parametrize(("data", "bad"), BAD)
def test_it_fails_in_the_fragment_of_the_first_bad_byte(end: End, data: bytes, bad: int) -> None:  # §8.1
    messages = end.messages()
    for i in range(bad):
        assert messages.feed(end.frame(0x00 if i else 0x01, data[i : i + 1])) == []
    assert failure(messages.feed(end.frame(0x00 if bad else 0x01, data[bad : bad + 1]))) == 1007


@both_ends
@pytest.mark.parametrize("data", UNFINISHED)
def test_a_text_that_ends_within_a_code_point_fails(end: End, data: bytes) -> None:  # §8.1
    whole = end.messages()
    torn = end.messages()
    fragments = end.messages()
    stream = end.frame(0x81, data)
    assert failure(whole.feed(stream)) == 1007
    assert failure(event for i in range(len(stream)) for event in torn.feed(stream[i : i + 1])) == 1007
    assert fragments.feed(end.frame(0x01, data)) == []
    assert failure(fragments.feed(end.frame(0x80))) == 1007


@both_ends
@pytest.mark.parametrize("data", UNFINISHED)
def test_an_unfinished_code_point_does_not_reach_into_the_next_message(end: End, data: bytes) -> None:  # §8.1
    messages = end.messages()
    assert messages.feed(end.frame(0x01, data)) == []
    assert failure(messages.feed(end.frame(0x80) + end.frame(0x81, b"\x80"))) == 1007


@both_ends
def test_a_control_frame_within_a_text_leaves_its_code_point_alone(end: End) -> None:  # §5.4
    stream = end.frame(0x01, b"\xe2") + end.frame(0x89, b"\xff") + end.frame(0x00, b"\x82") + end.frame(0x80, b"\xac")
    assert end.messages().feed(stream)[1:] == ["€"]


# -- §6.1: sending


@both_ends
@pytest.mark.parametrize("text", TEXTS)
def test_a_str_goes_out_as_one_text_frame(end: End, text: str) -> None:  # §6.1
    ((first, _, payload),) = read_frames(end.messages().encode(text))
    assert (first, payload) == (0x81, text.encode())


@both_ends
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
def test_bytes_of_any_kind_go_out_as_one_binary_frame(end: End, size: int) -> None:  # §6.1
    data = bytes(i & 0xFF for i in range(size))
    for kind in (bytes, bytearray, memoryview):
        ((first, _, payload),) = read_frames(end.messages().encode(kind(data)))
        assert (first, payload) == (0x82, data)
    ((_, _, payload),) = read_frames(end.messages().encode(memoryview(data)[::2]))
    assert payload == data[::2]


@both_ends
@pytest.mark.parametrize("text", ["\ud800", "ok \udfff"])
def test_a_str_that_utf_8_can_not_hold_is_the_callers_error(end: End, text: str) -> None:  # §5.6
    messages = end.messages()
    with pytest.raises(LocalError, match="UTF-8"):
        messages.encode(text)
    assert messages.state == OPEN


@both_ends
@pytest.mark.parametrize("thing", [None, 1, 1.5, ["a"], {"a": 1}, object()])
def test_another_type_is_the_callers_error(end: End, thing: object) -> None:
    with pytest.raises(LocalError, match=r"message of type .*: expected str, bytes, bytearray or memoryview"):
        end.messages().encode(thing)


def test_a_subclass_of_str_or_bytes_is_one() -> None:
    class Text(str):
        __slots__ = ()

    class Data(bytes):
        __slots__ = ()

    for end in (SERVER, CLIENT):
        messages = end.messages(end.codec())
        assert [payload for _, _, payload in read_frames(messages.encode(Text("é")))] == ["é".encode()]
        assert [payload for _, _, payload in read_frames(messages.encode(Data(b"\xff")))] == [b"\xff"]


# -- both ends together


@pytest.mark.parametrize("takeover", [None, False, True])
def test_what_one_end_sends_the_other_receives(takeover: bool | None) -> None:
    sent: list[object] = [*TEXTS, *(text.encode() for text in TEXTS), "x" * 70_000, b"y" * 70_000, "z" * 126, b"", ""]
    codecs = [None if takeover is None else end.codec(takeover=takeover) for end in (SERVER, CLIENT)]
    server, client = SERVER.messages(codecs[0]), CLIENT.messages(codecs[1])
    for sender, receiver in ((server, client), (client, server)):
        assert receiver.feed(b"".join(sender.encode(message) for message in sent)) == sent


def test_a_server_and_a_client_do_not_take_each_others_place() -> None:  # §5.1
    assert failure(SERVER.messages().feed(SERVER.messages().encode("x"))) == 1002
    assert failure(CLIENT.messages().feed(CLIENT.messages().encode("x"))) == 1002
    assert failure(CLIENT.messages().feed(frame(0x81, b"x", bytes(4)))) == 1002
