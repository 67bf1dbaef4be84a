"""What is under attack, a process of its own, so that its memory and its CPU time can be told from the attacker's.

A server with WebSockets at /echo, /told, /stored, /kept, /hasty, /unread, /buffers, /room/POLICY, and HTTP at /stats,
/room, /publish and /dial. The last makes it a client: it connects to that port and path, and does there what it does at
that path as a server. Its options are one JSON object in its argument. Prints its port on a line, and ends when its
standard input does.
"""

from __future__ import annotations

import array
import asyncio
import gc
import hashlib
import json
import resource
import socket
import sys
import time
import urllib.parse
import weakref
from collections.abc import Iterator
from typing import Any

import portico
from portico.rooms import POLICIES

AT_ONCE = 16  # of a room's messages that are overdue
SQUARES = bytes(n * n & 255 for n in range(1024))


class Told(portico.Endpoint):
    """Tells what came: kind, length and SHA-256."""

    def __init__(self) -> None:
        self.calls = 0
        self.open: weakref.WeakSet[portico.WebSocket] = weakref.WeakSet()
        self.close: dict[str, Any] = {}

    def on_open(self, ws: portico.WebSocket) -> None:
        self.open.add(ws)

    def on_close(self, ws: portico.WebSocket, close: portico.Close) -> None:
        limit = close.cause.limit if isinstance(close.cause, portico.LimitExceeded) else None
        told = {"code": close.code, "reason": close.reason, "by": close.by, "clean": close.clean, "limit": limit}
        self.close = told

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        self.calls += 1
        data = message.encode() if isinstance(message, str) else message
        ws.write(f"{type(message).__name__} {len(data)} {hashlib.sha256(data).hexdigest()}")


class Text(str):
    """A str, but not just one."""


class Octets(bytes):
    """And bytes likewise."""


BUFFERS: dict[str, Any] = {
    "bytes": SQUARES,
    "subclass": Octets(SQUARES),
    "bytearray": bytearray(SQUARES),
    "memoryview": memoryview(SQUARES),
    "slice": memoryview(SQUARES)[3:1000],
    "stride": memoryview(SQUARES)[::3],
    "backwards": memoryview(SQUARES)[::-1],
    "wide": memoryview(array.array("I", range(300))),
    "wide stride": memoryview(array.array("q", range(300)))[5::7],
    "table": memoryview(SQUARES).cast("B", (32, 32)),
    "empty": memoryview(b""),
}
REASONS: dict[str, Any] = {
    "ascii": "x" * 123,
    "latin": "é" * 61,
    "wide": "水" * 41,
    "astral": "🚪" * 30,
    "subclass": Text("a reason"),
    "empty": "",
}


class Buffers(portico.Endpoint):
    """Sends the buffer that it is asked for, or closes with the reason that it is asked for."""

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        assert isinstance(message, str)
        what, name = message.split(":")
        if what == "send":
            ws.write(BUFFERS[name])
        elif what == "reason":
            ws.close(4000, REASONS[name])
        else:
            try:
                ws.close(4000, BUFFERS[name])
            except portico.LocalError as error:
                ws.write(str(error))


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class Unread:
    """A handler that never reads; it ends when its connection does."""

    def __init__(self) -> None:
        self.open: weakref.WeakSet[portico.WebSocket] = weakref.WeakSet()

    async def __call__(self, ws: portico.WebSocket) -> None:
        self.open.add(ws)
        await asyncio.get_running_loop().create_future()


class Hall(portico.Endpoint):
    """One room, and a publisher that numbers its messages and says when each was sent."""

    def __init__(self, policy: Any) -> None:
        self.room = portico.Room(on_slow=policy)
        self.published = 0
        self.seconds = 0.0
        self.done = True
        self.most_buffered = 0
        self.task: asyncio.Task[None] | None = None

    def on_open(self, ws: portico.WebSocket) -> None:
        self.room.add(ws)

    def publish(self, count: int, rate: int, size: int) -> None:
        assert self.done
        self.done = False
        self.task = asyncio.get_running_loop().create_task(self._publish(count, rate, size))

    async def _publish(self, count: int, rate: int, size: int) -> None:
        """`rate` messages a second, or as many as can be: what is due goes out together in a turn, up to a bound."""
        padding = bytes(size - 16)
        began = time.perf_counter()
        sent = 0
        while sent < count:
            due = min(int((time.perf_counter() - began) * rate) + 1, sent + AT_ONCE, count)
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            for _ in range(due - sent):
                self.room.send(self.published.to_bytes(8, "big") + now.to_bytes(8, "big") + padding)
                self.published += 1
                if not self.published % 64:
                    self._look()
            sent = due
            await asyncio.sleep(max(began + sent / rate - time.perf_counter(), 0))
        self._look()
        self.seconds = time.perf_counter() - began
        self.done = True

    def _look(self) -> None:
        self.most_buffered = max([self.most_buffered, *(ws.buffered for ws in self.room)])

    def state(self) -> dict[str, Any]:
        return {
            "members": len(self.room),
            "sending": sum(ws.closed is None for ws in self.room),
            "buffered": sum(ws.buffered for ws in self.room),
            "most_buffered": self.most_buffered,
            "published": self.published,
            "dropped": self.room.dropped,
            "seconds": self.seconds,
            "done": self.done,
        }


told, unread = Told(), Unread()
halls = {policy: Hall(policy) for policy in POLICIES}
ROUTES: dict[str, tuple[Any, dict[str, Any]]] = {
    "/echo": (echo, {"keepalive": None}),  # its peer expects nothing but echoes
    "/told": (told, {"deflate": None}),
    "/stored": (told, {}),  # compression without context takeover, as is the default
    "/kept": (told, {"deflate": portico.Deflate(client_context_takeover=True, server_context_takeover=True)}),
    "/hasty": (told, {"limits": portico.Limits(assembly_timeout_s=1)}),
    "/unread": (unread, {"limits": portico.Limits(handler_grace_s=0.2, close_timeout_s=100)}),
    "/buffers": (Buffers(), {"deflate": None}),
}


class Dialed:
    """The connections that it has as a client."""

    def __init__(self) -> None:
        self.open: weakref.WeakSet[portico.WebSocket] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()

    def dial(self, port: int, path: str, count: int, at_once: int) -> None:
        """Connect `count` times."""
        todo = iter(range(count))
        for _ in range(at_once):
            task = asyncio.get_running_loop().create_task(self._dial(port, path, todo))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _dial(self, port: int, path: str, todo: Iterator[int]) -> None:
        handler, options = ROUTES[path]
        endpoint = handler if isinstance(handler, portico.Endpoint) else None
        uri = f"ws://127.0.0.1:{port}{path}"
        for _ in todo:
            ws = await portico.connect(uri, endpoint=endpoint, proxy=None, exclusive=False, **options)
            self.open.add(ws)
            handling = asyncio.ensure_future(handler(ws)) if endpoint is None else None
            while not ws.stream.gone and not (handling and handling.done()):
                await asyncio.sleep(0.005)
            if handling:
                handling.cancel()


dialed = Dialed()


def site(servers: list[portico.Server]) -> Any:
    def answer(path: str, query: dict[str, str]) -> Any:
        if path == "/room":
            return halls[query["policy"]].state()
        if path == "/publish":
            hall = halls[query["policy"]]
            hall.publish(int(query["count"]), int(query["rate"]), int(query["size"]))
            return hall.state()
        if path == "/dial":
            dialed.dial(int(query["port"]), query["path"], int(query.get("count", 1)), int(query.get("at_once", 1)))
            return {}
        gc.collect()
        return {
            "connections": servers[0].connection_count + sum(not ws.stream.gone for ws in dialed.open),
            "calls": told.calls,
            "close": told.close,
            "handlers": len(unread.open),
            "buffered": [ws.buffered for ws in told.open],
            "unread": [
                {"cost": ws.inbox.cost, "came": ws.stream.bytes_in, "paused": ws.stream.paused}
                for ws in unread.open
                if ws.inbox is not None and not ws.stream.gone
            ],
        }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
            return
        query = dict(urllib.parse.parse_qsl(scope["query_string"].decode()))
        body = json.dumps(answer(scope["path"], query)).encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def listener(send_buffer: int) -> socket.socket:
    """`send_buffer`: what the kernel may hold for each connection; 0 leaves that to the kernel."""
    sock = socket.socket()
    if send_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    sock.bind(("127.0.0.1", 0))
    return sock


async def main(send_buffer: int = 0, **limits: Any) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    app = portico.App()
    for path, (handler, options) in ROUTES.items():
        app.websocket(path, handler, **options)
    for policy, hall in halls.items():
        app.websocket(f"/room/{policy}", hall, deflate=None, keepalive=None)  # the stalled ones shall stay
    servers: list[portico.Server] = []
    app.mount("/", site(servers))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    async with portico.serve(app, sock=listener(send_buffer), limits=portico.Limits(**limits)) as server:
        servers.append(server)
        print(server.port, flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
