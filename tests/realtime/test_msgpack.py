"""Packets in msgpack, as npm's socket.io-msgpack-parser has them: official client, Node's server, our own ends."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.node import said
from tests.realtime.client_peers import WAYS, Got, client_of, no_proxy, node, nothing_left  # noqa: F401
from tests.realtime.official import expected, realtime
from tests.realtime.raw import realtime as echoing
from tests.realtime.raw import serving
from tests.support import GUARD_S, Logged

import portico
from portico.errors import LimitExceeded, LocalError, ProtocolError
from portico.realtime import Recovery
from portico.wire import msgpackets
from portico.wire.socketio import ACK, CONNECT, CONNECT_ERROR, DISCONNECT, EVENT

pack = msgspec.msgpack.encode
unpack = msgspec.msgpack.decode


@dataclass
class Address:
    """Where a server is."""

    url: str


def feed(data: bytes) -> Any:
    packet = msgpackets.Decoder().feed_binary(data)
    return packet.type, packet.namespace, packet.id, packet.data


# -- real peers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transports", ["default", "polling"])
async def test_every_feature_of_the_official_client(transports: str) -> None:
    async with asyncio.timeout(3 * GUARD_S), portico.serve(realtime(packets="msgpack"), "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.port}"
        saw = await said("msgpack.mjs", url, transports, packages=("socket.io-client", "socket.io-msgpack-parser"))
    zeros = {"type": "Buffer", "data": [0] * 8}
    values = [None, "1970-01-02T00:00:00.000Z", zeros, {"type": "Buffer", "data": [0]}, 2**40, -1.5, None, False]
    assert saw.pop("own") == values
    assert saw == expected(saw["library"], "polling" if transports == "polling" else "websocket", page=False)


@pytest.mark.usefixtures("no_proxy", "nothing_left")
@pytest.mark.parametrize("way", WAYS)
async def test_the_client_and_nodes_server(way: str) -> None:
    async with node(packets="msgpack", options={"connectionStateRecovery": {}}) as server:
        client = client_of(server, way, packets="msgpack")
        got = Got(client, "echo", "news")
        client.on("question", lambda value: [value, b"\x07"])
        async with client:
            client.emit("echo", 1, b"\x00", {"deep": [b"x", None]}, "€")
            assert (await got.next())[:5] == ("echo", 1, b"\x00", {"deep": [b"x", None]}, "€")
            assert await client.call("give", [1, b"2"]) == [1, b"2"]
            client.emit("ask", 5)
            assert await server.said("answer") == [[5, {"type": "Buffer", "data": [7]}]]
            client.emit("everyone", "héllo")
            assert await got.next() == ("news", "héllo")
        assert await server.said("disconnect") == ["client namespace disconnect"]


@pytest.mark.usefixtures("no_proxy", "nothing_left")
async def test_nodes_server_refuses_the_client_with_data() -> None:
    async with node(packets="msgpack") as server:
        client = client_of(server, "websocket", packets="msgpack", auth={"token": "no"})
        with pytest.raises(portico.ConnectError, match="not you") as refused:
            await client.connect()
        assert refused.value.data == {"code": 7}


@pytest.mark.usefixtures("no_proxy", "nothing_left")
@pytest.mark.parametrize("way", WAYS)
async def test_our_own_client_and_server(way: str) -> None:
    io = echoing(packets="msgpack", recovery=Recovery())

    @io.on("ask me", concurrent=True)
    async def ask_me(client: Any) -> Any:
        return await client.call("question", b"\x01", timeout=GUARD_S)

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        if auth.get("token") == "no":
            raise portico.Refuse("not you", data=[1, 2])
        client.join("room")

    async with serving(io) as raw:
        client = client_of(Address(raw.base), way, packets="msgpack", auth={"token": "yes"})
        got = Got(client, "news", "missed")
        client.on("question", lambda value: {"got": value})
        async with client:
            assert await client.call("echo", {"a": [b"\x00\xff", None, -5, 1.5, "€"]}) == {
                "a": [b"\x00\xff", None, -5, 1.5, "€"]
            }
            assert await client.call("ask me") == {"got": b"\x01"}
            io.to("room").emit("news", 1, b"2")
            assert await got.next() == ("news", 1, b"2")
            before = client.id
            raw.session.close("transport error", discard=True)
            io.to("room").emit("missed", b"3")
            assert await got.next() == ("missed", b"3")
            assert client.recovered
            assert client.id == before
        refused = client_of(Address(raw.base), way, packets="msgpack", auth={"token": "no"})
        with pytest.raises(portico.ConnectError, match="not you") as error:
            await refused.connect()
        assert error.value.data == [1, 2]


# -- by hand -----------------------------------------------------------------------------------------------------------


async def test_a_packet_is_one_binary_message_on_a_websocket_and_base64_on_polling(logged: Logged) -> None:
    async with serving(echoing(packets="msgpack")) as raw:
        async with raw.socket() as ws:
            await ws.opened()
            await ws.send(pack({"type": CONNECT, "nsp": "/", "data": {}}))
            answer = await ws.next()
            assert isinstance(answer, bytes)
            connected = unpack(answer)
            assert connected == {"type": CONNECT, "nsp": "/", "data": {"sid": next(iter(raw.io.clients))}}
            await ws.send(pack({"type": EVENT, "nsp": "/", "data": ["echo", b"\x00"], "id": 3, "options": {}}))
            answer = await ws.next()
            assert isinstance(answer, bytes)
            assert unpack(answer) == {"type": ACK, "nsp": "/", "data": [b"\x00"], "id": 3}
        sid = await raw.poll_session()
        await raw.post(sid, "bg6R0eXBlAKNuc3ChL6RkYXRhgA==")  # {"type": 0, "nsp": "/", "data": {}}
        assert (await raw.get(sid))[:1] == "b"


async def test_a_client_with_another_format_is_told(logged: Logged) -> None:
    async with serving(echoing(packets="msgpack")) as raw, raw.socket() as ws:
        await ws.opened()
        await ws.send("40")
        assert await ws.closed() == 1002
        assert raw.io.counters.refused["parse error"] == 1


@pytest.mark.parametrize(
    "packet",
    [
        {"type": EVENT, "nsp": "/", "data": ["connect"]},
        {"type": EVENT, "nsp": "/nowhere", "data": ["echo"]},
        {"type": 5, "nsp": "/", "data": ["echo"]},
        [EVENT, "/", ["echo"]],
    ],
)
async def test_what_breaks_a_rule_ends_that_session_and_no_other(packet: Any, logged: Logged) -> None:
    async with serving(echoing(packets="msgpack")) as raw, raw.socket() as other, raw.socket() as ws:
        for each in (other, ws):
            await each.opened()
            await each.send(pack({"type": CONNECT, "nsp": "/"}))
            await each.next()
        await ws.send(pack(packet))
        assert await ws.closed() == 1002
        await other.send(pack({"type": EVENT, "nsp": "/", "data": ["echo", 1], "id": 0}))
        answer = await other.next()
        assert isinstance(answer, bytes)
        assert unpack(answer)["data"] == [1]


async def test_what_is_broken_ends_a_polling_session(logged: Logged) -> None:
    async with serving(echoing(packets="msgpack")) as raw:
        sid = await raw.poll_session()
        assert (await raw.request("POST", b"bwQ==", sid=sid))[0] == 400
        assert not raw.io.engine.sessions


def test_only_two_formats_are_known() -> None:
    with pytest.raises(LocalError, match=r"packets='cbor'.*expected 'json' or 'msgpack'"):
        portico.Realtime(packets="cbor")  # type: ignore[arg-type] # that is the point
    with pytest.raises(LocalError, match=r"packets=None.*expected 'json' or 'msgpack'"):
        portico.RealtimeClient("http://127.0.0.1", packets=None)  # type: ignore[arg-type] # that is the point


# -- the codec ---------------------------------------------------------------------------------------------------------


def test_what_is_empty_is_left_out() -> None:
    """Node's parser refuses a nil for an id, for a DISCONNECT's data and for a CONNECT's."""
    assert unpack(msgpackets.encode(DISCONNECT, "/a")[1][0]) == {"type": DISCONNECT, "nsp": "/a"}
    text, (data,) = msgpackets.encode(ACK, "/", 0, [])
    assert (text, unpack(data)) == (b"", {"type": ACK, "nsp": "/", "data": [], "id": 0})


def test_names_of_keys_are_text_as_in_json() -> None:
    data = msgpackets.encode(EVENT, "/", None, ["e", {1: (2, {3})}])[1][0]
    assert unpack(data)["data"] == ["e", {"1": [2, [3]]}]


@pytest.mark.parametrize("value", [object(), 2**70, "\ud800", {b"bytes": 1}])
def test_data_that_cannot_be_sent_is_refused_here(value: object) -> None:
    with pytest.raises(LocalError, match="can't be sent as msgpack"):
        msgpackets.encode(EVENT, "/", None, ["e", value])


UNDEFINED = b"\xd4\x00\x00"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (UNDEFINED, None),
        (b"\xd7\x00" + struct.pack(">q", -1), "1969-12-31T23:59:59.999Z"),
        (b"\xd7\x00" + struct.pack(">q", 1_700_000_000_000), "2023-11-14T22:13:20.000Z"),
        (b"\xc7\x08\x00" + b"\xd7\x00abcdef", b"\xd7\x00abcdef"),
        (b"\xc7\x01\x00\x00", b"\x00"),
        (b"\xc8\x00\x03\x00" + UNDEFINED, UNDEFINED),
        (b"\xc9\x00\x00\x00\x03\x00" + UNDEFINED, UNDEFINED),
        (b"\xc4\x03" + UNDEFINED, UNDEFINED),
        (b"\xc5\x00\x03" + UNDEFINED, UNDEFINED),
        (b"\xc6\x00\x00\x00\x03" + UNDEFINED, UNDEFINED),
        (b"\xa4d\xd4\x80d", "dԀd"),
        (b"\x92" + UNDEFINED + b"\xdc\x00\x01" + UNDEFINED, [None, [None]]),
        (b"\xdf\x00\x00\x00\x01\xa1a" + UNDEFINED, {"a": None}),
        (b"\x93\xcf" + b"\x00" * 6 + UNDEFINED[:2] + UNDEFINED + b"\xca" + UNDEFINED + b"\x00", None),
    ],
)
def test_values_of_javascript(value: bytes, read: Any) -> None:
    """notepack.io 2.2: ``undefined``, ``Date`` are fixed extensions of type 0, an ``ArrayBuffer`` one with a length."""
    packet = b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x93\xa1e" + UNDEFINED + value
    if read is None and value[:1] == b"\x93":
        assert feed(packet)[3][2][:2] == [0xD400, None]
    else:
        assert feed(packet)[3] == ["e", None, read]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_comes_out_as_it_went_in_whether_undefined_is_near_or_not(value: Any) -> None:
    """With ``undefined`` anywhere, the packet is read the long way: that must not change a byte of the rest."""
    data = msgpackets.encode(EVENT, "/", 1, ["e", value])[1][0]
    assert feed(data) == (EVENT, "/", 1, ["e", value])
    head = b"\x84\xa4type\x02\xa3nsp\xa1/\xa2id\x01\xa4data\x93\xa1e"
    assert feed(head + pack(value) + UNDEFINED) == (EVENT, "/", 1, ["e", value, None])


MALFORMED = {
    "nothing": b"",
    "no map": pack([1]),
    "an opcode that there is not": b"\xc1",
    "something after it": pack({"type": 2, "nsp": "/", "data": ["e"]}) + b"\x00",
    "cut off": pack({"type": 2, "nsp": "/", "data": ["e"]})[:-1],
    "an undefined that is cut off": b"\x81\xa4type\xd4\x00",
    "a Date that is cut off": b"\x82\xa4type\xd4\x00\x00\xa1d\xd7\x00\x01",
    "a Date of no year": pack({"type": 2, "nsp": "/"})[:-1] + b"/\xa1d\xd7\x00" + struct.pack(">q", 2**62),
    "another extension": b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x92\xa1e\xd4\x05\x00",
    "an array of 4 thousand million": b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\xdd\xff\xff\xff\xff\xa1e",
    "a map of 4 thousand million": b"\xdf\xff\xff\xff\xff\xa4type\x02",
    "text that is not UTF-8": b"\x83\xa4type\x02\xa3nsp\xa1\xff\xa4data\x91\xa1e",
    "a map for a key": b"\x81\x80\x01",
    "much too deep": b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x92\xa1e" + b"\x91" * 500_000,
    "no type": pack({"nsp": "/", "data": ["e"]}),
    "a type that is no number": pack({"type": "2", "nsp": "/", "data": ["e"]}),
    "a type that is true": pack({"type": True, "nsp": "/"}),
    "a binary event": pack({"type": 5, "nsp": "/", "data": ["e"]}),
    "a type below 0": pack({"type": -1, "nsp": "/", "data": ["e"]}),
    "no namespace": pack({"type": 2, "data": ["e"]}),
    "a namespace that is no text": pack({"type": 2, "nsp": b"/", "data": ["e"]}),
    "an id that is no number": pack({"type": 2, "nsp": "/", "id": "1", "data": ["e"]}),
    "an id below 0": pack({"type": 2, "nsp": "/", "id": -1, "data": ["e"]}),
    "an id that no client can hold": pack({"type": 2, "nsp": "/", "id": 2**53, "data": ["e"]}),
    "an event without a name": pack({"type": 2, "nsp": "/", "data": []}),
    "an event whose name is a number": pack({"type": 2, "nsp": "/", "data": [1]}),
    "an event whose name is binary": pack({"type": 2, "nsp": "/", "data": [b"e"]}),
    "a reserved event": pack({"type": 2, "nsp": "/", "data": ["disconnect"]}),
    "an acknowledgement without an id": pack({"type": 3, "nsp": "/", "data": []}),
    "an acknowledgement without values": pack({"type": 3, "nsp": "/", "id": 1}),
    "a CONNECT with a list": pack({"type": 0, "nsp": "/", "data": [1]}),
    "a DISCONNECT with data": pack({"type": 1, "nsp": "/", "data": 1}),
    "a CONNECT_ERROR with a number": pack({"type": 4, "nsp": "/", "data": 1}),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused(data: bytes) -> None:
    """As npm's parser refuses it (its `checkPacket`), and what that would fall over."""
    with pytest.raises(ProtocolError):
        feed(data)


def test_a_namespace_has_a_bounded_name() -> None:
    with pytest.raises(LimitExceeded):
        feed(pack({"type": CONNECT, "nsp": "/" + "x" * 512}))


@given(st.binary(max_size=200) | VALUES.map(pack), st.integers(0, 200), st.binary(max_size=4))
def test_whatever_comes_is_a_packet_or_refused(data: bytes, at: int, inserted: bytes) -> None:
    """Nothing but ProtocolError gets out of the decoder."""
    for torn in (data, data[:at] + inserted + data[at:], data[:at], data + UNDEFINED):
        with contextlib.suppress(ProtocolError):
            feed(torn)


def test_a_refusal_is_read() -> None:
    assert feed(pack({"type": CONNECT_ERROR, "nsp": "/", "data": {"message": "no"}, "id": None})) == (
        CONNECT_ERROR,
        "/",
        None,
        {"message": "no"},
    )
