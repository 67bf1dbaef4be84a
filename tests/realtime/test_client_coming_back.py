"""Coming back: cut connections and restarted servers, what is sent meanwhile, connection state recovery."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from tests.realtime.client_peers import (  # noqa: F401
    BOTH,
    SOON,
    WAYS,
    Got,
    Relay,
    Server,
    client_of,
    no_proxy,
    node,
    nothing_left,
)
from tests.support import GUARD_S, until

import portico

pytestmark = pytest.mark.usefixtures("no_proxy", "nothing_left")

# A cut between two polls is noticed by the server when its ping goes unanswered, and not before.
RECOVERING = {
    "connectionStateRecovery": {"maxDisconnectionDuration": 60_000},
    "pingInterval": 1000,
    "pingTimeout": 1000,
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("way", WAYS)
async def test_a_cut_connection_is_made_anew(kind: str, way: str) -> None:
    async with Server.running(kind) as server, Relay.running(server.port) as relay:
        client = client_of(relay, way)
        got = Got(client, "connect", "disconnect")
        async with client:
            for _ in range(3):
                assert await got.next() == ("connect",)
                assert await client.call("give", 1) == 1
                name = client.id
                relay.cut()
                event, reason = await got.next()
                assert (event, reason in ("transport close", "transport error")) == ("disconnect", True)
            assert await got.next() == ("connect",)
            assert client.id not in (None, name)
            assert not client.recovered


@pytest.mark.parametrize("kind", BOTH)
async def test_a_restarted_server_is_found_again_with_all_namespaces(kind: str) -> None:
    async with Server.running(kind) as server, Relay.running(server.port) as relay:
        client = client_of(relay, auth={"token": "admin"})
        admin = client.of("/admin")
        got = Got(client, "connect", "disconnect")
        async with client:
            assert await got.next() == ("connect",)
            await server.kill()
            assert (await got.next())[0] == "disconnect"
            client.emit("say", "while away")
            async with Server.running(kind) as again:
                relay.to = again.port
                assert await got.next() == ("connect",)
                assert await again.said("say") == ["while away"]
                await until(lambda: admin.connected)
                assert await admin.call("give", 5) == 5
                await client.close()


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_emitted_offline_goes_out_in_order_and_once(way: str) -> None:
    async with node() as server, Relay.running(server.port) as relay:
        client = client_of(relay, way)
        got = Got(client, "connect", "disconnect")
        client.emit("say", 0)
        async with client:
            await got.next()
            assert await server.said("say") == [0]
            relay.refusing = True
            relay.cut()
            await got.next()
            for n in range(1, 30):
                client.emit("say", n, b"x" * n)
            relay.refusing = False
            await got.next()
            assert await client.call("give", "all arrived") == "all arrived"
        said = [(await server.said("say"))[0] for _ in range(29)]
        assert said == list(range(1, 30))


async def test_the_outbox_is_bounded_by_bytes_and_says_so() -> None:
    client = portico.RealtimeClient("http://127.0.0.1:1", max_outbox_bytes=10_000)
    for _ in range(8):
        client.emit("say", "x" * 1000)
    with pytest.raises(portico.OutboxFull, match=r"not connected.*max_outbox_bytes=10000") as caught:
        client.emit("say", "x" * 1000)
    assert 8000 < caught.value.held <= caught.value.limit == 10_000
    assert client.waiting == caught.value.held
    await client.close()
    assert client.waiting == 0


async def test_a_call_that_was_sent_fails_with_the_connection_and_one_that_waits_goes_out_later() -> None:
    async with node() as server, Relay.running(server.port) as relay:
        client = client_of(relay, "websocket")
        got = Got(client, "connect", "disconnect")
        async with client:
            await got.next()
            sent = asyncio.create_task(client.call("silent"))
            await client.call("give", 1)
            relay.refusing = True
            relay.cut()
            with pytest.raises(portico.Disconnected) as caught:
                await sent
            assert caught.value.reason == "transport close"
            waiting = asyncio.create_task(client.call("give", "late"))
            with pytest.raises(TimeoutError):
                await client.call("say", "never", timeout=0.02)
            relay.refusing = False
            assert await waiting == "late"
            assert await client.call("give", 2) == 2
            client.emit("say", "last")
            assert await server.said("say") == ["last"]


async def test_an_acknowledgement_goes_to_the_connection_that_asked_or_nowhere() -> None:
    async with node() as server, Relay.running(server.port) as relay:
        client = client_of(relay, "websocket")
        got = Got(client, "connect", "disconnect")
        asked, go = asyncio.Event(), asyncio.Event()

        @client.of("/admin", auth={"token": "admin"}).on("question")
        async def question(value: object) -> str:
            asked.set()
            if value == "first":
                await go.wait()
            return f"to {value}"

        async with client:
            await got.next()
            admin = client.of("/admin")
            admin.emit("askRaw", "first")
            async with asyncio.timeout(GUARD_S):
                await asked.wait()
            relay.cut()
            await got.next()
            await got.next()
            await until(lambda: admin.connected)
            admin.emit("askRaw", "second")
            go.set()
            assert await server.said("answers") == ["to second"]


async def test_connect_raises_what_keeps_it_from_connecting_or_tries_again() -> None:
    async with node() as server, Relay.running(server.port) as relay:
        relay.refusing = True
        client = client_of(relay)
        got = Got(client, "connect_error")
        with pytest.raises(OSError):  # noqa: PT011 # by what came first: a reset, or the end
            await client.connect()
        connecting = asyncio.create_task(client.connect(retry=True))
        for _ in range(3):
            assert isinstance((await got.next())[1], OSError)
        relay.refusing = False
        async with asyncio.timeout(GUARD_S):
            await connecting
        await client.close()


async def test_without_reconnect_the_end_is_the_end() -> None:
    async with node() as server, Relay.running(server.port) as relay:
        client = client_of(relay, "websocket", reconnect=False)
        await client.connect()
        relay.cut()
        with pytest.raises(portico.Disconnected, match="transport close"):
            async with asyncio.timeout(GUARD_S):
                await client.wait()


async def test_refused_on_the_way_back_the_namespace_is_left_and_the_last_one_ends_it() -> None:
    tokens = ["yes", "no"]
    async with node() as server, Relay.running(server.port) as relay:
        client = client_of(relay, auth=lambda: {"token": tokens.pop(0)})
        got = Got(client, "connect_error")
        await client.connect()
        relay.cut()
        with pytest.raises(portico.ConnectError, match="not you"):
            async with asyncio.timeout(GUARD_S):
                await client.wait()
        assert [type(error) for _, error in got.all()] == [portico.ConnectError]


async def test_auth_that_fails_on_the_way_back_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [{"token": 1}, LookupError("the token server is away"), {"token": 2}]

    def auth() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with node() as server, Relay.running(server.port) as relay:
        client = client_of(relay, auth=auth)
        got = Got(client, "connect", "connect_error")
        async with client:
            assert await got.next() == ("connect",)
            import logging

            logging.getLogger("portico.realtime_client").disabled = True
            try:
                relay.cut()
                event, error = await got.next()
                assert (event, type(error)) == ("connect_error", LookupError)
                assert await got.next() == ("connect",)
            finally:
                logging.getLogger("portico.realtime_client").disabled = False


async def test_a_server_that_says_nothing_any_more_is_given_up_after_its_ping_timeout() -> None:
    async with node(options={"pingInterval": 300, "pingTimeout": 300}) as server:
        client = client_of(server, "websocket")
        got = Got(client, "disconnect")
        async with client:
            assert client._link._session is not None
            await until(lambda: client._link._session._heard_at)
            import os
            import signal

            os.kill(server._process.pid, signal.SIGSTOP)
            try:
                assert await got.next() == ("disconnect", "ping timeout")
            finally:
                os.kill(server._process.pid, signal.SIGCONT)


async def test_pings_are_answered_over_each_transport() -> None:
    async with node(options={"pingInterval": 50, "pingTimeout": 10_000}) as server:
        for way in WAYS:
            client = client_of(server, way)
            got = Got(client, "disconnect")
            async with client:
                heard = 0
                for _ in range(8):
                    heard += await pinged(client)
                assert (heard, got.all()) == (8, [])
            assert got.all() == [("disconnect", "io client disconnect")]


async def pinged(client: portico.RealtimeClient) -> bool:
    """True when the next packet has come."""
    session = client._link._session
    assert session is not None
    before = session._heard_at
    await until(lambda: session._heard_at > before)
    return True


# -- connection state recovery -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_recovery_brings_what_was_missed_rooms_and_identity(way: str) -> None:
    async with node(options=RECOVERING) as server, Relay.running(server.port) as relay:
        client = client_of(relay, way)
        got = Got(client, "connect", "disconnect", "news")
        async with client:
            assert await got.next() == ("connect",)
            assert not client.recovered
            name = client.id
            server.tell("emit", "news", 1, "text")
            assert await got.next() == ("news", 1, "text")  # without the offset that came with it
            relay.refusing = True
            relay.cut()
            assert (await got.next())[0] == "disconnect"
            await server.said("disconnect")
            for n in range(2, 6):
                server.tell("emit", "news", n)
            relay.refusing = False
            assert await got.next() == ("connect",)
            assert (client.recovered, client.id) == (True, name)
            assert [await got.next() for _ in range(4)] == [("news", n) for n in range(2, 6)]
            server.tell("emit", "news", 6)
            assert await got.next() == ("news", 6)


async def test_a_restart_is_no_recovery_and_says_so() -> None:
    async with node(options=RECOVERING) as server, Relay.running(server.port) as relay:
        client = client_of(relay, "websocket")
        got = Got(client, "connect", "disconnect", "news")
        async with client:
            await got.next()
            server.tell("emit", "news", 1)
            await got.next()
            await server.kill()
            await got.next()
            async with node(options=RECOVERING) as again:
                relay.to = again.port
                assert await got.next() == ("connect",)
                assert not client.recovered
                await client.close()


@pytest.mark.parametrize("way", WAYS)
async def test_whatever_is_cut_nothing_comes_twice_and_a_gap_is_told(way: str) -> None:
    """A publisher of 300 numbers, and 12 cuts at random moments: between two connects that were not recovered, the
    numbers that came have no hole and no double."""
    rng = random.Random(way)
    async with node(options=RECOVERING) as server, Relay.running(server.port) as relay:
        client = client_of(relay, way, backoff=portico.Backoff(first_s=0.001, longest_s=0.005))
        runs: list[list[int]] = []

        @client.on("connect")
        async def connect() -> None:
            if not client.recovered:
                runs.append([])

        @client.on("news")
        async def news(n: int) -> None:
            runs[-1].append(n)

        async with client:
            server.tell("emit", "news", 0)
            await until(lambda: runs and runs[-1])
            for n in range(1, 300):
                server.tell("emit", "news", n)
                if rng.random() < 0.04:
                    relay.cut()
                if n % 10 == 0:
                    await asyncio.sleep(0.002)
            await until(lambda: client.connected)
            server.tell("emit", "news", 300)
            await until(lambda: runs[-1] and runs[-1][-1] == 300)
    came = [n for run in runs for n in run]
    assert came == sorted(set(came))
    assert [run for run in runs if run and run != list(range(run[0], run[0] + len(run)))] == []
    assert (came[0], came[-1]) == (0, 300)
