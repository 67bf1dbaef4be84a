"""Rooms: one message for all members, each policy for a peer that really takes nothing, and nothing but the policy."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from tests.held import SMALL, Hall, Push, hall
from tests.support import BINARY, CLOSE, PING, PONG, TEXT, Peer, close_frame, frame, turns, until
from websockets.asyncio.client import ClientConnection
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

import portico
from portico import LocalError, Room
from portico.rooms import Policy

POLICIES: list[Policy] = ["close", "drop_oldest", "drop_newest", "latest"]
OUTBOX = 40_000
LIMITS = portico.Limits(high_water_bytes=10_000, max_outbox_bytes=OUTBOX)
SIZE = 1000
COUNT = 600


def numbered(number: int) -> str:
    return f"{number:05}" * (SIZE // 5)


def number_of(payload: bytes | str) -> int:
    assert len(payload) == SIZE
    number = int(payload[:5])
    assert payload == (numbered(number) if isinstance(payload, str) else numbered(number).encode())
    return number


async def read_numbers(peer: Peer, last: int) -> list[int]:
    """The numbers that come until `last` does."""
    got: list[int] = []
    while not got or got[-1] != last:
        first, payload = await peer.frame()
        assert first == TEXT, (hex(first), payload)
        got.append(number_of(payload))
    return got


class Stage:
    """A room with two members that read and one that does not."""

    def __init__(self, found: Hall, room: Room) -> None:
        self.found = found
        self.room = room
        self.healthy: list[Peer] = []
        self.slow: portico.WebSocket
        self.slow_peer: Peer

    async def prepare(self) -> None:
        for _ in range(2):
            ws, peer = await self.found.enter()
            self.room.add(ws)
            self.healthy.append(peer)
        self.slow, self.slow_peer = await self.found.enter(receive_buffer=SMALL)
        self.slow.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        self.room.add(self.slow)

    async def broadcast(self) -> int:
        """All the messages, while the healthy ones read; returns how often somebody took one."""
        reading = [asyncio.create_task(read_numbers(peer, COUNT - 1)) for peer in self.healthy]
        taken = 0
        for number in range(COUNT):
            taken += self.room.send(numbered(number))
            assert self.slow.buffered <= OUTBOX
            if number % 3 == 0:
                await turns(2)
        for got in await asyncio.gather(*reading):
            assert got == list(range(COUNT)), "the others notice nothing"
        return taken


@contextlib.asynccontextmanager
async def staged(policy: Policy, **options: Any) -> AsyncIterator[Stage]:
    async with hall(Push(), limits=LIMITS, **options) as found:
        stage = Stage(found, Room(policy))
        await stage.prepare()
        yield stage


# -- membership ----------------------------------------------------------------------------------------------------


async def test_send_returns_how_many_took_it() -> None:
    async with hall(Push()) as found:
        room = Room()
        assert room.send("nobody") == 0
        members = [await found.enter() for _ in range(3)]
        for ws, _ in members:
            room.add(ws)
            room.add(ws)
        assert len(room) == 3
        assert room.send("hello") == 3
        members[0][0].close()
        assert room.send(b"bytes") == 2
        room.discard(members[1][0])
        room.discard(members[1][0])
        assert room.send(bytearray(b"more")) == 1
        assert {ws in room for ws, _ in members[1:]} == {False, True}
        assert set(room) == {members[0][0], members[2][0]}
        expected = [(TEXT, b"hello"), (BINARY, b"bytes"), (BINARY, b"more")]
        assert [await members[2][1].frame() for _ in range(3)] == expected
        assert await members[1][1].frame() == expected[0]
        assert room.dropped == 0


@pytest.mark.parametrize("message", [1, None, ["x"], "\ud800"])
async def test_what_no_message_is(message: Any) -> None:
    async with hall(Push()) as found:
        ws, peer = await found.enter()
        room = Room()
        room.add(ws)
        with pytest.raises(LocalError):
            room.send(message)
        assert room.send("still works") == 1
        assert await peer.frame() == (TEXT, b"still works")


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(LocalError, match=r"on_slow='block'.*'close', 'drop_oldest', 'drop_newest', 'latest'"):
        Room("block")  # type: ignore[arg-type] # that is the point


async def test_a_member_leaves_by_itself_when_it_ends() -> None:
    async with hall(Push()) as found:
        rooms = [Room(), Room("latest")]
        (one, peer), (two, other) = await found.enter(), await found.enter()
        for room in rooms:
            room.add(one)
            room.add(two)
        peer.send(close_frame(1000))
        other.reset()
        await until(lambda: not any(len(room) for room in rooms))
        rooms[0].add(one)
        assert len(rooms[0]) == 0
        assert rooms[0].send("nobody") == 0


async def test_callbacks_may_send_add_remove_and_end_while_others_end() -> None:
    """A goodbye for each that leaves, sent from on_close; the room is asked while it changes."""
    endpoint = Push()
    room = Room()
    endpoint.open_hook = room.add

    def on_close(ws: portico.WebSocket, close: portico.Close) -> None:
        left.append(room.send("one left"))
        for member in itertools.islice(room, 1):
            member.stream.abort()

    left: list[int] = []
    endpoint.close_hook = on_close
    async with hall(endpoint) as found:
        peers = [(await found.enter())[1] for _ in range(8)]
        peers[0].send(close_frame(1000))
        await until(lambda: len(endpoint.closes) == 8)
        assert left == [7, 6, 5, 4, 3, 2, 1, 0]
        assert len(room) == 0


async def test_a_broadcast_from_within_on_message_reaches_its_sender_too() -> None:
    endpoint = Push()
    room = Room()
    endpoint.open_hook = room.add
    endpoint.message_hook = lambda ws, message: room.send(message)
    async with hall(endpoint) as found:
        peers = [(await found.enter())[1] for _ in range(4)]
        for number, peer in enumerate(peers):
            peer.send(frame(TEXT, b"from %d" % number))
        for peer in peers:
            assert sorted([await peer.frame() for _ in range(4)]) == [(TEXT, b"from %d" % each) for each in range(4)]


# -- slow members --------------------------------------------------------------------------------------------------


async def test_close_ends_the_slow_member_with_1008_and_no_other() -> None:
    async with staged("close") as stage:
        taken = await stage.broadcast()
        assert stage.slow.closed is not None
        assert (stage.slow.closed.code, stage.slow.closed.by) == (1008, "us")
        got = []
        while (frame := await stage.slow_peer.frame())[0] == TEXT:
            got.append(number_of(frame[1]))
        assert frame[0] == CLOSE
        assert frame[1][:2] == (1008).to_bytes(2, "big")
        assert str(OUTBOX).encode() in frame[1], "which limit it was"
        assert got == list(range(len(got)))
        assert 2 * COUNT < taken < 3 * COUNT
        assert stage.room.dropped == 1
        await stage.slow_peer.__aexit__()
        await until(lambda: len(stage.room) == 2)


async def test_drop_newest_keeps_what_waits() -> None:
    async with staged("drop_newest") as stage:
        taken = await stage.broadcast()
        count = COUNT - stage.room.dropped
        assert taken == 2 * COUNT + count
        got = [number_of((await stage.slow_peer.frame())[1]) for _ in range(count)]
        oldest = OUTBOX // (SIZE + 4)
        assert got[:oldest] == list(range(oldest))
        assert got == sorted(got)
        assert count < COUNT
        assert stage.room.send(numbered(COUNT)) == 3
        assert await stage.slow_peer.frame() == (TEXT, numbered(COUNT).encode())


async def test_drop_oldest_keeps_what_is_new() -> None:
    async with staged("drop_oldest") as stage:
        assert await stage.broadcast() == 3 * COUNT
        got = await read_numbers(stage.slow_peer, COUNT - 1)
        assert got == sorted(got)
        assert len(got) + stage.room.dropped == COUNT
        newest = OUTBOX // (SIZE + 4) // 2
        assert got[-newest:] == list(range(COUNT - newest, COUNT))


async def test_latest_keeps_the_newest_alone() -> None:
    async with staged("latest") as stage:
        assert await stage.broadcast() == 3 * COUNT
        waiting = stage.slow.buffered
        got = await read_numbers(stage.slow_peer, COUNT - 1)
        assert got == sorted(got)
        assert len(got) + stage.room.dropped == COUNT
        assert waiting < LIMITS.high_water_bytes


async def test_latest_is_about_each_room_s_own_message() -> None:
    async with staged("latest") as stage:
        one, two = Room("latest"), Room("latest")
        one.add(stage.slow)
        two.add(stage.slow)
        while not stage.slow.stream.blocked:
            stage.slow.write("direct" * 300)
            await turns(1)
        for number in range(50):
            assert one.send(numbered(number)) == 1
            assert two.send(f"{number}") == 1
        stage.slow.write("end")
        got: list[bytes] = []
        while got[-1:] != [b"end"]:
            got.append((await stage.slow_peer.frame())[1])
        assert [each for each in got if not each.startswith(b"direct")] == [numbered(49).encode(), b"49", b"end"]
        assert (one.dropped, two.dropped) == (49, 49)


async def test_a_hundred_slow_members_at_once() -> None:
    """All of them are closed in the middle of one send."""
    endpoint = Push()
    async with hall(endpoint, small=True, limits=portico.Limits(high_water_bytes=1, max_outbox_bytes=1)) as found:
        room = Room()
        for _ in range(100):
            room.add((await found.enter(receive_buffer=SMALL))[0])
        sent = room.send(bytes(300_000))
        assert sent == 100
        await turns()
        assert room.send(b"more") == 0
        assert room.dropped == 100
        assert {close.code for close in (ws.closed for ws in list(room)) if close} <= {1008}


async def test_drop_oldest_drops_broadcasts_and_never_what_was_sent_directly_or_a_pong() -> None:
    async with staged("drop_oldest") as stage:
        reading = [asyncio.create_task(read_numbers(peer, COUNT - 1)) for peer in stage.healthy]
        directs = []
        for number in range(COUNT):
            assert stage.room.send(numbered(number)) == 3
            if number % 100 == 50:
                stage.slow.write(f"direct {number}")
                directs.append(f"direct {number}".encode())
            if number == COUNT // 2:
                stage.slow_peer.send(frame(PING, b"alive?"))
            await turns(2)
        got = []
        while not got or got[-1] != (TEXT, numbered(COUNT - 1).encode()):
            got.append(await stage.slow_peer.frame())
        assert [payload for _, payload in got if payload.startswith(b"direct")] == directs
        assert [payload for first, payload in got if first == PONG] == [b"alive?"]
        numbers = [number_of(payload) for first, payload in got if first == TEXT and payload not in directs]
        assert numbers == sorted(numbers)
        assert len(numbers) + stage.room.dropped == COUNT
        await asyncio.gather(*reading)


async def test_an_outbox_full_of_direct_messages_is_not_emptied_for_a_broadcast() -> None:
    async with staged("drop_oldest") as stage:
        count = 0
        while stage.slow.buffered + 2000 < OUTBOX:
            stage.slow.write("direct" * 300)
            count += 1
            await turns(1)
        while stage.slow.buffered + SIZE + 4 <= OUTBOX:
            stage.room.send(numbered(0))
        waiting = stage.slow.buffered
        stage.room.discard(stage.slow)
        room = Room("drop_oldest")
        room.add(stage.slow)
        assert room.send(bytes(5000)) == 0
        assert (room.dropped, stage.slow.buffered) == (1, waiting), "dropping what there is would not have sufficed"
        for _ in range(count):
            assert (await stage.slow_peer.frame())[1] == b"direct" * 300


# -- compression ---------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def client(found: Hall, *, takeover: bool = False, **options: Any) -> AsyncIterator[ClientConnection]:
    """A real client that asks for compression, with or without context takeover on our side."""
    factory = ClientPerMessageDeflateFactory(server_no_context_takeover=not takeover)
    address = f"ws://127.0.0.1:{found.server.port}/"
    options |= {"extensions": [factory], "compression": None, "ping_interval": None}
    async with websockets.connect(address, **options) as peer:
        yield peer


def outbox(ws: portico.WebSocket) -> list[bytes]:
    """What waits to be written; the stream keeps one piece alone without a list around it."""
    [out] = [each for each in gc.get_referents(ws.stream) if isinstance(each, (bytes, list))]
    return out if isinstance(out, list) else [out]


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_broadcast_is_framed_and_compressed_once_for_all_that_share_the_result(policy: Policy) -> None:
    deflate = portico.Deflate(threshold_bytes=100, server_context_takeover=True)
    async with hall(Push(), deflate=deflate) as found:
        room = Room(policy)
        async with contextlib.AsyncExitStack() as stack:
            peers = []
            sockets = []
            for takeover in (False, False, True, True):
                peers.append(await stack.enter_async_context(client(found, takeover=takeover)))
                sockets.append(await found.next())
            for _ in range(2):
                ws, peer = await found.enter()
                sockets.append(ws)
            for ws in sockets:
                room.add(ws)
            text = "compressible " * 100
            assert room.send(text) == 6
            entries = [outbox(ws)[0] for ws in sockets]
            assert entries[0] is entries[1]
            assert entries[0][0] == 0xC1
            assert len(entries[0]) < 100
            assert all(entry is entries[5] for entry in entries[2:]), "one plain frame for the others"
            assert entries[5][0] == TEXT
            assert room.send("short") == 6
            sockets[2].write(text)  # with its context: not disturbed by what was sent without it
            assert room.send(text) == 6
            for index, each in enumerate(peers):
                expected = [text, "short", text, text] if index == 2 else [text, "short", text]
                assert [await each.recv() for _ in expected] == expected
            assert await peer.frame() == (TEXT, text.encode())


@pytest.mark.parametrize("takeover", [False, True], ids=["stateless", "context takeover"])
@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "latest"])
async def test_what_is_dropped_never_spoils_a_compressed_stream(policy: Policy, takeover: bool) -> None:
    deflate = portico.Deflate(threshold_bytes=1, server_context_takeover=takeover)
    async with contextlib.AsyncExitStack() as stack:
        found = await stack.enter_async_context(hall(Push(), small=True, limits=LIMITS, deflate=deflate))
        peer = await stack.enter_async_context(client(found, takeover=takeover, max_queue=1))
        ws = await found.next()
        room = Room(policy)
        room.add(ws)
        noise = [bytes((index * 7 + step * step) & 255 for step in range(300)).hex() for index in range(50)]
        directs: list[str] = []
        for number in range(3000):
            room.send(f"{number:05} {noise[number % 50]}")
            if number % 500 == 250 and ws.buffered < OUTBOX - 3000:
                directs.append(f"direct {number} {noise[number % 50]}")
                ws.write(directs[-1])
            await turns(1)
        assert room.dropped, "the peer was slow"
        got: list[str] = []
        room.discard(ws)
        ws.write("end")
        async for message in peer:
            assert isinstance(message, str)
            got.append(message)
            if message == "end":
                break
        assert [message for message in got if message.startswith("direct")] == directs
        numbers = [int(message[:5]) for message in got if message[:1].isdigit()]
        assert numbers == sorted(numbers)
        assert len(numbers) + room.dropped == 3000
        assert all(message[6:] == noise[int(message[:5]) % 50] for message in got if message[:1].isdigit())


# -- rooms of clients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
async def test_members_may_be_our_own_ends_as_a_client(policy: Policy) -> None:
    """Each frame is masked with its own key (RFC 6455 §5.3), and the policy holds all the same."""
    endpoint = Push()
    endpoint.message_hook = lambda ws, message: None
    async with hall(endpoint, deflate=portico.Deflate(threshold_bytes=100)) as found:
        room = Room(policy)
        address = f"ws://127.0.0.1:{found.server.port}/"
        async with portico.connect(address) as one, portico.connect(address) as two:
            for ws in (one, two):
                room.add(ws)
            for number in range(30):
                assert room.send(numbered(number)) == 2
                await turns(3)
            await until(lambda: len(endpoint.messages) == 60)
            assert sorted(endpoint.messages) == sorted([numbered(number) for number in range(30)] * 2)
            assert room.dropped == 0
