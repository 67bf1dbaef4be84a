"""What the checks of a broker stand on: a cluster of nodes that can be cut off, and a receiver that remembers."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

from portico.brokers import Broker, BrokerError, Gap, Message, Receiver


class Violation(AssertionError):
    """A broker does not keep a guarantee. The message says which, what was expected and what came."""


def expect(holds: bool, message: str) -> None:
    """Raise Violation with the message, unless it holds."""
    if not holds:
        raise Violation(message)


def expect_equal(got: Any, expected: Any, what: str) -> None:
    """Raise Violation unless both are equal, with the first difference of long sequences."""
    if got == expected:
        return
    text = f"{what}: expected {expected!r:.300}, got {got!r:.300}"
    if isinstance(got, (list, tuple)) and isinstance(expected, (list, tuple)):
        pairs = enumerate(zip(got, expected, strict=False))
        first = next((index for index, (one, other) in pairs if one != other), min(len(got), len(expected)))
        text += f"; {len(got)} instead of {len(expected)}, the first difference is at index {first}"
    raise Violation(text)


class Node(Receiver):
    """An open broker and all that it was told."""

    def __init__(self, broker: Broker, wait_s: float) -> None:
        self.broker = broker
        self.messages: list[Message] = []
        self.presence: list[tuple[str, str, bool, Any]] = []
        self.gaps: list[Gap] = []
        self.refused: list[tuple[str, BrokerError]] = []
        self.then: Callable[[Message], object] | None = None  # what else to do with a message
        self._wait_s = wait_s
        self._told = asyncio.Event()

    def on_message(self, message: Message) -> int:
        self.messages.append(message)
        self._told.set()
        if self.then is not None:
            self.then(message)
        return 1

    def on_presence(self, channel: str, user: str, joined: bool, info: Any) -> None:
        self.presence.append((channel, user, joined, info))
        self._told.set()

    def on_gap(self, gap: Gap) -> None:
        self.gaps.append(gap)
        self._told.set()

    def on_refused(self, channel: str, error: BrokerError) -> None:
        self.refused.append((channel, error))
        self._told.set()

    def of(self, channel: str) -> list[Message]:
        """The messages of a channel."""
        return [message for message in self.messages if message.channel == channel]

    def data(self, channel: str) -> list[Any]:
        """What they carried."""
        return [message.data for message in self.of(channel)]

    def gaps_of(self, channel: str) -> list[Gap]:
        """The gaps that concern a channel."""
        return [gap for gap in self.gaps if gap.channel in (channel, None)]

    def users(self, channel: str) -> list[tuple[str, bool]]:
        """The changes of presence in a channel."""
        return [(user, joined) for name, user, joined, _ in self.presence if name == channel]

    async def until(self, holds: Callable[[], bool], what: str, wait_s: float | None = None) -> None:
        """Wait until it holds; it is looked at whenever this node is told anything."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s if wait_s is None else wait_s):
                while not holds():
                    self._told.clear()
                    await self._told.wait()
        if not holds():
            self._late(what)

    def _late(self, what: str) -> NoReturn:
        told = [(message.channel, message.data) for message in self.messages[-5:]]
        raise Violation(
            f"{what}: not within {self._wait_s:g} s; the last messages: {told!r:.300}; gaps: {self.gaps!r:.300}"
        )


class Cluster:
    """How the checks make nodes that reach each other, and take that away.

    - `make` returns a new broker, not open, of the same cluster each time.
    - `cut(broker)` makes one unreachable, `mend(broker)` reachable again: stop its proxy, kill its connection. Both may
      be coroutine functions.
    - `wait_s` (5): how long to wait for what has to come.
    """

    def __init__(
        self,
        make: Callable[[], Broker],
        *,
        cut: Callable[[Any], Awaitable[None] | None],
        mend: Callable[[Any], Awaitable[None] | None],
        wait_s: float = 5.0,
    ) -> None:
        self._make = make
        self._cut = cut
        self._mend = mend
        self.wait_s = wait_s

    def broker(self) -> Broker:
        """One that is not open."""
        return self._make()

    @contextlib.asynccontextmanager
    async def nodes(self, count: int, *, type: Any = Any) -> AsyncIterator[list[Node]]:
        """Open nodes. They are closed at the end."""
        nodes = [Node(self._make(), self.wait_s) for _ in range(count)]
        try:
            for node in nodes:
                await node.broker.open(node, type=type)
            yield nodes
        finally:
            for node in nodes:
                await node.broker.close()

    def channel(self, name: str = "channel") -> str:
        """A name that no other check uses."""
        return f"{name}-{secrets.token_hex(6)}"

    async def cut(self, node: Node) -> None:
        """Make a node unreachable."""
        done = self._cut(node.broker)
        if inspect.isawaitable(done):
            await done

    async def mend(self, node: Node) -> None:
        """Make it reachable again."""
        done = self._mend(node.broker)
        if inspect.isawaitable(done):
            await done

    async def fence(self, publisher: Node, *others: Node, channel: str | None = None) -> None:
        """Return when a last message of `publisher` has reached the others: what comes before it has come.

        To their inboxes, or to a `channel` that they host.
        """
        mark = f"fence {secrets.token_hex(6)}"
        for name in [channel] if channel else [other.broker.inbox for other in others]:
            await publisher.broker.publish(name, mark)
        for other in others:
            await other.until(lambda other=other: mark in (m.data for m in other.messages), "the fence")  # type: ignore[misc] # bound

    async def poll(self, holds: Callable[[], Awaitable[bool]], what: str, wait_s: float | None = None) -> None:
        """Ask again and again until it holds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s or self.wait_s):
                while not await holds():
                    await asyncio.sleep(0.01)
                return
        raise Violation(f"{what}: not within {wait_s or self.wait_s:g} s")


async def refused(receipt: Awaitable[Any], wait_s: float, what: str) -> BrokerError:
    """The BrokerError that awaiting this raises."""
    try:
        async with asyncio.timeout(wait_s):
            got = await receipt
    except BrokerError as error:
        return error
    except TimeoutError:
        raise Violation(f"{what}: expected BrokerError, and nothing came within {wait_s:g} s") from None
    raise Violation(f"{what}: expected BrokerError, got {got!r}")


def misuse(call: Callable[[], Any], what: str) -> None:
    """Raise Violation unless the call raises LocalError."""
    from portico.errors import LocalError

    try:
        got = call()
    except LocalError:
        return
    raise Violation(f"{what}: expected LocalError, got {got!r}")
