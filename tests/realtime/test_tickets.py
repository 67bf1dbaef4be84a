"""One-time tickets: an HTTP route gives them, any node takes them, once, and nobody is told why one is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tests.node import said
from tests.realtime.client_peers import SOON
from tests.realtime.raw import Raw, realtime, serving
from tests.support import GUARD_S, until

import portico
from portico.brokers.memory import MemoryBroker, MemoryHub
from portico.realtime import Rate
from portico.realtime.tickets import BYTES, MAX_S

pytestmark = pytest.mark.usefixtures("logged")

REFUSED = '44{"message":"this ticket is not valid","data":{"code":"ticket"}}'
TRANSPORTS = ("polling", "websocket")


def telling(**options: Any) -> portico.Realtime:
    """A Realtime whose clients may ask who they are."""
    io = realtime(**options)

    @io.on("who")
    async def who(client: Any) -> Any:
        return client.user

    return io


async def connected(raw: Raw, auth: Any) -> Any:
    """What the answer to a CONNECT with `auth` says, and who that is."""
    async with raw.socket() as socket:
        await socket.opened()
        await socket.send("40" + json.dumps(auth))
        answer = str(await socket.next())
        if not answer.startswith("40"):
            return answer
        await socket.send('421["who"]')
        return json.loads(str(await socket.next())[3:])


async def handshake(raw: Raw, transport: str, ticket: str) -> tuple[int, str]:
    """The answer to a request for a session with a ticket in its query: 101 or 200, or the refusal's body."""
    if transport == "polling":
        return await raw.request(ticket=ticket)
    url = raw.url(transport=transport, ticket=ticket)
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    async with raw.http.get(url, headers=headers) as answer:
        return answer.status, "" if answer.status == 101 else await answer.text()


async def test_a_ticket_in_auth_makes_the_client_who_it_was_issued_for_once() -> None:
    async with serving(telling()) as raw:
        ticket = await raw.io.ticket({"id": 7, "roles": ["a"]})
        assert await connected(raw, {"ticket": ticket}) == [{"id": 7, "roles": ["a"]}]
        assert await connected(raw, {"ticket": ticket}) == REFUSED
        assert await connected(raw, {}) == []  # without one: whether it may come in is the application's to say


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_ticket_in_the_query_of_the_handshake_is_who_the_session_is(transport: str) -> None:
    async with serving(telling()) as raw:
        ticket = await raw.io.ticket("ada")
        if transport == "polling":
            status, text = await raw.request(ticket=ticket)
            assert status == 200
            sid = json.loads(text[1:])["sid"]
            await raw.post(sid, '40\x1e421["who"]')
            text = ""
            while "431" not in text:
                text += await raw.get(sid)
            assert '431["ada"]' in text
        else:
            async with raw.socket(ticket=ticket) as socket:
                await socket.opened()
                await socket.connect()
                await socket.send('421["who"]')
                await socket.expect('431["ada"]')
        status, text = await handshake(raw, transport, ticket)
        assert status == 403
        assert "this ticket is not valid" in text


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_wrong_used_and_expired_are_one_answer(transport: str) -> None:
    async with serving(telling()) as raw:
        used = await raw.io.ticket("ada")
        await handshake(raw, transport, used)
        short = await raw.io.ticket("ada", expires_s=0.01)
        over = time.monotonic() + 0.05
        await until(lambda: time.monotonic() > over)
        answers = {await handshake(raw, transport, ticket) for ticket in ("wrong", used, short, "", "x" * 2000)}
        assert len(answers) == 1
        status, text = answers.pop()
        assert (status, json.loads(text)) == (
            403,
            {"code": 4, "message": "this ticket is not valid", "data": {"code": "ticket"}},
        )
        used = await raw.io.ticket("ada")
        await connected(raw, {"ticket": used})
        for ticket in ("wrong", used, short, "", 7, None, ["x"], "é", "x" * 2000):
            assert await connected(raw, {"ticket": ticket}) == REFUSED
        assert raw.io.counters.refused["ticket"] == 5 + 9


async def test_a_ticket_can_not_be_guessed_and_no_two_are_the_same() -> None:
    assert BYTES * 8 >= 128
    async with serving(telling()) as raw:
        tickets = {await raw.io.ticket("ada") for _ in range(100)}
        assert len(tickets) == 100
        assert {len(ticket) for ticket in tickets} == {32}


async def test_what_the_broker_holds_is_no_ticket() -> None:
    """Whoever can read a broker's keys can't connect by that."""
    hub = MemoryHub()
    async with serving(telling(broker=MemoryBroker(hub))) as raw:
        ticket = await raw.io.ticket("ada")
        stored = repr(vars(hub))
        assert "ticket" in stored
        assert ticket not in stored


async def test_any_node_takes_a_ticket_and_of_many_who_show_it_at_once_one_comes_in() -> None:
    hub = MemoryHub()
    one, two = (telling(broker=MemoryBroker(hub)) for _ in range(2))
    async with serving(one) as here, serving(two) as there:
        assert await connected(there, {"ticket": await one.ticket("ada")}) == ["ada"]
        ticket = await one.ticket("ada")
        answers = await asyncio.gather(*[connected(raw, {"ticket": ticket}) for raw in (here, there) * 10])
        assert answers.count(["ada"]) == 1
        assert answers.count(REFUSED) == 19


async def test_a_ticket_is_asked_before_the_application_and_hidden_from_it() -> None:
    io = telling()
    seen: list[Any] = []

    @io.use
    async def middleware(client: Any, auth: Any) -> None:
        seen.append((client.user, auth))

    async with serving(io) as raw:
        await connected(raw, {"ticket": "wrong"})
        assert seen == []
        await connected(raw, {"ticket": await io.ticket("ada"), "page": 3})
        assert seen == [("ada", {"page": 3})]


async def test_with_a_valid_ticket_authenticate_is_not_asked_and_without_one_it_is() -> None:
    def authenticate(request: Any) -> Any:
        raise portico.Refuse("no cookie", 401)

    async with serving(telling(authenticate=authenticate)) as raw:
        assert (await raw.request())[0] == 401
        for transport in TRANSPORTS:
            assert (await handshake(raw, transport, "wrong"))[0] == 403
            assert (await handshake(raw, transport, await raw.io.ticket("ada")))[0] in (101, 200)


class Person(msgspec.Struct):
    name: str


async def test_a_user_is_any_data_that_msgspec_encodes_and_comes_back_plain() -> None:
    async with serving(telling()) as raw:
        assert await connected(raw, {"ticket": await raw.io.ticket(Person("ada"))}) == [{"name": "ada"}]
        with pytest.raises(portico.LocalError, match="msgspec can encode"):
            await raw.io.ticket(object())
        for seconds in (0, -1, MAX_S + 1, float("nan"), True, "9"):
            with pytest.raises(portico.LocalError, match="expires_s"):
                await raw.io.ticket("ada", expires_s=seconds)  # type: ignore[arg-type]
    with pytest.raises(portico.LocalError, match="not being served"):
        await portico.Realtime().ticket("ada")


async def test_guessing_is_bounded_by_the_rate_of_attempts_of_an_address() -> None:
    async with serving(telling(connect_rate=Rate(1, 1000.0, burst=5))) as raw, raw.socket() as socket:
        await socket.opened()  # one
        answers = []
        for n in range(10):
            await socket.send(f'40{{"ticket":"{n}"}}')
            answers.append(str(await socket.next()))
        assert answers[:4].count(REFUSED) == 4
        assert all("too many attempts to connect" in answer and '"retry_after_s"' in answer for answer in answers[4:])


async def test_no_log_shows_a_ticket(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(telling(), access_log=True) as raw:
        ticket = await raw.io.ticket("ada")
        for transport in TRANSPORTS:
            for _ in range(2):
                await handshake(raw, transport, ticket)
        await connected(raw, {"ticket": await raw.io.ticket("ada")})
        await until(lambda: "ticket=***" in caplog.text)
    assert caplog.text.count("ticket=***") >= 4
    assert ticket not in caplog.text


# -- with a site's own route, and real clients -----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def site(**options: Any) -> AsyncIterator[tuple[portico.Realtime, str]]:
    """A Starlette application that gives tickets, and a Realtime, on one port."""
    io = telling(**options)
    issued: list[int] = []

    async def ticket(request: Request) -> PlainTextResponse:
        issued.append(1)
        return PlainTextResponse(await io.ticket(f"visitor {len(issued)}"))

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        if client.user is None:
            raise portico.Refuse("a ticket is needed")

    @io.on("rare", rate=Rate(2, 60.0))
    async def rare(client: Any, n: int) -> int:
        return n

    @io.on("renew")
    async def renew(client: Any, ticket: str) -> Any:
        client.renew(await io.redeem(ticket), expires_s=60)
        return [client.user, client.expires_at > time.time()]

    @io.on("soon")
    async def soon(client: Any) -> None:
        client.expire(0.01)

    app = portico.App()
    app.mount("/socket.io", io)
    app.mount("/", Starlette(routes=[Route("/ticket", ticket)]))
    async with asyncio.timeout(3 * GUARD_S), portico.serve(app, "127.0.0.1", 0) as server:
        yield io, f"http://127.0.0.1:{server.port}"


@pytest.mark.parametrize("transports", ["polling,websocket", "websocket", "polling"])
async def test_the_official_client(transports: str) -> None:
    async with site() as (_, url):
        saw = await said("security.mjs", url, transports, packages=("socket.io-client",))
    assert saw == {
        "user": "visitor 1",
        "again": "visitor 2",
        "used": ["this ticket is not valid", {"code": "ticket"}],
        "query": "visitor 4",
        "rate": [1, 2, ["too many events", "rate", True]],
        "renewed": ["visitor 5", True],
        "gone": "io server disconnect",
        "anew": "visitor 6",
    }


async def test_the_python_client_asks_for_a_new_ticket_before_each_attempt() -> None:
    async with site() as (io, url), aiohttp.ClientSession() as http:

        async def auth() -> dict[str, str]:
            async with http.get(url + "/ticket") as answer:
                return {"ticket": await answer.text()}

        async with portico.RealtimeClient(url, auth=auth, backoff=SOON) as client:
            assert await client.call("who") == "visitor 1"
            next(iter(io.engine.sessions.values())).close("transport error")
            await until(lambda: client.connected and any(each.user == "visitor 2" for each in io.clients.values()))
            assert await client.call("who") == "visitor 2"
