"""What one peer costs is told in one place, and every limit that is reached is counted."""

from __future__ import annotations

import asyncio

from tests.support import Peer, frame, get, serving, until

import portico

CLOSES = [
    # limits, what the peer sends, close code, the limit's name
    (portico.Limits(max_message_bytes=10), frame(0x82, b"x" * 11), 1009, "max_message_bytes"),
    (portico.Limits(max_fragments=2), frame(0x02) + frame(0x00) * 2, 1008, "max_fragments"),
    (portico.Limits(assembly_timeout_s=0.05), frame(0x02, b"x"), 1008, "assembly_timeout_s"),
]


async def test_a_limit_that_is_reached_is_named_in_the_close_and_counted() -> None:
    for limits, sent, code, name in CLOSES:
        ended: asyncio.Future[portico.Close] = asyncio.get_running_loop().create_future()

        class Ending(portico.Endpoint):
            def on_close(self, ws: portico.WebSocket, close: portico.Close, ended: asyncio.Future = ended) -> None:
                ended.set_result(close)

        async with serving(Ending(), limits=limits) as server, await Peer.connect(server) as peer:
            await peer.open("/")
            peer.send(sent)
            await peer.closed_with(code)
            await peer.to_end()
            close = await ended
            assert isinstance(close.cause, portico.LimitExceeded)
            assert close.cause.limit == name
            assert server.counters.exceeded == {name: 1}
            assert server.counters.closed == {code: 1}


async def test_a_slow_peer_is_counted() -> None:
    sockets: list[portico.WebSocket] = []

    class Flood(portico.Endpoint):
        def on_open(self, ws: portico.WebSocket) -> None:
            sockets.append(ws)

    limits = portico.Limits(max_outbox_bytes=100_000, high_water_bytes=50_000)
    async with serving(Flood(), limits=limits) as server, await Peer.connect(server) as peer:
        await peer.open("/")
        [ws] = sockets
        while ws.write(b"x" * 10_000) is not portico.Sent.DROPPED:
            await asyncio.sleep(0)
        assert isinstance(ws.closed and ws.closed.cause, portico.LimitExceeded)
        assert server.counters.exceeded == {"max_outbox_bytes": 1}


async def test_refused_requests_are_counted_by_status() -> None:
    async with serving(portico.App()) as server:
        for request in (get("/nowhere"), b"BAD\r\n\r\n"):
            async with await Peer.connect(server) as peer:
                peer.send(request)
                await peer.to_end()
        assert server.counters.refused == {404: 1, 400: 1}


async def test_the_cost_of_a_connection_is_what_it_holds() -> None:
    """Unread messages, the message under assembly, zlib's state, the outbox."""
    sockets: list[portico.WebSocket] = []
    over = asyncio.Event()

    async def handler(ws: portico.WebSocket) -> None:
        sockets.append(ws)
        await over.wait()

    async with serving(handler) as server, await Peer.connect(server) as peer:
        await peer.open("/")
        await until(lambda: bool(sockets))
        [ws] = sockets
        assert ws.cost == portico.Cost()
        peer.send(frame(0x82, b"x" * 1000) + frame(0x02, b"y" * 500))
        await until(lambda: ws.cost.assembly == 500)
        assert ws.cost.unread == 1000 + 64
        ws.write(b"z" * 100)
        assert ws.cost.outbox == 102
        assert ws.cost.total == 1064 + 500 + 102
        over.set()
