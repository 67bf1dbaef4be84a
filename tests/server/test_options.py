"""Options: wrong ones are refused where they are given, with a text that helps; a route's take the server's place."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest
from tests.support import BINARY, PING, Peer, frame, serving, upgrade

import portico


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class Plain(portico.Endpoint):
    pass


class Waits(portico.Endpoint):
    async def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:  # type: ignore[override] # wrong
        pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"origins": "https://a.example"}, "expected a list of origins"),
        ({"origins": [1]}, "expected a list of origins"),
        ({"origins": {"https://a.example"}}, "expected a list of origins"),
        ({"subprotocols": "chat"}, "expected a list of tokens"),
        ({"subprotocols": ["two words"]}, "expected a list of tokens"),
        ({"subprotocols": [b"chat"]}, "expected a list of tokens"),
        ({"subprotocols": None}, "expected a list of tokens"),
        ({"authenticate": "secret"}, "expected a function"),
        ({"deflate": True}, "expected a portico.Deflate"),
        ({"limits": None}, "expected a portico.Limits"),
        ({"limits": {"max_message_bytes": 1}}, "expected a portico.Limits"),
        ({"keepalive": 25}, "expected a portico.Keepalive"),
    ],
)
def test_wrong_values(options: dict[str, Any], said: str) -> None:
    """On the server and on a route alike, at the call."""
    with pytest.raises(portico.LocalError, match=said):
        portico.serve(echo, **options)
    with pytest.raises(portico.LocalError, match=said):
        portico.App().websocket("/", echo, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": 1}, "host=1"),
        ({"port": "8000"}, "from 0 to 65535"),
        ({"port": 65536}, "from 0 to 65535"),
        ({"port": -1}, "from 0 to 65535"),
        ({"port": True}, "from 0 to 65535"),
        ({"ssl": True}, "expected an ssl.SSLContext"),
        ({"uds": "/tmp/x", "sock": socket.socket}, "exclude each other"),
    ],
)
def test_wrong_places(options: dict[str, Any], said: str) -> None:
    with pytest.raises(portico.LocalError, match=said):
        portico.serve(echo, **options)


def not_a_coroutine(ws: portico.WebSocket) -> None:
    pass


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (not_a_coroutine, "async def handler"),
        (Plain, r"an instance, Plain\(\)"),
        (Waits(), "Waits.on_message is a coroutine function"),
        ("module:app", "expected a coroutine function or a portico.Endpoint"),
        (None, "expected a coroutine function or a portico.Endpoint"),
    ],
)
def test_wrong_handlers(handler: Any, said: str) -> None:
    with pytest.raises(portico.LocalError, match=said):
        portico.serve(handler)
    if handler is not None:
        with pytest.raises(portico.LocalError, match=said):
            portico.App().websocket("/", handler)


def test_wrong_routes() -> None:
    app = portico.App()
    app.websocket("/ws", echo)
    app.mount("/pages", echo)  # type: ignore[arg-type] # what it does is not looked at
    with pytest.raises(portico.LocalError, match="has a handler already"):
        app.websocket("/ws", echo)
    with pytest.raises(portico.LocalError, match="mounted there already"):
        app.mount("/pages/", echo)  # type: ignore[arg-type] # as above
    with pytest.raises(portico.LocalError, match="begins with '/'"):
        app.websocket("ws", echo)
    with pytest.raises(portico.LocalError, match="begins with '/'"):
        app.mount("", echo)  # type: ignore[arg-type] # as above
    with pytest.raises(portico.LocalError, match="expected an ASGI application"):
        app.mount("/other", "module:app")  # type: ignore[arg-type] # wrong
    with pytest.raises(portico.LocalError, match=r"unknown option orgins=: expected origins, subprotocols"):
        app.websocket("/other", echo, orgins=[])


def test_a_decorator_gives_back_what_it_decorates() -> None:
    app = portico.App()
    assert app.websocket("/echo")(echo) is echo


async def test_a_routes_own_options() -> None:
    """Each of them takes the place of the server's on its path, and nowhere else."""
    app = portico.App()
    app.websocket("/server", echo)
    app.websocket("/limits", echo, limits=portico.Limits(max_message_bytes=10))
    app.websocket("/origins", echo, origins=[re.compile("https://.*")])
    app.websocket("/subprotocols", echo, subprotocols=["route"])
    app.websocket("/authenticate", echo, authenticate=lambda request: None)
    app.websocket("/deflate", echo, deflate=None)
    app.websocket("/keepalive", echo, keepalive=portico.Keepalive(ping_interval_s=0.05))

    def nobody(request: portico.Request) -> None:
        if "x-let-in" not in request.headers:
            raise portico.Refuse("nobody")

    asked = {
        "origin": "https://a.example",
        "sec_websocket_protocol": "server, route",
        "sec_websocket_extensions": "permessage-deflate",
        "x_let_in": "please",
    }
    async with serving(
        app,
        origins=["https://a.example"],
        subprotocols=["server"],
        authenticate=nobody,
        limits=portico.Limits(max_message_bytes=100),
        keepalive=None,
    ) as server:

        async def status(path: str, **change: str | None) -> int:
            async with await Peer.connect(server) as peer:
                peer.send(upgrade(path, **{**asked, **change}))
                return (await peer.head()).status

        async def close_code(path: str) -> int:
            async with await Peer.connect(server) as peer:
                await peer.open(path, **asked)
                peer.send(frame(BINARY, bytes(11)))
                first, payload = await peer.frame()
                return 0 if first == BINARY else int.from_bytes(payload[:2], "big")

        async def header(path: str, name: str) -> str | None:
            async with await Peer.connect(server) as peer:
                return (await peer.open(path, **asked)).header(name)

        assert await close_code("/server") == 0
        assert await close_code("/limits") == 1009
        assert await status("/server", origin="https://b.example") == 403
        assert await status("/origins", origin="https://b.example") == 101
        assert await header("/server", "sec-websocket-protocol") == "server"
        assert await header("/subprotocols", "sec-websocket-protocol") == "route"
        assert await status("/server", x_let_in=None) == 403
        assert await status("/authenticate", x_let_in=None) == 101
        assert await header("/server", "sec-websocket-extensions") is not None
        assert await header("/deflate", "sec-websocket-extensions") is None
        async with await Peer.connect(server) as peer:
            await peer.open("/keepalive", **asked)
            assert (await peer.frame())[0] == PING


async def test_what_serve_takes() -> None:
    """An App, a coroutine handler, an Endpoint (for every path), or an ASGI application."""

    class Asgi:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.accept"})

    app = portico.App()
    app.websocket("/any/path", echo)
    for target in (app, echo, Plain(), Asgi(), Asgi().__call__):
        async with serving(target) as server, await Peer.connect(server) as peer:
            await peer.open("/any/path")


def test_a_route_refuses_limits_that_hold_before_it_is_known() -> None:
    app = portico.App()
    with pytest.raises(portico.LocalError, match="max_connections"):
        app.websocket("/x", portico.Endpoint(), limits=portico.Limits(max_connections=1))
