"""Frames that attackers send (RFC 6455 §5, §10.4), each against a server and a client in a process of its own.

Each is answered with the documented close code; what it makes the victim spend is bounded; and a neighbour, a
well-behaved connection of the same victim, echoes before, during and after.

One attack of other servers has no place here: Portico compares no passwords (``authenticate`` is the application's),
so there is no comparison whose time could tell anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator

import pytest
from tests.hostile import server as rules
from tests.hostile.attacker import echoes, peer_at, told
from tests.hostile.target import KIB, MIB, Target
from tests.support import BINARY, CLOSE, PING, PONG, TEXT, Peer
from tests.wire import raw

pytestmark = pytest.mark.usefixtures("neighbour")

LIMIT = MIB  # Limits.max_message_bytes, as it is by default


@contextlib.asynccontextmanager
async def peers_at(victim: Target, path: str, count: int) -> AsyncIterator[list[Peer]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(peer_at(victim, path)) for _ in range(count)]


class TestTinyFragments:
    """Fragments of one byte or none, without end: they cost their bytes and nothing else (§5.4, §10.4)."""

    ENDLESS = 131_000
    PEERS = 50

    @pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one byte"])
    async def test_endless_ones_are_ended(self, victim: Target, payload: bytes) -> None:
        """Over `Limits.max_fragments`: 1008."""
        attack = victim.frame(0x01, payload) + victim.frame(0x00, payload) * self.ENDLESS
        async with peers_at(victim, "/told", self.PEERS) as peers:
            with victim.spending() as spent:
                for peer in peers:
                    peer.send(attack)
                for peer in peers:
                    assert "1024" in await peer.closed_with(1008)
                    assert await peer.to_end() == b""
            assert spent.peak <= 8 * MIB, spent  # of 46 MB that were sent, and a budget of 50 MiB

    @pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one byte"])
    async def test_as_many_as_may_be_weigh_no_more_than_what_was_sent(self, victim: Target, payload: bytes) -> None:
        """`Limits.max_fragments` of them, held; past `Limits.assembly_timeout_s` they are ended: 1008."""
        attack = victim.frame(0x01, payload) + victim.frame(0x00, payload) * 1023
        async with peers_at(victim, "/hasty", self.PEERS) as peers:
            with victim.spending() as spent:
                for peer in peers:
                    peer.send(attack + victim.frame(PING))
                for peer in peers:
                    assert await peer.frame() == (PONG, b"")
            assert spent.peak <= 4 * len(attack) * self.PEERS, spent
            for peer in peers:
                assert "1 s" in await peer.closed_with(1008)


class TestDeclaredLengths:
    """Lengths that nobody will ever send are answered at the header, without a byte of the payload (§5.2, §10.4)."""

    HUGE = (2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**32 + 5, 2**53 + 1, 2**63 - 1)

    @pytest.mark.parametrize("begun", [False, True], ids=["first", "continuation"])
    async def test_huge(self, victim: Target, begun: bool) -> None:
        before = victim.frame(0x02, b"begun") if begun else b""
        with victim.spending() as spent:
            for length in self.HUGE:
                async with peer_at(victim, "/told") as peer:
                    peer.send(before + bytes((0x80 if begun else BINARY,)))
                    peer.send(bytes((victim.mask_bit | 127,)) + length.to_bytes(8, "big"))
                    assert str(LIMIT) in await peer.closed_with(1009), length
        assert spent.peak <= MIB, spent
        assert spent.cpu_s < 1, spent

    @pytest.mark.parametrize("begun", [False, True], ids=["first", "continuation"])
    async def test_of_64_bits(self, victim: Target, begun: bool) -> None:
        """The most significant bit MUST be 0 (§5.2)."""
        before = victim.frame(0x02, b"begun") if begun else b""
        second = victim.mask_bit | 127
        for length in (2**63, 2**63 + 1, 2**64 - 1, 2**64 - 14):
            async with peer_at(victim, "/told") as peer:
                peer.send(before + bytes((0x80 if begun else BINARY, second)) + length.to_bytes(8, "big"))
                await peer.closed_with(1002)

    async def test_in_more_bytes_than_needed(self, victim: Target) -> None:
        """The minimal number of bytes MUST be used (§5.2)."""
        for form, length in itertools.chain(
            itertools.product([16], [0, 1, 125]), itertools.product([64], [0, 1, 125, 126, 65_535])
        ):
            async with peer_at(victim, "/told") as peer:
                payload = raw.mask(bytes(length), victim.key or bytes(4))
                peer.send(raw.header(BINARY, length, victim.key, form) + payload)
                await peer.closed_with(1002)

    async def test_over_the_default_limit(self, victim: Target) -> None:
        """17 MiB, in one frame and in fragments, with no option set."""
        with victim.spending() as spent:
            async with peer_at(victim, "/told") as peer:
                # Refused at its header. Who sends on and on meets RST some day, and may then miss what it was told.
                peer.send(victim.frame(BINARY, bytes(17 * MIB))[:MIB])
                await peer.closed_with(1009)
            async with peer_at(victim, "/told") as peer:
                peer.send(victim.frame(0x02, bytes(64 * KIB)) + victim.frame(0x00, bytes(64 * KIB)) * 271)
                await peer.closed_with(1009)
        assert spent.peak <= 4 * MIB, spent


class TestDribble:
    """A byte in each TCP segment: nothing sticks, and nothing slips by (§5.4, §10.4)."""

    @staticmethod
    async def dribble(peer: Peer, data: bytes) -> None:
        for n in range(len(data)):
            peer.send(data[n : n + 1])
            await asyncio.sleep(0)

    async def test_over_the_limit_is_refused_at_the_header(self, victim: Target) -> None:
        async with peer_at(victim, "/told") as peer:
            await self.dribble(peer, raw.header(BINARY, LIMIT + 1, victim.key)[:10])  # not even its key is needed
            assert str(LIMIT) in await peer.closed_with(1009)

    async def test_within_the_limit_completes(self, victim: Target) -> None:
        data = os.urandom(LIMIT)
        attack = victim.frame(BINARY, data)
        async with peer_at(victim, "/told") as peer:
            await self.dribble(peer, attack[:1000])
            peer.send(attack[1000:-1000])
            await self.dribble(peer, attack[-1000:])
            assert await peer.frame() == told("bytes", data)
            await echoes(victim, peer)

    async def test_fragments_with_pings_between(self, victim: Target) -> None:
        text = "dribbled: 水🚪".encode()
        async with peer_at(victim, "/told") as peer:
            for n in range(len(text)):
                fragment = victim.frame(0x00 if n else 0x01, text[n : n + 1])
                await self.dribble(peer, fragment + victim.frame(PING, b"%d" % n))
                assert await peer.frame() == (PONG, b"%d" % n)
            await self.dribble(peer, victim.frame(0x80))
            assert await peer.frame() == told("str", text)

    @pytest.mark.parametrize("size", [100, 1000, 100_000])
    async def test_a_frame_that_never_ends_is_ended(self, victim: Target, size: int) -> None:
        """Past `Limits.assembly_timeout_s`, which a further byte does not renew: 1008."""
        await self.until_it_is_ended(victim, victim.frame(BINARY, bytes(size)))

    async def test_a_message_that_never_ends_is_ended(self, victim: Target) -> None:
        """Though each of its frames is whole, and there are pings between them."""
        await self.until_it_is_ended(victim, victim.frame(0x01) + (victim.frame(0x00, b"x") + victim.frame(PONG)) * 500)

    @staticmethod
    async def until_it_is_ended(victim: Target, data: bytes) -> None:
        """A byte of `data` at a time, slower than it may be."""
        calls = victim.ask()["calls"]
        async with peer_at(victim, "/hasty") as peer:
            ended = asyncio.create_task(peer.closed_with(1008))
            octets = iter(data)
            while not ended.done():
                peer.send(bytes((next(octets),)))
                await asyncio.wait([ended], timeout=0.05)
            assert await ended == "message not complete within 1 s"
            assert await peer.to_end() == b""
        assert victim.ask()["calls"] == calls


class TestBits:
    """Bits and opcodes that mean nothing end the connection that sent them, and that alone (§5.2)."""

    OPCODES = (0x0, 0x1, 0x2, 0x8, 0x9, 0xA)
    RSV = tuple(range(0x10, 0x80, 0x10))

    async def test_reserved_bits_without_an_extension(self, victim: Target) -> None:
        """MUST be 0 unless an extension is negotiated: 1002, and nothing is inflated."""
        calls = victim.ask()["calls"]
        packed = bytes.fromhex("f248cdc9c90700")  # "Hello", RFC 7692 §7.2.3.1
        for rsv, opcode, fin in itertools.product(self.RSV, self.OPCODES, (0x80, 0x00)):
            async with peer_at(victim, "/told") as peer:
                peer.send(victim.frame(fin | rsv | opcode, packed))
                await peer.closed_with(1002)
        assert victim.ask()["calls"] == calls

    @pytest.mark.parametrize("path", ["/stored", "/kept"])
    async def test_reserved_bits_with_compression(self, victim: Target, path: str) -> None:
        """RSV1 has a meaning at the beginning of a message (RFC 7692 §6); all else has none."""
        for rsv, opcode in itertools.product(self.RSV, self.OPCODES):
            if rsv == 0x40 and opcode in (1, 2):
                continue
            async with peer_at(victim, path, deflate=True) as peer:
                begin = victim.frame(0x41, b"\xf2\x48") if opcode == 0 else b""
                peer.send(begin + victim.frame(0x80 | rsv | opcode, b""))
                await peer.closed_with(1002)

    async def test_rsv1_in_a_continuation(self, victim: Target) -> None:
        """MUST NOT be set but on the first fragment (RFC 7692 §6.1), whether the message is compressed or not."""
        for first, bits in itertools.product((0x42, 0x02), (0x40, 0xC0)):
            async with peer_at(victim, "/stored", deflate=True) as peer:
                peer.send(victim.frame(first, b"\xf2\x48") + victim.frame(bits, b"\xcd\xc9\xc9\x07\x00"))
                await peer.closed_with(1002)

    async def test_masked_as_it_must_not_be(self, victim: Target) -> None:
        """A server MUST close upon a frame without a mask, a client upon one with it (§5.1); no handler hears it."""
        calls = victim.ask()["calls"]
        key = b"\x01\x02\x03\x04" if victim.client else None
        for opcode, payload in itertools.product(self.OPCODES, (b"", b"\x03\xe8", b"x" * 126)):
            async with peer_at(victim, "/told") as peer:
                peer.send(raw.frame(0x80 | opcode, payload, key))
                await peer.closed_with(1002)
        async with peer_at(victim, "/told") as peer:  # half of the message was as it must be
            peer.send(victim.frame(0x01, b"half") + raw.frame(0x80, b"whole", key))
            await peer.closed_with(1002)
        assert victim.ask()["calls"] == calls

    @pytest.mark.parametrize(
        "garbage",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x15\x03\x01\x00\x02\x02\x50",  # a TLS alert
            bytes(1000),
            b"\xff" * 1000,
            "no frames, but text".encode("utf-16"),
        ],
        ids=["an answer", "a request", "TLS", "zeros", "ones", "text"],
    )
    async def test_garbage_right_behind_the_handshake(self, victim: Target, garbage: bytes) -> None:
        """Nothing of it is a message, and nothing of it is HTTP any more: 1002."""
        calls = victim.ask()["calls"]
        async with peer_at(victim, "/told", tail=garbage) as peer:
            await peer.closed_with(1002)
            assert await peer.to_end() == b""
        assert victim.ask()["calls"] == calls


class TestClosing:
    """Close frames as they must not be, and what follows one (§5.5.1, §7.4)."""

    async def test_codes_that_must_not_travel(self, victim: Target) -> None:
        """A code that is reserved, not assigned or out of range (§7.4.1, §7.4.2): 1002."""
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535):
            async with peer_at(victim, "/told") as peer:
                peer.send(victim.close_frame(code, "a reason"))
                await peer.closed_with(1002)

    @pytest.mark.parametrize("payload", [b"\x03", b"\x03\xe8" + bytes(124)], ids=["half a code", "126 bytes"])
    async def test_payloads_of_no_close_frame(self, victim: Target, payload: bytes) -> None:
        async with peer_at(victim, "/told") as peer:
            peer.send(victim.frame(CLOSE, payload))
            await peer.closed_with(1002)

    @pytest.mark.parametrize("reason", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"cut \xe6\xb0"])
    async def test_reasons_that_are_no_utf_8(self, victim: Target, reason: bytes) -> None:
        """§8.1: 1007."""
        async with peer_at(victim, "/told") as peer:
            peer.send(victim.frame(CLOSE, b"\x03\xe8" + reason))
            await peer.closed_with(1007)

    @pytest.mark.parametrize("behind", [b"", b"garbage" * 1000], ids=["messages", "garbage"])
    async def test_nothing_behind_a_close_frame_is_heard(self, victim: Target, behind: bytes) -> None:
        """It is discarded (§1.4, §5.5.1): no handler hears of it, nor is it found wrong."""
        calls = victim.ask()["calls"]
        async with peer_at(victim, "/told") as peer:
            peer.send(victim.close_frame(1000) + (behind or victim.frame(TEXT, b"too late") * 1000))
            await peer.closed_with(1000)
            with contextlib.suppress(ConnectionError):  # a server has ended TCP, though there was more to read
                assert await peer.to_end() == b""
        assert victim.ask()["calls"] == calls

    @pytest.mark.parametrize(
        ("first", "payload", "code", "limit"),
        [
            (TEXT | 0x40, b"", 1002, None),
            (TEXT, b"\xff", 1007, None),
            (BINARY, bytes(LIMIT + 1), 1009, "max_message_bytes"),
        ],
    )
    async def test_the_application_is_told_why(
        self, victim: Target, first: int, payload: bytes, code: int, limit: str | None
    ) -> None:
        """By `on_close`, with the limit's name where it was one; 1008 is in the tests of its limits."""
        async with peer_at(victim, "/told") as peer:
            peer.send(victim.frame(first, payload))
            reason = await peer.closed_with(code)
            await peer.to_end()
        wanted = {"code": code, "reason": reason, "by": "us", "clean": False, "limit": limit}
        await asyncio.to_thread(victim.settled, lambda now: now["close"] == wanted)


class TestBuffers:
    """What is sent is what was given, whatever kind of buffer it was in: no byte of anything else."""

    @pytest.mark.parametrize("name", rules.BUFFERS)
    async def test_a_message(self, victim: Target, name: str) -> None:
        async with peer_at(victim, "/buffers") as peer:
            peer.send(victim.frame(TEXT, b"send:" + name.encode()))
            assert await peer.frame() == (BINARY, bytes(rules.BUFFERS[name]))

    @pytest.mark.parametrize("name", rules.REASONS)
    async def test_a_close_reason(self, victim: Target, name: str) -> None:
        async with peer_at(victim, "/buffers") as peer:
            peer.send(victim.frame(TEXT, b"reason:" + name.encode()))
            assert await peer.frame() == (CLOSE, (4000).to_bytes(2, "big") + str(rules.REASONS[name]).encode())

    @pytest.mark.parametrize("name", ["bytes", "bytearray", "memoryview", "empty"])
    async def test_a_buffer_is_no_close_reason(self, victim: Target, name: str) -> None:
        """A reason is text (§7.1.6): nothing is guessed."""
        async with peer_at(victim, "/buffers") as peer:
            peer.send(victim.frame(TEXT, b"refused:" + name.encode()))
            first, said = await peer.frame()
            assert (first, b"str" in said) == (TEXT, True), said
