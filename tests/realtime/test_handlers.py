"""The application's handlers: errors, what they take, their order, and a client that sends faster than they take."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

import msgspec
import pytest
from tests.realtime.raw import realtime, serving
from tests.support import Logged, until

import portico

pytestmark = pytest.mark.usefixtures("logged")


async def test_a_failing_handler_is_logged_once_answers_its_acknowledgement_and_ends_nothing(logged: Logged) -> None:
    io = realtime()

    @io.on("fail")
    async def fail(client: Any) -> None:
        raise RuntimeError("secret")

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send('421["fail"]')
        await socket.expect('431[{"error":"internal error"}]')
        await socket.send('422["echo",1]')
        await socket.expect("432[1]")
    logged.take("'fail'")


async def test_what_a_handler_refuses_or_does_not_take_is_an_answer_to_that_client_alone() -> None:
    io = realtime()

    @io.on("one")
    async def one(client: Any, value: Any) -> None:
        raise portico.Refuse("no", data=[1])

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send('421["one",1]', '422["one"]', '423["nobody"]', '42["one"]')
        await socket.expect(
            '431[{"error":"no","data":[1]}]',
            '432[{"error":"expected 1 argument, and 0 came","data":{"code":"arguments"}}]',
            '433[{"error":"there is no handler for this event","data":{"code":"event"}}]',
        )


class Item(msgspec.Struct):
    name: str
    count: int = 1


class Priced(TypedDict):
    price: float


async def test_annotations_decode_and_check_what_comes() -> None:
    io = realtime()
    got = []

    @io.on("order")
    async def order(client: object, item: Item, prices: list[Priced], data: bytes | None = None) -> None:
        got.append((item, prices, data))

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send('421["order",{"name":"a"},[{"price":1}]]', '422["order",{"name":1},[]]')
        data = '{"code":"argument","argument":1,"path":"$.name"}'
        error = "argument 1: Expected `str`, got `int` - at `$.name`"
        await socket.expect("431[]", f'432[{{"error":"{error}","data":{data}}}]')
        await socket.send('451-3["order",{"name":"a"},[],{"_placeholder":true,"num":0}]', b"x")
        await socket.expect("433[]")
        await socket.send('424["order",{"name":"a"},[],5]')
        assert "argument 3" in str(await socket.next())
    assert got == [(Item("a"), [{"price": 1.0}], None), (Item("a"), [], b"x")]


async def test_annotations_that_can_not_be_checked_are_refused_at_once() -> None:
    io = realtime()

    def unknown(client: Any, value: "Nowhere") -> None: ...  # type: ignore[name-defined] # noqa: F821, UP037

    with pytest.raises(portico.LocalError, match="'value'"):
        io.on("x", unknown)


async def test_event_middleware_sees_each_event_and_may_change_or_refuse_it() -> None:
    io = realtime()

    @io.use_events
    async def check(client: Any, event: str, args: list[Any]) -> list[Any] | None:
        if args == ["bad"]:
            raise portico.Refuse("bad")
        return [*args, "seen"] if event == "echo" else None

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send('421["echo",1]', '422["echo","bad"]')
        await socket.expect('431[1,"seen"]', '432[{"error":"bad"}]')


async def test_the_events_of_one_client_are_dealt_with_in_order_and_those_of_others_meanwhile() -> None:
    io = realtime()
    go = asyncio.Event()
    done = []

    @io.on("wait")
    async def wait(client: Any, n: int) -> None:
        await go.wait()
        done.append(n)

    @io.on("sync")
    def sync(client: Any, n: int) -> int:
        done.append(n)
        return n

    async with serving(io) as raw, raw.socket() as one, raw.socket() as two:
        for socket in (one, two):
            await socket.opened()
            await socket.connect()
        await one.send('42["wait",1]', '42["sync",2]', '421["echo",3]')
        await two.send('421["sync",10]')
        await two.expect("431[10]")
        assert done == [10]
        go.set()
        await one.expect("431[3]")
        assert done == [10, 1, 2]


async def test_an_event_registered_as_concurrent_waits_for_nobody() -> None:
    io = realtime()
    go = asyncio.Event()

    async def wait(client: Any) -> str:
        await go.wait()
        return "done"

    async def now(client: Any) -> None:
        go.set()

    io.on("wait", wait)
    io.on("now", now, concurrent=True)
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send('421["wait"]', '42["now"]')
        await socket.expect('431["done"]')


async def test_a_client_that_sends_more_than_is_taken_is_read_no_further_and_loses_nothing() -> None:
    io = realtime(max_unread_bytes=10_000)
    go = asyncio.Event()

    @io.on("wait")
    async def wait(client: Any) -> None:
        await go.wait()

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send('42["wait"]')
        for n in range(100):
            await socket.send(f'42{n}["echo","{"x" * 1000}"]')
        await until(lambda: raw.session.ws is not None and raw.session.ws.stream.paused)
        go.set()
        for n in range(100):
            await socket.expect(f'43{n}["{"x" * 1000}"]')
        assert not raw.session._unread


async def test_a_handler_whose_client_leaves_while_it_is_asked_is_no_error() -> None:
    io = portico.Realtime()
    ended = asyncio.Event()

    @io.on("ask me", concurrent=True)
    async def ask(client: Any) -> Any:
        try:
            return await client.call("question")
        finally:
            ended.set()

    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            await socket.connect()
            await socket.send('421["ask me"]')
            assert await socket.next() == '421["question"]'
        await ended.wait()  # and `logged` has nothing
