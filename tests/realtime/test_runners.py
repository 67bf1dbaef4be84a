"""Handlers that never wait share a task, and none of them can tell: each is as alone as in a task of its own."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any

import pytest
from tests.realtime.raw import Raw, Socket, realtime, serving
from tests.support import Logged, until

import portico


async def connected(raw: Raw, ws: Socket) -> None:
    await ws.opened()
    await ws.connect()


async def warm(raw: Raw, ws: Socket) -> None:
    """Until a task is kept."""
    runners = raw.io.runners
    assert runners is not None
    while not runners.idle:
        await ws.send('420["echo",1]')
        await ws.expect("430[1]")


def tasks() -> set[Any]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_a_task_is_kept_for_handlers_that_never_wait(logged: Logged) -> None:
    io = realtime()
    seen: list[asyncio.Task[Any] | None] = []

    @io.on("who")
    async def who(client: Any) -> int:
        seen.append(asyncio.current_task())
        return len(set(map(id, seen)))

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        before = len(tasks())
        for _ in range(20):
            await ws.send('420["who"]')
            answer = await ws.next()
            assert answer in ("430[1]", "430[2]", *(f"430[{n}]" for n in range(3, 21)))
        assert None not in seen
        assert len(tasks()) <= before + 1


async def test_what_a_handler_does_with_its_task_stays_with_it(logged: Logged) -> None:
    """Who keeps hold of a task has it for himself: cancelling it later disturbs no other handler."""
    io = realtime()
    kept: list[asyncio.Task[Any]] = []
    waits = asyncio.Event()

    @io.on("keep")
    async def keep(client: Any) -> str:
        task = asyncio.current_task()
        assert task is not None
        kept.append(task)
        return "kept"

    @io.on("cancel")
    async def cancel(client: Any) -> list[bool]:
        return [task.cancel() for task in kept]

    @io.on("wait", concurrent=True)
    async def wait(client: Any) -> str:
        await waits.wait()
        return "waited"

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        await ws.send('421["keep"]')
        await ws.expect('431["kept"]')
        await until(kept[0].done)  # as any task whose handler has returned
        await ws.send('423["wait"]', '422["cancel"]')
        answer = await ws.next()
        assert answer in ("432[[false]]", "432[[true]]")
        for n in range(3):
            await ws.send(f'424["echo",{n}]')
            await ws.expect(f"434[{n}]")
        waits.set()
        await ws.expect('433["waited"]')


async def test_context_variables_are_not_seen_by_the_next_handler(logged: Logged) -> None:
    io = realtime()
    variable = contextvars.ContextVar("variable", default="none")

    @io.on("set")
    async def set_it(client: Any, value: str) -> str:
        before = variable.get()
        variable.set(value)
        return before

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        for value in "abcdef":
            await warm(raw, ws)
            await ws.send(f'421["set","{value}"]')
            await ws.expect('431["none"]')


async def test_timeouts_work_in_a_handler_that_has_begun_at_once(logged: Logged) -> None:
    io = realtime()

    @io.on("late")
    async def late(client: Any) -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "never"

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        for _ in range(3):
            await warm(raw, ws)
            await ws.send('421["late"]')
            await ws.expect('431["timed out"]')


async def test_the_events_of_a_client_stay_in_order_where_some_of_them_wait(logged: Logged) -> None:
    io = realtime()

    @io.on("n")
    async def number(client: Any, n: int) -> int:
        if n % 3 == 0:
            await asyncio.sleep(0)
        return n

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        for turn in range(10):
            if turn < 3:
                await warm(raw, ws)
            await ws.send(*(f'42{n}["n",{n}]' for n in range(10)))
            await ws.expect(*(f"43{n}[{n}]" for n in range(10)))


async def test_an_event_whose_handler_waits_is_unread_until_that_is_over(logged: Logged) -> None:
    io = realtime(max_unread_bytes=1000)
    go = asyncio.Event()

    @io.on("wait")
    async def wait(client: Any, text: str) -> None:
        await go.wait()

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        await ws.send('421["wait","' + "x" * 2000 + '"]')
        await until(lambda: raw.session.full)
        go.set()
        await ws.expect("431[]")
        await until(lambda: not raw.session.full)
        await ws.send('422["echo",1]')
        await ws.expect("432[1]")


async def test_a_client_that_leaves_while_its_handler_waits_is_told_gone_after_it(logged: Logged) -> None:
    io = realtime()
    order: list[str] = []
    go = asyncio.Event()

    @io.on("wait")
    async def wait(client: Any) -> None:
        await go.wait()
        order.append("handled")

    @io.on("disconnect")
    async def gone(client: Any, reason: str) -> None:
        order.append(reason)

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        await ws.send('421["wait"]', "41")
        await until(lambda: not raw.io.clients)
        go.set()
        await until(lambda: len(order) == 2)
        assert order == ["handled", "client namespace disconnect"]


async def test_a_handler_that_fails_leaves_the_task_to_the_next(logged: Logged) -> None:
    io = realtime()

    @io.on("fail")
    async def fail(client: Any) -> None:
        raise ValueError("secret")

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        await ws.send('421["fail"]', '422["echo",1]')
        await ws.expect('431[{"error":"internal error"}]', "432[1]")
        logged.take("the handler of 'fail' in / failed")


async def test_nothing_is_left_when_the_server_has_stopped() -> None:
    before = tasks()
    async with serving(realtime()) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
    assert tasks() <= before


async def test_a_loop_with_tasks_of_its_own_making_keeps_none(logged: Logged) -> None:
    """``loop.set_task_factory``: every handler gets one of those."""
    made: list[str] = []

    class Task(asyncio.Task[Any]):
        def __init__(self, coroutine: Any, **options: Any) -> None:
            super().__init__(coroutine, **options)
            made.append(getattr(coroutine, "__qualname__", ""))

    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coroutine, **options: Task(coroutine, loop=loop, **options))
    try:
        async with serving(realtime()) as raw, raw.socket() as ws:
            await connected(raw, ws)
            for _ in range(5):
                await ws.send('420["echo",1]')
                await ws.expect("430[1]")
            assert raw.io.runners is not None
            assert not raw.io.runners.idle
            assert sum(name.endswith("_work") for name in made) >= 5
    finally:
        loop.set_task_factory(None)


async def test_many_clients_are_served_in_one_turn(logged: Logged) -> None:
    io = realtime()
    async with serving(io) as raw, asyncio.TaskGroup() as group:

        async def one(n: int) -> None:
            async with raw.socket() as ws:
                await connected(raw, ws)
                for turn in range(5):
                    await ws.send(f'420["echo",{n},{turn}]')
                    await ws.expect(f"430[{n},{turn}]")

        for n in range(20):
            group.create_task(one(n))


def test_a_realtime_that_is_not_served_has_none() -> None:
    io = portico.Realtime()
    assert io.runners is None
    with pytest.raises(portico.LocalError):
        io.engine.reactor  # noqa: B018 # that is the point


async def test_a_task_is_used_again_while_nobody_can_tell(logged: Logged) -> None:
    io = realtime()
    seen: list[int] = []

    @io.on("plain")
    async def plain(client: Any) -> None:
        seen.append(id(asyncio.current_task()))

    @io.on("fail")
    async def fail(client: Any) -> None:
        raise portico.Refuse("no")

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        runners = raw.io.runners
        assert runners is not None
        kept = list(runners.idle)
        for _ in range(5):
            await ws.send('421["plain"]', '42["plain"]', '422["fail"]', '423["echo",1]')
            await ws.expect("431[]", '432[{"error":"no"}]', "433[1]")
            assert runners.idle == kept
        assert len(seen) == 10
        assert set(seen) == {id(kept[0].task)}


async def test_a_handler_that_cancels_its_own_task_ends_as_in_any_task(logged: Logged) -> None:
    io = realtime()
    told: list[str] = []

    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    @io.on("return")
    async def return_it(client: Any) -> str:
        cancel()
        return "returned"

    @io.on("wait")
    async def wait(client: Any) -> None:
        cancel()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    @io.on("stay")
    async def stay(client: Any) -> str:
        cancel()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "stayed"

    @io.on("raise")
    async def raise_it(client: Any) -> None:
        raise asyncio.CancelledError

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        for event, answers in (
            ("return", ['431["returned"]']),
            ("wait", []),
            ("stay", ['431["stayed"]']),
            ("raise", []),
        ):
            await warm(raw, ws)
            await ws.send(f'421["{event}"]')
            await ws.expect(*answers)
            await ws.send('422["echo",1]')
            await ws.expect("432[1]")
        assert told == ["cancelled"]


async def test_a_handler_that_ends_its_own_client_at_once_has_it_told_gone(logged: Logged) -> None:
    io = realtime()
    order: list[str] = []

    @io.on("leave")
    async def leave(client: Any) -> None:
        client.disconnect()
        order.append("handled")

    @io.on("disconnect")
    async def gone(client: Any, reason: str) -> None:
        order.append(reason)

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        await ws.send('421["leave"]')
        await ws.expect("41")
        await until(lambda: len(order) == 2)
        assert order == ["handled", "server namespace disconnect"]


async def test_what_a_failing_handler_has_set_is_seen_where_that_is_logged(logged: Logged) -> None:
    """As by a filter that adds a request's number to each line."""
    io = realtime()
    variable = contextvars.ContextVar("variable", default="none")
    seen: list[tuple[str, bool]] = []

    def look(record: Any) -> bool:
        seen.append((variable.get(), asyncio.current_task() is not None))
        return True

    @io.on("fail")
    async def fail(client: Any) -> None:
        variable.set("set")
        raise ValueError("secret")

    logger = logging.getLogger("portico.realtime")
    logger.addFilter(look)
    try:
        async with serving(io) as raw, raw.socket() as ws:
            await connected(raw, ws)
            await warm(raw, ws)
            await ws.send('421["fail"]')
            await ws.expect('431[{"error":"internal error"}]')
    finally:
        logger.removeFilter(look)
    logged.take("the handler of 'fail' in / failed")
    assert seen == [("set", True)]
