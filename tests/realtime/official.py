"""What the official client is tried with (tests/interop/node/features.mjs), and what it has to see of it."""

from __future__ import annotations

import asyncio
from typing import Any

import portico
from portico.realtime import Recovery

PIECES = ["€", b"\x00\x01", {"deep": [b"", None, b"\xff"]}]
PLAIN_PIECES = ["€", {"bytes": [0, 1]}, {"deep": [{"bytes": []}, None, {"bytes": [255]}]}]


def realtime(**options: Any) -> portico.Realtime:
    """A Realtime with everything that the script asks for."""
    io = portico.Realtime(recovery=Recovery(), **options)
    _who_comes_and_goes(io)
    _answers(io)
    _rooms(io)
    _namespaces(io)
    return io


def _who_comes_and_goes(io: portico.Realtime) -> None:
    @io.use
    async def token(client: Any, auth: Any) -> None:
        if auth.get("token") == "wrong":
            raise portico.Refuse("wrong token", data={"need": ["token"]})

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        if auth.get("token") == "late":
            raise portico.Refuse("too late")
        if not client.recovered:
            client.join(f"of {client.id}")
            client.emit("hello", client.id)

    @io.on("disconnect")
    async def gone(client: Any, reason: str) -> None:
        if client.data:
            for n in range(5):
                io.to(f"of {client.id}").emit("missed", n)
            io.to("elsewhere").emit("missed", "not ours")
            io.except_(client).emit("missed", "nor this")
            io.volatile.emit("missed", "nor what is not kept")
            io.to(client.id).emit("last")

    @io.on("ready")
    async def ready(client: Any) -> None:
        client.data["ready"] = client.data.get("ready", 0) + 1

    @io.on("state")
    async def state(client: Any) -> Any:
        return [client.rooms == {f"of {client.id}"}, client.data, client.recovered]

    @io.on("throw me out")
    async def throw_out(client: Any) -> None:
        client.disconnect()

    @io.on("cut me")
    async def cut(client: Any) -> None:
        client.session.close("transport error", discard=True)


def _answers(io: portico.Realtime) -> None:
    counted: dict[str, list[int]] = {}

    @io.use_events
    async def check(client: Any, event: str, args: Any) -> None:
        if event == "forbidden":
            raise portico.Refuse("forbidden", data=args)

    @io.on("add")
    def add(client: Any, a: int, b: int) -> int:
        return a + b

    @io.on("values")
    async def values(client: Any, *args: Any) -> Any:
        return (*args, False)

    @io.on("nothing")
    async def nothing(client: Any) -> None: ...

    @io.on("echo")
    async def echo(client: Any, value: Any) -> Any:
        return value

    @io.on("fail")
    async def fail(client: Any) -> None:
        raise portico.Refuse("not you")

    @io.on("count")
    async def count(client: Any, n: int) -> int:
        await asyncio.sleep(0)
        counted.setdefault(client.id, []).append(n)
        return len(counted[client.id])

    @io.on("ask", concurrent=True)
    async def ask(client: Any, value: int) -> Any:
        answer, binary = await client.call("question", value, timeout=5)
        return [answer, len(binary)]

    @io.on("ask in vain", concurrent=True)
    async def ask_in_vain(client: Any) -> str:
        try:
            return str(await client.call("unanswered", timeout=0.05))
        except TimeoutError:
            return "timed out"

    @io.on("never", concurrent=True)
    async def never(client: Any) -> None:
        while client.connected:
            await asyncio.sleep(0.01)

    @io.on("send pieces")
    async def pieces(client: Any) -> None:
        client.emit("pieces", *PIECES)

    @io.on("volatile please")
    async def volatile(client: Any) -> None:
        while not client.session.writable:  # on polling, between two GETs: it would not get it
            await asyncio.sleep(0.001)
        io.to(client).volatile.emit("now", "or never")


def _rooms(io: portico.Realtime) -> None:
    @io.on("join")
    async def join(client: Any, room: str) -> None:
        client.join(room)

    @io.on("leave")
    async def leave(client: Any, room: str) -> None:
        client.leave(room)

    @io.on("who")
    async def who(client: Any, room: str) -> Any:
        found = await io.to(room).fetch()
        return [len(found), io.rooms[room], client.id in {each.id for each in found}]

    @io.on("publish")
    async def publish(client: Any, room: str, other: str) -> None:
        def outside() -> None:  # in a thread that belongs to nobody
            io.emit("news", 1)
            io.to(room).emit("news", 2)

        await asyncio.to_thread(outside)
        io.to(room).except_(other).emit("news", 3)
        client.to(room).emit("news", 4)

    @io.on("ask all", concurrent=True)
    async def ask_all(client: Any, room: str) -> Any:
        answers = await io.to(room, client).call("question", 1, timeout=5)
        return [list(answers) == [client.id], *(value[0] for value in answers.values())]


def _namespaces(io: portico.Realtime) -> None:
    admins = io.of("/admin")
    for namespace in (admins, io.matching(r"/room-\d+")):

        @namespace.on("where")
        async def where(client: Any) -> str:
            return str(client.namespace.name)

        @namespace.on("leave")
        async def leave(client: Any) -> None:
            client.disconnect()

    @admins.on("tell admins")
    async def tell(client: Any) -> None:
        admins.emit("to admins", "in confidence")


def expected(library: str, transport: str, *, page: bool) -> dict[str, Any]:
    """What the script has to return: `library` is the client's version."""
    version = tuple(map(int, library.split(".")))
    returns = version >= (4, 6)  # knows connection state recovery
    saw: dict[str, Any] = {
        "library": library,
        "refused": ["wrong token", {"need": ["token"]}],
        "refusedLate": ["too late", None],
        "thirdTime": True,
        "nowhere": "Invalid namespace",
        "hello": True,
        "transport": transport,
        "sum": 5,
        "values": ["é", None, {"": [1.5, True]}, False],
        "nothing": True,
        "error": {"error": "not you"},
        "middleware": {"error": "forbidden", "data": [1]},
        "unknown": "there is no handler for this event",
        "ordered": list(range(1, 101)),
        "questioned": [42, 1],
        "big": True,
        "binary": {"a": [{"bytes": [1, 2]}, {"b": {"bytes": []}}], "c": {"bytes": [0, 255]}, "d": "€"},
        "pieces": PLAIN_PIECES,
        "large": True,
        "serverTimeout": "timed out",
        "namespaces": ["/admin", "/room-7"],
        "ids": 3,
        "admins": ["in confidence"],
        "strays": [],
        "left": "io server disconnect",
        "stays": [True, True, False],
        "again": "/admin",
        "inRoom": [2, 2, True],
        "news": {"socket": [1, 2, 1, 2], "other": [1, 2, 3, 4, 1]},
        "answers": [True, 2],
        "volatile": ["or never"],
        "reason": ["io client disconnect", "io server disconnect"],
        "recovered": [[True, True]] * 2 if returns else [[None, False]] * 2,
        "missed": [0, 1, 2, 3, 4] * 2 if returns else [],
        "still": [True, {"ready": 2} if returns else {}, returns],
        "asked": 5,
    }
    if version >= (4, 4):
        saw |= {"timeout": "operation has timed out", "inTime": [None, 2]}
    if returns:
        saw["awaited"] = 42
    if page:
        saw["blob"] = {"bytes": list(b"blob")}
    return saw
