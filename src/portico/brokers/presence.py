"""Who is in which channel, on any node: connections of users, held by nodes that have a lease. No clock and no I/O."""

from __future__ import annotations

from typing import Any

import msgspec

from portico.brokers import Member


class Change(msgspec.Struct, frozen=True):
    """A user's first connection has joined a channel, or its last one has left it."""

    channel: str
    user: str
    joined: bool
    info: Any = None


class Roster:
    """The connections that are present. Joining and leaving return what others have to be told, None for nothing."""

    __slots__ = ("_channels", "_leases", "_of_node")

    def __init__(self) -> None:
        # channel -> user -> (node, connection) -> info; dicts keep who came first first
        self._channels: dict[str, dict[str, dict[tuple[str, str], Any]]] = {}
        self._of_node: dict[str, set[tuple[str, str, str]]] = {}  # node -> (channel, user, connection)
        self._leases: dict[str, float] = {}

    def __len__(self) -> int:
        """How many channels have somebody in them."""
        return len(self._channels)

    def join(self, channel: str, user: str, node: str, connection: str, info: Any = None) -> Change | None:
        """A connection is present; a second time: has another `info`."""
        users = self._channels.setdefault(channel, {})
        connections = users.get(user)
        first = connections is None
        if connections is None:
            connections = users[user] = {}
        connections[node, connection] = info
        self._of_node.setdefault(node, set()).add((channel, user, connection))
        return Change(channel, user, True, info) if first else None

    def leave(self, channel: str, user: str, node: str, connection: str) -> Change | None:
        """A connection is not present any more."""
        users = self._channels.get(channel, {})
        connections = users.get(user, {})
        if (node, connection) not in connections:
            return None
        info = connections.pop((node, connection))
        held = self._of_node[node]
        held.discard((channel, user, connection))
        if not held:
            del self._of_node[node]
        if connections:
            return None
        del users[user]
        if not users:
            del self._channels[channel]
        return Change(channel, user, False, info)

    def drop(self, node: str) -> list[Change]:
        """All that a node holds, and its lease, end."""
        self._leases.pop(node, None)
        held = sorted(self._of_node.get(node, ()))
        changes = [self.leave(channel, user, node, connection) for channel, user, connection in held]
        return [change for change in changes if change is not None]

    def renew(self, node: str, until: float) -> None:
        """The node lives: what it holds stays until then. A node that has never renewed has no lease to lose."""
        self._leases[node] = until

    def expired(self, now: float) -> list[str]:
        """The nodes whose lease has run out: `drop` them."""
        return [node for node, until in self._leases.items() if until <= now]

    def held(self, node: str) -> frozenset[tuple[str, str, str]]:
        """Channel, user and connection of all that a node holds."""
        return frozenset(self._of_node.get(node, ()))

    def has(self, channel: str, user: str) -> bool:
        """Whether a connection of the user is present."""
        return user in self._channels.get(channel, ())

    def info(self, channel: str, user: str) -> Any:
        """What is known of a user who is present: of the oldest connection."""
        return next(iter(self._channels[channel][user].values()))

    def members(self, channel: str) -> tuple[Member, ...]:
        """Who is present, in the order in which they came."""
        users = self._channels.get(channel, {})
        return tuple(Member(user, next(iter(held.values())), len(held)) for user, held in users.items())

    def count(self, channel: str) -> int:
        """How many users are present."""
        return len(self._channels.get(channel, ()))
