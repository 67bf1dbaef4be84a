"""The server: listeners, the connections on them, and an orderly stop. `serve` and `run` are the ways in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl as ssl_module
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from email.utils import formatdate
from types import TracebackType
from typing import Any

from portico.accounting import Counters
from portico.errors import LocalError
from portico.limits import Deflate, Keepalive, Limits
from portico.net.listener import Listener, bind
from portico.net.reactor import Reactor
from portico.net.stream import Stream
from portico.server.app import App, AsgiApp, Authenticate, Options, Origins, Route
from portico.server.asgi import AsgiWebSocket, Lifespan, http_scope, websocket_scope
from portico.server.connection import HttpConnection
from portico.server.exchange import Exchange
from portico.server.handlers import Coroutines
from portico.server.switch import Switch
from portico.websocket import Endpoint, WebSocket

SPARE_CONNECTIONS = 64  # over the cap, how many are kept long enough to be told so

Address = tuple[str, int]


class Connection:
    """One connection on the port, as `Server.connections` shows it."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def websocket(self) -> WebSocket | None:
        """Its WebSocket, once it has switched."""
        protocol = self._stream.protocol
        return protocol if isinstance(protocol, WebSocket) else None

    @property
    def id(self) -> str:
        """Unique among the server's connections."""
        return f"{self._stream.fd}-{self._stream.opened:.6f}"

    @property
    def protocol(self) -> str:
        """One of "http/1.1" and "websocket"."""
        return "http/1.1" if self.websocket is None else "websocket"

    @property
    def tls(self) -> bool:
        return self._stream.tls

    @property
    def local(self) -> Any:
        """Our address, (host, port) on TCP."""
        return _pair(self._stream.local)

    @property
    def peer(self) -> Any:
        """The peer's address, (host, port) on TCP."""
        return _pair(self._stream.peer)

    @property
    def state(self) -> str:
        """One of "open", "closing" and "closed"."""
        ws = self.websocket
        if self._stream.gone:
            return "closed"
        return "open" if self._stream.open and (ws is None or ws.sending) else "closing"

    @property
    def age_s(self) -> float:
        return max(0.0, self._stream.reactor.clock() - self._stream.opened)

    @property
    def bytes_in(self) -> int:
        return self._stream.bytes_in

    @property
    def bytes_out(self) -> int:
        return self._stream.bytes_out

    @property
    def latency(self) -> float | None:
        """Round trip of the last answered ping in seconds, or None."""
        ws = self.websocket
        return None if ws is None else ws.latency


class Server:
    """A running server; what `portico.serve` gives in ``async with``.

    ``counters`` (`portico.Counters`) counts endings, limits reached and refusals since the start.
    """

    logger = logging.getLogger("portico.server")

    def __init__(
        self,
        app: App,
        options: Options,
        host: str | None,
        port: int,
        *,
        ssl: ssl_module.SSLContext | None,
        uds: str | os.PathLike[str] | None,
        sock: socket.socket | None,
    ) -> None:
        if ssl is not None and not isinstance(ssl, ssl_module.SSLContext):
            raise LocalError(f"ssl={ssl!r}: expected an ssl.SSLContext")
        if ssl is not None and ssl.protocol == ssl_module.PROTOCOL_TLS_CLIENT:
            raise LocalError("ssl= is a client's context: expected ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)")
        if uds is not None and sock is not None:
            raise LocalError("uds= and sock= exclude each other")
        if host is not None and not isinstance(host, str):
            raise LocalError(f"host={host!r}: expected a name, an address or None")
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise LocalError(f"port={port!r}: expected a number from 0 to 65535")
        self.counters = Counters()
        self.site = app.bind(options, self.counters)
        self.limits = options.limits
        self.stopping = False
        self._place = host, port, uds, sock
        self._ssl = ssl
        self._reactor: Reactor | None = None
        self._listeners: list[Listener] = []
        self._addresses: list[Any] = []
        self._count = 0
        self._by_address: Counter[str] = Counter()
        self._crowd: set[Stream] = set()  # connections over a cap, kept long enough to be told so
        self._endpoints: dict[Route, Coroutines] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._stuck: set[asyncio.Future[Any]] = set()
        self._lifespans: list[Lifespan] = []
        self._states: dict[AsgiApp, dict[str, Any]] = {}
        self._empty: asyncio.Event | None = None
        self._closed: asyncio.Event | None = None
        self._date = b"", 0

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> Server:
        """Bind, start the mounted applications, accept. Raises LocalError where an address can't be had."""
        if self._closed is not None:
            raise LocalError("this server was started before: expected a new portico.serve()")
        host, port, uds, sock = self._place
        self._empty = asyncio.Event()
        self._closed = asyncio.Event()
        sockets = await bind(host, port, uds=uds, sock=sock)
        try:
            for app in self.site.mounts:
                lifespan = Lifespan(app)
                self._states[app] = lifespan.state
                await lifespan.startup()
                self._lifespans.append(lifespan)
            self._reactor = Reactor.running()
        except BaseException:
            for each in sockets:
                each.close()
            self._unlink()
            await self._end_lifespans()
            raise
        for each in sockets:
            self._listeners.append(
                Listener(
                    self._reactor,
                    each,
                    self._make_protocol,
                    self._gone,
                    high_water=self.limits.high_water_bytes,
                    ssl_context=self._ssl,
                    tls_timeout_s=self.limits.head_timeout_s,
                )
            )
        self._addresses = [_pair(listener.address) for listener in self._listeners]
        return self

    def adopt(self, sock: socket.socket) -> None:
        """Serve a stream socket that is connected already, as if it had come in by the port: one that another process
        accepted, or one end of ``socket.socketpair()``. The server owns it from here on."""
        if not self._listeners or self.stopping:
            sock.close()
            raise LocalError("adopt() on a server that is not running")
        self._listeners[0].adopt(sock, sock.getpeername())

    async def serve_forever(self) -> None:
        """Wait until `close` is called; cancelling it closes the server."""
        if self._closed is None:
            raise LocalError("serve_forever() before the server was started: expected 'async with portico.serve(…)'")
        try:
            await self._closed.wait()
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop: accept no more, close every WebSocket with 1001, let requests end, and after
        ``Limits.stop_timeout_s`` cut what is left. Harmless when called again."""
        if self._reactor is None or self._closed is None or self._empty is None or self._closed.is_set():
            return
        first = not self.stopping
        self.stopping = True
        for listener in self._listeners:
            listener.close()
        if first:
            self._unlink()
            for stream in self._streams():
                self._stop(stream)
        if self._count:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._empty.wait(), self.limits.stop_timeout_s)
        for stream in self._streams():
            stream.abort()
        await self._end_tasks()
        await self._end_lifespans()
        self._closed.set()
        self._reactor.close_if_idle()

    async def _end_lifespans(self) -> None:
        lifespans, self._lifespans = self._lifespans, []
        for lifespan in reversed(lifespans):
            await lifespan.shutdown(self.limits.stop_timeout_s)

    async def _end_tasks(self) -> None:
        """Handlers whose connections have ended: they learnt it; those that go on are cancelled, in bounded time."""
        tasks: set[asyncio.Future[Any]] = self._tasks | {
            task for endpoint in self._endpoints.values() for task in endpoint.ending
        }
        tasks -= {asyncio.current_task()}
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=1.0)
        for task in tasks:
            task.cancel()
        _, self._stuck = await asyncio.wait(tasks, timeout=1.0)
        for task in self._stuck:
            self.logger.warning("a handler ignores its cancellation: %r", task)

    def _stop(self, stream: Stream) -> None:
        protocol = stream.protocol
        if isinstance(protocol, WebSocket):
            protocol.close(1001, "server is stopping")
        elif isinstance(protocol, HttpConnection):
            protocol.stop()

    def _unlink(self) -> None:
        uds = self._place[2]
        if uds is not None:
            with contextlib.suppress(OSError):
                os.unlink(uds)

    async def __aenter__(self) -> Server:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __await__(self) -> Generator[Any, None, Server]:
        return self.start().__await__()

    # -- facts ---------------------------------------------------------------------------------------------------

    @property
    def sockets(self) -> list[socket.socket]:
        """The listening sockets."""
        return [listener.sock for listener in self._listeners]

    @property
    def addresses(self) -> list[Any]:
        """Where it listens: (host, port) for each socket on TCP, the path on a Unix socket."""
        return list(self._addresses)

    @property
    def port(self) -> int:
        """The TCP port; with ``port=0`` the one that the system chose."""
        for address in self._addresses:
            if isinstance(address, tuple):
                return int(address[1])
        raise LocalError("this server listens on no TCP port")

    @property
    def connections(self) -> list[Connection]:
        """Every connection on the port at this moment."""
        return [Connection(stream) for stream in self._streams()]

    @property
    def stuck(self) -> int:
        """How many handlers were still running after `close` had cancelled them."""
        return sum(not task.done() for task in self._stuck)

    @property
    def connection_count(self) -> int:
        """How many connections there are."""
        return self._count

    @property
    def accepted(self) -> int:
        """How many connections were accepted since the start."""
        return sum(listener.accepted for listener in self._listeners)

    def _streams(self) -> list[Stream]:
        if self._reactor is None:
            return []
        ours = set(self._listeners)
        return [s for s in self._reactor.sources() if isinstance(s, Stream) and s.listener in ours]

    def date(self) -> bytes:
        """The value of a Date header (RFC 9110 §6.6.1)."""
        now = int(time.time())
        if now != self._date[1]:
            self._date = formatdate(now, usegmt=True).encode("ascii"), now
        return self._date[0]

    def peer(self, stream: Stream) -> Address | None:
        """The client's (host, port), None on a Unix socket."""
        address = _pair(stream.peer)
        return address if isinstance(address, tuple) else None

    def local(self, stream: Stream) -> Address | None:
        """Our (host, port) on `stream`, None on a Unix socket."""
        address = getattr(stream.listener, "address", None)
        if isinstance(address, tuple) and address[0] in ("0.0.0.0", "::"):
            address = stream.local
        pair = _pair(address)
        return pair if isinstance(pair, tuple) else None

    # -- connections ---------------------------------------------------------------------------------------------

    def _make_protocol(self, stream: Stream) -> HttpConnection:
        limits = self.limits
        host = stream.peer[0] if limits.max_connections_per_address and isinstance(stream.peer, tuple) else None
        full = 0 < limits.max_connections <= self._count - len(self._crowd)
        crowded = full or (host is not None and self._by_address[host] >= limits.max_connections_per_address)
        self._count += 1
        if crowded:
            self._crowd.add(stream)
            if len(self._crowd) > SPARE_CONNECTIONS:
                raise ConnectionRefusedError("more connections than are told so")
        elif host is not None:
            self._by_address[host] += 1
        return HttpConnection(self, stream, crowded=crowded)

    def _gone(self, stream: Stream) -> None:
        self._count -= 1
        if stream in self._crowd:
            self._crowd.remove(stream)
        elif self.limits.max_connections_per_address and isinstance(stream.peer, tuple):
            host = stream.peer[0]
            self._by_address[host] -= 1
            if not self._by_address[host]:
                del self._by_address[host]
        if self.stopping and not self._count and self._empty is not None:
            self._empty.set()

    def endpoint(self, route: Route) -> Endpoint:
        """The callbacks of `route`: its Endpoint, or what runs its coroutine."""
        if isinstance(route.handler, Endpoint):
            return route.handler
        endpoint = self._endpoints.get(route)
        if endpoint is None:
            endpoint = self._endpoints[route] = Coroutines(route.handler)
        return endpoint

    def keep(self, task: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """Keep `task` from being forgotten; the server's end is not over before it is."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- ASGI ----------------------------------------------------------------------------------------------------

    def start_asgi_http(self, exchange: Exchange, root: str, app: AsgiApp) -> None:
        """Let `app` answer `exchange`."""
        stream = exchange.stream
        scope = http_scope(self, exchange.head, stream, root, self._states[app])
        self._run(app, scope, exchange)

    def start_asgi_websocket(self, switch: Switch, user: Any, root: str, app: AsgiApp) -> None:
        """Let `app` decide about an upgrade request, and hold the WebSocket afterwards."""
        bridge = AsgiWebSocket(self, switch)
        scope = websocket_scope(switch, root, self._states[app])
        if user is not None:
            scope["user"] = user
        self._run(app, scope, bridge)

    def _run(self, app: AsgiApp, scope: dict[str, Any], owner: Exchange | AsgiWebSocket) -> None:
        async def call() -> None:
            error: BaseException | None = None
            try:
                await app(scope, owner.receive, owner.send)
            except asyncio.CancelledError as cancelled:
                error = cancelled
            except Exception as raised:
                error = raised
            owner.application_ended(error)

        self.keep(asyncio.get_running_loop().create_task(call()))


def _pair(address: Any) -> Any:
    """(host, port) of a socket address; of an IPv6 one, too."""
    return address[:2] if isinstance(address, tuple) and len(address) > 2 else address


def serve(
    app: object,
    host: str | None = "127.0.0.1",
    port: int = 8000,
    *,
    ssl: ssl_module.SSLContext | None = None,
    uds: str | os.PathLike[str] | None = None,
    sock: socket.socket | None = None,
    origins: Origins = None,
    subprotocols: Sequence[str] = (),
    authenticate: Authenticate | None = None,
    deflate: Deflate | None = Deflate(),  # noqa: B008 # frozen
    limits: Limits = Limits(),  # noqa: B008 # frozen
    keepalive: Keepalive | None = Keepalive(),  # noqa: B008 # frozen
) -> Server:
    """A server on one port, for ``async with`` (or ``await``) in a running event loop.

    ::

        async with portico.serve(app, "127.0.0.1", 8000) as server:
            await server.serve_forever()

    - `app`: a `portico.App`, a coroutine handler or an `Endpoint` (for every path), or an ASGI 3 application.
    - `host`: a name or address, None for all of the machine's; `port`: 0 lets the system choose.
    - `ssl`: a server-side ``ssl.SSLContext``. `uds`: a path for a Unix socket; `sock`: a bound socket: either in place
      of `host` and `port`.
    - `origins`: None lets only pages of the same origin connect; a list of origins (strings or compiled patterns),
      ``["*"]`` for any. Clients that send no Origin are no browsers, and are let in.
    - `subprotocols`: those supported, in order of preference; an ASGI application chooses by itself.
    - `authenticate`: a function of the `Request`, plain or a coroutine function, run before the 101 of every WebSocket;
      it returns the user (``ws.user``; ``scope["user"]`` in ASGI) or raises `portico.Refuse`.
    - `deflate`: `portico.Deflate`, None for no compression. `limits`: `portico.Limits`. `keepalive`:
      `portico.Keepalive`, None for no pings.

    Raises LocalError for a wrong value here, and on entering where the address can't be had.
    """
    options = Options(
        origins=origins,
        subprotocols=subprotocols,
        authenticate=authenticate,
        deflate=deflate,
        limits=limits,
        keepalive=keepalive,
    )
    return Server(App.of(app), options, host, port, ssl=ssl, uds=uds, sock=sock)


def run(app: object, host: str | None = "127.0.0.1", port: int = 8000, **options: Any) -> None:
    """Serve until SIGINT or SIGTERM, then stop in order; a second signal ends at once. Arguments as for `serve`."""

    async def main() -> None:
        async with serve(app, host, port, **options) as server:
            await until_signal(server)

    asyncio.run(main())


async def until_signal(server: Server) -> None:
    """Serve until SIGINT, SIGTERM or the server's end; a second signal cuts the orderly stop short."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    serving = loop.create_task(server.serve_forever())
    serving.add_done_callback(lambda _: stop.set())

    def signalled() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, signalled)
    try:
        await stop.wait()
        await server.close()
        await serving
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
    if server.stuck:  # asyncio.run() would wait for them for ever
        logging.shutdown()
        sys.stdout.flush()
        os._exit(1)
