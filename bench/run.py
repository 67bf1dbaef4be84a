"""Side-by-side figures of WebSocket servers: interleaved rounds (A B C, A B C, ...), medians, a dated document.

The figure to compare is the server's CPU per message: on a shared machine it moves far less than throughput does.
A run of every case and server is written to ``results/YYYY-MM-DD.md`` with its raw figures in JSON beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import resource
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from cases import CASES, DEFAULT_CASES, SERVERS, Case, Server
from measure import HERE, Row, Unmeasurable, certificate, floor, loader, measure
from quiet import LIMIT, wait_until_quiet
from report import KERNEL, Results, case_table, document, kernel_table, machine, plain, target_table, today, versions

T = TypeVar("T", Case, Server)
NODE = HERE.parent / "tests" / "interop" / "node"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"cases, from {','.join(CASES)} (default: all but fan1)")
    parser.add_argument("--servers", help=f"servers, from {','.join(SERVERS)} (default: all)")
    parser.add_argument("--rounds", type=int, help="rounds of each case (default: 5)")
    parser.add_argument("--seconds", type=float, help="seconds of load a round, after the warm-up (default: 3)")
    parser.add_argument("--patience", type=float, help="seconds to wait for a quiet machine (default: 20)")
    parser.add_argument("--quick", action="store_true", help="one round of one second each: does it all work?")
    parser.add_argument("--json", metavar="OUT", type=pathlib.Path, help="write the raw figures to this file as well")
    parser.add_argument("--document", metavar="OUT.md", type=pathlib.Path, help="write the document here")
    args = parser.parse_args()
    args.cases = choose(parser, "--only", args.only, CASES, DEFAULT_CASES)
    args.chosen = choose(parser, "--servers", args.servers, SERVERS, tuple(SERVERS))
    args.rounds = args.rounds or (1 if args.quick else 5)
    args.seconds = args.seconds or (1.0 if args.quick else 3.0)
    args.retries = 0 if args.quick else 2
    args.patience = args.patience if args.patience is not None else (2.0 if args.quick else 20.0)
    if not (args.document or args.only or args.servers or args.quick):
        args.document = HERE / "results" / f"{today()}.md"
    return args


def choose(
    parser: argparse.ArgumentParser, option: str, text: str | None, known: dict[str, T], default: tuple[str, ...]
) -> list[T]:
    names = text.split(",") if text else default
    for name in names:
        if name not in known:
            parser.error(f"{option}: {name!r} is not one of {', '.join(known)}")
    return [known[name] for name in names]


def missing(server: Server) -> str | None:
    """Why ``server`` can't run here, or None."""
    needs = server.needs or ("portico",)
    if server.file.endswith(".mjs"):
        there = shutil.which("node") and all((NODE / "node_modules" / name).is_dir() for name in needs)
        return None if there else f"{server.name}: no Node.js, or not npm's {', '.join(needs)}; make bench installs it"
    absent = [name for name in needs if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    if absent == ["portico"]:
        return f"{server.name}: portico can't be imported; pip install -e . (or set PYTHONPATH=src)"
    return f"{server.name}: {', '.join(absent)} not installed; pip install --group bench"


def unfit(case: Case, cert_folder: str) -> str | None:
    """Why ``case`` can't be measured here, or None; compiles the loader that it needs."""
    if case.mode == "wrk":
        return None if shutil.which("wrk") else "wrk is not installed (Debian: apt-get install wrk)"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < case.conns + 100:
        return f"needs {case.conns + 100} open files, the hard limit is {hard} (ulimit -Hn)"
    try:
        loader(case)
        if case.tls:
            certificate(cert_folder)
    except Unmeasurable as reason:
        return str(reason)
    return None


def measure_quietly(measured: Callable[[], Row], args: argparse.Namespace) -> Row:
    """Wait for a quiet machine, and measure again (twice at most) what others disturbed; the quietest row counts."""
    rows: list[Row] = []
    while len(rows) <= args.retries:
        wait_until_quiet(args.patience)
        rows.append(measured())
        if "cpu_us" not in rows[-1] or rows[-1]["others_cpu"] < LIMIT:
            break
    return min(rows, key=lambda row: row.get("others_cpu", float("inf")))


def rounds(case: Case, servers: list[Server], args: argparse.Namespace, tls: tuple[str, str]) -> dict[str, list[Row]]:
    """Rows by server, and those of the kernel alone where the case has a floor."""
    measures = {server.name: partial(measure, server, case, args.seconds, tls) for server in servers}
    if case.floor:
        measures[KERNEL] = partial(floor, case, args.seconds)
    rows: dict[str, list[Row]] = {name: [] for name in measures}
    for number in range(args.rounds):
        for name, measured in measures.items():
            row = measure_quietly(measured, args)
            rows[name].append(row)
            said = row.get("error") or f"{row[case.figure]:,.2f} {case.figure}"
            print(f"  {case.name} {number + 1}/{args.rounds} {name}: {said}", file=sys.stderr, flush=True)
    return rows


def run(args: argparse.Namespace) -> tuple[Results, dict[str, list[Row]], list[str]]:
    """All figures, those of the kernel alone by case, and what wasn't measured with the reason."""
    servers = [server for server in args.chosen if missing(server) is None]
    skipped = [missing(server) or "" for server in args.chosen if server not in servers]
    results: Results = {}
    kernel: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as folder:
        tls = (os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem"))
        for case in args.cases:
            if reason := unfit(case, folder):
                skipped.append(f"{case.name}: {reason}")
                continue
            fit = [server for server in servers if case.fits(server)]
            if not fit:
                continue
            rows = rounds(case, fit, args, tls)
            if case.floor:
                kernel[case.name] = rows.pop(KERNEL)
            results[case.name] = rows
            print(f"\n== {case.name}: {case.about}\n{plain(case_table(case, rows))}\n", flush=True)
    return results, kernel, skipped


def write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"written: {path}")


def main() -> None:
    args = arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the servers inherit it
    record = {
        "date": today(),
        "command": shlex.join(["python", "bench/run.py", *sys.argv[1:]]),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "machine": machine(),
        "versions": versions(),
    }
    results, kernel, skipped = run(args)
    record |= {"results": results, "kernel": kernel, "skipped": skipped}
    for title, table in (("targets", target_table(results)), ("the kernel's part", kernel_table(results, kernel))):
        if table:
            print(f"== {title}\n{plain(table)}\n")
    for line in skipped:
        print(f"not measured: {line}")
    raw = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    if args.document:
        write(args.document, document(record))
        write(args.document.with_suffix(".json"), raw)
    if args.json:
        write(args.json, raw)


if __name__ == "__main__":
    main()
