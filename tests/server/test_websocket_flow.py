"""Limits and flow control of a WebSocket: big messages, slow readers on both sides, cancelled waits, many senders."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import zlib

import pytest
from tests.support import BINARY, GUARD_S, PING, PONG, TEXT, Peer, Waiting, close_frame, frame, paused, serving, until

import portico


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class TestLimits:
    """Beyond a limit the close code says which kind, and the reason how much it is."""

    async def test_a_message_that_is_too_long(self) -> None:
        """`Limits.max_message_bytes`: 1009 as soon as a frame's header says so (§7.4.1)."""
        limits = portico.Limits(max_message_bytes=1000)
        async with serving(echo, limits=limits) as server:
            async with await Peer.connect(server) as peer:
                await peer.open()
                peer.send(frame(BINARY, bytes(1000)))
                assert await peer.frame() == (BINARY, bytes(1000))
                peer.send(frame(BINARY, bytes(1001))[:4])
                assert "1000" in await peer.closed_with(1009)
            async with await Peer.connect(server) as peer:
                await peer.open()
                peer.send(frame(0x02, bytes(600)) + frame(0x80, bytes(401)))
                assert "1000" in await peer.closed_with(1009)

    async def test_a_message_that_inflates_too_far(self) -> None:
        """RFC 7692 §8.1: the limit holds while inflating."""
        packer = zlib.compressobj(wbits=-15)
        bomb = packer.compress(bytes(50_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH)
        async with serving(echo) as server, await Peer.connect(server) as peer:
            await peer.open(sec_websocket_extensions="permessage-deflate")
            peer.send(frame(BINARY | 0x40, bomb[:-4]))
            await peer.closed_with(1009)

    async def test_a_message_of_too_many_fragments(self) -> None:
        """`Limits.max_fragments`; empty ones count."""
        limits = portico.Limits(max_fragments=3)
        async with serving(echo, limits=limits) as server, await Peer.connect(server) as peer:
            await peer.open()
            peer.send(frame(0x01, b"a") + frame(0x00) + frame(0x80, b"b"))
            assert await peer.frame() == (TEXT, b"ab")
            peer.send(frame(0x01) + frame(0x00) * 3)
            assert "3" in await peer.closed_with(1008)

    @pytest.mark.parametrize("start", [frame(0x01, b"a"), frame(TEXT, b"abcdef")[:8], frame(TEXT, b"a")[:1]])
    async def test_a_message_that_takes_too_long(self, start: bytes) -> None:
        """`Limits.assembly_timeout_s`, from its first byte on, although pings go between its fragments."""
        limits = portico.Limits(assembly_timeout_s=0.2)
        async with serving(echo, limits=limits) as server, await Peer.connect(server) as peer:
            await peer.open()
            peer.send(start)
            began = time.monotonic()
            if start == frame(0x01, b"a"):
                peer.send(frame(PING))
                assert (await peer.frame())[0] == PONG
            assert "0.2" in await peer.closed_with(1008)
            assert time.monotonic() - began > 0.15

    async def test_each_message_has_its_own_time(self) -> None:
        limits = portico.Limits(assembly_timeout_s=1.0)
        async with serving(echo, limits=limits) as server, await Peer.connect(server) as peer:
            await peer.open()
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                peer.send(frame(0x01, b"a"))
                await asyncio.sleep(0.01)
                peer.send(frame(0x80, b"b") + frame(0x01, b"c"))
                assert await peer.frame() == (TEXT, b"ab")
                peer.send(frame(0x80, b"d"))
                assert await peer.frame() == (TEXT, b"cd")


class TestUnread:
    """`Limits.max_unread_bytes`: what nobody takes waits in the kernel, and the connection lives on."""

    async def test_reading_pauses_and_goes_on(self) -> None:
        wait, got = Waiting(), []

        async def handler(ws: portico.WebSocket) -> None:
            await wait.stay()
            async for message in ws:
                got.append(len(message))

        async with serving(handler) as server, await Peer.connect(server) as peer:
            await peer.open()
            await wait.reached()
            peer.send(frame(BINARY, bytes(50_000)) * 600)
            assert (await paused(server)).bytes_in < 1_000_000
            wait.go.set()
            await until(lambda: len(got) == 600)
        assert got == [50_000] * 600

    async def test_a_ping_is_answered_meanwhile(self) -> None:
        """The look-ahead at control frames is bounded, and slow, but there is one."""
        wait = Waiting()

        async def handler(ws: portico.WebSocket) -> None:
            await wait.stay()

        limits = portico.Limits(max_unread_bytes=1000)
        async with serving(handler, limits=limits) as server, await Peer.connect(server) as peer:
            await peer.open()
            await wait.reached()
            peer.send(frame(BINARY, bytes(2000)))
            await until(lambda: server.connections[0].bytes_in > 2000)
            peer.send(frame(PING, b"are you there?"))
            assert await peer.frame() == (PONG, b"are you there?")
            wait.go.set()

    async def test_small_messages_count_too(self) -> None:
        """An empty message costs memory as well."""
        wait, got = Waiting(), []

        async def handler(ws: portico.WebSocket) -> None:
            await wait.stay()
            async for message in ws:
                got.append(message)

        limits = portico.Limits(max_unread_bytes=10_000)
        async with serving(handler, limits=limits) as server, await Peer.connect(server) as peer:
            await peer.open()
            await wait.reached()
            peer.send(frame(TEXT) * 200_000)
            assert (await paused(server)).bytes_in < 700_000
            wait.go.set()
            await until(lambda: len(got) == 200_000)


class TestCancelling:
    """`recv` and `send` are all or nothing."""

    @pytest.mark.parametrize("seed", range(4))
    async def test_no_message_is_lost_to_cancelled_receives(self, seed: int) -> None:
        rng = random.Random(seed)
        count, got, done = 400, [], asyncio.Event()

        async def handler(ws: portico.WebSocket) -> None:
            while len(got) < count:
                receiving = asyncio.ensure_future(receive(ws))
                for _ in range(rng.randrange(6)):
                    await asyncio.sleep(0)
                if rng.random() < 0.7:
                    receiving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    got.append(await receiving)
            done.set()

        async with serving(handler) as server, await Peer.connect(server) as peer:
            await peer.open()
            sent = 0
            while sent < count:
                step = min(rng.randrange(1, 5), count - sent)
                peer.send(b"".join(frame(TEXT, b"%d" % number) for number in range(sent, sent + step)))
                sent += step
                for _ in range(rng.randrange(8)):
                    await asyncio.sleep(0)
            await until(done.is_set)
        assert got == [str(number) for number in range(count)]

    async def test_a_receive_with_a_timeout(self) -> None:
        got: list[object] = []

        async def handler(ws: portico.WebSocket) -> None:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await ws.recv()
            got.append("waited")
            got.append(await asyncio.wait_for(ws.recv(), GUARD_S))

        async with serving(handler) as server, await Peer.connect(server) as peer:
            await peer.open()
            await until(lambda: got)
            peer.send(frame(TEXT, b"here"))
            await peer.closed_with(1000)
        assert got == ["waited", "here"]

    @pytest.mark.parametrize("seed", range(3))
    async def test_many_senders_under_backpressure(self, seed: int) -> None:
        """Every message arrives whole and once or not at all, each sender's in order; the outbox is bounded."""
        rng = random.Random(seed)
        sent: list[str] = []
        most = 0

        async def sender(ws: portico.WebSocket, name: int) -> None:
            nonlocal most
            for number in range(40):
                text = f"{name}:{number}:" + "x" * rng.randrange(20_000)
                sending = asyncio.ensure_future(send(ws, text))
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
                    sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
                    sent.append(text)
                most = max(most, ws.buffered)

        async def handler(ws: portico.WebSocket) -> None:
            await asyncio.gather(*(sender(ws, name) for name in range(20)))

        async with serving(handler) as server, await Peer.connect(server, receive_buffer=4096) as peer:
            await peer.open()
            received = []
            while True:
                first, payload = await peer.frame()
                if first != TEXT:
                    break
                received.append(payload.decode())
            peer.send(close_frame(1000))
        assert sorted(received) == sorted(sent)
        for name in range(20):
            prefix = f"{name}:"
            assert [text for text in received if text.startswith(prefix)] == [
                text for text in sent if text.startswith(prefix)
            ]
        assert most <= 64 * 1024 + 20_100

    async def test_write_to_a_peer_that_does_not_read(self) -> None:
        """QUEUED above the high-water mark; beyond `Limits.max_outbox_bytes` DROPPED, and 1008."""
        outcomes: list[portico.Sent] = []

        async def handler(ws: portico.WebSocket) -> None:
            while not outcomes or outcomes[-1] in (portico.Sent.DONE, portico.Sent.QUEUED):
                outcomes.append(ws.write(bytes(20_000)))
                await asyncio.sleep(0)
            outcomes.append(ws.write("more"))

        async with serving(handler) as server, await Peer.connect(server, receive_buffer=4096) as peer:
            await peer.open()
            await until(lambda: outcomes and outcomes[-1] is portico.Sent.CLOSED)
            first = BINARY
            while first == BINARY:
                first, payload = await peer.frame()
            assert int.from_bytes(payload[:2], "big") == 1008
        assert {portico.Sent.DONE, portico.Sent.QUEUED} <= set(outcomes[:-2])
        assert outcomes[-2] is portico.Sent.DROPPED


async def receive(ws: portico.WebSocket) -> str | bytes:
    return await ws.recv()


async def send(ws: portico.WebSocket, text: str) -> None:
    await ws.send(text)


class TestKeepalive:
    """`Keepalive`: pings find dead peers; whoever shows any sign of life is not dead."""

    FAST = portico.Keepalive(ping_interval_s=0.1, ping_timeout_s=1.0)

    async def test_pings_come_and_answers_keep_it_alive(self) -> None:
        sockets = []

        async def handler(ws: portico.WebSocket) -> None:
            sockets.append(ws)
            await ws.recv()

        async with serving(handler, keepalive=self.FAST) as server, await Peer.connect(server) as peer:
            await peer.open()
            payloads = []
            for _ in range(6):
                first, payload = await peer.frame()
                assert first == PING
                payloads.append(payload)
                peer.send(frame(PONG, payload))
            assert len(set(payloads)) == 6
            await until(lambda: sockets[0].latency is not None)
            assert 0 < sockets[0].latency < GUARD_S

    async def test_a_silent_peer_is_closed_with_1011(self) -> None:
        ends = []

        class Watch(portico.Endpoint):
            def on_close(self, ws: portico.WebSocket, close: portico.Close) -> None:
                ends.append(close)

        async with serving(Watch(), keepalive=self.FAST) as server, await Peer.connect(server) as peer:
            await peer.open()
            began = time.monotonic()
            first = PING
            while first == PING:
                first, payload = await peer.frame()
            assert payload[:2] == (1011).to_bytes(2, "big")
            assert time.monotonic() - began > self.FAST.ping_timeout_s
            assert await peer.to_end() == b""
            await until(lambda: ends)
        assert (ends[0].code, ends[0].by, ends[0].clean) == (1011, "us", False)
        assert isinstance(ends[0].cause, TimeoutError)

    async def test_any_byte_is_a_sign_of_life(self) -> None:
        """No pong ever comes, but a message dribbles in: the peer lives."""
        async with serving(echo, keepalive=self.FAST) as server, await Peer.connect(server) as peer:
            await peer.open()
            for byte in frame(TEXT, b"slowly, but steadily"):
                peer.send(bytes([byte]))
                await asyncio.sleep(0.04)
            first = PING
            while first == PING:
                first, payload = await peer.frame()
            assert (first, payload) == (TEXT, b"slowly, but steadily")

    async def test_who_does_not_read_does_not_judge(self) -> None:
        """While reading pauses, the peer's pongs wait unread in the kernel: its silence means nothing."""
        wait = Waiting()

        async def handler(ws: portico.WebSocket) -> None:
            await wait.stay()
            async for message in ws:
                await ws.send(str(len(message)))

        limits = portico.Limits(max_unread_bytes=1000)
        many = 20
        async with (
            serving(handler, keepalive=self.FAST, limits=limits) as server,
            await Peer.connect(server) as peer,
        ):
            await peer.open()
            await wait.reached()
            peer.send(frame(BINARY, bytes(100_000)) * many)
            loop = asyncio.get_running_loop()
            late = loop.time() + 1.0
            await until(lambda: loop.time() > late)
            wait.go.set()
            answers = 0
            while answers < many:
                first, payload = await peer.frame()
                assert first in (PING, TEXT), payload
                answers += first == TEXT

    async def test_none_means_no_pings(self) -> None:
        async with serving(echo, keepalive=None) as server, await Peer.connect(server) as peer:
            await peer.open()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await peer.reader.read(1)
