"""permessage-deflate's data path (RFC 7692 §7.2): the RFC's own bytes, both takeover modes, windows and bounds."""

from __future__ import annotations

import os
import tracemalloc
import zlib

import pytest
from tests.wire.raw import CLIENT, SERVER

from portico.limits import Deflate
from portico.wire.deflate import MAX_STREAM_ENDS, Codec, deflate
from portico.wire.extensions import Agreed

ROOM = 1 << 20
TEXT = b'{"event": "chat", "text": "Hello, hello, hello"}' * 40


def codec(*, keep: bool = False, bits: int = 15, client: bool = False, threshold: int = 0) -> Codec:
    return Codec(Agreed(not keep, not keep, bits, bits), Deflate(threshold_bytes=threshold), client=client)


def inflate(reader: Codec, payload: bytes, room: int = ROOM) -> bytes:
    """A whole message, which must be good."""
    reader.start()
    out = reader.inflate(payload, room) if payload else b""
    out += reader.finish(room - len(out))
    assert reader.error == ""
    return out


# -- §7.2.3: the RFC's own examples

EXAMPLES = {
    "7.2.3.1 one block": ("f2 48 cd c9 c9 07 00", b"Hello"),
    "7.2.3.3 no compression": ("00 05 00 fa ff 48 65 6c 6c 6f 00", b"Hello"),
    "7.2.3.4 BFINAL": ("f3 48 cd c9 c9 07 00 00", b"Hello"),
    "7.2.3.5 two blocks": ("f2 48 05 00 00 00 ff ff ca c9 c9 07 00", b"Hello"),
    "7.2.3.6 empty": ("00", b""),
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("keep", [False, True])
def test_the_examples_are_inflated_torn_at_every_byte(name: str, keep: bool) -> None:  # RFC 7692 §7.2.3
    text, wanted = EXAMPLES[name]
    payload = bytes.fromhex(text)
    for cut in range(len(payload) + 1):
        reader = codec(keep=keep)
        for _ in range(3):
            reader.start()
            out = b"".join(reader.inflate(piece, ROOM) for piece in (payload[:cut], payload[cut:]) if piece)
            assert out + reader.finish(ROOM) == wanted
            assert reader.error == ""


def test_the_example_is_made() -> None:  # RFC 7692 §7.2.3.1, §7.2.3.2
    hello = bytes.fromhex("f2 48 cd c9 c9 07 00")
    assert deflate(b"Hello", 6, 15, 8) == hello
    writer = codec(keep=True)
    assert writer.compress(b"Hello") == hello
    assert writer.compress(b"Hello") == bytes.fromhex("f2 00 11 00 00")


def test_the_example_of_a_shared_window() -> None:  # RFC 7692 §7.2.3.2
    reader = codec(keep=True)
    assert inflate(reader, bytes.fromhex("f2 48 cd c9 c9 07 00")) == b"Hello"
    assert inflate(reader, bytes.fromhex("f2 00 11 00 00")) == b"Hello"


def test_a_window_that_is_not_taken_over_can_not_be_reached() -> None:  # RFC 7692 §7.1.1
    reader = codec(keep=False)
    assert inflate(reader, bytes.fromhex("f2 48 cd c9 c9 07 00")) == b"Hello"
    reader.start()
    reader.inflate(bytes.fromhex("f2 00 11 00 00"), ROOM)
    assert reader.error


# -- §7.2.1, §7.1: what is written


@pytest.mark.parametrize("keep", [False, True])
def test_the_tail_is_removed_and_what_is_written_inflates(keep: bool) -> None:  # RFC 7692 §7.2.1
    writer, inflater = codec(keep=keep), zlib.decompressobj(-15)
    for payload in (TEXT, b"x", TEXT[::-1], b"y" * 70_000, TEXT):
        packed = writer.compress(payload)
        if packed is None:
            assert payload == b"x"
            continue
        if not keep:
            inflater = zlib.decompressobj(-15)
        assert inflater.decompress(packed + b"\x00\x00\xff\xff") == payload


def test_without_takeover_equal_messages_are_equal_bytes_and_nothing_is_kept() -> None:  # RFC 7692 §7.1.1
    writer = codec(keep=False)
    assert writer.compress(TEXT) == writer.compress(TEXT) == deflate(TEXT, 6, 15, 8)
    assert inflate(writer, writer.compress(TEXT) or b"") == TEXT
    assert writer._compressor is None
    assert writer._inflater is None


def test_with_takeover_an_equal_message_shrinks() -> None:  # RFC 7692 §7.1.1
    writer, reader = codec(keep=True), codec(keep=True, client=True)
    noise = os.urandom(2000)
    packed = [writer.compress(noise) or b"" for _ in range(3)]
    assert len(packed[0]) > 2000
    assert len(packed[1]) < 50
    assert [inflate(reader, payload) for payload in packed] == [noise] * 3


def test_small_messages_are_left_alone() -> None:
    for keep in (False, True):
        writer = codec(keep=keep, threshold=100)
        assert writer.compress(b"x" * 99) is None
        assert writer.compress(b"x" * 100) is not None
        assert codec(keep=keep, threshold=0).compress(b"") is None


def test_what_would_grow_is_left_alone_where_no_window_depends_on_it() -> None:
    noise = os.urandom(5000)
    assert codec(keep=False).compress(noise) is None
    assert codec(keep=True).compress(noise) is not None  # the peer's window must follow


@pytest.mark.parametrize("bits", [9, 10, 12, 15])
@pytest.mark.parametrize("keep", [False, True])
def test_no_distance_reaches_beyond_the_agreed_window(bits: int, keep: bool) -> None:  # RFC 7692 §7.1.2
    writer, inflater = codec(keep=keep, bits=bits), zlib.decompressobj(-bits)
    unit = os.urandom(1 << 12)
    for payload in (unit * 3, TEXT * 30, unit):
        packed = writer.compress(payload)
        if packed is None:
            continue
        if not keep:
            inflater = zlib.decompressobj(-bits)
        packed += b"\x00\x00\xff\xff"
        pieces = (packed[i : i + 7] for i in range(0, len(packed), 7))  # so that the window is all that zlib has
        assert b"".join(inflater.decompress(piece) for piece in pieces) == payload


def test_each_parameter_is_for_the_side_that_it_names() -> None:  # RFC 7692 §7.1.1, §7.1.2
    agreed = Agreed(
        server_no_context_takeover=True,
        client_no_context_takeover=False,
        server_max_window_bits=10,
        client_max_window_bits=12,
    )
    server, client = (Codec(agreed, Deflate(), client=is_client) for is_client in (False, True))
    assert (server.keep_writing, server.keep_reading, server.write_bits, server.read_bits) == (False, True, 10, 12)
    assert (client.keep_writing, client.keep_reading, client.write_bits) == (True, False, 12)


@pytest.mark.parametrize("server_keeps", [False, True])
@pytest.mark.parametrize("client_keeps", [False, True])
def test_both_sides_agree_whichever_keeps_its_window(server_keeps: bool, client_keeps: bool) -> None:  # RFC 7692 §7.1.1
    agreed = Agreed(not server_keeps, not client_keeps, 11, 13)
    config = Deflate(threshold_bytes=0)
    server, client = (Codec(agreed, config, client=is_client) for is_client in (False, True))
    for writer, reader in ((server, client), (client, server)) * 3:
        packed = writer.compress(TEXT)
        assert packed is not None
        assert inflate(reader, packed) == TEXT


# -- §7.2.2: what is read


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    "payload", [b"\xff\xff", b"\x07", b"\x00\x05\x00\x00\x00", b"\x03\xff\xff\x06", b"hello world"]
)
def test_what_no_compressor_makes_is_an_error(keep: bool, payload: bytes) -> None:  # RFC 7692 §7.2.2
    reader = codec(keep=keep)
    reader.start()
    reader.inflate(payload, ROOM)
    assert reader.error == "compressed message can't be inflated"


def test_what_comes_before_an_error_is_told_however_it_is_torn() -> None:
    good = deflate(b"The good part, the good part. " * 20, 6, 15, 8)
    payload = good + b"\x00\x00\xff\xff" + b"\x07" * 50
    for keep in (False, True):
        for size in (1, 2, 3, 7, 50, 1000):
            reader = codec(keep=keep)
            if keep:
                assert inflate(reader, deflate(TEXT, 6, 15, 8)) == TEXT
            reader.start()
            out = b""
            for at in range(0, len(payload), size):
                out += reader.inflate(payload[at : at + size], ROOM - len(out))
                if reader.error:
                    break
            assert out == b"The good part, the good part. " * 20
            assert reader.error


@pytest.mark.parametrize("keep", [False, True])
def test_as_many_stream_ends_as_are_allowed(keep: bool) -> None:  # RFC 7692 §7.2.3.4: BFINAL may come in each message
    one = zlib.compressobj(6, zlib.DEFLATED, -15)
    end = one.compress(b"Hello") + one.flush(zlib.Z_FINISH)
    reader = codec(keep=keep)
    for _ in range(3):  # counted for each message
        assert inflate(reader, end * MAX_STREAM_ENDS + b"\x00") == b"Hello" * MAX_STREAM_ENDS
    for size in (1, 3, 10_000):
        reader = codec(keep=keep)
        reader.start()
        data = end * 5000
        pieces = [reader.inflate(data[i : i + size], ROOM) for i in range(0, len(data), size) if not reader.error]
        assert b"".join(pieces) == b"Hello" * (MAX_STREAM_ENDS + 1)
        assert reader.error == "compressed message made of too many streams"


# -- bounds: memory, not bytes on the wire


def gibibyte_of_zeros() -> bytes:
    """1 GiB of zeros, deflated: about 1 MiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first, second, third = (packer.compress(bytes(ROOM)) + packer.flush(zlib.Z_SYNC_FLUSH) for _ in range(3))
    assert second == third
    return first + second * 1023


@pytest.mark.parametrize("room", [0, 1, 1000, ROOM])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("size", [1000, 1 << 16, 1 << 24])
def test_inflating_gives_at_most_one_byte_more_than_there_is_room_for(room: int, keep: bool, size: int) -> None:
    bomb = gibibyte_of_zeros()
    reader = codec(keep=keep)
    if keep:
        assert inflate(reader, deflate(TEXT, 6, 15, 8)) == TEXT
    reader.start()
    total = 0
    tracemalloc.start()
    try:
        for at in range(0, len(bomb), size):
            total += len(reader.inflate(bomb[at : at + size], room - total))
            if total > room:
                break
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == room + 1
    assert peak < 4 * room + size + (1 << 18)


def test_a_bomb_behind_a_stream_end_is_bounded_too() -> None:
    one = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = one.compress(bytes(ROOM)) + one.flush(zlib.Z_FINISH)
    reader = codec()
    reader.start()
    assert len(reader.inflate(bomb * 10, 3 * ROOM)) == 3 * ROOM + 1
    assert reader.error == ""


def test_a_message_of_just_the_room_passes() -> None:
    for size in (1, 999, ROOM):
        for keep in (False, True):
            assert len(inflate(codec(keep=keep), deflate(bytes(size), 6, 15, 8), room=size)) == size


def test_both_ends_have_codecs_of_their_own_role() -> None:
    assert SERVER.codec().keep_reading is CLIENT.codec().keep_reading is False
    assert SERVER.codec(takeover=True).keep_writing is CLIENT.codec(takeover=True).keep_writing is True
