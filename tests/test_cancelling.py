"""Cancelling recv, send, close and ping, at any await, on either side: nothing is lost, corrupted or left over.

Random cancels come from seeds, on simulated time, over a link that tears its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from tests.cancels import CANCELLED, cancelled, maybe, wrapped
from tests.certificates import Tls
from tests.support import turns

import portico
from portico import Close
from portico.testing import Link, Pair, pair, run

ROLES = ["client", "server"]
TAKEOVER = portico.Deflate(threshold_bytes=16, server_context_takeover=True, client_context_takeover=True)
NARROW = portico.Limits(high_water_bytes=2000)

seeds = pytest.mark.parametrize(
    ("over", "seed"), [*(("tcp", seed) for seed in range(30)), *(("tls", seed) for seed in range(8))]
)


def sides(ends: Pair, role: str) -> tuple[portico.WebSocket, portico.WebSocket]:
    """Our end, and the other."""
    return (ends.client, ends.server) if role == "client" else (ends.server, ends.client)


@contextlib.asynccontextmanager
async def joined(
    link: Link, role: str, over: str, tls: Tls, **options: Any
) -> AsyncIterator[tuple[portico.WebSocket, portico.WebSocket]]:
    """Our end and the other, over "tcp" or "tls"."""
    if over == "tls":
        options |= {"uri": "wss://localhost/", "client": {"ssl": tls.client()}, "server": {"ssl": tls.server()}}
    async with pair(link=link, **options) as ends:
        assert ends.client.stream.tls == (over == "tls")
        yield sides(ends, role)


@seeds
@pytest.mark.parametrize("role", ROLES)
def test_recv_loses_no_message(role: str, over: str, seed: int, tls: Tls) -> None:
    rng = random.Random(seed)
    messages = [f"{number} " + "a" * rng.randrange(200) for number in range(40)]

    async def main() -> None:
        with Link() as link:
            link.tear(seed)
            async with joined(link, role, over, tls, deflate=TAKEOVER) as (ours, theirs):

                async def talk() -> None:
                    for message in messages:
                        await theirs.send(message)
                        await asyncio.sleep(rng.choice([0, 0, 0.001, 0.02]))

                talking = asyncio.create_task(talk())
                got: list[object] = []
                ways: list[Callable[[], Coroutine[Any, Any, Any]]] = [
                    ours.recv,
                    ours.__anext__,
                    lambda: wrapped(ours.recv),
                    lambda: asyncio.wait_for(ours.recv(), 0.003),
                ]
                while len(got) < len(messages):
                    try:
                        message = await maybe(rng, rng.choice(ways)())
                    except TimeoutError:
                        continue
                    if message is not CANCELLED:
                        got.append(message)
                await talking
                assert got == messages

    run(main())


@seeds
@pytest.mark.parametrize("role", ROLES)
def test_send_is_all_or_nothing(role: str, over: str, seed: int, tls: Tls) -> None:
    """What was cancelled while it waited for room is not sent; everything else arrives once, whole, and in order."""
    rng = random.Random(seed)
    sent: list[str] = []
    given_up: list[str] = []
    got: list[str | bytes] = []

    async def main() -> None:
        with Link() as link:
            link.tear(seed)
            for sock in (link.client, link.server):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            async with joined(link, role, over, tls, deflate=TAKEOVER, limits=NARROW) as (ours, theirs):

                async def talk(name: int) -> None:
                    for number in range(12):
                        message = f"{name} {number} " + "".join(rng.choices("abcdef", k=rng.randrange(1500)))
                        done = await maybe(rng, wrapped(lambda message=message: ours.send(message)))
                        (given_up if done is CANCELLED else sent).append(message)

                async def jam() -> None:
                    while True:
                        link.pause()
                        await asyncio.sleep(rng.uniform(0, 0.05))
                        link.resume()
                        await asyncio.sleep(rng.uniform(0, 0.01))

                async def listen() -> None:
                    async for message in theirs:
                        got.append(message)

                listening = asyncio.create_task(listen())
                jamming = asyncio.create_task(jam())
                await asyncio.gather(*(talk(name) for name in range(4)))
                jamming.cancel()
                await asyncio.gather(jamming, return_exceptions=True)
                link.resume()
                await ours.close()
                await listening

    run(main(), limit_s=600)
    assert sorted(got) == sorted(sent)
    assert given_up
    for name in range(4):
        theirs = [message for message in got if str(message).startswith(f"{name} ")]
        assert theirs == [message for message in sent if message.startswith(f"{name} ")]


@seeds
@pytest.mark.parametrize("role", ROLES)
def test_a_cancelled_ping_leaves_the_others_theirs(role: str, over: str, seed: int, tls: Tls) -> None:
    """Each ping that is waited for gets its own round trip, and none is left waiting."""
    rng = random.Random(seed)

    async def main() -> None:
        with Link() as link:
            async with joined(link, role, over, tls) as (ours, _):
                link.delay(0.005)

                async def ask() -> None:
                    for _ in range(10):
                        trip = await maybe(rng, ours.ping())
                        assert trip is CANCELLED or trip == pytest.approx(0.01)

                await asyncio.gather(*(ask() for _ in range(4)))
                assert await ours.ping() == pytest.approx(0.01)

    run(main())


@seeds
@pytest.mark.parametrize("role", ROLES)
def test_a_cancelled_close_goes_on(role: str, over: str, seed: int, tls: Tls) -> None:
    """Only the waiting is cancelled: the closing handshake is under way, and ends as it would have."""
    rng = random.Random(seed)

    async def main() -> None:
        with Link() as link:
            async with joined(link, role, over, tls) as (ours, theirs):
                link.delay(rng.choice([0, 0.01]))
                for _ in range(4):
                    await maybe(rng, rng.choice([lambda: ours.close(4001, "done"), lambda: wrapped(ours.close)])())
                await ours.close(4002)
                assert ours.stream.gone
                assert ours.closed is not None
                assert (ours.closed.clean, ours.closed.by) == (True, "us")
                await theirs.close()
                assert theirs.closed == Close(ours.closed.code, ours.closed.reason, clean=True, by="peer")

    run(main())


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("late", [0, 1, 2, 3])
def test_a_message_that_comes_with_the_cancel(role: str, late: int) -> None:
    """The task is cancelled just before, when and after its message wakes it: it is taken by this recv or the next."""

    async def main() -> None:
        async with pair() as ends:
            ours, theirs = sides(ends, role)
            for number in range(20):
                message = f"message {number}"
                task = asyncio.ensure_future(wrapped(lambda: cancelled(ours.recv(), 0, late)))
                await turns(number % 5)
                await theirs.send(message)
                [got] = await asyncio.gather(task, return_exceptions=True)
                if isinstance(got, asyncio.CancelledError):
                    got = await ours.recv()
                assert got == message

    run(main())
