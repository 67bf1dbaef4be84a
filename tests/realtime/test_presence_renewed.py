"""A client that is renewed as another person: that one comes and the old one goes, in every room, everywhere, once."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.realtime.raw import serving
from tests.realtime.test_presence import LONG_S, Crowd, Page
from tests.realtime.test_presence_nodes import LEASE_S, broker_of
from tests.support import Logged, until

import portico
from portico.brokers import Member
from portico.brokers.memory import MemoryBroker, MemoryHub
from portico.realtime import Identity, Presence

Seen = list[tuple[str, str, bool]]


def realtime(**options: Any) -> tuple[portico.Realtime, Seen]:
    """Clients are who they say, and then who they are renewed as; and what the application is told."""
    presence: dict[str, Any] = {"info": lambda client: f"is {client.user}"} | options.pop("presence", {})
    io = portico.Realtime(presence=Presence(**presence), **options)
    seen: Seen = []

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        client.renew(auth["name"])
        client.join(*auth.get("rooms", ["lobby"]))
        if "renewed" in auth:
            client.renew(auth["renewed"])

    @io.on("renew")
    async def renew(client: Any, name: str) -> None:
        client.renew(name, expires_s=3600)

    @io.on("renew in a thread")
    def renew_in_a_thread(client: Any, name: str) -> None:
        client.renew(Identity(name, expires_s=3600))

    @io.on_presence
    async def changed(room: Any, member: Member, joined: bool) -> None:
        seen.append((room.name, member.user, joined))

    return io, seen


async def renew(page: Page, name: str, how: str = "renew") -> None:
    """Have the server do so."""
    await page.socket.send(f'42["{how}","{name}"]')


def client_of(io: portico.Realtime, user: str) -> Any:
    (client,) = (client for client in io.clients.values() if client.user == user)
    return client


@pytest.mark.parametrize("how", ["renew", "renew in a thread"])
async def test_the_old_person_leaves_and_the_new_one_joins_in_all_of_its_rooms(how: str) -> None:
    io, seen = realtime(presence={"rooms": ["lobby", "cellar"], "leave_after_s": LONG_S})
    async with serving(io) as raw, Crowd(raw) as crowd:
        upstairs, downstairs = await crowd.join("up"), await crowd.join("down", rooms=["cellar"])
        ada = await crowd.join("ada", rooms=["lobby", "cellar", "another"])
        await crowd.sees(upstairs, "up", "ada")
        await crowd.sees(downstairs, "down", "ada")
        await until(lambda: len(seen) == 4 and len(ada.told) == 2)
        del seen[:], ada.told[:]
        await renew(ada, "bob", how)
        await crowd.sees(upstairs, "up", "bob")
        await crowd.sees(downstairs, "down", "bob")
        news = {
            "count": 2,
            "joined": [{"user": "bob", "info": "is bob"}],
            "left": [{"user": "ada", "info": "is ada"}],
        }
        assert upstairs.told[-1] == {"room": "lobby"} | news, "at once, whatever leave_after_s"
        assert downstairs.told[-1] == {"room": "cellar"} | news
        await until(lambda: len(ada.told) == 2 and len(seen) == 4)
        assert sorted(ada.told, key=str) == [{"room": "cellar"} | news, {"room": "lobby"} | news], "what changed, alone"
        for room in ("lobby", "cellar"):
            assert [told[1:] for told in seen if told[0] == room] == [("ada", False), ("bob", True)]
            assert (await io.room(room).presence.members())[1] == Member("bob", "is bob", 1)
        await ada.socket.send("41")
        await crowd.sees(upstairs, "up")
        await crowd.sees(downstairs, "down")


async def test_the_same_person_is_told_to_nobody_and_asked_for_nothing() -> None:
    asked: list[str] = []
    io, seen = realtime(presence={"info": lambda client: asked.append(client.user)})
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch, ada = await crowd.join("watch"), await crowd.join("ada")
        await crowd.sees(watch, "watch", "ada")
        for _ in range(3):
            await renew(ada, "ada")
        await ada.socket.send('421["renew","ada"]')
        client = client_of(io, "ada")
        await until(lambda: client.expires_at)
        client.expire(60)
        bob = await crowd.join("bob")
        await crowd.sees(watch, "watch", "ada", "bob")
        await crowd.sees(bob, "watch", "ada", "bob")
        assert [told.get("joined") for told in watch.told[2:]] == [[{"user": "bob", "info": None}]]
        assert asked == ["watch", "ada", "bob"]
        await until(lambda: len(seen) == 3)
        assert seen == [("lobby", "watch", True), ("lobby", "ada", True), ("lobby", "bob", True)]


async def test_who_has_another_connection_stays_and_who_is_there_already_does_not_come_again() -> None:
    io, seen = realtime()
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch = await crowd.join("watch")
        one, two = await crowd.join("ada"), await crowd.join("ada")
        await crowd.sees(two, "watch", "ada")
        await renew(one, "bob")
        await crowd.sees(watch, "watch", "ada", "bob")
        await renew(two, "bob")
        await crowd.sees(watch, "watch", "bob")
        assert (await io.room("lobby").presence.members())[1] == Member("bob", "is bob", 2)
        await until(lambda: len(seen) == 4)
        assert seen[1:] == [("lobby", "ada", True), ("lobby", "bob", True), ("lobby", "ada", False)]
        await one.socket.send("41")
        await renew(two, "eve")
        await crowd.sees(watch, "watch", "eve")


async def test_there_and_back_again_is_no_change() -> None:
    io, seen = realtime()
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch, ada = await crowd.join("watch"), await crowd.join("ada")
        await crowd.sees(watch, "watch", "ada")
        await until(lambda: len(seen) == 2)
        client, told = client_of(io, "ada"), len(watch.told)
        for name in ("bob", "eve", "ada"):
            client.renew(name)
        await renew(ada, "joe")
        await crowd.sees(watch, "watch", "joe")
        assert len(watch.told) == told + 1
        await until(lambda: len(seen) == 4)
        assert seen[2:] == [("lobby", "ada", False), ("lobby", "joe", True)]


async def test_who_is_renewed_before_it_is_let_in_is_only_ever_the_new_person() -> None:
    io, seen = realtime()
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch = await crowd.join("watch")
        await crowd.join("ada", renewed="bob")
        await crowd.sees(watch, "watch", "bob")
        await until(lambda: len(seen) == 2)
        assert seen == [("lobby", "watch", True), ("lobby", "bob", True)]


async def test_by_default_a_person_is_a_user_s_id_whatever_else_is_new_about_him() -> None:
    io, seen = realtime(presence={"info": None})
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch, page = await crowd.join("watch"), await crowd.join("7")
        await crowd.sees(watch, "watch", "7")
        client = client_of(io, "7")
        for user in (7, {"id": 7, "name": "Ada"}, {"id": "7", "name": "Ada L."}):
            client.renew(user)
        client.renew({"name": "nobody that could be told"})
        await crowd.sees(watch, "watch", client.id)  # a connection of its own, then
        await until(lambda: len(seen) == 4)
        assert seen[2:] == [("lobby", "7", False), ("lobby", client.id, True)]
        await page.socket.send("41")
        await crowd.sees(watch, "watch")


async def test_one_may_become_a_looker_on_and_a_person_again() -> None:
    io, _ = realtime(presence={"identify": lambda client: None if client.user == "guest" else client.user})
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch, page = await crowd.join("watch"), await crowd.join("guest")
        await crowd.sees(page, "watch")
        for user, there in (("ada", ["ada"]), ("guest", []), ("bob", ["bob"])):
            await renew(page, user)
            await crowd.sees(watch, "watch", *there)
            await crowd.sees(page, "watch", *there)
        await page.socket.send('42["renew","guest"]', "41")
        await crowd.sees(watch, "watch")


@pytest.mark.parametrize("what", ["identify", "info"])
async def test_who_can_not_be_told_any_more_is_not_shown_as_who_it_was(what: str, logged: Logged) -> None:
    def fail(client: Any) -> str:
        if client.user == "mallory":
            raise RuntimeError("oh")
        return str(client.user)

    io, _ = realtime(presence={what: fail})
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch, page = await crowd.join("watch"), await crowd.join("ada")
        await crowd.sees(watch, "watch", "ada")
        await renew(page, "mallory")
        await crowd.sees(watch, "watch")
        logged.take("could not be made present in 'lobby'")
        await renew(page, "ada")
        await crowd.sees(watch, "watch", "ada")


async def test_who_breaks_off_afterwards_is_awaited_as_the_new_person() -> None:
    io, seen = realtime(presence={"leave_after_s": LONG_S})
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch, page = await crowd.join("watch"), await crowd.join("ada")
        other = await crowd.join("bob")
        await crowd.close(other)
        await until(lambda: len(io.clients) == 2)
        await renew(page, "bob")  # who was awaited, and is there now
        await crowd.sees(watch, "watch", "bob")
        assert (await io.room("lobby").presence.members())[1].connections == 1
        await crowd.close(page)
        await until(lambda: len(io.clients) == 1)
        again = await crowd.join("bob")
        await crowd.sees(again, "watch", "bob")
        await again.socket.send("41")
        await crowd.sees(watch, "watch")
        await until(lambda: len(seen) == 5)
        assert seen[-1] == ("lobby", "bob", False)


async def test_on_every_node_and_only_with_the_last_connection_of_any() -> None:
    hub = MemoryHub()
    here, _ = realtime(broker=MemoryBroker(hub))
    there, _ = realtime(broker=MemoryBroker(hub))
    yonder, seen = realtime(broker=MemoryBroker(hub))
    async with (
        serving(here) as a,
        serving(there) as b,
        serving(yonder) as c,
        Crowd(a) as ours,
        Crowd(b) as theirs,
        Crowd(c) as others,
    ):
        watch = await others.join("watch")
        one, two = await ours.join("ada"), await theirs.join("ada")
        await others.sees(watch, "watch", "ada")
        await renew(one, "bob")
        await others.sees(watch, "watch", "ada", "bob")
        await theirs.sees(two, "watch", "ada", "bob")
        await renew(two, "bob")
        for crowd, page in ((ours, one), (theirs, two), (others, watch)):
            await crowd.sees(page, "watch", "bob")
        assert (await yonder.room("lobby").presence.members())[1] == Member("bob", "is bob", 2)
        await until(lambda: len(seen) == 4)
        assert [told[1:] for told in seen] == [("watch", True), ("ada", True), ("bob", True), ("ada", False)]


async def test_while_its_node_is_cut_off_it_is_told_later() -> None:
    hub = MemoryHub(lease_s=600)
    here, mine = realtime(broker=MemoryBroker(hub))
    there, seen = realtime(broker=MemoryBroker(hub))
    async with serving(here) as a, serving(there) as b, Crowd(a) as ours, Crowd(b) as theirs:
        ada, watch = await ours.join("ada"), await theirs.join("watch")
        await ours.sees(ada, "ada", "watch")
        await until(lambda: len(mine) == 2 and len(seen) == 1)
        hub.cut(broker_of(a))
        await renew(ada, "bob")
        await renew(ada, "eve")
        await until(lambda: [client.user for client in here.clients.values()] == ["eve"])
        hub.mend(broker_of(a))
        for crowd, page in ((ours, ada), (theirs, watch)):
            await crowd.sees(page, "watch", "eve")
        await until(lambda: len(mine) == 4 and len(seen) == 3)
        for told in (mine[2:], seen[1:]):
            assert sorted(told) == [("lobby", "ada", False), ("lobby", "eve", True)]


async def test_in_the_end_every_page_sees_the_same_whoever_was_renewed_cut_off_or_gone() -> None:
    """What each page was told adds up, and no node holds anybody who is not there."""
    chance = random.Random(8)
    hub = MemoryHub(lease_s=LEASE_S / 8)
    nodes = [realtime(broker=MemoryBroker(hub), presence={"leave_after_s": 0.1})[0] for _ in range(2)]
    async with serving(nodes[0]) as a, serving(nodes[1]) as b, Crowd(a) as ours, Crowd(b) as theirs:
        pages = [(crowd, await crowd.join(f"user {n}")) for n in range(6) for crowd in (ours, theirs)]
        for _ in range(150):
            what, (crowd, page) = chance.random(), chance.choice(pages)
            if what < 0.7:
                await renew(page, f"user {chance.randrange(8)}")
            elif what < 0.8:
                pages.remove((crowd, page))
                await crowd.close(page)
                pages.append((crowd, await crowd.join(f"user {chance.randrange(8)}")))
            else:
                (hub.cut if what < 0.9 else hub.mend)(broker_of(crowd.raw))
        for raw in (a, b):
            hub.mend(broker_of(raw))
        for _, page in pages:
            await renew(page, "the end")
        await until(lambda: {client.user for io in nodes for client in io.clients.values()} == {"the end"})
        for number, (_, page) in enumerate(pages):
            await renew(page, f"user {number % 5}")
        for crowd, page in pages:
            await crowd.sees(page, *(f"user {n}" for n in range(5)))
        members = await nodes[0].room("lobby").presence.members()
        assert sum(member.connections for member in members) == len(pages)
