"""What one read brings may be a thousand times as much once it is inflated, and what comes in small pieces may weigh
more than its bytes: neither may take the event loop for itself, nor more memory than the limits allow."""

from __future__ import annotations

import asyncio
import socket
import sys
import tracemalloc
import zlib
from collections import Counter
from typing import Any

import pytest
from tests.hostile.target import KIB
from tests.support import BINARY, TEXT, Peer, Waiting, frame, pages, paused, serving, until

import portico
from portico.websocket.driver import LOOKAHEAD_BYTES, SCANS_A_TURN

RSV1 = 0x40
DEFLATE = "permessage-deflate"
READ_BYTES = 64 * KIB  # what comes in one read, at least, if it was sent at once


def packed(data: bytes) -> bytes:
    """A message's data, compressed by itself (RFC 7692 §7.2.1)."""
    packer = zlib.compressobj(9, wbits=-15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Turns(portico.Endpoint):
    """Counts the messages that come in each turn of the loop. With `stop` it pauses reading at each message."""

    def __init__(self, *, stop: bool = False) -> None:
        self.stop = stop
        self.turn = 0
        self.messages: Counter[int] = Counter()
        self.ws: portico.WebSocket | None = None

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        self.ws = ws
        self.messages[self.turn] += 1
        if self.stop:
            ws.stream.pause()

    async def count(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.turn += 1


async def test_an_endpoint_gets_a_part_in_each_turn_of_the_loop() -> None:
    """60 messages of 1 MiB in one read: others have their turn between them."""
    endpoint = Turns()
    attack = frame(BINARY | RSV1, packed(bytes(1 << 20))) * 60
    assert len(attack) <= READ_BYTES
    async with serving(endpoint) as server, await Peer.connect(server) as peer:
        await peer.open(sec_websocket_extensions=DEFLATE)
        turning = asyncio.create_task(endpoint.count())
        peer.send(attack)
        await until(lambda: endpoint.messages.total() == 60)
        turning.cancel()
    assert max(endpoint.messages.values()) <= SCANS_A_TURN


async def test_an_endpoint_that_pauses_gets_no_more_until_it_resumes() -> None:
    """Also of what was read already: one message for each time that it resumes, all of them, and then the end."""
    endpoint = Turns(stop=True)
    attack = frame(BINARY | RSV1, packed(bytes(1 << 20))) * 10
    async with serving(endpoint) as server, await Peer.connect(server) as peer:
        await peer.open(sec_websocket_extensions=DEFLATE)
        peer.send(attack + frame(0x88, b"\x03\xe8"))
        for count in range(1, 11):
            await until(lambda: endpoint.messages.total() >= count)  # noqa: B023 # it is over before the next one
            await paused(server)
            assert endpoint.messages.total() == count
            assert endpoint.ws is not None
            endpoint.ws.stream.resume()
        assert await peer.closed_with(1000) == ""


@pytest.mark.parametrize("size", [100_000, 990_000])
async def test_a_session_holds_no_more_than_may_be_unread(size: int) -> None:
    """Realtime: `max_unread_bytes` is held to after each message, not after each read; and nothing is lost."""
    io = portico.Realtime()
    waiting = Waiting()
    handled: list[int] = []

    @io.on("event")
    async def event(client: portico.realtime.Client, number: int, text: str) -> None:
        await waiting.stay()
        assert len(text) == size
        handled.append(number)

    app = portico.App()
    app.mount("/socket.io", io)
    texts = [f'42["event",{number},"{"a" * size}"]'.encode() for number in range(40)]
    attack = b"".join(frame(TEXT | RSV1, packed(text)) for text in texts)
    assert len(attack) <= READ_BYTES
    async with serving(app) as server, await Peer.connect(server) as peer:
        await peer.open("/socket.io/?EIO=4&transport=websocket", sec_websocket_extensions=DEFLATE)
        assert (await peer.frame())[1].startswith(b"0{")
        peer.send(frame(TEXT, b"40"))
        assert (await peer.frame())[1].startswith(b"40{")
        peer.send(attack)
        await waiting.reached()
        await paused(server)
        [session] = io.engine.sessions.values()
        most = io.engine.options.max_unread_bytes
        assert session.has_room(-2 * size - 3 * 200), "more than two messages over the limit are held"
        assert not session.has_room(most)
        waiting.go.set()
        await until(lambda: len(handled) == 40)
        assert handled == list(range(40))


@pytest.mark.parametrize("part", ["[]", "{}", '"ab"', "0.5", '{"a":[]}', '"\u20ac"'])
async def test_unread_events_weigh_what_they_take_of_memory(part: str) -> None:
    """Realtime: two bytes of text may become a list of 56, so that `max_unread_bytes` counts what became of them."""
    io = portico.Realtime()
    waiting = Waiting()
    count, size = 400, 2000
    handled: list[int] = []

    @io.on("event")
    async def event(client: portico.realtime.Client, number: int, parts: list[Any]) -> None:
        await waiting.stay()
        handled.append(number)

    app = portico.App()
    app.mount("/socket.io", io)
    parts = ",".join([part] * (size // (len(part) + 1)))
    texts = [f'42["event",{number},[{parts}]]'.encode() for number in range(count)]
    async with serving(app) as server, await Peer.connect(server) as peer:
        await peer.open("/socket.io/?EIO=4&transport=websocket")
        assert (await peer.frame())[1].startswith(b"0{")
        peer.send(frame(TEXT, b"40"))
        assert (await peer.frame())[1].startswith(b"40{")
        peer.send(b"".join(frame(TEXT, text) for text in texts))
        await waiting.reached()
        await paused(server)
        [client] = [client for session in io.engine.sessions.values() for client in session.channel.clients.values()]
        held = memory(list(client._inbox))
        part_of_a_read = (LOOKAHEAD_BYTES // size + 2) * held // len(client._inbox)
        assert held < 1.2 * io.engine.options.max_unread_bytes + part_of_a_read
        waiting.go.set()
        await until(lambda: len(handled) == count)
        assert handled == list(range(count))


def memory(value: Any) -> int:
    """Bytes of a value and of all that is in it."""
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sys.getsizeof(value) + sum(memory(item) for item in inner)


async def test_a_body_in_tiny_pieces_weighs_about_what_its_bytes_do() -> None:
    """`Limits.max_body_buffer_bytes` bounds memory: pieces are put together while nobody reads them."""
    pieces = 3000
    waiting = Waiting()
    came: list[bytes] = []

    async def http(scope: Any, receive: Any, send: Any) -> None:
        await waiting.stay()
        more = True
        while more:
            message = await receive()
            came.append(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async with serving(pages(http)) as server, await Peer.connect(server) as peer:
        peer.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (2 * pieces))
        await waiting.reached()
        [connection] = server.connections
        head = connection._stream.bytes_in
        body = [b"%02d" % (number % 100) for number in range(pieces)]
        for count, piece in enumerate(body, 1):
            if count == 10:  # what is made once is made
                tracemalloc.start()
                before = tracemalloc.get_traced_memory()[0]
            peer.send(piece)
            while connection._stream.bytes_in < head + 2 * count:
                await asyncio.sleep(0)
        try:
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert held < 4 * 2 * pieces, held
        waiting.go.set()
        assert (await peer.answer()).status == 204
    assert b"".join(came) == b"".join(body)
