"""The fuzzing targets in short: everything that was once found, and a bounded run of each from fixed seeds.

``make fuzz`` runs them for as long as one likes.
"""

from __future__ import annotations

import pathlib
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from fuzz.__main__ import run
from fuzz.seeds import SEEDS, regressions
from fuzz.targets import TARGETS

RUNS = 1000


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_found_once_and_what_a_run_begins_with(target: str) -> None:
    for path in regressions(target):
        TARGETS[target](path.read_bytes())
    for seed in SEEDS[target]:
        TARGETS[target](seed)


def test_a_short_run_of_each_finds_nothing(tmp_path: pathlib.Path) -> None:
    def short(target: str) -> str:
        ended = run(target, [f"-runs={RUNS}", "-seed=1", "-max_len=1000", "-timeout=10"], tmp_path)
        done = re.search(r"^Done (\d+) runs", ended.stderr, re.MULTILINE)
        if ended.returncode == 0 and done is not None and int(done[1]) >= RUNS:
            return ""
        return f"{target}: {ended.stdout}{ended.stderr[-3000:]}"

    with ThreadPoolExecutor(2) as threads:
        assert [failed for failed in threads.map(short, TARGETS) if failed] == []
