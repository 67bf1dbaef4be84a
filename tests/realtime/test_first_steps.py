"""A handler whose first step is taken at once behaves as in a task of its own, however it ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from tests.realtime.raw import Raw, Socket, realtime, serving
from tests.realtime.test_runners import connected, warm
from tests.support import Logged, until

import portico

variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default="none")


class Strange(BaseException):
    """What is no Exception."""


class Incomparable:
    """As an array is."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


Told = list[dict[str, Any]]


@pytest.fixture
async def told() -> AsyncIterator[Told]:
    """What the event loop's exception handler is told."""
    loop = asyncio.get_running_loop()
    heard: Told = []
    loop.set_exception_handler(lambda loop, context: heard.append(context))
    try:
        yield heard
        gc.collect()
    finally:
        loop.set_exception_handler(None)


def cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel("by itself")


async def still_works(raw: Raw, ws: Socket) -> None:
    await ws.send('429["echo",1]')
    await ws.expect("439[1]")
    await until(lambda: raw.session._unread == 0)


async def test_what_checks_an_argument_runs_in_the_handlers_context(logged: Logged) -> None:
    seen: list[Any] = []

    class Checked:
        @classmethod
        def model_validate(cls, value: Any) -> Any:
            task = asyncio.current_task()
            seen.append((variable.get(), task is not None))
            variable.set(value)
            return value

    async def handler(client: Any, value: Checked) -> Any:
        return variable.get()

    handler.__annotations__["value"] = Checked
    io = realtime()
    io.on("check", handler)
    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        for value in "abc":
            await warm(raw, ws)
            await ws.send(f'421["check","{value}"]')
            await ws.expect(f'431["{value}"]')
    assert seen == [("none", True)] * 3


@pytest.mark.parametrize("reason", [ValueError("x"), "\ud800"])
async def test_a_refusal_whose_reason_is_no_text_is_an_answer(reason: Any, logged: Logged) -> None:
    io = realtime()

    @io.on("refuse")
    async def refuse(client: Any) -> None:
        raise portico.Refuse(reason)

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        await ws.send('421["refuse"]')
        await ws.expect('431[{"error":"refused"}]')
        logged.take("can't be sent as JSON")
        await still_works(raw, ws)


@pytest.mark.parametrize("error", [Strange("so"), GeneratorExit("so")])
async def test_what_no_handler_may_raise_is_told_and_ends_nothing(error: BaseException, logged: Logged) -> None:
    io = realtime()
    gone: list[str] = []

    @io.on("fail")
    async def fail(client: Any) -> None:
        raise error

    @io.on("disconnect")
    async def disconnected(client: Any, reason: str) -> None:
        gone.append(reason)

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        await ws.send('42["fail"]')
        await still_works(raw, ws)
        logged.take("an event could not be dealt with")
        await ws.send("41")
        await until(lambda: gone == ["client namespace disconnect"])


async def test_a_context_variable_that_can_not_be_compared_was_changed(logged: Logged) -> None:
    io = realtime()
    seen: list[Any] = []

    @io.on("set")
    async def set_it(client: Any) -> None:
        seen.append(variable.get())
        variable.set(Incomparable())

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        for _ in range(3):
            await warm(raw, ws)
            await ws.send('421["set"]')
            await ws.expect("431[]")
    assert seen == ["none"] * 3


async def test_a_handler_that_cancels_its_task_and_fails_is_answered(logged: Logged) -> None:
    io = realtime()

    @io.on("refuse")
    async def refuse(client: Any) -> None:
        cancel()
        raise portico.Refuse("no")

    @io.on("fail")
    async def fail(client: Any) -> None:
        cancel()
        raise ValueError("secret")

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        await ws.send('421["refuse"]')
        await ws.expect('431[{"error":"no"}]')
        await warm(raw, ws)
        await ws.send('421["fail"]')
        await ws.expect('431[{"error":"internal error"}]')
        logged.take("the handler of 'fail' in / failed")
        await still_works(raw, ws)


async def test_what_a_handler_waits_for_is_cancelled_with_its_task(logged: Logged) -> None:
    io = realtime()
    told: list[str] = []
    children: list[asyncio.Future[Any]] = []

    @io.on("wait")
    async def wait(client: Any) -> None:
        children.append(asyncio.get_running_loop().create_future())
        cancel()
        try:
            await children[-1]
        except asyncio.CancelledError as error:
            told.extend(error.args)
            raise

    @io.on("change")
    async def change(client: Any) -> str:
        task = asyncio.current_task()
        assert task is not None
        cancel()
        task.uncancel()
        await asyncio.sleep(0)
        return "not cancelled"

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        await ws.send('42["wait"]')
        await still_works(raw, ws)
        assert children[0].cancelled()
        assert told == ["by itself"]
        if sys.version_info >= (3, 13):  # before, what was cancelled is
            await warm(raw, ws)
            await ws.send('421["change"]')
            await ws.expect('431["not cancelled"]')


@pytest.mark.parametrize("warmed", [True, False])
async def test_a_handler_that_raises_cancellederror_keeps_no_event_from_those_behind_it(
    warmed: bool, logged: Logged
) -> None:
    """However many are queued, also where tasks begin at once."""
    io = realtime()
    go = asyncio.Event()
    handled: list[int] = []

    @io.on("wait")
    async def wait(client: Any) -> None:
        await go.wait()
        raise asyncio.CancelledError

    @io.on("n")
    async def number(client: Any, n: int) -> None:
        handled.append(n)
        raise asyncio.CancelledError

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        if warmed:
            await warm(raw, ws)
        await ws.send('42["wait"]', *(f'42["n",{n}]' for n in range(1000)))
        await until(lambda: raw.session._unread > 1000 * 200)
        go.set()
        await still_works(raw, ws)
        assert handled == list(range(1000))


@pytest.mark.parametrize("warmed", [True, False])
async def test_what_came_before_a_client_left_is_dealt_with_though_a_handler_was_cancelled(
    warmed: bool, logged: Logged
) -> None:
    io = realtime()
    tasks: list[asyncio.Task[Any] | None] = []
    order: list[Any] = []

    @io.on("wait")
    async def wait(client: Any) -> None:
        tasks.append(asyncio.current_task())
        await asyncio.Event().wait()

    @io.on("n")
    async def number(client: Any, n: int) -> None:
        order.append(n)

    @io.on("disconnect")
    async def disconnected(client: Any, reason: str) -> None:
        order.append(reason)

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        if warmed:
            await warm(raw, ws)
        await ws.send('42["wait"]', '42["n",1]', '42["n",2]', "41")
        await until(lambda: not raw.io.clients)
        assert raw.session._unread > 0
        assert tasks[0] is not None
        tasks[0].cancel()
        await until(lambda: len(order) == 3)
        assert order == [1, 2, "client namespace disconnect"]
        await until(lambda: raw.session._unread == 0)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Strange("so")])
async def test_nobody_is_asked_twice_whether_a_client_may_connect(
    error: BaseException, logged: Logged, told: Told
) -> None:
    """Also where it has sent an event already."""
    io = portico.Realtime()
    asked: list[Any] = []

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        asked.append(auth)
        await asyncio.sleep(0)
        raise error

    async with serving(io) as raw, raw.socket() as ws:
        await ws.opened()
        await ws.send("40", '42["echo",1]')
        await ws.expect('44{"message":"internal error"}')
        await until(lambda: raw.session._unread == 0)
        assert len(asked) == 1


async def test_a_client_whose_handler_ends_oddly_while_the_server_stops_is_told_gone(logged: Logged) -> None:
    io = realtime()
    go = asyncio.Event()
    gone: list[str] = []

    @io.on("wait")
    async def wait(client: Any) -> None:
        await go.wait()
        cancel()
        await asyncio.sleep(0)

    @io.on("disconnect")
    async def disconnected(client: Any, reason: str) -> None:
        await asyncio.sleep(0)
        gone.append(reason)

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        await ws.send('42["wait"]')
        await until(lambda: raw.session._unread > 0)
        stop = asyncio.create_task(raw.server.close())
        runners = raw.io.runners
        assert runners is not None
        await until(lambda: runners.stopped)  # the Realtime is about to end
        go.set()
        await stop
        assert gone == ["server shutting down"]


async def test_a_handler_that_cancels_its_task_harms_nobody_who_waits_for_the_same(logged: Logged) -> None:
    io = realtime()
    others: list[asyncio.Task[Any]] = []

    async def other(future: asyncio.Future[None]) -> None:
        await future

    @io.on("wait")
    async def wait(client: Any) -> None:
        future = asyncio.get_running_loop().create_future()
        others.append(asyncio.create_task(other(future)))
        cancel()
        await future

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        await warm(raw, ws)
        await ws.send('42["wait"]')
        await still_works(raw, ws)
        with pytest.raises(asyncio.CancelledError):
            await others[0]


class Named:
    """What a handler may leave on its task."""

    called: ClassVar[list[str]] = []

    @staticmethod
    def callback(task: asyncio.Task[Any]) -> None:
        Named.called.append(task.get_name())


async def test_what_a_handler_leaves_on_its_task_is_no_other_handlers(logged: Logged) -> None:
    io = realtime()
    Named.called.clear()
    names: list[str] = []

    @io.on("name")
    async def name(client: Any, name: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())
        task.set_name(name)

    @io.on("callback")
    async def callback(client: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(Named.callback)

    async with serving(io) as raw, raw.socket() as ws:
        await connected(raw, ws)
        for name_ in "ab":
            await warm(raw, ws)
            await ws.send(f'421["name","{name_}"]')
            await ws.expect("431[]")
        await warm(raw, ws)
        await ws.send('421["callback"]')
        await ws.expect("431[]")
        await until(lambda: len(Named.called) == 1)
        assert "a" not in names
        assert "b" not in names
