"""What a client has been given to send and has not sent yet: bounded by bytes, over all its namespaces."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Generator
from typing import Any, Final

from portico.realtime_client.errors import Disconnected, OutboxFull

ITEM_BYTES: Final = 200  # what one that waits weighs besides its bytes


class Emission:
    """An event that `emit` has taken. It need not be awaited; awaiting it waits until the event has been handed to the
    connection, and raises Disconnected where that won't happen any more.

    ``delivered``: 1 where it has been handed over, else 0. That the server has got it, only an acknowledgement tells.
    """

    __slots__ = ("_failure", "_sent", "_waiting", "ack_of", "attachments", "call", "size", "text")

    def __init__(self, text: bytes, attachments: list[bytes], *, call: int | None = None, ack_of: int = 0) -> None:
        self.text = text
        self.attachments = attachments
        self.call = call  # the id of the acknowledgement that it asks for
        self.ack_of = ack_of  # of an acknowledgement: the number of the connection whose event it answers
        self.size = len(text) + sum(map(len, attachments)) + ITEM_BYTES
        self._sent = False
        self._failure: Exception | None = None
        self._waiting: list[asyncio.Future[None]] | None = None

    @property
    def delivered(self) -> int:
        return int(self._sent)

    def __await__(self) -> Generator[Any, None, None]:
        if not self._sent and self._failure is None:
            future = asyncio.get_running_loop().create_future()
            self._waiting = [*(self._waiting or ()), future]
            yield from future
        if self._failure is not None:
            raise self._failure

    def settle(self, failure: Exception | None = None) -> None:
        """It has been handed over, or never will be."""
        self._sent = failure is None
        self._failure = failure
        self.text = b""
        self.attachments = []
        waiting, self._waiting = self._waiting, None
        for future in waiting or ():
            if not future.done():
                future.set_result(None)


class Budget:
    """How many bytes may wait; shared by the namespaces, and by threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._lock = threading.Lock()

    def take(self, size: int, why: str) -> None:
        """Raises OutboxFull where `size` bytes more are too many; `why` says what keeps them from being sent."""
        with self._lock:
            if self.held + size > self.limit:
                text = (
                    f"outbox full: {self.held} bytes wait to be sent ({why}), and {size} more would be over "
                    f"max_outbox_bytes={self.limit}; wait for a connection, or set max_outbox_bytes="
                )
                raise OutboxFull(text, held=self.held, limit=self.limit)
            self.held += size

    def give(self, size: int) -> None:
        with self._lock:
            self.held -= size


class Outbox:
    """One namespace's events that wait, in order."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._items: deque[Emission] = deque()

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, item: Emission, why: str) -> None:
        """Take `item`, from any thread. Raises OutboxFull."""
        self._budget.take(item.size, why)
        self._items.append(item)

    def next(self) -> Emission:
        """The one that is sent now."""
        item = self._items.popleft()
        self._budget.give(item.size)
        return item

    def last(self) -> Emission:
        """The one that came last."""
        return self._items[-1]

    def drop_call(self, call: int) -> None:
        """Drop the event that asks for the acknowledgement `call`, where it has not been sent yet."""
        for item in [*self._items]:
            if item.call == call:
                self._drop(item)

    def drop_acks(self) -> None:
        """Drop the acknowledgements: the connection that they belong to is over."""
        for item in [*self._items]:
            if item.ack_of:
                self._drop(item)

    def drop_all(self, reason: str) -> None:
        while self._items:
            self._drop(self._items[0], reason)

    def has_call(self, call: int) -> bool:
        return any(item.call == call for item in self._items)

    def _drop(self, item: Emission, reason: str = "") -> None:
        self._items.remove(item)
        self._budget.give(item.size)
        item.settle(Disconnected("the event was dropped before it was sent", reason=reason))
