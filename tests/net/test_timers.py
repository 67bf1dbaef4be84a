"""The timer wheel: deadlines in order, at most one tick late, at no cost while there are none."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support import GUARD_S, turns

from portico.net.timers import NEVER, TICK_S, Timed, Wheel

SOON_S = 2 * TICK_S + 0.001


class Alarm(Timed):
    """Writes down when it expired."""

    def __init__(self, on_expired: Callable[[Alarm, float], object] | None = None) -> None:
        super().__init__()
        self.on_expired = on_expired
        self.at: list[float] = []

    def expired(self, now: float) -> None:
        self.at.append(now)
        if self.on_expired is not None:
            self.on_expired(self, now)


class Handle:
    def __init__(self, watched: WatchedLoop) -> None:
        self._watched = watched

    def cancel(self) -> None:
        self._watched.waiting.discard(self)


class WatchedLoop:
    """As much of an event loop as the wheel needs; time passes when the test says so."""

    def __init__(self) -> None:
        self.waiting: set[Handle] = set()
        self.reported: list[dict[str, Any]] = []

    def call_later(self, delay: float, callback: Callable[[], object]) -> Any:
        handle = Handle(self)
        self.waiting.add(handle)
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.reported.append(context)


@pytest.fixture
def loop() -> WatchedLoop:
    return WatchedLoop()


@pytest.fixture
def wheel(loop: WatchedLoop) -> Iterator[Wheel]:
    wheel = Wheel(loop)  # type: ignore[arg-type] # as much of one as is needed
    yield wheel
    wheel.close()
    assert not loop.waiting


@pytest.fixture
def start() -> float:
    """A time that the clock has not come to: only `advance` gets there."""
    return time.monotonic() + 1000


def test_a_deadline_falls_due_never_early_and_at_most_one_tick_late(wheel: Wheel, start: float) -> None:
    chance = random.Random(1)
    alarms = [Alarm() for _ in range(500)]
    dues = [start + chance.random() * 5 for _ in alarms]
    for alarm, due in zip(alarms, dues, strict=True):
        wheel.schedule(alarm, due)
    step = TICK_S / 10
    for count in range(int(5.5 / step)):
        wheel.advance(start + count * step)
    for alarm, due in zip(alarms, dues, strict=True):
        [at] = alarm.at
        assert 0 <= at - due <= TICK_S + step + 1e-6
        assert alarm.due == NEVER


def test_the_last_deadline_that_was_set_holds(wheel: Wheel, start: float) -> None:
    later, earlier, never = Alarm(), Alarm(), Alarm()
    for alarm in (later, earlier, never):
        wheel.schedule(alarm, start + 5)
    wheel.schedule(later, start + 9)
    wheel.schedule(earlier, start + 1)
    wheel.schedule(never, NEVER)
    wheel.advance(start + 1 + SOON_S)
    assert (len(later.at), len(earlier.at)) == (0, 1)
    wheel.advance(start + 5 + SOON_S)
    assert (later.at, never.at) == ([], [])
    wheel.advance(start + 9 + SOON_S)
    assert len(later.at) == 1
    wheel.advance(start + 1_000_000)
    assert (len(later.at), len(earlier.at), len(never.at)) == (1, 1, 0)


def test_later_and_then_earlier_again(wheel: Wheel, start: float) -> None:
    alarm = Alarm()
    for due in (5.0, 50.0, 5.0, 2.0, 3.0):
        wheel.schedule(alarm, start + due)
    wheel.advance(start + 2.9)
    assert alarm.at == []
    wheel.advance(start + 3 + SOON_S)
    assert len(alarm.at) == 1


def test_a_deadline_in_the_past_falls_due_at_the_next_tick(wheel: Wheel, start: float) -> None:
    alarm = Alarm()
    wheel.advance(start)
    wheel.schedule(alarm, start - 100)
    wheel.advance(start + SOON_S)
    assert len(alarm.at) == 1


def test_the_wheel_holds_nothing_that_was_cancelled_or_has_expired(wheel: Wheel, start: float) -> None:
    cancelled, expired, neighbour = Alarm(), Alarm(), Alarm()
    for alarm in (cancelled, expired, neighbour):
        wheel.schedule(alarm, start + 1)
    wheel.cancel(cancelled)
    assert cancelled.due == NEVER
    gone = weakref.ref(cancelled)
    del cancelled, alarm
    gc.collect()
    assert gone() is None
    wheel.advance(start + 1 + SOON_S)
    assert len(neighbour.at) == 1
    gone = weakref.ref(expired)
    del expired
    gc.collect()
    assert gone() is None


def test_cancelling_twice_and_before_scheduling_is_harmless(wheel: Wheel, start: float) -> None:
    alarm = Alarm()
    wheel.cancel(alarm)
    wheel.schedule(alarm, start)
    wheel.cancel(alarm)
    wheel.cancel(alarm)
    wheel.advance(start + SOON_S)
    assert alarm.at == []
    wheel.schedule(alarm, start + 1)
    wheel.advance(start + 1 + SOON_S)
    assert len(alarm.at) == 1


def test_an_entry_may_set_its_next_deadline_from_within_expired(wheel: Wheel, start: float) -> None:
    alarm = Alarm(lambda alarm, now: wheel.schedule(alarm, now + 1))
    wheel.schedule(alarm, start)
    for tenth in range(40):
        wheel.advance(start + tenth / 10)
    assert len(alarm.at) == 4


def test_a_next_deadline_in_the_past_does_not_hold_up_the_turn(wheel: Wheel, start: float) -> None:
    alarm = Alarm(lambda alarm, now: wheel.schedule(alarm, now - 1))
    wheel.schedule(alarm, start)
    wheel.advance(start + SOON_S)
    assert len(alarm.at) == 1


def test_an_entry_may_cancel_and_move_those_that_are_due_with_it(wheel: Wheel, start: float) -> None:
    alarms: list[Alarm] = []

    def first(alarm: Alarm, now: float) -> None:
        others = [other for other in alarms if other is not alarm and not other.at]
        wheel.cancel(others[0])
        wheel.schedule(others[1], now + 1)
        wheel.cancel(others[2])
        wheel.schedule(others[2], now - 1)
        for other in alarms:
            other.on_expired = None

    alarms += [Alarm(first) for _ in range(6)]
    for alarm in alarms:
        wheel.schedule(alarm, start)
    wheel.advance(start + SOON_S)
    assert sorted(len(alarm.at) for alarm in alarms) == [0, 0, 0, 1, 1, 1]
    wheel.advance(start + SOON_S + TICK_S)
    assert sorted(len(alarm.at) for alarm in alarms) == [0, 0, 1, 1, 1, 1]
    wheel.advance(start + 2 + SOON_S)
    assert sorted(len(alarm.at) for alarm in alarms) == [0, 1, 1, 1, 1, 1]


def test_what_one_raises_does_not_stop_the_others(wheel: Wheel, loop: WatchedLoop, start: float) -> None:
    def fail(alarm: Alarm, now: float) -> None:
        raise ZeroDivisionError

    alarms = [Alarm(fail if index % 3 == 0 else None) for index in range(30)]
    for alarm in alarms:
        wheel.schedule(alarm, start)
    wheel.advance(start + SOON_S)
    assert all(len(alarm.at) == 1 for alarm in alarms)
    assert [type(context["exception"]) for context in loop.reported] == [ZeroDivisionError] * 10


def test_an_entry_is_told_of_what_its_own_expired_raised(wheel: Wheel, loop: WatchedLoop, start: float) -> None:
    class Careful(Alarm):
        def failed(self, error: Exception) -> None:
            self.error = error

    def fail(alarm: Alarm, now: float) -> None:
        raise ZeroDivisionError

    alarm = Careful(fail)
    wheel.schedule(alarm, start)
    wheel.advance(start + SOON_S)
    assert isinstance(alarm.error, ZeroDivisionError)
    assert loop.reported == []


def test_the_same_deadlines_as_a_plain_list_would_keep(wheel: Wheel, start: float) -> None:
    """Whatever is scheduled, moved and cancelled, in any order."""
    chance = random.Random(2)
    alarms = [Alarm() for _ in range(60)]
    model: dict[int, float] = {}
    now = start
    for _ in range(4000):
        number = chance.randrange(60)
        match chance.randrange(4):
            case 0 | 1:
                model[number] = now + chance.choice((0.0, 0.05, 0.3, 1.0, 7.0)) * chance.random()
                wheel.schedule(alarms[number], model[number])
            case 2:
                model.pop(number, None)
                wheel.cancel(alarms[number])
            case _:
                now += chance.random() * 0.2
                wheel.advance(now)
                for number, alarm in enumerate(alarms):
                    if alarm.at:
                        alarm.at.clear()
                        assert model.pop(number) <= now
                assert all(due > now - TICK_S - 0.2 for due in model.values())


def test_a_hundred_thousand_entries(wheel: Wheel, start: float) -> None:
    alarms = [Alarm() for _ in range(100_000)]
    began = time.process_time()
    for index, alarm in enumerate(alarms):
        wheel.schedule(alarm, start + index % 70)
    for alarm in alarms:
        wheel.schedule(alarm, start + 80)  # as every byte that comes puts a deadline off
    for alarm in alarms[::2]:
        wheel.cancel(alarm)
    wheel.advance(start + 75)
    wheel.advance(start + 80 + SOON_S)
    assert sum(len(alarm.at) for alarm in alarms) == 50_000
    assert time.process_time() - began < 5


def test_one_handle_waits_for_all(wheel: Wheel, loop: WatchedLoop) -> None:
    now = time.monotonic()
    for index in range(100):
        wheel.schedule(Alarm(), now + 1000 - index)
        assert len(loop.waiting) == 1
    wheel.close()
    assert not loop.waiting


async def test_an_empty_wheel_sleeps() -> None:
    class Counting(WatchedLoop):
        def call_later(self, delay: float, callback: Callable[[], object]) -> Any:
            self.waiting.add(Handle(self))
            return asyncio.get_running_loop().call_later(delay, callback)

    loop = Counting()
    wheel = Wheel(loop)  # type: ignore[arg-type] # as much of one as is needed
    rung = asyncio.Event()
    wheel.schedule(Alarm(lambda alarm, now: rung.set()), time.monotonic())
    async with asyncio.timeout(GUARD_S):
        await rung.wait()
    await turns()
    assert len(loop.waiting) == 1, "waited once, and not again"


async def test_on_a_real_loop() -> None:
    wheel = Wheel(asyncio.get_running_loop())
    rung = asyncio.Event()
    alarm = Alarm(lambda alarm, now: rung.set())
    due = time.monotonic() + 0.15
    wheel.schedule(alarm, due)
    wheel.schedule(Alarm(), due + 100)
    async with asyncio.timeout(GUARD_S):
        await rung.wait()
    assert alarm.at[0] >= due
    wheel.close()


async def test_ending_the_loop_s_callback_early_does_not_put_the_wheel_to_sleep() -> None:
    class Stop(BaseException):
        pass

    def stop(alarm: Alarm, now: float) -> None:
        raise Stop

    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.set_exception_handler(lambda loop, context: stopped.set())
    wheel = Wheel(loop)
    rung = asyncio.Event()
    now = time.monotonic()
    wheel.schedule(Alarm(stop), now)
    wheel.schedule(Alarm(lambda alarm, now: rung.set()), now + 3 * TICK_S)
    async with asyncio.timeout(GUARD_S):
        await stopped.wait()
        await rung.wait()
    wheel.close()
