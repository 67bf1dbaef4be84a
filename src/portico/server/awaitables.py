"""What ASGI's ``receive`` and ``send`` return when there is nothing to wait for; awaiting it costs next to nothing."""

from __future__ import annotations

from typing import Any, Final


class Ready:
    """A coroutine, to all who look, that returns `value` at once."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Ready:
        return self

    def __iter__(self) -> Ready:
        return self

    def __next__(self) -> None:
        raise StopIteration(self._value)

    def send(self, value: object) -> None:
        raise StopIteration(self._value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> None:
        raise kind if value is None else value

    def close(self) -> None:
        pass


DONE: Final = Ready(None)
