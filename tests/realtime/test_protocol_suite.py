"""The cases of the official protocol documents and their test suites that no other file has: Engine.IO v4 (EIO),
Socket.IO v5 (SIO). The rest is in test_engineio.py, test_socketio.py and test_socketio_malformed.py.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from tests.realtime.raw import Raw, Socket, serving
from tests.support import Peer, get, until

import portico

pytestmark = pytest.mark.usefixtures("logged")

both = pytest.mark.parametrize("transport", ["polling", "websocket"])
Packet = str | bytes


def suite(**options: Any) -> portico.Realtime:
    """The server that the suites ask for: / and /custom tell ``auth``, send ``message`` back, and acknowledge
    ``message-with-ack`` with what came."""
    io = portico.Realtime(**options)
    for namespace in (io, io.of("/custom"), io.of("/admin")):

        @namespace.on("connect")
        async def connect(client: Any, auth: Any) -> None:
            client.emit("auth", auth)

        @namespace.on("message")
        async def message(client: Any, *args: Any) -> None:
            client.emit("message-back", *args)

        @namespace.on("message-with-ack")
        async def acknowledged(client: Any, *args: Any) -> Any:
            return args

    return io


class Talk:
    """One session on either transport."""

    def __init__(self, raw: Raw, sid: str, socket: Socket | None) -> None:
        self.raw = raw
        self.sid = sid
        self._socket = socket
        self._came: deque[Packet] = deque()

    async def say(self, *packets: str) -> None:
        if self._socket is not None:
            await self._socket.send(*packets)
        else:
            await self.raw.post(self.sid, "\x1e".join(packets))

    async def hear(self) -> Packet | None:
        """The next packet; binary in a payload stays as it came."""
        if self._socket is not None:
            return await self._socket.next()
        while not self._came:
            self._came.extend((await self.raw.get(self.sid)).split("\x1e"))
        return self._came.popleft()

    async def connect(self, namespace: str = "") -> str:
        """Connect, and pass over ``auth``; returns the id. `namespace` ends with a comma."""
        await self.say(f"40{namespace}")
        answer = await self.hear()
        assert isinstance(answer, str)
        assert await self.hear() == f'42{namespace}["auth",{{}}]'
        return str(json.loads(answer[2 + len(namespace) :])["sid"])

    async def is_over(self) -> bool:
        if self._socket is not None:
            return await self._socket.next() is None
        return (await self.raw.request(sid=self.sid))[0] == 400


@contextlib.asynccontextmanager
async def talking(raw: Raw, transport: str) -> AsyncIterator[Talk]:
    if transport == "polling":
        yield Talk(raw, await raw.poll_session(), None)
    else:
        async with raw.socket() as socket:
            yield Talk(raw, (await socket.opened())["sid"], socket)


# -- EIO §HTTP long-polling ------------------------------------------------------------------------------------------


async def test_eio_answers_are_text_in_utf8_and_not_kept_by_caches() -> None:
    async with serving(suite()) as raw:
        async with raw.http.get(raw.url()) as answer:
            opened = await answer.text()
            assert answer.headers["Content-Type"] == "text/plain; charset=UTF-8"
            assert answer.headers["Cache-Control"] == "no-store"
        sid = json.loads(opened[1:])["sid"]
        async with raw.http.post(raw.url(sid=sid), data="40") as answer:
            assert (answer.status, await answer.text()) == (200, "ok")
        async with raw.http.get(raw.url(sid=sid)) as answer:
            assert answer.headers["Content-Type"] == "text/plain; charset=UTF-8"


async def test_eio_a_body_without_a_content_type_is_plain_text() -> None:
    """EIO §Headers: the receiver infers it."""
    async with serving(suite()) as raw:
        sid = await raw.poll_session()
        async with raw.http.post(raw.url(sid=sid), data=b"40", skip_auto_headers=["Content-Type"]) as answer:
            assert answer.status == 200
        assert (await raw.get(sid)).startswith("40{")


async def test_eio_the_parameter_that_keeps_caches_away_means_nothing() -> None:
    """EIO §Sample session: ``t``."""
    async with serving(suite()) as raw:
        status, text = await raw.request(t="N8hyd6w")
        assert status == 200
        sid = json.loads(text[1:])["sid"]
        assert await raw.request("POST", b"40", sid=sid, t="N8hyd7H") == (200, "ok")
        assert (await raw.request(sid=sid, t="N8hyd7H"))[1].startswith("40{")


async def test_eio_a_payload_may_have_packets_of_several_types() -> None:
    """EIO §Packet encoding: ``4hello\\x1e2\\x1e4world``, ``4€\\x1ebAQIDBA==``."""
    async with serving(suite()) as raw:
        sid = await raw.poll_session()
        binary = '451-["message",{"_placeholder":true,"num":0}]\x1ebAQIDBA=='
        await raw.post(sid, f'40\x1e3\x1e42["message","€"]\x1e6\x1e{binary}')
        came = ""
        while not came.endswith("bAQIDBA=="):
            came += ("\x1e" if came else "") + await raw.get(sid)
        assert came.split("\x1e", 2)[2] == '42["message-back","€"]\x1e' + binary.replace("message", "message-back")


async def test_eio_max_payload_is_what_a_payload_may_have() -> None:
    """EIO §Handshake: ``maxPayload`` is in bytes."""
    async with serving(suite(max_payload_bytes=1000)) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        await raw.get(sid)
        event = '42["message","é%s"]'
        largest = event % ("x" * (1000 - len(event.encode()) + 2))
        assert len(largest.encode()) == 1000
        await raw.post(sid, largest)
        assert (await raw.get(sid)).startswith('42["message-back"')
        assert (await raw.request("POST", (largest + " ").encode(), sid=sid))[0] == 413
        assert (await raw.request(sid=sid))[0] == 400


async def test_eio_a_client_that_shuts_its_side_while_its_get_is_held_has_left() -> None:
    async with serving(suite()) as raw, await Peer.connect(raw.server) as peer:
        sid = await raw.poll_session()
        peer.send(get(f"/socket.io/?EIO=4&transport=polling&sid={sid}"))
        await until(lambda: raw.session.poll is not None)
        peer.writer.write_eof()
        await peer.to_end()  # the connection ends, too
        assert raw.io.counters.closed == {"transport close": 1}


# -- EIO §WebSocket, §Upgrade ----------------------------------------------------------------------------------------


async def test_eio_a_session_has_one_websocket_also_while_it_is_tried() -> None:
    async with serving(suite()) as raw:
        sid = await raw.poll_session()
        async with raw.socket(sid) as socket:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with raw.socket(sid):
                    pass
            assert refused.value.status == 400
            await socket.send("2probe")
            await socket.expect("3probe")
            await socket.send("5", "40")
            assert str(await socket.next()).startswith("40{")


async def test_eio_a_probe_that_fails_leaves_the_session_where_it_was() -> None:
    async with serving(suite()) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        for messages in (["2probe"], ["2prob"], []):
            async with raw.socket(sid) as socket:
                await socket.send(*messages)
            await until(lambda: raw.session.probe is None)
        await raw.post(sid, '42["message",1]')
        came = ""
        while '42["message-back",1]' not in came:
            came += await raw.get(sid)
        assert raw.session.transport == "polling"


async def test_eio_the_upgrade_packet_needs_no_probe_before_it() -> None:
    """The suites send both at once; who sends ``5`` alone has decided as well."""
    async with serving(suite()) as raw:
        sid = await raw.poll_session()
        async with raw.socket(sid) as socket:
            await socket.send("5", "40")
            assert str(await socket.next()).startswith("40{")
            assert (await raw.request(sid=sid))[0] == 400


# -- SIO §Connection to a namespace ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("payload", ["", '{"token":"123"}'])
@pytest.mark.parametrize("namespace", ["", "/custom,"])
async def test_sio_connecting_is_answered_with_an_id_and_the_payload_is_auth(
    transport: str, namespace: str, payload: str
) -> None:
    async with serving(suite()) as raw, talking(raw, transport) as talk:
        await talk.say(f"40{namespace}{payload}")
        answer = await talk.hear()
        assert isinstance(answer, str)
        assert answer.startswith(f'40{namespace}{{"sid":"')
        assert list(json.loads(answer[2 + len(namespace) :])) == ["sid"]
        assert await talk.hear() == f'42{namespace}["auth",{payload or "{}"}]'


@both
async def test_sio_the_comma_behind_a_namespace_may_be_missing(transport: str) -> None:
    async with serving(suite()) as raw, talking(raw, transport) as talk:
        await talk.say("40/random")
        assert await talk.hear() == '44/random,{"message":"Invalid namespace"}'
        await talk.say("40/custom")
        assert str(await talk.hear()).startswith('40/custom,{"sid":"')


@both
async def test_sio_ids_are_of_a_namespace_and_not_the_transports(transport: str) -> None:
    async with serving(suite()) as raw, talking(raw, transport) as talk:
        ids = {await talk.connect(), await talk.connect("/custom,"), await talk.connect("/admin,"), talk.sid}
        assert len(ids) == 4


@both
@pytest.mark.parametrize("packet", ['42["message"]', "41", "43", "4abc", '451-["x"]', "44"])
async def test_sio_a_session_that_does_not_connect_first_is_closed_at_once(transport: str, packet: str) -> None:
    async with serving(suite()) as raw, talking(raw, transport) as talk:
        if transport == "polling":
            assert (await raw.request("POST", packet.encode(), sid=talk.sid))[0] == 400
        else:
            await talk.say(packet)
        assert await talk.is_over()
        assert raw.io.counters.closed == {"parse error": 1}


# -- SIO §Disconnection from a namespace -----------------------------------------------------------------------------


@both
async def test_sio_leaving_one_namespace_leaves_the_others(transport: str) -> None:
    async with serving(suite()) as raw, talking(raw, transport) as talk:
        await talk.connect()
        await talk.connect("/custom,")
        await talk.say("41/custom", '42["message","message to main namespace"]')
        assert await talk.hear() == '42["message-back","message to main namespace"]'


async def test_sio_who_has_left_the_last_namespace_and_says_nothing_more_is_closed() -> None:
    """The suite's "disconnect from the main namespace": by the heartbeat at the latest."""
    async with serving(suite(ping_interval_s=1.0, ping_timeout_s=0.2)) as raw, talking(raw, "websocket") as talk:
        await talk.connect()
        await talk.say("41")
        assert await talk.hear() == "2"
        assert await talk.is_over()


# -- SIO §Sending and receiving data, §Acknowledgement ---------------------------------------------------------------

PLACE = '{"_placeholder":true,"num":%d}'
TWO = f"{PLACE % 0},{PLACE % 1}"


@both
@pytest.mark.parametrize("namespace", ["", "/custom,"])
@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (("2", '["message",1,"2",{"3":[true]}]'), ("2", '["message-back",1,"2",{"3":[true]}]')),
        (("2", '456["message-with-ack",1,"2",{"3":[false]}]'), ("3", '456[1,"2",{"3":[false]}]')),
        (("2", '0["message-with-ack"]'), ("3", "0[]")),
    ],
)
async def test_sio_plain_events_and_acknowledgements(
    transport: str, namespace: str, said: tuple[str, str], heard: tuple[str, str]
) -> None:
    async with serving(suite()) as raw, talking(raw, transport) as talk:
        await talk.connect(namespace)
        await talk.say(f"4{namespace.join(said)}")
        assert await talk.hear() == f"4{namespace.join(heard)}"


@pytest.mark.parametrize("namespace", ["", "/custom,"])
@pytest.mark.parametrize(
    ("said", "heard"),
    [(f'["message",{TWO}]', f'52-%s["message-back",{TWO}]'), (f'789["message-with-ack",{TWO}]', f"62-%s789[{TWO}]")],
)
async def test_sio_events_and_acknowledgements_with_attachments(namespace: str, said: str, heard: str) -> None:
    async with serving(suite()) as raw:
        async with raw.socket() as socket:
            talk = Talk(raw, (await socket.opened())["sid"], socket)
            await talk.connect(namespace)
            await socket.send(f"452-{namespace}{said}", b"\x01\x02\x03", b"\x04\x05\x06")
            await socket.expect("4" + heard % namespace, b"\x01\x02\x03", b"\x04\x05\x06")
        async with talking(raw, "polling") as talk:
            await talk.connect(namespace)
            await talk.say(f"452-{namespace}{said}", "bAQID", "bBAUG")
            assert [await talk.hear() for _ in range(3)] == ["4" + heard % namespace, "bAQID", "bBAUG"]


@pytest.mark.parametrize("packet", ["4abc", "42{}", '42abc["message-with-ack",1]', "42", "42[]", '43["x"]', '43x["x"]'])
@both
async def test_sio_what_is_no_packet_closes_the_connection(transport: str, packet: str) -> None:
    async with serving(suite()) as raw, talking(raw, transport) as talk:
        await talk.connect()
        if transport == "polling":
            assert (await raw.request("POST", packet.encode(), sid=talk.sid))[0] == 400
        else:
            await talk.say(packet)
        assert await talk.is_over()


# -- SIO §Packet encoding: the tables, as the server sends -----------------------------------------------------------


def _refuse(client: Any, auth: Any) -> None:
    raise portico.Refuse("Not authorized")


@both
@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda io: io.emit("foo"), ['2["foo"]']),
        (lambda io: io.of("/admin").emit("bar"), ['2/admin,["bar"]']),
        (lambda io: io.emit("baz", b"\x01\x02\x03\x04"), [f'51-["baz",{PLACE % 0}]', b"\x01\x02\x03\x04"]),
        (lambda io: io.of("/admin").emit("baz", b"\x01\x02", b"\x03\x04"),
         [f'52-/admin,["baz",{TWO}]', b"\x01\x02", b"\x03\x04"]),
        (lambda io: io.background(io.call("foo", timeout=5)), ['21["foo"]']),
        (lambda io: io.background(io.of("/admin").call("foo", timeout=5)), ['2/admin,1["foo"]']),
        (lambda io: io.background(io.call("foo", b"\x01", timeout=5)), [f'51-1["foo",{PLACE % 0}]', b"\x01"]),
        (lambda io: io.disconnect(), ["1"]),
        (lambda io: io.of("/admin").disconnect(), ["1/admin,"]),
    ],
    ids=["event", "event of a namespace", "binary", "binaries of a namespace", "asked", "asked in a namespace",
         "asked with binary", "disconnect", "disconnect from a namespace"],
)  # fmt: skip
async def test_sio_packets_are_encoded_as_in_the_tables(
    transport: str, act: Callable[[portico.Realtime], object], expected: list[Packet]
) -> None:
    async with serving(suite()) as raw, talking(raw, transport) as talk:
        await talk.connect()
        await talk.connect("/admin,")
        act(raw.io)
        wire = {b"\x01\x02\x03\x04": "bAQIDBA==", b"\x01\x02": "bAQI=", b"\x03\x04": "bAwQ=", b"\x01": "bAQ=="}
        for packet in expected:
            if isinstance(packet, str):
                assert await talk.hear() == f"4{packet}"
            else:
                assert await talk.hear() == (packet if transport == "websocket" else wire[packet])
        raw.io.disconnect(close=True)  # who is still asked will not answer


@both
async def test_sio_a_refusal_is_encoded_as_in_the_tables(transport: str) -> None:
    io = portico.Realtime()
    io.use(_refuse)
    async with serving(io) as raw, talking(raw, transport) as talk:
        await talk.say("40")
        assert await talk.hear() == '44{"message":"Not authorized"}'


# -- SIO §Sample session ---------------------------------------------------------------------------------------------


async def test_sio_the_sample_session() -> None:
    async with serving(suite()) as raw:
        status, text = await raw.request(t="N8hyd6w")
        opened = json.loads(text[1:])
        sid = opened["sid"]
        assert (status, text[0], opened["upgrades"]) == (200, "0", ["websocket"])
        await raw.post(sid, "40")
        got = await raw.get(sid)
        assert got.startswith('40{"sid":"')
        if "auth" not in got:
            assert await raw.get(sid) == '42["auth",{}]'
        raw.io.emit("hey", "Jude")
        assert await raw.get(sid) == '42["hey","Jude"]'
        await raw.post(sid, '42["message","hello"]\x1e42["message","world"]')
        assert await raw.get(sid) == '42["message-back","hello"]\x1e42["message-back","world"]'
        async with raw.socket(sid) as socket:
            await socket.send("2probe")
            await socket.expect("3probe")
            await socket.send("5", '42["message","hello"]', "40/admin,")
            await socket.expect('42["message-back","hello"]')
            assert str(await socket.next()).startswith('40/admin,{"sid":"')
            await socket.expect('42/admin,["auth",{}]')
            await socket.send('42/admin,1["message-with-ack","Ferris"]')
            await socket.expect('43/admin,1["Ferris"]')
            await socket.send("41/admin,", "1")
            assert await socket.closed() == 1000
