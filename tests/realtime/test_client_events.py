"""Events and acknowledgements of the realtime client, over each transport, with Node's and Python's own servers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.realtime.client_peers import BOTH, WAYS, Got, Server, client_of, no_proxy, node, nothing_left  # noqa: F401
from tests.support import GUARD_S, Logged, until

import portico

pytestmark = pytest.mark.usefixtures("no_proxy", "nothing_left")


@pytest.fixture(params=BOTH)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with Server.running(request.param) as running:
        yield running


@pytest.mark.parametrize("way", WAYS)
async def test_events_carry_any_json_and_bytes_both_ways(server: Server, way: str) -> None:
    client = client_of(server, way)
    got = Got(client, "echo")
    args = ("ü", 1, 1.5, None, True, [b"\x00\xff", {"deep": [b"", b"x" * 100_000]}], {})
    async with client:
        client.emit("echo", *args)
        assert await got.next() == ("echo", *args)
        client.emit("echo")
        assert await got.next() == ("echo",)


@pytest.mark.parametrize("way", WAYS)
async def test_events_keep_their_order(server: Server, way: str) -> None:
    client = client_of(server, way)
    got = Got(client, "echo", "number")
    async with client:
        client.emit("count", 200)
        assert [await got.next() for _ in range(200)] == [("number", n) for n in range(200)]
        for n in range(200):
            client.emit("echo", n, *([b"binary"] if n % 7 == 0 else []))
        assert [(await got.next())[1] for _ in range(200)] == list(range(200))


@pytest.mark.parametrize("way", WAYS)
async def test_a_call_gets_what_the_server_acknowledges(server: Server, way: str) -> None:
    async with client_of(server, way) as client:
        assert await client.call("give") is None
        assert await client.call("give", {"a": [1]}) == {"a": [1]}
        assert await client.call("give", 1, b"two") == (1, b"two")
        assert await asyncio.gather(*(client.call("give", n) for n in range(50))) == list(range(50))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, []),
        ("one", ["one"]),
        (("one", 2), ["one", 2]),
        ([1, 2], [[1, 2]]),
        (b"\x01", [{"type": "Buffer", "data": [1]}]),
    ],
    ids=["nothing", "value", "several", "list", "bytes"],
)
async def test_what_a_handler_returns_is_the_acknowledgement(server: Server, way: str, value: Any, said: Any) -> None:
    client = client_of(server, way)
    client.on("question", lambda _: value)
    async with client:
        client.emit("askRaw", 1)
        assert await server.said("answers") == said


async def test_an_event_without_a_handler_is_acknowledged_all_the_same(server: Server) -> None:
    async with client_of(server) as client:
        client.emit("askRaw", 1)
        assert await server.said("answers") == []


async def test_a_call_without_an_answer_ends_with_a_timeout_that_names_the_event(server: Server) -> None:
    async with client_of(server, "websocket") as client:
        with pytest.raises(TimeoutError, match=r"no acknowledgement of 'silent' within 0\.05 s"):
            await client.call("silent", timeout=0.05)
        assert await client.call("give", 1) == 1


async def test_handlers_run_one_after_another_also_where_they_wait(server: Server) -> None:
    client = client_of(server, "websocket")
    log: list[tuple[str, int]] = []
    done = asyncio.Event()

    @client.on("number")
    async def number(n: int) -> None:
        log.append(("begin", n))
        assert await client.call("give", n) == n  # an acknowledgement waits for no handler
        log.append(("end", n))
        if n == 4:
            done.set()

    async with client:
        client.emit("count", 5)
        async with asyncio.timeout(GUARD_S):
            await done.wait()
    assert log == [(what, n) for n in range(5) for what in ("begin", "end")]


async def test_a_plain_function_runs_in_a_thread_in_order_and_may_emit_from_there(server: Server) -> None:
    client = client_of(server)
    got = Got(client, "echo")
    threads = set()

    @client.on("number")
    def number(n: int) -> None:
        threads.add(threading.get_ident())
        client.emit("echo", n)

    async with client:
        client.emit("count", 20)
        assert [(await got.next())[1] for _ in range(20)] == list(range(20))
    assert threading.get_ident() not in threads


async def test_a_star_gets_what_has_no_handler_of_its_own(server: Server) -> None:
    client = client_of(server, "websocket")
    got = Got(client, "*", "number")
    async with client:
        client.emit("echo", 1, 2)
        client.emit("count", 1)
        assert await got.next() == ("*", "echo", 1, 2)
        assert await got.next() == ("number", 0)


async def test_a_handler_is_given_as_many_arguments_as_it_takes(server: Server) -> None:
    client = client_of(server, "websocket")
    taken = asyncio.Queue[Any]()
    client.on("echo", lambda one: client._link._loop.call_soon_threadsafe(taken.put_nowait, one))
    async with client:
        client.emit("echo", 1, 2)
        async with asyncio.timeout(GUARD_S):
            assert await taken.get() == 1


async def test_a_handler_that_fails_is_logged_once_and_ends_nothing() -> None:
    import logging

    logged = Logged()
    logger = logging.getLogger("portico.realtime_client")
    async with node() as server:
        client = client_of(server, "websocket")
        got = Got(client, "echo")

        @client.on("question")
        async def question(_: object) -> None:
            raise LookupError("a secret")

        async with client:
            logger.addHandler(logged)
            logger.propagate = False
            try:
                client.emit("askRaw", 1)
                client.emit("echo", "still here")
                assert await got.next() == ("echo", "still here")
            finally:
                logger.removeHandler(logged)
                logger.propagate = True
            logged.take("'question'")


@pytest.mark.parametrize("event", ["connect", "disconnect", "connect_error", 5, None])
async def test_names_that_the_protocol_has_for_itself_are_no_events(event: Any) -> None:
    with pytest.raises(portico.LocalError, match="expected the name of an event"):
        portico.RealtimeClient("http://127.0.0.1:1").emit(event)


async def test_what_json_cannot_carry_is_refused_at_once() -> None:
    client = portico.RealtimeClient("http://127.0.0.1:1")
    with pytest.raises(portico.LocalError, match="can't be sent as JSON"):
        client.emit("event", object())


async def test_a_second_handler_of_an_event_is_refused() -> None:
    client = portico.RealtimeClient("http://127.0.0.1:1")
    client.on("news", print)
    with pytest.raises(portico.LocalError, match="there is a handler already"):
        client.on("news", print)


async def test_volatile_events_go_now_or_not_at_all(server: Server) -> None:
    client = client_of(server, "websocket")
    got = Got(client, "echo")
    assert client.volatile.emit("echo", "too early") is False
    async with client:
        assert client.volatile.emit("echo", "now") is True
        assert await got.next() == ("echo", "now")


async def test_more_than_the_server_takes_at_once_is_refused_with_its_limit() -> None:
    async with node(options={"maxHttpBufferSize": 10_000}) as server, client_of(server, "polling") as client:
        with pytest.raises(portico.LocalError, match=r"takes at most 10000 at once \(its maxPayload\)"):
            client.emit("echo", "x" * 10_000)
        for n in range(100):
            client.emit("say", n, "x" * 1000)  # together they are more than one POST may carry
        assert [(await server.said("say"))[0] for _ in range(100)] == list(range(100))


async def test_awaiting_an_emit_waits_until_it_was_handed_over(server: Server) -> None:
    client = client_of(server, "websocket")
    early = client.emit("say", "early")
    assert early.delivered == 0
    async with client:
        await early
        assert early.delivered == 1
        await client.emit("nobody listens", "x" * 900_000)
        await until(lambda: client.waiting == 0)
    with pytest.raises(portico.Disconnected):
        client.emit("say", "late")


@pytest.mark.parametrize("way", WAYS)
async def test_handlers_that_are_behind_make_the_server_wait(way: str) -> None:
    """What waits for a handler is bounded in bytes; nothing is lost or reordered by it."""
    limits = portico.Limits(max_unread_bytes=20_000)
    async with node() as server:
        client = client_of(server, way, limits=limits)
        numbers: list[int] = []
        go = asyncio.Event()

        @client.on("number")
        async def number(n: int) -> None:
            await go.wait()
            numbers.append(n)

        async with client:
            client.emit("count", 5000)
            intake = client._link._intake
            assert intake is not None
            await until(lambda: intake._held > 20_000)
            if way == "websocket":
                assert intake._held < 25_000  # by polling, all of one answer is taken
            go.set()
            await until(lambda: len(numbers) == 5000)
        assert numbers == list(range(5000))
