"""Each pair of first bytes of a frame (RFC 6455 §5.2), on a connection of its own: it is closed as the RFC has it, and
nothing else is.

All 65,536 of them with ``PORTICO_LONG=1`` (`make long`); else each first byte with second bytes that mean something
different.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket

import pytest
from tests.hostile.attacker import Host, Neighbour, told
from tests.hostile.target import Target
from tests.interop.storm_client import MakeScript, Script, Storm
from tests.support import CLOSE, PONG, upgrade
from tests.wire import raw

LONG = os.environ.get("PORTICO_LONG") == "1"
AT_ONCE = 50
GUARD_S = 600 if LONG else 60


def pairs(*seconds: int) -> list[tuple[int, int]]:
    """With these second bytes, masked and not; or with all."""
    both = sorted({bit | second for second in seconds for bit in (0, 0x80)})
    return list(itertools.product(range(256), range(256) if LONG else both))


def attack(victim: Target, first: int, second: int) -> bytes:
    """A frame that begins so, with zeros behind it, and a close frame."""
    zeros = (4 if second & 0x80 else 0) + (second & 127)
    return bytes((first, second)) + bytes(zeros) + victim.close_frame(1000)


def wanted(victim: Target, first: int, second: int) -> list[tuple[int, bytes]]:
    """What comes back: first bytes and payloads, a close frame's cut to its code."""
    opcode, size = first & 15, second & 127
    begins_or_ends = opcode in (1, 2) or (opcode in (8, 9, 10) and first >= 0x80)
    failed, closed = (CLOSE, b"\x03\xea"), (CLOSE, b"\x03\xe8")
    if first & 0x70 or not begins_or_ends or second & 0x80 != victim.mask_bit or size > 125:  # then a length of zeros
        return [failed]
    if opcode == 8:
        return [(CLOSE, b"") if size == 0 else failed]  # a code in one byte, or code 0
    if opcode == 9:
        return [(PONG, bytes(size)), closed]
    if opcode == 10 or first < 0x80:
        return [closed]
    return [told("str" if opcode == 1 else "bytes", bytes(size)), closed]


def frames(came: bytes) -> list[tuple[int, bytes]]:
    return [(kind, data[:2] if kind == CLOSE else data) for kind, _, data in raw.read_frames(came)]


@pytest.mark.parametrize("victim", ["server"], indirect=True)
def test_to_a_server(victim: Target, neighbour: Neighbour) -> None:
    storm = Storm(victim.port)
    before = neighbour.count

    def script_for(first: int, second: int) -> MakeScript:
        def script(sock: socket.socket, number: int) -> Script:
            sock.send(upgrade("/told"))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += yield
            sock.send(attack(victim, first, second))
            came = b""
            while piece := (yield):
                came += piece
            assert frames(came) == wanted(victim, first, second), (hex(first), hex(second), came)

        return script

    scripts = ((n, script_for(*pair)) for n, pair in enumerate(pairs(0, 1, 2, 3, 64, 124, 125, 126, 127)))
    try:
        storm.run(scripts, at_once=2 * AT_ONCE, timeout_s=GUARD_S)
    finally:
        storm.close()
    assert neighbour.count > before
    victim.settled(lambda now: now["connections"] == 2)  # the one that asks, and the neighbour


@pytest.mark.parametrize("victim", ["client"], indirect=True)
async def test_to_a_client(victim: Target, neighbour: Neighbour) -> None:
    todo = pairs(0, 3, 125, 127)
    before, wrong, left = neighbour.count, [], asyncio.Semaphore(0)

    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, second = todo.pop()
        async with Host(reader, writer) as host:
            await host.switch()
            host.send(attack(victim, first, second))
            came = await host.to_end()
            if frames(came) != wanted(victim, first, second):
                wrong.append((hex(first), hex(second), came))
        left.release()

    count = len(todo)
    async with asyncio.timeout(GUARD_S), await asyncio.start_server(visited, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        victim.ask(f"/dial?port={port}&path=/told&count={count}&at_once={AT_ONCE}")
        for _ in range(count):
            await left.acquire()
    assert not wrong
    assert neighbour.count > before
    await asyncio.to_thread(victim.settled, lambda now: now["connections"] == 2)
