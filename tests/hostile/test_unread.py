"""A handler that never reads: what it has been sent and not taken is bounded (`Limits.max_unread_bytes`), whatever the
messages are like; and control frames are still answered, up to a bounded look-ahead.

A message weighs 64 bytes more than what is in it, so that empty ones are no way round the limit; and a text what its
characters take in memory, which is four bytes each as soon as one of them is an emoji.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.hostile.attacker import leaves_nothing, peer_at
from tests.hostile.target import KIB, MIB, Target
from tests.support import BINARY, PING, PONG, TEXT, Peer, until

from portico.testing import pair
from portico.websocket import LOOKAHEAD_BYTES, MESSAGE_COST

pytestmark = pytest.mark.usefixtures("neighbour")

UNREAD = 256 * KIB  # Limits.max_unread_bytes, as it is by default
PART = 64 * KIB  # of a read, so much is made before it is dealt with
MOST = UNREAD + LOOKAHEAD_BYTES + PART  # and the message that goes over: docs/design.md §7
MIXED = ["a" * 199 + last for last in ("a", "é", "水", "🚪")]  # 1, 1, 2 and 4 bytes for each character


def full(victim: Target, count: int = 1) -> list[dict[str, Any]]:
    """What the victim tells of these connections, as soon as it doesn't even look ahead any more."""

    def condition(now: dict[str, Any]) -> bool:
        unread = now["unread"]
        return len(unread) == count and all(one["paused"] and one["cost"] >= UNREAD + LOOKAHEAD_BYTES for one in unread)

    states: list[dict[str, Any]] = victim.settled(condition)["unread"]
    return states


async def flood(peer: Peer, one: bytes, size: int) -> None:
    """Send without end; it is the kernel that says when it is enough."""
    piece = one * (size // len(one))
    with contextlib.suppress(ConnectionError):
        while True:
            peer.send(piece)
            await peer.writer.drain()


@contextlib.asynccontextmanager
async def flooding(victim: Target, one: bytes, count: int = 1) -> AsyncIterator[list[dict[str, Any]]]:
    """That many connections that send without end, as soon as the victim reads none of them any more."""
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        peers = [await stack.enter_async_context(peer_at(victim, "/unread")) for _ in range(count)]
        floods = [group.create_task(flood(peer, one, MIB)) for peer in peers]
        try:
            yield await asyncio.to_thread(full, victim, count)
        finally:
            for task in floods:
                task.cancel()
            for peer in peers:
                peer.reset()


@pytest.mark.parametrize(
    ("first", "size"), [(TEXT, 0), (TEXT, 1), (BINARY, 1), (BINARY, 100), (TEXT, 1000), (BINARY, 100_000)]
)
async def test_what_is_held_is_bounded(victim: Target, first: int, size: int) -> None:
    with victim.spending() as spent:
        async with flooding(victim, victim.frame(first, b"x" * size)) as [state]:
            pass
    assert state["cost"] <= MOST + size + MESSAGE_COST, state
    assert spent.peak <= 3 * MOST, (spent, state)


@pytest.mark.parametrize("texts", [MIXED, ["a" * 100_000 + "🚪"]], ids=["mixed", "long"])
async def test_text_is_held_to_what_it_weighs_in_memory(victim: Target, texts: list[str]) -> None:
    """Not to its length: of a text with one emoji, CPython stores every character in four bytes (PEP 393)."""
    largest = max(sys.getsizeof(text) for text in texts)
    with victim.spending() as spent:
        async with flooding(victim, b"".join(victim.frame(TEXT, text.encode()) for text in texts)) as [state]:
            pass
    assert state["cost"] <= MOST + largest + MESSAGE_COST, state
    assert spent.peak <= 3 * (MOST + largest), (spent, state)


@pytest.mark.parametrize("role", ["client", "server"])
async def test_what_is_put_in_is_taken_out(role: str) -> None:
    """`Cost.unread` is what the messages weigh, within the 64 bytes for each, and nothing when all are taken."""
    messages = [*MIXED, "", "🚪", b"", b"x" * 200, "a" * 5000 + "🚪", "ende"]
    async with pair() as ends:
        ours, theirs = (ends.client, ends.server) if role == "client" else (ends.server, ends.client)
        for message in messages:
            await theirs.send(message)
        await until(lambda: ours.messages_in == len(messages))
        while messages:
            objects = sum(sys.getsizeof(message) for message in messages)
            assert objects - 16 * len(messages) <= ours.cost.unread <= objects + MESSAGE_COST * len(messages)
            assert await ours.recv() == messages.pop(0)
        assert ours.cost.unread == 0


async def test_of_many_connections(victim: Target) -> None:
    """Fifty of them that send messages of one byte."""
    with victim.spending() as spent:
        async with flooding(victim, victim.frame(TEXT, b"x"), 50) as states:
            pass
    assert max(state["cost"] for state in states) <= MOST + 1 + MESSAGE_COST
    assert spent.peak <= 50 * MOST, spent


async def test_a_ping_is_answered(victim: Target) -> None:
    """Behind what nobody reads, too: within a second or so; and so is a close frame (RFC 6455 §5.5.1, §5.5.2)."""
    size = 1000
    async with peer_at(victim, "/unread") as peer:
        peer.send(victim.frame(BINARY, bytes(size)) * (UNREAD // (size + MESSAGE_COST) + 1))
        now = await asyncio.to_thread(victim.settled, lambda now: [one["paused"] for one in now["unread"]] == [True])
        assert UNREAD < now["unread"][0]["cost"] < UNREAD + LOOKAHEAD_BYTES
        for n in range(2):
            peer.send(victim.frame(BINARY, bytes(size)) + victim.frame(PING, b"%d" % n))
            assert await peer.frame() == (PONG, b"%d" % n)
        peer.send(victim.close_frame(1000))
        await peer.closed_with(1000)
        assert await peer.to_end() == b""


async def test_what_comes_with_the_handshake_counts(victim: Target) -> None:
    """Where that is too much already, reading pauses, and a ping behind it is answered."""
    async with peer_at(victim, "/unread", tail=victim.frame(TEXT, b"x") * (UNREAD // MESSAGE_COST)) as peer:
        await asyncio.to_thread(victim.settled, lambda now: [one["paused"] for one in now["unread"]] == [True])
        peer.send(victim.frame(PING, b"behind it"))
        assert await peer.frame() == (PONG, b"behind it")
        peer.send(victim.close_frame(1000))
        await peer.closed_with(1000)
        assert await peer.to_end() == b""


async def test_a_peer_that_leaves_is_noticed(victim: Target) -> None:
    """What it has left behind unread is let go of, with the handler, after `Limits.handler_grace_s`."""

    count = 20

    async def come_and_go() -> None:
        async with flooding(victim, victim.frame(BINARY, bytes(1000)), count):
            pass
        await asyncio.to_thread(
            victim.settled, lambda now: (now["connections"], now["handlers"]) == (2, 0)
        )  # who asks, and the neighbour

    await leaves_nothing(victim, come_and_go, count * UNREAD // 2)
