"""Autobahn|Testsuite against Portico's server and client: every case, compared with what is recorded.

    run.py [--role server|client] [--endpoint] [--record] [--jobs N] [case …]          e.g.  run.py '1.*' '12.1.*'

Prints the cases that are wrong, then one line of counts for each role. The exit status is 1 when a case is not strictly
right or differs from the record, which is expected.json for the server and expected-client.json for the client. The
tester needs Python 2.7, which is looked for in $PORTICO_PY27, on the PATH and in pyenv.
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
EXPECTED = {"server": HERE / "expected.json", "client": HERE / "expected-client.json"}
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

AGENT = "portico"
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
        wait_for(port, process)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until `process` listens on `port`."""
    until = time.monotonic() + 30
    while True:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        if process.poll() is not None or time.monotonic() > until:
            sys.exit(f"autobahn: {process.args!r} did not start (exit status {process.poll()})")
        time.sleep(0.05)


def results_of_server(python: str, port: int, cases: list[str], folder: pathlib.Path) -> Results:
    """Let the tester, as a client, put `cases` to the server on `port`."""
    with tester_running(
        python, "fuzzingclient", cases, folder, servers=[{"agent": AGENT, "url": url(port)}]
    ) as process:
        process.wait(LONGEST_RUN_S)
    return results_in(folder, cases)


def results_of_client(python: str, cases: list[str], folder: pathlib.Path) -> Results:
    """Let the client under test do `cases` with the tester as its server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    with tester_running(python, "fuzzingserver", cases, folder, url=url(port)) as process:
        wait_for(port, process)
        subprocess.run([sys.executable, HERE / "echo_client.py", url(port)], check=True, timeout=LONGEST_RUN_S)
    return results_in(folder, cases)


def url(port: int) -> str:
    return f"ws://127.0.0.1:{port}"


@contextlib.contextmanager
def tester_running(
    python: str, mode: str, cases: list[str], folder: pathlib.Path, **spec: object
) -> Iterator[subprocess.Popen[bytes]]:
    """The tester's process; it is ended in the end."""
    folder.mkdir(parents=True)
    spec |= {"outdir": str(folder), "cases": cases, "exclude-cases": [], "exclude-agent-cases": {}}
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [python, str(HERE / "wstest_fast.py"), "-m", mode, "-s", "spec.json", "--webport", "0"]
    with (folder / "wstest.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(10)


def results_in(folder: pathlib.Path, cases: list[str]) -> Results:
    index = folder / "index.json"
    if not index.exists():
        sys.exit(f"autobahn: the tester gave no report for {cases}; its log is {folder / 'wstest.log'}")
    reports = json.loads(index.read_text())[AGENT]
    return {case: [report["behavior"], report["behaviorClose"]] for case, report in reports.items()}


def number(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def run_all(python: str, role: str, port: int, groups: list[list[str]], jobs: int) -> Results:
    reports = BUILD / "reports" / role
    shutil.rmtree(reports, ignore_errors=True)

    def run_group(group: int) -> Results:
        folder = reports / str(group)
        if role == "server":
            return results_of_server(python, port, groups[group], folder)
        return results_of_client(python, groups[group], folder)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return {case: result for part in pool.map(run_group, range(len(groups))) for case, result in part.items()}


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


def run_role(role: str, python: str, args: argparse.Namespace) -> bool:
    """One role's cases; prints what is wrong and a line of counts, and returns whether all is right."""
    groups = [[case] for case in args.cases] or GROUPS
    start = time.monotonic()
    if role == "server":
        with server([args.server, *(["--endpoint"] if args.endpoint else [])]) as port:
            results = run_all(python, role, port, groups, args.jobs)
    else:
        results = run_all(python, role, 0, groups, args.jobs)

    record = EXPECTED[role]
    recorded: Results = json.loads(record.read_text()) if record.exists() else {}
    if args.record:
        recorded = {case: (recorded | results)[case] for case in sorted(recorded | results, key=number)}
        lines = (f"  {json.dumps(case)}: {json.dumps(result)}" for case, result in recorded.items())
        record.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    expected = {case: result for case, result in recorded.items() if not args.cases or case in results}
    wrong = compare(results, expected)
    for line in wrong:
        print(line)
    verdict = f"{len(wrong)} wrong" if wrong else "all as recorded"
    counts = f"{len(results)} cases: {count(results, 0)}; close: {count(results, 1)}"
    print(f"autobahn, {role}: {counts}; {verdict}; {time.monotonic() - start:.0f} s", flush=True)
    return bool(results) and not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", help="patterns as 1.* or 12.1.*; without any: all cases")
    parser.add_argument("--role", choices=("server", "client"), help="one role only")
    parser.add_argument("--endpoint", action="store_true", help="test callbacks (portico.Endpoint), not a coroutine")
    parser.add_argument("--record", action="store_true", help="write the outcome to the record")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="tester processes at a time")
    parser.add_argument("--server", default=str(HERE / "echo_server.py"), help="another server's Python file")
    args = parser.parse_args()

    python = tester()
    if python is None:
        print("autobahn: skipped, no case was run: the tester needs Python 2.7; set PORTICO_PY27=/path/to/python2.7")
        return 0
    roles = [args.role] if args.role else ["server", "client"]
    right = [run_role(role, python, args) for role in roles]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
