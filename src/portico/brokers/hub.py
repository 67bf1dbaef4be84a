"""What the nodes of one process share: who hosts what, histories, presence, and what is set aside; and its one timer.

Several `MemoryBroker`s with one `MemoryHub` are several nodes in one process: so is tested what many nodes do, and what
happens when one can't be reached (`cut`, `mend`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from portico.brokers import Retention
from portico.brokers.deadlines import Deadlines
from portico.brokers.history import History
from portico.brokers.presence import Change, Roster
from portico.errors import LocalError

if TYPE_CHECKING:
    from portico.brokers.memory import MemoryBroker

BATCH: Final = 1000  # what is dealt with in one turn of the loop


class MemoryHub:
    """Shared by the nodes of one process and one event loop. It is empty again when its last node has closed.

    - `lease_s` (15): how long a node that can't be reached keeps its subscriptions and its connections' presence.
    - `max_queue_bytes` (8 MiB): what waits for one node; what goes over is lost to it, and it is told.
    - `max_histories` (100,000): of channels that no node hosts now, how many are kept; the ones left first go first.
    - `max_stored_bytes` (64 MiB): what `store` sets aside; the oldest goes first.
    """

    def __init__(
        self,
        *,
        lease_s: float = 15.0,
        max_queue_bytes: int = 8_388_608,
        max_histories: int = 100_000,
        max_stored_bytes: int = 67_108_864,
    ) -> None:
        given = {"lease_s": lease_s, "max_queue_bytes": max_queue_bytes}
        given |= {"max_histories": max_histories, "max_stored_bytes": max_stored_bytes}
        for name, value in given.items():
            if not 0 < value < float("inf"):
                raise LocalError(f"MemoryHub({name}={value!r}): expected a finite number above 0")
        self.lease_s = lease_s
        self.max_queue_bytes = max_queue_bytes
        self._max_histories = max_histories
        self._max_stored_bytes = max_stored_bytes
        self.encoder = msgspec.msgpack.Encoder()
        self.nodes: dict[str, MemoryBroker] = {}
        self.hosts: dict[str, dict[MemoryBroker, None]] = {}
        self.histories: dict[str, History] = {}
        self.roster = Roster()
        self._unhosted: dict[str, None] = {}  # channels that have a history and no host, the ones left first first
        self._stored: dict[str, bytes] = {}
        self._stored_bytes = 0
        self._aging = Deadlines()  # by channel: of its history
        self._storing = Deadlines()  # by key: of what is set aside
        self._leases = Deadlines()  # by node: of those that are cut
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of all its nodes."""
        if self._loop is None:
            raise LocalError("the hub has no node: await broker.open(…) first")
        return self._loop

    def cut(self, broker: MemoryBroker) -> None:
        """The node can't be reached, nor reach anything, until `mend`; after `lease_s` the others hold it for dead."""
        if broker.node in self.nodes and not broker.is_cut:
            broker.on_cut()
            until = self.loop.time() + self.lease_s
            self.roster.renew(broker.node, until)
            self._leases.set(broker.node, until)
            self._arm()

    def mend(self, broker: MemoryBroker) -> None:
        """The node is there again: it is told what it has missed, and announces anew what it holds."""
        if not broker.is_cut:
            return
        expired = broker.node not in self.nodes
        self._leases.discard(broker.node)
        self.roster.renew(broker.node, float("inf"))
        self._bind()
        self.nodes[broker.node] = broker
        broker.on_mended(expired)

    # What follows is for MemoryBroker.

    def attach(self, broker: MemoryBroker) -> None:
        """A node opens."""
        self._bind()
        self.nodes[broker.node] = broker

    def _bind(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise LocalError("the hub's nodes run on another event loop: each loop needs a MemoryHub of its own")
        self._loop = loop

    def detach(self, broker: MemoryBroker, hosted: Iterable[str]) -> None:
        """A node has closed. Of one that is cut, nobody hears that before its lease runs out."""
        self.nodes.pop(broker.node, None)
        for channel in hosted:
            self.unhost(channel, broker)
        if not broker.is_cut:
            self._drop(broker.node)
        if not self.nodes:
            self._clear()

    def _drop(self, node: str) -> None:
        self._leases.discard(node)
        for change in self.roster.drop(node):
            self.tell(change)

    def _clear(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.histories.clear()
        self._unhosted.clear()
        self._stored.clear()
        self._stored_bytes = 0
        self._aging, self._storing, self._leases = Deadlines(), Deadlines(), Deadlines()
        self.roster = Roster()
        self._loop = None

    def host(self, channel: str, broker: MemoryBroker) -> None:
        """The node hosts the channel from now on."""
        self.hosts.setdefault(channel, {})[broker] = None
        self._unhosted.pop(channel, None)

    def unhost(self, channel: str, broker: MemoryBroker) -> None:
        """The node hosts it no longer. Who published to it alone needs no count of it any more."""
        hosts = self.hosts.get(channel)
        if hosts is None or broker not in hosts:
            return
        del hosts[broker]
        for listener in hosts if len(hosts) == 1 else ():
            listener.numbering.forget(channel)
        if not hosts:
            del self.hosts[channel]
            for node in self.nodes.values():
                node.numbering.forget(channel)
            history = self.histories.get(channel)
            if history is not None:
                history.used = self.loop.time()
                self._leave(channel)
                self._age(channel, history)

    def history(self, channel: str, keep: Retention) -> History:
        """The channel's history, which begins now if there is none."""
        history = self.histories.get(channel)
        if history is None:
            history = self.histories[channel] = History(self.loop.time(), keep)
            if channel not in self.hosts:
                self._leave(channel)
                self._age(channel, history)
        return history

    def keep(self, channel: str, publisher: str, payload: bytes, keep: Retention) -> tuple[History, int]:
        """Put a message into the channel's history. Returns that, and the offset."""
        history = self.history(channel, keep)
        offset = history.append(publisher, payload, keep, self.loop.time())
        if channel not in self._aging:
            self._age(channel, history)
        return history, offset

    def _leave(self, channel: str) -> None:
        """Nobody hosts a channel that has a history; of such there is a bounded number."""
        self._unhosted[channel] = None
        if len(self._unhosted) > self._max_histories:
            self._forget(next(iter(self._unhosted)))

    def _forget(self, channel: str) -> None:
        self._unhosted.pop(channel, None)
        self._aging.discard(channel)
        del self.histories[channel]

    def _age(self, channel: str, history: History) -> None:
        if len(history) or channel in self._unhosted:
            self._aging.set(channel, history.due())
            self._arm()

    def tell(self, change: Change | None, by: MemoryBroker | None = None) -> None:
        """Everyone who hosts the channel is told of a change of presence; the one that made it at once."""
        if change is None:
            return
        for broker in tuple(self.hosts.get(change.channel, ())):
            if broker is by:
                broker.on_change(change)
            else:
                broker.offer(change)

    def store(self, key: str, payload: bytes, ttl_s: float) -> None:
        """Set a value aside."""
        self.take(key)
        self._stored[key] = payload
        self._stored_bytes += len(payload)
        self._storing.set(key, self.loop.time() + ttl_s)
        while self._stored_bytes > self._max_stored_bytes:
            self.take(next(iter(self._stored)))
        self._arm()

    def take(self, key: str) -> bytes | None:
        """Remove a value and return it."""
        payload = self._stored.pop(key, None)
        if payload is not None:
            self._stored_bytes -= len(payload)
            self._storing.discard(key)
        return payload

    def _arm(self) -> None:
        """One timer for everything: at the first deadline."""
        times = [when for due in (self._aging, self._storing, self._leases) if (when := due.next()) is not None]
        first = min(times, default=None)
        if self._timer is not None:
            if first is not None and self._timer.when() <= first:
                return  # it looks early, and is armed again
            self._timer.cancel()
        self._timer = None if first is None else self.loop.call_at(first, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self.loop.time()
        for _ in range(BATCH):
            if (channel := self._aging.pop(now)) is not None:
                self._aged(channel, now)
            elif (key := self._storing.pop(now)) is not None:
                self._stored_bytes -= len(self._stored.pop(key))
            elif (node := self._leases.pop(now)) is not None:
                if node in self.nodes:
                    broker = self.nodes[node]
                    self.detach(broker, broker.on_expired())
                self._drop(node)
            else:
                break
        if self._loop is not None:
            self._arm()

    def _aged(self, channel: str, now: float) -> None:
        history = self.histories[channel]
        history.trim(now)
        if not len(history) and channel in self._unhosted and history.due() <= now:
            self._forget(channel)
        else:
            self._age(channel, history)
