"""The demo's chat: three rooms, who is in them and typing, what was said last, and connections that are cut on purpose.

It is the namespace ``/chat`` of the demo's `Realtime`, which keeps the rooms' history and presence. From a page, each
acknowledged:

- ``enter`` (room, name): to be in that room alone; answered with ``counts`` and ``said``, its last messages.
- ``say`` (text, name): to the room; answered with how many others are in it. ``typing`` (name): to the others, now.
- ``cut``: cut this page's connection, and tell it alone what happens meanwhile: ``away`` (number, of how many, when).

To a page: ``you`` (what others know it by), ``said``, ``away``, ``typing``, ``counts`` (people in each room), and
``presence`` (of its room).
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec

import portico
from portico.realtime import Rate

ROOMS: Final = ("lobby", "terrace", "library")
MESSAGES_SHOWN: Final = 30
AWAY_EVENTS: Final = 5
AWAY_EVERY_S: Final = 0.4

Text = Annotated[str, msgspec.Meta(max_length=500)]
Name = Annotated[str, msgspec.Meta(max_length=24)]
Place = Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(map(re.escape, ROOMS))})$")]


class Said(msgspec.Struct, frozen=True):
    """A message. ``by``: the id of who wrote it."""

    id: str
    room: str
    by: str
    name: str
    text: str
    at_ms: int


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def shown(client: Any) -> str:
    """What others see of a client: `portico.realtime.Presence` asks."""
    return str(client.data.get("name", ""))


class Chat:
    """The rooms. `connections` returns those of the server; `heard` is told of everything that is said."""

    def __init__(
        self, io: portico.Realtime, connections: Callable[[], list[portico.Connection]], heard: Callable[[Said], object]
    ) -> None:
        self._io = io
        self._space = space = io.of("/chat")
        self._connections = connections
        self._heard = heard
        self._cut: set[str] = set()
        space.on("connect", self._connect)
        space.on("enter", self._enter)
        space.on("say", self._say)
        space.on("typing", self._typing)
        space.on("cut", self._on_cut, rate=Rate(1, 5.0, burst=2))
        space.on_presence(self._moved)

    def post(self, room: str, by: str, name: str, text: str) -> Said:
        """Say something in a room, for whoever does so."""
        said = Said(secrets.token_hex(8), room, by, name, text, now_ms())
        self._space.room(room).emit("said", said)
        self._heard(said)
        return said

    # -- from pages ----------------------------------------------------------------------------------------------------

    async def _connect(self, client: Any, auth: Any) -> None:
        client.emit("you", client.user.id)

    async def _enter(self, client: Any, room: Place, name: Name = "") -> dict[str, Any]:
        name = name.strip()
        if room not in client.rooms or shown(client) != name:
            client.data["name"] = name
            client.leave(*client.rooms)
            client.join(room)  # whoever has another name joins anew: so the others learn it
        past = await self._space.room(room).history.read(last=MESSAGES_SHOWN)
        return {"counts": await self._counts(), "said": [event.args[0] for event in past.events]}

    async def _say(self, client: Any, text: Text, name: Name = "") -> int:
        room = next(iter(client.rooms), None)
        text = text.strip()
        if room is None or not text:
            raise portico.Refuse("Expected a message of 1 to 500 characters, in a room.")
        if shown(client) != name.strip():
            await self._enter(client, room, name)
        self.post(room, client.user.id, shown(client), text)
        return max(0, await self._space.room(room).presence.count() - 1)

    async def _typing(self, client: Any, name: Name = "") -> None:
        client.to(*client.rooms).volatile.emit("typing", client.user.id, name.strip())

    async def _on_cut(self, client: Any) -> None:
        if client.id in self._cut:
            raise portico.Refuse("This connection is being cut already.")
        self._cut.add(client.id)
        self._io.background(self._cut_off(client.id, client.request.client))

    async def _cut_off(self, id: str, peer: Any) -> None:
        """Reset a page's connection; and write to it while it is away, which it gets when it is back."""
        try:
            for connection in self._connections():
                if connection.peer == peer:
                    connection.abort()
            for number in range(1, AWAY_EVENTS + 1):
                await asyncio.sleep(AWAY_EVERY_S)
                self._space.to(id).emit("away", number, AWAY_EVENTS, now_ms())
        finally:
            self._cut.discard(id)

    # -- who is where --------------------------------------------------------------------------------------------------

    async def _moved(self, room: Any, member: Any, joined: bool) -> None:
        self._space.latest("counts").emit("counts", await self._counts())

    async def _counts(self) -> dict[str, int]:
        return {room: await self._space.room(room).presence.count() for room in ROOMS}
