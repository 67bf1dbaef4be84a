"""``async for ws in portico.connect(…)`` through a network that fails at random, on simulated time: it never spins,
never holds two live sockets, never stops for a fault that passes, and the messages between are whole.

It does not cover: TLS, proxies and redirects; the look-up of names and more than one address; a real clock (time
stands still while anything is ready, so that a slow machine is never late); a peer in another process; and faults that
the link does not have: bytes that are changed, or come twice.

``PORTICO_LONG=1`` runs ten thousand schedules of faults with a million messages (`make long`), else a sample of them. A
schedule that fails is named by its seed, and is the same each time.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import random
import socket
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.support import descriptors

import portico
from portico.testing import Link, VirtualLoop

LONG = os.environ.get("PORTICO_LONG") == "1"
BLOCKS = 10
SCHEDULES = 10_000 if LONG else 1_000
MESSAGES = 100  # in a schedule

WINDOW = 10  # so many attempts in a row take WINDOW_S at least: less has a chance of one in 10⁹ with full jitter
WINDOW_S = 5.0

ANSWERS = [
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 5\r\n\r\nlater",
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 100\r\n\r\ncut short",
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Pro",
    b"",
]


class Loop(VirtualLoop):
    """Sees every attempt to connect: its time and its socket."""

    def __init__(self) -> None:
        super().__init__()
        self.dialled: list[float] = []
        self.together = 0  # attempts while an earlier one's socket was still open
        self._last: socket.socket | None = None

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        self.dialled.append(self.time())
        self.together += self._last is not None and self._last.fileno() >= 0
        self._last = sock
        await super().sock_connect(sock, address)


class Network:
    """What a client at `path` meets: a server behind faults, each chosen from `rng`; ``met`` counts them."""

    def __init__(self, server: portico.Server, path: pathlib.Path, rng: random.Random) -> None:
        self.met: Counter[str] = Counter()
        self._server = server
        self._path = path
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._links: list[Link] = []
        self._held: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._listen()

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._unlisten()
        for each in (*self._links, *self._held):
            each.close()

    # -- the place -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _outage(self) -> None:
        """Nobody listens for a while; sometimes there is no such place (ENOENT), else it refuses (ECONNREFUSED)."""
        self._unlisten()
        if self._rng.random() < 0.5:
            self._path.unlink()
        self._after(60, self._listen)

    def _after(self, most_s: float, act: Callable[[], None]) -> None:
        self._timers.append(self._loop.call_later(self._rng.uniform(0, most_s), act))

    # -- a connection --------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        sock, _ = self._listener.accept()
        rng = self._rng
        if rng.random() < 0.1:
            self._outage()
        if rng.random() < 0.2:
            self._no_handshake(sock)
            return
        near, far = socket.socketpair()
        link = Link(between=(sock, near))
        self._links.append(link)
        self._server.adopt(far)
        if rng.random() < 0.3:
            link.tear(rng.randrange(1 << 30))
        if rng.random() < 0.3:
            link.delay(rng.uniform(0, 0.2))
        self._fault(link)

    def _no_handshake(self, sock: socket.socket) -> None:
        if self._rng.random() < 0.2:
            self.met["silence"] += 1
            self._held.append(sock)
            return
        self.met["answer"] += 1
        sock.send(self._rng.choice(ANSWERS))
        sock.close()

    def _fault(self, link: Link) -> None:
        faults: dict[str, Callable[[], None]] = {
            "none": lambda: None,
            "cut": link.cut,
            "drop": link.drop,
            "pause": link.pause,
            "client gone": lambda: link.half_open("client"),
            "server gone": lambda: link.half_open("server"),
            "cut to the client": link.to_client.cut,
            "cut to the server": link.to_server.cut,
            "drop to the client": link.to_client.drop,
            "drop to the server": link.to_server.drop,
        }
        name = self._rng.choice(list(faults))
        self.met[name] += 1
        if self._rng.random() < 0.5:
            self._after(self._rng.choice([0.5, 5, 20]), faults[name])
        else:
            self._soon(self._rng.randrange(150), faults[name])

    def _soon(self, turns: int, act: Callable[[], None]) -> None:
        """After so many turns of the loop: in the middle of whatever goes on without time passing."""
        if turns:
            self._loop.call_soon(self._soon, turns - 1, act)
        else:
            act()


async def simulate(loop: Loop, seed: int, directory: pathlib.Path) -> Counter[str]:
    """One schedule: MESSAGES numbered messages, each asked for from where the last connection ended."""
    rng = random.Random(seed)

    async def feed(ws: portico.WebSocket) -> None:
        for number in range(int(await ws.recv()), MESSAGES):
            await ws.send(f"{number} " + "x" * rng.randrange(200))
            if rng.random() < 0.1:
                await asyncio.sleep(rng.expovariate(1.0))
            if rng.random() < 0.005:
                await ws.close(rng.choice([1000, 1001, 1011, 1012, 1013, 4000]))
        await ws.recv()

    async with portico.serve(feed, uds=directory / "server") as server:
        network = Network(server, directory / "network", rng)
        needed = 0
        try:
            async for ws in portico.connect("ws://simulated.test/", uds=directory / "network"):
                try:
                    await ws.send(str(needed))
                    while needed < MESSAGES:
                        number, _, rest = str(await ws.recv()).partition(" ")
                        assert int(number) == needed
                        assert rest.strip("x") == ""
                        needed += 1
                except portico.ConnectionClosed:
                    continue
                break
        finally:
            network.close()
        assert needed == MESSAGES
        network.met["attempts"] = len(loop.dialled)
    return network.met


def attempts_spread(times: list[float]) -> bool:
    return all(later - early >= WINDOW_S for early, later in zip(times, times[WINDOW - 1 :], strict=False))


def schedule(seed: int, directory: pathlib.Path) -> Counter[str]:
    loops: list[Loop] = []

    def make() -> Loop:
        loops.append(Loop())
        return loops[-1]

    state = random.getstate()
    random.seed(seed)  # the backoff's
    try:
        with asyncio.Runner(loop_factory=make) as runner:
            runner.get_loop()
            [loop] = loops
            met = runner.run(simulate(loop, seed, directory))
    finally:
        random.setstate(state)
    assert loop.together == 0, "an attempt while the last connection's socket was still open"
    assert attempts_spread(loop.dialled), "attempts with hardly any time between them"
    return met


@pytest.mark.parametrize("block", range(BLOCKS))
def test_it_comes_back_through_whatever_passes(block: int) -> None:
    met: Counter[str] = Counter()
    before = descriptors()
    each = SCHEDULES // BLOCKS
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(block * each, (block + 1) * each):
            try:
                met += schedule(seed, pathlib.Path(directory))
            except Exception as error:
                raise AssertionError(f"schedule {seed}: {error!r}") from error
    assert descriptors().keys() == before.keys()
    assert min(met.values()) > 0
    print(f"{each} schedules, {each * MESSAGES} messages: {dict(met)}")


def test_the_measure_of_spinning_finds_it() -> None:
    assert attempts_spread([0, 1, 3, 7, 15, 31, 60, 90, 120, 150, 180])
    assert not attempts_spread([0, 100, *(100 + number * 0.1 for number in range(WINDOW))])
