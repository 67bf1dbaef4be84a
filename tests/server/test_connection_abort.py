"""`Connection.abort`: an operator drops one connection, and each side sees what it sees when a network breaks."""

from __future__ import annotations

import asyncio

from tests.support import GUARD_S, Peer

import portico


class Ends(portico.Endpoint):
    """Tells how its connection ended."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.ended: asyncio.Future[portico.Close] = asyncio.get_running_loop().create_future()

    def on_open(self, ws: portico.WebSocket) -> None:
        self.opened.set()

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None: ...

    def on_close(self, ws: portico.WebSocket, close: portico.Close) -> None:
        self.ended.set_result(close)


async def test_a_websocket_that_is_dropped_ends_with_1006_and_no_frame() -> None:
    """RFC 6455 §7.1.5: no Close frame came, so 1006; and the others stay."""
    ends = Ends()
    app = portico.App()
    app.websocket("/", ends)
    async with (
        asyncio.timeout(GUARD_S),
        portico.serve(app, "127.0.0.1", 0) as server,
        await Peer.connect(server) as peer,
        await Peer.connect(server) as other,
    ):
        await peer.open("/")
        await ends.opened.wait()
        for connection in server.connections:
            if connection.protocol == "websocket":
                connection.abort()
                assert connection.state == "closed"
        assert await peer.to_end() == b""
        close = await ends.ended
        assert (close.code, close.clean) == (1006, False)
        assert [one.peer for one in server.connections] == [other.writer.get_extra_info("sockname")]
