"""Server-Sent Events of rooms (WHATWG HTML §9.2): exactly what the room keeps, on from any event, or a plain gap."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.realtime.followers import SSE, following, member, realtime, refused, url
from tests.realtime.raw import serving
from tests.support import Logged, Peer, get, until

import portico
from portico.brokers.memory import MemoryBroker, MemoryHub
from portico.realtime import History, Identity, Recovery
from portico.wire import sse

KIB = 1024


async def test_a_stream_as_it_goes_on_the_wire_9_2_5() -> None:
    io = realtime()
    async with serving(io) as raw, raw.http.get(url(raw, "a"), headers=SSE) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Accel-Buffering"] == "no"
        begin = await response.content.readuntil(b"\n\n")
        position = (await io.room("a").history.read()).position
        retry, _, rest = begin.partition(b"\n")
        assert 1000 <= int(retry.removeprefix(b"retry: ")) <= 3000
        assert rest == f'id: {position}\nevent: position\ndata: {{"position":"{position}"}}\n\n'.encode()
        io.to("a").emit("tick", 1, "zwei\n", None)
        position = (await io.room("a").history.read()).position
        expected = f'id: {position}\nevent: tick\ndata: [1,"zwei\\n",null]\n\n'
        assert await response.content.readuntil(b"\n\n") == expected.encode()


async def test_the_last_event_id_resumes_exactly_9_2_4() -> None:
    io = realtime()
    async with serving(io) as raw:
        async with following(raw, "a") as reader:
            for n in range(5):
                io.to("a").emit("n", n)
            said = [await reader.next() for _ in range(5)]
            assert io.counters.streams == 1
            assert repr(io) == "<Realtime: 0 sessions, 1 streams>"
        await until(lambda: not len(io.streams))
        io.to("a").emit("n", 5)
        for after, expected in ((said[1], [[2], [3], [4], [5]]), (said[4], [[5]])):
            assert after is not None
            async with following(raw, "a", after=after.id) as reader:
                assert await reader.take(len(expected)) == expected
                io.to("a").emit("live", "too")
                assert await reader.take(1) == [["too"]]
            expected.append(["too"])
            io = raw.io


async def test_also_where_nothing_ever_came_before_the_cut() -> None:
    io = realtime()
    async with serving(io) as raw:
        async with following(raw, "a") as reader:
            last = reader.id
        io.to("a").emit("n", 1)
        async with following(raw, "a", after=last) as reader:
            assert await reader.take(1) == [[1]]


async def test_the_header_goes_before_the_query_and_the_query_is_for_those_who_have_no_header() -> None:
    io = realtime()
    async with serving(io) as raw:
        start = (await io.room("a").history.read()).position
        for n in range(4):
            io.to("a").emit("n", n)
        past = (await io.room("a").history.read()).events
        async with following(raw, "a", since=start) as reader:
            assert await reader.take(1) == [[0]]
        async with following(raw, "a", since=start, lastEventId=past[0].position) as reader:
            assert await reader.take(1) == [[1]]
        async with following(raw, "a", since=start, after=past[2].position) as reader:
            assert await reader.take(1) == [[3]]
        async with following(raw, "a", last="2") as reader:
            assert await reader.take(2) == [[2], [3]]


async def test_several_rooms_in_one_stream() -> None:
    io = realtime()
    async with serving(io) as raw:
        async with following(raw, "a", "b") as reader:
            io.to("a").emit("n", 1)
            io.to("b").emit("n", 2)
            io.to("b", "a").emit("n", 3)
            io.to("c").emit("n", "not ours")
            io.to("a").emit("n", 4)
            said = [await reader.next() for _ in range(4)]
            assert [each.data for each in said if each] == [[1], [2], [3], [4]]
        for index, each in enumerate(said):
            assert each is not None
            async with following(raw, "a", "b", after=each.id) as reader:
                io.to("a").emit("n", "end")
                got = []
                while (next_one := await reader.next()) and next_one.data != ["end"]:
                    got += next_one.data
                assert got[: 3 - index] == [1, 2, 3, 4][index + 1 :]
                assert not [one for one in got[3 - index :] if one != "end"]


async def test_who_joined_meanwhile_and_a_websocket_in_the_room_see_the_same() -> None:
    io = realtime(recovery=Recovery())
    async with serving(io) as raw, raw.socket() as socket, following(raw, "a") as reader:
        await member(socket, io, "a")
        io.to("a").emit("n", 1)
        assert await reader.take(1) == [[1]]
        message = await socket.next()
        assert isinstance(message, str)
        assert message.startswith('42["n",1,')  # with its place, which is the clients' affair
        async with following(raw, "a", last="1") as late:
            assert await late.take(1) == [[1]]


async def test_binary_is_base64() -> None:
    io = realtime()
    async with serving(io) as raw, following(raw, "a") as reader:
        io.to("a").emit("n", b"\x00\xff", {"deep": [b""]}, {"_placeholder": True})
        said = await reader.next()
        assert said is not None
        assert said.data[:2] == [{"base64": "AP8="}, {"deep": [{"base64": ""}]}]


@pytest.mark.parametrize("name", ["a\nid: 9", "a\r\ndata: 9", "a\n\nevent: evil", "\r\r", " a", "€", ":", "position"])
async def test_nothing_that_is_emitted_makes_a_field_9_2_6(name: str) -> None:
    io = realtime()
    async with serving(io) as raw, following(raw, "a") as reader:
        before = reader.id
        io.to("a").emit(name, "x\ny\r\n\r\nid: 7")
        io.to("a").emit("after")
        said = await reader.next()
        assert said is not None
        assert said.name == name.replace("\r", " ").replace("\n", " ")
        assert said.data == ["x\ny\r\n\r\nid: 7"]
        assert said.id.partition(":")[0] == before.partition(":")[0]
        assert await reader.take(1) == [[]]


def test_what_would_end_a_line_is_a_space() -> None:
    assert sse.identity("a\nb\r\0c") == b"id: a b c\n"
    assert sse.block("a\nb", b'[1,\r\n "2"]') == b'event: a b\ndata: [1,   "2"]\n\n'


async def test_comments_while_nothing_is_said_9_2_7() -> None:
    io = realtime(ping_interval_s=0.01)
    async with serving(io) as raw, raw.http.get(url(raw, "a"), headers=SSE) as response:
        await response.content.readuntil(b"\n\n")
        assert await response.content.readexactly(6) == b":\n\n:\n\n"


# -- gaps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ("another:1", "the history has begun anew since that position"),
        ("nonsense", "the position is none of these rooms"),
        ("a:1,b:2", "the position is none of these rooms"),
    ],
)
async def test_a_position_that_is_not_known_is_a_gap_and_it_goes_on(after: str, why: str) -> None:
    io = realtime()
    async with serving(io) as raw:
        io.to("a").emit("n", 0)
        now = (await io.room("a").history.read()).position
        async with following(raw, "a", after=after) as reader:
            said = await reader.next()
            assert said is not None
            assert (said.name, said.data["reason"], said.data["position"]) == ("gap", why, now)
            assert said.id == now
            io.to("a").emit("n", 1)
            assert await reader.take(1) == [[1]]


async def test_what_is_no_longer_kept_is_a_gap_of_that_room_alone() -> None:
    io = realtime(history=History(count=2))
    async with serving(io) as raw:
        async with following(raw, "a", "b") as reader:
            last = reader.id
        for n in range(3):
            io.to("a").emit("n", n)
        io.to("b").emit("n", "b")
        async with following(raw, "a", "b", after=last) as reader:
            said = await reader.next()
            assert said is not None
            assert (said.name, said.data["room"]) == ("gap", "a")
            assert said.data["reason"] == "1 of the 3 messages after that position are no longer kept"
            assert await reader.take(1) == [["b"]]
            last = reader.id
        async with following(raw, "a", "b", after=last) as reader:
            io.to("b").emit("n", "end")
            assert await reader.take(1) == [["end"]]


async def test_what_the_broker_has_lost_is_a_gap(logged: Logged) -> None:
    hub = MemoryHub()
    here, there = (realtime(broker=MemoryBroker(hub), history=History(count=2)) for _ in range(2))
    async with serving(here) as raw, serving(there), following(raw, "a") as reader:
        await there.to("a").emit("n", 0)
        assert await reader.take(1) == [[0]]
        hub.cut(here.broker)  # type: ignore[arg-type]
        for n in range(1, 5):
            await there.to("a").emit("n", n)
        hub.mend(here.broker)  # type: ignore[arg-type]
        said = await reader.next()
        assert said is not None
        assert (said.name, said.data["room"]) == ("gap", "a")
        assert await reader.take(2) == [[3], [4]]
        logged.take("a gap, disconnected: 2 of channel")
        last = reader.id
        async with following(raw, "a", after=last) as again:
            await there.to("a").emit("n", 5)
            assert await again.take(1) == [[5]]


async def test_what_the_broker_can_repair_is_none() -> None:
    hub = MemoryHub()
    here, there = (realtime(broker=MemoryBroker(hub)) for _ in range(2))
    async with serving(here) as raw, serving(there), following(raw, "a") as reader:
        hub.cut(here.broker)  # type: ignore[arg-type]
        for n in range(4):
            await there.to("a").emit("n", n)
        hub.mend(here.broker)  # type: ignore[arg-type]
        assert await reader.take(4) == [[0], [1], [2], [3]]


async def test_while_the_other_nodes_cannot_be_reached(logged: Logged) -> None:
    hub = MemoryHub()
    io = realtime(broker=MemoryBroker(hub))
    async with serving(io) as raw, following(raw, "a") as reader:
        start = reader.id
        io.to("a").emit("n", 0)
        assert await reader.take(1) == [[0]]
        hub.cut(io.broker)  # type: ignore[arg-type]
        with pytest.raises(portico.BrokerError):
            await io.to("a", "b").emit("n", "refused")
        assert len(logged.records) == 3, "of the namespace's channel, and of each room's"
        logged.records.clear()
        async with raw.http.get(url(raw, "a", since="another:1")) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "5")
        async with raw.http.get(url(raw, "a"), headers=SSE | {"Last-Event-ID": "another:1"}) as response:
            assert response.status == 200, "an EventSource comes back after a success alone (9.2.3)"
            assert b"gap" not in await response.read()
        logged.take("a stream ends, as the history can't be read")
        hub.mend(io.broker)  # type: ignore[arg-type]
        io.to("a").emit("n", 1)
        assert await reader.take(1) == [[1]]
        async with following(raw, "a", after=start) as again:
            assert await again.take(2) == [[0], [1]]


# -- who may -----------------------------------------------------------------------------------------------------------


async def test_closed_unless_the_application_opens_it() -> None:
    io = portico.Realtime(history=History())
    async with serving(io) as raw:
        assert "@io.use_streams" in await refused(raw, url(raw, "a"))
        assert "@io.use_streams" in await refused(raw, url(raw, "a", since=""))
        assert io.counters.refused["Forbidden"] == 2


@pytest.mark.parametrize("waits", [True, False])
async def test_the_application_decides_about_each_room(waits: bool) -> None:
    io = portico.Realtime(history=History(), authenticate=lambda request: request.headers.get("x-user"))
    asked: list[Any] = []

    def plain(request: portico.Request, room: str, user: str | None) -> None:
        asked.append((request.query["room"], room, user))
        if room == "secret":
            raise portico.Refuse("not for you", 401, data={"room": room})

    async def coroutine(request: portico.Request, room: str, user: str | None) -> None:
        plain(request, room, user)

    io.use_streams(coroutine if waits else plain)

    @io.use_streams
    def second(request: portico.Request, room: str) -> bool:
        return room != "closed"

    async with serving(io) as raw:
        async with raw.http.get(url(raw, "a", "b"), headers=SSE | {"X-User": "ada"}) as response:
            assert response.status == 200
        assert asked == [("b", "a", "ada"), ("b", "b", "ada")]
        async with raw.http.get(url(raw, "a", "secret")) as response:
            assert response.status == 401
            assert (await response.json())["data"] == {"room": "secret"}
        assert await refused(raw, url(raw, "closed")) == "not authorized"


async def test_authenticate_decides_first() -> None:
    async def authenticate(request: portico.Request) -> str:
        raise portico.Refuse("who are you?", 401)

    io = realtime(authenticate=authenticate)
    async with serving(io) as raw:
        assert await refused(raw, url(raw, "a"), 401) == "who are you?"


async def test_an_identity_that_expires_ends_the_stream() -> None:
    users = [Identity("ada", expires_s=0.2), Identity("ada", expires_s=-1)]
    io = realtime(authenticate=lambda request: users.pop(0))
    async with serving(io) as raw:
        async with following(raw, "a") as reader:
            assert await reader.next() is None
        assert await refused(raw, url(raw, "a")) == "identity expired"


async def test_a_page_of_another_site_is_refused_and_one_that_is_named_may_read() -> None:
    io = realtime(origins=["https://app.example"])
    async with serving(io) as raw:
        message = await refused(raw, url(raw, "a"), headers={"Origin": "https://evil.example"})
        assert "https://evil.example" in message
        async with raw.http.get(url(raw, "a"), headers=SSE | {"Origin": "https://app.example"}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
            assert response.headers["Access-Control-Allow-Credentials"] == "true"


async def test_each_namespace_is_opened_by_itself() -> None:
    io = realtime()

    @io.matching(r"/game-\d+").use_streams
    async def players(request: object, room: str) -> None:
        if room != "moves":
            raise portico.Refuse("no")

    io.of("/admin")
    async with serving(io) as raw:
        assert "@io.use_streams" in await refused(raw, url(raw, "a", namespace="/admin"))
        assert "@io.use_streams" in await refused(raw, url(raw, "a", namespace="/nowhere"))
        assert await refused(raw, url(raw, "a", namespace="/game-1")) == "no"
        async with following(raw, "moves", namespace="/game-1") as reader:
            io.to("moves").emit("n", "not ours")
            io.of("/game-1").to("moves").emit("n", "ours")
            assert await reader.take(1) == [["ours"]]


async def test_a_room_without_a_history_is_not_followed() -> None:
    io = realtime(history=History(rooms=["a"]))
    async with serving(io) as raw:
        assert "keeps no history" in await refused(raw, url(raw, "a", "b"))


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("", "expected room=… once to 100 times, and 0 came"),
        ("?" + "&".join(f"room={n}" for n in range(101)), "and 101 came"),
        ("?" + "&".join(f"room={n}" for n in range(200)), "expected at most 100 rooms"),
        ("?room=", "expected names of rooms of 1 to 256 characters"),
        ("?room=" + "x" * 257, "expected names of rooms of 1 to 256 characters"),
        ("?room=a&wait=x", "wait='x': expected seconds, at most 60"),
        ("?room=a&wait=nan", "wait='nan': expected seconds"),
        ("?room=a&wait=-1", "wait='-1': expected seconds"),
        ("?room=a&limit=-1", "limit='-1': expected a number"),
        ("?room=a&last=²", "last='²': expected a number"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_told(query: str, why: str) -> None:
    async with serving(realtime()) as raw, raw.http.get(f"{raw.base}/socket.io/events{query}") as response:
        assert response.status == 400
        assert why in (await response.json())["hint"]


async def test_other_methods() -> None:
    async with serving(realtime()) as raw:
        async with raw.http.post(url(raw, "a")) as response:
            assert response.status == 405
        async with raw.http.head(url(raw, "a"), headers=SSE) as response:
            assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
        async with raw.http.options(url(raw, "a"), headers={"Access-Control-Request-Headers": "last-event-id"}) as got:
            assert (got.status, got.headers["Access-Control-Allow-Headers"]) == (204, "last-event-id")


async def test_http_1_0_gets_a_body_until_the_end() -> None:
    io = realtime()
    async with serving(io) as raw, await Peer.connect(raw.server) as peer:
        peer.send(get("/socket.io/events?room=a", version="1.0"))
        head = await peer.head()
        assert head.header("Transfer-Encoding") is None
        io.to("a").emit("n", 1)
        async with asyncio.timeout(10):
            assert (await peer.reader.readuntil(b"data: [1]\n\n")).startswith(b"retry: ")


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_who_leaves_is_forgotten() -> None:
    io = realtime()
    async with serving(io) as raw:
        for _ in range(20):
            async with following(raw, "a"), following(raw, "a", "b"):
                assert len(io.streams) >= 2
        await until(lambda: not len(io.streams))
        assert io.feeds is not None
        assert not [watcher for feed in io.feeds.followed for watcher in feed.watchers]
        assert not io.streams._groups
