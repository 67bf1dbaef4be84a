"""Dialling: a connected socket to a host, by whichever of its addresses answers first (RFC 8305, Happy Eyeballs).

Owns the turnstiles of RFC 6455 §4.1: at most one connection to the same address and port is CONNECTING at a time, by
whatever name it was called. A turn lasts from the first packet until the opening handshake is over, one way or the
other; others wait for theirs.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Hashable
from typing import Any, Final

SECOND_AFTER_S: Final = 0.25


class Turnstiles:
    """One loop's turnstiles, by place: an (address, port), or what stands for it behind a proxy."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[Hashable, asyncio.Lock] = weakref.WeakValueDictionary()
        self._behind: asyncio.Semaphore | None = None

    @staticmethod
    def running() -> Turnstiles:
        """The running loop's."""
        loop = asyncio.get_running_loop()
        found = _turnstiles.get(loop)
        if found is None:
            found = _turnstiles[loop] = Turnstiles()
        return found

    def behind_proxies(self, most: int) -> asyncio.Semaphore:
        """Held by whatever is CONNECTING through a proxy; `most` at a time."""
        if self._behind is None:
            self._behind = asyncio.Semaphore(most)
        return self._behind

    def at(self, place: Hashable) -> asyncio.Lock:
        """The lock that is held while a connection to `place` is CONNECTING."""
        lock = self._locks.get(place)
        if lock is None:
            lock = self._locks[place] = asyncio.Lock()
        return lock


_turnstiles: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Turnstiles] = weakref.WeakKeyDictionary()


class Dialled:
    """A connected socket, and the turn that it holds until `over` is called."""

    __slots__ = ("_turn", "address", "sock")

    def __init__(self, sock: socket.socket, address: Any, turn: asyncio.Lock | None) -> None:
        self.sock = sock
        self.address = address
        self._turn = turn

    def over(self) -> None:
        """It is CONNECTING no more: the next one's turn."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.release()


async def dial(host: str, port: int, *, timeout_s: float, exclusive: bool = True) -> Dialled:
    """A TCP connection to `host`: its addresses in turn, families alternating, the next one 250 ms after the one before
    or when that has failed.

    `timeout_s` runs for each address from its turn on, not while it waits for it. Raises OSError (the first address's)
    where none answers, TimeoutError where the last one did not answer in time.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    won: asyncio.Future[Dialled] = loop.create_future()
    errors: list[OSError] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        for family, address in _alternate([(info[0], info[4]) for info in found]):
            tasks.append(loop.create_task(_attempt(family, address, timeout_s, exclusive, won, errors)))
            either: list[asyncio.Future[Any]] = [won, tasks[-1]]
            await asyncio.wait(either, timeout=SECOND_AFTER_S, return_when=asyncio.FIRST_COMPLETED)
            if won.done():
                break
        while not won.done() and not all(task.done() for task in tasks):
            left: list[asyncio.Future[Any]] = [won, *(task for task in tasks if not task.done())]
            await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
    except BaseException:
        if won.done():  # cancelled at the last moment: nobody will take it
            won.result().sock.close()
            won.result().over()
        raise
    finally:
        for task in tasks:
            task.cancel()
    if won.done():
        return won.result()
    raise errors[0] if errors else OSError(f"{host!r} has no address")


async def _attempt(
    family: int,
    address: Any,
    timeout_s: float,
    exclusive: bool,
    won: asyncio.Future[Dialled],
    errors: list[OSError],
) -> None:
    turn = Turnstiles.running().at(address[:2]) if exclusive else None
    if turn is not None:
        await turn.acquire()
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, address)
        if not won.done():
            won.set_result(Dialled(sock, address, turn))
            sock = turn = None
    except OSError as error:  # TimeoutError is one
        errors.append(error)
    finally:
        if sock is not None:
            sock.close()
        if turn is not None:
            turn.release()


def _alternate(addresses: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """The families in turn, beginning with the first one's (RFC 8305 §4)."""
    addresses = list(dict.fromkeys(addresses))
    if not addresses:
        return []
    first = [pair for pair in addresses if pair[0] == addresses[0][0]]
    second = [pair for pair in addresses if pair[0] != addresses[0][0]]
    mixed: list[tuple[int, Any]] = []
    while first or second:
        for queue in (first, second):
            if queue:
                mixed.append(queue.pop(0))
    return mixed
