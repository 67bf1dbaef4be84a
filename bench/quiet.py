"""How busy everybody else kept the machine. A server that must queue for a core finds more messages waiting when it
runs, so its CPU per message comes out too low: a figure from a busy machine is not a figure. Reads /proc only."""

from __future__ import annotations

import os
import pathlib
import time

TICK = os.sysconf("SC_CLK_TCK")
LIMIT = 0.15  # cores that others may use while a figure is taken
LOOK_S = 0.3


def busy_seconds() -> float:
    """CPU seconds used by everything on this machine since it started, stolen ones included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (
        int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICK


def wait_until_quiet(patience_s: float) -> None:
    """Return when others use less than LIMIT cores, or after ``patience_s``."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        before, started = busy_seconds(), time.monotonic()
        time.sleep(LOOK_S)
        if (busy_seconds() - before) / (time.monotonic() - started) < LIMIT:
            return


class Bystanders:
    """The cores that others used since this object was made, given the CPU seconds that were ours."""

    def __init__(self) -> None:
        self.busy, self.started = busy_seconds(), time.monotonic()

    def cores(self, ours_s: float) -> float:
        others = busy_seconds() - self.busy - ours_s
        return max(0.0, others / (time.monotonic() - self.started))
