"""Fragmentation (RFC 6455 §5.4): order, control frames in between, and what the receiver holds it to."""

from __future__ import annotations

import itertools

import pytest
from tests.wire.raw import CLIENT, SERVER, End, both_ends, failure, read_frames, told

from portico.wire.states import FAILED, OPEN


@both_ends
@pytest.mark.parametrize(("opcode", "message"), [(1, "Hello, world"), (2, b"Hello, world")])
@pytest.mark.parametrize("count", [1, 2, 3, 12, 40])
def test_fragments_make_one_message_of_the_first_ones_type(
    end: End, opcode: int, message: str | bytes, count: int
) -> None:  # §5.4
    data = b"Hello, world"
    cuts = [len(data) * i // count for i in range(count + 1)]
    pieces = [data[a:b] for a, b in itertools.pairwise(cuts)]
    messages = end.messages()
    for i, piece in enumerate(pieces):
        assert not messages.assembling() or i
        first = (0x80 if i == count - 1 else 0) | (0 if i else opcode)
        events = messages.feed(end.frame(first, piece))
        assert events == ([message] if i == count - 1 else [])
    assert not messages.assembling()


@both_ends
@pytest.mark.parametrize("opcode", [1, 2])
def test_an_unfragmented_message_is_one_frame_with_fin_and_an_opcode(end: End, opcode: int) -> None:  # §5.4
    assert end.messages().feed(end.frame(0x80 | opcode, b"x")) == ["x" if opcode == 1 else b"x"]


@both_ends
def test_empty_fragments_are_fragments(end: End) -> None:  # §5.2: a payload of length zero
    for opcode, empty in ((1, ""), (2, b"")):
        messages = end.messages()
        assert messages.feed(end.frame(opcode) + end.frame(0) + end.frame(0)) == []
        assert messages.assembling()
        assert messages.feed(end.frame(0x80)) == [empty]
        assert messages.feed(end.frame(opcode) + end.frame(0, b"x") + end.frame(0x80)) == ["x" if opcode == 1 else b"x"]


@both_ends
@pytest.mark.parametrize("first", [0x00, 0x80])
def test_a_continuation_of_no_message_fails_at_its_own_byte(end: End, first: int) -> None:  # §5.4
    assert failure(end.messages().feed(bytes((first,)))) == 1002


@both_ends
@pytest.mark.parametrize("first", [0x00, 0x80])
def test_a_continuation_after_a_whole_message_fails(end: End, first: int) -> None:  # §5.4
    messages = end.messages()
    stream = end.frame(0x01, b"a") + end.frame(0x80, b"b") + end.frame(0x82, b"c")
    assert messages.feed(stream) == ["ab", b"c"]
    assert failure(messages.feed(end.frame(first, b"x"))) == 1002


@both_ends
@pytest.mark.parametrize("first", [0x01, 0x02, 0x81, 0x82])
@pytest.mark.parametrize("opcode", [1, 2])
def test_messages_are_not_interleaved(end: End, first: int, opcode: int) -> None:  # §5.4: fragments MUST NOT be
    messages = end.messages()
    assert messages.feed(end.frame(opcode, b"a") + end.frame(0, b"b")) == []
    assert failure(messages.feed(bytes((first,)))) == 1002


@both_ends
def test_control_frames_come_between_fragments(end: End) -> None:  # §5.4: MUST be handled in the middle of a message
    stream = (
        end.frame(0x01, b"a")
        + end.frame(0x89, b"1")
        + end.frame(0x00, b"b")
        + end.frame(0x8A, b"2")
        + end.frame(0x89, b"")
        + end.frame(0x80, b"c")
    )
    wanted = [("ping", b"1"), ("pong", b"2"), ("ping", b""), "abc"]
    assert told(end.messages().feed(stream)) == wanted
    messages = end.messages()
    assert told(event for i in range(len(stream)) for event in messages.feed(stream[i : i + 1])) == wanted


@both_ends
def test_a_control_frame_is_told_before_the_message_around_it_ends(end: End) -> None:  # §5.4: latency of a ping
    messages = end.messages()
    assert messages.feed(end.frame(0x02, b"a" * 1000)) == []
    assert told(messages.feed(end.frame(0x89, b"now"))) == [("ping", b"now")]
    assert messages.feed(end.frame(0x80, b"b")) == [b"a" * 1000 + b"b"]


@both_ends
def test_a_close_frame_in_a_message_ends_it_untold(end: End) -> None:  # §5.4, §5.5.1
    messages = end.messages()
    assert told(messages.feed(end.frame(0x01, b"half") + end.frame(0x88) + end.frame(0x80, b"rest"))) == [
        ("closing", 1005, "")
    ]
    assert not messages.assembling()


@both_ends
@pytest.mark.parametrize("first", [0x08, 0x09, 0x0A])
@pytest.mark.parametrize("within", [False, True])
def test_a_control_frame_is_never_fragmented(end: End, first: int, within: bool) -> None:  # §5.4, §5.5: MUST NOT be
    messages = end.messages()
    if within:
        assert messages.feed(end.frame(0x01, b"x")) == []
    assert failure(messages.feed(bytes((first,)))) == 1002


def test_what_is_sent_is_never_fragmented() -> None:  # §5.4, §6.1
    """So fragments can't be interleaved, and control frames are whole."""
    for end in (SERVER, CLIENT):
        messages = end.messages()
        sent = messages.encode("x" * 200_000) + messages.encode(b"y" * 70_000) + messages.ping(b"z") + messages.close()
        assert [first for first, _, _ in read_frames(sent)] == [0x81, 0x82, 0x89, 0x88]


# -- limits


@both_ends
@pytest.mark.parametrize("piece", [b"", b"x"])
@pytest.mark.parametrize("limit", [1, 2, 7])
def test_the_fragments_of_a_message_are_counted_empty_ones_too(end: End, piece: bytes, limit: int) -> None:  # §10.4
    messages = end.messages(max_fragments=limit)
    for _ in range(3):  # each message anew
        stream = end.frame(0x82 if limit == 1 else 0x02, piece) + end.frame(0x00, piece) * (limit - 2)
        stream += end.frame(0x80, piece) if limit > 1 else b""
        assert messages.feed(stream) == [piece * limit]
    assert messages.feed(end.frame(0x02, piece) + end.frame(0x00, piece) * (limit - 1)) == []
    assert messages.state == OPEN
    assert failure(messages.feed(end.frame(0x00, piece))) == 1008
    assert messages.state == FAILED


@both_ends
def test_control_frames_are_no_fragments(end: End) -> None:
    messages = end.messages(max_fragments=2)
    assert messages.feed(end.frame(0x02, b"a")) == []
    assert len(messages.feed(end.frame(0x89, b"x") * 100)) == 100
    assert messages.feed(end.frame(0x80, b"b")) == [b"ab"]


@both_ends
def test_the_most_fragments_that_limits_allow_can_be_set(end: End) -> None:
    messages = end.messages(max_fragments=(1 << 31) - 1)
    assert messages.feed(end.frame(0x02, b"a") + end.frame(0x00) * 5000 + end.frame(0x80, b"b")) == [b"ab"]


LIMIT = 300


@both_ends
@pytest.mark.parametrize("first", [0x81, 0x82])
def test_a_message_in_one_frame_may_have_the_limit_and_no_byte_more(end: End, first: int) -> None:  # §10.4
    for size in (LIMIT - 1, LIMIT):
        assert len(end.messages(max_message_bytes=LIMIT).feed(end.frame(first, b"x" * size))[0]) == size  # type: ignore[arg-type]
    messages = end.messages(max_message_bytes=LIMIT)
    (event,) = told(messages.feed(end.header(first, LIMIT + 1)))  # known before the payload comes
    assert event == ("failed", 1009, "message larger than 300 bytes")


@both_ends
@pytest.mark.parametrize("first", [0x01, 0x02])
@pytest.mark.parametrize("sizes", [(299, 1), (300, 0), (0, 300), (1, 298), (100, 100, 100), (100, 0, 199)])
def test_a_message_in_fragments_may_have_the_limit(end: End, first: int, sizes: tuple[int, ...]) -> None:  # §10.4
    messages = end.messages(max_message_bytes=LIMIT)
    stream = end.frame(first, b"x" * sizes[0])
    stream += b"".join(end.frame(0x00, b"x" * size) for size in sizes[1:-1])
    stream += end.frame(0x80, b"x" * sizes[-1])
    (event,) = messages.feed(stream)
    assert isinstance(event, (str, bytes))
    assert len(event) == sum(sizes)


@both_ends
@pytest.mark.parametrize("sizes", [(300, 1), (0, 301), (1, 300), (150, 100, 51), (100, 0, 201)])
def test_a_message_in_fragments_is_refused_at_the_header_that_goes_over_the_limit(
    end: End, sizes: tuple[int, ...]
) -> None:  # §10.4
    messages = end.messages(max_message_bytes=LIMIT)
    assert messages.feed(end.frame(0x02, b"x" * sizes[0])) == []
    for size in sizes[1:-1]:
        assert messages.feed(end.frame(0x00, b"x" * size)) == []
    assert failure(messages.feed(end.header(0x80, sizes[-1]))) == 1009


@both_ends
def test_a_text_is_counted_in_bytes_not_in_characters(end: End) -> None:
    assert end.messages(max_message_bytes=LIMIT).feed(end.frame(0x81, "€".encode() * 100)) == ["€" * 100]
    assert failure(end.messages(max_message_bytes=LIMIT).feed(end.frame(0x81, "€".encode() * 101))) == 1009
