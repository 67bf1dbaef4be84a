"""Where a Realtime is served: alone, beside others, behind a proxy, on several ports, with Python's client."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
import socketio
from tests.realtime.raw import Raw, realtime, serving
from tests.support import GUARD_S, pages, respond, until

import portico

pytestmark = pytest.mark.usefixtures("logged")


async def test_alone_it_is_where_the_clients_look() -> None:
    io = realtime()
    async with portico.serve(io, "127.0.0.1", 0) as server, aiohttp.ClientSession() as http:
        raw = Raw(io, http, server)
        await raw.poll_session()
        async with raw.socket() as socket:
            await socket.opened()
        async with http.get(raw.base + "/") as answer:
            assert answer.status == 404


async def test_beside_an_application_and_a_websocket() -> None:
    io = realtime()
    app = portico.App()

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"page")

    async def echo(ws: portico.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    app.mount("/", pages(page))
    app.mount("/socket.io", io)
    app.websocket("/echo", echo)
    async with portico.serve(app, "127.0.0.1", 0) as server, aiohttp.ClientSession() as http:
        raw = Raw(io, http, server)
        await raw.poll_session()
        async with http.get(raw.base + "/x") as answer:
            assert await answer.text() == "page"
        async with http.ws_connect(raw.base.replace("http", "ws") + "/echo") as ws:
            await ws.send_str("x")
            assert await ws.receive_str() == "x"


async def test_a_plain_request_for_websocket_says_what_is_missing() -> None:
    async with serving(realtime()) as raw:
        status, text = await raw.request(transport="websocket")
        assert status == 400
        assert "proxy" in text


async def test_behind_a_proxy_the_origin_is_that_of_the_host_that_was_asked() -> None:
    told = {"X-Forwarded-Host": "app.example", "X-Forwarded-Proto": "https"}
    async with serving(realtime(), trusted_proxies="*") as raw:
        assert (await raw.request(headers=told | {"Origin": "https://app.example"}))[0] == 200
        assert (await raw.request(headers=told | {"Origin": "http://app.example"}))[0] == 403
        url = raw.url(transport="websocket").replace("http", "ws", 1)
        async with raw.http.ws_connect(url, headers=told | {"Origin": "https://app.example"}) as ws:
            assert (await ws.receive_str())[0] == "0"


async def test_two_ports_of_one_process_are_one_audience_until_the_last_one_stops() -> None:
    io = realtime()
    async with serving(io) as one:
        async with serving(io) as two, one.socket() as a, two.socket() as b:
            for socket in (a, b):
                await socket.opened()
                await socket.connect()
            assert io.emit("x").delivered == 2
        assert io.running
        await one.poll_session()
    assert not io.running
    assert io.emit("x").delivered == 0


async def test_it_can_be_served_again_afterwards() -> None:
    io = realtime()
    for _ in range(2):
        async with serving(io) as raw, raw.socket() as socket:
            await socket.opened()
            await socket.connect()
            await socket.send('421["echo",1]')
            await socket.expect("431[1]")


async def test_posts_wait_while_more_is_unread_than_may_be() -> None:
    io = realtime(max_unread_bytes=5000)
    go = asyncio.Event()

    @io.on("wait")
    async def wait(client: Any) -> None:
        await go.wait()

    async with serving(io) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        await raw.get(sid)
        await raw.post(sid, '42["wait"]')
        waiting = asyncio.create_task(raw.post(sid, f'42["quiet"]\x1e42["echo","{"x" * 6000}"]'))
        await until(lambda: raw.session.full)
        assert not waiting.done()
        go.set()
        await waiting
        assert not raw.session._unread


@pytest.mark.parametrize("transports", [["polling", "websocket"], ["websocket"], ["polling"]], ids="-".join)
async def test_python_socketio_client(transports: list[str]) -> None:
    io = realtime()
    reasons: asyncio.Queue[str] = asyncio.Queue()

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        if auth.get("token") != "right":
            raise portico.Refuse("no")

    @io.on("disconnect")
    async def gone(client: Any, reason: str) -> None:
        reasons.put_nowait(reason)

    async with asyncio.timeout(GUARD_S), serving(io) as raw:
        with pytest.raises(socketio.exceptions.ConnectionError):
            await socketio.AsyncClient(reconnection=False, http_session=raw.http).connect(raw.base, auth={})
        one = socketio.AsyncClient(reconnection=False, http_session=raw.http)
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        one.on("told", lambda *args: told.set_result(args))
        await one.connect(raw.base, auth={"token": "right"}, transports=transports)
        assert one.transport() == transports[-1]
        assert await one.call("echo", ("é", b"\x00\xff", {"a": [1]})) == ("é", b"\x00\xff", {"a": [1]})
        io.emit("told", "x", b"y")
        assert await told == ("x", b"y")
        if transports[-1] == "polling":  # it waits for its poll, to leave
            io.disconnect(close=True)
            assert await reasons.get() == "server namespace disconnect"
        else:
            await one.disconnect()
            assert await reasons.get() in ("client namespace disconnect", "transport close")


async def test_a_python_socketio_client_loses_nothing_of_a_burst_by_polling() -> None:
    """python-engineio drops an answer of more than 16 packets, whole; attachments count."""
    io = realtime()
    came: list[tuple[int, bytes]] = []
    async with asyncio.timeout(GUARD_S), serving(io) as raw:
        client = socketio.AsyncClient(reconnection=False, http_session=raw.http)
        client.on("number", lambda number, octets: came.append((number, octets)))
        await client.connect(raw.base, transports=["polling"])
        for number in range(100):
            io.emit("number", number, bytes([number]))
        await until(lambda: len(came) == 100)
        assert came == [(number, bytes([number])) for number in range(100)]
        io.disconnect(close=True)
