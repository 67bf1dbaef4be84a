"""Cancelling recv, send, close, ping and connect, at any await, on either side: nothing is lost, nothing is corrupted,
nothing is left over.

Random cancels come from seeds, on simulated time, over a link that tears its input; `Cancelled` goes through the awaits
one by one.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest
from tests.support import descriptors, turns

import portico
from portico import Close
from portico.testing import Link, Pair, pair, run

ROLES = ["client", "server"]
SEEDS = range(30)
CANCELLED = object()
TAKEOVER = portico.Deflate(threshold_bytes=16, server_context_takeover=True, client_context_takeover=True)
NARROW = portico.Limits(high_water_bytes=2000)


def sides(ends: Pair, role: str) -> tuple[portico.WebSocket, portico.WebSocket]:
    """Our end, and the other."""
    return (ends.client, ends.server) if role == "client" else (ends.server, ends.client)


async def maybe(rng: random.Random, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What `coroutine` returns; CANCELLED where it was cancelled, at a random moment, before that."""
    task = asyncio.create_task(coroutine)
    way = rng.randrange(4)
    if way == 1:
        await turns(rng.randrange(12))
    elif way == 2:
        await asyncio.sleep(rng.uniform(0, 0.02))
    elif way == 3:
        await asyncio.wait([task], timeout=rng.uniform(0, 0.02))
        task.cancel()
    if way:
        task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return CANCELLED


async def wrapped(awaitable: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return await awaitable()


class Cancelled:
    """Awaits a coroutine, and cancels the task `late` turns after it has begun to wait for the `at`-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int, late: int = 0) -> None:
        self._steps = coroutine.__await__()
        self._at = at
        self._late = late

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        step: Callable[[], Any] = lambda: next(self._steps)  # noqa: E731
        for number in itertools.count():
            try:
                waits_for = step()
            except StopIteration as stop:
                return stop.value
            if number == self._at:
                _later(self._late, task.cancel)
            try:
                value = yield waits_for
                step = lambda value=value: self._steps.send(value)  # noqa: E731
            except BaseException as error:
                step = lambda error=error: self._steps.throw(error)  # type: ignore[misc] # noqa: E731
        return None


def _later(count: int, act: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    if count:
        loop.call_soon(_later, count - 1, act)
    else:
        loop.call_soon(act)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_recv_loses_no_message(role: str, seed: int) -> None:
    rng = random.Random(seed)
    messages = [f"{number} " + "a" * rng.randrange(200) for number in range(40)]

    async def main() -> None:
        with Link() as link:
            link.tear(seed)
            async with pair(link=link, deflate=TAKEOVER) as ends:
                ours, theirs = sides(ends, role)

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


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_send_is_all_or_nothing(role: str, seed: int) -> None:
    """What was cancelled while it waited for room is not sent; everything else arrives once, whole, and in order."""
    rng = random.Random(seed)
    sent: list[str] = []
    cancelled: list[str] = []
    got: list[str | bytes] = []

    async def main() -> None:
        with Link() as link:
            link.tear(seed)
            for sock in (link.client, link.server):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            async with pair(link=link, deflate=TAKEOVER, limits=NARROW) as ends:
                ours, theirs = sides(ends, role)

                async def talk(name: int) -> None:
                    for number in range(12):
                        message = f"{name} {number} " + "".join(rng.choices("abcdef", k=rng.randrange(1500)))
                        done = await maybe(rng, wrapped(lambda message=message: ours.send(message)))
                        (cancelled if done is CANCELLED else sent).append(message)

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
    assert cancelled
    for name in range(4):
        theirs = [message for message in got if str(message).startswith(f"{name} ")]
        assert theirs == [message for message in sent if message.startswith(f"{name} ")]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_cancelled_ping_leaves_the_others_theirs(role: str, seed: int) -> None:
    """Each ping that is waited for gets its own round trip, and none is left waiting."""
    rng = random.Random(seed)

    async def main() -> None:
        with Link() as link:
            async with pair(link=link) as ends:
                link.delay(0.005)
                ours, _ = sides(ends, role)

                async def ask() -> None:
                    for _ in range(10):
                        trip = await maybe(rng, ours.ping())
                        assert trip is CANCELLED or trip == pytest.approx(0.01)

                await asyncio.gather(*(ask() for _ in range(4)))
                assert await ours.ping() == pytest.approx(0.01)

    run(main())


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_cancelled_close_goes_on(role: str, seed: int) -> None:
    """Only the waiting is cancelled: the closing handshake is under way, and ends as it would have."""
    rng = random.Random(seed)

    async def main() -> None:
        with Link() as link:
            async with pair(link=link) as ends:
                link.delay(rng.choice([0, 0.01]))
                ours, theirs = sides(ends, role)
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
                task = asyncio.ensure_future(wrapped(lambda: _cancelled(ours.recv(), 0, late)))
                await turns(number % 5)
                await theirs.send(message)
                [got] = await asyncio.gather(task, return_exceptions=True)
                if isinstance(got, asyncio.CancelledError):
                    got = await ours.recv()
                assert got == message

    run(main())


async def _cancelled(coroutine: Coroutine[Any, Any, Any], at: int, late: int) -> Any:
    return await Cancelled(coroutine, at, late)


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def once(uri: str, **options: Any) -> None:
    ws = await portico.connect(uri, proxy=None, **options)
    try:
        await ws.send("hello")
        assert await ws.recv() == "hello"
    finally:
        await ws.close()


async def once_with(uri: str, **options: Any) -> None:
    async with portico.connect(uri, proxy=None, **options) as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"


async def once_for(uri: str, **options: Any) -> None:
    async for ws in portico.connect(uri, proxy=None, **options):
        await ws.send("hello")
        assert await ws.recv() == "hello"
        break


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("use", [once, once_with, once_for])
@pytest.mark.parametrize("place", ["tcp", "unix"])
def test_connect_leaves_nothing_behind(place: str, use: Callable[..., Any], late: int, tmp_path: Any) -> None:
    """Cancelled at its first await, at its second, and so on until it is over before: no socket, no task, no turn to
    connect (RFC 6455 §4.1) is kept, and the next one gets through."""

    async def main() -> None:
        path = str(tmp_path / "socket") if place == "unix" else None
        async with portico.serve(echo, "127.0.0.1", 0, uds=path) as server:
            uri = "ws://portico.test/" if path else f"ws://127.0.0.1:{server.port}/"
            await use(uri, uds=path)  # what is made once is made: the executor's thread
            await settled(server)
            tasks, before = asyncio.all_tasks(), descriptors()
            cancels = 0
            for at in itertools.count():
                task = asyncio.create_task(_cancelled(use(uri, uds=path), at, late))
                [outcome] = await asyncio.gather(task, return_exceptions=True)
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)
                await settled(server)
                assert descriptors().keys() == before.keys()
                assert asyncio.all_tasks() == tasks
                if outcome is None:
                    break
                cancels += 1
                await use(uri, uds=path, open_timeout_s=1)
                await settled(server)
            assert cancels >= 2

    run(main(), patience_s=0.002)


async def settled(server: portico.Server) -> None:
    """The server has seen the end of every connection, and everybody has had the time to clean up."""
    async with asyncio.timeout(30):
        await asyncio.sleep(0.1)  # whoever was given up while it waited to be accepted
        while server.connection_count:
            await asyncio.sleep(0.1)
    await turns()
