"""A client: one connection to one namespace, as the application holds it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import TYPE_CHECKING, Any

from portico.codes import Close
from portico.errors import ConnectionClosed, LocalError, Refuse
from portico.net.steps import is_cancelled
from portico.realtime.emissions import Audience, Selection, names
from portico.realtime.identity import Identified, Lifetime
from portico.realtime.members import CONNECTED, CONNECTING, GONE, Item, Member
from portico.realtime.rates import Bucket
from portico.realtime.recovery import Recovered, set_aside
from portico.realtime.runners import EVENT_BYTES
from portico.realtime.unidentified import admitted
from portico.wire.socketio import CONNECT, DISCONNECT

if TYPE_CHECKING:
    from portico.brokers import Receipt
    from portico.realtime.events import Event
    from portico.realtime.namespaces import Namespace
    from portico.realtime.sessions import Session
    from portico.wire.request import Request

logger = logging.getLogger("portico.realtime")

CALL_TIMEOUT_S = 60.0


class Client(Member, Identified, Audience):
    """One client of a namespace. ``id`` is its name, and a room of its own.

    - ``data``: yours, a dict; where the connection's state is recovered, so is this.
    - ``recovered``: it has come back, with its id, its rooms, its data and every event that it missed.
    - ``namespace``, ``session`` (its connection, which may have clients in other namespaces too).
    """

    __slots__ = (
        "__weakref__",
        "_acks",
        "_auth",
        "_buckets",
        "_joining",
        "_last_call",
        "_left",
        "_lifetime",
        "_pid",
        "_reason",
        "_rooms",
        "_since",
        "data",
        "recovered",
    )

    def __init__(self, namespace: Namespace, session: Session, auth: dict[str, Any]) -> None:
        Member.__init__(self, namespace, session, secrets.token_urlsafe(15))
        self.data: dict[str, Any] = {}
        self.recovered = False
        self._auth: dict[str, Any] | None = auth
        self._rooms: dict[str, int] | None = None  # and where in the history it joined them
        self._left: list[tuple[str, int, int]] | None = None  # rooms that it was in before
        self._acks: dict[int, asyncio.Future[list[Any]]] | None = None
        self._last_call = 0
        self._joining: list[Receipt] | None = None
        self._pid = ""
        self._reason: str | None = None  # of its end, until the application is told
        self._since = ""  # where in the history it was when it connected
        self._lifetime: Lifetime | None = None  # of its identity, where that is not simply its session's
        self._buckets: dict[str | None, Bucket] | None = None  # of its rates

    # -- facts ---------------------------------------------------------------------------------------------------------

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms that it is in, besides its own."""
        return frozenset(self._rooms or ())

    @property
    def request(self) -> Request:
        """The request that began its session: headers, cookies, query, address."""
        return self.session.request

    @property
    def transport(self) -> str:
        """``"polling"`` or ``"websocket"``, at this moment."""
        return self.session.transport

    @property
    def waiting_bytes(self) -> int:
        """How much waits to be sent to it, in its whole session."""
        return self.session.buffered

    def __repr__(self) -> str:
        return f"<Client {self.id} of {self.namespace.name}: {self.state}>"

    # -- sending -------------------------------------------------------------------------------------------------------

    def _select(self) -> Selection:
        return Selection(self.namespace, [self.id])

    def to(self, *rooms: str | Client) -> Selection:
        """Those who are in one of `rooms`, without this client."""
        return Selection(self.namespace, names(rooms), [self.id])

    @property
    def broadcast(self) -> Selection:
        """Everyone in the namespace but this client."""
        return Selection(self.namespace, None, [self.id])

    async def call(self, event: str, *args: Any, timeout: float | None = None) -> Any:
        """Send it an event and wait for its answer: the value, None for none, a list for several.

        Raises TimeoutError after `timeout` seconds (60), and ConnectionClosed where the client has left.
        """
        if not self.namespace.io.is_here():
            raise LocalError("call() in another thread than the event loop's")
        made = self.namespace.event("call", [], [], (event, *args))
        return await self._ask(made, CALL_TIMEOUT_S if timeout is None else timeout)

    async def _asked(self, event: Event, answers: dict[str, Any]) -> None:
        """Ask it for its part of many answers."""
        with contextlib.suppress(TimeoutError, ConnectionClosed):
            answers[self.id] = await self._ask(event, event.timeout_s)

    async def _ask(self, event: Event, timeout_s: float) -> Any:
        if self.state is GONE:
            raise ConnectionClosed(Close(1001, "the client has left", by="peer"))
        self._last_call += 1
        number = self._last_call
        out = self.namespace.outgoing(event, call=number)
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if self._acks is None:
            self._acks = {}
        self._acks[number] = future
        try:
            self._send(out)
            async with asyncio.timeout(timeout_s):
                values = await future
            return values[0] if len(values) == 1 else values or None
        finally:
            if self._acks is not None:
                self._acks.pop(number, None)

    # -- rooms ---------------------------------------------------------------------------------------------------------

    def join(self, *rooms: str) -> None:
        """Join `rooms`. From any thread; what is emitted to them afterwards comes here, too."""
        wanted = names(rooms)
        io = self.namespace.io
        if io.is_here():
            self._join(wanted)
        else:
            io.soon(lambda: self._join(wanted))

    def leave(self, *rooms: str) -> None:
        """Leave `rooms`. From any thread."""
        left = names(rooms)
        io = self.namespace.io
        if io.is_here():
            self._leave(left)
        else:
            io.soon(lambda: self._leave(left))

    def _join(self, rooms: list[str]) -> None:
        if self.state is GONE:
            return
        if self._rooms is None:
            self._rooms = {}
        for room in rooms:
            if room not in self._rooms:
                self._rooms[room] = self.namespace.offset()
                receipt = self.namespace.add(room, self)
                if receipt is not None and not receipt.done and self.state is CONNECTING:
                    self._joining = [*(self._joining or ()), receipt]
                if self.state is CONNECTED and self.namespace.io.attendance is not None:
                    self.namespace.io.attendance.joined(self, room)

    def _leave(self, rooms: list[str]) -> None:
        if self.state is GONE or self._rooms is None:
            return
        for room in rooms:
            if room in self._rooms:
                joined = self._rooms.pop(room)
                self.namespace.discard(room, self)
                if self.namespace.io.attendance is not None:
                    self.namespace.io.attendance.left(self, room)
                if self.namespace.io.recovery is not None:
                    self._left = [*(self._left or ())[-999:], (room, joined, self.namespace.offset())]

    # -- receiving -----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Deal with what has come, one after the other."""
        try:
            if self.state is CONNECTING:
                await self._connect()
            inbox = self._inbox
            while inbox and not self.namespace.io.ending:
                try:
                    await self._handle(inbox.popleft())
                except asyncio.CancelledError:
                    if is_cancelled():
                        raise
            if self.state is GONE:
                await self._tell_gone()
            self._working = False
        except BaseException:
            self._interrupted()
            raise
        finally:
            self.namespace.io.end_work()

    async def _handle(self, item: Item) -> None:
        event, id, size = item
        try:
            if self._auth is None:  # it was let in: also of one that has left since, what came is dealt with
                await self.namespace.dispatch(self, event, id)
        finally:
            self.session.hold(-size - EVENT_BYTES)

    def _acknowledged(self, id: int | None, values: list[Any]) -> None:
        future = None if self._acks is None or id is None else self._acks.pop(id, None)
        if future is not None and not future.done():
            future.set_result(values)

    # -- the beginning and the end -------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Let the application decide, then tell the client."""
        auth = self._auth or {}
        try:
            restored = await self.namespace.prepare(self, auth)
            await self.namespace.admit(self, auth)
            joining, self._joining = self._joining, None
            for receipt in joining or ():
                await receipt
        except Refuse as refuse:
            data: dict[str, Any] = {"message": refuse.reason or "not authorized"}
            if refuse.data is not None:
                data["data"] = refuse.data
            self._refuse(data)
        except Exception:
            logger.exception("a client of %s could not be let in; it was refused", self.namespace.name)
            self._refuse({"message": "internal error"})
        except BaseException as error:  # nobody is asked twice
            self._refuse({"message": "internal error"})
            if not isinstance(error, asyncio.CancelledError) or is_cancelled():
                raise
        else:
            if self.state is CONNECTING:
                self._establish(restored)
            else:
                self._auth = None  # it left meanwhile; the application has let it in, and is told

    def _refuse(self, data: dict[str, Any]) -> None:
        if self.state is CONNECTING:
            if self.recovered:
                set_aside(self, "transport close")  # it may come back with a better answer
            self._leave_all()
            self.session.channel.clients.pop(self.namespace.name, None)
            try:
                self.session.channel.refuse(self.namespace.name, data)
            except LocalError:
                logger.exception("the data of a Refuse can't be sent as JSON")
                self.session.channel.refuse(self.namespace.name, {"message": "internal error"})

    def _establish(self, restored: Recovered | None) -> None:
        self._auth = None
        early, self._early = self._early or [], None
        self.state = CONNECTED
        admitted(self.session)
        self.namespace.established(self)
        data = {"sid": self.id}
        if self._pid:
            data["pid"] = self._pid
        self.session.channel.send(CONNECT, self.namespace.name, data)
        if restored is not None:
            for out in restored.missed:
                self.session.send(out)
            early = [out for out in early if not out.offset or out.offset > restored.upto]
        for out in early:
            self.session.send(out)
        if self.namespace.io.attendance is not None:
            self.namespace.io.attendance.arrived(self)

    def disconnect(self, *, close: bool = False) -> None:
        """Disconnect it; with `close` its transport as well. From any thread."""
        io = self.namespace.io
        if not io.is_here():
            io.soon(lambda: self.disconnect(close=close))
            return
        if self.state is not GONE:
            self.session.channel.send(DISCONNECT, self.namespace.name)
            self._end("server namespace disconnect")
        if close:
            channel = self.session.channel
            for other in list(channel.clients.values()):
                other.disconnect()
            self.session.close("forced server close")

    def _end(self, reason: str) -> None:
        """It has left, or was made to."""
        if self.state is GONE:
            return
        was = self.state
        self.session.channel.drop(self)
        if was is CONNECTED or self.recovered:
            set_aside(self, reason)
        if self.namespace.io.attendance is not None:
            self.namespace.io.attendance.gone(self, reason)
        self._leave_all()
        close = Close(1001, reason, by="us" if reason.startswith("server") else "peer")
        acks, self._acks = self._acks, None
        for future in (acks or {}).values():
            if not future.done():
                future.set_exception(ConnectionClosed(close))
        self._early = None
        self._reason = reason
        if was is CONNECTED and not self._working:
            self._begin()

    def _leave_all(self) -> None:
        self.state = GONE
        if self._lifetime is not None:
            self._lifetime.end()
        for room in self._rooms or ():
            self.namespace.discard(room, self)
        self.namespace.gone(self)

    async def _tell_gone(self) -> None:
        reason, self._reason = self._reason, None
        if self._auth is None and reason is not None:
            await self.namespace.tell_gone(self, reason)
