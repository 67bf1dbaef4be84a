"""One measurement: start a server, load it, read its CPU or memory, end it. Only what was started here is ended."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cases import MIB, Case, Server
from quiet import Bystanders

HERE = pathlib.Path(__file__).parent
BUILD = HERE / ".build"
START_TIMEOUT_S = 15.0
SETTLE_S = 0.4

Row = dict[str, Any]


class Unmeasurable(Exception):
    """This case can't be measured here; the message says what to install or to set."""


@dataclass(frozen=True, slots=True)
class Running:
    """A started server: its process, its port and what it printed on stderr."""

    process: subprocess.Popen[bytes]
    port: int
    log: Any

    @property
    def pids(self) -> list[int]:
        return tree(self.process.pid)

    def complaint(self) -> str:
        """The last line that the server printed: usually its error."""
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][-160:] if lines else ""


# ---- processes ----


def tree(pid: int) -> list[int]:
    """``pid`` and all its descendants."""
    pids, todo = [], [pid]
    while todo:
        parent = todo.pop()
        pids.append(parent)
        with contextlib.suppress(OSError):
            for children in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
                todo += map(int, children.read_text().split())
    return pids


def cpu_seconds(pids: list[int]) -> float:
    """User and system time that ``pids`` have used, from each process's CPU clock (nanoseconds, not ticks)."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) answers on Linux
    return total


def pss_bytes(pids: list[int]) -> int:
    """Proportional set size: private memory, and each shared page divided by its number of users."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_until_listening(running: Running) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            raise RuntimeError(f"the server ended at start: {running.complaint()}")
        try:
            socket.create_connection(("127.0.0.1", running.port), 0.2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nothing listens on {running.port} after {START_TIMEOUT_S:.0f} s: {running.complaint()}")


@contextlib.contextmanager
def serving(server: Server, tls: tuple[str, str] | None) -> Iterator[Running]:
    """Run ``server`` in a process group of its own, and end that group."""
    port = free_port()
    program = (shutil.which("node") or "node") if server.file.endswith(".mjs") else sys.executable
    command = [program, str(HERE / "servers" / server.file), str(port), *server.options]
    if tls:
        command += ["--tls", *tls]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)
        running = Running(process, port, log)
        try:
            wait_until_listening(running)
            time.sleep(SETTLE_S)
            yield running
        finally:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# ---- tools ----


def loader(case: Case) -> str:
    """The path of the case's load generator."""
    return compiled("pollload.c" if case.mode.startswith("poll") else "wsload.c", case.tls)


def compiled(name: str, tls: bool = False) -> str:
    """The path of what ``name`` compiles to, which is done when the source is newer."""
    source = HERE / name
    binary = BUILD / (source.stem + ("-tls" if tls else ""))
    changed = max(file.stat().st_mtime for file in (source, HERE / "load.h"))
    if binary.exists() and binary.stat().st_mtime > changed:
        return str(binary)
    if not shutil.which("cc"):
        raise Unmeasurable(f"no C compiler for {source.name}; install one (Debian: apt-get install gcc libc6-dev)")
    BUILD.mkdir(exist_ok=True)
    flags = ["-DWITH_TLS", str(source), "-lssl", "-lcrypto"] if tls else [str(source)]
    done = subprocess.run(["cc", "-O2", "-o", str(binary), *flags], capture_output=True, text=True)
    if done.returncode and tls:
        raise Unmeasurable(
            f"wsload with TLS doesn't compile; it needs OpenSSL's headers (Debian: apt-get install libssl-dev)"
            f": {done.stderr.strip().splitlines()[0][-120:]}"
        )
    if done.returncode:
        raise Unmeasurable(f"{source.name} doesn't compile: {done.stderr.strip()[-300:]}")
    return str(binary)


def certificate(folder: str) -> tuple[str, str]:
    """A self-signed certificate of one day and its key (ECDSA P-256), as two file names in ``folder``."""
    if not shutil.which("openssl"):
        raise Unmeasurable("no openssl command to make a certificate (Debian: apt-get install openssl)")
    cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", "req", "-x509", *kind, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


# ---- the loads ----


def measure(server: Server, case: Case, seconds: float, tls: tuple[str, str] | None) -> Row:
    """One run of ``case`` against a fresh ``server``: a row of figures, or a row with only ``error``."""
    load = {"wrk": http_load, "open": idle_load, "sioopen": idle_load}.get(case.mode, websocket_load)
    try:
        with serving(server, tls if case.tls else None) as running:
            try:
                return watched(load, running, case, seconds)
            except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
                said = running.complaint()
                return {"error": f"{error}"[:200] + (f" (server: {said})" if said else "")}
    except (RuntimeError, OSError) as error:
        return {"error": f"{error}"[:300]}


def watched(load: Callable[[Running, Case, float], Row], running: Running, case: Case, seconds: float) -> Row:
    """The load's figures, and ``others_cpu``: the cores that anything but it and the server used meanwhile."""
    bystanders, ours = Bystanders(), cpu_seconds(running.pids) + children_seconds()
    row = load(running, case, seconds)
    ours = cpu_seconds(running.pids) + children_seconds() - ours
    return row | {"others_cpu": round(bystanders.cores(ours), 3)}


def children_seconds() -> float:
    """The CPU that ended child processes have used: the loaders."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def floor(case: Case, seconds: float) -> Row:
    """What the kernel alone takes for `case`: a row of figures, or a row with only ``error``."""
    bystanders, ours = Bystanders(), children_seconds()
    command = [compiled("floor.c"), case.floor, str(case.conns), str(case.frame_bytes), str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": f"{error}"[:200]}
    if done.returncode:
        return {"error": f"floor: {done.stderr.strip()[-160:]}"}
    row: Row = json.loads(done.stdout)
    return row | {"others_cpu": round(bystanders.cores(children_seconds() - ours), 3)}


def arguments(running: Running, case: Case, seconds: float) -> list[str]:
    numbers = [case.conns, case.size, case.depth, seconds]
    return [loader(case), case.mode.removeprefix("poll"), "127.0.0.1", str(running.port), case.path, *map(str, numbers)]


def websocket_load(running: Running, case: Case, seconds: float) -> Row:
    """wsload counts and reads the server's CPU clock over the same time, after connecting and warming up."""
    env = os.environ | {"WSLOAD_PIDS": ",".join(map(str, running.pids))}
    command = arguments(running, case, seconds)
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=seconds + 60)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip()[-160:] or f"wsload ended with {done.returncode}")
    line = json.loads(done.stdout.splitlines()[0])
    if not line["counted"] or line["wrong"] or line["dead"]:
        raise RuntimeError(f"{line['counted']} messages, {line['wrong']} wrong, {line['dead']} connections lost")
    row: Row = {
        "rate": line.get("messages_per_s") or line["connections_per_s"],
        "cpu_us": line["server_cpu_s"] * 1e6 / line["counted"],
        "counted": line["counted"],
    }
    return row | {key: line[key] for key in ("p50_us", "p99_us", "loader_cpu") if key in line}


def idle_load(running: Running, case: Case, seconds: float) -> Row:
    """How much the server's memory grew with ``case.conns`` open connections, per connection.

    What the very first connections make a process load, for once, is no connection's: ten come and go before.
    """
    first = arguments(running, case, 1)
    first[5] = "10"
    subprocess.run(first, capture_output=True, check=True, timeout=30)
    time.sleep(SETTLE_S)
    before = pss_bytes(running.pids)
    hold_s = 3
    command = arguments(running, case, hold_s)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = json.loads(process.stdout.readline() or "{}")  # type: ignore[union-attr]  # a pipe was asked for
            time.sleep(hold_s / 2)
            grown = pss_bytes(running.pids) - before
            rest, complaint = process.communicate(timeout=hold_s + 30)
        finally:
            process.kill()
    if line.get("open") != case.conns or json.loads(rest)["dead"]:
        raise RuntimeError(f"{line.get('open', 0)} of {case.conns} connections stayed open: {complaint.strip()[-120:]}")
    return {"rate": line["opens_per_s"], "bytes_per_conn": grown / case.conns}


def http_load(running: Running, case: Case, seconds: float) -> Row:
    """wrk for whole seconds; the server's CPU from before it starts until after it ends, over all its requests."""
    url = f"http://127.0.0.1:{running.port}{case.path}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, b"x" if case.script else None, timeout=5) as answer:
        if len(body := answer.read()) not in (13, MIB):
            raise RuntimeError(f"{case.path}: expected a body of 13 bytes or 1 MiB, got {len(body)}")
    pids = running.pids
    before = cpu_seconds(pids)
    whole = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{case.conns}", f"-d{whole}s", url]
    if case.script:
        command[1:1] = ["-s", str(HERE / case.script)]
    env = os.environ | {"BODY_BYTES": str(case.size)}
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=whole + 30, env=env).stdout
    cpu = cpu_seconds(pids) - before
    words = {line.split(":")[0].strip(): line for line in text.splitlines()}
    if "Socket errors" in words or "Non-2xx or 3xx responses" in words:
        raise RuntimeError("wrk: " + (words.get("Socket errors") or words["Non-2xx or 3xx responses"]).strip())
    total = int(next(line for line in text.splitlines() if "requests in" in line).split()[0])
    return {"rate": float(words["Requests/sec"].split()[1]), "cpu_us": cpu * 1e6 / max(total, 1), "counted": total}
