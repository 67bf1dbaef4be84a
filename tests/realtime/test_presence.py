"""Who is in a room: people and not connections, told whole and then by what changes, in one order."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from tests.realtime.raw import Raw, Socket, serving
from tests.support import GUARD_S, Logged, until

import portico
from portico.brokers import Member
from portico.realtime import Presence, Recovery

BACK_S = 0.3  # of tests in which somebody is to leave soon
LONG_S = 60.0  # of those in which nobody may


def realtime(namespace: str = "/", **options: Any) -> portico.Realtime:
    """Clients are who they say, see that name in capitals, and join the rooms that they name."""
    presence: dict[str, Any] = {
        "identify": lambda client: client.data["name"],
        "info": lambda client: client.data["name"],
    }
    presence |= options.pop("presence", {})
    io = portico.Realtime(presence=Presence(**presence), **options)

    @io.of(namespace).on("connect")
    async def connect(client: Any, auth: Any) -> None:
        client.data["name"] = auth.get("name")
        client.join(*auth.get("rooms", ["lobby"]))
        if auth.get("refused"):
            raise portico.Refuse("no")

    @io.of(namespace).on("leave")
    def leave(client: Any, room: str) -> None:
        client.leave(room)

    @io.of(namespace).on("join")
    def join(client: Any, room: str) -> None:
        client.join(room)

    return io


class Page:
    """What a page does with the event: a list of people, first set and then changed. In five lines, as in the docs."""

    def __init__(self, socket: Socket, namespace: str = "") -> None:
        self.socket = socket
        self.namespace = namespace
        self.people: dict[str, Any] = {}
        self.count = 0
        self.told: list[dict[str, Any]] = []
        self.task = asyncio.create_task(self.listen())

    async def listen(self) -> None:
        while isinstance(message := await self.socket.next(), str):
            if message.startswith(f'42{self.namespace}["presence"'):
                told = json.loads(message[2 + len(self.namespace) :])[1]
                self.told.append(told)
                self.count = told["count"]
                if "members" in told:
                    self.people = {member["user"]: member["info"] for member in told["members"]}
                for member in told.get("joined", ()):
                    assert member["user"] not in self.people, "told twice"
                    self.people[member["user"]] = member["info"]
                for member in told.get("left", ()):
                    del self.people[member["user"]]


class Crowd:
    """Clients on WebSockets of one server, each with the page that it feeds."""

    def __init__(self, raw: Raw, namespace: str = "") -> None:
        self.raw = raw
        self.namespace = namespace
        self.open: list[Any] = []

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, *_: object) -> None:
        for page in self.open:
            await self.close(page)

    async def join(self, name: str | None, **auth: Any) -> Page:
        manager = self.raw.socket()
        socket = await manager.__aenter__()
        await socket.opened()
        await socket.connect(self.namespace, json.dumps({"name": name} | auth))
        page: Any = Page(socket, self.namespace)
        page.manager = manager
        self.open.append(page)
        return page  # type: ignore[no-any-return]

    async def close(self, page: Any) -> None:
        """The connection breaks."""
        page.task.cancel()
        await page.manager.__aexit__(None, None, None)

    async def sees(self, page: Page, *names: str) -> None:
        await until(lambda: set(page.people) == set(names))
        assert page.count == len(names)


async def test_a_page_is_told_of_all_first_and_then_of_what_changes() -> None:
    io = realtime()
    async with serving(io) as raw, Crowd(raw) as crowd:
        ada = await crowd.join("ada")
        await crowd.sees(ada, "ada")
        bob = await crowd.join("bob")
        await crowd.sees(bob, "ada", "bob")
        await crowd.sees(ada, "ada", "bob")
        assert ada.told == [
            {"room": "lobby", "count": 1, "members": [{"user": "ada", "info": "ada"}]},
            {"room": "lobby", "count": 2, "joined": [{"user": "bob", "info": "bob"}], "left": []},
        ]
        lobby = io.room("lobby").presence
        assert await lobby.members() == (Member("ada", "ada", 1), Member("bob", "bob", 1))
        assert await lobby.count() == 2
        await bob.socket.send('42["leave","lobby"]')  # at once: who leaves is not waited for
        await crowd.sees(ada, "ada")
        assert await lobby.count() == 1
        assert ada.told[-1] == {"room": "lobby", "count": 1, "joined": [], "left": [{"user": "bob", "info": "bob"}]}
        assert len(bob.told) == 1, "who is not in the room is told nothing of it"


async def test_several_connections_of_a_user_are_one_person() -> None:
    io = realtime()
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch = await crowd.join("watch")
        pages = [await crowd.join("ada") for _ in range(3)]
        for page in pages:
            await crowd.sees(page, "watch", "ada")
        assert await io.room("lobby").presence.members() == (Member("watch", "watch", 1), Member("ada", "ada", 3))
        for page in pages[:2]:
            await page.socket.send("41")
        await until(lambda: len(io.clients) == 2)
        assert await io.room("lobby").presence.count() == 2
        await pages[2].socket.send("41")
        await crowd.sees(watch, "watch")
        assert [sorted(told) for told in watch.told] == [["count", "members", "room"]] + 2 * [
            ["count", "joined", "left", "room"]
        ], "one event for the first of the three, one for the last"


async def test_who_reloads_the_page_does_not_leave() -> None:
    io = realtime(presence={"leave_after_s": LONG_S})
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch = await crowd.join("watch")
        first = await crowd.join("ada")
        await crowd.sees(watch, "watch", "ada")
        await crowd.close(first)
        await until(lambda: len(io.clients) == 1)
        assert await io.room("lobby").presence.count() == 2
        again = await crowd.join("ada")
        await crowd.sees(again, "watch", "ada")
        assert (await io.room("lobby").presence.members())[1] == Member("ada", "ada", 1), "the old one does not count"
        assert len(watch.told) == 2
        await again.socket.send("41")  # and now it does
        await crowd.sees(watch, "watch")


async def test_who_does_not_come_back_leaves_after_a_while() -> None:
    io = realtime(presence={"leave_after_s": BACK_S})
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch, ada = await crowd.join("watch"), await crowd.join("ada")
        await crowd.sees(watch, "watch", "ada")
        await crowd.close(ada)
        await crowd.sees(watch, "watch")
        assert await io.room("lobby").presence.count() == 1


async def test_who_is_recovered_never_left_and_is_told_all_anew() -> None:
    io = realtime(presence={"leave_after_s": LONG_S}, recovery=Recovery())
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch = await crowd.join("watch")
        async with raw.socket() as socket:
            await socket.opened()
            await socket.send('40{"name":"ada"}')
            answer = await socket.next()
            assert isinstance(answer, str)
            first = json.loads(answer[2:])
        await crowd.sees(watch, "watch", "ada")
        await until(lambda: first["sid"] not in io.clients)
        bob = await crowd.join("bob")
        await crowd.sees(bob, "watch", "ada", "bob")
        async with raw.socket() as socket:
            await socket.opened()
            await socket.send(f"40{json.dumps({'name': 'ada', 'pid': first['pid']})}")
            answer = await socket.next()
            assert isinstance(answer, str)
            assert json.loads(answer[2:]) == first
            page = Page(socket)
            await crowd.sees(page, "watch", "ada", "bob")
            page.task.cancel()
        assert [told.get("joined", ()) for told in watch.told][1:] == [
            [{"user": "ada", "info": "ada"}],
            [{"user": "bob", "info": "bob"}],
        ]


async def test_who_is_refused_is_never_seen() -> None:
    io = realtime()
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch = await crowd.join("watch")
        async with raw.socket() as socket:
            await socket.opened()
            await socket.send('40{"name":"mallory","refused":true}')
            await socket.expect('44{"message":"no"}')
        bob = await crowd.join("bob")
        await crowd.sees(watch, "watch", "bob")
        assert [told.get("joined") for told in watch.told] == [None, [{"user": "bob", "info": "bob"}]]
        await crowd.sees(bob, "watch", "bob")


async def test_who_only_looks_on_is_told_and_not_counted() -> None:
    io = realtime()
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch = await crowd.join(None)
        await until(lambda: watch.told)
        await crowd.join("ada")
        await crowd.sees(watch, "ada")
        assert watch.told[0] == {"room": "lobby", "count": 0, "members": []}


async def test_only_the_rooms_that_are_named_have_presence() -> None:
    io = realtime(presence={"rooms": ["lobby", re.compile(r"game-\d+")]})
    async with serving(io) as raw, Crowd(raw) as crowd:
        page = await crowd.join("ada", rooms=["lobby", "game-1", "game-x", "xlobby"])
        await until(lambda: len(page.told) == 2)
        assert {told["room"] for told in page.told} == {"lobby", "game-1"}
        assert await io.room("game-1").presence.count() == 1
        assert await io.room("game-2").presence.count() == 0
        with pytest.raises(portico.LocalError, match="'game-x' is none of those that Presence"):
            await io.room("game-x").presence.count()


@pytest.mark.parametrize("name", ["/admin", "/room-7"])
async def test_each_namespace_has_its_own(name: str) -> None:
    io = realtime()
    seen = []

    async def connect(client: Any, auth: Any) -> None:
        client.data["name"] = auth["name"]
        client.join("lobby")

    functions = io.of(name) if name == "/admin" else io.matching(r"/room-\d")
    functions.on("connect", connect)

    @functions.on_presence
    async def changed(room: Any, member: Member, joined: bool) -> None:
        seen.append((room.namespace.name, room.name, member.user, joined, await room.presence.count()))

    async with serving(io) as raw, Crowd(raw) as crowd, Crowd(raw, f"{name},") as others:
        ada, eve = await crowd.join("ada"), await others.join("eve")
        await crowd.sees(ada, "ada")
        await others.sees(eve, "eve")
        assert await io.room("lobby").presence.count() == 1
        assert seen == [(name, "lobby", "eve", True, 1)]
        await eve.socket.send(f"41{name},")
        await until(lambda: len(seen) == 2)
        assert seen[1] == (name, "lobby", "eve", False, 0)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("ada", "ada"),
        (7, "7"),
        ({"id": "ada"}, "ada"),
        (type("User", (), {"id": 7})(), "7"),
        (None, None),
        ({"name": "ada"}, None),
        ("", None),
    ],
)
async def test_a_person_is_by_default_who_authenticate_says(user: Any, expected: str | None) -> None:
    io = portico.Realtime(presence=Presence(), authenticate=lambda request: user)
    io.on("connect", lambda client, auth: client.join("lobby"))
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        sid = await socket.connect()
        await socket.next()
        assert await io.room("lobby").presence.members() == (Member(expected or sid, None, 1),)


async def test_the_application_is_told_one_after_another_and_survives_its_own_errors(logged: Logged) -> None:
    io = realtime()
    seen: list[tuple[str, bool]] = []
    there, go = asyncio.Event(), asyncio.Event()

    @io.on_presence
    async def changed(room: Any, member: Member, joined: bool) -> None:
        seen.append((member.user, joined))
        if member.user == "ada" and joined:
            there.set()
            await go.wait()
            raise RuntimeError("oh")

    async with serving(io) as raw, Crowd(raw) as crowd:
        ada = await crowd.join("ada")
        await there.wait()
        bob, eve = await crowd.join("bob"), await crowd.join("eve")
        await eve.socket.send("41")  # gone before the application has heard of her: nothing to tell
        await crowd.sees(bob, "ada", "bob")
        await ada.socket.send('42["leave","lobby"]')
        await crowd.sees(bob, "bob")
        assert seen == [("ada", True)]
        go.set()
        await until(lambda: len(seen) == 3)
        assert seen == [("ada", True), ("bob", True), ("ada", False)]
        logged.take("the function for presence in / failed")


@pytest.mark.parametrize("what", ["identify", "info", "a name of another kind", "info that is no data"])
async def test_who_can_not_be_told_apart_is_not_shown_and_the_others_are(what: str, logged: Logged) -> None:
    def fail(client: Any) -> Any:
        name = client.data["name"]
        if name != "mallory":
            return name
        if what == "a name of another kind":
            return ["x"]
        if what == "info that is no data":
            return object()
        raise RuntimeError("oh")

    io = realtime(presence={"info" if "info" in what else "identify": fail})
    async with serving(io) as raw, Crowd(raw) as crowd:
        mallory = await crowd.join("mallory")
        await crowd.join("bob")
        await crowd.sees(mallory, "bob")
        logged.take("could not be made present in 'lobby'")


async def test_changes_at_once_are_told_in_one_event() -> None:
    io = realtime(presence={"rooms": ["lobby"]})
    async with serving(io) as raw, Crowd(raw) as crowd:
        watch = await crowd.join("watch", rooms=["lobby", "cellar"])
        await asyncio.gather(*(crowd.join(f"user {n}", rooms=["cellar"]) for n in range(30)))
        watch.told.clear()
        io.to("cellar").except_("lobby").join("lobby")
        await crowd.sees(watch, "watch", *(f"user {n}" for n in range(30)))
        assert len(watch.told) == 1
        io.to("cellar").except_(*(client.id for client in io.clients.values() if client.data["name"] == "watch")).leave(
            "lobby"
        )
        await crowd.sees(watch, "watch")
        assert len(watch.told) == 2


async def test_a_crowd_is_told_in_numbers_alone() -> None:
    io = realtime(presence={"max_listed": 4})
    async with serving(io) as raw, Crowd(raw) as crowd:
        pages = [await crowd.join(f"user {n}") for n in range(4)]
        await crowd.sees(pages[0], *(f"user {n}" for n in range(4)))
        last = await crowd.join("user 4")
        await until(lambda: pages[0].count == 5 and last.told)
        assert pages[0].told[-1] == last.told[-1] == {"room": "lobby", "count": 5}
        assert await io.room("lobby").presence.count() == 5
        await last.socket.send("41")
        await pages[3].socket.send("41")
        await crowd.sees(pages[0], "user 0", "user 1", "user 2")  # all of it again
        assert "members" in pages[0].told[-1]


async def test_who_is_behind_gets_all_of_it_later_in_place_of_each_change() -> None:
    io = realtime(presence={"leave_after_s": LONG_S}, max_outbox_bytes=50_000_000)
    async with serving(io, deflate=None) as raw, Crowd(raw) as crowd:
        ada = await crowd.join("ada")
        await crowd.sees(ada, "ada")
        client = next(iter(io.clients.values()))
        transport: Any = ada.socket.connection._response.connection.transport  # type: ignore[union-attr]
        transport.pause_reading()
        await until(lambda: client.emit("fill", "x" * 60_000).delivered and client.waiting_bytes > 100_000)
        told = len(ada.told)
        bob = await crowd.join("bob")
        for n in range(5):
            await crowd.join(f"user {n}")
        await bob.socket.send("41")
        await until(lambda: len(io.clients) == 6)
        transport.resume_reading()
        await crowd.sees(ada, "ada", *(f"user {n}" for n in range(5)))
        assert [sorted(each) for each in ada.told[told:]] == [["count", "members", "room"]]


async def test_between_two_polls_as_well() -> None:
    io = realtime()
    async with serving(io) as raw, Crowd(raw) as crowd:
        sid = await raw.poll_session()
        await raw.post(sid, '40{"name":"ada"}')
        packets = (await raw.get(sid)).split("\x1e")
        while len(packets) < 2:
            packets += (await raw.get(sid)).split("\x1e")
        assert json.loads(packets[1][2:])[1]["members"] == [{"user": "ada", "info": "ada"}]
        bob = await crowd.join("bob")
        await crowd.sees(bob, "ada", "bob")
        await bob.socket.send("41")
        await until(lambda: len(io.clients) == 1)
        people = {"ada": "ada"}
        last = 0
        while last != 1:
            for packet in (await raw.get(sid)).split("\x1e"):
                told = json.loads(packet[2:])[1]
                people |= {member["user"]: member["info"] for member in told["joined"]}
                for member in told["left"]:
                    people.pop(member["user"], None)
                last = told["count"]
        assert people == {"ada": "ada"}


async def test_all_of_it_and_what_changes_add_up_while_people_come_and_go() -> None:
    io = realtime(presence={"leave_after_s": 0})
    async with serving(io) as raw, Crowd(raw) as crowd, asyncio.timeout(3 * GUARD_S):
        pages = [await crowd.join(f"user {n}") for n in range(12)]
        for turn in range(10):
            for number, page in enumerate(pages):
                if (number * 7 + turn * 5) % 3:
                    await page.socket.send('42["leave","lobby"]', '42["join","lobby"]')
                else:
                    await page.socket.send('42["join","lobby"]', '42["leave","lobby"]')
        there = [f"user {n}" for n in range(12) if (n * 7 + 9 * 5) % 3]
        for number, page in enumerate(pages):
            if f"user {number}" in there:
                await crowd.sees(page, *there)
        assert await io.room("lobby").presence.count() == len(there)


async def test_nothing_is_left_of_a_room_in_which_nobody_is() -> None:
    io = realtime(presence={"leave_after_s": 0.1})
    async with serving(io) as raw:
        async with Crowd(raw) as crowd:
            for n in range(10):
                await crowd.join(f"user {n}", rooms=[f"room {n}", "lobby"])
        assert io.attendance is not None
        await until(lambda: not io.attendance.places)  # type: ignore[union-attr]
        assert len(io.broker.hub.roster) == 0  # type: ignore[attr-defined]
        assert not [channel for channel in io.broker._hosted if "presence" in channel]  # type: ignore[attr-defined]


async def test_a_server_that_stops_takes_everyone_with_it() -> None:
    io = realtime()
    for _ in range(2):
        async with serving(io) as raw, Crowd(raw) as crowd:
            page = await crowd.join("ada")
            await crowd.sees(page, "ada")
            assert await io.room("lobby").presence.count() == 1
        assert io.attendance is not None
        assert not io.attendance.places
        with pytest.raises(portico.LocalError, match="not being served"):
            await io.room("lobby").presence.count()


async def test_without_it_nothing_is_counted_and_the_error_says_what_to_set() -> None:
    io = portico.Realtime()
    with pytest.raises(portico.LocalError, match=r"set Realtime\(presence="):
        await io.room("lobby").presence.members()
    with pytest.raises(portico.LocalError, match=r"set Realtime\(presence="):
        io.on_presence(print)
    io = portico.Realtime(presence=Presence(event=None))
    io.on_presence(lambda room, member, joined: None)
    with pytest.raises(portico.LocalError, match="already"):
        io.on_presence(lambda room, member, joined: None)
    io.on("connect", lambda client, auth: client.join("lobby"))
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        assert await io.room("lobby").presence.count() == 1
        io.emit("n")
        await socket.expect('42["n"]')  # and no event of presence before it


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("rooms", "lobby"),
        ("rooms", [7]),
        ("rooms", [""]),
        ("leave_after_s", -1),
        ("leave_after_s", "5"),
        ("max_listed", True),
        ("event", ""),
    ],
)
def test_wrong_options_are_refused(option: str, wrong: Any) -> None:
    with pytest.raises(portico.LocalError, match=f"Presence\\({option}="):
        Presence(**{option: wrong})
    with pytest.raises(portico.LocalError, match=r"Realtime\(presence=True\)"):
        portico.Realtime(presence=True)  # type: ignore[arg-type]
