"""A stream's outbox: in order, bounded by its user through what it tells, and never corrupted by what is dropped."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time

import pytest
from tests.net.ends import Wire, idles
from tests.support import turns, until

from portico.net.reactor import Reactor

SMALL = 4096  # for the kernel's buffers: soon full
BIG = 300_000


# -- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 70_000, BIG], ids=str)
async def test_whatever_the_kernel_takes_all_arrives_in_order(reactor: Reactor, size: int) -> None:
    """Partial writes: the kernel's buffers are small, and the reader is slow."""
    async with Wire(reactor, buffer=SMALL) as wire:
        chance = random.Random(size)
        expected = bytearray()
        while len(expected) < 3 * BIG:
            piece = chance.randbytes(chance.randint(1, size) if size > 1 else 1) * (1 if size > 1 else 200)
            wire.stream.write(piece)
            expected += piece
            if chance.random() < 0.01:
                await asyncio.sleep(0)
        assert await wire.end.read(len(expected)) == expected
        await until(lambda: not wire.stream.buffered)
        assert wire.stream.bytes_out == len(expected)
        assert not wire.stream.blocked


async def test_a_very_large_entry_is_not_copied_for_every_write(reactor: Reactor) -> None:
    async with Wire(reactor, buffer=16 * SMALL) as wire:
        body = random.Random(1).randbytes(1024) * 65536
        began = time.process_time()
        wire.stream.write(body)
        wire.stream.write(b"end")
        assert await wire.end.read(8 << 20) == body[: 8 << 20]
        assert time.process_time() - began < 1, "a copy of the rest for each of the hundred writes takes longer"
        assert wire.stream.buffered == len(body) + 3 - wire.stream.bytes_out


async def test_drained_is_told_at_half_of_the_high_water_mark_and_once(reactor: Reactor) -> None:
    async with Wire(reactor, buffer=SMALL, high_water=100_000) as wire:
        written = wire.block()
        while wire.stream.buffered <= 100_000:
            wire.stream.write(bytes(5000))
            written += bytes(5000)
        await turns()
        assert "drained" not in wire.protocol.calls
        received = 0
        while "drained" not in wire.protocol.calls:
            assert wire.stream.buffered > 0
            received += len(await wire.end.read(2000))
            await turns(5)
        assert wire.stream.buffered <= 50_000
        assert await wire.end.read(len(written) - received) == written[received:]
        await until(lambda: not wire.stream.buffered)
        assert wire.protocol.calls.count("drained") == 1


async def test_below_the_high_water_mark_nothing_is_told(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.stream.write(bytes(65536))
        await wire.end.read(65536)
        await turns()
        assert wire.protocol.calls == []


async def test_a_blocked_stream_waits_for_its_peer_without_spinning(reactor: Reactor) -> None:
    async with Wire(reactor, buffer=SMALL) as wire:
        wire.block()
        wire.stream.write(b"more")
        await idles(reactor)
        assert wire.stream.blocked


async def test_writing_to_a_peer_that_reset_ends_the_stream_once(reactor: Reactor) -> None:
    async with Wire(reactor, buffer=SMALL) as wire:
        wire.block()
        wire.end.reset()
        wire.stream.write(b"too late")
        assert isinstance(await wire.protocol.gone(), (ConnectionResetError, BrokenPipeError))
        wire.stream.write(b"no harm")
        wire.stream.close()
        wire.stream.abort()
        wire.stream.resume()
        await turns()
        assert wire.protocol.calls.count("lost") == 1


async def test_what_the_peer_said_before_it_left_is_read_although_writing_failed(reactor: Reactor) -> None:
    """Its close frame, above all; here behind more than one read's worth of messages."""
    async with Wire(reactor, unix=True) as wire:
        wire.stream.pause()
        said = random.Random(1).randbytes(100_000) + b"goodbye"
        await wire.end.send(said)
        wire.end.sock.close()
        wire.stream.resume()
        wire.stream.write(b"nobody is there")
        wire.stream.flush()
        assert isinstance(await wire.protocol.gone(), (BrokenPipeError, ConnectionResetError, type(None)))
        assert bytes(wire.protocol.data) == said


@pytest.mark.parametrize("resets", [True, False], ids=["rst", "gone"])
async def test_a_write_that_fails_within_a_callback_calls_no_other_within_it(reactor: Reactor, resets: bool) -> None:
    """What the peer said last, and the end, come in a turn of their own; until then nothing is taken."""
    found: list[object] = []
    async with Wire(reactor, unix=not resets) as wire:
        stream, calls = wire.stream, wire.protocol.calls

        def answer(data: bytes) -> None:
            if found:
                return
            wire.end.sock.send(b"goodbye")
            wire.end.reset() if resets else wire.end.sock.close()
            while stream.open:
                stream.write(b"an answer")
                stream.flush_within()
            stream.write(b"more")
            found.extend([stream.state, stream.buffered, *calls])

        wire.protocol.on_received = answer
        await wire.end.send(b"hello")
        assert isinstance(await wire.protocol.gone(), (BrokenPipeError, ConnectionResetError, type(None)))
        assert found == ["broken", 0, "received"]
        assert calls.count("lost") == 1
        assert bytes(wire.protocol.data) in ([b"hello"] if resets else []) + [b"hellogoodbye"]


async def test_empty_writes_are_nothing(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.stream.write(b"")
        assert (wire.stream.buffered, wire.stream.in_dirty) == (0, False)


# -- the outbox of a slow peer -------------------------------------------------------------------------------------


class Droppable(bytes):
    pass


async def test_dropping_the_oldest_keeps_what_was_begun_and_what_is_not_droppable(reactor: Reactor) -> None:
    async with Wire(reactor, buffer=SMALL) as wire:
        begun = wire.block()
        entries = [Droppable(b"a" * 100), b"direct", Droppable(b"b" * 100), Droppable(b"c" * 100)]
        for entry in entries:
            wire.stream.write(entry)
        before = wire.stream.buffered
        assert wire.stream.drop_oldest(Droppable, 301) == 0, "all of them would not do, so none is dropped"
        assert wire.stream.buffered == before
        assert wire.stream.drop_oldest(Droppable, 101) == 2
        assert wire.stream.buffered == before - 200
        expected = begun + b"direct" + b"c" * 100
        assert await wire.end.read(len(expected)) == expected


async def test_an_entry_of_which_the_kernel_took_a_part_is_never_dropped_or_replaced(reactor: Reactor) -> None:
    async with Wire(reactor, buffer=SMALL) as wire:
        entry = Droppable(random.Random(1).randbytes(BIG))
        wire.stream.write(entry)
        wire.stream.flush()
        assert wire.stream.blocked
        assert 0 < wire.stream.bytes_out < BIG
        assert wire.stream.drop_oldest(Droppable, 1) == 0
        assert not wire.stream.replace(b"new", lambda entry: True)
        wire.stream.drop_unsent()
        assert wire.stream.buffered == BIG - wire.stream.bytes_out
        wire.stream.write(b"after it")
        assert await wire.end.read(BIG + 8) == entry + b"after it"


async def test_a_partial_write_leaves_the_entries_behind_it_whole(reactor: Reactor) -> None:
    """Many entries go out in one write; only the one in which the kernel stopped can't be dropped any more."""
    async with Wire(reactor, buffer=SMALL) as wire:
        entries = [Droppable(b"%04d" % index * 250) for index in range(200)]
        for entry in entries:
            wire.stream.write(entry)
        wire.stream.flush()
        assert wire.stream.blocked
        out, rest = divmod(wire.stream.bytes_out, 1000)
        whole = 200 - out - 1
        assert wire.stream.drop_oldest(Droppable, whole * 1000) == whole
        assert wire.stream.buffered == 1000 - rest
        expected = b"".join(entries[: out + 1])
        assert await wire.end.read(len(expected)) == expected


async def test_replacing_takes_the_last_that_fits_and_its_place(reactor: Reactor) -> None:
    async with Wire(reactor, buffer=SMALL, high_water=1000) as wire:
        begun = wire.block()
        for entry in (b"x1", b"y1", b"x2", b"y2"):
            wire.stream.write(Droppable(entry))
        before = wire.stream.buffered
        assert wire.stream.replace(b"newer x", lambda entry: entry[:1] == b"x")
        assert not wire.stream.replace(b"z", lambda entry: entry[:1] == b"z")
        assert wire.stream.buffered == before + 5
        expected = begun + b"x1y1newer xy2"
        assert await wire.end.read(len(expected)) == expected


async def test_small_entries_for_a_slow_peer_weigh_what_they_are(reactor: Reactor) -> None:
    """A limit in bytes would be no limit on memory, were each of them kept with an object around it."""
    async with Wire(reactor, buffer=SMALL) as wire:
        begun = wire.block()
        count = 20_000
        for number in range(count):
            wire.stream.write(b"%05d" % number)
            if number % 1000 == 0:
                wire.stream.write(Droppable(b"+"))
        [out] = [each for each in gc.get_referents(wire.stream) if isinstance(each, list)]
        assert sum(sys.getsizeof(entry) for entry in out[1:]) < 2 * 5 * count
        assert wire.stream.drop_oldest(Droppable, 20) == 20
        expected = begun + b"".join(b"%05d" % number for number in range(count))
        assert wire.stream.bytes_out + wire.stream.buffered == len(expected)
        assert await wire.end.read(len(expected)) == expected


async def test_a_replacement_above_the_high_water_mark_is_told_to_be_drained(reactor: Reactor) -> None:
    async with Wire(reactor, high_water=1000) as wire:
        wire.stream.write(b"small")
        assert wire.stream.replace(bytes(2000), lambda entry: True)
        await wire.end.read(2000)
        await until(lambda: "drained" in wire.protocol.calls)


async def test_of_an_outbox_not_begun_all_can_be_dropped(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.stream.write(b"never mind")
        wire.stream.drop_unsent()
        assert wire.stream.buffered == 0
        wire.stream.write(b"this")
        assert await wire.end.read(4) == b"this"
