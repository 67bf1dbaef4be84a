"""Presence on several nodes: the same people everywhere, through deaths, cuts and overflows of nodes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.realtime.raw import Raw, serving
from tests.realtime.test_presence import Crowd, Page, realtime
from tests.support import GUARD_S, until

import portico
from portico.brokers import BrokerError, Gap, Member
from portico.brokers.memory import MemoryBroker, MemoryHub

LEASE_S = 0.4


@contextlib.asynccontextmanager
async def nodes(count: int, hub: MemoryHub | None = None, **presence: Any) -> AsyncIterator[list[tuple[Raw, Crowd]]]:
    """So many servers of one hub, each with a crowd."""
    hub = hub or MemoryHub(lease_s=LEASE_S)
    async with contextlib.AsyncExitStack() as stack:
        served = []
        for _ in range(count):
            raw = await stack.enter_async_context(serving(realtime(broker=MemoryBroker(hub), presence=presence)))
            served.append((raw, await stack.enter_async_context(Crowd(raw))))
        yield served


def broker_of(raw: Raw) -> MemoryBroker:
    assert isinstance(raw.io.broker, MemoryBroker)
    return raw.io.broker


async def test_people_on_other_nodes_are_there_and_come_and_go() -> None:
    async with nodes(2) as [(here, ours), (there, theirs)]:
        ada = await ours.join("ada")
        bob = await theirs.join("bob")
        await theirs.sees(bob, "ada", "bob")  # who was there before its node knew the room
        await ours.sees(ada, "ada", "bob")
        for raw in (here, there):
            assert {member.user for member in await raw.io.room("lobby").presence.members()} == {"ada", "bob"}
            assert await raw.io.room("lobby").presence.count() == 2
        await bob.socket.send("41")
        await ours.sees(ada, "ada")


async def test_a_node_without_clients_in_the_room_can_ask() -> None:
    async with nodes(2) as [(_, ours), (there, _)]:
        ada = await ours.join("ada")
        await ours.sees(ada, "ada")
        assert await there.io.room("lobby").presence.members() == (Member("ada", "ada", 1),)


async def test_who_moves_to_another_node_does_not_leave() -> None:
    async with nodes(3, leave_after_s=1.0) as [(_, ours), (_, theirs), (_, others)]:
        watch = await others.join("watch")
        first = await ours.join("ada")
        await others.sees(watch, "watch", "ada")
        await ours.close(first)
        again = await theirs.join("ada")
        await theirs.sees(again, "watch", "ada")
        presence = theirs.raw.io.room("lobby").presence
        async with asyncio.timeout(GUARD_S):
            while (await presence.members())[1].connections != 1:  # the node that it left has let it go
                await asyncio.sleep(0.01)
        assert [told.get("left") for told in watch.told] == [None, []]


async def test_one_person_on_two_nodes_joins_once_and_leaves_once() -> None:
    async with nodes(3) as [(_, ours), (_, theirs), (others_raw, others)]:
        seen = []
        others_raw.io.on_presence(lambda room, member, joined: seen.append((member.user, joined)))
        watch = await others.join("watch")
        one, two = await ours.join("ada"), await theirs.join("ada")
        await others.sees(watch, "watch", "ada")
        await one.socket.send("41")
        await until(lambda: not ours.raw.io.clients)
        assert await others_raw.io.room("lobby").presence.count() == 2
        await two.socket.send("41")
        await others.sees(watch, "watch")
        await until(lambda: len(seen) == 3)
        assert seen == [("watch", True), ("ada", True), ("ada", False)]


async def test_the_application_is_told_of_changes_and_not_of_who_was_there_before() -> None:
    async with nodes(2) as [(_, ours), (there, theirs)]:
        seen = []
        there.io.on_presence(lambda room, member, joined: seen.append((member.user, joined)))
        ada = await ours.join("ada")
        await ours.sees(ada, "ada")
        bob = await theirs.join("bob")
        await theirs.sees(bob, "ada", "bob")
        await until(lambda: seen)
        assert seen == [("bob", True)]


async def test_the_people_of_a_node_that_dies_leave_when_its_lease_is_over() -> None:
    hub = MemoryHub(lease_s=LEASE_S)
    async with nodes(3, hub) as [(dead, lost), (_, ours), (_, theirs)]:
        pages = [await ours.join("ada"), await theirs.join("bob")]
        for n in range(20):
            await lost.join(f"user {n}")
        for crowd, page in zip((ours, theirs), pages, strict=True):
            await crowd.sees(page, "ada", "bob", *(f"user {n}" for n in range(20)))
        told = [len(page.told) for page in pages]
        hub.cut(broker_of(dead))
        for crowd, page, before in zip((ours, theirs), pages, told, strict=True):
            await crowd.sees(page, "ada", "bob")
            assert len(page.told) == before + 1, "all of them at once"
        hub.mend(broker_of(dead))  # it was not dead after all
        for crowd, page in zip((ours, theirs), pages, strict=True):
            await crowd.sees(page, "ada", "bob", *(f"user {n}" for n in range(20)))


@pytest.mark.parametrize("long", [False, True], ids=["within the lease", "held for dead"])
async def test_a_node_that_was_cut_off_tells_what_it_has_missed(long: bool) -> None:
    hub = MemoryHub(lease_s=LEASE_S if long else 600.0)
    async with nodes(2, hub) as [(here, ours), (there, theirs)]:
        seen = []
        here.io.on_presence(lambda room, member, joined: seen.append((member.user, joined)))
        ada, bob, eve = await ours.join("ada"), await theirs.join("bob"), await theirs.join("eve")
        await ours.sees(ada, "ada", "bob", "eve")
        await until(lambda: len(seen) == 3)
        del seen[:]
        hub.cut(broker_of(here))
        if long:
            await theirs.sees(eve, "bob", "eve")
        with pytest.raises(BrokerError):
            await here.io.room("lobby").presence.count()
        await bob.socket.send("41")
        joe, kim = await theirs.join("joe"), await ours.join("kim")
        await until(lambda: len(there.io.clients) == 2)
        hub.mend(broker_of(here))
        for crowd, page in ((ours, ada), (ours, kim), (theirs, eve), (theirs, joe)):
            await crowd.sees(page, "ada", "eve", "joe", "kim")
        await until(lambda: len(seen) == 3)
        assert sorted(seen) == [("bob", False), ("joe", True), ("kim", True)]


async def test_a_room_that_becomes_known_while_its_node_is_cut_off_is_told_later() -> None:
    hub = MemoryHub(lease_s=600)
    async with nodes(2, hub) as [(here, ours), (_, theirs)]:
        bob = await theirs.join("bob")
        await theirs.sees(bob, "bob")
        ada = await ours.join("ada", rooms=[])
        hub.cut(broker_of(here))
        await ada.socket.send('42["join","lobby"]')
        await until(lambda: "lobby" in here.io.rooms)
        assert ada.told == []
        hub.mend(broker_of(here))
        await ours.sees(ada, "ada", "bob")
        await theirs.sees(bob, "ada", "bob")


async def test_a_gap_of_any_kind_makes_the_node_read_who_is_there() -> None:
    """A broker that has lost changes and can't say which: ``on_gap`` with no channel."""
    async with nodes(1) as [(raw, ours)]:
        ada = await ours.join("ada")
        await ours.sees(ada, "ada")
        roster = broker_of(raw).hub.roster
        roster.join("presence\0/\0lobby", "ghost", "another node", "1", "ghost")  # untold
        for channel in ("presence\0/\0another", "presence\0/\0lobby"):
            broker_of(raw)._gap(Gap(channel, "lost", 1))
        await ours.sees(ada, "ada", "ghost")
        roster.drop("another node")
        broker_of(raw)._gap(Gap(None, "disconnected"))
        await ours.sees(ada, "ada")


async def test_a_node_that_is_flooded_loses_changes_and_still_knows_who_is_there() -> None:
    hub = MemoryHub(max_queue_bytes=1000)
    async with nodes(2, hub, leave_after_s=0) as [(_, ours), (there, theirs)]:
        ada = await ours.join("ada")
        for n in range(30):
            await theirs.join(f"user {n}", rooms=["cellar"])
        there.io.to("cellar").join("lobby")
        await ours.sees(ada, "ada", *(f"user {n}" for n in range(30)))
        for _ in range(30):
            there.io.to("cellar").leave("lobby")
            there.io.to("cellar").join("lobby")
        there.io.to("cellar").leave("lobby")
        await ours.sees(ada, "ada")


async def test_every_page_ends_up_with_the_truth_whatever_happens_to_nodes() -> None:
    """Joins, leaves, broken connections and cuts in any order; then everyone sees the same: what was told adds up."""
    chance = random.Random(7)
    hub = MemoryHub(lease_s=0.05)
    async with nodes(3, hub, leave_after_s=0.1) as served, asyncio.timeout(4 * GUARD_S):
        watching = [(crowd, await crowd.join(f"watch {n}")) for n, (_, crowd) in enumerate(served)]
        pages: list[tuple[Crowd, Page]] = []
        for turn in range(120):
            raw, crowd = chance.choice(served)
            what = chance.random()
            if what < 0.35:
                pages.append((crowd, await crowd.join(f"user {turn % 9}")))
            elif what < 0.8 and pages:
                crowd, page = pages.pop(chance.randrange(len(pages)))
                if what < 0.6:
                    await page.socket.send("41")
                await crowd.close(page)
            elif what < 0.9:
                hub.cut(broker_of(raw))
            else:
                hub.mend(broker_of(raw))
        for raw, _ in served:
            hub.mend(broker_of(raw))
        await until(lambda: sum(len(raw.io.clients) for raw, _ in served) == len(pages) + 3)
        names = {client.data["name"] for raw, _ in served for client in raw.io.clients.values()}
        for crowd, page in watching + pages:
            await crowd.sees(page, *names)
        for raw, _ in served:
            assert {member.user for member in await raw.io.room("lobby").presence.members()} == names


async def test_a_server_that_stops_is_no_gap_for_the_others() -> None:
    hub = MemoryHub()
    async with nodes(1, hub) as [(_, ours)]:
        ada = await ours.join("ada")
        io = realtime(broker=MemoryBroker(hub))
        async with serving(io) as raw, Crowd(raw) as theirs:
            await theirs.join("bob")
            await ours.sees(ada, "ada", "bob")
        await ours.sees(ada, "ada")
        assert isinstance(io, portico.Realtime)
