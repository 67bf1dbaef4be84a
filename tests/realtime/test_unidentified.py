"""Sessions that are connected to no namespace: small messages, few bytes, a deadline, and not too many of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from tests.realtime.raw import realtime, serving
from tests.support import GUARD_S, Peer, until

import portico
from portico.realtime import Rate, Unidentified

pytestmark = pytest.mark.usefixtures("logged")

SMALL = Unidentified(max_payload_bytes=1000, max_bytes=3000)


def test_by_default_a_session_without_a_namespace_has_a_fraction_of_the_others() -> None:
    io = portico.Realtime()
    assert io.engine.options.unidentified == Unidentified()
    assert Unidentified().max_payload_bytes * 32 <= io.engine.options.max_payload_bytes


async def test_a_websocket_message_over_its_limit_is_refused_at_its_header_until_a_namespace_is_connected() -> None:
    async with serving(realtime(unidentified=SMALL)) as raw:
        async with await Peer.connect(raw.server) as peer:
            await peer.open("/socket.io/?EIO=4&transport=websocket")
            await peer.frame()
            peer.send(b"\x81\xfe\x03\xe9\x00\x00\x00\x00")  # 1001 bytes are announced, none comes
            await peer.closed_with(1009)
        async with raw.socket() as socket:
            await socket.opened()
            await socket.connect()
            await socket.send(f'421["echo","{"x" * 100_000}"]')
            assert len(str(await socket.next())) > 100_000


async def test_compressed_it_is_measured_inflated() -> None:
    async with serving(realtime(unidentified=SMALL)) as raw:
        url = raw.url(transport="websocket").replace("http", "ws", 1)
        async with raw.http.ws_connect(url, compress=15) as ws:
            await ws.receive()
            assert ws.compress
            await ws.send_str("40" + json.dumps({"x": "x" * 2000}))
            async with asyncio.timeout(GUARD_S):
                assert (await ws.receive()).type == aiohttp.WSMsgType.CLOSE
            assert ws.close_code == 1009


async def test_a_post_over_its_limit_is_413_until_a_namespace_is_connected() -> None:
    async with serving(realtime(unidentified=SMALL)) as raw:
        sid = await raw.poll_session()
        status, text = await raw.request("POST", b"4" + b"x" * 1000, sid=sid)
        assert status == 413
        assert "unidentified=Unidentified(max_payload_bytes" in text
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        await raw.get(sid)
        await raw.post(sid, f'421["echo","{"x" * 100_000}"]')
        assert len(await raw.get(sid)) > 100_000


async def test_after_the_upgrade_and_the_connect_in_either_order_the_limits_are_the_full_ones() -> None:
    async with serving(realtime(unidentified=SMALL)) as raw:
        for connect_first in (True, False):
            sid = await raw.poll_session()
            if connect_first:
                await raw.post(sid, "40")
                await raw.get(sid)
            async with raw.socket(sid) as socket:
                await socket.send("2probe")
                await socket.expect("3probe")
                await socket.send("5")
                if not connect_first:
                    await socket.connect()
                await socket.send(f'421["echo","{"x" * 100_000}"]')
                assert len(str(await socket.next())) > 100_000


async def test_one_that_connects_while_a_websocket_is_tried_gives_that_the_full_limits() -> None:
    async with serving(realtime(unidentified=SMALL)) as raw:
        sid = await raw.poll_session()
        async with raw.socket(sid) as socket:
            await socket.send("2probe")
            await socket.expect("3probe")
            await raw.post(sid, "40")
            await raw.get(sid)
            await socket.send("5", f'421["echo","{"x" * 100_000}"]')
            assert len(str(await socket.next())) > 100_000


@pytest.mark.parametrize("packet", ["3", "40/nowhere,", "6"])
async def test_all_that_it_sends_is_bounded_in_bytes_and_work(packet: str) -> None:
    io = realtime(unidentified=SMALL)
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        for _ in range(3000 // 64 + 1):
            await socket.send(packet)
        assert await _code(socket) == 1008
        assert io.counters.refused["unidentified"] == 1


async def test_so_are_events_that_come_before_the_application_has_decided() -> None:
    io = realtime(unidentified=SMALL)
    go = asyncio.Event()

    @io.on("connect")
    async def connect(client: Any) -> None:
        await go.wait()

    async with serving(io) as raw:
        async with raw.socket() as socket:
            await socket.opened()
            await socket.send("40", *[f'42["echo","{"x" * 500}"]'] * 6)
            assert await _code(socket) == 1008
        async with raw.socket() as socket:
            await socket.opened()
            await socket.send("40", *[f'42{n}["echo"]' for n in range(5)])
            await until(lambda: io._root._arriving)
            go.set()
            await socket.next()
            await socket.expect(*[f"43{n}[]" for n in range(5)])


async def test_and_attachments() -> None:
    io = realtime(unidentified=SMALL)

    @io.on("connect")
    async def connect(client: Any) -> None:
        await asyncio.Event().wait()

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("40", '453-["echo"]', b"x" * 600, b"x" * 600)
        assert await _code(socket) in (1008, 1009)


async def _code(socket: Any) -> int | None:
    """The code of the close that comes after whatever else does."""
    while await socket.next() is not None:
        pass
    return socket.connection.close_code  # type: ignore[no-any-return]


@pytest.mark.parametrize("refused", [False, True])
async def test_one_that_is_not_let_in_in_time_is_closed(refused: bool) -> None:
    io = realtime(connect_timeout_s=1.0)

    @io.on("connect")
    async def connect(client: Any) -> None:
        raise portico.Refuse("no")

    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        if refused:
            await socket.send("40")
            await socket.expect('44{"message":"no"}')
        await socket.closed()
        await until(lambda: io.counters.closed == {"forced server close": 1})


@pytest.mark.parametrize("option", ["max_sessions", "max_sessions_per_address"])
@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_more_of_them_than_may_be_are_503_with_retry_after(option: str, transport: str) -> None:
    io = realtime(unidentified=Unidentified(**{option: 2}))
    async with serving(io) as raw, raw.socket() as one, raw.socket() as two:
        await one.opened()
        await two.opened()
        if transport == "polling":
            async with raw.http.get(raw.url()) as answer:
                status, headers, body = answer.status, answer.headers, await answer.json()
            assert body["code"] == 4
            assert "connected to no namespace" in body["hint"]
        else:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await raw.http.ws_connect(raw.url(transport="websocket"))
            status, headers = refused.value.status, refused.value.headers or {}
        assert (status, headers["Retry-After"]) == (503, "5")
        await one.connect()  # it is none of them any more
        async with raw.socket() as three:
            await three.opened()
            assert (await raw.request())[0] == 503
        await until(lambda: io.engine.waiting.count == 1)
        assert (await raw.request())[0] == 200
        await two.connect()
    await until(lambda: io.engine.waiting.count == 0)
    assert not io.engine.waiting._addresses


async def test_those_that_come_while_authenticate_is_asked_count_too() -> None:
    go = asyncio.Event()

    async def authenticate(request: Any) -> None:
        await go.wait()

    io = realtime(unidentified=Unidentified(max_sessions=1), authenticate=authenticate)
    async with serving(io) as raw:

        async def one() -> int | None:
            async with raw.socket() as socket:
                first = await socket.next()
                if first is not None:
                    await until(lambda: io.counters.refused["Forbidden"] == 2)
                return socket.connection.close_code if first is None else 0

        waiting = [asyncio.create_task(one()) for _ in range(3)]
        await until(lambda: len(raw.server.connections) == 3)
        go.set()
        assert sorted(await asyncio.gather(*waiting), key=int) == [0, 1013, 1013]  # type: ignore[arg-type]


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_an_address_that_comes_too_often_is_429_with_retry_after(transport: str) -> None:
    io = realtime(connect_rate=Rate(1, 100.0, burst=3))
    async with serving(io) as raw:
        for _ in range(3):
            await raw.poll_session()
        if transport == "polling":
            async with raw.http.get(raw.url()) as answer:
                status, headers, body = answer.status, answer.headers, await answer.json()
            assert (body["code"], body["message"]) == (4, "too many attempts to connect")
            assert 0 < body["data"]["retry_after_s"] <= 100
        else:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await raw.http.ws_connect(raw.url(transport="websocket"))
            status, headers = refused.value.status, refused.value.headers or {}
        assert status == 429
        assert 0 < int(headers["Retry-After"]) <= 100


async def test_behind_a_trusted_proxy_it_is_the_clients_address_that_counts() -> None:
    io = realtime(connect_rate=Rate(1, 100.0, burst=1))
    async with serving(io, trusted_proxies=["127.0.0.1"]) as raw:
        for client in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
            assert (await raw.request(headers={"X-Forwarded-For": client}))[0] == 200
            assert (await raw.request(headers={"X-Forwarded-For": client}))[0] == 429
        same_customer = {"X-Forwarded-For": "2001:db8::ffff:2"}
        assert (await raw.request(headers=same_customer))[0] == 429


async def test_the_python_client_is_let_in_with_the_defaults_and_may_send_much_then() -> None:
    async with serving(realtime()) as raw:
        for transports in (["polling"], ["websocket"], ["polling", "websocket"]):
            async with portico.RealtimeClient(raw.base, transports=transports) as client:
                assert len(await client.call("echo", "x" * 500_000)) == 500_000


def test_limits_that_can_not_be_are_refused() -> None:
    for options in ({"max_bytes": 0}, {"max_payload_bytes": 1.5}, {"max_sessions": -1}, {"max_sessions": True}):
        with pytest.raises(portico.LocalError, match=next(iter(options))):
            Unidentified(**options)  # type: ignore[arg-type]
    with pytest.raises(portico.LocalError, match="Unidentified"):
        portico.Realtime(unidentified=5)  # type: ignore[arg-type]
