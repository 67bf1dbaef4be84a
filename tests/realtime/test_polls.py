"""Long-polling both ways through the server: at once, as usual requests are, and by the application for others."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import aiohttp
import pytest
from tests.realtime.raw import Raw, realtime, serving
from tests.support import Logged, until

import portico
from portico.realtime.polling import TaskPoll
from portico.realtime.polls import HeldPoll

Asked = Literal["plain", "as a page", "unusual"]  # the last one is looked at by the application

ways = pytest.mark.parametrize("asked", ["plain", "as a page", "unusual"])


class Way:
    """Requests of one session, usual ones or not."""

    def __init__(self, raw: Raw, sid: str, asked: Asked) -> None:
        self.raw, self.sid = raw, sid
        self.headers = {"Origin": raw.base} if asked == "as a page" else {}
        self.query = {"more": "1"} if asked == "unusual" else {}

    async def get(self) -> tuple[int, str]:
        return await self.raw.request(sid=self.sid, headers=self.headers, **self.query)

    async def held_get(self) -> asyncio.Task[tuple[int, str]]:
        """A GET that the server holds already, as there is nothing to say."""
        held = asyncio.create_task(self.get())
        await until(lambda: self.raw.session.poll is not None)
        return held

    async def post(self, body: str) -> tuple[int, str]:
        return await self.raw.request("POST", body.encode(), sid=self.sid, headers=self.headers, **self.query)


async def connected(raw: Raw, asked: Asked) -> Way:
    way = Way(raw, await raw.poll_session(), asked)
    assert await way.post("40") == (200, "ok")
    status, text = await way.get()
    assert (status, text[:2]) == (200, "40")
    return way


@ways
async def test_a_held_get_gets_all_that_one_turn_brings(asked: Asked, logged: Logged) -> None:
    """Engine.IO v4, §HTTP long-polling: packets are joined by U+001E."""
    async with serving(realtime()) as raw:
        way = await connected(raw, asked)
        held = await way.held_get()
        assert isinstance(raw.session.poll, TaskPoll if asked == "unusual" else HeldPoll)
        for n in range(3):
            raw.io.emit("news", n)
        assert await held == (200, '42["news",0]\x1e42["news",1]\x1e42["news",2]')
        assert raw.session.poll is None


@ways
async def test_what_waits_is_answered_at_once(asked: Asked, logged: Logged) -> None:
    async with serving(realtime()) as raw:
        way = await connected(raw, asked)
        raw.io.emit("news", b"\x00")
        assert await way.get() == (200, '451-["news",{"_placeholder":true,"num":0}]\x1ebAA==')


@ways
async def test_a_second_get_ends_the_session(asked: Asked, logged: Logged) -> None:
    """Engine.IO v4, §HTTP long-polling: one GET at a time; the one that is held is answered with a ``close``."""
    async with serving(realtime()) as raw:
        way = await connected(raw, asked)
        held = await way.held_get()
        assert (await way.get())[0] == 400
        assert await held == (200, "1")
        assert not raw.io.engine.sessions


@ways
async def test_who_leaves_while_a_get_is_held_has_left(asked: Asked, logged: Logged) -> None:
    async with serving(realtime()) as raw:
        way = await connected(raw, asked)
        held = await way.held_get()
        held.cancel()
        await until(lambda: not raw.io.engine.sessions)
        assert raw.io.counters.closed == {"transport close": 1}


@ways
@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
async def test_a_post_may_have_many_packets(asked: Asked, count: int, logged: Logged) -> None:
    async with serving(realtime()) as raw:
        way = await connected(raw, asked)
        assert await way.post("\x1e".join(f'42{n}["echo"]' for n in range(count))) == (200, "ok")
        got = ""
        while got.count("\x1e") < count:
            got += "\x1e" + (await way.get())[1]
        assert got == "".join(f"\x1e43{n}[]" for n in range(count))


@ways
@pytest.mark.parametrize("body", ["", "x", "42[", "bx", "40\x1e", "\x1e"])
async def test_a_post_that_is_malformed_ends_the_session(asked: Asked, body: str, logged: Logged) -> None:
    async with serving(realtime()) as raw:
        way = await connected(raw, asked)
        status, text = await way.post(body)
        assert status == 400
        assert "can't be understood" in text
        assert not raw.io.engine.sessions


@ways
async def test_a_post_waits_while_too_much_is_unread(asked: Asked, logged: Logged) -> None:
    io = realtime(max_unread_bytes=2000)
    go = asyncio.Event()

    @io.on("wait")
    async def wait(client: Any, text: str) -> None:
        await go.wait()

    async with serving(io) as raw:
        way = await connected(raw, asked)
        posted = asyncio.create_task(way.post('42["wait","' + "x" * 3000 + '"]'))
        await until(lambda: raw.session.full)
        assert not posted.done()
        go.set()
        assert await posted == (200, "ok")


@ways
async def test_a_held_get_is_let_go_where_the_session_goes_to_websocket(asked: Asked, logged: Logged) -> None:
    """Engine.IO v4, §Upgrade: the server answers the pending GET with a ``noop``."""
    async with serving(realtime()) as raw:
        way = await connected(raw, asked)
        held = await way.held_get()
        async with raw.socket(way.sid) as ws:
            await ws.send("2probe")
            await ws.expect("3probe")
            assert await held == (200, "6")
            await ws.send("5")
            raw.io.emit("news", 1)
            await ws.expect('42["news",1]')


@ways
async def test_a_held_get_is_answered_when_the_server_stops(asked: Asked) -> None:
    async with serving(realtime()) as raw:
        way = await connected(raw, asked)
        held = await way.held_get()
        await raw.server.close()
        assert await held == (200, "1")


async def test_a_page_of_another_origin_is_refused_on_every_request(logged: Logged) -> None:
    async with serving(realtime()) as raw:
        way = await connected(raw, "plain")
        way.headers = {"Origin": "https://elsewhere.example"}
        assert (await way.get())[0] == 403
        assert (await way.post("40"))[0] == 403


@pytest.mark.parametrize("query", ["", "&t=abc", "&EIO=3"])
async def test_the_order_of_the_query_does_not_matter(query: str, logged: Logged) -> None:
    async with serving(realtime()) as raw:
        way = await connected(raw, "plain")
        raw.io.emit("news", 1)
        url = f"{raw.base}/socket.io/?sid={way.sid}{query}&transport=polling"
        async with raw.http.get(url) as answer:
            assert (answer.status, await answer.text()) == (200, '42["news",1]')


async def test_it_is_the_same_at_the_root(logged: Logged) -> None:
    io = realtime()
    app = portico.App()
    app.mount("/", io)
    async with portico.serve(app, "127.0.0.1", 0) as server, aiohttp.ClientSession() as http:
        base = f"http://127.0.0.1:{server.port}/?EIO=4&transport=polling"
        async with http.get(base) as answer:
            sid = (await answer.text()).split('"')[3]
        async with http.post(f"{base}&sid={sid}", data=b"40", headers={"Content-Type": "text/plain"}) as answer:
            assert await answer.text() == "ok"
        async with http.get(f"{base}&sid={sid}") as answer:
            assert (await answer.text())[:2] == "40"
