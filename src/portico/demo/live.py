"""The demo's own WebSocket, ``/live``: the live list of the port's connections, and what else is told to all pages.

JSON texts, each with a ``type``. From a visitor:

- ``{"type": "say", "text": …, "name": …}``: to everybody in the chat's lobby; the text up to 500 characters, the name,
  optional, up to 24. For clients in a terminal; pages have the chat.
- ``{"type": "ping", "t": …, "rtt_ms": …, "name": …}``: echoed at once; optional: the last round trip that it measured,
  and a name for the list.
- ``{"type": "measure", "page": …}``: what this page's four ways to the value have cost.
- ``{"type": "every", "ms": …}``: how often the value is to change, for all.

To a visitor: ``hello`` once, then ``snapshot`` (the connections), ``said`` (a message of the lobby), ``sent`` (yours
was), ``pong``, ``measured``, ``every``, and ``error`` (``code``: ``rate_limited``, ``too_long``, ``not_understood``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Annotated, Final, Literal

import msgspec

import portico
from portico.demo.chat import Chat, Said
from portico.demo.guests import Allowance, Guest
from portico.demo.meter import Lane, Meter
from portico.demo.site import Address, address
from portico.demo.value import Value

SNAPSHOT_EVERY_S: Final = 1.0
SNAPSHOT_GAP_S: Final = 0.2
SNAPSHOT_BYTES_PER_S: Final = 20_000_000  # for all visitors together: many of them get fewer snapshots, not a busy loop
SNAPSHOT_ROWS: Final = 200
MESSAGES_PER_S: Final = 5.0
MESSAGES_AT_ONCE: Final = 10.0
INPUT_CHARACTERS: Final = 4096

Name = Annotated[str, msgspec.Meta(max_length=24)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=60_000)]


class Say(msgspec.Struct, tag_field="type", tag="say", frozen=True):
    text: Annotated[str, msgspec.Meta(max_length=500)]
    name: Name = ""


class Ping(msgspec.Struct, tag_field="type", tag="ping", frozen=True):
    t: Annotated[float, msgspec.Meta(ge=0, le=1e15)]
    rtt_ms: Milliseconds | None = None
    name: Name | None = None


class Measure(msgspec.Struct, tag_field="type", tag="measure", frozen=True):
    page: Annotated[str, msgspec.Meta(pattern="^[0-9a-z]{8,40}$")]


class Every(msgspec.Struct, tag_field="type", tag="every", frozen=True):
    ms: Literal[50, 100, 200, 500, 1000, 2000]


class Hello(msgspec.Struct, tag_field="type", tag="hello", frozen=True):
    you: str
    every_ms: int


class Spoken(msgspec.Struct, tag_field="type", tag="said", frozen=True):
    by: str
    text: str
    at_ms: int


class Sent(msgspec.Struct, tag_field="type", tag="sent", frozen=True):
    room: str


class Pong(msgspec.Struct, tag_field="type", tag="pong", frozen=True):
    t: float
    at_ms: float


class Measured(msgspec.Struct, tag_field="type", tag="measured", frozen=True):
    page: str
    lanes: dict[str, Lane]


class Error(msgspec.Struct, tag_field="type", tag="error", frozen=True):
    code: str
    text: str


class Row(msgspec.Struct, frozen=True):
    """One connection. ``ws``: the id of its WebSocket, by which a visitor finds its own row; ``guest`` is the one that
    a page has in the chat; ``use``: what it is for, ``chat``, ``value`` or a lane."""

    id: str
    ws: str | None
    guest: str
    use: str
    name: str
    protocol: str
    tls: bool
    local: Address
    peer: Address
    state: str
    age_s: float
    bytes_in: int
    bytes_out: int
    round_trip_ms: float | None


class Snapshot(msgspec.Struct, tag_field="type", tag="snapshot", frozen=True):
    total: int
    sockets: int
    answered: int
    connections: list[Row]


RATE_LIMITED: Final = Error("rate_limited", f"At most {MESSAGES_PER_S:.0f} messages a second: this one went nowhere.")
TOO_LONG: Final = Error("too_long", f"Expected at most {INPUT_CHARACTERS} characters of JSON.")
NOT_UNDERSTOOD: Final = Error(
    "not_understood",
    'Expected {"type": "say", "text": 1 to 500 characters, "name": at most 24} or {"type": "ping", "t": a number}.',
)

_decoder: Final = msgspec.json.Decoder(Say | Ping | Measure | Every)


def _json(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()


class Visitor:
    """What is known about one open WebSocket: its last name and round trip, and its allowance of messages."""

    __slots__ = ("allowance", "name", "round_trip_ms", "warned")

    def __init__(self) -> None:
        self.name = ""
        self.round_trip_ms: float | None = None
        self.allowance = Allowance(MESSAGES_PER_S, MESSAGES_AT_ONCE, time.monotonic())
        self.warned = False


class Live(portico.Endpoint):
    """The WebSocket side: tells every visitor of all connections, and what else changes for all."""

    def __init__(self, value: Value, meter: Meter) -> None:
        self.room = portico.Room(on_slow="drop_oldest")
        self.answered = 0
        self.chat: Chat | None = None
        self._value = value
        self._meter = meter
        self._changed = asyncio.Event()
        self._peers: set[Address] = set()

    def on_open(self, ws: portico.WebSocket) -> None:
        ws.state = Visitor()
        self._meter.begin(ws.request.client)
        ws.write(_json(Hello(you=ws.id, every_ms=self._value.period_ms)))
        self.room.add(ws)
        self._value.watched(len(self.room))
        self._changed.set()

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        visitor: Visitor = ws.state
        if not visitor.allowance.spend(time.monotonic()):
            if not visitor.warned:  # one word for a whole flood, so that answering it is no flood
                visitor.warned = True
                ws.write(_json(RATE_LIMITED))
            return
        visitor.warned = False
        if len(message) > INPUT_CHARACTERS:
            ws.write(_json(TOO_LONG))
            return
        try:
            asked = _decoder.decode(message)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            ws.write(_json(NOT_UNDERSTOOD))
            return
        self._answer(ws, visitor, asked)

    def on_close(self, ws: portico.WebSocket, close: portico.Close) -> None:
        self.room.discard(ws)
        self._value.watched(len(self.room))
        self._changed.set()

    def heard(self, said: Said) -> None:
        """Somebody has said something in the chat: those in a terminal want to know what is said in the lobby."""
        if said.room == "lobby":
            self.room.send(_json(Spoken(said.name or said.by, said.text, said.at_ms)))

    def answering(self, peer: Address | None) -> None:
        """A plain HTTP request from ``peer`` is answered, perhaps over a connection that nobody was told of yet."""
        self.answered += 1
        if peer is not None and peer not in self._peers:
            self._changed.set()

    async def watch(self, server: portico.Server) -> None:
        """Tell all visitors about the connections of ``server``: every second, and soon after one came or went.

        Runs until cancelled; while nobody is connected it waits.
        """
        while True:
            self._changed.clear()
            self._meter.settle()
            text = self._snapshot(server.connections)
            told = self.room.send(text)
            rest = max(SNAPSHOT_GAP_S, len(text) * told / SNAPSHOT_BYTES_PER_S)
            await asyncio.sleep(rest)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, SNAPSHOT_EVERY_S - rest) if told else None):
                    await self._changed.wait()

    def _answer(self, ws: portico.WebSocket, visitor: Visitor, asked: Say | Ping | Measure | Every) -> None:
        match asked:
            case Ping():
                ws.write(_json(Pong(t=asked.t, at_ms=time.time_ns() / 1e6)))
                visitor.round_trip_ms = asked.rtt_ms
                if asked.name is not None:
                    visitor.name = asked.name.strip()
            case Measure():
                ws.write(_json(Measured(asked.page, self._meter.measured(asked.page))))
            case Every():
                self._value.every(asked.ms)
                self.room.send(_json(asked))
            case Say():
                self._say(ws, visitor, asked)

    def _say(self, ws: portico.WebSocket, visitor: Visitor, say: Say) -> None:
        text = say.text.strip()
        if not text or self.chat is None:
            ws.write(_json(NOT_UNDERSTOOD))
            return
        visitor.name = say.name.strip()
        self.chat.post("lobby", ws.id, visitor.name or address(ws.request.client), text)
        ws.write(_json(Sent(room="lobby")))

    def _snapshot(self, connections: Iterable[portico.Connection]) -> str:
        every = sorted(connections, key=lambda one: (one.protocol != "websocket", -one.age_s))
        self._peers = {one.peer for one in every}
        return _json(
            Snapshot(
                total=len(every),
                sockets=sum(one.protocol == "websocket" for one in every),
                answered=self.answered,
                connections=[self._row(one) for one in every[:SNAPSHOT_ROWS]],
            )
        )

    def _row(self, one: portico.Connection) -> Row:
        ws = one.websocket
        visitor = ws.state if ws is not None and isinstance(ws.state, Visitor) else None
        guest = ws.user if ws is not None and isinstance(ws.user, Guest) else None
        use = self._meter.held(one.peer) if guest is None else "value" if guest.lane else "chat"
        seen = None if visitor is None else visitor.round_trip_ms
        return Row(
            id=one.id,
            ws=ws.id if ws is not None else None,
            guest="" if guest is None else guest.id,
            use=use,
            name="" if visitor is None else visitor.name,
            protocol=one.protocol,
            tls=one.tls,
            local=one.local,
            peer=one.peer,
            state=one.state,
            age_s=round(one.age_s, 1),
            bytes_in=one.bytes_in,
            bytes_out=one.bytes_out,
            round_trip_ms=seen if one.latency is None else round(one.latency * 1000, 3),
        )
