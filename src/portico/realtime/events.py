"""What crosses between nodes, and what histories keep: plain values."""

from __future__ import annotations

from typing import Any

import msgspec


class Event(msgspec.Struct, omit_defaults=True, gc=False):
    """An event for some clients of a namespace, or something to be done with them.

    - ``kind``: ``"event"``; ``"join"``, ``"leave"``, ``"disconnect"``; ``"fetch"``, ``"call"``, which are answered with
      ``"answer"`` to ``reply``.
    - ``rooms``: whom it is for, all where empty; ``excepts``: whom it is not for. Both are rooms or ids of clients.
    - ``json``, ``attachments``: the event as it is sent.
    - ``"kept"``: an event's copy in the history of a room that its members got by another channel. ``at``: when an
      event that a room keeps was emitted, in seconds since 1970.
    """

    kind: str
    namespace: str
    rooms: list[str] = []
    excepts: list[str] = []
    json: bytes = b""
    attachments: list[bytes] = []
    volatile: bool = False
    key: str | None = None
    values: list[str] = []  # rooms to join or leave
    flag: bool = False  # of a disconnect: the transport as well
    reply: str = ""
    id: int = 0
    timeout_s: float = 0.0
    data: Any = None
    at: float = 0.0


class Left(msgspec.Struct, omit_defaults=True, gc=False):
    """What is set aside of a client that has gone, and may come back.

    ``rooms``: the stretches of the history during which it was in them: (room, after this offset, up to this one or 0
    where it still was).
    """

    id: str
    since: str
    rooms: list[tuple[str, int, int]] = []
    data: Any = None
    expires_at: float = 0.0  # its identity; 0: never
