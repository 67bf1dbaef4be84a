"""Socket.IO v5 by its protocol document: namespaces, events, acknowledgements, binary, disconnecting, errors."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from tests.realtime.raw import realtime, serving
from tests.support import Logged, until

import portico

pytestmark = pytest.mark.usefixtures("logged")


# -- §Connection to a namespace --------------------------------------------------------------------------------------


async def test_connect_to_the_main_namespace_is_answered_with_an_id() -> None:
    async with serving(realtime()) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("40")
        answer = await socket.next()
        assert isinstance(answer, str)
        assert re.fullmatch(r'40\{"sid":"[\w-]{20}"\}', answer)


async def test_the_application_gets_auth_and_decides_before_the_answer() -> None:
    io = realtime()
    got = []

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        got.append((auth, client.connected))
        client.emit("hello")

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect(auth='{"token":"123"}')
        await socket.expect('42["hello"]')  # what is sent before the answer comes after it
    assert got == [({"token": "123"}, False)]


async def test_a_custom_namespace_has_clients_of_its_own() -> None:
    io = realtime()
    admin = io.of("/admin")

    @admin.on("who")
    async def who(client: Any) -> str:
        return str(client.id)

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        main = await socket.connect()
        other = await socket.connect("/admin,")
        assert main != other
        await socket.send('42/admin,7["who"]')
        await socket.expect(f'43/admin,7["{other}"]')


async def test_a_namespace_that_is_not_there_is_a_connect_error_and_the_session_goes_on() -> None:
    async with serving(realtime()) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("40/nobody,")
        await socket.expect('44/nobody,{"message":"Invalid namespace"}')
        await socket.connect()


async def test_a_pattern_stands_for_many_namespaces_which_go_with_their_last_client() -> None:
    io = realtime()
    rooms = io.matching(r"/room-\d+")

    @rooms.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        client.namespace.emit("new", client.namespace.name)

    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            await socket.connect("/room-1,")
            await socket.send("40/room-x,")
            await socket.expect('44/room-x,{"message":"Invalid namespace"}')
            assert set(io._namespaces) == {"/", "/room-1"}
        await until(lambda: set(io._namespaces) == {"/"})
    with pytest.raises(portico.LocalError, match="stands for many"):
        rooms.emit("x")


async def test_a_refusal_is_a_connect_error_with_its_reason_and_data() -> None:
    io = realtime()

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        client.join("room")
        raise portico.Refuse("wrong token", data={"code": 7})

    @io.on("disconnect")
    async def gone(client: Any, reason: str) -> None:
        raise AssertionError("it was never there")

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("40")
        await socket.expect('44{"message":"wrong token","data":{"code":7}}')
        assert (io.rooms, len(io.clients)) == ({}, 0)


async def test_a_failing_connect_handler_is_logged_and_tells_nothing(logged: Logged) -> None:
    io = realtime()

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        raise RuntimeError("secret")

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("40")
        await socket.expect('44{"message":"internal error"}')
    logged.take("could not be let in")


async def test_middleware_runs_in_order_before_the_connect_handler_and_may_refuse() -> None:
    io = realtime()
    order = []

    @io.use
    async def first(client: Any, auth: Any) -> None:
        order.append("first")

    @io.use
    def second(client: Any, auth: Any) -> None:
        order.append("second")
        if not auth:
            raise portico.Refuse("no auth")

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        order.append("connect")

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("40")
        await socket.expect('44{"message":"no auth"}')
        await socket.connect(auth='{"a":1}')
    assert order == ["first", "second", "first", "second", "connect"]


async def test_a_session_that_connects_to_nothing_ends() -> None:
    """The reference server's connectTimeout, 45 s."""
    io = realtime(connect_timeout_s=1.0)
    async with serving(io) as raw, raw.socket() as socket, raw.socket() as other:
        await other.opened()
        await other.connect()
        await socket.opened()
        await socket.closed()
        await other.send('421["echo",1]')
        await other.expect("431[1]")
    assert portico.Realtime().engine.options.connect_timeout_s == 45


# -- §Sending and receiving data, §Acknowledgement --------------------------------------------------------------------


async def test_events_and_acknowledgements_with_any_number_of_values() -> None:
    async with serving(realtime()) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        for values in ("", ",1", ',"a",{"b":[null,true,1.5]}', ',"é €"'):
            await socket.send(f'4212["echo"{values}]')
            await socket.expect(f"4312[{values[1:]}]")
        await socket.send('4213["quiet"]')
        await socket.expect("4313[]")


async def test_binary_both_ways_with_its_placeholders() -> None:
    async with serving(realtime()) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        place = '{"_placeholder":true,"num":%d}'
        text = f'["echo",{{"a":{place % 1}}},[{place % 0}],"x"]'
        await socket.send(f"452-9{text}", b"\x00", b"")
        values = f'[{{"a":{place % 0}}},[{place % 1}],"x"]'
        await socket.expect(f"462-9{values}", b"", b"\x00")


async def test_the_server_asks_and_waits_for_an_answer() -> None:
    io = realtime()
    answers: asyncio.Queue[Any] = asyncio.Queue()

    @io.on("ask")
    async def ask(client: Any) -> None:
        async def later() -> None:
            answers.put_nowait(await client.call("question", b"x", timeout=5))

        io.background(later())

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        for answer, expected in (('["yes"]', "yes"), ("[]", None), ("[1,2]", [1, 2])):
            await socket.send('42["ask"]')
            question = await socket.next()
            assert isinstance(question, str)
            number = re.fullmatch(r'451-(\d+)\["question",\{"_placeholder":true,"num":0\}\]', question)
            assert number
            await socket.expect(b"x")
            await socket.send(f"43{number[1]}{answer}", f"43{number[1]}{answer}")  # the second one is nobody's
            assert await answers.get() == expected


async def test_a_call_ends_with_a_timeout_or_a_disconnect() -> None:
    io = realtime()
    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            client = io.clients[await socket.connect()]
            with pytest.raises(TimeoutError):
                await client.call("x", timeout=0.01)
            call = asyncio.create_task(client.call("x"))
            await socket.next()
        with pytest.raises(portico.ConnectionClosed):
            await call
        with pytest.raises(portico.ConnectionClosed):
            await client.call("x")
        assert not client._acks


# -- §Disconnection from a namespace ----------------------------------------------------------------------------------


async def ended(io: portico.Realtime) -> asyncio.Queue[tuple[str, frozenset[str]]]:
    reasons: asyncio.Queue[tuple[str, frozenset[str]]] = asyncio.Queue()

    @io.on("disconnect")
    async def gone(client: Any, reason: str) -> None:
        reasons.put_nowait((reason, client.rooms))

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        client.join("room")

    return reasons


ROOM = frozenset(("room",))


async def test_a_client_leaves_a_namespace_and_the_session_goes_on() -> None:
    io = realtime()
    reasons = await ended(io)
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send("41")
        assert await reasons.get() == ("client namespace disconnect", ROOM)
        await socket.send('42["echo"]')  # late, not wrong
        await socket.connect()


async def test_the_server_disconnects_a_client_from_its_namespace() -> None:
    io = realtime()
    reasons = await ended(io)
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        io.clients[await socket.connect()].disconnect()
        await socket.expect("41")
        assert await reasons.get() == ("server namespace disconnect", ROOM)
        await socket.connect()
        io.disconnect(close=True)
        await socket.expect("41")
        await socket.closed()
        assert await reasons.get() == ("server namespace disconnect", ROOM)
        assert io.rooms == {}


@pytest.mark.parametrize(
    ("how", "reason"), [("close", "transport close"), ("reset", "transport close"), ("bad", "parse error")]
)
async def test_the_reasons_of_an_end(how: str, reason: str) -> None:
    io = realtime()
    reasons = await ended(io)
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        if how == "close":
            await socket.connection.close()
        elif how == "reset":
            transport = socket.connection._response.connection.transport  # type: ignore[union-attr]
            transport.abort()  # type: ignore[union-attr]
        else:
            await socket.send("4abc")
        assert await reasons.get() == (reason, ROOM)
