"""The reactor: one descriptor in the loop for all, one flush a turn, and errors that stay where they belong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from tests.net.ends import End, Recorder, Wire, tcp_pair
from tests.support import GUARD_S, descriptors, turns, until

from portico.errors import LocalError
from portico.net.reactor import ERROR, READ, WRITE, Epoll, Reactor, Selected, Source
from portico.net.stream import Stream

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine on each kind of event loop."""

    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main)

    return run


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts what is asked of it while `counting`."""

    counting = False

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []
        self.soon = 0

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        self.readers.append(fd)
        super().add_reader(fd, callback, *args)

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        self.soon += self.counting
        return super().call_soon(callback, *args, context=context)


class CountedStream(Stream):
    """Counts its writes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sends = 0

    def _send(self, data: bytes) -> int:
        self.sends += 1
        return super()._send(data)


def echo(wire: Wire) -> None:
    wire.protocol.on_received = wire.stream.write


def test_every_stream_of_a_loop_is_one_descriptor_in_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        reactor = Reactor.running()
        assert Reactor.running() is reactor
        async with contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(Wire(reactor)) for _ in range(50)]
            assert reactor.count == len(reactor.sources()) == 50
            for wire in wires:
                wire.end.sock.send(b"here")
            for wire in wires:
                await wire.protocol.got(4)
        assert (reactor.count, reactor.sources()) == (0, [])
        assert loop.readers == [reactor.poller.fileno()]
        reactor.close_if_idle()

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main())


def test_it_runs_nested_in_any_loop(run: Callable[..., None]) -> None:
    async def main() -> None:
        reactor = Reactor.running()
        async with contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(Wire(reactor)) for _ in range(20)]
            for wire in wires:
                echo(wire)
            for round_ in range(3):
                message = b"%d" % round_ * 50_000
                await asyncio.gather(*(wire.end.send(message) for wire in wires))
                answers = await asyncio.gather(*(wire.end.read(len(message)) for wire in wires))
                assert answers == [message] * 20
            for wire in wires[:10]:
                wire.protocol.on_eof = wire.stream.close
                wire.end.sock.close()
            for wire in wires[:10]:
                assert await wire.protocol.gone() is None
            assert reactor.count == 10
        reactor.close_if_idle()

    run(main())


def test_deadlines_fall_due_in_any_loop(run: Callable[..., None]) -> None:
    async def main() -> None:
        reactor = Reactor.running()
        async with Wire(reactor) as wire:
            due = time.monotonic() + 0.12
            reactor.wheel.schedule(wire.stream, due)
            await until(lambda: "expired" in wire.protocol.calls)
            assert due <= time.monotonic() < due + GUARD_S
        reactor.close_if_idle()

    run(main())


async def test_what_one_protocol_raises_ends_its_own_stream_alone(reactor: Reactor) -> None:
    def fail(data: bytes) -> None:
        raise ZeroDivisionError

    async with Wire(reactor) as bad, Wire(reactor) as good, Wire(reactor) as also_good:
        bad.protocol.on_received = fail
        for wire in (good, bad, also_good):
            wire.end.sock.send(b"hello")
        assert isinstance(await bad.protocol.gone(), ZeroDivisionError)
        assert bad.protocol.calls == ["received", "failed", "lost"]
        for wire in (good, also_good):
            await wire.protocol.got(5)
            echo(wire)
            await wire.end.send(b"again")
            assert await wire.end.read(5) == b"again"


@pytest.mark.parametrize("method", ["failed", "lost", "expired", "drained"])
async def test_nor_does_what_it_raises_anywhere_else(reactor: Reactor, method: str) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    class Bad(Recorder):
        def failed(self, error: Exception) -> None:
            super().failed(error)
            self.fail("failed")

        def lost(self, cause: BaseException | None) -> None:
            super().lost(cause)
            self.fail("lost")

        def expired(self, now: float) -> None:
            super().expired(now)
            self.fail("expired")

        def drained(self) -> None:
            super().drained()
            self.fail("drained")

        def fail(self, where: str) -> None:
            if where == method:
                raise ZeroDivisionError

    async with Wire(reactor, high_water=100) as bad, Wire(reactor) as good:
        bad.protocol = bad.stream.protocol = Bad()
        if method == "expired":
            reactor.wheel.schedule(bad.stream, time.monotonic())
        elif method == "drained":
            bad.stream.write(bytes(200))
        else:
            bad.protocol.on_received = lambda data: 1 // 0
            bad.end.sock.send(b"x")
        echo(good)
        assert isinstance(await bad.protocol.gone(), ZeroDivisionError)
        await good.end.send(b"still here")
        assert await good.end.read(10) == b"still here"
    assert len(reported) == (method in ("failed", "lost"))


async def test_a_turn_writes_each_stream_once_at_its_end(reactor: Reactor) -> None:
    async with Wire(reactor, kind=CountedStream) as one, Wire(reactor, kind=CountedStream) as two:

        def answer(data: bytes) -> None:
            for index in range(100):
                one.stream.write(b"%02d" % index)
                two.stream.write(b"%02d" % index)
            assert one.stream.sends == two.stream.sends == 0  # type: ignore[attr-defined]

        one.protocol.on_received = answer
        one.end.sock.send(b"go")
        expected = b"".join(b"%02d" % index for index in range(100))
        assert await one.end.read(200) == expected
        assert await two.end.read(200) == expected
        assert one.stream.sends == two.stream.sends == 1  # type: ignore[attr-defined]


def test_outside_a_turn_any_number_of_writes_schedule_one_flush() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        reactor = Reactor.running()
        async with Wire(reactor, kind=CountedStream) as one, Wire(reactor, kind=CountedStream) as two:
            loop.counting = True
            for _ in range(100):
                one.stream.write(b"1")
                two.stream.write(b"2")
            loop.counting = False
            assert loop.soon == 1
            assert await one.end.read(100) == b"1" * 100
            assert await two.end.read(100) == b"2" * 100
            assert one.stream.sends == two.stream.sends == 1  # type: ignore[attr-defined]
        reactor.close_if_idle()

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main())


async def test_a_source_that_ended_earlier_in_the_batch_hears_no_more(reactor: Reactor) -> None:
    async with Wire(reactor) as one, Wire(reactor) as two:
        one.protocol.on_received = lambda data: two.stream.abort()
        two.protocol.on_received = lambda data: one.stream.abort()
        one.end.sock.send(b"x")
        two.end.sock.send(b"x")
        await until(lambda: one.stream.gone or two.stream.gone)
        await turns()
        assert one.stream.gone != two.stream.gone, "only the first of the batch was told"
        assert sorted((one.protocol.calls, two.protocol.calls)) == [["lost"], ["received"]]


async def test_an_event_of_the_batch_does_no_harm_to_who_has_the_descriptor_now(reactor: Reactor) -> None:
    """The descriptor of a stream that ended may be that of a new one before the batch is through."""
    async with contextlib.AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(Wire(reactor)) for _ in range(2)]
        sock, other = tcp_pair()
        newer = Recorder()
        streams: list[Stream] = []

        def replace(victim: Wire) -> Callable[[bytes], None]:
            def act(data: bytes) -> None:
                fd = victim.stream.fd
                victim.stream.abort()
                os.dup2(sock.fileno(), fd)  # as accept() would have given the new connection this number
                sock.close()
                streams.append(Stream(reactor, socket.socket(fileno=fd), newer, None, 65536, None))
                victim.protocol.on_received = one.protocol.on_received = lambda data: None

            return act

        one.protocol.on_received = replace(two)
        two.protocol.on_received = replace(one)
        one.end.sock.send(b"x")
        two.end.sock.send(b"x")
        await until(lambda: streams)
        await turns()
        assert newer.calls == []
        end = End(other)
        await end.send(b"mine")
        assert await newer.got(4) == b"mine"
        streams[0].abort()
        other.close()


def test_a_loop_without_add_reader_is_a_clear_error() -> None:
    class NoReaders(asyncio.SelectorEventLoop):
        def add_reader(self, *args: Any) -> None:
            raise NotImplementedError

    async def main() -> None:
        before = descriptors()
        with pytest.raises(
            LocalError, match=r"NoReaders has no add_reader\(\): expected a selector event loop or uvloop"
        ):
            Reactor.running()
        assert descriptors() == before

    with asyncio.Runner(loop_factory=NoReaders) as runner:
        runner.run(main())


async def test_an_idle_reactor_leaves_the_loop_and_a_busy_one_stays() -> None:
    before = descriptors()
    reactor = Reactor.running()
    async with Wire(reactor) as wire:
        reactor.close_if_idle()
        assert Reactor.running() is reactor
        echo(wire)
        await wire.end.send(b"alive")
        assert await wire.end.read(5) == b"alive"
    fd = reactor.poller.fileno()
    reactor.close_if_idle()
    reactor.close_if_idle()
    assert not asyncio.get_running_loop().remove_reader(fd)
    assert descriptors() == before
    another = Reactor.running()
    assert another is not reactor
    another.close_if_idle()


async def test_a_turn_that_was_asked_for_before_the_reactor_closed_does_nothing() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    reactor = Reactor.running()
    async with Wire(reactor) as wire:
        reactor.again(wire.stream)
        wire.stream.write(b"never written")
    reactor.close_if_idle()
    await turns()
    assert reported == []


async def test_what_asks_to_act_again_acts_once_in_the_next_turn(reactor: Reactor) -> None:
    class Greedy(Source):
        def __init__(self) -> None:
            super().__init__()
            self.acted = 0

        def ready(self, events: int) -> None:
            self.acted += 1
            if self.acted < 10:
                reactor.again(self)
                reactor.again(self)

        def flush(self) -> None:
            raise AssertionError

        def failed(self, error: Exception) -> None:
            raise error

    sock, other = tcp_pair()
    with sock, other:
        greedy = Greedy()
        reactor.add(greedy, sock.fileno(), 0)
        reactor.again(greedy)
        for count in range(1, 10):
            await asyncio.sleep(0)
            assert greedy.acted == count
        await turns()
        assert greedy.acted == 10
        reactor.remove(greedy)


async def test_an_interrupted_flush_is_made_up_for(reactor: Reactor) -> None:
    """Ctrl-C may come anywhere; the server still says its goodbyes."""

    class Interrupted(CountedStream):
        def _send(self, data: bytes) -> int:
            if not self.sends:
                self.sends = 1
                raise asyncio.CancelledError
            return super()._send(data)

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with Wire(reactor, kind=Interrupted) as one, Wire(reactor) as two:
        one.stream.write(b"1")
        two.stream.write(b"2")
        await turns()
        assert one.stream.sends == 1  # type: ignore[attr-defined]
        await one.end.send(b"wake up")  # the next turn
        assert await two.end.read(1) == b"2"


async def test_the_time_is_right_outside_of_turns_too(reactor: Reactor) -> None:
    """A deadline counted from the last turn, which may be a minute ago, would be over at once."""
    before = time.monotonic()
    assert before <= reactor.now <= time.monotonic()
    async with Wire(reactor) as wire:
        times: list[float] = []
        wire.protocol.on_received = lambda data: times.extend((reactor.now, reactor.now))
        await wire.end.send(b"x")
        await wire.protocol.got(1)
        assert times[0] == times[1]
        assert before < times[0] < reactor.now


@pytest.mark.parametrize("kind", [Epoll, Selected])
def test_each_readiness_set_keeps_to_the_same_interface(kind: type[Epoll | Selected]) -> None:
    poller = kind()
    one, two = socket.socketpair()
    with one, two:
        fd = one.fileno()
        assert poller.poll(10) == []
        poller.add(fd, poller.READ)
        assert poller.poll(10) == []
        two.send(b"x")
        assert poller.poll(10) == [(fd, poller.READ)]
        assert poller.poll(10) == [(fd, poller.READ)], "it is still so"
        poller.change(fd, poller.READ | poller.WRITE)
        bits = 0
        for found, more in poller.poll(10):
            assert found == fd
            bits |= more
        assert bits == poller.READ | poller.WRITE
        poller.change(fd, poller.WRITE)
        assert poller.poll(10) == [(fd, poller.WRITE)]
        poller.change(fd, poller.NOTHING)
        assert poller.poll(10) == []
        two.close()
        poller.poll(10)
        assert poller.poll(10) == [], "a hang-up is reported once at most"
        poller.change(fd, poller.READ)
        [(found, bits)] = poller.poll(10)
        assert (found, bits & poller.READ) == (fd, poller.READ)
        poller.remove(fd)
        assert poller.poll(10) == []
    poller.close()


async def test_no_more_than_was_asked_for_comes_of_a_poll(reactor: Reactor) -> None:
    async with contextlib.AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(reactor)) for _ in range(5)]
        for wire in wires:
            wire.end.sock.send(b"x")
        assert len(reactor.poller.poll(3)) == 3
        for wire in wires:
            await wire.protocol.got(1)


@pytest.mark.parametrize("kind", [Epoll, Selected])
def test_of_more_that_are_ready_than_a_turn_takes_none_waits_for_ever(kind: type[Epoll | Selected]) -> None:
    poller = kind()
    with contextlib.ExitStack() as stack:
        stack.callback(poller.close)
        for _ in range(10):
            one, two = map(stack.enter_context, socket.socketpair())
            two.send(b"x")
            poller.add(one.fileno(), poller.READ)
        assert len({fd for _ in range(4) for fd, _ in poller.poll(3)}) == 10


async def test_a_call_that_was_asked_for_and_raises_ends_its_source_alone(reactor: Reactor) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    async with Wire(reactor) as one, Wire(reactor) as two:
        reactor.soon(one.stream, fail)
        reactor.soon(two.stream, lambda: two.stream.write(b"goes out with the same turn"))
        assert isinstance(await one.protocol.gone(), ZeroDivisionError)
        assert await two.end.read(27) == b"goes out with the same turn"


def test_the_three_events_are_different() -> None:
    assert len({READ, WRITE, ERROR, READ | WRITE, READ | ERROR, WRITE | ERROR}) == 6
