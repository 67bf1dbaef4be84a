"""Looking up names: a host's addresses. A name server that hangs holds up nobody but those who asked for that name.

Each look-up is a daemon thread of its own, for the resolver of the system can't be interrupted: it delays neither what
else runs in the loop's executor nor the end of the program. All who ask for one name at a time share one look-up; a
loop has at most `MOST_AT_A_TIME`. Numeric addresses need no look-up.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final, TypeVar

MOST_AT_A_TIME: Final = 32

Found = list[tuple[int, Any]]
T = TypeVar("T")


async def addresses(host: str, port: int, timeout_s: float) -> Found:
    """The addresses of `host` as family and socket address, in the order in which the system wants them tried.

    Raises `socket.gaierror` where there is none, TimeoutError after `timeout_s`.
    """
    try:
        return _ask(host, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # a name
    loop = asyncio.get_running_loop()
    look_ups = _look_ups.get(loop)
    if look_ups is None:
        look_ups = _look_ups[loop] = LookUps(loop)
    try:
        async with asyncio.timeout(timeout_s):
            return await look_ups.find(host, port)
    except TimeoutError:
        raise TimeoutError(f"no address for {host!r} within {timeout_s:g} s") from None
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"no address for {host!r}: {error.strerror}") from None


def _ask(host: str, port: int, flags: int = 0) -> Found:
    found: Found = []
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags):
        if family == socket.AF_INET6:  # the scope's number says it all; asyncio would look up one with its name
            address = (str(address[0]).partition("%")[0], *address[1:])
        found.append((family, address))
    return found


def _answer(host: str, port: int) -> Found | OSError:
    try:
        return _ask(host, port)
    except OSError as error:
        return error


class LookUps:
    """One loop's look-ups."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._threads = Threads(loop)
        self._slots = asyncio.Semaphore(MOST_AT_A_TIME)
        self._under_way: dict[tuple[str, int], asyncio.Future[Found | OSError]] = {}

    async def find(self, host: str, port: int) -> Found:
        """The addresses of a name; waits for a thread where all are taken."""
        asked = host, port
        answer = self._under_way.get(asked)
        if answer is None:
            await self._slots.acquire()
            answer = self._under_way.get(asked)  # perhaps begun while this waited
            if answer is None:
                answer = self._begin(asked)
            else:
                self._slots.release()
        came = await asyncio.shield(answer)  # others may wait for it, too
        if isinstance(came, OSError):
            raise came
        return came

    def _begin(self, asked: tuple[str, int]) -> asyncio.Future[Found | OSError]:
        def over(_: object) -> None:
            del self._under_way[asked]
            self._slots.release()

        try:
            answer = asyncio.get_running_loop().run_in_executor(self._threads, _answer, *asked)
        except BaseException:  # no thread can be started
            self._slots.release()
            raise
        self._under_way[asked] = answer
        answer.add_done_callback(over)
        return answer


class Threads(Executor):
    """A daemon thread for each job."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)

    def submit(self, job: Callable[..., T], /, *args: Any, **options: Any) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            came = job(*args, **options)
            loop = self._loop()
            if loop is not None and not loop.is_closed():  # else nobody is left to be told
                future.set_result(came)

        threading.Thread(target=run, name="portico-lookup", daemon=True).start()
        return future


_look_ups: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LookUps] = weakref.WeakKeyDictionary()
