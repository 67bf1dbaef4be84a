"""Autobahn|Testsuite against a Portico echo server: every case, compared with what is recorded in expected.json.

    run.py [--endpoint] [--record] [--jobs N] [case …]          e.g.  run.py '1.*' '12.1.*'

Prints the cases that are wrong, then one line of counts. The exit status is 1 when a case is not strictly right or
differs from the record. The tester needs Python 2.7, which is looked for in $PORTICO_PY27, on the PATH and in pyenv.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "autobahn"
EXPECTED = HERE / "expected.json"
STRICT = {"OK", "INFORMATIONAL"}
# Groups that one tester process runs: enough of them to keep each processor busy, the long ones first.
GROUPS = [
    *([f"12.{n}.*"] for n in (5, 4, 3, 2, 1)),
    *([f"13.{n}.*"] for n in (7, 6, 5, 4, 3, 2, 1)),
    *([f"9.{n}.*"] for n in (3, 4, 1, 2)),
    ["9.5.*", "9.6.*", "9.7.*", "9.8.*"],
    [*(f"{n}.*" for n in range(1, 9)), "10.*"],
]
LONGEST_RUN_S = 1800

Results = dict[str, list[str]]  # case -> [behaviour, behaviour at close]


def runs(python: str | os.PathLike[str], code: str) -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    return False


def tester() -> str | None:
    """A Python 2.7 that has Autobahn|Testsuite, made once under build/; None where there is no Python 2.7."""
    ready = BUILD / "py27" / "bin" / "python"
    if (BUILD / "installed").exists():
        return str(ready)
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    found = [
        os.environ.get("PORTICO_PY27"),
        shutil.which("python2.7"),
        *sorted(map(str, pyenv.glob("versions/2.7*/bin/python2.7"))),
    ]
    for python in filter(None, found):
        if runs(python, "import autobahntestsuite, sys; sys.exit(sys.version_info[:2] != (2, 7))"):
            return python
        if runs(python, "import sys; sys.exit(sys.version_info[:2] != (2, 7))"):
            subprocess.run([HERE / "install.sh", python, sys.executable, BUILD], check=True)
            return str(ready)
    return None


@contextlib.contextmanager
def server(arguments: list[str]) -> Iterator[int]:
    """Runs the server under test as a child process, and yields its port once it listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, *arguments, "--port", str(port)])
    try:
        until = time.monotonic() + 15
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"autobahn: the server under test did not start (exit status {process.poll()})")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def run_group(python: str, port: int, cases: list[str], folder: pathlib.Path) -> Results:
    folder.mkdir(parents=True)
    spec = {
        "outdir": str(folder),
        "servers": [{"agent": "portico", "url": f"ws://127.0.0.1:{port}/"}],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    with (folder / "wstest.log").open("wb") as log:
        command = [python, str(HERE / "wstest_fast.py"), "-m", "fuzzingclient", "-s", "spec.json"]
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, timeout=LONGEST_RUN_S)
    index = folder / "index.json"
    if not index.exists():
        sys.exit(f"autobahn: the tester gave no report for {cases}; its log is {folder / 'wstest.log'}")
    reports = json.loads(index.read_text())["portico"]
    return {case: [report["behavior"], report["behaviorClose"]] for case, report in reports.items()}


def number(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def run_all(python: str, port: int, groups: list[list[str]], jobs: int) -> Results:
    reports = BUILD / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        parts = [
            pool.submit(run_group, python, port, cases, reports / str(group)) for group, cases in enumerate(groups)
        ]
        results = {case: result for part in parts for case, result in part.result().items()}
    return results


def compare(results: Results, expected: Results) -> list[str]:
    """What is wrong, a line a case: not strictly right, or other than recorded."""
    wrong = []
    for case in sorted(results.keys() | expected.keys(), key=number):
        got, recorded = results.get(case), expected.get(case)
        if got is None or not STRICT.issuperset(got) or got != recorded:
            wrong.append(f"{case}: {show(got)} (recorded: {show(recorded)})")
    return wrong


def show(result: list[str] | None) -> str:
    return f"{result[0]}, close {result[1]}" if result else "nothing"


def count(results: Results, part: int) -> str:
    return ", ".join(
        f"{name} {number}" for name, number in collections.Counter(r[part] for r in results.values()).items()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", help="patterns as 1.* or 12.1.*; without any: all cases")
    parser.add_argument("--endpoint", action="store_true", help="test callbacks (portico.Endpoint), not a coroutine")
    parser.add_argument("--record", action="store_true", help="write the outcome to expected.json")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="tester processes at a time")
    parser.add_argument("--server", default=str(HERE / "echo_server.py"), help="another server's Python file")
    args = parser.parse_args()

    python = tester()
    if python is None:
        print("autobahn: skipped, no case was run: the tester needs Python 2.7; set PORTICO_PY27=/path/to/python2.7")
        return 0
    groups = [[case] for case in args.cases] or GROUPS
    start = time.monotonic()
    with server([args.server, *(["--endpoint"] if args.endpoint else [])]) as port:
        results = run_all(python, port, groups, args.jobs)

    recorded: Results = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    if args.record:
        recorded = {case: (recorded | results)[case] for case in sorted(recorded | results, key=number)}
        lines = (f"  {json.dumps(case)}: {json.dumps(result)}" for case, result in recorded.items())
        EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    expected = {case: result for case, result in recorded.items() if not args.cases or case in results}
    wrong = compare(results, expected)
    for line in wrong:
        print(line)
    verdict = f"{len(wrong)} wrong" if wrong else "all as recorded"
    took = time.monotonic() - start
    print(f"autobahn: {len(results)} cases: {count(results, 0)}; close: {count(results, 1)}; {verdict}; {took:.0f} s")
    return 1 if wrong or not results else 0


if __name__ == "__main__":
    sys.exit(main())
