"""``python -m fuzz``: every target under atheris, one after another, for so many seconds in all.

What is found is kept in ``build/fuzz/found``, and said with the command that repeats it. A finding, once understood,
goes into ``fuzz/corpus/<target>/``; the tests run everything there. What leads further stays in ``build/fuzz``, so that
the next run goes on from there.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys

from fuzz.seeds import SEEDS, regressions
from fuzz.targets import TARGETS

BUILD = pathlib.Path(__file__).parents[1] / "build" / "fuzz"


def run(target: str, options: list[str], build: pathlib.Path = BUILD) -> subprocess.CompletedProcess[str]:
    """Run `target` with these options of libFuzzer, from its seeds and from what earlier runs found."""
    corpus, found = build / target, build / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    for number, seed in enumerate([*SEEDS[target], *(path.read_bytes() for path in regressions(target))]):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    command = [sys.executable, "-m", "fuzz.one", target, str(corpus), f"-artifact_prefix={found}/{target}-", *options]
    return subprocess.run(command, cwd=BUILD.parents[1], capture_output=True, text=True, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=int, default=600, help="for all targets together (600)")
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="target", help=", ".join(TARGETS))
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (0: another one each time)")
    chosen = parser.parse_args()
    # Only interpreted code shows the fuzzer where it has been.
    os.environ["PORTICO_PURE"] = "1"
    failed = 0
    for target in chosen.targets:
        each = max(1, chosen.seconds // len(chosen.targets))
        ended = run(target, [f"-max_total_time={each}", f"-seed={chosen.seed}", "-max_len=3000", "-timeout=10"])
        report = [line for line in ended.stderr.splitlines() if line]
        print(f"{target}: {'nothing found' if ended.returncode == 0 else 'FOUND'}; {report[-1] if report else ''}")
        if ended.returncode != 0:
            failed += 1
            print(ended.stdout, "\n".join(line for line in report if not line.startswith("#"))[-3000:])
            print(f"repeat: PORTICO_PURE=1 {sys.executable} -m fuzz.one {target} {BUILD}/found/{target}-…")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
