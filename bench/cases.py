"""What is measured: the servers, the cases, and the targets that Portico is held to. Tables only, no measuring."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024
WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"
POLLING = "/socket.io/?EIO=4&transport=polling"


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test: ``servers/<file>`` with ``options``, and the distributions that it needs."""

    name: str
    file: str
    needs: tuple[str, ...]
    options: tuple[str, ...] = ()
    keeps_http: bool = True  # False: it closes the connection after each plain HTTP answer
    asgi: bool = False  # it serves the ASGI application that all such servers share
    sockets: bool = True  # False: that is all that it serves
    realtime: bool = False  # it serves Socket.IO, and nothing else


@dataclass(frozen=True, slots=True)
class Case:
    """One load. ``mode``, ``path``, ``conns``, ``size`` (bytes) and ``depth`` (in flight) are wsload's arguments, or
    pollload's where the mode begins with ``poll``."""

    name: str
    about: str
    mode: str
    path: str
    conns: int
    size: int = 64
    depth: int = 1
    tls: bool = False
    script: str = ""  # wrk's, beside this file
    unit: str = "message"
    figure: str = "cpu_us"
    floor: str = ""  # floor's mode: the system calls that this takes in any server

    @property
    def frame_bytes(self) -> int:
        """A message's bytes in the server's frame; in Socket.IO, ``size`` is that of its text without the last two."""
        payload = self.size + 2 * self.mode.startswith("sio")
        return payload + (2 if payload < 126 else 4 if payload < 65536 else 10)

    def fits(self, server: Server) -> bool:
        """Whether this case can be measured on `server`, and says anything there."""
        if server.realtime or self.path.startswith("/socket.io"):
            return server.realtime and self.path.startswith("/socket.io")
        if self.path in ("/asgi", "/post", "/download"):
            return server.asgi
        return server.sockets if self.mode != "wrk" else server.keeps_http


@dataclass(frozen=True, slots=True)
class Target:
    """``subject``'s figure is at most ``limit`` times ``peer``'s; with no peer, at most ``limit`` itself."""

    case: str
    subject: str
    limit: float
    peer: str | None = None


SERVERS = {
    server.name: server
    for server in (
        Server("portico-endpoint", "portico_server.py", (), ("--mode", "endpoint"), asgi=True),
        Server("portico-coroutine", "portico_server.py", (), ("--mode", "coroutine")),
        Server("picows", "picows_server.py", ("picows", "uvloop"), keeps_http=False),
        Server("aiohttp", "aiohttp_server.py", ("aiohttp", "uvloop")),
        Server("uvicorn", "uvicorn_server.py", ("uvicorn", "httptools", "websockets", "uvloop"), asgi=True),
        Server("granian", "granian_server.py", ("granian", "uvloop"), asgi=True, sockets=False),
        Server("websockets", "websockets_server.py", ("websockets", "uvloop"), keeps_http=False),
        Server("portico-realtime", "portico_realtime_server.py", (), realtime=True),
        Server("python-socketio", "socketio_server.py", ("socketio", "uvicorn", "uvloop"), realtime=True),
        Server("socketio-node", "socketio_server.mjs", ("socket.io",), realtime=True),
    )
}

CASES = {
    case.name: case
    for case in (
        Case("echo", "echo, 100 connections, 64 bytes, 1 in flight", "echo", "/ws", 100, floor="echo"),
        Case("pipe", "echo, 100 connections, 64 bytes, 16 in flight", "echo", "/ws", 100, depth=16),
        Case("big", "echo, 20 connections, 64 KiB, 1 in flight", "echo", "/ws", 20, size=65536),
        Case(
            "fan",
            "broadcast of 64 bytes to 1,000 connections, 4 in flight",
            "fanout",
            "/room",
            1000,
            depth=4,
            unit="delivery",
            floor="send",
        ),
        Case(
            "fan1",
            "broadcast of 64 bytes to 1,000 connections, 1 in flight",
            "fanout",
            "/room",
            1000,
            unit="delivery",
            floor="send",
        ),
        Case(
            "churn",
            "connect, one 64-byte echo, close; 50 connections at a time",
            "churn",
            "/ws",
            50,
            unit="connection",
        ),
        Case(
            "idle",
            "5,000 open connections that say nothing",
            "open",
            "/ws",
            5000,
            unit="connection",
            figure="bytes_per_conn",
        ),
        Case("http", "GET / of 13 bytes, 50 kept-alive connections", "wrk", "/", 50, unit="request"),
        Case("post", "POST of 1 KiB of JSON", "wrk", "/post", 50, size=1024, script="post.lua", unit="request"),
        Case("download", "GET of 1 MiB, 20 connections", "wrk", "/download", 20, unit="request"),
        Case("upload", "POST of 1 MiB, 20 connections", "wrk", "/post", 20, MIB, script="post.lua", unit="request"),
        Case("asgi", "echo of an ASGI application, 100 connections, 1 in flight", "echo", "/asgi", 100),
        Case("asgi16", "echo of an ASGI application, 100 connections, 16 in flight", "echo", "/asgi", 100, depth=16),
        Case("tls", "echo over TLS, 50 connections, 64 bytes, 1 in flight", "echo", "/ws", 50, tls=True),
        Case(
            "secho",
            "Socket.IO on WebSocket: echo, 100 sessions, 64 bytes, 1 in flight",
            "sioecho",
            WEBSOCKET,
            100,
            floor="echo",
        ),
        Case(
            "sfan",
            "Socket.IO on WebSocket: broadcast of 64 bytes to 1,000 sessions, 1 in flight",
            "siofan",
            WEBSOCKET,
            1000,
            unit="delivery",
            floor="send",
        ),
        Case(
            "sfan4",
            "Socket.IO on WebSocket: broadcast of 64 bytes to 1,000 sessions, 4 in flight",
            "siofan",
            WEBSOCKET,
            1000,
            depth=4,
            unit="delivery",
            floor="send",
        ),
        Case(
            "sidle",
            "Socket.IO on WebSocket: 5,000 sessions that say nothing",
            "sioopen",
            WEBSOCKET,
            5000,
            unit="session",
            figure="bytes_per_conn",
        ),
        Case("spollecho", "Socket.IO on long-polling: echo, 1,000 sessions, 64 bytes", "pollecho", POLLING, 1000),
        Case(
            "spollfan",
            "Socket.IO on long-polling: broadcast of 64 bytes to 1,000 sessions, 1 in flight",
            "pollfan",
            POLLING,
            1000,
            unit="delivery",
        ),
    )
}
DEFAULT_CASES = tuple(name for name in CASES if name != "fan1")

TARGETS = (
    Target("echo", "portico-endpoint", 1.0, "picows"),
    Target("pipe", "portico-endpoint", 0.25, "picows"),
    Target("echo", "portico-coroutine", 0.6, "websockets"),
    Target("pipe", "portico-coroutine", 0.25, "websockets"),
    Target("fan", "portico-endpoint", 0.5, "aiohttp"),
    Target("fan", "portico-coroutine", 0.5, "aiohttp"),
    Target("fan1", "portico-endpoint", 0.5, "aiohttp"),
    Target("fan1", "portico-coroutine", 0.5, "aiohttp"),
    Target("idle", "portico-endpoint", 1024),
    Target("idle", "portico-coroutine", 3584),
    Target("churn", "portico-endpoint", 0.4, "websockets"),
    Target("churn", "portico-coroutine", 0.4, "websockets"),
    Target("tls", "portico-endpoint", 0.65, "websockets"),
    Target("tls", "portico-coroutine", 0.65, "websockets"),
    Target("http", "portico-endpoint", 0.65, "uvicorn"),
    Target("http", "portico-endpoint", 1.0, "granian"),
    Target("asgi", "portico-endpoint", 0.65, "uvicorn"),
    Target("asgi16", "portico-endpoint", 0.35, "uvicorn"),
    Target("secho", "portico-realtime", 0.15, "python-socketio"),
    Target("secho", "portico-realtime", 0.5, "socketio-node"),
    Target("sfan", "portico-realtime", 0.05, "python-socketio"),
    Target("sfan", "portico-realtime", 0.25, "socketio-node"),
    Target("sidle", "portico-realtime", 5 * 1024),  # 4 KiB over its connection, which `idle` holds to 1 KiB
    Target("spollecho", "portico-realtime", 0.3, "python-socketio"),
    Target("spollfan", "portico-realtime", 0.3, "python-socketio"),
)
