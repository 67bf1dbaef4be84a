"""How a WebSocket ends (RFC 6455 §7): whoever begins and whatever its handler is doing, it is told once, as a Close."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support import CLOSE, GUARD_S, PING, TEXT, Logged, Peer, close_frame, frame, serving, turns, until
from tests.told import STYLES, Told

import portico
from portico import Close

BY_PEER = Close(4000, "bye", clean=True, by="peer")
BY_US = Close(4001, "done", clean=True, by="us")
LOST = Close(1006, clean=False, by="network")


async def by_peer(ws: portico.WebSocket, peer: Peer) -> Close:
    peer.send(close_frame(4000, "bye") + frame(TEXT, b"after the close frame: ignored"))
    assert (await peer.to_end()).endswith(bytes([CLOSE, 2]) + (4000).to_bytes(2, "big"))
    return BY_PEER


async def by_us(ws: portico.WebSocket, peer: Peer) -> Close:
    closing = ws.close(4001, "done")
    with pytest.raises(portico.ConnectionClosed):
        await ws.send("after the close frame")
    assert ws.write("after the close frame") is portico.Sent.CLOSED
    first = 0
    while first != CLOSE:
        first, payload = await peer.frame()
    assert payload == (4001).to_bytes(2, "big") + b"done"
    peer.send(close_frame(4001))
    assert await peer.to_end() == b""  # the server ends TCP first (§7.1.1)
    await closing
    return BY_US


async def both_at_once(ws: portico.WebSocket, peer: Peer) -> Close:
    """Two close frames cross; each side's is the other's answer (§7.1.4)."""
    ws.close(4001, "done")
    peer.send(close_frame(4000, "bye"))
    await peer.to_end()
    return BY_US


async def fin(ws: portico.WebSocket, peer: Peer) -> Close:
    peer.writer.write_eof()
    await peer.to_end()
    return LOST


async def rst(ws: portico.WebSocket, peer: Peer) -> Close:
    peer.reset()
    return LOST


ENDS = [by_peer, by_us, both_at_once, fin, rst]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("style", STYLES)
async def test_each_end_is_told_once(style: str, end: Callable[[portico.WebSocket, Peer], Awaitable[Close]]) -> None:
    it = Told()
    limits = portico.Limits(handler_grace_s=0.1 if style == "idle" else GUARD_S)
    async with serving(it.handler(style), limits=limits) as server, await Peer.connect(server) as peer:
        await peer.open()
        await until(lambda: it.sockets)
        [ws] = it.sockets
        assert ws.closed is None
        expected = await end(ws, peer)
        await until(lambda: it.ends)
        await until(lambda: server.connection_count == 0)
        await turns()
    assert it.ends == [expected]
    assert ws.closed == expected
    assert end is rst or ws.closed.cause is None


class TestBeginning:
    """What can't be said in a close frame is the caller's mistake (§7.4)."""

    @pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 1016, 2999, 5000, 65536, -1])
    async def test_codes_that_cant_be_sent(self, code: int) -> None:
        it = Told()
        async with serving(it.callbacks()) as server, await Peer.connect(server) as peer:
            await peer.open()
            with pytest.raises(portico.LocalError):
                it.sockets[0].close(code)
            assert it.sockets[0].write("still open") is portico.Sent.DONE

    async def test_a_reason_of_more_than_123_bytes(self) -> None:
        it = Told()
        async with serving(it.callbacks()) as server, await Peer.connect(server) as peer:
            await peer.open()
            with pytest.raises(portico.LocalError):
                it.sockets[0].close(1000, "é" * 62)
            it.sockets[0].close(1000, "é" * 61 + "!")
            assert await peer.closed_with(1000) == "é" * 61 + "!"

    async def test_twice_is_harmless(self) -> None:
        it = Told()
        async with serving(it.callbacks()) as server, await Peer.connect(server) as peer:
            await peer.open()
            it.sockets[0].close(4001, "first")
            it.sockets[0].close(4002, "second")
            assert await peer.closed_with(4001) == "first"
            peer.send(close_frame(4001))
            assert await peer.to_end() == b""
            await it.sockets[0].close()
        assert it.ends == [Close(4001, "first", clean=True, by="us")]


class TestAnswering:
    @pytest.mark.parametrize(
        ("sent", "answer", "close"),
        [
            (frame(CLOSE), b"", Close(1005, clean=True, by="peer")),  # §7.1.5
            (close_frame(1000), b"\x03\xe8", Close(1000, clean=True, by="peer")),
            (close_frame(1001, "é"), b"\x03\xe9", Close(1001, "é", clean=True, by="peer")),
            (close_frame(4999, "x" * 123), b"\x13\x87", Close(4999, "x" * 123, clean=True, by="peer")),
        ],
    )
    async def test_the_peers_code_comes_back(self, sent: bytes, answer: bytes, close: Close) -> None:
        """§5.5.1: the answer has the peer's code."""
        it = Told()
        async with serving(it.callbacks()) as server, await Peer.connect(server) as peer:
            await peer.open()
            peer.send(sent)
            assert await peer.frame() == (CLOSE, answer)
            assert await peer.to_end() == b""
        assert it.ends == [close]

    async def test_a_peer_that_never_answers_is_dropped(self) -> None:
        """`Limits.close_timeout_s`."""
        it = Told()
        limits = portico.Limits(close_timeout_s=0.2)
        async with serving(it.callbacks(), limits=limits) as server, await Peer.connect(server) as peer:
            await peer.open()
            async with asyncio.timeout(4.5):
                await it.sockets[0].close(4001)
            assert await peer.closed_with(4001) == ""
            assert await peer.to_end() == b""
        [close] = it.ends
        assert close == Close(4001, clean=False, by="us")
        assert isinstance(close.cause, TimeoutError)

    async def test_a_peer_that_talks_on_is_dropped_too(self) -> None:
        """Bytes that are no close frame renew nothing."""
        it = Told()
        limits = portico.Limits(close_timeout_s=0.2)
        async with serving(it.callbacks(), limits=limits) as server, await Peer.connect(server) as peer:
            await peer.open()
            closing = asyncio.ensure_future(_wait(it.sockets[0].close(4001)))
            async with asyncio.timeout(4.5):
                while not closing.done():
                    peer.send(frame(PING))
                    await asyncio.sleep(0.01)
        assert it.ends == [Close(4001, clean=False, by="us")]

    async def test_messages_before_the_answer_still_arrive(self) -> None:
        """§5.5.1: a peer may finish what it is saying before it answers."""
        got = []

        async def handler(ws: portico.WebSocket) -> None:
            ws.close(4001)
            got.extend([message async for message in ws])

        async with serving(handler) as server, await Peer.connect(server) as peer:
            await peer.open()
            peer.send(frame(TEXT, b"one") + frame(TEXT, b"two") + close_frame(4001))
            await peer.to_end()
            await until(lambda: got)
        assert got == ["one", "two"]


async def _wait(ending: Any) -> None:
    await ending


class TestBrokenRules:
    """§7.1.7: whoever breaks a rule is told the code, and the connection ends."""

    @pytest.mark.parametrize(
        ("sent", "code"),
        [
            (b"\x81\x01x", 1002),  # not masked (§5.1)
            (frame(0x83), 1002),  # a reserved opcode (§5.2)
            (frame(0xC1), 1002),  # a reserved bit (§5.2)
            (frame(0x09), 1002),  # a fragmented control frame (§5.5)
            (frame(PING, bytes(126)), 1002),
            (frame(0x80), 1002),  # a continuation of nothing (§5.4)
            (frame(0x01, b"a") + frame(TEXT, b"b"), 1002),
            (frame(CLOSE, b"\x03"), 1002),  # §5.5.1
            (close_frame(1005), 1002),  # §7.4.1
            (frame(CLOSE, b"\x03\xe8\xff"), 1007),
            (frame(TEXT, b"\xff"), 1007),  # §8.1
            (frame(0x01, b"\xc3") + frame(0x80, b"\x28"), 1007),
        ],
    )
    async def test_the_code_that_answers(self, sent: bytes, code: int) -> None:
        it = Told()
        async with serving(it.callbacks()) as server, await Peer.connect(server) as peer:
            await peer.open()
            peer.send(sent + frame(TEXT, b"never read"))
            await peer.closed_with(code)
            assert await peer.to_end() == b""
            peer.writer.close()
            await until(lambda: it.ends)
        [close] = it.ends
        assert close is not None
        assert (close.code, close.by, close.clean) == (code, "us", False)
        assert isinstance(close.cause, portico.ProtocolError)
        assert close.cause.close_code == code

    async def test_what_came_before_is_handed_on(self) -> None:
        got = []

        async def handler(ws: portico.WebSocket) -> None:
            async for message in ws:
                got.append(message)

        async with serving(handler) as server, await Peer.connect(server) as peer:
            await peer.open()
            peer.send(frame(TEXT, b"good") + frame(0x83))
            await peer.closed_with(1002)
            await until(lambda: got)
        assert got == ["good"]


async def test_an_end_is_not_changed_by_what_fails_after_it(logged: Logged) -> None:
    """A handler that raises on learning the end is logged; the Close stays what it was."""
    sockets = []

    async def handler(ws: portico.WebSocket) -> None:
        sockets.append(ws)
        async for _ in ws:
            pass
        raise ValueError

    async with serving(handler) as server, await Peer.connect(server) as peer:
        await peer.open()
        peer.send(close_frame(4000, "bye"))
        await peer.to_end()
        await until(lambda: logged.records)
    logged.take("handler failed")
    assert sockets[0].closed == BY_PEER
