"""The codecs by themselves: what is written is read back, and whatever comes is a packet or a ProtocolError."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from portico.errors import ProtocolError
from portico.wire import engineio, socketio
from portico.wire.socketio import ACK, EVENT, RESERVED, Decoder

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.binary(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
).filter(lambda value: "_placeholder" not in repr(value))
names = st.text(min_size=1).filter(lambda name: name not in RESERVED)
namespaces = st.from_regex(r"/[a-z0-9/_-]{0,20}", fullmatch=True)
ids = st.none() | st.integers(0, socketio.MAX_ID)


@given(names, st.lists(values, max_size=4), namespaces, ids)
def test_an_event_is_read_back(name: str, args: list[Any], namespace: str, id: int | None) -> None:
    text, attachments = socketio.encode(EVENT, namespace, id, [name, *args])
    decoder = Decoder(1 << 20)
    packet = decoder.feed(text.decode())
    for data in attachments:
        assert packet is None
        packet = decoder.feed_binary(data)
    assert packet is not None
    assert (packet.type, packet.namespace, packet.id, packet.data) == (EVENT, namespace, id, [name, *args])
    assert not decoder.held


@given(st.lists(values, max_size=4), st.integers(0, socketio.MAX_ID))
def test_an_acknowledgement_is_read_back(args: list[Any], id: int) -> None:
    text, attachments = socketio.encode(ACK, "/", id, args)
    decoder = Decoder(1 << 20)
    packet = decoder.feed(text.decode())
    for data in attachments:
        packet = decoder.feed_binary(data)
    assert packet is not None
    assert (packet.type, packet.id, packet.data) == (ACK, id, args)


@given(
    st.lists(st.text(alphabet='012345678-/,{}[]"ab:\\', max_size=30) | st.text() | st.binary(max_size=5), max_size=6)
)
def test_whatever_comes_is_a_packet_or_a_protocol_error(pieces: list[str | bytes]) -> None:
    decoder = Decoder(1000)
    for piece in pieces:
        try:
            if isinstance(piece, bytes):
                decoder.feed_binary(piece)
            else:
                decoder.feed(piece)
        except ProtocolError:
            return


@given(st.binary() | st.text(alphabet="b0123456\x1eAQ=", max_size=50).map(str.encode))
def test_whatever_body_comes_is_a_payload_or_a_protocol_error(body: bytes) -> None:
    try:
        packets = list(engineio.decode_payload(body))
    except ProtocolError:
        return
    again = [engineio.encode_binary(each) if isinstance(each, bytes) else each.encode() for each in packets]
    assert list(engineio.decode_payload(b"\x1e".join(again))) == packets


def test_an_error_body_is_the_reference_servers_with_a_hint() -> None:
    assert json.loads(engineio.error_body(engineio.UNKNOWN_SID, "x")) == {
        "code": 1,
        "message": "Session ID unknown",
        "hint": "x",
    }
