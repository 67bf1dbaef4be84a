"""Any chunking gives the same events: frames whole, mutated and random, both roles, with and without compression."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.property.frame_streams import LIMITS, MODES, streams, torn
from tests.wire.raw import CLIENT, SERVER, End, told

ENDS = {"server": SERVER, "client": CLIENT}
WAYS = [(end, mode) for end in ENDS for mode in MODES]

Outcome = tuple[list[object], int, bool, list[object]]


def run(end: End, mode: bool | None, pieces: list[bytes]) -> Outcome:
    """The events that `pieces` give, the state that they lead to, and what TCP's end then tells."""
    messages = end.messages(None if mode is None else end.codec(takeover=mode), **LIMITS)
    events = told(event for piece in pieces for event in messages.feed(piece))
    return [*events], messages.state, messages.assembling(), [*told(messages.feed_eof())]


@pytest.mark.parametrize(("role", "mode"), WAYS)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_chunking_gives_the_same_events(role: str, mode: str, data: st.DataObject) -> None:
    end, keep = ENDS[role], MODES[mode]
    stream = data.draw(streams(end, keep))
    whole = run(end, keep, [stream])
    assert run(end, keep, data.draw(torn(stream))) == whole
    assert run(end, keep, [stream[i : i + 1] for i in range(len(stream))]) == whole


@pytest.mark.parametrize("role", ENDS)
@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None, max_examples=200)
@given(junk=st.binary(max_size=80), cuts=st.lists(st.integers(0, 80), max_size=6))
@example(junk=b"\x81\x83\x00\x00\x00\x00\xed\xa0\x80", cuts=[])
@example(junk=b"\x81\x82\x00\x00\x00\x00\xe2\x82", cuts=[7])
@example(junk=b"\xc1\x03\xaa\xff\x00", cuts=[3])
def test_any_chunking_of_any_bytes(role: str, mode: str, junk: bytes, cuts: list[int]) -> None:
    end, keep = ENDS[role], MODES[mode]
    whole = run(end, keep, [junk])
    bounds = [0, *sorted(cuts), len(junk)]
    assert run(end, keep, [junk[a:b] for a, b in itertools.pairwise(bounds)]) == whole
    assert run(end, keep, [junk[i : i + 1] for i in range(len(junk))]) == whole


@pytest.mark.parametrize("role", ENDS)
@pytest.mark.parametrize("mode", ["fresh", "takeover"])
@settings(deadline=None, max_examples=300)
@given(
    junk=st.binary(max_size=60), first=st.sampled_from([0xC1, 0xC2]), repeat=st.integers(1, 20), cut=st.integers(0, 99)
)
def test_any_chunking_of_any_compressed_payload(
    role: str, mode: str, junk: bytes, first: int, repeat: int, cut: int
) -> None:
    """Whatever is wrong with it first, inflating or the text or its size, is what every chunking finds."""
    end, keep = ENDS[role], MODES[mode]
    packed = bytes.fromhex("f2 48 cd c9 c9 07 00 00 00 ff ff") * repeat + junk
    stream = end.frame(first, packed[:cut]) if cut >= len(packed) else b""
    stream = stream or end.frame(first & 0x7F, packed[:cut]) + end.frame(0x80, packed[cut:])
    whole = run(end, keep, [stream])
    assert run(end, keep, [stream[i : i + 1] for i in range(len(stream))]) == whole
    assert run(end, keep, [stream[:cut], stream[cut:]]) == whole


MESSAGES = st.lists(
    st.one_of(st.text(max_size=60), st.binary(max_size=60), st.sampled_from(["", b"", "a" * 300])), max_size=8
)


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None, max_examples=150)
@given(sent=MESSAGES, size=st.integers(1, 40))
def test_messages_go_from_client_to_server_and_back(mode: str, sent: list[object], size: int) -> None:
    """The server echoes what it receives, as it receives it."""
    keep = MODES[mode]
    server, client = (
        end.messages(None if keep is None else end.codec(takeover=keep, threshold=20), max_message_bytes=2000)
        for end in (SERVER, CLIENT)
    )
    there = b"".join(client.encode(message) for message in sent)
    back = b"".join(
        server.encode(message) for i in range(0, len(there), size) for message in server.feed(there[i : i + size])
    )
    assert [event for i in range(0, len(back), size) for event in client.feed(back[i : i + size])] == sent
