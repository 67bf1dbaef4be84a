"""A room by its name: those who are in it can be emitted to, and what else there is of a room hangs on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portico.realtime.emissions import Selection, names
from portico.realtime.history import RoomHistory
from portico.realtime.presence import RoomPresence

if TYPE_CHECKING:
    from portico.realtime.namespaces import Namespace


class Room(Selection):
    """What ``io.room("lobby")`` returns: a `Selection` of those who are in it. ``name`` is its name."""

    __slots__ = ("name",)

    def __init__(self, namespace: Namespace, name: str) -> None:
        super().__init__(namespace, names((name,)))
        self.name = name

    @property
    def namespace(self) -> Namespace:
        """The namespace that it is a room of."""
        return self._namespace

    @property
    def history(self) -> RoomHistory:
        """What it has kept: needs ``Realtime(history=portico.realtime.History(…))``."""
        return RoomHistory(self)

    @property
    def presence(self) -> RoomPresence:
        """Who is in it, as people: needs ``Realtime(presence=portico.realtime.Presence(…))``."""
        return RoomPresence(self)

    def __repr__(self) -> str:
        return f"<Room {self.name!r} of {self._namespace.name}>"
