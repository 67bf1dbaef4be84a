"""Messages that inflate (RFC 7692 §8), and messages about as long as they may be: whole, or refused, never shorter.

What a bomb makes its victim, a server or a client, spend is bounded by the limit on a message, not by what it would
become; and a neighbour, a well-behaved connection of the same victim, echoes before, during and after.
"""

from __future__ import annotations

import asyncio
import os
import zlib

import pytest
from tests.hostile.attacker import echoes, leaves_nothing, peer_at, told
from tests.hostile.target import KIB, MIB, Target
from tests.support import BINARY, TEXT

pytestmark = pytest.mark.usefixtures("neighbour")

LIMIT = MIB  # Limits.max_message_bytes, as it is by default
RSV1 = 0x40
# A message is held as pieces, as a whole while it grows, and as what the application gets of it; zlib has a window.
MOST_BYTES = 6 * LIMIT


def packed(data: bytes) -> bytes:
    """A message's data, compressed by itself (RFC 7692 §7.2.1)."""
    packer = zlib.compressobj(9, wbits=-15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def zeros(size_mib: int) -> bytes:
    """That many MiB of zeros, compressed: blocks of 1 MiB that don't refer to one another."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * size_mib


BOMB = zeros(1024)


def fragments(victim: Target, first: int, data: bytes, size: int) -> bytes:
    """A message in frames of `size` bytes of payload (RFC 6455 §5.4)."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    last = len(pieces) - 1
    return b"".join(
        victim.frame((0 if n else first & 0x7F) | (0x80 if n == last else 0), one) for n, one in enumerate(pieces)
    )


class TestBombs:
    """1 GiB of zeros in about a MiB: 1009 (§7.4.1) as soon as the limit is passed, while inflating."""

    @pytest.mark.parametrize("path", ["/stored", "/kept"])
    @pytest.mark.parametrize("size", [0, 1031, 64 * KIB], ids=["single", "small fragments", "big fragments"])
    async def test_one(self, victim: Target, path: str, size: int) -> None:
        """With context takeover, and without; in one frame, and in fragments."""
        assert LIMIT < len(BOMB) < LIMIT + (LIMIT >> 6)  # its length is no reason to refuse it
        attack = fragments(victim, BINARY | RSV1, BOMB, size) if size else victim.frame(BINARY | RSV1, BOMB)
        async with peer_at(victim, path, deflate=True) as peer:
            with victim.spending() as spent:
                peer.send(attack)
                assert str(LIMIT) in await peer.closed_with(1009)
                assert await peer.to_end() == b""
        assert spent.peak <= MOST_BYTES, spent
        assert spent.cpu_s < 0.5, spent  # inflating it all takes longer

    async def test_that_refers_to_the_message_before(self, victim: Target) -> None:
        """With context takeover a few bytes can say "the same again", as long as that message may be, and no longer."""
        data = os.urandom(32 * KIB)
        packer = zlib.compressobj(9, wbits=-15)
        async with peer_at(victim, "/kept", deflate=True) as peer:
            for size in (len(data), LIMIT, LIMIT + 1):
                message = (data * 33)[:size]
                attack = (packer.compress(message) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
                with victim.spending() as spent:
                    peer.send(victim.frame(BINARY | RSV1, attack))
                    if size <= LIMIT:
                        assert await peer.frame() == told("bytes", message)
                    else:
                        await peer.closed_with(1009)
                assert spent.peak <= MOST_BYTES, spent

    async def test_on_many_connections(self, victim: Target) -> None:
        """Small ones, a byte over the limit each, one after another."""
        attack = victim.frame(TEXT | RSV1, packed(bytes(LIMIT + 1)))

        async def hundred() -> None:
            for _ in range(100):
                async with peer_at(victim, "/stored", deflate=True) as peer:
                    peer.send(attack)
                    await peer.closed_with(1009)

        spent = await leaves_nothing(victim, hundred, MIB)
        assert spent.peak <= MOST_BYTES, spent
        assert spent.cpu_s < 2, spent

    @pytest.mark.parametrize("path", ["/stored", "/kept"])
    async def test_many_within_the_limit_that_come_together(self, victim: Target, path: str) -> None:
        """240 messages of 1 MiB fit into 256 KiB, which is one read: they must not all be inflated at once."""
        message = bytes(LIMIT)
        attack = victim.frame(BINARY | RSV1, packed(message))
        async with peer_at(victim, path, deflate=True) as peer:
            with victim.spending() as spent:
                peer.send(attack * 240)
                for _ in range(240):
                    assert await peer.frame() == told("bytes", message)
            await echoes(victim, peer)
        assert spent.peak <= MOST_BYTES, spent

    async def test_many_within_the_limit_that_nobody_reads(self, victim: Target) -> None:
        """`Limits.max_unread_bytes` is held to after each message, not after each read."""
        attack = victim.frame(BINARY | RSV1, packed(bytes(LIMIT))) * 240
        async with peer_at(victim, "/unread", deflate=True) as peer:
            with victim.spending() as spent:
                peer.send(attack)
                full = await asyncio.to_thread(victim.settled, lambda now: now["unread"] and now["unread"][0]["paused"])
                [state] = full["unread"]
            assert spent.peak <= MOST_BYTES, spent
            assert state["cost"] <= 256 * KIB + LIMIT + 64, state

    async def test_of_streams(self, victim: Target) -> None:
        """A message of final blocks (RFC 7692 §7.2.3.4), each a stream of its own: inflating stops after a few."""
        packer = zlib.compressobj(9, wbits=-15)
        stream = packer.compress(b"") + packer.flush(zlib.Z_FINISH)
        async with peer_at(victim, "/stored", deflate=True) as peer:
            with victim.spending() as spent:
                peer.send(victim.frame(BINARY | RSV1, stream * (LIMIT // len(stream))))
                await peer.closed_with(1007)
        assert spent.peak <= MOST_BYTES, spent
        assert spent.cpu_s < 0.5, spent

    async def test_of_bytes(self, victim: Target) -> None:
        """A compressed message that comes a byte at a time costs the time of its bytes, not of all before them."""
        data = packed(os.urandom(20 * KIB))
        async with peer_at(victim, "/kept", deflate=True) as peer:
            with victim.spending() as spent:
                attack = victim.frame(BINARY | RSV1, data)
                for n in range(len(attack)):
                    peer.send(attack[n : n + 1])
                    await asyncio.sleep(0)
                assert (await peer.frame())[0] == TEXT
        assert spent.cpu_s < 3, spent


class TestAboutTheLimit:
    """What is delivered is what was sent, to the byte; what is longer is refused: 1009."""

    @pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, LIMIT + 2, LIMIT + 3, LIMIT + 100])
    @pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
    @pytest.mark.parametrize("fragment", [0, 1100, LIMIT - 1, LIMIT], ids=["whole", "many", "one less", "as many"])
    @pytest.mark.parametrize("fill", ["random", "text"])
    async def test_exact_or_refused(self, victim: Target, size: int, compress: bool, fragment: int, fill: str) -> None:
        data = os.urandom(size) if fill == "random" else (b"text " * (size // 5 + 1))[:size]
        first = BINARY if fill == "random" else TEXT
        payload = packed(data) if compress else data
        bits = RSV1 if compress else 0
        attack = fragments(victim, first | bits, payload, fragment) if fragment else victim.frame(first | bits, payload)
        async with peer_at(victim, "/stored", deflate=True) as peer:
            peer.send(attack)
            if size <= LIMIT:
                assert await peer.frame() == told("bytes" if fill == "random" else "str", data)
                await echoes(victim, peer)
            else:
                assert str(LIMIT) in await peer.closed_with(1009)
                assert await peer.to_end() == b""
