"""An identity that expires: its client is told and disconnected, or it is renewed in place; expired, it stays away."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from typing import Any

import pytest
from tests.realtime.client_peers import SOON
from tests.realtime.raw import Socket, realtime, serving
from tests.support import Logged, until

import portico
from portico.realtime import Identity, Recovery
from portico.realtime.identity import Lifetime

pytestmark = pytest.mark.usefixtures("logged")

EXPIRED = '42["identity_expired"]'


def telling(**options: Any) -> tuple[portico.Realtime, list[str]]:
    """A Realtime whose clients may ask who they are, and the reasons for which they left."""
    io = realtime(**options)
    reasons: list[str] = []

    @io.on("who")
    async def who(client: Any) -> Any:
        return client.user

    @io.on("disconnect")
    async def gone(client: Any, reason: str) -> None:
        reasons.append(reason)

    return io, reasons


def the_client(io: portico.Realtime) -> Any:
    """The one client that there is."""
    (client,) = io.clients.values()
    return client


def lifetimes() -> int:
    """How many identities that can expire there are: the timer wheel holds none that is over."""
    gc.collect()
    return sum(type(found) is Lifetime for found in gc.get_objects())


async def ask(socket: Socket) -> Any:
    await socket.send('421["who"]')
    return json.loads(str(await socket.next())[3:])


async def test_at_its_time_the_client_is_told_and_disconnected_and_its_session_with_it() -> None:
    io, reasons = telling(authenticate=lambda request: Identity("ada", expires_s=1.0), connect_timeout_s=1.0)
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        client = the_client(io)
        assert abs(client.expires_at - time.time()) < 10
        assert await ask(socket) == ["ada"]
        await socket.expect(EXPIRED, "41")
        await socket.send('421["who"]')  # late, and nobody's any more
        await socket.send("40")
        await socket.expect('44{"message":"identity expired","data":{"code":"expired"}}')
        await socket.closed()
        await until(lambda: reasons == ["identity expired"])
        assert (dict(io.clients), io.counters.refused["expired"]) == ({}, 1)


async def test_over_polling_too() -> None:
    io, reasons = telling(connect_timeout_s=1.0)

    @io.on("connect")
    async def connect(client: Any) -> None:
        client.expire(0.1)

    async with serving(io) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        text = ""
        while "41" not in text.split("\x1e"):
            text += "\x1e" + await raw.get(sid)
        assert EXPIRED in text
        await until(lambda: not io.engine.sessions)
        assert reasons == ["identity expired"]


async def test_after_it_a_new_ticket_lets_it_in_on_the_same_connection() -> None:
    io, _ = telling()
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect(auth=json.dumps({"ticket": await io.ticket("ada", identity_s=0.5)}))
        await socket.expect(EXPIRED, "41")
        assert raw.session.allowance is not None
        await socket.connect(auth=json.dumps({"ticket": await io.ticket("bob")}))
        assert await ask(socket) == ["bob"]
        assert raw.session.allowance is None


async def test_other_namespaces_of_the_connection_have_identities_of_their_own() -> None:
    io, _ = telling()
    io.of("/other").on("who", lambda client: client.user)
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect("/other,", json.dumps({"ticket": await io.ticket("bob")}))
        await socket.connect(auth=json.dumps({"ticket": await io.ticket("ada")}))
        the_client(io).expire(0)
        await socket.expect(EXPIRED, "41")
        await socket.send('42/other,1["who"]')
        await socket.expect('43/other,1["bob"]')


async def test_renewed_in_place_it_stays_and_is_who_it_was_renewed_as() -> None:
    io, reasons = telling()

    @io.on("connect")
    async def connect(client: Any) -> None:
        client.renew("ada", expires_s=1.5)

    @io.on("renew")
    def renew(client: Any) -> None:  # in a thread
        client.renew({"name": "ada", "again": True}, expires_s=3600)

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        first = the_client(io).expires_at
        await socket.send('422["renew"]')
        await socket.expect("432[]")
        await until(lambda: time.time() > first + 0.2)
        assert await ask(socket) == [{"name": "ada", "again": True}]
        assert reasons == []
        the_client(io).expire()
        assert the_client(io).expires_at is None


async def test_what_a_thread_says_holds_in_the_order_in_which_it_says_it() -> None:
    io, _ = telling()

    @io.on("renew")
    def renew(client: Any) -> None:
        client.renew("ada")
        client.renew("bob")
        client.expire(3600)  # who it is by then, and not who it is still

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send('422["renew"]')
        await socket.expect("432[]")
        assert await ask(socket) == ["bob"]
        assert abs(the_client(io).expires_at - time.time() - 3600) < 60


async def test_before_its_end_the_application_is_asked_and_the_page_may_bring_a_new_ticket() -> None:
    io, reasons = telling()

    @io.on_expiring(before_s=1.9)
    async def expiring(client: Any) -> None:
        client.emit("expiring")

    @io.on("renew")
    async def renew(client: Any, ticket: str) -> None:
        client.renew(await io.redeem(ticket))

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect(auth=json.dumps({"ticket": await io.ticket("ada", identity_s=2)}))
        first = the_client(io).expires_at
        await socket.expect('42["expiring"]')
        await socket.send('421["renew","wrong"]')
        await socket.expect('431[{"error":"this ticket is not valid","data":{"code":"ticket"}}]')
        await socket.send(f'422["renew","{await io.ticket("ada", identity_s=3600)}"]')
        await socket.expect("432[]")
        await until(lambda: time.time() > first + 0.2)
        assert await ask(socket) == ["ada"]
        assert reasons == []


async def test_one_that_fails_there_is_logged_and_the_identity_expires_all_the_same(logged: Logged) -> None:
    io, _ = telling()

    @io.on_expiring(before_s=0.1)
    def expiring(client: Any) -> None:
        raise RuntimeError("secret")

    with pytest.raises(portico.LocalError, match="already"):
        io.on_expiring(expiring)
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        the_client(io).renew("ada", expires_s=0.3)
        await until(lambda: logged.records)  # from a thread
        await socket.expect(EXPIRED, "41")
    logged.take("in the background")


async def test_while_the_application_still_decides_it_is_refused() -> None:
    io, reasons = telling()
    go = asyncio.Event()

    @io.on("connect")
    async def connect(client: Any) -> None:
        client.expire(0.05)
        await go.wait()

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("40")
        await socket.expect('44{"message":"identity expired","data":{"code":"expired"}}')
        go.set()
        await until(lambda: reasons == ["identity expired"])  # it has let it in, and is told


async def test_one_that_has_expired_before_is_not_let_in() -> None:
    io, _ = telling(authenticate=lambda request: Identity("ada", expires_at=time.time() - 1))
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("40")
        await socket.expect('44{"message":"identity expired","data":{"code":"expired"}}')


async def test_expired_it_does_not_come_back() -> None:
    """Nor does it live longer by coming back in time."""
    io, _ = telling(recovery=Recovery())

    @io.on("connect")
    async def connect(client: Any) -> None:
        if not client.recovered:
            client.expire(3600)
            client.join("room")

    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            await socket.send("40")
            first = json.loads(str(await socket.next())[2:])
            until_then = the_client(io).expires_at
        await until(lambda: not io.clients)
        async with raw.socket() as socket:
            await socket.opened()
            await socket.send("40" + json.dumps({"pid": first["pid"], "offset": None}))
            assert json.loads(str(await socket.next())[2:])["sid"] == first["sid"]
            assert (the_client(io).recovered, the_client(io).expires_at) == (True, until_then)
            the_client(io).expire(0.1)
            until_then = the_client(io).expires_at
        await until(lambda: time.time() > until_then)
        async with raw.socket() as socket:
            await socket.opened()
            await socket.send("40" + json.dumps({"pid": first["pid"]}))
            assert json.loads(str(await socket.next())[2:])["sid"] != first["sid"]
            client = the_client(io)
            assert (client.recovered, client.rooms) == (False, {"room"})


async def test_what_was_ended_by_it_is_not_set_aside() -> None:
    io, _ = telling(recovery=Recovery())
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("40")
        first = json.loads(str(await socket.next())[2:])
        the_client(io).expire(0)
        assert str(await socket.next()).startswith('42["identity_expired"')
        await socket.expect("41")
        await socket.send("40" + json.dumps({"pid": first["pid"]}))
        assert json.loads(str(await socket.next())[2:])["sid"] != first["sid"]


async def test_it_costs_a_deadline_and_no_task_and_leaves_nothing() -> None:
    io, _ = telling()
    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            await socket.connect()
            tasks, before = len(asyncio.all_tasks()), lifetimes()
            client = the_client(io)
            for n in range(100):
                client.renew(n, expires_s=3600 + n)
            assert (len(asyncio.all_tasks()), lifetimes()) == (tasks, before + 1)
            del client
        await until(lambda: not io.engine.sessions)
        await until(lambda: lifetimes() == before)


async def test_the_python_client_is_told_and_comes_in_again() -> None:
    io, reasons = telling()

    @io.on("connect")
    async def connect(client: Any) -> None:
        client.expire(0.3 if not reasons else 3600)

    async with serving(io) as raw:
        client = portico.RealtimeClient(raw.base, backoff=SOON)
        told = asyncio.Event()
        client.on("identity_expired", lambda: told.set())
        async with client:
            await told.wait()
            await until(lambda: not client.connected)
        async with client:
            assert await client.call("who") is None
        assert reasons[0] == "identity expired"


@pytest.mark.parametrize(
    "times",
    [{"expires_s": True}, {"expires_at": "soon"}, {"expires_s": float("nan")}, {"expires_s": 1, "expires_at": 2}],
)
def test_times_that_can_not_be_are_refused(times: Any) -> None:
    with pytest.raises(portico.LocalError, match="expires_"):
        Identity("ada", **times)
    with pytest.raises(portico.LocalError, match="before_s"):
        portico.Realtime().on_expiring(before_s=0)
