"""What is no packet of Socket.IO v5 ends its session and no other, and holds nothing."""

from __future__ import annotations

import pytest
from tests.realtime.raw import realtime, serving

import portico

pytestmark = pytest.mark.usefixtures("logged")


@pytest.mark.parametrize(
    "message",
    [
        '42["echo"]',  # before it is connected
        '451-["echo",{"_placeholder":true,"num":0}]',
        '451000000000-["echo"]',
        "41",
        "43",
        "4",
        "4x",
        "47",
    ],
)
async def test_a_packet_before_connecting_ends_the_session(message: str) -> None:
    """CVE-2026-48804: nothing is accepted, nor held, for a namespace that is not connected."""
    async with serving(realtime()) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send(message)
        assert await socket.closed() in (1002, 1008)


@pytest.mark.parametrize(
    "message",
    [
        "42",
        "42{}",
        "42[]",
        "42[1]",
        '42[{"toString":1}]',  # CVE-2023-32695
        '42["connect"]',
        '42["disconnect"]',
        "42[",
        '42["x"]x',
        "42" + "[" * 100_000,
        '45-["x"]',
        '451["x"]',
        '4510000000-["x"]',
        '4299999999999999999["x"]',
        "40",  # twice
        "43[1]",
        '431{"a":1}',
        '41"x"',
        "44{}",
        "46x",
        '42/other,["x"]',
    ],
)
async def test_a_malformed_packet_ends_the_session_and_no_other(message: str) -> None:
    async with serving(realtime()) as raw, raw.socket() as socket, raw.socket() as other:
        for each in (socket, other):
            await each.opened()
            await each.connect()
        await socket.send(message)
        assert await socket.closed() in (1002, 1008)
        await other.send('421["echo"]')
        await other.expect("431[]")
        assert raw.io.counters.closed == {"parse error": 1}


@pytest.mark.parametrize(
    "attachments", [[b"\x00", "4x"], ["42"], [b"x" * 600, b"x" * 600]], ids=["text", "event", "large"]
)
async def test_attachments_that_do_not_come_as_announced_end_the_session(attachments: list[str | bytes]) -> None:
    io = realtime(max_payload_bytes=1000)
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send('453-["echo"]', *attachments)
        assert await socket.closed() in (1002, 1008)


async def test_a_binary_message_that_nobody_announced_ends_the_session() -> None:
    async with serving(realtime()) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send(b"x")
        assert await socket.closed() == 1002


async def test_a_placeholder_without_its_attachment_ends_the_session() -> None:
    async with serving(realtime()) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send('451-["echo",{"_placeholder":true,"num":1}]', b"x")
        assert await socket.closed() == 1002


async def test_answers_nobody_waits_for_are_ignored() -> None:
    async with serving(realtime()) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send("43123[1]", '421["echo"]')
        await socket.expect("431[]")


async def test_the_default_payload_is_at_most_a_mebibyte() -> None:
    """CVE-2020-36048."""
    assert portico.Realtime().engine.options.max_payload_bytes <= 1 << 20


def test_values_that_no_option_can_have_are_refused() -> None:
    for options in ({"ping_interval_s": 0}, {"max_payload_bytes": 1.5}, {"on_slow": "x"}, {"handler_threads": 0}):
        with pytest.raises(portico.LocalError, match=next(iter(options))):
            portico.Realtime(**options)  # type: ignore[arg-type]
