"""A stream's life: what it reads, what it writes and in which order, how it ends, and that it ends once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import random
import socket
import time
import weakref
from typing import Any

import pytest
from tests.net.ends import Recorder, Wire, idles, shows_hang_ups
from tests.support import turns, until

from portico.net.reactor import Reactor
from portico.net.stream import FINISH_BYTES, Stream

SMALL = 4096  # for the kernel's buffers: soon full
BIG = 300_000


# -- reading -------------------------------------------------------------------------------------------------------


async def test_what_comes_is_handed_on_in_order_and_counted(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        sent = random.Random(1).randbytes(BIG)
        await wire.end.send(sent)
        assert await wire.protocol.got(BIG) == sent
        assert (wire.stream.bytes_in, wire.stream.bytes_out) == (BIG, 0)
        assert wire.stream.opened <= wire.stream.last_read <= time.monotonic()


async def test_the_peers_end_is_told_once_and_costs_nothing_afterwards(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.end.sock.send(b"last words")
        wire.end.sock.shutdown(socket.SHUT_WR)
        await until(lambda: "eof" in wire.protocol.calls)
        assert bytes(wire.protocol.data) == b"last words"
        await idles(reactor)
        assert wire.protocol.calls.count("eof") == 1
        wire.stream.resume()
        wire.stream.peek()
        await idles(reactor)
        assert wire.protocol.calls.count("eof") == 1
        wire.stream.write(b"an answer")  # it has shut its side alone
        assert await wire.end.read(9) == b"an answer"
        assert wire.protocol.causes == []


async def test_a_reset_ends_the_stream_with_its_cause(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.end.reset()
        assert isinstance(await wire.protocol.gone(), ConnectionResetError)
        assert wire.protocol.calls == ["lost"]
        assert (wire.stream.state, wire.stream.gone, wire.stream.open) == ("gone", True, False)


async def test_pause_and_resume(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.stream.pause()
        wire.stream.pause()
        assert wire.stream.paused
        await wire.end.send(b"waits")
        await idles(reactor)
        assert wire.protocol.calls == []
        wire.stream.peek()
        assert bytes(wire.protocol.data) == b"waits"
        await wire.end.send(b"more")
        await idles(reactor)
        assert bytes(wire.protocol.data) == b"waits"
        wire.stream.resume()
        wire.stream.resume()
        assert not wire.stream.paused
        assert await wire.protocol.got(9) == b"waitsmore"


async def test_a_protocol_that_pauses_itself_gets_no_more_than_what_was_read(reactor: Reactor) -> None:
    async with Wire(reactor, buffer=SMALL) as wire:
        wire.protocol.on_received = lambda data: wire.stream.pause()
        sending = asyncio.create_task(wire.end.send(bytes(BIG)))
        await wire.protocol.got(1)
        await idles(reactor)
        assert wire.protocol.calls == ["received"]
        assert wire.stream.bytes_in < BIG
        wire.protocol.on_received = lambda data: None
        wire.stream.resume()
        await sending
        await wire.protocol.got(BIG)


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
async def test_an_end_while_paused_waits_behind_what_was_not_read(reactor: Reactor, unix: bool) -> None:
    """A Unix socket reports a hang-up that can't be masked: it must neither spin nor lose what came before."""
    async with Wire(reactor, unix=unix) as wire:
        wire.stream.pause()
        await wire.end.send(b"last words")
        wire.end.sock.close()
        await idles(reactor)
        assert wire.protocol.calls == []
        wire.stream.resume()
        await until(lambda: "eof" in wire.protocol.calls)
        assert bytes(wire.protocol.data) == b"last words"


async def test_a_reset_while_paused_ends_the_stream_and_does_not_spin(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.stream.pause()
        await wire.end.send(b"unread")
        await idles(reactor)
        wire.end.reset()
        if not shows_hang_ups(reactor):
            await idles(reactor)
            wire.stream.resume()
        assert isinstance(await wire.protocol.gone(), ConnectionResetError)


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
async def test_a_hang_up_after_the_peers_end_ends_the_stream(reactor: Reactor, unix: bool) -> None:
    """A protocol that goes on answering after the peer's end learns when nobody is there any more."""
    async with Wire(reactor, unix=unix) as wire:
        wire.end.sock.shutdown(socket.SHUT_WR)
        await until(lambda: "eof" in wire.protocol.calls)
        assert wire.protocol.causes == []
        if unix:
            wire.end.sock.close()
        else:
            wire.end.reset()
        if not shows_hang_ups(reactor):
            await idles(reactor)
            wire.stream.write(b"an answer")
        assert isinstance(await wire.protocol.gone(), (ConnectionResetError, BrokenPipeError))


async def test_a_protocol_can_be_swapped_while_it_reads(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        second = Recorder()

        def swap(data: bytes) -> None:
            wire.stream.protocol = second

        wire.protocol.on_received = swap
        await wire.end.send(b"first")
        await wire.protocol.got(5)
        await wire.end.send(b"second")
        assert await second.got(6) == b"second"
        wire.stream.abort()
        assert wire.protocol.calls == ["received"]
        assert second.calls == ["received", "lost"]


async def test_an_idle_stream_waits_for_nothing_and_holds_no_buffer(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.protocol.on_received = wire.stream.write
        await wire.end.send(b"hello")
        assert await wire.end.read(5) == b"hello"
        await idles(reactor)
        assert wire.stream.buffered == 0
        held = [item for item in gc.get_referents(wire.stream) if isinstance(item, (bytes, bytearray, list))]
        assert held == []


# -- the end -------------------------------------------------------------------------------------------------------


async def test_close_writes_what_is_in_the_outbox_first(reactor: Reactor) -> None:
    async with Wire(reactor, buffer=SMALL) as wire:
        written = wire.block() + bytes(BIG)
        wire.stream.write(bytes(BIG))
        wire.stream.close()
        assert (wire.stream.state, wire.stream.open) == ("finishing", False)
        wire.stream.write(b"too late")
        assert await wire.end.to_end() == written
        assert await wire.protocol.gone() is None
        assert wire.protocol.calls == ["lost"], "nothing but the end after close"


async def test_close_with_an_empty_outbox_ends_at_once(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.stream.close()
        assert wire.protocol.calls == ["lost"]
        assert await wire.end.to_end() == b""


async def test_lingering_saves_our_last_words_although_input_waits(reactor: Reactor) -> None:
    """Closing with input unread makes the kernel send RST, which takes what the peer has not read yet with it."""
    async with Wire(reactor) as wire:
        wire.stream.pause()
        await wire.end.send(bytes(100_000))
        wire.stream.write(b"our last words")
        wire.stream.close(linger=True)
        await until(lambda: wire.stream.state == "lingering")
        await wire.end.send(bytes(100_000))
        assert await wire.end.to_end() == b"our last words"
        assert wire.protocol.causes == []
        wire.end.sock.close()
        assert await wire.protocol.gone() is None
        assert wire.protocol.calls == ["lost"], "what came after close is thrown away"


async def test_lingering_ends_without_the_peer_doing_anything(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.stream.close(linger=True)
        assert wire.stream.state == "lingering"
        wire.stream.expired(time.monotonic())
        assert await wire.protocol.gone() is None


async def test_lingering_reads_a_bounded_amount(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.stream.close(linger=True)
        with contextlib.suppress(ConnectionError):
            await wire.end.send(bytes(80 * 1024 * 1024))
        assert await wire.protocol.gone() is None
        assert wire.stream.bytes_in < 66 * 1024 * 1024


async def test_there_is_nothing_to_linger_for_after_the_peers_end(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.end.sock.shutdown(socket.SHUT_WR)
        await until(lambda: "eof" in wire.protocol.calls)
        wire.stream.write(b"bye")
        wire.stream.close(linger=True)
        assert await wire.end.to_end() == b"bye"
        assert await wire.protocol.gone() is None


@pytest.mark.parametrize("paused", [False, True])
async def test_the_peers_end_while_finishing_lets_the_rest_go_out(reactor: Reactor, paused: bool) -> None:
    async with Wire(reactor, buffer=SMALL) as wire:
        written = wire.block()
        if paused:
            wire.stream.pause()
        wire.stream.close()
        await wire.end.send(b"not read any more")
        wire.end.sock.shutdown(socket.SHUT_WR)
        await turns()
        assert await wire.end.to_end() == written
        assert await wire.protocol.gone() is None


async def test_a_peer_that_takes_nothing_is_given_up(reactor: Reactor) -> None:
    async with Wire(reactor, buffer=SMALL) as wire:
        wire.block()
        wire.stream.write(bytes(BIG))
        began = time.monotonic()
        wire.stream.close(timeout_s=0.2)
        await idles(reactor)
        assert await wire.protocol.gone() is None
        assert 0.2 <= time.monotonic() - began < 4.5


async def test_a_peer_that_takes_hardly_anything_is_given_up_too(reactor: Reactor) -> None:
    async with Wire(reactor, buffer=SMALL) as wire:
        wire.block()
        wire.stream.write(bytes(BIG))
        wire.stream.close(timeout_s=100)
        out = wire.stream.bytes_out
        while wire.stream.bytes_out - out < FINISH_BYTES:
            await wire.end.read(500)
            await turns(3)
        wire.stream.expired(time.monotonic())
        assert not wire.stream.gone, "so much is progress"
        wire.stream.expired(time.monotonic())
        assert wire.stream.gone, "nothing at all is none"


async def test_the_time_to_finish_counts_from_close_and_not_from_the_last_turn(reactor: Reactor) -> None:
    async with Wire(reactor, buffer=SMALL) as wire:
        wire.block()
        await turns()
        before = time.monotonic()
        wire.stream.close(timeout_s=5)
        assert before + 5 <= wire.stream.due <= time.monotonic() + 5


async def test_abort_drops_the_outbox_and_tells_the_cause(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.stream.write(b"dropped")
        cause = TimeoutError("enough")
        wire.stream.abort(cause)
        wire.stream.abort(ValueError("another"))
        assert wire.protocol.causes == [cause]
        assert wire.stream.buffered == 0
        assert await wire.end.to_end() == b""


async def test_abort_from_every_callback(reactor: Reactor) -> None:
    for name in ("on_received", "on_eof", "on_lost"):
        async with Wire(reactor) as wire:
            setattr(wire.protocol, name, lambda *_, wire=wire: wire.stream.abort())
            wire.end.sock.send(b"x")
            wire.end.sock.close()
            if name == "on_lost":
                wire.stream.abort()
            await wire.protocol.gone()
            await turns()
            assert wire.protocol.calls.count("lost") == 1


async def test_a_deadline_is_the_protocols_while_the_stream_is_open(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        reactor.wheel.schedule(wire.stream, time.monotonic())
        await until(lambda: "expired" in wire.protocol.calls)
        assert wire.stream.open


async def test_the_listener_hears_of_the_end_once_whatever_the_protocol_raises(reactor: Reactor) -> None:
    class Owner:
        gone: list[Stream] = []  # noqa: RUF012 # of this one test

        def ended(self, stream: Stream) -> None:
            self.gone.append(stream)

    def fail() -> None:
        raise ZeroDivisionError

    async with Wire(reactor, listener=Owner()) as wire:
        wire.protocol.on_lost = fail
        with pytest.raises(ZeroDivisionError):
            wire.stream.abort()
        wire.stream.abort()
        assert Owner.gone == [wire.stream]
        Owner.gone.clear()


async def test_nothing_holds_a_stream_that_has_ended(reactor: Reactor) -> None:
    """Its protocol stands for it here: it is what the stream holds, and what its user does."""
    for how in ("abort", "close", "eof", "reset", "linger"):
        async with Wire(reactor) as wire:
            reactor.wheel.schedule(wire.stream, time.monotonic() + 1000)
            wire.stream.write(b"x")
            match how:
                case "abort":
                    wire.stream.abort()
                case "eof":
                    wire.protocol.on_eof = wire.stream.abort
                    wire.end.sock.close()
                case "reset":
                    wire.end.reset()
                case _:
                    wire.stream.close(linger=how == "linger")
                    wire.end.sock.close()
            await wire.protocol.gone()
            assert reactor.sources() == []
        gone: Any = weakref.ref(wire.protocol)
        del wire
        await turns()
        gc.collect()
        assert gone() is None, how


async def test_both_addresses(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        assert wire.stream.local == wire.end.sock.getpeername()
        wire.stream.abort()
        assert wire.stream.local is None
        assert not wire.stream.tls


async def test_an_operating_system_s_error_is_the_cause(reactor: Reactor) -> None:
    async with Wire(reactor) as wire:
        wire.end.reset()
        cause = await wire.protocol.gone()
        assert isinstance(cause, OSError)
        assert cause.errno == errno.ECONNRESET
