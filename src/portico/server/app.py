"""What a server serves: WebSocket routes and mounted ASGI applications, found by path. Owns no connection."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

from portico.accounting import Counters
from portico.errors import LocalError
from portico.limits import Deflate, Keepalive, Limits
from portico.server.static import CacheControl, StaticFiles
from portico.websocket import Endpoint, Settings, WebSocket
from portico.wire.headers import is_token
from portico.wire.request import Request

if TYPE_CHECKING:
    from portico.server.exchange import Exchange

Handler = Callable[[WebSocket], Awaitable[object]]
Authenticate = Callable[[Request], Any]
Origins = Sequence[str | re.Pattern[str]] | None
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]

CONNECTION_LIMITS = (
    "max_head_bytes",
    "max_headers",
    "head_timeout_s",
    "max_body_buffer_bytes",
    "min_progress_bytes",
    "progress_window_s",
    "keep_alive_s",
    "max_pipelined",
    "drain_s",
    "stop_timeout_s",
    "max_connections",
    "max_connections_per_address",
)

AnyHandler = TypeVar("AnyHandler", bound=Handler | Endpoint)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options that a server, or one route of it, may have; see `portico.serve`."""

    origins: Origins = None
    subprotocols: Sequence[str] = ()
    authenticate: Authenticate | None = None
    deflate: Deflate | None = field(default_factory=Deflate)
    limits: Limits = field(default_factory=Limits)
    keepalive: Keepalive | None = field(default_factory=Keepalive)

    def __post_init__(self) -> None:
        if self.origins is not None and not _is_list(self.origins, str, re.Pattern):
            raise LocalError(
                f"origins={self.origins!r}: expected a list of origins (strings or compiled patterns), or None for the "
                "server's own"
            )
        if not _is_list(self.subprotocols, str) or not all(is_token(name) for name in self.subprotocols):
            raise LocalError(f"subprotocols={self.subprotocols!r}: expected a list of tokens (RFC 6455 §4.1)")
        if self.authenticate is not None and not callable(self.authenticate):
            raise LocalError(f"authenticate={self.authenticate!r}: expected a function of one argument, the request")
        for name, kind in (("deflate", Deflate), ("limits", Limits), ("keepalive", Keepalive)):
            value = getattr(self, name)
            if not isinstance(value, kind) and (value is not None or name == "limits"):
                raise LocalError(f"{name}={value!r}: expected a portico.{kind.__name__}")


class Route:
    """One WebSocket handler under one server's options."""

    __slots__ = ("handler", "options", "pull", "settings")

    def __init__(self, handler: Handler | Endpoint, options: Options, counters: Counters) -> None:
        self.handler = handler
        self.options = options
        self.pull = not isinstance(handler, Endpoint)
        self.settings = Settings(options.limits, options.keepalive, counters)


class Native:
    """Something mounted, under one server's options: an ASGI application for HTTP that takes WebSockets at its very
    path natively, by ``route``."""

    route: Route

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError

    def take(self, exchange: Exchange, root: str) -> bool:
        """Answer a request by hand, now or later; False where it is the ASGI application's affair."""
        return False

    def stop(self) -> None:
        """The server begins to stop."""


class Mountable:
    """What `App.mount` takes besides ASGI applications. ``path``: where it is served on its own."""

    path: str

    def bound(self, options: Options, counters: Counters) -> Native:
        """This under one server's options."""
        raise NotImplementedError


class App:
    """WebSocket handlers and ASGI applications on one port, each at its path.

    ::

        app = portico.App()
        app.websocket("/echo", echo)  # a coroutine function or an Endpoint; also as a decorator
        app.mount("/", asgi_app)  # any ASGI 3 application: HTTP, and its own websockets
        app.static("/assets", "dist/assets")  # the files of a directory
    """

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[Handler | Endpoint, dict[str, Any]]] = {}
        self._any: tuple[Handler | Endpoint, dict[str, Any]] | None = None
        self._mounts: dict[str, AsgiApp | Mountable] = {}

    @overload
    def websocket(self, path: str, handler: AnyHandler, **options: Any) -> AnyHandler: ...

    @overload
    def websocket(self, path: str, handler: None = None, **options: Any) -> Callable[[AnyHandler], AnyHandler]: ...

    def websocket(self, path: str, handler: Any = None, **options: Any) -> Any:
        """Serve WebSockets at `path` (exactly) with `handler`, a coroutine function of one argument or an Endpoint.

        `options` (``origins``, ``subprotocols``, ``authenticate``, ``deflate``, ``limits``, ``keepalive``) take the
        place of the server's for this path. Without `handler` this is a decorator. Raises LocalError for a path that
        doesn't begin with ``/`` or is taken, a handler of another kind, an unknown option or a wrong value.
        """
        if handler is None:
            return lambda function: self.websocket(path, function, **options)
        _check_path(path)
        if path in self._handlers:
            raise LocalError(f"websocket({path!r}): this path has a handler already")
        check_handler(handler)
        _check_options(options)
        self._handlers[path] = handler, options
        return handler

    def mount(self, path: str, app: AsgiApp | Mountable) -> None:
        """Serve an ASGI 3 application, or a `Realtime`, at `path` and below; of several mounts the longest path wins.

        Its scopes' ``root_path`` is `path` without a final slash. Raises LocalError for a path that is taken or
        something that can't be called.
        """
        _check_path(path)
        prefix = path.rstrip("/")
        if prefix in self._mounts:
            raise LocalError(f"mount({path!r}): something is mounted there already")
        if not callable(app) and not isinstance(app, Mountable):
            raise LocalError(f"mount({path!r}, {app!r}): expected an ASGI application")
        self._mounts[prefix] = app

    def static(
        self,
        path: str,
        directory: str | os.PathLike[str],
        *,
        html: bool = False,
        cache_control: CacheControl = None,
        content_types: Mapping[str, str] | None = None,
        precompressed: bool = True,
        follow_symlinks: bool = False,
        hidden: bool = False,
    ) -> None:
        """Serve the files of `directory` at `path` and below (GET and HEAD), as `mount` does an application.

        With ETag, Last-Modified and conditions (RFC 9110 §13), and one or several ranges (§14).

        - `html`: a path that ends in ``/`` is that directory's ``index.html``; one that is a directory and doesn't is
          redirected there; the root's ``404.html``, if there is one, is the page for what isn't found.
        - `cache_control`: the header's value, or a function of the file's path below `directory` that returns it
          or None. It is called in a thread.
        - `content_types`: endings and their types, ``{".glb": "model/gltf-binary"}``, before the built-in ones.
        - `precompressed`: ``app.js.br``, ``app.js.zst`` or ``app.js.gz`` is sent for ``app.js`` to who accepts it
          (§12.5.3). Whoever builds the one must build the others again: no dates are compared.
        - `follow_symlinks`: where False, a link is followed only if it stays beneath `directory`.
        - `hidden`: where False, names that begin with a dot are not found, but for ``.well-known``.

        Raises LocalError for a path that is taken, a directory that isn't there, or a value of another kind.
        """
        files = StaticFiles(
            directory,
            html=html,
            cache_control=cache_control,
            content_types=content_types,
            precompressed=precompressed,
            follow_symlinks=follow_symlinks,
            hidden=hidden,
        )
        self.mount(path, files)

    def bind(self, options: Options, counters: Counters) -> Site:
        """This application under one server's options."""
        routes = {path: _route(pair, options, counters) for path, pair in self._handlers.items()}
        mounts: list[tuple[str, AsgiApp]] = []
        for prefix, app in sorted(self._mounts.items(), key=lambda item: -len(item[0])):
            if isinstance(app, Mountable):
                native = app.bound(options, counters)
                for path in {prefix, prefix + "/"} - {""}:
                    routes.setdefault(path, native.route)
                mounts.append((prefix, native))
            else:
                mounts.append((prefix, app))
        return Site(routes, _route(self._any, options, counters) if self._any else None, mounts, options, counters)

    @staticmethod
    def of(target: object) -> App:
        """`target` as an App: itself, or around a coroutine handler or Endpoint (any path), or an ASGI application."""
        if isinstance(target, App):
            return target
        app = App()
        if isinstance(target, Mountable):
            app.mount(target.path, target)
            return app
        if not isinstance(target, (Endpoint, type)) and callable(target) and _takes_three(target):
            app.mount("/", target)
            return app
        check_handler(target)
        app._any = target, {}  # type: ignore[assignment] # check_handler knows what it is
        return app


class Site:
    """An App bound to a server's options, ready to be asked."""

    __slots__ = ("_any", "_mounts", "_routes", "only", "options", "routes", "settings")

    def __init__(
        self,
        routes: dict[str, Route],
        any_path: Route | None,
        mounts: list[tuple[str, AsgiApp]],
        options: Options,
        counters: Counters,
    ) -> None:
        self._routes = routes
        self._any = any_path
        self.routes = bool(routes) or any_path is not None  # whether there is a WebSocket handler
        self._mounts = mounts
        self.only = mounts[0] if len(mounts) == 1 and not mounts[0][0] else None  # what every path falls under
        self.options = options
        self.settings = Settings(options.limits, options.keepalive, counters)

    @property
    def mounts(self) -> list[AsgiApp]:
        """Every mounted application, once."""
        return list(dict.fromkeys(app for _, app in self._mounts))

    def stop(self) -> None:
        """The server begins to stop."""
        for app in self.mounts:
            if isinstance(app, Native):
                app.stop()

    def route(self, path: str) -> Route | None:
        """The WebSocket route at `path`."""
        return self._routes.get(path) or self._any

    def mount(self, path: str) -> tuple[str, AsgiApp] | None:
        """The mount that `path` falls under, with its root path."""
        for prefix, app in self._mounts:
            if path == prefix or path.startswith(prefix + "/"):
                return prefix, app
        return None


def _route(pair: tuple[Handler | Endpoint, dict[str, Any]], options: Options, counters: Counters) -> Route:
    handler, own = pair
    return Route(handler, replace(options, **own) if own else options, counters)


def _is_list(value: object, *kinds: type) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, kinds) for item in value)


def _check_path(path: object) -> None:
    if not isinstance(path, str) or not path.startswith("/"):
        raise LocalError(f"path {path!r}: expected one that begins with '/'")


def _check_options(options: dict[str, Any]) -> None:
    names = Options.__dataclass_fields__
    for name in options:
        if name not in names:
            raise LocalError(f"unknown option {name}=: expected {', '.join(names)}")
    limits = Options(**options).limits
    for name in CONNECTION_LIMITS:
        if getattr(limits, name) != getattr(Limits(), name):
            raise LocalError(
                f"limits=Limits({name}=…) on a route: it holds before a route is known, set it on the server"
            )


def check_handler(handler: object) -> None:
    """Raise LocalError unless `handler` is a coroutine function or an Endpoint instance with plain callbacks."""
    if isinstance(handler, Endpoint):
        for name in ("on_open", "on_message", "on_close"):
            if inspect.iscoroutinefunction(getattr(handler, name)):
                raise LocalError(
                    f"{type(handler).__name__}.{name} is a coroutine function: expected a plain one. An Endpoint's "
                    "callbacks must not wait; to wait, write a coroutine handler instead"
                )
    elif isinstance(handler, type):
        raise LocalError(f"{handler.__name__} is a class: expected an instance, {handler.__name__}()")
    elif not callable(handler):
        raise LocalError(f"handler {handler!r}: expected a coroutine function or a portico.Endpoint")
    elif not inspect.iscoroutinefunction(handler) and not inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 # an object whose __call__ is a coroutine function will do
    ):
        raise LocalError(f"handler {handler!r} is not a coroutine function: expected 'async def handler(ws)'")


def _takes_three(target: object) -> bool:
    try:
        parameters = inspect.signature(target).parameters.values()  # type: ignore[arg-type] # it was found callable
    except (TypeError, ValueError):
        return False
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters) == 3
