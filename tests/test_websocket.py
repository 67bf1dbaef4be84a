"""`recv()` and the task that waits in it: every way in which asyncio may run, cancel or collect it."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest
import uvloop
from tests.held import Push, hall
from tests.support import TEXT, Peer, close_frame, frame, turns, until

import portico
from portico import ConnectionClosed, LocalError


def eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore] # from 3.12 on
    return loop


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
if sys.version_info >= (3, 12):
    LOOPS["eager"] = eager_loop

Scene = Callable[[portico.WebSocket, Peer], Coroutine[Any, Any, None]]


@pytest.fixture(params=[*LOOPS, "debug"])
def play(request: pytest.FixtureRequest) -> Callable[[Scene], None]:
    """Plays a scene with one connection on every kind of loop."""

    def play(scene: Scene) -> None:
        async def main() -> None:
            async with hall() as found:
                await scene(*await found.enter())

        debug = request.param == "debug"
        factory = asyncio.new_event_loop if debug else LOOPS[request.param]
        with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
            runner.run(main())

    return play


def say(peer: Peer, *messages: str) -> None:
    """In one write."""
    peer.send(b"".join(frame(TEXT, message.encode()) for message in messages))


# -- the ways to wait ----------------------------------------------------------------------------------------------


async def directly(ws: portico.WebSocket) -> str | bytes:
    return await ws.recv()


async def in_a_task(ws: portico.WebSocket) -> str | bytes:
    return await asyncio.create_task(ws.recv())


async def with_wait_for(ws: portico.WebSocket) -> str | bytes:
    return await asyncio.wait_for(ws.recv(), 10)


async def with_timeout(ws: portico.WebSocket) -> str | bytes:
    async with asyncio.timeout(10):
        return await ws.recv()


async def gathered(ws: portico.WebSocket) -> str | bytes:
    return (await asyncio.gather(ws.recv(), asyncio.sleep(0)))[0]


async def in_a_task_group(ws: portico.WebSocket) -> str | bytes:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ws.recv())
    return task.result()


async def waited_for(ws: portico.WebSocket) -> str | bytes:
    [task], _ = await asyncio.wait([asyncio.ensure_future(ws.recv())])
    return task.result()


async def shielded(ws: portico.WebSocket) -> str | bytes:
    return await asyncio.shield(ws.recv())


async def with_anyio(ws: portico.WebSocket) -> str | bytes:
    with anyio.fail_after(10):
        return await ws.recv()


async def iterating(ws: portico.WebSocket) -> str | bytes:
    async for message in ws:
        return message
    raise EOFError


WAYS = [directly, in_a_task, with_wait_for, with_timeout, gathered, in_a_task_group, waited_for, shielded, with_anyio]
WAYS += [iterating]


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_wait(
    play: Callable[[Scene], None], way: Callable[[portico.WebSocket], Awaitable[str | bytes]]
) -> None:
    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        say(peer, "there before")
        await until(lambda: ws.inbox.cost)  # type: ignore[union-attr] # a coroutine has one
        assert await way(ws) == "there before"
        waiting = asyncio.create_task(way(ws))  # type: ignore[arg-type] # a coroutine function's
        await turns()
        assert not waiting.done()
        say(peer, "came", "and stayed")
        assert await waiting == "came"
        assert await way(ws) == "and stayed"

    play(scene)


def test_many_messages_in_order_whatever_pieces_they_come_in(play: Callable[[Scene], None]) -> None:
    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        chance = random.Random(1)
        messages = [str(index) * chance.randint(0, 50) for index in range(3000)]
        stream = b"".join(frame(TEXT, message.encode()) for message in messages)
        stream += close_frame(1000)

        async def send() -> None:
            at = 0
            while at < len(stream):
                step = chance.choice((1, 7, 100, 5000))
                peer.send(stream[at : at + step])
                at += step
                await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        assert [message async for message in ws] == messages
        await sending
        assert ws.closed is not None
        assert (ws.closed.code, ws.closed.clean) == (1000, True)

    play(scene)


# -- the task that waits -------------------------------------------------------------------------------------------

who: contextvars.ContextVar[str] = contextvars.ContextVar("who")


def test_a_task_stepped_within_the_turn_is_itself(play: Callable[[Scene], None]) -> None:
    """Its own context, its own name as the current task, and free to await anything."""

    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        seen: list[Any] = []

        async def reader() -> None:
            who.set("reader")
            async for message in ws:
                task = asyncio.current_task()
                assert task is not None
                seen.append((message, who.get(), task.get_name()))
                who.set(f"reader of {message}")
                await asyncio.sleep(0)
                seen.append((who.get(), asyncio.current_task() is task))
                async with asyncio.timeout(10):
                    await asyncio.to_thread(int)

        who.set("test")
        task = asyncio.create_task(reader(), name="the reader")
        await turns()
        say(peer, "a")
        await until(lambda: len(seen) == 2)
        say(peer, "b")
        await until(lambda: len(seen) == 4)
        assert seen == [
            ("a", "reader", "the reader"),
            ("reader of a", True),
            ("b", "reader of a", "the reader"),
            ("reader of b", True),
        ]
        assert who.get() == "test"
        peer.send(close_frame(1000))
        await task

    play(scene)


def test_a_step_within_the_turn_can_start_wait_for_and_cancel_others(play: Callable[[Scene], None]) -> None:
    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        async def child(number: int) -> int:
            await asyncio.sleep(0)
            return number

        async def reader() -> list[int]:
            await ws.recv()
            found = list(await asyncio.gather(*(child(number) for number in range(5))))
            stopped = asyncio.create_task(asyncio.Event().wait())
            await asyncio.sleep(0)
            stopped.cancel()
            await asyncio.wait([stopped])
            assert stopped.cancelled()
            async with asyncio.TaskGroup() as group:
                also = group.create_task(child(5))
            return [*found, also.result()]

        task = asyncio.create_task(reader())
        await turns()
        say(peer, "go")
        assert await task == [0, 1, 2, 3, 4, 5]

    play(scene)


def test_what_a_step_within_the_turn_raises_is_its_task_s_alone(play: Callable[[Scene], None]) -> None:
    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        async def reader() -> None:
            await ws.recv()
            raise ZeroDivisionError

        task = asyncio.create_task(reader())
        await turns()
        say(peer, "go", "more")
        with pytest.raises(ZeroDivisionError):
            await task
        assert await ws.recv() == "more"
        assert ws.closed is None

    play(scene)


def test_one_reader_at_a_time(play: Callable[[Scene], None]) -> None:
    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        first = asyncio.create_task(iterate(ws))
        say(peer, "for the first")
        await until(lambda: ws.stream.bytes_in)
        await turns()
        for way in (*WAYS, directly):
            if way is not in_a_task_group:  # which 3.12 cancels once too often when its task fails eagerly
                with pytest.raises(LocalError):
                    await way(ws)
        assert not first.done()
        peer.send(close_frame(1000))
        assert await first == ["for the first"], "and its loop ends as loops do"

    play(scene)


async def iterate(ws: portico.WebSocket) -> list[str | bytes]:
    return [message async for message in ws]


def test_asyncio_takes_recv_for_a_coroutine_at_any_time(play: Callable[[Scene], None]) -> None:
    """Never for a future, whose callbacks others may add: that would take the waiting task's place."""

    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        assert asyncio.iscoroutine(ws.recv())
        assert not asyncio.isfuture(ws.recv())
        waiting = asyncio.create_task(directly(ws))
        await turns()
        assert asyncio.iscoroutine(ws.recv())
        assert not asyncio.isfuture(ws.recv())
        say(peer, "come")
        assert await waiting == "come"

    play(scene)


# -- cancelling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_cancelling_a_wait_takes_no_message(
    play: Callable[[Scene], None], way: Callable[[portico.WebSocket], Awaitable[str | bytes]]
) -> None:
    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        waiting = asyncio.create_task(way(ws))  # type: ignore[arg-type] # a coroutine function's
        await turns()
        waiting.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if way in (shielded, waited_for):  # which don't cancel the task that they wait for
            before = asyncio.all_tasks()
            say(peer, "for that task")
            await until(lambda: any(task.done() and task.result() == "for that task" for task in before))
        say(peer, "kept")
        assert await ws.recv() == "kept"

    play(scene)


def test_timeouts_leave_the_next_message_to_the_next_wait(play: Callable[[Scene], None]) -> None:
    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ws.recv(), 0.001)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await ws.recv()
            with anyio.move_on_after(0.001) as scope:
                await ws.recv()
            assert scope.cancelled_caught
        say(peer, "kept")
        assert await ws.recv() == "kept"

    play(scene)


async def test_the_cancellation_reaches_the_task_that_was_cancelled_and_no_other() -> None:
    """A second reader that starts between a cancellation and its arrival is woken by its message alone."""
    async with hall() as found:
        ws, peer = await found.enter()
        first = asyncio.create_task(ws.recv())
        await turns()
        say(peer, "for the second")
        first.cancel("not yours")

        async def second() -> str | bytes:
            return await ws.recv()

        # Before the loop runs anything else, the second waits in the place of the first.
        step = second()
        waiting = asyncio.ensure_future(step)
        assert await waiting == "for the second"
        with pytest.raises(asyncio.CancelledError, match="not yours"):
            await first


def test_being_cancelled_while_a_message_is_on_its_way_to_the_task(play: Callable[[Scene], None]) -> None:
    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        waiting = asyncio.create_task(ws.recv())
        await turns()
        ws.inbox.put("by hand")  # type: ignore[union-attr] # a coroutine has one
        ws.inbox.wake()  # type: ignore[union-attr] # outside a turn: it will be stepped later
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await ws.recv() == "by hand"

    play(scene)


def test_an_end_while_a_cancellation_is_on_its_way(play: Callable[[Scene], None]) -> None:
    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        waiting = asyncio.create_task(ws.recv())
        await turns()
        waiting.cancel()
        ws.stream.abort()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert [message async for message in ws] == []

    play(scene)


@pytest.mark.parametrize("seed", range(6))
def test_cancelling_anywhere_loses_and_repeats_nothing(play: Callable[[Scene], None], seed: int) -> None:
    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        chance = random.Random(seed)
        total = 400
        got: list[str | bytes] = []
        pause: deque[int] = deque(chance.choice((0, 0, 0, 1, 2, 5)) for _ in range(total))

        async def send() -> None:
            number = 0
            while number < total:
                many = min(chance.randint(1, 8), total - number)
                say(peer, *(str(each) for each in range(number, number + many)))
                number += many
                await turns(pause[number % total])

        async def read(ways: list[Any]) -> None:
            while len(got) < total:
                message = await chance.choice(ways)(ws)
                got.append(message)  # no await between the two

        sending = asyncio.create_task(send())
        # a task within a task has its message already when its outer one is cancelled: that is its user's to handle
        plain = [directly, with_timeout, with_anyio, iterating]
        while len(got) < total:
            reader = asyncio.create_task(read(plain))
            await turns(chance.randint(0, 6))
            for _ in range(chance.randint(1, 3)):
                reader.cancel()
                await turns(chance.choice((0, 0, 1)))
            await asyncio.wait([reader])
        await sending
        assert got == [str(number) for number in range(total)]

    play(scene)


# -- the end -------------------------------------------------------------------------------------------------------


def test_what_came_before_the_end_is_taken_first(play: Callable[[Scene], None]) -> None:
    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        peer.send(frame(TEXT, b"one") + frame(TEXT, b"two") + close_frame(1001, "away"))
        await until(lambda: ws.closed)
        assert await ws.recv() == "one"
        assert [message async for message in ws] == ["two"]
        for _ in range(2):
            with pytest.raises(ConnectionClosed) as caught:
                await ws.recv()
            assert (caught.value.close.code, caught.value.close.by) == (1001, "peer")
            assert [message async for message in ws] == []

    play(scene)


@pytest.mark.parametrize("how", ["close", "reset", "eof", "abort", "rule"])
def test_the_end_wakes_who_waits(play: Callable[[Scene], None], how: str) -> None:
    async def scene(ws: portico.WebSocket, peer: Peer) -> None:
        waiting = asyncio.create_task(ws.recv())
        await turns()
        match how:
            case "close":
                peer.send(close_frame(1000))
            case "reset":
                peer.reset()
            case "eof":
                peer.writer.write_eof()
            case "abort":
                ws.stream.abort()
            case "rule":
                peer.send(frame(0x83))
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(waiting, 10)
        code = {"close": 1000, "rule": 1002}.get(how, 1006)
        assert caught.value.close.code == code

    play(scene)


async def test_a_connection_that_we_fail_ends_its_reader_s_wait_at_once() -> None:
    """Not when TCP has ended: a peer that takes nothing may keep that up for seconds."""
    async with hall(limits=portico.Limits(assembly_timeout_s=0.1, close_timeout_s=100)) as found:
        ws, peer = await found.enter()
        waiting = asyncio.create_task(ws.recv())
        peer.send(frame(0x01, b"a message that never ends"))
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(waiting, 5)
        assert caught.value.close.code == 1008
        assert not ws.stream.gone
        await peer.closed_with(1008)


async def test_recv_is_not_for_connections_with_callbacks() -> None:
    async with hall(Push()) as found:
        ws, _ = await found.enter()
        with pytest.raises(LocalError, match="Endpoint gets the messages: use on_message"):
            await ws.recv()
        with pytest.raises(LocalError, match="Endpoint gets the messages: use on_message"):
            async for _ in ws:
                pass
