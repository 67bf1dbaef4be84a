"""A chat: rooms, who is there, who is typing, what was said before; and whoever loses the connection misses nothing."""

from __future__ import annotations

import os
import pathlib
import time
from typing import Annotated, Any

import msgspec

import portico
from portico.realtime import Presence, Rate, Recovery
from portico.realtime.history import History

ROOMS = ["lobby", "garden"]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=24)]

io = portico.Realtime(
    recovery=Recovery(age_s=120),
    history=History(rooms=ROOMS, count=100, age_s=3600),
    presence=Presence(rooms=ROOMS, info=lambda client: client.data["name"]),
    rate=Rate(5, burst=20),
)
app = portico.App()
app.mount("/socket.io", io)
app.static("/", pathlib.Path(__file__).with_name("page"), html=True)


@io.on("enter")
async def enter(client: Any, room: str, name: Name) -> list[Any]:
    """Be in one room, under a name; the acknowledgement is what was said there."""
    if room not in ROOMS:
        raise portico.Refuse(f"expected one of {', '.join(ROOMS)}")
    client.data["name"] = name
    client.leave(*client.rooms)
    client.join(room)
    past = await io.room(room).history.read(last=20)
    return [event.args[0] for event in past.events]


@io.on("say")
async def say(client: Any, text: Text) -> None:
    io.to(*client.rooms).emit("said", {"name": client.data["name"], "text": text, "at": time.time()})


@io.on("typing")
async def typing(client: Any) -> None:
    client.to(*client.rooms).volatile.emit("typing", client.data["name"])


if __name__ == "__main__":
    portico.run(app, port=int(os.environ.get("PORT", "8000")))
