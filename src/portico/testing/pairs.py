"""The two ends of one connection in one event loop: client and server as they are, and no port."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from portico.client.connect import connect
from portico.limits import Deflate, Keepalive, Limits
from portico.net.stream import Stream
from portico.server.server import Server, serve
from portico.testing.link import Link
from portico.websocket import Endpoint, WebSocket

NOTHING: Final[Mapping[str, Any]] = {}


class Pair(NamedTuple):
    """The two ends of one connection."""

    client: WebSocket
    server: WebSocket


@contextlib.asynccontextmanager
async def pair(
    handler: object = None,
    *,
    endpoint: Endpoint | None = None,
    link: Link | None = None,
    uri: str = "ws://pair.test/",
    subprotocols: Sequence[str] = (),
    deflate: Deflate | None = Deflate(),  # noqa: B008 # frozen
    limits: Limits = Limits(),  # noqa: B008 # frozen
    keepalive: Keepalive | None = Keepalive(),  # noqa: B008 # frozen
    client: Mapping[str, Any] = NOTHING,
    server: Mapping[str, Any] = NOTHING,
) -> AsyncIterator[Pair]:
    """Both ends of one connection that runs the real code on both sides, over ``socket.socketpair()``.

    ::

        async with pair(echo) as (client, server):
            await client.send("hello")
            assert await client.recv() == "hello"

    - `handler`: the server's, as for `portico.serve`. Without one the server's end is yours as well: read it, or let
      it be. `endpoint`: the client's callbacks, in place of ``recv()``.
    - `link`: a `Link` to put between the two; it stays yours to close.
    - `uri`: what the client asks for; `handler` may be an App with a route for it.
    - `subprotocols`, `deflate`, `limits`, `keepalive`: both ends'. `client` and `server`: further options of
      `portico.connect` and `portico.serve`, or other ones for that end alone.

    The server's end is in place when the client's is. At the end of the block the connection is closed with 1000, or
    dropped where `link` passes nothing. Raises what `portico.connect` raises where the handshake fails.
    """
    both = {"subprotocols": subprotocols, "deflate": deflate, "limits": limits, "keepalive": keepalive}
    inner, outer = socket.socketpair() if link is None else (link.client, link.server)
    with contextlib.ExitStack() as unused:
        unused.callback(inner.close)
        unused.callback(outer.close)
        ours = {**both, **server, "sock": _nowhere()}
        theirs = {"exclusive": False, **both, **client, "endpoint": endpoint, "sock": inner}
        try:
            running = serve(_hold if handler is None else handler, **ours)
            connecting = connect(uri, **theirs)
        except BaseException:
            ours["sock"].close()
            raise
        async with running:
            unused.pop_all()
            stream = _adopt(running, outer)
            near = await connecting
            far = cast(WebSocket, stream.protocol)  # the client's handshake is over, so the server has switched
            try:
                yield Pair(near, far)
            finally:
                if link is None or link.passing:
                    await near.close()
                else:
                    near.stream.abort()
                    far.stream.abort()


def _adopt(server: Server, sock: socket.socket) -> Stream:
    server.adopt(sock)
    [stream] = server._streams()
    return stream


async def _hold(ws: WebSocket) -> None:
    """The handler of an end that the test holds: stay until the connection is over, and take nothing."""
    over = ws._end_future()
    if over is not None:
        await over


def _nowhere() -> socket.socket:
    """A socket to listen on that nobody can reach: its path is gone before it listens."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        with tempfile.TemporaryDirectory() as directory:
            sock.bind(os.path.join(directory, "s"))
    except BaseException:
        sock.close()
        raise
    return sock
