"""Frames that attackers send (RFC 6455 §5, §10.4), each against a server in a process of its own.

Each is answered with the documented close code; what it makes the server spend is bounded; and a neighbour, a
well-behaved connection to the same server, echoes before, during and after.

One attack of other servers has no place here: Portico compares no passwords (``authenticate`` is the application's),
so there is no comparison whose time could tell anything.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import os
import re
import socket
from collections.abc import AsyncIterator

import pytest
from tests.hostile import server as rules
from tests.hostile.target import KIB, MIB, Neighbour, Target, echoes, peer_at, told
from tests.interop.storm_client import MakeScript, Script, Storm
from tests.support import BINARY, CLOSE, PING, PONG, TEXT, Peer, close_frame, frame, upgrade
from tests.wire import raw

import portico

pytestmark = pytest.mark.usefixtures("neighbour")

LIMIT = MIB  # Limits.max_message_bytes, as it is by default
LONG = os.environ.get("PORTICO_LONG") == "1"
KEY = b"\x01\x02\x03\x04"
DEFLATE = "permessage-deflate"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # §1.3


@contextlib.asynccontextmanager
async def peers_at(server: Target, path: str, count: int) -> AsyncIterator[list[Peer]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(peer_at(server, path)) for _ in range(count)]


class TestTinyFragments:
    """Fragments of one byte or none, without end: they cost their bytes and nothing else (§5.4, §10.4)."""

    ENDLESS = 131_000
    PEERS = 50

    @pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one byte"])
    async def test_endless_ones_are_ended(self, server: Target, payload: bytes) -> None:
        """Over `Limits.max_fragments`: 1008."""
        attack = frame(0x01, payload) + frame(0x00, payload) * self.ENDLESS
        async with peers_at(server, "/told", self.PEERS) as peers:
            with server.spending() as spent:
                for peer in peers:
                    peer.send(attack)
                for peer in peers:
                    assert "1024" in await peer.closed_with(1008)
                    assert await peer.to_end() == b""
            assert spent.peak <= 8 * MIB, spent  # of 46 MB that were sent, and a budget of 50 MiB

    @pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one byte"])
    async def test_as_many_as_may_be_weigh_no_more_than_what_was_sent(self, server: Target, payload: bytes) -> None:
        """`Limits.max_fragments` of them, held; past `Limits.assembly_timeout_s` they are ended: 1008."""
        attack = frame(0x01, payload) + frame(0x00, payload) * 1023
        async with peers_at(server, "/hasty", self.PEERS) as peers:
            with server.spending() as spent:
                for peer in peers:
                    peer.send(attack + frame(PING))
                for peer in peers:
                    assert await peer.frame() == (PONG, b"")
            assert spent.peak <= 4 * len(attack) * self.PEERS, spent
            for peer in peers:
                assert "1 s" in await peer.closed_with(1008)


class TestDeclaredLengths:
    """Lengths that nobody will ever send are answered at the header, without a byte of the payload (§5.2, §10.4)."""

    HUGE = (2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**32 + 5, 2**53 + 1, 2**63 - 1)

    @pytest.mark.parametrize("before", [b"", frame(0x02, b"begun")], ids=["first", "continuation"])
    async def test_huge(self, server: Target, before: bytes) -> None:
        with server.spending() as spent:
            for length in self.HUGE:
                async with peer_at(server, "/told") as peer:
                    peer.send(before + raw.header(0x80 if before else BINARY, length, None)[:1])
                    peer.send(b"\xff" + length.to_bytes(8, "big"))
                    assert str(LIMIT) in await peer.closed_with(1009), length
        assert spent.peak <= MIB, spent
        assert spent.cpu_s < 1, spent

    @pytest.mark.parametrize("before", [b"", frame(0x02, b"begun")], ids=["first", "continuation"])
    async def test_of_64_bits(self, server: Target, before: bytes) -> None:
        """The most significant bit MUST be 0 (§5.2)."""
        for length in (2**63, 2**63 + 1, 2**64 - 1, 2**64 - 14):
            async with peer_at(server, "/told") as peer:
                peer.send(before + bytes((0x80 if before else BINARY, 0xFF)) + length.to_bytes(8, "big"))
                await peer.closed_with(1002)

    async def test_in_more_bytes_than_needed(self, server: Target) -> None:
        """The minimal number of bytes MUST be used (§5.2)."""
        for form, length in itertools.chain(
            itertools.product([16], [0, 1, 125]), itertools.product([64], [0, 1, 125, 126, 65_535])
        ):
            async with peer_at(server, "/told") as peer:
                peer.send(raw.header(BINARY, length, KEY, form) + raw.mask(bytes(length), KEY))
                await peer.closed_with(1002)

    async def test_over_the_default_limit(self, server: Target) -> None:
        """17 MiB, in one frame and in fragments, with no option set."""
        with server.spending() as spent:
            async with peer_at(server, "/told") as peer:
                peer.send(frame(BINARY, bytes(17 * MIB)))
                await peer.closed_with(1009)
            async with peer_at(server, "/told") as peer:
                peer.send(frame(0x02, bytes(64 * KIB)) + frame(0x00, bytes(64 * KIB)) * 271)
                await peer.closed_with(1009)
        assert spent.peak <= 4 * MIB, spent


class TestDribble:
    """A byte in each TCP segment: nothing sticks, and nothing slips by (§5.4, §10.4)."""

    @staticmethod
    async def dribble(peer: Peer, data: bytes) -> None:
        for n in range(len(data)):
            peer.send(data[n : n + 1])
            await asyncio.sleep(0)

    async def test_over_the_limit_is_refused_at_the_header(self, server: Target) -> None:
        async with peer_at(server, "/told") as peer:
            await self.dribble(peer, raw.header(BINARY, LIMIT + 1, KEY)[:10])  # not even its key is needed
            assert str(LIMIT) in await peer.closed_with(1009)

    async def test_within_the_limit_completes(self, server: Target) -> None:
        data = os.urandom(LIMIT)
        attack = frame(BINARY, data)
        async with peer_at(server, "/told") as peer:
            await self.dribble(peer, attack[:1000])
            peer.send(attack[1000:-1000])
            await self.dribble(peer, attack[-1000:])
            assert await peer.frame() == told("bytes", data)
            await echoes(peer)

    async def test_fragments_with_pings_between(self, server: Target) -> None:
        text = "dribbled: 水🚪".encode()
        async with peer_at(server, "/told") as peer:
            for n in range(len(text)):
                await self.dribble(peer, frame(0x00 if n else 0x01, text[n : n + 1]) + frame(PING, b"%d" % n))
                assert await peer.frame() == (PONG, b"%d" % n)
            await self.dribble(peer, frame(0x80))
            assert await peer.frame() == told("str", text)


class TestBits:
    """Bits and opcodes that mean nothing end the connection that sent them, and that alone (§5.2)."""

    OPCODES = (0x0, 0x1, 0x2, 0x8, 0x9, 0xA)
    RSV = tuple(range(0x10, 0x80, 0x10))

    async def test_reserved_bits_without_an_extension(self, server: Target) -> None:
        """MUST be 0 unless an extension is negotiated: 1002, and nothing is inflated."""
        calls = server.ask()["calls"]
        packed = bytes.fromhex("f248cdc9c90700")  # "Hello", RFC 7692 §7.2.3.1
        for rsv, opcode, fin in itertools.product(self.RSV, self.OPCODES, (0x80, 0x00)):
            async with peer_at(server, "/told") as peer:
                peer.send(frame(fin | rsv | opcode, packed))
                await peer.closed_with(1002)
        assert server.ask()["calls"] == calls

    @pytest.mark.parametrize("path", ["/stored", "/kept"])
    async def test_reserved_bits_with_compression(self, server: Target, path: str) -> None:
        """RSV1 has a meaning at the beginning of a message (RFC 7692 §6); all else has none."""
        for rsv, opcode in itertools.product(self.RSV, self.OPCODES):
            if rsv == 0x40 and opcode in (1, 2):
                continue
            async with peer_at(server, path, sec_websocket_extensions=DEFLATE) as peer:
                begin = frame(0x41, b"\xf2\x48") if opcode == 0 else b""
                peer.send(begin + frame(0x80 | rsv | opcode, b""))
                await peer.closed_with(1002)

    async def test_unmasked(self, server: Target) -> None:
        """MUST close upon receiving a frame that is not masked (§5.1); no handler hears of it."""
        calls = server.ask()["calls"]
        for opcode, payload in itertools.product(self.OPCODES, (b"", b"\x03\xe8", b"x" * 126)):
            async with peer_at(server, "/told") as peer:
                peer.send(raw.frame(0x80 | opcode, payload))
                await peer.closed_with(1002)
        async with peer_at(server, "/told") as peer:  # half of the message was as it must be
            peer.send(frame(0x01, b"half") + raw.frame(0x80, b"whole"))
            await peer.closed_with(1002)
        assert server.ask()["calls"] == calls

    def test_every_header(self, server: Target, neighbour: Neighbour) -> None:
        """Each pair of first bytes, on a connection of its own: it is closed as the RFC has it, and nothing else is.

        All 65,536 of them in the long run; else each first byte with the second bytes that mean different things.
        """
        ends = {0, 1, 2, 3, 64, 124, 125, 126, 127}
        seconds = range(256) if LONG else sorted(ends | {end | 0x80 for end in ends})
        pairs = list(itertools.product(range(256), seconds))
        storm = Storm(server.port)
        before = neighbour.count
        try:
            storm.run(((n, _header_script(*pair)) for n, pair in enumerate(pairs)), at_once=100, timeout_s=300)
        finally:
            storm.close()
        assert neighbour.count > before
        assert server.settled(lambda now: now["connections"] == 2)  # the one that asks, and the neighbour


def _wanted(first: int, second: int) -> bytes:
    """What the server says to a frame whose header begins so, with zeros behind it, before a close frame with 1000."""
    opcode, size = first & 15, second & 127
    begins_or_ends = opcode in (1, 2) or (opcode in (8, 9, 10) and first >= 0x80)
    failed = raw.frame(CLOSE, b"\x03\xea")
    closed = raw.frame(CLOSE, b"\x03\xe8")
    if first & 0x70 or not begins_or_ends or second < 0x80 or size > 125:  # a length of 126 or 127, then zeros
        return failed
    if opcode == 8:
        return raw.frame(CLOSE) if size == 0 else failed  # a code in one byte, or code 0
    if opcode == 9:
        return raw.frame(PONG, bytes(size)) + closed
    if opcode == 10 or first < 0x80:
        return closed
    return raw.frame(*told("str" if opcode == 1 else "bytes", bytes(size))) + closed


def _header_script(first: int, second: int) -> MakeScript:
    wanted = _wanted(first, second)

    def script(sock: socket.socket, number: int) -> Script:
        sock.send(upgrade("/told"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += yield
        sock.send(bytes((first, second)) + bytes(4 + (second & 127)) + close_frame(1000))
        came = b""
        while piece := (yield):
            came += piece
        frames = [(kind, data[:2] if kind == CLOSE else data) for kind, _, data in raw.read_frames(came)]
        assert frames == [(kind, data) for kind, _, data in raw.read_frames(wanted)], (hex(first), hex(second), came)

    return script


class TestBuffers:
    """What is sent is what was given, whatever kind of buffer it was in: no byte of anything else."""

    @pytest.mark.parametrize("name", rules.BUFFERS)
    async def test_a_message(self, server: Target, name: str) -> None:
        async with peer_at(server, "/buffers") as peer:
            peer.send(frame(TEXT, b"send:" + name.encode()))
            assert await peer.frame() == (BINARY, bytes(rules.BUFFERS[name]))

    @pytest.mark.parametrize("name", rules.REASONS)
    async def test_a_close_reason(self, server: Target, name: str) -> None:
        async with peer_at(server, "/buffers") as peer:
            peer.send(frame(TEXT, b"reason:" + name.encode()))
            assert await peer.frame() == (CLOSE, (4000).to_bytes(2, "big") + str(rules.REASONS[name]).encode())

    @pytest.mark.parametrize("name", ["bytes", "bytearray", "memoryview", "empty"])
    async def test_a_buffer_is_no_close_reason(self, server: Target, name: str) -> None:
        """A reason is text (§7.1.6): nothing is guessed."""
        async with peer_at(server, "/buffers") as peer:
            peer.send(frame(TEXT, b"refused:" + name.encode()))
            first, said = await peer.frame()
            assert (first, b"str" in said) == (TEXT, True), said


class TestClient:
    """The same attacks from a server."""

    @pytest.mark.parametrize(
        ("attack", "code"),
        [
            (frame(TEXT, b"masked"), 1002),  # §5.1: a server MUST NOT mask
            (frame(PING), 1002),
            (raw.frame(TEXT | 0x40, bytes.fromhex("f248cdc9c90700")), 1002),  # compressed, and that was not agreed
            (raw.frame(BINARY | 0x20, b"x"), 1002),
            (raw.frame(BINARY | 0x10, b"x"), 1002),
            (bytes((BINARY, 127)) + (2**63 - 1).to_bytes(8, "big"), 1009),
            (bytes((BINARY, 127)) + (2**63).to_bytes(8, "big"), 1002),
            (bytes((BINARY, 126)) + (1).to_bytes(2, "big") + b"x", 1002),
            (raw.frame(0x01) + raw.frame(0x00) * 131_000, 1008),
        ],
    )
    async def test_is_closed_and_hears_nothing(self, attack: bytes, code: int) -> None:
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def attacker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
            assert key
            accept = base64.b64encode(hashlib.sha1(key[1] + GUID).digest())
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + attack
            )
            heard.put_nowait(await reader.read(1))
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        async with asyncio.timeout(10), await asyncio.start_server(attacker, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            async with portico.connect(f"ws://127.0.0.1:{port}/", proxy=None) as ws:
                with pytest.raises(portico.ConnectionClosed) as caught:
                    await ws.recv()
            assert (caught.value.close.code, caught.value.close.by) == (code, "us")
            assert await heard.get() == bytes((CLOSE,))
