"""What was measured, as text: the machine and versions, tables of medians with their spread, ratios and targets."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import ssl
import statistics
import subprocess
import sys
from typing import Any

from cases import CASES, TARGETS, Case, Target
from measure import HERE, Row

Results = dict[str, dict[str, list[Row]]]
PACKAGES = (
    "portico websockets picows aiofastnet aiohttp uvicorn uvloop httptools msgspec multidict yarl frozenlist Cython "
    "python-socketio python-engineio"
)
KERNEL = "(the kernel alone)"
ASK_PORTICO = "import portico; print('compiled' if portico.compiled else 'interpreted')"


# ---- where it was measured ----


def output(*command: str, cwd: pathlib.Path | None = None) -> str:
    """A command's first line of output (or of its complaint), or nothing when it can't run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=cwd)
    except OSError:
        return ""
    return ((done.stdout if not done.returncode else "").strip().splitlines() or [""])[0]


def from_proc(file: str, field: str) -> str:
    lines = pathlib.Path("/proc", file).read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "unknown")


def wrk_version() -> str:
    if not shutil.which("wrk"):
        return "not installed"
    done = subprocess.run(["wrk", "-v"], capture_output=True, text=True)  # it prints its version and fails
    return (done.stdout + done.stderr).splitlines()[0].split(" Copyright")[0]


def machine() -> dict[str, str]:
    return {
        "CPU": from_proc("cpuinfo", "model name"),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "memory": f"{int(from_proc('meminfo', 'MemTotal').split()[0]) / 2**20:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load average at start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def versions() -> dict[str, str]:
    found = {"Python": f"{platform.python_version()} ({platform.python_implementation()})"}
    for name in PACKAGES.split():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "from source" if name == "portico" else "not installed"
    build = output(sys.executable, "-c", ASK_PORTICO) or "not importable"
    commit = output("git", "rev-parse", "--short", "HEAD", cwd=HERE)
    changed = output("git", "status", "--porcelain", "--untracked-files=no", cwd=HERE)
    found["portico"] += f", {build}" + (f", commit {commit}" if commit else "") + (" and changes" if changed else "")
    found["OpenSSL (Python's)"] = ssl.OPENSSL_VERSION
    found["C compiler"] = output("cc", "--version")
    found["wrk"] = wrk_version()
    found["Node.js"] = output("node", "--version") or "not installed"
    package = HERE.parent / "tests" / "interop" / "node" / "node_modules" / "socket.io" / "package.json"
    found["socket.io (npm)"] = json.loads(package.read_text())["version"] if package.exists() else "not installed"
    return found


# ---- figures ----


def values(rows: list[Row], key: str) -> list[float]:
    return [row[key] for row in rows if key in row]


def median(rows: list[Row], key: str, form: str) -> str:
    found = values(rows, key)
    return form.format(statistics.median(found)) if found else "-"


def spread(rows: list[Row], key: str, form: str) -> str:
    """The median, and between which figures the rounds lay."""
    found = values(rows, key)
    text = median(rows, key, form)
    return text if len(found) < 2 else f"{text} ({form.format(min(found))} to {form.format(max(found))})"


def columns(case: Case) -> list[tuple[str, str, str]]:
    """(heading, key, format) of a case's table; the figure to compare comes first."""
    others = ("others' CPU", "others_cpu", "{:.2f}")
    if case.figure == "bytes_per_conn":
        return [("bytes per connection", "bytes_per_conn", "{:,.0f}"), ("opens/s", "rate", "{:,.0f}"), others]
    plural = "deliveries" if case.unit == "delivery" else f"{case.unit}s"
    first = [(f"server CPU µs per {case.unit}", "cpu_us", "{:.2f}"), (f"{plural}/s", "rate", "{:,.0f}")]
    if case.mode in ("wrk", "churn"):
        return [*first, others]
    more = [("p50 µs", "p50_us", "{:,.0f}"), ("p99 µs", "p99_us", "{:,.0f}"), ("loader's CPU", "loader_cpu", "{:.2f}")]
    return [*first, *more, others]


def case_table(case: Case, by_server: dict[str, list[Row]]) -> list[list[str]]:
    heads = columns(case)
    table = [["server", *(head for head, _, _ in heads), "rounds"]]
    for name, rows in by_server.items():
        errors = [row["error"] for row in rows if "error" in row]
        good = len(rows) - len(errors)
        cells = [spread(rows, *heads[0][1:]), *(median(rows, key, form) for _, key, form in heads[1:])]
        table.append([name, *cells, str(good) + (f"; error: {errors[0]}" if errors else "")])
    return table


def verdict(target: Target, results: Results) -> list[str] | None:
    """A row for one target, or None when its case wasn't run."""
    by_server = results.get(target.case)
    if by_server is None or target.subject not in by_server:
        return None
    key = CASES[target.case].figure
    mine = by_server[target.subject]
    theirs = by_server.get(target.peer, []) if target.peer else []
    what = [target.case, target.subject, target.peer or "(absolute)"]
    form = "{:.2f}" if target.peer else "{:,.0f}"
    limit = "≤ " + form.format(target.limit)
    if not values(mine, key) or (target.peer and not values(theirs, key)):
        return [*what, "not measured", "", limit, "-"]
    figure = statistics.median(values(mine, key))
    each = values(mine, key)
    if target.peer:
        figure /= statistics.median(values(theirs, key))
        each = [a[key] / b[key] for a, b in zip(mine, theirs, strict=False) if key in a and key in b]
    rounds = f"{form.format(min(each))} to {form.format(max(each))}" if each else ""
    return [*what, form.format(figure), rounds, limit, "met" if figure <= target.limit else "MISSED"]


def target_table(results: Results) -> list[list[str]]:
    head = ["case", "server", "against", "figure", "by round", "target", ""]
    rows = [row for target in TARGETS if (row := verdict(target, results))]
    return [head, *rows] if rows else []


def kernel_table(results: Results, kernel: dict[str, list[Row]]) -> list[list[str]]:
    """What floor measured for each case, and each server's figure as a multiple of that."""
    table = [["case", "server", "CPU µs", "times the kernel's"]]
    for case, rows in kernel.items():
        if not values(rows, "cpu_us"):
            continue
        least = statistics.median(values(rows, "cpu_us"))
        for name, mine in ((KERNEL, rows), *results[case].items()):
            if found := values(mine, "cpu_us"):
                multiple = statistics.median(found) / least
                table.append([case, name, spread(mine, "cpu_us", "{:.2f}"), f"{multiple:.1f}"])
    return table if len(table) > 1 else []


# ---- as text ----


def plain(table: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table)


def markdown(table: list[list[str]]) -> str:
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    rule = "|" + "|".join(" --- " for _ in table[0]) + "|"
    return "\n".join([rows[0], rule, *rows[1:]])


def document(record: dict[str, Any]) -> str:
    """The dated Markdown page of one run; ``record`` is what the JSON file beside it holds."""
    results: Results = record["results"]
    parts = [
        f"# Side by side, {record['date']}",
        f"Medians of {record['rounds']} interleaved rounds of {record['seconds']:g} s each; in brackets the lowest and "
        "the highest. [README.md](../README.md) says what each case measures and how to read the figures.",
        f"```\n{record['command']}\n```",
        "## Machine",
        markdown([["what", ""], *([key, value] for key, value in record["machine"].items())]),
        "## Versions",
        markdown([["package", "version"], *([key, value] for key, value in record["versions"].items())]),
        "## Targets",
        "Ratios of medians of the figure in each table's first column; `by round` is the lowest and the highest ratio "
        "of two figures measured in the same round.",
        markdown(target_table(results)) if target_table(results) else "No target's servers were measured.",
    ]
    if table := kernel_table(results, record["kernel"]):
        parts += [
            "## The kernel's part",
            "What the system calls alone take here, without protocol or Python: one send for each delivery; epoll, one "
            "receive and one send for each message. Below 1, a server has put several messages into one send.",
            markdown(table),
        ]
    parts.append("## Figures")
    for name, by_server in results.items():
        parts += [f"### {name}: {CASES[name].about}", markdown(case_table(CASES[name], by_server))]
    if record["skipped"]:
        parts += ["## Not measured", "\n".join(f"- {line}" for line in record["skipped"])]
    return "\n\n".join(parts) + "\n"


def today() -> str:
    return datetime.date.today().isoformat()
