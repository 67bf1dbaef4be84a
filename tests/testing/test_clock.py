"""Simulated time: it jumps where there is nothing to do, waits for what is really under way, and never hangs."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

import portico
from portico.net.reactor import Reactor
from portico.testing import Stalled, VirtualLoop, pair, run
from portico.testing.clock import START_S


def test_a_day_takes_no_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(86_000)
        return loop.time()

    began = time.monotonic()
    assert run(main()) == START_S + 86_000
    assert time.monotonic() - began < 60


def test_timers_fire_in_their_order_and_at_their_time() -> None:
    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        fired: list[tuple[str, float]] = []

        async def wait(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            fired.append((name, loop.time() - START_S))

        await asyncio.gather(wait("c", 3600), wait("a", 0.001), wait("b", 60), wait("at once", 0))
        return fired

    names, times = zip(*run(main()), strict=True)
    assert names == ("at once", "a", "b", "c")
    assert times == pytest.approx((0, 0.001, 60, 3600))


def test_no_time_passes_while_there_is_anything_to_do() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=near)
        with far:
            far.setblocking(False)
            for _ in range(100):
                writer.write(b"there")
                assert await loop.sock_recv(far, 100) == b"there"
                await loop.sock_sendall(far, b"and back")
                assert await reader.readexactly(8) == b"and back"
        writer.close()
        await writer.wait_closed()
        assert loop.time() == START_S

    run(main())


def test_portico_runs_on_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert Reactor.running().clock() == loop.time()
        async with pair(keepalive=portico.Keepalive(ping_interval_s=25)) as (client, server):
            await asyncio.sleep(3600)
            assert client.latency == 0
            assert server.latency == 0

    run(main())


def test_work_in_an_executor_is_waited_for_and_takes_no_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        other = threading.Event()
        threading.Timer(0.05, other.set).start()
        async with asyncio.timeout(1):  # of simulated time
            assert await asyncio.to_thread(other.wait)
            assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert loop.time() == START_S

    run(main())


def test_a_cancelled_wait_for_an_executor_is_over() -> None:
    """The thread goes on; the loop waits for it only at its own end."""

    async def main() -> None:
        free = threading.Event()
        task = asyncio.create_task(asyncio.to_thread(free.wait))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        await asyncio.sleep(10)
        assert asyncio.get_running_loop().time() == START_S + 10
        free.set()

    run(main())


class TestStalled:
    def test_nothing_to_wait_for(self) -> None:
        """The message says which task waits, and where."""

        async def main() -> None:
            asyncio.current_task().set_name("the culprit")  # type: ignore[union-attr]
            await asyncio.Event().wait()

        with pytest.raises(
            Stalled, match=r"at 0 s: nothing is left to wait for(.|\n)*the culprit: .*test_clock.py:\d+ in main"
        ):
            run(main())

    def test_keepalive_alone_does_not_keep_it_going_for_ever(self) -> None:
        async def main() -> None:
            async with pair() as (client, _):
                await client.recv()

        with pytest.raises(Stalled, match=r"3600 s have passed \(limit_s\)"):
            run(main(), limit_s=3600)

    def test_a_task_that_spins(self) -> None:
        async def main() -> None:
            while True:
                await asyncio.sleep(0)

        with pytest.raises(Stalled, match="a task is spinning"):
            run(main())

    def test_the_clean_up_still_runs(self) -> None:
        done = []

        async def main() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(5)
                done.append(asyncio.get_running_loop().time())

        with pytest.raises(Stalled):
            run(main())
        assert done == [START_S + 5]


def test_what_main_returns_and_raises() -> None:
    async def answer() -> int:
        return 42

    async def fail() -> None:
        raise KeyError("main")

    assert run(answer()) == 42
    with pytest.raises(KeyError):
        run(fail())


@pytest.mark.parametrize("options", [{"limit_s": 0}, {"limit_s": -1}, {"patience_s": -1}, {"patience_s": float("inf")}])
def test_wrong_options(options: dict[str, float]) -> None:
    async def main() -> None:
        pass

    with pytest.raises(portico.LocalError):
        run(main(), **options)
    with pytest.raises(portico.LocalError):
        VirtualLoop(**options)


def test_patience_waits_for_another_thread() -> None:
    """As for another process: what it sends comes before the clock jumps."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        with near, far:
            timer = threading.Timer(0.02, far.send, [b"late"])
            timer.start()
            async with asyncio.timeout(1):
                assert await loop.sock_recv(near, 10) == b"late"
            timer.join()

    run(main(), patience_s=5)
