"""A room with many healthy members and a few that have stopped reading, for each of the four policies of a `Room`.

The healthy ones get every message in order and hardly later than without the stalled ones, the stalled ones what the
policy says, and the server's memory stays within the budgets of the stalled ones. The members are one C program,
`reader.c`, that counts by the messages' own numbers.

``PORTICO_LONG=1`` runs it in full: 1,000 healthy and 10 stalled members, 1 KiB, 1,000 a second, 30 s, with all limits
as they are by default. ``-s`` shows the figures.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from tests.hostile.server import AT_ONCE
from tests.hostile.target import KIB, MIB, Spent, Target, settled, target

import portico

pytestmark = pytest.mark.alone

LONG = os.environ.get("PORTICO_LONG") == "1"
HEALTHY, STALLED = (1000, 10) if LONG else (200, 10)
COUNT, RATE = (30_000, 1000) if LONG else (400, 400)
SIZE = 1024
WITHIN_S = 300 if LONG else 20
# In the short run the buffers are small, the kernel's too, so that they fill within a second.
OPTIONS: dict[str, int] = (
    {} if LONG else {"send_buffer": 64 * KIB, "max_outbox_bytes": 64 * KIB, "high_water_bytes": 16 * KIB}
)
OUTBOX = OPTIONS.get("max_outbox_bytes", portico.Limits().max_outbox_bytes)
MARGIN = 16 * MIB if LONG else 4 * MIB
# How much later the healthy ones may be for the stalled ones' sake: in the long run by a ratio, in the short one, which
# is no measurement, so much that only who waits for them would fail.
RATIO, MARGIN_US = (2, 2000) if LONG else (3, 500_000)
CLOSE_TIMEOUT_S = 5.0 if LONG else 1.0

Report = dict[str, Any]


class Reader:
    """The members."""

    def __init__(self, program: Path, port: int, policy: str, stalled: int = STALLED) -> None:
        command = [program, str(port), f"/room/{policy}", str(HEALTHY), str(stalled)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        self._process.__enter__()
        assert self._line() == "ready\n"
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.__exit__(*error)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def report(self) -> Report:
        self.tell("report")
        told: Report = json.loads(self._line())
        return told

    def settled(self, condition: Callable[[Report], object]) -> Report:
        return settled(self.report, condition)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is needed: cc"
    made = tmp_path_factory.mktemp("reader") / "reader"
    subprocess.run([compiler, "-O2", "-o", made, Path(__file__).with_name("reader.c")], check=True)
    return made


class Scene:
    """A server, a room with one policy, and its members."""

    def __init__(self, server: Target, policy: str, reader: Reader, most_p99_us: float) -> None:
        self.server = server
        self.policy = policy
        self.reader = reader
        self.most_p99_us = most_p99_us
        self.spent = Spent()

    def room(self, condition: Callable[[Report], object] = lambda now: True, within_s: float = WITHIN_S) -> Report:
        """The room as the server sees it."""
        return self.server.settled(condition, f"/room?policy={self.policy}", within_s)

    def publish(self, count: int = COUNT) -> None:
        self.server.ask(f"/publish?policy={self.policy}&count={count}&rate={RATE}&size={SIZE}")

    def healthy(self) -> Report:
        """The last message is with the healthy members, and so are all before it."""
        last = self.room()["published"] - 1
        report = self.reader.settled(lambda now: now["healthy"]["last"] >= last or now["healthy"]["closed"])
        told: Report = report["healthy"]
        assert (told["fewest"], told["most"], told["gaps"]) == (last + 1, last + 1, 0), told
        assert (told["closed"], told["broken"]) == (0, 0), told
        return told

    def play(self) -> Report:
        """Publish all; the stalled ones have not read meanwhile."""
        with self.server.spending() as self.spent:
            self.publish()
            room = self.room(lambda now: now["done"])
            self.told(room)
        return room

    def stalled(self) -> Report:
        """As `play`, where the stalled ones stay: the memory that they take is bounded."""
        room = self.play()
        self.bounded()
        assert room["sending"] == HEALTHY + STALLED
        return room

    def told(self, room: Report) -> None:
        """What holds with every policy."""
        told = self.healthy()
        print(f"\n{self.policy}: {HEALTHY * room['published'] / room['seconds']:,.0f} deliveries/s", room, told)
        assert room["most_buffered"] <= OUTBOX + 2 * SIZE
        assert told["p99_us"] <= self.most_p99_us

    def newest_when_they_read_again(self, room: Report) -> None:
        """The stalled ones see what was there before they stalled, and the newest; and then all there is."""
        self.reader.tell("read")
        report = self.reader.settled(lambda now: all(one["last"] == COUNT - 1 for one in now["stalled"]))
        for one in report["stalled"]:
            assert (one["first"], one["gaps"], one["broken"], one["code"], one["ended"]) == (0, 1, 0, 0, 0), one
        assert sum(COUNT - one["count"] for one in report["stalled"]) == room["dropped"]
        self.publish(10)
        report = self.reader.settled(lambda now: all(one["last"] == COUNT + 9 for one in now["stalled"]))
        assert all((one["gaps"], one["broken"]) == (1, 0) for one in report["stalled"]), report
        self.healthy()

    def bounded(self) -> None:
        print(self.spent)
        assert self.spent.peak <= STALLED * OUTBOX + MARGIN, self.spent


@contextlib.contextmanager
def played(program: Path, policy: str, stalled: int, most_p99_us: float) -> Iterator[Scene]:
    with (
        target(**OPTIONS, close_timeout_s=CLOSE_TIMEOUT_S) as server,
        Reader(program, server.port, policy, stalled) as reader,
    ):
        scene = Scene(server, policy, reader, most_p99_us)
        scene.room(lambda now: now["members"] == HEALTHY + stalled)
        yield scene


@pytest.fixture(scope="module")
def alone_us(program: Path) -> float:
    """The 99th percentile of the healthy ones' latencies, with nobody else in the room."""
    with played(program, "drop_oldest", 0, math.inf) as scene:
        scene.play()
        return float(scene.healthy()["p99_us"])


@pytest.fixture
def scene(program: Path, alone_us: float, request: pytest.FixtureRequest) -> Iterator[Scene]:
    with played(program, request.param, STALLED, RATIO * alone_us + MARGIN_US) as scene:
        yield scene


@pytest.mark.parametrize("scene", ["close"], indirect=True)
def test_close(scene: Scene) -> None:
    """They are closed with 1008; those that read after all see it, and those that don't are gone in a bounded time."""
    with scene.server.spending() as scene.spent:
        scene.publish()
        scene.room(lambda now: now["sending"] == HEALTHY)
        scene.reader.tell("read half")
        room = scene.room(lambda now: now["done"])
        scene.told(room)
        room = scene.room(lambda now: now["members"] == HEALTHY, within_s=CLOSE_TIMEOUT_S + 5)
    scene.bounded()
    half = STALLED // 2
    report = scene.reader.settled(lambda now: all(one["ended"] for one in now["stalled"][:half]))
    for one in report["stalled"][:half]:
        assert (one["code"], one["ended"], one["broken"]) == (1008, 1, 0), one
        assert (one["first"], one["gaps"], one["last"]) == (0, 0, one["count"] - 1), one  # whole, until it was closed
    assert not any(one["count"] or one["ended"] for one in report["stalled"][half:])  # they never read
    assert room["dropped"] == STALLED
    scene.publish(10)
    scene.room(lambda now: now["done"])
    scene.healthy()


@pytest.mark.parametrize("scene", ["drop_oldest"], indirect=True)
def test_drop_oldest(scene: Scene) -> None:
    """They stay, and see the newest messages when they read again: as many as the outbox holds, each whole."""
    room = scene.stalled()
    assert room["dropped"]
    scene.newest_when_they_read_again(room)


@pytest.mark.parametrize("scene", ["drop_newest"], indirect=True)
def test_drop_newest(scene: Scene) -> None:
    """They stay, and see the oldest messages when they read again, without a gap; then what is sent from then on."""
    room = scene.stalled()
    scene.reader.tell("read")
    scene.room(lambda now: now["buffered"] == 0)
    count = [one["count"] for one in scene.reader.settled(_quiet())["stalled"]]
    assert sum(COUNT - got for got in count) == room["dropped"] > 0
    scene.publish(10)
    report = scene.reader.settled(lambda now: all(one["last"] == COUNT + 9 for one in now["stalled"]))
    for one, got in zip(report["stalled"], count, strict=True):
        assert (one["first"], one["gaps"], one["broken"], one["code"], one["ended"]) == (0, 1, 0, 0, 0), one
        assert one["count"] == got + 10, one
    scene.healthy()


@pytest.mark.parametrize("scene", ["latest"], indirect=True)
def test_latest(scene: Scene) -> None:
    """They stay, hardly anything waits for them, and the last message that they see is the newest."""
    room = scene.stalled()
    # The one that is begun and the newest; and what was sent in the turn in which the socket was found to be full.
    assert room["buffered"] <= STALLED * (AT_ONCE + 2) * (SIZE + 4)
    assert room["dropped"]
    scene.newest_when_they_read_again(room)


def _quiet() -> Callable[[Report], object]:
    """Fulfilled when nothing has come to the stalled ones since it was looked at before, and something has at all."""
    before: list[Any] = []

    def condition(now: Report) -> bool:
        before.append([one["count"] for one in now["stalled"]])
        return all(before[-1]) and before[-1] == before[-2:][0] and len(before) > 1

    return condition
