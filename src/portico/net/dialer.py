"""Dialling: a connected socket to a host, by whichever of its addresses answers first (RFC 8305, Happy Eyeballs).

Owns the turnstiles of RFC 6455 §4.1: at most one connection to the same address and port is CONNECTING at a time, by
whatever name it was called. A turn lasts from the first packet until the opening handshake is over, one way or the
other; others wait for theirs.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import weakref
from collections.abc import Hashable
from typing import Any, Final

from portico.net.lookup import addresses

SECOND_AFTER_S: Final = 0.25
LOOPBACK: Final = {4: ipaddress.ip_address("127.0.0.1"), 6: ipaddress.ip_address("::1")}


class Turnstiles:
    """One loop's turnstiles, by place: an address and port, or what stands for them behind a proxy."""

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


def place_of(address: Any) -> Hashable:
    """What all names for one address and port have in common; of a Unix socket, its path. What has no name is alone."""
    if not address:
        return object()
    if not isinstance(address, tuple) or not isinstance(address[0], str):
        return str(address)
    host, port, *more = address
    scope = more[1] if len(more) > 1 else 0
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return LOOPBACK[ip.version] if ip.is_unspecified else ip, port, scope


class Dialled:
    """A connected socket, and the turn that it holds until `over` is called; by ``deadline``, on the loop's clock, the
    opening handshake has to be over."""

    __slots__ = ("_turn", "address", "deadline", "sock")

    def __init__(self, sock: socket.socket, address: Any, deadline: float, turn: asyncio.Lock | None = None) -> None:
        self.sock = sock
        self.address = address
        self.deadline = deadline
        self._turn = turn

    def over(self) -> None:
        """It is CONNECTING no more: the next one's turn."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.release()


async def dial(host: str, port: int, *, timeout_s: float, exclusive: bool = True) -> Dialled:
    """A TCP connection to `host`: its addresses in turn, families alternating, the next one 250 ms after the one before
    or when that has failed.

    `timeout_s` is for looking up the name; then, for each address, it runs from its turn on, not while it waits for it.
    Raises OSError, of the kind that the first address failed with, where none answers; `socket.gaierror` where there
    is no address; TimeoutError.
    """
    loop = asyncio.get_running_loop()
    won: asyncio.Future[Dialled] = loop.create_future()
    failed: list[tuple[Any, OSError]] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        for family, address in _alternate(await addresses(host, port, timeout_s)):
            tasks.append(loop.create_task(_attempt(family, address, timeout_s, exclusive, won, failed)))
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
    raise _failure(host, port, failed, timeout_s)


async def _attempt(
    family: int,
    address: Any,
    timeout_s: float,
    exclusive: bool,
    won: asyncio.Future[Dialled],
    failed: list[tuple[Any, OSError]],
) -> None:
    turn = Turnstiles.running().at(place_of(address)) if exclusive else None
    if turn is not None:
        await turn.acquire()
    sock: socket.socket | None = None
    try:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout_at(deadline):
            await loop.sock_connect(sock, address)
        if not won.done():
            won.set_result(Dialled(sock, address, deadline, turn))
            sock = turn = None
    except OSError as error:  # TimeoutError is one
        failed.append((address, error))
    finally:
        if sock is not None:
            sock.close()
        if turn is not None:
            turn.release()


def _failure(host: str, port: int, failed: list[tuple[Any, OSError]], timeout_s: float) -> OSError:
    """One error for all addresses: of the first one's kind, with what came of each."""
    silent = f"no answer within {timeout_s:g} s"
    came = "; ".join(f"{at[0]}: {os.strerror(error.errno) if error.errno else silent}" for at, error in failed)
    text = f"no TCP connection to {host} port {port}: {came or 'it has no address'}"
    number = failed[0][1].errno if failed else None
    if number:
        return OSError(number, text)
    return TimeoutError(text) if failed else OSError(text)


def _alternate(found: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """The families in turn, beginning with the first one's (RFC 8305 §4)."""
    found = list(dict.fromkeys(found))
    if not found:
        return []
    first = [pair for pair in found if pair[0] == found[0][0]]
    second = [pair for pair in found if pair[0] != found[0][0]]
    mixed: list[tuple[int, Any]] = []
    while first or second:
        for queue in (first, second):
            if queue:
                mixed.append(queue.pop(0))
    return mixed
