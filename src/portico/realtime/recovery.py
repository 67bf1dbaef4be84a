"""Connection state recovery: a client that returns gets its id, rooms and data back, and exactly what it missed.

All events of a namespace are in one history then, and each carries its place in it as a last argument, as the official
clients expect. What a client has seen is a place in that history, also where it has seen nothing yet.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portico.brokers import BrokerError, Message, Position, Retention
from portico.errors import LocalError
from portico.realtime.events import Event, Left
from portico.realtime.members import GONE
from portico.realtime.outgoing import Outgoing

if TYPE_CHECKING:
    from portico.realtime.clients import Client
    from portico.realtime.namespaces import Namespace

logger = logging.getLogger("portico.realtime")

ANSWER_BYTES = 1024  # more than the answer to its CONNECT weighs, which comes before
RECOVERABLE = frozenset(
    (
        "transport close",
        "transport error",
        "ping timeout",
        "forced close",
        "forced server close",
        "server shutting down",
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """How long, and of how much, clients that come back get what they missed: `age_s` seconds (120), at most
    `max_events` (10,000) and `max_bytes` (16 MiB) of a namespace. Who has missed more than the Realtime's
    `max_outbox_bytes` is not recovered."""

    age_s: float = 120.0
    max_events: int = 10_000
    max_bytes: int = 16 * 1024 * 1024

    @property
    def retention(self) -> Retention:
        """The same for a broker."""
        return Retention(count=self.max_events, max_bytes=self.max_bytes, age_s=self.age_s)


@dataclass(slots=True)
class Recovered:
    """What a client missed, up to an offset."""

    missed: list[Outgoing]
    upto: int


class Claim:
    """A client that is being restored under a name; no other one is meanwhile."""

    __slots__ = ("client", "over")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.over = asyncio.Event()


def set_aside(client: Client, reason: str) -> None:
    """Keep what a client was, that it may come back."""
    namespace = client.namespace
    io = namespace.io
    if io.recovery is None or reason not in RECOVERABLE or not client._pid or not io.running:
        return
    rooms = [*(client._left or ()), *((room, joined, 0) for room, joined in (client._rooms or {}).items())]
    left = Left(client.id, client._since, rooms, client.data, client.expires_at or 0.0)
    keep_s = min(io.recovery.age_s, left.expires_at - time.time()) if left.expires_at else io.recovery.age_s
    if keep_s <= 0:
        return
    try:
        io.broker.store(_key(namespace, client._pid), left, keep_s)
    except (TypeError, ValueError, LocalError, BrokerError) as error:
        logger.warning("the data of a client can't be set aside, so that it can't come back: %s", error)


async def restore(client: Client, pid: object, offset: object) -> Recovered | None:
    """Let `client` be again who had this `pid`; None where that can't be had whole."""
    namespace = client.namespace
    client._since = namespace.since()
    if namespace.io.recovery is None:
        return None
    client._pid = secrets.token_urlsafe(15)
    if not isinstance(pid, str) or not pid or len(pid) > 64:
        return None
    while (before := namespace.claims.get(pid)) is not None:  # it came a second time: one of the two gets it
        before.client.session.close("transport close", discard=True)
        await before.over.wait()
    claim = namespace.claims[pid] = Claim(client)
    try:
        live = namespace.live.get(pid)
        if live is not None:  # it came back before we have noticed that it had left
            live.session.close("transport close", discard=True)
        return await _restore(client, pid, offset)
    finally:
        del namespace.claims[pid]
        claim.over.set()


async def _restore(client: Client, pid: str, offset: object) -> Recovered | None:
    namespace = client.namespace
    broker = namespace.io.broker
    left: Left | None = await broker.take(_key(namespace, pid), Left)
    if left is None or 0 < left.expires_at <= time.time():
        return None
    if client.state is GONE:
        _put_back(namespace, pid, left)  # the next one may have it
        return None
    try:
        since = _since(offset, left)
    except LocalError:
        return None
    fresh = client.id, client._pid
    client._rooms = {room: after for room, after, upto in left.rooms if not upto}
    client._left = [tuple(stretch) for stretch in left.rooms if stretch[2]]  # type: ignore[misc] # of three
    client._early = []
    namespace.come_back(client, left.id, pid)
    span = await broker.history(namespace.name, since=since)
    if span.position is not None and span.gap is None:
        await namespace.delivered_up_to(span.position, client)
    if client.state is GONE:
        _put_back(namespace, pid, left)
        return None
    if span.gap is not None or span.position is None:
        logger.debug("a client of %s could not be recovered: %s", namespace.name, span.gap)
        namespace.undo_come_back(client, *fresh)
        return None
    missed = [
        namespace.outgoing(message.data, place=str(message.position), offset=message.sequence)
        for message in span.messages
        if _was_for(client, left, message)
    ]
    session = client.session
    if session.buffered + ANSWER_BYTES + sum(out.size for out in missed) > session.engine.options.max_outbox_bytes:
        logger.debug("a client of %s has missed more than may wait for it: max_outbox_bytes", namespace.name)
        namespace.undo_come_back(client, *fresh)
        return None
    client._since = left.since  # where it names no place, it has seen nothing that has one
    client.data = left.data if isinstance(left.data, dict) else {}
    client.recovered = True
    if left.expires_at and client._lifetime is None:  # it does not live longer than it would have
        client.expire(at=left.expires_at)
    return Recovered(missed, span.position.offset)


def _since(offset: object, left: Left) -> Position:
    """Up to where a client has seen the history. Raises LocalError where what it names is no place.

    One from before its connection is left from an older one: official clients keep it until an event brings another.
    """
    began = Position.parse(left.since)
    if not isinstance(offset, str):
        return began
    named = Position.parse(offset)
    return began if named.epoch != began.epoch or named.offset < began.offset else named


def _put_back(namespace: Namespace, pid: str, left: Left) -> None:
    if namespace.io.running and namespace.io.recovery is not None:
        namespace.io.broker.store(_key(namespace, pid), left, namespace.io.recovery.age_s)


def _was_for(client: Client, left: Left, message: Message) -> bool:
    """Whether the client was among those that an event was for."""
    event: Event = message.data
    inside = {
        room for room, after, upto in left.rooms if after < message.sequence and (not upto or message.sequence <= upto)
    }
    inside.add(client.id)
    if event.rooms and inside.isdisjoint(event.rooms):
        return False
    return inside.isdisjoint(event.excepts)


def _key(namespace: Namespace, pid: str) -> str:
    return f"recovery\0{namespace.name}\0{pid}"
