"""What somebody may ask for who is not known yet: the names that he may give, what he may cause, what he learns."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from tests.realtime.followers import poll, realtime, refused, url
from tests.realtime.raw import serving
from tests.support import until

import portico
from portico.brokers.memory import MemoryBroker
from portico.realtime import Rate


async def test_a_namespace_has_no_nul_in_its_name_whatever_the_pattern_is() -> None:
    """A room's channel is named by the namespace, a NUL and the room: a namespace that is named like it would take
    it away from the room."""
    io = portico.Realtime()
    io.matching(r"/game-.+").on("x", lambda client: None)
    async with serving(io) as raw, raw.socket() as socket, raw.socket() as stranger:
        await socket.opened()
        await socket.send("40/game-1,")
        await socket.next()
        game = io.of("/game-1")
        [client] = game.clients.values()
        client.join("a")
        await stranger.opened()
        await stranger.send("40/game-1\0a,")
        assert await stranger.next() == '44/game-1\0a,{"message":"Invalid namespace"}'
        assert game.to("a").emit("n").delivered == 1
    with pytest.raises(portico.LocalError, match="expected a name"):
        io.of("/game\0")


@pytest.mark.parametrize("name", ["presence\0/", "game", "/a\0b", "\0node:x"])
async def test_also_not_for_those_who_follow_rooms(name: str) -> None:
    io = realtime()

    @io.matching(r"(?s).*").use_streams
    def anyone(request: object, room: str) -> None:
        pass

    async with serving(io) as raw:
        assert "@io.use_streams" in await refused(raw, url(raw, "a", namespace=name.replace("\0", "%00")))
        assert (await poll(raw, "a", namespace="/a"))["events"] == []


async def test_where_streams_are_closed_nobody_is_asked_who_it_is() -> None:
    """That may cost a query to a database, and would be a way to try passwords."""
    io = portico.Realtime(authenticate=lambda request: pytest.fail("asked"))
    async with serving(io) as raw:
        for query in ({}, {"since": ""}, {"ticket": "x"}):
            assert "@io.use_streams" in await refused(raw, url(raw, "a", **query))
        assert not io.counters.refused["ticket"]


@pytest.mark.parametrize("ticket", [True, False])
async def test_who_follows_a_room_tries_no_more_passwords_and_tickets_than_who_connects(ticket: bool) -> None:
    asked = itertools.count()

    def authenticate(request: portico.Request) -> None:
        next(asked)
        if request.headers.get("authorization") != "right":
            raise portico.Refuse("who are you?", 401)

    io = realtime(authenticate=authenticate, connect_rate=Rate(1, 3600, burst=3))
    query = {"since": ""} | ({"ticket": "wrong"} if ticket else {})
    async with serving(io) as raw:
        for _ in range(10):  # what succeeds does not count
            async with raw.http.get(url(raw, "a", since=""), headers={"Authorization": "right"}) as response:
                assert response.status == 200
        for _ in range(3):
            await refused(raw, url(raw, "a", **query), 403 if ticket else 401)
        assert "too many attempts" in await refused(raw, url(raw, "a", **query), 429)
        assert "too many attempts" in await refused(raw, url(raw, "a"), 429, headers={"Authorization": "right"})
        assert io.counters.refused["ticket"] == (3 if ticket else 0)
        assert next(asked) == (10 if ticket else 13)
        assert (await raw.request())[0] == 429, "sessions count the same"


async def test_what_a_broker_says_of_itself_is_not_told() -> None:
    class Failing(MemoryBroker):
        async def history(self, *_: Any, **__: Any) -> Any:
            raise portico.BrokerError("no answer from redis://10.0.0.5")

    io = realtime(broker=Failing())
    async with serving(io) as raw:
        async with raw.http.get(url(raw, "a", since="other:1")) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "5")
            assert (await response.json())["hint"] == "the history can't be read now"
        await until(lambda: not len(io.streams))
