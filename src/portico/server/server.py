"""The server: listeners, the connections on them, and an orderly stop. `serve` and `run` are the ways in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl as ssl_module
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Any

from portico.accounting import Counters
from portico.errors import LocalError
from portico.limits import Deflate, Keepalive, Limits
from portico.net import activation
from portico.net.binding import HOST, PORT, Hosts, Path, Places, Sockets
from portico.net.certificates import Certificates, Watch
from portico.net.listener import Listener
from portico.net.reactor import Reactor
from portico.net.stream import Stream
from portico.server.access import AccessLog
from portico.server.app import App, AsgiApp, Authenticate, Options, Origins, Route
from portico.server.asgi import AsgiWebSocket, Lifespan
from portico.server.connection import HttpConnection
from portico.server.connections import Connection, pair
from portico.server.drain import HEAR_S, Rest, hear_out, send_away, stop_all, until_signal
from portico.server.eager import spawners
from portico.server.exchange import run_application
from portico.server.handlers import Coroutines
from portico.server.host import Host
from portico.server.proxies import Proxies
from portico.server.scopes import websocket_scope
from portico.server.switch import Switch
from portico.websocket import Endpoint, WebSocket
from portico.wire.forwarded import ProxyHeaders
from portico.wire.proxy_protocol import Client

SPARE_CONNECTIONS = 64  # over the cap, how many are kept long enough to be told so

Address = tuple[str, int]


class Server(Host):
    """A running server; what `portico.serve` gives in ``async with``.

    - ``counters`` (`portico.Counters`) counts endings, limits reached and refusals since the start.
    - ``access``: what access lines are given to; None from the start on where nobody takes them.
    - ``on_hangup``: called on SIGHUP by `portico.run` and ``portico serve``; None leaves that signal alone.
    """

    logger = logging.getLogger("portico.server")

    def __init__(
        self,
        app: App,
        options: Options,
        places: Places,
        *,
        ssl: ssl_module.SSLContext | Certificates | None,
        proxies: Proxies | None,
        access_log: bool | AccessLog = False,
    ) -> None:
        if ssl is not None and not isinstance(ssl, (ssl_module.SSLContext, Certificates)):
            raise LocalError(f"ssl={ssl!r}: expected an ssl.SSLContext or portico.Certificates")
        if isinstance(ssl, ssl_module.SSLContext) and ssl.protocol == ssl_module.PROTOCOL_TLS_CLIENT:
            raise LocalError("ssl= is a client's context: expected ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)")
        counters = Counters()
        super().__init__(app.bind(options, counters), options.limits, counters, proxies)
        self.access = AccessLog() if access_log is True else access_log or None
        self.on_hangup: Callable[[], object] | None = None
        self._cut_at = 0.0  # when the stop is over, whatever is left
        self._leaving: list[asyncio.Future[None] | asyncio.TimerHandle] = []  # what ends connections later in a stop
        self._places = places
        self._ssl = ssl
        self._watch: Watch | None = None  # of the files of certificates
        if isinstance(ssl, Certificates):
            self.on_hangup = self.reload_certificates
        self._reactor: Reactor | None = None
        self._listeners: list[Listener] = []
        self._addresses: list[Any] = []
        self._count = 0
        self._by_address: Counter[str] = Counter()
        self._crowd: set[Stream] = set()  # connections over a cap, kept long enough to be told so
        self._endpoints: dict[Route, Coroutines] = {}
        self._stuck: set[asyncio.Future[Any]] = set()
        self._lifespans: list[Lifespan] = []
        self._empty: asyncio.Event | None = None
        self._closed: asyncio.Event | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> Server:
        """Bind, start the mounted applications, accept. Raises LocalError where an address can't be had."""
        if self._closed is not None:
            raise LocalError("this server was started before: expected a new portico.serve()")
        self._empty = asyncio.Event()
        self._closed = asyncio.Event()
        sockets = await self._places.open()
        try:
            for app in self.site.mounts:
                lifespan = Lifespan(app)
                self.states[app] = lifespan.state
                await lifespan.startup()
                self._lifespans.append(lifespan)
            self._reactor = Reactor.running()
        except BaseException:
            for each in sockets:
                each.close()
            self._places.release()
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
                    greet=self.proxies.greet if self.proxies is not None and self.proxies.protocol else None,
                )
            )
        if isinstance(self._ssl, Certificates):
            self._watch = self._ssl.watch()
        self._addresses = [pair(listener.address) for listener in self._listeners]
        if self.access is not None and self.access.enabled:
            self.access.begin(asyncio.get_running_loop(), self._reactor.clock)
        else:
            self.access = None
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
        """Stop: accept no more, close every WebSocket with 1001, over ``Limits.drain_s``, let requests end, and
        ``Limits.stop_timeout_s`` later cut what is left. Harmless when called again."""
        if self._reactor is None or self._closed is None or self._empty is None or self._closed.is_set():
            return
        now = asyncio.get_running_loop().time
        if not self.stopping:
            self.stopping = True
            self._cut_at = now() + self.limits.drain_s + self.limits.stop_timeout_s
            for listener in self._listeners:
                listener.close()
            if self._watch is not None:
                self._watch.cancel()
            self._places.release()
            self.site.stop()
            self._stop()
        if self._count:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._empty.wait(), self._cut_at - now())
        for leaving in self._leaving:
            leaving.cancel()
        for stream in self._streams():
            stream.abort()
        await self._end_tasks()
        await self._end_lifespans()
        if self.access is not None:
            self.access.flush()
        self._closed.set()
        self._reactor.close_if_idle()

    async def _end_lifespans(self) -> None:
        lifespans, self._lifespans = self._lifespans, []
        for lifespan in reversed(lifespans):
            await lifespan.shutdown(self.limits.stop_timeout_s)

    async def _end_tasks(self) -> None:
        """Handlers whose connections have ended: they learnt it; those that go on are cancelled, in bounded time."""
        tasks: set[asyncio.Future[Any]] = self.tasks | {
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

    def _stop(self) -> None:
        """Tell every connection: those for HTTP at once, WebSockets over ``Limits.drain_s``."""
        sockets = []
        silent = []
        for stream in self._streams():
            protocol = stream.protocol
            if isinstance(protocol, WebSocket):
                sockets.append(protocol)
            elif isinstance(protocol, HttpConnection):
                if hear_out(stream):
                    protocol.stop()
                else:
                    silent.append(protocol)
        if silent:
            self._leaving.append(asyncio.get_running_loop().call_later(HEAR_S, stop_all, silent))
        if self.limits.drain_s and len(sockets) > 1:
            self._leaving.append(asyncio.ensure_future(send_away(sockets, self.limits.drain_s)))
        else:
            for ws in sockets:
                ws.close(1001, "server is stopping")

    def reload_certificates(self) -> bool:
        """Load the files of ``ssl=portico.Certificates(…)`` again, for connections to come; False where they can't be
        used (that is logged, and those before stay), or where there are none."""
        if not isinstance(self._ssl, Certificates):
            return False
        activation.notify_reloading()
        reloaded = self._ssl.reload()
        activation.notify("READY=1")
        return reloaded

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
        return self.dates.line()[6:-2]

    def peer(self, stream: Stream) -> Address | None:
        """The client's (host, port), None on a Unix socket."""
        address = pair(stream.peer)
        return address if isinstance(address, tuple) else None

    def local(self, stream: Stream) -> Address | None:
        """Our (host, port) on `stream`, None on a Unix socket; where a proxy told it, the one that the client chose."""
        if isinstance(stream.peer, Client):
            return stream.peer.target
        address = getattr(stream.listener, "address", None)
        if isinstance(address, tuple) and address[0] in ("0.0.0.0", "::"):
            address = stream.local
        local = pair(address)
        return local if isinstance(local, tuple) else None

    # -- connections ---------------------------------------------------------------------------------------------

    def _make_protocol(self, stream: Stream) -> HttpConnection:
        limits = self.limits
        host = self._counted(stream)
        full = 0 < limits.max_connections <= self._count - len(self._crowd)
        crowded = full or (host is not None and self._by_address[host] >= limits.max_connections_per_address)
        self._count += 1
        if crowded:
            self._crowd.add(stream)
            self.counters.exceeded["max_connections" if full else "max_connections_per_address"] += 1
            if len(self._crowd) > SPARE_CONNECTIONS:
                raise ConnectionRefusedError("more connections than are told so")
        elif host is not None:
            self._by_address[host] += 1
        return HttpConnection(self, stream, crowded=crowded)

    def _gone(self, stream: Stream) -> None:
        self._count -= 1
        if stream in self._crowd:
            self._crowd.remove(stream)
        elif (host := self._counted(stream)) is not None:
            self._by_address[host] -= 1
            if not self._by_address[host]:
                del self._by_address[host]
        if self.stopping and not self._count and self._empty is not None:
            self._empty.set()

    def _counted(self, stream: Stream) -> str | None:
        """The address whose connections are counted; None where they are not: a trusted proxy's are many clients'."""
        peer = stream.peer
        if not self.limits.max_connections_per_address or not isinstance(peer, tuple):
            return None
        return None if self.proxies is not None and self.proxies.trusts(peer) else peer[0]

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
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    # -- ASGI ----------------------------------------------------------------------------------------------------

    def start_asgi_websocket(self, switch: Switch, user: Any, root: str, app: AsgiApp) -> None:
        """Let `app` decide about an upgrade request, and hold the WebSocket afterwards."""
        bridge = AsgiWebSocket(self, switch)
        scope = websocket_scope(switch, root, self.states[app].copy())
        if user is not None:
            scope["user"] = user
        loop = asyncio.get_running_loop()
        _, spawn = spawners(loop, "websocket request")
        self.keep(spawn(run_application(app, scope, bridge)))


def serve(
    app: object,
    host: Hosts = HOST,
    port: int = PORT,
    *,
    bind: str | Sequence[str] | None = None,
    ssl: ssl_module.SSLContext | Certificates | None = None,
    uds: Path | None = None,
    uds_mode: int | None = None,
    sock: Sockets = None,
    trusted_proxies: Sequence[str] | str = (),
    proxy_headers: ProxyHeaders = "x-forwarded",
    proxy_protocol: bool = False,
    origins: Origins = None,
    subprotocols: Sequence[str] = (),
    authenticate: Authenticate | None = None,
    deflate: Deflate | None = Deflate(),  # noqa: B008 # frozen
    limits: Limits = Limits(),  # noqa: B008 # frozen
    keepalive: Keepalive | None = Keepalive(),  # noqa: B008 # frozen
    access_log: bool | AccessLog = False,
) -> Server:
    """A server on one port, for ``async with`` (or ``await``) in a running event loop.

    ::

        async with portico.serve(app, "127.0.0.1", 8000) as server:
            await server.serve_forever()

    - `app`: a `portico.App`, a coroutine handler or an `Endpoint` (for every path), or an ASGI 3 application.
    - `host`: a name or address, a list of them, None for all of the machine's; `port`: 0 lets the system choose.
    - `bind`, in place of both: one or several of ``HOST:PORT`` (``[::1]:8000``, ``:8000`` for all), ``unix:PATH``,
      ``fd://NUMBER`` for an inherited socket, ``systemd`` or ``systemd:NAME`` for those of socket activation. All of
      them are had, or the start fails.
    - `uds`: a path for a Unix socket, with the mode `uds_mode` (None: what the umask leaves); `sock`: one or several
      bound sockets: either in place of `host` and `port`.
    - `ssl`: `portico.Certificates`, or a server-side ``ssl.SSLContext``.
    - `trusted_proxies`: addresses and networks of proxies, ``"unix"`` for who comes by a Unix socket, ``"*"`` for
      whoever connects. What they say of their clients in `proxy_headers` holds for ``request.client``, ``.scheme`` and
      ``.host``, for ASGI scopes and for same-origin checks: ``"x-forwarded"`` (``X-Forwarded-For``, ``-Proto``,
      ``-Host``) or ``"forwarded"`` (RFC 7239), whichever the proxy sets itself; the other one is never read.
    - `proxy_protocol`: every connection has to begin with a PROXY header, version 1 or 2, from a trusted proxy.
    - `origins`: None lets only pages of the same origin connect; a list of origins (strings or compiled patterns),
      ``["*"]`` for any. Clients that send no Origin are no browsers, and are let in.
    - `subprotocols`: those supported, in order of preference; an ASGI application chooses by itself.
    - `authenticate`: a function of the `Request`, plain or a coroutine function, run before the 101 of every WebSocket;
      it returns the user (``ws.user``; ``scope["user"]`` in ASGI) or raises `portico.Refuse`.
    - `deflate`: `portico.Deflate`, None for no compression. `limits`: `portico.Limits`. `keepalive`:
      `portico.Keepalive`, None for no pings.
    - `access_log`: whether each request and each WebSocket has its line in the log ``portico.access``, at INFO.

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
    places = Places(host, port, bind=bind, uds=uds, uds_mode=uds_mode, sock=sock)
    proxies = Proxies.of(trusted_proxies, proxy_headers, proxy_protocol)
    return Server(App.of(app), options, places, ssl=ssl, proxies=proxies, access_log=access_log)


def run(app: object, host: Hosts = HOST, port: int = PORT, **options: Any) -> None:
    """Serve until SIGINT or SIGTERM, then stop in order; a second signal ends the process at once, with status 1.
    Arguments as for `serve`."""

    rest: Rest | None = None

    async def main() -> None:
        nonlocal rest
        async with serve(app, host, port, **options) as server:
            rest = await until_signal(server)

    try:
        asyncio.run(main())
    finally:
        if rest is not None:
            rest.over()
