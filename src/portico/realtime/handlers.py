"""What calls the application's functions: coroutine functions on the loop, plain ones in a bounded pool of threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec

from portico.errors import LocalError, Refuse
from portico.realtime.rates import Rate, check_rate

Function = Callable[..., Any]
Check = tuple[int, type | None, Callable[[Any], Any]]  # the argument's number; of which type none is needed; how
MANY: Final = 1 << 30
PLAIN: Final = (str, int, float, bool)
NOT_VALID: Final = "not valid"


class Handler:
    """One function of the application. ``concurrent``: it does not wait for the events before it; ``rate``: how often
    one client may have it run.

    Annotations of its arguments, but for the first, which is the client, say what it takes.
    """

    __slots__ = ("_checks", "concurrent", "function", "least", "most", "rate", "waits")

    def __init__(self, function: Function, *, concurrent: bool = False, rate: Rate | None = None) -> None:
        if not callable(function):
            raise LocalError(f"handler {function!r}: expected a function")
        self.function = function
        self.concurrent = concurrent
        self.rate = check_rate(rate, "on")
        inner = function.func if isinstance(function, functools.partial) else function
        self.waits = inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(
            getattr(inner, "__call__", None)  # noqa: B004 # an object whose __call__ is a coroutine function will do
        )
        self.least, self.most = _arity(function)
        self._checks = _checks(function)

    def expected(self) -> str:
        """How many arguments an event has to have, besides the client."""
        least, most = self.least - 1, self.most - 1
        if most >= MANY:
            return f"at least {least} arguments"
        count = str(most) if least == most else f"{least} to {most}"
        return f"{count} argument" if count == "1" else f"{count} arguments"

    def fits(self, call: list[Any]) -> bool:
        """Whether an event's arguments, behind the first, surely are what the handler takes, as they are."""
        count = len(call)
        if count < self.least or count > self.most:
            return False
        for index, plain, _ in self._checks:  # noqa: SIM110 # a generator costs more than all of this
            if index < count and type(call[index]) is not plain:
                return False
        return True

    def check(self, call: list[Any]) -> None:
        """Make of the client and an event's arguments what the handler is annotated to take; raises Refuse where they
        don't fit."""
        count = len(call)
        if count < self.least or count > self.most:
            raise Refuse(f"expected {self.expected()}, and {count - 1} came", data={"code": "arguments"})
        self.convert(call)

    def convert(self, call: list[Any]) -> None:
        """The same with as many of the arguments as there are."""
        for index, plain, convert in self._checks:
            if index < len(call) and type(call[index]) is not plain:
                try:
                    call[index] = convert(call[index])
                except ValueError as error:
                    raise _misfit(index, error) from None

    async def call(self, pool: Pool, *args: Any) -> Any:
        """Call it with as many of `args` as it takes, and wait for what it returns."""
        if len(args) > self.most:
            args = args[: self.most]
        if self.waits:
            return await self.function(*args)
        result = await pool.run(self.function, args)
        if inspect.isawaitable(result):  # a plain function that returned a coroutine
            return await result
        return result


class Pool:
    """The threads for plain functions; made when the first is called."""

    def __init__(self, threads: int) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise LocalError(f"Realtime(handler_threads={threads!r}): expected a whole number above 0")
        self._threads = threads
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None

    async def run(self, function: Function, args: tuple[Any, ...]) -> Any:
        if self._executor is None:
            self._executor = concurrent.futures.ThreadPoolExecutor(self._threads, "portico-realtime")
        context = contextvars.copy_context()
        call = functools.partial(context.run, function, *args)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Let the threads end."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)


def _arity(function: Function) -> tuple[int, int]:
    """The least and the most positional arguments that `function` takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0, MANY
    least = most = 0
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = MANY
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += parameter.default is parameter.empty
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise LocalError(f"handler {function!r}: its argument {parameter.name!r} can only be given by name")
    return least, most


def _checks(function: Function) -> list[Check]:
    """What checks the arguments behind the first."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []
    inner = inspect.unwrap(function.func if isinstance(function, functools.partial) else function)
    for name in ("__func__", "__call__"):  # of a bound method, and of an object that can be called
        inner = inner if hasattr(inner, "__globals__") else getattr(inner, name, inner)
    checks: list[Check] = []
    for index, parameter in enumerate(parameters):
        if not index:
            continue
        wanted = parameter.annotation
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            break
        if wanted is parameter.empty:
            continue
        alone = types.SimpleNamespace(__annotations__={"it": wanted})  # one that can't be resolved spoils no other
        try:
            wanted = typing.get_type_hints(alone, getattr(inner, "__globals__", {}), include_extras=True)["it"]
            if wanted is not Any and wanted is not object:
                checks.append((index, wanted if wanted in PLAIN else None, _converter(wanted)))
        except (NameError, TypeError) as error:
            raise LocalError(
                f"handler {function!r}: what its argument {parameter.name!r} takes can't be checked: {error}"
            ) from None
    return checks


def _converter(wanted: Any) -> Callable[[Any], Any]:
    validate = getattr(wanted, "model_validate", None)  # a pydantic model
    if callable(validate):
        return typing.cast("Callable[[Any], Any]", validate)
    msgspec.json.Decoder(wanted)  # raises TypeError where msgspec doesn't know it
    return functools.partial(msgspec.convert, type=wanted, builtin_types=(bytes,), dec_hook=_custom)


def _custom(wanted: Any, value: Any) -> Any:
    """A type that msgspec does not know, within one that it does: a pydantic model in a list."""
    validate = getattr(wanted, "model_validate", None)
    if callable(validate):
        return validate(value)
    raise NotImplementedError


def _misfit(number: int, error: ValueError) -> Exception:
    """What a client is told of an argument that does not fit: what was expected, and where; never the text of an
    exception that the application's own validation raised. An error of another kind is given back."""
    text, _, path = str(error).rpartition(" - at `$") if " - at `$" in str(error) else (str(error), "", "")
    path = "$" + path.removesuffix("`")
    cause = error
    if isinstance(error, msgspec.ValidationError):
        if error.__cause__ is not None:
            text, cause = NOT_VALID, error.__cause__  # type: ignore[assignment] # what the application raised
    elif not hasattr(error, "errors"):
        return error
    details = getattr(cause, "errors", None)
    if callable(details):  # pydantic's
        first = details(include_url=False, include_input=False, include_context=False)[0]
        text = NOT_VALID if first["type"] in ("value_error", "assertion_error") else first["msg"]
        path = (path if cause is not error else "$") + "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
        )
    where = f" - at `{path}`" if path != "$" else ""
    data = {"code": "argument", "argument": number, "path": path}
    return Refuse(f"argument {number}: {text}{where}", data=data)
