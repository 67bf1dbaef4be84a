"""What other servers of these protocols were hurt by: each advisory as a test of what happens here instead."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from tests.realtime.raw import realtime, serving
from tests.support import Peer, get, turns, until, upgrade

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
    io = realtime(connect_timeout_s=0.2, upgrade_timeout_s=0.2)
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
