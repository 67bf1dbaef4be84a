"""Framing (RFC 6455 §5.1-§5.3, §5.7, §5.8): every header, both roles, read at the first byte that breaks a rule."""

from __future__ import annotations

import itertools

import pytest
from tests.wire.raw import (
    BINARY,
    CLIENT,
    FIN,
    RSV1,
    SERVER,
    TEXT,
    End,
    both_ends,
    failure,
    frame,
    header,
    read_frames,
    told,
)

from portico.wire.messages import Messages
from portico.wire.states import FAILED, OPEN

CHUNKS = [1, 2, 3, 1 << 20]


def feed(messages: Messages, data: bytes, size: int) -> list[object]:
    return [event for at in range(0, len(data), size) for event in messages.feed(data[at : at + size])]


# -- §5.1: who masks


def test_a_server_fails_a_frame_that_is_not_masked() -> None:  # §5.1: MUST close upon receiving it
    assert failure(SERVER.messages().feed(frame(0x81, b"Hello"))) == 1002


def test_a_client_fails_a_frame_that_is_masked() -> None:  # §5.1: MUST close if it detects one
    assert failure(CLIENT.messages().feed(frame(0x81, b"Hello", b"abcd"))) == 1002


@pytest.mark.parametrize("first", [0x01, 0x81, 0x82, 0x88, 0x89, 0x8A])
def test_the_mask_bit_is_held_to_the_rule_in_every_kind_of_frame_as_it_comes(first: int) -> None:  # §5.1
    assert failure(SERVER.messages().feed(bytes((first, 0)))) == 1002
    assert failure(CLIENT.messages().feed(bytes((first, 0x80)))) == 1002


def everything_sent(end: End, size: int) -> bytes:
    messages = end.messages()
    packing = end.messages(end.codec())
    return b"".join(
        (
            messages.encode("x" * size),
            messages.encode(b"x" * size),
            packing.encode("x" * size),
            messages.ping(b"x" * min(size, 125)),
            messages.pong(b"x" * min(size, 125)),
            messages.close(1000, "x" * min(size, 123)),
        )
    )


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_server_masks_nothing_and_a_client_everything(size: int) -> None:  # §5.1
    from_server = read_frames(everything_sent(SERVER, size))
    from_client = read_frames(everything_sent(CLIENT, size))
    assert [key for _, key, _ in from_server] == [None] * 6
    assert all(key is not None for _, key, _ in from_client)
    assert [(first, payload) for first, _, payload in from_client] == [(first, data) for first, _, data in from_server]


def test_a_client_takes_a_fresh_key_for_every_frame() -> None:  # §5.3: MUST NOT be predictable from those before
    clients = [CLIENT.messages(), CLIENT.messages()]
    sent = b"".join(client.encode(b"x") + client.ping() for client in clients for _ in range(1000))
    keys = [int.from_bytes(key or b"", "big") for _, key, _ in read_frames(sent)]
    assert len(set(keys)) > 3990  # a key may come twice, once in a million
    assert 0 not in keys
    bits = sum(key.bit_count() for key in keys) / len(keys)
    assert 15 < bits < 17
    steps = {(second - first) & 0xFFFFFFFF for first, second in itertools.pairwise(keys)}
    assert len(steps) > 3900


# -- §5.2: the header


def verdict(end: End, first: int, second: int, compressed: bool) -> bool:
    """By §5.2 and §5.5 (and RFC 7692 §6): may a connection's first frame begin with these two bytes?"""
    opcode = first & 15
    rsv = first & 0x70
    if rsv and not (rsv == RSV1 and compressed and opcode in (TEXT, BINARY)):
        return False
    if opcode not in (1, 2, 8, 9, 10):  # 0 continues nothing here; the rest is reserved
        return False
    if opcode >= 8 and (not first & FIN or second & 127 > 125):
        return False
    return bool(second & 128) != end.client


@both_ends
@pytest.mark.parametrize("compressed", [False, True])
def test_every_first_byte_with_every_kind_of_second(end: End, compressed: bool) -> None:  # §5.2, §5.8
    """Each reserved bit and opcode is refused, and nothing else; RSV1 needs permessage-deflate."""
    for first, length, mask in itertools.product(range(256), (0, 1, 124, 125, 126, 127), (0, 128)):
        messages = end.messages(end.codec() if compressed else None)
        events = messages.feed(bytes((first, mask | length)))
        failed = messages.state == FAILED
        assert failed != verdict(end, first, mask | length, compressed), hex(first)
        if failed:
            assert failure(events) == 1002
        elif not (end.client and length == 0):  # which is a whole frame
            assert events == []


@both_ends
@pytest.mark.parametrize("first", [0x83, 0x84, 0x85, 0x86, 0x87, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F])
def test_an_unknown_opcode_fails_at_its_own_byte(end: End, first: int) -> None:  # §5.2
    assert failure(end.messages().feed(bytes((first,)))) == 1002


@both_ends
@pytest.mark.parametrize("rsv", range(0x10, 0x80, 0x10))
@pytest.mark.parametrize("opcode", [0, 1, 2, 8, 9, 10])
def test_a_reserved_bit_that_nothing_gave_a_meaning_fails_at_its_own_byte(end: End, rsv: int, opcode: int) -> None:
    """§5.2: MUST be 0 unless an extension is negotiated that defines meanings for non-zero values."""
    messages = end.messages()
    if opcode == 0:
        assert messages.feed(end.frame(0x01, b"x")) == []
    assert failure(messages.feed(bytes((FIN | rsv | opcode,)))) == 1002


LENGTHS = [0, 1, 125, 126, 127, 255, 256, 65535, 65536, 65537, 1 << 20]


@both_ends
@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_is_read_in_its_shortest_form(end: End, length: int) -> None:  # §5.2
    payload = bytes(i & 0xFF for i in range(length))
    assert end.messages().feed(end.frame(0x82, payload)) == [payload]


@both_ends
@pytest.mark.parametrize(("length", "form"), [(0, 16), (1, 16), (125, 16), (0, 64), (125, 64), (126, 64), (65535, 64)])
@pytest.mark.parametrize("first", [0x81, 0x02])
def test_a_length_in_more_bytes_than_it_needs_is_refused(end: End, first: int, length: int, form: int) -> None:  # §5.2
    """The minimal number of bytes MUST be used; known as soon as the length has come."""
    complete = end.header(first, length, form)
    cut = 4 if form == 16 else 10
    messages = end.messages()
    assert messages.feed(complete[: cut - 1]) == []
    assert failure(messages.feed(complete[cut - 1 : cut])) == 1002


@both_ends
@pytest.mark.parametrize("length", [1 << 63, (1 << 63) + 1, (1 << 64) - 1, (1 << 63) | 5])
@pytest.mark.parametrize("size", CHUNKS)
def test_a_64_bit_length_with_its_highest_bit_set_is_refused(end: End, length: int, size: int) -> None:  # §5.2
    assert failure(feed(end.messages(), end.header(0x82, length), size)) == 1002


HUGE = [(1 << 31) - 1, 1 << 31, (1 << 31) + 1, (1 << 32) - 1, 1 << 32, (1 << 32) + 5, (1 << 62) + 1, (1 << 63) - 1]


@both_ends
@pytest.mark.parametrize("length", HUGE)
@pytest.mark.parametrize("size", CHUNKS)
def test_a_huge_length_is_over_the_limit_and_never_wraps(end: End, length: int, size: int) -> None:  # §5.2, §10.4
    assert failure(feed(end.messages(), end.header(0x82, length), size)) == 1009


@both_ends
@pytest.mark.parametrize("length", HUGE)
@pytest.mark.parametrize("before", [0, 1, 1000])
def test_a_huge_length_after_other_fragments_never_wraps(end: End, length: int, before: int) -> None:  # §10.4
    for compressed in (False, True):
        messages = end.messages(end.codec() if compressed else None)
        first = 0x42 if compressed else 0x02
        stored = b"\x00" + before.to_bytes(2, "little") + (0xFFFF ^ before).to_bytes(2, "little") if compressed else b""
        assert messages.feed(end.frame(first, stored + bytes(before))) == []
        assert failure(messages.feed(end.header(0x80, length))) == 1009


@both_ends
def test_lengths_of_31_bits_are_read_where_the_limit_allows_them(end: End) -> None:  # §5.2
    most = (1 << 31) - 1
    for before, length in ((0, most), (1, most - 1), (0, most - 1)):
        messages = end.messages(max_message_bytes=most)
        assert messages.feed(end.frame(0x02, bytes(before)) + end.header(0x80, length) + b"x" * 50) == []
        assert messages.state == OPEN
        assert messages.assembling()
    for before, length in ((0, most + 1), (1, most), (0, most + 2)):
        messages = end.messages(max_message_bytes=most)
        assert messages.feed(end.frame(0x02, bytes(before))) == []
        assert failure(messages.feed(end.header(0x80, length))) == 1009


# -- §5.3: unmasking


def test_a_server_unmasks_with_the_key_of_each_frame() -> None:  # §5.3
    messages = SERVER.messages()
    keys = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01", b"\x80\x00\x00\x00", b"abcd"]
    stream = b"".join(frame(0x82, bytes(range(n)), key) for n in (0, 1, 5, 64, 125, 200) for key in keys)
    assert messages.feed(stream) == [bytes(range(n)) for n in (0, 1, 5, 64, 125, 200) for _ in keys]


@pytest.mark.parametrize("size", range(1, 12))
def test_a_server_unmasks_a_payload_that_comes_in_pieces(size: int) -> None:  # §5.3: i counts from the frame's start
    payload = bytes(range(256))
    stream = frame(0x02, payload, b"\x01\x02\x03\x04") + frame(0x80, payload[:99], b"\xf1\xf2\xf3\xf4")
    assert feed(SERVER.messages(), stream, size) == [payload + payload[:99]]


# -- §5.7: the RFC's own frames

EXAMPLES = [
    (CLIENT, "81 05 48 65 6c 6c 6f", ["Hello"]),
    (SERVER, "81 85 37 fa 21 3d 7f 9f 4d 51 58", ["Hello"]),
    (CLIENT, "01 03 48 65 6c 80 02 6c 6f", ["Hello"]),
    (CLIENT, "89 05 48 65 6c 6c 6f", [("ping", b"Hello")]),
    (SERVER, "8a 85 37 fa 21 3d 7f 9f 4d 51 58", [("pong", b"Hello")]),
    (CLIENT, "82 7e 01 00" + "ab" * 256, [b"\xab" * 256]),
    (CLIENT, "82 7f 00 00 00 00 00 01 00 00" + "cd" * 65536, [b"\xcd" * 65536]),
]


@pytest.mark.parametrize(("end", "text", "events"), EXAMPLES)
@pytest.mark.parametrize("size", CHUNKS)
def test_the_examples_of_the_rfc_are_read(end: End, text: str, events: list[object], size: int) -> None:  # §5.7
    assert told(feed(end.messages(), bytes.fromhex(text), size)) == events


def test_the_examples_of_the_rfc_are_written() -> None:  # §5.7
    server = SERVER.messages()
    assert server.encode("Hello") == bytes.fromhex("81 05 48 65 6c 6c 6f")
    assert server.ping(b"Hello") == bytes.fromhex("89 05 48 65 6c 6c 6f")
    assert server.pong(b"Hello") == bytes.fromhex("8a 05 48 65 6c 6c 6f")
    assert server.encode(bytes(256))[:4] == bytes.fromhex("82 7e 01 00")
    assert server.encode(bytes(65536))[:10] == bytes.fromhex("82 7f 00 00 00 00 00 01 00 00")
    ((first, key, payload),) = read_frames(CLIENT.messages().encode("Hello"))
    assert (first, len(key or b""), payload) == (0x81, 4, b"Hello")


# -- what comes in


@both_ends
def test_what_is_fed_may_be_bytes_a_bytearray_or_a_memoryview_and_stays_as_it_is(end: End) -> None:
    stream = end.frame(0x81, b"Hello") + end.frame(0x82, b"\x00\xff")
    for kind in (bytes, bytearray, memoryview):
        data = kind(stream)
        assert end.messages().feed(data) == ["Hello", b"\x00\xff"]
        assert data == stream
    assert end.messages().feed(b"") == []


@both_ends
def test_scan_reads_only_the_given_part_and_lets_go_of_the_buffer(end: End) -> None:
    stream = end.frame(0x81, b"Hello") + end.frame(0x82, b"World")
    for cut in range(len(stream) + 1):
        messages = end.messages()
        buffer = bytearray(stream[:cut] + b"\xff" * 20)
        events = messages.scan(buffer, cut)
        buffer.clear()  # a BufferError where it is still held
        buffer += stream[cut:]
        assert events + messages.scan(buffer, len(buffer)) == ["Hello", b"World"]
        buffer.clear()


@both_ends
def test_a_header_that_stops_anywhere_is_kept_and_that_is_an_assembly(end: End) -> None:
    stream = header(0x82, 70000, end.key)
    for cut in range(1, len(stream)):
        messages = end.messages()
        assert messages.feed(stream[:cut]) == []
        assert messages.assembling()
        assert messages.feed(b"") == []
        assert messages.feed(stream[cut:] + bytes(70000 - 1)) == []
        (event,) = messages.feed(b"\x00")
        assert isinstance(event, bytes)
        assert len(event) == 70000
        assert not messages.assembling()
