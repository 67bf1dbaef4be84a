"""What other servers of these protocols were hurt by: each advisory as a test of what happens here instead."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pickle
import random
from io import BytesIO
from typing import Any

import pytest
from tests.realtime.raw import Raw, realtime, serving
from tests.support import Logged, Peer, get, turns, until, upgrade

import portico
from portico.brokers import Receiver
from portico.brokers.memory import MemoryBroker, MemoryHub
from portico.realtime import Recovery
from portico.wire.socketio import MAX_ATTACHMENTS

pytestmark = pytest.mark.usefixtures("logged")


async def test_a_post_for_no_session_is_refused_before_its_body_is_read() -> None:
    """CVE-2026-48802."""
    async with serving(realtime()) as raw, await Peer.connect(raw.server) as peer:
        head = (
            "POST /socket.io/?EIO=4&transport=polling&sid=nobody HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n"
        )
        peer.send(head.encode())
        answer = await peer.answer()
        assert (answer.status, answer.text[:10]) == (400, '{"code":1,')


async def test_a_flood_of_pongs_makes_no_tasks_and_ends_nothing() -> None:
    """CVE-2026-48802: one task a PONG."""
    async with serving(realtime()) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        before = len(asyncio.all_tasks())
        for _ in range(3000):
            await socket.send("3")
        await socket.send('421["echo"]')
        await socket.expect("431[]")
        assert len(asyncio.all_tasks()) <= before + 1


async def test_a_payload_of_many_packets_is_work_in_parts_and_no_reason_to_end_a_session() -> None:
    """python-engineio ends a session at 16 packets."""
    async with serving(realtime()) as raw, raw.socket() as socket:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        await raw.get(sid)
        await socket.opened()
        await socket.connect()
        flood = asyncio.create_task(raw.post(sid, "\x1e".join(["3"] * 200_000)))
        await turns()
        await socket.send('421["echo"]')
        await socket.expect("431[]")
        await flood
        await raw.post(sid, '421["echo"]')
        assert await raw.get(sid) == "431[]"


@pytest.mark.parametrize("depth", [500, 900, 980, 983, 990, 1500, 6000, 100_000])
async def test_json_that_is_nested_deep_is_dealt_with_or_refused(depth: int) -> None:
    """What may be decoded is no failure of the server; how deep that is differs between versions of Python."""
    io = realtime()

    @io.on("deep")
    async def deep(client: Any, value: Any) -> None:
        pass

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send('421["deep",' + "[" * depth + "]" * depth + "]")
        answer = await socket.next()
        if answer is None:
            assert socket.connection.close_code == 1002
            assert depth > 900
        else:
            assert answer == "431[]"
            assert depth < 100_000


async def test_announced_attachments_hold_nothing_and_are_let_go_of() -> None:
    """CVE-2026-48804: attachments pile up, before a namespace is connected and after the end."""
    io = realtime()
    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            await socket.connect()
            await socket.send('45900-["echo"]', *[b"x" * 1000] * 500)
            await until(lambda: raw.session.channel._decoder and raw.session.channel._decoder.held > 500_000)
            channel = raw.session.channel
        await until(lambda: not io.engine.sessions)
        assert channel._decoder is None


async def test_whatever_comes_ends_its_own_session_alone() -> None:
    """CVE-2022-2421, CVE-2022-41940, CVE-2023-31125, CVE-2023-32695: exceptions that ended the process."""
    chance = random.Random(3)
    alphabet = [
        "4",
        "0",
        "2",
        "5",
        "1-",
        "[",
        "]",
        "{",
        "}",
        '"x"',
        ",",
        "/",
        "9" * 20,
        "\x00",
        "é",
        '{"toString":1}',
        "b",
    ]
    async with serving(realtime()) as raw, raw.socket() as other:
        await other.opened()
        await other.connect()

        async def one() -> None:
            text = "4" + "".join(chance.choices(alphabet, k=chance.randrange(8)))
            if chance.random() < 0.5:
                async with raw.socket() as socket:
                    await socket.opened()
                    await socket.send("40", text, b"x")
                    await socket.send('421["echo"]')
            else:
                sid = await raw.poll_session()
                status, _ = await raw.request("POST", text.encode(), sid=sid)
                assert status in (200, 400)

        for _ in range(20):
            await asyncio.gather(*[one() for _ in range(10)], return_exceptions=True)
        await other.send('421["echo",1]')
        await other.expect("431[1]")


@pytest.mark.parametrize("stage", ["handshake", "get", "post", "upgrade", "probe"])
async def test_a_reset_at_any_stage_leaves_nothing_behind(stage: str) -> None:
    io = realtime(connect_timeout_s=1.0, upgrade_timeout_s=1.0)
    path = "/socket.io/?EIO=4&transport="
    async with serving(io) as raw, await Peer.connect(raw.server) as peer:
        sid = await raw.poll_session()
        if stage == "handshake":
            peer.send(get(f"{path}polling"))
        elif stage == "get":
            peer.send(get(f"{path}polling&sid={sid}"))
            await until(lambda: raw.session.poll)
        elif stage == "post":
            peer.send(f"POST {path}polling&sid={sid} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n4".encode())
            await until(lambda: raw.session.posting)
        elif stage == "upgrade":
            peer.send(upgrade(f"{path}websocket&sid={sid}"))
        else:
            await peer.open(f"{path}websocket&sid={sid}")
            await until(lambda: raw.session.probe)
        peer.reset()
        await until(lambda: not io.engine.sessions)


async def test_what_still_comes_on_a_closed_session_makes_no_client() -> None:
    io = realtime()
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        raw.session.close("transport error")
        await socket.send("40")
        await socket.closed()
        await turns()
        assert (dict(io.clients), io._root._arriving) == ({}, {})


async def test_more_namespaces_than_a_session_may_have_are_refused() -> None:
    io = realtime()
    io.matching(r"/n\d+")
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        for n in range(101):
            await socket.send(f"40/n{n},")
        answers: list[Any] = [await socket.next() for _ in range(101)]
        assert [answer[:2] for answer in answers].count("40") == 100
        assert sum("a connection may have 100 namespaces" in answer for answer in answers) == 1


# -- CVE-2026-48804, and the parser of socket.io up to 4.2.5: attachments --------------------------------------------


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("count", ["1000000000", "1001", "9" * 30])
async def test_more_attachments_than_a_packet_may_have_are_refused_when_they_are_announced(
    connected: bool, count: str
) -> None:
    async with serving(realtime()) as raw, raw.socket() as socket:
        await socket.opened()
        if connected:
            await socket.connect()
        await socket.send(f'45{count}-["echo"]')
        assert await socket.closed() == (1008 if count == "1001" or len(count) < 16 else 1002)
        await until(lambda: not raw.io.engine.sessions)


async def test_as_many_attachments_as_a_packet_may_have_are_taken() -> None:
    async with serving(realtime()) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send(f'45{MAX_ATTACHMENTS}-1["quiet"]', *[b"x"] * MAX_ATTACHMENTS)
        await socket.expect("431[]")


@pytest.mark.parametrize("way", ["polling", "websocket"])
async def test_a_binary_event_before_a_namespace_is_connected_ends_the_session_and_holds_nothing(way: str) -> None:
    """CVE-2026-48804."""
    io = realtime()
    async with serving(io) as raw:
        if way == "polling":
            sid = await raw.poll_session()
            assert (await raw.request("POST", b'452-["echo"]\x1ebAAAA', sid=sid))[0] == 400
        else:
            async with raw.socket() as socket:
                await socket.opened()
                channel = raw.session.channel
                await socket.send('452-["echo"]')
                assert await socket.closed() == 1002
                assert channel._decoder is None
        await until(lambda: not io.engine.sessions)


# -- CVE-2026-48802, CVE-2026-59725: requests that are no use ---------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "content_type", "length", "status"),
    [
        ("EIO=4&transport=polling&sid={sid}", "text/plain", 10_000_000_000, 413),
        ("EIO=4&transport=polling&sid={sid}", "application/octet-stream", 900_000, 400),
        ("EIO=4&transport=polling&sid=nobody", "application/octet-stream", 900_000, 400),
        ("EIO=4&transport=websocket&sid={sid}", "text/plain", 900_000, 400),
        ("EIO=4&transport=carrier-pigeon&sid={sid}", "text/plain", 900_000, 400),
        ("EIO=3&transport=polling", "application/octet-stream", 900_000, 400),
        ("EIO=4&transport=polling", "application/octet-stream", 900_000, 400),
    ],
)
async def test_a_post_that_can_be_of_no_use_is_answered_without_its_body_and_its_connection_let_go(
    query: str, content_type: str, length: int, status: int
) -> None:
    """CVE-2026-59725, and the unbounded bodies of CVE-2026-48802: 400 or 413 at once, and no descriptor stays."""
    io = realtime()
    async with serving(io) as raw:
        target = "/socket.io/?" + query.format(sid=await raw.poll_session())
        before = {connection.id for connection in raw.server.connections}
        async with await Peer.connect(raw.server) as peer:
            head = (
                f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
            )
            peer.send(head.encode() + b"x")
            answer = await peer.answer()
            assert answer.status == status
            assert "code" in json.loads(answer.body)
            assert await peer.to_end() == b""
        await until(lambda: {connection.id for connection in raw.server.connections} <= before)


# -- CVE-2020-36048: buffers -----------------------------------------------------------------------------------------


async def test_what_a_session_may_send_is_at_most_a_mebibyte_by_default() -> None:
    """CVE-2020-36048: it was 100 MB. On each transport, and for attachments together."""
    async with serving(realtime()) as raw:
        async with raw.socket() as socket:
            assert (await socket.opened())["maxPayload"] <= 1 << 20
            await socket.connect()
            await socket.send("4" + "x" * (1 << 20))
            assert await socket.closed() == 1009
        async with raw.socket() as socket:
            await socket.opened()
            await socket.connect()
            await socket.send('453-["echo"]', *[b"x" * (1 << 19)] * 2)
            assert await socket.closed() in (1008, 1009)
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        await raw.get(sid)
        assert (await raw.request("POST", BytesIO(b"4" * ((1 << 20) + 1)), sid=sid))[0] == 413


# -- CVE-2025-61765: the bus ------------------------------------------------------------------------------------------


class Exploit:
    """What pickle would run."""

    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Exploit, "ran", True)


async def test_what_crosses_between_nodes_is_data_and_never_code(logged: Logged) -> None:
    """CVE-2025-61765: whoever could write to the bus ran code on every node, by pickle.

    Here he is somebody who may send events, as the nodes are: what is none is counted as a gap, and changes nothing.
    """
    hub = MemoryHub()
    io = realtime(broker=MemoryBroker(hub))
    chance = random.Random(7)
    attacker = MemoryBroker(hub)
    await attacker.open(Receiver())
    forged: list[Any] = [
        pickle.dumps(Exploit()),
        {"kind": "event", "namespace": 5},
        {"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}, ["true"]]},
        ["!!python/object/apply:os.system", "true"],
        None,
        7,
        "text",
    ]
    forged += [chance.randbytes(chance.randrange(40)) for _ in range(200)]
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        with pytest.raises(portico.LocalError, match="msgspec can encode"):
            await attacker.publish("/", Exploit())
        for data in forged:
            await attacker.publish("/", data)
        await attacker.publish("/", {"kind": "event", "namespace": "/", "json": b'["hello"]'})
        await socket.expect('42["hello"]')
        await socket.send('421["echo",1]')
        await socket.expect("431[1]")
        assert io.broker.counts.missed >= len(forged)
        await attacker.close()
    assert not Exploit.ran
    assert {record.name for record in logged.records} == {"portico.brokers"}  # two warnings each, and no traceback
    assert not any(record.exc_info for record in logged.records)
    logged.records.clear()


async def test_what_is_set_aside_for_a_client_or_a_ticket_is_data_too(logged: Logged) -> None:
    """CVE-2025-61765: also what is kept with the broker is decoded to its type, or is nothing."""
    hub = MemoryHub()
    io = realtime(broker=MemoryBroker(hub), recovery=Recovery())
    attacker = MemoryBroker(hub)
    await attacker.open(Receiver())
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        ticket = hashlib.sha256(b"forged").hexdigest()
        await attacker.store(f"ticket\0{ticket}", pickle.dumps(Exploit()), 60)
        await attacker.store("recovery\0/\0forged", pickle.dumps(Exploit()), 60)
        await socket.send('40{"ticket":"forged"}')
        assert "this ticket is not valid" in str(await socket.next())
        await socket.send('40{"pid":"forged"}')
        assert str(await socket.next()).startswith('40{"sid"')
        await attacker.close()
    assert not Exploit.ran
    assert len(logged.records) == 2
    assert all("can't be decoded" in record.getMessage() for record in logged.records)
    logged.records.clear()


# -- CVE-2019-13611, CVE-2020-28481: pages of other sites ------------------------------------------------------------

ORIGINS = {
    None: True,  # no browser
    "http://{host}": True,
    "HTTP://{host}": True,
    "null": False,
    "http://evil.example": False,
    "http://sub.{host}": False,
    "http://{host}.evil.example": False,
    "https://{host}": False,
    "http://127.0.0.1": False,  # another port
    "http://127.0.0.1:1": False,
    "http://[::1]:{port}": False,
    "http://{host}@evil.example": False,
    "http://evil.example#{host}": False,
    "{host}": False,
    "": False,
}


@pytest.mark.parametrize("origin", ORIGINS)
async def test_only_pages_of_the_same_origin_come_in_by_default_on_either_transport_and_by_the_upgrade(
    origin: str | None,
) -> None:
    """CVE-2019-13611, CVE-2020-28481: no check, or every site allowed by default."""
    async with serving(realtime()) as raw:
        port = str(raw.server.port)
        told = None if origin is None else origin.format(host=f"127.0.0.1:{port}", port=port)
        headers = {} if told is None else {"Origin": told}
        sid = await raw.poll_session()
        answers = {
            "polling": await raw.request(headers=headers),
            "post": await raw.request("POST", b"40", headers, sid=sid),
            "websocket": await _upgraded(raw, headers),
            "upgrade": await _upgraded(raw, headers, sid),
        }
        allowed = ORIGINS[origin]
        found = {way: status for way, (status, _) in answers.items()}
        assert found == {
            "polling": 200 if allowed else 403,
            "post": 200 if allowed else 403,
            "websocket": 101 if allowed else 403,
            "upgrade": 101 if allowed else 403,
        }
        if not allowed and told == "http://evil.example":
            assert all("origins=['http://evil.example']" in text for _, text in answers.values())


async def _upgraded(raw: Raw, headers: dict[str, str], sid: str | None = None) -> tuple[int, str]:
    path = raw.url(transport="websocket", sid=sid).removeprefix(raw.base)
    async with await Peer.connect(raw.server) as peer:
        peer.send(upgrade(path, host=f"127.0.0.1:{raw.server.port}", **headers))
        head = await peer.head()
        return head.status, "" if head.status == 101 else (await peer.to_end()).decode()
