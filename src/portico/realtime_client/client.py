"""`RealtimeClient`: what connects to a Socket.IO server, and stays connected."""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

from portico.client.arguments import HeaderItems
from portico.client.backoff import Backoff
from portico.errors import LocalError
from portico.limits import Deflate, Limits
from portico.realtime_client.address import address
from portico.realtime_client.link import Link, Options
from portico.realtime_client.namespace import Namespace
from portico.wire.formats import Name as PacketFormat
from portico.wire.formats import format_named

MIB: Final = 1024 * 1024
UNCHANGED: Final[Any] = object()

Auth = dict[str, Any] | Callable[[], Any] | None


class RealtimeClient(Namespace):
    """A client of a Socket.IO v5 server: Portico's, socket.io 3 and 4 on Node, python-socketio 5.

    ::

        client = portico.RealtimeClient("https://example.com", auth=ask_for_a_token)

        @client.on("chat")
        async def chat(text): ...

        async with client:
            client.emit("chat", "hello")
            answer = await client.call("add", 1, 2, timeout=5)
            await client.wait()

    `url` is an origin (``http:``, ``https:``, ``ws:`` or ``wss:``), perhaps with a query that every request gets.

    - `path` ("/socket.io/"): where the server answers. `namespace` ("/"): which one the client itself is.
    - `transports`: ["polling", "websocket"], which begins with polling and is upgraded, ["websocket"] or ["polling"].
    - `auth`: a dict, or a function, async or not, that returns one: it is asked anew before each attempt. For every
      namespace that has no ``auth=`` of its own.
    - `headers`, `ssl`, `proxy`, `deflate`, `limits`, `open_timeout_s`: as for `portico.connect`; HTTP goes through a
      proxy's tunnel, too.
    - `reconnect` (True): come back when the connection was lost, after the delays of `backoff`.
    - `connect_timeout_s` (20): for the server to answer whether it lets us into a namespace.
    - `max_outbox_bytes` (1 MiB): of events that wait to be sent; beyond it, `emit` raises OutboxFull.
    - `max_event_bytes` (16 MiB): an event that comes, with its attachments; beyond it, the connection is ended.
    - `max_polled_bytes` (16 MiB): an answer to a poll, and the missed events that a recovery brings.
    - `packets`: ``"json"``, or ``"msgpack"`` for a server that expects that.

    Raises LocalError at once for a wrong argument.
    """

    def __init__(
        self,
        url: str,
        *,
        path: str = "/socket.io/",
        namespace: str = "/",
        transports: Sequence[str] = ("polling", "websocket"),
        auth: Auth = None,
        headers: HeaderItems = (),
        ssl: ssl_module.SSLContext | None = None,
        proxy: bool | str | None = True,
        deflate: Deflate | None = Deflate(),  # noqa: B008 # frozen
        limits: Limits = Limits(),  # noqa: B008 # frozen
        backoff: Backoff = Backoff(longest_s=10),  # noqa: B008 # frozen
        reconnect: bool = True,
        open_timeout_s: float = 10.0,
        connect_timeout_s: float = 20.0,
        max_outbox_bytes: int = MIB,
        max_event_bytes: int = 16 * MIB,
        max_polled_bytes: int = 16 * MIB,
        packets: PacketFormat = "json",
    ) -> None:
        place = address(
            url,
            path=path,
            transports=transports,
            headers=headers,
            ssl=ssl,
            proxy=proxy,
            deflate=deflate,
            limits=limits,
            open_timeout_s=open_timeout_s,
        )
        if not isinstance(backoff, Backoff):
            raise LocalError(f"backoff={backoff!r}: expected a Backoff")
        _check_numbers(
            connect_timeout_s=connect_timeout_s,
            max_outbox_bytes=max_outbox_bytes,
            max_event_bytes=max_event_bytes,
            max_polled_bytes=max_polled_bytes,
        )
        options = Options(
            backoff=backoff,
            reconnect=reconnect,
            connect_timeout_s=connect_timeout_s,
            max_outbox_bytes=max_outbox_bytes,
            max_event_bytes=max_event_bytes,
            max_polled_bytes=max_polled_bytes,
            packets=format_named(packets, "RealtimeClient"),
        )
        super().__init__(Link(place, options), _named(namespace), _auth(auth))
        self._link.namespaces[self.name] = self

    def of(self, name: str, *, auth: Auth = UNCHANGED) -> Namespace:
        """The namespace `name`, as "/admin": always the same object. It is connected when the client is; where the
        client is connected already, ``await namespace.connect()``. Without `auth` it gets the client's."""
        name = _named(name)
        found = self._link.namespaces.get(name)
        if found is None:
            found = Namespace(self._link, name, self._auth if auth is UNCHANGED else _auth(auth))
            self._link.namespaces[name] = found
        elif auth is not UNCHANGED:
            found._auth = _auth(auth)
        return found

    async def connect(self, *, auth: Auth = UNCHANGED, retry: bool = False) -> None:
        """Connect, with every namespace that `of` has made, and stay connected until `close`.

        Raises ConnectError where the server refuses a namespace (``data`` says more), HandshakeError where there is no
        Socket.IO server, OSError where nobody answers, and what `auth` raises; then the client is closed. With `retry`
        it keeps trying after what may pass.
        """
        if auth is not UNCHANGED:
            auth = _auth(auth)
            for namespace in self._link.namespaces.values():
                if namespace._auth is self._auth and namespace is not self:
                    namespace._auth = auth
            self._auth = auth
        if self._link.running and not self._wanted:
            await self._link.join(self)
        else:
            await self._link.start(retry)

    async def close(self) -> None:
        """Send what waits, where there is a connection; leave every namespace; end the connection. Handlers that have
        begun are waited for, at most ``Limits.handler_grace_s``. What waits for a connection is dropped."""
        await self._link.close()

    async def wait(self) -> str:
        """Wait until the client is closed, or the server has ended the last namespace; returns the reason. Raises what
        ended it else: ConnectError, HandshakeError, …"""
        return await self._link.wait()

    @property
    def transport(self) -> str:
        """The transport in use, "polling" or "websocket"; "" without a connection."""
        return self._link.transport

    @property
    def waiting(self) -> int:
        """Bytes of events that wait to be sent."""
        return self._link.budget.held

    async def __aenter__(self) -> RealtimeClient:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _named(name: Any) -> str:
    if not isinstance(name, str) or not name.startswith("/") or "," in name or "?" in name:
        raise LocalError(f'namespace {name!r}: expected a name that begins with /, as "/admin", without , and ?')
    return name


def _auth(auth: Any) -> Any:
    if auth is not None and not isinstance(auth, dict) and not callable(auth):
        raise LocalError(f"auth=: expected a dict, a function that returns one, or None; got {type(auth).__name__}")
    return auth


def _check_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise LocalError(f"{name}={value!r}: expected a number above 0")
