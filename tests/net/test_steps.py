"""A coroutine's first step without a task, and the rest of it in one."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Generator
from types import CoroutineType
from typing import Any

import pytest

import portico
from portico.net import steps
from portico.net.steps import Begun, _first_step, first_step

First = Callable[..., tuple[Any, Any]]
TWINS: dict[str, First] = {"chosen": first_step, "python": _first_step}

variable = contextvars.ContextVar("variable", default="none")


@pytest.fixture(params=TWINS)
def first(request: pytest.FixtureRequest) -> First:
    return TWINS[request.param]


async def add(a: int, b: int) -> int:
    return a + b


async def nothing() -> None:
    pass


async def set_it(value: str) -> str:
    before = variable.get()
    variable.set(value)
    return before


async def wait_for(future: asyncio.Future[Any]) -> Any:
    return await future


class Later:
    """What is no coroutine, and can be awaited."""

    def __await__(self) -> Generator[Any, Any, str]:
        yield
        return "later"


def test_the_compiled_build_steps_with_the_compiled_twin() -> None:
    assert (steps.first_step is not steps._first_step) == portico.compiled
    assert (steps.references is not sys.getrefcount) == portico.compiled


def test_what_never_waits_has_returned(first: First) -> None:
    context = contextvars.copy_context()
    assert first(context, add, [1, 2]) == (None, 3)
    assert first(context, nothing, []) == (None, None)


def test_it_runs_in_the_context_alone(first: First) -> None:
    context = contextvars.copy_context()
    assert first(context, set_it, ["a"]) == (None, "none")
    assert first(context, set_it, ["b"]) == (None, "a")
    assert variable.get() == "none"
    assert context[variable] == "b"
    with pytest.raises(RuntimeError, match="already entered"):
        context.run(first, context, nothing, [])
    context.run(variable.get)  # which was left


def test_what_it_raises_is_raised_and_the_context_left(first: First) -> None:
    async def fail(error: BaseException) -> None:
        raise error

    context = contextvars.copy_context()
    for error in (ValueError("so"), asyncio.CancelledError("so"), KeyboardInterrupt("so")):
        with pytest.raises(type(error), match="so"):
            first(context, fail, [error])
    with pytest.raises(TypeError, match="argument"):
        first(context, add, [1])
    with pytest.raises(TypeError, match="await"):
        first(context, dict, [])
    assert first(context, add, [1, 2]) == (None, 3)


def test_nothing_keeps_what_went_through_it(first: First) -> None:
    async def give(value: object) -> object:
        return value

    context = contextvars.copy_context()
    value = object()
    before = sys.getrefcount(value)
    for _ in range(100):
        assert first(context, give, [value]) == (None, value)
    assert sys.getrefcount(value) == before
    none = sys.getrefcount(None)
    for _ in range(10_000):
        first(context, nothing, [])
    assert abs(sys.getrefcount(None) - none) < 1000


async def test_what_waits_goes_on_in_a_task(first: First) -> None:
    future = asyncio.get_running_loop().create_future()
    coroutine, waits_for = first(contextvars.copy_context(), wait_for, [future])
    assert waits_for is future
    task = asyncio.create_task(rest(Begun(coroutine, waits_for)))
    await asyncio.sleep(0)
    future.set_result("done")
    assert await task == "done"


async def test_what_only_lets_others_go_first_goes_on(first: First) -> None:
    async def polite() -> str:
        for _ in range(3):
            await asyncio.sleep(0)
        return "polite"

    assert await rest(Begun(*first(contextvars.copy_context(), polite, []))) == "polite"
    assert await rest(Begun(*first(contextvars.copy_context(), Later, []))) == "later"


async def test_an_error_of_what_it_waits_for_is_raised_in_it(first: First) -> None:
    async def forgiving(future: asyncio.Future[None]) -> str:
        try:
            await future
        except ValueError as error:
            await asyncio.sleep(0)
            return str(error)
        return "nothing was wrong"

    future = asyncio.get_running_loop().create_future()
    begun = Begun(*first(contextvars.copy_context(), forgiving, [future]))
    future.set_exception(ValueError("wrong"))
    assert await rest(begun) == "wrong"


async def test_cancelling_the_task_cancels_what_it_waits_for(first: First) -> None:
    future = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(rest(Begun(*first(contextvars.copy_context(), wait_for, [future]))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert future.cancelled()


async def test_what_is_dropped_is_closed(first: First) -> None:
    closed: list[str] = []

    async def careful(future: asyncio.Future[None]) -> None:
        try:
            await future
        finally:
            closed.append("closed")

    coroutine, waits_for = first(contextvars.copy_context(), careful, [asyncio.get_running_loop().create_future()])
    assert isinstance(coroutine, CoroutineType)
    awaited = Begun(coroutine, waits_for).__await__()
    assert next(awaited) is waits_for
    awaited.close()
    assert closed == ["closed"]


async def rest(begun: Begun) -> Any:
    return await begun
