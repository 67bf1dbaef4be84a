"""Whom an event is for, and what became of it: `io.to("room").except_(client).volatile.emit(…)`."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from portico.brokers import Receipt
from portico.errors import LocalError

if TYPE_CHECKING:
    from portico.realtime.clients import Client
    from portico.realtime.events import Event
    from portico.realtime.namespaces import Namespace
    from portico.realtime.realtime import Realtime

logger = logging.getLogger("portico.realtime")

ELSEWHERE_S = 10.0  # how long another thread waits for the event loop


class Emission:
    """An event that was emitted: that has happened already, and this need not be awaited.

    ``await emission`` waits until the broker has accepted it, or raises `portico.BrokerError`.
    """

    __slots__ = ("_elsewhere", "_receipt", "_taken")

    def __init__(
        self, receipt: Receipt | None, elsewhere: concurrent.futures.Future[Receipt] | None = None, taken: int = 0
    ) -> None:
        self._receipt = receipt  # None where no broker had part in it, and `taken` says the rest
        self._elsewhere = elsewhere  # emitted in another thread: what the event loop makes of it
        self._taken = taken

    @property
    def delivered(self) -> int:
        """How many local recipients took it. Asked in another thread than the event loop's, this waits for the loop."""
        if self._elsewhere is not None:
            return self._elsewhere.result(ELSEWHERE_S).delivered
        return self._taken if self._receipt is None else self._receipt.delivered

    def __await__(self) -> Generator[Any, None, None]:
        if self._elsewhere is not None:
            raise LocalError("an emission of another thread can't be awaited: it has .delivered")
        if self._receipt is not None:
            yield from self._receipt.__await__()

    def __repr__(self) -> str:
        return "<Emission in another thread>" if self._elsewhere is not None else f"<Emission to {self.delivered}>"


def taken_by(count: int) -> Emission:
    """``Emission(None, None, count)``: what most are, made at less cost."""
    emission = Emission.__new__(Emission)
    emission._receipt = emission._elsewhere = None
    emission._taken = count
    return emission


class Audience:
    """What can be emitted to: a Realtime, a namespace, or a selection of its clients."""

    __slots__ = ()

    def _select(self) -> Selection:
        raise NotImplementedError

    def to(self, *rooms: str | Client) -> Selection:
        """Those who are in one of `rooms`, each once; a client's id is a room, too. Of no rooms: nobody, so that
        ``io.to(*client.rooms)`` is never everyone."""
        return self._select()._with(rooms=names(rooms))

    def except_(self, *rooms: str | Client) -> Selection:
        """Without those who are in one of `rooms`, and without these clients."""
        return self._select()._with(excepts=names(rooms))

    @property
    def volatile(self) -> Selection:
        """For those alone who can take it at this moment: who is slow, or between two polls, does not get it."""
        return self._select()._with(volatile=True)

    def timeout(self, seconds: float) -> Selection:
        """With so long for answers to `call`."""
        return self._select()._with(timeout_s=seconds)

    def latest(self, key: str) -> Selection:
        """An event that takes the place of the one with the same `key` that a slow client has not got yet: it sees the
        newest value and never a queue of old ones."""
        return self._select()._with(key=key)

    def emit(self, event: str, *args: Any) -> Emission:
        """Send an event, at once and from any thread; what it returns need not be awaited.

        `args`: any JSON, with bytes anywhere in it, and what msgspec can encode. Raises LocalError for others.
        """
        return self._select()._emit(event, args)

    async def call(self, event: str, *args: Any, timeout: float | None = None) -> dict[str, Any]:
        """Send an event and collect the answers: by the id of the client. Who does not answer within `timeout` seconds
        (60), or leaves before, is not among them."""
        return await self._select()._call(event, args, timeout)

    async def fetch(self) -> list[Found]:
        """Who is there, on every node."""
        return await self._select()._fetch()

    def join(self, *rooms: str) -> None:
        """Let all of them join `rooms`, on every node."""
        self._select()._command("join", names(rooms))

    def leave(self, *rooms: str) -> None:
        """Let all of them leave `rooms`, on every node."""
        self._select()._command("leave", names(rooms))

    def disconnect(self, *, close: bool = False) -> None:
        """Disconnect all of them, on every node; with `close` their transports as well."""
        self._select()._command("disconnect", [], close)


class Selection(Audience):
    """Some clients of a namespace. It is a value: each method returns another one."""

    __slots__ = ("_excepts", "_key", "_namespace", "_rooms", "_timeout_s", "_volatile")

    def __init__(
        self,
        namespace: Namespace,
        rooms: list[str] | None = None,
        excepts: list[str] | None = None,
        volatile: bool = False,
        timeout_s: float = 60.0,
        key: str | None = None,
    ) -> None:
        self._namespace = namespace
        self._rooms = rooms  # None: everyone; none of them: nobody
        self._excepts = excepts or []
        self._volatile = volatile
        self._timeout_s = timeout_s
        self._key = key

    def _select(self) -> Selection:
        return self

    def _with(
        self,
        *,
        rooms: list[str] | None = None,
        excepts: list[str] | None = None,
        volatile: bool = False,
        timeout_s: float | None = None,
        key: str | None = None,
    ) -> Selection:
        return Selection(
            self._namespace,
            self._rooms if rooms is None else [*(self._rooms or ()), *rooms],
            self._excepts + excepts if excepts else self._excepts,
            self._volatile or volatile,
            self._timeout_s if timeout_s is None else timeout_s,
            self._key if key is None else key,
        )

    def _made(self, kind: str, args: tuple[Any, ...] = ()) -> Event:
        return self._namespace.event(kind, self._rooms or [], self._excepts, args)

    def _emit(self, event: str, args: tuple[Any, ...]) -> Emission:
        made = self._made("event", (event, *args))
        made.volatile = self._volatile
        made.key = self._key
        if self._rooms == []:
            return Emission(Receipt(0, None, True))
        return emit(self._namespace.io, lambda: self._namespace.publish(made))

    def _command(self, kind: str, values: list[str], flag: bool = False) -> None:
        if self._rooms == []:
            return
        made = self._made(kind)
        made.values = values
        made.flag = flag
        emit(self._namespace.io, lambda: self._namespace.publish(made))

    async def _call(self, event: str, args: tuple[Any, ...], timeout: float | None) -> dict[str, Any]:
        made = self._made("call", (event, *args))
        if self._rooms == []:
            return {}
        made.timeout_s = self._timeout_s if timeout is None else timeout
        answers: dict[str, Any] = {}
        for part in await self._namespace.io.ask(made, made.timeout_s):
            answers.update(part)
        return answers

    async def _fetch(self) -> list[Found]:
        if self._rooms == []:
            return []
        parts = await self._namespace.io.ask(self._made("fetch"), self._timeout_s)
        return [Found(self._namespace, *found) for part in parts for found in part]


class Found:
    """A client that `fetch` has found, on whichever node: its ``id``, ``rooms``, ``data``."""

    __slots__ = ("_selection", "data", "id", "rooms")

    def __init__(self, namespace: Namespace, id: str, rooms: list[str], data: Any) -> None:
        self.id = id
        self.rooms = frozenset(rooms)
        self.data = data
        self._selection = Selection(namespace, [id])

    def emit(self, event: str, *args: Any) -> Emission:
        """Send it an event."""
        return self._selection.emit(event, *args)

    def join(self, *rooms: str) -> None:
        """Let it join `rooms`."""
        self._selection.join(*rooms)

    def leave(self, *rooms: str) -> None:
        """Let it leave `rooms`."""
        self._selection.leave(*rooms)

    def disconnect(self, *, close: bool = False) -> None:
        """Disconnect it."""
        self._selection.disconnect(close=close)

    def __repr__(self) -> str:
        return f"<Found {self.id}>"


def names(rooms: tuple[Any, ...]) -> list[str]:
    """The names of `rooms`, which may be clients."""
    found = []
    for room in rooms:
        name = room if isinstance(room, str) else getattr(room, "id", None)
        if not isinstance(name, str) or not name:
            raise LocalError(f"room {room!r}: expected a name, or a client")
        found.append(name)
    return found


def emit(io: Realtime, act: Callable[[], Receipt]) -> Emission:
    """Do it at once on the event loop's thread; from another one, in the order in which it was asked for."""
    if io.is_here():
        return Emission(act())
    future: concurrent.futures.Future[Receipt] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:
            future.set_exception(error)
            logger.exception("an event that another thread emitted reaches nobody")  # who emits may not ask

    io.soon(run)
    return Emission(Receipt(), future)
