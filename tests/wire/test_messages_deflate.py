"""Compressed messages (RFC 7692 §6, §7.2) between others, in fragments, at the limits, and with rules broken."""

from __future__ import annotations

import os
import tracemalloc
import zlib

import pytest
from tests.wire.raw import CLIENT, SERVER, End, both_ends, failure, read_frames, told

from portico.limits import Deflate
from portico.wire.deflate import Codec, deflate
from portico.wire.extensions import Agreed
from portico.wire.states import FAILED, OPEN

TEXT = "Grüße an alle, " * 30
HELLO = bytes.fromhex("f2 48 cd c9 c9 07 00")
AGAIN = bytes.fromhex("f2 00 11 00 00")  # "Hello" once more, from the window

both_modes = pytest.mark.parametrize("takeover", [False, True], ids=["fresh", "takeover"])


def pack(data: bytes) -> bytes:
    return deflate(data, 6, 15, 8)


def torn(end: End, takeover: bool, stream: bytes, size: int, **limits: int) -> list[object]:
    messages = end.messages(end.codec(takeover=takeover), **limits)
    return told(event for at in range(0, len(stream), size) for event in messages.feed(stream[at : at + size]))


# -- RFC 7692 §6, §7.2.3: frames


def test_the_frames_of_the_rfc() -> None:  # RFC 7692 §7.2.3
    frames = [
        "c1 07 f2 48 cd c9 c9 07 00",
        "41 03 f2 48 cd 80 04 c9 c9 07 00",
        "c1 05 f2 00 11 00 00",
        "c1 0b 00 05 00 fa ff 48 65 6c 6c 6f 00",
        "c1 08 f3 48 cd c9 c9 07 00 00",
        "c1 0d f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
        "c1 01 00",
    ]
    stream = bytes.fromhex(" ".join(frames))
    for size in (1, 2, 5, 1000):
        assert torn(CLIENT, True, stream, size) == ["Hello"] * 6 + [""]


@both_ends
@both_modes
def test_every_way_to_fragment_a_compressed_message(end: End, takeover: bool) -> None:  # RFC 7692 §6.1
    for a in range(len(HELLO) + 1):
        for b in range(a, len(HELLO) + 1):
            messages = end.messages(end.codec(takeover=takeover))
            stream = end.frame(0x41, HELLO[:a]) + end.frame(0x00, HELLO[a:b]) + end.frame(0x80, HELLO[b:])
            assert messages.feed(stream) == ["Hello"]


@both_ends
@both_modes
def test_compressed_and_plain_messages_take_turns(end: End, takeover: bool) -> None:  # RFC 7692 §6: for each message
    messages = end.messages(end.codec(takeover=takeover))
    stream = end.frame(0xC1, HELLO) + end.frame(0x81, b"plain") + end.frame(0xC2, AGAIN if takeover else HELLO)
    stream += end.frame(0x01, b"pl") + end.frame(0x80, b"ain") + end.frame(0xC1, AGAIN if takeover else HELLO)
    assert messages.feed(stream) == ["Hello", "plain", b"Hello", "plain", "Hello"]


@both_ends
def test_without_takeover_the_window_ends_with_its_message(end: End) -> None:  # RFC 7692 §7.1.1
    messages = end.messages(end.codec())
    assert messages.feed(end.frame(0xC1, HELLO)) == ["Hello"]
    assert failure(messages.feed(end.frame(0xC1, AGAIN))) == 1007


@both_ends
@both_modes
def test_control_frames_come_between_compressed_fragments(end: End, takeover: bool) -> None:  # RFC 7692 §6.1
    stream = end.frame(0x41, HELLO[:3]) + end.frame(0x89, b"p") + end.frame(0x80, HELLO[3:])
    for size in (1, 3, 1000):
        assert torn(end, takeover, stream, size) == [("ping", b"p"), "Hello"]


@both_ends
@both_modes
@pytest.mark.parametrize("first", [0x40, 0xC0, 0xC8, 0xC9, 0xCA])
def test_rsv1_stands_only_on_the_first_frame_of_a_message(end: End, takeover: bool, first: int) -> None:
    """RFC 7692 §6: MUST NOT be set on other fragments or on control frames."""
    for begun in (0x01, 0x41):
        messages = end.messages(end.codec(takeover=takeover))
        assert messages.feed(end.frame(begun, HELLO[:3] if begun & 0x40 else b"x")) == []
        assert failure(messages.feed(bytes((first,)))) == 1002
    assert failure(end.messages(end.codec(takeover=takeover)).feed(bytes((first,)))) == 1002


@both_ends
@pytest.mark.parametrize("rsv", [0x10, 0x20, 0x30, 0x50, 0x60, 0x70])
def test_the_other_reserved_bits_stay_reserved(end: End, rsv: int) -> None:  # RFC 6455 §5.2
    assert failure(end.messages(end.codec()).feed(bytes((0x81 | rsv,)))) == 1002


@both_ends
@both_modes
def test_an_empty_message(end: End, takeover: bool) -> None:  # RFC 7692 §7.2.3.6
    messages = end.messages(end.codec(takeover=takeover))
    stream = end.frame(0xC1, b"\x00") + end.frame(0xC2, b"\x02\x00") + end.frame(0x41) + end.frame(0x80, b"\x00")
    assert messages.feed(stream) == ["", b"", ""]
    assert messages.feed(end.frame(0xC1)) == [""]  # without the one byte that it should have: not worth a failure
    assert messages.feed(end.frame(0xC1, HELLO)) == ["Hello"]


# -- UTF-8 and broken data


@both_ends
@both_modes
def test_a_compressed_text_is_utf_8_inflated(end: End, takeover: bool) -> None:  # RFC 6455 §8.1
    assert torn(end, takeover, end.frame(0xC1, pack(TEXT.encode())), 1) == [TEXT]
    for data in (b"ok \xff ok", b"\xed\xa0\x80", b"ends in \xe2\x82"):
        for size in (1, 1000):
            (event,) = torn(end, takeover, end.frame(0xC1, pack(data)), size)
            assert event == ("failed", 1007, "text message is not UTF-8")
    assert torn(end, takeover, end.frame(0xC2, pack(b"\xff\xfe")), 1) == [b"\xff\xfe"]


@both_ends
@both_modes
def test_a_bad_byte_is_found_before_the_message_ends(end: End, takeover: bool) -> None:  # RFC 6455 §8.1
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    begun = packer.compress(b"bad \xff") + packer.flush(zlib.Z_SYNC_FLUSH)
    messages = end.messages(end.codec(takeover=takeover))
    assert failure(messages.feed(end.frame(0x41, begun))) == 1007


@both_ends
@both_modes
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_what_can_not_be_inflated_fails_with_1007(end: End, takeover: bool, size: int) -> None:  # RFC 7692 §7.2.2
    for payload in (b"\xff\xff\xff", b"\x00\x05\x00\x00\x00hello", HELLO[:-1] + b"\xff\xff", b"\x07"):
        (event,) = torn(end, takeover, end.frame(0xC2, payload), size)
        assert event == ("failed", 1007, "compressed message can't be inflated")


@both_ends
@both_modes
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_of_two_faults_the_first_byte_counts(end: End, takeover: bool, size: int) -> None:
    broken = b"\x00\x00\xff\xff" + b"\x07" * 20
    cases = [
        (0xC1, pack(b"x" * 50 + b"\xff" + b"x" * 100) + broken, 1000, (1007, "text message is not UTF-8")),
        (0xC1, pack(b"x" * 200 + b"\xff") + broken, 100, (1009, "message larger than 100 bytes")),
        (0xC2, pack(b"x" * 101) + broken, 100, (1009, "message larger than 100 bytes")),
        (0xC2, pack(b"x" * 100) + broken, 100, (1007, "compressed message can't be inflated")),
        (0xC1, b"\x03\x00" * 40 + pack(b"\xff"), 100, (1007, "compressed message made of too many streams")),
    ]
    for first, payload, limit, wanted in cases:
        for stream in (end.frame(first, payload), end.frame(first & 0x7F, payload[:9]) + end.frame(0x80, payload[9:])):
            assert torn(end, takeover, stream, size, max_message_bytes=limit) == [("failed", *wanted)]


# -- limits


@both_ends
@both_modes
@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("limit", [1, 100, 70_000])
def test_the_limit_is_on_the_inflated_message(end: End, takeover: bool, more: int, limit: int) -> None:
    data = bytes(limit + more)
    payload = pack(data) if data else b"\x00"
    streams = [
        end.frame(0xC2, payload),
        end.frame(0x42, payload[:1]) + end.frame(0x00, payload[1:2]) + end.frame(0x80, payload[2:]),
        end.frame(0x42) + b"".join(end.frame(0, payload[i : i + 1]) for i in range(len(payload))) + end.frame(0x80),
    ]
    for stream in streams:
        for size in (1, 1 << 20):
            events = torn(end, takeover, stream, size, max_message_bytes=limit)
            if more > 0:
                assert events == [("failed", 1009, f"message larger than {limit} bytes")]
            else:
                assert events == [data]


@both_ends
@both_modes
def test_a_message_at_the_limit_passes_although_it_does_not_compress(end: End, takeover: bool) -> None:
    for limit in (1, 64, 1000, 100_000, 1 << 20):
        noise = os.urandom(limit)
        for level in (0, 1, 9):
            packer = zlib.compressobj(level, zlib.DEFLATED, -15)
            payload = (packer.compress(noise) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
            messages = end.messages(end.codec(takeover=takeover), max_message_bytes=limit)
            assert messages.feed(end.frame(0xC2, payload)) == [noise]


@both_ends
def test_a_compressed_frame_far_over_the_limit_is_refused_at_its_header(end: End) -> None:
    messages = end.messages(end.codec(), max_message_bytes=1000)
    assert failure(messages.feed(end.header(0xC2, 1200))) == 1009
    messages = end.messages(end.codec(), max_message_bytes=1000)
    assert messages.feed(end.frame(0x42, b"\x00\x00\x00\xff\xff" * 100)) == []
    assert failure(messages.feed(end.header(0x00, 700))) == 1009


@both_ends
def test_compressed_fragments_are_counted(end: End) -> None:
    messages = end.messages(end.codec(), max_fragments=3)
    assert messages.feed(end.frame(0x41) + end.frame(0x00) + end.frame(0x80, HELLO)) == ["Hello"]
    assert messages.feed(end.frame(0x41) + end.frame(0x00) * 2) == []
    assert failure(messages.feed(end.frame(0x80, HELLO))) == 1008


@both_ends
@both_modes
@pytest.mark.parametrize("fragment", [1000, 100_000, 1 << 21])
def test_a_bomb_stays_within_the_limit(end: End, takeover: bool, fragment: int) -> None:
    """1 GiB of zeros in 1 MiB, whole, in fragments, after other messages: never more than the limit in memory."""
    limit = 1 << 18
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first, again = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH) for _ in range(2))
    bomb = first + again * 200  # more than the limit lets in, compressed as it is
    messages = end.messages(end.codec(takeover=takeover), max_message_bytes=limit)
    assert messages.feed(end.frame(0xC1, HELLO)) == ["Hello"]
    pieces = [bomb[i : i + fragment] for i in range(0, len(bomb), fragment)]
    frames = [end.frame(0x42 if i == 0 else 0x00, piece) for i, piece in enumerate(pieces)]
    tracemalloc.start()
    try:
        events = [event for data in frames for event in messages.feed(data)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert failure(events) == 1009
    assert messages.state == FAILED
    assert peak < 4 * limit + 4 * min(fragment, len(bomb))


# -- what is sent


@both_ends
@both_modes
def test_a_compressed_message_has_rsv1_on_its_only_frame(end: End, takeover: bool) -> None:  # RFC 7692 §6, §7.2.1
    messages = end.messages(end.codec(takeover=takeover))
    for thing, opcode in ((TEXT, 1), (TEXT.encode(), 2)):
        ((first, _, payload),) = read_frames(messages.encode(thing))
        assert first == 0xC0 | opcode
        if opcode == 1:
            inflater = zlib.decompressobj(-15)
            assert inflater.decompress(payload + b"\x00\x00\xff\xff") == TEXT.encode()


@both_ends
def test_what_is_not_worth_it_goes_out_plain(end: End) -> None:
    messages = end.messages(end.codec(threshold=100))
    assert read_frames(messages.encode("x" * 99))[0][0] == 0x81
    assert read_frames(messages.encode("x" * 100))[0][0] == 0xC1
    assert read_frames(messages.encode(os.urandom(5000)))[0][0] == 0x82
    assert read_frames(end.messages(end.codec(threshold=0)).encode(""))[0][0] == 0x81


@pytest.mark.parametrize("server_keeps", [False, True])
@pytest.mark.parametrize("client_keeps", [False, True])
@pytest.mark.parametrize("bits", [(15, 15), (9, 12), (10, 9)])
def test_two_ends_with_any_parameters(server_keeps: bool, client_keeps: bool, bits: tuple[int, int]) -> None:
    """RFC 7692 §7.1: each side may keep its window or not, and have a smaller one."""
    agreed = Agreed(not server_keeps, not client_keeps, *bits)
    config = Deflate(threshold_bytes=10)
    server, client = (
        end.messages(Codec(agreed, config, client=end.client), max_message_bytes=1 << 20) for end in (SERVER, CLIENT)
    )
    noise = os.urandom(3000)
    sent: list[object] = ["", "short", TEXT, TEXT.encode() * 50, noise, noise, b"", TEXT, noise * 9]
    for sender, receiver in ((server, client), (client, server)):
        stream = b"".join(sender.encode(message) for message in sent)
        received = [event for i in range(0, len(stream), 997) for event in receiver.feed(stream[i : i + 997])]
        assert received == sent
        assert receiver.state == OPEN
