"""How a WebSocket ends: once, with one typed reason, whoever begins and from wherever; and nothing holds it then."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from tests.held import SMALL, Hall, Pull, Push, hall
from tests.net.ends import End, tcp_pair
from tests.support import BINARY, CLOSE, GUARD_S, TEXT, Logged, Peer, close_frame, frame, serving, turns, until, upgrade

import portico
from portico import ConnectionClosed, LocalError

pytestmark = pytest.mark.usefixtures("logged")  # what is warned of is taken by the test, or it fails

LARGE = b"x" * 100_000


def close_payload(code: int, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()


# -- the closing handshake (RFC 6455 §7.1.2-§7.1.6) ----------------------------------------------------------------


async def test_we_close() -> None:
    endpoint = Push()
    async with hall(endpoint) as found:
        ws, peer = await found.enter()
        closing = asyncio.ensure_future(ws.close(4001, "enough"))
        assert await peer.frame() == (CLOSE, close_payload(4001, "enough"))
        assert not closing.done()
        assert endpoint.closes == []
        peer.send(close_frame(4001, "enough"))
        await closing
        assert endpoint.closes == [portico.Close(4001, "enough", clean=True, by="us")]
        assert await peer.to_end() == b""


async def test_the_peer_closes() -> None:
    endpoint = Push()
    async with hall(endpoint) as found:
        ws, peer = await found.enter()
        peer.send(close_frame(4001, "enough"))
        assert await peer.frame() == (CLOSE, close_payload(4001)), "its code comes back"
        assert await peer.to_end() == b"", "the server ends TCP first (RFC 6455 §7.1.1)"
        assert endpoint.closes == [portico.Close(4001, "enough", clean=True, by="peer")]
        assert ws.closed == endpoint.closes[0]


async def test_both_close_at_once() -> None:
    endpoint = Push()
    async with hall(endpoint) as found:
        ws, peer = await found.enter()
        ws.close(4001, "ours")
        peer.send(close_frame(4002, "theirs"))
        assert await peer.frame() == (CLOSE, close_payload(4001, "ours"))
        assert await peer.to_end() == b"", "one close frame each"
        assert endpoint.closes == [portico.Close(4001, "ours", clean=True, by="us")]


async def test_a_peer_that_does_not_answer_is_dropped() -> None:
    endpoint = Push()
    async with hall(endpoint, limits=portico.Limits(close_timeout_s=0.2)) as found:
        ws, _ = await found.enter()
        await asyncio.wait_for(ws.close(1000, "anyone?"), 4.5)
        [close] = endpoint.closes
        assert (close.code, close.by, close.clean) == (1000, "us", False)
        assert isinstance(close.cause, TimeoutError)


async def test_so_is_one_that_takes_nothing() -> None:
    endpoint = Push()
    async with hall(endpoint, small=True, limits=portico.Limits(close_timeout_s=0.2)) as found:
        ws, _ = await found.enter(receive_buffer=SMALL)
        for _ in range(100):
            ws.write(bytes(5000))
        await turns()
        assert ws.stream.blocked
        await asyncio.wait_for(ws.close(), 4.5)
        assert ws.stream.gone
        assert len(endpoint.closes) == 1


async def test_any_number_of_tasks_may_wait_for_the_end() -> None:
    async with hall() as found:
        ws, peer = await found.enter()
        first = ws.close(4000, "first")
        closing = [asyncio.ensure_future(ws.close(4001, "too late")) for _ in range(5)]
        closing += [asyncio.ensure_future(asyncio.wait_for(ws.close(), GUARD_S)), asyncio.ensure_future(first)]
        await turns()
        closing[0].cancel()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ws.close(), 0.01)
        assert await peer.frame() == (CLOSE, close_payload(4000, "first"))
        peer.send(close_frame(4000))
        await asyncio.gather(*closing[1:])
        assert closing[0].cancelled()
        await ws.close(1000)
        assert ws.closed == portico.Close(4000, "first", clean=True, by="us")


@pytest.mark.parametrize(("code", "reason"), [(1005, "why"), (1006, ""), (999, ""), (5000, ""), (1000, "x" * 124)])
async def test_what_must_not_be_in_a_close_frame_is_an_error_and_closes_nothing(code: int, reason: str) -> None:
    """RFC 6455 §7.4.1, §5.5."""
    async with hall() as found:
        ws, peer = await found.enter()
        with pytest.raises(LocalError):
            ws.close(code, reason)
        ws.write("still open")
        assert await peer.frame() == (TEXT, b"still open")


async def test_a_close_frame_without_a_code() -> None:
    """RFC 6455 §7.1.5: 1005 is what both sides call it."""
    async with hall() as found:
        ws, peer = await found.enter()
        ws.close(1005)
        assert await peer.frame() == (CLOSE, b"")
        peer.send(frame(CLOSE))
        await ws.close()
        assert ws.closed == portico.Close(1005, clean=True, by="us")


async def test_a_connection_that_ends_while_it_is_opened() -> None:
    endpoint = Push()
    endpoint.open_hook = lambda ws: ws.stream.abort()
    async with hall(endpoint) as found, await Peer.connect(found.server) as peer:
        peer.send(upgrade() + frame(TEXT, b"too late"))
        assert (await peer.to_end()).partition(b"\r\n\r\n")[2] == b"", "no frame"
        assert (len(endpoint.closes), endpoint.messages) == (1, [])


# -- from within callbacks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["open_hook", "message_hook", "close_hook"])
async def test_close_from_within_a_callback(where: str) -> None:
    endpoint = Push()
    setattr(endpoint, where, lambda ws, *_: ws.close(4000, "from within"))
    async with hall(endpoint) as found:
        ws, peer = await found.enter()
        peer.send(frame(TEXT, b"hello"))
        if where == "close_hook":
            await until(lambda: endpoint.messages)
            peer.send(close_frame(4000))
            assert await peer.frame() == (CLOSE, close_payload(4000))
        else:
            assert await peer.frame() == (CLOSE, close_payload(4000, "from within"))
            peer.send(close_frame(4000))
        assert await peer.to_end() == b""
        assert [close.code for close in endpoint.closes] == [4000]
        assert ws.closed is not None


@pytest.mark.parametrize("where", ["message_hook", "close_hook"])
async def test_abort_from_within_a_callback(where: str) -> None:
    endpoint = Push()
    setattr(endpoint, where, lambda ws, *_: ws.stream.abort())
    async with hall(endpoint) as found:
        _, peer = await found.enter()
        peer.send(frame(TEXT, b"one") + frame(TEXT, b"two") + close_frame(4000))
        await peer.to_end()
        assert len(endpoint.closes) == 1
        assert endpoint.messages == (["one"] if where == "message_hook" else ["one", "two"]), "none after on_close"


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
@pytest.mark.parametrize("where", ["open_hook", "message_hook"])
async def test_a_callback_that_raises_closes_its_connection_with_1011(
    logged: Logged, where: str, error: type[BaseException]
) -> None:
    def fail(ws: portico.WebSocket, *_: object) -> None:
        raise error("secret")

    endpoint = Push()
    async with hall(endpoint) as found:
        _, other = await found.enter()
        setattr(endpoint, where, fail)
        _, peer = await found.enter()
        peer.send(frame(TEXT, b"one") + frame(TEXT, b"two"))
        assert await peer.frame() == (CLOSE, close_payload(1011, "internal error"))
        assert await peer.to_end() == b""
        await peer.__aexit__()
        await until(lambda: endpoint.closes)
        [close] = endpoint.closes
        assert (close.code, close.by, type(close.cause)) == (1011, "us", error)
        assert endpoint.messages == ([] if where == "open_hook" else ["one"])
        logged.take("closed with 1011")
        setattr(endpoint, where, lambda *_: None)
        other.send(frame(TEXT, b"unharmed"))
        await until(lambda: endpoint.messages[-1:] == ["unharmed"])


async def test_on_close_that_raises_is_logged_and_the_connection_is_gone(logged: Logged) -> None:
    endpoint = Push()
    endpoint.close_hook = lambda ws, close: 1 // 0
    async with hall(endpoint) as found:
        ws, peer = await found.enter()
        peer.send(close_frame(1000))
        await peer.to_end()
        await asyncio.wait_for(ws.close(), GUARD_S)
        logged.take("on_close failed")
        assert found.server.connection_count == 0


async def test_an_error_after_the_end_does_not_rewrite_how_it_ended(logged: Logged) -> None:
    async def handler(ws: portico.WebSocket) -> None:
        sockets.append(ws)
        async for _ in ws:
            pass
        raise ZeroDivisionError

    sockets: list[portico.WebSocket] = []
    app = portico.App()
    app.websocket("/", handler)
    async with portico.serve(app, "127.0.0.1", 0) as server, await Peer.connect(server) as peer:
        await peer.open()
        peer.send(close_frame(4000, "mine"))
        await peer.to_end()
        await until(lambda: logged.records)
        logged.take("closed with 1011")
        assert sockets[0].closed == portico.Close(4000, "mine", clean=True, by="peer")


async def test_callbacks_of_two_connections_that_end_each_other() -> None:
    endpoint = Push()
    everyone: list[portico.WebSocket] = []
    endpoint.open_hook = everyone.append

    def end_all(ws: portico.WebSocket, *_: object) -> None:
        for other in everyone:
            other.stream.abort()

    endpoint.message_hook = endpoint.close_hook = end_all
    async with hall(endpoint) as found:
        peers = [(await found.enter())[1] for _ in range(10)]
        for peer in peers:
            peer.send(frame(TEXT, b"end of the world"))
        for peer in peers:
            await peer.to_end()
        assert len(endpoint.closes) == 10
        assert len(endpoint.messages) == 1


@pytest.mark.parametrize("by_room", [False, True], ids=["write", "room"])
@pytest.mark.parametrize("resets", [True, False], ids=["rst", "gone"])
async def test_no_callback_is_called_within_another_when_a_write_fails(by_room: bool, resets: bool) -> None:
    """The peer leaves while a callback sends. What it said last, where TCP saved that, is dealt with afterwards."""
    depth: list[int] = [0]
    deepest: list[int] = []
    room = portico.Room()
    sock, other = tcp_pair() if resets else socket.socketpair()

    def callback(ws: portico.WebSocket, *_: object) -> None:
        depth[0] += 1
        deepest.append(depth[0])
        if endpoint.messages == ["hello"] and not endpoint.closes:
            other.send(frame(TEXT, b"goodbye") + close_frame(4000))
            End(other).reset() if resets else other.close()
            while (room.send(LARGE) if by_room else ws.write(LARGE) is not portico.Sent.CLOSED) and len(deepest) < 9:
                pass
            assert ws.write("more") is portico.Sent.CLOSED
        depth[0] -= 1

    endpoint = Push()
    endpoint.open_hook = room.add
    endpoint.message_hook = endpoint.close_hook = callback
    with sock, other:
        async with serving(endpoint) as server:
            server.adopt(sock)
            other.sendall(upgrade("/"))
            await until(lambda: server.connections[0].websocket)
            assert other.recv(4096).startswith(b"HTTP/1.1 101")
            other.send(frame(TEXT, b"hello"))
            await until(lambda: endpoint.closes)
            assert set(deepest) == {1}
            assert endpoint.messages == (["hello"] if resets else ["hello", "goodbye"])
            assert [close.code for close in endpoint.closes] == [1006 if resets else 4000]


# -- what is left --------------------------------------------------------------------------------------------------


async def in_order(ws: portico.WebSocket, peer: Peer) -> None:
    peer.send(frame(TEXT, b"hello") + close_frame(1000))
    await peer.to_end()


async def by_reset(ws: portico.WebSocket, peer: Peer) -> None:
    peer.send(frame(0x01, b"half a message"))
    await turns()
    peer.reset()


async def with_waiting_senders(ws: portico.WebSocket, peer: Peer) -> None:
    while ws.buffered <= ws.stream.high_water:
        ws.write(bytes(5000))
    tasks = [asyncio.create_task(ws.send("x")), asyncio.create_task(ws.ping())]  # type: ignore[arg-type] # coroutines
    await turns()
    ws.stream.abort()
    await asyncio.gather(*tasks, return_exceptions=True)


async def with_unread_messages(ws: portico.WebSocket, peer: Peer) -> None:
    peer.send(frame(BINARY, bytes(5000)) * 100)
    await until(lambda: ws.stream.bytes_in > 10_000)
    peer.reset()


async def closed_by_us(ws: portico.WebSocket, peer: Peer) -> None:
    closing = asyncio.ensure_future(ws.close(1000))
    peer.send(close_frame(1000))
    await closing


async def in_a_room(ws: portico.WebSocket, peer: Peer) -> None:
    rooms = [portico.Room(), portico.Room("drop_oldest")]
    for room in rooms:
        room.add(ws)
        room.send("x")
    peer.send(close_frame(1000))
    await peer.to_end()
    await until(lambda: not any(rooms))
    in_a_room.rooms = rooms  # type: ignore[attr-defined] # they outlive it


@pytest.mark.parametrize("kind", [Pull, Push])
@pytest.mark.parametrize(
    "end", [in_order, by_reset, with_waiting_senders, with_unread_messages, closed_by_us, in_a_room]
)
async def test_nothing_of_portico_keeps_a_dead_connection(
    kind: type[Pull] | type[Push], end: Callable[[portico.WebSocket, Peer], Any]
) -> None:
    async def scene(found: Hall) -> weakref.ref[portico.WebSocket]:
        ws, peer = await found.enter(receive_buffer=SMALL)
        await end(ws, peer)
        await until(lambda: ws.stream.gone)
        if isinstance(found.handler, Pull):
            found.handler.over.set()
        return weakref.ref(ws)

    async with hall(kind(), small=True, limits=portico.Limits(max_unread_bytes=20_000)) as found:
        gone = await scene(found)
        await turns()
        gc.collect()
        assert gone() is None, gc.get_referrers(gone())
        assert found.server.connection_count == 0


async def test_a_handler_learns_of_the_end_wherever_it_waits() -> None:
    async with hall(small=True) as found:
        ws, peer = await found.enter(receive_buffer=SMALL)
        while ws.buffered <= ws.stream.high_water:
            ws.write(bytes(5000))
        waits = [asyncio.ensure_future(each) for each in (ws.recv(), ws.send("x"), ws.ping())]
        ended = asyncio.ensure_future(ws.close())
        await turns()
        peer.reset()
        for wait in waits:
            with pytest.raises(ConnectionClosed) as caught:
                await asyncio.wait_for(wait, GUARD_S)
            assert caught.value.close is ws.closed
        await asyncio.wait_for(ended, GUARD_S)
