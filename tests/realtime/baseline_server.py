"""The server of tests/realtime/test_baseline.py, a process of its own: a Realtime with everything, and its own state at
/stats. Prints its port on a line, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import portico
from portico.realtime import History, Presence, Recovery, feeds

SHORT_S = 0.5  # how long what may come back, or was said, is kept


def realtime() -> portico.Realtime:
    feeds.LINGER_S = SHORT_S
    io = portico.Realtime(
        recovery=Recovery(age_s=SHORT_S, max_events=2_000),
        history=History(age_s=SHORT_S, count=100),
        presence=Presence(leave_after_s=SHORT_S / 2),
        ping_interval_s=SHORT_S,
        ping_timeout_s=SHORT_S,
        connect_timeout_s=SHORT_S,
        upgrade_timeout_s=SHORT_S,
        max_payload_bytes=20_000,
        handler_threads=4,  # soon all there
    )
    games = io.matching(r"/game-\d+")
    for namespace in (io, io.of("/admin"), games):
        handlers(io, namespace)

    @io.use_streams
    async def stream(request: Any, room: str) -> None:
        if room.startswith("own-"):
            raise portico.Refuse("not yours")

    return io


def handlers(io: portico.Realtime, namespace: Any) -> None:
    @namespace.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        if auth.get("refuse"):
            raise portico.Refuse("as you wish", data=auth)
        client.data["seen"] = client.data.get("seen", 0) + 1
        client.join(f"own-{client.id}")

    @namespace.on("disconnect")
    async def gone(client: Any, reason: str) -> None:
        client.namespace.to("common").emit("gone", reason)

    @namespace.on("join")
    async def join(client: Any, *rooms: str) -> int:
        client.join(*rooms)
        return len(client.rooms)

    @namespace.on("leave")
    async def leave(client: Any, *rooms: str) -> None:
        client.leave(*rooms)

    @namespace.on("echo")
    async def echo(client: Any, *args: Any) -> Any:
        return args

    @namespace.on("in a thread")
    def threaded(client: Any, value: int) -> int:
        return value + 1

    @namespace.on("say")
    async def say(client: Any, room: str, *args: Any) -> int:
        return client.namespace.to(room).emit("said", *args).delivered

    @namespace.on("ask me", concurrent=True)
    async def ask(client: Any) -> None:
        with contextlib.suppress(TimeoutError, portico.ConnectionClosed):
            await client.call("question", timeout=SHORT_S)

    @namespace.on("read")
    async def read(client: Any, room: str) -> Any:
        if client.namespace.name != "/":
            return None
        span = await io.room(room).history.read()
        return [len(span.events), await io.room(room).presence.count()]

    @namespace.on("throw me out")
    async def throw(client: Any, close: bool) -> None:
        client.disconnect(close=close)

    @namespace.on("cut me")
    async def cut(client: Any) -> None:
        client.session.close("transport error", discard=True)

    @namespace.on("fail")
    async def fail(client: Any) -> None:
        raise portico.Refuse("no", data=1)


def timers(wheel: object) -> int:
    """The entries of a timer wheel, which in the compiled build shows them to the garbage collector alone."""
    hidden = [one for one in gc.get_referents(wheel) if type(one) is dict]
    slots = vars(wheel)["_slots"] if hasattr(wheel, "__dict__") else hidden[0]
    return sum(map(len, slots.values()))


def is_idle(task: asyncio.Task[Any]) -> bool:
    """Whether a task is one of those few that wait for the next event, whoever sends it."""
    return getattr(task.get_coro(), "__qualname__", "") == "Runner.run"


def counts(io: portico.Realtime, server: portico.Server) -> dict[str, int]:
    """What has to be as it was, when nobody is there any more."""
    hub: Any = io.broker.hub  # type: ignore[attr-defined]
    namespaces = list(io._namespaces.values())
    return {
        "connections": server.connection_count,
        "sessions": len(io.engine.sessions),
        "namespaces": len(namespaces),
        "clients": sum(len(each.clients) + len(each._arriving) for each in namespaces),
        "returning": sum(len(each.live) + len(each.claims) for each in namespaces),
        "rooms": sum(len(each._rooms) for each in namespaces),
        "handlers": len(io._tasks),
        "asked": len(io._asked),
        "streams": len(io.streams),
        "timers": timers(io.engine.reactor.wheel) - server.connection_count,
        "tasks": sum(not is_idle(task) for task in asyncio.all_tasks()),
        "fds": len(os.listdir("/proc/self/fd")),
        "channels": len(hub.hosts),
        "histories": len(hub.histories),
        "kept": sum(map(len, hub.histories.values())),
        "set aside": len(hub._stored),
        "present": len(hub.roster),
        "places": len(io.attendance.places) if io.attendance is not None else 0,
        "feeds": len(io.feeds.followed) if io.feeds is not None else 0,
        "hosted": len(io.broker._hosted),  # type: ignore[attr-defined]
    }


class Mallinfo(ctypes.Structure):
    """What mallinfo2(3) of glibc 2.33 returns."""

    _fields_: ClassVar = [(f"field{n}", ctypes.c_size_t) for n in range(7)] + [
        ("uordblks", ctypes.c_size_t),  # in use
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    ]


def malloc_bytes() -> int:
    """The bytes in use that are too large for Python's own allocator, or come from libraries."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo
    return int(libc.mallinfo2().uordblks)


def stats(io: portico.Realtime, server: portico.Server) -> dict[str, Any]:
    gc.collect()
    types = Counter(
        kind.__qualname__
        for kind in map(type, gc.get_objects())
        if str(kind.__module__).startswith("portico.") and not kind.__qualname__.startswith(("Runner", "__pyx"))
    )
    memory = dict(line.split()[:2] for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return {
        "counts": counts(io, server),
        "types": types,
        "blocks": sys.getallocatedblocks(),
        "memory_kib": int(memory["Anonymous:"]),
        "malloc_kib": malloc_bytes() >> 10,
        "closed": io.counters.closed,
        "refused": io.counters.refused,
        "recovered": recovered,
    }


recovered = 0


async def main() -> None:
    io = realtime()

    @io.use
    async def count(client: Any, auth: Any) -> None:
        global recovered
        recovered += client.recovered

    async def site(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body = json.dumps(stats(io, server)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    app = portico.App()
    app.mount("/socket.io", io)
    app.mount("/stats", site)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    # Where the deadlines of connections are near, the wheel of timers has few slots, and soon all that it will have.
    limits = portico.Limits(keep_alive_s=2, head_timeout_s=2, close_timeout_s=1)
    async with portico.serve(app, "127.0.0.1", 0, limits=limits) as server:
        print(server.port, flush=True)
        await stop.wait()


asyncio.run(main())
